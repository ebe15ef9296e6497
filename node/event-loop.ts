// How late this process is: the longest time of late in which its event loop did nothing but one thing, and how long it was its own doing: on a
// machine with too few processors a process waits for one. For /cluster, and for people.
//
// State owned: a sampling timer and the longest delays of each of the last seconds. Samples cost a hundred short wake-ups a second.

import { openSchedule } from './schedule.ts';

const sampleMilliseconds = 10;
/** What is told covers about so many seconds. */
const secondsKept = 10;

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
  readonly #seconds: { readonly until: number; delay: number; own: number }[] = [];

  constructor(times: LoopTimes = processTimes()) {
    this.#times = times;
    this.#last = times.now();
    this.#lastWaited = times.waited();
    this.#timer = setInterval(() => this.sample(), sampleMilliseconds);
    this.#timer.unref();
  }

  get longest(): LongestDelay {
    const milliseconds = Math.max(0, ...this.#seconds.map(({ delay }) => delay));
    const own = Math.max(0, ...this.#seconds.map((second) => second.own));
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
    let second = this.#seconds[this.#seconds.length - 1];
    if (second === undefined || now >= second.until) {
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
  const schedule = openSchedule();
  return {
    now: () => performance.now(),
    waited: () => schedule.read()?.waited ?? null,
    close: () => schedule.close(),
  };
}
