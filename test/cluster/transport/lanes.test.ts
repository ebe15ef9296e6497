// One lane over a connection that a test plays.

import { describe, expect, it } from 'vitest';
import type { Connection } from '../../../cluster/ports.ts';
import { FrameWriter } from '../../../cluster/transport/frames.ts';
import { IncomingLane, OutgoingLane, silentTicksMax } from '../../../cluster/transport/lanes.ts';

interface Played extends Connection {
  bufferedBytes: number;
  /** Writes as they were made, not copied, as the kernel would find them later. */
  readonly written: Uint8Array[];
  closed: number;
  below: boolean;
}
function play(): Played {
  const connection: Played = {
    bufferedBytes: 0,
    progress: 0,
    remoteAddress: '10.0.0.1:1',
    localAddress: '10.0.0.2:2',
    written: [],
    closed: 0,
    below: true,
    write(buffers) {
      connection.written.push(...buffers);
      return connection.below;
    },
    pause() {},
    resume() {},
    close: () => void connection.closed++,
    onData() {},
    onDrain() {},
    onClose() {},
  };
  return connection;
}

function openOutgoing(frameBytesMax = 1_000) {
  const connection = play();
  const told: (string | null)[] = [];
  const lane = new OutgoingLane(connection, frameBytesMax, {
    broke: (reason) => void told.push(reason),
    drained: () => void told.push('drained'),
    flushSoon: () => {},
  });
  return { connection, lane, told };
}
function openIncoming() {
  const connection = play();
  const told: (string | null)[] = [];
  const kinds: number[] = [];
  const lane: IncomingLane = new IncomingLane(connection, 'bulk', 1_000, {
    broke: (reason) => void told.push(reason),
    frame(kind) {
      kinds.push(kind);
      if (kind === 99) lane.close();
    },
  });
  return { connection, lane, told, kinds };
}
const frame = (kind: number, bytes: number) => {
  const writer = new FrameWriter();
  writer.add(kind, [Buffer.alloc(bytes)], bytes);
  return Buffer.concat(writer.take());
};
const alive = Buffer.from([0]);

describe('outgoing lane', () => {
  it('leaves alone what the connection has not yet taken', () => {
    const { connection, lane } = openOutgoing();
    connection.bufferedBytes = 1;
    for (const letter of 'abc') {
      lane.send(1, [Buffer.from(letter)]);
      lane.flush();
    }
    expect(
      Buffer.concat(connection.written)
        .toString('latin1')
        .replace(/[^a-z]/g, ''),
    ).toBe('abc');
    const [first, second] = connection.written;
    expect(first!.byteOffset).not.toBe(second!.byteOffset);
  });

  it('tells of room after the write that made it, and after a drain', () => {
    const { connection, lane, told } = openOutgoing();
    const fill = () => {
      while (lane.send(1, [Buffer.alloc(1_000)]));
    };
    fill();
    lane.flush();
    expect(told).toEqual(['drained']);
    connection.below = false;
    fill();
    lane.flush();
    expect(told).toEqual(['drained']);
    connection.onDrain();
    connection.onDrain();
    expect(told).toEqual(['drained', 'drained']);
  });

  it('tells of room with the next tick where the connection never said it was full', () => {
    const { connection, lane, told } = openOutgoing();
    connection.bufferedBytes = 1024 * 1024;
    expect(lane.send(1, [alive])).toBe(false);
    lane.tick();
    expect(told).toEqual([]);
    connection.bufferedBytes = 0;
    lane.tick();
    expect(told).toEqual(['drained']);
  });

  it('sends something now and then, and breaks when nothing comes back', () => {
    const { connection, lane, told } = openOutgoing();
    for (let i = 0; i < 20; i++) {
      lane.tick();
      lane.flush();
      if (i % silentTicksMax === 0) connection.onData(alive);
    }
    expect(told).toEqual([]);
    expect(Buffer.concat(connection.written).length).toBe((20 * 5) / 2);
    for (let i = 0; i < silentTicksMax; i++) lane.tick();
    expect(told).toEqual(['nothing was heard for too long']);
    expect(connection.closed).toBe(1);
    connection.onClose(null);
    lane.tick();
    expect(told.length).toBe(1);
  });

  it('takes no frames against its direction', () => {
    const { connection, told } = openOutgoing();
    connection.onData(Buffer.from([0, 0]));
    expect(told).toEqual([]);
    connection.onData(frame(1, 3));
    expect(told).toEqual(['sent frames on a lane that it did not dial']);
    expect(connection.closed).toBe(1);
  });

  it('writes nothing once it is closed', () => {
    const { connection, lane, told } = openOutgoing();
    lane.send(1, [alive]);
    lane.close();
    lane.flush();
    connection.onDrain();
    connection.onClose(new Error('late'));
    expect([connection.written, told]).toEqual([[], []]);
  });
});

describe('incoming lane', () => {
  it('says that it heard something, and breaks after a silence', () => {
    const { connection, lane, told, kinds } = openIncoming();
    connection.onData(frame(0, 0));
    lane.tick();
    expect(connection.written).toEqual([alive]);
    for (let i = 0; i < silentTicksMax; i++) lane.tick();
    expect([told, connection.written.length, kinds]).toEqual([[], 1, []]);
    lane.tick();
    expect(told).toEqual(['nothing was heard for too long']);
    expect(connection.closed).toBe(1);
  });

  it('hands on nothing after it was closed, also from the same chunk', () => {
    const { connection, told, kinds } = openIncoming();
    connection.onData(Buffer.concat([frame(1, 5), frame(99, 5), frame(2, 5)]));
    connection.onData(frame(3, 5));
    connection.onClose(null);
    expect([kinds, told]).toEqual([[1, 99], []]);
  });

  it('breaks at a frame over the limit', () => {
    const { connection, told, kinds } = openIncoming();
    connection.onData(Buffer.concat([frame(1, 1_000), frame(2, 1_001)]));
    expect([kinds, told, connection.closed]).toEqual([[1], ['sent a frame over the limit'], 1]);
  });
});
