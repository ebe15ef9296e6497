// What an opening log found damaged, and whom it concerns. State owned: the findings of one opening.
//
// Damage is told per group, so that the others go on. Where nobody knows any more what was lost (records of the unsealed tail, a file that
// is gone) it concerns all groups that it may have held: a lost vote or truncation is as bad as a lost entry.
//
// Damaged files are moved aside, under a name that nothing here reads or removes: `<name>.damaged-<generation of the manifest>`. They stay in
// their folder, because a name that moves between two folders can be lost with either of them.

import type { Disk } from '../ports.ts';
import { logFolder, snapshotFolder } from './files.ts';

/** Findings that are remembered of one group. */
export const findingsMax = 8;

const setAsidePattern = /\.damaged-\d+$/;

export const isSetAside = (name: string): boolean => setAsidePattern.test(name);

export class Damage {
  readonly groups = new Map<number, string[]>();
  /** What may have concerned any group. */
  readonly everywhere: string[] = [];
  /** Paths to be moved aside. */
  readonly files: string[] = [];

  get isNone(): boolean {
    return this.groups.size === 0 && this.everywhere.length === 0;
  }

  /** `group` cannot vouch for what it had. */
  found(group: number, what: string): void {
    const known = this.groups.get(group);
    if (known === undefined) this.groups.set(group, [what]);
    else if (known.length < findingsMax && !known.includes(what)) known.push(what);
  }

  /** `groups`: whom it concerns; null: nobody knows. */
  lost(groups: readonly number[] | null, what: string): void {
    for (const group of groups ?? []) this.found(group, what);
    if (groups === null && this.everywhere.length < findingsMax) this.everywhere.push(what);
  }

  of(group: number): readonly string[] {
    return [...(this.groups.get(group) ?? []), ...this.everywhere].slice(0, findingsMax);
  }
}

/** Moves a file aside and returns its new path; one that is gone is no news. */
export async function setAside(disk: Disk, path: string, generation: number): Promise<string> {
  const aside = `${path}.damaged-${generation}`;
  try {
    await disk.rename(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return aside;
  }
  await disk.syncFolder(path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '');
  return aside;
}

/** The files that were moved aside and that nobody has taken away since. */
export async function listSetAside(disk: Disk): Promise<string[]> {
  const found: string[] = [];
  for (const folder of ['', logFolder, snapshotFolder])
    for (const name of await disk.list(folder))
      if (isSetAside(name)) found.push(folder === '' ? name : `${folder}/${name}`);
  return found;
}
