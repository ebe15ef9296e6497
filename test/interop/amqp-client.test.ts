// @cloudamqp/amqp-client: the third of the clients for Node, with a codec of its own.

import { type AMQPBaseClient, AMQPClient, type AMQPMessage } from '@cloudamqp/amqp-client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { uniqueName, until, useBrokers } from './brokers.ts';

const urls = useBrokers();
const quorum = { 'x-queue-type': 'quorum' };

let connections: AMQPBaseClient[] = [];

beforeAll(async () => {
  connections = await Promise.all(urls().map((url) => new AMQPClient(url, undefined, null).connect()));
});

afterAll(async () => {
  await Promise.all(connections.map((connection) => connection.close()));
});

const channelAt = (node: number) => connections[node % connections.length]!.channel();

test('declare, bind, confirm, consume with prefetch, ack, delete', async () => {
  const [exchange, queue] = [uniqueName('cloud'), uniqueName('cloud')];
  const [publisher, consumer] = [await channelAt(0), await channelAt(1)];
  await publisher.exchangeDeclare(exchange, 'topic', { durable: true });
  expect(await publisher.queueDeclare(queue, { durable: true }, quorum)).toMatchObject({
    name: queue,
    messageCount: 0,
  });
  await consumer.queueBind(queue, exchange, '#.important');
  await publisher.confirmSelect();
  const tags = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      publisher.basicPublish(exchange, 'very.important', `m${i}`, { deliveryMode: 2 }),
    ),
  );
  expect(tags).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  await publisher.basicPublish(exchange, 'nothing', 'elsewhere');
  await consumer.prefetch(5);
  const got: AMQPMessage[] = [];
  const subscription = await consumer.basicConsume(queue, { noAck: false }, (message) => {
    got.push(message);
  });
  await until(() => got.length === 5);
  await got[4]!.ack(true);
  await until(() => got.length === 10);
  for (const message of got.slice(5)) await message.ack();
  await until(() => got.length === 15);
  await got[14]!.ack(true);
  await until(() => got.length === 20);
  await got[19]!.ack(true);
  expect(got.map((message) => message.bodyString())).toEqual(Array.from({ length: 20 }, (_, i) => `m${i}`));
  await subscription.cancel();
  expect((await publisher.queueDelete(queue)).messageCount).toBe(0);
  await publisher.exchangeDelete(exchange);
});

test('properties, header values and a large body come through', async () => {
  const queue = uniqueName('cloud');
  const channel = await channelAt(2);
  await channel.queueDeclare(queue, { durable: true }, quorum);
  await channel.confirmSelect();
  const properties = {
    contentType: 'application/octet-stream',
    contentEncoding: 'identity',
    deliveryMode: 2,
    priority: 4,
    correlationId: 'c',
    replyTo: 'r',
    expiration: '600000',
    messageId: 'm',
    timestamp: new Date(1_763_800_000_000),
    type: 't',
    userId: 'guest',
    appId: 'a',
    headers: {
      text: 'ß',
      number: 42,
      negative: -1,
      fraction: 1.5,
      yes: true,
      list: [1, [2]],
      table: { a: { b: 'c' } },
    },
  };
  const body = Buffer.alloc(5 * 1024 * 1024, 'abcdefg');
  await channel.basicPublish('', queue, body, properties);
  const message = await (await channelAt(0)).basicGet(queue, { noAck: true });
  expect(message?.properties).toMatchObject(properties);
  expect(Buffer.compare(Buffer.from(message!.body as unknown as Uint8Array), body)).toBe(0);
  await channel.queueDelete(queue);
});

test('get, nack, reject, recover, purge', async () => {
  const queue = uniqueName('cloud');
  const channel = await channelAt(1);
  await channel.queueDeclare(queue, { durable: true }, quorum);
  await channel.confirmSelect();
  const get = () => channel.basicGet(queue, { noAck: false });
  expect(await get()).toBeNull();
  for (const text of ['a', 'b', 'c']) await channel.basicPublish('', queue, text);
  const first = await get();
  expect([first?.bodyString(), first?.messageCount, first?.redelivered]).toEqual(['a', 2, false]);
  await first?.nack(true);
  let again: AMQPMessage | null = null;
  await until(async () => (again = await get())?.redelivered === true);
  expect((again as AMQPMessage | null)?.bodyString()).toBe('a');
  await (again as AMQPMessage | null)?.reject(false);
  await get();
  await channel.basicRecover(true);
  await until(async () => (await channel.queueDeclare(queue, { passive: true })).messageCount === 2);
  expect((await channel.queuePurge(queue)).messageCount).toBe(2);
  await channel.queueDelete(queue);
});

test('a returned message reaches onReturn', async () => {
  const channel = await channelAt(2);
  await channel.confirmSelect();
  const returned: (number | undefined)[] = [];
  channel.onReturn = (message) => returned.push(message.replyCode);
  await channel.basicPublish('', 'no-such-queue', 'come back', {}, true);
  await until(() => returned.length === 1);
  expect(returned).toEqual([312]);
  await channel.close();
});

test('channel errors tell why, and the connection goes on', async () => {
  const channel = await channelAt(0);
  await expect(channel.queueDeclare('no-such-queue', { passive: true })).rejects.toThrow(/NOT_FOUND/);
  expect(channel.closed).toBe(true);
  const reserved = await channelAt(0);
  await expect(reserved.queueDeclare('amq.reserved')).rejects.toThrow(/ACCESS_REFUSED/);
  const fine = await channelAt(0);
  await fine.exchangeDeclare('amq.fanout', 'fanout', { passive: true });
  await fine.close();
});

test('a wrong password is told as such', async () => {
  const url = new URL(urls()[0]!);
  url.password = 'wrong';
  await expect(new AMQPClient(url.href, undefined, null).connect()).rejects.toThrow(/ACCESS_REFUSED/);
});

test('a queue that is deleted ends its consumers', async () => {
  const queue = uniqueName('cloud');
  const channel = await channelAt(1);
  await channel.queueDeclare(queue, { durable: true }, quorum);
  const consumer = await channel.basicConsume(queue, {}, () => {});
  const ended = expect(consumer.wait(5000)).rejects.toThrow();
  await (await channelAt(2)).queueDelete(queue);
  await ended;
});
