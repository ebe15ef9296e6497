// Snapshot files: `snapshots/<group>-<index>-<term>`. One can be sent as it is.
//
//   0 u32 magic 'WRSN' | 4 u16 version | 6 u16 0 | 8 u32 checksum of header and configuration, this field as 0 | 12 u32 group
//   16 u64 index | 24 u64 term | 32 u32 bytes of a chunk | 36 u32 bytes of the configuration
//   40 configuration | state | u32 crc32 of each chunk of the state | trailer
//
//   trailer: 0 u32 magic 'WRSE' | 4 u64 bytes of the state | 12 u32 crc32 of the chunks' checksums and of bytes 0..12
//
// How long the state is stands at the end: it is made while it is being written, one piece for every write that completes, so that neither
// memory nor a turn of the event loop ever holds more than a piece.
//
// Written to a temporary name, synced, read back and checked, renamed, and the folder synced: a name without `.tmp` is whole.

import { crc32 } from 'node:zlib';
import type { SnapshotMeta } from 'raft-ts';
import type { Disk, DiskFile } from '../ports.ts';
import { readU64, viewOf, writeU64 } from './codec.ts';
import { decodeConfiguration, encodeConfiguration } from './configuration.ts';
import { LogError } from './errors.ts';
import { snapshotFolder } from './files.ts';
import type { PieceSource } from './types.ts';
import { readBytes, removeIfPresent, syncFile, writeAll } from './whole-files.ts';

const magic = 0x4e535257;
const trailerMagic = 0x45535257;
const version = 2;
const headerBytes = 40;
const trailerBytes = 16;
/** What a state is asked for at a time. */
const pieceBytes = 64 * 1024;
/** Checked, read and copied in pieces of this size, each in its own turn of the event loop. */
export const snapshotChunkBytes = 512 * 1024;
/** Synced piece by piece: 100 MB that go to the disk all at once hold up what publishers wait for. */
const unsyncedBytesMax = 1024 * 1024;

export interface SnapshotInfo {
  readonly group: number;
  readonly meta: SnapshotMeta;
  readonly stateOffset: number;
  readonly stateBytes: number;
  readonly chunkBytes: number;
}

export function snapshotPath(group: number, index: number, term: number): string {
  return `${snapshotFolder}/${group}-${index}-${term}`;
}

export function parseSnapshotName(
  name: string,
): { readonly group: number; readonly index: number; readonly term: number } | null {
  const match = /^(\d+)-(\d+)-(\d+)$/.exec(name);
  if (match === null) return null;
  return { group: Number(match[1]), index: Number(match[2]), term: Number(match[3]) };
}

function encodeHeader(group: number, meta: SnapshotMeta): Buffer {
  const configuration = encodeConfiguration(meta.configuration);
  const bytes = Buffer.alloc(headerBytes + configuration.length);
  const view = viewOf(bytes);
  view.setUint32(0, magic, true);
  view.setUint16(4, version, true);
  view.setUint32(12, group, true);
  writeU64(view, 16, meta.index);
  writeU64(view, 24, meta.term);
  view.setUint32(32, snapshotChunkBytes, true);
  view.setUint32(36, configuration.length, true);
  configuration.copy(bytes, headerBytes);
  view.setUint32(8, crc32(bytes), true);
  return bytes;
}

/** Follows the checksums of all chunks, whose own checksum it ends. */
function encodeTrailer(stateBytes: number, tableChecksum: number): Buffer {
  const bytes = Buffer.alloc(trailerBytes);
  const view = viewOf(bytes);
  view.setUint32(0, trailerMagic, true);
  writeU64(view, 4, stateBytes);
  view.setUint32(12, crc32(bytes.subarray(0, 12), tableChecksum), true);
  return bytes;
}

/**
 * Reads and checks the header, and what the trailer says of the length, of the snapshot that lies in [base, base + bytes) of an open file.
 * `path` is for errors.
 */
export async function readSnapshotInfo(
  handle: DiskFile,
  base: number,
  bytes: number,
  path: string,
): Promise<SnapshotInfo> {
  const damaged = (what: string) => new LogError('corrupt', `snapshot: ${what}`, path, base);
  const start = await readBytes(handle, base, headerBytes);
  if (start.length < headerBytes || start.readUInt32LE(0) !== magic) throw damaged('not a snapshot');
  if (start.readUInt16LE(4) !== version) throw new LogError('version', 'snapshot version is not known', path);
  const configurationBytes = start.readUInt32LE(36);
  if (configurationBytes > 0x1_0000) throw damaged('header is damaged');
  const whole = Buffer.concat([start, await readBytes(handle, base + headerBytes, configurationBytes)]);
  whole.fill(0, 8, 12);
  if (whole.length !== headerBytes + configurationBytes || crc32(whole) !== start.readUInt32LE(8))
    throw damaged('header is damaged');
  const view = viewOf(whole);
  const chunkBytes = view.getUint32(32, true);
  if (chunkBytes === 0) throw damaged('header makes no sense');
  const stateOffset = headerBytes + configurationBytes;
  const trailer = await readBytes(handle, base + bytes - trailerBytes, trailerBytes);
  if (trailer.length < trailerBytes || trailer.readUInt32LE(0) !== trailerMagic)
    throw damaged('cut, or its end is damaged');
  const stateBytes = readU64(viewOf(trailer), 4);
  const chunks = Math.ceil(stateBytes / chunkBytes);
  if (stateOffset + stateBytes + 4 * chunks + trailerBytes !== bytes) throw damaged('cut, or its end is damaged');
  const meta = {
    index: readU64(view, 16),
    term: readU64(view, 24),
    configuration: decodeConfiguration(whole.subarray(headerBytes)),
  };
  return { group: view.getUint32(12, true), meta, stateOffset, stateBytes, chunkBytes };
}

/** Takes the next bytes of a state. */
export type TakeState = (bytes: Buffer, isLast: boolean) => Promise<void>;

/** Checks every byte of the snapshot in [base, base + bytes). `take` gets its state, piece by piece, each when it was checked. */
export async function checkSnapshot(
  handle: DiskFile,
  base: number,
  bytes: number,
  path: string,
  take: TakeState = ignoreState,
): Promise<void> {
  const { stateOffset, stateBytes, chunkBytes } = await readSnapshotInfo(handle, base, bytes, path);
  const chunks = Math.ceil(stateBytes / chunkBytes);
  const stateStart = base + stateOffset;
  const tableStart = stateStart + stateBytes;
  const end = await readBytes(handle, tableStart, 4 * chunks + trailerBytes);
  const damaged = (offset: number) =>
    new LogError('corrupt', 'snapshot: bytes do not match their checksum', path, offset);
  const complete = end.length === 4 * chunks + trailerBytes;
  if (!complete || crc32(end.subarray(0, -4)) !== end.readUInt32LE(end.length - 4)) throw damaged(tableStart);
  for (let chunk = 0; chunk < chunks; chunk++) {
    const at = chunk * chunkBytes;
    const length = Math.min(chunkBytes, stateBytes - at);
    const piece = await readBytes(handle, stateStart + at, length);
    if (piece.length !== length || crc32(piece) !== end.readUInt32LE(4 * chunk)) throw damaged(stateStart + at);
    await take(piece, chunk === chunks - 1);
  }
  if (chunks === 0) await take(Buffer.alloc(0), true);
}

async function ignoreState(): Promise<void> {}

/** A file that is written from its start, and synced now and then. */
class SteadyWriter {
  readonly #handle: DiskFile;
  #at = 0;
  #unsynced = 0;

  constructor(handle: DiskFile) {
    this.#handle = handle;
  }

  async add(bytes: Buffer): Promise<void> {
    await writeAll(this.#handle, [bytes], this.#at);
    this.#at += bytes.length;
    this.#unsynced += bytes.length;
    if (this.#unsynced >= unsyncedBytesMax) await this.sync();
  }

  async sync(): Promise<void> {
    this.#unsynced = 0;
    await syncFile(this.#handle);
  }
}

/** A state on its way into its file. */
class StateWriter {
  readonly #file: SteadyWriter;
  #stateBytes = 0;
  readonly #checksums: number[] = [];
  #chunkFilled = 0;
  #chunkChecksum = 0;

  constructor(file: SteadyWriter) {
    this.#file = file;
  }

  async add(piece: Buffer): Promise<void> {
    for (let from = 0; from < piece.length; ) {
      const part = piece.subarray(from, from + snapshotChunkBytes - this.#chunkFilled);
      this.#chunkChecksum = crc32(part, this.#chunkChecksum);
      this.#chunkFilled += part.length;
      this.#stateBytes += part.length;
      if (this.#chunkFilled === snapshotChunkBytes) this.#endChunk();
      await this.#file.add(part);
      from += part.length;
    }
  }

  async end(): Promise<void> {
    if (this.#chunkFilled > 0) this.#endChunk();
    const table = Buffer.alloc(4 * this.#checksums.length);
    for (let i = 0; i < this.#checksums.length; i++) table.writeUInt32LE(this.#checksums[i]!, 4 * i);
    await this.#file.add(Buffer.concat([table, encodeTrailer(this.#stateBytes, crc32(table))]));
  }

  #endChunk(): void {
    this.#checksums.push(this.#chunkChecksum);
    this.#chunkChecksum = 0;
    this.#chunkFilled = 0;
  }
}

/**
 * Writes a snapshot durably under its name. `turn` resolves in a later turn of the event loop: a piece may come out empty, when its source
 * had other things to do. Closes the pieces when it has them all.
 */
export async function writeSnapshotFile(
  disk: Disk,
  group: number,
  meta: SnapshotMeta,
  pieces: PieceSource,
  turn: () => Promise<void>,
): Promise<void> {
  await replaceFile(disk, snapshotPath(group, meta.index, meta.term), async (file) => {
    await file.add(encodeHeader(group, meta));
    const state = new StateWriter(file);
    for (let piece = pieces.next(pieceBytes); piece !== null; piece = pieces.next(pieceBytes))
      await (piece.length > 0 ? state.add(piece) : turn());
    pieces.close();
    await state.end();
  });
}

/** Takes a snapshot that was received into another file over into its own. */
export async function copySnapshotFile(
  disk: Disk,
  source: DiskFile,
  base: number,
  bytes: number,
  path: string,
): Promise<void> {
  await replaceFile(disk, path, async (file) => {
    for (let at = 0; at < bytes; at += snapshotChunkBytes)
      await file.add(await readBytes(source, base + at, Math.min(snapshotChunkBytes, bytes - at)));
  });
}

async function replaceFile(disk: Disk, path: string, fill: (file: SteadyWriter) => Promise<void>): Promise<void> {
  const temporary = `${path}.tmp`;
  await removeIfPresent(disk, temporary);
  const handle = await disk.open(temporary, 'create');
  try {
    const file = new SteadyWriter(handle);
    await fill(file);
    await file.sync();
    await checkSnapshot(handle, 0, handle.size, temporary);
  } catch (error) {
    await handle.close();
    // What fails to go now is removed at the next start.
    await removeIfPresent(disk, temporary).catch(() => {});
    throw error;
  }
  await handle.close();
  await disk.rename(temporary, path);
  await disk.syncFolder(snapshotFolder);
}
