// What a connection can make us hold: a small multiple of the bytes that it really sent, and never more than its bounds, whatever it announces.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { beforeAll, describe, expect, it } from 'vitest';
import { ByteReader } from '../../node/amqp/bytes.ts';
import { Content } from '../../node/amqp/content.ts';
import { FrameReader, frameOverheadBytes, protocolHeader } from '../../node/amqp/frames.ts';
import { readTable, tableDepthMax } from '../../node/amqp/table.ts';
import { harness, publishFrames } from './harness.ts';

let collect: () => void;
beforeAll(() => {
  setFlagsFromString('--expose_gc');
  collect = runInNewContext('gc') as () => void;
});

const MiB = 1024 * 1024;
const frameMax = 131_072;

/** Bytes of buffers, and of the heap, that are held because of `make`, about. */
function held(make: () => unknown): { readonly buffers: number; readonly heap: number } {
  collect();
  const before = process.memoryUsage();
  const kept = make();
  // What the last calls had on their stack goes with the second.
  collect();
  collect();
  const after = process.memoryUsage();
  // Alive until here.
  expect(kept).toBeDefined();
  return { buffers: after.arrayBuffers - before.arrayBuffers, heap: after.heapUsed - before.heapUsed };
}

describe('the frame splitter', () => {
  const sink = { protocolHeader() {}, frame() {}, chunkDone() {}, broken() {} };
  it('holds what came of a frame, not what was announced of it', () => {
    const head = Buffer.from([3, 0, 1, 0, 1, 0xff, 0xf8]);
    const { buffers } = held(() =>
      Array.from({ length: 1000 }, () => {
        const reader = new FrameReader(frameMax - frameOverheadBytes, sink);
        reader.push(protocolHeader);
        reader.push(head);
        for (let i = 0; i < 50; i++) reader.push(Buffer.from([i]));
        return reader;
      }),
    );
    // A thousand times 128 KiB were announced, and 57 bytes of each came.
    expect(buffers).toBeLessThan(MiB);
  });

  it('holds twice a frame at most, that came byte by byte, and nothing once it is whole', () => {
    const reader = new FrameReader(frameMax - frameOverheadBytes, sink);
    reader.push(protocolHeader);
    const frame = Buffer.alloc(frameMax, 1);
    frame.set([3, 0, 1, 0, 1, 0xff, 0xf8]);
    frame[frame.length - 1] = 0xce;
    const almost = held(() => {
      for (let at = 0; at < frame.length - 1; at++) reader.push(frame.subarray(at, at + 1));
      return reader;
    });
    expect(almost.buffers).toBeLessThanOrEqual(2 * frameMax);
    const whole = held(() => {
      reader.push(frame.subarray(frame.length - 1));
      return reader;
    });
    expect(almost.buffers + whole.buffers).toBeLessThan(8192);
  });
});

describe('unfinished messages', () => {
  const begin = (bodyBytes: number) => {
    const content = new Content('guest', 128 * MiB);
    const publish = publishFrames(1, '', 'q', Buffer.alloc(0));
    content.begin(publish, 7, publish.readUInt32BE(3) + 7);
    const header = Buffer.alloc(14);
    header.writeUInt16BE(60, 0);
    header.writeBigUInt64BE(BigInt(bodyBytes), 4);
    expect(content.header(header, 0, header.length)).toBeNull();
    return content;
  };

  it('of many channels hold a few pages each, however much was announced', () => {
    const { buffers } = held(() =>
      Array.from({ length: 2047 }, () => {
        const content = begin(128 * MiB);
        content.piece(Buffer.from([1]), 0, 1);
        content.keep();
        return content;
      }),
    );
    expect(buffers).toBeLessThanOrEqual(2047 * 5 * 1024);
  });

  it('hold twice of what came at most, in pieces of any size, and say so', () => {
    for (const piece of [1000, 5000, 65_536, 131_064]) {
      const content = begin(64 * MiB);
      const bytes = Buffer.alloc(piece);
      for (let came = 0; came + piece <= 4 * MiB; ) {
        content.piece(bytes, 0, piece);
        content.keep();
        came += piece;
        expect(content.heldBytes).toBe(came);
        expect(content.reservedBytes).toBeGreaterThanOrEqual(came);
        expect(content.reservedBytes).toBeLessThanOrEqual(2 * came + 4096);
      }
      content.reset();
      expect(content.reservedBytes).toBe(0);
    }
  });

  it('end the connection when all together reach its bound, and are let go then', async () => {
    const broker = await harness({ messageBytesMax: 4 * MiB, assemblyBytesMax: 8 * MiB });
    const client = broker.connect().handshake();
    const channels = Array.from({ length: 100 }, (_, at) => at + 1);
    client.channels(...channels);
    let most = 0;
    const { buffers } = held(() => {
      for (const channel of channels) {
        if (client.received.length > 0) break;
        // All but the last frame.
        const frames = publishFrames(channel, '', 'q', Buffer.alloc(MiB), { bodyMax: 100_000 });
        client.bytes(frames.subarray(0, frames.length - (MiB % 100_000) - frameOverheadBytes));
        most++;
      }
      return client;
    });
    expect(client.methods().at(-1)).toMatchObject({ kind: 'connection.close', replyCode: 506 });
    expect(most).toBeLessThanOrEqual(9);
    expect(buffers).toBeLessThan(MiB);
  });

  describe('that are large', () => {
    const sent = async (isBusy: boolean) => {
      const options = { largeBytesAtOnce: MiB, largeRestMilliseconds: 3 };
      const broker = await harness({ ...options, messageBytesMax: 16 * MiB });
      const client = broker.connect().handshake();
      client.channels(1);
      broker.backend.connections[0]!.isBusy = isBusy;
      const queue = broker.backend.queue('q');
      const frames = publishFrames(1, '', 'q', Buffer.alloc(8 * MiB), { bodyMax: 100_000 });
      /** Up to where the socket is read no more. */
      const read = (from: number) => {
        let at = from;
        while (at < frames.length && !client.socket.isPaused) {
          client.bytes(frames.subarray(at, at + 65_536));
          at += 65_536;
        }
        return at;
      };
      return { broker, client, frames, read, queue };
    };

    it('are read so much at a time while others are busy, and smaller ones as they come', async () => {
      const { broker, client, frames, read, queue } = await sent(true);
      client.bytes(publishFrames(1, '', 'q', Buffer.alloc(MiB / 2), { bodyMax: 100_000 }));
      client.bytes(publishFrames(1, '', 'q', Buffer.alloc(MiB / 2), { bodyMax: 100_000 }));
      expect(client.socket.isPaused).toBe(false);
      let at = 0;
      let rests = 0;
      while (at < frames.length) {
        const before = at;
        at = read(at);
        if (at >= frames.length) break;
        rests++;
        expect(at - before).toBeLessThanOrEqual(2 * MiB + 2 * 65_536);
        broker.clock.advance(2);
        expect(client.socket.isPaused).toBe(true);
        broker.clock.advance(1);
        expect(client.socket.isPaused).toBe(false);
      }
      expect(rests).toBeGreaterThanOrEqual(6);
      expect(queue.ready.length).toBe(3);
    });

    it('are read at once while nobody else is', async () => {
      const { client, frames, read } = await sent(false);
      expect(read(0)).toBeGreaterThanOrEqual(frames.length);
      expect(client.socket.isPaused).toBe(false);
    });
  });
});

describe('field tables', () => {
  /** A table of `bytes` bytes and its length, in a frame's payload at most. */
  const table = (body: Buffer) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(body.length);
    return Buffer.concat([length, body]);
  };
  const repeat = (hex: string) => {
    const unit = Buffer.from(hex.replaceAll(' ', ''), 'hex');
    return Buffer.concat(new Array<Buffer>(Math.floor((frameMax - 64) / unit.length)).fill(unit));
  };
  const named = (value: Buffer) => table(Buffer.concat([Buffer.from([1, 0x61]), value]));
  const list = (elements: Buffer) => named(Buffer.concat([Buffer.from('A'), table(elements)]));
  const numbered = () => {
    const fields: Buffer[] = [];
    for (let i = 0; i < 20_000; i++)
      fields.push(Buffer.from([3, 0x61 + (i % 26), 0x30 + ((i / 26) & 63), 0x30 + (i >> 11), 0x56]));
    return table(Buffer.concat(fields));
  };

  it.each([
    ['nothing, again and again', () => list(repeat('56'))],
    ['booleans', () => list(repeat('7401'))],
    ['empty texts', () => list(repeat('53 00000000'))],
    ['empty lists', () => list(repeat('41 00000000'))],
    ['empty tables', () => list(repeat('46 00000000'))],
    ['one field, again and again', () => table(repeat('01 61 56'))],
    ['many fields', numbered],
  ])('%s take a bounded multiple of their bytes', (_, make) => {
    const bytes = make();
    const { heap } = held(() => readTable(new ByteReader(bytes)));
    // A dictionary for each empty table is the dearest: they exist for as long as one method is being done.
    expect(heap).toBeLessThan(80 * bytes.length);
  });

  it('that announce more than there is, or go too deep, are given up at once', () => {
    const huge = Buffer.from('ffffffff 0161 41 ffffffff 56'.replaceAll(' ', ''), 'hex');
    const reader = new ByteReader(huge);
    expect({ ...readTable(reader) }).toEqual({});
    expect(reader.failed).toBe(true);
    let deep: Buffer = Buffer.alloc(0);
    for (let i = 0; i < 2000; i++)
      deep = named(Buffer.concat([Buffer.from('F'), deep.length === 0 ? table(deep) : deep]));
    const begun = performance.now();
    const deepReader = new ByteReader(deep);
    readTable(deepReader);
    expect(deepReader.failed).toBe(true);
    expect(deepReader.at).toBeLessThan(8 * (tableDepthMax + 1));
    expect(performance.now() - begun).toBeLessThan(1000);
  });
});
