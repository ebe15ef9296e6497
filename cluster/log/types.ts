// What the log offers to the host. Types only; `index.ts` exports the implementation.

import type { Configuration, Entry, HardState, SnapshotMeta } from 'raft-ts';
import type { Durations } from './time-histogram.ts';

/** What the host keeps with every entry. `checksum` (zlib.crc32 of the payload) is made by the origin and checked on every read from disk. */
export interface EntryData {
  readonly stamp: number;
  readonly machineVersion: number;
  /** Hash of an earlier applied state; 0: none. */
  readonly stateHash: number;
  readonly payload: Buffer;
  readonly checksum: number;
  /** It is only what is left of the entry: messages that lived when the log was rewritten, by their ordinals. */
  readonly remains?: true;
}
export type LogEntry = Entry<EntryData>;

export interface LogOptions {
  /** Names this node's log; a folder of another node or cluster is refused. */
  readonly clusterId: string;
  readonly nodeUuid: string;
  /** The durable groups that this node may have a replica of, under this id: where it is not known any more which ones it had. */
  readonly mayHold?: { readonly replica: number; readonly groups: readonly number[] };
  readonly fileBytesMax: number;
  /** Recent entries held in memory, in bytes of payload. */
  readonly cacheBytesMax: number;
  /** Whole entries kept behind a snapshot per group, in bytes, so that a slow follower needs none. */
  readonly keptBytesMax: number;
  /** Bytes of log files beyond which groups that pin the oldest ones are asked for a snapshot (`onPressure`). */
  readonly pressureBytes: number;
  /** Bytes of volatile entries that may wait in memory for the disk. Beyond it, `done` of a volatile write waits for the disk too. */
  readonly volatileWaitingBytesMax: number;
  /** What rewriting sparsely live files may read and write in a second; four times as much where the disk's bound is exceeded. */
  readonly compactionBytesPerSecond: number;
  /** Bytes of dead entries that are left alone beside what lives, and half as much again as that. */
  readonly compactionSlackBytes: number;
  /** What `scrub` reads in a second to find rot before it is needed; 0: nothing. */
  readonly scrubBytesPerSecond: number;
}

/** All references to messages that a group's machine held at one moment, of entries that had been applied by then. */
export interface LiveReferences {
  /**
   * About `bytesMax` more bytes: 12 per reference, which are the entry's index (low 32 bits), the message's ordinal in it (16), the index
   * (high 16), bytes of the message (32; all ones: not known). Null: that was all, or it was lost.
   */
  next(bytesMax: number): Buffer | null;
  readonly isLost: boolean;
  close(): void;
}

/** Which entries the machines can do without, and since when. */
export interface LiveEntries {
  /** True if a message in entries [first, last] lives, or nobody knows. */
  isLive(group: number, first: number, last: number): boolean;
  /**
   * Up to here entries were applied, and what is said of the group follows from them. Before anything goes that is dead by it, the log makes
   * it durable that they are committed: a machine that stood further back after a crash would miss what it still holds.
   */
  applied(group: number): number;
}

/** What the machines say of the messages in entries that were applied. */
export interface Liveness extends LiveEntries {
  /** References to messages in entries [first, last]; Infinity: nobody knows, and they are kept as they are. */
  count(group: number, first: number, last: number): number;
  /** All that `count` counts now. Null: not now. */
  references(group: number): LiveReferences | null;
  /** What to keep of an entry's payload of which only these messages live (ordinals, ascending). The payload itself: not worth it. */
  remains(payload: Buffer, ordinals: Iterable<number>): Buffer;
}

/** `repairTo` of a replica that lost it does not know what: it may have acknowledged anything. */
export const unknownIndex = Number.MAX_SAFE_INTEGER;

/** One group as it was found on disk. */
export interface RecoveredGroup {
  readonly group: number;
  readonly replica: number;
  readonly hardState: HardState;
  readonly snapshot: SnapshotMeta;
  readonly compacted: { readonly index: number; readonly term: number };
  /** Up to here entries may have been acknowledged that are lost; 0: none. */
  readonly repairTo: number;
  readonly entries: { index: number; term: number; bytes: number; configuration?: Configuration }[];
  /**
   * What of it is damaged, for people; empty: nothing. Else all other fields are those of an empty replica, but for what is known of term and
   * vote, which may have been lost too. It must not take part, and nothing but `append` of a hard state and `resetGroup` may be asked of it;
   * what there is of it stays on the disk until then. Remembered across restarts.
   */
  readonly damage: readonly string[];
}

/** One group's part of the next write. Order within it: truncate, entries, hard state. */
export interface GroupWrite {
  readonly group: number;
  readonly truncateFrom: number | null;
  readonly entries: readonly LogEntry[];
  readonly hardState: HardState | null;
}

/**
 * One append-only store for all groups of a node. Calls take effect in order. One write is in flight while the next gathers; `done` runs
 * after fdatasync, in order. A write or sync error is given to `onFatal` once and nothing after it succeeds: the process has to end.
 */
export interface Log {
  /** Prepares an empty group, or opens one that was recovered. Must precede any other use of it. Durable with the next write. */
  createGroup(group: number, replica: number, snapshot: SnapshotMeta): void;
  /**
   * Prepares an empty volatile group, which must not exist. Its entries go to files of their own that are never synced, and can be read like
   * others; nothing of it outlives this process. `done` of a write that holds nothing else is called before `append` returns, unless more
   * than `volatileWaitingBytesMax` wait for the disk. It has no hard state (what is given is ignored), no truncations and no snapshots; its
   * compaction point is what was applied.
   */
  createVolatileGroup(group: number, replica: number): void;
  /** Its machine has applied entries up to here: from now on they are kept only as long as `collect` hears that they are live. */
  volatileApplied(group: number, index: number): void;
  /** Ends a volatile group: its entries are garbage. The same number may be created again. */
  dropVolatileGroup(group: number): void;
  /**
   * Forgets a group's whole log and snapshot but for term and vote, and for what it may have acknowledged: until the replica has that again
   * it is `RecoveredGroup.repairTo`, also after restarts (the highest one that was ever given). For a replica that is to be built anew from
   * its peers, and begins with `configuration` (what the log had of it may be what was lost). Takes effect at once; when it resolves, it is durable. Snapshots of it that are being saved come to nothing, those being
   * installed are refused.
   */
  resetGroup(group: number, repairTo: number, configuration: Configuration): Promise<void>;
  /** The replica has all again that it may ever have acknowledged: `repairTo` is forgotten. Resolves when that is durable. */
  repaired(group: number): Promise<void>;
  /** Gathers. Starts a write at once when none is in flight. One call is for volatile groups, or for others, never for both. */
  append(writes: readonly GroupWrite[], done: () => void): void;
  /** The entry if it is in memory, else undefined. */
  cached(group: number, index: number): LogEntry | undefined;
  /** Its payload alone, if it is in memory and has one. */
  cachedPayload(group: number, index: number): Buffer | undefined;
  /**
   * Entries [first, last], from memory or disk, checked; stops early after `bytesMax` (at least one). Concurrent reads are bounded inside.
   * `done` with an error when one is missing or damaged. May call `done` before it returns when all are in memory.
   */
  read(
    group: number,
    first: number,
    last: number,
    bytesMax: number,
    done: (error: Error | null, entries: LogEntry[]) => void,
  ): void;
  /**
   * The entry with what lives in it, behind the compaction point maybe nothing else of it (`EntryData.remains`). Only for reading messages:
   * never to be applied or sent. `read` calls such an entry missing.
   */
  readLive(group: number, index: number, done: (error: Error | null, entry: LogEntry | null) => void): void;
  /** True if the entry can be read: it follows the compaction point, or lives on behind it. */
  has(group: number, index: number): boolean;
  /**
   * Writes a snapshot durably (temporary file, sync, rename, folder sync), notes it in the manifest, lets older ones go. Takes the pieces
   * one after the other as the disk takes them, and closes `pieces` once, however it ends. Does nothing if the group has this or a newer one
   * by then, or was reset.
   */
  saveSnapshot(group: number, meta: SnapshotMeta, pieces: PieceSource): Promise<void>;
  /** Gives the newest snapshot's machine state, checked, to `into`. Null if the group has none. */
  loadSnapshot(group: number, into: StateSink): Promise<SnapshotMeta | null>;
  /**
   * The stream that installs a snapshot elsewhere: the live entries that the receiver lacks, then the state. Opaque bytes; the same
   * snapshot gives the same bytes at the same offset while it is pinned. `live`: at least all entries up to the snapshot that are live when
   * this resolves, ascending; read over many turns. `liveAbove`: the receiver has everything up to here.
   */
  openSnapshotStream(group: number, live: Iterable<number>, liveAbove: number): Promise<SnapshotReader>;
  /** Receiving side of such a stream. */
  createSnapshotStaging(group: number, meta: SnapshotMeta): Promise<SnapshotStaging>;
  /**
   * Deletes log files that nobody needs: every entry in them is at or below its group's compaction point (of a volatile group: applied) and
   * `live` says that none of them lives, and the manifest covers their control records. Called by the host after snapshots and now and then.
   */
  collect(live: LiveEntries): Promise<void>;
  /**
   * Rewrites the files of which least lives, one round of it, if the disk holds much more than what lives; at a bounded rate, beside
   * everything else. Resolves at once while another round is under way. A round only touches entries behind the compaction points.
   * Rejects with ENOSPC when there is no room for it: it came to nothing then, and may be tried again.
   */
  compact(live: Liveness): Promise<void>;
  /**
   * The highest index up to which the group forgets whole entries (behind its snapshot by `keptBytesMax`, by less when they lie in files
   * beyond `pressureBytes`). `collect` deletes up to what was answered last, so tell the core before; ask before every `collect`.
   */
  compactionPoint(group: number): { index: number; term: number };
  /** Reads on where it had come to, in the background, and checks what it reads. To be called once a second. */
  scrub(): void;
  /** `scrub` found rot in what a group counts on. */
  onDamage: (group: number, error: Error) => void;
  /** Asked of a group whose entries after its snapshot pin old files. */
  onPressure: (group: number) => void;
  onFatal: (error: Error) => void;
  status(): {
    files: number;
    bytes: number;
    cachedBytes: number;
    /**
     * Of `bytes`: what lives behind the compaction points, as far as it was looked at, with the headers that it cannot be kept without. Not
     * counted is what lives in entries that are kept whole anyhow.
     */
    liveBytes: number;
    /** What `bytes` is to stay below: twice `liveBytes`, and a constant that follows from the options. */
    boundBytes: number;
    /** Since the start: what was appended, and what was written again to get rid of dead entries around it. */
    appendedBytes: number;
    rewrittenBytes: number;
    /** How often all sealed files were read again by `scrub`, and bytes that it has read. */
    scrubPasses: number;
    scrubbedBytes: number;
    /** Damaged files that were moved aside. */
    setAside: readonly string[];
    syncs: number;
    lastSyncMilliseconds: number;
    /** Of the writes of what lasts: how long each took until it was durable. */
    writeTimes: Durations;
    writeInFlight: boolean;
  };
  /** Waits for what is gathered, writes the footer of the open file, closes. */
  close(): Promise<void>;
}

/** A stream that its owner makes piece by piece. */
export interface PieceSource {
  /** About `bytesMax` more bytes, which never change afterwards; none: not in this turn; null: that was all. */
  next(bytesMax: number): Buffer | null;
  close(): void;
}

/** A state that is built while its bytes come, some in a turn. What it throws ends what gives it the bytes. */
export interface StateSink {
  /** The next bytes, in order. They never change. */
  add(bytes: Buffer, isLast: boolean): void;
  /** Goes on by a bounded piece of work. False: not before there are more bytes, or nothing is left to do. */
  step(): boolean;
}

export interface SnapshotReader {
  readonly meta: SnapshotMeta;
  read(offset: number, bytesMax: number, done: (error: Error | null, bytes: Buffer, end: boolean) => void): void;
  close(): void;
}

export interface SnapshotStaging {
  /** Chunks come in order. */
  write(offset: number, bytes: Uint8Array, done: (error: Error | null) => void): void;
  /**
   * Verifies the whole stream and gives the machine state that is in it to `into`; then installs it as one atomic step: live entries become
   * readable, the group's log restarts behind the snapshot (entries after it are kept if the chain fits), snapshot and manifest are durable.
   * The machine is to have the state in the turn in which this resolves: from the next one on `collect` may ask about what it brought.
   */
  install(into: StateSink): Promise<void>;
  abort(): Promise<void>;
}
