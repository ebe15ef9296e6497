// Damaged disks, kind by kind and file by file: what is told of which group, what is moved aside, and that nothing is removed before a group
// was emptied. On the disk in memory.

import { describe, expect, it } from 'vitest';
import { type Log, type LogOptions, type RecoveredGroup, unknownIndex } from '../../cluster/log/types.ts';
import { piecesOf } from '../../cluster/machine/snapshot-pieces.ts';
import { createMemoryDisk, diskError, type MemoryDisk } from '../support/memory-disk.ts';
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

const small: Partial<LogOptions> = { fileBytesMax: 4096, cacheBytesMax: 0 };

/** Groups 1 and 2 share the first files; group 3 came later and is in the last ones only. A snapshot of group 2. */
async function folder(): Promise<MemoryDisk> {
  const disk = createMemoryDisk();
  const { log } = await reopen(disk.mount(), small);
  for (const group of [1, 2]) log.createGroup(group, 10 + group, origin);
  for (let i = 1; i <= 60; i += 5)
    await append(log, write(1, { entries: entries(1, i, i + 4, 1) }), write(2, { entries: entries(2, i, i + 4, 1) }));
  await append(log, write(1, { hardState: { term: 3, vote: 2, commit: 50 } }));
  log.createGroup(3, 13, origin);
  await log.saveSnapshot(2, { index: 30, term: 1, configuration }, piecesOf([Buffer.alloc(3000, 7)]));
  for (let i = 1; i <= 60; i += 5) await append(log, write(3, { entries: entries(3, i, i + 4, 1) }));
  await log.saveSnapshot(2, { index: 40, term: 1, configuration }, piecesOf([Buffer.alloc(3000, 8)]));
  await turns();
  disk.kill();
  return disk;
}

const logFiles = (disk: MemoryDisk) =>
  disk
    .paths()
    .filter(({ path, bytes }) => /^log\/\d+\.log$/.test(path) && bytes > 200)
    .map(({ path }) => path)
    .sort();
const aside = (disk: MemoryDisk) => disk.paths().filter(({ path }) => /\.damaged-\d+$/.test(path));
const damagedOf = (groups: readonly RecoveredGroup[]) =>
  groups.filter(({ damage }) => damage.length > 0).map(({ group }) => group);

async function cut(disk: MemoryDisk, path: string, bytes: number): Promise<void> {
  const file = await disk.open(path, 'write');
  await file.truncate(bytes);
}

/** Puts these bytes in the place of a file. */
async function put(disk: MemoryDisk, path: string, bytes: Buffer): Promise<void> {
  await disk.remove(path).catch(() => {});
  const file = await disk.open(path, 'create');
  await new Promise((resolve) => file.write([bytes], 0, resolve));
  await new Promise((resolve) => file.sync(resolve));
  await file.close();
  await disk.syncFolder(path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '');
}

interface Case {
  readonly name: string;
  readonly damage: (disk: MemoryDisk, files: readonly string[]) => Promise<void> | void;
  /** Groups that cannot vouch for what they had. */
  readonly groups: readonly number[];
  readonly aside: number;
}

const cases: readonly Case[] = [
  { name: 'nothing', damage: () => {}, groups: [], aside: 0 },
  { name: 'a sealed file is gone', damage: (disk, files) => disk.remove(files[0]!), groups: [1, 2], aside: 0 },
  {
    name: 'a sealed file is cut',
    damage: (disk, files) => cut(disk, files[0]!, 900),
    groups: [1, 2],
    aside: 1,
  },
  {
    name: 'a sealed file is cut at the end of its records',
    damage: async (disk, files) => {
      const bytes = disk.contents(files[0]!);
      await cut(disk, files[0]!, bytes.readUInt32LE(bytes.length - 24));
    },
    groups: [],
    aside: 0,
  },
  {
    name: 'a sealed file is empty',
    damage: (disk, files) => cut(disk, files[1]!, 0),
    groups: [1, 2],
    aside: 1,
  },
  {
    name: 'the header of a sealed file is rotten',
    damage: (disk, files) => disk.corrupt(files[0]!, 20),
    groups: [1, 2],
    aside: 1,
  },
  {
    name: 'the footer of a sealed file is rotten',
    damage: (disk, files) => disk.corrupt(files[0]!, disk.contents(files[0]!).length - 40),
    groups: [],
    aside: 0,
  },
  {
    name: 'footer and a payload of a sealed file are rotten',
    damage: (disk, files) => {
      disk.corrupt(files[0]!, disk.contents(files[0]!).length - 40);
      disk.corrupt(files[0]!, 1500);
    },
    groups: [2],
    aside: 0,
  },
  {
    name: 'footer and a record header of a sealed file are rotten',
    damage: (disk, files) => {
      disk.corrupt(files[0]!, disk.contents(files[0]!).length - 40);
      disk.corrupt(files[0]!, disk.contents(files[0]!).readUInt16LE(6) + 10);
    },
    groups: [1, 2],
    aside: 1,
  },
  {
    name: 'a sealed file cannot be read',
    damage: (disk, files) => {
      disk.fault = (operation, path) => (operation === 'read' && path === files[0] ? diskError('EIO', path) : null);
    },
    groups: [1, 2],
    aside: 1,
  },
  {
    name: 'another file in the place of a sealed one',
    damage: (disk, files) => put(disk, files[1]!, disk.contents(files[0]!)),
    groups: [1, 2],
    aside: 1,
  },
  {
    name: 'a record header in the tail is rotten, below what was durable',
    damage: (disk, files) => disk.corrupt(files.at(-1)!, disk.contents(files.at(-1)!).readUInt16LE(6) + 10),
    groups: [1, 2, 3],
    aside: 1,
  },
  {
    name: 'a payload in the tail is rotten, below what was durable',
    damage: (disk, files) => disk.corrupt(files.at(-1)!, disk.contents(files.at(-1)!).readUInt16LE(6) + 100),
    groups: [3],
    aside: 0,
  },
  { name: 'the tail is gone', damage: (disk, files) => disk.remove(files.at(-1)!), groups: [1, 2, 3], aside: 0 },
  { name: 'the tail is cut', damage: (disk, files) => cut(disk, files.at(-1)!, 400), groups: [1, 2, 3], aside: 1 },
  { name: 'a snapshot is gone', damage: (disk) => disk.remove('snapshots/2-40-1'), groups: [2], aside: 0 },
  {
    name: 'the header of a snapshot is rotten',
    damage: (disk) => disk.corrupt('snapshots/2-40-1', 20),
    groups: [2],
    aside: 1,
  },
  { name: 'a snapshot is cut', damage: (disk) => cut(disk, 'snapshots/2-40-1', 2000), groups: [2], aside: 1 },
  { name: 'a copy of the manifest is rotten', damage: (disk) => disk.corrupt('manifest', 200), groups: [], aside: 1 },
  { name: 'the other copy is cut', damage: (disk) => cut(disk, 'manifest.copy', 90), groups: [], aside: 1 },
  { name: 'a copy of the manifest is gone', damage: (disk) => disk.remove('manifest'), groups: [], aside: 0 },
  {
    name: 'a file that is none of ours',
    damage: async (disk) => {
      await put(disk, 'log/notes.txt', Buffer.from('hello'));
      await put(disk, 'snapshots/core', Buffer.from('hello'));
    },
    groups: [],
    aside: 2,
  },
];

describe('a folder of which', () => {
  for (const { name, damage, groups: concerned, aside: asideCount } of cases)
    it(`${name}: ${concerned.length === 0 ? 'nobody misses anything' : `groups ${concerned.join(', ')} are told`}`, async () => {
      const disk = await folder();
      const files = logFiles(disk);
      await damage(disk, files);
      const before = new Set(disk.paths().map(({ path }) => path));
      const { log, groups } = await reopen(disk.mount(), small);
      disk.fault = null;
      expect(damagedOf(groups)).toEqual(concerned);
      expect(aside(disk).length).toBe(asideCount);
      for (const group of groups) {
        if (concerned.includes(group.group)) expect(group).toMatchObject({ entries: [], repairTo: unknownIndex });
        else {
          const { index } = group.compacted;
          expect((await read(log, group.group, index + 1, 60)).length).toBe(60 - index);
        }
      }
      // Nothing that is not sound is removed, and nothing else while somebody is damaged.
      const now = new Set(disk.paths().map(({ path }) => path.replace(/\.damaged-\d+$/, '')));
      const isEmpty = (path: string) => files.every((file) => file !== path) && path.endsWith('.log');
      if (concerned.length > 0)
        for (const path of before)
          expect([path, now.has(path) || isEmpty(path) || path.endsWith('.tmp')]).toEqual([path, true]);
      // It is remembered, also when the files that showed it are out of the way.
      await log.collect(living(() => true));
      disk.kill();
      const again = await reopen(disk.mount(), small);
      expect(damagedOf(again.groups)).toEqual(concerned);
      await emptied(again.log, concerned);
      await again.log.close();
      const whole = await reopen(disk.mount(), small);
      expect(damagedOf(whole.groups)).toEqual([]);
      // Not what the log had of their beginnings, which may be what was lost.
      for (const { snapshot } of whole.groups) expect(snapshot.configuration).toEqual(origin.configuration);
      await whole.log.close();
      expect(aside(disk).length).toBe(asideCount);
    });
});

/** Empties these groups and gives each all of its entries again, in a later term. */
async function emptied(log: Log, groups: readonly number[]): Promise<void> {
  for (const group of groups) {
    await append(log, write(group, { hardState: { term: 5, vote: 0, commit: 0 } }));
    await log.resetGroup(group, unknownIndex, origin.configuration);
    await append(log, write(group, { entries: entries(group, 1, 60, 6) }));
    expect((await read(log, group, 1, 60)).length).toBe(60);
    await log.repaired(group);
  }
}

describe('the end of the log', () => {
  it('is missed when it was cut, or an older one is put back, as far as it was marked', async () => {
    for (const how of ['cut', 'gone', 'older'] as const) {
      const disk = createMemoryDisk();
      const { log } = await reopen(disk.mount(), { mayHold: { replica: 11, groups: [1] } });
      log.createGroup(1, 11, origin);
      await append(log, write(1, { entries: entries(1, 1, 5, 1) }));
      const [path] = logFiles(disk);
      const older = disk.contents(path!);
      await append(log, write(1, { entries: entries(1, 6, 10, 1) }));
      await log.collect(living(() => true));
      await turns();
      await append(log, write(1, { entries: entries(1, 11, 12, 1) }));
      disk.kill();
      if (how === 'gone') disk.put(path!, null);
      else disk.put(path!, how === 'cut' ? disk.contents(path!).subarray(0, older.length + 200) : older);
      const { groups } = await reopen(disk.mount(), { mayHold: { replica: 11, groups: [1] } });
      expect([how, damagedOf(groups)]).toEqual([how, [1]]);
    }
  });
});

describe('damage', () => {
  it('is not forgotten by a group that was emptied and has not got all again', async () => {
    const disk = await folder();
    disk.corrupt('snapshots/2-40-1', 20);
    const { log } = await reopen(disk.mount(), small);
    await append(log, write(2, { hardState: { term: 5, vote: 0, commit: 0 } }));
    await log.resetGroup(2, unknownIndex, origin.configuration);
    await append(log, write(2, { entries: entries(2, 1, 20, 6) }));
    disk.kill();
    const { groups } = await reopen(disk.mount(), small);
    expect(damagedOf(groups)).toEqual([2]);
    expect(groups[1]).toMatchObject({ hardState: { term: 5, vote: 0, commit: 0 }, entries: [] });
  });

  it('in both copies of the manifest, or a pair that was put back, is refused, and nothing is touched', async () => {
    const disk = await folder();
    const old = disk.contents('manifest');
    const { log } = await reopen(disk.mount(), small);
    await append(log, write(1, { entries: entries(1, 61, 64, 3) }));
    await log.close();
    await (await reopen(disk.mount(), small)).log.close();
    const newer = disk.contents('manifest');
    const { log: last } = await reopen(disk.mount(), small);
    await append(last, write(1, { entries: entries(1, 65, 69, 3) }));
    disk.kill();
    const now = { a: disk.contents('manifest'), b: disk.contents('manifest.copy') };
    for (const stale of [old, newer]) {
      await put(disk, 'manifest', stale);
      await put(disk, 'manifest.copy', stale);
      const before = disk.paths();
      expect(await rejection(reopen(disk.mount(), small))).toMatchObject({ code: 'corrupt' });
      expect(disk.paths()).toEqual(before);
    }
    // One that is current is enough.
    await put(disk, 'manifest.copy', now.b);
    const { groups } = await reopen(disk.mount(), small);
    expect(damagedOf(groups)).toEqual([]);
    expect(groups[0]!.entries.at(-1)!.index).toBe(69);
  });

  it('in an entry that is read makes its file one that is moved aside, not removed', async () => {
    const disk = createMemoryDisk();
    const { log } = await reopen(disk, small);
    log.createGroup(1, 11, origin);
    await append(log, write(1, { entries: entries(1, 1, 60, 1) }));
    await turns();
    const [path] = logFiles(disk);
    disk.corrupt(path!, 700);
    expect(await rejection(read(log, 1, 1, 60))).toMatchObject({ code: 'corrupt', file: path });
    await log.saveSnapshot(1, { index: 60, term: 1, configuration }, piecesOf([Buffer.from('x')]));
    log.compactionPoint(1);
    await append(log, write(1, { entries: entries(1, 61, 90, 1) }));
    await turns();
    await log.collect(living(() => false));
    expect(aside(disk).map(({ path: name }) => name.replace(/\.damaged-\d+$/, ''))).toEqual([path]);
  });
});

describe('a scrub', () => {
  async function scrubbed(rate: number) {
    const disk = createMemoryDisk();
    const { log } = await reopen(disk, { ...small, scrubBytesPerSecond: rate });
    for (const group of [1, 2]) log.createGroup(group, 10 + group, origin);
    const found: { group: number; code: string }[] = [];
    log.onDamage = (group, error) => found.push({ group, code: (error as NodeJS.ErrnoException).code! });
    for (let i = 1; i <= 60; i += 5)
      await append(log, write(1, { entries: entries(1, i, i + 4, 1) }), write(2, { entries: entries(2, i, i + 4, 1) }));
    await log.saveSnapshot(2, { index: 60, term: 1, configuration }, piecesOf([Buffer.alloc(3000, 7)]));
    await turns();
    return { disk, log, found };
  }

  it('reads at its rate, again and again, and changes nothing', async () => {
    const { disk, log, found } = await scrubbed(4000);
    const before = disk.counts.write;
    for (let i = 1; i <= 12; i++) {
      log.scrub();
      await turns(20);
      expect(log.status().scrubbedBytes).toBeLessThanOrEqual(i * 4000 + 3000);
    }
    expect(log.status().scrubPasses).toBeGreaterThan(1);
    expect([found.length, disk.counts.write]).toEqual([0, before]);
    await log.close();
  });

  it('finds rot in entries and snapshots, of those who still count on them', async () => {
    const { disk, log, found } = await scrubbed(1_000_000);
    const [path] = logFiles(disk);
    disk.corrupt(path!, disk.contents(path!).readUInt16LE(6) + 300);
    log.scrub();
    await turns(50);
    expect(found).toEqual([{ group: 1, code: 'corrupt' }]);
    disk.corrupt('snapshots/2-60-1', 1500);
    log.scrub();
    await turns(50);
    expect(found.map(({ group }) => group)).toEqual([1, 1, 2]);
    await log.resetGroup(1, unknownIndex, origin.configuration);
    await log.resetGroup(2, unknownIndex, origin.configuration);
    log.scrub();
    await turns(50);
    expect(found.length).toBe(3);
    await log.close();
    expect(aside(disk).map(({ path: name }) => name.replace(/\.damaged-\d+$/, ''))).toContain('snapshots/2-60-1');
  });
});
