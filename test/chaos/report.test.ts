// What is written about a run: well formed whatever names and reasons contain, complete, readable by its numbers, and small.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { htmlOf, jsonOf, junitOf, writeReports } from '../../chaos/report/index.ts';
import { ticksTo, timelineOf } from '../../chaos/report/timeline.ts';
import { duration, escaped, faultLabel, headline, keepsGoal, sumsOf } from '../../chaos/report/words.ts';
import { everyOutcome, madeUpReport, madeUpScenario } from './made-up-report.ts';

interface Element {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  /** Text is a child without a name. */
  readonly children: Element[];
  readonly text: string;
}

/** Strict: throws on anything that is not well-formed, as far as our reports go. */
function parseXml(source: string): Element {
  const root: Element = { name: '', attributes: {}, children: [], text: '' };
  const open: Element[] = [root];
  const body = source.replace(/^(<\?xml [^?]*\?>|<!doctype html>)\n/, '');
  const token = /<\/([\w-]+)>|<([\w-]+)((?:\s+[\w-]+="[^"<]*")*)\s*(\/?)>|([^<]+)/gy;
  while (token.lastIndex < body.length) {
    const from = token.lastIndex;
    const match = token.exec(body);
    if (match === null) throw new Error(`not well-formed: ${body.slice(from, from + 60)}`);
    const [, closed, opened, attributes, isEmpty, text] = match;
    const parent = open.at(-1)!;
    if (text !== undefined) parent.children.push({ name: '', attributes: {}, children: [], text: unescaped(text) });
    else if (closed !== undefined) {
      if (open.pop()!.name !== closed) throw new Error(`</${closed}> closes <${parent.name}>`);
    } else {
      const element: Element = { name: opened!, attributes: attributesOf(attributes!), children: [], text: '' };
      parent.children.push(element);
      if (isEmpty === '') open.push(element);
    }
  }
  if (open.length !== 1) throw new Error(`<${open.at(-1)!.name}> is not closed`);
  const [whole, ...rest] = root.children.filter(({ name, text }) => name !== '' || text.trim() !== '');
  expect(rest).toEqual([]);
  return whole!;
}

function attributesOf(source: string): Record<string, string> {
  const pairs = [...source.matchAll(/([\w-]+)="([^"]*)"/g)].map(
    ([, name, value]) => [name!, unescaped(value!)] as const,
  );
  expect(new Set(pairs.map(([name]) => name)).size).toBe(pairs.length);
  return Object.fromEntries(pairs);
}

function unescaped(text: string): string {
  const known: Record<string, string> = { amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'" };
  return text.replace(/&([^;]*;?)/g, (whole, name: string) => {
    const character = known[name.slice(0, -1)];
    if (character === undefined) throw new Error(`no such entity: ${whole}`);
    return character;
  });
}

function find(element: Element, name: string, having: Readonly<Record<string, string>> = {}): Element[] {
  const fits =
    element.name === name && Object.entries(having).every(([key, value]) => element.attributes[key] === value);
  return [...(fits ? [element] : []), ...element.children.flatMap((child) => find(child, name, having))];
}

const textOf = (element: Element): string => element.text + element.children.map(textOf).join('');

const hostile = `<script>alert("1")</script>&amp; ]]> ' " \u0000\u001b[31m \ud800 ü 😀`;

describe('html', () => {
  test('one page without network or script, for every outcome', () => {
    const source = htmlOf(madeUpReport(everyOutcome()));
    const page = parseXml(source);
    expect(find(page, 'section').length).toBe(2 + 5);
    expect(find(page, 'svg').length).toBe(4);
    for (const name of ['script', 'link', 'img', 'iframe', 'object']) expect(find(page, name)).toEqual([]);
    expect(source).not.toMatch(/https?:|url\(|@import|@font-face/);
    expect(textOf(find(page, 'h1')[0]!)).toBe('Failed: 3 violations of what a broker promises');
    expect(textOf(page)).toContain('npm run chaos -- --scenario all --duration 600 --seed 42');
    expect(textOf(page)).toContain('A message was confirmed to its publisher and never came out of its queue.');
    expect(textOf(page)).toContain('run/p1/12 was confirmed and never came out of q-b (event 913)');
  });

  test('goal and longest stall stand side by side', () => {
    const page = parseXml(htmlOf(madeUpReport(everyOutcome())));
    const rows = find(find(page, 'table', { class: 'overview' })[0]!, 'tr').slice(1);
    const cells = rows.map((row) => find(row, 'td').map(textOf));
    expect(cells.map((row) => row.slice(-2))).toEqual([
      [expect.stringMatching(/^\d+ ms$/), '≤ 300 ms'],
      ['3.12 s (missed)', '≤ 2.5 s'],
      [expect.stringMatching(/^\d+ ms$/), '–'],
      [expect.stringMatching(/^\d+ ms$/), '≤ 300 ms'],
      ['–', '≤ 300 ms'],
    ]);
    expect(cells.map((row) => row[1])).toEqual(['passed', 'violation', 'passed', 'inconclusive', 'skipped']);
  });

  test('hostile names stay text', () => {
    const span = { name: hostile, nodes: [1], from: 500, to: 4000, stallMilliseconds: 1 };
    const scenario = madeUpScenario(hostile, 12, {
      says: hostile,
      reason: hostile,
      outcome: 'violation',
      violations: 5,
      faults: [{ kind: 'phantom', place: 1, subject: hostile, text: hostile }],
      spans: [span],
      ledger: hostile,
    });
    const versions = { [hostile]: hostile };
    const page = parseXml(
      htmlOf(madeUpReport([scenario], { replay: hostile, target: hostile, versions, warren: hostile })),
    );
    expect(find(page, 'script')).toEqual([]);
    const shown = hostile.replace('\u0000\u001b', '\ufffd\ufffd').replace('\ud800', '\ufffd');
    expect(textOf(find(page, 'h2')[1]!)).toBe(shown);
    expect(textOf(find(page, 'h2')[1]!)).toContain('😀');
    expect(textOf(page)).toContain('4 more are not listed.');
  });

  test('nothing measured, nothing happened, nothing run', () => {
    const empty = madeUpScenario('empty', 0, { spans: [], stalls: [], confirms: null, deliveries: null, counts: null });
    expect(textOf(parseXml(htmlOf(madeUpReport([empty]))))).toContain('No load was measured.');
    expect(textOf(parseXml(htmlOf(madeUpReport([]))))).toContain('Nothing was run');
    const one = { at: 250, sent: 0, confirmed: 0, delivered: 0, awaited: 0 };
    const still = madeUpScenario('still', 0, { samples: [one], spans: [], stalls: [] });
    expect(htmlOf(madeUpReport([still]))).not.toMatch(/NaN|Infinity|undefined/);
  });

  test('ten minutes stay below a megabyte, and so does half a day', () => {
    const minutes = madeUpScenario('monsoon', 600, {}, 3);
    expect(minutes.samples).toHaveLength(2400);
    expect(minutes.spans.length).toBeGreaterThan(150);
    const page = htmlOf(madeUpReport([minutes]));
    expect(page.length).toBeLessThan(300_000);
    expect(jsonOf(madeUpReport([minutes])).length).toBeLessThan(1_000_000);
    expect(page).not.toMatch(/NaN|Infinity|undefined/);
    expect(htmlOf(madeUpReport([madeUpScenario('day', 43_200, {}, 600)])).length).toBeLessThan(600_000);
  });
});

describe('timeline', () => {
  test('faults stand where they were, with their names, and are shaded across everything', () => {
    const spans = [
      { name: 'kill', nodes: [2], from: 1000, to: 2000, stallMilliseconds: 250 },
      { name: 'pause', nodes: [1, 3], from: 1500, to: 10_000, stallMilliseconds: 0 },
    ];
    const stalls = [{ from: 1000, to: 1250 }];
    const drawing = parseXml(timelineOf(madeUpScenario('two', 10, { spans, stalls })));
    const bars = find(drawing, 'rect', { class: 'fault' }).map(({ attributes }) => attributes);
    expect(bars.map(({ x, width }) => [Number(x), Number(width)])).toEqual([
      [150.4, 92.4],
      [196.6, 785.4],
    ]);
    expect(new Set(bars.map(({ y }) => y)).size).toBe(2);
    const shades = find(drawing, 'rect', { class: 'shade' }).map(({ attributes }) => attributes);
    expect(shades.map(({ x, width }) => [x, width])).toEqual(bars.map(({ x, width }) => [x, width]));
    expect(find(drawing, 'title').map(textOf)).toEqual([
      'kill n2: 1 s to 2 s; longest stall 250 ms',
      'pause n1 n3: 1.5 s to 10 s',
      'no confirm for 250 ms, at 1 s',
    ]);
    const words = find(drawing, 'text').map(textOf);
    for (const word of ['kill n2', 'pause n1 n3', 'stall 250 ms', '0 s', '10 s', 'confirmed / s'])
      expect(words).toContain(word);
  });

  test('bars never overlap while lanes last, and many do without names', () => {
    const drawing = parseXml(timelineOf(madeUpScenario('monsoon', 600, {}, 3)));
    const ends = new Map<string, number>();
    for (const { attributes } of find(drawing, 'rect', { class: 'fault' })) {
      const { x, y, width } = attributes;
      expect(Number(x)).toBeGreaterThanOrEqual(ends.get(y!) ?? 0);
      ends.set(y!, Number(x) + Number(width));
    }
    expect(ends.size).toBeLessThanOrEqual(6);
  });

  test.each([
    [1, 4, [0, 0.25, 0.5, 0.75, 1]],
    [600, 4, [0, 200, 400, 600]],
    [601, 4, [0, 200, 400, 600, 800]],
    [2, 2, [0, 1, 2]],
    [41_000, 4, [0, 20_000, 40_000, 60_000]],
  ])('an axis up to %d', (highest, steps, ticks) => {
    expect(ticksTo(highest, steps)).toEqual(ticks);
  });
});

describe('junit', () => {
  test('one case per scenario, with what it came to', () => {
    const suites = parseXml(junitOf(madeUpReport(everyOutcome())));
    const sums = { tests: '5', failures: '1', errors: '1', skipped: '1' };
    expect(suites.attributes).toMatchObject(sums);
    expect(find(suites, 'testsuite')[0]!.attributes).toMatchObject({ ...sums, timestamp: '2026-11-22T10:00:00.000Z' });
    const cases = find(suites, 'testcase');
    expect(cases.map(({ attributes }) => attributes.name)).toEqual(everyOutcome().map(({ name }) => name));
    const outcomes = ['failure', 'error', 'skipped'];
    const said = cases.map((one) => outcomes.filter((name) => find(one, name).length === 1));
    expect(said).toEqual([[], ['failure'], [], ['error'], ['skipped']]);
    const failure = find(suites, 'failure')[0]!;
    expect(failure.attributes).toEqual({ type: 'lost', message: '3 violations: lost, order' });
    expect(textOf(failure)).toContain('lost: run/p0/77 was confirmed');
    const properties = find(cases[1]!, 'property').map(({ attributes }) => [attributes.name, attributes.value]);
    expect(Object.fromEntries(properties)).toMatchObject({
      seed: '42',
      'longest stall ms': '3120',
      'stall goal ms': '2500',
    });
  });

  test('hostile names stay text', () => {
    const scenario = madeUpScenario(hostile, 1, { outcome: 'inconclusive', reason: hostile });
    const suites = parseXml(junitOf(madeUpReport([scenario], { target: hostile })));
    expect(find(suites, 'testcase')[0]!.attributes.name).toContain('<script>alert("1")</script>&amp;');
  });
});

describe('words', () => {
  test('durations', () => {
    const cases = [0, 0.42, 3.14, 9.99, 12.4, 184.2, 999, 1000, 1840, 12_345, 59_940, 60_000, 125_000];
    expect(cases.map(duration)).toEqual(
      ['0 ms', '0.42 ms', '3.1 ms', '10.0 ms', '12 ms', '184 ms', '999 ms', '1 s', '1.84 s', '12.3 s', '59.9 s'].concat(
        ['1 min', '2 min 5 s'],
      ),
    );
  });

  test('nodes are named unless the fault does', () => {
    expect(faultLabel('kill', [2])).toBe('kill n2');
    expect(faultLabel('cut', [1, 2])).toBe('cut n1 n2');
    expect(faultLabel('link 1 to 2', [1, 2])).toBe('link 1 to 2');
    expect(faultLabel('kill n3', [3])).toBe('kill n3');
    expect(faultLabel('storm', [])).toBe('storm');
  });

  test('sums and headline', () => {
    const scenarios = everyOutcome();
    expect(sumsOf(scenarios)).toMatchObject({ lost: '2', violations: 3, goals: 2, goalsKept: 1 });
    expect(sumsOf([{ ...scenarios[1]!, violations: 900 }]).lost).toBe('2 or more');
    expect(scenarios.map(keepsGoal)).toEqual([true, false, true, true, true]);
    const outcomes = ['pass', 'violation', 'inconclusive', 'skipped'] as const;
    expect(outcomes.map((outcome) => headline(madeUpReport(scenarios, { outcome })).split(':')[0])).toEqual([
      'Passed',
      'Failed',
      'Inconclusive',
      'Nothing was run',
    ]);
    expect(escaped('a<b>&"\'')).toBe('a&lt;b&gt;&amp;&quot;&#39;');
  });
});

test('three files, and the JSON is the report', () => {
  const folder = mkdtempSync(join(tmpdir(), 'warren-report-'));
  try {
    const report = madeUpReport(everyOutcome());
    const paths = writeReports(report, join(folder, 'deep', 'er'));
    expect(paths.map((path) => path.slice(folder.length))).toEqual([
      '/deep/er/report.html',
      '/deep/er/report.json',
      '/deep/er/junit.xml',
    ]);
    expect(JSON.parse(readFileSync(paths[1]!, 'utf8'))).toEqual(report);
    writeReports(madeUpReport([]), join(folder, 'deep', 'er'));
    expect(readFileSync(paths[0]!, 'utf8')).toContain('Nothing was run');
  } finally {
    rmSync(folder, { recursive: true });
  }
});
