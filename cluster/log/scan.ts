// Reading the record headers of an unsealed log file: the tail that a crash left.
//
// A record that does not check out ends the file. Whether that is a torn write or damage is decided by the records after it: each says
// what was durable when it was written ("synced before"). Bad bytes below such an offset were confirmed once: that is damage, and cutting
// them off would lose them. Above every such offset nobody was told of them: they are cut.
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

/** Fills the file's index from its records and sets its `bytes` to the end of the last good one. Throws `corrupt`. */
export async function scanRecords(handle: DiskFile, file: LogFile): Promise<void> {
  let at = file.headerBytes;
  let window: Buffer = Buffer.alloc(0);
  let windowStart = at;
  /** Bytes [at, at + length) of the file, fewer at its end. */
  const bytesAt = async (offset: number, length: number): Promise<Buffer> => {
    if (offset < windowStart || offset + length > windowStart + window.length) {
      window = await readBytes(handle, offset, Math.max(length, windowBytes));
      windowStart = offset;
    }
    return window.subarray(offset - windowStart, Math.min(window.length, offset - windowStart + length));
  };
  for (;;) {
    const head = await bytesAt(at, recordHeaderBytes);
    if (head.length === 0) break;
    const header = readRecordHeader(head, viewOf(head), 0, file.salt);
    if (header === null || at + recordHeaderBytes + header.payloadBytes > handle.size) break;
    const payload = await bytesAt(at + recordHeaderBytes, header.payloadBytes);
    if (payload.length !== header.payloadBytes || crc32(payload) !== header.payloadChecksum) break;
    indexRecord(file, header, payload, at);
    at += recordHeaderBytes + header.payloadBytes;
  }
  file.bytes = at;
  await refuseDamage(handle, file, at);
}

/** Throws if a whole record after `bad` states that bytes from `bad` on were durable before it. */
async function refuseDamage(handle: DiskFile, file: LogFile, bad: number): Promise<void> {
  for (let start = bad; start < handle.size; start += windowBytes) {
    const bytes = await readBytes(handle, start, windowBytes + recordHeaderBytes);
    const view = viewOf(bytes);
    for (let at = 0; at < windowBytes && at + recordHeaderBytes <= bytes.length; at++) {
      if (!looksLikeRecord(bytes, at)) continue;
      const header = readRecordHeader(bytes, view, at, file.salt);
      if (header !== null && header.syncedBefore > bad)
        throw new LogError('corrupt', 'record that was durable is damaged', file.path, bad);
    }
  }
}

function indexRecord(file: LogFile, header: RecordHeader, payload: Buffer, offset: number): void {
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
      if (header.entryKind === EntryKind.configuration)
        part.configurations.set(header.index, decodeConfiguration(payload));
      return;
    }
    case RecordKind.hardState:
      index.group(group, replica).hardState = { term: header.term, vote: header.previous, commit: header.index };
      return;
    case RecordKind.truncation:
      return index.truncate(group, replica, header.index);
    case RecordKind.checkpoint: {
      const checkpoint = decodeCheckpoint(payload);
      const position = { index: header.index, term: header.term, configuration: checkpoint.configuration };
      if (header.previous === 0) return index.create(group, replica, position);
      return index.install(group, replica, { ...position, keptFiles: checkpoint.keptFiles }, checkpoint.truncateFrom);
    }
    case RecordKind.reset: {
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
