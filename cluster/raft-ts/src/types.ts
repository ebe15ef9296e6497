// The vocabulary of raft-ts: what goes into the core and what comes out of it. Types only.

export type Term = number & { readonly brand?: 'Term' };
/** Position of an entry in a group's log. The first entry has index 1; 0 means "before the first". */
export type LogIndex = number & { readonly brand?: 'LogIndex' };
/** A member of one group. Never reused: a wiped disk comes back under a new id. 0 means "none". */
export type ReplicaId = number & { readonly brand?: 'ReplicaId' };

/**
 * Who votes. During a change `outgoing` holds the old voters and every decision needs a majority of both.
 * `learners` receive the log and never vote; `learnersNext` become learners when the joint phase ends.
 */
export interface Configuration {
  readonly voters: readonly ReplicaId[];
  readonly outgoing: readonly ReplicaId[];
  readonly learners: readonly ReplicaId[];
  readonly learnersNext: readonly ReplicaId[];
  /** The leader leaves the joint phase on its own, also a leader elected later. */
  readonly autoLeave: boolean;
}

/** One entry of the log. `data` belongs to the host: the core never looks inside. `bytes` is its size for all bounds. */
export type Entry<D> =
  | { readonly kind: 'data'; readonly index: LogIndex; readonly term: Term; readonly bytes: number; readonly data: D }
  | { readonly kind: 'noop'; readonly index: LogIndex; readonly term: Term; readonly bytes: 0 }
  | {
      readonly kind: 'configuration';
      readonly index: LogIndex;
      readonly term: Term;
      readonly bytes: number;
      readonly configuration: Configuration;
    };

/** Persisted as one atomic record before any message that depends on it is sent. `commit` is a hint, safe to lag. */
export interface HardState {
  readonly term: Term;
  /** The candidate voted for in `term`, 0 for none. */
  readonly vote: ReplicaId;
  readonly commit: LogIndex;
}

/** What a snapshot replaces: everything up to and including `index`. */
export interface SnapshotMeta {
  readonly index: LogIndex;
  readonly term: Term;
  readonly configuration: Configuration;
}

/** What the host found on disk. `entries` follow the snapshot (or its compaction point) without a gap. */
export interface Restored {
  readonly hardState: HardState;
  readonly snapshot: SnapshotMeta;
  /**
   * Entries after `compacted` (which is at most `snapshot.index`: whole entries may be kept behind a snapshot for slow followers).
   * Sizes and terms only; configuration entries carry their configuration.
   */
  readonly compacted: { readonly index: LogIndex; readonly term: Term };
  readonly entries: readonly {
    readonly index: LogIndex;
    readonly term: Term;
    readonly bytes: number;
    readonly configuration?: Configuration;
  }[];
  /**
   * The highest index that was once durable here and is lost to damage. Until the replica has again, durably and as committed, all that it
   * may have acknowledged, it neither votes nor campaigns; its leader sends it the missing entries anew. The host must remember it until
   * then (`RaftStatus.repairing`), across restarts.
   */
  readonly repairTo?: LogIndex;
  /** With `repairTo`: nothing was acknowledged here in a later term than this. That of the hard state if left out. */
  readonly repairTerm?: Term;
}

export interface RaftOptions {
  readonly id: ReplicaId;
  /** Names the group and its incarnation; a message of another one is dropped. */
  readonly group: number;
  readonly groupIncarnation: number;
  /** Ticks without a leader before a campaign; the actual wait is drawn from [electionTicks, 2 * electionTicks). */
  readonly electionTicks: number;
  readonly heartbeatTicks: number;
  /** Bytes of entries in one append message (at least one entry goes, however large). */
  readonly appendBytesMax: number;
  /** Bytes and messages of entries sent to one follower and not yet acknowledged. */
  readonly inflightBytesMax: number;
  readonly inflightMessagesMax: number;
  /** Bytes of proposals appended and not yet committed; `propose` answers `full` beyond it. */
  readonly uncommittedBytesMax: number;
  /** Bytes of one snapshot chunk. */
  readonly snapshotChunkBytes: number;
  /** A number in [0, bound): the only randomness, injected. */
  readonly random: (bound: number) => number;
}

export interface Envelope {
  readonly group: number;
  readonly groupIncarnation: number;
  readonly from: ReplicaId;
  readonly to: ReplicaId;
  /** The sender's term; for a pre-vote the term it would campaign in. */
  readonly term: Term;
}

/** Messages that look the same when sent and when received. */
type CommonMessage =
  | { readonly kind: 'preVote'; readonly lastIndex: LogIndex; readonly lastTerm: Term }
  | { readonly kind: 'preVoteReply'; readonly granted: boolean }
  /** `transfer`: asked for by the leader itself, so the voter's stickiness is bypassed. */
  | { readonly kind: 'vote'; readonly lastIndex: LogIndex; readonly lastTerm: Term; readonly transfer: boolean }
  | { readonly kind: 'voteReply'; readonly granted: boolean }
  /** `session` names one leader's replication to one follower; replies of another session are dropped (pitfall 28). */
  | {
      readonly kind: 'appendReply';
      readonly session: number;
      /** True: the log matches the leader's up to `index`, durably. False: `index` was not found there; see `hint*`. */
      readonly success: boolean;
      readonly index: LogIndex;
      /** On a conflict: the follower's best guess of where the logs may agree. */
      readonly hintIndex: LogIndex;
      readonly hintTerm: Term;
    }
  /** `commit` is already clipped to what this follower is known to have. `readContext` 0 means none. */
  | { readonly kind: 'heartbeat'; readonly session: number; readonly commit: LogIndex; readonly readContext: number }
  | { readonly kind: 'heartbeatReply'; readonly session: number; readonly readContext: number }
  | { readonly kind: 'timeoutNow' }
  /**
   * `ok`: the next chunk is wanted at `offset`. Not `ok`: nothing is staged (any more), begin anew. The installation of the whole, and
   * that the snapshot was not needed, are told by an `appendReply`.
   */
  | {
      readonly kind: 'snapshotReply';
      readonly session: number;
      readonly index: LogIndex;
      readonly offset: number;
      readonly ok: boolean;
    };

/**
 * An append names its entries; the host attaches them from its cache or its log when it sends. `last < first`: an empty one, to probe or to
 * tell the commit index. One that does no more than that is a `notice`: it is answered only to refuse it. If the host's entry at `last` no
 * longer has the term `lastTerm` (this replica lost its leadership and its log was truncated meanwhile), the message must be dropped.
 */
type OutgoingAppend = {
  readonly kind: 'append';
  readonly session: number;
  readonly previousIndex: LogIndex;
  readonly previousTerm: Term;
  readonly first: LogIndex;
  readonly last: LogIndex;
  readonly lastTerm: Term;
  readonly commit: LogIndex;
  readonly notice: boolean;
};
type IncomingAppend<D> = {
  readonly kind: 'append';
  readonly session: number;
  readonly previousIndex: LogIndex;
  readonly previousTerm: Term;
  readonly entries: readonly Entry<D>[];
  readonly commit: LogIndex;
  readonly notice: boolean;
};
/** One piece of the leader's latest snapshot, as an opaque stream of bytes; the host reads and writes it. */
type SnapshotChunk = {
  readonly kind: 'snapshotChunk';
  readonly session: number;
  readonly snapshot: SnapshotMeta;
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly done: boolean;
};

export type OutgoingMessage = Envelope & (CommonMessage | OutgoingAppend | SnapshotChunk);
export type IncomingMessage<D> = Envelope & (CommonMessage | IncomingAppend<D> | SnapshotChunk);
export type MessageBody = CommonMessage | SnapshotChunk;

/**
 * One unit of durable work. The host applies the parts in this order: truncate, append, hard state (a crash may leave an earlier part without a
 * later one); makes them durable; then calls `persisted(sequence)`. Writes of one group complete in the order of their sequences.
 */
export interface Write<D> {
  readonly sequence: number;
  /** Drop the log from this index on, before appending. */
  readonly truncateFrom: LogIndex | null;
  readonly entries: readonly Entry<D>[];
  readonly hardState: HardState | null;
}

/** Everything that the host has to do now. */
export interface Ready<D> {
  readonly write: Write<D> | null;
  /** To send at once, in order. Messages that need a write to be durable first are held back by the core until `persisted`. */
  readonly messages: readonly OutgoingMessage[];
  /** Entries up to here may be applied, in order, by the host, which then calls `applied`. */
  readonly commit: LogIndex;
  /** Reads that became safe: serve each once `index` has been applied. `index` null: the read failed (leadership lost); ask again. */
  readonly reads: readonly { readonly context: number; readonly index: LogIndex | null }[];
  /**
   * A follower is to get a snapshot: read up to `bytesMax` bytes at `offset` and call `snapshotRead`. `isFirst`: the host chooses its latest
   * snapshot (at least the one at `index`) and begins a stream; all others, offset 0 among them, are of that same stream. A host that does
   * not have it any more says so with null instead of a snapshot. `match`: the follower has all entries up to here. Asked again after an
   * election timeout; empty bytes that are not the end count as no answer.
   */
  readonly snapshotReads: readonly {
    readonly to: ReplicaId;
    readonly index: LogIndex;
    readonly match: LogIndex;
    readonly offset: number;
    readonly isFirst: boolean;
    readonly bytesMax: number;
  }[];
  /**
   * A chunk arrived for this replica: store it in the staging file (offset 0 begins a new one); when `done`, verify, install (snapshot, log
   * reset and manifest in one atomic step), load the machine from it, then call `snapshotInstalled`. Call `snapshotWritten` after each
   * chunk; `ok` false, also for a failed installation, begins anew. The last chunk is handed out only when every write is persisted, and
   * no entry is appended between it and `snapshotInstalled`: so the log on disk and the core's agree on what is kept.
   */
  readonly snapshotWrites: readonly {
    readonly snapshot: SnapshotMeta;
    readonly offset: number;
    readonly bytes: Uint8Array;
    readonly done: boolean;
  }[];
}

export type Role = 'follower' | 'preCandidate' | 'candidate' | 'leader' | 'learner';

export type ProposeResult =
  | { readonly ok: true; readonly index: LogIndex; readonly term: Term }
  | {
      readonly ok: false;
      readonly reason: 'notLeader' | 'full' | 'transferring' | 'changeInProgress' | 'notReady' | 'invalid';
    };

export interface Progress {
  readonly id: ReplicaId;
  readonly match: LogIndex;
  readonly next: LogIndex;
  readonly state: 'probe' | 'replicate' | 'snapshot';
  /** Heard from within the last election timeout. */
  readonly active: boolean;
  readonly learner: boolean;
}

export interface RaftStatus {
  readonly id: ReplicaId;
  readonly role: Role;
  readonly term: Term;
  readonly vote: ReplicaId;
  readonly leader: ReplicaId;
  readonly commit: LogIndex;
  readonly applied: LogIndex;
  readonly lastIndex: LogIndex;
  readonly persistedIndex: LogIndex;
  readonly configuration: Configuration;
  readonly transferee: ReplicaId;
  /** Lost durable entries (`Restored.repairTo`) and does not vote yet. */
  readonly repairing: boolean;
  /** Leader only: one row per other member. */
  readonly progress: readonly Progress[];
}

/** One replica of one group. Every call is synchronous; after any of them `hasReady()` may have become true. */
export interface Raft<D> {
  /** One tick of the host's timer. */
  tick(): void;
  step(message: IncomingMessage<D>): void;
  /** Appends one entry if this replica leads, its no-op is applied (`notReady` before) and the bounds allow. */
  propose(data: D, bytes: number): ProposeResult;
  /**
   * Starts a change to these voters and learners (joint consensus if the voters change, left automatically). `notReady`: before this
   * leader's no-op is applied, or a new voter is a learner that has not caught up. `invalid`: malformed, no change, or a new voter
   * is not a learner yet. `changeInProgress`: the last change is not committed or not left yet.
   */
  proposeConfiguration(voters: readonly ReplicaId[], learners: readonly ReplicaId[]): ProposeResult;
  /** Starts a campaign at once (with pre-vote). For tests and for a single-member group at start. */
  campaign(): void;
  /** The host saw the connection to the leader's process break: forget the leader, drop stickiness; campaign after `delayTicks`. */
  leaderLost(delayTicks: number): void;
  /** Hands leadership over to a voter that answers; proposals are refused meanwhile, at most for one election timeout. */
  transferLeadership(to: ReplicaId): boolean;
  /** Leader: gives up leadership (its disk hangs, or it shuts down); asks the best follower to campaign at once. */
  stepDown(): void;
  /** Leader: asks for a read point (ReadIndex). `context` > 0, never reused. Answered through `Ready.reads`. */
  readIndex(context: number): void;
  persisted(sequence: number): void;
  applied(index: LogIndex): void;
  snapshotRead(to: ReplicaId, snapshot: SnapshotMeta | null, offset: number, bytes: Uint8Array, done: boolean): void;
  snapshotWritten(snapshot: SnapshotMeta, offset: number, ok: boolean): void;
  snapshotInstalled(snapshot: SnapshotMeta): void;
  /** The host made a snapshot of its machine durable at this index (at most `applied` and `persistedIndex`). */
  snapshotTaken(snapshot: SnapshotMeta): void;
  /** The host no longer keeps whole entries up to here (at most the snapshot's index). */
  compacted(index: LogIndex): void;
  hasReady(): boolean;
  ready(): Ready<D>;
  status(): RaftStatus;
  /** Term of the entry at `index`, or undefined when it is not in the log (any more). */
  termAt(index: LogIndex): Term | undefined;
  readonly role: Role;
  readonly term: Term;
  readonly leader: ReplicaId;
  readonly commit: LogIndex;
  readonly lastIndex: LogIndex;
  /** Entries up to here are durable on this replica. */
  readonly persistedIndex: LogIndex;
  /** True once this leader's no-op is applied: it knows all that was ever confirmed. */
  readonly leaderReady: boolean;
  /** Configuration in force at `index`, for a snapshot there. */
  configurationAt(index: LogIndex): Configuration;
  /** Throws if one of the stated invariants is broken. */
  validate(): void;
}
