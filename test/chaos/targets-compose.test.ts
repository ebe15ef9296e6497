// The compose target against a command line that only writes down what it is told, and a Toxiproxy server of our own. With real containers
// `test/compose.sh` tries it.

import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { openTarget } from '../../chaos/targets/index.ts';
import { openToxiproxy, type ToxiproxyHandle } from '../../chaos/toxiproxy/open.ts';
import type { Target } from '../../chaos/types.ts';

const proxies = ['client-1', 'client-2', 'link-1-2', 'link-2-1'];

/** As `docker-compose`; the file `ports` says what is published where. */
const program = (folder: string) => `#!/bin/sh
[ "$1" = --profile ] && shift 2
echo "$*" >> '${folder}/commands'
case "$1" in
  version) echo 9.9.9 ;;
  port) sed -n "s/^$2 $3 //p" '${folder}/ports' ;;
esac
`;

describe('the docker compose target', { timeout: 60_000 }, () => {
  let folder: string;
  let toxiproxy: ToxiproxyHandle;
  let nodes: Server[];
  let listens: Map<string, number>;
  let target: Target | null;
  /** Where node 1 says that it reaches node 2. */
  let peer: string;

  const toPorts = (ports: Record<string, string>) => {
    const lines = Object.entries(ports).map(([inside, outside]) => `${inside} ${outside}\n`);
    writeFileSync(join(folder, 'ports'), lines.join(''));
  };
  const commands = () => readFileSync(join(folder, 'commands'), 'utf8').trimEnd().split('\n');
  const portOf = (server: Server) => (server.address() as AddressInfo).port;
  const published = () => ({
    'node1 15672': `0.0.0.0:${portOf(nodes[0]!)}`,
    'node2 15672': `127.0.0.1:${portOf(nodes[1]!)}`,
    'toxiproxy 8474': new URL(toxiproxy.url).host,
    [`toxiproxy ${listens.get('client-1')}`]: '127.0.0.1:5682',
    [`toxiproxy ${listens.get('client-2')}`]: '127.0.0.1:5683',
  });

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'warren-test-'));
    writeFileSync(join(folder, 'docker'), '#!/bin/sh\nexit 1\n');
    writeFileSync(join(folder, 'docker-compose'), program(folder));
    for (const name of ['docker', 'docker-compose']) chmodSync(join(folder, name), 0o755);
    vi.stubEnv('PATH', `${folder}${delimiter}${process.env.PATH}`);
    toxiproxy = await openToxiproxy({ use: 'embedded' });
    listens = new Map();
    for (const name of proxies) {
      const { listen } = await toxiproxy.api.createProxy({ name, listen: '127.0.0.1:0', upstream: '127.0.0.1:1' });
      listens.set(name, Number(new URL(`tcp://${listen}`).port));
    }
    nodes = await Promise.all(
      [1, 2].map(async (node) => {
        const server = createServer((_, response) => {
          const others = [{ node: 3 - node, name: '', state: 'member', up: true, peer: node === 1 ? peer : other }];
          const groups = [{ name: 'meta', leader: 2, term: 1 }];
          response.end(JSON.stringify({ node, ready: true, nodes: others, groups }));
        });
        const other = `toxiproxy:${listens.get('link-2-1')}`;
        await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
        return server;
      }),
    );
  }, 60_000);
  beforeEach(() => {
    peer = `toxiproxy:${listens.get('link-1-2')}`;
    target = null;
  });
  afterEach(() => target?.close());
  afterAll(async () => {
    vi.unstubAllEnvs();
    for (const server of nodes) server.close();
    await toxiproxy.close();
    rmSync(folder, { recursive: true, force: true });
  });

  async function open(): Promise<Target> {
    writeFileSync(join(folder, 'commands'), '');
    target = await openTarget('compose');
    writeFileSync(join(folder, 'commands'), '');
    return target;
  }

  it('says what to do where nothing runs, or not with its profile', async () => {
    toPorts({});
    await expect(open()).rejects.toThrow(
      /does not run: start it with "docker compose --env-file chaos\/compose.env up/,
    );
    const { 'toxiproxy 8474': _, ...without } = published();
    toPorts(without);
    await expect(open()).rejects.toThrow(/without its profile "chaos".*: start it with/);
    const { [`toxiproxy ${listens.get('client-2')}`]: __, ...hidden } = published() as Record<string, string>;
    toPorts(hidden);
    await expect(open()).rejects.toThrow(/for clients of node 2, is not published/);
  });

  it('finds its nodes and harms containers by the command line', async () => {
    toPorts(published());
    vi.stubEnv('WARREN_DEFAULT_PASSWORD', 'p@ss');
    const found = await open();
    expect([...found.abilities].sort()).toEqual(['clientLinks', 'links', 'pause', 'processes']);
    expect(found.nodes).toEqual([
      { number: 1, name: 'node1', url: 'amqp://guest:p%40ss@127.0.0.1:5682' },
      { number: 2, name: 'node2', url: 'amqp://guest:p%40ss@127.0.0.1:5683' },
    ]);
    expect(await found.leader()).toBe(2);
    expect(await found.followers(0)).toEqual([1]);
    await found.waitReady(1000);
    await found.kill(1);
    await found.kill(1);
    await found.pause(2);
    await found.stop(2);
    expect([found.isRunning(1), found.isRunning(2)]).toEqual([false, false]);
    await found.start(1);
    await found.pause(1);
    await found.heal();
    expect([found.isRunning(1), found.isRunning(2)]).toEqual([true, true]);
    expect(commands()).toEqual([
      'kill -s SIGKILL node1',
      'pause node2',
      'unpause node2',
      'stop node2',
      'start node1',
      'pause node1',
      'unpause node1',
      'start node2',
    ]);
    await expect(found.join()).rejects.toThrow('has no ability "membership"');
  });

  it('harms links through the proxies that are there, and leaves them well', async () => {
    toPorts(published());
    const toxics = async () => {
      const { data } = await toxiproxy.api.api.get<Record<string, { name: string; toxics: { name: string }[] }>>(
        `${toxiproxy.url}/proxies`,
      );
      return Object.values(data).flatMap((proxy) => proxy.toxics.map(({ name }) => `${proxy.name} ${name}`));
    };
    const left = await toxiproxy.api.get('link-1-2');
    const attributes = { latency: 5, jitter: 0 };
    await left.addToxic({ name: 'left', type: 'latency', stream: 'upstream', toxicity: 1, attributes });
    const found = await open();
    expect(await toxics()).toEqual([]);
    await found.link(1, 2, { kind: 'cut' });
    await found.clientLink(2, false, { kind: 'bandwidth', kilobytesPerSecond: 5 });
    expect((await toxics()).sort()).toEqual(['client-2 bandwidth_downstream', 'link-1-2 timeout_upstream']);
    await found.close();
    target = null;
    expect(await toxics()).toEqual([]);
    expect(Object.keys(await toxiproxy.api.getAll()).sort()).toEqual([...proxies].sort());
  });

  it('harms no links that the nodes do not use', async () => {
    toPorts(published());
    peer = 'node2:25672';
    const found = await open();
    expect(found.abilities.has('links')).toBe(false);
    await expect(found.link(1, 2, { kind: 'cut' })).rejects.toThrow('has no ability "links"');
  });
});
