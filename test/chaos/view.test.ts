// What is shown while a run goes on, on a terminal that is played by the test: it obeys the few sequences that the view uses, and keeps rows.

import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import type { Observer, Scenario } from '../../chaos/types.ts';
import { drawBars, drawFaults } from '../../chaos/view/picture.ts';
import { createView, type View } from '../../chaos/view.ts';
import { everyOutcome, madeUpScenario } from './made-up-report.ts';

/** Rows of text as one would see them. An escape is turned into its printable picture first. Written to past its width it wraps, as real ones do. */
class Terminal {
  readonly isTTY = true;
  readonly rows: string[] = [''];
  columns: number;
  isCursorShown = true;
  writes = 0;
  #row = 0;
  #column = 0;

  constructor(columns: number) {
    this.columns = columns;
  }

  write(text: string): void {
    this.writes++;
    for (const [token] of text.replaceAll('\x1b', '\u241b').matchAll(/\u241b\[[?\d]*[A-Za-z]|[^\u241b]/g))
      this.#take(token);
  }

  #take(token: string): void {
    const row = this.rows[this.#row]!;
    if (token === '\r') this.#column = 0;
    else if (token === '\n') this.#down();
    else if (token === '\u241b[K') this.rows[this.#row] = row.slice(0, this.#column);
    else if (token === '\u241b[J') {
      this.rows[this.#row] = row.slice(0, this.#column);
      this.rows.length = this.#row + 1;
    } else if (/^\u241b\[\d+A$/.test(token)) {
      this.#row -= Number(token.slice(2, -1));
      if (this.#row < 0) throw new Error('above the first row');
    } else if (token === '\u241b[?25l' || token === '\u241b[?25h') this.isCursorShown = token.endsWith('h');
    else if (token.startsWith('\u241b')) expect(token).toMatch(/^\u241b\[\d*m$/);
    else {
      if (this.#column === this.columns) this.#down();
      const now = this.rows[this.#row]!;
      this.rows[this.#row] = now.slice(0, this.#column).padEnd(this.#column) + token + now.slice(this.#column + 1);
      this.#column++;
    }
  }

  #down(): void {
    this.#row++;
    this.#column = 0;
    if (this.#row === this.rows.length) this.rows.push('');
  }
}

const scenario: Scenario = {
  name: 'kill-leader',
  says: 'kill -9 of the node that leads most, again and again',
  needs: ['processes'],
  nodesMin: 3,
  stallMillisecondsMax: 300,
  run: async () => {},
};

/** A scenario of a few seconds, as a run would tell it. */
function tell(view: Observer, seconds: number, { ends = true } = {}): void {
  const report = madeUpScenario('kill-leader', seconds);
  view.scenarioBegins(scenario, 2, 19);
  view.phase('warming up');
  view.phase('chaos');
  const totals = { sent: 0, confirmed: 0, received: 0, reconnects: 3 };
  for (const sample of report.samples) {
    for (const span of report.spans) {
      if (span.from > sample.at - 250 && span.from <= sample.at) view.faultBegins(span.name, span.nodes, span.from);
      if (span.to > sample.at - 250 && span.to <= sample.at) view.faultEnds(span);
    }
    totals.sent += sample.sent;
    totals.confirmed += sample.confirmed;
    totals.received += sample.delivered;
    view.sample(sample, { ...totals }, 2);
  }
  if (ends) view.scenarioEnds(report);
}

const plainEnvironment = { TERM: 'xterm-256color' };
let open: View | null = null;
afterEach(() => {
  open?.close();
  open = null;
});

describe('on a terminal', () => {
  const start = (columns: number, seconds?: number): [View, Terminal] => {
    const terminal = new Terminal(columns);
    const options = { plain: false, environment: plainEnvironment, ...(seconds === undefined ? {} : { seconds }) };
    open = createView(terminal, options);
    return [open, terminal];
  };

  test('a picture: faults over rates, counters, leader', async () => {
    const [view, terminal] = start(100, 24);
    tell(view, 24, { ends: false });
    await sleep(300);
    expect(terminal.isCursorShown).toBe(false);
    const [, title, says, faults, names, ...rest] = terminal.rows;
    expect(title).toMatch(/^kill-leader {2}3 of 19 {2}chaos {2}2[34] s left$/);
    expect(says).toBe(scenario.says);
    expect(faults).toMatch(/^faults {5}·+█+·+/);
    expect(names).toMatch(/^ {11} +kill-leader n\d/);
    expect(rest[0]).toMatch(/^confirmed {2}[ ▁-█]+$/);
    expect(rest[1]).toMatch(/^ {11}[ ▁-█]+ [\d,]+\/s$/);
    expect(rest[4]).toMatch(
      /^sent [\d,]+ {3}confirmed [\d,]+ {3}received [\d,]+ {3}waiting \d+ {3}lost 0 {3}reconnects 3/,
    );
    expect(rest[5]).toBe('leader n2   no fault');
    expect(rest).toHaveLength(6);
    expect(Math.max(...terminal.rows.map((row) => row.length))).toBeLessThan(100);
  });

  test('is drawn at most five times a second, and what came last is seen', async () => {
    const [view, terminal] = start(80);
    const [before, began] = [terminal.writes, performance.now()];
    tell(view, 60, { ends: false });
    expect(terminal.writes - before).toBeLessThan(3 + (performance.now() - began) / 200);
    view.faultBegins('pause', [1], 60_000);
    await sleep(300);
    expect(terminal.rows.at(-1)).toContain('pause n1');
  });

  test('results stay, the picture goes, and the cursor is back', async () => {
    const [view, terminal] = start(130);
    view.say('cluster of 3 nodes');
    tell(view, 6);
    expect(terminal.isCursorShown).toBe(true);
    tell(view, 12, { ends: false });
    await sleep(300);
    view.say('a word in between');
    expect(terminal.rows[0]).toBe('cluster of 3 nodes');
    expect(terminal.rows[1]).toMatch(/^✓ kill-leader: passed: .*lost 0.*\(goal 300 ms\)/);
    expect(terminal.rows[2]).toBe('a word in between');
    expect(terminal.rows[4]).toContain('3 of 19');
    view.close();
    expect(terminal.rows.slice(3)).toEqual(['']);
    expect(terminal.isCursorShown).toBe(true);
  });

  test('a violation is named, and lost is counted from then on', async () => {
    const [view, terminal] = start(100);
    for (const report of everyOutcome()) {
      view.scenarioBegins(scenario, 0, 5);
      view.scenarioEnds(report);
    }
    const text = terminal.rows.join('\n');
    expect(text).toContain('✗ partition-leader: violation');
    expect(text).toContain('    lost: run/p0/77 was confirmed and never came out of q-a');
    expect(text).toContain('? kill-all: inconclusive');
    expect(text).toContain('- clock-jumps: skipped: this target cannot do it: clock');
    tell(view, 6, { ends: false });
    await sleep(300);
    expect(terminal.rows.at(-2)).toContain('lost 2');
  });

  test('gives the cursor back at Ctrl-C, and goes on below what others say of it', async () => {
    const [view, terminal] = start(100);
    tell(view, 6, { ends: false });
    await sleep(300);
    const interrupted = process.listeners('SIGINT').at(-1)!;
    interrupted('SIGINT');
    expect(terminal.isCursorShown).toBe(true);
    terminal.write('\nending\n');
    view.phase('healing');
    await sleep(300);
    expect(terminal.rows.slice(11, 14)).toEqual(['ending', '', expect.stringContaining('healing')]);
    expect(terminal.rows).toHaveLength(11 + 1 + 11);
  });

  test('follows a resize: nothing of the old picture remains', async () => {
    const [view, terminal] = start(120);
    view.say('first');
    tell(view, 24, { ends: false });
    await sleep(300);
    const rewrapped = terminal.rows.flatMap((row) => row.match(/.{1,50}/g) ?? ['']);
    const narrow = new Terminal(50);
    narrow.write(rewrapped.join('\n'));
    Object.assign(terminal, { columns: 50, write: narrow.write.bind(narrow) });
    view.sample(
      { at: 24_250, sent: 1, confirmed: 1, delivered: 1, awaited: 0 },
      { sent: 1, confirmed: 1, received: 1, reconnects: 0 },
      1,
    );
    await sleep(300);
    expect(narrow.rows).toHaveLength(1 + 11);
    expect(narrow.rows[0]).toBe('first');
    expect(Math.max(...narrow.rows.map((row) => row.length))).toBeLessThan(50);
  });

  test('draws also what is long, narrow or empty', async () => {
    const [view, terminal] = start(20);
    view.scenarioBegins({ ...scenario, says: 'x'.repeat(500) }, 0, 1);
    tell(view, 600, { ends: false });
    await sleep(300);
    expect(terminal.rows).toHaveLength(11);
    expect(Math.max(...terminal.rows.map((row) => row.length))).toBeLessThan(20);
  });
});

describe('elsewhere', () => {
  const plainLines = (options: Partial<Parameters<typeof createView>[1]>, isTTY: boolean): string[] => {
    let text = '';
    const out = { isTTY, columns: 80, write: (more: string) => (text += more) };
    const view = createView(out, { plain: false, environment: plainEnvironment, ...options });
    tell(view, 12);
    view.close();
    // biome-ignore lint/suspicious/noControlCharactersInRegex: there must be none
    expect(text).not.toMatch(/[\x00-\x09\x0b-\x1f]/);
    return text.trimEnd().split('\n');
  };

  test('plain lines: phases, faults, sums every five seconds, the result', () => {
    const lines = plainLines({}, false);
    expect(lines[0]).toBe('[3/19] kill-leader: kill -9 of the node that leads most, again and again');
    expect(lines[1]).toBe('          warming up');
    expect(lines.filter((line) => / s sent /.test(line))).toHaveLength(2);
    expect(lines.find((line) => / s sent /.test(line))).toMatch(
      /^ {4}5\.0 s sent [\d,]+ \(\d+\/s\), confirmed [\d,]+ \(\d+\/s\), received [\d,]+ \(\d+\/s\), waiting \d+, reconnects 3, leader n2$/,
    );
    const begun = lines.filter((line) => line.includes('fault begins: kill-leader n')).length;
    expect(begun).toBeGreaterThan(0);
    expect(lines.filter((line) => line.includes('fault ended: '))).toHaveLength(begun);
    expect(lines.at(-1)).toMatch(
      /^kill-leader: passed: [\d,]+ confirmed, [\d,]+ received, lost 0, \d faults?, longest stall/,
    );
  });

  test.each([
    ['--plain', { plain: true }],
    ['NO_COLOR', { environment: { ...plainEnvironment, NO_COLOR: '1' } }],
    ['a dumb terminal', { environment: { TERM: 'dumb' } }],
  ])('%s: plain lines on a terminal too', (_, options) => {
    expect(plainLines(options, true).length).toBeGreaterThan(5);
  });
});

describe('picture', () => {
  const sample = (at: number, confirmed: number, delivered = confirmed) => ({
    at,
    sent: 0,
    confirmed,
    delivered,
    awaited: 0,
  });

  test('the whole time in the width that there is', () => {
    const samples = Array.from({ length: 1000 }, (_, i) => sample((i + 1) * 250, i < 500 ? 100 : 50));
    const { columnMilliseconds, confirmed } = drawBars(samples, 60);
    expect(columnMilliseconds).toBe(17 * 250);
    expect(confirmed.rows).toEqual(['█'.repeat(29) + confirmed.rows[0]![29] + ' '.repeat(29), '█'.repeat(59)]);
    expect(confirmed.rate).toBe(200);
  });

  test('a little is seen, nothing is not', () => {
    const { confirmed, delivered } = drawBars([sample(250, 1000, 0), sample(500, 1, 0), sample(750, 0, 0)], 10);
    expect(confirmed.rows).toEqual(['█  ', '█▁ ']);
    expect(delivered.rows).toEqual(['   ', '   ']);
    expect(drawBars([], 10).confirmed).toEqual({ rows: ['', ''], rate: 0 });
  });

  test('faults where they were, names where there is room', () => {
    const spans = [
      { name: 'kill', nodes: [1], from: 500, to: 900 },
      { name: 'cut', nodes: [2], from: 1000, to: 1100 },
      { name: 'pause', nodes: [3], from: 3000, to: null },
    ];
    const { bars, names } = drawFaults(spans, 250, 40, 4000);
    expect(bars.map(([text]) => text).join('')).toBe('··███·······████');
    expect(names).toBe('  kill n1   pause n3 ');
  });
});
