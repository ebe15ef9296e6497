// A snapshot from elsewhere, for a log under random use (`log-run.ts`): what its sender has, as a stream, and the receiver's side of it.
//
// It contradicts all that the receiver has above `liveAbove`, as what a deposed leader wrote is contradicted. The writes before it are still on their
// way to the disk: who installs relies on the log alone for the order.
// State owned: none. The sender is a log of its own, on a disk that is forgotten with it.

import { openLog } from '../../cluster/log/index.ts';
import type { Log, LogEntry, SnapshotStaging } from '../../cluster/log/types.ts';
import { piecesOf } from '../../cluster/machine/snapshot-pieces.ts';
import type { Clock } from '../../cluster/ports.ts';
import { createMemoryDisk } from '../support/memory-disk.ts';
import { append, configuration, drain, entry, installed, options, origin, write } from './log-support.ts';

export interface Sent {
  readonly group: number;
  readonly index: number;
  readonly term: number;
  /** Up to here the receiver has what the sender has. */
  readonly liveAbove: number;
  /** Bytes of the entries behind `liveAbove`, all of this term. */
  readonly lengths: readonly number[];
  /** Of these the ones that live. */
  readonly live: readonly number[];
}

/** The stream of such a snapshot. */
export async function streamOf(sent: Sent, clock: Clock): Promise<Buffer> {
  const { group, index, term, liveAbove, lengths, live } = sent;
  const { log } = await openLog(createMemoryDisk().mount(), clock, options());
  log.createGroup(group, 1, origin);
  const before: LogEntry[] = Array.from({ length: liveAbove }, (_, i) => entry(group, i + 1, 1, 0));
  const behind = lengths.map((bytes, i) => entry(group, liveAbove + 1 + i, term, bytes));
  await append(log, write(group, { entries: [...before, ...behind] }));
  await log.saveSnapshot(group, { index, term, configuration }, piecesOf([Buffer.alloc(700, index)]));
  const reader = await log.openSnapshotStream(group, live, liveAbove);
  return drain(reader, 1 << 20);
}

/** Resolves when it is installed. */
export async function receive(log: Log, { group, index, term }: Sent, stream: Buffer): Promise<void> {
  const staging = await log.createSnapshotStaging(group, { index, term, configuration });
  const middle = stream.length >> 1;
  await written(staging, 0, stream.subarray(0, middle));
  await written(staging, middle, stream.subarray(middle));
  await installed(staging);
}

function written(staging: SnapshotStaging, offset: number, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) =>
    staging.write(offset, bytes, (error) => (error === null ? resolve() : reject(error))),
  );
}
