// What nodes ask of a shard besides plain publishes and settling: each command read from its bytes and turned into calls of the queue
// store. PURE. No state of its own.
//
// A command never throws: what makes no sense is answered. Commands that only a group's own leader may give are in `leader-commands.ts`.

import {
  type BatchHeader,
  CancelFlag,
  CommandKind,
  ConsumeFlag,
  GetFlag,
  PartFlag,
  PublishFlag,
  publishLayout,
  publishOffset,
  RemoveFlag,
  ResultCode,
  readCancel,
  readConsume,
  readCredit,
  readGet,
  readPart,
  readQueueCommand,
  readTransfer,
} from './commands.ts';
import type { PipeSink } from './machine.ts';
import { type Consumer, ConsumerMode, type Queue } from './queue/queue.ts';
import type { QueueStore } from './queue/store.ts';

/** One command of a node's batch, and what it comes to besides its code. */
export interface NodeCommand {
  readonly store: QueueStore;
  readonly header: BatchHeader;
  /** Of the entry. */
  readonly index: number;
  readonly payload: Buffer;
  readonly ordinal: number;
  /** Where the command begins. */
  readonly at: number;
  readonly sink: PipeSink | null;
  value: number;
  extra: number;
}

/** Everything but publishes that came whole. */
export function applyNodeCommand(command: NodeCommand): ResultCode {
  switch (command.payload[command.at] as CommandKind) {
    case CommandKind.consume:
      return consume(command);
    case CommandKind.cancel:
      return cancel(command);
    case CommandKind.credit:
      return credit(command);
    case CommandKind.get:
      return get(command);
    case CommandKind.purge:
      return purge(command);
    case CommandKind.remove:
      return remove(command);
    case CommandKind.part:
      return part(command);
    case CommandKind.publish:
      return publish(command, command.at);
    case CommandKind.transfer:
      return transfer(command);
    default:
      return ResultCode.refused;
  }
}

function consumerOf({ store, header }: NodeCommand, number: number): Consumer | undefined {
  return store.owners.get(header.id)?.consumers.get(number);
}

/** A queue that exists and is not being deleted. */
function openQueue(store: QueueStore, uid: number): Queue | undefined {
  const queue = store.queues.get(uid);
  return queue === undefined || queue.sealed ? undefined : queue;
}

function consume(command: NodeCommand): ResultCode {
  const { store, header, payload, at, sink } = command;
  const { consumer: number, queue: uid, priority, flags, tag, unsettledMax, grantedTo } = readConsume(payload, at);
  const queue = openQueue(store, uid);
  if (queue === undefined) return ResultCode.noQueue;
  if (consumerOf(command, number) !== undefined) return ResultCode.refused;
  const alone = (flags & ConsumeFlag.exclusive) !== 0;
  if (queue.exclusive !== null || (alone && queue.consumers > 0)) return ResultCode.exclusive;
  store.attach(store.owner(header.id, header.incarnation, sink), queue, {
    number,
    mode: ConsumerMode.active,
    priority,
    flags,
    tag,
    unsettledMax,
    grantedTo: Math.min(grantedTo, Number.MAX_SAFE_INTEGER),
  });
  return ResultCode.ok;
}

/** A consumer that is not known (any more) is none the less gone: plainly ok. */
function cancel(command: NodeCommand): ResultCode {
  const { flags, consumer: number } = readCancel(command.payload, command.at);
  const consumer = consumerOf(command, number);
  if (consumer === undefined) return ResultCode.ok;
  if ((flags & CancelFlag.returnLeases) !== 0) command.store.withdraw(consumer);
  else command.store.drain(consumer);
  return ResultCode.ok;
}

/** Credit may cross the removal of its consumer on the way: plainly ok. */
function credit(command: NodeCommand): ResultCode {
  const { consumer: number, unsettledMax, grantedTo } = readCredit(command.payload, command.at);
  const consumer = consumerOf(command, number);
  if (consumer !== undefined) command.store.grant(consumer, unsettledMax, Math.min(grantedTo, Number.MAX_SAFE_INTEGER));
  return ResultCode.ok;
}

function get(command: NodeCommand): ResultCode {
  const { store, header, payload, at, sink } = command;
  const { flags, consumer: number, queue: uid } = readGet(payload, at);
  const queue = openQueue(store, uid);
  if (queue === undefined) return ResultCode.noQueue;
  let consumer = consumerOf(command, number);
  if (consumer !== undefined && (consumer.mode !== ConsumerMode.polled || consumer.queue !== queue))
    return ResultCode.refused;
  store.touch(queue);
  store.expiry.used(queue);
  if (queue.leaving !== null || !store.expiry.isFresh(queue) || queue.ready === 0) return ResultCode.empty;
  consumer ??= store.attach(store.owner(header.id, header.incarnation, sink), queue, {
    number,
    mode: ConsumerMode.polled,
    priority: 0,
    flags: 0,
    tag: '',
    unsettledMax: 0,
    grantedTo: 0,
  });
  command.value = store.poll(consumer, (flags & GetFlag.noAck) !== 0);
  command.extra = queue.ready;
  return ResultCode.leased;
}

function purge(command: NodeCommand): ResultCode {
  const queue = openQueue(command.store, readQueueCommand(command.payload, command.at).queue);
  if (queue === undefined) return ResultCode.noQueue;
  command.value = command.store.purge(queue);
  return ResultCode.ok;
}

/** What counts as empty and as the messages dropped are the ready ones, as in RabbitMQ. */
function remove(command: NodeCommand): ResultCode {
  const { flags, queue: uid } = readQueueCommand(command.payload, command.at);
  const queue = openQueue(command.store, uid);
  if (queue === undefined) return ResultCode.noQueue;
  const ready = queue.ready;
  // What is on its way back is as good as there.
  if ((flags & RemoveFlag.ifEmpty) !== 0 && (ready > 0 || queue.leaving !== null)) return ResultCode.notEmpty;
  if ((flags & RemoveFlag.ifUnused) !== 0 && queue.consumers > 0) return ResultCode.inUse;
  command.store.sealForRemoval(queue);
  command.value = ready;
  return ResultCode.ok;
}

/** Never answered: what is wrong with it shows when its message comes. */
function part({ store, header, index, payload, ordinal, at }: NodeCommand): ResultCode {
  const { flags, bytes } = readPart(payload, at);
  store.parts.add(header.id, (flags & PartFlag.first) !== 0, index, ordinal, bytes.length);
  store.fold(bytes.length);
  return ResultCode.ok;
}

/** The publish at `at`, with the pieces that came before it if it says so. */
function publish({ store, header, index, payload, ordinal }: NodeCommand, at: number): ResultCode {
  const own = payload.readUInt32LE(at + publishLayout.bodyBytes);
  const isInParts = (payload[at + publishLayout.flags]! & PublishFlag.parts) !== 0;
  const before = isInParts ? store.parts.join(header.id, index, ordinal) : 0;
  if (before < 0) return ResultCode.refused;
  const expires = (payload[at + publishLayout.flags]! & PublishFlag.expiration) !== 0;
  const expiration = expires ? payload.readUInt32LE(at + publishLayout.expiration) : -1;
  let routed = 0;
  let isRefused = false;
  const end = at + publishLayout.queues + 4 * payload.readUInt16LE(at + publishLayout.queueCount);
  for (let uidAt = at + publishLayout.queues; uidAt < end; uidAt += 4) {
    const queue = openQueue(store, payload.readUInt32LE(uidAt));
    if (queue === undefined) continue;
    if (!store.enqueue(queue, index, ordinal, before + own, expiration)) isRefused = true;
    routed++;
  }
  // From here on only those that have it refer to the message.
  if (isInParts) store.parts.release(index, ordinal);
  if (isRefused) return ResultCode.rejected;
  return routed > 0 ? ResultCode.ok : ResultCode.noQueue;
}

/** Plainly ok also when its queues are gone: its source is to forget it. */
function transfer(command: NodeCommand): ResultCode {
  const { store, header, payload, at } = command;
  const { source, after, row } = readTransfer(payload, at);
  const publishAt = publishOffset(payload, at);
  const verdict = store.inbox.judge(source, after, row);
  if (verdict !== 'apply') {
    store.parts.drop(header.id);
    return verdict === 'repeat' ? ResultCode.ok : ResultCode.refused;
  }
  const code = publish(command, publishAt);
  if (code === ResultCode.refused) return code;
  store.inbox.take(source, row);
  store.fold(row);
  return ResultCode.ok;
}
