// The state of the metadata machine as a whole: snapshots, hash, and replicas that stay equal whatever comes.

import { describe, expect, it } from 'vitest';
import { ResultCode } from '../../cluster/machine/commands.ts';
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
  openNode,
  owner,
  unbind,
} from './metadata-support.ts';

const { ok, inequivalent, notFound } = ResultCode;

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
  ];
  bench.runAs(2, 1, rest);
  return bench;
}

describe('snapshots', () => {
  const bytesOf = (bench: Bench): Buffer => Buffer.concat(drain(bench.machine.snapshot()));

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
      (b: Bench) => [1, 2, 3].map((shard) => b.machine.changes(shard, 0, 99)),
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
    const copy = new MetadataMachine({ shards: 3 });
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
    const newer = Buffer.from(bytes);
    newer.writeUInt32LE(3, 4);
    expect(() => bench.machine.restore(newer)).toThrow(/version 3/);
    expect(() => new MetadataMachine({ shards: 4 }).restore(bytes)).toThrow(/3 shards/);
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
    const command = (): MetadataCommand => {
      const to = random(2) === 0 ? name() : `>${exchange()}`;
      const key = ['', 'k', '#', '*.k'][random(4)]!;
      const exclusive = random(3) === 0 ? owner(random(3), 1 + random(4), random(2)) : null;
      const commands: (() => MetadataCommand)[] = [
        () => declareQueue(name(), { exclusive, arguments: table() }),
        () => ({ kind: 'deleteQueue', uid: random(60) }),
        () => ({ kind: 'deleteExclusive', owner: owner(random(3), 1 + random(4), random(2)) }),
        () =>
          declareExchange(name(), (['direct', 'fanout', 'topic', 'headers'] as const)[random(4)]!, {
            autoDelete: random(2) === 0,
            arguments: random(2) === 0 ? { 'alternate-exchange': name() } : {},
          }),
        () => deleteExchange(name(), random(2) === 0),
        () => bind(exchange(), to, key, table()),
        () => bind(exchange(), to, key, table()),
        () => unbind(exchange(), to, key, table()),
        () => openNode(1 + random(8), random(3)),
        () => ({ kind: 'fenceNode', node: random(3), incarnation: random(6) }),
        () => ({ kind: 'shardApplied', shard: 1 + random(3), version: random(100) }),
      ];
      return commands[random(commands.length)]!();
    };
    for (let round = 0; round < 12; round++) {
      const one = new Bench(3);
      const other = new Bench(3);
      for (let step = 0; step < 60; step++) {
        // A node of its own, which no command ends.
        const commands = Array.from({ length: 1 + random(4) }, command);
        const payload = one.payload((b) => addAll(b, commands), step + 1, 99, 1);
        one.entry(payload);
        other.entry(payload);
        expect(other.machine.stateHash(), `seed ${seed}, round ${round}, step ${step}`).toBe(one.machine.stateHash());
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
