// Learners are sent what they lack at a pace that leaves room for others, and always faster than their group writes.

import { describe, expect, test } from 'vitest';
import { Pace } from '../../cluster/peers/pace.ts';

const second = 20;

function setting() {
  let written = 0;
  const pace = new Pace({ bytesPerSecond: 1_000, tickMilliseconds: 50, writtenBytes: () => written });
  let sent = 0;
  /** Sends pieces of so many bytes, one after the other, until it has to wait. */
  const flow = (group: number, node: number, bytes: number) => {
    const next = () =>
      pace.run(group, node, () => {
        sent += bytes;
        if (sent < 1_000_000) next();
        return bytes;
      });
    next();
  };
  const ticks = (count: number) => {
    for (let i = 0; i < count; i++) pace.tick();
  };
  return { pace, flow, ticks, sent: () => sent, write: (bytes: number) => (written += bytes) };
}

describe('the pace of learners', () => {
  test('whoever is no learner is not held back', () => {
    const { pace, flow, sent } = setting();
    pace.set(1, [4]);
    flow(1, 3, 100_000);
    flow(2, 4, 100_000);
    expect(sent()).toBe(1_100_000);
    expect([pace.isPaced(1, 4), pace.isPaced(1, 3), pace.isPaced(2, 4)]).toEqual([true, false, false]);
  });

  test('a learner gets so many bytes in a second, and what its group writes besides', () => {
    const { pace, flow, ticks, sent, write } = setting();
    pace.set(1, [4]);
    flow(1, 4, 10);
    ticks(10 * second);
    expect(sent()).toBeGreaterThan(9_000);
    expect(sent()).toBeLessThan(12_000);
    const before = sent();
    for (let i = 0; i < 10 * second; i++) {
      write(500);
      ticks(1);
    }
    expect(sent() - before).toBeGreaterThan(105_000);
    expect(sent() - before).toBeLessThan(115_000);
  });

  test('a large piece is paid off before the next; idle time is not saved up', () => {
    const { pace, ticks } = setting();
    const sent: string[] = [];
    const send = (name: string, bytes: number) =>
      pace.run(1, 4, () => {
        sent.push(name);
        return bytes;
      });
    pace.set(1, [4]);
    ticks(100 * second);
    send('large', 1_000);
    send('next', 10);
    send('last', 10);
    ticks(second - 1);
    expect(sent).toEqual(['large']);
    ticks(2);
    expect(sent).toEqual(['large', 'next', 'last']);
  });

  test('what waits leaves at once, in order, when the learner is one no more', () => {
    const { pace } = setting();
    const sent: number[] = [];
    pace.set(1, [4]);
    for (let i = 0; i < 5; i++)
      pace.run(1, 4, () => {
        sent.push(i);
        return 1_000;
      });
    pace.spent(1, 4, 5);
    expect(sent).toEqual([0]);
    pace.set(1, []);
    expect(sent).toEqual([0, 1, 2, 3, 4]);
    expect(pace.isPaced(1, 4)).toBe(false);
  });
});
