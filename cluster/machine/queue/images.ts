// Images: parts of the state as they were when a snapshot began, written down later, piece by piece. PURE.
//
// An image refers to the chunks of a structure instead of copying them, so taking one costs a few steps per chunk at most; of a fifo, which
// may hold millions of messages, a few in all. The structure keeps the image true: what an image holds of a chunk is never written again
// (`leases.ts` and `returned.ts` write to a copy of a chunk that is shared; `fifo.ts` only ever writes behind what is there, and its pool
// takes no chunk back while a snapshot runs).

import type { ByteWriter } from './bytes.ts';

/** Structures with up to this many messages are written down at once: an image of them would cost more. */
export const writtenAtOnceMax = 128;

/** Rows of a chunk that are written at a time: chunks are large. */
export const rowsPerStep = 1024;

/** In a reference: how long the message is, is known to its queues only. */
export const unknownBytes = 0xffff_ffff;

export interface Image {
  /** Goes on writing, at least something, until the writer has `bytesMax` bytes or more. True: that was all. */
  write(writer: ByteWriter, bytesMax: number): boolean;
}

/** A queue as it was. Its arguments are apart, because their place in the snapshot depends on what was written before. */
export interface QueueImage {
  readonly arguments: string;
  readonly sections: Sections;
}

/** What an image needs of a chunk. Numbers in `words` may be relative to `base`. */
export interface Rows {
  readonly words: Uint32Array;
  readonly base: number;
}

/** Writes the rows of a chunk from word `from` to before word `to`. */
export type WriteRows = (writer: ByteWriter, chunk: Rows, from: number, to: number) => void;

/** Rows of some chunks, in their order. */
export class ChunkImage implements Image {
  readonly #writeRows: WriteRows;
  readonly #stepWords: number;
  readonly #chunks: Rows[] = [];
  /** Per chunk: the first word that is not written yet, and the one behind its last. */
  readonly #bounds: number[] = [];
  #at = 0;

  /** Without `wordsPerRow` rows differ in their lengths, and chunks are written whole. */
  constructor(writeRows: WriteRows, wordsPerRow = Number.POSITIVE_INFINITY) {
    this.#writeRows = writeRows;
    this.#stepWords = rowsPerStep * wordsPerRow;
  }

  add(chunk: Rows, from: number, to: number): void {
    this.#chunks.push(chunk);
    this.#bounds.push(from, to);
  }

  write(writer: ByteWriter, bytesMax: number): boolean {
    while (this.#at < this.#chunks.length) {
      if (writer.length >= bytesMax) return false;
      const at = this.#at;
      const from = this.#bounds[2 * at]!;
      const end = this.#bounds[2 * at + 1]!;
      const to = Math.min(from + this.#stepWords, end);
      this.#writeRows(writer, this.#chunks[at]!, from, to);
      this.#bounds[2 * at] = to;
      if (to === end) this.#at++;
    }
    return true;
  }
}

/** Small values, written down at once into `bytes`, and images of large structures between them. */
export class Sections implements Image {
  /** Shared by all sections of a snapshot, so that a small queue costs no buffer of its own. One section is gathered at a time. */
  readonly bytes: ByteWriter;
  readonly #parts: (Uint8Array | Image)[] = [];
  #at = 0;

  constructor(bytes: ByteWriter) {
    this.bytes = bytes;
  }

  add(image: Image): void {
    this.close();
    this.#parts.push(image);
  }

  /** To be called when all was added. */
  close(): void {
    for (const piece of this.bytes.pieces()) this.#parts.push(piece);
  }

  write(writer: ByteWriter, bytesMax: number): boolean {
    for (; this.#at < this.#parts.length; this.#at++) {
      if (writer.length >= bytesMax) return false;
      const part = this.#parts[this.#at]!;
      if (part instanceof Uint8Array) writer.bytes(part);
      else if (!part.write(writer, bytesMax)) return false;
    }
    return true;
  }
}
