// Makes the golden data folders of this version anew:
//
//   npx tsc -b && node dist/test/golden/make.js
//
// A cluster of three nodes in memory lives through what `scene.ts` describes, one of them is sent a snapshot with live entries, two stop and
// one is killed; what is on their disks is what is kept. Every later version must open it: so when the layout of data folders changes after a
// release, `goldenVersion` is raised and the old folder stays; it is only made anew while its version was not released yet.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { SettleOperation, settleFailed } from '../../cluster/index.ts';
import type { MetadataCommand, QueueRecord } from '../../cluster/machine/metadata-types.ts';
import { openDataFolder, processName, storeFolder } from '../../node/data-folder.ts';
import { MemoryCluster, type MemoryNode, statusOf } from '../support/memory-cluster.ts';
import { consume, declareQueue, Publisher } from '../support/messages.ts';
import { goldenBytes, goldenConfig, listFiles, writeGolden } from './folders.ts';
import {
  bindings,
  deadLettered,
  deletedQueue,
  exchanges,
  format,
  goldenLimits,
  goldenVersion,
  largeBody,
  leasedAccepted,
  leasedCount,
  leasedHeld,
  letterCount,
  nodes,
  plainCount,
  queueNames,
  sparseCount,
  sparseLeft,
} from './scene.ts';

const patience = 20_000;

class Scene {
  readonly cluster = new MemoryCluster(nodes, 1, goldenLimits);
  readonly publisher = new Publisher();
  readonly queues = new Map<string, QueueRecord>();
  #published = 0;

  async play(): Promise<void> {
    await this.cluster.start();
    await this.#declare();
    await this.#publish('plain', 1, plainCount);
    await this.#publish('leased', 1, leasedCount);
    await this.#publish('source', 1, letterCount);
    await this.#publishLarge();
    await this.#refuse();
    await this.#leaveSparse();
    await this.#hold();
    // Entries behind the last snapshots.
    await this.cluster.clock.run(1_000);
  }

  queue(name: string): QueueRecord {
    return this.queues.get(name)!;
  }

  async #declare(): Promise<void> {
    const flags = { durable: true, autoDelete: false, internal: false, arguments: {} };
    for (const exchange of exchanges)
      await this.#change({ kind: 'declareExchange', vhost: '/', ...exchange, ...flags });
    for (const [i, name] of [...queueNames, deletedQueue].entries())
      this.queues.set(
        name,
        await declareQueue(this.cluster, 1 + (i % nodes), name, name === 'source' ? deadLettered : {}),
      );
    for (const { source, queue, routingKey } of bindings) {
      const destination = { kind: 'queue', name: queue } as const;
      await this.#change({ kind: 'bind', vhost: '/', source, destination, routingKey, arguments: {} });
    }
    await this.#change({ kind: 'deleteQueue', uid: this.queue(deletedQueue).uid });
  }

  async #change(command: MetadataCommand): Promise<void> {
    let code: number | null | undefined;
    this.cluster.node(1).cluster.changeMetadata(command, (result) => {
      code = result?.code ?? null;
    });
    await this.#until(() => code !== undefined, command.kind);
    if (code !== 0) throw new Error(`${command.kind} came to ${code}`);
  }

  /** Each with an entry of its own. */
  async #publish(name: string, first: number, last: number, through = 1): Promise<void> {
    for (let i = first; i <= last; i++) {
      this.publisher.publish(this.cluster.node(through), this.queue(name), `${name} ${i}`);
      await this.#confirmed();
    }
  }

  async #publishLarge(): Promise<void> {
    this.publisher.publish(this.cluster.node(2), this.queue('large'), largeBody.toString());
    await this.#confirmed();
  }

  #confirmed(): Promise<void> {
    this.#published++;
    return this.#until(() => this.publisher.confirmedTags.size === this.#published, 'a confirm');
  }

  /** What came in `source` becomes dead letters. */
  async #refuse(): Promise<void> {
    const queue = this.queue('source');
    const leases = consume(this.cluster.node(2), queue, 1);
    await this.#until(() => leases().length === letterCount, 'the messages to be refused');
    const pipe = this.cluster.node(2).cluster.pipe(queue.shard);
    for (const { leaseOrdinal } of leases()) pipe.settle(SettleOperation.discard, settleFailed, 1, leaseOrdinal, 1);
    await this.#until(() => this.#status('letters')?.ready === letterCount, 'dead letters');
  }

  /** While a node is away: so much that it is sent a snapshot afterwards, and so little of it left that its entries come in a file of their own. */
  async #leaveSparse(): Promise<void> {
    const { cluster } = this;
    cluster.kill(3);
    const queue = this.queue('sparse');
    const leases = consume(cluster.node(1), queue, 2);
    await this.#publish('sparse', 1, sparseCount, 2);
    await this.#until(() => leases().length === sparseCount, 'the messages of the sparse queue');
    const pipe = cluster.node(1).cluster.pipe(queue.shard);
    for (const { leaseOrdinal } of leases())
      if (leaseOrdinal % sparseLeft > 0) pipe.settle(SettleOperation.accept, 0, 2, leaseOrdinal, 1);
    await this.#until(() => this.#status('sparse')?.unsettled === sparseCount / sparseLeft, 'the sparse queue');
    await cluster.restart(3);
    await this.#until(() => this.#hasKept(3), 'a snapshot with live entries');
  }

  /** A consumer holds some when the nodes stop. */
  async #hold(): Promise<void> {
    const queue = this.queue('leased');
    const { cluster, feed } = this.cluster.node(2);
    const pipe = cluster.pipe(queue.shard);
    pipe.consume(
      this,
      { consumer: 3, queue: queue.uid, unsettledMax: leasedHeld, grantedTo: 1e9, priority: 0, flags: 0, tag: 'holder' },
      () => {},
    );
    const count = () => feed.leases.filter(({ consumer }) => consumer === 3).length;
    await this.#until(() => count() === leasedHeld, 'leases');
    pipe.settle(SettleOperation.accept, 0, 3, 1, leasedAccepted);
    await this.#until(() => count() === leasedHeld + leasedAccepted, 'more leases');
    await this.#until(() => this.#status('leased')?.unsettled === leasedHeld, 'the leased queue');
  }

  #status(name: string) {
    return statusOf(this.cluster.node(1), this.queue(name));
  }

  #hasKept(node: number): boolean {
    const row = this.cluster.node(node);
    return row.cluster.isReady && row.disk.paths().some(({ path }) => path.endsWith('.kept'));
  }

  async #until(condition: () => boolean, what: string): Promise<void> {
    if (!(await this.cluster.until(condition, patience))) throw new Error(`${what}: not within ${patience} ms`);
  }

  async stop(row: MemoryNode): Promise<void> {
    let isStopped = false;
    void row.cluster.stop().then(() => {
      isStopped = true;
    });
    await this.#until(() => isStopped, `node ${row.node} to stop`);
  }
}

/** The files beside the store, as the node's own code writes them. */
function identityOf(node: number): Map<string, Buffer> {
  const parent = mkdtempSync(join(tmpdir(), 'warren-golden-'));
  try {
    const config = goldenConfig(node, parent);
    const path = config.dataFolder;
    const opened = openDataFolder(config, processName(process.pid));
    if (!opened.ok) throw new Error(opened.error);
    const { folder } = opened;
    folder.prepare(format);
    folder.commit(format);
    folder.begin();
    folder.release();
    return new Map(listFiles(path).map((file) => [relative(path, file), readFileSync(file)]));
  } finally {
    rmSync(parent, { recursive: true, force: true });
  }
}

const scene = new Scene();
await scene.play();
await scene.stop(scene.cluster.node(1));
await scene.stop(scene.cluster.node(2));
scene.cluster.kill(3);
for (const { node, disk } of scene.cluster.nodes) {
  const files = identityOf(node);
  for (const { path } of disk.paths()) files.set(join(storeFolder, path), disk.contents(path));
  writeGolden(goldenVersion, node, files);
  console.log(`n${node}: ${[...files].map(([name, { length }]) => `${name} (${length})`).join(', ')}`);
}
console.log(`${goldenBytes(goldenVersion)} bytes`);
