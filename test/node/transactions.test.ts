// Transactions, from the client's frames to the machines of several shards.

import { beforeEach, describe, expect, test } from 'vitest';
import type { Method } from '../../node/amqp/methods.ts';
import { consume } from '../amqp/harness.ts';
import { AmqpWorld, declareQueue, get, type Speaker } from '../support/amqp-world.ts';

const select: Method = { kind: 'tx.select' };
const commit: Method = { kind: 'tx.commit' };
const rollback: Method = { kind: 'tx.rollback' };
const ack = (deliveryTag: number, multiple = false): Method => ({ kind: 'basic.ack', deliveryTag, multiple });

let world: AmqpWorld;
let client: Speaker;
let other: Speaker;
beforeEach(async () => {
  world = await AmqpWorld.start(3, 51);
  client = world.connect(1);
  other = world.connect(2);
  await client.send(select, declareQueue('a'), declareQueue('b'), declareQueue('c'));
});

/** As another node knows it, within a tick. */
const ready = async () => {
  await world.run(100);
  const methods = await other.send(...['a', 'b', 'c'].map((name) => declareQueue(name)));
  return methods.map((method) => (method as { messageCount: number }).messageCount);
};

describe('a transaction', () => {
  test('publishes nothing before its commit, and nothing after its rollback', async () => {
    for (const queue of ['a', 'b', 'c', 'a']) await client.publish('', queue, `for ${queue}`);
    expect(await ready()).toEqual([0, 0, 0]);
    expect(await client.send(commit)).toEqual([{ kind: 'tx.commit-ok' }]);
    expect(await ready()).toEqual([2, 1, 1]);
    await client.publish('', 'a', 'lost');
    expect(await client.send(rollback)).toEqual([{ kind: 'tx.rollback-ok' }]);
    expect(await client.send(commit)).toEqual([{ kind: 'tx.commit-ok' }]);
    expect(await ready()).toEqual([2, 1, 1]);
  });

  test('returns what is mandatory and finds no queue before it answers', async () => {
    await client.publish('', 'nowhere', 'lost', '0000', true);
    await client.publish('amq.fanout', '', 'lost too', '0000', true);
    expect(client.messages()).toEqual([]);
    client.client.send(1, commit);
    const frames: string[] = [];
    for (let i = 0; i < 20; i++) {
      await world.cluster.clock.run(5);
      for (const item of client.client.take()) if ('method' in item) frames.push(item.method.kind);
    }
    expect(frames).toEqual(['basic.return', 'basic.return', 'tx.commit-ok']);
  });

  test('settles with its commit; what was rolled back may be settled again', async () => {
    for (const body of ['1', '2', '3', '4']) await other.publish('', 'a', body);
    await client.send(consume('a', 'c'));
    expect(client.bodies()).toEqual(['1', '2', '3', '4']);
    await client.send(ack(2, true), rollback, ack(3), ack(2, true));
    await client.send({ kind: 'basic.nack', deliveryTag: 4, multiple: false, requeue: true });
    await world.run(50);
    expect(client.messages()).toEqual([]);
    expect(await client.send(commit)).toEqual([{ kind: 'tx.commit-ok' }]);
    expect(client.messages()).toMatchObject([{ method: { redelivered: true, deliveryTag: 5 }, body: '4' }]);
    // A tag that waits for its commit is not known a second time.
    expect(await client.send(ack(5), ack(5))).toMatchObject([
      { kind: 'channel.close', replyCode: 406, replyText: 'PRECONDITION_FAILED - unknown delivery tag 5' },
    ]);
    await world.run(50);
    expect(await other.send(get('a'))).toEqual([]);
    expect(other.bodies()).toEqual(['4']);
  });

  test('is one batch in each shard: settlements and publishes together', async () => {
    await other.publish('', 'a', 'in');
    await client.send(get('a', false));
    const { shard } = world.cluster.node(1).cluster.metadata.queue('/', 'a')!;
    const pipe = world.cluster.node(1).cluster.pipe(shard);
    for (let i = 0; i < 300; i++) await client.publish('', 'a', 'x'.repeat(1000));
    await client.send(ack(1));
    client.client.send(1, commit);
    expect(pipe.unappliedBytes).toBeGreaterThan(300_000);
    const before = world.cluster
      .node(1)
      .cluster.status()
      .groups.find(({ group }) => group === shard)!.lastIndex;
    await world.run(60);
    const { lastIndex } = world.cluster
      .node(1)
      .cluster.status()
      .groups.find(({ group }) => group === shard)!;
    expect(lastIndex - before).toBe(1);
    expect((await ready())[0]).toBe(300);
  });

  test('refuses an exchange that is not there at once', async () => {
    await client.publish('absent', 'k', 'x');
    expect(client.methods()).toMatchObject([{ kind: 'channel.close', replyCode: 404, classId: 60, methodId: 40 }]);
  });

  test('is forgotten with its channel', async () => {
    await client.publish('', 'a', 'x');
    await client.send({ kind: 'channel.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 });
    await client.send({ kind: 'channel.open', reserved1: '' }, select, commit);
    expect((await ready())[0]).toBe(0);
  });
});
