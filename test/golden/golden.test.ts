// Data folders of this and earlier versions are opened as they are, hold what was put into them, and are gone on with.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { MessageView } from '../../cluster/index.ts';
import { openLog } from '../../cluster/log/index.ts';
import type { MetadataMachine } from '../../cluster/machine/metadata.ts';
import type { QueueRecord } from '../../cluster/machine/metadata-types.ts';
import { createClock, createDisk } from '../../cluster/os.ts';
import type { Disk } from '../../cluster/ports.ts';
import type { NodeConfig } from '../../node/config.ts';
import { openDataFolder, processName, storeFolder } from '../../node/data-folder.ts';
import { machineOf } from '../support/machines.ts';
import { type Lease, MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';
import { consume, declareQueue, Publisher } from '../support/messages.ts';
import { goldenBytes, goldenConfig, goldenVersions, readGolden } from './folders.ts';
import {
  bindings,
  bodies,
  clusterId,
  deletedQueue,
  exchanges,
  format,
  goldenLimits,
  leasedHeld,
  nodes,
  queueNames,
} from './scene.ts';

const bytesMax = 300 * 1024;
/** Higher than any incarnation in the folders. */
const laterIncarnation = 10_000;

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** The settings of a node with a copy of its folder on a real disk. */
function copied(version: number, node: number): NodeConfig {
  const parent = mkdtempSync(join(tmpdir(), 'warren-golden-'));
  folders.push(parent);
  const config = goldenConfig(node, parent);
  const folder = config.dataFolder;
  for (const [name, bytes] of readGolden(version, node)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), bytes);
  }
  return config;
}

/** Puts a node's store on its disk in memory, in place of what is there. */
async function load(cluster: MemoryCluster, version: number, { node, disk }: MemoryNode): Promise<void> {
  await run(cluster, async () => {
    for (const { path } of disk.paths()) await disk.remove(path);
    for (const [name, bytes] of readGolden(version, node)) {
      if (!name.startsWith(`${storeFolder}/`)) continue;
      const path = name.slice(storeFolder.length + 1);
      await disk.makeFolder(dirname(path) === '.' ? '' : dirname(path));
      await put(disk, path, bytes);
    }
    for (const folder of ['', 'log', 'snapshots']) await disk.syncFolder(folder);
  });
}

async function put(disk: Disk, path: string, bytes: Buffer): Promise<void> {
  const file = await disk.open(path, 'create');
  await new Promise<void>((resolve) => file.write([bytes], 0, () => resolve()));
  await new Promise<void>((resolve) => file.sync(() => resolve()));
  await file.close();
}

/** Lets the cluster's time pass until this is done. */
async function run(cluster: MemoryCluster, work: () => Promise<void>): Promise<void> {
  let isDone = false;
  const working = work().then(() => {
    isDone = true;
  });
  expect(await cluster.until(() => isDone, 60_000)).toBe(true);
  await working;
}

/** A cluster whose nodes find these folders. */
async function opened(version: number): Promise<MemoryCluster> {
  const cluster = new MemoryCluster(nodes, 7, goldenLimits);
  await cluster.start();
  for (const row of cluster.nodes) cluster.kill(row.node);
  for (const row of cluster.nodes) await load(cluster, version, row);
  for (const row of cluster.nodes) {
    row.incarnation = laterIncarnation;
    await cluster.restart(row.node);
  }
  expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.isReady), 20_000)).toBe(true);
  return cluster;
}

async function bodyOf(cluster: MemoryCluster, { cluster: node }: MemoryNode, lease: Lease): Promise<string> {
  let view: MessageView | null | undefined;
  const isWanted = () => view === undefined;
  node.readMessages(lease.shard, lease.entryIndex, [lease.ordinal], isWanted, ([found]) => {
    view = found ?? null;
  });
  expect(await cluster.until(() => view !== undefined, 5_000)).toBe(true);
  const { payload, bodyStart, bodyEnd, before } = view!;
  return Buffer.concat([...(before ?? []), payload.subarray(bodyStart, bodyEnd)]).toString();
}

/** All that is in a queue, in order, as a consumer of this node reads it. */
async function readAll(cluster: MemoryCluster, row: MemoryNode, queue: QueueRecord, consumer: number, count: number) {
  const leases = consume(row, queue, consumer);
  expect(await cluster.until(() => leases().length >= count, 10_000)).toBe(true);
  const found: { readonly body: string; readonly redelivered: boolean }[] = [];
  for (const lease of leases()) found.push({ body: await bodyOf(cluster, row, lease), redelivered: lease.redelivered });
  row.cluster.pipe(queue.shard).cancel(row, consumer, 1, null);
  return found;
}

const halted = (cluster: MemoryCluster) =>
  cluster.nodes.flatMap((row) => row.cluster.status().groups.flatMap(({ halted: why }) => (why === null ? [] : [why])));

describe.each(goldenVersions())('the golden data folders of version %i', (version) => {
  it('are small, and have files of every kind', () => {
    expect(goldenBytes(version)).toBeLessThan(bytesMax);
    const names = format.nodes.flatMap(({ node }) => [...readGolden(version, node).keys()]);
    for (const kind of [
      /^identity$/,
      /^incarnation-/,
      /^store\/manifest/,
      /^store\/log\/.*\.kept$/,
      /^store\/snapshots\/[0-9]/,
    ])
      expect(names.filter((name) => kind.test(name)).length).toBeGreaterThan(0);
    expect(names.filter((name) => /^store\/log\/.*\.log$/.test(name)).length).toBeGreaterThan(2 * nodes);
  });

  it.each(format.nodes)(
    'belong to a node that takes them over, and its log finds them sound: $name',
    async ({ node, name, uuid }) => {
      const config = copied(version, node);
      const path = config.dataFolder;
      const taken = openDataFolder(config, processName(process.pid));
      expect(taken).toMatchObject({ ok: true });
      if (taken.ok) expect(taken.folder.identity).toMatchObject({ name, node, committed: true, begun: true });
      const options = { clusterId, nodeUuid: uuid, ...goldenLimits.log! };
      const { log, groups } = await openLog(createDisk(join(path, storeFolder)), createClock(), options);
      expect(groups.map(({ group }) => group).sort()).toEqual([0, 1, 2, 3]);
      expect(groups.filter(({ repairTo }) => repairTo > 0)).toEqual([]);
      expect(groups.some(({ snapshot }) => snapshot.index > 0)).toBe(true);
      await log.close();
      expect(readFileSync(join(path, 'identity'), 'utf8')).toContain(clusterId);
    },
  );

  it('hold what was put into them, for every node, and are gone on with', async () => {
    const cluster = await opened(version);
    const { metadata } = cluster.node(1).cluster;
    for (const { name, type } of exchanges) expect(metadata.exchange('/', name)?.type).toBe(type);
    expect(metadata.queue('/', deletedQueue)).toBeUndefined();
    const routes = (key: string) =>
      metadata
        .route('/', 'events', key, () => ({}))!
        .shards.flatMap(({ queues }) => queues)
        .sort();
    const uid = (name: string) => metadata.queue('/', name)!.uid;
    expect(routes('plain.one')).toEqual([uid('plain'), uid('leased')].sort());
    expect(routes('other')).toEqual([uid('leased')]);
    for (const { source, queue, routingKey } of bindings) {
      const isBound = {
        vhost: '/',
        source,
        destination: { kind: 'queue', name: queue },
        routingKey,
        arguments: {},
      } as const;
      expect((metadata as MetadataMachine).isBound(isBound)).toBe(true);
    }

    for (const [i, name] of queueNames.entries()) {
      const queue = metadata.queue('/', name)!;
      const count = bodies[name].length;
      // What somebody held has gone back.
      const isBack = (row: MemoryNode) =>
        statusOf(row, queue)?.ready === count && statusOf(row, queue)?.unsettled === 0;
      expect(await cluster.until(() => cluster.nodes.every(isBack), 10_000)).toBe(true);
      const row = cluster.node(1 + (i % nodes));
      const found = await readAll(cluster, row, queue, 100 + i, count);
      expect(found.map(({ body }) => body)).toEqual(bodies[name]);
      if (name === 'leased')
        expect(found.map(({ redelivered }) => redelivered)).toEqual(found.map((_, n) => n < leasedHeld));
    }

    const publisher = new Publisher();
    const after = await declareQueue(cluster, 2, 'after');
    for (const queue of [after, metadata.queue('/', 'plain')!])
      for (let n = 0; n < 100; n++) publisher.publish(cluster.node(3), queue, `later ${n}`);
    expect(await cluster.until(() => publisher.confirmedTags.size === 200, 10_000)).toBe(true);
    for (const row of cluster.nodes) {
      cluster.kill(row.node);
      await cluster.restart(row.node);
    }
    const isThere = (row: MemoryNode) =>
      statusOf(row, after)?.ready === 100 &&
      statusOf(row, metadata.queue('/', 'plain')!)?.ready === 100 + bodies.plain.length;
    expect(await cluster.until(() => cluster.nodes.every((row) => row.cluster.isReady && isThere(row)), 20_000)).toBe(
      true,
    );
    await cluster.clock.run(1_000);
    for (const shard of [1, 2, 3])
      expect(new Set(cluster.nodes.map((row) => machineOf(row, shard).stateHash())).size).toBe(1);
    expect(halted(cluster)).toEqual([]);
  });
});
