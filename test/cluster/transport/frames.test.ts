// Frames however the stream is cut, and what a reader must not keep alive.

import { describe, expect, it } from 'vitest';
import { FrameReader, FrameWriter, frameHeaderBytes } from '../../../cluster/transport/frames.ts';
import { createMemoryRandom } from '../../support/memory-random.ts';

const sum = (pieces: readonly Uint8Array[]) => pieces.reduce((bytes, piece) => bytes + piece.length, 0);

function encode(frames: readonly { kind: number; pieces: readonly Uint8Array[] }[]): Buffer {
  const writer = new FrameWriter();
  for (const { kind, pieces } of frames) writer.add(kind, pieces, sum(pieces));
  return Buffer.concat(writer.take());
}

function decode(chunks: readonly Buffer[], bodyBytesMax = 1 << 24) {
  const frames: { kind: number; body: Buffer }[] = [];
  const reader = new FrameReader(bodyBytesMax, (kind, body) => void frames.push({ kind, body }));
  const fine = chunks.every((chunk) => reader.read(chunk));
  return { frames, fine };
}

describe('frames', () => {
  it('have these bytes', () => {
    const bytes = encode([
      { kind: 7, pieces: [Buffer.from('ab'), Buffer.from('c')] },
      { kind: 255, pieces: [] },
    ]);
    expect(bytes.toString('hex')).toBe('0300000007616263' + '00000000ff');
  });

  it('come out as they went in, however the stream is cut', () => {
    for (let seed = 1; seed <= 30; seed++) {
      const random = createMemoryRandom(seed);
      const frames = Array.from({ length: 60 }, () => {
        const sizes = [0, 3, 200, 511, 2_048, 2_049, 70_000];
        const pieces = Array.from({ length: random.integer(4) }, () =>
          random.bytes(random.integer(sizes[random.integer(sizes.length)]! + 1)),
        );
        return { kind: random.integer(256), pieces };
      });
      const bytes = encode(frames);
      const chunks: Buffer[] = [];
      const chunkMax = [1 + random.integer(8), 1_000, 65_536, bytes.length][seed % 4]!;
      for (let at = 0; at < bytes.length; ) {
        const end = Math.min(bytes.length, at + 1 + random.integer(chunkMax));
        chunks.push(Buffer.from(bytes.subarray(at, end)));
        at = end;
      }
      const result = decode(chunks);
      expect(result.fine).toBe(true);
      // What is handed out stays as it is, whatever becomes of the chunks.
      const expected = frames.map(({ kind, pieces }) => ({ kind, body: Buffer.concat(pieces) }));
      expect(result.frames.length, `seed ${seed}`).toBe(expected.length);
      for (const [i, frame] of result.frames.entries()) {
        expect(frame.kind).toBe(expected[i]!.kind);
        expect(frame.body.equals(expected[i]!.body), `seed ${seed}, frame ${i}`).toBe(true);
      }
    }
  });

  it('keep a chunk alive only when they are most of it', () => {
    const large = encode([{ kind: 1, pieces: [Buffer.alloc(50_000)] }]);
    const small = encode([
      { kind: 1, pieces: [Buffer.alloc(20_000)] },
      { kind: 2, pieces: [Buffer.alloc(30_000)] },
    ]);
    expect(decode([large]).frames[0]!.body.buffer).toBe(large.buffer);
    const [first, second] = decode([small]).frames;
    expect(first!.body.buffer).not.toBe(small.buffer);
    expect(second!.body.buffer).toBe(small.buffer);
  });

  it('over the limit are refused before anything is allocated, and what came before them is not lost', () => {
    const good = encode([{ kind: 1, pieces: [Buffer.alloc(10)] }]);
    const { frames, fine } = decode([Buffer.concat([good, Buffer.from('ffffffff01', 'hex')])], 1_000);
    expect([frames.length, fine]).toEqual([1, false]);
    expect(decode([encode([{ kind: 1, pieces: [Buffer.alloc(1_000)] }])], 1_000).fine).toBe(true);
    expect(decode([encode([{ kind: 1, pieces: [Buffer.alloc(1_001)] }])], 1_000).fine).toBe(false);
  });

  it('stop within a chunk when told to', () => {
    let seen = 0;
    const reader = new FrameReader(100, () => {
      seen++;
      reader.stop();
    });
    const bytes = encode(Array.from({ length: 5 }, () => ({ kind: 1, pieces: [Buffer.alloc(20)] })));
    expect(reader.read(bytes)).toBe(true);
    expect(seen).toBe(1);
  });

  it('are gathered in few buffers, large pieces without a copy', () => {
    const writer = new FrameWriter();
    const large = Buffer.alloc(100_000, 1);
    for (let i = 0; i < 100; i++) writer.add(1, [Buffer.alloc(50)], 50);
    writer.add(2, [Buffer.alloc(4), large, Buffer.alloc(4)], 100_008);
    expect(writer.bytes).toBe(101 * frameHeaderBytes + 5_000 + 100_008);
    const buffers = writer.take();
    expect(buffers.length).toBe(3);
    expect(buffers[1]).toBe(large);
    expect([writer.bytes, writer.take().length]).toEqual([0, 0]);
  });

  it('do not change after they were taken, until their memory is given back', () => {
    const writer = new FrameWriter();
    writer.add(1, [Buffer.from('first')], 5);
    const first = writer.take()[0]!;
    writer.add(1, [Buffer.from('second')], 6);
    writer.recycle();
    const second = writer.take()[0]!;
    expect(Buffer.from(first).toString('latin1', frameHeaderBytes)).toBe('first');
    writer.recycle();
    writer.add(1, [Buffer.from('third')], 5);
    expect(Buffer.from(second).toString('latin1', frameHeaderBytes)).toBe('second');
    expect(Buffer.from(writer.take()[0]!).toString('latin1', frameHeaderBytes)).toBe('third');
  });
});
