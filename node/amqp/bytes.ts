// Reading of untrusted bytes, and copying of small pieces.
//
// PURE. State: a cursor. Invariant: nothing beyond `end` is read. A read that would go further makes the reader `failed` for good and gives
// a zero value, so that a whole structure is read first and judged once, without a throw.

/** Below this length a loop beats `Buffer.copy`, which makes a view of its source first (measured). */
const loopBytesMax = 48;

/** Copies source[start, end) to `target` at `at`; returns the offset after it. The target must have room. */
export function copyBytes(target: Buffer, at: number, source: Buffer, start: number, end: number): number {
  const length = end - start;
  if (length <= loopBytesMax) {
    for (let i = start; i < end; i++) target[at++] = source[i]!;
    return at;
  }
  source.copy(target, at, start, end);
  return at + length;
}

/** Whether source[start, end) and the whole of `other` are the same bytes. For short pieces. */
export function sameBytes(source: Buffer, start: number, end: number, other: Buffer): boolean {
  if (end - start !== other.length) return false;
  for (let i = 0; start < end; i++, start++) if (source[start] !== other[i]) return false;
  return true;
}

export const readU16 = (bytes: Buffer, at: number): number => (bytes[at]! << 8) | bytes[at + 1]!;

export const readU32 = (bytes: Buffer, at: number): number =>
  ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;

/** Above 2^53 the result is rounded: nothing of ours has such a number, so it matches nothing. */
export const readU64 = (bytes: Buffer, at: number): number =>
  readU32(bytes, at) * 0x1_0000_0000 + readU32(bytes, at + 4);

export function writeU32(bytes: Buffer, value: number, at: number): number {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
  return at + 4;
}

export function writeU64(bytes: Buffer, value: number, at: number): number {
  writeU32(bytes, Math.floor(value / 0x1_0000_0000), at);
  return writeU32(bytes, value >>> 0, at + 4);
}

export class ByteReader {
  readonly bytes: Buffer;
  at: number;
  end: number;
  failed = false;

  constructor(bytes: Buffer, start = 0, end = bytes.length) {
    this.bytes = bytes;
    this.at = start;
    this.end = end;
  }

  /** Moves over `length` bytes; the offset where they begin, or -1. */
  take(length: number): number {
    const at = this.at;
    if (this.failed || length > this.end - at) {
      this.failed = true;
      return -1;
    }
    this.at = at + length;
    return at;
  }
  u8(): number {
    const at = this.take(1);
    return at < 0 ? 0 : this.bytes[at]!;
  }
  u16(): number {
    const at = this.take(2);
    return at < 0 ? 0 : readU16(this.bytes, at);
  }
  u32(): number {
    const at = this.take(4);
    return at < 0 ? 0 : readU32(this.bytes, at);
  }
  u64(): number {
    const at = this.take(8);
    return at < 0 ? 0 : readU64(this.bytes, at);
  }
  i64(): bigint {
    const at = this.take(8);
    return at < 0 ? 0n : this.bytes.readBigInt64BE(at);
  }
  f32(): number {
    const at = this.take(4);
    return at < 0 ? 0 : this.bytes.readFloatBE(at);
  }
  f64(): number {
    const at = this.take(8);
    return at < 0 ? 0 : this.bytes.readDoubleBE(at);
  }
  shortString(): string {
    const length = this.u8();
    const at = this.take(length);
    return at < 0 ? '' : this.bytes.toString('utf8', at, at + length);
  }
  /** A copy: it may outlive the bytes read from. */
  longString(): Buffer {
    const length = this.u32();
    const at = this.take(length);
    return at < 0 ? Buffer.alloc(0) : Buffer.from(this.bytes.subarray(at, at + length));
  }
  /** Whether everything was read, and nothing is left over. */
  get isDone(): boolean {
    return !this.failed && this.at === this.end;
  }
}
