// One queue and its consumers: what waits, what is leased to whom, who is next. State only; `store.ts` has the rules. PURE.
//
// Invariants:
// - A consumer is in its queue's waiting list exactly while it is active, has credit and is not suspended.
// - Between two commands no queue has both a ready message and a waiting consumer, unless it is held back: see `leaving`, and the work that
//   `store.ts` leaves for later.
// - `unsettled` is the sum of its consumers' unsettled leases and of those in `leaving`; `bytes` covers ready and unsettled messages.
// - A sealed queue is empty and has no consumers; it waits for its deletion from the metadata.

import type { PipeSink } from '../machine.ts';
import { type QueueTerms, type Stamps, termsOf } from './due.ts';
import type { Expirations } from './expirations.ts';
import { type ChunkPool, Fifo } from './fifo.ts';
import type { QueueImage } from './images.ts';
import { Leases } from './leases.ts';
import { Policy } from './letters.ts';
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
  /** Its node is suspected: its consumers get nothing. */
  suspended: boolean;
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
  leases = new Leases();
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

  /** Does it belong into the waiting list? */
  get mayWait(): boolean {
    return this.mode === ConsumerMode.active && this.hasCredit && !this.owner.suspended;
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

/** What the metadata say of a queue when it is made. */
export interface QueueIdentity {
  readonly uid: number;
  readonly vhost: string;
  readonly name: string;
  readonly autoDelete: boolean;
}

export class Queue {
  readonly uid: number;
  readonly vhost: string;
  readonly name: string;
  readonly autoDelete: boolean;
  /** Its resolved arguments as JSON, and what they mean to this version of the machine. */
  arguments: string;
  terms: QueueTerms;
  /** Where its dead letters go; null: nowhere. */
  policy: Policy | null;
  /** When its messages came, if they expire. */
  stamps: Stamps | null = null;
  /** When those of its messages expire that say so themselves; null: there are none. */
  expirations: Expirations | null = null;
  /** The stamp at which a consumer or a `get` last used it. Kept only if it expires. */
  lastUsed = 0;
  /** The stamp at which time may change something; Infinity: never. And its place among the queues that fall due. */
  due = Number.POSITIVE_INFINITY;
  duePlace = -1;
  readonly fifo: Fifo;
  /** Made when something first comes back. */
  returned: Returned | null = null;
  /**
   * Leases of consumers that went with more than could be returned at once; they come back in steps. Until all are back the queue hands
   * out nothing, because what comes back belongs before what is ready.
   */
  leaving: Leases[] | null = null;
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
  /** The snapshot (`QueueStore.epoch`) that has this queue already, and the queue as it was then, until that is written. */
  epoch: number;
  image: QueueImage | null = null;
  /** By priority, highest first. Only levels with somebody in them. */
  readonly #levels: Level[] = [];

  constructor({ uid, vhost, name, autoDelete }: QueueIdentity, argumentsJson: string, pool: ChunkPool, epoch: number) {
    this.uid = uid;
    this.epoch = epoch;
    this.vhost = vhost;
    this.name = name;
    this.autoDelete = autoDelete;
    this.arguments = argumentsJson;
    this.terms = termsOf(argumentsJson);
    this.policy = this.#policy();
    this.fifo = new Fifo(pool);
  }

  /** Other arguments from now on. */
  configure(argumentsJson: string): void {
    const { deadLetterExchange, deadLetterRoutingKey } = this.terms;
    this.arguments = argumentsJson;
    this.terms = termsOf(argumentsJson);
    const isSame =
      this.terms.deadLetterExchange === deadLetterExchange && this.terms.deadLetterRoutingKey === deadLetterRoutingKey;
    if (!isSame) this.policy = this.#policy();
  }

  get ready(): number {
    return this.fifo.length + (this.returned === null ? 0 : this.returned.length);
  }

  /** The entry of the first ready message. There must be one. */
  get firstIndex(): number {
    const { returned } = this;
    return returned !== null && returned.length > 0 ? returned.index : this.fifo.index;
  }

  get firstOrdinal(): number {
    const { returned } = this;
    return returned !== null && returned.length > 0 ? returned.ordinal : this.fifo.ordinal;
  }

  /** Bytes of the ready messages. */
  get readyBytes(): number {
    return this.fifo.totalBytes + (this.returned === null ? 0 : this.returned.totalBytes);
  }

  /** Has it no room for one more message of so many bytes, and refuses it? */
  refuses(bytes: number): boolean {
    return this.terms.overflow !== 'drop-head' && this.#isOver(1, bytes);
  }

  /** Is there more ready than it may have, and the first is to be dropped? Where publishes are refused, what comes back may be too much. */
  get isTooLong(): boolean {
    return this.terms.overflow === 'drop-head' && this.#isOver(0, 0);
  }

  #isOver(messages: number, bytes: number): boolean {
    const { lengthMax, bytesMax } = this.terms;
    return (
      (lengthMax >= 0 && this.ready + messages > lengthMax) || (bytesMax >= 0 && this.readyBytes + bytes > bytesMax)
    );
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

  /** To whom a message that has just arrived goes at once, or null: not while others are before it. */
  nextForNew(): Consumer | null {
    const consumer = this.nextWaiting();
    return consumer === null || this.leaving !== null || this.ready > 0 ? null : consumer;
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

  #policy(): Policy | null {
    const { uid, vhost, name, terms } = this;
    const { deadLetterExchange: exchange, deadLetterRoutingKey: routingKey } = terms;
    return exchange === null ? null : new Policy({ uid, vhost, queueName: name, exchange, routingKey });
  }

  /** Attached consumers by (node, number): an order that does not depend on history. */
  attachedSorted(): Consumer[] {
    return [...this.attached].sort((a, b) => a.owner.node - b.owner.node || a.number - b.number);
  }
}
