// Declaring, deleting, binding: what a client may ask of the metadata, checked against this node's copy of it first, decided by the
// replicated machine, and told in RabbitMQ's words (clients read them).

import {
  type ArgumentValue,
  CancelFlag,
  type Difference,
  type ExchangeRecord,
  exchangeDifference,
  type QueueRecord,
  queueDifference,
  RemoveFlag,
  ResultCode,
} from '../../cluster/index.ts';
import type { Binding, ExchangeDeclaration, QueueDeclaration, QueueState, Reply } from '../amqp/backend.ts';
import { BrokerError } from '../errors.ts';
import {
  differenceHere,
  invalidArgument,
  invalidMatch,
  invalidProperty,
  notExchange,
  plain,
  textOf,
  typeOf,
} from './arguments.ts';
import type { BrokerConnection } from './broker.ts';
import { checkReplyName, isReplyName } from './replies.ts';

export const noQueue = (vhost: string, name: string) =>
  new BrokerError('not-found', `no queue '${name}' in vhost '${vhost}'`);
const noExchange = (vhost: string, name: string) =>
  new BrokerError('not-found', `no exchange '${name}' in vhost '${vhost}'`);

/** The group did not answer in time: what was asked may or may not have happened. */
export const unavailable = (queue: { readonly vhost: string; readonly name: string }) =>
  new BrokerError(
    'unavailable',
    `queue '${queue.name}' in vhost '${queue.vhost}' has no majority of its replicas at the moment`,
  );
export const metadataUnavailable = () =>
  new BrokerError('unavailable', 'the cluster has no majority of its nodes at the moment');

function fail<T>(reply: Reply<T>, error: BrokerError): void {
  reply({ ok: false, error });
}
function succeed(reply: Reply<void>): void {
  reply({ ok: true, value: undefined });
}

// -- queues -----------------------------------------------------------------------------------------------------------------------

/** The queue, if it exists and this connection may use it. */
export function accessibleQueue(connection: BrokerConnection, name: string): QueueRecord | BrokerError {
  const queue = connection.broker.cluster.metadata.queue(connection.vhost, name);
  if (queue === undefined) return noQueue(connection.vhost, name);
  return isForeign(connection, queue) ? locked(queue) : queue;
}

function isForeign(connection: BrokerConnection, { exclusive }: QueueRecord): boolean {
  if (exclusive === null) return false;
  const { node, incarnation, connection: number } = connection.id;
  return exclusive.node !== node || exclusive.incarnation !== incarnation || exclusive.connection !== number;
}

const locked = ({ vhost, name }: QueueRecord) =>
  new BrokerError(
    'resource-locked',
    `cannot obtain exclusive access to locked queue '${name}' in vhost '${vhost}'. It could be originally declared on another ` +
      'connection or the exclusive property value does not match that of the original declaration.',
  );

/** To be asked for counts as a use of a queue that expires without any: a consumer that is given nothing comes, and goes. */
function countUse(connection: BrokerConnection, { shard, uid, autoDelete, arguments: declared }: QueueRecord): void {
  const { broker } = connection;
  const { cluster } = broker;
  const terms = cluster.metadata.effectiveArguments(uid) ?? declared;
  // One that goes with its last consumer would go with this one, and has lived by its consumers anyway.
  if (terms['x-expires'] === undefined || autoDelete) return;
  const consumer = broker.newConsumerNumber();
  const nothing = { unsettledMax: 1, grantedTo: 0, priority: 0, flags: 0, tag: '' };
  const pipe = cluster.pipe(shard);
  pipe.consume(connection, { consumer, queue: uid, ...nothing }, () => {});
  pipe.cancel(connection, consumer, CancelFlag.returnLeases, null);
}

/** A queue that is there: its state, from here at once, or from another node. What its client published and settled before is in it. */
function answerState(connection: BrokerConnection, queue: QueueRecord, reply: Reply<QueueState>): void {
  const { cluster } = connection.broker;
  countUse(connection, queue);
  let isAtOnce = true;
  const tell = () =>
    cluster.queueStatus(queue.shard, queue.uid, (status) => {
      const value = { name: queue.name, messages: status?.ready ?? 0, consumers: status?.consumers ?? 0 };
      if (isAtOnce) return reply({ ok: true, value });
      // What is answered later is not held back for others by the channel: who finds a queue here may use it anywhere.
      cluster.whenVisible((isVisible) => (isVisible ? reply({ ok: true, value }) : fail(reply, metadataUnavailable())));
    });
  const pipe = cluster.pipe(queue.shard);
  if (pipe.isStalled) tell();
  else pipe.whenApplied(connection, tell);
  isAtOnce = false;
}

/** An existing queue answers a declaration: with its state, or with the difference. */
function answerDeclared(
  connection: BrokerConnection,
  queue: QueueRecord,
  wanted: QueueDeclaration,
  reply: Reply<QueueState>,
) {
  if (isForeign(connection, queue) || wanted.exclusive !== (queue.exclusive !== null))
    return fail(reply, locked(queue));
  const difference = queueDifference(queue, wanted) ?? differenceHere(queue.arguments, wanted.arguments);
  if (difference === null) return answerState(connection, queue, reply);
  const { vhost, name } = queue;
  fail(reply, inequivalent(difference, `queue '${name}' in vhost '${vhost}'`));
}

function inequivalent({ name, existing, wanted }: Difference, what: string): BrokerError {
  // Types are only named where there is nothing to compare with.
  const isCompared = existing !== undefined && wanted !== undefined;
  const text = (value: ArgumentValue | undefined) => {
    if (value === undefined || value === null) return 'none';
    return isCompared ? `'${textOf(value)}'` : `the value '${textOf(value)}' of type '${typeOf(value)}'`;
  };
  return new BrokerError(
    'precondition-failed',
    `inequivalent arg '${name}' for ${what}: received ${text(wanted)} but current is ${text(existing)}`,
  );
}

export function declareQueue(connection: BrokerConnection, asked: QueueDeclaration, reply: Reply<QueueState>): void {
  const { cluster, random } = connection.broker;
  // An exclusive queue goes with its connection: whether it was to be durable is no difference.
  const durable = asked.durable && !asked.exclusive;
  const wanted = { ...asked, durable };
  const { vhost } = connection;
  if (isReplyName(wanted.name)) return checkReplyName(connection, wanted.name, reply);
  const name = wanted.name === '' ? `amq.gen-${random.bytes(16).toString('base64url')}` : wanted.name;
  const existing = cluster.metadata.queue(vhost, name);
  if (existing !== undefined) return answerDeclared(connection, existing, wanted, reply);
  if (wanted.name.startsWith('amq.'))
    return fail(reply, new BrokerError('access-refused', `queue name '${name}' contains reserved prefix 'amq.*'`));
  const invalid = invalidArgument(vhost, name, wanted.arguments) ?? invalidProperty(vhost, name, wanted);
  if (invalid !== null) return fail(reply, invalid);
  const exclusive = wanted.exclusive ? connection.id : null;
  if (wanted.exclusive) connection.ownsQueues = true;
  const { autoDelete } = wanted;
  const home = { node: cluster.node, incarnation: cluster.incarnation };
  cluster.changeMetadata(
    {
      kind: 'declareQueue',
      vhost,
      name,
      durable,
      autoDelete,
      exclusive,
      arguments: plain(wanted.arguments),
      home,
      near: cluster.ledShards(),
    },
    (result) => {
      const queue = cluster.metadata.queue(vhost, name);
      if (result === null) return fail(reply, metadataUnavailable());
      if (result.code === ResultCode.refused)
        return fail(reply, new BrokerError('precondition-failed', `queue '${name}' in vhost '${vhost}' was refused`));
      // It may have been deleted again since.
      if (queue === undefined) return reply({ ok: true, value: { name, messages: 0, consumers: 0 } });
      answerDeclared(connection, queue, wanted, reply);
    },
  );
}

export function checkQueue(connection: BrokerConnection, name: string, reply: Reply<QueueState>): void {
  if (isReplyName(name)) return checkReplyName(connection, name, reply);
  const queue = accessibleQueue(connection, name);
  if (queue instanceof BrokerError) fail(reply, queue);
  else answerState(connection, queue, reply);
}

type Count = { readonly messages: number };

export function deleteQueue(
  connection: BrokerConnection,
  name: string,
  ifUnused: boolean,
  ifEmpty: boolean,
  reply: Reply<Count>,
): void {
  const { cluster } = connection.broker;
  const { vhost } = connection;
  const queue = cluster.metadata.queue(vhost, name);
  if (queue === undefined) return reply({ ok: true, value: { messages: 0 } });
  if (isForeign(connection, queue)) return fail(reply, locked(queue));
  const flags = (ifUnused ? RemoveFlag.ifUnused : 0) | (ifEmpty ? RemoveFlag.ifEmpty : 0);
  // The shard seals the queue; from then on its deletion is certain, whoever drives it.
  cluster.pipe(queue.shard).remove(connection, queue.uid, flags, (result) => {
    if (result === null) return fail(reply, unavailable(queue));
    if (result.code === ResultCode.inUse)
      return fail(reply, new BrokerError('precondition-failed', `queue '${name}' in vhost '${vhost}' in use`));
    if (result.code === ResultCode.notEmpty)
      return fail(reply, new BrokerError('precondition-failed', `queue '${name}' in vhost '${vhost}' not empty`));
    cluster.changeMetadata({ kind: 'deleteQueue', uid: queue.uid }, (deleted) => {
      if (deleted === null) fail(reply, metadataUnavailable());
      else reply({ ok: true, value: { messages: result.value } });
    });
  });
}

export function purgeQueue(connection: BrokerConnection, name: string, reply: Reply<Count>): void {
  const queue = accessibleQueue(connection, name);
  if (queue instanceof BrokerError) return fail(reply, queue);
  connection.broker.cluster.pipe(queue.shard).purge(connection, queue.uid, (result) => {
    if (result === null) fail(reply, unavailable(queue));
    else if (result.code === ResultCode.noQueue) fail(reply, noQueue(queue.vhost, name));
    else reply({ ok: true, value: { messages: result.value } });
  });
}

// -- exchanges --------------------------------------------------------------------------------------------------------------------

const defaultExchangeRefused = () =>
  new BrokerError('access-refused', 'operation not permitted on the default exchange');

function answerExchange(exchange: ExchangeRecord, wanted: ExchangeDeclaration, reply: Reply<void>): void {
  const difference = exchangeDifference(exchange, wanted);
  if (difference === null) return succeed(reply);
  fail(reply, inequivalent(difference, `exchange '${exchange.name}' in vhost '${exchange.vhost}'`));
}

export function declareExchange(connection: BrokerConnection, wanted: ExchangeDeclaration, reply: Reply<void>): void {
  const { cluster } = connection.broker;
  const { vhost } = connection;
  const { name, type, durable, autoDelete, internal, arguments: args } = wanted;
  if (name === '') return fail(reply, defaultExchangeRefused());
  const existing = cluster.metadata.exchange(vhost, name);
  if (existing !== undefined) return answerExchange(existing, wanted, reply);
  if (name.startsWith('amq.'))
    return fail(reply, new BrokerError('access-refused', `exchange name '${name}' contains reserved prefix 'amq.*'`));
  const misnamed = notExchange(args, 'alternate-exchange', `exchange '${name}' in vhost '${vhost}'`);
  if (misnamed !== null) return fail(reply, misnamed);
  cluster.changeMetadata(
    { kind: 'declareExchange', vhost, name, type, durable, autoDelete, internal, arguments: plain(args) },
    (result) => {
      const exchange = cluster.metadata.exchange(vhost, name);
      if (result === null) return fail(reply, metadataUnavailable());
      if (result.code === ResultCode.refused)
        return fail(
          reply,
          new BrokerError('precondition-failed', `exchange '${name}' in vhost '${vhost}' was refused`),
        );
      if (exchange === undefined) succeed(reply);
      else answerExchange(exchange, wanted, reply);
    },
  );
}

export function checkExchange(connection: BrokerConnection, name: string, reply: Reply<void>): void {
  const { vhost } = connection;
  if (name !== '' && connection.broker.cluster.metadata.exchange(vhost, name) === undefined)
    fail(reply, noExchange(vhost, name));
  else succeed(reply);
}

export function deleteExchange(
  connection: BrokerConnection,
  name: string,
  ifUnused: boolean,
  reply: Reply<void>,
): void {
  const { cluster } = connection.broker;
  const { vhost } = connection;
  if (name === '') return fail(reply, defaultExchangeRefused());
  if (name.startsWith('amq.'))
    return fail(reply, new BrokerError('access-refused', `exchange name '${name}' contains reserved prefix 'amq.*'`));
  if (cluster.metadata.exchange(vhost, name) === undefined) return succeed(reply);
  cluster.changeMetadata({ kind: 'deleteExchange', vhost, name, ifUnused }, (result) => {
    if (result === null) fail(reply, metadataUnavailable());
    else if (result.code === ResultCode.inUse)
      fail(reply, new BrokerError('precondition-failed', `exchange '${name}' in vhost '${vhost}' in use`));
    else succeed(reply);
  });
}

// -- bindings ---------------------------------------------------------------------------------------------------------------------

export function bind(connection: BrokerConnection, binding: Binding, reply: Reply<void>): void {
  changeBinding('bind', connection, binding, reply);
}

export function unbind(connection: BrokerConnection, binding: Binding, reply: Reply<void>): void {
  changeBinding('unbind', connection, binding, reply);
}

function changeBinding(
  kind: 'bind' | 'unbind',
  connection: BrokerConnection,
  binding: Binding,
  reply: Reply<void>,
): void {
  const { cluster } = connection.broker;
  const { vhost } = connection;
  const { source, destination, routingKey, arguments: args } = binding;
  if (source === '' || (destination.kind === 'exchange' && destination.name === ''))
    return fail(reply, defaultExchangeRefused());
  const missing = missingEnd(connection, binding);
  // What is not there is not bound either: unbinding it succeeds, as deleting does.
  if (missing?.code === 'not-found' && kind === 'unbind') return succeed(reply);
  if (missing !== null) return fail(reply, missing);
  cluster.changeMetadata({ kind, vhost, source, destination, routingKey, arguments: plain(args) }, (result) => {
    if (result === null) fail(reply, metadataUnavailable());
    else if (result.code === ResultCode.notFound && kind === 'unbind') succeed(reply);
    else if (result.code === ResultCode.notFound)
      fail(reply, missingEnd(connection, binding) ?? noExchange(vhost, source));
    else if (result.code === ResultCode.refused) {
      const text = `binding of '${destination.name}' to exchange '${source}' was refused`;
      fail(reply, invalidMatch(args) ?? new BrokerError('precondition-failed', text));
    } else succeed(reply);
  });
}

/** What is missing for a binding: its queue, its exchange, or the right to them. */
function missingEnd(connection: BrokerConnection, { source, destination }: Binding): BrokerError | null {
  const { metadata } = connection.broker.cluster;
  const { vhost } = connection;
  if (destination.kind === 'queue') {
    const queue = accessibleQueue(connection, destination.name);
    if (queue instanceof BrokerError) return queue;
  } else if (metadata.exchange(vhost, destination.name) === undefined) return noExchange(vhost, destination.name);
  return metadata.exchange(vhost, source) === undefined ? noExchange(vhost, source) : null;
}
