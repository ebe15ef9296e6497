// A publisher with confirms that goes on whatever happens, and writes down what it does and sees.
//
// Publisher i belongs to node i and waits for it; those beyond the number of nodes roam to the next node after every failure. Each sends to all
// queues in turn. A message is unknown when its connection ends before an answer: it, and what was refused, is sent again under its id, if asked for.
//
// State owned: its count, what waits to be sent again, what is unconfirmed.

import { setTimeout as sleep } from 'node:timers/promises';
import type { ChannelModel, ConfirmChannel } from 'amqplib';
import type { History } from '../test/history.ts';
import { bodyOf, sequenceOf } from './bodies.ts';
import { Client } from './client.ts';

export interface PublisherOptions {
  readonly urls: readonly string[];
  readonly queues: readonly string[];
  readonly run: string;
  /** Messages a second; infinite: as fast as the window lets it. */
  readonly rate: number;
  readonly retry: boolean;
  /** Messages have priorities, by their number in the sequence: those of one priority keep their order. */
  readonly hasPriorities: boolean;
  readonly heartbeatSeconds: number;
  /** False: it waits, for the run has had its share of events. */
  readonly mayPublish: () => boolean;
}

const windowMax = 300;
const tickMilliseconds = 10;
const answerMillisecondsMax = 20_000;
/** Of RabbitMQ's quorum queues those over 4 go first; others ignore them, or tell each one apart. */
const priorities = [0, 4, 8];

/** What one session has sent and not heard of. */
interface Unconfirmed {
  /** Ids, by the place of their publish. */
  readonly ids: Map<number, string>;
  /** The place of the last publish of each id. */
  readonly places: Map<string, number>;
}

export class Publisher {
  readonly #index: number;
  readonly #options: PublisherOptions;
  readonly #history: History;
  readonly #client: Client;
  /** Ids to be sent again, and how often each was sent. */
  readonly #again: string[] = [];
  readonly #attempts = new Map<string, number>();
  #node: number;
  #sequence = 0;
  #sessions = 0;
  #unanswered = 0;

  constructor(index: number, options: PublisherOptions, history: History) {
    this.#index = index;
    this.#options = options;
    this.#history = history;
    this.#node = index % options.urls.length;
    this.#client = new Client(
      () => options.urls[this.#node]!,
      options.heartbeatSeconds,
      (connection) => this.#session(connection),
    );
  }

  get reconnects(): number {
    return this.#client.reconnects;
  }

  drop(): void {
    this.#client.drop();
  }

  /** Waits for the answers that are due. Returns how many publishes of a living connection never got one. */
  async stop(): Promise<number> {
    await this.#client.stop();
    return this.#unanswered;
  }

  /** One connection, until it ends or nothing more is wanted. */
  async #session(connection: ChannelModel): Promise<void> {
    const session = `publisher-${this.#index}.${this.#sessions++}`;
    let isOver = false;
    const end = (graceful: boolean) => {
      if (!isOver) this.#history.end(session, graceful);
      isOver = true;
    };
    const unconfirmed: Unconfirmed = { ids: new Map(), places: new Map() };
    this.#history.open(session, this.#node + 1);
    connection.on('close', () => end(false));
    try {
      const channel = await connection.createConfirmChannel();
      channel.on('error', () => {});
      channel.on('close', () => end(false));
      channel.on('return', ({ properties }: { properties: { messageId: string } }) => {
        const place = unconfirmed.places.get(properties.messageId);
        if (place !== undefined) this.#history.returned(place);
      });
      await this.#publishAll(channel, session, unconfirmed, () => isOver);
      const deadline = performance.now() + answerMillisecondsMax;
      while (unconfirmed.ids.size > 0 && !isOver && performance.now() < deadline) await sleep(tickMilliseconds);
    } finally {
      if (!isOver) this.#unanswered += unconfirmed.ids.size;
      for (const [place, id] of unconfirmed.ids) {
        this.#history.outcome(place, 'unknown');
        this.#sendAgain(id);
      }
      unconfirmed.ids.clear();
      end(true);
      // Who roams tries the next node.
      const { urls } = this.#options;
      if (this.#index >= urls.length) this.#node = (this.#node + 1) % urls.length;
    }
  }

  async #publishAll(
    channel: ConfirmChannel,
    session: string,
    unconfirmed: Unconfirmed,
    isOver: () => boolean,
  ): Promise<void> {
    const { rate, mayPublish } = this.#options;
    const started = performance.now();
    for (let sent = 0; !isOver() && !this.#client.isStopping; await sleep(tickMilliseconds)) {
      const due = ((performance.now() - started) / 1000) * rate;
      while (sent < due && unconfirmed.ids.size < windowMax && mayPublish() && !isOver()) {
        this.#publish(channel, session, unconfirmed);
        sent++;
      }
      // What could not be sent in time is left out, or a stall would end in a flood.
      if (Number.isFinite(due)) sent = Math.max(sent, due - windowMax);
    }
  }

  #publish(channel: ConfirmChannel, session: string, { ids, places }: Unconfirmed): void {
    const { run, queues, hasPriorities } = this.#options;
    const id = this.#again.shift() ?? `${run}/p${this.#index}/${this.#sequence++}`;
    const sequence = sequenceOf(id);
    const queue = queues[(this.#index + sequence) % queues.length]!;
    // Neighbours in a queue differ.
    const priority = priorities[Math.floor(sequence / queues.length) % priorities.length]!;
    const ranked = hasPriorities ? { priority } : {};
    const targets = [{ queue, binding: null }];
    const place = this.#history.publish({ id, channel: session, targets, mandatory: true, confirms: true, ...ranked });
    ids.set(place, id);
    places.set(id, place);
    const headers = { attempt: this.#attempts.get(id) ?? 1 };
    const properties = { persistent: true, mandatory: true, messageId: id, headers, ...ranked };
    channel.publish('', queue, bodyOf(id), properties, (error: Error | null) => {
      // The client calls back with an error for all that is open when the channel ends: then there was no answer.
      if (!ids.has(place) || (error && error.message !== 'message nacked')) return;
      ids.delete(place);
      places.delete(id);
      this.#history.outcome(place, error ? 'refused' : 'confirmed');
      if (error) this.#sendAgain(id);
      else this.#attempts.delete(id);
    });
  }

  #sendAgain(id: string): void {
    if (!this.#options.retry) return;
    this.#attempts.set(id, (this.#attempts.get(id) ?? 1) + 1);
    this.#again.push(id);
  }
}
