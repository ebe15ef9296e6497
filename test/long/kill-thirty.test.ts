// The long form of kill.test.ts: thirty kills.

import { expect, test } from 'vitest';
import { runRollingKill } from '../../chaos/rolling-kill.ts';
import { expectClean, useCluster } from '../processes/support.ts';

const cluster = useCluster();

test('thirty kills, one node after another: nothing confirmed is lost', async () => {
  const report = await runRollingKill(cluster(), {
    kills: 30,
    calmMilliseconds: 2000,
    downMilliseconds: 1000,
    onProgress: (line) => console.log(line),
  });
  expectClean(report, 20_000);
  expect(Math.min(...report.confirmedPerKill)).toBeGreaterThan(200);
});
