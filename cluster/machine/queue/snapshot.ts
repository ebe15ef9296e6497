// The queues of a shard as bytes and back. Equal states give equal bytes, whatever their history: everything is written in an order and
// a form that follows from the state alone. PURE.
//
//   distinct arguments, ascending
//   queues by uid: uid, flags, arguments' number | fifo | returned | consumers by (node, number), with leases | waiting order
//   pending removals, ascending | debt

import type { PipeSink } from '../machine.ts';
import type { ByteReader, ByteWriter } from './bytes.ts';
import { type Consumer, ConsumerMode, type Queue } from './queue.ts';
import { Returned } from './returned.ts';
import { QueueStore } from './store.ts';

const QueueFlag = { autoDelete: 1, sealed: 2 } as const;

export function serialiseStore(writer: ByteWriter, store: QueueStore): void {
  const queues = [...store.queues.values()].sort((a, b) => a.uid - b.uid);
  const texts = [...new Set(queues.map((queue) => queue.arguments))].sort();
  writer.u32(texts.length);
  for (const text of texts) writer.text(text);
  const textNumbers = new Map(texts.map((text, number) => [text, number]));
  writer.u32(queues.length);
  for (const queue of queues) serialiseQueue(writer, queue, textNumbers.get(queue.arguments)!);
  const pending = [...store.pendingRemovals].sort((a, b) => a - b);
  writer.u32(pending.length);
  for (const uid of pending) writer.u32(uid);
  store.debt.serialise(writer);
}

/** Whom an owner's leases are to be told from now on. */
export type SinkOf = (node: number, incarnation: number) => PipeSink | null;

export function restoreStore(reader: ByteReader, sinkOf: SinkOf): QueueStore {
  const store = new QueueStore();
  const texts: string[] = [];
  for (let count = reader.u32(); count > 0; count--) texts.push(reader.text());
  for (let count = reader.u32(); count > 0; count--) restoreQueue(reader, store, texts, sinkOf);
  for (let count = reader.u32(); count > 0; count--) store.pendingRemovals.add(reader.u32());
  store.debt.restore(reader, store.live);
  return store;
}

function serialiseQueue(writer: ByteWriter, queue: Queue, argumentsNumber: number): void {
  writer.u32(queue.uid);
  writer.u8((queue.autoDelete ? QueueFlag.autoDelete : 0) | (queue.sealed ? QueueFlag.sealed : 0));
  writer.u32(argumentsNumber);
  queue.fifo.serialise(writer);
  if (queue.returned === null) writer.u32(0);
  else queue.returned.serialise(writer);
  writer.u32(queue.attached.length);
  if (queue.attached.length === 0) return;
  const consumers = queue.attachedSorted();
  const places = new Map<Consumer, number>();
  for (const consumer of consumers) {
    places.set(consumer, places.size);
    serialiseConsumer(writer, consumer);
  }
  const waiting = [...queue.waitingOrder()];
  writer.u32(waiting.length);
  for (const consumer of waiting) writer.u32(places.get(consumer)!);
}

function serialiseConsumer(writer: ByteWriter, consumer: Consumer): void {
  writer.u32(consumer.owner.node);
  writer.u64(consumer.owner.incarnation);
  writer.u32(consumer.number);
  writer.u8(consumer.mode);
  writer.u8(consumer.flags);
  writer.u8(consumer.queue.exclusive === consumer ? 1 : 0);
  writer.i32(consumer.priority);
  writer.u32(consumer.unsettledMax);
  writer.u64(consumer.grantedTo);
  writer.text(consumer.tag);
  consumer.leases.serialise(writer);
}

function restoreQueue(reader: ByteReader, store: QueueStore, texts: readonly string[], sinkOf: SinkOf): void {
  const uid = reader.u32();
  const flags = reader.u8();
  const queue = store.create(uid, (flags & QueueFlag.autoDelete) !== 0, texts[reader.u32()]!);
  queue.sealed = (flags & QueueFlag.sealed) !== 0;
  queue.fifo.restore(reader, store.live);
  const returned = new Returned();
  queue.bytes = queue.fifo.totalBytes + returned.restore(reader, store.live);
  if (returned.length > 0) queue.returned = returned;
  const attached = reader.u32();
  if (attached === 0) return;
  const consumers: Consumer[] = [];
  for (let i = 0; i < attached; i++) consumers.push(restoreConsumer(reader, store, queue, sinkOf));
  for (let count = reader.u32(); count > 0; count--) queue.wait(consumers[reader.u32()]!);
}

function restoreConsumer(reader: ByteReader, store: QueueStore, queue: Queue, sinkOf: SinkOf): Consumer {
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
  const owner = store.owner(node, incarnation, sinkOf(node, incarnation));
  const consumer = store.place(owner, queue, { number, mode, priority, flags, tag, unsettledMax, grantedTo });
  if (exclusive) queue.exclusive = consumer;
  if (mode === ConsumerMode.active) queue.consumers++;
  queue.bytes += consumer.leases.restore(reader, store.live);
  queue.unsettled += consumer.leases.unsettled;
  return consumer;
}
