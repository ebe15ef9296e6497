// The manifest: per group what must survive the deletion of log files. Small, and the one thing that everything hangs on: so there are two
// copies with the same content, written one after the other, each replaced as a whole (temporary file, sync, rename, folder sync). Text, so
// that a person can read it: `warren-manifest 3 <crc32 of the rest>`, a line of JSON.
//
// Meaning: hard states, truncations and what is to be repaired are as of the end of log file `coveredTo`; records in later files are replayed on top. Log files up
// to `coveredTo` that are not listed, and kept files that neither the manifest nor a later checkpoint names, are garbage.
//
// Invariants: nothing that only an older copy names is deleted before both are newer, so either of them alone is enough to open the log. Log
// files name the generation that both copies had when they were made: a pair that is older than that was put back, and is refused.

import { crc32 } from 'node:zlib';
import type { HardState, SnapshotMeta } from 'raft-ts';
import type { Disk } from '../ports.ts';
import { LogError } from './errors.ts';
import { removeIfPresent, writeWholeFile } from './whole-files.ts';

export const manifestPath = 'manifest';
export const manifestCopyPath = 'manifest.copy';
const copies = [manifestPath, manifestCopyPath];
const temporaryPath = 'manifest.tmp';
const manifestVersion = 3;

/** A sealed file, so that another one in its place, or a part of it, is not taken for it; and whom it concerns, should it be gone. */
export interface ManifestFile {
  readonly sequence: number;
  readonly salt: number;
  readonly bytes: number;
  /** Groups with entries in it. */
  readonly groups: readonly number[];
}

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
  /** What of it is damaged: it is to be built anew, and nothing of it counts before. Empty: it is sound. */
  readonly damage: readonly string[];
}

export interface Manifest {
  readonly clusterId: string;
  readonly nodeUuid: string;
  /** Counts up with every one that is written. */
  readonly generation: number;
  readonly coveredTo: number;
  /** Log files up to `coveredTo`, ascending. */
  readonly files: readonly ManifestFile[];
  readonly keptFiles: readonly ManifestFile[];
  /** The end of what was durable of the file that was being written. */
  readonly durable: { readonly sequence: number; readonly bytes: number };
  /** Sequences below it were given out. */
  readonly nextSequence: number;
  readonly groups: readonly ManifestGroup[];
}

/** Writes both copies; when it resolves, both are durable. */
export async function writeManifest(disk: Disk, manifest: Manifest): Promise<void> {
  const json = `${JSON.stringify(manifest)}\n`;
  const checksum = crc32(json).toString(16).padStart(8, '0');
  const bytes = Buffer.from(`warren-manifest ${manifestVersion} ${checksum}\n${json}`, 'utf8');
  for (const path of copies) {
    await removeIfPresent(disk, temporaryPath);
    await writeWholeFile(disk, temporaryPath, bytes);
    await disk.rename(temporaryPath, path);
    await disk.syncFolder('');
  }
}

export interface FoundManifest {
  readonly manifest: Manifest;
  /** Copies that are no use. */
  readonly damaged: readonly string[];
}

/** The newest sound copy, or null if there is none at all. Throws `corrupt` and `version`; a damaged manifest is never taken for a missing one. */
export async function readManifest(disk: Disk): Promise<FoundManifest | null> {
  let newest: Manifest | null = null;
  let failure: LogError | null = null;
  const damaged: string[] = [];
  for (const path of copies) {
    const bytes = await readIfReadable(disk, path);
    if (bytes === null) continue;
    const found = bytes instanceof LogError ? bytes : parse(bytes, path);
    if (found instanceof LogError) {
      if (found.code === 'version') throw found;
      failure ??= found;
      damaged.push(path);
    } else if (newest === null || found.generation > newest.generation) newest = found;
  }
  if (newest !== null) return { manifest: newest, damaged };
  if (failure !== null) throw failure;
  return null;
}

async function readIfReadable(disk: Disk, path: string): Promise<Buffer | LogError | null> {
  try {
    return await disk.readFile(path);
  } catch (error) {
    return new LogError('corrupt', `manifest cannot be read: ${(error as Error).message}`, path);
  }
}

function parse(bytes: Buffer, path: string): Manifest | LogError {
  const text = bytes.toString('utf8');
  const lineEnd = text.indexOf('\n');
  const match = /^warren-manifest (\d+) ([0-9a-f]{8})$/.exec(text.slice(0, Math.max(0, lineEnd)));
  if (match === null) return new LogError('corrupt', 'manifest has a damaged first line', path, 0);
  const json = text.slice(lineEnd + 1);
  if (crc32(json) !== Number.parseInt(match[2]!, 16))
    return new LogError('corrupt', 'manifest does not match its checksum', path, lineEnd + 1);
  if (Number(match[1]) !== manifestVersion) return new LogError('version', 'manifest version is not known', path);
  return JSON.parse(json) as Manifest;
}
