// The view on a terminal: results as lines that stay, and below them a picture of the scenario that runs, redrawn in place.
//
// State owned: what is known of the scenario that runs. Nothing else writes to the stream while it does: `say` clears the picture, writes, and draws
// it again. The cursor comes back whenever a scenario ends.

import { duration, faultLabel } from '../report/words.ts';
import type { FaultSpan, Observer, Sample, Scenario, ScenarioReport } from '../types.ts';
import type { View, ViewStream } from '../view.ts';
import { Area } from './area.ts';
import { barLines, barsWidth, counter, drawBars, drawFaults, type Line, marginLeft, styled } from './picture.ts';
import { detailsOf, resultOf } from './words.ts';

const redrawMilliseconds = 200;

type Phase = Parameters<Observer['phase']>[0];
type Totals = Parameters<Observer['sample']>[1];

/** The scenario that runs. */
interface Running {
  readonly scenario: Scenario;
  readonly index: number;
  readonly total: number;
  readonly samples: Sample[];
  readonly spans: {
    readonly name: string;
    readonly nodes: readonly number[];
    readonly from: number;
    to: number | null;
  }[];
  phase: Phase;
  phaseBegan: number;
  totals: Totals;
  leader: number;
}

export class LiveView implements View {
  readonly #out: ViewStream;
  readonly #seconds: number | null;
  readonly #area: Area;
  #drawnAt = 0;
  #timer: NodeJS.Timeout | null = null;
  #running: Running | null = null;
  /** Of the scenarios that were judged. */
  #lost = 0;

  constructor(out: ViewStream, seconds: number | null) {
    this.#out = out;
    this.#seconds = seconds;
    this.#area = new Area(out, true);
  }

  say(line: string): void {
    this.#clear();
    this.#out.write(`${line}\n`);
    this.#draw();
  }

  close(): void {
    this.#running = null;
    this.#clear();
    this.#area.close();
  }

  scenarioBegins(scenario: Scenario, index: number, total: number): void {
    const totals = { sent: 0, confirmed: 0, received: 0, reconnects: 0 };
    const began = { phase: 'starting', phaseBegan: performance.now(), totals, leader: 0 } as const;
    this.#running = { scenario, index, total, samples: [], spans: [], ...began };
    this.#draw();
  }

  phase(name: Phase): void {
    if (this.#running === null) return;
    this.#running.phase = name;
    this.#running.phaseBegan = performance.now();
    this.#drawSoon();
  }

  sample(sample: Sample, totals: Totals, leader: number): void {
    const running = this.#running;
    if (running === null) return;
    running.samples.push(sample);
    running.totals = totals;
    running.leader = leader;
    this.#drawSoon();
  }

  faultBegins(name: string, nodes: readonly number[], at: number): void {
    this.#running?.spans.push({ name, nodes, from: at, to: null });
    this.#drawSoon();
  }

  faultEnds({ name, from, to }: FaultSpan): void {
    const span = this.#running?.spans.find((one) => one.to === null && one.name === name && one.from === from);
    if (span !== undefined) span.to = to;
    this.#drawSoon();
  }

  scenarioEnds(report: ScenarioReport): void {
    this.#running = null;
    this.#clear();
    this.#lost += report.faults.filter(({ kind }) => kind === 'lost').length;
    const styles = { pass: 'green', violation: 'red', inconclusive: 'yellow', skipped: 'dim' } as const;
    const marks = { pass: '\u2713', violation: '\u2717', inconclusive: '?', skipped: '-' } as const;
    const style = styles[report.outcome];
    this.#out.write(
      `${styled([
        [`${marks[report.outcome]} `, style],
        [resultOf(report), report.outcome === 'skipped' ? 'dim' : 'plain'],
      ])}\n`,
    );
    for (const line of detailsOf(report)) this.#out.write(`${styled([[line, style]])}\n`);
    this.#area.restore();
  }

  // ---- the terminal

  #drawSoon(): void {
    if (this.#timer !== null || this.#running === null) return;
    const wait = this.#drawnAt + redrawMilliseconds - performance.now();
    if (wait <= 0) this.#draw();
    else this.#timer = setTimeout(() => this.#draw(), wait).unref();
  }

  #draw(): void {
    this.#cancelTimer();
    if (this.#running === null) return;
    this.#area.draw(pictureOf(this.#running, this.#area.columns, this.#seconds, this.#lost));
    this.#drawnAt = performance.now();
  }

  #clear(): void {
    this.#cancelTimer();
    this.#area.clear();
  }

  #cancelTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}

// ---- the picture

function pictureOf(running: Running, columns: number, seconds: number | null, lost: number): Line[] {
  const { scenario, samples, spans } = running;
  const width = barsWidth(columns);
  const last = samples.at(-1)?.at ?? 0;
  const bars = drawBars(samples, width);
  const faults = drawFaults(spans, bars.columnMilliseconds, width, last);
  return [
    [],
    titleOf(running, seconds),
    [[scenario.says, 'dim']],
    [['faults'.padEnd(marginLeft), 'dim'], ...faults.bars],
    [
      [''.padEnd(marginLeft), 'plain'],
      [faults.names, 'yellow'],
    ],
    ...barLines('confirmed', 'blue', bars.confirmed, width),
    ...barLines('delivered', 'cyan', bars.delivered, width),
    countersOf(running, lost),
    nowOf(running, last),
  ];
}

function titleOf({ scenario, index, total, phase, phaseBegan }: Running, seconds: number | null): Line {
  const passed = Math.floor((performance.now() - phaseBegan) / 1000);
  const time =
    phase === 'chaos' && seconds !== null ? `${Math.max(0, Math.round(seconds - passed))} s left` : `${passed} s`;
  return [
    [scenario.name, 'bold'],
    [`  ${index + 1} of ${total}  `, 'dim'],
    [phase, phase === 'chaos' ? 'yellow' : 'plain'],
    [`  ${time}`, 'dim'],
  ];
}

function countersOf({ totals, samples }: Running, lost: number): Line {
  return [
    ...counter('sent', totals.sent),
    ...counter('confirmed', totals.confirmed),
    ...counter('received', totals.received),
    ...counter('waiting', samples.at(-1)?.awaited ?? 0),
    ...counter('lost', lost, lost > 0 ? 'red' : 'green'),
    ...counter('reconnects', totals.reconnects),
  ];
}

function nowOf({ leader, spans }: Running, last: number): Line {
  const current = spans.filter(({ to }) => to === null);
  const names = current.map(
    (span) => `${faultLabel(span.name, span.nodes)} for ${duration(Math.max(0, last - span.from))}`,
  );
  return [
    ['leader ', 'dim'],
    [leader > 0 ? `n${leader}   ` : 'unknown   ', 'plain'],
    [names.length > 0 ? names.join(', ') : 'no fault', names.length > 0 ? 'yellow' : 'dim'],
  ];
}
