// What a client must not do, by error or by intent: each gets the right answer, and nothing grows beyond its bound.

import { beforeEach, describe, expect, it } from 'vitest';
import { encodeFrame, protocolHeader } from '../../node/amqp/frames.ts';
import type { Method } from '../../node/amqp/methods.ts';
import {
  type Client,
  consume,
  declare,
  fullCapabilities,
  type Harness,
  harness,
  methodFrame,
  publishFrames,
  startOk,
} from './harness.ts';

let broker: Harness;
let client: Client;
const hex = (text: string) => Buffer.from(text.replace(/[\s|]/g, ''), 'hex');
const last = (from: Client) => from.methods().at(-1);
/** The client is told, may answer, and the socket ends; the broker's connection was closed once. */
function expectClose(from: Client, replyCode: number, text: string | RegExp, method: readonly [number, number]): void {
  const close = last(from);
  expect(close).toMatchObject({ kind: 'connection.close', replyCode, classId: method[0], methodId: method[1] });
  const { replyText } = close as { replyText: string };
  if (typeof text === 'string') expect(replyText).toContain(text);
  else expect(replyText).toMatch(text);
  expect(from.socket.isClosed).toBe(false);
  from.send(0, { kind: 'connection.close-ok' });
  expect(from.socket.isClosed).toBe(true);
  for (const connection of broker.backend.connections) expect(connection.closed).toBe(1);
  expect(broker.server.connectionCount).toBe(0);
}

beforeEach(async () => {
  broker = await harness();
});

describe('before login', () => {
  beforeEach(() => void (client = broker.connect()));

  it.each([
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    ['AMQP 1.0', Buffer.from('AMQP\0\x01\0\0')],
    ['AMQP 0-8', Buffer.from('AMQP\x01\x01\x08\0')],
    ['TLS', hex('16030100c8010000c40303')],
  ])('%s is told our protocol', (_, bytes) => {
    client.bytes(bytes);
    expect(client.take()).toEqual([{ protocolHeader: true }]);
    expect(client.socket.isClosed).toBe(true);
  });

  it('one byte a second is cut off, at any point of the handshake', () => {
    const stream = Buffer.concat([protocolHeader, methodFrame(0, startOk('guest', 'guest', fullCapabilities))]);
    for (let i = 0; i < 10; i++) {
      expect(client.socket.isClosed).toBe(false);
      client.bytes(stream.subarray(i, i + 1));
      broker.clock.advance(1000);
    }
    expect(client.socket.isClosed).toBe(true);
    const other = broker
      .connect()
      .bytes(protocolHeader)
      .send(0, startOk('guest', 'guest', fullCapabilities));
    broker.clock.advance(10_000);
    expect(other.socket.isClosed).toBe(true);
    expect(broker.server.connectionCount).toBe(0);
    expect(broker.clock.timerCount).toBe(0);
  });

  it('wrong credentials are refused with 403, or in silence to those who would not understand', () => {
    client.bytes(protocolHeader).send(0, startOk('guest', 'wrong', fullCapabilities));
    expectClose(client, 403, /^ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN/, [0, 0]);
    const old = broker
      .connect()
      .bytes(protocolHeader)
      .send(0, startOk('guest', 'wrong', {}));
    expect(last(old)).toMatchObject({ kind: 'connection.start' });
    expect(old.socket.isClosed).toBe(true);
  });

  it('why a login was refused is logged and not told, and the password is neither', async () => {
    const lines: string[] = [];
    const write = (details: object, message: string) => void lines.push(`${message} ${JSON.stringify(details)}`);
    broker = await harness({}, { debug: write, info: write, warn: write });
    client = broker
      .connect()
      .bytes(protocolHeader)
      .send(0, startOk('mallory', 'hunter2', fullCapabilities));
    expect(JSON.stringify(client.take())).not.toContain('mallory');
    expect(lines.join()).toContain("user 'mallory' is not known");
    expect(lines.join()).not.toContain('hunter2');
  });

  it('a login is answered once the broker has, and not when the client is gone', () => {
    broker.backend.later = [];
    client.bytes(protocolHeader).send(0, startOk('guest', 'guest', fullCapabilities));
    expect(last(client)).toMatchObject({ kind: 'connection.start' });
    client.socket.close();
    broker.backend.answerAll();
    broker.clock.turn();
    expect(client.methods()).toEqual([]);
  });

  it('a vhost that is not there is refused', () => {
    client.handshake({ vhost: 'absent' });
    expectClose(client, 530, 'NOT_ALLOWED - vhost absent not found', [10, 40]);
  });

  it.each([
    [{ frameMax: 100 }, 'negotiated frame_max = 100 is lower than the minimum allowed value (4096)'],
    [{ frameMax: 200_000 }, 'negotiated frame_max = 200000 is higher than the maximum allowed value (131072)'],
    [{ channelMax: 3000 }, 'negotiated channel_max = 3000 is higher than the maximum allowed value (2047)'],
  ])('%o cannot be agreed', (tuning, text) => {
    client.bytes(protocolHeader).send(0, startOk('guest', 'guest', fullCapabilities));
    client.send(0, { kind: 'connection.tune-ok', channelMax: 0, frameMax: 0, heartbeat: 0, ...tuning });
    expectClose(client, 530, text, [10, 31]);
  });

  it('unknown mechanisms, broken responses and methods out of order are refused', () => {
    const start = startOk('guest', 'guest', {});
    for (const [method, replyCode] of [
      [{ ...start, mechanism: 'GUESS' }, 503],
      [{ ...start, response: Buffer.from('guest') }, 502],
      [{ kind: 'connection.open', virtualHost: '/', reserved1: '', reserved2: false }, 504],
    ] as [Method, number][]) {
      const other = broker.connect().bytes(protocolHeader).send(0, method);
      expect(last(other)).toMatchObject({ kind: 'connection.close', replyCode });
    }
  });

  it('large frames and many bytes are not waited for', () => {
    client.bytes(protocolHeader, hex('01 0000 00002000'));
    expect(last(client)).toMatchObject({ kind: 'connection.close', replyCode: 501 });
    const other = broker.connect().bytes(protocolHeader);
    const heartbeats = Buffer.concat(Array.from({ length: 1000 }, () => hex('08 0000 00000000 ce')));
    for (let i = 0; i < 10 && !other.socket.isClosed; i++) other.bytes(heartbeats);
    expect(other.socket.isClosed).toBe(true);
  });

  it('channels wait for the handshake', () => {
    client.bytes(protocolHeader).send(1, { kind: 'channel.open', reserved1: '' });
    expect(last(client)).toMatchObject({ kind: 'connection.close', replyCode: 505 });
  });
});

describe('connection errors', () => {
  beforeEach(() => void (client = broker.connect().handshake({ frameMax: 4096 }).channels(1)));

  it.each([
    ['501 unknown frame type', '05 0000 00000000 ce', 501, /^FRAME_ERROR - type 5: unknown frame type/, [0, 0]],
    ['501 too large a frame', '03 0001 00000ff9', 501, /^FRAME_ERROR - type 3: frame too large, 4089/, [0, 0]],
    [
      '501 no frame end',
      '08 0000 00000000 cd',
      501,
      /^FRAME_ERROR - type 8, all octets = <<>>: {invalid_frame_end_marker,205}/,
      [0, 0],
    ],
    ['505 heartbeat on a channel', '08 0001 00000000 ce', 505, /^UNEXPECTED_FRAME - type 8, channel 1/, [0, 0]],
    ['505 content on channel 0', '03 0000 00000001 00 ce', 505, /^UNEXPECTED_FRAME - type 3, channel 0/, [0, 0]],
    ['505 a body out of order', '03 0001 00000001 00 ce', 505, /expected method frame, got non method frame/, [0, 0]],
    ['503 unknown method', '01 0001 00000004 003c00ff ce', 503, /^COMMAND_INVALID - unknown method/, [60, 255]],
    ['503 unknown class', '01 0001 00000004 00ff0001 ce', 503, /^COMMAND_INVALID - unknown method/, [255, 1]],
    ['503 a method of servers', '01 0001 00000004 00320015 ce', 503, /unimplemented method/, [50, 21]],
    ['501 a method cut off', '01 0001 00000005 003c001400 ce', 501, /^FRAME_ERROR - cannot decode <<0>>/, [60, 20]],
    ['501 less than a method', '01 0001 00000002 003c ce', 501, /^FRAME_ERROR - cannot decode <<>>/, [0, 0]],
    ['504 a channel that is not open', '01 0002 00000005 0055000a00 ce', 504, /expected 'channel.open'/, [85, 10]],
    ['504 a channel opened twice', '01 0001 00000005 0014000a00 ce', 504, /second 'channel.open' seen/, [20, 10]],
    ['504 the handshake again', '01 0000 0000000c 000a001f 000000000000003c ce', 504, /state running/, [10, 31]],
    ['540 prefetch-size', '01 0001 0000000b 003c000a 00000001 0000 00 ce', 540, /prefetch_size!=0 \(1\)/, [60, 10]],
    ['540 flow off', '01 0001 00000005 00140014 00 ce', 540, /active=false/, [20, 20]],
    ['540 recover without requeue', '01 0001 00000005 003c006e 00 ce', 540, /requeue=false/, [60, 110]],
    ['540 immediate', '01 0001 00000009 003c0028 0000 00 00 02 ce', 540, /immediate=true/, [60, 40]],
  ] as const)('%s', (_, bytes, replyCode, text, method) => {
    client.bytes(hex(bytes));
    expectClose(client, replyCode, text, method);
  });

  it('530 more channels than agreed, whatever their numbers', () => {
    const other = broker.connect().handshake({ channelMax: 2 });
    other.take();
    const open: Method = { kind: 'channel.open', reserved1: '' };
    other.send(65_535, open).send(7, open);
    expect(other.methods().map(({ kind }) => kind)).toEqual(['channel.open-ok', 'channel.open-ok']);
    other.send(7, { kind: 'channel.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 }).send(8, open);
    expect(other.methods().map(({ kind }) => kind)).toEqual(['channel.close-ok', 'channel.open-ok']);
    other.send(1, open);
    const text = 'number of channels opened (2) has reached the negotiated channel_max (2)';
    expect(last(other)).toMatchObject({
      replyCode: 530,
      replyText: `NOT_ALLOWED - ${text}`,
      classId: 20,
      methodId: 10,
    });
  });

  it('505 a method, a header or a body where another is due', () => {
    const [publish, header] = [publishFrames(1, '', 'q', Buffer.alloc(0)), Buffer.alloc(0)];
    const methodOnly = publish.subarray(0, publish.readUInt32BE(3) + 8);
    const headerOnly = publishFrames(1, '', 'q', Buffer.from('x')).subarray(methodOnly.length, -9);
    for (const [frames, text] of [
      [[methodOnly, methodOnly], 'expected content header for class 60, got non content header frame instead'],
      [[methodOnly, encodeFrame(3, 1, header)], 'expected content header for class 60'],
      [[methodOnly, headerOnly, headerOnly], 'expected content body, got non content body frame instead'],
      [[methodOnly, headerOnly, methodOnly], 'expected content body'],
      [[headerOnly], 'expected method frame'],
      [[methodOnly, encodeFrame(2, 1, hex('0032 0000 0000000000000000 0000'))], 'got one for class 50 instead'],
    ] as [Buffer[], string][]) {
      const other = broker
        .connect()
        .handshake()
        .channels(1)
        .bytes(...frames);
      const close = last(other);
      expect(close).toMatchObject({ kind: 'connection.close', replyCode: 505 });
      expect((close as { replyText: string }).replyText).toContain(text);
    }
  });

  it('501 a body larger than announced, 502 broken properties', () => {
    const frames = publishFrames(1, '', 'q', Buffer.from('xx'));
    const other = broker.connect().handshake().channels(1);
    const method = frames.subarray(0, frames.readUInt32BE(3) + 8);
    const head = hex('003c 0000 0000000000000001 0000');
    other.bytes(method, encodeFrame(2, 1, head), encodeFrame(3, 1, Buffer.from('xx')));
    expect(last(other)).toMatchObject({ kind: 'connection.close', replyCode: 501 });
    client.bytes(method, encodeFrame(2, 1, hex('003c 0000 0000000000000001 8000 05 61')));
    expect(last(client)).toMatchObject({ kind: 'connection.close', replyCode: 502 });
  });

  it('530 a consumer tag used twice', () => {
    client.send(1, declare('q'), consume('q', 'c'), consume('q', 'c'));
    expectClose(client, 530, /attempt to reuse consumer tag 'c'/, [60, 20]);
  });

  it('ends the socket when the client does not answer, and recognises an answer in a stream that it lost', () => {
    const garbage = hex('ffffffffffffffffffff');
    client.bytes(garbage);
    expect(last(client)).toMatchObject({ kind: 'connection.close', replyCode: 501 });
    client.bytes(garbage);
    broker.clock.advance(2999);
    expect(client.socket.isClosed).toBe(false);
    broker.clock.advance(1);
    expect(client.socket.isClosed).toBe(true);
    const other = broker.connect().handshake().bytes(garbage);
    other.bytes(garbage, methodFrame(0, { kind: 'connection.close-ok' }));
    expect(other.socket.isClosed).toBe(true);
  });

  it('takes a connection.close that crossed its own, and reads on though it was paused', () => {
    broker.backend.connections[0]!.events.pause();
    client.bytes(hex('08 0001 00000000 ce'));
    expect(client.socket.isPaused).toBe(false);
    client.take();
    client.send(0, { kind: 'connection.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 });
    expect(client.methods()).toEqual([{ kind: 'connection.close-ok' }]);
  });

  it('closes the broker once when the socket breaks, and late answers find nobody', () => {
    broker.backend.later = [];
    client.send(1, declare('q'));
    client.socket.close();
    broker.backend.answerAll();
    broker.clock.turn();
    expect(broker.backend.connections[0]!.closed).toBe(1);
    expect(client.methods()).toEqual([]);
    expect(broker.clock.timerCount).toBe(0);
  });
});

describe('channel errors', () => {
  const close = (replyCode: number, replyText: string, classId: number, methodId: number): Method => ({
    kind: 'channel.close',
    replyCode,
    replyText,
    classId,
    methodId,
  });
  const publish = (properties: string) => publishFrames(1, '', 'q', Buffer.from('x'), { properties: hex(properties) });
  beforeEach(() => void (client = broker.connect().handshake().channels(1)));

  it('404 nothing declared, no such queue, no such exchange', () => {
    client.send(1, consume('', 'c'));
    expect(client.methods()).toEqual([close(404, 'NOT_FOUND - no previously declared queue', 60, 20)]);
    client.channels(2).send(2, consume('absent', 'c'));
    expect(client.methods()).toEqual([close(404, "NOT_FOUND - no queue 'absent' in vhost '/'", 60, 20)]);
  });

  it('403 the default exchange, 406 an exchange type nobody knows', () => {
    const declareExchange = (exchange: string, type: string): Method => ({
      kind: 'exchange.declare',
      ticket: 0,
      exchange,
      type,
      passive: false,
      durable: true,
      autoDelete: false,
      internal: false,
      nowait: false,
      arguments: {},
    });
    client.send(1, declareExchange('', 'direct'));
    const refused = 'ACCESS_REFUSED - operation not permitted on the default exchange';
    expect(client.methods()).toEqual([close(403, refused, 40, 10)]);
    client.channels(2).send(2, declareExchange('x', 'odd'));
    expect(client.methods()).toEqual([close(406, "PRECONDITION_FAILED - unknown exchange type 'odd'", 40, 10)]);
  });

  it("406 somebody else's user-id, an expiration that is no number", () => {
    client.bytes(publish('0010 05 6775657374'));
    expect(client.methods()).toEqual([]);
    client.bytes(publish('0010 05 61646d696e'));
    const text = "PRECONDITION_FAILED - user_id property set to 'admin' but authenticated user was 'guest'";
    expect(client.methods()).toEqual([close(406, text, 60, 40)]);
    client.channels(2);
    client.bytes(publishFrames(2, '', 'q', Buffer.from('x'), { properties: hex('0100 02 2d31') }));
    expect(client.methods()).toEqual([
      close(406, "PRECONDITION_FAILED - invalid expiration '-1': {value_negative,-1}", 60, 40),
    ]);
  });

  it('406 too large a message, whose bodies are then ignored', async () => {
    broker = await harness({ messageBytesMax: 1000 });
    client = broker.connect().handshake().channels(1);
    client.bytes(publishFrames(1, '', 'q', Buffer.alloc(1001), { bodyMax: 300 }));
    const text = 'PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000';
    expect(client.methods()).toEqual([close(406, text, 60, 40)]);
    client.send(1, { kind: 'channel.close-ok' }, { kind: 'channel.open', reserved1: '' });
    expect(client.methods()).toMatchObject([{ kind: 'channel.open-ok' }]);
  });

  it('406 confirms and transactions together', () => {
    client.send(1, { kind: 'confirm.select', nowait: true }, { kind: 'tx.select' });
    expect(client.methods()).toEqual([
      close(406, 'PRECONDITION_FAILED - cannot switch from confirm to tx mode', 90, 10),
    ]);
    client.channels(3).send(3, { kind: 'tx.select' }, { kind: 'confirm.select', nowait: false });
    expect(client.methods().at(-1)).toEqual(
      close(406, 'PRECONDITION_FAILED - cannot switch from tx to confirm mode', 85, 10),
    );
    client.channels(2).send(2, { kind: 'tx.commit' });
    expect(client.methods()).toEqual([close(406, 'PRECONDITION_FAILED - channel is not transactional', 90, 20)]);
  });

  it('leaves other channels alone', () => {
    client.channels(2).send(1, { kind: 'basic.ack', deliveryTag: 9, multiple: false }).send(2, declare('q'));
    expect(client.take()).toMatchObject([
      { channel: 1, method: { kind: 'channel.close', replyCode: 406 } },
      { channel: 2, method: { kind: 'queue.declare-ok' } },
    ]);
  });

  it('names the method whose answer failed, and does nothing that waited behind it', () => {
    broker.backend.later = [];
    client.send(
      1,
      consume('absent', 'c'),
      declare('never'),
      { kind: 'channel.close-ok' },
      { kind: 'basic.qos', prefetchSize: 0, prefetchCount: 1, global: false },
    );
    broker.backend.answerAll();
    broker.clock.turn();
    expect(client.methods()).toMatchObject([{ kind: 'channel.close', replyCode: 404, classId: 60, methodId: 20 }]);
    expect(broker.backend.queues.has('never')).toBe(false);
  });
});

describe('bounds', () => {
  it('unfinished messages of all channels together', async () => {
    broker = await harness({ messageBytesMax: 10_000, assemblyBytesMax: 20_000 });
    client = broker.connect().handshake().channels(1, 2, 3);
    for (const channel of [1, 2, 3])
      client.bytes(publishFrames(channel, '', 'q', Buffer.alloc(10_000), { bodyMax: 4000 }).subarray(0, -2008));
    expect(last(client)).toMatchObject({ kind: 'connection.close', replyCode: 506 });
  });

  it('an announced body costs nothing before it comes', async () => {
    client = broker.connect().handshake({ channelMax: 200 });
    const frames = publishFrames(1, '', 'q', Buffer.alloc(1));
    const method = frames.subarray(0, frames.readUInt32BE(3) + 8);
    const before = process.memoryUsage().arrayBuffers;
    for (let channel = 1; channel <= 200; channel++) {
      client.channels(channel);
      const numbered = Buffer.from(method);
      numbered.writeUInt16BE(channel, 1);
      client.bytes(numbered, encodeFrame(2, channel, hex('003c 0000 0000000001000000 0000')));
      client.bytes(encodeFrame(3, channel, Buffer.from('x')));
    }
    // 200 × 16 MiB were announced.
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 1024 * 1024);
  });

  it('consumers and connections', async () => {
    broker = await harness({ consumersPerChannelMax: 1, connectionsMax: 1 });
    client = broker.connect().handshake().channels(1);
    expect(broker.connect().socket.isClosed).toBe(true);
    client.send(1, declare('q'), consume('q', ''), consume('q', ''));
    expect(last(client)).toMatchObject({ kind: 'connection.close', replyCode: 530 });
  });

  it('options that contradict each other are refused', async () => {
    await expect(harness({ frameMax: 100 })).rejects.toThrow('frameMax');
  });
});
