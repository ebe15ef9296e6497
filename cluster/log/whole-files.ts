// The callbacks of disk and clock as promises, for everything that is not on the hot path.

import type { Clock, Disk, DiskFile } from '../ports.ts';

export function writeAll(handle: DiskFile, buffers: readonly Uint8Array[], offset: number): Promise<void> {
  return new Promise((resolve, reject) => {
    handle.write(buffers, offset, (error) => (error === null ? resolve() : reject(error)));
  });
}

export function writeAllDurably(handle: DiskFile, buffers: readonly Uint8Array[], offset: number): Promise<void> {
  return new Promise((resolve, reject) => {
    handle.writeDurably(buffers, offset, (error) => (error === null ? resolve() : reject(error)));
  });
}

export function syncFile(handle: DiskFile): Promise<void> {
  return new Promise((resolve, reject) => {
    handle.sync((error) => (error === null ? resolve() : reject(error)));
  });
}

export function readBytes(handle: DiskFile, offset: number, length: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    handle.read(offset, length, (error, bytes) => (error === null ? resolve(bytes) : reject(error)));
  });
}

/** Resolves at the end of the next turn of the event loop. */
export function nextTurn(clock: Clock): Promise<void> {
  return new Promise((resolve) => clock.nextTurn(resolve));
}

export async function removeIfPresent(disk: Disk, path: string): Promise<void> {
  try {
    await disk.remove(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** Creates a file with these bytes and syncs it. Its name is durable only after the folder was synced. */
export async function writeWholeFile(disk: Disk, path: string, bytes: Buffer): Promise<void> {
  const file = await disk.open(path, 'create');
  try {
    await writeAll(file, [bytes], 0);
    await syncFile(file);
  } finally {
    await file.close();
  }
}
