// The queues of one shard and the rules by which messages move: enqueue, assign, settle, return, drop. PURE.
//
// State owned: queues with their consumers, owners (the consumers of each pipe), live counts, debt. Knows nothing of batches and pipes'
// sequences; `shard.ts` reads those and calls in here.
//
// Invariants: those of `queue.ts`; a reference to a message is counted in `live` from its enqueueing until it is settled, purged or
// dropped; what one command drops is worked off in bounded steps (`workOff`), in the meantime it is debt: gone for everybody, but
// still counted as live.

import { ConsumeFlag, SettleOperation } from '../commands.ts';
import type { PipeSink } from '../machine.ts';
import { ChunkPool, Fifo } from './fifo.ts';
import { deliveryCountMax, redeliveredBit } from './leases.ts';
import { LiveCounts } from './live.ts';
import { Consumer, ConsumerMode, type ConsumerOptions, type Owner, Queue } from './queue.ts';

export class QueueStore {
  readonly queues = new Map<number, Queue>();
  /** By node: a node has at most one open incarnation. */
  readonly owners = new Map<number, Owner>();
  readonly live = new LiveCounts();
  readonly debt: Fifo;
  /** Sealed without having been deleted by the metadata: somebody has to see to it. */
  readonly pendingRemovals = new Set<number>();
  /** Folds every assignment and settlement since the last `takeFold`, for the state hash. */
  #fold = 0;
  readonly #pool = new ChunkPool();
  readonly #dirty: Queue[] = [];

  constructor() {
    this.debt = new Fifo(this.#pool);
  }

  takeFold(): number {
    const fold = this.#fold;
    this.#fold = 0;
    return fold;
  }

  create(uid: number, autoDelete: boolean, argumentsJson: string): Queue {
    const queue = new Queue(uid, autoDelete, argumentsJson, this.#pool);
    this.queues.set(uid, queue);
    return queue;
  }

  /** The metadata has deleted the queue. */
  delete(queue: Queue): void {
    if (!queue.sealed) this.seal(queue);
    this.queues.delete(queue.uid);
    this.pendingRemovals.delete(queue.uid);
  }

  /** Empties the queue and ends its consumers; nothing enters it any more. */
  seal(queue: Queue): void {
    queue.sealed = true;
    for (const consumer of queue.attachedSorted()) {
      const { leases, owner } = consumer;
      for (let slot = leases.head; slot < leases.tail; slot++)
        if (!leases.isSettled(slot)) this.live.remove(leases.index(slot));
      if (consumer.waiting) queue.park(consumer);
      if (consumer.mode === ConsumerMode.active) owner.sink?.consumerCancelled(consumer.number);
      this.#forget(consumer);
    }
    this.purge(queue);
    queue.consumers = 0;
    queue.exclusive = null;
    queue.unsettled = 0;
    queue.bytes = 0;
  }

  /** Seals the queue and asks for its deletion from the metadata. */
  sealForRemoval(queue: Queue): void {
    this.seal(queue);
    this.pendingRemovals.add(queue.uid);
  }

  /** Drops what is ready, also what came back. Returns the number of messages. */
  purge(queue: Queue): number {
    const { fifo, returned } = queue;
    const count = queue.ready;
    if (returned !== null) {
      for (; returned.length > 0; returned.shift()) {
        this.live.remove(returned.index);
        queue.bytes -= returned.bytes;
      }
      queue.returned = null;
    }
    queue.bytes -= fifo.totalBytes;
    this.debt.absorb(fifo);
    return count;
  }

  /** Works off up to `countMax` dropped messages. */
  workOff(countMax: number): void {
    const debt = this.debt;
    for (let count = Math.min(countMax, debt.length); count > 0; count--) {
      this.live.remove(debt.index);
      debt.shift();
    }
  }

  enqueue(queue: Queue, index: number, ordinal: number, bytes: number): void {
    if (queue.lastIndex === index && queue.lastOrdinal === ordinal) return;
    queue.lastIndex = index;
    queue.lastOrdinal = ordinal;
    this.live.add(index);
    queue.bytes += bytes;
    this.#fold = (Math.imul(this.#fold ^ queue.uid, 0x85ebca6b) + bytes) | 0;
    const consumer = queue.nextWaiting();
    if (consumer === null) queue.fifo.push(index, ordinal, bytes);
    else this.#lease(queue, consumer, index, ordinal, bytes, 0);
  }

  owner(node: number, incarnation: number, sink: PipeSink | null): Owner {
    let owner = this.owners.get(node);
    if (owner === undefined) {
      owner = { node, incarnation, consumers: new Map(), sink };
      this.owners.set(node, owner);
    }
    if (owner.incarnation !== incarnation) throw new Error(`node ${node} has consumers of two incarnations`);
    return owner;
  }

  /** A new consumer. The number must be free in its owner. */
  attach(owner: Owner, queue: Queue, options: ConsumerOptions): Consumer {
    const consumer = this.place(owner, queue, options);
    if (consumer.mode === ConsumerMode.active) {
      queue.consumers++;
      if ((consumer.flags & ConsumeFlag.exclusive) !== 0) queue.exclusive = consumer;
      this.#credited(consumer);
    }
    return consumer;
  }

  /** Makes a consumer known and nothing else. */
  place(owner: Owner, queue: Queue, options: ConsumerOptions): Consumer {
    if (owner.consumers.has(options.number)) throw new Error(`consumer ${options.number} exists`);
    const consumer = new Consumer(owner, queue, options);
    owner.consumers.set(consumer.number, consumer);
    queue.attach(consumer);
    return consumer;
  }

  grant(consumer: Consumer, unsettledMax: number, grantedTo: number): void {
    consumer.unsettledMax = unsettledMax;
    consumer.grantedTo = Math.max(consumer.grantedTo, grantedTo);
    if (consumer.waiting && !consumer.hasCredit) consumer.queue.park(consumer);
    this.#credited(consumer);
  }

  /** The consumer gets nothing more; what it holds stays out. It goes at once if it holds nothing. */
  drain(consumer: Consumer): void {
    if (consumer.mode !== ConsumerMode.active) return;
    const { queue } = consumer;
    consumer.mode = ConsumerMode.draining;
    if (consumer.waiting) queue.park(consumer);
    if (queue.exclusive === consumer) queue.exclusive = null;
    queue.consumers--;
    if (consumer.leases.unsettled === 0) this.#forget(consumer);
    if (queue.autoDelete && queue.consumers === 0) this.sealForRemoval(queue);
  }

  /** The consumer goes; what it holds goes back, as failed deliveries. */
  withdraw(consumer: Consumer): void {
    this.settle(consumer, SettleOperation.requeue, true, 0, consumer.leases.next);
    this.drain(consumer);
    if (!consumer.gone) this.#forget(consumer);
  }

  /** All consumers of a pipe go. In the order of their numbers, so that nothing depends on history. */
  endOwner(node: number): void {
    const owner = this.owners.get(node);
    if (owner === undefined) return;
    for (const consumer of [...owner.consumers.values()].sort((a, b) => a.number - b.number))
      if (!consumer.gone) this.withdraw(consumer);
    this.owners.delete(node);
  }

  /** Settles what is unsettled of leases [first, first + count). Anything else in the range is ignored. */
  settle(consumer: Consumer, operation: SettleOperation, failed: boolean, first: number, count: number): void {
    const { leases, queue } = consumer;
    const end = first + count;
    const returns = operation === SettleOperation.requeue || operation === SettleOperation.release;
    const before = leases.unsettled;
    let bytes = 0;
    for (let slot = leases.lowerBound(first); slot < leases.tail && leases.leaseOrdinal(slot) < end; slot++) {
      if (leases.isSettled(slot)) continue;
      const index = leases.index(slot);
      if (returns) {
        const history = leases.history(slot);
        const next = operation === SettleOperation.release ? history : returnedHistory(history, failed);
        queue.giveBack(index, leases.ordinal(slot), leases.bytes(slot), next);
      } else {
        this.live.remove(index);
        bytes += leases.bytes(slot);
      }
      leases.settle(slot);
    }
    const settled = before - leases.unsettled;
    if (settled === 0) return;
    leases.trim();
    queue.unsettled -= settled;
    queue.bytes -= bytes;
    this.#fold = (Math.imul(this.#fold ^ settled, 0x9e3779b1) + first) | 0;
    if (returns) this.#markDirty(queue);
    this.#credited(consumer);
    if (consumer.mode === ConsumerMode.draining && leases.unsettled === 0) this.#forget(consumer);
  }

  /** Leases the first ready message to a polled consumer, and settles it at once if `noAck`. Returns the lease's ordinal. */
  poll(consumer: Consumer, noAck: boolean): number {
    const leaseOrdinal = this.#leaseHead(consumer.queue, consumer);
    if (noAck) this.settle(consumer, SettleOperation.accept, false, leaseOrdinal, 1);
    return leaseOrdinal;
  }

  /** Hands out what can be handed out. To be called after every command that may have marked a queue. */
  assign(): void {
    for (const queue of this.#dirty) {
      queue.dirty = false;
      if (queue.sealed) continue;
      while (queue.ready > 0) {
        const consumer = queue.nextWaiting();
        if (consumer === null) break;
        this.#leaseHead(queue, consumer);
      }
    }
    this.#dirty.length = 0;
  }

  /** Throws if an invariant that spans several objects is broken. Linear in the state; for tests. */
  validate(): void {
    for (const queue of this.queues.values()) {
      let [unsettled, active] = [0, 0];
      for (const consumer of queue.attached) {
        unsettled += consumer.leases.unsettled;
        if (consumer.mode === ConsumerMode.active) active++;
        const shouldWait = consumer.mode === ConsumerMode.active && consumer.hasCredit;
        if (consumer.waiting !== shouldWait) throw new Error(`consumer ${consumer.number} waits wrongly`);
        if (consumer.gone || consumer.owner.consumers.get(consumer.number) !== consumer)
          throw new Error(`consumer ${consumer.number} is not known to its owner`);
      }
      if (unsettled !== queue.unsettled) throw new Error(`queue ${queue.uid} miscounts its leases`);
      if (active !== queue.consumers) throw new Error(`queue ${queue.uid} miscounts its consumers`);
      if (queue.ready > 0 && queue.nextWaiting() !== null) throw new Error(`queue ${queue.uid} holds back a message`);
      if (queue.sealed && (queue.ready > 0 || queue.attached.length > 0))
        throw new Error(`queue ${queue.uid} is sealed, not empty`);
    }
  }

  /** Leases the queue's first ready message. */
  #leaseHead(queue: Queue, consumer: Consumer): number {
    const { fifo, returned } = queue;
    if (returned !== null && returned.length > 0) {
      const { index, ordinal, bytes, history } = returned;
      returned.shift();
      return this.#lease(queue, consumer, index, ordinal, bytes, history);
    }
    const { index, ordinal, bytes } = fifo;
    fifo.shift();
    return this.#lease(queue, consumer, index, ordinal, bytes, 0);
  }

  /** An active consumer must be the first of the waiting ones. */
  #lease(queue: Queue, consumer: Consumer, index: number, ordinal: number, bytes: number, history: number): number {
    const leaseOrdinal = consumer.leases.push(index, ordinal, bytes, history);
    queue.unsettled++;
    this.#fold = (Math.imul(this.#fold ^ leaseOrdinal, 0x9e3779b1) + Math.imul(consumer.number, 31) + index) | 0;
    if (consumer.mode === ConsumerMode.active) {
      if (consumer.hasCredit) queue.rotate();
      else queue.park(consumer);
    }
    const sink = consumer.owner.sink;
    if (sink !== null) {
      const redelivered = (history & redeliveredBit) !== 0;
      sink.lease(consumer.number, leaseOrdinal, index, ordinal, redelivered, history & deliveryCountMax);
    }
    return leaseOrdinal;
  }

  /** The consumer may have gained credit. */
  #credited(consumer: Consumer): void {
    if (consumer.mode !== ConsumerMode.active || consumer.waiting || !consumer.hasCredit) return;
    consumer.queue.wait(consumer);
    this.#markDirty(consumer.queue);
  }

  #markDirty(queue: Queue): void {
    if (queue.dirty) return;
    queue.dirty = true;
    this.#dirty.push(queue);
  }

  #forget(consumer: Consumer): void {
    consumer.owner.consumers.delete(consumer.number);
    consumer.queue.detach(consumer);
  }
}

/** What becomes of a message's history when it goes back. */
function returnedHistory(history: number, failed: boolean): number {
  const count = history & deliveryCountMax;
  return redeliveredBit | (failed && count < deliveryCountMax ? count + 1 : count);
}
