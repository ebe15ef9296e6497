// How a report says things: numbers with their units, outcomes and faults in plain words, and text that is safe to stand in HTML and XML. Pure.

import type { Fault } from '../../test/history.ts';
import type { ChaosReport, MachinesPart, Outcome, ScenarioReport } from '../types.ts';

const dangerous: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** For text and quoted attributes of HTML and XML alike; what no XML document may contain becomes a replacement character. */
export function escaped(text: string): string {
  return text
    .replace(/[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/gu, '\uFFFD')
    .replace(/[&<>"']/g, (character) => dangerous[character]!);
}

const grouped = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

export function count(value: number): string {
  return grouped.format(value);
}

/** `1 fault`, `2 faults`. */
export function counted(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}

/** `0.42 ms`, `184 ms`, `1.84 s`, `12.3 s`, `4 min 5 s`. */
export function duration(milliseconds: number): string {
  if (milliseconds < 1) return `${milliseconds === 0 ? '0' : milliseconds.toFixed(2)} ms`;
  if (milliseconds < 10) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 999.5) return `${Math.round(milliseconds)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 9.995) return `${seconds.toFixed(2).replace(/\.?0+$/, '')} s`;
  if (seconds < 59.95) return `${seconds.toFixed(1).replace(/\.0$/, '')} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min${whole % 60 === 0 ? '' : ` ${whole % 60} s`}`;
}

/** From here on it is worth a word. */
const waitMillisecondsMin = 10;

/** What of a stall is the machine's; '' if that is next to nothing, or not known. */
export function machinesPartOf({ processorWaitMilliseconds: wait, stolenMilliseconds: stolen }: MachinesPart): string {
  const isWorth = (time: number | null): time is number => time !== null && time >= waitMillisecondsMin;
  return [
    ...(isWorth(wait) ? [`${duration(wait)} of it without a processor`] : []),
    ...(isWorth(stolen) ? [`${duration(stolen)} of processors taken by the machine's host`] : []),
  ].join(', ');
}

export const outcomeWords: Readonly<Record<Outcome, string>> = {
  pass: 'passed',
  violation: 'violation',
  inconclusive: 'inconclusive',
  skipped: 'skipped',
};

/** What each kind of violation means for who uses the broker. */
export const faultWords: Readonly<Record<Fault['kind'], string>> = {
  lost: 'A message was confirmed to its publisher and never came out of its queue.',
  phantom: 'A message came that nobody had sent, or that was not there.',
  corrupt: 'A message came with another body than it was sent with.',
  duplicate: 'A message came more often as new than it had been sent.',
  flag: 'A message came again without being flagged as redelivered.',
  'two holders': 'A message came to a consumer while another one held it.',
  back: 'A message came back after it had been settled, purged or deleted.',
  order: 'Messages left their queue in another order than they had entered it.',
  unroutable: 'A message was returned as unroutable though its queue was there, or came though it had been returned.',
  unreturned: 'A mandatory message was confirmed without a return though no queue was there.',
  'late return': 'A message was returned after it had been confirmed.',
  existence: 'The broker denied a queue that was there, or knew one that was not.',
  hidden: 'A queue was told to be empty while a message was in it.',
  purge: 'A purge took more messages than it told.',
  unanswered: 'A request was never answered though its connection lived.',
  leftover: 'A queue still counted messages after everything had been taken out of it.',
  divergent: 'Two nodes counted different numbers of messages in the same queue.',
  nonsense: 'The broker broke the protocol.',
};

/** One sentence above everything else. */
export function headline({ outcome, scenarios }: ChaosReport): string {
  if (outcome === 'pass') return 'Passed: nothing that was confirmed was lost';
  if (outcome === 'violation') {
    const broken = scenarios.reduce((sum, { violations }) => sum + violations, 0);
    return `Failed: ${counted(broken, 'violation')} of what a broker promises`;
  }
  if (outcome === 'inconclusive') return 'Inconclusive: a part of this run proves nothing';
  return 'Nothing was run';
}

export interface Sums {
  readonly confirmed: number;
  readonly delivered: number;
  readonly redelivered: number;
  readonly faults: number;
  readonly seconds: number;
  readonly violations: number;
  readonly longestStallMilliseconds: number;
  /** Confirmed and never seen again, as text: of a scenario with very many violations only the first are listed. */
  readonly lost: string;
  /** Of those scenarios of which something can be said, how many have a goal, and how many kept it. */
  readonly goalsKept: number;
  readonly goals: number;
}

export function sumsOf(scenarios: readonly ScenarioReport[]): Sums {
  const sum = (of: (scenario: ScenarioReport) => number) => scenarios.reduce((total, one) => total + of(one), 0);
  const promised = scenarios.filter(
    ({ stallMillisecondsMax, outcome }) =>
      stallMillisecondsMax !== null && (outcome === 'pass' || outcome === 'violation'),
  );
  const isListedWhole = scenarios.every(({ faults, violations }) => faults.length >= violations);
  const lost = sum(({ faults }) => faults.filter(({ kind }) => kind === 'lost').length);
  return {
    confirmed: sum(({ counts }) => counts?.confirmed ?? 0),
    delivered: sum(({ counts }) => counts?.delivered ?? 0),
    redelivered: sum(({ counts }) => counts?.redelivered ?? 0),
    faults: sum(({ spans }) => spans.length),
    seconds: sum(({ seconds }) => seconds),
    violations: sum(({ violations }) => violations),
    longestStallMilliseconds: Math.max(0, ...scenarios.map(({ longestStallMilliseconds }) => longestStallMilliseconds)),
    lost: isListedWhole ? count(lost) : `${count(lost)} or more`,
    goalsKept: promised.filter(keepsGoal).length,
    goals: promised.length,
  };
}

/** True also where nothing was promised. */
export function keepsGoal({ stallMillisecondsMax, longestStallMilliseconds }: ScenarioReport): boolean {
  return stallMillisecondsMax === null || longestStallMilliseconds <= stallMillisecondsMax;
}

/** `kill` of `1, 2`: `kill n1 n2`, unless the name tells already. */
export function faultLabel(name: string, nodes: readonly number[]): string {
  const names = nodes.map((node) => `n${node}`);
  const isTold = nodes.every((node) => new RegExp(`(?<!\\d)${node}(?!\\d)`).test(name));
  return isTold ? name : `${name} ${names.join(' ')}`;
}
