// Frames: what travels on a lane after the handshake.
//
//   u32 length of the body | u8 kind | body        (little-endian)
//
// `FrameWriter` gathers the frames of one turn into as few buffers as make sense; `FrameReader` takes a stream of chunks apart.
// Invariants: bytes that were taken never change until `recycle`; a body handed out is never reused, and never keeps a chunk
// alive that is more than twice its size.

export const frameHeaderBytes = 5;

/** Pieces up to this size are copied together: below it one more element of a gathered write costs more than the copy. */
const copiedBytesMax = 2 * 1024;
const slabBytes = 64 * 1024;
/** Bodies up to this size are copied out of their chunk into a slab. */
const carvedBytesMax = 8 * 1024;

export class FrameWriter {
  #slab = Buffer.allocUnsafeSlow(slabBytes);
  /** slab[#runStart, #runEnd) is not yet in `#buffers`. */
  #runStart = 0;
  #runEnd = 0;
  #buffers: Uint8Array[] = [];
  #bytes = 0;

  /** Bytes gathered and not yet taken, with headers. */
  get bytes(): number {
    return this.#bytes;
  }

  /** `bodyBytes` is the sum of the pieces. Large pieces are not copied: they must not change until they have left. */
  add(kind: number, pieces: readonly Uint8Array[], bodyBytes: number): void {
    this.#makeRoom(frameHeaderBytes);
    const end = this.#runEnd;
    this.#slab.writeUInt32LE(bodyBytes, end);
    this.#slab[end + 4] = kind;
    this.#runEnd = end + frameHeaderBytes;
    for (let i = 0; i < pieces.length; i++) {
      const piece = pieces[i]!;
      if (piece.length <= copiedBytesMax) {
        this.#makeRoom(piece.length);
        this.#slab.set(piece, this.#runEnd);
        this.#runEnd += piece.length;
      } else {
        this.#endRun();
        this.#buffers.push(piece);
      }
    }
    this.#bytes += frameHeaderBytes + bodyBytes;
  }

  /** Everything gathered, in order; the writer is empty again. */
  take(): readonly Uint8Array[] {
    this.#endRun();
    const buffers = this.#buffers;
    this.#buffers = [];
    this.#bytes = 0;
    return buffers;
  }

  /** The caller knows that all that was ever taken has left: its memory is used again. */
  recycle(): void {
    if (this.#bytes > 0) return;
    this.#runStart = 0;
    this.#runEnd = 0;
  }

  #endRun(): void {
    if (this.#runStart === this.#runEnd) return;
    this.#buffers.push(this.#slab.subarray(this.#runStart, this.#runEnd));
    this.#runStart = this.#runEnd;
  }

  #makeRoom(bytes: number): void {
    if (this.#runEnd + bytes <= slabBytes) return;
    this.#endRun();
    this.#slab = Buffer.allocUnsafeSlow(slabBytes);
    this.#runStart = 0;
    this.#runEnd = 0;
  }
}

export class FrameReader {
  readonly #bodyBytesMax: number;
  readonly #onFrame: (kind: number, body: Buffer) => void;
  /** The part of a header that ended a chunk. */
  readonly #header = Buffer.alloc(frameHeaderBytes);
  #headerBytes = 0;
  /** A body that began in an earlier chunk, its kind, and how much of it is there. */
  #body: Buffer | null = null;
  #kind = 0;
  #filled = 0;
  #slab = Buffer.alloc(0);
  #slabEnd = 0;
  #stopped = false;

  constructor(bodyBytesMax: number, onFrame: (kind: number, body: Buffer) => void) {
    this.#bodyBytesMax = bodyBytesMax;
    this.#onFrame = onFrame;
  }

  /** No further frame is handed out, also none of the chunk being read. */
  stop(): void {
    this.#stopped = true;
    this.#body = null;
  }

  /** Hands out every frame that the chunk completes. False: the sender broke the rules, and nothing after it can be understood. */
  read(chunk: Buffer): boolean {
    let at = 0;
    while (at < chunk.length && !this.#stopped) {
      if (this.#body !== null) {
        at = this.#fill(this.#body, chunk, at);
        continue;
      }
      let header = chunk;
      let start = at;
      if (this.#headerBytes > 0 || chunk.length - at < frameHeaderBytes) {
        const copied = chunk.copy(this.#header, this.#headerBytes, at);
        this.#headerBytes += copied;
        at += copied;
        if (this.#headerBytes < frameHeaderBytes) break;
        this.#headerBytes = 0;
        header = this.#header;
        start = 0;
      } else {
        at += frameHeaderBytes;
      }
      const length = header.readUInt32LE(start);
      if (length > this.#bodyBytesMax) return false;
      at = this.#begin(header[start + 4]!, length, chunk, at);
    }
    return true;
  }

  /** Hands out the body at `at` if the chunk holds it whole, or else keeps what there is of it. Returns where to go on. */
  #begin(kind: number, length: number, chunk: Buffer, at: number): number {
    const end = at + length;
    if (end > chunk.length) {
      this.#kind = kind;
      this.#filled = 0;
      this.#body = Buffer.allocUnsafeSlow(length);
      return this.#fill(this.#body, chunk, at);
    }
    const isCopied = length <= carvedBytesMax || length * 2 <= chunk.length;
    this.#onFrame(kind, isCopied ? this.#copyOut(chunk, at, end) : chunk.subarray(at, end));
    return end;
  }

  #fill(body: Buffer, chunk: Buffer, at: number): number {
    const copied = chunk.copy(body, this.#filled, at);
    this.#filled += copied;
    if (this.#filled === body.length) {
      this.#body = null;
      this.#onFrame(this.#kind, body);
    }
    return at + copied;
  }

  /** Small bodies are carved from one slab: what of them outlives the turn is one buffer each, and no memory of its own. */
  #copyOut(chunk: Buffer, start: number, end: number): Buffer {
    const length = end - start;
    if (length > carvedBytesMax) return Buffer.from(chunk.subarray(start, end));
    if (this.#slabEnd + length > this.#slab.length) {
      this.#slab = Buffer.allocUnsafeSlow(slabBytes);
      this.#slabEnd = 0;
    }
    const body = this.#slab.subarray(this.#slabEnd, this.#slabEnd + length);
    chunk.copy(body, 0, start, end);
    this.#slabEnd += length;
    return body;
  }
}
