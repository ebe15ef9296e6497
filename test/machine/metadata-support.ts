// For the tests of the metadata machine: short ways to write commands, and a machine with a pipe to send them through.

import { expect } from 'vitest';
import { BatchBuilder, OriginKind, ResultCode } from '../../cluster/machine/commands.ts';
import type { PipeSink } from '../../cluster/machine/machine.ts';
import { type BindingRecord, MetadataMachine, type MetadataOptions } from '../../cluster/machine/metadata.ts';
import type {
  Arguments,
  ConnectionId,
  ExchangeType,
  MetadataCommand,
  OriginalFormat,
} from '../../cluster/machine/metadata-types.ts';

export function addAll(builder: BatchBuilder, commands: readonly MetadataCommand[]): void {
  for (const command of commands) builder.addMetadata(JSON.stringify(command));
}

/** A cluster that was formed of so many nodes, n1 and so on. */
export const formedOf = (count: number, replication = 3): OriginalFormat => ({
  nodes: Array.from({ length: count }, (_, i) => ({ node: i + 1, name: `n${i + 1}`, uuid: '' })),
  replication,
});

export const noHeaders = (): Arguments => ({});
export const owner = (connection: number, incarnation = 1, node = 1): ConnectionId => ({
  node,
  incarnation,
  connection,
});

export type CommandOf<K extends MetadataCommand['kind']> = Extract<MetadataCommand, { readonly kind: K }>;
/** Declared by node 1 in its incarnation 1, or by its owner. */
export const declareQueue = (
  name: string,
  rest: Partial<CommandOf<'declareQueue'>> = {},
): CommandOf<'declareQueue'> => ({
  kind: 'declareQueue',
  vhost: '/',
  name,
  durable: true,
  autoDelete: false,
  exclusive: null,
  arguments: {},
  home: { node: rest.exclusive?.node ?? 1, incarnation: rest.exclusive?.incarnation ?? 1 },
  ...rest,
});
export const declareExchange = (
  name: string,
  type: ExchangeType,
  rest: Partial<CommandOf<'declareExchange'>> = {},
): MetadataCommand => ({
  kind: 'declareExchange',
  vhost: '/',
  name,
  type,
  durable: true,
  autoDelete: false,
  internal: false,
  arguments: {},
  ...rest,
});
export const deleteExchange = (name: string, ifUnused = false): MetadataCommand => ({
  kind: 'deleteExchange',
  vhost: '/',
  name,
  ifUnused,
});
/** `to`: a queue, or an exchange written as `>name`. */
export const binding = (source: string, to: string, routingKey = '', table: Arguments = {}): BindingRecord => ({
  vhost: '/',
  source,
  destination: to.startsWith('>') ? { kind: 'exchange', name: to.slice(1) } : { kind: 'queue', name: to },
  routingKey,
  arguments: table,
});
export const bind = (...of: Parameters<typeof binding>): MetadataCommand => ({ kind: 'bind', ...binding(...of) });
export const unbind = (...of: Parameters<typeof binding>): MetadataCommand => ({ kind: 'unbind', ...binding(...of) });
export const openNode = (incarnation: number, node = 1, uuid = `uuid-${node}`, name = `n${node}`): MetadataCommand => ({
  kind: 'openNode',
  node,
  name,
  uuid,
  incarnation,
  contact: { pid: 1, amqp: '', http: '' },
});

export interface Told {
  readonly results: [sequence: number, ordinal: number, code: ResultCode, value: number][];
  readonly applied: number[];
  fenced: number;
}

/** A machine with one pipe (node 1, incarnation 1) that it watches. */
export class Bench {
  readonly machine: MetadataMachine;
  readonly told: Told = { results: [], applied: [], fenced: 0 };
  index = 0;
  sequence = 0;
  acknowledged = 0;
  /** Of the entries to come. */
  version = 1;
  readonly #builder = new BatchBuilder(1024);

  constructor(shards = 3, options: Omit<Partial<MetadataOptions>, 'shards'> = {}) {
    this.machine = new MetadataMachine({ shards, initial: formedOf(3), ...options });
    const { told } = this;
    const sink: PipeSink = {
      batchApplied: (sequence) => void told.applied.push(sequence),
      result: (sequence, ordinal, code, value) => void told.results.push([sequence, ordinal, code, value]),
      lease: () => expect.unreachable(),
      consumerCancelled: () => expect.unreachable(),
      fenced: () => void told.fenced++,
    };
    this.machine.watch({ node: 1, incarnation: 1 }, sink);
  }

  payload(fill: (builder: BatchBuilder) => void, sequence: number, node = 1, incarnation = 1): Buffer {
    const builder = this.#builder;
    fill(builder);
    return builder.seal({ kind: OriginKind.node, id: node, incarnation }, sequence, 0, this.acknowledged);
  }

  /** Commands as the first batch of another pipe. */
  runAs(node: number, incarnation: number, commands: readonly MetadataCommand[], sequence = 1): void {
    this.entry(this.payload((builder) => addAll(builder, commands), sequence, node, incarnation));
  }

  entry(payload: Buffer): void {
    this.index++;
    this.machine.apply({ index: this.index, term: 1, stamp: 0, machineVersion: this.version, payload });
  }

  /** Applies commands as one batch of the pipe. Returns what came of each, as [code, value]. */
  run(...commands: (MetadataCommand | string)[]): [ResultCode, number][] {
    const sequence = ++this.sequence;
    const before = this.told.results.length;
    this.entry(
      this.payload((builder) => {
        for (const command of commands)
          builder.addMetadata(typeof command === 'string' ? command : JSON.stringify(command));
      }, sequence),
    );
    const outcomes = commands.map((): [ResultCode, number] => [ResultCode.ok, 0]);
    for (const [of, ordinal, code, value] of this.told.results.slice(before)) {
      expect(of).toBe(sequence);
      outcomes[ordinal] = [code, value];
    }
    return outcomes;
  }

  /** Applies one command; returns its code. */
  code(command: MetadataCommand | string): ResultCode {
    return this.run(command)[0]![0];
  }

  /** Names of the queues that a message goes to, sorted; null for a missing exchange. */
  route(exchange: string, routingKey = '', headers: Arguments = {}): string[] | null {
    const route = this.machine.route('/', exchange, routingKey, () => headers);
    if (route === undefined) return null;
    const uids = route.shards.flatMap(({ shard, queues }) => {
      for (const uid of queues) expect(this.machine.queueByUid(uid)!.shard).toBe(shard);
      return queues;
    });
    const shards = route.shards.map(({ shard }) => shard);
    expect(shards).toEqual([...new Set(shards)].sort((a, b) => a - b));
    expect(new Set(uids).size).toBe(uids.length);
    return uids.map((uid) => this.machine.queueByUid(uid)!.name).sort();
  }

  bindings(): string[] {
    return Array.from(
      this.machine.bindings(),
      ({ source, destination, routingKey }) => `${source}-${routingKey}->${destination.name}`,
    );
  }
}
