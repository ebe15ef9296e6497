// One table of expectations of a Toxiproxy server, for the embedded one and for the real one, so that a fault means the same with both.
// Bounds are generous upwards, since machines are busy, and tight downwards: what comes too early was not delayed.

import { createHash, randomBytes } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import { Toxiproxy } from 'toxiproxy-node-client';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openToxiproxy } from '../../chaos/toxiproxy/open.ts';
import { ToxiproxyServer } from '../../chaos/toxiproxy/server.ts';
import { Client, freePort, isRealMissing, listening, realPath, until } from './toxiproxy-support.ts';

const servers = [
  {
    name: 'the embedded server',
    isMissing: false,
    async open() {
      const server = await ToxiproxyServer.listen();
      return { url: server.url, close: () => server.close() };
    },
  },
  {
    name: 'the real server',
    isMissing: isRealMissing(),
    open: () => openToxiproxy({ use: realPath }),
  },
];

describe.each(servers.filter((server) => !server.isMissing))('$name', ({ open }) => {
  let opened: Awaited<ReturnType<typeof open>>;
  let api: Toxiproxy;
  let port = 0;
  /** What the upstream does with a connection. */
  let serve: (socket: Socket) => void;
  let upstream: Server;
  const clients = new Set<Client>();

  beforeAll(async () => {
    opened = await open();
    api = new Toxiproxy(opened.url);
    upstream = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
      socket.on('error', () => {});
      serve(socket);
    });
    const { port: upstreamPort } = await listening(upstream);
    const proxy = await api.createProxy({ name: 'p', listen: '127.0.0.1:0', upstream: `127.0.0.1:${upstreamPort}` });
    port = Number(proxy.listen.split(':')[1]);
  });
  afterEach(async () => {
    for (const client of clients) client.socket.destroy();
    clients.clear();
    serve = echo;
    await api.reset();
  });
  afterAll(async () => {
    await opened?.close();
    upstream?.close();
  });

  const echo = (socket: Socket) => void socket.pipe(socket);
  serve = echo;
  const dial = async () => {
    const client = await Client.connect(port);
    clients.add(client);
    return client;
  };
  const request = async (method: string, path: string, body?: unknown) => {
    const init = body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) };
    const response = await fetch(`${opened.url}${path}`, { method, ...init });
    const text = await response.text();
    return { status: response.status, body: text.startsWith('{') || text.startsWith('[') ? JSON.parse(text) : text };
  };
  const add = (type: string, stream: string, attributes: object, more: object = {}) =>
    request('POST', '/proxies/p/toxics', { type, stream, attributes, ...more });
  const remove = (name: string) => request('DELETE', `/proxies/p/toxics/${name}`);
  /** Milliseconds until so many bytes came back. */
  const roundTrip = async (client: Client, bytes = 10) => {
    const before = client.bytes;
    const begin = performance.now();
    client.socket.write(Buffer.alloc(bytes, 7));
    await client.received(before + bytes);
    return performance.now() - begin;
  };

  describe('a proxy', () => {
    it('passes 64 MiB in both directions, and loses nothing', async () => {
      const client = await dial();
      const [sent, received] = [createHash('sha256'), createHash('sha256')];
      client.socket.on('data', (chunk) => received.update(chunk));
      for (let i = 0; i < 64; i++) {
        const chunk = randomBytes(1024 * 1024);
        sent.update(chunk);
        if (!client.socket.write(chunk)) await new Promise((resolve) => client.socket.once('drain', resolve));
      }
      await client.received(64 * 1024 * 1024);
      expect(received.digest('hex')).toBe(sent.digest('hex'));
    });

    it('has many connections', async () => {
      const many = await Promise.all(Array.from({ length: 200 }, dial));
      const times = await Promise.all(many.map((client) => roundTrip(client, 1000)));
      expect(times).toHaveLength(200);
    });

    it('makes the sender wait for a receiver that takes nothing, and goes on when it does', async () => {
      const sockets: Socket[] = [];
      serve = (socket) => sockets.push(socket.pause());
      const client = await dial();
      const chunk = Buffer.alloc(1024 * 1024, 3);
      for (let i = 0; i < 64; i++) client.socket.write(chunk);
      await until(() => sockets.length === 1);
      await stillFor(300, () => client.socket.writableLength);
      expect(client.socket.writableLength).toBeGreaterThan(16 * 1024 * 1024);
      let bytes = 0;
      sockets[0]!.on('data', (data) => (bytes += data.length)).resume();
      await until(() => bytes === 64 * chunk.length);
    });

    it('closes a client whose upstream is down', async () => {
      const gone = await freePort();
      const proxy = await api.createProxy({ name: 'q', listen: '127.0.0.1:0', upstream: `127.0.0.1:${gone}` });
      const client = await Client.connect(Number(proxy.listen.split(':')[1]));
      await client.closed();
      expect(client.bytes).toBe(0);
      await proxy.remove();
      expect((await request('GET', '/proxies/q')).status).toBe(404);
      await expect(Client.connect(Number(proxy.listen.split(':')[1]))).rejects.toThrow('ECONNREFUSED');
    });

    it('hands on what a client sent before it closed its half, and then closes both sides', async () => {
      let bytes = 0;
      let ended = false;
      serve = (socket) => {
        socket.on('data', (chunk) => (bytes += chunk.length)).on('end', () => (ended = true));
      };
      const client = await dial();
      client.socket.end(Buffer.alloc(100_000));
      await client.closed();
      await until(() => ended && bytes === 100_000);
    });

    it('hands the close of the upstream on, behind its last bytes', async () => {
      serve = (socket) => socket.end(Buffer.alloc(300_000));
      const client = await dial();
      await client.closed();
      expect(client.bytes).toBe(300_000);
    });

    it('that is disabled ends its connections and refuses others, until it is enabled', async () => {
      const client = await dial();
      await roundTrip(client);
      const { body } = await request('POST', '/proxies/p', { enabled: false });
      expect(body).toMatchObject({ name: 'p', enabled: false, listen: `127.0.0.1:${port}`, toxics: [] });
      await client.closed();
      await expect(Client.connect(port)).rejects.toThrow('ECONNREFUSED');
      expect((await request('PATCH', '/proxies/p', { enabled: true })).body).toMatchObject({ enabled: true });
      await roundTrip(await dial());
    });

    it('may be led elsewhere', async () => {
      const other = createServer((socket) => socket.end('other'));
      const { port: otherPort } = await listening(other);
      const { upstream: before } = await api.get('p');
      const old = await dial();
      await roundTrip(old);
      const moved = await request('POST', '/proxies/p', { upstream: `127.0.0.1:${otherPort}` });
      expect(moved).toMatchObject({ status: 200, body: { enabled: true, upstream: `127.0.0.1:${otherPort}` } });
      await old.closed();
      const client = await dial();
      await client.closed();
      expect(client.text).toBe('other');
      await request('POST', '/proxies/p', { upstream: before });
      other.close();
    });
  });

  describe('latency', () => {
    it('delays one direction, and only what is sent: many messages at once are late once', async () => {
      const client = await dial();
      await add('latency', 'upstream', { latency: 200 });
      const begin = performance.now();
      const times = await Promise.all(Array.from({ length: 40 }, () => roundTrip(client)));
      expect(times[0]).toBeGreaterThan(195);
      expect(performance.now() - begin).toBeLessThan(6000);
    });

    it('varies by its jitter, and keeps the order', async () => {
      await add('latency', 'downstream', { latency: 60, jitter: 50 });
      const client = await dial();
      for (let i = 0; i < 50; i++) client.socket.write(`${i};`);
      const sent = Array.from({ length: 50 }, (_, i) => `${i};`).join('');
      await client.received(sent.length);
      expect(client.text).toBe(sent);
    });

    it('changes and goes on living connections, and holds nothing back then', async () => {
      const client = await dial();
      await add('latency', 'downstream', { latency: 60_000 });
      client.socket.write('held');
      await stillFor(100, () => client.bytes);
      expect(client.bytes).toBe(0);
      const changed = await request('POST', '/proxies/p/toxics/latency_downstream', { attributes: { latency: 150 } });
      expect(changed.body.attributes).toEqual({ latency: 150, jitter: 0 });
      await client.received(4);
      expect(await roundTrip(client)).toBeGreaterThan(145);
      await request('PATCH', '/proxies/p/toxics/latency_downstream', { attributes: { latency: 60_000 } });
      client.socket.write('held');
      await stillFor(50, () => client.bytes);
      expect((await remove('latency_downstream')).status).toBe(204);
      await client.received(4 + 10 + 4);
      await roundTrip(client);
      expect(client.isClosed).toBe(false);
    });
  });

  describe('other toxics', () => {
    it('bandwidth: so many kilobytes a second', async () => {
      await add('bandwidth', 'downstream', { rate: 200 });
      const client = await dial();
      const time = await roundTrip(client, 100_000);
      expect(time).toBeGreaterThan(400);
      expect(time).toBeLessThan(6000);
    });

    it('bandwidth at a rate of 0 lets nothing pass until it goes', async () => {
      const client = await dial();
      await add('bandwidth', 'upstream', { rate: 0 });
      client.socket.write('held');
      await stillFor(200, () => client.bytes);
      expect(client.bytes).toBe(0);
      await remove('bandwidth_upstream');
      await client.received(4);
    });

    it('slow_close: the end comes later than the bytes', async () => {
      await add('slow_close', 'downstream', { delay: 1000 });
      serve = (socket) => socket.end('bye');
      const begin = performance.now();
      const client = await dial();
      await client.received(3);
      const receivedAt = performance.now();
      await client.closed();
      expect(performance.now() - begin).toBeGreaterThan(995);
      expect(performance.now() - receivedAt).toBeGreaterThan(100);
    });

    it('timeout 0: bytes vanish, on one way; the connection stays until it goes, and ends then', async () => {
      let heard = 0;
      let socketThere: Socket | null = null;
      serve = (socket) => {
        socketThere = socket.on('data', (chunk) => (heard += chunk.length));
      };
      const client = await dial();
      await until(() => socketThere !== null);
      await add('timeout', 'upstream', { timeout: 0 });
      client.socket.write('lost');
      socketThere!.write('heard');
      await client.received(5);
      await stillFor(200, () => heard);
      expect(heard).toBe(0);
      expect(client.isClosed).toBe(false);
      await remove('timeout_upstream');
      await client.closed();
      expect(heard).toBe(0);
      serve = echo;
      await roundTrip(await dial());
    });

    it('timeout: a connection on which nothing comes ends after so long', async () => {
      await add('timeout', 'downstream', { timeout: 300 });
      const begin = performance.now();
      const client = await dial();
      await client.closed();
      expect(client.bytes).toBe(0);
      expect(performance.now() - begin).toBeGreaterThan(295);
    });

    it('reset_peer: an RST, so long after the first bytes', async () => {
      await add('reset_peer', 'upstream', { timeout: 200 });
      const client = await dial();
      const begin = performance.now();
      client.socket.write('lost');
      await client.closed();
      expect(client.error).toBe('ECONNRESET');
      expect(client.bytes).toBe(0);
      expect(performance.now() - begin).toBeGreaterThan(190);
    });

    it('slicer: small pieces, some time between them', async () => {
      await add('slicer', 'upstream', { average_size: 20, size_variation: 5, delay: 20_000 });
      const pieces: Buffer[] = [];
      serve = (socket) => void socket.on('data', (chunk) => pieces.push(chunk));
      const client = await dial();
      const sent = randomBytes(1500);
      const begin = performance.now();
      client.socket.write(sent);
      await until(() => Buffer.concat(pieces).length === sent.length);
      expect(Buffer.concat(pieces)).toEqual(sent);
      // At least 60 pieces. Where this process stands still, several arrive as one: how many is not said.
      expect(pieces.length).toBeGreaterThan(4);
      expect(performance.now() - begin).toBeGreaterThan(59 * 20);
    });

    it('limit_data: the end after so many bytes', async () => {
      await add('limit_data', 'downstream', { bytes: 1000 });
      const client = await dial();
      await roundTrip(client, 400);
      client.socket.write(Buffer.alloc(5000));
      await client.closed();
      expect(client.bytes).toBe(1000);
    });

    it('lose and move no byte while they come, change and go', async () => {
      const client = await dial();
      const [sent, received] = [createHash('sha256'), createHash('sha256')];
      client.socket.on('data', (chunk) => received.update(chunk));
      let bytes = 0;
      const send = setInterval(() => {
        const chunk = randomBytes(1 + ((bytes * 7919) % 1500));
        sent.update(chunk);
        bytes += chunk.length;
        client.socket.write(chunk);
      }, 2);
      const turns = [
        ['latency', 'upstream', { latency: 30, jitter: 20 }],
        ['slicer', 'downstream', { average_size: 500, size_variation: 100, delay: 50 }],
        ['bandwidth', 'upstream', { rate: 3000 }],
        ['slicer', 'upstream', { average_size: 900, size_variation: 300, delay: 10 }],
        ['latency', 'downstream', { latency: 10, jitter: 10 }],
        ['bandwidth', 'downstream', { rate: 1000 }],
      ] as const;
      for (const [type, stream, attributes] of [...turns, ...turns]) {
        const name = `${type}_${stream}`;
        const there = (await request('GET', `/proxies/p/toxics/${name}`)).status === 200;
        if (there) await remove(name);
        else await add(type, stream, attributes);
        await new Promise((resolve) => setTimeout(resolve, 30));
        if (!there) await request('POST', `/proxies/p/toxics/${name}`, { attributes });
      }
      clearInterval(send);
      await client.received(bytes);
      expect(received.digest('hex')).toBe(sent.digest('hex'));
      expect((await request('GET', '/proxies/p/toxics')).body).toEqual([]);
    });

    it('act one behind another', async () => {
      await add('latency', 'downstream', { latency: 150 });
      await add('limit_data', 'downstream', { bytes: 10 });
      await add('slicer', 'downstream', { average_size: 4, size_variation: 1, delay: 1000 });
      const client = await dial();
      expect(await roundTrip(client)).toBeGreaterThan(145);
      await client.closed();
      expect(client.bytes).toBe(10);
    });

    it('affect the share of connections that their toxicity says', async () => {
      const spared = await dial();
      await add('latency', 'downstream', { latency: 60_000 }, { toxicity: 0 });
      await roundTrip(spared);
      const update = { toxicity: 1, attributes: { latency: 400 } };
      const changed = await request('POST', '/proxies/p/toxics/latency_downstream', update);
      expect(changed.body).toMatchObject({ toxicity: 1, attributes: { latency: 400, jitter: 0 } });
      expect(await roundTrip(spared)).toBeGreaterThan(395);
      await remove('latency_downstream');
      await add('reset_peer', 'downstream', { timeout: 0 }, { toxicity: 0.5, name: 'half' });
      const many = await Promise.all(Array.from({ length: 60 }, dial));
      for (const client of many) client.socket.write('x');
      await until(() => many.every((client) => client.isClosed || client.bytes === 1));
      const spareds = many.filter((client) => client.bytes === 1).length;
      expect(spareds).toBeGreaterThan(8);
      expect(spareds).toBeLessThan(52);
    });
  });

  describe('the API', () => {
    it('tells what there is', async () => {
      const added = await add('latency', 'upstream', { latency: 5 });
      const toxic = {
        name: 'latency_upstream',
        type: 'latency',
        stream: 'upstream',
        toxicity: 1,
        attributes: { latency: 5, jitter: 0 },
      };
      expect(added).toEqual({ status: 200, body: toxic });
      const second = await request('POST', '/proxies/p/toxics', { type: 'timeout', name: 'mine' });
      const other = { name: 'mine', type: 'timeout', stream: 'downstream', toxicity: 1, attributes: { timeout: 0 } };
      expect(second).toEqual({ status: 200, body: other });
      expect(await request('GET', '/proxies/p/toxics')).toEqual({ status: 200, body: [toxic, other] });
      expect(await request('GET', '/proxies/p/toxics/mine')).toEqual({ status: 200, body: other });
      const proxy = { name: 'p', listen: `127.0.0.1:${port}`, enabled: true, toxics: [toxic, other] };
      expect((await request('GET', '/proxies/p')).body).toMatchObject(proxy);
      expect((await request('GET', '/proxies')).body).toMatchObject({ p: proxy });
      const version = await request('GET', '/version');
      expect(version).toMatchObject({ status: 200, body: { version: expect.stringMatching(/^\d+\.\d+\.\d+/) } });
    });

    it('resets: enables all, and takes all toxics off', async () => {
      await add('latency', 'upstream', { latency: 60_000 });
      await add('limit_data', 'downstream', { bytes: 1 });
      await request('POST', '/proxies/p', { enabled: false });
      expect(await request('POST', '/reset')).toEqual({ status: 204, body: '' });
      expect((await request('GET', '/proxies/p')).body).toMatchObject({ enabled: true, toxics: [] });
      await roundTrip(await dial());
    });

    it('populates: makes what is new, replaces what differs, leaves the rest', async () => {
      const { listen, upstream: there } = await api.get('p');
      await add('latency', 'upstream', { latency: 1 });
      const old = { name: 'old', listen: '127.0.0.1:0', upstream: 'localhost:1', enabled: false };
      const first = await request('POST', '/populate', [{ name: 'p', listen, upstream: there }, old]);
      expect(first.status).toBe(201);
      expect(first.body.proxies).toMatchObject([{ name: 'p', listen, toxics: [{ name: 'latency_upstream' }] }, old]);
      const again = { ...old, upstream: 'localhost:2' };
      const second = await request('POST', '/populate', [again]);
      expect(second).toMatchObject({ status: 201, body: { proxies: [again] } });
      const failed = await request('POST', '/populate', [{ name: 'x', upstream: 'y:1' }, { name: 'z' }]);
      expect(failed).toMatchObject({
        status: 400,
        body: { error: 'missing required field: upstream at proxy 2', status: 400, proxies: null },
      });
      expect((await request('POST', '/populate', {})).status).toBe(400);
      expect((await request('GET', '/proxies/x')).status).toBe(404);
      expect((await request('DELETE', '/proxies/old')).status).toBe(204);
    });

    const missing = (what: string) => ({ status: 404, body: { error: `${what} not found`, status: 404 } });
    const bad = (error: unknown) => ({ status: 400, body: { error, status: 400 } });
    const badBody = bad(expect.stringMatching(/^bad request body: /));
    it.each<[string, string, unknown, object]>([
      ['GET', '/proxies/none', undefined, missing('proxy')],
      ['POST', '/proxies/none', {}, missing('proxy')],
      ['DELETE', '/proxies/none', undefined, missing('proxy')],
      ['GET', '/proxies/none/toxics', undefined, missing('proxy')],
      ['POST', '/proxies/none/toxics', { type: 'latency' }, missing('proxy')],
      ['GET', '/proxies/p/toxics/none', undefined, missing('toxic')],
      ['POST', '/proxies/p/toxics/none', {}, missing('toxic')],
      ['DELETE', '/proxies/p/toxics/none', undefined, missing('toxic')],
      ['POST', '/proxies', '{"name":', badBody],
      ['POST', '/proxies', '', badBody],
      ['POST', '/proxies', { name: 5 }, badBody],
      ['POST', '/proxies', { upstream: 'localhost:1' }, bad('missing required field: name')],
      ['POST', '/proxies', { name: 'r' }, bad('missing required field: upstream')],
      ['POST', '/proxies/p', { enabled: 'no' }, badBody],
      ['POST', '/proxies/p/toxics', '{', badBody],
      ['POST', '/proxies/p/toxics', { type: 'plague' }, bad('invalid toxic type')],
      [
        'POST',
        '/proxies/p/toxics',
        { type: 'latency', stream: 'sideways' },
        bad('stream was invalid, can be either upstream or downstream'),
      ],
      ['POST', '/proxies/p/toxics', { type: 'latency', attributes: { latency: 1.5 } }, badBody],
      ['POST', '/proxies/p/toxics', { type: 'latency', attributes: { latency: 'long' } }, badBody],
      ['POST', '/proxies/p/toxics', { type: 'latency', toxicity: 'much' }, badBody],
      ['PUT', '/proxies', {}, { status: 405 }],
      ['GET', '/reset', undefined, { status: 405 }],
      ['GET', '/elsewhere', undefined, { status: 404 }],
    ])('answers %s %s %j', async (method, path, body, expected) => {
      expect(await request(method, path, body)).toMatchObject(expected);
      expect((await request('GET', '/proxies/p/toxics')).body).toEqual([]);
    });

    it('refuses what is there already, and browsers', async () => {
      const again = await request('POST', '/proxies', { name: 'p', listen: '127.0.0.1:0', upstream: 'localhost:1' });
      expect(again).toEqual({ status: 409, body: { error: 'proxy already exists', status: 409 } });
      await add('latency', 'upstream', {});
      const toxic = await add('timeout', 'downstream', {}, { name: 'latency_upstream' });
      expect(toxic).toEqual({ status: 409, body: { error: 'toxic already exists', status: 409 } });
      const taken = await request('POST', '/proxies', {
        name: 'q',
        listen: `127.0.0.1:${port}`,
        upstream: 'localhost:1',
      });
      expect(taken).toMatchObject({ status: 500, body: { error: expect.stringMatching(/address already in use/) } });
      expect((await request('GET', '/proxies/q')).status).toBe(404);
      const headers = { 'User-Agent': 'Mozilla/5.0' };
      expect((await fetch(`${opened.url}/version`, { headers })).status).toBe(403);
    });
  });
});

/** Resolves when a value did not change for so long. */
async function stillFor(milliseconds: number, value: () => number): Promise<void> {
  let last = value();
  let since = performance.now();
  await until(() => {
    if (value() !== last) since = performance.now();
    last = value();
    return performance.now() - since > milliseconds;
  });
}
