// A large message is stored in pieces: to the client it is one body, whatever their sizes.

import { expect, test } from 'vitest';
import type { StoredMessage } from '../../node/amqp/backend.ts';
import { FrameWriter } from '../../node/amqp/writer.ts';

test.each([
  [[], 'whole'],
  [[3000, 5000], 'rest'],
  [[4096, 1], ''],
])('pieces of %j bytes before %j', (sizes, last) => {
  const writer = new FrameWriter(() => {});
  writer.frameBytesMax = 4096;
  const before = sizes.map((size, i) => Buffer.alloc(size, 'ab'[i]));
  const payload = Buffer.concat([Buffer.from([0, 1, 0x71]), Buffer.alloc(2), Buffer.from(last)]);
  const message: StoredMessage = {
    payload,
    keyStart: 0,
    propertiesStart: 3,
    bodyStart: 5,
    bodyEnd: payload.length,
    before,
  };
  writer.deliver(1, Buffer.from([1, 0x63]), 1, false, message, null);
  const bytes = Buffer.concat(writer.take());
  const bodies: Buffer[] = [];
  let announced = -1;
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at + 3);
    expect(length + 8).toBeLessThanOrEqual(4096);
    const frame = bytes.subarray(at + 7, at + 7 + length);
    if (bytes[at] === 2) announced = Number(frame.readBigUInt64BE(4));
    if (bytes[at] === 3) bodies.push(frame);
    at += length + 8;
  }
  const body = Buffer.concat(bodies);
  expect(announced).toBe(body.length);
  expect(body.equals(Buffer.concat([...before, Buffer.from(last)]))).toBe(true);
});

test('large pieces lie between the writer’s own buffers, which end anywhere, and every frame is whole', () => {
  const seed = Date.now() % 1_000_000;
  let state = seed;
  const random = (bound: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % bound;
  };
  const writer = new FrameWriter(() => {});
  for (let round = 0; round < 400; round++) {
    writer.frameBytesMax = 4096 + random(60_000);
    const messages = Array.from({ length: 1 + random(6) }, () => {
      const before = Array.from({ length: random(3) }, () => Buffer.alloc(1 + random(40_000), random(256)));
      const payload = Buffer.concat([
        Buffer.from([0, 1, 0x71]),
        Buffer.alloc(2),
        Buffer.alloc(random(40_000), random(256)),
      ]);
      return { payload, keyStart: 0, propertiesStart: 3, bodyStart: 5, bodyEnd: payload.length, before };
    });
    for (const message of messages) writer.deliver(1, Buffer.from([1, 0x63]), 1, false, message, null);
    const written = writer.bytes;
    const bytes = Buffer.concat(writer.take());
    expect(bytes.length, `seed ${seed}, round ${round}`).toBe(written);
    const bodies: Buffer[] = [];
    for (let at = 0; at < bytes.length; ) {
      const length = bytes.readUInt32BE(at + 3);
      expect(bytes[at + 7 + length], `seed ${seed}, round ${round}`).toBe(0xce);
      if (bytes[at] === 3) bodies.push(bytes.subarray(at + 7, at + 7 + length));
      at += length + 8;
    }
    const wanted = messages.flatMap(({ before, payload }) => [...before, payload.subarray(5)]);
    expect(Buffer.concat(bodies).equals(Buffer.concat(wanted)), `seed ${seed}, round ${round}`).toBe(true);
  }
});
