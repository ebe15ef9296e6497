// Compaction: the files of which least lives are rewritten, so that what is left of them takes little room and the rest can go.
//
//   appraise all files (counts) ──► examine some (which messages live) ──► write what lives to kept files, durable ──► one step: the new
//   files count instead of the old ones ──► manifest durable ──► old files go, when nobody reads them any more
//
// State owned: the round under way, what it may read and write in a second, what the last appraisal found.
//
// Invariants:
//   - one round at a time; only files behind the compaction points (`isBehind`), so that nothing that a follower may need whole is touched;
//   - a file whose part of a group was reset, truncated or installed over meanwhile is not replaced: the round comes to nothing;
//   - the new files are durable before anything says that they count, and what said so is durable before an old file goes: a crash at any
//     point leaves one of the two, and garbage that the next start removes;
//   - while there are files of which less than half lives, files behind the compaction points hold at most half as much again as what lives
//     in them, and the slack; else at most twice as much. So the disk holds at most twice what lives, and a constant (`boundBytes`).

import { crc32 } from 'node:zlib';
import type { Clock, Timer } from '../ports.ts';
import { EntryKind, FileKind } from './codec.ts';
import { isBehind } from './collector.ts';
import { assert, isDamage, LogError } from './errors.ts';
import { recordBytes } from './file-index.ts';
import type { LogFile } from './files.ts';
import type { GroupLog } from './group.ts';
import type { KeptKind, KeptWriter } from './kept-writer.ts';
import type { Location, RawEntry, Reads } from './reads.ts';
import { type Appraisal, appraise, Examination, type KeptEntry, type Steps } from './survey.ts';
import type { LiveEntries, Liveness, LogOptions } from './types.ts';
import { nextTurn } from './whole-files.ts';

/** References looked at in one round, beyond those of the first file; and files. */
const referencesMax = 262_144;
const filesMax = 256;
/** Kept files smaller than this part of a full file are put together, when there are so many. */
const smallPart = 8;
const smallFilesMax = 8;
/** Of a file that is rewritten at most so much lives. */
const shareMax = 0.5;
/** What lives may be surrounded by half as much that does not, before anything is done. */
const tolerance = 1.5;
/** References read in one step, in bytes. */
const stepBytes = 64 * 1024;
/** Entries read at a time: bytes of their records, beyond the first. */
const readBytesMax = 512 * 1024;
/** Of the processor's time for looking at what lives, one part in so many; more of it where the bound is exceeded. */
const workShare = 50;
const urgentWorkShare = 10;
const urgentRate = 4;
/** Before a round is tried again, on a disk that was full. */
const fullDiskMilliseconds = 10_000;
/** The rate holds over steps of so many bytes. */
const rateStepBytes = 256 * 1024;
/** Full files that are being written, prepared, sealed, snapshotted or removed. */
const filesOnTheirWay = 6;

export interface CompactorStore {
  readonly groups: ReadonlyMap<number, GroupLog>;
  readonly reads: Reads;
  files(): readonly LogFile[];
  /** Log files up to here are covered by the manifest. */
  coveredTo(): number;
  keptWriter(kind: KeptKind): KeptWriter;
  /** At once: the new files, which are durable and hold what lives of the old ones, count instead of them. Resolves when that is durable. */
  replace(old: ReadonlySet<LogFile>, kept: readonly LogFile[], live: LiveEntries): Promise<void>;
}

export class Compactor {
  readonly #store: CompactorStore;
  readonly #clock: Clock;
  readonly #options: LogOptions;
  #isRunning = false;
  #stopped = false;
  /** Nothing is looked at before. */
  #restsUntil = 0;
  /** Time spent looking in this round, and when its present step began. */
  #worked = 0;
  #stepBegan = 0;
  /** Bytes read and written that were not waited for yet. */
  #owed = 0;
  #isUrgent = false;
  #wake: (() => void) | null = null;
  readonly #steps: Steps = { pause: () => this.#step(), isSound: () => this.#isSound() };
  /** Groups with entries in the files of this round, as they were when it began, with their epochs. */
  readonly #concerned = new Map<GroupLog, number>();
  /** Files that could not be read. */
  readonly #unfit = new WeakSet<LogFile>();
  /** In files behind the compaction points, as far as it is known. */
  liveBytes = 0;
  rewrittenBytes = 0;

  constructor(store: CompactorStore, clock: Clock, options: LogOptions) {
    this.#store = store;
    this.#clock = clock;
    this.#options = options;
  }

  /** What the disk may hold: twice what lives, the log that is kept whole, the slack, and a few files on their way in and out. */
  get boundBytes(): number {
    const { pressureBytes, compactionSlackBytes, fileBytesMax } = this.#options;
    return 2 * this.liveBytes + pressureBytes + compactionSlackBytes + filesOnTheirWay * fileBytesMax;
  }

  /** The round under way ends soon. */
  stop(): void {
    this.#stopped = true;
    this.#wake?.();
  }

  /** One round, if it is time for one. Rejects with errors of the disk, and rests then. */
  async run(live: Liveness): Promise<void> {
    if (this.#isRunning || this.#stopped || this.#clock.now() < this.#restsUntil) return;
    this.#isRunning = true;
    this.#worked = 0;
    this.#stepBegan = this.#clock.now();
    let chosen: readonly LogFile[] = [];
    let rest = 0;
    try {
      chosen = this.#choose(await this.#appraise(live));
      for (const file of chosen) file.pins++;
      if (chosen.length > 0) await this.#round(chosen, live);
    } catch (error) {
      rest = fullDiskMilliseconds;
      throw error;
    } finally {
      for (const file of chosen) file.pins--;
      this.#isRunning = false;
      this.#concerned.clear();
      this.#endStep();
      const share = this.#isUrgent ? urgentWorkShare : workShare;
      this.#restsUntil = this.#clock.now() + Math.max(rest, this.#worked * share);
    }
  }

  // ---- what is to be done ----

  async #appraise(live: Liveness): Promise<Appraisal[]> {
    const appraisals: Appraisal[] = [];
    const { groups } = this.#store;
    for (const file of [...this.#store.files()]) {
      if (!this.#isFit(file)) continue;
      appraisals.push(appraise(file, groups, live));
      await this.#step();
      if (this.#stopped) return [];
    }
    return appraisals;
  }

  /** Nothing, as long as not much more than what lives is there. What was never examined counts as dead here, so that it is. */
  #choose(appraisals: readonly Appraisal[]): LogFile[] {
    let bytes = 0;
    let liveBytes = 0;
    let possibleBytes = 0;
    for (const appraisal of appraisals) {
      // What has no reference goes without being rewritten.
      if (appraisal.references === 0 && appraisal.unknownBytes === 0) continue;
      bytes += appraisal.file.bytes;
      liveBytes += appraisal.liveBytes ?? appraisal.unknownBytes;
      possibleBytes += appraisal.liveBytes ?? appraisal.file.bytes;
    }
    this.liveBytes = liveBytes;
    const { compactionSlackBytes } = this.#options;
    this.#isUrgent = bytes > 2 * possibleBytes + compactionSlackBytes;
    if (bytes <= tolerance * liveBytes + compactionSlackBytes) return [];
    const wanted = appraisals.filter(
      ({ file, liveBytes: live, references, unknownBytes }) =>
        references + unknownBytes > 0 && (live === null || live <= shareMax * file.bytes),
    );
    assert(
      wanted.length > 0 || bytes <= 2 * liveBytes + compactionSlackBytes,
      'the disk holds at most twice what lives',
    );
    wanted.sort((a, b) => likelyShare(a) - likelyShare(b));
    const isVolatile = wanted[0]?.file.kind === FileKind.volatile;
    const files: LogFile[] = [];
    let references = 0;
    for (const appraisal of [...this.#small(appraisals), ...wanted]) {
      const { file } = appraisal;
      const isOfRound = (file.kind === FileKind.volatile) === isVolatile && !files.includes(file);
      // Not as it was: something began to be read or to be installed since.
      if (!isOfRound || !this.#isFit(file)) continue;
      if (files.length === filesMax || (files.length > 0 && references + appraisal.references > referencesMax)) break;
      references += appraisal.references;
      files.push(file);
    }
    return wanted.length === 0 ? [] : files;
  }

  #isFit(file: LogFile): boolean {
    if (file.pins > 0 || this.#unfit.has(file)) return false;
    return isBehind(file, this.#store.groups, this.#store.coveredTo());
  }

  /** Kept files that rounds have left, if they are many: they become one. */
  #small(appraisals: readonly Appraisal[]): Appraisal[] {
    const small = appraisals.filter(({ file }) => this.#isSmall(file));
    return small.length >= smallFilesMax ? small : [];
  }

  #isSmall(file: LogFile): boolean {
    return file.kind === FileKind.kept && file.bytes < this.#options.fileBytesMax / smallPart;
  }

  // ---- one round ----

  async #round(files: readonly LogFile[], live: Liveness): Promise<void> {
    const { groups } = this.#store;
    for (const file of files)
      for (const id of file.index.groups.keys()) {
        const group = groups.get(id);
        if (group !== undefined) this.#concerned.set(group, group.epoch);
      }
    const examination = new Examination(files, live, this.#steps);
    if (!(await examination.run(groups, stepBytes)) || !this.#isSound()) return;
    const sparse = this.#sparsest(files, examination);
    if (sparse.size === 0) return;
    this.#endStep();
    const [first] = sparse;
    const kept = this.#store.keptWriter(first!.kind === FileKind.volatile ? FileKind.volatile : FileKind.kept);
    let isDone = false;
    try {
      isDone = (await this.#rewrite(examination, sparse, kept, live)) && this.#isSound();
      if (!isDone) return;
      await kept.finish();
      isDone = this.#isSound();
      if (!isDone) return;
      this.rewrittenBytes += kept.bytes;
      for (const file of kept.files) file.live = appraiseWhole(file, groups, live);
      await this.#store.replace(sparse, kept.files, live);
    } finally {
      this.#stepBegan = this.#clock.now();
      if (!isDone) await kept.abort().catch(() => {});
    }
  }

  /** Those of the examined files that are worth it, as far as one round may write. */
  #sparsest(files: readonly LogFile[], { leaves }: Examination): Set<LogFile> {
    const share = (file: LogFile) => leaves.get(file)! / file.bytes;
    const isSmallOnes = files.filter((file) => this.#isSmall(file)).length >= smallFilesMax;
    const sparse = files.filter((file) => share(file) <= shareMax || (isSmallOnes && this.#isSmall(file)));
    sparse.sort((a, b) => share(a) - share(b));
    const chosen = new Set<LogFile>();
    let bytes = 0;
    for (const file of sparse) {
      bytes += leaves.get(file)!;
      if (chosen.size > 0 && bytes > 2 * this.#options.fileBytesMax) break;
      chosen.add(file);
    }
    return chosen;
  }

  async #rewrite(
    examination: Examination,
    files: ReadonlySet<LogFile>,
    kept: KeptWriter,
    live: Liveness,
  ): Promise<boolean> {
    for (const id of examination.groups()) {
      let gathered: KeptEntry[] = [];
      let bytes = 0;
      for (const entry of examination.kept(id, files)) {
        const length = recordBytes(entry.run, entry.slot);
        if (gathered.length > 0 && bytes + length > readBytesMax) {
          if (!(await this.#copy(id, gathered, bytes, kept, live)) || !this.#isSound()) return false;
          gathered = [];
          bytes = 0;
        }
        gathered.push(entry);
        bytes += length;
      }
      if (gathered.length > 0 && !(await this.#copy(id, gathered, bytes, kept, live))) return false;
      if (!this.#isSound()) return false;
    }
    return true;
  }

  /** False: the round comes to nothing. */
  async #copy(id: number, entries: KeptEntry[], bytes: number, kept: KeptWriter, live: Liveness): Promise<boolean> {
    const raw = await this.#read(id, entries);
    const group = this.#store.groups.get(id);
    if (raw === null || group === undefined || !this.#isSound()) return false;
    const before = kept.bytes;
    for (let i = 0; i < raw.length; i++) await kept.add(id, group.replica, reduce(raw[i]!, entries[i]!, live));
    await this.#spend(bytes + kept.bytes - before);
    return true;
  }

  /** Null: a record is damaged, or cannot be read. That is for whoever looks after damage; the file is not tried again. */
  #read(id: number, entries: readonly KeptEntry[]): Promise<RawEntry[] | null> {
    const locations = entries.map((entry, place): Location => ({ ...entry, place }));
    const raw: RawEntry[] = new Array(entries.length);
    const take = (place: number, entry: RawEntry) => {
      raw[place] = entry;
    };
    return new Promise((resolve, reject) => {
      this.#store.reads.readAll(id, locations, take, (error) => {
        if (error === null) return resolve(raw);
        if (!isDamage(error)) return reject(error);
        const place = error instanceof LogError ? error.file : '';
        for (const { run } of entries) if (place === '' || run.file.path === place) this.#unfit.add(run.file);
        resolve(null);
      });
    });
  }

  /** No group in the files is another than when the round began, and the round is not to end. */
  #isSound(): boolean {
    if (this.#stopped) return false;
    for (const [group, epoch] of this.#concerned) {
      if (this.#store.groups.get(group.group) !== group || group.epoch !== epoch) return false;
      if (group.hasEnded || group.installing || group.damage.length > 0) return false;
    }
    return true;
  }

  // ---- time ----

  /** Lets others have their turn. */
  async #step(): Promise<void> {
    this.#endStep();
    await nextTurn(this.#clock);
    this.#stepBegan = this.#clock.now();
  }

  #endStep(): void {
    const now = this.#clock.now();
    this.#worked += now - this.#stepBegan;
    this.#stepBegan = now;
  }

  /** Waits as long as these bytes have to last. */
  async #spend(bytes: number): Promise<void> {
    this.#owed += bytes;
    if (this.#owed < rateStepBytes) return;
    const { compactionBytesPerSecond } = this.#options;
    const rate = this.#isUrgent ? compactionBytesPerSecond * urgentRate : compactionBytesPerSecond;
    const milliseconds = (this.#owed * 1000) / rate;
    this.#owed = 0;
    await this.#wait(milliseconds);
  }

  #wait(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      let timer: Timer | null = null;
      this.#wake = () => {
        timer?.cancel();
        this.#wake = null;
        resolve();
      };
      if (this.#stopped) this.#wake();
      else timer = this.#clock.after(milliseconds, this.#wake);
    });
  }
}

/** By what was seen last, else by how many references there are for its size: a file of many small messages is looked at late. */
function likelyShare({ file, liveBytes, references }: Appraisal): number {
  return (liveBytes ?? references * 1024) / file.bytes;
}

/** A file that was just written: all of it lives. */
function appraiseWhole(file: LogFile, groups: ReadonlyMap<number, GroupLog>, live: Liveness) {
  const { references, unknownBytes } = appraise(file, groups, live);
  return { references, bytes: file.bytes - unknownBytes };
}

function reduce(entry: RawEntry, { ordinals }: KeptEntry, live: Liveness): RawEntry {
  const { header, payload } = entry;
  const isData = header.entryKind === EntryKind.data || header.entryKind === EntryKind.remains;
  const remains = ordinals === null || !isData ? payload : live.remains(payload, ordinals);
  if (remains === payload) return entry;
  return {
    header: {
      ...header,
      entryKind: EntryKind.remains,
      payloadBytes: remains.length,
      payloadChecksum: crc32(remains),
    },
    payload: remains,
  };
}
