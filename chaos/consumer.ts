// A consumer that goes on whatever happens: it acks nearly all, gives back or discards some, and writes down what it does and sees.
//
// State owned: the deliveries that it holds for a moment, so that some are always unsettled when a node dies.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Channel, ChannelModel, ConsumeMessage } from 'amqplib';
import type { History, Settlement } from '../test/history.ts';
import { isBodyOf } from './bodies.ts';
import { Client } from './client.ts';

export interface ConsumerOptions {
  /** Sessions are named after it. */
  readonly name: string;
  readonly url: string;
  /** From 1. */
  readonly node: number;
  readonly queue: string;
  readonly heartbeatSeconds: number;
  /** One of so many first deliveries is given back, or ended otherwise than by an ack; 0: none. */
  readonly requeueEvery: number;
  readonly rejectEvery: number;
  readonly discardEvery: number;
}

const prefetch = 100;
const holdMilliseconds = 20;

interface Held {
  readonly message: ConsumeMessage;
  readonly place: number;
}

export class Consumer {
  readonly #options: ConsumerOptions;
  readonly #history: History;
  readonly #client: Client;
  #sessions = 0;
  #firsts = 0;
  #isOpen = false;

  constructor(options: ConsumerOptions, history: History) {
    this.#options = options;
    this.#history = history;
    this.#client = new Client(
      () => options.url,
      options.heartbeatSeconds,
      (connection) => this.#session(connection),
    );
  }

  /** Its queue knows it, and nobody has ended it. */
  get isOpen(): boolean {
    return this.#isOpen;
  }
  get reconnects(): number {
    return this.#client.reconnects;
  }

  drop(): void {
    this.#client.drop();
  }

  async stop(): Promise<void> {
    await this.#client.stop();
  }

  async #session(connection: ChannelModel): Promise<void> {
    const { name, node, queue } = this.#options;
    const history = this.#history;
    const session = `${name}.${this.#sessions++}`;
    history.open(session, node);
    let isOver = false;
    const end = (graceful: boolean) => {
      if (!isOver) history.end(session, graceful);
      isOver = true;
      this.#isOpen = false;
    };
    connection.on('close', () => end(false));
    try {
      const channel = await connection.createChannel();
      channel.on('error', () => {});
      channel.on('close', () => end(false));
      await channel.prefetch(prefetch);
      const held: Held[] = [];
      const operation = { kind: 'consume', queue, consumer: session, noAck: false, releases: false } as const;
      const begun = history.invoke(session, operation);
      const { consumerTag } = await channel.consume(queue, (message) => {
        if (isOver) return;
        if (message !== null) held.push({ message, place: this.#record(message, session) });
        else {
          history.cancelled(session);
          end(true);
        }
      });
      history.answer(begun, 'ok');
      this.#isOpen = !isOver;
      while (!isOver && !this.#client.isStopping) {
        await sleep(holdMilliseconds);
        this.#settle(channel, held, () => isOver);
      }
      if (!isOver) {
        const cancelling = history.invoke(session, { kind: 'cancel', consumer: session });
        await channel.cancel(consumerTag);
        history.answer(cancelling, 'ok');
      }
      this.#settle(channel, held, () => isOver);
      if (isOver) return;
      end(true);
      // The client library may let the close of a connection overtake the last acks of a channel.
      await channel.close();
    } finally {
      end(true);
    }
  }

  #settle(channel: Channel, held: Held[], isOver: () => boolean): void {
    for (const { message, place } of held.splice(0)) {
      if (isOver()) return;
      const settlement = this.#settlementOf(message);
      this.#history.settle(place, settlement);
      if (settlement === 'ack') channel.ack(message);
      else if (settlement === 'reject') channel.reject(message, true);
      else channel.nack(message, false, settlement === 'requeue');
    }
  }

  #record({ content, properties, fields }: ConsumeMessage, session: string): number {
    const id = String(properties.messageId);
    const { redelivered } = fields;
    const count = Number(properties.headers?.['x-delivery-count'] ?? 0);
    const names = { queue: this.#options.queue, channel: session, consumer: session };
    return this.#history.deliver({ id, ...names, redelivered, count, intact: isBodyOf(id, content) });
  }

  #settlementOf({ fields }: ConsumeMessage): Settlement {
    if (fields.redelivered) return 'ack';
    const { requeueEvery, rejectEvery, discardEvery } = this.#options;
    const first = ++this.#firsts;
    if (requeueEvery > 0 && first % requeueEvery === 0) return 'requeue';
    if (rejectEvery > 0 && first % rejectEvery === 0) return 'reject';
    if (discardEvery > 0 && first % discardEvery === 0) return 'discard';
    return 'ack';
  }
}
