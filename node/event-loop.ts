// How late this process is: the longest time of late in which its event loop did nothing but one thing. For /cluster, and for people.
// State owned: a sampling timer and the longest delay of each of the last seconds. Samples cost a hundred short wake-ups a second.

import { monitorEventLoopDelay } from 'node:perf_hooks';

const sampleMilliseconds = 10;
/** What is told covers about so many seconds. */
const secondsKept = 10;

export class EventLoopDelay {
  readonly #histogram = monitorEventLoopDelay({ resolution: sampleMilliseconds });
  readonly #seconds: number[] = [];
  readonly #timer: NodeJS.Timeout;

  constructor() {
    this.#histogram.enable();
    this.#timer = setInterval(() => this.#rotate(), 1_000);
    this.#timer.unref();
  }

  /** In milliseconds, of the last ten seconds. */
  get longest(): number {
    return Math.max(this.#current(), ...this.#seconds);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#histogram.disable();
  }

  #rotate(): void {
    this.#seconds.push(this.#current());
    if (this.#seconds.length > secondsKept) this.#seconds.shift();
    this.#histogram.reset();
  }

  /** A sample is the time between two wake-ups, so the interval itself is taken off. Without a sample the maximum is 0. */
  #current(): number {
    return Math.max(0, this.#histogram.max / 1e6 - sampleMilliseconds);
  }
}
