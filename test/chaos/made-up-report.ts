// Reports that were made up, for the tests of what is written about them: rates that break in while a fault lasts, stalls, and every outcome.

import type { ChaosReport, FaultSpan, Sample, ScenarioReport, Stall } from '../../chaos/types.ts';

/** The same numbers in every run. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

const sampleMilliseconds = 250;

/** So many seconds of load, with a fault now and then. */
export function madeUpScenario(
  name: string,
  seconds: number,
  over: Partial<ScenarioReport> = {},
  faultEverySeconds = 6,
): ScenarioReport {
  const random = randomFrom(name.length * 7919 + seconds);
  const spans: FaultSpan[] = [];
  const stalls: Stall[] = [];
  for (let at = 2500; at < seconds * 1000 - 3000; at += faultEverySeconds * 1000 * (0.7 + 0.6 * random())) {
    const stall = 60 + 240 * random();
    spans.push({
      name,
      nodes: [1 + Math.floor(random() * 3)],
      from: at,
      to: at + 700 + 2200 * random(),
      stallMilliseconds: stall,
    });
    if (stall > 100) stalls.push({ from: at, to: at + stall });
  }
  const samples: Sample[] = [];
  let awaited = 0;
  for (let at = sampleMilliseconds; at <= seconds * 1000; at += sampleMilliseconds) {
    const isHarmed = spans.some(({ from, to }) => from < at && at - sampleMilliseconds < to);
    const sent = Math.round(150 * (0.95 + 0.1 * random()));
    const confirmed = isHarmed ? Math.round(sent * (0.3 + 0.5 * random())) : sent;
    const backlog = isHarmed ? 20 + Math.floor(random() * 60) : Math.floor(random() * 8);
    samples.push({ at, sent, confirmed, delivered: Math.max(0, confirmed + awaited - backlog), awaited: backlog });
    awaited = backlog;
  }
  const confirmed = samples.reduce((sum, sample) => sum + sample.confirmed, 0);
  return {
    name,
    says: 'kill -9 of the node that leads most, again and again',
    seed: 42,
    startedAt: '2026-11-22T10:00:00.000Z',
    seconds,
    outcome: 'pass',
    reason: '',
    counts: {
      events: confirmed * 4,
      published: confirmed + 31,
      confirmed,
      refused: 3,
      unknown: 28,
      returned: 0,
      deliveries: confirmed + 87,
      delivered: confirmed + 5,
      redelivered: 82,
      afterAck: 11,
      operations: 34,
    },
    faults: [],
    violations: 0,
    spans,
    samples,
    confirms: { count: confirmed, p50: 1.9, p90: 4.2, p99: 38.4, p999: 181, max: 262 },
    deliveries: { count: confirmed, p50: 3.4, p90: 7.7, p99: 64, p999: 412, max: 1240 },
    stalls,
    longestStallMilliseconds: Math.max(0, ...stalls.map(({ from, to }) => to - from)),
    processorWaitMilliseconds: null,
    stolenMilliseconds: null,
    stallMillisecondsMax: 300,
    reconnects: 14,
    ledger: `chaos-42/${name}.ledger.jsonl`,
    ...over,
  };
}

export function madeUpReport(scenarios: readonly ScenarioReport[], over: Partial<ChaosReport> = {}): ChaosReport {
  const having = (outcome: ScenarioReport['outcome']) => scenarios.some((one) => one.outcome === outcome);
  const outcome = (['violation', 'inconclusive', 'pass'] as const).find(having) ?? 'skipped';
  return {
    warren: '0.1.0',
    startedAt: '2026-11-22T10:00:00.000Z',
    seed: 42,
    replay: 'npm run chaos -- --scenario all --duration 600 --seed 42',
    target: 'a local cluster of 3 nodes',
    versions: { node: 'v20.19.5', platform: 'linux x64, 2 cores', toxiproxy: '2.12.0 (embedded)' },
    outcome,
    scenarios,
    ...over,
  };
}

/** One of every kind. */
export function everyOutcome(): ScenarioReport[] {
  const nothing = { counts: null, confirms: null, deliveries: null, samples: [], spans: [], stalls: [] };
  const nowhere = { ...nothing, longestStallMilliseconds: 0, reconnects: 0, ledger: null };
  return [
    madeUpScenario('kill-leader', 24),
    madeUpScenario('partition-leader', 30, {
      says: 'the leader is cut off from the others; its clients stay with it',
      outcome: 'violation',
      reason: '3 violations: lost, order',
      violations: 3,
      stallMillisecondsMax: 2500,
      longestStallMilliseconds: 3120,
      faults: [
        { kind: 'lost', place: 812, subject: 'run/p0/77', text: 'was confirmed and never came out of q-a' },
        { kind: 'lost', place: 913, subject: 'run/p1/12', text: 'was confirmed and never came out of q-b' },
        { kind: 'order', place: 1204, subject: 'run/p2/9', text: 'came after run/p2/10, which had been sent after it' },
      ],
    }),
    madeUpScenario('monsoon', 60, { says: 'everything at once', stallMillisecondsMax: null }, 2),
    madeUpScenario('kill-all', 12, {
      says: 'every node gets kill -9 at once',
      outcome: 'inconclusive',
      reason: 'the cluster did not come back within 60 s: n2 is not healthy',
    }),
    madeUpScenario('clock-jumps', 0, {
      ...nowhere,
      says: 'wall clocks jump ahead and back',
      outcome: 'skipped',
      reason: 'this target cannot do it: clock',
    }),
  ];
}
