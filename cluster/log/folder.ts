// The files of the log's folder: how they come, which of them count, and how they go.
//
//   comes:  made by a writer, counts from its first record on  |  kept file, counts once a record or the manifest says so (`add`)
//   goes:   out of memory ──► what it is dead by is committed, durably ──► out of the manifest ──► when nobody reads it any more, off the
//           disk; a rotten one is moved aside instead
//
// State owned: the files that count, the next sequence, descriptors of sealed files, files that are leaving, names of damaged ones that were
// moved aside.
// Invariants: nothing is removed from the disk that a durable manifest names, or that somebody reads; a sequence is given out once.

import type { Clock, Disk } from '../ports.ts';
import { FileKind } from './codec.ts';
import { findGarbage, findPressed, isPartOf, pressureHorizon } from './collector.ts';
import type { Captured } from './covered.ts';
import { listSetAside, setAside } from './damage.ts';
import { type LogFile, OpenFiles } from './files.ts';
import type { GroupLog } from './group.ts';
import { type KeptKind, KeptWriter } from './kept-writer.ts';
import type { Life } from './life.ts';
import type { ManifestKeeper } from './manifest-keeper.ts';
import type { LiveEntries, LogOptions } from './types.ts';
import { removeIfPresent } from './whole-files.ts';
import { Writer } from './writer.ts';

/** Sealed files that keep a descriptor for reading. */
const openFilesMax = 64;

export interface FolderContext {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly options: LogOptions;
  readonly life: Life;
  readonly manifest: ManifestKeeper;
  readonly groups: ReadonlyMap<number, GroupLog>;
  /** Entries of this group after its snapshot pin old files. */
  pressed(group: number): void;
  /** Resolves when it is durable that the groups' entries up to these are committed. */
  commit(applied: ReadonlyMap<GroupLog, number>): Promise<void>;
}

export class LogFolder {
  readonly #context: FolderContext;
  readonly openFiles: OpenFiles;
  /** In order, kept files among them by sequence. */
  #files: LogFile[];
  #nextSequence: number;
  #sealedFiles = 0;
  /** Files that nothing names any more, and that somebody reads. */
  readonly #leaving = new Set<LogFile>();
  #collecting: Promise<void> = Promise.resolve();
  #setAside: string[] = [];

  constructor(context: FolderContext, found: { readonly files: readonly LogFile[]; readonly nextSequence: number }) {
    this.#context = context;
    this.openFiles = new OpenFiles(context.disk, openFilesMax);
    this.#files = [...found.files].sort(bySequence);
    this.#nextSequence = found.nextSequence;
  }

  /** Those that count, by sequence. */
  get files(): readonly LogFile[] {
    return this.#files;
  }
  /** Sequences below it were given out. */
  get nextSequence(): number {
    return this.#nextSequence;
  }
  /** Damaged files that were moved aside. */
  get setAside(): readonly string[] {
    return this.#setAside;
  }
  /** Sequence of the last log file; 0: there is none. */
  get lastLogFile(): number {
    return this.#files.findLast((file) => file.kind === FileKind.log)?.sequence ?? 0;
  }

  /** Writes the first manifest of this run and moves aside what was found damaged. */
  async begin(damaged: readonly string[]): Promise<void> {
    const { disk, manifest } = this.#context;
    const isManifest = (path: string) => !path.includes('/');
    // What is damaged is remembered before the files that show it are gone; a copy of the manifest is about to be replaced.
    for (const path of damaged) if (isManifest(path)) await this.moveAside(path);
    await manifest.write();
    for (const path of damaged) if (!isManifest(path)) await this.moveAside(path);
    this.#setAside = await listSetAside(disk);
  }

  // ---- files that come ----

  /** A name that no other file or reset has. */
  readonly takeSequence = (): number => this.#nextSequence++;

  /** Of a stream of files, the durable one or the volatile one. `durable`: more of it became durable. */
  newWriter(kind: typeof FileKind.log | typeof FileKind.volatile, durable: () => void): Writer {
    const { disk, clock, options, life, manifest } = this.#context;
    const isLog = kind === FileKind.log;
    return new Writer(disk, clock, manifest.owner, kind, options.fileBytesMax, this.takeSequence, {
      rotating: (file) => (isLog ? manifest.capture(file.sequence) : null),
      sealed: (file, captured) => {
        if (isLog) this.#logSealed(file, captured as Captured);
        else this.openFiles.adopt(file);
      },
      opened: (file) => this.add(file),
      durable,
      failed: (error) => life.fail(error),
    });
  }

  #logSealed(file: LogFile, captured: Captured): void {
    this.#context.manifest.cover(captured);
    this.#sealedFiles++;
    this.openFiles.adopt(file);
    this.#tellPressed();
  }

  newKeptWriter(kind: KeptKind): KeptWriter {
    const { disk, clock, manifest, options: limits } = this.#context;
    return new KeptWriter(disk, clock, manifest.owner, limits.fileBytesMax, this.takeSequence, kind);
  }

  /** The file counts from now on. */
  add(file: LogFile): void {
    this.#files.push(file);
    this.#files.sort(bySequence);
  }

  // ---- files that go ----

  /** Log files before this sequence are beyond what may be there of them; 0: there are none. */
  get pressureHorizon(): number {
    return pressureHorizon(this.#files, this.#context.options.pressureBytes);
  }

  /** Lets the files go that nobody needs. One such round follows the other. */
  collect(live: LiveEntries): Promise<void> {
    this.#collecting = this.#collecting.then(() => this.#collect(live));
    return this.#context.life.track(this.#collecting);
  }

  async #collect(live: LiveEntries): Promise<void> {
    const { groups, life, manifest } = this.#context;
    if (!life.isOpen) return;
    this.#tellPressed();
    await this.removeLeaving();
    const garbage = findGarbage(this.#files, groups, manifest.coveredTo, live);
    if (garbage.length > 0) await this.#discard(garbage, live);
  }

  #tellPressed(): void {
    const { groups, pressed } = this.#context;
    const horizon = this.pressureHorizon;
    if (horizon === 0) return;
    for (const group of findPressed(groups.values(), horizon, this.#sealedFiles)) pressed(group);
  }

  /** At once: the new files, which are durable and hold what lives of the old ones, count instead of them. Resolves when that is durable. */
  replace(old: ReadonlySet<LogFile>, kept: readonly LogFile[], live: LiveEntries): Promise<void> {
    for (const file of kept) {
      for (const part of file.index.groups.values()) this.#context.groups.get(part.group)!.kept.push(...part.runs);
      this.add(file);
    }
    return this.#discard([...old], live);
  }

  /** Files leave memory, then the manifest, then the disk; those that are still read later. */
  async #discard(files: readonly LogFile[], live: LiveEntries): Promise<void> {
    const { groups, manifest, commit } = this.#context;
    const applied = new Map<GroupLog, number>();
    for (const file of files)
      for (const part of file.index.groups.values()) {
        const group = groups.get(part.group);
        if (isPartOf(group, part, file) && !group.isVolatile) applied.set(group, live.applied(part.group));
      }
    for (const file of files) file.doomed = true;
    for (const group of groups.values()) group.forget((file) => file.doomed);
    this.#files = this.#files.filter((file) => !file.doomed);
    if (files.some((file) => file.kind !== FileKind.volatile)) {
      await commit(applied);
      await manifest.save();
    }
    for (const file of files) {
      if (file.pins > 0) this.#leaving.add(file);
      else await this.#remove(file);
    }
  }

  /** Those that nobody reads any more. */
  async removeLeaving(): Promise<void> {
    for (const file of [...this.#leaving])
      if (file.pins === 0 && !this.#context.life.isClosed) await this.#remove(file);
  }

  async #remove(file: LogFile): Promise<void> {
    this.#leaving.delete(file);
    await this.openFiles.close(file);
    if (file.isDamaged) await this.moveAside(file.path);
    else await removeIfPresent(this.#context.disk, file.path);
  }

  /** What is rotten is not removed: somebody may want to see it. */
  readonly moveAside = async (path: string): Promise<void> => {
    const { disk, manifest } = this.#context;
    this.#setAside.push(await setAside(disk, path, manifest.lastGeneration));
  };

  /** Nothing of this volatile group is of use any more. */
  forgetVolatile(group: number): void {
    for (const file of this.#files) if (file.kind === FileKind.volatile) file.index.groups.delete(group);
  }

  /** What fails to go now is removed at the next start. */
  async removeVolatile(): Promise<void> {
    for (const file of this.#files) {
      if (file.kind !== FileKind.volatile) continue;
      await this.openFiles.close(file);
      await removeIfPresent(this.#context.disk, file.path).catch(() => {});
    }
  }
}

const bySequence = (a: LogFile, b: LogFile): number => a.sequence - b.sequence;
