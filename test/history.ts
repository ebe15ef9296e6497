// What clients saw of a broker, event by event, and the recorder of it. Pure: the judge is in `history/check.ts`, and knows nothing else.
//
// State owned by a `History`: the append-only list of events. An event's place in the list is its time for the judge; `at` is for people.
// All clients of one run write to one history, so "confirmed before the other was sent" is meant literally. Write down what a client does
// before it does it, and what it sees as soon as it sees it.
//
// What an event says of a channel needs its `open` event. Names are the recorder's: unique over the whole run. A channel that is opened anew, a consumer that is begun anew, get new names. A queue
// name may be declared again; after a delete of unknown outcome nothing certain can be said of it any more, so use a fresh one.

/** `missing`: 404; `refused`: another error, without effect; `empty`: a get that found nothing; `unknown`: no answer came, and none will. */
export type Answer = 'ok' | 'empty' | 'missing' | 'refused' | 'unknown';

/** `refused`: basic.nack, which means "perhaps not". */
export type Outcome = 'confirmed' | 'refused' | 'unknown';

/** `ack` and `discard` (reject or nack without requeue) end a message; `requeue` and `reject` (with requeue) give it back. */
export type Settlement = 'ack' | 'discard' | 'requeue' | 'reject';

/** What may become of a queue and its messages by itself. */
export interface QueueTraits {
  /** It goes only by being deleted: durable, not exclusive, no auto-delete, no expiry. Of others nothing is known to be kept. */
  readonly lasting: boolean;
  /** Messages may go unseen, by age, by a limit of length or of deliveries. */
  readonly drops: boolean;
  /** The queue that dead letters reach, if it is there all the time. */
  readonly deadLetterTo: string | null;
}

export type Operation =
  | ({ readonly kind: 'declare'; readonly queue: string } & QueueTraits)
  | { readonly kind: 'delete'; readonly queue: string }
  | { readonly kind: 'purge'; readonly queue: string }
  /** A passive declare. */
  | { readonly kind: 'check'; readonly queue: string }
  /** `binding`: a name of its own for (exchange, key, queue). The deletion of an exchange is an unbind of each. */
  | { readonly kind: 'bind'; readonly binding: string; readonly queue: string }
  | { readonly kind: 'unbind'; readonly binding: string; readonly queue: string }
  | {
      readonly kind: 'consume';
      readonly queue: string;
      readonly consumer: string;
      readonly noAck: boolean;
      /** It may give back what it never showed: under a prefetch of the whole channel. */
      readonly releases: boolean;
    }
  | { readonly kind: 'cancel'; readonly consumer: string }
  | { readonly kind: 'get'; readonly queue: string; readonly consumer: string; readonly noAck: boolean }
  /** Anything else that must be answered while its channel lives. */
  | { readonly kind: 'other'; readonly name: string };

/** A queue that a message should reach. `binding` null: by the default exchange. */
export interface Target {
  readonly queue: string;
  readonly binding: string | null;
}

export interface Publication {
  readonly id: string;
  readonly channel: string;
  /** All queues that it may reach. */
  readonly targets: readonly Target[];
  readonly mandatory: boolean;
  /** The channel is in confirm mode. */
  readonly confirms: boolean;
  /** It has an expiration of its own. */
  readonly expires?: boolean;
  readonly priority?: number;
}

export interface Delivery {
  readonly id: string;
  readonly queue: string;
  readonly channel: string;
  /** As in `consume` or `get`. */
  readonly consumer: string;
  readonly redelivered: boolean;
  /** x-delivery-count; 0 if there is none. */
  readonly count: number;
  /** The body and properties are those that were sent under this id. */
  readonly intact: boolean;
}

export type HistoryEvent = { readonly at: number } & (
  | { readonly kind: 'open'; readonly channel: string; readonly node: number }
  /**
   * A channel is over. `graceful`: written down when the client begins to close it, by its own will; else when it sees that the other side, or
   * the network, ended it.
   */
  | { readonly kind: 'end'; readonly channel: string; readonly graceful: boolean }
  | { readonly kind: 'invoke'; readonly channel: string; readonly operation: Operation }
  /** `invoke`: the place of its event. `messages`: what purge-ok, delete-ok or declare-ok told. */
  | { readonly kind: 'answer'; readonly invoke: number; readonly answer: Answer; readonly messages: number | null }
  | ({ readonly kind: 'publish' } & Publication)
  | { readonly kind: 'returned'; readonly publish: number }
  | { readonly kind: 'outcome'; readonly publish: number; readonly outcome: Outcome }
  | ({ readonly kind: 'deliver' } & Delivery)
  /** The client sends it: AMQP does not say whether it arrived. `multiple` is expanded by the recorder. */
  | { readonly kind: 'settle'; readonly deliver: number; readonly settlement: Settlement }
  /** The broker cancelled it: its queue is gone. */
  | { readonly kind: 'cancelled'; readonly consumer: string }
  /** The other side broke the protocol: a confirm of what was not sent, or twice; a delivery to nobody. Always a fault. */
  | { readonly kind: 'nonsense'; readonly channel: string; readonly what: string }
  /**
   * All faults have ended, long enough that every node that was declared gone knows it and has closed its channels. A channel that lives
   * here was never given up by the broker: what it settled is settled, what it holds nobody else has.
   */
  | { readonly kind: 'calm' }
  /** After the drain: how many messages a queue still has, asked through this node. Null: it could not be asked. */
  | { readonly kind: 'left'; readonly queue: string; readonly node: number; readonly messages: number | null }
);

/** Writes a history down, and knows a few sums while it goes on. */
export class History {
  readonly events: HistoryEvent[] = [];
  readonly #now: () => number;
  readonly #onEvent: ((event: HistoryEvent) => void) | null;
  /** Confirmed and not delivered so far. */
  readonly #awaited = new Set<string>();
  readonly #delivered = new Set<string>();
  /** Places of publishes that came back and were not confirmed yet. */
  readonly #returned = new Set<number>();
  #confirmed = 0;

  /** `now`: milliseconds since some moment. `onEvent`: is told each event as it is written down. */
  constructor(now: () => number, onEvent: ((event: HistoryEvent) => void) | null = null) {
    this.#now = now;
    this.#onEvent = onEvent;
  }

  /** How many confirmed messages have not been delivered yet. Messages that found no queue do not count. */
  get awaited(): number {
    return this.#awaited.size;
  }
  /** Different messages that arrived. */
  get delivered(): number {
    return this.#delivered.size;
  }
  /** Confirmed publishes so far. */
  get confirmed(): number {
    return this.#confirmed;
  }

  open(channel: string, node: number): void {
    this.#add({ kind: 'open', at: this.#now(), channel, node });
  }
  end(channel: string, graceful: boolean): void {
    this.#add({ kind: 'end', at: this.#now(), channel, graceful });
  }
  /** Returns the place, to be answered. */
  invoke(channel: string, operation: Operation): number {
    return this.#add({ kind: 'invoke', at: this.#now(), channel, operation });
  }
  answer(invoke: number, answer: Answer, messages: number | null = null): void {
    if (this.events[invoke]?.kind !== 'invoke') throw new Error(`event ${invoke} is no invocation`);
    this.#add({ kind: 'answer', at: this.#now(), invoke, answer, messages });
  }
  /** Returns the place, for what comes of it. */
  publish(publication: Publication): number {
    return this.#add({ kind: 'publish', at: this.#now(), ...publication });
  }
  returned(publish: number): void {
    this.#published(publish);
    this.#returned.add(publish);
    this.#add({ kind: 'returned', at: this.#now(), publish });
  }
  outcome(publish: number, outcome: Outcome): void {
    const { id } = this.#published(publish);
    const isReturned = this.#returned.delete(publish);
    this.#add({ kind: 'outcome', at: this.#now(), publish, outcome });
    if (outcome !== 'confirmed') return;
    this.#confirmed++;
    if (!isReturned && !this.#delivered.has(id)) this.#awaited.add(id);
  }
  /** Returns the place, to be settled. */
  deliver(delivery: Delivery): number {
    this.#awaited.delete(delivery.id);
    this.#delivered.add(delivery.id);
    return this.#add({ kind: 'deliver', at: this.#now(), ...delivery });
  }
  settle(deliver: number, settlement: Settlement): void {
    if (this.events[deliver]?.kind !== 'deliver') throw new Error(`event ${deliver} is no delivery`);
    this.#add({ kind: 'settle', at: this.#now(), deliver, settlement });
  }
  cancelled(consumer: string): void {
    this.#add({ kind: 'cancelled', at: this.#now(), consumer });
  }
  nonsense(channel: string, what: string): void {
    this.#add({ kind: 'nonsense', at: this.#now(), channel, what });
  }
  calm(): void {
    this.#add({ kind: 'calm', at: this.#now() });
  }
  left(queue: string, node: number, messages: number | null): void {
    this.#add({ kind: 'left', at: this.#now(), queue, node, messages });
  }

  #add(event: HistoryEvent): number {
    this.#onEvent?.(event);
    return this.events.push(event) - 1;
  }

  #published(place: number): Publication {
    const event = this.events[place];
    if (event?.kind !== 'publish') throw new Error(`event ${place} is no publish`);
    return event;
  }
}

export { type Counts, checkHistory, explain, type Fault, type FaultKind, type Verdict } from './history/check.ts';
