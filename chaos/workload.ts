// Clients that go on whatever happens to the brokers, and write everything into a history: publishers with confirms that reconnect
// and retry or skip what got no answer, consumers that ack and now and then requeue, and a drain through every node at the end.
//
// Publisher i belongs to node i and waits for it; those beyond the number of nodes roam to the next node after every failure.
// A body is made from its id, so that a receiver can tell whether it is whole.

import { setTimeout as sleep } from 'node:timers/promises';
import { type ChannelModel, type ConfirmChannel, type ConsumeMessage, connect } from 'amqplib';
import type { History } from '../test/history.ts';

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
  readonly #history: History;
  readonly #publishers: Publisher[] = [];
  readonly #consumers: Consumer[] = [];

  /** Declares the queues and starts everybody. */
  static async start(options: WorkloadOptions, history: History): Promise<Workload> {
    const connection = await open(options.urls[0]!);
    const channel = await connection.createChannel();
    const setup = `${options.run}-setup`;
    history.open(setup, 1);
    for (const queue of options.queues) {
      const declared = { kind: 'declare', queue, lasting: true, drops: false, deadLetterTo: null } as const;
      const place = history.invoke(setup, declared);
      await channel.assertQueue(queue, quorumQueue);
      history.answer(place, 'ok');
    }
    history.end(setup, true);
    await connection.close();
    const workload = new Workload(options, history);
    for (let i = 0; i < options.consumers; i++) workload.#consumers.push(new Consumer(i, options, history));
    for (let i = 0; i < options.publishers; i++) workload.#publishers.push(new Publisher(i, options, history));
    return workload;
  }

  private constructor(options: WorkloadOptions, history: History) {
    this.#options = options;
    this.#history = history;
  }

  /** Waits for the answers that are due. Returns how many publishes of living connections never got one. */
  async stopPublishing(): Promise<number> {
    const unanswered = await Promise.all(this.#publishers.map((publisher) => publisher.stop()));
    return unanswered.reduce((total, count) => total + count, 0);
  }

  async stopConsuming(): Promise<void> {
    await Promise.all(this.#consumers.map((consumer) => consumer.stop()));
  }

  /** Stops everybody and empties the queues through every node at once. Afterwards the history can be judged. */
  async finish(): Promise<DrainReport> {
    const unanswered = await this.stopPublishing();
    await this.stopConsuming();
    return { unanswered, leftovers: await drain(this.#options, this.#history) };
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

async function drain(options: WorkloadOptions, history: History): Promise<string[]> {
  const all = { ...options, run: `${options.run}-drain`, requeueEvery: 0, consumers: options.queues.length };
  const consumers = options.urls.flatMap((url, node) =>
    options.queues.map(
      (_, queue) => new Consumer(queue, { ...all, urls: [url] }, history, `drain-${node}-${queue}`, node),
    ),
  );
  const deadline = performance.now() + drainMillisecondsMax;
  let seen = -1;
  let quietSince = performance.now();
  while (performance.now() < deadline) {
    if (history.events.length !== seen || history.awaited > 0) quietSince = performance.now();
    seen = history.events.length;
    if (performance.now() - quietSince > quietMilliseconds) break;
    await sleep(50);
  }
  await Promise.all(consumers.map((consumer) => consumer.stop()));
  return countLeftovers(options, history);
}

async function countLeftovers({ urls, queues }: WorkloadOptions, history: History): Promise<string[]> {
  const leftovers: string[] = [];
  for (const [node, url] of urls.entries()) {
    const connection = await open(url);
    const channel = await connection.createChannel();
    for (const queue of queues) {
      const { messageCount } = await channel.checkQueue(queue);
      history.left(queue, node + 1, messageCount);
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
  readonly #history: History;
  readonly #running: Promise<void>;
  /** Ids without an answer, to be sent again. */
  readonly #again: string[] = [];
  #node: number;
  #sequence = 0;
  #sessions = 0;
  #stopping = false;
  #unanswered = 0;

  constructor(index: number, options: WorkloadOptions, history: History) {
    this.#index = index;
    this.#options = options;
    this.#history = history;
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
    const channel = await connection.createConfirmChannel();
    const session = `publisher-${this.#index}.${this.#sessions++}`;
    this.#history.open(session, this.#node + 1);
    let lost = false;
    const end = (graceful: boolean) => {
      if (!lost) this.#history.end(session, graceful);
      lost = true;
    };
    connection.on('close', () => end(false));
    channel.on('error', () => {});
    channel.on('close', () => end(false));
    /** The last attempt of each message. */
    const sentAt = new Map<string, number>();
    channel.on('return', (message: { properties: { messageId: string } }) => {
      const place = sentAt.get(message.properties.messageId);
      if (place !== undefined) this.#history.returned(place);
    });
    const unconfirmed = new Map<number, string>();
    const started = performance.now();
    try {
      for (let sent = 0; !lost && !this.#stopping; await sleep(tickMilliseconds)) {
        const due = ((performance.now() - started) / 1000) * this.#options.rate;
        while (sent < due && unconfirmed.size < windowMax && !lost) {
          this.#publish(channel, session, unconfirmed, sentAt);
          sent++;
        }
        // What could not be sent in time is left out, or a stall would end in a flood.
        if (due - sent > windowMax) sent = due - windowMax;
      }
      const deadline = performance.now() + answerMillisecondsMax;
      while (unconfirmed.size > 0 && !lost && performance.now() < deadline) await sleep(tickMilliseconds);
    } finally {
      if (!lost) this.#unanswered += unconfirmed.size;
      for (const [attempt, id] of unconfirmed) {
        this.#history.outcome(attempt, 'unknown');
        if (this.#options.retry) this.#again.push(id);
      }
      unconfirmed.clear();
      end(true);
      await leave(connection);
    }
  }

  #publish(
    channel: ConfirmChannel,
    session: string,
    unconfirmed: Map<number, string>,
    sentAt: Map<string, number>,
  ): void {
    const id = this.#again.shift() ?? `${this.#options.run}/p${this.#index}/${this.#sequence++}`;
    const queue = this.#options.queues[this.#index % this.#options.queues.length]!;
    const targets = [{ queue, binding: null }];
    const attempt = this.#history.publish({ id, channel: session, targets, mandatory: true, confirms: true });
    unconfirmed.set(attempt, id);
    sentAt.set(id, attempt);
    const properties = { persistent: true, mandatory: true, messageId: id };
    channel.publish('', queue, bodyOf(id), properties, (error: Error | null) => {
      // The client calls back with an error for all that is open when the channel ends: then there was no answer.
      if (!unconfirmed.has(attempt) || (error && error.message !== 'message nacked')) return;
      unconfirmed.delete(attempt);
      sentAt.delete(id);
      this.#history.outcome(attempt, error ? 'refused' : 'confirmed');
    });
  }
}

class Consumer {
  readonly #name: string;
  readonly #options: WorkloadOptions;
  readonly #history: History;
  readonly #queue: string;
  readonly #node: number;
  readonly #url: string;
  readonly #running: Promise<void>;
  #sessions = 0;
  #deliveries = 0;
  #stopping = false;

  constructor(
    index: number,
    options: WorkloadOptions,
    history: History,
    name = `consumer-${index}`,
    node = index % options.urls.length,
  ) {
    this.#node = node + 1;
    this.#name = name;
    this.#options = options;
    this.#history = history;
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
    const channel = await connection.createChannel();
    const history = this.#history;
    const session = `${this.#name}.${this.#sessions++}`;
    history.open(session, this.#node);
    let lost = false;
    const end = (graceful: boolean) => {
      if (!lost) history.end(session, graceful);
      lost = true;
    };
    connection.on('close', () => end(false));
    channel.on('error', () => {});
    channel.on('close', () => end(false));
    await channel.prefetch(prefetch);
    let held: { message: ConsumeMessage; delivery: number }[] = [];
    const settle = () => {
      const settling = held;
      held = [];
      for (const { message, delivery } of settling) {
        if (lost) return;
        const requeues = this.#requeues(message);
        history.settle(delivery, requeues ? 'requeue' : 'ack');
        if (requeues) channel.nack(message, false, true);
        else channel.ack(message);
      }
    };
    const queue = this.#queue;
    const begun = history.invoke(session, { kind: 'consume', queue, consumer: session, noAck: false, releases: false });
    const { consumerTag } = await channel.consume(queue, (message) => {
      if (message === null) end(true);
      else held.push({ message, delivery: this.#record(message, session) });
    });
    history.answer(begun, 'ok');
    while (!lost && !this.#stopping) {
      await sleep(ackDelayMilliseconds);
      settle();
    }
    if (!lost) {
      const cancelling = history.invoke(session, { kind: 'cancel', consumer: session });
      await channel.cancel(consumerTag);
      history.answer(cancelling, 'ok');
    }
    settle();
    end(true);
    await leave(connection);
  }

  #record({ content, properties, fields }: ConsumeMessage, session: string): number {
    const id = String(properties.messageId);
    const { redelivered } = fields;
    const count = Number(properties.headers?.['x-delivery-count'] ?? 0);
    const intact = content.equals(bodyOf(id));
    const names = { queue: this.#queue, channel: session, consumer: session };
    return this.#history.deliver({ id, ...names, redelivered, count, intact });
  }

  #requeues({ fields }: ConsumeMessage): boolean {
    const { requeueEvery } = this.#options;
    return requeueEvery > 0 && !fields.redelivered && this.#deliveries++ % requeueEvery === requeueEvery - 1;
  }
}
