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
  /** The longest of what the loop was busy and the process ran meanwhile; null: this system does not tell. */
  readonly ownMilliseconds: number | null;
}

/** Where the sums come from, in milliseconds. For tests. */
export interface LoopTimes {
  now(): number;
  /** How long the process has run, and waited for a processor; null: nobody tells. */
  scheduled(): Scheduled | null;
  /** How long the loop has done anything but wait for something to happen. */
  busy(): number;
  close(): void;
}

export class EventLoopDelay {
  readonly #times: LoopTimes;
  readonly #timer: NodeJS.Timeout;
  #last: number;
  #lastScheduled: Scheduled | null;
  #lastBusy: number;
  /** By second, the present one last. */
  readonly #seconds: { readonly until: number; delay: number; own: number }[] = [];

  constructor(times: LoopTimes = processTimes()) {
    this.#times = times;
    this.#last = times.now();
    this.#lastScheduled = times.scheduled();
    this.#lastBusy = times.busy();
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
    const busy = this.#times.busy();
    const delay = Math.max(0, now - this.#last - sampleMilliseconds);
    const own = this.#ownOf(delay, scheduled, busy);
    this.#last = now;
    this.#lastScheduled = scheduled;
    this.#lastBusy = busy;
    let second = this.#seconds[this.#seconds.length - 1];
    if (second === undefined || now >= second.until) {
      second = { until: now + 1_000, delay: 0, own: 0 };
      this.#seconds.push(second);
      if (this.#seconds.length > secondsKept) this.#seconds.shift();
    }
    second.delay = Math.max(second.delay, delay);
    second.own = Math.max(second.own, own);
  }

  /** Each is too much in its own way: of the interval, of what a host takes from a process that runs, and from a loop that waits. */
  #ownOf(delay: number, scheduled: Scheduled | null, busy: number): number {
    const last = this.#lastScheduled;
    if (scheduled === null || last === null) return 0;
    const unhindered = delay - (scheduled.waited - last.waited);
    return Math.max(0, Math.min(unhindered, scheduled.ran - last.ran, busy - this.#lastBusy));
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
    busy: () => performance.eventLoopUtilization().active,
    close: () => schedule.close(),
  };
}
