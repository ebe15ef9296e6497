// One group's recent entries in memory: consecutive indices in a ring of columns, made into objects when they are asked for.
//
// An entry kept as an object is nine things to the collector of garbage (the entry, its data, the buffer and its memory, and five boxed
// numbers), and tens of thousands of entries were two thirds of all that it had to walk through. In columns an entry is nothing but a place
// in memory that it mostly shares with its neighbours.
// Invariant: slots outside [first, last] keep nothing alive.

import type { Configuration } from 'raft-ts';
import { assert } from './errors.ts';
import type { LogEntry } from './types.ts';

const slotsAtStart = 64;
const dataKind = 0;
const noopKind = 1;
const configurationKind = 2;

export class CachedEntries {
  /** Entries [first, last] are here; none when `last` < `first`. */
  first: number;
  last: number;
  #mask = slotsAtStart - 1;
  #columns = new Columns(slotsAtStart);

  /** Empty, before the entry `first`. */
  constructor(first: number) {
    this.first = first;
    this.last = first - 1;
  }

  get(index: number): LogEntry | undefined {
    return index >= this.first && index <= this.last ? this.#columns.get(index & this.#mask, index) : undefined;
  }

  /** Undefined: not here, or an entry without one. */
  payload(index: number): Buffer | undefined {
    if (index < this.first || index > this.last) return undefined;
    const slot = index & this.#mask;
    return this.#columns.kinds[slot] === dataKind ? this.#columns.payload(slot) : undefined;
  }

  bytes(index: number): number {
    return this.#columns.bytes[index & this.#mask]!;
  }

  push(entry: LogEntry): void {
    assert(entry.index === this.last + 1, `entry ${entry.index} follows ${this.last} in memory`);
    if (this.last - this.first >= this.#mask) this.#grow();
    this.#columns.set(entry.index & this.#mask, entry);
    this.last = entry.index;
  }

  shift(): void {
    this.#columns.contents[this.first & this.#mask] = undefined;
    this.first++;
  }

  pop(): void {
    this.#columns.contents[this.last & this.#mask] = undefined;
    this.last--;
  }

  /** Only of an empty one: what comes next is the entry `first`. */
  restart(first: number): void {
    assert(this.last < this.first, 'entries in memory are not skipped');
    this.first = first;
    this.last = first - 1;
  }

  #grow(): void {
    const old = this.#columns;
    const oldMask = this.#mask;
    this.#mask = 2 * oldMask + 1;
    this.#columns = new Columns(this.#mask + 1);
    for (let index = this.first; index <= this.last; index++)
      this.#columns.copy(index & this.#mask, old, index & oldMask);
  }
}

class Columns {
  readonly kinds: Uint8Array;
  readonly bytes: Uint32Array;
  readonly #terms: Float64Array;
  readonly #stamps: Float64Array;
  readonly #versions: Uint16Array;
  readonly #hashes: Float64Array;
  readonly #checksums: Uint32Array;
  /** The memory that the payload lies in, or the configuration. */
  readonly contents: (ArrayBufferLike | Configuration | undefined)[];
  readonly #offsets: Float64Array;

  constructor(slots: number) {
    this.kinds = new Uint8Array(slots);
    this.bytes = new Uint32Array(slots);
    this.#terms = new Float64Array(slots);
    this.#stamps = new Float64Array(slots);
    this.#versions = new Uint16Array(slots);
    this.#hashes = new Float64Array(slots);
    this.#checksums = new Uint32Array(slots);
    this.contents = new Array(slots);
    this.#offsets = new Float64Array(slots);
  }

  payload(slot: number): Buffer {
    return Buffer.from(this.contents[slot] as ArrayBuffer, this.#offsets[slot], this.bytes[slot]);
  }

  get(slot: number, index: number): LogEntry {
    const kind = this.kinds[slot]!;
    const term = this.#terms[slot]!;
    if (kind === noopKind) return { kind: 'noop', index, term, bytes: 0 };
    const bytes = this.bytes[slot]!;
    if (kind === configurationKind)
      return { kind: 'configuration', index, term, bytes, configuration: this.contents[slot] as Configuration };
    const data = {
      stamp: this.#stamps[slot]!,
      machineVersion: this.#versions[slot]!,
      stateHash: this.#hashes[slot]!,
      payload: this.payload(slot),
      checksum: this.#checksums[slot]!,
    };
    return { kind: 'data', index, term, bytes, data };
  }

  set(slot: number, entry: LogEntry): void {
    this.#terms[slot] = entry.term;
    this.bytes[slot] = entry.bytes;
    if (entry.kind === 'data') {
      const { data } = entry;
      this.kinds[slot] = dataKind;
      this.#stamps[slot] = data.stamp;
      this.#versions[slot] = data.machineVersion;
      this.#hashes[slot] = data.stateHash;
      this.#checksums[slot] = data.checksum;
      this.contents[slot] = data.payload.buffer;
      this.#offsets[slot] = data.payload.byteOffset;
    } else if (entry.kind === 'configuration') {
      this.kinds[slot] = configurationKind;
      this.contents[slot] = entry.configuration;
    } else this.kinds[slot] = noopKind;
  }

  copy(slot: number, from: Columns, fromSlot: number): void {
    this.kinds[slot] = from.kinds[fromSlot]!;
    this.bytes[slot] = from.bytes[fromSlot]!;
    this.#terms[slot] = from.#terms[fromSlot]!;
    this.#stamps[slot] = from.#stamps[fromSlot]!;
    this.#versions[slot] = from.#versions[fromSlot]!;
    this.#hashes[slot] = from.#hashes[fromSlot]!;
    this.#checksums[slot] = from.#checksums[fromSlot]!;
    this.contents[slot] = from.contents[fromSlot];
    this.#offsets[slot] = from.#offsets[fromSlot]!;
  }
}
