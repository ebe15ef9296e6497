// What the tests of the log share: disks of both kinds, entries, promises over callbacks.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import type { Configuration, SnapshotMeta } from 'raft-ts';
import { openLog } from '../../cluster/log/index.ts';
import type {
  GroupWrite,
  LiveEntries,
  Log,
  LogEntry,
  LogOptions,
  SnapshotReader,
  SnapshotStaging,
  StateSink,
} from '../../cluster/log/types.ts';
import { createDisk } from '../../cluster/os.ts';
import type { Clock, Disk } from '../../cluster/ports.ts';
import { createMemoryDisk } from '../support/memory-disk.ts';

export const configuration: Configuration = {
  voters: [1, 2, 3],
  outgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
};

/** What lives is told by entries alone, of groups of which nothing was applied. */
export const living = (isLive: LiveEntries['isLive']): LiveEntries => ({ isLive, applied: () => 0 });

export const origin = { index: 0, term: 0, configuration };

let wall = 1_700_000_000_000;

/** Real turns, no real time. */
export const clock: Clock = {
  now: () => performance.now(),
  wall: () => ++wall,
  after: (milliseconds, task) => {
    const timer = setTimeout(task, milliseconds);
    return { cancel: () => clearTimeout(timer) };
  },
  soon: (task) => void setImmediate(task),
  nextTurn: (task) => void setImmediate(task),
};

/** Nothing seems to take any time, so nobody rests; and the end of a turn comes soon, between two steps. */
export function createRestlessClock(): Clock {
  let wall = 1_700_000_000_000;
  const soon: Clock['soon'] = (task) => queueMicrotask(task);
  return { ...clock, now: () => 0, wall: () => ++wall, soon, nextTurn: soon };
}

export function options(changes: Partial<LogOptions> = {}): LogOptions {
  return {
    clusterId: 'cluster-1',
    nodeUuid: 'node-1',
    fileBytesMax: 64 * 1024,
    cacheBytesMax: 1024 * 1024,
    keptBytesMax: 0,
    pressureBytes: 1024 * 1024 * 1024,
    volatileWaitingBytesMax: 1024 * 1024,
    compactionBytesPerSecond: 1024 * 1024 * 1024,
    compactionSlackBytes: 0,
    scrubBytesPerSecond: 0,
    ...changes,
  };
}

export interface DiskKind {
  readonly name: string;
  /** A new, empty disk; it is removed by `cleanUp`. */
  create(): Disk;
}

const folders: string[] = [];

export const diskKinds: DiskKind[] = [
  { name: 'memory', create: () => createMemoryDisk() },
  {
    name: 'os',
    create: () => {
      const folder = mkdtempSync(path.join(tmpdir(), 'warren-log-'));
      folders.push(folder);
      return createDisk(folder);
    },
  },
];

export function cleanUp(): void {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** An entry whose bytes follow from its position, so that a wrong one is seen. */
export function entry(group: number, index: number, term: number, bytes = 100): LogEntry {
  const payload = Buffer.alloc(bytes, `${group}/${index}/${term};`);
  const data = { stamp: index + 0.5, machineVersion: 3, stateHash: index * 7, payload, checksum: crc32(payload) };
  return { kind: 'data', index, term, bytes, data };
}

export function entries(group: number, first: number, last: number, term: number, bytes = 100): LogEntry[] {
  return Array.from({ length: last - first + 1 }, (_, i) => entry(group, first + i, term, bytes));
}

export function write(group: number, part: Partial<GroupWrite>): GroupWrite {
  return { group, truncateFrom: null, entries: [], hardState: null, ...part };
}

export function append(log: Log, ...writes: GroupWrite[]): Promise<void> {
  return new Promise((resolve) => log.append(writes, resolve));
}

export function read(
  log: Log,
  group: number,
  first: number,
  last: number,
  bytesMax = Number.MAX_SAFE_INTEGER,
): Promise<LogEntry[]> {
  return new Promise((resolve, reject) => {
    log.read(group, first, last, bytesMax, (error, found) => (error === null ? resolve(found) : reject(error)));
  });
}

export async function reopen(disk: Disk, changes: Partial<LogOptions> = {}) {
  const opened = await openLog(disk, clock, options(changes));
  opened.log.onFatal = (error) => {
    throw error;
  };
  return opened;
}

/** A new log on this disk, whose group 1 holds what `first` says. */
export async function begin(
  disk: Disk,
  changes: Partial<LogOptions> = {},
  first: Partial<GroupWrite> = {},
): Promise<Log> {
  const { log } = await reopen(disk, changes);
  log.createGroup(1, 11, origin);
  await append(log, write(1, first));
  return log;
}

/** The same on a disk in memory. */
export async function beginInMemory(changes: Partial<LogOptions> = {}, first: Partial<GroupWrite> = {}) {
  const disk = createMemoryDisk();
  return { disk, log: await begin(disk.mount(), changes, first) };
}

/** A state that comes, gathered. */
function gathering(): StateSink & { readonly pieces: Buffer[]; isWhole: boolean } {
  return {
    pieces: [],
    isWhole: false,
    add(bytes, isLast) {
      this.pieces.push(bytes);
      this.isWhole = isLast;
    },
    step: () => false,
  };
}

/** The newest snapshot with its whole state. */
export async function loadState(log: Log, group: number): Promise<{ meta: SnapshotMeta; state: Buffer } | null> {
  const into = gathering();
  const meta = await log.loadSnapshot(group, into);
  if (meta === null) return null;
  if (!into.isWhole) throw new Error('the state has no end');
  return { meta, state: Buffer.concat(into.pieces) };
}

/** Installs a stream that was received, and gives its state. */
export async function installed(staging: SnapshotStaging): Promise<Buffer> {
  const into = gathering();
  await staging.install(into);
  if (!into.isWhole) throw new Error('the state has no end');
  return Buffer.concat(into.pieces);
}

/** Everything a stream gives, in pieces of this size. */
export async function drain(reader: SnapshotReader, bytesMax: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for (let offset = 0; ; ) {
    const { bytes, end } = await new Promise<{ bytes: Buffer; end: boolean }>((resolve, reject) => {
      reader.read(offset, bytesMax, (error, piece, last) =>
        error === null ? resolve({ bytes: piece, end: last }) : reject(error),
      );
    });
    pieces.push(bytes);
    offset += bytes.length;
    if (end) return Buffer.concat(pieces);
    if (bytes.length === 0) throw new Error('a stream that gives nothing');
  }
}

export function rejection(
  work: Promise<unknown>,
): Promise<{ code?: string; file?: string; offset?: number; message: string }> {
  return work.then(
    () => {
      throw new Error('it was expected to fail');
    },
    (error) => error,
  );
}

/** Some turns of the event loop. */
export async function turns(count = 5): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}
