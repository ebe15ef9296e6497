// Which faults a run has, and when. One seed in four has none; the others have a random part of the kinds of their profile (a swarm: what
// always comes together hides what comes alone), at a pace of their own.
//
// State owned: which faults are on, who is kept down and until when, whose disk may be damaged. Draws from a stream of its own, so that a
// run repeats; runs on the world's clock.
//
// What must hold whatever is drawn: at most a minority of any group's replicas ever loses what it had made durable (`mayDamage`). Power may
// fail everywhere at once: what was synced stays. Whatever ends a process, it is started again.

import type { Random, Timer } from '../../cluster/ports.ts';
import { createMemoryRandom } from '../support/memory-random.ts';
import { damageKinds } from './faults/damage.ts';
import { diskKinds } from './faults/disk.ts';
import { changeKinds, membershipKinds } from './faults/membership.ts';
import { networkKinds } from './faults/network.ts';
import { processKinds } from './faults/process.ts';
import type { Begun, Details, FaultContext, FaultKind, FaultTarget, NodeState, Profile } from './faults/target.ts';

export type { FaultTarget, MembershipTarget, NodeState, Profile } from './faults/target.ts';

export const profiles: readonly Profile[] = ['network', 'disk', 'membership', 'all'];

export const faultKinds: readonly FaultKind[] = [
  ...networkKinds,
  ...diskKinds,
  ...damageKinds,
  ...processKinds,
  ...membershipKinds,
];

export interface FaultOptions {
  readonly seed: number;
  readonly profile: Profile;
  readonly target: FaultTarget;
  /** Hears of every fault as it begins, and of those that show themselves later; and as `heal` when all have ended. */
  readonly report: (kind: string, details: Details) => void;
  /** Kinds that this run must not have: for finding out which one matters. */
  readonly without?: readonly string[];
  /** Kinds that this run has in any case, besides what is drawn. */
  readonly besides?: readonly string[];
  /** Exactly these kinds instead of a random part, in every seed. */
  readonly only?: readonly string[];
}

export interface Faults {
  /** From now on things go wrong. */
  start(): void;
  /** Ends every fault and begins no more: links, disks and clocks are well, everybody runs or is started. What was damaged stays so. */
  heal(): void;
  /** The kinds that this run may have. Empty: none at all. */
  readonly kinds: readonly string[];
  /** How often each was begun. */
  readonly counts: Readonly<Record<string, number>>;
}

/** One seed in this many has no faults. */
const calmSeeds = 4;
/** Processes that nobody keeps down are started after so long at the latest. */
const superviseMilliseconds = 500;
const downMillisecondsMax = 2_500;

export function createFaults(options: FaultOptions): Faults {
  return new Driver(options);
}

/** By a stream of their own. Neighbouring seeds begin far from each other. */
function apart(fitting: readonly FaultKind[], seed: number): readonly FaultKind[] {
  const random = createMemoryRandom(Math.imul(seed, 0x1b87_3593));
  return fitting.filter(({ apartSeeds }) => apartSeeds !== undefined && random.integer(apartSeeds) === 0);
}

class Driver implements Faults, FaultContext {
  readonly counts: Record<string, number> = {};
  readonly target: FaultTarget;
  readonly random: Random;
  readonly #kinds: readonly FaultKind[];
  readonly #report: FaultOptions['report'];
  /** Of the mean time between two faults of a kind. */
  readonly #pace: number;
  readonly #active = new Map<string, Begun>();
  #timers = new Set<Timer>();
  /** Nodes that are down by a fault, until when. */
  readonly #keptDown = new Map<number, number>();
  readonly #downSince = new Map<number, number>();
  #damaged: number | null = null;
  #isHealed = false;

  constructor({ seed, profile, target, report, without = [], besides = [], only }: FaultOptions) {
    this.target = target;
    this.random = createMemoryRandom((seed ^ 0x0fa1_7000) >>> 0);
    this.#report = report;
    // The first numbers of neighbouring seeds are close to each other.
    for (let i = 0; i < 8; i++) this.random.integer(2);
    const isCalm = this.random.integer(calmSeeds) === 0;
    this.#pace = [0.5, 1, 2][this.random.integer(3)]!;
    const fitting = faultKinds.filter(
      ({ kind, profiles: of }) => (profile === 'all' || of.includes(profile)) && !without.includes(kind),
    );
    if (only !== undefined) this.#kinds = faultKinds.filter(({ kind }) => only.includes(kind));
    else {
      const common = fitting.filter(({ apartSeeds }) => apartSeeds === undefined);
      const drawn = isCalm || common.length === 0 ? [] : [...this.#swarm(common, profile), ...apart(fitting, seed)];
      this.#kinds = faultKinds.filter((fault) => drawn.includes(fault) || besides.includes(fault.kind));
    }
  }

  get kinds(): readonly string[] {
    return this.#kinds.map(({ kind }) => kind);
  }

  #swarm(fitting: readonly FaultKind[], profile: Profile): readonly FaultKind[] {
    const share = 2 + this.random.integer(4);
    const chosen = fitting.filter(() => this.random.integer(share) === 0);
    if (chosen.length === 0) chosen.push(this.pick(fitting));
    // What else goes wrong matters here while members change.
    const changes = profile === 'membership' ? fitting.filter(({ kind }) => changeKinds.includes(kind)) : [];
    if (changes.length > 0 && !chosen.some((kind) => changes.includes(kind))) chosen.push(this.pick(changes));
    return chosen;
  }

  start(): void {
    for (const kind of this.#kinds) this.#plan(kind);
    this.#supervise();
  }

  heal(): void {
    this.#isHealed = true;
    for (const timer of this.#timers) timer.cancel();
    this.#timers = new Set();
    for (const [kind, begun] of [...this.#active]) this.#end(kind, begun);
    const { target } = this;
    target.network.heal();
    target.network.calm();
    this.#keptDown.clear();
    for (const node of target.nodes()) {
      target.disk(node).calm();
      target.nodeClock(node).rate = 1;
      if (target.state(node) === 'paused') target.resume(node);
      if (target.state(node) === 'down') target.restart(node);
    }
    this.#report('heal', {});
    this.#supervise();
  }

  // ---- when ----

  #plan(fault: FaultKind): void {
    const { kind } = fault;
    const mean = fault.everyMilliseconds * this.#pace;
    this.#after(this.between(mean / 4, (mean * 7) / 4), () => {
      const again = () => this.#plan(fault);
      const begun = fault.begin(this);
      if (begun === null) return again();
      this.#count(kind, begun.details);
      if (begun.milliseconds === 0) return again();
      this.#active.set(kind, begun);
      this.#after(begun.milliseconds, () => {
        this.#end(kind, begun);
        again();
      });
    });
  }

  #end(kind: string, begun: Begun): void {
    this.#active.delete(kind);
    begun.end?.();
  }

  #after(milliseconds: number, task: () => void): void {
    const timer = this.target.clock.after(milliseconds, () => {
      this.#timers.delete(timer);
      task();
    });
    this.#timers.add(timer);
  }

  #count(kind: string, details: Details): void {
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
    this.#report(kind, details);
  }

  /** Starts what is down: when its time is over, or when nobody else did. */
  #supervise(): void {
    const { target } = this;
    const now = target.clock.now();
    for (const node of target.nodes()) {
      if (target.state(node) !== 'down') {
        this.#downSince.delete(node);
        continue;
      }
      const since = this.#downSince.get(node) ?? now;
      this.#downSince.set(node, since);
      const until = this.#keptDown.get(node) ?? since + downMillisecondsMax;
      if (now < until) continue;
      this.#keptDown.delete(node);
      target.restart(node);
    }
    this.#after(superviseMilliseconds, () => this.#supervise());
  }

  // ---- for the kinds ----

  readonly between = (least: number, most: number): number =>
    Math.floor(least) + this.random.integer(Math.floor(most) - Math.floor(least) + 1);

  readonly pick = <T>(from: readonly T[]): T => from[this.random.integer(from.length)]!;

  readonly oneIn = (n: number): boolean => this.random.integer(n) === 0;

  readonly pickNode = (state: NodeState): number | null => {
    const { target } = this;
    const fitting = target.nodes().filter((node) => target.state(node) === state);
    if (fitting.length === 0) return null;
    if (this.oneIn(2)) {
      const leader = target.leaderOf(this.pick(target.groups()));
      if (leader !== null && fitting.includes(leader)) return leader;
    }
    return this.pick(fitting);
  };

  readonly mayStop = (): boolean => {
    const nodes = this.target.nodes();
    const up = nodes.filter((node) => this.target.state(node) === 'up').length;
    return up - 1 > nodes.length / 2 || this.oneIn(5);
  };

  readonly mayDamage = (node: number): boolean => {
    const { target } = this;
    if (target.nodes().length < 3 || target.membership?.isBusy() === true) return false;
    if (target.groups().some((group) => target.replicasOf(group).length < 3)) return false;
    this.#damaged ??= node;
    return this.#damaged === node;
  };

  get hasDamage(): boolean {
    return this.#damaged !== null;
  }

  readonly keepDown = (node: number, milliseconds: number): void => {
    this.#keptDown.set(node, this.target.clock.now() + milliseconds);
  };

  readonly happened = (kind: string, details: Details): void => {
    if (!this.#isHealed) this.#report(kind, details);
  };
}
