// Log files and their descriptors. State owned: per file its place in the sequence, size, index and pins; which sealed files are open.
//
// Invariants: a file is removed only while nobody pins it; at most `openFilesMax` sealed files have a descriptor, unless more are being
// read; the file being written keeps its own.

import type { Disk, DiskFile } from '../ports.ts';
import { encodeTrailer, type FileKind } from './codec.ts';
import { FileIndex } from './file-index.ts';
import { syncFile, writeAll } from './whole-files.ts';

export const logFolder = 'log';
export const snapshotFolder = 'snapshots';

const suffixes = ['log', 'kept', 'volatile'] as const;

/** Zero-padded so that names sort like numbers. */
export function logFilePath(sequence: number, kind: FileKind): string {
  return `${logFolder}/${String(sequence).padStart(10, '0')}.${suffixes[kind]}`;
}

/** The sequence and kind in a file's name, or null for a foreign name. */
export function parseLogFileName(name: string): { readonly sequence: number; readonly kind: FileKind } | null {
  const match = /^(\d{10})\.(log|kept|volatile)$/.exec(name);
  if (match === null) return null;
  return { sequence: Number(match[1]), kind: suffixes.indexOf(match[2] as (typeof suffixes)[number]) as FileKind };
}

export class LogFile {
  readonly sequence: number;
  readonly kind: FileKind;
  readonly path: string;
  readonly salt: number;
  readonly headerBytes: number;
  /** End of what was gathered for this file; of the whole file once it is sealed. */
  bytes: number;
  index: FileIndex;
  /** The footer is durable, or the file is volatile and written to its end: it never changes again. */
  sealed = false;
  /** Readers under way and open snapshot streams. */
  pins = 0;
  /** The manifest no longer names it: it is being removed. */
  doomed = false;
  /** Bytes of it are known to be rotten: it is never removed, only moved aside. */
  isDamaged = false;
  /** What lived in it when that was last looked at: references to messages, and the bytes that a rewriting would have left. */
  live: { readonly references: number; readonly bytes: number } | null = null;
  /** Kept files: the log file that holds the record which made it count. */
  committedIn = 0;
  /** Log files: bytes of the kept files that its records made count. Those stay at least until this one is sealed. */
  committedBytes = 0;
  handle: DiskFile | null = null;

  constructor(sequence: number, kind: FileKind, salt: number, headerBytes: number) {
    this.sequence = sequence;
    this.kind = kind;
    this.path = logFilePath(sequence, kind);
    this.salt = salt;
    this.headerBytes = headerBytes;
    this.bytes = headerBytes;
    this.index = new FileIndex(this);
  }

  /** No record was gathered. */
  get isEmpty(): boolean {
    return this.bytes === this.headerBytes;
  }

  /** Ends the index; what belongs behind the last record: index and trailer, in one piece. */
  encodeFooter(): Buffer {
    this.index.finish();
    const footer = this.index.encode();
    return Buffer.concat([footer, encodeTrailer(footer, this.bytes, this.salt)]);
  }
}

/** Writes the footer behind the last record and syncs: the file never changes again. For files that no write is under way to. */
export async function sealFile(file: LogFile, handle: DiskFile): Promise<void> {
  const footer = file.encodeFooter();
  await writeAll(handle, [footer], file.bytes);
  await syncFile(handle);
  file.bytes += footer.length;
  file.sealed = true;
}

/** Descriptors of sealed files, opened when they are read, the least recently used closed first. */
export class OpenFiles {
  readonly #disk: Disk;
  readonly #openMax: number;
  /** In order of use, the latest last. */
  readonly #open = new Map<LogFile, DiskFile>();
  readonly #opening = new Map<LogFile, ((error: Error | null, handle: DiskFile | null) => void)[]>();

  constructor(disk: Disk, openMax: number) {
    this.#disk = disk;
    this.#openMax = openMax;
  }

  /** Takes over the descriptor of a file that was just sealed. */
  adopt(file: LogFile): void {
    if (file.handle === null) return;
    this.#open.set(file, file.handle);
    this.#shrink();
  }

  /** The file must be pinned until the reading is done. */
  acquire(file: LogFile, done: (error: Error | null, handle: DiskFile | null) => void): void {
    if (file.handle !== null) {
      if (this.#open.delete(file)) this.#open.set(file, file.handle);
      return done(null, file.handle);
    }
    const waiting = this.#opening.get(file);
    if (waiting !== undefined) return void waiting.push(done);
    const waiters = [done];
    this.#opening.set(file, waiters);
    this.#disk.open(file.path, 'read').then(
      (handle) => {
        this.#opening.delete(file);
        file.handle = handle;
        this.adopt(file);
        for (const waiter of waiters) waiter(null, handle);
      },
      (error: Error) => {
        this.#opening.delete(file);
        for (const waiter of waiters) waiter(error, null);
      },
    );
  }

  async close(file: LogFile): Promise<void> {
    this.#open.delete(file);
    const { handle } = file;
    file.handle = null;
    await handle?.close();
  }

  async closeAll(): Promise<void> {
    for (const file of [...this.#open.keys()]) await this.close(file);
  }

  #shrink(): void {
    if (this.#open.size <= this.#openMax) return;
    for (const file of this.#open.keys()) {
      if (file.pins > 0) continue;
      // Nobody reads it: an error of closing says nothing about its bytes.
      this.close(file).catch(() => {});
      if (this.#open.size <= this.#openMax) return;
    }
  }
}
