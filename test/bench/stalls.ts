// What one queue's heavy work costs all others: steady streams to a dozen queues, while something large happens to another one. Shown are
// the streams' confirm times and, where an HTTP address is given, how long an event loop of the cluster stood still.

import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from './client.ts';
import { readEventLoop, readHttpAddresses } from './cluster-view.ts';
import { measureStall } from './failures.ts';
import { Histogram } from './histogram.ts';
import { Publisher, queueNames } from './load.ts';
import type { Options } from './options.ts';
import { count, milliseconds, type ProgressLine, tableText } from './report.ts';

const messagesDefault = 5_000_000;
const bodyBytes = 16;
const largeBytes = 128 * 1024 * 1024;
/** Streams: enough to have one in every shard. */
const streams = 12;
const ratePerSecond = 2_000;
const secondsAtLeast = 8;
const pollMilliseconds = 1_000;
const afterFillingMilliseconds = 12_000;
/** A cluster that has just started compiles its code yet. */
const warmUpSeconds = 8;

export interface Stall {
  readonly name: string;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  /** Longest delay of any node's event loop, and without what it waited for a processor; NaN: not known. */
  readonly eventLoop: number;
  readonly eventLoopOwn: number;
  readonly note: string;
}

/** Something to happen to a queue. `prepare` before the streams begin. */
interface Disturbance {
  readonly name: string;
  /** Messages to be in the queue; 0: none. */
  readonly messages: number;
  /** They have a time to live, over soon after the last one is there. */
  readonly expires?: boolean;
  /** Returns a remark. */
  happen(context: {
    readonly queue: string;
    readonly urls: readonly string[];
    readonly messages: number;
  }): Promise<string>;
}

const disturbances = (messages: number): Disturbance[] => [
  { name: 'nothing', messages: 0, happen: async () => '' },
  { name: 'purge', messages, happen: purge },
  { name: 'consumer without a limit, then gone', messages, happen: consumeAll },
  { name: 'a message of 128 MiB', messages: 0, happen: sendLarge },
  { name: 'all messages expire', expires: true, messages, happen: expire },
  { name: 'a full queue is deleted', messages, happen: remove },
];

export async function measureStalls(options: Options, progress: ProgressLine): Promise<Stall[]> {
  const messages = options.messages ?? messagesDefault;
  const nodes = options.http === null ? [] : await readHttpAddresses(options.http);
  const stalls: Stall[] = [];
  progress.show('stalls · warming up');
  await measureStall({ ...streamOptions(options), seconds: warmUpSeconds, onProgress: () => {} });
  for (const disturbance of disturbances(messages)) {
    progress.show(`stalls · ${disturbance.name} · filling`);
    stalls.push(await measureOne(disturbance, options, nodes, progress));
  }
  return stalls;
}

async function measureOne(
  disturbance: Disturbance,
  options: Options,
  nodes: readonly string[],
  progress: ProgressLine,
): Promise<Stall> {
  const { name, messages } = disturbance;
  const { urls, queueType } = options;
  const [queue] = queueNames(1) as [string];
  const setup = await Client.connect(urls[0]!);
  const ttl =
    disturbance.expires === true ? { 'x-message-ttl': fillSeconds(messages) * 1000 + afterFillingMilliseconds } : {};
  await setup.declareQueue(queue, { 'x-queue-type': queueType, ...ttl });
  await setup.purgeQueue(queue);
  if (messages > 0) await fill(urls[0]!, queue, messages);
  // What filling left behind (snapshots, files) is not what is measured here.
  await sleep(afterFillingMilliseconds);
  let note = '';
  let eventLoop = nodes.length === 0 ? Number.NaN : 0;
  let eventLoopOwn = eventLoop;
  let over = false;
  const watch = async () => {
    while (!over) {
      for (const http of nodes) {
        const { eventLoopMilliseconds, eventLoopOwnMilliseconds } = await readEventLoop(http);
        eventLoop = Math.max(eventLoop, eventLoopMilliseconds);
        eventLoopOwn = Math.max(eventLoopOwn, eventLoopOwnMilliseconds ?? Number.NaN);
      }
      await sleep(pollMilliseconds);
    }
  };
  const during = async () => {
    await sleep(1_000);
    const watched = watch();
    const started = performance.now();
    note = await disturbance.happen({ queue, urls, messages });
    const seconds = (performance.now() - started) / 1000;
    await sleep(2_000);
    over = true;
    await watched;
    note = `${note === '' ? '' : `${note}, `}${seconds.toFixed(1)} s`;
  };
  const result = await measureStall(
    {
      ...streamOptions(options),
      seconds: secondsAtLeast,
      onProgress: (left) => progress.show(`stalls · ${name} · ${left.toFixed(0)} s`),
    },
    during,
  );
  setup.deleteQueue(queue);
  await setup.close();
  const { p50, p99, max } = result.confirmMilliseconds!;
  return { name, p50, p99, max, eventLoop, eventLoopOwn, note };
}

const streamOptions = ({ urls, queueType }: Options) => ({
  url: urls[urls.length - 1]!,
  bodyBytes: 1024,
  queues: streams,
  queueType,
  rate: ratePerSecond,
});

/** Generous: no message may expire before the last one is there. */
const fillSeconds = (messages: number): number => Math.ceil(messages / 40_000) + 5;

async function fill(url: string, queue: string, messages: number): Promise<void> {
  const client = await Client.connect(url);
  await client.selectConfirms();
  await new Publisher(client, queue, messages, { bodyBytes, window: 5_000 }, new Histogram()).run();
  await client.close();
}

async function purge({ queue, urls }: { queue: string; urls: readonly string[] }): Promise<string> {
  const client = await Client.connect(urls[0]!);
  await client.purgeQueue(queue);
  await client.close();
  return '';
}

async function remove({ queue, urls }: { queue: string; urls: readonly string[] }): Promise<string> {
  const client = await Client.connect(urls[0]!);
  client.deleteQueue(queue);
  // Answered once the deletion is done.
  await client.selectConfirms();
  await client.close();
  return '';
}

/** Takes as much as comes in a bounded time, acknowledges nothing, and goes: everything returns. */
async function consumeAll(context: { queue: string; urls: readonly string[]; messages: number }): Promise<string> {
  const client = await Client.connect(context.urls[0]!);
  let received = 0;
  client.onDelivery = () => received++;
  await client.consume(context.queue, 0);
  for (let waited = 0; received < context.messages && waited < 60_000; waited += 100) await sleep(100);
  await client.close();
  return `${count(received)} delivered`;
}

async function sendLarge({ queue, urls }: { queue: string; urls: readonly string[] }): Promise<string> {
  const publisher = await Client.connect(urls[0]!);
  const consumer = await Client.connect(urls[1 % urls.length]!);
  const arrived = new Promise<void>((resolve) => {
    consumer.onDelivery = (tag) => {
      consumer.settleUpTo(tag);
      resolve();
    };
  });
  await consumer.consume(queue, 1);
  await publisher.selectConfirms();
  const confirmed = new Promise<void>((resolve, reject) => {
    publisher.onConfirm = (_tag, _multiple, ok) =>
      ok ? resolve() : reject(new Error('the large message was refused'));
    publisher.onLost = reject;
  });
  publisher.write(publisher.prepare(queue, largeBytes));
  await Promise.all([confirmed, arrived]);
  await Promise.all([publisher.close(), consumer.close()]);
  return '';
}

/** Waits until the last message has expired. */
async function expire({
  queue,
  urls,
  messages,
}: {
  queue: string;
  urls: readonly string[];
  messages: number;
}): Promise<string> {
  const client = await Client.connect(urls[0]!);
  const ready = await client.countReady(queue);
  const until = performance.now() + 2 * fillSeconds(messages) * 1000;
  let left = ready;
  while (left > 0 && performance.now() < until) {
    await sleep(500);
    left = await client.countReady(queue);
  }
  await client.close();
  return `${count(ready)} expired${left > 0 ? `, ${count(left)} left` : ''}`;
}

export function stallsText(stalls: readonly Stall[]): string {
  const rows = stalls.map(({ name, p50, p99, max, eventLoop, eventLoopOwn, note }) => [
    name,
    milliseconds(p50),
    milliseconds(p99),
    milliseconds(max),
    Number.isNaN(eventLoop) ? '' : milliseconds(eventLoop),
    Number.isNaN(eventLoopOwn) ? '' : milliseconds(eventLoopOwn),
    note,
  ]);
  return tableText(['meanwhile', 'confirm p50 ms', 'p99', 'max', 'event loop ms', 'own', ''], rows);
}
