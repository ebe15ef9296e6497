// Which log files can go, and who keeps old ones from going. PURE decisions over the state that the store owns.

import { FileKind } from './codec.ts';
import type { FileGroup } from './file-index.ts';
import type { LogFile } from './files.ts';
import type { GroupLog } from './group.ts';
import type { Truncation } from './manifest.ts';
import type { LiveEntries } from './types.ts';

/** Sealed files again told of after so many more were sealed, if a group did nothing about it. */
const pressureRepeatFiles = 8;

/**
 * Files that nobody needs: covered by the manifest that is about to be written (volatile ones never are in it), not being read, and
 * without an entry that follows its group's compaction point or is live.
 */
export function findGarbage(
  files: Iterable<LogFile>,
  groups: ReadonlyMap<number, GroupLog>,
  coveredTo: number,
  live: LiveEntries,
): LogFile[] {
  const garbage: LogFile[] = [];
  for (const file of files) {
    if (!file.sealed || file.pins > 0 || file.doomed) continue;
    if (isCovered(file, coveredTo) && !isNeeded(file, groups, live)) garbage.push(file);
  }
  return garbage;
}

function isCovered(file: LogFile, coveredTo: number): boolean {
  if (file.kind === FileKind.volatile) return true;
  return (file.kind === FileKind.log ? file.sequence : file.committedIn) <= coveredTo;
}

/** Sealed, covered by the manifest, and without an entry that is kept whole: whatever in it does not live is of no use. */
export function isBehind(file: LogFile, groups: ReadonlyMap<number, GroupLog>, coveredTo: number): boolean {
  if (!file.sealed || file.doomed || file.isDamaged || !isCovered(file, coveredTo)) return false;
  for (const part of file.index.groups.values()) if (isBound(file, part, groups.get(part.group))) return false;
  return true;
}

/** The group can do without nothing that this file has of it, or nobody can say at the moment. */
function isBound(file: LogFile, part: FileGroup, group: GroupLog | undefined): boolean {
  // What was dropped by a record that is not durable comes back after a crash.
  if (group !== undefined && (!group.isDurable || group.damage.length > 0)) return true;
  if (!isPartOf(group, part, file)) return false;
  if (group.installing || group.epoch !== group.durableEpoch) return true;
  return part.runs.some((run) => run.count > 0 && file.kind !== FileKind.kept && run.last > group.compacted.index);
}

/** The group has these entries, and not an earlier replica or one before a reset. */
export function isPartOf(group: GroupLog | undefined, part: FileGroup, file: LogFile): group is GroupLog {
  if (group === undefined || group.replica !== part.replica) return false;
  return file.kind !== FileKind.kept || file.sequence >= group.keptFrom;
}

function isNeeded(file: LogFile, groups: ReadonlyMap<number, GroupLog>, live: LiveEntries): boolean {
  for (const part of file.index.groups.values()) {
    const group = groups.get(part.group);
    if (isBound(file, part, group)) return true;
    if (!isPartOf(group, part, file)) continue;
    for (const run of part.runs) {
      if (run.count === 0) continue;
      if (run.indices === null) {
        if (live.isLive(part.group, run.first, run.last)) return true;
        continue;
      }
      for (let slot = 0; slot < run.count; slot++)
        if (live.isLive(part.group, run.indices[slot]!, run.indices[slot]!)) return true;
    }
  }
  return false;
}

/** Log files before this sequence are beyond the budget, counted from the newest. 0: all are within it. Kept and volatile ones press nobody. */
export function pressureHorizon(files: readonly LogFile[], bytesMax: number): number {
  let bytes = 0;
  for (let i = files.length - 1; i >= 0; i--) {
    if (files[i]!.kind !== FileKind.log) continue;
    bytes += files[i]!.bytes;
    if (bytes > bytesMax) return files[i]!.sequence + 1;
  }
  return 0;
}

/** Groups with entries after their snapshot in files before the horizon, that were not told lately. Marks them as told. */
export function findPressed(groups: Iterable<GroupLog>, horizon: number, sealedFiles: number): number[] {
  const pressed: number[] = [];
  for (const group of groups) {
    if (group.isVolatile) continue;
    const run = group.runs.find((candidate) => candidate.last > group.snapshot.index);
    if (run === undefined || run.file.sequence >= horizon) continue;
    if (group.pressureToldAt >= 0 && sealedFiles - group.pressureToldAt < pressureRepeatFiles) continue;
    group.pressureToldAt = sealedFiles;
    pressed.push(group.group);
  }
  return pressed;
}

/** The truncations that still matter: an older file holds an entry of this replica that one of them killed. */
export function neededTruncations(
  group: GroupLog,
  truncations: readonly Truncation[],
  files: readonly LogFile[],
): Truncation[] {
  return truncations.filter(({ position, from }) =>
    files.some((file) => {
      if (file.sequence >= position || file.kind !== FileKind.log || file.doomed) return false;
      const part = file.index.groups.get(group.group);
      return part !== undefined && part.replica === group.replica && part.lastStored >= from;
    }),
  );
}
