// rabbitmq-client: a client that reconnects by itself, with publishers, consumers and request-reply of its own making.

import { Connection, ConsumerStatus } from 'rabbitmq-client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { uniqueName, until, useBrokers } from './brokers.ts';

const urls = useBrokers();
const quorum = { durable: true, arguments: { 'x-queue-type': 'quorum' } } as const;

let connections: Connection[] = [];

beforeAll(async () => {
  connections = urls().map((url) => new Connection(url));
  for (const connection of connections) {
    connection.on('error', () => {});
    await connection.onConnect(10_000);
  }
});

afterAll(async () => {
  await Promise.all(connections.map((connection) => connection.close()));
});

const at = (node: number) => connections[node % connections.length]!;

test('a publisher with confirms and a consumer with its own topology', async () => {
  const [exchange, queue] = [uniqueName('events'), uniqueName('events')];
  const got: unknown[] = [];
  const consumer = at(1).createConsumer(
    {
      queue,
      queueOptions: { queue, ...quorum },
      qos: { prefetchCount: 2 },
      exchanges: [{ exchange, type: 'topic', durable: true }],
      queueBindings: [{ queue, exchange, routingKey: 'users.*' }],
    },
    (message) => {
      got.push(message.body);
    },
  );
  await new Promise<void>((resolve) => consumer.on('ready', resolve));
  const publisher = at(0).createPublisher({ confirm: true, maxAttempts: 2 });
  await publisher.send({ exchange, routingKey: 'users.new', durable: true }, { id: 1, name: 'Ada' });
  await publisher.send({ exchange, routingKey: 'users.gone' }, 'plain text');
  await publisher.send({ exchange, routingKey: 'users.raw' }, Buffer.from([1, 2, 3]));
  await publisher.send({ exchange, routingKey: 'orders.new' }, 'not for us');
  await until(() => got.length === 3);
  expect(got).toEqual([{ id: 1, name: 'Ada' }, 'plain text', Buffer.from([1, 2, 3])]);
  await publisher.close();
  await consumer.close();
  await at(2).queueDelete({ queue });
  await at(2).exchangeDelete({ exchange });
});

test('a handler that fails drops or requeues as it says', async () => {
  const queue = uniqueName('statuses');
  await at(0).queueDeclare({ queue, ...quorum });
  const seen: string[] = [];
  const consumer = at(2).createConsumer(
    { queue, queueOptions: { passive: true }, qos: { prefetchCount: 1 }, concurrency: 1 },
    (message) => {
      seen.push(`${message.body}${message.redelivered ? ' again' : ''}`);
      if (message.body === 'drop') return ConsumerStatus.DROP;
      return message.redelivered ? ConsumerStatus.ACK : ConsumerStatus.REQUEUE;
    },
  );
  const publisher = at(1).createPublisher({ confirm: true });
  await publisher.send(queue, 'drop');
  await publisher.send(queue, 'retry');
  await until(() => seen.length === 3);
  expect(seen).toEqual(['drop', 'retry', 'retry again']);
  await consumer.close();
  await publisher.close();
  expect((await at(0).queueDelete({ queue })).messageCount).toBe(0);
});

test('a returned message, headers and properties', async () => {
  const returned: unknown[] = [];
  const publisher = at(1).createPublisher({ confirm: true });
  publisher.on('basic.return', (message) => returned.push(message.body));
  await publisher.send({ routingKey: 'no-such-queue', mandatory: true }, 'come back');
  await until(() => returned.length === 1);
  expect(returned).toEqual(['come back']);
  await publisher.close();
  const queue = uniqueName('properties');
  await at(0).queueDeclare({ queue, ...quorum });
  const properties = {
    contentType: 'text/x-special',
    correlationId: 'c',
    messageId: 'm',
    type: 't',
    appId: 'a',
    priority: 3,
    timestamp: 1_763_800_000,
    headers: { deep: { list: [1, 'x', true, null] }, big: 2 ** 40, text: 'ü' },
  };
  const sender = at(2).createPublisher({ confirm: true });
  await sender.send({ routingKey: queue, durable: true, ...properties }, Buffer.from('body'));
  await sender.close();
  const message = await at(1).basicGet({ queue, noAck: true });
  expect(message).toMatchObject({ ...properties, durable: true, redelivered: false, messageCount: 0 });
  expect(await at(1).basicGet({ queue })).toBeUndefined();
  await at(0).queueDelete({ queue });
});

test('request and reply through a server at another node', async () => {
  const queue = uniqueName('requests');
  const server = at(0).createConsumer({ queue, queueOptions: { queue, ...quorum } }, async (request, reply) => {
    await reply({ doubled: (request.body as { value: number }).value * 2 });
  });
  await new Promise<void>((resolve) => server.on('ready', resolve));
  // A queue of its own for replies: the default is a feature of another protocol extension.
  const replies = await at(1).acquire();
  const { queue: replyTo } = await replies.queueDeclare({ exclusive: true });
  const answers: unknown[] = [];
  await replies.basicConsume({ queue: replyTo, noAck: true }, (message) => {
    answers.push([message.correlationId, message.body]);
  });
  for (const value of [1, 2, 3]) {
    await replies.basicPublish({ routingKey: queue, replyTo, correlationId: `r${value}` }, { value });
  }
  await until(() => answers.length === 3);
  expect(answers).toEqual([1, 2, 3].map((value) => [`r${value}`, { doubled: value * 2 }]));
  await replies.close();
  await server.close();
  await at(1).queueDelete({ queue });
});

test('a channel error rejects the call; other channels and the connection go on', async () => {
  const [broken, fine] = [await at(0).acquire(), await at(0).acquire()];
  await expect(broken.queueDeclare({ queue: 'no-such-queue', passive: true })).rejects.toMatchObject({
    code: 'NOT_FOUND',
  });
  expect(broken.active).toBe(false);
  await fine.exchangeDeclare({ exchange: 'amq.topic', passive: true });
  expect(at(0).ready).toBe(true);
  await fine.close();
});
