// Frames: how everything on a connection is cut.
//
//   protocol header = "AMQP" 0 0 9 1, once, from the client
//   frame = u8 type, u16 channel, u32 payload bytes, payload, 0xCE
//   type 1: method   2: content header   3: content body   8: heartbeat
//
// PURE. `FrameReader` owns at most one unfinished frame, in a buffer that grows with the bytes that really came. Whole frames are passed on as
// ranges of the chunk they came in; `chunkDone` says that these bytes are about to be reused or given up. Invariants: every byte is looked at
// once and held at most once (so 1-byte chunks cost linear time); the same bytes in any chunking give the same calls of `frame` and `broken`;
// nothing is passed on after `stop` or `broken`.

import { BrokerError } from '../errors.ts';
import { readU32, writeU32 } from './bytes.ts';

export const FrameType = { method: 1, header: 2, body: 3, heartbeat: 8 } as const;

export const frameEnd = 0xce;
export const frameHeadBytes = 7;
/** Bytes of a frame around its payload. */
export const frameOverheadBytes = 8;
/** What every peer has to accept. */
export const frameBytesMin = 4096;

export const protocolHeader: Buffer = Buffer.from([0x41, 0x4d, 0x51, 0x50, 0, 0, 9, 1]);
export const heartbeatFrame: Buffer = Buffer.from([FrameType.heartbeat, 0, 0, 0, 0, 0, 0, frameEnd]);

export interface FrameSink {
  /** False: the first eight bytes were no header of ours; nothing more is read. */
  protocolHeader(matches: boolean): void;
  /** A whole frame; its payload is bytes[start, end) until the next `chunkDone`. */
  frame(type: number, channel: number, bytes: Buffer, start: number, end: number): void;
  chunkDone(): void;
  /** The bytes are no frames; nothing after them can be understood. */
  broken(error: BrokerError): void;
}

/** Writes the head of a frame; returns the offset of its payload. */
export function writeFrameHead(
  target: Buffer,
  at: number,
  type: number,
  channel: number,
  payloadBytes: number,
): number {
  target[at] = type;
  target[at + 1] = channel >>> 8;
  target[at + 2] = channel;
  return writeU32(target, payloadBytes, at + 3);
}

/** A buffer for unfinished frames that is larger than this is given back once it is empty. */
const heldBytesKept = 4096;

/** A whole frame. For what is rare. */
export function encodeFrame(type: number, channel: number, payload: Buffer): Buffer {
  const frame = Buffer.allocUnsafe(payload.length + frameOverheadBytes);
  payload.copy(frame, writeFrameHead(frame, 0, type, channel, payload.length));
  frame[frame.length - 1] = frameEnd;
  return frame;
}

export class FrameReader {
  /** The largest payload that is accepted. */
  payloadBytesMax: number;
  readonly #sink: FrameSink;
  #held: Buffer = Buffer.alloc(0);
  #heldBytes = 0;
  #headerPending = true;
  #stopped = false;

  constructor(payloadBytesMax: number, sink: FrameSink) {
    this.payloadBytesMax = payloadBytesMax;
    this.#sink = sink;
  }

  get isStopped(): boolean {
    return this.#stopped;
  }

  stop(): void {
    this.#stopped = true;
    this.#held = Buffer.alloc(0);
    this.#heldBytes = 0;
  }

  push(chunk: Buffer): void {
    if (this.#stopped) return;
    let at = this.#finishHeld(chunk);
    if (at < chunk.length && !this.#stopped) at = this.#whole(chunk, at);
    // What was passed on may lie in the held frame's buffer, so this comes before the rest of the chunk is held there.
    this.#sink.chunkDone();
    if (at < chunk.length && !this.#stopped) this.#hold(chunk, at, chunk.length);
    else if (this.#heldBytes === 0 && this.#held.length > heldBytesKept) this.#held = Buffer.alloc(0);
  }

  /** Completes the held frame, or the protocol header, from the chunk. Returns the offset of what is not used yet. */
  #finishHeld(chunk: Buffer): number {
    let at = 0;
    if (this.#headerPending) {
      at = this.#hold(chunk, 0, Math.min(chunk.length, protocolHeader.length - this.#heldBytes));
      if (this.#heldBytes < protocolHeader.length) return at;
      const matches = this.#held.compare(protocolHeader, 0, protocolHeader.length, 0, protocolHeader.length) === 0;
      this.#heldBytes = 0;
      this.#headerPending = false;
      if (!matches) this.stop();
      this.#sink.protocolHeader(matches);
      return at;
    }
    if (this.#heldBytes === 0) return 0;
    if (this.#heldBytes < frameHeadBytes) {
      at = this.#hold(chunk, 0, Math.min(chunk.length, frameHeadBytes - this.#heldBytes));
      if (this.#heldBytes < frameHeadBytes) return at;
      if (!this.#checkHead(this.#held, 0)) return at;
    }
    const total = readU32(this.#held, 3) + frameOverheadBytes;
    at = this.#hold(chunk, at, Math.min(chunk.length, at + total - this.#heldBytes));
    if (this.#heldBytes < total) return at;
    this.#heldBytes = 0;
    this.#deliver(this.#held, 0, total);
    return at;
  }

  /** Passes on all whole frames of chunk[at, …); returns the offset of the unfinished rest, whose head has been checked if it is there. */
  #whole(chunk: Buffer, at: number): number {
    const length = chunk.length;
    while (at + frameHeadBytes <= length) {
      if (!this.#checkHead(chunk, at)) return length;
      const total = readU32(chunk, at + 3) + frameOverheadBytes;
      if (total > length - at) return at;
      this.#deliver(chunk, at, total);
      if (this.#stopped) return length;
      at += total;
    }
    return at;
  }

  #deliver(bytes: Buffer, at: number, total: number): void {
    const end = at + total - 1;
    if (bytes[end] !== frameEnd) {
      this.#break(bytes, at, end, `{invalid_frame_end_marker,${bytes[end]}}`);
      return;
    }
    this.#sink.frame(bytes[at]!, (bytes[at + 1]! << 8) | bytes[at + 2]!, bytes, at + frameHeadBytes, end);
  }

  #checkHead(bytes: Buffer, at: number): boolean {
    const type = bytes[at]!;
    if (type > FrameType.body && type !== FrameType.heartbeat) this.#break(bytes, at, at, 'unknown frame type');
    else if (type === 0) this.#break(bytes, at, at, 'unknown frame type');
    else {
      const size = readU32(bytes, at + 3);
      if (size <= this.payloadBytesMax) return true;
      this.#break(bytes, at, at, `frame too large, ${size} bytes of payload, at most ${this.payloadBytesMax}`);
    }
    return false;
  }

  #break(bytes: Buffer, at: number, end: number, reason: string): void {
    const type = bytes[at]!;
    const payload = end > at ? `, ${describePayload(bytes, at + frameHeadBytes, end)}` : '';
    this.stop();
    this.#sink.broken(new BrokerError('frame-error', `type ${type}${payload}: ${reason}`));
  }

  /** Adds chunk[start, end) to the held bytes; returns `end`. */
  #hold(chunk: Buffer, start: number, end: number): number {
    const needed = this.#heldBytes + end - start;
    if (needed > this.#held.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(needed, 2 * this.#held.length, 64));
      this.#held.copy(grown, 0, 0, this.#heldBytes);
      this.#held = grown;
    }
    chunk.copy(this.#held, this.#heldBytes, start, end);
    this.#heldBytes = needed;
    return end;
  }
}

/** A method whose arguments, in bytes[start, end), make no sense. */
export function undecodable(bytes: Buffer, start: number, end: number): BrokerError {
  const shown = [...bytes.subarray(start, Math.min(end, start + 16))].join(',');
  return new BrokerError('frame-error', `cannot decode <<${shown}${end - start > 16 ? ',...' : ''}>>`);
}

/** The beginning of a payload for an error text. */
export function describePayload(bytes: Buffer, start: number, end: number): string {
  const shown = [...bytes.subarray(start, Math.min(end, start + 16))].join(',');
  return `${end - start <= 16 ? 'all' : 'first 16'} octets = <<${shown}>>`;
}
