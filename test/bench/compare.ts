// The project's promises about speed, line by line: Warren, RabbitMQ and the ceiling measured in turn on one machine, and for
// each line whether it is reached. Starts nothing. With --disrupt it kills and pauses processes of the Warren cluster that it
// was given, and only those; who started the cluster restarts what was killed.

import process from 'node:process';
import { readCluster } from './cluster-view.ts';
import { measureMemory, measureStall } from './failures.ts';
import type { Options } from './options.ts';
import { count, milliseconds, type ProgressLine, tableText } from './report.ts';
import {
  followerRates,
  type Measurement,
  measure,
  medianOf,
  rateOf,
  type Shape,
  shapes,
  type Target,
  title,
} from './suites.ts';

/** A line of the table. `reached` is null where it could not be measured. */
export interface Verdict {
  readonly work: string;
  readonly promise: string;
  readonly found: string;
  readonly reached: boolean | null;
}

const followerShare = 0.7;
const killStallMillisecondsMax = 300;
const pauseStallMillisecondsMax = 2500;
const memoryMegabytesMax = 300;
const memoryMessages = 1_000_000;
/** Enough for some of them to be led by whichever node is harmed. */
const stallQueues = 24;

interface RateLine {
  readonly name: keyof typeof shapes;
  readonly timesRabbitmq: number;
  readonly ofCeiling: number;
}

const rateLines: readonly RateLine[] = [
  { name: 'throughput1024', timesRabbitmq: 3, ofCeiling: 0.4 },
  { name: 'throughput16', timesRabbitmq: 5, ofCeiling: 0.3 },
];

export async function compare(options: Options, progress: ProgressLine): Promise<Verdict[]> {
  const verdicts: Verdict[] = [];
  const warren: Target = { name: 'warren', urls: options.warren };
  const targets: Target[] = [{ name: 'warren', urls: options.warren.slice(0, 1) }];
  if (options.rabbitmq.length > 0) targets.push({ name: 'rabbitmq', urls: options.rabbitmq.slice(0, 1) });
  const ceiling: Target[] = options.ceiling === null ? [] : [{ name: 'ceiling', urls: [options.ceiling] }];
  for (const line of rateLines) {
    const shape = scaled(shapes[line.name], options);
    const name = title(line.name, shape);
    verdicts.push(rateVerdict(line, await measure(name, shape, [...targets, ...ceiling], options, progress)));
  }
  const latency = scaled(shapes.latency, options);
  verdicts.push(latencyVerdict(await measure(title('latency', latency), latency, targets, options, progress)));
  verdicts.push(await followerVerdict(warren, options, progress));
  verdicts.push(...(await memoryVerdict(options, progress)));
  verdicts.push(...(await stallVerdicts(options, progress)));
  progress.clear();
  return verdicts;
}

export function verdictsText(verdicts: readonly Verdict[]): string {
  const word = (reached: boolean | null) => (reached === null ? 'not measured' : reached ? 'reached' : 'MISSED');
  return tableText(
    ['work', 'promise', 'found', ''],
    verdicts.map((one) => [one.work, one.promise, one.found, word(one.reached)]),
    'text',
  );
}

function scaled(shape: Shape, options: Options): Shape {
  return { ...shape, messages: options.messages ?? shape.messages };
}

function rateVerdict(line: RateLine, measurement: Measurement): Verdict {
  const rate = (name: string) => {
    const side = measurement.sides.find((one) => one.target.name === name);
    return side ? rateOf(side.runs) : null;
  };
  const [warren, rabbitmq, ceiling] = [rate('warren')!, rate('rabbitmq'), rate('ceiling')];
  const found = [`${count(warren)} msg/s`];
  if (rabbitmq !== null) found.push(`${(warren / rabbitmq).toFixed(1)} x rabbitmq (${count(rabbitmq)})`);
  if (ceiling !== null) found.push(`${(warren / ceiling).toFixed(2)} x ceiling (${count(ceiling)})`);
  const missed =
    (rabbitmq !== null && warren < line.timesRabbitmq * rabbitmq) ||
    (ceiling !== null && warren < line.ofCeiling * ceiling);
  return {
    work: measurement.title,
    promise: `${line.timesRabbitmq} x rabbitmq, ${line.ofCeiling.toFixed(2)} x ceiling`,
    found: found.join(', '),
    reached: missed ? false : rabbitmq === null || ceiling === null ? null : true,
  };
}

function latencyVerdict(measurement: Measurement): Verdict {
  const medians = measurement.sides.map((side) => medianOf(side.runs, (run) => run.confirmMilliseconds.p50));
  return {
    work: `${measurement.title}: p50 of the confirm`,
    promise: "at most rabbitmq's",
    found: measurement.sides.map((side, i) => `${side.target.name} ${milliseconds(medians[i]!)} ms`).join(', '),
    reached: medians.length < 2 ? null : medians[0]! <= medians[1]!,
  };
}

async function followerVerdict(warren: Target, options: Options, progress: ProgressLine): Promise<Verdict> {
  const work = 'publish through a node that leads nothing of that queue';
  const promise = `${followerShare} x through the leader`;
  if (warren.urls.length < 2) return { work, promise, found: 'needs --warren for every node', reached: null };
  const rates = await followerRates(warren, scaled(shapes.publish, options), options, progress);
  const ratio = Math.min(...rates) / Math.max(...rates);
  const found = `${rates.map(count).join(', ')} msg/s: ${ratio.toFixed(2)} x`;
  return { work, promise, found, reached: ratio >= followerShare };
}

async function memoryVerdict(options: Options, progress: ProgressLine): Promise<Verdict[]> {
  const work = `${count(memoryMessages)} ready messages of 100 B: memory per node`;
  const promise = `at most ${memoryMegabytesMax} MB`;
  const pids = options.pids.length > 0 ? options.pids : await warrenProcesses(options.http);
  if (pids.length === 0) return [{ work, promise, found: 'needs --http or --pid', reached: null }];
  const shape = { messages: memoryMessages, bodyBytes: 100, queueType: options.queueType };
  const result = await measureMemory(options.warren[0]!, pids, shape, (done) =>
    progress.show(`memory · ${count(done)}`),
  );
  const after = result.processes.map((one) => one.after);
  const reached = Math.max(...after) <= memoryMegabytesMax;
  return [{ work, promise, found: `${after.map(count).join(', ')} MB`, reached }];
}

async function stallVerdicts(options: Options, progress: ProgressLine): Promise<Verdict[]> {
  const lines = [
    {
      work: 'kill -9 of a leader: longest stall through another node',
      limit: killStallMillisecondsMax,
      pauseSeconds: 0,
    },
    { work: 'a leader paused for 25 s: the same', limit: pauseStallMillisecondsMax, pauseSeconds: 25 },
  ];
  const verdicts: Verdict[] = [];
  for (const { work, limit, pauseSeconds } of lines) {
    const promise = `at most ${count(limit)} ms`;
    const { http } = options;
    if (!options.disrupt || http === null) {
      verdicts.push({ work, promise, found: 'needs --disrupt and --http', reached: null });
      continue;
    }
    const result = await measureStall(
      {
        urls: [options.warren[0]!],
        bodyBytes: 1024,
        queues: stallQueues,
        queueType: options.queueType,
        seconds: pauseSeconds + 12,
        rate: options.rate,
        onProgress: (left, gap) => progress.show(`${work} · ${left.toFixed(0)} s left · ${milliseconds(gap)} ms`),
      },
      () => harm(http, options.warren[0]!, pauseSeconds),
    );
    const found = `${count(result.longestGapMilliseconds)} ms, ${result.refused} refused, ${result.unanswered} unanswered`;
    verdicts.push({ work, promise, found, reached: result.longestGapMilliseconds <= limit });
  }
  return verdicts;
}

/** Kills, or pauses for a while, the node that leads most groups; never the one at `url`, through which is published. */
async function harm(http: string, url: string, pauseSeconds: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const nodes = await readCluster(http);
  const { port } = new URL(url);
  const victim = nodes
    .filter(({ amqp }) => !amqp.endsWith(`:${port}`))
    .reduce((a, b) => (a.leaderships >= b.leaderships ? a : b));
  if (pauseSeconds === 0) {
    process.kill(victim.pid, 'SIGKILL');
    return;
  }
  process.kill(victim.pid, 'SIGSTOP');
  try {
    await new Promise((resolve) => setTimeout(resolve, pauseSeconds * 1000));
  } finally {
    process.kill(victim.pid, 'SIGCONT');
  }
}

async function warrenProcesses(http: string | null): Promise<number[]> {
  return http === null ? [] : (await readCluster(http)).map((node) => node.pid);
}
