// What faults are done to, and how one kind of fault is told to the driver (faults.ts). Types only.

import type { Clock, Random } from '../../../cluster/ports.ts';
import type { MemoryDisk } from '../../support/memory-disk.ts';
import type { MemoryNetwork } from '../../support/memory-net.ts';
import type { NodeClock } from '../../support/node-clock.ts';

export type Profile = 'network' | 'disk' | 'membership' | 'all';

/** `starting`: its process runs, and is not open yet. `down`: no process, whatever ended it. */
export type NodeState = 'up' | 'starting' | 'paused' | 'down';

/** The simulated world, as far as faults need it. Nodes are named by their numbers; all calls take effect at once. */
export interface FaultTarget {
  /** That of no node: it may run slower than theirs (`pace.ts`). */
  readonly clock: Clock;
  readonly network: MemoryNetwork;
  /** Machines that are there, running or not. One that left the cluster, or was replaced, is none of them. */
  nodes(): readonly number[];
  /** Its name in the network. */
  place(node: number): string;
  /** Names of clients in the network. */
  clientPlaces(): readonly string[];
  disk(node: number): MemoryDisk;
  nodeClock(node: number): Pick<NodeClock, 'rate' | 'jumpWall'>;
  state(node: number): NodeState;
  groups(): readonly number[];
  /** The node that leads a group by its own account; null: nobody, or unknown. */
  leaderOf(group: number): number | null;
  /** Nodes that have, get or still keep a replica of a group. */
  replicasOf(group: number): readonly number[];
  /** kill -9: what was written stays. Of a paused process too. */
  kill(node: number): void;
  /** Power loss: what was not synced may be gone. Also of a node that is down. */
  crash(node: number): void;
  /** Starts the process of a node that is down. How it ends is seen by `state`. */
  restart(node: number): void;
  pause(node: number): void;
  resume(node: number, clockStood?: boolean): void;
  /** The longest of a node, in milliseconds of `clock`. */
  readonly electionMilliseconds: number;
  /** A workload counts on leases, and these on clocks whose rates differ by one in a hundred at most. */
  readonly clocksAgree: boolean;
  /** Null: the cluster's members are fixed. */
  readonly membership: MembershipTarget | null;
}

/** Changes of members. Each is asked of one node and may be refused or come to nothing: then nothing is expected of it. */
export interface MembershipTarget {
  /** True while a change is under way. */
  isBusy(): boolean;
  /** A new machine starts and asks to be a member. Its number in `nodes()`. */
  join(): number;
  /** Asks `through` to let `node` go; once it is gone, and has ended itself or was down, its machine is taken away. */
  leave(through: number, node: number): void;
  /** The machine is gone for good, its disk with it; a new one joins in its place. */
  replace(through: number, node: number): void;
}

export type Details = Readonly<Record<string, string | number | boolean | readonly (string | number)[]>>;

/** A fault that was begun. */
export interface Begun {
  readonly details: Details;
  /** How long until `end`. 0: it has no end of its own. */
  readonly milliseconds: number;
  end?(): void;
}

/** What a kind of fault may use. */
export interface FaultContext {
  readonly target: FaultTarget;
  /** Of the faults alone: what the world draws does not change them. */
  readonly random: Random;
  /** An integer of [least, most]. */
  between(least: number, most: number): number;
  pick<T>(from: readonly T[]): T;
  /** True with a chance of one in `n`. */
  oneIn(n: number): boolean;
  /** A node in this state, the leader of some group more often than others; null: there is none. */
  pickNode(state: NodeState): number | null;
  /** Whether one more node may stop: mostly only while a majority goes on without it. */
  mayStop(): boolean;
  /**
   * May what this node has made durable be damaged? Asking for it takes the place for the whole run: never is a second replica of a group
   * damaged, so that one good majority stays.
   */
  mayDamage(node: number): boolean;
  /** Something durable was damaged in this run: nobody else may lose anything. */
  readonly hasDamage: boolean;
  /** It is started again after so long, not before. */
  keepDown(node: number, milliseconds: number): void;
  /** A fault of this kind that only shows itself later: reported when it happens. */
  happened(kind: string, details: Details): void;
}

export interface FaultKind {
  readonly kind: string;
  readonly profiles: readonly Profile[];
  /** Mean milliseconds of simulated time between two of them, in a run that has them. */
  readonly everyMilliseconds: number;
  /** Drawn apart, for one seed in so many: so that it changes nothing of all other seeds. Default: one of the swarm. */
  readonly apartSeeds?: number;
  /** Null: not possible now. */
  begin(context: FaultContext): Begun | null;
}
