// What a broken node costs its users, and what a backlog costs in memory: the two measurements that are not rates.

import { execFileSync } from 'node:child_process';
import { Client } from './client.ts';
import { Histogram, type Percentiles } from './histogram.ts';
import { Publisher, prepareQueues, queueNames, removeQueues } from './load.ts';

export interface StallOptions {
  /** Each queue is sent messages through each of these nodes. */
  readonly urls: readonly string[];
  readonly bodyBytes: number;
  readonly queues: number;
  readonly queueType: string;
  readonly seconds: number;
  /** Messages a second, over all queues. */
  readonly rate: number;
  readonly onProgress?: (secondsLeft: number, longestGap: number) => void;
}

export interface StallResult {
  /** The longest time, of any queue, in which something was unconfirmed and no confirm came. */
  readonly longestGapMilliseconds: number;
  /** When it ended, in seconds from the start. */
  readonly longestGapAtSeconds: number;
  /** The same, by `performance.now()`. */
  readonly longestGapEndedAt: number;
  readonly confirmed: number;
  readonly refused: number;
  /** Still without an answer at the end. */
  readonly unanswered: number;
  readonly confirmMilliseconds: Percentiles | null;
}

const pace = 5;

/** Steady streams to some queues, for as long as asked; `during` may harm other nodes meanwhile. */
export async function measureStall(options: StallOptions, during?: () => Promise<void>): Promise<StallResult> {
  const queues = queueNames(options.queues);
  const setup = await Client.connect(options.urls[0]!);
  await prepareQueues(setup, queues, options.queueType);
  const times = new Histogram();
  const streams: Stream[] = [];
  for (const url of options.urls)
    for (const queue of queues) {
      const client = await Client.connect(url);
      await client.selectConfirms();
      streams.push(new Stream(client, queue, options.bodyBytes, times));
    }
  const started = performance.now();
  let isOver = during === undefined;
  const finished = during?.().finally(() => {
    isOver = true;
  });
  let sent = 0;
  for (let elapsed = 0; elapsed < options.seconds * 1000 || !isOver; elapsed = performance.now() - started) {
    for (const due = (elapsed / 1000) * options.rate; sent < due; sent++) streams[sent % streams.length]!.send();
    options.onProgress?.(options.seconds - elapsed / 1000, Math.max(...streams.map((stream) => stream.longestGap)));
    await sleep(pace);
  }
  await finished;
  for (let waited = 0; waited < 5000 && streams.some((stream) => stream.unanswered > 0); waited += pace)
    await sleep(pace);
  const worst = streams.reduce((a, b) => (a.longestGap >= b.longestGap ? a : b));
  await Promise.all(streams.map((stream) => stream.client.close()));
  await removeQueues(setup, queues);
  return {
    longestGapMilliseconds: worst.longestGap,
    longestGapAtSeconds: (worst.longestGapAt - started) / 1000,
    longestGapEndedAt: worst.longestGapAt,
    confirmed: streams.reduce((total, stream) => total + stream.confirmed, 0),
    refused: streams.reduce((total, stream) => total + stream.refused, 0),
    unanswered: streams.reduce((total, stream) => total + stream.unanswered, 0),
    confirmMilliseconds: times.percentiles(),
  };
}

/** One queue's publisher, sending when told and noting how long nothing came back. */
class Stream {
  readonly client: Client;
  readonly #message: Buffer;
  readonly #times: Histogram;
  /** When each unconfirmed tag was sent. */
  readonly #open = new Map<number, number>();
  #lastTag = 0;
  #lastConfirm = 0;
  longestGap = 0;
  longestGapAt = 0;
  confirmed = 0;
  refused = 0;

  constructor(client: Client, queue: string, bodyBytes: number, times: Histogram) {
    this.client = client;
    this.#message = client.prepare(queue, bodyBytes);
    this.#times = times;
    client.onConfirm = (tag, multiple, ok) => this.#onConfirm(tag, multiple, ok);
  }

  get unanswered(): number {
    return this.#open.size;
  }

  send(): void {
    this.#open.set(++this.#lastTag, performance.now());
    this.client.write(this.#message);
  }

  #onConfirm(tag: number, multiple: boolean, ok: boolean): void {
    const now = performance.now();
    const [oldest] = this.#open.values();
    const gap = now - Math.max(this.#lastConfirm, oldest ?? now);
    if (gap > this.longestGap) {
      this.longestGap = gap;
      this.longestGapAt = now;
    }
    this.#lastConfirm = now;
    for (const [open, sentAt] of this.#open) {
      if (multiple ? open > tag : open !== tag) {
        if (open > tag) break;
        continue;
      }
      this.#open.delete(open);
      this.#times.record(now - sentAt);
      if (ok) this.confirmed++;
      else this.refused++;
    }
  }
}

export interface MemoryResult {
  readonly messages: number;
  readonly bodyBytes: number;
  readonly processes: readonly {
    readonly pid: number;
    readonly before: number;
    readonly after: number;
  }[];
}

/** Resident megabytes of each process before and after a queue was filled and nobody consumed. */
export async function measureMemory(
  url: string,
  pids: readonly number[],
  options: {
    readonly messages: number;
    readonly bodyBytes: number;
    readonly queueType: string;
  },
  onProgress: (done: number) => void,
): Promise<MemoryResult> {
  const queues = queueNames(1);
  const setup = await Client.connect(url);
  await prepareQueues(setup, queues, options.queueType);
  const before = pids.map(residentMegabytes);
  const client = await Client.connect(url);
  await client.selectConfirms();
  const window = { bodyBytes: options.bodyBytes, window: 2000 };
  const publisher = new Publisher(client, queues[0]!, options.messages, window, new Histogram());
  const progress = setInterval(() => onProgress(publisher.done), 200);
  try {
    await publisher.run();
  } finally {
    clearInterval(progress);
  }
  await sleep(3000);
  const ready = await setup.countReady(queues[0]!);
  if (ready !== options.messages) throw new Error(`${ready} messages are ready, not ${options.messages}`);
  const processes = pids.map((pid, i) => ({
    pid,
    before: before[i]!,
    after: residentMegabytes(pid),
  }));
  await client.close();
  await removeQueues(setup, queues);
  return {
    messages: options.messages,
    bodyBytes: options.bodyBytes,
    processes,
  };
}

function residentMegabytes(pid: number): number {
  const kibibytes = Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' }));
  return (kibibytes * 1024) / 1e6;
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
