// What toxics do to one direction of one connection: each is a stage between the source and the destination, which passes on what it is
// given, later, in other pieces, or never.
//
// State owned: what a stage holds back, and its timer. A stage keeps the order of bytes; except for those that drop on purpose it loses none.
// Once it was told the end, or has told it, it takes nothing more. It never speaks to sockets: it writes to `next`, and asks its host.
//
// They behave like those of Shopify's Toxiproxy 2.x, with these exceptions: reset_peer also resets connections that are older than itself,
// and a timeout that goes closes only the connections that it affected.

export const directions = ['upstream', 'downstream'] as const;
/** `upstream`: what clients send. */
export type Direction = (typeof directions)[number];

/** The attributes of each type; all are whole numbers, and 0 unless given. */
export const toxicAttributes = {
  noop: [],
  latency: ['latency', 'jitter'],
  bandwidth: ['rate'],
  slow_close: ['delay'],
  timeout: ['timeout'],
  reset_peer: ['timeout'],
  slicer: ['average_size', 'size_variation', 'delay'],
  limit_data: ['bytes'],
} as const satisfies Record<string, readonly string[]>;
export type ToxicType = keyof typeof toxicAttributes;

/** As in the API. */
export interface Toxic {
  readonly attributes: Record<string, number>;
  readonly name: string;
  readonly type: ToxicType;
  /** As it was given; its case does not matter. */
  readonly stream: string;
  /** The share of connections that it affects, from 0 to 1. */
  toxicity: number;
}

export interface Sink {
  write(chunk: Buffer): void;
  /** The source has closed, or is made to look so. Said again it is ignored. */
  end(): void;
}

export interface Stage extends Sink {
  next: Sink;
  /** The source should pause. */
  readonly isFull: boolean;
  /** Its toxic's attributes have changed. */
  refresh(): void;
  /** Its toxic is gone: passes on what it holds. */
  release(): void;
  /** The connection is gone: forgets what it holds. */
  drop(): void;
}

/** What a stage may ask of the connection that it is in. */
export interface StageHost {
  /** Ends both sides with RST. */
  reset(): void;
  /** It holds less than before. */
  eased(): void;
}

/** A stage of this toxic in front of `next`; null if it changes nothing. */
export function createStage({ type, attributes }: Toxic, next: Sink, host: StageHost): Stage | null {
  switch (type) {
    case 'noop':
      return null;
    case 'latency':
      return new TimedStage(new LatencyPace(attributes), latencyBytesMax, next, host);
    case 'bandwidth':
      return new TimedStage(new BandwidthPace(attributes), pacedBytesMax, next, host);
    case 'slicer':
      return new TimedStage(new SlicerPace(attributes), pacedBytesMax, next, host);
    case 'slow_close':
      return new SlowCloseStage(attributes, next);
    case 'timeout':
      return new TimeoutStage(attributes, next);
    case 'reset_peer':
      return new ResetStage(attributes, next, host);
    case 'limit_data':
      return new LimitStage(attributes, next);
    default:
      throw new Error(`no such toxic: ${type satisfies never}`);
  }
}

/** What waits for its time. As much as Toxiproxy keeps. */
const latencyBytesMax = 32 * 1024 * 1024;
/** What waits for those before it; enough for several milliseconds of a fast link, for that is how exact timers are. */
const pacedBytesMax = 256 * 1024;
/** The longest that a timer takes. */
const timerMillisecondsMax = 2 ** 31 - 1;
/** Bandwidth hands large chunks on in pieces of so long. */
const bandwidthPieceMilliseconds = 100;

type Attributes = Readonly<Record<string, number>>;
type Timer = ReturnType<typeof setTimeout>;

/** Attributes may be greater than a timer takes. */
function later(milliseconds: number | undefined, act: () => void): Timer {
  return setTimeout(act, Math.min(Math.ceil(milliseconds ?? 0), timerMillisecondsMax));
}

/** Says which piece of a chunk goes next, and when. */
interface Pace {
  /** What `plan` found: the bytes of the next piece, and when it is due. */
  bytes: number;
  dueAt: number;
  /** For a chunk of which so many bytes are left, that arrived at that time. */
  plan(bytesLeft: number, since: number): void;
  restart(): void;
}

class LatencyPace implements Pace {
  readonly #attributes: Attributes;
  bytes = 0;
  dueAt = 0;

  constructor(attributes: Attributes) {
    this.#attributes = attributes;
  }

  plan(bytesLeft: number, since: number): void {
    const { latency = 0, jitter = 0 } = this.#attributes;
    this.bytes = bytesLeft;
    this.dueAt = since + latency + (jitter > 0 ? Math.floor(Math.random() * jitter * 2) - jitter : 0);
  }

  restart(): void {}
}

class BandwidthPace implements Pace {
  readonly #attributes: Attributes;
  bytes = 0;
  /** When the link is free again. */
  dueAt = 0;

  constructor(attributes: Attributes) {
    this.#attributes = attributes;
  }

  plan(bytesLeft: number, since: number): void {
    const { rate = 0 } = this.#attributes;
    this.bytes = Math.min(bytesLeft, Math.max(1, rate * bandwidthPieceMilliseconds));
    // From when it could have begun, not from now: what timers are late by is made good. At a rate of 0 it is never due.
    this.dueAt = rate > 0 ? Math.max(this.dueAt, since) + this.bytes / rate : Number.POSITIVE_INFINITY;
  }

  restart(): void {
    this.dueAt = 0;
  }
}

class SlicerPace implements Pace {
  readonly #attributes: Attributes;
  bytes = 0;
  dueAt = 0;
  #freeAt = 0;

  constructor(attributes: Attributes) {
    this.#attributes = attributes;
  }

  plan(bytesLeft: number, since: number): void {
    const { average_size: size = 0, size_variation: variation = 0, delay = 0 } = this.#attributes;
    const wanted = size + (variation > 0 ? Math.floor(Math.random() * variation * 2) - variation : 0);
    this.bytes = Math.min(bytesLeft, Math.max(1, wanted));
    this.dueAt = Math.max(this.#freeAt, since);
    this.#freeAt = this.dueAt + delay / 1000;
  }

  restart(): void {
    this.#freeAt = 0;
  }
}

/** Holds chunks in their order, and passes each on when its pace says so. */
class TimedStage implements Stage {
  readonly #pace: Pace;
  readonly #bytesMax: number;
  readonly #host: StageHost;
  next: Sink;
  #queue: { chunk: Buffer; at: number }[] = [];
  /** The place of the first chunk in it; those before it have gone. */
  #first = 0;
  #bytes = 0;
  /** From the bound on, until half of it is left: a source is not stopped and started for every chunk. */
  isFull = false;
  /** The pace has been asked about the first chunk. */
  #isPlanned = false;
  #timer: Timer | null = null;
  #isEnded = false;

  constructor(pace: Pace, bytesMax: number, next: Sink, host: StageHost) {
    this.#pace = pace;
    this.#bytesMax = bytesMax;
    this.next = next;
    this.#host = host;
  }

  write(chunk: Buffer): void {
    if (this.#isEnded) return;
    this.#queue.push({ chunk, at: performance.now() });
    this.#bytes += chunk.length;
    if (this.#bytes >= this.#bytesMax) this.isFull = true;
    if (this.#queue.length === this.#first + 1) this.#pump();
  }

  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    if (this.#first === this.#queue.length) this.next.end();
  }

  refresh(): void {
    this.#stopTimer();
    const head = this.#queue[this.#first];
    if (!head) return;
    this.#pace.restart();
    // The chunk that waits was promised under the old attributes; it goes at once.
    this.#pass(head, head.chunk.length);
    this.#pump();
  }

  release(): void {
    this.#stopTimer();
    const queue = this.#queue.slice(this.#first);
    this.#empty();
    for (const { chunk } of queue) this.next.write(chunk);
    if (this.#isEnded) this.next.end();
  }

  drop(): void {
    this.#stopTimer();
    this.#empty();
    this.#isEnded = true;
  }

  /** Passes on what is due, and sets the timer for what is next. */
  #pump(): void {
    for (let head = this.#queue[this.#first]; head !== undefined; head = this.#queue[this.#first]) {
      if (!this.#isPlanned) this.#pace.plan(head.chunk.length, head.at);
      this.#isPlanned = true;
      const { bytes, dueAt } = this.#pace;
      const wait = dueAt - performance.now();
      if (wait > 0) {
        if (wait !== Number.POSITIVE_INFINITY) this.#setTimer(wait);
        break;
      }
      this.#pass(head, bytes);
    }
    if (this.#isEnded && this.#first === this.#queue.length) this.next.end();
    if (!this.isFull || this.#bytes > this.#bytesMax / 2) return;
    this.isFull = false;
    this.#host.eased();
  }

  /** The first so many bytes of the first chunk. */
  #pass(head: { chunk: Buffer }, bytes: number): void {
    const { chunk } = head;
    this.#isPlanned = false;
    this.#bytes -= bytes;
    if (bytes < chunk.length) head.chunk = chunk.subarray(bytes);
    else if (++this.#first * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#first);
      this.#first = 0;
    }
    this.next.write(bytes < chunk.length ? chunk.subarray(0, bytes) : chunk);
  }

  #empty(): void {
    this.#queue = [];
    this.#first = 0;
    this.#bytes = 0;
    this.isFull = false;
  }

  #setTimer(milliseconds: number): void {
    this.#timer = later(milliseconds, () => {
      this.#timer = null;
      this.#pump();
    });
  }

  #stopTimer(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
  }
}

/** Passes bytes on at once, and the end after a delay. */
class SlowCloseStage implements Stage {
  readonly #attributes: Attributes;
  readonly isFull = false;
  next: Sink;
  #timer: Timer | null = null;

  constructor(attributes: Attributes, next: Sink) {
    this.#attributes = attributes;
    this.next = next;
  }

  write(chunk: Buffer): void {
    if (!this.#timer) this.next.write(chunk);
  }

  end(): void {
    this.#timer ??= later(this.#attributes.delay, () => this.next.end());
  }

  refresh(): void {
    if (!this.#timer) return;
    this.drop();
    this.end();
  }

  release(): void {
    if (!this.#timer) return;
    this.drop();
    this.next.end();
  }

  drop(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
  }
}

/** Swallows every byte. Ends once nothing came for as long as its timeout, if that is not 0; and when its toxic goes. */
class TimeoutStage implements Stage {
  readonly #attributes: Attributes;
  readonly isFull = false;
  next: Sink;
  #timer: Timer | null = null;

  constructor(attributes: Attributes, next: Sink) {
    this.#attributes = attributes;
    this.next = next;
    this.refresh();
  }

  write(): void {
    this.#timer?.refresh();
  }

  end(): void {
    this.drop();
    this.next.end();
  }

  refresh(): void {
    this.drop();
    const { timeout = 0 } = this.#attributes;
    if (timeout > 0) this.#timer = later(timeout, () => this.next.end());
  }

  release(): void {
    this.end();
  }

  drop(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
  }
}

/** Swallows every byte, and resets the connection so long after the first. */
class ResetStage implements Stage {
  readonly #attributes: Attributes;
  readonly #host: StageHost;
  readonly isFull = false;
  next: Sink;
  #timer: Timer | null = null;

  constructor(attributes: Attributes, next: Sink, host: StageHost) {
    this.#attributes = attributes;
    this.next = next;
    this.#host = host;
  }

  write(): void {
    this.#timer ??= later(this.#attributes.timeout, () => this.#host.reset());
  }

  end(): void {
    this.write();
  }

  refresh(): void {}

  release(): void {
    // Bytes are missing already: nothing may follow them.
    if (this.#timer) this.#host.reset();
  }

  drop(): void {
    if (this.#timer) clearTimeout(this.#timer);
  }
}

/** Ends after so many bytes. */
class LimitStage implements Stage {
  readonly #attributes: Attributes;
  readonly isFull = false;
  next: Sink;
  #bytesPassed = 0;
  #isEnded = false;

  constructor(attributes: Attributes, next: Sink) {
    this.#attributes = attributes;
    this.next = next;
  }

  write(chunk: Buffer): void {
    if (this.#isEnded) return;
    const { bytes = 0 } = this.#attributes;
    const passed = chunk.subarray(0, Math.max(0, bytes - this.#bytesPassed));
    this.#bytesPassed += passed.length;
    if (passed.length > 0) this.next.write(passed);
    if (this.#bytesPassed >= bytes) this.end();
  }

  end(): void {
    this.#isEnded = true;
    this.next.end();
  }

  refresh(): void {}

  release(): void {}

  drop(): void {
    this.#isEnded = true;
  }
}
