// A node that comes back serves nobody before its replicas have come up: what its clients do is answered from them.

import { afterEach, describe, expect, test } from 'vitest';
import type { QueueRecord } from '../../cluster/index.ts';
import { Store } from '../../cluster/log/store.ts';
import { followersOf, groupOf } from '../support/machines.ts';
import { MemoryCluster, type MemoryNode } from '../support/memory-cluster.ts';
import { declareQueue, Publisher } from '../support/messages.ts';

const { read } = Store.prototype;
afterEach(() => {
  Store.prototype.read = read;
});

/** A follower that was killed, and comes back with a disk that takes its time with the queue's entries; it lacks those up to `missed`. */
async function comesBack(seed: number, readMilliseconds: number, catchUpMilliseconds: number) {
  const cluster = new MemoryCluster(3, seed, { shards: 1, applyBytesPerTurn: 1, catchUpMilliseconds });
  await cluster.start();
  const queue = await declareQueue(cluster, 1, 'q');
  const leader = cluster.leaderOf(queue.shard)!;
  const late = followersOf(cluster, queue.shard)[0]!;
  await publish(cluster, leader, queue, 200);
  cluster.kill(late.node);
  await publish(cluster, leader, queue, 200);
  Store.prototype.read = function (this: Store, group, first, last, bytesMax, done) {
    read.call(this, group, first, last, bytesMax, (error, entries) => {
      if (group !== queue.shard) return done(error, entries);
      cluster.clock.after(readMilliseconds, () => done(error, entries));
    });
  };
  const missed = groupOf(leader, queue.shard).applied;
  const from = cluster.clock.now();
  await cluster.restart(late.node);
  return { cluster, late, missed, from, shard: queue.shard };
}

async function publish(cluster: MemoryCluster, row: MemoryNode, queue: QueueRecord, count: number): Promise<void> {
  const publisher = new Publisher();
  for (let i = 0; i < count; i++) publisher.publish(row, queue);
  expect(await cluster.until(() => publisher.confirmedTags.size === count, 10_000)).toBe(true);
}

describe('a node that comes back', () => {
  test('is ready when its replicas have applied what was committed without it', async () => {
    const { cluster, late, missed, from, shard } = await comesBack(61, 800, 60_000);
    expect(await cluster.until(() => late.cluster.isReady, 20_000)).toBe(true);
    expect(groupOf(late, shard).applied).toBeGreaterThanOrEqual(missed);
    expect(cluster.clock.now() - from).toBeGreaterThan(800);
    await publish(cluster, late, late.cluster.metadata.queue('/', 'q')!, 1);
  });

  test('waits for it no longer than it may', async () => {
    const { cluster, late, missed, from, shard } = await comesBack(62, 5_000, 300);
    expect(await cluster.until(() => late.cluster.isReady, 4_000)).toBe(true);
    expect(groupOf(late, shard).applied).toBeLessThan(missed);
    expect(cluster.clock.now() - from).toBeGreaterThanOrEqual(300);
  });
});
