// How much the consumers of one channel may be handed: by a window of their own, or by what a limit of the whole channel has room for.
//
// State owned: the channel's limit, and the timer of leases that wait for room under it.
//
// A consumer without such a limit is granted leases a window ahead of what its socket has taken. Under a limit all consumers share its
// room: each is granted all that is free, because nobody knows who will get the next message. So together they may be leased more than
// there is room for, up to the limit for each of them; that waits, and goes back to its place after `parkedMilliseconds` without room.
//
// Invariants: a grant is used once, and without room none is made, so that what went back is not leased here again and again. Only grants
// from before the limit may be left then: they cannot be withdrawn, but the consumer's own maximum is lowered until there is room. While
// there is room each consumer has a grant that it did not use, so that one message at least can come.

import type { Timer } from '../../cluster/index.ts';
import type { ChannelEvents } from '../amqp/backend.ts';
import type { Broker } from './broker.ts';
import type { Consumer } from './consumer.ts';
import type { Delivering } from './delivering.ts';

export class Windows {
  readonly #broker: Broker;
  readonly #events: ChannelEvents;
  readonly #delivering: Delivering;
  /** Something else may be delivered now. */
  readonly #resume: () => void;
  /** Of the whole channel; 0: none. */
  limit = 0;
  #timer: Timer | null = null;

  constructor(broker: Broker, events: ChannelEvents, delivering: Delivering, resume: () => void) {
    this.#broker = broker;
    this.#events = events;
    this.#delivering = delivering;
    this.#resume = resume;
  }

  /** What a new consumer is attached with. */
  first(noAck: boolean, prefetch: number): { readonly unsettledMax: number; readonly grantedTo: number } {
    if (noAck || this.limit === 0) return { unsettledMax: prefetch, grantedTo: this.#broker.options.consumerWindow };
    return { unsettledMax: this.#smaller(prefetch), grantedTo: this.#free };
  }

  /** Grants what there is to grant now, if that is worth a command. */
  grant(consumer: Consumer): void {
    // A consumer that the machine does not know yet cannot be told anything.
    if (consumer.getter || consumer.cancelling || !consumer.attached) return;
    if (consumer.noAck || this.limit === 0) this.#grantWindow(consumer);
    else this.#grantRoom(consumer);
  }

  /** To be called after deliveries: sees to it that what found no room does not wait for long. */
  watch(): void {
    if (this.#timer !== null || !this.#isOver) return;
    const { clock, options } = this.#broker;
    this.#timer = clock.after(options.parkedMilliseconds, () => {
      this.#timer = null;
      if (this.#isOver) this.#giveBack();
    });
  }

  close(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }

  #smaller(prefetch: number): number {
    return prefetch === 0 ? this.limit : Math.min(prefetch, this.limit);
  }

  /** Room under the limit that nothing waits for. */
  get #free(): number {
    const free = this.#events.room - this.#delivering.windowed;
    return Math.max(0, Math.min(free, this.#broker.options.consumerWindow));
  }

  get #isOver(): boolean {
    return this.limit > 0 && this.#delivering.windowed > 0 && this.#events.room === 0;
  }

  #grantWindow(consumer: Consumer): void {
    const { deliveredTo, grantedTo, prefetch } = consumer;
    const window = this.#broker.options.consumerWindow;
    if (grantedTo - deliveredTo > window / 2 && consumer.unsettledMax === prefetch) return;
    this.#tell(consumer, prefetch, deliveredTo + window);
  }

  #grantRoom(consumer: Consumer): void {
    const { nextLease, grantedTo, unsettledMax } = consumer;
    const max = this.#smaller(consumer.prefetch);
    const free = this.#free;
    const leasedTo = Math.max(0, nextLease - 1);
    const isTooMuch = unsettledMax === 0 || unsettledMax > max;
    const isTooLittle = free > 0 && (unsettledMax < max || (grantedTo - leasedTo) * 2 <= free);
    if (isTooMuch || isTooLittle) this.#tell(consumer, max, leasedTo + free);
  }

  /** Coalesced, to their places and uncounted: nobody has seen them. */
  #giveBack(): void {
    for (const [consumer, ranges] of this.#delivering.takeWindowed()) {
      const { nextLease, grantedTo, outstanding, unsettledMax, cancelling } = consumer;
      consumer.deliveredTo = nextLease - 1;
      // The machine counts from 1, 0 being no limit: who holds nothing may get one message at a time until the old grants are used.
      if (!cancelling && grantedTo >= nextLease)
        this.#tell(consumer, Math.min(unsettledMax, Math.max(1, outstanding)), grantedTo);
      this.#delivering.release(consumer, ranges);
    }
    this.#resume();
  }

  #tell(consumer: Consumer, unsettledMax: number, grantedTo: number): void {
    consumer.unsettledMax = unsettledMax;
    consumer.grantedTo = Math.max(consumer.grantedTo, grantedTo);
    this.#broker.cluster.pipe(consumer.shard).credit(consumer.number, unsettledMax, consumer.grantedTo);
  }
}
