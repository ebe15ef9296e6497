// When a leader goes on with the work that one entry left to the next.

import { expect, test } from 'vitest';
import type { Group } from '../../cluster/group/group.ts';
import { LeaderBatches } from '../../cluster/leading/leader-batches.ts';
import { createMemoryClock } from '../support/memory-clock.ts';

const pauseMilliseconds = 5;

/** A group led here, whose machine did so much with its last entry and has more to do from `due` on. */
function led(state: { work: number; due: number }) {
  const clock = createMemoryClock();
  /** When each of its ticks was appended. */
  const ticks: number[] = [];
  const group = {
    id: 1,
    leads: true,
    raft: { term: 3, lastIndex: 10 },
    appliedIndex: 10,
    machine: state,
    stamp: () => 1_000,
    propose() {
      ticks.push(clock.now());
      return true;
    },
  };
  return { clock, ticks, group, batches: new LeaderBatches(clock, pauseMilliseconds) };
}
const asGroup = (group: object) => group as Group;

test('much of it goes on after a pause, once', () => {
  const { clock, ticks, group, batches } = led({ work: 8_192, due: 0 });
  batches.applied(asGroup(group));
  batches.applied(asGroup(group));
  clock.advance(pauseMilliseconds - 1);
  expect(ticks).toEqual([]);
  clock.advance(100);
  expect(ticks).toEqual([pauseMilliseconds]);
  batches.applied(asGroup(group));
  clock.advance(100);
  expect(ticks).toHaveLength(2);
});

test('little of it goes on at once', () => {
  const { ticks, group, batches } = led({ work: 100, due: 0 });
  batches.applied(asGroup(group));
  expect(ticks).toEqual([0]);
});

test('what falls due by the time waits for the timer', () => {
  const { clock, ticks, group, batches } = led({ work: 8_192, due: 900 });
  batches.applied(asGroup(group));
  clock.advance(100);
  expect(ticks).toEqual([]);
  batches.tickIfDue(asGroup(group));
  expect(ticks).toHaveLength(1);
});

test('nothing goes on where another entry brings the time along, or somebody else leads by then', () => {
  const { clock, ticks, group, batches } = led({ work: 8_192, due: 0 });
  batches.applied(asGroup(group));
  group.raft.lastIndex++;
  clock.advance(100);
  batches.applied(asGroup(group));
  group.raft.lastIndex--;
  group.leads = false;
  clock.advance(100);
  expect(ticks).toEqual([]);
});
