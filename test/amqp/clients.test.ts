// Real clients over real sockets against the front-end, with the broker in memory.

import { setTimeout as sleep } from 'node:timers/promises';
import { AMQPClient } from '@cloudamqp/amqp-client';
import amqplib from 'amqplib';
import { Connection as RabbitClient } from 'rabbitmq-client';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createClock, createNet, createRandom } from '../../cluster/os.ts';
import { type AmqpServer, createAmqpServer } from '../../node/amqp/server.ts';
import { FakeBackend } from './fake-backend.ts';
import { quietLog } from './harness.ts';

let server: AmqpServer;
let backend: FakeBackend;
let port: number;
const url = () => `amqp://guest:guest@127.0.0.1:${port}`;

beforeEach(async () => {
  backend = new FakeBackend();
  backend.recordPublishes = false;
  const ports = { net: createNet(), clock: createClock(), random: createRandom() };
  server = createAmqpServer({ closeMilliseconds: 200 }, ports, backend, quietLog);
  [port] = (await server.listen([{ host: '127.0.0.1', port: 0 }])) as [number];
});
afterEach(() => server.close());

describe('amqplib', () => {
  it('goes the whole round, small and large, with confirms', async () => {
    const connection = await amqplib.connect(`${url()}?frameMax=8192&heartbeat=1`);
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue('', { arguments: { 'x-max-length': 10 } });
    expect(queue).toBe('amq.gen-1');
    await channel.bindQueue(queue, 'amq.direct', 'key');
    const sent = [Buffer.alloc(0), Buffer.from('small'), Buffer.alloc(1_000_000, 'large')];
    for (const body of sent) channel.publish('amq.direct', 'key', body, { headers: { a: { b: [1, 'two'] } } });
    await channel.waitForConfirms();
    const received: Buffer[] = [];
    await channel.prefetch(2);
    await new Promise<void>((resolve) => {
      void channel.consume(queue, (message) => {
        // The queue's deletion below comes here, too.
        if (message === null) return;
        received.push(message.content);
        expect(message.properties.headers).toEqual({ a: { b: [1, 'two'] } });
        channel.ack(message);
        if (received.length === sent.length) resolve();
      });
    });
    expect(received.map((body) => body.length)).toEqual([0, 5, 1_000_000]);
    expect(received[2]!.equals(sent[2]!)).toBe(true);
    const returned = new Promise((resolve) => channel.once('return', resolve));
    channel.publish('', 'nowhere', Buffer.from('x'), { mandatory: true });
    expect(await returned).toMatchObject({ fields: { replyCode: 312, replyText: 'NO_ROUTE' } });
    expect(await channel.get(queue)).toBe(false);
    expect(await channel.deleteQueue(queue)).toEqual({ messageCount: 0 });
    await connection.close();
  });

  it('hears why', async () => {
    await expect(amqplib.connect(`amqp://guest:wrong@127.0.0.1:${port}`)).rejects.toThrow('ACCESS_REFUSED');
    await expect(amqplib.connect(`${url()}/absent`)).rejects.toThrow();
    const connection = await amqplib.connect(url());
    const channel = await connection.createChannel();
    const failed = new Promise<Error>((resolve) => channel.once('error', resolve));
    await expect(channel.checkQueue('absent')).rejects.toThrow("NOT_FOUND - no queue 'absent' in vhost '/'");
    expect((await failed).message).toContain('404');
    const again = await connection.createChannel();
    await again.assertQueue('q');
    const ended = new Promise<Error>((resolve) => connection.once('close', resolve));
    void server.close();
    expect((await ended).message).toContain('CONNECTION_FORCED');
  });

  it('is slowed down, not cut off, when it reads too slowly', async () => {
    const connection = await amqplib.connect(url());
    const channel = await connection.createConfirmChannel();
    await channel.assertQueue('q');
    for (let i = 0; i < 200; i++) channel.sendToQueue('q', Buffer.alloc(50_000, i));
    await channel.waitForConfirms();
    let seen = 0;
    const stream = (connection as unknown as { connection: { stream: import('node:net').Socket } }).connection.stream;
    const done = new Promise<void>((resolve) => {
      void channel.consume(
        'q',
        (message) => {
          expect(message!.content[0]).toBe(seen++);
          if (seen === 10) {
            stream.pause();
            void sleep(100).then(() => stream.resume());
          }
          if (seen === 200) resolve();
        },
        { noAck: true },
      );
    });
    await done;
    expect(backend.queue('q').ready).toHaveLength(0);
    await connection.close();
  });
});

describe('rabbitmq-client', () => {
  it('publishes with confirms and consumes', async () => {
    const connection = new RabbitClient(url());
    const bodies: string[] = [];
    const publisher = connection.createPublisher({ confirm: true, queues: [{ queue: 'q' }] });
    for (const body of ['one', 'two', 'three']) await publisher.send('q', body);
    await new Promise<void>((resolve) => {
      const consumer = connection.createConsumer({ queue: 'q', qos: { prefetchCount: 1 } }, async (message) => {
        bodies.push(message.body as string);
        if (bodies.length === 3) setImmediate(() => void consumer.close().then(resolve));
      });
    });
    expect(bodies).toEqual(['one', 'two', 'three']);
    await publisher.close();
    await connection.close();
  });
});

describe('amqp-client', () => {
  it('publishes, gets and is told of a cancel', async () => {
    const connection = await new AMQPClient(url()).connect();
    const channel = await connection.channel();
    await channel.queueDeclare('q');
    await channel.confirmSelect();
    expect(await channel.basicPublish('', 'q', 'hello', { contentType: 'text/plain' })).toBe(1);
    const message = await channel.basicGet('q', { noAck: true });
    expect(message?.bodyString()).toBe('hello');
    expect(message?.properties.contentType).toBe('text/plain');
    const consumer = await channel.basicConsume('q', { noAck: true }, () => {});
    const cancelled = expect(consumer.wait()).rejects.toThrow('cancelled');
    await (await connection.channel()).queueDelete('q');
    await cancelled;
    await connection.close();
  });
});
