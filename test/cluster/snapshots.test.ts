// The snapshots of one replica, over a real log on a disk in memory.

import type { Raft, SnapshotMeta } from 'raft-ts';
import { expect, test } from 'vitest';
import { Snapshots, type SnapshotsHost } from '../../cluster/group/snapshots.ts';
import type { EntryData, PieceSource } from '../../cluster/log/types.ts';
import type { Machine } from '../../cluster/machine/machine.ts';
import { append, configuration, entries, options, origin, reopen, write } from '../contract/log-support.ts';
import { createMemoryDisk } from '../support/memory-disk.ts';

const group = 1;
const limits = {
  ...options(),
  snapshotEveryBytes: 1e9,
  snapshotEveryEntries: 1e9,
} as unknown as SnapshotsHost['limits'];

test('a stream has every live entry up to its snapshot, whenever it is opened while the next snapshot is being saved', async () => {
  const tasks: (() => void)[] = [];
  const disk = createMemoryDisk({ schedule: (task) => void tasks.push(task) });
  const { log } = await during(reopen(disk), () => {});
  log.createGroup(group, 1, origin);
  await during(append(log, write(group, { entries: entries(group, 1, 20, 1) })), () => {});

  let applied = 10;
  let sent = 0;
  const streams: { readonly to: number; readonly index: number; readonly entries: number }[] = [];
  const raft = {
    termAt: () => 1,
    persistedIndex: 20,
    configurationAt: () => configuration,
    snapshotTaken: () => {},
    compacted: () => {},
    status: () => ({
      progress: Array.from({ length: sent }, (_, i) => ({ id: i + 1, active: true, state: 'snapshot' })),
    }),
    snapshotRead: (to: number, { index }: SnapshotMeta, _offset: number, bytes: Buffer) =>
      streams.push({ to, index, entries: Number(bytes.readBigUInt64LE(40)) }),
  } as unknown as Raft<EntryData>;
  const machine = {
    snapshot: () => pieces(Buffer.from(`state at ${applied}`)),
    // All of them live.
    liveEntries: (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, i) => first + i),
  } as unknown as Machine;
  const host: SnapshotsHost = {
    group,
    raft,
    machine,
    log,
    limits,
    appliedIndex: () => applied,
    isHalted: () => false,
    halt: unexpected,
    dirty: () => {},
    saved: () => {},
    failed: unexpected,
    restored: () => {},
    installed: () => {},
  };
  const snapshots = new Snapshots(host, 0);
  snapshots.take();
  await during(
    until(() => snapshots.index === 10),
    () => {},
  );
  applied = 20;
  snapshots.take();
  const open = () => snapshots.read({ to: ++sent, index: 0, match: 0, offset: 0, isFirst: true, bytesMax: 64 });
  await during(
    until(() => snapshots.index === 20),
    open,
  );
  open();
  await during(
    until(() => streams.length === sent),
    () => {},
  );
  expect(new Set(streams.map(({ index }) => index))).toEqual(new Set([10, 20]));
  for (const { index, entries: count } of streams) expect(count).toBe(index);

  /** Runs the disk, one step at a time, and something between any two. */
  async function during<T>(work: Promise<T>, between: () => void): Promise<T> {
    let isDone = false;
    const done = () => {
      isDone = true;
    };
    work.then(done, done);
    while (!isDone) {
      await new Promise<void>((resolve) => setImmediate(resolve));
      between();
      tasks.shift()?.();
    }
    return work;
  }
});

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise<void>((resolve) => setImmediate(resolve));
}

function pieces(state: Buffer): PieceSource {
  let left: Buffer | null = state;
  return {
    next: () => {
      const piece = left;
      left = null;
      return piece;
    },
    close: () => {},
  };
}

function unexpected(error: Error): void {
  throw error;
}
