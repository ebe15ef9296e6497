// What every Net must do, on real sockets and in memory, and then the faults of the memory network.

import { createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { createNet } from '../../cluster/os.ts';
import type { Address, Connection, Net } from '../../cluster/ports.ts';
import { createMemoryClock } from '../support/memory-clock.ts';
import { createMemoryNetwork } from '../support/memory-net.ts';
import { createMemoryRandom } from '../support/memory-random.ts';

interface Subject {
  readonly net: Net;
  until(condition: () => boolean): Promise<void>;
}

const subjects: Record<string, () => Subject> = {
  real: () => ({
    net: createNet({ connectMilliseconds: 500, lingerMilliseconds: 200 }),
    async until(condition) {
      const end = Date.now() + 10_000;
      while (!condition()) {
        if (Date.now() > end) throw new Error('waited too long');
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    },
  }),
  memory: () => {
    const clock = createMemoryClock();
    return {
      net: createMemoryNetwork(clock, createMemoryRandom(1)).endpoint('a'),
      async until(condition) {
        if (!(await clock.runUntil(condition, 10_000))) throw new Error('waited too long');
      },
    };
  },
};

/** A connection that writes down what happens to it. */
interface Probe {
  readonly connection: Connection;
  readonly chunks: Buffer[];
  received(): Buffer;
  drains: number;
  closes: (Error | null)[];
}
function watch(connection: Connection): Probe {
  const probe: Probe = {
    connection,
    chunks: [],
    received: () => Buffer.concat(probe.chunks),
    drains: 0,
    closes: [],
  };
  connection.onData = (chunk) => void probe.chunks.push(chunk);
  connection.onDrain = () => void probe.drains++;
  connection.onClose = (error) => void probe.closes.push(error);
  return probe;
}

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

async function pair({ net, until }: Subject): Promise<{ near: Probe; far: Probe; address: Address }> {
  let near: Probe | null = null;
  let far: Probe | null = null;
  const listener = await net.listen({ host: '127.0.0.1', port: 0 }, (connection) => {
    far = watch(connection);
  });
  const address = { host: '127.0.0.1', port: listener.port };
  net.connect(address, (_error, connection) => {
    near = watch(connection!);
  });
  await until(() => near !== null && far !== null);
  cleanups.push(
    () => listener.close(),
    () => near!.connection.close(),
    () => far!.connection.close(),
  );
  return { near: near!, far: far!, address };
}

const connectError = async ({ net, until }: Subject, address: Address) => {
  let failure: NodeJS.ErrnoException | null = null;
  net.connect(address, (error, connection) => {
    expect(connection).toBe(null);
    failure = error;
  });
  await until(() => failure !== null);
  return failure! as NodeJS.ErrnoException;
};

for (const [name, create] of Object.entries(subjects)) {
  describe(`net: ${name}`, () => {
    it('carries bytes both ways, in order', async () => {
      const subject = create();
      const { near, far } = await pair(subject);
      expect(near.connection.write([Buffer.from('a'), Buffer.from(''), Buffer.from('bc')])).toBe(true);
      near.connection.write([Buffer.from('d')]);
      near.connection.write([]);
      far.connection.write([Buffer.from('xyz')]);
      await subject.until(() => far.received().length === 4 && near.received().length === 3);
      expect([far.received().toString(), near.received().toString()]).toEqual(['abcd', 'xyz']);
    });

    it('names both ends', async () => {
      const { near, far, address } = await pair(create());
      expect(near.connection.remoteAddress).toBe(`127.0.0.1:${address.port}`);
      expect(far.connection.localAddress).toBe(`127.0.0.1:${address.port}`);
      expect(near.connection.localAddress).toBe(far.connection.remoteAddress);
      expect(far.connection.remoteAddress).toMatch(/^127\.0\.0\.1:\d+$/);
    });

    it('tells when too much is buffered, and when it has left', async () => {
      const subject = create();
      const { near, far } = await pair(subject);
      far.connection.pause();
      const block = Buffer.alloc(256 * 1024);
      for (let i = 0; i < block.length; i++) block[i] = i % 251;
      let written = 0;
      let below = true;
      while (below && written < 1000) {
        below = near.connection.write([block, block]);
        written += 2;
      }
      expect(below).toBe(false);
      expect(near.connection.bufferedBytes).toBeGreaterThan(0);
      expect(near.drains).toBe(0);
      const before = near.connection.progress;
      far.connection.resume();
      await subject.until(() => near.drains === 1 && far.received().length === written * block.length);
      expect(near.connection.bufferedBytes).toBe(0);
      expect(near.connection.progress).not.toBe(before);
      const whole = far.received();
      for (let i = 0; i < written; i++)
        expect(whole.compare(block, 0, block.length, i * block.length, (i + 1) * block.length)).toBe(0);
    });

    it('delivers nothing while paused', async () => {
      const subject = create();
      const { near, far } = await pair(subject);
      far.connection.pause();
      near.connection.write([Buffer.from('later')]);
      far.connection.write([Buffer.from('now')]);
      await subject.until(() => near.received().length === 3);
      expect(far.chunks).toEqual([]);
      far.connection.resume();
      await subject.until(() => far.received().length === 5);
    });

    it('sends what is buffered before it closes, and tells both ends once', async () => {
      const subject = create();
      const { near, far } = await pair(subject);
      const block = Buffer.alloc(1024 * 1024, 7);
      near.connection.write([block]);
      near.connection.close();
      expect(near.closes).toEqual([]);
      near.connection.close();
      expect(near.connection.write([Buffer.from('too late')])).toBe(false);
      await subject.until(() => near.closes.length > 0 && far.closes.length > 0);
      expect(far.received().equals(block)).toBe(true);
      expect([near.closes, far.closes]).toEqual([[null], [null]]);
      far.connection.close();
      await subject.until(() => true);
      expect(far.closes).toEqual([null]);
    });

    it('hears nothing more once it has closed', async () => {
      const subject = create();
      const { near, far } = await pair(subject);
      far.connection.write([Buffer.from('unheard')]);
      near.connection.close();
      await subject.until(() => near.closes.length > 0 && far.closes.length > 0);
      expect(near.chunks).toEqual([]);
    });

    it('passes on why nothing could be dialled', async () => {
      const subject = create();
      const { address } = await pair(subject);
      for (const cleanup of cleanups.splice(0)) await cleanup();
      expect((await connectError(subject, address)).code).toBe('ECONNREFUSED');
    });

    it('passes on why it could not listen', async () => {
      const subject = create();
      const { address } = await pair(subject);
      await expect(subject.net.listen(address, () => {})).rejects.toMatchObject({ code: 'EADDRINUSE' });
    });

    it('stops listening without closing what is open', async () => {
      const subject = create();
      let far: Probe | null = null;
      let near: Probe | null = null;
      const first = await subject.net.listen({ host: '127.0.0.1', port: 0 }, (connection) => {
        far = watch(connection);
      });
      const address = { host: '127.0.0.1', port: first.port };
      subject.net.connect(address, (_error, connection) => {
        near = watch(connection!);
      });
      await subject.until(() => far !== null && near !== null);
      await first.close();
      const second = await subject.net.listen(address, () => {});
      near!.connection.write([Buffer.from('still here')]);
      await subject.until(() => far!.received().length === 10);
      near!.connection.close();
      far!.connection.close();
      await second.close();
    });
  });
}

describe('net: real', () => {
  it('speaks IPv6 and shows mapped IPv4 addresses plainly', async () => {
    const subject = subjects.real!();
    const seen: string[] = [];
    const listener = await subject.net.listen({ host: '::', port: 0 }, (connection) => {
      seen.push(connection.remoteAddress.replace(/\d+$/, ''));
      connection.close();
    });
    for (const host of ['127.0.0.1', '::1'])
      subject.net.connect({ host, port: listener.port }, (_error, connection) => connection?.close());
    await subject.until(() => seen.length === 2);
    await listener.close();
    expect(seen.sort()).toEqual(['127.0.0.1:', '[::1]:']);
  });

  it('sees a reset at once, with its error', async () => {
    const subject = subjects.real!();
    const server = createServer((socket) => void socket.once('data', () => socket.resetAndDestroy()));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    let near: Probe | null = null;
    subject.net.connect({ host: '127.0.0.1', port }, (_error, connection) => {
      near = watch(connection!);
      connection!.write([Buffer.from('hello')]);
    });
    await subject.until(() => near !== null && near.closes.length > 0);
    expect(near!.closes).toMatchObject([{ code: 'ECONNRESET' }]);
    server.close();
  });

  it('gives up on an address that does not answer', async () => {
    const subject = subjects.real!();
    // TEST-NET-1 is routed nowhere. Some machines refuse it themselves; then the error comes sooner.
    const start = performance.now();
    const error = await connectError(subject, { host: '192.0.2.1', port: 9 });
    expect(error.code).toMatch(/^E/);
    expect(performance.now() - start).toBeLessThan(5_000);
  });

  it('closes in a bounded time though the other side takes nothing', async () => {
    const subject = subjects.real!();
    const { near, far } = await pair(subject);
    far.connection.pause();
    near.connection.write([Buffer.alloc(64 * 1024 * 1024)]);
    near.connection.close();
    await subject.until(() => near.closes.length > 0);
    expect(near.closes).toEqual([null]);
  });
});

describe('memory network', () => {
  const create = async () => {
    const clock = createMemoryClock();
    const network = createMemoryNetwork(clock, createMemoryRandom(7));
    const a = network.endpoint('a');
    const b = network.endpoint('b');
    const address = { host: '127.0.0.1', port: 5000 };
    const accepted: Probe[] = [];
    await b.listen(address, (connection) => accepted.push(watch(connection)));
    const connected: Probe[] = [];
    const errors: (string | undefined)[] = [];
    const dial = () =>
      a.connect(address, (error, connection) => {
        if (connection === null) errors.push((error as NodeJS.ErrnoException).code);
        else connected.push(watch(connection));
      });
    dial();
    clock.advance(1);
    return { clock, network, b, address, accepted, connected, errors, dial, near: connected[0]!, far: accepted[0]! };
  };

  it('delays each direction on its own', async () => {
    const { clock, network, near, far } = await create();
    network.setDelay('a', 'b', 30);
    near.connection.write([Buffer.from('slow')]);
    far.connection.write([Buffer.from('fast')]);
    clock.advance(1);
    expect([far.chunks.length, near.chunks.length]).toEqual([0, 1]);
    clock.advance(30);
    expect(far.chunks.length).toBeGreaterThan(0);
  });

  it('holds bytes while packets are dropped one way, and sends them again', async () => {
    const { clock, network, near, far } = await create();
    network.cut('a', 'b', 'drop');
    near.connection.write([Buffer.from('held')]);
    far.connection.write([Buffer.from('through')]);
    clock.advance(1_000);
    expect([far.chunks.length, near.received().toString()]).toEqual([0, 'through']);
    network.heal('a', 'b');
    clock.advance(1);
    expect(far.received().toString()).toBe('held');
  });

  it('lets attempts to connect time out, or refuses them', async () => {
    const { clock, network, errors, dial } = await create();
    network.partition('a', 'b', 'drop');
    dial();
    clock.advance(5_000);
    network.partition('a', 'b', 'reset');
    dial();
    clock.advance(10);
    network.heal();
    network.crash('b');
    dial();
    clock.advance(10);
    expect(errors).toEqual(['ETIMEDOUT', 'ECONNREFUSED', 'ECONNREFUSED']);
  });

  it('takes between least and most, and changes no order', async () => {
    const { clock, network, near, far } = await create();
    network.setDelay('a', 'b', 10, 50);
    const arrivals: number[] = [];
    const text: number[] = [];
    far.connection.onData = (chunk) => {
      text.push(...chunk);
      arrivals.push(clock.now() - 1);
    };
    for (let i = 0; i < 30; i++) near.connection.write([Buffer.from([i])]);
    clock.advance(100);
    expect(text).toEqual(Array.from({ length: 30 }, (_, i) => i));
    expect(Math.min(...arrivals)).toBeGreaterThanOrEqual(10);
    expect(Math.max(...arrivals)).toBeLessThan(50);
    expect(new Set(arrivals).size).toBeGreaterThan(1);
    network.calm();
    near.connection.write([Buffer.from('x')]);
    clock.advance(1);
    expect(text.length).toBe(31);
  });

  it('sends lost pieces again, later, and loses none for good', async () => {
    const { clock, network, near, far } = await create();
    network.setLoss('a', 'b', 0.3);
    const text = Buffer.from('abcdefghijklmnopqrstuvwxyz');
    let slowest = 0;
    for (const byte of text) {
      const before = far.received().length;
      const start = clock.now();
      near.connection.write([Buffer.from([byte])]);
      while (far.received().length === before) clock.advance(1);
      slowest = Math.max(slowest, clock.now() - start);
    }
    expect(far.received().equals(text)).toBe(true);
    expect(slowest).toBeGreaterThan(20);
  });

  it('lets only so many bytes through, of all connections of a link together', async () => {
    const { clock, network, near, far, dial, connected, accepted } = await create();
    dial();
    clock.advance(1);
    network.setBandwidth('a', 'b', 10);
    for (const connection of connected) connection.connection.write([Buffer.alloc(500)]);
    far.connection.write([Buffer.alloc(500)]);
    const arrived = () => accepted.reduce((sum, probe) => sum + probe.received().length, 0);
    clock.advance(1);
    expect(near.received().length).toBe(500);
    clock.advance(60);
    expect(arrived()).toBeLessThan(1000);
    clock.advance(60);
    expect(arrived()).toBe(1000);
  });

  it('lets what waited come at once, in order, when a narrow link is wide again', async () => {
    for (const widen of ['setBandwidth', 'calm'] as const) {
      const { clock, network, near, far } = await create();
      network.setBandwidth('a', 'b', 1);
      near.connection.write([Buffer.from('a'.repeat(300))]);
      near.connection.write([Buffer.from('b'.repeat(300))]);
      clock.advance(10);
      if (widen === 'calm') network.calm();
      else network.setBandwidth('a', 'b', Number.POSITIVE_INFINITY);
      clock.advance(1);
      expect([widen, far.received().toString()]).toEqual([widen, 'a'.repeat(300) + 'b'.repeat(300)]);
    }
  });

  it('holds everything up for a while when it is clogged, one way', async () => {
    const { clock, network, near, far } = await create();
    network.clog('a', 'b', 500);
    near.connection.write([Buffer.from('to')]);
    far.connection.write([Buffer.from('from')]);
    clock.advance(499);
    expect([far.received().toString(), near.received().toString()]).toEqual(['', 'from']);
    clock.advance(2);
    expect(far.received().toString()).toBe('to');
  });

  it('refuses new connections and keeps those that are open', async () => {
    const { clock, network, near, far, errors, dial, connected } = await create();
    network.refuse('b', true);
    dial();
    near.connection.write([Buffer.from('open')]);
    clock.advance(10);
    expect([errors, far.received().toString()]).toEqual([['ECONNREFUSED'], 'open']);
    network.refuse('b', false);
    dial();
    clock.advance(10);
    expect(connected.length).toBe(2);
  });

  it('resets with half of the bytes delivered', async () => {
    const { clock, network, near, far } = await create();
    near.connection.write([Buffer.alloc(4 * 1024 * 1024)]);
    network.reset('a', 'b');
    clock.advance(10);
    expect(far.received().length).toBeLessThan(4 * 1024 * 1024);
    expect([near.closes, far.closes]).toMatchObject([[{ code: 'ECONNRESET' }], [{ code: 'ECONNRESET' }]]);
  });

  it('freezes an endpoint and lets it go on', async () => {
    const { clock, network, near, far } = await create();
    network.pause('b');
    near.connection.write([Buffer.from('to')]);
    far.connection.write([Buffer.from('from')]);
    clock.advance(100);
    expect([far.chunks.length, near.chunks.length]).toEqual([0, 0]);
    network.resume('b');
    clock.advance(1);
    expect([far.received().toString(), near.received().toString()]).toEqual(['to', 'from']);
  });

  it('never calls a crashed process again, and lets a new one take its place', async () => {
    const { clock, network, near, far, address, dial, connected } = await create();
    near.connection.write([Buffer.from('lost')]);
    network.crash('b');
    clock.advance(10);
    expect([far.chunks.length, far.closes.length, near.closes.length]).toEqual([0, 0, 1]);
    await network.endpoint('b').listen(address, () => {});
    dial();
    clock.advance(10);
    expect(connected.length).toBe(2);
  });
});
