// The one log of a node: puts the writer, the groups, the cache, reading, snapshots and the manifest together.
//
// State owned: the groups, the files, the order in which cached entries leave memory, and what the next manifest covers.
// Invariants:
//   - memory is changed when a record is gathered, in the order of the records; the manifest only says what is durable;
//   - a file leaves memory first, then the manifest, then the disk;
//   - after the first error of writing nothing succeeds and `onFatal` was called once.

import { crc32 } from 'node:zlib';
import type { HardState, SnapshotMeta } from 'raft-ts';
import type { Clock, Disk } from '../ports.ts';
import { EntryKind, FileKind, fileBytesLimit, RecordKind } from './codec.ts';
import { findGarbage, findPressed, type IsLive, neededTruncations, pressureHorizon } from './collector.ts';
import { encodeCheckpoint, encodeConfiguration } from './configuration.ts';
import { assert, LogError } from './errors.ts';
import { type LogFile, OpenFiles } from './files.ts';
import { GroupLog } from './group.ts';
import { KeptWriter } from './kept-writer.ts';
import { type Manifest, type ManifestGroup, type Truncation, writeManifest } from './manifest.ts';
import { type Location, Reads, toEntry } from './reads.ts';
import type { Recovered } from './recovery.ts';
import { checkSnapshot, snapshotPath, writeSnapshotFile } from './snapshot-file.ts';
import { type LiveEntry, type StreamHeader, StreamReader } from './snapshot-stream.ts';
import { Staging } from './staging.ts';
import type { GroupWrite, Log, LogEntry, LogOptions, SnapshotReader, SnapshotStaging } from './types.ts';
import { removeIfPresent } from './whole-files.ts';
import { Writer } from './writer.ts';

/** Sealed files that keep a descriptor for reading. */
const openFilesMax = 64;
const emptyPayloadChecksum = 0;

/** Control state of all groups at the end of one file. */
interface Captured {
  readonly coveredTo: number;
  readonly groups: Map<
    number,
    { readonly replica: number; readonly hardState: HardState; readonly truncations: readonly Truncation[] }
  >;
}

export class Store implements Log {
  onPressure: (group: number) => void = () => {};
  onFatal: (error: Error) => void = () => {};
  readonly #disk: Disk;
  readonly #clock: Clock;
  readonly #options: LogOptions;
  readonly #groups: Map<number, GroupLog>;
  /** Log files in order, kept files among them by sequence. */
  #files: LogFile[];
  #nextSequence: number;
  readonly #openFiles: OpenFiles;
  readonly #reads: Reads;
  readonly #writer: Writer;
  #captured: Captured;
  #sealedFiles = 0;

  /** Whose oldest cached entry leaves next; from `#fifoHead` on. */
  #fifo: GroupLog[] = [];
  #fifoHead = 0;
  #cachedBytes = 0;

  #manifestRunning: Promise<void> = Promise.resolve();
  #manifestWaiting: Promise<void> | null = null;
  #collecting: Promise<void> = Promise.resolve();
  /** Open readers of snapshot files; a file with one is removed when the last is closed. */
  readonly #snapshotPins = new Map<string, number>();
  readonly #snapshotsUnwanted = new Set<string>();
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
    this.#groups = recovered.groups;
    this.#files = [...recovered.files].sort((a, b) => a.sequence - b.sequence);
    this.#nextSequence = recovered.nextSequence;
    this.#openFiles = new OpenFiles(disk, openFilesMax);
    this.#reads = new Reads(this.#openFiles);
    this.#captured = this.#capture(recovered.coveredTo);
    this.#writer = new Writer(disk, clock, options, options.fileBytesMax, () => this.#nextSequence++, {
      rotating: (file) => this.#capture(file.sequence),
      sealed: (file, captured) => this.#sealed(file, captured as Captured),
      opened: (file) => this.#addFile(file),
      durable: () => this.#evict(),
      failed: (error) => this.#fail(error),
    });
  }

  /** Writes the first manifest of this run and creates the file to write to. */
  async start(): Promise<void> {
    await writeManifest(this.#disk, this.#manifest());
    await this.#writer.start(this.#lastLogFile());
  }

  // ---- appending ----

  createGroup(id: number, replica: number, snapshot: SnapshotMeta): void {
    const known = this.#groups.get(id);
    if (known !== undefined && known.replica === replica) return;
    if (known !== undefined && known.replica > replica)
      throw new LogError('stale', `group ${id} belongs to replica ${known.replica}, not ${replica}`);
    if (known !== undefined) this.#cachedBytes -= known.cachedBytes;
    const payload = encodeCheckpoint({ configuration: snapshot.configuration, truncateFrom: 0, keptFiles: [] });
    const { index, term } = snapshot;
    this.#control(RecordKind.checkpoint, id, replica, index, term, 0, payload);
    this.#writer.active.index.create(id, replica, snapshot);
    // The earlier replica's snapshot file goes at the next start: until this record is durable it may be needed.
    const group = new GroupLog(id, replica, snapshot);
    group.replaced = known === undefined || known.isDurable ? (known ?? null) : known.replaced;
    this.#groups.set(id, group);
    this.#writer.mark(group);
  }

  append(writes: readonly GroupWrite[], done: () => void): void {
    if (this.#failure !== null || this.#closed) return;
    const writer = this.#writer;
    for (let i = 0; i < writes.length; i++) {
      const { group: id, truncateFrom, entries, hardState } = writes[i]!;
      const group = this.#group(id);
      if (truncateFrom !== null && truncateFrom <= group.lastIndex) this.#truncate(group, truncateFrom);
      for (let n = 0; n < entries.length; n++) this.#entry(group, entries[n]!);
      if (hardState !== null) this.#hardState(group, hardState);
      writer.mark(group);
    }
    writer.notify(done);
    writer.kick();
  }

  #entry(group: GroupLog, entry: LogEntry): void {
    const { index, term } = entry;
    assert(index === group.lastIndex + 1, `entry ${index} of group ${group.group} follows ${group.lastIndex}`);
    assert(term >= group.lastTerm, `entry ${index} of group ${group.group} has term ${term} after ${group.lastTerm}`);
    let kind: EntryKind = EntryKind.noop;
    let payload: Buffer | null = null;
    let checksum = emptyPayloadChecksum;
    let stamp = 0;
    let stateHash = 0;
    let machineVersion = 0;
    if (entry.kind === 'data') {
      ({ payload, checksum, stamp, stateHash, machineVersion } = entry.data);
      kind = EntryKind.data;
    } else if (entry.kind === 'configuration') {
      payload = encodeConfiguration(entry.configuration);
      checksum = crc32(payload);
      kind = EntryKind.configuration;
    }
    const length = payload === null ? 0 : payload.length;
    const { group: id, replica, lastTerm } = group;
    const writer = this.#writer;
    writer.reserve(length);
    const { active } = writer;
    const offset = writer.record(
      RecordKind.entry,
      kind,
      id,
      replica,
      index,
      term,
      lastTerm,
      stamp,
      stateHash,
      machineVersion,
      payload,
      checksum,
    );
    const run = active.index.add(id, replica, index, term, lastTerm, offset, length, false);
    if (entry.kind === 'configuration') active.index.group(id, replica).configurations.set(index, entry.configuration);
    const before = group.cachedBytes;
    group.appended(entry, run);
    this.#cachedBytes += group.cachedBytes - before;
    this.#fifo.push(group);
  }

  #truncate(group: GroupLog, from: number): void {
    this.#control(RecordKind.truncation, group.group, group.replica, from, 0, 0, null);
    const { active } = this.#writer;
    active.index.truncate(group.group, group.replica, from);
    const before = group.cachedBytes;
    group.truncate(from, active.sequence);
    this.#cachedBytes += group.cachedBytes - before;
  }

  #hardState(group: GroupLog, hardState: HardState): void {
    const old = group.hardState;
    const sameVote = hardState.term > old.term || old.vote === 0 || hardState.vote === old.vote;
    assert(hardState.term >= old.term && sameVote, `hard state of group ${group.group} goes back`);
    const { term, vote, commit } = hardState;
    this.#control(RecordKind.hardState, group.group, group.replica, commit, term, vote, null);
    this.#writer.active.index.group(group.group, group.replica).hardState = hardState;
    group.hardState = hardState;
  }

  #control(
    kind: RecordKind,
    group: number,
    replica: number,
    index: number,
    term: number,
    previous: number,
    payload: Buffer | null,
  ): void {
    const checksum = payload === null ? emptyPayloadChecksum : crc32(payload);
    this.#writer.reserve(payload === null ? 0 : payload.length);
    this.#writer.record(kind, EntryKind.none, group, replica, index, term, previous, 0, 0, 0, payload, checksum);
  }

  /** Lets the oldest entries out of memory, down to the bound, as far as they are durable. */
  #evict(): void {
    const { cacheBytesMax } = this.#options;
    const fifo = this.#fifo;
    while (this.#cachedBytes > cacheBytesMax && this.#fifoHead < fifo.length) {
      const group = fifo[this.#fifoHead]!;
      if (!group.isCacheEmpty && this.#groups.get(group.group) === group) {
        if (!group.canEvict) break;
        this.#cachedBytes -= group.evict();
      }
      this.#fifoHead++;
    }
    if (this.#fifoHead > 1024 && this.#fifoHead * 2 > fifo.length) {
      this.#fifo = fifo.slice(this.#fifoHead);
      this.#fifoHead = 0;
    }
  }

  // ---- reading ----

  cached(group: number, index: number): LogEntry | undefined {
    return this.#groups.get(group)?.cached(index);
  }

  has(group: number, index: number): boolean {
    const found = this.#groups.get(group);
    return found !== undefined && (found.cached(index) !== undefined || found.find(index) !== null);
  }

  read(
    id: number,
    first: number,
    last: number,
    bytesMax: number,
    done: (error: Error | null, entries: LogEntry[]) => void,
  ): void {
    const group = this.#group(id);
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
        if (group.epoch !== epoch && !this.#isCurrent(group, entries))
          return done(new LogError('missing', `entries of group ${id} were truncated while they were read`), []);
        done(null, entries);
      },
    );
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

  async saveSnapshot(id: number, meta: SnapshotMeta, pieces: readonly Buffer[]): Promise<void> {
    this.#checkOpen();
    await this.#track(this.#inTurn(id, () => this.#saveSnapshot(id, meta, pieces)));
  }

  async #saveSnapshot(id: number, meta: SnapshotMeta, pieces: readonly Buffer[]): Promise<void> {
    const group = this.#group(id);
    // Installed or saved meanwhile: what was wanted is there.
    if (meta.index < group.snapshot.index || (meta.index === group.snapshot.index && group.snapshotStored)) return;
    assert(meta.index <= group.lastIndex, `snapshot of group ${id} at ${meta.index} is past its log`);
    await writeSnapshotFile(this.#disk, id, meta, pieces);
    this.#checkAlive();
    // What a snapshot replaces must be durable before it counts, or a crash would leave a gap behind it.
    if (group.durableIndex < meta.index) await this.#flushed();
    if (this.#groups.get(id) !== group) return removeIfPresent(this.#disk, snapshotPath(id, meta.index, meta.term));
    const old = group.snapshotStored ? group.snapshot : null;
    group.snapshot = meta;
    group.snapshotStored = true;
    group.pressureToldAt = -1;
    group.settle();
    await this.#saveManifest();
    if (old !== null) this.#letSnapshotGo(id, old);
  }

  async loadSnapshot(id: number): Promise<{ meta: SnapshotMeta; state: Buffer } | null> {
    this.#checkOpen();
    const { snapshot: meta, snapshotStored } = this.#group(id);
    if (!snapshotStored) return null;
    const path = snapshotPath(id, meta.index, meta.term);
    return this.#withSnapshot(path, async () => {
      const handle = await this.#disk.open(path, 'read');
      try {
        return { meta, state: await checkSnapshot(handle, 0, path, true) };
      } finally {
        await handle.close();
      }
    });
  }

  async openSnapshotStream(id: number, liveIndices: readonly number[], liveAbove: number): Promise<SnapshotReader> {
    this.#checkOpen();
    const group = this.#group(id);
    const meta = group.snapshot;
    if (!group.snapshotStored) throw new LogError('missing', `group ${id} has no snapshot`);
    const entries: LiveEntry[] = [];
    for (const index of liveIndices) {
      if (index <= liveAbove || index > meta.index) continue;
      const run = group.find(index);
      if (run === null) throw new LogError('missing', `live entry ${index} of group ${id} is not here`);
      entries.push({ index, run, slot: run.slot(index) });
    }
    entries.sort((a, b) => a.index - b.index);
    for (const { run } of entries) run.file.pins++;
    const path = snapshotPath(id, meta.index, meta.term);
    this.#pinSnapshot(path);
    try {
      const handle = await this.#disk.open(path, 'read');
      return new StreamReader(id, meta, liveAbove, entries, handle, this.#reads, () => this.#unpinSnapshot(path));
    } catch (error) {
      this.#unpinSnapshot(path);
      throw error;
    } finally {
      for (const { run } of entries) run.file.pins--;
    }
  }

  async createSnapshotStaging(id: number, meta: SnapshotMeta): Promise<SnapshotStaging> {
    this.#checkOpen();
    const group = this.#group(id);
    const path = `${snapshotPath(id, meta.index, meta.term)}.staging`;
    await removeIfPresent(this.#disk, path);
    const file = await this.#disk.open(path, 'create');
    return new Staging(this.#disk, id, meta, path, file, {
      keptWriter: () =>
        new KeptWriter(this.#disk, this.#clock, this.#options, this.#options.fileBytesMax, () => this.#nextSequence++),
      replica: () => group.replica,
      check: (header) => this.#checkInstall(group, header),
      inTurn: (work) => this.#track(this.#inTurn(id, work)),
      commit: (snapshot, liveAbove, kept) => this.#install(group, snapshot, liveAbove, kept),
      installed: (kept) => this.#unpinInstalled(kept),
    });
  }

  #checkInstall(group: GroupLog, { index, term, liveAbove }: StreamHeader): void {
    this.#checkOpen();
    if (this.#groups.get(group.group) !== group || group.snapshot.index >= index || group.installing)
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
    this.#control(RecordKind.checkpoint, id, replica, index, term, 1, payload);
    const { active } = this.#writer;
    active.index.install(id, replica, { index, term, configuration, keptFiles }, truncateFrom);
    const old = group.snapshotStored ? group.snapshot : null;
    const before = group.cachedBytes;
    const runs = kept.files.flatMap((file) => file.index.groups.get(id)?.runs ?? []);
    group.installing = true;
    group.installed(meta, truncateFrom, active.sequence, runs);
    this.#cachedBytes += group.cachedBytes - before;
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
  }

  /** The host's machine knows the installed state from the end of this turn on; before that `isLive` speaks of the old one. */
  #unpinInstalled(kept: KeptWriter): void {
    this.#clock.soon(() => {
      for (const file of kept.files) file.pins--;
    });
  }

  async #withSnapshot<T>(path: string, use: () => Promise<T>): Promise<T> {
    this.#pinSnapshot(path);
    try {
      return await use();
    } finally {
      this.#unpinSnapshot(path);
    }
  }

  #pinSnapshot(path: string): void {
    this.#snapshotPins.set(path, (this.#snapshotPins.get(path) ?? 0) + 1);
  }

  #unpinSnapshot(path: string): void {
    const left = this.#snapshotPins.get(path)! - 1;
    if (left > 0) return void this.#snapshotPins.set(path, left);
    this.#snapshotPins.delete(path);
    if (this.#snapshotsUnwanted.delete(path)) this.#removeLater(path);
  }

  #letSnapshotGo(group: number, { index, term }: SnapshotMeta): void {
    const path = snapshotPath(group, index, term);
    if (this.#snapshotPins.has(path)) this.#snapshotsUnwanted.add(path);
    else this.#removeLater(path);
  }

  /** What fails to go now is removed at the next start. */
  #removeLater(path: string): void {
    if (!this.#closed) removeIfPresent(this.#disk, path).catch(() => {});
  }

  // ---- files that go ----

  compactionPoint(id: number): { index: number; term: number } {
    const group = this.#group(id);
    const { keptBytesMax, pressureBytes } = this.#options;
    group.compacted = group.compactionTarget(keptBytesMax, pressureHorizon(this.#files, pressureBytes));
    group.settle();
    return group.compacted;
  }

  collect(isLive: IsLive): Promise<void> {
    this.#collecting = this.#collecting.then(() => this.#collect(isLive));
    return this.#collecting;
  }

  async #collect(isLive: IsLive): Promise<void> {
    if (this.#failure !== null || this.#closed) return;
    this.#tellPressed();
    const { coveredTo } = this.#captured;
    const garbage = findGarbage(this.#files, this.#groups, coveredTo, isLive);
    if (garbage.length === 0) return;
    for (const file of garbage) file.doomed = true;
    for (const group of this.#groups.values()) group.forget((file) => file.doomed);
    this.#files = this.#files.filter((file) => !file.doomed);
    await this.#saveManifest();
    for (const file of garbage) {
      await this.#openFiles.close(file);
      await removeIfPresent(this.#disk, file.path);
    }
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

  #capture(coveredTo: number): Captured {
    const groups: Captured['groups'] = new Map();
    for (const [id, { replica, hardState, truncations }] of this.#groups)
      groups.set(id, { replica, hardState, truncations: [...truncations] });
    return { coveredTo, groups };
  }

  #manifest(): Manifest {
    const { clusterId, nodeUuid } = this.#options;
    const { coveredTo } = this.#captured;
    const covered = (kind: FileKind) =>
      this.#files.filter((file) => file.kind === kind && (kind === FileKind.kept || file.sequence <= coveredTo));
    const durable = [...this.#groups.values()].flatMap((group) => (group.isDurable ? group : (group.replaced ?? [])));
    const groups = durable.map((group): ManifestGroup => {
      const captured = this.#captured.groups.get(group.group);
      const isSame = captured !== undefined && captured.replica === group.replica;
      const truncations = isSame ? neededTruncations(group, captured.truncations, this.#files) : [];
      return {
        group: group.group,
        replica: group.replica,
        hardState: isSame ? captured.hardState : { term: 0, vote: 0, commit: 0 },
        ...group.stable,
        truncations,
      };
    });
    return {
      clusterId,
      nodeUuid,
      coveredTo,
      files: covered(FileKind.log).map((file) => file.sequence),
      keptFiles: covered(FileKind.kept).map((file) => file.sequence),
      nextSequence: this.#nextSequence,
      groups,
    };
  }

  /** Writes a manifest that says at least what is true now. Those that are asked for while one is being written share the next. */
  #saveManifest(): Promise<void> {
    this.#manifestWaiting ??= this.#manifestRunning.then(() => {
      this.#manifestWaiting = null;
      this.#manifestRunning = this.#guard(writeManifest(this.#disk, this.#manifest()));
      return this.#manifestRunning;
    });
    return this.#manifestWaiting;
  }

  // ---- life ----

  status() {
    const writer = this.#writer;
    return {
      files: this.#files.length,
      bytes: this.#files.reduce((sum, file) => sum + file.bytes, 0),
      cachedBytes: this.#cachedBytes,
      syncs: writer.syncs,
      lastSyncMilliseconds: writer.lastSyncMilliseconds,
      writeInFlight: writer.writeInFlight,
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const work of [...this.#running, this.#collecting]) await work.catch(() => {});
    await this.#manifestRunning.catch(() => {});
    if (this.#failure === null) await this.#writer.close();
    await this.#openFiles.closeAll();
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
    for (const reject of this.#waiting) reject(error);
    this.#waiting.clear();
    this.onFatal(error);
  }

  /** Throws if a stated invariant is broken. For tests. */
  check(): void {
    for (const group of this.#groups.values()) group.check();
    const cached = [...this.#groups.values()].reduce((sum, group) => sum + group.cachedBytes, 0);
    assert(cached === this.#cachedBytes, 'cached bytes add up');
  }
}
