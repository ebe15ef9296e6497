// The door of the log: one append-only store for all groups of a node. What it promises is in types.ts, how its bytes lie in codec.ts.
//
//   store.ts      the whole, put together               recovery.ts, scan.ts, damage.ts   opening, torn or damaged
//   records.ts    writes into records                   folder.ts              the files: how they come, which count, how they go
//   writer.ts     gather, write, sync, rotate           collector.ts           which files can go
//   group.ts      one group: where its entries are      manifest-keeper.ts, covered.ts   what the manifest says, and when
//   reads.ts      reading back, checked                 compactor.ts, survey.ts   files of which little lives, rewritten
//   cache.ts      what leaves memory next               snapshots.ts, staging.ts, snapshot-*.ts   saved, sent, installed
//   life.ts       open, closed or failed                kept-writer.ts         what lives on, in files of its own
//   scrub.ts      rot, found in time                    volatile-groups.ts     what nobody waits for, and nobody syncs
//   time-histogram.ts   how long writes take

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
