// How long processes that could have run were not given a processor, and how much of the processors the machine's host gave to others. On a machine
// that has too few, that is in every figure, and is not the broker's.
//
// State owned: the last reading of each process and of the host, and what was read in the last minute. Linux tells it, for the main thread of a
// process, in /proc/PID/schedstat, and in /proc/stat; where nobody tells it nothing is known, and nothing is taken for zero. What the host takes is
// not in the other: a process whose processor is away seems to run.

import { readFileSync } from 'node:fs';

/** A process's sum of waiting until now, in milliseconds; null: it is gone, or this system does not tell. */
export type ReadWait = (pid: number) => number | null;

const keptMilliseconds = 60_000;
/** Shorter ones are how a machine works that has all it needs. */
const waitMillisecondsMin = 1;

interface Spell {
  /** When it was seen; it ended since the look before. */
  readonly to: number;
  readonly milliseconds: number;
}

interface Wait extends Spell {
  readonly pid: number;
}

export class ProcessorWaits {
  readonly #pids: () => readonly number[];
  readonly #now: () => number;
  readonly #read: ReadWait;
  readonly #readStolen: () => number;
  #last = new Map<number, number>();
  #waits: Wait[] = [];
  #lastStolen = Number.NaN;
  #stolen: Spell[] = [];

  /** `pids`: asked at every look, for processes come and go. `now`: the time by which is asked. */
  constructor(
    pids: () => readonly number[],
    now: () => number,
    read: ReadWait = readWait,
    readStolen: () => number = stolenMilliseconds,
  ) {
    this.#pids = pids;
    this.#now = now;
    this.#read = read;
    this.#readStolen = readStolen;
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
    const stolen = this.#readStolen();
    if (stolen > this.#lastStolen) this.#stolen.push({ to, milliseconds: stolen - this.#lastStolen });
    this.#lastStolen = stolen;
    this.#waits = recent(this.#waits, to);
    this.#stolen = recent(this.#stolen, to);
  }

  /** What the host took of all processors between these times, of the last minute; null: nobody tells. */
  stolenWithin(from: number, to: number): number | null {
    if (Number.isNaN(this.#lastStolen)) return null;
    return this.#stolen.reduce(
      (sum, { to: seen, milliseconds }) => sum + (seen < from || seen > to ? 0 : milliseconds),
      0,
    );
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

function recent<T extends Spell>(spells: T[], now: number): T[] {
  const oldest = spells.findIndex(({ to }) => to > now - keptMilliseconds);
  if (oldest < 0) return [];
  return oldest === 0 ? spells : spells.slice(oldest);
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

/** Linux counts in hundredths of a second. */
const tickMilliseconds = 10;

/**
 * Milliseconds since the machine started for which its host gave its processors to others although they had work to do, summed over all of them
 * (`steal` in /proc/stat). NaN: this system does not tell. It is in every time that is measured, and nothing of it is the broker's.
 */
export function stolenMilliseconds(): number {
  try {
    const [, , , , , , , , ticks] = readFileSync('/proc/stat', 'latin1').split(/\s+/, 9);
    return Number(ticks ?? Number.NaN) * tickMilliseconds;
  } catch {
    return Number.NaN;
  }
}
