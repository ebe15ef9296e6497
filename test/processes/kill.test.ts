// kill -9 of every node in turn, while publishers and consumers work through all of them.

import { expect, test } from 'vitest';
import { runRollingKill } from '../../chaos/rolling-kill.ts';
import { expectClean, useCluster } from './support.ts';

const cluster = useCluster();

test('three kills, one node after another: nothing confirmed is lost', async () => {
  const report = await runRollingKill(cluster(), { kills: 3, calmMilliseconds: 1500, downMilliseconds: 800 });
  expectClean(report, 2000);
  expect(Math.min(...report.confirmedPerKill)).toBeGreaterThan(200);
});

test('a node that is stopped politely leaves with exit code 0 and disturbs nobody', async () => {
  const [node] = cluster().nodes;
  await node!.kill('SIGTERM');
  expect(node!.lastExit).toBe(0);
  node!.start();
  await cluster().waitHealthy();
});
