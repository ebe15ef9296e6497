// The shard machine against its slow twin, over random batches: also repeated, missing, fenced and senseless ones. Three replicas run
// along: one watched, one not, one that is restored from a snapshot every now and then; their states must stay equal.

import { describe, expect, it } from 'vitest';
import { OriginKind, type SettleOperation } from '../../cluster/machine/commands.ts';
import type { SnapshotPieces } from '../../cluster/machine/machine.ts';
import { type StoreBounds, storeBounds } from '../../cluster/machine/queue/store.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { randomFrom } from './shard-random.ts';
import {
  type Batch,
  type Command,
  create,
  encode,
  metadataOrigin,
  nodeOrigin,
  Recorder,
  type Settle,
} from './shard-support.ts';
import { Twin } from './shard-twin.ts';

const operations: (keyof typeof SettleOperation)[] = ['accept', 'accept', 'accept', 'requeue', 'discard', 'release'];
const watched = { node: 1, incarnation: 1 };

/** Leases told in a row, sorted: the order between queues is free, and within a queue the lease's ordinal says it. */
function ordered(lines: string[]): string[] {
  for (let from = 0, to = 0; to <= lines.length; to++) {
    if (to < lines.length && lines[to]!.startsWith('lease')) continue;
    lines.splice(from, to - from, ...lines.slice(from, to).sort());
    from = to + 1;
  }
  return lines;
}

class Generator {
  readonly #random: (bound: number) => number;
  readonly #twin: Twin;
  readonly #incarnations = [0, 1, 1, 1];
  readonly #sent: Batch[] = [];
  #version = 0;
  #groupSequence = 0;
  #consumers = 0;

  constructor(random: (bound: number) => number, twin: Twin) {
    this.#random = random;
    this.#twin = twin;
  }

  next(): Batch {
    const dice = this.#random(100);
    if (dice < 8) return this.#changes();
    if (dice < 11 && this.#sent.length > 0) return this.#sent[this.#random(this.#sent.length)]!;
    const node = 1 + this.#random(3);
    // The watched incarnation lives for a while, so that there is something to hear.
    if (dice === 11 && (node !== 1 || this.#random(8) === 0)) this.#incarnations[node]!++;
    const incarnation = this.#incarnations[node]!;
    const pipe = this.#twin.pipe(OriginKind.node, node);
    const last = pipe.incarnation === incarnation ? pipe.last : 0;
    const sequence = last + (dice === 12 ? 2 : 1);
    const batch: Batch = {
      origin: nodeOrigin(node, incarnation),
      sequence,
      acknowledged: this.#random(3) === 0 ? Math.max(0, last - this.#random(4)) : 0,
      settles: Array.from({ length: this.#random(6) }, () => this.#settle(node)),
      commands: Array.from({ length: this.#random(8) }, () => this.#command(node)),
    };
    this.#sent.push(batch);
    return batch;
  }

  #changes(): Batch {
    const random = this.#random;
    const changes = [];
    const from = this.#version;
    for (let i = random(4); i >= 0; i--) {
      const version = ++this.#version;
      const dice = random(10);
      const existing = this.#queue();
      const node = 1 + random(3);
      if (dice < 6) changes.push(create(version, version, random(3) === 0));
      else if (dice < 9) changes.push({ kind: 'delete' as const, version, uid: existing });
      else if (node !== 1 || random(8) === 0)
        changes.push({ kind: 'fence' as const, version, node, incarnation: this.#incarnations[node]! });
    }
    if (random(6) === 0) this.#version = from;
    const commands: Command[] = [{ kind: 'changes', version: from + 1 + random(5), changes }];
    this.#version = Math.max(this.#version, (commands[0] as Command & { kind: 'changes' }).version);
    return { origin: metadataOrigin, sequence: ++this.#groupSequence, acknowledged: 0, settles: [], commands };
  }

  #queue(): number {
    const { queues } = this.#twin;
    return queues.length === 0 || this.#random(20) === 0 ? 99_999 : queues[this.#random(queues.length)]!.uid;
  }

  #knownConsumer(node: number): number {
    const own = this.#twin.consumers.filter((consumer) => consumer.node === node);
    return own.length === 0 || this.#random(20) === 0 ? 12_345 : own[this.#random(own.length)]!.number;
  }

  #settle(node: number): Settle {
    const random = this.#random;
    const consumer = this.#knownConsumer(node);
    const leases = this.#twin.consumer(node, consumer)?.leases ?? [];
    const lease =
      leases.length === 0 ? 1 : leases[random(Math.min(leases.length, random(3) === 0 ? 1000 : 2))]!.ordinal;
    const first = Math.max(0, lease - (random(4) === 0 ? random(4) : 0));
    const count = random(3) === 0 ? random(50) : 1;
    return { operation: operations[random(operations.length)]!, failed: random(2) === 0, consumer, first, count };
  }

  #command(node: number): Command {
    const random = this.#random;
    const dice = random(100);
    const queue = this.#queue();
    if (dice < 60) {
      const queues = [...new Set(Array.from({ length: 1 + (random(4) === 0 ? random(4) : 0) }, () => this.#queue()))];
      return { kind: 'publish', queues, bytes: random(50) };
    }
    const consumer = this.#knownConsumer(node);
    if (dice < 70) {
      const number = random(15) === 0 ? consumer : ++this.#consumers;
      const [unsettledMax, grantedTo] = [random(6), random(3) === 0 ? random(20) : 100_000];
      return {
        kind: 'consume',
        consumer: number,
        queue,
        unsettledMax,
        grantedTo,
        priority: random(3) - 1,
        exclusive: random(12) === 0,
      };
    }
    if (dice < 75) return { kind: 'cancel', consumer, returnLeases: random(2) === 0 };
    if (dice < 82) return { kind: 'credit', consumer, unsettledMax: random(8), grantedTo: random(200) };
    if (dice < 94)
      return { kind: 'get', consumer: random(2) === 0 ? consumer : ++this.#consumers, queue, noAck: random(2) === 0 };
    if (dice < 96) return { kind: 'purge', queue };
    if (dice < 98) return { kind: 'remove', queue, ifUnused: random(2) === 0, ifEmpty: random(2) === 0 };
    if (dice < 99) return { kind: 'metadata' };
    return { kind: 'changes', version: 1_000_000, changes: [] };
  }
}

/** Compares, and asks for the hint only when it is needed: `expect` and long hints would take most of the time. */
function same(actual: unknown, expected: unknown, hint: () => string): void {
  if (JSON.stringify(actual) !== JSON.stringify(expected)) expect(actual, hint()).toEqual(expected);
}

/** Snapshots of one replica, each taken while more entries are applied. They must be what another replica's was at once. */
class SlowSnapshot {
  readonly #random: (bound: number) => number;
  readonly #machine: ShardMachine;
  #snapshot: SnapshotPieces | null = null;
  #expected: Buffer = Buffer.alloc(0);
  #pieces: Buffer[] = [];

  constructor(random: (bound: number) => number, machine: ShardMachine) {
    this.#random = random;
    this.#machine = machine;
  }

  /** Unless the last one is still under way; sometimes that one is given up. */
  begin(expected: Buffer): void {
    if (this.#snapshot !== null && this.#random(6) > 0) return;
    if (this.#random(2) > 0) this.#snapshot?.close();
    this.#snapshot = this.#machine.snapshot();
    this.#expected = expected;
    this.#pieces = [];
  }

  goOn(hint: () => string): void {
    for (let pieces = this.#random(3); pieces > 0 && this.#snapshot !== null; pieces--) {
      const piece = this.#snapshot.next(1 + this.#random(400));
      if (piece !== null) this.#pieces.push(piece);
      else {
        this.#snapshot.close();
        this.#snapshot = null;
        same(Buffer.concat(this.#pieces).equals(this.#expected), true, hint);
      }
    }
  }
}

/** So small that hardly anything is done at once. */
const smallBounds: StoreBounds = {
  debtPerEntryMax: 3,
  returnsPerEntryMax: 2,
  assignmentsPerEntryMax: 2,
  duePerEntryMax: 2,
  workPerMillisecond: Number.POSITIVE_INFINITY,
  keepsLimits: false,
};

function run(seed: number, entries: number, bounds: StoreBounds): void {
  const random = randomFrom(seed);
  const twin = new Twin(watched, bounds);
  const generator = new Generator(random, twin);
  const sink = new Recorder();
  const machine = new ShardMachine(1, [bounds]);
  machine.watch(watched, sink);
  const unwatched = new ShardMachine(1, [bounds]);
  let restored = new ShardMachine(1, [bounds]);
  const slow = new SlowSnapshot(random, unwatched);
  for (let index = 1; index <= entries; index++) {
    const batch = generator.next();
    const entry = { index, term: 1, stamp: 0, machineVersion: 1, payload: encode(batch) };
    for (const replica of [machine, unwatched, restored]) replica.apply(entry);
    twin.apply(index, batch);

    const hint = () => `seed ${seed}, entry ${index}: ${JSON.stringify(batch)}`;
    machine.validate();
    same(ordered(sink.take()), ordered(twin.sink.take()), hint);
    same(
      [...machine.queues()].map(
        (q) => `${q.uid}: ${q.ready} ready, ${q.unsettled} unsettled, ${q.consumers} consumers, ${q.bytes} bytes`,
      ),
      twin.status(),
      hint,
    );
    same([...machine.liveEntries(1, index)], twin.live(), hint);
    same(machine.pendingRemovals(), twin.pending, hint);
    same(machine.metadataVersion, twin.metadataVersion, hint);
    same(restored.stateHash(), machine.stateHash(), hint);
    same(machine.due === 0, twin.hasWork, hint);
    slow.goOn(hint);
    if (random(10) > 0) continue;

    machine.resume(watched, () => 0);
    same(sink.take(), twin.resume(), hint);
    const state = Buffer.concat(drain(machine.snapshot()));
    same(unwatched.stateHash(), machine.stateHash(), hint);
    same(Buffer.concat(drain(restored.snapshot())).equals(state), true, hint);
    slow.begin(state);
    restored = new ShardMachine(1, [bounds]);
    restored.restore(state);
    restored.validate();
    same(Buffer.concat(drain(restored.snapshot())).equals(state), true, hint);
    same([...restored.liveEntries(1, index)], twin.live(), hint);
  }
}

describe('shard machine and its slow twin', () => {
  it('do the same with random batches', () => {
    for (let seed = 1; seed <= 10; seed++) run(seed, 200, seed % 2 === 0 ? smallBounds : storeBounds);
  });

  it('do the same with batches that nobody has tried yet', () => {
    const base = Date.now() & 0xfff_ffff;
    for (let i = 0; i < 4; i++) run(base + i, 200, i % 2 === 0 ? smallBounds : storeBounds);
  });
});
