// Clients that send nonsense, too much or too slowly: each is told so or cut off, and its neighbour on the same node is served on.

import { setTimeout as sleep } from 'node:timers/promises';
import { type ChannelModel, type ConfirmChannel, connect } from 'amqplib';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { frame, frameType, method, methodFrame, octet, shortString, uint16, uint32 } from '../bench/wire.ts';
import { isForeign, uniqueName, useBrokers } from '../interop/brokers.ts';
import { openFrames, protocolHeader, RawConnection, startOkFrame } from './raw-connection.ts';

const handshakeMilliseconds = isForeign ? 10_000 : 3000;
const urls = useBrokers({ 'amqp.handshake.milliseconds': String(handshakeMilliseconds) });

/** The neighbour: publishes and receives all the time. */
const queue = uniqueName('neighbour');
let neighbour: ChannelModel;
let channel: ConfirmChannel;
let received = 0;
let raw: RawConnection;

beforeAll(async () => {
  neighbour = await connect(urls()[0]!);
  channel = await neighbour.createConfirmChannel();
  await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
  await channel.consume(queue, () => received++, { noAck: true });
});

afterAll(async () => {
  await channel.deleteQueue(queue);
  await neighbour.close();
});

/** A whole round through the broker, at once. */
async function expectServed(): Promise<void> {
  const before = received;
  const started = performance.now();
  channel.publish('', queue, Buffer.from('still here?'));
  await channel.waitForConfirms();
  while (received === before && performance.now() - started < 2000) await sleep(2);
  expect(received).toBe(before + 1);
  expect(performance.now() - started).toBeLessThan(2000);
}

afterEach(async () => {
  raw.destroy();
  await expectServed();
});

describe('before the connection is open', () => {
  test.each([
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')],
    ['a TLS hello', Buffer.from('160301007a0100007603035f0b3c2a', 'hex')],
    ['AMQP 1.0', Buffer.from('AMQP\x00\x01\x00\x00', 'latin1')],
    ['AMQP 0-10', Buffer.from('AMQP\x01\x01\x00\x0a', 'latin1')],
    ['zeros', Buffer.alloc(64)],
  ])('%s is answered with our protocol header and a close', async (_, bytes) => {
    raw = await RawConnection.connect(urls()[0]!);
    raw.write(bytes);
    expect((await raw.rest()).toString('latin1')).toBe(protocolHeader.toString('latin1'));
  });

  test('wrong password: 403 for clients that understand it', async () => {
    raw = await RawConnection.connect(urls()[0]!);
    await raw.logIn('guest', 'wrong', { authentication_failure_close: true });
    expect(await raw.ending()).toBe(403);
  });

  test('wrong password: a bare close for the others', async () => {
    raw = await RawConnection.connect(urls()[0]!);
    await raw.logIn('nobody', 'guest');
    expect(await raw.ending()).toBe('closed');
  });

  test('a vhost that does not exist: 530', async () => {
    raw = await RawConnection.connect(urls()[0]!);
    await raw.logIn('guest', 'guest');
    await raw.expectMethod(method.connectionTune);
    raw.write(openFrames('/nowhere'));
    expect(await raw.ending()).toBe(530);
  });

  test('a channel method before connection.open ends the connection', async () => {
    raw = await RawConnection.connect(urls()[0]!);
    raw.write(protocolHeader);
    await raw.expectMethod(method.connectionStart);
    raw.write(methodFrame(1, method.channelOpen, shortString('')));
    expect(await raw.ending()).toSatisfy((ending: number | 'closed') => ending === 'closed' || ending >= 500);
  });

  test('a huge frame before the sizes are agreed ends the connection', async () => {
    raw = await RawConnection.connect(urls()[0]!);
    raw.write(protocolHeader);
    await raw.expectMethod(method.connectionStart);
    raw.write(Buffer.concat([octet(frameType.method), uint16(0), uint32(0x7fff_ffff), Buffer.alloc(20_000)]));
    expect(await raw.ending()).toSatisfy((ending: number | 'closed') => ending === 'closed' || ending === 501);
  });

  test('a client table that ends in the middle of a field ends the connection', async () => {
    raw = await RawConnection.connect(urls()[0]!);
    raw.write(protocolHeader);
    await raw.expectMethod(method.connectionStart);
    const cut = Buffer.concat([uint32(3), shortString('ab')]);
    raw.write(methodFrame(0, method.connectionStartOk, cut, shortString('PLAIN')));
    expect(await raw.ending()).toSatisfy((ending: number | 'closed') => ending === 'closed' || ending >= 500);
  });

  test('nothing but one byte a second: cut off when the handshake takes too long', { timeout: 40_000 }, async () => {
    raw = await RawConnection.connect(urls()[0]!);
    const dripping = (async () => {
      for (const byte of Buffer.concat([protocolHeader, Buffer.alloc(30)])) {
        if (raw.socket.destroyed) return;
        raw.write(octet(byte));
        await sleep(1000);
      }
    })();
    await expectServed();
    const started = performance.now();
    await raw.rest(handshakeMilliseconds + 10_000);
    expect(performance.now() - started).toBeLessThan(handshakeMilliseconds + 2000);
    raw.destroy();
    await dripping;
  });
});

describe('on an open connection', () => {
  const publish = () => methodFrame(1, method.basicPublish, uint16(0), shortString(''), shortString(queue), octet(0));
  const header = (bodyBytes: number) =>
    frame(frameType.header, 1, Buffer.concat([uint16(60), uint16(0), uint32(0), uint32(bodyBytes), uint16(0)]));
  const body = (bytes: number) => frame(frameType.body, 1, Buffer.alloc(bytes, 'x'));

  test.each<[string, number, () => Buffer]>([
    ['a frame beyond the agreed size', 501, () => Buffer.concat([publish(), header(200_000), body(200_000)])],
    ['an unknown frame type', 501, () => frame(7, 1, Buffer.alloc(4))],
    ['a frame without its end octet', 501, () => Buffer.concat([publish().subarray(0, -1), octet(0)])],
    [
      'a method on a channel that is not open',
      504,
      () => methodFrame(9, method.basicQos, uint32(0), uint16(1), octet(0)),
    ],
    ['a content header without a publish', 505, () => header(5)],
    ['a body without a header', 505, () => Buffer.concat([publish(), body(5)])],
    ['a method in the middle of a message', 505, () => Buffer.concat([publish(), publish()])],
  ])('%s: %i', async (_, code, bytes) => {
    raw = await RawConnection.opened(urls()[0]!);
    raw.write(bytes());
    expect(await raw.ending()).toBe(code);
  });

  test.each<[string, Buffer]>([
    ['an unknown method', methodFrame(1, 0x003c_03e7)],
    ['an unknown class', methodFrame(1, 0x0063_000a)],
    ['a method whose fields are cut off', methodFrame(1, method.queueDeclare, uint16(0), octet(200))],
    ['a method frame too short for an id', frame(frameType.method, 1, Buffer.alloc(2))],
  ])('%s ends the connection with a reason', async (_, bytes) => {
    raw = await RawConnection.opened(urls()[0]!);
    raw.write(bytes);
    expect(await raw.ending()).toSatisfy((code: number | 'closed') => code === 'closed' || code >= 500);
  });

  // RabbitMQ waits for ever for the message to end.
  test.skipIf(isForeign)('more body than the header said ends the connection', async () => {
    raw = await RawConnection.opened(urls()[0]!);
    raw.write(Buffer.concat([publish(), header(5), body(50)]));
    expect(await raw.ending()).toBeGreaterThanOrEqual(501);
  });

  test('a frame that never ends, and a client that goes away in it', async () => {
    raw = await RawConnection.opened(urls()[0]!);
    raw.write(Buffer.concat([publish(), header(50_000), body(50_000).subarray(0, 20_000)]));
    await expectServed();
    raw.destroy();
  });

  test('half a message is never delivered', async () => {
    raw = await RawConnection.opened(urls()[0]!);
    const before = received;
    raw.write(Buffer.concat([publish(), header(10), body(5)]));
    await sleep(100);
    raw.destroy();
    await sleep(100);
    expect(received).toBe(before);
  });

  test('a client that sends byte by byte is understood', async () => {
    raw = await RawConnection.connect(urls()[0]!);
    const drip = async (bytes: Buffer) => {
      for (const byte of bytes) {
        raw.write(octet(byte));
        await sleep(1);
      }
    };
    await drip(protocolHeader);
    await raw.expectMethod(method.connectionStart);
    await drip(startOkFrame('guest', 'guest'));
    await raw.expectMethod(method.connectionTune);
    await drip(openFrames('/'));
    await raw.expectMethod(method.connectionOpenOk);
    await drip(methodFrame(1, method.channelOpen, shortString('')));
    await raw.expectMethod(method.channelOpenOk);
    const before = received;
    await drip(Buffer.concat([publish(), header(5), body(5)]));
    for (let waited = 0; received === before && waited < 2000; waited += 10) await sleep(10);
    expect(received).toBe(before + 1);
  });

  test('a client that does not read its deliveries disturbs nobody', async () => {
    raw = await RawConnection.opened(urls()[0]!);
    raw.socket.pause();
    const flooded = uniqueName('flood');
    const args = uint32(0);
    raw.write(methodFrame(1, method.queueDeclare, uint16(0), shortString(flooded), octet(8), args));
    raw.write(methodFrame(1, method.basicConsume, uint16(0), shortString(flooded), shortString(''), octet(2), args));
    await sleep(300);
    for (let i = 0; i < 40; i++) channel.publish('', flooded, Buffer.alloc(500_000));
    await channel.waitForConfirms();
    await expectServed();
  });
});
