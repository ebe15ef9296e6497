// Dead letters: from a queue through its dead-letter exchange to queues of the same and of other shards, each once, whoever dies meanwhile.

import { describe, expect, test } from 'vitest';
import { SettleOperation, settleFailed } from '../../cluster/index.ts';
import type { QueueRecord } from '../../cluster/machine/metadata-types.ts';
import { Pipe } from '../../cluster/origin/pipe.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';
import { consume, declareQueue, Publisher, type ReadMessage, readMessage } from '../support/messages.ts';

const dlx = 'graveyard';

const started = async (seed: number, limits = {}) => {
  const cluster = new MemoryCluster(3, seed, { shards: 3, ...limits });
  await cluster.start();
  return cluster;
};

/** Changes the metadata through a node, and waits for the answer. */
async function change(cluster: MemoryCluster, command: Parameters<MemoryNode['cluster']['changeMetadata']>[0]) {
  let code: number | null | undefined;
  cluster.node(1).cluster.changeMetadata(command, (result) => {
    code = result?.code ?? null;
  });
  await cluster.until(() => code !== undefined, 5_000);
  expect(code).toBe(0);
}

/** A fanout exchange for dead letters, and queues bound to it. */
async function graveyard(cluster: MemoryCluster, count: number): Promise<QueueRecord[]> {
  const flags = { durable: true, autoDelete: false, internal: false, arguments: {} };
  await change(cluster, { kind: 'declareExchange', vhost: '/', name: dlx, type: 'fanout', ...flags });
  const queues: QueueRecord[] = [];
  for (let i = 0; i < count; i++) {
    const queue = await declareQueue(cluster, 1 + (i % 3), `dead${i}`);
    const destination = { kind: 'queue', name: queue.name } as const;
    await change(cluster, { kind: 'bind', vhost: '/', source: dlx, destination, routingKey: '', arguments: {} });
    queues.push(queue);
  }
  return queues;
}

/** Takes what a queue gives to this node and refuses it for good, while `isGoing`. */
async function refuseAll(cluster: MemoryCluster, row: MemoryNode, queue: QueueRecord, consumer: number, count: number) {
  const leases = consume(row, queue, consumer);
  expect(await cluster.until(() => leases().length >= count, 10_000)).toBe(true);
  for (const { leaseOrdinal } of leases())
    row.cluster.pipe(queue.shard).settle(SettleOperation.discard, settleFailed, consumer, leaseOrdinal, 1);
}

/** All that a queue holds, as a consumer of this node reads it. */
async function readAll(cluster: MemoryCluster, row: MemoryNode, queue: QueueRecord, consumer: number) {
  const leases = consume(row, queue, consumer);
  await cluster.clock.run(1_000);
  const messages: ReadMessage[] = [];
  for (const lease of leases()) messages.push(await readMessage(cluster, row, lease));
  return messages;
}

/** Nothing of it is left anywhere but in the queues where it should be. */
const isSettled = (cluster: MemoryCluster, queues: readonly QueueRecord[], each: number) =>
  queues.every((queue) => {
    const status = cluster.nodes.filter((row) => row.alive).map((row) => statusOf(row, queue));
    return status.some((known) => known !== undefined && known.ready + known.unsettled === each);
  });

describe('dead letters', () => {
  test('reach the queues of all shards once, in order, under the name and key of the dead-letter exchange', async () => {
    const cluster = await started(80);
    const dead = await graveyard(cluster, 3);
    expect(new Set(dead.map(({ shard }) => shard)).size).toBe(3);
    const table = { 'x-dead-letter-exchange': dlx, 'x-dead-letter-routing-key': 'gone' };
    const source = await declareQueue(cluster, 2, 'source', table);
    const publisher = new Publisher();
    for (let i = 0; i < 100; i++) publisher.publish(cluster.node(2), source);
    await refuseAll(cluster, cluster.node(3), source, 7, 100);
    expect(await cluster.until(() => isSettled(cluster, dead, 100), 10_000)).toBe(true);
    for (const [i, queue] of dead.entries()) {
      const messages = await readAll(cluster, cluster.node(1), queue, 20 + i);
      expect(messages.map(({ body }) => Number(body))).toEqual(Array.from({ length: 100 }, (_, n) => n + 1));
      expect(new Set(messages.map(({ exchange, routingKey }) => `${exchange} ${routingKey}`))).toEqual(
        new Set([`${dlx} gone`]),
      );
    }
  });

  test('keep their key if the queue names none, and are dropped where nothing takes them', async () => {
    const cluster = await started(81);
    // The default exchange: back into the queue by whose name they came.
    const target = await declareQueue(cluster, 1, 'q');
    const source = await declareQueue(cluster, 2, 'source', { 'x-dead-letter-exchange': '' });
    const lost = await declareQueue(cluster, 3, 'lost', { 'x-dead-letter-exchange': 'nowhere' });
    const publisher = new Publisher();
    publisher.publish(cluster.node(2), source);
    publisher.publish(cluster.node(2), lost);
    await refuseAll(cluster, cluster.node(3), source, 7, 1);
    await refuseAll(cluster, cluster.node(3), lost, 8, 1);
    expect(await cluster.until(() => isSettled(cluster, [target], 1), 10_000)).toBe(true);
    expect(await readAll(cluster, cluster.node(1), target, 9)).toEqual([{ exchange: '', routingKey: 'q', body: '1' }]);
    await cluster.clock.run(500);
    expect(isSettled(cluster, [source, lost], 0)).toBe(true);
  });

  test('are routed by their headers through a headers exchange', async () => {
    const cluster = await started(82);
    const flags = { durable: true, autoDelete: false, internal: false, arguments: {} };
    await change(cluster, { kind: 'declareExchange', vhost: '/', name: dlx, type: 'headers', ...flags });
    const target = await declareQueue(cluster, 1, 'dead');
    const destination = { kind: 'queue', name: 'dead' } as const;
    const table = { 'x-match': 'all', colour: 'red' };
    await change(cluster, { kind: 'bind', vhost: '/', source: dlx, destination, routingKey: '', arguments: table });
    const source = await declareQueue(cluster, 2, 'source', { 'x-dead-letter-exchange': dlx });
    const publish = (body: string, colour: string) => {
      const bytes = Buffer.from(body);
      const pipe = cluster.node(2).cluster.pipe(source.shard);
      pipe.publish(
        cluster,
        [source.uid],
        0,
        0,
        0xffff_ffff,
        Buffer.from([0, 0]),
        Buffer.from(colour),
        [bytes],
        bytes.length,
        null,
        0,
      );
    };
    publish('1', 'red');
    publish('2', 'blue');
    await refuseAll(cluster, cluster.node(3), source, 7, 2);
    expect(await cluster.until(() => isSettled(cluster, [target], 1), 5_000)).toBe(true);
    expect((await readAll(cluster, cluster.node(1), target, 9)).map(({ body }) => body)).toEqual(['1']);
  });

  test('arrive once each, in order, when nobody can tell what became of some of them', async () => {
    const { transfer } = Pipe.prototype;
    try {
      for (let seed = 84; seed < 86; seed++) {
        const cluster = await started(seed, {
          outbox: { rowsInFlightMax: 8, bytesInFlightMax: 4_096, lettersPerRouteMax: 20, queuesPerRouteMax: 7 },
        });
        const dead = await graveyard(cluster, 3);
        const source = await declareQueue(cluster, 2, 'source', { 'x-dead-letter-exchange': dlx });
        const publisher = new Publisher();
        for (let i = 0; i < 60; i++) publisher.publish(cluster.node(1), source);
        let faults = 0;
        Pipe.prototype.transfer = function (this: Pipe, row, reply) {
          const fate = faults < 60 ? cluster.random.integer(8) : 7;
          if (fate < 2) faults++;
          // Lost before it left, or its answer was; told later, when others are on their way.
          if (fate !== 0) transfer.call(this, row, fate === 1 ? () => {} : reply);
          if (fate < 2) cluster.clock.after(cluster.random.integer(20), () => reply(null));
        };
        await refuseAll(cluster, cluster.node(1), source, 7, 60);
        expect(await cluster.until(() => isSettled(cluster, dead, 60), 20_000), `seed ${seed}`).toBe(true);
        Pipe.prototype.transfer = transfer;
        expect(faults, `seed ${seed}`).toBeGreaterThan(10);
        for (const [i, queue] of dead.entries()) {
          const bodies = (await readAll(cluster, cluster.node(1), queue, 20 + i)).map(({ body }) => Number(body));
          expect(bodies, `seed ${seed}`).toEqual(Array.from({ length: 60 }, (_, n) => n + 1));
        }
      }
    } finally {
      Pipe.prototype.transfer = transfer;
    }
  });

  test('arrive once each, whoever leads source and targets and dies meanwhile', async () => {
    for (let seed = 90; seed < 93; seed++) {
      const cluster = await started(seed, {
        outbox: { rowsInFlightMax: 8, bytesInFlightMax: 4_096, lettersPerRouteMax: 5, queuesPerRouteMax: 100 },
      });
      const dead = await graveyard(cluster, 3);
      const source = await declareQueue(cluster, 2, 'source', { 'x-dead-letter-exchange': dlx });
      const publisher = new Publisher();
      const count = 120;
      for (let i = 0; i < count; i++) publisher.publish(cluster.node(1), source);
      expect(await cluster.until(() => publisher.confirmedTags.size === count, 5_000)).toBe(true);
      // The consumer's node lives on; the others die in turns, leaders of source and targets among them.
      await refuseAll(cluster, cluster.node(1), source, 7, count);
      for (let round = 0; round < 4; round++) {
        await cluster.clock.run(cluster.random.integer(12));
        const victim = 2 + cluster.random.integer(2);
        if (round % 2 === 0) cluster.crash(victim);
        else cluster.kill(victim);
        await cluster.clock.run(200 + cluster.random.integer(800));
        await cluster.restart(victim);
      }
      expect(await cluster.until(() => isSettled(cluster, dead, count), 20_000), `seed ${seed}`).toBe(true);
      await cluster.clock.run(1_000);
      expect(isSettled(cluster, dead, count), `seed ${seed}`).toBe(true);
      for (const [i, queue] of dead.entries()) {
        const bodies = (await readAll(cluster, cluster.node(1), queue, 20 + i)).map(({ body }) => Number(body));
        expect(
          bodies.sort((a, b) => a - b),
          `seed ${seed}`,
        ).toEqual(Array.from({ length: count }, (_, n) => n + 1));
      }
    }
  });
});
