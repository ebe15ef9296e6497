// What the host asks of every replicated state machine, and what a machine tells its own node. Types only.

import type { ResultCode } from './commands.ts';

/** A committed entry. `stamp`: milliseconds since 1970 by the leader's estimate, never decreasing within a group. */
export interface AppliedEntry {
  readonly index: number;
  readonly term: number;
  readonly stamp: number;
  readonly machineVersion: number;
  readonly payload: Buffer;
}

/** One node's incarnation as an origin of batches. */
export interface PipeId {
  readonly node: number;
  readonly incarnation: number;
}

/**
 * Hears what concerns one pipe, the node's own, while entries are applied. It only saves the node from looking: whatever it says can be
 * read again from the machine's state (`resume`), so nothing depends on having heard it.
 */
export interface PipeSink {
  /** Every command of the pipe's batch `sequence` was applied; results that are not plainly ok were told before. */
  batchApplied(sequence: number): void;
  result(sequence: number, ordinal: number, code: ResultCode, value: number, extra: number): void;
  /** Message (entryIndex, ordinal) is now leased as (consumer, leaseOrdinal). `deliveryCount` > 0 or `redelivered`: it went out before. */
  lease(
    consumer: number,
    leaseOrdinal: number,
    entryIndex: number,
    ordinal: number,
    redelivered: boolean,
    deliveryCount: number,
  ): void;
  /** The consumer was removed without being asked (its queue was deleted). Its leases are gone. */
  consumerCancelled(consumer: number): void;
  /** The pipe was ended: its leases went back, its later batches are refused. */
  fenced(): void;
}

/** A machine's state at one index, given piece by piece while entries go on being applied. One at a time per machine. */
export interface SnapshotPieces {
  /** About `bytesMax` more bytes (at least some), which never change afterwards; null: that was all. Bounded work. */
  next(bytesMax: number): Buffer | null;
  /** Gives up; `next` must not be called any more. Also to be called at the end. */
  close(): void;
}

/** A state on its way into a machine, which goes on as it is until `finish`. Whoever gives up lets go of this, and nothing has happened. */
export interface Restoring {
  /** The next bytes of a snapshot, in order; they must never change from now on. `isLast`: there are no more, these may be none. */
  add(bytes: Buffer, isLast: boolean): void;
  /**
   * Goes on by a bounded piece of work. False: not before there are more bytes, or nothing is left to do. Throws on bytes that are not a
   * snapshot of a known version.
   */
  step(): boolean;
  /** The machine has the new state. Only when the last bytes were added and nothing was left to do. Takes constant time. */
  finish(): void;
}

/** All references to messages that a machine's state held at one index, read piece by piece while entries go on being applied. */
export interface References {
  /** About `bytesMax` more bytes (at least some): 12 per reference (`ByteWriter.reference`); null: that was all, or it was lost. */
  next(bytesMax: number): Buffer | null;
  /** It ended before its end: what came is not all. */
  readonly isLost: boolean;
  /** Gives up. Also to be called at the end. */
  close(): void;
}

/** A pure, deterministic state machine. `apply` never throws on input; a failed assertion inside means a bug and halts the replica. */
export interface Machine {
  readonly appliedIndex: number;
  /** The version that its state is of: the highest of the entries applied (`versions.ts`). */
  readonly version: number;
  /** Messages that the last entry moved beside its own: handed out, returned, dropped. For whoever shares time out; not part of the state. */
  readonly work: number;
  /** Who hears what concerns a node's pipe of this incarnation; null: nobody any more. One sink per node. Not part of the replicated state. */
  watch(pipe: PipeId, sink: PipeSink | null): void;
  apply(entry: AppliedEntry): void;
  /** Tells the pipe's sink again all that the state still knows: results, then leases with an ordinal at or above `nextLease(consumer)`, in order. */
  resume(pipe: PipeId, nextLease: (consumer: number) => number): void;
  /** Sequence of the last batch applied from this pipe; 0 when it is not known. */
  lastSequence(pipe: PipeId): number;
  /** True if the pipe was ended; nothing of it will be applied any more. */
  isFenced(pipe: PipeId): boolean;
  /** Begins a snapshot of the state as it is now. */
  snapshot(): SnapshotPieces;
  /** Begins to replace the state by another one. */
  restoring(): Restoring;
  /** The same at once. For tests, and for states known to be small. */
  restore(bytes: Buffer): void;
  /** Are there messages in entries [first, last] that somebody may still read? */
  hasLiveEntries(first: number, last: number): boolean;
  /**
   * Indices of entries in [first, last] that hold live messages, ascending. May be read over many turns, in which entries are applied: of
   * what dies meanwhile some may still come; what is alive at the end has come.
   */
  liveEntries(first: number, last: number): Iterable<number>;
  /** References to messages in entries [first, last]: as many of them as `references` would give. */
  countLive(first: number, last: number): number;
  /** Begins to read all references, as they are now. Null: not while a snapshot is being taken, and a snapshot that is begun ends it. */
  references(): References | null;
  /** Do sessions of this node hear of what others do in this group? Else only answers to its own batches matter to it. */
  concerns(node: number): boolean;
  /** The stamp at which something falls due that only an entry can bring about; Infinity: nothing. Work left over is due at once (0). */
  readonly due: number;
  /** A hash of the state, equal on all replicas at the same index. */
  stateHash(): number;
}

export interface QueueStatus {
  readonly uid: number;
  readonly ready: number;
  readonly unsettled: number;
  readonly consumers: number;
  readonly bytes: number;
}
