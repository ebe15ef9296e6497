// One queue and its consumers: what waits, what is leased to whom, who is next. State only; `store.ts` has the rules. PURE.
//
// Invariants:
// - A consumer is in its queue's waiting list exactly while it is active and has credit.
// - Between two commands no queue has both a ready message and a waiting consumer.
// - `unsettled` is the sum of its consumers' unsettled leases; `bytes` covers ready and unsettled messages.
// - A sealed queue is empty and has no consumers; it waits for its deletion from the metadata.

import type { PipeSink } from '../machine.ts';
import { type ChunkPool, Fifo } from './fifo.ts';
import { Leases } from './leases.ts';
import { Returned } from './returned.ts';

export const ConsumerMode = {
  /** Gets messages while it has credit. */
  active: 0,
  /** Cancelled: gets nothing more, but what it holds may still be settled. Goes with its last lease. */
  draining: 1,
  /** Stands for the `get` commands of one channel and queue: gets only what it asks for. */
  polled: 2,
} as const;
export type ConsumerMode = (typeof ConsumerMode)[keyof typeof ConsumerMode];

/** The consumers of one pipe, an open incarnation of a node. `sink` is this node's own, for the pipe that it watches. */
export interface Owner {
  readonly node: number;
  readonly incarnation: number;
  readonly consumers: Map<number, Consumer>;
  sink: PipeSink | null;
}

export interface ConsumerOptions {
  readonly number: number;
  readonly mode: ConsumerMode;
  readonly priority: number;
  readonly flags: number;
  readonly tag: string;
  readonly unsettledMax: number;
  readonly grantedTo: number;
}

export class Consumer {
  readonly owner: Owner;
  readonly queue: Queue;
  readonly number: number;
  readonly priority: number;
  readonly flags: number;
  readonly tag: string;
  mode: ConsumerMode;
  unsettledMax: number;
  grantedTo: number;
  readonly leases = new Leases();
  /** Its place in `queue.attached`; -1 when it is no longer known to its owner and queue. */
  place = -1;
  /** Its place in the waiting list. */
  waiting = false;
  previous: Consumer | null = null;
  next: Consumer | null = null;

  constructor(owner: Owner, queue: Queue, options: ConsumerOptions) {
    this.owner = owner;
    this.queue = queue;
    this.number = options.number;
    this.mode = options.mode;
    this.priority = options.priority;
    this.flags = options.flags;
    this.tag = options.tag;
    this.unsettledMax = options.unsettledMax;
    this.grantedTo = options.grantedTo;
  }

  get gone(): boolean {
    return this.place < 0;
  }

  get hasCredit(): boolean {
    const { leases, unsettledMax } = this;
    return leases.next <= this.grantedTo && (unsettledMax === 0 || leases.unsettled < unsettledMax);
  }
}

/** Waiting consumers of one priority, first to be served at the head. */
interface Level {
  readonly priority: number;
  head: Consumer | null;
  tail: Consumer | null;
}

export class Queue {
  readonly uid: number;
  readonly autoDelete: boolean;
  /** Its resolved arguments as JSON, for later machine versions. */
  readonly arguments: string;
  readonly fifo: Fifo;
  /** Made when something first comes back. */
  returned: Returned | null = null;
  /** Every consumer whose leases or place belong to this queue. */
  readonly attached: Consumer[] = [];
  /** Active consumers. */
  consumers = 0;
  exclusive: Consumer | null = null;
  unsettled = 0;
  bytes = 0;
  sealed = false;
  /** In the list of queues to be looked at after this command. */
  dirty = false;
  /** The message enqueued last, so that one that names the queue twice goes in once. */
  lastIndex = 0;
  lastOrdinal = 0;
  /** By priority, highest first. Only levels with somebody in them. */
  readonly #levels: Level[] = [];

  constructor(uid: number, autoDelete: boolean, argumentsJson: string, pool: ChunkPool) {
    this.uid = uid;
    this.autoDelete = autoDelete;
    this.arguments = argumentsJson;
    this.fifo = new Fifo(pool);
  }

  get ready(): number {
    return this.fifo.length + (this.returned === null ? 0 : this.returned.length);
  }

  giveBack(index: number, ordinal: number, bytes: number, history: number): void {
    this.returned ??= new Returned();
    this.returned.push(index, ordinal, bytes, history);
  }

  attach(consumer: Consumer): void {
    consumer.place = this.attached.length;
    this.attached.push(consumer);
  }

  detach(consumer: Consumer): void {
    const last = this.attached.pop()!;
    if (last !== consumer) {
      this.attached[consumer.place] = last;
      last.place = consumer.place;
    }
    consumer.place = -1;
  }

  /** The consumer to be served next, or null. */
  nextWaiting(): Consumer | null {
    return this.#levels.length === 0 ? null : this.#levels[0]!.head;
  }

  /** Puts an active consumer with credit behind all others of its priority. */
  wait(consumer: Consumer): void {
    let at = 0;
    while (at < this.#levels.length && this.#levels[at]!.priority > consumer.priority) at++;
    let level = this.#levels[at];
    if (level === undefined || level.priority !== consumer.priority) {
      level = { priority: consumer.priority, head: null, tail: null };
      this.#levels.splice(at, 0, level);
    }
    consumer.waiting = true;
    consumer.previous = level.tail;
    consumer.next = null;
    if (level.tail === null) level.head = consumer;
    else level.tail.next = consumer;
    level.tail = consumer;
  }

  /** Takes a consumer out of the waiting list. */
  park(consumer: Consumer): void {
    const at = this.#levels.findIndex((level) => level.priority === consumer.priority);
    const level = this.#levels[at]!;
    if (consumer.previous === null) level.head = consumer.next;
    else consumer.previous.next = consumer.next;
    if (consumer.next === null) level.tail = consumer.previous;
    else consumer.next.previous = consumer.previous;
    consumer.waiting = false;
    consumer.previous = null;
    consumer.next = null;
    if (level.head === null) this.#levels.splice(at, 1);
  }

  /** The consumer at the head of the first level was served and still has credit. */
  rotate(): void {
    const level = this.#levels[0]!;
    const consumer = level.head!;
    const tail = level.tail!;
    if (consumer === tail) return;
    level.head = consumer.next;
    consumer.next!.previous = null;
    consumer.previous = tail;
    consumer.next = null;
    tail.next = consumer;
    level.tail = consumer;
  }

  /** Waiting consumers in the order in which they would be served if nobody were served twice. */
  *waitingOrder(): Generator<Consumer> {
    for (const level of this.#levels)
      for (let consumer = level.head; consumer !== null; consumer = consumer.next) yield consumer;
  }

  /** Attached consumers by (node, number): an order that does not depend on history. */
  attachedSorted(): Consumer[] {
    return [...this.attached].sort((a, b) => a.owner.node - b.owner.node || a.number - b.number);
  }
}
