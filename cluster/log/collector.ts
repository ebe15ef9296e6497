// Which log files can go, and who keeps old ones from going. PURE decisions over the state that the store owns.

import { FileKind } from './codec.ts';
import type { LogFile } from './files.ts';
import type { GroupLog } from './group.ts';
import type { Truncation } from './manifest.ts';

/** Sealed files again told of after so many more were sealed, if a group did nothing about it. */
const pressureRepeatFiles = 8;

export type IsLive = (group: number, first: number, last: number) => boolean;

/**
 * Files that nobody needs: covered by the manifest that is about to be written (volatile ones never are in it), not being read, and
 * without an entry that follows its group's compaction point or is live.
 */
export function findGarbage(
  files: Iterable<LogFile>,
  groups: ReadonlyMap<number, GroupLog>,
  coveredTo: number,
  isLive: IsLive,
): LogFile[] {
  const garbage: LogFile[] = [];
  for (const file of files) {
    if (!file.sealed || file.pins > 0 || file.doomed) continue;
    if (isCovered(file, coveredTo) && !isNeeded(file, groups, isLive)) garbage.push(file);
  }
  return garbage;
}

function isCovered(file: LogFile, coveredTo: number): boolean {
  if (file.kind === FileKind.volatile) return true;
  return (file.kind === FileKind.log ? file.sequence : file.committedIn) <= coveredTo;
}

function isNeeded(file: LogFile, groups: ReadonlyMap<number, GroupLog>, isLive: IsLive): boolean {
  for (const part of file.index.groups.values()) {
    const group = groups.get(part.group);
    // What was dropped by a record that is not durable comes back after a crash.
    if (group !== undefined && !group.isDurable) return true;
    if (group === undefined || group.replica !== part.replica) continue;
    if (group.installing || group.epoch !== group.durableEpoch) return true;
    if (file.kind === FileKind.kept && file.sequence < group.keptFrom) continue;
    if (part.runs.some((run) => run.count > 0 && file.kind !== FileKind.kept && run.last > group.compacted.index))
      return true;
    for (const run of part.runs) {
      if (run.count === 0) continue;
      if (run.indices === null) {
        if (isLive(part.group, run.first, run.last)) return true;
        continue;
      }
      for (let slot = 0; slot < run.count; slot++)
        if (isLive(part.group, run.indices[slot]!, run.indices[slot]!)) return true;
    }
  }
  return false;
}

/** Files before this sequence are beyond the budget, counted from the newest. 0: all are within it. Volatile ones do not press anybody. */
export function pressureHorizon(files: readonly LogFile[], bytesMax: number): number {
  let bytes = 0;
  for (let i = files.length - 1; i >= 0; i--) {
    if (files[i]!.kind === FileKind.volatile) continue;
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
