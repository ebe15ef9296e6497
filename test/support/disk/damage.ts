// Damage to what was durable: bytes that rot, sectors that are lost, went elsewhere or cannot be read, files that are cut, gone or old. All
// of it is done to a memory disk from outside, never to bytes that a crash might take away anyway.

import type { Random } from '../../../cluster/ports.ts';
import type { MemoryDisk } from '../memory-disk.ts';

/** What can happen under a running process. */
export const liveDamages = ['rot', 'lost-sector', 'misdirected', 'unreadable'] as const;
/** What happens to whole files while nobody runs. */
export const restDamages = ['truncated', 'missing'] as const;
export type Damage = (typeof liveDamages)[number] | (typeof restDamages)[number];

const sectors = [512, 4096] as const;

/** Damages one file by chance. What it did, with places and sizes in bytes; null: there is nothing durable in it to damage. */
export function damageFile(
  disk: MemoryDisk,
  path: string,
  damage: Damage,
  random: Random,
): Readonly<Record<string, string | number>> | null {
  const synced = disk.syncedBytes(path);
  if (synced === 0) return null;
  const sectorBytes = sectors[random.integer(sectors.length)]!;
  const offset = Math.floor(random.integer(synced) / sectorBytes) * sectorBytes;
  const bytes = Math.min(sectorBytes, synced - offset);
  switch (damage) {
    case 'rot': {
      const place = random.integer(synced);
      const bits = 1 + random.integer(8);
      for (let i = 0; i < bits; i++)
        disk.corrupt(path, Math.min(synced - 1, place + random.integer(16)), 1 << random.integer(8));
      return { offset: place, bits };
    }
    case 'lost-sector':
      // It was reported as written and never was.
      disk.patch(path, offset, Buffer.alloc(bytes));
      return { offset, bytes };
    case 'misdirected': {
      const other = Math.floor(random.integer(synced) / sectorBytes) * sectorBytes;
      const source = disk.contents(path).subarray(other, Math.min(synced, other + bytes));
      disk.patch(path, offset, source);
      return { offset, from: other, bytes: source.length };
    }
    case 'unreadable':
      disk.makeUnreadable(path, offset, bytes);
      return { offset, bytes };
    case 'truncated':
      disk.put(path, disk.contents(path).subarray(0, random.integer(synced)));
      return { bytes: disk.contents(path).length, before: synced };
    case 'missing':
      disk.put(path, null);
      return { before: synced };
  }
}

/** A copy of all files, to put some of them back later. */
export function copyFiles(disk: MemoryDisk): Map<string, Buffer> {
  return new Map(disk.paths().map(({ path }) => [path, disk.contents(path)]));
}
