// Damage to what one node had made durable, never to more than one in a run (`FaultContext.mayDamage`): found at once, found when it is read
// much later, or never.
//
// Two things are spared, because of them nobody could tell: of the manifest's two copies always the same one is hit, for beyond that a node
// cannot know what it has, and has to be replaced; and the end of the log, for what is cut or rots there looks like what a crash tore.

import { copyFiles, damageFile, liveDamages, restDamages } from '../../support/disk/damage.ts';
import type { MemoryDisk } from '../../support/memory-disk.ts';
import type { Details, FaultContext, FaultKind } from './target.ts';

/** Log files at the end that may be the one that is written to, the one prepared behind it, and the one before, sealed a moment ago. */
const newestFiles = 3;
const manifests = ['manifest', 'manifest.copy'] as const;

/** The copy of the manifest that may be hit, by disk. */
const exposed = new WeakMap<MemoryDisk, string>();

const isLogFile = (path: string) => /^log\/\d+\.log$/.test(path);
const sequenceOf = (path: string) => Number.parseInt(path.slice(path.lastIndexOf('/') + 1), 10);

/** Whether a file may be damaged, of the files that there are now. */
function mayHit(disk: MemoryDisk, { oneIn }: FaultContext): (path: string) => boolean {
  const manifest = exposed.get(disk) ?? manifests[oneIn(2) ? 0 : 1]!;
  exposed.set(disk, manifest);
  const logs = disk.paths().filter(({ path }) => isLogFile(path));
  const sequences = logs.map(({ path }) => sequenceOf(path)).sort((a, b) => b - a);
  const newest = sequences[newestFiles - 1] ?? 0;
  return (path) => {
    if (isLogFile(path)) return sequenceOf(path) < newest;
    return path === manifest || /^(log\/\d+\.kept|snapshots\/[\w-]+)$/.test(path);
  };
}

function damageable(disk: MemoryDisk, context: FaultContext): string[] {
  const fits = mayHit(disk, context);
  return disk
    .paths()
    .filter(({ path, bytes }) => bytes > 0 && fits(path))
    .map(({ path }) => path);
}

/** The node that is damaged in this run, or one that may be. */
function pickVictim({ target, pick, mayDamage }: FaultContext): number | null {
  const node = pick(target.nodes());
  if (mayDamage(node)) return node;
  return target.nodes().find(mayDamage) ?? null;
}

const rot: FaultKind = {
  kind: 'damage',
  profiles: ['disk'],
  everyMilliseconds: 7_000,
  begin(context) {
    const { target, pick, random } = context;
    const node = pickVictim(context);
    if (node === null) return null;
    const paths = damageable(target.disk(node), context);
    if (paths.length === 0) return null;
    const path = pick(paths);
    const damage = pick(liveDamages);
    const done = damageFile(target.disk(node), path, damage, random);
    return done === null ? null : { details: { node, path, damage, ...done }, milliseconds: 0 };
  },
};

/** The machine loses its power, and some of its files are not what they were when it comes back. */
const atRest: FaultKind = {
  kind: 'damage-at-rest',
  profiles: ['disk'],
  everyMilliseconds: 9_000,
  begin(context) {
    const { target, pick, random, oneIn, between, keepDown, mayStop } = context;
    const node = pickVictim(context);
    if (node === null || !mayStop()) return null;
    const disk = target.disk(node);
    target.crash(node);
    keepDown(node, between(0, 1_000));
    const done: string[] = [];
    for (let count = oneIn(3) ? between(2, 4) : 1; count > 0; count--) {
      const paths = damageable(disk, context);
      if (paths.length === 0) break;
      const path = pick(paths);
      const damage = oneIn(2) ? pick(restDamages) : pick(liveDamages);
      if (damageFile(disk, path, damage, random) !== null) done.push(`${damage} ${path}`);
    }
    return { details: { node, done }, milliseconds: 0 };
  },
};

/** Files of a moment ago come back, as from a backup: changed ones, and ones that were deleted. */
const stale: FaultKind = {
  kind: 'stale-files',
  profiles: ['disk'],
  everyMilliseconds: 8_000,
  begin(context) {
    const { target, pick, oneIn, between, keepDown, mayStop, happened } = context;
    const node = pickVictim(context);
    if (node === null) return null;
    const disk = target.disk(node);
    const copies = copyFiles(disk);
    const milliseconds = between(200, 8_000);
    let isOver = false;
    target.clock.after(milliseconds, () => {
      if (isOver || !target.nodes().includes(node) || !mayStop()) return;
      const fits = mayHit(disk, context);
      const changed = [...copies.keys()].filter((path) => fits(path) && differs(disk, path, copies.get(path)!));
      if (changed.length === 0) return;
      target.crash(node);
      keepDown(node, between(0, 1_000));
      const done: string[] = [];
      for (let count = oneIn(3) ? 2 : 1; count > 0; count--) {
        const path = pick(changed);
        disk.put(path, copies.get(path)!);
        done.push(path);
      }
      const details: Details = { node, done };
      happened('put-back', details);
    });
    return {
      details: { node, files: copies.size, milliseconds },
      milliseconds: milliseconds + 1,
      end: () => {
        isOver = true;
      },
    };
  },
};

function differs(disk: MemoryDisk, path: string, copy: Buffer): boolean {
  return !disk.paths().some((file) => file.path === path) || !disk.contents(path).equals(copy);
}

export const damageKinds: readonly FaultKind[] = [rot, atRest, stale];
