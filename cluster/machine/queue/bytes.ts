// Writing and reading of snapshots, and the fold of state hashes. PURE.
//
// Numbers are little-endian. A reader throws on bytes that end too early: a snapshot is checked before it gets here, so that is damage or
// another version, and the caller must not go on with half a state.

/** Folds one number into a 32-bit hash. The number's low 32 bits and its multiples of 2^32 both count. */
export function foldHash(hash: number, value: number): number {
  let h = Math.imul(hash ^ (value | 0), 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15) ^ Math.floor(value / 0x1_0000_0000), 0x85ebca6b);
  return (h ^ (h >>> 13)) >>> 0;
}

/** Work that goes on in steps: whoever drives it comes back, in the same turn or in a later one. */
export type Steps<T = void> = Generator<void, T, void>;

const pieceBytes = 64 * 1024;

/** Gathers what is written in pieces, so that nothing is copied when it grows. (A `DataView`, because it is ten times as fast as `Buffer`'s methods.) */
export class ByteWriter {
  #pieces: Buffer[] = [];
  /** Bytes in `#pieces`. */
  #inPieces = 0;
  #bytes: Buffer;
  #view: DataView;
  /** What `pieces` has not given away yet begins here. */
  #start = 0;
  #end = 0;

  constructor(startBytes = 1024) {
    this.#bytes = Buffer.allocUnsafeSlow(startBytes);
    this.#view = viewOf(this.#bytes);
  }

  u8(value: number): void {
    const at = this.#take(1);
    this.#view.setUint8(at, value);
  }

  u32(value: number): void {
    const at = this.#take(4);
    this.#view.setUint32(at, value, true);
  }

  i32(value: number): void {
    const at = this.#take(4);
    this.#view.setInt32(at, value, true);
  }

  /** A number in [0, 2^53). */
  u64(value: number): void {
    const at = this.#take(8);
    this.#view.setUint32(at, value, true);
    this.#view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
  }

  text(value: string): void {
    // A unit of the string takes three bytes at most; what is not needed is given back.
    const lengthMax = value.length * 3;
    const at = this.#take(4 + lengthMax);
    const length = this.#bytes.write(value, at + 4, 'utf8');
    this.#view.setUint32(at, length, true);
    this.#end -= lengthMax - length;
  }

  bytes(value: Uint8Array): void {
    const at = this.#take(value.length);
    this.#bytes.set(value, at);
  }

  /** A message, 12 bytes: index (low 32 bits), ordinal (16 bits), index (high 16 bits), bytes (32 bits). */
  reference(index: number, ordinal: number, bytes: number): void {
    const at = this.#take(12);
    this.#view.setUint32(at, index, true);
    this.#view.setUint32(at + 4, (Math.floor(index / 0x1_0000_0000) << 16) | ordinal, true);
    this.#view.setUint32(at + 8, bytes, true);
  }

  /** Bytes written since `pieces` was last called. */
  get length(): number {
    return this.#inPieces + this.#end - this.#start;
  }

  /** Everything written since the last call, in order. Writing may go on: what was given away is not touched again. */
  pieces(): Buffer[] {
    const pieces = this.#pieces;
    if (this.#end > this.#start) pieces.push(this.#bytes.subarray(this.#start, this.#end));
    this.#pieces = [];
    this.#inPieces = 0;
    this.#start = this.#end;
    return pieces;
  }

  /** May replace the view, so it has to be called before the view is read. */
  #take(length: number): number {
    if (this.#end + length > this.#bytes.length) this.#turn(length);
    const at = this.#end;
    this.#end = at + length;
    return at;
  }

  #turn(length: number): void {
    if (this.#end > this.#start) this.#pieces.push(this.#bytes.subarray(this.#start, this.#end));
    this.#inPieces += this.#end - this.#start;
    this.#bytes = Buffer.allocUnsafeSlow(Math.max(pieceBytes, length));
    this.#view = viewOf(this.#bytes);
    this.#start = 0;
    this.#end = 0;
  }
}

/** Before a step begins so much has to be there, or all that is left: no single thing that is read at once is larger, unless `until` asked for it. */
const reserveBytes = 2 * 1024 * 1024;

export class ByteReader {
  #bytes: Buffer;
  #view: DataView;
  #at = 0;
  /** What comes behind `#bytes`. */
  readonly #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #hasAll: boolean;
  /** Bytes that `until` waits for. */
  #wanted = 0;
  /** Bytes that one step reads, and those left of it. */
  readonly #stepBytes: number;
  #stepLeft: number;
  /** The message that `reference` has read. */
  index = 0;
  ordinal = 0;
  bytes = 0;

  /** All bytes, to be read at once; or null: they come with `add`, and are read in steps of about `stepBytes`. */
  constructor(bytes: Buffer | null, stepBytes = Number.POSITIVE_INFINITY) {
    this.#bytes = bytes ?? Buffer.alloc(0);
    this.#view = viewOf(this.#bytes);
    this.#hasAll = bytes !== null;
    this.#stepBytes = stepBytes;
    this.#stepLeft = stepBytes;
  }

  /** More bytes, which never change. */
  add(bytes: Buffer, isLast: boolean): void {
    if (this.#hasAll) throw new Error('bytes behind the last ones');
    this.#hasAll = isLast;
    if (bytes.length === 0) return;
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
  }

  get #buffered(): number {
    return this.#bytes.length - this.#at + this.#waitingBytes;
  }

  get atEnd(): boolean {
    return this.#hasAll && this.#buffered === 0;
  }

  /** There is enough for a step. */
  get isReady(): boolean {
    return this.#hasAll || this.#buffered >= this.#wanted + reserveBytes;
  }

  /** Begins a step. */
  rest(): void {
    this.#stepLeft = this.#stepBytes;
  }

  /** So much was read in this step that it should end. Whoever reads many things asks after each. */
  get isTired(): boolean {
    return this.#stepLeft <= 0;
  }

  /** Waits until so many bytes can be read at once. */
  *until(bytes: number): Steps {
    this.#wanted = bytes;
    while (!this.isReady) yield;
    this.#wanted = 0;
  }

  /** Waits for the end. Throws if there is more. */
  *end(): Steps {
    yield;
    if (!this.atEnd) throw new Error('snapshot is longer than its state');
  }

  u8(): number {
    const at = this.#step(1);
    return this.#view.getUint8(at);
  }

  u32(): number {
    const at = this.#step(4);
    return this.#view.getUint32(at, true);
  }

  i32(): number {
    const at = this.#step(4);
    return this.#view.getInt32(at, true);
  }

  u64(): number {
    const at = this.#step(8);
    return this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 0x1_0000_0000;
  }

  text(): string {
    return this.take(this.u32()).toString('utf8');
  }

  /** The next `length` bytes, a view. */
  take(length: number): Buffer {
    const at = this.#step(length);
    return this.#bytes.subarray(at, at + length);
  }

  /** Reads a message into `index`, `ordinal` and `bytes`. */
  reference(): void {
    const at = this.#step(12);
    const high = this.#view.getUint32(at + 4, true);
    this.index = this.#view.getUint32(at, true) + (high >>> 16) * 0x1_0000_0000;
    this.ordinal = high & 0xffff;
    this.bytes = this.#view.getUint32(at + 8, true);
  }

  /** May replace the view, so it has to be called before the view is read. */
  #step(length: number): number {
    if (this.#at + length > this.#bytes.length) this.#gather(length);
    const at = this.#at;
    this.#at = at + length;
    this.#stepLeft -= length;
    return at;
  }

  /** The bytes left and those behind them in one buffer, so that `length` of them can be read. */
  #gather(length: number): void {
    if (length > this.#buffered) throw new Error('snapshot ends too early');
    const parts = [this.#bytes.subarray(this.#at)];
    let gathered = parts[0]!.length;
    let count = 0;
    while (gathered < length) {
      const part = this.#waiting[count++]!;
      parts.push(part);
      gathered += part.length;
    }
    this.#waiting.splice(0, count);
    this.#waitingBytes -= gathered - parts[0]!.length;
    this.#bytes = parts[0]!.length === 0 && count === 1 ? parts[1]! : Buffer.concat(parts, gathered);
    this.#view = viewOf(this.#bytes);
    this.#at = 0;
  }
}

const viewOf = (bytes: Buffer): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
