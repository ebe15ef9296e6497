// `npm run bench`: a load generator for any AMQP 0-9-1 broker. See `usage` for what it does.

import process from 'node:process';
import { compare, verdictsText } from './compare.ts';
import { diskText, measureDisk } from './disk.ts';
import { measureMemory, measureStall } from './failures.ts';
import { measureMoves, movesText } from './moves.ts';
import { type Options, parseOptions, usage } from './options.ts';
import { measureReplies, repliesText } from './replies.ts';
import { count, environment, environmentText, milliseconds, ProgressLine, tableText } from './report.ts';
import { measureSnapshots, snapshotsText } from './snapshot.ts';
import { measureStalls, stallsText } from './stalls.ts';
import {
  adjusted,
  followerRates,
  loadSuites,
  type Measurement,
  measure,
  measurementsText,
  oddities,
  shapes,
  type Target,
  title,
} from './suites.ts';

/** One suite's outcome: raw for `--json`, and as text. */
interface Section {
  readonly suite: string;
  readonly result: unknown;
  readonly text: string;
}

const memoryMessages = 1_000_000;
const memoryBodyBytes = 100;

async function main(options: Options): Promise<void> {
  const progress = new ProgressLine();
  const at = environment();
  if (!options.json) console.log(`${environmentText(at)}\n`);
  const sections: Section[] = [];
  const measurements: Measurement[] = [];
  for (const suite of options.suites) {
    const names = loadSuites[suite];
    if (!names) {
      const section = await special(suite, options, progress);
      progress.clear();
      if (!options.json) console.log(`${section.text}\n`);
      sections.push(section);
      continue;
    }
    for (const name of names) {
      const shape = adjusted(shapes[name], options);
      if (measurements.some((one) => one.title === title(name, shape))) continue;
      measurements.push(await measure(title(name, shape), shape, targets(options), options, progress));
    }
  }
  if (options.json) console.log(JSON.stringify({ environment: at, measurements, sections }, null, 2));
  else if (measurements.length > 0) {
    console.log(
      `${measurementsText(measurements)}\n\nmedians of ${options.runs} runs; p50 to max: time to the confirm`,
    );
    for (const oddity of oddities(measurements)) console.log(`! ${oddity}`);
  }
}

function targets(options: Options): Target[] {
  const sides: Target[] = [{ name: hosts(options.urls), urls: options.urls }];
  if (options.against.length > 0) sides.push({ name: hosts(options.against), urls: options.against });
  return sides;
}

function hosts(urls: readonly string[]): string {
  return urls.map((url) => new URL(url).host).join(' ');
}

async function special(suite: string, options: Options, progress: ProgressLine): Promise<Section> {
  switch (suite) {
    case 'follower':
      return follower(options, progress);
    case 'stall':
      return stall(options, progress);
    case 'memory':
      return memory(options, progress);
    case 'reply': {
      const replies = await measureReplies(targets(options), options.messages ?? 2000, options.runs, progress);
      return { suite, result: replies, text: repliesText(replies) };
    }
    case 'stalls': {
      const stalls = await measureStalls(options, progress);
      return { suite, result: stalls, text: stallsText(stalls) };
    }
    case 'snapshot': {
      const phases = await measureSnapshots(options.messages ?? undefined, progress);
      return { suite, result: phases, text: snapshotsText(phases) };
    }
    case 'disk': {
      const { messages, size, runs } = options;
      const results = await measureDisk(messages ?? undefined, size ?? undefined, runs, progress);
      return { suite, result: results, text: diskText(results) };
    }
    case 'moves': {
      const moves = await measureMoves(options.messages ?? undefined, progress);
      return { suite, result: moves, text: movesText(moves) };
    }
    case 'compare': {
      const verdicts = await compare(options, progress);
      return { suite, result: verdicts, text: verdictsText(verdicts) };
    }
    default:
      throw new Error(`no suite "${suite}"; --help lists them`);
  }
}

async function follower(options: Options, progress: ProgressLine): Promise<Section> {
  const shape = adjusted(shapes.publish, options);
  const rows: string[][] = [];
  const result = [];
  for (const target of targets(options)) {
    const rates = await followerRates(target, shape, options, progress);
    result.push({ target, rates });
    for (const [i, rate] of rates.entries()) {
      const share = `${(rate / Math.max(...rates)).toFixed(2)}x`;
      rows.push([i === 0 ? title('publish', shape) : '', hosts([target.urls[i]!]), count(rate), share]);
    }
  }
  return { suite: 'follower', result, text: tableText(['one queue', 'through', 'msg/s', 'of fastest'], rows) };
}

async function stall(options: Options, progress: ProgressLine): Promise<Section> {
  const result = await measureStall({
    urls: [options.urls[0]!],
    bodyBytes: options.size ?? 1024,
    queues: options.queues ?? 1,
    queueType: options.queueType,
    seconds: options.seconds,
    rate: options.rate,
    onProgress: (left, gap) => progress.show(`stall · ${left.toFixed(0)} s left · longest ${milliseconds(gap)} ms`),
  });
  const text = [
    `longest time without a confirm: ${milliseconds(result.longestGapMilliseconds)} ms, ended at ${result.longestGapAtSeconds.toFixed(2)} s`,
    `slowest confirm ${milliseconds(result.confirmMilliseconds?.max ?? 0)} ms; ${count(result.confirmed)} confirmed, ` +
      `${count(result.refused)} refused, ${count(result.unanswered)} without an answer`,
  ];
  return { suite: 'stall', result, text: text.join('\n') };
}

async function memory(options: Options, progress: ProgressLine): Promise<Section> {
  const shape = {
    messages: options.messages ?? memoryMessages,
    bodyBytes: options.size ?? memoryBodyBytes,
    queueType: options.queueType,
  };
  const result = await measureMemory(options.urls[0]!, options.pids, shape, (done) =>
    progress.show(`memory · ${count(done)}/${count(shape.messages)}`),
  );
  const rows = result.processes.map((one) => [String(one.pid), count(one.before), count(one.after)]);
  const text = `${count(shape.messages)} ready messages of ${shape.bodyBytes} B\n${tableText(['process', 'MB before', 'MB after'], rows)}`;
  return { suite: 'memory', result, text };
}

try {
  const options = parseOptions(process.argv.slice(2));
  if (options) await main(options);
  else console.log(usage);
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
