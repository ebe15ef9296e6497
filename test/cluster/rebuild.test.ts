// Replicas that halt, and replicas that are built anew from their peers.

import { afterEach, describe, expect, test } from 'vitest';
import { defaultLimits, SettleOperation } from '../../cluster/index.ts';
import { BatchBuilder, OriginKind } from '../../cluster/machine/commands.ts';
import type { AppliedEntry } from '../../cluster/machine/machine.ts';
import { MetadataMachine } from '../../cluster/machine/metadata.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { followersOf, groupOf, machineOf } from '../support/machines.ts';
import { MemoryCluster, type MemoryNode } from '../support/memory-cluster.ts';
import { consume, declareQueue, Publisher, readMessage } from '../support/messages.ts';

const started = async (seed: number, limits = {}) => {
  const cluster = new MemoryCluster(3, seed, { shards: 2, ...limits });
  await cluster.start();
  return cluster;
};

const { apply } = ShardMachine.prototype;
const { apply: applyMetadata } = MetadataMachine.prototype;
afterEach(() => {
  ShardMachine.prototype.apply = apply;
  MetadataMachine.prototype.apply = applyMetadata;
});

/** From now on this machine fails at every entry. */
function spoil(row: MemoryNode, shard: number): () => void {
  const machine = machineOf(row, shard);
  machine.apply = () => {
    throw new Error('this machine is broken');
  };
  return () => {
    machine.apply = apply.bind(machine);
  };
}

async function publish(cluster: MemoryCluster, row: MemoryNode, queue: { shard: number; uid: number }, count: number) {
  const publisher = new Publisher();
  for (let i = 0; i < count; i++) publisher.publish(row, queue);
  expect(await cluster.until(() => publisher.confirmedTags.size === count, 10_000)).toBe(true);
}

/** Halts one follower of the queue's shard by a fault in its machine, which is then mended. */
async function halted(cluster: MemoryCluster, queue: { shard: number; uid: number }) {
  const [victim, other] = followersOf(cluster, queue.shard);
  const mend = spoil(victim!, queue.shard);
  const leader = cluster.leaderOf(queue.shard)!;
  await publish(cluster, leader, queue, 1);
  expect(await cluster.until(() => groupOf(victim!, queue.shard).halted !== null, 2_000)).toBe(true);
  mend();
  return { victim: victim!, other: other!, leader };
}

function rebuild(row: MemoryNode, group: number): () => string | null | undefined {
  let answer: string | null | undefined;
  void row.cluster.rebuild(group).then((told) => {
    answer = told;
  });
  return () => answer;
}

const isWell = (row: MemoryNode, group: number) => {
  const status = groupOf(row, group);
  return status.halted === null && !status.repairing;
};

describe('an entry at which machines fail', () => {
  test('halts every replica that learns of it, again after a restart, and nothing else', async () => {
    const cluster = await started(70);
    const [poisoned, fine] = [await declareQueue(cluster, 1, 'a'), await declareQueue(cluster, 2, 'b')];
    expect(poisoned.shard).not.toBe(fine.shard);
    await publish(cluster, cluster.node(1), poisoned, 3);
    ShardMachine.prototype.apply = function (this: ShardMachine, entry: AppliedEntry) {
      if (entry.payload.includes('poison')) throw new Error('this must not happen');
      return apply.call(this, entry);
    };
    const publisher = new Publisher();
    publisher.publish(cluster.node(2), poisoned, 'poison');
    const halted = () => cluster.nodes.filter((row) => groupOf(row, poisoned.shard).halted !== null);
    // With two that stopped there is no majority; whether the third has heard that the entry is committed is a matter of chance.
    expect(await cluster.until(() => halted().length >= 2, 5_000)).toBe(true);
    await cluster.clock.run(3_000);
    expect(cluster.leaderOf(poisoned.shard)).toBeUndefined();
    const applied = new Set(halted().map((row) => groupOf(row, poisoned.shard).applied));
    expect(applied.size).toBe(1);
    const { node } = halted()[0]!;
    await publish(cluster, cluster.node(3), fine, 10);
    for (const row of cluster.nodes) {
      expect(row.fatal).toBeNull();
      expect(row.cluster.isReady).toBe(true);
    }
    const answer = rebuild(cluster.node(node), poisoned.shard);
    expect(await cluster.until(() => answer() !== undefined, 1_000)).toBe(true);
    expect(answer()).toContain('no other node');
    for (const row of cluster.nodes) cluster.kill(row.node);
    for (const row of cluster.nodes) await cluster.restart(row.node);
    expect(await cluster.until(() => halted().length >= 2, 10_000)).toBe(true);
    for (const row of halted()) expect(applied).toContain(groupOf(row, poisoned.shard).applied);
    expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.isReady), 10_000)).toBe(true);
    await publish(cluster, cluster.node(node), fine, 10);
    expect(cluster.nodes.every((row) => row.fatal === null)).toBe(true);
    expect(publisher.confirmedTags.size).toBe(0);
  });

  test('a batch of a peer that is malformed, or that only a leader may send, ends its incarnation and no process', async () => {
    const cluster = await started(71);
    const queue = await declareQueue(cluster, 1, 'q');
    const leader = cluster.leaderOf(queue.shard)!;
    const { feed, cluster: origin } = cluster.nodes.find((row) => row !== leader)!;
    const { seal } = BatchBuilder.prototype;
    let spoiled = 0;
    BatchBuilder.prototype.seal = function (this: BatchBuilder, from, ...rest) {
      const isVictim =
        from.kind === OriginKind.node && from.id === origin.node && this.commandCount === 1 && spoiled++ === 0;
      const payload = seal.call(this, from, ...rest);
      if (isVictim) payload[1] = OriginKind.group;
      return payload;
    };
    const publisher = new Publisher();
    publisher.publish(cluster.node(origin.node), queue);
    await cluster.until(() => feed.fencedCount > 0, 2_000);
    BatchBuilder.prototype.seal = seal;
    expect(feed.fencedCount).toBe(1);
    expect(publisher.nackedTags.size).toBe(1);
    expect(await cluster.until(() => origin.isReady, 10_000)).toBe(true);
    await publish(cluster, cluster.node(origin.node), queue, 5);
    expect(cluster.nodes.every((row) => row.fatal === null)).toBe(true);
  });
});

describe('a halted replica', () => {
  test('a leader gives its leadership up, and what waits there goes elsewhere', async () => {
    const cluster = await started(72);
    const queue = await declareQueue(cluster, 1, 'q');
    const leader = cluster.leaderOf(queue.shard)!;
    spoil(leader, queue.shard);
    await publish(cluster, leader, queue, 20);
    expect(groupOf(leader, queue.shard)).toMatchObject({ halted: 'this machine is broken', role: 'follower' });
    const next = cluster.leaderOf(queue.shard)!;
    expect(next).not.toBe(leader);
    const leases = consume(leader, queue, 5);
    expect(await cluster.until(() => leases().length === 20, 5_000)).toBe(true);
  });

  test('of the metadata: its node ends its sessions and stays up; built anew it serves again', async () => {
    const cluster = await started(73);
    const queue = await declareQueue(cluster, 1, 'q');
    const victim = cluster.nodes.find((row) => row !== cluster.leaderOf(0))!;
    MetadataMachine.prototype.apply = function (this: MetadataMachine, entry: AppliedEntry) {
      if (this === victim.cluster.metadata) throw new Error('this machine is broken');
      return applyMetadata.call(this, entry);
    };
    const others = cluster.nodes.filter((row) => row !== victim);
    await declareQueue(cluster, others[0]!.node, 'another');
    expect(await cluster.until(() => victim.feed.fencedCount === 1, 2_000)).toBe(true);
    await cluster.clock.run(10_000);
    expect(victim.cluster.isReady).toBe(false);
    expect(victim.fatal).toBeNull();
    expect(victim.cluster.ledShards()).toEqual([]);
    await publish(cluster, others[0]!, queue, 10);
    MetadataMachine.prototype.apply = applyMetadata;
    const answer = rebuild(victim, 0);
    expect(await cluster.until(() => answer() === null && victim.cluster.isReady, 10_000)).toBe(true);
    expect(victim.cluster.metadata.queue('/', 'another')).toBeDefined();
    await publish(cluster, victim, queue, 10);
  });
});

describe('a replica that is built anew', () => {
  test('catches up, has the same state, and its sessions see nothing twice', async () => {
    const cluster = await started(74);
    const queue = await declareQueue(cluster, 1, 'q');
    const [holder] = followersOf(cluster, queue.shard);
    const leases = consume(holder!, queue, 7);
    await publish(cluster, cluster.node(2), queue, 30);
    expect(await cluster.until(() => leases().length === 30, 2_000)).toBe(true);
    for (const lease of leases().slice(0, 10))
      holder!.cluster.pipe(queue.shard).settle(SettleOperation.accept, 0, 7, lease.leaseOrdinal, 1);
    await cluster.clock.run(100);
    const { victim, leader } = await halted(cluster, queue);
    expect(victim).toBe(holder);
    await publish(cluster, leader, queue, 30);
    const answer = rebuild(victim, queue.shard);
    expect(await cluster.until(() => answer() !== undefined && isWell(victim, queue.shard), 10_000)).toBe(true);
    expect(answer()).toBeNull();
    await publish(cluster, victim, queue, 10);
    await cluster.clock.run(500);
    const hashes = cluster.nodes.map((row) => machineOf(row, queue.shard).stateHash());
    expect(new Set(hashes).size).toBe(1);
    machineOf(victim, queue.shard).validate();
    const ordinals = leases().map(({ leaseOrdinal }) => leaseOrdinal);
    expect(ordinals).toEqual(Array.from({ length: 71 }, (_, i) => i + 1));
    const bodies: number[] = [];
    for (const lease of leases().slice(61)) bodies.push(Number((await readMessage(cluster, victim, lease)).body));
    expect(bodies).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    // And again: a replica may be built anew as often as one likes, also a healthy one.
    const second = rebuild(victim, queue.shard);
    expect(await cluster.until(() => second() !== undefined && isWell(victim, queue.shard), 10_000)).toBe(true);
    await cluster.clock.run(500);
    expect(leases()).toHaveLength(71);
    expect(machineOf(victim, queue.shard).stateHash()).toBe(machineOf(leader, queue.shard).stateHash());
  });

  test('catches up by a snapshot where its leader has no whole log any more', async () => {
    const sizes = { fileBytesMax: 4096, cacheBytesMax: 2048, keptBytesMax: 0, pressureBytes: 16_384 };
    const log = { ...defaultLimits.log, ...sizes };
    const pipe = { ...defaultLimits.pipe, batchBytesMax: 64, batchesInFlightMax: 100 };
    const cluster = await started(75, { snapshotEveryEntries: 20, log, pipe });
    const queue = await declareQueue(cluster, 1, 'q');
    for (let i = 0; i < 10; i++) await publish(cluster, cluster.node(2), queue, 20);
    const { victim, leader } = await halted(cluster, queue);
    await cluster.clock.run(3_000);
    const answer = rebuild(victim, queue.shard);
    expect(await cluster.until(() => answer() === null && isWell(victim, queue.shard), 10_000)).toBe(true);
    expect(groupOf(victim, queue.shard).snapshotIndex).toBeGreaterThan(0);
    await cluster.clock.run(500);
    expect(machineOf(victim, queue.shard).stateHash()).toBe(machineOf(leader, queue.shard).stateHash());
  });

  test('votes only when it has again all that it may have acknowledged, also when its process dies in between', async () => {
    const cluster = await started(76);
    const queue = await declareQueue(cluster, 1, 'q');
    await publish(cluster, cluster.node(1), queue, 50);
    const { victim, other, leader } = await halted(cluster, queue);
    const answer = rebuild(victim, queue.shard);
    cluster.kill(leader.node);
    expect(await cluster.until(() => answer() === null, 2_000)).toBe(true);
    // Two of three are alive, and one of them must not vote: nobody leads.
    const nobody = async () => {
      for (let i = 0; i < 40; i++) {
        await cluster.clock.run(100);
        expect(cluster.leaderOf(queue.shard)).toBeUndefined();
      }
    };
    await nobody();
    expect(groupOf(victim, queue.shard)).toMatchObject({ halted: null, repairing: true });
    cluster.crash(victim.node);
    await cluster.restart(victim.node);
    await nobody();
    expect(groupOf(victim, queue.shard).repairing).toBe(true);
    await cluster.restart(leader.node);
    expect(await cluster.until(() => isWell(victim, queue.shard), 10_000)).toBe(true);
    // Now it counts again.
    const led = cluster.leaderOf(queue.shard)!;
    const gone = led === victim ? other : led;
    expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.isReady), 10_000)).toBe(true);
    cluster.kill(gone.node);
    expect(await cluster.until(() => (cluster.leaderOf(queue.shard) ?? gone) !== gone, 5_000)).toBe(true);
    const leases = consume(victim, queue, 9);
    expect(await cluster.until(() => leases().length === 51, 5_000)).toBe(true);
    // Nor is it forgotten later that it was repaired.
    cluster.crash(victim.node);
    await cluster.restart(victim.node);
    expect(await cluster.until(() => cluster.leaderOf(queue.shard) !== undefined, 5_000)).toBe(true);
    expect(groupOf(victim, queue.shard).repairing).toBe(false);
  });

  test('is refused where it would lose the last log', async () => {
    const cluster = await started(77);
    const queue = await declareQueue(cluster, 1, 'q');
    const answerOf = async (row: MemoryNode, group: number) => {
      const answer = rebuild(row, group);
      await cluster.until(() => answer() !== undefined, 1_000);
      return answer();
    };
    const leader = cluster.leaderOf(queue.shard)!;
    expect(await answerOf(leader, queue.shard)).toContain('leads');
    expect(await answerOf(leader, 99)).toContain('no replica');
    const [left, ...gone] = followersOf(cluster, queue.shard);
    for (const row of [leader, ...gone]) cluster.kill(row.node);
    await cluster.clock.run(3_000);
    expect(await answerOf(left!, queue.shard)).toContain('no other node');
    expect(groupOf(left!, queue.shard).halted).toBeNull();
    const lonely = new MemoryCluster(1, 78);
    await lonely.start();
    const alone = rebuild(lonely.node(1), 1);
    await lonely.until(() => alone() !== undefined, 1_000);
    expect(alone()).toContain('leads');
  });
});
