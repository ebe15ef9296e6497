// One channel's publish on its way in: basic.publish, content header, bodies.
//
// PURE. State: the message that is being received, and what repeats from publish to publish (publications, properties). Invariants: the pieces of
// the body add up to `bytesReceived`; pieces within a chunk are slices of it only until `keep` copies them, so that a message that is complete
// within its chunk is never copied here; kept bytes lie in buffers that are made as bytes really come, never for what was announced, and never change; a
// large body is handed over in such buffers alone.

import { BrokerError } from '../errors.ts';
import type { ArgumentValue, Publication, Traits } from './backend.ts';
import { ByteReader, copyBytes, readU16, readU64, sameBytes } from './bytes.ts';
import { undecodable } from './frames.ts';
import {
  contentHeaderFixedBytes,
  directReplyTo,
  PropertyScan,
  parseExpiration,
  readHeaders,
  withHeaders,
  withReplyTo,
} from './properties.ts';

const basicClass = 60;
/** Publications remembered per channel; a power of two. */
const publicationsMax = 64;
/** Bodies up to here are handed over in a buffer that is used again, which is cheaper than a view of the chunk (measured). */
const smallBytesMax = 48;
/** Sizes of the buffers for kept bytes: what is to be kept, or as much as is held already, within these bounds and what the message still lacks. */
const keptBytesMin = 4 * 1024;
const keptBytesMax = 1024 * 1024;
/** Larger bodies are handed over in buffers of their own. */
const ownedBytesMin = 64 * 1024;
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

const noKeys: readonly string[] = [];
/** The name of the header CC; that of BCC holds it. */
const ccText = Buffer.from('CC');

const scan = new PropertyScan();

/** Is the reply-to of the scanned properties the name that stands for the channel's own? */
const isDirectReply = (bytes: Buffer): boolean =>
  scan.replyToEnd - scan.replyToStart === directReplyTo.length &&
  scan.replyToStart >= 0 &&
  bytes.toString('latin1', scan.replyToStart, scan.replyToEnd) === directReplyTo;

const isList = (value: ArgumentValue): value is readonly ArgumentValue[] => Array.isArray(value);

/** RabbitMQ's word for the type of a table's value. */
function typeName(value: ArgumentValue): string {
  if (value === null) return 'void';
  if (typeof value === 'boolean') return 'bool';
  if (typeof value === 'number') return Number.isInteger(value) ? 'signedint' : 'double';
  if (typeof value === 'string') return 'longstr';
  if ('double' in value) return 'double';
  return 'table' in value ? 'table' : 'binary';
}

export class Content {
  publication: Publication | null = null;
  /** As they are to be handed on: mostly as they came. */
  properties: Buffer = noBytes;
  traits: Traits | null = null;
  /** The pieces of the body. The arrays serve for every message. */
  body: readonly Buffer[] = noPieces;
  bodyBytes = 0;
  /** Bytes of the unfinished message that are held beyond their chunk. */
  heldBytes = 0;
  /** Of the buffers that those lie in: twice as many at most, but for the first few. */
  reservedBytes = 0;
  #expecting: Expecting = Expecting.method;
  #bytesReceived = 0;
  /** Nearly every body comes in one piece. Setting an array's length to 0 would give its memory back, which costs more than all else here. */
  readonly #onePiece: Buffer[] = [noBytes];
  /** Kept ones, then views of the chunk. */
  #pieces: Buffer[] = [];
  #keptPieces = 0;
  /** The last buffer of kept bytes, and how many of its bytes are used. */
  #room: Buffer = noBytes;
  #roomUsed = 0;
  #last: Known | null = null;
  #known: (Known | undefined)[] | null = null;
  /** The properties that came last. */
  #received: Buffer = noBytes;
  /** What the reply-to `directReplyTo` stands for; null: there is no consumer for replies. */
  #replyTo: string | null = null;
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

  /** From now on replies to messages that ask for them come to this name; null: they are refused. */
  set replyTo(name: string | null) {
    this.#replyTo = name;
    // What was found out of the last ones may not hold any more.
    this.#received = noBytes;
  }

  /** Properties are nearly always those of the last publish, or as long: they are judged once and kept in a buffer of their own. */
  #takeProperties(bytes: Buffer, start: number, end: number): BrokerError | null {
    if (sameBytes(bytes, start, end, this.#received)) return null;
    const length = end - start;
    const isReused = length === this.#received.length && length <= repeatedPropertiesBytesMax;
    const received = isReused ? this.#received : Buffer.allocUnsafe(length);
    this.#received = noBytes;
    copyBytes(received, 0, bytes, start, end);
    const error = this.#judgeProperties(received);
    if (error === null) this.#received = received;
    return error;
  }

  /** Sets `properties` and `traits`. */
  #judgeProperties(received: Buffer): BrokerError | null {
    if (!scan.scan(received, 0, received.length))
      return new BrokerError('syntax-error', 'content properties are not well formed');
    this.properties = received;
    this.traits = null;
    const { priority, headersStart } = scan;
    let expiration = -1;
    if (scan.userIdStart >= 0) {
      const user = received.toString('utf8', scan.userIdStart, scan.userIdEnd);
      if (user !== this.#user)
        return new BrokerError(
          'precondition-failed',
          `user_id property set to '${user}' but authenticated user was '${this.#user}'`,
        );
    }
    if (scan.expirationStart >= 0) {
      expiration = parseExpiration(received, scan.expirationStart, scan.expirationEnd);
      const text = received.toString('utf8', scan.expirationStart, scan.expirationEnd);
      if (expiration < 0) {
        const problem = /^-\d+$/.test(text)
          ? `{value_negative,${text}}`
          : /^\d+$/.test(text)
            ? `{value_too_big,${text}}`
            : 'no_integer';
        return new BrokerError('precondition-failed', `invalid expiration '${text}': ${problem}`);
      }
    }
    if (isDirectReply(received)) {
      if (this.#replyTo === null) return new BrokerError('precondition-failed', 'fast reply consumer does not exist');
      this.properties = withReplyTo(received, scan, this.#replyTo);
    }
    const moreKeys = headersStart < 0 ? noKeys : this.#moreKeys(received);
    if (moreKeys instanceof BrokerError) return moreKeys;
    if (expiration >= 0 || priority > 0 || moreKeys.length > 0)
      this.traits = { moreKeys, priority: Math.max(0, priority), expiration };
    return null;
  }

  /** The routing keys in the headers CC and BCC. Nobody is shown the latter. */
  #moreKeys(received: Buffer): readonly string[] | BrokerError {
    if (!received.includes(ccText)) return noKeys;
    const headers = readHeaders(received);
    const keys: string[] = [];
    for (const name of ['CC', 'BCC']) {
      const value = headers[name];
      if (value === undefined) continue;
      if (!isList(value))
        return new BrokerError(
          'precondition-failed',
          `invalid message: {unacceptable_type_in_header,"${name}",${typeName(value)}}`,
        );
      for (const key of value) if (typeof key === 'string') keys.push(key);
    }
    if (headers.BCC !== undefined) this.properties = withHeaders(this.properties, ['BCC'], []);
    return keys;
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
      if (this.bodyBytes > ownedBytesMin && this.#bytesReceived === this.bodyBytes) this.keep();
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
    if (this.#bytesReceived === this.heldBytes || this.#expecting !== Expecting.body) return;
    const kept = this.#pieces.slice(0, this.#keptPieces);
    for (let i = this.#keptPieces; i < this.#pieces.length; i++) this.#copy(this.#pieces[i]!, kept);
    if (this.heldBytes !== this.#bytesReceived) throw new Error('the pieces of a body do not add up');
    this.#pieces = kept;
    this.#keptPieces = kept.length;
    this.body = kept;
  }

  /** Behind what is kept; nothing that is kept moves. */
  #copy(piece: Buffer, kept: Buffer[]): void {
    for (let at = 0; at < piece.length; ) {
      if (this.#roomUsed === this.#room.length) {
        const wanted = Math.max(keptBytesMin, piece.length - at, this.heldBytes);
        this.#room = Buffer.allocUnsafeSlow(Math.min(this.bodyBytes - this.heldBytes, wanted, keptBytesMax));
        this.reservedBytes += this.#room.length;
        this.#roomUsed = 0;
        kept.push(noBytes);
      }
      const copied = piece.copy(this.#room, this.#roomUsed, at);
      at += copied;
      this.#roomUsed += copied;
      this.heldBytes += copied;
      kept[kept.length - 1] = this.#room.subarray(0, this.#roomUsed);
    }
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
    if (this.heldBytes === 0) return;
    this.#keptPieces = 0;
    this.#room = noBytes;
    this.#roomUsed = 0;
    this.heldBytes = this.reservedBytes = 0;
  }
}

/** `payload`: of basic.publish, owned. */
function readPublication(payload: Buffer): Known | BrokerError {
  const reader = new ByteReader(payload, 6);
  const exchange = reader.shortString();
  const routingKey = reader.shortString();
  const bits = reader.u8();
  if (!reader.isDone) return undecodable(payload, 4, payload.length);
  if ((bits & 2) !== 0) return new BrokerError('not-implemented', 'immediate=true');
  const key = payload.subarray(6, payload.length - 1);
  return { payload, publication: { exchange, routingKey, key, mandatory: (bits & 1) !== 0, route: null } };
}
