// Writing and reading of snapshots, and the fold of state hashes. PURE.
//
// Numbers are little-endian. A reader throws on bytes that end too early: a snapshot is checked before it gets here, so that is damage or
// another version, and the caller must not go on with half a state.

import { readU64, writeU64 } from '../commands.ts';

/** Folds one number into a 32-bit hash. The number's low 32 bits and its multiples of 2^32 both count. */
export function foldHash(hash: number, value: number): number {
  let h = Math.imul(hash ^ (value | 0), 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15) ^ Math.floor(value / 0x1_0000_0000), 0x85ebca6b);
  return (h ^ (h >>> 13)) >>> 0;
}

const pieceBytes = 64 * 1024;

/** Gathers what is written in pieces, so that nothing is copied when it grows. */
export class ByteWriter {
  readonly #pieces: Buffer[] = [];
  #bytes: Buffer;
  #end = 0;

  constructor(startBytes = 1024) {
    this.#bytes = Buffer.allocUnsafeSlow(startBytes);
  }

  u8(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#end++] = value;
  }

  u32(value: number): void {
    this.#reserve(4);
    this.#end = this.#bytes.writeUInt32LE(value, this.#end);
  }

  i32(value: number): void {
    this.#reserve(4);
    this.#end = this.#bytes.writeInt32LE(value, this.#end);
  }

  u64(value: number): void {
    this.#reserve(8);
    writeU64(this.#bytes, value, this.#end);
    this.#end += 8;
  }

  text(value: string): void {
    const bytes = Buffer.from(value, 'utf8');
    this.u32(bytes.length);
    this.bytes(bytes);
  }

  bytes(value: Buffer): void {
    value.copy(this.room(value.length));
  }

  /** `length` bytes in one piece, to be filled in by the caller. */
  room(length: number): Buffer {
    this.#reserve(length);
    const room = this.#bytes.subarray(this.#end, this.#end + length);
    this.#end += length;
    return room;
  }

  /** Everything written, in order. Nothing may be written after it. */
  pieces(): Buffer[] {
    this.#pieces.push(this.#bytes.subarray(0, this.#end));
    return this.#pieces;
  }

  #reserve(length: number): void {
    if (this.#end + length <= this.#bytes.length) return;
    if (this.#end > 0) this.#pieces.push(this.#bytes.subarray(0, this.#end));
    this.#bytes = Buffer.allocUnsafeSlow(Math.max(pieceBytes, length));
    this.#end = 0;
  }
}

export class ByteReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  u8(): number {
    return this.#bytes.readUInt8(this.#step(1));
  }

  u32(): number {
    return this.#bytes.readUInt32LE(this.#step(4));
  }

  i32(): number {
    return this.#bytes.readInt32LE(this.#step(4));
  }

  u64(): number {
    return readU64(this.#bytes, this.#step(8));
  }

  text(): string {
    return this.take(this.u32()).toString('utf8');
  }

  /** The next `length` bytes, a view. */
  take(length: number): Buffer {
    const at = this.#step(length);
    return this.#bytes.subarray(at, at + length);
  }

  #step(length: number): number {
    const at = this.#at;
    if (at + length > this.#bytes.length) throw new Error('snapshot ends too early');
    this.#at = at + length;
    return at;
  }
}
