// Writes kept files: live entries that lie behind a compaction point, whole or what is left of them, in files of their own beside the log's
// stream. They count only once a checkpoint record in the log, or the manifest, names them; until then they are garbage that the next start
// removes. Those of volatile groups are volatile files: never synced, without a footer, named by nobody.

import type { Clock, Disk, DiskFile } from '../ports.ts';
import { EntryKind, FileKind, recordHeaderBytes, writeKeptHeader } from './codec.ts';
import { decodeConfiguration } from './configuration.ts';
import { type LogFile, logFolder, sealFile } from './files.ts';
import type { RawEntry } from './reads.ts';
import { removeIfPresent, writeAll, writeAllDurably } from './whole-files.ts';
import { createLogFile, type FileOwner, newLogFile } from './writer.ts';

/** Gathered before it is written, durably at once: a large sync at the end would hold up those of the log. */
const gatherBytesMax = 1024 * 1024;

export type KeptKind = typeof FileKind.kept | typeof FileKind.volatile;

export class KeptWriter {
  readonly files: LogFile[] = [];
  /** Written so far, or gathered. */
  bytes = 0;
  readonly #kind: KeptKind;
  readonly #disk: Disk;
  readonly #clock: Clock;
  readonly #identity: FileOwner;
  readonly #fileBytesMax: number;
  readonly #nextSequence: () => number;
  #handle: DiskFile | null = null;
  #buffers: Buffer[] = [];
  #gathered = 0;

  constructor(
    disk: Disk,
    clock: Clock,
    identity: FileOwner,
    fileBytesMax: number,
    nextSequence: () => number,
    kind: KeptKind,
  ) {
    this.#kind = kind;
    this.#disk = disk;
    this.#clock = clock;
    this.#identity = identity;
    this.#fileBytesMax = fileBytesMax;
    this.#nextSequence = nextSequence;
  }

  /** Entries come by group, ascending. */
  async add(group: number, replica: number, { header, payload }: RawEntry): Promise<void> {
    const current = this.files[this.files.length - 1];
    const bytes = recordHeaderBytes + payload.length;
    if (this.#handle !== null && current!.bytes + bytes > this.#fileBytesMax) await this.#seal();
    if (this.#handle === null) await this.#open();
    const file = this.files[this.files.length - 1]!;
    const { index, term } = header;
    const head = Buffer.allocUnsafe(recordHeaderBytes);
    writeKeptHeader(head, file.salt, replica, header);
    file.index.add(group, replica, index, term, 0, file.bytes, payload.length, true);
    if (header.entryKind === EntryKind.configuration)
      file.index.group(group, replica).configurations.set(index, decodeConfiguration(payload));
    file.bytes += bytes;
    this.bytes += bytes;
    this.#buffers.push(head, payload);
    this.#gathered += bytes;
    if (this.#gathered >= gatherBytesMax) await this.#flush(file);
  }

  /** All files are sealed and durable, their names too. */
  async finish(): Promise<void> {
    if (this.#handle !== null) await this.#seal();
    if (this.#kind === FileKind.kept) await this.#disk.syncFolder(logFolder);
  }

  async abort(): Promise<void> {
    await this.#handle?.close();
    this.#handle = null;
    for (const file of this.files) await removeIfPresent(this.#disk, file.path);
  }

  async #open(): Promise<void> {
    const file = newLogFile(this.#identity, this.#nextSequence(), this.#kind, this.#clock.wall());
    this.files.push(file);
    this.#handle = await createLogFile(this.#disk, this.#identity, file, 0);
  }

  async #flush(file: LogFile): Promise<void> {
    const buffers = this.#buffers;
    const at = file.bytes - this.#gathered;
    this.#buffers = [];
    this.#gathered = 0;
    if (buffers.length === 0) return;
    await (this.#kind === FileKind.kept ? writeAllDurably : writeAll)(this.#handle!, buffers, at);
  }

  async #seal(): Promise<void> {
    const file = this.files[this.files.length - 1]!;
    const handle = this.#handle!;
    await this.#flush(file);
    if (this.#kind === FileKind.kept) await sealFile(file, handle);
    else {
      file.index.finish();
      file.sealed = true;
    }
    await handle.close();
    this.#handle = null;
  }
}
