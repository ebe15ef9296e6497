// What the tests with real processes share: a cluster that is stopped whatever happens, whose output is shown when a test fails.

import { afterAll, beforeAll, beforeEach, expect } from 'vitest';
import { LocalCluster, type LocalClusterOptions } from '../../chaos/local-cluster.ts';
import type { DrainReport } from '../../chaos/workload.ts';
import { explain, type Verdict } from '../history.ts';

/** One cluster for all tests of a file. Call the result when it is up. */
export function useCluster(options: LocalClusterOptions = {}): () => LocalCluster {
  let cluster: LocalCluster | null = null;
  beforeAll(async () => {
    cluster = await LocalCluster.start(options);
  });
  beforeEach(({ onTestFailed }) => {
    onTestFailed(() => console.error(cluster?.output()));
  });
  afterAll(async () => {
    await cluster?.stop();
  });
  return () => {
    if (!cluster) throw new Error('the cluster is not up');
    return cluster;
  };
}

/** Nothing lost, invented, doubled or out of order; every living publisher got its answers; every node says the queues are empty. */
export function expectClean(report: DrainReport & { readonly verdict: Verdict }, confirmedAtLeast: number): void {
  const text = explain(report.verdict);
  console.log(text);
  expect(report.verdict.ok, text).toBe(true);
  expect(report.verdict.counts.confirmed).toBeGreaterThanOrEqual(confirmedAtLeast);
  expect(report.unanswered).toBe(0);
  expect(report.leftovers).toEqual([]);
}
