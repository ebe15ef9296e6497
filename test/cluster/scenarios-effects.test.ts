// Scenarios about who may still act, and about what goes on without whoever began it: incarnations that ended (A3), metadata and shards out of
// step (A5), deletions half-way when a leader dies (A6), auto-delete queues that are not local (A9).

import { describe, expect, test } from 'vitest';
import { type ConfirmTarget, defaultLimits, RemoveFlag, ResultCode, SettleOperation } from '../../cluster/index.ts';
import { isVolatileGroup } from '../../cluster/machine/groups.ts';
import type { MetadataCommand, QueueRecord } from '../../cluster/machine/metadata-types.ts';
import { groupOf, machineOf } from '../support/machines.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';
import { consume, declareQueue, key, Publisher, properties, readMessage } from '../support/messages.ts';

const started = async (seed: number, limits = {}) => {
  const cluster = new MemoryCluster(3, seed, { shards: 3, ...limits });
  await cluster.start();
  await cluster.clock.run(500);
  return cluster;
};

/** Hears what became of mandatory messages. */
class Mandatory implements ConfirmTarget {
  readonly told: string[] = [];
  confirmed(first: number, last: number, ok: boolean) {
    for (let tag = first; tag <= last; tag++) this.told.push(`${ok ? 'ok' : 'no'} ${tag}`);
  }
  unroutable(tag: number) {
    this.told.push(`returned ${tag}`);
  }
  publish(row: MemoryNode, { shard, uid }: Pick<QueueRecord, 'shard' | 'uid'>, tag: number) {
    const body = Buffer.from(String(tag));
    row.cluster.pipe(shard).publish(row, [uid], 2, 0, 0xffff_ffff, key, properties, [body], body.length, this, tag);
  }
}

/** Asks for one change of the metadata, and does not wait for the answer. */
function ask({ cluster }: MemoryNode, command: MetadataCommand): () => number | null | undefined {
  let code: number | null | undefined;
  cluster.changeMetadata(command, (result) => {
    code = result?.code ?? null;
  });
  return () => code;
}

const declaration = (row: MemoryNode, name: string, more: { autoDelete?: boolean } = {}): MetadataCommand => ({
  kind: 'declareQueue',
  vhost: '/',
  name,
  durable: true,
  autoDelete: false,
  exclusive: null,
  arguments: {},
  home: { node: row.node, incarnation: row.cluster.incarnation },
  ...more,
});

const isKnownTo = (row: MemoryNode, uid: number) => row.cluster.metadata.queueByUid(uid) !== undefined;
const living = (cluster: MemoryCluster) => cluster.nodes.filter(({ alive }) => alive);

describe('A3: an incarnation that has ended', () => {
  test('settles nothing that went to somebody else, however late its acknowledgements come', async () => {
    const cluster = await started(210);
    const queue = await declareQueue(cluster, 1, 'q');
    const zombie = cluster.nodes.find((row) => row !== cluster.leaderOf(queue.shard))!;
    const other = cluster.nodes.find((row) => row !== zombie)!;
    const publisher = new Publisher();
    for (let i = 0; i < 5; i++) publisher.publish(other, queue);
    const first = consume(zombie, queue, 7);
    expect(await cluster.until(() => first().length === 5, 2_000)).toBe(true);
    cluster.pause(zombie.node);
    const second = consume(other, queue, 7);
    expect(await cluster.until(() => second().length === 5, 10_000)).toBe(true);
    expect(second().every(({ redelivered }) => redelivered)).toBe(true);
    // It wakes, and all of it is as it was: its sessions acknowledge before it has heard anything.
    cluster.resume(zombie.node);
    for (let turn = 0; turn < 20 && zombie.feed.fencedCount === 0; turn++) {
      zombie.cluster.pipe(queue.shard).settle(SettleOperation.accept, 0, 7, 1, 5);
      await cluster.clock.run(1);
    }
    expect(await cluster.until(() => zombie.feed.fencedCount === 1, 5_000)).toBe(true);
    expect(await cluster.until(() => zombie.cluster.isReady, 10_000)).toBe(true);
    expect(statusOf(other, queue)).toMatchObject({ ready: 0, unsettled: 5 });
    other.cluster.pipe(queue.shard).settle(SettleOperation.accept, 0, 7, 1, 5);
    expect(await cluster.until(() => statusOf(other, queue)!.unsettled === 0, 2_000)).toBe(true);
  });

  test('by a quick restart leaves no lease behind, in shards too that its node never speaks to again', async () => {
    const cluster = await started(211);
    const queues = [];
    for (const node of [1, 2, 3]) queues.push(await declareQueue(cluster, node, `q${node}`));
    expect(new Set(queues.map(({ shard }) => shard)).size).toBe(3);
    const publisher = new Publisher();
    for (const queue of queues) for (let i = 0; i < 4; i++) publisher.publish(cluster.node(2), queue);
    for (const queue of queues) {
      const leases = consume(cluster.node(3), queue, queue.uid);
      expect(await cluster.until(() => leases().length === 4, 2_000)).toBe(true);
    }
    cluster.kill(3);
    await cluster.restart(3);
    const from = cluster.clock.now();
    for (const queue of queues) {
      const leases = consume(cluster.node(2), queue, queue.uid);
      // Long before anybody would have missed it.
      expect(await cluster.until(() => leases().length === 4, 2_000)).toBe(true);
      expect(leases().every(({ redelivered }) => redelivered)).toBe(true);
    }
    expect(cluster.clock.now() - from).toBeLessThan(defaultLimits.nodeDeadMilliseconds / 2);
    const ended = { node: 3, incarnation: cluster.node(3).cluster.incarnation - 1 };
    for (const { shard } of queues) expect(machineOf(cluster.node(2), shard).isFenced(ended)).toBe(true);
  });
});

describe('A5: metadata and shards out of step', () => {
  test('a publish waits at a leader that does not know its queue yet, and is never unroutable', async () => {
    const cluster = await started(212);
    const keeper = cluster.leaderOf(0)!;
    const [slow, quick] = cluster.nodes.filter((row) => row !== keeper) as [MemoryNode, MemoryNode];
    // A queue of a shard whose leader hears of the metadata later than everybody else.
    cluster.network.setDelay(`n${keeper.node}`, `n${slow.node}`, 150);
    await cluster.clock.run(500);
    const led = slow.cluster.ledShards();
    expect(led).toHaveLength(1);
    const names = ['a', 'b', 'c'];
    for (const name of names) void ask(quick, declaration(quick, name));
    const find = () =>
      names.map((name) => quick.cluster.metadata.queue('/', name)).find((queue) => queue?.shard === led[0]);
    expect(await cluster.until(() => find() !== undefined, 1_000)).toBe(true);
    const queue = find()!;
    expect(isKnownTo(slow, queue.uid)).toBe(false);
    const target = new Mandatory();
    for (let tag = 1; tag <= 3; tag++) target.publish(quick, queue, tag);
    await cluster.clock.run(20);
    expect(isKnownTo(slow, queue.uid)).toBe(false);
    expect(await cluster.until(() => target.told.length === 3, 2_000)).toBe(true);
    expect(target.told).toEqual(['ok 1', 'ok 2', 'ok 3']);
    expect(statusOf(slow, queue)).toMatchObject({ ready: 3 });
  });

  test('a publish to a queue that was deleted, and declared again, comes back: it never enters the new one', async () => {
    const cluster = await started(213);
    const [old, row] = [await declareQueue(cluster, 1, 'q'), cluster.node(1)];
    const shardLeader = cluster.leaderOf(old.shard)!;
    const stale = cluster.nodes.find((other) => other !== shardLeader && other !== cluster.leaderOf(0))!;
    // Its metadata stay as they are, and what it sends gets through.
    for (const { node } of cluster.nodes)
      if (node !== stale.node) cluster.network.cut(`n${node}`, `n${stale.node}`, 'drop');
    const through = stale === row ? cluster.node(2) : row;
    void ask(through, { kind: 'deleteQueue', uid: old.uid });
    const isGone = () => !isKnownTo(through, old.uid);
    expect(await cluster.until(isGone, 1_000)).toBe(true);
    void ask(through, declaration(through, 'q'));
    expect(await cluster.until(() => through.cluster.metadata.queue('/', 'q') !== undefined, 1_000)).toBe(true);
    const fresh = through.cluster.metadata.queue('/', 'q')!;
    expect(fresh.uid).not.toBe(old.uid);
    expect(isKnownTo(stale, old.uid)).toBe(true);
    const target = new Mandatory();
    target.publish(stale, old, 1);
    await cluster.clock.run(200);
    cluster.network.heal();
    expect(await cluster.until(() => target.told.length === 2, 5_000)).toBe(true);
    expect(target.told).toEqual(['returned 1', 'ok 1']);
    expect(await cluster.until(() => statusOf(through, fresh) !== undefined, 1_000)).toBe(true);
    expect(statusOf(through, fresh)).toMatchObject({ ready: 0 });
    target.publish(through, fresh, 2);
    expect(await cluster.until(() => target.told.includes('ok 2'), 2_000)).toBe(true);
    expect(statusOf(through, fresh)).toMatchObject({ ready: 1 });
  });
});

describe('A6: a deletion that its shard has decided', () => {
  /** How it is decided, through a node that is not the shard's leader. */
  const ways: Record<string, (cluster: MemoryCluster, row: MemoryNode) => Promise<QueueRecord>> = {
    'by the last consumer of an auto-delete queue': async (cluster, row) => {
      const code = ask(row, declaration(row, 'q', { autoDelete: true }));
      expect(await cluster.until(() => code() === ResultCode.ok, 5_000)).toBe(true);
      const queue = row.cluster.metadata.queue('/', 'q')!;
      consume(row, queue, 7);
      await cluster.clock.run(50);
      row.cluster.pipe(queue.shard).cancel(row, 7, 0, null);
      return queue;
    },
    'by x-expires': (cluster, row) => declareQueue(cluster, row.node, 'q', { 'x-expires': 400 }),
    'by a client that found it empty, and whose node dies too': async (cluster, row) => {
      const queue = await declareQueue(cluster, row.node, 'q');
      row.cluster.pipe(queue.shard).remove(row, queue.uid, RemoveFlag.ifEmpty, () => {});
      return queue;
    },
  };

  for (const [how, decide] of Object.entries(ways))
    test(`${how} is finished by the next leader when the one who should have died`, async () => {
      const cluster = await started(214, { shards: 1 });
      const row = cluster.nodes.find((one) => one !== cluster.leaderOf(1) && one !== cluster.leaderOf(0))!;
      const leader = cluster.leaderOf(1)!;
      // Whatever is asked of the metadata is lost with the leader of both.
      for (const one of cluster.nodes) {
        const pipe = one.cluster.pipe(0);
        const { metadata } = pipe;
        pipe.metadata = (json, reply) => {
          if (one.alive && leader.alive && json.includes('deleteQueue')) return;
          metadata.call(pipe, json, reply);
        };
      }
      const queue = await decide(cluster, row);
      const isSealed = () => machineOf(row, 1).pendingRemovals().includes(queue.uid);
      expect(await cluster.until(isSealed, 2_000)).toBe(true);
      expect(isKnownTo(row, queue.uid)).toBe(true);
      // From now on it takes nothing, though everybody still routes to it.
      const target = new Mandatory();
      target.publish(row, queue, 1);
      expect(await cluster.until(() => target.told.length === 2, 1_000)).toBe(true);
      expect(target.told).toEqual(['returned 1', 'ok 1']);
      await cluster.clock.run(1_000);
      expect(isKnownTo(row, queue.uid)).toBe(true);
      cluster.crash(leader.node);
      if (how.includes('dies too')) {
        cluster.kill(row.node);
        await cluster.restart(row.node);
      }
      const isGone = () => living(cluster).every((one) => !isKnownTo(one, queue.uid));
      expect(await cluster.until(isGone, 10_000)).toBe(true);
      const isForgotten = () => living(cluster).every((one) => machineOf(one, 1).pendingRemovals().length === 0);
      expect(await cluster.until(isForgotten, 2_000)).toBe(true);
    });

  test('on conditions is decided where the messages are: a message that came before is never deleted with it', async () => {
    for (let seed = 215; seed < 218; seed++) {
      const cluster = await started(seed, { shards: 1 });
      const queue = await declareQueue(cluster, 1, 'q');
      const [deleter, publisher] = [cluster.node(2), cluster.node(3)];
      const target = new Mandatory();
      let code: number | undefined;
      const steps = [
        () => target.publish(publisher, queue, 1),
        () =>
          deleter.cluster.pipe(queue.shard).remove(deleter, queue.uid, RemoveFlag.ifEmpty, (result) => {
            code = result?.code;
          }),
      ];
      if (seed % 2 === 0) steps.reverse();
      for (const step of steps) step();
      expect(await cluster.until(() => code !== undefined && target.told.length > 0, 2_000)).toBe(true);
      const survived = code === ResultCode.notEmpty;
      expect(target.told, `seed ${seed}`).toEqual(survived ? ['ok 1'] : ['returned 1', 'ok 1']);
      if (survived) expect(statusOf(publisher, queue), `seed ${seed}`).toMatchObject({ ready: 1 });
    }
  });
});

describe('A9: a durable auto-delete queue', () => {
  test('is no local one: what was confirmed in it survives a power loss of all nodes', async () => {
    const cluster = await started(218);
    const row = cluster.node(1);
    const code = ask(row, declaration(row, 'q', { autoDelete: true }));
    expect(await cluster.until(() => code() === ResultCode.ok, 5_000)).toBe(true);
    const queue = row.cluster.metadata.queue('/', 'q')!;
    expect(isVolatileGroup(queue.shard)).toBe(false);
    const publisher = new Publisher();
    for (let i = 0; i < 20; i++) publisher.publish(row, queue);
    expect(await cluster.until(() => publisher.confirmedTags.size === 20, 2_000)).toBe(true);
    for (const { node } of cluster.nodes) cluster.crash(node);
    for (const { node } of cluster.nodes) await cluster.restart(node);
    expect(await cluster.until(() => cluster.nodes.every(({ cluster: one }) => one.isReady), 10_000)).toBe(true);
    const leases = consume(cluster.node(2), queue, 7);
    expect(await cluster.until(() => leases().length === 20, 5_000)).toBe(true);
    const bodies: number[] = [];
    for (const lease of leases()) bodies.push(Number((await readMessage(cluster, cluster.node(2), lease)).body));
    expect(bodies).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
    expect(groupOf(cluster.node(2), queue.shard).halted).toBeNull();
  });
});
