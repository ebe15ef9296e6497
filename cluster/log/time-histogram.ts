// How long something took, as counts by duration: for writing and confirming, which are measured all the time.
//
// State owned: one count per bucket, and the sum. Invariant: `add` allocates nothing; the buckets never change.

const bucketMilliseconds: readonly number[] = [
  0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000,
];

/** What is to be read of one. */
export interface Durations {
  /** Upper bounds of the buckets, in milliseconds, each belonging to its bucket; what takes longer is in one more. */
  readonly bounds: readonly number[];
  /** By bucket, not cumulative. */
  readonly counts: ArrayLike<number>;
  readonly totalMilliseconds: number;
}

export class TimeHistogram implements Durations {
  readonly bounds = bucketMilliseconds;
  readonly counts = new Float64Array(bucketMilliseconds.length + 1);
  totalMilliseconds = 0;

  add(milliseconds: number): void {
    let bucket = 0;
    while (bucket < bucketMilliseconds.length && milliseconds > bucketMilliseconds[bucket]!) bucket++;
    this.counts[bucket]!++;
    this.totalMilliseconds += milliseconds;
  }
}
