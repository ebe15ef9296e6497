// One seed is one run: a world, clients and faults by the seed, some time of all of them, then peace, in which everything has to come right.
//
// State owned: how far the run is, and what it found wrong first. A run ends at its first violation.
// Nothing here decides by anything but the seed and the simulated time; `step` counts tasks and timers that ran.

import { checkHistory, type HistoryEvent } from '../history.ts';
import { drain } from './drain.ts';
import { createFaults, type Faults } from './faults.ts';
import { InvariantError } from './invariants.ts';
import { markHistory } from './marks.ts';
import { stretch } from './pace.ts';
import { describePlan, type Plan } from './plan.ts';
import type { Trace } from './trace.ts';
import { type RunningWorkload, WorkloadContext } from './workload.ts';
import { World } from './world.ts';

export interface Violation {
  /** The rule that was broken. */
  readonly invariant: string;
  readonly text: string;
  readonly step: number;
  /** Simulated time. */
  readonly milliseconds: number;
}

export interface RunResult {
  readonly seed: number;
  readonly violation: Violation | null;
  readonly hash: string;
  readonly simulatedMilliseconds: number;
  readonly steps: number;
  /** By kind. */
  readonly faults: Readonly<Record<string, number>>;
  /** Interesting situations that it met. */
  readonly marks: Readonly<Record<string, number>>;
  readonly operations: number;
  readonly events: number;
}

const stepsPerCheck = 256;
const startMilliseconds = 20_000;
/** Longer than a pipe's deadline: by then every publish has its outcome. */
const idleMilliseconds = 20_000;
const drainMilliseconds = 30_000;
/** After the last fault: nodes that were declared gone have heard of it, and ended their sessions. */
const calmMilliseconds = 8_000;
/** For changes of members that were asked for: newcomers are let in and get their replicas, leavers are emptied. */
const settleMilliseconds = 60_000;

/** What faults report that take something away that was durable. */
const damages = ['damage', 'damage-at-rest', 'put-back'];
/** What a process may end with by itself: its disk fails. An error without a code is a bug, whatever else is wrong. */
const diskErrors = ['EIO', 'ENOSPC', 'failed'];

class ViolationError extends Error {
  readonly invariant: string;
  constructor(invariant: string, text: string) {
    super(text);
    this.invariant = invariant;
  }
}

export async function runSeed(plan: Plan, trace: Trace): Promise<RunResult> {
  const run = new Run(plan, trace);
  const violation = await run.go();
  return run.result(violation);
}

class Run {
  readonly #plan: Plan;
  readonly #trace: Trace;
  readonly #world: World;
  readonly #contexts: WorkloadContext[] = [];
  readonly #running: RunningWorkload[] = [];
  readonly #faults: Faults;
  /** Nodes whose durable bytes were damaged: they may stop, or replicas of them, until they have come right again. */
  readonly #damaged = new Set<number>();
  #steps = 0;
  #traced = 0;
  /** A node has dropped a replica in this step: whether it might is known now, and not for long. */
  #isDropping = false;
  /** What was noticed where nothing may be thrown: the first of it. */
  #noticed: Error | null = null;

  constructor(plan: Plan, trace: Trace) {
    this.#plan = plan;
    this.#trace = trace;
    this.#world = new World({
      seed: plan.seed,
      nodes: plan.nodes,
      limits: plan.limits,
      versions: plan.versions,
      clocksAgree: plan.workloads.some(({ clocksAgree }) => clocksAgree),
      trace,
      watcher: {
        logged: (node, event, details) => this.#logged(node, event, details),
        exited: (node, error) => this.#exited(node, error),
      },
    });
    this.#faults = createFaults({
      seed: plan.seed,
      profile: plan.profile,
      without: plan.without,
      besides: plan.besides,
      target: this.#world,
      report: (kind, details) => {
        trace.line('faults', `${kind} ${JSON.stringify(details)}`);
        if (damages.includes(kind)) this.#damaged.add(Number(details.node));
      },
    });
  }

  async go(): Promise<Violation | null> {
    const rejected = (reason: unknown) => {
      this.#noticed ??= reason instanceof Error ? reason : new Error(String(reason));
    };
    process.on('unhandledRejection', rejected);
    let violation: Violation | null = null;
    try {
      this.#trace.line('sim', describePlan(this.#plan));
      await this.#begin();
      await this.#busy();
      await this.#calm();
      await this.#end();
    } catch (error) {
      violation = this.#violation(error);
    }
    try {
      // The last look at each process.
      this.#world.end();
    } catch (error) {
      violation ??= this.#violation(error);
    }
    process.off('unhandledRejection', rejected);
    return violation;
  }

  result(violation: Violation | null): RunResult {
    const { marks, history } = this.#world;
    markHistory(marks, history.events);
    return {
      seed: this.#plan.seed,
      violation,
      hash: this.#trace.hash,
      simulatedMilliseconds: this.#world.time.now(),
      steps: this.#steps,
      faults: { ...this.#faults.counts },
      marks: marks.all(),
      operations: this.#contexts.reduce((sum, { operations }) => sum + operations, 0),
      events: this.#world.history.events.length,
    };
  }

  // ---- phases ----

  async #begin(): Promise<void> {
    this.#world.startAll();
    await this.#untilOr(
      () => this.#allServe(),
      startMilliseconds,
      'liveness',
      () => 'the cluster does not begin',
    );
    for (const workload of this.#plan.workloads) {
      const context = new WorkloadContext(this.#world, workload.name, this.#world.stream(workload.name));
      this.#contexts.push(context);
      this.#running.push(workload.start(context));
    }
  }

  async #busy(): Promise<void> {
    this.#faults.start();
    await this.#until(() => false, this.#plan.busyMilliseconds / stretch);
  }

  async #calm(): Promise<void> {
    const world = this.#world;
    this.#markDisks();
    this.#faults.heal();
    world.startAll();
    const election = world.electionMilliseconds;
    await this.#untilOr(
      () => this.#allLed(),
      10 * election,
      'liveness',
      () => `no leaders: ${this.#describeGroups()}`,
    );
    await this.#untilOr(
      () => this.#unsettled() === null,
      settleMilliseconds + this.#copyMilliseconds(),
      'membership',
      () => `${this.#unsettled()}: ${this.#describeGroups()}`,
    );
    await this.#untilOr(
      () => this.#allServe(),
      10 * election,
      'liveness',
      () => `nodes do not serve: ${this.#describeGroups()}`,
    );
    await this.#until(() => false, calmMilliseconds);
    world.history.calm();
  }

  async #end(): Promise<void> {
    const world = this.#world;
    for (const workload of this.#running) workload.pause();
    await this.#untilOr(
      () => this.#running.every(({ isIdle }) => isIdle),
      idleMilliseconds,
      'liveness',
      () => 'publishes have no outcome',
    );
    for (const workload of this.#running) workload.stop();
    await this.#until(() => false, 500);
    const queues = this.#running.flatMap((workload) => workload.queues());
    const failure = await drain(world, queues, (condition, ms) => this.#until(condition, ms), drainMilliseconds);
    if (failure !== null) throw new ViolationError('drain', failure);
    await this.#untilOr(
      () => this.#allCaughtUp(),
      10 * world.electionMilliseconds,
      'liveness',
      () => `replicas do not catch up: ${this.#describeGroups()}`,
    );
    world.invariants.check();
    const verdict = checkHistory(world.history.events);
    const [fault] = verdict.faults;
    if (fault !== undefined) throw new ViolationError(`history: ${fault.kind}`, `${fault.subject}: ${fault.text}`);
  }

  /** What the fullest disk holds, at the rate at which replicas are sent to others. */
  #copyMilliseconds(): number {
    const bytes = Math.max(...[...this.#world.machines()].map(({ disk }) => disk.usedBytes()));
    return (1000 * bytes) / (this.#plan.limits.catchUpBytesPerSecond * stretch);
  }

  #markDisks(): void {
    const { marks } = this.#world;
    for (const { disk } of this.#world.machines())
      if (disk.paths().some(({ path }) => path.endsWith('.kept'))) marks.hit('log rewritten');
  }

  // ---- conditions ----

  #allServe(): boolean {
    for (const { process } of this.#world.machines()) if (process === null || !process.isServing) return false;
    return true;
  }

  /** Where members, placements and configurations are not yet what they are to be; null: nowhere. */
  #unsettled(): string | null {
    const { membership } = this.#world;
    membership.sync();
    const unsettled = membership.unsettled();
    if (unsettled !== null || membership.view === null) return unsettled;
    for (const { node, process } of this.#world.machines()) {
      const groups = process?.cluster?.status().groups;
      if (groups === undefined) return `node ${node} is not open`;
      const held = groups.map(({ group }) => group);
      const wanted = this.#world.groups().filter((group) => membership.replicasOf(group).includes(node));
      if (held.length !== wanted.length || wanted.some((group) => !held.includes(group)))
        return `node ${node} holds groups ${held}, and is to hold ${wanted}`;
    }
    return this.#world.invariants.unsettled((group) => membership.replicasOf(group));
  }

  /** Every node knows the same leader of each group that it has a working replica of. */
  #allLed(): boolean {
    const leaders = new Map<number, number>();
    for (const node of this.#world.nodes()) {
      const { process, isMember } = this.#world.machine(node);
      // It waits to be let in.
      if (!isMember) continue;
      if (!process?.cluster) return false;
      for (const { group, leader, halted } of process.cluster.status().groups) {
        if (halted !== null) continue;
        if (leader === 0 || (leaders.get(group) ?? leader) !== leader) return false;
        leaders.set(group, leader);
      }
    }
    return leaders.size === this.#world.groups().length;
  }

  #allCaughtUp(): boolean {
    const applied = new Map<number, number>();
    for (const { process } of this.#world.machines()) {
      if (!process?.cluster) return false;
      for (const status of process.cluster.status().groups) {
        if (status.halted !== null || status.applied < status.commit) return false;
        if ((applied.get(status.group) ?? status.applied) !== status.applied) return false;
        applied.set(status.group, status.applied);
      }
    }
    return true;
  }

  #describeGroups(): string {
    const nodes: string[] = [];
    for (const { node, process } of this.#world.machines()) {
      const groups = process?.cluster?.status().groups ?? [];
      const each = groups.map(
        ({ group, role, leader, term, commit, applied, halted }) =>
          `${group}:${role}<${leader} t${term} c${commit} a${applied}${halted === null ? '' : ` halted (${halted})`}`,
      );
      nodes.push(
        `n${node} ${process === null ? 'down' : process.isServing ? 'serves' : 'starts'} [${each.join(', ')}]`,
      );
    }
    return nodes.join('; ');
  }

  // ---- time ----

  async #untilOr(condition: () => boolean, milliseconds: number, invariant: string, text: () => string): Promise<void> {
    if (!(await this.#until(condition, milliseconds))) throw new ViolationError(invariant, text());
  }

  /** `milliseconds` of the world's slow clock. */
  #until(condition: () => boolean, milliseconds: number): Promise<boolean> {
    return this.#world.time.runUntil(() => {
      this.#stepped();
      return condition();
    }, milliseconds * stretch);
  }

  #stepped(): void {
    this.#steps++;
    const { events } = this.#world.history;
    while (this.#traced < events.length) {
      const place = this.#traced++;
      const event = events[place]!;
      this.#trace.event('client', keyOf(event), () => describe(place, event));
    }
    if (this.#noticed !== null) throw this.#noticed;
    if (this.#steps % stepsPerCheck === 0) this.#check();
    else if (this.#isDropping) this.#world.invariants.check();
    this.#isDropping = false;
  }

  #check(): void {
    this.#trace.number(this.#world.time.now());
    this.#world.membership.sync();
    this.#world.invariants.check();
  }

  // ---- what nodes tell ----

  #logged(node: number, event: string, { group, error, stack }: Readonly<Record<string, unknown>>): void {
    if (event.startsWith('a replica has moved away')) this.#isDropping = true;
    if (event === 'group' && stack !== undefined && !this.#damaged.has(node))
      this.#noticed ??= new ViolationError('halt', `node ${node} halted group ${group}: ${error}\n${stack}`);
  }

  #exited(node: number, error: Error): void {
    this.#world.marks.hit('process ended itself');
    if (error instanceof InvariantError) this.#noticed ??= error;
    const { code } = error as NodeJS.ErrnoException;
    if (code !== undefined && (diskErrors.includes(code) || this.#damaged.has(node))) return;
    this.#noticed ??= new ViolationError('exit', `node ${node} ended itself: ${error.stack}`);
  }

  #violation(thrown: unknown): Violation {
    const error = thrown instanceof Error ? thrown : new Error(String(thrown));
    const isRule = error instanceof ViolationError || error instanceof InvariantError;
    const violation = {
      invariant: isRule ? error.invariant : 'exception',
      text: isRule ? error.message : (error.stack ?? error.message),
      step: this.#steps,
      milliseconds: this.#world.time.now(),
    };
    this.#trace.line('sim', `VIOLATION ${violation.invariant}: ${error.message}`);
    return violation;
  }
}

/** What parts it from the event that another run may have in its place. */
function keyOf(event: HistoryEvent): string {
  if ('id' in event) return event.id;
  if ('outcome' in event) return event.outcome;
  if ('settlement' in event) return event.settlement;
  if ('answer' in event) return event.answer;
  return event.kind;
}

/** The place first, as other events name it. */
function describe(place: number, event: HistoryEvent): string {
  const { at: _, kind, ...rest } = event;
  return `${place} ${kind} ${JSON.stringify(rest)}`;
}
