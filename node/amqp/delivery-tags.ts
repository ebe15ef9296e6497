// What a channel has delivered and not settled: delivery tag → (consumer, lease ordinal).
//
// PURE. State: chunks of columns of numbers in the order of the tags, with holes where a tag was settled out of order. Nothing is ever done to all
// of it at once, as a consumer without a limit may have millions outstanding; and the memory follows what is outstanding, even if one message
// in thousands is never settled.
// Invariants: tags grow strictly; `outstanding` counts the live ones, `windowed` those that a channel-wide prefetch counts; the first entry of a
// chunk is live, and only the last chunk may have none.

const capacityMin = 32;
/** Of millions the garbage collector has few chunks to look at. */
const capacityMax = 16_384;
/** A chunk of which less lives is squeezed. */
const squeezedBelow = 1 / 4;
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

  /** None before the first delivery: most channels only publish. */
  #chunks: Chunk[] = [];
  /** Where `#find` found it. */
  #foundIn = 0;
  #foundAt = 0;

  /** The lowest outstanding tag, or infinity. */
  get oldest(): number {
    if (this.outstanding === 0) return Number.POSITIVE_INFINITY;
    const [chunk] = this.#chunks;
    return chunk!.tags[chunk!.head]!;
  }

  /** `tag` must be larger than all before. */
  add(tag: number, consumer: number, ordinal: number, got: boolean): void {
    const chunks = this.#chunks;
    let chunk = chunks[chunks.length - 1];
    if (chunk === undefined || chunk.tail === chunk.capacity) chunk = this.#makeRoom();
    const at = chunk.tail++;
    chunk.tags[at] = tag;
    chunk.consumers[at] = consumer;
    chunk.ordinals[at] = ordinal;
    chunk.states[at] = got ? isGot : isDelivered;
    chunk.live++;
    this.outstanding++;
    if (!got) this.windowed++;
  }

  /** Settles one tag: false if it is not outstanding; else `takenConsumer` and `takenOrdinal` say what it was. */
  take(tag: number): boolean {
    if (!this.#find(tag)) return false;
    this.#takeAt(this.#foundIn, this.#foundAt);
    return true;
  }

  has(tag: number): boolean {
    return this.#find(tag);
  }

  /** The outstanding tags up to one, ascending. */
  upTo(last: number): number[] {
    const tags: number[] = [];
    for (const chunk of this.#chunks)
      for (let at = chunk.head; at < chunk.tail; at++) {
        if (chunk.tags[at]! > last) return tags;
        if (chunk.states[at] !== isFree) tags.push(chunk.tags[at]!);
      }
    return tags;
  }

  /** Settles the lowest outstanding tag. There must be one. */
  takeOldest(): void {
    this.#takeAt(0, this.#chunks[0]!.head);
  }

  #takeAt(place: number, at: number): void {
    const chunk = this.#chunks[place]!;
    this.takenConsumer = chunk.consumers[at]!;
    this.takenOrdinal = chunk.ordinals[at]!;
    if (chunk.states[at] === isDelivered) this.windowed--;
    this.outstanding--;
    chunk.free(at);
    const isLast = place === this.#chunks.length - 1;
    if (chunk.live === 0 && !isLast) this.#chunks.splice(place, 1);
    else if (!isLast && chunk.isSparse) this.#squeeze(place);
  }

  #find(tag: number): boolean {
    if (!(tag >= this.oldest)) return false;
    // The last chunk that begins at or before it.
    const chunks = this.#chunks;
    let low = 0;
    let high = chunks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      const { live, tags, head } = chunks[middle]!;
      if (live > 0 && tags[head]! <= tag) low = middle;
      else high = middle - 1;
    }
    this.#foundIn = low;
    this.#foundAt = chunks[low]!.find(tag);
    return this.#foundAt >= 0;
  }

  /** The last chunk is full: returns one with room, the same if there is some in it. */
  #makeRoom(): Chunk {
    const chunks = this.#chunks;
    const last = chunks[chunks.length - 1];
    if (last !== undefined && 2 * last.live <= last.capacity) {
      last.squeeze();
      return last;
    }
    const next = new Chunk(last === undefined ? capacityMin : Math.min(2 * last.capacity, capacityMax));
    if (last === undefined || last.capacity === capacityMax) {
      chunks.push(next);
      return next;
    }
    next.append(last);
    chunks[chunks.length - 1] = next;
    return next;
  }

  /** Few of a chunk, which is not the last one, live: they move together, and in with those before them if these are few too. */
  #squeeze(place: number): void {
    const chunks = this.#chunks;
    const chunk = chunks[place]!;
    const before = place > 0 ? chunks[place - 1]! : null;
    const joins = before !== null && 2 * (before.live + chunk.live) <= capacityMax;
    const live = chunk.live + (joins ? before.live : 0);
    const squeezed = new Chunk(Math.max(capacityMin, live));
    if (joins) squeezed.append(before);
    squeezed.append(chunk);
    if (joins) chunks.splice(place - 1, 2, squeezed);
    else chunks[place] = squeezed;
  }
}

class Chunk {
  readonly capacity: number;
  readonly tags: Float64Array;
  readonly consumers: Float64Array;
  readonly ordinals: Float64Array;
  readonly states: Uint8Array;
  /** Of the first live entry, and behind the last one. */
  head = 0;
  tail = 0;
  live = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
    const column = 8 * capacity;
    const buffer = new ArrayBuffer(3 * column + capacity);
    this.tags = new Float64Array(buffer, 0, capacity);
    this.consumers = new Float64Array(buffer, column, capacity);
    this.ordinals = new Float64Array(buffer, 2 * column, capacity);
    this.states = new Uint8Array(buffer, 3 * column);
  }

  get isSparse(): boolean {
    const entries = this.tail - this.head;
    return entries > capacityMin && this.live < squeezedBelow * entries;
  }

  free(at: number): void {
    this.states[at] = isFree;
    this.live--;
    if (this.live === 0) {
      this.head = 0;
      this.tail = 0;
    } else if (at === this.head) {
      do this.head++;
      while (this.states[this.head] === isFree);
    }
  }

  /** Place of a live tag, or -1. Without holes and no-ack deliveries between it is where the arithmetic says; else it is searched. */
  find(tag: number): number {
    const { tags, states } = this;
    if (this.live === 0) return -1;
    let low = this.head;
    let high = this.tail - 1;
    const distance = tag - tags[low]!;
    if (!(distance >= 0)) return -1;
    if (low + distance < high) high = low + distance;
    if (tags[high] === tag) return states[high] === isFree ? -1 : high;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (tags[middle]! < tag) low = middle + 1;
      else high = middle;
    }
    return tags[low] === tag && states[low] !== isFree ? low : -1;
  }

  /** What lives moves to the front. */
  squeeze(): void {
    const { head, tail, live } = this;
    if (live < tail - head) this.#move(this, head, 0);
    else for (const column of [this.tags, this.consumers, this.ordinals, this.states]) column.copyWithin(0, head, tail);
    this.head = 0;
    this.tail = live;
  }

  /** What lives of another chunk comes behind what is here. There must be room for it. */
  append(other: Chunk): void {
    this.tail = this.#move(other, other.head, this.tail);
    this.live += other.live;
  }

  /** Returns where it ends. */
  #move(from: Chunk, head: number, to: number): number {
    let end = to;
    for (let at = head; at < from.tail; at++) {
      const state = from.states[at]!;
      if (state === isFree) continue;
      this.tags[end] = from.tags[at]!;
      this.consumers[end] = from.consumers[at]!;
      this.ordinals[end] = from.ordinals[at]!;
      this.states[end++] = state;
    }
    return end;
  }
}
