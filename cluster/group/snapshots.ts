// The snapshots of one replica of one group: taken of its machine, read for followers that are too far behind, received and installed.
//
// State owned: the index of the newest snapshot, which of these is under way, the streams being sent and the one being received. The core
// decides when one is sent or received; the log keeps the bytes; this lies between them.
//
// Invariants: a snapshot is never taken beyond what is durable here; nothing is compacted while one is being taken or installed; a stream's
// pieces are all of one snapshot. A machine that cannot give or take its state halts its group; a disk that fails ends the process.

import type { Raft, Ready, SnapshotMeta } from 'raft-ts';
import { LogError } from '../log/index.ts';
import type { EntryData, Log, PieceSource, SnapshotReader, SnapshotStaging, StateSink } from '../log/types.ts';
import { isVolatileGroup } from '../machine/groups.ts';
import type { Machine } from '../machine/machine.ts';
import type { ClusterLimits } from '../options.ts';

export interface SnapshotsHost {
  readonly group: number;
  readonly raft: Raft<EntryData>;
  readonly machine: Machine;
  readonly log: Log;
  readonly limits: ClusterLimits;
  appliedIndex(): number;
  isHalted(): boolean;
  halt(error: Error): void;
  /** The core was told something. */
  dirty(): void;
  saved(): void;
  /** Something failed that will be asked for again. */
  failed(error: Error): void;
  /** The machine's state was replaced by the one at this index. */
  restored(index: number): void;
  /** All that follows from it is done. */
  installed(): void;
}

interface Sending {
  readonly reader: Promise<SnapshotReader>;
  /** The follower has all up to here. */
  readonly match: number;
  /** The core knows which snapshot it is. */
  isBegun: boolean;
}

export class Snapshots {
  readonly #host: SnapshotsHost;
  #index: number;
  /** Of entries written since the last snapshot. */
  #bytes = 0;
  #wanted = false;
  #taking: Promise<void> | null = null;
  #staging: { readonly meta: SnapshotMeta; readonly staging: SnapshotStaging } | null = null;
  #opening: Promise<void> | null = null;
  #installing: Promise<void> | null = null;
  /** Leading: the stream that each follower is being sent, until it has no more use for it: a lost piece is read again. */
  readonly #sendings = new Map<number, Sending>();
  #closed = false;

  constructor(host: SnapshotsHost, index: number) {
    this.#host = host;
    this.#index = index;
  }

  /** Index of the newest one; 0: none. */
  get index(): number {
    return this.#index;
  }
  get isInstalling(): boolean {
    return this.#installing !== null;
  }

  /** So much more log was written. */
  written(bytes: number): void {
    this.#bytes += bytes;
  }

  /** After entries were applied, or became durable. */
  takeIfDue(): void {
    const { limits } = this.#host;
    if (
      this.#bytes > limits.snapshotEveryBytes ||
      this.#host.appliedIndex() - this.#index > limits.snapshotEveryEntries
    )
      this.#wanted = true;
    if (this.#wanted) this.take();
  }

  /** Saves the machine's state as soon as all that it contains is durable here. */
  take(): void {
    const { group, raft, log } = this.#host;
    if (isVolatileGroup(group)) return this.#forget();
    this.#wanted = true;
    if (this.#taking !== null || this.isInstalling || this.#closed || this.#host.isHalted()) return;
    const index = this.#host.appliedIndex();
    const term = raft.termAt(index);
    if (index <= this.#index || term === undefined) {
      this.#wanted = false;
      return;
    }
    if (raft.persistedIndex < index) return;
    this.#wanted = false;
    const pieces = this.#pieces();
    if (pieces === null) return;
    this.#bytes = 0;
    const meta: SnapshotMeta = { index, term, configuration: raft.configurationAt(index) };
    this.#taking = log.saveSnapshot(group, meta, pieces).then(
      () => {
        this.#taking = null;
        this.#index = Math.max(this.#index, index);
        if (this.#closed) return;
        raft.snapshotTaken(meta);
        this.compact();
        this.#host.dirty();
        this.#host.saved();
      },
      (error: Error) => {
        this.#taking = null;
        // Without room it waits for the next occasion; a machine that failed has halted the group; anything else is the disk.
        if ((error as NodeJS.ErrnoException).code === 'ENOSPC') this.#host.failed(error);
        else if (!this.#host.isHalted()) log.onFatal(error);
      },
    );
  }

  /** Nothing is saved of a volatile group: what it has applied it forgets, but for what lives. */
  #forget(): void {
    const { group, raft, log } = this.#host;
    this.#wanted = false;
    this.#bytes = 0;
    const index = Math.min(this.#host.appliedIndex(), raft.persistedIndex);
    const term = raft.termAt(index);
    if (this.#closed || this.#host.isHalted() || index <= this.#index || term === undefined) return;
    log.volatileApplied(group, index);
    this.#index = index;
    raft.snapshotTaken({ index, term, configuration: raft.configurationAt(index) });
    raft.compacted(index);
  }

  /** The machine's state; a machine that cannot give it halts the group. */
  #pieces(): PieceSource | null {
    try {
      const pieces = this.#guarded(() => this.#host.machine.snapshot());
      return { next: (bytesMax) => this.#guarded(() => pieces.next(bytesMax)), close: () => pieces.close() };
    } catch {
      return null;
    }
  }

  /** Forgets whole entries as far as the log may. Not while a snapshot is under way: the log would know of it before the core does. */
  compact(): void {
    if (isVolatileGroup(this.#host.group)) return this.#forget();
    this.#closeIdleReaders();
    if (this.#taking !== null || this.isInstalling || this.#closed) return;
    // What is about to be sent must not fall behind what is still whole here.
    for (const { isBegun } of this.#sendings.values()) if (!isBegun) return;
    this.#host.raft.compacted(this.#host.log.compactionPoint(this.#host.group).index);
  }

  /** Ends what is under way. Resolves when nothing touches the group's log any more. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const to of [...this.#sendings.keys()]) this.#closeReader(to);
    await this.#opening;
    const staging = this.#staging;
    this.#staging = null;
    await Promise.all([this.#taking, this.#installing]);
    await staging?.staging.abort();
  }

  // ---- sending ----

  /** Leader: one piece of the latest snapshot for a follower that is too far behind. */
  read({ to, match, offset, isFirst, bytesMax }: Ready<EntryData>['snapshotReads'][number]): void {
    const { raft } = this.#host;
    const before = this.#sendings.get(to);
    if (isFirst) {
      // With millions of live messages the stream takes longer to open than the core waits.
      if (before !== undefined && !before.isBegun && before.match === match) return;
      this.#open(to, match);
    }
    const sending = this.#sendings.get(to);
    if (sending === undefined) {
      // Another stream would not fit what was sent: its live entries are fewer.
      raft.snapshotRead(to, null, offset, nothing, true);
      return this.#host.dirty();
    }
    const fail = (error: Error) => {
      if (this.#sendings.get(to) !== sending) return;
      this.#closeReader(to);
      this.#host.failed(error);
    };
    sending.reader.then((stream) => {
      if (this.#closed) return;
      stream.read(offset, bytesMax, (error, bytes, end) => {
        if (this.#closed || this.#sendings.get(to) !== sending) return;
        if (error !== null) return fail(error);
        sending.isBegun = true;
        raft.snapshotRead(to, stream.meta, offset, bytes, end);
        this.#host.dirty();
      });
    }, fail);
  }

  #open(to: number, match: number): void {
    const { group, machine, log } = this.#host;
    this.#closeReader(to);
    // Up to what was applied: the log may have a later snapshot already than is known here, and that is the one it sends.
    const live = machine.liveEntries(1, this.#host.appliedIndex());
    this.#sendings.set(to, { reader: log.openSnapshotStream(group, live, match), match, isBegun: false });
  }

  /** An open reader holds a snapshot file. Its follower may have died, or caught up otherwise, or this replica leads no more. */
  #closeIdleReaders(): void {
    if (this.#sendings.size === 0) return;
    const { progress } = this.#host.raft.status();
    for (const to of [...this.#sendings.keys()]) {
      const row = progress.find(({ id }) => id === to);
      if (row === undefined || !row.active || row.state !== 'snapshot') this.#closeReader(to);
    }
  }

  #closeReader(to: number): void {
    const sending = this.#sendings.get(to);
    this.#sendings.delete(to);
    sending?.reader.then((open) => open.close()).catch(ignore);
  }

  // ---- receiving ----

  /** Follower: one piece arrived; the last one installs. */
  write(chunk: Ready<EntryData>['snapshotWrites'][number]): void {
    const { raft, group, log } = this.#host;
    const { snapshot: meta, offset, bytes, done } = chunk;
    const answer = (ok: boolean) => {
      if (this.#closed) return;
      raft.snapshotWritten(meta, offset, ok);
      this.#host.dirty();
    };
    const write = (staging: SnapshotStaging) =>
      staging.write(offset, bytes, (error) => {
        if (error !== null || !done) return answer(error === null);
        if (!this.#closed) this.#install(meta, staging, answer);
      });
    if (offset > 0) {
      if (this.#staging?.meta.index === meta.index) write(this.#staging.staging);
      else answer(false);
      return;
    }
    if (this.#opening !== null || this.isInstalling) return answer(false);
    const previous = this.#staging;
    this.#staging = null;
    const open = async () => {
      await previous?.staging.abort();
      return log.createSnapshotStaging(group, meta);
    };
    this.#opening = open().then(
      (staging) => {
        this.#opening = null;
        this.#staging = { meta, staging };
        if (!this.#closed) write(staging);
      },
      () => {
        this.#opening = null;
        answer(false);
      },
    );
  }

  #install(meta: SnapshotMeta, staging: SnapshotStaging, done: (ok: boolean) => void): void {
    this.#staging = null;
    const { machine } = this.#host;
    // Built beside the machine's own, which it replaces once all of it is there and durable.
    const restoring = machine.restoring();
    const into: StateSink = {
      add: (bytes, isLast) => this.#guarded(() => restoring.add(bytes, isLast)),
      step: () => this.#guarded(() => restoring.step()),
    };
    this.#installing = staging.install(into).then(
      () => {
        this.#installing = null;
        if (this.#closed) return;
        if (meta.index > this.#host.appliedIndex()) {
          restoring.finish();
          this.#host.restored(meta.index);
        }
        this.#index = meta.index;
        this.#bytes = 0;
        done(true);
        this.#host.raft.snapshotInstalled(meta);
        this.#host.installed();
      },
      (error: Error) => {
        this.#installing = null;
        // A stream that came damaged, or too late, or finds no room, is asked for again; a disk that fails has told so itself.
        if (error instanceof LogError || (error as NodeJS.ErrnoException).code === 'ENOSPC') return done(false);
        // A machine that cannot take the state has halted the group; anything else is the disk.
        if (!this.#host.isHalted()) this.#host.log.onFatal(error);
      },
    );
  }

  /** What the machine does; if it cannot, that halts the group. */
  #guarded<T>(act: () => T): T {
    try {
      return act();
    } catch (error) {
      this.#host.halt(error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  }
}

function ignore(): void {}

const nothing = new Uint8Array(0);
