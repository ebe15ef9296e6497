// Room on the disks of a cluster: publishers wait before it is gone, everything else goes on, and a disk that is full all the same loses nothing.

import { describe, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import { roomOf } from '../../cluster/peers/room.ts';
import { BrokerClient, createBroker } from '../support/broker-client.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';
import { consume, declareQueue, Publisher } from '../support/messages.ts';

const mib = 1024 * 1024;
const limits = { freeBytesMin: mib, reserveBytes: mib / 4, checkMilliseconds: 200 };
const diskBytes = 20 * mib;

async function started(seed: number) {
  const cluster = new MemoryCluster(3, seed, { shards: 1, disk: limits });
  await cluster.start();
  return cluster;
}

/** Leaves so much free on the disk of a node. */
function leave({ disk }: MemoryNode, bytes: number) {
  disk.put('filler', null);
  disk.capacity = diskBytes;
  disk.put('filler', Buffer.alloc(diskBytes - disk.usedBytes() - bytes));
}

test('what room is: both bounds are a part of a small disk at most, and are left only when it is clearly better', () => {
  const room = (free: number, before: 'ok' | 'low' | 'full', total = 1000) =>
    roomOf({ free: free * mib, total: total * mib }, limits, before);
  expect([1, 0.9, 0.25, 0.2].map((free) => room(free, 'ok'))).toEqual(['ok', 'low', 'low', 'full']);
  expect([1.1, 1.125].map((free) => room(free, 'low'))).toEqual(['low', 'ok']);
  expect([0.28, 0.29].map((free) => room(free, 'full'))).toEqual(['full', 'low']);
  expect([0.5, 0.4, 0.1, 0.09].map((free) => room(free, 'ok', 5))).toEqual(['ok', 'low', 'low', 'full']);
});

describe('a disk that is low', () => {
  test('on any node makes the publishers of all wait, and tells them; they go on when there is room again', async () => {
    const cluster = await started(980);
    const brokers = cluster.nodes.map((row) => createBroker(row, cluster));
    const clients = brokers.map((broker) => new BrokerClient(broker, cluster));
    await clients[0]!.declare('q');
    leave(cluster.node(2), 10 * mib);
    await cluster.clock.run(500);
    expect(clients[2]!.publish('q', 'a').answer).toBe('routed');
    expect(await cluster.until(() => clients[2]!.confirmed.length === 1, 2_000)).toBe(true);
    expect(clients[2]!.paused).toBe(false);
    leave(cluster.node(2), mib / 2);
    expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.alarm !== null), 3_000)).toBe(true);
    expect(cluster.node(1).cluster.alarm).toBe('low on disk space: node 2');
    expect(cluster.node(2).cluster.status().disk.room).toBe('low');
    // Nobody who does not publish is bothered.
    expect(clients.map(({ paused, blocked }) => [paused, blocked])).toEqual([
      [false, null],
      [false, null],
      [false, null],
    ]);
    for (const client of clients) client.publish('q', 'b');
    for (const { paused, blocked } of clients) expect([paused, blocked]).toEqual([true, 'low on disk space: node 2']);
    // What had come by then is taken, and everything else goes on: deliveries, acknowledgements, declarations, logins.
    expect(await cluster.until(() => clients.every(({ confirmed }) => confirmed.length > 0), 2_000)).toBe(true);
    const reader = new BrokerClient(brokers[2]!, cluster);
    await reader.consume('q');
    expect(await cluster.until(() => reader.delivered.length === 4, 2_000)).toBe(true);
    reader.acceptAll();
    await reader.declare('another');
    expect(
      await cluster.until(
        () => statusOf(cluster.node(1), cluster.node(1).cluster.metadata.queue('/', 'q')!)?.unsettled === 0,
        2_000,
      ),
    ).toBe(true);
    expect([reader.paused, reader.blocked]).toEqual([false, null]);
    leave(cluster.node(2), 10 * mib);
    expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.alarm === null), 3_000)).toBe(true);
    for (const { paused, blocked } of clients) expect([paused, blocked]).toEqual([false, null]);
  });

  test('of a node that is gone holds nobody up', async () => {
    const cluster = await started(981);
    leave(cluster.node(2), mib / 2);
    expect(await cluster.until(() => cluster.node(1).cluster.alarm !== null, 3_000)).toBe(true);
    cluster.kill(2);
    expect(await cluster.until(() => cluster.node(1).cluster.alarm === null, 10_000)).toBe(true);
  });
});

describe('a disk that is full', () => {
  test('takes no messages, but acknowledgements and declarations; then all that waited is confirmed', async () => {
    const cluster = await started(982);
    const queue = await declareQueue(cluster, 1, 'q');
    const publisher = new Publisher();
    for (let i = 0; i < 10; i++) publisher.publish(cluster.node(1), queue);
    const leases = consume(cluster.node(3), queue, 7);
    expect(await cluster.until(() => leases().length === 10, 3_000)).toBe(true);
    leave(cluster.node(2), mib / 8);
    expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.alarm !== null), 3_000)).toBe(true);
    publisher.publish(cluster.node(1), queue);
    await cluster.clock.run(2_000);
    expect(publisher.confirmedTags.size).toBe(10);
    cluster.node(3).cluster.pipe(queue.shard).settle(1, 0, 7, 1, 10);
    expect(await cluster.until(() => statusOf(cluster.node(2), queue)?.unsettled === 0, 2_000)).toBe(true);
    await declareQueue(cluster, 3, 'another');
    leave(cluster.node(2), 10 * mib);
    expect(await cluster.until(() => publisher.confirmedTags.size === 11, 5_000)).toBe(true);
    expect(cluster.nodes.every((row) => row.fatal === null)).toBe(true);
  });

  test('to the last byte ends its process, which comes back when there is room, with all that was confirmed', async () => {
    const cluster = new MemoryCluster(3, 983, {
      shards: 1,
      disk: { ...defaultLimits.disk, reserveBytes: 1, freeBytesMin: 1 },
    });
    await cluster.start();
    const queue = await declareQueue(cluster, 1, 'q');
    const publisher = new Publisher();
    const victim = cluster.leaderOf(queue.shard)!;
    const other = cluster.nodes.find((row) => row !== victim)!;
    victim.disk.capacity = victim.disk.usedBytes() + 20_000;
    for (let i = 0; i < 100; i++) {
      publisher.publish(other, queue, 'x'.repeat(1000));
      await cluster.clock.run(10);
    }
    expect(await cluster.until(() => victim.fatal !== null, 2_000)).toBe(true);
    expect((victim.fatal as NodeJS.ErrnoException).code).toBe('ENOSPC');
    cluster.kill(victim.node);
    expect(await cluster.until(() => publisher.confirmedTags.size === 100, 10_000)).toBe(true);
    victim.disk.capacity = Number.POSITIVE_INFINITY;
    await cluster.restart(victim.node);
    const well = () => victim.cluster.isReady && victim.cluster.status().groups.every(({ halted }) => halted === null);
    expect(await cluster.until(well, 10_000)).toBe(true);
    cluster.crash(other.node);
    const leases = consume(victim, queue, 9);
    expect(await cluster.until(() => leases().length === 100, 10_000)).toBe(true);
  });
});

test('an error of fdatasync ends the process, and nothing is tried again', async () => {
  const cluster = await started(984);
  const queue = await declareQueue(cluster, 1, 'q');
  const victim = cluster.node(2);
  victim.disk.failNext('sync', 'EIO');
  const publisher = new Publisher();
  publisher.publish(cluster.node(1), queue);
  expect(await cluster.until(() => victim.fatal !== null, 3_000)).toBe(true);
  const { write, sync } = victim.disk.counts;
  await cluster.clock.run(1_000);
  expect(victim.disk.counts).toMatchObject({ write, sync });
  cluster.kill(2);
  expect(await cluster.until(() => publisher.confirmedTags.size === 1, 5_000)).toBe(true);
});

test('a disk that hangs costs its node its leaderships in less than three seconds', async () => {
  const cluster = await started(985);
  const queue = await declareQueue(cluster, 1, 'q');
  const victim = cluster.leaderOf(queue.shard)!;
  const other = cluster.nodes.find((row) => row !== victim)!;
  victim.disk.stalled = true;
  const publisher = new Publisher();
  publisher.publish(other, queue);
  const began = cluster.clock.now();
  const another = () =>
    cluster.nodes.some(
      (row) =>
        row !== victim &&
        row.cluster.status().groups.some(({ group, role }) => group === queue.shard && role === 'leader'),
    );
  expect(await cluster.until(another, 5_000)).toBe(true);
  expect(cluster.clock.now() - began).toBeLessThan(3_000);
});
