// The bodies of the load's messages. Each is made from the id of its message alone, and says a checksum of itself: whoever knows the id can tell
// whether it is whole, and whoever has only the body too. Pure but for the checksum.

import { crc32 } from 'node:zlib';

const noise = Buffer.from(Array.from({ length: 301_000 }, (_, i) => (i * 2_654_435_761) >>> 24));

/** Mostly small; some beyond 16 KiB, few beyond 256 KiB: brokers may handle these differently. */
function payloadOf(id: string): Buffer {
  const sequence = sequenceOf(id);
  const length = sequence % 500 === 499 ? 300_000 : sequence % 50 === 49 ? 20_000 : 64 + (sequence % 512);
  const from = sequence % 1000;
  return noise.subarray(from, from + length);
}

function headOf(id: string, payload: Buffer): string {
  return `${id} ${crc32(payload).toString(16).padStart(8, '0')}\n`;
}

/** Ids end in `/` and the number of the message, counted by its publisher from 0. */
export function sequenceOf(id: string): number {
  return Number(id.slice(id.lastIndexOf('/') + 1));
}

export function bodyOf(id: string): Buffer {
  const payload = payloadOf(id);
  return Buffer.concat([Buffer.from(headOf(id, payload)), payload]);
}

/** Is this the body that was sent under this id, byte for byte? */
export function isBodyOf(id: string, body: Buffer): boolean {
  if (!Number.isInteger(sequenceOf(id))) return false;
  const payload = payloadOf(id);
  const head = Buffer.from(headOf(id, payload));
  return (
    body.length === head.length + payload.length &&
    body.compare(head, 0, head.length, 0, head.length) === 0 &&
    body.compare(payload, 0, payload.length, head.length) === 0
  );
}
