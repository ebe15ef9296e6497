// Scenarios in which disks and processes are slow, hang or are shared by many: settlements pass publishes (B2), a process that stood still
// disturbs nobody (B5), a disk that hangs holds nobody's confirms up and bounds what runs ahead of it (B8), and groups share their syncs (B12).

import { describe, expect, test } from 'vitest';
import { defaultLimits, SettleOperation } from '../../cluster/index.ts';
import { OriginKind, readBatchHeader } from '../../cluster/machine/commands.ts';
import type { QueueRecord } from '../../cluster/machine/metadata-types.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { groupOf, machineOf } from '../support/machines.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';
import { consume, declareQueue, key, Publisher, properties } from '../support/messages.ts';

const started = async (seed: number, limits = {}) => {
  const cluster = new MemoryCluster(3, seed, limits);
  await cluster.start();
  // Connections are up, and every follower has heard of its leader.
  await cluster.clock.run(500);
  return cluster;
};

/** One queue in each of so many shards. */
async function queueInEach(cluster: MemoryCluster, shards: number): Promise<QueueRecord[]> {
  const queues: QueueRecord[] = [];
  for (let i = 0; i < shards; i++) queues.push(await declareQueue(cluster, 1 + (i % 3), `q${i}`));
  expect(new Set(queues.map(({ shard }) => shard)).size).toBe(shards);
  return queues;
}

/** A large body, so that a few messages fill a batch. */
function publishLarge(row: MemoryNode, { shard, uid }: QueueRecord, bytes: number, publisher: Publisher, tag: number) {
  const body = Buffer.alloc(bytes);
  row.cluster.pipe(shard).publish(row, [uid], 0, 0, 0xffff_ffff, key, properties, [body], bytes, publisher, tag);
}

describe('B2: what is settled', () => {
  test('is applied with the next batch that leaves, however many publishes wait in its pipe', async () => {
    const cluster = await started(200, { shards: 1 });
    const queue = await declareQueue(cluster, 1, 'q');
    const leader = cluster.leaderOf(queue.shard)!;
    const row = cluster.nodes.find((other) => other !== leader)!;
    const publisher = new Publisher();
    for (let i = 0; i < 10; i++) publisher.publish(row, queue);
    const leases = consume(row, queue, 7);
    expect(await cluster.until(() => leases().length === 10, 1_000)).toBe(true);
    const machine = machineOf(leader, queue.shard);
    const apply = machine.apply.bind(machine);
    const batches: { readonly settles: number; readonly commands: number }[] = [];
    machine.apply = (entry) => {
      const { kind, settleCount, commandCount } = readBatchHeader(entry.payload);
      if (kind === OriginKind.node) batches.push({ settles: settleCount, commands: commandCount });
      apply(entry);
    };
    for (let tag = 1_000; tag < 1_060; tag++) publishLarge(row, queue, 128 * 1024, publisher, tag);
    row.cluster.pipe(queue.shard).settle(SettleOperation.accept, 0, 7, 1, 10);
    expect(await cluster.until(() => batches.some(({ settles }) => settles > 0), 1_000)).toBe(true);
    expect(batches.findIndex(({ settles }) => settles > 0)).toBe(0);
    expect(await cluster.until(() => publisher.confirmedTags.size === 70, 5_000)).toBe(true);
    expect(batches.length).toBeGreaterThan(20);
    // Later, with all places taken by batches under way, in the first one that is sealed.
    batches.length = 0;
    for (let tag = 2_000; tag < 2_060; tag++) publishLarge(row, queue, 128 * 1024, publisher, tag);
    await cluster.clock.run(1);
    const before = leases().length;
    expect(before).toBeGreaterThan(10);
    row.cluster.pipe(queue.shard).settle(SettleOperation.accept, 0, 7, 11, before - 10);
    const done = batches.length;
    expect(await cluster.until(() => batches.slice(done).some(({ settles }) => settles > 0), 1_000)).toBe(true);
    const passed = batches.slice(done).findIndex(({ settles }) => settles > 0);
    expect(passed).toBeLessThanOrEqual(defaultLimits.pipe.batchesInFlightMax);
    expect(publisher.confirmedTags.size).toBeLessThan(130);
  });
});

describe('B5: a process that stood still', () => {
  test('is one tick older when it goes on: it campaigns for nothing, and leads nothing that others lead by now', async () => {
    // Rarely enough that nobody asks it to lead again before this was looked at.
    const cluster = await started(205, { shards: 3, balanceMilliseconds: 2_000 });
    const terms = () => [0, 1, 2, 3].map((group) => Math.max(...cluster.nodes.map((row) => groupOf(row, group).term)));
    const { logs, feed } = cluster.node(2);
    cluster.pause(2);
    await cluster.clock.run(3_000);
    const before = terms();
    const slept = logs.length;
    cluster.resume(2);
    await cluster.clock.run(200);
    // What others say comes after its late tick, and in time all the same.
    const campaigns = logs.slice(slept).filter(({ details }) => /candidate/i.test(String(details.role)));
    expect(campaigns).toEqual([]);
    expect(terms()).toEqual(before);
    const leaders = () => [1, 2, 3].map((shard) => cluster.leaderOf(shard)?.node);
    expect(await cluster.until(() => leaders().join() === '1,2,3', 5_000)).toBe(true);
    expect(feed.fencedCount).toBe(0);
  });
});

describe('B8: a disk that hangs', () => {
  test('for as long as a dead node: its sessions end, so that clients go elsewhere, and it serves again once the disk answers', async () => {
    const cluster = await started(206, { shards: 3 });
    const queues = await queueInEach(cluster, 3);
    const victim = cluster.node(2);
    victim.disk.stalled = true;
    const publisher = new Publisher();
    // One of them is led there: something waits for the disk.
    for (const queue of queues) publisher.publish(cluster.node(1), queue);
    expect(await cluster.until(() => publisher.confirmedTags.size === 3, 200)).toBe(true);
    const { nodeDeadMilliseconds } = defaultLimits;
    await cluster.clock.run(nodeDeadMilliseconds - 500);
    expect(victim.feed.fencedCount).toBe(0);
    await cluster.clock.run(1_000);
    expect(victim.feed.fencedCount).toBe(1);
    expect(victim.cluster.isReady).toBe(false);
    await cluster.clock.run(10_000);
    expect([victim.feed.fencedCount, victim.cluster.isReady, victim.fatal]).toEqual([1, false, null]);
    victim.disk.stalled = false;
    expect(await cluster.until(() => victim.cluster.isReady, 5_000)).toBe(true);
    for (const queue of queues) publisher.publish(victim, queue);
    expect(await cluster.until(() => publisher.confirmedTags.size === 6, 2_000)).toBe(true);
    expect(publisher.nackedTags.size).toBe(0);
  });

  test('holds up nobody else: its node gives up its leaderships, and its own sessions go on hearing of what others lead', async () => {
    const cluster = await started(201, { shards: 3 });
    const queues = await queueInEach(cluster, 3);
    const victim = cluster.node(2);
    const led = () => victim.cluster.ledShards();
    const givenUp = led();
    expect(givenUp).toHaveLength(1);
    const rows: { readonly row: MemoryNode; readonly queue: QueueRecord; readonly publisher: Publisher }[] = [];
    for (const row of cluster.nodes) for (const queue of queues) rows.push({ row, queue, publisher: new Publisher() });
    const publish = () => {
      for (const { row, queue, publisher } of rows) publisher.publish(row, queue);
    };
    victim.disk.stalled = true;
    publish();
    // Also through the leader whose own disk does not answer: the two others have it.
    const areConfirmed = (count: number, meant = rows) =>
      meant.every(({ publisher }) => publisher.confirmedTags.size === count);
    expect(await cluster.until(() => areConfirmed(1), 200)).toBe(true);
    expect(await cluster.until(() => led().length === 0, defaultLimits.diskStallMilliseconds + 1_000)).toBe(true);
    await cluster.clock.run(1_000);
    publish();
    // The new leader does not know what that replica has, as its answer waits for the disk: it is told no more, and its sessions wait too.
    const others = rows.filter(({ row, queue }) => row !== victim || !givenUp.includes(queue.shard));
    expect(await cluster.until(() => areConfirmed(2, others), 200)).toBe(true);
    // Nobody is declared gone for his disk; when that answers again, all is as it was.
    victim.disk.stalled = false;
    expect(await cluster.until(() => areConfirmed(2), 2_000)).toBe(true);
    expect(await cluster.until(() => led().length === 1, 10_000)).toBe(true);
    for (const { publisher } of rows) expect(publisher.nackedTags.size).toBe(0);
    for (const queue of queues)
      for (const row of cluster.nodes) expect(statusOf(row, queue)).toMatchObject({ ready: 6 });
    expect(cluster.nodes.map(({ feed, fatal }) => [feed.fencedCount, fatal])).toEqual(Array(3).fill([0, null]));
  });

  test('is run ahead of by a bounded part of the log, no snapshot among it, and nothing of that is missed after a power loss', async () => {
    const bytes = 32 * 1024;
    const limits = { appendBytesMax: 2 * bytes, inflightBytesMax: 8 * bytes, snapshotEveryEntries: 5 };
    const pipe = { ...defaultLimits.pipe, batchBytesMax: bytes };
    const cluster = await started(202, { shards: 1, ...limits, pipe });
    const queue = await declareQueue(cluster, 1, 'q');
    const leader = cluster.leaderOf(queue.shard)!;
    const [victim, other] = cluster.nodes.filter((row) => row !== leader) as [MemoryNode, MemoryNode];
    const publisher = new Publisher();
    const durable = groupOf(victim, queue.shard).lastIndex;
    const machine = machineOf(victim, queue.shard);
    const snapshots: number[] = [];
    machine.snapshot = () => {
      snapshots.push(machine.appliedIndex);
      return ShardMachine.prototype.snapshot.call(machine);
    };
    victim.disk.stalled = true;
    for (let i = 0; i < 100; i++) {
      publishLarge(other, queue, bytes, publisher, i);
      await cluster.clock.run(2);
    }
    expect(await cluster.until(() => publisher.confirmedTags.size === 100, 1_000)).toBe(true);
    const { applied } = groupOf(victim, queue.shard);
    expect(applied).toBeGreaterThan(durable);
    expect(applied - durable).toBeLessThanOrEqual(10);
    expect(applied - durable).toBeGreaterThan(limits.snapshotEveryEntries);
    expect(snapshots.filter((index) => index > durable)).toEqual([]);
    expect(groupOf(other, queue.shard).applied).toBeGreaterThan(durable + 90);
    cluster.crash(victim.node);
    victim.disk.stalled = false;
    await cluster.restart(victim.node);
    const states = () => cluster.nodes.map((row) => machineOf(row, queue.shard).stateHash());
    expect(await cluster.until(() => victim.cluster.isReady && new Set(states()).size === 1, 10_000)).toBe(true);
    expect(statusOf(victim, queue)).toMatchObject({ ready: 100 });
  });
});

describe('B12: many groups', () => {
  test('share entries and syncs: a burst from everywhere to twelve shards costs one entry per pipe and a few syncs per node', async () => {
    const shards = 12;
    const cluster = await started(203, { shards });
    const queues = await queueInEach(cluster, shards);
    await cluster.clock.run(1_000);
    const entries = () => queues.reduce((sum, { shard }) => sum + groupOf(cluster.node(1), shard).lastIndex, 0);
    const syncs = () => cluster.nodes.map((row) => row.cluster.status().log.syncs);
    const [entriesBefore, syncsBefore] = [entries(), syncs()];
    const publisher = new Publisher();
    for (const row of cluster.nodes)
      for (const queue of queues) for (let i = 0; i < 50; i++) publisher.publish(row, queue);
    const count = 3 * shards * 50;
    // A few ways over the wire and to the disk, and nothing waits for a timer in between.
    expect(await cluster.until(() => publisher.confirmedTags.size === count, 10)).toBe(true);
    await cluster.clock.run(200);
    expect(entries() - entriesBefore).toBe(3 * shards);
    for (const [i, after] of syncs().entries()) expect(after - syncsBefore[i]!).toBeLessThanOrEqual(6);
  });

  test('tell a commit in the turn in which it is known, also to a node that only consumes', async () => {
    const cluster = await started(206, { shards: 3 });
    for (const queue of await queueInEach(cluster, 3)) {
      const leader = cluster.leaderOf(queue.shard)!;
      const consuming = cluster.nodes.find((row) => row !== leader)!;
      const leases = consume(consuming, queue, 7);
      await cluster.clock.run(200);
      for (let count = 1; count <= 5; count++) {
        new Publisher().publish(leader, queue);
        // A tick would take fifty milliseconds.
        expect(await cluster.until(() => leases().length === count, 5)).toBe(true);
      }
    }
  });
});
