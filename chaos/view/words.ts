// The lines that both views say in the same words: how a scenario ended.

import { count, counted, duration, keepsGoal, machinesPartOf, outcomeWords, sumsOf } from '../report/words.ts';
import type { ScenarioReport } from '../types.ts';

const violationsShownMax = 5;

/** One line for a scenario that is over; what follows of it is in `detailsOf`. */
export function resultOf(report: ScenarioReport): string {
  const { name, outcome, counts, spans, longestStallMilliseconds, stallMillisecondsMax } = report;
  if (counts === null) return `${name}: ${outcomeWords[outcome]}: ${report.reason}`;
  const notes = [
    ...(stallMillisecondsMax === null ? [] : [`goal ${duration(stallMillisecondsMax)}`]),
    ...(keepsGoal(report) ? [] : ['missed']),
    ...(machinesPartOf(report) === '' ? [] : [machinesPartOf(report)]),
  ];
  const parts = [
    `${count(counts.confirmed)} confirmed`,
    `${count(counts.delivered)} received`,
    `lost ${sumsOf([report]).lost}`,
    counted(spans.length, 'fault'),
    `longest stall ${duration(longestStallMilliseconds)}${notes.length === 0 ? '' : ` (${notes.join(', ')})`}`,
  ];
  return `${name}: ${outcomeWords[outcome]}: ${parts.join(', ')}`;
}

/** Why it is no pass, and the first violations. */
export function detailsOf({ outcome, reason, counts, faults, violations }: ScenarioReport): string[] {
  if (outcome === 'pass' || counts === null) return [];
  const shown = faults.slice(0, violationsShownMax);
  const lines = [reason, ...shown.map(({ kind, subject, text }) => `${kind}: ${subject} ${text}`)];
  if (violations > shown.length) lines.push(`and ${count(violations - shown.length)} more`);
  return lines.filter((line) => line !== '').map((line) => `    ${line}`);
}
