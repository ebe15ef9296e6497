// Snapshot files: `snapshots/<group>-<index>-<term>`. The same bytes on every node, so that a file can be sent as it is.
//
//   0 u32 magic 'WRSN' | 4 u16 version | 6 u16 0 | 8 u32 checksum of header and configuration, this field as 0 | 12 u32 group
//   16 u64 index | 24 u64 term | 32 u64 bytes of the state | 40 u32 bytes of a chunk | 44 u32 bytes of the configuration
//   48 configuration | state | u32 crc32 of each chunk of the state | u32 crc32 of those
//
// Written to a temporary name, synced, read back and checked, renamed, and the folder synced: a name without `.tmp` is whole.

import { crc32 } from 'node:zlib';
import type { SnapshotMeta } from 'raft-ts';
import type { Disk, DiskFile } from '../ports.ts';
import { readU64, viewOf, writeU64 } from './codec.ts';
import { decodeConfiguration, encodeConfiguration } from './configuration.ts';
import { LogError } from './errors.ts';
import { snapshotFolder } from './files.ts';
import { readBytes, removeIfPresent, syncFile, writeAll } from './whole-files.ts';

const magic = 0x4e535257;
const version = 1;
const headerBytes = 48;
/** Checked, read and written in pieces of this size, each in its own turn of the event loop. */
export const snapshotChunkBytes = 512 * 1024;

export interface SnapshotInfo {
  readonly group: number;
  readonly meta: SnapshotMeta;
  readonly stateOffset: number;
  readonly stateBytes: number;
  readonly chunkBytes: number;
  /** Of the whole file. */
  readonly bytes: number;
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

function encodeHeader(group: number, meta: SnapshotMeta, stateBytes: number): Buffer {
  const configuration = encodeConfiguration(meta.configuration);
  const bytes = Buffer.alloc(headerBytes + configuration.length);
  const view = viewOf(bytes);
  view.setUint32(0, magic, true);
  view.setUint16(4, version, true);
  view.setUint32(12, group, true);
  writeU64(view, 16, meta.index);
  writeU64(view, 24, meta.term);
  writeU64(view, 32, stateBytes);
  view.setUint32(40, snapshotChunkBytes, true);
  view.setUint32(44, configuration.length, true);
  configuration.copy(bytes, headerBytes);
  view.setUint32(8, crc32(bytes), true);
  return bytes;
}

/** Reads and checks the header of the snapshot file that starts at `base` of an open file. `path` is for errors. */
export async function readSnapshotInfo(handle: DiskFile, base: number, path: string): Promise<SnapshotInfo> {
  const damaged = (what: string) => new LogError('corrupt', `snapshot: ${what}`, path, base);
  const start = await readBytes(handle, base, headerBytes);
  if (start.length < headerBytes || start.readUInt32LE(0) !== magic) throw damaged('not a snapshot');
  if (start.readUInt16LE(4) !== version) throw new LogError('version', 'snapshot version is not known', path);
  const configurationBytes = start.readUInt32LE(44);
  if (configurationBytes > 0x1_0000) throw damaged('header is damaged');
  const whole = Buffer.concat([start, await readBytes(handle, base + headerBytes, configurationBytes)]);
  whole.fill(0, 8, 12);
  if (whole.length !== headerBytes + configurationBytes || crc32(whole) !== start.readUInt32LE(8))
    throw damaged('header is damaged');
  const view = viewOf(whole);
  const stateBytes = readU64(view, 32);
  const chunkBytes = view.getUint32(40, true);
  if (chunkBytes === 0) throw damaged('header makes no sense');
  const chunks = Math.ceil(stateBytes / chunkBytes);
  const meta = {
    index: readU64(view, 16),
    term: readU64(view, 24),
    configuration: decodeConfiguration(whole.subarray(headerBytes)),
  };
  const stateOffset = headerBytes + configurationBytes;
  const bytes = stateOffset + stateBytes + 4 * chunks + 4;
  return { group: view.getUint32(12, true), meta, stateOffset, stateBytes, chunkBytes, bytes };
}

/** Checks every byte of the snapshot that starts at `base`. Returns its state if `keep`, else an empty buffer. */
export async function checkSnapshot(handle: DiskFile, base: number, path: string, keep: boolean): Promise<Buffer> {
  const info = await readSnapshotInfo(handle, base, path);
  const chunks = Math.ceil(info.stateBytes / info.chunkBytes);
  const tableOffset = base + info.stateOffset + info.stateBytes;
  const table = await readBytes(handle, tableOffset, 4 * chunks + 4);
  const damaged = (offset: number) =>
    new LogError('corrupt', 'snapshot: bytes do not match their checksum', path, offset);
  if (table.length !== 4 * chunks + 4 || crc32(table.subarray(0, 4 * chunks)) !== table.readUInt32LE(4 * chunks))
    throw damaged(tableOffset);
  const state = Buffer.allocUnsafeSlow(keep ? info.stateBytes : 0);
  for (let chunk = 0; chunk < chunks; chunk++) {
    const at = chunk * info.chunkBytes;
    const length = Math.min(info.chunkBytes, info.stateBytes - at);
    const bytes = await readBytes(handle, base + info.stateOffset + at, length);
    if (bytes.length !== length || crc32(bytes) !== table.readUInt32LE(4 * chunk))
      throw damaged(base + info.stateOffset + at);
    if (keep) bytes.copy(state, at);
  }
  return state;
}

/** Writes a snapshot durably under its name. The pieces must not change until it resolves. */
export async function writeSnapshotFile(
  disk: Disk,
  group: number,
  meta: SnapshotMeta,
  pieces: readonly Buffer[],
): Promise<void> {
  const stateBytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const path = snapshotPath(group, meta.index, meta.term);
  await replaceFile(disk, path, async (handle) => {
    let at = 0;
    const write = async (buffers: readonly Uint8Array[]) => {
      await writeAll(handle, buffers, at);
      for (const buffer of buffers) at += buffer.length;
    };
    await write([encodeHeader(group, meta, stateBytes)]);
    const checksums: number[] = [];
    for (const chunk of chunked(pieces, snapshotChunkBytes)) {
      checksums.push(chunk.reduce((sum, piece) => crc32(piece, sum), 0));
      await write(chunk);
    }
    const table = Buffer.alloc(4 * checksums.length + 4);
    for (let i = 0; i < checksums.length; i++) table.writeUInt32LE(checksums[i]!, 4 * i);
    table.writeUInt32LE(crc32(table.subarray(0, -4)), table.length - 4);
    await write([table]);
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
  await replaceFile(disk, path, async (handle) => {
    for (let at = 0; at < bytes; at += snapshotChunkBytes) {
      const piece = await readBytes(source, base + at, Math.min(snapshotChunkBytes, bytes - at));
      await writeAll(handle, [piece], at);
    }
  });
}

async function replaceFile(disk: Disk, path: string, fill: (handle: DiskFile) => Promise<void>): Promise<void> {
  const temporary = `${path}.tmp`;
  await removeIfPresent(disk, temporary);
  const handle = await disk.open(temporary, 'create');
  try {
    await fill(handle);
    await syncFile(handle);
    await checkSnapshot(handle, 0, temporary, false);
  } finally {
    await handle.close();
  }
  await disk.rename(temporary, path);
  await disk.syncFolder(snapshotFolder);
}

/** The same bytes, cut into lists of pieces that add up to `bytesMax` each (the last one to less). */
function* chunked(pieces: readonly Buffer[], bytesMax: number): Generator<Buffer[]> {
  let chunk: Buffer[] = [];
  let bytes = 0;
  for (const piece of pieces) {
    for (let at = 0; at < piece.length; ) {
      const part = piece.subarray(at, at + bytesMax - bytes);
      chunk.push(part);
      bytes += part.length;
      at += part.length;
      if (bytes === bytesMax) {
        yield chunk;
        chunk = [];
        bytes = 0;
      }
    }
  }
  if (bytes > 0) yield chunk;
}
