// How long processes waited for a processor, put down to the time in which they waited; and when it is known who leads what.

import { describe, expect, test } from 'vitest';
import { type ClusterView, followersAtRest } from '../../chaos/ask.ts';
import { ProcessorWaits } from '../../chaos/processors.ts';
import { machinesPartOf } from '../../chaos/report/words.ts';
import { resultOf } from '../../chaos/view/words.ts';
import { madeUpScenario } from './made-up-report.ts';

/** Processes whose sums are told by the test. */
function world() {
  const sums = new Map<number, number>();
  const time = { now: 0 };
  const host = { stolen: Number.NaN };
  const waits = new ProcessorWaits(
    () => [...sums.keys()],
    () => time.now,
    (pid) => sums.get(pid) ?? null,
    () => host.stolen,
  );
  const look = (at: number, more: Readonly<Record<number, number>> = {}) => {
    time.now = at;
    for (const [pid, milliseconds] of Object.entries(more))
      sums.set(Number(pid), (sums.get(Number(pid)) ?? 0) + milliseconds);
    waits.look();
  };
  return { waits, look, sums, host };
}

describe('the wait for a processor', () => {
  test('is that of whoever waited longest in that time, and no longer than it', () => {
    const { waits, look } = world();
    look(0, { 7: 5000, 8: 100 });
    look(20, { 7: 10 });
    look(40, { 7: 15, 8: 12 });
    look(60, { 8: 18 });
    expect(waits.within(0, 60)).toBe(30);
    expect(waits.within(0, 35)).toBe(25);
    expect(waits.within(50, 60)).toBe(10);
    look(500);
    expect(waits.within(100, 500)).toBe(0);
  });

  test('is told when it is over, and may have begun long before the last look', () => {
    const { waits, look } = world();
    look(0, { 7: 0 });
    look(20);
    look(900, { 7: 800 });
    expect(waits.within(300, 400)).toBe(100);
    expect(waits.within(0, 90)).toBe(0);
  });

  test('is not known where nobody tells, and a process that is gone has none', () => {
    const { waits, look, sums } = world();
    expect(waits.within(0, 10)).toBe(null);
    look(0);
    expect(waits.within(0, 10)).toBe(null);
    look(10, { 7: 3 });
    sums.delete(7);
    sums.set(8, 400);
    look(20);
    expect(waits.within(0, 20)).toBe(0);
  });

  test('of this very process is read where the system tells it', () => {
    const waits = new ProcessorWaits(
      () => [process.pid],
      () => performance.now(),
    );
    waits.look();
    waits.look();
    const told = waits.within(0, performance.now());
    const stolen = waits.stolenWithin(0, performance.now());
    for (const figure of [told, stolen])
      if (process.platform === 'linux') expect(figure).toBeGreaterThanOrEqual(0);
      else expect(figure).toBe(null);
  });

  test('has beside it what the host took in that time, where the system tells it', () => {
    const { waits, look, host } = world();
    look(0);
    expect(waits.stolenWithin(0, 100)).toBe(null);
    host.stolen = 7_000;
    look(20);
    host.stolen += 30;
    look(40);
    host.stolen += 20;
    look(60);
    expect([waits.stolenWithin(0, 100), waits.stolenWithin(50, 100), waits.stolenWithin(0, 20)]).toEqual([50, 20, 0]);
    look(70_000);
    expect(waits.stolenWithin(0, 100)).toBe(0);
  });

  test('stands beside the stall that it is a part of, if it is any', () => {
    const scenario = (processorWaitMilliseconds: number | null, stolenMilliseconds: number | null = null) =>
      madeUpScenario('kill-one', 5, { longestStallMilliseconds: 192, processorWaitMilliseconds, stolenMilliseconds });
    expect(resultOf(scenario(150))).toContain('longest stall 192 ms (goal 300 ms, 150 ms of it without a processor)');
    expect(resultOf(scenario(3))).toContain('longest stall 192 ms (goal 300 ms)');
    expect([machinesPartOf(scenario(null)), machinesPartOf(scenario(9, 9))]).toEqual(['', '']);
    expect(machinesPartOf(scenario(38, 90))).toBe(
      "38 ms of it without a processor, 90 ms of processors taken by the machine's host",
    );
  });
});

function viewOf(leaders: Readonly<Record<string, number>>): ClusterView {
  const groups = Object.entries(leaders).map(([name, leader]) => ({ name, leader, term: 1 }));
  return { node: 1, ready: true, nodes: [], groups };
}

describe('followers', () => {
  test('are all but the leader of the metadata, as soon as leaders change no more', async () => {
    let looks = 0;
    // The first to start leads all, and hands over; for a moment nobody leads.
    const ask = async () => {
      looks++;
      if (looks <= 2) return [];
      if (looks <= 4) return [viewOf({ meta: 1, 'shard-1': 1 })];
      return [viewOf(looks <= 6 ? { meta: 1, 'shard-1': 0 } : { meta: 2, 'shard-1': 1 })];
    };
    expect(await followersAtRest([1, 2, 3], ask, 30_000)).toEqual([1, 3]);
    expect(looks).toBeGreaterThan(10);
  });

  test('are told in the end although leaders go on changing', async () => {
    let looks = 0;
    const ask = async () => [viewOf({ meta: 3, 'shard-1': 1 + (looks++ % 3) })];
    expect(await followersAtRest([1, 2, 3], ask, 500)).toEqual([1, 2]);
  });
});
