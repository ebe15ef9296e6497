// The simulator over a few dozen seeds, others with every commit, each twice: no rule is broken, and both runs of a seed are one.
//
// A failure names its seed: `npm run sim -- --seed N` shows it again.

import { execFile, execFileSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { profiles } from './faults.ts';
import { parseOptions } from './options.ts';
import { describePlan, planOf } from './plan.ts';
import { runSeed } from './run.ts';
import { type Failure, runSeries } from './series.ts';
import { Trace } from './trace.ts';

const seedsOfAll = 15;
/** One core's time for each profile, so that a slow machine tries fewer seeds rather than none to the end. */
const milliseconds = 55_000;

/** By the commit, so that every commit tries others and each can be repeated. */
function firstSeed(): number {
  try {
    const commit = execFileSync('git', ['rev-parse', 'HEAD'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return Number.parseInt(commit.slice(0, 7), 16);
  } catch {
    return randomInt(2 ** 28);
  }
}

function textOf({ plan, violation, lines }: Failure): string {
  const { invariant, text, step } = violation;
  return [`seed ${plan.seed}, step ${step}: ${invariant}: ${text}`, describePlan(plan), ...lines.slice(-20)].join('\n');
}

const first = firstSeed();

describe(`the whole cluster, simulated from seed ${first} on`, () => {
  it.each(profiles)(
    'keeps every promise under faults of profile %s, and repeats',
    { timeout: 240_000 },
    async (profile) => {
      const end = performance.now() + milliseconds;
      const isOver = (begun: number) => begun >= seedsOfAll || performance.now() > end;
      const { totals, failure } = await runSeries({ first, jobs: 1, profile, nodes: null, twice: true, isOver });
      expect(failure === null ? null : textOf(failure)).toBeNull();
      const speed = totals.simulatedMilliseconds / totals.milliseconds;
      console.log(
        `${profile}: ${totals.seeds} seeds from ${first}, ${totals.faults} faults, ${speed.toFixed(0)} × real time per core second`,
      );
    },
  );
});

describe('a run', () => {
  it('is another with another seed', async () => {
    const hashes = [];
    for (const seed of [1, 2]) {
      const plan = { ...planOf({ seed, profile: 'network', nodes: 1 }), busyMilliseconds: 1_000 };
      hashes.push((await runSeed(plan, new Trace())).hash);
    }
    expect(hashes[0]).not.toBe(hashes[1]);
  });

  it('writes a trace that does not count for its hash how much of it is kept', async () => {
    const plan = { ...planOf({ seed: 3, profile: 'network', nodes: 1 }), busyMilliseconds: 1_000 };
    const [some, all] = [new Trace(), new Trace({ keepAll: true, frames: true })];
    await runSeed(plan, some);
    await runSeed(plan, all);
    expect(all.hash).toBe(some.hash);
    expect(all.lines().length).toBeGreaterThan(some.lines(10).length);
  });
});

describe('a series', () => {
  it('comes to the same in several processes', { timeout: 120_000 }, async () => {
    const run = promisify(execFile);
    const main = fileURLToPath(new URL('../../dist/test/sim/main.js', import.meta.url));
    const args = [main, '--seeds', '3', '--first', '11', '--profile', 'network', '--nodes', '1'];
    const totals = [];
    for (const jobs of ['1', '2']) {
      const { stdout } = await run(process.execPath, [...args, '--jobs', jobs]);
      totals.push(/3 seeds clean: .* operations/.exec(stdout)?.[0]);
    }
    expect(totals[0]).toBeDefined();
    expect(totals[1]).toBe(totals[0]);
  });
});

describe('the command line', () => {
  it.each([
    [['--seeds', 'many'], '--seeds wants a whole number'],
    [['--seed=-1'], '--seed wants a whole number'],
    [['--nodes', '2'], '--nodes wants 1, 3 or 5'],
    [['--profile', 'weather'], '--profile wants one of'],
    [['--minutes', '0'], '--minutes wants a number above 0'],
    [['seed'], '"seed" is not understood'],
    [['--sed', '1'], '--sed'],
  ])('refuses %j', (args, text) => {
    expect(() => parseOptions(args)).toThrow(text);
  });

  it('tries a hundred seeds, or as many as fit into the minutes', () => {
    expect(parseOptions([])).toMatchObject({ seeds: 100, minutes: null, profile: 'all', museum: null });
    expect(parseOptions(['--minutes', '0.5'])).toMatchObject({ seeds: null, minutes: 0.5 });
    expect(parseOptions(['--museum', 'vote'])).toMatchObject({ museum: ['vote'] });
    expect(parseOptions(['--help'])).toBeNull();
  });
});
