// Several whole nodes of the cluster in one process: the production host, log, transport and machines over a simulated network, disk and
// clock. State owned: the nodes, dead and alive. Everything repeats from one seed.

import {
  type Cluster,
  type ClusterLimits,
  type ClusterOptions,
  defaultLimits,
  type Feed,
  openCluster,
} from '../../cluster/index.ts';
import type { QueueStatus } from '../../cluster/machine/machine.ts';
import type { MachineVersions } from '../../cluster/machine/versions.ts';
import type { Clock, Ports } from '../../cluster/ports.ts';
import { createMemoryClock } from './memory-clock.ts';
import { createMemoryDisk, type MemoryDisk } from './memory-disk.ts';
import { createMemoryNetwork } from './memory-net.ts';
import { createMemoryRandom } from './memory-random.ts';

export interface Lease {
  readonly shard: number;
  readonly consumer: number;
  readonly leaseOrdinal: number;
  readonly entryIndex: number;
  readonly ordinal: number;
  readonly redelivered: boolean;
}

/** What one node's sessions would have heard. */
export class RecordingFeed implements Feed {
  readonly leases: Lease[] = [];
  readonly cancelled: number[] = [];
  fencedCount = 0;
  freshCount = 0;
  lease(
    shard: number,
    consumer: number,
    leaseOrdinal: number,
    entryIndex: number,
    ordinal: number,
    redelivered: boolean,
  ) {
    this.leases.push({ shard, consumer, leaseOrdinal, entryIndex, ordinal, redelivered });
  }
  consumerCancelled(_shard: number, consumer: number) {
    this.cancelled.push(consumer);
  }
  nextLease(shard: number, consumer: number) {
    const known = this.leases.filter((lease) => lease.shard === shard && lease.consumer === consumer);
    return Math.max(0, ...known.map((lease) => lease.leaseOrdinal)) + 1;
  }
  consumersOf(shard: number) {
    const numbers = new Set(this.leases.filter((lease) => lease.shard === shard).map(({ consumer }) => consumer));
    return Array.from(numbers, (consumer) => ({ consumer, nextLease: this.nextLease(shard, consumer) }));
  }
  reconciled() {}
  turnEnded() {}
  congestionChanged() {}
  metadataFresh() {
    this.freshCount++;
  }
  metadataOverdue() {}
  fenced() {
    this.fencedCount++;
    this.leases.length = 0;
  }
}

export interface MemoryNode {
  readonly node: number;
  readonly disk: MemoryDisk;
  cluster: Cluster;
  feed: RecordingFeed;
  alive: boolean;
  incarnation: number;
  /** Wall clock minus the cluster's. */
  wallOffset: number;
  /** How long its monotonic clock has stood still. */
  stoodStill: number;
  /** While it is paused: what would have run. */
  held: (() => void)[] | null;
  pausedAt: number;
  readonly logs: { readonly event: string; readonly details: Record<string, unknown> }[];
  fatal: Error | null;
  /** The machine versions that its next process knows; undefined: those that there are. */
  machineVersions?: MachineVersions;
}

/** The state of a queue, by a node that has a replica of it. */
export function statusOf({ cluster }: MemoryNode, queue: { readonly shard: number; readonly uid: number }) {
  let status: QueueStatus | undefined;
  cluster.queueStatus(queue.shard, queue.uid, (told) => {
    status = told;
  });
  return status;
}

export class MemoryCluster {
  readonly clock = createMemoryClock();
  readonly random;
  readonly network;
  readonly nodes: MemoryNode[] = [];
  /** How the properties of messages are read and changed. */
  properties: Pick<ClusterOptions, 'readHeaders' | 'withDeath'> = {
    readHeaders: (properties) => ({ colour: properties.toString() }),
  };
  /** What all nodes know at first; undefined: those that there are. */
  machineVersions: MachineVersions | undefined;
  readonly #limits: ClusterLimits;
  readonly #count: number;

  constructor(count: number, seed: number, limits: Partial<ClusterLimits> = {}) {
    this.random = createMemoryRandom(seed);
    this.network = createMemoryNetwork(this.clock, this.random);
    this.#limits = { ...defaultLimits, shards: 3, ...limits };
    this.#count = count;
  }

  /** Starts all nodes and waits until each may serve sessions. `wallOffsets`: of nodes whose clocks are wrong from the start. */
  async start(wallOffsets: Readonly<Record<number, number>> = {}): Promise<void> {
    for (let node = 1; node <= this.#count; node++) {
      const row = this.#createNode(node, wallOffsets[node] ?? 0);
      if (this.machineVersions !== undefined) row.machineVersions = this.machineVersions;
      this.nodes.push(row);
      await this.restart(node);
    }
    if (!(await this.until(() => this.nodes.every((row) => row.cluster.isReady), 10_000)))
      throw new Error('no cluster');
  }

  /**
   * A new node, with an empty disk, joins: through one that is there it asks for its number, and starts. `replaces` leaves with it. Its number,
   * or why not.
   */
  async join(through: number, replaces: number | null = null): Promise<number | string> {
    const node = this.nodes.length + 1;
    let answer: number | string | undefined;
    const request = { name: `n${node}`, uuid: `uuid-${node}`, address: addressOf(node), replaces };
    void this.node(through)
      .cluster.join(request)
      .then((told) => {
        answer = told;
      });
    await this.until(() => answer !== undefined, 20_000);
    if (answer !== node) return answer ?? 'no answer';
    this.nodes.push(this.#createNode(node, 0));
    await this.restart(node);
    return node;
  }

  /** A node is to leave. Null: that has begun; else why not. */
  async leave(through: number, node: number): Promise<string | null> {
    let answer: string | null | undefined;
    void this.node(through)
      .cluster.leave(node)
      .then((told) => {
        answer = told;
      });
    await this.until(() => answer !== undefined, 20_000);
    return answer === undefined ? 'no answer' : answer;
  }

  #createNode(node: number, wallOffset: number): MemoryNode {
    const run = (task: () => void) => {
      if (row.held === null) task();
      else row.held.push(task);
    };
    const disk = createMemoryDisk({ schedule: (task) => this.clock.after(0.2, () => run(task)) });
    const row: MemoryNode = {
      node,
      disk,
      cluster: null as unknown as Cluster,
      feed: new RecordingFeed(),
      alive: false,
      incarnation: 0,
      wallOffset,
      stoodStill: 0,
      held: null,
      pausedAt: 0,
      logs: [],
      fatal: null,
    };
    return row;
  }

  node(node: number): MemoryNode {
    return this.nodes[node - 1]!;
  }

  async restart(node: number): Promise<void> {
    const row = this.node(node);
    row.alive = true;
    row.fatal = null;
    row.feed = new RecordingFeed();
    const ports = this.#ports(row);
    let opened = false;
    const opening = openCluster(this.#options(row), ports, {
      log: (_level, event, details) => row.logs.push({ event, details }),
      fatal: (error) => {
        row.fatal = error;
      },
    }).then((cluster) => {
      row.cluster = cluster;
      cluster.setFeed(row.feed);
      void cluster.start();
      opened = true;
    });
    await this.until(() => opened, 10_000);
    await opening;
  }

  /** Its process stands still (SIGSTOP): nothing of it runs, nothing reaches or leaves it. */
  pause(node: number): void {
    const row = this.node(node);
    row.held = [];
    row.pausedAt = this.clock.now();
    this.network.pause(`n${node}`);
  }

  /** `clockStood`: its monotonic clock did not run meanwhile, as in a virtual machine that was suspended. */
  resume(node: number, clockStood = false): void {
    const row = this.node(node);
    const held = row.held ?? [];
    row.held = null;
    if (clockStood) row.stoodStill += this.clock.now() - row.pausedAt;
    for (const task of held) task();
    this.network.resume(`n${node}`);
  }

  /** Power loss: what was not synced may be gone. */
  crash(node: number): void {
    this.#end(node);
    this.node(node).disk.crash(this.random);
  }

  /** kill -9: what was written stays. */
  kill(node: number): void {
    this.#end(node);
    this.node(node).disk.kill();
  }

  /** Asks for a queue through a node. What comes back tells the code of the answer, `null` for "unknown", undefined while there is none. */
  askForQueue(node: number, name: string): () => number | null | undefined {
    let code: number | null | undefined;
    const { cluster } = this.node(node);
    const command = {
      kind: 'declareQueue',
      vhost: '/',
      name,
      durable: true,
      autoDelete: false,
      exclusive: null,
      arguments: {},
      home: { node, incarnation: cluster.incarnation },
    } as const;
    cluster.changeMetadata(command, (result) => {
      code = result?.code ?? null;
    });
    return () => code;
  }

  until(condition: () => boolean, milliseconds: number): Promise<boolean> {
    return this.clock.runUntil(condition, milliseconds);
  }

  leaderOf(group: number): MemoryNode | undefined {
    const leads = (row: MemoryNode) =>
      row.cluster.status().groups.some((status) => status.group === group && status.role === 'leader');
    return this.nodes.find((row) => row.alive && leads(row));
  }

  #end(node: number): void {
    this.node(node).alive = false;
    this.network.crash(`n${node}`);
  }

  /** A process's view: once it is dead, nothing of it runs any more. */
  #ports(row: MemoryNode): Ports {
    const life = ++row.incarnation;
    const mine = (task: () => void) => () => {
      if (!row.alive || row.incarnation !== life) return;
      if (row.held === null) task();
      else row.held.push(task);
    };
    const clock: Clock = {
      now: () => this.clock.now() - row.stoodStill,
      wall: () => this.clock.wall() + row.wallOffset,
      after: (milliseconds, task) => this.clock.after(milliseconds, mine(task)),
      soon: (task) => this.clock.soon(mine(task)),
      nextTurn: (task) => this.clock.nextTurn(mine(task)),
    };
    return { clock, disk: row.disk.mount(), net: this.network.endpoint(`n${row.node}`), random: this.random };
  }

  #options(row: MemoryNode): ClusterOptions {
    const peer = (node: number) => ({ node, name: `n${node}`, address: addressOf(node) });
    let incarnation = row.incarnation + 1;
    return {
      clusterName: 'memory',
      clusterId: 'c'.repeat(32),
      node: row.node,
      nodeName: `n${row.node}`,
      nodeUuid: `uuid-${row.node}`,
      contact: { pid: row.node, amqp: '', http: '' },
      nextIncarnation: async () => {
        incarnation += 1000;
        return incarnation;
      },
      nodes: Array.from({ length: this.#count }, (_, i) => peer(i + 1)),
      contacts: row.node > this.#count ? this.nodes.map(({ node }) => peer(node)) : [],
      peerListen: addressOf(row.node),
      secret: 'a secret of the test',
      ...this.properties,
      limits: this.#limits,
      ...(row.machineVersions === undefined ? {} : { machineVersions: row.machineVersions }),
    };
  }
}

const addressOf = (node: number) => ({ host: `n${node}`, port: 25_672 });
