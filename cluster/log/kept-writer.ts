// Writes kept files: live entries that lie behind a compaction point, each whole, in files of their own beside the log's stream. They
// count only once a checkpoint record in the log, or the manifest, names them; until then they are garbage that the next start removes.

import type { Clock, Disk, DiskFile } from '../ports.ts';
import { FileKind, RecordKind, recordHeaderBytes, viewOf, writeRecordHeader } from './codec.ts';
import { decodeConfiguration } from './configuration.ts';
import { type LogFile, logFolder, sealFile } from './files.ts';
import type { RawEntry } from './reads.ts';
import { writeAll } from './whole-files.ts';
import { createLogFile, type Identity, newLogFile } from './writer.ts';

/** Gathered before it is written. */
const gatherBytesMax = 1024 * 1024;

export class KeptWriter {
  readonly files: LogFile[] = [];
  readonly #disk: Disk;
  readonly #clock: Clock;
  readonly #identity: Identity;
  readonly #fileBytesMax: number;
  readonly #nextSequence: () => number;
  #handle: DiskFile | null = null;
  #buffers: Buffer[] = [];
  #gathered = 0;

  constructor(disk: Disk, clock: Clock, identity: Identity, fileBytesMax: number, nextSequence: () => number) {
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
    writeRecordHeader(
      head,
      viewOf(head),
      0,
      file.salt,
      RecordKind.kept,
      header.entryKind,
      group,
      replica,
      index,
      term,
      0,
      header.stamp,
      header.stateHash,
      header.machineVersion,
      payload.length,
      header.payloadChecksum,
      0,
    );
    file.index.add(group, replica, index, term, 0, file.bytes, payload.length, true);
    if (header.entryKind === 3)
      file.index.group(group, replica).configurations.set(index, decodeConfiguration(payload));
    file.bytes += bytes;
    this.#buffers.push(head, payload);
    this.#gathered += bytes;
    if (this.#gathered >= gatherBytesMax) await this.#flush(file);
  }

  /** All files are sealed and durable, their names too. */
  async finish(): Promise<void> {
    if (this.#handle !== null) await this.#seal();
    await this.#disk.syncFolder(logFolder);
  }

  async abort(): Promise<void> {
    await this.#handle?.close();
    this.#handle = null;
    for (const file of this.files) await this.#disk.remove(file.path);
  }

  async #open(): Promise<void> {
    const file = newLogFile(this.#identity, this.#nextSequence(), FileKind.kept, this.#clock.wall());
    this.#handle = await createLogFile(this.#disk, this.#identity, file, 0);
    this.files.push(file);
  }

  async #flush(file: LogFile): Promise<void> {
    const buffers = this.#buffers;
    const at = file.bytes - this.#gathered;
    this.#buffers = [];
    this.#gathered = 0;
    if (buffers.length > 0) await writeAll(this.#handle!, buffers, at);
  }

  async #seal(): Promise<void> {
    const file = this.files[this.files.length - 1]!;
    const handle = this.#handle!;
    await this.#flush(file);
    await sealFile(file, handle);
    await handle.close();
    this.#handle = null;
  }
}
