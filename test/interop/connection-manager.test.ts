// amqp-connection-manager, which keeps channels, what is set up on them, and messages not yet confirmed over the death of a node.

import { type ChannelWrapper, connect } from 'amqp-connection-manager';
import type { ConfirmChannel, ConsumeMessage } from 'amqplib';
import { expect, test } from 'vitest';
import { uniqueName, until } from './brokers.ts';
import { useHarness } from './programs.ts';

const harness = useHarness();
const numbers = (kind: string, count: number) => Array.from({ length: count }, (_, i) => `${kind} ${i}`);
const publishAll = (channel: ChannelWrapper, exchange: string, texts: readonly string[]) =>
  Promise.all(texts.map((text) => channel.publish(exchange, 'order.new', Buffer.from(text), { persistent: true })));

test('does the whole round', async () => {
  const name = uniqueName('manager');
  const dead = `${name}.dead`;
  const setup = async (channel: ConfirmChannel) => {
    await channel.assertExchange(dead, 'fanout', { durable: true });
    await channel.assertQueue(dead, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
    await channel.bindQueue(dead, dead, '');
    await channel.assertExchange(name, 'topic', { durable: true });
    await channel.assertQueue(name, {
      durable: true,
      arguments: { 'x-queue-type': 'quorum', 'x-dead-letter-exchange': dead },
    });
    await channel.bindQueue(name, name, 'order.*');
  };
  // Both begin at the first node and go to the next one that answers.
  const connection = connect([...harness().urls], { reconnectTimeInSeconds: 1 });
  const publisher = connection.createChannel({ setup, confirm: true, publishTimeout: 30_000 });
  const returned: string[] = [];
  await publisher.waitForConnect();
  await publisher.addSetup((channel: ConfirmChannel) => {
    channel.on('return', ({ fields }: { fields: { replyCode: number; replyText: string } }) =>
      returned.push(`${fields.replyCode} ${fields.replyText}`),
    );
  });

  await publishAll(publisher, name, numbers('order', 100));
  await publisher.publish(name, 'nobody.listens', Buffer.from('back'), { mandatory: true });
  expect(returned).toEqual(['312 NO_ROUTE']);

  const received: string[] = [];
  const again: boolean[] = [];
  const consumer = connection.createChannel({ setup });
  const receive = (message: ConsumeMessage) => {
    const text = message.content.toString();
    if (text !== 'again') {
      received.push(text);
      return consumer.ack(message);
    }
    again.push(message.fields.redelivered);
    consumer.nack(message, false, !message.fields.redelivered);
  };
  await consumer.consume(name, receive, { prefetch: 10 });
  await until(() => received.length === 100, 20_000);
  expect(received).toEqual(numbers('order', 100));

  const letters: ConsumeMessage[] = [];
  await consumer.consume(dead, (message) => void letters.push(message), { noAck: true });
  await publishAll(publisher, name, ['again']);
  await until(() => letters.length === 1, 20_000);
  expect(again).toEqual([false, true]);
  expect(letters[0]?.properties.headers?.['x-death']?.[0]).toMatchObject({ queue: name, reason: 'rejected', count: 1 });

  await publishAll(publisher, name, numbers('before', 20));
  const lost = new Promise<void>((resolve) => connection.once('disconnect', () => resolve()));
  await harness().kill(0);
  await lost;
  // Kept by the library until it has found another node.
  await publishAll(publisher, name, numbers('after', 20));
  await until(() => new Set(received).size === 140, 20_000);
  expect(new Set(received)).toEqual(
    new Set(['order', 'before', 'after'].flatMap((kind) => numbers(kind, kind === 'order' ? 100 : 20))),
  );

  await consumer.cancelAll();
  for (const each of [name, dead]) {
    await consumer.deleteQueue(each);
    await consumer.deleteExchange(each);
  }
  await connection.close();
});
