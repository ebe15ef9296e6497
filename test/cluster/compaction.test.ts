// A few messages that nobody acknowledges among many that are consumed: the disks of all nodes stay within their bound, and the few are there,
// for whoever asks whichever node, whatever was started anew in between.

import { afterEach, describe, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import { BrokerClient, createBroker } from '../support/broker-client.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';

const limits = {
  shards: 2,
  snapshotEveryEntries: 40,
  log: {
    ...defaultLimits.log,
    fileBytesMax: 32 * 1024,
    cacheBytesMax: 4096,
    keptBytesMax: 0,
    pressureBytes: 64 * 1024,
    compactionSlackBytes: 32 * 1024,
  },
};

const bodyOf = (number: number) => `${number}`.padEnd(700, '.');

describe('one message in a hundred that stays', () => {
  let cluster: MemoryCluster;
  const connect = (node: number) => new BrokerClient(createBroker(cluster.node(node), cluster), cluster);

  afterEach(() => {
    for (const row of cluster.nodes) expect(row.fatal).toBeNull();
  });

  /** Publishes, and settles all but every hundredth. Returns what stays. */
  async function fill(queue: string, count: number, durable: boolean): Promise<string[]> {
    const [publisher, consumer] = [connect(1), connect(2)];
    await publisher.declare(queue, { durable });
    await consumer.consume(queue);
    let settled = 0;
    for (let sent = 0; sent < count; ) {
      for (const end = sent + 40; sent < end; sent++) publisher.publish(queue, bodyOf(sent));
      expect(await cluster.until(() => consumer.delivered.length === sent, 10_000)).toBe(true);
      for (; settled < sent; settled++) {
        const { consumer: number, leaseOrdinal } = consumer.delivered[settled]!;
        if (settled % 100 !== 0) consumer.channel.settle('accept', number, leaseOrdinal, 1);
      }
    }
    await cluster.clock.run(8_000);
    consumer.close();
    return Array.from({ length: count / 100 }, (_, i) => bodyOf(100 * i));
  }

  test('does not keep the rest on the disk; a node that starts, or was far behind, has it', async () => {
    cluster = new MemoryCluster(3, 11, limits);
    await cluster.start();
    const expected = await fill('q', 3000, true);
    for (const { cluster: node, disk } of cluster.nodes) {
      const { bytes, boundBytes, rewrittenBytes, appendedBytes } = node.status().log;
      expect(rewrittenBytes).toBeGreaterThan(0);
      expect(rewrittenBytes).toBeLessThan(100_000);
      // Less, where a snapshot came instead of the entries.
      if (disk === cluster.node(1).disk) expect(appendedBytes).toBeGreaterThan(2_000_000);
      expect(bytes).toBeLessThan(boundBytes);
      expect(disk.usedBytes()).toBeLessThan(500_000);
    }
    cluster.kill(3);
    const more = await fill('r', 1000, true);
    await cluster.restart(3);
    const isBack = () => cluster.node(3).cluster.isReady;
    expect(await cluster.until(isBack, 20_000)).toBe(true);
    await cluster.clock.run(3_000);
    for (const node of [1, 2]) {
      cluster.kill(node);
      await cluster.clock.run(3_000);
      await cluster.restart(node);
      expect(await cluster.until(() => cluster.node(node).cluster.isReady, 20_000)).toBe(true);
      await cluster.clock.run(2_000);
    }
    const reader = connect(3);
    for (const [queue, bodies] of [
      ['q', expected],
      ['r', more],
    ] as const) {
      reader.delivered.length = 0;
      await reader.consume(queue);
      expect(await cluster.until(() => reader.delivered.length === bodies.length, 10_000)).toBe(true);
      expect(reader.bodies).toEqual(bodies);
    }
  });

  test('does not keep the rest of a transient queue', async () => {
    // Acknowledgements that wait for company come behind the next publishes: messages are read that are applied, and not written yet.
    expect(defaultLimits.pipe.settleDelayMilliseconds).toBeGreaterThan(0);
    cluster = new MemoryCluster(3, 12, limits);
    await cluster.start();
    const expected = await fill('t', 3000, false);
    expect(cluster.node(1).cluster.status().log.rewrittenBytes).toBeGreaterThan(0);
    expect(cluster.node(1).disk.usedBytes()).toBeLessThan(500_000);
    const reader = connect(3);
    await reader.consume('t');
    expect(await cluster.until(() => reader.delivered.length === expected.length, 5_000)).toBe(true);
    expect(reader.bodies).toEqual(expected);
  });
});
