// One replica of one group on this node: its raft core, its machine, and what lies between them.
//
//   offer → checked, in sequence → raft.propose → log → commit → machine.apply → sink
//
// State owned: the raft core, the machine, how far it has applied, and, while leading, what each pipe is expected to send next. Snapshots are
// in `snapshots.ts`, hashes of earlier states in `state-hashes.ts`.
//
// A failed assertion, damage, or a state that differs from the leader's halts this group on this node and nothing else. A halted replica
// neither leads, votes nor answers, and can be built anew from its peers (`Host.rebuild`).
//
// Invariants: a batch is appended only if it is the next of its pipe; entries are applied in order, once; of a halted replica nothing leaves
// that was not on its way.

import { crc32 } from 'node:zlib';
import { createRaft, type IncomingMessage, type Raft, type Ready, type Restored, type SnapshotMeta } from 'raft-ts';
import { isDamage, unknownIndex } from '../log/index.ts';
import type { EntryData, GroupWrite, Log, LogEntry } from '../log/types.ts';
import {
  type BatchHeader,
  batchHeaderBytes,
  checkBatch,
  commandCountOf,
  hasMessages,
  OriginKind,
  readBatchHeader,
} from '../machine/commands.ts';
import type { Machine } from '../machine/machine.ts';
import type { ClusterLimits } from '../options.ts';
import type { BatchAnswer } from '../peers/wire.ts';
import type { Traffic } from '../traffic.ts';
import { Snapshots } from './snapshots.ts';
import { StateHashes } from './state-hashes.ts';

/** Read ahead of applying, at a time. */
const readAheadBytes = 512 * 1024;
/** What applying an entry costs, in bytes, beside its own; and each of its commands: those of small messages are what takes the time. */
const entryCost = 64;
const commandCost = 1024;
/** Of a message that is moved beside them. */
const workCost = 256;

/** What all groups together may apply before the host rests. */
export interface Turn {
  /** Bytes. */
  budget: number;
  /** Who has more to apply, and had a share. */
  usedUpBy: Group | null;
}

export interface GroupHost {
  readonly node: number;
  readonly turn: Turn;
  readonly traffic: Pick<Traffic, 'applied'>;
  readonly log: Log;
  readonly limits: ClusterLimits;
  /** The present, in milliseconds since 1970, for an entry that follows one with the stamp `last`: never less. */
  stamp(last: number): number;
  random(bound: number): number;
  /** The version that the metadata say entries are to be of. */
  machineVersion(): number;
  /** This group has something to do: `advance` is called at the end of the turn. */
  dirty(group: Group): void;
  /** False: a node with a replica of this group has no room left on its disk for messages. */
  hasRoom(group: Group): boolean;
  /** Before a batch is appended: `ready` when all that it depends on is in this group's log. */
  prepare(group: Group, header: BatchHeader): 'ready' | 'wait';
  answer(node: number, group: number, header: BatchHeader, answer: BatchAnswer, expected: number, leader: number): void;
  applied(group: Group): void;
  /** Another role, leader or term. */
  roleChanged(group: Group): void;
  /** This replica leads, and knows all that was ever confirmed: once per term. Batches that waited are taken afterwards. */
  leaderReady(group: Group): void;
  /** Reads of this group became safe, or failed. */
  reads(group: Group, reads: Ready<EntryData>['reads']): void;
  /** This replica has stopped for good. */
  halted(group: Group, error: Error): void;
  /** Something failed that will be tried again. */
  failed(group: Group, error: Error): void;
  snapshotSaved(group: Group): void;
  /** The machine's state was replaced by a snapshot: sessions reconcile with it. */
  installed(group: Group): void;
  /** A replica that was built anew has again all that it may ever have acknowledged. */
  repaired(group: Group): void;
}

/** A replica that has nothing on its disk but where it begins. */
export function emptyReplica(snapshot: SnapshotMeta): Restored {
  const { index, term } = snapshot;
  return { hardState: { term: 0, vote: 0, commit: 0 }, snapshot, compacted: { index, term }, entries: [] };
}

/**
 * The log forgets a replica that was closed: all but term and vote, which its core may have known and not written yet, and how far it may have
 * acknowledged. What takes its place begins as given. Resolves when that is durable; of a replica that has nothing there is nothing to forget.
 */
export async function forgetReplica(
  log: Log,
  group: number,
  { term, vote }: { readonly term: number; readonly vote: number },
  acknowledgedTo: number,
  { configuration }: SnapshotMeta,
): Promise<void> {
  // What follows waits for the log, which keeps the order.
  log.append([{ group, truncateFrom: null, entries: [], hardState: { term, vote, commit: 0 } }], ignore);
  if (acknowledgedTo > 0) await log.resetGroup(group, acknowledgedTo, configuration);
}

interface Waiting {
  readonly payload: Buffer;
  readonly checksum: number;
  readonly header: BatchHeader;
  readonly from: number;
}

export class Group {
  readonly id: number;
  readonly raft: Raft<EntryData>;
  readonly machine: Machine;
  readonly #host: GroupHost;
  readonly #snapshots: Snapshots;
  readonly #hashes = new StateHashes();
  /** Index of the last entry applied to the machine. */
  #applied: number;
  /** Sessions have seen the state up to here: one before that is not for them. Infinity: nobody knows yet how far it has to come. */
  #readableFrom: number;
  #writtenBytes = 0;
  #halted: Error | null = null;
  /** The core itself failed, or this replica was replaced: it is not asked for anything any more. */
  #closed = false;
  /** Leading: next sequence expected per node, of its newest incarnation, in the term `#expectedTerm`. */
  readonly #expected = new Map<number, { readonly incarnation: number; next: number }>();
  #expectedTerm = 0;
  /** Leading: batches that depend on something to come, in order. Whatever may have come calls `retryWaiting`. */
  #waiting: Waiting[] = [];
  /** The term in which `leaderReady` was told. */
  #readyTerm = 0;
  #lastStamp = 0;
  #reading: Promise<void> | null = null;
  /** It lost what it may have acknowledged, up to here, and does not vote before it has that again. 0: it did not. */
  #repairTo: number;
  /** Leading: per node, the last entry that it waits for, and the commit index that it was told. */
  readonly #awaited = new Map<number, number>();
  readonly #told = new Map<number, number>();
  #role = '';
  #leader = -1;
  #term = -1;

  /** `readableFrom`: below this applied index sessions must not read, because they have seen more. */
  constructor(id: number, machine: Machine, restored: Restored, host: GroupHost, readableFrom = 0) {
    const { limits } = host;
    this.id = id;
    this.machine = machine;
    this.#host = host;
    this.#applied = restored.snapshot.index;
    this.#readableFrom = readableFrom;
    this.raft = createRaft<EntryData>(
      {
        id: host.node,
        group: id,
        groupIncarnation: 1,
        electionTicks: limits.electionTicks,
        heartbeatTicks: limits.heartbeatTicks,
        appendBytesMax: limits.appendBytesMax,
        inflightBytesMax: limits.inflightBytesMax,
        inflightMessagesMax: limits.inflightMessagesMax,
        uncommittedBytesMax: limits.uncommittedBytesMax,
        snapshotChunkBytes: limits.snapshotChunkBytes,
        random: host.random,
      },
      restored,
    );
    this.#repairTo = restored.repairTo ?? 0;
    this.#snapshots = this.#createSnapshots(restored.snapshot.index);
  }

  get appliedIndex(): number {
    return this.#applied;
  }
  get halted(): Error | null {
    return this.#halted;
  }
  /** It stopped because bytes of it are rotten or gone, not because of a bug: it can be built anew by itself. */
  get isDamaged(): boolean {
    return isDamage(this.#halted);
  }
  /** It lost what it may have acknowledged, and does not have it again yet. */
  get isRepairing(): boolean {
    return this.#repairTo > 0;
  }
  get snapshotIndex(): number {
    return this.#snapshots.index;
  }
  get leads(): boolean {
    return !this.#closed && this.#halted === null && this.raft.role === 'leader' && this.raft.leaderReady;
  }
  /** May sessions read the machine's state? Not of a halted replica, nor of one that is behind what they have seen. */
  get isReadable(): boolean {
    return this.#halted === null && !this.#closed && this.#applied >= this.#readableFrom;
  }
  /** It has a leader, and has applied all that it knows to be committed. */
  get hasCaughtUp(): boolean {
    return this.raft.leader !== 0 && this.#applied >= this.raft.commit && !this.#snapshots.isInstalling;
  }
  /** It is new on this node, and may lack anything: nobody reads it before `vouch`. */
  get isLearning(): boolean {
    return this.#readableFrom === Number.POSITIVE_INFINITY;
  }
  /** Bytes of entries that this replica has written. */
  get writtenBytes(): number {
    return this.#writtenBytes;
  }
  /** Sessions here may have seen the state up to this index. */
  get seenTo(): number {
    return Math.max(this.#applied, this.#readableFrom);
  }
  /** Nothing beyond this index was ever acknowledged here. */
  get acknowledgedTo(): number {
    return Math.max(this.raft.lastIndex, this.#repairTo);
  }

  /** The stamp of an entry that would be made now. */
  stamp(): number {
    return this.#host.stamp(this.#lastStamp);
  }

  /** It is one of the replicas that count: once it has applied what it has now, it is read like any other. */
  vouch(): void {
    if (!this.isLearning) return;
    this.#readableFrom = this.acknowledgedTo;
    if (this.isReadable) this.#host.installed(this);
  }

  // ---- batches ----

  /** A batch of some pipe, for the log. Answered only if it was not appended. */
  offer(payload: Buffer, checksum: number, from: number): void {
    if (payload.length < batchHeaderBytes) return;
    if (from !== this.#host.node && crc32(payload) !== checksum) return; // as if lost: it comes again
    const header = readBatchHeader(payload);
    // What only a leader may say is as malformed, from a peer, as what nobody may.
    if (checkBatch(payload) !== null || header.kind !== OriginKind.node) {
      this.#refuse(header, from, 'refused');
      return;
    }
    if (this.#waiting.length === 0 && this.#take(payload, checksum, header, from)) return;
    if (this.#waiting.length < this.#host.limits.parkedBatchesMax)
      this.#waiting.push({ payload, checksum, header, from });
    else this.#refuse(header, from, 'full');
  }

  /** Does somebody on that node wait for a commit to be told at once: a publisher of a batch, or consumers? */
  isAwaited(node: number): boolean {
    if ((this.#awaited.get(node) ?? 0) > (this.#told.get(node) ?? 0)) return true;
    return this.machine.concerns(node);
  }

  /** This commit index has left for that node. */
  told(node: number, commit: number): void {
    this.#told.set(node, commit);
  }

  /** What a batch waited for may have come. */
  retryWaiting(): void {
    const waiting = this.#waiting;
    if (waiting.length === 0) return;
    this.#waiting = [];
    let done = 0;
    while (done < waiting.length) {
      const { payload, checksum, header, from } = waiting[done]!;
      if (!this.#take(payload, checksum, header, from)) break;
      done++;
    }
    this.#waiting = waiting.slice(done);
  }

  /** Appends a batch: one of a pipe, or one of the leader's own making (`leader-batches.ts`). */
  propose(payload: Buffer, checksum: number): boolean {
    this.#lastStamp = this.stamp();
    const data: EntryData = {
      stamp: this.#lastStamp,
      // The metadata here may lag: the state knows what others have written.
      machineVersion: Math.max(this.#host.machineVersion(), this.machine.version),
      stateHash: this.#hashes.carriedBy(this.raft.lastIndex + 1),
      payload,
      checksum,
    };
    const result = this.raft.propose(data, payload.length);
    if (result.ok) this.#host.dirty(this);
    return result.ok;
  }

  /** False: it has to wait, for the leader's first entry to be applied or for this node's metadata. */
  #take(payload: Buffer, checksum: number, header: BatchHeader, from: number): boolean {
    if (this.#halted !== null || this.raft.role !== 'leader') return this.#refuse(header, from, 'notLeader');
    if (!this.raft.leaderReady) return false;
    const pipe = { node: header.id, incarnation: header.incarnation };
    if (this.machine.isFenced(pipe)) return this.#refuse(header, from, 'fenced');
    if (this.#expectedTerm !== this.raft.term) {
      this.#expectedTerm = this.raft.term;
      this.#expected.clear();
    }
    let expected = this.#expected.get(header.id);
    // A node has one incarnation at a time: a newer one has sent batches, so this one has ended.
    if (expected !== undefined && header.incarnation < expected.incarnation)
      return this.#refuse(header, from, 'fenced');
    if (expected === undefined || expected.incarnation !== header.incarnation)
      expected = {
        incarnation: header.incarnation,
        next: this.machine.lastSequence(pipe) + 1,
      };
    if (header.sequence < expected.next) return true; // seen before
    if (header.sequence > expected.next) return this.#refuse(header, from, 'expected', expected.next);
    if (!this.#host.hasRoom(this) && hasMessages(payload)) return this.#refuse(header, from, 'full');
    if (this.#host.prepare(this, header) === 'wait') return false;
    if (!this.propose(payload, checksum))
      return this.#refuse(header, from, this.raft.role === 'leader' ? 'full' : 'notLeader');
    this.#awaited.set(header.id, this.raft.lastIndex);
    expected.next++;
    this.#expected.set(header.id, expected);
    return true;
  }

  /** Always true: the batch is done with here, its origin knows what to do. */
  #refuse(header: BatchHeader, from: number, answer: BatchAnswer, sequence = header.sequence): true {
    // A halted replica hears nothing: whom it followed may have been followed by others since.
    const leader = this.#halted === null ? this.raft.leader : 0;
    this.#host.answer(from, this.id, header, answer, sequence, leader);
    return true;
  }

  // ---- the core ----

  /** One tick of the host's timer. */
  tick(): void {
    if (this.#closed || this.#halted !== null) return;
    this.#guardCore(() => this.raft.tick());
    this.#host.dirty(this);
  }

  /** A message of another replica. The caller sees to it that this group is not forgotten in this turn. */
  step(message: IncomingMessage<EntryData>): void {
    if (this.#closed || this.#halted !== null) return;
    this.#guardCore(() => this.raft.step(message));
  }

  hasReady(): boolean {
    return !this.#closed && this.raft.hasReady();
  }

  /** Takes the core's work out: returns the write to gather. Messages are passed on by the host after it was handed to the log. */
  takeReady(): { ready: Ready<EntryData>; write: GroupWrite | null } {
    const ready = this.#guardCore(() => this.raft.ready()) ?? nothingReady;
    const { write } = ready;
    const { role, leader, term } = this.raft;
    if (role !== this.#role || leader !== this.#leader || term !== this.#term) {
      this.#role = role;
      this.#leader = leader;
      this.#term = term;
      if (role !== 'leader') this.#waiting = [];
      this.#host.roleChanged(this);
    }
    if (write === null) return { ready, write: null };
    for (const entry of write.entries) {
      this.#snapshots.written(entry.bytes);
      this.#writtenBytes += entry.bytes;
      if (entry.kind === 'data' && entry.data.stamp > this.#lastStamp) this.#lastStamp = entry.data.stamp;
    }
    return {
      ready,
      write: {
        group: this.id,
        truncateFrom: write.truncateFrom,
        entries: write.entries,
        hardState: write.hardState,
      },
    };
  }

  /** What is left of a `Ready` after write and messages: snapshots, reads, and applying. */
  finishReady(ready: Ready<EntryData>): void {
    if (this.#closed) return;
    for (const request of ready.snapshotReads) this.#snapshots.read(request);
    for (const chunk of ready.snapshotWrites) this.#snapshots.write(chunk);
    if (ready.reads.length > 0) this.#host.reads(this, ready.reads);
    this.apply();
    if (this.#repairTo > 0) this.#checkRepaired();
  }

  persisted(sequence: number): void {
    if (this.#closed) return;
    this.#guardCore(() => this.raft.persisted(sequence));
    // A candidate that halted may still have won.
    if (this.#halted !== null && this.raft.role === 'leader') this.raft.stepDown();
    this.#host.dirty(this);
  }

  /** A core that failed says nothing any more: its state may be half changed. */
  #guardCore<T>(act: () => T): T | undefined {
    try {
      return act();
    } catch (error) {
      this.#closed = true;
      this.halt(asError(error));
      return undefined;
    }
  }

  #checkRepaired(): void {
    if (this.raft.status().repairing) return;
    this.#repairTo = 0;
    this.#host.repaired(this);
    // How far it has to come is known only now.
    if (this.#readableFrom !== unknownIndex) return;
    this.#readableFrom = this.raft.commit;
    if (this.isReadable) this.#host.installed(this);
  }

  // ---- applying ----

  /** Applies what is committed, up to a budget; comes again by itself while there is more. */
  apply(): void {
    if (this.#halted !== null || this.#closed || this.#reading !== null || this.#snapshots.isInstalling) return;
    const { log, turn, traffic } = this.#host;
    const commit = this.raft.commit;
    const before = this.#applied;
    while (this.#applied < commit) {
      if (turn.budget <= 0) {
        if (this.#applied > before) turn.usedUpBy = this;
        this.#host.dirty(this);
        break;
      }
      const entry = log.cached(this.id, this.#applied + 1);
      if (entry === undefined) {
        this.#readAhead(commit);
        break;
      }
      turn.budget -= costOf(entry);
      if (!this.#applyEntry(entry)) return;
      turn.budget -= workCost * this.machine.work;
      traffic.applied(entry.bytes);
    }
    if (this.#applied > before) this.#moved(before);
    this.#snapshots.takeIfDue();
  }

  #applyEntry(entry: LogEntry): boolean {
    const { machine } = this;
    try {
      if (entry.kind === 'data') {
        const { stamp, payload, machineVersion: version, stateHash } = entry.data;
        const contradiction = this.#hashes.contradiction(entry.index, stateHash);
        if (contradiction !== null) throw new Error(contradiction);
        machine.apply({ index: entry.index, term: entry.term, stamp, machineVersion: version, payload });
        // Of entries that were in the log before this process: should it lead, its stamps go on from there.
        if (stamp > this.#lastStamp) this.#lastStamp = stamp;
      }
      this.#applied = entry.index;
      this.#hashes.applied(entry.index, machine);
      return true;
    } catch (error) {
      this.halt(asError(error));
      return false;
    }
  }

  /** A bug or damage was found in this group's state here: this replica stops, the node and its other groups go on. */
  halt(error: Error): void {
    if (this.#halted !== null) return;
    this.#halted = error;
    if (!this.#closed) this.#guardCore(() => this.raft.stepDown());
    this.#host.dirty(this);
    // Whoever waits here goes to the one who leads next.
    for (const { header, from } of this.#waiting) this.#refuse(header, from, 'notLeader');
    this.#waiting = [];
    this.#host.halted(this, error);
  }

  /** From memory there is nothing more: from disk. */
  #readAhead(commit: number): void {
    const { log, limits } = this.#host;
    const first = this.#applied + 1;
    let resolve = ignore;
    const reading = new Promise<void>((done) => {
      resolve = done;
    });
    this.#reading = reading;
    log.read(this.id, first, commit, Math.min(limits.applyBytesPerTurn, readAheadBytes), (error, entries) => {
      this.#reading = null;
      resolve();
      if (this.#closed || this.#halted !== null) return;
      // What a snapshot that was installed meanwhile covers is not needed any more.
      if (this.#applied >= first) return this.#host.dirty(this);
      if (error !== null) return this.halt(error);
      const before = this.#applied;
      for (const entry of entries) {
        if (!this.#applyEntry(entry)) return;
      }
      this.#moved(before);
    });
  }

  /** The machine has come further than `before`. */
  #moved(before: number): void {
    this.raft.applied(this.#applied);
    if (this.leads && this.#readyTerm !== this.raft.term) {
      this.#readyTerm = this.raft.term;
      this.#host.leaderReady(this);
      this.retryWaiting();
    }
    if (before < this.#readableFrom && this.isReadable) this.#host.installed(this);
    this.#host.applied(this);
    this.#host.dirty(this);
  }

  // ---- snapshots ----

  takeSnapshot(): void {
    this.#snapshots.take();
  }

  compact(): void {
    // Of a damaged one the log knows another compaction point than the core; and what there is of it stays.
    if (!this.#closed && !this.isDamaged) this.#snapshots.compact();
  }

  #createSnapshots(index: number): Snapshots {
    const { log, limits } = this.#host;
    const host = this.#host;
    return new Snapshots(
      {
        group: this.id,
        raft: this.raft,
        machine: this.machine,
        log,
        limits,
        appliedIndex: () => this.#applied,
        isHalted: () => this.#halted !== null,
        halt: (error) => this.halt(error),
        dirty: () => host.dirty(this),
        saved: () => host.snapshotSaved(this),
        failed: (error) => (isDamage(error) ? this.halt(error) : host.failed(this, error)),
        restored: (to) => {
          this.#applied = to;
          this.#hashes.clear();
          if (this.isReadable) host.installed(this);
        },
        installed: () => {
          host.applied(this);
          host.dirty(this);
        },
      },
      index,
    );
  }

  /** Ends this replica, which is to be replaced. Resolves when it does not touch the log any more. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const { header, from } of this.#waiting) this.#refuse(header, from, 'notLeader');
    this.#waiting = [];
    await Promise.all([this.#reading, this.#snapshots.close()]);
  }
}

function costOf(entry: LogEntry): number {
  const commands = entry.kind === 'data' ? commandCountOf(entry.data.payload) : 0;
  return entry.bytes + entryCost + commandCost * commands;
}

const asError = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)));
function ignore(): void {}

const nothingReady: Ready<EntryData> = {
  write: null,
  messages: [],
  commit: 0,
  reads: [],
  snapshotReads: [],
  snapshotWrites: [],
};
