// Declarations become visible on all connected nodes before they are answered: declare on one node, publish through another at once.
//
// State owned: who waits for which version of the metadata. A waiter is called once: when this node and every connected one have applied
// its version, or when its time is over, because a node that hangs must not hold up the others.

import type { Peers } from './peers.ts';
import type { Clock } from './ports.ts';

interface Waiter {
  readonly version: number;
  readonly until: number;
  readonly done: () => void;
}

export class Visibility {
  readonly #clock: Clock;
  readonly #peers: Peers;
  readonly #waitMilliseconds: number;
  readonly #appliedHere: () => number;
  #waiters: Waiter[] = [];

  constructor(clock: Clock, peers: Peers, waitMilliseconds: number, appliedHere: () => number) {
    this.#clock = clock;
    this.#peers = peers;
    this.#waitMilliseconds = waitMilliseconds;
    this.#appliedHere = appliedHere;
  }

  when(version: number, done: () => void): void {
    this.#waiters.push({
      version,
      until: this.#clock.now() + this.#waitMilliseconds,
      done,
    });
    this.check();
  }

  /** After any of these changed: what was applied here or elsewhere, who is connected, the time. */
  check(): void {
    if (this.#waiters.length === 0) return;
    let everywhere = this.#appliedHere();
    for (const peer of this.#peers.all()) if (peer.upTicks > 0) everywhere = Math.min(everywhere, peer.metadataApplied);
    const now = this.#clock.now();
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (waiter.version <= everywhere || now >= waiter.until) waiter.done();
      else this.#waiters.push(waiter);
    }
  }
}
