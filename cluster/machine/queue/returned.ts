// Messages that came back to their queue, to be served before all that never went out, each at its original place: a binary heap by
// (entry index, ordinal) in one typed array. PURE.
//
// Messages are only ever taken from a queue's front, so whatever comes back belongs before the fifo's head. Returning in ascending order,
// as a consumer's leases do, costs no moves.

import type { ByteReader, ByteWriter } from './bytes.ts';
import { readReferenceBytes, readReferenceIndex, readReferenceOrdinal, writeReference } from './fifo.ts';

/** Words per message: index low, index high << 16 | ordinal, bytes, history. */
const wordsPerMessage = 4;
const messagesMin = 16;
/** A larger array is let go when it is empty. */
const keptMessagesMax = 1024;
const recordBytes = 16;

export class Returned {
  #words = new Uint32Array(messagesMin * wordsPerMessage);
  length = 0;

  push(index: number, ordinal: number, bytes: number, history: number): void {
    if (this.length * wordsPerMessage === this.#words.length) {
      const larger = new Uint32Array(this.#words.length * 2);
      larger.set(this.#words);
      this.#words = larger;
    }
    const words = this.#words;
    const low = index >>> 0;
    const high = ((Math.floor(index / 0x1_0000_0000) << 16) | ordinal) >>> 0;
    let hole = this.length++;
    while (hole > 0) {
      const parent = (hole - 1) >>> 1;
      if (!precedes(low, high, words, parent)) break;
      copy(words, parent, hole);
      hole = parent;
    }
    store(words, hole, low, high, bytes, history);
  }

  /** The first message. The heap must not be empty. */
  get index(): number {
    return this.#words[0]! + (this.#words[1]! >>> 16) * 0x1_0000_0000;
  }
  get ordinal(): number {
    return this.#words[1]! & 0xffff;
  }
  get bytes(): number {
    return this.#words[2]!;
  }
  get history(): number {
    return this.#words[3]!;
  }

  /** Drops the first message. */
  shift(): void {
    const words = this.#words;
    const last = --this.length;
    if (last === 0) {
      if (words.length > keptMessagesMax * wordsPerMessage)
        this.#words = new Uint32Array(messagesMin * wordsPerMessage);
      return;
    }
    const w = last * wordsPerMessage;
    const [low, high] = [words[w]!, words[w + 1]!];
    let hole = 0;
    for (let child = 1; child < last; child = 2 * hole + 1) {
      const right = child + 1;
      if (right < last && precedes(words[right * wordsPerMessage]!, words[right * wordsPerMessage + 1]!, words, child))
        child = right;
      if (precedes(low, high, words, child)) break;
      copy(words, child, hole);
      hole = child;
    }
    store(words, hole, low, high, words[w + 2]!, words[w + 3]!);
  }

  /** In ascending order, so that the bytes do not depend on the heap's history. */
  serialise(writer: ByteWriter): void {
    writer.u32(this.length);
    const words = this.#words;
    const slots = Uint32Array.from({ length: this.length }, (_, i) => i);
    slots.sort((a, b) => {
      const [v, w] = [a * wordsPerMessage, b * wordsPerMessage];
      const high = (words[v + 1]! >>> 16) - (words[w + 1]! >>> 16);
      return high || words[v]! - words[w]! || words[v + 1]! - words[w + 1]!;
    });
    const room = writer.room(this.length * recordBytes);
    let at = 0;
    for (const slot of slots) {
      const w = slot * wordsPerMessage;
      const index = words[w]! + (words[w + 1]! >>> 16) * 0x1_0000_0000;
      writeReference(room, at, index, words[w + 1]! & 0xffff, words[w + 2]!);
      room.writeUInt32LE(words[w + 3]!, at + 12);
      at += recordBytes;
    }
  }

  /** Of an empty object. Tells of each message's entry and bytes. */
  restore(reader: ByteReader, onMessage: (index: number, bytes: number) => void): void {
    const records = reader.take(reader.u32() * recordBytes);
    for (let at = 0; at < records.length; at += recordBytes) {
      const index = readReferenceIndex(records, at);
      const bytes = readReferenceBytes(records, at);
      this.push(index, readReferenceOrdinal(records, at), bytes, records.readUInt32LE(at + 12));
      onMessage(index, bytes);
    }
  }
}

/** Does the message (low, high) come before the one in `slot`? */
function precedes(low: number, high: number, words: Uint32Array, slot: number): boolean {
  const w = slot * wordsPerMessage;
  const [otherLow, otherHigh] = [words[w]!, words[w + 1]!];
  if (high >>> 16 !== otherHigh >>> 16) return high >>> 16 < otherHigh >>> 16;
  return low !== otherLow ? low < otherLow : high < otherHigh;
}

function copy(words: Uint32Array, from: number, to: number): void {
  const [w, v] = [from * wordsPerMessage, to * wordsPerMessage];
  words[v] = words[w]!;
  words[v + 1] = words[w + 1]!;
  words[v + 2] = words[w + 2]!;
  words[v + 3] = words[w + 3]!;
}

function store(words: Uint32Array, slot: number, low: number, high: number, bytes: number, history: number): void {
  const w = slot * wordsPerMessage;
  words[w] = low;
  words[w + 1] = high;
  words[w + 2] = bytes;
  words[w + 3] = history;
}
