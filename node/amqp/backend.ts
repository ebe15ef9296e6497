// What the AMQP front-end asks of the broker, and what it hears from it. Types only: channels know the broker by these alone.
//
// Calls with a `reply` are answered exactly once, later or at once; all others take effect in the order of the calls.
// A channel that waits for a reply keeps its later methods until it has come, so that a client sees its methods done in order.

import type { Arguments, ArgumentValue, ExchangeType } from '../../cluster/index.ts';
import type { BrokerError } from '../errors.ts';

export type { Arguments, ArgumentValue, ExchangeType };

export type Outcome<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: BrokerError };
export type Reply<T> = (outcome: Outcome<T>) => void;

export interface AmqpBackend {
  /** Null: welcome. The remote address decides whether a loopback-only user may enter. */
  authenticate(user: string, password: string, remoteAddress: string, reply: Reply<void>): void;
  /** `not-allowed` (530) for a vhost that does not exist. */
  openConnection(info: ConnectionInfo, events: ConnectionEvents): Outcome<ConnectionBackend>;
}

export interface ConnectionInfo {
  readonly user: string;
  readonly vhost: string;
  readonly remoteAddress: string;
  /** As the client sent them; for people. */
  readonly clientProperties: Arguments;
}

export interface ConnectionEvents {
  /** Publishers are ahead of the disks: stop reading the socket until `resume`. */
  pause(): void;
  resume(): void;
  /** Memory or disk alarm: publishers are asked to stop (connection.blocked), for clients that understand it. */
  blocked(reason: string): void;
  unblocked(): void;
  /** The connection has to end (node stops: 320; this node was fenced: 320). The session sends connection.close and closes. */
  shutdown(error: BrokerError): void;
}

export interface ConnectionBackend {
  /** Bytes have come and are about to be looked at: what is asked for until the next call was in them or in earlier ones. */
  received(): void;
  /** Others wait for what this node does: whoever sends much at once had better rest now and then. */
  readonly isBusy: boolean;
  openChannel(events: ChannelEvents): ChannelBackend;
  /**
   * The connection is gone, however it ended: channels close, exclusive queues go. `done`: all that has happened and can be seen everywhere, or nobody
   * knows; or it is not called at all, because this node's sessions ended.
   */
  close(done?: () => void): void;
}

/** The parts of a stored message, contiguous in `payload`: exchange and routing key as two short strings, then property flags and
 * properties as in a content header frame, then the body. The bytes never change. */
export interface StoredMessage {
  readonly payload: Buffer;
  readonly keyStart: number;
  readonly propertiesStart: number;
  readonly bodyStart: number;
  readonly bodyEnd: number;
  /** The body's pieces before the one in `payload`, of a large message; else empty. */
  readonly before: readonly Buffer[];
}

export interface ChannelEvents {
  /** Publishes with tags [first, last] are on a majority's disks (`ok`), or were refused or their fate is unknown (nack). */
  confirmed(first: number, last: number, ok: boolean): void;
  /** A mandatory message that found no queue after it had been sent on; comes before its confirm. */
  returned(message: StoredMessage): void;
  /** A publish that was answered `routed` turned out to be impossible; later ones were dropped. */
  publishFailed(error: BrokerError): void;
  /** Only called while `canDeliver`, and for a consumer with acknowledgements only while there is `room`. */
  deliver(
    consumer: number,
    leaseOrdinal: number,
    message: StoredMessage,
    redelivered: boolean,
    deliveryCount: number,
  ): void;
  /** False while the socket's buffer is full; then `deliveriesResumed` follows from the channel. */
  readonly canDeliver: boolean;
  /** Deliveries that a channel-wide limit still allows; infinite without one. After it was 0, `deliveriesResumed` follows likewise. */
  readonly room: number;
  /** The queue was deleted under the consumer. */
  cancelled(consumer: number): void;
}

/** Exchange, routing key and flags of a publish. Kept by the channel and passed again as the same object while they repeat. */
export interface Publication {
  readonly exchange: string;
  readonly routingKey: string;
  /** Both as AMQP short strings, copied out of the socket's chunk. */
  readonly key: Buffer;
  readonly mandatory: boolean;
  /** Free for the broker: its cached route. */
  route: unknown;
}

/** What a message asks for itself beside its publication. Kept by the channel and passed again as the same object while it repeats. */
export interface Traits {
  /** Further routing keys (CC and BCC). */
  readonly moreKeys: readonly string[];
  readonly priority: number;
  /** Milliseconds; -1: none. */
  readonly expiration: number;
}

/** What a transaction holds until it is committed. */
export interface HeldPublish {
  readonly publication: Publication;
  readonly properties: Buffer;
  /** Never changes. */
  readonly body: readonly Buffer[];
  readonly bodyBytes: number;
  readonly traits: Traits | null;
}
/** Leases [first, first + count) of a consumer. */
export interface HeldSettlement {
  readonly settlement: Settlement;
  readonly consumer: number;
  readonly first: number;
  readonly count: number;
}

export interface ExchangeDeclaration {
  readonly name: string;
  readonly type: ExchangeType;
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly internal: boolean;
  readonly arguments: Arguments;
}
export interface QueueDeclaration {
  /** Empty: the broker makes one up (amq.gen-…). */
  readonly name: string;
  readonly durable: boolean;
  readonly exclusive: boolean;
  readonly autoDelete: boolean;
  readonly arguments: Arguments;
}
export interface QueueState {
  readonly name: string;
  readonly messages: number;
  readonly consumers: number;
}
export interface Binding {
  readonly source: string;
  readonly destination: { readonly kind: 'queue' | 'exchange'; readonly name: string };
  readonly routingKey: string;
  readonly arguments: Arguments;
}
export interface ConsumeRequest {
  readonly queue: string;
  /** Already made up if the client left it empty. */
  readonly tag: string;
  readonly noAck: boolean;
  readonly exclusive: boolean;
  /** 0: no limit. */
  readonly prefetch: number;
  readonly arguments: Arguments;
}
export interface Consuming {
  readonly consumer: number;
  /** The name under which replies come to it, of a consumer of `directReplyTo` (`properties.ts`). */
  readonly replyTo?: string;
}
export interface Got {
  readonly consumer: number;
  readonly leaseOrdinal: number;
  readonly message: StoredMessage;
  readonly redelivered: boolean;
  readonly deliveryCount: number;
  /** Messages still ready. */
  readonly remaining: number;
}
export type Settlement = 'accept' | 'requeue' | 'reject' | 'discard';

export interface ChannelBackend {
  declareExchange(declaration: ExchangeDeclaration, reply: Reply<void>): void;
  checkExchange(name: string, reply: Reply<void>): void;
  deleteExchange(name: string, ifUnused: boolean, reply: Reply<void>): void;
  declareQueue(declaration: QueueDeclaration, reply: Reply<QueueState>): void;
  /** Passive declare. */
  checkQueue(name: string, reply: Reply<QueueState>): void;
  deleteQueue(name: string, ifUnused: boolean, ifEmpty: boolean, reply: Reply<{ readonly messages: number }>): void;
  purgeQueue(name: string, reply: Reply<{ readonly messages: number }>): void;
  bind(binding: Binding, reply: Reply<void>): void;
  unbind(binding: Binding, reply: Reply<void>): void;
  /**
   * Takes a whole message. `properties`: the content header's property flags and list, byte for byte. `confirmTag`: its publish sequence on
   * the channel, 0 when confirms are off. The pieces are copied before the call returns; those of a body over 64 KiB never change, and may be kept.
   * `routed`: a confirm will follow, or what else comes of it. `unroutable`: nothing will; the channel returns it if mandatory, and confirms.
   * `traits`: null or left out: none.
   */
  publish(
    publication: Publication,
    properties: Buffer,
    body: readonly Buffer[],
    bodyBytes: number,
    confirmTag: number,
    traits?: Traits | null,
  ): 'routed' | 'unroutable' | BrokerError;
  /** Why nothing can be published so, or null: what a transaction asks before it holds a message. */
  checkPublication(publication: Publication): BrokerError | null;
  /**
   * All of a transaction, or nothing. What goes to one shard, or is settled in it, enters it as one, within the bounds of a batch. Mandatory
   * messages without a queue come back by `returned` before the reply, which comes when everything is on a majority's disks.
   */
  commit(publishes: readonly HeldPublish[], settlements: readonly HeldSettlement[], reply: Reply<void>): void;
  /** Replies with the consumer's number; deliveries come after the reply. */
  consume(request: ConsumeRequest, reply: Reply<Consuming>): void;
  /** After the reply nothing more is delivered. What is out stays out until it is settled or the channel ends. */
  cancel(consumer: number, reply: Reply<void>): void;
  get(queue: string, noAck: boolean, reply: Reply<Got | null>): void;
  /** Leases [first, first + count) of a consumer. `reject` counts as a failed delivery and goes back; `discard` is for good. */
  settle(settlement: Settlement, consumer: number, first: number, count: number): void;
  /** At most so many deliveries of the whole channel may be out unsettled, in all; 0: any number. Holds for the consumers that it has, too. */
  limit(unsettledMax: number): void;
  /** `canDeliver` became true again, or there is `room` again. */
  deliveriesResumed(): void;
  /** Unsettled leases go back at once. `done`: they are back, or nobody knows; also called when the connection is gone, or not at all. */
  close(done?: () => void): void;
}
