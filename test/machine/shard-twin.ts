// The slow twin of the shard machine: the same rules over plain objects and arrays, as directly as they can be said. Batches come to it
// as objects, so it shares no code with the machine but the names of codes.

import { type Origin, OriginKind, ResultCode } from '../../cluster/machine/commands.ts';
import type { ShardChange } from '../../cluster/machine/metadata-types.ts';
import type { StoreBounds } from '../../cluster/machine/queue/store.ts';
import { type Batch, type Command, Recorder, type Settle } from './shard-support.ts';

interface Message {
  readonly index: number;
  readonly ordinal: number;
  readonly bytes: number;
  redelivered: boolean;
  count: number;
}

export interface TwinConsumer {
  readonly node: number;
  readonly number: number;
  readonly queue: TwinQueue;
  mode: 'active' | 'draining' | 'polled';
  readonly priority: number;
  readonly exclusive: boolean;
  unsettledMax: number;
  grantedTo: number;
  next: number;
  leases: { readonly ordinal: number; readonly message: Message }[];
}

interface TwinQueue {
  readonly uid: number;
  readonly autoDelete: boolean;
  sealed: boolean;
  ready: Message[];
  /** Active consumers with credit, in the order in which they came to have it or were last served. */
  waiting: TwinConsumer[];
  /** What consumers held that went with too much to be returned at once. */
  leaving: Message[];
}

interface TwinPipe {
  fencedTo: number;
  incarnation: number;
  last: number;
  results: { readonly sequence: number; readonly text: string }[];
}

const before = (a: Message, b: Message): number => a.index - b.index || a.ordinal - b.ordinal;

export class Twin {
  readonly sink = new Recorder();
  queues: TwinQueue[] = [];
  consumers: TwinConsumer[] = [];
  readonly pipes = new Map<string, TwinPipe>();
  pending: number[] = [];
  /** Dropped, and still live. */
  debt: Message[] = [];
  /** Queues to be served, and queues that something comes back to, each in the order of that. */
  #dirty: TwinQueue[] = [];
  #leaving: TwinQueue[] = [];
  #returnsLeft = 0;
  #assignmentsLeft = 0;
  readonly #bounds: StoreBounds;
  metadataVersion = 0;
  readonly #watched: { readonly node: number; readonly incarnation: number };
  #told = false;

  constructor(watched: { readonly node: number; readonly incarnation: number }, bounds: StoreBounds) {
    this.#watched = watched;
    this.#bounds = bounds;
  }

  pipe(kind: number, id: number): TwinPipe {
    const key = `${kind}/${id}`;
    let pipe = this.pipes.get(key);
    if (pipe === undefined) this.pipes.set(key, (pipe = { fencedTo: -1, incarnation: -1, last: 0, results: [] }));
    return pipe;
  }

  /** There is work left for later entries. */
  get hasWork(): boolean {
    return this.debt.length > 0 || this.#leaving.length > 0 || this.#dirty.length > 0;
  }

  apply(index: number, batch: Batch): void {
    this.#returnsLeft = this.#bounds.returnsPerEntryMax;
    this.#assignmentsLeft = this.#bounds.assignmentsPerEntryMax;
    this.#apply(index, batch);
    this.#returnLeaving();
    this.debt.splice(0, this.#bounds.debtPerEntryMax);
    this.#assign();
  }

  #apply(index: number, batch: Batch): void {
    const { origin, sequence } = batch;
    const pipe = this.pipe(origin.kind, origin.id);
    if (origin.incarnation <= pipe.fencedTo) return;
    const last = pipe.incarnation === origin.incarnation ? pipe.last : 0;
    if (sequence !== last + 1) return;
    if (pipe.incarnation !== origin.incarnation) {
      this.#end(origin.kind, origin.id, origin.incarnation - 1);
      pipe.incarnation = origin.incarnation;
    }
    pipe.last = sequence;
    pipe.results = pipe.results.filter((result) => result.sequence > batch.acknowledged);
    this.#assign();
    if (origin.kind === OriginKind.node) for (const settle of batch.settles) this.#settle(origin.id, settle);
    this.#assign();
    for (const [ordinal, command] of batch.commands.entries()) {
      const [code, value, extra] = this.#command(origin, index, ordinal, command);
      this.#assign();
      const withValue = command.kind === 'purge' || command.kind === 'remove';
      if (code === ResultCode.ok && !withValue) continue;
      const line = `result ${sequence}/${ordinal}: ${code} ${value} ${extra}`;
      pipe.results.push({ sequence, text: line });
      if (this.#isWatched(origin)) this.sink.lines.push(line);
    }
    if (this.#isWatched(origin)) this.sink.batchApplied(sequence);
  }

  resume(): string[] {
    const { node, incarnation } = this.#watched;
    const pipe = this.pipe(OriginKind.node, node);
    if (pipe.incarnation !== incarnation) return [];
    const recorder = new Recorder();
    for (const result of pipe.results) recorder.lines.push(result.text);
    const own = this.consumers.filter((consumer) => consumer.node === node).sort((a, b) => a.number - b.number);
    for (const { number, leases } of own)
      for (const { ordinal, message } of leases)
        recorder.lease(number, ordinal, message.index, message.ordinal, message.redelivered, message.count);
    return recorder.lines;
  }

  status(): string[] {
    return this.queues.map((queue) => {
      const own = this.consumers.filter((consumer) => consumer.queue === queue);
      const leased = own.flatMap((consumer) => consumer.leases.map((lease) => lease.message)).concat(queue.leaving);
      const bytes = [...queue.ready, ...leased].reduce((sum, message) => sum + message.bytes, 0);
      const active = own.filter((consumer) => consumer.mode === 'active').length;
      return `${queue.uid}: ${queue.ready.length} ready, ${leased.length} unsettled, ${active} consumers, ${bytes} bytes`;
    });
  }

  live(): number[] {
    const messages = this.queues.flatMap((queue) => [...queue.ready, ...queue.leaving]).concat(this.debt);
    for (const consumer of this.consumers) messages.push(...consumer.leases.map((lease) => lease.message));
    return [...new Set(messages.map((message) => message.index))].sort((a, b) => a - b);
  }

  consumer(node: number, number: number): TwinConsumer | undefined {
    return this.consumers.find((consumer) => consumer.node === node && consumer.number === number);
  }

  #isWatched(origin: Origin): boolean {
    const { node, incarnation } = this.#watched;
    return origin.kind === OriginKind.node && origin.id === node && origin.incarnation === incarnation;
  }

  #isWatchedConsumer(consumer: TwinConsumer): boolean {
    const { node, incarnation } = this.#watched;
    return consumer.node === node && this.pipe(OriginKind.node, node).incarnation === incarnation;
  }

  #command(
    origin: Origin,
    index: number,
    ordinal: number,
    command: Command,
  ): [code: number, value: number, extra: number] {
    const queue = 'queue' in command ? this.queues.find((q) => q.uid === command.queue && !q.sealed) : undefined;
    const consumer = 'consumer' in command ? this.consumer(origin.id, command.consumer) : undefined;
    const ok: [number, number, number] = [ResultCode.ok, 0, 0];
    const fromNode = origin.kind === OriginKind.node;
    switch (command.kind) {
      case 'publish': {
        const open = this.queues.filter((q) => command.queues.includes(q.uid) && !q.sealed);
        open.sort((a, b) => command.queues.indexOf(a.uid) - command.queues.indexOf(b.uid));
        for (const target of open) {
          const behind = target.ready.length > 0 || target.leaving.length > 0;
          target.ready.push({ index, ordinal, bytes: command.bytes, redelivered: false, count: 0 });
          if (!behind && target.waiting.length > 0) this.#serveFirst(target);
        }
        return open.length > 0 ? ok : [ResultCode.noQueue, 0, 0];
      }
      case 'consume': {
        if (!fromNode) return [ResultCode.refused, 0, 0];
        if (queue === undefined) return [ResultCode.noQueue, 0, 0];
        if (consumer !== undefined) return [ResultCode.refused, 0, 0];
        const others = this.consumers.filter((other) => other.queue === queue && other.mode === 'active');
        if (others.some((other) => other.exclusive) || (command.exclusive && others.length > 0))
          return [ResultCode.exclusive, 0, 0];
        const { consumer: number, unsettledMax, grantedTo, priority, exclusive } = command;
        const made = {
          node: origin.id,
          number,
          queue,
          mode: 'active' as const,
          priority,
          exclusive,
          unsettledMax,
          grantedTo,
        };
        this.consumers.push({ ...made, next: 1, leases: [] });
        this.#update(this.consumers.at(-1)!);
        return ok;
      }
      case 'cancel':
        if (!fromNode) return [ResultCode.refused, 0, 0];
        if (consumer !== undefined) this.#cancel(consumer, command.returnLeases);
        return ok;
      case 'credit':
        if (!fromNode) return [ResultCode.refused, 0, 0];
        if (consumer === undefined) return ok;
        consumer.unsettledMax = command.unsettledMax;
        consumer.grantedTo = Math.max(consumer.grantedTo, command.grantedTo);
        this.#update(consumer);
        return ok;
      case 'get': {
        if (!fromNode) return [ResultCode.refused, 0, 0];
        if (queue === undefined) return [ResultCode.noQueue, 0, 0];
        if (consumer !== undefined && (consumer.mode !== 'polled' || consumer.queue !== queue))
          return [ResultCode.refused, 0, 0];
        if (queue.ready.length === 0 || queue.leaving.length > 0) return [ResultCode.empty, 0, 0];
        const polled: TwinConsumer = consumer ?? {
          ...{ node: origin.id, number: command.consumer, queue, mode: 'polled', priority: 0, exclusive: false },
          ...{ unsettledMax: 0, grantedTo: 0, next: 1, leases: [] },
        };
        if (consumer === undefined) this.consumers.push(polled);
        const leaseOrdinal = this.#lease(polled);
        if (command.noAck) polled.leases.pop();
        return [ResultCode.leased, leaseOrdinal, queue.ready.length];
      }
      case 'purge': {
        if (queue === undefined) return [ResultCode.noQueue, 0, 0];
        const count = queue.ready.length;
        this.debt.push(...queue.ready);
        queue.ready = [];
        return [ResultCode.ok, count, 0];
      }
      case 'remove': {
        if (queue === undefined) return [ResultCode.noQueue, 0, 0];
        const count = queue.ready.length;
        if (command.ifEmpty && count > 0) return [ResultCode.notEmpty, 0, 0];
        const used = this.consumers.some((other) => other.queue === queue && other.mode === 'active');
        if (command.ifUnused && used) return [ResultCode.inUse, 0, 0];
        this.#seal(queue, true);
        return [ResultCode.ok, count, 0];
      }
      case 'changes':
        if (fromNode) return [ResultCode.refused, 0, 0];
        if (command.version <= this.metadataVersion) return ok;
        for (const change of command.changes) if (change.version > this.metadataVersion) this.#change(change);
        this.metadataVersion = command.version;
        return ok;
      case 'metadata':
        return [ResultCode.refused, 0, 0];
    }
  }

  #change(change: ShardChange): void {
    const { kind } = change;
    if (kind === 'fence') {
      if (change.incarnation > this.pipe(OriginKind.node, change.node).fencedTo)
        this.#end(OriginKind.node, change.node, change.incarnation);
      return;
    }
    const queue = this.queues.find((q) => q.uid === change.uid);
    if (kind === 'create') {
      const { uid, autoDelete } = change;
      if (queue === undefined)
        this.queues.push({ uid, autoDelete, sealed: false, ready: [], waiting: [], leaving: [] });
    } else if (queue !== undefined) {
      if (!queue.sealed) this.#seal(queue, false);
      this.queues = this.queues.filter((q) => q !== queue);
      this.pending = this.pending.filter((uid) => uid !== queue.uid);
    }
  }

  #end(kind: number, id: number, upTo: number): void {
    const pipe = this.pipe(kind, id);
    pipe.fencedTo = upTo;
    const open = pipe.incarnation >= 0 && pipe.incarnation <= upTo;
    if (open && kind === OriginKind.node)
      for (const consumer of this.consumers.filter((c) => c.node === id).sort((a, b) => a.number - b.number))
        if (this.consumers.includes(consumer)) this.#cancel(consumer, true);
    if (open) {
      pipe.incarnation = -1;
      pipe.last = 0;
      pipe.results = [];
    }
    const { node, incarnation } = this.#watched;
    if (kind === OriginKind.node && id === node && incarnation <= upTo && !this.#told) {
      this.#told = true;
      this.sink.fenced();
    }
  }

  #cancel(consumer: TwinConsumer, returnLeases: boolean): void {
    const { queue } = consumer;
    const wasActive = consumer.mode === 'active';
    if (wasActive) consumer.mode = 'draining';
    this.#update(consumer);
    const messages = consumer.leases.map(({ message }) => message);
    if (returnLeases && messages.length > this.#returnsLeft) {
      if (queue.leaving.length === 0) this.#leaving.push(queue);
      queue.leaving.push(...messages);
    } else if (returnLeases) {
      this.#returnsLeft -= messages.length;
      for (const message of messages) this.#giveBack(queue, message);
      if (messages.length > 0) this.#mark(queue);
    }
    if (returnLeases) consumer.leases = [];
    if (returnLeases || (wasActive && consumer.leases.length === 0))
      this.consumers = this.consumers.filter((other) => other !== consumer);
    const left = this.consumers.some((other) => other.queue === queue && other.mode === 'active');
    if (wasActive && queue.autoDelete && !left) this.#seal(queue, true);
  }

  #seal(queue: TwinQueue, pending: boolean): void {
    const own = this.consumers.filter((consumer) => consumer.queue === queue);
    for (const consumer of own.sort((a, b) => a.node - b.node || a.number - b.number))
      if (consumer.mode === 'active' && this.#isWatchedConsumer(consumer)) this.sink.consumerCancelled(consumer.number);
    for (const consumer of own) this.debt.push(...consumer.leases.map(({ message }) => message));
    this.debt.push(...queue.leaving, ...queue.ready);
    this.consumers = this.consumers.filter((consumer) => consumer.queue !== queue);
    queue.sealed = true;
    queue.leaving = [];
    queue.ready = [];
    queue.waiting = [];
    if (pending) this.pending = [...this.pending, queue.uid].sort((a, b) => a - b);
  }

  #settle(node: number, settle: Settle): void {
    const consumer = this.consumer(node, settle.consumer);
    if (consumer === undefined) return;
    const { queue } = consumer;
    const chosen = consumer.leases.filter(
      ({ ordinal }) => ordinal >= settle.first && ordinal < settle.first + settle.count,
    );
    if (chosen.length === 0) return;
    consumer.leases = consumer.leases.filter((lease) => !chosen.includes(lease));
    if (settle.operation === 'requeue' || settle.operation === 'release')
      for (const { message } of chosen) {
        if (settle.operation === 'requeue') message.redelivered = true;
        if (settle.operation === 'requeue' && settle.failed) message.count++;
        queue.ready.push(message);
        this.#mark(queue);
      }
    queue.ready.sort(before);
    this.#update(consumer);
    if (consumer.mode === 'draining' && consumer.leases.length === 0)
      this.consumers = this.consumers.filter((other) => other !== consumer);
  }

  /** Into the waiting list, at its end, or out of it. */
  #update(consumer: TwinConsumer, served = false): void {
    const { queue } = consumer;
    const below = consumer.unsettledMax === 0 || consumer.leases.length < consumer.unsettledMax;
    const should = consumer.mode === 'active' && below && consumer.next <= consumer.grantedTo;
    const waits = queue.waiting.includes(consumer);
    if (should && !waits) {
      queue.waiting.push(consumer);
      if (!served) this.#mark(queue);
    }
    if (!should && waits) queue.waiting = queue.waiting.filter((other) => other !== consumer);
  }

  #mark(queue: TwinQueue): void {
    if (!this.#dirty.includes(queue)) this.#dirty.push(queue);
  }

  /** As a failed delivery. */
  #giveBack(queue: TwinQueue, message: Message): void {
    message.redelivered = true;
    message.count++;
    queue.ready.push(message);
    queue.ready.sort(before);
  }

  #returnLeaving(): void {
    while (this.#leaving.length > 0 && this.#returnsLeft > 0) {
      const queue = this.#leaving[0]!;
      const returned = queue.leaving.splice(0, this.#returnsLeft);
      this.#returnsLeft -= returned.length;
      for (const message of returned) this.#giveBack(queue, message);
      if (queue.leaving.length > 0) return;
      if (!queue.sealed) this.#mark(queue);
      this.#leaving.shift();
    }
  }

  #assign(): void {
    for (let queue = this.#dirty[0]; queue !== undefined; queue = this.#dirty[0]) {
      while (queue.ready.length > 0 && queue.leaving.length === 0 && queue.waiting.length > 0) {
        if (this.#assignmentsLeft === 0) return;
        this.#assignmentsLeft--;
        this.#serveFirst(queue);
      }
      this.#dirty.shift();
    }
  }

  #serveFirst(queue: TwinQueue): void {
    const highest = Math.max(...queue.waiting.map((consumer) => consumer.priority));
    const consumer = queue.waiting.find((candidate) => candidate.priority === highest)!;
    queue.waiting = queue.waiting.filter((other) => other !== consumer);
    this.#lease(consumer);
    this.#update(consumer, true);
  }

  #lease(consumer: TwinConsumer): number {
    const message = consumer.queue.ready.shift()!;
    const ordinal = consumer.next++;
    consumer.leases.push({ ordinal, message });
    if (this.#isWatchedConsumer(consumer))
      this.sink.lease(consumer.number, ordinal, message.index, message.ordinal, message.redelivered, message.count);
    return ordinal;
  }
}
