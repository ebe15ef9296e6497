// The one log of a node, put together: who writes, reads, keeps and removes, and in which order that takes effect. The rooms:
//
//   records.ts, writer.ts   gathered, written, durable      folder.ts             the files: which count, how they come and go
//   volatile-groups.ts      those that nobody waits for     manifest-keeper.ts    what is durable, said in one place
//   reads.ts                from memory and disk            snapshots.ts          saved, loaded, sent, installed
//   compactor.ts, scrub.ts  in the background               life.ts               open, closed or failed
//
// State owned: the groups; what of them is in memory (`CacheOrder`).
// Invariants:
//   - memory is changed when a record is gathered, in the order of the records; the manifest only says what is durable;
//   - a file leaves memory first, then the manifest, then the disk;
//   - after the first error of writing nothing succeeds and `onFatal` was called once;
//   - volatile groups have files, a writer and a cache order of their own: nothing durable ever waits for them, or they for it.

import type { Configuration, SnapshotMeta } from 'raft-ts';
import type { Clock, Disk } from '../ports.ts';
import { CacheOrder, evictDownTo } from './cache.ts';
import { FileKind, fileBytesLimit } from './codec.ts';
import { Compactor, type CompactorStore } from './compactor.ts';
import { EndMark } from './end-mark.ts';
import { assert, LogError } from './errors.ts';
import { LogFolder } from './folder.ts';
import type { GroupLog } from './group.ts';
import { Life } from './life.ts';
import { ManifestKeeper } from './manifest-keeper.ts';
import { Reads } from './reads.ts';
import { Recorder } from './records.ts';
import type { Recovered } from './recovery.ts';
import { Scrub } from './scrub.ts';
import { Snapshots } from './snapshots.ts';
import type {
  GroupWrite,
  LiveEntries,
  Liveness,
  Log,
  LogEntry,
  LogOptions,
  PieceSource,
  SnapshotReader,
  SnapshotStaging,
  StateSink,
} from './types.ts';
import { VolatileGroups } from './volatile-groups.ts';
import type { Writer } from './writer.ts';

export class Store implements Log {
  onPressure: (group: number) => void = () => {};
  onDamage: (group: number, error: Error) => void = () => {};
  onFatal: (error: Error) => void = () => {};
  readonly #options: LogOptions;
  readonly #groups: Map<number, GroupLog>;
  readonly #cache = new CacheOrder();
  readonly #volatileCache = new CacheOrder();
  readonly #life = new Life((error) => this.#failed(error));
  readonly #manifest: ManifestKeeper;
  readonly #folder: LogFolder;
  readonly #reads: Reads;
  readonly #writer: Writer;
  readonly #records: Recorder;
  readonly #volatile: VolatileGroups;
  readonly #snapshots: Snapshots;
  readonly #compactor: Compactor;
  readonly #scrub: Scrub;
  readonly #endMark: EndMark;

  constructor(disk: Disk, clock: Clock, options: LogOptions, recovered: Recovered) {
    assert(options.fileBytesMax <= fileBytesLimit, 'fileBytesMax fits 32 bits');
    const { groups } = recovered;
    const life = this.#life;
    this.#options = options;
    this.#groups = groups;
    const state = {
      files: () => this.#folder.files,
      nextSequence: () => this.#folder.nextSequence,
      durable: () => this.#writer.durable,
    };
    const manifest = new ManifestKeeper({ disk, identity: options, life, groups, ...state }, recovered);
    this.#manifest = manifest;
    const pressed = (group: number) => this.onPressure(group);
    const commit = (applied: ReadonlyMap<GroupLog, number>) => this.#commit(applied);
    const folder = new LogFolder({ disk, clock, options, life, manifest, groups, pressed, commit }, recovered);
    this.#folder = folder;
    const evict = () => evictDownTo(options.cacheBytesMax, this.#cache, this.#volatileCache);
    this.#writer = folder.newWriter(FileKind.log, evict);
    const records = new Recorder(this.#writer, this.#cache);
    this.#records = records;
    const { volatileWaitingBytesMax: waitingBytesMax } = options;
    const volatile = { life, folder, groups, cache: this.#volatileCache, waitingBytesMax, written: evict };
    this.#volatile = new VolatileGroups(volatile);
    const reads = new Reads(folder.openFiles);
    this.#reads = reads;
    const group = (id: number) => this.#group(id);
    this.#snapshots = new Snapshots({ disk, clock, life, folder, manifest, records, reads, group });
    this.#compactor = new Compactor(this.#compactorStore(), clock, options);
    this.#scrub = new Scrub({
      reads,
      groups,
      files: () => folder.files.filter(({ sealed, kind, doomed }) => sealed && kind !== FileKind.volatile && !doomed),
      checkSnapshot: (found, read) => this.#snapshots.check(found, (bytes) => read(bytes.length)),
      damaged: (id, error) => this.onDamage(id, error),
    });
    this.#endMark = new EndMark(disk, (error) => life.fail(error));
  }

  #compactorStore(): CompactorStore {
    const folder = this.#folder;
    return {
      groups: this.#groups,
      reads: this.#reads,
      files: () => folder.files,
      coveredTo: () => this.#manifest.coveredTo,
      keptWriter: (kind) => folder.newKeptWriter(kind),
      replace: (old, kept, live) => folder.replace(old, kept, live),
    };
  }

  /** Writes the first manifest of this run and creates the file to write to. `damaged`: paths to be moved aside. */
  async start(damaged: readonly string[]): Promise<void> {
    await this.#folder.begin(damaged);
    await this.#endMark.start();
    await this.#writer.start(this.#folder.lastLogFile);
  }

  // ---- appending ----

  createGroup(id: number, replica: number, snapshot: SnapshotMeta): void {
    const known = this.#groups.get(id);
    if (known !== undefined && known.replica === replica) return;
    if (known !== undefined && known.replica > replica)
      throw new LogError('stale', `group ${id} belongs to replica ${known.replica}, not ${replica}`);
    // The earlier replica's snapshot file goes at the next start: until this record is durable it may be needed.
    this.#begin(this.#records.create(id, replica, snapshot));
  }

  /** The group counts from the next write on, instead of the one that it replaces. */
  #begin(group: GroupLog): void {
    const before = this.#groups.get(group.group);
    if (before !== undefined) {
      this.#cache.bytes -= before.cachedBytes;
      group.replace(before);
    }
    this.#groups.set(group.group, group);
    this.#writer.mark(group);
  }

  async resetGroup(id: number, repairTo: number, configuration: Configuration): Promise<void> {
    this.#life.checkOpen();
    const known = this.#group(id);
    assert(!known.isVolatile, `group ${id} is not volatile`);
    const keptFrom = this.#folder.takeSequence();
    this.#begin(this.#records.reset(known, Math.max(repairTo, known.repairTo), { configuration, keptFrom }));
    await this.#snapshots.afterReset(known);
  }

  async repaired(id: number): Promise<void> {
    this.#life.checkOpen();
    const group = this.#group(id);
    if (group.repairTo > 0) this.#records.repaired(group);
    await this.#life.flushed(this.#writer);
  }

  append(writes: readonly GroupWrite[], done: () => void): void {
    if (!this.#life.isOpen) return;
    if (writes.length > 0 && this.#group(writes[0]!.group).isVolatile) return this.#volatile.append(writes, done);
    const writer = this.#writer;
    const records = this.#records;
    for (let i = 0; i < writes.length; i++) {
      const { group: id, truncateFrom, entries, hardState } = writes[i]!;
      const group = this.#group(id);
      assert(!group.isVolatile, 'volatile and other groups are not written together');
      if (truncateFrom !== null && truncateFrom <= group.lastIndex) records.truncate(group, truncateFrom);
      for (let n = 0; n < entries.length; n++) records.entry(group, entries[n]!);
      if (hardState !== null) records.hardState(group, hardState);
      writer.mark(group);
    }
    writer.notify(done);
    writer.kick();
  }

  createVolatileGroup(id: number, replica: number): void {
    this.#volatile.create(id, replica);
  }

  volatileApplied(id: number, index: number): void {
    this.#volatile.applied(id, index);
  }

  dropVolatileGroup(id: number): void {
    this.#volatile.drop(id);
  }

  // ---- reading ----

  cached(group: number, index: number): LogEntry | undefined {
    return this.#groups.get(group)?.cached(index);
  }

  cachedPayload(group: number, index: number): Buffer | undefined {
    return this.#groups.get(group)?.cachedPayload(index);
  }

  has(group: number, index: number): boolean {
    const found = this.#groups.get(group);
    return found !== undefined && (found.isCached(index) || found.find(index) !== null);
  }

  read(
    id: number,
    first: number,
    last: number,
    bytesMax: number,
    done: (error: Error | null, entries: LogEntry[]) => void,
  ): void {
    const group = this.#groups.get(id);
    if (group === undefined) return done(new LogError('missing', `group ${id} is not here`), []);
    this.#reads.entries(group, first, last, bytesMax, done);
  }

  readLive(id: number, index: number, done: (error: Error | null, entry: LogEntry | null) => void): void {
    const group = this.#groups.get(id);
    const run = group?.find(index) ?? null;
    // What is in memory, and what may be truncated, is whole.
    if (group === undefined || run === null || index > group.compacted.index || group.cached(index) !== undefined)
      return this.read(id, index, index, 1, (error, entries) => done(error, entries[0] ?? null));
    this.#reads.remains(id, run, index, done);
  }

  #group(id: number): GroupLog {
    const group = this.#groups.get(id);
    assert(group !== undefined, `group ${id} was created`);
    return group;
  }

  // ---- snapshots ----

  saveSnapshot(id: number, meta: SnapshotMeta, pieces: PieceSource): Promise<void> {
    return this.#snapshots.save(id, meta, pieces);
  }

  loadSnapshot(id: number, into: StateSink): Promise<SnapshotMeta | null> {
    return this.#snapshots.load(id, into);
  }

  openSnapshotStream(id: number, live: Iterable<number>, liveAbove: number): Promise<SnapshotReader> {
    return this.#snapshots.openStream(id, live, liveAbove);
  }

  createSnapshotStaging(id: number, meta: SnapshotMeta): Promise<SnapshotStaging> {
    return this.#snapshots.createStaging(id, meta);
  }

  // ---- files that go ----

  compactionPoint(id: number): { index: number; term: number } {
    const group = this.#group(id);
    if (group.isVolatile) return group.compacted;
    group.compacted = group.compactionTarget(this.#options.keptBytesMax, this.#folder.pressureHorizon);
    group.settle();
    return group.compacted;
  }

  collect(live: LiveEntries): Promise<void> {
    if (this.#life.isOpen) this.#endMark.write(this.#writer.durable);
    return this.#folder.collect(live);
  }

  /** Also where a later hard state is gathered already: it may not be durable yet. */
  #commit(applied: ReadonlyMap<GroupLog, number>): Promise<void> {
    for (const [group, index] of applied) this.#records.committed(group, index);
    return this.#life.flushed(this.#writer);
  }

  compact(live: Liveness): Promise<void> {
    if (!this.#life.isOpen) return Promise.resolve();
    return this.#life.track(this.#compact(live));
  }

  async #compact(live: Liveness): Promise<void> {
    try {
      await this.#compactor.run(live);
      await this.#folder.removeLeaving();
    } catch (error) {
      // Without room the round came to nothing, and left nothing behind.
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') this.#life.fail(error as Error);
      throw error;
    }
  }

  scrub(): void {
    if (this.#life.isOpen) this.#scrub.step(this.#options.scrubBytesPerSecond);
  }

  // ---- life ----

  #failed(error: Error): void {
    this.#writer.halt();
    this.#volatile.halt();
    this.onFatal(error);
  }

  status() {
    const writer = this.#writer;
    const { files, setAside } = this.#folder;
    return {
      files: files.length,
      bytes: files.reduce((sum, file) => sum + file.bytes, 0),
      cachedBytes: this.#cache.bytes + this.#volatileCache.bytes,
      liveBytes: this.#compactor.liveBytes,
      boundBytes: this.#compactor.boundBytes,
      appendedBytes: writer.appendedBytes + this.#volatile.appendedBytes,
      rewrittenBytes: this.#compactor.rewrittenBytes,
      scrubPasses: this.#scrub.passes,
      scrubbedBytes: this.#scrub.bytes,
      setAside,
      syncs: writer.syncs,
      lastSyncMilliseconds: writer.lastSyncMilliseconds,
      writeTimes: writer.writeTimes,
      writeInFlight: writer.writeInFlight,
    };
  }

  async close(): Promise<void> {
    const life = this.#life;
    if (life.isClosed) return;
    life.close();
    this.#compactor.stop();
    this.#scrub.stop();
    await life.ended();
    await this.#manifest.ended();
    this.#snapshots.close();
    if (!life.hasFailed) await this.#writer.close();
    if (!life.hasFailed) await this.#volatile.close();
    await this.#endMark.close();
    await this.#folder.openFiles.closeAll();
  }

  /** Throws if a stated invariant is broken. For tests. */
  check(): void {
    for (const group of this.#groups.values()) group.check();
    const cached = [...this.#groups.values()].reduce((sum, group) => sum + group.cachedBytes, 0);
    assert(cached === this.#cache.bytes + this.#volatileCache.bytes, 'cached bytes add up');
  }
}
