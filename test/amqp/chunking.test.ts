// The same bytes in any chunks: the same events, the same answers, and never more held than came.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  encodeFrame,
  FrameReader,
  type FrameSink,
  frameOverheadBytes,
  protocolHeader,
} from '../../node/amqp/frames.ts';
import type { Method } from '../../node/amqp/methods.ts';
import { consume, declare, fullCapabilities, harness, methodFrame, publishFrames, startOk } from './harness.ts';

class Recorder implements FrameSink {
  readonly events: string[] = [];
  protocolHeader(matches: boolean): void {
    this.events.push(`header ${matches}`);
  }
  frame(type: number, channel: number, bytes: Buffer, start: number, end: number): void {
    this.events.push(`frame ${type} ${channel} ${bytes.toString('hex', start, end)}`);
  }
  chunkDone(): void {}
  broken(error: Error): void {
    this.events.push(`broken ${error.message}`);
  }
}

function inChunks(bytes: Buffer, cuts: readonly number[], push: (chunk: Buffer) => void): void {
  const sorted = [...new Set(cuts.filter((cut) => cut > 0 && cut < bytes.length))].sort((a, b) => a - b);
  let from = 0;
  for (const cut of [...sorted, bytes.length]) {
    // A chunk of its own that is spoiled afterwards: nobody may go on using it.
    const chunk = Buffer.from(bytes.subarray(from, cut));
    push(chunk);
    chunk.fill(0xee);
    from = cut;
  }
}

const everywhere = (bytes: Buffer) => Array.from({ length: bytes.length }, (_, index) => index);

describe('frames', () => {
  const events = (bytes: Buffer, cuts: readonly number[]) => {
    const recorder = new Recorder();
    const reader = new FrameReader(1000 - frameOverheadBytes, recorder);
    inChunks(bytes, cuts, (chunk) => reader.push(chunk));
    return recorder.events;
  };
  const frame = fc
    .tuple(fc.constantFrom(1, 2, 3, 8), fc.nat(65_535), fc.uint8Array({ maxLength: 100 }))
    .map(([type, channel, payload]) => encodeFrame(type, channel, Buffer.from(payload)));

  it('are the same in any chunks, also when they are none', () => {
    const stream = fc
      .tuple(fc.array(frame, { maxLength: 8 }), fc.uint8Array({ maxLength: 12 }))
      .map(([frames, rest]) => Buffer.concat([protocolHeader, ...frames, Buffer.from(rest)]));
    fc.assert(
      fc.property(stream, fc.array(fc.nat(900), { maxLength: 20 }), (bytes, cuts) => {
        const whole = events(bytes, []);
        expect(events(bytes, cuts)).toEqual(whole);
        expect(events(bytes, everywhere(bytes))).toEqual(whole);
      }),
      { numRuns: 150 },
    );
  });

  it('may be as large as agreed, and no larger', () => {
    const most = encodeFrame(3, 1, Buffer.alloc(1000 - frameOverheadBytes));
    const over = encodeFrame(3, 1, Buffer.alloc(1001 - frameOverheadBytes));
    expect(events(Buffer.concat([protocolHeader, most, most]), [500])).toHaveLength(3);
    expect(events(Buffer.concat([protocolHeader, over]), [])[1]).toMatch(
      /broken FRAME_ERROR - type 3: frame too large/,
    );
  });
});

describe('a session', () => {
  const confirmSelect: Method = { kind: 'confirm.select', nowait: true };
  const stream = Buffer.concat([
    protocolHeader,
    methodFrame(0, startOk('guest', 'guest', fullCapabilities)),
    methodFrame(0, { kind: 'connection.tune-ok', channelMax: 0, frameMax: 4096, heartbeat: 0 }),
    methodFrame(0, { kind: 'connection.open', virtualHost: '/', reserved1: '', reserved2: false }),
    methodFrame(1, { kind: 'channel.open', reserved1: '' }),
    methodFrame(2, { kind: 'channel.open', reserved1: '' }),
    methodFrame(1, declare('q')),
    methodFrame(1, confirmSelect),
    publishFrames(1, '', 'q', Buffer.from('one')),
    publishFrames(1, '', 'q', Buffer.alloc(9000, 'large'), { bodyMax: 4088 }),
    publishFrames(1, '', 'q', Buffer.from('many small pieces'), { bodyMax: 1 }),
    publishFrames(1, '', 'q', Buffer.alloc(0)),
    publishFrames(1, '', 'nowhere', Buffer.from('returned'), { mandatory: true }),
    methodFrame(2, consume('q', 'c')),
    methodFrame(2, { kind: 'basic.ack', deliveryTag: 1, multiple: false }),
    methodFrame(2, { kind: 'basic.ack', deliveryTag: 3, multiple: true }),
    publishFrames(2, 'absent', 'q', Buffer.from('x')),
    publishFrames(2, '', 'q', Buffer.from('ignored')),
    methodFrame(0, { kind: 'connection.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 }),
  ]);

  async function run(cuts: readonly number[]) {
    const broker = await harness();
    const client = broker.connect();
    inChunks(stream, cuts, (chunk) => {
      if (!client.socket.isClosed) client.socket.onData(chunk);
    });
    broker.clock.turn();
    expect(client.socket.isClosed).toBe(true);
    // Settlements may be joined differently; what they name may not.
    const settled: string[] = [];
    const calls = broker.backend.calls.filter((call) => {
      const match = call.match(/^settle (\w+ \d+) (\d+) (\d+)$/);
      if (match === null) return true;
      for (let i = 0; i < Number(match[3]); i++) settled.push(`${match[1]} ${Number(match[2]) + i}`);
      return false;
    });
    return { calls, settled, received: client.take() };
  }

  it('does and answers the same in any chunks', async () => {
    const whole = await run([]);
    expect(whole.settled).toEqual(['accept 1 1', 'accept 1 2', 'accept 1 3']);
    expect(await run(everywhere(stream))).toEqual(whole);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(stream.length), { maxLength: 30 }), async (cuts) => {
        expect(await run(cuts)).toEqual(whole);
      }),
      { numRuns: 15 },
    );
  });
});
