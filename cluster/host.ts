// Drives all groups of one node: one timer, one log, one transport.
//
// A turn: sockets and disk completions step raft cores and gather commands; at its end `#flush` seals batches, takes every `Ready`, gives
// all groups' writes to the log as one, sends messages while the disk works, and applies what is committed.
//
// State owned: the groups, this node's pipes, what is known of peers. It sees the world through ports, log and transport alone.
// It must never hand a message to the transport before the write that it depends on: the cores hold those back until `persisted`.

import { crc32 } from 'node:zlib';
import type { OutgoingMessage, Ready } from 'raft-ts';
import { initialConfiguration } from 'raft-ts';
import { cachedEntries, Group, type GroupHost, isStale } from './group.ts';
import type { EntryData, GroupWrite, Log, RecoveredGroup } from './log/types.ts';
import { BatchBuilder, type BatchHeader, OriginKind, ResultCode } from './machine/commands.ts';
import type { PipeSink } from './machine/machine.ts';
import { MetadataMachine } from './machine/metadata.ts';
import type { MetadataCommand } from './machine/metadata-types.ts';
import { ShardMachine } from './machine/shard.ts';
import type { ClusterOptions } from './options.ts';
import { type CommandReply, nodeOrigin, Pipe } from './pipe.ts';
import type { Ports, Timer } from './ports.ts';
import type { Lane, Transport, TransportEvents } from './transport-types.ts';
import * as wire from './wire.ts';

/** The metadata group; shards are groups 1 to `shards`. */
export const metadataGroup = 0;

/** What a node's sessions hear. Everything can be read again from the machines (`resume`). */
export interface Feed {
  lease(
    shard: number,
    consumer: number,
    leaseOrdinal: number,
    entryIndex: number,
    ordinal: number,
    redelivered: boolean,
    deliveryCount: number,
  ): void;
  consumerCancelled(shard: number, consumer: number): void;
  /** The lowest lease ordinal of a consumer that the feed has not heard of. */
  nextLease(shard: number, consumer: number): number;
  /** After a snapshot was installed: which consumers of this shard still exist, those under way not counted. */
  reconciled(shard: number, hasConsumer: (consumer: number) => boolean): void;
  /** All that was applied in this turn has been told. */
  turnEnded(): void;
  /** Publishers must pause, or may go on. */
  congestion(congested: boolean): void;
  /** This incarnation ended: its leases are gone, its batches are refused. Sessions have to end. */
  fenced(): void;
}

export interface HostEvents {
  log(level: 'debug' | 'info' | 'warn' | 'error', event: string, details: Record<string, unknown>): void;
  /** The process has to end: the disk failed. */
  fatal(error: Error): void;
}

interface Peer {
  readonly node: number;
  /** Ticks since anything was heard. */
  silentTicks: number;
  /** Ticks since the connection came up; 0 while it is down. */
  upTicks: number;
  /** It said something that it says as soon as it can reach us: from now on what we ask is answered. */
  hears: boolean;
  /** It is about to stop. */
  leaving: boolean;
  metadataApplied: number;
  /** Ticks for which raft messages are dropped after the connection broke: what was still in its buffers is from a dead leader. */
  mutedTicks: number;
  control: OutgoingMessage[];
}

/** A read from disk for a slow follower; its later appends wait behind it. */
type ColdQueue = Extract<OutgoingMessage, { kind: 'append' }>[];

export class Host {
  readonly metadata: MetadataMachine;
  readonly shards: readonly ShardMachine[];
  readonly groups: readonly Group[];
  readonly pipes: readonly Pipe[];
  readonly #options: ClusterOptions;
  readonly #ports: Ports;
  readonly #log: Log;
  readonly #transport: Transport;
  readonly #events: HostEvents;
  readonly #peers = new Map<number, Peer>();
  readonly #dirtyGroups = new Set<Group>();
  readonly #dirtyPipes = new Set<Pipe>();
  /** Empty appends that can wait, the newest per group and follower. */
  readonly #lazy = new Map<string, Extract<OutgoingMessage, { kind: 'append' }>>();
  readonly #cold = new Map<string, ColdQueue>();
  /** Per shard that this node leads: rows of the metadata appended up to this version, in this term. */
  readonly #rows = new Map<number, { term: number; version: number; sequence: number }>();
  readonly #wasReady: boolean[];
  /** Waiters for a metadata version to be applied on every connected node. */
  #visibility: { readonly version: number; readonly until: number; readonly done: () => void }[] = [];
  readonly #reported = new Map<number, number>();
  readonly #removing = new Set<number>();
  readonly #fencing = new Set<string>();
  #feed: Feed | null = null;
  #incarnation: number;
  #scheduled = false;
  #timer: Timer | null = null;
  #ticks = 0;
  #writesInFlight: { readonly since: number }[] = [];
  #congestedPipes = 0;
  #collecting = false;
  #stopped = false;
  #rejoining = false;
  #leaving = false;

  constructor(
    options: ClusterOptions,
    ports: Ports,
    log: Log,
    recovered: readonly RecoveredGroup[],
    createTransport: (events: TransportEvents) => Transport,
    incarnation: number,
    events: HostEvents,
  ) {
    this.#options = options;
    this.#ports = ports;
    this.#log = log;
    this.#events = events;
    this.#incarnation = incarnation;
    const { shards } = options.limits;
    this.metadata = new MetadataMachine({ shards });
    this.shards = Array.from({ length: shards }, (_, i) => new ShardMachine(i + 1));
    for (const { node } of options.nodes) if (node !== options.node) this.#peers.set(node, newPeer(node));
    const origin = nodeOrigin(options.node, incarnation);
    const pipeHost = {
      now: () => ports.clock.now(),
      metadataVersion: () => this.metadata.appliedIndex,
      send: (group: number, payload: Buffer, checksum: number) => this.#sendBatch(group, payload, checksum),
      congestion: () => this.#congestionChanged(),
    };
    this.pipes = Array.from({ length: shards + 1 }, (_, id) => {
      const pipe: Pipe = new Pipe(id, origin, options.limits.pipe, {
        ...pipeHost,
        dirty: () => {
          this.#dirtyPipes.add(pipe);
          this.#schedule();
        },
      });
      return pipe;
    });
    const groupHost = this.#groupHost();
    this.groups = [this.metadata, ...this.shards].map((machine, id) => {
      const found = recovered.find((group) => group.group === id);
      const configuration = initialConfiguration(options.nodes.map(({ node }) => node));
      const restored = found ?? {
        hardState: { term: 0, vote: 0, commit: 0 },
        snapshot: { index: 0, term: 0, configuration },
        compacted: { index: 0, term: 0 },
        entries: [],
      };
      if (found === undefined) log.createGroup(id, options.node, restored.snapshot);
      return new Group(id, machine, restored, groupHost);
    });
    this.#wasReady = this.groups.map(() => false);
    this.#watch();
    this.#transport = createTransport(this.#transportEvents());
    log.onFatal = (error) => events.fatal(error);
    log.onPressure = (group) => {
      this.groups[group]?.takeSnapshot();
    };
  }

  get incarnation(): number {
    return this.#incarnation;
  }
  get transport(): Transport {
    return this.#transport;
  }
  get isCongested(): boolean {
    return this.#congestedPipes > 0;
  }

  setFeed(feed: Feed): void {
    this.#feed = feed;
  }

  /** Loads the machines' snapshots, listens, dials and starts the timer. */
  async start(): Promise<void> {
    for (const group of this.groups) {
      if (group.appliedIndex === 0) continue;
      const loaded = await this.#log.loadSnapshot(group.id);
      if (loaded === null || loaded.meta.index !== group.appliedIndex)
        throw new Error(`snapshot of group ${group.id} at ${group.appliedIndex} is missing`);
      group.machine.restore(loaded.state);
    }
    this.#watch();
    await this.#transport.start();
    this.#armTimer();
    if (this.#peers.size === 0) for (const group of this.groups) group.raft.campaign();
    for (const group of this.groups) this.#dirty(group);
  }

  /** Makes this incarnation known. `done` once it may serve sessions. */
  openNode(done: () => void): void {
    const { node, nodeName: name, nodeUuid: uuid, contact } = this.#options;
    this.changeMetadata({ kind: 'openNode', node, name, uuid, incarnation: this.#incarnation, contact }, (result) => {
      if (result === null) this.openNode(done);
      else if (result.code === ResultCode.ok) done();
      else
        this.#events.fatal(
          new Error(`node ${node} (${name}) is known to the cluster with another data folder, or has a newer process`),
        );
    });
  }

  /** One metadata change, answered when every connected node has applied it. */
  changeMetadata(command: MetadataCommand, reply: CommandReply): void {
    this.pipes[metadataGroup]!.metadata(JSON.stringify(command), (result) => {
      if (result === null || result.code !== ResultCode.ok) return reply(result);
      this.#whenVisible(this.groups[metadataGroup]!.appliedIndex + 1, () => reply(result));
    });
  }

  /**
   * Hands all leaderships over, as far as others that stay take them in time. It says so first: when all nodes stop at once they hear it
   * of each other before anything was handed over, and nobody balances a group back to a node that is about to go.
   */
  async handOver(): Promise<void> {
    const { clock } = this.#ports;
    const until = clock.now() + this.#options.limits.handOverMilliseconds;
    this.#leaving = true;
    for (const node of this.#peers.keys()) this.#sendLeaving(node);
    let leading = 0;
    do {
      await new Promise<void>((resolve) => clock.after(10, resolve));
      leading = 0;
      for (const group of this.groups) {
        if (group.raft.role !== 'leader') continue;
        const target = this.#successor(group);
        if (target === 0) continue;
        leading++;
        group.raft.transferLeadership(target);
        this.#dirty(group);
      }
    } while (leading > 0 && clock.now() < until);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#transport.close();
    await this.#log.close();
  }

  // -- turns ----------------------------------------------------------------------------------------------------------------------

  #dirty(group: Group): void {
    this.#dirtyGroups.add(group);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#stopped) return;
    this.#scheduled = true;
    this.#ports.clock.soon(() => this.#flush());
  }

  #flush(): void {
    if (this.#stopped) return;
    for (let round = 0; round < 4 && (this.#dirtyPipes.size > 0 || this.#dirtyGroups.size > 0); round++) {
      if (this.#dirtyPipes.size > 0) {
        const pipes = [...this.#dirtyPipes];
        this.#dirtyPipes.clear();
        for (const pipe of pipes) pipe.flush();
      }
      const groups = [...this.#dirtyGroups];
      this.#dirtyGroups.clear();
      this.#advance(groups);
    }
    this.#sendControl();
    this.#feed?.turnEnded();
    this.#scheduled = false;
    if (this.#dirtyPipes.size > 0 || this.#dirtyGroups.size > 0) this.#schedule();
  }

  /** One `Ready` of each group: all writes as one, then messages, then applying. */
  #advance(groups: readonly Group[]): void {
    const readies: { readonly group: Group; readonly ready: Ready<EntryData> }[] = [];
    const writes: GroupWrite[] = [];
    const written: { readonly group: Group; readonly sequence: number }[] = [];
    for (const group of groups) {
      if (!group.raft.hasReady()) {
        group.apply();
        continue;
      }
      const { ready, write } = group.takeReady();
      readies.push({ group, ready });
      if (write === null) continue;
      writes.push(write);
      written.push({ group, sequence: ready.write!.sequence });
    }
    if (writes.length > 0) {
      const inFlight = { since: this.#ports.clock.now() };
      this.#writesInFlight.push(inFlight);
      this.#log.append(writes, () => {
        this.#writesInFlight.splice(this.#writesInFlight.indexOf(inFlight), 1);
        for (const { group, sequence } of written) group.persisted(sequence);
      });
    }
    for (const { ready } of readies) for (const message of ready.messages) this.#sendMessage(message);
    for (const { group, ready } of readies) group.finishReady(ready);
  }

  // -- messages -------------------------------------------------------------------------------------------------------------------

  #sendMessage(message: OutgoingMessage): void {
    if (message.kind === 'append') this.#sendAppend(message);
    else if (message.kind === 'snapshotChunk')
      this.#transport.send(message.to, 'bulk', wire.FrameKind.snapshot, wire.encodeSnapshotChunk(message));
    else this.#peers.get(message.to)?.control.push(message);
  }

  /** Appends keep their order per follower also when some of their entries have to be read from disk. */
  #sendAppend(message: Extract<OutgoingMessage, { kind: 'append' }>): void {
    const key = `${message.group}/${message.to}`;
    const queue = this.#cold.get(key);
    if (queue !== undefined) {
      queue.push(message);
      return;
    }
    const group = this.groups[message.group]!;
    if (message.last < message.first && !group.isAwaited(message.to)) {
      // Only the commit index, and nobody over there waits for it: it goes with the next entries, or by the timer.
      this.#lazy.set(key, message);
      return;
    }
    this.#lazy.delete(key);
    group.told(message.to, message.commit);
    const entries = cachedEntries(this.#log, message);
    if (entries === 'stale') return;
    if (entries !== null)
      this.#transport.send(message.to, 'bulk', wire.FrameKind.append, wire.encodeAppend(message, entries));
    else {
      this.#cold.set(key, [message]);
      this.#readCold(key);
    }
  }

  #sendLazy(): void {
    for (const message of this.#lazy.values())
      this.#transport.send(message.to, 'bulk', wire.FrameKind.append, wire.encodeAppend(message, []));
    this.#lazy.clear();
  }

  #readCold(key: string): void {
    const queue = this.#cold.get(key)!;
    const message = queue[0];
    if (message === undefined) {
      this.#cold.delete(key);
      return;
    }
    const next = () => {
      queue.shift();
      this.#readCold(key);
    };
    if (message.last < message.first) {
      this.#transport.send(message.to, 'bulk', wire.FrameKind.append, wire.encodeAppend(message, []));
      return next();
    }
    this.#log.read(message.group, message.first, message.last, Number.MAX_SAFE_INTEGER, (error, entries) => {
      // Entries that are gone (compacted, or truncated after a lost term) make a lost message; the core finds out and asks anew.
      if (error === null && !isStale(message, entries))
        this.#transport.send(message.to, 'bulk', wire.FrameKind.append, wire.encodeAppend(message, entries));
      next();
    });
  }

  #sendControl(): void {
    for (const peer of this.#peers.values()) {
      if (peer.control.length === 0) continue;
      this.#transport.send(peer.node, 'control', wire.FrameKind.messages, [wire.encodeMessages(peer.control)]);
      peer.control = [];
    }
  }

  #sendBatch(id: number, payload: Buffer, checksum: number): boolean {
    const group = this.groups[id]!;
    const leader = group.raft.leader;
    if (leader === this.#options.node) {
      if (group.raft.role !== 'leader') return false;
      group.offer(payload, checksum, leader);
      return true;
    }
    // Not taken: the peer is away (`leaderChanged` follows with the connection or the election), or the lane is full (`drained` follows).
    if (leader === 0) return false;
    return this.#transport.send(leader, 'bulk', wire.FrameKind.batch, wire.encodeBatch(id, checksum, payload));
  }

  #transportEvents(): TransportEvents {
    return {
      frame: (node, _incarnation, _lane, kind, body) => this.#receive(node, kind, body),
      up: (node, incarnation) => this.#peerUp(node, incarnation),
      down: (node) => this.#peerDown(node),
      drained: (_node: number, _lane: Lane) => {
        for (const pipe of this.pipes) this.#dirtyPipes.add(pipe);
        this.#schedule();
      },
      refused: (address, reason) => this.#events.log('warn', 'peer refused', { address, reason }),
      checkPeer: (node, name, uuid) => this.#checkPeer(node, name, uuid),
    };
  }

  #receive(node: number, kind: number, body: Buffer): void {
    const peer = this.#peers.get(node);
    if (peer === undefined || this.#stopped) return;
    peer.silentTicks = 0;
    if (peer.mutedTicks > 0 && (kind === wire.FrameKind.messages || kind === wire.FrameKind.append)) return;
    switch (kind) {
      case wire.FrameKind.messages: {
        const messages = wire.decodeMessages(body);
        if (messages === null) return this.#malformed(node, kind);
        for (const message of messages) this.#step(node, message);
        return;
      }
      case wire.FrameKind.append: {
        const message = wire.decodeAppend(body);
        if (message?.kind !== 'append') return this.#malformed(node, kind);
        for (const entry of message.entries)
          if (entry.kind === 'data' && crc32(entry.data.payload) !== entry.data.checksum)
            return this.#malformed(node, kind);
        return this.#step(node, message);
      }
      case wire.FrameKind.snapshot: {
        const message = wire.decodeSnapshotChunk(body);
        return message === null ? this.#malformed(node, kind) : this.#step(node, message);
      }
      case wire.FrameKind.batch: {
        const batch = wire.decodeBatch(body);
        const group = batch === null ? undefined : this.groups[batch.group];
        if (batch === null || group === undefined) return this.#malformed(node, kind);
        return group.offer(batch.payload, batch.checksum, node);
      }
      case wire.FrameKind.reply: {
        const reply = wire.decodeReply(body);
        if (reply === null) return this.#malformed(node, kind);
        if (reply.answer === 'fenced' && reply.incarnation === this.#incarnation) this.#onFenced();
        else this.pipes[reply.group]?.answered(reply);
        return;
      }
      case wire.FrameKind.applied: {
        const version = wire.decodeApplied(body);
        if (!peer.hears) {
          peer.hears = true;
          this.#campaignWhereNobodyLeads();
        }
        if (version !== null && version > peer.metadataApplied) {
          peer.metadataApplied = version;
          this.#checkVisibility();
        }
        return;
      }
      case wire.FrameKind.leaving:
        peer.leaving = true;
        return;
      default:
        return this.#malformed(node, kind);
    }
  }

  #malformed(peer: number, kind: number): void {
    this.#events.log('error', 'frame not understood', { peer, kind });
  }

  #step(node: number, message: Parameters<Group['raft']['step']>[0]): void {
    const group = this.groups[message.group];
    if (group === undefined || message.from !== node || group.halted !== null) return;
    group.raft.step(message);
    this.#dirty(group);
  }

  // -- peers ----------------------------------------------------------------------------------------------------------------------

  /** A node that the metadata knows under another UUID lost its disk: it must not speak with the old one's voice. */
  #checkPeer(node: number, name: string, uuid: string): string | null {
    for (const record of this.metadata.nodes())
      if (record.node === node && record.uuid !== uuid)
        return `node ${name} is known with another UUID: its data folder was replaced`;
    return null;
  }

  #peerUp(node: number, incarnation: number): void {
    const peer = this.#peers.get(node);
    if (peer === undefined) return;
    this.#events.log('info', 'peer connected', { peer: node, incarnation });
    peer.upTicks = 1;
    peer.leaving = false;
    peer.mutedTicks = 0;
    peer.silentTicks = 0;
    this.#sendApplied(node);
    if (this.#leaving) this.#sendLeaving(node);
    for (const group of this.groups) if (group.raft.leader === node) this.pipes[group.id]!.leaderChanged();
    this.#campaignWhereNobodyLeads();
  }

  /** A cluster that starts does not wait for its election timeouts: each node asks for its groups once a majority hears and answers. */
  #campaignWhereNobodyLeads(): void {
    const hearing = 1 + [...this.#peers.values()].filter((peer) => peer.upTicks > 0 && peer.hears).length;
    if (this.#leaving || hearing * 2 <= this.#options.nodes.length) return;
    for (const group of this.groups) {
      if (group.raft.leader !== 0 || group.raft.role !== 'follower' || group.halted !== null) continue;
      if (this.#preferred(group.id) !== this.#options.node) continue;
      group.raft.campaign();
      this.#dirty(group);
    }
  }

  /** A dead connection is a hint that the leaders over there died: the next in line campaigns at once, the others a little later. */
  #peerDown(node: number): void {
    const peer = this.#peers.get(node);
    if (peer === undefined) return;
    this.#events.log('info', 'peer disconnected', { peer: node });
    peer.upTicks = 0;
    peer.hears = false;
    peer.mutedTicks = 2;
    for (const group of this.groups) {
      if (group.raft.leader !== node) continue;
      const isNext = !this.#leaving && this.#preferred(group.id, node) === this.#options.node;
      group.raft.leaderLost(isNext ? 0 : this.#options.limits.hintDelayTicks);
      this.#dirty(group);
    }
    this.#checkVisibility();
  }

  /** The node that leads a group when all is well; `except`: who follows when that one is gone. */
  #preferred(group: number, except = 0): number {
    const nodes = this.#options.nodes.filter(({ node }) => node !== except);
    return nodes[(group + this.#options.nodes.length - 1) % nodes.length]!.node;
  }

  /** Whom to hand a group to: the connected node that stays and has most of its log; 0: none. */
  #successor(group: Group): number {
    let best = 0;
    let match = -1;
    for (const row of group.raft.status().progress) {
      if (row.learner || !row.active || !this.#transport.isUp(row.id) || row.match <= match) continue;
      if (this.#peers.get(row.id)?.leaving === true) continue;
      best = row.id;
      match = row.match;
    }
    return best;
  }

  // -- the timer ------------------------------------------------------------------------------------------------------------------

  /** A late tick counts as one, and runs after the sockets were read: a pause alone never starts an election. */
  #armTimer(): void {
    const { clock } = this.#ports;
    this.#timer = clock.after(this.#options.limits.tickMilliseconds, () => {
      clock.soon(() => {
        if (this.#stopped) return;
        this.#tick();
        this.#armTimer();
      });
    });
  }

  #tick(): void {
    const { limits } = this.#options;
    this.#ticks++;
    for (const group of this.groups) {
      if (group.halted !== null) continue;
      group.raft.tick();
      this.#dirty(group);
    }
    for (const pipe of this.pipes) pipe.tick();
    for (const peer of this.#peers.values()) {
      peer.silentTicks++;
      if (peer.upTicks > 0) peer.upTicks++;
      if (peer.mutedTicks > 0) peer.mutedTicks--;
    }
    this.#sendLazy();
    this.#checkVisibility();
    this.#checkDisk();
    const every = (milliseconds: number) =>
      this.#ticks % Math.max(1, Math.round(milliseconds / limits.tickMilliseconds)) === 0;
    if (every(limits.balanceMilliseconds)) this.#balance();
    if (every(limits.balanceMilliseconds)) this.#driveRows();
    if (every(2_000)) this.#collect();
  }

  /** Heartbeats alone must not keep a leadership whose disk does not answer. */
  #checkDisk(): void {
    const oldest = this.#writesInFlight[0];
    if (oldest === undefined || this.#ports.clock.now() - oldest.since < this.#options.limits.diskStallMilliseconds)
      return;
    for (const group of this.groups) {
      if (group.raft.role !== 'leader') continue;
      this.#events.log('error', 'disk does not answer, leadership given up', { group: group.id });
      group.raft.stepDown();
      this.#dirty(group);
    }
  }

  /** Hands one group at a time to the node that should lead it, once that node has caught up. */
  #balance(): void {
    if (this.#leaving) return;
    for (const group of this.groups) {
      if (!group.leads) continue;
      const preferred = this.#preferred(group.id);
      const peer = this.#peers.get(preferred);
      if (peer === undefined || peer.leaving || peer.upTicks * this.#options.limits.tickMilliseconds < 1_000) continue;
      const status = group.raft.status();
      const row = status.progress.find(({ id }) => id === preferred);
      if (status.transferee !== 0 || row === undefined || !row.active || row.state !== 'replicate') continue;
      if (row.match + 64 < status.lastIndex || peer.metadataApplied + 64 < this.metadata.appliedIndex) continue;
      if (!group.raft.transferLeadership(preferred)) continue;
      this.#events.log('info', 'leadership handed over', { group: group.id, to: preferred });
      this.#dirty(group);
      return;
    }
  }

  /** What a leader owes to other groups: rows of the metadata, deletions, ends of nodes. Repeats are harmless. */
  #driveRows(): void {
    for (const shard of this.shards) {
      const group = this.groups[shard.shard]!;
      if (!group.leads) continue;
      this.#appendRows(group);
      this.#driveRemovals(shard);
      this.#reportApplied(shard);
    }
    if (!this.groups[metadataGroup]!.leads) return;
    const deadTicks = this.#options.limits.nodeDeadMilliseconds / this.#options.limits.tickMilliseconds;
    for (const record of this.metadata.nodes()) {
      const peer = this.#peers.get(record.node);
      const key = `${record.node}/${record.incarnation}`;
      if (peer === undefined || record.fencedTo >= record.incarnation || this.#fencing.has(key)) continue;
      if (peer.silentTicks < deadTicks) continue;
      this.#fencing.add(key);
      this.#events.log('warn', 'node is gone, its sessions end', {
        peer: record.node,
        incarnation: record.incarnation,
      });
      const command: MetadataCommand = { kind: 'fenceNode', node: record.node, incarnation: record.incarnation };
      this.pipes[metadataGroup]!.metadata(JSON.stringify(command), () => this.#fencing.delete(key));
    }
  }

  /** The metadata may forget the rows that a shard has applied. */
  #reportApplied(shard: ShardMachine): void {
    const version = shard.metadataVersion;
    const known = this.#reported.get(shard.shard) ?? 0;
    if (version <= known || this.metadata.changes(shard.shard, 0, version).length === 0) return;
    this.#reported.set(shard.shard, version);
    const command: MetadataCommand = { kind: 'shardApplied', shard: shard.shard, version };
    this.pipes[metadataGroup]!.metadata(JSON.stringify(command), (result) => {
      if (result === null) this.#reported.delete(shard.shard);
    });
  }

  #driveRemovals(shard: ShardMachine): void {
    for (const uid of shard.pendingRemovals()) {
      if (this.#removing.has(uid) || this.metadata.queueByUid(uid) === undefined) continue;
      this.#removing.add(uid);
      const command: MetadataCommand = { kind: 'deleteQueue', uid };
      this.pipes[metadataGroup]!.metadata(JSON.stringify(command), () => this.#removing.delete(uid));
    }
  }

  #collect(): void {
    if (this.#collecting) return;
    this.#collecting = true;
    // An idle group's whole entries, kept for slow followers, must not hold old files for ever.
    for (const group of this.groups) group.compact();
    const isLive = (group: number, first: number, last: number) =>
      this.groups[group]?.machine.hasLiveEntries(first, last) ?? true;
    this.#log.collect(isLive).then(
      () => {
        this.#collecting = false;
      },
      (error: Error) => this.#events.fatal(error),
    );
  }

  // -- groups ---------------------------------------------------------------------------------------------------------------------

  #groupHost(): GroupHost {
    const { node, limits } = this.#options;
    return {
      node,
      limits,
      log: this.#log,
      wall: () => this.#ports.clock.wall(),
      random: (bound) => this.#ports.random.integer(bound),
      dirty: (group) => this.#dirty(group),
      prepare: (group, header) => this.#prepare(group, header),
      answer: (to, group, header, answer, sequence, leader) => {
        const reply = { group, answer, incarnation: header.incarnation, sequence, leader };
        if (to !== node) this.#transport.send(to, 'control', wire.FrameKind.reply, [wire.encodeReply(reply)]);
        else if (answer !== 'fenced') this.pipes[group]!.answered(reply);
      },
      applied: (group) => this.#groupApplied(group),
      roleChanged: (group) => {
        const { role, term, leader } = group.raft;
        // For people the leaders are enough: three nodes would tell of one election a dozen times.
        this.#events.log(role === 'leader' ? 'info' : 'debug', 'role', { group: group.id, role, term, leader });
        this.pipes[group.id]!.leaderChanged();
      },
      halted: (group, error) =>
        this.#events.log('error', 'group', { group: group.id, error: error.message, stack: error.stack }),
      snapshotSaved: () => this.#collect(),
      installed: (group) => this.#reconcile(group),
    };
  }

  #groupApplied(group: Group): void {
    if (group.leads !== this.#wasReady[group.id]) {
      this.#wasReady[group.id] = group.leads;
      if (group.leads) {
        group.retryWaiting();
        this.pipes[group.id]!.leaderChanged();
        if (group.id !== metadataGroup) this.#appendRows(group);
      }
    }
    if (group.id !== metadataGroup) return;
    for (const shard of this.groups) {
      if (shard.id === metadataGroup || !shard.leads) continue;
      this.#appendRows(shard);
      shard.retryWaiting();
    }
    for (const node of this.#peers.keys()) this.#sendApplied(node);
    this.#checkVisibility();
  }

  /** A batch may name a metadata version: what the metadata says up to there must precede it in the shard's log. */
  #prepare(group: Group, header: BatchHeader): 'ready' | 'wait' {
    if (group.id === metadataGroup) return 'ready';
    if (header.metadataVersion > this.metadata.appliedIndex) return 'wait';
    return this.#appendRows(group) ? 'ready' : 'wait';
  }

  /** Appends the metadata's rows for a shard that this node leads. False if the shard could not take them now. */
  #appendRows(group: Group): boolean {
    const shard = this.shards[group.id - 1]!;
    let rows = this.#rows.get(group.id);
    if (rows === undefined || rows.term !== group.raft.term) {
      rows = { term: group.raft.term, version: shard.metadataVersion, sequence: 1 };
      this.#rows.set(group.id, rows);
    }
    const upTo = this.metadata.appliedIndex;
    if (upTo <= rows.version) return true;
    const changes = this.metadata.changes(group.id, rows.version, upTo);
    if (changes.length > 0) {
      const builder = new BatchBuilder(1024);
      builder.addChanges(upTo, JSON.stringify({ changes }));
      // The term serves as the incarnation: a new leader is a new origin, and starts its count anew.
      const origin = { kind: OriginKind.group, id: metadataGroup, incarnation: rows.term } as const;
      const payload = builder.seal(origin, rows.sequence, upTo, 0);
      if (!group.propose(payload, crc32(payload))) return false;
      rows.sequence++;
    }
    rows.version = upTo;
    return true;
  }

  // -- this node's pipes ----------------------------------------------------------------------------------------------------------

  #watch(): void {
    const id = { node: this.#options.node, incarnation: this.#incarnation };
    for (const group of [this.metadata, ...this.shards].keys())
      this.groups[group]?.machine.watch(id, this.#sink(group));
  }

  #sink(group: number): PipeSink {
    const pipe = this.pipes[group]!;
    return {
      batchApplied: (sequence) => pipe.applied(sequence),
      result: (sequence, ordinal, code, value, extra) => pipe.result(sequence, ordinal, code, value, extra),
      lease: (consumer, leaseOrdinal, entryIndex, ordinal, redelivered, count) =>
        this.#feed?.lease(group, consumer, leaseOrdinal, entryIndex, ordinal, redelivered, count),
      consumerCancelled: (consumer) => this.#feed?.consumerCancelled(group, consumer),
      fenced: () => this.#onFenced(),
    };
  }

  /** A snapshot skipped entries: what sessions would have heard is read from the state. */
  #reconcile(group: Group): void {
    const id = { node: this.#options.node, incarnation: this.#incarnation };
    if (group.machine.isFenced(id)) return this.#onFenced();
    group.machine.resume((consumer) => this.#feed?.nextLease(group.id, consumer) ?? 0);
    this.pipes[group.id]!.applied(group.machine.lastSequence(id));
    const shard = this.shards[group.id - 1];
    if (shard !== undefined) this.#feed?.reconciled(group.id, (consumer) => shard.hasConsumer(id, consumer));
  }

  /** Once for an incarnation: sessions end, and this node goes on under the next one. */
  #onFenced(): void {
    if (this.#rejoining || this.#stopped) return;
    this.#rejoining = true;
    this.#events.log('error', 'this node was declared gone, its sessions end', { incarnation: this.#incarnation });
    this.#ports.clock.soon(() => {
      this.#feed?.fenced();
      this.#options.nextIncarnation().then(
        (incarnation) => {
          this.#incarnation = incarnation;
          for (const pipe of this.pipes) pipe.restart(nodeOrigin(this.#options.node, incarnation));
          this.#watch();
          this.openNode(() => {
            this.#rejoining = false;
          });
        },
        (error: Error) => this.#events.fatal(error),
      );
    });
  }

  get isRejoining(): boolean {
    return this.#rejoining;
  }

  #congestionChanged(): void {
    const before = this.#congestedPipes;
    this.#congestedPipes = this.pipes.filter((pipe) => pipe.isCongested).length;
    if (before > 0 !== this.#congestedPipes > 0) this.#feed?.congestion(this.#congestedPipes > 0);
  }

  // -- visibility -----------------------------------------------------------------------------------------------------------------

  #whenVisible(version: number, done: () => void): void {
    const until = this.#ports.clock.now() + this.#options.limits.visibilityMilliseconds;
    this.#visibility.push({ version, until, done });
    this.#checkVisibility();
  }

  #checkVisibility(): void {
    if (this.#visibility.length === 0) return;
    let everywhere = this.groups[metadataGroup]!.appliedIndex;
    for (const peer of this.#peers.values())
      if (peer.upTicks > 0) everywhere = Math.min(everywhere, peer.metadataApplied);
    const now = this.#ports.clock.now();
    const waiting = this.#visibility;
    this.#visibility = [];
    for (const waiter of waiting) {
      if (waiter.version <= everywhere || now >= waiter.until) waiter.done();
      else this.#visibility.push(waiter);
    }
  }

  #sendLeaving(node: number): void {
    this.#transport.send(node, 'control', wire.FrameKind.leaving, []);
  }

  #sendApplied(node: number): void {
    const version = this.groups[metadataGroup]!.appliedIndex;
    this.#transport.send(node, 'control', wire.FrameKind.applied, [wire.encodeApplied(version)]);
  }
}

function newPeer(node: number): Peer {
  return {
    node,
    silentTicks: 0,
    upTicks: 0,
    hears: false,
    leaving: false,
    metadataApplied: 0,
    mutedTicks: 0,
    control: [],
  };
}
