// Three whole nodes over the in-memory network, disk and clock: the paths that processes and real clients take, where every fault is at
// hand and nothing depends on the machine's speed.

import { describe, expect, test } from 'vitest';
import { CancelFlag, type ConfirmTarget, defaultLimits, ResultCode, SettleOperation } from '../../cluster/index.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';

const key = Buffer.from([0, 1, 0x71]);
const properties = Buffer.alloc(2);

class Publisher implements ConfirmTarget {
  readonly confirmedTags = new Set<number>();
  readonly nackedTags = new Set<number>();
  readonly returned: number[] = [];
  #next = 1;
  confirmed(first: number, last: number, ok: boolean) {
    for (let tag = first; tag <= last; tag++) (ok ? this.confirmedTags : this.nackedTags).add(tag);
  }
  unroutable(tag: number) {
    this.returned.push(tag);
  }
  /** Publishes one message through a node; its body is its tag. */
  publish(row: MemoryNode, shard: number, queue: number): number {
    const tag = this.#next++;
    const body = Buffer.from(String(tag));
    row.cluster.pipe(shard).publish(row, [queue], 0, 0, 0xffff_ffff, key, properties, [body], body.length, this, tag);
    return tag;
  }
}

/** Declares a queue through a node, and tells where it is. */
async function declare(cluster: MemoryCluster, node: number, name: string) {
  const code = cluster.askForQueue(node, name);
  expect(await cluster.until(() => code() !== undefined, 5_000)).toBe(true);
  expect(code()).toBe(ResultCode.ok);
  return cluster.node(node).cluster.metadata.queue('/', name)!;
}

function body(row: MemoryNode, shard: number, entryIndex: number, ordinal: number): Promise<string> {
  return new Promise((resolve) =>
    row.cluster.readMessages(
      shard,
      entryIndex,
      [ordinal],
      () => true,
      ([message]) => {
        if (message === null || message === undefined) return resolve('gone');
        resolve(message.payload.toString('utf8', message.bodyStart, message.bodyEnd));
      },
    ),
  );
}

/** Consumes all from a node and returns the bodies in order of delivery, settling as it goes. */
async function drain(cluster: MemoryCluster, node: number, queue: { shard: number; uid: number }, count: number) {
  const row = cluster.node(node);
  const consumer = 900 + row.feed.leases.length;
  const { feed } = row;
  row.cluster
    .pipe(queue.shard)
    .consume(
      row,
      { consumer, queue: queue.uid, unsettledMax: 0, grantedTo: 1e9, priority: 0, flags: 0, tag: 'drain' },
      () => {},
    );
  const mine = () => feed.leases.filter((lease) => lease.consumer === consumer);
  await cluster.until(() => mine().length >= count, 10_000);
  await cluster.clock.run(200);
  const bodies: string[] = [];
  for (const lease of mine()) {
    let text: string | null = null;
    void body(row, lease.shard, lease.entryIndex, lease.ordinal).then((read) => {
      text = read;
    });
    await cluster.until(() => text !== null, 1_000);
    bodies.push(text ?? 'unread');
    row.cluster.pipe(queue.shard).settle(SettleOperation.accept, 0, consumer, lease.leaseOrdinal, 1);
  }
  row.cluster.pipe(queue.shard).cancel(row, consumer, CancelFlag.returnLeases, null);
  await cluster.clock.run(200);
  return bodies;
}

const started = async (seed: number, limits = {}) => {
  const cluster = new MemoryCluster(3, seed, limits);
  await cluster.start();
  return cluster;
};

describe('three nodes over in-memory ports', () => {
  test('a queue declared through one node takes publishes through every node, and gives them through another', async () => {
    const cluster = await started(1);
    const queue = await declare(cluster, 1, 'q');
    const publisher = new Publisher();
    for (let i = 0; i < 30; i++) publisher.publish(cluster.node((i % 3) + 1), queue.shard, queue.uid);
    expect(await cluster.until(() => publisher.confirmedTags.size === 30, 2_000)).toBe(true);
    const bodies = await drain(cluster, 3, queue, 30);
    expect(bodies.map(Number).sort((a, b) => a - b)).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
  });

  test('queues of every shard, declared, filled and drained through different nodes: metadata and groups number shards alike', async () => {
    const shards = 5;
    const cluster = await started(8, { shards });
    const queues: Awaited<ReturnType<typeof declare>>[] = [];
    for (let i = 0; i < 3 * shards; i++) queues.push(await declare(cluster, 1 + (i % 3), `q${i}`));
    const perShard = Array.from({ length: shards }, (_, i) => queues.filter((queue) => queue.shard === i + 1).length);
    expect(perShard).toEqual(Array.from({ length: shards }, () => 3));
    const publisher = new Publisher();
    for (const [i, queue] of queues.entries())
      publisher.publish(cluster.node(1 + ((i + 1) % 3)), queue.shard, queue.uid);
    expect(await cluster.until(() => publisher.confirmedTags.size === queues.length, 2_000)).toBe(true);
    for (const [i, queue] of queues.entries())
      expect(await drain(cluster, 1 + ((i + 2) % 3), queue, 1), queue.name).toEqual([String(i + 1)]);
    const isEmpty = ({ shard, uid }: (typeof queues)[number]) =>
      cluster.nodes.every((row) => {
        const status = statusOf(row, { shard, uid });
        return status?.ready === 0 && status.unsettled === 0;
      });
    expect(await cluster.until(() => queues.every(isEmpty), 2_000)).toBe(true);
  });

  test('leaders are spread evenly, also after a node was away', async () => {
    const cluster = await started(2, { shards: 6 });
    const spread = () =>
      [1, 2, 3].map(
        (n) =>
          cluster.nodes
            .filter((row) => row.alive)
            .flatMap((row) => row.cluster.status().groups)
            .filter((group) => group.role === 'leader' && group.leader === n && group.group > 0).length,
      );
    expect(await cluster.until(() => spread().join() === '2,2,2', 5_000)).toBe(true);
    cluster.kill(2);
    expect(await cluster.until(() => spread()[0]! + spread()[2]! === 6, 3_000)).toBe(true);
    await cluster.restart(2);
    expect(await cluster.until(() => spread().join() === '2,2,2', 10_000)).toBe(true);
  });

  test('a new cluster has its leaders where they belong before any election timeout, whatever the delays', async () => {
    for (let seed = 20; seed < 24; seed++) {
      const cluster = await started(seed, { shards: 6 });
      const { tickMilliseconds, electionTicks } = defaultLimits;
      expect(cluster.clock.now(), `seed ${seed}`).toBeLessThan(tickMilliseconds * electionTicks);
      const leaders = Array.from({ length: 7 }, (_, group) => cluster.leaderOf(group)?.node);
      expect(leaders, `seed ${seed}`).toEqual([3, 1, 2, 3, 1, 2, 3]);
    }
  });

  test('a node that stops hands over all that it leads, and is handed nothing back while its clients go', async () => {
    const cluster = await started(9, { shards: 6 });
    const led = () =>
      cluster
        .node(3)
        .cluster.status()
        .groups.filter(({ role }) => role === 'leader').length;
    expect(led()).toBe(3);
    let handed = false;
    void cluster
      .node(3)
      .cluster.handOver()
      .then(() => {
        handed = true;
      });
    expect(await cluster.until(() => handed, 200)).toBe(true);
    expect(led()).toBe(0);
    for (let i = 0; i < 300; i++) {
      await cluster.clock.run(10);
      expect(led()).toBe(0);
    }
    cluster.kill(3);
    await cluster.restart(3);
    expect(await cluster.until(() => led() === 3, 10_000)).toBe(true);
  });

  test('nodes that stop together hand nothing to each other', async () => {
    const cluster = await started(10, { shards: 6 });
    const terms = () => cluster.nodes.map((row) => row.cluster.status().groups.map(({ term }) => term));
    const before = terms();
    let stopped = 0;
    for (const row of cluster.nodes) {
      void row.cluster.handOver().then(() => stopped++);
      await cluster.clock.run(2);
    }
    expect(await cluster.until(() => stopped === 3, 100)).toBe(true);
    expect(terms()).toEqual(before);
  });

  test('a leader that dies loses, repeats and reorders nothing of a publisher at another node', async () => {
    const cluster = await started(3);
    const queue = await declare(cluster, 1, 'q');
    const leader = cluster.leaderOf(queue.shard)!;
    const through = cluster.nodes.find((row) => row !== leader)!;
    const publisher = new Publisher();
    const from = cluster.clock.now();
    for (let i = 0; i < 100; i++) {
      publisher.publish(through, queue.shard, queue.uid);
      await cluster.clock.run(0.5);
      if (i === 50) cluster.crash(leader.node);
    }
    expect(await cluster.until(() => publisher.confirmedTags.size === 100, 5_000)).toBe(true);
    expect(cluster.clock.now() - from).toBeLessThan(1_000);
    const bodies = await drain(cluster, through.node, queue, 100);
    expect(bodies.map(Number)).toEqual(Array.from({ length: 100 }, (_, i) => i + 1));
  });

  test('power loss of all nodes at once keeps every confirmed message, in order, and nothing twice', async () => {
    for (let seed = 10; seed < 16; seed++) {
      const cluster = await started(seed);
      const queue = await declare(cluster, 1, 'q');
      const publisher = new Publisher();
      for (let i = 0; i < 60; i++) {
        publisher.publish(cluster.node(2), queue.shard, queue.uid);
        await cluster.clock.run(0.4);
      }
      const confirmed = [...publisher.confirmedTags];
      expect(confirmed.length).toBeGreaterThan(10);
      for (const row of cluster.nodes) cluster.crash(row.node);
      for (const row of cluster.nodes) await cluster.restart(row.node);
      expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.isReady), 10_000)).toBe(true);
      const bodies = (await drain(cluster, 1, queue, confirmed.length)).map(Number);
      expect(bodies, `seed ${seed}`).toEqual([...bodies].sort((a, b) => a - b));
      expect(new Set(bodies).size).toBe(bodies.length);
      for (const tag of confirmed) expect(bodies, `seed ${seed}`).toContain(tag);
    }
  });

  test('a minority confirms nothing and nacks after the deadline; healed, the cluster goes on', async () => {
    const cluster = await started(4, {
      pipe: {
        batchBytesMax: 256 * 1024,
        batchesInFlightMax: 8,
        windowBytes: 1 << 24,
        deadlineMilliseconds: 4_000,
        resendMilliseconds: 500,
      },
    });
    const queue = await declare(cluster, 1, 'q');
    for (const other of ['n2', 'n3']) cluster.network.partition('n1', other, 'drop');
    const publisher = new Publisher();
    const lonely = publisher.publish(cluster.node(1), queue.shard, queue.uid);
    await cluster.clock.run(3_000);
    expect(publisher.confirmedTags.size).toBe(0);
    expect(await cluster.until(() => publisher.nackedTags.has(lonely), 3_000)).toBe(true);
    expect(
      cluster
        .node(1)
        .cluster.status()
        .groups.some((group) => group.role === 'leader'),
    ).toBe(false);
    const second = new Publisher();
    second.publish(cluster.node(2), queue.shard, queue.uid);
    expect(await cluster.until(() => second.confirmedTags.size === 1, 3_000)).toBe(true);
    cluster.network.heal();
    expect(await cluster.until(() => !cluster.node(1).cluster.pipe(queue.shard).isStalled, 10_000)).toBe(true);
    const third = new Publisher();
    expect(await cluster.until(() => cluster.node(1).cluster.isReady, 10_000)).toBe(true);
    third.publish(cluster.node(1), queue.shard, queue.uid);
    expect(await cluster.until(() => third.confirmedTags.size === 1, 5_000)).toBe(true);
  });

  test('what the sessions of a dead node held comes back within ten seconds, once, flagged', async () => {
    const cluster = await started(5);
    const queue = await declare(cluster, 1, 'q');
    const publisher = new Publisher();
    for (let i = 0; i < 10; i++) publisher.publish(cluster.node(1), queue.shard, queue.uid);
    await cluster.until(() => publisher.confirmedTags.size === 10, 2_000);
    const holder = cluster.node(3);
    const consume = { consumer: 7, queue: queue.uid, unsettledMax: 4, grantedTo: 1e9, priority: 0, flags: 0, tag: 'a' };
    holder.cluster.pipe(queue.shard).consume(holder, consume, () => {});
    expect(await cluster.until(() => holder.feed.leases.length === 4, 2_000)).toBe(true);
    const from = cluster.clock.now();
    cluster.kill(3);
    const other = cluster.node(2);
    other.cluster.pipe(queue.shard).consume(other, { ...consume, consumer: 8, unsettledMax: 0 }, () => {});
    expect(await cluster.until(() => other.feed.leases.length === 10, 10_000)).toBe(true);
    expect(cluster.clock.now() - from).toBeLessThan(10_000);
    expect(other.feed.leases.filter((lease) => lease.redelivered)).toHaveLength(4);
  });

  test('a node that was paused for long comes back harmless: its sessions end, its acknowledgements settle nothing', async () => {
    const cluster = await started(6);
    const queue = await declare(cluster, 1, 'q');
    const publisher = new Publisher();
    for (let i = 0; i < 5; i++) publisher.publish(cluster.node(1), queue.shard, queue.uid);
    await cluster.until(() => publisher.confirmedTags.size === 5, 2_000);
    const zombie = cluster.node(3);
    const consume = { consumer: 7, queue: queue.uid, unsettledMax: 0, grantedTo: 1e9, priority: 0, flags: 0, tag: 'a' };
    zombie.cluster.pipe(queue.shard).consume(zombie, consume, () => {});
    expect(await cluster.until(() => zombie.feed.leases.length === 5, 2_000)).toBe(true);
    for (const other of ['n1', 'n2']) cluster.network.partition('n3', other, 'drop');
    await cluster.clock.run(9_000);
    zombie.cluster.pipe(queue.shard).settle(SettleOperation.accept, 0, 7, 1, 5);
    cluster.network.heal();
    expect(await cluster.until(() => zombie.feed.fencedCount > 0, 10_000)).toBe(true);
    const bodies = await drain(cluster, 1, queue, 5);
    expect(bodies.map(Number)).toEqual([1, 2, 3, 4, 5]);
    expect(await cluster.until(() => zombie.cluster.isReady, 10_000)).toBe(true);
  });

  test('a replica that is too far behind gets a snapshot, with the messages that still live', async () => {
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
    const cluster = await started(7, limits);
    const queue = await declare(cluster, 1, 'q');
    const away = cluster.nodes.find((row) => row !== cluster.leaderOf(queue.shard))!;
    const through = cluster.nodes.find((row) => row !== away)!;
    cluster.kill(away.node);
    const publisher = new Publisher();
    for (let i = 0; i < 300; i++) {
      publisher.publish(through, queue.shard, queue.uid);
      await cluster.clock.run(3);
    }
    expect(await cluster.until(() => publisher.confirmedTags.size === 300, 5_000)).toBe(true);
    await cluster.restart(away.node);
    const group = () => away.cluster.status().groups[queue.shard]!;
    const caughtUp = () => group().applied >= through.cluster.status().groups[queue.shard]!.commit;
    expect(await cluster.until(caughtUp, 20_000)).toBe(true);
    expect(group().snapshotIndex).toBeGreaterThan(0);
    const bodies = await drain(cluster, away.node, queue, 300);
    expect(bodies.map(Number)).toEqual(Array.from({ length: 300 }, (_, i) => i + 1));
  });
});
