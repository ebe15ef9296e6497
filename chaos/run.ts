// A run: scenarios one after another, each with queues, load and a history of its own, and what came of each.
//
// A scenario's way: warm up until every publisher is served; harm for its share of the time; heal, and wait until everybody is served again, and long
// enough that every session which was given up knows it; stop the load; empty the queues through every node; judge. What fails on the way makes
// a scenario inconclusive, never a pass; a violation goes before everything else.
//
// State owned: the target of the moment. One that the suite starts itself is started anew for each scenario, so that none spoils the next.

import { join } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkHistory, type Fault, History, type Verdict } from '../test/history.ts';
import { type LedgerSummary, openLedger } from './ledger.ts';
import { Meter } from './measure.ts';
import { ProcessorWaits } from './processors.ts';
import { comeBackMillisecondsMax, createRandom, RunningStage } from './stage.ts';
import type { ChaosReport, MachinesPart, Observer, Outcome, Scenario, ScenarioReport, Stall, Target } from './types.ts';
import { type DrainReport, type Feature, Workload } from './workload.ts';

export interface RunOptions {
  readonly scenarios: readonly Scenario[];
  /** Of faults; the scenarios share it. */
  readonly seconds: number;
  readonly seed: number;
  /** Messages a second of all publishers; infinite: as fast as it goes. */
  readonly rate: number;
  readonly features: readonly Feature[];
  /** A goal that is missed fails its scenario. */
  readonly strict: boolean;
  /** Where the ledgers are kept; null: nowhere. */
  readonly ledgers: string | null;
  /** Names the run's queues and messages: unlike those of earlier runs on the same cluster. */
  readonly run: string;
}

export interface RunContext {
  open(): Promise<Target>;
  readonly observer: Observer;
  /** Aborted: the run ends as soon as everything is healed. */
  readonly signal: AbortSignal;
}

/** What a report says about the run as a whole. */
export type RunAbout = Pick<ChaosReport, 'warren' | 'replay' | 'target'>;

const sampleMilliseconds = 250;
const leaderMilliseconds = 1000;
const restMillisecondsMax = 20_000;
const awakeMilliseconds = 10;
const waitLookMilliseconds = 20;
/** Who has just started compiles its code yet, and every node and the load do so at once. */
const warmMilliseconds = 5000;
const warmMillisecondsMax = 30_000;
/** A peer that is silent for three of them is given up by everybody. */
const heartbeatSeconds = 2;
/** From the end of the last fault until every session that was given up knows it: heartbeats, and a node that was declared gone. */
const calmMilliseconds = heartbeatSeconds * 3000 + 500;
/** What a scenario may take beyond its time, until it is left alone. */
const overtimeMillisecondsMax = 180_000;
const queuesCount = 6;
const confirmedMin = 100;
/** A history of this length takes some hundred megabytes. */
const eventsMax = 2_000_000;
/** For what follows on the scenario itself, in which the load goes on. */
const aroundMilliseconds = 20_000;
const faultsShown = 50;

/** Runs all of them, and closes what it opened. */
export async function runChaos(options: RunOptions, about: RunAbout, context: RunContext): Promise<ChaosReport> {
  const startedAt = new Date().toISOString();
  const reports: ScenarioReport[] = [];
  let versions: Readonly<Record<string, string>> = {};
  let target: Target | null = null;
  try {
    for (const [i, scenario] of options.scenarios.entries()) {
      context.observer.scenarioBegins(scenario, i, options.scenarios.length);
      let report: ScenarioReport;
      try {
        if (context.signal.aborted) throw new Error('interrupted');
        context.observer.phase('starting');
        target ??= await context.open();
        if (Object.keys(versions).length === 0) versions = await target.describe();
        const lack = lackOf(target, scenario);
        if (lack === null) {
          report = await new ScenarioRun(scenario, target, options, context).go();
          if (target.kind === 'local') target = await closed(target);
        } else report = { ...emptyReport(scenario, options.seed), outcome: 'skipped', reason: lack };
      } catch (error) {
        report = { ...emptyReport(scenario, options.seed), reason: messageOf(error) };
      }
      reports.push(report);
      context.observer.scenarioEnds(report);
    }
  } finally {
    await target?.close();
  }
  return { ...about, startedAt, seed: options.seed, versions, outcome: outcomeOf(reports), scenarios: reports };
}

async function closed(target: Target): Promise<null> {
  await target.close();
  return null;
}

/** Why the target cannot do this scenario; null: it can. */
function lackOf({ abilities, nodes, kind }: Target, { needs, nodesMin }: Scenario): string | null {
  const missing = needs.filter((need) => !abilities.has(need));
  if (missing.length > 0) return `needs ${missing.join(' and ')}, which the ${kind} target does not offer here`;
  return nodes.length >= nodesMin ? null : `needs ${nodesMin} nodes, and there are ${nodes.length}`;
}

/** A violation anywhere is one; and nothing passes that nothing was shown of. */
export function outcomeOf(reports: readonly Pick<ScenarioReport, 'outcome'>[]): Outcome {
  const outcomes = reports.map(({ outcome }) => outcome);
  if (outcomes.includes('violation')) return 'violation';
  return outcomes.includes('pass') && !outcomes.includes('inconclusive') ? 'pass' : 'inconclusive';
}

/** What the process ends with. */
export function exitCodeOf({ outcome }: Pick<ChaosReport, 'outcome'>): 0 | 1 | 2 {
  if (outcome === 'pass') return 0;
  return outcome === 'violation' ? 1 : 2;
}

/** What a scenario came to. */
export interface Ending {
  readonly verdict: Verdict;
  /** Null: it did not come to that. */
  readonly drained: DrainReport | null;
  /** What went wrong on the way; null: nothing. */
  readonly trouble: string | null;
  readonly longestStallMilliseconds: number;
  readonly stallMillisecondsMax: number | null;
  readonly strict: boolean;
}

/** All violations, and what they and everything else make of the scenario. */
export function conclude(ending: Ending): { outcome: Outcome; reason: string; faults: readonly Fault[] } {
  const { verdict, drained, trouble, longestStallMilliseconds: stall, stallMillisecondsMax: goal } = ending;
  const faults = [...verdict.faults];
  if (drained !== null && drained.unanswered > 0) {
    const text = `${drained.unanswered} publishes were never answered though their connections lived`;
    faults.push({ kind: 'unanswered', place: verdict.counts.events, subject: 'the load', text });
  }
  const [first] = faults;
  if (first !== undefined) {
    const more = faults.length === 1 ? '' : `, and ${faults.length - 1} more`;
    return { outcome: 'violation', reason: `${first.kind}: ${first.subject} ${first.text}${more}`, faults };
  }
  const unclear =
    trouble ??
    (drained === null ? 'the queues were not drained' : drained.incomplete) ??
    drained?.leftovers[0] ??
    (verdict.counts.confirmed < confirmedMin ? `only ${verdict.counts.confirmed} messages were confirmed` : null);
  if (unclear !== null) return { outcome: 'inconclusive', reason: unclear, faults };
  if (ending.strict && goal !== null && stall > goal)
    return { outcome: 'violation', reason: `stalled for ${Math.round(stall)} ms, and ${goal} are allowed`, faults };
  return { outcome: 'pass', reason: '', faults };
}

const notTold: MachinesPart = { processorWaitMilliseconds: null, stolenMilliseconds: null };

function emptyReport({ name, says, stallMillisecondsMax }: Scenario, seed: number): ScenarioReport {
  const startedAt = new Date().toISOString();
  const nothing = { counts: null, faults: [], violations: 0, spans: [], samples: [], confirms: null, deliveries: null };
  const stall = { longestStallMilliseconds: 0, ...notTold, stallMillisecondsMax };
  const measured = { stalls: [], ...stall, reconnects: 0, ledger: null };
  return { name, says, seed, startedAt, seconds: 0, outcome: 'inconclusive', reason: '', ...nothing, ...measured };
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

class ScenarioRun {
  readonly #scenario: Scenario;
  readonly #target: Target;
  readonly #options: RunOptions;
  readonly #context: RunContext;
  readonly #milliseconds: number;
  readonly #begun = performance.now();
  readonly #meter = new Meter();
  readonly #waits: ProcessorWaits;
  /** The longest stall when it was last looked at, and what of it is the machine's. */
  #longest: Stall | null = null;
  #machinesPart: MachinesPart = notTold;
  #history: History;
  #workload: Workload | null = null;
  #leader = 0;
  /** The first thing that went wrong. */
  #trouble: string | null = null;

  constructor(scenario: Scenario, target: Target, options: RunOptions, context: RunContext) {
    this.#scenario = scenario;
    this.#target = target;
    this.#options = options;
    this.#context = context;
    this.#milliseconds = (options.seconds * 1000) / options.scenarios.length;
    this.#history = new History(this.#now);
    this.#waits = new ProcessorWaits(() => [process.pid, ...target.pids], this.#now);
  }

  async go(): Promise<ScenarioReport> {
    const { name } = this.#scenario;
    const { ledgers, seed } = this.#options;
    const begin = emptyReport(this.#scenario, seed);
    const path = ledgers === null ? null : join(ledgers, `${name}.ledger`);
    const ledger = path === null ? null : await openLedger(path, { scenario: name, seed, time: begin.startedAt });
    this.#history = new History(this.#now, (event) => {
      this.#meter.note(event, this.#history.events.length);
      ledger?.append(event);
    });
    const timers = [
      setInterval(() => this.#meter.awake(this.#now()), awakeMilliseconds),
      setInterval(() => this.#waits.look(), waitLookMilliseconds),
      setInterval(() => this.#sample(), sampleMilliseconds),
      setInterval(() => void this.#lookForLeader(), leaderMilliseconds),
    ];
    const drained = await this.#live().finally(() => timers.map(clearInterval));
    this.#context.observer.phase('judging');
    const kept: LedgerSummary | null = (await ledger?.close()) ?? null;
    if (kept?.failure) this.#fail(new Error(`the ledger was not kept: ${kept.failure}`));
    await this.#tidy();
    return { ...begin, ...this.#report(drained), ledger: kept === null || kept.failure !== null ? null : path };
  }

  readonly #now = (): number => performance.now() - this.#begun;

  #fail(error: unknown): void {
    this.#trouble ??= this.#context.signal.aborted ? 'interrupted' : messageOf(error);
  }

  /** Everything that clients see. Null: it did not come to a drain. */
  async #live(): Promise<DrainReport | null> {
    const { observer, signal } = this.#context;
    let drained: DrainReport | null = null;
    try {
      observer.phase('warming up');
      const follower = await this.#warmUp();
      observer.phase('chaos');
      this.#meter.begin(this.#now());
      await this.#harm(follower).catch((error) => this.#fail(error));
      observer.phase('healing');
      await this.#heal();
      if (signal.aborted) throw new Error('interrupted');
      observer.phase('draining');
      this.#meter.finish(this.#now());
      drained = await this.#workload!.finish(signal);
    } catch (error) {
      this.#fail(error);
      this.#meter.finish(this.#now());
      await this.#target.heal().catch(() => {});
      await Promise.all([this.#workload?.stopPublishing(), this.#workload?.stopConsuming()]);
    }
    return drained;
  }

  /** The load begins, and all of it is served. Returns the node that leads none of its queues, if one is wanted. */
  async #warmUp(): Promise<number> {
    const { scenario, follower, declarers } = await this.#plan();
    const { rate, features, run } = this.#options;
    const urls = this.#target.nodes.map(({ url }) => url);
    // One more than there are nodes: that one goes to another node when its own fails.
    const publishers = urls.length + 1;
    const name = `${run}-${scenario}`;
    const queues = Array.from({ length: queuesCount }, (_, i) => `${name}-${i + 1}`);
    const settlements = { requeueEvery: 97, rejectEvery: 89, discardEvery: 113 };
    const load = { publishers, consumers: 2 * queuesCount, rate: rate / publishers, retry: true, ...settlements };
    const expected = this.#milliseconds + aroundMilliseconds;
    const mayPublish = () => this.#history.events.length < (eventsMax * (this.#now() + sampleMilliseconds)) / expected;
    const options = { urls, queues, run: name, ...load, declarers, features, heartbeatSeconds, mayPublish };
    this.#workload = await Workload.start(options, this.#history);
    await sleep(warmMilliseconds, undefined, { signal: this.#context.signal });
    await this.#served(0, warmMillisecondsMax, publishers);
    return follower;
  }

  async #plan(): Promise<{ scenario: string; follower: number; declarers: number[] }> {
    const { name, sparesFollower } = this.#scenario;
    const nodes = this.#target.nodes.map(({ number }) => number);
    await this.#target.waitReady(comeBackMillisecondsMax);
    if (sparesFollower !== true || nodes.length < 2) return { scenario: name, follower: 0, declarers: nodes };
    const candidates = await this.#target.followers(restMillisecondsMax);
    const follower = candidates[createRandom(this.#options.seed, name, 'follower')(candidates.length)]!;
    return { scenario: name, follower, declarers: nodes.filter((node) => node !== follower) };
  }

  async #harm(follower: number): Promise<void> {
    const { observer, signal } = this.#context;
    const stage = new RunningStage({
      target: this.#target,
      seed: this.#options.seed,
      name: this.#scenario.name,
      milliseconds: this.#milliseconds,
      follower,
      meter: this.#meter,
      observer,
      now: this.#now,
      storm: () => this.#workload!.dropAll(),
      signal,
    });
    const finished = new AbortController();
    const limit = sleep(this.#milliseconds + overtimeMillisecondsMax, undefined, { signal: finished.signal }).then(
      () => Promise.reject(new Error('the scenario does not come to its end')),
      () => {},
    );
    await Promise.race([this.#scenario.run(stage), limit]).finally(() => finished.abort());
  }

  async #heal(): Promise<void> {
    const { signal } = this.#context;
    await this.#target.heal();
    if (signal.aborted) return;
    const healed = this.#now();
    await this.#target.waitReady(comeBackMillisecondsMax);
    await this.#served(healed, comeBackMillisecondsMax);
    await sleep(calmMilliseconds, undefined, { signal });
    this.#history.calm();
    // What is settled from now on is settled: a little of that is wanted.
    await sleep(sampleMilliseconds * 2, undefined, { signal });
  }

  /** Resolves when every publisher has had a confirm since then. */
  async #served(since: number, milliseconds: number, count = 0): Promise<void> {
    const deadline = this.#now() + milliseconds;
    for (;;) {
      const waiting = this.#meter.unservedSince(since);
      if (waiting.length === 0 && this.#meter.publishers >= count) return;
      if (this.#now() > deadline) {
        const names = waiting.map(({ name, node }) => `${name} (node ${node})`).join(', ');
        throw new Error(
          `no confirm for ${milliseconds / 1000} s: ${names === '' ? 'not all clients connected' : names}`,
        );
      }
      await sleep(50, undefined, { signal: this.#context.signal });
    }
  }

  /** Soon after it: what was waited for is not remembered for ever. */
  #lookAtLongest(): void {
    const { longest } = this.#meter;
    if (longest === this.#longest) return;
    this.#longest = longest;
    const { from, to } = longest;
    this.#machinesPart = {
      processorWaitMilliseconds: this.#waits.within(from, to),
      stolenMilliseconds: this.#waits.stolenWithin(from, to),
    };
  }

  #sample(): void {
    this.#lookAtLongest();
    const { sent, confirmed } = this.#meter;
    const sample = this.#meter.sample(this.#now(), this.#history.awaited);
    const totals = { sent, confirmed, received: this.#history.delivered, reconnects: this.#workload?.reconnects ?? 0 };
    this.#context.observer.sample(sample, totals, this.#leader);
  }

  #isLooking = false;

  /** For people only: a target that is harmed may not answer. */
  async #lookForLeader(): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    this.#leader = await this.#target.leader().catch(() => 0);
    this.#isLooking = false;
  }

  /** A target that goes on is left as it was found. */
  async #tidy(): Promise<void> {
    if (this.#target.kind === 'local' || this.#workload === null) return;
    await this.#workload.remove().catch(() => {});
  }

  #report(drained: DrainReport | null): Partial<ScenarioReport> {
    const meter = this.#meter;
    this.#lookAtLongest();
    const verdict = checkHistory(this.#history.events, { drained: drained?.incomplete === null });
    const longestStallMilliseconds = meter.longestStall;
    const { stallMillisecondsMax } = this.#scenario;
    const { strict } = this.#options;
    const stall = { longestStallMilliseconds, stallMillisecondsMax, strict };
    const { outcome, reason, faults } = conclude({ verdict, drained, trouble: this.#trouble, ...stall });
    return {
      seconds: this.#now() / 1000,
      outcome,
      reason,
      counts: verdict.counts,
      faults: faults.slice(0, faultsShown),
      violations: faults.length,
      spans: meter.spans,
      samples: meter.samples,
      confirms: meter.confirms,
      deliveries: meter.deliveries,
      stalls: meter.stalls,
      longestStallMilliseconds,
      ...this.#machinesPart,
      reconnects: this.#workload?.reconnects ?? 0,
    };
  }
}
