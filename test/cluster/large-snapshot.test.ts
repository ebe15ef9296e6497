// A state so large that a replica takes it over in many turns: it is served as before meanwhile, and the replica has the old state or the new one.

import { afterEach, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import type { Restoring } from '../../cluster/machine/machine.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { followersOf, groupOf, machineOf } from '../support/machines.ts';
import { MemoryCluster, statusOf } from '../support/memory-cluster.ts';
import { consume, declareQueue, Publisher, readMessage } from '../support/messages.ts';

const { restoring } = ShardMachine.prototype;
afterEach(() => {
  ShardMachine.prototype.restoring = restoring;
});

const messages = 40_000;

test('is taken over in steps, also after the replica died between them, and other groups go on meanwhile', async () => {
  const log = { ...defaultLimits.log, keptBytesMax: 0 };
  const cluster = new MemoryCluster(3, 96, { shards: 2, snapshotEveryEntries: 30, log });
  await cluster.start();
  const queue = await declareQueue(cluster, 1, 'q');
  let other = await declareQueue(cluster, 2, 'other');
  for (let i = 0; other.shard === queue.shard; i++) other = await declareQueue(cluster, 2, `other${i}`);
  const leader = cluster.leaderOf(queue.shard)!;
  const late = followersOf(cluster, queue.shard)[0]!;
  const publisher = new Publisher();
  cluster.kill(late.node);
  for (let done = 0; done < messages; ) {
    for (let i = 0; i < 1_000; i++, done++) publisher.publish(leader, queue, `${done + 1}`);
    await cluster.until(() => publisher.confirmedTags.size === done, 10_000);
  }
  expect(publisher.confirmedTags.size).toBe(messages);
  expect(await cluster.until(() => groupOf(leader, queue.shard).snapshotIndex > 30, 5_000)).toBe(true);

  let steps = 0;
  let appliedElsewhere = 0;
  let [dieAt, finished] = [3, 0];
  ShardMachine.prototype.restoring = function (this: ShardMachine): Restoring {
    const inner = restoring.call(this);
    if (this.shard !== queue.shard) return inner;
    return {
      add: (bytes, isLast) => inner.add(bytes, isLast),
      step: () => {
        steps++;
        // What it has is what it had.
        expect(this.queueStatus(queue.uid)?.ready ?? 0).toBe(0);
        if (steps === dieAt) cluster.crash(late.node);
        else if (steps > dieAt) publisher.publish(leader, other, 'meanwhile');
        return inner.step();
      },
      finish: () => {
        inner.finish();
        finished++;
      },
    };
  };
  await cluster.restart(late.node);
  expect(await cluster.until(() => !late.alive, 20_000)).toBe(true);
  expect(finished).toBe(0);
  await cluster.clock.run(200);
  dieAt = -1;
  steps = 0;
  await cluster.restart(late.node);
  expect(await cluster.until(() => finished === 1, 20_000)).toBe(true);
  appliedElsewhere = statusOf(leader, other)!.ready;
  expect(steps).toBeGreaterThan(5);
  expect(await cluster.until(() => statusOf(late, queue)?.ready === messages, 10_000)).toBe(true);
  expect(appliedElsewhere).toBeGreaterThan(0);
  await cluster.clock.run(500);
  expect(machineOf(late, queue.shard).stateHash()).toBe(machineOf(leader, queue.shard).stateHash());
  const leases = consume(late, queue, 1);
  expect(await cluster.until(() => leases().length >= 100, 10_000)).toBe(true);
  expect((await readMessage(cluster, late, leases()[99]!)).body).toBe('100');
});
