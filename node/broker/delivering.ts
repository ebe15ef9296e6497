// From leases to the socket, for one channel: the leases that wait, and the messages that have to be read for them.
//
// State owned: the leases in the order in which they came, the entry that the last delivery came from, at most two reads, under way or with
// messages that wait for their turn. A message is mostly in memory here; else it comes from the disk or from another node, and everything
// behind it waits: deliveries keep the order of their leases, whatever becomes of the reads.
//
// What a limit of the whole channel leaves no room for waits here too, until it is settled for (`windows.ts` gives it back in time).
//
// Invariants: a lease is delivered, or goes back, or its message is gone; nothing is delivered for a consumer that is being cancelled.

import { type MessageView, type MessageViews, PublishFlag, SettleOperation, viewMessage } from '../../cluster/index.ts';
import type { ChannelEvents } from '../amqp/backend.ts';
import type { Broker } from './broker.ts';
import type { Consumer } from './consumer.ts';
import { Deliveries } from './deliveries.ts';

const readsMax = 2;
/** Messages of one entry that are read together. */
const messagesPerReadMax = 256;

interface Read {
  readonly shard: number;
  readonly entryIndex: number;
  readonly ordinals: readonly number[];
  /** Null: under way. */
  views: MessageViews | null;
  /** The first that was not taken. */
  next: number;
}

/** In one turn of the event loop, however often it is asked to go on: small messages fit into a socket's buffer by the ten thousands. */
const deliveriesPerTurnMax = 2_048;

/** Leases [first, first + count). */
interface Range {
  readonly first: number;
  count: number;
}

export class Delivering {
  readonly #broker: Broker;
  readonly #events: ChannelEvents;
  /** `pump` may go on: a read is done, or the next turn has come. */
  readonly #goOn: () => void;
  readonly #deliveries = new Deliveries();
  /** The entry that the last delivery came from: the next one mostly comes from it too. */
  #entryShard = 0;
  #entryIndex = -1;
  #entryPayload: Buffer | null = null;
  #reads: Read[] = [];
  #closed = false;
  /** It has delivered enough in this turn. */
  #rests = false;
  /** Leases that wait, of consumers with acknowledgements: those that a limit of the whole channel counts. */
  windowed = 0;

  constructor(broker: Broker, events: ChannelEvents, goOn: () => void) {
    this.#broker = broker;
    this.#events = events;
    this.#goOn = goOn;
  }

  leased(
    consumer: Consumer,
    leaseOrdinal: number,
    entryIndex: number,
    ordinal: number,
    redelivered: boolean,
    deliveryCount: number,
  ): void {
    this.#deliveries.push(consumer, leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount);
    if (!consumer.noAck) this.windowed++;
  }

  /** Delivers what waits, as far as the socket takes it; of many, the rest in other turns. */
  pump(): void {
    if (this.#rests) return;
    const deliveries = this.#deliveries;
    const events = this.#events;
    for (let left = deliveriesPerTurnMax; deliveries.length > 0 && events.canDeliver; left--) {
      if (left === 0) return this.#rest();
      const consumer = deliveries.consumer;
      if (consumer.cancelling) {
        if (this.#broker.consumers.has(consumer.number)) this.#release(consumer, deliveries.leaseOrdinal, 1);
        this.#shift();
        continue;
      }
      // Its client must hear of the consumer first: what another node tells comes in pieces.
      if (!consumer.attached) return;
      // Those without acknowledgements take no room, but wait for it like the others.
      if (events.room === 0) return;
      const message = this.#message();
      if (message === undefined) return; // being read
      if (message !== null) this.#deliver(consumer, message);
      this.#shift();
    }
  }

  #rest(): void {
    this.#rests = true;
    this.#broker.clock.nextTurn(() => {
      this.#rests = false;
      if (!this.#closed) this.#goOn();
    });
  }

  /** Takes out what waits of consumers with acknowledgements. Returns it, per consumer that is still known. */
  takeWindowed(): Map<Consumer, Range[]> {
    const deliveries = this.#deliveries;
    const taken = new Map<Consumer, Range[]>();
    // Once around: what stays keeps its order.
    for (let left = deliveries.length; left > 0; left--) {
      const { consumer, leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount } = deliveries;
      this.#shift();
      if (consumer.noAck) deliveries.push(consumer, leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount);
      else if (this.#broker.consumers.has(consumer.number)) addTo(taken, consumer, leaseOrdinal);
    }
    return taken;
  }

  /** Nothing is delivered any more. Returns, per consumer, what it holds that was never written to the socket. */
  close(): Map<Consumer, Range[]> {
    const deliveries = this.#deliveries;
    const unwritten = new Map<Consumer, Range[]>();
    for (; deliveries.length > 0; this.#shift()) addTo(unwritten, deliveries.consumer, deliveries.leaseOrdinal);
    this.#closed = true;
    this.#reads = [];
    this.#entryPayload = null;
    return unwritten;
  }

  #shift(): void {
    if (!this.#deliveries.consumer.noAck) this.windowed--;
    this.#deliveries.shift();
  }

  /** They go back to their places, as if they had never been leased. */
  release(consumer: Consumer, ranges: readonly Range[]): void {
    for (const { first, count } of ranges) this.#release(consumer, first, count);
  }

  #release({ shard, number }: Consumer, first: number, count: number): void {
    this.#broker.cluster.pipe(shard).settle(SettleOperation.release, 0, number, first, count);
  }

  #deliver(consumer: Consumer, message: MessageView): void {
    const { leaseOrdinal, redelivered, deliveryCount } = this.#deliveries;
    this.#events.deliver(consumer.number, leaseOrdinal, message, redelivered, deliveryCount);
    consumer.deliveredTo = leaseOrdinal;
    if (!consumer.noAck) consumer.outstanding++;
    else if (consumer.autoSettleCount === 0) {
      consumer.autoSettleFirst = leaseOrdinal;
      consumer.autoSettleCount = 1;
    } else consumer.autoSettleCount = leaseOrdinal - consumer.autoSettleFirst + 1;
  }

  /** The first lease's message, null when it is gone, undefined while it is being read. */
  #message(): MessageView | null | undefined {
    const { consumer, entryIndex, ordinal } = this.#deliveries;
    const { shard } = consumer;
    if (this.#entryPayload === null || shard !== this.#entryShard || entryIndex !== this.#entryIndex) {
      const payload = this.#broker.cluster.payload(shard, entryIndex);
      if (payload === null) return this.#read(shard, entryIndex, ordinal);
      this.#entryShard = shard;
      this.#entryIndex = entryIndex;
      this.#entryPayload = payload;
    }
    const view = viewMessage(this.#entryPayload, ordinal);
    return (view.flags & PublishFlag.parts) === 0 ? view : this.#read(shard, entryIndex, ordinal);
  }

  /** The message from a read that is done; else sees to it that it is read. */
  #read(shard: number, entryIndex: number, ordinal: number): MessageView | null | undefined {
    const isOf = (read: Read) => read.shard === shard && read.entryIndex === entryIndex;
    for (;;) {
      const at = this.#reads.findIndex(isOf);
      // What was read for leases that are not there any more; a read under way has to end first.
      this.#reads = this.#reads.filter((read, i) => i >= at && (at >= 0 || read.views === null));
      const read = at < 0 ? undefined : this.#reads[0]!;
      if (read === undefined) {
        if (this.#reads.length === readsMax) return undefined;
        this.#readAhead();
        continue;
      }
      if (read.views === null) return undefined;
      const found = read.ordinals.indexOf(ordinal, read.next);
      if (found >= 0 && found < read.views.length) {
        read.next = found + 1;
        return read.views[found]!;
      }
      this.#reads.shift();
    }
  }

  /** Begins to read for the first lease, and for the next entry that is not in memory. */
  #readAhead(): void {
    const deliveries = this.#deliveries;
    let next = this.#begin(0);
    while (next < deliveries.length && this.#reads.length < readsMax) {
      const consumer = deliveries.consumerAt(next);
      if (this.#broker.cluster.payload(consumer.shard, deliveries.entryIndexAt(next)) !== null) return;
      next = this.#begin(next);
    }
  }

  /** Reads what the leases from `position` on need of one entry. Returns the position after them. */
  #begin(position: number): number {
    const deliveries = this.#deliveries;
    const { shard } = deliveries.consumerAt(position);
    const entryIndex = deliveries.entryIndexAt(position);
    const ordinals: number[] = [];
    let at = position;
    while (
      at < deliveries.length &&
      ordinals.length < messagesPerReadMax &&
      deliveries.consumerAt(at).shard === shard &&
      deliveries.entryIndexAt(at) === entryIndex
    )
      ordinals.push(deliveries.ordinalAt(at++));
    const read: Read = { shard, entryIndex, ordinals, views: null, next: 0 };
    this.#reads.push(read);
    let isInCall = true;
    this.#broker.cluster.readMessages(
      shard,
      entryIndex,
      ordinals,
      () => !this.#closed,
      (views) => {
        read.views = views;
        if (!isInCall && !this.#closed) this.#goOn();
      },
    );
    isInCall = false;
    return at;
  }
}

function addTo(ranges: Map<Consumer, Range[]>, consumer: Consumer, leaseOrdinal: number): void {
  const known = ranges.get(consumer);
  const last = known?.[known.length - 1];
  if (last !== undefined && last.first + last.count === leaseOrdinal) last.count++;
  else if (known !== undefined) known.push({ first: leaseOrdinal, count: 1 });
  else ranges.set(consumer, [{ first: leaseOrdinal, count: 1 }]);
}
