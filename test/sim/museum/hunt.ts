// A child process of the museum: simulates seed after seed with one mistake in the code, until something is found wrong. Tells one line of JSON
// per seed, so that its parent knows that it goes on.
//
//   node hunt.js <hunt as JSON>

import { register } from 'node:module';
import type { FaultTarget, Profile } from '../faults.ts';
import type { SeedOptions } from '../plan.ts';
import type { Mutant, Prey } from './mutant.ts';

export interface Hunt {
  /** Null: the code as it is. */
  readonly mutant: Mutant | null;
  /** The compiled files of the mutant's edits. */
  readonly paths: readonly string[];
  readonly prey: Prey;
  readonly profile: Profile;
  /** Null: by the seed. */
  readonly nodes: number | null;
  readonly besides: readonly string[];
  readonly first: number;
  readonly seeds: number;
}

export interface Seen {
  readonly seed: number;
  /** Null: nothing was found. */
  readonly invariant: string | null;
  readonly text: string;
}

const raftSteps = 3000;

type Simulate = (seed: number) => Promise<{ readonly invariant: string; readonly text: string } | null>;

async function simulatorOf(order: Hunt): Promise<Simulate> {
  const { prey } = order;
  if (prey === 'raft') {
    const { runSwarm } = await import('../../raft-ts/swarm.ts');
    return throwing((seed) => runSwarm(seed, raftSteps));
  }
  if (prey === 'log') {
    const { runLogSeed } = await import('../../contract/log-seed.ts');
    return throwing(runLogSeed);
  }
  const { runSeed } = await import('../run.ts');
  const { planOf } = await import('../plan.ts');
  const { Trace } = await import('../trace.ts');
  return async (seed) => (await runSeed(planOf(seedOptions(order, seed)), new Trace())).violation;
}

const seedOptions = ({ profile, nodes, besides }: Hunt, seed: number): SeedOptions => ({
  seed,
  profile,
  nodes,
  besides,
});

/** Of a simulation that throws what it finds. */
function throwing(run: (seed: number) => unknown): Simulate {
  return async (seed) => {
    try {
      await run(seed);
      return null;
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      return { invariant: ruleOf(text), text };
    }
  };
}

/** What a failure of the cores' simulation, or of the log's, says first. */
function ruleOf(text: string): string {
  if (text.startsWith('raft-ts:') || text.startsWith('log invariant broken')) return 'assertion';
  if (text.startsWith('what was recovered is no state')) return 'recovery';
  if (text.startsWith('live entry')) return 'live entry gone';
  if (text.endsWith('came back')) return 'entry came back';
  if (text.startsWith('entry')) return 'entry differs';
  if (text.startsWith('the group does not come to agree')) return 'liveness';
  const [rule] = text.split(/[:,]/);
  return rule!.length < 24 ? rule! : 'contradiction';
}

/** Which seeds are run at all. */
async function filterOf(order: Hunt): Promise<(seed: number) => boolean> {
  const { mutant, prey, profile, besides } = order;
  if (prey !== 'cluster' || mutant === null) return () => true;
  const { faults, workloads } = mutant;
  const { createFaults } = await import('../faults.ts');
  const { planOf } = await import('../plan.ts');
  // Which kinds there are is drawn before anything is done to a world.
  const target = {} as FaultTarget;
  const kindsOf = (seed: number) => createFaults({ seed, profile, besides, target, report: () => {} }).kinds;
  const namesOf = (seed: number) => planOf(seedOptions(order, seed)).workloads.map(({ name }) => name);
  return (seed) =>
    (faults === undefined || kindsOf(seed).some((kind) => faults.includes(kind))) &&
    (workloads === undefined || namesOf(seed).some((name) => workloads.includes(name)));
}

async function hunt(order: Hunt): Promise<void> {
  if (order.mutant !== null)
    register('./loader.js', import.meta.url, { data: { mutant: order.mutant, paths: order.paths } });
  const simulate = await simulatorOf(order);
  const mayShow = await filterOf(order);
  for (let seed = order.first; seed < order.first + order.seeds; seed++) {
    const found = mayShow(seed) ? await simulate(seed) : null;
    const seen: Seen = { seed, invariant: found?.invariant ?? null, text: found?.text ?? '' };
    process.stdout.write(`${JSON.stringify(seen)}\n`);
    if (found !== null) break;
  }
}

await hunt(JSON.parse(process.argv[2]!) as Hunt);
process.exit(0);
