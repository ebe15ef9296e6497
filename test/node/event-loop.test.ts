// How late a process says that it is: of the last ten seconds, and how much of it was its own doing.

import { expect, test } from 'vitest';
import { EventLoopDelay } from '../../node/event-loop.ts';
import type { Scheduled } from '../../node/schedule.ts';

class Times {
  time = 0;
  sums: Scheduled | null = { ran: 0, waited: 0 };
  work = 0;
  readonly now = () => this.time;
  readonly scheduled = () => this.sums;
  readonly busy = () => this.work;
  close(): void {}
}

function begin(times: Times) {
  const delay = new EventLoopDelay(times);
  // By hand alone.
  delay.stop();
  const pass = (milliseconds: number, waited = 0, ran = milliseconds - waited, busy = milliseconds) => {
    times.time += milliseconds;
    times.work += busy;
    if (times.sums !== null) times.sums = { ran: times.sums.ran + ran, waited: times.sums.waited + waited };
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

test('a process that stood still with its machine has done nothing, whatever it is said to have run', () => {
  const { delay, pass } = begin(new Times());
  pass(300, 20, 5);
  pass(300, 20, 100, 5);
  expect(delay.longest).toEqual({ milliseconds: 290, ownMilliseconds: 5 });
  // Whether it waited before its work or in the midst of it, is not known.
  pass(60, 20, 40);
  expect(delay.longest.ownMilliseconds).toBe(30);
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
  times.sums = null;
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
  const { milliseconds, ownMilliseconds } = delay.longest;
  expect(milliseconds).toBeGreaterThan(80);
  if (ownMilliseconds !== null) expect(ownMilliseconds).toBeGreaterThan(0);
  delay.stop();
});
