// Which cached entry leaves memory next. State owned: the order in which entries of one stream of files (the durable one, the volatile one)
// came into memory, and their bytes. The entries themselves lie with their groups.
//
// Each stream has its own order, so that entries which wait for a slow sync do not keep those of the other stream in memory.

import type { GroupLog } from './group.ts';

export class CacheOrder {
  bytes = 0;
  /** Whose oldest cached entry leaves next; from `#head` on. */
  #order: GroupLog[] = [];
  #head = 0;

  push(group: GroupLog): void {
    this.#order.push(group);
  }

  /** Lets the oldest entry go. False: there is none, or it is not on the disk yet. */
  evict(): boolean {
    while (this.#head < this.#order.length) {
      const group = this.#order[this.#head]!;
      const isGone = group.hasEnded || group.isCacheEmpty;
      if (!isGone && !group.canEvict) return false;
      this.#head++;
      if (isGone) continue;
      this.bytes -= group.evict();
      this.#shrink();
      return true;
    }
    return false;
  }

  #shrink(): void {
    if (this.#head <= 1024 || this.#head * 2 <= this.#order.length) return;
    this.#order = this.#order.slice(this.#head);
    this.#head = 0;
  }
}

/** Lets entries go, of the stream that holds more first, until both are within the bound or nothing else may leave. */
export function evictDownTo(bytesMax: number, one: CacheOrder, other: CacheOrder): void {
  while (one.bytes + other.bytes > bytesMax) {
    const larger = one.bytes >= other.bytes ? one : other;
    if (!larger.evict() && !(larger === one ? other : one).evict()) return;
  }
}
