// What falls due: messages that have lived as long as their queue (`x-message-ttl`) or their publisher lets them, and queues that were not used for as long as
// they may be (`x-expires`). PURE.
//
// State owned: the time, which is the highest stamp of an entry so far; the queues by the stamp at which they have to be looked at.
//
// Invariants:
// - Time stands still within an entry. A message that has expired by then is neither handed out nor counted as ready once its queue was
//   looked at: `isFresh` stands before every assignment.
// - A queue's `due` is not later than its next event, unless work on it is left, which is due at once. It may be earlier, since what made
//   it so may be gone: then it is looked at for nothing, once.
// - One entry drops and looks at no more than the store allows (`duePerEntryMax`, `workPerMillisecond`). What is left stays due. Until then a
//   queue whose first message has expired hands out nothing.

import { DueQueues, Stamps } from './due.ts';
import type { Queue } from './queue.ts';
import type { QueueStore } from './store.ts';

const never = Number.POSITIVE_INFINITY;

export class Expiry {
  /** Milliseconds since 1970. */
  now = 0;
  readonly #store: QueueStore;
  readonly #queues = new DueQueues();
  /** What is left of it for the entry being applied. */
  #budget: number;

  constructor(store: QueueStore) {
    this.#store = store;
    this.#budget = this.#budgetMax;
  }

  /** Messages dropped and queues looked at with the last entry. */
  get work(): number {
    return this.#budgetMax - this.#budget;
  }

  get #budgetMax(): number {
    return this.#store.allowed(this.#store.bounds.duePerEntryMax);
  }

  /** The stamp at which something falls due; Infinity: never. */
  get due(): number {
    return this.#queues.first?.due ?? never;
  }

  /** An entry with this stamp begins. Does what has fallen due, as far as one entry may. Queues may be left to be assigned. */
  advance(stamp: number): void {
    if (stamp > this.now) this.now = stamp;
    this.#budget = this.#budgetMax;
    for (let queue = this.#queues.first; queue !== undefined; queue = this.#queues.first) {
      if (queue.due > this.now || this.#budget === 0) return;
      this.#budget--;
      this.#look(queue);
    }
  }

  /** Drops what has expired at the queue's front. False: there is more of it than this entry may drop. */
  isFresh(queue: Queue): boolean {
    if (queue.stamps === null && queue.expirations === null) return true;
    while (queue.ready > 0 && this.firstDue(queue) <= this.now) {
      if (this.#budget === 0) return false;
      this.#budget--;
      this.#store.dropFirst(queue, 'expired');
    }
    return true;
  }

  /** When the first ready message expires, of which there must be one; Infinity: never. */
  firstDue(queue: Queue): number {
    const { stamps, expirations, terms } = queue;
    const byQueue = stamps === null ? never : stamps.due(queue.firstIndex, terms.messageTtl);
    return expirations === null ? byQueue : Math.min(byQueue, expirations.due(queue.firstIndex, queue.firstOrdinal));
  }

  /** The queue has got a message with the entry that is being applied, whether or not it is handed out at once. */
  came(queue: Queue, index: number): void {
    queue.stamps!.add(index, this.now, queue.terms.messageTtl);
  }

  /** Something happened to the queue that may make it due earlier. */
  soon(queue: Queue): void {
    const due = this.#next(queue);
    if (due < queue.due) this.#queues.set(queue, due);
  }

  /** The queue was used, or begins to be unused. */
  used(queue: Queue): void {
    if (queue.terms.expires < 0) return;
    queue.lastUsed = this.now;
    if (queue.consumers === 0) this.soon(queue);
  }

  /** The queue is new, or its terms are. Its messages live on as they would have, or from now on if nobody knows since when they do. */
  begin(queue: Queue): void {
    const { messageTtl } = queue.terms;
    if (messageTtl < 0) queue.stamps = null;
    else if (queue.stamps === null) {
      queue.stamps = new Stamps();
      queue.stamps.add(0, this.now, messageTtl);
    }
    queue.lastUsed = this.now;
    this.#queues.set(queue, this.#next(queue));
  }

  /** The queue is no more. */
  end(queue: Queue): void {
    queue.stamps = null;
    queue.expirations = null;
    this.#queues.set(queue, never);
  }

  /** As it was when a snapshot was taken. */
  restore(queue: Queue, due: number): void {
    this.#queues.set(queue, due);
  }

  /** Throws if the queue would be looked at too late. For tests. */
  validate(queue: Queue): void {
    if ((queue.terms.messageTtl >= 0 && !queue.sealed) !== (queue.stamps !== null))
      throw new Error(`queue ${queue.uid} keeps stamps for nothing, or none`);
    const isHeld = queue.dirty || queue.leaving !== null;
    if (!isHeld && queue.due > this.#next(queue)) throw new Error(`queue ${queue.uid} would be looked at too late`);
  }

  #look(queue: Queue): void {
    const store = this.#store;
    store.touch(queue);
    const { expires } = queue.terms;
    if (expires >= 0 && queue.consumers === 0 && queue.lastUsed + expires <= this.now) {
      store.fold(queue.uid);
      store.sealForRemoval(queue);
      return;
    }
    this.isFresh(queue);
    queue.stamps?.forget(this.now, queue.terms.messageTtl);
    this.#queues.set(queue, this.#next(queue));
    // It may have had too many expired messages to hand out those behind them.
    if (queue.ready > 0 && queue.nextWaiting() !== null) store.markDirty(queue);
  }

  #next(queue: Queue): number {
    if (queue.sealed) return never;
    const { expires } = queue.terms;
    const message = queue.ready > 0 ? this.firstDue(queue) : never;
    return expires >= 0 && queue.consumers === 0 ? Math.min(message, queue.lastUsed + expires) : message;
  }
}
