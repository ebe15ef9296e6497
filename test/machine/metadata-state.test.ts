// The state of the metadata machine as a whole: snapshots, hash, and replicas that stay equal whatever comes.

import { describe, expect, it } from 'vitest';
import { ResultCode } from '../../cluster/machine/commands.ts';
import { volatileGroupOf } from '../../cluster/machine/groups.ts';
import type { PipeSink } from '../../cluster/machine/machine.ts';
import { type BindingRecord, MetadataMachine } from '../../cluster/machine/metadata.ts';
import type { Arguments, ExchangeType, MetadataCommand } from '../../cluster/machine/metadata-types.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import {
  addAll,
  Bench,
  bind,
  declareExchange,
  declareQueue,
  deleteExchange,
  formedOf,
  openNode,
  owner,
  unbind,
} from './metadata-support.ts';

const { ok, inequivalent, notFound } = ResultCode;
const groupOf = (node: number, incarnation: number): number => volatileGroupOf({ node, incarnation });

/** A machine with something of everything. */
function richBench(): Bench {
  const bench = new Bench(3);
  bench.run(
    openNode(1),
    openNode(1, 2),
    openNode(5, 3),
    declareQueue('a'),
    declareQueue('b', { arguments: { 'x-max-length': 5, t: { table: { z: [1, null] } } }, durable: false }),
    declareQueue('e', { exclusive: owner(3, 1, 2), autoDelete: true }),
    declareExchange('x', 'topic', { arguments: { 'alternate-exchange': 'amq.fanout' } }),
    declareExchange('auto', 'headers', { autoDelete: true }),
  );
  const rest: MetadataCommand[] = [
    { kind: 'deleteQueue', uid: 1 },
    declareQueue('a'),
    bind('x', 'a', 'k.#'),
    bind('x', '>auto', '*.h'),
    bind('auto', 'b', '', { 'x-match': 'any', p: 1, __proto__: null }),
    bind('amq.fanout', 'e'),
    bind('amq.fanout', 'none'),
    { kind: 'shardApplied', shard: 2, version: 1 },
    declareQueue('b'),
    { kind: 'configureQueue', uid: 4, arguments: { 'x-max-length': 9 } },
    { kind: 'configureQueue', uid: 2, arguments: {} },
  ];
  bench.runAs(2, 1, rest);
  return bench;
}

const bytesOf = ({ machine }: Bench): Buffer => Buffer.concat(drain(machine.snapshot()));

describe('snapshots', () => {
  it('restore everything, byte for byte', () => {
    const bench = richBench();
    const copy = new Bench(3);
    const before = copy.machine.topologyVersion;
    copy.machine.restore(bytesOf(bench));
    expect(copy.machine.topologyVersion).toBeGreaterThan(before);
    expect(bytesOf(copy).equals(bytesOf(bench))).toBe(true);
    expect(copy.machine.stateHash()).toBe(bench.machine.stateHash());
    expect(copy.machine.appliedIndex).toBe(bench.machine.appliedIndex);
    for (const read of [
      (b: Bench) => [...b.machine.queues()],
      (b: Bench) => [...b.machine.exchanges()],
      (b: Bench) => [...b.machine.bindings()],
      (b: Bench) => [...b.machine.nodes()],
      (b: Bench) => [1, 2, 3, groupOf(1, 1), groupOf(2, 1)].map((group) => b.machine.changes(group, 0, 99)),
      (b: Bench) => [2, 3, 4].map((uid) => b.machine.effectiveArguments(uid)),
      (b: Bench) => b.route('x', 'k.h', { p: 1 }),
      (b: Bench) => b.route('x', 'nobody'),
      (b: Bench) => b.machine.status().queuesPerShard,
      (b: Bench) => b.machine.lastSequence({ node: 2, incarnation: 1 }),
    ])
      expect(read(copy)).toEqual(read(bench));
    expect(bench.route('x', 'k.h', { p: 1 })).toEqual(['a', 'b']);

    // Both go on alike.
    copy.index = bench.index;
    for (const one of [bench, copy]) {
      one.sequence = 0;
      one.runAs(2, 2, [openNode(2, 2)]);
      one.runAs(2, 2, [declareQueue('more'), deleteExchange('x'), { kind: 'deleteQueue', uid: 2 }], 2);
      expect(one.machine.queue('/', 'e')).toBeUndefined();
      expect(one.machine.exchange('/', 'auto')).toBeUndefined();
    }
    expect(bytesOf(copy).equals(bytesOf(bench))).toBe(true);
  });

  it('tell the watcher what it missed', () => {
    const bench = richBench();
    const results: number[][] = [];
    const copy = new MetadataMachine({ shards: 3, initial: formedOf(3) });
    const sink = { ...silent, result: (...told: number[]) => void results.push(told.slice(0, 4)) };
    copy.watch({ node: 2, incarnation: 1 }, sink);
    copy.restore(bytesOf(bench));
    copy.resume({ node: 2, incarnation: 1 }, () => 0);
    expect(results).toEqual([
      [1, 1, ok, 4],
      [1, 6, notFound, 0],
      [1, 8, inequivalent, 0],
    ]);
    let fenced = 0;
    copy.watch({ node: 3, incarnation: 4 }, { ...silent, fenced: () => void fenced++ });
    copy.resume({ node: 3, incarnation: 4 }, () => 0);
    expect(fenced).toBe(1);
  });

  it('replace what was there, and never a version of the topology', () => {
    const bench = richBench();
    const other = new Bench(3);
    for (let i = 0; i < 50; i++) other.run(declareQueue(`old ${i}`));
    const before = other.machine.topologyVersion;
    expect(other.route('', 'old 1')).toEqual(['old 1']);
    other.machine.restore(bytesOf(bench));
    expect(other.machine.topologyVersion).toBeGreaterThan(before);
    expect(other.route('', 'old 1')).toEqual([]);
    expect(other.machine.stateHash()).toBe(bench.machine.stateHash());
  });

  it('are of the moment when they began, and the same in whatever pieces', () => {
    const bench = richBench();
    const names = Array.from({ length: 700 }, (_, i) => `queue ${i}`);
    for (const name of names) bench.runAs(9, bench.index, [declareQueue(name), bind('x', name, name)]);
    const whole = bytesOf(bench);
    const inPieces = (bytesMax: number, between: (piece: number) => void): Buffer => {
      const pieces = bench.machine.snapshot();
      const parts: Buffer[] = [];
      for (let piece = pieces.next(bytesMax); piece !== null; piece = pieces.next(bytesMax)) {
        parts.push(piece);
        expect(piece.length).toBeLessThan(bytesMax + 40_000);
        between(parts.length);
      }
      pieces.close();
      return Buffer.concat(parts);
    };
    expect(inPieces(1, () => {}).equals(whole)).toBe(true);
    expect(inPieces(10_000, () => {}).equals(whole)).toBe(true);
    const changed = inPieces(1, (piece) => {
      const name = names[piece % names.length]!;
      const uid = bench.machine.queue('/', name)?.uid ?? 0;
      bench.runAs(9, bench.index, [
        { kind: 'configureQueue', uid, arguments: { piece } },
        declareQueue(`later ${piece}`),
        bind('amq.topic', names[piece + 1]!, 'k'),
        unbind('x', names[piece + 2]!, names[piece + 2]!),
        { kind: 'deleteQueue', uid: uid + 5 },
        piece === 4 ? openNode(2, 2) : openNode(1, 4),
        piece === 6 ? deleteExchange('x') : { kind: 'shardApplied', shard: 1, version: bench.index - 2 },
      ]);
    });
    expect(changed.equals(whole)).toBe(true);
    expect(bytesOf(bench).equals(whole)).toBe(false);
    bench.machine.snapshot().close();
  });

  it('that are damaged, foreign or of another make are refused and change nothing', () => {
    const bench = richBench();
    const bytes = bytesOf(bench);
    const hash = bench.machine.stateHash();
    for (let at = 0; at < bytes.length; at += 13) {
      const damaged = Buffer.from(bytes);
      damaged[at]! ^= 0x10;
      expect(() => bench.machine.restore(damaged), `byte ${at}`).toThrow();
    }
    expect(() => bench.machine.restore(bytes.subarray(0, bytes.length - 1))).toThrow();
    expect(() => bench.machine.restore(Buffer.alloc(0))).toThrow();
    // Whole blocks that are missing at the end, or in the middle, are missed as well.
    const blocks: number[] = [];
    for (let at = 8; at < bytes.length; at += 12 + bytes.readUInt32LE(at + 4)) blocks.push(at);
    expect(blocks.length).toBeGreaterThan(5);
    for (const [i, start] of blocks.entries()) {
      const end = blocks[i + 1] ?? bytes.length;
      expect(() => bench.machine.restore(bytes.subarray(0, start))).toThrow();
      expect(() => bench.machine.restore(Buffer.concat([bytes.subarray(0, start), bytes.subarray(end)]))).toThrow();
      const doubled = Buffer.concat([bytes.subarray(0, end), bytes.subarray(start)]);
      expect(() => bench.machine.restore(doubled)).toThrow();
    }
    const newer = Buffer.from(bytes);
    newer.writeUInt32LE(9, 4);
    expect(() => bench.machine.restore(newer)).toThrow(/version 9/);
    expect(() => new MetadataMachine({ shards: 4, initial: formedOf(3) }).restore(bytes)).toThrow(/3 shards/);
    expect(bench.machine.stateHash()).toBe(hash);
  });
});

const silent: PipeSink = {
  batchApplied: () => {},
  result: () => {},
  lease: () => {},
  consumerCancelled: () => {},
  fenced: () => {},
};

describe('the state hash', () => {
  it('sees every kind of change', () => {
    const bench = richBench();
    const seen = new Set([bench.machine.stateHash()]);
    bench.index++;
    const changes: MetadataCommand[] = [
      openNode(2, 2),
      { kind: 'fenceNode', node: 2, incarnation: 2 },
      declareQueue('n'),
      { kind: 'configureQueue', uid: 5, arguments: { a: 1 } },
      { kind: 'configureQueue', uid: 5, arguments: {} },
      { kind: 'deleteQueue', uid: 5 },
      declareExchange('n', 'direct'),
      bind('n', 'a'),
      unbind('n', 'a'),
      deleteExchange('n'),
      { kind: 'shardApplied', shard: 1, version: 1 },
    ];
    for (const change of changes) {
      bench.runAs(100 + bench.index, 1, [change]);
      expect(seen.has(bench.machine.stateHash()), change.kind).toBe(false);
      seen.add(bench.machine.stateHash());
    }
  });

  it('is the same after random commands on a replica that starts from snapshots', () => {
    const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
    let state = seed;
    const random = (bound: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return (state >>> 8) % bound;
    };
    const name = (): string => 'abcdef'[random(6)]!;
    const exchange = (): string => (random(3) === 0 ? 'amq.topic' : name());
    const table = (): Arguments => (random(3) === 0 ? { 'x-expires': random(2), 'x-match': 'any' } : {});
    const command = (machine: MetadataMachine): MetadataCommand => {
      const to = random(2) === 0 ? name() : `>${exchange()}`;
      const key = ['', 'k', '#', '*.k'][random(4)]!;
      const node = random(3);
      const incarnation = random(6) === 0 ? 1 + random(4) : (machine.node(node)?.incarnation ?? 1);
      const exclusive = random(3) === 0 ? owner(random(3), incarnation, node) : null;
      const durable = random(2) === 0;
      const commands: (() => MetadataCommand)[] = [
        () => declareQueue(name(), { exclusive, durable, home: { node, incarnation }, arguments: table() }),
        () => declareQueue(name(), { exclusive, durable, home: { node, incarnation }, arguments: table() }),
        () => ({ kind: 'deleteQueue', uid: random(60) }),
        () => ({ kind: 'configureQueue', uid: random(60), arguments: table() }),
        () => ({ kind: 'deleteExclusive', owner: owner(random(3), incarnation, node) }),
        () =>
          declareExchange(name(), (['direct', 'fanout', 'topic', 'headers'] as const)[random(4)]!, {
            autoDelete: random(2) === 0,
            arguments: random(2) === 0 ? { 'alternate-exchange': name() } : {},
          }),
        () => deleteExchange(name(), random(2) === 0),
        () => bind(exchange(), to, key, table()),
        () => bind(exchange(), to, key, table()),
        () => unbind(exchange(), to, key, table()),
        () => openNode((machine.node(node)?.incarnation ?? 1) + random(2), node),
        () => ({ kind: 'fenceNode', node, incarnation: incarnation - random(2) }),
        () => ({ kind: 'shardApplied', shard: 1 + random(3), version: random(100) }),
      ];
      return commands[random(commands.length)]!();
    };
    for (let round = 0; round < 16; round++) {
      // So few that some of the queues of an ended incarnation are left for later entries.
      const one = new Bench(3, { versions: [{ debtItemsPerEntry: 1 }] });
      const other = new Bench(3, { versions: [{ debtItemsPerEntry: 1 }] });
      for (let step = 0; step < 60; step++) {
        // A node of its own, which no command ends.
        const commands = Array.from({ length: 1 + random(4) }, () => command(one.machine));
        const payload = one.payload((b) => addAll(b, commands), step + 1, 99, 1);
        one.entry(payload);
        other.entry(payload);
        expect(other.machine.stateHash(), `seed ${seed}, round ${round}, step ${step}`).toBe(one.machine.stateHash());
        expectConsistent(one.machine);
        if (random(10) > 0) continue;
        const bytes = Buffer.concat(drain(one.machine.snapshot()));
        expect(Buffer.concat(drain(other.machine.snapshot())).equals(bytes), `seed ${seed}, round ${round}`).toBe(true);
        other.machine.restore(bytes);
      }
      for (const source of 'abcdef') {
        const routed = one.route(source, 'k', { 'x-expires': 1 });
        expect(routed, `seed ${seed}`).toEqual(slowRoute(one.machine, source, 'k', { 'x-expires': 1 }));
        expect(other.route(source, 'k', { 'x-expires': 1 })).toEqual(routed);
      }
    }
  });
});

/** Whatever is seen of queues, bindings and rows fits the nodes that are open. */
function expectConsistent(machine: MetadataMachine): void {
  const queues = [...machine.queues()];
  const groups = new Set([1, 2, 3]);
  for (const { node, incarnation } of machine.nodes())
    if (machine.isOpen(node, incarnation)) groups.add(groupOf(node, incarnation));
  for (const queue of queues) {
    expect(groups.has(queue.shard)).toBe(true);
    expect(queue.home === null).toBe(queue.durable && queue.exclusive === null);
    expect(machine.queue('/', queue.name)).toBe(queue);
    expect(machine.queueByUid(queue.uid)).toBe(queue);
    expect(machine.route('/', '', queue.name, () => ({}))?.shards).toEqual([
      { shard: queue.shard, queues: [queue.uid] },
    ]);
  }
  const status = machine.status();
  expect(status.queues).toBe(queues.length);
  expect(status.queuesPerShard).toEqual([1, 2, 3].map((shard) => queues.filter((q) => q.shard === shard).length));
  for (const group of status.rowsPerGroup.keys()) expect(groups.has(group)).toBe(true);
  for (const { destination } of machine.bindings())
    if (destination.kind === 'queue') expect(machine.queue('/', destination.name)).toBeDefined();
}

/** Where a message goes, found from the plain list of bindings. Knows only the keys and arguments of the test above. */
function slowRoute(machine: MetadataMachine, start: string, key: string, headers: Arguments): string[] | null {
  if (machine.exchange('/', start) === undefined) return null;
  const all = [...machine.bindings()];
  const takes = (type: ExchangeType, { routingKey, arguments: table }: BindingRecord): boolean => {
    if (type === 'fanout') return true;
    if (type === 'direct') return routingKey === key;
    if (type === 'topic') return routingKey === key || routingKey === '#';
    // Without fields that count, `all` takes everything and `any` nothing.
    expect(headers).not.toEqual({});
    return table['x-match'] !== 'any';
  };
  const queues = new Set<string>();
  const seen = new Set<string>();
  const visit = (name: string): void => {
    const exchange = machine.exchange('/', name);
    if (exchange === undefined || seen.has(name)) return;
    seen.add(name);
    const taken = all.filter((one) => one.source === name && takes(exchange.type, one));
    for (const { destination } of taken) {
      if (destination.kind === 'queue') queues.add(destination.name);
      else visit(destination.name);
    }
    const alternate = exchange.arguments['alternate-exchange'];
    if (taken.length === 0 && typeof alternate === 'string') visit(alternate);
  };
  visit(start);
  return [...queues].sort();
}
