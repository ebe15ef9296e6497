// What every Disk must do, on a real folder and in memory.

import { fstatSync, readdirSync } from 'node:fs';
import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { createDisk } from '../../cluster/os.ts';
import type { Disk, DiskFile } from '../../cluster/ports.ts';
import { createMemoryDisk } from '../support/memory-disk.ts';

const folders: string[] = [];
afterEach(async () => {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true });
});

const subjects: Record<string, () => Promise<Disk>> = {
  async real() {
    const folder = await mkdtemp(join(tmpdir(), 'warren-disk-'));
    folders.push(folder);
    return createDisk(join(folder, 'data'));
  },
  memory: async () => createMemoryDisk(),
};

const write = (file: DiskFile, buffers: readonly Uint8Array[], offset: number) =>
  new Promise<void>((resolve, reject) => file.write(buffers, offset, (error) => (error ? reject(error) : resolve())));
const writeDurably = (file: DiskFile, buffers: readonly Uint8Array[], offset: number) =>
  new Promise<void>((resolve, reject) =>
    file.writeDurably(buffers, offset, (error) => (error ? reject(error) : resolve())),
  );
const sync = (file: DiskFile) =>
  new Promise<void>((resolve, reject) => file.sync((error) => (error ? reject(error) : resolve())));
const read = (file: DiskFile, offset: number, length: number) =>
  new Promise<Buffer>((resolve, reject) =>
    file.read(offset, length, (error, bytes) => (error ? reject(error) : resolve(bytes))),
  );

for (const [name, create] of Object.entries(subjects)) {
  describe(`disk: ${name}`, () => {
    const prepare = async () => {
      const disk = await create();
      await disk.makeFolder('');
      return disk;
    };

    it('makes folders, once or again, and lists them sorted', async () => {
      const disk = await prepare();
      for (const folder of ['log', 'log/deep', 'log']) await disk.makeFolder(folder);
      for (const file of ['b', 'a', 'c']) await (await disk.open(`log/${file}`, 'create')).close();
      expect(await disk.list('log')).toEqual(['a', 'b', 'c', 'deep']);
      expect(await disk.list('')).toEqual(['log']);
      await expect(disk.list('none')).rejects.toMatchObject({ code: 'ENOENT' });
      await disk.syncFolder('log');
      await disk.syncFolder('');
    });

    it('creates only what does not exist, opens only what does', async () => {
      const disk = await prepare();
      await expect(disk.open('file', 'read')).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(disk.open('file', 'write')).rejects.toMatchObject({ code: 'ENOENT' });
      const file = await disk.open('file', 'create');
      await expect(disk.open('file', 'create')).rejects.toMatchObject({ code: 'EEXIST' });
      await file.close();
      expect(await disk.readFile('file')).toEqual(Buffer.alloc(0));
      expect(await disk.readFile('none')).toBe(null);
    });

    it('writes gathered buffers at an offset and reads them back', async () => {
      const disk = await prepare();
      const file = await disk.open('file', 'create');
      expect(file.size).toBe(0);
      await write(file, [Buffer.from('hello '), Buffer.from(''), new Uint8Array([119, 111]), Buffer.from('rld')], 0);
      expect(file.size).toBe(11);
      await write(file, [Buffer.from('W')], 6);
      await write(file, [], 11);
      expect(file.size).toBe(11);
      await sync(file);
      expect((await read(file, 0, 11)).toString()).toBe('hello World');
      expect((await read(file, 6, 100)).toString()).toBe('World');
      expect((await read(file, 11, 5)).length).toBe(0);
      expect((await read(file, 3, 0)).length).toBe(0);
      await file.close();
      const again = await disk.open('file', 'write');
      expect(again.size).toBe(11);
      await write(again, [Buffer.from('!')], 11);
      await again.close();
      expect((await disk.readFile('file'))!.toString()).toBe('hello World!');
    });

    it('writes durably, in any file that can be written', async () => {
      const disk = await prepare();
      const created = await disk.open('file', 'create');
      await writeDurably(created, [Buffer.from('first '), Buffer.from('and ')], 0);
      await writeDurably(created, [Buffer.from('second')], 10);
      expect(created.size).toBe(16);
      await created.close();
      const opened = await disk.open('file', 'write');
      await writeDurably(opened, [Buffer.from('!')], 16);
      expect((await read(opened, 0, 100)).toString()).toBe('first and second!');
      await opened.close();
      await expect(writeDurably(opened, [Buffer.from('x')], 0)).rejects.toMatchObject({ code: 'EBADF' });
    });

    it('takes more buffers than one call of the system does', async () => {
      const disk = await prepare();
      const file = await disk.open('file', 'create');
      const buffers = Array.from({ length: 3_000 }, (_, i) => Buffer.from([i & 255, i >> 8]));
      await write(file, buffers, 4);
      expect(file.size).toBe(6_004);
      const bytes = await read(file, 4, 6_000);
      expect(bytes.equals(Buffer.concat(buffers))).toBe(true);
      expect(await read(file, 0, 4)).toEqual(Buffer.alloc(4));
      await file.close();
    });

    it('finishes operations that were begun together', async () => {
      const disk = await prepare();
      const file = await disk.open('file', 'create');
      const writes = Array.from({ length: 20 }, (_, i) => write(file, [Buffer.alloc(1000, i)], 1000 * i));
      await Promise.all([...writes, sync(file)]);
      expect(file.size).toBe(20_000);
      for (let i = 0; i < 20; i++) expect((await read(file, 1000 * i, 1000)).every((byte) => byte === i)).toBe(true);
      await file.close();
    });

    it('truncates', async () => {
      const disk = await prepare();
      const file = await disk.open('file', 'create');
      await write(file, [Buffer.from('0123456789')], 0);
      await file.truncate(4);
      expect(file.size).toBe(4);
      expect((await read(file, 0, 10)).toString()).toBe('0123');
      await write(file, [Buffer.from('x')], 6);
      expect(await read(file, 0, 10)).toEqual(Buffer.from('0123\0\0x'));
      await file.close();
    });

    it('renames over what is there, and removes', async () => {
      const disk = await prepare();
      for (const [path, text] of [
        ['new', 'new'],
        ['old', 'old'],
      ] as const) {
        const file = await disk.open(path, 'create');
        await write(file, [Buffer.from(text)], 0);
        await file.close();
      }
      await disk.rename('new', 'old');
      expect((await disk.readFile('old'))!.toString()).toBe('new');
      expect(await disk.list('')).toEqual(['old']);
      await disk.remove('old');
      expect(await disk.list('')).toEqual([]);
      await expect(disk.remove('old')).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(disk.rename('old', 'new')).rejects.toMatchObject({ code: 'ENOENT' });
    });

    it('goes on with a file that was renamed or removed while open', async () => {
      const disk = await prepare();
      const file = await disk.open('file', 'create');
      await disk.rename('file', 'moved');
      await write(file, [Buffer.from('a')], 0);
      await disk.remove('moved');
      expect((await read(file, 0, 1)).toString()).toBe('a');
      await file.close();
    });
  });
}

describe('disk: real', () => {
  const prepare = async () => {
    const disk = await subjects.real!();
    await disk.makeFolder('');
    return disk;
  };

  it('never leaves its root', async () => {
    const disk = await prepare();
    for (const path of ['..', '../x', 'a/../../x', '/etc/passwd', 'a//b', 'a/./b', 'a/', 'a\\b', 'a\0b']) {
      await expect(disk.readFile(path)).rejects.toThrow('not a plain relative path');
      await expect(disk.open(path, 'create')).rejects.toThrow('not a plain relative path');
      await expect(disk.rename('x', path)).rejects.toThrow('not a plain relative path');
    }
    await expect(disk.remove('')).rejects.toThrow('root');
  });

  it('removes a folder only when it is empty', async () => {
    const disk = await prepare();
    await disk.makeFolder('folder');
    await (await disk.open('folder/file', 'create')).close();
    await expect(disk.remove('folder')).rejects.toMatchObject({ code: 'ENOTEMPTY' });
    await disk.remove('folder/file');
    await disk.remove('folder');
    expect(await disk.list('')).toEqual([]);
  });

  it('frees what is large bit by bit, with nobody waiting for it, and not while it is open', async () => {
    const disk = await prepare();
    const large = Buffer.alloc(8 * 1024 * 1024, 1);
    const fill = async (path: string) => {
      const file = await disk.open(path, 'create');
      await write(file, [large], 0);
      return file;
    };
    /** What this process has open, of files without a name. */
    const nameless = () =>
      readdirSync('/dev/fd').flatMap((descriptor) => {
        try {
          const stats = fstatSync(Number(descriptor));
          return stats.isFile() && stats.nlink === 0 ? stats.size : [];
        } catch {
          return []; // closed meanwhile
        }
      });
    const open = await fill('open');
    await disk.remove('open');
    expect((await read(open, 0, large.length)).equals(large)).toBe(true);
    await open.close();
    for (const name of ['a', 'b']) await (await fill(name)).close();
    expect(nameless()).toEqual([]);
    await disk.remove('a');
    await disk.remove('b');
    expect(await disk.list('')).toEqual([]);
    const sizes = new Set<number>();
    for (let waited = 0; waited < 500 && nameless().length > 0; waited++) {
      for (const size of nameless()) sizes.add(size);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    expect(nameless()).toEqual([]);
    expect(sizes.size).toBeGreaterThan(2);
  });

  it('closes after what is under way, and refuses what comes later', async () => {
    const disk = await prepare();
    const file = await disk.open('file', 'create');
    const order: string[] = [];
    const written = write(file, [Buffer.alloc(1_000_000, 1)], 0).then(() => order.push('written'));
    const synced = sync(file).then(() => order.push('synced'));
    const closed = file.close().then(() => order.push('closed'));
    await expect(write(file, [Buffer.from('x')], 0)).rejects.toMatchObject({ code: 'EBADF' });
    await expect(sync(file)).rejects.toMatchObject({ code: 'EBADF' });
    await expect(read(file, 0, 1)).rejects.toMatchObject({ code: 'EBADF' });
    await Promise.all([written, synced, closed, file.close()]);
    expect(order.at(-1)).toBe('closed');
    expect((await disk.readFile('file'))!.length).toBe(1_000_000);
  });

  it('passes on errors as they are', async () => {
    const disk = await prepare();
    await (await disk.open('file', 'create')).close();
    const file = await disk.open('file', 'read');
    await expect(write(file, [Buffer.from('x')], 0)).rejects.toMatchObject({ code: 'EBADF', syscall: 'write' });
    await file.close();
  });

  it.runIf(process.platform === 'linux')('never takes back a failed sync', async () => {
    const disk = await prepare();
    await symlink('/dev/full', join(folders.at(-1)!, 'data', 'full'));
    const file = await disk.open('full', 'write');
    await expect(write(file, [Buffer.from('x')], 0)).rejects.toMatchObject({ code: 'ENOSPC' });
    const first = await sync(file).catch((error) => error);
    expect(first).toMatchObject({ syscall: 'fdatasync' });
    expect(await sync(file).catch((error) => error)).toBe(first);
    await file.close();
  });
});
