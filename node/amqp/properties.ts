// The content header: what a message says of itself. Kept and passed on byte for byte; only what the broker acts on is looked at.
//
//   content header payload = u16 class, u16 weight, u64 body bytes, u16 flags, the properties whose flag is set, in this order
//   bit 15 content-type   14 content-encoding   13 headers (table)   12 delivery-mode (u8)   11 priority (u8)   10 correlation-id
//   9 reply-to   8 expiration   7 message-id   6 timestamp (u64)   5 type   4 user-id   3 app-id   2 cluster-id; others short strings
//
// PURE. "Properties" below always means flags and list together, as they are stored.

import type { Arguments } from '../../cluster/index.ts';
import { ByteReader } from './bytes.ts';
import { encodeShortString, readTable, skipTable, skipValue } from './table.ts';

export const contentHeaderFixedBytes = 12;

/** The pseudo-queue that a client consumes replies from, and names as reply-to; and how the real names begin. */
export const directReplyTo = 'amq.rabbitmq.reply-to';
export const directReplyToPrefix = `${directReplyTo}.`;

const flag = {
  headers: 13,
  deliveryMode: 12,
  priority: 11,
  replyTo: 9,
  expiration: 8,
  timestamp: 6,
  userId: 4,
  clusterId: 2,
} as const;

/** The properties that matter here: small numbers by value, others by where they lie in the scanned buffer; -1: absent. One object serves again
 * and again. */
export class PropertyScan {
  deliveryMode = -1;
  priority = -1;
  /** Of the table's length field. */
  headersStart = -1;
  headersEnd = -1;
  /** Of the texts, without their lengths. */
  replyToStart = -1;
  replyToEnd = -1;
  expirationStart = -1;
  expirationEnd = -1;
  userIdStart = -1;
  userIdEnd = -1;

  /** False if bytes[start, end) are no well-formed properties; the fields are then without meaning. */
  scan(bytes: Buffer, start: number, end: number): boolean {
    this.deliveryMode = this.priority = this.headersStart = -1;
    this.replyToStart = this.expirationStart = this.userIdStart = -1;
    const reader = new ByteReader(bytes, start, end);
    const flags = reader.u16();
    // Bit 0 would announce more flags and bit 1 is not assigned: nobody sends either.
    if ((flags & 3) !== 0) return false;
    for (let bit = 15; bit >= flag.clusterId; bit--) {
      if ((flags & (1 << bit)) === 0) continue;
      switch (bit) {
        case flag.headers:
          this.headersStart = reader.at;
          skipTable(reader);
          this.headersEnd = reader.at;
          break;
        case flag.deliveryMode:
          this.deliveryMode = reader.u8();
          break;
        case flag.priority:
          this.priority = reader.u8();
          break;
        case flag.timestamp:
          reader.take(8);
          break;
        default: {
          const length = reader.u8();
          const at = reader.take(length);
          if (bit === flag.expiration) {
            this.expirationStart = at;
            this.expirationEnd = at + length;
          } else if (bit === flag.replyTo) {
            this.replyToStart = at;
            this.replyToEnd = at + length;
          } else if (bit === flag.userId) {
            this.userIdStart = at;
            this.userIdEnd = at + length;
          }
        }
      }
    }
    return reader.isDone;
  }
}

const scratch = new PropertyScan();

/** The headers of a message; empty if it has none or they are broken. `properties`: well formed, as stored. */
export function readHeaders(properties: Buffer): Arguments {
  if (!scratch.scan(properties, 0, properties.length) || scratch.headersStart < 0) return {};
  return readTable(new ByteReader(properties, scratch.headersStart, scratch.headersEnd));
}

/** Milliseconds above which an expiration is refused. */
export const expirationMillisecondsMax = 0xffff_ffff;

/** An expiration in milliseconds, or -1 if the text is no number in [0, 2^32). */
export function parseExpiration(bytes: Buffer, start: number, end: number): number {
  if (start === end) return -1;
  let value = 0;
  for (let i = start; i < end; i++) {
    const digit = bytes[i]! - 0x30;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
    if (value > expirationMillisecondsMax) return -1;
  }
  return value;
}

const deliveryCountName = 'x-delivery-count';

/** The properties with the header `x-delivery-count` (type l) set, other headers untouched. `properties`: well formed, as stored. */
export function withDeliveryCount(properties: Buffer, count: number): Buffer {
  // A publisher may have passed a former count on.
  return withHeaders(properties, [deliveryCountName], [longField(deliveryCountName, count)]);
}

/** A field of a table: its name, and a signed integer of 64 bits (type l). */
export function longField(name: string, value: number): Buffer {
  const field = Buffer.alloc(9);
  field[0] = 'l'.charCodeAt(0);
  field.writeBigInt64BE(BigInt(value), 1);
  return Buffer.concat([encodeShortString(name), field]);
}

/** The properties without these headers and with those fields behind the others, whose bytes stay as they are. `properties`: well formed. */
export function withHeaders(properties: Buffer, without: readonly string[], added: readonly Buffer[]): Buffer {
  if (!scratch.scan(properties, 0, properties.length)) return properties;
  const { headersStart, headersEnd } = scratch;
  const names = without.map(encodeShortString);
  const kept = headersStart < 0 ? [] : otherFields(properties, headersStart + 4, headersEnd, names);
  const body = Buffer.concat([...kept, ...added]);
  const head = Buffer.alloc(4);
  head.writeUInt32BE(body.length);
  const flags = Buffer.alloc(2);
  flags.writeUInt16BE(properties.readUInt16BE(0) | (1 << flag.headers));
  const start = headersStart < 0 ? headersOffset(properties) : headersStart;
  const end = headersStart < 0 ? start : headersEnd;
  return Buffer.concat([flags, properties.subarray(2, start), head, body, properties.subarray(end)]);
}

/** The properties with another reply-to than the one they have. `scan`: of just these. */
export function withReplyTo(properties: Buffer, { replyToStart, replyToEnd }: PropertyScan, replyTo: string): Buffer {
  return Buffer.concat([
    properties.subarray(0, replyToStart - 1),
    encodeShortString(replyTo),
    properties.subarray(replyToEnd),
  ]);
}

/** The expiration as it was set, or null, and the properties without it. `properties`: well formed. */
export function withoutExpiration(properties: Buffer): { readonly expiration: string | null; readonly rest: Buffer } {
  if (!scratch.scan(properties, 0, properties.length) || scratch.expirationStart < 0)
    return { expiration: null, rest: properties };
  const { expirationStart: start, expirationEnd: end } = scratch;
  const rest = Buffer.concat([properties.subarray(0, start - 1), properties.subarray(end)]);
  rest.writeUInt16BE(properties.readUInt16BE(0) & ~(1 << flag.expiration), 0);
  return { expiration: properties.toString('utf8', start, end), rest };
}

/** Where the headers table would begin: after content-type and content-encoding. */
function headersOffset(properties: Buffer): number {
  const flags = properties.readUInt16BE(0);
  let at = 2;
  if ((flags & 0x8000) !== 0) at += 1 + properties[at]!;
  if ((flags & 0x4000) !== 0) at += 1 + properties[at]!;
  return at;
}

/** The fields of a well-formed table body but for those with these names (as short strings). */
function otherFields(bytes: Buffer, start: number, end: number, without: readonly Buffer[]): Buffer[] {
  const fields: Buffer[] = [];
  const reader = new ByteReader(bytes, start, end);
  while (reader.at < end) {
    const at = reader.at;
    const name = bytes.subarray(at, at + 1 + bytes[at]!);
    reader.take(name.length);
    skipValue(reader);
    if (!without.some((other) => other.equals(name))) fields.push(bytes.subarray(at, reader.at));
  }
  return fields;
}
