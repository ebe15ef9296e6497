// What a live view draws with: lines of styled pieces, bars of block characters over time, and the faults above them. Pure.
//
// Every character used is one cell wide, so that a line's length is its width.

import { count, faultLabel } from '../report/words.ts';
import type { Sample } from '../types.ts';

const codes = { plain: '', bold: '1', dim: '2', red: '31', green: '32', yellow: '33', blue: '34', cyan: '36' } as const;
export type Style = keyof typeof codes;
export type Piece = readonly [text: string, style: Style];
export type Line = readonly Piece[];

export function styled(line: Line): string {
  return line
    .map(([text, style]) => (codes[style] === '' || text === '' ? text : `\x1b[${codes[style]}m${text}\x1b[0m`))
    .join('');
}

export function visibleLength(line: Line): number {
  return line.reduce((sum, [text]) => sum + text.length, 0);
}

/** At most so many characters of it. */
export function cut(line: Line, columns: number): Line {
  const pieces: Piece[] = [];
  let room = columns;
  for (const [text, style] of line) {
    if (room <= 0) break;
    pieces.push([text.slice(0, room), style]);
    room -= text.length;
  }
  return pieces;
}

const eighths = [' ', '\u2581', '\u2582', '\u2583', '\u2584', '\u2585', '\u2586', '\u2587', '\u2588'] as const;
const rowsPerBar = 2;
/** Of one column while there are few samples. */
const columnMillisecondsMin = 250;

interface Bars {
  /** From the highest row down. */
  readonly rows: readonly string[];
  /** A second, over the last second. */
  readonly rate: number;
}

export interface BarsOverTime {
  readonly columnMilliseconds: number;
  readonly confirmed: Bars;
  readonly delivered: Bars;
}

/** The whole scenario in so many columns, both rates on one scale. */
export function drawBars(samples: readonly Sample[], width: number): BarsOverTime {
  const end = samples.at(-1)?.at ?? 0;
  const columnMilliseconds = columnMillisecondsMin * Math.max(1, Math.ceil(end / columnMillisecondsMin / width));
  const columns = Array.from({ length: Math.min(width, Math.ceil(end / columnMilliseconds)) }, () => ({
    confirmed: 0,
    delivered: 0,
    milliseconds: 0,
  }));
  let before = 0;
  for (const { at, confirmed, delivered } of samples) {
    const column = columns[Math.min(columns.length - 1, Math.floor((at - 1) / columnMilliseconds))];
    if (column === undefined) continue;
    column.confirmed += confirmed;
    column.delivered += delivered;
    column.milliseconds += at - before;
    before = at;
  }
  const rates = (field: 'confirmed' | 'delivered') =>
    columns.map((column) => (column.milliseconds > 0 ? (column[field] * 1000) / column.milliseconds : 0));
  const [confirmed, delivered] = [rates('confirmed'), rates('delivered')];
  const highest = Math.max(1, ...confirmed, ...delivered);
  return {
    columnMilliseconds,
    confirmed: { rows: rowsOf(confirmed, highest), rate: rateNow(samples, 'confirmed') },
    delivered: { rows: rowsOf(delivered, highest), rate: rateNow(samples, 'delivered') },
  };
}

/** Of the names before the bars and the figures behind them. */
export const marginLeft = 11;
const marginRight = 10;
const barsColumnsMin = 10;

/** What a line of so many columns has for its bars. */
export function barsWidth(columns: number): number {
  return Math.max(barsColumnsMin, columns - marginLeft - marginRight);
}

/** Bars with their name before them and their rate behind. */
export function barLines(name: string, style: Style, { rows, rate }: Bars, width: number): Line[] {
  return rows.map(
    (row, i): Line => [
      [(i === 0 ? name : '').padEnd(marginLeft), 'dim'],
      [row.padEnd(width), style],
      [i === rows.length - 1 ? ` ${count(rate)}/s` : '', 'plain'],
    ],
  );
}

/** A counter with its name, as part of a line. */
export function counter(name: string, value: number, style: Style = 'plain'): Piece[] {
  return [
    [`${name} `, 'dim'],
    [`${count(value)}   `, style],
  ];
}

function rowsOf(values: readonly number[], highest: number): string[] {
  const levels = values.map((value) => {
    const level = Math.round((value / highest) * rowsPerBar * 8);
    // A little is not nothing.
    return value > 0 ? Math.max(1, level) : 0;
  });
  return Array.from({ length: rowsPerBar }, (_, row) => {
    const below = (rowsPerBar - 1 - row) * 8;
    return levels.map((level) => eighths[Math.min(8, Math.max(0, level - below))]).join('');
  });
}

function rateNow(samples: readonly Sample[], field: 'confirmed' | 'delivered'): number {
  const end = samples.at(-1)?.at ?? 0;
  const last = samples.findLastIndex(({ at }) => at <= end - 1000);
  const from = samples[last]?.at ?? 0;
  let sum = 0;
  for (let i = last + 1; i < samples.length; i++) sum += samples[i]![field];
  return end > from ? (sum * 1000) / (end - from) : 0;
}

export interface DrawnSpan {
  readonly name: string;
  readonly nodes: readonly number[];
  readonly from: number;
  /** Null: it goes on. */
  readonly to: number | null;
}

/** Which columns had a fault, and below them the names of those for which there is room. */
export function drawFaults(
  spans: readonly DrawnSpan[],
  columnMilliseconds: number,
  width: number,
  now: number,
): { readonly bars: readonly Piece[]; readonly names: string } {
  const shown = Math.min(width, Math.ceil(now / columnMilliseconds));
  const isHarmed = new Array<boolean>(shown).fill(false);
  let names = '';
  for (const { name, nodes, from, to } of spans) {
    const label = faultLabel(name, nodes);
    const first = Math.floor(from / columnMilliseconds);
    isHarmed.fill(true, first, Math.max(first, Math.floor((to ?? now) / columnMilliseconds)) + 1);
    if (first >= names.length && first + label.length <= width) names = `${names.padEnd(first)}${label} `;
  }
  const bars: Piece[] = [];
  for (let from = 0, to = 0; from < shown; from = to) {
    while (to < shown && isHarmed[to] === isHarmed[from]) to++;
    const length = to - from;
    bars.push(isHarmed[from] ? ['\u2588'.repeat(length), 'yellow'] : ['\u00b7'.repeat(length), 'dim']);
  }
  return { bars, names: names.slice(0, width) };
}
