// One channel's side of the broker: publishing, consuming, settling. Topology is in `topology.ts`.
//
// State owned: this channel's consumers. The leases that wait for its socket are in `delivering.ts`, what may be leased to
// whom in `windows.ts`.

import {
  ConsumeFlag,
  type QueueRecord,
  RemoveFlag,
  ResultCode,
  type Route,
  SettleOperation,
  settleFailed,
} from '../../cluster/index.ts';
import type {
  Binding,
  ChannelBackend,
  ChannelEvents,
  ConsumeRequest,
  Consuming,
  ExchangeDeclaration,
  Got,
  HeldPublish,
  HeldSettlement,
  Publication,
  QueueDeclaration,
  QueueState,
  Reply,
  Settlement,
  Traits,
} from '../amqp/backend.ts';
import { directReplyTo } from '../amqp/properties.ts';
import { BrokerError } from '../errors.ts';
import { noInteger } from './arguments.ts';
import { type Broker, type BrokerConnection, dropConsumer } from './broker.ts';
import { Confirms } from './confirms.ts';
import { type Consumer, hasRoomToSpare } from './consumer.ts';
import { Delivering } from './delivering.ts';
import { Letters } from './letters.ts';
import { expirationOf, flagsOf, routeTo } from './publishing.ts';
import { declareReplyQueue } from './replies.ts';
import * as topology from './topology.ts';
import { commit } from './transactions.ts';
import { Windows } from './windows.ts';

const noMetadata = () => ({ ok: false, error: topology.metadataUnavailable() }) as const;

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
  readonly #delivering: Delivering;
  readonly #windows: Windows;
  readonly #confirms: Confirms;
  /** Once it has rejected something. */
  #letters: Letters | null = null;
  /** The lease of a `get` whose result has not come yet. */
  #got: {
    leaseOrdinal: number;
    entryIndex: number;
    ordinal: number;
    redelivered: boolean;
    deliveryCount: number;
  } | null = null;
  #closed = false;
  /** A publish that was held turned out to be impossible. */
  #heldFailed = false;

  constructor(broker: Broker, connection: BrokerConnection, events: ChannelEvents) {
    this.broker = broker;
    this.connection = connection;
    this.#events = events;
    this.#confirms = new Confirms(events);
    this.#delivering = new Delivering(broker, events, () => this.pump());
    this.#windows = new Windows(broker, events, this.#delivering, () => this.pump());
  }

  // -- topology -------------------------------------------------------------------------------------------------------------------

  declareExchange(declaration: ExchangeDeclaration, reply: Reply<void>): void {
    this.#whenKnown(reply, (answer) => topology.declareExchange(this.connection, declaration, answer));
  }
  checkExchange(name: string, reply: Reply<void>): void {
    this.#whenKnown(reply, (answer) => topology.checkExchange(this.connection, name, answer));
  }
  deleteExchange(name: string, ifUnused: boolean, reply: Reply<void>): void {
    this.#whenKnown(reply, (answer) => topology.deleteExchange(this.connection, name, ifUnused, answer));
  }
  declareQueue(declaration: QueueDeclaration, reply: Reply<QueueState>): void {
    this.#whenKnown(reply, (answer) => topology.declareQueue(this.connection, declaration, answer));
  }
  checkQueue(name: string, reply: Reply<QueueState>): void {
    if (this.#letters?.mayBeUnderWay) return this.#letters.whenGone(() => this.checkQueue(name, reply));
    this.#whenKnown(reply, (answer) => topology.checkQueue(this.connection, name, answer));
  }
  deleteQueue(name: string, ifUnused: boolean, ifEmpty: boolean, reply: Reply<{ readonly messages: number }>): void {
    this.#whenKnown(reply, (answer) => topology.deleteQueue(this.connection, name, ifUnused, ifEmpty, answer));
  }
  purgeQueue(name: string, reply: Reply<{ readonly messages: number }>): void {
    this.#whenFresh(reply, () => topology.purgeQueue(this.connection, name, reply));
  }
  bind(binding: Binding, reply: Reply<void>): void {
    this.#whenKnown(reply, (answer) => topology.bind(this.connection, binding, answer));
  }
  unbind(binding: Binding, reply: Reply<void>): void {
    this.#whenKnown(reply, (answer) => topology.unbind(this.connection, binding, answer));
  }

  /** What is answered from the metadata is told once everybody who routes knows it too: who finds a queue here may use it anywhere. */
  #whenKnown<T>(reply: Reply<T>, operation: (answer: Reply<T>) => void): void {
    this.#whenFresh(reply, () => {
      let isKnown: boolean | null = null;
      let tell: (() => void) | null = null;
      this.broker.cluster.whenVisible((isVisible) => {
        isKnown = isVisible;
        tell?.();
      });
      operation((outcome) => {
        tell = () => reply(isKnown === true ? outcome : noMetadata());
        if (isKnown !== null) tell();
      });
    });
  }

  /** An operation that looks at the metadata: done once they may be relied on. */
  #whenFresh<T>(reply: Reply<T>, run: () => void): void {
    if (!this.connection.gate.isShut) return run();
    this.connection.hold({
      run: () => {
        if (!this.#closed) run();
      },
      refuse: () => {
        reply(noMetadata());
        return true;
      },
    });
  }

  // -- publishing -----------------------------------------------------------------------------------------------------------------

  publish(
    publication: Publication,
    properties: Buffer,
    body: readonly Buffer[],
    bodyBytes: number,
    confirmTag: number,
    traits: Traits | null = null,
  ): 'routed' | 'unroutable' | BrokerError {
    if (this.connection.gate.isShut) return this.#hold(publication, properties, body, confirmTag, traits);
    const { cluster } = this.broker;
    const route = this.route(publication, properties, traits);
    if (route instanceof BrokerError) return route;
    const { shards } = route;
    if (shards.length === 0) {
      this.broker.unroutable++;
      return 'unroutable';
    }
    const target = shards.length === 1 ? this.#confirms.one : this.#confirms.several(confirmTag, shards.length);
    // Without confirms only a mandatory message has somebody to tell.
    const told = confirmTag > 0 || publication.mandatory ? target : null;
    const flags = flagsOf(publication, traits);
    const priority = traits === null ? 0 : traits.priority;
    const expiration = expirationOf(traits);
    for (let i = 0; i < shards.length; i++) {
      const { shard, queues } = shards[i]!;
      const pipe = cluster.pipe(shard);
      // A group that has no majority for long takes nothing new: the publisher is told rather than left waiting.
      if (pipe.isStalled && confirmTag > 0) {
        this.#confirms.refuse(target, confirmTag);
        this.broker.channelDirty(this);
      } else {
        pipe.publish(
          this.connection,
          queues,
          flags,
          priority,
          expiration,
          publication.key,
          properties,
          body,
          bodyBytes,
          told,
          confirmTag,
        );
        this.connection.published(pipe);
      }
    }
    return 'routed';
  }

  /** This node may not route now: later, with copies of what belongs to the caller. */
  #hold(
    publication: Publication,
    properties: Buffer,
    body: readonly Buffer[],
    confirmTag: number,
    traits: Traits | null,
  ): 'routed' {
    const [keptProperties, keptBody] = [Buffer.from(properties), Buffer.concat(body)];
    this.connection.hold({
      run: () => this.#publishHeld(publication, keptProperties, keptBody, confirmTag, traits),
      refuse: () => {
        if (confirmTag > 0) this.#events.confirmed(confirmTag, confirmTag, false);
        return confirmTag > 0;
      },
    });
    return 'routed';
  }

  /** What `publish` would have answered is told by events. */
  #publishHeld(
    publication: Publication,
    properties: Buffer,
    body: Buffer,
    confirmTag: number,
    traits: Traits | null,
  ): void {
    // The channel ended by the failure of an earlier one.
    if (this.#heldFailed) return;
    const outcome = this.publish(publication, properties, [body], body.length, confirmTag, traits);
    if (outcome === 'routed') return;
    if (outcome !== 'unroutable') {
      this.#heldFailed = true;
      this.#events.publishFailed(outcome);
      return;
    }
    if (publication.mandatory) this.returnUnroutable(publication, properties, [body]);
    if (confirmTag > 0) this.#events.confirmed(confirmTag, confirmTag, true);
  }

  /** A mandatory message that found no queue goes back to its publisher. */
  returnUnroutable({ key }: Publication, properties: Buffer, body: readonly Buffer[]): void {
    const propertiesStart = key.length;
    const bodyStart = propertiesStart + properties.length;
    const payload = Buffer.concat([key, properties, ...body]);
    this.#events.returned({ payload, keyStart: 0, propertiesStart, bodyStart, bodyEnd: payload.length, before: [] });
  }

  /** Where a message goes by the metadata here. */
  route(publication: Publication, properties: Buffer, traits: Traits | null): Route | BrokerError {
    const { topologyVersion } = this.broker.cluster.metadata;
    const cached = publication.route as CachedRoute | null;
    const hasMoreKeys = traits !== null && traits.moreKeys.length > 0;
    if (cached !== null && cached.topologyVersion === topologyVersion && !hasMoreKeys) return cached.route;
    const { metadata } = this.broker.cluster;
    const { vhost } = this.connection;
    const error = this.checkPublication(publication);
    if (error !== null) return error;
    if (hasMoreKeys) return routeTo(metadata, vhost, publication, properties, traits.moreKeys);
    const route = routeTo(metadata, vhost, publication, properties, []);
    publication.route = metadata.usesHeaders(vhost, publication.exchange) ? null : { topologyVersion, route };
    return route;
  }

  checkPublication({ exchange: name }: Publication): BrokerError | null {
    if (name === '') return null;
    const { vhost } = this.connection;
    const exchange = this.broker.cluster.metadata.exchange(vhost, name);
    if (exchange === undefined) return new BrokerError('not-found', `no exchange '${name}' in vhost '${vhost}'`);
    return exchange.internal
      ? new BrokerError('access-refused', `cannot publish to internal exchange '${name}' in vhost '${vhost}'`)
      : null;
  }

  commit(publishes: readonly HeldPublish[], settlements: readonly HeldSettlement[], reply: Reply<void>): void {
    this.#whenFresh(reply, () => commit(this, this.#events, publishes, settlements, reply));
  }

  // -- consuming ------------------------------------------------------------------------------------------------------------------

  consume(request: ConsumeRequest, reply: Reply<Consuming>): void {
    this.#whenFresh(reply, () => {
      if (request.queue === directReplyTo) this.#consumeReplies(request, reply);
      else this.#consume(request, reply);
    });
  }

  /** From a queue of its own, whose name takes the place of the one that stands for it. It goes with its consumer. */
  #consumeReplies(request: ConsumeRequest, reply: Reply<Consuming>): void {
    declareReplyQueue(this.connection, (declared) => {
      if (!declared.ok) return reply(declared);
      const replyTo = declared.value;
      this.#consume({ ...request, queue: replyTo }, (outcome) =>
        reply(outcome.ok ? { ok: true, value: { ...outcome.value, replyTo } } : outcome),
      );
    });
  }

  #consume(request: ConsumeRequest, reply: Reply<Consuming>): void {
    const queue = topology.accessibleQueue(this.connection, request.queue);
    if (queue instanceof BrokerError) return reply({ ok: false, error: queue });
    const { 'x-priority': priority = 0 } = request.arguments;
    // Any whole number of 32 bits.
    if (typeof priority !== 'number' || priority !== (priority | 0))
      return reply({
        ok: false,
        error: new BrokerError(
          'precondition-failed',
          `invalid arg 'x-priority' for queue '${queue.name}' in vhost '${queue.vhost}': ${noInteger(priority)}`,
        ),
      });
    const consumer = this.#newConsumer(queue, request.noAck, request.noAck ? 0 : request.prefetch, false);
    const flags = (request.noAck ? ConsumeFlag.noAck : 0) | (request.exclusive ? ConsumeFlag.exclusive : 0);
    const { number, unsettledMax, grantedTo } = consumer;
    this.broker.cluster
      .pipe(queue.shard)
      .consume(
        this.connection,
        { consumer: number, queue: queue.uid, unsettledMax, grantedTo, priority, flags, tag: request.tag },
        (result) => {
          if (result?.code === ResultCode.ok) {
            consumer.attached = true;
            this.broker.channelDirty(this);
            return reply({ ok: true, value: { consumer: number } });
          }
          this.#forget(consumer);
          consumer.cancelling = true;
          this.broker.channelDirty(this);
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
    this.broker.cluster.pipe(consumer.shard).cancel(this.connection, number, 0, () => {
      consumer.cancelled = true;
      this.#dropWhenSettled(consumer);
      const answer = () => reply({ ok: true, value: undefined });
      if (consumer.autoDelete) this.#finishAutoDelete(consumer, answer);
      else answer();
    });
    this.broker.channelDirty(this); // what waits for the socket goes back
  }

  /** If that was the queue's last consumer, its shard has sealed it: its client is told when the metadata know it no more, either. */
  #finishAutoDelete({ shard, queue: uid }: Consumer, done: () => void): void {
    const { cluster } = this.broker;
    cluster.pipe(shard).remove(this.connection, uid, RemoveFlag.ifUnused, (result) => {
      if (result === null || result.code === ResultCode.inUse) done();
      else cluster.changeMetadata({ kind: 'deleteQueue', uid }, done);
    });
  }

  get(name: string, noAck: boolean, reply: Reply<Got | null>): void {
    this.#whenFresh(reply, () => this.#get(name, noAck, reply));
  }

  #get(name: string, noAck: boolean, reply: Reply<Got | null>): void {
    const queue = topology.accessibleQueue(this.connection, name);
    if (queue instanceof BrokerError) return reply({ ok: false, error: queue });
    let getter = this.#getters.get(queue.uid);
    if (getter === undefined) {
      getter = this.#newConsumer(queue, false, 0, true);
      this.#getters.set(queue.uid, getter);
    }
    const { number } = getter;
    getter.polling = true;
    this.#got = null;
    // Always a lease, also without acknowledgement: so the message can be read again whatever this node's replica skipped.
    this.broker.cluster.pipe(queue.shard).get(this.connection, number, queue.uid, 0, (result) => {
      getter.polling = false;
      if (result?.code === ResultCode.empty) {
        if (this.#letters?.mayBeUnderWay) return this.#letters.whenGone(() => this.get(name, noAck, reply));
        return reply({ ok: true, value: null });
      }
      if (result?.code === ResultCode.noQueue)
        return reply({ ok: false, error: topology.noQueue(queue.vhost, queue.name) });
      if (result === null) this.#abandonGetter(getter);
      const got = this.#got;
      this.#got = null;
      if (result?.code !== ResultCode.leased || got === null)
        return reply({ ok: false, error: topology.unavailable(queue) });
      const { leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount } = got;
      // Closed meanwhile: nobody has seen it, and it goes back with its consumer.
      const isWanted = () => !this.#closed;
      if (!isWanted()) return;
      getter.unseen = leaseOrdinal;
      this.broker.cluster.readMessages(queue.shard, entryIndex, [ordinal], isWanted, ([message]) => {
        if (!isWanted()) return;
        getter.unseen = 0;
        // Gone: the queue was deleted between the lease and now.
        if (message === null || message === undefined) return reply({ ok: true, value: null });
        getter.outstanding++;
        if (noAck) this.settle('accept', number, leaseOrdinal, 1);
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
    consumer.outstanding -= count;
    switch (settlement) {
      case 'accept': {
        const hasRoom = hasRoomToSpare(consumer, count, pipe.openNumber);
        const canWait = hasRoom && !consumer.cancelling && this.#windows.limit === 0;
        pipe.settle(SettleOperation.accept, 0, number, first, count, canWait);
        break;
      }
      case 'requeue':
        pipe.settle(SettleOperation.requeue, 0, number, first, count);
        break;
      case 'reject':
        pipe.settle(SettleOperation.requeue, settleFailed, number, first, count);
        break;
      case 'discard':
        pipe.settle(SettleOperation.discard, settleFailed, number, first, count);
        this.#letters ??= new Letters(this.connection);
        this.#letters.rejected(consumer);
        break;
      default:
        settlement satisfies never;
    }
    if (consumer.cancelled) this.#dropWhenSettled(consumer);
    if (this.#windows.limit === 0) return;
    // The room goes with the settlement to who made it; the others hear at the end of the turn.
    this.#windows.grant(consumer);
    this.broker.channelDirty(this);
  }

  limit(unsettledMax: number): void {
    this.#windows.limit = unsettledMax;
    this.pump();
  }

  deliveriesResumed(): void {
    this.pump();
  }

  close(done: () => void = () => {}): void {
    if (this.#closed) return done();
    this.#closed = true;
    this.#windows.close();
    this.#letters?.close();
    const unwritten = this.#delivering.close();
    this.connection.channelClosed(this);
    let pending = 1;
    const oneIsDone = () => {
      if (--pending === 0) done();
    };
    for (const consumer of this.#consumers) {
      if (!this.broker.consumers.has(consumer.number)) continue;
      pending++;
      this.#end(consumer, unwritten.get(consumer) ?? [], oneIsDone);
    }
    this.#consumers.clear();
    this.#getters.clear();
    oneIsDone();
  }

  /**
   * Drops a consumer. What was never written to the socket goes back first, as if it had not been leased; but only once the machine
   * leases it nothing more, or it would get the same again.
   */
  #end(
    consumer: Consumer,
    unwritten: readonly { readonly first: number; readonly count: number }[],
    done: () => void,
  ): void {
    const { broker } = this;
    const { shard, number, getter, unseen, prefetch, outstanding } = consumer;
    const drop = () => {
      if (!broker.consumers.has(number)) return done();
      this.#delivering.release(consumer, unwritten);
      if (unseen > 0) this.#delivering.release(consumer, [{ first: unseen, count: 1 }]);
      dropConsumer(broker, consumer, done);
    };
    const mayBeLeasedMore = getter ? consumer.polling : prefetch === 0 || outstanding < prefetch;
    consumer.cancelling = true;
    if (consumer.cancelled || !mayBeLeasedMore) drop();
    else broker.cluster.pipe(shard).cancel(this.connection, number, 0, drop);
  }

  /** This incarnation ended: the consumers are gone already. */
  abandon(): void {
    this.#closed = true;
    this.#windows.close();
    this.#letters?.close();
    this.#delivering.close();
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
    this.#delivering.leased(consumer, leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount);
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
    if (this.#closed) return;
    this.#delivering.pump();
    for (const consumer of this.#consumers) {
      if (consumer.autoSettleCount > 0) this.#autoSettle(consumer);
      this.#windows.grant(consumer);
    }
    this.#windows.watch();
  }

  /** What was written to a consumer without acknowledgements. */
  #autoSettle(consumer: Consumer): void {
    const { shard, number, autoSettleFirst, autoSettleCount, unsettledMax } = consumer;
    const pipe = this.broker.cluster.pipe(shard);
    pipe.settle(SettleOperation.accept, 0, number, autoSettleFirst, autoSettleCount, unsettledMax === 0);
    consumer.autoSettleCount = 0;
  }

  /** The shard of a consumer of this channel; undefined: its queue was deleted. */
  shardOf(number: number): number | undefined {
    return this.broker.consumers.get(number)?.shard;
  }

  #newConsumer(queue: QueueRecord, noAck: boolean, prefetch: number, getter: boolean): Consumer {
    const { unsettledMax, grantedTo } = this.#windows.first(noAck, prefetch);
    const consumer: Consumer = {
      number: this.broker.newConsumerNumber(),
      shard: queue.shard,
      queue: queue.uid,
      autoDelete: queue.autoDelete,
      channel: this,
      noAck,
      prefetch,
      unsettledMax,
      getter,
      nextLease: 0,
      grantedTo: getter ? Number.MAX_SAFE_INTEGER : grantedTo,
      deliveredTo: 0,
      outstanding: 0,
      accepted: 0,
      acceptedIn: 0,
      polling: false,
      unseen: 0,
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
    // What waits for the socket was never shown to anybody.
    const { deliveredTo, nextLease } = consumer;
    if (nextLease > deliveredTo + 1)
      this.#delivering.release(consumer, [{ first: deliveredTo + 1, count: nextLease - deliveredTo - 1 }]);
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
