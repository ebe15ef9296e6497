// Messages that say who they are: an id, and a body and properties made from it, so that a receiver can tell whether they are whole.
//
// An id ends with the length of its body: `publisher/sequence:bytes`. PURE.

import { PropertyScan, readHeaders } from '../../node/amqp/properties.ts';

/** Body bytes are a window of this; the length is a prime, so that windows of messages differ. */
const noise = Buffer.from(Array.from({ length: 65_537 }, (_, i) => Math.imul(i + 1, 2_654_435_761) >>> 24));

export const messageId = (publisher: string, sequence: number, bytes: number): string =>
  `${publisher}/${sequence}:${bytes}`;

export function bodyOf(id: string): Buffer {
  const bytes = Number(id.slice(id.lastIndexOf(':') + 1));
  const sequence = Number(id.slice(id.lastIndexOf('/') + 1, id.lastIndexOf(':')));
  const body = Buffer.allocUnsafe(Math.max(bytes, id.length + 1));
  const head = body.write(`${id}\n`, 'latin1');
  let from = Math.imul(sequence, 7919) % 32_768;
  for (let at = head; at < body.length; ) {
    at += noise.copy(body, at, from);
    from = 0;
  }
  return body;
}

/** The id that a body names, or null: it was made by nobody here. */
export function idOf(body: Buffer): string | null {
  const end = body.indexOf(0x0a);
  return end < 0 || end > 200 ? null : body.toString('latin1', 0, end);
}

const messageIdFlag = 0x0080;
const expirationFlag = 0x0100;
const deliveryModeFlag = 0x1000;

/** Persistent, with the id as message-id, and an expiration where one is given. */
export function propertiesOf(id: string, expirationMilliseconds: number | null = null): Buffer {
  const short = (text: string) => Buffer.concat([Buffer.from([text.length]), Buffer.from(text, 'latin1')]);
  const flags = deliveryModeFlag | messageIdFlag | (expirationMilliseconds === null ? 0 : expirationFlag);
  const expiration = expirationMilliseconds === null ? [] : [short(String(expirationMilliseconds))];
  return Buffer.concat([Buffer.from([flags >>> 8, flags & 0xff, 2]), ...expiration, short(id)]);
}

const scan = new PropertyScan();

/** Whether properties and body are those that were sent under this id. Headers may have been added on the way, an expiration taken away. */
export function isIntact(id: string, properties: Buffer, body: Buffer): boolean {
  return (
    scan.scan(properties, 0, properties.length) &&
    scan.deliveryMode === 2 &&
    properties.includes(id, 0, 'latin1') &&
    body.equals(bodyOf(id))
  );
}

/** x-delivery-count, 0 if there is none. */
export function deliveryCountOf(properties: Buffer): number {
  const count = readHeaders(properties)['x-delivery-count'];
  return typeof count === 'number' ? count : 0;
}
