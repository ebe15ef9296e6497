// Nodes come and go while messages are published: who is a member, where the replicas are, and that nothing confirmed is lost on the way.

import { afterEach, describe, expect, test } from 'vitest';
import type { QueueRecord } from '../../cluster/machine/metadata-types.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';
import { consume, declareQueue, Publisher, readMessage } from '../support/messages.ts';

const shards = 3;

describe('nodes come and go', () => {
  let cluster: MemoryCluster;
  let queues: QueueRecord[];
  let publisher: Publisher;
  let sent: Map<string, string>;
  let isPublishing = false;

  const started = async (count: number, seed: number, limits = {}) => {
    cluster = new MemoryCluster(count, seed, { shards, ...limits });
    await cluster.start();
    queues = [];
    publisher = new Publisher();
    sent = new Map();
  };
  const member = () => alive().find((row) => row.cluster.isReady)!;
  const metadata = () => member().cluster.metadata;
  const state = (node: number) => metadata().member(node)?.state;
  const held = (node: number) =>
    [...metadata().placements()].filter(([, placement]) => placement.voters.includes(node)).length;
  const alive = () => cluster.nodes.filter((row) => row.alive && (row.cluster as unknown) !== null);
  /** Every shard is where it should be, on so many nodes; each node has the replicas that the metadata say, and no others. */
  const isSettled = (replicas: number) => {
    const placements = [...metadata().placements()];
    if (placements.some(([, { voters: on, target }]) => target !== null || on.length !== replicas)) return false;
    return alive().every((row) =>
      placements.every(([group, placement]) => {
        const here = row.cluster.status().groups.find((status) => status.group === group);
        return placement.voters.includes(row.node) === (here !== undefined);
      }),
    );
  };
  const settled = async (replicas: number, milliseconds = 60_000) =>
    expect(await cluster.until(() => isSettled(replicas), milliseconds), 'placements settle').toBe(true);

  const declare = async () => {
    for (let i = 0; i < shards; i++) queues.push(await declareQueue(cluster, member().node, `q${i}`));
    expect(new Set(queues.map(({ shard }) => shard)).size).toBe(shards);
  };
  /** A message to each queue now and then, through whichever nodes are there. */
  const publish = () => {
    isPublishing = true;
    let next = 0;
    const step = () => {
      if (!isPublishing) return;
      const ready = alive().filter((row) => row.cluster.isReady);
      const row = ready[next++ % Math.max(1, ready.length)];
      if (row !== undefined)
        for (const queue of queues) {
          const tag = publisher.publish(row, queue);
          sent.set(String(tag), queue.name);
        }
      cluster.clock.after(200, step);
    };
    step();
  };
  /** Everything that was confirmed is still there, in its queue. */
  const expectNothingLost = async () => {
    isPublishing = false;
    await cluster.clock.run(1_000);
    const row = member();
    const found = new Map<string, string>();
    for (const [i, queue] of queues.entries()) {
      const leases = consume(row, queue, 900 + i);
      const confirmed = [...publisher.confirmedTags].filter((tag) => sent.get(String(tag)) === queue.name);
      expect(confirmed.length).toBeGreaterThan(5);
      expect(await cluster.until(() => leases().length >= confirmed.length, 10_000), queue.name).toBe(true);
      for (const lease of leases()) found.set((await readMessage(cluster, row, lease)).body, queue.name);
    }
    const lost = [...publisher.confirmedTags].filter((tag) => found.get(String(tag)) !== sent.get(String(tag)));
    expect(lost).toEqual([]);
  };
  const join = async (replaces: number | null = null) => {
    const node = await cluster.join(member().node, replaces);
    expect(node).toBe(cluster.nodes.length);
    expect(await cluster.until(() => state(node as number) === 'member', 30_000), `n${node} is a member`).toBe(true);
    return node as number;
  };
  /** A node leaves, and its process ends as it says. */
  const leave = async (node: number) => {
    const through = alive().find((row) => row.node !== node)!;
    expect(await cluster.leave(through.node, node)).toBeNull();
    const row = cluster.node(node);
    expect(await cluster.until(() => row.fatal !== null, 60_000), `n${node} ends`).toBe(true);
    expect(row.fatal!.message).toContain(`n${node}) has left the cluster for good`);
    cluster.kill(node);
    expect(await cluster.until(() => state(node) === 'gone', 10_000)).toBe(true);
  };

  afterEach(() => {
    isPublishing = false;
    for (const row of cluster.nodes) if (row.alive) expect(row.fatal).toBeNull();
    for (const row of alive())
      for (const { group, halted } of row.cluster.status().groups) expect(halted, `group ${group}`).toBeNull();
  });

  test('a cluster grows from one node to three and five, and shrinks to one, under load: nothing is lost', async () => {
    await started(1, 1);
    await declare();
    publish();
    await join();
    await join();
    await settled(3);
    // Who belongs to it, and where they are, is on every disk.
    for (const row of alive()) cluster.crash(row.node);
    for (const row of cluster.nodes) await cluster.restart(row.node);
    expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.isReady), 20_000), 'it is back').toBe(
      true,
    );
    await join();
    await join();
    await settled(3);
    const isEven = () => cluster.nodes.every(({ node }) => [1, 2].includes(held(node)));
    expect(await cluster.until(() => isEven() && isSettled(3), 30_000), 'replicas are spread evenly').toBe(true);
    for (const node of [1, 2, 3, 4]) {
      await leave(node);
      const staying = alive().length;
      await settled(staying >= 3 ? 3 : 1);
    }
    expect(alive().map(({ node }) => node)).toEqual([5]);
    await expectNothingLost();
  });

  test('a node in the place of a dead one gets its replicas; the dead one is told that it is gone when it comes back', async () => {
    await started(3, 2);
    await declare();
    publish();
    cluster.crash(3);
    await cluster.clock.run(2_000);
    const node = await join(3);
    await settled(3);
    expect(await cluster.until(() => state(3) === 'gone', 30_000)).toBe(true);
    for (let group = 1; group <= shards; group++) expect(metadata().placement(group)!.voters).toEqual([1, 2, node]);
    await cluster.restart(3);
    expect(await cluster.until(() => cluster.node(3).fatal !== null, 10_000)).toBe(true);
    expect(cluster.node(3).fatal!.message).toContain('has left the cluster for good');
    cluster.kill(3);
    await expectNothingLost();
  });

  test('a node that was away while all others left finds those that came, which call it', async () => {
    await started(3, 31);
    await declare();
    publish();
    await settled(3);
    cluster.kill(3);
    for (const leaving of [2, 1]) {
      await join();
      await settled(3);
      await cluster.clock.run(5_000);
      await leave(leaving);
    }
    await cluster.restart(3);
    const isBack = () => cluster.node(3).cluster.isReady && state(3) === 'member' && held(3) === shards;
    expect(await cluster.until(isBack, 30_000)).toBe(true);
    await settled(3);
    cluster.kill(4);
    await cluster.clock.run(3_000);
    await expectNothingLost();
  });

  test('a node that lost its whole log hears from the others who belongs to the cluster, and gets all of it again', async () => {
    await started(3, 18);
    await declare();
    publish();
    cluster.crash(3);
    await cluster.clock.run(2_000);
    const victim = await join(3);
    await settled(3);
    expect(await cluster.until(() => state(3) === 'gone', 30_000)).toBe(true);
    await cluster.clock.run(2_000);
    cluster.crash(victim);
    // It comes while the victim is away, which knows of node 3 instead, as it was told when it joined.
    await join();
    await settled(3);
    const { disk } = cluster.node(victim);
    for (const { path } of disk.paths()) if (/^(log|snapshots)\//.test(path)) disk.put(path, null);
    await cluster.restart(victim);
    const isWell = () =>
      cluster.node(victim).cluster.isReady &&
      cluster
        .node(victim)
        .cluster.status()
        .groups.every(({ halted, repairing }) => halted === null && !repairing);
    expect(await cluster.until(isWell, 60_000)).toBe(true);
    await settled(3);
    await expectNothingLost();
  });

  test('who cannot be done without stays: a sentence says why', async () => {
    await started(3, 3);
    await declare();
    cluster.kill(3);
    expect(await cluster.until(() => !member().cluster.status().nodes[2]!.up, 10_000)).toBe(true);
    await cluster.clock.run(8_000);
    expect(await cluster.leave(1, 2)).toMatch(/too few of the nodes that would stay are up/);
    expect(await cluster.leave(1, 7)).toMatch(/no such node/);
    await cluster.restart(3);
    expect(await cluster.until(() => cluster.node(3).cluster.isReady, 10_000)).toBe(true);
    expect(await cluster.leave(1, 3)).toBeNull();
    expect(await cluster.until(() => state(3) === 'gone', 60_000)).toBe(true);
    cluster.kill(3);
  });

  test('a replica that is dropped and comes back to the same node begins anew, and votes only when it has all again', async () => {
    await started(4, 4);
    await declare();
    publish();
    await settled(3);
    const [group] = [...metadata().placements()].find(([, placement]) => placement.voters.includes(4))!;
    const place = async (target: number[]) => {
      const isThere = () => String(metadata().placement(group)!.voters) === String(target);
      for (let tries = 0; tries < 20 && !isThere(); tries++) {
        member().cluster.changeMetadata({ kind: 'place', group, target }, () => {});
        await cluster.until(isThere, 2_000);
      }
      expect(metadata().placement(group)!.voters).toEqual(target);
    };
    const here = () =>
      cluster
        .node(4)
        .cluster.status()
        .groups.find((status) => status.group === group);
    for (let round = 0; round < 3; round++) {
      await place([1, 2, 3]);
      expect(await cluster.until(() => here() === undefined, 5_000), 'it is dropped').toBe(true);
      await place([2, 3, 4]);
      expect(await cluster.until(() => here()?.repairing === false, 5_000), 'it has all again').toBe(true);
      if (round === 1) {
        cluster.crash(4);
        await cluster.restart(4);
      }
    }
    expect(await cluster.until(() => isSettled(3) && cluster.node(4).cluster.isReady, 30_000)).toBe(true);
    await expectNothingLost();
  });

  test.each([11, 12])('leaders die at every stage of a move, and nodes that come (seed %i)', async (seed) => {
    await started(3, seed);
    await declare();
    publish();
    const fault = async () => {
      const groups = [0, 1, 2, 3].map((group) => cluster.leaderOf(group)?.node ?? 0);
      const row = cluster.node(groups[cluster.random.integer(groups.length)] || 1);
      if (!row.alive) return;
      if (cluster.random.integer(2) === 0) cluster.crash(row.node);
      else cluster.kill(row.node);
      await cluster.clock.run(200 + cluster.random.integer(2_500));
      await cluster.restart(row.node);
    };
    expect(await cluster.join(1)).toBe(4);
    for (let i = 0; i < 6; i++) {
      await cluster.clock.run(cluster.random.integer(600));
      await fault();
    }
    expect(await cluster.until(() => state(4) === 'member' && isSettled(3), 60_000), 'it joins').toBe(true);
    const through = cluster.leaderOf(0)!.node;
    const leaving = [1, 2, 3].find((node) => node !== through)!;
    expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.isReady), 20_000)).toBe(true);
    expect(await cluster.leave(through, leaving)).toBeNull();
    for (let i = 0; i < 4; i++) {
      await cluster.clock.run(cluster.random.integer(600));
      await fault();
      if (cluster.node(leaving).fatal !== null) break;
    }
    expect(await cluster.until(() => state(leaving) === 'gone', 60_000), 'it leaves').toBe(true);
    expect(await cluster.until(() => cluster.node(leaving).fatal !== null, 20_000)).toBe(true);
    cluster.kill(leaving);
    await settled(3);
    await expectNothingLost();
  });

  test('a move whose new node is cut off is taken back, and goes on when it is there again', async () => {
    await started(3, 5);
    await declare();
    publish();
    await join();
    expect(
      await cluster.until(() => [...metadata().placements()].some(([, { target }]) => target !== null), 10_000),
    ).toBe(true);
    for (const node of [1, 2, 3]) cluster.network.partition(`n${node}`, 'n4', 'drop');
    const settledWithout4 = () =>
      [...cluster.node(1).cluster.metadata.placements()].every(([, { target }]) => target === null);
    expect(await cluster.until(settledWithout4, 60_000), 'nothing is under way').toBe(true);
    cluster.network.heal();
    expect(await cluster.until(() => isSettled(3) && held(4) >= 2, 60_000), 'it gets its share').toBe(true);
    await expectNothingLost();
  });
});
