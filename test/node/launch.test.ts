// The local launcher, with scripts in place of nodes.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readConfig } from '../../node/config-sources.ts';
import { openDataFolder } from '../../node/data-folder.ts';
import { type Launch, type LaunchTimes, launch } from '../../node/launch.ts';
import { type LaunchOptions, parseLaunchFlags, planNodes } from '../../node/launch-options.ts';
import { freeBasePort } from './ports.ts';

const script = fileURLToPath(new URL('fake-node.mjs', import.meta.url));
const quick: Partial<LaunchTimes> = { restart: 50, restartMax: 150, healthPoll: 20 };

let root: string;
let lines: string[];
let running: Launch | null;
let waiting: (() => void)[];

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'warren-test-'));
  lines = [];
  waiting = [];
  running = null;
});
afterEach(async () => {
  running?.stop();
  await running?.done;
  rmSync(root, { recursive: true, force: true });
});

interface Wishes {
  environment?: Record<string, string>;
  times?: Partial<LaunchTimes>;
  isTerminal?: boolean;
}

function start(options: LaunchOptions, { environment = {}, times = {}, isTerminal = false }: Wishes = {}): Launch {
  const print = (line: string) => {
    lines.push(line);
    for (const look of waiting) look();
  };
  running = launch(options, {
    script,
    environment,
    print,
    printError: print,
    isTerminal,
    colours: false,
    times: { ...quick, ...times },
  });
  return running;
}

/** The first line that matches, now or later. */
function line(pattern: RegExp): Promise<string> {
  return new Promise((resolve) => {
    const look = () => {
      const found = lines.find((text) => pattern.test(text));
      if (found !== undefined) resolve(found);
    };
    waiting.push(look);
    look();
  });
}

const pidIn = (text: string): number => Number(/pid (\d+)/.exec(text)?.[1]);

function lives(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe('the flags of warren start', () => {
  it('have defaults', () => {
    expect(parseLaunchFlags([])).toEqual({ ok: true, options: { nodesCount: 3, port: 5672, dataFolder: './data' } });
    expect(parseLaunchFlags(['--ephemeral', '--nodes', '1'])).toMatchObject({
      options: { nodesCount: 1, dataFolder: null },
    });
  });

  it.each([
    [['--nodes', '4'], '--nodes = "4": must be one of 1, 3, 5'],
    [['--nodes'], '--nodes'],
    [['--port', '46000'], '--port = "46000": must be an integer from 1 to 45531'],
    [['--port', 'x'], '--port = "x": must be an integer'],
    [['--data', ''], '--data'],
    [['--data', 'x', '--ephemeral'], 'must not be given together'],
    [['--colour'], "Unknown option '--colour'"],
    [['start'], 'Unexpected argument'],
  ])('refuse %o', (flags, message) => {
    const parsed = parseLaunchFlags(flags);
    expect(parsed.ok ? '' : parsed.error).toContain(message);
  });
});

describe('the settings of the nodes', () => {
  it.each([
    [{}, 'warn'],
    [{ WARREN_LOG_LEVEL: 'debug' }, 'debug'],
  ])('given %o, show log lines from %s on', (environment, level) => {
    const plan = planNodes({ nodesCount: 1, dataFolder: '.', port: 5672 }, '.', 'x'.repeat(16), environment);
    expect(plan.ok && plan.nodes[0]?.config.settings['log.level']).toBe(level);
    expect(plan.ok && plan.environment).toMatchObject({ WARREN_LOG_LEVEL: level });
  });

  it('given a port for TLS, have one each, beside all others', () => {
    const files = { WARREN_AMQP_TLS_CERTIFICATE_FILE: 'c.pem', WARREN_AMQP_TLS_KEY_FILE: 'k.pem' };
    const environment = { WARREN_AMQP_TLS_PORT: '5671', ...files };
    const plan = planNodes({ nodesCount: 3, dataFolder: '.', port: 5672 }, '.', 'x'.repeat(16), environment);
    expect(plan.ok && plan.nodes.map(({ config }) => config.settings['amqp.tls.port'])).toEqual([5671, 5670, 5669]);
  });
});

describe('a launcher', () => {
  it('starts three nodes, says where they are, and stops them cleanly', async () => {
    const port = await freeBasePort();
    const { done, stop } = start({ nodesCount: 3, dataFolder: root, port });
    await line(/^ready/);
    const first = lines.findIndex((text) => text.startsWith('n1 '));
    for (const [at, name] of ['n1', 'n2', 'n3'].entries()) {
      expect(lines[first + at]).toMatch(
        new RegExp(
          `^${name}  pid \\d+  amqp 127.0.0.1:${port + at}  http 127.0.0.1:${port + 10000 + at}  peers 127.0.0.1:${port + 20000 + at}  data ${join(root, name)}$`,
        ),
      );
    }
    expect(await line(/^ready/)).toContain(`amqp://guest:guest@127.0.0.1:${port} `);
    expect(await line(/curl/)).toContain(`http://127.0.0.1:${port + 10000}/cluster`);
    // The nodes' own lines come through as they are, and all nodes have the same secret, which only the user may read.
    expect(JSON.parse(await line(/^\{.*"node":"n2"/))).toMatchObject({ msg: 'the fake runs' });
    const secret = readFileSync(join(root, 'secret'), 'utf8').trim();
    expect(await (await fetch(`http://127.0.0.1:${port + 10001}/health`)).json()).toMatchObject({
      secret: secret.length,
    });
    expect(statSync(join(root, 'secret')).mode & 0o777).toBe(0o600);
    const pids = ['n1', 'n2', 'n3'].map((name) => pidIn(lines.find((text) => text.startsWith(`${name}  `)) ?? ''));
    expect(pids.every(lives)).toBe(true);
    stop();
    stop();
    expect(await done).toBe(0);
    expect(pids.some(lives)).toBe(false);
  });

  it('does without a node that has left the cluster for good', async () => {
    const port = await freeBasePort();
    const { done, stop } = start({ nodesCount: 3, dataFolder: root, port }, { environment: { FAKE_LEFT: 'n2' } });
    await line(/^ready/);
    expect(lines.filter((text) => text.includes('n2 has left the cluster for good'))).toHaveLength(1);
    expect(lines.some((text) => text.startsWith('n2 died'))).toBe(false);
    stop();
    expect(await done).toBe(0);
  });

  it('starts a node again that died, each time later', async () => {
    const port = await freeBasePort(1);
    const { done, stop } = start({ nodesCount: 1, dataFolder: root, port });
    await line(/^ready/);
    process.kill(pidIn(await line(/^n1 {2}pid/)), 'SIGKILL');
    expect(await line(/^n1 died/)).toMatch(
      /^n1 died \(pid \d+, signal SIGKILL, after \d+\.\d s\): it starts again in 0.05 s$/,
    );
    const back = await line(/^n1 is back/);
    process.kill(pidIn(back), 'SIGTERM');
    expect(await line(/^n1 died .*exit code 0/)).toContain('in 0.1 s');
    await line(new RegExp(`^n1 is back \\(pid (?!${pidIn(back)})`));
    fetch(`http://127.0.0.1:${port + 10000}/die`).catch(() => {});
    expect(await line(/^n1 died .*exit code 7/)).toContain('in 0.15 s');
    // Stopped while none runs.
    stop();
    expect(await done).toBe(0);
    expect(lines.filter((text) => text.startsWith('ready'))).toHaveLength(1);
  });

  it('gives up when a node cannot start at all', async () => {
    const port = await freeBasePort();
    const { done } = start({ nodesCount: 3, dataFolder: root, port }, { environment: { FAKE_REFUSE: 'n2' } });
    expect(await done).toBe(1);
    expect(await line(/^n2: /)).toBe('n2: warren: something that n2 cannot start with');
    expect(await line(/^warren:/)).toBe('warren: n2 cannot start; all nodes are stopped');
    expect(lines.some((text) => text.startsWith('ready'))).toBe(false);
  });

  it('kills a node that does not stop', async () => {
    const port = await freeBasePort(1);
    const environment = { FAKE_STUBBORN: 'n1', WARREN_STOP_MILLISECONDS: '150', WARREN_HAND_OVER_MILLISECONDS: '10' };
    const { done, stop } = start({ nodesCount: 1, dataFolder: root, port }, { environment, times: { stopSlack: 0 } });
    await line(/^ready/);
    stop();
    expect(await done).toBe(1);
    expect(lines.slice(-2)).toEqual([
      'n1 takes too long to stop and is killed',
      'n1 did not stop cleanly (signal SIGKILL)',
    ]);
  });

  it('touches nothing when a port is busy', async () => {
    const port = await freeBasePort();
    const blocker = createServer();
    await new Promise<void>((resolve) => blocker.listen(port + 10001, '127.0.0.1', resolve));
    expect(await start({ nodesCount: 3, dataFolder: join(root, 'data'), port }).done).toBe(1);
    blocker.close();
    expect(lines).toEqual([
      `warren: port ${port + 10001} on 127.0.0.1 is busy: --port ${port} takes it for n2 (http); choose another with --port`,
    ]);
    expect(readdirSync(root)).toEqual([]);
  });

  it('touches nothing when a setting is bad, or a data folder belongs to another cluster or is in use', async () => {
    const port = await freeBasePort();
    const options = { nodesCount: 3, dataFolder: root, port };
    expect(await start(options, { environment: { WARREN_LOG_LEVEL: 'loud' } }).done).toBe(1);
    expect(lines.pop()).toContain('log.level = "loud" (environment variable WARREN_LOG_LEVEL): must be one of');
    const single = readConfig({ flags: ['--data.folder', root], environment: {} });
    const opened = single.ok ? openDataFolder(single.config) : single;
    if (!opened.ok) throw new Error(opened.error);
    opened.folder.commit({ clusterId: 'c'.repeat(32), nodes: [{ node: 1, name: 'n1', uuid: 'u'.repeat(32) }] });
    expect(await start({ ...options, nodesCount: 1 }).done).toBe(1);
    expect(lines.pop()).toContain(`in use by process ${process.pid}`);
    opened.folder.release();
    expect(await start(options).done).toBe(1);
    expect(lines.pop()).toContain('belongs to a cluster of the nodes 1=n1, not of 1=n1,2=n2,3=n3');
    expect(readdirSync(root)).toEqual(['n1']);
  });

  it('removes the folder of --ephemeral, whatever happened', async () => {
    const port = await freeBasePort(1);
    const { done, stop } = start({ nodesCount: 1, dataFolder: null, port });
    await line(/^ready/);
    const folder = /data (\S+)\/n1$/.exec(await line(/^n1 {2}pid/))?.[1] ?? '';
    expect(existsSync(join(folder, 'secret'))).toBe(true);
    stop();
    expect(await done).toBe(0);
    expect(existsSync(folder)).toBe(false);
  });

  it('shows log lines for people on a terminal', async () => {
    const port = await freeBasePort(1);
    start({ nodesCount: 1, dataFolder: root, port }, { isTerminal: true });
    expect(await line(/the fake runs/)).toMatch(/^n1 \[\d\d:\d\d:\d\d\.\d{3}\] INFO: the fake runs$/);
  });

  it('says what is missing while nodes do not become ready', async () => {
    const port = await freeBasePort(1);
    start({ nodesCount: 1, dataFolder: root, port }, { times: { patience: 1 } });
    expect(await line(/not ready/)).toBe('n1 is not ready yet: does not answer');
  });
});
