// Work that one entry may not do at once: leases of a consumer that goes, what a purge or a deletion drops, a backlog for a new consumer.
// The bounds are small here, so that a thousand messages are many.

import { describe, expect, it } from 'vitest';
import { ResultCode } from '../../cluster/machine/commands.ts';
import { type StoreBounds, storeBounds, thirdStoreBounds } from '../../cluster/machine/queue/store.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { type Command, consume, create, nodeOrigin, Script, settle } from './shard-support.ts';

const me = nodeOrigin(1);
const other = nodeOrigin(2);
const few = { debtPerEntryMax: 100, returnsPerEntryMax: 100, assignmentsPerEntryMax: 100 };
const bounds: StoreBounds = { ...storeBounds, ...few };
const purge: Command = { kind: 'purge', queue: 7 };
const remove: Command = { kind: 'remove', queue: 7, ifUnused: false, ifEmpty: false };
const cancel = (consumer: number, returnLeases = true): Command => ({ kind: 'cancel', consumer, returnLeases });
const get = (consumer: number): Command => ({ kind: 'get', consumer, queue: 7, noAck: false });

/** Queue 7 exists and has messages, 100 to an entry from entry 2 on; all of them are leased to consumer 1 of node 2. */
function leased(messages: number): Script {
  const script = new Script(undefined, bounds);
  script.changes(7, create(7, 7));
  for (let i = 0; i < messages; i += 100) script.publish(7, 100, 3);
  script.send(other, [consume(1, 7)]);
  ticks(script);
  expect(script.machine.queueStatus(7)).toMatchObject({ ready: 0, unsettled: messages });
  return script;
}

/** Ticks until no work is left. Returns how many it took; what was heard stays in `heard`. */
function ticks(script: Script, heard: string[] = [], each: () => void = () => {}): number {
  let count = 0;
  for (; script.machine.due === 0; count++) {
    each();
    heard.push(...script.lead());
  }
  return count;
}

const messages = (lines: readonly string[]): string[] => lines.map((line) => /= (\S+)/.exec(line)?.[1] ?? line);

/** The messages of `leased`, in their order. */
const inOrder = (count: number): string[] =>
  Array.from({ length: count }, (_, i) => `${2 + Math.floor(i / 100)}.${i % 100}`);

describe('a consumer that goes with many leases', () => {
  const fence = (script: Script) => script.changes(8, { kind: 'fence', version: 8, node: 2, incarnation: 1 });

  it('returns them in steps; until the last is back nothing is handed out, and then in order', () => {
    const script = leased(1000);
    script.send(me, [consume(1, 7)]);
    expect(fence(script)).toEqual([]);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 100, unsettled: 900, consumers: 1 });
    const late = script.publish(7, 50, 3);
    const heard: string[] = [];
    const count = ticks(script, heard, () => {
      const { ready, unsettled, bytes } = script.machine.queueStatus(7)!;
      expect([ready + unsettled, bytes]).toEqual([1050, 10_500]);
    });
    expect(late).toEqual([]);
    // The fence itself returned a hundred, and so did the publish; the last tick of the eight hands out the first hundred of 1050.
    expect(count).toBe(8 + 10);
    expect(messages(heard).slice(0, 1000)).toEqual(inOrder(1000));
    expect(heard[0]).toBe('lease 1#1 = 2.0 redelivered count 1');
    expect(heard.at(-1)).toMatch(/^lease 1#1050 = \d+\.49$/);
  });

  it('tells what each entry did of it', () => {
    const script = leased(1000);
    expect(script.machine.work).toBe(100);
    script.send(me, []);
    expect(script.machine.work).toBe(0);
    fence(script);
    const works = [script.machine.work];
    while (script.machine.due === 0) {
      script.lead();
      works.push(script.machine.work);
    }
    expect(works).toEqual(Array.from({ length: 10 }, () => 100));
  });

  it('is gone at once: its number is free, and nobody settles what it had', () => {
    const script = leased(1000);
    expect(script.send(other, [cancel(1), consume(1, 7, { grantedTo: 2 })])).toEqual([]);
    script.send(other, [], [settle('accept', 1, 1, 500)]);
    expect(script.machine.hasConsumer({ node: 2, incarnation: 1 }, 1)).toBe(true);
    ticks(script);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 998, unsettled: 2, consumers: 1, bytes: 10_000 });
    const { machine } = script;
    expect(machine.pipesOf(2)).toMatchObject([{ consumers: 1, leases: 2 }]);
  });

  it('leaves nothing to get meanwhile', () => {
    const script = leased(300);
    script.send(other, [cancel(1)]);
    expect(script.machine.queueStatus(7)?.ready).toBe(100);
    expect(script.send(me, [get(4)])).toEqual([`result 1/0: ${ResultCode.empty} 0 0`, 'applied 1']);
    ticks(script);
    expect(script.send(me, [get(4)])).toEqual([
      'lease 4#1 = 2.0 redelivered count 1',
      `result 2/0: ${ResultCode.leased} 1 299`,
      'applied 2',
    ]);
  });

  it('shares what an entry may return with the others that go', () => {
    const script = leased(100);
    for (let number = 2; number <= 9; number++) {
      script.send(other, [consume(number, 7, { grantedTo: 30 })]);
      script.publish(7, 30, 3);
    }
    expect(fence(script)).toEqual([]);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 100, unsettled: 240, consumers: 0 });
    const bytes = Buffer.concat(drain(script.machine.snapshot()));
    expect(ticks(script)).toBe(3);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 340, unsettled: 0 });
    // A replica that joins in the middle does the same.
    const joined = new Script(undefined, bounds);
    joined.index = script.index - 3;
    joined.machine.restore(bytes);
    for (const step of [2, 1, 0]) {
      expect(joined.machine.queueStatus(7)?.unsettled).toBe(Math.max(0, 40 + 100 * step));
      joined.machine.apply({ index: ++joined.index, term: 1, stamp: 0, machineVersion: 1, payload: Buffer.alloc(0) });
    }
    expect(joined.machine.queueStatus(7)).toEqual(script.machine.queueStatus(7));
  });

  it('takes them along when its queue goes', () => {
    const script = leased(1000);
    script.send(other, [cancel(1)]);
    expect(script.send(me, [remove])).toEqual([`result 1/0: ${ResultCode.ok} 100 0`, 'applied 1']);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 0, unsettled: 0, bytes: 0 });
    expect([...script.machine.liveEntries(1, 99)]).toHaveLength(9);
    script.changes(8, { kind: 'delete', version: 8, uid: 7 });
    expect(ticks(script)).toBeLessThanOrEqual(9);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });
});

describe('what is dropped at once', () => {
  it('with a queue stays live until it was worked off, leases too', () => {
    const script = leased(1000);
    expect(script.changes(8, { kind: 'delete', version: 8, uid: 7 })).toEqual([]);
    expect(script.machine.queueStatus(7)).toBeUndefined();
    expect(script.machine.debt).toBe(900);
    script.roundTrip();
    expect([...script.machine.liveEntries(1, 99)]).toEqual([3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect(ticks(script)).toBe(9);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
    expect(script.machine.due).toBe(Number.POSITIVE_INFINITY);
  });

  it('by a purge goes in the order of the drops, whatever held it', () => {
    const script = leased(300);
    script.send(other, [], [settle('requeue', 1, 1, 300)]);
    const again = script.send(other, [cancel(1)]);
    ticks(script);
    script.publish(7, 100, 3);
    expect(again).toEqual([]);
    expect(script.send(me, [purge])).toEqual([`result 1/0: ${ResultCode.ok} 400 0`, 'applied 1']);
    const last = script.index - 1;
    expect([...script.machine.liveEntries(1, 99)]).toEqual([3, 4, last]);
    script.lead();
    expect([...script.machine.liveEntries(1, 99)]).toEqual([4, last]);
    expect(ticks(script)).toBe(2);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });
});

describe('a backlog for new consumers', () => {
  it('is handed out in steps, queue after queue, and new messages wait behind it', () => {
    const script = new Script(undefined, bounds);
    script.changes(8, create(7, 7), create(8, 8));
    for (let i = 0; i < 250; i += 50) {
      script.publish(7, 50);
      script.publish(8, 50);
    }
    const heard = script.send(me, [consume(1, 7), consume(2, 8)]).filter((line) => line.startsWith('lease'));
    heard.push(...script.publish(7, 10));
    script.roundTrip();
    ticks(script, heard);
    for (const [consumer, count] of [
      [1, 260],
      [2, 250],
    ]) {
      const own = heard.filter((line) => line.startsWith(`lease ${consumer}#`));
      expect(own).toHaveLength(count!);
      const places = own.map((line) => /#(\d+) = (\d+)\.(\d+)$/.exec(line)!.slice(1).map(Number));
      const wrong = places.findIndex(([lease, entry, ordinal], i) => {
        const before = places[i - 1];
        return lease !== i + 1 || (before !== undefined && entry! * 100 + ordinal! <= before[1]! * 100 + before[2]!);
      });
      expect(wrong).toBe(-1);
    }
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 0, unsettled: 260 });
  });
});

describe('entries that follow each other closely', () => {
  const shared: StoreBounds = { ...thirdStoreBounds, ...few, duePerEntryMax: 100, workPerMillisecond: 10 };

  function started(): Script {
    const script = new Script(undefined, shared);
    script.stamp = 1_000;
    script.changes(7, create(7, 7));
    return script;
  }

  /** What the entries at these stamps work off, each. A replica that joins in the middle does the same. */
  function works(script: Script, stamps: readonly number[]): number[] {
    return stamps.map((stamp, i) => {
      if (i === 2) script.roundTrip();
      script.tick(stamp);
      return script.machine.work;
    });
  }
  const stamps = [2_000, 2_000, 2_001, 2_006, 2_020, 2_019, 2_020];
  const expected = [100, 10, 10, 50, 100, 10, 10];

  it('share what there is to be dropped', () => {
    const script = started();
    for (let i = 0; i < 10; i++) script.publish(7, 100, 3);
    script.send(me, [purge]);
    expect(script.machine.debt).toBe(990);
    expect(works(script, stamps)).toEqual(expected);
    expect(script.machine.debt).toBe(990 - 290);
  });

  it('share what returns', () => {
    const script = started();
    for (let i = 0; i < 10; i++) script.publish(7, 100, 3);
    script.send(other, [consume(1, 7)]);
    ticks(script);
    script.send(other, [cancel(1)]);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 10, unsettled: 990 });
    expect(works(script, stamps)).toEqual(expected);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 300, unsettled: 700 });
  });

  it('share what expires', () => {
    const script = new Script(undefined, shared);
    script.stamp = 1_000;
    script.changes(7, create(7, 7, false, { 'x-message-ttl': 100 }));
    for (let i = 0; i < 10; i++) script.publish(7, 100, 3);
    // The queue is looked at with each entry, which counts as well.
    expect(works(script, stamps)).toEqual(expected);
    expect(script.machine.queueStatus(7)?.ready).toBe(1_000 - 290 + stamps.length);
  });

  it('hand out as much as others', () => {
    const script = started();
    for (let i = 0; i < 10; i++) script.publish(7, 100, 3);
    script.send(other, [consume(1, 7)]);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 900, unsettled: 100 });
    script.lead();
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 800, unsettled: 200 });
  });
});
