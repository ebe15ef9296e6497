// kill -9 of one node after another under load, each brought back before the next dies; then everything is drained and judged.

import { setTimeout as sleep } from 'node:timers/promises';
import { checkHistory, History, type Verdict } from '../test/history.ts';
import type { LocalCluster } from './local-cluster.ts';
import { type DrainReport, Workload } from './workload.ts';

export interface RollingKillOptions {
  readonly kills: number;
  /** Undisturbed time before each kill. */
  readonly calmMilliseconds: number;
  /** How long a killed node stays away. */
  readonly downMilliseconds: number;
  readonly onProgress?: (line: string) => void;
}

export interface RollingKillReport extends DrainReport {
  readonly verdict: Verdict;
  /** Confirms that came between the kills: that the cluster stayed of use. */
  readonly confirmedPerKill: readonly number[];
}

export async function runRollingKill(cluster: LocalCluster, options: RollingKillOptions): Promise<RollingKillReport> {
  const history = new History(() => performance.now());
  const run = `kill-${Date.now().toString(36)}`;
  const queues = [`${run}-a`, `${run}-b`, `${run}-c`];
  const load = { publishers: cluster.nodes.length + 1, consumers: cluster.nodes.length, rate: 250 };
  const workload = await Workload.start(
    { urls: cluster.urls, queues, run, ...load, retry: true, requeueEvery: 101 },
    history,
  );
  const confirmedPerKill: number[] = [];
  let before = 0;
  for (let kill = 0; kill < options.kills; kill++) {
    await sleep(options.calmMilliseconds);
    const node = cluster.nodes[kill % cluster.nodes.length]!;
    await node.kill();
    await sleep(options.downMilliseconds);
    node.start();
    await cluster.waitHealthy();
    const confirmed = history.confirmed - before;
    before = history.confirmed;
    confirmedPerKill.push(confirmed);
    options.onProgress?.(
      `kill ${kill + 1}/${options.kills}: ${node.name} is back; ${confirmed} confirmed since the last, ` +
        `${history.awaited} not delivered yet`,
    );
  }
  await sleep(options.calmMilliseconds);
  // Who was killed is dead: no channel outlives its node.
  history.calm();
  const drained = await workload.finish();
  return { ...drained, verdict: checkHistory(history.events), confirmedPerKill };
}
