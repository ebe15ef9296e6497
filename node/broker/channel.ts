// One channel's side of the broker: publishing, consuming, settling. Topology is in `topology.ts`.
//
// State owned: this channel's consumers, and the leases that wait for its socket. Deliveries keep the order in which they were leased,
// whether their bytes are in memory or have to be read back from disk.

import {
  ConsumeFlag,
  PublishFlag,
  type QueueRecord,
  ResultCode,
  type Route,
  SettleOperation,
  settleFailed,
  viewMessage,
} from '../../cluster/index.ts';
import type {
  Binding,
  ChannelBackend,
  ChannelEvents,
  ConsumeRequest,
  ExchangeDeclaration,
  Got,
  Publication,
  QueueDeclaration,
  QueueState,
  Reply,
  Settlement,
} from '../amqp/backend.ts';
import { readHeaders } from '../amqp/properties.ts';
import { BrokerError } from '../errors.ts';
import { type Broker, type BrokerConnection, dropConsumer } from './broker.ts';
import { Confirms } from './confirms.ts';
import type { Consumer } from './consumer.ts';
import { Deliveries } from './deliveries.ts';
import * as topology from './topology.ts';

const noExpiration = 0xffff_ffff;

/** A route as remembered on a `Publication`. */
interface CachedRoute {
  readonly topologyVersion: number;
  readonly route: Route;
}

export class BrokerChannel implements ChannelBackend {
  readonly broker: Broker;
  readonly connection: BrokerConnection;
  readonly #events: ChannelEvents;
  readonly #consumers = new Set<Consumer>();
  readonly #getters = new Map<number, Consumer>();
  readonly #deliveries = new Deliveries();
  readonly #confirms: Confirms;
  /** The entry that the last delivery came from: the next one mostly comes from it too. */
  #entryShard = 0;
  #entryIndex = -1;
  #entryPayload: Buffer | null = null;
  #reading = false;
  /** The lease of a `get` whose result has not come yet. */
  #got: {
    leaseOrdinal: number;
    entryIndex: number;
    ordinal: number;
    redelivered: boolean;
    deliveryCount: number;
  } | null = null;
  #closed = false;

  constructor(broker: Broker, connection: BrokerConnection, events: ChannelEvents) {
    this.broker = broker;
    this.connection = connection;
    this.#events = events;
    this.#confirms = new Confirms(events);
  }

  // -- topology -------------------------------------------------------------------------------------------------------------------

  declareExchange(declaration: ExchangeDeclaration, reply: Reply<void>): void {
    topology.declareExchange(this.connection, declaration, reply);
  }
  checkExchange(name: string, reply: Reply<void>): void {
    topology.checkExchange(this.connection, name, reply);
  }
  deleteExchange(name: string, ifUnused: boolean, reply: Reply<void>): void {
    topology.deleteExchange(this.connection, name, ifUnused, reply);
  }
  declareQueue(declaration: QueueDeclaration, reply: Reply<QueueState>): void {
    topology.declareQueue(this.connection, declaration, reply);
  }
  checkQueue(name: string, reply: Reply<QueueState>): void {
    topology.checkQueue(this.connection, name, reply);
  }
  deleteQueue(name: string, ifUnused: boolean, ifEmpty: boolean, reply: Reply<{ readonly messages: number }>): void {
    topology.deleteQueue(this.connection, name, ifUnused, ifEmpty, reply);
  }
  purgeQueue(name: string, reply: Reply<{ readonly messages: number }>): void {
    topology.purgeQueue(this.connection, name, reply);
  }
  bind(binding: Binding, reply: Reply<void>): void {
    topology.bind(this.connection, binding, reply);
  }
  unbind(binding: Binding, reply: Reply<void>): void {
    topology.unbind(this.connection, binding, reply);
  }

  // -- publishing -----------------------------------------------------------------------------------------------------------------

  publish(
    publication: Publication,
    properties: Buffer,
    body: readonly Buffer[],
    bodyBytes: number,
    confirmTag: number,
  ): 'routed' | 'unroutable' | BrokerError {
    const { cluster } = this.broker;
    let cached = publication.route as CachedRoute | null;
    if (cached === null || cached.topologyVersion !== cluster.metadata.topologyVersion) {
      const found = this.#route(publication, properties);
      if (found instanceof BrokerError) return found;
      cached = found;
    }
    const { shards } = cached.route;
    if (shards.length === 0) return 'unroutable';
    this.connection.pauseIfCongested();
    const target = shards.length === 1 ? this.#confirms.one : this.#confirms.several(confirmTag, shards.length);
    // Without confirms only a mandatory message has somebody to tell.
    const told = confirmTag > 0 || publication.mandatory ? target : null;
    const flags = publication.mandatory ? PublishFlag.mandatory : 0;
    for (let i = 0; i < shards.length; i++) {
      const { shard, queues } = shards[i]!;
      const pipe = cluster.pipe(shard);
      // A group that has no majority for long takes nothing new: the publisher is told rather than left waiting.
      if (pipe.isStalled && confirmTag > 0) {
        this.#confirms.refuse(target, confirmTag);
        this.broker.channelDirty(this);
      } else
        pipe.publish(queues, flags, 0, noExpiration, publication.key, properties, body, bodyBytes, told, confirmTag);
    }
    return 'routed';
  }

  #route(publication: Publication, properties: Buffer): CachedRoute | BrokerError {
    const { metadata } = this.broker.cluster;
    const { vhost } = this.connection;
    const { exchange, routingKey } = publication;
    if (exchange !== '' && metadata.exchange(vhost, exchange)?.internal === true)
      return new BrokerError('access-refused', `cannot publish to internal exchange '${exchange}' in vhost '${vhost}'`);
    const route = metadata.route(vhost, exchange, routingKey, () => readHeaders(properties));
    if (route === undefined) return new BrokerError('not-found', `no exchange '${exchange}' in vhost '${vhost}'`);
    const cached = { topologyVersion: metadata.topologyVersion, route };
    publication.route = metadata.usesHeaders(vhost, exchange) ? null : cached;
    return cached;
  }

  // -- consuming ------------------------------------------------------------------------------------------------------------------

  consume(request: ConsumeRequest, reply: Reply<{ readonly consumer: number }>): void {
    const queue = topology.accessibleQueue(this.connection, request.queue);
    if (queue instanceof BrokerError) return reply({ ok: false, error: queue });
    const priority = request.arguments['x-priority'] ?? 0;
    if (typeof priority !== 'number')
      return reply({
        ok: false,
        error: new BrokerError('precondition-failed', `invalid arg 'x-priority' for queue '${queue.name}'`),
      });
    const consumer = this.#newConsumer(queue, request.noAck, request.noAck ? 0 : request.prefetch, false);
    const flags = (request.noAck ? ConsumeFlag.noAck : 0) | (request.exclusive ? ConsumeFlag.exclusive : 0);
    const { number, unsettledMax, grantedTo } = consumer;
    this.broker.cluster
      .pipe(queue.shard)
      .consume(
        { consumer: number, queue: queue.uid, unsettledMax, grantedTo, priority, flags, tag: request.tag },
        (result) => {
          if (result?.code === ResultCode.ok) {
            consumer.attached = true;
            return reply({ ok: true, value: { consumer: number } });
          }
          this.#forget(consumer);
          // Its fate is unknown: if it is attached after all, what it was given goes back.
          if (result === null) dropConsumer(this.broker, consumer);
          reply({ ok: false, error: this.#consumeError(result?.code ?? null, queue) });
        },
      );
  }

  #consumeError(code: ResultCode | null, queue: QueueRecord): BrokerError {
    if (code === ResultCode.exclusive)
      return new BrokerError('access-refused', `queue '${queue.name}' in vhost '${queue.vhost}' in exclusive use`);
    if (code === ResultCode.noQueue) return topology.noQueue(queue.vhost, queue.name);
    return topology.unavailable(queue);
  }

  cancel(number: number, reply: Reply<void>): void {
    const consumer = this.broker.consumers.get(number);
    if (consumer === undefined || consumer.channel !== this) return reply({ ok: true, value: undefined });
    consumer.cancelling = true;
    this.broker.cluster.pipe(consumer.shard).cancel(number, 0, () => {
      consumer.cancelled = true;
      this.#dropWhenSettled(consumer);
      reply({ ok: true, value: undefined });
    });
    this.broker.channelDirty(this); // what waits for the socket goes back
  }

  get(name: string, noAck: boolean, reply: Reply<Got | null>): void {
    const queue = topology.accessibleQueue(this.connection, name);
    if (queue instanceof BrokerError) return reply({ ok: false, error: queue });
    let getter = this.#getters.get(queue.uid);
    if (getter === undefined) {
      getter = this.#newConsumer(queue, false, 0, true);
      this.#getters.set(queue.uid, getter);
    }
    const { number } = getter;
    this.#got = null;
    // Always a lease, also without acknowledgement: so the message can be read again whatever this node's replica skipped.
    this.broker.cluster.pipe(queue.shard).get(number, queue.uid, 0, (result) => {
      if (result?.code === ResultCode.empty) return reply({ ok: true, value: null });
      if (result?.code === ResultCode.noQueue)
        return reply({ ok: false, error: topology.noQueue(queue.vhost, queue.name) });
      if (result === null) this.#abandonGetter(getter);
      const got = this.#got;
      this.#got = null;
      if (result?.code !== ResultCode.leased || got === null)
        return reply({ ok: false, error: topology.unavailable(queue) });
      this.broker.cluster.readPayload(queue.shard, got.entryIndex, (payload) => {
        // Gone: the queue was purged or deleted between the lease and now.
        if (payload === null) return reply({ ok: true, value: null });
        getter.outstanding++;
        if (noAck) this.settle('accept', number, got.leaseOrdinal, 1);
        const { leaseOrdinal, redelivered, deliveryCount } = got;
        const message = viewMessage(payload, got.ordinal);
        reply({
          ok: true,
          value: { consumer: number, leaseOrdinal, message, redelivered, deliveryCount, remaining: result.extra },
        });
      });
    });
  }

  settle(settlement: Settlement, number: number, first: number, count: number): void {
    const consumer = this.broker.consumers.get(number);
    if (consumer === undefined) return; // its queue was deleted
    const pipe = this.broker.cluster.pipe(consumer.shard);
    switch (settlement) {
      case 'accept':
        pipe.settle(SettleOperation.accept, 0, number, first, count);
        break;
      case 'requeue':
        pipe.settle(SettleOperation.requeue, 0, number, first, count);
        break;
      case 'reject':
        pipe.settle(SettleOperation.requeue, settleFailed, number, first, count);
        break;
      case 'discard':
        pipe.settle(SettleOperation.discard, settleFailed, number, first, count);
        break;
      default:
        settlement satisfies never;
    }
    consumer.outstanding -= count;
    if (consumer.cancelled) this.#dropWhenSettled(consumer);
  }

  deliveriesResumed(): void {
    this.pump();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#deliveries.clear();
    this.connection.channelClosed(this);
    for (const consumer of this.#consumers)
      if (this.broker.consumers.has(consumer.number)) dropConsumer(this.broker, consumer);
    this.#consumers.clear();
    this.#getters.clear();
  }

  /** This incarnation ended: the consumers are gone already. */
  abandon(): void {
    this.#closed = true;
    this.#deliveries.clear();
    this.#consumers.clear();
    this.#getters.clear();
  }

  // -- what the broker brings -----------------------------------------------------------------------------------------------------

  leased(
    consumer: Consumer,
    leaseOrdinal: number,
    entryIndex: number,
    ordinal: number,
    redelivered: boolean,
    deliveryCount: number,
  ): void {
    if (consumer.getter) {
      this.#got = { leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount };
      return;
    }
    this.#deliveries.push(consumer, leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount);
    this.broker.channelDirty(this);
  }

  consumerCancelled(consumer: Consumer): void {
    consumer.cancelling = true;
    this.#consumers.delete(consumer);
    if (consumer.getter) this.#getters.delete(consumer.queue);
    else this.#events.cancelled(consumer.number);
  }

  /** Delivers what waits, as far as the socket takes it. */
  pump(): void {
    this.#confirms.flush();
    if (this.#closed || this.#reading) return;
    const deliveries = this.#deliveries;
    const events = this.#events;
    while (deliveries.length > 0 && events.canDeliver) {
      const consumer = deliveries.consumer;
      if (consumer.cancelling) {
        if (this.broker.consumers.has(consumer.number)) this.#release(consumer, deliveries.leaseOrdinal);
        deliveries.shift();
        continue;
      }
      const payload = this.#payload(consumer.shard, deliveries.entryIndex);
      if (payload === undefined) return; // being read from disk
      if (payload !== null) this.#deliver(consumer, payload);
      deliveries.shift();
    }
    for (const consumer of this.#consumers) this.#grant(consumer);
  }

  #deliver(consumer: Consumer, payload: Buffer): void {
    const { leaseOrdinal, ordinal, redelivered, deliveryCount } = this.#deliveries;
    this.#events.deliver(consumer.number, leaseOrdinal, viewMessage(payload, ordinal), redelivered, deliveryCount);
    consumer.deliveredTo = leaseOrdinal;
    if (!consumer.noAck) consumer.outstanding++;
    else if (consumer.autoSettleCount === 0) {
      consumer.autoSettleFirst = leaseOrdinal;
      consumer.autoSettleCount = 1;
    } else consumer.autoSettleCount = leaseOrdinal - consumer.autoSettleFirst + 1;
  }

  /** After deliveries: settles for a consumer without acknowledgements, and opens its window again. */
  #grant(consumer: Consumer): void {
    const pipe = this.broker.cluster.pipe(consumer.shard);
    if (consumer.autoSettleCount > 0) {
      pipe.settle(SettleOperation.accept, 0, consumer.number, consumer.autoSettleFirst, consumer.autoSettleCount);
      consumer.autoSettleCount = 0;
    }
    const window = this.broker.options.consumerWindow;
    if (consumer.cancelling || consumer.grantedTo - consumer.deliveredTo > window / 2) return;
    consumer.grantedTo = consumer.deliveredTo + window;
    pipe.credit(consumer.number, consumer.unsettledMax, consumer.grantedTo);
  }

  #release(consumer: Consumer, leaseOrdinal: number): void {
    this.broker.cluster.pipe(consumer.shard).settle(SettleOperation.release, 0, consumer.number, leaseOrdinal, 1);
  }

  /** The entry's bytes, null when they are gone, undefined while they are being read. */
  #payload(shard: number, entryIndex: number): Buffer | null | undefined {
    if (shard === this.#entryShard && entryIndex === this.#entryIndex) return this.#entryPayload;
    const cached = this.broker.cluster.payload(shard, entryIndex);
    if (cached !== null) {
      this.#remember(shard, entryIndex, cached);
      return cached;
    }
    this.#reading = true;
    let inCall = true;
    this.broker.cluster.readPayload(shard, entryIndex, (payload) => {
      this.#reading = false;
      this.#remember(shard, entryIndex, payload);
      if (!inCall) this.pump();
    });
    inCall = false;
    return this.#reading ? undefined : this.#entryPayload;
  }

  #remember(shard: number, entryIndex: number, payload: Buffer | null): void {
    this.#entryShard = shard;
    this.#entryIndex = entryIndex;
    this.#entryPayload = payload;
  }

  #newConsumer(queue: QueueRecord, noAck: boolean, unsettledMax: number, getter: boolean): Consumer {
    const consumer: Consumer = {
      number: this.broker.newConsumerNumber(),
      shard: queue.shard,
      queue: queue.uid,
      channel: this,
      noAck,
      unsettledMax,
      getter,
      nextLease: 0,
      grantedTo: getter ? Number.MAX_SAFE_INTEGER : this.broker.options.consumerWindow,
      deliveredTo: 0,
      outstanding: 0,
      autoSettleFirst: 0,
      autoSettleCount: 0,
      attached: false,
      cancelling: false,
      cancelled: false,
    };
    this.#consumers.add(consumer);
    this.broker.consumers.set(consumer.number, consumer);
    return consumer;
  }

  /** A cancelled consumer lives on in the machine until the last message that it holds is settled. */
  #dropWhenSettled(consumer: Consumer): void {
    if (consumer.outstanding > 0 || this.#closed || !this.broker.consumers.has(consumer.number)) return;
    this.#consumers.delete(consumer);
    dropConsumer(this.broker, consumer);
  }

  /** What it may still be given goes back; the next `get` begins with a new one. */
  #abandonGetter(getter: Consumer): void {
    this.#getters.delete(getter.queue);
    getter.cancelling = true;
    getter.cancelled = true;
    this.#dropWhenSettled(getter);
  }

  #forget(consumer: Consumer): void {
    this.#consumers.delete(consumer);
    this.broker.consumers.delete(consumer.number);
  }
}
