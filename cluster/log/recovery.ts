// Opening a log folder: finds out what every group had made durable. In this order, so that nothing is deleted or changed before all of it
// was understood (a damaged folder stays as it is, for whoever repairs it):
//   1. manifest;  2. headers of all log files, footers of the sealed ones, records of the unsealed tail;  3. replay per group, in order;
//   4. chain of (index, previous term), commit, snapshots checked;  5. only now: tail cut, sealed and synced. The caller then writes the
//   manifest anew and removes the garbage.
//
// The bytes of entries in sealed files are not read here: time goes with the number of entries, not with their size.

import { crc32 } from 'node:zlib';
import type { Disk, DiskFile } from '../ports.ts';
import { decodeFileHeader, decodeTrailer, type FileHeader, FileKind, trailerBytes } from './codec.ts';
import { assert, LogError } from './errors.ts';
import { type FileGroup, FileIndex, type Reset, truncateRuns } from './file-index.ts';
import { LogFile, logFilePath, logFolder, parseLogFileName, sealFile, snapshotFolder } from './files.ts';
import { GroupLog } from './group.ts';
import { type Manifest, manifestPath, readManifest, type Truncation, writeManifest } from './manifest.ts';
import { scanRecords } from './scan.ts';
import { parseSnapshotName, readSnapshotInfo, snapshotPath } from './snapshot-file.ts';
import type { RecoveredGroup } from './types.ts';
import { readBytes, syncFile } from './whole-files.ts';
import type { Identity } from './writer.ts';

const headerBytesMax = 4096;

export interface Recovered {
  /** Log and kept files, all sealed. */
  readonly files: LogFile[];
  readonly groups: Map<number, GroupLog>;
  /** Paths that hold nothing any more: to be removed once a manifest that does not name them is durable. */
  readonly garbage: string[];
  nextSequence: number;
  /** Never goes back, also when the files that it counted are gone: the manifest's truncations are named by their place. */
  coveredTo: number;
}

interface Folder extends Recovered {
  readonly manifest: Manifest;
  /** Log files with records, ascending. */
  readonly logs: LogFile[];
  /** The last log file, if it has no footer. */
  tail: LogFile | null;
  /** Kept files that are there, by sequence. */
  readonly keptPaths: Map<number, string>;
  /** Kept files that count, with the log file whose record says so. */
  readonly keptWanted: Map<number, number>;
}

export async function recover(disk: Disk, identity: Identity): Promise<Recovered> {
  const manifest = await openManifest(disk, identity);
  const folder: Folder = {
    manifest,
    files: [],
    groups: restoreGroups(manifest),
    garbage: [],
    nextSequence: manifest.nextSequence,
    coveredTo: manifest.coveredTo,
    logs: [],
    tail: null,
    keptPaths: new Map(),
    keptWanted: new Map(manifest.keptFiles.map((sequence) => [sequence, 0])),
  };
  await readLogFiles(disk, folder, identity);
  replay(folder);
  await readKeptFiles(disk, folder, identity);
  for (const group of folder.groups.values()) {
    finishGroup(group);
    folder.nextSequence = Math.max(folder.nextSequence, group.keptFrom + 1);
  }
  await checkSnapshots(disk, folder);
  const last = folder.logs[folder.logs.length - 1];
  if (last !== undefined && last.sequence > manifest.coveredTo) await sealTail(disk, last);
  folder.files.push(...folder.logs);
  folder.coveredTo = Math.max(manifest.coveredTo, last?.sequence ?? 0);
  return folder;
}

// ---- 1. manifest ----

async function openManifest(disk: Disk, identity: Identity): Promise<Manifest> {
  await disk.makeFolder('');
  const found = await readManifest(disk);
  if (found !== null) {
    checkIdentity(found, identity, manifestPath);
    await disk.makeFolder(logFolder);
    await disk.makeFolder(snapshotFolder);
    await disk.syncFolder('');
    return found;
  }
  await disk.makeFolder(logFolder);
  await disk.makeFolder(snapshotFolder);
  // The manifest is durable before the first log file exists, so its absence beside one is a loss.
  for (const folder of [logFolder, snapshotFolder])
    if ((await disk.list(folder)).length > 0)
      throw new LogError('corrupt', `manifest is missing, but ${folder}/ is not empty`, manifestPath);
  const fresh: Manifest = { ...identity, coveredTo: 0, files: [], keptFiles: [], nextSequence: 1, groups: [] };
  await writeManifest(disk, fresh);
  return fresh;
}

function checkIdentity(found: Identity, expected: Identity, path: string): void {
  if (found.clusterId !== expected.clusterId)
    throw new LogError('foreign', `log of cluster ${found.clusterId}, not ${expected.clusterId}`, path);
  if (found.nodeUuid !== expected.nodeUuid)
    throw new LogError('foreign', `log of node ${found.nodeUuid}, not ${expected.nodeUuid}`, path);
}

// ---- 2. log files ----

async function readLogFiles(disk: Disk, folder: Folder, identity: Identity): Promise<void> {
  const { manifest, logs, garbage } = folder;
  const listed = new Set(manifest.files);
  const sequences: number[] = [];
  for (const name of await disk.list(logFolder)) {
    const parsed = parseLogFileName(name);
    if (parsed === null) throw new LogError('corrupt', 'file does not belong here', `${logFolder}/${name}`);
    const { sequence, kind } = parsed;
    folder.nextSequence = Math.max(folder.nextSequence, sequence + 1);
    if (kind === FileKind.volatile) garbage.push(`${logFolder}/${name}`);
    else if (kind === FileKind.kept) folder.keptPaths.set(sequence, `${logFolder}/${name}`);
    else if (sequence <= manifest.coveredTo && !listed.has(sequence)) garbage.push(`${logFolder}/${name}`);
    else sequences.push(sequence);
    listed.delete(sequence);
  }
  for (const sequence of listed)
    throw new LogError('corrupt', 'log file is missing', logFilePath(sequence, FileKind.log));
  for (const sequence of sequences) {
    const opened = await openLogFile(disk, sequence, FileKind.log, identity);
    const { tail } = folder;
    const covered = sequence <= manifest.coveredTo;
    if (covered && opened?.file.sealed !== true)
      throw new LogError('corrupt', 'sealed file is cut or its footer is damaged', logFilePath(sequence, FileKind.log));
    if (opened === null) {
      // Prepared, never written to. Only the last one may have lost its header: the next is prepared after it.
      garbage.push(logFilePath(sequence, FileKind.log));
      continue;
    }
    if (tail !== null)
      throw new LogError('corrupt', 'footer of a sealed file is missing or damaged', tail.path, tail.bytes);
    const { file, previous } = opened;
    const before = logs[logs.length - 1]?.sequence ?? 0;
    if (previous > manifest.coveredTo && previous !== before)
      throw new LogError('corrupt', 'log file is missing', logFilePath(previous, FileKind.log));
    logs.push(file);
    if (!file.sealed) folder.tail = file;
  }
}

/** Reads what is needed of a file: its footer, or its records if it has none. Null: it never held a record. */
async function openLogFile(
  disk: Disk,
  sequence: number,
  kind: FileKind,
  identity: Identity,
): Promise<{ file: LogFile; previous: number } | null> {
  const path = logFilePath(sequence, kind);
  const handle = await disk.open(path, 'read');
  try {
    const header = await readHeader(handle, path, identity);
    if (header === null || handle.size === header.bytes) return null;
    if (header.sequence !== sequence || header.kind !== kind)
      throw new LogError('corrupt', 'file header is that of another file', path, 0);
    const file = new LogFile(sequence, kind, header.salt, header.bytes);
    if (await readFooter(handle, file)) file.sealed = true;
    else await scanRecords(handle, file);
    return file.sealed || !file.isEmpty ? { file, previous: header.previous } : null;
  } finally {
    await handle.close();
  }
}

async function readHeader(handle: DiskFile, path: string, identity: Identity): Promise<FileHeader | null> {
  const header = decodeFileHeader(await readBytes(handle, 0, headerBytesMax));
  if (header === 'version') throw new LogError('version', 'log file version is not known', path);
  if (header !== null) {
    checkIdentity(header, identity, path);
    return header;
  }
  // The header is durable before the first record is written: a file that is longer than any header lost it later.
  const { clusterId, nodeUuid } = identity;
  const expected = 48 + Buffer.byteLength(clusterId) + Buffer.byteLength(nodeUuid);
  if (handle.size > expected) throw new LogError('corrupt', 'file header is damaged', path, 0);
  return null;
}

async function readFooter(handle: DiskFile, file: LogFile): Promise<boolean> {
  const { size } = handle;
  if (size < file.headerBytes + trailerBytes) return false;
  const trailer = decodeTrailer(await readBytes(handle, size - trailerBytes, trailerBytes), file.salt);
  if (trailer === null || trailer.footerOffset + trailer.footerBytes + trailerBytes !== size) return false;
  const footer = await readBytes(handle, trailer.footerOffset, trailer.footerBytes);
  // A torn footer of the last file is found by its records then; of another file it is damage.
  if (crc32(footer, file.salt) !== trailer.checksum) return false;
  file.index = FileIndex.decode(file, footer);
  file.bytes = size;
  return true;
}

/**
 * Cuts off what a crash tore, then writes the footer. The sync also makes durable what so far was only in the system's cache: a footer too
 * may have been written by a process that died before its sync.
 */
async function sealTail(disk: Disk, file: LogFile): Promise<void> {
  const handle = await disk.open(file.path, 'write');
  try {
    if (file.sealed) {
      await syncFile(handle);
      return;
    }
    if (handle.size > file.bytes) await handle.truncate(file.bytes);
    await sealFile(file, handle);
  } finally {
    await handle.close();
  }
}

// ---- 3. replay ----

function restoreGroups(manifest: Manifest): Map<number, GroupLog> {
  const groups = new Map<number, GroupLog>();
  for (const row of manifest.groups) {
    const group = new GroupLog(row.group, row.replica, row.snapshot);
    group.hardState = row.hardState;
    group.snapshotStored = row.snapshotStored;
    group.compacted = row.compacted;
    group.repairTo = row.repairTo;
    group.keptFrom = row.keptFrom;
    group.settle();
    groups.set(row.group, group);
  }
  return groups;
}

/** Files up to `coveredTo` bring entries only, the others everything; truncations of the manifest come in where they happened. */
function replay({ manifest, groups, logs, keptWanted }: Folder): void {
  const truncations = manifest.groups.flatMap((row) =>
    row.truncations.map((truncation): [number, number, Truncation] => [row.group, row.replica, truncation]),
  );
  truncations.sort((a, b) => a[2].position - b[2].position);
  let next = 0;
  const truncateUpTo = (position: number) => {
    for (; next < truncations.length && truncations[next]![2].position <= position; next++) {
      const [id, replica, truncation] = truncations[next]!;
      const group = groups.get(id)!;
      if (group.replica === replica) group.kill(truncation.from, truncation.position);
    }
  };
  for (const file of logs) {
    const covered = file.sequence <= manifest.coveredTo;
    truncateUpTo(covered ? file.sequence : manifest.coveredTo);
    for (const part of file.index.groups.values()) {
      if (!covered) replayControl(groups, part, file, keptWanted);
      const group = groups.get(part.group);
      if (group === undefined && !covered)
        throw new LogError('corrupt', `records of group ${part.group}, which was never created`, file.path);
      if (group !== undefined && group.replica === part.replica) addRuns(group, part, file, covered);
    }
  }
  truncateUpTo(manifest.coveredTo);
  assert(next === truncations.length, 'truncations of the manifest lie in what it covers');
}

function replayControl(
  groups: Map<number, GroupLog>,
  part: FileGroup,
  file: LogFile,
  keptWanted: Map<number, number>,
): void {
  let group = groups.get(part.group);
  if (part.created !== null && (group === undefined || part.replica > group.replica)) {
    group = new GroupLog(part.group, part.replica, part.created);
    groups.set(part.group, group);
  }
  if (group === undefined || group.replica !== part.replica) return;
  if (part.truncateFrom > 0) group.kill(part.truncateFrom, file.sequence);
  if (part.reset !== null) replayReset(group, part.reset);
  for (const install of part.installs) {
    for (const sequence of install.keptFiles) keptWanted.set(sequence, file.sequence);
    if (install.index <= group.snapshot.index) continue;
    const { index, term, configuration } = install;
    group.snapshot = { index, term, configuration };
    group.snapshotStored = true;
    group.compacted = { index, term };
  }
  if (part.hardState !== null) group.hardState = part.hardState;
  if (part.repairTo !== null) group.repairTo = part.repairTo;
}

/** What the manifest says of snapshots may be from after this reset, though the record lies in a later file than it covers. */
function replayReset(group: GroupLog, reset: Reset): void {
  const isKnown = reset.keptFrom === group.keptFrom;
  group.restart(reset);
  if (!isKnown) return;
  const { snapshot, snapshotStored, compacted } = group.stable;
  group.snapshot = snapshot;
  group.snapshotStored = snapshotStored;
  group.compacted = compacted;
}

/**
 * Entries come in the order in which they were appended. One that is there already says that a truncation came in between: in a covered
 * file that may be merged into a later one of the manifest, else its record was just replayed.
 */
function addRuns(group: GroupLog, part: FileGroup, file: LogFile, covered: boolean): void {
  for (const run of part.runs) {
    const last = group.runs[group.runs.length - 1];
    if (last !== undefined && run.first <= last.last) {
      if (!covered)
        throw new LogError(
          'corrupt',
          `entry ${run.first} of group ${group.group} comes twice`,
          file.path,
          run.offsets[0]!,
        );
      truncateRuns(group.runs, run.first);
    }
    group.runs.push(run);
  }
}

async function readKeptFiles(disk: Disk, folder: Folder, identity: Identity): Promise<void> {
  const { manifest, keptPaths, keptWanted, groups, garbage, files } = folder;
  for (const [sequence, path] of keptPaths) if (!keptWanted.has(sequence)) garbage.push(path);
  for (const [sequence, committedIn] of [...keptWanted].sort((a, b) => b[0] - a[0])) {
    const path = logFilePath(sequence, FileKind.kept);
    if (!keptPaths.has(sequence)) throw new LogError('corrupt', 'kept file is missing', path);
    const opened = await openLogFile(disk, sequence, FileKind.kept, identity);
    if (opened === null || !opened.file.sealed) throw new LogError('corrupt', 'kept file has no footer', path);
    const { file } = opened;
    file.committedIn = committedIn <= manifest.coveredTo ? 0 : committedIn;
    files.push(file);
    for (const part of file.index.groups.values()) {
      const group = groups.get(part.group);
      const counts = group !== undefined && group.replica === part.replica && sequence >= group.keptFrom;
      if (counts) group.kept.push(...part.runs);
    }
  }
}

// ---- 4. checks ----

function finishGroup(group: GroupLog): void {
  const last = group.runs[group.runs.length - 1];
  const end = last !== undefined && last.last > group.compacted.index ? last : null;
  group.lastIndex = end === null ? group.compacted.index : end.last;
  group.lastTerm = end === null ? group.compacted.term : end.term;
  group.durableIndex = group.lastIndex;
  group.beginCache();
  group.isDurable = true;
  group.settle();
  const where = logFolder;
  try {
    group.check();
  } catch (error) {
    throw new LogError('corrupt', (error as Error).message, where);
  }
  const needed = Math.max(group.hardState.commit, group.snapshot.index);
  if (group.lastIndex < needed)
    throw new LogError(
      'corrupt',
      `group ${group.group} ends at ${group.lastIndex}, but ${needed} was committed`,
      where,
    );
}

async function checkSnapshots(disk: Disk, folder: Folder): Promise<void> {
  const names = await disk.list(snapshotFolder);
  const wanted = new Map<string, GroupLog>();
  for (const group of folder.groups.values()) {
    if (!group.snapshotStored) continue;
    const { index, term } = group.snapshot;
    wanted.set(snapshotPath(group.group, index, term), group);
  }
  for (const name of names) {
    const path = `${snapshotFolder}/${name}`;
    const known = parseSnapshotName(name) !== null || name.endsWith('.tmp') || name.endsWith('.staging');
    if (!known) throw new LogError('corrupt', 'file does not belong here', path);
    const group = wanted.get(path);
    if (group === undefined) {
      folder.garbage.push(path);
      continue;
    }
    wanted.delete(path);
    const handle = await disk.open(path, 'read');
    try {
      const info = await readSnapshotInfo(handle, 0, handle.size, path);
      const { index, term } = group.snapshot;
      const fits = info.group === group.group && info.meta.index === index && info.meta.term === term;
      if (!fits) throw new LogError('corrupt', 'snapshot is another one', path);
    } finally {
      await handle.close();
    }
  }
  for (const path of wanted.keys()) throw new LogError('corrupt', 'snapshot is missing', path);
}

/** What the host is told of a group. */
export function describeGroup(group: GroupLog): RecoveredGroup {
  const entries: RecoveredGroup['entries'] = [];
  for (const run of group.runs) {
    if (run.last <= group.compacted.index) continue;
    const configurations = run.file.index.groups.get(group.group)!.configurations;
    for (let slot = 0; slot < run.count; slot++) {
      const index = run.first + slot;
      if (index <= group.compacted.index) continue;
      const configuration = configurations.get(index);
      const entry = { index, term: run.term, bytes: run.lengths[slot]! };
      entries.push(configuration === undefined ? entry : { ...entry, configuration });
    }
  }
  const { group: id, replica, hardState, snapshot, compacted, repairTo } = group;
  return { group: id, replica, hardState, snapshot, compacted, repairTo, entries };
}
