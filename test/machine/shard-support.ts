// What the tests of the shard machine share: batches as plain objects, their encoding, and a sink that writes down what it hears.

import {
  BatchBuilder,
  CancelFlag,
  ConsumeFlag,
  GetFlag,
  type Origin,
  OriginKind,
  PartFlag,
  PublishFlag,
  RemoveFlag,
  SettleOperation,
  settleFailed,
} from '../../cluster/machine/commands.ts';
import type { PipeId, PipeSink } from '../../cluster/machine/machine.ts';
import type { Arguments, ShardChange } from '../../cluster/machine/metadata-types.ts';
import { type StoreBounds, storeBounds } from '../../cluster/machine/queue/store.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';

export type Command =
  | {
      readonly kind: 'publish';
      readonly queues: readonly number[];
      readonly bytes: number;
      readonly expiration?: number;
    }
  | {
      readonly kind: 'consume';
      readonly consumer: number;
      readonly queue: number;
      readonly unsettledMax: number;
      readonly grantedTo: number;
      readonly priority: number;
      readonly exclusive: boolean;
    }
  | { readonly kind: 'cancel'; readonly consumer: number; readonly returnLeases: boolean }
  | {
      readonly kind: 'credit';
      readonly consumer: number;
      readonly unsettledMax: number;
      readonly grantedTo: number;
    }
  | { readonly kind: 'get'; readonly consumer: number; readonly queue: number; readonly noAck: boolean }
  | { readonly kind: 'purge'; readonly queue: number }
  | { readonly kind: 'remove'; readonly queue: number; readonly ifUnused: boolean; readonly ifEmpty: boolean }
  | { readonly kind: 'changes'; readonly version: number; readonly changes: readonly ShardChange[] }
  | { readonly kind: 'metadata' };

/** Commands that the slow twin knows nothing of. */
export type FurtherCommand =
  | { readonly kind: 'part'; readonly first: boolean; readonly bytes: number }
  /** A publish whose body begins in parts. */
  | { readonly kind: 'last'; readonly queues: readonly number[]; readonly bytes: number }
  | {
      readonly kind: 'transfer';
      readonly source: number;
      readonly after: number;
      readonly row: number;
      readonly queues: readonly number[];
      readonly bytes: number;
      readonly parts: boolean;
    }
  | {
      readonly kind: 'suspect';
      readonly node: number;
      readonly incarnation: number;
      readonly suspected: boolean;
    }
  | { readonly kind: 'done'; readonly target: number; readonly row: number }
  | { readonly kind: 'route'; readonly json: string };

export interface Settle {
  readonly operation: keyof typeof SettleOperation;
  readonly failed: boolean;
  readonly consumer: number;
  readonly first: number;
  readonly count: number;
}

export interface Batch<AnyCommand = Command> {
  readonly origin: Origin;
  readonly sequence: number;
  readonly acknowledged: number;
  readonly settles: readonly Settle[];
  readonly commands: readonly AnyCommand[];
}

const key = Buffer.from([0, 1, 0x71]);
const properties = Buffer.from([0, 0]);

function addFurther(builder: BatchBuilder, command: FurtherCommand): void {
  switch (command.kind) {
    case 'part':
      builder.addPart(command.first ? PartFlag.first : 0, [Buffer.alloc(command.bytes)], command.bytes);
      return;
    case 'last': {
      const { queues, bytes } = command;
      builder.addPublish(queues, PublishFlag.parts, 0, 0xffff_ffff, key, properties, [Buffer.alloc(bytes)], bytes);
      return;
    }
    case 'transfer': {
      const { source, after, row, queues, bytes, parts } = command;
      const [flags, body] = [parts ? PublishFlag.parts : 0, [Buffer.alloc(bytes)]];
      const expiration = 0xffff_ffff;
      builder.addTransfer({
        source,
        after,
        number: row,
        queues,
        flags,
        priority: 0,
        expiration,
        key,
        properties,
        body,
      });
      return;
    }
    case 'suspect':
      builder.addSuspect(command.node, command.incarnation, command.suspected);
      return;
    case 'done':
      builder.addDone(command.target, command.row);
      return;
    case 'route':
      builder.addRoute(command.json);
      return;
  }
}

function addCommand(builder: BatchBuilder, command: Command | FurtherCommand): void {
  switch (command.kind) {
    case 'publish': {
      const body = [Buffer.alloc(command.bytes)];
      const { queues, bytes, expiration } = command;
      const flags = PublishFlag.persistent | (expiration === undefined ? 0 : PublishFlag.expiration);
      builder.addPublish(queues, flags, 0, expiration ?? 0xffff_ffff, key, properties, body, bytes);
      return;
    }
    case 'consume':
      builder.addConsume({
        consumer: command.consumer,
        queue: command.queue,
        unsettledMax: command.unsettledMax,
        grantedTo: command.grantedTo,
        priority: command.priority,
        flags: command.exclusive ? ConsumeFlag.exclusive : 0,
        tag: `tag-${command.consumer}`,
      });
      return;
    case 'cancel':
      builder.addCancel(command.consumer, command.returnLeases ? CancelFlag.returnLeases : 0);
      return;
    case 'credit':
      builder.addCredit(command.consumer, command.unsettledMax, command.grantedTo);
      return;
    case 'get':
      builder.addGet(command.consumer, command.queue, command.noAck ? GetFlag.noAck : 0);
      return;
    case 'purge':
      builder.addPurge(command.queue);
      return;
    case 'remove': {
      const flags = (command.ifUnused ? RemoveFlag.ifUnused : 0) | (command.ifEmpty ? RemoveFlag.ifEmpty : 0);
      builder.addRemove(command.queue, flags);
      return;
    }
    case 'changes':
      builder.addChanges(command.version, JSON.stringify({ changes: command.changes }));
      return;
    case 'metadata':
      builder.addMetadata('{}');
      return;
    default:
      addFurther(builder, command);
  }
}

const builder = new BatchBuilder(1024);

export function encode(batch: Batch<Command | FurtherCommand>): Buffer {
  for (const { operation, failed, consumer, first, count } of batch.settles)
    builder.addSettle(SettleOperation[operation], failed ? settleFailed : 0, consumer, first, count);
  for (const command of batch.commands) addCommand(builder, command);
  return builder.seal(batch.origin, batch.sequence, 0, batch.acknowledged);
}

export const create = (
  version: number,
  uid: number,
  autoDelete = false,
  further: Arguments = {},
): ShardChange & { readonly kind: 'create' } => ({
  kind: 'create',
  version,
  uid,
  vhost: '/',
  name: `q${uid}`,
  autoDelete,
  arguments: { 'x-queue-type': 'quorum', ...further },
});

/** Writes down, one line each, what one pipe's session would hear. */
export class Recorder implements PipeSink {
  lines: string[] = [];

  batchApplied(sequence: number): void {
    this.lines.push(`applied ${sequence}`);
  }
  result(sequence: number, ordinal: number, code: number, value: number, extra: number): void {
    this.lines.push(`result ${sequence}/${ordinal}: ${code} ${value} ${extra}`);
  }
  lease(
    consumer: number,
    leaseOrdinal: number,
    entryIndex: number,
    ordinal: number,
    redelivered: boolean,
    deliveryCount: number,
  ): void {
    const again = `${redelivered ? ' redelivered' : ''}${deliveryCount > 0 ? ` count ${deliveryCount}` : ''}`;
    this.lines.push(`lease ${consumer}#${leaseOrdinal} = ${entryIndex}.${ordinal}${again}`);
  }
  consumerCancelled(consumer: number): void {
    this.lines.push(`cancelled ${consumer}`);
  }
  fenced(): void {
    this.lines.push('fenced');
  }
  take(): string[] {
    const lines = this.lines;
    this.lines = [];
    return lines;
  }
}

export const nodeOrigin = (id: number, incarnation = 1): Origin => ({ kind: OriginKind.node, id, incarnation });
export const metadataOrigin: Origin = { kind: OriginKind.group, id: 0, incarnation: 1 };

/** A machine and the batches of some origins to it, for scripts. Node 1 is watched. */
export class Script {
  readonly machine: ShardMachine;
  readonly sink = new Recorder();
  readonly #sequences = new Map<string, number>();
  index = 0;
  /** Of the entries to come. */
  stamp = 0;
  version = 1;

  #watched: PipeId;

  constructor(watched: PipeId = { node: 1, incarnation: 1 }, ...versions: StoreBounds[]) {
    this.machine = new ShardMachine(3, versions.length === 0 ? [storeBounds] : versions);
    this.#watched = watched;
    this.watch(watched);
  }

  /** From now on the sink hears of this pipe. */
  watch(pipe: PipeId): void {
    this.#watched = pipe;
    this.machine.watch(pipe, this.sink);
  }

  applyPayload(payload: Buffer): void {
    const { stamp, version: machineVersion } = this;
    this.machine.apply({ index: ++this.index, term: 1, stamp, machineVersion, payload });
    this.machine.validate();
  }

  /** Sends the origin's next batch. Returns what node 1 hears. */
  send(
    origin: Origin,
    commands: readonly (Command | FurtherCommand)[],
    settles: readonly Settle[] = [],
    acknowledged = 0,
  ): string[] {
    const name = `${origin.kind}/${origin.id}/${origin.incarnation}`;
    const sequence = (this.#sequences.get(name) ?? 0) + 1;
    this.#sequences.set(name, sequence);
    this.applyPayload(encode({ origin, sequence, acknowledged, settles, commands }));
    return this.sink.take();
  }

  changes(version: number, ...changes: ShardChange[]): string[] {
    return this.send(metadataOrigin, [{ kind: 'changes', version, changes }]);
  }

  /** What the shard's leader says; nothing at all: a tick. */
  lead(...commands: FurtherCommand[]): string[] {
    return this.send(metadataOrigin, commands);
  }

  /** Time goes on to this stamp, and the leader ticks. */
  tick(stamp: number): string[] {
    this.stamp = stamp;
    return this.lead();
  }

  publish(queue: number, count: number, node = 2): string[] {
    const command: Command = { kind: 'publish', queues: [queue], bytes: 10 };
    return this.send(nodeOrigin(node), Array(count).fill(command));
  }

  /** What a session would be told that knows nothing yet. */
  resume(nextLease: (consumer: number) => number = () => 0): string[] {
    this.machine.resume(this.#watched, nextLease);
    return this.sink.take();
  }

  /** Replaces the state by itself, through a snapshot. */
  roundTrip(): void {
    const bytes = Buffer.concat(drain(this.machine.snapshot()));
    this.machine.restore(bytes);
    this.machine.validate();
  }
}

export const consume = (
  consumer: number,
  queue: number,
  options: Partial<Command & { kind: 'consume' }> = {},
): Command => ({
  kind: 'consume',
  consumer,
  queue,
  unsettledMax: 0,
  grantedTo: 1_000_000,
  priority: 0,
  exclusive: false,
  ...options,
});

export const settle = (
  operation: Settle['operation'],
  consumer: number,
  first: number,
  count = 1,
  failed = false,
): Settle => ({ operation, consumer, first, count, failed });
