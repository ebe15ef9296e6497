// The state machine of one shard: all queues of one Raft group. PURE, and deterministic: the same entries make the same state on every
// replica, whatever was restored or watched in between.
//
// It reads the batches, admits them by their pipes, and turns their commands into calls of the queue store:
//
//   entry -> what its stamp makes due -> checkBatch
//     of a node:    -> PipeTable.admit -> settle section -> commands in order (`shard-commands.ts`) -> results, batchApplied
//     of the leader -> commands in order (`leader-commands.ts`); none at all: a tick
//   -> a piece of the work that is left
//
// State owned: pipes (`pipes.ts`), queues (`queue/store.ts`), the metadata version applied, counters of what was refused, the state hash.
// It never throws on what an entry holds: a batch that is not well formed is counted and has no effect. It does throw when an invariant of
// its own is broken, or when an entry asks for a machine that it is not: then this replica must halt rather than diverge.

import {
  type BatchHeader,
  CommandKind,
  checkBatch,
  commandOffset,
  OriginKind,
  PublishFlag,
  publishLayout,
  ResultCode,
  readBatchHeader,
  type SettleOperation,
  settleFailed,
  settleRecordBytes,
} from './commands.ts';
import { LeaderCommands } from './leader-commands.ts';
import type {
  AppliedEntry,
  Machine,
  PipeId,
  PipeSink,
  QueueStatus,
  References,
  Restoring,
  SnapshotPieces,
} from './machine.ts';
import type { OutboxView } from './outbox.ts';
import { PipeTable } from './pipes.ts';
import { ByteReader, ByteWriter, foldHash, type Steps } from './queue/bytes.ts';
import { deliveryCountMax, redeliveredBit } from './queue/leases.ts';
import type { Letter, LetterPolicy, LetterReason } from './queue/letters.ts';
import type { PartPlace } from './queue/parts.ts';
import type { Consumer, Queue } from './queue/queue.ts';
import { StoreReferences } from './queue/references.ts';
import { restoreStore, StoreSnapshot } from './queue/snapshot.ts';
import { QueueStore, type StoreBounds } from './queue/store.ts';
import { restoreAtOnce, restoreInSteps } from './restoring.ts';
import { applyNodeCommand } from './shard-commands.ts';
import { rulesOf, shardVersions } from './versions.ts';
import { Watchers } from './watchers.ts';

const snapshotMagic = 0x52534857;
const snapshotVersion = 2;
/** Of a state that is restored in steps: a fraction of a millisecond. */
const restoreStepBytes = 16 * 1024;

/** An incarnation of a node as this shard knows it. */
export interface PipeStatus {
  readonly incarnation: number;
  readonly lastSequence: number;
  readonly consumers: number;
  readonly leases: number;
  /** Results that the origin has not acknowledged. */
  readonly results: number;
}

export class ShardMachine implements Machine {
  readonly shard: number;
  #appliedIndex = 0;
  readonly #leader = new LeaderCommands();
  #malformed = 0;
  #hash = 0;
  #pipes: PipeTable;
  /** By version, from 1 on: what it does. */
  readonly #versions: readonly StoreBounds[];
  #version = 1;
  #store: QueueStore;
  readonly #watchers = new Watchers();

  /** Other versions are for tests: replicas with different ones do different things. */
  constructor(shard: number, versions: readonly StoreBounds[] = shardVersions) {
    this.shard = shard;
    this.#versions = versions;
    this.#store = new QueueStore(versions[0]!);
    this.#pipes = pipesOf(this.#store);
  }

  get appliedIndex(): number {
    return this.#appliedIndex;
  }

  get version(): number {
    return this.#version;
  }

  /** The highest version of `changes` that was applied. */
  get metadataVersion(): number {
    return this.#leader.metadataVersion;
  }

  /**
   * What came in and had no effect: batches that were not well formed, batches whose predecessor was missing, and commands of a leader
   * that made no sense.
   */
  get refusals(): { readonly malformed: number; readonly gaps: number; readonly ignored: number } {
    return { malformed: this.#malformed, gaps: this.#pipes.gaps, ignored: this.#leader.ignored };
  }

  /** Messages that were dropped and still wait to be worked off. */
  get debt(): number {
    return this.#store.debt.length;
  }

  watch(pipe: PipeId, sink: PipeSink | null): void {
    this.#watchers.set(pipe, sink);
    this.#tellOwners();
  }

  apply(entry: AppliedEntry): void {
    const { index, payload } = entry;
    if (index <= this.#appliedIndex) throw new Error(`entry ${index} was applied before`);
    if (entry.machineVersion > this.#version) this.#raiseTo(entry.machineVersion);
    this.#appliedIndex = index;
    this.#store.begin(entry.stamp);
    if (checkBatch(payload) === null) this.#applyBatch(index, payload);
    else this.#malformed++;
    this.#store.workOff();
    this.#hash = foldHash(foldHash(this.#hash, index), this.#store.takeFold());
  }

  resume(pipe: PipeId, nextLease: (consumer: number) => number): void {
    const sink = this.#sinkOf(pipe.node, pipe.incarnation);
    if (sink === null) return;
    this.#tellFenced();
    for (const { sequence, ordinal, code, value, extra } of this.#pipes.results(pipe))
      sink.result(sequence, ordinal, code, value, extra);
    const owner = this.#store.owners.get(pipe.node);
    if (owner === undefined || owner.incarnation !== pipe.incarnation) return;
    for (const consumer of [...owner.consumers.values()].sort((a, b) => a.number - b.number)) {
      const { leases, number } = consumer;
      for (let more = leases.seek(nextLease(number)); more; more = leases.advance()) {
        const { leaseOrdinal, index, ordinal, history } = leases;
        const redelivered = (history & redeliveredBit) !== 0;
        sink.lease(number, leaseOrdinal, index, ordinal, redelivered, history & deliveryCountMax);
      }
    }
  }

  lastSequence(pipe: PipeId): number {
    return this.#pipes.lastSequence(pipe);
  }

  isFenced(pipe: PipeId): boolean {
    return this.#pipes.isFenced(pipe);
  }

  /**
   * Does this consumer of the pipe still exist? After a snapshot was installed this is how a session finds out that a consumer whose
   * `consume` was applied has been removed since. Consumers of `get` commands count too, cancelled ones until their last lease is settled.
   */
  hasConsumer(pipe: PipeId, consumer: number): boolean {
    const owner = this.#store.owners.get(pipe.node);
    return owner !== undefined && owner.incarnation === pipe.incarnation && owner.consumers.has(consumer);
  }

  /** All of these, in any order. */
  consumersOf(pipe: PipeId): number[] {
    const owner = this.#store.owners.get(pipe.node);
    return owner === undefined || owner.incarnation !== pipe.incarnation ? [] : [...owner.consumers.keys()];
  }

  queueStatus(uid: number): QueueStatus | undefined {
    const queue = this.#store.queues.get(uid);
    return queue === undefined ? undefined : statusOf(queue);
  }

  *queues(): Generator<QueueStatus> {
    for (const queue of this.#store.queues.values()) yield statusOf(queue);
  }

  /** The parts of a message before its own piece, in order; empty for one that came whole. */
  partsOf(index: number, ordinal: number): readonly PartPlace[] {
    return this.#store.parts.of(index, ordinal);
  }

  /** The oldest dead letters, the first of which is number `lettersRouted`. Whoever leads has to say where they go. */
  letters(max: number): Letter[] {
    return this.#store.letters.list(max);
  }

  /** How a row of the outbox goes on that was a letter with this mark. */
  letterTerms(mark: number): LetterPolicy {
    return this.#store.letters.terms(mark);
  }

  /** Why it left its queue. */
  letterReason(mark: number): LetterReason {
    return this.#store.letters.reason(mark);
  }

  /** Dead letters routed so far. */
  get lettersRouted(): number {
    return this.#store.letters.routed;
  }

  /** Whoever sends what they became must have come as far in the metadata as whoever routed them. */
  get lettersRoutedBy(): number {
    return this.#store.letters.routedBy;
  }

  /** What other groups are owed, and how far they have said to have it. Whoever leads has to see to it. */
  get outbox(): OutboxView {
    return this.#store.outbox;
  }

  /** The pipe's consumers get nothing until the leader says otherwise. */
  isSuspected(pipe: PipeId): boolean {
    return this.#store.suspicions.has(pipe.node, pipe.incarnation);
  }

  /** Queues that are sealed and wait for their deletion from the metadata, ascending. Whoever leads has to ask for it. */
  pendingRemovals(): number[] {
    return [...this.#store.pendingRemovals].sort((a, b) => a - b);
  }

  /** The open incarnation of a node, if this shard knows one. */
  pipesOf(node: number): PipeStatus[] {
    const statuses: PipeStatus[] = [];
    for (const { origin, lastSequence, results } of this.#pipes.open()) {
      if (origin.kind !== OriginKind.node || origin.id !== node) continue;
      const consumers = this.#store.owners.get(node)?.consumers ?? new Map<number, Consumer>();
      let leases = 0;
      for (const consumer of consumers.values()) leases += consumer.leases.unsettled;
      statuses.push({ incarnation: origin.incarnation, lastSequence, consumers: consumers.size, leases, results });
    }
    return statuses;
  }

  snapshot(): SnapshotPieces {
    const writer = new ByteWriter();
    writer.u32(snapshotMagic);
    writer.u32(snapshotVersion);
    writer.u32(this.#version);
    writer.u32(this.shard);
    writer.u64(this.#appliedIndex);
    writer.u64(this.#leader.metadataVersion);
    writer.u64(this.#leader.ignored);
    writer.u64(this.#malformed);
    writer.u32(this.#hash);
    const pipes = this.#pipes.serialise();
    writer.u32(pipes.length);
    writer.bytes(pipes);
    return new StoreSnapshot(this.#store, Buffer.concat(writer.pieces()));
  }

  restoring(): Restoring {
    const reader = new ByteReader(null, restoreStepBytes);
    return restoreInSteps(reader, this.#restore(reader));
  }

  restore(bytes: Buffer): void {
    restoreAtOnce(this, bytes);
  }

  *#restore(reader: ByteReader): Steps<() => void> {
    if (reader.u32() !== snapshotMagic) throw new Error('not a snapshot of a shard');
    const format = reader.u32();
    if (format !== snapshotVersion) throw new Error(`shard snapshot version ${format} is not known`);
    const version = reader.u32();
    const bounds = rulesOf(this.#versions, version, 'the snapshot');
    const shard = reader.u32();
    if (shard !== this.shard) throw new Error(`snapshot of shard ${shard} given to shard ${this.shard}`);
    const [appliedIndex, metadataVersion, ignored] = [reader.u64(), reader.u64(), reader.u64()];
    const [malformed, hash] = [reader.u64(), reader.u32()];
    const store = new QueueStore(bounds);
    const pipes = pipesOf(store);
    const pipesBytes = reader.u32();
    yield* reader.until(pipesBytes);
    pipes.restore(reader.take(pipesBytes));
    // Who listens is looked up at the end: it may be somebody else by then.
    yield* restoreStore(reader, store);
    yield* reader.end();
    return () => {
      this.#appliedIndex = appliedIndex;
      this.#leader.metadataVersion = metadataVersion;
      this.#leader.ignored = ignored;
      this.#malformed = malformed;
      this.#hash = hash;
      this.#version = version;
      this.#pipes = pipes;
      this.#store = store;
      this.#tellOwners();
    };
  }

  hasLiveEntries(first: number, last: number): boolean {
    return this.#store.live.has(first, last);
  }

  liveEntries(first: number, last: number): Iterable<number> {
    return this.#store.live.list(first, last);
  }

  countLive(first: number, last: number): number {
    return this.#store.live.sum(first, last);
  }

  references(): References | null {
    return this.#store.isCaptured ? null : new StoreReferences(this.#store);
  }

  /** It has consumers here. */
  concerns(node: number): boolean {
    return (this.#store.owners.get(node)?.consumers.size ?? 0) > 0;
  }

  get work(): number {
    return this.#store.work;
  }

  get due(): number {
    return this.#store.hasWork ? 0 : this.#store.expiry.due;
  }

  stateHash(): number {
    return this.#hash;
  }

  /** Throws if an invariant of the state is broken. Linear in the state; for tests. */
  validate(): void {
    this.#store.validate();
  }

  /** From now on the state is of this version: what follows is applied by it, whatever a later entry says. */
  #raiseTo(version: number): void {
    this.#store.bounds = rulesOf(this.#versions, version, 'an entry');
    this.#version = version;
  }

  #tellOwners(): void {
    for (const owner of this.#store.owners.values()) owner.sink = this.#sinkOf(owner.node, owner.incarnation);
  }

  #sinkOf(node: number, incarnation: number): PipeSink | null {
    return this.#watchers.sinkOf(node, incarnation);
  }

  #tellFenced(): void {
    this.#watchers.tellFenced((pipe) => this.#pipes.isFenced(pipe));
  }

  #applyBatch(index: number, payload: Buffer): void {
    const header = readBatchHeader(payload);
    if (header.kind === OriginKind.group) this.#applyLeaderBatch(header, payload);
    else {
      const admission = this.#pipes.admit(header);
      this.#hash = foldHash(this.#hash, admission === 'apply' ? 1 : 0);
      if (admission === 'apply') this.#applyNodeBatch(header, index, payload);
    }
  }

  /** It is in the log when it was due; its settle section, if it has one, means nothing. */
  #applyLeaderBatch(header: BatchHeader, payload: Buffer): void {
    this.#store.assign();
    for (let ordinal = 0; ordinal < header.commandCount; ordinal++) {
      this.#leader.apply(this.#store, this.#pipes, payload, commandOffset(payload, ordinal));
      this.#tellFenced();
      this.#store.assign();
    }
  }

  #applyNodeBatch(header: BatchHeader, index: number, payload: Buffer): void {
    const store = this.#store;
    // Admitting the first batch of an incarnation may have ended an older one.
    store.assign();
    this.#tellFenced();
    const sink = this.#sinkOf(header.id, header.incarnation);
    // One view for the hot commands: its reads take a tenth of the time of `Buffer`'s methods.
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
    if (header.settleCount > 0) {
      this.#applySettles(header, view);
      store.assign();
    }
    let queue: Queue | undefined;
    for (let ordinal = 0; ordinal < header.commandCount; ordinal++) {
      const at = view.getUint32(header.tableOffset + 4 * ordinal, true);
      const isPublish = view.getUint8(at) === CommandKind.publish;
      if (!isPublish || (view.getUint8(at + publishLayout.flags) & PublishFlag.parts) !== 0) {
        this.#applyCommand(header, index, payload, ordinal, at, sink);
        store.assign();
        continue;
      }
      const count = view.getUint16(at + publishLayout.queueCount, true);
      const bytes = view.getUint32(at + publishLayout.bodyBytes, true);
      const expires = (view.getUint8(at + publishLayout.flags) & PublishFlag.expiration) !== 0;
      const expiration = expires ? view.getUint32(at + publishLayout.expiration, true) : -1;
      let routed = 0;
      let isRefused = false;
      for (let q = 0, uidAt = at + publishLayout.queues; q < count; q++, uidAt += 4) {
        const uid = view.getUint32(uidAt, true);
        if (queue === undefined || queue.uid !== uid || queue.sealed) queue = store.queues.get(uid);
        if (queue === undefined || queue.sealed) continue;
        if (!store.enqueue(queue, index, ordinal, bytes, expiration)) isRefused = true;
        routed++;
      }
      if (isRefused) this.#result(header, ordinal, ResultCode.rejected, 0, 0, sink);
      else if (routed === 0) this.#result(header, ordinal, ResultCode.noQueue, 0, 0, sink);
    }
    sink?.batchApplied(header.sequence);
  }

  #applySettles(header: BatchHeader, view: DataView): void {
    const owner = this.#store.owners.get(header.id);
    if (owner === undefined) return;
    let consumer: Consumer | undefined;
    const end = header.settleOffset + header.settleCount * settleRecordBytes;
    for (let at = header.settleOffset; at < end; at += settleRecordBytes) {
      const number = view.getUint32(at + 4, true);
      if (consumer === undefined || consumer.number !== number || consumer.gone) consumer = owner.consumers.get(number);
      if (consumer === undefined) continue;
      const operation = view.getUint8(at) as SettleOperation;
      const failed = (view.getUint8(at + 1) & settleFailed) !== 0;
      const first = view.getUint32(at + 8, true) + view.getUint32(at + 12, true) * 0x1_0000_0000;
      this.#store.settle(consumer, operation, failed, first, view.getUint32(at + 16, true));
    }
  }

  /** Everything but plain publishes. Stores and tells the result unless it is plainly ok. */
  #applyCommand(
    header: BatchHeader,
    index: number,
    payload: Buffer,
    ordinal: number,
    at: number,
    sink: PipeSink | null,
  ): void {
    const command = { store: this.#store, header, index, payload, ordinal, at, sink, value: 0, extra: 0 };
    const code = applyNodeCommand(command);
    const kind = payload[at] as CommandKind;
    if (code === ResultCode.ok && kind !== CommandKind.purge && kind !== CommandKind.remove) return;
    this.#result(header, ordinal, code, command.value, command.extra, sink);
  }

  /** Keeps a result and tells it. */
  #result(
    header: BatchHeader,
    ordinal: number,
    code: ResultCode,
    value: number,
    extra: number,
    sink: PipeSink | null,
  ): void {
    this.#pipes.keep(header, ordinal, code, value, extra);
    this.#hash = foldHash(foldHash(this.#hash, code), value);
    sink?.result(header.sequence, ordinal, code, value, extra);
  }
}

const pipesOf = (store: QueueStore): PipeTable =>
  new PipeTable((origin) => store.endPipe(origin.id, origin.incarnation));

const statusOf = (queue: Queue): QueueStatus => ({
  uid: queue.uid,
  ready: queue.ready,
  unsettled: queue.unsettled,
  consumers: queue.consumers,
  bytes: queue.bytes,
});
