// Groups that are built anew from their peers: nothing of before comes back, and what has to be repaired is not forgotten.

import { describe, expect, it } from 'vitest';
import type { Log } from '../../cluster/log/types.ts';
import { piecesOf } from '../../cluster/machine/snapshot-pieces.ts';
import { createMemoryDisk } from '../support/memory-disk.ts';
import { createMemoryRandom } from '../support/memory-random.ts';
import {
  append,
  beginInMemory,
  configuration,
  drain,
  entries,
  entry,
  installed,
  living,
  loadState,
  origin,
  read,
  rejection,
  reopen,
  turns,
  write,
} from './log-support.ts';

const hardState = { term: 4, vote: 2, commit: 60 };
const state = (log: Log, index: number, term: number, text: string) =>
  log.saveSnapshot(1, { index, term, configuration }, piecesOf([Buffer.from(text)]));

const open = (changes: Parameters<typeof beginInMemory>[0] = {}) =>
  beginInMemory(changes, { entries: entries(1, 1, 100, 3), hardState });

/** A stream with the snapshot at 55 of another node's log, with entries 20, 35 and 50. */
async function stream() {
  const source = await open();
  await state(source.log, 55, 3, 'state');
  const reader = await source.log.openSnapshotStream(1, [20, 35, 50], 0);
  return { meta: reader.meta, bytes: await drain(reader, 1 << 20) };
}

async function staged(log: Log, { meta, bytes }: Awaited<ReturnType<typeof stream>>) {
  const staging = await log.createSnapshotStaging(1, meta);
  await new Promise<void>((resolve) => staging.write(0, bytes, () => resolve()));
  return staging;
}

describe('a group that is reset', () => {
  it('is empty but for its term and vote, at once and for good', async () => {
    const limits = { fileBytesMax: 2048 };
    const { disk, log } = await open(limits);
    await state(log, 60, 3, 'state');
    log.compactionPoint(1);
    await log.collect(living((_, first, last) => first <= 7 && last >= 7));
    const done = log.resetGroup(1, 100, origin.configuration);
    for (const index of [7, 61, 100]) expect([log.has(1, index), log.cached(1, index)]).toEqual([false, undefined]);
    expect((await rejection(read(log, 1, 7, 7))).code).toBe('missing');
    await done;
    expect(await loadState(log, 1)).toBeNull();
    expect(disk.paths().some(({ path }) => path.startsWith('snapshots/'))).toBe(false);
    await append(log, write(1, { entries: entries(1, 1, 5, 4), hardState: { ...hardState, commit: 3 } }));
    await log.collect(living(() => false));
    await log.close();
    const again = await reopen(disk, limits);
    expect(again.groups[0]!).toMatchObject({
      replica: 11,
      hardState: { term: 4, vote: 2, commit: 3 },
      snapshot: origin,
      compacted: { index: 0, term: 0 },
      repairTo: 100,
    });
    expect(again.groups[0]!.entries.map(({ term }) => term)).toEqual([4, 4, 4, 4, 4]);
    expect(again.log.has(1, 7)).toBe(false);
    await again.log.close();
  });

  it('remembers the highest index until it is repaired', async () => {
    const { disk, log } = await open();
    await log.resetGroup(1, 90, origin.configuration);
    await log.resetGroup(1, 50, origin.configuration);
    await log.close();
    const second = await reopen(disk);
    expect(second.groups[0]!.repairTo).toBe(90);
    await second.log.resetGroup(1, 70, origin.configuration);
    disk.crash(createMemoryRandom(1));
    const third = await reopen(disk);
    expect(third.groups[0]!.repairTo).toBe(90);
    await third.log.repaired(1);
    disk.crash(createMemoryRandom(2));
    const fourth = await reopen(disk);
    expect(fourth.groups[0]!.repairTo).toBe(0);
    await fourth.log.resetGroup(1, 10, origin.configuration);
    await fourth.log.close();
    expect((await reopen(disk)).groups[0]!.repairTo).toBe(10);
  });

  it('stays so when the file that says so is gone and older ones are not', async () => {
    const limits = { fileBytesMax: 6 * 1024 };
    const disk = createMemoryDisk();
    const { log } = await reopen(disk, limits);
    log.createGroup(1, 11, origin);
    log.createGroup(2, 22, origin);
    // The first file holds the old entries, and one of another group that keeps it. The second says that group 1 was reset.
    await append(
      log,
      write(1, { entries: entries(1, 1, 20, 3), hardState }),
      write(2, { entries: [entry(2, 1, 1, 2000)] }),
    );
    await append(log, write(2, { entries: [entry(2, 2, 1, 5000)] }));
    await log.resetGroup(1, 20, origin.configuration);
    await append(log, write(2, { entries: [entry(2, 3, 1, 5000), entry(2, 4, 1, 1000)] }));
    await log.saveSnapshot(2, { index: 3, term: 1, configuration }, piecesOf([Buffer.from('s')]));
    log.compactionPoint(2);
    const names = await disk.list('log');
    await log.collect(living((group, first, last) => group === 2 && first <= 1 && last >= 1));
    const left = await disk.list('log');
    expect(left).toContain(names[0]);
    expect(left).not.toContain(names[1]);
    disk.crash(createMemoryRandom(3));
    const again = await reopen(disk, limits);
    const group = again.groups.find((found) => found.group === 1)!;
    expect(group).toMatchObject({ hardState: { term: 4, vote: 2, commit: 0 }, repairTo: 20, entries: [] });
    await append(again.log, write(1, { entries: entries(1, 1, 2, 5) }));
    await again.log.close();
    const third = await reopen(disk, limits);
    expect(third.groups.find((found) => found.group === 1)!.entries.map(({ term }) => term)).toEqual([5, 5]);
  });

  it('has no entries of an earlier snapshot, also after it was given the same one again', async () => {
    const from = await stream();
    const { disk, log } = await open();
    await log.resetGroup(1, 100, origin.configuration);
    await installed(await staged(log, from));
    expect([20, 35, 50].map((index) => log.has(1, index))).toEqual([true, true, true]);
    await log.resetGroup(1, 100, origin.configuration);
    expect([20, 35, 50].map((index) => log.has(1, index))).toEqual([false, false, false]);
    disk.kill();
    const second = await reopen(disk);
    expect([20, 35, 50].map((index) => second.log.has(1, index))).toEqual([false, false, false]);
    expect(second.groups[0]!.snapshot.index).toBe(0);
    await installed(await staged(second.log, from));
    await turns();
    const kept = () => disk.paths().filter(({ path }) => path.endsWith('.kept')).length;
    expect(kept()).toBe(2);
    await append(second.log, write(1, { entries: entries(1, 56, 200, 5, 1000) }));
    await second.log.collect(living(() => true));
    expect(kept()).toBe(1);
    expect(await read(second.log, 1, 35, 35)).toEqual([entry(1, 35, 3)]);
    await second.log.close();
    const third = await reopen(disk);
    expect([20, 35, 50].map((index) => third.log.has(1, index))).toEqual([true, true, true]);
    expect(third.groups[0]!).toMatchObject({ repairTo: 100, compacted: { index: 55, term: 3 } });
  });

  it('can save a snapshot under the name of one that is still being sent', async () => {
    const { disk, log } = await open();
    await state(log, 60, 3, 'old');
    const reader = await log.openSnapshotStream(1, [], 0);
    await log.resetGroup(1, 100, origin.configuration);
    await append(log, write(1, { entries: entries(1, 1, 80, 3) }));
    await state(log, 60, 3, 'new');
    expect((await drain(reader, 100)).includes('old')).toBe(true);
    reader.close();
    await turns();
    expect((await loadState(log, 1))!.state.toString()).toBe('new');
    await log.close();
    const again = await reopen(disk);
    expect((await loadState(again.log, 1))!.state.toString()).toBe('new');
  });

  it('does not get what was being saved or installed for it before', async () => {
    const from = await stream();
    const { disk, log } = await open();
    let closed = 0;
    const pieces = piecesOf(Array.from({ length: 50 }, () => Buffer.alloc(1000)));
    const source = { next: (bytesMax: number) => pieces.next(bytesMax), close: () => closed++ };
    const saving = log.saveSnapshot(1, { index: 60, term: 3, configuration }, source);
    for (let i = 0; i < 40; i++) await Promise.resolve();
    const next = { next: () => null, close: () => closed++ };
    const waiting = log.saveSnapshot(1, { index: 61, term: 3, configuration }, next);
    const staging = await staged(log, { ...from, meta: { ...from.meta } });
    await Promise.all([log.resetGroup(1, 100, origin.configuration), saving, waiting]);
    expect(closed).toBe(2);
    expect((await rejection(installed(staging))).code).toBe('stale');
    expect(await loadState(log, 1)).toBeNull();
    expect(disk.paths().filter(({ path }) => path.startsWith('snapshots/'))).toEqual([]);
    await log.close();
    expect((await reopen(disk)).groups[0]!.snapshot.index).toBe(0);
  });

  it('is empty whatever an installation had come to', async () => {
    const from = await stream();
    const outcomes = new Set<string>();
    for (let wait = 0; wait < 200; wait += 5) {
      const { disk, log } = await open();
      await log.resetGroup(1, 100, origin.configuration);
      const staging = await staged(log, from);
      const installing = installed(staging).then(
        () => 'installed',
        (error: { code: string }) => error.code,
      );
      for (let i = 0; i < wait; i++) await Promise.resolve();
      await log.resetGroup(1, 50, origin.configuration);
      outcomes.add(await installing);
      expect([20, 35, 50, 55].map((index) => log.has(1, index))).toEqual([false, false, false, false]);
      expect(await loadState(log, 1)).toBeNull();
      await turns();
      expect(disk.paths().filter(({ path }) => path.startsWith('snapshots/'))).toEqual([]);
      await append(log, write(1, { entries: entries(1, 1, 2, 4) }));
      await log.close();
      const again = await reopen(disk);
      expect(again.groups[0]!).toMatchObject({ snapshot: origin, repairTo: 100 });
      expect(again.groups[0]!.entries.map(({ term }) => term)).toEqual([4, 4]);
      expect(again.log.has(1, 20)).toBe(false);
      await again.log.close();
    }
    expect([...outcomes].sort()).toEqual(['installed', 'stale']);
  });

  it('is as before or as after when the disk dies on the way', async () => {
    const from = await stream();
    let before = 0;
    let after = 0;
    for (let cut = 0; cut < 60; cut++) {
      const { disk, log } = await open({ fileBytesMax: 3000 });
      await state(log, 60, 3, 'state');
      const random = createMemoryRandom(cut);
      let left = cut % 5;
      disk.fault = () => {
        if (left-- === 0) queueMicrotask(() => disk.crash(random));
        return null;
      };
      let done = false;
      void log.resetGroup(1, 77, origin.configuration).then(() => {
        done = true;
      });
      await turns(4);
      disk.fault = null;
      disk.crash(random);
      const second = await reopen(disk, { fileBytesMax: 3000 });
      const [group] = second.groups;
      expect(group!.hardState).toMatchObject({ term: 4, vote: 2 });
      if (group!.repairTo === 0) {
        before++;
        expect(done).toBe(false);
        expect(group!.snapshot.index).toBe(60);
        expect(group!.hardState.commit).toBe(60);
        expect(await read(second.log, 1, 61, 100)).toEqual(entries(1, 61, 100, 3));
      } else {
        after++;
        expect(group!).toMatchObject({ snapshot: origin, repairTo: 77, entries: [], hardState: { commit: 0 } });
        expect(second.log.has(1, 61)).toBe(false);
        await installed(await staged(second.log, from));
      }
      await second.log.close();
      await (await reopen(disk, { fileBytesMax: 3000 })).log.close();
    }
    expect(before).toBeGreaterThan(3);
    expect(after).toBeGreaterThan(20);
  });
});
