// The arguments of a queue's declaration: what each may be, and what is said of one that is not that, in RabbitMQ's words (clients read them).
//
// Arguments that nobody knows are kept and mean nothing.

import type { Arguments, ArgumentValue, Difference } from '../../cluster/index.ts';
import type { QueueDeclaration } from '../amqp/backend.ts';
import { BrokerError } from '../errors.ts';

/** What is wrong with the value, or null. */
type Check = (value: ArgumentValue, all: Arguments) => string | null;

const priorityMax = 255;

/** The type of a value, as an Erlang broker calls it. */
export function typeOf(value: ArgumentValue): string {
  if (value === null) return 'void';
  if (typeof value === 'boolean') return 'bool';
  if (typeof value === 'string') return 'longstr';
  if (typeof value === 'number') return Number.isInteger(value) ? 'signedint' : 'double';
  if ('double' in value) return 'double';
  if ('table' in value) return 'table';
  if ('bytes' in value) return 'binary';
  if ('timestamp' in value) return 'timestamp';
  if ('decimal' in value) return 'decimal';
  return 'int64' in value ? 'long' : 'array';
}

/** A value as error texts show it. */
export function textOf(value: ArgumentValue): string {
  if (typeof value !== 'object' || value === null) return `${value}`;
  if ('double' in value) return value.double.toFixed(1);
  return 'int64' in value ? value.int64 : JSON.stringify(value);
}

export const noInteger = (value: ArgumentValue): string => `"expected integer, got ${typeOf(value)}"`;
const unacceptable = (value: ArgumentValue): string => `{unacceptable_type,${typeOf(value)}}`;

/** A whole number; one of 64 bits that is too large for a number here is too large for everything. */
function whole(value: ArgumentValue, min: number, max: number, above: string): string | null {
  if (typeof value === 'object' && value !== null && 'int64' in value)
    return value.int64.startsWith('-') ? `{value_negative,${value.int64}}` : `{${above},${value.int64}}`;
  if (typeof value !== 'number' || !Number.isInteger(value)) return noInteger(value);
  if (value < 0) return `{value_negative,${value}}`;
  if (value < min) return `{value_zero,${value}}`;
  return value > max ? `{${above},${value}}` : null;
}

const count: Check = (value) => whole(value, 0, Number.MAX_SAFE_INTEGER, 'value_too_big');
const size: Check = (value) => whole(value, 1, Number.MAX_SAFE_INTEGER, 'value_too_big');
const text: Check = (value) => (typeof value === 'string' ? null : unacceptable(value));
const flag: Check = (value) => (typeof value === 'boolean' ? null : unacceptable(value));
const oneOf =
  (values: readonly string[], error: (value: string) => string): Check =>
  (value) => {
    if (typeof value !== 'string') return unacceptable(value);
    return values.includes(value) ? null : error(value);
  };

const checks: ReadonlyMap<string, Check> = new Map<string, Check>([
  ['x-expires', (value) => whole(value, 1, Number.MAX_SAFE_INTEGER, 'value_too_big')],
  ['x-message-ttl', (value) => whole(value, 0, Number.MAX_SAFE_INTEGER, 'value_too_big')],
  [
    'x-dead-letter-routing-key',
    (value, all) => text(value, all) ?? (all['x-dead-letter-exchange'] === undefined ? noDeadLetterExchange : null),
  ],
  ['x-max-length', count],
  ['x-max-length-bytes', count],
  ['x-max-priority', (value) => whole(value, 0, priorityMax, 'max_value_exceeded')],
  ['x-overflow', oneOf(['drop-head', 'reject-publish', 'reject-publish-dlx'], () => 'invalid_overflow')],
  ['x-queue-mode', oneOf(['default', 'lazy'], () => 'invalid_queue_mode')],
  ['x-single-active-consumer', flag],
  ['x-delivery-limit', count],
  ['x-consumer-timeout', count],
  ['x-quorum-initial-group-size', size],
  ['x-queue-type', oneOf(['classic', 'quorum'], (type) => `"unsupported queue type '${type}'"`)],
]);
const noDeadLetterExchange = 'routing_key_but_no_dlx_defined';

/** What is wrong with an argument of a queue's declaration, or null. */
export function invalidArgument(vhost: string, name: string, table: Arguments): BrokerError | null {
  const what = `queue '${name}' in vhost '${vhost}'`;
  const misnamed = notExchange(table, 'x-dead-letter-exchange', what);
  if (misnamed !== null) return misnamed;
  for (const [argument, check] of checks) {
    const value = table[argument];
    const problem = value === undefined ? null : check(value, table);
    if (problem !== null)
      return new BrokerError('precondition-failed', `invalid arg '${argument}' for ${what}: ${problem}`);
  }
  return null;
}

/** Means nothing here, but has to be the same when a queue is declared again, as in RabbitMQ. The machine compares those that it acts on. */
const comparedHere = 'x-consumer-timeout';

/** How a declaration differs from the queue that is there, in what only matters to clients; or null. */
export function differenceHere(existing: Arguments, wanted: Arguments): Difference | null {
  for (const name of checks.keys()) {
    const [is, asked] = [existing[name], wanted[name]];
    // A whole double is no integer, as in RabbitMQ; queues have integers only.
    const isDouble = typeof asked === 'object' && asked !== null && 'double' in asked;
    const isOther = name === comparedHere && JSON.stringify(is) !== JSON.stringify(asked);
    if (isDouble || isOther) return { name, existing: is, wanted: asked };
  }
  return null;
}

/** The table as it is replicated: a double that is a whole number is one. */
export function plain(table: Arguments): Arguments {
  const entries = Object.entries(table).map(([name, value]) => [name, plainValue(value)] as const);
  return Object.setPrototypeOf(Object.fromEntries(entries), null);
}

function plainValue(value: ArgumentValue): ArgumentValue {
  if (typeof value !== 'object' || value === null) return value;
  if (isList(value)) return value.map(plainValue);
  if ('double' in value) return value.double;
  return 'table' in value ? { table: plain(value.table) } : value;
}

const isList = (value: ArgumentValue): value is readonly ArgumentValue[] => Array.isArray(value);

/** An argument that is to name an exchange, and does not; or null. */
export function notExchange(table: Arguments, argument: string, what: string): BrokerError | null {
  const value = table[argument];
  if (value === undefined || typeof value === 'string') return null;
  return new BrokerError('precondition-failed', `invalid type '${typeOf(value)}' for arg '${argument}' in ${what}`);
}

/** What is wrong with a binding to a headers exchange that was refused, or null. */
export function invalidMatch({ 'x-match': match }: Arguments): BrokerError | null {
  if (match === undefined) return null;
  const text =
    typeof match === 'string'
      ? `Invalid x-match field value <<"${match}">>; expected all, any, all-with-x, or any-with-x`
      : `Invalid x-match field type ${typeOf(match)} (value ${JSON.stringify(match)}); expected longstr`;
  return new BrokerError('precondition-failed', text);
}

/** Queues that are declared as quorum queues are durable and shared. */
export function invalidProperty(vhost: string, name: string, wanted: QueueDeclaration): BrokerError | null {
  if (wanted.arguments['x-queue-type'] !== 'quorum') return null;
  let property: string | null = null;
  if (wanted.autoDelete) property = 'auto-delete';
  else if (wanted.exclusive) property = 'exclusive-owner';
  else if (!wanted.durable) property = 'non-durable';
  return property === null
    ? null
    : new BrokerError('precondition-failed', `invalid property '${property}' for queue '${name}' in vhost '${vhost}'`);
}
