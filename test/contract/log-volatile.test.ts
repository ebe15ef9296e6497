// Volatile groups: nobody waits for the disk, memory is bounded, files go, and nothing is left after a restart.

import { createRaft, initialConfiguration } from 'raft-ts';
import { afterAll, describe, expect, it } from 'vitest';
import { Snapshots } from '../../cluster/group/snapshots.ts';
import type { EntryData, Log, LogOptions } from '../../cluster/log/types.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { defaultLimits } from '../../cluster/options.ts';
import type { Disk } from '../../cluster/ports.ts';
import { createMemoryDisk } from '../support/memory-disk.ts';
import {
  append,
  begin,
  cleanUp,
  diskKinds,
  entries,
  entry,
  living,
  read,
  rejection,
  reopen,
  turns,
  write,
} from './log-support.ts';

afterAll(cleanUp);

const id = 0x4000_0000;

/** A log with the durable group 1 and a volatile one. */
async function beginVolatile(disk: Disk, changes: Partial<LogOptions>): Promise<Log> {
  const log = await begin(disk, changes);
  log.createVolatileGroup(id, 1);
  return log;
}

/** True if `done` ran before `append` returned. */
function appendNow(log: Log, first: number, last: number, bytes = 100, group = id): boolean {
  let isDone = false;
  log.append([write(group, { entries: entries(group, first, last, 1, bytes) })], () => {
    isDone = true;
  });
  return isDone;
}

const volatileFiles = (names: readonly string[]) => names.filter((name) => name.endsWith('.volatile'));

describe.each(diskKinds)('volatile groups on disk: $name', ({ create }) => {
  async function open(changes: Partial<LogOptions> = {}) {
    const disk = create();
    return { disk, log: await beginVolatile(disk, changes) };
  }

  it('are done at once, and are read back from memory and disk', async () => {
    const { log } = await open({ cacheBytesMax: 0, fileBytesMax: 8 * 1024 });
    const hardState = { term: 1, vote: 1, commit: 0 };
    let done = 0;
    for (let index = 1; index <= 200; index++)
      log.append([write(id, { entries: [entry(id, index, 1, 200)], hardState })], () => done++);
    expect(done).toBe(200);
    for (let index = 1; index <= 200; index++) expect(log.cached(id, index)).toEqual(entry(id, index, 1, 200));
    expect(log.has(id, 201)).toBe(false);
    while (log.cached(id, 200) !== undefined) await turns(1);
    expect(log.status().cachedBytes).toBe(0);
    expect(await read(log, id, 1, 200)).toEqual(entries(id, 1, 200, 1, 200));
    await log.close();
  });

  it('leave nothing behind, whether the log was closed or not', async () => {
    const limits = { fileBytesMax: 4 * 1024 };
    const { disk, log } = await open(limits);
    expect(appendNow(log, 1, 100)).toBe(true);
    await append(log, write(1, { entries: entries(1, 1, 3, 1) }));
    while (volatileFiles(await disk.list('log')).length < 3) await turns(1);
    const before = await reopen(disk, limits);
    expect(before.groups.map(({ group }) => group)).toEqual([1]);
    expect(before.groups[0]!.entries.length).toBe(3);
    expect(volatileFiles(await disk.list('log'))).toEqual([]);
    before.log.createVolatileGroup(id, 1);
    expect(appendNow(before.log, 1, 200)).toBe(true);
    await before.log.close();
    expect(volatileFiles(await disk.list('log'))).toEqual([]);
    await (await reopen(disk, limits)).log.close();
  });

  it('give their files back when what was applied is not live', async () => {
    const { disk, log } = await open({ cacheBytesMax: 0, fileBytesMax: 4 * 1024 });
    appendNow(log, 1, 200);
    while (log.cached(id, 200) !== undefined) await turns(1);
    const files = () => disk.list('log').then((names) => volatileFiles(names).length);
    const all = await files();
    expect(all).toBeGreaterThan(8);
    await log.collect(living(() => false));
    expect(await files()).toBe(all);
    log.volatileApplied(id, 150);
    expect(log.compactionPoint(id)).toEqual({ index: 150, term: 1 });
    await log.collect(living((group, first, last) => group === id && first <= 40 && last >= 40));
    expect(await files()).toBeLessThan(all - 4);
    expect(log.has(id, 1)).toBe(false);
    expect(await read(log, id, 40, 40)).toEqual([entry(id, 40, 1)]);
    expect(await read(log, id, 151, 200)).toEqual(entries(id, 151, 200, 1));
    log.volatileApplied(id, 200);
    await log.collect(living(() => false));
    expect(await files()).toBeLessThanOrEqual(2);
    expect((await rejection(read(log, id, 40, 40))).code).toBe('missing');
    await log.close();
  });

  it('are garbage at once when they end, and can begin again', async () => {
    const { disk, log } = await open({ cacheBytesMax: 0, fileBytesMax: 4 * 1024 });
    appendNow(log, 1, 100);
    while (log.cached(id, 100) !== undefined) await turns(1);
    const late = rejection(read(log, id, 1, 100));
    log.dropVolatileGroup(id);
    expect((await late).code).toBe('missing');
    expect(log.has(id, 1)).toBe(false);
    expect(log.cached(id, 1)).toBeUndefined();
    expect((await rejection(read(log, id, 1, 1))).code).toBe('missing');
    log.createVolatileGroup(id, 1);
    appendNow(log, 1, 3, 50);
    expect(log.has(id, 4)).toBe(false);
    while (log.cached(id, 3) !== undefined) await turns(1);
    expect(await read(log, id, 1, 3)).toEqual(entries(id, 1, 3, 1, 50));
    await log.collect(living(() => true));
    expect(volatileFiles(await disk.list('log')).length).toBeLessThanOrEqual(3);
    expect(await read(log, id, 1, 3)).toEqual(entries(id, 1, 3, 1, 50));
    await log.close();
  });
});

describe('volatile groups and the durable ones', () => {
  async function open(changes: Partial<LogOptions> = {}) {
    const disk = createMemoryDisk();
    return { disk, log: await beginVolatile(disk.mount(), changes) };
  }

  it('are written without a sync', async () => {
    const { disk, log } = await open({ fileBytesMax: 4 * 1024 });
    await turns();
    const { sync, syncFolder } = disk.counts;
    for (let index = 1; index <= 100; index++) {
      expect(appendNow(log, index, index)).toBe(true);
      await turns(1);
    }
    expect([disk.counts.sync, disk.counts.syncFolder]).toEqual([sync, syncFolder]);
    expect(disk.paths().filter(({ path, bytes }) => path.endsWith('.volatile') && bytes > 4000).length).toBe(4);
    expect(log.status().syncs).toBeGreaterThan(0);
    await log.close();
  });

  it('do not wait for one another', async () => {
    let stuck: string | null = null;
    const held: (() => void)[] = [];
    const disk = createMemoryDisk({
      schedule: (task, operation, path) => {
        if (stuck !== null && path.endsWith(stuck) && (operation === 'write' || operation === 'sync')) held.push(task);
        else queueMicrotask(task);
      },
    });
    const log = await beginVolatile(disk, { cacheBytesMax: 0 });
    await turns();
    // The sync of a durable write hangs: volatile entries go on to the disk and out of memory.
    stuck = '.log';
    let durable = 0;
    log.append([write(1, { entries: entries(1, 1, 10, 1) })], () => durable++);
    appendNow(log, 1, 10);
    await turns();
    expect(durable).toBe(0);
    expect(log.cached(id, 10)).toBeUndefined();
    expect(log.cached(1, 1)).toBeDefined();
    expect(await read(log, id, 1, 10)).toEqual(entries(id, 1, 10, 1));
    // And the other way round.
    stuck = '.volatile';
    for (const task of held.splice(0)) task();
    appendNow(log, 11, 20);
    await append(log, write(1, { entries: entries(1, 11, 20, 1) }));
    expect(durable).toBe(1);
    expect(log.cached(1, 20)).toBeUndefined();
    expect(log.cached(id, 20)).toBeDefined();
    stuck = null;
    for (const task of held.splice(0)) task();
    await log.close();
  });

  it('are held up when the disk cannot follow, in order', async () => {
    const { disk, log } = await open({ volatileWaitingBytesMax: 10_000, cacheBytesMax: 0 });
    await turns();
    disk.stalled = true;
    const order: number[] = [];
    for (let index = 1; index <= 30; index++)
      log.append([write(id, { entries: [entry(id, index, 1, 920)] })], () => order.push(index));
    expect(order).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    for (let index = 1; index <= 30; index++) expect(log.cached(id, index)).toBeDefined();
    await turns();
    expect(order.length).toBe(10);
    disk.stalled = false;
    await turns();
    expect(order).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
    expect(appendNow(log, 31, 31)).toBe(true);
    await log.close();
  });

  it('keep their order when one waits and the next need not', async () => {
    const held: (() => void)[] = [];
    let holding = false;
    const disk = createMemoryDisk({
      schedule: (task, operation) => {
        if (holding && operation === 'write') held.push(task);
        else queueMicrotask(task);
      },
    });
    const { log } = await reopen(disk, { volatileWaitingBytesMax: 10_000 });
    log.createVolatileGroup(id, 1);
    await turns();
    holding = true;
    const order: number[] = [];
    const add = (index: number, bytes: number) =>
      log.append([write(id, { entries: [entry(id, index, 1, bytes)] })], () => order.push(index));
    add(1, 8000);
    add(2, 4000);
    expect(order).toEqual([1]);
    // The first is written, and room again; the second is on its way.
    held.shift()!();
    await turns();
    add(3, 100);
    expect(order).toEqual([1]);
    holding = false;
    for (const task of held.splice(0)) task();
    await turns();
    expect(order).toEqual([1, 2, 3]);
    await log.close();
  });

  it('press nobody for a snapshot, and do not keep durable files', async () => {
    const { disk, log } = await open({ pressureBytes: 20_000, fileBytesMax: 4 * 1024, cacheBytesMax: 0 });
    const pressed: number[] = [];
    log.onPressure = (group) => pressed.push(group);
    await append(log, write(1, { entries: entries(1, 1, 30, 1) }));
    appendNow(log, 1, 500);
    while (log.cached(id, 500) !== undefined) await turns(1);
    await log.collect(living(() => true));
    expect(pressed).toEqual([]);
    await append(log, write(1, { entries: entries(1, 31, 250, 1) }));
    await log.collect(living(() => true));
    expect(pressed).toContain(1);
    expect(pressed).not.toContain(id);
    disk.kill();
    expect((await reopen(disk)).groups[0]!.entries.length).toBe(250);
  });

  it('end the log with a failing disk like others', async () => {
    const { disk, log } = await open();
    await turns();
    const fatal: Error[] = [];
    log.onFatal = (error) => fatal.push(error);
    disk.fault = (kind, path) => (kind === 'write' && path.endsWith('.volatile') ? new Error('ENOSPC') : null);
    expect(appendNow(log, 1, 1)).toBe(true);
    await turns();
    expect(fatal.length).toBe(1);
    expect(appendNow(log, 2, 2)).toBe(false);
    let done = 0;
    log.append([write(1, { entries: [entry(1, 1, 1)] })], () => done++);
    await turns();
    expect(done).toBe(0);
    await log.close();
  });
});

describe('one replica over a volatile group', () => {
  it('commits in the turn in which it proposes, and forgets what it applied', async () => {
    const { log } = await reopen(createMemoryDisk(), { fileBytesMax: 4 * 1024, cacheBytesMax: 0 });
    log.createVolatileGroup(id, 1);
    const { appendBytesMax, inflightBytesMax, inflightMessagesMax, uncommittedBytesMax } = defaultLimits;
    const raft = createRaft<EntryData>(
      {
        id: 1,
        group: id,
        groupIncarnation: 1,
        electionTicks: 10,
        heartbeatTicks: 2,
        snapshotChunkBytes: 1024,
        random: () => 0,
        ...{ appendBytesMax, inflightBytesMax, inflightMessagesMax, uncommittedBytesMax },
      },
      {
        hardState: { term: 0, vote: 0, commit: 0 },
        snapshot: { index: 0, term: 0, configuration: initialConfiguration([1]) },
        compacted: { index: 0, term: 0 },
        entries: [],
      },
    );
    const snapshots = new Snapshots(
      {
        group: id,
        raft,
        machine: new ShardMachine(id),
        log,
        limits: { ...defaultLimits, snapshotEveryEntries: 100 },
        appliedIndex: () => raft.commit,
        isHalted: () => false,
        halt: (error) => {
          throw error;
        },
        dirty: () => {},
        saved: () => {},
        failed: () => {},
        restored: () => {},
        installed: () => {},
      },
      0,
    );
    const advance = () => {
      while (raft.hasReady()) {
        const { write: part } = raft.ready();
        if (part === null) continue;
        const { truncateFrom, entries: added, hardState, sequence } = part;
        log.append([{ group: id, truncateFrom, entries: added, hardState }], () => raft.persisted(sequence));
      }
      raft.applied(raft.commit);
      snapshots.takeIfDue();
    };
    raft.campaign();
    advance();
    expect([raft.role, raft.commit]).toEqual(['leader', 1]);
    for (let index = 2; index <= 250; index++) {
      const item = entry(id, index, 1);
      if (item.kind === 'data') expect(raft.propose(item.data, item.bytes)).toMatchObject({ ok: true, index });
      advance();
      expect(raft.commit).toBe(index);
      raft.validate();
    }
    expect(log.compactionPoint(id).index).toBe(202);
    snapshots.compact();
    expect(log.compactionPoint(id)).toEqual({ index: 250, term: 1 });
    expect(snapshots.index).toBe(250);
    while (log.cached(id, 250) !== undefined) await turns(1);
    await log.collect(living((_, first, last) => first <= 100 && last >= 100));
    expect([1, 100, 200].map((index) => log.has(id, index))).toEqual([false, true, false]);
    advance();
    await snapshots.close();
    await log.close();
  });
});
