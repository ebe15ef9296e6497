// Faults of disks that take nothing away that was durable: slow, hanging and full ones, failing writes and syncs, and a loss of power or a
// kill at a chosen operation.

import type { DiskOperation, OperationPhase } from '../../support/memory-disk.ts';
import type { FaultKind, Profile } from './target.ts';

const everywhere: readonly Profile[] = ['network', 'disk', 'membership'];

const slow: FaultKind = {
  kind: 'slow-disk',
  profiles: everywhere,
  everyMilliseconds: 5_000,
  begin({ target, pick, between }) {
    const node = pick(target.nodes());
    const disk = target.disk(node);
    const normal = disk.latency;
    const leastMilliseconds = between(1, 30);
    const mostMilliseconds = between(leastMilliseconds, 100);
    const bytesPerMillisecond = pick([100, 1_000, 100_000]);
    disk.latency = { leastMilliseconds, mostMilliseconds, bytesPerMillisecond };
    return {
      details: { node, leastMilliseconds, mostMilliseconds, bytesPerMillisecond },
      milliseconds: between(200, 8_000),
      end: () => {
        disk.latency = normal;
      },
    };
  },
};

const stall: FaultKind = {
  kind: 'disk-stall',
  profiles: everywhere,
  everyMilliseconds: 6_000,
  begin({ target, pickNode, oneIn, between }) {
    const node = pickNode('up');
    if (node === null) return null;
    const disk = target.disk(node);
    const how = oneIn(3) ? 'hung' : 'stalled';
    disk[how] = true;
    return {
      details: { node, how },
      milliseconds: between(20, oneIn(6) ? 60_000 : oneIn(2) ? 8_000 : 1_000),
      end: () => {
        disk[how] = false;
      },
    };
  },
};

const full: FaultKind = {
  kind: 'disk-full',
  profiles: ['disk'],
  everyMilliseconds: 8_000,
  begin({ target, pickNode, between }) {
    const node = pickNode('up');
    if (node === null) return null;
    const disk = target.disk(node);
    const room = between(0, 64 * 1024);
    disk.capacity = disk.usedBytes() + room;
    return {
      details: { node, room },
      milliseconds: between(500, 10_000),
      end: () => {
        disk.capacity = Infinity;
      },
    };
  },
};

/** The process has to end by itself, and takes nothing for durable that was not. */
const failing: FaultKind = {
  kind: 'failing-write',
  profiles: ['disk'],
  everyMilliseconds: 10_000,
  begin({ target, pickNode, pick, mayStop }) {
    const node = pickNode('up');
    if (node === null || !mayStop()) return null;
    const operation = pick(['sync', 'sync', 'write', 'syncFolder', 'rename', 'truncate'] as const);
    target.disk(node).failNext(operation, 'EIO');
    return { details: { node, operation }, milliseconds: 0 };
  },
};

const boundaries: readonly (readonly DiskOperation[])[] = [
  ['write'],
  ['write', 'sync'],
  ['sync'],
  ['rename'],
  ['syncFolder'],
  ['remove'],
  ['open'],
  ['write', 'sync', 'rename', 'syncFolder', 'remove', 'open', 'truncate', 'makeFolder'],
];

/** The end comes at the k-th operation from now, before it or right after it took effect, and nothing of the process goes on behind it. */
const atOperation: FaultKind = {
  kind: 'end-at-operation',
  profiles: everywhere,
  everyMilliseconds: 3_000,
  begin({ target, pickNode, pick, oneIn, mayStop, between, keepDown, happened }) {
    const node = pickNode(oneIn(4) ? 'starting' : 'up') ?? pickNode('up');
    if (node === null || !mayStop()) return null;
    const disk = target.disk(node);
    const operations = pick(boundaries);
    const phase: OperationPhase = oneIn(2) ? 'before' : 'after';
    const how = oneIn(4) ? 'kill' : 'crash';
    const down = between(0, 3_000);
    let left = between(1, oneIn(2) ? 3 : 40);
    const details = { node, operations: operations.join(), phase, count: left, how };
    const end = () => {
      disk.watch = null;
    };
    disk.watch = (operation, path, reached) => {
      if (reached !== phase || !operations.includes(operation) || --left > 0) return;
      end();
      disk.halt();
      happened('ended-at-operation', { node, operation, path, phase, how });
      // The one who asked the disk is still on its way; by the end of its turn the process is gone.
      target.clock.soon(() => {
        keepDown(node, down);
        target[how](node);
      });
    };
    return { details, milliseconds: 15_000, end };
  },
};

export const diskKinds: readonly FaultKind[] = [slow, stall, full, failing, atOperation];
