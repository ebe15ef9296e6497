// What a host applies before it lets sockets and timers have their turn, and in which order.

import { expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';
import { declareQueue, Publisher } from '../support/messages.ts';

test('a group with much to apply does not keep the others from theirs', async () => {
  // One entry before each rest.
  const cluster = new MemoryCluster(1, 71, {
    shards: 2,
    applyBytesPerTurn: 1,
    pipe: { ...defaultLimits.pipe, batchesInFlightMax: 20 },
  });
  await cluster.start();
  const [busy, quiet] = [
    await declareQueue(cluster, 1, 'busy', {}, { near: [1] }),
    await declareQueue(cluster, 1, 'quiet', {}, { near: [2] }),
  ];
  expect(busy.shard).not.toBe(quiet.shard);
  const row = cluster.node(1);
  const order: string[] = [];
  const publisherOf = (name: string) =>
    new (class extends Publisher {
      override confirmed(first: number, last: number, ok: boolean) {
        super.confirmed(first, last, ok);
        order.push(name);
      }
    })();
  const [ann, bob] = [publisherOf('busy'), publisherOf('quiet')];
  // All of it becomes durable at once, and is committed then.
  row.disk.stalled = true;
  for (let batch = 0; batch < 10; batch++) {
    ann.publish(row, busy);
    await cluster.clock.run(1);
  }
  bob.publish(row, quiet);
  await cluster.clock.run(1);
  expect(order).toEqual([]);
  row.disk.stalled = false;
  expect(await cluster.until(() => order.length === 11, 5_000)).toBe(true);
  expect(order.indexOf('quiet')).toBeLessThanOrEqual(1);
});
