// When messages of one queue expire by what their publishers said: those that say so, in the order in which they came, each until it has left
// the queue for good. A list of chunks of typed arrays, no object per message. PURE.
//
//   row: index low, index high << 16 | ordinal, stamp low, stamp high; both parts of the stamp 0: the message has left
//
// Messages mostly leave in the order in which they came. A chunk goes with its last row, and two sparse neighbours become one.
//
// Invariants: rows ascend by (index, ordinal), within chunks and over them; no chunk is without a row that counts. Of a chunk that an image
// holds (`shared`) only words behind its end at that time are written; all else goes to a copy.

import type { ByteReader, Steps } from './bytes.ts';
import { ChunkImage, type Rows, type Sections, type WriteRows, writtenAtOnceMax } from './images.ts';

const wordsPerRow = 4;
const rowsMin = 16;
const rowsPerChunk = 512;
/** Neighbours with so few rows that count together become one chunk. */
const joinMax = rowsPerChunk / 2;
const wordMax = 0x1_0000_0000;

interface Chunk extends Rows {
  words: Uint32Array;
  /** Words written. */
  end: number;
  /** Rows that count. */
  rows: number;
  shared: boolean;
}

export class Expirations {
  readonly #chunks: Chunk[] = [];
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
    const at = this.#chunkOf(index, ordinal);
    const chunk = this.#chunks[at];
    const w = chunk === undefined ? -1 : find(chunk, index, ordinal);
    return w < 0 ? Number.POSITIVE_INFINITY : dueAt(chunk!.words, w);
  }

  /** A message left the queue for good. It may be one that does not expire. */
  remove(index: number, ordinal: number): void {
    const at = this.#chunkOf(index, ordinal);
    let chunk = this.#chunks[at];
    const w = chunk === undefined ? -1 : find(chunk, index, ordinal);
    if (chunk === undefined || w < 0) return;
    this.length--;
    if (chunk.rows === 1) {
      this.#chunks.splice(at, 1);
      return;
    }
    if (chunk.shared) this.#chunks[at] = chunk = { ...chunk, words: chunk.words.slice(), shared: false };
    chunk.words[w + 2] = 0;
    chunk.words[w + 3] = 0;
    chunk.rows--;
    if (chunk.rows > joinMax) return;
    if (!this.#join(at)) this.#join(at - 1);
  }

  /** The bytes do not depend on how the rows lie in chunks. */
  capture(sections: Sections): void {
    sections.bytes.u32(this.length);
    if (this.length <= writtenAtOnceMax) {
      for (const chunk of this.#chunks) writeRows(sections.bytes, chunk, 0, chunk.end);
      return;
    }
    const image = new ChunkImage(writeRows, wordsPerRow);
    for (const chunk of this.#chunks) {
      image.add(chunk, 0, chunk.end);
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
      const words = new Uint32Array(last.words.length * 2);
      words.set(last.words);
      const larger = { ...last, words, shared: false };
      this.#chunks[0] = larger;
      return larger;
    }
    const words = new Uint32Array((isFirst ? rowsMin : rowsPerChunk) * wordsPerRow);
    const chunk: Chunk = { words, base: 0, end: 0, rows: 0, shared: false };
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
      for (let w = 0; w < chunk.end; w += wordsPerRow) {
        if (dueAt(chunk.words, w) === 0) continue;
        words.set(chunk.words.subarray(w, w + wordsPerRow), end);
        end += wordsPerRow;
      }
    this.#chunks.splice(at, 2, { words, base: 0, end, rows: first.rows + second.rows, shared: false });
    return true;
  }

  /** The last chunk that does not begin behind the message. */
  #chunkOf(index: number, ordinal: number): number {
    const chunks = this.#chunks;
    let low = 0;
    let high = chunks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (isBefore(index, ordinal, chunks[middle]!.words, 0)) high = middle - 1;
      else low = middle;
    }
    return low;
  }
}

/** The word where a row that counts begins, or -1. */
function find({ words, end }: Chunk, index: number, ordinal: number): number {
  let low = 0;
  let high = end / wordsPerRow - 1;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (isBefore(index, ordinal, words, middle * wordsPerRow)) high = middle - 1;
    else low = middle;
  }
  const w = low * wordsPerRow;
  const isIt = indexAt(words, w) === index && (words[w + 1]! & 0xffff) === ordinal;
  return isIt && dueAt(words, w) > 0 ? w : -1;
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
