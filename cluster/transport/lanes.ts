// Lanes: one authenticated connection each, from the node that dialled it. Frames travel one way only; against them come single zero
// bytes, which say no more than "something arrived lately". So each end hears from the other as long as the path works both ways.
//
// State owned: the connection, what is queued for it or half read from it, and how long it has been silent.
// Invariants: `broke` is called at most once, and never after `close`; no frame is handed on after `close`.

import type { Connection } from '../ports.ts';
import type { Lane } from '../transport-types.ts';
import { FrameReader, FrameWriter, frameHeaderBytes } from './frames.ts';

/** A lane that heard nothing for more than this many ticks is broken. */
export const silentTicksMax = 5;
/** A frame of this kind has no body and only keeps the lane from being silent. */
const pingKind = 0;
const aliveByte = 0;
/** Well above the high-water mark of a connection, so that a full lane always gets its `onDrain`. */
const laneBytesMin = 1024 * 1024;

export interface OutgoingLaneEvents {
  broke(reason: string | null): void;
  drained(): void;
  /** Frames were queued: call `flush` at the end of this turn. */
  flushSoon(lane: OutgoingLane): void;
}

/** A lane that we dialled: frames leave on it. */
export class OutgoingLane {
  readonly #connection: Connection;
  readonly #events: OutgoingLaneEvents;
  readonly #frameBytesMax: number;
  readonly #bytesMax: number;
  readonly #writer = new FrameWriter();
  #flushPlanned = false;
  /** `send` answered false, and `drained` is owed. */
  #full = false;
  #silentTicks = 0;
  #sentSinceTick = false;
  #closed = false;

  constructor(connection: Connection, frameBytesMax: number, events: OutgoingLaneEvents) {
    this.#connection = connection;
    this.#events = events;
    this.#frameBytesMax = frameBytesMax;
    this.#bytesMax = Math.max(2 * frameBytesMax, laneBytesMin);
    connection.onData = (chunk) => {
      this.#silentTicks = 0;
      if (chunk.some((byte) => byte !== aliveByte)) this.#break('sent frames on a lane that it did not dial');
    };
    connection.onDrain = () => this.#tellDrained();
    connection.onClose = () => this.#break(null);
  }

  get bufferedBytes(): number {
    return this.#writer.bytes + this.#connection.bufferedBytes;
  }

  send(kind: number, pieces: readonly Uint8Array[]): boolean {
    let bytes = 0;
    for (let i = 0; i < pieces.length; i++) bytes += pieces[i]!.length;
    if (bytes > this.#frameBytesMax) throw new Error(`frame of ${bytes} bytes, ${this.#frameBytesMax} allowed`);
    if (kind < 1 || kind > 255) throw new Error(`frame kind ${kind}`);
    if (this.bufferedBytes + bytes + frameHeaderBytes > this.#bytesMax) {
      this.#full = true;
      return false;
    }
    this.#writer.add(kind, pieces, bytes);
    this.#planFlush();
    return true;
  }

  flush(): void {
    this.#flushPlanned = false;
    if (this.#closed || this.#writer.bytes === 0) return;
    const below = this.#connection.write(this.#writer.take());
    this.#sentSinceTick = true;
    // Mostly the kernel takes all at once, and nothing refers to the writer's memory any more.
    if (this.#connection.bufferedBytes === 0) this.#writer.recycle();
    if (below) this.#tellDrained();
  }

  tick(): void {
    if (++this.#silentTicks > silentTicksMax) return this.#break('nothing was heard for too long');
    if (this.#full && 2 * this.bufferedBytes <= this.#bytesMax) this.#tellDrained();
    if (!this.#sentSinceTick && this.bufferedBytes === 0) {
      this.#writer.add(pingKind, [], 0);
      this.#planFlush();
    }
    this.#sentSinceTick = false;
  }

  close(): void {
    this.#closed = true;
    this.#connection.close();
  }

  #planFlush(): void {
    if (this.#flushPlanned) return;
    this.#flushPlanned = true;
    this.#events.flushSoon(this);
  }

  #tellDrained(): void {
    if (!this.#full || this.#closed) return;
    this.#full = false;
    this.#events.drained();
  }

  #break(reason: string | null): void {
    if (this.#closed) return;
    this.close();
    this.#events.broke(reason);
  }
}

export interface IncomingLaneEvents {
  broke(reason: string | null): void;
  frame(kind: number, body: Buffer): void;
}

/** A lane that the peer dialled: its frames arrive here. */
export class IncomingLane {
  readonly lane: Lane;
  readonly address: string;
  /** Our lanes to this peer broke after it was opened: the peer will open a new one, and this one's end says nothing new. */
  isStale = false;
  readonly #connection: Connection;
  readonly #events: IncomingLaneEvents;
  readonly #reader: FrameReader;
  #silentTicks = 0;
  #heardSinceTick = false;
  #closed = false;

  constructor(connection: Connection, lane: Lane, frameBytesMax: number, events: IncomingLaneEvents) {
    this.lane = lane;
    this.address = connection.remoteAddress;
    this.#connection = connection;
    this.#events = events;
    this.#reader = new FrameReader(frameBytesMax, (kind, body) => {
      if (kind !== pingKind) events.frame(kind, body);
    });
    connection.onData = (chunk) => {
      this.#heardSinceTick = true;
      if (!this.#reader.read(chunk)) this.#break('sent a frame over the limit');
    };
    connection.onClose = () => this.#break(null);
  }

  tick(): void {
    if (this.#heardSinceTick) {
      this.#silentTicks = 0;
      this.#heardSinceTick = false;
      this.#connection.write([Buffer.from([aliveByte])]);
    } else if (++this.#silentTicks > silentTicksMax) this.#break('nothing was heard for too long');
  }

  close(): void {
    this.#closed = true;
    this.#reader.stop();
    this.#connection.close();
  }

  #break(reason: string | null): void {
    if (this.#closed) return;
    this.close();
    this.#events.broke(reason);
  }
}
