// Clients that take nothing of what waits for them: they are given up in time; those that take a little, however slowly, are not.

import { connect as dial, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createClock, createNet, createRandom } from '../../cluster/os.ts';
import { encodeFrame, FrameType, heartbeatFrame, protocolHeader } from '../../node/amqp/frames.ts';
import { type AmqpServer, createAmqpServer } from '../../node/amqp/server.ts';
import { FakeBackend } from './fake-backend.ts';
import {
  type Client,
  consume,
  declare,
  type Harness,
  harness,
  methodFrame,
  publishFrames,
  startOk,
} from './harness.ts';

const warnings: { readonly details: object; readonly message: string }[] = [];
const log = {
  debug() {},
  info() {},
  warn: (details: object, message: string) => void warnings.push({ details, message }),
};
beforeEach(() => void warnings.splice(0));

describe('a socket that takes nothing', () => {
  let broker: Harness;
  let client: Client;
  const start = async (sendTimeoutMilliseconds: number) => {
    broker = await harness({ sendTimeoutMilliseconds }, log);
    client = broker.connect().handshake().channels(1);
    client.send(1, declare('q'), consume('q', 'c')).take();
    client.socket.isStuck = true;
  };

  it('is closed when bytes have waited for so long, and what its client held goes back', async () => {
    await start(8000);
    client.publish(1, '', 'q', 'x');
    broker.clock.advance(7999);
    expect([client.socket.isClosed, warnings]).toEqual([false, []]);
    broker.clock.advance(2000);
    expect(client.socket.isClosed).toBe(true);
    const { bufferedBytes } = client.socket;
    const details = { remoteAddress: '127.0.0.1:50000', milliseconds: 8000, bufferedBytes };
    expect(warnings).toEqual([{ details, message: 'client takes nothing' }]);
    expect(broker.backend.calls.at(-1)).toBe('close');
    expect(broker.clock.timerCount).toBe(0);
  });

  it('is closed although its client goes on sending', async () => {
    await start(8000);
    for (let i = 0; i < 12 && !client.socket.isClosed; i++) {
      client.bytes(heartbeatFrame).publish(1, '', 'q', 'x');
      broker.clock.advance(1000);
    }
    expect(client.socket.isClosed).toBe(true);
  });

  it('has its time anew whenever it takes something', async () => {
    await start(8000);
    client.publish(1, '', 'q', 'x');
    for (let i = 0; i < 10; i++) {
      broker.clock.advance(7000);
      client.socket.progress++;
    }
    expect(client.socket.isClosed).toBe(false);
    broker.clock.advance(12_000);
    expect(client.socket.isClosed).toBe(true);
  });

  it('is watched only while something waits', async () => {
    await start(8000);
    client.publish(1, '', 'q', 'x');
    client.socket.drain();
    broker.clock.advance(100_000);
    expect([client.socket.isClosed, broker.clock.timerCount]).toEqual([false, 0]);
    client.socket.isStuck = true;
    client.publish(1, '', 'q', 'x');
    broker.clock.advance(10_000);
    expect(client.socket.isClosed).toBe(true);
  });

  it('is not held silent while it is not read because it has to take answers first, and takes them', async () => {
    broker = await harness({ sendTimeoutMilliseconds: 0, socketBufferBytesMax: 1000 }, log);
    client = broker.connect().handshake({ heartbeat: 2 }).channels(1);
    client.send(1, declare('q')).publish(1, '', 'q', Buffer.alloc(5000)).take();
    client.socket.isStuck = true;
    client.send(1, { kind: 'basic.get', ticket: 0, queue: 'q', noAck: true });
    expect(client.socket.isPaused).toBe(true);
    for (let i = 0; i < 10; i++) {
      client.socket.progress++;
      broker.clock.advance(1000);
    }
    expect(client.socket.isClosed).toBe(false);
    broker.clock.advance(4000);
    expect(client.socket.isClosed).toBe(true);
    expect(warnings.map(({ message }) => message)).toEqual(['missed heartbeats from client']);
  });

  it('is kept for ever without a timeout', async () => {
    await start(0);
    client.publish(1, '', 'q', 'x');
    broker.clock.advance(10_000_000);
    expect(client.socket.isClosed).toBe(false);
  });
});

describe('a real socket', () => {
  let server: AmqpServer;
  let port = 0;
  let socket: Socket | null = null;
  const body = Buffer.alloc(32 * 1024 * 1024, 'x');
  const milliseconds = 600;

  beforeEach(async () => {
    const ports = { net: createNet(), clock: createClock(), random: createRandom() };
    const options = { heartbeatSeconds: 0, closeMilliseconds: 300, sendTimeoutMilliseconds: milliseconds };
    server = createAmqpServer(options, ports, new FakeBackend(), log);
    [port = 0] = await server.listen([{ host: '127.0.0.1', port: 0 }]);
  });
  afterEach(async () => {
    socket?.destroy();
    await server.close();
  });

  /** A client that publishes a large message to itself, and has not taken anything yet. */
  async function consumer(): Promise<Socket> {
    const opened = dial({ port, host: '127.0.0.1' });
    socket = opened;
    opened.on('error', () => {});
    opened.pause();
    opened.write(
      Buffer.concat([
        protocolHeader,
        methodFrame(0, startOk('guest', 'guest', {})),
        methodFrame(0, { kind: 'connection.tune-ok', channelMax: 0, frameMax: 0, heartbeat: 0 }),
        methodFrame(0, { kind: 'connection.open', virtualHost: '/', reserved1: '', reserved2: true }),
        methodFrame(1, { kind: 'channel.open', reserved1: '' }),
        methodFrame(1, declare('q')),
        methodFrame(1, consume('q', 'c', true)),
        publishFrames(1, '', 'q', body),
        encodeFrame(FrameType.heartbeat, 0, Buffer.alloc(0)),
      ]),
    );
    await expect.poll(() => server.measures().counters.deliveries, { timeout: 10_000 }).toBe(1);
    return opened;
  }

  it('that is not read is given up', async () => {
    await consumer();
    const began = Date.now();
    await expect.poll(() => server.connectionCount, { timeout: 10_000, interval: 20 }).toBe(0);
    expect(Date.now() - began).toBeGreaterThan(milliseconds / 2);
    expect(warnings.map(({ message }) => message)).toEqual(['client takes nothing']);
  });

  it('that is read slowly gets all of it', async () => {
    const slow = await consumer();
    let received = 0;
    // Some 16 steps, each shorter than the timeout, all together several times as long: no single write of the server ends in time.
    while (received < body.length) {
      const goal = received + body.length / 16;
      await new Promise<void>((resolve, reject) => {
        const take = (chunk: Buffer) => {
          received += chunk.length;
          if (received < goal && received < body.length) return;
          slow.pause();
          slow.off('data', take).off('close', reject);
          setTimeout(resolve, milliseconds / 4);
        };
        slow.on('data', take).on('close', reject);
        slow.resume();
      });
    }
    expect(warnings).toEqual([]);
  });
});
