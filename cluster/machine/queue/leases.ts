// The unsettled leases of one consumer, by ordinal: a list of chunks of typed arrays, appended at the tail, no object per lease. PURE.
//
// Leases are settled in any order: a settled one is marked, and a chunk without unsettled ones goes. The last chunk, when it is full,
// is rid of its marked ones, or doubled, until it has the full size; two neighbours that are mostly marked become one. So the arrays stay
// within a small factor of what is unsettled, also when one old lease is never settled, and no step costs more than a chunk.
//
// Invariants:
// - Ordinals ascend over slots and chunks: a chunk's are at or above its `base` and below the next chunk's. No chunk is without an
//   unsettled lease. Gaps are where settled leases were.
// - Of a chunk that an image holds (`shared`) only slots behind its end at that time are written; all else goes to a copy.
//
// Reading and settling go through a cursor: `seek`, then `advance` until it says that there is no more. `push` makes it invalid.

import type { ByteReader, ByteWriter, Steps } from './bytes.ts';
import { ChunkImage, type Rows, type Sections, type WriteRows, writtenAtOnceMax } from './images.ts';
import type { LiveCounts } from './live.ts';

/** A message's history: the number of failed deliveries, and whether it ever went out. Kept in one number with the lease. */
export const deliveryCountMax = 0xff_ffff;
export const redeliveredBit = 0x4000_0000;
const settledBit = 0x8000_0000;

/** Words per lease: index low, index high << 16 | ordinal, bytes, history, lease ordinal - base. */
const wordsPerLease = 5;
const leasesMin = 8;
/** Many: of millions the garbage collector has few arrays to look at. */
const leasesPerChunk = 4096;
/** Neighbours with so few unsettled leases together become one chunk. */
const joinMax = leasesPerChunk / 2;
/** After so many settlements in a chunk this is looked at again. */
const joinStep = 32;
const noWords = new Uint32Array(0);

interface Chunk extends Rows {
  base: number;
  /** Slots: the first that may be unsettled, and the next free one. */
  start: number;
  end: number;
  unsettled: number;
  shared: boolean;
}

export class Leases {
  #chunks: Chunk[] = [];
  /** The last of `#chunks`. */
  #tail: Chunk | null = null;
  /** A chunk to be used again. Never shared. */
  #spare: Chunk | null = null;
  unsettled = 0;
  /** Ordinal of the next lease. */
  next = 1;
  /** The cursor: a chunk's place, its words, a slot in it, the lease's ordinal, and the ordinal where it is to stop. */
  #at = 0;
  #words: Uint32Array = noWords;
  #slot = 0;
  #ordinalHere = 0;
  #end = 0;

  /** Leases that there is room for. */
  get slots(): number {
    return this.#chunks.reduce((sum, chunk) => sum + chunk.words.length / wordsPerLease, 0);
  }

  /** Returns the lease's ordinal. */
  push(index: number, ordinal: number, bytes: number, history: number): number {
    let chunk = this.#tail;
    if (chunk === null || chunk.end * wordsPerLease === chunk.words.length || this.next - chunk.base > 0xffff_ffff)
      chunk = this.#makeRoom();
    const words = chunk.words;
    const w = chunk.end++ * wordsPerLease;
    words[w] = index;
    words[w + 1] = (Math.floor(index / 0x1_0000_0000) << 16) | ordinal;
    words[w + 2] = bytes;
    words[w + 3] = history;
    words[w + 4] = this.next - chunk.base;
    chunk.unsettled++;
    this.unsettled++;
    return this.next++;
  }

  /** Puts the cursor on the first unsettled lease in [first, end). False: there is none. `advance` stays below `end`, too. */
  seek(first: number, end = Number.POSITIVE_INFINITY): boolean {
    const chunks = this.#chunks;
    let at = 0;
    let high = chunks.length - 1;
    // Mostly there is one chunk, or it is in the first or the last.
    if (high > 0 && first >= chunks[1]!.base) {
      at = 1;
      if (first >= chunks[high]!.base) at = high;
      while (at < high) {
        const middle = (at + high + 1) >>> 1;
        if (chunks[middle]!.base <= first) at = middle;
        else high = middle - 1;
      }
    }
    this.#at = at;
    this.#end = end;
    this.#slot = high < 0 ? 0 : lowerBound(chunks[at]!, first);
    return this.#rest();
  }

  /** Puts the cursor on the next unsettled lease. False: there is none. */
  advance(): boolean {
    // Mostly one lease was asked for.
    if (this.#ordinalHere + 1 >= this.#end) return false;
    this.#slot++;
    return this.#rest();
  }

  // The lease under the cursor.
  get leaseOrdinal(): number {
    return this.#ordinalHere;
  }
  get index(): number {
    const words = this.#words;
    const w = this.#slot * wordsPerLease;
    return words[w]! + (words[w + 1]! >>> 16) * 0x1_0000_0000;
  }
  get ordinal(): number {
    return this.#words[this.#slot * wordsPerLease + 1]! & 0xffff;
  }
  get bytes(): number {
    return this.#words[this.#slot * wordsPerLease + 2]!;
  }
  get history(): number {
    return this.#words[this.#slot * wordsPerLease + 3]!;
  }

  /** Settles the lease under the cursor. What is needed of it must be read before; `advance` goes on. */
  settle(): void {
    let chunk = this.#chunks[this.#at]!;
    const isFirst = this.#slot === chunk.start;
    // What lies before the start is of no account, so its words stay as they are: also of a chunk that an image holds.
    if (!isFirst) {
      if (chunk.shared) chunk = this.#own();
      chunk.words[this.#slot * wordsPerLease + 3] = settledBit;
    }
    this.unsettled--;
    chunk.unsettled--;
    if (chunk.unsettled === 0) return this.#drop();
    if (isFirst) {
      chunk.start++;
      skipSettled(chunk);
    }
    if (chunk.unsettled % joinStep === 0 && chunk.unsettled <= joinMax && this.#chunks.length > 1) this.#join();
  }

  /** The bytes do not depend on how the leases lie in chunks. */
  capture(sections: Sections): void {
    sections.bytes.u64(this.next);
    sections.bytes.u32(this.unsettled);
    this.captureRows(sections, writeLeases);
  }

  /** Only what is unsettled, each as `writeRows` does it. */
  captureRows(sections: Sections, writeRows: WriteRows): void {
    if (this.unsettled <= writtenAtOnceMax) {
      for (const chunk of this.#chunks)
        writeRows(sections.bytes, chunk, chunk.start * wordsPerLease, chunk.end * wordsPerLease);
      return;
    }
    const image = new ChunkImage(writeRows, wordsPerLease);
    for (const chunk of this.#chunks) {
      image.add(chunk, chunk.start * wordsPerLease, chunk.end * wordsPerLease);
      chunk.shared = true;
    }
    sections.add(image);
  }

  /** Of an empty object. Counts each message as live, and returns the sum of their bytes. */
  *restore(reader: ByteReader, live: LiveCounts): Steps<number> {
    const next = reader.u64();
    let bytes = 0;
    for (let count = reader.u32(); count > 0; count--) {
      if (reader.isTired) yield;
      reader.reference();
      const history = reader.u32();
      this.next = reader.u64();
      this.push(reader.index, reader.ordinal, reader.bytes, history);
      live.add(reader.index);
      bytes += reader.bytes;
    }
    this.next = next;
    return bytes;
  }

  #makeRoom(): Chunk {
    const tail = this.#tail;
    if (tail === null) return this.#append(leasesMin);
    const slots = tail.words.length / wordsPerLease;
    if (this.next - tail.base <= 0xffff_ffff) {
      if (tail.unsettled * 2 <= slots) return this.#squeeze(tail, slots);
      if (slots < leasesPerChunk) return this.#squeeze(tail, slots * 2);
    }
    return this.#append(leasesPerChunk);
  }

  #append(slots: number): Chunk {
    const chunk = this.#take(slots, this.next);
    this.#chunks.push(chunk);
    this.#tail = chunk;
    return chunk;
  }

  /** The spare chunk if it is large enough, or a new one. */
  #take(slots: number, base: number): Chunk {
    const spare = this.#spare;
    if (spare === null || spare.words.length < slots * wordsPerLease)
      return newChunk(new Uint32Array(slots * wordsPerLease), base);
    this.#spare = null;
    spare.base = base;
    spare.start = 0;
    spare.end = 0;
    spare.unsettled = 0;
    return spare;
  }

  /** Rids the last chunk of what is settled. In place if the size stays and nobody else reads it. */
  #squeeze(tail: Chunk, slots: number): Chunk {
    const inPlace = !tail.shared && tail.words.length === slots * wordsPerLease;
    const chunk = inPlace ? tail : this.#take(slots, tail.base);
    chunk.end = copyUnsettled(tail, chunk, 0);
    chunk.start = 0;
    chunk.unsettled = tail.unsettled;
    this.#chunks[this.#chunks.length - 1] = chunk;
    this.#tail = chunk;
    return chunk;
  }

  /** Moves the cursor on to an unsettled lease unless it is on one. */
  #rest(): boolean {
    for (; this.#at < this.#chunks.length; this.#at++, this.#slot = 0) {
      const chunk = this.#chunks[this.#at]!;
      const { words, start, end } = chunk;
      let slot = this.#slot > start ? this.#slot : start;
      while (slot < end && words[slot * wordsPerLease + 3]! >= settledBit) slot++;
      if (slot === end) continue;
      this.#words = words;
      this.#slot = slot;
      this.#ordinalHere = chunk.base + words[slot * wordsPerLease + 4]!;
      return this.#ordinalHere < this.#end;
    }
    return false;
  }

  /** The chunk under the cursor, now a copy that no image holds. */
  #own(): Chunk {
    const { words, base, start, end, unsettled } = this.#chunks[this.#at]!;
    const chunk = newChunk(words.slice(), base);
    chunk.start = start;
    chunk.end = end;
    chunk.unsettled = unsettled;
    this.#replace(this.#at, 1, chunk);
    return chunk;
  }

  /** Puts a chunk in the place of some, and under the cursor. */
  #replace(at: number, count: number, chunk: Chunk): void {
    if (count === 1) this.#chunks[at] = chunk;
    else this.#chunks.splice(at, count, chunk);
    this.#tail = this.#chunks[this.#chunks.length - 1]!;
    this.#at = at;
    this.#words = chunk.words;
  }

  /** Takes away the chunk under the cursor, which has nothing unsettled. The cursor stands before the next one. */
  #drop(): void {
    const chunks = this.#chunks;
    const chunk = chunks[this.#at]!;
    if (this.#at === 0) chunks.shift();
    else chunks.splice(this.#at, 1);
    this.#tail = chunks.length === 0 ? null : chunks[chunks.length - 1]!;
    if (!chunk.shared) this.#spare = chunk;
    this.#slot = -1;
  }

  /** Joins the chunk under the cursor with a neighbour if they are sparse. The cursor stands where it was, before the next unsettled one. */
  #join(): void {
    const at = this.#canJoin(this.#at) ? this.#at : this.#canJoin(this.#at - 1) ? this.#at - 1 : -1;
    if (at < 0) return;
    const [first, second] = [this.#chunks[at]!, this.#chunks[at + 1]!];
    const chunk = this.#take(leasesPerChunk, first.base);
    chunk.end = copyUnsettled(first, chunk, 0);
    chunk.unsettled = chunk.end;
    chunk.end = copyUnsettled(second, chunk, second.base - first.base, chunk.end);
    chunk.unsettled = chunk.end;
    this.#replace(at, 2, chunk);
    this.#slot = lowerBound(chunk, this.#ordinalHere) - 1;
  }

  /** Are this chunk and the next one sparse, and near enough to each other for one base? */
  #canJoin(at: number): boolean {
    const first = this.#chunks[at];
    const second = this.#chunks[at + 1];
    if (first === undefined || second === undefined || first.unsettled + second.unsettled > joinMax) return false;
    const last = second.base + second.words[(second.end - 1) * wordsPerLease + 4]!;
    return last - first.base <= 0xffff_ffff;
  }
}

const newChunk = (words: Uint32Array, base: number): Chunk => ({
  words,
  base,
  start: 0,
  end: 0,
  unsettled: 0,
  shared: false,
});

/** Something in the chunk must be unsettled. */
function skipSettled(chunk: Chunk): void {
  const { words } = chunk;
  let slot = chunk.start;
  while (words[slot * wordsPerLease + 3]! >= settledBit) slot++;
  chunk.start = slot;
}

/** The first slot whose lease has this ordinal or a higher one, settled or not; the chunk's end if there is none. */
function lowerBound({ words, base, start, end }: Chunk, leaseOrdinal: number): number {
  const delta = leaseOrdinal - base;
  if (delta <= words[start * wordsPerLease + 4]!) return start;
  const last = words[(end - 1) * wordsPerLease + 4]!;
  if (delta > last) return end;
  // Mostly there are no gaps, and the slot follows from the distance to the end. A gap can only make this guess too low.
  let low = Math.max(start, end - 1 - (last - delta));
  if (words[low * wordsPerLease + 4] === delta) return low;
  let high = end - 1;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (words[middle * wordsPerLease + 4]! < delta) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Copies what is unsettled to slot `to` of a chunk and behind, which may be the same one. Returns the slot behind the last. */
function copyUnsettled(from: Chunk, into: Chunk, deltaMore: number, to = 0): number {
  const { words: source, start, end } = from;
  const target = into.words;
  let t = to * wordsPerLease;
  for (let w = start * wordsPerLease; w < end * wordsPerLease; w += wordsPerLease) {
    if (source[w + 3]! >= settledBit) continue;
    target[t] = source[w]!;
    target[t + 1] = source[w + 1]!;
    target[t + 2] = source[w + 2]!;
    target[t + 3] = source[w + 3]!;
    target[t + 4] = source[w + 4]! + deltaMore;
    t += wordsPerLease;
  }
  return t / wordsPerLease;
}

/** What a consumer's leases are in a snapshot: message, history, ordinal. */
const writeLeases: WriteRows = (writer, { words, base }, from, to) => {
  for (let w = from; w < to; w += wordsPerLease) {
    if (words[w + 3]! >= settledBit) continue;
    writeReference(writer, words, w);
    writer.u32(words[w + 3]!);
    writer.u64(base + words[w + 4]!);
  }
};

/** Of leases that go back to their queue: message and history. */
export const writeReturning: WriteRows = (writer, { words }, from, to) => {
  for (let w = from; w < to; w += wordsPerLease) {
    if (words[w + 3]! >= settledBit) continue;
    writeReference(writer, words, w);
    writer.u32(words[w + 3]!);
  }
};

/** Of leases that are dropped: the message. */
export const writeDropped: WriteRows = (writer, { words }, from, to) => {
  for (let w = from; w < to; w += wordsPerLease) if (words[w + 3]! < settledBit) writeReference(writer, words, w);
};

function writeReference(writer: ByteWriter, words: Uint32Array, w: number): void {
  const high = words[w + 1]!;
  writer.reference(words[w]! + (high >>> 16) * 0x1_0000_0000, high & 0xffff, words[w + 2]!);
}
