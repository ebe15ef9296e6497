// Messages that wait, in the order of their arrival: a list of chunks of typed arrays, 12 bytes a message and no object. PURE.
//
// A message is (entry index, ordinal, bytes of its body). A chunk keeps indices relative to its first one, so that 32 bits do.
// Chunks come in four sizes: a queue begins with the smallest, so that a hundred thousand short queues stay small; and millions of messages
// lie in few arrays, each of which the garbage collector looks at in a pause. Emptied chunks go to a pool that all queues of a shard share.
//
// Words are only ever written behind those that are there, and where a chunk begins and which one follows does not change once it is not the
// last: an image is the first chunk and the last, however many lie between. While images are about, the pool takes no chunk back.

import type { ByteReader, ByteWriter, Steps } from './bytes.ts';
import { type Image, type Rows, rowsPerStep, type Sections, type WriteRows, writtenAtOnceMax } from './images.ts';
import type { LiveCounts } from './live.ts';

/** Messages per chunk: of a fifo's first chunk, its second, its third, all others. */
const chunkSizes = [16, 128, 1024, 8192] as const;
type Size = 0 | 1 | 2 | 3;
/** Free chunks kept. */
const pooledChunksMax = [256, 256, 256, 32] as const;
const wordsPerMessage = 3;

/** `words`, per message: index - base, ordinal, bytes. */
interface Chunk extends Rows {
  readonly size: Size;
  base: number;
  /** Its first word as long as nothing was taken of it here: 0, unless it was the first chunk of a fifo that was absorbed. */
  start: number;
  /** Words written. */
  end: number;
  next: Chunk | null;
}

export class ChunkPool {
  readonly #free: Readonly<Record<Size, Chunk[]>> = [[], [], [], []];
  /** There are images that may refer to chunks: none is used anew. */
  imaged = false;

  take(size: Size, base: number): Chunk {
    const chunk = this.#free[size].pop();
    if (chunk === undefined) {
      const words = new Uint32Array(chunkSizes[size] * wordsPerMessage);
      return { size, words, base, start: 0, end: 0, next: null };
    }
    chunk.base = base;
    return chunk;
  }

  give(chunk: Chunk): void {
    if (this.imaged) return;
    chunk.start = 0;
    chunk.end = 0;
    chunk.next = null;
    const free = this.#free[chunk.size];
    if (free.length < pooledChunksMax[chunk.size]) free.push(chunk);
  }
}

export class Fifo {
  readonly #pool: ChunkPool;
  #head: Chunk | null = null;
  #tail: Chunk | null = null;
  /** Where the first message is in the first chunk. */
  #start = 0;
  length = 0;
  /** Sum of the messages' bytes. */
  totalBytes = 0;

  constructor(pool: ChunkPool) {
    this.#pool = pool;
  }

  push(index: number, ordinal: number, bytes: number): void {
    let chunk = this.#tail;
    let delta = chunk === null ? -1 : index - chunk.base;
    if (chunk === null || chunk.end === chunk.words.length || delta < 0 || delta > 0xffff_ffff) {
      chunk = this.#grow(index);
      delta = 0;
    }
    const { words, end } = chunk;
    words[end] = delta;
    words[end + 1] = ordinal;
    words[end + 2] = bytes;
    chunk.end = end + wordsPerMessage;
    this.length++;
    this.totalBytes += bytes;
  }

  /** The first message. The fifo must not be empty. */
  get index(): number {
    const chunk = this.#head!;
    return chunk.base + chunk.words[this.#start]!;
  }
  get ordinal(): number {
    return this.#head!.words[this.#start + 1]!;
  }
  get bytes(): number {
    return this.#head!.words[this.#start + 2]!;
  }

  /** Drops the first message. */
  shift(): void {
    const chunk = this.#head!;
    this.length--;
    this.totalBytes -= chunk.words[this.#start + 2]!;
    this.#start += wordsPerMessage;
    if (this.#start < chunk.end) return;
    this.#head = chunk.next;
    if (chunk.next === null) this.#tail = null;
    else this.#start = chunk.next.start;
    this.#pool.give(chunk);
  }

  /** Takes over all messages of the other fifo, which is empty then. Constant time. The pools must be the same. */
  absorb(other: Fifo): void {
    if (other.length === 0) return;
    if (this.#tail === null) {
      this.#head = other.#head;
      this.#start = other.#start;
    } else {
      // An image of the other one may hold the chunk as it was.
      const first: Chunk = { ...other.#head!, start: other.#start };
      this.#tail.next = first;
      if (other.#tail === other.#head) other.#tail = first;
    }
    this.#tail = other.#tail;
    this.length += other.length;
    this.totalBytes += other.totalBytes;
    other.#head = null;
    other.#tail = null;
    other.length = 0;
    other.totalBytes = 0;
  }

  /** Count and messages; the bytes do not depend on how the messages lie in chunks. */
  capture(sections: Sections): void {
    sections.bytes.u32(this.length);
    this.captureRows(sections);
  }

  captureRows(sections: Sections): void {
    const tail = this.#tail;
    if (tail === null) return;
    const image = new FifoImage(this.#head!, this.#start, tail);
    if (this.length > writtenAtOnceMax) sections.add(image);
    else image.write(sections.bytes, Number.POSITIVE_INFINITY);
  }

  /** Appends what `capture` wrote, and counts each message as live. */
  *restore(reader: ByteReader, live: LiveCounts): Steps {
    for (let count = reader.u32(); count > 0; count--) {
      if (reader.isTired) yield;
      reader.reference();
      this.push(reader.index, reader.ordinal, reader.bytes);
      live.add(reader.index);
    }
  }

  #grow(index: number): Chunk {
    const tail = this.#tail;
    const size = tail === null ? 0 : (Math.min(tail.size + 1, 3) as Size);
    const chunk = this.#pool.take(size, index);
    if (tail === null) {
      this.#head = chunk;
      this.#start = 0;
    } else tail.next = chunk;
    this.#tail = chunk;
    return chunk;
  }
}

/** The messages from a place in the first chunk to the end that the last one had when this began. */
class FifoImage implements Image {
  #chunk: Chunk | null;
  #start: number;
  readonly #last: Chunk;
  readonly #end: number;

  constructor(first: Chunk, start: number, last: Chunk) {
    this.#chunk = first;
    this.#start = start;
    this.#last = last;
    this.#end = last.end;
  }

  write(writer: ByteWriter, bytesMax: number): boolean {
    for (let chunk = this.#chunk; chunk !== null; chunk = this.#chunk) {
      if (writer.length >= bytesMax) return false;
      const isLast = chunk === this.#last;
      const end = isLast ? this.#end : chunk.end;
      const from = this.#start;
      this.#start = Math.min(end, from + rowsPerStep * wordsPerMessage);
      writeRows(writer, chunk, from, this.#start);
      if (this.#start < end) continue;
      this.#chunk = isLast ? null : chunk.next;
      this.#start = this.#chunk === null ? 0 : this.#chunk.start;
    }
    return true;
  }
}

const writeRows: WriteRows = (writer, { words, base }, from, to) => {
  for (let w = from; w < to; w += wordsPerMessage) writer.reference(base + words[w]!, words[w + 1]!, words[w + 2]!);
};
