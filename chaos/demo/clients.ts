// The two clients of the demo: a producer that sends each message until it is confirmed, and a consumer. Each has one connection, and goes on to the next node
// whenever that ends or nothing comes of it.
//
// State owned: the connection of each, and what of the tally was sent on it. The tally outlives all connections.

import { setTimeout as sleep } from 'node:timers/promises';
import type { ChannelModel, ConfirmChannel, ConsumeMessage } from 'amqplib';
import { Client } from '../client.ts';
import type { Tally } from './tally.ts';

const heartbeatSeconds = 2;
const tickMilliseconds = 10;
const windowMax = 1000;
const prefetch = 500;
/** A node that brings nothing for so long, though something is due, is left for the next. */
const patienceMilliseconds = 3000;

export interface DemoTraffic {
  readonly urls: readonly string[];
  readonly queues: readonly string[];
  readonly tally: Tally;
}

/** Which node it is the turn of: the first, and another whenever one is asked for again. */
class Turns {
  readonly #urls: readonly string[];
  #turn: number;
  isConnected = false;

  constructor(urls: readonly string[], first: number) {
    this.#urls = urls;
    this.#turn = first + urls.length - 1;
  }

  get url(): string {
    return this.#urls[this.#turn % this.#urls.length]!;
  }

  next(): string {
    this.#turn++;
    return this.url;
  }
}

export class Producer {
  readonly #traffic: DemoTraffic;
  readonly #rate: number;
  readonly #turns: Turns;
  readonly #client: Client;
  #isPublishing = true;

  constructor(traffic: DemoTraffic, rate: number) {
    this.#traffic = traffic;
    this.#rate = rate;
    this.#turns = new Turns(traffic.urls, 0);
    this.#client = new Client(
      () => this.#turns.next(),
      heartbeatSeconds,
      (connection) => this.#session(connection),
    );
  }

  get node(): { readonly url: string; readonly isConnected: boolean } {
    return this.#turns;
  }
  get reconnects(): number {
    return this.#client.reconnects;
  }

  /** Nothing new is sent; what has no answer still is. */
  finish(): void {
    this.#isPublishing = false;
  }
  async stop(): Promise<void> {
    await this.#client.stop();
  }

  async #session(connection: ChannelModel): Promise<void> {
    const { tally } = this.#traffic;
    const channel = await connection.createConfirmChannel();
    const isOver = watch(connection, channel, this.#turns);
    // What the connection before it left without an answer comes first; it may have arrived, and then it comes twice.
    const again = tally.unconfirmed();
    const began = performance.now();
    /** Sent here, without an answer. */
    const open = new Set<number>();
    let due = 0;
    let last = began;
    for (; !isOver() && !this.#client.isStopping; await sleep(tickMilliseconds)) {
      while (again.length > 0 && open.size < windowMax) this.#publish(channel, again.shift()!, open, again);
      const now = performance.now();
      // What could not be sent in time is left out, or a stall would end in a flood.
      due = Math.min(windowMax, due + ((now - last) * this.#rate) / 1000);
      last = now;
      for (; due >= 1 && open.size < windowMax && this.#isPublishing && !isOver(); due--)
        this.#publish(channel, tally.send(now), open, again);
      if (Math.min(tally.confirmWait(now), now - began) > patienceMilliseconds) this.#client.drop();
    }
  }

  #publish(channel: ConfirmChannel, message: number, open: Set<number>, again: number[]): void {
    const { queues, tally } = this.#traffic;
    open.add(message);
    const body = Buffer.from(`message ${message}`);
    const properties = { persistent: true, messageId: String(message) };
    channel.publish('', queues[tally.queueOf(message)]!, body, properties, (error: Error | null) => {
      // Other errors say that the channel has ended, and that nobody knows.
      if (error !== null && error.message !== 'message nacked') return;
      open.delete(message);
      if (error === null) tally.confirm(message, performance.now());
      else again.push(message);
    });
  }
}

export class Consumer {
  readonly #traffic: DemoTraffic;
  readonly #turns: Turns;
  readonly #client: Client;

  constructor(traffic: DemoTraffic) {
    this.#traffic = traffic;
    // Not where the producer begins, so that messages cross from node to node.
    this.#turns = new Turns(traffic.urls, traffic.urls.length - 1);
    this.#client = new Client(
      () => this.#turns.next(),
      heartbeatSeconds,
      (connection) => this.#session(connection),
    );
  }

  get node(): { readonly url: string; readonly isConnected: boolean } {
    return this.#turns;
  }
  get reconnects(): number {
    return this.#client.reconnects;
  }

  async stop(): Promise<void> {
    await this.#client.stop();
  }

  async #session(connection: ChannelModel): Promise<void> {
    const { queues, tally } = this.#traffic;
    const channel = await connection.createChannel();
    const isOver = watch(connection, channel, this.#turns);
    await channel.prefetch(prefetch);
    let isCancelled = false;
    const take = (message: ConsumeMessage | null) => {
      if (message === null) isCancelled = true;
      if (message === null || isOver()) return;
      tally.receive(Number(message.properties.messageId));
      channel.ack(message);
    };
    await Promise.all(queues.map((queue) => channel.consume(queue, take)));
    let received = tally.received;
    let lastAt = performance.now();
    while (!isOver() && !isCancelled && !this.#client.isStopping) {
      await sleep(tickMilliseconds);
      const now = performance.now();
      if (tally.received !== received) lastAt = now;
      received = tally.received;
      if (Math.min(tally.receiveWait(now), now - lastAt) > patienceMilliseconds) this.#client.drop();
    }
  }
}

/** The channel is open now. Tells whether it still is. */
function watch(
  connection: ChannelModel,
  channel: { on(event: 'close' | 'error', listener: () => void): unknown },
  turns: Turns,
): () => boolean {
  let isOver = false;
  const end = () => {
    isOver = true;
    turns.isConnected = false;
  };
  turns.isConnected = true;
  connection.on('close', end);
  channel.on('close', end);
  channel.on('error', () => {});
  return () => isOver;
}
