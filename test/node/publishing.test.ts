// Whom a publisher holds up: himself, where he is ahead of the disks, and nobody else of his node.

import { expect, test } from 'vitest';
import { BrokerClient, createBroker } from '../support/broker-client.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';

test('a large message pauses its sender, and no other publisher, to its own shard or to others', async () => {
  const cluster = new MemoryCluster(3, 81);
  await cluster.start();
  const row = cluster.node(1);
  const broker = createBroker(row, cluster);
  const [sender, other] = [new BrokerClient(broker, cluster), new BrokerClient(broker, cluster)] as const;
  const names = ['a', 'b', 'c', 'd', 'e', 'f'];
  for (const name of names) await other.declare(name);
  const shardOf = (name: string) => row.cluster.metadata.queue('/', name)!.shard;
  const neighbours = names.slice(1).filter((name) => shardOf(name) === shardOf('a'));
  const strangers = names.filter((name) => shardOf(name) !== shardOf('a'));
  expect([neighbours.length > 0, strangers.length > 0]).toEqual([true, true]);

  const body = Buffer.alloc(40 * 1024 * 1024, 'x');
  sender.publish('a', body);
  sender.publish('a', 'behind it');
  expect(sender.paused).toBe(true);
  const tags = [...neighbours, ...strangers].map((name) => other.publish(name, 'small').tag);
  expect(other.paused).toBe(false);
  expect(await cluster.until(() => other.confirmed.length === tags.length, 1_000)).toBe(true);
  expect([sender.confirmed, sender.paused]).toEqual([[], true]);

  expect(await cluster.until(() => !sender.paused, 60_000)).toBe(true);
  expect(sender.confirmed).toEqual([]);
  expect(await cluster.until(() => sender.confirmed.length === 2, 60_000)).toBe(true);
  expect([sender.nacked, other.nacked]).toEqual([[], []]);
  await other.consume('a');
  expect(await cluster.until(() => other.delivered.length === 2, 60_000)).toBe(true);
  const [large, small] = other.bodies;
  expect([large!.length, small]).toEqual([body.length, 'behind it']);
});
