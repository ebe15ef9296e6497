// `npm run demo`: a producer and a consumer beside a running cluster, with live counters, to be watched while nodes are killed: sent = confirmed =
// received, lost 0.
//
// State owned: three queues of its own, deleted at the end. Ctrl-C stops the producer, waits until everything has come, and says the sums.

import { resolve } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { leaveConnection, openConnection } from './client.ts';
import { Consumer, Producer } from './demo/clients.ts';
import { DemoScreen } from './demo/screen.ts';
import { Tally } from './demo/tally.ts';
import type { ViewStream } from './view.ts';

/** Each declared through another node, so that each node leads one. */
const queuesCount = 3;
const rateDefault = 500;
const rateMax = 20_000;
const secondsMax = 7 * 24 * 3600;
const tickMilliseconds = 100;
/** For the messages that are under way at the end. */
const finishMillisecondsMax = 30_000;
const heartbeatSeconds = 2;
const notUnderstood = 64;
const twiceMilliseconds = 500;
const urlsDefault = [5672, 5673, 5674].map((port) => `amqp://guest:guest@127.0.0.1:${port}`);

export const demoHelp = `usage: npm run demo -- [--url URL]... [--rate N] [--seconds S] [--plain]

Publishes and consumes beside a running cluster and counts: what was sent, confirmed, received, lost. Start a cluster in another
terminal (npm start), and kill its nodes there (k kills the leader, p cuts it off, r heals); here nothing must get lost.

  --url URL    a node, as amqp://user:password@host:port; repeatable; default the three nodes of npm start
  --rate N     messages a second; default ${rateDefault}
  --seconds S  ends by itself; default: at Ctrl-C
  --plain      plain lines, also on a terminal

Exit status: 0 nothing was lost; 1 something was; 2 no broker answers, or too few to tell; 64 not understood.`;

export interface DemoOptions {
  readonly urls: readonly string[];
  readonly rate: number;
  /** Null: until it is interrupted. */
  readonly seconds: number | null;
  readonly plain: boolean;
}

export interface DemoIo {
  readonly out: ViewStream;
  /** Aborted: it is to end. */
  readonly signal: AbortSignal;
}

/** Null: help is wanted. Throws a sentence on what is not understood. */
export function parseDemoFlags(flags: readonly string[]): DemoOptions | null {
  const { values } = parseArgs({
    args: [...flags],
    options: {
      url: { type: 'string', multiple: true, default: urlsDefault },
      rate: { type: 'string', default: String(rateDefault) },
      seconds: { type: 'string' },
      plain: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return null;
  for (const url of values.url)
    if (!URL.canParse(url) || !/^amqps?:$/.test(new URL(url).protocol))
      throw new Error(`--url = "${url}": must be like ${urlsDefault[0]}`);
  const whole = (name: string, text: string, max: number) => {
    if (!/^[0-9]{1,9}$/.test(text) || Number(text) < 1 || Number(text) > max)
      throw new Error(`--${name} = "${text}": must be an integer from 1 to ${max}`);
    return Number(text);
  };
  return {
    urls: values.url,
    rate: whole('rate', values.rate, rateMax),
    seconds: values.seconds === undefined ? null : whole('seconds', values.seconds, secondsMax),
    plain: values.plain,
  };
}

/** Returns the exit code. */
export async function runDemo(options: DemoOptions, { out, signal }: DemoIo): Promise<number> {
  const queues = Array.from({ length: queuesCount }, (_, i) => `demo-${Date.now().toString(36)}-${i + 1}`);
  const failures = await declare(options.urls, queues);
  if (failures !== null) {
    out.write(`${failures}\nStart a cluster in another terminal: npm start\n`);
    return 2;
  }
  const tally = new Tally(queuesCount);
  const traffic = { urls: options.urls, queues, tally };
  const consumer = new Consumer(traffic);
  const producer = new Producer(traffic, options.rate);
  const screen = new DemoScreen(out, { tally, producer, consumer, ...options });
  const until = performance.now() + (options.seconds ?? Number.POSITIVE_INFINITY) * 1000;
  while (!signal.aborted && performance.now() < until) {
    await sleep(tickMilliseconds);
    screen.draw('');
  }
  producer.finish();
  const deadline = performance.now() + finishMillisecondsMax;
  while (tally.unconfirmedCount + tally.awaitedCount > 0 && performance.now() < deadline) {
    await sleep(tickMilliseconds);
    screen.draw('ending: waiting for what is under way');
  }
  const isWell = producer.node.isConnected && consumer.node.isConnected;
  await Promise.all([producer.stop(), consumer.stop()]);
  screen.end(isWell);
  await remove(options.urls, queues);
  if (tally.awaitedCount === 0) return tally.confirmed > 0 ? 0 : 2;
  return isWell ? 1 : 2;
}

/** Null: all queues are there; else which nodes did not answer, and why. */
async function declare(urls: readonly string[], queues: readonly string[]): Promise<string | null> {
  const failures = new Map<string, string>();
  for (const [i, queue] of queues.entries()) {
    let isDeclared = false;
    for (let attempt = 0; attempt < urls.length && !isDeclared; attempt++) {
      const url = urls[(i + attempt) % urls.length]!;
      if (failures.has(url)) continue;
      try {
        await withChannel(url, (channel) => channel.assertQueue(queue, { durable: true, arguments: quorum }));
        isDeclared = true;
      } catch (error) {
        failures.set(url, wordsOf(error));
      }
    }
    if (!isDeclared)
      return ['No broker answers:', ...[...failures].map(([url, why]) => `  ${new URL(url).host}: ${why}`)].join('\n');
  }
  return null;
}

const quorum = { 'x-queue-type': 'quorum' };

/** An error of several attempts has no words of its own. */
function wordsOf(error: unknown): string {
  const { message, code } = error as { message?: string; code?: string };
  return message || code || 'does not answer';
}

/** The queues are the demo's own; through whichever node answers. */
async function remove(urls: readonly string[], queues: readonly string[]): Promise<void> {
  for (const url of urls) {
    try {
      await withChannel(url, (channel) => Promise.all(queues.map((queue) => channel.deleteQueue(queue))));
      return;
    } catch {
      // The next one, perhaps.
    }
  }
}

type Channel = Awaited<ReturnType<Awaited<ReturnType<typeof openConnection>>['createChannel']>>;

async function withChannel(url: string, use: (channel: Channel) => Promise<unknown>): Promise<void> {
  const connection = await openConnection(url, heartbeatSeconds);
  try {
    const channel = await connection.createChannel();
    channel.on('error', () => {});
    await use(channel);
  } finally {
    await leaveConnection(connection);
  }
}

async function program(flags: readonly string[]): Promise<number> {
  let options: DemoOptions | null;
  try {
    options = parseDemoFlags(flags);
  } catch (error) {
    process.stderr.write(`warren: ${(error as Error).message.split('. ', 1)[0]}\n\n${demoHelp}\n`);
    return notUnderstood;
  }
  if (options === null) {
    process.stdout.write(`${demoHelp}\n`);
    return 0;
  }
  const interrupted = new AbortController();
  let interruptedAt = 0;
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.on(signal, () => {
      // It may arrive twice, from the terminal and from npm.
      if (interrupted.signal.aborted && performance.now() - interruptedAt > twiceMilliseconds) process.exit(2);
      if (interrupted.signal.aborted) return;
      interruptedAt = performance.now();
      interrupted.abort();
    });
  return runDemo(options, { out: process.stdout, signal: interrupted.signal });
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url))
  process.exit(await program(process.argv.slice(2)));
