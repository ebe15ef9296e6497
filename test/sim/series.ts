// Many seeds: what they add up to, and the first that breaks a rule. One after the other in this process, or in several processes that take
// them in turn.

import { type ChildProcess, fork } from 'node:child_process';
import { type Plan, planOf, type SeedOptions } from './plan.ts';
import { type RunResult, runSeed, type Violation } from './run.ts';
import { Trace } from './trace.ts';

/** A seed to run. */
export interface Order extends SeedOptions {
  /** It runs twice, and both runs must have one trace. */
  readonly twice: boolean;
}

export interface Outcome {
  readonly result: RunResult;
  /** Of the result, or that two runs differ. */
  readonly violation: Violation | null;
  /** The last events. */
  readonly lines: readonly string[];
  /** Time of a core that one run took. */
  readonly milliseconds: number;
}

export interface Totals {
  seeds: number;
  simulatedMilliseconds: number;
  steps: number;
  operations: number;
  /** All kinds together; by kind. */
  faults: number;
  readonly faultsByKind: Record<string, number>;
  readonly marks: Record<string, number>;
  /** Time of a core that one run of each seed took. */
  milliseconds: number;
}

export const noTotals = (): Totals => ({
  seeds: 0,
  simulatedMilliseconds: 0,
  steps: 0,
  operations: 0,
  faults: 0,
  faultsByKind: {},
  marks: {},
  milliseconds: 0,
});

export interface Failure {
  readonly plan: Plan;
  readonly violation: Violation;
  /** The last events. */
  readonly lines: readonly string[];
}

export interface SeriesOptions extends Omit<Order, 'seed'> {
  readonly first: number;
  /** Processes at a time; one: this process. */
  readonly jobs: number;
  /** Asked before each seed but the first, with how many were begun: true ends the series. */
  isOver(begun: number): boolean;
  finished?(totals: Totals): void;
}

const linesShown = 60;

/** What this process has used of cores: says how fast runs are, also on a machine that does other things. */
export function coreMilliseconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
}

/** Runs seed after seed until `isOver`, or until one fails. */
export async function runSeries(options: SeriesOptions): Promise<{ totals: Totals; failure: Failure | null }> {
  const { first, jobs, isOver, finished, ...rest } = options;
  const totals = noTotals();
  let failure: Failure | null = null;
  let begun = 0;
  const runWith = async (run: (order: Order) => Promise<Outcome>) => {
    while (failure === null && (begun === 0 || !isOver(begun))) {
      const order = { ...rest, seed: (first + begun++) % 2 ** 32 };
      const { result, violation, lines, milliseconds } = await run(order);
      if (violation !== null) failure ??= { plan: planOf(order), violation, lines };
      else {
        add(totals, result, milliseconds);
        finished?.(totals);
      }
    }
  };
  if (jobs === 1) await runWith(runOrder);
  else {
    const children = Array.from({ length: jobs }, () => fork(new URL('./job.js', import.meta.url)));
    try {
      await Promise.all(children.map((child) => runWith((order) => runIn(child, order))));
    } finally {
      for (const child of children) child.kill();
    }
  }
  return { totals, failure };
}

function runIn(child: ChildProcess, order: Order): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const ended = (code: number | null) => reject(new Error(`the process of seed ${order.seed} ended with ${code}`));
    child.once('exit', ended);
    child.once('message', (outcome) => {
      child.off('exit', ended);
      resolve(outcome as Outcome);
    });
    child.send(order);
  });
}

export async function runOrder(order: Order): Promise<Outcome> {
  const { twice } = order;
  const plan = planOf(order);
  const begun = coreMilliseconds();
  const trace = new Trace({ bytes: twice });
  const result = await runSeed(plan, trace);
  const lines = trace.lines(linesShown);
  let { violation } = result;
  if (twice && violation === null) {
    const again = await runSeed(plan, new Trace({ bytes: true }));
    const { steps: step, simulatedMilliseconds: milliseconds } = result;
    const text = `two runs of one seed differ: ${result.hash} and ${again.hash}, ${step} and ${again.steps} steps`;
    if (again.hash !== result.hash) violation = { invariant: 'repeatable', text, step, milliseconds };
  }
  return { result, violation, lines, milliseconds: (coreMilliseconds() - begun) / (twice ? 2 : 1) };
}

function add(totals: Totals, result: RunResult, milliseconds: number): void {
  totals.seeds++;
  totals.simulatedMilliseconds += result.simulatedMilliseconds;
  totals.steps += result.steps;
  totals.operations += result.operations;
  totals.milliseconds += milliseconds;
  for (const [kind, count] of Object.entries(result.faults)) {
    totals.faults += count;
    totals.faultsByKind[kind] = (totals.faultsByKind[kind] ?? 0) + count;
  }
  for (const [mark, count] of Object.entries(result.marks)) totals.marks[mark] = (totals.marks[mark] ?? 0) + count;
}

const lookingClosely = () => new Trace({ keepAll: true, frames: true, bytes: true });

/** Where two runs of a seed part: the first line of each that the other has not, with what came before. */
export async function findDifference(plan: Plan): Promise<string[]> {
  const [first, second] = [lookingClosely(), lookingClosely()];
  await runSeed(plan, first);
  await runSeed(plan, second);
  const [left, right] = [first.lines(), second.lines()];
  const at = left.findIndex((line, place) => line !== right[place]);
  if (at < 0) return ['no line differs: what parts them has none'];
  return [...left.slice(Math.max(0, at - 10), at), `1st: ${left[at]}`, `2nd: ${right[at] ?? 'has ended'}`];
}
