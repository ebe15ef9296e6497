// What the demo shows: on a terminal a picture of the last minute, redrawn in place; elsewhere a line every two seconds; at the end the sums.
//
// State owned: the samples of the last minute.

import process from 'node:process';
import { count, duration } from '../report/words.ts';
import type { Sample } from '../types.ts';
import { Area } from '../view/area.ts';
import { barLines, barsWidth, counter, drawBars, type Line, marginLeft, type Piece } from '../view/picture.ts';
import { isLive, type ViewStream } from '../view.ts';
import type { Consumer, Producer } from './clients.ts';
import type { Tally } from './tally.ts';

const sampleMilliseconds = 250;
const samplesMax = 240;
const plainMilliseconds = 2000;
/** A wait for a confirm that is worth a word. */
const waitMillisecondsMin = 200;

export interface DemoState {
  readonly tally: Tally;
  readonly producer: Pick<Producer, 'node' | 'reconnects'>;
  readonly consumer: Pick<Consumer, 'node' | 'reconnects'>;
  readonly urls: readonly string[];
  readonly rate: number;
  readonly plain: boolean;
}

export class DemoScreen {
  readonly #out: ViewStream;
  readonly #state: DemoState;
  readonly #area: Area | null;
  readonly #samples: Sample[] = [];
  readonly #began = performance.now();
  #sampledAt = 0;
  #saidAt = 0;
  #before = { sent: 0, confirmed: 0, received: 0 };

  constructor(out: ViewStream, state: DemoState) {
    this.#out = out;
    this.#state = state;
    this.#area = isLive(out, state.plain, process.env) ? new Area(out, false) : null;
  }

  /** To be called often; draws when it is time. `word`: what goes on beside the usual. */
  draw(word: string): void {
    const now = performance.now();
    if (now - this.#began - this.#sampledAt < sampleMilliseconds) return;
    this.#sample(now - this.#began);
    if (this.#area !== null) this.#area.draw(this.#picture(this.#area.columns, now, word));
    else if (now - this.#saidAt >= plainMilliseconds) {
      this.#saidAt = now;
      this.#say(`${this.#sums(this.#state.tally.overdue(now))}; ${this.#nodes()}${word === '' ? '' : `; ${word}`}`);
    }
  }

  /** `isWell`: both clients have a node, so that what has not come is lost. */
  end(isWell: boolean): void {
    const { tally, producer, consumer } = this.#state;
    this.#area?.clear();
    this.#area?.close();
    this.#say(this.#sums(tally.awaitedCount));
    const reconnects = producer.reconnects + consumer.reconnects;
    const stall = tally.lastStall === null ? 'no stall' : `longest stall ${duration(tally.longestStallMilliseconds)}`;
    this.#say(
      `${stall}, ${count(reconnects)} reconnects, ${count(tally.repeated)} deliveries of what had come already`,
    );
    if (tally.unconfirmedCount > 0)
      this.#say(`${count(tally.unconfirmedCount)} messages were sent and never answered: they may be there or not`);
    if (tally.awaitedCount === 0) this.#say('Nothing was lost.');
    else if (isWell) this.#say(`LOST: ${count(tally.awaitedCount)} messages were confirmed and did not come.`);
    else this.#say(`Not known: ${count(tally.awaitedCount)} confirmed messages did not come, but no node answers.`);
  }

  #sample(at: number): void {
    const { sent, confirmed, received, awaitedCount } = this.#state.tally;
    const before = this.#before;
    this.#before = { sent, confirmed, received };
    this.#sampledAt = at;
    const rates = { sent: sent - before.sent, confirmed: confirmed - before.confirmed };
    this.#samples.push({ at, ...rates, delivered: received - before.received, awaited: awaitedCount });
    if (this.#samples.length > samplesMax) this.#samples.shift();
  }

  #say(line: string): void {
    this.#out.write(`${line}\n`);
  }

  #sums(lost: number): string {
    const { sent, confirmed, received } = this.#state.tally;
    return `sent ${count(sent)}, confirmed ${count(confirmed)}, received ${count(received)}, lost ${count(lost)}`;
  }

  #nodes(): string {
    const { producer, consumer } = this.#state;
    const one = ({ node }: DemoState['producer']) => (node.isConnected ? this.#nameOf(node.url) : 'nobody');
    return `producer at ${one(producer)}, consumer at ${one(consumer)}`;
  }

  #nameOf(url: string): string {
    return `node ${this.#state.urls.indexOf(url) + 1} (${new URL(url).host})`;
  }

  #picture(columns: number, now: number, word: string): Line[] {
    const { tally, producer, consumer, rate, urls } = this.#state;
    const width = barsWidth(columns);
    const offset = (this.#samples[0]?.at ?? 0) - sampleMilliseconds;
    const bars = drawBars(
      this.#samples.map((sample) => ({ ...sample, at: sample.at - offset })),
      width,
    );
    return [
      [
        ['Warren demo', 'bold'],
        [`  ${count(rate)} messages a second, ${tally.queues} queues, ${urls.length} nodes; Ctrl-C ends it`, 'dim'],
      ],
      this.#clientLine('producer', producer),
      this.#clientLine('consumer', consumer),
      ...barLines('confirmed', 'blue', bars.confirmed, width),
      ...barLines('received', 'cyan', bars.delivered, width),
      this.#counters(now),
      this.#stallLine(now, word),
    ];
  }

  #clientLine(name: string, { node, reconnects }: DemoState['producer']): Line {
    const where: Piece = node.isConnected
      ? [this.#nameOf(node.url), 'plain']
      : [`trying ${this.#nameOf(node.url)}`, 'yellow'];
    return [[name.padEnd(marginLeft), 'dim'], where, [`  reconnected ${count(reconnects)} times`, 'dim']];
  }

  #counters(now: number): Line {
    const { tally } = this.#state;
    const lost = tally.overdue(now);
    return [
      ...counter('sent', tally.sent, 'bold'),
      ...counter('confirmed', tally.confirmed, 'bold'),
      ...counter('received', tally.received, 'bold'),
      ...counter('lost', lost, lost > 0 ? 'red' : 'green'),
      ...counter('under way', tally.unconfirmedCount + tally.awaitedCount),
    ];
  }

  #stallLine(now: number, word: string): Line {
    const { tally } = this.#state;
    const wait = tally.confirmWait(now);
    if (word !== '') return [[word, 'yellow']];
    if (wait > waitMillisecondsMin) return [[`waiting for a confirm for ${duration(wait)}`, 'yellow']];
    const { lastStall } = tally;
    if (lastStall === null) return [['no stall so far', 'dim']];
    const { milliseconds, endedAt } = lastStall;
    const ago = duration(Math.max(1000, Math.round((now - endedAt) / 1000) * 1000));
    const longest = `, longest ${duration(tally.longestStallMilliseconds)}`;
    return [
      ['last stall ', 'dim'],
      [duration(milliseconds), 'plain'],
      [` ${ago} ago${longest}`, 'dim'],
    ];
  }
}
