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
  writeKeptHeader,
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

const entriesPerBlock = 4_096;

interface Block {
  /** Where its first record begins in the stream. */
  readonly start: number;
  /** Per entry: its run, by number, and its slot there. */
  readonly runs: Uint32Array;
  readonly slots: Uint32Array;
  count: number;
}

/** The entries of a stream, ascending: a few bytes each, because there may be millions. Pins the files that they lie in, until `release`. */
export class LiveTable {
  readonly #blocks: Block[] = [];
  readonly #runs: Run[] = [];
  readonly #pinned = new Set<LogFile>();
  count = 0;
  /** Where the last record ends in the stream. */
  end = streamHeaderBytes;

  add(run: Run, slot: number): void {
    const runs = this.#runs;
    if (runs[runs.length - 1] !== run) {
      runs.push(run);
      this.#pin(run.file);
    }
    let block = this.#blocks[this.#blocks.length - 1];
    if (block === undefined || block.count === entriesPerBlock) {
      const words = () => new Uint32Array(entriesPerBlock);
      block = { start: this.end, runs: words(), slots: words(), count: 0 };
      this.#blocks.push(block);
    }
    block.runs[block.count] = runs.length - 1;
    block.slots[block.count] = slot;
    block.count++;
    this.count++;
    this.end += recordBytes(run, slot);
  }

  /** The records that lie in [from, to) of the stream, also in part; `start`: where each begins. */
  within(from: number, to: number): { readonly locations: Location[]; readonly starts: number[] } {
    const locations: Location[] = [];
    const starts: number[] = [];
    for (let at = this.#blockAt(from); at < this.#blocks.length; at++) {
      const { start, runs, slots, count } = this.#blocks[at]!;
      let offset = start;
      for (let i = 0; i < count && offset < to; i++) {
        const run = this.#runs[runs[i]!]!;
        const slot = slots[i]!;
        const end = offset + recordBytes(run, slot);
        if (end > from) {
          locations.push({ place: starts.length, index: run.indexAt(slot), run, slot });
          starts.push(offset);
        }
        offset = end;
      }
      if (offset >= to) break;
    }
    return { locations, starts };
  }

  release(): void {
    for (const file of this.#pinned) file.pins--;
    this.#pinned.clear();
  }

  #pin(file: LogFile): void {
    if (this.#pinned.has(file)) return;
    this.#pinned.add(file);
    file.pins++;
  }

  /** The last block that begins at or before this offset. */
  #blockAt(offset: number): number {
    let low = 0;
    let high = this.#blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#blocks[middle]!.start <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** The sending side. `release` lets go of the entries and the snapshot file. */
export class StreamReader implements SnapshotReader {
  readonly meta: SnapshotMeta;
  readonly #header: Buffer;
  readonly #group: number;
  readonly #entries: LiveTable;
  readonly #bytes: number;
  readonly #reads: Reads;
  readonly #file: DiskFile;
  readonly #release: () => void;
  #closed = false;

  constructor(
    group: number,
    meta: SnapshotMeta,
    liveAbove: number,
    entries: LiveTable,
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
    this.#bytes = entries.end + file.size;
    const { index, term } = meta;
    const recordsBytes = entries.end - streamHeaderBytes;
    const header = { group, index, term, liveAbove, entries: entries.count, recordsBytes, snapshotBytes: file.size };
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
      const fileStart = this.#entries.end;
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
    // Nothing was written: an error of closing says nothing.
    this.#file.close().then(this.#release, this.#release);
  }

  /** The bytes of records that lie in [offset, end) of the stream. */
  #readRecords(offset: number, end: number, done: (error: Error | null, pieces: Buffer[]) => void): void {
    const { locations, starts } = this.#entries.within(offset, end);
    const pieces: Buffer[] = new Array(locations.length);
    const take = (place: number, entry: RawEntry) => {
      const start = starts[place]!;
      const bytes = encodeKept(entry);
      pieces[place] = bytes.subarray(Math.max(0, offset - start), Math.min(bytes.length, end - start));
    };
    this.#reads.readAll(this.#group, locations, take, (error) => done(error, pieces));
  }
}

function encodeKept({ header, payload }: RawEntry): Buffer {
  const bytes = Buffer.allocUnsafe(recordHeaderBytes + payload.length);
  payload.copy(bytes, recordHeaderBytes);
  writeKeptHeader(bytes, 0, 0, header);
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
