// The outbox of the metadata for one shard: what the shard has to do, in order, until it says that it has.
//
// Invariants: versions never decrease from row to row; no row has a version at or below `appliedTo`; `sum` adds up the hashes of the rows that
// are kept. A row is hashed once: its hash stays with it, so that thousands of rows can go at once.
//
// PURE.

import type { ShardChange } from '../metadata-types.ts';
import { textHash } from './hash.ts';

/** Pruned rows are cut off once there are this many, and at least as many as those that stay: amortised, each row is moved once. */
const cutRows = 256;

export class ShardRows {
  #rows: ShardChange[] = [];
  /** Of the row at the same place. */
  #hashes: number[] = [];
  /** Rows before this one are pruned. */
  #start = 0;
  #appliedTo = 0;
  #sum = 0;

  /** The shard has applied everything up to this version. */
  get appliedTo(): number {
    return this.#appliedTo;
  }
  get sum(): number {
    return this.#sum;
  }
  get length(): number {
    return this.#rows.length - this.#start;
  }

  push(row: ShardChange): void {
    const last = this.#rows[this.#rows.length - 1];
    if (row.version <= this.#appliedTo || (last !== undefined && row.version < last.version))
      throw new Error('rows for a shard must come in the order of their versions');
    const hash = textHash(JSON.stringify(row));
    this.#rows.push(row);
    this.#hashes.push(hash);
    this.#sum = (this.#sum + hash) >>> 0;
  }

  /** Rows with a version in (after, upTo]. */
  between(after: number, upTo: number): ShardChange[] {
    return this.#rows.slice(this.#firstAbove(after), Math.max(this.#firstAbove(after), this.#firstAbove(upTo)));
  }

  /** Forgets rows up to `version`. */
  prune(version: number): void {
    if (version <= this.#appliedTo) return;
    const end = this.#firstAbove(version);
    for (let i = this.#start; i < end; i++) this.#sum = (this.#sum - this.#hashes[i]!) >>> 0;
    this.#appliedTo = version;
    this.#start = end;
    if (this.#start >= cutRows && this.#start * 2 >= this.#rows.length) {
      this.#rows = this.#rows.slice(this.#start);
      this.#hashes = this.#hashes.slice(this.#start);
      this.#start = 0;
    }
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
