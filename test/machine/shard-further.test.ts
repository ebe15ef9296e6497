// Random batches with all that the slow twin knows nothing of: time, dead letters, outbox rows, transfers, parts, suspicions. One replica
// runs along, another one is replaced by a snapshot of it now and then, a third one's snapshots are written while it goes on: all must stay
// equal. A fourth one's references are read while it goes on: they must be those that were counted. No message may be handed out too late or expire too early, and when all is done nothing may be left alive.

import { describe, expect, it } from 'vitest';
import { CommandKind, findCommand, PublishFlag, publishOffset, viewPublish } from '../../cluster/machine/commands.ts';
import { volatileGroupOf } from '../../cluster/machine/groups.ts';
import type { References, SnapshotPieces } from '../../cluster/machine/machine.ts';
import type { Arguments, ShardChange } from '../../cluster/machine/metadata-types.ts';
import { storeBounds } from '../../cluster/machine/queue/store.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { randomFrom } from './shard-random.ts';
import {
  type Command,
  consume,
  create,
  encode,
  type FurtherCommand,
  metadataOrigin,
  nodeOrigin,
  Recorder,
  type Settle,
  settle,
} from './shard-support.ts';

/** So few that work is often left for later, and so many that it gets done. */
const bounds = {
  ...storeBounds,
  debtPerEntryMax: 5,
  returnsPerEntryMax: 5,
  assignmentsPerEntryMax: 5,
  duePerEntryMax: 3,
};
const queues = [1, 2, 3, 4, 5];
/** Every queue has its own time to live, for good; the rest of its arguments may change. */
const ttls: readonly (number | undefined)[] = [undefined, undefined, 40, 90, 0, 15];
const snapshotOf = (machine: ShardMachine) => Buffer.concat(drain(machine.snapshot()));

class World {
  readonly random: (bound: number) => number;
  readonly machine = new ShardMachine(3, [bounds]);
  restored = new ShardMachine(3, [bounds]);
  readonly slow = new ShardMachine(3, [bounds]);
  readonly read = new ShardMachine(3, [bounds]);
  index = 0;
  stamp = 1000;
  version = 0;
  readonly stamps = [0];
  readonly incarnations = [0, 1, 1];
  readonly sequences = [0, 0, 0];
  readonly taken = new Map<number, number>();
  readonly leases: { readonly node: number; readonly consumer: number; readonly lease: number }[] = [];
  consumers = 0;
  #pieces: Buffer[] = [];
  #snapshot: SnapshotPieces | null = null;
  #references: References | null = null;
  /** By entry: references counted when the reading began, and those read. */
  #counted: number[] = [];
  #found: number[] = [];
  readonly #payloads: Buffer[] = [Buffer.alloc(0)];
  #expected = Buffer.alloc(0);

  constructor(seed: number) {
    this.random = randomFrom(seed);
    for (const node of [1, 2]) this.#listen(node);
  }

  /** Of what it hears only the leases matter. */
  #listen(node: number): void {
    const sink = new Recorder();
    sink.lease = (consumer, lease, entry) => {
      this.leases.push({ node, consumer, lease });
      const queue = consumer % 10;
      const ttl = ttls[queue];
      // With a time of 0 only those who wait get anything.
      if (ttl === undefined || ttl === 0) return;
      if (this.stamp >= this.stamps[entry]! + ttl) throw new Error(`entry ${entry} was handed out at ${this.stamp}`);
    };
    this.machine.watch({ node, incarnation: this.incarnations[node]! }, sink);
  }

  apply(payload: Buffer): void {
    this.stamps[++this.index] = this.stamp;
    const entry = { index: this.index, term: 1, stamp: this.stamp, machineVersion: 1, payload };
    this.#payloads.push(payload);
    for (const replica of [this.machine, this.restored, this.slow, this.read]) replica.apply(entry);
    this.machine.validate();
    if (this.restored.stateHash() !== this.machine.stateHash()) throw new Error(`entry ${this.index}: hashes differ`);
    if (this.restored.due !== this.machine.due) throw new Error(`entry ${this.index}: due differs`);
  }

  lead(...commands: (Command | FurtherCommand)[]): void {
    this.apply(encode({ origin: metadataOrigin, sequence: 1, acknowledged: 0, settles: [], commands }));
  }

  node(node: number, commands: (Command | FurtherCommand)[], settles: Settle[] = []): void {
    const sequence = ++this.sequences[node]!;
    this.apply(
      encode({ origin: nodeOrigin(node, this.incarnations[node]!), sequence, acknowledged: 0, settles, commands }),
    );
  }

  changes(...changes: ShardChange[]): void {
    this.lead({ kind: 'changes', version: this.version, changes });
  }

  arguments(queue: number): Arguments {
    const dead = this.random(4) === 0 ? {} : { 'x-dead-letter-exchange': `dlx${this.random(3)}` };
    const ttl = ttls[queue] === undefined ? {} : { 'x-message-ttl': ttls[queue] };
    return { ...dead, ...ttl, 'x-expires': 1_000_000 };
  }

  step(): void {
    const { random } = this;
    this.stamp += random(3) === 0 ? random(30) : 0;
    const dice = random(100);
    if (dice < 60) this.#nodeStep(1 + random(2));
    else if (dice < 66) this.#routeStep();
    else if (dice < 74) this.#doneStep();
    else if (dice < 80) this.#changeStep();
    else if (dice < 84) {
      const node = 1 + random(2);
      this.lead({ kind: 'suspect', node, incarnation: this.incarnations[node]!, suspected: random(3) === 0 });
    } else this.lead();
    this.#compare();
    this.#readReferences();
  }

  #nodeStep(node: number): void {
    const { random } = this;
    const queue = queues[random(queues.length)]!;
    const settles: Settle[] = [];
    const operations = ['accept', 'discard', 'discard', 'requeue', 'release'] as const;
    for (let i = random(8); i > 0 && this.leases.length > 0; i--) {
      const [lease] = this.leases.splice(random(this.leases.length), 1);
      if (lease!.node === node)
        settles.push(settle(operations[random(5)]!, lease!.consumer, lease!.lease, 1, random(2) === 0));
    }
    const commands: (Command | FurtherCommand)[] = [];
    for (let i = random(5); i > 0; i--) {
      const targets = random(3) === 0 ? [queue, queues[random(queues.length)]!, 99] : [queue];
      const choice = random(10);
      if (choice < 5) commands.push({ kind: 'publish', queues: targets, bytes: random(9) });
      else if (choice < 7) commands.push({ kind: 'part', first: random(2) === 0, bytes: random(9) });
      else if (choice < 8) commands.push({ kind: 'last', queues: targets, bytes: random(9) });
      else if (choice < 9) {
        const source = 10 + random(2);
        const last = this.taken.get(source) ?? 0;
        const row = Math.max(1, last + 1 - random(3));
        const parts = random(4) === 0;
        commands.push({ kind: 'transfer', source, after: row - 1, row, queues: targets, bytes: 3, parts });
        if (!parts) this.taken.set(source, Math.max(last, row));
      } else if (random(3) === 0) commands.push({ kind: 'purge', queue });
      else if (random(2) === 0)
        commands.push({ kind: 'get', consumer: 10 * ++this.consumers + queue, queue, noAck: random(2) === 0 });
      else {
        const unsettledMax = random(4);
        commands.push(consume(10 * ++this.consumers + queue, queue, { unsettledMax, grantedTo: 1 + random(30) }));
      }
    }
    this.node(node, commands, settles);
  }

  #routeStep(): void {
    const letters = this.machine.letters(1 + this.random(6));
    for (const { index, reason, uid } of letters)
      if (reason === 'expired' && this.stamp < this.stamps[index]! + ttls[uid]!)
        throw new Error(`entry ${index} expired too early`);
    const targets = () =>
      [3, 4, volatileGroupOf({ node: 2, incarnation: this.incarnations[2]! })]
        .filter(() => this.random(3) === 0)
        .map((group) => [group, Array.from({ length: 1 + this.random(3) }, (_, i) => i)]);
    const first = this.machine.lettersRouted - (this.random(5) === 0 ? 1 : 0);
    this.lead({
      kind: 'route',
      json: JSON.stringify({ first: Math.max(0, first), version: 0, letters: letters.map(targets) }),
    });
  }

  #doneStep(): void {
    for (const target of this.machine.outbox.targets()) {
      const rows = this.machine.outbox.rows(target, 1 + this.random(9));
      if (this.random(2) === 0) this.lead({ kind: 'done', target, row: rows.at(-1)!.row });
    }
  }

  #changeStep(): void {
    const { random } = this;
    const version = ++this.version;
    const uid = queues[random(queues.length)]!;
    if (random(6) === 0) {
      const node = 1 + random(2);
      this.changes({ kind: 'fence', version, node, incarnation: this.incarnations[node]!++ });
      this.sequences[node] = 0;
      this.#listen(node);
      for (let i = this.leases.length - 1; i >= 0; i--) if (this.leases[i]!.node === node) this.leases.splice(i, 1);
    } else if (random(8) === 0)
      this.changes({ kind: 'delete', version, uid }, create(version, uid, false, this.arguments(uid)));
    else this.changes({ kind: 'configure', version, uid, arguments: this.arguments(uid) });
  }

  #compare(): void {
    if (this.#snapshot === null && this.random(10) === 0) {
      this.#expected = snapshotOf(this.machine);
      this.restored = new ShardMachine(3, [bounds]);
      this.restored.restore(this.#expected);
      expect(snapshotOf(this.restored).equals(this.#expected)).toBe(true);
      this.#snapshot = this.slow.snapshot();
      this.#pieces = [];
    }
    for (let count = this.random(3); count > 0 && this.#snapshot !== null; count--) {
      const piece = this.#snapshot.next(1 + this.random(500));
      if (piece !== null) this.#pieces.push(piece);
      else {
        this.#snapshot.close();
        this.#snapshot = null;
        expect(Buffer.concat(this.#pieces).equals(this.#expected), `entry ${this.index}`).toBe(true);
      }
    }
  }

  #readReferences(): void {
    const { read } = this;
    if (this.#references === null) {
      this.#references = read.references()!;
      this.#counted = this.#payloads.map((_, index) => read.countLive(index, index));
      this.#found = this.#payloads.map(() => 0);
      expect(read.countLive(1, this.index)).toBe(this.#counted.reduce((sum, count) => sum + count, 0));
      return;
    }
    const piece = this.#references.next(1 + this.random(600));
    for (let at = 0; piece !== null && at < piece.length; at += 12) this.#found[this.#check(piece, at)]!++;
    if (piece !== null) return;
    expect(this.#references.isLost).toBe(false);
    this.#references = null;
    expect(this.#found, `entry ${this.index}`).toEqual(this.#counted);
  }

  /** The entry of a reference, which must name a message or a part of one, and its bytes. */
  #check(piece: Buffer, at: number): number {
    const index = piece.readUInt32LE(at) + piece.readUInt16LE(at + 6) * 2 ** 32;
    const payload = this.#payloads[index]!;
    const command = findCommand(payload, piece.readUInt16LE(at + 4));
    const bytes = piece.readUInt32LE(at + 8);
    const kind = payload[command];
    if (kind !== CommandKind.part) {
      expect([CommandKind.publish, CommandKind.transfer]).toContain(kind);
      const view = viewPublish(payload, publishOffset(payload, command));
      const isWhole = (view.flags & PublishFlag.parts) === 0;
      if (isWhole && bytes !== 0xffff_ffff) expect(bytes).toBe(view.bodyEnd - view.bodyStart);
    }
    return index;
  }

  /** Everything goes: nothing is alive then. */
  finish(): void {
    for (const queue of queues) this.changes({ kind: 'delete', version: ++this.version, uid: queue });
    for (const node of [1, 2])
      this.changes({ kind: 'fence', version: ++this.version, node, incarnation: this.incarnations[node]! });
    const { machine } = this;
    const left = machine.letters(1e6);
    this.lead({
      kind: 'route',
      json: JSON.stringify({ first: machine.lettersRouted, version: 0, letters: left.map(() => []) }),
    });
    for (const target of machine.outbox.targets())
      this.lead({ kind: 'done', target, row: machine.outbox.rows(target, 1e6).at(-1)!.row });
    for (let ticks = 0; machine.due === 0 && ticks < 10_000; ticks++) this.lead();
    expect([machine.due, [...machine.liveEntries(1, this.index)]]).toEqual([Number.POSITIVE_INFINITY, []]);
  }
}

function run(seed: number, entries: number): void {
  try {
    const world = new World(seed);
    world.version = 5;
    world.changes(...queues.map((uid) => create(uid, uid, false, world.arguments(uid))));
    for (let i = 0; i < entries; i++) world.step();
    world.finish();
    expect(world.machine.refusals).toMatchObject({ malformed: 0, gaps: 0 });
  } catch (error) {
    throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
  }
}

describe('replicas of a shard', () => {
  it('stay equal, and keep to times, with random batches', () => {
    for (let seed = 1; seed <= 6; seed++) run(seed, 400);
  });

  it('stay equal, and keep to times, with batches that nobody has tried yet', () => {
    const base = Date.now() & 0xfff_ffff;
    for (let i = 0; i < 4; i++) run(base + i, 400);
  });
});
