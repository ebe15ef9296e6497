// Hardships of whole nodes that once left something asleep: what waits must be woken also when nothing else happens.

import { describe, expect, test } from 'vitest';
import { ResultCode } from '../../cluster/index.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';

const groupsLed = (cluster: MemoryCluster, node: number) =>
  cluster
    .node(node)
    .cluster.status()
    .groups.filter(({ role }) => role === 'leader')
    .map(({ group }) => group);

const everyLink = [
  ['n1', 'n2'],
  ['n1', 'n3'],
  ['n2', 'n3'],
] as const;

describe('after hardships', () => {
  test('a leader that is elected again takes what came before its first entry was applied', async () => {
    const cluster = new MemoryCluster(1, 30);
    await cluster.start();
    const { disk } = cluster.node(1);
    disk.stalled = true;
    const first = cluster.askForQueue(1, 'q1');
    expect(await cluster.until(() => groupsLed(cluster, 1).length === 0, 5_000)).toBe(true);
    disk.stalled = false;
    const second = cluster.askForQueue(1, 'q2');
    const isDone = () => first() === ResultCode.ok && second() === ResultCode.ok;
    expect(await cluster.until(isDone, 5_000)).toBe(true);
  });

  test('all links cut for long: whoever leads then, what was asked meanwhile is done', async () => {
    for (let seed = 30; seed < 33; seed++) {
      const cluster = new MemoryCluster(3, seed);
      await cluster.start();
      for (const [a, b] of everyLink) cluster.network.partition(a, b, 'drop');
      await cluster.clock.run(3_000);
      expect([1, 2, 3].flatMap((node) => groupsLed(cluster, node))).toEqual([]);
      const answers = [1, 2, 3].map((node) => cluster.askForQueue(node, `q${node}`));
      await cluster.clock.run(4_000);
      cluster.network.heal();
      const isDone = () => answers.every((code) => code() === ResultCode.ok);
      expect(await cluster.until(isDone, 5_000), `seed ${seed}`).toBe(true);
    }
  });

  test('a node that starts without a majority asks once, however long it waits, and serves as soon as there is one', async () => {
    const cluster = new MemoryCluster(3, 34);
    await cluster.start();
    for (const row of cluster.nodes) cluster.kill(row.node);
    await cluster.restart(1);
    const lonely = cluster.node(1).cluster;
    await cluster.clock.run(60_000);
    expect(lonely.isReady).toBe(false);
    expect(lonely.pipe(0).unappliedBytes).toBeLessThan(1_000);
    await cluster.restart(2);
    expect(await cluster.until(() => lonely.isReady, 5_000)).toBe(true);
  });

  test('a node declared gone twice in a row, the second time while it comes back, serves in the end', async () => {
    for (let seed = 40; seed < 43; seed++) {
      const cluster = new MemoryCluster(3, seed);
      await cluster.start();
      const { cluster: zombie, feed } = cluster.node(3);
      const cut = () => {
        for (const other of ['n1', 'n2']) cluster.network.partition('n3', other, 'drop');
      };
      const isKnown = () => {
        const record = [...cluster.node(1).cluster.metadata.nodes()].find(({ node }) => node === 3)!;
        return record.incarnation === zombie.incarnation && record.fencedTo < record.incarnation;
      };
      cut();
      await cluster.clock.run(9_000);
      cluster.network.heal();
      expect(await cluster.until(() => feed.fencedCount === 1, 10_000)).toBe(true);
      expect(await cluster.until(isKnown, 10_000)).toBe(true);
      cut();
      await cluster.clock.run(20_000);
      expect(isKnown()).toBe(false);
      cluster.network.heal();
      expect(await cluster.until(() => zombie.isReady && isKnown(), 10_000), `seed ${seed}`).toBe(true);
    }
  });

  test('a node that stops is handed nothing, also by those that it reaches again', async () => {
    for (let seed = 50; seed < 54; seed++) {
      const cluster = new MemoryCluster(3, seed, { shards: 6 });
      await cluster.start();
      let handed = false;
      void cluster
        .node(3)
        .cluster.handOver()
        .then(() => {
          handed = true;
        });
      expect(await cluster.until(() => handed, 1_000)).toBe(true);
      for (const other of ['n1', 'n2']) cluster.network.reset('n3', other);
      for (let i = 0; i < 300; i++) {
        await cluster.clock.run(10);
        expect(groupsLed(cluster, 3), `seed ${seed}`).toEqual([]);
      }
    }
  });
});
