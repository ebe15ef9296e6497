// Links between two nodes fail, the nodes do not: whoever still reaches both passes their frames on, and nobody above notices.

import { describe, expect, test } from 'vitest';
import { type ConfirmTarget, ResultCode, SettleOperation } from '../../cluster/index.ts';
import { replicasOf } from '../../cluster/machine/groups.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';

const key = Buffer.from([0, 1, 0x71]);
const properties = Buffer.alloc(2);

class Publisher implements ConfirmTarget {
  confirmedCount = 0;
  nackedCount = 0;
  #next = 1;
  confirmed(first: number, last: number, ok: boolean) {
    if (ok) this.confirmedCount += last - first + 1;
    else this.nackedCount += last - first + 1;
  }
  unroutable() {
    throw new Error('the queue is gone');
  }
  publish(row: MemoryNode, queue: { shard: number; uid: number }): void {
    const body = Buffer.from(String(this.#next));
    row.cluster
      .pipe(queue.shard)
      .publish(row, [queue.uid], 0, 0, 0xffff_ffff, key, properties, [body], body.length, this, this.#next++);
  }
}

async function declare(cluster: MemoryCluster, node: number, name: string) {
  const code = cluster.askForQueue(node, name);
  expect(await cluster.until(() => code() !== undefined, 3_000)).toBe(true);
  expect(code()).toBe(ResultCode.ok);
  return cluster.node(node).cluster.metadata.queue('/', name)!;
}

const leaderships = (cluster: MemoryCluster) =>
  cluster.nodes.map((row) =>
    row.cluster
      .status()
      .groups.filter(({ role }) => role === 'leader')
      .map(({ group, term }) => `${group}@${term}`)
      .join(' '),
  );

const consume = (row: MemoryNode, queue: { shard: number; uid: number }, consumer: number) =>
  row.cluster
    .pipe(queue.shard)
    .consume(
      row,
      { consumer, queue: queue.uid, unsettledMax: 0, grantedTo: 1e9, priority: 0, flags: 0, tag: 'relay' },
      () => {},
    );

const isUp = (from: MemoryNode, to: MemoryNode) => from.cluster.status().nodes[to.node - 1]!.up;

/** A cluster whose nodes all know each other, with a queue. */
async function settled(seed: number, limits = {}) {
  const cluster = new MemoryCluster(3, seed, limits);
  await cluster.start();
  const queue = await declare(cluster, 1, 'q');
  await cluster.clock.run(500);
  const leader = cluster.leaderOf(queue.shard)!;
  const [other, third] = cluster.nodes.filter((row) => row !== leader);
  return { cluster, queue, leader, other: other!, third: third! };
}

type Cut = (network: MemoryCluster['network'], leader: string, other: string) => void;
const cuts: Readonly<Record<string, Cut>> = {
  'is reset': (network, leader, other) => network.partition(leader, other, 'reset'),
  'loses everything in silence': (network, leader, other) => network.partition(leader, other, 'drop'),
  'loses what the leader sends': (network, leader, other) => network.cut(leader, other, 'drop'),
  'loses what the leader is sent': (network, leader, other) => network.cut(other, leader, 'drop'),
};
const nameOf = (row: MemoryNode) => `n${row.node}`;

describe('three nodes, and the link between a leader and another node', () => {
  for (const [how, cut] of Object.entries(cuts))
    test(`${how}: publishes, leases and declarations go on, nobody else leads, nobody is declared gone`, async () => {
      const { cluster, queue, leader, other, third } = await settled(70);
      const before = leaderships(cluster);
      consume(other, queue, 7);
      const publisher = new Publisher();
      let published = 0;
      /** So many through both nodes, each to be confirmed and delivered to the other within `milliseconds`. */
      const publish = async (count: number, milliseconds: number) => {
        for (let i = 0; i < count; i++) {
          for (const row of [leader, other]) publisher.publish(row, queue);
          published += 2;
          await cluster.clock.run(5);
        }
        const isDone = () => publisher.confirmedCount === published && other.feed.leases.length === published;
        expect(await cluster.until(isDone, milliseconds)).toBe(true);
        expect(publisher.nackedCount).toBe(0);
      };
      await publish(3, 500);
      cut(cluster.network, nameOf(leader), nameOf(other));
      await publish(20, 1_500);
      // Once the way is found, it is as good as the link.
      await publish(20, 100);
      other.cluster.pipe(queue.shard).settle(SettleOperation.accept, 0, 7, 1, published);
      const isSettled = () => statusOf(leader, queue)?.unsettled === 0;
      expect(await cluster.until(isSettled, 100)).toBe(true);
      const declared = await declare(cluster, other.node, 'q2');
      expect(leader.cluster.metadata.queue('/', 'q2')).toEqual(declared);
      await declare(cluster, leader.node, 'q3');
      // Long enough for the lanes to break, and for a node to be declared gone.
      for (let i = 0; i < 20; i++) {
        await cluster.clock.run(500);
        expect(leaderships(cluster)).toEqual(before);
      }
      expect([isUp(leader, other), isUp(other, leader)]).toEqual([false, false]);
      await publish(3, 100);
      expect(cluster.nodes.map((row) => row.feed.fencedCount)).toEqual([0, 0, 0]);
      cluster.network.heal();
      expect(await cluster.until(() => isUp(leader, other) && isUp(other, leader), 3_000)).toBe(true);
      await publish(20, 500);
      // Straight again: it works without the third.
      await cluster.clock.run(500);
      cluster.kill(third.node);
      await publish(20, 3_000);
    });

  test('fails while the leader dies: the other two go on, each by what it knows', async () => {
    const { cluster, queue, leader, other } = await settled(71);
    cluster.network.partition(nameOf(leader), nameOf(other), 'reset');
    const publisher = new Publisher();
    for (let i = 0; i < 5; i++) publisher.publish(other, queue);
    expect(await cluster.until(() => publisher.confirmedCount === 5, 1_000)).toBe(true);
    cluster.kill(leader.node);
    for (let i = 0; i < 5; i++) publisher.publish(other, queue);
    expect(await cluster.until(() => publisher.confirmedCount === 10, 3_000)).toBe(true);
  });

  test('flaps: everything is confirmed once and in the end leads who led', async () => {
    const { cluster, queue, leader, other } = await settled(72);
    const before = leaderships(cluster);
    const publisher = new Publisher();
    const hows = ['reset', 'drop'] as const;
    for (let i = 0; i < 12; i++) {
      const [from, to] = i % 3 === 0 ? [other, leader] : [leader, other];
      cluster.network.cut(nameOf(from), nameOf(to), hows[i % 2]!);
      for (let j = 0; j < 10; j++) {
        publisher.publish(other, queue);
        await cluster.clock.run(i % 4 === 0 ? 60 : 15);
      }
      cluster.network.heal();
      await cluster.clock.run(i * 13);
    }
    expect(await cluster.until(() => publisher.confirmedCount === 120, 5_000)).toBe(true);
    expect(publisher.nackedCount).toBe(0);
    expect(statusOf(leader, queue)!.ready).toBe(120);
    expect(leaderships(cluster)).toEqual(before);
  });

  test('a follower that is far behind gets its snapshot by a relay', async () => {
    const limits = {
      snapshotEveryEntries: 40,
      log: {
        fileBytesMax: 4096,
        cacheBytesMax: 2048,
        keptBytesMax: 0,
        pressureBytes: 16_384,
        volatileWaitingBytesMax: 65_536,
        compactionBytesPerSecond: 1_048_576,
        compactionSlackBytes: 4096,
        scrubBytesPerSecond: 0,
      },
    };
    const { cluster, queue, leader, other, third } = await settled(73, limits);
    cluster.kill(other.node);
    const publisher = new Publisher();
    for (let i = 0; i < 300; i++) {
      publisher.publish(third, queue);
      await cluster.clock.run(3);
    }
    expect(await cluster.until(() => publisher.confirmedCount === 300, 5_000)).toBe(true);
    cluster.network.partition(nameOf(leader), nameOf(other), 'reset');
    await cluster.restart(other.node);
    const group = (row: MemoryNode) => row.cluster.status().groups.find((status) => status.group === queue.shard)!;
    const { commit } = group(leader);
    expect(await cluster.until(() => group(other).applied >= commit, 10_000)).toBe(true);
    expect(group(other).snapshotIndex).toBeGreaterThan(0);
    expect(group(leader).role).toBe('leader');
    expect(statusOf(other, queue)!.ready).toBe(300);
  });
});

describe('five nodes, each shard on three of them', () => {
  const nodes = [1, 2, 3, 4, 5];
  const shards = 10;
  const replicas = (shard: number) => replicasOf(shard, nodes, 3);
  const started = async (seed: number) => {
    const cluster = new MemoryCluster(5, seed, { shards });
    await cluster.start();
    return cluster;
  };
  const leaders = (cluster: MemoryCluster) =>
    Array.from({ length: shards }, (_, i) => cluster.leaderOf(i + 1)?.node ?? 0);

  test('start with every leader where it belongs, before any election timeout', async () => {
    for (let seed = 80; seed < 83; seed++) {
      const cluster = await started(seed);
      await cluster.until(() => !leaders(cluster).includes(0), 500);
      expect(leaders(cluster), `seed ${seed}`).toEqual([1, 2, 3, 4, 5, 1, 2, 3, 4, 5]);
      expect(cluster.clock.now()).toBeLessThan(600);
    }
  });

  test('queues are declared through each node, and publishes arrive from each, also where no replica is', async () => {
    const cluster = await started(84);
    const queues: Awaited<ReturnType<typeof declare>>[] = [];
    for (const node of nodes) queues.push(await declare(cluster, node, `q${node}`));
    const publisher = new Publisher();
    for (const queue of queues) for (const node of nodes) publisher.publish(cluster.node(node), queue);
    const ready = (node: number, queue: (typeof queues)[number]) => statusOf(cluster.node(node), queue)?.ready;
    const isDone = () =>
      queues.every((queue) => replicas(queue.shard).every((node) => ready(node, queue) === nodes.length));
    expect(await cluster.until(isDone, 2_000)).toBe(true);
    expect(await cluster.until(() => publisher.confirmedCount === nodes.length * queues.length, 2_000)).toBe(true);
  });

  test('a node without a replica finds the new leader at once when the old one dies', async () => {
    const cluster = await started(85);
    const queue = await declare(cluster, 1, 'q');
    const [leader, ...others] = replicas(queue.shard);
    const outside = cluster.node(nodes.find((node) => !replicas(queue.shard).includes(node))!);
    const publisher = new Publisher();
    cluster.kill(leader!);
    for (let i = 0; i < 10; i++) publisher.publish(outside, queue);
    const ready = () => statusOf(cluster.node(others[0]!), queue)?.ready;
    expect(await cluster.until(() => ready() === 10, 400)).toBe(true);
    expect(await cluster.until(() => publisher.confirmedCount === 10, 1_000)).toBe(true);
  });

  test('a link between a node without a replica and the leader fails: its publishes take another way', async () => {
    for (const how of ['reset', 'drop'] as const) {
      const cluster = await started(86);
      const queue = await declare(cluster, 1, 'q');
      const [leader] = replicas(queue.shard);
      const outside = nodes.find((node) => !replicas(queue.shard).includes(node))!;
      await cluster.clock.run(500);
      const before = leaders(cluster);
      cluster.network.partition(`n${leader}`, `n${outside}`, how);
      const publisher = new Publisher();
      for (let i = 0; i < 10; i++) {
        publisher.publish(cluster.node(outside), queue);
        await cluster.clock.run(20);
      }
      const ready = () => statusOf(cluster.node(leader!), queue)?.ready;
      expect(await cluster.until(() => ready() === 10, 1_500)).toBe(true);
      expect(await cluster.until(() => publisher.confirmedCount === 10, 2_000)).toBe(true);
      await cluster.clock.run(8_000);
      expect(leaders(cluster)).toEqual(before);
    }
  });

  test('the shards of a dead node are spread over those that are next in line, and come back with it', async () => {
    const cluster = await started(87);
    await cluster.clock.run(1_000);
    expect(leaders(cluster).join()).toBe('1,2,3,4,5,1,2,3,4,5');
    cluster.kill(2);
    expect(await cluster.until(() => !leaders(cluster).includes(0), 3_000)).toBe(true);
    const led = leaders(cluster);
    for (let shard = 1; shard <= shards; shard++) expect(replicas(shard)).toContain(led[shard - 1]);
    expect([led[1], led[6]].sort()).toEqual([3, 4]);
    await cluster.restart(2);
    expect(await cluster.until(() => leaders(cluster).join() === '1,2,3,4,5,1,2,3,4,5', 10_000)).toBe(true);
  });
});
