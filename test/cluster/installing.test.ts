// A snapshot is installed on a replica that has not applied yet all that it has durably: nothing that lives on in its own files may go.

import { afterEach, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import { GroupLog } from '../../cluster/log/group.ts';
import { Store } from '../../cluster/log/store.ts';
import { followersOf, groupOf } from '../support/machines.ts';
import { MemoryCluster, type MemoryNode } from '../support/memory-cluster.ts';
import { consume, declareQueue, Publisher, readMessage } from '../support/messages.ts';

const { collect, read } = Store.prototype;
const { installed } = GroupLog.prototype;
afterEach(() => {
  Object.assign(Store.prototype, { collect, read });
  GroupLog.prototype.installed = installed;
});

test('files are collected between the installation in the log and that in the machine: what lives stays', async () => {
  const log = { ...defaultLimits.log, fileBytesMax: 4096, cacheBytesMax: 2048, keptBytesMax: 0 };
  const pipe = { ...defaultLimits.pipe, batchBytesMax: 64, batchesInFlightMax: 100 };
  const limits = { shards: 1, snapshotEveryEntries: 60, applyBytesPerTurn: 1, log, pipe };
  const cluster = new MemoryCluster(3, 91, limits);
  await cluster.start();
  const queue = await declareQueue(cluster, 1, 'q');
  const publisher = new Publisher();
  const publish = async (row: MemoryNode, count: number) => {
    const before = publisher.confirmedTags.size;
    for (let i = 0; i < count; i++) publisher.publish(row, queue);
    expect(await cluster.until(() => publisher.confirmedTags.size === before + count, 10_000)).toBe(true);
  };
  const leader = cluster.leaderOf(queue.shard)!;
  await publish(leader, 40);
  await cluster.clock.run(500);
  const late = followersOf(cluster, queue.shard)[0]!;
  expect(groupOf(late, queue.shard).snapshotIndex).toBe(0);
  const had = groupOf(late, queue.shard).lastIndex;
  cluster.kill(late.node);
  await publish(leader, 60);
  expect(await cluster.until(() => groupOf(leader, queue.shard).snapshotIndex > had, 5_000)).toBe(true);
  await cluster.clock.run(3_000);

  // Its disk reads so slowly that the snapshot comes before it has applied what it has.
  Store.prototype.read = function (this: Store, group, first, last, bytesMax, done) {
    read.call(this, group, first, last, bytesMax, (error, entries) => {
      cluster.clock.after(500, () => done(error, entries));
    });
  };
  const collectors: (() => void)[] = [];
  Store.prototype.collect = function (this: Store, isLive) {
    collectors.push(() => void collect.call(this, isLive));
    return collect.call(this, isLive);
  };
  let appliedThen = -1;
  GroupLog.prototype.installed = function (this: GroupLog, ...installation) {
    installed.apply(this, installation);
    if (this.group !== queue.shard) return;
    appliedThen = groupOf(late, queue.shard).applied;
    const collectAll = () => {
      for (const again of collectors) again();
    };
    for (let at = 0; at < 10; at += 0.1) cluster.clock.after(at, collectAll);
  };
  for (const { node } of cluster.nodes)
    if (node !== late.node) cluster.network.partition(`n${node}`, `n${late.node}`, 'reset');
  await cluster.restart(late.node);
  await cluster.clock.run(2_500);
  cluster.network.heal();
  expect(await cluster.until(() => late.cluster.isReady && appliedThen >= 0, 10_000)).toBe(true);
  expect(appliedThen).toBeLessThan(had);
  Store.prototype.read = read;
  const leases = consume(late, queue, 1);
  expect(await cluster.until(() => leases().length === 100, 10_000)).toBe(true);
  const bodies: string[] = [];
  for (const lease of leases()) bodies.push((await readMessage(cluster, late, lease)).body);
  expect(bodies).toEqual(Array.from({ length: 100 }, (_, i) => String(i + 1)));
});
