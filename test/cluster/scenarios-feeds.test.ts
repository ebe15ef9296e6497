// Scenarios about what sessions hear: results that their own replica skipped or another node was to tell (A1), the order of deliveries and
// replies while messages are read slowly (B7), and messages that were handed out and never shown to anybody (B10).

import { describe, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import { replicasOf } from '../../cluster/machine/groups.ts';
import type { Got, Outcome } from '../../node/amqp/backend.ts';
import { BrokerClient, createBroker, textOf } from '../support/broker-client.ts';
import { followersOf, groupOf } from '../support/machines.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';

const smallLog = {
  ...defaultLimits.log,
  fileBytesMax: 4096,
  cacheBytesMax: 2048,
  keptBytesMax: 0,
  pressureBytes: 16_384,
};

async function started(count: number, seed: number, limits = {}, consumerWindow = 1000) {
  const cluster = new MemoryCluster(count, seed, { shards: 1, ...limits });
  await cluster.start();
  await cluster.clock.run(500);
  const clients = cluster.nodes.map((row) => new BrokerClient(createBroker(row, cluster, consumerWindow), cluster));
  return { cluster, client: (node: number) => clients[node - 1]! };
}

/** Keeps the outcome of one operation until it is there. */
function keep<T>(start: (reply: (outcome: Outcome<T>) => void) => void): { value: Outcome<T> | undefined } {
  const kept: { value: Outcome<T> | undefined } = { value: undefined };
  start((outcome) => {
    kept.value = outcome;
  });
  return kept;
}

/** What this node sends gets through; it hears nothing. */
function deafen(cluster: MemoryCluster, node: number): void {
  for (const other of cluster.nodes) if (other.node !== node) cluster.network.cut(`n${other.node}`, `n${node}`, 'drop');
}

const bodyOf = (got: { value: Outcome<Got | null> | undefined }): string | null =>
  got.value?.ok && got.value.value !== null ? textOf(got.value.value.message) : null;

/** Queues with what is needed for an answer of every kind. */
async function furnish(cluster: MemoryCluster, through: BrokerClient, listener: BrokerClient) {
  for (const name of ['q', 'purged', 'full', 'sealed', 'gone']) await through.declare(name);
  const bodies: Record<string, string[]> = { q: ['first', 'second'], purged: ['a', 'b', 'c'], full: ['x'] };
  for (const [name, texts] of Object.entries(bodies)) for (const text of texts) through.publish(name, text);
  expect(await cluster.until(() => through.confirmed.length === 6, 2_000)).toBe(true);
  return listener.consume('gone');
}

/** One operation of every kind whose answer is more than "ok", from a client that hears nothing for now. */
function askAll({ channel }: BrokerClient) {
  return {
    got: keep<Got | null>((reply) => channel.get('q', false, reply)),
    none: keep<Got | null>((reply) => channel.get('sealed', false, reply)),
    purged: keep<{ readonly messages: number }>((reply) => channel.purgeQueue('purged', reply)),
    kept: keep<{ readonly messages: number }>((reply) => channel.deleteQueue('full', false, true, reply)),
  };
}

function expectAnswers(asked: ReturnType<typeof askAll>): void {
  expect(bodyOf(asked.got)).toBe('first');
  expect(asked.none.value).toEqual({ ok: true, value: null });
  expect(asked.purged.value).toEqual({ ok: true, value: { messages: 3 } });
  expect(asked.kept.value).toMatchObject({ ok: false, error: { code: 'precondition-failed' } });
}

describe('A1: results', () => {
  test('that its own replica skipped by a snapshot reach a session: gets, counts, refusals, returns, cancels', async () => {
    const { cluster, client } = await started(3, 220, {
      snapshotEveryEntries: 40,
      inflightMessagesMax: 8,
      log: smallLog,
    });
    const [awayRow, otherRow] = followersOf(cluster, 1) as [MemoryNode, MemoryNode];
    const [away, other] = [client(awayRow.node), client(otherRow.node)];
    const consumer = await furnish(cluster, other, away);
    const heard = groupOf(awayRow, 1).applied;
    deafen(cluster, awayRow.node);
    // As much as its leader sends without an answer; what follows it will get by a snapshot.
    for (let i = 0; i < 20; i++) {
      other.publish('full', `${i}`);
      await cluster.clock.run(4);
    }
    const asked = askAll(away);
    await cluster.clock.run(10);
    // Sealed, and deleted as far as the others know.
    for (const name of ['sealed', 'gone']) void keep((reply) => other.channel.deleteQueue(name, false, false, reply));
    await cluster.clock.run(10);
    away.publish('q', 'third');
    away.publish('sealed', 'nobody takes it', true);
    await cluster.clock.run(10);
    const answered = groupOf(otherRow, 1).applied;
    for (let i = 0; i < 150; i++) {
      other.publish('full', `${i}`);
      await cluster.clock.run(4);
    }
    expect(groupOf(awayRow, 1).applied).toBe(heard);
    expect(asked.got.value).toBeUndefined();
    cluster.network.heal();
    expect(await cluster.until(() => bodyOf(asked.got) !== null && away.confirmed.length === 2, 5_000)).toBe(true);
    expect(groupOf(awayRow, 1).snapshotIndex).toBeGreaterThanOrEqual(answered);
    expectAnswers(asked);
    expect(away.returned).toEqual(['nobody takes it']);
    expect(await cluster.until(() => away.cancelled.length > 0, 1_000)).toBe(true);
    expect([away.cancelled, away.nacked, away.shutdowns]).toEqual([[consumer], [], 0]);
    // Held by the one who got it, and by nobody else.
    expect(statusOf(otherRow, { shard: 1, uid: cluster.node(1).cluster.metadata.queue('/', 'q')!.uid })).toMatchObject({
      ready: 2,
      unsettled: 1,
    });
  });

  test('that the node which was to tell them took to its grave reach a session through another node', async () => {
    const { cluster, client } = await started(5, 221, { replication: 3 });
    const replicas = replicasOf(1, [1, 2, 3, 4, 5], 3);
    const leader = cluster.leaderOf(1)!;
    const awayRow = cluster.nodes.find(({ node }) => !replicas.includes(node) && node !== cluster.leaderOf(0)!.node)!;
    const otherRow = cluster.nodes.find((row) => replicas.includes(row.node) && row !== leader)!;
    const [away, other] = [client(awayRow.node), client(otherRow.node)];
    const consumer = await furnish(cluster, other, away);
    deafen(cluster, awayRow.node);
    const asked = askAll(away);
    await cluster.clock.run(10);
    for (const name of ['sealed', 'gone']) void keep((reply) => other.channel.deleteQueue(name, false, false, reply));
    await cluster.clock.run(10);
    away.publish('sealed', 'nobody takes it', true);
    await cluster.clock.run(10);
    expect([asked.got.value, away.confirmed]).toEqual([undefined, []]);
    const uid = cluster.node(1).cluster.metadata.queue('/', 'q')!.uid;
    expect(statusOf(otherRow, { shard: 1, uid })).toMatchObject({ ready: 1, unsettled: 1 });
    cluster.crash(leader.node);
    cluster.network.heal();
    expect(await cluster.until(() => bodyOf(asked.got) !== null && away.confirmed.length === 1, 5_000)).toBe(true);
    expectAnswers(asked);
    expect(away.returned).toEqual(['nobody takes it']);
    expect(await cluster.until(() => away.cancelled.length > 0, 1_000)).toBe(true);
    expect([away.cancelled, away.nacked, away.shutdowns]).toEqual([[consumer], [], 0]);
    expect(statusOf(otherRow, { shard: 1, uid })).toMatchObject({ ready: 1, unsettled: 1 });
  });
});

/** Reads of messages that are not in memory take a while, each another one. */
function slowReads(cluster: MemoryCluster, { cluster: node }: MemoryNode, millisecondsMax: number): void {
  const { readMessages } = node;
  node.payload = () => null;
  node.readMessages = (shard, entry, ordinals, isWanted, done) =>
    readMessages.call(node, shard, entry, ordinals, isWanted, (views) => {
      cluster.clock.after(cluster.random.integer(millisecondsMax), () => done(views));
    });
}

describe('B7: slow reads', () => {
  test('change no order: of deliveries to a consumer, and of a cancel behind them', async () => {
    const { cluster, client } = await started(3, 222);
    const row = cluster.node(2);
    slowReads(cluster, row, 20);
    const [publisher, reader] = [client(1), client(2)];
    await publisher.declare('q');
    for (let i = 0; i < 60; i++) {
      publisher.publish('q', `${i}`);
      if (i % 3 === 0) await cluster.clock.run(2);
    }
    expect(await cluster.until(() => publisher.confirmed.length === 60, 2_000)).toBe(true);
    const consumer = await reader.consume('q');
    expect(await cluster.until(() => reader.delivered.length >= 30, 5_000)).toBe(true);
    const cancelled = keep<void>((reply) => reader.channel.cancel(consumer, reply));
    expect(await cluster.until(() => cancelled.value !== undefined, 2_000)).toBe(true);
    const count = reader.delivered.length;
    expect(count).toBeLessThan(60);
    // Reads that were under way end, and nobody hears of them.
    await cluster.clock.run(500);
    expect(reader.bodies).toEqual(Array.from({ length: count }, (_, i) => `${i}`));
    // What was never shown went back as if it had never left.
    await publisher.consume('q');
    expect(await cluster.until(() => publisher.delivered.length === 60 - count, 5_000)).toBe(true);
    expect(publisher.bodies).toEqual(Array.from({ length: 60 - count }, (_, i) => `${count + i}`));
    expect(publisher.delivered.some(({ redelivered, deliveryCount }) => redelivered || deliveryCount > 0)).toBe(false);
  });

  test('of leases that were void before they came are dropped: nothing of a queue that is gone, nothing twice', async () => {
    const { cluster, client } = await started(3, 223);
    slowReads(cluster, cluster.node(2), 30);
    const [publisher, reader] = [client(1), client(2)];
    await publisher.declare('q');
    await publisher.declare('other');
    for (let i = 0; i < 20; i++) publisher.publish('q', `${i}`);
    for (let i = 0; i < 20; i++) publisher.publish('other', `other ${i}`);
    expect(await cluster.until(() => publisher.confirmed.length === 40, 2_000)).toBe(true);
    const consumer = await reader.consume('q');
    await reader.consume('other');
    await cluster.clock.run(1);
    void keep((reply) => publisher.channel.deleteQueue('q', false, false, reply));
    expect(await cluster.until(() => reader.cancelled.includes(consumer), 2_000)).toBe(true);
    const heard = reader.delivered.length;
    expect(await cluster.until(() => reader.delivered.length >= 20, 5_000)).toBe(true);
    await cluster.clock.run(200);
    expect(reader.bodies.slice(heard).filter((body) => !body.startsWith('other'))).toEqual([]);
    const others = reader.bodies.filter((body) => body.startsWith('other'));
    expect(others).toEqual(Array.from({ length: 20 }, (_, i) => `other ${i}`));
  });

  test('hold no other channel up', async () => {
    const { cluster, client } = await started(3, 224);
    const row = cluster.node(2);
    const [publisher, slow] = [client(1), client(2)];
    await publisher.declare('q');
    await publisher.declare('quick');
    for (let i = 0; i < 10; i++) publisher.publish('q', `${i}`);
    expect(await cluster.until(() => publisher.confirmed.length === 10, 2_000)).toBe(true);
    const { readMessages, payload } = row.cluster;
    row.cluster.payload = () => null;
    row.cluster.readMessages = () => {};
    await slow.consume('q');
    await cluster.clock.run(100);
    expect(slow.delivered).toEqual([]);
    row.cluster.payload = payload;
    row.cluster.readMessages = readMessages;
    const quick = new BrokerClient(slow.connection.broker, cluster);
    await quick.consume('quick');
    publisher.publish('quick', 'now');
    expect(await cluster.until(() => quick.bodies.includes('now'), 10)).toBe(true);
  });
});

describe('B10: what was handed out and never shown', () => {
  test('counts as no delivery, whoever had it: a consumer without room, a cancelled one, a closed channel', async () => {
    const { cluster, client } = await started(3, 225, {}, 20);
    const [publisher, hoarder, last] = [client(1), client(2), client(3)];
    await publisher.declare('q');
    for (let i = 0; i < 30; i++) publisher.publish('q', `${i}`);
    expect(await cluster.until(() => publisher.confirmed.length === 30, 2_000)).toBe(true);
    hoarder.canDeliver = false;
    const queue = cluster.node(1).cluster.metadata.queue('/', 'q')!;
    const out = () => statusOf(cluster.node(1), queue)!.unsettled;
    const first = await hoarder.consume('q');
    // No more than its window, however much there is.
    expect(await cluster.until(() => out() === 20, 1_000)).toBe(true);
    await cluster.clock.run(500);
    expect(out()).toBe(20);
    await hoarder.ask<void>((reply) => hoarder.channel.cancel(first, reply));
    hoarder.canDeliver = true;
    hoarder.channel.deliveriesResumed();
    expect(await cluster.until(() => out() === 0, 1_000)).toBe(true);
    hoarder.canDeliver = false;
    await hoarder.consume('q', { prefetch: 5 });
    expect(await cluster.until(() => out() === 5, 1_000)).toBe(true);
    hoarder.close();
    expect(await cluster.until(() => out() === 0, 1_000)).toBe(true);
    await last.consume('q', { noAck: true });
    expect(await cluster.until(() => last.delivered.length === 30, 5_000)).toBe(true);
    expect(last.bodies).toEqual(Array.from({ length: 30 }, (_, i) => `${i}`));
    expect(last.delivered.some(({ redelivered, deliveryCount }) => redelivered || deliveryCount > 0)).toBe(false);
  });
});

describe('A12: a consumer that takes nothing', () => {
  for (const noAck of [true, false])
    test(`${noAck ? 'without' : 'with'} acknowledgements holds a window of messages, and others get the rest`, async () => {
      const { cluster, client } = await started(3, 226, {}, 20);
      const [publisher, stuck, other] = [client(1), client(2), client(3)];
      await publisher.declare('q');
      stuck.canDeliver = false;
      await stuck.consume('q', { noAck });
      for (let i = 0; i < 200; i++) publisher.publish('q', `${i}`);
      expect(await cluster.until(() => publisher.confirmed.length === 200, 2_000)).toBe(true);
      await cluster.clock.run(200);
      const queue = cluster.node(1).cluster.metadata.queue('/', 'q')!;
      expect(statusOf(cluster.node(1), queue)).toMatchObject({ ready: 180, unsettled: 20 });
      await other.consume('q', { noAck: true });
      expect(await cluster.until(() => other.delivered.length === 180, 2_000)).toBe(true);
      await cluster.clock.run(50);
      // It is settled when the socket has taken it, and not before.
      expect(statusOf(cluster.node(1), queue)).toMatchObject({ unsettled: 20 });
      stuck.canDeliver = true;
      stuck.channel.deliveriesResumed();
      const left = noAck ? 0 : 20;
      expect(await cluster.until(() => statusOf(cluster.node(1), queue)!.unsettled === left, 1_000)).toBe(true);
      expect([...stuck.bodies, ...other.bodies]).toEqual(Array.from({ length: 200 }, (_, i) => `${i}`));
    });
});
