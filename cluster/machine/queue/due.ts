// What becomes of queues and messages merely because time passes: the queues' times out of their arguments, when messages came, and which
// queue falls due next. State and structures; `expiry.ts` has the rules. PURE.

import type { ByteReader, ByteWriter } from './bytes.ts';
import type { Queue } from './queue.ts';

/** Milliseconds. Longer times are as good as none, and sums of them and a stamp stay exact. */
const timeMax = 2 ** 50;

/** What a queue's arguments mean here. What is of a wrong type was refused elsewhere, and is ignored. */
export interface QueueTerms {
  readonly deadLetterExchange: string | null;
  readonly deadLetterRoutingKey: string | null;
  /** Milliseconds that a message lives; -1: for ever. */
  readonly messageTtl: number;
  /** Milliseconds that the queue lives unused; -1: for ever. */
  readonly expires: number;
  /** Ready messages that it may have, and bytes of their bodies; -1: any number. Whether it refuses what is too much, or drops its first. */
  readonly lengthMax: number;
  readonly bytesMax: number;
  readonly overflow: Overflow;
}
export type Overflow = 'drop-head' | 'reject-publish' | 'reject-publish-dlx';

const noTerms: QueueTerms = {
  deadLetterExchange: null,
  deadLetterRoutingKey: null,
  messageTtl: -1,
  expires: -1,
  lengthMax: -1,
  bytesMax: -1,
  overflow: 'drop-head',
};
const understood = /"x-(dead-letter-exchange|message-ttl|expires|max-length|max-length-bytes)"/;

/** Reads the JSON of `keptArguments`. */
export function termsOf(argumentsJson: string): QueueTerms {
  if (!understood.test(argumentsJson)) return noTerms;
  const all = new Map<string, unknown>(Object.entries(JSON.parse(argumentsJson)));
  const text = (name: string) => {
    const value = all.get(name);
    return typeof value === 'string' ? value : null;
  };
  const count = (name: string, min: number, max: number) => {
    const value = all.get(name);
    return Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max ? (value as number) : -1;
  };
  const overflow = all.get('x-overflow');
  return {
    deadLetterExchange: text('x-dead-letter-exchange'),
    deadLetterRoutingKey: text('x-dead-letter-routing-key'),
    messageTtl: count('x-message-ttl', 0, timeMax),
    expires: count('x-expires', 1, timeMax),
    lengthMax: count('x-max-length', 0, Number.MAX_SAFE_INTEGER),
    bytesMax: count('x-max-length-bytes', 0, Number.MAX_SAFE_INTEGER),
    overflow: overflow === 'reject-publish' || overflow === 'reject-publish-dlx' ? overflow : 'drop-head',
  };
}

/** A queue's messages that came within this part of their time to live may expire together, with the last of them. */
const runsPerLife = 1024;

/**
 * When the messages of one queue came, by the entry that they came with: runs of entries, each with the stamp of its last one. A run may
 * cover a thousandth of the time to live, so that there are never more than some thousand; a message is never thought older than it is.
 */
export class Stamps {
  #firsts: number[] = [];
  #stamps: number[] = [];
  /** Runs before this one are forgotten. */
  #start = 0;
  /** The stamp with which the last run began. */
  #opened = 0;

  /** A message came with this entry. Entries and stamps never decrease. `ttl`: milliseconds. */
  add(index: number, stamp: number, ttl: number): void {
    const last = this.#stamps.length - 1;
    if (last >= this.#start && (stamp === this.#stamps[last] || stamp - this.#opened < ttl / runsPerLife)) {
      this.#stamps[last] = stamp;
      return;
    }
    this.#firsts.push(index);
    this.#stamps.push(stamp);
    this.#opened = stamp;
  }

  /** When a message that came with this entry expires; 0: long ago. */
  due(index: number, ttl: number): number {
    const firsts = this.#firsts;
    let low = this.#start;
    let high = firsts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (firsts[middle]! <= index) low = middle + 1;
      else high = middle;
    }
    return low === this.#start ? 0 : this.#stamps[low - 1]! + ttl;
  }

  /** Forgets the runs whose messages have all expired: whatever came with them is known to be due. */
  forget(now: number, ttl: number): void {
    const stamps = this.#stamps;
    while (this.#start < stamps.length && stamps[this.#start]! + ttl <= now) this.#start++;
    if (this.#start < 64 || this.#start * 2 < stamps.length) return;
    this.#firsts = this.#firsts.slice(this.#start);
    this.#stamps = stamps.slice(this.#start);
    this.#start = 0;
  }

  serialise(writer: ByteWriter): void {
    writer.u64(this.#opened);
    writer.u32(this.#stamps.length - this.#start);
    for (let run = this.#start; run < this.#stamps.length; run++) {
      writer.u64(this.#firsts[run]!);
      writer.u64(this.#stamps[run]!);
    }
  }

  /** Of an empty object. */
  restore(reader: ByteReader): void {
    this.#opened = reader.u64();
    for (let count = reader.u32(); count > 0; count--) {
      this.#firsts.push(reader.u64());
      this.#stamps.push(reader.u64());
    }
  }
}

/** The queues that fall due, the next one first: a binary heap by (due, uid), in which every queue knows its place. */
export class DueQueues {
  readonly #queues: Queue[] = [];

  /** The queue that falls due next, or undefined. */
  get first(): Queue | undefined {
    return this.#queues[0];
  }

  /** The queue falls due at this stamp; Infinity: it does not. */
  set(queue: Queue, due: number): void {
    if (queue.due === due) return;
    const place = queue.duePlace;
    queue.due = due;
    if (due === Number.POSITIVE_INFINITY) {
      const last = this.#queues.pop()!;
      queue.duePlace = -1;
      if (last !== queue) this.#settle(last, place);
    } else {
      if (place < 0) this.#queues.push(queue);
      this.#settle(queue, place < 0 ? this.#queues.length - 1 : place);
    }
  }

  /** Puts a queue into a hole. */
  #settle(queue: Queue, hole: number): void {
    const queues = this.#queues;
    let at = hole;
    for (let parent = (at - 1) >> 1; at > 0 && isBefore(queue, queues[parent]!); parent = (at - 1) >> 1) {
      this.#put(queues[parent]!, at);
      at = parent;
    }
    for (let child = 2 * at + 1; child < queues.length; child = 2 * at + 1) {
      if (child + 1 < queues.length && isBefore(queues[child + 1]!, queues[child]!)) child++;
      if (!isBefore(queues[child]!, queue)) break;
      this.#put(queues[child]!, at);
      at = child;
    }
    this.#put(queue, at);
  }

  #put(queue: Queue, place: number): void {
    this.#queues[place] = queue;
    queue.duePlace = place;
  }
}

const isBefore = (a: Queue, b: Queue): boolean => a.due < b.due || (a.due === b.due && a.uid < b.uid);
