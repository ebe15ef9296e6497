// What time and silence bring about: ticks for what falls due, suspicion of nodes that are silent, the end of those that stay so.

import { describe, expect, test } from 'vitest';
import type { Group } from '../../cluster/group/group.ts';
import { defaultLimits, type Pipe, SettleOperation } from '../../cluster/index.ts';
import { Duties } from '../../cluster/leading/duties.ts';
import { LeaderBatches } from '../../cluster/leading/leader-batches.ts';
import type { MetadataMachine } from '../../cluster/machine/metadata.ts';
import type { Peers } from '../../cluster/peers/peers.ts';
import { followersOf, groupOf, machineOf } from '../support/machines.ts';
import { createMemoryClock } from '../support/memory-clock.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';
import { consume, declareQueue, Publisher } from '../support/messages.ts';

const started = async (seed: number, limits = {}) => {
  const cluster = new MemoryCluster(3, seed, { shards: 3, ...limits });
  await cluster.start();
  return cluster;
};

const incarnationOf = (row: MemoryNode) => ({ node: row.node, incarnation: row.cluster.incarnation });

describe('ticks', () => {
  test('let messages and queues expire though nothing else is written, and an idle shard writes nothing', async () => {
    const cluster = await started(100);
    const dead = await declareQueue(cluster, 1, 'dead');
    const table = { 'x-message-ttl': 400, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' };
    const source = await declareQueue(cluster, 2, 'source', table);
    const brief = await declareQueue(cluster, 3, 'brief', { 'x-expires': 1_500 });
    const publisher = new Publisher();
    for (let i = 0; i < 10; i++) publisher.publish(cluster.node(2), source);
    expect(await cluster.until(() => publisher.confirmedTags.size === 10, 1_000)).toBe(true);
    const status = (queue: typeof dead) => cluster.nodes.map((row) => statusOf(row, queue)?.ready);
    await cluster.clock.run(200);
    expect(status(source)).toEqual([10, 10, 10]);
    expect(await cluster.until(() => status(dead).every((ready) => ready === 10), 1_000)).toBe(true);
    expect(status(source)).toEqual([0, 0, 0]);
    const exists = () => cluster.nodes.some((row) => row.cluster.metadata.queueByUid(brief.uid) !== undefined);
    expect(exists()).toBe(true);
    expect(await cluster.until(() => !exists(), 4_000)).toBe(true);
    await cluster.clock.run(1_000);
    const entries = () =>
      cluster
        .node(1)
        .cluster.status()
        .groups.map(({ lastIndex }) => lastIndex);
    const before = entries();
    await cluster.clock.run(10_000);
    expect(entries()).toEqual(before);
  });

  test('work debt off, each when the last one was applied', async () => {
    const cluster = await started(101);
    const queue = await declareQueue(cluster, 1, 'q');
    const leader = cluster.leaderOf(queue.shard)!;
    const machine = machineOf(leader, queue.shard);
    let left = 5;
    Object.defineProperty(machine, 'due', {
      get: () => (left-- > 0 ? 0 : Number.POSITIVE_INFINITY),
      configurable: true,
    });
    const before = groupOf(leader, queue.shard).lastIndex;
    await cluster.clock.run(45);
    const publisher = new Publisher();
    publisher.publish(leader, queue);
    // Once applied, it goes on at once, without waiting for the timer: a tick for each time that work was left.
    expect(await cluster.until(() => left < 0, 40)).toBe(true);
    await cluster.clock.run(1_000);
    const written = groupOf(leader, queue.shard).lastIndex - before;
    expect(written).toBeGreaterThan(1);
    expect(written).toBeLessThan(6);
  });
});

describe('a silent node', () => {
  test('gets no new messages until it is heard again; what it holds it keeps', async () => {
    const cluster = await started(102);
    const queue = await declareQueue(cluster, 1, 'q');
    const [silent, other] = followersOf(cluster, queue.shard);
    const leader = cluster.leaderOf(queue.shard)!;
    const leases = consume(silent!, queue, 7);
    const publisher = new Publisher();
    for (let i = 0; i < 3; i++) publisher.publish(leader, queue);
    expect(await cluster.until(() => leases().length === 3, 2_000)).toBe(true);
    const isSuspected = () => machineOf(leader, queue.shard).isSuspected(incarnationOf(silent!));
    cluster.pause(silent!.node);
    await cluster.clock.run(600);
    expect(isSuspected()).toBe(false);
    expect(await cluster.until(isSuspected, 1_000)).toBe(true);
    const entries = groupOf(leader, queue.shard).lastIndex;
    for (let i = 0; i < 5; i++) publisher.publish(leader, queue);
    expect(await cluster.until(() => publisher.confirmedTags.size === 8, 2_000)).toBe(true);
    expect(statusOf(leader, queue)).toMatchObject({ ready: 5, unsettled: 3 });
    // Told once: nothing but the publishes was written since.
    await cluster.clock.run(1_500);
    expect(groupOf(leader, queue.shard).lastIndex).toBeLessThanOrEqual(entries + 5);
    cluster.resume(silent!.node);
    expect(await cluster.until(() => !isSuspected(), 1_000)).toBe(true);
    expect(await cluster.until(() => leases().length === 8, 2_000)).toBe(true);
    expect(silent!.feed.fencedCount).toBe(0);
    expect(leases().some(({ redelivered }) => redelivered)).toBe(false);
    silent!.cluster.pipe(queue.shard).settle(SettleOperation.accept, 0, 7, 1, 8);
    expect(await cluster.until(() => statusOf(other!, queue)?.unsettled === 0, 2_000)).toBe(true);
  });

  test('stays suspected when the leader changes, and is not when the new one hears it', async () => {
    const cluster = await started(103, { nodeDeadMilliseconds: 30_000 });
    const queue = await declareQueue(cluster, 1, 'q');
    const leader = cluster.leaderOf(queue.shard)!;
    const [silent, next] = followersOf(cluster, queue.shard);
    const leases = consume(silent!, queue, 7);
    await cluster.clock.run(100);
    cluster.pause(silent!.node);
    const isSuspectedBy = (row: MemoryNode) => machineOf(row, queue.shard).isSuspected(incarnationOf(silent!));
    expect(await cluster.until(() => isSuspectedBy(next!), 2_000)).toBe(true);
    // While two of three are silent nobody leads; then another one does, which must find out anew.
    cluster.kill(leader.node);
    await cluster.clock.run(500);
    expect(isSuspectedBy(next!)).toBe(true);
    cluster.resume(silent!.node);
    expect(await cluster.until(() => cluster.leaderOf(queue.shard) !== undefined, 5_000)).toBe(true);
    expect(await cluster.until(() => !isSuspectedBy(next!), 2_000)).toBe(true);
    new Publisher().publish(next!, queue);
    expect(await cluster.until(() => leases().length === 1, 2_000)).toBe(true);
  });

  test('is ended only by a leader of the metadata who had the time to hear it', () => {
    const raft = { term: 1, role: 'leader' };
    const metadata = { id: 0, leads: true, raft } as unknown as Group;
    const asked: string[] = [];
    const peers = { get: () => ({}), silentMilliseconds: () => 60_000 } as unknown as Peers;
    const pipe = { isStalled: false, metadata: (json: string) => void asked.push(json) } as unknown as Pipe;
    const nodes = () => [{ node: 2, incarnation: 5, fencedTo: 4 }];
    const context = {
      limits: defaultLimits,
      metadata: { appliedIndex: 0, nodes, knownVersion: 1, machineVersion: 1 } as unknown as MetadataMachine,
      shards: new Map(),
      peers,
      pipe,
      commands: new LeaderBatches(createMemoryClock(), 0),
      report: () => {},
    };
    const duties = new Duties(new Map([[0, metadata]]), context);
    const askedAfter = (milliseconds: number) => {
      for (let time = 0; time < milliseconds; time += defaultLimits.tickMilliseconds) {
        duties.tick();
        duties.drive();
      }
      return asked.length;
    };
    expect(askedAfter(4_900)).toBe(0);
    raft.term = 2;
    expect(askedAfter(4_900)).toBe(0);
    expect(askedAfter(200)).toBe(1);
    expect(JSON.parse(asked[0]!)).toEqual({ kind: 'fenceNode', node: 2, incarnation: 5 });
    expect(askedAfter(10_000)).toBe(1);
  });

  test('that was paused as the leader of the metadata ends nobody when it wakes', async () => {
    const cluster = await started(108);
    const leader = cluster.leaderOf(0)!;
    const others = cluster.nodes.filter((row) => row !== leader);
    const before = others.map((row) => row.cluster.incarnation);
    cluster.pause(leader.node);
    await cluster.clock.run(8_000);
    cluster.resume(leader.node);
    await cluster.clock.run(8_000);
    expect(others.map((row) => row.cluster.incarnation)).toEqual(before);
    expect(others.map((row) => row.feed.fencedCount)).toEqual([0, 0]);
    expect(leader.feed.fencedCount).toBe(1);
  });
});
