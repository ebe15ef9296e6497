// Reading entries back, from memory and from log files: neighbouring records in one read, at most two reads on their way per node, every byte
// checked.
//
// State owned: the reads waiting and on their way.
// Invariants: a file is pinned from the planning of a read to its end; an entry that was truncated meanwhile is not given.

import { crc32 } from 'node:zlib';
import { EntryKind, type RecordHeader, readRecordHeader, recordHeaderBytes, viewOf } from './codec.ts';
import { decodeConfiguration } from './configuration.ts';
import { isDamage, LogError } from './errors.ts';
import { type Run, recordBytes } from './file-index.ts';
import type { LogFile, OpenFiles } from './files.ts';
import type { GroupLog } from './group.ts';
import type { LogEntry } from './types.ts';

/** Reads on their way at once: the thread pool has four threads, and two belong to writing. */
const readsInFlightMax = 2;
/** One read takes in at most so much, unless a single record is larger. */
const readBytesMax = 4 * 1024 * 1024;
/** Other groups' bytes that are read along rather than begin another read. */
const gapBytesMax = 32 * 1024;

/** Where one entry lies. `place`: its place in the result. */
export interface Location {
  readonly place: number;
  readonly index: number;
  readonly run: Run;
  readonly slot: number;
}

/** A record as it was read and checked. */
export interface RawEntry {
  readonly header: RecordHeader;
  readonly payload: Buffer;
}

interface Segment {
  readonly file: LogFile;
  readonly offset: number;
  end: number;
  readonly locations: Location[];
}

export class Reads {
  readonly #files: OpenFiles;
  readonly #waiting: (() => void)[] = [];
  #inFlight = 0;

  constructor(files: OpenFiles) {
    this.#files = files;
  }

  /** Entries [first, last] of a group, whole: see `Log.read`. */
  entries(
    group: GroupLog,
    first: number,
    last: number,
    bytesMax: number,
    done: (error: Error | null, entries: LogEntry[]) => void,
  ): void {
    const id = group.group;
    const entries: LogEntry[] = [];
    const locations: Location[] = [];
    let bytes = 0;
    for (let index = first, place = 0; index <= last && (place === 0 || bytes < bytesMax); index++, place++) {
      const entry = group.cached(index);
      if (entry !== undefined) {
        if (place > 0 && bytes + entry.bytes > bytesMax) break;
        bytes += entry.bytes;
        entries[place] = entry;
        continue;
      }
      const run = group.find(index);
      if (run === null) return done(new LogError('missing', `entry ${index} of group ${id} is not here`), []);
      const slot = run.slot(index);
      if (place > 0 && bytes + run.lengths[slot]! > bytesMax) break;
      bytes += run.lengths[slot]!;
      locations.push({ place, index, run, slot });
    }
    if (locations.length === 0) return done(null, entries);
    const { epoch } = group;
    const take = (place: number, raw: RawEntry) => {
      entries[place] = toEntry(raw);
    };
    this.readAll(id, locations, take, (error) => {
      if (error !== null) return done(error, []);
      if (entries.some((entry) => entry.kind === 'data' && entry.data.remains === true))
        return done(new LogError('missing', `entries of group ${id} are not here as a whole`), []);
      if (group.epoch !== epoch && !isCurrent(group, entries))
        return done(new LogError('missing', `entries of group ${id} were truncated while they were read`), []);
      done(null, entries);
    });
  }

  /** The entry in this place of a run, also if it is only what is left of it. */
  remains(group: number, run: Run, index: number, done: (error: Error | null, entry: LogEntry | null) => void): void {
    let entry: LogEntry | null = null;
    const take = (_place: number, raw: RawEntry) => {
      entry = toEntry(raw);
    };
    const location = { place: 0, index, run, slot: run.slot(index) };
    this.readAll(group, [location], take, (error) => done(error, error === null ? entry : null));
  }

  /** Reads all these records of one group. `take` is called for each, `done` once after the last or with the first error. */
  readAll(
    group: number,
    locations: readonly Location[],
    take: (place: number, entry: RawEntry) => void,
    done: (error: Error | null) => void,
  ): void {
    const segments = plan(locations);
    let open = segments.length;
    let failed: Error | null = null;
    if (open === 0) return done(null);
    const ended = (error: Error | null) => {
      failed ??= error;
      if (--open === 0) done(failed);
    };
    for (const segment of segments) {
      segment.file.pins++;
      this.#waiting.push(() => {
        this.#read(segment, (error, bytes) => {
          segment.file.pins--;
          const problem = error ?? takeAll(group, segment, bytes, take);
          if (isDamage(problem)) segment.file.isDamaged = true;
          ended(problem);
        });
      });
    }
    this.#next();
  }

  #next(): void {
    while (this.#inFlight < readsInFlightMax) {
      const start = this.#waiting.shift();
      if (start === undefined) return;
      this.#inFlight++;
      start();
    }
  }

  #read(segment: Segment, done: (error: Error | null, bytes: Buffer) => void): void {
    const ended = (error: Error | null, bytes: Buffer) => {
      this.#inFlight--;
      done(error, bytes);
      this.#next();
    };
    this.#files.acquire(segment.file, (error, handle) => {
      if (error !== null) return ended(error, Buffer.alloc(0));
      handle!.read(segment.offset, segment.end - segment.offset, ended);
    });
  }
}

/** True if these entries are still the group's: none was replaced by a truncation. */
function isCurrent(group: GroupLog, entries: readonly LogEntry[]): boolean {
  return entries.every(({ index, term }) => group.find(index)?.term === term);
}

/** Groups locations, which ascend, into as few reads as is sensible. */
function plan(locations: readonly Location[]): Segment[] {
  const segments: Segment[] = [];
  let current: Segment | null = null;
  for (const location of locations) {
    const { run, slot } = location;
    const offset = run.offsets[slot]!;
    const end = offset + recordBytes(run, slot);
    const joins: boolean =
      current !== null &&
      current.file === run.file &&
      offset >= current.end &&
      offset - current.end <= gapBytesMax &&
      end - current.offset <= readBytesMax;
    if (joins) {
      current!.end = end;
      current!.locations.push(location);
    } else {
      current = { file: run.file, offset, end, locations: [location] };
      segments.push(current);
    }
  }
  return segments;
}

function takeAll(
  group: number,
  segment: Segment,
  bytes: Buffer,
  take: (place: number, entry: RawEntry) => void,
): Error | null {
  const view = viewOf(bytes);
  for (const { place, index, run, slot } of segment.locations) {
    const offset = run.offsets[slot]!;
    const length = run.lengths[slot]!;
    const at = offset - segment.offset;
    const header = readRecordHeader(bytes, view, at, run.file.salt);
    const fits =
      header !== null &&
      header.group === group &&
      header.index === index &&
      header.term === run.term &&
      header.payloadBytes === length;
    if (!fits)
      return new LogError('corrupt', `record of entry ${index} of group ${group} is damaged`, run.file.path, offset);
    const payload = bytes.subarray(at + recordHeaderBytes, at + recordHeaderBytes + length);
    if (payload.length !== length || crc32(payload) !== header.payloadChecksum)
      return new LogError('corrupt', `payload of entry ${index} of group ${group} is damaged`, run.file.path, offset);
    take(place, { header, payload });
  }
  return null;
}

/** The entry in a record. */
function toEntry({ header, payload }: RawEntry): LogEntry {
  const { index, term } = header;
  switch (header.entryKind) {
    case EntryKind.noop:
      return { kind: 'noop', index, term, bytes: 0 };
    case EntryKind.configuration:
      return { kind: 'configuration', index, term, bytes: payload.length, configuration: decodeConfiguration(payload) };
    default: {
      const { stamp, machineVersion, stateHash, payloadChecksum } = header;
      const data = { stamp, machineVersion, stateHash, payload, checksum: payloadChecksum };
      if (header.entryKind !== EntryKind.remains) return { kind: 'data', index, term, bytes: payload.length, data };
      return { kind: 'data', index, term, bytes: payload.length, data: { ...data, remains: true } };
    }
  }
}
