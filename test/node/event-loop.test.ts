// How late a process says that it is: of the last ten seconds, and how much of it was its own doing.

import { expect, test } from 'vitest';
import { EventLoopDelay } from '../../node/event-loop.ts';

class Times {
  time = 0;
  wait: number | null = 0;
  readonly now = () => this.time;
  readonly waited = () => this.wait;
  close(): void {}
}

function begin(times: Times) {
  const delay = new EventLoopDelay(times);
  // By hand alone.
  delay.stop();
  const pass = (milliseconds: number, waited = 0) => {
    times.time += milliseconds;
    if (times.wait !== null) times.wait += waited;
    delay.sample();
  };
  return { delay, pass };
}

test('the longest delay is told, and what of it the process had to wait for a processor', () => {
  const { delay, pass } = begin(new Times());
  pass(10);
  expect(delay.longest).toEqual({ milliseconds: 0, ownMilliseconds: 0 });
  pass(60, 45);
  pass(22, 2);
  expect(delay.longest).toEqual({ milliseconds: 50, ownMilliseconds: 10 });
});

test('it is forgotten after ten seconds', () => {
  const { delay, pass } = begin(new Times());
  pass(60);
  for (let i = 0; i < 880; i++) pass(10);
  expect(delay.longest.milliseconds).toBe(50);
  for (let i = 0; i < 220; i++) pass(10);
  expect(delay.longest.milliseconds).toBe(0);
});

test('where the system does not tell of processors, only the delay is known', () => {
  const times = new Times();
  times.wait = null;
  const { delay, pass } = begin(times);
  pass(60);
  expect(delay.longest).toEqual({ milliseconds: 50, ownMilliseconds: null });
});

test('a process that stands still is late', async () => {
  const delay = new EventLoopDelay();
  await new Promise((resolve) => setTimeout(resolve, 30));
  const until = performance.now() + 100;
  while (performance.now() < until);
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(delay.longest.milliseconds).toBeGreaterThan(80);
  delay.stop();
});
