// The queues of one shard and the rules by which messages move: enqueue, assign, settle, return, drop. PURE.
//
// State owned: queues with their consumers, owners (the consumers of each pipe), live counts, debt. Knows nothing of batches and pipes'
// sequences; `shard.ts` reads those and calls in here.
//
// Invariants: those of `queue.ts`; a reference to a message is counted in `live` from its enqueueing until it is settled, purged or
// dropped; what one command drops is worked off in bounded steps (`workOff`), in the meantime it is debt: gone for everybody, but
// still counted as live.

import { ConsumeFlag, SettleOperation } from '../commands.ts';
import { isEndedVolatileGroup } from '../groups.ts';
import type { PipeSink } from '../machine.ts';
import { Inbox, Outbox } from '../outbox.ts';
import { Debt } from './debt.ts';
import { Expirations } from './expirations.ts';
import { Expiry } from './expiry.ts';
import { ChunkPool } from './fifo.ts';
import type { QueueImage } from './images.ts';
import { deliveryCountMax, Leases, redeliveredBit } from './leases.ts';
import { type LetterReason, Letters } from './letters.ts';
import { LiveCounts } from './live.ts';
import { Parts } from './parts.ts';
import { Consumer, ConsumerMode, type ConsumerOptions, type Owner, Queue, type QueueIdentity } from './queue.ts';
import { Suspicions } from './suspicions.ts';

/** What one entry may do. Part of the machine's version (`versions.ts`): all replicas must agree. */
export interface StoreBounds {
  /** Dropped messages worked off with each entry. */
  readonly debtPerEntryMax: number;
  /** Leases of consumers that went, returned with each entry. */
  readonly returnsPerEntryMax: number;
  /** Messages handed out with each entry, beyond those that are handed out as they come in. */
  readonly assignmentsPerEntryMax: number;
  /** Messages dropped and queues looked at, because of time, with each entry. */
  readonly duePerEntryMax: number;
  /** All of these but assignments: so many with each millisecond since the entry before, of which there is one at least. */
  readonly workPerMillisecond: number;
  /** Queues keep to their maximum lengths, and messages expire by what their publishers said. */
  readonly keepsLimits: boolean;
}

/** Messages that one publish drops at most because its queue is too long; the rest waits for the queue's next turn. */
const dropsPerPublishMax = 16;
/** After a purge the expirations of so many unsettled messages are picked out of all; with more they stay until none is unsettled. */
const pickedMax = 4096;

export const storeBounds: StoreBounds = {
  debtPerEntryMax: 16_384,
  returnsPerEntryMax: 8_192,
  assignmentsPerEntryMax: 16_384,
  duePerEntryMax: 16_384,
  workPerMillisecond: Number.POSITIVE_INFINITY,
  keepsLimits: false,
};
export const secondStoreBounds: StoreBounds = { ...storeBounds, keepsLimits: true };
/** Entries that follow each other closely share what there is: by its own bounds alone each batch that comes would bring as much work again. */
export const thirdStoreBounds: StoreBounds = { ...secondStoreBounds, workPerMillisecond: 512 };

/** A snapshot under way, as far as the store knows it. */
export interface QueueCapture {
  /** The queue is about to change, for the first time since the snapshot began. */
  capture(queue: Queue): QueueImage;
  close(): void;
}

export class QueueStore {
  readonly queues = new Map<number, Queue>();
  /** By node: a node has at most one open incarnation. */
  readonly owners = new Map<number, Owner>();
  readonly live = new LiveCounts();
  readonly parts = new Parts(this.live);
  readonly letters = new Letters();
  readonly outbox = new Outbox();
  readonly inbox = new Inbox();
  readonly suspicions = new Suspicions();
  readonly expiry: Expiry;
  readonly debt: Debt;
  /** Sealed without having been deleted by the metadata: somebody has to see to it. */
  readonly pendingRemovals = new Set<number>();
  /** Folds every assignment and settlement since the last `takeFold`, for the state hash. */
  #fold = 0;
  readonly #pool = new ChunkPool();
  /** Queues that may have both something ready and somebody waiting; those that one entry did not get done come first. */
  readonly #dirty: Queue[] = [];
  /** Queues with leases that go back in steps, in the order in which that began. */
  readonly #leaving: Queue[] = [];
  /** Milliseconds from the entry before to the one that is being applied, one at least. */
  #elapsed = 1;
  /** What the entry being applied may still return and assign. */
  #returnsLeft = 0;
  #assignmentsLeft = 0;
  /** Messages that it may still drop from queues that are too long, beside those that publishes drop. */
  #dropsLeft = 0;
  /** What it dropped of debt. */
  #workedOff = 0;
  /** Those of the version that the state is of. */
  bounds: StoreBounds;
  /** Number of the last snapshot begun, and the one under way. */
  epoch = 0;
  #snapshot: QueueCapture | null = null;

  constructor(bounds: StoreBounds) {
    this.bounds = bounds;
    this.debt = new Debt(this.#pool);
    this.expiry = new Expiry(this);
    this.#refill();
  }

  /** What this entry did, for the state hash. */
  fold(value: number): void {
    this.#fold = (Math.imul(this.#fold ^ value, 0x27d4eb2f) + 1) | 0;
  }

  takeFold(): number {
    const fold = this.#fold;
    this.#fold = 0;
    return fold;
  }

  create(identity: QueueIdentity, argumentsJson: string): Queue {
    const queue = new Queue(identity, argumentsJson, this.#pool, this.epoch);
    this.queues.set(queue.uid, queue);
    return queue;
  }

  /** Other arguments from now on. */
  configure(queue: Queue, argumentsJson: string): void {
    this.touch(queue);
    const { policy } = queue;
    queue.configure(argumentsJson);
    if (policy !== null && queue.policy !== policy) this.letters.retire(policy);
    this.expiry.begin(queue);
    if (this.bounds.keepsLimits) this.markDirty(queue);
  }

  /** The metadata has deleted the queue. */
  delete(queue: Queue): void {
    this.touch(queue);
    if (!queue.sealed) this.seal(queue);
    this.queues.delete(queue.uid);
    this.pendingRemovals.delete(queue.uid);
  }

  /** Empties the queue and ends its consumers; nothing enters it any more. All that it held is debt. */
  seal(queue: Queue): void {
    this.touch(queue);
    queue.sealed = true;
    for (const consumer of queue.attachedSorted()) {
      const { leases, owner } = consumer;
      this.debt.addLeases(leases);
      if (consumer.waiting) queue.park(consumer);
      if (consumer.mode === ConsumerMode.active) owner.sink?.consumerCancelled(consumer.number);
      this.#forget(consumer);
    }
    for (const leases of queue.leaving ?? []) this.debt.addLeases(leases);
    queue.leaving = null;
    this.purge(queue);
    this.expiry.end(queue);
    if (queue.policy !== null) this.letters.retire(queue.policy);
    queue.policy = null;
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
    this.touch(queue);
    const { fifo, returned } = queue;
    const count = queue.ready;
    if (returned !== null) {
      queue.bytes -= returned.totalBytes;
      this.debt.addReturned(returned);
      queue.returned = null;
    }
    queue.bytes -= fifo.totalBytes;
    this.debt.addFifo(fifo);
    if (queue.expirations !== null) this.#pickExpirations(queue, queue.expirations);
    return count;
  }

  /** Only unsettled messages are left. */
  #pickExpirations(queue: Queue, expirations: Expirations): void {
    if (queue.unsettled === 0) queue.expirations = null;
    if (queue.unsettled === 0 || queue.unsettled > pickedMax || queue.leaving !== null) return;
    const left: { readonly index: number; readonly ordinal: number; readonly due: number }[] = [];
    for (const { leases } of queue.attached)
      for (let more = leases.seek(0); more; more = leases.advance()) {
        const { index, ordinal } = leases;
        const due = expirations.due(index, ordinal);
        if (due < Number.POSITIVE_INFINITY) left.push({ index, ordinal, due });
      }
    left.sort((a, b) => a.index - b.index || a.ordinal - b.ordinal);
    queue.expirations = left.length === 0 ? null : new Expirations();
    for (const { index, ordinal, due } of left) queue.expirations!.add(index, ordinal, due);
  }

  /** There is work left that later entries have to go on with. */
  get hasWork(): boolean {
    return this.debt.length > 0 || this.outbox.debt > 0 || this.#leaving.length > 0 || this.#dirty.length > 0;
  }

  /** Messages that the last entry returned, handed out and dropped in steps. */
  get work(): number {
    const { returnsPerEntryMax, assignmentsPerEntryMax, debtPerEntryMax } = this.bounds;
    const max = this.allowed(returnsPerEntryMax) + assignmentsPerEntryMax + this.allowed(debtPerEntryMax);
    const left = this.#returnsLeft + this.#assignmentsLeft + this.#dropsLeft;
    return max - left + this.#workedOff + this.expiry.work;
  }

  /** An entry with this stamp begins: what one entry may do at once may be done again, and what has fallen due is done. */
  begin(stamp: number): void {
    this.#elapsed = Math.max(1, stamp - this.expiry.now);
    this.#refill();
    this.expiry.advance(stamp);
  }

  #refill(): void {
    this.#returnsLeft = this.allowed(this.bounds.returnsPerEntryMax);
    this.#assignmentsLeft = this.bounds.assignmentsPerEntryMax;
    this.#dropsLeft = this.allowed(this.bounds.debtPerEntryMax);
  }

  /** What is left of a bound for an entry that comes so soon after the one before. */
  allowed(perEntryMax: number): number {
    return Math.min(perEntryMax, this.bounds.workPerMillisecond * this.#elapsed);
  }

  /** Goes on with work that was left, as far as one entry may. */
  workOff(): void {
    this.#returnLeaving();
    const dropsMax = this.allowed(this.bounds.debtPerEntryMax);
    this.#workedOff = this.debt.workOff(dropsMax, this);
    this.#workedOff += this.outbox.workOff(dropsMax, this, this.letters);
    this.assign();
  }

  /** One more refers to the message. */
  retain(index: number, ordinal: number): void {
    this.live.add(index);
    if (!this.parts.isEmpty) this.parts.retain(index, ordinal);
  }

  /** One less refers to the message. */
  release(index: number, ordinal: number): void {
    this.live.remove(index);
    if (!this.parts.isEmpty) this.parts.release(index, ordinal);
  }

  /** The queue has given the message up. If its dead letters go anywhere it becomes one, and stays alive. */
  dropMessage(queue: Queue, index: number, ordinal: number, reason: LetterReason): void {
    if (queue.policy === null) this.release(index, ordinal);
    else this.letters.push(queue.policy, index, ordinal, reason);
    this.#fold = (Math.imul(this.#fold ^ ordinal, 0xc2b2ae35) + index) | 0;
  }

  /** The same of its first ready message. */
  dropFirst(queue: Queue, reason: LetterReason): void {
    const { fifo, returned } = queue;
    const from = returned !== null && returned.length > 0 ? returned : fifo;
    const { index, ordinal, bytes } = from;
    from.shift();
    queue.bytes -= bytes;
    if (queue.expirations !== null) this.#forgetExpiration(queue, queue.expirations, index, ordinal);
    this.dropMessage(queue, index, ordinal, reason);
  }

  /** False: the queue is full and refuses it. `expiration`: milliseconds that the message lives by its publisher's will; -1: no word of it. */
  enqueue(queue: Queue, index: number, ordinal: number, bytes: number, expiration = -1): boolean {
    if (queue.lastIndex === index && queue.lastOrdinal === ordinal) return true;
    const { keepsLimits } = this.bounds;
    if (keepsLimits && queue.refuses(bytes)) {
      this.#refuse(queue, index, ordinal);
      return false;
    }
    queue.lastIndex = index;
    queue.lastOrdinal = ordinal;
    this.touch(queue);
    this.retain(index, ordinal);
    this.#fold = (Math.imul(this.#fold ^ queue.uid, 0x85ebca6b) + bytes) | 0;
    if (queue.stamps !== null) this.expiry.came(queue, index);
    const expires = keepsLimits && expiration >= 0;
    const consumer = queue.nextForNew();
    if (consumer !== null) {
      queue.bytes += bytes;
      // It may come back.
      if (expires) this.#expire(queue, index, ordinal, expiration);
      this.#lease(queue, consumer, index, ordinal, bytes, 0);
    } else if (queue.terms.messageTtl === 0 || (expires && expiration === 0)) {
      this.dropMessage(queue, index, ordinal, 'expired');
    } else {
      queue.bytes += bytes;
      queue.fifo.push(index, ordinal, bytes);
      if (expires) this.#expire(queue, index, ordinal, expiration);
      if (keepsLimits && queue.isTooLong) this.#trim(queue, dropsPerPublishMax);
      if (queue.stamps !== null || queue.expirations !== null) this.expiry.soon(queue);
    }
    return true;
  }

  #expire(queue: Queue, index: number, ordinal: number, expiration: number): void {
    queue.expirations ??= new Expirations();
    // A stamp of 0 would mean that the message has left.
    queue.expirations.add(index, ordinal, Math.max(1, this.expiry.now + expiration));
  }

  #forgetExpiration(queue: Queue, expirations: Expirations, index: number, ordinal: number): void {
    expirations.remove(index, ordinal);
    // What a purge left behind goes with the last message.
    if (expirations.length === 0 || queue.ready + queue.unsettled === 0) queue.expirations = null;
  }

  /** A message that the queue has no room for. */
  #refuse(queue: Queue, index: number, ordinal: number): void {
    this.fold(queue.uid);
    if (queue.terms.overflow !== 'reject-publish-dlx') return;
    this.touch(queue);
    this.retain(index, ordinal);
    this.dropMessage(queue, index, ordinal, 'maxlen');
  }

  /** Drops what is too much from the front, up to so many messages. What is left of it comes with the queue's next turn. */
  #trim(queue: Queue, dropsMax: number): number {
    let drops = 0;
    for (; queue.isTooLong; drops++) {
      if (drops === dropsMax) {
        this.markDirty(queue);
        break;
      }
      this.dropFirst(queue, 'maxlen');
    }
    return drops;
  }

  owner(node: number, incarnation: number, sink: PipeSink | null): Owner {
    let owner = this.owners.get(node);
    if (owner === undefined) {
      owner = { node, incarnation, consumers: new Map(), sink, suspended: this.suspicions.has(node, incarnation) };
      this.owners.set(node, owner);
    }
    if (owner.incarnation !== incarnation) throw new Error(`node ${node} has consumers of two incarnations`);
    return owner;
  }

  /** A new consumer. The number must be free in its owner. */
  attach(owner: Owner, queue: Queue, options: ConsumerOptions): Consumer {
    this.touch(queue);
    const consumer = this.place(owner, queue, options);
    if (consumer.mode === ConsumerMode.active) {
      queue.consumers++;
      this.expiry.used(queue);
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
    this.touch(consumer.queue);
    consumer.unsettledMax = unsettledMax;
    consumer.grantedTo = Math.max(consumer.grantedTo, grantedTo);
    if (consumer.waiting && !consumer.hasCredit) consumer.queue.park(consumer);
    this.#credited(consumer);
  }

  /** The consumer gets nothing more; what it holds stays out. It goes at once if it holds nothing. */
  drain(consumer: Consumer): void {
    if (consumer.mode !== ConsumerMode.active) return;
    const { queue } = consumer;
    this.touch(queue);
    consumer.mode = ConsumerMode.draining;
    if (consumer.waiting) queue.park(consumer);
    if (queue.exclusive === consumer) queue.exclusive = null;
    queue.consumers--;
    this.expiry.used(queue);
    if (consumer.leases.unsettled === 0) this.#forget(consumer);
    if (queue.autoDelete && queue.consumers === 0) this.sealForRemoval(queue);
  }

  /** The consumer goes; what it holds goes back, as failed deliveries: at once if that is little, else in steps. */
  withdraw(consumer: Consumer): void {
    const { leases } = consumer;
    this.touch(consumer.queue);
    if (leases.unsettled > this.#returnsLeft) this.#leave(consumer);
    else {
      this.#returnsLeft -= leases.unsettled;
      this.settle(consumer, SettleOperation.requeue, true, 0, leases.next);
    }
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

  /** A pipe of the node has ended. */
  endPipe(node: number, incarnation: number): void {
    this.parts.drop(node);
    this.endOwner(node);
    this.endIncarnations(node, incarnation);
  }

  /** A node's incarnations up to this one have ended, and with them all that lived on them. */
  endIncarnations(node: number, incarnation: number): void {
    this.suspicions.end(node, incarnation);
    const isEnded = (group: number) => isEndedVolatileGroup(group, node, incarnation);
    for (const target of this.outbox.known().filter(isEnded)) this.outbox.end(target);
    for (const source of this.inbox.known().filter(isEnded)) this.inbox.end(source);
  }

  /** The consumers of this incarnation, and of older ones, get nothing from now on, or do again. */
  suspect(node: number, incarnation: number, suspected: boolean): void {
    if (!this.suspicions.set(node, incarnation, suspected)) return;
    this.fold(incarnation);
    const owner = this.owners.get(node);
    const suspended = owner !== undefined && this.suspicions.has(node, owner.incarnation);
    if (owner === undefined || owner.suspended === suspended) return;
    owner.suspended = suspended;
    for (const consumer of [...owner.consumers.values()].sort((a, b) => a.number - b.number)) {
      this.touch(consumer.queue);
      if (consumer.waiting) consumer.queue.park(consumer);
      else this.#credited(consumer);
    }
  }

  /** Settles what is unsettled of leases [first, first + count). Anything else in the range is ignored. */
  settle(consumer: Consumer, operation: SettleOperation, failed: boolean, first: number, count: number): void {
    const { leases, queue } = consumer;
    this.touch(queue);
    const returns = operation === SettleOperation.requeue || operation === SettleOperation.release;
    const before = leases.unsettled;
    let bytes = 0;
    for (let more = leases.seek(first, first + count); more; more = leases.advance()) {
      const { index, ordinal } = leases;
      if (returns) {
        const { history } = leases;
        const next = operation === SettleOperation.release ? history : returnedHistory(history, failed);
        queue.giveBack(index, ordinal, leases.bytes, next);
      } else {
        if (operation === SettleOperation.discard) this.dropMessage(queue, index, ordinal, 'rejected');
        else this.release(index, ordinal);
        if (queue.expirations !== null) queue.expirations.remove(index, ordinal);
        bytes += leases.bytes;
      }
      leases.settle();
    }
    const settled = before - leases.unsettled;
    if (settled === 0) return;
    queue.unsettled -= settled;
    queue.bytes -= bytes;
    const { expirations } = queue;
    if (expirations !== null && (expirations.length === 0 || queue.unsettled + queue.ready === 0))
      queue.expirations = null;
    this.#fold = (Math.imul(this.#fold ^ settled, 0x9e3779b1) + first) | 0;
    if (returns) this.markDirty(queue);
    this.#credited(consumer);
    if (consumer.mode === ConsumerMode.draining && leases.unsettled === 0) this.#forget(consumer);
  }

  /** Leases the first ready message to a polled consumer, and settles it at once if `noAck`. Returns the lease's ordinal. */
  poll(consumer: Consumer, noAck: boolean): number {
    this.touch(consumer.queue);
    const leaseOrdinal = this.#leaseHead(consumer.queue, consumer);
    // The next one may expire before it does.
    if (consumer.queue.expirations !== null) this.expiry.soon(consumer.queue);
    if (noAck) this.settle(consumer, SettleOperation.accept, false, leaseOrdinal, 1);
    return leaseOrdinal;
  }

  /** Hands out what can be handed out, as far as one entry may. To be called after every command that may have marked a queue. */
  assign(): void {
    const dirty = this.#dirty;
    let served = 0;
    while (served < dirty.length && this.#serve(dirty[served]!)) served++;
    if (served === dirty.length) dirty.length = 0;
    else dirty.splice(0, served);
  }

  /** Before anything of a queue, its consumers or their leases changes: a snapshot under way must have it as it was. */
  touch(queue: Queue): void {
    if (queue.epoch !== this.epoch) this.#capture(queue);
  }

  /** Somebody is to hear of queues before they change. */
  get isCaptured(): boolean {
    return this.#snapshot !== null;
  }

  /** From now on the snapshot hears of queues before they change. Another one hears no more. */
  beginSnapshot(snapshot: QueueCapture): void {
    this.#snapshot?.close();
    this.#snapshot = snapshot;
    this.#pool.imaged = true;
    this.epoch++;
  }

  endSnapshot(snapshot: QueueCapture): void {
    if (this.#snapshot !== snapshot) return;
    this.#snapshot = null;
    this.#pool.imaged = false;
  }

  /** Queues with leases that go back in steps, in the order of this work; and those that were not fully served, likewise. */
  leavingUids(): number[] {
    return this.#leaving.filter((queue) => !queue.sealed).map((queue) => queue.uid);
  }
  unservedUids(): number[] {
    return this.#dirty.filter((queue) => !queue.sealed).map((queue) => queue.uid);
  }

  restoreWork(leaving: readonly number[], unserved: readonly number[]): void {
    for (const uid of leaving) this.#leaving.push(this.queues.get(uid)!);
    for (const uid of unserved) this.markDirty(this.queues.get(uid)!);
  }

  /** Throws if an invariant that spans several objects is broken. Linear in the state; for tests. */
  validate(): void {
    for (const queue of this.queues.values()) {
      let [unsettled, active] = [0, 0];
      for (const consumer of queue.attached) {
        unsettled += consumer.leases.unsettled;
        if (consumer.mode === ConsumerMode.active) active++;
        if (consumer.waiting !== consumer.mayWait) throw new Error(`consumer ${consumer.number} waits wrongly`);
        if (consumer.gone || consumer.owner.consumers.get(consumer.number) !== consumer)
          throw new Error(`consumer ${consumer.number} is not known to its owner`);
      }
      for (const leases of queue.leaving ?? []) unsettled += leases.unsettled;
      if (unsettled !== queue.unsettled) throw new Error(`queue ${queue.uid} miscounts its leases`);
      if (active !== queue.consumers) throw new Error(`queue ${queue.uid} miscounts its consumers`);
      const { ready } = queue;
      const isFresh = ready === 0 || this.expiry.firstDue(queue) > this.expiry.now;
      const isHeld = queue.dirty || queue.leaving !== null;
      if (ready > 0 && isFresh && !isHeld && queue.nextWaiting() !== null)
        throw new Error(`queue ${queue.uid} holds back a message`);
      this.expiry.validate(queue);
      if (queue.sealed && (queue.ready > 0 || queue.attached.length > 0))
        throw new Error(`queue ${queue.uid} is sealed, not empty`);
    }
  }

  /** Hands out what the queue has to those who wait. False: it has to go on with the next entry. */
  #serve(queue: Queue): boolean {
    if (!queue.sealed && queue.leaving === null) {
      this.touch(queue);
      if (this.bounds.keepsLimits && queue.isTooLong) {
        this.#dropsLeft -= this.#trim(queue, this.#dropsLeft);
        if (queue.isTooLong) return false;
      }
      let consumer: Consumer | null = null;
      while (queue.ready > 0 && this.expiry.isFresh(queue)) {
        consumer = queue.ready > 0 ? queue.nextWaiting() : null;
        if (consumer === null || this.#assignmentsLeft === 0) break;
        this.#assignmentsLeft--;
        this.#leaseHead(queue, consumer);
        consumer = null;
      }
      this.expiry.soon(queue);
      if (consumer !== null) return false;
    }
    queue.dirty = false;
    return true;
  }

  /** What the consumer holds goes back from now on, step by step. */
  #leave(consumer: Consumer): void {
    const { queue, leases } = consumer;
    consumer.leases = new Leases();
    if (queue.leaving === null) {
      queue.leaving = [];
      this.#leaving.push(queue);
    }
    queue.leaving.push(leases);
  }

  /** One step of it, for the queue that has waited longest. */
  #returnLeaving(): void {
    const leaving = this.#leaving;
    while (leaving.length > 0 && this.#returnsLeft > 0) {
      const queue = leaving[0]!;
      // Sealed meanwhile: what it had is debt.
      if (queue.leaving !== null) {
        this.touch(queue);
        const before = this.#returnsLeft;
        while (queue.leaving.length > 0 && this.#returnsLeft > 0) {
          this.#returnSome(queue, queue.leaving[0]!);
          if (queue.leaving[0]!.unsettled === 0) queue.leaving.shift();
        }
        const returned = before - this.#returnsLeft;
        queue.unsettled -= returned;
        // Once, however many lists it took: a snapshot has them as one.
        this.#fold = (Math.imul(this.#fold ^ queue.uid, 0x9e3779b1) + returned) | 0;
        if (queue.leaving.length > 0) return;
        queue.leaving = null;
        this.markDirty(queue);
      }
      leaving.shift();
    }
  }

  #returnSome(queue: Queue, leases: Leases): void {
    for (let more = leases.seek(0); more && this.#returnsLeft > 0; more = leases.advance()) {
      queue.giveBack(leases.index, leases.ordinal, leases.bytes, returnedHistory(leases.history, true));
      leases.settle();
      this.#returnsLeft--;
    }
  }

  #capture(queue: Queue): void {
    queue.epoch = this.epoch;
    if (this.#snapshot !== null) queue.image = this.#snapshot.capture(queue);
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
    if (consumer.waiting || !consumer.mayWait) return;
    consumer.queue.wait(consumer);
    this.markDirty(consumer.queue);
  }

  markDirty(queue: Queue): void {
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
