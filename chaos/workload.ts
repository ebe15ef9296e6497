// Clients that go on whatever happens to the brokers, and write everything into a ledger: publishers with confirms that reconnect
// and retry or skip what got no answer, consumers that ack and now and then requeue, and a drain through every node at the end.
//
// Publisher i belongs to node i and waits for it; those beyond the number of nodes roam to the next node after every failure.
// A body is made from its id, so that a receiver can tell whether it is whole.

import { setTimeout as sleep } from 'node:timers/promises';
import { type ChannelModel, type ConfirmChannel, type ConsumeMessage, connect } from 'amqplib';
import type { Ledger } from './ledger.ts';

export interface WorkloadOptions {
  /** AMQP addresses, one per node. */
  readonly urls: readonly string[];
  readonly queues: readonly string[];
  /** Makes ids unique among runs. */
  readonly run: string;
  readonly publishers: number;
  readonly consumers: number;
  /** Messages a second of each publisher; fewer if the broker is slower. */
  readonly rate: number;
  /** Send what got no answer again, under the same id; otherwise it is left alone. */
  readonly retry: boolean;
  /** One of so many deliveries is requeued when it comes first; 0: none. */
  readonly requeueEvery: number;
}

const windowMax = 300;
const reconnectMilliseconds = 150;
const connectMillisecondsMax = 4000;
/** Also finds peers that are paused. */
const heartbeatSeconds = 3;
const tickMilliseconds = 10;
const answerMillisecondsMax = 20_000;
const prefetch = 100;
/** Deliveries are held for a moment, so that some are always unsettled when a node dies. */
const ackDelayMilliseconds = 20;
const leaveMillisecondsMax = 1000;

const noise = Buffer.from(Array.from({ length: 301_000 }, (_, i) => (i * 2_654_435_761) >>> 24));

/** Mostly small; some beyond 16 KiB, few beyond 256 KiB: brokers may handle these differently. */
export function bodyOf(id: string): Buffer {
  const sequence = Number(id.slice(id.lastIndexOf('/') + 1));
  const length = sequence % 500 === 499 ? 300_000 : sequence % 50 === 49 ? 20_000 : 64 + (sequence % 512);
  const from = sequence % 1000;
  return Buffer.concat([Buffer.from(`${id}\n`), noise.subarray(from, from + length)]);
}

export class Workload {
  readonly #options: WorkloadOptions;
  readonly #ledger: Ledger;
  readonly #publishers: Publisher[] = [];
  readonly #consumers: Consumer[] = [];

  /** Declares the queues and starts everybody. */
  static async start(options: WorkloadOptions, ledger: Ledger): Promise<Workload> {
    const connection = await open(options.urls[0]!);
    const channel = await connection.createChannel();
    for (const queue of options.queues) await channel.assertQueue(queue, quorumQueue);
    await connection.close();
    const workload = new Workload(options, ledger);
    for (let i = 0; i < options.consumers; i++) workload.#consumers.push(new Consumer(i, options, ledger));
    for (let i = 0; i < options.publishers; i++) workload.#publishers.push(new Publisher(i, options, ledger));
    return workload;
  }

  private constructor(options: WorkloadOptions, ledger: Ledger) {
    this.#options = options;
    this.#ledger = ledger;
  }

  /** Waits for the answers that are due. Returns how many publishes of living connections never got one. */
  async stopPublishing(): Promise<number> {
    const unanswered = await Promise.all(this.#publishers.map((publisher) => publisher.stop()));
    return unanswered.reduce((total, count) => total + count, 0);
  }

  async stopConsuming(): Promise<void> {
    await Promise.all(this.#consumers.map((consumer) => consumer.stop()));
  }

  /** Stops everybody and empties the queues through every node at once. Afterwards the ledger can be judged. */
  async finish(): Promise<DrainReport> {
    const unanswered = await this.stopPublishing();
    await this.stopConsuming();
    return { unanswered, leftovers: await drain(this.#options, this.#ledger) };
  }
}

export interface DrainReport {
  /** Publishes without any answer though their connection lived. */
  readonly unanswered: number;
  /** What nodes still counted as ready after the drain. */
  readonly leftovers: readonly string[];
}

const quorumQueue = { durable: true, arguments: { 'x-queue-type': 'quorum' } };
const drainMillisecondsMax = 40_000;
const quietMilliseconds = 1500;

async function drain(options: WorkloadOptions, ledger: Ledger): Promise<string[]> {
  const all = { ...options, run: `${options.run}-drain`, requeueEvery: 0, consumers: options.queues.length };
  const consumers = options.urls.flatMap((url, node) =>
    options.queues.map((_, queue) => new Consumer(queue, { ...all, urls: [url] }, ledger, `drain-${node}-${queue}`)),
  );
  const deadline = performance.now() + drainMillisecondsMax;
  let seen = -1;
  let quietSince = performance.now();
  while (performance.now() < deadline) {
    if (ledger.events.length !== seen || ledger.awaited > 0) quietSince = performance.now();
    seen = ledger.events.length;
    if (performance.now() - quietSince > quietMilliseconds) break;
    await sleep(50);
  }
  await Promise.all(consumers.map((consumer) => consumer.stop()));
  return countLeftovers(options);
}

async function countLeftovers({ urls, queues }: WorkloadOptions): Promise<string[]> {
  const leftovers: string[] = [];
  for (const url of urls) {
    const connection = await open(url);
    const channel = await connection.createChannel();
    for (const queue of queues) {
      const { messageCount } = await channel.checkQueue(queue);
      if (messageCount > 0) leftovers.push(`${messageCount} in ${queue} through ${url}`);
    }
    await connection.close();
  }
  return leftovers;
}

async function open(url: string): Promise<ChannelModel> {
  const connection = await connect(`${url}?heartbeat=${heartbeatSeconds}`, {
    timeout: connectMillisecondsMax,
    noDelay: true,
  });
  // What went wrong shows in the channels and in `close`.
  connection.on('error', () => {});
  return connection;
}

/** Ends a connection that may have ended already, or whose other side may be paused. */
async function leave(connection: ChannelModel): Promise<void> {
  await Promise.race([connection.close().catch(() => {}), sleep(leaveMillisecondsMax, undefined, { ref: false })]);
}

class Publisher {
  readonly #index: number;
  readonly #options: WorkloadOptions;
  readonly #ledger: Ledger;
  readonly #running: Promise<void>;
  /** Ids without an answer, to be sent again. */
  readonly #again: string[] = [];
  #node: number;
  #sequence = 0;
  #sessions = 0;
  #stopping = false;
  #unanswered = 0;

  constructor(index: number, options: WorkloadOptions, ledger: Ledger) {
    this.#index = index;
    this.#options = options;
    this.#ledger = ledger;
    this.#node = index % options.urls.length;
    this.#running = this.#run();
  }

  async stop(): Promise<number> {
    this.#stopping = true;
    await this.#running;
    return this.#unanswered;
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      try {
        await this.#session(await open(this.#options.urls[this.#node]!));
      } catch {
        // Not reachable, or not able to open a channel: the loop tries again.
      }
      if (this.#index >= this.#options.urls.length) this.#node = (this.#node + 1) % this.#options.urls.length;
      if (!this.#stopping) await sleep(reconnectMilliseconds);
    }
  }

  /** One connection, until it ends or nothing more is wanted. */
  async #session(connection: ChannelModel): Promise<void> {
    let lost = false;
    connection.on('close', () => {
      lost = true;
    });
    const channel = await connection.createConfirmChannel();
    channel.on('error', () => {});
    channel.on('close', () => {
      lost = true;
    });
    const returned = new Set<string>();
    channel.on('return', (message: { properties: { messageId: string } }) =>
      returned.add(message.properties.messageId),
    );
    const session = `publisher-${this.#index}.${this.#sessions++}`;
    const unconfirmed = new Map<number, string>();
    const started = performance.now();
    try {
      for (let sent = 0; !lost && !this.#stopping; await sleep(tickMilliseconds)) {
        const due = ((performance.now() - started) / 1000) * this.#options.rate;
        while (sent < due && unconfirmed.size < windowMax && !lost) {
          this.#publish(channel, session, unconfirmed, returned);
          sent++;
        }
        // What could not be sent in time is left out, or a stall would end in a flood.
        if (due - sent > windowMax) sent = due - windowMax;
      }
      const end = performance.now() + answerMillisecondsMax;
      while (unconfirmed.size > 0 && !lost && performance.now() < end) await sleep(tickMilliseconds);
    } finally {
      if (!lost) this.#unanswered += unconfirmed.size;
      for (const [attempt, id] of unconfirmed) {
        this.#ledger.outcome(attempt, 'unknown');
        if (this.#options.retry) this.#again.push(id);
      }
      unconfirmed.clear();
      await leave(connection);
    }
  }

  #publish(channel: ConfirmChannel, session: string, unconfirmed: Map<number, string>, returned: Set<string>): void {
    const id = this.#again.shift() ?? `${this.#options.run}/p${this.#index}/${this.#sequence++}`;
    const queue = this.#options.queues[this.#index % this.#options.queues.length]!;
    const attempt = this.#ledger.attempt(id, session);
    unconfirmed.set(attempt, id);
    const properties = { persistent: true, mandatory: true, messageId: id };
    channel.publish('', queue, bodyOf(id), properties, (error: Error | null) => {
      // The client calls back with an error for all that is open when the channel ends: then there was no answer.
      if (!unconfirmed.has(attempt) || (error && error.message !== 'message nacked')) return;
      unconfirmed.delete(attempt);
      this.#ledger.outcome(attempt, error ? 'refused' : returned.delete(id) ? 'returned' : 'confirmed');
    });
  }
}

class Consumer {
  readonly #name: string;
  readonly #options: WorkloadOptions;
  readonly #ledger: Ledger;
  readonly #queue: string;
  readonly #url: string;
  readonly #running: Promise<void>;
  #sessions = 0;
  #deliveries = 0;
  #stopping = false;

  constructor(index: number, options: WorkloadOptions, ledger: Ledger, name = `consumer-${index}`) {
    this.#name = name;
    this.#options = options;
    this.#ledger = ledger;
    this.#queue = options.queues[index % options.queues.length]!;
    this.#url = options.urls[index % options.urls.length]!;
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      try {
        await this.#session(await open(this.#url));
      } catch {
        // As with publishers.
      }
      if (!this.#stopping) await sleep(reconnectMilliseconds);
    }
  }

  async #session(connection: ChannelModel): Promise<void> {
    let lost = false;
    connection.on('close', () => {
      lost = true;
    });
    const channel = await connection.createChannel();
    channel.on('error', () => {});
    channel.on('close', () => {
      lost = true;
    });
    await channel.prefetch(prefetch);
    const session = `${this.#name}.${this.#sessions++}`;
    let held: { message: ConsumeMessage; delivery: number }[] = [];
    const settle = () => {
      const settling = held;
      held = [];
      for (const { message, delivery } of settling) {
        if (lost) return;
        if (this.#requeues(message)) channel.nack(message, false, true);
        else {
          this.#ledger.ack(delivery);
          channel.ack(message);
        }
      }
    };
    const { consumerTag } = await channel.consume(this.#queue, (message) => {
      if (message === null) lost = true;
      else held.push({ message, delivery: this.#record(message, session) });
    });
    while (!lost && !this.#stopping) {
      await sleep(ackDelayMilliseconds);
      settle();
    }
    if (!lost) await channel.cancel(consumerTag);
    settle();
    await leave(connection);
  }

  #record({ content, properties, fields }: ConsumeMessage, session: string): number {
    const id = String(properties.messageId);
    return this.#ledger.delivery(id, session, fields.redelivered, content.equals(bodyOf(id)));
  }

  #requeues({ fields }: ConsumeMessage): boolean {
    const { requeueEvery } = this.#options;
    return requeueEvery > 0 && !fields.redelivered && this.#deliveries++ % requeueEvery === requeueEvery - 1;
  }
}
