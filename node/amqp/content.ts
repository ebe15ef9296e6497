// One channel's publish on its way in: basic.publish, content header, bodies.
//
// PURE. State: the message that is being received, and what repeats from publish to publish (publications, properties). Invariants: the pieces of
// the body add up to `bytesReceived`; pieces within a chunk are slices of it only until `keep` copies them, so that a message that is complete
// within its chunk is never copied here; kept bytes lie in one buffer that grows with what really came, never with what was announced.

import { BrokerError } from '../errors.ts';
import type { Publication } from './backend.ts';
import { ByteReader, copyBytes, readU16, readU64, sameBytes } from './bytes.ts';
import { contentHeaderFixedBytes, PropertyScan, parseExpiration } from './properties.ts';

const basicClass = 60;
/** Publications remembered per channel; a power of two. */
const publicationsMax = 64;
/** Bodies up to here are handed over in a buffer that is used again, which is cheaper than a view of the chunk (measured). */
const smallBytesMax = 48;
/** First size of the buffer for kept bytes, unless the message is smaller. */
const keptBytesMin = 64 * 1024;
/** Properties longer than this are not compared with the last ones. */
const repeatedPropertiesBytesMax = 1024;

/** A publication with the payload it was read from. */
interface Known {
  readonly payload: Buffer;
  readonly publication: Publication;
}

const Expecting = { method: 0, header: 1, body: 2 } as const;
type Expecting = (typeof Expecting)[keyof typeof Expecting];

const dueFrames = {
  [Expecting.method]: ['method frame', 'non method frame'],
  [Expecting.header]: [`content header for class ${basicClass}`, 'non content header frame'],
  [Expecting.body]: ['content body', 'non content body frame'],
} as const;

/** One buffer of each length, for bodies that are copied by whoever is handed them before the call returns. */
const smallBuffers: Buffer[] = [];
for (let length = 0; length <= smallBytesMax; length++) smallBuffers.push(Buffer.allocUnsafeSlow(length));

const noBytes: Buffer = Buffer.alloc(0);
const noPieces: readonly Buffer[] = [];

const scan = new PropertyScan();

export class Content {
  publication: Publication | null = null;
  properties: Buffer = noBytes;
  /** The pieces of the body. The arrays serve for every message. */
  body: readonly Buffer[] = noPieces;
  bodyBytes = 0;
  /** Bytes of the unfinished message that are held beyond their chunk. */
  heldBytes = 0;
  #expecting: Expecting = Expecting.method;
  #bytesReceived = 0;
  /** Nearly every body comes in one piece. Setting an array's length to 0 would give its memory back, which costs more than all else here. */
  readonly #onePiece: Buffer[] = [noBytes];
  #pieces: Buffer[] = [];
  #held: Buffer | null = null;
  #last: Known | null = null;
  #known: (Known | undefined)[] | null = null;
  readonly #user: string;
  readonly #messageBytesMax: number;

  constructor(user: string, messageBytesMax: number) {
    this.#user = user;
    this.#messageBytesMax = messageBytesMax;
  }

  /** Is a content header or body due, and no method allowed? */
  get isUnfinished(): boolean {
    return this.#expecting !== Expecting.method;
  }

  /** All bytes have come: `publication`, `properties`, `body`, `bodyBytes` are the message until `reset`. */
  get isComplete(): boolean {
    return this.#expecting === Expecting.body && this.#bytesReceived === this.bodyBytes;
  }

  /** The frame that came is not of the type that is due. */
  unexpectedFrame(): BrokerError {
    const [due, got] = dueFrames[this.#expecting];
    return new BrokerError('unexpected-frame', `expected ${due}, got ${got} instead`);
  }

  /** basic.publish, its whole payload. */
  begin(bytes: Buffer, start: number, end: number): BrokerError | null {
    const last = this.#last;
    if (last !== null && sameBytes(bytes, start, end, last.payload)) {
      this.publication = last.publication;
    } else {
      const found = this.#lookUp(bytes, start, end);
      if (found instanceof BrokerError) return found;
      this.#last = found;
      this.publication = found.publication;
    }
    this.#expecting = Expecting.header;
    return null;
  }

  #lookUp(bytes: Buffer, start: number, end: number): Known | BrokerError {
    let hash = end - start;
    for (let i = start + 4; i < end; i++) hash = (Math.imul(hash, 31) + bytes[i]!) | 0;
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b_3c6d);
    const slot = (hash >>> 16) & (publicationsMax - 1);
    const known = this.#known;
    if (known !== null) {
      const first = known[slot];
      if (first !== undefined && sameBytes(bytes, start, end, first.payload)) return first;
      const second = known[slot ^ 1];
      if (second !== undefined && sameBytes(bytes, start, end, second.payload)) return second;
      known[slot ^ 1] = first;
    }
    const found = readPublication(Buffer.from(bytes.subarray(start, end)));
    if (found instanceof BrokerError) return found;
    // A channel that publishes to one place only needs no table.
    if (this.#known === null && this.#last !== null)
      this.#known = new Array<Known | undefined>(publicationsMax).fill(undefined);
    if (this.#known !== null) this.#known[slot] = found;
    return found;
  }

  /** A content header; the message may be complete with it. */
  header(bytes: Buffer, start: number, end: number): BrokerError | null {
    if (this.#expecting !== Expecting.header) return this.unexpectedFrame();
    if (end - start < contentHeaderFixedBytes + 2) return new BrokerError('syntax-error', 'content header is cut off');
    const classId = readU16(bytes, start);
    if (classId !== basicClass)
      return new BrokerError(
        'unexpected-frame',
        `expected content header for class ${basicClass}, got one for class ${classId} instead`,
      );
    const bodyBytes = readU64(bytes, start + 4);
    if (bodyBytes > this.#messageBytesMax)
      return new BrokerError(
        'precondition-failed',
        `message size ${bodyBytes} is larger than configured max size ${this.#messageBytesMax}`,
      );
    const error = this.#takeProperties(bytes, start + contentHeaderFixedBytes, end);
    if (error !== null) return error;
    this.bodyBytes = bodyBytes;
    this.#bytesReceived = 0;
    this.#expecting = Expecting.body;
    return null;
  }

  /** Properties are nearly always those of the last publish, or as long: they are checked once and kept in a buffer of their own. */
  #takeProperties(bytes: Buffer, start: number, end: number): BrokerError | null {
    if (sameBytes(bytes, start, end, this.properties)) return null;
    const length = end - start;
    if (!scan.scan(bytes, start, end)) return new BrokerError('syntax-error', 'content properties are not well formed');
    const error = this.#judgeProperties(bytes);
    if (error !== null) return error;
    if (length !== this.properties.length || length > repeatedPropertiesBytesMax)
      this.properties = Buffer.allocUnsafe(length);
    copyBytes(this.properties, 0, bytes, start, end);
    return null;
  }

  #judgeProperties(bytes: Buffer): BrokerError | null {
    if (scan.userIdStart >= 0) {
      const user = bytes.toString('utf8', scan.userIdStart, scan.userIdEnd);
      if (user !== this.#user)
        return new BrokerError(
          'precondition-failed',
          `user_id property set to '${user}' but authenticated user was '${this.#user}'`,
        );
    }
    if (scan.expirationStart >= 0 && parseExpiration(bytes, scan.expirationStart, scan.expirationEnd) < 0) {
      const text = bytes.toString('utf8', scan.expirationStart, scan.expirationEnd);
      return new BrokerError('precondition-failed', `invalid expiration '${text}'`);
    }
    return null;
  }

  /** A body frame; the message may be complete with it. */
  piece(bytes: Buffer, start: number, end: number): BrokerError | null {
    if (this.#expecting !== Expecting.body) return this.unexpectedFrame();
    const length = end - start;
    if (length > this.bodyBytes - this.#bytesReceived)
      return new BrokerError(
        'frame-error',
        `content body has more than the ${this.bodyBytes} bytes that its header announced`,
      );
    if (length === 0) return null;
    this.#bytesReceived += length;
    if (length < this.bodyBytes) {
      this.#pieces.push(bytes.subarray(start, end));
      this.body = this.#pieces;
      return null;
    }
    let piece: Buffer;
    if (length <= smallBytesMax) {
      piece = smallBuffers[length]!;
      for (let i = 0; i < length; i++) piece[i] = bytes[start + i]!;
    } else {
      piece = bytes.subarray(start, end);
    }
    this.#onePiece[0] = piece;
    this.body = this.#onePiece;
    return null;
  }

  /** The chunk's bytes are about to go: copies the pieces of an unfinished message out of it. */
  keep(): void {
    const held = this.heldBytes;
    if (this.#bytesReceived === held || this.#expecting !== Expecting.body) return;
    let buffer = this.#held;
    if (buffer === null || buffer.length < this.#bytesReceived) {
      const capacity = Math.max(this.#bytesReceived, 2 * held, keptBytesMin);
      const grown = Buffer.allocUnsafeSlow(Math.min(this.bodyBytes, capacity));
      if (buffer !== null) buffer.copy(grown, 0, 0, held);
      buffer = this.#held = grown;
    }
    let at = held;
    // The first piece is what is held already.
    for (let i = held > 0 ? 1 : 0; i < this.#pieces.length; i++) at += this.#pieces[i]!.copy(buffer, at);
    if (at !== this.#bytesReceived) throw new Error('the pieces of a body do not add up');
    this.heldBytes = at;
    this.#pieces = [buffer.subarray(0, at)];
    this.body = this.#pieces;
  }

  /** The message was handed on or given up. */
  reset(): void {
    this.#expecting = Expecting.method;
    this.publication = null;
    // What is a view of a chunk must not keep it in memory.
    if (this.bodyBytes > smallBytesMax) this.#onePiece[0] = noBytes;
    if (this.#pieces.length > 0) this.#pieces = [];
    this.body = noPieces;
    this.bodyBytes = 0;
    this.#bytesReceived = 0;
    if (this.#held === null) return;
    this.#held = null;
    this.heldBytes = 0;
  }
}

/** `payload`: of basic.publish, owned. */
function readPublication(payload: Buffer): Known | BrokerError {
  const reader = new ByteReader(payload, 6);
  const exchange = reader.shortString();
  const routingKey = reader.shortString();
  const bits = reader.u8();
  if (!reader.isDone) return new BrokerError('syntax-error', 'arguments of basic.publish are not well formed');
  if ((bits & 2) !== 0) return new BrokerError('not-implemented', 'immediate=true');
  const key = payload.subarray(6, payload.length - 1);
  return { payload, publication: { exchange, routingKey, key, mandatory: (bits & 1) !== 0, route: null } };
}
