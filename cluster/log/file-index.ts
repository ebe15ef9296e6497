// What one log file holds, by group: built while the file is written or scanned, written as its footer when it is sealed, and read from
// there at the next start. State owned: the runs (where entries are) and the control records of one file.
//
// Invariants:
//   - the runs of a group ascend; within a run indices are consecutive (or listed, in kept files) and the term is one;
//   - entries that a later truncation in the same file dropped are not in the footer;
//   - `truncateFrom` is the lowest index from which this file drops entries of *earlier* files (0: none);
//   - a footer is equal to what a scan of the file's records gives;
//   - what comes before a reset in the same file is not in the footer, but for the group's creation and its term and vote.
//
// Footer: u32 magic, u32 version, u32 groups, then each group:
//   u32 group, u32 flags (1 created, 2 hard state, 4 reset, 8 repair), u64 replica, u64 truncateFrom, u64 last index ever stored
//   [created: u64 index, u64 term, configuration]  [hard state: u64 term, u64 vote, u64 commit]
//   [reset: configuration, u64 kept from]  [repair: u64 repair to]
//   u32 installs, each: u64 index, u64 term, configuration, u32 kept files, each u64
//   u32 configuration entries, each: u64 index, configuration
//   u32 runs, each: u64 first, u64 term, u64 previous term, u32 count, u32 listed (0, 1),
//     u32 offsets[count], u32 payload bytes[count], [listed: f64 indices[count]]
// (configuration: u32 bytes, bytes)

import type { Configuration, HardState } from 'raft-ts';
import { recordHeaderBytes } from './codec.ts';
import { decodeConfiguration, encodeConfiguration } from './configuration.ts';
import { assert, LogError } from './errors.ts';
import type { LogFile } from './files.ts';

const footerMagic = 0x46545257;
const footerVersion = 2;

/** Consecutive entries of one term in one file. Records need not be adjacent: other groups' lie between. */
export class Run {
  readonly file: LogFile;
  readonly first: number;
  readonly term: number;
  /** Term of the entry before the first one. */
  readonly previousTerm: number;
  count = 0;
  /** Offset of each record header. */
  offsets: Uint32Array;
  /** Bytes of each payload. */
  lengths: Uint32Array;
  /** Kept files only: the index of each entry, ascending. */
  indices: Float64Array | null;

  constructor(file: LogFile, first: number, term: number, previousTerm: number, listed: boolean, capacity = 16) {
    this.file = file;
    this.first = first;
    this.term = term;
    this.previousTerm = previousTerm;
    this.offsets = new Uint32Array(capacity);
    this.lengths = new Uint32Array(capacity);
    this.indices = listed ? new Float64Array(capacity) : null;
  }

  get last(): number {
    return this.indices === null ? this.first + this.count - 1 : this.indices[this.count - 1]!;
  }

  push(index: number, offset: number, length: number): void {
    if (this.count === this.offsets.length) this.#resize(this.count * 2);
    this.offsets[this.count] = offset;
    this.lengths[this.count] = length;
    if (this.indices !== null) this.indices[this.count] = index;
    this.count++;
  }

  /** Gives back what growing took too much. */
  trim(): void {
    if (this.offsets.length > this.count) this.#resize(this.count);
  }

  /** Place of an index in this run, or -1. */
  slot(index: number): number {
    const { indices } = this;
    if (index < this.first || index > this.last) return -1;
    if (indices === null) {
      const slot = index - this.first;
      return slot >= 0 && slot < this.count ? slot : -1;
    }
    let low = 0;
    let high = this.count - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const at = indices[middle]!;
      if (at === index) return middle;
      if (at < index) low = middle + 1;
      else high = middle - 1;
    }
    return -1;
  }

  indexAt(slot: number): number {
    return this.indices === null ? this.first + slot : this.indices[slot]!;
  }

  #resize(capacity: number): void {
    const grow = <T extends Uint32Array | Float64Array>(from: T, to: T): T => {
      to.set(from.subarray(0, this.count));
      return to;
    };
    this.offsets = grow(this.offsets, new Uint32Array(capacity));
    this.lengths = grow(this.lengths, new Uint32Array(capacity));
    if (this.indices !== null) this.indices = grow(this.indices, new Float64Array(capacity));
  }
}

export interface Position {
  readonly index: number;
  readonly term: number;
  readonly configuration: Configuration;
}

/** A snapshot that was installed from elsewhere: the group's log restarts behind it. */
export interface Install extends Position {
  readonly keptFiles: readonly number[];
}

/** The group lost its log and snapshot here, and begins anew. */
export interface Reset {
  readonly configuration: Configuration;
  /** Names it: taken from the sequence of files. Kept files of the group before this one are void. */
  readonly keptFrom: number;
}

/** One group's part of one file. */
export class FileGroup {
  readonly group: number;
  readonly replica: number;
  created: Position | null = null;
  hardState: HardState | null = null;
  truncateFrom = 0;
  reset: Reset | null = null;
  /** What was said last; null: nothing. */
  repairTo: number | null = null;
  /** The highest index that the footer names: what would come back if a truncation were forgotten. */
  lastStored = 0;
  readonly installs: Install[] = [];
  readonly configurations = new Map<number, Configuration>();
  runs: Run[] = [];

  constructor(group: number, replica: number) {
    this.group = group;
    this.replica = replica;
  }

  get last(): number {
    const run = this.runs[this.runs.length - 1];
    return run === undefined ? 0 : run.last;
  }
}

export class FileIndex {
  readonly groups = new Map<number, FileGroup>();
  readonly #file: LogFile;

  constructor(file: LogFile) {
    this.#file = file;
  }

  get isEmpty(): boolean {
    return this.groups.size === 0;
  }

  /** The group's part of this file; begun anew when another replica took its place. */
  group(group: number, replica: number): FileGroup {
    let part = this.groups.get(group);
    if (part === undefined || part.replica !== replica) {
      part = new FileGroup(group, replica);
      this.groups.set(group, part);
    }
    return part;
  }

  create(group: number, replica: number, snapshot: Position): void {
    this.groups.delete(group);
    this.group(group, replica).created = snapshot;
  }

  install(group: number, replica: number, install: Install, truncateFrom: number): void {
    const part = this.group(group, replica);
    if (truncateFrom > 0) this.truncate(group, replica, truncateFrom);
    part.installs.push(install);
  }

  /** Adds an entry and returns the run that it is in, which is new when it has one entry. */
  add(
    group: number,
    replica: number,
    index: number,
    term: number,
    previousTerm: number,
    offset: number,
    length: number,
    listed: boolean,
  ): Run {
    const part = this.group(group, replica);
    const { runs } = part;
    let run = runs[runs.length - 1];
    const follows = run !== undefined && run.term === term && (listed ? index > run.last : index === run.last + 1);
    if (!follows) {
      assert(run === undefined || index > run.last, `entry ${index} of group ${group} follows ${run?.last}`);
      run = new Run(this.#file, index, term, previousTerm, listed);
      runs.push(run);
    }
    run!.push(index, offset, length);
    return run!;
  }

  truncate(group: number, replica: number, from: number): void {
    const part = this.group(group, replica);
    if (part.truncateFrom === 0 || from < part.truncateFrom) part.truncateFrom = from;
    truncateRuns(part.runs, from);
    for (const index of part.configurations.keys()) if (index >= from) part.configurations.delete(index);
  }

  reset(group: number, replica: number, repairTo: number, reset: Reset): void {
    this.truncate(group, replica, 1);
    const part = this.group(group, replica);
    part.installs.length = 0;
    part.reset = reset;
    part.repairTo = repairTo;
    if (part.hardState !== null) part.hardState = { ...part.hardState, commit: 0 };
  }

  /** Called once, when nothing more is added. */
  finish(): void {
    for (const part of this.groups.values()) {
      part.lastStored = part.last;
      for (const run of part.runs) run.trim();
    }
  }

  encode(): Buffer {
    const writer = new FooterWriter();
    writer.u32(footerMagic);
    writer.u32(footerVersion);
    writer.u32(this.groups.size);
    for (const part of this.groups.values()) writePart(writer, part);
    return writer.bytes();
  }

  static decode(file: LogFile, bytes: Buffer): FileIndex {
    const reader = new FooterReader(bytes, file.path);
    if (reader.u32() !== footerMagic) throw new LogError('corrupt', 'footer is not one', file.path);
    if (reader.u32() !== footerVersion) throw new LogError('version', 'footer version is not known', file.path);
    const index = new FileIndex(file);
    for (let count = reader.u32(); count > 0; count--) {
      const part = readPart(reader, file);
      index.groups.set(part.group, part);
    }
    if (!reader.atEnd) throw new LogError('corrupt', 'footer is followed by bytes', file.path);
    return index;
  }
}

/** Drops what lies at or above `from`; empty runs go (a run is in two lists, its file's and its group's: either may come first). */
export function truncateRuns(runs: Run[], from: number): void {
  for (let run = runs[runs.length - 1]; run !== undefined; run = runs[runs.length - 1]) {
    assert(run.indices === null, 'kept entries are never truncated');
    if (run.last >= from) run.count = Math.max(0, from - run.first);
    if (run.count > 0) break;
    runs.pop();
  }
}

/** Bytes of a record with its payload. */
export function recordBytes(run: Run, slot: number): number {
  return recordHeaderBytes + run.lengths[slot]!;
}

// ---- footer ----

function writePart(writer: FooterWriter, part: FileGroup): void {
  writer.u32(part.group);
  const { created, hardState, reset, repairTo } = part;
  const flag = (bit: number, value: unknown) => (value === null ? 0 : bit);
  writer.u32(flag(1, created) | flag(2, hardState) | flag(4, reset) | flag(8, repairTo));
  writer.u64(part.replica);
  writer.u64(part.truncateFrom);
  writer.u64(part.lastStored);
  if (created !== null) writer.position(created);
  if (hardState !== null) {
    writer.u64(hardState.term);
    writer.u64(hardState.vote);
    writer.u64(hardState.commit);
  }
  if (reset !== null) {
    writer.configuration(reset.configuration);
    writer.u64(reset.keptFrom);
  }
  if (repairTo !== null) writer.u64(repairTo);
  writer.u32(part.installs.length);
  for (const install of part.installs) {
    writer.position(install);
    writer.u32(install.keptFiles.length);
    for (const sequence of install.keptFiles) writer.u64(sequence);
  }
  writer.u32(part.configurations.size);
  for (const [index, configuration] of part.configurations) {
    writer.u64(index);
    writer.configuration(configuration);
  }
  writer.u32(part.runs.length);
  for (const run of part.runs) {
    writer.u64(run.first);
    writer.u64(run.term);
    writer.u64(run.previousTerm);
    writer.u32(run.count);
    writer.u32(run.indices === null ? 0 : 1);
    writer.array(run.offsets, run.count);
    writer.array(run.lengths, run.count);
    if (run.indices !== null) writer.array(run.indices, run.count);
  }
}

function readPart(reader: FooterReader, file: LogFile): FileGroup {
  const group = reader.u32();
  const flags = reader.u32();
  const part = new FileGroup(group, reader.u64());
  part.truncateFrom = reader.u64();
  part.lastStored = reader.u64();
  if (flags & 1) part.created = reader.position();
  if (flags & 2) part.hardState = { term: reader.u64(), vote: reader.u64(), commit: reader.u64() };
  if (flags & 4) part.reset = { configuration: reader.configuration(), keptFrom: reader.u64() };
  if (flags & 8) part.repairTo = reader.u64();
  for (let count = reader.u32(); count > 0; count--) {
    const position = reader.position();
    const keptFiles: number[] = [];
    for (let kept = reader.u32(); kept > 0; kept--) keptFiles.push(reader.u64());
    part.installs.push({ ...position, keptFiles });
  }
  for (let count = reader.u32(); count > 0; count--) {
    const index = reader.u64();
    part.configurations.set(index, reader.configuration());
  }
  for (let count = reader.u32(); count > 0; count--) {
    const first = reader.u64();
    const term = reader.u64();
    const previousTerm = reader.u64();
    const entries = reader.u32();
    const listed = reader.u32() === 1;
    const run = new Run(file, first, term, previousTerm, listed, 0);
    run.count = entries;
    run.offsets = reader.u32Array(entries);
    run.lengths = reader.u32Array(entries);
    if (listed) run.indices = reader.f64Array(entries);
    part.runs.push(run);
  }
  return part;
}

class FooterWriter {
  #buffer = Buffer.allocUnsafe(64 * 1024);
  #end = 0;

  u32(value: number): void {
    this.#reserve(4);
    this.#end = this.#buffer.writeUInt32LE(value, this.#end);
  }
  u64(value: number): void {
    this.u32(value >>> 0);
    this.u32(Math.floor(value / 0x1_0000_0000));
  }
  configuration(configuration: Configuration): void {
    const bytes = encodeConfiguration(configuration);
    this.u32(bytes.length);
    this.#copy(bytes);
  }
  position(position: Position): void {
    this.u64(position.index);
    this.u64(position.term);
    this.configuration(position.configuration);
  }
  /** Typed arrays go as they lie in memory: every machine that Node.js runs on today is little-endian. */
  array(array: Uint32Array | Float64Array, count: number): void {
    this.#copy(new Uint8Array(array.buffer, array.byteOffset, count * array.BYTES_PER_ELEMENT));
  }
  bytes(): Buffer {
    return this.#buffer.subarray(0, this.#end);
  }
  #copy(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#buffer.set(bytes, this.#end);
    this.#end += bytes.length;
  }
  #reserve(bytes: number): void {
    if (this.#end + bytes <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#end + bytes));
    this.#buffer.copy(larger, 0, 0, this.#end);
    this.#buffer = larger;
  }
}

class FooterReader {
  readonly #bytes: Buffer;
  readonly #path: string;
  #at = 0;

  constructor(bytes: Buffer, path: string) {
    this.#bytes = bytes;
    this.#path = path;
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.length;
  }
  u32(): number {
    const at = this.#take(4);
    return this.#bytes.readUInt32LE(at);
  }
  u64(): number {
    const low = this.u32();
    return low + this.u32() * 0x1_0000_0000;
  }
  configuration(): Configuration {
    const length = this.u32();
    const at = this.#take(length);
    return decodeConfiguration(this.#bytes.subarray(at, at + length));
  }
  position(): Position {
    return { index: this.u64(), term: this.u64(), configuration: this.configuration() };
  }
  u32Array(count: number): Uint32Array {
    const at = this.#take(4 * count);
    const array = new Uint32Array(count);
    new Uint8Array(array.buffer).set(this.#bytes.subarray(at, at + 4 * count));
    return array;
  }
  f64Array(count: number): Float64Array {
    const at = this.#take(8 * count);
    const array = new Float64Array(count);
    new Uint8Array(array.buffer).set(this.#bytes.subarray(at, at + 8 * count));
    return array;
  }
  #take(bytes: number): number {
    const at = this.#at;
    if (at + bytes > this.#bytes.length) throw new LogError('corrupt', 'footer is cut', this.#path);
    this.#at = at + bytes;
    return at;
  }
}
