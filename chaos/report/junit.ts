// The report as JUnit XML, for CI servers: one test case per scenario. Pure.
//
// A violation is a failure, an inconclusive scenario an error, a skipped one is skipped. Seed, longest stall and its goal are properties of
// the test case; a goal that was missed fails nothing.

import type { ChaosReport, ScenarioReport } from '../types.ts';
import { escaped, faultWords } from './words.ts';

export function junitOf(report: ChaosReport): string {
  const { scenarios } = report;
  const having = (outcome: ScenarioReport['outcome']) => scenarios.filter((one) => one.outcome === outcome).length;
  const seconds = scenarios.reduce((sum, one) => sum + one.seconds, 0).toFixed(3);
  const sums =
    `tests="${scenarios.length}" failures="${having('violation')}" errors="${having('inconclusive')}" ` +
    `skipped="${having('skipped')}" time="${seconds}"`;
  const about = [
    ['seed', String(report.seed)],
    ['target', report.target],
    ['replay', report.replay],
    ['warren', report.warren],
    ...Object.entries(report.versions),
  ] as const;
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<testsuites name="warren chaos" ${sums}>`,
    `  <testsuite name="chaos" timestamp="${escaped(report.startedAt)}" ${sums}>`,
    ...properties('    ', about),
    ...scenarios.flatMap(testcase),
    '  </testsuite>',
    '</testsuites>',
    '',
  ].join('\n');
}

function testcase(scenario: ScenarioReport): string[] {
  const { name, seconds, seed, longestStallMilliseconds, stallMillisecondsMax, counts, spans, ledger } = scenario;
  const { processorWaitMilliseconds: wait, stolenMilliseconds: stolen } = scenario;
  const about: (readonly [string, string])[] = [
    ['seed', String(seed)],
    ['longest stall ms', String(Math.round(longestStallMilliseconds))],
  ];
  if (wait !== null) about.push(['of it without a processor ms', String(Math.round(wait))]);
  if (stolen !== null) about.push(['taken by the host meanwhile ms', String(Math.round(stolen))]);
  if (stallMillisecondsMax !== null) about.push(['stall goal ms', String(stallMillisecondsMax)]);
  about.push(['faults', String(spans.length)]);
  if (counts !== null) about.push(['confirmed', String(counts.confirmed)], ['received', String(counts.delivered)]);
  if (ledger !== null) about.push(['ledger', ledger]);
  return [
    `    <testcase classname="chaos" name="${escaped(name)}" time="${seconds.toFixed(3)}">`,
    ...properties('      ', about),
    ...outcomeElement(scenario),
    '    </testcase>',
  ];
}

function outcomeElement({ outcome, reason, faults, violations }: ScenarioReport): string[] {
  const message = escaped(reason);
  switch (outcome) {
    case 'pass':
      return [];
    case 'skipped':
      return [`      <skipped message="${message}"/>`];
    case 'inconclusive':
      return [`      <error type="inconclusive" message="${message}"/>`];
    case 'violation': {
      const lines = faults.map(({ kind, subject, text }) => `${kind}: ${subject} ${text} (${faultWords[kind]})`);
      if (violations > faults.length) lines.push(`and ${violations - faults.length} more`);
      const type = escaped(faults[0]?.kind ?? 'violation');
      return [`      <failure type="${type}" message="${message}">${escaped(lines.join('\n'))}</failure>`];
    }
  }
}

function properties(indent: string, pairs: readonly (readonly [string, string])[]): string[] {
  const one = ([name, value]: readonly [string, string]) =>
    `${indent}  <property name="${escaped(name)}" value="${escaped(value)}"/>`;
  return [`${indent}<properties>`, ...pairs.map(one), `${indent}</properties>`];
}
