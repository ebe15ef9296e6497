// Reading the record headers of an unsealed log file: the tail that a crash left.
//
// Whether a record that does not check out is a torn write or damage is decided by the records after it: each says what was durable when it
// was written ("synced before"). Above every such offset nobody was told of the bad bytes: the file ends before them. Below one they were
// confirmed once: that is damage. If only the payload is bad, it is known whose; behind a bad header nothing can be followed any more.
//
// Reads only. Memory: one window of the file, or one record if that is larger.

import { crc32 } from 'node:zlib';
import type { DiskFile } from '../ports.ts';
import {
  EntryKind,
  looksLikeRecord,
  type RecordHeader,
  RecordKind,
  readRecordHeader,
  recordHeaderBytes,
  viewOf,
} from './codec.ts';
import { decodeCheckpoint, decodeConfiguration } from './configuration.ts';
import { LogError } from './errors.ts';
import type { LogFile } from './files.ts';
import { readBytes } from './whole-files.ts';

const windowBytes = 1024 * 1024;

/** What was found beside the records, which are in the file's index. */
export interface Scanned {
  /** Groups with a record whose payload is damaged though it was durable, and what is wrong with it. */
  readonly damaged: ReadonlyMap<number, string>;
  /** Where bytes begin that were durable and cannot be told apart any more; -1: nowhere. */
  readonly hole: number;
}

/**
 * Fills the file's index from its records and sets its `bytes` to the end of the last one. `durableTo`: bytes below it are known to have been
 * durable, whatever the file itself says.
 */
export async function scanRecords(handle: DiskFile, file: LogFile, durableTo: number): Promise<Scanned> {
  const damaged = new Map<number, string>();
  let at = file.headerBytes;
  let window: Buffer = Buffer.alloc(0);
  let windowStart = at;
  let searched: number | null = null;
  /** Bytes [at, at + length) of the file, fewer at its end. */
  const bytesAt = async (offset: number, length: number): Promise<Buffer> => {
    if (offset < windowStart || offset + length > windowStart + window.length) {
      window = await readBytes(handle, offset, Math.max(length, windowBytes));
      windowStart = offset;
    }
    return window.subarray(offset - windowStart, Math.min(window.length, offset - windowStart + length));
  };
  const wasDurable = async (offset: number): Promise<boolean> => {
    if (offset < durableTo) return true;
    searched ??= await findDurableTo(handle, file, offset);
    return offset < searched;
  };
  let hole = -1;
  for (;;) {
    const head = await bytesAt(at, recordHeaderBytes);
    const header = head.length === 0 ? null : readRecordHeader(head, viewOf(head), 0, file.salt);
    if (header === null || at + recordHeaderBytes + header.payloadBytes > handle.size) {
      if (await wasDurable(at)) hole = at;
      break;
    }
    const payload = await bytesAt(at + recordHeaderBytes, header.payloadBytes);
    const isSound = payload.length === header.payloadBytes && crc32(payload) === header.payloadChecksum;
    if (!isSound && !(await wasDurable(at))) break;
    const problem = indexRecord(file, header, isSound ? payload : null, at);
    if (problem !== null) damaged.set(header.group, `${problem} (${file.path} at ${at})`);
    at += recordHeaderBytes + header.payloadBytes;
  }
  file.bytes = at;
  return { damaged, hole };
}

/** The highest offset below which the whole records after `bad` say that everything was durable; 0: they say nothing. */
async function findDurableTo(handle: DiskFile, file: LogFile, bad: number): Promise<number> {
  let durableTo = 0;
  for (let start = bad; start < handle.size; start += windowBytes) {
    const bytes = await readBytes(handle, start, windowBytes + recordHeaderBytes);
    const view = viewOf(bytes);
    for (let at = 0; at < windowBytes && at + recordHeaderBytes <= bytes.length; at++) {
      if (!looksLikeRecord(bytes, at)) continue;
      const header = readRecordHeader(bytes, view, at, file.salt);
      if (header !== null && header.syncedBefore > durableTo) durableTo = header.syncedBefore;
    }
  }
  return durableTo;
}

/** Notes one record. `payload` null: it is damaged. Returns what is wrong, or null. */
function indexRecord(file: LogFile, header: RecordHeader, payload: Buffer | null, offset: number): string | null {
  try {
    noteRecord(file, header, payload, offset);
  } catch (error) {
    if (error instanceof LogError) return error.detail;
    throw error;
  }
  return payload === null ? 'a record that was durable is damaged' : null;
}

function noteRecord(file: LogFile, header: RecordHeader, payload: Buffer | null, offset: number): void {
  const { index } = file;
  const { kind, group, replica } = header;
  switch (kind) {
    case RecordKind.entry:
    case RecordKind.kept: {
      const listed = kind === RecordKind.kept;
      const part = index.group(group, replica);
      if (part.runs.length > 0 && header.index <= part.last)
        throw new LogError('corrupt', `entry ${header.index} of group ${group} comes twice`, file.path, offset);
      index.add(group, replica, header.index, header.term, header.previous, offset, header.payloadBytes, listed);
      if (header.entryKind === EntryKind.configuration && payload !== null)
        part.configurations.set(header.index, decodeConfiguration(payload));
      return;
    }
    case RecordKind.hardState:
      index.group(group, replica).hardState = { term: header.term, vote: header.previous, commit: header.index };
      return;
    case RecordKind.truncation:
      return index.truncate(group, replica, header.index);
    case RecordKind.checkpoint: {
      if (payload === null) return;
      const checkpoint = decodeCheckpoint(payload);
      const position = { index: header.index, term: header.term, configuration: checkpoint.configuration };
      if (header.previous === 0) return index.create(group, replica, position);
      return index.install(group, replica, { ...position, keptFiles: checkpoint.keptFiles }, checkpoint.truncateFrom);
    }
    case RecordKind.reset: {
      if (payload === null) return;
      const reset = { configuration: decodeConfiguration(payload), keptFrom: header.term };
      return index.reset(group, replica, header.index, reset);
    }
    case RecordKind.repaired:
      index.group(group, replica).repairTo = 0;
      return;
    default:
      kind satisfies never;
  }
}
