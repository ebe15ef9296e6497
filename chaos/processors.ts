// How long processes that could have run were not given a processor. On a machine that has too few, that is in every figure, and is not the broker's.
//
// State owned: the last reading of each process, and what was read in the last minute. Linux tells it, for the main thread of a process, in
// /proc/PID/schedstat; where nobody tells it nothing is known, and nothing is taken for zero.

import { readFileSync } from 'node:fs';

/** A process's sum of waiting until now, in milliseconds; null: it is gone, or this system does not tell. */
export type ReadWait = (pid: number) => number | null;

const keptMilliseconds = 60_000;
/** Shorter ones are how a machine works that has all it needs. */
const waitMillisecondsMin = 1;

interface Wait {
  readonly pid: number;
  /** When it was seen; it ended since the look before. */
  readonly to: number;
  readonly milliseconds: number;
}

export class ProcessorWaits {
  readonly #pids: () => readonly number[];
  readonly #now: () => number;
  readonly #read: ReadWait;
  #last = new Map<number, number>();
  #waits: Wait[] = [];

  /** `pids`: asked at every look, for processes come and go. `now`: the time by which is asked. */
  constructor(pids: () => readonly number[], now: () => number, read: ReadWait = readWait) {
    this.#pids = pids;
    this.#now = now;
    this.#read = read;
  }

  /** To be called every few milliseconds: what is asked for is as exact as this is frequent. */
  look(): void {
    const to = this.#now();
    const last = new Map<number, number>();
    for (const pid of this.#pids()) {
      const sum = this.#read(pid);
      if (sum === null) continue;
      const before = this.#last.get(pid);
      last.set(pid, sum);
      if (before !== undefined && sum - before >= waitMillisecondsMin)
        this.#waits.push({ pid, to, milliseconds: sum - before });
    }
    this.#last = last;
    const oldest = this.#waits.findIndex((wait) => wait.to > to - keptMilliseconds);
    if (oldest > 0) this.#waits.splice(0, oldest);
    else if (oldest < 0) this.#waits = [];
  }

  /** The longest that any one of them waited between these times, of the last minute; null: nobody tells. */
  within(from: number, to: number): number | null {
    if (this.#last.size === 0) return null;
    const sums = new Map<number, number>();
    for (const wait of this.#waits) {
      // It is told when it is over, and may have begun long before.
      if (wait.to < from || wait.to - wait.milliseconds > to) continue;
      sums.set(wait.pid, (sums.get(wait.pid) ?? 0) + wait.milliseconds);
    }
    return Math.min(to - from, Math.max(0, ...sums.values()));
  }
}

function readWait(pid: number): number | null {
  try {
    const [, nanoseconds] = readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ');
    const milliseconds = Number(nanoseconds) / 1e6;
    return Number.isFinite(milliseconds) ? milliseconds : null;
  } catch {
    return null;
  }
}
