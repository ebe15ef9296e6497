// Everything between this node and the others: frames out, frames in.
//
// Out: a core's messages (small ones gathered per peer until the end of the turn; entries taken from the log's memory, or read back from
// disk), batches for a group's leader, answers to batches, and what nodes tell of themselves. In: decoded, checked, and handed to the one
// whom it concerns. What cannot be sent is dropped: cores and pipes know how to ask again. A frame for a node that is out of reach goes by
// a relay (`routes`), and whoever takes it does not see the difference.
//
// State owned: the transport, messages that wait for the end of the turn, for a tick or for the disk, the ways, and the rows of `peers`.
// Invariants: appends for one follower leave in the order in which the core made them, but for commit indices overtaken by later ones;
// nothing of this node is sent before the write that it depends on (the cores hold that back until `persisted`).

import { crc32 } from 'node:zlib';
import type { IncomingMessage, OutgoingMessage } from 'raft-ts';
import type { Group } from '../group/group.ts';
import {
  decodeLeaseGrant,
  decodeLeaseRequest,
  decodeVisible,
  type LeaseGrant,
  type LeaseRequest,
} from '../lease/lease-wire.ts';
import { isDamage } from '../log/index.ts';
import type { EntryData, Log, LogEntry } from '../log/types.ts';
import { checkBatch, readBatchHeader } from '../machine/commands.ts';
import type { ClusterLimits, ReportEvent } from '../options.ts';
import type { Address } from '../ports.ts';
import type { Lane, PeerAddress, Transport, TransportEvents } from '../transport-types.ts';
import type { Leaders } from './leaders.ts';
import { Pace } from './pace.ts';
import type { Peers } from './peers.ts';
import { Routes } from './routes.ts';
import * as wire from './wire.ts';

type Append = Extract<OutgoingMessage, { kind: 'append' }>;
type SnapshotChunk = Extract<OutgoingMessage, { kind: 'snapshotChunk' }>;

export interface MailContext {
  readonly node: number;
  readonly log: Log;
  readonly limits: Pick<
    ClusterLimits,
    'electionTicks' | 'heartbeatTicks' | 'tickMilliseconds' | 'catchUpBytesPerSecond'
  >;
  readonly peers: Peers;
  /** The groups that have a replica here. */
  readonly groups: ReadonlyMap<number, Group>;
  readonly leaders: Leaders;
}

/** What `mail` does not know of its own node's status. */
export type OwnStatus = Omit<wire.NodeStatus, 'sequence' | 'heard' | 'connected' | 'processes'>;

export interface MailEvents {
  readonly report: ReportEvent;
  /** Asks for `flush` at the end of this turn. */
  schedule(): void;
  ownStatus(): OwnStatus;
  /** A peer told of itself. */
  peerTold(node: number, status: wire.NodeStatus): void;
  /** A message was given to this group's core. */
  stepped(group: Group): void;
  /** A leader did not append a batch of this node. */
  replied(reply: wire.BatchReply): void;
  /** Both directions work: the peer hears us and says so. */
  hears(node: number): void;
  /** A peer's metadata has come further. */
  peerApplied(node: number): void;
  /** A node asks for a lease on the metadata; this one is granted one; so much of the metadata is visible. */
  leaseRequested(node: number, request: LeaseRequest): void;
  leaseGranted(grant: LeaseGrant): void;
  visible(version: number): void;
  /** A frame that nobody here knows; null: nobody there either. False: not understood. */
  frame(node: number, kind: number, body: Buffer): boolean | null;
  up(node: number): void;
  down(node: number): void;
  /** A lane that was full takes frames again. */
  drained(): void;
  /** By what the metadata know: null, or why this node must not be talked to. */
  checkPeer(node: number, name: string, uuid: string): string | null;
  /** By what the metadata know: has it left the cluster for good? */
  isGone(node: number): boolean;
  /** Of this node; undefined: it does not know where others find it. */
  ownAddress(): Address | undefined;
  /** A node of the cluster calls that is no peer; and a peer says where it is. */
  met(node: number, name: string): void;
  found(node: number, address: Address): void;
  /** A node of the cluster says that this one has left it for good. */
  gone(reason: string): void;
}

export class Mail {
  readonly #node: number;
  readonly #log: Log;
  readonly #peers: Peers;
  readonly #groups: ReadonlyMap<number, Group>;
  readonly #leaders: Leaders;
  readonly #statusTicks: number;
  readonly #events: MailEvents;
  readonly #transport: Transport;
  readonly #routes: Routes;
  #ticks = 0;
  #statusSequence = 0;
  #statusDue = false;
  /** Messages without entries, per peer, for the end of the turn. */
  readonly #gathered = new Map<number, OutgoingMessage[]>();
  /** Notices of the commit index that can wait for the next tick, the newest per group and follower. */
  readonly #lazy = new Map<string, Append>();
  /** Per group and follower, while one of them is being read from disk or is held back by the pace. */
  readonly #cold = new Map<string, ColdAppends>();
  /** Per group and follower: the chunk of a snapshot that is to be sent when the pace allows it. */
  readonly #chunks = new Map<string, SnapshotChunk>();
  /** What learners are sent of a group that is led here. */
  readonly pace: Pace;

  constructor(context: MailContext, createTransport: (events: TransportEvents) => Transport, events: MailEvents) {
    const { node, peers, limits } = context;
    this.#node = node;
    this.#log = context.log;
    this.#peers = peers;
    this.#groups = context.groups;
    this.#leaders = context.leaders;
    this.#statusTicks = limits.heartbeatTicks;
    this.#events = events;
    this.#transport = createTransport(this.#transportEvents());
    // A way that fails in silence is left before anybody misses his leader for long.
    const silentTicksMax = Math.floor(limits.electionTicks / 2);
    const isUp = (other: number) => this.isUp(other);
    this.#routes = new Routes({ node, peers, silentTicksMax, isUp });
    this.pace = new Pace({
      bytesPerSecond: limits.catchUpBytesPerSecond,
      tickMilliseconds: limits.tickMilliseconds,
      writtenBytes: (group) => this.#groups.get(group)?.writtenBytes ?? 0,
    });
  }

  start(): Promise<void> {
    return this.#transport.start();
  }
  /** Sends what is queued and ends all connections. Nothing is received afterwards. */
  close(): Promise<void> {
    return this.#transport.close();
  }
  isolate(on: boolean): void {
    this.#transport.isolate(on);
  }
  /** The connection to this node is open. */
  isUp(node: number): boolean {
    return this.#transport.isUp(node);
  }
  /** What is sent now has a way there, directly or by a relay. */
  reaches(node: number): boolean {
    return this.#routes.via(node) !== 0;
  }
  /** The first node on the way to a node, mostly itself; 0: there is no way. */
  via(node: number): number {
    return this.#routes.via(node);
  }

  /** From now on these nodes are connected to, and no others. `peers` knows of them already. */
  setPeers(peers: readonly PeerAddress[]): void {
    this.#transport.setPeers(peers);
    this.#reroute();
  }

  /** Leaders, or who has a replica, may be others than before. */
  rerouted(): void {
    this.#leaders.refresh();
  }

  // ---- out ----

  /** One frame, on the way that there is. False: there is none, or it is full; another way or `drained` will tell. */
  post(node: number, lane: Lane, kind: number, pieces: readonly Uint8Array[]): boolean {
    const via = this.#routes.via(node);
    if (via === node) return this.#transport.send(node, lane, kind, pieces);
    if (via === 0) return false;
    return this.#transport.send(via, lane, wire.FrameKind.relay, [wire.encodeRelay(node, kind), ...pieces]);
  }
  /** What waits on the way to a node; `post` takes frames until the bound of the transport. */
  bufferedBytes(node: number, lane: Lane): number {
    const via = this.#routes.via(node);
    return via === 0 ? 0 : this.#transport.bufferedBytes(via, lane);
  }

  send(message: OutgoingMessage): void {
    if (message.kind === 'append') return this.#sendAppend(message);
    if (message.kind === 'snapshotChunk') return this.#sendChunk(message);
    const gathered = this.#gathered.get(message.to);
    if (gathered === undefined) this.#gathered.set(message.to, [message]);
    else gathered.push(message);
  }

  /** The end of a turn. */
  flush(): void {
    if (this.#statusDue) this.#tellStatus();
    if (this.#gathered.size === 0) return;
    for (const [node, messages] of this.#gathered)
      this.post(node, 'control', wire.FrameKind.messages, [wire.encodeMessages(messages)]);
    this.#gathered.clear();
  }

  tick(): void {
    this.#peers.tick();
    this.#leaders.tick();
    this.#reroute();
    if (++this.#ticks % this.#statusTicks === 0) this.statusChanged();
    for (const message of this.#lazy.values()) this.#post(message, []);
    this.#lazy.clear();
    this.pace.tick();
  }

  /** Hands a batch to its group's leader. False: not now. A new leader, a new connection or `drained` will tell when. */
  sendBatch(id: number, payload: Buffer, checksum: number): boolean {
    const target = this.#leaders.targetOf(id);
    if (target === 0) return false;
    if (target !== this.#node)
      return this.post(target, 'bulk', wire.FrameKind.batch, wire.encodeBatch(id, checksum, payload));
    const group = this.#groups.get(id);
    if (group?.raft.role !== 'leader') return false;
    group.offer(payload, checksum, target);
    return true;
  }

  /** Tells the origin of a batch why it was not appended. */
  answer(to: number, reply: wire.BatchReply): void {
    if (to === this.#node) this.#events.replied(reply);
    else this.post(to, 'control', wire.FrameKind.reply, [wire.encodeReply(reply)]);
  }

  /** How far this node's metadata has come. */
  tellApplied(node: number, version: number): void {
    this.post(node, 'control', wire.FrameKind.applied, [wire.encodeApplied(version)]);
  }

  tellLeaving(node: number): void {
    this.post(node, 'control', wire.FrameKind.leaving, []);
  }

  /** This node has something new to tell of itself: at the end of the turn. */
  statusChanged(): void {
    this.#statusDue = true;
    this.#events.schedule();
  }

  #tellStatus(): void {
    this.#statusDue = false;
    const { heard, connected } = this.#routes;
    const sequence = ++this.#statusSequence;
    const processes = new Map<number, number>();
    for (const { node, incarnation } of this.#peers.all()) if (incarnation > 0) processes.set(node, incarnation);
    const status = wire.encodeStatus({ ...this.#events.ownStatus(), sequence, heard, connected, processes });
    for (const { node } of this.#peers.all()) {
      this.post(node, 'control', wire.FrameKind.status, [status]);
      // Beside the way over a relay: if nobody sent anything directly, nobody would find out that the direct way works again.
      if (this.#routes.via(node) !== node) this.#transport.send(node, 'control', wire.FrameKind.status, [status]);
    }
  }

  #reroute(): void {
    const changed = this.#routes.update();
    if (changed.neighbours) this.statusChanged();
    if (changed.ways) this.#leaders.refresh();
  }

  /** The core asks for a chunk anew that is not answered in time, which one that waits cannot be: the newest counts. */
  #sendChunk(message: SnapshotChunk): void {
    const key = `${message.group}/${message.to}`;
    const isWaiting = this.#chunks.has(key);
    this.#chunks.set(key, message);
    if (isWaiting) return;
    this.pace.run(message.group, message.to, () => {
      const chunk = this.#chunks.get(key)!;
      this.#chunks.delete(key);
      this.post(chunk.to, 'bulk', wire.FrameKind.snapshot, wire.encodeSnapshotChunk(chunk));
      return chunk.bytes.length;
    });
  }

  #sendAppend(message: Append): void {
    const key = `${message.group}/${message.to}`;
    const queue = this.#cold.get(key);
    if (queue !== undefined) return queue.add(message);
    if (message.notice && this.#groups.get(message.group)?.isAwaited(message.to) !== true) {
      // Nobody over there waits for it: it goes with the next entries, or by the timer.
      this.#lazy.set(key, message);
      return;
    }
    this.#lazy.delete(key);
    const entries = this.pace.isPaced(message.group, message.to) ? null : cachedEntries(this.#log, message);
    if (entries !== null) return this.#post(message, entries);
    const cold = new ColdAppends();
    cold.add(message);
    this.#cold.set(key, cold);
    this.#nextCold(key, cold, message);
  }

  /** A learner's next entries may have to wait; those behind them wait with them. */
  #nextCold(key: string, cold: ColdAppends, { group, to }: Append): void {
    if (cold.isEmpty) this.#cold.delete(key);
    else
      this.pace.run(group, to, () => {
        this.#readCold(key, cold, cold.take());
        return 0;
      });
  }

  #readCold(key: string, cold: ColdAppends, message: Append): void {
    const next = (entries: readonly LogEntry[] | null) => {
      if (entries !== null) this.#post(message, entries);
      this.#nextCold(key, cold, message);
    };
    // Of an earlier term, or of a replica that was dropped: nobody waits for it any more, and the disk is slow.
    const group = this.#groups.get(message.group);
    if (group === undefined || message.term < group.raft.term) return next(null);
    if (message.last < message.first) return next([]);
    // Entries that are gone (compacted) make a lost message; the core finds out and asks anew.
    this.#log.read(message.group, message.first, message.last, Number.MAX_SAFE_INTEGER, (error, entries) => {
      if (error !== null && isDamage(error)) group.halt(error);
      next(error === null ? entries : null);
    });
  }

  #post(message: Append, entries: readonly LogEntry[]): void {
    // Truncated after a lost term: the core demands that such a message be dropped.
    const last = entries[entries.length - 1];
    if (last !== undefined && last.term !== message.lastTerm) return;
    if (this.pace.isPaced(message.group, message.to)) {
      let bytes = 0;
      for (const entry of entries) bytes += entry.bytes;
      this.pace.spent(message.group, message.to, bytes);
    }
    if (this.post(message.to, 'bulk', wire.FrameKind.append, wire.encodeAppend(message, entries)))
      this.#groups.get(message.group)?.told(message.to, message.commit);
  }

  // ---- in ----

  #transportEvents(): TransportEvents {
    const events = this.#events;
    return {
      frame: (node, incarnation, lane, kind, body) => {
        if (!this.#receive(node, incarnation, lane, kind, body))
          events.report('error', 'frame not understood', { peer: node, kind });
      },
      up: (node, incarnation) => {
        if (!this.#peers.up(node, incarnation)) return;
        events.report('info', 'peer connected', { peer: node, incarnation });
        this.#reroute();
        // First of all: whoever is elected has heard a majority's clocks before it stamps anything.
        this.#tellStatus();
        // To one that was away for long this node may be new, and whoever answers must know where.
        const address = events.ownAddress();
        if (address !== undefined)
          this.#transport.send(node, 'control', wire.FrameKind.address, [wire.encodeAddress(address)]);
        events.up(node);
      },
      down: (node) => {
        if (!this.#peers.down(node)) return;
        events.report('info', 'peer disconnected', { peer: node });
        this.#reroute();
        events.down(node);
      },
      drained: () => events.drained(),
      refused: (address, reason) => events.report('warn', 'peer refused', { address, reason }),
      checkPeer: (node, name, uuid) => events.checkPeer(node, name, uuid),
      isGone: (node) => events.isGone(node),
      met: (node, name) => events.met(node, name),
      gone: (reason) => events.gone(reason),
    };
  }

  /** False: the frame was not understood. */
  #receive(node: number, incarnation: number, lane: Lane, kind: number, body: Buffer): boolean {
    const peer = this.#peers.heard(node, incarnation, true);
    if (peer === undefined) return true;
    if (kind === wire.FrameKind.relay) return this.#relay(node, incarnation, lane, body);
    if (kind !== wire.FrameKind.relayed) return this.#take(node, kind, body, true, peer.mutedTicks > 0);
    const inner = wire.decodeRelayed(body);
    if (inner === null) return false;
    // A relay speaks only for nodes of the cluster: one that is not known here came while this node was away, and may be who leads now.
    if (this.#peers.get(inner.from) === undefined && inner.from !== this.#node && !this.#events.isGone(inner.from))
      this.#peers.add(inner.from);
    if (this.#peers.heard(inner.from, inner.incarnation, false) === undefined) return true;
    // Never muted: who sends by a relay is alive, and knows that the connection broke.
    return this.#take(inner.from, inner.kind, inner.body, false, false);
  }

  /** Passes a peer's frame on, if its node is connected to this one. If not, it is lost like any other. */
  #relay(from: number, incarnation: number, lane: Lane, body: Buffer): boolean {
    const inner = wire.decodeRelay(body);
    if (inner === null) return false;
    const head = wire.encodeRelayed(from, incarnation, inner.kind);
    this.#transport.send(inner.to, lane, wire.FrameKind.relayed, [head, inner.body]);
    return true;
  }

  /** `isMuted`: what cores say to cores is dropped. */
  #take(node: number, kind: number, body: Buffer, isDirect: boolean, isMuted: boolean): boolean {
    switch (kind) {
      case wire.FrameKind.messages: {
        if (isMuted) return true;
        const messages = wire.decodeMessages(body);
        if (messages === null) return false;
        for (const message of messages) this.#step(node, message);
        return true;
      }
      case wire.FrameKind.append: {
        if (isMuted) return true;
        const message = wire.decodeAppend(body);
        return message?.kind === 'append' && isIntact(message.entries) && this.#step(node, message);
      }
      case wire.FrameKind.snapshot: {
        if (isMuted) return true;
        const message = wire.decodeSnapshotChunk(body);
        return message !== null && this.#step(node, message);
      }
      case wire.FrameKind.batch: {
        const batch = wire.decodeBatch(body);
        if (batch === null) return false;
        const group = this.#groups.get(batch.group);
        if (group === undefined) return this.#redirect(node, batch.group, batch.payload);
        group.offer(batch.payload, batch.checksum, node);
        return true;
      }
      case wire.FrameKind.reply: {
        const reply = wire.decodeReply(body);
        if (reply === null) return false;
        this.#events.replied(reply);
        if (reply.answer === 'notLeader') this.#leaders.answered(node, reply.group, reply.leader);
        return true;
      }
      case wire.FrameKind.applied: {
        const version = wire.decodeApplied(body);
        if (version === null) return false;
        this.#peers.applied(node, version);
        if (isDirect) this.#reached(node);
        this.#events.peerApplied(node);
        return true;
      }
      case wire.FrameKind.status: {
        const status = wire.decodeStatus(body);
        return status !== null && this.#told(node, status, isDirect);
      }
      case wire.FrameKind.leaving:
        this.#peers.leaving(node);
        return true;
      case wire.FrameKind.address:
        return heard(wire.decodeAddress(body), (address) => this.#events.found(node, address));
      case wire.FrameKind.leaseRequest:
        return heard(decodeLeaseRequest(body), (request) => this.#events.leaseRequested(node, request));
      case wire.FrameKind.leaseGrant:
        return heard(decodeLeaseGrant(body), (grant) => this.#events.leaseGranted(grant));
      case wire.FrameKind.visible:
        return heard(decodeVisible(body), (version) => this.#events.visible(version));
      default:
        return this.#events.frame(node, kind, body) ?? false;
    }
  }

  /** What a peer first says of itself may come by a relay, because it knows of no better way yet: whatever it says directly later counts too. */
  #reached(node: number): void {
    if (this.#peers.reached(node)) this.#events.hears(node);
  }

  #told(node: number, status: wire.NodeStatus, isDirect: boolean): true {
    const news = this.#peers.told(node, status);
    if (news === 'changed') {
      this.#reroute();
      this.#leaders.refresh();
    }
    if (news !== 'stale') {
      this.#events.peerTold(node, status);
      this.#events.peerApplied(node);
    }
    if (isDirect) this.#reached(node);
    return true;
  }

  /** A batch for a group that has no replica here: its origin is told who leads, if that is known. */
  #redirect(to: number, group: number, payload: Buffer): boolean {
    if (checkBatch(payload) !== null) return false;
    const { incarnation, sequence } = readBatchHeader(payload);
    const leader = this.#leaders.leaderOf(group);
    this.answer(to, { group, answer: 'notLeader', incarnation, sequence, leader });
    return true;
  }

  /** Always true: a message that does not fit is none of this group's any more, or was not meant for it. */
  #step(node: number, message: IncomingMessage<EntryData>): boolean {
    const group = this.#groups.get(message.group);
    if (group === undefined || message.from !== node) return true;
    group.step(message);
    this.#events.stepped(group);
    return true;
  }
}

/** False: the body was not understood. */
function heard<T>(decoded: T | null, tell: (decoded: T) => void): boolean {
  if (decoded !== null) tell(decoded);
  return decoded !== null;
}

/** The entries that an append names; null: some have to be read from disk first. */
function cachedEntries(log: Log, message: Append): LogEntry[] | null {
  const entries: LogEntry[] = [];
  for (let index = message.first; index <= message.last; index++) {
    const entry = log.cached(message.group, index);
    if (entry === undefined) return null;
    entries.push(entry);
  }
  return entries;
}

function isIntact(entries: readonly LogEntry[]): boolean {
  for (const entry of entries)
    if (entry.kind === 'data' && crc32(entry.data.payload) !== entry.data.checksum) return false;
  return true;
}

/** Appends whose entries are still to be read from disk, in order. */
class ColdAppends {
  readonly #waiting: Append[] = [];

  get isEmpty(): boolean {
    return this.#waiting.length === 0;
  }

  add(message: Append): void {
    const waiting = this.#waiting;
    const { first, last, notice } = message;
    // The core begins again at `first`, with each heartbeat until it is answered: what it sent from there on counts no more.
    if (last >= first) while (waiting.length > 0 && waiting.at(-1)!.first >= first) waiting.pop();
    else if (notice && waiting.at(-1)?.notice === true) waiting.pop();
    waiting.push(message);
  }

  take(): Append {
    return this.#waiting.shift()!;
  }
}
