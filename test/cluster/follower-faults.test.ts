// A node that leads none of the queues that publishers use fails, in every way: nobody at another node waits for it, not for one heartbeat.
// The other two are a majority, and what waits for the third (frames, leases, elections of what it led) waits beside the publishers.
// Times are those of the simulated clock: nothing here is a processor's.

import { expect, test } from 'vitest';
import { type ConfirmTarget, defaultLimits } from '../../cluster/index.ts';
import type { QueueRecord } from '../../cluster/machine/metadata-types.ts';
import { MemoryCluster, type MemoryNode } from '../support/memory-cluster.ts';
import { declareQueue } from '../support/messages.ts';

const key = Buffer.from([0, 1, 0x71]);
const properties = Buffer.alloc(2);
const body = Buffer.alloc(1024);
const everyMilliseconds = 40;
/** There and back over links of 0.1 ms, a write of 0.2 ms on two disks: with room for a batch that gathers meanwhile. */
const confirmMillisecondsMax = 3;
/** Long enough for what it led to be led by others. */
const suspectedMilliseconds = 1_500;
const goneMilliseconds = defaultLimits.nodeDeadMilliseconds + 1_000;

/** One publisher at one node, to one queue. */
class Stream implements ConfirmTarget {
  readonly #cluster: MemoryCluster;
  readonly #row: MemoryNode;
  readonly #queue: QueueRecord;
  readonly #sentAt: number[] = [];
  longest = 0;
  open = 0;

  constructor(cluster: MemoryCluster, row: MemoryNode, queue: QueueRecord) {
    this.#cluster = cluster;
    this.#row = row;
    this.#queue = queue;
  }

  publish(): void {
    const { uid, shard } = this.#queue;
    this.#sentAt.push(this.#cluster.clock.now());
    this.open++;
    const number = this.#sentAt.length;
    // Who has no lease on the metadata would have to hold its publishers.
    expect(this.#row.cluster.isFresh).toBe(true);
    this.#row.cluster
      .pipe(shard)
      .publish(this, [uid], 0, 0, 0xffff_ffff, key, properties, [body], body.length, this, number);
  }

  confirmed(first: number, last: number, ok: boolean): void {
    expect(ok).toBe(true);
    const now = this.#cluster.clock.now();
    for (let number = first; number <= last; number++) {
      this.longest = Math.max(this.longest, now - this.#sentAt[number - 1]!);
      this.open--;
    }
  }

  unroutable(): void {
    throw new Error('the queue is gone');
  }
}

/** A cluster at rest, a node that leads nothing that is used, and publishers at both others to queues of both. */
async function setting(seed: number) {
  const cluster = new MemoryCluster(3, seed, { shards: 6 });
  await cluster.start();
  // Until every group is led where it should be.
  await cluster.clock.run(3_000);
  const follower = cluster.nodes.find((row) => row !== cluster.leaderOf(0))!;
  const others = cluster.nodes.filter((row) => row !== follower);
  const streams: Stream[] = [];
  for (const home of others) {
    for (const name of ['a', 'b']) {
      const near = home.cluster.ledShards();
      const queue = await declareQueue(cluster, home.node, `${name}${home.node}`, {}, { near });
      expect(cluster.leaderOf(queue.shard)).toBe(home);
      for (const row of others) streams.push(new Stream(cluster, row, queue));
    }
  }
  const load = async (milliseconds: number) => {
    for (let passed = 0; passed < milliseconds; passed += everyMilliseconds) {
      for (const stream of streams) stream.publish();
      await cluster.clock.run(everyMilliseconds);
    }
  };
  return { cluster, follower, others, streams, load };
}

type Fault = (cluster: MemoryCluster, node: number, others: readonly number[]) => () => void | Promise<void>;
const links = (node: number, others: readonly number[]) =>
  others.flatMap((other) => [[`n${node}`, `n${other}`] as const, [`n${other}`, `n${node}`] as const]);

const standStill: Fault = (cluster, node) => {
  cluster.pause(node);
  return () => cluster.resume(node);
};

const faults: Readonly<Record<string, Fault>> = {
  'is killed and comes back': (cluster, node) => {
    cluster.kill(node);
    return () => cluster.restart(node);
  },
  'stands still': standStill,
  'stands still until it is declared gone': standStill,
  'is cut off in silence': ({ network }, node, others) => {
    for (const [from, to] of links(node, others)) network.cut(from, to, 'drop');
    return () => network.heal();
  },
  'loses its connections': ({ network }, node, others) => {
    for (const [from, to] of links(node, others)) network.cut(from, to, 'reset');
    return () => network.heal();
  },
  'is far away all of a sudden': ({ network }, node, others) => {
    for (const [from, to] of links(node, others)) network.setDelay(from, to, 50, 200);
    return () => network.calm();
  },
  'hears and is heard through a narrow link': ({ network }, node, others) => {
    for (const [from, to] of links(node, others)) network.setBandwidth(from, to, 20);
    return () => network.calm();
  },
  'has a disk that answers nothing for a while': (cluster, node) => {
    const { disk } = cluster.node(node);
    disk.stalled = true;
    return () => {
      disk.stalled = false;
    };
  },
};

test.each(Object.entries(faults))(
  'a node that leads no queue in use %s: no other publisher waits',
  async (how, begin) => {
    const { cluster, follower, others, streams, load } = await setting(5);
    const expectServed = () => {
      for (const stream of streams) {
        expect(stream.open).toBe(0);
        expect(stream.longest).toBeLessThanOrEqual(confirmMillisecondsMax);
      }
    };
    await load(200);
    expectServed();
    const end = begin(
      cluster,
      follower.node,
      others.map(({ node }) => node),
    );
    await load(how.includes('gone') ? goneMilliseconds : suspectedMilliseconds);
    expectServed();
    const ended = end();
    // Until it has caught up, and has been handed back what it led.
    await load(2_000);
    await ended;
    expectServed();
  },
);
