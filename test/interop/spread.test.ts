// All three clients at once, publishers and consumers at every node, on the same queues.

import { AMQPClient } from '@cloudamqp/amqp-client';
import { connect } from 'amqplib';
import { Connection } from 'rabbitmq-client';
import { expect, test } from 'vitest';
import { uniqueName, until, useBrokers } from './brokers.ts';

const urls = useBrokers();
const messagesPerPublisher = 200;

/** Sends one text and resolves when it is confirmed. */
type Publish = (queue: string, text: string) => Promise<void>;
type Received = (text: string) => void;

interface Client {
  readonly name: string;
  publisher(url: string): Promise<{ publish: Publish; close: () => Promise<void> }>;
  consumer(url: string, queue: string, received: Received): Promise<{ close: () => Promise<void> }>;
}

const amqplib: Client = {
  name: 'amqplib',
  async publisher(url) {
    const connection = await connect(url);
    const channel = await connection.createConfirmChannel();
    const publish: Publish = (queue, text) =>
      new Promise((resolve, reject) => {
        const done = (error: Error | null) => (error ? reject(error) : resolve());
        channel.sendToQueue(queue, Buffer.from(text), { persistent: true }, done);
      });
    return { publish, close: () => connection.close() };
  },
  async consumer(url, queue, received) {
    const connection = await connect(url);
    const channel = await connection.createChannel();
    await channel.prefetch(20);
    await channel.consume(queue, (message) => {
      if (!message) return;
      received(message.content.toString());
      channel.ack(message);
    });
    return { close: () => connection.close() };
  },
};

const rabbitmqClient: Client = {
  name: 'rabbitmq-client',
  async publisher(url) {
    const connection = new Connection(url);
    const publisher = connection.createPublisher({ confirm: true });
    const close = async () => {
      await publisher.close();
      await connection.close();
    };
    return { publish: (queue, text) => publisher.send({ routingKey: queue, durable: true }, text), close };
  },
  async consumer(url, queue, received) {
    const connection = new Connection(url);
    const consumer = connection.createConsumer(
      { queue, queueOptions: { passive: true }, qos: { prefetchCount: 20 } },
      (message) => {
        received(String(message.body));
      },
    );
    await new Promise<void>((resolve) => consumer.on('ready', resolve));
    const close = async () => {
      await consumer.close();
      await connection.close();
    };
    return { close };
  },
};

const amqpClient: Client = {
  name: 'amqp-client',
  async publisher(url) {
    const connection = await new AMQPClient(url, undefined, null).connect();
    const channel = await connection.channel();
    await channel.confirmSelect();
    const publish: Publish = async (queue, text) => {
      await channel.basicPublish('', queue, text, { deliveryMode: 2 });
    };
    return { publish, close: () => connection.close() };
  },
  async consumer(url, queue, received) {
    const connection = await new AMQPClient(url, undefined, null).connect();
    const channel = await connection.channel();
    await channel.prefetch(20);
    await channel.basicConsume(queue, { noAck: false }, async (message) => {
      received(message.bodyString() ?? '');
      await message.ack();
    });
    return { close: () => connection.close() };
  },
};

const clients = [amqplib, rabbitmqClient, amqpClient];
/** Every client at every node. */
const pairs = () => clients.flatMap((client) => urls().map((url, node) => ({ client, url, node })));

async function withQueue(work: (queue: string) => Promise<void>): Promise<void> {
  const queue = uniqueName('spread');
  const connection = await connect(urls()[0]!);
  const channel = await connection.createChannel();
  await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
  await work(queue);
  await until(async () => (await channel.checkQueue(queue)).messageCount === 0);
  await channel.deleteQueue(queue);
  await connection.close();
}

/** Publishes from everywhere at once, some in flight all the time; texts are `client/node/sequence`. */
async function publishFromEverywhere(queue: string): Promise<string[]> {
  const sent = await Promise.all(
    pairs().map(async ({ client, url, node }) => {
      const { publish, close } = await client.publisher(url);
      const texts = Array.from({ length: messagesPerPublisher }, (_, i) => `${client.name}/${node}/${i}`);
      await Promise.all(texts.map((text) => publish(queue, text)));
      await close();
      return texts;
    }),
  );
  return sent.flat();
}

test('publishers everywhere, one consumer: all once, in the order of each publisher', async () => {
  await withQueue(async (queue) => {
    const received: string[] = [];
    const consumer = await amqplib.consumer(urls()[1 % urls().length]!, queue, (text) => received.push(text));
    const sent = await publishFromEverywhere(queue);
    await until(() => received.length >= sent.length, 20_000);
    expect([...received].sort()).toEqual([...sent].sort());
    for (const { client, node } of pairs()) {
      const prefix = `${client.name}/${node}/`;
      expect(received.filter((text) => text.startsWith(prefix))).toEqual(
        sent.filter((text) => text.startsWith(prefix)),
      );
    }
    await consumer.close();
  });
});

test('publishers everywhere, consumers everywhere: all once, and everybody has some', async () => {
  await withQueue(async (queue) => {
    const received: string[] = [];
    const shares = new Map<string, number>();
    const consumers = await Promise.all(
      pairs().map(({ client, url, node }) =>
        client.consumer(url, queue, (text) => {
          received.push(text);
          const name = `${client.name}/${node}`;
          shares.set(name, (shares.get(name) ?? 0) + 1);
        }),
      ),
    );
    const sent = await publishFromEverywhere(queue);
    await until(() => received.length >= sent.length, 20_000);
    expect([...received].sort()).toEqual([...sent].sort());
    expect(shares.size).toBe(pairs().length);
    await Promise.all(consumers.map((consumer) => consumer.close()));
  });
});
