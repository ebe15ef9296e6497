// One channel: what its client sent is done in order, and what comes of it is told.
//
// PURE. State owned: the unfinished publish, delivery tags, confirms, consumers, the last declared queue, and the frames that wait behind a
// pending reply. Life: open → (discarding, after we sent channel.close, until the client's close-ok; or leaving, after the client's, until what it
// held is back in its queues) → ended.
// Invariants:
// - At most one reply is pending; later frames wait in `#backlog`, in order. Deliveries, returns and confirms go on meanwhile.
// - A lease is settled exactly once: its delivery tag is taken when the client settles it, and what is left goes back with `backend.close`.
// - Settlements reach the broker in the order in which the client sent them, before any later call, and at the latest at the end of a chunk.
// - After the end nothing is written and the broker is not called again; late replies are dropped.

import { BrokerError } from '../errors.ts';
import type {
  ChannelBackend,
  ChannelEvents,
  Consuming,
  Got,
  HeldSettlement,
  Reply,
  Settlement,
  StoredMessage,
} from './backend.ts';
import { readU32, readU64 } from './bytes.ts';
import { Confirms } from './confirms.ts';
import { Content } from './content.ts';
import type { Counters } from './counters.ts';
import { DeliveryTags } from './delivery-tags.ts';
import { FrameType, undecodable } from './frames.ts';
import { type Method, type MethodArguments, type MethodId, methodId, readMethod } from './methods.ts';
import { directReplyTo, withDeliveryCount } from './properties.ts';
import { encodeShortString } from './table.ts';
import { Topology, type TopologyHost, type TopologyMethod } from './topology.ts';
import { Transaction } from './transaction.ts';
import type { FrameWriter } from './writer.ts';

/** What a channel needs of its connection. */
export interface ChannelHost {
  readonly writer: FrameWriter;
  readonly counters: Counters;
  readonly user: string;
  readonly messageBytesMax: number;
  readonly consumersPerChannelMax: number;
  /** The client understands basic.cancel from us. */
  readonly cancelNotify: boolean;
  /** So many replies wait for the socket that no more should be made. */
  readonly isStuffed: boolean;
  makeConsumerTag(): string;
  /** Closes the connection. */
  fail(error: BrokerError, method: MethodId): void;
  /** The channel's number is free again. */
  ended(channel: Channel): void;
  /** Confirms wait for `flushConfirms` at the end of the turn. Called once per turn. */
  confirmsPending(channel: Channel): void;
  /** Frames waiting behind a reply, and unfinished messages: bytes more or less. */
  backlogChanged(bytes: number): void;
  heldChanged(bytes: number): void;
}

interface Consumer {
  readonly number: number;
  readonly tag: string;
  /** As a short string. */
  readonly tagBytes: Buffer;
  readonly noAck: boolean;
}

interface WaitingFrame {
  readonly type: number;
  readonly payload: Buffer;
}
/** What a waiting frame costs beside its bytes, about. */
const waitingFrameBytes = 128;

type Life = 'open' | 'discarding' | 'leaving' | 'ended';

export class Channel implements ChannelEvents, TopologyHost {
  readonly number: number;
  readonly #host: ChannelHost;
  readonly #writer: FrameWriter;
  readonly #counters: Counters;
  readonly #backend: ChannelBackend;
  readonly #content: Content;
  readonly #topology: Topology;
  readonly #tags = new DeliveryTags();
  #confirms: Confirms | null = null;
  #confirmsAnnounced = false;
  /** After tx.select: what waits for the commit. */
  #transaction: Transaction | null = null;
  #life: Life = 'open';
  /** The method being done: errors name it. */
  #method: MethodId = 0;

  #replyPending = false;
  /** Tags to tell the client of once it has the pending reply: to its own queue.delete that one comes first. */
  #cancelledTags: string[] = [];
  #proceeding = false;
  #backlog: WaitingFrame[] = [];
  #backlogHead = 0;
  /** Frames have to wait: a reply is pending or others wait already. */
  #isBlocked = false;
  #heldReported = 0;

  #nextDeliveryTag = 1;
  readonly #consumersByTag = new Map<string, Consumer>();
  readonly #consumers = new Map<number, Consumer>();
  #lastConsumer: Consumer | undefined;
  /** The consumer of `directReplyTo`, or the tag of the one that is being made. */
  #replyConsumer: string | null = null;
  /** Prefetch of later consumers, and of the whole channel; 0: no limit. */
  #prefetch = 0;
  #windowMax = 0;
  /** The window was used up: the broker parks deliveries until it is told. */
  #windowWasFull = false;

  /** A run of settlements that was not handed on yet: leases [first, first + count) of a consumer. */
  #settlement: Settlement = 'accept';
  #settleConsumer = 0;
  #settleFirst = 0;
  #settleCount = 0;

  constructor(number: number, host: ChannelHost, open: (events: ChannelEvents) => ChannelBackend) {
    this.number = number;
    this.#host = host;
    this.#writer = host.writer;
    this.#counters = host.counters;
    this.#content = new Content(host.user, host.messageBytesMax);
    this.#backend = open(this);
    this.#topology = new Topology(this, this.#backend);
  }

  get isOpen(): boolean {
    return this.#life === 'open';
  }

  // ---- frames from the client

  /** A method, content header or body frame. Its bytes stay valid until `chunkDone`. */
  frame(type: number, bytes: Buffer, start: number, end: number): void {
    if (this.#life !== 'open') this.#discard(type, bytes, start, end);
    else if (this.#isBlocked) this.#wait(type, bytes, start, end);
    else this.#take(type, bytes, start, end);
  }

  /** The chunk's bytes are about to go, and its settlements are complete. */
  chunkDone(): void {
    if (this.#life !== 'open') return;
    this.#flushSettlements();
    if (this.#content.isUnfinished) this.#content.keep();
    const held = this.#content.reservedBytes + (this.#transaction === null ? 0 : this.#transaction.heldBytes);
    if (held !== this.#heldReported) this.#reportHeld(held);
    this.#resumeWindow();
  }

  #reportHeld(bytes: number): void {
    const change = bytes - this.#heldReported;
    this.#heldReported = bytes;
    if (change !== 0) this.#host.heldChanged(change);
  }

  #take(type: number, bytes: Buffer, start: number, end: number): void {
    if (type === FrameType.method) {
      this.#takeMethod(bytes, start, end);
      return;
    }
    // Whose content it is, if anybody's.
    const method = this.#content.isUnfinished ? methodId.basicPublish : 0;
    const error =
      type === FrameType.header ? this.#content.header(bytes, start, end) : this.#content.piece(bytes, start, end);
    if (error !== null) {
      this.#method = method;
      this.fail(error);
    } else if (this.#content.isComplete) {
      this.#publish();
    }
  }

  #takeMethod(bytes: Buffer, start: number, end: number): void {
    const id = end - start < 4 ? 0 : readU32(bytes, start);
    this.#method = id;
    if (this.#content.isUnfinished) {
      this.#method = methodId.basicPublish;
      this.fail(this.#content.unexpectedFrame());
    } else if (id === methodId.basicPublish) {
      const error = this.#content.begin(bytes, start, end);
      if (error !== null) this.fail(error);
    } else if (id === methodId.basicAck && end - start === 13) {
      this.#settle(readU64(bytes, start + 4), (bytes[start + 12]! & 1) !== 0, 'accept');
    } else if (this.#host.isStuffed) {
      this.#wait(FrameType.method, bytes, start, end);
    } else {
      const method = readMethod(bytes, start, end);
      if (method === 'malformed') this.fail(undecodable(bytes, start + 4, end));
      else this.#takeRareMethod(method);
    }
  }

  #takeRareMethod(method: Method | 'unknown'): void {
    if (method === 'unknown') return this.fail(new BrokerError('command-invalid', 'unknown method'));
    this.#flushSettlements();
    if (!this.#dispatch(method)) this.fail(new BrokerError('command-invalid', 'unimplemented method'));
  }

  /** False: a method that no client may send on a channel. */
  #dispatch(method: Method): boolean {
    switch (method.kind) {
      case 'basic.reject':
        this.#settle(method.deliveryTag, false, method.requeue ? 'reject' : 'discard');
        return true;
      case 'basic.nack':
        this.#settle(method.deliveryTag, method.multiple, method.requeue ? 'requeue' : 'discard');
        return true;
      case 'basic.get':
        this.#get(method);
        return true;
      case 'basic.qos':
        this.#qos(method);
        return true;
      case 'basic.consume':
        this.#consume(method);
        return true;
      case 'basic.cancel':
        this.#cancel(method);
        return true;
      case 'basic.recover':
      case 'basic.recover-async':
        this.#recover(method);
        return true;
      case 'confirm.select':
        this.#confirmSelect(method.nowait);
        return true;
      case 'tx.select':
        this.#txSelect();
        return true;
      case 'tx.commit':
        this.#commit();
        return true;
      case 'tx.rollback':
        this.#rollback();
        return true;
      case 'channel.flow':
        if (method.active) this.send({ kind: 'channel.flow-ok', active: true });
        else this.fail(new BrokerError('not-implemented', 'active=false'));
        return true;
      case 'channel.open':
        this.fail(new BrokerError('channel-error', "second 'channel.open' seen"));
        return true;
      case 'channel.close':
        this.#closedByClient();
        return true;
      case 'access.request':
        this.send({ kind: 'access.request-ok', ticket: 1 });
        return true;
      case 'basic.cancel-ok':
      case 'channel.flow-ok':
      case 'channel.close-ok':
        // Answers to what we need no answer for, or that crossed the end of an earlier channel of this number.
        return true;
      default:
        return isTopology(method) && this.#topology.handle(method);
    }
  }

  // ---- replies, and what waits behind them

  ask<T>(then: (value: T) => void): Reply<T> {
    const method = this.#method;
    this.#replyPending = true;
    this.#isBlocked = true;
    let answered = false;
    return (outcome) => {
      if (answered) throw new Error('the broker answered twice');
      answered = true;
      this.#replyPending = false;
      if (this.#life === 'ended') return;
      this.#method = method;
      if (!outcome.ok) this.fail(outcome.error);
      else if (this.#life === 'open') then(outcome.value);
      this.#tellCancelled();
      this.proceed();
    };
  }

  send(method: Method): void {
    this.#writer.method(this.number, method);
  }

  /** Does what waits, until a reply is pending again or the socket is stuffed with replies. */
  proceed(): void {
    if (this.#proceeding || this.#replyPending) return;
    this.#proceeding = true;
    const hadWaiting = this.#backlogHead < this.#backlog.length;
    while (this.#backlogHead < this.#backlog.length && !this.#replyPending && !this.#host.isStuffed) {
      const { type, payload } = this.#nextWaiting();
      if (this.#life === 'open') this.#take(type, payload, 0, payload.length);
      else this.#discard(type, payload, 0, payload.length);
    }
    if (this.#backlogHead === this.#backlog.length && hadWaiting) {
      this.#backlog = [];
      this.#backlogHead = 0;
    }
    this.#proceeding = false;
    this.#isBlocked = this.#replyPending || this.#backlogHead < this.#backlog.length;
    if (hadWaiting) this.chunkDone();
  }

  #discardBacklog(): void {
    while (this.#backlogHead < this.#backlog.length) {
      const { type, payload } = this.#nextWaiting();
      this.#discard(type, payload, 0, payload.length);
    }
  }

  #nextWaiting(): WaitingFrame {
    const frame = this.#backlog[this.#backlogHead++]!;
    this.#host.backlogChanged(-frame.payload.length - waitingFrameBytes);
    return frame;
  }

  #wait(type: number, bytes: Buffer, start: number, end: number): void {
    this.#backlog.push({ type, payload: Buffer.from(bytes.subarray(start, end)) });
    this.#isBlocked = true;
    this.#host.backlogChanged(end - start + waitingFrameBytes);
  }

  // ---- publishing

  #publish(): void {
    const content = this.#content;
    this.#counters.publishes++;
    this.#counters.publishedBytes += content.bodyBytes;
    if (this.#transaction !== null) return this.#hold(this.#transaction);
    const tag = this.#confirms === null ? 0 : this.#confirms.next();
    const result = this.#backend.publish(
      content.publication!,
      content.properties,
      content.body,
      content.bodyBytes,
      tag,
      content.traits,
    );
    if (result !== 'routed') this.#notRouted(result, tag);
    content.reset();
  }

  #notRouted(result: 'unroutable' | BrokerError, tag: number): void {
    if (result !== 'unroutable') {
      this.#method = methodId.basicPublish;
      this.fail(result);
      return;
    }
    const { publication, properties, body, bodyBytes } = this.#content;
    if (publication!.mandatory) {
      this.#counters.returned++;
      this.#writer.returned(this.number, publication!.key, properties, body, bodyBytes);
    }
    if (tag > 0) this.confirmed(tag, tag, true);
  }

  #confirmSelect(nowait: boolean): void {
    if (this.#transaction !== null)
      return this.fail(new BrokerError('precondition-failed', 'cannot switch from tx to confirm mode'));
    this.#confirms ??= new Confirms();
    if (!nowait) this.send({ kind: 'confirm.select-ok' });
  }

  // ---- transactions

  #txSelect(): void {
    if (this.#confirms !== null)
      return this.fail(new BrokerError('precondition-failed', 'cannot switch from confirm to tx mode'));
    this.#transaction ??= new Transaction();
    this.send({ kind: 'tx.select-ok' });
  }

  #hold(transaction: Transaction): void {
    const { publication, properties, body, bodyBytes, traits } = this.#content;
    const error = this.#backend.checkPublication(publication!);
    if (error === null) transaction.publish(publication!, properties, body, bodyBytes, traits);
    else this.publishFailed(error);
    this.#content.reset();
  }

  #commit(): void {
    if (this.#transaction === null) return this.#notTransactional();
    const { publishes, settled } = this.#transaction.take();
    const settlements: HeldSettlement[] = [];
    for (const [tag, settlement] of settled) {
      if (!this.#tags.take(tag)) throw new Error(`delivery ${tag} was settled twice`);
      this.#counters.settled[settlement]++;
      addTo(settlements, settlement, this.#tags.takenConsumer, this.#tags.takenOrdinal);
    }
    const done = this.ask<void>(() => this.send({ kind: 'tx.commit-ok' }));
    this.#backend.commit(publishes, settlements, done);
  }

  #rollback(): void {
    if (this.#transaction === null) return this.#notTransactional();
    this.#transaction.take();
    this.send({ kind: 'tx.rollback-ok' });
  }

  #notTransactional(): void {
    this.fail(new BrokerError('precondition-failed', 'channel is not transactional'));
  }

  // ---- what became of publishes

  returned(message: StoredMessage): void {
    if (this.#life !== 'open') return;
    const { payload, keyStart, propertiesStart, bodyStart, bodyEnd, before } = message;
    const body = [...before, payload.subarray(bodyStart, bodyEnd)];
    this.#counters.returned++;
    this.#writer.returned(
      this.number,
      payload.subarray(keyStart, propertiesStart),
      payload.subarray(propertiesStart, bodyStart),
      body,
      body.reduce((sum, piece) => sum + piece.length, 0),
    );
  }

  publishFailed(error: BrokerError): void {
    this.#method = methodId.basicPublish;
    this.fail(error);
  }

  confirmed(first: number, last: number, ok: boolean): void {
    if (this.#life !== 'open') return;
    if (this.#confirms === null) throw new Error('a confirm for a channel that asked for none');
    this.#confirms.settle(first, last, ok);
    if (ok) this.#counters.confirmed += last - first + 1;
    else this.#counters.refused += last - first + 1;
    if (this.#confirmsAnnounced) return;
    this.#confirmsAnnounced = true;
    this.#host.confirmsPending(this);
  }

  flushConfirms(): void {
    this.#confirmsAnnounced = false;
    if (this.#life === 'open') this.#confirms?.flush(this.number, this.#writer);
  }

  // ---- deliveries

  get canDeliver(): boolean {
    return this.#life === 'open' && this.#writer.hasRoom;
  }

  get room(): number {
    const max = this.#windowMax;
    return max === 0 ? Number.POSITIVE_INFINITY : Math.max(0, max - this.#tags.windowed);
  }

  get #isWindowFull(): boolean {
    return this.room === 0;
  }

  deliver(
    consumer: number,
    leaseOrdinal: number,
    message: StoredMessage,
    redelivered: boolean,
    deliveryCount: number,
  ): void {
    if (this.#life !== 'open') return;
    let to = this.#lastConsumer;
    if (to === undefined || to.number !== consumer) {
      to = this.#consumers.get(consumer);
      if (to === undefined) {
        // The consumer was cancelled while this was on its way: nobody has seen the message.
        this.#backend.settle('requeue', consumer, leaseOrdinal, 1);
        return;
      }
      this.#lastConsumer = to;
    }
    const tag = this.#nextDeliveryTag++;
    if (!to.noAck) {
      this.#tags.add(tag, consumer, leaseOrdinal, false);
      if (this.#isWindowFull) this.#windowWasFull = true;
    }
    this.#counters.deliveries++;
    if (redelivered) this.#counters.redeliveries++;
    this.#writer.deliver(
      this.number,
      to.tagBytes,
      tag,
      redelivered,
      message,
      deliveryCount > 0 ? countedProperties(message, deliveryCount) : null,
    );
  }

  /** The socket or the window has room again. */
  deliveriesResumed(): void {
    if (this.#consumers.size > 0 && this.canDeliver) this.#backend.deliveriesResumed();
  }

  #resumeWindow(): void {
    if (!this.#windowWasFull || this.#isWindowFull) return;
    this.#windowWasFull = false;
    this.deliveriesResumed();
  }

  cancelled(consumer: number): void {
    const gone = this.#consumers.get(consumer);
    if (this.#life !== 'open' || gone === undefined) return;
    this.#forget(gone);
    if (!this.#host.cancelNotify) return;
    this.#cancelledTags.push(gone.tag);
    if (!this.#replyPending) this.#tellCancelled();
  }

  #tellCancelled(): void {
    if (this.#cancelledTags.length === 0) return;
    const tags = this.#cancelledTags;
    this.#cancelledTags = [];
    if (this.#life !== 'open') return;
    for (const consumerTag of tags) this.send({ kind: 'basic.cancel', consumerTag, nowait: true });
  }

  #forget(consumer: Consumer): void {
    this.#consumers.delete(consumer.number);
    this.#consumersByTag.delete(consumer.tag);
    if (this.#replyConsumer === consumer.tag) {
      this.#replyConsumer = null;
      this.#content.replyTo = null;
    }
    if (this.#lastConsumer === consumer) this.#lastConsumer = undefined;
  }

  #consume(method: MethodArguments<'basic.consume'>): void {
    const queue = this.#topology.queueNamed(method.queue);
    if (queue === null) return;
    if (this.#consumersByTag.has(method.consumerTag))
      return this.fail(new BrokerError('not-allowed', `attempt to reuse consumer tag '${method.consumerTag}'`));
    if (this.#consumers.size >= this.#host.consumersPerChannelMax)
      return this.fail(
        new BrokerError(
          'not-allowed',
          `reached maximum (${this.#host.consumersPerChannelMax}) of consumers per channel`,
        ),
      );
    const tag = method.consumerTag === '' ? this.#host.makeConsumerTag() : method.consumerTag;
    const { noAck, exclusive, arguments: args } = method;
    if (queue === directReplyTo) {
      if (this.#replyConsumer !== null)
        return this.fail(new BrokerError('precondition-failed', 'reply consumer already set'));
      if (!noAck) return this.fail(new BrokerError('precondition-failed', 'reply consumer cannot acknowledge'));
      this.#replyConsumer = tag;
    }
    this.#backend.consume(
      { queue, tag, noAck, exclusive, prefetch: this.#prefetch, arguments: args },
      this.ask<Consuming>(({ consumer: number, replyTo }) => {
        if (replyTo !== undefined) this.#content.replyTo = replyTo;
        const consumer = { number, tag, tagBytes: encodeShortString(tag), noAck };
        this.#consumers.set(number, consumer);
        this.#consumersByTag.set(tag, consumer);
        if (!method.nowait) this.send({ kind: 'basic.consume-ok', consumerTag: tag });
      }),
    );
  }

  #cancel(method: MethodArguments<'basic.cancel'>): void {
    const { consumerTag, nowait } = method;
    const consumer = this.#consumersByTag.get(consumerTag);
    const answer = () => {
      if (!nowait) this.send({ kind: 'basic.cancel-ok', consumerTag });
    };
    if (consumer === undefined) return answer();
    this.#backend.cancel(
      consumer.number,
      this.ask(() => {
        this.#forget(consumer);
        answer();
      }),
    );
  }

  #get(method: MethodArguments<'basic.get'>): void {
    const queue = this.#topology.queueNamed(method.queue);
    if (queue === null) return;
    this.#backend.get(
      queue,
      method.noAck,
      this.ask((got) => {
        if (got === null) this.send({ kind: 'basic.get-empty', reserved1: '' });
        else this.#got(got, method.noAck);
      }),
    );
  }

  #got(got: Got, noAck: boolean): void {
    const tag = this.#nextDeliveryTag++;
    if (!noAck) this.#tags.add(tag, got.consumer, got.leaseOrdinal, true);
    this.#counters.deliveries++;
    if (got.redelivered) this.#counters.redeliveries++;
    const properties = got.deliveryCount > 0 ? countedProperties(got.message, got.deliveryCount) : null;
    this.#writer.getOk(this.number, tag, got.redelivered, got.remaining, got.message, properties);
  }

  #qos(method: MethodArguments<'basic.qos'>): void {
    if (method.prefetchSize !== 0)
      return this.fail(new BrokerError('not-implemented', `prefetch_size!=0 (${method.prefetchSize})`));
    if (method.global) {
      this.#windowMax = method.prefetchCount;
      if (this.#isWindowFull) this.#windowWasFull = true;
      this.#backend.limit(method.prefetchCount);
      this.#resumeWindow();
    } else {
      this.#prefetch = method.prefetchCount;
    }
    this.send({ kind: 'basic.qos-ok' });
  }

  // ---- settling

  #settle(tag: number, multiple: boolean, settlement: Settlement): void {
    if (this.#transaction !== null) {
      if (!this.#transaction.settle(this.#tags, tag, multiple, settlement)) this.#unknownTag(tag);
      return;
    }
    this.#settleNow(tag, multiple, settlement);
  }

  #settleNow(tag: number, multiple: boolean, settlement: Settlement): void {
    const tags = this.#tags;
    if (!multiple) {
      if (tags.take(tag)) this.#addSettled(settlement);
      else this.#unknownTag(tag);
      return;
    }
    if (tag !== 0 && !tags.has(tag)) return this.#unknownTag(tag);
    // What is handed on may be delivered again at once; those tags are not meant.
    const last = tag === 0 ? this.#nextDeliveryTag - 1 : tag;
    while (tags.oldest <= last) {
      tags.takeOldest();
      this.#addSettled(settlement);
    }
  }

  #unknownTag(tag: number): void {
    this.fail(new BrokerError('precondition-failed', `unknown delivery tag ${tag}`));
  }

  /** Adds the lease that was taken last to the run, which is handed on first if it cannot be continued. */
  #addSettled(settlement: Settlement): void {
    const consumer = this.#tags.takenConsumer;
    const ordinal = this.#tags.takenOrdinal;
    if (
      this.#settleCount > 0 &&
      this.#settlement === settlement &&
      this.#settleConsumer === consumer &&
      this.#settleFirst + this.#settleCount === ordinal
    ) {
      this.#settleCount++;
      return;
    }
    this.#flushSettlements();
    this.#settlement = settlement;
    this.#settleConsumer = consumer;
    this.#settleFirst = ordinal;
    this.#settleCount = 1;
  }

  #flushSettlements(): void {
    const count = this.#settleCount;
    if (count === 0) return;
    this.#settleCount = 0;
    this.#counters.settled[this.#settlement] += count;
    this.#backend.settle(this.#settlement, this.#settleConsumer, this.#settleFirst, count);
  }

  #recover(method: Extract<Method, { kind: 'basic.recover' | 'basic.recover-async' }>): void {
    if (!method.requeue) return this.fail(new BrokerError('not-implemented', 'requeue=false'));
    // What a transaction is to settle waits for that.
    for (const tag of this.#tags.upTo(this.#nextDeliveryTag))
      if (this.#transaction?.isSettled(tag) !== true) this.#settleNow(tag, false, 'requeue');
    this.#flushSettlements();
    if (method.kind === 'basic.recover') this.send({ kind: 'basic.recover-ok' });
    this.#resumeWindow();
  }

  // ---- the end

  /** A failure closes the channel or the connection, by its scope. */
  fail(error: BrokerError): void {
    if (this.#life !== 'open') return;
    if (error.scope === 'connection' || error.scope === 'node') {
      this.#host.fail(error, this.#method);
      return;
    }
    const [classId, method] = [this.#method >>> 16, this.#method & 0xffff];
    this.#finish('discarding');
    this.send({
      kind: 'channel.close',
      replyCode: error.replyCode,
      replyText: error.message,
      classId,
      methodId: method,
    });
    // Not done any more; and the reply that it waits for may never come.
    this.#discardBacklog();
  }

  #closedByClient(): void {
    // Whoever reads this answer may look for the messages, on any channel.
    this.#finish('leaving', () => {
      if (this.#life !== 'leaving') return;
      this.#life = 'ended';
      this.send({ kind: 'channel.close-ok' });
      this.#host.ended(this);
    });
  }

  /** The connection ends. The broker learns of it once for all its channels; this one only hands on what was settled. */
  end(): void {
    if (this.#life === 'open') {
      this.#flushSettlements();
      this.flushConfirms();
    }
    this.#life = 'ended';
    // Whoever still knows this channel keeps nothing of what its client sent.
    this.#content.reset();
    this.#transaction = null;
  }

  /** Everything known is told and handed on; then the leases that are left go back. */
  #finish(life: Life, done?: () => void): void {
    this.#flushSettlements();
    this.flushConfirms();
    this.#life = life;
    this.#content.reset();
    this.#transaction = null;
    this.#reportHeld(0);
    this.#backend.close(done);
  }

  /** After our channel.close nothing counts but its answer, and a channel.close that crossed it. */
  #discard(type: number, bytes: Buffer, start: number, end: number): void {
    if (this.#life !== 'discarding' || type !== FrameType.method || end - start < 4) return;
    const id = readU32(bytes, start);
    if (id === methodId.channelClose) this.send({ kind: 'channel.close-ok' });
    if (id !== methodId.channelCloseOk) return;
    this.#life = 'ended';
    this.#host.ended(this);
  }
}

const countedProperties = (message: StoredMessage, count: number): Buffer =>
  withDeliveryCount(message.payload.subarray(message.propertiesStart, message.bodyStart), count);

/** Adds a lease to the last run if it continues it. */
function addTo(runs: HeldSettlement[], settlement: Settlement, consumer: number, ordinal: number): void {
  const last = runs[runs.length - 1];
  if (last?.settlement === settlement && last.consumer === consumer && last.first + last.count === ordinal)
    runs[runs.length - 1] = { ...last, count: last.count + 1 };
  else runs.push({ settlement, consumer, first: ordinal, count: 1 });
}

const isTopology = (method: Method): method is TopologyMethod =>
  method.kind.startsWith('exchange.') || method.kind.startsWith('queue.');
