// Who uses this node's replicas: mostly small entries, whose senders wait for milliseconds, or mostly large ones, each of them a part of a large
// body. Where both pass, large ones rest in between: what they need of processors and disks, on this node and the others, small ones wait for.
//
// Pure. State owned: entries applied since the last tick, and for how many ticks small ones still count as busy. Invariant: with large entries
// alone it is never busy, though each body brings an acknowledgement with it, which is small.

/** Half a part of a large body. */
const largeBytesMin = 128 * 1024;
/** A body of one part brings its publish, its settlement and perhaps a credit. */
const smallPerLarge = 3;
/** Some work comes in bursts. */
const lastingTicks = 4;

export class Traffic {
  #small = 0;
  #large = 0;
  #ticksLeft = 0;

  /** Small entries pass here, and are more than what large ones bring. */
  get isBusy(): boolean {
    return this.#ticksLeft > 0;
  }

  /** An entry of so many bytes, of any group. */
  applied(bytes: number): void {
    if (bytes < largeBytesMin) this.#small++;
    else this.#large++;
  }

  tick(): void {
    if (this.#small > smallPerLarge * this.#large) this.#ticksLeft = lastingTicks;
    else if (this.#ticksLeft > 0) this.#ticksLeft--;
    this.#small = this.#large = 0;
  }
}
