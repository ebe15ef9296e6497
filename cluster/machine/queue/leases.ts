// The unsettled leases of one consumer, by ordinal: typed arrays in a line, appended at the tail, no object per lease. PURE.
//
// Leases are settled in any order: a settled one is marked, and the head moves past those marked at the front. When the arrays are full,
// the marked ones between are squeezed out, or the arrays double; so they stay within a small factor of what is unsettled, also when one
// old lease is never settled. Ordinals ascend from head to tail and have gaps only where settled leases were squeezed out.

import type { ByteReader, ByteWriter } from './bytes.ts';
import type { LiveCounts } from './live.ts';

/** A message's history: the number of failed deliveries, and whether it ever went out. Kept in one number with the lease. */
export const deliveryCountMax = 0xff_ffff;
export const redeliveredBit = 0x4000_0000;
const settledBit = 0x8000_0000;

/** Words per lease: index low, index high << 16 | ordinal, bytes, history. */
const wordsPerLease = 4;
const leasesMin = 8;
/** Larger arrays are let go when nothing is unsettled. */
const keptLeasesMax = 4096;

export class Leases {
  #ordinals = new Float64Array(leasesMin);
  #words = new Uint32Array(leasesMin * wordsPerLease);
  /** Slots: the first unsettled one (or the tail), and the next free one. */
  head = 0;
  tail = 0;
  unsettled = 0;
  /** Ordinal of the next lease. */
  next = 1;

  /** Returns the lease's ordinal. */
  push(index: number, ordinal: number, bytes: number, history: number): number {
    if (this.tail === this.#ordinals.length) this.#makeRoom();
    const slot = this.tail++;
    const words = this.#words;
    const w = slot * wordsPerLease;
    words[w] = index;
    words[w + 1] = (Math.floor(index / 0x1_0000_0000) << 16) | ordinal;
    words[w + 2] = bytes;
    words[w + 3] = history;
    this.#ordinals[slot] = this.next;
    this.unsettled++;
    return this.next++;
  }

  /** The first slot whose lease has this ordinal or a higher one; `tail` if there is none. */
  lowerBound(leaseOrdinal: number): number {
    const { head, tail } = this;
    const ordinals = this.#ordinals;
    if (head === tail || leaseOrdinal <= ordinals[head]!) return head;
    const last = ordinals[tail - 1]!;
    if (leaseOrdinal > last) return tail;
    // Mostly there are no gaps, and the slot follows from the distance to the tail.
    let low = Math.max(head, tail - 1 - (last - leaseOrdinal));
    if (ordinals[low] === leaseOrdinal) return low;
    // Counted from the tail a gap can only make the guess too low, never too high.
    let high = tail - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (ordinals[middle]! < leaseOrdinal) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  leaseOrdinal(slot: number): number {
    return this.#ordinals[slot]!;
  }
  isSettled(slot: number): boolean {
    return this.#words[slot * wordsPerLease + 3]! >= settledBit;
  }
  index(slot: number): number {
    const w = slot * wordsPerLease;
    return this.#words[w]! + (this.#words[w + 1]! >>> 16) * 0x1_0000_0000;
  }
  ordinal(slot: number): number {
    return this.#words[slot * wordsPerLease + 1]! & 0xffff;
  }
  bytes(slot: number): number {
    return this.#words[slot * wordsPerLease + 2]!;
  }
  history(slot: number): number {
    return this.#words[slot * wordsPerLease + 3]!;
  }

  /** Marks an unsettled lease. Read what is needed of it before. Call `trim` when done with a range. */
  settle(slot: number): void {
    this.#words[slot * wordsPerLease + 3] = settledBit;
    this.unsettled--;
  }

  /** Moves the head past what was settled. Slots change. */
  trim(): void {
    if (this.unsettled === 0) {
      this.head = 0;
      this.tail = 0;
      if (this.#ordinals.length > keptLeasesMax) this.#resize(leasesMin);
      return;
    }
    while (this.isSettled(this.head)) this.head++;
  }

  /** The bytes do not depend on how the leases lie in the arrays. */
  serialise(writer: ByteWriter): void {
    writer.u64(this.next);
    writer.u32(this.unsettled);
    for (let slot = this.head; slot < this.tail; slot++) {
      if (this.isSettled(slot)) continue;
      writer.reference(this.index(slot), this.ordinal(slot), this.bytes(slot));
      writer.u32(this.history(slot));
      writer.u64(this.leaseOrdinal(slot));
    }
  }

  /** Of an empty object. Counts each message as live, and returns the sum of their bytes. */
  restore(reader: ByteReader, live: LiveCounts): number {
    const next = reader.u64();
    let bytes = 0;
    for (let count = reader.u32(); count > 0; count--) {
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

  #makeRoom(): void {
    const capacity = this.#ordinals.length;
    this.#resize(this.unsettled * 2 > capacity ? capacity * 2 : capacity);
  }

  /** Squeezes out what is settled, into arrays of this capacity: the same ones if it fits. */
  #resize(capacity: number): void {
    const [ordinals, words] = [this.#ordinals, this.#words];
    if (capacity !== ordinals.length) {
      this.#ordinals = new Float64Array(capacity);
      this.#words = new Uint32Array(capacity * wordsPerLease);
    }
    let to = 0;
    for (let slot = this.head; slot < this.tail; slot++) {
      const w = slot * wordsPerLease;
      if (words[w + 3]! >= settledBit) continue;
      this.#ordinals[to] = ordinals[slot]!;
      for (let i = 0; i < wordsPerLease; i++) this.#words[to * wordsPerLease + i] = words[w + i]!;
      to++;
    }
    this.head = 0;
    this.tail = to;
  }
}
