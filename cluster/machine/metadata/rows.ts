// The outbox of the metadata for one shard: what the shard has to do, in order, until it says that it has.
//
// Invariants: versions never decrease from row to row; no row has a version at or below `appliedTo`. PURE.

import type { ShardChange } from '../metadata-types.ts';

/** Pruned rows are cut off once there are this many, and at least as many as those that stay: amortised, each row is moved once. */
const cutRows = 256;

export class ShardRows {
  #rows: ShardChange[] = [];
  /** Rows before this one are pruned. */
  #start = 0;
  #appliedTo = 0;

  /** The shard has applied everything up to this version. */
  get appliedTo(): number {
    return this.#appliedTo;
  }
  get length(): number {
    return this.#rows.length - this.#start;
  }

  push(row: ShardChange): void {
    const last = this.#rows[this.#rows.length - 1];
    if (row.version <= this.#appliedTo || (last !== undefined && row.version < last.version))
      throw new Error('rows for a shard must come in the order of their versions');
    this.#rows.push(row);
  }

  /** Rows with a version in (after, upTo]. */
  between(after: number, upTo: number): ShardChange[] {
    return this.#rows.slice(this.#firstAbove(after), Math.max(this.#firstAbove(after), this.#firstAbove(upTo)));
  }

  /** Forgets rows up to `version`, and returns them. */
  prune(version: number): ShardChange[] {
    if (version <= this.#appliedTo) return [];
    const end = this.#firstAbove(version);
    const pruned = this.#rows.slice(this.#start, end);
    this.#appliedTo = version;
    this.#start = end;
    if (this.#start >= cutRows && this.#start * 2 >= this.#rows.length) {
      this.#rows = this.#rows.slice(this.#start);
      this.#start = 0;
    }
    return pruned;
  }

  all(): ShardChange[] {
    return this.#rows.slice(this.#start);
  }

  /** Position of the first row that is kept and above `version`, by binary search. */
  #firstAbove(version: number): number {
    let low = this.#start;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#rows[middle]!.version <= version) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
