// Start and stop of one node, with parts that fail or hang at every step.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { NodeConfig } from '../../node/config.ts';
import { readConfig } from '../../node/config-sources.ts';
import { openDataFolder } from '../../node/data-folder.ts';
import { createLog } from '../../node/log.ts';
import { readOrder } from '../../node/orders.ts';
import { createNodeServer, type NodeParts, type NodeServer } from '../../node/server.ts';
import { freeBasePort } from './ports.ts';

let root: string;
let calls: string[];
let logged: string;
let server: NodeServer | null;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'warren-test-'));
  calls = [];
  logged = '';
  server = null;
});
afterEach(async () => {
  await server?.stop();
  rmSync(root, { recursive: true, force: true });
});

/** Parts that note what is asked of them; `overrides` say how some of them behave. */
function fakeParts(overrides: Partial<NodeParts> = {}): NodeParts {
  const names = ['form', 'open', 'join', 'listen', 'stopAccepting', 'handOver', 'disconnectClients', 'close'] as const;
  const parts = Object.fromEntries(
    names.map((name) => [
      name,
      async () => {
        calls.push(name);
        await overrides[name]?.();
      },
    ]),
  );
  const status = () => ({ ready: true, groups: [{ name: 'meta', leader: 1, halted: null }] });
  return {
    status,
    formingWith: overrides.formingWith ?? (() => null),
    isolate: (on: boolean) => calls.push(`isolate ${on}`),
    stopForming: () => {},
    ...parts,
  } as unknown as NodeParts;
}

async function node(overrides: Partial<NodeParts> = {}): Promise<{ server: NodeServer; config: NodeConfig }> {
  const port = await freeBasePort(1);
  const read = readConfig({ flags: ['--data.folder', root, '--http.port', String(port + 10000)], environment: {} });
  if (!read.ok) throw new Error(read.error);
  const opened = openDataFolder(read.config);
  if (!opened.ok) throw new Error(opened.error);
  const log = await createLog(read.config.settings, 'n1', { write: (line: string) => void (logged += line) });
  const context = { config: read.config, folder: opened.folder, log, fatal: () => {} };
  server = createNodeServer(context, () => fakeParts(overrides));
  return { server, config: read.config };
}

async function health(config: NodeConfig): Promise<unknown[]> {
  const response = await fetch(`http://127.0.0.1:${config.settings['http.port']}/health`);
  return [response.status, ((await response.json()) as { reasons: string[] }).reasons];
}

describe('a node', () => {
  it('starts and stops its parts in order, and releases its folder', async () => {
    const { server, config } = await node();
    await server.start();
    expect(server.phase).toBe('running');
    expect(await health(config)).toEqual([200, []]);
    expect(readdirSync(config.dataFolder)).toContain('pid');
    expect(await Promise.all([server.stop(), server.stop()])).toEqual([true, true]);
    expect(calls).toEqual([
      'form',
      'open',
      'join',
      'listen',
      'stopAccepting',
      'handOver',
      'disconnectClients',
      'close',
    ]);
    expect(readdirSync(config.dataFolder)).not.toContain('pid');
    await expect(health(config)).rejects.toThrow();
  });

  it('answers /health while it has no majority, and can be stopped then', async () => {
    const { server, config } = await node({ join: () => new Promise(() => {}) });
    void server.start();
    await expect.poll(() => calls).toContain('join');
    expect(await health(config)).toEqual([503, ['node is starting']]);
    expect(await server.stop()).toBe(true);
    expect(calls).toEqual(['form', 'open', 'join', 'handOver', 'close']);
  });

  it('says whom it waits for while its cluster is being formed, and can be stopped then', async () => {
    const formingWith = () => 'missing: n2';
    const { server, config } = await node({ form: () => new Promise(() => {}), formingWith });
    void server.start();
    await expect.poll(() => calls).toContain('form');
    expect(await health(config)).toEqual([503, ['missing: n2']]);
    expect(await server.stop()).toBe(true);
    expect(calls).toEqual(['form']);
  });

  it('is cut off when its launcher says so, once there is something to cut off', async () => {
    const { server } = await node();
    server.isolate(true);
    await server.start();
    server.isolate(true);
    server.isolate(false);
    expect(calls.filter((call) => call.startsWith('isolate'))).toEqual(['isolate true', 'isolate false']);
  });

  it.each<[unknown, unknown]>([
    [{ isolate: true }, { isolate: true }],
    [{ isolate: false, more: 1 }, { isolate: false }],
    [{ isolate: 1 }, null],
    [{ cmd: 'NODE_HANDLE' }, null],
    ['isolate', null],
    [null, null],
    [undefined, null],
  ])('takes %o for the order %o', (message, order) => {
    expect(readOrder(message)).toEqual(order);
  });

  it('waits for what it has begun when it is stopped at once', async () => {
    let release = () => {};
    const { server } = await node({ open: () => new Promise<void>((resolve) => (release = resolve)) });
    const started = server.start();
    await expect.poll(() => calls).toContain('open');
    const stopped = server.stop();
    release();
    expect(await stopped).toBe(true);
    await started;
    expect(calls).toEqual(['form', 'open', 'handOver', 'close']);
  });

  it('goes on with the stop when a step fails, and keeps the pid file', async () => {
    const failing = () => Promise.reject(new Error('no way'));
    const { server, config } = await node({ handOver: failing });
    await server.start();
    expect(await server.stop()).toBe(false);
    expect(calls.at(-1)).toBe('close');
    expect(readdirSync(config.dataFolder)).toContain('pid');
    expect(logged).toContain('"step":"hand over"');
  });

  it('does not run when a part cannot start', async () => {
    const { server } = await node({ open: () => Promise.reject(new Error('damaged')) });
    await expect(server.start()).rejects.toThrow('damaged');
    expect(await server.stop()).toBe(false);
    expect(calls).toEqual(['form', 'open']);
  });
});

describe('the log', () => {
  it('hides passwords and bodies', async () => {
    const log = await createLog({ 'log.level': 'info', 'log.format': 'json' }, 'n1', {
      write: (line: string) => void (logged += line),
    });
    log.info(
      { password: 'p-1', user: { name: 'u', password: 'p-2' }, body: 'b-1', settings: { secret: 's-1' } },
      'hello',
    );
    expect(JSON.parse(logged)).toMatchObject({ node: 'n1', msg: 'hello', user: { name: 'u' } });
    expect(logged).not.toMatch(/p-1|p-2|b-1|s-1/);
  });

  it('is written for people if wanted', async () => {
    const log = await createLog({ 'log.level': 'info', 'log.format': 'pretty' }, 'n1', {
      write: (line: string) => void (logged += line),
    });
    log.debug('not this');
    log.warn({ queue: 'q' }, 'hello');
    expect(logged).toMatch(/WARN.*: hello.*"queue":"q"/);
    expect(logged).not.toContain('not this');
  });
});
