// Declaring through one node and using it through another at once, over whole nodes: whoever may route knows what was answered, also of
// queues that were deleted and declared again, while nodes are paused, cut off and killed.

import { describe, expect, test } from 'vitest';
import { defaultLimits, ResultCode } from '../../cluster/index.ts';
import { MemoryCluster, type MemoryNode } from '../support/memory-cluster.ts';

const leaseMilliseconds = defaultLimits.lease.milliseconds;

const started = async (count: number, seed: number) => {
  const cluster = new MemoryCluster(count, seed);
  await cluster.start();
  return cluster;
};
const answered = (code: () => number | null | undefined) => () => code() !== undefined;

/** What clients were told of each queue. */
class Ledger {
  readonly #cluster: MemoryCluster;
  /** By name: its uid, null when it is gone; nothing while something is under way, or when its fate is unknown. */
  readonly #known = new Map<string, number | null>();
  readonly #busy = new Set<string>();
  answers = 0;
  looks = 0;

  constructor(cluster: MemoryCluster) {
    this.#cluster = cluster;
  }

  /** Declares a queue, or deletes it if it is there. */
  toggle(row: MemoryNode, name: string): void {
    if (this.#busy.has(name)) return;
    const known = this.#known.get(name);
    this.#busy.add(name);
    this.#known.delete(name);
    const { cluster } = row;
    const then = (now: () => number | null) => (result: { code: ResultCode } | null) => {
      if (result?.code !== ResultCode.ok) return; // never asked for again
      this.#busy.delete(name);
      this.#known.set(name, now());
      this.answers++;
      this.check();
    };
    if (typeof known === 'number')
      return cluster.changeMetadata(
        { kind: 'deleteQueue', uid: known },
        then(() => null),
      );
    const home = { node: cluster.node, incarnation: cluster.incarnation };
    const queue = { vhost: '/', name, durable: true, autoDelete: false, exclusive: null, arguments: {}, home };
    cluster.changeMetadata(
      { kind: 'declareQueue', ...queue },
      then(() => cluster.metadata.queue('/', name)!.uid),
    );
  }

  check(): void {
    for (const row of this.#cluster.nodes) {
      if (!row.alive || row.held !== null || !row.cluster.isFresh) continue;
      for (const [name, uid] of this.#known) {
        const found = row.cluster.metadata.queue('/', name)?.uid ?? null;
        if (found === uid) continue;
        throw new Error(
          `node ${row.node} finds ${found} for ${name}, which is ${uid} (${this.#cluster.clock.now()} ms)`,
        );
      }
      this.looks++;
    }
  }
}

describe('a declaration', () => {
  test('takes a few round trips on a healthy cluster, and no timer', async () => {
    const cluster = await started(5, 60);
    await cluster.clock.run(2 * leaseMilliseconds);
    for (const { node } of cluster.nodes) {
      const before = cluster.clock.now();
      const code = cluster.askForQueue(node, `q${node}`);
      expect(await cluster.until(answered(code), 1_000)).toBe(true);
      expect(cluster.clock.now() - before).toBeLessThan(5);
      for (const row of cluster.nodes) expect(row.cluster.metadata.queue('/', `q${node}`)).toBeDefined();
    }
  });

  test('on a single node is answered when it is applied', async () => {
    const cluster = await started(1, 61);
    const code = cluster.askForQueue(1, 'q');
    const isApplied = () => cluster.node(1).cluster.metadata.queue('/', 'q') !== undefined;
    expect(await cluster.until(isApplied, 1_000)).toBe(true);
    expect(code()).toBe(ResultCode.ok);
    await cluster.clock.run(10_000);
    expect(cluster.node(1).cluster.isFresh).toBe(true);
  });

  test('waits for a node that hangs until its lease is over; whoever reads it meanwhile waits too', async () => {
    const cluster = await started(3, 62);
    await cluster.clock.run(2 * leaseMilliseconds);
    const leader = cluster.leaderOf(0)!;
    const [hung, asked] = cluster.nodes.filter((row) => row !== leader) as [MemoryNode, MemoryNode];
    cluster.pause(hung.node);
    const code = cluster.askForQueue(asked.node, 'q');
    const isThere = () => asked.cluster.metadata.queue('/', 'q') !== undefined;
    expect(await cluster.until(isThere, 100)).toBe(true);
    let isVisible = false;
    asked.cluster.whenVisible((visible) => {
      isVisible = visible;
    });
    await cluster.clock.run(1_000);
    expect([code(), isVisible]).toEqual([undefined, false]);
    expect(await cluster.until(answered(code), leaseMilliseconds)).toBe(true);
    expect([code(), isVisible]).toEqual([ResultCode.ok, true]);
    // It goes on, knows nothing of the queue yet, and does not route.
    cluster.resume(hung.node);
    expect(hung.cluster.metadata.queue('/', 'q')).toBeUndefined();
    expect(hung.cluster.isFresh).toBe(false);
    expect(await cluster.until(() => hung.cluster.isFresh, 5_000)).toBe(true);
    expect(hung.cluster.metadata.queue('/', 'q')).toBeDefined();
    expect(hung.feed.freshCount).toBeGreaterThan(0);
  });

  test('a suspended machine finds out by its wall clock that it knows nothing', async () => {
    const cluster = await started(3, 63);
    const hung = cluster.nodes.find((row) => row !== cluster.leaderOf(0))!;
    cluster.pause(hung.node);
    const code = cluster.askForQueue(hung.node === 1 ? 2 : 1, 'q');
    expect(await cluster.until(answered(code), 2 * leaseMilliseconds)).toBe(true);
    cluster.resume(hung.node, true);
    expect(hung.cluster.isFresh).toBe(false);
    expect(await cluster.until(() => hung.cluster.isFresh, 10_000)).toBe(true);
  });

  test('is answered within a lease and an election when the leader of the metadata dies', async () => {
    const cluster = await started(3, 64);
    await cluster.clock.run(2 * leaseMilliseconds);
    const leader = cluster.leaderOf(0)!;
    cluster.kill(leader.node);
    const code = cluster.askForQueue(leader.node === 1 ? 2 : 1, 'q');
    expect(await cluster.until(answered(code), leaseMilliseconds + 1_500)).toBe(true);
    expect(code()).toBe(ResultCode.ok);
    // A lease outlives the election: publishers go on.
    for (const row of cluster.nodes) if (row.alive) expect(row.cluster.isFresh).toBe(true);
  });
});

describe('at random', () => {
  test('nobody who may route misses a queue, or finds one that is gone', async () => {
    const base = Math.floor(Math.random() * 1e6);
    const end = performance.now() + 4_000;
    let [runs, answers, looks] = [0, 0, 0];
    for (; runs === 0 || performance.now() < end; runs++) {
      const seed = base + runs;
      const ledger = await randomRun(seed).catch((error: Error) => {
        throw new Error(`seed ${seed}: ${error.message}`, { cause: error });
      });
      answers += ledger.answers;
      looks += ledger.looks;
    }
    console.log(`seeds from ${base}: ${runs} runs, ${answers} answers, ${looks} looks`);
    expect(answers).toBeGreaterThan(0);
  });
});

async function randomRun(seed: number): Promise<Ledger> {
  const cluster = await started(3, seed);
  const ledger = new Ledger(cluster);
  const draw = (bound: number) => cluster.random.integer(bound);
  const any = () => cluster.node(1 + draw(3));
  for (let step = 0; step < 25; step++) {
    const row = any();
    const dice = draw(10);
    if (dice === 0) cluster.network.partition(`n${row.node}`, `n${1 + (row.node % 3)}`, 'drop');
    else if (dice === 1) cluster.network.cut(`n${row.node}`, `n${1 + (row.node % 3)}`, 'reset');
    else if (dice <= 3) cluster.network.heal();
    else if (dice === 4 && row.alive && row.held === null) cluster.pause(row.node);
    else if (dice === 5 && row.alive && row.held === null) cluster.kill(row.node);
    for (const other of cluster.nodes) {
      if (other.held !== null && draw(2) === 0) cluster.resume(other.node, draw(2) === 0);
      if (!other.alive && draw(2) === 0) await cluster.restart(other.node);
    }
    for (let i = 0; i < 3; i++) {
      const asked = any();
      if (asked.alive && asked.held === null && asked.cluster.isReady) ledger.toggle(asked, `q${draw(12)}`);
    }
    const look = () => {
      ledger.check();
      return false;
    };
    await cluster.until(look, draw(600));
  }
  return ledger;
}
