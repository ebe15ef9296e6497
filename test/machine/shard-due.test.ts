// What time does to queues and messages, one script each: expiry of messages and of queues, ticks, bounded steps, suspicion of nodes.

import { describe, expect, it } from 'vitest';
import { ResultCode } from '../../cluster/machine/commands.ts';
import type { Arguments } from '../../cluster/machine/metadata-types.ts';
import { Stamps } from '../../cluster/machine/queue/due.ts';
import { storeBounds } from '../../cluster/machine/queue/store.ts';
import { type Command, consume, create, nodeOrigin, Script, settle } from './shard-support.ts';

const me = nodeOrigin(1);
const never = Number.POSITIVE_INFINITY;
const get = (consumer: number, queue: number): Command => ({ kind: 'get', consumer, queue, noAck: false });

/** Few enough for a script. */
const bounds = { ...storeBounds, debtPerEntryMax: 20, duePerEntryMax: 20 };

/** Queue 7 exists, with these arguments, since stamp 1000. */
function started(further: Arguments): Script {
  const script = new Script({ node: 1, incarnation: 1 }, bounds);
  script.stamp = 1000;
  script.changes(7, create(7, 7, false, further));
  return script;
}

describe('messages of a queue with x-message-ttl', () => {
  it('expire when their time has come, the oldest first, and not before', () => {
    const script = started({ 'x-message-ttl': 100 });
    expect(script.machine.due).toBe(never);
    script.publish(7, 2);
    script.stamp = 1050;
    script.publish(7, 1);
    expect(script.machine.due).toBe(1100);
    script.tick(1099);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 3, bytes: 30 });
    script.roundTrip();
    script.tick(1100);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 1, bytes: 10 });
    expect(script.machine.due).toBe(1150);
    expect([...script.machine.liveEntries(1, 99)]).toEqual([3]);
    script.tick(1150);
    expect(script.machine.due).toBe(never);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });

  it('are never handed out after their time, also not when they come back', () => {
    const script = started({ 'x-message-ttl': 100 });
    script.publish(7, 3);
    script.stamp = 1050;
    script.send(me, [consume(1, 7, { grantedTo: 2 })]);
    script.stamp = 1100;
    // One returns on time, by its entry's stamp; the batch itself comes too late.
    expect(script.send(me, [consume(2, 7)], [settle('requeue', 1, 1)])).toEqual(['applied 2']);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 0, unsettled: 1, bytes: 10 });
    expect(script.send(me, [], [settle('accept', 1, 2)])).toEqual(['applied 3']);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });

  it('come back to those that wait as long as they have time', () => {
    const script = started({ 'x-message-ttl': 100 });
    script.publish(7, 1);
    script.send(me, [consume(1, 7, { unsettledMax: 1 })]);
    script.stamp = 1099;
    expect(script.send(me, [], [settle('requeue', 1, 1)])).toEqual(['lease 1#2 = 2.0 redelivered', 'applied 2']);
    script.roundTrip();
    script.stamp = 1200;
    expect(script.send(me, [], [settle('requeue', 1, 2)])).toEqual(['applied 3']);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 0, unsettled: 0 });
  });

  it('are not there for a get', () => {
    const script = started({ 'x-message-ttl': 100 });
    script.publish(7, 1);
    script.stamp = 1099;
    expect(script.send(me, [get(1, 7)])[1]).toBe(`result 1/0: ${ResultCode.leased} 1 0`);
    script.stamp = 1100;
    expect(script.send(me, [get(1, 7)], [settle('requeue', 1, 1)])).toEqual([
      `result 2/0: ${ResultCode.empty} 0 0`,
      'applied 2',
    ]);
  });

  it('expire at once with a time of 0, unless somebody waits', () => {
    const script = started({ 'x-message-ttl': 0 });
    script.publish(7, 2);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 0, bytes: 0 });
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
    script.send(me, [consume(1, 7, { grantedTo: 1 })]);
    expect(script.publish(7, 2)).toEqual(['lease 1#1 = 4.0']);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 0, unsettled: 1, bytes: 10 });
    expect(script.machine.due).toBe(never);
  });

  it('expire in bounded steps, and hold back those behind them meanwhile', () => {
    const script = started({ 'x-message-ttl': 100 });
    const max = bounds.duePerEntryMax;
    for (let i = 0; i < 4; i++) script.publish(7, max / 2);
    script.stamp = 1050;
    script.publish(7, 1);
    script.stamp = 1100;
    // One of the budget goes to looking at the queue.
    expect(script.send(me, [consume(1, 7)])).toEqual(['applied 1']);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: max + 2, unsettled: 0 });
    expect(script.machine.due).toBe(0);
    expect(script.publish(7, 1)).toEqual([]);
    script.roundTrip();
    expect(script.send(me, [get(2, 7)])).toEqual([
      'lease 1#1 = 6.0',
      'lease 1#2 = 8.0',
      `result 2/0: 5 0 0`,
      'applied 2',
    ]);
    expect(script.machine.due).toBe(1150);
    script.tick(1150);
    expect(script.machine.due).toBe(never);
  });

  it('take on a new time, and keep their age', () => {
    const script = started({});
    script.publish(7, 1);
    const configure = (version: number, further: Arguments) =>
      script.changes(version, { kind: 'configure', version, uid: 7, arguments: further });
    script.stamp = 1500;
    configure(8, { 'x-message-ttl': 1000 });
    // Nobody knows any more when it came: its time begins now.
    expect(script.machine.due).toBe(2500);
    script.stamp = 1600;
    script.publish(7, 1);
    configure(9, { 'x-message-ttl': 200 });
    expect(script.machine.due).toBe(1700);
    script.roundTrip();
    script.tick(1700);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 1 });
    configure(10, {});
    script.tick(9999);
    expect([script.machine.due, script.machine.queueStatus(7)!.ready]).toEqual([never, 1]);
    // A wrong type is as good as none.
    configure(11, { 'x-message-ttl': 'soon', 'x-expires': 0 });
    expect(script.machine.due).toBe(never);
  });

  it('belong to runs of entries, of which there are never many', () => {
    const stamps = new Stamps();
    for (let index = 0; index < 100_000; index++) stamps.add(index, 10 * index, 102_400);
    // A run covers a thousandth of the time to live: never too early, and late by no more than that.
    const late = (index: number) => stamps.due(index, 102_400) - (10 * index + 102_400);
    const lateness = Array.from({ length: 100_000 }, (_, index) => late(index));
    expect([Math.min(...lateness.slice(0, 50_000)), Math.max(...lateness.slice(0, 50_000))]).toEqual([0, 90]);
    stamps.forget(1_000_000, 102_400);
    expect(stamps.due(0, 102_400)).toBe(0);
    expect(stamps.due(99_999, 102_400)).toBe(999_990 + 102_400);
  });
});

describe('a queue with x-expires', () => {
  it('goes when it was not used for so long', () => {
    const script = started({ 'x-expires': 100 });
    script.publish(7, 5);
    expect(script.machine.due).toBe(1100);
    script.stamp = 1060;
    script.send(me, [get(1, 7)]);
    script.tick(1100);
    expect([script.machine.due, script.machine.pendingRemovals()]).toEqual([1160, []]);
    script.stamp = 1150;
    script.send(me, [consume(2, 7)]);
    script.tick(5000);
    expect([script.machine.due, script.machine.pendingRemovals()]).toEqual([never, []]);
    script.roundTrip();
    script.send(me, [{ kind: 'cancel', consumer: 2, returnLeases: false }]);
    expect(script.machine.due).toBe(5100);
    script.tick(5099);
    expect(script.machine.pendingRemovals()).toEqual([]);
    script.tick(5100);
    expect(script.machine.pendingRemovals()).toEqual([7]);
    expect([script.machine.due, script.machine.debt]).toEqual([never, 0]);
    script.roundTrip();
    script.changes(8, { kind: 'delete', version: 8, uid: 7 });
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });

  it('is looked at in bounded steps when there are many', () => {
    const script = new Script({ node: 1, incarnation: 1 }, bounds);
    const many = 30;
    const changes = Array.from({ length: many }, (_, i) => create(i + 1, i + 1, false, { 'x-expires': 10 + (i % 3) }));
    script.changes(many, ...changes);
    expect(script.machine.due).toBe(10);
    script.tick(20);
    expect([script.machine.pendingRemovals().length, script.machine.due]).toEqual([many - 10, 12]);
    script.tick(20);
    expect([script.machine.pendingRemovals().length, script.machine.due]).toEqual([many, never]);
  });
});

describe('time', () => {
  it('never goes back, and work that is left is due at once', () => {
    const script = started({ 'x-message-ttl': 100 });
    script.stamp = 2000;
    script.publish(7, bounds.debtPerEntryMax + 1);
    script.stamp = 1500;
    script.publish(7, 1);
    expect(script.machine.due).toBe(2100);
    script.send(me, [{ kind: 'purge', queue: 7 }]);
    expect(script.machine.due).toBe(0);
    script.tick(1500);
    // Still looked at once, for nothing.
    expect(script.machine.due).toBe(2100);
    script.tick(2100);
    expect(script.machine.due).toBe(never);
  });
});

describe('a suspected node', () => {
  const suspect = (incarnation: number, suspected: boolean) =>
    ({ kind: 'suspect', node: 1, incarnation, suspected }) as const;

  it('gets nothing new until the suspicion ends', () => {
    const script = started({});
    script.send(me, [consume(1, 7, { unsettledMax: 2 })]);
    script.publish(7, 3);
    expect(script.lead(suspect(1, true))).toEqual([]);
    expect(script.machine.isSuspected({ node: 1, incarnation: 1 })).toBe(true);
    script.roundTrip();
    // Neither credit nor settling nor a new consumer changes that; a get is answered.
    const credit: Command = { kind: 'credit', consumer: 1, unsettledMax: 0, grantedTo: 2_000_000 };
    expect(script.send(me, [credit, consume(2, 7)], [settle('accept', 1, 1)])).toEqual(['applied 2']);
    expect(script.send(me, [get(3, 7)])[0]).toBe('lease 3#1 = 3.2');
    expect(script.publish(7, 1)).toEqual([]);
    expect(script.lead(suspect(1, false))).toEqual(['lease 1#3 = 7.0']);
    expect(script.publish(7, 1)).toEqual(['lease 2#1 = 9.0']);
  });

  it('is the incarnation that was named, known or not, and no later one', () => {
    const script = started({});
    script.lead(suspect(1, true));
    script.send(me, [consume(1, 7)]);
    expect(script.publish(7, 1)).toEqual([]);
    script.watch({ node: 1, incarnation: 2 });
    expect(script.send(nodeOrigin(1, 2), [consume(1, 7)])).toEqual(['lease 1#1 = 4.0', 'applied 1']);
    // Too late: it has ended.
    script.lead(suspect(1, true));
    expect(script.machine.isSuspected({ node: 1, incarnation: 1 })).toBe(false);
    expect(script.publish(7, 1)).toEqual(['lease 1#2 = 7.0']);
    script.lead(suspect(3, true), suspect(2, false));
    expect(script.publish(7, 1)).toEqual([]);
    script.changes(8, { kind: 'fence', version: 8, node: 1, incarnation: 3 });
    expect(script.machine.isSuspected({ node: 1, incarnation: 3 })).toBe(false);
  });
});
