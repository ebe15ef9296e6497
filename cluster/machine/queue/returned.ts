// Messages that came back to their queue, to be served before all that never went out, each at its original place: sorted by (entry
// index, ordinal), in a list of chunks of typed arrays. PURE.
//
// Messages are only ever taken from a queue's front, so whatever comes back belongs before the fifo's head. Returning in ascending order,
// as a consumer's leases do, appends; anything else moves up to half a chunk.
//
// Invariants: no chunk is empty. Of a chunk that an image holds (`shared`) only slots behind its end at that time are written; all else
// goes to a copy.

import type { ByteReader, ByteWriter, Steps } from './bytes.ts';
import { ChunkImage, type Rows, type Sections, type WriteRows, writtenAtOnceMax } from './images.ts';
import type { LiveCounts } from './live.ts';

/** Words per message: index low, index high << 16 | ordinal, bytes, history. */
const wordsPerMessage = 4;
const messagesMin = 16;
/** Many: of millions the garbage collector has few arrays to look at. */
const messagesPerChunk = 4096;
/** A larger chunk is let go when the last message goes. */
const keptMessagesMax = 64;

interface Chunk extends Rows {
  /** Words: the first in use, and the next free one. */
  start: number;
  end: number;
  shared: boolean;
}

export class Returned {
  readonly #chunks: Chunk[] = [];
  /** A chunk to be used again. Never shared. */
  #spare: Chunk | null = null;
  length = 0;
  /** Sum of the messages' bytes. */
  totalBytes = 0;

  push(index: number, ordinal: number, bytes: number, history: number): void {
    const low = index >>> 0;
    const high = ((Math.floor(index / 0x1_0000_0000) << 16) | ordinal) >>> 0;
    const chunks = this.#chunks;
    const at = this.#chunkFor(low, high);
    let chunk = chunks[at];
    let w: number;
    if (chunk === undefined || !precedes(chunk.words, chunk.start, low, high)) {
      // Between two chunks, or at either end: so that what comes in ascending or descending order moves nothing.
      chunk = this.#roomBefore(at);
      if (chunks[at] === chunk && chunk.start > 0) {
        chunk.start -= wordsPerMessage;
        w = chunk.start;
      } else {
        w = chunk.end;
        chunk.end += wordsPerMessage;
      }
    } else {
      chunk = this.#withRoom(at, low, high);
      w = openGap(chunk, insertionPoint(chunk, low, high));
    }
    const words = chunk.words;
    words[w] = low;
    words[w + 1] = high;
    words[w + 2] = bytes;
    words[w + 3] = history;
    this.length++;
    this.totalBytes += bytes;
  }

  /** The first message. There must be one. */
  get index(): number {
    const { words, start } = this.#chunks[0]!;
    return words[start]! + (words[start + 1]! >>> 16) * 0x1_0000_0000;
  }
  get ordinal(): number {
    const { words, start } = this.#chunks[0]!;
    return words[start + 1]! & 0xffff;
  }
  get bytes(): number {
    const { words, start } = this.#chunks[0]!;
    return words[start + 2]!;
  }
  get history(): number {
    const { words, start } = this.#chunks[0]!;
    return words[start + 3]!;
  }

  /** Drops the first message. */
  shift(): void {
    const chunk = this.#chunks[0]!;
    this.length--;
    this.totalBytes -= chunk.words[chunk.start + 2]!;
    chunk.start += wordsPerMessage;
    if (chunk.start < chunk.end) return;
    this.#chunks.shift();
    const keep = !chunk.shared && (this.length > 0 || chunk.words.length <= keptMessagesMax * wordsPerMessage);
    this.#spare = keep ? chunk : null;
  }

  /** In order; the bytes do not depend on how the messages lie in chunks. */
  capture(sections: Sections): void {
    sections.bytes.u32(this.length);
    this.captureRows(sections, writeReturned);
  }

  /** Only the messages, each as `writeRows` does it. */
  captureRows(sections: Sections, writeRows: WriteRows): void {
    if (this.length <= writtenAtOnceMax) {
      for (const chunk of this.#chunks) writeRows(sections.bytes, chunk, chunk.start, chunk.end);
      return;
    }
    const image = new ChunkImage(writeRows, wordsPerMessage);
    for (const chunk of this.#chunks) {
      image.add(chunk, chunk.start, chunk.end);
      chunk.shared = true;
    }
    sections.add(image);
  }

  /** Of an empty object. Counts each message as live. */
  *restore(reader: ByteReader, live: LiveCounts): Steps {
    for (let count = reader.u32(); count > 0; count--) {
      if (reader.isTired) yield;
      reader.reference();
      this.push(reader.index, reader.ordinal, reader.bytes, reader.u32());
      live.add(reader.index);
    }
  }

  /** Room for a message before the chunk at `at` and behind the one before: in one of them, or in a new one. */
  #roomBefore(at: number): Chunk {
    const chunks = this.#chunks;
    const before = chunks[at - 1];
    if (before !== undefined && before.end < before.words.length) return before;
    const behind = chunks[at];
    if (behind !== undefined && behind.start > 0 && !behind.shared) return behind;
    const only = chunks.length === 1 ? chunks[0]! : null;
    if (only !== null && only.words.length < messagesPerChunk * wordsPerMessage) {
      const used = only.end - only.start;
      const slots = (used * 2 > only.words.length ? only.words.length * 2 : only.words.length) / wordsPerMessage;
      return this.#copy(0, only.start, only.end, slots, only === behind);
    }
    const chunk = this.#take(chunks.length === 0 ? messagesMin : messagesPerChunk);
    if (behind !== undefined && before === undefined) {
      // At the front there may be more to come on either side.
      chunk.start = chunk.words.length >> 1;
      chunk.end = chunk.start;
    }
    if (at === chunks.length) chunks.push(chunk);
    else chunks.splice(at, 0, chunk);
    return chunk;
  }

  /** The spare chunk if it is large enough, or a new one. Empty. */
  #take(messages: number): Chunk {
    const spare = this.#spare;
    if (spare === null || spare.words.length < messages * wordsPerMessage)
      return { words: new Uint32Array(messages * wordsPerMessage), base: 0, start: 0, end: 0, shared: false };
    this.#spare = null;
    spare.start = 0;
    spare.end = 0;
    return spare;
  }

  /** Puts a new chunk with these words of an old one in its place, with the room that is left behind or before them. */
  #copy(at: number, from: number, to: number, messages: number, roomBefore = false): Chunk {
    const old = this.#chunks[at]!;
    const chunk = this.#take(messages);
    if (roomBefore) chunk.start = chunk.words.length - (to - from);
    chunk.words.set(old.words.subarray(from, to), chunk.start);
    chunk.end = chunk.start + to - from;
    this.#chunks[at] = chunk;
    return chunk;
  }

  /** The first chunk whose last message follows this one; the number of chunks if there is none, as mostly. */
  #chunkFor(low: number, high: number): number {
    const chunks = this.#chunks;
    let first = 0;
    let last = chunks.length - 1;
    if (last < 0 || precedes(chunks[last]!.words, chunks[last]!.end - wordsPerMessage, low, high)) return last + 1;
    while (first < last) {
      const middle = (first + last) >>> 1;
      const { words, end } = chunks[middle]!;
      if (precedes(words, end - wordsPerMessage, low, high)) first = middle + 1;
      else last = middle;
    }
    return first;
  }

  /** The chunk for a message that belongs between those of this one, with room and not shared: it may have been copied, doubled or split. */
  #withRoom(at: number, low: number, high: number): Chunk {
    const chunks = this.#chunks;
    const chunk = chunks[at]!;
    const { start, end, words } = chunk;
    if (end - start < words.length) {
      return chunk.shared ? this.#copy(at, start, end, words.length / wordsPerMessage) : chunk;
    }
    if (words.length < messagesPerChunk * wordsPerMessage)
      return this.#copy(at, start, end, (words.length * 2) / wordsPerMessage);
    const half = start + ((end - start) >>> 1);
    const second = this.#take(messagesPerChunk);
    second.words.set(words.subarray(half, end));
    second.end = end - half;
    chunks.splice(at + 1, 0, second);
    if (chunk.shared) this.#copy(at, start, half, messagesPerChunk);
    else chunk.end = half;
    return precedes(words, half - wordsPerMessage, low, high) ? second : chunks[at]!;
  }
}

/** Does the message at word `w` come before (low, high)? */
function precedes(words: Uint32Array, w: number, low: number, high: number): boolean {
  const otherLow = words[w]!;
  const otherHigh = words[w + 1]!;
  if (high >>> 16 !== otherHigh >>> 16) return otherHigh >>> 16 < high >>> 16;
  return low !== otherLow ? otherLow < low : otherHigh < high;
}

/** The word of the first message that does not come before (low, high), or the chunk's end. */
function insertionPoint({ words, start, end }: Chunk, low: number, high: number): number {
  let first = start / wordsPerMessage;
  let last = end / wordsPerMessage;
  while (first < last) {
    const middle = (first + last) >>> 1;
    if (precedes(words, middle * wordsPerMessage, low, high)) first = middle + 1;
    else last = middle;
  }
  return first * wordsPerMessage;
}

/** Makes room for a message before word `w`, on the side where less has to move. Returns the word where it goes. */
function openGap(chunk: Chunk, w: number): number {
  const { words, start, end } = chunk;
  if (start > 0 && (end === words.length || w - start < end - w)) {
    if (w > start) words.copyWithin(start - wordsPerMessage, start, w);
    chunk.start = start - wordsPerMessage;
    return w - wordsPerMessage;
  }
  if (w < end) words.copyWithin(w + wordsPerMessage, w, end);
  chunk.end = end + wordsPerMessage;
  return w;
}

const writeReturned: WriteRows = (writer, { words }, from, to) => {
  for (let w = from; w < to; w += wordsPerMessage) {
    writeReference(writer, words, w);
    writer.u32(words[w + 3]!);
  }
};

/** Of messages that are dropped: without their history. */
export const writePurged: WriteRows = (writer, { words }, from, to) => {
  for (let w = from; w < to; w += wordsPerMessage) writeReference(writer, words, w);
};

function writeReference(writer: ByteWriter, words: Uint32Array, w: number): void {
  const high = words[w + 1]!;
  writer.reference(words[w]! + (high >>> 16) * 0x1_0000_0000, high & 0xffff, words[w + 2]!);
}
