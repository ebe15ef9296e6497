// The log at random on a disk that fails: an end at every operation, a full disk, failing operations, reads that fail, damage at rest. What was
// confirmed is there afterwards, or whoever opens the log is told; nothing that is handed out is wrong.

import { describe, expect, it } from 'vitest';
import { openLog } from '../../cluster/log/index.ts';
import type { Store } from '../../cluster/log/store.ts';
import { damageFile, liveDamages, restDamages } from '../support/disk/damage.ts';
import type { DiskOperation } from '../support/memory-disk.ts';
import { Run } from './log-run.ts';
import { clock, options, turns } from './log-support.ts';

/** Some steps at random, with time between them for the disk. Ends early with the log. */
async function work(run: Run, steps: number): Promise<void> {
  for (let left = steps; left > 0 && run.failure === null; left--) {
    run.step();
    for (let pause = run.random.integer(4) * run.random.integer(12); pause > 0; pause--) await Promise.resolve();
  }
}

async function withSeed(seed: number | string, body: () => Promise<void>): Promise<void> {
  try {
    await body();
  } catch (error) {
    throw new Error(`seed ${seed}`, { cause: error });
  }
}

/** The process is gone, by a fault or now; the machine may lose its power too. Then everything has to be there again. */
async function comeBack(run: Run): Promise<void> {
  if (run.random.integer(2) === 0) run.disk.kill(run.random);
  else run.disk.crash(run.random);
  run.disk.calm();
  await run.open();
  (run.log as Store).check();
  await run.verify();
}

/** Three times over: use at random, then what `fails`, then all of it has to be there again. */
function threeLives(seed: number, fails: (run: Run) => Promise<void>): Promise<void> {
  return withSeed(seed, async () => {
    const run = new Run(seed);
    await run.open();
    run.isFaulty = true;
    for (let life = 0; life < 3; life++) {
      await work(run, run.random.integer(20));
      await fails(run);
      await comeBack(run);
    }
  });
}

describe('an end at the k-th operation', () => {
  it.each(['before', 'after'] as const)('%s it leaves what was confirmed', async (phase) => {
    const reached = new Set<DiskOperation>();
    for (let k = 1; k <= 160; k += 2)
      await withSeed(`${phase} ${k}`, async () => {
        const run = new Run(1000 + (k >> 3));
        await run.open();
        run.isFaulty = true;
        let left = k;
        run.disk.watch = (operation, _path, now) => {
          if (now !== phase || --left > 0) return;
          reached.add(operation);
          run.disk.halt();
        };
        for (let rounds = 0; left > 0 && rounds < 20; rounds++) await work(run, 5);
        await turns(1);
        await comeBack(run);
        await work(run, 5);
        await comeBack(run);
      });
    for (const operation of ['write', 'sync', 'open', 'rename', 'remove', 'syncFolder'] as const)
      expect(reached.has(operation)).toBe(true);
  });
});

describe('a full disk', () => {
  it('takes nothing that was confirmed, and the log is as before once there is room', async () => {
    let ended = 0;
    let refused = 0;
    for (let seed = 1; seed <= 40; seed++)
      await threeLives(seed, async (run) => {
        run.disk.capacity = run.disk.usedBytes() + run.random.integer(4000);
        await work(run, 40);
        await turns(2);
        if (run.failure !== null) ended++;
        // Who starts on a full disk may fail, and does no harm.
        run.disk.kill(run.random);
        const opened = await openLog(run.disk.mount(), clock, options(run.limits)).catch((error) => error);
        if (opened instanceof Error) refused++;
      });
    expect([ended > 20, refused > 5]).toEqual([true, true]);
  });
});

describe('an operation that fails', () => {
  it('takes nothing that was confirmed; what did not reach the disk is not taken for durable', async () => {
    const ended = new Set<string>();
    for (let seed = 1; seed <= 80; seed++)
      await threeLives(seed, async (run) => {
        const operations = ['write', 'sync', 'rename', 'remove', 'syncFolder', 'open', 'truncate'] as const;
        const operation = operations[run.random.integer(operations.length)]!;
        run.disk.failNext(operation, 'EIO', 1 + run.random.integer(3));
        await work(run, 30);
        await turns(2);
        if (run.failure !== null) ended.add(operation);
      });
    expect([...ended].sort()).toEqual(expect.arrayContaining(['rename', 'sync', 'syncFolder', 'write']));
  });

  it('gives an error for what cannot be read, never something else', async () => {
    let failed = 0;
    for (let seed = 1; seed <= 30; seed++)
      await withSeed(seed, async () => {
        const run = new Run(seed);
        await run.open();
        run.isFaulty = true;
        await work(run, 40);
        await turns(2);
        run.disk.failNext('read', 'EIO', 1 + run.random.integer(4));
        await run.verify().catch((error: NodeJS.ErrnoException) => {
          if (error.code === undefined) throw error;
          failed++;
        });
        await comeBack(run);
      });
    expect(failed).toBeGreaterThan(5);
  });
});

describe('damage at rest', () => {
  /** Of the newest files nobody can tell what a crash tore from what was there: a cut one looks like one that never was longer. */
  const newest = 3;

  it('is told, or does no harm', async () => {
    const outcomes = { refused: 0, told: 0, unread: 0, harmless: 0 };
    for (let seed = 1; seed <= 200; seed++)
      await withSeed(seed, async () => {
        const run = new Run(seed);
        await run.open();
        await work(run, 30 + run.random.integer(60));
        await turns(2);
        if (run.random.integer(2) === 0) await run.log.close();
        run.disk.crash(run.random);
        const sequence = (path: string) => Number.parseInt(path.slice(path.lastIndexOf('/') + 1), 10);
        const logs = run.disk
          .paths()
          .map(({ path }) => path)
          .filter((path) => path.endsWith('.log'))
          .sort((a, b) => sequence(b) - sequence(a));
        const paths = run.disk
          .paths()
          .filter(({ path, bytes }) => bytes > 0 && !logs.slice(0, newest).includes(path))
          .map(({ path }) => path);
        const path = paths[run.random.integer(paths.length)];
        if (path === undefined) return;
        const kinds = [...liveDamages, ...restDamages];
        const damage = kinds[run.random.integer(kinds.length)]!;
        damageFile(run.disk, path, damage, run.random);
        const outcome = await afterDamage(run).catch((error) => {
          throw new Error(`${damage} ${path}`, { cause: error });
        });
        outcomes[outcome]++;
      });
    expect(outcomes.told).toBeGreaterThan(30);
    expect(outcomes.unread).toBeGreaterThan(5);
    expect(outcomes.harmless).toBeGreaterThan(10);
    expect(outcomes.refused).toBe(0);
  });

  async function afterDamage(run: Run): Promise<'refused' | 'told' | 'unread' | 'harmless'> {
    let told = false;
    try {
      told = (await run.open()).some(({ damage }) => damage.length > 0);
    } catch (error) {
      if ((error as { code?: string }).code === undefined) throw error;
      return 'refused';
    }
    let unread = false;
    await run.verify((error) => {
      if ((error as { code?: string }).code === undefined) throw error;
      unread = true;
    });
    return told ? 'told' : unread ? 'unread' : 'harmless';
  }
});
