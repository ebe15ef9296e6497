// One random life of a log, by a seed: use, and between its starts whatever ends a process. Throws when something confirmed is gone, something
// dropped is back, or what is read is not what was written. The bug museum hunts with it what is wrong in the log alone.

import type { Store } from '../../cluster/log/store.ts';
import { Run } from './log-run.ts';
import { turns } from './log-support.ts';

const lives = 6;
/** The last of so many seeds installs snapshots from elsewhere, on a disk that is slow with the log: the others are as before there was that. */
const roughSeeds = 4;
/** Of the microtask queue. */
const lateTurnsMax = 300;
const stepsMax = 60;
const failing = ['write', 'sync', 'rename', 'remove', 'syncFolder', 'open', 'truncate'] as const;

export async function runLogSeed(seed: number): Promise<void> {
  const run = new Run(seed);
  await run.open();
  run.isFaulty = true;
  const isRough = seed % roughSeeds === roughSeeds - 1;
  for (let life = 0; life < lives; life++) {
    const isCalm = !plan(run);
    if (isRough) run.lateWrites = run.random.integer(3) * run.random.integer(lateTurnsMax);
    await work(run, run.random.integer(stepsMax), isRough);
    if (isCalm) {
      await run.installsEnded();
      await run.verifyVolatile();
      await run.verify();
    }
    if (run.random.integer(2) === 0) await turns(2);
    run.noteInstall();
    if (run.random.integer(3) === 0) run.disk.kill(run.random);
    else run.disk.crash(run.random);
    run.disk.calm();
    const damaged = (await run.open()).flatMap(({ group, damage }) => damage.map((what) => `group ${group}: ${what}`));
    // However it ended: no disk has harmed anything that was durable.
    if (damaged.length > 0) throw new Error(`damage: ${damaged.join('; ')}`);
    (run.log as Store).check();
    await run.verify();
  }
}

/** How this life is to end; true: before its time. */
function plan({ random, disk }: Run): boolean {
  const choice = random.integer(6);
  if (choice === 0) disk.failNext(failing[random.integer(failing.length)]!, 'EIO', 1 + random.integer(3));
  else if (choice === 1) disk.capacity = disk.usedBytes() + random.integer(8000);
  else if (choice < 4) {
    let left = 1 + random.integer(200);
    const wanted = random.integer(2) === 0 ? 'before' : 'after';
    disk.watch = (_operation, _path, phase) => {
      if (phase === wanted && --left === 0) disk.halt();
    };
  }
  return choice < 4;
}

/** Some steps at random, with time between them for the disk. Ends early with the log. */
async function work(run: Run, steps: number, installs: boolean): Promise<void> {
  for (let left = steps; left > 0 && run.failure === null; left--) {
    run.step();
    if (installs && run.random.integer(8) === 0) await run.install();
    for (let pause = run.random.integer(4) * run.random.integer(12); pause > 0; pause--) await Promise.resolve();
    if (run.random.integer(8) === 0) await turns(1);
    if (run.random.integer(30) === 0) await resetMeanwhile(run);
  }
}

/** A group is emptied while files are rewritten that have something of it. */
async function resetMeanwhile(run: Run): Promise<void> {
  run.collect();
  run.compact();
  for (let pause = run.random.integer(80); pause > 0; pause--) await Promise.resolve();
  run.reset();
}
