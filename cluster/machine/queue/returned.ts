// Messages that came back to their queue, to be served before all that never went out, each at its original place: a binary heap by
// (entry index, ordinal) in one typed array. PURE.
//
// Messages are only ever taken from a queue's front, so whatever comes back belongs before the fifo's head. Returning in ascending order,
// as a consumer's leases do, costs no moves.

import type { ByteReader, ByteWriter } from './bytes.ts';
import type { LiveCounts } from './live.ts';

/** Words per message: index low, index high << 16 | ordinal, bytes, history. */
const wordsPerMessage = 4;
const messagesMin = 16;
/** A larger array is let go when it is empty. */
const keptMessagesMax = 1024;

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
    const low = words[w]!;
    const high = words[w + 1]!;
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
    for (const slot of slots) {
      const w = slot * wordsPerMessage;
      const index = words[w]! + (words[w + 1]! >>> 16) * 0x1_0000_0000;
      writer.reference(index, words[w + 1]! & 0xffff, words[w + 2]!);
      writer.u32(words[w + 3]!);
    }
  }

  /** Of an empty object. Counts each message as live, and returns the sum of their bytes. */
  restore(reader: ByteReader, live: LiveCounts): number {
    let bytes = 0;
    for (let count = reader.u32(); count > 0; count--) {
      reader.reference();
      this.push(reader.index, reader.ordinal, reader.bytes, reader.u32());
      live.add(reader.index);
      bytes += reader.bytes;
    }
    return bytes;
  }
}

/** Does the message (low, high) come before the one in `slot`? */
function precedes(low: number, high: number, words: Uint32Array, slot: number): boolean {
  const w = slot * wordsPerMessage;
  const otherLow = words[w]!;
  const otherHigh = words[w + 1]!;
  if (high >>> 16 !== otherHigh >>> 16) return high >>> 16 < otherHigh >>> 16;
  return low !== otherLow ? low < otherLow : high < otherHigh;
}

function copy(words: Uint32Array, from: number, to: number): void {
  const w = from * wordsPerMessage;
  const v = to * wordsPerMessage;
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
