// The contract of the log, on the disk in memory and on a real one alike.

import { afterAll, describe, expect, it } from 'vitest';
import { piecesOf } from '../../cluster/machine/snapshot-pieces.ts';
import type { Disk } from '../../cluster/ports.ts';
import {
  append,
  cleanUp,
  configuration,
  diskKinds,
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
  write,
} from './log-support.ts';

afterAll(cleanUp);

const hardState = { term: 2, vote: 1, commit: 3 };

/** Sends a snapshot from one log to another, in pieces. */
async function transfer(
  from: Awaited<ReturnType<typeof reopen>>['log'],
  to: Awaited<ReturnType<typeof reopen>>['log'],
  live: number[],
  liveAbove: number,
  pieceBytes = 1000,
): Promise<Buffer> {
  const reader = await from.openSnapshotStream(1, live, liveAbove);
  const bytes = await drain(reader, 100_000);
  reader.close();
  const staging = await to.createSnapshotStaging(1, reader.meta);
  for (let offset = 0; offset < bytes.length; offset += pieceBytes) {
    const piece = bytes.subarray(offset, offset + pieceBytes);
    await new Promise<void>((resolve, reject) => {
      staging.write(offset, piece, (error) => (error === null ? resolve() : reject(error)));
    });
  }
  return installed(staging);
}

describe.each(diskKinds)('log on disk: $name', ({ create }) => {
  async function open(changes: Parameters<typeof reopen>[1] = {}) {
    const disk: Disk = create();
    const { log } = await reopen(disk, changes);
    log.createGroup(1, 11, origin);
    return { disk, log };
  }

  it('gives back after a restart what was appended', async () => {
    const { disk, log } = await open();
    log.createGroup(2, 22, origin);
    const change = { ...configuration, learners: [4] };
    const mixed = [
      { kind: 'noop', index: 1, term: 1, bytes: 0 } as const,
      entry(1, 2, 1),
      { kind: 'configuration', index: 3, term: 2, bytes: 9, configuration: change } as const,
      entry(1, 4, 2, 0),
    ];
    await append(
      log,
      write(1, { entries: mixed, hardState }),
      write(2, { hardState: { term: 9, vote: 3, commit: 0 } }),
    );
    await log.close();
    const { log: again, groups } = await reopen(disk);
    const [first, second] = groups;
    expect(first).toMatchObject({
      group: 1,
      replica: 11,
      hardState,
      snapshot: origin,
      compacted: { index: 0, term: 0 },
    });
    expect(first!.entries.map(({ index, term }) => [index, term])).toEqual([
      [1, 1],
      [2, 1],
      [3, 2],
      [4, 2],
    ]);
    expect(first!.entries[1]!.bytes).toBe(100);
    expect(first!.entries[2]!.configuration).toEqual(change);
    expect(second).toMatchObject({ group: 2, replica: 22, hardState: { term: 9, vote: 3, commit: 0 }, entries: [] });
    const found = await read(again, 1, 1, 4);
    expect(found.map((item) => ({ ...item, bytes: 0 }))).toEqual(mixed.map((item) => ({ ...item, bytes: 0 })));
    expect(again.cached(1, 2)).toBeUndefined();
    expect(again.has(1, 4)).toBe(true);
    expect(again.has(1, 5)).toBe(false);
    await again.close();
  });

  it('keeps a group of its own, and starts it anew for a later replica only', async () => {
    const { disk, log } = await open();
    await append(log, write(1, { entries: entries(1, 1, 5, 1), hardState }));
    log.createGroup(1, 11, origin);
    expect(log.has(1, 5)).toBe(true);
    expect(() => log.createGroup(1, 10, origin)).toThrowError(/belongs to replica 11/);
    log.createGroup(1, 12, origin);
    expect(log.has(1, 5)).toBe(false);
    await append(log, write(1, { entries: entries(1, 1, 2, 7) }));
    await log.close();
    const { log: again, groups } = await reopen(disk);
    expect(groups).toMatchObject([{ replica: 12, hardState: { term: 0, vote: 0, commit: 0 } }]);
    expect(groups[0]!.entries.map((item) => item.term)).toEqual([7, 7]);
    await again.close();
  });

  it('replaces entries after a truncation, in memory and for good', async () => {
    const { disk, log } = await open();
    await append(log, write(1, { entries: entries(1, 1, 10, 1) }));
    const both = append(log, write(1, { truncateFrom: 4, entries: entries(1, 4, 5, 2) }));
    expect(log.cached(1, 4)!.term).toBe(2);
    expect(log.cached(1, 3)!.term).toBe(1);
    expect(log.cached(1, 6)).toBeUndefined();
    await both;
    await append(log, write(1, { truncateFrom: 5 }));
    await log.close();
    const { log: again, groups } = await reopen(disk);
    expect(groups[0]!.entries.map((item) => item.term)).toEqual([1, 1, 1, 2]);
    expect((await read(again, 1, 1, 4)).map((item) => item.term)).toEqual([1, 1, 1, 2]);
    await again.close();
  });

  it('runs through many files and finds everything again', async () => {
    const { disk, log } = await open({ fileBytesMax: 8 * 1024, cacheBytesMax: 4 * 1024 });
    log.createGroup(2, 22, origin);
    for (let index = 1; index <= 300; index++)
      await append(
        log,
        write(1, { entries: [entry(1, index, 1 + (index >> 6), 200)] }),
        write(2, { entries: [entry(2, index, 1, 10)], hardState: { term: 1, vote: 0, commit: index } }),
      );
    expect(log.status().files).toBeGreaterThan(10);
    expect(log.status().cachedBytes).toBeLessThanOrEqual(4 * 1024);
    expect(log.cached(1, 1)).toBeUndefined();
    expect(await read(log, 1, 1, 300)).toEqual(
      entries(1, 1, 300, 1, 200).map((_, i) => entry(1, i + 1, 1 + ((i + 1) >> 6), 200)),
    );
    await log.close();
    const { log: again, groups } = await reopen(disk, { fileBytesMax: 8 * 1024 });
    expect(groups[0]!.entries.length).toBe(300);
    expect(groups[1]!.hardState.commit).toBe(300);
    expect(await read(again, 2, 100, 300)).toEqual(entries(2, 100, 300, 1, 10));
    await again.close();
  });

  it('stops reading after so many bytes, at least one entry', async () => {
    const { log } = await open();
    await append(log, write(1, { entries: entries(1, 1, 10, 1) }));
    expect((await read(log, 1, 2, 10, 1)).length).toBe(1);
    expect((await read(log, 1, 2, 10, 350)).length).toBe(3);
    expect((await rejection(read(log, 1, 8, 11))).code).toBe('missing');
    await log.close();
  });

  it('saves snapshots, keeps a budget of entries behind them, deletes what nobody needs', async () => {
    const limits = { fileBytesMax: 4 * 1024, cacheBytesMax: 0, keptBytesMax: 2000 };
    const { disk, log } = await open(limits);
    await append(log, write(1, { entries: entries(1, 1, 200, 1), hardState: { term: 1, vote: 0, commit: 200 } }));
    expect(await loadState(log, 1)).toBeNull();
    const meta = { index: 150, term: 1, configuration };
    await log.saveSnapshot(1, meta, piecesOf([Buffer.from('state '), Buffer.from('at 150')]));
    const compacted = log.compactionPoint(1);
    expect(compacted.index).toBeGreaterThan(130);
    expect(compacted.index).toBeLessThan(145);
    const files = log.status().files;
    await log.collect(living((_, first, last) => first <= 70 && last >= 70));
    expect(log.status().files).toBeLessThan(files - 3);
    expect(log.has(1, 70)).toBe(true);
    expect(log.has(1, 1)).toBe(false);
    expect(await read(log, 1, 70, 70)).toEqual([entry(1, 70, 1)]);
    expect((await rejection(read(log, 1, 1, 3))).code).toBe('missing');
    await log.close();
    const { log: again, groups } = await reopen(disk, limits);
    expect(groups[0]!).toMatchObject({ snapshot: meta, compacted, hardState: { term: 1, vote: 0, commit: 200 } });
    expect(groups[0]!.entries[0]!.index).toBe(compacted.index + 1);
    expect(groups[0]!.entries.length).toBe(200 - compacted.index);
    expect(await read(again, 1, 70, 70)).toEqual([entry(1, 70, 1)]);
    expect(await loadState(again, 1)).toEqual({ meta, state: Buffer.from('state at 150') });
    await again.saveSnapshot(1, { index: 160, term: 1, configuration }, piecesOf([]));
    expect((await loadState(again, 1))!.state.length).toBe(0);
    await again.saveSnapshot(1, meta, piecesOf([Buffer.from('older')]));
    expect((await loadState(again, 1))!.meta.index).toBe(160);
    await again.close();
    expect((await disk.list('snapshots')).length).toBe(1);
  });

  it('does not bring back what was truncated when the file with the truncation is gone', async () => {
    const limits = { fileBytesMax: 6 * 1024 };
    const { disk, log } = await open(limits);
    log.createGroup(2, 22, origin);
    // The first file: 1-20 of term 3, and an entry of another group that holds it. The second: 11-15 of term 4 instead.
    await append(log, write(1, { entries: entries(1, 1, 20, 3) }), write(2, { entries: [entry(2, 1, 1, 2150)] }));
    await append(
      log,
      write(1, { truncateFrom: 11, entries: entries(1, 11, 15, 4), hardState: { term: 4, vote: 1, commit: 15 } }),
    );
    await append(log, write(2, { entries: [entry(2, 2, 1, 4500), entry(2, 3, 1, 1000)] }));
    await log.saveSnapshot(1, { index: 15, term: 4, configuration }, piecesOf([Buffer.from('s')]));
    log.compactionPoint(1);
    await log.saveSnapshot(2, { index: 2, term: 1, configuration }, piecesOf([Buffer.from('s')]));
    log.compactionPoint(2);
    const names = await disk.list('log');
    await log.collect(living((group, first, last) => group === 2 && first <= 1 && last >= 1));
    const left = await disk.list('log');
    expect(left).toContain(names[0]);
    expect(left).not.toContain(names[1]);
    await log.close();
    const { log: again, groups } = await reopen(disk, limits);
    const group = groups.find((found) => found.group === 1)!;
    expect(group).toMatchObject({
      hardState: { term: 4, vote: 1, commit: 15 },
      compacted: { index: 15, term: 4 },
      entries: [],
    });
    expect(again.has(1, 16)).toBe(false);
    await append(again, write(1, { entries: [entry(1, 16, 5)] }));
    await again.close();
    const third = await reopen(disk, limits);
    expect(third.groups.find((found) => found.group === 1)!.entries.map((item) => item.term)).toEqual([5]);
    await third.log.close();
  });

  it('holds a bound on the disk while a hundred files are published and consumed', async () => {
    const fileBytesMax = 16 * 1024;
    const limits = { fileBytesMax, cacheBytesMax: 8 * 1024, keptBytesMax: 8 * 1024, pressureBytes: 4 * fileBytesMax };
    const { log } = await open(limits);
    for (let group = 2; group <= 4; group++) log.createGroup(group, 1, origin);
    const ends = [0, 0, 0, 0, 0];
    const settle = async (group: number) => {
      await log.saveSnapshot(group, { index: ends[group]!, term: 1, configuration }, piecesOf([Buffer.from('state')]));
    };
    const pressed: number[] = [];
    log.onPressure = (group) => pressed.push(group);
    let most = 0;
    for (let round = 0; round < 100; round++) {
      // Group 4 writes once in a while, groups 1 to 3 all the time; the host takes a snapshot when asked, and now and then.
      const writes = (round % 10 === 0 ? [1, 2, 3, 4] : [1, 2, 3]).map((group) => {
        const first = ends[group]! + 1;
        ends[group]! += 16;
        return write(group, { entries: entries(group, first, first + 15, 1, 1000) });
      });
      await append(log, ...writes);
      if (round % 3 === 2) for (const group of [1, 2, 3]) await settle(group);
      for (const group of pressed.splice(0)) await settle(group);
      if (round % 3 !== 2) continue;
      for (const group of [1, 2, 3, 4]) log.compactionPoint(group);
      await log.collect(living(() => false));
      most = Math.max(most, log.status().bytes);
    }
    expect(ends.reduce((sum, end) => sum + end * 1000, 0)).toBeGreaterThan(100 * fileBytesMax);
    expect(most).toBeLessThan(16 * fileBytesMax);
    await log.close();
  });

  it('installs a snapshot with its live entries on an empty node', async () => {
    const limits = { fileBytesMax: 4 * 1024 };
    const source = await open(limits);
    await append(source.log, write(1, { entries: entries(1, 1, 100, 2) }));
    const meta = { index: 90, term: 2, configuration };
    const state = Buffer.alloc(600_000, 'abc');
    await source.log.saveSnapshot(1, meta, piecesOf([state.subarray(0, 1000), state.subarray(1000)]));
    const live = [1, 2, 40, 88, 90, 95];
    const one = await source.log.openSnapshotStream(1, live, 1);
    const two = await source.log.openSnapshotStream(1, live, 1);
    expect((await drain(one, 997)).equals(await drain(two, 1 << 20))).toBe(true);
    one.close();
    two.close();
    const target = await open(limits);
    expect((await transfer(source.log, target.log, live, 0)).equals(state)).toBe(true);
    const check = async (log: typeof target.log) => {
      expect([1, 2, 40, 88, 90].map((index) => log.has(1, index))).toEqual([true, true, true, true, true]);
      expect([3, 89, 91, 95].map((index) => log.has(1, index))).toEqual([false, false, false, false]);
      expect(await read(log, 1, 1, 2)).toEqual(entries(1, 1, 2, 2));
      expect(await read(log, 1, 90, 90)).toEqual([entry(1, 90, 2)]);
      const loaded = await loadState(log, 1);
      expect(loaded!.meta).toEqual(meta);
      expect(loaded!.state.equals(state)).toBe(true);
    };
    await check(target.log);
    await append(target.log, write(1, { entries: [entry(1, 91, 3)] }));
    await target.log.close();
    const again = await reopen(target.disk, limits);
    const { log } = again;
    expect([1, 2, 40, 88, 90, 91].map((index) => log.has(1, index))).toEqual([true, true, true, true, true, true]);
    expect((await loadState(log, 1))!.state.equals(state)).toBe(true);
    expect(again.groups[0]!).toMatchObject({ snapshot: meta, compacted: { index: 90, term: 2 } });
    expect(again.groups[0]!.entries.map((item) => item.index)).toEqual([91]);
    expect(again.log.has(1, 88)).toBe(true);
    expect(await read(again.log, 1, 88, 88)).toEqual([entry(1, 88, 2)]);
    // Kept entries go like others when they are no longer live.
    await again.log.collect(living(() => false));
    expect(again.log.has(1, 88)).toBe(false);
    expect((await target.disk.list('log')).some((name) => name.endsWith('.kept'))).toBe(false);
    await again.log.close();
    const third = await reopen(target.disk, limits);
    expect(third.log.has(1, 88)).toBe(false);
    await third.log.close();
    await source.log.close();
  });

  it('replaces a log that does not fit the installed snapshot, and keeps one that does', async () => {
    const source = await open();
    await append(source.log, write(1, { entries: entries(1, 1, 50, 2) }));
    await append(source.log, write(1, { entries: entries(1, 51, 60, 4) }));
    const meta = { index: 55, term: 4, configuration };
    await source.log.saveSnapshot(1, meta, piecesOf([Buffer.from('state')]));
    const fits = await open();
    await append(fits.log, write(1, { entries: entries(1, 1, 50, 2) }));
    await append(fits.log, write(1, { entries: entries(1, 51, 58, 4) }));
    await transfer(source.log, fits.log, [20], 0);
    const differs = await open();
    await append(differs.log, write(1, { entries: entries(1, 1, 30, 2) }));
    await append(differs.log, write(1, { entries: entries(1, 31, 70, 3) }));
    await transfer(source.log, differs.log, [20, 40], 30);
    for (const [{ disk, log }, first] of [
      [fits, 59],
      [differs, 56],
    ] as const) {
      expect(log.has(1, 58)).toBe(log === fits.log);
      await append(log, write(1, { entries: entries(1, first, 65, 5) }));
      await log.close();
      const again = await reopen(disk);
      expect(again.groups[0]!.snapshot).toEqual(meta);
      expect(again.groups[0]!.entries.map((item) => item.index)).toEqual(Array.from({ length: 10 }, (_, i) => 56 + i));
      expect((await read(again.log, 1, 20, 20))[0]!.term).toBe(2);
      expect(again.log.has(1, 31)).toBe(log === fits.log);
      if (log === differs.log) expect((await read(again.log, 1, 40, 40))[0]!.term).toBe(2);
      await again.log.close();
    }
    await source.log.close();
  });

  it('refuses to install what is damaged, cut, out of order or old', async () => {
    const source = await open();
    await append(source.log, write(1, { entries: entries(1, 1, 20, 2) }));
    const meta = { index: 10, term: 2, configuration };
    await source.log.saveSnapshot(1, meta, piecesOf([Buffer.alloc(5000, 1)]));
    const reader = await source.log.openSnapshotStream(1, [3], 0);
    const bytes = await drain(reader, 1 << 20);
    reader.close();
    const target = await open();
    const attempt = async (stream: Buffer) => {
      const staging = await target.log.createSnapshotStaging(1, meta);
      await new Promise<void>((resolve) => staging.write(0, stream, () => resolve()));
      return rejection(installed(staging));
    };
    for (const at of [5, 30, 70, 150, 300, 2000, bytes.length - 3]) {
      const damaged = Buffer.from(bytes);
      damaged[at]! ^= 1;
      expect(['corrupt', 'invalid', 'version']).toContain((await attempt(damaged)).code);
    }
    expect((await attempt(bytes.subarray(0, bytes.length - 10))).code).toBe('invalid');
    const staging = await target.log.createSnapshotStaging(1, meta);
    const outOfOrder = await new Promise<Error | null>((resolve) => staging.write(5, bytes, resolve));
    expect(outOfOrder).toMatchObject({ code: 'invalid' });
    await staging.abort();
    expect(await target.disk.list('snapshots')).toEqual([]);
    expect((await target.disk.list('log')).every((name) => name.endsWith('.log'))).toBe(true);
    await transfer(source.log, target.log, [3], 0);
    expect((await attempt(bytes)).code).toBe('stale');
    await target.log.close();
    await source.log.close();
  });

  it('refuses the folder of another node or cluster', async () => {
    const { disk, log } = await open();
    await log.close();
    expect((await rejection(reopen(disk, { nodeUuid: 'node-2' }))).code).toBe('foreign');
    expect((await rejection(reopen(disk, { clusterId: 'cluster-2' }))).code).toBe('foreign');
    await (await reopen(disk)).log.close();
  });

  it('says what is missing instead of starting without it', async () => {
    const { disk, log } = await open({ fileBytesMax: 2048 });
    await append(log, write(1, { entries: entries(1, 1, 50, 1) }));
    await log.saveSnapshot(1, { index: 20, term: 1, configuration }, piecesOf([Buffer.from('x')]));
    await log.close();
    const names = await disk.list('log');
    const copies = ['manifest', 'manifest.copy'];
    for (const path of copies) await disk.rename(path, `hidden-${path}`);
    expect(await rejection(reopen(disk, { fileBytesMax: 2048 }))).toMatchObject({ code: 'corrupt', file: 'manifest' });
    expect(await disk.list('log')).toEqual(names);
    for (const path of copies) await disk.rename(`hidden-${path}`, path);
    const again = await reopen(disk, { fileBytesMax: 2048 });
    expect(again.groups[0]!.entries.length).toBe(50 - again.groups[0]!.compacted.index);
    await again.log.close();
    for (const path of [`log/${names[1]}`, 'snapshots/1-20-1']) {
      await disk.remove(path);
      const damaged = await reopen(disk, { fileBytesMax: 2048 });
      expect(damaged.groups[0]!.damage.join()).toContain(path);
      await damaged.log.close();
    }
  });
});
