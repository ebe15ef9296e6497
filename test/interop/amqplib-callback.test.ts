// amqplib's callback interface: one round of everything.

import { promisify } from 'node:util';
import {
  type Channel,
  type ConfirmChannel,
  type Connection,
  connect,
  type Message,
  type Replies,
} from 'amqplib/callback_api';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { uniqueName, until, useBrokers } from './brokers.ts';

const urls = useBrokers();
const quorum = { durable: true, arguments: { 'x-queue-type': 'quorum' } };

let connections: Connection[] = [];

beforeAll(async () => {
  const open = promisify((url: string, done: (error: Error | null, connection: Connection) => void) =>
    connect(url, done),
  );
  connections = await Promise.all(urls().map((url) => open(url)));
});

afterAll(async () => {
  await Promise.all(connections.map((connection) => promisify(connection.close.bind(connection))()));
});

function createConfirmChannel(node: number): Promise<ConfirmChannel> {
  const connection = connections[node % connections.length]!;
  return new Promise((resolve, reject) =>
    connection.createConfirmChannel((error, channel) => (error ? reject(error) : resolve(channel))),
  );
}

function assertQueue(channel: Channel, queue: string): Promise<Replies.AssertQueue> {
  return new Promise((resolve, reject) =>
    channel.assertQueue(queue, quorum, (error, ok) => (error ? reject(error) : resolve(ok))),
  );
}

test('declare, bind, publish with confirms, consume, ack, purge, delete, each told by callback', async () => {
  const queue = uniqueName('callback');
  const [publisher, consumer] = await Promise.all([createConfirmChannel(0), createConfirmChannel(1)]);
  expect(await assertQueue(publisher, queue)).toEqual({ queue, messageCount: 0, consumerCount: 0 });
  await new Promise<void>((resolve, reject) =>
    consumer.bindQueue(queue, 'amq.direct', 'key', {}, (error) => (error ? reject(error) : resolve())),
  );
  const got: Message[] = [];
  await new Promise<void>((resolve, reject) =>
    consumer.consume(
      queue,
      (message) => message && got.push(message),
      {},
      (error) => (error ? reject(error) : resolve()),
    ),
  );
  const confirms: (Error | null)[] = [];
  for (const text of ['a', 'b', 'c']) {
    publisher.publish('amq.direct', 'key', Buffer.from(text), {}, (error) => confirms.push(error));
  }
  await until(() => confirms.length === 3 && got.length === 3);
  expect(confirms).toEqual([null, null, null]);
  expect(got.map((message) => message.content.toString())).toEqual(['a', 'b', 'c']);
  consumer.ackAll();
  await new Promise<void>((resolve) => consumer.purgeQueue(queue, () => resolve()));
  const deleted = await new Promise<Replies.DeleteQueue>((resolve) =>
    publisher.deleteQueue(queue, {}, (_, ok) => resolve(ok)),
  );
  expect(deleted).toEqual({ messageCount: 0 });
});

test('get, then nack, then get again', async () => {
  const queue = uniqueName('callback');
  const channel = await createConfirmChannel(2);
  await assertQueue(channel, queue);
  channel.sendToQueue(queue, Buffer.from('back and forth'));
  await new Promise<void>((resolve) => channel.waitForConfirms(() => resolve()));
  const get = () =>
    new Promise<Message | false>((resolve, reject) =>
      channel.get(queue, {}, (error, message) => (error ? reject(error) : resolve(message))),
    );
  const first = await get();
  if (!first) throw new Error('nothing to get');
  channel.nack(first);
  let second: Message | false = false;
  await until(async () => (second = await get()) !== false);
  expect(second).toMatchObject({ fields: { redelivered: true } });
  channel.ackAll();
  await new Promise<void>((resolve) => channel.deleteQueue(queue, {}, () => resolve()));
});

test('a channel error comes to the callback and to the event; the connection lives', async () => {
  const channel = await createConfirmChannel(0);
  const codes: number[] = [];
  channel.on('error', (error: { code: number }) => codes.push(error.code));
  const error = await new Promise<Error>((resolve) =>
    channel.checkQueue('no-such-queue', (failure) => resolve(failure)),
  );
  expect(error.message).toMatch(/404.*NOT.FOUND/);
  await until(() => codes.length === 1);
  expect(codes).toEqual([404]);
  const next = await createConfirmChannel(0);
  await new Promise<void>((resolve, reject) =>
    next.checkExchange('amq.topic', (failure) => (failure ? reject(failure) : resolve())),
  );
});
