// The log as the core sees it: the term and the size of every entry, never its content.
//
// State owned: the compaction point (index and term of the last entry that is no longer whole), terms as runs, and running sums of sizes
// in one ring of doubles. Every operation is O(1) or O(log n); appending never allocates but when the ring grows.
//
// Invariants: runs begin at the compaction point and rise strictly in index and in term; the ring holds [compactedIndex, lastIndex].

import { invariant } from './invariant.ts';
import type { LogIndex, Term } from './types.ts';

const capacityMin = 64;

export class LogShape {
  #compactedIndex: LogIndex;
  #lastIndex: LogIndex;
  /** `#sums[i & mask]`: bytes of all entries up to i, counted from some entry before the compaction point. */
  #sums = new Float64Array(capacityMin);
  /** Run k has the term `#runTerms[k]` from `#runFirsts[k]` on. Runs before `#runHead` are forgotten. */
  #runFirsts: LogIndex[];
  #runTerms: Term[];
  #runHead = 0;

  constructor(compactedIndex: LogIndex, compactedTerm: Term) {
    this.#compactedIndex = compactedIndex;
    this.#lastIndex = compactedIndex;
    this.#runFirsts = [compactedIndex];
    this.#runTerms = [compactedTerm];
  }

  get compactedIndex(): LogIndex {
    return this.#compactedIndex;
  }
  get lastIndex(): LogIndex {
    return this.#lastIndex;
  }
  get lastTerm(): Term {
    return this.#runTerms[this.#runTerms.length - 1]!;
  }

  append(term: Term, bytes: number): void {
    invariant(bytes >= 0 && term >= this.lastTerm, 'terms of the log never fall, sizes are not negative');
    const index = this.#lastIndex + 1;
    if (index - this.#compactedIndex >= this.#sums.length) this.#resize(this.#sums.length * 2);
    const mask = this.#sums.length - 1;
    this.#sums[index & mask] = this.#sums[this.#lastIndex & mask]! + bytes;
    this.#lastIndex = index;
    if (term > this.lastTerm) {
      this.#runFirsts.push(index);
      this.#runTerms.push(term);
    }
  }

  /** Drops the entries from `first` on. */
  truncateFrom(first: LogIndex): void {
    invariant(first > this.#compactedIndex && first <= this.#lastIndex, 'only whole entries are truncated');
    this.#lastIndex = first - 1;
    while (this.#runFirsts[this.#runFirsts.length - 1]! >= first) {
      this.#runFirsts.pop();
      this.#runTerms.pop();
    }
  }

  /** Forgets the entries up to and including `index`, but for the term at `index`. */
  compactTo(index: LogIndex): void {
    if (index <= this.#compactedIndex) return;
    invariant(index <= this.#lastIndex, 'compaction stays within the log');
    let run = this.#runHead;
    while (run + 1 < this.#runFirsts.length && this.#runFirsts[run + 1]! <= index) run++;
    this.#runFirsts[run] = index;
    this.#runHead = run;
    if (run > 32 && run * 2 > this.#runFirsts.length) {
      this.#runFirsts = this.#runFirsts.slice(run);
      this.#runTerms = this.#runTerms.slice(run);
      this.#runHead = 0;
    }
    this.#compactedIndex = index;
    const count = this.#lastIndex - index + 1;
    if (this.#sums.length > capacityMin && count * 8 < this.#sums.length) this.#resize(this.#sums.length / 4);
  }

  /** Forgets everything: the log begins anew behind a snapshot. */
  reset(index: LogIndex, term: Term): void {
    this.#compactedIndex = index;
    this.#lastIndex = index;
    this.#runFirsts = [index];
    this.#runTerms = [term];
    this.#runHead = 0;
    this.#sums = new Float64Array(capacityMin);
  }

  /** Undefined before the compaction point and behind the end. */
  termAt(index: LogIndex): Term | undefined {
    if (index > this.#lastIndex || index < this.#compactedIndex) return undefined;
    return this.#runTerms[this.#runOf(index)];
  }

  /** The highest index in [compactedIndex, `index`] whose term is at most `term`; `compactedIndex - 1` if there is none. */
  lastAtMost(index: LogIndex, term: Term): LogIndex {
    invariant(index <= this.#lastIndex, 'the search begins within the log');
    if (index < this.#compactedIndex) return this.#compactedIndex - 1;
    let run = this.#runOf(index);
    if (this.#runTerms[run]! <= term) return index;
    while (run > this.#runHead && this.#runTerms[run]! > term) run--;
    if (this.#runTerms[run]! > term) return this.#compactedIndex - 1;
    return this.#runFirsts[run + 1]! - 1;
  }

  /** Bytes of the entries in (`after`, `last`]. */
  bytesBetween(after: LogIndex, last: LogIndex): number {
    invariant(after >= this.#compactedIndex && last <= this.#lastIndex && after <= last, 'sizes are known in the log');
    const mask = this.#sums.length - 1;
    return this.#sums[last & mask]! - this.#sums[after & mask]!;
  }

  /** The last entry of a message that begins with `first` and may carry `bytesMax`: at least `first` itself. */
  lastWithin(first: LogIndex, bytesMax: number): LogIndex {
    invariant(first > this.#compactedIndex && first <= this.#lastIndex, 'a message begins within the log');
    const mask = this.#sums.length - 1;
    const limit = this.#sums[(first - 1) & mask]! + bytesMax;
    if (this.#sums[this.#lastIndex & mask]! <= limit) return this.#lastIndex;
    let low = first;
    let high = this.#lastIndex;
    while (low + 1 < high) {
      const middle = low + Math.floor((high - low) / 2);
      if (this.#sums[middle & mask]! <= limit) low = middle;
      else high = middle;
    }
    return low;
  }

  /** Throws unless the runs are in order. */
  validate(): void {
    invariant(this.#runFirsts[this.#runHead] === this.#compactedIndex, 'the first run begins at the compaction point');
    invariant(this.#lastIndex - this.#compactedIndex < this.#sums.length, 'the ring holds the whole log');
    invariant(this.#runFirsts.length === this.#runTerms.length, 'a run has a first index and a term');
    for (let run = this.#runHead + 1; run < this.#runFirsts.length; run++) {
      invariant(this.#runFirsts[run]! > this.#runFirsts[run - 1]!, 'runs rise in index');
      invariant(this.#runTerms[run]! > this.#runTerms[run - 1]!, 'runs rise in term');
      invariant(this.#runFirsts[run]! <= this.#lastIndex, 'a run begins within the log');
    }
  }

  #runOf(index: LogIndex): number {
    let low = this.#runHead;
    let high = this.#runFirsts.length - 1;
    if (index >= this.#runFirsts[high]!) return high;
    while (low + 1 < high) {
      const middle = (low + high) >> 1;
      if (this.#runFirsts[middle]! <= index) low = middle;
      else high = middle;
    }
    return low;
  }

  #resize(capacity: number): void {
    const old = this.#sums;
    const sums = new Float64Array(capacity);
    for (let i = this.#compactedIndex; i <= this.#lastIndex; i++) {
      sums[i & (capacity - 1)] = old[i & (old.length - 1)]!;
    }
    this.#sums = sums;
  }
}
