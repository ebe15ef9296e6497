// A snapshot on its way to another node: one stream of bytes, the same for the same snapshot.
//
//   header (64) | kept records: 80-byte record headers (salt 0, replica 0) with payloads, by index | the snapshot file as it is
//
//   header:  0 u32 magic 'WRSS' | 4 u16 version | 6 u16 0 | 8 u32 checksum of bytes 12..64 | 12 u32 group | 16 u64 index | 24 u64 term
//           32 u64 live above | 40 u64 entries | 48 u64 bytes of the records | 56 u64 bytes of the snapshot file
//
// The sender pins the snapshot file and every log file that an entry comes from until the reader is closed. The receiver
// believes nothing before all of it was checked.

import { crc32 } from 'node:zlib';
import type { SnapshotMeta } from 'raft-ts';
import type { DiskFile } from '../ports.ts';
import {
  RecordKind,
  readRecordHeader,
  readU64,
  recordHeaderBytes,
  shortChecksum,
  viewOf,
  writeRecordHeader,
  writeU64,
} from './codec.ts';
import { LogError } from './errors.ts';
import { type Run, recordBytes } from './file-index.ts';
import type { LogFile } from './files.ts';
import type { Location, RawEntry, Reads } from './reads.ts';
import { snapshotChunkBytes } from './snapshot-file.ts';
import type { SnapshotReader } from './types.ts';
import { readBytes } from './whole-files.ts';

const magic = 0x53535257;
const version = 1;
export const streamHeaderBytes = 64;

export interface StreamHeader {
  readonly group: number;
  readonly index: number;
  readonly term: number;
  readonly liveAbove: number;
  readonly entries: number;
  readonly recordsBytes: number;
  readonly snapshotBytes: number;
}

function encodeStreamHeader(header: StreamHeader): Buffer {
  const bytes = Buffer.alloc(streamHeaderBytes);
  const view = viewOf(bytes);
  view.setUint32(0, magic, true);
  view.setUint16(4, version, true);
  view.setUint32(12, header.group, true);
  writeU64(view, 16, header.index);
  writeU64(view, 24, header.term);
  writeU64(view, 32, header.liveAbove);
  writeU64(view, 40, header.entries);
  writeU64(view, 48, header.recordsBytes);
  writeU64(view, 56, header.snapshotBytes);
  view.setUint32(8, shortChecksum(bytes, 12, streamHeaderBytes, 0), true);
  return bytes;
}

export async function readStreamHeader(handle: DiskFile, path: string): Promise<StreamHeader> {
  const bytes = await readBytes(handle, 0, streamHeaderBytes);
  const view = viewOf(bytes);
  const whole = bytes.length === streamHeaderBytes && view.getUint32(0, true) === magic;
  if (!whole) throw new LogError('invalid', 'not a snapshot stream', path, 0);
  if (view.getUint16(4, true) !== version) throw new LogError('version', 'snapshot stream version is not known', path);
  if (shortChecksum(bytes, 12, streamHeaderBytes, 0) !== view.getUint32(8, true))
    throw new LogError('invalid', 'snapshot stream header is damaged', path, 0);
  return {
    group: view.getUint32(12, true),
    index: readU64(view, 16),
    term: readU64(view, 24),
    liveAbove: readU64(view, 32),
    entries: readU64(view, 40),
    recordsBytes: readU64(view, 48),
    snapshotBytes: readU64(view, 56),
  };
}

export interface LiveEntry {
  readonly index: number;
  readonly run: Run;
  readonly slot: number;
}

/** The sending side. `release` lets the snapshot file go. */
export class StreamReader implements SnapshotReader {
  readonly meta: SnapshotMeta;
  readonly #header: Buffer;
  readonly #group: number;
  readonly #entries: readonly LiveEntry[];
  /** Offset in the stream of each record, and of the snapshot file after the last. */
  readonly #offsets: Float64Array;
  readonly #bytes: number;
  readonly #reads: Reads;
  readonly #file: DiskFile;
  readonly #pinned = new Set<LogFile>();
  readonly #release: () => void;
  #closed = false;

  constructor(
    group: number,
    meta: SnapshotMeta,
    liveAbove: number,
    entries: readonly LiveEntry[],
    file: DiskFile,
    reads: Reads,
    release: () => void,
  ) {
    this.meta = meta;
    this.#group = group;
    this.#entries = entries;
    this.#reads = reads;
    this.#file = file;
    this.#release = release;
    this.#offsets = new Float64Array(entries.length + 1);
    let at = streamHeaderBytes;
    for (let i = 0; i < entries.length; i++) {
      const { run, slot } = entries[i]!;
      this.#offsets[i] = at;
      at += recordBytes(run, slot);
      this.#pinned.add(run.file);
    }
    this.#offsets[entries.length] = at;
    for (const pinned of this.#pinned) pinned.pins++;
    const recordsBytes = at - streamHeaderBytes;
    this.#bytes = at + file.size;
    const { index, term } = meta;
    const header = { group, index, term, liveAbove, entries: entries.length, recordsBytes, snapshotBytes: file.size };
    this.#header = encodeStreamHeader(header);
  }

  read(offset: number, bytesMax: number, done: (error: Error | null, bytes: Buffer, end: boolean) => void): void {
    const failed = (error: Error) => done(error, Buffer.alloc(0), false);
    if (this.#closed) return failed(new LogError('closed', 'snapshot reader is closed'));
    const end = Math.min(this.#bytes, offset + bytesMax);
    if (offset < 0 || offset > this.#bytes) return failed(new LogError('invalid', 'offset is outside of the stream'));
    const finish = (pieces: readonly Buffer[]) =>
      done(null, pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces), end === this.#bytes);
    this.#readRecords(offset, end, (error, records) => {
      if (error !== null) return failed(error);
      const pieces = offset < streamHeaderBytes ? [this.#header.subarray(offset, end), ...records] : records;
      const fileStart = this.#offsets[this.#entries.length]!;
      if (end <= fileStart) return finish(pieces);
      const from = Math.max(0, offset - fileStart);
      this.#file.read(from, end - fileStart - from, (failure, bytes) => {
        if (failure !== null) return failed(failure);
        finish([...pieces, bytes]);
      });
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const pinned of this.#pinned) pinned.pins--;
    this.#pinned.clear();
    // Nothing was written: an error of closing says nothing.
    this.#file.close().then(this.#release, this.#release);
  }

  /** The bytes of records that lie in [offset, end) of the stream. */
  #readRecords(offset: number, end: number, done: (error: Error | null, pieces: Buffer[]) => void): void {
    const offsets = this.#offsets;
    const count = this.#entries.length;
    let first = 0;
    let high = count;
    while (first < high) {
      const middle = (first + high) >> 1;
      if (offsets[middle + 1]! <= offset) first = middle + 1;
      else high = middle;
    }
    const locations: Location[] = [];
    for (let i = first; i < count && offsets[i]! < end; i++) locations.push({ place: i - first, ...this.#entries[i]! });
    const pieces: Buffer[] = new Array(locations.length);
    const take = (place: number, entry: RawEntry) => {
      const start = offsets[first + place]!;
      const bytes = encodeKept(entry);
      pieces[place] = bytes.subarray(Math.max(0, offset - start), Math.min(bytes.length, end - start));
    };
    this.#reads.readAll(this.#group, locations, take, (error) => done(error, pieces));
  }
}

function encodeKept({ header, payload }: RawEntry): Buffer {
  const bytes = Buffer.allocUnsafe(recordHeaderBytes + payload.length);
  payload.copy(bytes, recordHeaderBytes);
  writeRecordHeader(
    bytes,
    viewOf(bytes),
    0,
    0,
    RecordKind.kept,
    header.entryKind,
    header.group,
    0,
    header.index,
    header.term,
    0,
    header.stamp,
    header.stateHash,
    header.machineVersion,
    payload.length,
    header.payloadChecksum,
    0,
  );
  return bytes;
}

/** The receiving side: walks through the kept records of a stream that was received whole, and checks them. */
export async function readKeptRecords(
  handle: DiskFile,
  path: string,
  header: StreamHeader,
  take: (entry: RawEntry) => Promise<void>,
): Promise<void> {
  const end = streamHeaderBytes + header.recordsBytes;
  const damaged = (at: number) => new LogError('invalid', 'record in the snapshot stream is damaged', path, at);
  let at = streamHeaderBytes;
  let previous = header.liveAbove;
  let window: Buffer = Buffer.alloc(0);
  let windowStart = at;
  const bytesAt = async (offset: number, length: number): Promise<Buffer> => {
    if (offset + length > windowStart + window.length) {
      window = await readBytes(handle, offset, Math.max(length, snapshotChunkBytes));
      windowStart = offset;
    }
    return window.subarray(offset - windowStart, offset - windowStart + length);
  };
  for (let entries = 0; entries < header.entries; entries++) {
    const head = await bytesAt(at, recordHeaderBytes);
    const record = readRecordHeader(head, viewOf(head), 0, 0);
    if (record === null || record.kind !== RecordKind.kept || record.group !== header.group) throw damaged(at);
    const next = at + recordHeaderBytes + record.payloadBytes;
    if (next > end || record.index <= previous || record.index > header.index) throw damaged(at);
    const payload = await bytesAt(at + recordHeaderBytes, record.payloadBytes);
    if (payload.length !== record.payloadBytes || crc32(payload) !== record.payloadChecksum) throw damaged(at);
    await take({ header: record, payload });
    previous = record.index;
    at = next;
  }
  if (at !== end) throw damaged(at);
}
