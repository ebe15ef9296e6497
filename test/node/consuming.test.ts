// Consumers as the broker makes them: what a client may ask for, and what comes first.

import { describe, expect, test } from 'vitest';
import type { ConsumeRequest } from '../../node/amqp/backend.ts';
import { Broker } from '../../node/broker/broker.ts';
import { BrokerClient, createBroker } from '../support/broker-client.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';

const request: ConsumeRequest = { queue: 'q', tag: 't', noAck: false, exclusive: false, prefetch: 0, arguments: {} };

describe('consumers', () => {
  test('get nothing before they are answered, also when another node tells of their messages first', async () => {
    const cluster = new MemoryCluster(1, 60);
    await cluster.start();
    const broker = createBroker(cluster.node(1), cluster);
    const client = new BrokerClient(broker, cluster);
    await client.declare('q');
    client.publish('q', 'first');
    expect(await cluster.until(() => client.confirmed.length === 1, 5_000)).toBe(true);
    // As a feed does whose frame ends between the leases of an entry and the end of its batch.
    const { lease } = Broker.prototype;
    const turns: number[] = [];
    broker.lease = (...told) => {
      lease.apply(broker, told);
      broker.turnEnded();
      turns.push(client.delivered.length);
    };
    expect(await client.consume('q')).toBeGreaterThan(0);
    expect(await cluster.until(() => client.delivered.length === 1, 1_000)).toBe(true);
    expect([turns, client.bodies]).toEqual([[0], ['first']]);
  });

  test('without a limit get thousands at once, and nothing else has to happen for the last of them', async () => {
    const cluster = new MemoryCluster(1, 63);
    await cluster.start();
    const client = new BrokerClient(createBroker(cluster.node(1), cluster), cluster);
    await client.declare('q');
    const bodies = Array.from({ length: 6_000 }, (_, i) => `${i}`);
    for (const body of bodies) client.publish('q', body);
    expect(await cluster.until(() => client.confirmed.length === bodies.length, 5_000)).toBe(true);
    await client.consume('q');
    expect(await cluster.until(() => client.delivered.length === bodies.length, 100)).toBe(true);
    expect(client.bodies).toEqual(bodies);
  });

  test('may have any priority that fits; another ends no more than their channel', async () => {
    const cluster = new MemoryCluster(1, 61);
    await cluster.start();
    const client = new BrokerClient(createBroker(cluster.node(1), cluster), cluster);
    await client.declare('q');
    const ask = (priority: number) =>
      client.ask<{ readonly consumer: number }>((reply) =>
        client.channel.consume({ ...request, arguments: { 'x-priority': priority } }, reply),
      );
    for (const priority of [2 ** 31, -1e12, 0.5, Number.POSITIVE_INFINITY, Number.NaN])
      await expect(ask(priority)).rejects.toMatchObject({ code: 'precondition-failed' });
    for (const priority of [2 ** 31 - 1, -(2 ** 31)]) expect((await ask(priority)).consumer).toBeGreaterThan(0);
  });

  test('keep a queue that expires alive, and so does whoever declares it again or looks for it', async () => {
    const cluster = new MemoryCluster(1, 62);
    await cluster.start();
    const client = new BrokerClient(createBroker(cluster.node(1), cluster), cluster);
    const expiring = { durable: true, exclusive: false, autoDelete: false, arguments: { 'x-expires': 1000 } };
    const declare = (name: string) => client.ask((reply) => client.channel.declareQueue({ name, ...expiring }, reply));
    const look = (name: string) => client.ask((reply) => client.channel.checkQueue(name, reply));
    for (const name of ['declared', 'looked for', 'forgotten']) await declare(name);
    client.publish('declared', 'stays');
    for (let i = 0; i < 4; i++) {
      await cluster.clock.run(600);
      await declare('declared');
      await look('looked for');
    }
    await expect(look('forgotten')).rejects.toMatchObject({ code: 'not-found' });
    expect(await look('declared')).toMatchObject({ messages: 1, consumers: 0 });
    await cluster.clock.run(3000);
    for (const name of ['declared', 'looked for'])
      await expect(look(name)).rejects.toMatchObject({ code: 'not-found' });
  });
});
