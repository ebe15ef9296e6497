// `warren node --cluster.join` and `warren cluster` with real processes: a node is let in, comes back by itself, and leaves.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { freeBasePort } from '../node/ports.ts';

const main = fileURLToPath(new URL('../../dist/node/main.js', import.meta.url));
const nodesMax = 3;

interface Run {
  readonly child: ChildProcess;
  output: string;
  readonly end: Promise<number | string>;
}

describe('nodes that come and go', { timeout: 90_000 }, () => {
  let root: string;
  let port: number;
  let runs: Run[];

  beforeEach(async () => {
    root = mkdtempSync(join(tmpdir(), 'warren-test-'));
    port = await freeBasePort();
    runs = [];
  });
  afterEach(async ({ task }) => {
    for (const run of runs) run.child.kill('SIGKILL');
    await Promise.all(runs.map((run) => run.end));
    if (task.result?.state === 'fail') for (const run of runs) console.error(run.output);
    rmSync(root, { recursive: true, force: true });
  });

  function warren(args: readonly string[]): Run {
    const given = Object.entries(process.env).filter(([name]) => !name.startsWith('WARREN_'));
    const environment = { ...Object.fromEntries(given), WARREN_CLUSTER_SECRET: 'a-secret-of-the-test' };
    const child = spawn(process.execPath, [main, ...args], { env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
    const end = once(child, 'close').then(([code, signal]) => signal ?? code);
    const run: Run = { child, output: '', end };
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (run.output += chunk));
    runs.push(run);
    return run;
  }

  const http = (node: number) => `127.0.0.1:${port + 10_000 + node}`;
  const peer = (node: number) => `127.0.0.1:${port + 20_000 + node}`;
  const start = (node: number, ...flags: string[]) =>
    warren([
      ...['node', '--node.name', `n${node}`, '--data.folder', root, '--shards', node === 1 ? '3' : '12'],
      ...['--amqp.port', `${port + node}`, '--http.port', `${port + 10_000 + node}`],
      ...['--peer.port', `${port + 20_000 + node}`, ...flags],
    ]);
  const ask = async (...args: string[]): Promise<string> => {
    const run = warren(['cluster', ...args]);
    await run.end;
    return run.output;
  };
  const until = async (what: string, check: () => Promise<boolean>) => {
    for (const deadline = Date.now() + 30_000; Date.now() < deadline; await sleep(200))
      if (await check().catch(() => false)) return;
    expect.unreachable(what);
  };
  const isServing = async (node: number) => (await fetch(`http://${http(node)}/health`)).status === 200;

  it('a node is let in, holds what the cluster gives it, comes back without asking, and leaves for good', async () => {
    start(1);
    await until('n1 serves', () => isServing(1));
    const wrong = start(2, '--cluster.join', peer(1), '--cluster.name', 'burrow');
    expect(await wrong.end).toBe(1);
    expect(wrong.output).toContain('this is cluster "warren", not "burrow"');

    let second = start(2, '--cluster.join', `${peer(nodesMax)},${peer(1)}`);
    await until('n2 serves', () => isServing(2));
    await until('n2 holds a shard', async () => /n2 +member +yes +\d+ +[1-3] /.test(await ask('--http', http(1))));
    second.child.kill('SIGTERM');
    expect(await second.end).toBe(0);
    second = start(2);
    await until('n2 is back', () => isServing(2));

    expect(await ask('join', '--http', http(2))).toContain(`--cluster.join ${peer(1)},${peer(2)}`);
    expect(await ask('leave', 'n2', '--http', http(1))).toContain('n2 leaves');
    expect(await second.end).not.toBe(0);
    expect(second.output).toContain('has left the cluster for good');
    const status = await ask('--http', http(1));
    expect(status).toContain('3 shards, on 1 node each');
    expect(status).not.toContain('n2');
    expect(await ask('leave', 'n1', '--http', http(1))).toContain('it is the last node');
    const again = start(2, '--cluster.join', peer(1));
    expect(await again.end).not.toBe(0);
    expect(again.output).toContain('has left the cluster');
  });
});
