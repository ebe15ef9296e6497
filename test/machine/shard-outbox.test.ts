// Dead letters and what becomes of them, one script each: who becomes one, how they are routed, the outbox, and what other groups send.

import { describe, expect, it } from 'vitest';
import { ResultCode } from '../../cluster/machine/commands.ts';
import { isEndedVolatileGroup, volatileGroupOf } from '../../cluster/machine/groups.ts';
import type { Arguments } from '../../cluster/machine/metadata-types.ts';
import { Outbox } from '../../cluster/machine/outbox.ts';
import { storeBounds } from '../../cluster/machine/queue/store.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { type Command, consume, create, type FurtherCommand, nodeOrigin, Script, settle } from './shard-support.ts';

const me = nodeOrigin(1);
const other = nodeOrigin(2);
const dead: Arguments = { 'x-dead-letter-exchange': 'dlx' };
const part = (bytes: number, first = false): FurtherCommand => ({ kind: 'part', first, bytes });
const route = (first: number, ...letters: [number, number[]][][]): FurtherCommand => ({
  kind: 'route',
  json: JSON.stringify({ first, version: 0, letters }),
});
const transfer = (
  row: number,
  queues: number[],
  { after = row - 1, source = 9, parts = false } = {},
): FurtherCommand => ({ kind: 'transfer', source, after, row, queues, bytes: 10, parts });

/** Queue 7 exists, with these arguments; consumer 1 of node 1 has what is published there. */
function started(further: Arguments, bounds = storeBounds): Script {
  const script = new Script({ node: 1, incarnation: 1 }, bounds);
  script.changes(7, create(7, 7, false, further));
  script.send(me, [consume(1, 7)]);
  return script;
}

const places = (script: Script) => script.machine.letters(99).map((letter) => `${letter.index}.${letter.ordinal}`);
const rows = (script: Script, target: number, after?: number) =>
  script.machine.outbox.rows(target, 99, after).map((row) => `${row.row}: ${row.index}.${row.ordinal} ${row.uids}`);

describe('dead letters', () => {
  it('are what a queue with a dead-letter exchange refused, and nothing else', () => {
    const script = started(dead);
    script.publish(7, 5);
    const settles = [settle('discard', 1, 2), settle('accept', 1, 1), settle('requeue', 1, 3), settle('discard', 1, 4)];
    script.send(me, [], settles);
    expect(script.machine.letters(1)).toEqual([
      {
        uid: 7,
        vhost: '/',
        queueName: 'q7',
        exchange: 'dlx',
        routingKey: null,
        index: 3,
        ordinal: 1,
        reason: 'rejected',
      },
    ]);
    expect([places(script), script.machine.lettersRouted]).toEqual([['3.1', '3.3'], 0]);
    script.send(me, [{ kind: 'purge', queue: 7 }], [settle('accept', 1, 0, 99)]);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 0, unsettled: 0, bytes: 0 });
    expect([...script.machine.liveEntries(1, 99)]).toEqual([3]);
    const plain = started({});
    plain.publish(7, 1);
    plain.send(me, [], [settle('discard', 1, 1)]);
    expect([places(plain), plain.machine.hasLiveEntries(1, 99)]).toEqual([[], false]);
  });

  it('are what expired, too', () => {
    const script = started({ ...dead, 'x-message-ttl': 10, 'x-dead-letter-routing-key': 'late' });
    script.send(me, [{ kind: 'cancel', consumer: 1, returnLeases: false }]);
    script.publish(7, 2);
    script.tick(10);
    script.roundTrip();
    expect(script.machine.letters(9)).toMatchObject([
      { ordinal: 0, reason: 'expired', routingKey: 'late' },
      { ordinal: 1, reason: 'expired', routingKey: 'late' },
    ]);
    const once = started({ ...dead, 'x-message-ttl': 0 });
    once.send(me, [{ kind: 'cancel', consumer: 1, returnLeases: false }]);
    once.publish(7, 1);
    expect(once.machine.letters(9)).toMatchObject([{ index: 4, reason: 'expired' }]);
  });

  it('go by the policy of the moment, also when that or the queue is gone', () => {
    const script = started(dead);
    script.publish(7, 3);
    const configure = (version: number, further: Arguments) =>
      script.changes(version, { kind: 'configure', version, uid: 7, arguments: further });
    script.send(me, [], [settle('discard', 1, 1)]);
    configure(8, { ...dead, 'x-dead-letter-routing-key': 'k' });
    script.send(me, [], [settle('discard', 1, 2)]);
    script.roundTrip();
    configure(9, { 'x-dead-letter-exchange': 5 });
    script.send(me, [], [settle('discard', 1, 3)]);
    script.changes(10, { kind: 'delete', version: 10, uid: 7 });
    script.roundTrip();
    expect(script.machine.letters(9)).toMatchObject([
      { queueName: 'q7', exchange: 'dlx', routingKey: null },
      { queueName: 'q7', exchange: 'dlx', routingKey: 'k' },
    ]);
    script.lead(route(0, [], []));
    expect([places(script), script.machine.hasLiveEntries(1, 99)]).toEqual([[], false]);
  });

  it('are routed once, oldest first, and only as a whole', () => {
    const script = started(dead);
    script.publish(7, 3);
    script.send(me, [], [settle('discard', 1, 1, 3)]);
    const nonsense = [
      route(1, []),
      route(0, [], [], [], []),
      route(0, [[4, []]]),
      route(0, [[-1, [1]]]),
      route(0, [[4, [1.5]]]),
      { kind: 'route', json: '{"first":0,"version":0,"letters":[[4,[1]]]}' } as const,
      { kind: 'route', json: '{"first":0' } as const,
      { kind: 'route', json: 'null' } as const,
    ];
    script.lead(...nonsense);
    expect(script.machine.refusals.ignored).toBe(nonsense.length);
    expect(places(script)).toEqual(['3.0', '3.1', '3.2']);
    script.lead(
      route(
        0,
        [
          [4, [1, 2]],
          [5, [3]],
        ],
        [],
      ),
    );
    expect([places(script), script.machine.lettersRouted]).toEqual([['3.2'], 2]);
    // A repeat of all, and one that goes further.
    script.lead(
      route(
        0,
        [
          [4, [1, 2]],
          [5, [3]],
        ],
        [],
      ),
      route(1, [], [[4, [9]]]),
    );
    expect([places(script), script.machine.lettersRouted]).toEqual([[], 3]);
    expect(script.machine.outbox.targets()).toEqual([4, 5]);
    expect([rows(script, 4), rows(script, 5)]).toEqual([['1: 3.0 1,2', '2: 3.2 9'], ['1: 3.0 3']]);
    expect(script.send(me, [route(3)])).toEqual([`result 3/0: ${ResultCode.refused} 0 0`, 'applied 3']);
  });
});

describe('the outbox', () => {
  /** Letters 3.0 and 3.1, routed to group 4, the first one also to group 5. */
  function routed(bounds = storeBounds): Script {
    const script = started(dead, bounds);
    script.publish(7, 2);
    script.send(me, [], [settle('discard', 1, 1, 2)]);
    script.lead(
      route(
        0,
        [
          [4, [1]],
          [5, [2]],
        ],
        [[4, [3]]],
      ),
    );
    return script;
  }

  it('keeps a message until all its rows are done', () => {
    const script = routed();
    script.lead({ kind: 'done', target: 4, row: 2 });
    expect(script.machine.outbox.targets()).toEqual([5]);
    expect([script.machine.outbox.lastDone(4), script.machine.outbox.lastDone(5)]).toEqual([2, 0]);
    script.roundTrip();
    expect([...script.machine.liveEntries(1, 99)]).toEqual([3]);
    script.lead({ kind: 'done', target: 5, row: 1 }, { kind: 'done', target: 4, row: 1 });
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
    // Numbers go on; a row that was never given cannot be done.
    script.lead({ kind: 'done', target: 4, row: 3 }, { kind: 'done', target: 77, row: 0 });
    expect(script.machine.refusals.ignored).toBe(2);
    script.publish(7, 1);
    script.send(me, [], [settle('discard', 1, 3)]);
    script.lead(route(2, [[4, [1]]]));
    expect(rows(script, 4)).toEqual(['3: 9.0 1']);
  });

  it('shows rows behind those that were seen, and lets go in bounded steps', () => {
    const script = started(dead, { ...storeBounds, debtPerEntryMax: 2 });
    script.publish(7, 9);
    script.send(me, [], [settle('discard', 1, 1, 9)]);
    script.lead(route(0, ...Array.from({ length: 9 }, (_, i): [number, number[]][] => [[4, [i]]])));
    expect(rows(script, 4, 7)).toEqual(['8: 3.7 7', '9: 3.8 8']);
    script.lead({ kind: 'done', target: 4, row: 8 });
    expect([rows(script, 4), script.machine.due]).toEqual([['9: 3.8 8'], 0]);
    script.roundTrip();
    expect([rows(script, 4), script.machine.outbox.lastDone(4)]).toEqual([['9: 3.8 8'], 8]);
    for (let ticks = 0; ticks < 3; ticks++) script.tick(0);
    expect(script.machine.due).toBe(Number.POSITIVE_INFINITY);
    script.lead({ kind: 'done', target: 4, row: 9 });
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });

  it('forgets the volatile group of an incarnation that has ended, and sends nothing there', () => {
    const script = started(dead);
    const gone = volatileGroupOf({ node: 6, incarnation: 4 });
    script.publish(7, 2);
    script.send(me, [], [settle('discard', 1, 1, 2)]);
    script.lead(route(0, [[gone, [1]]]));
    expect(script.machine.outbox.targets()).toEqual([gone]);
    script.changes(8, { kind: 'fence', version: 8, node: 6, incarnation: 4 });
    expect(script.machine.outbox.targets()).toEqual([]);
    script.lead(
      route(1, [
        [gone, [1]],
        [volatileGroupOf({ node: 6, incarnation: 5 }), [1]],
      ]),
    );
    expect(script.machine.outbox.targets()).toEqual([gone + 1]);
    script.send(nodeOrigin(6, 6), []);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(true);
    script.send(nodeOrigin(6, 6), [{ kind: 'publish', queues: [99], bytes: 1 }]);
    script.changes(9, { kind: 'fence', version: 9, node: 6, incarnation: 5 });
    expect([script.machine.outbox.targets(), script.machine.hasLiveEntries(1, 99)]).toEqual([[], false]);
  });

  it('keeps many rows, of any length, in order', () => {
    const outbox = new Outbox();
    const uids = (row: number) => Array.from({ length: row % 7 === 0 ? 5000 : row % 4 }, (_, i) => row + i);
    for (let row = 1; row <= 3000; row++) expect(outbox.push(4, row * 1e9, row, row % 9, uids(row))).toBe(row);
    for (const at of [0, 6, 1500, 2999])
      expect(outbox.rows(4, 1, at)).toEqual([
        { row: at + 1, index: (at + 1) * 1e9, ordinal: at + 1, mark: (at + 1) % 9, uids: uids(at + 1) },
      ]);
    outbox.done(4, 2500);
    const released: number[] = [];
    const marks: number[] = [];
    const references = { release: (index: number) => released.push(index / 1e9) };
    for (let done = 1; done > 0; ) done = outbox.workOff(100, references, { release: (mark) => marks.push(mark) });
    expect(marks).toEqual(Array.from({ length: 2500 }, (_, i) => (i + 1) % 9));
    expect(released).toEqual(Array.from({ length: 2500 }, (_, i) => i + 1));
    expect(outbox.rows(4, 3000).length).toBe(500);
  });

  it('knows the volatile groups of incarnations that have ended', () => {
    const group = volatileGroupOf({ node: 6, incarnation: 2 ** 20 + 1 });
    expect(isEndedVolatileGroup(group, 6, 2 ** 20)).toBe(false);
    expect(isEndedVolatileGroup(group, 6, 2 ** 20 + 1)).toBe(true);
    expect(isEndedVolatileGroup(group, 6, 2 ** 20 + 9)).toBe(true);
    expect(isEndedVolatileGroup(group, 5, 2 ** 20 + 9)).toBe(false);
    expect(isEndedVolatileGroup(group, 6, -1)).toBe(false);
    expect(isEndedVolatileGroup(6, 6, 100)).toBe(false);
  });
});

describe('transfers', () => {
  it('are taken once each, in the order of their source', () => {
    const script = started({});
    script.changes(8, create(8, 8));
    const heard = script.send(other, [transfer(1, [7]), transfer(2, [8, 99]), transfer(2, [7]), transfer(4, [7])]);
    expect(heard).toEqual(['lease 1#1 = 4.0']);
    expect(script.machine.queueStatus(8)).toMatchObject({ ready: 1, bytes: 10 });
    script.roundTrip();
    const refused = `result 2/1: ${ResultCode.refused} 0 0`;
    // From another node, when the source has another leader; a gap that is known to be none; a queue that is gone; another source.
    const commands = [transfer(1, [7]), transfer(4, [7]), transfer(5, [7], { after: 2 }), transfer(6, [99])];
    expect(script.send(me, [...commands, transfer(1, [7], { source: 3 })])).toEqual([
      refused,
      'lease 1#2 = 5.2',
      'lease 1#3 = 5.4',
      'applied 2',
    ]);
    expect([...script.machine.liveEntries(1, 99)]).toEqual([4, 5]);
  });

  it('may come in parts, and are not taken without them', () => {
    const script = started({});
    const inParts = transfer(1, [7], { parts: true });
    const refused = `result 2/0: ${ResultCode.refused} 0 0`;
    expect(script.send(me, [inParts])).toEqual([refused, 'applied 2']);
    expect(script.send(me, [part(30, true), inParts, part(30, true), inParts])).toEqual([
      'lease 1#1 = 4.1',
      'applied 3',
    ]);
    expect(script.machine.queueStatus(7)).toMatchObject({ unsettled: 1, bytes: 40 });
    expect(script.machine.partsOf(4, 1)).toEqual([{ index: 4, ordinal: 0 }]);
    script.send(me, [], [settle('accept', 1, 1)]);
    expect(script.machine.hasLiveEntries(1, 99)).toBe(false);
  });

  it('bring a letter from a shard to itself', () => {
    const script = started(dead);
    script.changes(8, create(8, 8));
    const large: (Command | FurtherCommand)[] = [part(30, true), { kind: 'last', queues: [7], bytes: 5 }];
    script.send(other, large);
    script.send(me, [], [settle('discard', 1, 1)]);
    script.lead(route(0, [[3, [8]]]));
    expect(script.machine.partsOf(4, 1)).toEqual([{ index: 4, ordinal: 0 }]);
    script.send(other, [part(30, true), transfer(1, [8], { source: 3, parts: true })]);
    script.lead({ kind: 'done', target: 3, row: 1 });
    expect([...script.machine.liveEntries(1, 99)]).toEqual([7]);
    expect(script.machine.queueStatus(8)).toMatchObject({ ready: 1, bytes: 40 });
    const bytes = Buffer.concat(drain(script.machine.snapshot()));
    script.roundTrip();
    expect(Buffer.concat(drain(script.machine.snapshot())).equals(bytes)).toBe(true);
  });
});
