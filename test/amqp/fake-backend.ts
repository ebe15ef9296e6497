// A broker in memory, just enough of one for the front-end's tests: exchanges by name, queues, leases, no disk and no peers.
//
// It records what it was asked, can answer later instead of at once (`later`), and can keep confirms back (`holdConfirms`).

import type {
  AmqpBackend,
  ChannelBackend,
  ChannelEvents,
  ConnectionBackend,
  ConnectionEvents,
  ConnectionInfo,
  HeldPublish,
  HeldSettlement,
  Outcome,
  Publication,
  Reply,
  Settlement,
  StoredMessage,
} from '../../node/amqp/backend.ts';
import { BrokerError, type ErrorCode } from '../../node/errors.ts';

interface Stored {
  readonly message: StoredMessage;
  count: number;
  redelivered: boolean;
}
interface FakeConsumer {
  readonly number: number;
  readonly queue: FakeQueue;
  readonly channel: FakeChannel;
  readonly prefetch: number;
  readonly noAck: boolean;
  nextOrdinal: number;
  readonly leases: Map<number, Stored>;
}
export interface FakeQueue {
  readonly name: string;
  readonly ready: Stored[];
  readonly consumers: FakeConsumer[];
}

const ok = <T>(value: T): Outcome<T> => ({ ok: true, value });
const failed = (code: ErrorCode, detail: string): Outcome<never> => ({
  ok: false,
  error: new BrokerError(code, detail),
});

export function storedMessage(publication: Publication, properties: Buffer, body: readonly Buffer[]): StoredMessage {
  const payload = Buffer.concat([publication.key, properties, ...body]);
  const propertiesStart = publication.key.length;
  const bodyStart = propertiesStart + properties.length;
  return { payload, keyStart: 0, propertiesStart, bodyStart, bodyEnd: payload.length, before: [] };
}

export class FakeBackend implements AmqpBackend {
  readonly queues = new Map<string, FakeQueue>();
  /** name → routing key → queues; fanout uses the key ''. */
  readonly exchanges = new Map<string, { type: string; bindings: Map<string, Set<string>> }>();
  readonly connections: FakeConnection[] = [];
  readonly calls: string[] = [];
  recordPublishes = true;
  /** Answers gathered instead of given, and confirms kept back. */
  later: (() => void)[] | null = null;
  holdConfirms = false;
  nextName = 1;
  nextConsumer = 1;

  constructor() {
    for (const type of ['direct', 'fanout', 'topic', 'headers'])
      this.exchanges.set(`amq.${type}`, { type, bindings: new Map() });
  }

  authenticate(user: string, password: string, _remoteAddress: string, reply: Reply<void>): void {
    const good = user === 'guest' && password === 'guest';
    this.answer(reply, good ? ok(undefined) : failed('login-refused', `user '${user}' is not known`));
  }

  openConnection(info: ConnectionInfo, events: ConnectionEvents): Outcome<ConnectionBackend> {
    if (info.vhost !== '/') return failed('not-allowed', `vhost ${info.vhost} not found`);
    const connection = new FakeConnection(this, info, events);
    this.connections.push(connection);
    return ok(connection);
  }

  answer<T>(reply: Reply<T>, outcome: Outcome<T>): void {
    if (this.later === null) reply(outcome);
    else this.later.push(() => reply(outcome));
  }

  /** Gives the answers that were kept back, and goes on answering at once. */
  answerAll(): void {
    const answers = this.later ?? [];
    this.later = null;
    for (const answer of answers) answer();
  }

  queue(name: string): FakeQueue {
    let queue = this.queues.get(name);
    if (queue === undefined) this.queues.set(name, (queue = { name, ready: [], consumers: [] }));
    return queue;
  }

  route(exchange: string, key: string): FakeQueue[] | null {
    if (exchange === '') {
      const queue = this.queues.get(key);
      return queue === undefined ? [] : [queue];
    }
    const found = this.exchanges.get(exchange);
    if (found === undefined) return null;
    const names = found.bindings.get(found.type === 'fanout' ? '' : key) ?? [];
    return [...names].map((name) => this.queue(name));
  }

  pump(queue: FakeQueue): void {
    for (let progress = true; progress && queue.ready.length > 0; ) {
      progress = false;
      for (const consumer of queue.consumers) {
        const isFull = consumer.prefetch > 0 && consumer.leases.size >= consumer.prefetch;
        const full = isFull || (!consumer.noAck && consumer.channel.events.room === 0);
        if (full || !consumer.channel.events.canDeliver || queue.ready.length === 0) continue;
        const stored = queue.ready.shift()!;
        const ordinal = consumer.nextOrdinal++;
        if (!consumer.noAck) consumer.leases.set(ordinal, stored);
        consumer.channel.events.deliver(consumer.number, ordinal, stored.message, stored.redelivered, stored.count);
        progress = true;
      }
    }
  }
}

export class FakeConnection implements ConnectionBackend {
  readonly backend: FakeBackend;
  readonly info: ConnectionInfo;
  readonly events: ConnectionEvents;
  readonly channels: FakeChannel[] = [];
  closed = 0;
  chunks = 0;
  isBusy = false;

  constructor(backend: FakeBackend, info: ConnectionInfo, events: ConnectionEvents) {
    this.backend = backend;
    this.info = info;
    this.events = events;
  }
  openChannel(events: ChannelEvents): ChannelBackend {
    const channel = new FakeChannel(this.backend, events);
    this.channels.push(channel);
    return channel;
  }
  received(): void {
    this.chunks++;
  }
  close(done: () => void = () => {}): void {
    this.closed++;
    for (const channel of this.channels) if (!channel.isClosed) channel.close();
    this.backend.answer(done, ok(undefined));
  }
}

export class FakeChannel implements ChannelBackend {
  readonly backend: FakeBackend;
  readonly events: ChannelEvents;
  readonly consumers = new Map<number, FakeConsumer>();
  isClosed = false;
  resumed = 0;

  constructor(backend: FakeBackend, events: ChannelEvents) {
    this.backend = backend;
    this.events = events;
  }

  #record(...call: unknown[]): void {
    if (this.isClosed) throw new Error(`call on a closed channel: ${call.join(' ')}`);
    this.backend.calls.push(call.join(' '));
  }

  declareExchange(declaration: Parameters<ChannelBackend['declareExchange']>[0], reply: Reply<void>): void {
    this.#record('declareExchange', declaration.name, declaration.type);
    if (!this.backend.exchanges.has(declaration.name))
      this.backend.exchanges.set(declaration.name, { type: declaration.type, bindings: new Map() });
    this.backend.answer(reply, ok(undefined));
  }
  checkExchange(name: string, reply: Reply<void>): void {
    this.#record('checkExchange', name);
    const known = this.backend.exchanges.has(name);
    this.backend.answer(reply, known ? ok(undefined) : failed('not-found', `no exchange '${name}' in vhost '/'`));
  }
  deleteExchange(name: string, ifUnused: boolean, reply: Reply<void>): void {
    this.#record('deleteExchange', name, ifUnused);
    this.backend.exchanges.delete(name);
    this.backend.answer(reply, ok(undefined));
  }
  declareQueue(
    declaration: Parameters<ChannelBackend['declareQueue']>[0],
    reply: Parameters<ChannelBackend['declareQueue']>[1],
  ): void {
    this.#record('declareQueue', declaration.name, JSON.stringify(declaration.arguments));
    const name = declaration.name === '' ? `amq.gen-${this.backend.nextName++}` : declaration.name;
    const queue = this.backend.queue(name);
    this.backend.answer(reply, ok({ name, messages: queue.ready.length, consumers: queue.consumers.length }));
  }
  checkQueue(name: string, reply: Parameters<ChannelBackend['checkQueue']>[1]): void {
    this.#record('checkQueue', name);
    const queue = this.backend.queues.get(name);
    if (queue === undefined) return this.backend.answer(reply, failed('not-found', `no queue '${name}' in vhost '/'`));
    this.backend.answer(reply, ok({ name, messages: queue.ready.length, consumers: queue.consumers.length }));
  }
  deleteQueue(name: string, ifUnused: boolean, ifEmpty: boolean, reply: Reply<{ readonly messages: number }>): void {
    this.#record('deleteQueue', name, ifUnused, ifEmpty);
    const queue = this.backend.queues.get(name);
    this.backend.queues.delete(name);
    for (const consumer of [...(queue?.consumers ?? [])]) {
      consumer.channel.consumers.delete(consumer.number);
      consumer.channel.events.cancelled(consumer.number);
    }
    this.backend.answer(reply, ok({ messages: queue?.ready.length ?? 0 }));
  }
  purgeQueue(name: string, reply: Reply<{ readonly messages: number }>): void {
    this.#record('purgeQueue', name);
    this.backend.answer(reply, ok({ messages: this.backend.queue(name).ready.splice(0).length }));
  }
  bind(binding: Parameters<ChannelBackend['bind']>[0], reply: Reply<void>): void {
    this.#record('bind', binding.source, binding.destination.kind, binding.destination.name, binding.routingKey);
    const exchange = this.backend.exchanges.get(binding.source);
    if (exchange === undefined)
      return this.backend.answer(reply, failed('not-found', `no exchange '${binding.source}' in vhost '/'`));
    const key = exchange.type === 'fanout' ? '' : binding.routingKey;
    const queues = exchange.bindings.get(key) ?? new Set();
    exchange.bindings.set(key, queues.add(binding.destination.name));
    this.backend.answer(reply, ok(undefined));
  }
  unbind(binding: Parameters<ChannelBackend['unbind']>[0], reply: Reply<void>): void {
    this.#record('unbind', binding.source, binding.destination.kind, binding.destination.name, binding.routingKey);
    this.backend.answer(reply, ok(undefined));
  }

  publish(
    publication: Publication,
    properties: Buffer,
    body: readonly Buffer[],
    bodyBytes: number,
    confirmTag: number,
  ): 'routed' | 'unroutable' | BrokerError {
    if (this.backend.recordPublishes) {
      const text = Buffer.concat(body).toString('latin1');
      if (text.length !== bodyBytes) throw new Error('body pieces do not add up');
      this.#record(
        'publish',
        publication.exchange,
        publication.routingKey,
        properties.toString('hex'),
        text,
        confirmTag,
      );
    }
    const queues = this.backend.route(publication.exchange, publication.routingKey);
    if (queues === null) return new BrokerError('not-found', `no exchange '${publication.exchange}' in vhost '/'`);
    if (queues.length === 0) return 'unroutable';
    const message = storedMessage(publication, properties, body);
    for (const queue of queues) {
      queue.ready.push({ message, count: 0, redelivered: false });
      this.backend.pump(queue);
    }
    if (confirmTag > 0 && !this.backend.holdConfirms) this.events.confirmed(confirmTag, confirmTag, true);
    return 'routed';
  }

  checkPublication({ exchange }: Publication): BrokerError | null {
    if (exchange === '' || this.backend.exchanges.has(exchange)) return null;
    return new BrokerError('not-found', `no exchange '${exchange}' in vhost '/'`);
  }

  commit(publishes: readonly HeldPublish[], settlements: readonly HeldSettlement[], reply: Reply<void>): void {
    this.#record('commit', publishes.length, settlements.length);
    for (const { settlement, consumer, first, count } of settlements) this.settle(settlement, consumer, first, count);
    for (const { publication, properties, body, bodyBytes } of publishes)
      this.publish(publication, properties, body, bodyBytes, 0);
    this.backend.answer(reply, ok(undefined));
  }

  consume(request: Parameters<ChannelBackend['consume']>[0], reply: Reply<{ readonly consumer: number }>): void {
    this.#record('consume', request.queue, request.prefetch, request.noAck);
    const queue = this.backend.queues.get(request.queue);
    if (queue === undefined)
      return this.backend.answer(reply, failed('not-found', `no queue '${request.queue}' in vhost '/'`));
    const number = this.backend.nextConsumer++;
    const { noAck, prefetch } = request;
    const consumer = { number, queue, channel: this, prefetch, noAck, nextOrdinal: 1, leases: new Map() };
    this.backend.answer(
      (outcome: Outcome<{ readonly consumer: number }>) => {
        reply(outcome);
        this.consumers.set(number, consumer);
        queue.consumers.push(consumer);
        this.backend.pump(queue);
      },
      ok({ consumer: number }),
    );
  }
  cancel(number: number, reply: Reply<void>): void {
    this.#record('cancel', number);
    const consumer = this.consumers.get(number)!;
    consumer.queue.consumers.splice(consumer.queue.consumers.indexOf(consumer), 1);
    this.backend.answer(reply, ok(undefined));
  }
  get(name: string, noAck: boolean, reply: Parameters<ChannelBackend['get']>[2]): void {
    this.#record('get', name, noAck);
    const queue = this.backend.queues.get(name);
    if (queue === undefined) return this.backend.answer(reply, failed('not-found', `no queue '${name}' in vhost '/'`));
    const stored = queue.ready.shift();
    if (stored === undefined) return this.backend.answer(reply, ok(null));
    const number = this.backend.nextConsumer++;
    const leases = new Map(noAck ? [] : [[1, stored]]);
    this.consumers.set(number, { number, queue, channel: this, prefetch: 1, noAck, nextOrdinal: 2, leases });
    const { message, redelivered, count: deliveryCount } = stored;
    this.backend.answer(
      reply,
      ok({ consumer: number, leaseOrdinal: 1, message, redelivered, deliveryCount, remaining: queue.ready.length }),
    );
  }
  settle(settlement: Settlement, number: number, first: number, count: number): void {
    if (this.backend.recordPublishes) this.#record('settle', settlement, number, first, count);
    const consumer = this.consumers.get(number);
    if (consumer === undefined) throw new Error(`consumer ${number} is not known`);
    for (let ordinal = first; ordinal < first + count; ordinal++) {
      const stored = consumer.leases.get(ordinal);
      if (stored === undefined || !consumer.leases.delete(ordinal)) throw new Error(`lease ${ordinal} settled twice`);
      if (settlement === 'requeue' || settlement === 'reject') this.#putBack(consumer, stored, settlement === 'reject');
    }
    this.backend.pump(consumer.queue);
  }
  #putBack(consumer: FakeConsumer, stored: Stored, counted: boolean): void {
    stored.redelivered = true;
    if (counted) stored.count++;
    consumer.queue.ready.unshift(stored);
  }
  limit(unsettledMax: number): void {
    this.#record('limit', unsettledMax);
  }
  deliveriesResumed(): void {
    this.resumed++;
    for (const consumer of this.consumers.values()) this.backend.pump(consumer.queue);
  }
  close(done: () => void = () => {}): void {
    this.#record('close');
    this.isClosed = true;
    for (const consumer of this.consumers.values()) {
      const at = consumer.queue.consumers.indexOf(consumer);
      if (at >= 0) consumer.queue.consumers.splice(at, 1);
      for (const stored of [...consumer.leases.values()].reverse()) this.#putBack(consumer, stored, true);
      this.backend.pump(consumer.queue);
    }
    this.backend.answer(done, ok(undefined));
  }
}
