// What one queue's heavy work costs all others: steady streams to a dozen queues, to each through every node, while something large happens to
// another one. Shown are the streams' confirm times and, where an HTTP address is given, how long an event loop of the cluster stood still.

import { setTimeout as sleep } from 'node:timers/promises';
import { stolenMilliseconds } from '../../chaos/processors.ts';
import { Client } from './client.ts';
import { readEventLoop, readHttpAddresses } from './cluster-view.ts';
import { type DisturbanceKind, prepare } from './disturbances.ts';
import { measureStall } from './failures.ts';
import { Histogram } from './histogram.ts';
import { Publisher, queueNames } from './load.ts';
import type { Options } from './options.ts';
import { milliseconds, type ProgressLine, tableText } from './report.ts';

const messagesDefault = 5_000_000;
const bodyBytes = 16;
/** Queues of the streams: enough to have one in every shard. */
const streams = 12;
const ratePerSecond = 2_000;
const secondsAtLeast = 8;
const pollMilliseconds = 1_000;
const afterFillingMilliseconds = 12_000;
/** What is due at a moment is watched from so long before it on. */
const beforeDueMilliseconds = 3_000;
/** So many are due at one moment, to within the time that it takes to publish them. */
const messagesPerDeadline = 50_000;
/** A cluster that has just started compiles its code yet, and so it does what it never did before. */
const warmUpSeconds = 20;
const warmUpMessages = 20_000;
const warmUpDueMilliseconds = 2_000;

export interface Stall {
  readonly name: string;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  /** Longest delay of any node's event loop, and what of it that node ran itself; NaN: not known. */
  readonly eventLoop: number;
  readonly eventLoopOwn: number;
  /** What the machine's host took away meanwhile, of all processors; NaN: not known. */
  readonly stolen: number;
  readonly note: string;
}

/** Something to happen to a queue, and what is in it then. */
interface Trial {
  readonly name: string;
  /** Messages to be in the queue; 0: none. */
  readonly messages: number;
  /** As `--trials` has it. Those that expire are due all at once, soon after the last one is there. */
  readonly kind: DisturbanceKind | 'nothing';
}

const trials = (messages: number): Trial[] => [
  { name: 'nothing', messages: 0, kind: 'nothing' },
  { name: 'purge', messages, kind: 'purge' },
  { name: 'consumer without a limit, then gone', messages, kind: 'consume' },
  { name: 'a message of 128 MiB', messages: 0, kind: 'large' },
  { name: 'all messages expire', messages, kind: 'expire' },
  { name: 'a full queue is deleted', messages, kind: 'remove' },
];

export async function measureStalls(options: Options, progress: ProgressLine): Promise<Stall[]> {
  const all = trials(options.messages ?? messagesDefault);
  for (const kind of options.trials)
    if (!all.some((trial) => trial.kind === kind)) throw new Error(`no trial "${kind}"; --help lists them`);
  const chosen = options.trials.length === 0 ? all : all.filter((trial) => options.trials.includes(trial.kind));
  const nodes = options.http === null ? [] : await readHttpAddresses(options.http);
  const stalls: Stall[] = [];
  progress.show('stalls · warming up');
  await measureStall({ ...streamOptions(options), seconds: warmUpSeconds }, () => warmUp(options));
  for (const trial of chosen) {
    progress.show(`stalls · ${trial.name} · filling`);
    stalls.push(await measureOne(trial, options, nodes, progress));
  }
  return stalls;
}

/** What is measured later, with few messages. */
async function warmUp({ urls, queueType }: Options): Promise<void> {
  const setup = await Client.connect(urls[0]!);
  for (const kind of ['consume', 'purge', 'large', 'remove', 'expire'] as const) {
    const [queue] = queueNames(1) as [string];
    await setup.declareQueue(queue, { 'x-queue-type': queueType });
    const dueAt = kind === 'expire' ? Date.now() + warmUpDueMilliseconds : null;
    if (kind !== 'large') await fill(urls[0]!, queue, warmUpMessages, dueAt);
    await (await prepare({ kind, queue, urls, milliseconds: 10_000, messages: warmUpMessages }))();
    setup.deleteQueue(queue);
  }
  await setup.close();
}

async function measureOne(
  trial: Trial,
  options: Options,
  nodes: readonly string[],
  progress: ProgressLine,
): Promise<Stall> {
  const { name, messages, kind } = trial;
  const { urls, queueType } = options;
  const [queue] = queueNames(1) as [string];
  const setup = await Client.connect(urls[0]!);
  await setup.declareQueue(queue, { 'x-queue-type': queueType });
  await setup.purgeQueue(queue);
  const dueAt = kind === 'expire' ? Date.now() + fillSeconds(messages) * 1000 + afterFillingMilliseconds : null;
  if (messages > 0) await fill(urls[0]!, queue, messages, dueAt);
  const patience = 2 * fillSeconds(messages) * 1000;
  const disturb = kind === 'nothing' ? null : await prepare({ kind, queue, urls, messages, milliseconds: patience });
  // What filling left behind (snapshots, files) is not what is measured here.
  await sleep(dueAt === null ? afterFillingMilliseconds : Math.max(0, dueAt - Date.now() - beforeDueMilliseconds));
  let note = '';
  let eventLoop = nodes.length === 0 ? Number.NaN : 0;
  let eventLoopOwn = eventLoop;
  let stolen = Number.NaN;
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
    const stolenBefore = stolenMilliseconds();
    if (disturb !== null) note = await disturb();
    const seconds = (performance.now() - started) / 1000;
    await sleep(2_000);
    over = true;
    await watched;
    stolen = stolenMilliseconds() - stolenBefore;
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
  return { name, p50, p99, max, eventLoop, eventLoopOwn, stolen, note };
}

const streamOptions = ({ urls, queueType }: Options) => ({
  urls,
  bodyBytes: 1024,
  queues: streams,
  queueType,
  rate: ratePerSecond,
});

/** Generous: no message may expire before the last one is there. */
const fillSeconds = (messages: number): number => Math.ceil(messages / 40_000) + 5;

/** `dueAt`: when all of them expire, of this machine's wall clock; null: never. */
async function fill(url: string, queue: string, messages: number, dueAt: number | null): Promise<void> {
  const part = dueAt === null ? messages : messagesPerDeadline;
  for (let done = 0; done < messages; done += part) {
    const client = await Client.connect(url);
    await client.selectConfirms();
    const expiration = dueAt === null ? {} : { expiration: `${Math.max(1, dueAt - Date.now())}` };
    const options = { bodyBytes, window: 5_000, ...expiration };
    await new Publisher(client, queue, Math.min(part, messages - done), options, new Histogram()).run();
    await client.close();
  }
}

export function stallsText(stalls: readonly Stall[]): string {
  const rows = stalls.map(({ name, p50, p99, max, eventLoop, eventLoopOwn, stolen, note }) => [
    name,
    ...[p50, p99, max, eventLoop, eventLoopOwn, stolen].map((time) => (Number.isNaN(time) ? '' : milliseconds(time))),
    note,
  ]);
  const header = ['meanwhile', 'confirm p50 ms', 'p99', 'max', 'event loop ms', 'own', 'stolen', ''];
  return tableText(header, rows);
}
