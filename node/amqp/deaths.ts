// The headers of a message that died, for its next queues: `x-death` with one more table, or one counted once more, and where it died first and
// last. Its expiration is history then: it is kept in the table.
//
//   x-death = array, the latest first, of tables: count (l), reason, queue, time (T), exchange, routing-keys (A of S), original-expiration
//
// PURE. All other headers stay as they came, byte for byte.

import type { Death } from '../../cluster/index.ts';
import type { Arguments, ArgumentValue } from './backend.ts';
import { longField, readHeaders, withHeaders, withoutExpiration } from './properties.ts';
import { encodeShortString, encodeTable } from './table.ts';

/** A line of `x-death`. */
interface Line {
  readonly count: number;
  readonly reason: string;
  readonly queue: string;
  readonly time: number;
  readonly exchange: string;
  readonly routingKeys: readonly string[];
  readonly expiration: string | null;
}

export function withDeath(properties: Buffer, death: Death): Buffer {
  const { expiration, rest } = withoutExpiration(properties);
  const headers = readHeaders(rest);
  const lines = tablesOf(headers['x-death']).flatMap(readLine);
  const { queue, reason, exchange } = death;
  const known = lines.find((line) => line.queue === queue && line.reason === reason);
  const latest: Line = known === undefined ? { ...death, count: 1, expiration } : { ...known, count: known.count + 1 };
  const all = [latest, ...lines.filter((line) => line !== known)];
  const without = ['x-death', ...lastNames, ...(death.isRekeyed ? ['CC'] : [])];
  const added = [field('x-death', 'A', all.map(encodeLine)), ...where('last', queue, reason, exchange)];
  if (headers['x-first-death-queue'] === undefined) added.push(...where('first', queue, reason, exchange));
  return withHeaders(rest, without, added);
}

const lastNames = ['x-last-death-queue', 'x-last-death-reason', 'x-last-death-exchange'];

const where = (which: 'first' | 'last', queue: string, reason: string, exchange: string): Buffer[] => [
  textField(`x-${which}-death-queue`, queue),
  textField(`x-${which}-death-reason`, reason),
  textField(`x-${which}-death-exchange`, exchange),
];

/** A table that is no line is left out. */
function readLine(table: Arguments): Line[] {
  const { count, reason, queue, time, exchange } = table;
  if (typeof count !== 'number' || typeof reason !== 'string' || typeof queue !== 'string') return [];
  const seconds = typeof time === 'object' && time !== null && 'timestamp' in time ? time.timestamp : 0;
  const [keys, expiration] = [table['routing-keys'], table['original-expiration']];
  return [
    {
      count,
      reason,
      queue,
      time: seconds,
      exchange: typeof exchange === 'string' ? exchange : '',
      routingKeys: isList(keys) ? keys.filter((key) => typeof key === 'string') : [],
      expiration: typeof expiration === 'string' ? expiration : null,
    },
  ];
}

function encodeLine({ count, reason, queue, time, exchange, routingKeys, expiration }: Line): Buffer {
  const rest: Arguments = { time: { timestamp: time }, exchange, 'routing-keys': routingKeys };
  const original: Arguments = expiration === null ? {} : { 'original-expiration': expiration };
  const table = Buffer.concat([
    longField('count', count),
    textField('reason', reason),
    textField('queue', queue),
    encodeTable({ ...rest, ...original }).subarray(4),
  ]);
  return Buffer.concat([Buffer.from('F'), withLength([table])]);
}

const textField = (name: string, text: string): Buffer => field(name, 'S', [Buffer.from(text, 'utf8')]);

const field = (name: string, type: 'A' | 'S', pieces: readonly Buffer[]): Buffer =>
  Buffer.concat([encodeShortString(name), Buffer.from(type), withLength(pieces)]);

function withLength(pieces: readonly Buffer[]): Buffer {
  const body = Buffer.concat(pieces);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  return Buffer.concat([length, body]);
}

function tablesOf(value: ArgumentValue | undefined): Arguments[] {
  if (!isList(value)) return [];
  return value.flatMap((item) => (typeof item === 'object' && item !== null && 'table' in item ? [item.table] : []));
}

const isList = (value: ArgumentValue | undefined): value is readonly ArgumentValue[] => Array.isArray(value);
