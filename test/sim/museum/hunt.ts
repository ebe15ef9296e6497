// A child process of the museum: simulates seed after seed with one mistake in the code, until something is found wrong. Tells one line of JSON
// per seed, so that its parent knows that it goes on.
//
//   node hunt.js <hunt as JSON>

import { register } from 'node:module';
import type { Mutant, Prey } from './mutant.ts';

export interface Hunt {
  /** Null: the code as it is. */
  readonly mutant: Mutant | null;
  /** The compiled file of the mutant. */
  readonly path: string;
  readonly prey: Prey;
  readonly profile: 'network' | 'disk' | 'membership' | 'all';
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

async function simulatorOf({ prey, profile }: Hunt): Promise<Simulate> {
  if (prey === 'raft') {
    const { runSwarm } = await import('../../raft-ts/swarm.ts');
    return async (seed) => {
      try {
        runSwarm(seed, raftSteps);
        return null;
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error);
        return { invariant: ruleOf(text), text };
      }
    };
  }
  const { runSeed } = await import('../run.ts');
  const { planOf } = await import('../plan.ts');
  const { Trace } = await import('../trace.ts');
  return async (seed) => (await runSeed(planOf({ seed, profile, nodes: null }), new Trace())).violation;
}

/** What a failure of the cores' simulation says first. */
function ruleOf(text: string): string {
  if (text.startsWith('raft-ts:')) return 'assertion';
  if (text.startsWith('the group does not come to agree')) return 'liveness';
  const [rule] = text.split(/[:,]/);
  return rule!.length < 24 ? rule! : 'contradiction';
}

async function hunt(order: Hunt): Promise<void> {
  if (order.mutant !== null)
    register('./loader.js', import.meta.url, { data: { mutant: order.mutant, path: order.path } });
  const simulate = await simulatorOf(order);
  for (let seed = order.first; seed < order.first + order.seeds; seed++) {
    const found = await simulate(seed);
    const seen: Seen = { seed, invariant: found?.invariant ?? null, text: found?.text ?? '' };
    process.stdout.write(`${JSON.stringify(seen)}\n`);
    if (found !== null) break;
  }
}

await hunt(JSON.parse(process.argv[2]!) as Hunt);
process.exit(0);
