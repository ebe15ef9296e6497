// One channel of a client, with everything written into the history: what it does before it does it, what it sees as soon as it sees it.
//
// State owned: publishes without an outcome, deliveries without a settlement, consumers by their tag. Names (of the session, of consumers) are
// unique in a run. Invariant: every invocation gets exactly one answer, every publish with confirms exactly one outcome.

import type { Method } from '../../node/amqp/methods.ts';
import type { Answer, History, Operation, Publication, Settlement, Target } from '../history.ts';
import { bodyOf, deliveryCountOf, idOf, isIntact, propertiesOf } from './bodies.ts';
import type { ClientChannel, ClientConnection, Content, Delivery, Reply } from './client.ts';

/** A delivery as its consumer sees it. */
export interface Received {
  readonly id: string;
  readonly deliveryTag: number;
  readonly redelivered: boolean;
  readonly queue: string;
  readonly replyTo: string;
}

export interface SessionHandlers {
  received?(received: Received): void;
  /** `ok`: on a majority's disks. Null: nobody knows. */
  settled?(id: string, ok: boolean | null): void;
  cancelled?(consumer: string): void;
  /** Not when this side closed it. */
  ended?(code: number, text: string): void;
}

interface ConsumerOf {
  readonly queue: string;
  readonly name: string;
  readonly noAck: boolean;
}

const noArguments = {};

/** What the broker says of an operation that failed: nothing happened, but for 541, which says that nobody knows. */
function refusalOf(code: number): Answer {
  if (code === 404) return 'missing';
  return code === 541 ? 'unknown' : 'refused';
}

export class Session {
  readonly name: string;
  readonly #history: History;
  readonly #handlers: SessionHandlers;
  readonly #channel: ClientChannel;
  /** Sequence number → place in the history and id; ascending. */
  readonly #unconfirmed = new Map<number, { readonly place: number; readonly id: string }>();
  /** Delivery tag → place in the history; ascending. */
  readonly #unsettled = new Map<number, number>();
  readonly #consumers = new Map<string, ConsumerOf>();
  readonly #returnable: { readonly place: number; readonly id: string }[] = [];
  #confirms = false;
  #closedByUs = false;
  #consumersBegun = 0;
  #lastTag = 0;

  constructor(name: string, connection: ClientConnection, history: History, handlers: SessionHandlers = {}) {
    this.name = name;
    this.#history = history;
    this.#handlers = handlers;
    history.open(name, connection.node);
    this.#channel = connection.openChannel({
      delivered: (delivery) => this.#delivered(delivery),
      confirmed: (tag, multiple, ok) => this.#confirmed(tag, multiple, ok),
      returned: (message) => this.#returned(message),
      cancelled: (consumer) => {
        history.cancelled(consumer);
        this.#consumers.delete(consumer);
        handlers.cancelled?.(consumer);
      },
      closed: (code, text) => this.#closed(code, text),
    });
  }

  get isOpen(): boolean {
    return this.#channel.isOpen;
  }
  /** Publishes without an outcome. */
  get unconfirmed(): number {
    return this.#unconfirmed.size;
  }
  get unsettled(): readonly number[] {
    return [...this.#unsettled.keys()];
  }

  // ---- operations with an answer

  declare(
    queue: string,
    traits: { readonly drops?: boolean; readonly deadLetterTo?: string | null } = {},
    options: {
      readonly durable?: boolean;
      readonly exclusive?: boolean;
      readonly autoDelete?: boolean;
      readonly arguments?: Extract<Method, { kind: 'queue.declare' }>['arguments'];
    } = {},
    done: (answer: Answer, messages: number | null) => void = () => {},
  ): void {
    const { durable = true, exclusive = false, autoDelete = false, arguments: args = noArguments } = options;
    const lasting = durable && !exclusive && !autoDelete && !('x-expires' in args);
    const { drops = 'x-message-ttl' in args, deadLetterTo = null } = traits;
    this.#call(
      { kind: 'declare', queue, lasting, drops, deadLetterTo },
      {
        kind: 'queue.declare',
        ticket: 0,
        queue,
        passive: false,
        durable,
        autoDelete,
        exclusive,
        nowait: false,
        arguments: args,
      },
      done,
    );
  }

  check(queue: string, done: (answer: Answer, messages: number | null) => void = () => {}): void {
    this.#call(
      { kind: 'check', queue },
      {
        kind: 'queue.declare',
        ticket: 0,
        queue,
        passive: true,
        durable: true,
        autoDelete: false,
        exclusive: false,
        nowait: false,
        arguments: noArguments,
      },
      done,
    );
  }

  delete(queue: string, done: (answer: Answer, messages: number | null) => void = () => {}, ifEmpty = false): void {
    this.#call(
      { kind: 'delete', queue },
      { kind: 'queue.delete', ticket: 0, queue, ifUnused: false, ifEmpty, nowait: false },
      done,
    );
  }

  purge(queue: string, done: (answer: Answer, messages: number | null) => void = () => {}): void {
    this.#call({ kind: 'purge', queue }, { kind: 'queue.purge', ticket: 0, queue, nowait: false }, done);
  }

  declareExchange(exchange: string, type: string, done: (answer: Answer) => void = () => {}): void {
    this.#call(
      { kind: 'other', name: `exchange.declare ${exchange}` },
      {
        kind: 'exchange.declare',
        ticket: 0,
        exchange,
        type,
        passive: false,
        durable: true,
        autoDelete: false,
        internal: false,
        nowait: false,
        arguments: noArguments,
      },
      done,
    );
  }

  /** `binding`: its name in the history. */
  bind(
    binding: string,
    queue: string,
    exchange: string,
    routingKey: string,
    done: (answer: Answer) => void = () => {},
  ): void {
    this.#call(
      { kind: 'bind', binding, queue },
      { kind: 'queue.bind', ticket: 0, queue, exchange, routingKey, nowait: false, arguments: noArguments },
      done,
    );
  }

  unbind(
    binding: string,
    queue: string,
    exchange: string,
    routingKey: string,
    done: (answer: Answer) => void = () => {},
  ): void {
    this.#call(
      { kind: 'unbind', binding, queue },
      { kind: 'queue.unbind', ticket: 0, queue, exchange, routingKey, arguments: noArguments },
      done,
    );
  }

  /** `wholeChannel`: the limit holds for all consumers of the channel together. */
  prefetch(count: number, wholeChannel = false): void {
    this.#call(
      { kind: 'other', name: 'qos' },
      { kind: 'basic.qos', prefetchSize: 0, prefetchCount: count, global: wholeChannel },
      () => {},
    );
  }

  select(): void {
    this.#confirms = true;
    this.#call({ kind: 'other', name: 'confirm.select' }, { kind: 'confirm.select', nowait: false }, () => {});
  }

  /** Returns the consumer's name, which is its tag. */
  consume(
    queue: string,
    { noAck = false, releases = false }: { readonly noAck?: boolean; readonly releases?: boolean } = {},
    done: (answer: Answer) => void = () => {},
  ): string {
    const name = `${this.name}.${++this.#consumersBegun}`;
    this.#consumers.set(name, { queue, name, noAck });
    this.#call(
      { kind: 'consume', queue, consumer: name, noAck, releases },
      {
        kind: 'basic.consume',
        ticket: 0,
        queue,
        consumerTag: name,
        noLocal: false,
        noAck,
        exclusive: false,
        nowait: false,
        arguments: noArguments,
      },
      (answer) => {
        if (answer !== 'ok') this.#consumers.delete(name);
        done(answer);
      },
    );
    return name;
  }

  cancel(consumer: string, done: (answer: Answer) => void = () => {}): void {
    this.#call(
      { kind: 'cancel', consumer },
      { kind: 'basic.cancel', consumerTag: consumer, nowait: false },
      (answer) => {
        this.#consumers.delete(consumer);
        done(answer);
      },
    );
  }

  get(queue: string, noAck: boolean, done: (answer: Answer, received: Received | null) => void): void {
    const consumer = `${this.name}.${++this.#consumersBegun}`;
    const invoke = this.#history.invoke(this.name, { kind: 'get', queue, consumer, noAck });
    this.#channel.call({ kind: 'basic.get', ticket: 0, queue, noAck }, (reply) => {
      if (reply === null) {
        this.#history.answer(invoke, 'unknown');
        return done('unknown', null);
      }
      if (reply.kind === 'basic.get-ok') {
        this.#history.answer(invoke, 'ok', reply.messageCount);
        const message = reply as Extract<Method, { kind: 'basic.get-ok' }> & Content;
        return done('ok', this.#take(message, { queue, name: consumer, noAck }));
      }
      const answer = reply.kind === 'basic.get-empty' ? 'empty' : this.#answerOf(reply);
      this.#history.answer(invoke, answer);
      done(answer, null);
    });
  }

  #call(operation: Operation, method: Method, done: (answer: Answer, messages: number | null) => void): void {
    const invoke = this.#history.invoke(this.name, operation);
    this.#channel.call(method, (reply) => {
      const answer = reply === null ? 'unknown' : this.#answerOf(reply);
      const messages = reply !== null && 'messageCount' in reply ? reply.messageCount : null;
      this.#history.answer(invoke, answer, messages);
      done(answer, messages);
    });
  }

  #answerOf(reply: Reply): Answer {
    return reply.kind === 'channel.close' ? refusalOf(reply.replyCode) : 'ok';
  }

  // ---- publishing

  publish(
    id: string,
    exchange: string,
    routingKey: string,
    targets: readonly Target[],
    options: { readonly mandatory?: boolean; readonly expiration?: number | null } = {},
  ): void {
    const { mandatory = false, expiration = null } = options;
    const publication: Publication = {
      id,
      channel: this.name,
      targets,
      mandatory,
      confirms: this.#confirms,
      ...(expiration === null ? {} : { expires: true }),
    };
    const place = this.#history.publish(publication);
    const tag = this.#channel.publish(exchange, routingKey, propertiesOf(id, expiration), bodyOf(id), mandatory);
    if (this.#confirms) this.#unconfirmed.set(tag, { place, id });
    else if (mandatory) this.#returnable.push({ place, id });
  }

  #confirmed(tag: number, multiple: boolean, ok: boolean): void {
    if (!multiple && !this.#unconfirmed.has(tag)) return this.#nonsense(`confirm ${tag} of nothing`);
    for (const [sequence, { place, id }] of this.#unconfirmed) {
      if (sequence > tag || (!multiple && sequence !== tag)) continue;
      this.#unconfirmed.delete(sequence);
      this.#history.outcome(place, ok ? 'confirmed' : 'refused');
      this.#handlers.settled?.(id, ok);
    }
  }

  #returned({ body }: Content): void {
    const id = idOf(body);
    const found =
      [...this.#unconfirmed.values()].find((one) => one.id === id) ?? this.#returnable.find((one) => one.id === id);
    if (found === undefined) this.#nonsense(`${id} came back and was not sent`);
    else this.#history.returned(found.place);
  }

  // ---- consuming

  #delivered(delivery: Delivery): void {
    const consumer = this.#consumers.get(delivery.consumerTag);
    if (consumer === undefined) return this.#nonsense(`a delivery to ${delivery.consumerTag}`);
    this.#handlers.received?.(this.#take(delivery, consumer));
  }

  #take(
    message: Content & { readonly deliveryTag: number; readonly redelivered: boolean },
    { queue, name, noAck }: ConsumerOf,
  ): Received {
    const { properties, body, deliveryTag, redelivered } = message;
    if (deliveryTag !== ++this.#lastTag) this.#nonsense(`delivery tag ${deliveryTag} instead of ${this.#lastTag}`);
    const id = idOf(body) ?? `nameless:${body.length}`;
    const place = this.#history.deliver({
      id,
      queue,
      channel: this.name,
      consumer: name,
      redelivered,
      count: deliveryCountOf(properties),
      intact: isIntact(id, properties, body),
    });
    if (!noAck) this.#unsettled.set(deliveryTag, place);
    return { id, deliveryTag, redelivered, queue, replyTo: '' };
  }

  /** `multiple`: also everything before it. */
  settle(deliveryTag: number, settlement: Settlement, multiple = false): void {
    if (!this.isOpen || !this.#unsettled.has(deliveryTag)) return;
    for (const [tag, place] of this.#unsettled) {
      if (tag > deliveryTag || (!multiple && tag !== deliveryTag)) continue;
      this.#unsettled.delete(tag);
      this.#history.settle(place, settlement);
    }
    const requeue = settlement === 'requeue' || settlement === 'reject';
    if (settlement === 'ack') this.#channel.ack(deliveryTag, multiple);
    else if (settlement === 'reject' && !multiple) this.#channel.reject(deliveryTag, true);
    else this.#channel.nack(deliveryTag, requeue, multiple);
  }

  // ---- the end

  close(): void {
    if (!this.isOpen) return;
    this.#closedByUs = true;
    this.#history.end(this.name, true);
    this.#channel.close();
  }

  #closed(code: number, text: string): void {
    if (!this.#closedByUs) this.#history.end(this.name, false);
    for (const { place, id } of this.#unconfirmed.values()) {
      this.#history.outcome(place, 'unknown');
      this.#handlers.settled?.(id, null);
    }
    this.#unconfirmed.clear();
    this.#unsettled.clear();
    if (!this.#closedByUs) this.#handlers.ended?.(code, text);
  }

  #nonsense(what: string): void {
    this.#history.nonsense(this.name, what);
  }
}
