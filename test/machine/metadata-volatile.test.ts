// Queues that live and end with the incarnation that declared them: where they are, what their group is asked to do, and how they go.

import { describe, expect, it } from 'vitest';
import { BatchBuilder, OriginKind, ResultCode } from '../../cluster/machine/commands.ts';
import { isVolatileGroup, volatileGroupOf } from '../../cluster/machine/groups.ts';
import type { MetadataCommand } from '../../cluster/machine/metadata-types.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import {
  addAll,
  Bench,
  bind,
  type CommandOf,
  declareExchange,
  declareQueue,
  deleteExchange,
  openNode,
  owner,
  unbind,
} from './metadata-support.ts';

const { ok, refused, notFound } = ResultCode;
const groupOf = (node: number, incarnation = 1): number => volatileGroupOf({ node, incarnation });
const fenceNode = (node: number, incarnation = 1): MetadataCommand => ({ kind: 'fenceNode', node, incarnation });
const configure = (uid: number, table: CommandOf<'configureQueue'>['arguments']): MetadataCommand => ({
  kind: 'configureQueue',
  uid,
  arguments: table,
});
const volatile = (name: string, node = 1, incarnation = 1): MetadataCommand =>
  declareQueue(name, { durable: false, home: { node, incarnation } });

/** Nodes 1 and 2 are open; nobody ends node 9, through which everything is asked. */
class Cluster extends Bench {
  #asked = 0;

  constructor(...options: ConstructorParameters<typeof Bench>) {
    super(...options);
    this.ask(openNode(1), openNode(1, 2));
  }

  ask(...commands: MetadataCommand[]): void {
    this.runAs(9, 1, commands, ++this.#asked);
  }

  /** What a leader appends by itself: no commands, only a place in the log. */
  tick(term: number, sequence: number): void {
    const builder = new BatchBuilder(64);
    this.entry(builder.seal({ kind: OriginKind.group, id: 0, incarnation: term }, sequence, 0, 0));
  }

  names(): string[] {
    return Array.from(this.machine.queues(), (queue) => queue.name);
  }

  rows(group: number): [kind: string, of: number][] {
    return this.machine
      .changes(group, 0, this.index)
      .map((row) => [row.kind, row.kind === 'fence' ? row.node : row.uid]);
  }

  bytes(): Buffer {
    return Buffer.concat(drain(this.machine.snapshot()));
  }
}

describe('volatile queues', () => {
  it.each<[string, Partial<CommandOf<'declareQueue'>>, boolean]>([
    ['exclusive', { exclusive: owner(7) }, true],
    ['exclusive and not durable', { exclusive: owner(7), durable: false }, true],
    ['not durable', { durable: false }, true],
    ['not durable, auto-delete', { durable: false, autoDelete: true }, true],
    ['durable', {}, false],
    ['durable, auto-delete', { autoDelete: true }, false],
  ])('%s: in its home %#', (_, rest, isVolatile) => {
    const bench = new Cluster();
    bench.ask(declareQueue('q', rest));
    const queue = bench.machine.queue('/', 'q')!;
    expect(isVolatileGroup(queue.shard)).toBe(isVolatile);
    expect(queue.home).toEqual(isVolatile ? { node: 1, incarnation: 1 } : null);
    if (isVolatile) expect(queue.shard).toBe(groupOf(1));
    expect(bench.machine.status().queuesPerShard.reduce((sum, count) => sum + count)).toBe(isVolatile ? 0 : 1);
    expect(bench.rows(queue.shard)).toEqual([['create', queue.uid]]);
    expect(bench.machine.route('/', '', 'q', () => ({}))?.shards).toEqual([
      { shard: queue.shard, queues: [queue.uid] },
    ]);
  });

  it('are refused unless their home is open', () => {
    const bench = new Cluster();
    bench.ask(openNode(3), fenceNode(2));
    const homes = [
      { node: 1, incarnation: 2 },
      { node: 1, incarnation: 4 },
      { node: 2, incarnation: 1 },
      { node: 5, incarnation: 1 },
    ];
    for (const { node, incarnation } of homes) {
      expect(bench.machine.isOpen(node, incarnation)).toBe(false);
      bench.ask(volatile('q', node, incarnation), declareQueue('x', { exclusive: owner(7, incarnation, node) }));
    }
    expect(bench.names()).toEqual([]);
    expect(bench.machine.isOpen(1, 3)).toBe(true);
    bench.ask(volatile('q', 1, 3));
    // A durable one belongs to nobody: its home does not matter.
    bench.ask(declareQueue('durable', { home: { node: 5, incarnation: 1 } }));
    expect(bench.names()).toEqual(['q', 'durable']);
  });

  it('tell their group what to do, as shards are told', () => {
    const bench = new Cluster();
    expect(bench.machine.changes(groupOf(1), 0, 99)).toEqual([]);
    expect(bench.machine.shardAppliedTo(groupOf(1))).toBe(0);
    bench.ask(volatile('a'), volatile('b'), declareQueue('x', { exclusive: owner(7) }), volatile('other', 2));
    bench.ask({ kind: 'deleteQueue', uid: 2 }, { kind: 'deleteExclusive', owner: owner(7) });
    const group = groupOf(1);
    expect(bench.rows(group)).toEqual([
      ['create', 1],
      ['create', 2],
      ['create', 3],
      ['delete', 2],
      ['delete', 3],
    ]);
    expect(bench.rows(groupOf(2))).toEqual([['create', 4]]);
    bench.ask({ kind: 'shardApplied', shard: group, version: 2 });
    expect(bench.rows(group)).toEqual([
      ['delete', 2],
      ['delete', 3],
    ]);
    expect(bench.machine.shardAppliedTo(group)).toBe(2);
    expect(bench.names()).toEqual(['a', 'other']);
  });

  it('do not matter to where others go', () => {
    const bench = new Cluster(3);
    for (let i = 0; i < 9; i++) bench.ask(volatile(`v${i}`), declareQueue(`q${i}`, { near: [2] }));
    const without = new Cluster(3);
    for (let i = 0; i < 9; i++) without.ask(declareQueue(`q${i}`, { near: [2] }));
    expect(bench.machine.status().queuesPerShard).toEqual(without.machine.status().queuesPerShard);
  });
});

describe('the end of an incarnation', () => {
  it.each([
    ['declared', fenceNode(1)],
    ['by the next one', openNode(2)],
    ['by one further on', fenceNode(1, 5)],
  ])('takes its queues, bindings and rows: %s', (_, end) => {
    const bench = new Cluster();
    bench.ask(
      volatile('a'),
      declareQueue('x', { exclusive: owner(7) }),
      volatile('other', 2),
      declareQueue('stays'),
      declareExchange('auto', 'fanout', { autoDelete: true }),
      declareExchange('front', 'fanout', { arguments: { 'alternate-exchange': 'amq.fanout' } }),
      bind('auto', 'a'),
      bind('front', 'x'),
      bind('amq.fanout', 'stays'),
      bind('amq.fanout', 'other'),
      bind('amq.fanout', 'x'),
    );
    expect(bench.route('front')).toEqual(['x']);
    bench.ask(end);
    expect(bench.names()).toEqual(['other', 'stays']);
    expect(bench.machine.exchange('/', 'auto')).toBeUndefined();
    expect(bench.route('front')).toEqual(['other', 'stays']);
    expect(bench.machine.changes(groupOf(1), 0, 99)).toEqual([]);
    expect([...bench.machine.status().rowsPerGroup.keys()]).toEqual([1, 2, 3, groupOf(2)]);
    // Its pipes to other nodes' groups end there, too.
    for (const group of [1, 2, 3, groupOf(2)]) expect(bench.rows(group).at(-1)).toEqual(['fence', 1]);
    const { index } = bench;
    bench.ask({ kind: 'deleteExclusive', owner: owner(7) }, { kind: 'deleteQueue', uid: 1 }, configure(1, {}));
    bench.ask({ kind: 'shardApplied', shard: groupOf(1), version: index });
    expect(bench.machine.changes(groupOf(1), 0, 99)).toEqual([]);
    expect(bench.names()).toEqual(['other', 'stays']);
  });

  it('leaves queues to be removed that nobody sees any more', () => {
    const bench = new Cluster(3, { versions: [{ debtItemsPerEntry: 4 }] });
    bench.ask(
      declareExchange('auto', 'topic', { autoDelete: true, arguments: { 'alternate-exchange': 'amq.fanout' } }),
      declareQueue('stays'),
      bind('amq.fanout', 'stays'),
    );
    for (let i = 0; i < 10; i++)
      bench.ask(
        declareQueue(`x${i}`, { exclusive: owner(i % 2) }),
        bind('auto', `x${i}`, '#'),
        bind('auto', `x${i}`, 'k'),
      );
    expect(bench.machine.due).toBe(Number.POSITIVE_INFINITY);
    bench.ask(fenceNode(1));
    expect(bench.machine.due).toBe(0);
    // Two of them went with that very entry, with two bindings each.
    expect(bench.machine.status()).toMatchObject({ queues: 1, bindings: 17 });
    expect(bench.names()).toEqual(['stays']);
    expect(bench.machine.queueByUid(11)).toBeUndefined();
    expect(bench.machine.effectiveArguments(11)).toBeUndefined();
    expect(bench.bindings()).toEqual(['amq.fanout-->stays']);
    expect([...bench.machine.bindingsFrom('/', 'auto')]).toEqual([]);
    expect([...bench.machine.bindingsTo('/', 'queue', 'x9')]).toEqual([]);
    expect(bench.machine.isBound({ ...bind('auto', 'x9', 'k'), vhost: '/' } as CommandOf<'bind'>)).toBe(false);
    expect(bench.route('auto', 'k')).toEqual(['stays']);
    expect(bench.route('', 'x9')).toEqual([]);
    for (let sequence = 1; bench.machine.due === 0; sequence++) {
      expect(sequence).toBeLessThan(9);
      bench.tick(3, sequence);
    }
    expect(bench.machine.status()).toMatchObject({ queues: 1, bindings: 1 });
    expect(bench.machine.exchange('/', 'auto')).toBeUndefined();
    expect(bench.machine.due).toBe(Number.POSITIVE_INFINITY);
  });

  it('gives names free at once, and commands to what is gone do nothing', () => {
    const bench = new Cluster(3, { versions: [{ debtItemsPerEntry: 1 }] });
    bench.ask(declareExchange('d', 'direct'));
    for (let i = 0; i < 20; i++) bench.ask(declareQueue(`x${i}`, { exclusive: owner(1) }), bind('d', `x${i}`, 'k'));
    bench.ask(openNode(2));
    const run = (...commands: MetadataCommand[]): ResultCode[] => {
      const before = bench.machine.lastSequence({ node: 8, incarnation: 1 });
      const codes = commands.map((): ResultCode => ok);
      const sink = {
        batchApplied: () => {},
        result: (_sequence: number, ordinal: number, code: ResultCode) => void (codes[ordinal] = code),
        lease: () => {},
        consumerCancelled: () => {},
        fenced: () => {},
      };
      bench.machine.watch({ node: 8, incarnation: 1 }, sink);
      bench.entry(bench.payload((builder) => addAll(builder, commands), before + 1, 8, 1));
      return codes;
    };
    expect(
      run(bind('amq.direct', 'x15', 'k'), unbind('d', 'x15', 'k'), configure(16, {}), { kind: 'deleteQueue', uid: 16 }),
    ).toEqual([notFound, ok, notFound, ok]);
    expect(run(declareQueue('x15'), bind('d', 'x15', 'k'), volatile('x16', 1, 2), volatile('x17', 1, 1))).toEqual([
      ok,
      ok,
      ok,
      refused,
    ]);
    expect(bench.names()).toEqual(['x15', 'x16']);
    expect(bench.route('d', 'k')).toEqual(['x15']);
    expect(bench.rows(groupOf(1, 2))).toEqual([['create', 22]]);
    expect(bench.machine.due).toBe(0);
    // Nothing but what is gone leads from it: it is not in use.
    expect(run({ kind: 'deleteQueue', uid: 21 }, deleteExchange('d', true))).toEqual([ok, ok]);
    for (let sequence = 1; bench.machine.due === 0; sequence++) bench.tick(3, sequence);
    expect(bench.names()).toEqual(['x16']);
    expect(bench.machine.status()).toMatchObject({ queues: 1, bindings: 0 });
  });

  it('is the same for a replica that starts in the middle of it', () => {
    const bench = new Cluster(3, { versions: [{ debtItemsPerEntry: 3 }] });
    // Two that end at once, the one with the greater number first; and its queues in another order than the names.
    for (let i = 0; i < 12; i++)
      bench.ask(volatile(`two ${20 - i}`, 2), volatile(`one ${i}`), bind('amq.topic', `one ${i}`, `${i % 3}`));
    bench.ask(configure(3, { a: 1 }), configure(23, { a: 1 }));
    bench.ask(fenceNode(2), fenceNode(1));
    while (bench.machine.due === 0) {
      const copy = new Bench(3, { versions: [{ debtItemsPerEntry: 3 }] });
      copy.machine.restore(bench.bytes());
      copy.index = bench.index;
      expect(copy.machine.due).toBe(0);
      expect(copy.machine.status()).toEqual({ ...bench.machine.status(), routeQueuesKept: 0 });
      bench.ask(volatile('late'));
      copy.runAs(9, 1, [volatile('late')], bench.machine.lastSequence({ node: 9, incarnation: 1 }));
      expect(copy.machine.stateHash()).toBe(bench.machine.stateHash());
      expect(Buffer.concat(drain(copy.machine.snapshot())).equals(bench.bytes())).toBe(true);
    }
    expect(bench.names()).toEqual([]);
  });

  it('of 10,000 queues costs no entry much', () => {
    const bench = new Cluster();
    for (let i = 0; i < 10_000; i += 100)
      bench.ask(
        ...Array.from({ length: 100 }, (_, k) => declareQueue(`reply ${i + k}`, { exclusive: owner(i + k) })),
        ...Array.from({ length: 100 }, (_, k) => bind('amq.direct', `reply ${i + k}`, `${i + k}`)),
      );
    bench.ask(fenceNode(1));
    expect(bench.names()).toEqual([]);
    const left: number[] = [];
    for (let sequence = 1; bench.machine.due === 0; sequence++) {
      left.push(bench.machine.status().bindings);
      bench.tick(3, sequence);
    }
    expect(left).toHaveLength(4);
    expect(left[0]).toBe(10_000 - 2_048);
  });
});

describe('configured arguments', () => {
  it('reach the queue’s group, and leave the declaration alone', () => {
    const bench = new Cluster(1);
    bench.ask(declareQueue('q', { arguments: { 'x-max-length': 5 } }), volatile('v'));
    const { topologyVersion } = bench.machine;
    const { index } = bench;
    bench.ask(configure(1, { 'x-max-length': 3 }), configure(2, { 'x-expires': 9 }), configure(7, {}));
    expect(bench.machine.changes(1, index, 99)).toEqual([
      { kind: 'configure', version: index + 1, uid: 1, arguments: { 'x-max-length': 3 } },
    ]);
    expect(bench.rows(groupOf(1))).toEqual([
      ['create', 2],
      ['configure', 2],
    ]);
    expect(bench.machine.topologyVersion).toBe(topologyVersion);
    expect(bench.machine.queueByUid(1)?.arguments).toEqual({ 'x-max-length': 5 });
    expect(bench.machine.effectiveArguments(1)).toEqual({ 'x-max-length': 3 });
    // The same again, in another writing, asks nothing of the group.
    bench.ask(configure(1, { 'x-max-length': { int64: '3' } }));
    expect(bench.machine.changes(1, index + 1, 99)).toEqual([]);
    bench.ask(configure(1, { 'x-max-length': 5 }));
    expect(bench.machine.changes(1, index + 1, 99)).toHaveLength(1);
    bench.ask({ kind: 'deleteQueue', uid: 1 }, declareQueue('q'));
    expect(bench.machine.effectiveArguments(1)).toBeUndefined();
    expect(bench.machine.effectiveArguments(3)).toEqual({});
  });
});
