// Exclusive and non-durable queues: they live on one node without a majority's disks, are used from all, and are gone with their incarnation.

import { afterEach, describe, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import { isVolatileGroup } from '../../cluster/machine/groups.ts';
import { BrokerClient, createBroker, textOf } from '../support/broker-client.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';

describe('volatile groups', () => {
  let cluster: MemoryCluster;

  const started = async (seed: number, limits = {}) => {
    cluster = new MemoryCluster(3, seed, limits);
    await cluster.start();
  };
  const connect = (node: number, consumerWindow?: number) =>
    new BrokerClient(createBroker(cluster.node(node), cluster, consumerWindow), cluster);
  const queueAt = (node: number, name: string) => cluster.node(node).cluster.metadata.queue('/', name);

  afterEach(() => {
    for (const row of cluster.nodes) expect(row.fatal).toBeNull();
  });

  test('an exclusive queue on one node is filled from another, and consumed where it is, without a disk in between', async () => {
    await started(1);
    const [owner, other] = [connect(1), connect(2)];
    await owner.declare('mine', { exclusive: true });
    expect(isVolatileGroup(queueAt(2, 'mine')!.shard)).toBe(true);
    await owner.consume('mine');
    cluster.node(1).disk.stalled = true;
    for (let i = 0; i < 50; i++) other.publish('mine', `${i}`);
    expect(await cluster.until(() => other.confirmed.length === 50 && owner.delivered.length === 50, 1_000)).toBe(true);
    cluster.node(1).disk.stalled = false;
    expect(owner.bodies).toEqual(Array.from({ length: 50 }, (_, i) => `${i}`));
    await expect(other.state('mine')).rejects.toThrow(/exclusive/);
  });

  test('a non-durable queue is declared, filled, looked at, read and consumed through any node', async () => {
    await started(2);
    const clients = [connect(1), connect(2), connect(3)];
    const [first, second, third] = clients as [BrokerClient, BrokerClient, BrokerClient];
    await second.declare('transient', { durable: false });
    for (const client of clients) client.publish('transient', 'm');
    expect(await cluster.until(() => clients.every(({ confirmed }) => confirmed.length === 1), 2_000)).toBe(true);
    for (const client of clients) expect((await client.state('transient')).messages).toBe(3);
    expect(textOf((await third.get('transient'))!.message)).toBe('m');
    await first.consume('transient');
    expect(await cluster.until(() => first.delivered.length === 2, 2_000)).toBe(true);
    first.acceptAll();
    await cluster.clock.run(100);
    expect((await third.state('transient')).messages).toBe(0);
    first.publish('transient', 'last');
    expect(await cluster.until(() => first.bodies.includes('last'), 2_000)).toBe(true);
  });

  test('requests and replies: each side has an exclusive queue of its own on another node', async () => {
    await started(3);
    const [asking, answering] = [connect(1), connect(3)];
    await asking.declare('replies', { exclusive: true });
    await answering.declare('requests', { durable: false });
    await asking.consume('replies');
    await answering.consume('requests');
    for (let i = 0; i < 20; i++) {
      asking.publish('requests', `${i}`);
      expect(await cluster.until(() => answering.delivered.length === i + 1, 1_000)).toBe(true);
      answering.publish('replies', `re: ${answering.bodies[i]}`);
      expect(await cluster.until(() => asking.delivered.length === i + 1, 1_000)).toBe(true);
    }
    expect(asking.bodies.at(-1)).toBe('re: 19');
  });

  test('a node that starts again has lost them: gone from the metadata, publishes unroutable, consumers cancelled', async () => {
    await started(4);
    const [owner, publisher, consumer] = [connect(1), connect(2), connect(3)];
    await owner.declare('transient', { durable: false });
    await owner.declare('kept');
    publisher.publish('transient', 'lost');
    const number = await consumer.consume('transient');
    expect(await cluster.until(() => consumer.delivered.length === 1, 2_000)).toBe(true);
    cluster.kill(1);
    const underWay = publisher.publish('transient', 'fate unknown');
    await cluster.clock.run(100);
    await cluster.restart(1);
    expect(await cluster.until(() => cluster.node(1).cluster.isReady, 10_000)).toBe(true);
    const isGone = () => [1, 2, 3].every((node) => queueAt(node, 'transient') === undefined);
    expect(await cluster.until(isGone, 5_000)).toBe(true);
    expect(await cluster.until(() => consumer.cancelled.includes(number), 2_000)).toBe(true);
    expect(await cluster.until(() => publisher.nacked.includes(underWay.tag), 2_000)).toBe(true);
    expect(publisher.publish('transient', 'nobody').answer).toBe('unroutable');
    consumer.acceptAll();
    expect(queueAt(2, 'kept')).toBeDefined();
    await connect(1).declare('transient', { durable: false });
    await cluster.clock.run(100);
    expect(publisher.publish('transient', 'again').answer).toBe('routed');
    expect(await cluster.until(() => publisher.confirmed.length === 2, 2_000)).toBe(true);
  });

  test('a node that was declared gone begins with empty ones: its queues are gone, its new ones work', async () => {
    await started(5);
    const [owner, publisher] = [connect(1), connect(2)];
    await owner.declare('mine', { exclusive: true });
    for (const other of ['n2', 'n3']) cluster.network.partition('n1', other, 'drop');
    const nobody = publisher.publish('mine', 'fate unknown');
    expect(await cluster.until(() => queueAt(2, 'mine') === undefined, 20_000)).toBe(true);
    expect(await cluster.until(() => publisher.nacked.includes(nobody.tag), 2_000)).toBe(true);
    cluster.network.heal();
    expect(await cluster.until(() => owner.shutdowns === 1, 20_000)).toBe(true);
    expect(await cluster.until(() => cluster.node(1).cluster.isReady, 20_000)).toBe(true);
    const again = connect(1);
    await again.declare('mine', { exclusive: true });
    await again.consume('mine');
    publisher.publish('mine', 'hello');
    expect(await cluster.until(() => again.bodies.includes('hello'), 5_000)).toBe(true);
  });

  test('a backlog larger than memory is on disk, and what was consumed leaves it', async () => {
    const log = {
      ...defaultLimits.log,
      fileBytesMax: 1 << 16,
      cacheBytesMax: 4096,
      keptBytesMax: 0,
      pressureBytes: 1 << 20,
    };
    await started(6, { log });
    const [owner, consumer] = [connect(1), connect(2, 20)];
    await owner.declare('transient', { durable: false });
    for (let i = 0; i < 400; i++) {
      owner.publish('transient', `${i}`.padEnd(1_000));
      if (i % 20 === 0) await cluster.clock.run(5);
    }
    expect(await cluster.until(() => owner.confirmed.length === 400, 5_000)).toBe(true);
    await consumer.consume('transient', { noAck: true });
    expect(await cluster.until(() => consumer.delivered.length === 400, 10_000)).toBe(true);
    expect(consumer.bodies.map((body) => body.trim())).toEqual(Array.from({ length: 400 }, (_, i) => `${i}`));
    await cluster.clock.run(6_000);
    expect(cluster.node(1).cluster.status().log.bytes).toBeLessThan(200_000);
  });
});
