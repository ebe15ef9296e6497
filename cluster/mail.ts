// Everything between this node and the others: frames out, frames in.
//
// Out: a core's messages (small ones gathered per peer until the end of the turn; entries taken from the log's memory, or read back from
// disk), batches for a group's leader, answers to batches, and what nodes tell of themselves. In: decoded, checked, and handed to the one
// whom it concerns. What cannot be sent is dropped: cores and pipes know how to ask again.
//
// State owned: the transport, messages that wait for the end of the turn, for a tick or for the disk, and the rows of `peers`.
// Invariants: appends for one follower leave in the order in which the core made them, but for commit indices overtaken by later ones;
// nothing of this node is sent before the write that it depends on (the cores hold that back until `persisted`).

import { crc32 } from 'node:zlib';
import type { IncomingMessage, OutgoingMessage } from 'raft-ts';
import type { Group } from './group.ts';
import type { EntryData, Log, LogEntry } from './log/types.ts';
import type { ReportEvent } from './options.ts';
import type { Peers } from './peers.ts';
import type { Transport, TransportEvents } from './transport-types.ts';
import * as wire from './wire.ts';

type Append = Extract<OutgoingMessage, { kind: 'append' }>;

export interface MailEvents {
  readonly report: ReportEvent;
  /** A message was given to this group's core. */
  stepped(group: Group): void;
  /** A leader did not append a batch of this node. */
  replied(reply: wire.BatchReply): void;
  /** Both directions work: the peer hears us and says so. */
  hears(node: number): void;
  /** A peer's metadata has come further. */
  peerApplied(node: number): void;
  up(node: number): void;
  down(node: number): void;
  /** A lane that was full takes frames again. */
  drained(): void;
  /** By what the metadata know: null, or why this node must not be talked to. */
  checkPeer(node: number, name: string, uuid: string): string | null;
}

export class Mail {
  readonly #node: number;
  readonly #log: Log;
  readonly #peers: Peers;
  readonly #groups: readonly Group[];
  readonly #events: MailEvents;
  readonly #transport: Transport;
  /** Messages without entries, per peer, for the end of the turn. */
  readonly #gathered = new Map<number, OutgoingMessage[]>();
  /** Empty appends that can wait for the next tick, the newest per group and follower. */
  readonly #lazy = new Map<string, Append>();
  /** Per group and follower: the first is being read from disk, the others wait behind it. */
  readonly #cold = new Map<string, Append[]>();

  constructor(
    node: number,
    log: Log,
    peers: Peers,
    groups: readonly Group[],
    createTransport: (events: TransportEvents) => Transport,
    events: MailEvents,
  ) {
    this.#node = node;
    this.#log = log;
    this.#peers = peers;
    this.#groups = groups;
    this.#events = events;
    this.#transport = createTransport(this.#transportEvents());
  }

  start(): Promise<void> {
    return this.#transport.start();
  }
  /** Sends what is queued and ends all connections. Nothing is received afterwards. */
  close(): Promise<void> {
    return this.#transport.close();
  }
  isUp(node: number): boolean {
    return this.#transport.isUp(node);
  }

  // ---- out ----

  send(message: OutgoingMessage): void {
    if (message.kind === 'append') return this.#sendAppend(message);
    if (message.kind === 'snapshotChunk') {
      this.#transport.send(message.to, 'bulk', wire.FrameKind.snapshot, wire.encodeSnapshotChunk(message));
      return;
    }
    const gathered = this.#gathered.get(message.to);
    if (gathered === undefined) this.#gathered.set(message.to, [message]);
    else gathered.push(message);
  }

  /** The end of a turn. */
  flush(): void {
    if (this.#gathered.size === 0) return;
    for (const [node, messages] of this.#gathered)
      this.#transport.send(node, 'control', wire.FrameKind.messages, [wire.encodeMessages(messages)]);
    this.#gathered.clear();
  }

  tick(): void {
    this.#peers.tick();
    for (const message of this.#lazy.values()) this.#post(message, []);
    this.#lazy.clear();
  }

  /** Hands a batch to its group's leader. False: not now. A new leader, a new connection or `drained` will tell when. */
  sendBatch(id: number, payload: Buffer, checksum: number): boolean {
    const group = this.#groups[id]!;
    const { leader, role } = group.raft;
    if (leader === 0) return false;
    if (leader !== this.#node)
      return this.#transport.send(leader, 'bulk', wire.FrameKind.batch, wire.encodeBatch(id, checksum, payload));
    if (role !== 'leader') return false;
    group.offer(payload, checksum, leader);
    return true;
  }

  /** Tells the origin of a batch why it was not appended. */
  answer(to: number, reply: wire.BatchReply): void {
    if (to === this.#node) this.#events.replied(reply);
    else this.#transport.send(to, 'control', wire.FrameKind.reply, [wire.encodeReply(reply)]);
  }

  /** How far this node's metadata has come. */
  tellApplied(node: number, version: number): void {
    this.#transport.send(node, 'control', wire.FrameKind.applied, [wire.encodeApplied(version)]);
  }

  tellLeaving(node: number): void {
    this.#transport.send(node, 'control', wire.FrameKind.leaving, []);
  }

  #sendAppend(message: Append): void {
    const key = `${message.group}/${message.to}`;
    const isEmpty = message.last < message.first;
    const queue = this.#cold.get(key);
    if (queue !== undefined) {
      const last = queue[queue.length - 1]!;
      if (isEmpty && queue.length > 1 && last.last < last.first) queue[queue.length - 1] = message;
      else queue.push(message);
      return;
    }
    if (isEmpty && !this.#groups[message.group]!.isAwaited(message.to)) {
      // Only the commit index, and nobody over there waits for it: it goes with the next entries, or by the timer.
      this.#lazy.set(key, message);
      return;
    }
    this.#lazy.delete(key);
    const entries = cachedEntries(this.#log, message);
    if (entries !== null) return this.#post(message, entries);
    this.#cold.set(key, [message]);
    this.#readCold(key);
  }

  #readCold(key: string): void {
    const queue = this.#cold.get(key)!;
    const message = queue[0];
    if (message === undefined) {
      this.#cold.delete(key);
      return;
    }
    const next = (entries: readonly LogEntry[] | null) => {
      if (entries !== null) this.#post(message, entries);
      queue.shift();
      this.#readCold(key);
    };
    // Of an earlier term: nobody waits for it any more, and the disk is slow.
    if (message.term < this.#groups[message.group]!.raft.term) return next(null);
    if (message.last < message.first) return next([]);
    // Entries that are gone (compacted) make a lost message; the core finds out and asks anew.
    this.#log.read(message.group, message.first, message.last, Number.MAX_SAFE_INTEGER, (error, entries) =>
      next(error === null ? entries : null),
    );
  }

  #post(message: Append, entries: readonly LogEntry[]): void {
    // Truncated after a lost term: the core demands that such a message be dropped.
    const last = entries[entries.length - 1];
    if (last !== undefined && last.term !== message.lastTerm) return;
    if (this.#transport.send(message.to, 'bulk', wire.FrameKind.append, wire.encodeAppend(message, entries)))
      this.#groups[message.group]!.told(message.to, message.commit);
  }

  // ---- in ----

  #transportEvents(): TransportEvents {
    const events = this.#events;
    return {
      frame: (node, incarnation, _lane, kind, body) => {
        if (!this.#receive(node, incarnation, kind, body))
          events.report('error', 'frame not understood', { peer: node, kind });
      },
      up: (node, incarnation) => {
        if (!this.#peers.up(node, incarnation)) return;
        events.report('info', 'peer connected', { peer: node, incarnation });
        events.up(node);
      },
      down: (node) => {
        if (!this.#peers.down(node)) return;
        events.report('info', 'peer disconnected', { peer: node });
        events.down(node);
      },
      drained: () => events.drained(),
      refused: (address, reason) => events.report('warn', 'peer refused', { address, reason }),
      checkPeer: (node, name, uuid) => events.checkPeer(node, name, uuid),
    };
  }

  /** False: the frame was not understood. */
  #receive(node: number, incarnation: number, kind: number, body: Buffer): boolean {
    const peer = this.#peers.heard(node, incarnation);
    if (peer === undefined) return true;
    const isMuted = peer.mutedTicks > 0;
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
        const group = batch === null ? undefined : this.#groups[batch.group];
        if (batch === null || group === undefined) return false;
        group.offer(batch.payload, batch.checksum, node);
        return true;
      }
      case wire.FrameKind.reply: {
        const reply = wire.decodeReply(body);
        if (reply === null || this.#groups[reply.group] === undefined) return false;
        this.#events.replied(reply);
        return true;
      }
      case wire.FrameKind.applied: {
        const version = wire.decodeApplied(body);
        if (version === null) return false;
        if (this.#peers.applied(node, version)) this.#events.hears(node);
        this.#events.peerApplied(node);
        return true;
      }
      case wire.FrameKind.leaving:
        this.#peers.leaving(node);
        return true;
      default:
        return false;
    }
  }

  /** Always true: a message that does not fit is none of this group's any more, or was not meant for it. */
  #step(node: number, message: IncomingMessage<EntryData>): boolean {
    const group = this.#groups[message.group];
    if (group === undefined || message.from !== node || group.halted !== null) return true;
    group.raft.step(message);
    this.#events.stepped(group);
    return true;
  }
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
