// One node's part in the cluster, as the broker sees it.

import type { MessageViews } from './feed/messages.ts';
import { Host } from './host.ts';
import { Door } from './joining.ts';
import { owesSomething } from './leading/outbox-driver.ts';
import { openLog } from './log/index.ts';
import type { Durations } from './log/time-histogram.ts';
import type { Log } from './log/types.ts';
import { ResultCode } from './machine/commands.ts';
import { isVolatileGroup, metadataGroup } from './machine/groups.ts';
import type { QueueStatus } from './machine/machine.ts';
import { MemberRefusal, memberRefusalText } from './machine/metadata/refusals.ts';
import type { MemberState, MetadataCommand, MetadataView, NodeAddress } from './machine/metadata-types.ts';
import type { ShardMachine } from './machine/shard.ts';
import { type ClusterOptions, checkLimits, type HostEvents } from './options.ts';
import type { Feed } from './origin/origin.ts';
import type { CommandReply, Pipe } from './origin/pipe.ts';
import type { Clock, Ports } from './ports.ts';
import { createTransport } from './transport.ts';
import type { TransportEvents } from './transport-types.ts';

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
  /** Bytes of it are rotten or gone, or were and are not all back. */
  readonly damaged: boolean;
  /** A damaged replica that is not being built anew yet: why. */
  readonly waitsFor: string | null;
  /** Other nodes that say so of their replica of this group: it is damaged, or does not have again yet what it lost. */
  readonly damagedOn: readonly number[];
}

/** What is measured beside the status: sums since the start of the process, and what is now. */
export interface ClusterMeasures {
  /** Of this node: those that it began, and those that it won. */
  readonly elections: { readonly begun: number; readonly won: number };
  /** How long writes took until they were durable, and publishes until they were confirmed: the first of each batch. */
  readonly writeTimes: Durations;
  readonly confirmTimes: Durations;
  /** What sessions here asked for and is not applied yet, and for how long the oldest of it has waited. */
  readonly unapplied: { readonly bytes: number; readonly milliseconds: number };
  /** By group, the volatile ones together, as the replicas here see them. Walks all queues. */
  readonly queues: readonly {
    readonly group: string;
    readonly queues: number;
    readonly ready: number;
    readonly unsettled: number;
    readonly consumers: number;
    readonly bytes: number;
  }[];
}

export interface ClusterStatus {
  readonly clusterName: string;
  readonly clusterId: string;
  readonly node: number;
  readonly name: string;
  readonly incarnation: number;
  readonly ready: boolean;
  /** Of the nodes that are part of the cluster, by number. */
  readonly nodes: readonly {
    readonly node: number;
    readonly name: string;
    readonly state: MemberState;
    readonly up: boolean;
    readonly peer: string;
    readonly incarnation: number;
    readonly uuid: string;
    readonly pid: number;
    readonly amqp: string;
    readonly http: string;
  }[];
  /** Which nodes hold each shard, and which are to: null if nothing is under way. */
  readonly placements: readonly {
    readonly group: number;
    readonly voters: readonly number[];
    readonly target: readonly number[] | null;
    /** Node number of the leader, 0 if none is known. */
    readonly leader: number;
  }[];
  readonly groups: readonly GroupStatus[];
  readonly log: {
    readonly files: number;
    readonly bytes: number;
    readonly cachedBytes: number;
    /** What lives in files behind the compaction points, as far as it was looked at; and what `bytes` is to stay below. */
    readonly liveBytes: number;
    readonly boundBytes: number;
    /** Since the start of the process: what was appended, and what compaction wrote again. */
    readonly appendedBytes: number;
    readonly rewrittenBytes: number;
    readonly syncs: number;
    /** How often all sealed files were read again to find rot, and bytes read for that. */
    readonly scrubPasses: number;
    readonly scrubbedBytes: number;
    /** Damaged files that were moved aside, and may be looked at and removed. */
    readonly setAside: readonly string[];
  };
  readonly disk: { readonly room: 'ok' | 'low' | 'full'; readonly free: number | null; readonly total: number | null };
  /** Why publishers wait, or null. */
  readonly alarm: string | null;
}

/** A node with an empty data folder that is to be part of the cluster. */
export interface JoinRequest {
  readonly name: string;
  readonly uuid: string;
  readonly address: NodeAddress;
  /** This node leaves, and the new one takes its place; null: nobody does. */
  readonly replaces: number | null;
}

export interface Cluster {
  readonly node: number;
  readonly incarnation: number;
  readonly metadata: MetadataView;
  /** May serve sessions: this incarnation is known to the metadata. */
  readonly isReady: boolean;
  /** A disk of the cluster is low: for publishers, who have to wait and are to be told; null: none is. */
  readonly alarm: string | null;
  /** May route by `metadata`: it holds all that was answered anywhere before now. Reads two clocks: once for a chunk of bytes. */
  readonly isFresh: boolean;
  /** Others have small things to do here or elsewhere: who sends much at once had better rest now and then. */
  readonly isBusy: boolean;
  setFeed(feed: Feed): void;
  pipe(shard: number): Pipe;
  /** Calls back once all that `metadata` says now is known wherever somebody routes: mostly at once. False: it is not within the deadline. */
  whenVisible(done: (isVisible: boolean) => void): void;
  /** One metadata change; the reply comes when nobody routes without it any more, or null when its fate is unknown. */
  changeMetadata(command: MetadataCommand, reply: CommandReply): void;
  /** The state of a queue, from here (then `done` runs before this returns) or another node; undefined: there is none, or nobody tells in time. */
  queueStatus(shard: number, uid: number, done: (status: QueueStatus | undefined) => void): void;
  /** Has the shard dead letters that are not where they go, by this node's replica? False without one. */
  owesLetters(shard: number): boolean;
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
  measures(): ClusterMeasures;
  /** On: from now on this node has no connection to any other, and clients keep theirs. For trying out what a cluster does about it. */
  isolate(on: boolean): void;
  /** Joins the peers. Resolves when this node may serve sessions: without a majority, never. */
  start(): Promise<void>;
  /** Builds this node's replica of a group anew from its peers. Null: it has begun to catch up; else a sentence why not. */
  rebuild(group: number): Promise<string | null>;
  /** Makes a node part of the cluster. Its number, the same one when it asks again; or a sentence why not. */
  join(request: JoinRequest): Promise<number | string>;
  /** A node is to leave: its leaderships and replicas go first. Null: that has begun; else a sentence why not. */
  leave(node: number): Promise<string | null>;
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
  const mayHold = { replica: options.node, groups: Array.from({ length: limits.shards + 1 }, (_, group) => group) };
  const { log, groups } = await openLog(ports.disk, ports.clock, { clusterId, nodeUuid, mayHold, ...limits.log });
  const transportOptions = {
    clusterId,
    node: options.node,
    nodeName: options.nodeName,
    nodeUuid,
    incarnation,
    listen: options.peerListen,
    peers: [...options.nodes, ...(options.contacts ?? [])].filter(({ node }) => node !== options.node),
    secret: options.secret,
    ...limits.transport,
  };
  let cluster: NodeCluster | null = null;
  const joining: TransportEvents['joining'] = (connection, guest) => cluster?.door.accept(connection, guest);
  const host = new Host(
    options,
    ports,
    log,
    groups,
    (transportEvents) => createTransport(ports, transportOptions, { ...transportEvents, joining }),
    incarnation,
    events,
  );
  events.opened?.(host.groups, log);
  cluster = new NodeCluster(options, host, log, (its) => openDoor(options, host, its, ports.clock, events));
  return cluster;
}

/** Nodes that ask to be let in are answered from here on. */
function openDoor(options: ClusterOptions, host: Host, cluster: Cluster, clock: Clock, events: HostEvents): Door {
  const { clusterName, clusterId, nodes, limits } = options;
  return new Door({
    clusterName,
    clusterId,
    original: nodes.map(({ node, name, uuid = '' }) => ({ node, name, uuid })),
    shards: limits.shards,
    replication: limits.replication,
    metadata: host.metadata,
    clock,
    report: (level, event, details) => events.log(level, event, details),
    isReady: () => cluster.isReady,
    change: (command, reply) => cluster.changeMetadata(command, reply),
    addressOf: (node) => {
      const text = host.addressOf(node);
      const colon = text.lastIndexOf(':');
      return colon < 0 ? undefined : { host: text.slice(0, colon), port: Number(text.slice(colon + 1)) };
    },
  });
}

class NodeCluster implements Cluster {
  readonly node: number;
  readonly door: Door;
  readonly #options: ClusterOptions;
  readonly #host: Host;
  readonly #log: Log;
  #ready = false;

  constructor(options: ClusterOptions, host: Host, log: Log, open: (cluster: Cluster) => Door) {
    this.node = options.node;
    this.#options = options;
    this.#host = host;
    this.#log = log;
    this.door = open(this);
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
  get alarm(): string | null {
    const { low } = this.#host.room;
    return low.length === 0 ? null : `low on disk space: node ${low.join(', ')}`;
  }
  get isFresh(): boolean {
    return this.#host.lease.isFresh;
  }
  get isBusy(): boolean {
    return this.#host.traffic.isBusy;
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

  owesLetters(shard: number): boolean {
    const machine = this.#host.shards.get(shard);
    return machine !== undefined && owesSomething(machine);
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
    // What clients do here is answered from this node's own replicas: until those have come up, each answer would be late.
    await this.#host.caughtUp();
    this.#ready = true;
  }

  isolate(on: boolean): void {
    this.#host.isolate(on);
  }

  rebuild(group: number): Promise<string | null> {
    return this.#host.rebuild(group);
  }

  async join(request: JoinRequest): Promise<number | string> {
    if (this.#options.secret === '') return 'nodes can only join a cluster that has a secret (cluster.secret)';
    const result = await this.#change({ kind: 'joinNode', ...request });
    if (result === null) return unknownFate;
    return result.code === ResultCode.ok ? result.value : memberRefusalText(result.value);
  }

  async leave(node: number): Promise<string | null> {
    const { metadata } = this.#host;
    // One that died a moment ago counts as up by the metadata until it is ended. Whoever asks to shrink a cluster can ask again.
    const staying = [...metadata.members()].filter((other) => other.state === 'member' && other.node !== node);
    const reached = staying.filter((other) => other.node === this.node || this.#host.reaches(other.node)).length;
    if (metadata.member(node)?.state === 'member' && staying.length > 0 && 2 * reached <= staying.length)
      return memberRefusalText(MemberRefusal.tooFewUp);
    const result = await this.#change({ kind: 'leaveNode', node });
    if (result === null) return unknownFate;
    return result.code === ResultCode.ok ? null : memberRefusalText(result.value);
  }

  #change(command: MetadataCommand): Promise<Parameters<CommandReply>[0]> {
    return new Promise((resolve) => this.changeMetadata(command, resolve));
  }

  handOver(): Promise<void> {
    return this.#host.handOver();
  }

  async stop(): Promise<void> {
    this.#ready = false;
    this.door.close();
    await this.#host.stop();
  }

  measures(): ClusterMeasures {
    const { elections, origin, shards } = this.#host;
    const volatile: ShardMachine[] = [];
    const queues: ClusterMeasures['queues'][number][] = [];
    for (const [id, shard] of shards) {
      if (isVolatileGroup(id)) volatile.push(shard);
      else queues.push(countQueues(nameOf(id), [shard]));
    }
    queues.push(countQueues('volatile', volatile));
    const { writeTimes } = this.#log.status();
    return { elections, writeTimes, confirmTimes: origin.confirmTimes, unapplied: origin.unapplied, queues };
  }

  status(): ClusterStatus {
    const { clusterName, clusterId, node, nodeName } = this.#options;
    const host = this.#host;
    const present = [...host.metadata.members()].filter(({ state }) => state !== 'gone');
    const known = new Map([...host.metadata.nodes()].map((record) => [record.node, record]));
    const logStatus = this.#log.status();
    return {
      clusterName,
      clusterId,
      node,
      name: nodeName,
      incarnation: host.origin.incarnation,
      ready: this.isReady,
      nodes: present.map(({ node: number, name, state }) => ({
        node: number,
        name,
        state,
        up: number === node || host.isUp(number),
        peer: host.addressOf(number),
        incarnation: known.get(number)?.incarnation ?? 0,
        uuid: known.get(number)?.uuid ?? '',
        pid: known.get(number)?.contact.pid ?? 0,
        amqp: known.get(number)?.contact.amqp ?? '',
        http: known.get(number)?.contact.http ?? '',
      })),
      placements: [...host.metadata.placements()].map(([group, { voters, target }]) => ({
        group,
        voters,
        target,
        leader: host.leaderOf(group),
      })),
      // Volatile groups are this process's own affair.
      groups: Array.from(
        [...host.groups.values()].filter(({ id }) => !isVolatileGroup(id)),
        (group) => {
          const status = group.raft.status();
          return {
            group: group.id,
            name: nameOf(group.id),
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
            damaged: group.isDamaged || group.isRepairing,
            waitsFor: host.waitsFor(group.id),
            damagedOn: host.damagedOn(group.id),
          };
        },
      ),
      log: {
        files: logStatus.files,
        bytes: logStatus.bytes,
        cachedBytes: logStatus.cachedBytes,
        liveBytes: logStatus.liveBytes,
        boundBytes: logStatus.boundBytes,
        appendedBytes: logStatus.appendedBytes,
        rewrittenBytes: logStatus.rewrittenBytes,
        syncs: logStatus.syncs,
        scrubPasses: logStatus.scrubPasses,
        scrubbedBytes: logStatus.scrubbedBytes,
        setAside: logStatus.setAside,
      },
      disk: { room: host.room.own, free: host.room.space?.free ?? null, total: host.room.space?.total ?? null },
      alarm: this.alarm,
    };
  }
}

const nameOf = (group: number): string => (group === metadataGroup ? 'meta' : `shard-${group}`);

function countQueues(group: string, shards: readonly ShardMachine[]): ClusterMeasures['queues'][number] {
  let [queues, ready, unsettled, consumers, bytes] = [0, 0, 0, 0, 0];
  for (const shard of shards)
    for (const queue of shard.queues()) {
      queues++;
      ready += queue.ready;
      unsettled += queue.unsettled;
      consumers += queue.consumers;
      bytes += queue.bytes;
    }
  return { group, queues, ready, unsettled, consumers, bytes };
}

const unknownFate = 'the cluster has not answered in time: whether it was done shows in its status';
