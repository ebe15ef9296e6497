// What goes out: frames are encoded straight into buffers that the session writes to the socket once per turn.
//
// PURE. State: the buffers filled since the last `take`, and counts of their bytes. A buffer that is full is set aside, never copied to a larger
// one; bytes that were taken belong to the socket and are not touched again. Large pieces of stored bodies, which never change, are not copied
// but set between. Invariants: no body frame is larger
// than `frameBytesMax` (a content header cannot be split: its publisher's limit bounds it); the frames of one message follow each other without another of their channel between them.

import type { StoredMessage } from './backend.ts';
import { copyBytes, writeU32, writeU64 } from './bytes.ts';
import {
  FrameType,
  frameBytesMin,
  frameEnd,
  frameHeadBytes,
  frameOverheadBytes,
  heartbeatFrame,
  writeFrameHead,
} from './frames.ts';
import { encodeMethod, type Method, methodId } from './methods.ts';
import { contentHeaderFixedBytes } from './properties.ts';

const empty: Buffer = Buffer.alloc(0);
const bufferBytesMin = 512;
const bufferBytesMax = 64 * 1024;
/** Stored bodies in frames of this many bytes or more are sent from where they lie. */
const referencedBytesMin = 16 * 1024;
const basicClass = 60;

export class FrameWriter {
  /** The negotiated frame size, with the overhead. */
  frameBytesMax = frameBytesMin;
  /** Bytes since the last `take`, and how many of them are deliveries: what the client did not ask for one by one. */
  bytes = 0;
  deliveryBytes = 0;
  /** How many more bytes the socket takes before deliveries have to wait; set by the session. */
  room = Number.POSITIVE_INFINITY;
  readonly #onFirst: () => void;
  #full: Buffer[] = [];
  #buffer: Buffer = empty;
  /** What was written and not taken: #buffer[#start, #end). */
  #start = 0;
  #end = 0;
  #nextBufferBytes = bufferBytesMin;

  /** `onFirst` is called when something is written after a `take`. */
  constructor(onFirst: () => void) {
    this.#onFirst = onFirst;
  }

  get hasRoom(): boolean {
    return this.bytes < this.room;
  }

  /** Everything written since the last call, in order. */
  take(): Buffer[] {
    const buffers = this.#full;
    if (this.#end > this.#start) buffers.push(this.#buffer.subarray(this.#start, this.#end));
    // The next turn is assumed to be like this one: it goes on behind the bytes that were taken, if it fits there.
    this.#nextBufferBytes = Math.min(bufferBytesMax, Math.max(bufferBytesMin, nextPowerOfTwo(4 * this.bytes)));
    this.#start = this.#end;
    if (this.#buffer.length - this.#end < this.bytes) this.release();
    this.#full = [];
    this.bytes = 0;
    this.deliveryBytes = 0;
    return buffers;
  }

  /** Gives the unused rest of the buffer up, for a connection that rests. */
  release(): void {
    if (this.#end > this.#start) return;
    this.#buffer = empty;
    this.#start = this.#end = 0;
  }

  method(channel: number, method: Method): void {
    const payload = encodeMethod(method);
    let at = this.#reserve(payload.length + frameOverheadBytes);
    const buffer = this.#buffer;
    at = writeFrameHead(buffer, at, FrameType.method, channel, payload.length);
    buffer[copyBytes(buffer, at, payload, 0, payload.length)] = frameEnd;
  }

  heartbeat(): void {
    this.raw(heartbeatFrame);
  }

  /** Bytes that are whole frames already, or no frames at all. */
  raw(bytes: Buffer): void {
    const at = this.#reserve(bytes.length);
    copyBytes(this.#buffer, at, bytes, 0, bytes.length);
  }

  /** basic.ack or, with `negative`, basic.nack (requeue=false): publisher confirms. */
  confirm(channel: number, tag: number, multiple: boolean, negative: boolean): void {
    let at = this.#reserve(13 + frameOverheadBytes);
    const buffer = this.#buffer;
    at = writeFrameHead(buffer, at, FrameType.method, channel, 13);
    at = writeU32(buffer, negative ? methodId.basicNack : methodId.basicAck, at);
    at = writeU64(buffer, tag, at);
    buffer[at++] = multiple ? 1 : 0;
    buffer[at] = frameEnd;
  }

  /** basic.deliver and its content. `consumerTag`: as a short string. */
  deliver(
    channel: number,
    consumerTag: Buffer,
    deliveryTag: number,
    redelivered: boolean,
    message: StoredMessage,
    properties: Buffer | null,
  ): void {
    const before = this.bytes;
    const { payload, keyStart, propertiesStart } = message;
    const keyBytes = propertiesStart - keyStart;
    const methodBytes = 4 + consumerTag.length + 9 + keyBytes;
    let at = this.#reserve(methodBytes + frameOverheadBytes);
    const buffer = this.#buffer;
    at = writeFrameHead(buffer, at, FrameType.method, channel, methodBytes);
    at = writeU32(buffer, methodId.basicDeliver, at);
    at = copyBytes(buffer, at, consumerTag, 0, consumerTag.length);
    at = writeU64(buffer, deliveryTag, at);
    buffer[at++] = redelivered ? 1 : 0;
    at = copyBytes(buffer, at, payload, keyStart, propertiesStart);
    buffer[at] = frameEnd;
    this.#storedContent(channel, message, properties);
    this.deliveryBytes += this.bytes - before;
  }

  /** basic.get-ok and its content. */
  getOk(
    channel: number,
    deliveryTag: number,
    redelivered: boolean,
    remaining: number,
    message: StoredMessage,
    properties: Buffer | null,
  ): void {
    const { payload, keyStart, propertiesStart } = message;
    const methodBytes = 17 + propertiesStart - keyStart;
    let at = this.#reserve(methodBytes + frameOverheadBytes);
    const buffer = this.#buffer;
    at = writeFrameHead(buffer, at, FrameType.method, channel, methodBytes);
    at = writeU32(buffer, methodId.basicGetOk, at);
    at = writeU64(buffer, deliveryTag, at);
    buffer[at++] = redelivered ? 1 : 0;
    at = copyBytes(buffer, at, payload, keyStart, propertiesStart);
    buffer[writeU32(buffer, remaining, at)] = frameEnd;
    this.#storedContent(channel, message, properties);
  }

  /** basic.return (312) and its content. `key`: exchange and routing key as short strings. */
  returned(channel: number, key: Buffer, properties: Buffer, body: readonly Buffer[], bodyBytes: number): void {
    const methodBytes = 4 + 2 + noRoute.length + key.length;
    let at = this.#reserve(methodBytes + frameOverheadBytes);
    const buffer = this.#buffer;
    at = writeFrameHead(buffer, at, FrameType.method, channel, methodBytes);
    at = writeU32(buffer, methodId.basicReturn, at);
    buffer[at++] = 312 >>> 8;
    buffer[at++] = 312 & 0xff;
    at = copyBytes(buffer, at, noRoute, 0, noRoute.length);
    buffer[copyBytes(buffer, at, key, 0, key.length)] = frameEnd;
    this.#contentHeader(channel, properties, 0, properties.length, bodyBytes);
    // The pieces follow the socket's chunks; frames of the same cut are allowed, as long as none is too large.
    for (const piece of body) this.#body(channel, piece, 0, piece.length);
  }

  #storedContent(channel: number, message: StoredMessage, properties: Buffer | null): void {
    const { payload, propertiesStart, bodyStart, bodyEnd, before } = message;
    let bodyBytes = bodyEnd - bodyStart;
    for (let i = 0; i < before.length; i++) bodyBytes += before[i]!.length;
    if (properties === null) this.#contentHeader(channel, payload, propertiesStart, bodyStart, bodyBytes);
    else this.#contentHeader(channel, properties, 0, properties.length, bodyBytes);
    for (let i = 0; i < before.length; i++) this.#storedBody(channel, before[i]!, 0, before[i]!.length);
    this.#storedBody(channel, payload, bodyStart, bodyEnd);
  }

  /** Frames around pieces that stay where they are: a message of 128 MiB costs no copy of it in one turn. */
  #storedBody(channel: number, source: Buffer, start: number, end: number): void {
    if (end - start < referencedBytesMin) return this.#body(channel, source, start, end);
    const payloadBytesMax = this.frameBytesMax - frameOverheadBytes;
    for (let at = start; at < end; at += payloadBytesMax) {
      const length = Math.min(end - at, payloadBytesMax);
      // A place first: making room may begin a new buffer.
      const headAt = this.#reserve(frameHeadBytes);
      writeFrameHead(this.#buffer, headAt, FrameType.body, channel, length);
      this.#full.push(this.#buffer.subarray(this.#start, this.#end), source.subarray(at, at + length));
      this.#start = this.#end;
      this.bytes += length;
      const endAt = this.#reserve(1);
      this.#buffer[endAt] = frameEnd;
    }
  }

  #contentHeader(channel: number, source: Buffer, start: number, end: number, bodyBytes: number): void {
    const payloadBytes = contentHeaderFixedBytes + end - start;
    let at = this.#reserve(payloadBytes + frameOverheadBytes);
    const buffer = this.#buffer;
    at = writeFrameHead(buffer, at, FrameType.header, channel, payloadBytes);
    at = writeU32(buffer, basicClass << 16, at);
    at = writeU64(buffer, bodyBytes, at);
    buffer[copyBytes(buffer, at, source, start, end)] = frameEnd;
  }

  #body(channel: number, source: Buffer, start: number, end: number): void {
    const payloadBytesMax = this.frameBytesMax - frameOverheadBytes;
    while (start < end) {
      const length = Math.min(end - start, payloadBytesMax);
      let at = this.#reserve(length + frameOverheadBytes);
      const buffer = this.#buffer;
      at = writeFrameHead(buffer, at, FrameType.body, channel, length);
      buffer[copyBytes(buffer, at, source, start, start + length)] = frameEnd;
      start += length;
    }
  }

  /** Makes room for `length` bytes in one piece and counts them as written; returns their offset in `#buffer`. */
  #reserve(length: number): number {
    if (this.bytes === 0) this.#onFirst();
    this.bytes += length;
    const at = this.#end;
    if (at + length <= this.#buffer.length) {
      this.#end = at + length;
      return at;
    }
    if (at > this.#start) this.#full.push(this.#buffer.subarray(this.#start, at));
    this.#buffer = Buffer.allocUnsafeSlow(Math.max(length, this.#nextBufferBytes));
    this.#nextBufferBytes = Math.min(bufferBytesMax, 2 * this.#nextBufferBytes);
    this.#start = 0;
    this.#end = length;
    return 0;
  }
}

const noRoute = Buffer.concat([Buffer.from([8]), Buffer.from('NO_ROUTE')]);

function nextPowerOfTwo(value: number): number {
  return value <= 1 ? 1 : 2 ** (32 - Math.clz32(value - 1));
}
