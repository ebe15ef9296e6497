// amqplib over three nodes: publishing, confirms, returns, consuming, settling, and what is in a message.

import { type Channel, type ChannelModel, type ConfirmChannel, type ConsumeMessage, connect } from 'amqplib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { uniqueName, until, useBrokers } from './brokers.ts';

const urls = useBrokers();

let connections: ChannelModel[] = [];
/** One channel at each node, and a queue, for each test. */
let first: ConfirmChannel;
let second: ConfirmChannel;
let third: ConfirmChannel;
let queue: string;

beforeAll(async () => {
  connections = await Promise.all(urls().map((url) => connect(url)));
});

beforeEach(async () => {
  const channels = await Promise.all([0, 1, 2].map((i) => connections[i % connections.length]!.createConfirmChannel()));
  [first, second, third] = channels as [ConfirmChannel, ConfirmChannel, ConfirmChannel];
  queue = uniqueName('messages');
  await first.assertQueue(queue, {
    durable: true,
    arguments: { 'x-queue-type': 'quorum' },
  });
});

afterEach(async () => {
  await first.deleteQueue(queue);
  for (const channel of [first, second, third]) await channel.close();
});

afterAll(async () => {
  await Promise.all(connections.map((connection) => connection.close()));
});

async function publish(channel: ConfirmChannel, ...texts: string[]): Promise<void> {
  for (const text of texts) channel.sendToQueue(queue, Buffer.from(text), { persistent: true });
  await channel.waitForConfirms();
}

/** Collects what a consumer gets; settling is the test's matter. */
async function collect(channel: Channel, noAck = false): Promise<{ messages: ConsumeMessage[]; tag: string }> {
  const messages: ConsumeMessage[] = [];
  const { consumerTag } = await channel.consume(queue, (message) => message && messages.push(message), { noAck });
  return { messages, tag: consumerTag };
}

const texts = (messages: readonly ConsumeMessage[]) => messages.map((message) => message.content.toString());
const numbers = (count: number) => Array.from({ length: count }, (_, i) => `${i}`);

async function ready(channel: Channel): Promise<number> {
  return (await channel.checkQueue(queue)).messageCount;
}

describe('publishing', () => {
  test('confirms come for all, in bulk, from every node', async () => {
    let confirmed = 0;
    for (const channel of [first, second, third]) {
      for (let i = 0; i < 500; i++) {
        channel.sendToQueue(queue, Buffer.from('x'), {}, (error: Error | null) => {
          if (!error) confirmed++;
        });
      }
    }
    await Promise.all([first, second, third].map((channel) => channel.waitForConfirms()));
    expect(confirmed).toBe(1500);
    await until(async () => (await ready(second)) === 1500);
  });

  test('a mandatory message without a queue is returned before it is confirmed', async () => {
    const events: string[] = [];
    second.on(
      'return',
      (
        message: ConsumeMessage & {
          fields: { replyCode: number; replyText: string };
        },
      ) => {
        events.push(`${message.fields.replyCode} ${message.fields.replyText} ${message.content}`);
      },
    );
    const note = (name: string) => (error: Error | null) => events.push(error ? 'nack' : `confirm ${name}`);
    second.publish('', 'no-such-queue', Buffer.from('back'), { mandatory: true, messageId: 'm1' }, note('a'));
    second.publish('', 'no-such-queue', Buffer.from('gone'), {}, note('b'));
    second.publish('', queue, Buffer.from('fine'), { mandatory: true }, note('c'));
    await second.waitForConfirms();
    expect(events.slice(0, 2)).toEqual(['312 NO_ROUTE back', 'confirm a']);
    expect([...events].sort()).toEqual(['312 NO_ROUTE back', 'confirm a', 'confirm b', 'confirm c']);
  });

  test('every property and every kind of header value comes through, at another node', async () => {
    const properties = {
      contentType: 'application/json',
      contentEncoding: 'gzip',
      deliveryMode: 2,
      priority: 7,
      correlationId: 'correlation',
      replyTo: 'reply',
      expiration: '3600000',
      messageId: 'message',
      timestamp: 1_763_800_000,
      type: 'kind',
      userId: 'guest',
      appId: 'application',
    };
    const headers = {
      text: 'grüße 🐇',
      empty: '',
      yes: true,
      no: false,
      small: 1,
      negative: -70_000,
      large: 9_007_199_254_740_991,
      fraction: 0.1,
      nothing: null,
      bytes: Buffer.from([0, 1, 254, 255]),
      list: [1, 'two', [3, { four: true }]],
      table: { nested: { deeply: 'yes' }, count: 2 },
      when: { '!': 'timestamp', value: 1_763_800_000 },
      exact: { '!': 'decimal', value: { digits: 12_345, places: 2 } },
    };
    first.sendToQueue(queue, Buffer.from('{}'), { ...properties, headers });
    await first.waitForConfirms();
    const { messages } = await collect(third);
    await until(() => messages.length === 1);
    const [message] = messages;
    expect(message!.properties).toMatchObject(properties);
    expect(message!.properties.headers).toEqual(headers);
    expect(message!.fields).toMatchObject({
      exchange: '',
      routingKey: queue,
      redelivered: false,
      deliveryTag: 1,
    });
    third.ack(message!);
  });

  test('a message without properties has none', async () => {
    first.sendToQueue(queue, Buffer.from('bare'));
    await first.waitForConfirms();
    const { messages } = await collect(second, true);
    await until(() => messages.length === 1);
    const { headers, ...others } = messages[0]!.properties;
    expect(headers ?? {}).toEqual({});
    // amqplib says `deliveryMode: undefined` and so on for what is not there.
    expect(Object.values(others).filter((value) => value !== undefined)).toEqual([]);
  });

  test.each([0, 1, 4088, 131_064, 131_065, 300_000, 5 * 1024 * 1024])('a body of %i bytes', async (bytes) => {
    const body = Buffer.alloc(bytes);
    for (let i = 0; i < bytes; i += 997) body[i] = i % 251;
    second.sendToQueue(queue, body);
    await publish(second, 'after');
    const { messages } = await collect(third, true);
    await until(() => messages.length === 2, 20_000);
    expect(messages[0]!.content.length).toBe(bytes);
    expect(messages[0]!.content.equals(body)).toBe(true);
    expect(messages[1]!.content.toString()).toBe('after');
  });
});

describe('consuming', () => {
  test('prefetch limits what is out; acks let more through, in order', async () => {
    await publish(first, ...numbers(10));
    await second.prefetch(3);
    const { messages } = await collect(second);
    await until(() => messages.length === 3);
    await until(async () => (await ready(first)) === 7);
    second.ack(messages[0]!);
    await until(() => messages.length === 4);
    second.ack(messages[3]!, true);
    await until(() => messages.length === 7);
    expect(texts(messages)).toEqual(numbers(7));
    second.ackAll();
    await until(() => messages.length === 10);
    second.ackAll();
    await until(async () => (await ready(first)) === 0);
  });

  test('consumers at different nodes share a queue, each message to one', async () => {
    const all = await Promise.all(
      [first, second, third].map((channel) => channel.prefetch(10).then(() => collect(channel))),
    );
    await publish(second, ...numbers(30));
    await until(() => all.every(({ messages }) => messages.length === 10));
    expect(all.flatMap(({ messages }) => texts(messages)).sort()).toEqual(numbers(30).sort());
    for (const channel of [first, second, third]) channel.ackAll();
  });

  test('without acks nothing is kept', async () => {
    await publish(first, ...numbers(20));
    const { messages } = await collect(second, true);
    await until(() => messages.length === 20);
    expect(texts(messages)).toEqual(numbers(20));
    await until(async () => (await ready(first)) === 0);
    await expect(third.get(queue)).resolves.toBe(false);
  });

  test('a cancelled consumer gets nothing more; what it holds stays its own', async () => {
    await publish(first, 'a');
    const { messages, tag } = await collect(second);
    await until(() => messages.length === 1);
    await second.cancel(tag);
    await publish(first, 'b');
    expect(texts(messages)).toEqual(['a']);
    second.ack(messages[0]!);
    const message = await third.get(queue, { noAck: true });
    expect(message ? message.content.toString() : null).toBe('b');
  });

  test('a consumer tag of the client is kept; an exclusive consumer is alone', async () => {
    const own = uniqueName('alone');
    // RabbitMQ's quorum queues know no exclusive consumers.
    await first.assertQueue(own, {
      durable: true,
      arguments: { 'x-queue-type': 'classic' },
    });
    const { consumerTag } = await first.consume(own, () => {}, {
      consumerTag: 'mine',
      exclusive: true,
    });
    expect(consumerTag).toBe('mine');
    const other = await connections[1]!.createChannel();
    const closed = new Promise<number>((resolve) => {
      other.on('error', (error: { code: number }) => resolve(error.code));
    });
    await expect(other.consume(own, () => {})).rejects.toThrow();
    expect(await closed).toBe(403);
    await first.deleteQueue(own);
  });

  test('get says how many are left, and takes one', async () => {
    await publish(first, 'a', 'b', 'c');
    const message = await third.get(queue);
    if (!message) throw new Error('nothing to get');
    expect([message.content.toString(), message.fields.messageCount]).toEqual(['a', 2]);
    third.ack(message);
    await third.get(queue, { noAck: true });
    await third.get(queue, { noAck: true });
    expect(await third.get(queue)).toBe(false);
  });
});

describe('giving back', () => {
  test.each<[string, (channel: Channel, message: ConsumeMessage) => void]>([
    ['nack', (channel, message) => channel.nack(message)],
    ['reject', (channel, message) => channel.reject(message, true)],
    ['recover', (channel) => void channel.recover()],
  ])('%s with requeue: it comes again, flagged', async (_, giveBack) => {
    await publish(first, 'again');
    const { messages } = await collect(second);
    await until(() => messages.length === 1);
    expect(messages[0]!.fields.redelivered).toBe(false);
    giveBack(second, messages[0]!);
    await until(() => messages.length === 2);
    expect([texts(messages)[1], messages[1]!.fields.redelivered]).toEqual(['again', true]);
    second.ack(messages[1]!);
  });

  test('nack of many at once', async () => {
    await publish(first, ...numbers(5));
    const { messages, tag } = await collect(second);
    await until(() => messages.length === 5);
    await second.cancel(tag);
    second.nack(messages[3]!, true, true);
    second.ack(messages[4]!);
    const again = await collect(third, true);
    await until(() => again.messages.length === 4);
    expect(texts(again.messages).sort()).toEqual(numbers(4));
    expect(again.messages.every((message) => message.fields.redelivered)).toBe(true);
  });

  test.each<[string, (channel: Channel, message: ConsumeMessage) => void]>([
    ['nack', (channel, message) => channel.nack(message, false, false)],
    ['reject', (channel, message) => channel.reject(message, false)],
  ])('%s without requeue: it is gone', async (_, drop) => {
    await publish(first, 'bad', 'good');
    await second.prefetch(1);
    const { messages } = await collect(second);
    await until(() => messages.length === 1);
    drop(second, messages[0]!);
    await until(() => messages.length === 2);
    expect(texts(messages)).toEqual(['bad', 'good']);
    second.ack(messages[1]!);
    await until(async () => (await ready(first)) === 0);
  });

  test('what a closed channel or connection held comes again, flagged and in order', async () => {
    await publish(first, ...numbers(6));
    const connection = await connect(urls()[1]!);
    const [one, two] = [await connection.createChannel(), await connection.createChannel()];
    await one.prefetch(3);
    const held = await collect(one);
    await until(() => held.messages.length === 3);
    await one.close();
    await two.prefetch(3);
    const again = await collect(two);
    await until(() => again.messages.length === 3);
    expect(texts(again.messages)).toEqual(['0', '1', '2']);
    expect(again.messages.map((message) => message.fields.redelivered)).toEqual([true, true, true]);
    await connection.close();
    const rest = await collect(third, true);
    await until(() => rest.messages.length === 6);
    expect(texts(rest.messages)).toEqual(numbers(6));
    expect(rest.messages.map((message) => message.fields.redelivered)).toEqual([true, true, true, false, false, false]);
  });

  test('a client that vanishes gives its messages back', async () => {
    await publish(first, ...numbers(3));
    const connection = await connect(urls()[1]!);
    connection.on('error', () => {});
    const held = await collect(await connection.createChannel());
    await until(() => held.messages.length === 3);
    (
      connection.connection as unknown as {
        readonly stream: { destroy(): void };
      }
    ).stream.destroy();
    const again = await collect(third);
    await until(() => again.messages.length === 3);
    expect(texts(again.messages)).toEqual(numbers(3));
    third.ackAll();
  });
});

test('many channels on one connection, many connections at one node', async () => {
  const channels = await Promise.all(Array.from({ length: 50 }, () => connections[0]!.createConfirmChannel()));
  for (const [i, channel] of channels.entries()) channel.sendToQueue(queue, Buffer.from(`${i}`));
  await Promise.all(channels.map((channel) => channel.waitForConfirms()));
  await Promise.all(channels.map((channel) => channel.close()));
  const more = await Promise.all(Array.from({ length: 20 }, () => connect(urls()[2 % urls().length]!)));
  for (const connection of more) await (await connection.createChannel()).checkQueue(queue);
  await Promise.all(more.map((connection) => connection.close()));
  await until(async () => (await ready(second)) === 50);
});
