// What the parts of the chaos suite say to one another: a target that can be harmed, scenarios that harm it, and the report of what came of it.
// Times of a run are milliseconds since its load began; nodes are numbered from 1.

import type { Counts, Fault } from '../test/history.ts';

// ---- targets

/** What can be done to a target. A scenario that needs more than a target offers is skipped, with the reason. */
export const abilities = [
  /** Processes are killed, stopped and started. */
  'processes',
  /** Processes are paused: they keep their connections and do nothing. */
  'pause',
  /** The links between nodes, each direction on its own. */
  'links',
  /** The links between clients and nodes. */
  'clientLinks',
  /** Disks that are slow, fail, or are full. */
  'disk',
  /** Wall clocks that jump. */
  'clock',
  /** Nodes are let in, and leave. */
  'membership',
] as const;
export type Ability = (typeof abilities)[number];

/** `cut`: bytes vanish and connections stay; `refused`: connections end, new ones are refused. */
export type LinkFault =
  | { readonly kind: 'cut' }
  | { readonly kind: 'refused' }
  | { readonly kind: 'latency'; readonly milliseconds: number; readonly jitter: number }
  | { readonly kind: 'bandwidth'; readonly kilobytesPerSecond: number }
  | { readonly kind: 'slicer'; readonly bytes: number; readonly microseconds: number }
  /** Each connection is reset after so long. */
  | { readonly kind: 'reset'; readonly milliseconds: number }
  /** Each connection is closed after so many bytes. */
  | { readonly kind: 'limit'; readonly bytes: number }
  /** A close arrives so much later. */
  | { readonly kind: 'slowClose'; readonly milliseconds: number };

export type DiskFault =
  /** Each sync takes so much longer. */
  | { readonly kind: 'slow'; readonly milliseconds: number }
  /** A sync fails with EIO. */
  | { readonly kind: 'failing' }
  /** No write is answered. */
  | { readonly kind: 'hanging' }
  /** The file system says that it is full, and writes fail with ENOSPC once it has taken so many more bytes; 64 MiB unless said otherwise. */
  | { readonly kind: 'full'; readonly bytesLeft?: number };

export interface TargetNode {
  readonly number: number;
  readonly name: string;
  /** For clients; it leads through a proxy where there is one. */
  readonly url: string;
}

/** A running cluster. What it has no ability for must not be called. */
export interface Target {
  readonly kind: 'local' | 'compose' | 'urls';
  readonly abilities: ReadonlySet<Ability>;
  /** Those that clients use. Nodes that join during a run are harmed and asked like these, but no client knows them. */
  readonly nodes: readonly TargetNode[];
  /** Its processes on this machine, those that run now. None: they are elsewhere. */
  readonly pids: readonly number[];
  /** For people and the report: broker and version, Node, Toxiproxy, platform. */
  describe(): Promise<Readonly<Record<string, string>>>;
  /** The node that leads most groups; of a target that does not tell, the first. Asks any node but `except`. */
  leader(except?: number): Promise<number>;
  /**
   * The nodes that lead nothing which all queues need, once leaders change no more, or after so long; of a target that does not tell, all but
   * the first.
   */
  followers(milliseconds: number): Promise<readonly number[]>;
  /** Resolves when every node that should run serves; rejects after so long with the reason. */
  waitReady(milliseconds: number): Promise<void>;
  /** Ends every fault, starts what does not run. Resolves when that is done, which is before the target is ready. */
  heal(): Promise<void>;
  /** Ends what this target started, and only that. */
  close(): Promise<void>;

  kill(node: number): Promise<void>;
  /** A clean stop. */
  stop(node: number): Promise<void>;
  start(node: number): Promise<void>;
  isRunning(node: number): boolean;
  pause(node: number): Promise<void>;
  resume(node: number): Promise<void>;
  /** What `from` sends to `to`, on the connections that `from` opened. Null: the link is well. */
  link(from: number, to: number, fault: LinkFault | null): Promise<void>;
  /** `toNode`: what clients send; else what they are sent. */
  clientLink(node: number, toNode: boolean, fault: LinkFault | null): Promise<void>;
  disk(node: number, fault: DiskFault | null): Promise<void>;
  /** Its wall clock is so much ahead from now on; negative: behind. */
  clock(node: number, milliseconds: number): Promise<void>;
  /** One more node. Resolves with its number when it is a member. */
  join(): Promise<number>;
  /** Resolves when it is gone. */
  leave(node: number): Promise<void>;
}

// ---- scenarios

export interface Scenario {
  readonly name: string;
  /** One line, for `--list`. */
  readonly says: string;
  readonly needs: readonly Ability[];
  readonly nodesMin: number;
  /** One node is to lead none of the load's queues: `Stage.follower`. */
  readonly sparesFollower?: boolean;
  /** The longest time in which a publisher may get no confirm, if there is a promise. */
  readonly stallMillisecondsMax: number | null;
  /** Harms the target until `stage.isOver`. What it leaves broken is healed afterwards. */
  run(stage: Stage): Promise<void>;
}

/** What a scenario has. */
export interface Stage {
  readonly target: Target;
  /** Node numbers, those that joined too. */
  readonly nodes: readonly number[];
  /** The node that leads none of the load's queues, in a scenario that asks for one; 0: none. */
  readonly follower: number;
  /** Integers below `bound`; from the seed. */
  random(bound: number): number;
  /** So many different ones of these, by the seed. */
  pick<T>(from: readonly T[], count: number): T[];
  /** How long the scenario has in all. */
  readonly milliseconds: number;
  /** The scenario's time is up. */
  readonly isOver: boolean;
  /** Ends early when the time is up or the run is ended. */
  sleep(milliseconds: number): Promise<void>;
  /** Undisturbed time between two faults: until all nodes serve, and then some. */
  calm(): Promise<void>;
  /** One fault, from begin to end, on the timeline. Whatever happens, `end` is called. */
  fault(
    name: string,
    nodes: readonly number[],
    milliseconds: number,
    begin: () => Promise<void>,
    end: () => Promise<void>,
  ): Promise<void>;
  /** All clients drop their connections at once, and connect anew. */
  reconnectStorm(): Promise<void>;
  /** As the target does, and `nodes` follows. */
  join(): Promise<number>;
  leave(node: number): Promise<void>;
}

// ---- reports

export interface FaultSpan {
  readonly name: string;
  readonly nodes: readonly number[];
  readonly from: number;
  readonly to: number;
  /** The longest time without a confirm that overlaps it or begins within the five seconds after it, of a client whose own node was well. */
  readonly stallMilliseconds: number;
}

/** Sums of one interval of the run. */
export interface Sample {
  /** Its end. */
  readonly at: number;
  readonly sent: number;
  readonly confirmed: number;
  readonly delivered: number;
  /** Confirmed and not delivered, at its end. */
  readonly awaited: number;
}

export interface Latencies {
  readonly count: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** A time in which somebody waited for a confirm and nobody got one. */
export interface Stall {
  readonly from: number;
  readonly to: number;
}

/** `inconclusive`: the cluster did not come back, or too little happened, so nothing can be said. */
export type Outcome = 'pass' | 'violation' | 'inconclusive' | 'skipped';

/** What of a stall, in a report of the longest one, is the machine's. Null: that is not told here. */
export interface MachinesPart {
  /** How much of it a node or the load could have run and had no processor, at most. */
  readonly processorWaitMilliseconds: number | null;
  /** What the machine's host took meanwhile, of all processors together. */
  readonly stolenMilliseconds: number | null;
}

export interface ScenarioReport extends MachinesPart {
  readonly name: string;
  readonly says: string;
  readonly seed: number;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly seconds: number;
  readonly outcome: Outcome;
  /** Why it is not a pass; '' if it is one. */
  readonly reason: string;
  readonly counts: Counts | null;
  /** The first of them; `violations` says how many there are. */
  readonly faults: readonly Fault[];
  readonly violations: number;
  /** What was done to the cluster. */
  readonly spans: readonly FaultSpan[];
  readonly samples: readonly Sample[];
  /** Of confirms, and from publish to first delivery, in milliseconds. */
  readonly confirms: Latencies | null;
  readonly deliveries: Latencies | null;
  /** Those longer than 100 ms, in their order. */
  readonly stalls: readonly Stall[];
  readonly longestStallMilliseconds: number;
  readonly stallMillisecondsMax: number | null;
  readonly reconnects: number;
  /** Where the ledger is; null: it was not kept. */
  readonly ledger: string | null;
}

export interface ChaosReport {
  readonly warren: string;
  readonly startedAt: string;
  readonly seed: number;
  /** Does the same again. */
  readonly replay: string;
  readonly target: string;
  /** `Target.describe`, and this machine. */
  readonly versions: Readonly<Record<string, string>>;
  readonly outcome: Outcome;
  readonly scenarios: readonly ScenarioReport[];
}

/** What a run tells while it goes on. */
export interface Observer {
  scenarioBegins(scenario: Scenario, index: number, count: number): void;
  phase(name: 'starting' | 'warming up' | 'chaos' | 'healing' | 'draining' | 'judging'): void;
  sample(
    sample: Sample,
    totals: {
      readonly sent: number;
      readonly confirmed: number;
      readonly received: number;
      readonly reconnects: number;
    },
    leader: number,
  ): void;
  faultBegins(name: string, nodes: readonly number[], at: number): void;
  faultEnds(span: FaultSpan): void;
  scenarioEnds(report: ScenarioReport): void;
}
