// Links through a Toxiproxy server: faults put on, replaced and healed; and where the server comes from, and goes.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Links } from '../../chaos/toxiproxy/links.ts';
import { openToxiproxy, type ToxiproxyHandle } from '../../chaos/toxiproxy/open.ts';
import { Client, freePort, isRealMissing, listening, realPath, until } from './toxiproxy-support.ts';

const servers = [
  { name: 'the embedded server', isMissing: false, use: 'embedded', kind: 'embedded' },
  { name: 'the real server', isMissing: isRealMissing(), use: realPath, kind: 'path' },
] as const;

describe.each(servers.filter((server) => !server.isMissing))('links through $name', ({ use, kind }) => {
  let handle: ToxiproxyHandle;
  let links: Links;
  let upstream: Server;
  let port = 0;
  const clients = new Set<Client>();
  const sockets: Socket[] = [];

  beforeAll(async () => {
    handle = await openToxiproxy({ use });
    upstream = createServer((socket) => {
      sockets.push(socket.on('error', () => {}));
      socket.pipe(socket);
    });
    const there = await listening(upstream);
    links = new Links(handle.api);
    ({ port } = await links.add('a', '127.0.0.1', 0, `127.0.0.1:${there.port}`));
  });
  afterEach(async () => {
    await links.healAll();
    for (const client of clients) client.socket.destroy();
    clients.clear();
  });
  afterAll(async () => {
    await links?.close();
    await handle?.close();
    upstream?.close();
  });

  const dial = async () => {
    const client = await Client.connect(port);
    clients.add(client);
    return client;
  };
  const roundTrip = async (client: Client) => {
    const wanted = client.bytes + 4;
    const begin = performance.now();
    client.socket.write('ping');
    await client.received(wanted);
    return performance.now() - begin;
  };
  const toxics = async (name = 'a') => {
    const { data } = await handle.api.api.get<{ enabled: boolean; toxics: { name: string; attributes: object }[] }>(
      `${handle.url}/proxies/${name}`,
    );
    return { enabled: data.enabled, toxics: data.toxics.map((toxic) => [toxic.name, toxic.attributes]) };
  };

  it('knows what it speaks to', async () => {
    expect(handle.kind).toBe(kind);
    expect(handle.version).toMatch(/^\d+\.\d+\.\d+|^git$/);
    expect(Object.keys(await handle.api.getAll())).toEqual(['a']);
    const same = await openToxiproxy({ environment: { TOXIPROXY_URL: `${handle.url}/` } });
    expect(same).toMatchObject({ kind: 'server', url: handle.url, version: handle.version });
    await same.close();
    await roundTrip(await dial());
  });

  it('map every fault to its toxic, in its direction', async () => {
    await links.set('a', { kind: 'cut' }, 'upstream');
    await links.set('a', { kind: 'latency', milliseconds: 20, jitter: 5 }, 'downstream');
    expect(await toxics()).toEqual({
      enabled: true,
      toxics: [
        ['timeout_upstream', { timeout: 0 }],
        ['latency_downstream', { latency: 20, jitter: 5 }],
      ],
    });
    await links.set('a', null, 'upstream');
    await links.set('a', { kind: 'bandwidth', kilobytesPerSecond: 10 }, 'downstream');
    expect((await toxics()).toxics).toEqual([['bandwidth_downstream', { rate: 10 }]]);
    await links.set('a', { kind: 'slicer', bytes: 9, microseconds: 100 }, 'downstream');
    expect((await toxics()).toxics).toEqual([
      ['slicer_downstream', { average_size: 9, size_variation: 4, delay: 100 }],
    ]);
    await links.set('a', { kind: 'reset', milliseconds: 30 }, 'downstream');
    expect((await toxics()).toxics).toEqual([['reset_peer_downstream', { timeout: 30 }]]);
    await links.set('a', { kind: 'limit', bytes: 77 }, 'downstream');
    await links.set('a', { kind: 'limit', bytes: 78 }, 'downstream');
    expect((await toxics()).toxics).toEqual([['limit_data_downstream', { bytes: 78 }]]);
    await links.set('a', { kind: 'slowClose', milliseconds: 40 }, 'downstream');
    expect((await toxics()).toxics).toEqual([['slow_close_downstream', { delay: 40 }]]);
    await links.set('a', { kind: 'refused' }, 'upstream');
    expect(await toxics()).toEqual({ enabled: false, toxics: [['slow_close_downstream', { delay: 40 }]] });
    await links.healAll();
    expect(await toxics()).toEqual({ enabled: true, toxics: [] });
  });

  it('are cut one way and closed when they heal', async () => {
    const client = await dial();
    await roundTrip(client);
    await links.set('a', { kind: 'cut' }, 'downstream');
    await links.set('a', { kind: 'cut' }, 'downstream');
    let heard = '';
    sockets.at(-1)!.on('data', (chunk) => (heard += chunk));
    client.socket.write('there');
    await until(() => heard === 'there');
    expect(client.bytes).toBe(4);
    expect(client.isClosed).toBe(false);
    await links.set('a', null, 'downstream');
    await client.closed();
    await roundTrip(await dial());
  });

  it('refuse, and serve again at the same port', async () => {
    const client = await dial();
    await links.set('a', { kind: 'refused' }, 'downstream');
    await client.closed();
    await expect(dial()).rejects.toThrow('ECONNREFUSED');
    await links.healAll();
    await roundTrip(await dial());
  });

  it('take changes in the order in which they were asked for', async () => {
    const client = await dial();
    const changes = [];
    for (let i = 1; i <= 20; i++) {
      changes.push(links.set('a', { kind: 'latency', milliseconds: i * 10, jitter: 0 }, 'upstream'));
      changes.push(links.set('a', i % 2 ? { kind: 'bandwidth', kilobytesPerSecond: i } : null, 'downstream'));
    }
    await Promise.all(changes);
    expect((await toxics()).toxics).toEqual([['latency_upstream', { latency: 200, jitter: 0 }]]);
    expect(await roundTrip(client)).toBeGreaterThan(195);
  });

  it('are put right whatever happened to them meanwhile, and replaced when somebody left one', async () => {
    await links.set('a', { kind: 'latency', milliseconds: 10, jitter: 0 }, 'upstream');
    await handle.api.reset();
    await links.set('a', { kind: 'latency', milliseconds: 10, jitter: 0 }, 'upstream');
    expect((await toxics()).toxics).toHaveLength(1);
    await handle.api.createProxy({ name: 'b', listen: '127.0.0.1:0', upstream: 'localhost:1' });
    const address = await links.add('b', '127.0.0.1', 0, 'localhost:2');
    expect(Object.keys(await handle.api.getAll()).sort()).toEqual(['a', 'b']);
    await expect(links.add('b', '127.0.0.1', 0, 'localhost:2')).rejects.toThrow('there is a link b already');
    await expect(links.add('c', '127.0.0.1', address.port, 'localhost:2')).rejects.toThrow();
    await expect(links.set('c', null, 'upstream')).rejects.toThrow('there is no link c');
  });

  it('that were there before stay, and are healed', async () => {
    const proxy = await handle.api.createProxy({ name: 'there', listen: '127.0.0.1:0', upstream: 'localhost:1' });
    const others = new Links(handle.api);
    await proxy.addToxic({ name: 'old', type: 'latency', stream: 'upstream', toxicity: 1, attributes: {} });
    expect(`127.0.0.1:${(await others.adopt('there')).port}`).toBe(proxy.listen);
    expect((await toxics('there')).toxics).toEqual([]);
    await others.set('there', { kind: 'cut' }, 'upstream');
    await others.close();
    expect(await toxics('there')).toEqual({ enabled: true, toxics: [] });
    await proxy.remove();
  });

  it('say so when the server does not do what was asked for, and go with `close`', async () => {
    const others = new Links(handle.api);
    await others.add('gone', '127.0.0.1', 0, 'localhost:1');
    await others.add('kept', '127.0.0.1', 0, 'localhost:1');
    await (await handle.api.get('gone')).remove();
    await expect(others.set('gone', { kind: 'cut' }, 'upstream')).rejects.toThrow(/link gone: .*404/);
    await others.set('kept', { kind: 'cut' }, 'upstream');
    await expect(others.healAll()).rejects.toThrow(/link gone: .*404/);
    expect((await toxics('kept')).toxics).toEqual([]);
    await others.close();
    expect(Object.keys(await handle.api.getAll())).not.toContain('kept');
  });
});

describe('a server', () => {
  it('ends with its handle', async () => {
    const handle = await openToxiproxy({ use: 'embedded' });
    await handle.close();
    await expect(fetch(`${handle.url}/version`)).rejects.toThrow();
    await handle.close();
  });

  it('is the embedded one where nothing else is', async () => {
    const handle = await openToxiproxy({ environment: { PATH: dirname(fileURLToPath(import.meta.url)) } });
    expect(handle.kind).toBe('embedded');
    await handle.close();
  });

  it.each(servers.filter((server) => !server.isMissing))('ends when its user is killed: $name', async ({ use }) => {
    let root = dirname(fileURLToPath(import.meta.url));
    while (!existsSync(join(root, 'package.json'))) root = dirname(root);
    const module = pathToFileURL(join(root, 'dist/chaos/toxiproxy/open.js')).href;
    const script = `const { openToxiproxy } = await import('${module}');
      console.log((await openToxiproxy({ use: '${use}' })).url);
      setInterval(() => {}, 1000);`;
    const user = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [url] = await once(createInterface({ input: user.stdout }), 'line');
    expect((await fetch(`${url}/version`)).status).toBe(200);
    user.kill('SIGKILL');
    const serves = () =>
      fetch(`${url}/version`).then(
        () => true,
        () => false,
      );
    const deadline = performance.now() + 10_000;
    while (await serves()) expect(performance.now()).toBeLessThan(deadline);
  });

  it('that is asked for and not there is an error that says so', async () => {
    const port = await freePort();
    await expect(openToxiproxy({ use: `localhost:${port}` })).rejects.toThrow(`at http://localhost:${port}`);
    await expect(openToxiproxy({ use: 'path', environment: {} })).rejects.toThrow('no toxiproxy-server on the PATH');
    await expect(openToxiproxy({ use: '/no/such/program' })).rejects.toThrow('ENOENT');
    await expect(openToxiproxy({ use: process.execPath })).rejects.toThrow('bad option');
    await expect(openToxiproxy({ use: 'somehow' })).rejects.toThrow('none of embedded, path, a file, a URL');
  });
});
