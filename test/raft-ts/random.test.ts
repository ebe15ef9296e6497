// Random lives of a group. A failure names its seed; `RAFT_SEED=n` runs that one alone, `RAFT_SECONDS=n` looks for longer.

import { expect, test } from 'vitest';
import { runSwarm } from './swarm.ts';

const seconds = Number(process.env.RAFT_SECONDS ?? 3);
const steps = Number(process.env.RAFT_STEPS ?? 3000);
const only = process.env.RAFT_SEED;
const wanted = ['snapshot installed', 'log truncated', 'joint phase', 'read answered', 'transfer', 'learner'];

test('random faults never break safety, and the group recovers', { timeout: seconds * 1000 + 60_000 }, () => {
  const marks = new Map<string, number>();
  const first = only === undefined ? Math.floor(Math.random() * 2 ** 30) : Number(only);
  const until = performance.now() + seconds * 1000;
  let runs = 0;
  let committed = 0;
  // On a busy machine few runs fit into the time.
  const isMissing = () => wanted.some((mark) => !marks.has(mark));
  do {
    const seed = first + runs;
    try {
      const result = runSwarm(seed, steps);
      committed += result.committed;
      for (const [name, count] of result.marks) marks.set(name, (marks.get(name) ?? 0) + count);
    } catch (error) {
      throw new Error(`seed ${seed}: run again with RAFT_SEED=${seed} RAFT_STEPS=${steps}`, { cause: error });
    }
    runs++;
  } while (only === undefined && (performance.now() < until || (isMissing() && performance.now() < until + 30_000)));
  if (only !== undefined) return;
  console.info(`seeds ${first} to ${first + runs - 1}, ${committed} entries committed`, Object.fromEntries(marks));
  expect(committed).toBeGreaterThan(runs);
  for (const mark of wanted) expect(marks.get(mark) ?? 0, mark).toBeGreaterThan(0);
});
