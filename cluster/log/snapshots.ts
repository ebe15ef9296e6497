// The snapshots of all groups: saved, loaded, sent as a stream, received and installed.
//
// State owned: per group whose turn it is; who reads which snapshot file. A group's newest snapshot is noted with the group.
// Invariants:
//   - one snapshot of a group is being written or installed at a time, and a reset waits for its end;
//   - it counts once it is durable with all that it stands for, and the older one goes only when the manifest says so;
//   - a live entry that a stream names can be read until the stream is closed.

import type { SnapshotMeta } from 'raft-ts';
import type { Clock, Disk } from '../ports.ts';
import { FileKind } from './codec.ts';
import { assert, isDamage, LogError } from './errors.ts';
import type { LogFolder } from './folder.ts';
import type { GroupLog } from './group.ts';
import type { KeptWriter } from './kept-writer.ts';
import type { Life } from './life.ts';
import type { ManifestKeeper } from './manifest-keeper.ts';
import type { Reads } from './reads.ts';
import type { Recorder } from './records.ts';
import { checkSnapshot, snapshotPath, type TakeState, writeSnapshotFile } from './snapshot-file.ts';
import { SnapshotPins } from './snapshot-pins.ts';
import { LiveTable, type StreamHeader, StreamReader } from './snapshot-stream.ts';
import { Staging } from './staging.ts';
import type { PieceSource, SnapshotReader, SnapshotStaging, StateSink } from './types.ts';
import { nextTurn, removeIfPresent } from './whole-files.ts';

/** Looked up for a stream in one turn: about a millisecond. */
const liveEntriesPerTurn = 1_024;

export interface SnapshotsContext {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly life: Life;
  readonly folder: LogFolder;
  readonly manifest: ManifestKeeper;
  readonly records: Recorder;
  readonly reads: Reads;
  /** A group that was created. */
  group(id: number): GroupLog;
}

export class Snapshots {
  readonly #context: SnapshotsContext;
  readonly #pins: SnapshotPins;
  readonly #turns = new Map<number, Promise<void>>();

  constructor(context: SnapshotsContext) {
    this.#context = context;
    this.#pins = new SnapshotPins(context.disk, context.folder.moveAside);
  }

  // ---- saved ----

  async save(id: number, meta: SnapshotMeta, pieces: PieceSource): Promise<void> {
    const { life } = this.#context;
    let open = true;
    const source: PieceSource = {
      next: (bytesMax) => {
        life.checkAlive();
        return pieces.next(bytesMax);
      },
      close: () => {
        if (open) pieces.close();
        open = false;
      },
    };
    try {
      life.checkOpen();
      const group = this.#context.group(id);
      assert(!group.isVolatile, `group ${id} is not volatile`);
      await life.track(this.#inTurn(id, () => this.#save(group, meta, source)));
    } finally {
      source.close();
    }
  }

  async #save(group: GroupLog, meta: SnapshotMeta, pieces: PieceSource): Promise<void> {
    const { clock, disk, life, manifest, records } = this.#context;
    const id = group.group;
    // What failed to become durable counts in memory.
    life.checkAlive();
    // Installed or saved meanwhile: what was wanted is there. Or begun anew: nobody wants it any more.
    if (meta.index < group.snapshot.index || (meta.index === group.snapshot.index && group.snapshotStored)) return;
    if (group.hasEnded) return;
    assert(meta.index <= group.lastIndex, `snapshot of group ${id} at ${meta.index} is past its log`);
    const path = snapshotPath(id, meta.index, meta.term);
    await this.#pins.claim(path);
    await writeSnapshotFile(disk, id, meta, pieces, () => nextTurn(clock));
    life.checkAlive();
    // What a snapshot replaces must be durable before it counts, or a crash would leave a gap behind it.
    if (group.durableIndex < meta.index) await life.flushed(records.writer);
    if (group.hasEnded) return removeIfPresent(disk, path);
    const old = group.snapshotStored ? group.snapshot : null;
    group.snapshot = meta;
    group.snapshotStored = true;
    group.pressureToldAt = -1;
    group.settle();
    await manifest.save();
    if (old !== null) this.#letGo(id, old);
  }

  /** The group was reset: whatever was being saved or installed of it has ended when this resolves, and all of it is durable. */
  afterReset(before: GroupLog): Promise<void> {
    const { life, manifest, records } = this.#context;
    const forget = async () => {
      const { group, snapshot, snapshotStored } = before;
      await life.flushed(records.writer);
      await manifest.save();
      if (snapshotStored) this.#letGo(group, snapshot);
    };
    return life.track(this.#inTurn(before.group, forget));
  }

  #letGo(group: number, { index, term }: SnapshotMeta): void {
    this.#pins.letGo(snapshotPath(group, index, term));
  }

  // ---- read ----

  async load(id: number, into: StateSink): Promise<SnapshotMeta | null> {
    this.#context.life.checkOpen();
    const group = this.#context.group(id);
    const { snapshot: meta, snapshotStored } = group;
    if (!snapshotStored) return null;
    await this.check(group, this.#feeding(into));
    return meta;
  }

  /** Checks every byte of the group's newest snapshot, if it has one. */
  async check({ group, snapshot: { index, term }, snapshotStored }: GroupLog, take: TakeState): Promise<void> {
    if (!snapshotStored) return;
    const path = snapshotPath(group, index, term);
    await this.#pins.use(path, async () => {
      const handle = await this.#context.disk.open(path, 'read');
      try {
        await checkSnapshot(handle, 0, handle.size, path, take);
      } catch (error) {
        if (isDamage(error)) this.#pins.damaged(path);
        throw error;
      } finally {
        await handle.close();
      }
    });
  }

  /** Has a state's bytes worked off as they come, one step in a turn. */
  #feeding(into: StateSink): TakeState {
    return async (bytes, isLast) => {
      into.add(bytes, isLast);
      while (into.step()) await nextTurn(this.#context.clock);
    };
  }

  // ---- sent ----

  async openStream(id: number, live: Iterable<number>, liveAbove: number): Promise<SnapshotReader> {
    const { disk, life, reads } = this.#context;
    life.checkOpen();
    const group = this.#context.group(id);
    const meta = group.snapshot;
    if (!group.snapshotStored) throw new LogError('missing', `group ${id} has no snapshot`);
    const path = snapshotPath(id, meta.index, meta.term);
    this.#pins.pin(path);
    const entries = new LiveTable();
    const release = () => {
      entries.release();
      this.#pins.unpin(path);
    };
    try {
      await this.#findLive(group, meta.index, live, liveAbove, entries);
      const handle = await disk.open(path, 'read');
      return new StreamReader(id, meta, liveAbove, entries, handle, reads, release);
    } catch (error) {
      release();
      throw error;
    }
  }

  /** Some in a turn. Each is looked up in the turn in which it was said to be live: it cannot be gone. */
  async #findLive(
    group: GroupLog,
    last: number,
    live: Iterable<number>,
    liveAbove: number,
    entries: LiveTable,
  ): Promise<void> {
    const { clock, life } = this.#context;
    let left = liveEntriesPerTurn;
    for (const index of live) {
      if (left-- === 0) {
        await nextTurn(clock);
        life.checkOpen();
        if (group.hasEnded) throw new LogError('stale', `group ${group.group} was begun anew`);
        left = liveEntriesPerTurn;
      }
      if (index <= liveAbove || index > last) continue;
      const run = group.find(index);
      if (run === null) throw new LogError('missing', `live entry ${index} of group ${group.group} is not here`);
      entries.add(run, run.slot(index));
    }
  }

  // ---- installed ----

  async createStaging(id: number, meta: SnapshotMeta): Promise<SnapshotStaging> {
    const { disk, folder, life } = this.#context;
    life.checkOpen();
    const group = this.#context.group(id);
    const path = `${snapshotPath(id, meta.index, meta.term)}.staging`;
    await removeIfPresent(disk, path);
    const file = await disk.open(path, 'create');
    return new Staging(disk, id, meta, path, file, {
      keptWriter: () => folder.newKeptWriter(FileKind.kept),
      replica: () => group.replica,
      feeding: (into) => this.#feeding(into),
      check: (header) => this.#checkInstall(group, header),
      claim: (name) => this.#pins.claim(name),
      inTurn: (work) => life.track(this.#inTurn(id, work)),
      commit: (snapshot, liveAbove, kept) => this.#install(group, snapshot, liveAbove, kept),
      installed: (kept) => this.#unpinInstalled(kept),
    });
  }

  #checkInstall(group: GroupLog, { index, term, liveAbove }: StreamHeader): void {
    this.#context.life.checkOpen();
    if (group.hasEnded || group.snapshot.index >= index || group.installing)
      throw new LogError('stale', `group ${group.group} has a newer snapshot than ${index}`);
    if (group.termAt(index) !== term && liveAbove > group.lastIndex)
      throw new LogError('invalid', `snapshot expects entries up to ${liveAbove}, the log ends at ${group.lastIndex}`);
  }

  /** The one step that counts: a checkpoint record. Memory changes with its gathering, the manifest once it is durable. */
  async #install(group: GroupLog, meta: SnapshotMeta, liveAbove: number, kept: KeptWriter): Promise<void> {
    const { folder, life, manifest, records } = this.#context;
    const id = group.group;
    const old = group.snapshotStored ? group.snapshot : null;
    const truncateFrom = group.termAt(meta.index) === meta.term ? 0 : liveAbove + 1;
    group.installing = true;
    records.install(group, meta, truncateFrom, kept.files);
    records.writer.mark(group);
    for (const file of kept.files) file.pins++;
    await life.flushed(records.writer);
    for (const file of kept.files) folder.add(file);
    group.installing = false;
    group.settle();
    await manifest.save();
    if (life.isOpen) records.writer.release();
    if (old !== null) this.#letGo(id, old);
    if (group.hasEnded) throw new LogError('stale', `group ${id} was begun anew`);
  }

  /** The host's machine knows the installed state from the end of this turn on; before that `isLive` speaks of the old one. */
  #unpinInstalled(kept: KeptWriter): void {
    this.#context.clock.soon(() => {
      for (const file of kept.files) file.pins--;
    });
  }

  // ---- life ----

  /** One snapshot of a group is being written or installed at a time. */
  #inTurn(group: number, work: () => Promise<void>): Promise<void> {
    const before = this.#turns.get(group) ?? Promise.resolve();
    const turn = before.catch(() => {}).then(work);
    this.#turns.set(group, turn);
    return turn;
  }

  /** Files that are let go from now on go at the next start. */
  close(): void {
    this.#pins.close();
  }
}
