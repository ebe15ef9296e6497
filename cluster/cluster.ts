// One node's part in the cluster, as the broker sees it.

import type { MessageViews } from './feed/messages.ts';
import { Host } from './host.ts';
import { openLog } from './log/index.ts';
import type { Log } from './log/types.ts';
import { isVolatileGroup, metadataGroup } from './machine/groups.ts';
import type { QueueStatus } from './machine/machine.ts';
import type { MetadataCommand, MetadataView } from './machine/metadata-types.ts';
import { type ClusterOptions, checkLimits, type HostEvents } from './options.ts';
import type { Feed } from './origin/origin.ts';
import type { CommandReply, Pipe } from './origin/pipe.ts';
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
  /** It was built anew, or lost its log, and does not vote before it has all again. */
  readonly repairing: boolean;
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
  /** May route by `metadata`: it holds all that was answered anywhere before now. Reads two clocks: once for a chunk of bytes. */
  readonly isFresh: boolean;
  setFeed(feed: Feed): void;
  pipe(shard: number): Pipe;
  /** Calls back once all that `metadata` says now is known wherever somebody routes: mostly at once. False: it is not within the deadline. */
  whenVisible(done: (isVisible: boolean) => void): void;
  /** One metadata change; the reply comes when nobody routes without it any more, or null when its fate is unknown. */
  changeMetadata(command: MetadataCommand, reply: CommandReply): void;
  /** The state of a queue, from here (then `done` runs before this returns) or another node; undefined: there is none, or nobody tells in time. */
  queueStatus(shard: number, uid: number, done: (status: QueueStatus | undefined) => void): void;
  /** Shards that this node leads now. */
  ledShards(): number[];
  /** The payload of an entry if it is in memory here. */
  payload(shard: number, entryIndex: number): Buffer | null;
  /**
   * Messages of one entry by their ordinals, in the order asked for: null where one is gone (settled meanwhile); maybe fewer than asked for,
   * at least one. From memory (then `done` may run before this returns), from disk, or from another node, however long that takes: it is
   * asked again and again until `isWanted` says no.
   */
  readMessages(
    shard: number,
    entryIndex: number,
    ordinals: readonly number[],
    isWanted: () => boolean,
    done: (views: MessageViews) => void,
  ): void;
  status(): ClusterStatus;
  /** Joins the peers. Resolves when this node may serve sessions: without a majority, never. */
  start(): Promise<void>;
  /** Builds this node's replica of a group anew from its peers. Null: it has begun to catch up; else a sentence why not. */
  rebuild(group: number): Promise<string | null>;
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
    const host = this.#host;
    return this.#ready && !host.origin.isRejoining && host.groups.get(metadataGroup)!.isReadable;
  }
  get isCongested(): boolean {
    return this.#host.origin.isCongested;
  }
  get isFresh(): boolean {
    return this.#host.lease.isFresh;
  }
  whenVisible(done: (isVisible: boolean) => void): void {
    this.#host.lease.whenVisible(done);
  }

  setFeed(feed: Feed): void {
    this.#host.origin.setFeed(feed);
  }
  pipe(shard: number): Pipe {
    return this.#host.origin.pipe(shard);
  }
  changeMetadata(command: MetadataCommand, reply: CommandReply): void {
    this.#host.origin.change(command, reply);
  }
  queueStatus(shard: number, uid: number, done: (status: QueueStatus | undefined) => void): void {
    this.#host.feeds.status(shard, uid, done);
  }

  ledShards(): number[] {
    return [...this.#host.shards.keys()].filter((id) => !isVolatileGroup(id) && this.#host.groups.get(id)!.leads);
  }

  payload(shard: number, entryIndex: number): Buffer | null {
    return this.#host.feeds.cached(shard, entryIndex);
  }

  readMessages(
    shard: number,
    entryIndex: number,
    ordinals: readonly number[],
    isWanted: () => boolean,
    done: (views: MessageViews) => void,
  ): void {
    this.#host.feeds.read(shard, entryIndex, ordinals, isWanted, done);
  }

  async start(): Promise<void> {
    await this.#host.start();
    await new Promise<void>((resolve) => this.#host.origin.open(resolve));
    await new Promise<void>((resolve) => this.#host.lease.whenFresh(resolve));
    this.#ready = true;
  }

  rebuild(group: number): Promise<string | null> {
    return this.#host.rebuild(group);
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
      // Volatile groups are this process's own affair.
      groups: Array.from(
        [...host.groups.values()].filter(({ id }) => !isVolatileGroup(id)),
        (group) => {
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
            repairing: status.repairing,
          };
        },
      ),
      log: {
        files: logStatus.files,
        bytes: logStatus.bytes,
        cachedBytes: logStatus.cachedBytes,
        syncs: logStatus.syncs,
      },
    };
  }
}
