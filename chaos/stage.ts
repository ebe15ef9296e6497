// What a scenario stands on: its target, its share of time, choices by the seed, and the timeline of what it does.
//
// State owned: the end of the scenario's time, the draws made so far, the nodes that joined, and which nodes are still recovering from a fault.
// A fault that was begun is ended, whatever happens. Sleeping ends early when the time is up or the run is interrupted.

import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Meter } from './measure.ts';
import type { Observer, Stage, Target } from './types.ts';

export interface StageOptions {
  readonly target: Target;
  /** Choices follow from both: a scenario makes the same alone as among others. */
  readonly seed: number;
  readonly name: string;
  readonly milliseconds: number;
  readonly follower: number;
  readonly meter: Meter;
  readonly observer: Observer;
  /** The time of the run. */
  readonly now: () => number;
  readonly storm: () => void;
  readonly signal: AbortSignal;
}

/** For the cluster to be whole again between two faults. */
export const comeBackMillisecondsMax = 60_000;
/** A node that a fault has left serves again after so long at most, or at the next calm. */
const recoveryMilliseconds = 3000;
const calmMillisecondsMin = 700;
const calmMillisecondsMax = 3000;
/** Of the scenario's time. */
const calmShare = 1 / 12;

/** Integers below a bound, by the words alone. */
export function createRandom(...words: readonly (string | number)[]): (bound: number) => number {
  let draws = 0;
  return (bound) => {
    const digest = createHash('sha256')
      .update([...words, draws++].join(' '))
      .digest();
    return digest.readUIntBE(0, 6) % bound;
  };
}

/** So many different ones of these. */
export function pickFrom<T>(random: (bound: number) => number, from: readonly T[], count: number): T[] {
  const rest = [...from];
  return Array.from({ length: Math.min(count, rest.length) }, () => rest.splice(random(rest.length), 1)[0]!);
}

interface Recovery {
  readonly nodes: readonly number[];
  readonly timer: NodeJS.Timeout;
}

export class RunningStage implements Stage {
  readonly target: Target;
  readonly follower: number;
  readonly milliseconds: number;
  readonly random: (bound: number) => number;
  readonly #options: StageOptions;
  readonly #endsAt: number;
  readonly #joined: number[] = [];
  readonly #recovering = new Set<Recovery>();

  constructor(options: StageOptions) {
    this.target = options.target;
    this.follower = options.follower;
    this.milliseconds = options.milliseconds;
    this.random = createRandom(options.seed, options.name);
    this.#options = options;
    this.#endsAt = options.now() + options.milliseconds;
  }

  get nodes(): readonly number[] {
    return [...this.target.nodes.map(({ number }) => number), ...this.#joined];
  }

  get isOver(): boolean {
    return this.#options.signal.aborted || this.#options.now() >= this.#endsAt;
  }

  pick<T>(from: readonly T[], count: number): T[] {
    return pickFrom(this.random, from, count);
  }

  async sleep(milliseconds: number): Promise<void> {
    const { now, signal } = this.#options;
    const until = Math.min(now() + milliseconds, this.#endsAt);
    // A timer may be early by a part of a millisecond. It rejects when the run is interrupted, which only ends the sleep.
    for (let left = until - now(); left > 0 && !signal.aborted; left = until - now())
      await delay(Math.ceil(left), undefined, { signal }).catch(() => {});
  }

  async calm(): Promise<void> {
    const { signal } = this.#options;
    if (signal.aborted) return;
    const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
    await Promise.race([this.target.waitReady(comeBackMillisecondsMax), aborted]);
    for (const recovery of this.#recovering) this.#recovered(recovery);
    await this.sleep(Math.min(calmMillisecondsMax, Math.max(calmMillisecondsMin, this.milliseconds * calmShare)));
  }

  async fault(
    name: string,
    nodes: readonly number[],
    milliseconds: number,
    begin: () => Promise<void>,
    end: () => Promise<void>,
  ): Promise<void> {
    const { meter, observer, now } = this.#options;
    const span = meter.span(name, nodes, now());
    meter.unwell(nodes);
    observer.faultBegins(name, nodes, span.from);
    try {
      await begin();
      await this.sleep(milliseconds);
    } finally {
      try {
        await end();
      } finally {
        span.to = now();
        this.#recover(nodes);
        observer.faultEnds({ ...span });
      }
    }
  }

  async reconnectStorm(): Promise<void> {
    this.#options.storm();
  }

  async join(): Promise<number> {
    const node = await this.target.join();
    this.#joined.push(node);
    return node;
  }

  async leave(node: number): Promise<void> {
    await this.target.leave(node);
    const at = this.#joined.indexOf(node);
    if (at >= 0) this.#joined.splice(at, 1);
  }

  #recover(nodes: readonly number[]): void {
    const timer = setTimeout(() => this.#recovered(recovery), recoveryMilliseconds).unref();
    const recovery = { nodes, timer };
    this.#recovering.add(recovery);
  }

  #recovered(recovery: Recovery): void {
    if (!this.#recovering.delete(recovery)) return;
    clearTimeout(recovery.timer);
    this.#options.meter.well(recovery.nodes);
  }
}
