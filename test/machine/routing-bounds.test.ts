// Routes to very many queues: each part of one is what a publish has room for.

import { expect, it } from 'vitest';
import { routeTo } from '../../cluster/machine/metadata/routes.ts';
import type { QueueRecord } from '../../cluster/machine/metadata-types.ts';

it('more queues of a shard than one publish can name are a route in several parts', () => {
  const queue = (uid: number, shard: number) => ({ record: { uid, shard } as QueueRecord });
  const count = 0xffff + 5;
  const queues = new Set(Array.from({ length: count }, (_, i) => queue(count - i, 2)));
  queues.add(queue(count + 1, 1));
  const { shards } = routeTo(queues);
  expect(shards.map(({ shard, queues: { length } }) => [shard, length])).toEqual([
    [1, 1],
    [2, 0xffff],
    [2, 5],
  ]);
  expect(shards.flatMap(({ queues: uids }) => uids).slice(1)).toEqual(Array.from({ length: count }, (_, i) => i + 1));
});
