// Times in a fixed amount of memory: buckets double in width, 64 steps to a doubling, so a percentile is at most 1.6 % off.

const stepsPerDoubling = 64;
const doublings = 32;

export interface Percentiles {
  /** All in milliseconds. */
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export class Histogram {
  readonly #counts = new Uint32Array(stepsPerDoubling * doublings);
  #total = 0;
  #max = 0;

  /** `times`: how many events took this long. */
  record(milliseconds: number, times = 1): void {
    const microseconds = Math.max(0, milliseconds * 1000);
    const doubling = Math.floor(Math.log2(microseconds + stepsPerDoubling)) - 6;
    const width = 2 ** doubling;
    const step = Math.floor((microseconds + stepsPerDoubling) / width) - stepsPerDoubling;
    const bucket = Math.min(this.#counts.length - 1, doubling * stepsPerDoubling + step);
    this.#counts[bucket] = this.#counts[bucket]! + times;
    this.#total += times;
    if (milliseconds > this.#max) this.#max = milliseconds;
  }

  percentiles(): Percentiles | null {
    if (this.#total === 0) return null;
    return { p50: this.#at(0.5), p99: this.#at(0.99), p999: this.#at(0.999), max: this.#max };
  }

  #at(share: number): number {
    let seen = 0;
    for (let bucket = 0; bucket < this.#counts.length; bucket++) {
      seen += this.#counts[bucket]!;
      if (seen >= share * this.#total) {
        const width = 2 ** Math.floor(bucket / stepsPerDoubling);
        const middle = ((bucket % stepsPerDoubling) + stepsPerDoubling + 0.5) * width - stepsPerDoubling;
        return Math.min(this.#max, middle / 1000);
      }
    }
    return this.#max;
  }
}
