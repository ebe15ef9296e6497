// One replica of one group on this node: its raft core, its machine, and what lies between them.
//
//   offer → checked, in sequence → raft.propose → log → commit → machine.apply → sink
//
// State owned: the raft core, the machine, how far it has applied, and, while leading, what each pipe is expected to send next. A failed
// assertion halts this group on this node and nothing else.
//
// Invariants: a batch is appended only if it is the next of its pipe; entries are applied in order, once; a snapshot is never taken
// beyond what is durable here.

import { crc32 } from 'node:zlib';
import { createRaft, type Raft, type Ready, type Restored, type SnapshotMeta } from 'raft-ts';
import { LogError } from './log/index.ts';
import type { EntryData, GroupWrite, Log, LogEntry, SnapshotReader, SnapshotStaging } from './log/types.ts';
import { type BatchHeader, checkBatch, OriginKind, readBatchHeader } from './machine/commands.ts';
import type { Machine } from './machine/machine.ts';
import type { ClusterLimits } from './options.ts';
import type { BatchAnswer } from './wire.ts';

/** The metadata; shards are the groups from 1 on. */
export const metadataGroup = 0;
export const machineVersion = 1;

export interface GroupHost {
  readonly node: number;
  readonly log: Log;
  readonly limits: ClusterLimits;
  wall(): number;
  random(bound: number): number;
  /** This group has something to do: `advance` is called at the end of the turn. */
  dirty(group: Group): void;
  /** Before a batch is appended: `ready` when all that it depends on is in this group's log. */
  prepare(group: Group, header: BatchHeader): 'ready' | 'wait';
  answer(node: number, group: number, header: BatchHeader, answer: BatchAnswer, expected: number, leader: number): void;
  applied(group: Group): void;
  /** Another role, leader or term. */
  roleChanged(group: Group): void;
  /** This replica leads, and knows all that was ever confirmed: once per term. Batches that waited are taken afterwards. */
  leaderReady(group: Group): void;
  halted(group: Group, error: Error): void;
  snapshotSaved(group: Group): void;
  /** The machine's state was replaced by a snapshot: sessions reconcile with it. */
  installed(group: Group): void;
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
  /** Index of the last entry applied to the machine. */
  #applied: number;
  #halted: Error | null = null;
  /** Leading: next sequence expected per node, of its newest incarnation, in the term `#expectedTerm`. */
  readonly #expected = new Map<number, { readonly incarnation: number; next: number }>();
  #expectedTerm = 0;
  /** Leading: batches that depend on something to come, in order. Whatever may have come calls `retryWaiting`. */
  #waiting: Waiting[] = [];
  /** The term in which `leaderReady` was told. */
  #readyTerm = 0;
  #lastStamp = 0;
  #reading = false;
  /** Leading: per node, the last entry that it waits for, and the commit index that it was told. */
  readonly #awaited = new Map<number, number>();
  readonly #told = new Map<number, number>();
  #snapshotIndex: number;
  #snapshotBytes = 0;
  #snapshotWanted = false;
  #snapshotRunning = false;
  #staging: {
    readonly meta: SnapshotMeta;
    readonly staging: SnapshotStaging;
  } | null = null;
  #stagingOpening = false;
  #installing = false;
  /** Leading: the stream that each follower is being sent, until it has no more use for it: a lost piece is read again. */
  readonly #readers = new Map<number, Promise<SnapshotReader>>();
  #role = '';
  #leader = -1;
  #term = -1;

  constructor(id: number, machine: Machine, restored: Restored, host: GroupHost) {
    const { limits } = host;
    this.id = id;
    this.machine = machine;
    this.#host = host;
    this.#applied = restored.snapshot.index;
    this.#snapshotIndex = restored.snapshot.index;
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
  }

  get appliedIndex(): number {
    return this.#applied;
  }
  get halted(): Error | null {
    return this.#halted;
  }
  get snapshotIndex(): number {
    return this.#snapshotIndex;
  }
  get leads(): boolean {
    return this.raft.role === 'leader' && this.raft.leaderReady;
  }

  /** A batch of some pipe, for the log. Answered only if it was not appended. */
  offer(payload: Buffer, checksum: number, from: number): void {
    if (checkBatch(payload) !== null) return;
    const header = readBatchHeader(payload);
    if (from !== this.#host.node && crc32(payload) !== checksum) return; // as if lost: it comes again
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

  /** Appends a batch of this node's own making (rows of the metadata). */
  propose(payload: Buffer, checksum: number): boolean {
    this.#lastStamp = Math.max(this.#lastStamp, this.#host.wall());
    const data: EntryData = {
      stamp: this.#lastStamp,
      machineVersion,
      stateHash: 0,
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
    if (header.kind !== OriginKind.node) return true;
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
    const leader = this.raft.role === 'leader' ? this.#host.node : this.raft.leader;
    this.#host.answer(from, this.id, header, answer, sequence, leader);
    return true;
  }

  /** Takes the core's work out: returns the write to gather. Messages are passed on by the host after it was handed to the log. */
  takeReady(): { ready: Ready<EntryData>; write: GroupWrite | null } {
    const ready = this.raft.ready();
    const write = ready.write;
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
      this.#snapshotBytes += entry.bytes;
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

  /** What is left of a `Ready` after write and messages: snapshots, and applying. */
  finishReady(ready: Ready<EntryData>): void {
    for (const request of ready.snapshotReads) this.#readSnapshot(request);
    for (const chunk of ready.snapshotWrites) this.#writeSnapshot(chunk);
    this.apply();
  }

  persisted(sequence: number): void {
    this.raft.persisted(sequence);
    this.#host.dirty(this);
  }

  /** Applies what is committed, up to a budget; comes again by itself while there is more. */
  apply(): void {
    if (this.#halted !== null || this.#reading || this.#installing) return;
    const { log, limits } = this.#host;
    const commit = this.raft.commit;
    const before = this.#applied;
    let budget = limits.applyBytesPerTurn;
    while (this.#applied < commit && budget > 0) {
      const entry = log.cached(this.id, this.#applied + 1);
      if (entry === undefined) {
        this.#readAhead(commit);
        break;
      }
      budget -= entry.bytes + 64;
      if (!this.#applyEntry(entry)) return;
    }
    if (this.#applied > before) this.#moved();
    if (
      this.#snapshotBytes > limits.snapshotEveryBytes ||
      this.#applied - this.#snapshotIndex > limits.snapshotEveryEntries
    )
      this.#snapshotWanted = true;
    if (this.#snapshotWanted) this.takeSnapshot();
  }

  #applyEntry(entry: LogEntry): boolean {
    try {
      if (entry.kind === 'data') {
        const { stamp, payload } = entry.data;
        this.machine.apply({
          index: entry.index,
          term: entry.term,
          stamp,
          machineVersion: entry.data.machineVersion,
          payload,
        });
      }
      this.#applied = entry.index;
      return true;
    } catch (error) {
      this.halt(error instanceof Error ? error : new Error(String(error)));
      return false;
    }
  }

  /** A bug was found in this group's state here: this replica stops, the node and its other groups go on. */
  halt(error: Error): void {
    if (this.#halted !== null) return;
    this.#halted = error;
    this.raft.stepDown();
    this.#host.dirty(this);
    this.#host.halted(this, error);
  }

  #readAhead(commit: number): void {
    this.#reading = true;
    const { log, limits } = this.#host;
    const first = this.#applied + 1;
    log.read(this.id, first, commit, limits.applyBytesPerTurn, (error, entries) => {
      this.#reading = false;
      // What a snapshot that was installed meanwhile covers is not needed any more.
      if (this.#applied >= first) return this.#host.dirty(this);
      if (error !== null) return this.halt(error);
      for (const entry of entries) {
        if (!this.#applyEntry(entry)) return;
      }
      this.#moved();
    });
  }

  /** The machine has come further. */
  #moved(): void {
    this.raft.applied(this.#applied);
    if (this.leads && this.#readyTerm !== this.raft.term) {
      this.#readyTerm = this.raft.term;
      this.#host.leaderReady(this);
      this.retryWaiting();
    }
    this.#host.applied(this);
    this.#host.dirty(this);
  }

  /** Saves the machine's state as soon as all that it contains is durable here. */
  takeSnapshot(): void {
    this.#snapshotWanted = true;
    if (this.#snapshotRunning || this.#installing || this.#halted !== null) return;
    const index = this.#applied;
    const term = this.raft.termAt(index);
    if (index <= this.#snapshotIndex || term === undefined) {
      this.#snapshotWanted = false;
      return;
    }
    if (this.raft.status().persistedIndex < index) return;
    this.#snapshotWanted = false;
    this.#snapshotRunning = true;
    this.#snapshotBytes = 0;
    const meta: SnapshotMeta = {
      index,
      term,
      configuration: this.raft.configurationAt(index),
    };
    this.#host.log.saveSnapshot(this.id, meta, this.machine.snapshot()).then(
      () => {
        this.#snapshotRunning = false;
        this.#snapshotIndex = Math.max(this.#snapshotIndex, index);
        this.raft.snapshotTaken(meta);
        this.compact();
        this.#host.dirty(this);
        this.#host.snapshotSaved(this);
      },
      (error: Error) => this.#host.log.onFatal(error),
    );
  }

  /** Forgets whole entries as far as the log may. Not while a snapshot is under way: the log would know of it before the core does. */
  compact(): void {
    this.#closeIdleReaders();
    if (this.#snapshotRunning || this.#installing) return;
    this.raft.compacted(this.#host.log.compactionPoint(this.id).index);
  }

  /** Leader: one piece of the latest snapshot for a follower that is too far behind. */
  #readSnapshot({ to, match, offset, bytesMax }: Ready<EntryData>['snapshotReads'][number]): void {
    if (offset === 0) {
      this.#closeReader(to);
      const live = this.machine.liveEntries(1, this.#snapshotIndex);
      this.#readers.set(to, this.#host.log.openSnapshotStream(this.id, live, match));
    }
    const reader = this.#readers.get(to);
    if (reader === undefined) {
      // The rest of another stream would not fit what was sent. Given another snapshot than it asked for, the core begins anew.
      this.raft.snapshotRead(to, noSnapshot, offset, nothing, true);
      return this.#host.dirty(this);
    }
    const fail = (error: Error) => {
      if (this.#readers.get(to) !== reader) return;
      this.#closeReader(to);
      this.#host.halted(this, error);
    };
    reader.then((stream) => {
      stream.read(offset, bytesMax, (error, bytes, end) => {
        if (error !== null) return fail(error);
        this.raft.snapshotRead(to, stream.meta, offset, bytes, end);
        this.#host.dirty(this);
      });
    }, fail);
  }

  /** An open reader holds a snapshot file. Its follower may have died, or caught up otherwise, or this replica leads no more. */
  #closeIdleReaders(): void {
    if (this.#readers.size === 0) return;
    const { progress } = this.raft.status();
    for (const to of [...this.#readers.keys()]) {
      const row = progress.find(({ id }) => id === to);
      if (row === undefined || !row.active || row.state !== 'snapshot') this.#closeReader(to);
    }
  }

  #closeReader(to: number): void {
    const reader = this.#readers.get(to);
    this.#readers.delete(to);
    reader?.then((open) => open.close()).catch(ignore);
  }

  /** Follower: one piece arrived; the last one installs. */
  #writeSnapshot(chunk: Ready<EntryData>['snapshotWrites'][number]): void {
    const { log } = this.#host;
    const { snapshot: meta, offset, bytes, done } = chunk;
    const answer = (ok: boolean) => {
      this.raft.snapshotWritten(meta, offset, ok);
      this.#host.dirty(this);
    };
    const write = (staging: SnapshotStaging) =>
      staging.write(offset, bytes, (error) => {
        if (error !== null || !done) return answer(error === null);
        this.#install(meta, staging, answer);
      });
    if (offset > 0) {
      if (this.#staging?.meta.index === meta.index) write(this.#staging.staging);
      else answer(false);
      return;
    }
    if (this.#stagingOpening || this.#installing) return answer(false);
    this.#stagingOpening = true;
    const previous = this.#staging;
    this.#staging = null;
    const open = async () => {
      await previous?.staging.abort();
      return log.createSnapshotStaging(this.id, meta);
    };
    open().then(
      (staging) => {
        this.#stagingOpening = false;
        this.#staging = { meta, staging };
        write(staging);
      },
      () => {
        this.#stagingOpening = false;
        answer(false);
      },
    );
  }

  #install(meta: SnapshotMeta, staging: SnapshotStaging, done: (ok: boolean) => void): void {
    this.#installing = true;
    this.#staging = null;
    staging.install().then(
      (state) => {
        this.#installing = false;
        if (meta.index > this.#applied) {
          this.machine.restore(state);
          this.#applied = meta.index;
          this.#host.installed(this);
        }
        this.#snapshotIndex = meta.index;
        this.#snapshotBytes = 0;
        done(true);
        this.raft.snapshotInstalled(meta);
        this.#host.applied(this);
        this.#host.dirty(this);
      },
      (error: Error) => {
        this.#installing = false;
        // A stream that came damaged, or too late, is asked for again; a disk that fails has told so itself.
        if (error instanceof LogError) return done(false);
        this.#host.log.onFatal(error);
      },
    );
  }
}

function ignore(): void {}

const noSnapshot: SnapshotMeta = {
  index: 0,
  term: 0,
  configuration: {
    voters: [],
    outgoing: [],
    learners: [],
    learnersNext: [],
    autoLeave: false,
  },
};
const nothing = new Uint8Array(0);
