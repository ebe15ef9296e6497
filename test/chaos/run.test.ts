// Whole runs against real processes behind the embedded Toxiproxy, judged clean; and the same judge on what is not.

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { openLedger } from '../../chaos/ledger.ts';
import { type ChaosIo, chaosMain } from '../../chaos/main.ts';
import { machinesPartOf } from '../../chaos/report/words.ts';
import { conclude, type Ending, exitCodeOf, outcomeOf, runChaos } from '../../chaos/run.ts';
import { scenarios } from '../../chaos/scenarios/index.ts';
import { openTarget } from '../../chaos/targets/index.ts';
import type { ChaosReport, ScenarioReport } from '../../chaos/types.ts';
import type { Feature } from '../../chaos/workload.ts';
import { checkHistory, History } from '../history.ts';
import { cacheFolder } from '../interop/programs.ts';
import { quietObserver, RecordingTarget } from './scene.ts';

const folder = mkdtempSync(join(tmpdir(), 'warren-chaos-run-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A small machine may be busy with other things: little load, and patience. */
const rate = 200;
const scenarioMilliseconds = 150_000;

async function runOne(name: string, toxiproxy: string, more: { features?: Feature[]; seconds?: number } = {}) {
  const about = { warren: 'test', replay: 'test', target: 'local' };
  const context = {
    open: () => openTarget('local', { toxiproxy }),
    observer: quietObserver,
    signal: new AbortController().signal,
  };
  const chosen = scenarios.filter((scenario) => scenario.name === name);
  const { features = [], seconds = 6 } = more;
  const seed = Math.floor(Math.random() * 2 ** 32);
  const options = {
    scenarios: chosen,
    seconds,
    seed,
    rate,
    features,
    strict: false,
    ledgers: folder,
    run: `test-${name}`,
  };
  const report = await runChaos(options, about, context);
  const [scenario] = report.scenarios;
  console.log(
    `${name}, seed ${seed}: ${scenario!.outcome} ${scenario!.reason}; ${scenario!.counts?.confirmed} confirmed, ` +
      `longest stall ${scenario!.longestStallMilliseconds.toFixed(0)} ms ${machinesPartOf(scenario!)}`,
  );
  return { report, scenario: scenario! };
}

function expectClean({ report, scenario }: { report: ChaosReport; scenario: ScenarioReport }): void {
  expect({ outcome: scenario.outcome, reason: scenario.reason }).toEqual({ outcome: 'pass', reason: '' });
  expect(exitCodeOf(report)).toBe(0);
  expect(scenario.counts!.confirmed).toBeGreaterThan(100);
  expect(scenario.spans.length).toBeGreaterThan(0);
  expect(scenario.samples.length).toBeGreaterThan(20);
  expect(scenario.ledger).not.toBeNull();
}

describe('clean', () => {
  test.each(['kill-leader', 'partition-one', 'one-way'])(
    '%s',
    async (name) => expectClean(await runOne(name, 'embedded')),
    scenarioMilliseconds,
  );

  // Minutes more; where everything is tested.
  describe.skipIf(!process.env.CI)('at length', () => {
    const real = join(cacheFolder, 'toxiproxy-server');
    test.each([
      ['pause-leader', 'embedded'],
      ['failing-disk', 'embedded'],
      ['membership-under-partition', 'embedded'],
      ['monsoon', existsSync(real) ? real : 'path'],
      ['sliced-packets', existsSync(real) ? real : 'path'],
    ])('%s, toxiproxy %s', async (name, toxiproxy) => expectClean(await runOne(name, toxiproxy)), scenarioMilliseconds);

    test(
      'dead letters and messages that expire, while everybody dies',
      async () => expectClean(await runOne('kill-all', 'embedded', { features: ['dlx', 'ttl'] })),
      scenarioMilliseconds,
    );

    test(
      'messages that are delayed, with priorities, while leaders die',
      async () => expectClean(await runOne('kill-leader', 'embedded', { features: ['delay', 'priorities'] })),
      scenarioMilliseconds,
    );
  });
});

// ---- what is not clean

/** Two messages are confirmed, and one comes. */
function lossy(history: History): void {
  history.open('setup', 1);
  const traits = { lasting: true, drops: false, deadLetterTo: null };
  history.answer(history.invoke('setup', { kind: 'declare', queue: 'q', ...traits }), 'ok');
  history.open('p', 1);
  history.open('c', 2);
  const consume = { kind: 'consume', queue: 'q', consumer: 'c', noAck: false, releases: false } as const;
  history.answer(history.invoke('c', consume), 'ok');
  for (const id of ['m/0', 'm/1']) {
    const targets = [{ queue: 'q', binding: null }];
    const place = history.publish({ id, channel: 'p', targets, mandatory: true, confirms: true });
    history.outcome(place, 'confirmed');
  }
  const names = { id: 'm/0', queue: 'q', channel: 'c', consumer: 'c' };
  history.settle(history.deliver({ ...names, redelivered: false, count: 0, intact: true }), 'ack');
  history.left('q', 1, 0);
}

const drained = { unanswered: 0, leftovers: [], incomplete: null };

function endingOf(more: Partial<Ending>): Ending {
  const counts = { ...checkHistory([]).counts, confirmed: 1000 };
  const verdict = { ok: true, faults: [], counts };
  const stall = { longestStallMilliseconds: 5000, stallMillisecondsMax: 300, strict: false };
  return { verdict, drained, trouble: null, ...stall, ...more };
}

describe('the end of a scenario', () => {
  test('is a violation when a confirmed message is lost, whatever else went wrong', () => {
    const history = new History(() => 0);
    lossy(history);
    const ending = endingOf({ verdict: checkHistory(history.events), trouble: 'the cluster did not come back' });
    const { outcome, reason, faults } = conclude(ending);
    expect(outcome).toBe('violation');
    expect(reason).toMatch(/^lost: m\/1 was confirmed/);
    expect(faults.length).toBe(1);
    expect(exitCodeOf({ outcome: outcomeOf([{ outcome: 'pass' }, { outcome }]) })).toBe(1);
  });

  test('is a violation when publishes are never answered', () => {
    expect(conclude(endingOf({ drained: { ...drained, unanswered: 3 } })).outcome).toBe('violation');
  });

  test.each([
    ['something failed on the way', { trouble: 'not healthy' }],
    ['nothing was drained', { drained: null }],
    ['the drain did not end', { drained: { ...drained, incomplete: 'deliveries did not end' } }],
    ['a node could not be asked', { drained: { ...drained, leftovers: ['q could not be asked'] } }],
    ['too little happened', { verdict: checkHistory([]) }],
  ])('is no pass when %s', (_, more) => {
    const { outcome, reason } = conclude(endingOf(more));
    expect(outcome).toBe('inconclusive');
    expect(reason).not.toBe('');
  });

  test('is a pass with a goal missed, unless goals are strict', () => {
    expect(conclude(endingOf({})).outcome).toBe('pass');
    expect(conclude(endingOf({ strict: true }))).toMatchObject({ outcome: 'violation', reason: /300 are allowed/ });
    expect(conclude(endingOf({ strict: true, stallMillisecondsMax: null })).outcome).toBe('pass');
  });

  test('of a run in which nothing was shown is no pass', () => {
    expect(outcomeOf([])).toBe('inconclusive');
    expect(outcomeOf([{ outcome: 'skipped' }])).toBe('inconclusive');
    expect(outcomeOf([{ outcome: 'skipped' }, { outcome: 'pass' }])).toBe('pass');
    expect(outcomeOf([{ outcome: 'inconclusive' }, { outcome: 'pass' }])).toBe('inconclusive');
  });
});

function ioOf(open: ChaosIo['open']): ChaosIo & { readonly lines: string[]; readonly errors: string[] } {
  const lines: string[] = [];
  const errors: string[] = [];
  const print = (line: string) => void lines.push(line);
  const printError = (line: string) => void errors.push(line);
  return { out: process.stdout, print, printError, open, signal: new AbortController().signal, lines, errors };
}

test('--judge says again what a ledger shows: exit code 1 for a lost message', async () => {
  const path = join(folder, 'lossy.ledger');
  const ledger = await openLedger(path);
  lossy(new History(() => 0, ledger.append));
  await ledger.close();
  const io = ioOf(() => Promise.reject(new Error('not to be opened')));
  expect(await chaosMain(['--judge', path], io)).toBe(1);
  expect(io.lines.join('\n')).toMatch(/m\/1 was confirmed in q and never came/);
  expect(await chaosMain(['--judge', join(folder, 'none')], io)).toBe(2);
});

test('a target that cannot be had is told, and no pass: exit code 2, and a report all the same', async () => {
  const out = join(folder, 'out');
  const io = ioOf(() => Promise.reject(new Error('there is no cluster')));
  expect(await chaosMain(['--scenario', 'pause', '--out', out, '--plain', '--seed', '5'], io)).toBe(2);
  const report = JSON.parse(readFileSync(join(out, 'report.json'), 'utf8')) as ChaosReport;
  expect(report).toMatchObject({ outcome: 'inconclusive', seed: 5 });
  expect(report.scenarios[0]).toMatchObject({ outcome: 'inconclusive', reason: 'there is no cluster' });
  expect(existsSync(join(out, 'report.html'))).toBe(true);
});

test('what a target cannot do is skipped, with the reason, and the target closed', async () => {
  const target = new RecordingTarget(1, ['processes']);
  const chosen = scenarios.filter(({ name }) => name === 'pause' || name === 'kill-one');
  const report = await runChaos(
    { scenarios: chosen, seconds: 1, seed: 1, rate, features: [], strict: false, ledgers: null, run: 'skip' },
    { warren: 'test', replay: 'test', target: 'local' },
    { open: async () => target, observer: quietObserver, signal: new AbortController().signal },
  );
  expect(report.scenarios.map(({ outcome, reason }) => [outcome, reason])).toEqual([
    ['skipped', 'needs 3 nodes, and there are 1'],
    ['skipped', 'needs pause, which the local target does not offer here'],
  ]);
  expect(report.outcome).toBe('inconclusive');
  expect(target.done).toEqual(['close']);
});

test('a run that is interrupted ends in order, and is no pass', async () => {
  const interrupted = new AbortController();
  interrupted.abort();
  const report = await runChaos(
    {
      scenarios: scenarios.slice(0, 2),
      seconds: 1,
      seed: 1,
      rate,
      features: [],
      strict: false,
      ledgers: null,
      run: 'x',
    },
    { warren: 'test', replay: 'test', target: 'local' },
    { open: () => Promise.reject(new Error('not now')), observer: quietObserver, signal: interrupted.signal },
  );
  expect(report.scenarios.map(({ reason }) => reason)).toEqual(['interrupted', 'interrupted']);
  expect(report.outcome).toBe('inconclusive');
});
