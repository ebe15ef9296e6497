// Many seeds, one after the other: what they add up to, and the first that breaks a rule.

import { type Plan, planOf, type SeedOptions } from './plan.ts';
import { type RunResult, runSeed, type Violation } from './run.ts';
import { Trace } from './trace.ts';

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

export interface SeriesOptions extends Omit<SeedOptions, 'seed'> {
  readonly first: number;
  /** Every seed runs twice, and both runs must have one trace. */
  readonly twice: boolean;
  /** Asked before each seed but the first: true ends the series. */
  isOver(totals: Totals): boolean;
  finished?(result: RunResult, totals: Totals): void;
}

const linesShown = 60;

/** What this process has used of cores: says how fast runs are, also on a machine that does other things. */
export function coreMilliseconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
}

/** Runs seed after seed until `isOver`, or until one fails. */
export async function runSeries(options: SeriesOptions): Promise<{ totals: Totals; failure: Failure | null }> {
  const totals = noTotals();
  for (let seed = options.first; totals.seeds === 0 || !options.isOver(totals); seed = (seed + 1) % 2 ** 32) {
    const plan = planOf({ ...options, seed });
    const begun = coreMilliseconds();
    const failure = await runOne(plan, options.twice, (result) => {
      add(totals, result, (coreMilliseconds() - begun) / (options.twice ? 2 : 1));
      options.finished?.(result, totals);
    });
    if (failure !== null) return { totals, failure };
  }
  return { totals, failure: null };
}

async function runOne(plan: Plan, twice: boolean, finished: (result: RunResult) => void): Promise<Failure | null> {
  const trace = new Trace({ bytes: twice });
  const result = await runSeed(plan, trace);
  const lines = trace.lines(linesShown);
  if (result.violation !== null) return { plan, violation: result.violation, lines };
  if (twice) {
    const again = await runSeed(plan, new Trace({ bytes: true }));
    if (again.hash !== result.hash) {
      const text = `two runs of one seed differ: ${result.hash} and ${again.hash}, ${result.steps} and ${again.steps} steps`;
      const { steps: step, simulatedMilliseconds: milliseconds } = result;
      return { plan, violation: { invariant: 'repeatable', text, step, milliseconds }, lines };
    }
  }
  finished(result);
  return null;
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
