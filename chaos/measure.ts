// What a run costs its clients, out of the events of its history: samples over time, latencies, and stalls.
//
// A stall is a time in which something was unconfirmed and no confirm came: of one stream (one publisher and one queue), for the death of a
// leader stalls only its queues; or of the whole load, where a publisher without a connection waits too. The clients of a node that is dead,
// paused or cut off cannot be served: what waited while its node was not well is no stall of a stream. Refusals and broken connections end none.
// A confirm that is seen when this very process has not run for a while may have been there all that while: until then, nobody waited.
//
// State owned: sums, histograms of fixed size, what is unconfirmed, and the publishing time of what was not delivered yet. Times are those of
// the history. Pure, but for `node:perf_hooks`, which only computes here.

import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import type { HistoryEvent } from '../test/history.ts';
import type { FaultSpan, Latencies, Sample, Stall } from './types.ts';

/** Shorter ones are not listed. */
const stallMillisecondsMin = 100;
const stallsMax = 1000;
/** How long after a fault a stall may begin and still be due to it. */
const afterMilliseconds = 5000;
/** This process did not run if it did not show for so long. It has seen all that came meanwhile soon after. */
const stillMillisecondsMin = 50;
const catchUpMilliseconds = 20;
const never = Number.POSITIVE_INFINITY;
const none: Stall = { from: 0, to: 0 };

interface Stream {
  node: number;
  /** Unconfirmed publishes. */
  open: number;
  /** Since when it waits for a confirm; `never`: it does not. */
  since: number;
  /** Its node was not well while it waited. */
  isExcused: boolean;
}

interface Publisher {
  node: number;
  /** Its connection broke, and it has no other yet. */
  isAway: boolean;
  /** Time of its last confirm; -1: none. */
  confirmedAt: number;
  readonly streams: Map<string, Stream>;
}

interface Sent {
  readonly at: number;
  readonly publisher: Publisher;
  readonly stream: Stream;
}

/** A fault on the timeline; it ends later. */
export interface OpenSpan {
  readonly name: string;
  readonly nodes: readonly number[];
  readonly from: number;
  to: number;
  stallMilliseconds: number;
}

export class Meter {
  readonly samples: Sample[] = [];
  readonly #confirms: RecordableHistogram = createHistogram();
  readonly #deliveries: RecordableHistogram = createHistogram();
  /** By the name of a client, without the number of its session. */
  readonly #publishers = new Map<string, Publisher>();
  /** Unconfirmed, by the place of the publish. */
  readonly #sent = new Map<number, Sent>();
  /** When what has not been delivered was published, by id. */
  readonly #publishedAt = new Map<string, number>();
  /** How many faults make a node unwell. */
  readonly #unwell = new Map<number, number>();
  readonly #spans: OpenSpan[] = [];
  readonly #stalls: Stall[] = [];
  /** Since when the whole load waits; `never`: it does not. */
  #since = never;
  #away = 0;
  /** When this process last showed that it runs. */
  #awakeAt = never;
  /** When it last had not run for a while. */
  #still = { from: 0, to: -never };
  #longest: Stall = none;
  #sampled = { sent: 0, confirmed: 0, delivered: 0 };
  sent = 0;
  confirmed = 0;
  received = 0;

  /** `place`: of the event in its history. */
  note(event: HistoryEvent, place: number): void {
    switch (event.kind) {
      case 'open':
        this.#opened(event.channel, event.node);
        break;
      case 'end':
        this.#ended(event.channel, event.graceful, event.at);
        break;
      case 'publish':
        this.#publish(event.channel, event.targets[0]?.queue ?? '', event.id, event.at, place);
        break;
      case 'outcome':
        this.#outcome(event.publish, event.outcome === 'confirmed', event.at);
        break;
      case 'deliver':
        this.received++;
        this.#delivered(event.id, event.at);
        break;
      default:
        break;
    }
  }

  /** To be told every few milliseconds, so that it shows when this process does not run. */
  awake(at: number): void {
    if (at - this.#awakeAt > stillMillisecondsMin) this.#still = { from: this.#awakeAt, to: at };
    this.#awakeAt = at;
  }

  /** From now on it counts: what came before was warming up. Samples and sums go on. */
  begin(at: number): void {
    this.#confirms.reset();
    this.#deliveries.reset();
    this.#stalls.length = 0;
    this.#longest = none;
    if (this.#since !== never) this.#since = at;
    for (const { streams } of this.#publishers.values())
      for (const stream of streams.values()) if (stream.since !== never) stream.since = at;
  }

  /** What these nodes are asked for need not be answered. Counted: each call has its `well`. */
  unwell(nodes: readonly number[]): void {
    for (const node of nodes) {
      this.#unwell.set(node, (this.#unwell.get(node) ?? 0) + 1);
      for (const { streams } of this.#publishers.values())
        for (const stream of streams.values()) if (stream.node === node) stream.isExcused = true;
    }
  }

  well(nodes: readonly number[]): void {
    for (const node of nodes) this.#unwell.set(node, Math.max(0, (this.#unwell.get(node) ?? 0) - 1));
  }

  /** Begins a fault; what stalls from now on, and shortly after its end, is put down to it. */
  span(name: string, nodes: readonly number[], at: number): OpenSpan {
    const span = { name, nodes: [...nodes], from: at, to: never, stallMilliseconds: 0 };
    this.#spans.push(span);
    return span;
  }

  /** One interval ends. `awaited`: confirmed and not delivered now. */
  sample(at: number, awaited: number): Sample {
    const { sent, confirmed, received: delivered } = this;
    const before = this.#sampled;
    const sample = {
      at,
      sent: sent - before.sent,
      confirmed: confirmed - before.confirmed,
      delivered: delivered - before.delivered,
      awaited,
    };
    this.#sampled = { sent, confirmed, delivered };
    this.samples.push(sample);
    return sample;
  }

  /** The load is over: what still waits has waited until now. */
  finish(at: number): void {
    for (const { streams } of this.#publishers.values()) {
      for (const stream of streams.values()) {
        if (stream.since !== never && !stream.isExcused) this.#stalled(stream.since, at);
        stream.since = never;
      }
    }
    if (this.#since !== never) this.#stalled(this.#since, at);
    this.#since = never;
  }

  get spans(): FaultSpan[] {
    return this.#spans.map((span) => ({ ...span, to: Math.min(span.to, this.samples.at(-1)?.at ?? span.from) }));
  }

  get longestStall(): number {
    return this.#longest.to - this.#longest.from;
  }

  /** When that was; another one each time that a longer one was seen. */
  get longest(): Stall {
    return this.#longest;
  }

  /** How many have published. */
  get publishers(): number {
    return [...this.#publishers.values()].filter(({ streams }) => streams.size > 0).length;
  }

  /** Publishers without a confirm since then. */
  unservedSince(at: number): { readonly name: string; readonly node: number }[] {
    return [...this.#publishers]
      .filter(([, { streams, confirmedAt }]) => streams.size > 0 && confirmedAt < at)
      .map(([name, { node }]) => ({ name, node }));
  }

  /** In the order of their beginnings; of those that overlap only the longest. */
  get stalls(): Stall[] {
    const apart: Stall[] = [];
    let reach = -1;
    for (const stall of [...this.#stalls].sort((a, b) => a.from - b.from)) {
      const last = apart.at(-1);
      if (last === undefined || stall.from >= reach) apart.push(stall);
      else if (stall.to - stall.from > last.to - last.from) apart[apart.length - 1] = stall;
      reach = Math.max(reach, stall.to);
    }
    return apart;
  }

  get confirms(): Latencies | null {
    return latenciesOf(this.#confirms);
  }
  get deliveries(): Latencies | null {
    return latenciesOf(this.#deliveries);
  }

  #opened(channel: string, node: number): void {
    const name = clientOf(channel);
    const publisher = this.#publishers.get(name);
    if (publisher === undefined) {
      this.#publishers.set(name, { node, isAway: false, confirmedAt: -1, streams: new Map() });
      return;
    }
    publisher.node = node;
    if (publisher.isAway) this.#away--;
    publisher.isAway = false;
    for (const stream of publisher.streams.values()) {
      stream.node = node;
      if (this.#isUnwell(node)) stream.isExcused = true;
    }
  }

  #ended(channel: string, graceful: boolean, at: number): void {
    const publisher = this.#publishers.get(clientOf(channel));
    // Consumers wait for no confirms.
    if (publisher === undefined || publisher.streams.size === 0) return;
    if (graceful) {
      for (const stream of publisher.streams.values()) stream.since = never;
    } else if (!publisher.isAway) {
      publisher.isAway = true;
      this.#away++;
      if (this.#since === never) this.#since = at;
    }
  }

  #publish(channel: string, queue: string, id: string, at: number, place: number): void {
    const publisher = this.#publishers.get(clientOf(channel))!;
    let stream = publisher.streams.get(queue);
    if (stream === undefined) {
      stream = { node: publisher.node, open: 0, since: never, isExcused: false };
      publisher.streams.set(queue, stream);
    }
    stream.open++;
    if (stream.since === never) {
      stream.since = at;
      stream.isExcused = this.#isUnwell(stream.node);
    }
    if (this.#since === never) this.#since = at;
    this.#sent.set(place, { at, publisher, stream });
    this.#publishedAt.set(id, at);
    this.sent++;
  }

  #outcome(place: number, isConfirmed: boolean, at: number): void {
    const sent = this.#sent.get(place);
    if (sent === undefined) return;
    this.#sent.delete(place);
    const { stream } = sent;
    stream.open--;
    if (!isConfirmed) return;
    this.confirmed++;
    sent.publisher.confirmedAt = at;
    record(this.#confirms, at - sent.at);
    if (stream.since !== never && !stream.isExcused) this.#stalled(stream.since, at);
    stream.since = stream.open > 0 ? at : never;
    stream.isExcused = this.#isUnwell(stream.node);
    if (this.#since !== never) this.#stalled(this.#since, at);
    this.#since = this.#sent.size > 0 || this.#away > 0 ? at : never;
  }

  #delivered(id: string, at: number): void {
    const published = this.#publishedAt.get(id);
    if (published === undefined) return;
    this.#publishedAt.delete(id);
    record(this.#deliveries, at - published);
  }

  /** Since when what is seen now may have been there. */
  #sinceWhen(seen: number): number {
    if (seen - this.#awakeAt > stillMillisecondsMin) return this.#awakeAt;
    return seen - this.#still.to < catchUpMilliseconds ? this.#still.from : seen;
  }

  #isUnwell(node: number): boolean {
    return (this.#unwell.get(node) ?? 0) > 0;
  }

  #stalled(from: number, seen: number): void {
    const to = Math.max(from, this.#sinceWhen(seen));
    const milliseconds = to - from;
    if (milliseconds > this.longestStall) this.#longest = { from, to };
    for (let i = this.#spans.length - 1; i >= 0; i--) {
      const span = this.#spans[i]!;
      // Faults are short and follow each other: what ended long before cannot be touched by anything that ends now.
      if (milliseconds <= span.stallMilliseconds || to < span.from || from > span.to + afterMilliseconds) continue;
      span.stallMilliseconds = milliseconds;
    }
    if (milliseconds >= stallMillisecondsMin && this.#stalls.length < stallsMax) this.#stalls.push({ from, to });
  }
}

/** The client whose session this is. */
function clientOf(channel: string): string {
  const dot = channel.lastIndexOf('.');
  return dot < 0 ? channel : channel.slice(0, dot);
}

function record(histogram: RecordableHistogram, milliseconds: number): void {
  histogram.record(Math.max(1, Math.round(milliseconds * 1000)));
}

function latenciesOf(histogram: RecordableHistogram): Latencies | null {
  if (histogram.count === 0) return null;
  const at = (percentile: number) => histogram.percentile(percentile) / 1000;
  const { count } = histogram;
  return { count, p50: at(50), p90: at(90), p99: at(99), p999: at(99.9), max: histogram.max / 1000 };
}
