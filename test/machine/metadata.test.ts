// The metadata machine through its only door, entries: what each command comes to, what it asks of the shards, and where publishes go.

import { describe, expect, it } from 'vitest';
import { ResultCode, SettleOperation } from '../../cluster/machine/commands.ts';
import type { ExchangeType, MetadataCommand } from '../../cluster/machine/metadata-types.ts';
import { latestVersion, machineVersions } from '../../cluster/machine/versions.ts';
import {
  addAll,
  Bench,
  bind,
  binding,
  type CommandOf,
  declareExchange,
  declareQueue,
  deleteExchange,
  noHeaders,
  openNode,
  owner,
  unbind,
} from './metadata-support.ts';

const { ok, refused, inequivalent, locked, notFound, inUse } = ResultCode;

describe('queues', () => {
  it('get ascending uids, and the same one when declared again', () => {
    const bench = new Bench();
    expect(bench.run(declareQueue('a'), declareQueue('b'), declareQueue('a'))).toEqual([
      [ok, 1],
      [ok, 2],
      [ok, 1],
    ]);
    expect(bench.machine.queue('/', 'b')).toMatchObject({ uid: 2, name: 'b', vhost: '/', durable: true });
    expect(bench.machine.queueByUid(3)).toBeUndefined();
    expect(bench.machine.queue('/', 'c')).toBeUndefined();
  });

  it('never reuse a uid, and are deleted by uid only', () => {
    const bench = new Bench();
    bench.run(declareQueue('a'));
    expect(bench.run({ kind: 'deleteQueue', uid: 1 })).toEqual([[ok, 0]]);
    expect(bench.run(declareQueue('a'))).toEqual([[ok, 2]]);
    // A late deletion of the first one does not hit the second.
    expect(bench.run({ kind: 'deleteQueue', uid: 1 })).toEqual([[ok, 0]]);
    expect(bench.machine.queue('/', 'a')?.uid).toBe(2);
  });

  it.each<[string, Partial<CommandOf<'declareQueue'>>, Partial<CommandOf<'declareQueue'>>, ResultCode]>([
    ['durable differs', {}, { durable: false }, inequivalent],
    ['auto-delete differs', {}, { autoDelete: true }, inequivalent],
    ['same argument', { arguments: { 'x-expires': 5 } }, { arguments: { 'x-expires': 5 } }, ok],
    [
      'same integer in another width',
      { arguments: { 'x-expires': 5 } },
      { arguments: { 'x-expires': { int64: '5' } } },
      ok,
    ],
    ['other value', { arguments: { 'x-expires': 5 } }, { arguments: { 'x-expires': 6 } }, inequivalent],
    ['other type', { arguments: { 'x-expires': 5 } }, { arguments: { 'x-expires': '5' } }, inequivalent],
    ['argument missing', { arguments: { 'x-max-length': 5 } }, {}, inequivalent],
    ['argument added', {}, { arguments: { 'x-max-length': 5 } }, inequivalent],
    ['present without a value', {}, { arguments: { 'x-max-length': null } }, ok],
    ['unknown arguments are not compared', { arguments: { mine: 1 } }, { arguments: { mine: 2 } }, ok],
    ['the default type named', {}, { arguments: { 'x-queue-type': 'classic' } }, ok],
    ['another type', {}, { arguments: { 'x-queue-type': 'quorum' } }, inequivalent],
    ['type not named', { arguments: { 'x-queue-type': 'quorum' } }, {}, inequivalent],
    ['exclusive, same connection', { exclusive: owner(7) }, { exclusive: owner(7) }, ok],
    ['exclusive, other connection', { exclusive: owner(7) }, { exclusive: owner(8) }, locked],
    ['exclusive, other node', { exclusive: owner(7) }, { exclusive: owner(7, 1, 2) }, locked],
    ['exclusive, of an incarnation that is not open', { exclusive: owner(7) }, { exclusive: owner(7, 2) }, refused],
    ['not durable, from another node', { durable: false }, { durable: false, home: { node: 2, incarnation: 1 } }, ok],
    ['exclusive, not declared as such', { exclusive: owner(7) }, {}, locked],
    ['not exclusive, declared as such', {}, { exclusive: owner(7) }, locked],
    ['locked counts more than inequivalent', { exclusive: owner(7) }, { exclusive: owner(8), durable: false }, locked],
  ])('declared again: %s', (_, first, second, expected) => {
    const bench = new Bench();
    bench.run(openNode(1), openNode(1, 2));
    expect(bench.run(declareQueue('q', first))).toEqual([[ok, 1]]);
    expect(bench.run(declareQueue('q', second))).toEqual([[expected, expected === ok ? 1 : 0]]);
  });

  it('need a vhost and a name', () => {
    const bench = new Bench();
    expect(bench.code(declareQueue('q', { vhost: 'none' }))).toBe(notFound);
    expect(bench.code(declareQueue(''))).toBe(refused);
    expect(bench.machine.vhostExists('/')).toBe(true);
    expect(bench.machine.vhostExists('none')).toBe(false);
  });

  it('spread over the shards one by one, and fill gaps first', () => {
    const bench = new Bench(4);
    for (let i = 0; i < 12; i++) bench.run(declareQueue(`q${i}`));
    expect(bench.machine.status().queuesPerShard).toEqual([3, 3, 3, 3]);
    const shards = Array.from(bench.machine.queues(), (queue) => queue.shard);
    expect(shards.slice(0, 4)).toEqual([2, 3, 4, 1]);
    const lost = [...bench.machine.queues()].filter((queue) => queue.shard === 3).slice(0, 2);
    for (const { uid } of lost) bench.run({ kind: 'deleteQueue', uid });
    bench.run(declareQueue('x'), declareQueue('y'));
    expect(bench.machine.queue('/', 'x')?.shard).toBe(3);
    expect(bench.machine.queue('/', 'y')?.shard).toBe(3);
  });

  it('prefer the shards that the declaring node leads, while all stay even', () => {
    const bench = new Bench(6);
    const placed = Array.from({ length: 24 }, (_, i) => {
      bench.run(declareQueue(`near-${i}`, { near: [2, 5] }));
      return bench.machine.queue('/', `near-${i}`)!.shard;
    });
    expect(new Set(placed.slice(0, 10))).toEqual(new Set([2, 5]));
    const counts = [1, 2, 3, 4, 5, 6].map((shard) => placed.filter((other) => other === shard).length);
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(5);
    // A shard that does not exist is nobody's neighbour.
    bench.run(declareQueue('odd', { near: [0, 7, 99] }));
    expect(bench.machine.queue('/', 'odd')!.shard).toBeGreaterThanOrEqual(1);
    expect(bench.machine.queue('/', 'odd')!.shard).toBeLessThanOrEqual(6);
  });

  it('of one that comes and goes spread too', () => {
    const bench = new Bench(4);
    const shards: number[] = [];
    for (let uid = 1; uid <= 4; uid++) {
      bench.run(declareQueue('q'));
      shards.push(bench.machine.queue('/', 'q')!.shard);
      bench.run({ kind: 'deleteQueue', uid });
    }
    expect(shards.sort()).toEqual([1, 2, 3, 4]);
  });

  it.each([1, 2, 3, 12])(
    'of %i shards lie in shards 1 to that, whatever comes and goes, and so do their rows',
    (count) => {
      const bench = new Bench(count);
      const seen = new Set<number>();
      for (let uid = 1; uid <= 5 * count; uid++) {
        bench.run(declareQueue(`q${uid}`));
        if (uid % 4 === 0) bench.run({ kind: 'deleteQueue', uid: uid - 2 });
        for (const { shard } of bench.machine.queues()) {
          expect(shard).toBeGreaterThanOrEqual(1);
          expect(shard).toBeLessThanOrEqual(count);
          seen.add(shard);
        }
      }
      expect(seen.size).toBe(count);
      const created: number[] = [];
      for (let shard = 1; shard <= count; shard++)
        for (const row of bench.machine.changes(shard, 0, bench.index)) {
          if (row.kind !== 'create') continue;
          created.push(row.uid);
          expect(bench.machine.queueByUid(row.uid)?.shard ?? shard).toBe(shard);
        }
      expect(created).toHaveLength(5 * count);
      // Group 0 is the metadata's own.
      for (const shard of [0, count + 1]) {
        expect(bench.machine.changes(shard, 0, bench.index)).toEqual([]);
        expect(bench.code({ kind: 'shardApplied', shard, version: 1 })).toBe(refused);
      }
    },
  );

  it('of a connection go with it, and no others', () => {
    const bench = new Bench();
    bench.run(
      openNode(1),
      declareQueue('a', { exclusive: owner(1) }),
      declareQueue('b', { exclusive: owner(1) }),
      declareQueue('c', { exclusive: owner(2) }),
      declareQueue('d'),
      bind('amq.fanout', 'a'),
      bind('amq.fanout', 'c'),
    );
    bench.run({ kind: 'deleteExclusive', owner: owner(1) }, { kind: 'deleteExclusive', owner: owner(9) });
    expect(Array.from(bench.machine.queues(), (queue) => queue.name)).toEqual(['c', 'd']);
    expect(bench.route('amq.fanout')).toEqual(['c']);
  });
});

describe('exchanges', () => {
  it('that are predeclared cannot be changed or deleted', () => {
    const bench = new Bench();
    for (const [name, type] of [
      ['amq.direct', 'direct'],
      ['amq.fanout', 'fanout'],
      ['amq.topic', 'topic'],
      ['amq.headers', 'headers'],
      ['amq.match', 'headers'],
    ] as const) {
      expect(bench.machine.exchange('/', name)).toMatchObject({ type, predeclared: true, durable: true });
      expect(bench.code(declareExchange(name, type))).toBe(ok);
      expect(bench.code(declareExchange(name, type, { durable: false }))).toBe(inequivalent);
      expect(bench.code(deleteExchange(name))).toBe(refused);
    }
    expect(bench.machine.exchange('/', '')?.type).toBe('direct');
    expect(bench.code(declareExchange('', 'direct'))).toBe(refused);
    expect(bench.code(deleteExchange(''))).toBe(refused);
    bench.run(declareQueue('q'));
    expect(bench.code(bind('', 'q', 'k'))).toBe(refused);
    expect(bench.code(unbind('', 'q', 'q'))).toBe(refused);
    expect(bench.code(bind('amq.direct', '>', 'k'))).toBe(refused);
  });

  it('declared again must be equivalent', () => {
    const bench = new Bench();
    expect(bench.code(declareExchange('x', 'topic', { arguments: { 'alternate-exchange': 'y', other: 1 } }))).toBe(ok);
    const again = (type: ExchangeType, rest: Partial<CommandOf<'declareExchange'>>) =>
      bench.code(declareExchange('x', type, { arguments: { 'alternate-exchange': 'y' }, ...rest }));
    expect(again('topic', {})).toBe(ok);
    expect(again('direct', {})).toBe(inequivalent);
    expect(again('topic', { durable: false })).toBe(inequivalent);
    expect(again('topic', { autoDelete: true })).toBe(inequivalent);
    expect(again('topic', { internal: true })).toBe(inequivalent);
    expect(again('topic', { arguments: {} })).toBe(inequivalent);
    expect(again('topic', { arguments: { 'alternate-exchange': 'z' } })).toBe(inequivalent);
  });

  it('are deleted with their bindings, at both ends', () => {
    const bench = new Bench();
    bench.run(
      declareQueue('q'),
      declareExchange('a', 'direct'),
      declareExchange('b', 'fanout'),
      bind('a', '>b', 'k'),
      bind('a', '>a', 'k'),
      bind('b', 'q'),
      bind('b', '>a'),
    );
    expect(bench.code(deleteExchange('b', true))).toBe(inUse);
    expect(bench.code(deleteExchange('b'))).toBe(ok);
    expect(bench.bindings()).toEqual(['a-k->a']);
    expect(bench.code(deleteExchange('b'))).toBe(ok);
    bench.run(unbind('a', '>a', 'k'));
    expect(bench.code(deleteExchange('a', true))).toBe(ok);
    expect(bench.route('a', 'k')).toBeNull();
  });

  it('with auto-delete go with the last binding from them, one after the other', () => {
    const bench = new Bench();
    const auto = { autoDelete: true };
    bench.run(
      declareQueue('q'),
      declareExchange('first', 'fanout', auto),
      declareExchange('second', 'fanout', auto),
      declareExchange('third', 'direct', auto),
      declareExchange('kept', 'fanout'),
      bind('kept', '>first'),
      bind('first', '>second'),
      bind('second', '>third'),
      bind('third', 'q', '1'),
      bind('third', 'q', '2'),
    );
    expect(bench.route('kept', '2')).toEqual(['q']);
    bench.run(unbind('third', 'q', '1'));
    expect(bench.machine.exchange('/', 'third')).toBeDefined();
    bench.run({ kind: 'deleteQueue', uid: 1 });
    for (const gone of ['first', 'second', 'third']) expect(bench.machine.exchange('/', gone)).toBeUndefined();
    expect(bench.machine.exchange('/', 'kept')).toBeDefined();
    expect(bench.bindings()).toEqual([]);
    expect(bench.route('kept')).toEqual([]);
  });

  it('with auto-delete that never had a binding stay, and circles of them go', () => {
    const bench = new Bench();
    const auto = { autoDelete: true };
    bench.run(declareExchange('idle', 'fanout', auto), declareExchange('a', 'fanout', auto), bind('a', '>a'));
    bench.run(unbind('idle', '>a'));
    expect(bench.machine.exchange('/', 'idle')).toBeDefined();
    bench.run(declareExchange('b', 'fanout', auto), bind('a', '>b'), bind('b', '>a'));
    bench.run(deleteExchange('b'));
    expect(bench.bindings()).toEqual(['a-->a']);
    bench.run(unbind('a', '>a'));
    expect(bench.machine.exchange('/', 'a')).toBeUndefined();
  });
});

describe('bindings', () => {
  it('are the same if source, destination, key and arguments are', () => {
    const bench = new Bench();
    bench.run(declareQueue('q'), declareExchange('q', 'fanout'));
    bench.run(bind('amq.direct', 'q', 'k', { a: 1, b: 2 }), bind('amq.direct', 'q', 'k', { b: { int64: '2' }, a: 1 }));
    expect(bench.bindings()).toHaveLength(1);
    bench.run(bind('amq.direct', 'q', 'k'), bind('amq.direct', 'q', 'l'), bind('amq.direct', '>q', 'k'));
    expect(bench.bindings()).toHaveLength(4);
    expect(bench.machine.isBound(binding('amq.direct', 'q', 'k', { b: 2, a: 1 }))).toBe(true);
    expect(bench.machine.isBound(binding('amq.direct', 'q', 'k', { b: 2 }))).toBe(false);
    expect([...bench.machine.bindingsTo('/', 'queue', 'q')]).toHaveLength(3);
    expect([...bench.machine.bindingsFrom('/', 'amq.direct')]).toHaveLength(4);
    expect(bench.route('amq.direct', 'k')).toEqual(['q']);
    bench.run(unbind('amq.direct', 'q', 'k', { b: 2, a: 1 }));
    expect(bench.route('amq.direct', 'k')).toEqual(['q']);
    bench.run(unbind('amq.direct', 'q', 'k'));
    expect(bench.route('amq.direct', 'k')).toEqual([]);
    expect(bench.bindings()).toEqual(['amq.direct-l->q', 'amq.direct-k->q']);
  });

  it('are not confused by names that run into each other', () => {
    const bench = new Bench();
    bench.run(
      declareQueue('a1:b'),
      declareQueue('a'),
      bind('amq.direct', 'a1:b', 'c'),
      bind('amq.direct', 'a', '1:bc'),
    );
    expect(bench.bindings()).toHaveLength(2);
  });

  it('of missing things are not found, and unbinding them succeeds', () => {
    const bench = new Bench();
    bench.run(declareQueue('q'));
    expect(bench.code(bind('none', 'q'))).toBe(notFound);
    expect(bench.code(bind('amq.direct', 'none'))).toBe(notFound);
    expect(bench.code(bind('amq.direct', '>none'))).toBe(notFound);
    expect(bench.code({ ...bind('amq.direct', 'q'), vhost: 'none' } as MetadataCommand)).toBe(notFound);
    expect(bench.code(unbind('none', 'q'))).toBe(ok);
    expect(bench.code(unbind('amq.direct', 'none'))).toBe(ok);
    expect(bench.code(unbind('amq.direct', 'q', 'never'))).toBe(ok);
  });

  it('to a headers exchange need a good x-match', () => {
    const bench = new Bench();
    bench.run(declareQueue('q'));
    expect(bench.code(bind('amq.headers', 'q', '', { 'x-match': 'most' }))).toBe(refused);
    expect(bench.code(bind('amq.headers', 'q', '', { 'x-match': 1 }))).toBe(refused);
    expect(bench.code(bind('amq.headers', 'q', '', { 'x-match': 'any', a: 1 }))).toBe(ok);
    expect(bench.code(bind('amq.direct', 'q', '', { 'x-match': 'most' }))).toBe(ok);
  });
});

describe('routes', () => {
  it('of the default exchange go by queue name', () => {
    const bench = new Bench();
    bench.run(declareQueue('q'));
    expect(bench.route('', 'q')).toEqual(['q']);
    expect(bench.route('', 'other')).toEqual([]);
    expect(bench.route('none', 'q')).toBeNull();
    expect(bench.machine.route('none', '', 'q', noHeaders)).toBeUndefined();
    bench.run({ kind: 'deleteQueue', uid: 1 });
    expect(bench.route('', 'q')).toEqual([]);
  });

  it('follow exchanges in circles, and name a queue once', () => {
    const bench = new Bench();
    bench.run(
      declareQueue('q'),
      declareQueue('r'),
      declareExchange('a', 'topic'),
      declareExchange('b', 'fanout'),
      bind('a', '>b', 'x.#'),
      bind('b', '>a'),
      bind('a', 'q', 'x.*'),
      bind('a', 'q', '#'),
      bind('b', 'q'),
      bind('b', 'r'),
    );
    expect(bench.route('a', 'x.1')).toEqual(['q', 'r']);
    expect(bench.route('a', 'y')).toEqual(['q']);
    expect(bench.route('b', 'y')).toEqual(['q', 'r']);
  });

  it('take the alternate exchange if nothing is bound that fits, also on the way, also in circles', () => {
    const bench = new Bench();
    const alternate = (name: string) => ({ arguments: { 'alternate-exchange': name } });
    bench.run(
      declareQueue('q'),
      declareQueue('lost'),
      declareExchange('a', 'direct', alternate('b')),
      declareExchange('b', 'direct', alternate('a')),
      declareExchange('front', 'fanout'),
      declareExchange('bad', 'direct', alternate('missing')),
      declareExchange('default', 'direct', alternate('')),
      bind('front', '>a'),
      bind('a', 'q', 'k'),
    );
    expect(bench.route('a', 'other')).toEqual([]);
    bench.run(bind('b', 'lost', 'other'));
    expect(bench.route('a', 'k')).toEqual(['q']);
    expect(bench.route('a', 'other')).toEqual(['lost']);
    expect(bench.route('front', 'other')).toEqual(['lost']);
    expect(bench.route('b', 'k')).toEqual(['q']);
    expect(bench.route('bad', 'k')).toEqual([]);
    expect(bench.route('default', 'lost')).toEqual(['lost']);
  });

  it('by headers are found anew for each message', () => {
    const bench = new Bench();
    bench.run(
      declareQueue('q'),
      declareQueue('r'),
      declareExchange('front', 'direct'),
      declareExchange('spare', 'fanout', { arguments: { 'alternate-exchange': 'front' } }),
      bind('front', '>amq.headers', 'h'),
      bind('amq.headers', 'q', '', { a: 1 }),
      bind('front', 'r', 'h'),
    );
    expect(bench.route('front', 'h', { a: 1 })).toEqual(['q', 'r']);
    expect(bench.route('front', 'h', { a: 2 })).toEqual(['r']);
    for (const name of ['front', 'spare', 'amq.headers', 'amq.match'])
      expect(bench.machine.usesHeaders('/', name), name).toBe(true);
    for (const name of ['', 'amq.direct', 'none']) expect(bench.machine.usesHeaders('/', name), name).toBe(false);
    bench.run(unbind('front', '>amq.headers', 'h'));
    expect(bench.machine.usesHeaders('/', 'front')).toBe(false);
  });

  it('are kept until the topology changes', () => {
    const bench = new Bench();
    bench.run(declareQueue('q'), bind('amq.topic', 'q', 'a.*'));
    const first = bench.machine.route('/', 'amq.topic', 'a.b', noHeaders);
    const { topologyVersion } = bench.machine;
    bench.run({ kind: 'fenceNode', node: 9, incarnation: 1 }, bind('amq.topic', 'q', 'a.*'), declareQueue('q'));
    expect(bench.machine.topologyVersion).toBe(topologyVersion);
    expect(bench.machine.route('/', 'amq.topic', 'a.b', noHeaders)).toBe(first);
    for (const change of [
      declareQueue('r'),
      declareExchange('x', 'direct'),
      bind('x', 'r', 'k'),
      unbind('x', 'r', 'k'),
      deleteExchange('x'),
      { kind: 'deleteQueue', uid: 2 } as const,
    ]) {
      const before = bench.machine.topologyVersion;
      expect(bench.code(change)).toBe(ok);
      expect(bench.machine.topologyVersion, change.kind).toBeGreaterThan(before);
    }
    expect(bench.machine.route('/', 'amq.topic', 'a.b', noHeaders)).not.toBe(first);
  });

  it('kept are bounded by the queues in them, and a fanout keeps one for all keys', () => {
    const bench = new Bench(3, { routeQueuesMax: 500 });
    for (let i = 0; i < 40; i++)
      bench.run(declareQueue(`q${i}`), bind('amq.fanout', `q${i}`), bind('amq.topic', `q${i}`, '#'));
    for (let i = 0; i < 300; i++) {
      expect(bench.route('amq.topic', `key ${i}`)).toHaveLength(40);
      expect(bench.machine.status().routeQueuesKept).toBeLessThanOrEqual(500);
    }
    const all = bench.machine.route('/', 'amq.fanout', 'one', noHeaders);
    expect(bench.machine.route('/', 'amq.fanout', 'two', noHeaders)).toBe(all);
  });
});

describe('rows for the shards', () => {
  it('tell creations and deletions in order, with the index as version', () => {
    const bench = new Bench(1);
    bench.run(declareQueue('a', { arguments: { 'x-expires': 7 }, autoDelete: true }));
    bench.run(declareQueue('a', { arguments: { 'x-expires': 7 }, autoDelete: true }));
    bench.run(declareQueue('b'), { kind: 'deleteQueue', uid: 1 });
    const create = { kind: 'create', vhost: '/', autoDelete: false, arguments: {} };
    const first = { ...create, version: 1, uid: 1, name: 'a', autoDelete: true, arguments: { 'x-expires': 7 } };
    const second = { ...create, version: 3, uid: 2, name: 'b' };
    expect(bench.machine.changes(1, 0, 9)).toEqual([first, second, { kind: 'delete', version: 3, uid: 1 }]);
    expect(bench.machine.changes(1, 0, 2)).toEqual([first]);
    expect(bench.machine.changes(1, 1, 2)).toEqual([]);
    expect(bench.machine.changes(1, 1, 3)).toHaveLength(2);
    expect(bench.machine.changes(1, 3, 9)).toEqual([]);
    expect(bench.machine.changes(1, 9, 3)).toEqual([]);
    expect(bench.machine.changes(5, 0, 9)).toEqual([]);
  });

  it('go when the shard has applied them, and not before', () => {
    const bench = new Bench(2);
    for (let i = 0; i < 8; i++) bench.run(declareQueue(`q${i}`));
    expect([...bench.machine.status().rowsPerGroup]).toEqual([
      [1, 4],
      [2, 4],
    ]);
    expect(bench.code({ kind: 'shardApplied', shard: 2, version: 5 })).toBe(ok);
    expect(bench.machine.changes(2, 0, 99).map((row) => row.version)).toEqual([7]);
    expect(bench.machine.changes(1, 0, 99)).toHaveLength(4);
    expect(bench.machine.shardAppliedTo(2)).toBe(5);
    // Late and repeated news change nothing.
    expect(bench.code({ kind: 'shardApplied', shard: 2, version: 3 })).toBe(ok);
    expect(bench.machine.shardAppliedTo(2)).toBe(5);
    // What is not committed cannot have been applied.
    expect(bench.code({ kind: 'shardApplied', shard: 2, version: bench.index + 1 })).toBe(refused);
    expect(bench.code({ kind: 'shardApplied', shard: 3, version: 1 })).toBe(refused);
    expect(bench.machine.changes(2, 0, 99)).toHaveLength(1);
  });

  it('survive much coming and going', () => {
    const bench = new Bench(1);
    for (let uid = 1; uid <= 2_000; uid++) {
      bench.run(declareQueue('q'), { kind: 'deleteQueue', uid });
      if (uid % 7 === 0) bench.run({ kind: 'shardApplied', shard: 1, version: bench.index - 3 });
      const rows = bench.machine.changes(1, 0, bench.index);
      expect(rows.length).toBeLessThan(30);
      expect(rows[rows.length - 1]).toMatchObject({ kind: 'delete', uid });
    }
  });
});

describe('nodes', () => {
  it('end their earlier incarnations when they open a new one', () => {
    const bench = new Bench(2);
    expect(bench.run(openNode(1), openNode(1, 2))).toEqual([
      [ok, 0],
      [ok, 0],
    ]);
    expect(bench.machine.changes(1, 0, 99)).toEqual([]);
    bench.run(declareQueue('mine', { exclusive: owner(5) }), declareQueue('other', { exclusive: owner(5, 1, 2) }));
    const { index } = bench;
    bench.runAs(1, 4, [openNode(4)]);
    expect(bench.machine.node(1)).toMatchObject({ node: 1, name: 'n1', uuid: 'uuid-1', incarnation: 4, fencedTo: 3 });
    expect(bench.machine.queue('/', 'mine')).toBeUndefined();
    expect(bench.machine.queue('/', 'other')).toBeDefined();
    for (const shard of [1, 2])
      expect(bench.machine.changes(shard, index, 99).filter((row) => row.kind === 'fence')).toEqual([
        { kind: 'fence', version: index + 1, node: 1, incarnation: 3 },
      ]);
    expect(bench.told.fenced).toBe(1);
    expect(bench.machine.isFenced({ node: 1, incarnation: 1 })).toBe(true);
    expect(bench.machine.isFenced({ node: 1, incarnation: 4 })).toBe(false);
    // Nothing of the ended pipe is applied any more.
    bench.run(declareQueue('zombie'));
    expect(bench.machine.queue('/', 'zombie')).toBeUndefined();
  });

  it('are fenced once for each incarnation', () => {
    const bench = new Bench(2);
    bench.run(openNode(3, 2), declareQueue('q', { exclusive: owner(1, 3, 2) }));
    const rows = () => bench.machine.changes(1, 0, 99).filter((row) => row.kind === 'fence');
    expect(rows()).toHaveLength(1);
    expect(bench.code({ kind: 'fenceNode', node: 2, incarnation: 3 })).toBe(ok);
    expect(bench.code({ kind: 'fenceNode', node: 2, incarnation: 3 })).toBe(ok);
    expect(bench.code({ kind: 'fenceNode', node: 2, incarnation: 2 })).toBe(ok);
    expect(rows().map((row) => row.kind === 'fence' && row.incarnation)).toEqual([2, 3]);
    expect(bench.machine.queue('/', 'q')).toBeUndefined();
    expect(bench.code(openNode(3, 2))).toBe(refused);
    expect(bench.code(declareQueue('q', { exclusive: owner(1, 3, 2) }))).toBe(refused);
    expect(bench.code(openNode(4, 2))).toBe(ok);
    expect(rows()).toHaveLength(2);
    expect(bench.code(openNode(4, 2))).toBe(ok);
    expect(bench.code(declareQueue('q', { exclusive: owner(1, 4, 2) }))).toBe(ok);
    expect(bench.code({ kind: 'fenceNode', node: 7, incarnation: 3 })).toBe(notFound);
  });

  it('fenced ahead of their opening cannot open that incarnation', () => {
    const bench = new Bench();
    bench.run(openNode(1, 2));
    expect(bench.code({ kind: 'fenceNode', node: 2, incarnation: 2 })).toBe(ok);
    expect(bench.code(openNode(2, 2))).toBe(refused);
    expect(bench.code(openNode(3, 2))).toBe(ok);
  });

  it('keep number, name and UUID to themselves', () => {
    const bench = new Bench();
    bench.run(openNode(1, 1, 'u1', 'n1'), openNode(1, 2, 'u2', 'n2'));
    expect(bench.code(openNode(2, 1, 'other', 'n1'))).toBe(refused);
    expect(bench.code(openNode(2, 3, 'other', 'n1'))).toBe(refused);
    expect(bench.code(openNode(2, 3, 'u1', 'n3'))).toBe(refused);
    expect(bench.code(openNode(2, 2, 'u2', 'n1'))).toBe(refused);
    expect(bench.code(openNode(2, 2, 'u2', 'renamed'))).toBe(ok);
    expect(bench.code(openNode(1, 2, 'u2', 'renamed'))).toBe(refused);
    expect(Array.from(bench.machine.nodes(), ({ name, incarnation }) => [name, incarnation])).toEqual([
      ['n1', 1],
      ['renamed', 2],
    ]);
  });

  it('that end themselves hear so, and the rest of the batch is dropped', () => {
    const bench = new Bench();
    bench.run(openNode(1), declareQueue('a'));
    bench.run({ kind: 'fenceNode', node: 1, incarnation: 1 }, declareQueue('b'));
    expect(bench.told.fenced).toBe(1);
    expect(bench.told.applied).toEqual([1]);
    expect(bench.machine.queue('/', 'b')).toBeUndefined();
    bench.run(declareQueue('c'));
    expect(bench.told.fenced).toBe(1);
    expect(bench.machine.queue('/', 'c')).toBeUndefined();
  });
});

describe('batches', () => {
  it('are applied once, and their results are kept until they are acknowledged', () => {
    const bench = new Bench();
    const payload = bench.payload((b) => {
      b.addMetadata(JSON.stringify(declareQueue('a')));
      b.addMetadata(JSON.stringify(bind('amq.direct', 'a')));
      b.addMetadata(JSON.stringify(bind('amq.direct', 'none')));
    }, 1);
    bench.entry(payload);
    bench.entry(payload);
    const results = [
      [1, 0, ok, 1],
      [1, 2, notFound, 0],
    ];
    expect(bench.told).toEqual({ results, applied: [1], fenced: 0 });
    expect(bench.machine.lastSequence({ node: 1, incarnation: 1 })).toBe(1);
    bench.told.results.length = 0;
    bench.machine.resume({ node: 1, incarnation: 1 }, () => 0);
    expect(bench.told.results).toEqual(results);
    bench.told.results.length = 0;
    bench.acknowledged = 1;
    bench.sequence = 1;
    bench.run(unbind('amq.direct', 'none'));
    bench.machine.resume({ node: 1, incarnation: 1 }, () => 0);
    expect(bench.told.results).toEqual([]);
    // A gap is not filled by what follows it.
    bench.sequence = 5;
    bench.run(declareQueue('late'));
    expect(bench.machine.queue('/', 'late')).toBeUndefined();
    expect(bench.machine.status().pipeGaps).toBe(1);
  });

  it('of others are not told', () => {
    const bench = new Bench();
    bench.runAs(2, 1, [declareQueue('a')]);
    expect(bench.machine.queue('/', 'a')).toBeDefined();
    expect(bench.told).toEqual({ results: [], applied: [], fenced: 0 });
  });

  it('with commands of other machines: those are refused, settles are ignored', () => {
    const bench = new Bench();
    bench.entry(
      bench.payload((b) => {
        b.addPurge(1);
        b.addChanges(1, '[]');
        b.addMetadata(JSON.stringify(declareQueue('a')));
        b.addSettle(SettleOperation.accept, 0, 1, 0, 1);
      }, 1),
    );
    expect(bench.told.results).toEqual([
      [1, 0, refused, 0],
      [1, 1, refused, 0],
      [1, 2, ok, 1],
    ]);
  });

  it('that are malformed do nothing', () => {
    const bench = new Bench();
    const good = bench.payload((b) => addAll(b, [declareQueue('a')]), 1);
    for (const bytes of [
      Buffer.alloc(0),
      Buffer.alloc(80),
      good.subarray(0, good.length - 1),
      Buffer.concat([good, good]),
    ])
      bench.entry(bytes);
    expect(bench.told).toEqual({ results: [], applied: [], fenced: 0 });
    expect(bench.machine.appliedIndex).toBe(4);
    expect(bench.machine.status().malformed).toBe(4);
    const entry = { index: 4, term: 1, stamp: 0, machineVersion: 1, payload: good };
    expect(() => bench.machine.apply(entry)).toThrow(/after 4/);
    const unknown = latestVersion(machineVersions) + 1;
    expect(() => bench.machine.apply({ ...entry, index: 5, machineVersion: unknown })).toThrow(`version ${unknown}`);
  });

  it('have no live entries', () => {
    const bench = new Bench();
    bench.run(declareQueue('a'));
    expect(bench.machine.hasLiveEntries(0, 9)).toBe(false);
    expect([...bench.machine.liveEntries(0, 9)]).toEqual([]);
  });
});

describe('commands that make no sense are refused', () => {
  const deep = (depth: number): string => `${'{"table":{"a":'.repeat(depth)}1${'}}'.repeat(depth)}`;
  const queue = (rest: string): string =>
    `{"kind":"declareQueue","vhost":"/","name":"q","durable":true,"autoDelete":false,"exclusive":null,"arguments":{},"home":{"node":1,"incarnation":1},${rest}}`;
  it.each([
    '',
    'nonsense',
    'null',
    '[]',
    '7',
    '{}',
    '{"kind":"somethingNew"}',
    '{"kind":"toString"}',
    '{"kind":"deleteQueue"}',
    '{"kind":"deleteQueue","uid":-1}',
    '{"kind":"deleteQueue","uid":1.5}',
    '{"kind":"deleteQueue","uid":4294967296}',
    '{"kind":"deleteExclusive","owner":null}',
    '{"kind":"openNode","node":1,"name":"n","uuid":"u","incarnation":0}',
    '{"kind":"openNode","node":1,"name":"","uuid":"u","incarnation":1}',
    '{"kind":"openNode","node":1024,"name":"n","uuid":"u","incarnation":1}',
    '{"kind":"configureQueue","uid":1}',
    '{"kind":"configureQueue","uid":1.5,"arguments":{}}',
    '{"kind":"fenceNode","node":1}',
    '{"kind":"shardApplied","shard":"0","version":0}',
    '{"kind":"bind","vhost":"/","source":"amq.direct","routingKey":"","arguments":{}}',
    '{"kind":"bind","vhost":"/","source":"amq.direct","destination":{"kind":"planet","name":"q"},"routingKey":"","arguments":{}}',
    '{"kind":"declareExchange","vhost":"/","name":"x","type":"x-random","durable":true,"autoDelete":false,"internal":false,"arguments":{}}',
    queue('"durable":1'),
    queue('"name":7'),
    queue(`"name":"${'n'.repeat(256)}"`),
    queue(`"name":"${'€'.repeat(86)}"`),
    queue('"exclusive":{"node":1}'),
    queue('"exclusive":false'),
    queue('"exclusive":{"node":2,"incarnation":1,"connection":1}'),
    queue('"exclusive":{"node":1,"incarnation":2,"connection":1}'),
    queue('"home":null'),
    queue('"home":{"node":1}'),
    queue('"home":{"node":1,"incarnation":-1}'),
    queue('"durable":false'),
    queue('"arguments":null'),
    queue('"arguments":[]'),
    queue('"arguments":{"a":1e999}'),
    queue('"arguments":{"a":{}}'),
    queue('"arguments":{"a":{"int64":"x"}}'),
    queue('"arguments":{"a":{"decimal":[1]}}'),
    queue('"arguments":{"a":{"table":{},"bytes":""}}'),
    queue('"arguments":{"a":[{"table":[]}]}'),
    queue(`"arguments":{"a":${deep(40)}}`),
    queue(`"arguments":{"a":${'['.repeat(20_000)}${']'.repeat(20_000)}}`),
  ])('%#: %.60s', (text) => {
    const bench = new Bench();
    const { topologyVersion } = bench.machine;
    expect(bench.run(text, declareQueue('after'))).toEqual([
      [refused, 0],
      [ok, 1],
    ]);
    expect(bench.machine.topologyVersion).toBe(topologyVersion + 1);
  });

  it('but unknown fields are ignored, and what fits is taken', () => {
    const bench = new Bench();
    bench.run(openNode(1));
    expect(bench.code(queue('"colour":"red"'))).toBe(ok);
    expect(Object.keys(bench.machine.queue('/', 'q')!)).not.toContain('colour');
    expect(bench.code(queue(`"name":"deep","arguments":{"a":${deep(31)}}`))).toBe(ok);
    expect(bench.code(queue(`"name":"${'€'.repeat(85)}"`))).toBe(ok);
    expect(bench.code(queue('"name":"proto","arguments":{"__proto__":{"table":{"__proto__":1}}}'))).toBe(ok);
  });
});

it('declares 10,000 queues and 10,000 bindings quickly, and deletes them', () => {
  const bench = new Bench(12);
  // Of the processor, not of the clock: others may be running, too.
  const started = process.cpuUsage();
  const each = (command: (i: number) => MetadataCommand): void => {
    for (let i = 0; i < 10_000; i++) {
      bench.acknowledged = bench.sequence;
      bench.run(command(i));
    }
  };
  each((i) => declareQueue(`queue ${i}`));
  each((i) => bind('amq.fanout', `queue ${i}`));
  expect(bench.route('amq.fanout')).toHaveLength(10_000);
  each((i) => ({ kind: 'deleteQueue', uid: i + 1 }));
  expect(bench.machine.status()).toMatchObject({ queues: 0, bindings: 0 });
  expect(process.cpuUsage(started).user / 1_000).toBeLessThan(4_000);
}, 60_000);
