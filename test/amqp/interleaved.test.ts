// Messages that come in pieces, in turn, on several channels of one connection (B13): each is handed on when it is whole, and as one.

import { expect, it } from 'vitest';
import { consume, declare, harness, publishFrames } from './harness.ts';

/** The frames of one publish, apart. */
function framesOf(bytes: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = at + 8 + bytes.readUInt32BE(at + 3);
    frames.push(bytes.subarray(at, end));
    at = end;
  }
  return frames;
}

it('bodies whose frames come in turn do not mix, and an unfinished one holds nobody up and is not handed on', async () => {
  const broker = await harness();
  const client = broker.connect().handshake().channels(1, 2, 3);
  client.send(1, declare('q'));
  client.take();
  const bodies = ['a', 'b', 'c'].map((letter) => Buffer.alloc(20_000, letter));
  const rows = bodies.map((body, i) => framesOf(publishFrames(1 + i, '', 'q', body, { bodyMax: 3_000 })));
  const ready = () => broker.backend.queue('q').ready.length;
  const [first, second, third] = rows as [Buffer[], Buffer[], Buffer[]];
  for (let i = 0; i < first.length - 1; i++) for (const frames of rows) client.bytes(frames[i]!);
  expect(ready()).toBe(0);
  client.bytes(second.at(-1)!);
  expect(ready()).toBe(1);
  // Not even its beginning, for as long as it takes.
  for (let turn = 0; turn < 10; turn++) broker.clock.advance(100);
  expect(ready()).toBe(1);
  client.bytes(third.at(-1)!, first.at(-1)!);
  expect(ready()).toBe(3);
  client.take();
  client.send(1, consume('q', 'c'));
  let body = '';
  for (const item of client.take()) if ('body' in item) body += item.body.toString();
  expect(body).toBe(['b', 'c', 'a'].map((letter) => letter.repeat(20_000)).join(''));
});
