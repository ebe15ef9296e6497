// Field tables: the arguments and headers of AMQP.
//
//   table = u32 bytes, *(name value)      name = short string
//   array = u32 bytes, *value             value = one type octet and what it says:
//   t boolean   b i8   B u8   s i16   u u16   I i32   i u32   l, L i64   f f32   d f64   D u8 scale, i32
//   S u32 bytes, text   x u32 bytes, octets   T u64 seconds   A array   F table   V nothing
//
// PURE. Tables come from outside: depth is bounded, every length is checked against what encloses it, and reading is linear in the bytes.
// 64-bit integers keep their precision ({ int64 } beyond 2^53). Decoded tables have no prototype, so that no name in them means anything.

import type { Arguments, ArgumentValue } from '../../cluster/index.ts';
import type { ByteReader } from './bytes.ts';

/** Tables and arrays within each other. */
export const tableDepthMax = 32;

/** Reads a table with its length. What is wrong with it shows as `reader.failed`. */
export function readTable(reader: ByteReader): Arguments {
  return readNestedTable(reader, 1);
}

/** Reads the fields of a table that has no length before it: all bytes up to the reader's end. */
export function readTableFields(reader: ByteReader): Arguments {
  return readFields(reader, 1);
}

function readNestedTable(reader: ByteReader, depth: number): Arguments {
  const outer = enter(reader, depth);
  const table = readFields(reader, depth);
  leave(reader, outer);
  return table;
}

function readFields(reader: ByteReader, depth: number): Arguments {
  const table: Record<string, ArgumentValue> = Object.create(null);
  while (!reader.failed && reader.at < reader.end) {
    const name = reader.shortString();
    table[name] = readValue(reader, depth);
  }
  return table;
}

function readArray(reader: ByteReader, depth: number): ArgumentValue[] {
  const outer = enter(reader, depth);
  const values: ArgumentValue[] = [];
  while (!reader.failed && reader.at < reader.end) values.push(readValue(reader, depth));
  leave(reader, outer);
  return values;
}

/** Narrows the reader to the bytes that a length announces; returns the former end, which is -1 if they are not there. */
function enter(reader: ByteReader, depth: number): number {
  const length = reader.u32();
  if (depth > tableDepthMax || length > reader.end - reader.at) reader.failed = true;
  if (reader.failed) return -1;
  const outer = reader.end;
  reader.end = reader.at + length;
  return outer;
}

function leave(reader: ByteReader, outer: number): void {
  if (outer >= 0) reader.end = outer;
}

function readValue(reader: ByteReader, depth: number): ArgumentValue {
  switch (String.fromCharCode(reader.u8())) {
    case 't':
      return reader.u8() !== 0;
    case 'b':
      return (reader.u8() << 24) >> 24;
    case 'B':
      return reader.u8();
    case 's':
      return (reader.u16() << 16) >> 16;
    case 'u':
      return reader.u16();
    case 'I':
      return reader.u32() | 0;
    case 'i':
      return reader.u32();
    // Python's clients write L, which RabbitMQ takes for the same.
    case 'l':
    case 'L': {
      const value = reader.i64();
      const number = Number(value);
      return Number.isSafeInteger(number) ? number : { int64: value.toString() };
    }
    case 'f':
      return double(reader.f32());
    case 'd':
      return double(reader.f64());
    case 'D':
      return { decimal: [reader.u8(), reader.u32() | 0] };
    case 'S':
      return text(reader.longString());
    case 'x':
      return { bytes: reader.longString().toString('base64') };
    case 'T':
      return { timestamp: reader.u64() };
    case 'A':
      return readArray(reader, depth + 1);
    case 'F':
      return { table: readNestedTable(reader, depth + 1) };
    case 'V':
      return null;
    default:
      reader.failed = true;
      return null;
  }
}

/** A whole one is told apart from an integer: where one is due, a client that sends the other is told so. */
const double = (value: number): ArgumentValue => (Number.isSafeInteger(value) ? { double: value } : value);

/** A long string is text for nearly everyone; what is no UTF-8 stays bytes. */
function text(bytes: Buffer): ArgumentValue {
  const string = bytes.toString('utf8');
  return string.includes('\ufffd') && !Buffer.from(string, 'utf8').equals(bytes)
    ? { bytes: bytes.toString('base64') }
    : string;
}

/** Bytes of a value after its type octet; 0 is for those that begin with a length. */
const fixedBytes: Record<string, number> = {
  t: 1,
  b: 1,
  B: 1,
  s: 2,
  u: 2,
  I: 4,
  i: 4,
  l: 8,
  L: 8,
  f: 4,
  d: 8,
  D: 5,
  T: 8,
  V: 0,
};
const fixedByCode = new Int8Array(256).fill(-1);
for (const [type, bytes] of Object.entries(fixedBytes)) fixedByCode[type.charCodeAt(0)] = bytes;
const code = { S: 'S'.charCodeAt(0), x: 'x'.charCodeAt(0), A: 'A'.charCodeAt(0), F: 'F'.charCodeAt(0) } as const;

/** Moves over a table with its length and checks that it is well formed, without making anything of it. */
export function skipTable(reader: ByteReader): void {
  skipNested(reader, true, 1);
}

/** Moves over one value with its type, not deeper than a header of a message goes. */
export function skipValue(reader: ByteReader, depth = 1): void {
  const type = reader.u8();
  const fixed = fixedByCode[type]!;
  if (fixed >= 0) reader.take(fixed);
  else if (type === code.S || type === code.x) reader.take(reader.u32());
  else if (type === code.F) skipNested(reader, true, depth + 1);
  else if (type === code.A) skipNested(reader, false, depth + 1);
  else reader.failed = true;
}

function skipNested(reader: ByteReader, named: boolean, depth: number): void {
  const outer = enter(reader, depth);
  while (!reader.failed && reader.at < reader.end) {
    if (named) reader.take(reader.u8());
    skipValue(reader, depth);
  }
  leave(reader, outer);
}

/** A table with its length. Integers become the narrowest of I and l, other numbers d. */
export function encodeTable(table: Arguments): Buffer {
  const fields: Buffer[] = [];
  for (const [name, value] of Object.entries(table)) fields.push(encodeShortString(name), encodeValue(value));
  return withLength(fields);
}

/** At most 255 bytes of UTF-8, cut at a whole character. */
export function encodeShortString(string: string): Buffer {
  let bytes = Buffer.from(string, 'utf8');
  if (bytes.length > 255) {
    let end = 255;
    while ((bytes[end]! & 0xc0) === 0x80) end--;
    bytes = bytes.subarray(0, end);
  }
  return Buffer.concat([Buffer.from([bytes.length]), bytes]);
}

function withLength(pieces: readonly Buffer[]): Buffer {
  const body = Buffer.concat(pieces);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  return Buffer.concat([length, body]);
}

function encodeValue(value: ArgumentValue): Buffer {
  if (value === null) return Buffer.from('V');
  if (typeof value === 'boolean') return Buffer.from([0x74, value ? 1 : 0]);
  if (typeof value === 'number') return encodeNumber(value);
  if (typeof value === 'string') return typed('S', withLength([Buffer.from(value, 'utf8')]));
  if (isArray(value)) return typed('A', withLength(value.map(encodeValue)));
  if ('table' in value) return typed('F', encodeTable(value.table));
  if ('bytes' in value) return typed('x', withLength([Buffer.from(value.bytes, 'base64')]));
  const bytes = Buffer.alloc(8);
  if ('double' in value) {
    bytes.writeDoubleBE(value.double);
    return typed('d', bytes);
  }
  if ('int64' in value) {
    bytes.writeBigInt64BE(BigInt(value.int64));
    return typed('l', bytes);
  }
  if ('timestamp' in value) {
    bytes.writeBigUInt64BE(BigInt(value.timestamp));
    return typed('T', bytes);
  }
  bytes[0] = value.decimal[0];
  bytes.writeInt32BE(value.decimal[1], 1);
  return typed('D', bytes.subarray(0, 5));
}

function encodeNumber(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  if (!Number.isSafeInteger(value)) {
    bytes.writeDoubleBE(value);
    return typed('d', bytes);
  }
  if (value === (value | 0)) {
    bytes.writeInt32BE(value);
    return typed('I', bytes.subarray(0, 4));
  }
  bytes.writeBigInt64BE(BigInt(value));
  return typed('l', bytes);
}

const typed = (type: string, value: Buffer): Buffer => Buffer.concat([Buffer.from(type), value]);
const isArray = (value: ArgumentValue): value is readonly ArgumentValue[] => Array.isArray(value);
