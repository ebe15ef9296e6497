// Damaged disks under a cluster: a minority heals by itself, under load, and nothing is lost; of a majority one group stands still, says why,
// and the others go on.

import { describe, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import { followersOf, groupOf } from '../support/machines.ts';
import { MemoryCluster, type MemoryNode } from '../support/memory-cluster.ts';
import { consume, declareQueue, Publisher, readMessage } from '../support/messages.ts';

const limits = {
  shards: 2,
  snapshotEveryEntries: 60,
  log: { ...defaultLimits.log, fileBytesMax: 16 * 1024, keptBytesMax: 4096, cacheBytesMax: 0 },
};

async function started(seed: number) {
  const cluster = new MemoryCluster(3, seed, limits);
  await cluster.start();
  const queues = [await declareQueue(cluster, 1, 'a'), await declareQueue(cluster, 2, 'b')] as const;
  expect(queues[0].shard).not.toBe(queues[1].shard);
  return { cluster, queues };
}

async function confirmed(cluster: MemoryCluster, publisher: Publisher, count: number) {
  expect(await cluster.until(() => publisher.confirmedTags.size === count, 20_000)).toBe(true);
}

const isWell = (row: MemoryNode) =>
  row.cluster.status().groups.every(({ halted, repairing }) => halted === null && !repairing);
const areWell = (cluster: MemoryCluster) =>
  cluster.nodes.every((row) => row.alive && row.cluster.isReady && isWell(row));

const logFiles = ({ disk }: MemoryNode) =>
  disk
    .paths()
    .filter(({ path, bytes }) => /^log\/\d+\.log$/.test(path) && bytes > 400)
    .map(({ path }) => path)
    .sort();

/** What may be wrong with a node's disk when it starts. */
const kinds: readonly { name: string; damage(row: MemoryNode): void }[] = [
  { name: 'a log file gone', damage: (row) => row.disk.put(logFiles(row)[0]!, null) },
  { name: 'the newest log file gone', damage: (row) => row.disk.put(logFiles(row).at(-1)!, null) },
  {
    name: 'all log files gone',
    damage: (row) => {
      for (const path of logFiles(row)) row.disk.put(path, null);
    },
  },
  {
    name: 'a rotten byte in each log file',
    damage: (row) => {
      for (const path of logFiles(row)) row.disk.corrupt(path, 700);
    },
  },
  {
    name: 'no snapshots',
    damage: (row) => {
      for (const { path } of row.disk.paths()) if (path.startsWith('snapshots/')) row.disk.put(path, null);
    },
  },
  {
    name: 'rotten snapshots',
    damage: (row) => {
      for (const { path, bytes } of row.disk.paths())
        if (path.startsWith('snapshots/')) row.disk.corrupt(path, bytes >> 1);
    },
  },
];

describe('a node that starts with', () => {
  for (const [i, { name, damage }] of kinds.entries())
    test(`${name} gets it again from the others, and nothing is lost`, async () => {
      const { cluster, queues } = await started(900 + i);
      const publisher = new Publisher();
      for (let n = 0; n < 200; n++) {
        publisher.publish(cluster.node(1 + (n % 3)), queues[n % 2]!, `${n}${'.'.repeat(200)}`);
        if (n % 10 === 0) await cluster.clock.run(20);
      }
      await confirmed(cluster, publisher, 200);
      const victim = cluster.leaderOf(queues[0].shard)!;
      cluster.crash(victim.node);
      damage(victim);
      await cluster.restart(victim.node);
      const other = cluster.nodes.find((row) => row !== victim)!;
      for (let n = 200; n < 300; n++) publisher.publish(other, queues[n % 2]!, `${n}${'.'.repeat(200)}`);
      await confirmed(cluster, publisher, 300);
      expect(await cluster.until(() => areWell(cluster), 30_000)).toBe(true);
      // It counts again: with another node gone the two that are left go on, with all there was.
      cluster.crash(other.node);
      expect(
        await cluster.until(() => queues.every(({ shard }) => cluster.leaderOf(shard) !== undefined), 10_000),
      ).toBe(true);
      const seen = new Set<string>();
      for (const [at, queue] of queues.entries()) {
        const leases = consume(victim, queue, 50 + at);
        expect(await cluster.until(() => leases().length === 150, 20_000)).toBe(true);
        for (const lease of leases()) seen.add((await readMessage(cluster, victim, lease)).body.replace(/\.+$/, ''));
      }
      expect(seen.size).toBe(300);
      expect(cluster.nodes.every((row) => row.fatal === null)).toBe(true);
    });
});

describe('rot that is found when an entry is read', () => {
  test('ends nothing but that replica, which is built anew; deliveries come from elsewhere', async () => {
    const { cluster, queues } = await started(950);
    const publisher = new Publisher();
    for (let n = 0; n < 100; n++) publisher.publish(cluster.node(1), queues[0], `${n}${'.'.repeat(300)}`);
    await confirmed(cluster, publisher, 100);
    const victim = followersOf(cluster, queues[0].shard)[0]!;
    for (const path of logFiles(victim)) {
      const { length } = victim.disk.contents(path);
      for (let at = 300; at < length - 300; at += 400) victim.disk.corrupt(path, at);
    }
    const leases = consume(victim, queues[0], 50);
    expect(await cluster.until(() => leases().length === 100, 10_000)).toBe(true);
    const seen = new Set<string>();
    for (const lease of leases()) seen.add((await readMessage(cluster, victim, lease)).body.replace(/\.+$/, ''));
    expect(seen.size).toBe(100);
    const isRebuilt = () => victim.logs.some(({ event }) => event === 'a replica is built anew');
    expect(await cluster.until(isRebuilt, 5_000)).toBe(true);
    expect(await cluster.until(() => areWell(cluster), 30_000)).toBe(true);
    expect(cluster.nodes.every((row) => row.fatal === null)).toBe(true);
  });
});

describe('damage on a majority', () => {
  test('halts that group with the names of the files, deletes nothing, and the others go on', async () => {
    const { cluster, queues } = await started(960);
    const publisher = new Publisher();
    for (let n = 0; n < 200; n++) {
      publisher.publish(cluster.node(1), queues[n % 2]!, `${n}${'.'.repeat(200)}`);
      await cluster.clock.run(3);
    }
    await confirmed(cluster, publisher, 200);
    const [broken, fine] = queues;
    const victims = [cluster.node(2), cluster.node(3)];
    for (const row of cluster.nodes) cluster.crash(row.node);
    const isOfBroken = ({ path }: { path: string }) => path.startsWith(`snapshots/${broken.shard}-`);
    const paths: string[] = [];
    for (const { disk } of victims)
      for (const { path, bytes } of disk.paths().filter(isOfBroken)) {
        disk.corrupt(path, bytes - 3);
        disk.corrupt(path, bytes - 10);
        paths.push(path);
      }
    const before = new Map(
      victims.map(({ node, disk }) => [node, disk.paths().filter(({ path }) => path.startsWith('log/'))]),
    );
    for (const row of cluster.nodes) await cluster.restart(row.node);
    expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.isReady), 20_000)).toBe(true);
    await cluster.clock.run(5_000);
    expect(cluster.leaderOf(broken.shard)).toBeUndefined();
    for (const row of victims) {
      const status = groupOf(row, broken.shard);
      expect(status.halted).toContain(paths.find((path) => path.startsWith(`snapshots/${broken.shard}-`)));
      expect(status.waitsFor).toContain('no other node');
      // What the log held is still there.
      const now = new Set(row.disk.paths().map(({ path }) => path));
      for (const { path, bytes } of before.get(row.node)!)
        if (bytes > 400) expect([path, now.has(path)]).toEqual([path, true]);
    }
    expect(groupOf(cluster.node(1), broken.shard).damagedOn).toEqual([2, 3]);
    for (let n = 0; n < 50; n++) publisher.publish(cluster.node(2), fine, `${n}`);
    await confirmed(cluster, publisher, 250);
    expect(cluster.nodes.every((row) => row.fatal === null)).toBe(true);
  });
});
