// What limits do to messages, one script each: maximum lengths of queues, and expirations that publishers set.

import { describe, expect, it } from 'vitest';
import { ResultCode } from '../../cluster/machine/commands.ts';
import type { Arguments } from '../../cluster/machine/metadata-types.ts';
import { secondStoreBounds, storeBounds } from '../../cluster/machine/queue/store.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { type Command, consume, create, nodeOrigin, Script, settle } from './shard-support.ts';

const me = nodeOrigin(1);
const never = Number.POSITIVE_INFINITY;
const publish = (expiration?: number, bytes = 10): Command =>
  expiration === undefined
    ? { kind: 'publish', queues: [7], bytes }
    : { kind: 'publish', queues: [7], bytes, expiration };

/** Queue 7 exists, with these arguments, since stamp 1000. */
function started(further: Arguments, bounds = secondStoreBounds): Script {
  const script = new Script({ node: 1, incarnation: 1 }, storeBounds, bounds);
  script.version = 2;
  script.stamp = 1000;
  script.changes(7, create(7, 7, false, further));
  return script;
}
const status = (script: Script) => script.machine.queueStatus(7);

describe('a queue with a maximum length', () => {
  it('drops its first messages, and makes dead letters of them', () => {
    const script = started({ 'x-max-length': 2, 'x-dead-letter-exchange': 'dlx' });
    script.publish(7, 5);
    expect(status(script)).toMatchObject({ ready: 2, bytes: 20 });
    expect(script.machine.letters(10).map(({ ordinal, reason }) => [ordinal, reason])).toEqual([
      [0, 'maxlen'],
      [1, 'maxlen'],
      [2, 'maxlen'],
    ]);
    script.roundTrip();
    expect(script.send(me, [consume(1, 7, { grantedTo: 2 })])).toEqual([
      'lease 1#1 = 2.3',
      'lease 1#2 = 2.4',
      'applied 1',
    ]);
    // Unsettled ones do not count, until they come back.
    script.publish(7, 2);
    expect(status(script)).toMatchObject({ ready: 2, unsettled: 2 });
    script.send(me, [], [settle('requeue', 1, 1, 2)]);
    expect(status(script)).toMatchObject({ ready: 2, unsettled: 0, bytes: 20 });
    expect(
      script.machine
        .letters(10)
        .map(({ index, ordinal }) => [index, ordinal])
        .slice(3),
    ).toEqual([
      [2, 3],
      [2, 4],
    ]);
  });

  it('drops by bytes, as many as it takes, in bounded steps', () => {
    const script = started({ 'x-max-length-bytes': 300 }, { ...secondStoreBounds, debtPerEntryMax: 4 });
    script.publish(7, 30);
    expect(status(script)).toMatchObject({ ready: 30, bytes: 300 });
    script.send(me, [publish(undefined, 250)]);
    // Sixteen with the publish, four with its entry's end, and so on.
    expect(status(script)).toMatchObject({ ready: 11, bytes: 350 });
    expect(script.machine.due).toBe(0);
    script.roundTrip();
    script.lead();
    script.lead();
    expect(status(script)).toMatchObject({ ready: 6, bytes: 300 });
    expect(script.machine.due).toBe(never);
    script.send(me, [publish(undefined, 301)]);
    script.lead();
    expect(status(script)).toMatchObject({ ready: 0, bytes: 0 });
  });

  it('refuses what is too much, if it is to, and others still get it', () => {
    const script = started({ 'x-max-length': 1, 'x-overflow': 'reject-publish' });
    script.changes(8, create(8, 8));
    const both: Command = { kind: 'publish', queues: [7, 8], bytes: 10 };
    expect(script.send(me, [both, both, publish()])).toEqual([
      `result 1/1: ${ResultCode.rejected} 0 0`,
      `result 1/2: ${ResultCode.rejected} 0 0`,
      'applied 1',
    ]);
    expect([status(script)!.ready, script.machine.queueStatus(8)!.ready]).toEqual([1, 2]);
    script.send(me, [consume(1, 7)]);
    expect(script.send(me, [publish(), publish()])).toEqual(['lease 1#2 = 5.0', 'lease 1#3 = 5.1', 'applied 3']);
    // What comes back is never too much.
    script.send(me, [{ kind: 'cancel', consumer: 1, returnLeases: true }]);
    expect(status(script)).toMatchObject({ ready: 3, unsettled: 0 });
  });

  it('makes dead letters of what it refuses, if it is to', () => {
    const script = started({ 'x-max-length': 1, 'x-overflow': 'reject-publish-dlx', 'x-dead-letter-exchange': 'd' });
    script.send(me, [publish(), publish()]);
    expect(script.machine.letters(9)).toMatchObject([{ index: 2, ordinal: 1, reason: 'maxlen' }]);
    expect(status(script)).toMatchObject({ ready: 1 });
  });

  it('keeps to a limit that came later, and to none in the first version', () => {
    const script = started({});
    script.publish(7, 5);
    script.changes(8, { kind: 'configure', version: 8, uid: 7, arguments: { 'x-max-length': 1 } });
    expect(status(script)).toMatchObject({ ready: 1 });
    const old = started({ 'x-max-length': 1 });
    const first = new Script({ node: 1, incarnation: 1 }, storeBounds);
    first.changes(7, create(7, 7, false, { 'x-max-length': 1 }));
    for (const each of [old, first]) each.publish(7, 3);
    expect([status(old)!.ready, status(first)!.ready]).toEqual([1, 3]);
  });
});

describe('messages with an expiration', () => {
  it('expire at the front of their queue, as their publishers said', () => {
    const script = started({});
    script.send(me, [publish(100), publish(), publish(50)]);
    expect(script.machine.due).toBe(1100);
    script.roundTrip();
    script.tick(1099);
    expect(status(script)).toMatchObject({ ready: 3 });
    script.tick(1100);
    expect(status(script)).toMatchObject({ ready: 2, bytes: 20 });
    expect(script.machine.due).toBe(never);
    // The last one expired long ago, behind one that does not.
    expect(script.send(me, [consume(1, 7)])).toEqual(['lease 1#1 = 2.1', 'applied 2']);
    expect(status(script)).toMatchObject({ ready: 0, unsettled: 1 });
  });

  it('by the shorter of two times', () => {
    const script = started({ 'x-message-ttl': 80 });
    script.send(me, [publish(50), publish(500)]);
    expect(script.machine.due).toBe(1050);
    script.tick(1050);
    expect(script.machine.due).toBe(1080);
    script.tick(1080);
    expect(status(script)).toMatchObject({ ready: 0 });
  });

  it('also when they come back, and at once with a time of 0, unless somebody waits', () => {
    const script = started({ 'x-dead-letter-exchange': 'dlx' });
    script.send(me, [publish(0)]);
    expect(script.machine.letters(9)).toMatchObject([{ index: 2, reason: 'expired' }]);
    script.send(me, [consume(1, 7, { unsettledMax: 2 })]);
    expect(script.send(me, [publish(0), publish(100)])).toEqual(['lease 1#1 = 4.0', 'lease 1#2 = 4.1', 'applied 3']);
    script.roundTrip();
    script.stamp = 1050;
    expect(script.send(me, [], [settle('requeue', 1, 1, 2)])).toEqual(['lease 1#3 = 4.1 redelivered', 'applied 4']);
    script.stamp = 1100;
    script.send(me, [], [settle('requeue', 1, 3)]);
    expect(script.machine.letters(9).map(({ index, ordinal }) => [index, ordinal])).toEqual([
      [2, 0],
      [4, 0],
      [4, 1],
    ]);
  });

  it('are forgotten with a purge, but for those that are out', () => {
    const script = started({});
    script.send(me, [publish(100), publish(100), publish(100)]);
    script.send(me, [consume(1, 7, { unsettledMax: 1 })]);
    script.send(me, [{ kind: 'purge', queue: 7 }]);
    script.roundTrip();
    script.stamp = 1200;
    script.send(me, [], [settle('requeue', 1, 1)]);
    expect(status(script)).toMatchObject({ ready: 0, unsettled: 0 });
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });
});

it('a state with limits is the same whatever was restored in between', () => {
  const run = (trips: boolean) => {
    let state = 7;
    const random = (bound: number) => (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) % bound;
    const script = started({ 'x-max-length': 300, 'x-dead-letter-exchange': 'd' });
    script.send(me, [consume(1, 7, { unsettledMax: 40 })]);
    let settled = 1;
    for (let step = 0; step < 150; step++) {
      script.stamp += random(20);
      const commands = Array.from({ length: random(30) }, () => publish(random(2) === 0 ? undefined : random(400)));
      if (random(30) === 0) commands.push({ kind: 'purge', queue: 7 });
      const count = random(20);
      const operation = (['accept', 'requeue', 'discard'] as const)[random(3)]!;
      script.send(me, commands, [settle(operation, 1, settled, count)]);
      settled += count;
      if (trips && step % 4 === 0) script.roundTrip();
    }
    return Buffer.concat(drain(script.machine.snapshot()));
  };
  expect(run(true).equals(run(false))).toBe(true);
});
