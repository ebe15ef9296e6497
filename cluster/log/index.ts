// The door of the log: one append-only store for all groups of a node. What it promises is in types.ts, how its bytes lie in codec.ts.
//
//   store.ts      the whole: order of effects, snapshots, manifest
//   records.ts    writes into records                   recovery.ts, scan.ts, damage.ts   opening, torn or damaged
//   writer.ts     gather, write, sync, rotate           collector.ts           which files can go
//   group.ts      one group: where its entries are      covered.ts             what the manifest says
//   compactor.ts, survey.ts   files of which little lives, rewritten
//   cache.ts      what leaves memory next               staging.ts, snapshot-*.ts, kept-writer.ts   snapshots: saved, sent, installed
//   reads.ts      reading back, checked

import type { Clock, Disk } from '../ports.ts';
import { describeGroup, recover } from './recovery.ts';
import { Store } from './store.ts';
import type { Log, LogOptions, RecoveredGroup } from './types.ts';
import { removeIfPresent } from './whole-files.ts';

export { isDamage, LogError, type LogErrorCode } from './errors.ts';
export type * from './types.ts';
export { unknownIndex } from './types.ts';

/**
 * Opens the log below `disk`, creating it if there is none. Damage is told per group (`RecoveredGroup.damage`). Throws LogError `foreign`,
 * `version`, or `corrupt` where the manifest is lost, in which case nothing on the disk was changed.
 */
export async function openLog(
  disk: Disk,
  clock: Clock,
  options: LogOptions,
): Promise<{ log: Log; groups: RecoveredGroup[] }> {
  const recovered = await recover(disk, options);
  const groups = [...recovered.groups.values()].map(describeGroup);
  const log = new Store(disk, clock, options, recovered);
  await log.start(recovered.damage.files);
  for (const path of recovered.garbage) await removeIfPresent(disk, path);
  return { log, groups };
}
