// What clients must not ask of the broker: each case in RabbitMQ's codes, on its level, and in its words.

import { beforeAll, describe, expect, test } from 'vitest';
import type { Arguments } from '../../node/amqp/backend.ts';
import type { Method } from '../../node/amqp/methods.ts';
import { consume, methodFrame, publishFrames } from '../amqp/harness.ts';
import { AmqpWorld, declareQueue, get, type Speaker } from '../support/amqp-world.ts';

type Case = readonly [
  name: string,
  replyCode: number,
  replyText: string,
  id: readonly [number, number],
  method: Method,
];

const declareExchange = (exchange: string, type = 'direct', more: object = {}): Method =>
  ({
    kind: 'exchange.declare',
    ticket: 0,
    exchange,
    type,
    passive: false,
    durable: true,
    autoDelete: false,
    internal: false,
    nowait: false,
    arguments: {},
    ...more,
  }) as Method;
const bind = (queue: string, exchange: string, args: Arguments = {}): Method => ({
  kind: 'queue.bind',
  ticket: 0,
  queue,
  exchange,
  routingKey: '',
  nowait: false,
  arguments: args,
});
const passive = (queue: string) => declareQueue(queue, {}, { passive: true } as Partial<Method>);
const remove = (queue: string, ifUnused = false, ifEmpty = false): Method => ({
  kind: 'queue.delete',
  ticket: 0,
  queue,
  ifUnused,
  ifEmpty,
  nowait: false,
});
const purge = (queue: string): Method => ({ kind: 'queue.purge', ticket: 0, queue, nowait: false });
const removeExchange = (exchange: string, ifUnused = false): Method => ({
  kind: 'exchange.delete',
  ticket: 0,
  exchange,
  ifUnused,
  nowait: false,
});
const exclusively = (queue: string): Method => ({ ...consume(queue, 'x'), exclusive: true }) as Method;
const argument = (name: string, value: Arguments[string], problem: string, more: Arguments = {}): Case => [
  `${name} ${JSON.stringify(value)}`,
  406,
  `PRECONDITION_FAILED - invalid arg '${name}' for queue 'new' in vhost '/': ${problem}`,
  [50, 10],
  declareQueue('new', { [name]: value, ...more }),
];
const limits: Arguments = { 'x-max-length': 5, 'x-dead-letter-exchange': 'a', 'x-mine': { double: 5 } };
const inequivalent = (name: string, value: Arguments[string] | undefined, problem: string): Case => {
  const { [name]: _same, ...others } = limits;
  return [
    `406 ${name} ${JSON.stringify(value)} declared again`,
    406,
    `PRECONDITION_FAILED - inequivalent arg '${name}' for queue 'limited' in vhost '/': received ${problem}`,
    [50, 10],
    declareQueue('limited', value === undefined ? others : { ...others, [name]: value }),
  ];
};
const quorum = { 'x-queue-type': 'quorum' };
const property = (name: string, more: Partial<Method>): Case => [
  `a quorum queue that is ${name}`,
  406,
  `PRECONDITION_FAILED - invalid property '${name}' for queue 'new' in vhost '/'`,
  [50, 10],
  declareQueue('new', quorum, more),
];
const locked =
  "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.";
const noQueue = "NOT_FOUND - no queue 'absent' in vhost '/'";
const noExchange = "NOT_FOUND - no exchange 'absent' in vhost '/'";
const defaultExchange = 'ACCESS_REFUSED - operation not permitted on the default exchange';
const reserved = (what: string) => `ACCESS_REFUSED - ${what} name 'amq.new' contains reserved prefix 'amq.*'`;

const cases: readonly Case[] = [
  ['403 a reserved queue name', 403, reserved('queue'), [50, 10], declareQueue('amq.new')],
  ['403 a reserved exchange name', 403, reserved('exchange'), [40, 10], declareExchange('amq.new')],
  ['403 deletion of the default exchange', 403, defaultExchange, [40, 20], removeExchange('')],
  ['403 a binding to the default exchange', 403, defaultExchange, [50, 20], bind('there', '')],
  [
    '403 a second consumer beside an exclusive one',
    403,
    "ACCESS_REFUSED - queue 'taken' in vhost '/' in exclusive use",
    [60, 20],
    consume('taken', 'c'),
  ],
  [
    '403 an exclusive consumer beside another',
    403,
    "ACCESS_REFUSED - queue 'shared' in vhost '/' in exclusive use",
    [60, 20],
    exclusively('shared'),
  ],
  ['404 a passive declaration', 404, noQueue, [50, 10], passive('absent')],
  ['404 consume', 404, noQueue, [60, 20], consume('absent', 'c')],
  ['404 get', 404, noQueue, [60, 70], get('absent')],
  ['404 purge', 404, noQueue, [50, 30], purge('absent')],
  ['404 an exchange', 404, noExchange, [40, 10], declareExchange('absent', 'direct', { passive: true })],
  ['404 a binding from no exchange', 404, noExchange, [50, 20], bind('there', 'absent')],
  ['404 a binding of no queue', 404, noQueue, [50, 20], bind('absent', 'amq.direct')],
  ['405 declare', 405, locked, [50, 10], declareQueue('mine')],
  ['405 a passive declaration', 405, locked, [50, 10], passive('mine')],
  ['405 consume', 405, locked, [60, 20], consume('mine', 'c')],
  ['405 get', 405, locked, [60, 70], get('mine')],
  ['405 purge', 405, locked, [50, 30], purge('mine')],
  ['405 delete', 405, locked, [50, 40], remove('mine')],
  ['405 bind', 405, locked, [50, 20], bind('mine', 'amq.direct')],
  [
    '406 another durability',
    406,
    "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'there' in vhost '/': received 'false' but current is 'true'",
    [50, 10],
    declareQueue('there', {}, { durable: false } as Partial<Method>),
  ],
  [
    '406 another type of exchange',
    406,
    "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.direct' in vhost '/': received 'fanout' but current is 'direct'",
    [40, 10],
    declareExchange('amq.direct', 'fanout'),
  ],
  [
    '406 not empty',
    406,
    "PRECONDITION_FAILED - queue 'full' in vhost '/' not empty",
    [50, 40],
    remove('full', false, true),
  ],
  ['406 in use', 406, "PRECONDITION_FAILED - queue 'shared' in vhost '/' in use", [50, 40], remove('shared', true)],
  [
    '406 an exchange in use',
    406,
    "PRECONDITION_FAILED - exchange 'bound' in vhost '/' in use",
    [40, 20],
    removeExchange('bound', true),
  ],
  argument('x-expires', 0, '{value_zero,0}'),
  argument('x-expires', 'soon', '"expected integer, got longstr"'),
  argument('x-message-ttl', -1, '{value_negative,-1}'),
  argument('x-max-length', -1, '{value_negative,-1}'),
  argument('x-max-length-bytes', 'much', '"expected integer, got longstr"'),
  argument('x-max-length', { double: 5 }, '"expected integer, got double"'),
  argument('x-expires', 0.5, '"expected integer, got double"'),
  inequivalent('x-max-length', 6, "'6' but current is '5'"),
  // Integers of any width are the same, doubles are no integers.
  inequivalent('x-max-length', { double: 5 }, "'5.0' but current is '5'"),
  inequivalent('x-max-length', 'five', "'five' but current is '5'"),
  inequivalent('x-max-length', undefined, "none but current is the value '5' of type 'signedint'"),
  inequivalent('x-max-length-bytes', 7, "the value '7' of type 'signedint' but current is none"),
  inequivalent('x-dead-letter-exchange', 'b', "'b' but current is 'a'"),
  argument('x-max-priority', 256, '{max_value_exceeded,256}'),
  argument('x-overflow', 'odd', 'invalid_overflow'),
  [
    'a dead-letter exchange that is no name',
    406,
    "PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'new' in vhost '/'",
    [50, 10],
    declareQueue('new', { 'x-dead-letter-exchange': 7 }),
  ],
  [
    'an alternate exchange that is no name',
    406,
    "PRECONDITION_FAILED - invalid type 'bool' for arg 'alternate-exchange' in exchange 'new' in vhost '/'",
    [40, 10],
    declareExchange('new', 'direct', { arguments: { 'alternate-exchange': true } }),
  ],
  [
    'a headers binding of no known kind',
    406,
    'PRECONDITION_FAILED - Invalid x-match field value <<"odd">>; expected all, any, all-with-x, or any-with-x',
    [50, 20],
    bind('there', 'amq.headers', { 'x-match': 'odd' }),
  ],
  [
    'a priority of a consumer that is no number',
    406,
    "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'there' in vhost '/': \"expected integer, got longstr\"",
    [60, 20],
    { ...consume('there', 'c'), arguments: { 'x-priority': 'high' } } as Method,
  ],
  argument('x-dead-letter-routing-key', 'key', 'routing_key_but_no_dlx_defined'),
  argument('x-single-active-consumer', 'yes', '{unacceptable_type,longstr}'),
  argument('x-queue-type', 'odd', '"unsupported queue type \'odd\'"'),
  property('auto-delete', { autoDelete: true } as Partial<Method>),
  property('exclusive-owner', { exclusive: true } as Partial<Method>),
  property('non-durable', { durable: false } as Partial<Method>),
];

describe('channel errors of the broker', () => {
  let world: AmqpWorld;
  let owner: Speaker;
  beforeAll(async () => {
    world = await AmqpWorld.start(1, 71);
    owner = world.connect();
    await owner.send(
      ...['there', 'taken', 'shared', 'full'].map((name) => declareQueue(name)),
      declareQueue('limited', limits),
      declareQueue('mine', {}, { exclusive: true, durable: false } as Partial<Method>),
      declareExchange('bound'),
      bind('there', 'bound'),
      exclusively('taken'),
      consume('shared', 's'),
    );
    await owner.publish('', 'full', 'x');
  });

  test.each(cases)('%s', async (_name, replyCode, replyText, [classId, methodId], method) => {
    const client = world.connect();
    const close = { kind: 'channel.close', replyCode, replyText: replyText.slice(0, 255), classId, methodId };
    expect((await client.send(method)).at(-1)).toEqual(close);
    // The connection goes on, with the same number for a new channel.
    expect(await client.send({ kind: 'channel.close-ok' }, { kind: 'channel.open', reserved1: '' })).toMatchObject([
      { kind: 'channel.open-ok' },
    ]);
    expect(owner.methods().filter(({ kind }) => kind === 'channel.close')).toEqual([]);
  });

  test('a queue is declared again with the same numbers, of whatever width', async () => {
    const again = { ...limits, 'x-max-length': { int64: '5' }, 'x-mine': 5.5, 'x-queue-type': 'classic' };
    const methods = await world.connect().send(declareQueue('limited', again));
    expect(methods).toMatchObject([{ kind: 'queue.declare-ok', queue: 'limited' }]);
  });

  test('what a double is compared with is its number: a header of a message, a binding', async () => {
    const client = world.connect();
    const headers = {
      'x-match': 'all',
      size: { double: 5 },
      list: [{ double: 1 }],
      more: { table: { of: { double: 2 } } },
    };
    const methods = await client.send(bind('there', 'amq.headers', headers), bind('there', 'amq.headers', headers));
    expect(methods).toEqual([{ kind: 'queue.bind-ok' }, { kind: 'queue.bind-ok' }]);
    const { metadata } = world.cluster.node(1).cluster;
    const found = (size: Arguments[string]) =>
      metadata.route('/', 'amq.headers', '', () => ({ size, list: [1], more: { table: { of: 2 } } }), [])!.shards
        .length;
    expect([found(5), found({ double: 5 }), found(6)]).toEqual([1, 1, 0]);
  });

  test('a declaration, passive or not, counts what was published and requeued before it on its channel', async () => {
    const client = world.connect();
    await client.send(declareQueue('counted'));
    const counts = async (method: Method) =>
      (await client.send(method)).map((answer) =>
        answer.kind === 'queue.declare-ok' ? answer.messageCount : answer.kind,
      );
    const publish = (body: string) => publishFrames(1, '', 'counted', Buffer.from(body));
    const frames = [publish('a'), publish('b'), methodFrame(1, passive('counted'))];
    client.client.bytes(...frames, publish('c'), methodFrame(1, declareQueue('counted')));
    expect(await counts(passive('counted'))).toEqual([2, 3, 3]);
    const back: Method = { kind: 'basic.nack', deliveryTag: 1, multiple: false, requeue: true };
    client.client.bytes(methodFrame(1, get('counted', false)), methodFrame(1, passive('counted')));
    client.client.bytes(methodFrame(1, back), methodFrame(1, passive('counted')));
    expect(await counts(passive('counted'))).toEqual([2, 3, 3]);
    expect(await counts(remove('counted'))).toEqual(['queue.delete-ok']);
  });

  test('deleting what is not there is no error', async () => {
    const client = world.connect();
    const methods = await client.send(remove('absent'), removeExchange('absent'));
    expect(methods).toEqual([{ kind: 'queue.delete-ok', messageCount: 0 }, { kind: 'exchange.delete-ok' }]);
  });
});
