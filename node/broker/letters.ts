// What a channel rejected, on its way to where dead letters go: three entries and two hops after the rejection, which has no answer.
//
// A client that rejects and then looks into the queue of dead letters, on the same channel, expects to find them there, as with a broker that does
// both in one process. So an answer that would say "nothing" waits until they have gone, as far as this node's replicas know, but not for long.
//
// State owned: the shards that letters of this channel may be under way from, and the timer of who waits. Invariant: nobody waits twice for the same
// rejections, so a shard that always has letters under way costs one short wait for each of them.

import type { Timer } from '../../cluster/index.ts';
import type { BrokerConnection } from './broker.ts';
import type { Consumer } from './consumer.ts';

/** Milliseconds between two looks. */
const lookMilliseconds = 2;

export class Letters {
  readonly #connection: Pick<BrokerConnection, 'broker'>;
  readonly #shards = new Set<number>();
  #timer: Timer | null = null;
  #closed = false;

  constructor(connection: Pick<BrokerConnection, 'broker'>) {
    this.#connection = connection;
  }

  get mayBeUnderWay(): boolean {
    return this.#shards.size > 0;
  }

  /** Messages of a consumer's queue were rejected for good. */
  rejected({ shard, queue }: Consumer): void {
    if (this.#shards.has(shard)) return;
    const terms = this.#connection.broker.cluster.metadata.effectiveArguments(queue);
    if (terms?.['x-dead-letter-exchange'] !== undefined) this.#shards.add(shard);
  }

  /** `done` when they have gone, or after `lettersMilliseconds`; not at all once the channel is closed. One at a time. */
  whenGone(done: () => void): void {
    const shards = [...this.#shards];
    this.#shards.clear();
    const { cluster, clock, options } = this.#connection.broker;
    const until = clock.now() + options.lettersMilliseconds;
    let unapplied = shards.length;
    const look = () => {
      if (this.#closed) return;
      const mayWait = clock.now() < until;
      if (mayWait && (unapplied > 0 || shards.some((shard) => cluster.owesLetters(shard))))
        this.#timer = clock.after(lookMilliseconds, look);
      else done();
    };
    for (const shard of shards) cluster.pipe(shard).whenApplied(this.#connection, () => unapplied--);
    look();
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#timer = null;
  }
}
