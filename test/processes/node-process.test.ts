// The compiled `warren` command as a process: exit codes, signals, the data folder's rules, and the launcher's end. One node, no clients.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { freeBasePort } from '../node/ports.ts';

const main = fileURLToPath(new URL('../../dist/node/main.js', import.meta.url));

/** One process with what it wrote so far. */
interface Run {
  readonly child: ChildProcess;
  output: string;
  errors: string;
  /** Exit code, or the signal that ended it. */
  readonly end: Promise<number | string>;
}

let root: string;
let port: number;
let runs: Run[];

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'warren-test-'));
  port = await freeBasePort();
  runs = [];
});
afterEach(async () => {
  for (const run of runs) run.child.kill('SIGKILL');
  await Promise.all(runs.map((run) => run.end));
  rmSync(root, { recursive: true, force: true });
});

/** The settings of whoever runs the tests are no settings of the nodes. */
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('WARREN_')));

function warren(args: string[], channel: 'ipc' | 'ignore' = 'ignore'): Run {
  const stdio = ['ignore', 'pipe', 'pipe', channel] as const;
  const child = spawn(process.execPath, [main, ...args], { env: environment, stdio: [...stdio] });
  // After `disconnect()` on this side a child never tells `close`, which otherwise comes once its output was read.
  const end = once(child, channel === 'ipc' ? 'exit' : 'close').then(([code, signal]) => signal ?? code);
  const run: Run = { child, output: '', errors: '', end };
  child.stdout?.on('data', (chunk) => (run.output += chunk));
  child.stderr?.on('data', (chunk) => (run.errors += chunk));
  runs.push(run);
  return run;
}

const nodeFlags = (): string[] => [
  'node',
  `--data.folder=${root}`,
  `--amqp.port=${port}`,
  `--http.port=${port + 10_000}`,
  `--peer.port=${port + 20_000}`,
];

async function healthy(httpPort = port + 10_000): Promise<boolean> {
  try {
    return (await fetch(`http://127.0.0.1:${httpPort}/health`)).ok;
  } catch {
    return false;
  }
}

/** Fails at once, with what the node said, when it has ended. */
async function untilHealthy(run: Run): Promise<void> {
  const until = performance.now() + 20_000;
  while (!(await healthy())) {
    if (run.child.exitCode !== null || run.child.signalCode !== null || performance.now() > until)
      expect.fail(`not healthy; it wrote:\n${run.output}${run.errors}`);
    await sleep(50);
  }
}
const pidFile = () => join(root, 'n1', 'pid');

describe('warren node', () => {
  it('runs until SIGTERM, with its pid in the data folder, and goes on where it stopped', async () => {
    const first = warren(nodeFlags());
    await untilHealthy(first);
    expect(readFileSync(pidFile(), 'utf8')).toBe(`${first.child.pid}\n`);
    const status = (await (await fetch(`http://127.0.0.1:${port + 10_000}/cluster`)).json()) as {
      groups: { name: string }[];
    };
    expect(status.groups[0]?.name).toBe('meta');
    for (const line of first.output.trim().split('\n')) expect(JSON.parse(line)).toMatchObject({ node: 'n1' });

    // A second one on the same folder, also with other ports, and one on the same ports, also with another folder.
    const second = warren([
      ...nodeFlags(),
      `--amqp.port=${port + 1}`,
      `--http.port=${port + 10_001}`,
      `--peer.port=${port + 20_001}`,
    ]);
    expect(await second.end).toBe(1);
    expect(second.errors).toContain(`in use by process ${first.child.pid}`);
    const third = warren([...nodeFlags(), `--data.folder=${join(root, 'other')}`]);
    expect(await third.end).toBe(1);
    expect(third.errors).toContain(`amqp.port = ${port}: cannot listen on 127.0.0.1 port ${port} (EADDRINUSE)`);
    expect(existsSync(join(root, 'other'))).toBe(false);

    first.child.kill('SIGTERM');
    first.child.kill('SIGINT');
    expect(await first.end).toBe(0);
    expect(existsSync(pidFile())).toBe(false);

    const again = warren(nodeFlags());
    await untilHealthy(again);
    again.child.kill('SIGKILL');
    expect(await again.end).toBe('SIGKILL');
    expect(existsSync(pidFile())).toBe(true);
    const last = warren(nodeFlags());
    await untilHealthy(last);
    last.child.kill('SIGINT');
    expect(await last.end).toBe(0);
    expect(readdirSync(join(root, 'n1')).filter((name) => name.startsWith('incarnation'))).toHaveLength(1);
  });

  it.each([
    [['--colour', 'red'], 'unknown key "colour" (flag --colour)'],
    [['--log.level', 'loud'], 'log.level = "loud" (flag --log.level): must be one of'],
    [['--config', '/nowhere/x'], 'config file /nowhere/x: cannot be read (ENOENT)'],
  ])('refuses %o with one line, and touches nothing', async (flags, message) => {
    const run = warren([...nodeFlags(), ...flags]);
    expect(await run.end).toBe(1);
    expect(run.errors).toContain(`warren: ${message}`);
    expect(run.errors.trim().split('\n')).toHaveLength(1);
    expect(run.output).toBe('');
    expect(readdirSync(root)).toEqual([]);
  });

  it('stops cleanly when its launcher is gone, and leaves Ctrl-C to a living one', async () => {
    const run = warren(nodeFlags(), 'ipc');
    await untilHealthy(run);
    run.child.kill('SIGINT');
    // Nobody reads the output of a node whose launcher was killed.
    run.child.stdout?.destroy();
    run.child.stderr?.destroy();
    expect(await healthy()).toBe(true);
    run.child.disconnect();
    expect(await run.end).toBe(0);
    expect(existsSync(pidFile())).toBe(false);
  });
});

describe('warren start', () => {
  it('takes its nodes along, also when it is killed', async () => {
    const args = ['start', '--nodes', '1', '--data', root, '--port', String(port)];
    const clean = warren(args);
    await expect.poll(() => clean.output, { timeout: 20_000 }).toContain(`ready  amqp://guest:guest@127.0.0.1:${port}`);
    clean.child.kill('SIGINT');
    clean.child.kill('SIGTERM');
    expect(await clean.end).toBe(0);
    expect(existsSync(pidFile())).toBe(false);

    const killed = warren(args);
    await expect.poll(() => killed.output, { timeout: 20_000 }).toContain('ready');
    killed.child.kill('SIGKILL');
    await expect.poll(() => existsSync(pidFile()), { timeout: 15_000 }).toBe(false);
    expect(await healthy()).toBe(false);
  });
});
