// How late this process is: the longest time of late in which its event loop did nothing but one thing, and how long it was its own doing: on a
// machine with too few processors a process waits for one. For /cluster, and for people.
//
// State owned: a sampling timer and the longest delays of each of the last seconds. Samples cost a hundred short wake-ups a second.

import { closeSync, openSync, readSync } from 'node:fs';

const sampleMilliseconds = 10;
/** What is told covers about so many seconds. */
const secondsKept = 10;
/** Nanoseconds that the main thread ran, that it could have run and was given no processor, turns. Linux. */
const schedulePath = '/proc/self/schedstat';

/** In milliseconds, of the last ten seconds. */
export interface LongestDelay {
  readonly milliseconds: number;
  /** Without what the process waited for a processor meanwhile; null: this system does not tell. */
  readonly ownMilliseconds: number | null;
}

/** Where the sums come from, in milliseconds. For tests. */
export interface LoopTimes {
  now(): number;
  /** How long the process has waited for a processor; null: nobody tells. */
  waited(): number | null;
  close(): void;
}

export class EventLoopDelay {
  readonly #times: LoopTimes;
  readonly #timer: NodeJS.Timeout;
  #last: number;
  #lastWaited: number | null;
  /** By second, the present one last. */
  #seconds = [{ until: 0, delay: 0, own: 0 }];

  constructor(times: LoopTimes = processTimes()) {
    this.#times = times;
    this.#last = times.now();
    this.#lastWaited = times.waited();
    this.#seconds[0]!.until = this.#last + 1_000;
    this.#timer = setInterval(() => this.sample(), sampleMilliseconds);
    this.#timer.unref();
  }

  get longest(): LongestDelay {
    const milliseconds = Math.max(...this.#seconds.map(({ delay }) => delay));
    const own = Math.max(...this.#seconds.map((second) => second.own));
    return { milliseconds, ownMilliseconds: this.#lastWaited === null ? null : own };
  }

  /** The time between two wake-ups, so the interval itself is taken off. */
  sample(): void {
    const now = this.#times.now();
    const waited = this.#times.waited();
    const delay = Math.max(0, now - this.#last - sampleMilliseconds);
    const own = Math.max(0, delay - ((waited ?? 0) - (this.#lastWaited ?? 0)));
    this.#last = now;
    this.#lastWaited = waited;
    let second = this.#seconds[this.#seconds.length - 1]!;
    if (now >= second.until) {
      second = { until: now + 1_000, delay: 0, own: 0 };
      this.#seconds.push(second);
      if (this.#seconds.length > secondsKept) this.#seconds.shift();
    }
    second.delay = Math.max(second.delay, delay);
    second.own = Math.max(second.own, own);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#times.close();
  }
}

function processTimes(): LoopTimes {
  const text = Buffer.alloc(64);
  let file: number | null = null;
  try {
    file = openSync(schedulePath, 'r');
  } catch {
    // Not Linux, or a kernel without these sums.
  }
  const waited = () => {
    if (file === null) return null;
    const length = readSync(file, text, 0, text.length, 0);
    const nanoseconds = Number(text.toString('latin1', 0, length).split(' ')[1]);
    return Number.isFinite(nanoseconds) ? nanoseconds / 1e6 : null;
  };
  const close = () => {
    if (file !== null) closeSync(file);
    file = null;
  };
  return { now: () => performance.now(), waited, close };
}
