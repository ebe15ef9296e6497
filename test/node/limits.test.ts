// Limits of queues and messages, and what dead letters say of themselves, from the client's frames through the cluster and back.

import { beforeAll, describe, expect, test } from 'vitest';
import type { Method } from '../../node/amqp/methods.ts';
import { consume } from '../amqp/harness.ts';
import { AmqpWorld, declareQueue, get, headersOf, type Speaker } from '../support/amqp-world.ts';

const confirm: Method = { kind: 'confirm.select', nowait: false };
/** expiration, as text. */
const expires = (text: string) => `0100 0${text.length} ${Buffer.from(text).toString('hex')}`;
const dlx = (routingKey: string) => ({ 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': routingKey });

describe('limits', () => {
  let world: AmqpWorld;
  let client: Speaker;
  beforeAll(async () => {
    world = await AmqpWorld.start(3, 61);
    client = world.connect(1);
    // Until every node knows what the latest version does.
    await world.run(200);
    await client.send(declareQueue('dead'));
  });

  test('a message expires by its own expiration, and says how it died', async () => {
    await client.send(declareQueue('short', dlx('dead')));
    await client.publish('', 'short', 'late', expires('30'));
    await client.publish('', 'short', 'never');
    await world.run(400);
    await world.connect(2).send(get('dead'), get('short'));
    const [late, never] = world.speakers.at(-1)!.messages();
    expect([late!.body, never!.body]).toEqual(['late', 'never']);
    expect(late!.properties.readUInt16BE(0)).toBe(0x2000);
    const headers = headersOf(late!);
    expect(Object.keys(headers)).toEqual([
      'x-death',
      'x-last-death-queue',
      'x-last-death-reason',
      'x-last-death-exchange',
      'x-first-death-queue',
      'x-first-death-reason',
      'x-first-death-exchange',
    ]);
    expect(headers['x-death']).toMatchObject([
      {
        table: {
          count: 1,
          reason: 'expired',
          queue: 'short',
          exchange: '',
          'routing-keys': ['short'],
          'original-expiration': '30',
        },
      },
    ]);
    expect(headers).toMatchObject({ 'x-first-death-queue': 'short', 'x-last-death-reason': 'expired' });
  });

  test('a letter counts its deaths, and goes round by rejections only', async () => {
    await client.send(
      declareQueue('retry', { ...dlx('wait') }),
      declareQueue('wait', { ...dlx('retry'), 'x-message-ttl': 20 }),
    );
    const worker = world.connect(3);
    await worker.send(consume('retry', 'w'));
    await client.publish('', 'retry', 'job');
    for (let round = 1; round <= 3; round++) {
      const heard = worker.messages();
      expect(heard).toHaveLength(1);
      const deaths = headersOf(heard[0]!)['x-death'] as readonly { readonly table: object }[] | undefined;
      if (round === 1) expect(deaths).toBeUndefined();
      else
        expect(deaths!.map(({ table }) => table)).toMatchObject([
          { queue: 'wait', reason: 'expired', count: round - 1 },
          { queue: 'retry', reason: 'rejected', count: round - 1 },
        ]);
      await worker.send({ kind: 'basic.reject', deliveryTag: round, requeue: false });
      await world.run(400);
    }
    await worker.send({ kind: 'basic.cancel', consumerTag: 'w', nowait: false });

    // Two queues that hand each other what expires: it ends where it has been.
    const [a, b] = [
      { ...dlx('ring-b'), 'x-message-ttl': 20 },
      { ...dlx('ring-a'), 'x-message-ttl': 20 },
    ];
    await client.send(declareQueue('ring-a', a), declareQueue('ring-b', b));
    await client.publish('', 'ring-a', 'round');
    await world.run(600);
    const counts = await client.send(declareQueue('ring-a', a), declareQueue('ring-b', b));
    expect(counts.map((method) => (method as { messageCount: number }).messageCount)).toEqual([0, 0]);
  });

  test('a full queue drops its first, or has the publisher told', async () => {
    const limit = { 'x-max-length': 2 };
    const publisher = world.connect(2);
    await publisher.send(
      declareQueue('newest', { ...limit, ...dlx('dead') }),
      declareQueue('oldest', { ...limit, 'x-overflow': 'reject-publish' }),
      confirm,
    );
    publisher.methods();
    for (const queue of ['newest', 'oldest'])
      for (const body of ['1', '2', '3']) await publisher.publish('', queue, body);
    expect(publisher.methods().map(({ kind }) => kind)).toEqual([...Array(5).fill('basic.ack'), 'basic.nack']);
    await world.run(200);
    await publisher.send(...['newest', 'newest', 'oldest', 'oldest', 'dead'].map((queue) => get(queue)));
    const heard = publisher.messages();
    expect(heard.map(({ body }) => body)).toEqual(['2', '3', '1', '2', '1']);
    expect(headersOf(heard[4]!)).toMatchObject({ 'x-first-death-reason': 'maxlen', 'x-first-death-queue': 'newest' });
  });

  test('a transaction that a queue refuses a part of says so', async () => {
    const publisher = world.connect(2);
    await publisher.send(
      { kind: 'tx.select' },
      declareQueue('none', { 'x-max-length': 0, 'x-overflow': 'reject-publish' }),
    );
    publisher.methods();
    await publisher.publish('', 'none', 'x');
    expect(await publisher.send({ kind: 'tx.commit' })).toMatchObject([
      { kind: 'channel.close', replyCode: 406, replyText: 'PRECONDITION_FAILED - partial tx completion', classId: 90 },
    ]);
  });
});
