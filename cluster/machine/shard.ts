// The state machine of one shard: all queues of one Raft group. PURE, and deterministic: the same entries make the same state on every
// replica, whatever was restored or watched in between.
//
// It reads the batches, admits them by their pipes, and turns their commands into calls of the queue store:
//
//   entry -> checkBatch -> PipeTable.admit -> settle section -> commands in order -> results, batchApplied -> a piece of debt
//
// State owned: pipes (`pipes.ts`), queues (`queue/store.ts`), the metadata version applied, counters of what was refused, the state hash.
// It never throws on what an entry holds: a batch that is not well formed is counted and has no effect. It does throw when an invariant of
// its own is broken, or when an entry asks for a machine that it is not: then this replica must halt rather than diverge.

import {
  type BatchHeader,
  CancelFlag,
  CommandKind,
  ConsumeFlag,
  checkBatch,
  GetFlag,
  OriginKind,
  publishLayout,
  RemoveFlag,
  ResultCode,
  readBatchHeader,
  readCancel,
  readChangesVersion,
  readConsume,
  readCredit,
  readGet,
  readJson,
  readQueueCommand,
  type SettleOperation,
  settleFailed,
  settleRecordBytes,
} from './commands.ts';
import type { AppliedEntry, Machine, PipeId, PipeSink, QueueStatus } from './machine.ts';
import type { ShardChange } from './metadata-types.ts';
import { PipeTable } from './pipes.ts';
import { ByteReader, ByteWriter, foldHash } from './queue/bytes.ts';
import { keptArguments, parseChanges } from './queue/changes.ts';
import { deliveryCountMax, redeliveredBit } from './queue/leases.ts';
import { type Consumer, ConsumerMode, type Owner, type Queue } from './queue/queue.ts';
import { restoreStore, serialiseStore } from './queue/snapshot.ts';
import { QueueStore } from './queue/store.ts';

/** The highest machine version that this code can apply. */
export const shardMachineVersion = 1;
/** Dropped messages worked off with each entry. Part of the machine's version: all replicas must agree. */
export const debtPerEntryMax = 16_384;

const snapshotMagic = 0x52534857;
const snapshotVersion = 1;

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
  #metadataVersion = 0;
  #malformed = 0;
  #hash = 0;
  #pipes = this.#createPipes();
  #store = new QueueStore();
  #watched: PipeId | null = null;
  #sink: PipeSink | null = null;
  /** Whether the sink knows that its pipe was ended. */
  #fencedTold = false;
  /** Of the result of the command being applied. */
  #value = 0;
  #extra = 0;

  constructor(shard: number) {
    this.shard = shard;
  }

  get appliedIndex(): number {
    return this.#appliedIndex;
  }

  /** The highest version of `changes` that was applied. */
  get metadataVersion(): number {
    return this.#metadataVersion;
  }

  /** What came in and had no effect: batches that were not well formed, and batches whose predecessor was missing. */
  get refusals(): { readonly malformed: number; readonly gaps: number } {
    return { malformed: this.#malformed, gaps: this.#pipes.gaps };
  }

  /** Messages that were dropped and still wait to be worked off. */
  get debt(): number {
    return this.#store.debt.length;
  }

  watch(pipe: PipeId | null, sink: PipeSink | null): void {
    this.#watched = pipe;
    this.#sink = pipe === null ? null : sink;
    this.#fencedTold = false;
    for (const owner of this.#store.owners.values()) owner.sink = this.#sinkOf(owner.node, owner.incarnation);
  }

  apply(entry: AppliedEntry): void {
    const { index, payload } = entry;
    if (index <= this.#appliedIndex) throw new Error(`entry ${index} was applied before`);
    if (entry.machineVersion > shardMachineVersion)
      throw new Error(`entry ${index} needs machine version ${entry.machineVersion}`);
    this.#appliedIndex = index;
    if (checkBatch(payload) === null) this.#applyBatch(index, payload);
    else this.#malformed++;
    this.#store.workOff(debtPerEntryMax);
    this.#hash = foldHash(foldHash(this.#hash, index), this.#store.takeFold());
  }

  resume(nextLease: (consumer: number) => number): void {
    const pipe = this.#watched;
    const sink = this.#sink;
    if (pipe === null || sink === null) return;
    this.#tellFenced();
    for (const { sequence, ordinal, code, value, extra } of this.#pipes.results(pipe))
      sink.result(sequence, ordinal, code, value, extra);
    const owner = this.#store.owners.get(pipe.node);
    if (owner === undefined || owner.incarnation !== pipe.incarnation) return;
    for (const consumer of [...owner.consumers.values()].sort((a, b) => a.number - b.number)) {
      const { leases, number } = consumer;
      for (let slot = leases.lowerBound(nextLease(number)); slot < leases.tail; slot++) {
        if (leases.isSettled(slot)) continue;
        const history = leases.history(slot);
        const redelivered = (history & redeliveredBit) !== 0;
        const deliveryCount = history & deliveryCountMax;
        const ordinal = leases.ordinal(slot);
        sink.lease(number, leases.leaseOrdinal(slot), leases.index(slot), ordinal, redelivered, deliveryCount);
      }
    }
  }

  lastSequence(pipe: PipeId): number {
    return this.#pipes.lastSequence(pipe);
  }

  /** The same for another group's pipe. */
  lastGroupSequence(group: number, incarnation: number): number {
    return this.#pipes.lastSequenceOf({ kind: OriginKind.group, id: group, incarnation });
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

  queueStatus(uid: number): QueueStatus | undefined {
    const queue = this.#store.queues.get(uid);
    return queue === undefined ? undefined : statusOf(queue);
  }

  *queues(): Generator<QueueStatus> {
    for (const queue of this.#store.queues.values()) yield statusOf(queue);
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

  /** The bytes never change afterwards, also when entries are applied. */
  snapshot(): Buffer[] {
    const writer = new ByteWriter();
    writer.u32(snapshotMagic);
    writer.u32(snapshotVersion);
    writer.u32(this.shard);
    writer.u64(this.#appliedIndex);
    writer.u64(this.#metadataVersion);
    writer.u64(this.#malformed);
    writer.u32(this.#hash);
    const pipes = this.#pipes.serialise();
    writer.u32(pipes.length);
    writer.bytes(pipes);
    serialiseStore(writer, this.#store);
    return writer.pieces();
  }

  restore(bytes: Buffer): void {
    const reader = new ByteReader(bytes);
    if (reader.u32() !== snapshotMagic) throw new Error('not a snapshot of a shard');
    const version = reader.u32();
    if (version !== snapshotVersion) throw new Error(`shard snapshot version ${version} is not known`);
    const shard = reader.u32();
    if (shard !== this.shard) throw new Error(`snapshot of shard ${shard} given to shard ${this.shard}`);
    const [appliedIndex, metadataVersion, malformed, hash] = [reader.u64(), reader.u64(), reader.u64(), reader.u32()];
    const pipes = this.#createPipes();
    pipes.restore(reader.take(reader.u32()));
    const store = restoreStore(reader, (node, incarnation) => this.#sinkOf(node, incarnation));
    if (!reader.atEnd) throw new Error('shard snapshot is longer than its state');
    this.#appliedIndex = appliedIndex;
    this.#metadataVersion = metadataVersion;
    this.#malformed = malformed;
    this.#hash = hash;
    this.#pipes = pipes;
    this.#store = store;
  }

  hasLiveEntries(first: number, last: number): boolean {
    return this.#store.live.has(first, last);
  }

  liveEntries(first: number, last: number): number[] {
    return this.#store.live.list(first, last);
  }

  /** It has consumers here. */
  concerns(node: number): boolean {
    return (this.#store.owners.get(node)?.consumers.size ?? 0) > 0;
  }

  stateHash(): number {
    return this.#hash;
  }

  /** Throws if an invariant of the state is broken. Linear in the state; for tests. */
  validate(): void {
    this.#store.validate();
  }

  #createPipes(): PipeTable {
    return new PipeTable((origin) => {
      if (origin.kind === OriginKind.node) this.#store.endOwner(origin.id);
    });
  }

  #sinkOf(node: number, incarnation: number): PipeSink | null {
    const watched = this.#watched;
    return watched !== null && watched.node === node && watched.incarnation === incarnation ? this.#sink : null;
  }

  #tellFenced(): void {
    if (this.#sink === null || this.#fencedTold || !this.#pipes.isFenced(this.#watched!)) return;
    this.#fencedTold = true;
    this.#sink.fenced();
  }

  #applyBatch(index: number, payload: Buffer): void {
    const header = readBatchHeader(payload);
    const admission = this.#pipes.admit(header);
    this.#hash = foldHash(this.#hash, admission === 'apply' ? 1 : 0);
    if (admission !== 'apply') return;
    const store = this.#store;
    // Admitting the first batch of an incarnation may have ended an older one.
    store.assign();
    this.#tellFenced();
    const sink = header.kind === OriginKind.node ? this.#sinkOf(header.id, header.incarnation) : null;
    // One view for the hot commands: its reads take a tenth of the time of `Buffer`'s methods.
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
    if (header.settleCount > 0 && header.kind === OriginKind.node) {
      this.#applySettles(header, view);
      store.assign();
    }
    let queue: Queue | undefined;
    for (let ordinal = 0; ordinal < header.commandCount; ordinal++) {
      const at = view.getUint32(header.tableOffset + 4 * ordinal, true);
      if (view.getUint8(at) !== CommandKind.publish) {
        this.#applyCommand(header, payload, ordinal, at, sink);
        store.assign();
        continue;
      }
      const count = view.getUint16(at + publishLayout.queueCount, true);
      const bytes = view.getUint32(at + publishLayout.bodyBytes, true);
      let routed = 0;
      for (let q = 0, uidAt = at + publishLayout.queues; q < count; q++, uidAt += 4) {
        const uid = view.getUint32(uidAt, true);
        if (queue === undefined || queue.uid !== uid || queue.sealed) queue = store.queues.get(uid);
        if (queue === undefined || queue.sealed) continue;
        store.enqueue(queue, index, ordinal, bytes);
        routed++;
      }
      if (routed > 0) continue;
      this.#value = 0;
      this.#extra = 0;
      this.#result(header, ordinal, ResultCode.noQueue, sink);
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

  /** Everything but publishes. Stores and tells the result unless it is plainly ok. */
  #applyCommand(header: BatchHeader, payload: Buffer, ordinal: number, at: number, sink: PipeSink | null): void {
    const kind = payload[at] as CommandKind;
    const fromNode = header.kind === OriginKind.node;
    this.#value = 0;
    this.#extra = 0;
    let code: ResultCode = ResultCode.refused;
    switch (kind) {
      case CommandKind.consume:
        if (fromNode) code = this.#consume(header, payload, at);
        break;
      case CommandKind.cancel:
        if (fromNode) code = this.#cancel(header, payload, at);
        break;
      case CommandKind.credit:
        if (fromNode) code = this.#credit(header, payload, at);
        break;
      case CommandKind.get:
        if (fromNode) code = this.#get(header, payload, at);
        break;
      case CommandKind.purge:
        code = this.#purge(payload, at);
        break;
      case CommandKind.remove:
        code = this.#remove(payload, at);
        break;
      case CommandKind.changes:
        if (!fromNode) code = this.#changes(payload, at);
        break;
      case CommandKind.publish:
      case CommandKind.part:
      case CommandKind.metadata:
        break;
      default:
        // Unreachable: `checkBatch` lets no other kind pass.
        kind satisfies never;
    }
    const hasValue = kind === CommandKind.purge || kind === CommandKind.remove;
    if (code !== ResultCode.ok || hasValue) this.#result(header, ordinal, code, sink);
  }

  /** Keeps a result with `#value` and `#extra`, and tells it. */
  #result(header: BatchHeader, ordinal: number, code: ResultCode, sink: PipeSink | null): void {
    const [value, extra] = [this.#value, this.#extra];
    this.#pipes.keep(header, ordinal, code, value, extra);
    this.#hash = foldHash(foldHash(this.#hash, code), value);
    sink?.result(header.sequence, ordinal, code, value, extra);
  }

  #owner(header: BatchHeader): Owner {
    return this.#store.owner(header.id, header.incarnation, this.#sinkOf(header.id, header.incarnation));
  }

  #consumer(header: BatchHeader, number: number): Consumer | undefined {
    return this.#store.owners.get(header.id)?.consumers.get(number);
  }

  /** A queue that exists and is not being deleted. */
  #openQueue(uid: number): Queue | undefined {
    const queue = this.#store.queues.get(uid);
    return queue === undefined || queue.sealed ? undefined : queue;
  }

  #consume(header: BatchHeader, payload: Buffer, at: number): ResultCode {
    const command = readConsume(payload, at);
    const queue = this.#openQueue(command.queue);
    if (queue === undefined) return ResultCode.noQueue;
    if (this.#consumer(header, command.consumer) !== undefined) return ResultCode.refused;
    const alone = (command.flags & ConsumeFlag.exclusive) !== 0;
    if (queue.exclusive !== null || (alone && queue.consumers > 0)) return ResultCode.exclusive;
    this.#store.attach(this.#owner(header), queue, {
      number: command.consumer,
      mode: ConsumerMode.active,
      priority: command.priority,
      flags: command.flags,
      tag: command.tag,
      unsettledMax: command.unsettledMax,
      grantedTo: Math.min(command.grantedTo, Number.MAX_SAFE_INTEGER),
    });
    return ResultCode.ok;
  }

  /** A consumer that is not known (any more) is none the less gone: plainly ok. */
  #cancel(header: BatchHeader, payload: Buffer, at: number): ResultCode {
    const { flags, consumer: number } = readCancel(payload, at);
    const consumer = this.#consumer(header, number);
    if (consumer === undefined) return ResultCode.ok;
    if ((flags & CancelFlag.returnLeases) !== 0) this.#store.withdraw(consumer);
    else this.#store.drain(consumer);
    return ResultCode.ok;
  }

  /** Credit may cross the removal of its consumer on the way: plainly ok. */
  #credit(header: BatchHeader, payload: Buffer, at: number): ResultCode {
    const { consumer: number, unsettledMax, grantedTo } = readCredit(payload, at);
    const consumer = this.#consumer(header, number);
    if (consumer !== undefined) this.#store.grant(consumer, unsettledMax, Math.min(grantedTo, Number.MAX_SAFE_INTEGER));
    return ResultCode.ok;
  }

  #get(header: BatchHeader, payload: Buffer, at: number): ResultCode {
    const { flags, consumer: number, queue: uid } = readGet(payload, at);
    const queue = this.#openQueue(uid);
    if (queue === undefined) return ResultCode.noQueue;
    let consumer = this.#consumer(header, number);
    if (consumer !== undefined && (consumer.mode !== ConsumerMode.polled || consumer.queue !== queue))
      return ResultCode.refused;
    if (queue.ready === 0) return ResultCode.empty;
    consumer ??= this.#store.attach(this.#owner(header), queue, {
      number,
      mode: ConsumerMode.polled,
      priority: 0,
      flags: 0,
      tag: '',
      unsettledMax: 0,
      grantedTo: 0,
    });
    this.#value = this.#store.poll(consumer, (flags & GetFlag.noAck) !== 0);
    this.#extra = queue.ready;
    return ResultCode.leased;
  }

  #purge(payload: Buffer, at: number): ResultCode {
    const queue = this.#openQueue(readQueueCommand(payload, at).queue);
    if (queue === undefined) return ResultCode.noQueue;
    this.#value = this.#store.purge(queue);
    return ResultCode.ok;
  }

  /** What counts as empty and as the messages dropped are the ready ones, as in RabbitMQ. */
  #remove(payload: Buffer, at: number): ResultCode {
    const { flags, queue: uid } = readQueueCommand(payload, at);
    const queue = this.#openQueue(uid);
    if (queue === undefined) return ResultCode.noQueue;
    const ready = queue.ready;
    if ((flags & RemoveFlag.ifEmpty) !== 0 && ready > 0) return ResultCode.notEmpty;
    if ((flags & RemoveFlag.ifUnused) !== 0 && queue.consumers > 0) return ResultCode.inUse;
    this.#store.sealForRemoval(queue);
    this.#value = ready;
    return ResultCode.ok;
  }

  /** Rows up to the version that was reached before are repeats, and are skipped. */
  #changes(payload: Buffer, at: number): ResultCode {
    const version = readChangesVersion(payload, at);
    const reached = this.#metadataVersion;
    if (version <= reached) return ResultCode.ok;
    const changes = parseChanges(readJson(payload, at));
    if (changes === null || version > Number.MAX_SAFE_INTEGER) return ResultCode.refused;
    for (const change of changes) if (change.version > reached) this.#change(change);
    this.#metadataVersion = version;
    this.#hash = foldHash(this.#hash, version);
    return ResultCode.ok;
  }

  #change(change: ShardChange): void {
    const store = this.#store;
    switch (change.kind) {
      case 'create':
        if (!store.queues.has(change.uid)) store.create(change.uid, change.autoDelete, keptArguments(change.arguments));
        return;
      case 'delete': {
        const queue = store.queues.get(change.uid);
        if (queue !== undefined) store.delete(queue);
        return;
      }
      case 'fence':
        this.#pipes.fence(change.node, change.incarnation);
        this.#tellFenced();
        return;
      default:
        change satisfies never;
    }
  }
}

const statusOf = (queue: Queue): QueueStatus => ({
  uid: queue.uid,
  ready: queue.ready,
  unsettled: queue.unsettled,
  consumers: queue.consumers,
  bytes: queue.bytes,
});
