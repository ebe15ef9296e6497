// A host for one replica, in memory: a disk that forgets what was not written, a machine that lists what it applied.
//
// State owned: `disk` (survives a crash), everything else (does not). Writes wait in `writes` until `persist`, snapshot chunks in `tasks`
// until `runTask`; with `disk: 'auto'` both happen at once. It keeps to the duties in raft-ts's README, in their order.

import {
  type Configuration,
  createRaft,
  type Entry,
  type IncomingMessage,
  type OutgoingMessage,
  type Raft,
  type RaftOptions,
  type Ready,
  type ReplicaId,
  type Restored,
  type SnapshotMeta,
  type Write,
} from 'raft-ts';
import type { Checker } from './checker.ts';
import { describeEntry } from './checker.ts';

export type NetworkMessage = IncomingMessage<string>;
export type ReplicaBounds = Omit<RaftOptions, 'id' | 'random'>;

export interface World {
  readonly checker: Checker;
  readonly bounds: ReplicaBounds;
  random(bound: number): number;
  send(message: NetworkMessage): void;
  /** For scripts: something worth a line. */
  tell(id: ReplicaId, text: string): void;
}

interface StoredSnapshot {
  readonly meta: SnapshotMeta;
  readonly machine: readonly string[];
}

/** A snapshot on its way to another replica; null: not read from yet. */
interface Stream {
  opened: { readonly meta: SnapshotMeta; readonly bytes: Uint8Array } | null;
}

export interface SimulatedDisk {
  hardState: { term: number; vote: ReplicaId; commit: number };
  snapshot: StoredSnapshot;
  compacted: { index: number; term: number };
  readonly log: Map<number, Entry<string>>;
  repairTo: number;
}

export class SimulatedReplica {
  readonly id: ReplicaId;
  readonly disk: SimulatedDisk;
  diskMode: 'auto' | 'manual' = 'auto';
  raft: Raft<string> | null = null;
  writes: Write<string>[] = [];
  tasks: (() => void)[] = [];
  machine: string[] = [];
  applied = 0;
  /** The log as the core has it: disk and what is on its way there. */
  #log = new Map<number, Entry<string>>();
  #staging: { readonly meta: SnapshotMeta; chunks: Uint8Array[]; length: number } | null = null;
  readonly #streams = new Map<ReplicaId, Stream>();
  readonly #world: World;

  constructor(id: ReplicaId, configuration: Configuration, world: World) {
    this.id = id;
    this.#world = world;
    this.disk = {
      hardState: { term: 0, vote: 0, commit: 0 },
      snapshot: { meta: { index: 0, term: 0, configuration }, machine: [] },
      compacted: { index: 0, term: 0 },
      log: new Map(),
      repairTo: 0,
    };
  }

  start(): void {
    const { disk } = this;
    const entries: Restored['entries'][number][] = [];
    for (let index = disk.compacted.index + 1; disk.log.has(index); index++) {
      const { term, bytes, ...rest } = disk.log.get(index)!;
      entries.push(
        rest.kind === 'configuration'
          ? { index, term, bytes, configuration: rest.configuration }
          : { index, term, bytes },
      );
    }
    const { hardState, compacted } = disk;
    const restored: Restored = {
      hardState: { ...hardState },
      snapshot: disk.snapshot.meta,
      compacted: { ...compacted },
      entries,
      ...(disk.repairTo > 0 ? { repairTo: disk.repairTo } : {}),
    };
    this.raft = createRaft<string>(
      { ...this.#world.bounds, id: this.id, random: (bound) => this.#world.random(bound) },
      restored,
    );
    this.#log = new Map(disk.log);
    this.machine = [...disk.snapshot.machine];
    this.applied = disk.snapshot.meta.index;
    this.#world.checker.restarted(this.id, hardState.term);
    this.pump();
  }

  /** The power fails. The first `writesKept` of the writes under way had reached the disk; of the next one, if not null, its first entries. */
  crash(writesKept = 0, tornEntries: number | null = null): void {
    for (const write of this.writes.slice(0, writesKept)) this.#store(write);
    const torn = this.writes[writesKept];
    if (torn !== undefined && tornEntries !== null)
      this.#store({ ...torn, entries: torn.entries.slice(0, tornEntries), hardState: null });
    this.raft = null;
    this.writes = [];
    this.tasks = [];
    this.#staging = null;
    this.#streams.clear();
    this.#log.clear();
  }

  /** Calls the core, then does all that it wants. */
  run(call: (raft: Raft<string>) => void): void {
    if (this.raft === null) return;
    call(this.raft);
    this.pump();
  }

  step(message: NetworkMessage): void {
    this.run((raft) => raft.step(message));
  }

  pump(): void {
    for (let turn = 0; this.raft?.hasReady(); turn++) {
      if (turn > 10_000) throw new Error(`replica ${this.id} always has something to do`);
      this.#take(this.raft, this.raft.ready());
      this.#world.checker.observed(this.id, this.raft);
      if (this.diskMode === 'manual') continue;
      while (this.persist(1)) {}
      while (this.runTask()) {}
    }
  }

  /** Completes the oldest writes; false if there was none. The core's answer is taken out by `pump`. */
  persist(count: number): boolean {
    const done = this.writes.splice(0, count);
    for (const write of done) {
      this.#store(write);
      this.raft!.persisted(write.sequence);
    }
    return done.length > 0;
  }

  /** Finishes the oldest piece of snapshot work; false if there was none. */
  runTask(): boolean {
    const task = this.tasks.shift();
    task?.();
    return task !== undefined;
  }

  /** Saves the machine and forgets whole entries but for the last `keep`. False if nothing new is durable. */
  takeSnapshot(keep: number): boolean {
    const { raft, disk } = this;
    if (raft === null || this.applied > raft.persistedIndex || this.applied <= disk.snapshot.meta.index) return false;
    const term = raft.termAt(this.applied)!;
    const meta = { index: this.applied, term, configuration: raft.configurationAt(this.applied) };
    disk.snapshot = { meta, machine: [...this.machine] };
    raft.snapshotTaken(meta);
    const index = Math.max(disk.compacted.index, meta.index - keep);
    disk.compacted = { index, term: raft.termAt(index)! };
    for (const old of disk.log.keys()) if (old <= index) disk.log.delete(old);
    for (const old of this.#log.keys()) if (old <= index) this.#log.delete(old);
    raft.compacted(index);
    this.pump();
    return true;
  }

  /** True if this entry, or a snapshot that includes it, is on the disk, or was lost to damage (and the replica knows that). */
  isDurable(index: number, term: number): boolean {
    const { log, snapshot, compacted, repairTo } = this.disk;
    if (index <= repairTo) return true;
    return log.get(index)?.term === term || index <= Math.max(snapshot.meta.index, compacted.index);
  }

  entryAt(index: number): Entry<string> | undefined {
    return this.#log.get(index);
  }

  #take(raft: Raft<string>, ready: Ready<string>): void {
    if (ready.write !== null) this.#gather(ready.write);
    for (const message of ready.messages) {
      const attached = this.#attach(message);
      this.#world.checker.sent(attached);
      this.#world.send(attached);
    }
    for (const { context, index } of ready.reads) {
      this.#world.checker.readAnswered(context, index);
      this.#world.tell(this.id, index === null ? `read ${context} failed` : `read ${context} at ${index}`);
    }
    for (const read of ready.snapshotReads) {
      const { to, isFirst, offset, bytesMax } = read;
      // Asked again before it was opened, it is the same one.
      if (isFirst && this.#streams.get(to)?.opened !== null) this.#streams.set(to, { opened: null });
      const stream = this.#streams.get(to);
      this.tasks.push(() => this.#readStream(to, stream, offset, bytesMax));
    }
    for (const chunk of ready.snapshotWrites) this.tasks.push(() => this.#writeChunk(chunk));
    for (; this.applied < ready.commit; this.applied++) {
      const entry = this.#log.get(this.applied + 1);
      if (entry === undefined) throw new Error(`replica ${this.id} has no entry ${this.applied + 1} to apply`);
      this.#world.checker.applied(this.id, entry);
      if (entry.kind === 'data') this.machine.push(entry.data);
      this.#world.tell(this.id, `applies ${entry.index}/${entry.term} ${describeEntry(entry)}`);
    }
    raft.applied(this.applied);
    if (this.disk.repairTo > 0 && !raft.status().repairing) this.disk.repairTo = 0;
  }

  /** While it is down its disk loses all entries from `first` on, and notices. */
  damage(first: number): void {
    const { log, snapshot } = this.disk;
    const last = Math.max(snapshot.meta.index, ...log.keys());
    for (const index of log.keys()) if (index >= first && index > snapshot.meta.index) log.delete(index);
    this.disk.repairTo = Math.max(this.disk.repairTo, last);
  }

  #gather(write: Write<string>): void {
    const parts: string[] = [];
    if (write.truncateFrom !== null) {
      parts.push(`truncates from ${write.truncateFrom}`);
      for (const index of this.#log.keys()) if (index >= write.truncateFrom) this.#log.delete(index);
    }
    for (const entry of write.entries) {
      const previous = this.#log.get(entry.index - 1)?.term ?? this.raft!.termAt(entry.index - 1) ?? 0;
      this.#log.set(entry.index, entry);
      this.#world.checker.appended(this.id, entry, previous);
    }
    if (write.entries.length > 0)
      parts.push(`appends ${write.entries.map((e) => `${e.index}/${e.term} ${describeEntry(e)}`).join(', ')}`);
    if (write.hardState !== null) {
      const { term, vote, commit } = write.hardState;
      parts.push(`term ${term} vote ${vote} commit ${commit}`);
    }
    this.#world.tell(this.id, `writes #${write.sequence}: ${parts.join('; ')}`);
    this.writes.push(write);
  }

  #store(write: Write<string>): void {
    const { disk } = this;
    if (write.truncateFrom !== null)
      for (const index of disk.log.keys()) if (index >= write.truncateFrom) disk.log.delete(index);
    for (const entry of write.entries) disk.log.set(entry.index, entry);
    if (write.hardState !== null) disk.hardState = { ...write.hardState };
  }

  #attach(message: OutgoingMessage): NetworkMessage {
    if (message.kind !== 'append') return message;
    const { first, last, lastTerm: _lastTerm, ...rest } = message;
    const entries: Entry<string>[] = [];
    for (let index = first; index <= last; index++) entries.push(this.#log.get(index)!);
    return { ...rest, entries };
  }

  /** What is sent to others cannot be read any more. */
  loseStreams(): void {
    this.#streams.clear();
  }

  #readStream(to: ReplicaId, stream: Stream | undefined, offset: number, bytesMax: number): void {
    if (stream === undefined) return this.run((raft) => raft.snapshotRead(to, null, offset, Buffer.alloc(0), true));
    if (stream !== this.#streams.get(to)) return;
    stream.opened ??= this.#open();
    const { meta, bytes } = stream.opened;
    const piece = bytes.subarray(offset, offset + bytesMax);
    this.run((raft) => raft.snapshotRead(to, meta, offset, piece, offset + piece.length >= bytes.length));
  }

  /** No two streams of a snapshot have the same bytes, but for those of scripts. */
  #open(): NonNullable<Stream['opened']> {
    const { meta, machine } = this.disk.snapshot;
    return { meta, bytes: Buffer.from(' '.repeat(this.#world.random(40)) + JSON.stringify(machine)) };
  }

  #writeChunk(chunk: Ready<string>['snapshotWrites'][number]): void {
    const { snapshot: meta, offset, bytes, done } = chunk;
    if (offset === 0) this.#staging = { meta, chunks: [], length: 0 };
    const staging = this.#staging;
    const fits = staging !== null && staging.meta.index === meta.index && staging.length === offset;
    if (!fits || staging === null) return this.run((raft) => raft.snapshotWritten(meta, offset, false));
    staging.chunks.push(bytes);
    staging.length += bytes.length;
    this.run((raft) => raft.snapshotWritten(meta, offset, true));
    if (done) this.tasks.push(() => this.#install(meta, Buffer.concat(staging.chunks)));
  }

  /** One atomic step on the disk: snapshot, compaction point, log. */
  #install(meta: SnapshotMeta, bytes: Buffer): void {
    const { disk } = this;
    const keeps = disk.log.get(meta.index)?.term === meta.term;
    const machine = machineOf(bytes);
    disk.snapshot = { meta, machine };
    disk.compacted = { index: meta.index, term: meta.term };
    for (const index of disk.log.keys()) if (!keeps || index <= meta.index) disk.log.delete(index);
    this.#log = new Map(disk.log);
    this.machine = [...machine];
    this.applied = meta.index;
    this.#staging = null;
    this.#world.tell(this.id, `installs snapshot ${meta.index}/${meta.term}`);
    this.run((raft) => raft.snapshotInstalled(meta));
  }
}

function machineOf(bytes: Buffer): string[] {
  try {
    return JSON.parse(bytes.toString()) as string[];
  } catch {
    throw new Error('what was installed is no snapshot');
  }
}
