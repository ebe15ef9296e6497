// How late this process is: the longest time of late in which its event loop did nothing but one thing, and how much of it was its own work. On
// a machine with too few processors a process waits for one; and where a host gives them to others, it stands still without knowing. For
// /cluster, and for people.
//
// State owned: a sampling timer and the longest delays of each of the last seconds. Samples cost a hundred short wake-ups a second.

import { openSchedule, type Scheduled } from './schedule.ts';

const sampleMilliseconds = 10;
/** What is told covers about so many seconds. */
const secondsKept = 10;

/** In milliseconds, of the last ten seconds. */
export interface LongestDelay {
  readonly milliseconds: number;
  /** The longest of what the process ran meanwhile, a blocking call not counted; null: this system does not tell. */
  readonly ownMilliseconds: number | null;
}

/** Where the sums come from, in milliseconds. For tests. */
export interface LoopTimes {
  now(): number;
  /** How long the process has run, and waited for a processor; null: nobody tells. */
  scheduled(): Scheduled | null;
  close(): void;
}

export class EventLoopDelay {
  readonly #times: LoopTimes;
  readonly #timer: NodeJS.Timeout;
  #last: number;
  #lastScheduled: Scheduled | null;
  /** By second, the present one last. */
  readonly #seconds: { readonly until: number; delay: number; own: number }[] = [];

  constructor(times: LoopTimes = processTimes()) {
    this.#times = times;
    this.#last = times.now();
    this.#lastScheduled = times.scheduled();
    this.#timer = setInterval(() => this.sample(), sampleMilliseconds);
    this.#timer.unref();
  }

  get longest(): LongestDelay {
    const milliseconds = Math.max(0, ...this.#seconds.map(({ delay }) => delay));
    const own = Math.max(0, ...this.#seconds.map((second) => second.own));
    return { milliseconds, ownMilliseconds: this.#lastScheduled === null ? null : own };
  }

  /** The time between two wake-ups, so the interval itself is taken off. */
  sample(): void {
    const now = this.#times.now();
    const scheduled = this.#times.scheduled();
    const delay = Math.max(0, now - this.#last - sampleMilliseconds);
    const own = this.#ownOf(delay, scheduled);
    this.#last = now;
    this.#lastScheduled = scheduled;
    let second = this.#seconds[this.#seconds.length - 1];
    if (second === undefined || now >= second.until) {
      second = { until: now + 1_000, delay: 0, own: 0 };
      this.#seconds.push(second);
      if (this.#seconds.length > secondsKept) this.#seconds.shift();
    }
    second.delay = Math.max(second.delay, delay);
    second.own = Math.max(second.own, own);
  }

  /** It ran in the interval too: what is left of the delay without what it waited is the most that counts. */
  #ownOf(delay: number, scheduled: Scheduled | null): number {
    const last = this.#lastScheduled;
    if (scheduled === null || last === null) return 0;
    return Math.max(0, Math.min(delay - (scheduled.waited - last.waited), scheduled.ran - last.ran));
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
    scheduled: () => schedule.read(),
    close: () => schedule.close(),
  };
}
