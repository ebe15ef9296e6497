// A cluster whose nodes learn a second machine version one after the other, as in a rolling upgrade.

import { describe, expect, test } from 'vitest';
import { storeBounds } from '../../cluster/machine/queue/store.ts';
import type { MachineVersions } from '../../cluster/machine/versions.ts';
import type { ClusterLimits } from '../../cluster/options.ts';
import { groupOf, machineOf } from '../support/machines.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';
import { declareQueue, Publisher } from '../support/messages.ts';

const one: MachineVersions = { shard: [storeBounds], metadata: [{ debtItemsPerEntry: 4_096 }] };
/** The second one works less debt off with an entry. */
const both: MachineVersions = {
  shard: [...one.shard, { ...storeBounds, debtPerEntryMax: 5 }],
  metadata: [...one.metadata, { debtItemsPerEntry: 5 }],
};

const shards = [1, 2];
const limits = { shards: 2, snapshotEveryEntries: 40 };

const inForce = (row: MemoryNode) => row.cluster.metadata.machineVersion;
const versions = (row: MemoryNode) => shards.map((shard) => machineOf(row, shard).version);
const halted = (cluster: MemoryCluster) =>
  cluster.nodes
    .flatMap((row) => [0, ...shards].map((group) => groupOf(row, group).halted))
    .filter((why) => why !== null);

function begin(seed: number, further: Partial<ClusterLimits> = {}): MemoryCluster {
  const cluster = new MemoryCluster(3, seed, { ...limits, ...further });
  cluster.machineVersions = one;
  return cluster;
}

async function upgrade(cluster: MemoryCluster, node: number): Promise<void> {
  cluster.kill(node);
  cluster.node(node).machineVersions = both;
  await cluster.restart(node);
  expect(await cluster.until(() => cluster.node(node).cluster.isReady, 10_000)).toBe(true);
}

async function publish(cluster: MemoryCluster, node: number, name: string, count: number): Promise<void> {
  const publisher = new Publisher();
  const queue = cluster.node(node).cluster.metadata.queue('/', name)!;
  for (let i = 0; i < count; i++) publisher.publish(cluster.node(node), queue);
  expect(await cluster.until(() => publisher.confirmedTags.size === count, 10_000)).toBe(true);
}

describe('a machine version', () => {
  test('comes into force once the last node knows it, on all replicas at the same entry, and stays', async () => {
    const cluster = begin(301);
    await cluster.start();
    for (const [i, name] of ['a', 'b'].entries()) await declareQueue(cluster, 1 + i, name);
    await publish(cluster, 1, 'a', 60);
    for (const node of [1, 2]) {
      await upgrade(cluster, node);
      await cluster.clock.run(3_000);
      // The third one could not follow.
      expect(cluster.nodes.map(inForce)).toEqual([1, 1, 1]);
      await publish(cluster, node, 'b', 30);
    }
    await upgrade(cluster, 3);
    expect(await cluster.until(() => cluster.nodes.every((row) => inForce(row) === 2), 10_000)).toBe(true);
    for (const name of ['a', 'b']) await publish(cluster, 2, name, 30);
    expect(
      await cluster.until(() => cluster.nodes.every((row) => versions(row).every((one) => one === 2)), 5_000),
    ).toBe(true);

    // Also after restarts, from snapshots and from the log, and with another leader.
    for (const node of [1, 2, 3]) {
      cluster.crash(node);
      await cluster.restart(node);
      expect(await cluster.until(() => cluster.node(node).cluster.isReady, 10_000)).toBe(true);
      await publish(cluster, node, 'a', 20);
    }
    await cluster.clock.run(1_000);
    expect(cluster.nodes.map(inForce)).toEqual([2, 2, 2]);
    expect(cluster.nodes.flatMap(versions)).toEqual([2, 2, 2, 2, 2, 2]);
    for (const shard of shards)
      expect(new Set(cluster.nodes.map((row) => machineOf(row, shard).stateHash())).size).toBe(1);
    const queue = cluster.node(1).cluster.metadata.queue('/', 'a')!;
    expect(cluster.nodes.map((row) => statusOf(row, queue)!.ready)).toEqual([150, 150, 150]);
    expect(halted(cluster)).toEqual([]);
  });

  test('keeps a node out that does not know it, with a reason, and the others go on', async () => {
    const cluster = begin(302, { snapshotEveryEntries: 10_000 });
    await cluster.start();
    await declareQueue(cluster, 1, 'a');
    for (const node of [1, 2, 3]) await upgrade(cluster, node);
    expect(await cluster.until(() => cluster.nodes.every((row) => inForce(row) === 2), 10_000)).toBe(true);
    await publish(cluster, 1, 'a', 20);
    cluster.kill(3);
    cluster.node(3).machineVersions = one;
    await cluster.restart(3);
    await cluster.clock.run(5_000);
    expect(cluster.node(3).cluster.isReady).toBe(false);
    expect(groupOf(cluster.node(3), 0).halted).toContain('needs machine version 2, this node knows versions up to 1');
    await publish(cluster, 1, 'a', 20);
    await upgrade(cluster, 3);
    await cluster.clock.run(2_000);
    expect(halted(cluster)).toEqual([]);
  });
});
