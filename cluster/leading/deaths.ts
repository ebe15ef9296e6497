// What a dead letter's headers say of its earlier deaths, and where they forbid it to go. PURE.
//
// A letter that comes back to a queue that it died in, without anybody having rejected it since, would go round for ever: there it ends, as in
// RabbitMQ. `x-death`: a table per queue and reason, the latest first.

import type { Arguments, ArgumentValue } from '../machine/metadata-types.ts';

/** How a message died, for the headers that it goes on with. */
export interface Death {
  readonly queue: string;
  readonly reason: string;
  readonly exchange: string;
  readonly routingKeys: readonly string[];
  /** Seconds since 1970. */
  readonly time: number;
  /** It goes on under another key, so its further keys (CC) mean nothing any more. */
  readonly isRekeyed: boolean;
}

/** The queues that a letter which died of this must not come to. */
export function forbiddenQueues(queue: string, reason: string, headers: Arguments): ReadonlySet<string> {
  const forbidden = new Set<string>();
  if (reason === 'rejected') return forbidden;
  forbidden.add(queue);
  for (const death of tablesOf(headers['x-death'])) {
    if (death.reason === 'rejected') break;
    if (typeof death.queue === 'string') forbidden.add(death.queue);
  }
  return forbidden;
}

/** The further routing keys of a message. */
export function furtherKeys(headers: Arguments): string[] {
  const keys = headers.CC;
  return isList(keys) ? keys.filter((key) => typeof key === 'string') : [];
}

function tablesOf(value: ArgumentValue | undefined): Arguments[] {
  if (!isList(value)) return [];
  return value.flatMap((item) => (typeof item === 'object' && item !== null && 'table' in item ? [item.table] : []));
}

const isList = (value: ArgumentValue | undefined): value is readonly ArgumentValue[] => Array.isArray(value);
