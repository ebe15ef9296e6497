// The workloads by name, and how one is measured: warmed up once, then run several times, in turn with the other side of a
// comparison, so that a machine whose speed drifts spoils both alike. Only medians and their ratios are worth reading.

import { Client } from './client.ts';
import { drive, type LoadOptions, type LoadResult, prepareQueues, queueNames, removeQueues, runLoad } from './load.ts';
import type { Options } from './options.ts';
import { bytes, count, median, milliseconds, type ProgressLine, tableText } from './report.ts';

/** A side of a comparison: the nodes of one broker. */
export interface Target {
  readonly name: string;
  readonly urls: readonly string[];
}

export type Shape = Omit<LoadOptions, 'urls' | 'onProgress' | 'prefetch' | 'queueType'>;

/** One line of a table: a workload on each target. */
export interface Measurement {
  readonly title: string;
  readonly shape: Shape;
  readonly sides: readonly {
    readonly target: Target;
    readonly runs: readonly LoadResult[];
  }[];
}

const single: Shape = {
  bodyBytes: 1024,
  messages: 100_000,
  window: 2000,
  publishers: 1,
  consumers: 1,
  queues: 1,
};

export const shapes = {
  throughput16: { ...single, bodyBytes: 16, messages: 200_000 },
  throughput1024: single,
  publish: { ...single, consumers: 0 },
  latency: { ...single, consumers: 0, messages: 2000, window: 1 },
  fanin: { ...single, consumers: 0, publishers: 10, queues: 10, window: 200 },
} as const satisfies Record<string, Shape>;

export const loadSuites: Readonly<Record<string, readonly (keyof typeof shapes)[]>> = {
  throughput: ['throughput16', 'throughput1024'],
  publish: ['publish'],
  latency: ['latency'],
  fanin: ['fanin'],
};

const titles: Readonly<Record<keyof typeof shapes, string>> = {
  throughput16: 'publish + consume',
  throughput1024: 'publish + consume',
  publish: 'publish',
  latency: 'publish',
  fanin: 'fan-in',
};

export function title(name: keyof typeof shapes, shape: Shape): string {
  const sides = shape.publishers > 1 ? `, ${shape.publishers} publishers, ${shape.queues} queues` : '';
  return `${titles[name]}, ${bytes(shape.bodyBytes)}, window ${shape.window}${sides}`;
}

/** The suite's workload with what the command line says instead. */
export function adjusted(shape: Shape, options: Options): Shape {
  return {
    bodyBytes: options.size ?? shape.bodyBytes,
    messages: options.messages ?? shape.messages,
    window: options.window ?? shape.window,
    publishers: options.publishers ?? shape.publishers,
    consumers: options.consumers ?? shape.consumers,
    queues: options.queues ?? shape.queues,
  };
}

export async function measure(
  name: string,
  shape: Shape,
  targets: readonly Target[],
  options: Pick<Options, 'runs' | 'prefetch' | 'queueType'>,
  progress: ProgressLine,
): Promise<Measurement> {
  const runs = targets.map((): LoadResult[] => []);
  for (let run = 0; run <= options.runs; run++) {
    for (const [i, target] of targets.entries()) {
      const label = run === 0 ? 'warming up' : `run ${run}/${options.runs}`;
      const warmUp = run === 0 ? Math.max(1, Math.floor(shape.messages / 5)) : shape.messages;
      const result = await runLoad({
        ...shape,
        messages: warmUp,
        urls: target.urls,
        prefetch: options.prefetch,
        queueType: options.queueType,
        onProgress: (done) => progress.show(`${name} · ${target.name} · ${label} · ${count(done)}/${count(warmUp)}`),
      });
      if (run > 0) runs[i]!.push(result);
    }
  }
  progress.clear();
  return {
    title: name,
    shape,
    sides: targets.map((target, i) => ({ target, runs: runs[i]! })),
  };
}

/** Messages a second when one queue, declared through the first node, is published to through each node in turn. */
export async function followerRates(
  target: Target,
  shape: Shape,
  options: Pick<Options, 'runs' | 'prefetch' | 'queueType'>,
  progress: ProgressLine,
): Promise<number[]> {
  const rates = target.urls.map((): number[] => []);
  const queues = queueNames(1);
  const setup = await Client.connect(target.urls[0]!);
  await prepareQueues(setup, queues, options.queueType);
  for (let run = 0; run <= options.runs; run++) {
    for (const [i, url] of target.urls.entries()) {
      progress.show(`one queue through each node · ${target.name} · node ${i + 1} · run ${run}/${options.runs}`);
      const { prefetch, queueType } = options;
      const result = await drive({ ...shape, prefetch, queueType, urls: [url] }, queues);
      await setup.purgeQueue(queues[0]!);
      if (run > 0) rates[i]!.push(result.messagesPerSecond);
    }
  }
  await removeQueues(setup, queues);
  progress.clear();
  return rates.map(median);
}

export function medianOf(runs: readonly LoadResult[], value: (result: LoadResult) => number): number {
  return median(runs.map(value));
}

/** A line per workload and target; `ratio` is the first target's median over this one's. */
export function measurementsText(measurements: readonly Measurement[]): string {
  const compared = measurements.some((one) => one.sides.length > 1);
  const header = ['work', 'broker', 'msg/s', 'MB/s', 'p50 ms', 'p99', 'p99.9', 'max'];
  const rows = measurements.flatMap((one) => {
    const first = rateOf(one.sides[0]!.runs);
    return one.sides.map(({ target, runs }, i) => [
      i === 0 ? one.title : '',
      target.name,
      count(rateOf(runs)),
      medianOf(runs, (run) => run.megabytesPerSecond).toFixed(1),
      milliseconds(medianOf(runs, (run) => run.confirmMilliseconds.p50)),
      milliseconds(medianOf(runs, (run) => run.confirmMilliseconds.p99)),
      milliseconds(medianOf(runs, (run) => run.confirmMilliseconds.p999)),
      milliseconds(medianOf(runs, (run) => run.confirmMilliseconds.max)),
      ...(compared ? [i === 0 ? '' : `${(first / rateOf(runs)).toFixed(2)}x`] : []),
    ]);
  });
  return tableText(compared ? [...header, 'ratio'] : header, rows);
}

export function rateOf(runs: readonly LoadResult[]): number {
  return medianOf(runs, (run) => run.messagesPerSecond);
}

/** Refused or redelivered messages have no place in a healthy run. */
export function oddities(measurements: readonly Measurement[]): string[] {
  return measurements.flatMap((one) =>
    one.sides.flatMap(({ target, runs }) => {
      const refused = runs.reduce((total, run) => total + run.refused, 0);
      const redelivered = runs.reduce((total, run) => total + run.redelivered, 0);
      if (refused + redelivered === 0) return [];
      return [`${one.title}, ${target.name}: ${count(refused)} refused, ${count(redelivered)} redelivered`];
    }),
  );
}
