// What time it is, for the stamps of entries. PURE: clock readings are passed in.
//
// A node's own estimate is its monotonic clock plus an offset, the wall clock's at start, that follows the wall clock slowly: a wall clock
// that jumps moves it by a twentieth of the time that passes, and never back. Nodes tell each other their own estimates. A stamp is the
// lower median of the estimates of this node and of all that were heard lately, and never lower than the one before. So of three clocks one
// may be wrong by anything, also the leader's, in either direction.
//
// State owned: the own offset, and per peer the offset of its estimate to this node's monotonic clock. All times in milliseconds.

/** The offset moves by at most this share of the time that has passed. */
const slewShare = 0.05;

export class ClusterTime {
  readonly #freshMilliseconds: number;
  /** Estimate minus this node's monotonic clock. */
  #own: number;
  #readAt: number;
  readonly #peers = new Map<number, { readonly offset: number; readonly heardAt: number }>();
  #median: number;

  /** Estimates of peers count for `freshMilliseconds` after they were heard. */
  constructor(now: number, wall: number, freshMilliseconds: number) {
    this.#freshMilliseconds = freshMilliseconds;
    this.#own = wall - now;
    this.#readAt = now;
    this.#median = this.#own;
  }

  /** Often: follows the wall clock, and forgets whom it has not heard for long. */
  tick(now: number, wall: number): void {
    const slewMax = Math.max(0, now - this.#readAt) * slewShare;
    this.#readAt = now;
    this.#own += Math.min(slewMax, Math.max(-slewMax, wall - now - this.#own));
    for (const [node, { heardAt }] of this.#peers)
      if (now - heardAt > this.#freshMilliseconds) this.#peers.delete(node);
    this.#measure();
  }

  /** A peer told its own estimate. */
  heard(node: number, estimate: number, now: number): void {
    this.#peers.set(node, { offset: estimate - now, heardAt: now });
    this.#measure();
  }

  /** This node's own estimate, to be told to the others. */
  own(now: number): number {
    return now + this.#own;
  }

  /** The stamp of the next entry of a log whose last one has the stamp `last`. */
  stamp(now: number, last: number): number {
    return Math.max(last, Math.floor(now + this.#median));
  }

  #measure(): void {
    const offsets = [this.#own];
    for (const { offset } of this.#peers.values()) offsets.push(offset);
    offsets.sort((a, b) => a - b);
    this.#median = offsets[(offsets.length - 1) >> 1]!;
  }
}
