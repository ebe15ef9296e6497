// A channel that rejects messages and looks for them where dead letters go, at once.

import { describe, expect, it } from 'vitest';
import type { Arguments } from '../../node/amqp/backend.ts';
import type { Method } from '../../node/amqp/methods.ts';
import type { Broker } from '../../node/broker/broker.ts';
import type { Consumer } from '../../node/broker/consumer.ts';
import { Letters } from '../../node/broker/letters.ts';
import { FakeClock, methodFrame, publishFrames } from '../amqp/harness.ts';
import { AmqpWorld, declareQueue, get } from '../support/amqp-world.ts';

const reject = (deliveryTag: number): Method => ({ kind: 'basic.reject', deliveryTag, requeue: false });
const toDead = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' };

describe.each([
  ['queues on disk', {}],
  ['queues in memory', { durable: false } as Partial<Method>],
])('dead letters of %s', (_, more) => {
  it('are found by the get that follows the rejection, all of them, and then none', async () => {
    const world = await AmqpWorld.start(3, 72);
    const client = world.connect(2);
    await client.send(declareQueue('dead', {}, more), declareQueue('q', toDead, more));
    const tags = [1, 2, 3, 4, 5];
    client.client.bytes(...tags.map((tag) => publishFrames(1, '', 'q', Buffer.from(`${tag}`))));
    client.client.send(
      1,
      ...tags.flatMap((tag) => [get('q', false), reject(tag)]),
      ...tags.map(() => get('dead')),
      get('dead'),
    );
    await world.run(200);
    expect(client.bodies()).toEqual(['1', '2', '3', '4', '5', '1', '2', '3', '4', '5']);
    expect(client.methods()).toMatchObject([{ kind: 'basic.get-empty' }]);
  });

  it('are counted by the passive declaration that follows it', async () => {
    const world = await AmqpWorld.start(1, 73);
    const client = world.connect();
    await client.send(declareQueue('dead', {}, more), declareQueue('q', toDead, more));
    client.client.bytes(publishFrames(1, '', 'q', Buffer.from('x')));
    const count = declareQueue('dead', {}, { passive: true } as Partial<Method>);
    client.client.bytes(...[get('q', false), reject(1), count].map((method) => methodFrame(1, method)));
    await world.run(200);
    expect(client.methods()).toMatchObject([{ kind: 'queue.declare-ok', messageCount: 1 }]);
  });
});

describe('waiting for letters', () => {
  function start(terms: Arguments) {
    const clock = new FakeClock();
    const world = { owed: true, applied: [] as (() => void)[] };
    const cluster = {
      metadata: { effectiveArguments: () => terms },
      owesLetters: () => world.owed,
      pipe: () => ({ whenApplied: (_source: object, done: () => void) => void world.applied.push(done) }),
    };
    const broker = { cluster, clock, options: { lettersMilliseconds: 100 } } as unknown as Broker;
    const letters = new Letters({ broker });
    const told: number[] = [];
    const wait = () => letters.whenGone(() => told.push(clock.now()));
    return { clock, letters, world, told, wait };
  }
  const consumer = { shard: 3, queue: 7 } as Consumer;

  it('ends when the rejections have been applied and nothing is owed any more', () => {
    const { clock, letters, world, told, wait } = start(toDead);
    letters.rejected(consumer);
    letters.rejected(consumer);
    expect(letters.mayBeUnderWay).toBe(true);
    wait();
    world.owed = false;
    clock.advance(20);
    expect([told, world.applied.length]).toEqual([[], 1]);
    world.owed = true;
    for (const done of world.applied) done();
    clock.advance(20);
    expect(told).toEqual([]);
    world.owed = false;
    clock.advance(20);
    expect([told, letters.mayBeUnderWay, clock.timerCount]).toEqual([[42], false, 0]);
  });

  it('ends after a while whatever is owed, and is not begun again for the same rejections', () => {
    const { clock, letters, told, wait } = start(toDead);
    letters.rejected(consumer);
    wait();
    clock.advance(1000);
    expect([told, letters.mayBeUnderWay]).toEqual([[100], false]);
  });

  it('ends with its channel', () => {
    const { clock, letters, told, wait } = start(toDead);
    letters.rejected(consumer);
    wait();
    letters.close();
    clock.advance(1000);
    expect([told, clock.timerCount]).toEqual([[], 0]);
  });

  it('is nothing where rejected messages are dropped', () => {
    const { letters } = start({});
    letters.rejected(consumer);
    expect(letters.mayBeUnderWay).toBe(false);
  });
});
