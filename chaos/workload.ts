// The load of a run: publishers with confirms and consumers with acknowledgements through all nodes, that go on whatever happens and write
// everything into a history; and at the end a drain of every queue through every node.
//
// State owned: the clients. All of them write to one history, so that it has one order of events.

import { setTimeout as sleep } from 'node:timers/promises';
import type { History, QueueTraits } from '../test/history.ts';
import { openConnection } from './client.ts';
import { Consumer, type ConsumerOptions } from './consumer.ts';
import { Publisher } from './publisher.ts';

/** What queues may do with their messages beside keeping them. `delay`: they wait in a queue of their own until they die into the next one. */
export const features = ['dlx', 'ttl', 'delay', 'priorities'] as const;
export type Feature = (typeof features)[number];

export interface WorkloadOptions {
  /** AMQP addresses, one per node. */
  readonly urls: readonly string[];
  readonly queues: readonly string[];
  /** Makes ids unique among runs. */
  readonly run: string;
  readonly publishers: number;
  readonly consumers: number;
  /** Messages a second of each publisher; fewer if the broker is slower. Infinite: as fast as it goes. */
  readonly rate: number;
  /** Send what was refused, or got no answer, again under the same id; otherwise it is left alone. */
  readonly retry: boolean;
  /** One of so many first deliveries is given back by basic.nack; 0: none. */
  readonly requeueEvery: number;
  /** The same by basic.reject. */
  readonly rejectEvery?: number;
  /** One of so many is discarded: it ends, or goes where dead letters go. */
  readonly discardEvery?: number;
  /** Nodes (from 1) that declare the queues, in turn: many brokers place a queue near who declares it. Otherwise the first declares all. */
  readonly declarers?: readonly number[];
  readonly features?: readonly Feature[];
  /** Also finds peers that are paused. */
  readonly heartbeatSeconds?: number;
  /** False: publishers wait. */
  readonly mayPublish?: () => boolean;
}

export interface DrainReport {
  /** Publishes without any answer though their connection lived. */
  readonly unanswered: number;
  /** What nodes still counted as ready after the drain. */
  readonly leftovers: readonly string[];
  /** Why the queues were not emptied through every node; null: they were. */
  readonly incomplete: string | null;
}

interface QueuePlan {
  readonly name: string;
  readonly arguments: Readonly<Record<string, unknown>>;
  readonly traits: QueueTraits;
  /** Somebody consumes from it during the run; otherwise only the drain does. */
  readonly isConsumed: boolean;
}

const defaultHeartbeatSeconds = 3;
const timeToLiveMilliseconds = 2000;
const delayMilliseconds = 300;
const drainMillisecondsMax = 60_000;
/** The queues count as empty when nothing has come for so long; the longer time if something confirmed has not been seen at all. */
const quietMilliseconds = 1500;
const quietMillisecondsWithout = 10_000;

/** The queues as they are declared, those for dead letters first. */
function planQueues({ queues, run, features: wanted = [] }: WorkloadOptions): QueuePlan[] {
  const dead = wanted.includes('dlx') ? `${run}-dead` : null;
  const plans = queues.map((name, i) => {
    // One queue grows old: nobody consumes from it before the drain.
    const isTimed = wanted.includes('ttl') && i === queues.length - 1;
    return planQueue(name, dead, isTimed ? timeToLiveMilliseconds : null);
  });
  if (dead !== null) plans.unshift(planQueue(dead, null, null));
  // Where messages to a queue wait: the usual way to delay them, by their time to live.
  if (wanted.includes('delay'))
    plans.push(...queues.map((queue) => planQueue(waitingFor(queue), queue, delayMilliseconds)));
  return plans;
}
const waitingFor = (queue: string): string => `${queue}-later`;

/** Null: it has no dead letters; its messages wait for their consumers for ever. */
function planQueue(name: string, deadLetterTo: string | null, timeToLive: number | null): QueuePlan {
  const isTimed = timeToLive !== null;
  const time = isTimed ? { 'x-message-ttl': timeToLive } : {};
  const deadLetters = deadLetterTo === null ? {} : deadLettersTo(deadLetterTo);
  return {
    name,
    arguments: { 'x-queue-type': 'quorum', ...deadLetters, ...time },
    traits: { lasting: true, drops: isTimed, deadLetterTo },
    isConsumed: !isTimed,
  };
}

/** Brokers whose dead letters are not safe by themselves are asked to keep them. */
const deadLettersTo = (queue: string) => ({
  'x-dead-letter-exchange': '',
  'x-dead-letter-routing-key': queue,
  'x-dead-letter-strategy': 'at-least-once',
  'x-overflow': 'reject-publish',
});

export class Workload {
  readonly #options: WorkloadOptions;
  readonly #history: History;
  readonly #queues: readonly QueuePlan[];
  readonly #publishers: Publisher[] = [];
  readonly #consumers: Consumer[] = [];

  /** Declares the queues and starts everybody. */
  static async start(options: WorkloadOptions, history: History): Promise<Workload> {
    const workload = new Workload(options, history);
    await workload.#declare();
    workload.#begin();
    return workload;
  }

  private constructor(options: WorkloadOptions, history: History) {
    this.#options = options;
    this.#history = history;
    this.#queues = planQueues(options);
  }

  /** Connections of all clients after their first. */
  get reconnects(): number {
    return [...this.#publishers, ...this.#consumers].reduce((sum, client) => sum + client.reconnects, 0);
  }

  /** All connections break at once. */
  dropAll(): void {
    for (const client of [...this.#publishers, ...this.#consumers]) client.drop();
  }

  /** Waits for the answers that are due. Returns how many publishes of living connections never got one. */
  async stopPublishing(): Promise<number> {
    const unanswered = await Promise.all(this.#publishers.map((publisher) => publisher.stop()));
    return unanswered.reduce((total, count) => total + count, 0);
  }

  async stopConsuming(): Promise<void> {
    await Promise.all(this.#consumers.map((consumer) => consumer.stop()));
  }

  /** Stops everybody and empties the queues through every node at once. Afterwards the history can be judged. */
  async finish(signal?: AbortSignal): Promise<DrainReport> {
    const unanswered = await this.stopPublishing();
    await this.stopConsuming();
    const incomplete = await this.#drain(signal);
    const leftovers = await this.#countLeft();
    return { unanswered, leftovers, incomplete };
  }

  /** Nothing is left of it on the broker. */
  async remove(): Promise<void> {
    const connection = await openConnection(this.#options.urls[0]!, this.#heartbeatSeconds);
    const channel = await connection.createChannel();
    for (const { name } of this.#queues) await channel.deleteQueue(name);
    await connection.close();
  }

  get #heartbeatSeconds(): number {
    return this.#options.heartbeatSeconds ?? defaultHeartbeatSeconds;
  }

  async #declare(): Promise<void> {
    const { urls, run, declarers = [1] } = this.#options;
    for (const [i, node] of declarers.entries()) {
      const setup = `${run}-setup-${node}`;
      const connection = await openConnection(urls[node - 1]!, this.#heartbeatSeconds);
      this.#history.open(setup, node);
      const channel = await connection.createChannel();
      for (const [at, { name, traits, arguments: table }] of this.#queues.entries()) {
        if (at % declarers.length !== i) continue;
        const place = this.#history.invoke(setup, { kind: 'declare', queue: name, ...traits });
        await channel.assertQueue(name, { durable: true, arguments: table });
        this.#history.answer(place, 'ok');
      }
      this.#history.end(setup, true);
      await connection.close();
    }
  }

  #begin(): void {
    const { urls, queues, run, publishers, rate, retry, mayPublish = () => true } = this.#options;
    const heartbeatSeconds = this.#heartbeatSeconds;
    const consumed = this.#queues.filter(({ isConsumed }) => isConsumed);
    for (let i = 0; i < this.#options.consumers; i++) {
      const node = ((i + Math.floor(i / consumed.length)) % urls.length) + 1;
      const { requeueEvery, rejectEvery = 0, discardEvery = 0 } = this.#options;
      const settlements = { requeueEvery, rejectEvery, discardEvery };
      this.#consumers.push(this.#consumer(`consumer-${i}`, node, consumed[i % consumed.length]!.name, settlements));
    }
    const wanted = this.#options.features ?? [];
    const first = wanted.includes('delay') ? queues.map(waitingFor) : queues;
    const hasPriorities = wanted.includes('priorities');
    const options = { urls, queues: first, run, rate, retry, hasPriorities, heartbeatSeconds, mayPublish };
    for (let i = 0; i < publishers; i++) this.#publishers.push(new Publisher(i, options, this.#history));
  }

  #consumer(
    name: string,
    node: number,
    queue: string,
    settlements: Pick<ConsumerOptions, 'requeueEvery' | 'rejectEvery' | 'discardEvery'>,
  ): Consumer {
    const url = this.#options.urls[node - 1]!;
    const heartbeatSeconds = this.#heartbeatSeconds;
    return new Consumer({ name, url, node, queue, heartbeatSeconds, ...settlements }, this.#history);
  }

  /** Null, or why it cannot be said that the queues are empty. */
  async #drain(signal: AbortSignal | undefined): Promise<string | null> {
    const { events } = this.#history;
    const plain = { requeueEvery: 0, rejectEvery: 0, discardEvery: 0 };
    const consumers = this.#options.urls.flatMap((_, i) =>
      this.#queues.map(({ name }, queue) => this.#consumer(`drain-${i + 1}-${queue}`, i + 1, name, plain)),
    );
    const deadline = performance.now() + drainMillisecondsMax;
    let seen = -1;
    let quietSince = performance.now();
    let incomplete: string | null = null;
    for (;;) {
      const isOpen = consumers.every((consumer) => consumer.isOpen);
      if (events.length !== seen || !isOpen) quietSince = performance.now();
      seen = events.length;
      const quiet = performance.now() - quietSince;
      if (quiet > (this.#history.awaited === 0 ? quietMilliseconds : quietMillisecondsWithout)) break;
      if (performance.now() > deadline)
        incomplete = isOpen ? 'deliveries did not end' : 'a queue could not be consumed through every node';
      else if (signal?.aborted === true) incomplete = 'the drain was interrupted';
      if (incomplete !== null) break;
      await sleep(50);
    }
    await Promise.all(consumers.map((consumer) => consumer.stop()));
    return incomplete;
  }

  async #countLeft(): Promise<string[]> {
    const { urls } = this.#options;
    const leftovers: string[] = [];
    for (const [i, url] of urls.entries()) {
      for (const [queue, messages] of await this.#count(url)) {
        this.#history.left(queue, i + 1, messages);
        if (messages === null) leftovers.push(`${queue} could not be asked through ${url}`);
        else if (messages > 0) leftovers.push(`${messages} in ${queue} through ${url}`);
      }
    }
    return leftovers;
  }

  /** Null: no answer. */
  async #count(url: string): Promise<Map<string, number | null>> {
    const counts = new Map<string, number | null>(this.#queues.map(({ name }) => [name, null]));
    try {
      const connection = await openConnection(url, this.#heartbeatSeconds);
      const channel = await connection.createChannel();
      channel.on('error', () => {});
      for (const { name } of this.#queues) counts.set(name, (await channel.checkQueue(name)).messageCount);
      await connection.close();
    } catch {
      // What has been asked so far counts.
    }
    return counts;
  }
}
