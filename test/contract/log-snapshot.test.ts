// Snapshots that are made while they are written: one piece for every write that completes, closed once, whatever happens.

import { describe, expect, it } from 'vitest';
import type { PieceSource } from '../../cluster/log/types.ts';
import { diskError } from '../support/memory-disk.ts';
import { beginInMemory, configuration, entries, loadState, rejection, reopen, turns } from './log-support.ts';

const at = (index: number) => ({ index, term: 1, configuration });

const open = () => beginInMemory({}, { entries: entries(1, 1, 20, 1) });

/** Gives these, and notes what it was asked. */
function sourceOf(pieces: readonly Buffer[]) {
  let given = 0;
  const source = {
    asked: [] as number[],
    closed: 0,
    next(bytesMax: number): Buffer | null {
      expect(source.closed).toBe(0);
      source.asked.push(bytesMax);
      return pieces[given++] ?? null;
    },
    close() {
      source.closed++;
    },
  };
  return source;
}

describe('a snapshot made piece by piece', () => {
  it('takes a piece when the last one is written, and never holds more', async () => {
    const pieceBytes = 64 * 1024;
    const { disk, log } = await open();
    const pieces = Array.from({ length: 20 }, (_, i) => Buffer.alloc(pieceBytes, i + 1));
    const source = sourceOf(pieces);
    let mostAhead = 0;
    disk.fault = (operation, path) => {
      const written = disk.paths().find((file) => file.path === path)?.bytes ?? 0;
      if (operation === 'write' && path.startsWith('snapshots/'))
        mostAhead = Math.max(mostAhead, source.asked.length * pieceBytes - written);
      return null;
    };
    await log.saveSnapshot(1, at(10), source);
    expect(source.closed).toBe(1);
    expect(source.asked).toEqual(Array(21).fill(pieceBytes));
    expect(mostAhead).toBeLessThanOrEqual(pieceBytes);
    expect((await loadState(log, 1))!.state.equals(Buffer.concat(pieces))).toBe(true);
    await log.close();
    const again = await reopen(disk);
    expect((await loadState(again.log, 1))!.state.equals(Buffer.concat(pieces))).toBe(true);
  });

  it('goes to the disk bit by bit, and not all at once at the end', async () => {
    const { disk, log } = await open();
    let unsynced = 0;
    let mostUnsynced = 0;
    disk.fault = (operation, path) => {
      if (!path.startsWith('snapshots/')) return null;
      if (operation === 'sync') unsynced = 0;
      if (operation === 'write') mostUnsynced = Math.max(mostUnsynced, (unsynced += 64 * 1024));
      return null;
    };
    await log.saveSnapshot(1, at(10), sourceOf(Array.from({ length: 100 }, () => Buffer.alloc(64 * 1024))));
    // The header is a write too.
    expect(mostUnsynced).toBeLessThanOrEqual(17 * 64 * 1024);
    await log.close();
  });

  it('is the same whatever the pieces are', async () => {
    const state = Buffer.from(Array.from({ length: 1_300_000 }, (_, i) => (i * 7 + (i >> 9)) & 255));
    for (const sizes of [[1_300_000], [1, 524_287, 1, 700_000], [524_288, 524_288], [3, 0, 0, 600_000, 524_288]]) {
      const { disk, log } = await open();
      const pieces: Buffer[] = [];
      let from = 0;
      for (const size of [...sizes, state.length]) {
        pieces.push(state.subarray(from, from + size));
        from += size;
      }
      const source = sourceOf(pieces);
      await log.saveSnapshot(1, at(10), source);
      expect(source.closed).toBe(1);
      await log.close();
      const again = await reopen(disk);
      const loaded = (await loadState(again.log, 1))!;
      expect([loaded.meta, loaded.state.equals(state)]).toEqual([at(10), true]);
      await again.log.close();
    }
  });

  it('lets other work run when a piece comes out empty', async () => {
    const { log } = await open();
    let turnsSeen = 0;
    let asked = 0;
    let running = true;
    const count = () => {
      turnsSeen++;
      if (running) setImmediate(count);
    };
    setImmediate(count);
    const source: PieceSource = { next: () => (asked++ < 10 ? Buffer.alloc(0) : null), close() {} };
    await log.saveSnapshot(1, at(10), source);
    running = false;
    expect(turnsSeen).toBeGreaterThanOrEqual(9);
    expect((await loadState(log, 1))!.state.length).toBe(0);
  });

  it('is closed without being asked when a newer one is there', async () => {
    const { log } = await open();
    await log.saveSnapshot(1, at(10), sourceOf([Buffer.from('ten')]));
    const late = sourceOf([Buffer.from('nine')]);
    await log.saveSnapshot(1, at(9), late);
    expect([late.asked, late.closed]).toEqual([[], 1]);
    expect((await loadState(log, 1))!.state.toString()).toBe('ten');
    await log.close();
    const closed = sourceOf([]);
    expect((await rejection(log.saveSnapshot(1, at(11), closed))).code).toBe('closed');
    expect(closed.closed).toBe(1);
  });

  it('fails with its source, and leaves the older one', async () => {
    const { disk, log } = await open();
    await log.saveSnapshot(1, at(10), sourceOf([Buffer.from('ten')]));
    const source = sourceOf([Buffer.alloc(1000)]);
    const { next } = source;
    source.next = (bytesMax) => {
      if (source.asked.length === 1) throw new Error('a bug');
      return next(bytesMax);
    };
    expect((await rejection(log.saveSnapshot(1, at(12), source))).message).toBe('a bug');
    expect(source.closed).toBe(1);
    expect(
      disk
        .paths()
        .filter(({ path }) => path.startsWith('snapshots/'))
        .map(({ path }) => path),
    ).toEqual(['snapshots/1-10-1']);
    await log.saveSnapshot(1, at(12), sourceOf([Buffer.from('twelve')]));
    expect((await loadState(log, 1))!.state.toString()).toBe('twelve');
  });

  it('is closed when the disk fails', async () => {
    for (const operation of ['open', 'write', 'sync', 'rename'] as const) {
      const { disk, log } = await open();
      await turns();
      const source = sourceOf([Buffer.alloc(1000), Buffer.alloc(1000)]);
      disk.fault = (kind, path) =>
        kind === operation && path.startsWith('snapshots/') ? diskError('EIO', path) : null;
      expect((await rejection(log.saveSnapshot(1, at(10), source))).code).toBe('EIO');
      expect(source.closed).toBe(1);
    }
  });

  it('is not saved for who waits for his turn either, when the manifest that says so fails', async () => {
    const { disk, log } = await open();
    log.onFatal = () => {};
    await turns();
    disk.fault = (kind, path) => (kind === 'open' && path.startsWith('manifest') ? diskError('EIO', path) : null);
    const [first, second] = [1, 2].map(() => rejection(log.saveSnapshot(1, at(10), sourceOf([Buffer.from('ten')]))));
    expect((await first)!.code).toBe('EIO');
    expect((await second)!.code).toBe('failed');
  });

  it('is found out when its end is damaged or cut', async () => {
    const { disk, log } = await open();
    await log.saveSnapshot(1, at(10), sourceOf([Buffer.alloc(5000, 1)]));
    await log.close();
    const path = 'snapshots/1-10-1';
    const { length } = disk.contents(path);
    for (const back of [16, 15, 12, 9]) {
      const { disk: other, log: another } = await open();
      await another.saveSnapshot(1, at(10), sourceOf([Buffer.alloc(5000, 1)]));
      await another.close();
      other.corrupt(path, length - back);
      expect((await reopen(other)).groups[0]!.damage[0]).toContain(path);
    }
    for (const back of [18, 3]) {
      disk.corrupt(path, length - back);
      const again = await reopen(disk);
      expect(await rejection(loadState(again.log, 1))).toMatchObject({ code: 'corrupt', file: path });
      await again.log.close();
      disk.corrupt(path, length - back);
    }
    const file = await disk.open(path, 'write');
    await file.truncate(length - 1);
    expect((await reopen(disk)).groups[0]!.damage[0]).toContain(path);
  });
});
