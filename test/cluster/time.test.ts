// The time of entries: it follows the majority's clocks, whoever leads, and never goes back.

import { describe, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import { openLog } from '../../cluster/log/index.ts';
import type { LogEntry } from '../../cluster/log/types.ts';
import { ClusterTime } from '../../cluster/peers/time.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';

const hour = 3_600_000;
const wallAtStart = 1_900_000_000_000;
const fresh = 5_000;

/** Ticks every 50 ms until `until`, with a wall clock that is off by `offset`. */
function run(time: ClusterTime, from: number, until: number, offset: number): void {
  for (let now = from; now <= until; now += 50) time.tick(now, wallAtStart + now + offset);
}

describe('the estimate of a node', () => {
  test('begins with its wall clock and goes on with its monotonic clock', () => {
    const time = new ClusterTime(100, wallAtStart + 100, fresh);
    expect(time.own(100)).toBe(wallAtStart + 100);
    expect(time.own(350)).toBe(wallAtStart + 350);
  });

  test('follows a wall clock that jumps by a twentieth of the time that passes, forwards and back', () => {
    for (const jump of [hour, -hour]) {
      const time = new ClusterTime(0, wallAtStart, fresh);
      run(time, 0, 1_000, 0);
      run(time, 1_050, 11_000, jump);
      expect(time.own(11_000) - (wallAtStart + 11_000)).toBeCloseTo(Math.sign(jump) * 500, 3);
    }
  });

  test('reaches a wall clock that is a little off, and stays with it', () => {
    const time = new ClusterTime(0, wallAtStart, fresh);
    run(time, 0, 10_000, 40);
    expect(time.own(10_000)).toBe(wallAtStart + 10_040);
  });

  test('never goes back, whatever the wall clock does', () => {
    const time = new ClusterTime(0, wallAtStart, fresh);
    let last = time.own(0);
    for (let now = 0; now < 20_000; now += 50) {
      time.tick(now, wallAtStart + now + (now % 700 === 0 ? -hour : now % 300 === 0 ? hour : 0));
      expect(time.own(now)).toBeGreaterThanOrEqual(last);
      last = time.own(now);
    }
  });

  test('a process that was paused takes one step, not a leap', () => {
    const time = new ClusterTime(0, wallAtStart, fresh);
    time.tick(0, wallAtStart);
    // Ten seconds of a suspended machine: the monotonic clock may have stood still.
    time.tick(50, wallAtStart + 10_050);
    expect(time.own(50)).toBeCloseTo(wallAtStart + 50 + 2.5, 3);
  });
});

describe('a stamp', () => {
  const three = (own: number, second: number, third: number) => {
    const time = new ClusterTime(0, wallAtStart + own, fresh);
    time.heard(2, wallAtStart + second, 0);
    time.heard(3, wallAtStart + third, 0);
    return time.stamp(1_000, 0) - (wallAtStart + 1_000);
  };

  test('is the middle of three clocks, whichever of them is wrong', () => {
    expect(three(hour, 3, 5)).toBe(5);
    expect(three(-hour, 3, 5)).toBe(3);
    expect(three(3, hour, 5)).toBe(5);
    expect(three(3, -hour, 5)).toBe(3);
  });

  test('is the lower of two clocks: nothing falls due too early', () => {
    const time = new ClusterTime(0, wallAtStart + hour, fresh);
    time.heard(2, wallAtStart + 7, 0);
    expect(time.stamp(0, 0)).toBe(wallAtStart + 7);
  });

  test('is a whole number of milliseconds, and never lower than the last', () => {
    const time = new ClusterTime(0, wallAtStart + 0.75, fresh);
    expect(time.stamp(0.5, 0)).toBe(wallAtStart + 1);
    expect(time.stamp(0.5, wallAtStart + hour)).toBe(wallAtStart + hour);
  });

  test('counts a peer only as long as it was heard lately, and again when it is back', () => {
    const time = new ClusterTime(0, wallAtStart, fresh);
    time.heard(2, wallAtStart - hour, 0);
    time.heard(3, wallAtStart - hour, 0);
    expect(time.stamp(0, 0)).toBe(wallAtStart - hour);
    run(time, 0, fresh + 50, 0);
    expect(time.stamp(fresh + 50, 0)).toBe(wallAtStart + fresh + 50);
    time.heard(2, wallAtStart + fresh - hour, fresh + 100);
    time.heard(3, wallAtStart + fresh - hour, fresh + 100);
    expect(time.stamp(fresh + 100, 0)).toBe(wallAtStart + fresh - hour);
  });
});

describe('three nodes, of which one has a wrong clock', () => {
  interface Step {
    readonly group: number;
    readonly upTo: number;
    readonly from: number;
    readonly until: number;
  }

  /** Declares queues through all nodes, some time apart, and tells which entries of the metadata were made when. */
  async function work(cluster: MemoryCluster, name: string): Promise<Step[]> {
    const steps: Step[] = [];
    for (let i = 0; i < 4; i++) {
      const from = cluster.clock.wall();
      const code = cluster.askForQueue(1 + (i % 3), `${name}-${i}`);
      expect(await cluster.until(() => code() !== undefined, 2_000)).toBe(true);
      const until = cluster.clock.wall();
      const { commit } = cluster.leaderOf(0)!.cluster.status().groups[0]!;
      steps.push({ group: 0, upTo: commit, from, until });
      await cluster.clock.run(400);
    }
    return steps;
  }

  /** The stamps in a node's log, by index; it runs no more. */
  async function stampsOf(cluster: MemoryCluster, node: number, group: number): Promise<Map<number, number>> {
    cluster.kill(node);
    const identity = { clusterId: 'c'.repeat(32), nodeUuid: `uuid-${node}`, ...defaultLimits.log };
    const { log, groups } = await settled(cluster, openLog(cluster.node(node).disk.mount(), cluster.clock, identity));
    const { entries } = groups.find((found) => found.group === group)!;
    const stamps = new Map<number, number>();
    const [first, last] = [entries[0]!.index, entries[entries.length - 1]!.index];
    const read = new Promise<readonly LogEntry[]>((resolve, reject) =>
      log.read(group, first, last, Number.MAX_SAFE_INTEGER, (error, found) => (error ? reject(error) : resolve(found))),
    );
    for (const entry of await settled(cluster, read))
      if (entry.kind === 'data') stamps.set(entry.index, entry.data.stamp);
    return stamps;
  }

  async function settled<T>(cluster: MemoryCluster, promise: Promise<T>): Promise<T> {
    let done = false;
    const finished = promise.finally(() => {
      done = true;
    });
    await cluster.until(() => done, 5_000);
    return finished;
  }

  for (const wrong of [1, 2, 3])
    for (const offset of [hour, -hour])
      test(`node ${wrong} an hour ${offset > 0 ? 'ahead' : 'behind'}, from the start and all of a sudden`, async () => {
        const cluster = new MemoryCluster(3, 60 + wrong);
        await cluster.start({ [wrong]: offset });
        expect(cluster.leaderOf(0)!.node).toBe(3);
        const steps = await work(cluster, 'a');
        for (const [name, jump] of [
          ['b', 0],
          ['c', -offset],
        ] as const) {
          cluster.node(wrong).wallOffset = jump;
          steps.push(...(await work(cluster, name)));
        }
        const stamps = await stampsOf(cluster, 1, 0);
        expect([...stamps.values()]).toEqual([...stamps.values()].sort((a, b) => a - b));
        let checked = 0;
        let after = steps[0]!.upTo - 1;
        for (const { upTo, from, until } of steps) {
          for (let index = after + 1; index <= upTo; index++) {
            const stamp = stamps.get(index);
            if (stamp === undefined) continue;
            checked++;
            expect(stamp).toBeGreaterThanOrEqual(from - 1_000);
            expect(stamp).toBeLessThanOrEqual(until + 1_000);
          }
          after = upTo;
        }
        expect(checked).toBeGreaterThanOrEqual(steps.length);
      });
});
