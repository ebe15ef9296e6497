// The one log of a node: puts the writers, the groups, the cache, reading, snapshots and the manifest together.
//
// State owned: the groups, the files, and what the next manifest covers.
// Invariants:
//   - memory is changed when a record is gathered, in the order of the records; the manifest only says what is durable;
//   - a file leaves memory first, then the manifest, then the disk;
//   - after the first error of writing nothing succeeds and `onFatal` was called once;
//   - volatile groups have files, a writer and a cache order of their own: nothing durable ever waits for them, or they for it.

import type { Configuration, SnapshotMeta } from 'raft-ts';
import type { Clock, Disk } from '../ports.ts';
import { CacheOrder, evictDownTo } from './cache.ts';
import { FileKind, fileBytesLimit, RecordKind } from './codec.ts';
import { findGarbage, findPressed, type IsLive, pressureHorizon } from './collector.ts';
import { Compactor } from './compactor.ts';
import { encodeCheckpoint, encodeConfiguration } from './configuration.ts';
import { type Captured, capture, describeFile, manifestGroups } from './covered.ts';
import { listSetAside, setAside } from './damage.ts';
import { EndMark } from './end-mark.ts';
import { assert, isDamage, LogError } from './errors.ts';
import { type LogFile, OpenFiles } from './files.ts';
import { GroupLog } from './group.ts';
import { type KeptKind, KeptWriter, type KeptWriterOptions } from './kept-writer.ts';
import { type Manifest, writeManifest } from './manifest.ts';
import { type Location, type RawEntry, Reads, toEntry } from './reads.ts';
import { Recorder } from './records.ts';
import type { Recovered } from './recovery.ts';
import { Scrub } from './scrub.ts';
import { checkSnapshot, snapshotPath, type TakeState, writeSnapshotFile } from './snapshot-file.ts';
import { SnapshotPins } from './snapshot-pins.ts';
import { LiveTable, type StreamHeader, StreamReader } from './snapshot-stream.ts';
import { Staging } from './staging.ts';
import type {
  GroupWrite,
  Liveness,
  Log,
  LogEntry,
  LogOptions,
  PieceSource,
  SnapshotReader,
  SnapshotStaging,
  StateSink,
} from './types.ts';
import { removeIfPresent } from './whole-files.ts';
import { type FileOwner, Writer } from './writer.ts';

/** Sealed files that keep a descriptor for reading. */
const openFilesMax = 64;
/** Looked up for a stream in one turn: about a millisecond. */
const liveEntriesPerTurn = 4_096;
const noConfiguration: Configuration = {
  voters: [],
  outgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
};

export class Store implements Log {
  onPressure: (group: number) => void = () => {};
  onDamage: (group: number, error: Error) => void = () => {};
  onFatal: (error: Error) => void = () => {};
  readonly #disk: Disk;
  readonly #clock: Clock;
  readonly #options: LogOptions;
  readonly #owner: FileOwner;
  readonly #groups: Map<number, GroupLog>;
  /** Log files in order, kept files among them by sequence. */
  #files: LogFile[];
  #nextSequence: number;
  readonly #openFiles: OpenFiles;
  readonly #reads: Reads;
  readonly #writer: Writer;
  readonly #records: Recorder;
  /** Begun with the first volatile group. */
  #volatile: Recorder | null = null;
  /** Writes of volatile groups whose `done` waits for the disk. */
  #volatileWaits = 0;
  #captured: Captured;
  #sealedFiles = 0;

  readonly #scrub: Scrub;
  readonly #endMark: EndMark;
  readonly #cache = new CacheOrder();
  readonly #volatileCache = new CacheOrder();

  /** Of the manifest: as far as both copies are durable, and of the last one that was begun. */
  #generation: number;
  #lastGeneration: number;
  /** Damaged files that were moved aside. */
  #setAside: string[] = [];
  #manifestRunning: Promise<void> = Promise.resolve();
  #manifestWaiting: Promise<void> | null = null;
  #collecting: Promise<void> = Promise.resolve();
  /** Files that nothing names any more, and that somebody reads. */
  readonly #leaving = new Set<LogFile>();
  readonly #compactor: Compactor;
  readonly #snapshotPins: SnapshotPins;
  /** Snapshots being saved or installed. */
  readonly #running = new Set<Promise<void>>();
  readonly #snapshotTurns = new Map<number, Promise<void>>();
  #failure: Error | null = null;
  /** Told of a failure: promises that wait for a write. */
  readonly #waiting = new Set<(error: Error) => void>();
  #closed = false;

  constructor(disk: Disk, clock: Clock, options: LogOptions, recovered: Recovered) {
    assert(options.fileBytesMax <= fileBytesLimit, 'fileBytesMax fits 32 bits');
    this.#disk = disk;
    this.#clock = clock;
    this.#options = options;
    this.#generation = recovered.generation;
    this.#lastGeneration = recovered.generation;
    const { clusterId, nodeUuid } = options;
    this.#owner = { clusterId, nodeUuid, generation: () => this.#generation };
    this.#groups = recovered.groups;
    this.#files = [...recovered.files].sort((a, b) => a.sequence - b.sequence);
    this.#nextSequence = recovered.nextSequence;
    this.#openFiles = new OpenFiles(disk, openFilesMax);
    this.#reads = new Reads(this.#openFiles);
    this.#snapshotPins = new SnapshotPins(disk, (path) => this.#moveAside(path));
    this.#endMark = new EndMark(disk, (error) => this.#fail(error));
    this.#captured = capture(this.#groups.values(), recovered.coveredTo);
    this.#writer = new Writer(
      disk,
      clock,
      this.#owner,
      FileKind.log,
      options.fileBytesMax,
      () => this.#nextSequence++,
      {
        rotating: (file) => capture(this.#groups.values(), file.sequence),
        sealed: (file, captured) => this.#sealed(file, captured as Captured),
        opened: (file) => this.#addFile(file),
        durable: () => this.#evict(),
        failed: (error) => this.#fail(error),
      },
    );
    this.#records = new Recorder(this.#writer, this.#cache);
    const store = {
      groups: this.#groups,
      reads: this.#reads,
      files: () => this.#files,
      coveredTo: () => this.#captured.coveredTo,
      keptWriter: (kind: KeptKind) => this.#keptWriter({ kind, steady: true }),
      replace: (old: ReadonlySet<LogFile>, kept: readonly LogFile[]) => this.#replace(old, kept),
    };
    this.#compactor = new Compactor(store, clock, options);
    this.#scrub = new Scrub({
      reads: this.#reads,
      groups: this.#groups,
      files: () => this.#files.filter(({ sealed, kind, doomed }) => sealed && kind !== FileKind.volatile && !doomed),
      checkSnapshot: (group, read) => this.#checkSnapshot(group, (bytes) => read(bytes.length)),
      damaged: (group, error) => this.onDamage(group, error),
    });
  }

  #keptWriter(options: KeptWriterOptions): KeptWriter {
    const { fileBytesMax } = this.#options;
    return new KeptWriter(this.#disk, this.#clock, this.#owner, fileBytesMax, () => this.#nextSequence++, options);
  }

  /** Writes the first manifest of this run and creates the file to write to. `damaged`: paths to be moved aside. */
  async start(damaged: readonly string[]): Promise<void> {
    const isManifest = (path: string) => !path.includes('/');
    // What is damaged is remembered before the files that show it are gone; a copy of the manifest is about to be replaced.
    for (const path of damaged) if (isManifest(path)) await this.#moveAside(path);
    await this.#writeManifest();
    for (const path of damaged) if (!isManifest(path)) await this.#moveAside(path);
    this.#setAside = await listSetAside(this.#disk);
    await this.#endMark.start();
    await this.#writer.start(this.#lastLogFile());
  }

  async #moveAside(path: string): Promise<void> {
    this.#setAside.push(await setAside(this.#disk, path, this.#lastGeneration));
  }

  // ---- appending ----

  createGroup(id: number, replica: number, snapshot: SnapshotMeta): void {
    const known = this.#groups.get(id);
    if (known !== undefined && known.replica === replica) return;
    if (known !== undefined && known.replica > replica)
      throw new LogError('stale', `group ${id} belongs to replica ${known.replica}, not ${replica}`);
    const payload = encodeCheckpoint({ configuration: snapshot.configuration, truncateFrom: 0, keptFiles: [] });
    const { index, term } = snapshot;
    this.#records.control(RecordKind.checkpoint, id, replica, index, term, 0, payload);
    this.#writer.active.index.create(id, replica, snapshot);
    // The earlier replica's snapshot file goes at the next start: until this record is durable it may be needed.
    this.#begin(new GroupLog(id, replica, snapshot));
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

  async resetGroup(id: number, repairTo: number): Promise<void> {
    this.#checkOpen();
    const known = this.#group(id);
    assert(!known.isVolatile, `group ${id} is not volatile`);
    const { replica } = known;
    const { configuration } = known.snapshot;
    const lost = Math.max(repairTo, known.repairTo);
    const keptFrom = this.#nextSequence++;
    this.#records.control(RecordKind.reset, id, replica, lost, keptFrom, 0, encodeConfiguration(configuration));
    const { active } = this.#writer;
    active.index.reset(id, replica, lost, { configuration, keptFrom });
    known.kill(1, active.sequence);
    const group = new GroupLog(id, replica, { index: 0, term: 0, configuration });
    group.hardState = known.hardState;
    group.truncations = known.truncations;
    group.repairTo = lost;
    group.restart({ configuration, keptFrom });
    group.settle();
    this.#begin(group);
    await this.#track(this.#inTurn(id, () => this.#afterReset(known)));
  }

  /** Whatever was being saved or installed when the group was reset has ended. */
  async #afterReset({ group, snapshot, snapshotStored }: GroupLog): Promise<void> {
    await this.#flushed();
    await this.#saveManifest();
    if (snapshotStored) this.#letSnapshotGo(group, snapshot);
  }

  async repaired(id: number): Promise<void> {
    this.#checkOpen();
    const group = this.#group(id);
    if (group.repairTo > 0) {
      this.#records.control(RecordKind.repaired, id, group.replica, 0, 0, 0, null);
      this.#writer.active.index.group(id, group.replica).repairTo = 0;
      group.repairTo = 0;
    }
    await this.#flushed();
  }

  append(writes: readonly GroupWrite[], done: () => void): void {
    if (this.#failure !== null || this.#closed) return;
    if (writes.length > 0 && this.#group(writes[0]!.group).isVolatile) return this.#appendVolatile(writes, done);
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

  // ---- volatile groups ----

  createVolatileGroup(id: number, replica: number): void {
    assert(!this.#groups.has(id), `volatile group ${id} is new`);
    if (this.#failure === null && !this.#closed) this.#volatile ??= this.#startVolatile();
    const group = new GroupLog(id, replica, { index: 0, term: 0, configuration: noConfiguration }, true);
    group.isDurable = true;
    this.#groups.set(id, group);
  }

  #startVolatile(): Recorder {
    const { fileBytesMax } = this.#options;
    const next = () => this.#nextSequence++;
    const writer = new Writer(this.#disk, this.#clock, this.#owner, FileKind.volatile, fileBytesMax, next, {
      rotating: () => null,
      sealed: (file) => this.#openFiles.adopt(file),
      opened: (file) => this.#addFile(file),
      durable: () => this.#evict(),
      failed: (error) => this.#fail(error),
    });
    writer.startVolatile();
    return new Recorder(writer, this.#volatileCache);
  }

  #appendVolatile(writes: readonly GroupWrite[], done: () => void): void {
    const records = this.#volatile!;
    const { writer } = records;
    for (let i = 0; i < writes.length; i++) {
      const { group: id, truncateFrom, entries } = writes[i]!;
      const group = this.#group(id);
      assert(group.isVolatile, 'volatile and other groups are not written together');
      assert(truncateFrom === null || truncateFrom > group.lastIndex, 'a volatile group is never truncated');
      for (let n = 0; n < entries.length; n++) records.entry(group, entries[n]!);
      writer.mark(group);
    }
    // What is not written yet lies in memory: where the disk cannot follow, whoever writes has to wait, and those after it.
    const waits = this.#volatileWaits > 0 || writer.waitingBytes > this.#options.volatileWaitingBytesMax;
    if (waits) {
      this.#volatileWaits++;
      writer.notify(() => {
        this.#volatileWaits--;
        done();
      });
    }
    writer.kick();
    if (!waits) done();
  }

  volatileApplied(id: number, index: number): void {
    const group = this.#group(id);
    assert(group.isVolatile, `group ${id} is volatile`);
    group.volatileApplied(index);
  }

  dropVolatileGroup(id: number): void {
    const group = this.#group(id);
    assert(group.isVolatile, `group ${id} is volatile`);
    this.#volatileCache.bytes -= group.cachedBytes;
    group.end();
    this.#groups.delete(id);
    for (const file of this.#files) if (file.kind === FileKind.volatile) file.index.groups.delete(id);
  }

  // ---- reading ----

  /** Lets the oldest entries out of memory, down to the bound, as far as they are on the disk. */
  #evict(): void {
    evictDownTo(this.#options.cacheBytesMax, this.#cache, this.#volatileCache);
  }

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
    const entries: LogEntry[] = [];
    const locations: Location[] = [];
    let bytes = 0;
    for (let index = first, place = 0; index <= last && (place === 0 || bytes < bytesMax); index++, place++) {
      const entry = group.cached(index);
      if (entry !== undefined) {
        if (place > 0 && bytes + entry.bytes > bytesMax) break;
        bytes += entry.bytes;
        entries[place] = entry;
        continue;
      }
      const run = group.find(index);
      if (run === null) return done(new LogError('missing', `entry ${index} of group ${id} is not here`), []);
      const slot = run.slot(index);
      if (place > 0 && bytes + run.lengths[slot]! > bytesMax) break;
      bytes += run.lengths[slot]!;
      locations.push({ place, index, run, slot });
    }
    if (locations.length === 0) return done(null, entries);
    const { epoch } = group;
    this.#reads.readAll(
      id,
      locations,
      (place, raw) => {
        entries[place] = toEntry(raw);
      },
      (error) => {
        if (error !== null) return done(error, []);
        if (entries.some((entry) => entry.kind === 'data' && entry.data.remains === true))
          return done(new LogError('missing', `entries of group ${id} are not here as a whole`), []);
        if (group.epoch !== epoch && !this.#isCurrent(group, entries))
          return done(new LogError('missing', `entries of group ${id} were truncated while they were read`), []);
        done(null, entries);
      },
    );
  }

  readLive(id: number, index: number, done: (error: Error | null, entry: LogEntry | null) => void): void {
    const group = this.#groups.get(id);
    const run = group?.find(index) ?? null;
    // What is in memory, and what may be truncated, is whole.
    if (group === undefined || run === null || index > group.compacted.index)
      return this.read(id, index, index, 1, (error, entries) => done(error, entries[0] ?? null));
    let entry: LogEntry | null = null;
    const location = { place: 0, index, run, slot: run.slot(index) };
    const take = (_place: number, raw: RawEntry) => {
      entry = toEntry(raw);
    };
    this.#reads.readAll(id, [location], take, (error) => done(error, error === null ? entry : null));
  }

  /** True if these entries are still the group's: none was replaced by a truncation. */
  #isCurrent(group: GroupLog, entries: readonly LogEntry[]): boolean {
    return entries.every(({ index, term }) => group.find(index)?.term === term);
  }

  #group(id: number): GroupLog {
    const group = this.#groups.get(id);
    assert(group !== undefined, `group ${id} was created`);
    return group;
  }

  // ---- snapshots ----

  async saveSnapshot(id: number, meta: SnapshotMeta, pieces: PieceSource): Promise<void> {
    let open = true;
    const source: PieceSource = {
      next: (bytesMax) => {
        this.#checkAlive();
        return pieces.next(bytesMax);
      },
      close: () => {
        if (open) pieces.close();
        open = false;
      },
    };
    try {
      this.#checkOpen();
      const group = this.#group(id);
      assert(!group.isVolatile, `group ${id} is not volatile`);
      await this.#track(this.#inTurn(id, () => this.#saveSnapshot(group, meta, source)));
    } finally {
      source.close();
    }
  }

  async #saveSnapshot(group: GroupLog, meta: SnapshotMeta, pieces: PieceSource): Promise<void> {
    const id = group.group;
    // Installed or saved meanwhile: what was wanted is there. Or begun anew: nobody wants it any more.
    if (meta.index < group.snapshot.index || (meta.index === group.snapshot.index && group.snapshotStored)) return;
    if (group.hasEnded) return;
    assert(meta.index <= group.lastIndex, `snapshot of group ${id} at ${meta.index} is past its log`);
    const path = snapshotPath(id, meta.index, meta.term);
    await this.#snapshotPins.claim(path);
    await writeSnapshotFile(this.#disk, id, meta, pieces, () => this.#turn());
    this.#checkAlive();
    // What a snapshot replaces must be durable before it counts, or a crash would leave a gap behind it.
    if (group.durableIndex < meta.index) await this.#flushed();
    if (group.hasEnded) return removeIfPresent(this.#disk, path);
    const old = group.snapshotStored ? group.snapshot : null;
    group.snapshot = meta;
    group.snapshotStored = true;
    group.pressureToldAt = -1;
    group.settle();
    await this.#saveManifest();
    if (old !== null) this.#letSnapshotGo(id, old);
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => this.#clock.soon(resolve));
  }

  #letSnapshotGo(group: number, { index, term }: SnapshotMeta): void {
    this.#snapshotPins.letGo(snapshotPath(group, index, term));
  }

  async loadSnapshot(id: number, into: StateSink): Promise<SnapshotMeta | null> {
    this.#checkOpen();
    const group = this.#group(id);
    const { snapshot: meta, snapshotStored } = group;
    if (!snapshotStored) return null;
    await this.#checkSnapshot(group, this.#feeding(into));
    return meta;
  }

  async #checkSnapshot({ group, snapshot: { index, term }, snapshotStored }: GroupLog, take: TakeState): Promise<void> {
    if (!snapshotStored) return;
    const path = snapshotPath(group, index, term);
    await this.#snapshotPins.use(path, async () => {
      const handle = await this.#disk.open(path, 'read');
      try {
        await checkSnapshot(handle, 0, handle.size, path, take);
      } catch (error) {
        if (isDamage(error)) this.#snapshotPins.damaged(path);
        throw error;
      } finally {
        await handle.close();
      }
    });
  }

  scrub(): void {
    if (this.#failure === null && !this.#closed) this.#scrub.step(this.#options.scrubBytesPerSecond);
  }

  /** Has a state's bytes worked off as they come, one step in a turn. */
  #feeding(into: StateSink): TakeState {
    return async (bytes, isLast) => {
      into.add(bytes, isLast);
      while (into.step()) await this.#turn();
    };
  }

  async openSnapshotStream(id: number, live: Iterable<number>, liveAbove: number): Promise<SnapshotReader> {
    this.#checkOpen();
    const group = this.#group(id);
    const meta = group.snapshot;
    if (!group.snapshotStored) throw new LogError('missing', `group ${id} has no snapshot`);
    const path = snapshotPath(id, meta.index, meta.term);
    this.#snapshotPins.pin(path);
    const entries = new LiveTable();
    const release = () => {
      entries.release();
      this.#snapshotPins.unpin(path);
    };
    try {
      await this.#findLive(group, meta.index, live, liveAbove, entries);
      const handle = await this.#disk.open(path, 'read');
      return new StreamReader(id, meta, liveAbove, entries, handle, this.#reads, release);
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
    let left = liveEntriesPerTurn;
    for (const index of live) {
      if (left-- === 0) {
        await this.#turn();
        this.#checkOpen();
        if (group.hasEnded) throw new LogError('stale', `group ${group.group} was begun anew`);
        left = liveEntriesPerTurn;
      }
      if (index <= liveAbove || index > last) continue;
      const run = group.find(index);
      if (run === null) throw new LogError('missing', `live entry ${index} of group ${group.group} is not here`);
      entries.add(run, run.slot(index));
    }
  }

  async createSnapshotStaging(id: number, meta: SnapshotMeta): Promise<SnapshotStaging> {
    this.#checkOpen();
    const group = this.#group(id);
    const path = `${snapshotPath(id, meta.index, meta.term)}.staging`;
    await removeIfPresent(this.#disk, path);
    const file = await this.#disk.open(path, 'create');
    return new Staging(this.#disk, id, meta, path, file, {
      keptWriter: () => this.#keptWriter({ kind: FileKind.kept, steady: false }),
      replica: () => group.replica,
      feeding: (into) => this.#feeding(into),
      check: (header) => this.#checkInstall(group, header),
      claim: (name) => this.#snapshotPins.claim(name),
      inTurn: (work) => this.#track(this.#inTurn(id, work)),
      commit: (snapshot, liveAbove, kept) => this.#install(group, snapshot, liveAbove, kept),
      installed: (kept) => this.#unpinInstalled(kept),
    });
  }

  #checkInstall(group: GroupLog, { index, term, liveAbove }: StreamHeader): void {
    this.#checkOpen();
    if (group.hasEnded || group.snapshot.index >= index || group.installing)
      throw new LogError('stale', `group ${group.group} has a newer snapshot than ${index}`);
    if (group.termAt(index) !== term && liveAbove > group.lastIndex)
      throw new LogError('invalid', `snapshot expects entries up to ${liveAbove}, the log ends at ${group.lastIndex}`);
  }

  /** The one step that counts: a checkpoint record. Memory changes with its gathering, the manifest once it is durable. */
  async #install(group: GroupLog, meta: SnapshotMeta, liveAbove: number, kept: KeptWriter): Promise<void> {
    const { group: id, replica } = group;
    const { configuration, index, term } = meta;
    const fits = group.termAt(index) === term;
    const truncateFrom = fits ? 0 : liveAbove + 1;
    const keptFiles = kept.files.map((file) => file.sequence);
    const payload = encodeCheckpoint({ configuration, truncateFrom, keptFiles });
    this.#records.control(RecordKind.checkpoint, id, replica, index, term, 1, payload);
    const { active } = this.#writer;
    active.index.install(id, replica, { index, term, configuration, keptFiles }, truncateFrom);
    const old = group.snapshotStored ? group.snapshot : null;
    const before = group.cachedBytes;
    const runs = kept.files.flatMap((file) => file.index.groups.get(id)?.runs ?? []);
    group.installing = true;
    group.installed(meta, truncateFrom, active.sequence, runs);
    this.#cache.bytes += group.cachedBytes - before;
    this.#writer.mark(group);
    for (const file of kept.files) {
      file.committedIn = active.sequence;
      file.pins++;
    }
    await this.#flushed();
    for (const file of kept.files) this.#addFile(file);
    group.installing = false;
    group.settle();
    await this.#saveManifest();
    if (old !== null) this.#letSnapshotGo(id, old);
    if (group.hasEnded) throw new LogError('stale', `group ${id} was begun anew`);
  }

  /** The host's machine knows the installed state from the end of this turn on; before that `isLive` speaks of the old one. */
  #unpinInstalled(kept: KeptWriter): void {
    this.#clock.soon(() => {
      for (const file of kept.files) file.pins--;
    });
  }

  // ---- files that go ----

  compactionPoint(id: number): { index: number; term: number } {
    const group = this.#group(id);
    if (group.isVolatile) return group.compacted;
    const { keptBytesMax, pressureBytes } = this.#options;
    group.compacted = group.compactionTarget(keptBytesMax, pressureHorizon(this.#files, pressureBytes));
    group.settle();
    return group.compacted;
  }

  collect(isLive: IsLive): Promise<void> {
    if (this.#failure === null && !this.#closed) this.#endMark.write(this.#writer.durable);
    this.#collecting = this.#collecting.then(() => this.#collect(isLive));
    return this.#collecting;
  }

  async #collect(isLive: IsLive): Promise<void> {
    if (this.#failure !== null || this.#closed) return;
    this.#tellPressed();
    await this.#removeLeaving();
    const { coveredTo } = this.#captured;
    const garbage = findGarbage(this.#files, this.#groups, coveredTo, isLive);
    if (garbage.length > 0) await this.#discard(garbage);
  }

  /** Files leave memory, then the manifest, then the disk; those that are still read later. */
  async #discard(files: readonly LogFile[]): Promise<void> {
    for (const file of files) file.doomed = true;
    for (const group of this.#groups.values()) group.forget((file) => file.doomed);
    this.#files = this.#files.filter((file) => !file.doomed);
    if (files.some((file) => file.kind !== FileKind.volatile)) await this.#saveManifest();
    for (const file of files) {
      if (file.pins > 0) this.#leaving.add(file);
      else await this.#remove(file);
    }
  }

  /** Those that nobody reads any more. */
  async #removeLeaving(): Promise<void> {
    for (const file of [...this.#leaving]) if (file.pins === 0 && !this.#closed) await this.#remove(file);
  }

  async #remove(file: LogFile): Promise<void> {
    this.#leaving.delete(file);
    await this.#openFiles.close(file);
    if (file.isDamaged) await this.#moveAside(file.path);
    else await removeIfPresent(this.#disk, file.path);
  }

  compact(live: Liveness): Promise<void> {
    if (this.#failure !== null || this.#closed) return Promise.resolve();
    return this.#track(this.#compact(live));
  }

  async #compact(live: Liveness): Promise<void> {
    try {
      await this.#compactor.run(live);
      await this.#removeLeaving();
    } catch (error) {
      // Without room the round came to nothing, and left nothing behind.
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') this.#fail(error as Error);
      throw error;
    }
  }

  #replace(old: ReadonlySet<LogFile>, kept: readonly LogFile[]): Promise<void> {
    for (const file of kept) {
      for (const part of file.index.groups.values()) this.#group(part.group).kept.push(...part.runs);
      this.#addFile(file);
    }
    return this.#discard([...old]);
  }

  #tellPressed(): void {
    const horizon = pressureHorizon(this.#files, this.#options.pressureBytes);
    if (horizon === 0) return;
    for (const group of findPressed(this.#groups.values(), horizon, this.#sealedFiles)) this.onPressure(group);
  }

  #addFile(file: LogFile): void {
    this.#files.push(file);
    this.#files.sort((a, b) => a.sequence - b.sequence);
  }

  #sealed(file: LogFile, captured: Captured): void {
    this.#captured = captured;
    this.#sealedFiles++;
    this.#openFiles.adopt(file);
    this.#tellPressed();
  }

  #lastLogFile(): number {
    const logs = this.#files.filter((file) => file.kind === FileKind.log);
    return logs[logs.length - 1]?.sequence ?? 0;
  }

  // ---- manifest ----

  #manifest(): Manifest {
    const { clusterId, nodeUuid } = this.#options;
    const { coveredTo } = this.#captured;
    const covered = (kind: FileKind) =>
      this.#files.filter((file) => file.kind === kind && (kind === FileKind.kept || file.sequence <= coveredTo));
    return {
      clusterId,
      nodeUuid,
      generation: ++this.#lastGeneration,
      coveredTo,
      files: covered(FileKind.log).map(describeFile),
      keptFiles: covered(FileKind.kept).map(describeFile),
      durable: { ...this.#writer.durable },
      nextSequence: this.#nextSequence,
      groups: manifestGroups(this.#groups.values(), this.#captured, this.#files),
    };
  }

  /** Writes a manifest that says at least what is true now. Those that are asked for while one is being written share the next. */
  #saveManifest(): Promise<void> {
    this.#manifestWaiting ??= this.#manifestRunning.then(() => {
      this.#manifestWaiting = null;
      this.#manifestRunning = this.#guard(this.#writeManifest());
      return this.#manifestRunning;
    });
    return this.#manifestWaiting;
  }

  async #writeManifest(): Promise<void> {
    const manifest = this.#manifest();
    await writeManifest(this.#disk, manifest);
    this.#generation = manifest.generation;
  }

  // ---- life ----

  status() {
    const writer = this.#writer;
    return {
      files: this.#files.length,
      bytes: this.#files.reduce((sum, file) => sum + file.bytes, 0),
      cachedBytes: this.#cache.bytes + this.#volatileCache.bytes,
      liveBytes: this.#compactor.liveBytes,
      boundBytes: this.#compactor.boundBytes,
      appendedBytes: writer.appendedBytes + (this.#volatile?.writer.appendedBytes ?? 0),
      rewrittenBytes: this.#compactor.rewrittenBytes,
      scrubPasses: this.#scrub.passes,
      scrubbedBytes: this.#scrub.bytes,
      setAside: this.#setAside,
      syncs: writer.syncs,
      lastSyncMilliseconds: writer.lastSyncMilliseconds,
      writeInFlight: writer.writeInFlight,
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#compactor.stop();
    this.#scrub.stop();
    for (const work of [...this.#running, this.#collecting]) await work.catch(() => {});
    await this.#manifestRunning.catch(() => {});
    this.#snapshotPins.close();
    if (this.#failure === null) await this.#writer.close();
    await this.#closeVolatile();
    await this.#endMark.close();
    await this.#openFiles.closeAll();
  }

  /** What fails to go now is removed at the next start. */
  async #closeVolatile(): Promise<void> {
    if (this.#failure !== null || this.#volatile === null) return;
    await this.#volatile.writer.close();
    for (const file of this.#files) {
      if (file.kind !== FileKind.volatile) continue;
      await this.#openFiles.close(file);
      await removeIfPresent(this.#disk, file.path).catch(() => {});
    }
  }

  /** One snapshot of a group is being written or installed at a time. */
  #inTurn(group: number, work: () => Promise<void>): Promise<void> {
    const before = this.#snapshotTurns.get(group) ?? Promise.resolve();
    const turn = before.catch(() => {}).then(work);
    this.#snapshotTurns.set(group, turn);
    return turn;
  }

  /** `close` waits for it. */
  async #track(work: Promise<void>): Promise<void> {
    this.#running.add(work);
    try {
      await work;
    } finally {
      this.#running.delete(work);
    }
  }

  /** Resolves when everything gathered so far is durable. */
  #flushed(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      this.#waiting.add(reject);
      this.#writer.notify(() => {
        this.#waiting.delete(reject);
        resolve();
      });
      this.#writer.kick();
    });
  }

  /** An error of writing what must not be lost ends everything. */
  async #guard(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      this.#fail(error as Error);
      throw error;
    }
  }

  #checkAlive(): void {
    if (this.#failure !== null) throw new LogError('failed', `the log failed: ${this.#failure.message}`);
  }

  #checkOpen(): void {
    this.#checkAlive();
    if (this.#closed) throw new LogError('closed', 'the log is closed');
  }

  #fail(error: Error): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#writer.halt();
    this.#volatile?.writer.halt();
    for (const reject of this.#waiting) reject(error);
    this.#waiting.clear();
    this.onFatal(error);
  }

  /** Throws if a stated invariant is broken. For tests. */
  check(): void {
    for (const group of this.#groups.values()) group.check();
    const cached = [...this.#groups.values()].reduce((sum, group) => sum + group.cachedBytes, 0);
    assert(cached === this.#cache.bytes + this.#volatileCache.bytes, 'cached bytes add up');
  }
}
