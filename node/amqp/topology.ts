// The methods of a channel that declare, bind and delete: exchange.* and queue.*.
//
// PURE. State: the queue that was declared last on the channel, which an empty name stands for. What can be judged without the metadata is judged
// here (unknown type, default exchange, no queue declared yet); everything else is the broker's.

import { BrokerError } from '../errors.ts';
import type { Binding, ChannelBackend, ExchangeType, QueueState, Reply } from './backend.ts';
import type { Method, MethodArguments } from './methods.ts';

export type TopologyMethod = Extract<Method, { kind: `exchange.${string}` | `queue.${string}` }>;

/** What these methods need of their channel. */
export interface TopologyHost {
  /** A reply that lets the channel go on: with `then` if all went well, else the failure closes what it has to. */
  ask<T>(then: (value: T) => void): Reply<T>;
  send(method: Method): void;
  fail(error: BrokerError): void;
}

const exchangeTypes: ReadonlySet<string> = new Set<ExchangeType>(['direct', 'fanout', 'topic', 'headers']);

export class Topology {
  lastQueue = '';
  readonly #host: TopologyHost;
  readonly #backend: ChannelBackend;

  constructor(host: TopologyHost, backend: ChannelBackend) {
    this.#host = host;
    this.#backend = backend;
  }

  /** False: not a method that a client may send. */
  handle(method: TopologyMethod): boolean {
    switch (method.kind) {
      case 'exchange.declare':
        this.#declareExchange(method);
        return true;
      case 'exchange.delete':
        this.#deleteExchange(method);
        return true;
      case 'exchange.bind':
      case 'exchange.unbind':
        this.#bindExchange(method);
        return true;
      case 'queue.declare':
        this.#declareQueue(method);
        return true;
      case 'queue.bind':
      case 'queue.unbind':
        this.#bindQueue(method);
        return true;
      case 'queue.purge':
        this.#purgeQueue(method);
        return true;
      case 'queue.delete':
        this.#deleteQueue(method);
        return true;
      default:
        return false;
    }
  }

  /** The queue that a name stands for, or null after a failure was reported. */
  queueNamed(name: string): string | null {
    if (name !== '') return name;
    if (this.lastQueue !== '') return this.lastQueue;
    this.#host.fail(new BrokerError('not-found', 'no previously declared queue'));
    return null;
  }

  #declareExchange(method: MethodArguments<'exchange.declare'>): void {
    const name = withoutLineBreaks(method.exchange);
    const done = this.#host.ask<void>(() => {
      if (!method.nowait) this.#host.send({ kind: 'exchange.declare-ok' });
    });
    if (!method.passive && !exchangeTypes.has(method.type))
      return done(refuse('precondition-failed', `unknown exchange type '${method.type}'`));
    if (name === '') return done(refuse('access-refused', defaultExchangeRefused));
    if (method.passive) return this.#backend.checkExchange(name, done);
    this.#backend.declareExchange(
      {
        name,
        type: method.type as ExchangeType,
        durable: method.durable,
        autoDelete: method.autoDelete,
        internal: method.internal,
        arguments: method.arguments,
      },
      done,
    );
  }

  #deleteExchange(method: MethodArguments<'exchange.delete'>): void {
    const name = withoutLineBreaks(method.exchange);
    const done = this.#host.ask<void>(() => {
      if (!method.nowait) this.#host.send({ kind: 'exchange.delete-ok' });
    });
    if (name === '') return done(refuse('access-refused', defaultExchangeRefused));
    this.#backend.deleteExchange(name, method.ifUnused, done);
  }

  #bindExchange(method: Extract<Method, { kind: 'exchange.bind' | 'exchange.unbind' }>): void {
    const done = this.#host.ask<void>(() => {
      if (!method.nowait) this.#host.send({ kind: `${method.kind}-ok` });
    });
    const source = withoutLineBreaks(method.source);
    const name = withoutLineBreaks(method.destination);
    if (source === '' || name === '') return done(refuse('access-refused', defaultExchangeRefused));
    const { routingKey, arguments: args } = method;
    this.#bind(
      method.kind === 'exchange.bind',
      { source, destination: { kind: 'exchange', name }, routingKey, arguments: args },
      done,
    );
  }

  #bindQueue(method: Extract<Method, { kind: 'queue.bind' | 'queue.unbind' }>): void {
    const name = this.queueNamed(withoutLineBreaks(method.queue));
    if (name === null) return;
    // An empty routing key together with an empty queue name stands for the queue's name, too.
    const routingKey = method.queue === '' && method.routingKey === '' ? name : method.routingKey;
    const done = this.#host.ask<void>(() => {
      if (method.kind === 'queue.unbind') this.#host.send({ kind: 'queue.unbind-ok' });
      else if (!method.nowait) this.#host.send({ kind: 'queue.bind-ok' });
    });
    const source = withoutLineBreaks(method.exchange);
    if (source === '') return done(refuse('access-refused', defaultExchangeRefused));
    const binding: Binding = { source, destination: { kind: 'queue', name }, routingKey, arguments: method.arguments };
    this.#bind(method.kind === 'queue.bind', binding, done);
  }

  #bind(add: boolean, binding: Binding, done: Reply<void>): void {
    if (add) this.#backend.bind(binding, done);
    else this.#backend.unbind(binding, done);
  }

  #declareQueue(method: MethodArguments<'queue.declare'>): void {
    const name = withoutLineBreaks(method.queue);
    const done = this.#host.ask<QueueState>((state) => {
      this.lastQueue = state.name;
      if (method.nowait) return;
      const { name: queue, messages: messageCount, consumers: consumerCount } = state;
      this.#host.send({ kind: 'queue.declare-ok', queue, messageCount, consumerCount });
    });
    if (method.passive) return this.#backend.checkQueue(name, done);
    const { durable, exclusive, autoDelete, arguments: args } = method;
    this.#backend.declareQueue({ name, durable, exclusive, autoDelete, arguments: args }, done);
  }

  #purgeQueue(method: MethodArguments<'queue.purge'>): void {
    const name = this.queueNamed(method.queue);
    if (name === null) return;
    const done = this.#host.ask<{ readonly messages: number }>(({ messages: messageCount }) => {
      if (!method.nowait) this.#host.send({ kind: 'queue.purge-ok', messageCount });
    });
    this.#backend.purgeQueue(name, done);
  }

  #deleteQueue(method: MethodArguments<'queue.delete'>): void {
    const name = this.queueNamed(withoutLineBreaks(method.queue));
    if (name === null) return;
    const done = this.#host.ask<{ readonly messages: number }>(({ messages: messageCount }) => {
      if (!method.nowait) this.#host.send({ kind: 'queue.delete-ok', messageCount });
    });
    this.#backend.deleteQueue(name, method.ifUnused, method.ifEmpty, done);
  }
}

const defaultExchangeRefused = 'operation not permitted on the default exchange';

const refuse = (code: 'access-refused' | 'precondition-failed', detail: string) =>
  ({ ok: false, error: new BrokerError(code, detail) }) as const;

/** Names are shown in logs line by line, so line breaks are left out of them. */
const withoutLineBreaks = (name: string): string =>
  name.includes('\n') || name.includes('\r') ? name.replace(/[\r\n]/g, '') : name;
