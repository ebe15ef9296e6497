// When messages of one queue expire by what their publishers said: those that say so, in the order in which they came, each until it has left
// the queue for good. A list of chunks of typed arrays, no object per message. PURE.
//
//   row: index low, index high << 16 | ordinal, stamp low, stamp high; both parts of the stamp 0: the message has left
//
// Messages mostly leave in the order in which they came, so a row is sought first where the last one was found and right behind it, and what goes
// from a chunk's front costs no writing. A chunk goes with its last row, and two sparse neighbours become one.
//
// Invariants: rows ascend by (index, ordinal), within chunks and over them; the first row of each chunk counts. Of a chunk that an image
// holds (`shared`) only words behind its end at that time are written; all else goes to a copy.

import type { ByteReader, Steps } from './bytes.ts';
import { ChunkImage, type Rows, type Sections, type WriteRows, writtenAtOnceMax } from './images.ts';

const wordsPerRow = 4;
const rowsMin = 16;
/** Long lists in few array buffers: the collector looks at each of them. */
const rowsPerChunk = 4_096;
/** Neighbours with so few rows that count together become one chunk. */
const joinMax = rowsPerChunk / 2;
const wordMax = 0x1_0000_0000;

interface Chunk extends Rows {
  words: Uint32Array;
  /** The word where the first row that counts begins. What lies before it is of no account. */
  start: number;
  /** Words written. */
  end: number;
  /** Rows that count. */
  rows: number;
  shared: boolean;
}

export class Expirations {
  readonly #chunks: Chunk[] = [];
  /** Where the last row was found: the chunk's place and the word. There may be another one by now, or none. */
  #at = 0;
  #word = 0;
  /** Messages. */
  length = 0;

  /** A message came, behind all others. `due`: the stamp at which it expires, not 0. */
  add(index: number, ordinal: number, due: number): void {
    let chunk = this.#chunks[this.#chunks.length - 1];
    if (chunk === undefined || chunk.end === chunk.words.length) chunk = this.#grow(chunk);
    const { words, end } = chunk;
    words[end] = index;
    words[end + 1] = (Math.floor(index / wordMax) << 16) | ordinal;
    words[end + 2] = due;
    words[end + 3] = Math.floor(due / wordMax);
    chunk.end = end + wordsPerRow;
    chunk.rows++;
    this.length++;
  }

  /** The stamp at which a message expires; Infinity: it does not. */
  due(index: number, ordinal: number): number {
    return this.#find(index, ordinal) ? dueAt(this.#chunks[this.#at]!.words, this.#word) : Number.POSITIVE_INFINITY;
  }

  /** A message left the queue for good. It may be one that does not expire. */
  remove(index: number, ordinal: number): void {
    if (!this.#find(index, ordinal)) return;
    const at = this.#at;
    let chunk = this.#chunks[at]!;
    this.length--;
    if (chunk.rows === 1) {
      if (at === 0) this.#chunks.shift();
      else this.#chunks.splice(at, 1);
      this.#word = this.#chunks[at]?.start ?? 0;
      return;
    }
    if (this.#word === chunk.start) {
      do chunk.start += wordsPerRow;
      while (dueAt(chunk.words, chunk.start) === 0);
      this.#word = chunk.start;
    } else {
      if (chunk.shared) this.#chunks[at] = chunk = { ...chunk, words: chunk.words.slice(), shared: false };
      chunk.words[this.#word + 2] = 0;
      chunk.words[this.#word + 3] = 0;
    }
    chunk.rows--;
    if (chunk.rows > joinMax) return;
    if (!this.#join(at)) this.#join(at - 1);
  }

  /** The bytes do not depend on how the rows lie in chunks. */
  capture(sections: Sections): void {
    sections.bytes.u32(this.length);
    if (this.length <= writtenAtOnceMax) {
      for (const chunk of this.#chunks) writeRows(sections.bytes, chunk, chunk.start, chunk.end);
      return;
    }
    const image = new ChunkImage(writeRows, wordsPerRow);
    for (const chunk of this.#chunks) {
      image.add(chunk, chunk.start, chunk.end);
      chunk.shared = true;
    }
    sections.add(image);
  }

  /** Of an empty object. */
  *restore(reader: ByteReader): Steps {
    for (let count = reader.u32(); count > 0; count--) {
      if (reader.isTired) yield;
      const index = reader.u64();
      this.add(index, reader.u32(), reader.u64());
    }
  }

  #grow(last: Chunk | undefined): Chunk {
    const isFirst = last === undefined;
    if (last !== undefined && this.#chunks.length === 1 && last.words.length < rowsPerChunk * wordsPerRow) {
      const { start, end } = last;
      const left = end - start;
      // A few that come and go need no more room in the long run.
      const words = new Uint32Array(2 * left > last.words.length ? 2 * last.words.length : last.words.length);
      words.set(last.words.subarray(start, end));
      const fresh = { ...last, words, start: 0, end: left, shared: false };
      this.#chunks[0] = fresh;
      return fresh;
    }
    const words = new Uint32Array((isFirst ? rowsMin : rowsPerChunk) * wordsPerRow);
    const chunk: Chunk = { words, base: 0, start: 0, end: 0, rows: 0, shared: false };
    this.#chunks.push(chunk);
    return chunk;
  }

  /** Makes one chunk of this one and the next, if both are there and sparse. */
  #join(at: number): boolean {
    const [first, second] = [this.#chunks[at], this.#chunks[at + 1]];
    if (first === undefined || second === undefined || first.rows + second.rows > joinMax) return false;
    const words = new Uint32Array(rowsPerChunk * wordsPerRow);
    let end = 0;
    for (const chunk of [first, second])
      for (let w = chunk.start; w < chunk.end; w += wordsPerRow) {
        if (dueAt(chunk.words, w) === 0) continue;
        words.set(chunk.words.subarray(w, w + wordsPerRow), end);
        end += wordsPerRow;
      }
    this.#chunks.splice(at, 2, { words, base: 0, start: 0, end, rows: first.rows + second.rows, shared: false });
    return true;
  }

  /** Whether the message is there; then the place that was found last is its own. */
  #find(index: number, ordinal: number): boolean {
    const chunks = this.#chunks;
    const near = chunks[this.#at];
    if (near !== undefined) {
      if (isRow(near, this.#word, index, ordinal)) return true;
      if (isRow(near, this.#word + wordsPerRow, index, ordinal)) {
        this.#word += wordsPerRow;
        return true;
      }
    }
    const at = this.#chunkOf(index, ordinal);
    const chunk = chunks[at];
    if (chunk === undefined) return false;
    const word = lastNotBehind(chunk, index, ordinal);
    if (!isRow(chunk, word, index, ordinal)) return false;
    this.#at = at;
    this.#word = word;
    return true;
  }

  /** The last chunk that does not begin behind the message. */
  #chunkOf(index: number, ordinal: number): number {
    const chunks = this.#chunks;
    let low = 0;
    let high = chunks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      const { words, start } = chunks[middle]!;
      if (isBefore(index, ordinal, words, start)) high = middle - 1;
      else low = middle;
    }
    return low;
  }
}

/** The word of the last row that is not behind the message, of a chunk that does not begin behind it. */
function lastNotBehind({ words, start, end }: Chunk, index: number, ordinal: number): number {
  let low = start / wordsPerRow;
  let high = end / wordsPerRow - 1;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (isBefore(index, ordinal, words, middle * wordsPerRow)) high = middle - 1;
    else low = middle;
  }
  return low * wordsPerRow;
}

/** Whether this is the message's row, and counts. */
function isRow({ words, start, end }: Chunk, w: number, index: number, ordinal: number): boolean {
  if (w < start || w >= end) return false;
  return indexAt(words, w) === index && (words[w + 1]! & 0xffff) === ordinal && dueAt(words, w) > 0;
}

function isBefore(index: number, ordinal: number, words: Uint32Array, w: number): boolean {
  const other = indexAt(words, w);
  return index !== other ? index < other : ordinal < (words[w + 1]! & 0xffff);
}

const indexAt = (words: Uint32Array, w: number): number => words[w]! + (words[w + 1]! >>> 16) * wordMax;
const dueAt = (words: Uint32Array, w: number): number => words[w + 2]! + words[w + 3]! * wordMax;

const writeRows: WriteRows = (writer, { words }, from, to) => {
  for (let w = from; w < to; w += wordsPerRow) {
    const due = dueAt(words, w);
    if (due === 0) continue;
    writer.u64(indexAt(words, w));
    writer.u32(words[w + 1]! & 0xffff);
    writer.u64(due);
  }
};
