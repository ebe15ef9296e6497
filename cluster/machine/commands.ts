// The batch: what one origin (a node's incarnation, or a group) asks of one group, and the payload of one log entry.
//
//   header (56) | commands | ordinal table (u32 offset of each command) | settle section
//
//   settle record (24): u8 operation, u8 flags, u16 0, u32 consumer, u64 first lease ordinal, u32 count, u32 0
//
// Numbers are little-endian. The bytes are made once, by the origin, and are the same on the wire, in every replica's log and in memory.
// The settle section is applied first, so that an acknowledgement never waits behind publishes. A command is named by its ordinal,
// its place in the batch; a message is named (entry index, ordinal) for its whole life, never by an offset.
//
// PURE. A batch is untrusted until `checkBatch` returned null for it: leaders check before they append, machines before they apply.

import { encodeRemains, pieceOfBatch, pieceOfRemains, remainsCount, remainsOffset, remainsVersion } from './remains.ts';

export const batchVersion = 1;
export const batchHeaderBytes = 56;
export const settleRecordBytes = 24;
export const commandsPerBatchMax = 65_535;
/** Leases that the settle section of one batch may name: what an entry costs to apply is bounded. */
export const settlesPerBatchMax = 131_072;
/** Bodies over this travel as `part` commands of at most this. */
export const partBytesMax = 256 * 1024;

export const OriginKind = { node: 1, group: 2 } as const;
export type OriginKind = (typeof OriginKind)[keyof typeof OriginKind];

export const CommandKind = {
  publish: 1,
  /** One piece of a large body. The pieces of one message follow each other in their pipe; its publish (`PublishFlag.parts`) has the last. */
  part: 2,
  consume: 3,
  cancel: 4,
  credit: 5,
  get: 6,
  purge: 7,
  /** Checks the conditions, seals the queue against publishes and leaves its deletion from the metadata to be driven. */
  remove: 8,
  /** Ordered changes from the metadata group (`ShardChange[]` as JSON). Only from origin kind `group`. */
  changes: 9,
  /** A metadata command (`MetadataCommand` as JSON). Only in the metadata group. */
  metadata: 10,
  /** From the group's own leader: a node's incarnation gets no new leases, or does again. */
  suspect: 11,
  /** From the group's own leader: a target has applied the outbox rows up to one. */
  done: 12,
  /** From the group's own leader: where the oldest dead letters go (`LetterRoutes` as JSON). Only then they are sent. */
  route: 13,
  /** A message out of another group's outbox: the row's number, and a whole publish. From whichever node leads that group. */
  transfer: 14,
} as const;
export type CommandKind = (typeof CommandKind)[keyof typeof CommandKind];

export const SettleOperation = {
  /** Done: the message is gone. */
  accept: 1,
  /** Back to its place in the queue. `flagFailed` counts it as a failed delivery. */
  requeue: 2,
  /** Refused for good: dead-lettered, if its queue's dead letters go anywhere. */
  discard: 3,
  /** Back to its place, as if never delivered: no count, no redelivered flag. */
  release: 4,
} as const;
export type SettleOperation = (typeof SettleOperation)[keyof typeof SettleOperation];
/** Settle flag: the consumer failed on it (basic.reject, death), not merely handed it back. */
export const settleFailed = 1;

/** `parts`: the body begins in the `part` commands before. */
export const PublishFlag = { persistent: 1, mandatory: 2, expiration: 4, parts: 8 } as const;
/** `first`: of its message; what is left of another one is dropped. */
export const PartFlag = { first: 1 } as const;
export const SuspectFlag = { suspected: 1 } as const;
export const ConsumeFlag = { noAck: 1, exclusive: 2 } as const;
export const GetFlag = { noAck: 1 } as const;
export const CancelFlag = { returnLeases: 1 } as const;
export const RemoveFlag = { ifUnused: 1, ifEmpty: 2 } as const;

/** What a command came to. Results other than a plain `ok` are kept in the machine until the origin acknowledges them. */
export const ResultCode = {
  /** `value`: per kind: purge and remove → messages, metadata → uid or 0. */
  ok: 0,
  /** The queue does not exist (any more), or is being deleted. */
  noQueue: 1,
  /** Refused: another consumer is exclusive, or exclusive was asked for and there are consumers. */
  exclusive: 2,
  notEmpty: 3,
  inUse: 4,
  /** Get on an empty queue. */
  empty: 5,
  /** Get: `value` is the lease's ordinal, `extra` the messages still ready. */
  leased: 6,
  /** Publish refused by a limit of a queue; others that it was for have it. */
  rejected: 7,
  /** The command is not known to this machine version, or makes no sense here. */
  refused: 8,
  /** Metadata: exists with other properties. */
  inequivalent: 9,
  /** Metadata: the named thing does not exist. */
  notFound: 10,
  /** Metadata: belongs to another connection. */
  locked: 11,
} as const;
export type ResultCode = (typeof ResultCode)[keyof typeof ResultCode];

export interface Result {
  /** Sequence of the batch and ordinal of the command in it. */
  readonly sequence: number;
  readonly ordinal: number;
  readonly code: ResultCode;
  readonly value: number;
  readonly extra: number;
}

export interface Origin {
  readonly kind: OriginKind;
  /** Node number, or group id. */
  readonly id: number;
  readonly incarnation: number;
}

export interface BatchHeader extends Origin {
  /** From 1, without a gap, per pipe (origin × target group). */
  readonly sequence: number;
  /** The metadata version (index) this batch was routed by. */
  readonly metadataVersion: number;
  /** The origin has read all results of batches up to this sequence. */
  readonly resultsAcknowledged: number;
  readonly commandCount: number;
  readonly tableOffset: number;
  readonly settleOffset: number;
  readonly settleCount: number;
}

/** Writes a number in [0, 2^53) as a u64. */
export function writeU64(target: Buffer, value: number, offset: number): void {
  target.writeUInt32LE(value >>> 0, offset);
  target.writeUInt32LE(Math.floor(value / 0x1_0000_0000), offset + 4);
}

/** Reads a u64; a value over 2^53 - 1 loses precision, which `checkBatch` refuses. */
export function readU64(source: Buffer, offset: number): number {
  return source.readUInt32LE(offset) + source.readUInt32LE(offset + 4) * 0x1_0000_0000;
}

// For the hot reads: a quarter of the time of `Buffer`'s methods (measured). The bytes must be there.
const readU16 = (source: Buffer, at: number): number => source[at]! | (source[at + 1]! << 8);
const readU32 = (source: Buffer, at: number): number =>
  (source[at]! | (source[at + 1]! << 8) | (source[at + 2]! << 16) | (source[at + 3]! << 24)) >>> 0;
const readLong = (source: Buffer, at: number): number => readU32(source, at) + readU32(source, at + 4) * 0x1_0000_0000;

/** Commands in a batch, without its settlements. */
export const commandCountOf = (payload: Buffer): number => payload.readUInt32LE(44);

/** Of a batch that is at least as long as its header. */
export function readBatchHeader(payload: Buffer): BatchHeader {
  const settleBytes = readU32(payload, 40);
  const commandCount = readU32(payload, 44);
  const tableOffset = readU32(payload, 48);
  return {
    kind: payload[1] as OriginKind,
    id: readU32(payload, 4),
    incarnation: readLong(payload, 8),
    sequence: readLong(payload, 16),
    metadataVersion: readLong(payload, 24),
    resultsAcknowledged: readLong(payload, 32),
    commandCount,
    tableOffset,
    settleOffset: tableOffset + 4 * commandCount,
    settleCount: settleBytes / settleRecordBytes,
  };
}

/** Offset of a command in its payload, which may be what is left of a batch: -1 if it is not left. */
export function commandOffset(payload: Buffer, ordinal: number): number {
  if (payload[0] === remainsVersion) return remainsOffset(payload, ordinal);
  return readU32(payload, readU32(payload, 48) + 4 * ordinal);
}

/** The same of any ordinal: -1 if there is no such command. */
export function findCommand(payload: Buffer, ordinal: number): number {
  if (payload[0] !== remainsVersion && ordinal >= readU32(payload, 44)) return -1;
  return commandOffset(payload, ordinal);
}

/**
 * What is to be kept of a payload, a checked batch or what is left of one, of which only these messages live (ordinals, ascending). The
 * payload itself where that would save less than an eighth.
 */
export function remainsOf(payload: Buffer, ordinals: Iterable<number>): Buffer {
  const isRemains = payload[0] === remainsVersion;
  const count = isRemains ? remainsCount(payload) : readU32(payload, 44);
  const tableOffset = readU32(payload, 48);
  const pieces = [];
  let bytes = 0;
  for (const ordinal of ordinals) {
    const piece = isRemains ? pieceOfRemains(payload, ordinal) : pieceOfBatch(payload, tableOffset, count, ordinal);
    if (piece === null) continue;
    pieces.push(piece);
    bytes += piece.to - piece.from;
  }
  return bytes > (payload.length * 7) / 8 ? payload : encodeRemains(payload, pieces);
}

/** Field offsets within a publish command; queue uids (u32 each), key, properties and body follow in this order. */
export const publishLayout = {
  flags: 1,
  priority: 2,
  queueCount: 4,
  keyBytes: 6,
  propertiesBytes: 8,
  bodyBytes: 12,
  /** Milliseconds from the entry's stamp; 0xffffffff: none. */
  expiration: 16,
  queues: 20,
} as const;

/** Where the parts of a message lie in `payload`. `key` is exchange and routing key, both as AMQP short strings. */
export interface MessageView {
  readonly payload: Buffer;
  readonly flags: number;
  readonly keyStart: number;
  readonly propertiesStart: number;
  readonly bodyStart: number;
  readonly bodyEnd: number;
  /** The body's pieces before the one in `payload`, of a message that came in parts and was put together; else empty. */
  readonly before: readonly Buffer[];
}
const whole: readonly Buffer[] = [];

/** A view of the message (entry payload, ordinal). The command must be a publish, or a transfer, which holds one. */
export function viewMessage(payload: Buffer, ordinal: number): MessageView {
  return viewPublish(payload, publishOffset(payload, commandOffset(payload, ordinal)));
}

/** Does a batch, which is well formed, bring messages, or pieces of one? */
export function hasMessages(payload: Buffer): boolean {
  const { commandCount } = readBatchHeader(payload);
  for (let ordinal = 0; ordinal < commandCount; ordinal++) {
    const kind = payload[commandOffset(payload, ordinal)];
    if (kind === CommandKind.publish || kind === CommandKind.part || kind === CommandKind.transfer) return true;
  }
  return false;
}

/** Where the publish begins that the command at `at` is, or holds. */
export function publishOffset(payload: Buffer, at: number): number {
  return payload[at] === CommandKind.transfer ? at + transferBytes : at;
}

/** A view of the message whose publish begins at `at`. */
export function viewPublish(payload: Buffer, at: number): MessageView {
  const keyStart = at + publishLayout.queues + 4 * readU16(payload, at + publishLayout.queueCount);
  const propertiesStart = keyStart + readU16(payload, at + publishLayout.keyBytes);
  const bodyStart = propertiesStart + readU32(payload, at + publishLayout.propertiesBytes);
  const bodyEnd = bodyStart + readU32(payload, at + publishLayout.bodyBytes);
  return { payload, flags: payload[at + 1]!, keyStart, propertiesStart, bodyStart, bodyEnd, before: whole };
}
const transferBytes = 24;

/** Fixed bytes of each command; the variable part's length is inside. */
const fixedBytes: Record<CommandKind, number> = {
  1: publishLayout.queues,
  2: 8,
  3: 28,
  4: 8,
  5: 20,
  6: 12,
  7: 8,
  8: 8,
  9: 16,
  10: 8,
  11: 16,
  12: 16,
  13: 8,
  14: transferBytes,
};

/** Bytes of the command at `offset`, or -1 if it is not well formed within `end`. */
function commandBytes(view: DataView, offset: number, end: number): number {
  const kind = view.getUint8(offset) as CommandKind;
  const fixed = fixedBytes[kind];
  if (fixed === undefined || offset + fixed > end) return -1;
  switch (kind) {
    case CommandKind.publish:
      return publishBytes(view, offset);
    case CommandKind.transfer: {
      const at = offset + fixed;
      if (at + publishLayout.queues > end || view.getUint8(at) !== CommandKind.publish) return -1;
      if (view.getUint32(offset + 12, true) >= 0x20_0000 || view.getUint32(offset + 20, true) >= 0x20_0000) return -1;
      const bytes = publishBytes(view, at);
      return bytes < 0 ? -1 : fixed + bytes;
    }
    case CommandKind.part:
      return fixed + view.getUint32(offset + 4, true);
    case CommandKind.consume:
      return fixed + view.getUint8(offset + 2);
    case CommandKind.changes:
      return fixed + view.getUint32(offset + 4, true);
    case CommandKind.metadata:
    case CommandKind.route:
      return fixed + view.getUint32(offset + 4, true);
    default:
      return fixed;
  }
}

function publishBytes(view: DataView, at: number): number {
  const queues = view.getUint16(at + publishLayout.queueCount, true);
  const variable =
    view.getUint16(at + publishLayout.keyBytes, true) +
    view.getUint32(at + publishLayout.propertiesBytes, true) +
    view.getUint32(at + publishLayout.bodyBytes, true);
  return queues === 0 ? -1 : publishLayout.queues + 4 * queues + variable;
}

/** What is wrong with a batch, or null. Linear in the number of commands; never throws. */
export function checkBatch(payload: Buffer): string | null {
  if (payload.length < batchHeaderBytes) return 'batch is shorter than its header';
  if (payload[0] !== batchVersion) return `batch version ${payload[0]} is not known`;
  if (payload[1] !== OriginKind.node && payload[1] !== OriginKind.group)
    return `origin kind ${payload[1]} is not known`;
  // Read through a view, because its reads take a tenth of the time of `Buffer`'s methods (measured).
  const view = viewOf(payload);
  for (let at = 8; at <= 32; at += 8)
    if (view.getUint32(at + 4, true) >= 0x20_0000) return 'number over 2^53 in the batch header';
  const settleBytes = view.getUint32(40, true);
  const count = view.getUint32(44, true);
  const tableOffset = view.getUint32(48, true);
  if (count > commandsPerBatchMax) return 'too many commands in a batch';
  if (settleBytes % settleRecordBytes !== 0) return 'settle section has a broken length';
  if (tableOffset + 4 * count + settleBytes !== payload.length) return 'batch sections do not add up to its length';
  let at = batchHeaderBytes;
  for (let ordinal = 0; ordinal < count; ordinal++) {
    if (view.getUint32(tableOffset + 4 * ordinal, true) !== at) return 'ordinal table does not match the commands';
    const bytes = at < tableOffset ? commandBytes(view, at, tableOffset) : -1;
    if (bytes < 0 || at + bytes > tableOffset) return `command ${ordinal} is not well formed`;
    at += bytes;
  }
  if (at !== tableOffset) return 'bytes between commands and ordinal table';
  let settles = 0;
  for (let s = tableOffset + 4 * count; s < payload.length; s += settleRecordBytes) {
    const operation = view.getUint8(s);
    if (operation < 1 || operation > 4) return `settle operation ${operation} is not known`;
    if (view.getUint32(s + 12, true) >= 0x20_0000) return 'number over 2^53 in a settle record';
    settles += view.getUint32(s + 16, true);
  }
  if (settles > settlesPerBatchMax) return 'too many settlements in a batch';
  return null;
}

export interface ConsumeCommand {
  /** Chosen by the origin, unique among the consumers of its pipe. */
  readonly consumer: number;
  readonly queue: number;
  /** Messages held and not settled, 0: no limit. */
  readonly unsettledMax: number;
  /** Lease ordinals up to here may be assigned; raised by `credit` as the session's socket drains. */
  readonly grantedTo: number;
  readonly priority: number;
  readonly flags: number;
  /** For people: the consumer tag, at most 255 bytes. */
  readonly tag: string;
}

export function readConsume(payload: Buffer, at: number): ConsumeCommand {
  const tagBytes = payload[at + 2]!;
  return {
    flags: payload[at + 1]!,
    consumer: payload.readUInt32LE(at + 4),
    queue: payload.readUInt32LE(at + 8),
    unsettledMax: payload.readUInt32LE(at + 12),
    grantedTo: readU64(payload, at + 16),
    priority: payload.readInt32LE(at + 24),
    tag: payload.toString('utf8', at + 28, at + 28 + tagBytes),
  };
}
export const readCancel = (payload: Buffer, at: number) => ({
  flags: payload[at + 1]!,
  consumer: payload.readUInt32LE(at + 4),
});
export const readCredit = (payload: Buffer, at: number) => ({
  consumer: payload.readUInt32LE(at + 4),
  unsettledMax: payload.readUInt32LE(at + 8),
  grantedTo: readU64(payload, at + 12),
});
export const readGet = (payload: Buffer, at: number) => ({
  flags: payload[at + 1]!,
  consumer: payload.readUInt32LE(at + 4),
  queue: payload.readUInt32LE(at + 8),
});
/** `purge` and `remove`. */
export const readQueueCommand = (payload: Buffer, at: number) => ({
  flags: payload[at + 1]!,
  queue: payload.readUInt32LE(at + 4),
});
/** The JSON text of a `changes`, `metadata` or `route` command. */
export function readJson(payload: Buffer, at: number): string {
  const start = at + fixedBytes[payload[at] as CommandKind];
  return payload.toString('utf8', start, start + payload.readUInt32LE(at + 4));
}
export const readChangesVersion = (payload: Buffer, at: number) => readU64(payload, at + 8);
/** The piece of a body that a `part` holds: a view of the payload. */
export function readPart(payload: Buffer, at: number) {
  const start = at + fixedBytes[CommandKind.part];
  return { flags: payload[at + 1]!, bytes: payload.subarray(start, start + payload.readUInt32LE(at + 4)) };
}
export const readSuspect = (payload: Buffer, at: number) => ({
  flags: payload[at + 1]!,
  node: payload.readUInt32LE(at + 4),
  incarnation: readU64(payload, at + 8),
});
export const readDone = (payload: Buffer, at: number) => ({
  target: payload.readUInt32LE(at + 4),
  row: readU64(payload, at + 8),
});
/** `after`: the row before it for the same target. Its publish is at `publishOffset`. */
export const readTransfer = (payload: Buffer, at: number) => ({
  source: payload.readUInt32LE(at + 4),
  after: readU64(payload, at + 8),
  row: readU64(payload, at + 16),
});

/** Row `number` of group `source`, which follows row `after` for the same target. The rest as in a publish. */
export interface TransferRow {
  readonly source: number;
  readonly after: number;
  readonly number: number;
  readonly queues: readonly number[];
  readonly flags: number;
  readonly priority: number;
  readonly expiration: number;
  readonly key: Buffer;
  readonly properties: Buffer;
  readonly body: readonly Buffer[];
}

export const bytesOf = (pieces: readonly Buffer[]): number => pieces.reduce((sum, { length }) => sum + length, 0);

/** A gathering buffer that one huge message made larger than this is not kept. */
const keptBytesMax = 1024 * 1024;
/** Batches up to this size are carved from a slab. */
const carvedBytesMax = 8 * 1024;
const sealedSlabBytes = 64 * 1024;

/**
 * Gathers the open batch of one pipe in one growing buffer. After `seal` the builder is empty again and the sealed bytes never change.
 * Every `add` method returns the ordinal of the command.
 */
export class BatchBuilder {
  #bytes: Buffer;
  /** Of `#bytes`: its writes take a tenth of the time of `Buffer`'s methods (measured). */
  #view: DataView;
  #end = batchHeaderBytes;
  #offsets = new Uint32Array(256);
  #count = 0;
  #settle = Buffer.allocUnsafe(24 * 64);
  #settleEnd = 0;
  #settles = 0;
  #sealed = Buffer.alloc(0);
  #sealedEnd = 0;
  readonly #startBytes: number;

  constructor(startBytes = 64 * 1024) {
    this.#startBytes = startBytes;
    this.#bytes = Buffer.allocUnsafeSlow(startBytes);
    this.#view = viewOf(this.#bytes);
  }

  get isEmpty(): boolean {
    return this.#count === 0 && this.#settleEnd === 0;
  }
  get commandCount(): number {
    return this.#count;
  }
  /** Leases that the settle section names. */
  get settles(): number {
    return this.#settles;
  }
  /** Bytes of the batch if it were sealed now. */
  get bytes(): number {
    return this.#end + 4 * this.#count + this.#settleEnd;
  }

  /** `key`: exchange and routing key as AMQP short strings, as they came. `body`: its pieces, in order. */
  addPublish(
    queues: readonly number[],
    flags: number,
    priority: number,
    expiration: number,
    key: Buffer,
    properties: Buffer,
    body: readonly Buffer[],
    bodyBytes: number,
  ): number {
    const at = this.#begin(
      CommandKind.publish,
      publishLayout.queues + 4 * queues.length + key.length + properties.length + bodyBytes,
    );
    this.#putPublish(at, queues, flags, priority, expiration, key, properties, body, bodyBytes);
    return this.#count - 1;
  }

  /** `flags`: `PartFlag`. `body`: pieces of at most `partBytesMax` bytes together. */
  addPart(flags: number, body: readonly Buffer[], bodyBytes: number): number {
    const at = this.#begin(CommandKind.part, 8 + bodyBytes);
    this.#bytes[at + 1] = flags;
    this.#view.setUint32(at + 4, bodyBytes, true);
    let end = at + 8;
    for (let i = 0; i < body.length; i++) end = copyInto(this.#bytes, end, body[i]!);
    return this.#count - 1;
  }

  /** A row of another group's outbox. */
  addTransfer(row: TransferRow): number {
    const { source, after, number, queues, flags, priority, expiration, key, properties, body } = row;
    const bodyBytes = bytesOf(body);
    const variable = 4 * queues.length + key.length + properties.length + bodyBytes;
    const at = this.#begin(CommandKind.transfer, transferBytes + publishLayout.queues + variable);
    this.#bytes.writeUInt32LE(source, at + 4);
    writeU64(this.#bytes, after, at + 8);
    writeU64(this.#bytes, number, at + 16);
    const publishAt = at + transferBytes;
    this.#view.setUint32(publishAt, CommandKind.publish, true);
    this.#putPublish(publishAt, queues, flags, priority, expiration, key, properties, body, bodyBytes);
    return this.#count - 1;
  }

  /** All but the kind, which is there. */
  #putPublish(
    at: number,
    queues: readonly number[],
    flags: number,
    priority: number,
    expiration: number,
    key: Buffer,
    properties: Buffer,
    body: readonly Buffer[],
    bodyBytes: number,
  ): void {
    const bytes = this.#bytes;
    const view = this.#view;
    bytes[at + 1] = flags;
    bytes[at + 2] = priority;
    view.setUint16(at + publishLayout.queueCount, queues.length, true);
    view.setUint16(at + publishLayout.keyBytes, key.length, true);
    view.setUint32(at + publishLayout.propertiesBytes, properties.length, true);
    view.setUint32(at + publishLayout.bodyBytes, bodyBytes, true);
    view.setUint32(at + publishLayout.expiration, expiration, true);
    let end = at + publishLayout.queues;
    for (let i = 0; i < queues.length; i++, end += 4) view.setUint32(end, queues[i]!, true);
    end = copyInto(bytes, end, key);
    end = copyInto(bytes, end, properties);
    for (let i = 0; i < body.length; i++) end = copyInto(bytes, end, body[i]!);
  }

  addConsume(command: ConsumeCommand): number {
    const tag = Buffer.from(command.tag, 'utf8').subarray(0, 255);
    const at = this.#begin(CommandKind.consume, 28 + tag.length);
    const bytes = this.#bytes;
    bytes[at + 1] = command.flags;
    bytes[at + 2] = tag.length;
    bytes.writeUInt32LE(command.consumer, at + 4);
    bytes.writeUInt32LE(command.queue, at + 8);
    bytes.writeUInt32LE(command.unsettledMax, at + 12);
    writeU64(bytes, command.grantedTo, at + 16);
    bytes.writeInt32LE(command.priority, at + 24);
    tag.copy(bytes, at + 28);
    return this.#count - 1;
  }

  addCancel(consumer: number, flags: number): number {
    return this.#small(CommandKind.cancel, 8, flags, consumer, 0);
  }
  addGet(consumer: number, queue: number, flags: number): number {
    return this.#small(CommandKind.get, 12, flags, consumer, queue);
  }
  addPurge(queue: number): number {
    return this.#small(CommandKind.purge, 8, 0, queue, 0);
  }
  addRemove(queue: number, flags: number): number {
    return this.#small(CommandKind.remove, 8, flags, queue, 0);
  }
  addCredit(consumer: number, unsettledMax: number, grantedTo: number): number {
    const at = this.#begin(CommandKind.credit, 20);
    this.#bytes.writeUInt32LE(consumer, at + 4);
    this.#bytes.writeUInt32LE(unsettledMax, at + 8);
    writeU64(this.#bytes, grantedTo, at + 12);
    return this.#count - 1;
  }
  addSuspect(node: number, incarnation: number, suspected: boolean): number {
    const at = this.#begin(CommandKind.suspect, 16);
    this.#bytes[at + 1] = suspected ? SuspectFlag.suspected : 0;
    this.#bytes.writeUInt32LE(node, at + 4);
    writeU64(this.#bytes, incarnation, at + 8);
    return this.#count - 1;
  }
  addDone(target: number, row: number): number {
    const at = this.#begin(CommandKind.done, 16);
    this.#bytes.writeUInt32LE(target, at + 4);
    writeU64(this.#bytes, row, at + 8);
    return this.#count - 1;
  }
  addRoute(json: string): number {
    return this.#json(CommandKind.route, 8, json);
  }
  addMetadata(json: string): number {
    return this.#json(CommandKind.metadata, 8, json);
  }
  /** `version`: the metadata version up to which the changes are complete for this shard. */
  addChanges(version: number, json: string): number {
    const ordinal = this.#json(CommandKind.changes, 16, json);
    writeU64(this.#bytes, version, this.#offsets[ordinal]! + 8);
    return ordinal;
  }

  addSettle(operation: SettleOperation, flags: number, consumer: number, first: number, count: number): void {
    if (this.#settleEnd + settleRecordBytes > this.#settle.length)
      this.#settle = Buffer.concat([this.#settle, this.#settle]);
    const at = this.#settleEnd;
    const bytes = this.#settle;
    bytes[at] = operation;
    bytes[at + 1] = flags;
    bytes[at + 2] = 0;
    bytes[at + 3] = 0;
    bytes.writeUInt32LE(consumer, at + 4);
    writeU64(bytes, first, at + 8);
    bytes.writeUInt32LE(count, at + 16);
    bytes.writeUInt32LE(0, at + 20);
    this.#settleEnd = at + settleRecordBytes;
    this.#settles += count;
  }

  /** Closes the batch and returns its bytes; they are never written again. */
  seal(origin: Origin, sequence: number, metadataVersion: number, resultsAcknowledged: number): Buffer {
    const tableOffset = this.#end;
    const total = this.bytes;
    this.#reserve(total - this.#end);
    const bytes = this.#bytes;
    bytes[0] = batchVersion;
    bytes[1] = origin.kind;
    bytes[2] = 0;
    bytes[3] = 0;
    bytes.writeUInt32LE(origin.id, 4);
    writeU64(bytes, origin.incarnation, 8);
    writeU64(bytes, sequence, 16);
    writeU64(bytes, metadataVersion, 24);
    writeU64(bytes, resultsAcknowledged, 32);
    bytes.writeUInt32LE(this.#settleEnd, 40);
    bytes.writeUInt32LE(this.#count, 44);
    bytes.writeUInt32LE(tableOffset, 48);
    bytes.writeUInt32LE(0, 52);
    let at = tableOffset;
    for (let i = 0; i < this.#count; i++, at += 4) this.#view.setUint32(at, this.#offsets[i]!, true);
    this.#settle.copy(bytes, at, 0, this.#settleEnd);
    // Copied out to its exact size: the gathering buffer stays, grown to what batches need, and every byte that the collector of
    // garbage has to account for is a byte of some entry. (Handing the buffer itself over cost more in collections than this copy.)
    const sealed = this.#carve(total);
    bytes.copy(sealed, 0, 0, total);
    if (bytes.length > keptBytesMax) {
      this.#bytes = Buffer.allocUnsafeSlow(this.#startBytes);
      this.#view = viewOf(this.#bytes);
    }
    this.#end = batchHeaderBytes;
    this.#count = 0;
    this.#settleEnd = 0;
    this.#settles = 0;
    return sealed;
  }

  /** Small batches share a slab: each is one object less in memory for as long as its entry is. */
  #carve(length: number): Buffer {
    if (length > carvedBytesMax) return Buffer.allocUnsafeSlow(length);
    if (this.#sealedEnd + length > this.#sealed.length) {
      this.#sealed = Buffer.allocUnsafeSlow(sealedSlabBytes);
      this.#sealedEnd = 0;
    }
    this.#sealedEnd += length;
    return this.#sealed.subarray(this.#sealedEnd - length, this.#sealedEnd);
  }

  #begin(kind: CommandKind, length: number): number {
    if (this.#count === this.#offsets.length) {
      const larger = new Uint32Array(this.#offsets.length * 2);
      larger.set(this.#offsets);
      this.#offsets = larger;
    }
    this.#reserve(length);
    const at = this.#end;
    this.#view.setUint32(at, kind, true); // the kind, and three bytes of flags as zeros
    this.#offsets[this.#count++] = at;
    this.#end = at + length;
    return at;
  }

  #small(kind: CommandKind, length: number, flags: number, first: number, second: number): number {
    const at = this.#begin(kind, length);
    this.#bytes[at + 1] = flags;
    this.#bytes.writeUInt32LE(first, at + 4);
    if (length > 8) this.#bytes.writeUInt32LE(second, at + 8);
    return this.#count - 1;
  }

  #json(kind: CommandKind, fixed: number, json: string): number {
    const text = Buffer.from(json, 'utf8');
    const at = this.#begin(kind, fixed + text.length);
    this.#bytes.writeUInt32LE(text.length, at + 4);
    text.copy(this.#bytes, at + fixed);
    return this.#count - 1;
  }

  #reserve(length: number): void {
    if (this.#end + length <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(this.#bytes.length * 2, this.#end + length));
    this.#bytes.copy(larger, 0, 0, this.#end);
    this.#bytes = larger;
    this.#view = viewOf(larger);
  }
}

const viewOf = (bytes: Buffer): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

/** Short pieces go by a loop: faster than a call into native code (measured under 48 bytes). */
function copyInto(target: Buffer, at: number, source: Buffer): number {
  const length = source.length;
  if (length > 48) target.set(source, at);
  else for (let i = 0; i < length; i++) target[at + i] = source[i]!;
  return at + length;
}
