// What a workload is: clients that do one kind of thing, each kind a small file of `workloads/`.
//
// A workload goes on from `start` until `stop`, whatever happens to the nodes; then it ends its clients in order. It writes down all that it does
// (`session.ts` does that), and names the queues that are to be empty in the end, so that what was confirmed and is not there is noticed.

import type { Random } from '../../cluster/ports.ts';
import { Actor, type ActorOptions, type ClientWorld } from './actor.ts';

export interface RunningWorkload {
  /** Begins nothing new; what is under way may come to its end. */
  pause(): void;
  /** Nothing is under way any more, as far as clients can know. */
  readonly isIdle: boolean;
  /** Ends its clients. */
  stop(): void;
  /** Durable queues that may hold messages now, to be drained. */
  queues(): readonly string[];
}

/** A client of a workload, as `Publisher`, `Consumer` and `Visitor` are. */
interface Client {
  pause(): void;
  stop(): void;
}

/** A workload of these clients: it is idle when those that publish are. They end in this order, publishers first. */
export function running(
  context: WorkloadContext,
  publishers: readonly (Client & { readonly isIdle: boolean })[],
  others: readonly Client[],
  queues: () => readonly string[],
): RunningWorkload {
  const all = [...publishers, ...others];
  return {
    pause() {
      for (const one of all) one.pause();
    },
    get isIdle() {
      return publishers.every((one) => one.isIdle);
    },
    stop() {
      for (const one of all) one.stop();
      context.stopActors();
    },
    queues,
  };
}

export interface Workload {
  readonly name: string;
  /** It counts on what one node has answered for to be true through every node: that holds of clocks that run at nearly the same rate. */
  readonly clocksAgree?: boolean;
  start(context: WorkloadContext): RunningWorkload;
}

/** What one workload uses of the world. Its names begin with its own, so that workloads never meet. */
export class WorkloadContext {
  readonly world: ClientWorld;
  readonly name: string;
  /** Of this workload alone. */
  readonly random: Random;
  /** Operations begun, for the totals. */
  operations = 0;
  readonly #actors: Actor[] = [];

  constructor(world: ClientWorld, name: string, random: Random) {
    this.world = world;
    this.name = name;
    this.random = random;
  }

  /** A client; `home` null: it roams. Without one, three of four roam. */
  actor(role: string, options: Omit<ActorOptions, 'home'> & { readonly home?: number | null }): Actor {
    const nodes = this.world.nodesToTry();
    const home = options.home ?? (this.oneIn(4) ? this.pick(nodes) : null);
    const actor = new Actor(`${this.name}-${role}${this.#actors.length + 1}`, this.world, { ...options, home });
    this.#actors.push(actor);
    return actor;
  }

  stopActors(): void {
    for (const actor of this.#actors) actor.stop();
  }

  /** Calls again and again, each time after what `milliseconds` says then, until it says null. */
  repeat(milliseconds: () => number | null, task: () => void): void {
    const wait = milliseconds();
    if (wait === null) return;
    this.world.clock.after(wait, () => {
      task();
      this.repeat(milliseconds, task);
    });
  }

  between(least: number, most: number): number {
    return least + this.random.integer(most - least + 1);
  }
  oneIn(n: number): boolean {
    return this.random.integer(n) === 0;
  }
  pick<T>(from: readonly T[]): T {
    const picked = from[this.random.integer(from.length)];
    if (picked === undefined) throw new Error('nothing to pick from');
    return picked;
  }
}
