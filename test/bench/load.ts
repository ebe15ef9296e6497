// One measured run: publishers with a window of unconfirmed messages, consumers that acknowledge, queues made before and deleted
// after. The sender writes many copies of one prepared message at once; the receiver counts. Both keep per connection only
// counters and a ring of sending times.

import { Client } from './client.ts';
import { Histogram, type Percentiles } from './histogram.ts';

export interface LoadOptions {
  /** Publisher i uses URL i; consumer i the next one. */
  readonly urls: readonly string[];
  readonly bodyBytes: number;
  readonly messages: number;
  /** Unconfirmed messages per publisher. */
  readonly window: number;
  /** Unsettled messages per consumer. */
  readonly prefetch: number;
  readonly publishers: number;
  /** 0: publish only. */
  readonly consumers: number;
  /** Publisher i sends to queue i, modulo. */
  readonly queues: number;
  readonly queueType: string;
  /** Called now and then with the messages done so far. */
  readonly onProgress?: (done: number) => void;
}

export interface LoadResult {
  readonly messages: number;
  readonly seconds: number;
  /** Published and confirmed, and if there were consumers delivered, all of them. */
  readonly messagesPerSecond: number;
  readonly megabytesPerSecond: number;
  /** Until the last confirm, whatever the consumers did. */
  readonly confirmedPerSecond: number;
  readonly confirmMilliseconds: Percentiles;
  readonly refused: number;
  readonly redelivered: number;
}

const blockBytes = 65_536;
let runs = 0;

/** Names that no earlier run used. */
export function queueNames(count: number): string[] {
  runs++;
  return Array.from({ length: count }, (_, i) => `bench-${process.pid}-${runs}-${i}`);
}

export async function prepareQueues(client: Client, queues: readonly string[], queueType: string): Promise<void> {
  for (const queue of queues) {
    await client.declareQueue(queue, queueType === '' ? {} : { 'x-queue-type': queueType });
    await client.purgeQueue(queue);
  }
}

export async function removeQueues(client: Client, queues: readonly string[]): Promise<void> {
  for (const queue of queues) {
    await client.purgeQueue(queue);
    client.deleteQueue(queue);
  }
  await client.close();
}

/** One run with queues of its own. */
export async function runLoad(options: LoadOptions): Promise<LoadResult> {
  const queues = queueNames(options.queues);
  const setup = await Client.connect(options.urls[0]!);
  await prepareQueues(setup, queues, options.queueType);
  try {
    return await drive(options, queues);
  } finally {
    await removeQueues(setup, queues);
  }
}

/** One run with queues that exist and are empty. */
export async function drive(options: LoadOptions, queues: readonly string[]): Promise<LoadResult> {
  const { urls } = options;
  const confirmTimes = new Histogram();
  const consumers: Consumer[] = [];
  const publishers: Publisher[] = [];
  for (let i = 0; i < options.consumers; i++) {
    const client = await Client.connect(urls[(i + 1) % urls.length]!);
    consumers.push(new Consumer(client));
    await client.consume(queues[i % queues.length]!, options.prefetch);
  }
  for (let i = 0; i < options.publishers; i++) {
    const client = await Client.connect(urls[i % urls.length]!);
    await client.selectConfirms();
    publishers.push(new Publisher(client, queues[i % queues.length]!, share(options, i), options, confirmTimes));
  }
  const measured: readonly { readonly done: number }[] = options.consumers > 0 ? consumers : publishers;
  const progress = setInterval(() => options.onProgress?.(sum(measured, (side) => side.done)), 200);
  try {
    const started = performance.now();
    const delivered = allDelivered(consumers, sum(countPerQueue(options).slice(0, consumers.length), Number));
    await Promise.all(publishers.map((publisher) => publisher.run()));
    const confirmedSeconds = (performance.now() - started) / 1000;
    await delivered;
    const seconds = (performance.now() - started) / 1000;
    return {
      messages: options.messages,
      seconds,
      messagesPerSecond: options.messages / seconds,
      megabytesPerSecond: (options.messages * options.bodyBytes) / seconds / 1e6,
      confirmedPerSecond: options.messages / confirmedSeconds,
      confirmMilliseconds: confirmTimes.percentiles() ?? { p50: 0, p99: 0, p999: 0, max: 0 },
      refused: sum(publishers, (publisher) => publisher.refused),
      redelivered: sum(consumers, (consumer) => consumer.redelivered),
    };
  } finally {
    clearInterval(progress);
    await Promise.all([...publishers, ...consumers].map((side) => side.client.close()));
  }
}

/** Sends `count` messages, never more than `window` of them unconfirmed. */
export class Publisher {
  readonly client: Client;
  readonly #block: Buffer;
  readonly #messageBytes: number;
  readonly #messagesPerBlock: number;
  readonly #count: number;
  readonly #window: number;
  readonly #times: Histogram;
  /** When each tag was sent, tags modulo the size; NaN once confirmed. Bounds how far a late confirm may lag behind. */
  readonly #sentAt: Float64Array;
  #sent = 0;
  /** Every tag up to here is confirmed. */
  #settled = 0;
  #resolve: () => void = () => {};
  done = 0;
  refused = 0;

  constructor(
    client: Client,
    queue: string,
    count: number,
    options: { readonly bodyBytes: number; readonly window: number; readonly expiration?: string },
    times: Histogram,
  ) {
    this.client = client;
    const message = client.prepare(queue, options.bodyBytes, options.expiration);
    this.#messageBytes = message.length;
    this.#messagesPerBlock = Math.max(1, Math.floor(blockBytes / message.length));
    this.#block = Buffer.concat(Array.from({ length: this.#messagesPerBlock }, () => message));
    this.#count = count;
    this.#window = options.window;
    this.#times = times;
    this.#sentAt = new Float64Array(2 ** Math.ceil(Math.log2(options.window * 4)));
  }

  run(): Promise<void> {
    this.client.onConfirm = (tag, multiple, ok) => this.#confirmed(tag, multiple, ok);
    this.client.onTurn = () => this.#pump();
    this.client.onDrain = () => this.#pump();
    return new Promise((resolve, reject) => {
      this.client.onLost = reject;
      this.#resolve = resolve;
      if (this.#count === 0) resolve();
      else this.#pump();
    });
  }

  #pump(): void {
    const ringSize = this.#sentAt.length;
    let room = Math.min(
      this.#count - this.#sent,
      this.#window - (this.#sent - this.done),
      ringSize - (this.#sent - this.#settled),
    );
    while (room > 0 && this.client.writable) {
      const messages = Math.min(room, this.#messagesPerBlock);
      const now = performance.now();
      for (let i = 0; i < messages; i++) this.#sentAt[++this.#sent & (ringSize - 1)] = now;
      this.client.write(this.#block.subarray(0, messages * this.#messageBytes));
      room -= messages;
    }
  }

  #confirmed(tag: number, multiple: boolean, ok: boolean): void {
    const now = performance.now();
    const mask = this.#sentAt.length - 1;
    let first = multiple ? this.#settled + 1 : tag;
    while (first <= tag) {
      const sentAt = this.#sentAt[first & mask]!;
      let next = first;
      while (next <= tag && Object.is(this.#sentAt[next & mask], sentAt)) this.#sentAt[next++ & mask] = Number.NaN;
      const count = next - first;
      if (!Number.isNaN(sentAt)) {
        this.#times.record(now - sentAt, count);
        this.done += count;
        if (!ok) this.refused += count;
      }
      first = next;
    }
    if (multiple) this.#settled = Math.max(this.#settled, tag);
    while (this.#settled < this.#sent && Number.isNaN(this.#sentAt[(this.#settled + 1) & mask]!)) this.#settled++;
    if (this.done === this.#count) this.#resolve();
  }
}

/** Acknowledges, once a turn of the event loop, all that has come. */
class Consumer {
  readonly client: Client;
  #lastTag = 0;
  #settling = false;
  done = 0;
  redelivered = 0;
  onDone: () => void = () => {};

  constructor(client: Client) {
    this.client = client;
    client.onDelivery = (deliveryTag, redelivered) => {
      this.#lastTag = deliveryTag;
      this.done++;
      if (redelivered) this.redelivered++;
    };
    client.onTurn = () => {
      if (this.#settling || this.#lastTag === 0) return;
      this.#settling = true;
      setImmediate(() => this.#settle());
    };
  }

  #settle(): void {
    this.#settling = false;
    if (this.#lastTag === 0) return;
    this.client.settleUpTo(this.#lastTag);
    this.#lastTag = 0;
    this.onDone();
  }
}

function allDelivered(consumers: readonly Consumer[], wanted: number): Promise<void> {
  return new Promise((resolve, reject) => {
    if (wanted === 0) resolve();
    for (const consumer of consumers) {
      consumer.client.onLost = reject;
      consumer.onDone = () => {
        if (sum(consumers, (one) => one.done) >= wanted) resolve();
      };
    }
  });
}

/** How many messages publisher `i` sends. */
function share(options: LoadOptions, i: number): number {
  return Math.floor(options.messages / options.publishers) + (i < options.messages % options.publishers ? 1 : 0);
}

function countPerQueue(options: LoadOptions): number[] {
  const counts = new Array<number>(options.queues).fill(0);
  for (let i = 0; i < options.publishers; i++) counts[i % options.queues]! += share(options, i);
  return counts;
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}
