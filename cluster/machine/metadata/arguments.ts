// Argument tables: equality of values as clients see it, and the text that names a table.
//
// Two values are equal if they are of one class and mean the same: integers by value whatever their width on the wire, tables whatever the
// order of their fields. Equal values have the same canonical text, and different values different texts.
//
// PURE. Values are trusted here: `parse.ts` let nothing else in. Tables come from clients, so a field may be called `__proto__`: they are
// only ever read through their own keys and never rebuilt by assignment.

import type { Arguments, ArgumentValue, ExchangeRecord, MetadataCommand, QueueRecord } from '../metadata-types.ts';

/** Shared by the many records that have none. */
export const noArguments: Arguments = Object.freeze({});

export const shareEmpty = (table: Arguments): Arguments => (Object.keys(table).length === 0 ? noArguments : table);

/** The value of a field, or undefined. Never one inherited from `Object.prototype`. */
export function argumentOf(table: Arguments, name: string): ArgumentValue | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

/** A text that two values share exactly if they are equal. */
export function canonicalValue(value: ArgumentValue): string {
  if (value === null) return 'n';
  if (typeof value === 'boolean') return value ? 't' : 'f';
  // Adding zero turns -0, which JSON cannot carry back, into 0.
  if (typeof value === 'number') return `#${value + 0}`;
  if (typeof value === 'string') return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonicalValue).join()}]`;
  if ('int64' in value) return `#${BigInt(value.int64)}`;
  // A header of a message: bindings have the plain number, which it is compared with.
  if ('double' in value) return `#${value.double + 0}`;
  if ('bytes' in value) return `b${JSON.stringify(value.bytes)}`;
  if ('timestamp' in value) return `T${value.timestamp}`;
  if ('decimal' in value) return `D${value.decimal[0]}:${value.decimal[1]}`;
  if ('table' in value) return `{${canonicalArguments(value.table)}}`;
  throw new Error('argument value of no known shape passed the parser');
}

/** The canonical text of a whole table; the empty one's is empty. */
export function canonicalArguments(table: Arguments): string {
  const names = Object.keys(table);
  if (names.length === 0) return '';
  names.sort();
  return names.map((name) => `${JSON.stringify(name)}=${canonicalValue(table[name]!)}`).join();
}

export function sameValue(left: ArgumentValue, right: ArgumentValue): boolean {
  if (left === right) return true;
  // Different texts, or different primitives of any kind: only a number may still equal an object, an int64.
  if (typeof left !== 'object' && typeof right !== 'object') return false;
  return canonicalValue(left) === canonicalValue(right);
}

/** Queue arguments that have to be the same when a queue is declared again. Others are kept, but never compared, as in RabbitMQ. */
export const comparedQueueArguments: readonly string[] = [
  'x-queue-type',
  'x-message-ttl',
  'x-expires',
  'x-max-length',
  'x-max-length-bytes',
  'x-max-in-memory-length',
  'x-max-in-memory-bytes',
  'x-overflow',
  'x-dead-letter-exchange',
  'x-dead-letter-routing-key',
  'x-dead-letter-strategy',
  'x-max-priority',
  'x-single-active-consumer',
  'x-delivery-limit',
  'x-quorum-initial-group-size',
  'x-initial-cluster-size',
  'x-queue-leader-locator',
  'x-queue-mode',
  'x-queue-version',
  'x-max-age',
  'x-stream-max-segment-size-bytes',
];
export const comparedExchangeArguments: readonly string[] = ['alternate-exchange'];

/** A client that names no type asks for the default one, so that no type and `classic` are the same wish (RabbitMQ 4). */
const defaultArguments: { readonly [name: string]: ArgumentValue } = { 'x-queue-type': 'classic' };

/** What differs between what exists and what was declared, for the text of the error. Undefined: the argument is absent. */
export interface Difference {
  readonly name: string;
  readonly existing: ArgumentValue | undefined;
  readonly wanted: ArgumentValue | undefined;
}

function differentArgument(existing: Arguments, wanted: Arguments, names: readonly string[]): Difference | null {
  // Hardly any declaration has arguments.
  if (existing === wanted) return null;
  for (const name of names) {
    const left = argumentOf(existing, name) ?? defaultArguments[name];
    const right = argumentOf(wanted, name) ?? defaultArguments[name];
    const same = left === undefined || right === undefined ? left === right : sameValue(left, right);
    if (!same) return { name, existing: argumentOf(existing, name), wanted: argumentOf(wanted, name) };
  }
  return null;
}

type QueueProperties = Pick<QueueRecord, 'durable' | 'autoDelete' | 'arguments'>;
/** What makes a redeclaration of a queue inequivalent, or null. Exclusive ownership is another matter: `locked`. */
export function queueDifference(existing: QueueProperties, wanted: QueueProperties): Difference | null {
  if (existing.durable !== wanted.durable)
    return { name: 'durable', existing: existing.durable, wanted: wanted.durable };
  if (existing.autoDelete !== wanted.autoDelete)
    return { name: 'auto_delete', existing: existing.autoDelete, wanted: wanted.autoDelete };
  return differentArgument(existing.arguments, wanted.arguments, comparedQueueArguments);
}

type ExchangeProperties = Pick<ExchangeRecord, 'type' | 'durable' | 'autoDelete' | 'internal' | 'arguments'>;
/** What makes a redeclaration of an exchange inequivalent, or null. */
export function exchangeDifference(existing: ExchangeProperties, wanted: ExchangeProperties): Difference | null {
  if (existing.type !== wanted.type) return { name: 'type', existing: existing.type, wanted: wanted.type };
  if (existing.durable !== wanted.durable)
    return { name: 'durable', existing: existing.durable, wanted: wanted.durable };
  if (existing.autoDelete !== wanted.autoDelete)
    return { name: 'auto_delete', existing: existing.autoDelete, wanted: wanted.autoDelete };
  if (existing.internal !== wanted.internal)
    return { name: 'internal', existing: existing.internal, wanted: wanted.internal };
  return differentArgument(existing.arguments, wanted.arguments, comparedExchangeArguments);
}

type CommandOf<K extends MetadataCommand['kind']> = Extract<MetadataCommand, { readonly kind: K }>;
export type DeclareQueue = CommandOf<'declareQueue'>;
export type DeclareExchange = CommandOf<'declareExchange'>;
export type DeleteExchange = CommandOf<'deleteExchange'>;
export type BindCommand = CommandOf<'bind' | 'unbind'>;
