// The report as one page of HTML that needs no network and no script: verdict, all scenarios in one table, then each with its timeline. Pure.
//
// The page is well-formed XML too, so that a test can check that whatever names and reasons contain cannot leave their place; everything that
// comes from outside goes through `escaped`.

import type { Counts, Fault } from '../../test/history.ts';
import type { ChaosReport, FaultSpan, Latencies, ScenarioReport } from '../types.ts';
import { styleSheet } from './style.ts';
import { timelineOf } from './timeline.ts';
import {
  count,
  counted,
  duration,
  escaped,
  faultLabel,
  faultWords,
  headline,
  keepsGoal,
  machinesPartOf,
  outcomeWords,
  sumsOf,
} from './words.ts';

const spansShownMax = 300;
/** Longer lists are folded. */
const spansOpenMax = 12;

export function htmlOf(report: ChaosReport): string {
  return [
    '<!doctype html>',
    '<html lang="en">',
    '<head>',
    '<meta charset="utf-8"/>',
    '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
    `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>`,
    `<title>${escaped(`Warren chaos: ${outcomeWords[report.outcome]}, ${report.startedAt}`)}</title>`,
    `<style>${styleSheet}</style>`,
    '</head>',
    '<body>',
    '<main>',
    verdict(report),
    overview(report.scenarios),
    ...report.scenarios.map(section),
    again(report),
    '</main>',
    '</body>',
    '</html>',
    '',
  ].join('\n');
}

// ---- the whole run

function verdict(report: ChaosReport): string {
  const { outcome, scenarios, target, startedAt } = report;
  const sums = sumsOf(scenarios);
  const ran = scenarios.filter((one) => one.outcome !== 'skipped').length;
  const tiles: [string, string, boolean][] = [
    ['confirmed', count(sums.confirmed), false],
    ['received', count(sums.delivered), false],
    ['lost', sums.lost, sums.lost !== '0'],
    ['violations', count(sums.violations), sums.violations > 0],
    ['faults injected', count(sums.faults), false],
    ['longest stall', duration(sums.longestStallMilliseconds), false],
  ];
  if (sums.goals > 0) tiles.push(['stall goals kept', `${sums.goalsKept} of ${sums.goals}`, false]);
  const tile = ([name, value, isBad]: [string, string, boolean]) =>
    `<div${isBad ? ' class="bad"' : ''}><dt>${name}</dt><dd>${value}</dd></div>`;
  const what = `${counted(ran, 'scenario')} in ${duration(sums.seconds * 1000)}. Target: ${target}. Begun ${moment(startedAt)}.`;
  return [
    `<header class="card verdict ${outcome}">`,
    '<div class="kicker">Warren chaos report</div>',
    `<h1>${escaped(headline(report))}</h1>`,
    `<p class="soft">${escaped(what)}</p>`,
    `<dl class="tiles">${tiles.map(tile).join('')}</dl>`,
    '</header>',
  ].join('\n');
}

/** `2026-11-22T10:00:00.000Z` as `2026-11-22 10:00:00 UTC`; what is no such date stays. */
function moment(iso: string): string {
  return iso.replace(/^([\d-]{10})T([\d:]{8})(\.\d+)?Z$/, '$1 $2 UTC');
}

function overview(scenarios: readonly ScenarioReport[]): string {
  const heads = [
    '<th>Scenario</th><th>Verdict</th><th class="number">Confirmed</th><th class="number">Received</th>',
    '<th class="number">Faults</th><th class="number">Confirm p99</th><th>Longest stall</th><th class="number">Goal</th>',
  ].join('');
  return [
    '<section class="card">',
    '<h2>Scenarios</h2>',
    '<div class="wide"><table class="overview">',
    `<thead><tr>${heads}</tr></thead>`,
    '<tbody>',
    ...scenarios.map(overviewRow),
    '</tbody>',
    '</table></div>',
    '<p class="soft">A stall is a time in which somebody waited for a confirm and nobody got one, among clients whose own node was well.</p>',
    '</section>',
  ].join('\n');
}

function overviewRow(scenario: ScenarioReport, index: number): string {
  const { name, says, outcome, reason, counts, spans, confirms } = scenario;
  const more = outcome === 'pass' ? says : reason;
  return [
    `<tr><td><a href="#s${index}"><b>${escaped(name)}</b></a><small>${escaped(more)}</small></td>`,
    `<td>${chip(outcome)}</td>`,
    ...[counts && count(counts.confirmed), counts && count(counts.delivered), count(spans.length)].map(number),
    number(confirms && duration(confirms.p99)),
    stallCells(scenario),
    '</tr>',
  ].join('');
}

function stallCells(scenario: ScenarioReport): string {
  const { longestStallMilliseconds, stallMillisecondsMax, counts } = scenario;
  const goal = number(stallMillisecondsMax === null ? null : `\u2264 ${duration(stallMillisecondsMax)}`);
  if (counts === null) return `<td class="soft">\u2013</td>${goal}`;
  const missed = keepsGoal(scenario) ? '' : ' class="missed"';
  const share = stallMillisecondsMax === null ? null : (longestStallMilliseconds / stallMillisecondsMax) * 100;
  const meter =
    share === null ? '' : `<span class="meter"><i style="width:${Math.min(100, Math.round(share))}%"></i></span>`;
  const word = missed === '' ? '' : ' (missed)';
  return `<td${missed}>${duration(longestStallMilliseconds)}${word}${meter}</td>${goal}`;
}

function number(text: string | null): string {
  return text === null ? '<td class="number soft">\u2013</td>' : `<td class="number">${text}</td>`;
}

function chip(outcome: ScenarioReport['outcome']): string {
  return `<span class="chip ${outcome}">${outcomeWords[outcome]}</span>`;
}

/** How to see all this again, and what it was measured on. */
function again(report: ChaosReport): string {
  const { seed, replay, warren, target, versions, scenarios } = report;
  const ledgers = scenarios.flatMap(({ ledger }) => (ledger === null ? [] : [ledger]));
  const facts: [string, string][] = [
    ['the same again', `<code>${escaped(replay)}</code>`],
    ['seed', escaped(String(seed))],
    ['target', escaped(target)],
    ['Warren', escaped(warren)],
    ...Object.entries(versions).map(([name, value]): [string, string] => [escaped(name), escaped(value)]),
  ];
  if (ledgers.length > 0)
    facts.push(['judge a ledger again', `<code>${escaped(`npm run chaos -- --judge ${ledgers[0]}`)}</code>`]);
  return [
    '<section class="card">',
    '<h2>To see this again</h2>',
    '<h3>Seed, command, versions</h3>',
    `<dl class="facts">${facts.map(([name, value]) => `<dt>${name}</dt><dd>${value}</dd>`).join('')}</dl>`,
    '<h3>What was judged</h3>',
    '<p>Clients wrote down every publish, confirm, delivery and acknowledgement. When the faults had ended, every queue was emptied through',
    'every node. Then each message was followed: what was confirmed must have come, unchanged, in order, and once unless it was flagged as',
    'redelivered; what was settled must not come back; all nodes must agree on what is left. A publish without an answer may',
    'have happened or not; either is right.</p>',
    '</section>',
  ].join('\n');
}

// ---- one scenario

function section(scenario: ScenarioReport, index: number): string {
  const { name, says, outcome, reason, seconds, seed, samples, ledger } = scenario;
  const isMeasured = samples.length > 0;
  return [
    `<section class="card" id="s${index}">`,
    `<div class="head"><h2>${escaped(name)}</h2>${chip(outcome)}<span class="soft">${duration(seconds * 1000)}, seed ${seed}</span></div>`,
    `<p class="soft">${escaped(says)}</p>`,
    outcome === 'pass' ? '' : `<p class="reason ${outcome}">${escaped(reason)}</p>`,
    violations(scenario),
    isMeasured ? legend : '',
    outcome === 'skipped' ? '' : `<div class="wide">${timelineOf(scenario)}</div>`,
    isMeasured || scenario.counts !== null ? figures(scenario) : '',
    faultTable(scenario.spans),
    ledger === null ? '' : `<p class="soft ledger">Ledger: <code>${escaped(ledger)}</code></p>`,
    '</section>',
  ]
    .filter((part) => part !== '')
    .join('\n');
}

const legend = [
  '<p class="legend"><span class="faults">fault</span><span class="stalls">stall: nobody got a confirm</span>',
  '<span class="confirms">confirms</span><span class="deliveries">deliveries</span><span class="backlog">waiting</span></p>',
].join('');

function violations({ faults, violations: total }: ScenarioReport): string {
  if (total === 0) return '';
  const kinds = [...new Set(faults.map(({ kind }) => kind))];
  const more = total > faults.length ? `<p class="soft">${count(total - faults.length)} more are not listed.</p>` : '';
  return [`<h3>${counted(total, 'violation')}</h3>`, ...kinds.map((kind) => violationsOf(kind, faults)), more].join(
    '\n',
  );
}

function violationsOf(kind: Fault['kind'], faults: readonly Fault[]): string {
  const cases = faults.filter((fault) => fault.kind === kind);
  const item = ({ subject, text, place }: Fault) =>
    `<li><code>${escaped(subject)}</code> ${escaped(text)} <span class="soft">(event ${place})</span></li>`;
  return [
    `<p><b>${escaped(kind)}</b>: ${escaped(faultWords[kind])}</p>`,
    `<ul class="violations">${cases.map(item).join('')}</ul>`,
  ].join('');
}

function figures(scenario: ScenarioReport): string {
  const { confirms, deliveries, counts, reconnects, stalls, longestStallMilliseconds } = scenario;
  const heads = ['p50', 'p90', 'p99', 'p99.9', 'max'].map((name) => `<th class="number">${name}</th>`).join('');
  const parts = ['<div class="columns">', '<div>', '<h3>Latency</h3>'];
  parts.push(`<div class="wide"><table><thead><tr><th></th>${heads}</tr></thead><tbody>`);
  parts.push(latencyRow('publish to confirm', confirms), latencyRow('publish to delivery', deliveries));
  parts.push('</tbody></table></div>', '</div>', '<div>', '<h3>Counts</h3>', '<dl class="facts">');
  if (counts !== null) parts.push(...countFacts(counts));
  parts.push(fact('reconnects', count(reconnects)));
  const part = machinesPartOf(scenario) === '' ? '' : ` (${machinesPartOf(scenario)})`;
  const longest =
    stalls.length === 0
      ? 'none over 100 ms'
      : `${count(stalls.length)}, the longest ${duration(longestStallMilliseconds)}${part}`;
  parts.push(fact('stalls', longest), '</dl>', '</div>', '</div>');
  return parts.join('\n');
}

function latencyRow(name: string, latencies: Latencies | null): string {
  const { p50, p90, p99, p999, max } = latencies ?? { p50: null, p90: null, p99: null, p999: null, max: null };
  const cells = [p50, p90, p99, p999, max].map((value) => number(value === null ? null : duration(value)));
  return `<tr><td>${name}</td>${cells.join('')}</tr>`;
}

function countFacts(counts: Counts): string[] {
  const { published, confirmed, refused, unknown, returned, delivered, deliveries, redelivered, afterAck } = counts;
  const answers = [`${count(confirmed)} confirmed`];
  if (refused > 0) answers.push(`${count(refused)} refused`);
  if (unknown > 0) answers.push(`${count(unknown)} without an answer`);
  if (returned > 0) answers.push(`${count(returned)} returned`);
  const again = [`${count(redelivered)} flagged as redelivered`];
  if (afterAck > 0) again.push(`${count(afterAck)} after an acknowledgement that was lost on its way`);
  return [
    fact('publishes', `${count(published)}: ${answers.join(', ')}`),
    fact('messages received', count(delivered)),
    fact('deliveries', `${count(deliveries)}: ${again.join(', ')}`),
  ];
}

function fact(name: string, value: string): string {
  return `<dt>${name}</dt><dd>${value}</dd>`;
}

function faultTable(spans: readonly FaultSpan[]): string {
  if (spans.length === 0) return '';
  const rows = spans.slice(0, spansShownMax).map((span) => {
    const { name, nodes, from, to, stallMilliseconds } = span;
    const cells = [duration(from), duration(to - from), stallMilliseconds > 0 ? duration(stallMilliseconds) : null];
    return `<tr><td>${escaped(faultLabel(name, nodes))}</td>${cells.map(number).join('')}</tr>`;
  });
  const heads =
    '<th>Fault</th><th class="number">At</th><th class="number">Lasted</th><th class="number">Longest stall</th>';
  const more =
    spans.length > spansShownMax
      ? `<p class="soft">${count(spans.length - spansShownMax)} more in report.json.</p>`
      : '';
  return [
    `<details${spans.length > spansOpenMax ? '' : ' open="open"'}><summary>${counted(spans.length, 'fault')}</summary>`,
    `<div class="wide"><table><thead><tr>${heads}</tr></thead><tbody>${rows.join('\n')}</tbody></table></div>${more}`,
    '</details>',
  ].join('\n');
}
