// Clients of other languages: programs that are started with the URLs of the nodes, and judged by the lines that they write.
//
// The whole round, the same in every language (`roundLines`): an exchange, a quorum queue with a dead-letter exchange, confirms, a return,
// consuming at another node, a requeued and a rejected message, and a new connection after `kill -9` of the own node.
// A program writes `kill N` when its N-th node (from 1) is to die, `start N` when it is to come back, and reads the line `done` after each.
//
// State owned: the programs that run, and the nodes that they asked to be killed; both are put in order again after each run.
// RabbitMQ's nodes are not ours to kill: there a proxy before the node dies instead.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, expect } from 'vitest';
import type { LocalCluster } from '../../chaos/local-cluster.ts';
import { useCluster } from '../processes/support.ts';
import { isForeign, uniqueName, until } from './brokers.ts';

const runMillisecondsMax = 90_000;

/** Where `.ci/toolchains` puts what it installs, outside the repository. */
export const cacheFolder = process.env.WARREN_TEST_CACHE ?? join(homedir(), '.cache', 'warren-interop');

/** The file or folder of that name beside the tests with other clients. */
export const source = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

/** What every language's program of the whole round writes. */
export const roundLines: readonly string[] = [
  'declared',
  'confirmed 100',
  'returned 312 NO_ROUTE',
  'consumed 100 in order',
  'redelivered',
  'dead-lettered rejected',
  'reconnected',
  'survived 40',
  'deleted',
];

export interface Command {
  readonly command: string;
  readonly args: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
}

/** For `describe.skipIf`: whether this does not run here, which is said. In CI nothing may be missing. */
export function isMissing(name: string, { command, args, environment }: Command): boolean {
  const { status, error, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    timeout: 60_000,
    env: { ...process.env, ...environment },
  });
  if (status === 0) return false;
  const reason = `${name}: \`${command} ${args.join(' ')}\` failed (${error?.message ?? stderr.trim().slice(-300)}); .ci/toolchains installs it`;
  if (process.env.CI) throw new Error(reason);
  console.log(`skipped, ${reason}`);
  return true;
}

export interface Program {
  /** Lines written so far, those for the harness left out. */
  readonly lines: readonly string[];
  readonly isRunning: boolean;
  /** Resolves when it wrote a line that holds this text; fails when it ends before. */
  wrote(text: string): Promise<void>;
  /** Resolves when it ended by itself with exit code 0, to all its lines. */
  finished(): Promise<readonly string[]>;
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
}

export interface Harness {
  readonly urls: readonly string[];
  start(command: Command): Program;
  /** `kill -9` for the node of this index; it runs again after the test. */
  kill(index: number): Promise<void>;
  /** The command with two arguments more, the URLs (comma separated) and a name of its own; does the whole round. */
  round(command: Command): Promise<void>;
}

/** One cluster for the programs of a test file. Call the result when it is up. */
export function useHarness(): () => Harness {
  const nodes = isForeign ? useForeignNodes() : useOwnNodes();
  const children = new Set<ChildProcess>();
  afterEach(async () => {
    for (const child of children) child.kill('SIGKILL');
    children.clear();
    await nodes.repair();
  });
  const start = (command: Command) => startProgram(command, nodes, children);
  const round = async (command: Command) => {
    mkdirSync(cacheFolder, { recursive: true });
    const program = start({ ...command, args: [...command.args, nodes.urls().join(','), uniqueName('round')] });
    expect(await program.finished()).toEqual(roundLines);
  };
  return () => ({ urls: nodes.urls(), start, kill: nodes.kill, round });
}

interface Nodes {
  urls(): readonly string[];
  kill(index: number): Promise<void>;
  /** All nodes run again. */
  repair(): Promise<void>;
}

function useOwnNodes(): Nodes {
  const cluster: () => LocalCluster = useCluster();
  return {
    urls: () => cluster().urls,
    kill: (index) => cluster().nodes[index]!.kill('SIGKILL'),
    async repair() {
      for (const node of cluster().nodes) if (!node.isRunning) node.start();
      await cluster().waitHealthy();
    },
  };
}

function useForeignNodes(): Nodes {
  const targets = (process.env.WARREN_TEST_URLS ?? '').split(',').map((url) => new URL(url));
  const ports = targets.map(() => 0);
  const open: { server: Server; sockets: Set<Socket> }[] = [];
  const listen = async (index: number) => {
    const sockets = new Set<Socket>();
    const server = createServer((near) => {
      const far = connect(Number(targets[index]!.port), targets[index]!.hostname);
      for (const socket of [near, far]) {
        sockets.add(socket);
        socket.on('error', () => {}).on('close', () => [near, far].map((each) => each.destroy()));
      }
      near.pipe(far).pipe(near);
    });
    await once(server.listen(ports[index], '127.0.0.1'), 'listening');
    ports[index] = (server.address() as { port: number }).port;
    open[index] = { server, sockets };
  };
  const ready = Promise.all(targets.map((_, index) => listen(index)));
  return {
    urls: () => targets.map(({ username, password }, i) => `amqp://${username}:${password}@127.0.0.1:${ports[i]}`),
    async kill(index) {
      await ready;
      open[index]!.server.close();
      for (const socket of open[index]!.sockets) socket.destroy();
    },
    async repair() {
      await ready;
      for (const [index, { server }] of open.entries()) if (!server.listening) await listen(index);
    },
  };
}

function startProgram({ command, args, environment }: Command, nodes: Nodes, children: Set<ChildProcess>): Program {
  const child = spawn(command, args, { stdio: 'pipe', env: { ...process.env, ...environment } });
  children.add(child);
  const lines: string[] = [];
  let errors = '';
  let ending: number | NodeJS.Signals | Error | null = null;
  createInterface({ input: child.stdout }).on('line', async (line) => {
    const asked = /^(kill|start) (\d)$/.exec(line);
    if (!asked) return void lines.push(line);
    if (asked[1] === 'kill') await nodes.kill(Number(asked[2]) - 1);
    else await nodes.repair();
    child.stdin.write('done\n');
  });
  child.stderr.on('data', (chunk) => (errors += chunk));
  child.stdin.on('error', () => {});
  child.once('error', (error) => (ending = error));
  child.once('close', (code, signal) => (ending = code ?? signal));
  const told = () => `${command} ${args.join(' ')}: ${ending ?? 'runs'}\n${lines.join('\n')}\n${errors.slice(-4000)}`;
  const wait = async (condition: () => boolean) => {
    await until(condition, runMillisecondsMax).catch(() => expect.fail(`not done in time: ${told()}`));
  };
  return {
    lines,
    get isRunning() {
      return ending === null;
    },
    async wrote(text) {
      const has = () => lines.some((line) => line.includes(text));
      await wait(() => has() || ending !== null);
      if (!has()) expect.fail(`ended without "${text}": ${told()}`);
    },
    async finished() {
      await wait(() => ending !== null);
      if (ending !== 0) expect.fail(`failed: ${told()}`);
      return lines;
    },
    async kill() {
      child.kill('SIGKILL');
      await wait(() => ending !== null);
    },
  };
}
