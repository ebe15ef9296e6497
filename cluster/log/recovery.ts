// Opening a log folder: finds out what every group had made durable. In this order, so that nothing is deleted or changed before all of it
// was understood:
//   1. manifest;  2. headers of all log files, footers of the sealed ones, records of the unsealed tail;  3. replay per group, in order;
//   4. chain of (index, previous term), commit, snapshots checked;  5. only now: tail cut, sealed and synced. The caller then writes the
//   manifest anew, moves damaged files aside and removes the garbage.
//
// Damage is found per group (`damage.ts`): such a group comes back without its entries, and its other files stay as long as it is not reset.
// Only a manifest that is gone or too old in all its copies, a foreign folder and unknown versions are refused.
//
// The bytes of entries in sealed files are not read here: time goes with the number of entries, not with their size.

import { crc32 } from 'node:zlib';
import type { Disk, DiskFile } from '../ports.ts';
import { decodeFileHeader, decodeTrailer, type FileHeader, FileKind, fileHeaderBytes, trailerBytes } from './codec.ts';
import { noConfiguration } from './configuration.ts';
import { Damage, findingsMax, isSetAside } from './damage.ts';
import { type LogEnd, laterEnd, readEndMark } from './end-mark.ts';
import { assert, isDamage, LogError } from './errors.ts';
import { type FileGroup, FileIndex, type Reset, truncateRuns } from './file-index.ts';
import { LogFile, logFilePath, logFolder, parseLogFileName, sealFile, snapshotFolder } from './files.ts';
import { GroupLog } from './group.ts';
import {
  type FoundManifest,
  type Manifest,
  type ManifestFile,
  manifestPath,
  readManifest,
  type Truncation,
  writeManifest,
} from './manifest.ts';
import { scanRecords } from './scan.ts';
import { parseSnapshotName, readSnapshotInfo, snapshotPath } from './snapshot-file.ts';
import { type LogOptions, type RecoveredGroup, unknownIndex } from './types.ts';
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
  /** Of the manifest that was found. */
  readonly generation: number;
  readonly damage: Damage;
}

interface Folder extends Recovered {
  readonly manifest: Manifest;
  /** The log is known to have been durable up to here. */
  readonly durable: LogEnd;
  /** Log files with records, ascending. */
  readonly logs: LogFile[];
  /** Log files whose footer has to be written, anew or for the first time. */
  readonly unsealed: LogFile[];
  /** Kept files that are there, by sequence. */
  readonly keptPaths: Map<number, string>;
  /** Kept files that count. */
  readonly keptWanted: Map<number, WantedKept>;
}

interface WantedKept {
  /** The log file whose record says that it counts. */
  readonly committedIn: number;
  /** What the manifest says of it; null: nothing yet. */
  readonly listed: ManifestFile | null;
  readonly groups: readonly number[];
}

/** What there is of one file. `empty`: it never held a record. */
type Opened =
  | { readonly kind: 'sound'; readonly file: LogFile; readonly previous: number }
  | { readonly kind: 'empty' }
  /** It names a later manifest than there is. */
  | { readonly kind: 'newer' }
  | { readonly kind: 'damaged'; readonly what: string };

export async function recover(disk: Disk, identity: Identity & Pick<LogOptions, 'mayHold'>): Promise<Recovered> {
  const { manifest, damaged } = await openManifest(disk, identity);
  const wanted = (listed: ManifestFile): WantedKept => ({ committedIn: 0, listed, groups: listed.groups });
  const folder: Folder = {
    manifest,
    files: [],
    groups: restoreGroups(manifest),
    garbage: [],
    nextSequence: manifest.nextSequence,
    coveredTo: manifest.coveredTo,
    generation: manifest.generation,
    durable: laterEnd(manifest.durable, await readEndMark(disk)),
    damage: new Damage(),
    logs: [],
    unsealed: [],
    keptPaths: new Map(),
    keptWanted: new Map(manifest.keptFiles.map((listed) => [listed.sequence, wanted(listed)])),
  };
  const { damage, groups } = folder;
  const { mayHold } = identity;
  damage.files.push(...damaged);
  await readLogFiles(disk, folder, identity);
  replay(folder);
  await readKeptFiles(disk, folder, identity);
  for (const group of groups.values()) {
    finishGroup(group, damage);
    folder.nextSequence = Math.max(folder.nextSequence, group.keptFrom + 1);
  }
  await checkSnapshots(disk, folder);
  // The beginning of a group may have been lost with the rest: it must not begin empty, as if it had never voted.
  if (damage.everywhere.length > 0 && mayHold !== undefined)
    for (const id of mayHold.groups) if (!groups.has(id)) groups.set(id, unknownGroup(id, mayHold.replica));
  for (const group of groups.values())
    group.damage = [...new Set([...group.damage, ...damage.of(group.group)])].slice(0, findingsMax);
  for (const file of folder.unsealed) await sealTail(disk, file);
  const last = folder.logs[folder.logs.length - 1];
  if (last !== undefined && last.sequence > manifest.coveredTo && !folder.unsealed.includes(last))
    await syncSealed(disk, last);
  folder.files.push(...folder.logs);
  folder.coveredTo = Math.max(folder.coveredTo, last?.sequence ?? 0);
  keepForRepair(folder);
  return folder;
}

/** As long as a group is damaged nothing is removed that may have been its: what is not known of may only be forgotten. */
function keepForRepair({ groups, garbage }: Folder): void {
  if (![...groups.values()].some((group) => group.damage.length > 0)) return;
  const passing = garbage.filter((path) => /\.(tmp|staging|volatile)$/.test(path));
  garbage.splice(0, garbage.length, ...passing);
}

// ---- 1. manifest ----

async function openManifest(disk: Disk, identity: Identity): Promise<FoundManifest> {
  await disk.makeFolder('');
  const found = await findManifest(disk);
  if (found !== null) {
    checkIdentity(found.manifest, identity, manifestPath);
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
      throw new LogError('corrupt', `manifest is missing, but ${folder}/ is not empty. ${remedy}`, manifestPath);
  const fresh: Manifest = {
    ...{ clusterId: identity.clusterId, nodeUuid: identity.nodeUuid },
    generation: 1,
    coveredTo: 0,
    files: [],
    keptFiles: [],
    durable: { sequence: 0, bytes: 0 },
    nextSequence: 1,
    groups: [],
  };
  await writeManifest(disk, fresh);
  return { manifest: fresh, damaged: [] };
}

/** Without a manifest nobody knows what this node has said. */
const remedy = 'Put back the whole folder as it was last, or let a new node take the place of this one';

async function findManifest(disk: Disk): Promise<FoundManifest | null> {
  try {
    return await readManifest(disk);
  } catch (error) {
    if (!(error instanceof LogError) || error.code !== 'corrupt') throw error;
    throw new LogError('corrupt', `${error.detail}, and there is no sound copy. ${remedy}`, error.file, error.offset);
  }
}

function checkIdentity(found: Identity, expected: Identity, path: string): void {
  if (found.clusterId !== expected.clusterId)
    throw new LogError('foreign', `log of cluster ${found.clusterId}, not ${expected.clusterId}`, path);
  if (found.nodeUuid !== expected.nodeUuid)
    throw new LogError('foreign', `log of node ${found.nodeUuid}, not ${expected.nodeUuid}`, path);
}

// ---- 2. log files ----

async function readLogFiles(disk: Disk, folder: Folder, identity: Identity): Promise<void> {
  const { manifest, garbage, damage, keptPaths } = folder;
  const listed = new Map(manifest.files.map((file) => [file.sequence, file]));
  const sequences: number[] = [];
  for (const name of await disk.list(logFolder)) {
    const path = `${logFolder}/${name}`;
    if (isSetAside(name)) continue;
    const parsed = parseLogFileName(name);
    if (parsed === null) {
      // Whatever it is, nobody misses it.
      damage.files.push(path);
      continue;
    }
    const { sequence, kind } = parsed;
    folder.nextSequence = Math.max(folder.nextSequence, sequence + 1);
    if (kind === FileKind.volatile) garbage.push(path);
    else if (kind === FileKind.kept) keptPaths.set(sequence, path);
    else if (sequence <= manifest.coveredTo && !listed.has(sequence)) garbage.push(path);
    else sequences.push(sequence);
  }
  for (const { sequence, groups } of manifest.files)
    if (!sequences.includes(sequence))
      damage.lost(groups, `log file is missing (${logFilePath(sequence, FileKind.log)})`);
  const last = await lastWithRecords(disk, sequences, fileHeaderBytes(identity));
  for (const sequence of sequences)
    await takeLogFile(disk, folder, identity, sequence, listed.get(sequence) ?? null, sequence === last);
  const { durable } = folder;
  const seen = Math.max(0, ...folder.logs.map((file) => file.sequence), folder.coveredTo);
  if (durable.sequence > seen)
    damage.lost(null, `log file is missing (${logFilePath(durable.sequence, FileKind.log)})`);
}

/** The newest file that is longer than a header: those behind it were prepared, and never written to. */
async function lastWithRecords(disk: Disk, sequences: readonly number[], headerBytes: number): Promise<number> {
  for (let i = sequences.length - 1; i >= 0; i--) {
    const handle = await disk.open(logFilePath(sequences[i]!, FileKind.log), 'read');
    const { size } = handle;
    await handle.close();
    if (size > headerBytes) return sequences[i]!;
  }
  return 0;
}

async function takeLogFile(
  disk: Disk,
  folder: Folder,
  identity: Identity,
  sequence: number,
  listed: ManifestFile | null,
  isLast: boolean,
): Promise<void> {
  const { manifest, durable, logs, garbage, damage, unsealed } = folder;
  const path = logFilePath(sequence, FileKind.log);
  const opened = await openLogFile(disk, folder, identity, sequence, FileKind.log, listed, isLast);
  if (opened.kind === 'newer')
    throw new LogError('corrupt', `manifest is older than a log file: it was put back. ${remedy}`, path);
  if (opened.kind === 'empty') {
    garbage.push(path);
    // The next crash may bring it back, torn as it is: by then the manifest has to know that it holds nothing.
    if (isLast && durable.sequence < sequence) folder.coveredTo = Math.max(folder.coveredTo, sequence);
    return;
  }
  if (opened.kind === 'damaged') {
    // Of what the manifest covers only the entries count.
    damage.lost(listed === null ? null : listed.groups, `${opened.what} (${path})`);
    damage.files.push(path);
    folder.coveredTo = Math.max(folder.coveredTo, sequence);
    return;
  }
  const { file, previous } = opened;
  const before = Math.max(logs[logs.length - 1]?.sequence ?? 0, folder.coveredTo);
  if (previous > manifest.coveredTo && previous > before)
    damage.lost(null, `log file is missing (${logFilePath(previous, FileKind.log)})`);
  logs.push(file);
  if (!file.sealed) unsealed.push(file);
}

/** Reads what is needed of a file: its footer, or its records if it has none. */
async function openLogFile(
  disk: Disk,
  { manifest, damage, durable }: Folder,
  identity: Identity,
  sequence: number,
  kind: FileKind,
  listed: ManifestFile | null,
  isLast: boolean,
): Promise<Opened> {
  const path = logFilePath(sequence, kind);
  const handle = await disk.open(path, 'read');
  try {
    const header = await readHeader(handle, path, identity);
    if (header === 'damaged') return damaged('file header is damaged');
    if (header === 'foreign') return damaged('file is another one, by its header');
    if (header === null || handle.size === header.bytes)
      return listed === null ? { kind: 'empty' } : damaged('file is empty');
    if (header.sequence !== sequence || header.kind !== kind) return damaged('file is another one, by its header');
    if (listed !== null && listed.salt !== header.salt) return damaged('file is an older one of this name');
    if (kind === FileKind.log && header.generation > manifest.generation) return { kind: 'newer' };
    const file = new LogFile(sequence, kind, header.salt, header.bytes);
    const { previous } = header;
    if (await readFooter(handle, file)) {
      file.sealed = true;
      return listed === null || listed.bytes === file.bytes
        ? { kind: 'sound', file, previous }
        : damaged('file has another length');
    }
    const durableTo = durable.sequence === sequence ? durable.bytes : 0;
    const scanned = await scanRecords(handle, file, listed?.bytes ?? durableTo);
    // The footer was durable before the file was listed, or anything was written to the next one: it can be made again from the records.
    const isWhole = file.bytes + file.encodeFooter().length === (listed?.bytes ?? handle.size);
    if ((listed !== null || kind === FileKind.kept || !isLast) && !isWhole)
      return damaged('records of a sealed file are damaged');
    if (listed === null && scanned.hole >= 0 && !isWhole)
      return damaged(`bytes that were durable are damaged from ${scanned.hole} on`);
    for (const [group, what] of scanned.damaged) damage.found(group, what);
    file.isDamaged = scanned.damaged.size > 0;
    return file.isEmpty ? { kind: 'empty' } : { kind: 'sound', file, previous };
  } catch (error) {
    if (!isDamage(error)) throw error;
    return damaged((error as Error).message);
  } finally {
    await handle.close();
  }
}

const damaged = (what: string): Opened => ({ kind: 'damaged', what });

async function readHeader(
  handle: DiskFile,
  path: string,
  identity: Identity,
): Promise<FileHeader | 'damaged' | 'foreign' | null> {
  const header = decodeFileHeader(await readBytes(handle, 0, headerBytesMax));
  if (header === 'version') throw new LogError('version', 'log file version is not known', path);
  if (header !== null)
    return header.clusterId === identity.clusterId && header.nodeUuid === identity.nodeUuid ? header : 'foreign';
  // The header is durable before the first record is written: a file that is longer than any header lost it later.
  return handle.size > fileHeaderBytes(identity) ? 'damaged' : null;
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

/** Cuts off what a crash tore, or what a footer was, then writes the footer. */
async function sealTail(disk: Disk, file: LogFile): Promise<void> {
  const handle = await disk.open(file.path, 'write');
  try {
    if (handle.size > file.bytes) await handle.truncate(file.bytes);
    await sealFile(file, handle);
  } finally {
    await handle.close();
  }
}

/** Makes durable what so far may only be in the system's cache: a footer too may have been written by a process that died before its sync. */
async function syncSealed(disk: Disk, file: LogFile): Promise<void> {
  const handle = await disk.open(file.path, 'write');
  try {
    await syncFile(handle);
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
    group.damage = row.damage;
    group.settle();
    groups.set(row.group, group);
  }
  return groups;
}

function unknownGroup(id: number, replica: number): GroupLog {
  const group = new GroupLog(id, replica, { index: 0, term: 0, configuration: noConfiguration });
  group.isDurable = true;
  return group;
}

/** Files up to `coveredTo` bring entries only, the others everything; truncations of the manifest come in where they happened. */
function replay(folder: Folder): void {
  const { manifest, groups, logs, damage } = folder;
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
      if (!covered) replayControl(folder, part, file);
      const group = groups.get(part.group);
      if (group === undefined && !covered) {
        // Its beginning is lost, and with it perhaps a vote.
        groups.set(part.group, unknownGroup(part.group, part.replica));
        damage.found(part.group, `records of a group without its beginning (${file.path})`);
      }
      if (group !== undefined && group.replica === part.replica) addRuns(group, part, file, covered, damage);
    }
  }
  truncateUpTo(manifest.coveredTo);
  assert(next === truncations.length, 'truncations of the manifest lie in what it covers');
}

function replayControl({ groups, keptWanted }: Folder, part: FileGroup, file: LogFile): void {
  let group = groups.get(part.group);
  if (part.created !== null && (group === undefined || part.replica > group.replica)) {
    group = new GroupLog(part.group, part.replica, part.created);
    groups.set(part.group, group);
  }
  if (group === undefined || group.replica !== part.replica) return;
  if (part.truncateFrom > 0) group.kill(part.truncateFrom, file.sequence);
  if (part.reset !== null) {
    replayReset(group, part.reset);
  }
  for (const install of part.installs) {
    for (const sequence of install.keptFiles)
      if (!keptWanted.has(sequence))
        keptWanted.set(sequence, { committedIn: file.sequence, listed: null, groups: [part.group] });
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
  if (!isKnown) {
    group.damage = [];
    return;
  }
  const { snapshot, snapshotStored, compacted } = group.stable;
  group.snapshot = snapshot;
  group.snapshotStored = snapshotStored;
  group.compacted = compacted;
}

/**
 * Entries come in the order in which they were appended. One that is there already says that a truncation came in between: in a covered
 * file that may be merged into a later one of the manifest, else its record was just replayed.
 */
function addRuns(group: GroupLog, part: FileGroup, file: LogFile, covered: boolean, damage: Damage): void {
  for (const run of part.runs) {
    const last = group.runs[group.runs.length - 1];
    if (last !== undefined && run.first <= last.last) {
      if (!covered) damage.found(group.group, `entry ${run.first} comes twice (${file.path} at ${run.offsets[0]})`);
      truncateRuns(group.runs, run.first);
    }
    group.runs.push(run);
  }
}

async function readKeptFiles(disk: Disk, folder: Folder, identity: Identity): Promise<void> {
  const { manifest, keptPaths, keptWanted, groups, garbage, files, damage, unsealed } = folder;
  for (const [sequence, path] of keptPaths) if (!keptWanted.has(sequence)) garbage.push(path);
  for (const [sequence, { committedIn, listed, groups: concerned }] of [...keptWanted].sort((a, b) => b[0] - a[0])) {
    const path = logFilePath(sequence, FileKind.kept);
    if (!keptPaths.has(sequence)) {
      damage.lost(concerned, `kept file is missing (${path})`);
      continue;
    }
    const opened = await openLogFile(disk, folder, identity, sequence, FileKind.kept, listed, false);
    if (opened.kind !== 'sound') {
      damage.lost(concerned, `${opened.kind === 'damaged' ? opened.what : 'kept file is empty'} (${path})`);
      damage.files.push(path);
      continue;
    }
    const { file } = opened;
    file.committedIn = committedIn <= manifest.coveredTo ? 0 : committedIn;
    files.push(file);
    if (!file.sealed) unsealed.push(file);
    for (const part of file.index.groups.values()) {
      const group = groups.get(part.group);
      const counts = group !== undefined && group.replica === part.replica && sequence >= group.keptFrom;
      if (counts) group.kept.push(...part.runs);
    }
  }
}

// ---- 4. checks ----

function finishGroup(group: GroupLog, damage: Damage): void {
  const last = group.runs[group.runs.length - 1];
  const end = last !== undefined && last.last > group.compacted.index ? last : null;
  group.lastIndex = end === null ? group.compacted.index : end.last;
  group.lastTerm = end === null ? group.compacted.term : end.term;
  group.durableIndex = group.lastIndex;
  group.beginCache();
  group.isDurable = true;
  group.settle();
  const broken = group.findBreak();
  if (broken !== null) damage.found(group.group, `${broken} (${logFolder})`);
  if (group.snapshot.configuration.voters.length === 0) damage.found(group.group, `nobody votes (${logFolder})`);
  const needed = Math.max(group.hardState.commit, group.snapshot.index);
  if (group.lastIndex < needed)
    damage.found(group.group, `log ends at ${group.lastIndex}, but ${needed} was committed (${logFolder})`);
}

async function checkSnapshots(disk: Disk, { groups, garbage, damage }: Folder): Promise<void> {
  const names = await disk.list(snapshotFolder);
  const wanted = new Map<string, GroupLog>();
  for (const group of groups.values()) {
    if (!group.snapshotStored) continue;
    const { index, term } = group.snapshot;
    wanted.set(snapshotPath(group.group, index, term), group);
  }
  for (const name of names) {
    const path = `${snapshotFolder}/${name}`;
    if (isSetAside(name)) continue;
    const group = wanted.get(path);
    if (group !== undefined) {
      wanted.delete(path);
      const problem = await problemOfSnapshot(disk, path, group);
      if (problem === null) continue;
      damage.found(group.group, problem);
      damage.files.push(path);
    } else if (parseSnapshotName(name) !== null || /\.(tmp|staging)$/.test(name)) garbage.push(path);
    else damage.files.push(path);
  }
  for (const [path, { group }] of wanted) damage.found(group, `snapshot is missing (${path})`);
}

/** The ends of it only: what lies between is checked when it is read. */
async function problemOfSnapshot(disk: Disk, path: string, group: GroupLog): Promise<string | null> {
  const handle = await disk.open(path, 'read');
  try {
    const info = await readSnapshotInfo(handle, 0, handle.size, path);
    const { index, term } = group.snapshot;
    const fits = info.group === group.group && info.meta.index === index && info.meta.term === term;
    return fits ? null : `snapshot is another one (${path})`;
  } catch (error) {
    if (!isDamage(error)) throw error;
    return (error as Error).message;
  } finally {
    await handle.close();
  }
}

/** Neither how far it had come nor which terms it had seen is known for sure, and none of it counts. */
function describeDamaged({ group, replica, hardState: { term, vote }, snapshot, damage }: GroupLog): RecoveredGroup {
  const { configuration } = snapshot;
  return {
    group,
    replica,
    hardState: { term, vote, commit: 0 },
    snapshot: { index: 0, term: 0, configuration },
    compacted: { index: 0, term: 0 },
    repairTo: unknownIndex,
    entries: [],
    // Of one that was emptied because of damage, and had not got all again.
    damage: damage.length > 0 ? damage : ['it was damaged, and is not built anew yet'],
  };
}

/** What the host is told of a group. */
export function describeGroup(group: GroupLog): RecoveredGroup {
  const { group: id, replica, hardState, snapshot, compacted, repairTo, damage } = group;
  const entries: RecoveredGroup['entries'] = [];
  if (damage.length > 0 || repairTo === unknownIndex) return describeDamaged(group);
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
  return { group: id, replica, hardState, snapshot, compacted, repairTo, entries, damage };
}
