// What the topology is made of: queues, exchanges and the bindings between them, the homes of volatile queues, and how each is named and
// hashed. Holds nothing and changes nothing.
//
// Hashes are of one thing each, signed 32 bits (so that they take no object of their own), and made to be added up.
//
// PURE.

import type { PipeId } from '../machine.ts';
import type { Arguments, ExchangeRecord, QueueRecord } from '../metadata-types.ts';
import { foldHash } from '../queue/bytes.ts';
import type { Matcher } from '../routing.ts';
import { canonicalArguments, noArguments } from './arguments.ts';
import { appendTo, type Bucket } from './bucket.ts';
import { textHash } from './hash.ts';

/** A binding as others read it. */
export interface BindingRecord {
  readonly vhost: string;
  readonly source: string;
  readonly destination: { readonly kind: 'queue' | 'exchange'; readonly name: string };
  readonly routingKey: string;
  readonly arguments: Arguments;
}

export interface QueueNode {
  readonly record: QueueRecord;
  readonly hash: number;
  /** Null: it is in a shard. */
  readonly home: Home | null;
  /** Bindings to this queue; undefined for none. */
  incoming: Bucket<Binding> | undefined;
}

/** An incarnation with volatile queues. */
export interface Home {
  /** Shared by the records of its queues. */
  readonly id: PipeId;
  /** Its queues are gone, and only have to be removed yet. */
  isEnded: boolean;
  readonly queues: Set<QueueNode>;
  /** The exclusive ones, by connection. */
  readonly owned: Map<number, Set<QueueNode>>;
}

export interface ExchangeNode {
  readonly record: ExchangeRecord;
  readonly hash: number;
  /** Undefined: the default exchange, which binds every queue by its name and has no bindings of its own. */
  readonly matcher: Matcher<Binding> | undefined;
  /** The exchange that gets what no binding of this one takes. */
  readonly alternate: string | undefined;
  /** Bindings from this exchange, by what identifies them. */
  readonly outgoing: Map<string, Binding>;
  /** Bindings to this exchange; undefined for none. */
  incoming: Bucket<Binding> | undefined;
}

/** From an exchange to a queue, or to another exchange: exactly one of the two is there. */
export interface Binding {
  readonly source: ExchangeNode;
  readonly queue: QueueNode | undefined;
  readonly exchange: ExchangeNode | undefined;
  readonly routingKey: string;
  readonly arguments: Arguments;
  /** Destination, key and arguments as one text: unique within the source. */
  readonly identity: string;
  readonly hash: number;
}

/** A binding in a snapshot. Exchanges are named by their place in the order of all; a destination that is one with a minus. */
export type BindingRow = readonly [source: number, destination: number, routingKey: string, arguments?: Arguments];

export interface Vhost {
  readonly name: string;
  readonly queues: Map<string, QueueNode>;
  readonly exchanges: Map<string, ExchangeNode>;
}

/** The queue, unless it is gone with its home. */
export function live(queue: QueueNode | undefined): QueueNode | undefined {
  return queue?.home?.isEnded === true ? undefined : queue;
}

/** Does it not lead to a queue that is gone with its home? */
export const isLive = ({ queue }: Binding): boolean => queue === undefined || queue.home?.isEnded !== true;

/** Those that lead to a queue or exchange, as a list of their own. */
export function bindingsOf(incoming: Bucket<Binding> | undefined): Binding[] {
  const bindings: Binding[] = [];
  appendTo(incoming, bindings);
  return bindings;
}

/** The binding as others may see it. */
export function bindingRecord(binding: Binding): BindingRecord {
  const { record } = binding.source;
  return {
    vhost: record.vhost,
    source: record.name,
    destination:
      binding.queue === undefined
        ? { kind: 'exchange', name: binding.exchange!.record.name }
        : { kind: 'queue', name: binding.queue.record.name },
    routingKey: binding.routingKey,
    arguments: binding.arguments,
  };
}

export const bindingIdentity = ({ destination: { kind, name }, routingKey, arguments: table }: BindingRecord): string =>
  identityOf(kind, name, routingKey, table);

/** Names are preceded by their lengths: whatever is in them, two bindings never get the same text. */
export function identityOf(kind: 'queue' | 'exchange', name: string, routingKey: string, table: Arguments): string {
  return `${kind}${name.length}:${name}${routingKey.length}:${routingKey}${table === noArguments ? '' : canonicalArguments(table)}`;
}

/** Does it go with the incarnation that declared it? */
export function isVolatile({ durable, exclusive }: Pick<QueueRecord, 'durable' | 'exclusive'>): boolean {
  return exclusive !== null || !durable;
}

/** For the sum of the state. Folded from the fields: the text of the whole record would take ten times as long. */
export function queueHash(record: QueueRecord): number {
  const { exclusive, home } = record;
  const flags = (record.durable ? 1 : 0) | (record.autoDelete ? 2 : 0) | (exclusive === null ? 0 : 4);
  let hash = foldHash(foldHash(textHash(record.name), textHash(record.vhost)), record.uid);
  hash = foldHash(foldHash(hash, record.shard), flags);
  if (home !== null) hash = foldHash(foldHash(hash, home.incarnation), exclusive?.connection ?? 0);
  return foldHash(hash, tableHash(record.arguments)) | 0;
}

export const bindingHash = (identity: string, source: ExchangeNode): number =>
  foldHash(textHash(identity), source.hash) | 0;

export const configuredHash = (uid: number, table: Arguments): number =>
  foldHash(foldHash(~uid, uid), tableHash(table));

function tableHash(table: Arguments): number {
  let hash = 0;
  if (table === noArguments) return hash;
  for (const name of Object.keys(table)) {
    const value = table[name]!;
    const text = typeof value === 'string' ? value : JSON.stringify(value);
    hash = foldHash(foldHash(hash, textHash(name)), textHash(text));
  }
  return hash;
}

export const exchangeHash = (record: ExchangeRecord): number => textHash(`x${JSON.stringify(record)}`) | 0;
