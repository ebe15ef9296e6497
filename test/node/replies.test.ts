// Direct reply-to, from the client's frames through three nodes and back.

import { beforeAll, describe, expect, test } from 'vitest';
import type { Method } from '../../node/amqp/methods.ts';
import { PropertyScan } from '../../node/amqp/properties.ts';
import { consume } from '../amqp/harness.ts';
import { AmqpWorld, declareQueue, type Heard, type Speaker } from '../support/amqp-world.ts';

const directReplyTo = 'amq.rabbitmq.reply-to';
/** correlation-id "7", reply-to. */
const asking = `0600 01 37 15 ${Buffer.from(directReplyTo).toString('hex')}`;
const replyToOf = ({ properties }: Heard) => {
  const scan = new PropertyScan();
  scan.scan(properties, 0, properties.length);
  return properties.toString('utf8', scan.replyToStart, scan.replyToEnd);
};
const passive = (queue: string) => declareQueue(queue, {}, { passive: true } as Partial<Method>);
const texts = (methods: Method[]) => methods.map((method) => (method as { replyText?: string }).replyText);

describe('direct reply-to', () => {
  let world: AmqpWorld;
  let client: Speaker;
  let server: Speaker;
  beforeAll(async () => {
    world = await AmqpWorld.start(3, 41);
    client = world.connect(1);
    server = world.connect(3);
    await server.send(declareQueue('work'), consume('work', 'w', true));
  });

  test('brings replies back from any node, and ends with its consumer', async () => {
    expect(await client.send(consume(directReplyTo, 'me', true))).toEqual([
      { kind: 'basic.consume-ok', consumerTag: 'me' },
    ]);
    await client.publish('', 'work', 'question', asking);
    const [question] = server.messages();
    expect(question!.body).toBe('question');
    const name = replyToOf(question!);
    expect(name).toMatch(/^amq\.rabbitmq\.reply-to\.[\w-]{22}$/);

    // It is there for who asks, whoever that is.
    await server.send(passive(name), declareQueue(name), passive(directReplyTo));
    expect(server.methods()).toEqual([]);
    await server.publish('', name, 'answer', '0400 01 37');
    const [answer] = client.messages();
    expect(answer!.method).toMatchObject({ consumerTag: 'me', deliveryTag: 1, exchange: '', routingKey: name });
    expect([answer!.body, answer!.properties.toString('hex')]).toEqual(['answer', '04000137']);

    await client.send({ kind: 'basic.cancel', consumerTag: 'me', nowait: false });
    await world.run(300);
    const other = world.connect(2);
    expect(texts(await other.send(passive(name)))).toEqual([`NOT_FOUND - no queue '${name}' in vhost '/'`]);
    await server.publish('', name, 'late', '0000', true);
    expect(server.messages()).toMatchObject([{ method: { kind: 'basic.return', replyCode: 312 }, body: 'late' }]);
    // Nobody would hear an answer.
    await client.publish('', 'work', 'question', asking);
    expect(client.methods()).toMatchObject([
      { kind: 'channel.close', replyCode: 406, replyText: 'PRECONDITION_FAILED - fast reply consumer does not exist' },
    ]);
  });

  test('declares its rules', async () => {
    const [first, second] = [world.connect(2), world.connect(2)];
    expect(texts(await first.send(consume(directReplyTo, 'a', false)))).toEqual([
      'PRECONDITION_FAILED - reply consumer cannot acknowledge',
    ]);
    await second.send(consume(directReplyTo, 'a', true));
    expect(texts(await second.send(consume(directReplyTo, 'b', true)))).toEqual([
      'PRECONDITION_FAILED - reply consumer already set',
    ]);
  });

  test('ends with its channel, and with its connection', async () => {
    const asker = world.connect(2);
    await asker.send(consume(directReplyTo, 'a', true));
    await asker.publish('', 'work', 'question', asking);
    const name = replyToOf(server.messages()[0]!);
    await asker.send({ kind: 'channel.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 });
    await world.run(300);
    expect(texts(await world.connect(3).send(passive(name)))).toHaveLength(1);
  });
});

test('CC and BCC are routing keys too; nobody sees BCC', async () => {
  const world = await AmqpWorld.start(1, 42);
  const client = world.connect();
  await client.send(...['a', 'b', 'c', 'd'].flatMap((name) => [declareQueue(name), consume(name, name, true)]));
  // CC: [b, c, b], BCC: [d].
  const text = (value: string) => `53 0000000${value.length} ${Buffer.from(value).toString('hex')}`;
  const array = (...values: string[]) =>
    `41 000000${(6 * values.length).toString(16).padStart(2, '0')} ${values.map(text).join(' ')}`;
  const cc = `02 4343 ${array('b', 'c', 'b')}`;
  const bcc = `03 424343 ${array('d')}`;
  const table = (...fields: string[]) => {
    const bytes = fields.join('').replaceAll(' ', '');
    return (bytes.length / 2).toString(16).padStart(8, '0') + bytes;
  };
  await client.publish('', 'a', 'x', `2000 ${table(cc, bcc)}`);
  const heard = client.messages();
  expect(heard.map(({ method }) => (method as { consumerTag: string }).consumerTag).sort()).toEqual([
    'a',
    'b',
    'c',
    'd',
  ]);
  for (const { properties } of heard) expect(properties.toString('hex')).toBe(`2000${table(cc)}`);
  await client.publish('', 'a', 'x', `2000 ${table(`02 4343 ${text('b')}`)}`);
  expect(client.methods().at(-1)).toMatchObject({
    kind: 'channel.close',
    replyCode: 406,
    replyText: 'PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"CC",longstr}',
  });
});
