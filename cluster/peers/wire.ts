// The bodies of peer frames, little-endian. The transport adds length and kind, and authenticates the connection they come on.
//
//   messages  raft messages without entries, several in one frame: u16 count, then each
//   append    one raft append: envelope, its fields, u32 count, per entry a 32-byte head and the payload
//   snapshot  one chunk of a snapshot stream
//   batch     u32 group, u32 checksum, payload: a pipe's batch on its way to the group's leader
//   reply     what became of a batch that was not appended
//   applied   u64: the metadata index that the sender has applied
//   leaving   empty: the sender is about to stop, nobody should hand it a leadership
//   status    what a node tells of itself: time, whom it hears, what it leads
//   relay     u32 to, u32 kind, body: a frame for another node; relayed: u32 from, u32 kind, u64 its incarnation, body
//
// Payloads are never copied: an encoder returns the pieces to send, a decoder returns views of the frame.

import {
  type Configuration,
  decodeConfiguration,
  encodeConfiguration,
  type IncomingMessage,
  type OutgoingMessage,
  type SnapshotMeta,
} from 'raft-ts';
import type { EntryData, LogEntry } from '../log/types.ts';
import type { Address } from '../ports.ts';

export const FrameKind = {
  messages: 1,
  append: 2,
  snapshot: 3,
  batch: 4,
  reply: 5,
  applied: 6,
  leaving: 7,
  /** What a node tells of itself now and then. */
  status: 8,
  /** A frame for another node, which the sender cannot reach; and how it arrives there. */
  relay: 9,
  relayed: 10,
  /** A node without a replica (or with one that cannot be read) hears from one that has. */
  feedOpen: 11,
  feedEvents: 12,
  feedClose: 13,
  /** Questions to a node that has a replica: messages, the state of a queue. */
  query: 14,
  answer: 15,
  /** Metadata leases: asked for, granted, and how far every holder has come. */
  leaseRequest: 16,
  leaseGrant: 17,
  visible: 18,
  /** Where the sender is to be dialled. */
  address: 19,
} as const;

const messageKinds = [
  'preVote',
  'preVoteReply',
  'vote',
  'voteReply',
  'append',
  'appendReply',
  'heartbeat',
  'heartbeatReply',
  'timeoutNow',
  'snapshotChunk',
  'snapshotReply',
] as const;
type MessageKind = (typeof messageKinds)[number];
const kindNumbers = new Map<string, number>(messageKinds.map((kind, number) => [kind, number]));

const entryKinds = ['data', 'noop', 'configuration'] as const;
const entryHeadBytes = 32;
/** Messages have a fixed size: envelope (32) and five numbers. */
const messageBytes = 32 + 5 * 8;

type Outgoing<K extends MessageKind> = Extract<OutgoingMessage, { kind: K }>;

/** The five numbers of a message, by kind. */
function messageNumbers(m: OutgoingMessage): readonly [number, number, number, number, number] {
  switch (m.kind) {
    case 'preVote':
      return [m.lastIndex, m.lastTerm, 0, 0, 0];
    case 'vote':
      return [m.lastIndex, m.lastTerm, m.transfer ? 1 : 0, 0, 0];
    case 'preVoteReply':
    case 'voteReply':
      return [m.granted ? 1 : 0, 0, 0, 0, 0];
    case 'append':
      return [m.session, m.previousIndex, m.previousTerm, m.commit, m.notice ? 1 : 0];
    case 'appendReply':
      return [m.session, m.success ? 1 : 0, m.index, m.hintIndex, m.hintTerm];
    case 'heartbeat':
      return [m.session, m.commit, m.readContext, 0, 0];
    case 'heartbeatReply':
      return [m.session, m.readContext, 0, 0, 0];
    case 'timeoutNow':
      return [0, 0, 0, 0, 0];
    case 'snapshotChunk':
      return [m.session, m.snapshot.index, m.snapshot.term, m.offset, m.done ? 1 : 0];
    case 'snapshotReply':
      return [m.session, m.index, m.offset, m.ok ? 1 : 0, 0];
  }
}

// A DataView reads and writes a number about ten times as fast as the methods of Buffer (measured), and every message has a dozen.
export const viewOf = (bytes: Buffer) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

export function writeU64(view: DataView, value: number, at: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}

export const readU64 = (view: DataView, at: number): number =>
  view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000;

function writeMessage(view: DataView, at: number, m: OutgoingMessage): void {
  view.setUint32(at, kindNumbers.get(m.kind)!, true);
  view.setUint32(at + 4, m.group, true);
  writeU64(view, m.groupIncarnation, at + 8);
  view.setUint32(at + 16, m.from, true);
  view.setUint32(at + 20, m.to, true);
  writeU64(view, m.term, at + 24);
  const numbers = messageNumbers(m);
  for (let i = 0; i < 5; i++) writeU64(view, numbers[i]!, at + 32 + 8 * i);
}

/** `extra`: what an append or a snapshot chunk carries beside its numbers. */
function readMessage(
  source: DataView,
  at: number,
  extra: { entries: readonly LogEntry[] } | { configuration: Configuration; bytes: Uint8Array } | null,
): IncomingMessage<EntryData> | null {
  const kind = messageKinds[source.getUint32(at, true)];
  // Written out for each kind: a spread of what they share, and a closure to read numbers with, were most of what outlived its turn.
  const group = source.getUint32(at + 4, true);
  const groupIncarnation = readU64(source, at + 8);
  const from = source.getUint32(at + 16, true);
  const to = source.getUint32(at + 20, true);
  const term = readU64(source, at + 24);
  const first = readU64(source, at + 32);
  const second = readU64(source, at + 40);
  const third = readU64(source, at + 48);
  const fourth = readU64(source, at + 56);
  const fifth = readU64(source, at + 64);
  switch (kind) {
    case 'preVote':
      return { group, groupIncarnation, from, to, term, kind, lastIndex: first, lastTerm: second };
    case 'vote': {
      const transfer = third === 1;
      return { group, groupIncarnation, from, to, term, kind, lastIndex: first, lastTerm: second, transfer };
    }
    case 'preVoteReply':
    case 'voteReply':
      return { group, groupIncarnation, from, to, term, kind, granted: first === 1 };
    case 'append':
      if (extra === null || !('entries' in extra)) return null;
      return {
        group,
        groupIncarnation,
        from,
        to,
        term,
        kind,
        session: first,
        previousIndex: second,
        previousTerm: third,
        commit: fourth,
        notice: fifth === 1,
        entries: extra.entries,
      };
    case 'appendReply':
      return {
        group,
        groupIncarnation,
        from,
        to,
        term,
        kind,
        session: first,
        success: second === 1,
        index: third,
        hintIndex: fourth,
        hintTerm: fifth,
      };
    case 'heartbeat': {
      const session = first;
      return { group, groupIncarnation, from, to, term, kind, session, commit: second, readContext: third };
    }
    case 'heartbeatReply':
      return { group, groupIncarnation, from, to, term, kind, session: first, readContext: second };
    case 'timeoutNow':
      return { group, groupIncarnation, from, to, term, kind };
    case 'snapshotChunk': {
      if (extra === null || !('bytes' in extra)) return null;
      const snapshot: SnapshotMeta = { index: second, term: third, configuration: extra.configuration };
      return {
        group,
        groupIncarnation,
        from,
        to,
        term,
        kind,
        session: first,
        snapshot,
        offset: fourth,
        bytes: extra.bytes,
        done: fifth === 1,
      };
    }
    case 'snapshotReply': {
      const ok = fourth === 1;
      return { group, groupIncarnation, from, to, term, kind, session: first, index: second, offset: third, ok };
    }
    default:
      return null;
  }
}

export function encodeMessages(messages: readonly OutgoingMessage[]): Buffer {
  const frame = Buffer.allocUnsafe(2 + messages.length * messageBytes);
  const view = viewOf(frame);
  view.setUint16(0, messages.length, true);
  for (let i = 0; i < messages.length; i++) writeMessage(view, 2 + i * messageBytes, messages[i]!);
  return frame;
}

/** An append among these has no entries. Null: not well formed. */
export function decodeMessages(frame: Buffer): IncomingMessage<EntryData>[] | null {
  if (frame.length < 2) return null;
  const view = viewOf(frame);
  const count = view.getUint16(0, true);
  if (frame.length !== 2 + count * messageBytes) return null;
  const messages: IncomingMessage<EntryData>[] = [];
  for (let i = 0; i < count; i++) {
    const message = readMessage(view, 2 + i * messageBytes, noEntries);
    if (message === null) return null;
    messages.push(message);
  }
  return messages;
}
const noEntries = { entries: [] as const };

/** Pieces of an append frame; the payloads are the entries' own buffers. */
export function encodeAppend(message: Outgoing<'append'>, entries: readonly LogEntry[]): Buffer[] {
  const configurations = entries.map((entry) =>
    entry.kind === 'configuration' ? encodeConfiguration(entry.configuration) : null,
  );
  const heads = Buffer.allocUnsafe(messageBytes + 4 + entryHeadBytes * entries.length);
  const view = viewOf(heads);
  writeMessage(view, 0, message);
  view.setUint32(messageBytes, entries.length, true);
  const pieces: Buffer[] = [heads];
  for (let i = 0, at = messageBytes + 4; i < entries.length; i++, at += entryHeadBytes) {
    const entry = entries[i]!;
    const configuration = configurations[i] ?? null;
    const data = entry.kind === 'data' ? entry.data : null;
    const payload = data?.payload ?? (configuration ? Buffer.from(configuration) : emptyPayload);
    view.setUint8(at, entryKinds.indexOf(entry.kind));
    view.setUint8(at + 1, data?.machineVersion ?? 0);
    view.setUint16(at + 2, 0, true);
    view.setUint32(at + 4, payload.length, true);
    writeU64(view, entry.term, at + 8);
    view.setFloat64(at + 16, data?.stamp ?? 0, true);
    view.setUint32(at + 24, data?.checksum ?? 0, true);
    view.setUint32(at + 28, data?.stateHash ?? 0, true);
    if (payload.length > 0) pieces.push(payload);
  }
  return pieces;
}
const emptyPayload = Buffer.alloc(0);

function readConfiguration(bytes: Uint8Array): Configuration | null {
  try {
    return decodeConfiguration(bytes);
  } catch {
    return null;
  }
}

/** Null: not well formed. Payload checksums are the caller's to check. */
export function decodeAppend(frame: Buffer): IncomingMessage<EntryData> | null {
  if (frame.length < messageBytes + 4) return null;
  const view = viewOf(frame);
  const count = view.getUint32(messageBytes, true);
  let payloadAt = messageBytes + 4 + entryHeadBytes * count;
  if (payloadAt > frame.length) return null;
  const previousIndex = readU64(view, 32 + 8);
  const entries: LogEntry[] = [];
  for (let i = 0, at = messageBytes + 4; i < count; i++, at += entryHeadBytes) {
    const length = view.getUint32(at + 4, true);
    if (payloadAt + length > frame.length) return null;
    const payload = frame.subarray(payloadAt, payloadAt + length);
    payloadAt += length;
    const index = previousIndex + 1 + i;
    const term = readU64(view, at + 8);
    const kind = entryKinds[frame[at]!];
    if (kind === 'data') {
      const data: EntryData = {
        stamp: view.getFloat64(at + 16, true),
        machineVersion: frame[at + 1]!,
        stateHash: view.getUint32(at + 28, true),
        payload,
        checksum: view.getUint32(at + 24, true),
      };
      entries.push({ kind, index, term, bytes: length, data });
    } else if (kind === 'noop') entries.push({ kind, index, term, bytes: 0 });
    else if (kind === 'configuration') {
      const configuration = readConfiguration(payload);
      if (configuration === null) return null;
      entries.push({ kind, index, term, bytes: length, configuration });
    } else return null;
  }
  return payloadAt === frame.length ? readMessage(view, 0, { entries }) : null;
}

export function encodeSnapshotChunk(message: Outgoing<'snapshotChunk'>): Uint8Array[] {
  const configuration = encodeConfiguration(message.snapshot.configuration);
  const head = Buffer.allocUnsafe(messageBytes + 4);
  writeMessage(viewOf(head), 0, message);
  head.writeUInt32LE(configuration.length, messageBytes);
  return [head, configuration, message.bytes];
}

export function decodeSnapshotChunk(frame: Buffer): IncomingMessage<EntryData> | null {
  if (frame.length < messageBytes + 4) return null;
  const start = messageBytes + 4;
  const length = frame.readUInt32LE(messageBytes);
  if (start + length > frame.length) return null;
  const configuration = readConfiguration(frame.subarray(start, start + length));
  if (configuration === null) return null;
  return readMessage(viewOf(frame), 0, { configuration, bytes: frame.subarray(start + length) });
}

export function encodeBatch(group: number, checksum: number, payload: Buffer): Buffer[] {
  const head = Buffer.allocUnsafe(8);
  head.writeUInt32LE(group, 0);
  head.writeUInt32LE(checksum, 4);
  return [head, payload];
}
export const decodeBatch = (frame: Buffer) =>
  frame.length < 8
    ? null
    : { group: frame.readUInt32LE(0), checksum: frame.readUInt32LE(4), payload: frame.subarray(8) };

/**
 * Why a batch was not appended. `expected`: resend from `sequence`. `notLeader`: `leader` is the node to try, 0 if unknown. `full`: the same
 * batch again a little later. `fenced`: this incarnation has ended. `refused`: not well formed, a bug of the origin.
 */
export const batchAnswers = ['expected', 'notLeader', 'full', 'fenced', 'refused'] as const;
export type BatchAnswer = (typeof batchAnswers)[number];
export interface BatchReply {
  readonly group: number;
  readonly answer: BatchAnswer;
  readonly incarnation: number;
  readonly sequence: number;
  readonly leader: number;
}

export function encodeReply(reply: BatchReply): Buffer {
  const frame = Buffer.allocUnsafe(28);
  frame.writeUInt32LE(reply.group, 0);
  frame.writeUInt32LE(batchAnswers.indexOf(reply.answer), 4);
  const view = viewOf(frame);
  writeU64(view, reply.incarnation, 8);
  writeU64(view, reply.sequence, 16);
  frame.writeUInt32LE(reply.leader, 24);
  return frame;
}

export function decodeReply(frame: Buffer): BatchReply | null {
  if (frame.length !== 28) return null;
  const view = viewOf(frame);
  const answer = batchAnswers[view.getUint32(4, true)];
  if (answer === undefined) return null;
  return {
    group: frame.readUInt32LE(0),
    answer,
    incarnation: readU64(view, 8),
    sequence: readU64(view, 16),
    leader: frame.readUInt32LE(24),
  };
}

export function encodeApplied(index: number): Buffer {
  const frame = Buffer.allocUnsafe(8);
  writeU64(viewOf(frame), index, 0);
  return frame;
}
export const decodeApplied = (frame: Buffer): number | null => (frame.length === 8 ? readU64(viewOf(frame), 0) : null);

/** u16 port | host. */
export function encodeAddress({ host, port }: Address): Buffer {
  const frame = Buffer.from(`  ${host}`, 'utf8');
  frame.writeUInt16LE(port, 0);
  return frame;
}
export const decodeAddress = (frame: Buffer): Address | null =>
  frame.length > 2 ? { host: frame.toString('utf8', 2), port: frame.readUInt16LE(0) } : null;

/** What a node tells of itself every few ticks, and at once when something changes. */
export interface NodeStatus {
  /** Counts up within an incarnation. */
  readonly sequence: number;
  /** Its estimate of the time, in milliseconds. */
  readonly clock: number;
  readonly metadataApplied: number;
  /** Its replica of the metadata stopped: it should lead nothing. */
  readonly metadataHalted: boolean;
  /** Nodes whose frames arrive there directly, and those of them that hear it too: it can relay to these. Ascending. */
  readonly heard: readonly number[];
  readonly connected: readonly number[];
  /** The groups that it leads, with their terms. */
  readonly led: ReadonlyMap<number, number>;
  /** The other groups that it has a replica of, with the terms that it knows. */
  readonly followed: ReadonlyMap<number, number>;
  /** Groups whose replica there is damaged, or does not have again yet what it lost. */
  readonly damaged: readonly number[];
  readonly disk: DiskRoom;
  /** Who votes in the group of the metadata, by the replica there; empty: that one has stopped. */
  readonly members: readonly number[];
  /** The process of each other node that was heard last, directly or by a relay: so this was said after those began. */
  readonly processes: ReadonlyMap<number, number>;
}

/** Room on a node's disk. `low`: publishers of the whole cluster wait; `full`: its groups take no publishes any more. */
export const diskRooms = ['ok', 'low', 'full'] as const;
export type DiskRoom = (typeof diskRooms)[number];

const statusHeadBytes = 48;
const metadataHaltedFlag = 1;

export function encodeStatus(status: NodeStatus): Buffer {
  const { heard, connected, led, followed, damaged, members, processes } = status;
  const lists = [heard, connected, damaged, members];
  const maps = [led, followed, processes];
  let bytes = statusHeadBytes;
  for (const list of lists) bytes += 4 * list.length;
  for (const map of maps) bytes += 12 * map.size;
  const frame = Buffer.allocUnsafe(bytes);
  const view = viewOf(frame);
  writeU64(view, status.sequence, 0);
  view.setFloat64(8, status.clock, true);
  writeU64(view, status.metadataApplied, 16);
  view.setUint32(24, status.metadataHalted ? metadataHaltedFlag : 0, true);
  view.setUint16(28, heard.length, true);
  view.setUint16(30, connected.length, true);
  view.setUint32(32, led.size, true);
  view.setUint32(36, followed.size, true);
  view.setUint16(40, damaged.length, true);
  view.setUint16(42, diskRooms.indexOf(status.disk), true);
  view.setUint16(44, members.length, true);
  view.setUint16(46, processes.size, true);
  let at = statusHeadBytes;
  for (const list of lists) for (const number of list) at = frame.writeUInt32LE(number, at);
  for (const map of maps)
    for (const [key, value] of map) {
      view.setUint32(at, key, true);
      writeU64(view, value, at + 4);
      at += 12;
    }
  return frame;
}

export function decodeStatus(frame: Buffer): NodeStatus | null {
  if (frame.length < statusHeadBytes) return null;
  const view = viewOf(frame);
  const disk = diskRooms[view.getUint16(42, true)];
  const clock = view.getFloat64(8, true);
  const listCounts = [28, 30, 40, 44].map((at) => view.getUint16(at, true));
  const mapCounts = [view.getUint32(32, true), view.getUint32(36, true), view.getUint16(46, true)];
  let bytes = statusHeadBytes;
  for (const count of listCounts) bytes += 4 * count;
  for (const count of mapCounts) bytes += 12 * count;
  if (frame.length !== bytes || !Number.isFinite(clock) || disk === undefined) return null;
  let at = statusHeadBytes;
  const [heard, connected, damaged, members] = listCounts.map((count) => {
    const from = at;
    at += 4 * count;
    return Array.from({ length: count }, (_, i) => view.getUint32(from + 4 * i, true));
  });
  const [led, followed, processes] = mapCounts.map((count) => {
    const map = new Map<number, number>();
    for (const end = at + 12 * count; at < end; at += 12) map.set(view.getUint32(at, true), readU64(view, at + 4));
    return map;
  });
  return {
    sequence: readU64(view, 0),
    clock,
    metadataApplied: readU64(view, 16),
    metadataHalted: (view.getUint32(24, true) & metadataHaltedFlag) !== 0,
    heard: heard!,
    connected: connected!,
    led: led!,
    followed: followed!,
    damaged: damaged!,
    disk,
    members: members!,
    processes: processes!,
  };
}

/** The head of a frame that the receiver passes on to `to`; the frame's body follows. */
export function encodeRelay(to: number, kind: number): Buffer {
  const head = Buffer.allocUnsafe(8);
  head.writeUInt32LE(to, 0);
  head.writeUInt32LE(kind, 4);
  return head;
}
/** Null: not well formed, or a relayed frame that should travel on: one hop only. */
export function decodeRelay(frame: Buffer): { to: number; kind: number; body: Buffer } | null {
  if (frame.length < 8) return null;
  const kind = frame.readUInt32LE(4);
  return mayRelay(kind) ? { to: frame.readUInt32LE(0), kind, body: frame.subarray(8) } : null;
}

export function encodeRelayed(from: number, incarnation: number, kind: number): Buffer {
  const head = Buffer.allocUnsafe(16);
  head.writeUInt32LE(from, 0);
  head.writeUInt32LE(kind, 4);
  writeU64(viewOf(head), incarnation, 8);
  return head;
}
export function decodeRelayed(frame: Buffer): { from: number; incarnation: number; kind: number; body: Buffer } | null {
  if (frame.length < 16) return null;
  const kind = frame.readUInt32LE(4);
  if (!mayRelay(kind)) return null;
  return { from: frame.readUInt32LE(0), incarnation: readU64(viewOf(frame), 8), kind, body: frame.subarray(16) };
}

const mayRelay = (kind: number): boolean =>
  kind >= 1 && kind <= 255 && kind !== FrameKind.relay && kind !== FrameKind.relayed;
