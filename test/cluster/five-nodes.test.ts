// Five whole nodes, three replicas of each shard: whoever asks, and wherever the replicas are, clients see one broker. Nodes without a
// replica hear of it from another node, whatever becomes of that one.

import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import { replicasOf } from '../../cluster/machine/groups.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { BrokerClient, createBroker, textOf } from '../support/broker-client.ts';
import { groupOf, machineOf } from '../support/machines.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';

const nodes = [1, 2, 3, 4, 5];

describe('five nodes', () => {
  let cluster: MemoryCluster;
  let clients: BrokerClient[];

  const started = async (seed: number, limits = {}) => {
    cluster = new MemoryCluster(5, seed, { shards: 5, ...limits });
    await cluster.start();
    const brokers = cluster.nodes.map((row) => createBroker(row, cluster));
    clients = brokers.map((broker) => new BrokerClient(broker, cluster));
  };
  const client = (node: number) => clients[node - 1]!;
  const shardOf = (name: string) => cluster.node(1).cluster.metadata.queue('/', name)!.shard;
  const outsiders = (name: string) => nodes.filter((node) => !replicasOf(shardOf(name), nodes, 3).includes(node));
  const leaderOf = (name: string) => cluster.leaderOf(shardOf(name))!.node;

  beforeEach(() => {
    clients = [];
  });
  afterEach(() => {
    for (const row of cluster.nodes) expect(row.fatal).toBeNull();
  });

  test('a queue is declared, filled, looked at, read and consumed through any of them', async () => {
    await started(1);
    for (const node of nodes) await client(node).declare(`q${node}`);
    const names = nodes.map((node) => `q${node}`);
    for (const name of names) for (const node of nodes) client(node).publish(name, `${node}`);
    expect(await cluster.until(() => clients.every(({ confirmed }) => confirmed.length === 5), 5_000)).toBe(true);
    for (const name of names)
      for (const node of nodes) expect((await client(node).state(name)).messages, `${name} by ${node}`).toBe(5);
    const [first] = names;
    const seen: string[] = [];
    for (const node of nodes) seen.push(textOf((await client(node).get(first!))!.message));
    expect(seen.sort()).toEqual(['1', '2', '3', '4', '5']);
    expect(await client(outsiders(first!)[0]!).get(first!)).toBeNull();
    for (const [i, name] of names.slice(1).entries()) await client(((i + 3) % 5) + 1).consume(name);
    const delivered = () => clients.flatMap(({ bodies }) => bodies).length;
    expect(await cluster.until(() => delivered() === 20, 5_000)).toBe(true);
    for (const one of clients) one.acceptAll();
    // Every replica hears of it within a tick.
    await cluster.clock.run(100);
    for (const name of names) expect(await client(1).state(name), name).toMatchObject({ messages: 0 });
  });

  test.each([2, 3])(
    'whoever tells a publisher and a consumer dies: nothing lost, confirmed or delivered twice (seed %i)',
    async (seed) => {
      await started(seed);
      await client(1).declare('q');
      const [publisher, consumer] = outsiders('q').map(client) as [BrokerClient, BrokerClient];
      const number = await consumer.consume('q', { prefetch: 50 });
      const accept = () => {
        for (const { leaseOrdinal } of consumer.delivered.slice(accepted))
          consumer.channel.settle('accept', number, leaseOrdinal, 1);
        accepted = consumer.delivered.length;
      };
      let accepted = 0;
      for (let i = 0; i < 300; i++) {
        publisher.publish('q', `${i}`);
        await cluster.clock.run(1);
        accept();
        if (i === 100) cluster.crash(leaderOf('q'));
      }
      const isDone = () => {
        accept();
        return publisher.confirmed.length >= 300 && consumer.delivered.length >= 300;
      };
      expect(await cluster.until(isDone, 10_000)).toBe(true);
      expect([...publisher.confirmed].sort((a, b) => a - b)).toEqual(Array.from({ length: 300 }, (_, i) => i + 1));
      expect(consumer.bodies).toEqual(Array.from({ length: 300 }, (_, i) => `${i}`));
      const ordinals = consumer.delivered.map(({ leaseOrdinal }) => leaseOrdinal);
      expect(new Set(ordinals).size).toBe(300);
    },
  );

  test('a leader that is cut off from a node without a replica: another replica tells it, or a relay passes it on', async () => {
    await started(4);
    await client(1).declare('q');
    const outsider = outsiders('q')[0]!;
    await client(outsider).consume('q');
    client(outsider).publish('q', 'before');
    expect(await cluster.until(() => client(outsider).confirmed.length === 1, 2_000)).toBe(true);
    cluster.network.partition(`n${outsider}`, `n${leaderOf('q')}`, 'drop');
    for (let i = 0; i < 10; i++) client(outsider).publish('q', `${i}`);
    const isDone = () => client(outsider).confirmed.length === 11 && client(outsider).delivered.length === 11;
    expect(await cluster.until(isDone, 10_000)).toBe(true);
    expect(client(outsider).bodies).toEqual(['before', ...Array.from({ length: 10 }, (_, i) => `${i}`)]);
  });

  test('messages that are long out of memory, and large ones, come from another node, in order', async () => {
    const log = {
      ...defaultLimits.log,
      fileBytesMax: 1 << 16,
      cacheBytesMax: 2048,
      keptBytesMax: 0,
      pressureBytes: 1 << 20,
    };
    await started(5, { log });
    await client(1).declare('q');
    const [publisher, consumer] = outsiders('q').map(client) as [BrokerClient, BrokerClient];
    const large = Buffer.alloc(700_000, 'x').toString();
    for (let i = 0; i < 200; i++) {
      publisher.publish('q', i === 100 ? large : `${i}`);
      if (i % 10 === 0) await cluster.clock.run(5);
    }
    expect(await cluster.until(() => publisher.confirmed.length === 200, 10_000)).toBe(true);
    await consumer.consume('q');
    expect(await cluster.until(() => consumer.delivered.length === 200, 10_000)).toBe(true);
    expect(consumer.bodies.map((body) => (body === large ? '100' : body))).toEqual(
      Array.from({ length: 200 }, (_, i) => `${i}`),
    );
  });

  test('a channel that closes leaves no trace on what it never delivered', async () => {
    await started(6);
    await client(1).declare('q');
    const [first, second] = outsiders('q').map(client) as [BrokerClient, BrokerClient];
    first.canDeliver = false;
    await first.consume('q');
    for (let i = 0; i < 20; i++) second.publish('q', `${i}`);
    expect(await cluster.until(() => second.confirmed.length === 20, 2_000)).toBe(true);
    await cluster.clock.run(100);
    first.close();
    await cluster.clock.run(100);
    await second.consume('q');
    expect(await cluster.until(() => second.delivered.length === 20, 2_000)).toBe(true);
    expect(second.bodies).toEqual(Array.from({ length: 20 }, (_, i) => `${i}`));
    expect(second.delivered.some(({ redelivered, deliveryCount }) => redelivered || deliveryCount > 0)).toBe(false);
  });

  test('a node whose own replica stops goes on, told by another node; built anew, its own one tells it again', async () => {
    cluster = new MemoryCluster(3, 7, { shards: 1 });
    await cluster.start();
    clients = cluster.nodes.map((row) => new BrokerClient(createBroker(row, cluster), cluster));
    await client(1).declare('q');
    const shard = shardOf('q');
    const victim = nodes.slice(0, 3).find((node) => node !== leaderOf('q'))!;
    const row = cluster.node(victim);
    const number = await client(victim).consume('q', { prefetch: 20 });
    let accepted = 0;
    const publishAndAccept = async (from: number, to: number) => {
      for (let i = from; i < to; i++) {
        client(victim).publish('q', `${i}`);
        await cluster.clock.run(1);
        const { delivered } = client(victim);
        for (; accepted < delivered.length; accepted++)
          client(victim).channel.settle('accept', number, delivered[accepted]!.leaseOrdinal, 1);
      }
    };
    await publishAndAccept(0, 50);
    const machine = machineOf(row, shard);
    const { apply } = ShardMachine.prototype;
    machine.apply = () => {
      throw new Error('this machine is broken');
    };
    await publishAndAccept(50, 100);
    expect(groupOf(row, shard).halted).not.toBeNull();
    machine.apply = apply.bind(machine);
    await publishAndAccept(100, 150);
    expect(await cluster.until(() => client(victim).delivered.length > 100, 5_000)).toBe(true);
    let answer: string | null | undefined;
    void row.cluster.rebuild(shard).then((told) => {
      answer = told;
    });
    await publishAndAccept(150, 200);
    expect(await cluster.until(() => answer === null && groupOf(row, shard).halted === null, 5_000)).toBe(true);
    await publishAndAccept(200, 300);
    await cluster.until(() => client(victim).delivered.length >= 300, 5_000);
    expect(client(victim).bodies).toEqual(Array.from({ length: 300 }, (_, i) => `${i}`));
    expect(await cluster.until(() => client(victim).confirmed.length === 300, 5_000)).toBe(true);
    expect(client(victim).nacked).toEqual([]);
    expect(new Set(client(victim).confirmed).size).toBe(300);
  });

  test('a consumer whose own replica is sent a snapshot misses nothing and hears nothing twice', async () => {
    const log = {
      ...defaultLimits.log,
      fileBytesMax: 4096,
      cacheBytesMax: 2048,
      keptBytesMax: 0,
      pressureBytes: 16_384,
    };
    cluster = new MemoryCluster(3, 8, { shards: 1, snapshotEveryEntries: 40, log });
    await cluster.start();
    clients = cluster.nodes.map((row) => new BrokerClient(createBroker(row, cluster), cluster));
    await client(1).declare('q');
    const leader = leaderOf('q');
    const [away, publisher] = [1, 2, 3].filter((node) => node !== leader) as [number, number];
    await client(away).consume('q', { prefetch: 30 });
    for (let i = 0; i < 300; i++) {
      if (i === 50) for (const other of [leader, publisher]) cluster.network.partition(`n${away}`, `n${other}`, 'drop');
      client(publisher).publish('q', `${i}`);
      await cluster.clock.run(8);
    }
    cluster.network.heal();
    let accepted = 0;
    const isDone = () => {
      const { delivered, channel } = client(away);
      for (; accepted < delivered.length; accepted++)
        channel.settle('accept', delivered[accepted]!.consumer, delivered[accepted]!.leaseOrdinal, 1);
      return accepted === 300;
    };
    expect(await cluster.until(isDone, 10_000)).toBe(true);
    expect(groupOf(cluster.node(away), shardOf('q')).snapshotIndex).toBeGreaterThan(0);
    expect(client(away).bodies).toEqual(Array.from({ length: 300 }, (_, i) => `${i}`));
    expect(client(away).shutdowns).toBe(0);
  });
});
