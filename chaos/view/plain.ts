// The view where there is no terminal: plain lines, for logs. One for each phase, fault and result, and the sums every five seconds.

import { count, duration, faultLabel } from '../report/words.ts';
import type { FaultSpan, Observer, Sample, Scenario, ScenarioReport } from '../types.ts';
import type { View, ViewStream } from '../view.ts';
import { detailsOf, resultOf } from './words.ts';

const sumsEveryMilliseconds = 5000;

type Totals = Parameters<Observer['sample']>[1];

export class PlainView implements View {
  readonly #out: ViewStream;
  #saidAt = 0;
  #before: Totals = { sent: 0, confirmed: 0, received: 0, reconnects: 0 };

  constructor(out: ViewStream) {
    this.#out = out;
  }

  say(line: string): void {
    this.#out.write(`${line}\n`);
  }

  close(): void {}

  scenarioBegins(scenario: Scenario, index: number, total: number): void {
    this.#saidAt = 0;
    this.#before = { sent: 0, confirmed: 0, received: 0, reconnects: 0 };
    this.say(`[${index + 1}/${total}] ${scenario.name}: ${scenario.says}`);
  }

  phase(name: Parameters<Observer['phase']>[0]): void {
    this.say(`          ${name}`);
  }

  sample({ at, awaited }: Sample, totals: Totals, leader: number): void {
    const milliseconds = at - this.#saidAt;
    if (milliseconds < sumsEveryMilliseconds) return;
    const before = this.#before;
    const rate = (now: number, then: number) => `${count(((now - then) * 1000) / milliseconds)}/s`;
    const parts = [
      `sent ${count(totals.sent)} (${rate(totals.sent, before.sent)})`,
      `confirmed ${count(totals.confirmed)} (${rate(totals.confirmed, before.confirmed)})`,
      `received ${count(totals.received)} (${rate(totals.received, before.received)})`,
      `waiting ${count(awaited)}`,
      `reconnects ${count(totals.reconnects)}`,
    ];
    if (leader > 0) parts.push(`leader n${leader}`);
    this.#sayAt(at, parts.join(', '));
    this.#saidAt = at;
    this.#before = { ...totals };
  }

  faultBegins(name: string, nodes: readonly number[], at: number): void {
    this.#sayAt(at, `fault begins: ${faultLabel(name, nodes)}`);
  }

  faultEnds({ name, nodes, from, to, stallMilliseconds }: FaultSpan): void {
    const stall = stallMilliseconds > 0 ? `, longest stall so far ${duration(stallMilliseconds)}` : '';
    this.#sayAt(to, `fault ended:  ${faultLabel(name, nodes)} after ${duration(to - from)}${stall}`);
  }

  scenarioEnds(report: ScenarioReport): void {
    this.say(resultOf(report));
    for (const line of detailsOf(report)) this.say(line);
  }

  #sayAt(at: number, text: string): void {
    this.say(`${(at / 1000).toFixed(1).padStart(7)} s ${text}`);
  }
}
