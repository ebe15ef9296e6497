// Every method of AMQP 0-9-1 (with RabbitMQ's extensions), in the order in which a connection meets them, and how each is read and written.
//
//   method payload = u16 class, u16 method, arguments
//   octet short long longlong = u8 u16 u32 u64      shortstr = u8 bytes, text      longstr = u32 bytes, octets
//   bit = consecutive bits share octets, lowest first      table: see table.ts
//
// PURE. The few methods of the hot path (publish, deliver, ack) are read and written by hand elsewhere; a test compares them with this table.

import type { Arguments } from '../../cluster/index.ts';
import { ByteReader, readU32, writeU32, writeU64 } from './bytes.ts';
import { encodeShortString, encodeTable, readTable } from './table.ts';

type FieldType = 'bit' | 'octet' | 'short' | 'long' | 'longlong' | 'shortstr' | 'longstr' | 'table';
interface FieldValues {
  bit: boolean;
  octet: number;
  short: number;
  long: number;
  longlong: number;
  shortstr: string;
  longstr: Buffer;
  table: Arguments;
}
type Field = readonly [name: string, type: FieldType];
type Specification = readonly [classId: number, methodId: number, ...fields: Field[]];

const specifications = {
  // The handshake: the server speaks first. Channel 0.
  'connection.start': [
    10,
    10,
    ['versionMajor', 'octet'],
    ['versionMinor', 'octet'],
    ['serverProperties', 'table'],
    ['mechanisms', 'longstr'],
    ['locales', 'longstr'],
  ],
  'connection.start-ok': [
    10,
    11,
    ['clientProperties', 'table'],
    ['mechanism', 'shortstr'],
    ['response', 'longstr'],
    ['locale', 'shortstr'],
  ],
  'connection.secure': [10, 20, ['challenge', 'longstr']],
  'connection.secure-ok': [10, 21, ['response', 'longstr']],
  'connection.tune': [10, 30, ['channelMax', 'short'], ['frameMax', 'long'], ['heartbeat', 'short']],
  'connection.tune-ok': [10, 31, ['channelMax', 'short'], ['frameMax', 'long'], ['heartbeat', 'short']],
  'connection.open': [10, 40, ['virtualHost', 'shortstr'], ['reserved1', 'shortstr'], ['reserved2', 'bit']],
  'connection.open-ok': [10, 41, ['reserved1', 'shortstr']],
  'connection.close': [
    10,
    50,
    ['replyCode', 'short'],
    ['replyText', 'shortstr'],
    ['classId', 'short'],
    ['methodId', 'short'],
  ],
  'connection.close-ok': [10, 51],
  'connection.blocked': [10, 60, ['reason', 'shortstr']],
  'connection.unblocked': [10, 61],
  'connection.update-secret': [10, 70, ['newSecret', 'longstr'], ['reason', 'shortstr']],
  'connection.update-secret-ok': [10, 71],

  'channel.open': [20, 10, ['reserved1', 'shortstr']],
  'channel.open-ok': [20, 11, ['reserved1', 'longstr']],
  'channel.flow': [20, 20, ['active', 'bit']],
  'channel.flow-ok': [20, 21, ['active', 'bit']],
  'channel.close': [
    20,
    40,
    ['replyCode', 'short'],
    ['replyText', 'shortstr'],
    ['classId', 'short'],
    ['methodId', 'short'],
  ],
  'channel.close-ok': [20, 41],

  'access.request': [
    30,
    10,
    ['realm', 'shortstr'],
    ['exclusive', 'bit'],
    ['passive', 'bit'],
    ['active', 'bit'],
    ['write', 'bit'],
    ['read', 'bit'],
  ],
  'access.request-ok': [30, 11, ['ticket', 'short']],

  'exchange.declare': [
    40,
    10,
    ['ticket', 'short'],
    ['exchange', 'shortstr'],
    ['type', 'shortstr'],
    ['passive', 'bit'],
    ['durable', 'bit'],
    ['autoDelete', 'bit'],
    ['internal', 'bit'],
    ['nowait', 'bit'],
    ['arguments', 'table'],
  ],
  'exchange.declare-ok': [40, 11],
  'exchange.delete': [40, 20, ['ticket', 'short'], ['exchange', 'shortstr'], ['ifUnused', 'bit'], ['nowait', 'bit']],
  'exchange.delete-ok': [40, 21],
  'exchange.bind': [
    40,
    30,
    ['ticket', 'short'],
    ['destination', 'shortstr'],
    ['source', 'shortstr'],
    ['routingKey', 'shortstr'],
    ['nowait', 'bit'],
    ['arguments', 'table'],
  ],
  'exchange.bind-ok': [40, 31],
  'exchange.unbind': [
    40,
    40,
    ['ticket', 'short'],
    ['destination', 'shortstr'],
    ['source', 'shortstr'],
    ['routingKey', 'shortstr'],
    ['nowait', 'bit'],
    ['arguments', 'table'],
  ],
  'exchange.unbind-ok': [40, 51],

  'queue.declare': [
    50,
    10,
    ['ticket', 'short'],
    ['queue', 'shortstr'],
    ['passive', 'bit'],
    ['durable', 'bit'],
    ['exclusive', 'bit'],
    ['autoDelete', 'bit'],
    ['nowait', 'bit'],
    ['arguments', 'table'],
  ],
  'queue.declare-ok': [50, 11, ['queue', 'shortstr'], ['messageCount', 'long'], ['consumerCount', 'long']],
  'queue.bind': [
    50,
    20,
    ['ticket', 'short'],
    ['queue', 'shortstr'],
    ['exchange', 'shortstr'],
    ['routingKey', 'shortstr'],
    ['nowait', 'bit'],
    ['arguments', 'table'],
  ],
  'queue.bind-ok': [50, 21],
  'queue.purge': [50, 30, ['ticket', 'short'], ['queue', 'shortstr'], ['nowait', 'bit']],
  'queue.purge-ok': [50, 31, ['messageCount', 'long']],
  'queue.delete': [
    50,
    40,
    ['ticket', 'short'],
    ['queue', 'shortstr'],
    ['ifUnused', 'bit'],
    ['ifEmpty', 'bit'],
    ['nowait', 'bit'],
  ],
  'queue.delete-ok': [50, 41, ['messageCount', 'long']],
  'queue.unbind': [
    50,
    50,
    ['ticket', 'short'],
    ['queue', 'shortstr'],
    ['exchange', 'shortstr'],
    ['routingKey', 'shortstr'],
    ['arguments', 'table'],
  ],
  'queue.unbind-ok': [50, 51],

  'basic.qos': [60, 10, ['prefetchSize', 'long'], ['prefetchCount', 'short'], ['global', 'bit']],
  'basic.qos-ok': [60, 11],
  'basic.consume': [
    60,
    20,
    ['ticket', 'short'],
    ['queue', 'shortstr'],
    ['consumerTag', 'shortstr'],
    ['noLocal', 'bit'],
    ['noAck', 'bit'],
    ['exclusive', 'bit'],
    ['nowait', 'bit'],
    ['arguments', 'table'],
  ],
  'basic.consume-ok': [60, 21, ['consumerTag', 'shortstr']],
  'basic.cancel': [60, 30, ['consumerTag', 'shortstr'], ['nowait', 'bit']],
  'basic.cancel-ok': [60, 31, ['consumerTag', 'shortstr']],
  'basic.publish': [
    60,
    40,
    ['ticket', 'short'],
    ['exchange', 'shortstr'],
    ['routingKey', 'shortstr'],
    ['mandatory', 'bit'],
    ['immediate', 'bit'],
  ],
  'basic.return': [
    60,
    50,
    ['replyCode', 'short'],
    ['replyText', 'shortstr'],
    ['exchange', 'shortstr'],
    ['routingKey', 'shortstr'],
  ],
  'basic.deliver': [
    60,
    60,
    ['consumerTag', 'shortstr'],
    ['deliveryTag', 'longlong'],
    ['redelivered', 'bit'],
    ['exchange', 'shortstr'],
    ['routingKey', 'shortstr'],
  ],
  'basic.get': [60, 70, ['ticket', 'short'], ['queue', 'shortstr'], ['noAck', 'bit']],
  'basic.get-ok': [
    60,
    71,
    ['deliveryTag', 'longlong'],
    ['redelivered', 'bit'],
    ['exchange', 'shortstr'],
    ['routingKey', 'shortstr'],
    ['messageCount', 'long'],
  ],
  'basic.get-empty': [60, 72, ['reserved1', 'shortstr']],
  'basic.ack': [60, 80, ['deliveryTag', 'longlong'], ['multiple', 'bit']],
  'basic.reject': [60, 90, ['deliveryTag', 'longlong'], ['requeue', 'bit']],
  'basic.recover-async': [60, 100, ['requeue', 'bit']],
  'basic.recover': [60, 110, ['requeue', 'bit']],
  'basic.recover-ok': [60, 111],
  'basic.nack': [60, 120, ['deliveryTag', 'longlong'], ['multiple', 'bit'], ['requeue', 'bit']],

  'confirm.select': [85, 10, ['nowait', 'bit']],
  'confirm.select-ok': [85, 11],

  'tx.select': [90, 10],
  'tx.select-ok': [90, 11],
  'tx.commit': [90, 20],
  'tx.commit-ok': [90, 21],
  'tx.rollback': [90, 30],
  'tx.rollback-ok': [90, 31],
} as const satisfies Record<string, Specification>;

export type MethodName = keyof typeof specifications;
type FieldsOf<S> = S extends readonly [number, number, ...infer F extends readonly Field[]]
  ? { readonly [P in F[number] as P[0]]: FieldValues[P[1]] }
  : never;
/** The arguments of a method by its name. */
export type MethodArguments<N extends MethodName> = FieldsOf<(typeof specifications)[N]>;
export type Method = { [N in MethodName]: { readonly kind: N } & MethodArguments<N> }[MethodName];

/** Class id in the upper, method id in the lower 16 bits. */
export type MethodId = number;
/** Methods that are handled by their number before anything else is known of them. */
export const methodId = {
  connectionClose: 0x000a_0032,
  connectionCloseOk: 0x000a_0033,
  channelOpen: 0x0014_000a,
  channelClose: 0x0014_0028,
  channelCloseOk: 0x0014_0029,
  basicPublish: 0x003c_0028,
  basicReturn: 0x003c_0032,
  basicDeliver: 0x003c_003c,
  basicGetOk: 0x003c_0047,
  basicAck: 0x003c_0050,
  basicNack: 0x003c_0078,
} as const;

interface Entry {
  readonly name: MethodName;
  readonly fields: readonly Field[];
}
const byId = new Map<MethodId, Entry>();
for (const [name, [classId, method, ...fields]] of Object.entries(specifications) as [MethodName, Specification][])
  byId.set(classId * 0x1_0000 + method, { name, fields });

export const methodNames = Object.keys(specifications) as MethodName[];
export const idOf = (name: MethodName): MethodId => specifications[name][0] * 0x1_0000 + specifications[name][1];
export const nameOf = (id: MethodId): MethodName | undefined => byId.get(id)?.name;

/** The method in bytes[start, end). `unknown`: no such class or method; `malformed`: its arguments are cut off, too long or senseless. */
export function readMethod(bytes: Buffer, start: number, end: number): Method | 'unknown' | 'malformed' {
  if (end - start < 4) return 'malformed';
  const entry = byId.get(readU32(bytes, start));
  if (entry === undefined) return 'unknown';
  const reader = new ByteReader(bytes, start + 4, end);
  const method: Record<string, unknown> = { kind: entry.name };
  let bit = 0;
  let bits = 0;
  for (const [name, type] of entry.fields) {
    if (type === 'bit') {
      if (bit === 0) bits = reader.u8();
      method[name] = (bits & (1 << bit)) !== 0;
      bit = (bit + 1) & 7;
    } else {
      bit = 0;
      method[name] = readField(reader, type);
    }
  }
  return reader.isDone ? (method as Method) : 'malformed';
}

function readField(reader: ByteReader, type: Exclude<FieldType, 'bit'>): FieldValues[FieldType] {
  switch (type) {
    case 'octet':
      return reader.u8();
    case 'short':
      return reader.u16();
    case 'long':
      return reader.u32();
    case 'longlong':
      return reader.u64();
    case 'shortstr':
      return reader.shortString();
    case 'longstr':
      return reader.longString();
    case 'table':
      return readTable(reader);
  }
}

/** The payload of a method frame. Short strings are cut at 255 bytes. */
export function encodeMethod(method: Method): Buffer {
  const { name, fields } = byId.get(idOf(method.kind))!;
  const id = Buffer.alloc(4);
  writeU32(id, idOf(name), 0);
  const pieces: Buffer[] = [id];
  const values = method as unknown as Record<string, FieldValues[FieldType]>;
  let bit = 0;
  for (const [field, type] of fields) {
    if (type !== 'bit') {
      bit = 0;
      pieces.push(encodeField(type, values[field]!));
      continue;
    }
    if (bit === 0) pieces.push(Buffer.alloc(1));
    if (values[field] === true) pieces[pieces.length - 1]![0]! |= 1 << bit;
    bit = (bit + 1) & 7;
  }
  return Buffer.concat(pieces);
}

function encodeField(type: Exclude<FieldType, 'bit'>, value: FieldValues[FieldType]): Buffer {
  switch (type) {
    case 'octet':
      return Buffer.from([value as number]);
    case 'short': {
      const number = value as number;
      return Buffer.from([number >>> 8, number & 0xff]);
    }
    case 'long': {
      const bytes = Buffer.alloc(4);
      writeU32(bytes, value as number, 0);
      return bytes;
    }
    case 'longlong': {
      const bytes = Buffer.alloc(8);
      writeU64(bytes, value as number, 0);
      return bytes;
    }
    case 'shortstr':
      return encodeShortString(value as string);
    case 'longstr': {
      const length = Buffer.alloc(4);
      writeU32(length, (value as Buffer).length, 0);
      return Buffer.concat([length, value as Buffer]);
    }
    case 'table':
      return encodeTable(value as Arguments);
  }
}
