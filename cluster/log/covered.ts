// What the manifest says of the groups. PURE over the state that the store owns.
//
// Control state is captured when a file is full, and counts once that file is sealed: the manifest then covers all files up to it. Snapshots
// count as soon as they are durable (`GroupLog.stable`), and records after the covered files are replayed on top.

import type { HardState } from 'raft-ts';
import { neededTruncations } from './collector.ts';
import type { LogFile } from './files.ts';
import type { GroupLog } from './group.ts';
import type { ManifestFile, ManifestGroup, Truncation } from './manifest.ts';

interface CapturedGroup {
  readonly replica: number;
  readonly hardState: HardState;
  readonly truncations: readonly Truncation[];
  readonly repairTo: number;
}

/** Control state of all groups at the end of one file. */
export interface Captured {
  readonly coveredTo: number;
  readonly groups: ReadonlyMap<number, CapturedGroup>;
}

export function capture(groups: Iterable<GroupLog>, coveredTo: number): Captured {
  const captured = new Map<number, CapturedGroup>();
  for (const { group, isVolatile, replica, hardState, truncations, repairTo } of groups)
    if (!isVolatile) captured.set(group, { replica, hardState, truncations: [...truncations], repairTo });
  return { coveredTo, groups: captured };
}

/** What identifies a sealed file, and whom it concerns. */
export function describeFile({ sequence, salt, bytes, index }: LogFile): ManifestFile {
  const parts = [...index.groups.values()].filter(({ runs }) => runs.some((run) => run.count > 0));
  return { sequence, salt, bytes, groups: parts.map(({ group }) => group) };
}

const nothingCaptured = {
  hardState: { term: 0, vote: 0, commit: 0 },
  truncations: [],
  repairTo: 0,
};

/** One that took the place of another, and another's in turn, may become durable only after the manifest is written. */
function lastDurable(group: GroupLog): GroupLog | null {
  let found: GroupLog | null = group;
  while (found !== null && !found.isDurable) found = found.replaced;
  return found;
}

export function manifestGroups(
  groups: Iterable<GroupLog>,
  captured: Captured,
  files: readonly LogFile[],
): ManifestGroup[] {
  const durable = [...groups].flatMap((group) => (group.isVolatile ? [] : (lastDurable(group) ?? [])));
  return durable.map((group): ManifestGroup => {
    const found = captured.groups.get(group.group);
    const { hardState, truncations, repairTo } =
      found !== undefined && found.replica === group.replica ? found : nothingCaptured;
    return {
      group: group.group,
      replica: group.replica,
      hardState,
      ...group.stable,
      truncations: neededTruncations(group, truncations, files),
      repairTo,
      damage: group.damage,
    };
  });
}
