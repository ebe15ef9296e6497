// The HTTP port: health, status, and everything else that somebody may ask for.

import { createServer, type Server } from 'node:http';
import { connect } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { type HttpServer, startHttpServer } from '../../node/http/server.ts';
import { type Measures, ProcessWatch } from '../../node/measures.ts';
import { parseRebuildFlags, rebuildGroup } from '../../node/rebuild-command.ts';
import { healthOf, type Phase, reasonsMax, type StatusView } from '../../node/status.ts';
import { freeHttpPort } from './ports.ts';

const group = (name: string, leader: number, halted: string | null = null) => ({ name, leader, halted });
const fine: StatusView = { ready: true, groups: [group('meta', 1), group('shard-1', 2)] };

describe('health', () => {
  it.each<[string, Phase, StatusView | null, string[]]>([
    ['all well', 'running', fine, []],
    ['before there is a cluster', 'starting', null, ['node is starting']],
    ['while it stops', 'stopping', fine, ['node is stopping']],
    ['fenced', 'running', { ...fine, ready: false }, ['cluster is not ready']],
    [
      'a shard without a leader',
      'running',
      { ready: true, groups: [group('meta', 1), group('shard-3', 0)] },
      ['shard-3 has no leader'],
    ],
    [
      'a halted shard',
      'running',
      { ready: true, groups: [group('shard-1', 0, 'state differs')] },
      ['shard-1 is halted: state differs'],
    ],
  ])('%s', (_name, phase, status, reasons) => {
    expect(healthOf(phase, status)).toEqual({ status: reasons.length === 0 ? 'ok' : 'unavailable', reasons });
  });

  it('names damaged files, what their group waits for, and where else there is damage', () => {
    const waiting = { ...group('shard-1', 0, 'it is damaged: log/1.log'), waitsFor: 'nobody leads', damagedOn: [3] };
    const elsewhere = { ...group('shard-2', 0), damagedOn: [2, 3] };
    const building = { ...group('shard-3', 1), repairing: true };
    const groups = [waiting, elsewhere, building, { ...group('shard-4', 1), damagedOn: [2] }];
    expect(healthOf('running', { ready: true, groups, alarm: 'low on disk space: node 2' })).toEqual({
      status: 'unavailable',
      reasons: [
        'shard-1 is halted: it is damaged: log/1.log; it is built anew by itself, but nobody leads; damaged on node 3 too',
        'shard-2 has no leader: its replicas on node 2, 3 are damaged',
      ],
      warnings: [
        'publishers wait: low on disk space: node 2',
        'shard-3 is being built anew here',
        'shard-4 is damaged on node 2',
      ],
    });
  });

  it('gives a bounded number of reasons', () => {
    const groups = Array.from({ length: 1000 }, (_, at) => group(`shard-${at + 1}`, 0));
    expect(healthOf('running', { ready: true, groups }).reasons).toHaveLength(reasonsMax);
  });
});

describe('the HTTP port', () => {
  let server: HttpServer | null = null;
  let blocker: Server | null = null;
  afterEach(async () => {
    await server?.close();
    blocker?.close();
    server = blocker = null;
  });

  const rebuilt: number[] = [];
  /** Groups are built anew but for the metadata. */
  const rebuild = async (group: number) => {
    rebuilt.push(group);
    return group === 0 ? 'this node leads it' : null;
  };

  const left: number[] = [];
  /** Node 1 stays. */
  const leave = async (node: number) => {
    left.push(node);
    return node === 1 ? 'it is the last node' : null;
  };

  async function start(
    status: () => StatusView | null,
    hosts = ['127.0.0.1'],
    measures: () => Measures | null = () => null,
  ): Promise<string> {
    const port = await freeHttpPort();
    const phase = () => 'running' as const;
    const sources = { phase, status, measures, formingWith: () => null, rebuild, leave, failed: () => {} };
    server = await startHttpServer({ hosts, port, connectionsMax: 10 }, sources);
    return `http://127.0.0.1:${port}`;
  }

  it('answers /health and /cluster', async () => {
    let status: StatusView | null = { ...fine, clusterName: 'warren' } as StatusView;
    const url = await start(() => status);
    const health = await fetch(`${url}/health`);
    expect([health.status, await health.json()]).toEqual([200, { status: 'ok', reasons: [] }]);
    const cluster = await fetch(`${url}/cluster?pretty`);
    expect([cluster.status, await cluster.json()]).toEqual([200, { ...fine, clusterName: 'warren' }]);
    expect(cluster.headers.get('content-type')).toBe('application/json');
    status = null;
    expect((await fetch(`${url}/health`)).status).toBe(503);
    expect((await fetch(`${url}/cluster`)).status).toBe(503);
  });

  it('answers /metrics as text, from the beginning on', async () => {
    const watch = new ProcessWatch();
    let measures: Measures | null = null;
    const url = await start(
      () => null,
      ['127.0.0.1'],
      () => measures,
    );
    expect((await fetch(`${url}/metrics`)).status).toBe(503);
    measures = { process: watch.read(), cluster: null, clients: null };
    watch.stop();
    const answer = await fetch(`${url}/metrics`);
    expect([answer.status, answer.headers.get('content-type')]).toEqual([
      200,
      'text/plain; version=0.0.4; charset=utf-8',
    ]);
    const text = await answer.text();
    expect(text).toContain('\nwarren_healthy 0\n');
    expect(Number(answer.headers.get('content-length'))).toBe(Buffer.byteLength(text));
    const head = await fetch(`${url}/metrics`, { method: 'HEAD' });
    expect([head.status, await head.text()]).toEqual([200, '']);
    expect((await fetch(`${url}/metrics`, { method: 'POST' })).status).toBe(405);
  });

  it('lets a node leave when it is asked to, and says why not', async () => {
    const url = await start(() => fine);
    const post = async (path: string, headers = {}) => {
      const response = await fetch(`${url}${path}`, { method: 'POST', headers });
      return [response.status, await response.json()];
    };
    expect(await post('/cluster/nodes/3/leave')).toEqual([202, { node: 3, status: 'leaving' }]);
    expect(await post('/cluster/nodes/1/leave')).toEqual([409, { error: 'refused', reason: 'it is the last node' }]);
    expect((await fetch(`${url}/cluster/nodes/3/leave`)).status).toBe(405);
    expect((await post('/cluster/nodes/3/leave', { origin: 'http://elsewhere.example' }))[0]).toBe(403);
    expect((await post('/cluster/nodes/x/leave'))[0]).toBe(404);
    expect(left).toEqual([3, 1]);
  });

  it('tells what to do about a halted replica, and builds one anew when asked by a person', async () => {
    const halted = { ready: true, groups: [group('shard-3', 0, 'state differs')] };
    const url = await start(() => halted);
    const command = `warren rebuild shard-3 --http ${url.slice('http://'.length)}`;
    const { reasons } = (await (await fetch(`${url}/health`)).json()) as { reasons: string[] };
    expect(reasons).toEqual([`shard-3 is halted: state differs; to build it anew: ${command}`]);
    expect(await (await fetch(`${url}/cluster`)).json()).toEqual({
      ready: true,
      groups: [{ ...halted.groups[0], command }],
    });
    const post = async (path: string, headers = {}) => {
      const response = await fetch(`${url}${path}`, { method: 'POST', headers });
      return [response.status, await response.json()];
    };
    expect(await post('/groups/3/rebuild')).toEqual([202, { group: 3, status: 'rebuilding' }]);
    expect(await post('/groups/0/rebuild')).toEqual([409, { error: 'refused', reason: 'this node leads it' }]);
    expect(rebuilt).toEqual([3, 0]);
    expect((await fetch(`${url}/groups/3/rebuild`)).status).toBe(405);
    expect((await post('/groups/x/rebuild'))[0]).toBe(404);
    expect((await post('/groups/3/rebuild', { origin: 'http://elsewhere.example' }))[0]).toBe(403);
    expect(rebuilt).toEqual([3, 0]);
    const address = url.slice('http://'.length);
    expect(parseRebuildFlags(['shard-3', '--http', address])).toEqual({ ok: true, group: 3, http: address });
    expect(parseRebuildFlags(['meta', '--http', address])).toMatchObject({ group: 0 });
    expect(parseRebuildFlags(['3', '--http=h:1'])).toMatchObject({ group: 3 });
    const told: string[] = [];
    const tell = (line: string) => void told.push(line);
    const spies = [
      vi.spyOn(console, 'log').mockImplementation(tell),
      vi.spyOn(console, 'error').mockImplementation(tell),
    ];
    expect(await rebuildGroup(['shard-3', '--http', address])).toBe(0);
    expect(await rebuildGroup(['meta', '--http', address])).toBe(1);
    expect(await rebuildGroup(['meta', '--http', '127.0.0.1:1'])).toBe(1);
    expect(await rebuildGroup([])).toBe(1);
    for (const spy of spies) spy.mockRestore();
    expect(rebuilt).toEqual([3, 0, 3, 0]);
    expect(told[0]).toContain('being built anew');
    expect(told[1]).toBe('warren: refused: this node leads it');
    expect(told[2]).toContain('no answer from 127.0.0.1:1');
    for (const wrong of [
      [],
      ['shard-3'],
      ['shards', '--http', address],
      ['3', '4', '--http', address],
      ['3', '--http', 'h'],
    ])
      expect(parseRebuildFlags(wrong).ok, wrong.join(' ')).toBe(false);
  });

  it('refuses other paths and methods, and survives a failing status', async () => {
    const url = await start(() => {
      throw new Error('no status');
    });
    expect((await fetch(`${url}/health`)).status).toBe(500);
    expect((await fetch(`${url}/`)).status).toBe(404);
    const posted = await fetch(`${url}/health`, { method: 'POST', body: 'x'.repeat(100_000) });
    expect([posted.status, posted.headers.get('allow'), posted.headers.get('connection')]).toEqual([
      405,
      'GET, HEAD',
      'close',
    ]);
    const head = await fetch(`${url}/cluster`, { method: 'HEAD' });
    expect([head.status, await head.text()]).toEqual([500, '']);
    const raw = connect(Number(new URL(url).port), '127.0.0.1');
    const answer = await new Promise<string>((resolve) => {
      raw.once('data', (bytes) => resolve(bytes.toString()));
      raw.write('not http at all\r\n\r\n');
    });
    raw.destroy();
    expect(answer).toContain('400 Bad Request');
  });

  it('does without an address that the machine lacks, but not without all', async () => {
    const url = await start(() => fine, ['127.0.0.1', '203.0.113.7']);
    expect(server?.unavailable).toEqual(['203.0.113.7']);
    expect((await fetch(`${url}/health`)).status).toBe(200);
    await expect(start(() => fine, ['203.0.113.7'])).rejects.toMatchObject({ code: 'EADDRNOTAVAIL' });
  });

  it('fails on a busy port', async () => {
    const port = await freeHttpPort();
    blocker = createServer();
    await new Promise<void>((resolve) => blocker?.listen(port, '127.0.0.1', resolve));
    const sources = {
      phase: () => 'running' as const,
      status: () => fine,
      measures: () => null,
      formingWith: () => null,
      rebuild,
      leave,
      failed: () => {},
    };
    const starting = startHttpServer({ hosts: ['::1', '127.0.0.1'], port, connectionsMax: 10 }, sources);
    await expect(starting).rejects.toMatchObject({ code: 'EADDRINUSE' });
  });
});
