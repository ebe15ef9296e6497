// SASL: how a client says who it is.
//
//   PLAIN     response = [authorization id], 0, user, 0, password
//   AMQPLAIN  response = the fields of a table without its length, LOGIN and PASSWORD among them
//
// PURE. Credentials are never part of an error text.

import { ByteReader } from './bytes.ts';
import { readTableFields } from './table.ts';

export const mechanisms = ['PLAIN', 'AMQPLAIN'] as const;
export type Mechanism = (typeof mechanisms)[number];

export interface Credentials {
  readonly user: string;
  readonly password: string;
}

export const isMechanism = (name: string): name is Mechanism => (mechanisms as readonly string[]).includes(name);

/** Null: the response does not follow its mechanism. */
export function readCredentials(mechanism: Mechanism, response: Buffer): Credentials | null {
  return mechanism === 'PLAIN' ? readPlain(response) : readAmqPlain(response);
}

function readPlain(response: Buffer): Credentials | null {
  const first = response.indexOf(0);
  const second = first < 0 ? -1 : response.indexOf(0, first + 1);
  if (second < 0 || response.indexOf(0, second + 1) >= 0) return null;
  return { user: response.toString('utf8', first + 1, second), password: response.toString('utf8', second + 1) };
}

function readAmqPlain(response: Buffer): Credentials | null {
  const reader = new ByteReader(response);
  const { LOGIN: user, PASSWORD: password } = readTableFields(reader);
  return reader.isDone && typeof user === 'string' && typeof password === 'string' ? { user, password } : null;
}
