// A hundred thousand inputs, cut anywhere: the frame splitter and the codecs give the same events, never throw, and hold no more than came.
//
// The inputs are frames with some bytes bent, so that most of them get past the first check. A failure prints the seed that replays it.

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { ByteReader } from '../../node/amqp/bytes.ts';
import {
  encodeFrame,
  FrameReader,
  type FrameSink,
  frameOverheadBytes,
  protocolHeader,
} from '../../node/amqp/frames.ts';
import { encodeMethod, type Method, readMethod } from '../../node/amqp/methods.ts';
import { encodeTable, readTable, skipTable } from '../../node/amqp/table.ts';
import { BrokerError } from '../../node/errors.ts';
import { consume, declare, fullCapabilities, publishFrames, startOk } from './harness.ts';

const inputs = 100_000;
const frameMax = 256;

/** Checks that what it is told lies within what came, and remembers it in a few bytes. */
class Digest implements FrameSink {
  told = '';
  protocolHeader(matches: boolean): void {
    this.told += `h${matches}`;
  }
  frame(type: number, channel: number, bytes: Buffer, start: number, end: number): void {
    if (start > end || end > bytes.length || end - start > frameMax - frameOverheadBytes)
      throw new Error('out of bounds');
    this.told += `f${type},${channel},${bytes.toString('latin1', start, end)}`;
    if (type === 1) this.told += typeof readMethod(bytes, start, end);
  }
  chunkDone(): void {}
  broken(error: Error): void {
    this.told += `b${error instanceof BrokerError ? error.replyCode : 'untyped'}`;
  }
}

function told(bytes: Buffer, cuts: readonly number[]): string {
  const digest = new Digest();
  const reader = new FrameReader(frameMax - frameOverheadBytes, digest);
  let from = 0;
  for (const cut of [...cuts, bytes.length]) {
    if (cut < from) continue;
    const chunk = Buffer.from(bytes.subarray(from, cut));
    reader.push(chunk);
    chunk.fill(0xee);
    from = cut;
  }
  return digest.told;
}

const start = startOk('guest', 'guest', fullCapabilities);
const frames = Buffer.concat([
  protocolHeader,
  ...[declare('q'), consume('q', 'c'), start].map((method: Method) => encodeFrame(1, 1, encodeMethod(method))),
  publishFrames(1, '', 'q', Buffer.alloc(40, 'body'), { bodyMax: 16 }),
  encodeFrame(8, 0, Buffer.alloc(0)),
]);
const bends = fc.array(fc.tuple(fc.nat(frames.length - 1), fc.nat(255)), { maxLength: 3 });
const bend = (bytes: Buffer, places: readonly (readonly [number, number])[]): Buffer => {
  const bent = Buffer.from(bytes);
  for (const [at, byte] of places) bent[at % bent.length] = byte;
  return bent;
};

it('frames and methods', () => {
  const cuts = fc.tuple(fc.nat(frames.length), fc.nat(frames.length));
  fc.assert(
    fc.property(bends, cuts, (places, [a, b]) => {
      const bytes = bend(frames, places);
      const whole = told(bytes, []);
      if (whole.includes('untyped')) expect.fail('an error without a type');
      if (told(bytes, a < b ? [a, b] : [b, a]) !== whole) expect.fail('chunks make a difference');
    }),
    { numRuns: inputs / 2 },
  );
});

it('tables', () => {
  const table = encodeTable({ a: [1, 'two', { table: { three: 3.5 } }], b: { bytes: 'AAAA' }, c: true, d: null });
  fc.assert(
    fc.property(bends, fc.nat(table.length), (places, end) => {
      const bytes = bend(table, places);
      const reader = new ByteReader(bytes, 0, end);
      const skipper = new ByteReader(bytes, 0, end);
      readTable(reader);
      skipTable(skipper);
      if (reader.failed !== skipper.failed || reader.at > end) expect.fail('read and skipped differently');
    }),
    { numRuns: inputs / 2 },
  );
});
