// Replicas compare hashes of an earlier state: one that has diverged stops, before it does harm for long, and the others go on.

import { describe, expect, test } from 'vitest';
import { StateHashes, stateHashLag } from '../../cluster/group/state-hashes.ts';
import { BatchBuilder, OriginKind, readBatchHeader } from '../../cluster/machine/commands.ts';
import type { AppliedEntry } from '../../cluster/machine/machine.ts';
import { followersOf, groupOf, machineOf } from '../support/machines.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';
import { declareQueue, Publisher } from '../support/messages.ts';

/** Every publish is a batch, and an entry, of its own. */
const manyEntries = {
  batchBytesMax: 64,
  batchesInFlightMax: 4_000,
  windowBytes: 1 << 24,
  deadlineMilliseconds: 15_000,
  resendMilliseconds: 1_000,
  settleDelayMilliseconds: 0,
  partRestMillisecondsMax: 0,
};

const nothing = new BatchBuilder(64).seal({ kind: OriginKind.group, id: 1, incarnation: 1 }, 1, 0, 0);

describe('hashes of earlier states', () => {
  const state = (hash: number) => ({ stateHash: () => hash });

  test('an entry at a multiple of 64 carries the hash of the state 1,024 entries before it, if that is remembered', () => {
    const hashes = new StateHashes();
    for (let index = 1; index <= 3_000; index++) hashes.applied(index, state(index));
    expect(hashes.carriedBy(3_008)).toBe(3_008 - stateHashLag);
    expect(hashes.carriedBy(3_009)).toBe(0);
    expect(hashes.carriedBy(2_944 + 2 * stateHashLag)).toBe(0);
    expect(hashes.contradiction(3_008, 1_984)).toBeNull();
    expect(hashes.contradiction(3_008, 5)).toContain('entry 1984');
    expect(hashes.contradiction(3_008, 0)).toBeNull();
    expect(hashes.contradiction(640, 5)).toBeNull();
    hashes.clear();
    expect(hashes.carriedBy(3_008)).toBe(0);
    expect(hashes.contradiction(3_008, 5)).toBeNull();
  });

  test('a hash that happens to be 0 counts as one', () => {
    const hashes = new StateHashes();
    hashes.applied(64, state(0));
    expect(hashes.carriedBy(64 + stateHashLag)).toBe(1);
  });
});

describe('a replica that has diverged', () => {
  test('halts alone within some 1,100 entries, its node and the other replicas go on', async () => {
    const cluster = new MemoryCluster(3, 60, { shards: 2, pipe: manyEntries });
    await cluster.start();
    const queue = await declareQueue(cluster, 1, 'q');
    const { shard } = queue;
    const publisher = new Publisher();
    const through = cluster.leaderOf(shard)!;
    const [victim, other] = followersOf(cluster, shard);
    const machine = machineOf(victim!, shard);
    const apply = machine.apply.bind(machine);
    let from = 0;
    // One entry does not do there what it does elsewhere.
    machine.apply = (entry: AppliedEntry) => {
      const isFirst = from === 0 && readBatchHeader(entry.payload).kind === OriginKind.node;
      if (isFirst) from = entry.index;
      apply(isFirst ? { ...entry, payload: nothing } : entry);
    };
    for (let i = 0; i < 800; i++) publisher.publish(through, queue);
    expect(await cluster.until(() => publisher.confirmedTags.size === 800, 5_000)).toBe(true);
    expect(groupOf(victim!, shard).halted).toBeNull();
    for (let i = 0; i < 400; i++) publisher.publish(through, queue);
    expect(await cluster.until(() => groupOf(victim!, shard).halted !== null, 5_000)).toBe(true);
    expect(groupOf(victim!, shard).halted).toContain('differs from the leader');
    expect(groupOf(victim!, shard).applied - from).toBeLessThan(1_100);
    expect(await cluster.until(() => publisher.confirmedTags.size === 1_200, 5_000)).toBe(true);
    for (const row of [through, other!])
      expect(
        cluster
          .node(row.node)
          .cluster.status()
          .groups.every(({ halted }) => halted === null),
      ).toBe(true);
    const halted = victim!.cluster.status().groups.filter((group) => group.halted !== null);
    expect(halted.map(({ group }) => group)).toEqual([shard]);
    expect(victim!.fatal).toBeNull();
    // Its node still takes part in everything else, and its clients reach the shard by other replicas.
    expect(victim!.cluster.isReady).toBe(true);
    publisher.publish(victim!, queue);
    expect(await cluster.until(() => publisher.confirmedTags.size === 1_201, 5_000)).toBe(true);
  });
});
