// A client of one node's broker, without sockets and frames: what the AMQP front-end would ask, and what it would be told.

import type { ChannelBackend, ChannelEvents, Got, Outcome, Reply, StoredMessage } from '../../node/amqp/backend.ts';
import { Broker, type BrokerConnection } from '../../node/broker/broker.ts';
import type { MemoryCluster, MemoryNode } from './memory-cluster.ts';

export interface Delivered {
  readonly consumer: number;
  readonly leaseOrdinal: number;
  readonly body: string;
  readonly redelivered: boolean;
  readonly deliveryCount: number;
}

export const textOf = ({ payload, bodyStart, bodyEnd, before }: StoredMessage): string =>
  Buffer.concat([...before, payload.subarray(bodyStart, bodyEnd)]).toString('utf8');

/** The broker of a node's process as it is now. */
export const createBroker = ({ cluster }: MemoryNode, memory: MemoryCluster, consumerWindow = 1000): Broker =>
  new Broker(cluster, memory, {
    defaultUser: 'guest',
    defaultPassword: 'guest',
    loopbackUsers: [],
    consumerWindow,
    parkedMilliseconds: 100,
    lettersMilliseconds: 100,
  });

export class BrokerClient {
  readonly connection: BrokerConnection;
  readonly channel: ChannelBackend;
  readonly delivered: Delivered[] = [];
  readonly confirmed: number[] = [];
  readonly nacked: number[] = [];
  readonly returned: string[] = [];
  readonly cancelled: number[] = [];
  shutdowns = 0;
  paused = false;
  /** What it was told of an alarm; null: there is none. */
  blocked: string | null = null;
  /** Deliveries wait while this is false; call `channel.deliveriesResumed` after setting it again. */
  canDeliver = true;
  readonly #memory: MemoryCluster;
  #tag = 0;

  constructor(broker: Broker, memory: MemoryCluster) {
    this.#memory = memory;
    const opened = broker.openConnection(
      { user: 'guest', vhost: '/', remoteAddress: '127.0.0.1', clientProperties: {} },
      {
        pause: () => {
          this.paused = true;
        },
        resume: () => {
          this.paused = false;
        },
        blocked: (reason) => {
          this.blocked = reason;
        },
        unblocked: () => {
          this.blocked = null;
        },
        shutdown: () => {
          this.shutdowns++;
        },
      },
    );
    if (!opened.ok) throw opened.error;
    this.connection = opened.value as BrokerConnection;
    this.channel = opened.value.openChannel(this.#events());
  }

  /** Waits for one answer; throws what it failed with. */
  async ask<T>(question: (reply: Reply<T>) => void, milliseconds = 5_000): Promise<T> {
    let outcome: Outcome<T> | undefined;
    question((answer) => {
      outcome = answer;
    });
    if (!(await this.#memory.until(() => outcome !== undefined, milliseconds))) throw new Error('no answer');
    if (!outcome!.ok) throw outcome!.error;
    return outcome!.value;
  }

  declare(name: string, more: { durable?: boolean; exclusive?: boolean; autoDelete?: boolean } = {}) {
    const declaration = { name, durable: true, exclusive: false, autoDelete: false, arguments: {}, ...more };
    return this.ask<{ name: string; messages: number; consumers: number }>((reply) =>
      this.channel.declareQueue(declaration, reply),
    );
  }

  state(name: string) {
    return this.ask<{ messages: number; consumers: number }>((reply) => this.channel.checkQueue(name, reply));
  }

  /** By the default exchange. Returns its tag and what `publish` answered. */
  publish(queue: string, body: string | Buffer, mandatory = false) {
    this.connection.received();
    const tag = ++this.#tag;
    const name = Buffer.from(queue, 'utf8');
    const key = Buffer.concat([Buffer.from([0, name.length]), name]);
    const bytes = Buffer.from(body);
    const publication = { exchange: '', routingKey: queue, key, mandatory, route: null };
    return { tag, answer: this.channel.publish(publication, Buffer.alloc(2), [bytes], bytes.length, tag) };
  }

  async consume(queue: string, { prefetch = 0, noAck = false } = {}): Promise<number> {
    const request = { queue, tag: 'c', noAck, exclusive: false, prefetch, arguments: {} };
    const { consumer } = await this.ask<{ consumer: number }>((reply) => this.channel.consume(request, reply));
    return consumer;
  }

  get(queue: string, noAck = true): Promise<Got | null> {
    return this.ask<Got | null>((reply) => this.channel.get(queue, noAck, reply));
  }

  /** Settles everything that was delivered. */
  acceptAll(): void {
    for (const { consumer, leaseOrdinal } of this.delivered) this.channel.settle('accept', consumer, leaseOrdinal, 1);
  }

  get bodies(): string[] {
    return this.delivered.map(({ body }) => body);
  }

  close(): void {
    this.connection.close();
  }

  #events(): ChannelEvents {
    const client = this;
    return {
      confirmed: (first, last, ok) => {
        for (let tag = first; tag <= last; tag++) (ok ? this.confirmed : this.nacked).push(tag);
      },
      returned: (message) => this.returned.push(textOf(message)),
      publishFailed: (error) => {
        throw error;
      },
      deliver: (consumer, leaseOrdinal, message, redelivered, deliveryCount) =>
        this.delivered.push({ consumer, leaseOrdinal, body: textOf(message), redelivered, deliveryCount }),
      get canDeliver() {
        return client.canDeliver;
      },
      room: Number.POSITIVE_INFINITY,
      cancelled: (consumer) => this.cancelled.push(consumer),
    };
  }
}
