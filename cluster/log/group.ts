// One group's log in memory: where its entries are, its control state, and its part of the cache of recent entries.
//
// Invariants (checked by `check`):
//   - entries after `compacted` up to `lastIndex` follow each other without a gap, in `runs`; behind it there may be gaps;
//   - an entry that is not durable is in the cache; the cache holds consecutive indices up to `lastIndex`;
//   - `compacted.index` <= `snapshot.index`, and never moves back; terms never fall along the log.
// A volatile group has no snapshots: `compacted` is what its machine has applied, and durable means written.

import type { HardState, SnapshotMeta } from 'raft-ts';
import { CachedEntries } from './cached-entries.ts';
import { assert } from './errors.ts';
import { type Reset, type Run, recordBytes, truncateRuns } from './file-index.ts';
import type { LogFile } from './files.ts';
import type { Truncation } from './manifest.ts';
import type { LogEntry } from './types.ts';

/** What a cached entry counts beside its payload, so that empty ones are bounded too. */
export const entryOverheadBytes = 128;

const noHardState: HardState = { term: 0, vote: 0, commit: 0 };

export class GroupLog {
  readonly group: number;
  readonly replica: number;
  readonly isVolatile: boolean;
  hardState: HardState = noHardState;
  snapshot: SnapshotMeta;
  snapshotStored = false;
  compacted: { readonly index: number; readonly term: number };
  /** Entries up to here may have been acknowledged and are lost; 0: none. */
  repairTo = 0;
  /** What of it is damaged; empty: it is sound. Else nothing of it is read or written before it is reset, and nothing of it is removed. */
  damage: readonly string[] = [];
  /** Names the last reset, 0: none. Kept files before this sequence are from before it. */
  keptFrom = 0;
  /** Position and index both ascending: a later truncation to a lower index makes an earlier one superfluous. */
  truncations: Truncation[] = [];
  /** From log files, ascending, dead entries left out. */
  runs: Run[] = [];
  /** From kept files: live entries behind the compaction point that came with a snapshot. Always committed, never truncated. */
  kept: Run[] = [];
  lastIndex: number;
  lastTerm: number;
  /** Entries up to here are durable. Lags after a truncation until the write that followed it is done. */
  durableIndex: number;
  /** Counts truncations: a write gathered before one says nothing about what follows it. */
  epoch = 0;
  /** The last truncation that is durable. While it lags, what the group dropped may come back after a crash. */
  durableEpoch = 0;
  /** How many files had been sealed when `onPressure` was called; -1: not called since the last snapshot. */
  pressureToldAt = -1;
  /** Bytes that the cache counts for this group. */
  cachedBytes = 0;
  /** Up to `lastIndex`. */
  readonly #cached: CachedEntries;

  /** What the manifest may say: an installed snapshot counts only once its record is durable. */
  stable: {
    readonly snapshot: SnapshotMeta;
    readonly snapshotStored: boolean;
    readonly compacted: { readonly index: number; readonly term: number };
    readonly keptFrom: number;
  };
  /** The record of the group's creation or reset is durable. */
  isDurable = false;
  /** The group before its reset, or its earlier replica here: it, or the one before it, is what the manifest says until this one is durable. */
  replaced: GroupLog | null = null;
  /** An installed snapshot's record is gathered and not yet durable. */
  installing = false;
  /** Another one took its place, or none. */
  hasEnded = false;

  constructor(group: number, replica: number, snapshot: SnapshotMeta, isVolatile = false) {
    this.group = group;
    this.replica = replica;
    this.isVolatile = isVolatile;
    this.snapshot = snapshot;
    this.compacted = { index: snapshot.index, term: snapshot.term };
    this.lastIndex = snapshot.index;
    this.lastTerm = snapshot.term;
    this.durableIndex = snapshot.index;
    this.#cached = new CachedEntries(snapshot.index + 1);
    this.stable = { snapshot, snapshotStored: false, compacted: this.compacted, keptFrom: 0 };
  }

  /** Lets the manifest say what is true now. */
  settle(): void {
    if (this.installing) return;
    const { snapshot, snapshotStored, compacted, keptFrom } = this;
    this.stable = { snapshot, snapshotStored, compacted, keptFrom };
  }

  // ---- where entries are ----

  /** The run that holds `index`, or null. Recent ones are found first. */
  find(index: number): Run | null {
    return findRun(this.runs, index) ?? this.kept.find((run) => run.slot(index) >= 0) ?? null;
  }

  /** Undefined for entries that are not in the log (the compaction point itself counts as in it). */
  termAt(index: number): number | undefined {
    if (index === this.lastIndex) return this.lastTerm;
    if (index === this.compacted.index) return this.compacted.term;
    return findRun(this.runs, index)?.term;
  }

  /** Notes an entry that was gathered into its file; `run` is what the file's index gave. */
  appended(entry: LogEntry, run: Run): void {
    if (run.count === 1) this.runs.push(run);
    this.lastIndex = entry.index;
    this.lastTerm = entry.term;
    this.#cache(entry);
  }

  /** Drops entries from `from` on. `position`: sequence of the file that holds the record. */
  truncate(from: number, position: number): void {
    assert(from <= this.lastIndex, `truncation of group ${this.group} to ${from} is past its end`);
    assert(from > this.compacted.index, `truncation of group ${this.group} to ${from} cuts what is compacted`);
    this.dropFrom(from, position);
    this.lastTerm = this.termAt(from - 1) ?? this.compacted.term;
    this.lastIndex = from - 1;
  }

  /** The part of `truncate` that also an installed snapshot does: it may reach behind the compaction point. */
  dropFrom(from: number, position: number): void {
    this.#uncacheFrom(from);
    this.kill(from, position);
    this.epoch++;
    this.durableIndex = Math.min(this.durableIndex, from - 1);
  }

  /** Entries of earlier files from `from` on are dead. All there is to a truncation while the log is being opened. */
  kill(from: number, position: number): void {
    truncateRuns(this.runs, from);
    noteTruncation(this.truncations, position, from);
  }

  /** The group's log restarts behind an installed snapshot. `dropFrom` 0: the chain fits, entries stay. */
  installed(snapshot: SnapshotMeta, dropFrom: number, position: number, kept: readonly Run[]): void {
    if (dropFrom > 0) {
      this.#uncacheFrom(this.#cached.first);
      this.dropFrom(dropFrom, position);
      this.lastIndex = snapshot.index;
      this.lastTerm = snapshot.term;
      this.#cached.restart(snapshot.index + 1);
    }
    this.snapshot = snapshot;
    this.snapshotStored = true;
    this.compacted = { index: snapshot.index, term: snapshot.term };
    this.pressureToldAt = -1;
    // The latest first: where two installs brought the same entry, the file that stays longer answers.
    this.kept.unshift(...kept);
  }

  /** Begins anew, with nothing but term and vote. What came before is dead by a truncation. */
  restart({ configuration, keptFrom }: Reset): void {
    this.snapshot = { index: 0, term: 0, configuration };
    this.snapshotStored = false;
    this.compacted = { index: 0, term: 0 };
    this.hardState = { ...this.hardState, commit: 0 };
    this.keptFrom = Math.max(this.keptFrom, keptFrom);
  }

  /** Takes the place of `before`, of which nothing is to be read any more. */
  replace(before: GroupLog): void {
    this.replaced = before;
    before.end();
  }

  /** Reads under way find nothing. */
  end(): void {
    this.hasEnded = true;
    this.epoch++;
    this.runs = [];
    this.kept = [];
  }

  /** The machine of a volatile group has applied everything up to here. */
  volatileApplied(index: number): void {
    const term = this.termAt(index);
    assert(term !== undefined && index >= this.compacted.index, `group ${this.group} has applied ${index}`);
    this.compacted = { index, term };
  }

  /** Forgets the entries of files that are being deleted. */
  forget(isDoomed: (file: LogFile) => boolean): void {
    if (this.runs.some((run) => isDoomed(run.file))) this.runs = this.runs.filter((run) => !isDoomed(run.file));
    if (this.kept.some((run) => isDoomed(run.file))) this.kept = this.kept.filter((run) => !isDoomed(run.file));
  }

  /** The highest index behind which not more than `bytesMax` bytes of whole entries lie, all in files from `oldest` on. */
  compactionTarget(bytesMax: number, oldest: number): { readonly index: number; readonly term: number } {
    const { snapshot, compacted, runs } = this;
    let bytes = 0;
    for (let i = runs.length - 1; i >= 0; i--) {
      const run = runs[i]!;
      if (run.first > snapshot.index) continue;
      if (run.last <= compacted.index) break;
      for (let index = Math.min(run.last, snapshot.index); index >= run.first; index--) {
        if (index <= compacted.index) return compacted;
        bytes += recordBytes(run, index - run.first);
        if (bytes > bytesMax || run.file.sequence < oldest) return { index, term: run.term };
      }
    }
    return compacted;
  }

  // ---- cache ----

  isCached(index: number): boolean {
    return index >= this.#cached.first && index <= this.#cached.last;
  }
  cached(index: number): LogEntry | undefined {
    return this.#cached.get(index);
  }
  cachedPayload(index: number): Buffer | undefined {
    return this.#cached.payload(index);
  }

  /** Nothing is in memory; the next entry to come follows the last one. */
  beginCache(): void {
    this.#cached.restart(this.lastIndex + 1);
  }

  #cache(entry: LogEntry): void {
    this.#cached.push(entry);
    this.cachedBytes += entry.bytes + entryOverheadBytes;
  }

  /** True if the oldest cached entry may leave memory. */
  get canEvict(): boolean {
    const { first, last } = this.#cached;
    return first <= this.durableIndex && first <= last;
  }
  get isCacheEmpty(): boolean {
    return this.#cached.first > this.#cached.last;
  }

  /** Lets the oldest cached entry go; returns its bytes. */
  evict(): number {
    const bytes = this.#cached.bytes(this.#cached.first) + entryOverheadBytes;
    this.#cached.shift();
    this.cachedBytes -= bytes;
    return bytes;
  }

  /** Entries from `from` on leave memory; the next one to come is `from`, or a later one that is told by `restart`. */
  #uncacheFrom(from: number): void {
    const cached = this.#cached;
    while (cached.last >= from && cached.last >= cached.first) {
      this.cachedBytes -= cached.bytes(cached.last) + entryOverheadBytes;
      cached.pop();
    }
    if (cached.last < cached.first) cached.restart(from);
  }

  /** Throws if the log is not one chain from the compaction point to its end. */
  check(): void {
    const broken = this.damage.length > 0 ? null : this.findBreak();
    assert(broken === null, `group ${this.group}: ${broken}`);
  }

  /** Where the log is not one chain from the compaction point to its end; null: it is. */
  findBreak(): string | null {
    let previousIndex = this.compacted.index;
    let previousTerm = this.compacted.term;
    for (const run of this.runs) {
      if (run.last <= this.compacted.index) continue;
      if (run.first > previousIndex) {
        if (run.first !== previousIndex + 1) return `entry ${previousIndex + 1} is missing`;
        if (run.previousTerm !== previousTerm) return `entry ${run.first} does not follow the one before it`;
      } else if (previousIndex !== this.compacted.index || run.term !== previousTerm)
        return `entry ${previousIndex} has term ${run.term}, not ${previousTerm}`;
      if (run.term < previousTerm) return `term falls at ${run.first}`;
      previousIndex = run.last;
      previousTerm = run.term;
    }
    if (previousIndex !== this.lastIndex) return `log ends at ${previousIndex}, not ${this.lastIndex}`;
    return previousTerm === this.lastTerm ? null : `last term is ${previousTerm}, not ${this.lastTerm}`;
  }
}

export function noteTruncation(truncations: Truncation[], position: number, from: number): void {
  while (truncations.length > 0 && truncations[truncations.length - 1]!.from >= from) truncations.pop();
  truncations.push({ position, from });
}

function findRun(runs: readonly Run[], index: number): Run | null {
  let low = 0;
  let high = runs.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const run = runs[middle]!;
    if (index < run.first) high = middle - 1;
    else if (index > run.last) low = middle + 1;
    else return run.slot(index) < 0 ? null : run;
  }
  return null;
}
