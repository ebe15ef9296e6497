// The load generator's command line.

import { parseArgs } from 'node:util';

export interface Options {
  readonly suites: readonly string[];
  readonly urls: readonly string[];
  /** The other side of a side-by-side comparison; empty: none. */
  readonly against: readonly string[];
  readonly size: number | null;
  readonly messages: number | null;
  readonly window: number | null;
  readonly prefetch: number;
  readonly publishers: number | null;
  readonly consumers: number | null;
  readonly queues: number | null;
  readonly queueType: string;
  /** Only for the suite `stalls`; empty: all. */
  readonly trials: readonly string[];
  readonly runs: number;
  readonly seconds: number;
  readonly rate: number;
  readonly json: boolean;
  /** Processes whose memory is read. */
  readonly pids: readonly number[];
  /** Only for the suite `compare`. */
  readonly warren: readonly string[];
  readonly rabbitmq: readonly string[];
  readonly ceiling: string | null;
  readonly http: string | null;
  readonly disrupt: boolean;
}

export const usage = `warren bench: a load generator for any AMQP 0-9-1 broker

  npm run bench -- --url amqp://127.0.0.1:5672 [--suite throughput,latency] [--against amqp://127.0.0.1:5681]

Suites (--suite, comma separated; default: throughput,publish,latency,fanin)
  throughput  publish and consume: 16 B and 1 KiB, window 2000, one publisher, one consumer
  publish     publish only: 1 KiB, window 2000
  latency     confirm times: 1 KiB, window 1
  fanin       10 publishers to 10 queues, publish only: 1 KiB, window 200 each
  follower    publish to one queue through each --url in turn, slowest against fastest
  stall       publish through the first --url for --seconds and report the longest time without a confirm;
              kill or pause another node meanwhile
  memory      leave one million messages of 100 B in a queue and read the memory of every --pid
  reply       request and reply, window 1: the reply queue exclusive, and durable
  stalls      what one queue's heavy work costs the others: purge and expiry of --n messages (default 5 million), a consumer of all of them
              without a limit, a message of 128 MiB (nodes that take such: amqp.message.bytes.max); with --http of one node also how long
              event loops stood still
  snapshot    no broker: what taking, sending and installing a snapshot of --n ready messages (default 10 million) costs the event loop
  disk        no broker: what a log keeps of --n messages (default 4 million) of which one in 10,000 is never settled, with compaction and
              without
  moves       starts a cluster of its own: what a fourth node that joins costs publishers, with --n messages (default 600,000) waiting
  compare     Warren beside RabbitMQ and the ceiling, line by line of the table in README.md

Options
  --url URL        amqp://user:password@host:port/vhost; repeat it to spread publishers and consumers over nodes
  --against URL    a second broker, measured in turn with the first (A B A B ...); repeatable
  --size BYTES  --n MESSAGES  --window N  --prefetch N  --publishers N  --consumers N  --queues N
                   instead of what the suite says; --prefetch is 500 by default
  --queue-type T   x-queue-type of the queues: quorum (default), classic, or '' for none
  --runs N         measured runs of each line, the median is shown (default 3); one more warms up
  --trials T       which of the stalls, comma separated: nothing, purge, consume, large, expire, remove (default: all)
  --seconds N      how long a stall is watched (default 20);  --rate N: messages a second meanwhile (default 2000)
  --pid PID        a node's process id, for memory; repeatable
  --json           one JSON document instead of tables

Only for compare
  --warren URL  --rabbitmq URL   repeat for each node;  --ceiling URL
  --http URL       HTTP address of the first Warren node, for process ids and leaders
  --disrupt        allows to kill and to pause (25 s) Warren's processes for the lines about failures
`;

export function parseOptions(args: readonly string[]): Options | null {
  const { values } = parseArgs({
    args: [...args],
    options: {
      suite: { type: 'string', default: 'throughput,publish,latency,fanin' },
      url: { type: 'string', multiple: true },
      against: { type: 'string', multiple: true, default: [] },
      size: { type: 'string' },
      n: { type: 'string' },
      window: { type: 'string' },
      prefetch: { type: 'string', default: '500' },
      publishers: { type: 'string' },
      consumers: { type: 'string' },
      queues: { type: 'string' },
      'queue-type': { type: 'string', default: 'quorum' },
      trials: { type: 'string' },
      runs: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '20' },
      rate: { type: 'string', default: '2000' },
      pid: { type: 'string', multiple: true, default: [] },
      json: { type: 'boolean', default: false },
      warren: { type: 'string', multiple: true },
      rabbitmq: { type: 'string', multiple: true, default: [] },
      ceiling: { type: 'string' },
      http: { type: 'string' },
      disrupt: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return null;
  const urls = values.url ?? ['amqp://127.0.0.1:5672'];
  return {
    suites: values.suite === 'default' ? ['throughput', 'publish', 'latency', 'fanin'] : values.suite.split(','),
    urls,
    against: values.against,
    size: optionalNumber('size', values.size, 0),
    messages: optionalNumber('n', values.n),
    window: optionalNumber('window', values.window),
    prefetch: number('prefetch', values.prefetch, 0),
    publishers: optionalNumber('publishers', values.publishers),
    consumers: optionalNumber('consumers', values.consumers, 0),
    queues: optionalNumber('queues', values.queues),
    queueType: values['queue-type'],
    trials: values.trials?.split(',') ?? [],
    runs: number('runs', values.runs),
    seconds: number('seconds', values.seconds),
    rate: number('rate', values.rate),
    json: values.json,
    pids: values.pid.map((pid) => number('pid', pid)),
    warren: values.warren ?? urls,
    rabbitmq: values.rabbitmq,
    ceiling: values.ceiling ?? null,
    http: values.http ?? null,
    disrupt: values.disrupt,
  };
}

function optionalNumber(name: string, text: string | undefined, least = 1): number | null {
  return text === undefined ? null : number(name, text, least);
}

function number(name: string, text: string, least = 1): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least)
    throw new Error(`--${name} wants a whole number from ${least}, not "${text}"`);
  return value;
}
