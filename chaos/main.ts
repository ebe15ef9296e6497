// `npm run chaos` and `warren chaos`: reads the command line, runs scenarios on a target, shows how it goes, writes the reports.
//
// State: none but the process's own: signals, and the exit code. Ctrl-C ends the run in order; a second one at once.

import { randomInt } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { resolve } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { judgeLedger } from './ledger.ts';
import { type ChaosOptions, chaosHelp, parseChaosFlags, replayOf, seedMax, withoutPassword } from './options.ts';
import { writeReports } from './report/index.ts';
import { machinesPartOf } from './report/words.ts';
import { exitCodeOf, runChaos } from './run.ts';
import { scenarios } from './scenarios/index.ts';
import { openTarget } from './targets/index.ts';
import { warrenVersion } from './targets/options.ts';
import type { ChaosReport, ScenarioReport, Target } from './types.ts';
import { createView } from './view.ts';

const notUnderstood = 64;
const twiceMilliseconds = 1500;
/** To start, warm up, heal, wait for calm, drain and judge. */
const overheadSeconds = 20;

export interface ChaosIo {
  readonly out: NodeJS.WriteStream;
  readonly print: (line: string) => void;
  readonly printError: (line: string) => void;
  /** Opens the target; a test may have another. */
  readonly open: (options: ChaosOptions) => Promise<Target>;
  /** Aborted: the run is to end. */
  readonly signal: AbortSignal;
}

/** Returns what the process is to end with. */
export async function chaosMain(flags: readonly string[], io: ChaosIo): Promise<number> {
  const parsed = parseChaosFlags(flags);
  if (!parsed.ok) {
    io.printError(`warren: ${parsed.error}`);
    return notUnderstood;
  }
  const { command } = parsed;
  switch (command.kind) {
    case 'help':
      io.print(chaosHelp);
      return 0;
    case 'list':
      io.print(listOf());
      return 0;
    case 'judge':
      return judgeLedger(command.ledger, io.print);
    case 'run':
      return run(command.options, io);
  }
}

async function run(options: ChaosOptions, io: ChaosIo): Promise<number> {
  const seed = options.seed ?? randomInt(seedMax);
  const ledgers = resolve(options.out);
  mkdirSync(ledgers, { recursive: true });
  const replay = replayOf(options, seed);
  const count = options.scenarios.length;
  const minutes = Math.ceil((options.seconds + count * overheadSeconds) / 60);
  io.print(`seed ${seed}; the same again: ${replay}`);
  io.print(
    `${count} scenarios, ${(options.seconds / count).toFixed(0)} s of harm each; about ${minutes} minutes in all`,
  );
  const { target } = options;
  const about = {
    warren: warrenVersion(),
    replay,
    target: typeof target === 'string' ? target : target.map(withoutPassword).join(', '),
  };
  const { seconds, rate, features, strict } = options;
  const view = createView(io.out, { plain: options.plain, seconds: seconds / options.scenarios.length });
  const context = { open: () => io.open(options), observer: view, signal: io.signal };
  const name = `chaos-${Date.now().toString(36)}`;
  const report = await runChaos(
    { scenarios: options.scenarios, seconds, seed, rate, features, strict, ledgers, run: name },
    about,
    context,
  );
  view.close();
  for (const line of summaryOf(report)) io.print(line);
  const [page] = writeReports(report, options.out);
  io.print(`report: ${resolve(page!)}`);
  return exitCodeOf(report);
}

function listOf(): string {
  const width = Math.max(...scenarios.map(({ name }) => name.length)) + 2;
  return scenarios
    .map(({ name, says, needs, nodesMin, stallMillisecondsMax }) => {
      const notes = [
        ...(needs.length > 0 ? [`needs ${needs.join(', ')}`] : []),
        ...(nodesMin > 1 ? [`${nodesMin} nodes`] : []),
      ];
      if (stallMillisecondsMax !== null) notes.push(`goal: no stall over ${stallMillisecondsMax} ms`);
      return `${name.padEnd(width)}${says}${notes.length === 0 ? '' : `\n${' '.repeat(width)}(${notes.join('; ')})`}`;
    })
    .join('\n');
}

/** What a reader of the last lines wants to know. */
export function summaryOf(report: ChaosReport): string[] {
  const sum = (count: (one: ScenarioReport) => number) =>
    report.scenarios.reduce((total, one) => total + count(one), 0);
  const outcomes = (['pass', 'violation', 'inconclusive', 'skipped'] as const).flatMap((outcome) => {
    const count = sum((one) => (one.outcome === outcome ? 1 : 0));
    return count === 0 ? [] : [`${count} ${outcome}`];
  });
  const missed = report.scenarios.filter(
    ({ longestStallMilliseconds: stall, stallMillisecondsMax: goal }) => goal !== null && stall > goal,
  );
  return [
    `${report.outcome}: ${outcomes.join(', ')}; ${sum(({ counts }) => counts?.confirmed ?? 0)} messages confirmed, ` +
      `${sum(({ counts }) => counts?.delivered ?? 0)} received, ${sum(({ violations }) => violations)} violations`,
    ...missed.map(
      (one) =>
        `${one.name}: stalled for ${Math.round(one.longestStallMilliseconds)} ms, the goal is ${one.stallMillisecondsMax} ms` +
        (machinesPartOf(one) === '' ? '' : `; ${machinesPartOf(one)}`),
    ),
  ];
}

/** As a program: on this process's terminal and signals. */
export async function chaosProgram(flags: readonly string[]): Promise<number> {
  const interrupted = new AbortController();
  let interruptedAt = 0;
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.on(signal, () => {
      // It may arrive twice, from the terminal and from npm. The targets end what they started when the process exits.
      if (interrupted.signal.aborted && performance.now() - interruptedAt > twiceMilliseconds) process.exit(2);
      if (interrupted.signal.aborted) return;
      interruptedAt = performance.now();
      process.stderr.write('\nending: everything is healed first (once more: at once)\n');
      interrupted.abort();
    });
  return chaosMain(flags, {
    out: process.stdout,
    print: (line) => process.stdout.write(`${line}\n`),
    printError: (line) => process.stderr.write(`${line}\n`),
    open: ({ target, nodes, toxiproxy }) => openTarget(target, { nodes, toxiproxy }),
    signal: interrupted.signal,
  });
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url))
  process.exit(await chaosProgram(process.argv.slice(2)));
