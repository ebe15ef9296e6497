// One node's part in the cluster, as the broker sees it.

import { metadataGroup } from './group.ts';
import { Host } from './host.ts';
import { LogError, openLog } from './log/index.ts';
import type { Log } from './log/types.ts';
import type { QueueStatus } from './machine/machine.ts';
import type { MetadataCommand, MetadataView } from './machine/metadata-types.ts';
import { type ClusterOptions, checkLimits, type HostEvents } from './options.ts';
import type { Feed } from './origin.ts';
import type { CommandReply, Pipe } from './pipe.ts';
import type { Ports } from './ports.ts';
import { createTransport } from './transport.ts';

export interface GroupStatus {
  readonly group: number;
  readonly name: string;
  readonly role: string;
  /** Node number of the leader, 0 if none is known. */
  readonly leader: number;
  readonly term: number;
  readonly commit: number;
  readonly applied: number;
  readonly lastIndex: number;
  readonly snapshotIndex: number;
  /** Leader only: how far each other replica is behind, in entries. */
  readonly lag: readonly { readonly node: number; readonly match: number; readonly behind: number }[];
  /** Why this replica stopped, or null. */
  readonly halted: string | null;
}

export interface ClusterStatus {
  readonly clusterName: string;
  readonly clusterId: string;
  readonly node: number;
  readonly name: string;
  readonly incarnation: number;
  readonly ready: boolean;
  readonly nodes: readonly {
    readonly node: number;
    readonly name: string;
    readonly up: boolean;
    readonly peer: string;
    readonly incarnation: number;
    readonly uuid: string;
    readonly pid: number;
    readonly amqp: string;
    readonly http: string;
  }[];
  readonly groups: readonly GroupStatus[];
  readonly log: {
    readonly files: number;
    readonly bytes: number;
    readonly cachedBytes: number;
    readonly syncs: number;
  };
}

export interface Cluster {
  readonly node: number;
  readonly incarnation: number;
  readonly metadata: MetadataView;
  /** May serve sessions: this incarnation is known to the metadata. */
  readonly isReady: boolean;
  readonly isCongested: boolean;
  setFeed(feed: Feed): void;
  pipe(shard: number): Pipe;
  /** One metadata change; the reply comes when every connected node has applied it, or null when its fate is unknown. */
  changeMetadata(command: MetadataCommand, reply: CommandReply): void;
  queueStatus(shard: number, uid: number): QueueStatus | undefined;
  /** Shards that this node leads now. */
  ledShards(): number[];
  /** The payload of an entry if it is in memory. */
  payload(shard: number, entryIndex: number): Buffer | null;
  /** The payload of an entry, from memory (then `done` may run before this returns) or disk; null: it is gone (settled meanwhile). */
  readPayload(shard: number, entryIndex: number, done: (payload: Buffer | null) => void): void;
  status(): ClusterStatus;
  /** Joins the peers. Resolves when this node may serve sessions: without a majority, never. */
  start(): Promise<void>;
  /** Hands all leaderships over, as far as the others take them in time. */
  handOver(): Promise<void>;
  /** Ends the peer connections and closes the log. Nothing else works afterwards. */
  stop(): Promise<void>;
}

/** Opens the node's log and recovers its groups; nothing is sent or served before `start`. Throws on a foreign or damaged folder. */
export async function openCluster(options: ClusterOptions, ports: Ports, events: HostEvents): Promise<Cluster> {
  checkLimits(options.limits);
  const incarnation = await options.nextIncarnation();
  const { clusterId, nodeUuid, limits } = options;
  const { log, groups } = await openLog(ports.disk, ports.clock, { clusterId, nodeUuid, ...limits.log });
  const transportOptions = {
    clusterId,
    node: options.node,
    nodeName: options.nodeName,
    nodeUuid,
    incarnation,
    listen: options.peerListen,
    peers: options.nodes.filter(({ node }) => node !== options.node),
    secret: options.secret,
    ...limits.transport,
  };
  const host = new Host(
    options,
    ports,
    log,
    groups,
    (transportEvents) => createTransport(ports, transportOptions, transportEvents),
    incarnation,
    events,
  );
  return new NodeCluster(options, host, log);
}

class NodeCluster implements Cluster {
  readonly node: number;
  readonly #options: ClusterOptions;
  readonly #host: Host;
  readonly #log: Log;
  #ready = false;

  constructor(options: ClusterOptions, host: Host, log: Log) {
    this.node = options.node;
    this.#options = options;
    this.#host = host;
    this.#log = log;
  }

  get incarnation(): number {
    return this.#host.origin.incarnation;
  }
  get metadata(): MetadataView {
    return this.#host.metadata;
  }
  get isReady(): boolean {
    return this.#ready && !this.#host.origin.isRejoining;
  }
  get isCongested(): boolean {
    return this.#host.origin.isCongested;
  }

  setFeed(feed: Feed): void {
    this.#host.origin.setFeed(feed);
  }
  pipe(shard: number): Pipe {
    return this.#host.origin.pipes[shard]!;
  }
  changeMetadata(command: MetadataCommand, reply: CommandReply): void {
    this.#host.origin.change(command, reply);
  }
  queueStatus(shard: number, uid: number): QueueStatus | undefined {
    return this.#host.shards[shard - 1]!.queueStatus(uid);
  }

  ledShards(): number[] {
    return this.#host.groups.filter((group) => group.id !== metadataGroup && group.leads).map((group) => group.id);
  }

  payload(shard: number, entryIndex: number): Buffer | null {
    const entry = this.#log.cached(shard, entryIndex);
    return entry?.kind === 'data' ? entry.data.payload : null;
  }

  readPayload(shard: number, entryIndex: number, done: (payload: Buffer | null) => void): void {
    if (!this.#log.has(shard, entryIndex)) return done(null);
    this.#log.read(shard, entryIndex, entryIndex, 1, (error, entries) => {
      const entry = entries[0];
      // Missing: settled and collected since. Anything else is damage.
      if (error !== null && !(error instanceof LogError && error.code === 'missing'))
        this.#host.groups[shard]!.halt(error);
      done(error === null && entry?.kind === 'data' ? entry.data.payload : null);
    });
  }

  async start(): Promise<void> {
    await this.#host.start();
    await new Promise<void>((resolve) => this.#host.origin.open(resolve));
    this.#ready = true;
  }

  handOver(): Promise<void> {
    return this.#host.handOver();
  }

  async stop(): Promise<void> {
    this.#ready = false;
    await this.#host.stop();
  }

  status(): ClusterStatus {
    const { clusterName, clusterId, node, nodeName } = this.#options;
    const host = this.#host;
    const known = new Map([...host.metadata.nodes()].map((record) => [record.node, record]));
    const logStatus = this.#log.status();
    return {
      clusterName,
      clusterId,
      node,
      name: nodeName,
      incarnation: host.origin.incarnation,
      ready: this.isReady,
      nodes: this.#options.nodes.map(({ node: number, name, address }) => ({
        node: number,
        name,
        up: number === node || host.isUp(number),
        peer: `${address.host}:${address.port}`,
        incarnation: known.get(number)?.incarnation ?? 0,
        uuid: known.get(number)?.uuid ?? '',
        pid: known.get(number)?.contact.pid ?? 0,
        amqp: known.get(number)?.contact.amqp ?? '',
        http: known.get(number)?.contact.http ?? '',
      })),
      groups: host.groups.map((group) => {
        const status = group.raft.status();
        return {
          group: group.id,
          name: group.id === metadataGroup ? 'meta' : `shard-${group.id}`,
          role: status.role,
          leader: status.leader,
          term: status.term,
          commit: status.commit,
          applied: group.appliedIndex,
          lastIndex: status.lastIndex,
          snapshotIndex: group.snapshotIndex,
          lag: status.progress.map(({ id, match }) => ({ node: id, match, behind: status.lastIndex - match })),
          halted: group.halted?.message ?? null,
        };
      }),
      log: {
        files: logStatus.files,
        bytes: logStatus.bytes,
        cachedBytes: logStatus.cachedBytes,
        syncs: logStatus.syncs,
      },
    };
  }
}
