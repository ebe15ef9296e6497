// A declaration is answered when no node can route without it any more: declare on one node, publish through another at once.
//
// State owned: who waits for which version of the metadata, in order, and the highest version that a leader of the metadata has said to be
// visible (`lease-keeper.ts` tells why his word holds for ever). A waiter is called once: with true when every node of the cluster, connected
// or not, is known to have applied its version, or it was said to be visible; with false when his time is over: its fate is unknown.
//
// That a node has applied a version outlives it: a later process of that node gets no lease before it has applied it again.

import type { Peers } from '../peers/peers.ts';
import type { Clock } from '../ports.ts';

interface Waiter {
  readonly version: number;
  readonly until: number;
  readonly done: (isVisible: boolean) => void;
}

export class Visibility {
  readonly #clock: Pick<Clock, 'now'>;
  readonly #peers: Pick<Peers, 'all'>;
  readonly #waitMilliseconds: number;
  readonly #appliedHere: () => number;
  /** In the order in which they came, and so by time; their versions hardly ever fall. */
  #waiters: Waiter[] = [];
  #said = 0;

  constructor(
    clock: Pick<Clock, 'now'>,
    peers: Pick<Peers, 'all'>,
    waitMilliseconds: number,
    appliedHere: () => number,
  ) {
    this.#clock = clock;
    this.#peers = peers;
    this.#waitMilliseconds = waitMilliseconds;
    this.#appliedHere = appliedHere;
  }

  /** The highest version said to be visible. */
  get said(): number {
    return this.#said;
  }

  /** `version` was applied here, or is being applied. */
  when(version: number, done: (isVisible: boolean) => void): void {
    if (version <= this.#visible()) return done(true);
    this.#waiters.push({ version, until: this.#clock.now() + this.#waitMilliseconds, done });
  }

  /** A leader of the metadata said so. */
  heard(version: number): void {
    if (version <= this.#said) return;
    this.#said = version;
    this.check();
  }

  /** After what was applied here or elsewhere has changed, and now and then. */
  check(): void {
    if (this.#waiters.length === 0) return;
    const visible = this.#visible();
    const now = this.#clock.now();
    const done = this.#waiters.findIndex(({ version, until }) => version > visible && now < until);
    const ended = this.#waiters.splice(0, done < 0 ? this.#waiters.length : done);
    for (const waiter of ended) waiter.done(waiter.version <= visible);
  }
  #visible(): number {
    let everywhere = this.#appliedHere();
    for (const { metadataApplied } of this.#peers.all()) everywhere = Math.min(everywhere, metadataApplied);
    return Math.max(everywhere, this.#said);
  }
}
