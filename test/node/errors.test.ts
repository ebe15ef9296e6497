// What clients must not ask of the broker: each case in RabbitMQ's codes, on its level, and in its words.

import { beforeAll, describe, expect, test } from 'vitest';
import type { Arguments } from '../../node/amqp/backend.ts';
import type { Method } from '../../node/amqp/methods.ts';
import { consume } from '../amqp/harness.ts';
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

  test('deleting what is not there is no error', async () => {
    const client = world.connect();
    const methods = await client.send(remove('absent'), removeExchange('absent'));
    expect(methods).toEqual([{ kind: 'queue.delete-ok', messageCount: 0 }, { kind: 'exchange.delete-ok' }]);
  });
});
