// A scenario drawn over time, as inline SVG: faults as bars with their names, and below them confirms a second, deliveries a second and the messages that
// wait, with the faults shaded across all of them and the stalls marked where they were. Pure.
//
// Colours come from classes of the page's style sheet, so that light and dark are one drawing. However long the run, a line has at most
// `pointsMax` points and there are at most `marksMax` bars, so the page stays small.

import type { FaultSpan, Sample, ScenarioReport, Stall } from '../types.ts';
import { count, duration, escaped, faultLabel } from './words.ts';

const width = 1000;
const left = 58;
const right = width - 18;
const laneHeight = 20;
const lanesMax = 6;
const pointsMax = 700;
const marksMax = 600;
/** Of a label, in the font size of the style sheet. */
const characterWidth = 6;

type Scale = (value: number) => number;

interface Panel {
  readonly title: string;
  readonly kind: 'confirms' | 'deliveries' | 'backlog';
  readonly height: number;
  readonly values: readonly Point[];
  /** The scale reaches it at least. */
  readonly highest: number;
}

interface Point {
  readonly at: number;
  readonly value: number;
}

export function timelineOf(scenario: ScenarioReport): string {
  const { samples, spans, stalls, name } = scenario;
  if (samples.length === 0) return '<p class="empty">No load was measured.</p>';
  const end = Math.max(samples.at(-1)!.at, ...spans.map(({ to }) => to), 1);
  const x: Scale = (at) => round(left + (Math.min(Math.max(at, 0), end) / end) * (right - left));
  const { placed, lanes } = placeSpans(spans.slice(0, marksMax), x);
  const top = 6 + Math.max(1, lanes) * laneHeight + 10;
  const merged = merge(samples);
  const confirms = merged.map(rateOf('confirmed'));
  const deliveries = merged.map(rateOf('delivered'));
  const backlog = merged.map(({ at, awaited }) => ({ at, value: awaited }));
  // One scale for both rates, so that they can be compared.
  const highest = Math.max(1, ...[...confirms, ...deliveries].map(({ value }) => value));
  const highestBacklog = Math.max(2, ...backlog.map(({ value }) => value));
  const panels: Panel[] = [
    { title: 'confirmed / s', kind: 'confirms', height: 96, values: confirms, highest },
    { title: 'delivered / s', kind: 'deliveries', height: 96, values: deliveries, highest },
    {
      title: 'confirmed, not yet delivered',
      kind: 'backlog',
      height: 46,
      values: backlog,
      highest: highestBacklog,
    },
  ];
  const drawn: string[] = [];
  let y = top;
  for (const panel of panels) {
    drawn.push(drawPanel(panel, x, y));
    if (panel.kind === 'confirms') drawn.push(drawStalls(stalls, x, y + 16, panel.height));
    y += 16 + panel.height + 12;
  }
  const bottom = y - 12;
  return [
    `<svg class="timeline" viewBox="0 0 ${width} ${bottom + 22}" role="img" aria-label="${escaped(`Timeline of ${name}`)}">`,
    ...placed.map((one) => drawSpan(one, top, bottom)),
    ...drawn,
    drawTime(end, x, bottom),
    '</svg>',
  ].join('\n');
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

// ---- samples

interface Interval extends Omit<Sample, 'sent'> {
  readonly milliseconds: number;
}

/** At most `pointsMax` intervals, each of so many samples: their sums, and the largest backlog. */
function merge(samples: readonly Sample[]): Interval[] {
  const each = Math.ceil(samples.length / pointsMax);
  const intervals: Interval[] = [];
  let before = 0;
  for (let from = 0; from < samples.length; from += each) {
    const some = samples.slice(from, from + each);
    const { at } = some.at(-1)!;
    const confirmed = some.reduce((sum, one) => sum + one.confirmed, 0);
    const delivered = some.reduce((sum, one) => sum + one.delivered, 0);
    const awaited = Math.max(...some.map((one) => one.awaited));
    intervals.push({ at, confirmed, delivered, awaited, milliseconds: Math.max(1, at - before) });
    before = at;
  }
  return intervals;
}

function rateOf(field: 'confirmed' | 'delivered'): (interval: Interval) => Point {
  return (interval) => ({ at: interval.at, value: (interval[field] * 1000) / interval.milliseconds });
}

// ---- panels

function drawPanel({ title, kind, height, values, highest }: Panel, x: Scale, y: number): string {
  const top = y + 16;
  const bottom = top + height;
  const ticks = ticksTo(highest, height < 60 ? 2 : 4);
  const scale = height / ticks.at(-1)!;
  const up: Scale = (value) => round(bottom - value * scale);
  const line = values.map(({ at, value }) => `${x(at)} ${up(value)}`).join('L');
  const [first, last] = [x(values[0]!.at), x(values.at(-1)!.at)];
  const grid = ticks.map((tick) => {
    const level = up(tick);
    const label = `<text class="tick" x="${left - 8}" y="${level + 4}" text-anchor="end">${short(tick)}</text>`;
    return `<path class="${tick === 0 ? 'axis' : 'grid'}" d="M${left} ${level}H${right}"/>${label}`;
  });
  return [
    `<text class="title" x="${left}" y="${y + 9}">${title}</text>`,
    ...grid,
    `<path class="area ${kind}" d="M${first} ${bottom}L${line}L${last} ${bottom}Z"/>`,
    `<path class="line ${kind}" d="M${line}"/>`,
  ].join('\n');
}

/** Round steps from 0 to a little beyond the highest value; at most `stepsMax` of them. */
export function ticksTo(highest: number, stepsMax: number): number[] {
  const least = highest / stepsMax;
  const magnitude = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * magnitude).find((size) => size >= least * 0.9999)!;
  const steps = Math.max(1, Math.ceil((highest / step) * 0.9999));
  return Array.from({ length: steps + 1 }, (_, i) => i * step);
}

function short(value: number): string {
  if (value >= 1e6) return `${round(value / 1e6)} M`;
  if (value >= 10_000) return `${round(value / 1000)} k`;
  return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(2)));
}

/** A red foot under the time in which nobody got a confirm; the longest one says how long. */
function drawStalls(stalls: readonly Stall[], x: Scale, top: number, height: number): string {
  const longest = stalls.reduce<Stall | null>((a, b) => (a !== null && a.to - a.from >= b.to - b.from ? a : b), null);
  const shown = stalls.length > marksMax ? [...stalls].sort((a, b) => b.to - b.from - a.to + a.from) : stalls;
  const bottom = top + height;
  const marks = shown.slice(0, marksMax).map(({ from, to }) => {
    const words = `no confirm for ${duration(to - from)}, at ${duration(from)}`;
    const wide = round(Math.max(2.5, x(to) - x(from)));
    return `<rect class="stall" x="${x(from)}" y="${bottom - 7}" width="${wide}" height="7" rx="1"><title>${words}</title></rect>`;
  });
  if (longest !== null) {
    const middle = round((x(longest.from) + x(longest.to)) / 2);
    const anchor = middle > right - 70 ? 'end' : middle < left + 70 ? 'start' : 'middle';
    const label = `stall ${duration(longest.to - longest.from)}`;
    marks.push(`<text class="stall-label" x="${middle}" y="${bottom - 12}" text-anchor="${anchor}">${label}</text>`);
  }
  return marks.join('\n');
}

function drawTime(end: number, x: Scale, y: number): string {
  const ticks = timeTicks(end / 1000).map((seconds) => {
    const place = x(seconds * 1000);
    const label = `<text class="tick" x="${place}" y="${y + 17}" text-anchor="middle">${clock(seconds, end)}</text>`;
    return `<path class="axis" d="M${place} ${y}v4"/>${label}`;
  });
  return ticks.join('\n');
}

const timeSteps = [0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400];

function timeTicks(seconds: number): number[] {
  const step = timeSteps.find((size) => seconds / size <= 12) ?? 604_800;
  return Array.from({ length: Math.floor(seconds / step) + 1 }, (_, i) => i * step);
}

function clock(seconds: number, end: number): string {
  if (end <= 180_000) return `${seconds} s`;
  const two = (value: number) => String(value).padStart(2, '0');
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return end < 3_600_000 ? `${minutes}:${two(seconds % 60)}` : `${hours}:${two(minutes)}:${two(seconds % 60)}`;
}

// ---- faults

interface PlacedSpan {
  readonly span: FaultSpan;
  readonly lane: number;
  readonly from: number;
  readonly width: number;
  /** Where its name stands: behind or before the bar if it does not fit into it. */
  readonly label: 'inside' | 'behind' | 'before' | 'none';
}

interface Placed {
  readonly placed: PlacedSpan[];
  readonly lanes: number;
  /** Some bars found no lane of their own and share the last. */
  readonly overflows: boolean;
}

/** Every bar gets a lane in which it overlaps nothing. Where names would take too many lanes only bars that are wide enough have theirs. */
function placeSpans(spans: readonly FaultSpan[], x: Scale): Placed {
  const named = place(spans, x, true);
  return named.overflows ? place(spans, x, false) : named;
}

function place(spans: readonly FaultSpan[], x: Scale, named: boolean): Placed {
  const ends: number[] = [];
  let overflows = false;
  const placed = [...spans]
    .sort((a, b) => a.from - b.from)
    .map((span): PlacedSpan => {
      const from = x(span.from);
      const wide = round(Math.max(3, x(span.to) - from));
      const text = faultLabel(span.name, span.nodes).length * characterWidth + 10;
      const free = ends.findIndex((end) => end <= from);
      const lane = free >= 0 ? free : Math.min(ends.length, lanesMax - 1);
      if (free < 0 && ends.length === lanesMax) overflows = true;
      const room = named ? from - (ends[lane] ?? left) : 0;
      const isRoomBehind = named && from + wide + text <= right;
      const label = wide >= text ? 'inside' : isRoomBehind ? 'behind' : room >= text ? 'before' : 'none';
      ends[lane] = from + wide + (label === 'behind' ? text : 0) + (named ? 4 : 1);
      return { span, lane, from, width: wide, label };
    });
  return { placed, lanes: ends.length, overflows };
}

function drawSpan({ span, lane, from, width: wide, label }: PlacedSpan, top: number, bottom: number): string {
  const y = 6 + lane * laneHeight;
  const text = faultLabel(span.name, span.nodes);
  const stall = span.stallMilliseconds > 0 ? `; longest stall ${duration(span.stallMilliseconds)}` : '';
  const title = escaped(`${text}: ${duration(span.from)} to ${duration(span.to)}${stall}`);
  const at = { inside: from + 5, behind: from + wide + 4, before: from - 4, none: 0 }[label];
  const anchor = label === 'before' ? ' text-anchor="end"' : '';
  const words =
    label === 'none'
      ? ''
      : `<text class="fault-label ${label}" x="${round(at)}" y="${y + 12}"${anchor}>${escaped(text)}</text>`;
  return (
    `<g><title>${title}</title>` +
    `<rect class="shade" x="${from}" y="${top}" width="${wide}" height="${bottom - top}"/>` +
    `<rect class="fault" x="${from}" y="${y}" width="${wide}" height="16" rx="3"/>${words}</g>`
  );
}
