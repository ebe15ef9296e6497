// Scenarios about batches on their way to a leader: lost, late and repeated ones (B1), the parts of large messages (B3), and entries that no
// machine could take (A7).

import { afterEach, describe, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import {
  type BatchHeader,
  CommandKind,
  commandOffset,
  OriginKind,
  readBatchHeader,
} from '../../cluster/machine/commands.ts';
import type { AppliedEntry } from '../../cluster/machine/machine.ts';
import type { QueueRecord } from '../../cluster/machine/metadata-types.ts';
import { Mail } from '../../cluster/peers/mail.ts';
import { followersOf, machineOf } from '../support/machines.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';
import { consume, declareQueue, key, Publisher, properties, readMessage } from '../support/messages.ts';

const { sendBatch } = Mail.prototype;
afterEach(() => {
  Mail.prototype.sendBatch = sendBatch;
});

const started = async (seed: number, limits = {}) => {
  const cluster = new MemoryCluster(3, seed, { shards: 1, ...limits });
  await cluster.start();
  await cluster.clock.run(500);
  return cluster;
};

/** Every entry that this node's replica of shard 1 applies from now on. */
function entriesOf(row: MemoryNode): { readonly header: BatchHeader; readonly payload: Buffer }[] {
  const machine = machineOf(row, 1);
  const apply = machine.apply.bind(machine);
  const entries: { readonly header: BatchHeader; readonly payload: Buffer }[] = [];
  machine.apply = (entry: AppliedEntry) => {
    entries.push({ header: readBatchHeader(entry.payload), payload: entry.payload });
    apply(entry);
  };
  return entries;
}

const ofNode = ({ header }: { readonly header: BatchHeader }) => header.kind === OriginKind.node;

/** Each publish leaves as a batch of its own, many at once. */
const manyBatches = { ...defaultLimits.pipe, batchBytesMax: 64, batchesInFlightMax: 64 };

async function readAll(cluster: MemoryCluster, row: MemoryNode, queue: QueueRecord, count: number): Promise<number[]> {
  const leases = consume(row, queue, 900);
  expect(await cluster.until(() => leases().length >= count, 5_000)).toBe(true);
  const bodies: number[] = [];
  for (const lease of leases()) bodies.push(Number((await readMessage(cluster, row, lease)).body));
  return bodies;
}

describe('B1: a batch that is lost on its way', () => {
  test('is asked for before anything behind it is written: the log has each batch once, in order', async () => {
    const cluster = await started(230, { pipe: manyBatches });
    const queue = await declareQueue(cluster, 1, 'q');
    const [row] = followersOf(cluster, 1) as [MemoryNode];
    const entries = entriesOf(row);
    const lost = new Set([5, 20, 60, 61]);
    let repeated = 0;
    Mail.prototype.sendBatch = function (this: Mail, group, payload, checksum) {
      const { id, sequence, kind } = readBatchHeader(payload);
      const isMeant = group === 1 && kind === OriginKind.node && id === row.node;
      if (isMeant && lost.delete(sequence)) return true;
      if (isMeant && cluster.random.integer(8) === 0) {
        repeated++;
        sendBatch.call(this, group, payload, checksum);
      }
      return sendBatch.call(this, group, payload, checksum);
    };
    const publisher = new Publisher();
    const from = cluster.clock.now();
    for (let i = 0; i < 200; i++) publisher.publish(row, queue);
    expect(await cluster.until(() => publisher.confirmedTags.size === 200, 5_000)).toBe(true);
    expect(lost.size).toBe(0);
    expect(repeated).toBeGreaterThan(3);
    const sequences = entries.filter(ofNode).map(({ header }) => header.sequence);
    expect(sequences).toEqual(Array.from({ length: sequences.length }, (_, i) => i + sequences[0]!));
    expect(machineOf(row, 1).refusals).toEqual({ malformed: 0, gaps: 0, ignored: 0 });
    // It is told so, and does not find out by the clock.
    expect(cluster.clock.now() - from).toBeLessThan(defaultLimits.pipe.resendMilliseconds / 2);
    expect(publisher.nackedTags.size).toBe(0);
    expect(await readAll(cluster, row, queue, 200)).toEqual(Array.from({ length: 200 }, (_, i) => i + 1));
  });

  test('under a leader that is new is asked for by what its log has, not by what anybody remembers', async () => {
    const cluster = await started(231, { pipe: manyBatches });
    const queue = await declareQueue(cluster, 1, 'q');
    const [row, other] = followersOf(cluster, 1) as [MemoryNode, MemoryNode];
    const entries = entriesOf(other);
    const publisher = new Publisher();
    for (let i = 0; i < 100; i++) {
      publisher.publish(row, queue);
      if (i === 50) cluster.crash(cluster.leaderOf(1)!.node);
      if (i % 7 === 0) await cluster.clock.run(0.3);
    }
    expect(await cluster.until(() => publisher.confirmedTags.size === 100, 5_000)).toBe(true);
    const sequences = entries.filter(ofNode).map(({ header }) => header.sequence);
    expect(sequences).toEqual(Array.from({ length: sequences.length }, (_, i) => i + sequences[0]!));
    expect(machineOf(other, 1).refusals).toEqual({ malformed: 0, gaps: 0, ignored: 0 });
    expect(await readAll(cluster, other, queue, 100)).toEqual(Array.from({ length: 100 }, (_, i) => i + 1));
  });
});

describe('B3: a large message', () => {
  const large = (row: MemoryNode, queue: QueueRecord, bytes: number, publisher: Publisher, tag: number) => {
    const body = Buffer.alloc(bytes, String(tag));
    row.cluster.pipe(1).publish(row, [queue.uid], 0, 0, 0xffff_ffff, key, properties, [body], bytes, publisher, tag);
  };

  test('is never a large entry, and a small one published behind it follows it, in order', async () => {
    const cluster = await started(232);
    const queue = await declareQueue(cluster, 1, 'q');
    const [row, other] = followersOf(cluster, 1) as [MemoryNode, MemoryNode];
    const entries = entriesOf(other);
    const publisher = new Publisher();
    large(row, queue, 5_000_000, publisher, 1_000);
    publisher.publish(row, queue);
    large(other, queue, 3_000_000, publisher, 2_000);
    expect(await cluster.until(() => publisher.confirmedTags.size === 3, 5_000)).toBe(true);
    expect(entries.length).toBeGreaterThan(8_000_000 / (1 << 20));
    for (const { payload } of entries) expect(payload.length).toBeLessThanOrEqual(1 << 20);
    expect(await cluster.until(() => statusOf(other, queue)?.ready === 3, 1_000)).toBe(true);
    const leases = consume(other, queue, 7);
    expect(await cluster.until(() => leases().length === 3, 2_000)).toBe(true);
    const sizes: Record<string, number> = {};
    for (const lease of leases()) {
      let read = 0;
      other.cluster.readMessages(
        1,
        lease.entryIndex,
        [lease.ordinal],
        () => read === 0,
        ([view]) => {
          const pieces = [...view!.before, view!.payload.subarray(view!.bodyStart, view!.bodyEnd)];
          const body = Buffer.concat(pieces);
          sizes[body.toString('latin1', 0, 4)] = body.length;
          read = body.length;
        },
      );
      expect(await cluster.until(() => read > 0, 2_000)).toBe(true);
    }
    expect(sizes).toEqual({ '1000': 5_000_000, '1': 1, '2000': 3_000_000 });
  });

  test('whose publisher ends in the middle of it leaves nothing: no message, no part', async () => {
    const cluster = await started(233);
    const queue = await declareQueue(cluster, 1, 'q');
    const [row, other] = followersOf(cluster, 1) as [MemoryNode, MemoryNode];
    const entries = entriesOf(other);
    large(row, queue, 8_000_000, new Publisher(), 1);
    const isPart = ({ payload, header }: (typeof entries)[number]) =>
      header.commandCount > 0 && payload[commandOffset(payload, 0)] === CommandKind.part;
    expect(await cluster.until(() => entries.filter(isPart).length >= 3, 1_000)).toBe(true);
    cluster.kill(row.node);
    const machine = machineOf(other, 1);
    await cluster.clock.run(200);
    expect(machine.hasLiveEntries(1, machine.appliedIndex)).toBe(true);
    await cluster.restart(row.node);
    expect(await cluster.until(() => !machine.hasLiveEntries(1, machine.appliedIndex), 5_000)).toBe(true);
    expect(statusOf(other, queue)).toMatchObject({ ready: 0 });
  });
});

describe('A7: a batch that makes no sense', () => {
  test('of a node is not appended, whatever of it is spoiled on its way: no machine halts, no process ends', async () => {
    const cluster = await started(234, { pipe: manyBatches });
    const queue = await declareQueue(cluster, 1, 'q');
    const [row, other] = followersOf(cluster, 1) as [MemoryNode, MemoryNode];
    const entries = entriesOf(other);
    let spoiled = 0;
    Mail.prototype.sendBatch = function (this: Mail, group, payload, checksum) {
      const { id, kind } = readBatchHeader(payload);
      if (group !== 1 || kind !== OriginKind.node || id !== row.node)
        return sendBatch.call(this, group, payload, checksum);
      if (cluster.random.integer(3) > 0) return sendBatch.call(this, group, payload, checksum);
      spoiled++;
      const bytes = Buffer.from(payload);
      const at = cluster.random.integer(bytes.length);
      bytes[at] = bytes[at]! ^ (1 + cluster.random.integer(255));
      return sendBatch.call(this, group, bytes, checksum);
    };
    const publisher = new Publisher();
    for (let i = 0; i < 60; i++) {
      publisher.publish(row, queue);
      await cluster.clock.run(1);
    }
    Mail.prototype.sendBatch = sendBatch;
    expect(await cluster.until(() => publisher.confirmedTags.size === 60, 10_000)).toBe(true);
    expect(spoiled).toBeGreaterThan(5);
    expect(machineOf(other, 1).refusals).toEqual({ malformed: 0, gaps: 0, ignored: 0 });
    expect(entries.filter(ofNode).every(({ header }) => header.id === row.node)).toBe(true);
    for (const { fatal, cluster: node } of cluster.nodes) {
      expect(fatal).toBeNull();
      expect(node.status().groups.every(({ halted }) => halted === null)).toBe(true);
    }
    expect(await readAll(cluster, other, queue, 60)).toEqual(Array.from({ length: 60 }, (_, i) => i + 1));
  });
});
