// Snapshots of a shard, taken while entries go on being applied, and back. PURE.
//
// Equal states give equal bytes, whatever their history and whatever happens meanwhile: everything is written in an order and a form that
// follows from the state alone, as it was when the snapshot began.
//
//   what the machine gives (`before`) | suspicions | number of queues
//   queues by uid: uid, arguments | flags, name, times, expirations | fifo | returned | leaving | consumers by (node, number), with leases | waiting order
//   pending removals, ascending | queues with work left | debt | letters, outbox, inbox, parts | time
//
// A queue is captured (its small values written down, its large structures as images) when its turn comes, or before it is touched for the
// first time, whichever is first. Everything else is captured at the beginning.

import type { SnapshotPieces } from '../machine.ts';
import { type ByteReader, ByteWriter, type Steps } from './bytes.ts';
import { Stamps } from './due.ts';
import { Expirations } from './expirations.ts';
import { type QueueImage, Sections, writtenAtOnceMax } from './images.ts';
import { Leases, writeReturning } from './leases.ts';
import { type Consumer, ConsumerMode, type Queue } from './queue.ts';
import { Returned } from './returned.ts';
import type { QueueStore } from './store.ts';

const QueueFlag = { autoDelete: 1, sealed: 2, due: 4, stamps: 8, expirations: 16 } as const;
/** Mostly a piece is larger than asked for by this at most: by what is written in one go. */
const pieceSlackBytes = 16 * 1024;

export class StoreSnapshot implements SnapshotPieces {
  readonly #store: QueueStore;
  readonly #arena = new ByteWriter(8 * 1024);
  readonly #queues: Queue[];
  #written = 0;
  /** What is being written. */
  #current: Sections | null;
  /** What follows the queues. */
  #last: Sections | null;
  /** Distinct arguments, numbered as they come. */
  readonly #texts = new Map<string, number>();
  #closed = false;

  /** Begins a snapshot; another one that is under way is given up. */
  constructor(store: QueueStore, before: Buffer) {
    this.#store = store;
    this.#queues = [...store.queues.values()].sort((a, b) => a.uid - b.uid);
    store.beginSnapshot(this);
    const first = new Sections(this.#arena);
    first.bytes.bytes(before);
    store.suspicions.serialise(first.bytes);
    first.bytes.u32(this.#queues.length);
    first.close();
    this.#current = first;
    this.#last = this.#captureLast();
  }

  next(bytesMax: number): Buffer | null {
    if (this.#closed) throw new Error('the snapshot was given up');
    const writer = new ByteWriter(bytesMax + pieceSlackBytes);
    while (writer.length < bytesMax) {
      const current = this.#current ?? this.#turn(writer);
      if (current === null) break;
      this.#current = current.write(writer, bytesMax) ? null : current;
    }
    const pieces = writer.pieces();
    return pieces.length === 0 ? null : pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces);
  }

  close(): void {
    this.#closed = true;
    this.#store.endSnapshot(this);
  }

  /** Keeps the queue as it is. To be called once per queue, before it changes. */
  capture(queue: Queue): QueueImage {
    const sections = new Sections(this.#arena);
    captureQueue(sections, queue);
    sections.close();
    return { arguments: queue.arguments, sections };
  }

  /** What is to be written next: the next queue, or what follows the queues, or nothing more. */
  #turn(writer: ByteWriter): Sections | null {
    const at = this.#written;
    if (at === this.#queues.length) {
      const last = this.#last;
      this.#last = null;
      return last;
    }
    const queue = this.#queues[at]!;
    this.#written = at + 1;
    writer.u32(queue.uid);
    if (queue.epoch !== this.#store.epoch && isSmall(queue)) {
      // Nobody has touched it, and it has no large structure: without an image.
      queue.epoch = this.#store.epoch;
      this.#writeArguments(writer, queue.arguments);
      captureQueue(new Sections(writer), queue);
      return nothing;
    }
    this.#store.touch(queue);
    const image = queue.image!;
    queue.image = null;
    this.#writeArguments(writer, image.arguments);
    return image.sections;
  }

  /** A number; the first time the text follows. */
  #writeArguments(writer: ByteWriter, text: string): void {
    const texts = this.#texts;
    const number = texts.get(text) ?? texts.size;
    writer.u32(number);
    if (number < texts.size) return;
    texts.set(text, number);
    writer.text(text);
  }

  #captureLast(): Sections {
    const sections = new Sections(this.#arena);
    const store = this.#store;
    const pending = [...store.pendingRemovals].sort((a, b) => a - b);
    for (const queues of [pending, store.leavingUids(), store.unservedUids()]) {
      sections.bytes.u32(queues.length);
      for (const uid of queues) sections.bytes.u32(uid);
    }
    store.debt.capture(sections);
    store.letters.capture(sections);
    store.outbox.capture(sections);
    store.inbox.serialise(sections.bytes);
    store.parts.serialise(sections.bytes);
    sections.bytes.u64(store.expiry.now);
    sections.close();
    return sections;
  }
}

/** Fills an empty store. Its owners tell nobody yet. */
export function* restoreStore(reader: ByteReader, store: QueueStore): Steps {
  store.suspicions.restore(reader);
  const texts: string[] = [];
  for (let count = reader.u32(); count > 0; count--) {
    if (reader.isTired) yield;
    yield* restoreQueue(reader, store, texts);
  }
  for (let count = reader.u32(); count > 0; count--) store.pendingRemovals.add(reader.u32());
  store.restoreWork(restoreUids(reader), restoreUids(reader));
  yield* store.debt.restore(reader, store.live);
  const countLive = (index: number) => store.live.add(index);
  yield* store.letters.restore(reader, countLive, (policy) => {
    const queue = store.queues.get(policy.terms.uid);
    if (queue === undefined) throw new Error(`dead letters of queue ${policy.terms.uid}, which is not there`);
    queue.policy = policy;
  });
  yield* store.outbox.restore(reader, (index, _ordinal, mark) => {
    countLive(index);
    store.letters.retain(mark);
  });
  store.inbox.restore(reader);
  yield* store.parts.restore(reader);
  store.expiry.now = reader.u64();
}

function restoreUids(reader: ByteReader): number[] {
  const uids: number[] = [];
  for (let count = reader.u32(); count > 0; count--) uids.push(reader.u32());
  return uids;
}

/** It has so little that all of it is written down at once, and at little cost. */
function isSmall(queue: Queue): boolean {
  const { fifo, returned, leaving, unsettled, attached, expirations } = queue;
  if (expirations !== null && expirations.length > writtenAtOnceMax) return false;
  const messages = fifo.length + (returned === null ? 0 : returned.length) + unsettled;
  return leaving === null && messages <= writtenAtOnceMax && attached.length <= writtenAtOnceMax;
}

const nothing = new Sections(new ByteWriter(0));

function captureQueue(sections: Sections, queue: Queue): void {
  const { bytes } = sections;
  const isDue = queue.due < Number.POSITIVE_INFINITY;
  bytes.u8(
    (queue.autoDelete ? QueueFlag.autoDelete : 0) |
      (queue.sealed ? QueueFlag.sealed : 0) |
      (isDue ? QueueFlag.due : 0) |
      (queue.stamps !== null ? QueueFlag.stamps : 0) |
      (queue.expirations !== null ? QueueFlag.expirations : 0),
  );
  bytes.text(queue.vhost);
  bytes.text(queue.name);
  if (isDue) bytes.u64(queue.due);
  bytes.u64(queue.lastUsed);
  queue.stamps?.serialise(bytes);
  queue.expirations?.capture(sections);
  queue.fifo.capture(sections);
  if (queue.returned === null) bytes.u32(0);
  else queue.returned.capture(sections);
  captureLeaving(sections, queue.leaving ?? []);
  bytes.u32(queue.attached.length);
  if (queue.attached.length === 0) return;
  if (queue.attached.length === 1) {
    // Most queues that have any have one.
    const consumer = queue.attached[0]!;
    captureConsumer(sections, consumer);
    bytes.u32(consumer.waiting ? 1 : 0);
    if (consumer.waiting) bytes.u32(0);
    return;
  }
  const consumers = queue.attachedSorted();
  const places = new Map<Consumer, number>();
  for (const consumer of consumers) {
    places.set(consumer, places.size);
    captureConsumer(sections, consumer);
  }
  const waiting = [...queue.waitingOrder()];
  bytes.u32(waiting.length);
  for (const consumer of waiting) bytes.u32(places.get(consumer)!);
}

/** As one list: whose the leases were does not matter any more. */
function captureLeaving(sections: Sections, leaving: readonly Leases[]): void {
  sections.bytes.u32(leaving.reduce((sum, leases) => sum + leases.unsettled, 0));
  for (const leases of leaving) leases.captureRows(sections, writeReturning);
}

function captureConsumer(sections: Sections, consumer: Consumer): void {
  const { bytes } = sections;
  bytes.u32(consumer.owner.node);
  bytes.u64(consumer.owner.incarnation);
  bytes.u32(consumer.number);
  bytes.u8(consumer.mode);
  bytes.u8(consumer.flags);
  bytes.u8(consumer.queue.exclusive === consumer ? 1 : 0);
  bytes.i32(consumer.priority);
  bytes.u32(consumer.unsettledMax);
  bytes.u64(consumer.grantedTo);
  bytes.text(consumer.tag);
  consumer.leases.capture(sections);
}

function* restoreQueue(reader: ByteReader, store: QueueStore, texts: string[]): Steps {
  const uid = reader.u32();
  const text = reader.u32();
  if (text === texts.length) texts.push(reader.text());
  const flags = reader.u8();
  const autoDelete = (flags & QueueFlag.autoDelete) !== 0;
  const queue = store.create({ uid, vhost: reader.text(), name: reader.text(), autoDelete }, texts[text]!);
  queue.sealed = (flags & QueueFlag.sealed) !== 0;
  if (queue.sealed) queue.policy = null;
  if ((flags & QueueFlag.due) !== 0) store.expiry.restore(queue, reader.u64());
  queue.lastUsed = reader.u64();
  if ((flags & QueueFlag.stamps) !== 0) {
    queue.stamps = new Stamps();
    queue.stamps.restore(reader);
  }
  if ((flags & QueueFlag.expirations) !== 0) {
    queue.expirations = new Expirations();
    yield* queue.expirations.restore(reader);
  }
  yield* queue.fifo.restore(reader, store.live);
  const returned = new Returned();
  yield* returned.restore(reader, store.live);
  queue.bytes = queue.fifo.totalBytes + returned.totalBytes;
  if (returned.length > 0) queue.returned = returned;
  yield* restoreLeaving(reader, store, queue);
  const attached = reader.u32();
  if (attached === 0) return;
  const consumers: Consumer[] = [];
  for (let i = 0; i < attached; i++) {
    if (reader.isTired) yield;
    consumers.push(yield* restoreConsumer(reader, store, queue));
  }
  for (let count = reader.u32(); count > 0; count--) queue.wait(consumers[reader.u32()]!);
}

function* restoreLeaving(reader: ByteReader, store: QueueStore, queue: Queue): Steps {
  const count = reader.u32();
  if (count === 0) return;
  const leases = new Leases();
  for (let left = count; left > 0; left--) {
    if (reader.isTired) yield;
    reader.reference();
    leases.push(reader.index, reader.ordinal, reader.bytes, reader.u32());
    store.live.add(reader.index);
    queue.bytes += reader.bytes;
  }
  queue.leaving = [leases];
  queue.unsettled += count;
}

function* restoreConsumer(reader: ByteReader, store: QueueStore, queue: Queue): Steps<Consumer> {
  const node = reader.u32();
  const incarnation = reader.u64();
  const number = reader.u32();
  const mode = reader.u8() as ConsumerMode;
  const flags = reader.u8();
  const exclusive = reader.u8() === 1;
  const priority = reader.i32();
  const unsettledMax = reader.u32();
  const grantedTo = reader.u64();
  const tag = reader.text();
  const owner = store.owner(node, incarnation, null);
  const consumer = store.place(owner, queue, { number, mode, priority, flags, tag, unsettledMax, grantedTo });
  if (exclusive) queue.exclusive = consumer;
  if (mode === ConsumerMode.active) queue.consumers++;
  const leased = yield* consumer.leases.restore(reader, store.live);
  queue.bytes += leased;
  queue.unsettled += consumer.leases.unsettled;
  return consumer;
}
