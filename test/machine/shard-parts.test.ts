// Messages whose bodies come in parts, one script each.

import { describe, expect, it } from 'vitest';
import { ResultCode } from '../../cluster/machine/commands.ts';
import { LiveCounts } from '../../cluster/machine/queue/live.ts';
import { Parts, partsPerMessageMax } from '../../cluster/machine/queue/parts.ts';
import { type Command, consume, create, type FurtherCommand, nodeOrigin, Script, settle } from './shard-support.ts';

const me = nodeOrigin(1);
const part = (bytes: number, first = false): FurtherCommand => ({ kind: 'part', first, bytes });
const last = (...queues: number[]): FurtherCommand => ({ kind: 'last', queues, bytes: 5 });
const publish = (...queues: number[]): Command => ({ kind: 'publish', queues, bytes: 10 });
const refused = (sequence: number, ordinal: number) => `result ${sequence}/${ordinal}: ${ResultCode.refused} 0 0`;

/** Queues 7 and 8 exist, since entry 1. */
function started(): Script {
  const script = new Script();
  script.changes(8, create(7, 7), create(8, 8));
  return script;
}

describe('a message in parts', () => {
  it('is enqueued by its last one, and is alive with all of them until every queue has let go', () => {
    const script = started();
    expect(script.send(me, [publish(8), part(100, true), part(50)])).toEqual(['applied 1']);
    script.roundTrip();
    expect(script.send(me, [part(20), last(7, 8)])).toEqual(['applied 2']);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 1, bytes: 175 });
    expect(script.machine.partsOf(3, 1)).toEqual([
      { index: 2, ordinal: 1 },
      { index: 2, ordinal: 2 },
      { index: 3, ordinal: 0 },
    ]);
    expect(script.machine.partsOf(3, 0)).toEqual([]);
    script.send(me, [consume(1, 7), { kind: 'purge', queue: 8 }]);
    expect([...script.machine.liveEntries(1, 99)]).toEqual([2, 3]);
    script.roundTrip();
    script.send(me, [], [settle('requeue', 1, 1)]);
    script.send(me, [], [settle('accept', 1, 2)]);
    expect([...script.machine.liveEntries(1, 99)]).toEqual([]);
    expect(script.machine.partsOf(3, 1)).toEqual([]);
  });

  it('is refused without its parts, and what is left of another one is dropped', () => {
    const script = started();
    expect(script.send(me, [last(7), part(10), last(7)])).toEqual([refused(1, 0), refused(1, 2), 'applied 1']);
    expect(script.send(me, [part(10, true), part(10), part(1, true), last(7)])).toEqual(['applied 2']);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 1, bytes: 6 });
    expect(script.machine.partsOf(3, 3)).toEqual([{ index: 3, ordinal: 2 }]);
    // Another pipe's parts are not its own.
    script.send(nodeOrigin(2), [part(10, true)]);
    expect(script.send(me, [last(7)])).toEqual([refused(3, 0), 'applied 3']);
    expect([...script.machine.liveEntries(1, 99)]).toEqual([3, 4]);
  });

  it('goes with its pipe while it is not whole', () => {
    const script = started();
    script.send(nodeOrigin(2), [part(10, true), part(10)]);
    script.send(nodeOrigin(3), [part(10, true)]);
    expect([...script.machine.liveEntries(1, 99)]).toEqual([2, 3]);
    script.changes(9, { kind: 'fence', version: 9, node: 2, incarnation: 1 });
    expect([...script.machine.liveEntries(1, 99)]).toEqual([3]);
    script.send(nodeOrigin(3, 2), []);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });

  it('leaves nothing when no queue takes it, and goes with its queue', () => {
    const script = started();
    const noQueue = `result 1/1: ${ResultCode.noQueue} 0 0`;
    expect(script.send(me, [part(10, true), last(99)])).toEqual([noQueue, 'applied 1']);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
    script.send(me, [part(10, true), last(7, 7)]);
    expect([...script.machine.liveEntries(1, 99)]).toEqual([3]);
    script.changes(9, { kind: 'delete', version: 9, uid: 7 });
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });

  it('has a bound, and is refused beyond it', () => {
    const live = new LiveCounts();
    const parts = new Parts(live);
    for (let i = 0; i < partsPerMessageMax; i++) parts.add(1, i === 0, 1, i, 1);
    expect(parts.join(1, 2, 0)).toBe(partsPerMessageMax);
    parts.release(2, 0);
    for (let i = 0; i <= partsPerMessageMax + 3; i++) parts.add(1, i === 0, 1, i, 1);
    expect(parts.join(1, 2, 0)).toBe(-1);
    expect(live.has(1, 2)).toBe(false);
    expect(parts.isEmpty).toBe(true);
  });
});
