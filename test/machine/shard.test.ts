// The rules of the shard machine, one script each. A script sends batches and says what the session on node 1 hears, or what the queue
// looks like. `machine.validate()` runs after every entry.

import { describe, expect, it } from 'vitest';
import { BatchBuilder, ResultCode } from '../../cluster/machine/commands.ts';
import { storeBounds } from '../../cluster/machine/queue/store.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { type Command, consume, create, encode, metadataOrigin, nodeOrigin, Script, settle } from './shard-support.ts';

const me = nodeOrigin(1);
const other = nodeOrigin(2);
const publish = (...queues: number[]): Command => ({ kind: 'publish', queues, bytes: 10 });
const get = (consumer: number, queue: number, noAck = false): Command => ({ kind: 'get', consumer, queue, noAck });
const cancel = (consumer: number, returnLeases: boolean): Command => ({ kind: 'cancel', consumer, returnLeases });
const remove = (queue: number, ifUnused = false, ifEmpty = false): Command => ({
  kind: 'remove',
  queue,
  ifUnused,
  ifEmpty,
});

/** Queue 7 exists. */
function started(autoDelete = false): Script {
  const script = new Script();
  script.changes(7, create(7, 7, autoDelete));
  return script;
}

describe('publishing', () => {
  it('enqueues a message in each of its queues, once each, and stores it once', () => {
    const script = started();
    script.changes(8, create(8, 8));
    expect(script.send(me, [publish(7, 8), publish(7, 7, 99)])).toEqual(['applied 1']);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 2, unsettled: 0, consumers: 0, bytes: 20 });
    expect(script.machine.queueStatus(8)).toEqual({ uid: 8, ready: 1, unsettled: 0, consumers: 0, bytes: 10 });
    expect([...script.machine.liveEntries(1, 99)]).toEqual([3]);
  });

  it('answers noQueue only when none of the queues exists', () => {
    const script = started();
    expect(script.send(me, [publish(99), publish(99, 7)])).toEqual([
      `result 1/0: ${ResultCode.noQueue} 0 0`,
      'applied 1',
    ]);
  });

  it('hands a message to a waiting consumer within the same entry', () => {
    const script = started();
    expect(script.send(me, [consume(1, 7), publish(7)])).toEqual(['lease 1#1 = 2.1', 'applied 1']);
  });
});

describe('assignment', () => {
  it('goes round robin, highest priority first, and within the credit', () => {
    const script = started();
    const low = { priority: -1, grantedTo: 2 };
    script.send(me, [consume(1, 7, low), consume(2, 7, { unsettledMax: 2 }), consume(3, 7, { grantedTo: 3 })]);
    expect(script.publish(7, 8)).toEqual([
      'lease 2#1 = 3.0',
      'lease 3#1 = 3.1',
      'lease 2#2 = 3.2',
      'lease 3#2 = 3.3',
      'lease 3#3 = 3.4',
      'lease 1#1 = 3.5',
      'lease 1#2 = 3.6',
    ]);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 1, unsettled: 7, consumers: 3, bytes: 80 });
    // Settling gives credit back below `unsettledMax`; a grant gives more.
    expect(script.send(me, [], [settle('accept', 2, 1)])).toEqual(['lease 2#3 = 3.7', 'applied 2']);
    script.publish(7, 2);
    const credit: Command = { kind: 'credit', consumer: 1, unsettledMax: 0, grantedTo: 3 };
    expect(script.send(me, [credit])).toEqual(['lease 1#3 = 5.0', 'applied 3']);
    // A grant is never taken back.
    expect(script.send(me, [{ ...credit, grantedTo: 1 }])).toEqual(['applied 4']);
    const smaller: Command = { kind: 'credit', consumer: 2, unsettledMax: 1, grantedTo: 0 };
    expect(script.send(me, [smaller], [settle('accept', 2, 2)])).toEqual(['lease 2#4 = 5.1', 'applied 5']);
    script.publish(7, 1);
    expect(script.send(me, [], [settle('accept', 2, 3)])).toEqual(['applied 6']);
  });

  it('keeps to one consumer when it is exclusive', () => {
    const script = started();
    const refused = ResultCode.exclusive;
    script.send(other, [consume(1, 7)]);
    expect(script.send(me, [consume(1, 7, { exclusive: true })])).toEqual([`result 1/0: ${refused} 0 0`, 'applied 1']);
    script.send(other, [cancel(1, false)]);
    expect(script.send(me, [consume(1, 7, { exclusive: true }), consume(2, 7)])).toEqual([
      `result 2/1: ${refused} 0 0`,
      'applied 2',
    ]);
    script.roundTrip();
    expect(script.send(me, [consume(2, 7), cancel(1, false), consume(2, 7)])).toEqual([
      `result 3/0: ${refused} 0 0`,
      'applied 3',
    ]);
  });

  it('refuses consumers of unknown queues and numbers in use', () => {
    const script = started();
    expect(script.send(me, [consume(1, 99), consume(1, 7), consume(1, 7)])).toEqual([
      `result 1/0: ${ResultCode.noQueue} 0 0`,
      `result 1/2: ${ResultCode.refused} 0 0`,
      'applied 1',
    ]);
  });
});

describe('settling', () => {
  it('comes before the commands of its batch', () => {
    const script = started();
    script.send(me, [consume(1, 7, { unsettledMax: 1 })]);
    script.publish(7, 2);
    expect(script.send(me, [cancel(1, true)], [settle('accept', 1, 1)])).toEqual(['lease 1#2 = 3.1', 'applied 2']);
    expect(script.machine.queueStatus(7)?.ready).toBe(1);
    expect([...script.machine.liveEntries(1, 9)]).toEqual([3]);
  });

  it('keeps an entry live until the last queue has settled', () => {
    const script = started();
    script.changes(8, create(8, 8));
    script.send(me, [consume(1, 7), consume(2, 8), publish(7, 8)]);
    script.send(me, [], [settle('accept', 1, 1)]);
    expect(script.machine.hasLiveEntries(3, 3)).toBe(true);
    script.send(me, [], [settle('discard', 2, 1)]);
    expect(script.machine.hasLiveEntries(1, 9)).toBe(false);
  });

  it('ignores what is unknown or settled already', () => {
    const script = started();
    script.send(me, [consume(1, 7)]);
    script.publish(7, 3);
    script.send(
      me,
      [],
      [settle('accept', 1, 2), settle('requeue', 1, 2), settle('accept', 5, 1), settle('accept', 1, 4, 9)],
    );
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 0, unsettled: 2 });
    // A node settles only what its own consumers hold.
    script.send(other, [], [settle('accept', 1, 1)]);
    expect(script.machine.queueStatus(7)).toMatchObject({ unsettled: 2 });
    script.send(me, [], [settle('accept', 1, 0, 100_000)]);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 0, unsettled: 0, consumers: 1, bytes: 0 });
  });

  it('puts messages back to their places, before all that never went out', () => {
    const script = started();
    script.send(me, [consume(1, 7, { grantedTo: 5 })]);
    script.publish(7, 7);
    script.send(me, [], [settle('requeue', 1, 4), settle('requeue', 1, 2, 1, true), settle('release', 1, 3)]);
    const drained = script
      .send(me, [get(2, 7), get(2, 7), get(2, 7), get(2, 7)])
      .filter((line) => line.startsWith('lease'));
    expect(drained).toEqual([
      'lease 2#1 = 3.1 redelivered count 1',
      'lease 2#2 = 3.2',
      'lease 2#3 = 3.3 redelivered',
      'lease 2#4 = 3.5',
    ]);
  });

  it('hands requeued messages out in their order, however they came back within the batch', () => {
    const script = started();
    script.send(me, [consume(1, 7, { unsettledMax: 3 })]);
    script.publish(7, 4);
    expect(script.send(me, [], [settle('requeue', 1, 3), settle('requeue', 1, 1), settle('requeue', 1, 2)])).toEqual([
      'lease 1#4 = 3.0 redelivered',
      'lease 1#5 = 3.1 redelivered',
      'lease 1#6 = 3.2 redelivered',
      'applied 2',
    ]);
  });

  it('remembers failed deliveries over release, requeue and snapshots', () => {
    const script = started();
    script.send(me, [consume(1, 7, { unsettledMax: 1 })]);
    script.publish(7, 1);
    script.send(me, [], [settle('requeue', 1, 1, 1, true)]);
    script.roundTrip();
    expect(script.send(me, [], [settle('requeue', 1, 2, 1, true)])).toEqual([
      'lease 1#3 = 3.0 redelivered count 2',
      'applied 3',
    ]);
    expect(script.send(me, [], [settle('release', 1, 3)])).toEqual([
      'lease 1#4 = 3.0 redelivered count 2',
      'applied 4',
    ]);
    script.roundTrip();
    expect(script.send(me, [], [settle('requeue', 1, 4)])).toEqual([
      'lease 1#5 = 3.0 redelivered count 2',
      'applied 5',
    ]);
  });
});

describe('cancelling', () => {
  it('leaves leases out until they are settled', () => {
    const script = started();
    script.send(me, [consume(1, 7)]);
    script.publish(7, 2);
    script.send(me, [cancel(1, false)]);
    expect(script.publish(7, 1)).toEqual([]);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 1, unsettled: 2, consumers: 0, bytes: 30 });
    script.send(me, [], [settle('accept', 1, 1)]);
    expect(script.machine.hasConsumer({ node: 1, incarnation: 1 }, 1)).toBe(true);
    script.send(me, [], [settle('requeue', 1, 2)]);
    expect(script.machine.hasConsumer({ node: 1, incarnation: 1 }, 1)).toBe(false);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 2, unsettled: 0 });
  });

  it('returns leases as failed deliveries when asked, also after a cancel without', () => {
    const script = started();
    script.send(me, [consume(1, 7)]);
    script.publish(7, 2);
    script.send(me, [cancel(1, false)]);
    expect(script.send(me, [cancel(1, true), cancel(1, true), consume(2, 7)])).toEqual([
      'lease 2#1 = 3.0 redelivered count 1',
      'lease 2#2 = 3.1 redelivered count 1',
      'applied 3',
    ]);
  });

  it('removes an auto-delete queue with its last consumer, not before its first', () => {
    const script = started(true);
    script.publish(7, 2);
    script.send(me, [get(5, 7), cancel(5, true)]);
    expect(script.machine.pendingRemovals()).toEqual([]);
    script.send(other, [consume(1, 7)]);
    script.send(me, [consume(1, 7)]);
    script.send(me, [cancel(1, true)]);
    expect(script.machine.pendingRemovals()).toEqual([]);
    script.send(other, [cancel(1, false)]);
    expect(script.machine.pendingRemovals()).toEqual([7]);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 0, unsettled: 0, consumers: 0, bytes: 0 });
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
    const noQueue = (ordinal: number) => `result 4/${ordinal}: ${ResultCode.noQueue} 0 0`;
    const commands = [publish(7), consume(2, 7), get(3, 7), { kind: 'purge', queue: 7 }, remove(7)] as Command[];
    expect(script.send(me, commands)).toEqual([0, 1, 2, 3, 4].map(noQueue).concat('applied 4'));
    script.roundTrip();
    expect(script.machine.pendingRemovals()).toEqual([7]);
    script.changes(8, { kind: 'delete', version: 8, uid: 7 });
    expect(script.machine.pendingRemovals()).toEqual([]);
    expect(script.machine.queueStatus(7)).toBeUndefined();
  });

  it('removes an auto-delete queue when its last consumer is fenced', () => {
    const script = started(true);
    script.send(other, [consume(1, 7), consume(2, 7)]);
    script.publish(7, 3);
    script.changes(8, { kind: 'fence', version: 8, node: 2, incarnation: 1 });
    expect(script.machine.pendingRemovals()).toEqual([7]);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });
});

describe('get', () => {
  it('leases one message at a time, or answers empty', () => {
    const script = started();
    script.publish(7, 2);
    expect(script.send(me, [get(4, 7), get(4, 7), get(4, 7), get(4, 99)])).toEqual([
      'lease 4#1 = 2.0',
      `result 1/0: ${ResultCode.leased} 1 1`,
      'lease 4#2 = 2.1',
      `result 1/1: ${ResultCode.leased} 2 0`,
      `result 1/2: ${ResultCode.empty} 0 0`,
      `result 1/3: ${ResultCode.noQueue} 0 0`,
      'applied 1',
    ]);
    script.send(me, [], [settle('requeue', 4, 1), settle('accept', 4, 2)]);
    expect(script.send(me, [get(4, 7)])[0]).toBe('lease 4#3 = 2.0 redelivered');
    script.send(me, [cancel(4, false)]);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 0, unsettled: 1, consumers: 0, bytes: 10 });
    script.send(me, [cancel(4, true)]);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 1, unsettled: 0 });
  });

  it('settles at once without acknowledgements, and still tells the lease', () => {
    const script = started();
    script.publish(7, 1);
    expect(script.send(me, [get(4, 7, true)])).toEqual([
      'lease 4#1 = 2.0',
      `result 1/0: ${ResultCode.leased} 1 0`,
      'applied 1',
    ]);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 0, unsettled: 0, consumers: 0, bytes: 0 });
    expect(script.machine.hasLiveEntries(1, 9)).toBe(false);
  });

  it('refuses the number of a consumer, or of another queue', () => {
    const script = started();
    script.changes(8, create(8, 8));
    script.publish(7, 1);
    script.send(me, [get(4, 7), consume(5, 8)]);
    script.publish(8, 1);
    const refused = (ordinal: number) => `result 2/${ordinal}: ${ResultCode.refused} 0 0`;
    expect(script.send(me, [get(4, 8), get(5, 8), consume(4, 8)])).toEqual([
      refused(0),
      refused(1),
      refused(2),
      'applied 2',
    ]);
  });
});

describe('purge and remove', () => {
  it('purges what is ready, also what came back, not what is out', () => {
    const script = started();
    script.send(me, [consume(1, 7, { grantedTo: 3 })]);
    script.publish(7, 5);
    script.send(me, [], [settle('requeue', 1, 1)]);
    expect(script.send(me, [{ kind: 'purge', queue: 7 }])).toEqual([`result 3/0: ${ResultCode.ok} 3 0`, 'applied 3']);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 0, unsettled: 2, consumers: 1, bytes: 20 });
    script.send(me, [], [settle('accept', 1, 2, 2)]);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });

  it('works off a large purge in pieces', () => {
    const script = started();
    const batch = 10_000;
    for (let i = 0; i < 4; i++) script.publish(7, batch);
    expect(script.send(me, [{ kind: 'purge', queue: 7 }])).toEqual([`result 1/0: 0 ${4 * batch} 0`, 'applied 1']);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 0, unsettled: 0, consumers: 0, bytes: 0 });
    expect(script.machine.debt).toBe(4 * batch - storeBounds.debtPerEntryMax);
    script.roundTrip();
    expect([...script.machine.liveEntries(1, 99)]).toEqual([3, 4, 5]);
    script.publish(7, 1);
    script.publish(7, 1);
    expect(script.machine.debt).toBe(0);
    expect([...script.machine.liveEntries(1, 99)]).toEqual([7, 8]);
  });

  it('checks the conditions, then seals and tells the consumers', () => {
    const script = started();
    script.send(me, [consume(1, 7, { grantedTo: 1 }), get(9, 7)]);
    script.publish(7, 3);
    expect(script.send(me, [remove(7, true, false), remove(7, false, true), remove(7)])).toEqual([
      `result 2/0: ${ResultCode.inUse} 0 0`,
      `result 2/1: ${ResultCode.notEmpty} 0 0`,
      'cancelled 1',
      `result 2/2: ${ResultCode.ok} 2 0`,
      'applied 2',
    ]);
    expect(script.machine.pendingRemovals()).toEqual([7]);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
    // Settles and credit for a consumer that is gone, on their way when the queue went.
    const credit: Command = { kind: 'credit', consumer: 1, unsettledMax: 0, grantedTo: 5 };
    expect(script.send(me, [credit, cancel(1, true)], [settle('accept', 1, 1)])).toEqual(['applied 3']);
  });

  it('drops everything when the metadata deletes the queue', () => {
    const script = started();
    script.send(me, [consume(1, 7, { grantedTo: 1 })]);
    script.publish(7, 3);
    expect(script.changes(8, { kind: 'delete', version: 8, uid: 7 })).toEqual(['cancelled 1']);
    expect(script.machine.queueStatus(7)).toBeUndefined();
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
    expect(script.machine.hasConsumer({ node: 1, incarnation: 1 }, 1)).toBe(false);
  });
});

describe('fencing', () => {
  it('returns leases in order, as failed deliveries, and refuses later batches', () => {
    const script = started();
    script.send(other, [consume(1, 7, { unsettledMax: 2 }), consume(2, 7, { unsettledMax: 2 }), get(3, 7)]);
    script.publish(7, 6, 3);
    script.send(me, [consume(1, 7, { unsettledMax: 6 })]);
    script.sink.take();
    expect(script.changes(8, { kind: 'fence', version: 8, node: 2, incarnation: 1 })).toEqual([
      'lease 1#3 = 3.0 redelivered count 1',
      'lease 1#4 = 3.1 redelivered count 1',
      'lease 1#5 = 3.2 redelivered count 1',
      'lease 1#6 = 3.3 redelivered count 1',
    ]);
    expect(script.machine.isFenced({ node: 2, incarnation: 1 })).toBe(true);
    expect(script.machine.pipesOf(2)).toEqual([]);
    // The zombie wakes: neither its acknowledgement nor its publish counts.
    script.send(other, [publish(7)], [settle('accept', 1, 1)]);
    expect(script.machine.queueStatus(7)).toEqual({ uid: 7, ready: 0, unsettled: 6, consumers: 1, bytes: 60 });
  });

  it('is told to the watched pipe, once', () => {
    const script = started();
    script.send(me, [consume(1, 7)]);
    script.publish(7, 1);
    expect(script.changes(8, { kind: 'fence', version: 8, node: 1, incarnation: 1 })).toEqual(['fenced']);
    expect(script.changes(9, { kind: 'fence', version: 9, node: 1, incarnation: 3 })).toEqual([]);
    expect(script.send(me, [publish(7)])).toEqual([]);
    expect(script.resume()).toEqual([]);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 1, unsettled: 0, consumers: 0 });
    const again = new Script();
    again.index = script.index;
    again.machine.restore(Buffer.concat(drain(script.machine.snapshot())));
    expect(again.resume()).toEqual(['fenced']);
  });

  it('happens with the first batch of the next incarnation', () => {
    const script = started();
    script.send(me, [consume(1, 7, { unsettledMax: 1 })]);
    script.publish(7, 2);
    expect(script.send(nodeOrigin(1, 2), [consume(1, 7)])).toEqual(['fenced']);
    expect(script.machine.pipesOf(1)).toEqual([
      { incarnation: 2, lastSequence: 1, consumers: 1, leases: 2, results: 0 },
    ]);
    script.watch({ node: 1, incarnation: 2 });
    expect(script.resume()).toEqual(['lease 1#1 = 3.0 redelivered count 1', 'lease 1#2 = 3.1']);
  });
});

describe('changes', () => {
  it('apply once each, in order, and only from the metadata group', () => {
    const script = started();
    script.publish(7, 1);
    expect(script.machine.metadataVersion).toBe(7);
    // A repeat: create does not empty the queue, delete of an older version does not come back.
    script.changes(7, { kind: 'delete', version: 6, uid: 7 });
    script.changes(3, { kind: 'delete', version: 8, uid: 7 });
    script.changes(9, { kind: 'delete', version: 7, uid: 7 }, create(7, 7), create(9, 9));
    expect(script.machine.queueStatus(7)?.ready).toBe(1);
    expect([...script.machine.queues()].map((queue) => queue.uid)).toEqual([7, 9]);
    expect(script.machine.metadataVersion).toBe(9);
    const changes: Command = { kind: 'changes', version: 20, changes: [create(20, 20)] };
    expect(script.send(me, [changes])).toEqual([`result 1/0: ${ResultCode.refused} 0 0`, 'applied 1']);
    expect(script.machine.queueStatus(20)).toBeUndefined();
  });

  it('are refused as a whole when one of them is not understood', () => {
    const script = started();
    const before = script.machine.metadataVersion;
    const unknown = { kind: 'rename', version: 9, uid: 7 } as never;
    script.changes(9, create(8, 8), unknown);
    script.changes(9, { ...create(8, 8), uid: 2 ** 40 } as never);
    script.changes(9, null as never);
    expect(script.machine.metadataVersion).toBe(before);
    expect(script.machine.queueStatus(8)).toBeUndefined();
    script.changes(9, create(8, 8));
    expect(script.machine.queueStatus(8)).toBeDefined();
  });

  it('leave out arguments that are nested too deeply to be written down again', () => {
    const script = started();
    const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`;
    const text = JSON.stringify({ changes: [create(8, 8)] }).replace('"quorum"', `"quorum","deep":${deep}`);
    const builder = new BatchBuilder();
    builder.addChanges(8, text);
    script.applyPayload(builder.seal(metadataOrigin, 2, 0, 0));
    expect(script.machine.queueStatus(8)).toBeDefined();
    const bytes = Buffer.concat(drain(script.machine.snapshot()));
    expect(bytes.includes('{"x-queue-type":"quorum"}')).toBe(true);
    expect(bytes.includes('[[')).toBe(false);
  });
});

describe('input that makes no sense', () => {
  it('is counted and has no effect', () => {
    const script = started();
    const good = encode({
      origin: me,
      sequence: 1,
      acknowledged: 0,
      settles: [settle('accept', 1, 1)],
      commands: [publish(7), consume(1, 7)],
    });
    for (let at = 0; at < good.length; at++) {
      const bad = Buffer.from(good);
      bad[at] = bad[at]! ^ 0xff;
      script.applyPayload(bad);
    }
    for (let length = 0; length < good.length; length += 7) script.applyPayload(good.subarray(0, length));
    expect(script.machine.refusals.malformed).toBeGreaterThan(50);
  });

  it('from a group is limited to what groups do', () => {
    const script = started();
    const group = { kind: 2, id: 5, incarnation: 1 } as const;
    script.send(
      group,
      [publish(7), consume(1, 7), get(1, 7), cancel(1, true), { kind: 'metadata' }],
      [settle('accept', 1, 1)],
    );
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 0, consumers: 0 });
    expect(script.machine.refusals).toEqual({ malformed: 0, gaps: 0, ignored: 5 });
  });

  it('halts when it was applied before, or needs another machine', () => {
    const script = started();
    const payload = encode({ origin: me, sequence: 1, acknowledged: 0, settles: [], commands: [] });
    const entry = { index: 1, term: 1, stamp: 0, machineVersion: 1, payload };
    expect(() => script.machine.apply(entry)).toThrow('applied before');
    expect(() => script.machine.apply({ ...entry, index: 50, machineVersion: 2 })).toThrow('machine version 2');
  });
});

describe('reading the state again', () => {
  it('tells results until they are acknowledged, and leases from where the session is', () => {
    const script = started();
    script.send(me, [consume(2, 7, { unsettledMax: 4 }), consume(1, 99)]);
    script.publish(7, 6);
    script.send(me, [get(8, 7)], [settle('accept', 2, 2)]);
    const noQueue = `result 1/1: ${ResultCode.noQueue} 0 0`;
    const leased = `result 2/0: ${ResultCode.leased} 1 0`;
    const leases = ['lease 2#1 = 3.0', 'lease 2#3 = 3.2', 'lease 2#4 = 3.3', 'lease 2#5 = 3.4', 'lease 8#1 = 3.5'];
    expect(script.resume()).toEqual([noQueue, leased, ...leases]);
    script.roundTrip();
    expect(script.resume((consumer) => (consumer === 2 ? 4 : 2))).toEqual([
      noQueue,
      leased,
      'lease 2#4 = 3.3',
      'lease 2#5 = 3.4',
    ]);
    script.send(me, [], [], 1);
    expect(script.resume(() => 100)).toEqual([leased]);
    expect(script.machine.lastSequence({ node: 1, incarnation: 1 })).toBe(3);
  });

  it('applies a repeated batch once', () => {
    const script = started();
    const batch = { origin: me, sequence: 1, acknowledged: 0, settles: [], commands: [publish(7)] };
    script.applyPayload(encode(batch));
    script.applyPayload(encode(batch));
    script.applyPayload(encode({ ...batch, sequence: 3 }));
    expect(script.sink.take()).toEqual(['applied 1']);
    expect(script.machine.queueStatus(7)?.ready).toBe(1);
    expect(script.machine.refusals).toEqual({ malformed: 0, gaps: 1, ignored: 0 });
  });

  it('refuses snapshots that are not its own, and keeps its state', () => {
    const script = started();
    script.publish(7, 3);
    const bytes = Buffer.concat(drain(script.machine.snapshot()));
    const hash = script.machine.stateHash();
    const version = Buffer.from(bytes);
    version.writeUInt32LE(9, 4);
    expect(() => script.machine.restore(version)).toThrow('version 9');
    expect(() => script.machine.restore(bytes.subarray(0, bytes.length - 1))).toThrow('too early');
    expect(() => script.machine.restore(Buffer.concat([bytes, Buffer.alloc(1)]))).toThrow('longer');
    expect(() => script.machine.restore(Buffer.alloc(8))).toThrow('not a snapshot');
    expect(() => new ShardMachine(4).restore(bytes)).toThrow('shard 3');
    expect(script.machine.stateHash()).toBe(hash);
    expect(Buffer.concat(drain(script.machine.snapshot())).equals(bytes)).toBe(true);
  });
});

describe('many messages', () => {
  it('go out and return in bounded steps, in order, and not in quadratic time', () => {
    const script = started();
    const count = 100_000;
    for (let i = 0; i < 10; i++) script.publish(7, count / 10);
    const machine = script.machine;
    /** Ticks until no work is left. */
    const rest = () => {
      const heard: string[] = [];
      while (machine.due === 0) heard.push(...script.lead());
      return heard;
    };
    script.send(other, [consume(1, 7, { grantedTo: count })]);
    expect(machine.queueStatus(7)).toMatchObject({ unsettled: storeBounds.assignmentsPerEntryMax });
    rest();
    expect(machine.queueStatus(7)).toMatchObject({ ready: 0, unsettled: count });
    // From the last to the first, one by one: the worst order for a heap.
    const settles = Array.from({ length: count / 2 }, (_, i) => settle('requeue', 1, count - 2 * i));
    script.send(other, [], settles);
    script.changes(8, { kind: 'fence', version: 8, node: 2, incarnation: 1 });
    rest();
    expect(machine.queueStatus(7)).toMatchObject({ ready: count, unsettled: 0 });
    script.roundTrip();
    const heard = [...script.send(me, [consume(1, 7, { grantedTo: count })]), ...rest()];
    heard.splice(heard.indexOf('applied 1'), 1);
    const places = heard.map((line) => /#(\d+) = (\d+)\.(\d+)/.exec(line)!.slice(1).map(Number));
    const wrong = places.findIndex(([lease, entry, ordinal]) => (entry! - 2) * 10_000 + ordinal! + 1 !== lease);
    expect([heard.length, wrong]).toEqual([count, -1]);
  });
});
