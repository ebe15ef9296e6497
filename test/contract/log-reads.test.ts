// Reads that take long while the log changes beneath them: files go, entries are replaced.

import { describe, expect, it } from 'vitest';
import { piecesOf } from '../../cluster/machine/snapshot-pieces.ts';
import { createMemoryDisk } from '../support/memory-disk.ts';
import {
  append,
  configuration,
  entries,
  living,
  origin,
  read,
  rejection,
  reopen,
  turns,
  write,
} from './log-support.ts';

/** A log of group 1 whose disk answers no read of log files while `isSlow`. */
async function open() {
  const held: (() => void)[] = [];
  const state = { isSlow: false };
  const disk = createMemoryDisk({
    schedule: (task, operation, path) => {
      if (state.isSlow && operation === 'read' && path.startsWith('log/')) held.push(task);
      else queueMicrotask(task);
    },
  });
  const { log } = await reopen(disk, { cacheBytesMax: 0, fileBytesMax: 2048 });
  log.createGroup(1, 1, origin);
  const answer = async () => {
    state.isSlow = false;
    for (const task of held.splice(0)) task();
    await turns();
  };
  return { log, state, held, answer };
}

describe('a read under way', () => {
  it('keeps the file that it reads, and no longer', async () => {
    const { log, state, held, answer } = await open();
    await append(log, write(1, { entries: entries(1, 1, 60, 1) }));
    state.isSlow = true;
    const reading = read(log, 1, 3, 4);
    await turns();
    expect(held.length).toBeGreaterThan(0);
    await log.saveSnapshot(1, { index: 50, term: 1, configuration }, piecesOf([Buffer.from('state')]));
    log.compactionPoint(1);
    await log.collect(living(() => false));
    const files = log.status().files;
    await answer();
    expect(await reading).toEqual(entries(1, 3, 4, 1));
    await log.collect(living(() => false));
    expect(log.status().files).toBe(files - 1);
    await log.close();
  });

  it('never gives an entry that was replaced meanwhile, nor remembers it', async () => {
    const { log, state, held, answer } = await open();
    await append(log, write(1, { entries: entries(1, 1, 60, 1) }));
    state.isSlow = true;
    const replaced = rejection(read(log, 1, 20, 22));
    const untouched = read(log, 1, 3, 4);
    await turns();
    expect(held.length).toBeGreaterThan(0);
    await append(log, write(1, { truncateFrom: 21, entries: entries(1, 21, 40, 2) }));
    await answer();
    expect((await replaced).code).toBe('missing');
    expect(await untouched).toEqual(entries(1, 3, 4, 1));
    expect(await read(log, 1, 20, 22)).toEqual([...entries(1, 20, 20, 1), ...entries(1, 21, 22, 2)]);
    await log.close();
  });
});
