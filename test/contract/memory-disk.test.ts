// The faults of the disk in memory: what each takes away, and what it must leave.

import { describe, expect, it } from 'vitest';
import type { Disk, DiskFile } from '../../cluster/ports.ts';
import { copyFiles, damageFile, liveDamages, restDamages } from '../support/disk/damage.ts';
import { createMemoryDisk, type MemoryDisk } from '../support/memory-disk.ts';
import { createMemoryRandom } from '../support/memory-random.ts';
import { turns } from './log-support.ts';

const write = (file: DiskFile, bytes: Uint8Array, offset: number) =>
  new Promise<void>((resolve, reject) => file.write([bytes], offset, (error) => (error ? reject(error) : resolve())));
const writeDurably = (file: DiskFile, bytes: Uint8Array, offset: number) =>
  new Promise<void>((resolve, reject) =>
    file.writeDurably([bytes], offset, (error) => (error ? reject(error) : resolve())),
  );
const sync = (file: DiskFile) =>
  new Promise<void>((resolve, reject) => file.sync((error) => (error ? reject(error) : resolve())));
const read = (file: DiskFile, offset: number, length: number) =>
  new Promise<Buffer>((resolve, reject) =>
    file.read(offset, length, (error, bytes) => (error ? reject(error) : resolve(bytes))),
  );
const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'none',
    (error: NodeJS.ErrnoException) => error.code,
  );

/** A disk with a file of these bytes, durable with its name. */
async function filled(bytes: number | Buffer, options = {}): Promise<{ disk: MemoryDisk; file: DiskFile }> {
  const disk = createMemoryDisk(options);
  const file = await disk.open('file', 'create');
  await write(file, typeof bytes === 'number' ? Buffer.alloc(bytes, 1) : bytes, 0);
  await sync(file);
  await disk.syncFolder('');
  return { disk, file };
}

/** What a crash leaves, over many seeds. */
async function outcomes(prepare: () => Promise<MemoryDisk>, look: (disk: MemoryDisk) => string): Promise<Set<string>> {
  const found = new Set<string>();
  for (let seed = 1; seed <= 200; seed++) {
    const disk = await prepare();
    disk.crash(createMemoryRandom(seed));
    found.add(look(disk));
  }
  return found;
}

describe('a power loss', () => {
  it('keeps what was synced, whatever was written over it later', async () => {
    const prepare = async () => {
      const { disk, file } = await filled(Buffer.from('aaaa'));
      await write(file, Buffer.from('bb'), 1);
      await write(file, Buffer.from('cc'), 2);
      return disk;
    };
    const found = await outcomes(prepare, (disk) => disk.contents('file').toString());
    expect([...found].sort()).toEqual(['aaaa', 'aacc', 'abba', 'abcc']);
  });

  it('keeps a durable write and not the plain ones before it', async () => {
    const prepare = async () => {
      const { disk, file } = await filled(0);
      await write(file, Buffer.from('a'), 0);
      await writeDurably(file, Buffer.from('b'), 1);
      await write(file, Buffer.from('c'), 2);
      return disk;
    };
    const found = await outcomes(prepare, (disk) => disk.contents('file').toString('latin1').slice(0, 2));
    for (const text of ['\0b', 'ab']) expect(found.has(text)).toBe(true);
    for (const text of found) expect(text).toMatch(/^.b$/s);
    const { disk, file } = await filled(0);
    await writeDurably(file, Buffer.from('b'), 1);
    await write(file, Buffer.from('a'), 0);
    expect(disk.syncedBytes('file')).toBe(0);
    await sync(file);
    expect(disk.syncedBytes('file')).toBe(2);
  });

  it('keeps any sectors of a write, of 512 or 4,096 bytes, with zeros or garbage between them', async () => {
    const prepare = async () => {
      const { disk, file } = await filled(0);
      await write(file, Buffer.alloc(16 * 1024, 7), 0);
      return disk;
    };
    const shapes = await outcomes(prepare, (disk) => {
      const bytes = disk.contents('file');
      let shape = '';
      for (let at = 0; at < bytes.length; at += 512) {
        const sector = bytes.subarray(at, at + 512);
        shape += sector.every((byte) => byte === 7) ? '7' : sector.every((byte) => byte === 0) ? '0' : 'x';
      }
      return shape;
    });
    const all = [...shapes];
    expect(all).toContain('');
    expect(all).toContain('7'.repeat(32));
    expect(all.some((shape) => /^7+$/.test(shape) && shape.length < 32)).toBe(true);
    expect(all.some((shape) => shape.includes('70') || shape.includes('07'))).toBe(true);
    expect(all.some((shape) => shape.includes('x'))).toBe(true);
    expect(all.some((shape) => /^((.)\2{7})+$/.test(shape) && new Set(shape).size > 1)).toBe(true);
  });

  it('may find any part of a write that is under way, and tells nobody', async () => {
    let told = 0;
    const prepare = async () => {
      const { disk, file } = await filled(0);
      disk.stalled = true;
      file.write([Buffer.from('abc')], 0, () => told++);
      return disk;
    };
    const found = await outcomes(prepare, (disk) => disk.contents('file').toString());
    expect(found.has('')).toBe(true);
    expect(found.has('abc')).toBe(true);
    await turns();
    expect(told).toBe(0);
  });

  it('takes back cuts that were not synced', async () => {
    const prepare = async () => {
      const { disk, file } = await filled(Buffer.from('abcdef'));
      await file.truncate(2);
      await write(file, Buffer.from('X'), 2);
      return disk;
    };
    const found = await outcomes(prepare, (disk) => disk.contents('file').toString());
    for (const text of ['abcdef', 'ab', 'abX']) expect(found.has(text)).toBe(true);
    for (const text of found) expect(text).toMatch(/^ab(cdef|Xdef|.?)$/s);
  });

  it('loses names that were created, renamed or removed, until the folder is synced', async () => {
    const names = (disk: MemoryDisk) =>
      disk
        .paths()
        .map(({ path }) => path)
        .sort()
        .join();
    const prepare = async () => {
      const { disk } = await filled(1);
      await disk.open('new', 'create');
      await disk.rename('file', 'moved');
      return disk;
    };
    expect([...(await outcomes(prepare, names))].sort()).toEqual(['file', 'file,new', 'moved', 'moved,new']);
    const synced = async () => {
      const disk = await prepare();
      await disk.syncFolder('');
      return disk;
    };
    expect([...(await outcomes(synced, names))]).toEqual(['moved,new']);
  });

  it('keeps a file that was moved to another folder in one of them', async () => {
    const prepare = async () => {
      const { disk } = await filled(1);
      await disk.makeFolder('aside');
      await disk.syncFolder('');
      await disk.rename('file', 'aside/file');
      return disk;
    };
    const where = (disk: MemoryDisk) =>
      disk
        .paths()
        .map(({ path }) => path)
        .join();
    expect([...(await outcomes(prepare, where))].sort()).toEqual(['aside/file', 'file']);
    for (const folder of ['', 'aside']) {
      const synced = async () => {
        const disk = await prepare();
        await disk.syncFolder(folder);
        return disk;
      };
      expect([...(await outcomes(synced, where))]).toEqual(['aside/file']);
    }
  });
});

describe('a sync that fails', () => {
  it('loses what it was to make durable, and no later one brings it back', async () => {
    const { disk, file } = await filled(Buffer.from('old'));
    await write(file, Buffer.from('new'), 0);
    disk.failNext('sync', 'EIO');
    expect(await codeOf(sync(file))).toBe('EIO');
    expect(await codeOf(sync(file))).toBe('EIO');
    const other = await disk.open('file', 'write');
    await sync(other);
    disk.crash(createMemoryRandom(1));
    expect(disk.contents('file').toString()).toBe('old');
  });

  it('may keep parts of it, where chance decides', async () => {
    const found = new Set<string>();
    for (let seed = 1; seed <= 100; seed++) {
      const { disk, file } = await filled(0, { random: createMemoryRandom(seed) });
      disk.failNext('sync', 'EIO');
      expect(await codeOf(writeDurably(file, Buffer.alloc(1024, 7), 0))).toBe('EIO');
      found.add(disk.contents('file').toString('hex', 0, 1));
      disk.kill();
    }
    expect([...found]).toEqual(expect.arrayContaining(['', '07']));
  });
});

describe('a full disk', () => {
  it('refuses what is beyond its capacity, and leaves a part of it', async () => {
    const { disk, file } = await filled(1000);
    disk.capacity = 1500;
    expect(await disk.space()).toEqual({ free: 500, total: 1500 });
    expect(await codeOf(write(file, Buffer.alloc(800, 2), 1000))).toBe('ENOSPC');
    expect(file.size).toBe(1500);
    expect(await codeOf(disk.open('other', 'create'))).toBe('ENOSPC');
    expect(await codeOf(disk.makeFolder('folder'))).toBe('ENOSPC');
    await write(file, Buffer.alloc(1500, 3), 0);
    await disk.rename('file', 'moved');
    await disk.remove('moved');
    const fresh = await disk.open('fresh', 'create');
    await write(fresh, Buffer.alloc(1500), 0);
    disk.capacity = Infinity;
    await write(fresh, Buffer.alloc(10), 1500);
    expect((await disk.space()).free).toBe(2 ** 40 - 1510);
  });
});

describe('held up', () => {
  it('takes the time that latency says, in a range and by size', async () => {
    const waits: number[] = [];
    const disk = createMemoryDisk({
      random: createMemoryRandom(3),
      schedule: (task, _operation, _path, _bytes, milliseconds) => {
        waits.push(milliseconds);
        queueMicrotask(task);
      },
    });
    const file = await disk.open('file', 'create');
    disk.latency = { leastMilliseconds: 5, mostMilliseconds: 15, bytesPerMillisecond: 100 };
    for (let i = 0; i < 50; i++) await write(file, Buffer.alloc(1000), 0);
    expect(waits[0]).toBe(0);
    expect(waits.slice(1).every((wait) => wait >= 15 && wait < 25)).toBe(true);
    expect(Math.max(...waits) - Math.min(...waits.slice(1))).toBeGreaterThan(5);
    disk.calm();
    await read(file, 0, 1000);
    expect(waits[51]).toBe(0);
  });

  it('stalls writing, or hangs altogether, and then goes on in order', async () => {
    const { disk, file } = await filled(100);
    const order: string[] = [];
    const begin = () => {
      file.write([Buffer.from('x')], 0, () => order.push('write'));
      file.sync(() => order.push('sync'));
      file.read(0, 1, () => order.push('read'));
      void disk.list('').then(() => order.push('list'));
    };
    disk.stalled = true;
    begin();
    await turns();
    expect(order).toEqual(['read', 'list']);
    disk.stalled = false;
    await turns();
    expect(order.splice(0)).toEqual(['read', 'list', 'write', 'sync']);
    disk.hung = true;
    begin();
    await turns();
    expect(order).toEqual([]);
    disk.hung = false;
    await turns();
    expect(order).toEqual(['write', 'sync', 'read', 'list']);
  });

  it('closes a file after what is under way', async () => {
    const { disk, file } = await filled(10);
    const order: string[] = [];
    disk.stalled = true;
    const written = write(file, Buffer.from('x'), 0).then(() => order.push('written'));
    const closed = file.close().then(() => order.push('closed'));
    expect(await codeOf(read(file, 0, 1))).toBe('EBADF');
    disk.stalled = false;
    await Promise.all([written, closed]);
    expect(order).toEqual(['written', 'closed']);
  });
});

describe('an end at a chosen operation', () => {
  it.each(['before', 'after'] as const)('comes %s it, and nobody hears of it', async (phase) => {
    for (const end of ['crash', 'kill', 'halt'] as const) {
      const { disk, file } = await filled(Buffer.from('old'));
      let told = 0;
      let left = 2;
      disk.watch = (operation, path, reached) => {
        expect(path).toBe('file');
        if (operation !== 'write' || reached !== phase || --left > 0) return;
        if (end === 'crash') disk.crash(createMemoryRandom(1));
        else disk[end]();
      };
      await writeDurably(file, Buffer.from('one'), 0);
      file.writeDurably([Buffer.from('two')], 0, () => told++);
      file.sync(() => told++);
      await turns();
      expect(told).toBe(0);
      expect(disk.contents('file').toString()).toBe(phase === 'before' ? 'one' : 'two');
      disk.watch = null;
      disk.kill();
      expect((await disk.readFile('file'))!.toString()).toBe(phase === 'before' ? 'one' : 'two');
    }
  });

  it('leaves the view of an ended process dead', async () => {
    const { disk } = await filled(10);
    const mounted: Disk = disk.mount();
    const file = await mounted.open('file', 'write');
    disk.wipe();
    let told = 0;
    file.write([Buffer.from('x')], 0, () => told++);
    void mounted.list('').then(() => told++);
    await turns();
    expect(told).toBe(0);
    expect(await disk.list('')).toEqual([]);
    expect(disk.usedBytes()).toBe(0);
  });
});

describe('damage', () => {
  const text = Buffer.from(Array.from({ length: 20_000 }, (_, i) => (i * 31 + (i >> 8)) & 255));

  it.each([...liveDamages, ...restDamages])('by %s hits what was synced, and only that', async (damage) => {
    for (let seed = 1; seed <= 20; seed++) {
      const { disk, file } = await filled(text);
      const tail = Buffer.alloc(5000, 9);
      if ((restDamages as readonly string[]).includes(damage)) disk.kill();
      else await write(file, tail, text.length);
      const done = damageFile(disk, 'file', damage, createMemoryRandom(seed));
      expect(done).not.toBeNull();
      if (damage === 'missing') {
        expect(await disk.readFile('file')).toBeNull();
        continue;
      }
      const now = disk.contents('file');
      if (damage === 'truncated') expect(now.equals(text.subarray(0, now.length))).toBe(true);
      else expect(now.subarray(text.length).equals(tail)).toBe(true);
      if (damage === 'unreadable') {
        expect(await codeOf(disk.readFile('file'))).toBe('EIO');
        const place = Number(done!.offset);
        expect(await codeOf(read(file, place + 10, 1))).toBe('EIO');
        await write(file, text.subarray(place, place + Number(done!.bytes)), place);
        expect((await read(file, 0, text.length)).equals(text)).toBe(true);
      } else if (damage !== 'misdirected' && damage !== 'rot') {
        expect(now.subarray(0, text.length).equals(text)).toBe(false);
      }
    }
  });

  it('finds nothing in what a crash may take anyway', async () => {
    const disk = createMemoryDisk();
    const file = await disk.open('file', 'create');
    await write(file, text, 0);
    expect(damageFile(disk, 'file', 'rot', createMemoryRandom(1))).toBeNull();
  });

  it('puts old files back', async () => {
    const { disk, file } = await filled(Buffer.from('old'));
    await disk.makeFolder('folder');
    const copies = copyFiles(disk);
    await writeDurably(file, Buffer.from('newer'), 0);
    await disk.remove('file');
    await disk.syncFolder('');
    for (const [path, bytes] of copies) disk.put(path, bytes);
    disk.crash(createMemoryRandom(1));
    expect(disk.contents('file').toString()).toBe('old');
  });
});
