// Request and reply, as remote calls over queues do it: a request is published, its consumer acknowledges it and publishes the reply, and the
// caller, who waits for it, publishes the next. The reply queue is exclusive to the caller's connection, or durable; requests go by a durable
// queue, or by a transient one, as most of them do in the wild.

import { Client } from './client.ts';
import { Histogram, type Percentiles } from './histogram.ts';
import { queueNames } from './load.ts';
import { median, milliseconds, type ProgressLine, tableText } from './report.ts';

interface Kind {
  readonly requests: 'durable' | 'transient';
  readonly replies: 'exclusive' | 'durable';
}

const kinds: readonly Kind[] = [
  { requests: 'durable', replies: 'durable' },
  { requests: 'durable', replies: 'exclusive' },
  { requests: 'transient', replies: 'durable' },
  { requests: 'transient', replies: 'exclusive' },
];
const bodyBytes = 100;
const timeoutMilliseconds = 30_000;

export interface Replies {
  readonly name: string;
  readonly kind: Kind;
  readonly runs: readonly Percentiles[];
}

/** The caller is at the first URL of a target, the other side at the second. Kinds and targets in turn. */
export async function measureReplies(
  targets: readonly { readonly name: string; readonly urls: readonly string[] }[],
  calls: number,
  runs: number,
  progress: ProgressLine,
): Promise<Replies[]> {
  const sides = targets.flatMap(({ name, urls }) =>
    kinds.map((kind) => ({ name, urls, kind, runs: [] as Percentiles[] })),
  );
  for (let run = 0; run <= runs; run++)
    for (const side of sides) {
      progress.show(
        `request and reply · ${side.name} · requests ${side.kind.requests}, replies ${side.kind.replies} · ${run === 0 ? 'warming up' : `run ${run}/${runs}`}`,
      );
      const times = await callAndReply(side.urls, side.kind, run === 0 ? Math.ceil(calls / 5) : calls);
      if (run > 0) side.runs.push(times);
    }
  return sides.map(({ name, kind, runs: measured }) => ({ name, kind, runs: measured }));
}

async function callAndReply(urls: readonly string[], kind: Kind, calls: number): Promise<Percentiles> {
  const [requests, replies] = queueNames(2) as [string, string];
  const caller = await Client.connect(urls[0]!);
  const server = await Client.connect(urls[1 % urls.length]!);
  const quorum = { 'x-queue-type': 'quorum' };
  if (kind.requests === 'transient') await server.declareQueue(requests, {}, 'transient');
  else await caller.declareQueue(requests, quorum);
  if (kind.replies === 'durable') await caller.declareQueue(replies, quorum);
  else await caller.declareQueue(replies, {}, 'exclusive');
  await server.consume(requests, 10);
  await caller.consume(replies, 10);
  const request = caller.prepare(requests, bodyBytes);
  const reply = server.prepare(replies, bodyBytes);
  server.onDelivery = (deliveryTag) => {
    server.write(reply);
    server.settleUpTo(deliveryTag);
  };
  const times = new Histogram();
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('a reply did not come')), timeoutMilliseconds);
    let done = 0;
    let sentAt = 0;
    const call = () => {
      sentAt = performance.now();
      caller.write(request);
    };
    caller.onDelivery = (deliveryTag) => {
      times.record(performance.now() - sentAt, 1);
      caller.settleUpTo(deliveryTag);
      timer.refresh();
      if (++done < calls) return call();
      clearTimeout(timer);
      resolve();
    };
    call();
  });
  caller.deleteQueue(requests);
  if (kind.replies === 'durable') caller.deleteQueue(replies);
  await Promise.all([caller.close(), server.close()]);
  return times.percentiles()!;
}

export function repliesText(sides: readonly Replies[]): string {
  const p50 = ({ runs }: Replies) => median(runs.map((run) => run.p50));
  const rows = sides.map((side) => {
    const { requests, replies } = side.kind;
    const durable = sides.find(
      ({ name, kind }) => name === side.name && kind.requests === requests && kind.replies === 'durable',
    )!;
    const p99 = median(side.runs.map((run) => run.p99));
    const ratio = `${(p50(side) / p50(durable)).toFixed(2)}x`;
    return [side.name, requests, replies, milliseconds(p50(side)), milliseconds(p99), ratio];
  });
  return tableText(['broker', 'requests', 'replies', 'p50 ms', 'p99', 'of durable replies'], rows);
}
