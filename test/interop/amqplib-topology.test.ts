// amqplib over three nodes: exchanges, queues, bindings and their errors. What is done at one node is seen at the others at once.

import { type Channel, type ChannelModel, connect } from 'amqplib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { uniqueName, until, useBrokers } from './brokers.ts';

const urls = useBrokers();
const quorum = { durable: true, arguments: { 'x-queue-type': 'quorum' } };

let connections: ChannelModel[] = [];

beforeAll(async () => {
  connections = await Promise.all(urls().map((url) => connect(url)));
});

afterAll(async () => {
  await Promise.all(connections.map((connection) => connection.close()));
});

/** A fresh channel at node 1, 2, 3, 1, ... */
let turn = 0;
async function channelSomewhere(): Promise<Channel> {
  const channel = await connections[turn++ % connections.length]!.createChannel();
  channel.on('error', () => {});
  return channel;
}

/** What comes next out of a queue, as text; fails if nothing does. */
async function take(channel: Channel, queue: string): Promise<string> {
  let text: string | null = null;
  await until(async () => {
    const message = await channel.get(queue, { noAck: true });
    if (message) text = message.content.toString();
    return text !== null;
  });
  return String(text);
}

/** The reply code with which the server closes the channel. */
async function channelError(work: (channel: Channel) => Promise<unknown>): Promise<number> {
  const channel = await channelSomewhere();
  const closed = new Promise<number>((resolve) => {
    channel.on('error', (error: { code: number }) => resolve(error.code));
  });
  await expect(work(channel)).rejects.toThrow();
  return closed;
}

/** Passive declare says 404. */
async function isGone(queue: string): Promise<boolean> {
  const channel = await channelSomewhere();
  return channel.checkQueue(queue).then(
    () => false,
    (error: Error) => error.message.includes('404'),
  );
}

describe('exchanges route', () => {
  test('the default exchange, by queue name', async () => {
    const queue = uniqueName('default');
    const channel = await channelSomewhere();
    await channel.assertQueue(queue, quorum);
    const other = await channelSomewhere();
    other.sendToQueue(queue, Buffer.from('direct'));
    expect(await take(await channelSomewhere(), queue)).toBe('direct');
    await channel.deleteQueue(queue);
  });

  test.each([
    ['direct', ['red', 'green'], ['red', 'red', 'blue', 'green'], ['red', 'red', 'green']],
    ['fanout', ['ignored'], ['red', ''], ['red', '']],
    [
      'topic',
      ['stock.*.nyse', 'log.#', '#.last'],
      ['stock.ibm.nyse', 'stock.nyse', 'log', 'log.a.b', 'x.log', 'a.b.last', 'last', 'stock.ibm.nyse.last'],
      ['stock.ibm.nyse', 'log', 'log.a.b', 'a.b.last', 'last', 'stock.ibm.nyse.last'],
    ],
  ])('%s, by binding key', async (type, bindings, published, expected) => {
    const [exchange, queue] = [uniqueName(type), uniqueName(type)];
    await (await channelSomewhere()).assertExchange(exchange, type, { durable: true });
    await (await channelSomewhere()).assertQueue(queue, quorum);
    for (const key of bindings) await (await channelSomewhere()).bindQueue(queue, exchange, key);
    const publisher = await connections[0]!.createConfirmChannel();
    for (const key of published) publisher.publish(exchange, key, Buffer.from(key));
    await publisher.waitForConfirms();
    const reader = await channelSomewhere();
    const got: string[] = [];
    for (let i = 0; i < expected.length; i++) got.push(await take(reader, queue));
    expect(got).toEqual(expected);
    expect(await reader.get(queue)).toBe(false);
    await reader.deleteQueue(queue);
    await reader.deleteExchange(exchange);
  });

  test('headers, all or any of them', async () => {
    const [exchange, all, any] = [uniqueName('headers'), uniqueName('all'), uniqueName('any')];
    const channel = await channelSomewhere();
    await channel.assertExchange(exchange, 'headers');
    for (const queue of [all, any]) await channel.assertQueue(queue, quorum);
    await channel.bindQueue(all, exchange, '', { 'x-match': 'all', colour: 'red', size: 3 });
    await channel.bindQueue(any, exchange, '', { 'x-match': 'any', colour: 'red', size: 3 });
    const publisher = await connections[1]!.createConfirmChannel();
    const send = (headers: object) =>
      publisher.publish(exchange, '', Buffer.from(JSON.stringify(headers)), { headers });
    send({ colour: 'red', size: 3, more: true });
    send({ colour: 'red', size: 4 });
    send({ colour: 'blue' });
    await publisher.waitForConfirms();
    expect(await take(channel, all)).toBe('{"colour":"red","size":3,"more":true}');
    expect(await take(channel, any)).toBe('{"colour":"red","size":3,"more":true}');
    expect(await take(channel, any)).toBe('{"colour":"red","size":4}');
    expect([await channel.get(all), await channel.get(any)]).toEqual([false, false]);
    for (const queue of [all, any]) await channel.deleteQueue(queue);
    await channel.deleteExchange(exchange);
  });

  test('exchange to exchange', async () => {
    const [front, back, queue] = [uniqueName('front'), uniqueName('back'), uniqueName('behind')];
    const channel = await channelSomewhere();
    await channel.assertExchange(front, 'topic');
    await channel.assertExchange(back, 'fanout');
    await channel.assertQueue(queue, quorum);
    await channel.bindExchange(back, front, 'a.*');
    await channel.bindQueue(queue, back, '');
    const publisher = await connections[2 % connections.length]!.createConfirmChannel();
    publisher.publish(front, 'a.b', Buffer.from('through'));
    publisher.publish(front, 'b.b', Buffer.from('not'));
    await publisher.waitForConfirms();
    expect(await take(channel, queue)).toBe('through');
    expect(await channel.get(queue)).toBe(false);
    await channel.deleteExchange(front);
    await channel.deleteExchange(back);
    await channel.deleteQueue(queue);
  });

  test('the predeclared exchanges', async () => {
    const queue = uniqueName('predeclared');
    const channel = await channelSomewhere();
    await channel.assertQueue(queue, quorum);
    await channel.bindQueue(queue, 'amq.fanout', '');
    await channel.bindQueue(queue, 'amq.direct', queue);
    await channel.bindQueue(queue, 'amq.topic', `${queue}.#`);
    for (const [exchange, key] of [
      ['amq.fanout', ''],
      ['amq.direct', queue],
      ['amq.topic', `${queue}.x`],
    ] as const) {
      channel.publish(exchange, key, Buffer.from(exchange));
      expect(await take(channel, queue)).toBe(exchange);
    }
    await channel.checkExchange('amq.headers');
    await channel.checkExchange('amq.match');
    await channel.deleteQueue(queue);
  });

  test('a queue bound twice gets a message once; unbound, no more', async () => {
    const queue = uniqueName('twice');
    const channel = await channelSomewhere();
    await channel.assertQueue(queue, quorum);
    await channel.bindQueue(queue, 'amq.topic', `${queue}.*`);
    await channel.bindQueue(queue, 'amq.topic', `${queue}.a`);
    channel.publish('amq.topic', `${queue}.a`, Buffer.from('once'));
    expect(await take(channel, queue)).toBe('once');
    expect(await channel.get(queue)).toBe(false);
    await channel.unbindQueue(queue, 'amq.topic', `${queue}.*`);
    await channel.unbindQueue(queue, 'amq.topic', `${queue}.a`);
    const publisher = await connections[1]!.createConfirmChannel();
    publisher.publish('amq.topic', `${queue}.a`, Buffer.from('never'));
    await publisher.waitForConfirms();
    expect(await channel.get(queue)).toBe(false);
    await channel.deleteQueue(queue);
  });
});

describe('queues', () => {
  test('declare tells how much is in it; purge and delete tell how much was', async () => {
    const queue = uniqueName('counts');
    const channel = await connections[0]!.createConfirmChannel();
    expect(await channel.assertQueue(queue, quorum)).toEqual({ queue, messageCount: 0, consumerCount: 0 });
    for (let i = 0; i < 5; i++) channel.sendToQueue(queue, Buffer.from(`${i}`));
    await channel.waitForConfirms();
    const elsewhere = await connections[1]!.createConfirmChannel();
    await until(async () => (await elsewhere.checkQueue(queue)).messageCount === 5);
    expect(await elsewhere.purgeQueue(queue)).toEqual({ messageCount: 5 });
    elsewhere.sendToQueue(queue, Buffer.from('last'));
    await elsewhere.waitForConfirms();
    const third = await channelSomewhere();
    await until(async () => (await third.checkQueue(queue)).messageCount === 1);
    expect(await third.deleteQueue(queue)).toEqual({ messageCount: 1 });
    expect(await channelError((one) => one.checkQueue(queue))).toBe(404);
    expect(await third.deleteQueue(queue)).toEqual({ messageCount: 0 });
  });

  test('the server makes up names', async () => {
    const channel = await channelSomewhere();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    expect(queue).toMatch(/^amq\.gen-/);
    channel.sendToQueue(queue, Buffer.from('named by you'));
    expect(await take(channel, queue)).toBe('named by you');
  });

  test('an exclusive queue belongs to its connection and goes with it', async () => {
    const queue = uniqueName('exclusive');
    const owner = await connect(urls()[0]!);
    const channel = await owner.createChannel();
    await channel.assertQueue(queue, { exclusive: true });
    expect(await channelError((other) => other.checkQueue(queue))).toBe(405);
    expect(await channelError((other) => other.assertQueue(queue, { exclusive: true }))).toBe(405);
    await owner.close();
    await until(() => isGone(queue));
  });

  test('an auto-delete queue goes with its last consumer', async () => {
    const queue = uniqueName('auto');
    const channel = await channelSomewhere();
    await channel.assertQueue(queue, { autoDelete: true, durable: true });
    const other = await channelSomewhere();
    const tags = [];
    for (const one of [channel, other]) tags.push((await one.consume(queue, () => {})).consumerTag);
    await channel.cancel(tags[0]!);
    expect((await channel.checkQueue(queue)).consumerCount).toBe(1);
    await other.cancel(tags[1]!);
    await until(() => isGone(queue));
  });

  test('a deleted queue cancels its consumers', async () => {
    const queue = uniqueName('cancelled');
    const channel = await channelSomewhere();
    await channel.assertQueue(queue, quorum);
    let cancelled = false;
    await channel.consume(queue, (message) => {
      cancelled = message === null;
    });
    await (await channelSomewhere()).deleteQueue(queue);
    await until(() => cancelled);
  });
});

describe('errors close the channel with the right code and leave the connection alone', () => {
  test.each<[string, number, (channel: Channel) => Promise<unknown>]>([
    ['passive declare of a queue that is not there', 404, (channel) => channel.checkQueue('no-such-queue')],
    ['passive declare of an exchange that is not there', 404, (channel) => channel.checkExchange('no-such-exchange')],
    [
      'bind to an exchange that is not there',
      404,
      async (channel) => {
        const { queue } = await channel.assertQueue('', { exclusive: true });
        await channel.bindQueue(queue, 'no-such-exchange', '');
      },
    ],
    ['consume from a queue that is not there', 404, (channel) => channel.consume('no-such-queue', () => {})],
    ['get from a queue that is not there', 404, (channel) => channel.get('no-such-queue')],
    ['a queue name that is reserved', 403, (channel) => channel.assertQueue('amq.mine')],
    ['an exchange name that is reserved', 403, (channel) => channel.assertExchange('amq.mine', 'direct')],
    ['a predeclared exchange with another type', 406, (channel) => channel.assertExchange('amq.direct', 'fanout')],
    ['delete of an exchange that is predeclared', 403, (channel) => channel.deleteExchange('amq.direct')],
  ])('%s: %i', async (_, code, work) => {
    expect(await channelError(work)).toBe(code);
    const next = await channelSomewhere();
    await next.checkExchange('amq.direct');
  });

  test('redeclared with other properties: 406; with the same: fine, at every node', async () => {
    const [queue, exchange] = [uniqueName('again'), uniqueName('again')];
    const channel = await channelSomewhere();
    await channel.assertQueue(queue, quorum);
    await channel.assertExchange(exchange, 'topic', { durable: true });
    for (const connection of connections) {
      const same = await connection.createChannel();
      await same.assertQueue(queue, quorum);
      await same.assertExchange(exchange, 'topic', { durable: true });
      await same.close();
    }
    expect(await channelError((other) => other.assertQueue(queue, { ...quorum, autoDelete: true }))).toBe(406);
    expect(await channelError((other) => other.assertExchange(exchange, 'direct', { durable: true }))).toBe(406);
    expect(await channelError((other) => other.assertExchange(exchange, 'topic', { durable: false }))).toBe(406);
    await channel.deleteQueue(queue);
    await channel.deleteExchange(exchange);
  });

  test('delete if empty, if unused', async () => {
    const queue = uniqueName('in-use');
    const channel = await connections[0]!.createConfirmChannel();
    await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'classic' } });
    channel.sendToQueue(queue, Buffer.from('something'));
    await channel.waitForConfirms();
    expect(await channelError((other) => other.deleteQueue(queue, { ifEmpty: true }))).toBe(406);
    await channel.consume(queue, () => {});
    expect(await channelError((other) => other.deleteQueue(queue, { ifUnused: true }))).toBe(406);
    const exchange = uniqueName('in-use');
    await channel.assertExchange(exchange, 'fanout');
    await channel.bindQueue(queue, exchange, '');
    expect(await channelError((other) => other.deleteExchange(exchange, { ifUnused: true }))).toBe(406);
    await channel.deleteQueue(queue);
    await channel.deleteExchange(exchange, { ifUnused: true });
  });

  test('publish to an exchange that is not there: 404', async () => {
    const channel = await channelSomewhere();
    const closed = new Promise<number>((resolve) => {
      channel.on('error', (error: { code: number }) => resolve(error.code));
    });
    channel.publish('no-such-exchange', '', Buffer.from('lost'));
    expect(await closed).toBe(404);
  });

  test('an ack of an unknown delivery: 406', async () => {
    const channel = await channelSomewhere();
    const closed = new Promise<number>((resolve) => {
      channel.on('error', (error: { code: number }) => resolve(error.code));
    });
    const unknown = { fields: { deliveryTag: 99 }, content: Buffer.alloc(0), properties: {} };
    channel.ack(unknown as Parameters<Channel['ack']>[0]);
    expect(await closed).toBe(406);
  });
});
