// `npm run sim`: the simulator's door. See `usage` for what it does.

import { randomInt } from 'node:crypto';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import type { Profile } from './faults.ts';
import { membershipMarks, wantedMarks } from './marks.ts';
import { runMuseum } from './museum.ts';
import { type Options, parseOptions, seedMax, usage } from './options.ts';
import { describePlan, type Plan, planOf } from './plan.ts';
import { runSeed, type Violation } from './run.ts';
import { coreMilliseconds, type Failure, findDifference, runSeries, type Totals } from './series.ts';
import { Trace } from './trace.ts';

const progressMilliseconds = 200;
const plainProgressMilliseconds = 30_000;
const linesShown = 40;

/** The exit status. */
async function main(options: Options): Promise<number> {
  if (options.museum !== null) return museum(options, options.museum);
  return options.seed === null ? many(options) : one(options, options.seed);
}

async function museum({ first, jobs }: Options, only: readonly string[]): Promise<number> {
  const all = await runMuseum({ only, firstSeed: first, jobs, print: (line) => console.log(line) });
  return all ? 0 : 1;
}

async function many(options: Options): Promise<number> {
  const { seeds, minutes, twice } = options;
  const first = options.first ?? randomInt(seedMax);
  const count = seeds === null ? `as many seeds as ${minutes} minutes allow` : `${seeds} seeds`;
  console.log(`${count} from ${first}, profile ${options.profile}${twice ? ', each twice' : ''}`);
  const progress = new ProgressLine(seeds);
  const end = minutes === null ? Number.POSITIVE_INFINITY : performance.now() + minutes * 60_000;
  const { totals, failure } = await runSeries({
    ...options,
    first,
    isOver: (begun) => begun >= (seeds ?? Number.POSITIVE_INFINITY) || performance.now() >= end,
    finished: (totals) => progress.show(totals),
  });
  progress.clear();
  console.log(totalsText(totals, options.profile));
  if (failure === null) return 0;
  await explain(failure);
  return 1;
}

async function explain({ plan, violation, lines }: Failure): Promise<void> {
  console.log(`\n${violationText(plan, violation)}\n`);
  for (const line of lines.slice(-linesShown)) console.log(line);
  if (violation.invariant === 'repeatable') {
    console.log('\nThe first difference:');
    for (const line of await findDifference(plan)) console.log(line);
    return;
  }
  // Once more, for its whole trace: a series keeps only the end of each.
  const trace = new Trace({ keepAll: true });
  await runSeed(plan, trace);
  console.log(`\ntrace: ${write(plan, trace)}`);
}

/** One seed, with its trace. */
async function one(options: Options, seed: number): Promise<number> {
  const plan = planOf({ ...options, seed });
  console.log(`seed ${seed}: ${describePlan(plan)}`);
  const trace = new Trace({ keepAll: true, frames: options.frames, bytes: options.twice });
  const begun = coreMilliseconds();
  const result = await runSeed(plan, trace);
  const milliseconds = coreMilliseconds() - begun;
  const path = write(plan, trace);
  for (const line of trace.lines(linesShown)) console.log(line);
  const { simulatedMilliseconds, steps, operations, events, hash } = result;
  console.log(
    `\n${(simulatedMilliseconds / 1000).toFixed(1)} s simulated in ${(milliseconds / 1000).toFixed(2)} s of a core, ${steps} steps, ` +
      `${operations} operations, ${events} client events, trace ${hash}\nfaults: ${countsText(result.faults)}\ntrace: ${path}`,
  );
  if (result.violation !== null) {
    console.log(`\n${violationText(plan, result.violation)}`);
    return 1;
  }
  if (!options.twice) return 0;
  const again = await runSeed(plan, new Trace({ bytes: true }));
  if (again.hash === hash) return 0;
  console.log('\ntwo runs differ; the first difference:');
  for (const line of await findDifference(plan)) console.log(line);
  return 1;
}

function write(plan: Plan, trace: Trace): string {
  const path = join(mkdtempSync(join(tmpdir(), 'warren-sim-')), `seed-${plan.seed}.txt`);
  writeFileSync(path, `${trace.lines().join('\n')}\n`);
  return path;
}

function violationText(plan: Plan, { invariant, text, step, milliseconds }: Violation): string {
  const without = plan.without.map((kind) => ` --without ${kind}`).join('');
  const besides = plan.besides.map((kind) => ` --with ${kind}`).join('');
  const again = `npm run sim -- --seed ${plan.seed} --profile ${plan.profile}${plan.fixedNodes ? ` --nodes ${plan.nodes}` : ''}${besides}${without}`;
  return (
    `VIOLATION of ${invariant} at step ${step} (${(milliseconds / 1000).toFixed(3)} s), seed ${plan.seed}: ${text}\n` +
    `${describePlan(plan)}\nagain: ${again}`
  );
}

function speedText({ seeds, simulatedMilliseconds, milliseconds, operations, faults }: Totals): string {
  const minutes = milliseconds / 60_000;
  return (
    `${(simulatedMilliseconds / 3_600_000).toFixed(2)} simulated hours, ${faults} faults, ${operations} operations, ` +
    `${(seeds / minutes).toFixed(0)} seeds a core minute, ${(simulatedMilliseconds / milliseconds).toFixed(0)} × real time per core second`
  );
}

function totalsText(totals: Totals, profile: Profile): string {
  const hasMembership = profile === 'membership' || profile === 'all';
  const wanted = hasMembership ? [...wantedMarks, ...membershipMarks] : wantedMarks;
  const missing = wanted.filter((mark) => totals.marks[mark] === undefined);
  const lines = [
    `${totals.seeds} seeds clean: ${speedText(totals)}`,
    `faults: ${countsText(totals.faultsByKind)}`,
    `met: ${countsText(totals.marks)}`,
  ];
  if (missing.length > 0) lines.push(`not met: ${missing.join(', ')}`);
  return lines.join('\n');
}

function countsText(counts: Readonly<Record<string, number>>): string {
  const parts = Object.entries(counts).map(([name, count]) => `${name} ${count}`);
  return parts.length === 0 ? 'none' : parts.join(', ');
}

/** One line that is written over itself; where nobody looks on, a line of its own now and then. */
class ProgressLine {
  readonly #seeds: number | null;
  #shown = performance.now();

  constructor(seeds: number | null) {
    this.#seeds = seeds;
  }

  show(totals: Totals): void {
    const { isTTY } = process.stdout;
    if (performance.now() - this.#shown < (isTTY ? progressMilliseconds : plainProgressMilliseconds)) return;
    this.#shown = performance.now();
    const of = this.#seeds === null ? '' : `/${this.#seeds}`;
    const text = `${totals.seeds}${of} seeds, ${speedText(totals)}`;
    process.stdout.write(isTTY ? `\r\x1b[K${text}` : `${text}\n`);
  }

  clear(): void {
    if (process.stdout.isTTY) process.stdout.write('\r\x1b[K');
  }
}

/** What is not understood ends with 2; an exception of the simulator itself ends the process with its stack, and 1. */
function parsed(): Options | null | undefined {
  try {
    return parseOptions(process.argv.slice(2));
  } catch (error) {
    console.error(`sim: ${error instanceof Error ? error.message : error}`);
    return undefined;
  }
}

const options = parsed();
if (options === undefined) process.exitCode = 2;
else if (options === null) console.log(usage);
else process.exitCode = await main(options);
