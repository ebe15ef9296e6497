// This node's lease on the metadata: while it holds one it may route by its own copy, because whatever was declared anywhere, and answered,
// is in that copy.
//
//   asked → granted (a quorum has confirmed who leads, since the request was sent) → applied up to the read index: held → asked again, or lost
//
// State owned: the lease that is held, and the requests that may still become one, in the order in which they were sent.
//
// Invariants: a lease counts from the *sending* of its request, so that it ends here before whoever granted it thinks so; never from what
// came later. It counts only once this node has applied its read index. A request belongs to this process: an answer to another one is no
// answer. When wall and monotonic clock disagree about the time since the request, the machine slept with its monotonic clock standing
// still (a suspended VM), and nothing is known: the lease, and every request from before, is void.

import type { Clock } from '../ports.ts';
import type { LeaseGrant, LeaseRequest } from './lease-wire.ts';

export interface LeaseOptions {
  /** Longer than an election of the metadata's leader, and about the longest wait of a declaration while a node hangs. */
  readonly milliseconds: number;
  /** A lease that has less than this left is asked for anew, */
  readonly renewMilliseconds: number;
  /** so often. */
  readonly requestMilliseconds: number;
  /** How far wall and monotonic clock may disagree about a lease's age. */
  readonly clockStepMilliseconds: number;
}

/** Part of the time by which two sound clocks may differ: a lease is counted that much longer by whoever granted it. */
export const clockRateMargin = 0.01;

export interface LeaseHolderHost {
  readonly clock: Pick<Clock, 'now' | 'wall'>;
  readonly options: LeaseOptions;
  /** Of this process. */
  readonly incarnation: number;
  /** Without a lease for longer than this: `overdue`. */
  readonly overdueMilliseconds: number;
  /** How far this node's metadata have come; null: their replica stopped. */
  applied(): number | null;
  /** Asks the metadata's leader. False: nobody leads, or he cannot be reached now. */
  ask(request: LeaseRequest): boolean;
  gained(): void;
  lost(): void;
  /** Told again with every tick while it lasts. */
  overdue(): void;
}

interface Asked {
  readonly number: number;
  readonly sentAt: number;
  readonly sentWall: number;
  /** Granted: valid once this is applied; before that null. */
  readIndex: number | null;
}

export class LeaseHolder {
  readonly #host: LeaseHolderHost;
  #asked: Asked[] = [];
  #lease: Asked | null = null;
  #nextNumber = 1;
  /** No request before this. */
  #askAgainAt = Number.NEGATIVE_INFINITY;
  /** Since when there has been none; null while one is held. */
  #lostAt: number | null;

  constructor(host: LeaseHolderHost) {
    this.#host = host;
    this.#lostAt = host.clock.now();
  }

  /** May this node route by its metadata, now? */
  get isFresh(): boolean {
    if (this.#lease === null) return false;
    if (this.#isValid(this.#lease)) return true;
    this.#lose();
    return false;
  }

  /** Now and then. */
  tick(): void {
    const { clock, overdueMilliseconds } = this.#host;
    if (this.#host.applied() === null) this.drop();
    else this.#askIfDue();
    if (!this.isFresh && clock.now() - this.#lostAt! > overdueMilliseconds) this.#host.overdue();
  }

  /** The metadata's leader is another one, or can be reached again: what was asked may be lost. */
  leaderChanged(): void {
    this.#askAgainAt = Number.NEGATIVE_INFINITY;
    if (this.#host.applied() !== null) this.#askIfDue();
  }

  granted({ number, incarnation, readIndex }: LeaseGrant): void {
    const asked = this.#asked.find((request) => request.number === number);
    if (asked === undefined || incarnation !== this.#host.incarnation) return;
    asked.readIndex = readIndex;
    this.moved();
  }

  /** This node's metadata have come further: the newest granted request that they have reached is the lease. */
  moved(): void {
    if (this.#asked.length === 0) return;
    const applied = this.#host.applied();
    if (applied === null) return;
    const at = this.#asked.findLastIndex(({ readIndex }) => readIndex !== null && readIndex <= applied);
    if (at < 0) return;
    const lease = this.#asked[at]!;
    this.#asked.splice(0, at + 1);
    if (!this.#isValid(lease)) return;
    this.#lease = lease;
    if (this.#lostAt === null) return;
    this.#lostAt = null;
    this.#host.gained();
  }

  /** This incarnation ended, or the metadata's replica stopped: nothing that was asked before counts. */
  drop(): void {
    this.#asked = [];
    this.#askAgainAt = Number.NEGATIVE_INFINITY;
    if (this.#lease !== null) this.#lose();
  }

  #lose(): void {
    this.#lease = null;
    this.#lostAt = this.#host.clock.now();
    this.#askAgainAt = Number.NEGATIVE_INFINITY;
    this.#host.lost();
  }

  #askIfDue(): void {
    const { clock, options, incarnation } = this.#host;
    const now = clock.now();
    if (now < this.#askAgainAt) return;
    const left = this.#lease === null ? 0 : this.#lease.sentAt + options.milliseconds - now;
    if (left >= options.renewMilliseconds) return;
    this.#asked = this.#asked.filter((request) => this.#isValid(request));
    const number = this.#nextNumber++;
    // Noted first: its time counts from before it leaves.
    this.#asked.push({ number, sentAt: now, sentWall: clock.wall(), readIndex: null });
    if (this.#host.ask({ number, incarnation, applied: this.#host.applied()! }))
      this.#askAgainAt = now + options.requestMilliseconds;
    else this.#asked = this.#asked.filter((request) => request.number !== number);
  }

  #isValid({ sentAt, sentWall }: Asked): boolean {
    const { clock, options } = this.#host;
    const passed = clock.now() - sentAt;
    const passedWall = clock.wall() - sentWall;
    // Whichever is longer: a short sleep ends the lease in time.
    if (Math.max(passed, passedWall) >= options.milliseconds) return false;
    return Math.abs(passedWall - passed) <= options.clockStepMilliseconds + passed * clockRateMargin;
  }
}
