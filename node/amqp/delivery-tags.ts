// What a channel has delivered and not settled: delivery tag → (consumer, lease ordinal).
//
// PURE. State: columns of numbers in the order of the tags, with holes where a tag was settled out of order. Invariants: tags grow strictly;
// `outstanding` counts the live ones, `windowed` those that a channel-wide prefetch counts; the first column entry is live. Holes are squeezed out
// once they outnumber the live tags, so the memory follows what is outstanding even if one message is never settled.

const capacityMin = 32;
const isFree = 0;
const isDelivered = 1;
const isGot = 2;

export class DeliveryTags {
  outstanding = 0;
  /** Outstanding deliveries to consumers; basic.get does not count. */
  windowed = 0;
  /** Of the tag that was taken last. */
  takenConsumer = 0;
  takenOrdinal = 0;

  // Powers of two; index = position & (capacity - 1). Allocated with the first delivery: most channels only publish.
  #capacity = 0;
  #tags = new Float64Array(0);
  #consumers = new Float64Array(0);
  #ordinals = new Float64Array(0);
  #states = new Uint8Array(0);
  /** Positions of the first live entry and behind the last one; they only grow. */
  #head = 0;
  #tail = 0;

  /** The lowest outstanding tag, or infinity. */
  get oldest(): number {
    return this.outstanding === 0 ? Number.POSITIVE_INFINITY : this.#tags[this.#head & (this.#capacity - 1)]!;
  }

  /** `tag` must be larger than all before. */
  add(tag: number, consumer: number, ordinal: number, got: boolean): void {
    if (this.#tail - this.#head === this.#capacity) this.#rearrange();
    const index = this.#tail++ & (this.#capacity - 1);
    this.#tags[index] = tag;
    this.#consumers[index] = consumer;
    this.#ordinals[index] = ordinal;
    this.#states[index] = got ? isGot : isDelivered;
    this.outstanding++;
    if (!got) this.windowed++;
  }

  /** Settles one tag: false if it is not outstanding; else `takenConsumer` and `takenOrdinal` say what it was. */
  take(tag: number): boolean {
    const position = this.#find(tag);
    if (position < 0) return false;
    this.#takeAt(position);
    return true;
  }

  has(tag: number): boolean {
    return this.#find(tag) >= 0;
  }

  /** The outstanding tags up to one, ascending. */
  upTo(last: number): number[] {
    const mask = this.#capacity - 1;
    const tags: number[] = [];
    for (let position = this.#head; position < this.#tail; position++) {
      const tag = this.#tags[position & mask]!;
      if (tag > last) break;
      if (this.#states[position & mask] !== isFree) tags.push(tag);
    }
    return tags;
  }

  /** Settles the lowest outstanding tag. There must be one. */
  takeOldest(): void {
    this.#takeAt(this.#head);
  }

  #takeAt(position: number): void {
    const mask = this.#capacity - 1;
    const index = position & mask;
    this.takenConsumer = this.#consumers[index]!;
    this.takenOrdinal = this.#ordinals[index]!;
    if (this.#states[index] === isDelivered) this.windowed--;
    this.#states[index] = isFree;
    this.outstanding--;
    if (position !== this.#head) return;
    do this.#head++;
    while (this.#head < this.#tail && this.#states[this.#head & mask] === isFree);
  }

  /** Position of a live tag, or -1. Without holes and no-ack deliveries between it is where the arithmetic says; else it is searched. */
  #find(tag: number): number {
    if (this.outstanding === 0) return -1;
    const mask = this.#capacity - 1;
    let low = this.#head;
    let high = this.#tail - 1;
    const distance = tag - this.#tags[low & mask]!;
    if (!(distance >= 0)) return -1;
    if (low + distance < high) high = low + distance;
    if (this.#tags[high & mask] === tag) return this.#states[high & mask] === isFree ? -1 : high;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.#tags[middle & mask]! < tag) low = middle + 1;
      else high = middle;
    }
    return this.#tags[low & mask] === tag && this.#states[low & mask] !== isFree ? low : -1;
  }

  /** Squeezes holes out, or doubles if there are few. */
  #rearrange(): void {
    const capacity = Math.max(capacityMin, this.outstanding * 2 > this.#capacity ? 2 * this.#capacity : this.#capacity);
    const tags = new Float64Array(capacity);
    const consumers = new Float64Array(capacity);
    const ordinals = new Float64Array(capacity);
    const states = new Uint8Array(capacity);
    const mask = this.#capacity - 1;
    let count = 0;
    for (let position = this.#head; position < this.#tail; position++) {
      const index = position & mask;
      if (this.#states[index] === isFree) continue;
      tags[count] = this.#tags[index]!;
      consumers[count] = this.#consumers[index]!;
      ordinals[count] = this.#ordinals[index]!;
      states[count++] = this.#states[index]!;
    }
    this.#capacity = capacity;
    this.#tags = tags;
    this.#consumers = consumers;
    this.#ordinals = ordinals;
    this.#states = states;
    this.#head = 0;
    this.#tail = count;
  }
}
