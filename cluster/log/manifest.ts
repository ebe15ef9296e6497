// The manifest: per group what must survive the deletion of log files. One small file, replaced as a whole: temporary file, sync, rename,
// folder sync. Text, so that a person can read it: `warren-manifest 2 <crc32 of the rest>`, a line of JSON.
//
// Meaning: hard states, truncations and what is to be repaired are as of the end of log file `coveredTo`; records in later files are replayed on top. Log files up
// to `coveredTo` that are not listed, and kept files that neither the manifest nor a later checkpoint names, are garbage.

import { crc32 } from 'node:zlib';
import type { HardState, SnapshotMeta } from 'raft-ts';
import type { Disk } from '../ports.ts';
import { LogError } from './errors.ts';
import { removeIfPresent, writeWholeFile } from './whole-files.ts';

export const manifestPath = 'manifest';
const temporaryPath = 'manifest.tmp';
const manifestVersion = 2;

/** Entries of the group with an index at or above `from` in log files before `position` are dead. */
export interface Truncation {
  readonly position: number;
  readonly from: number;
}

export interface ManifestGroup {
  readonly group: number;
  readonly replica: number;
  readonly hardState: HardState;
  readonly snapshot: SnapshotMeta;
  /** There is a snapshot file. False for the position that a group was created with. */
  readonly snapshotStored: boolean;
  readonly compacted: { readonly index: number; readonly term: number };
  readonly truncations: readonly Truncation[];
  /** Entries up to here may have been acknowledged and are lost; 0: none. */
  readonly repairTo: number;
  /** Names the reset that the snapshot is from after, 0: none. Kept files before this sequence are void. */
  readonly keptFrom: number;
}

export interface Manifest {
  readonly clusterId: string;
  readonly nodeUuid: string;
  readonly coveredTo: number;
  /** Log files up to `coveredTo`, ascending. */
  readonly files: readonly number[];
  readonly keptFiles: readonly number[];
  /** Sequences below it were given out. */
  readonly nextSequence: number;
  readonly groups: readonly ManifestGroup[];
}

export async function writeManifest(disk: Disk, manifest: Manifest): Promise<void> {
  const json = `${JSON.stringify(manifest)}\n`;
  const checksum = crc32(json).toString(16).padStart(8, '0');
  const bytes = Buffer.from(`warren-manifest ${manifestVersion} ${checksum}\n${json}`, 'utf8');
  await removeIfPresent(disk, temporaryPath);
  await writeWholeFile(disk, temporaryPath, bytes);
  await disk.rename(temporaryPath, manifestPath);
  await disk.syncFolder('');
}

/** The manifest, or null if there is none. Throws `corrupt` and `version`; a damaged manifest is never taken for a missing one. */
export async function readManifest(disk: Disk): Promise<Manifest | null> {
  const bytes = await disk.readFile(manifestPath);
  if (bytes === null) return null;
  const text = bytes.toString('utf8');
  const lineEnd = text.indexOf('\n');
  const match = /^warren-manifest (\d+) ([0-9a-f]{8})$/.exec(text.slice(0, Math.max(0, lineEnd)));
  if (match === null) throw new LogError('corrupt', 'manifest has a damaged first line', manifestPath, 0);
  if (Number(match[1]) !== manifestVersion)
    throw new LogError('version', 'manifest version is not known', manifestPath);
  const json = text.slice(lineEnd + 1);
  if (crc32(json) !== Number.parseInt(match[2]!, 16))
    throw new LogError('corrupt', 'manifest does not match its checksum', manifestPath, lineEnd + 1);
  return JSON.parse(json) as Manifest;
}
