// Rows that name a message and carry a few numbers, first in, first out: dead letters, and what an outbox holds for one target. A list of
// chunks of typed arrays, no object per row. PURE.
//
//   row: index low, index high << 16 | ordinal, count of values, values
//
// Words once written never change, and a chunk is never used again: an image stays true by itself.

import type { ByteReader, ByteWriter, Steps } from './bytes.ts';
import { ChunkImage, type Rows, type Sections, unknownBytes, type WriteRows, writtenAtOnceMax } from './images.ts';

/** Words per chunk: of the first one, and of all others. A row that needs more gets a chunk of its own. */
const firstChunkWords = 64;
const chunkWords = 4096;
const headWords = 3;

interface Chunk extends Rows {
  /** Words taken from the front, and words written. */
  start: number;
  end: number;
  /** Rows between them. */
  rows: number;
  next: Chunk | null;
}

export class RowFifo {
  #head: Chunk | null = null;
  #tail: Chunk | null = null;
  length = 0;

  push(index: number, ordinal: number, values: readonly number[]): void {
    const count = headWords + values.length;
    let chunk = this.#tail;
    if (chunk === null || chunk.end + count > chunk.words.length) chunk = this.#grow(count);
    const { words, end } = chunk;
    words[end] = index;
    words[end + 1] = (Math.floor(index / 0x1_0000_0000) << 16) | ordinal;
    words[end + 2] = values.length;
    for (let i = 0; i < values.length; i++) words[end + headWords + i] = values[i]!;
    chunk.end = end + count;
    chunk.rows++;
    this.length++;
  }

  /** The first row. There must be one. */
  get index(): number {
    const { words, start } = this.#head!;
    return indexAt(words, start);
  }
  get ordinal(): number {
    const { words, start } = this.#head!;
    return words[start + 1]! & 0xffff;
  }
  /** Its first value. */
  get value(): number {
    const { words, start } = this.#head!;
    return words[start + headWords]!;
  }

  /** Drops the first row. */
  shift(): void {
    const chunk = this.#head!;
    chunk.start += headWords + chunk.words[chunk.start + 2]!;
    chunk.rows--;
    this.length--;
    if (chunk.rows > 0) return;
    this.#head = chunk.next;
    if (chunk.next === null) this.#tail = null;
  }

  /** Shows up to `max` rows behind the first `skip` ones, in order. Skipping takes a step per chunk. */
  read(skip: number, max: number, visit: (index: number, ordinal: number, values: Uint32Array) => void): void {
    let chunk = this.#head;
    let before = skip;
    for (; chunk !== null && before >= chunk.rows; chunk = chunk.next) before -= chunk.rows;
    for (let left = max; chunk !== null && left > 0; chunk = chunk.next) {
      const { words, end } = chunk;
      for (let at = chunk.start; at < end && left > 0; ) {
        const next = at + headWords + words[at + 2]!;
        if (before > 0) before--;
        else {
          visit(indexAt(words, at), words[at + 1]! & 0xffff, words.subarray(at + headWords, next));
          left--;
        }
        at = next;
      }
    }
  }

  /** The bytes do not depend on how the rows lie in chunks. */
  capture(sections: Sections): void {
    sections.bytes.u32(this.length);
    this.#captureRows(sections, writeWords);
  }

  /** Only the messages, without their bytes, which are not known here. */
  captureReferences(sections: Sections): void {
    this.#captureRows(sections, writeReferences);
  }

  /** Appends what `capture` wrote, and shows each row. */
  *restore(reader: ByteReader, visit: (index: number, ordinal: number, values: readonly number[]) => void): Steps {
    for (let rows = reader.u32(); rows > 0; rows--) {
      if (reader.isTired) yield;
      const low = reader.u32();
      const high = reader.u32();
      const values: number[] = [];
      for (let count = reader.u32(); count > 0; count--) values.push(reader.u32());
      const index = low + (high >>> 16) * 0x1_0000_0000;
      this.push(index, high & 0xffff, values);
      visit(index, high & 0xffff, values);
    }
  }

  #captureRows(sections: Sections, writeRows: WriteRows): void {
    const image = this.length > writtenAtOnceMax ? new ChunkImage(writeRows) : null;
    for (let chunk = this.#head; chunk !== null; chunk = chunk.next) {
      if (image !== null) image.add(chunk, chunk.start, chunk.end);
      else writeRows(sections.bytes, chunk, chunk.start, chunk.end);
    }
    if (image !== null) sections.add(image);
  }

  #grow(count: number): Chunk {
    const tail = this.#tail;
    const size = Math.max(tail === null ? firstChunkWords : chunkWords, count);
    const chunk: Chunk = { words: new Uint32Array(size), base: 0, start: 0, end: 0, rows: 0, next: null };
    if (tail === null) this.#head = chunk;
    else tail.next = chunk;
    this.#tail = chunk;
    return chunk;
  }
}

function writeWords(writer: ByteWriter, { words }: Rows, from: number, to: number): void {
  for (let at = from; at < to; at++) writer.u32(words[at]!);
}

const writeReferences: WriteRows = (writer, { words }, from, to) => {
  for (let at = from; at < to; at += headWords + words[at + 2]!)
    writer.reference(indexAt(words, at), words[at + 1]! & 0xffff, unknownBytes);
};

const indexAt = (words: Uint32Array, at: number): number => words[at]! + (words[at + 1]! >>> 16) * 0x1_0000_0000;
