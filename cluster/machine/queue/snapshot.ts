// The queues of a shard as bytes and back. Equal states give equal bytes, whatever their history: everything is written in an order and
// a form that follows from the state alone. PURE.
//
//   queues by uid: uid, flags, arguments | fifo | returned | consumers by (node, number), with leases | waiting order
//   pending removals, ascending | debt

import type { PipeSink } from '../machine.ts';
import type { ByteReader, ByteWriter } from './bytes.ts';
import { type Consumer, ConsumerMode, type Queue } from './queue.ts';
import { Returned } from './returned.ts';
import { QueueStore } from './store.ts';

const QueueFlag = { autoDelete: 1, sealed: 2 } as const;

export function serialiseStore(writer: ByteWriter, store: QueueStore): void {
  const queues = [...store.queues.values()].sort((a, b) => a.uid - b.uid);
  writer.u32(queues.length);
  for (const queue of queues) serialiseQueue(writer, queue);
  const pending = [...store.pendingRemovals].sort((a, b) => a - b);
  writer.u32(pending.length);
  for (const uid of pending) writer.u32(uid);
  store.debt.serialise(writer);
}

/** `sinkOf`: whom an owner's leases are to be told from now on. */
export function restoreStore(
  reader: ByteReader,
  sinkOf: (node: number, incarnation: number) => PipeSink | null,
): QueueStore {
  const store = new QueueStore();
  const queues = reader.u32();
  for (let i = 0; i < queues; i++) restoreQueue(reader, store, sinkOf);
  const pending = reader.u32();
  for (let i = 0; i < pending; i++) store.pendingRemovals.add(reader.u32());
  store.debt.restore(reader, (index) => store.live.add(index));
  return store;
}

function serialiseQueue(writer: ByteWriter, queue: Queue): void {
  writer.u32(queue.uid);
  writer.u8((queue.autoDelete ? QueueFlag.autoDelete : 0) | (queue.sealed ? QueueFlag.sealed : 0));
  writer.text(queue.arguments);
  queue.fifo.serialise(writer);
  if (queue.returned === null) writer.u32(0);
  else queue.returned.serialise(writer);
  const consumers = queue.attachedSorted();
  const places = new Map<Consumer, number>();
  writer.u32(consumers.length);
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

function restoreQueue(
  reader: ByteReader,
  store: QueueStore,
  sinkOf: (node: number, incarnation: number) => PipeSink | null,
): void {
  const uid = reader.u32();
  const flags = reader.u8();
  const queue = store.create(uid, (flags & QueueFlag.autoDelete) !== 0, reader.text());
  queue.sealed = (flags & QueueFlag.sealed) !== 0;
  const count = (index: number, bytes: number) => {
    store.live.add(index);
    queue.bytes += bytes;
  };
  queue.fifo.restore(reader, (index) => store.live.add(index));
  queue.bytes += queue.fifo.totalBytes;
  const returned = new Returned();
  returned.restore(reader, count);
  if (returned.length > 0) queue.returned = returned;
  const consumers: Consumer[] = [];
  const attached = reader.u32();
  for (let i = 0; i < attached; i++) consumers.push(restoreConsumer(reader, store, queue, sinkOf, count));
  const waiting = reader.u32();
  for (let i = 0; i < waiting; i++) queue.wait(consumers[reader.u32()]!);
}

function restoreConsumer(
  reader: ByteReader,
  store: QueueStore,
  queue: Queue,
  sinkOf: (node: number, incarnation: number) => PipeSink | null,
  count: (index: number, bytes: number) => void,
): Consumer {
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
  consumer.leases.restore(reader, count);
  queue.unsettled += consumer.leases.unsettled;
  return consumer;
}
