// All nodes at once: what was confirmed must come back from the disks.

import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'vitest';
import type { LocalCluster } from '../../chaos/local-cluster.ts';
import { Workload } from '../../chaos/workload.ts';
import { checkHistory, History } from '../history.ts';
import { expectClean, useCluster } from './support.ts';

const cluster = useCluster();

async function powerOff(nodes: LocalCluster): Promise<void> {
  for (const node of nodes.nodes) node.signal('SIGKILL');
  await Promise.all(nodes.nodes.map((node) => node.kill()));
}

async function powerOn(nodes: LocalCluster): Promise<void> {
  for (const node of nodes.nodes) node.start();
  await nodes.waitHealthy();
}

test.each([
  ['with consumers', 3, 'power-a'],
  ['with a growing backlog', 0, 'power-b'],
])('kill -9 of all nodes under load, %s, twice', async (_, consumers, run) => {
  const nodes = cluster();
  const history = new History(() => performance.now());
  const queues = [`${run}-1`, `${run}-2`, `${run}-3`];
  const load = { publishers: 3, consumers, rate: 300, retry: consumers > 0, requeueEvery: 0 };
  const workload = await Workload.start({ urls: nodes.urls, queues, run, ...load }, history);
  for (let cut = 0; cut < 2; cut++) {
    await sleep(2000);
    await powerOff(nodes);
    await powerOn(nodes);
  }
  await sleep(1000);
  const report = await workload.finish();
  expectClean({ ...report, verdict: checkHistory(history.events) }, 1500);
});
