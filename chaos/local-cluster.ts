// A Warren cluster of real processes on this machine, to be harmed: started, killed, paused and restarted from outside, by public
// means alone (command line, environment, signals, HTTP).
//
// State owned: the child processes, and a temporary folder with their data and output. Ends only what it started, and ends all of it,
// also when the process that uses it dies: the nodes hold an IPC channel and stop when it closes.

import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { askHealth, askView, type ClusterView } from './ask.ts';

export type { ClusterView } from './ask.ts';

/** As the `warren` command itself is run. */
const nodeFlags = ['--single-threaded-gc', '--heap-growing-percent=300'];

export interface LocalClusterOptions {
  readonly nodes?: number;
  /** Settings of every node, by their keys: `{ 'node.dead.milliseconds': '3000' }`. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Keep the folder after `stop`. */
  readonly keep?: boolean;
  /** Three for each node: AMQP, HTTP, peers. Otherwise free ones are taken. */
  readonly ports?: readonly number[];
  /** Settings of single nodes, which go before those of all. */
  readonly settingsOf?: (node: number) => Readonly<Record<string, string>>;
  /** Asked at every start of a node. */
  readonly launchOf?: (node: LocalNode) => Launch;
}

/** How a process is started, beside its settings. */
export interface Launch {
  readonly flags: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
}

const startMillisecondsMax = 30_000;
const stopMillisecondsMax = 15_000;
/** Below the ranges from which systems take ports for outgoing connections: a restarting node must find its port free. */
const firstPort = 12_000;
const lastPort = 31_000;

export class LocalCluster {
  readonly folder: string;
  readonly #nodes: LocalNode[];
  readonly #keep: boolean;
  readonly #common: Readonly<Record<string, string>>;
  readonly #launchOf: ((node: LocalNode) => Launch) | undefined;
  readonly #onExit = () => this.#killAll();

  /** Resolves when every node is healthy. */
  static async start(options: LocalClusterOptions = {}): Promise<LocalCluster> {
    const cluster = await LocalCluster.create(options);
    try {
      for (const node of cluster.nodes) node.start();
      await cluster.waitHealthy();
    } catch (error) {
      const output = cluster.output();
      await cluster.stop();
      throw new Error(`the cluster did not start: ${error instanceof Error ? error.message : error}\n${output}`);
    }
    return cluster;
  }

  /** Starts nothing yet. */
  static async create(options: LocalClusterOptions = {}): Promise<LocalCluster> {
    return new LocalCluster(options.ports ?? (await freePorts((options.nodes ?? 3) * 3)), options);
  }

  private constructor(ports: readonly number[], options: LocalClusterOptions) {
    this.folder = mkdtempSync(join(tmpdir(), 'warren-chaos-'));
    this.#keep = options.keep ?? false;
    const count = ports.length / 3;
    const members = Array.from({ length: count }, (_, i) => `${i + 1}=n${i + 1}@127.0.0.1:${ports[3 * i + 2]}`);
    this.#common = {
      ...options.settings,
      'cluster.name': 'chaos',
      'cluster.secret': randomBytes(16).toString('hex'),
      'data.folder': this.folder,
    };
    this.#launchOf = options.launchOf;
    this.#nodes = [];
    for (let i = 0; i < count; i++) {
      const settings = { 'cluster.nodes': members.join(','), ...options.settingsOf?.(i + 1) };
      this.add(i + 1, ports.slice(3 * i, 3 * i + 3), settings);
    }
    process.on('exit', this.#onExit);
  }

  get nodes(): readonly LocalNode[] {
    return this.#nodes;
  }

  /** One more node, which is not started yet. `ports`: AMQP, HTTP, peers. */
  add(number: number, ports: readonly number[], settings: Readonly<Record<string, string>>): LocalNode {
    const [amqpPort, httpPort, peerPort] = [ports[0]!, ports[1]!, ports[2]!];
    const own = {
      'node.name': `n${number}`,
      'amqp.port': String(amqpPort),
      'http.port': String(httpPort),
      'peer.port': String(peerPort),
    };
    const node = new LocalNode(number, this.folder, ports, { ...this.#common, ...own, ...settings }, this.#launchOf);
    this.#nodes.push(node);
    return node;
  }

  get urls(): string[] {
    return this.nodes.map((node) => node.url);
  }

  /** Of the processes that run. */
  get pids(): number[] {
    return this.nodes.flatMap((node) => node.child?.pid ?? []);
  }

  /** Waits until GET /health of these nodes, or of all, says ok. */
  async waitHealthy(nodes: readonly LocalNode[] = this.nodes, milliseconds = startMillisecondsMax): Promise<void> {
    const deadline = performance.now() + milliseconds;
    for (const node of nodes) {
      while (!(await node.isHealthy())) {
        if (!node.isRunning) throw new Error(`${node.name} has ended`);
        if (performance.now() > deadline) throw new Error(`${node.name} is not healthy after ${milliseconds} ms`);
        await sleep(50);
      }
    }
  }

  /** How many groups each node leads, in the order of `nodes`, as one of them sees it. */
  async leaderships(witness: LocalNode = this.nodes[0]!): Promise<number[]> {
    const { groups } = await witness.view();
    return this.nodes.map((node) => groups.filter((group) => group.leader === node.number).length);
  }

  /** The node that leads most; never `except`. */
  async leader(except?: LocalNode): Promise<LocalNode> {
    const counts = await this.leaderships(except);
    const candidates = this.nodes.filter((node) => node !== except);
    return candidates.reduce((a, b) => (counts[a.number - 1]! >= counts[b.number - 1]! ? a : b));
  }

  /** The last lines that each node wrote. */
  output(lines = 25): string {
    return this.nodes.map((node) => `--- ${node.name}\n${node.output(lines)}`).join('\n');
  }

  /** SIGTERM first, SIGKILL for what does not end, or at once for those whose end does not matter; then the folder goes. */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await Promise.all(this.nodes.map((node) => (signal === 'SIGTERM' ? node.stop() : node.kill())));
    process.off('exit', this.#onExit);
    if (!this.#keep) rmSync(this.folder, { recursive: true, force: true });
  }

  #killAll(): void {
    for (const node of this.nodes) node.signal('SIGKILL');
  }
}

export class LocalNode {
  readonly number: number;
  readonly name: string;
  readonly url: string;
  readonly http: string;
  readonly amqpPort: number;
  readonly peerPort: number;
  /** What it keeps its data in. */
  readonly folder: string;
  readonly #settings: Readonly<Record<string, string>>;
  readonly #launchOf: ((node: LocalNode) => Launch) | undefined;
  readonly #outputFile: string;
  #child: ChildProcess | null = null;
  #ended: Promise<void> = Promise.resolve();
  /** How the last process ended: exit code or signal. */
  lastExit: number | string | null = null;
  /** Called whenever a process ends. */
  onEnd: () => void = () => {};

  /** `folder`: of the cluster. `ports`: AMQP, HTTP, peers. */
  constructor(
    number: number,
    folder: string,
    ports: readonly number[],
    settings: Readonly<Record<string, string>>,
    launchOf: ((node: LocalNode) => Launch) | undefined,
  ) {
    this.number = number;
    this.name = `n${number}`;
    this.amqpPort = ports[0]!;
    this.peerPort = ports[2]!;
    this.url = `amqp://guest:guest@127.0.0.1:${this.amqpPort}`;
    this.http = `http://127.0.0.1:${ports[1]!}`;
    this.folder = join(folder, this.name);
    this.#settings = settings;
    this.#launchOf = launchOf;
    this.#outputFile = join(folder, `${this.name}.log`);
  }

  get isRunning(): boolean {
    return this.#child !== null;
  }

  /** Its process; null: it has none. */
  get child(): ChildProcess | null {
    return this.#child;
  }

  start(): void {
    if (this.#child) throw new Error(`${this.name} runs already`);
    const output = openSync(this.#outputFile, 'a');
    const { flags, environment } = this.#launchOf?.(this) ?? { flags: [], environment: {} };
    const child = spawn(process.execPath, [...nodeFlags, ...flags, programPath(), 'node'], {
      env: { ...environmentOf(this.#settings), ...environment },
      stdio: ['ignore', output, output, 'ipc'],
    });
    closeSync(output);
    this.#child = child;
    this.#ended = new Promise((resolve) => {
      child.once('error', () => resolve());
      child.once('exit', (code, signal) => {
        this.lastExit = signal ?? code;
        this.#child = null;
        this.onEnd();
        resolve();
      });
    });
  }

  /** False if there is no process any more. */
  signal(signal: NodeJS.Signals): boolean {
    return this.#child?.kill(signal) ?? false;
  }

  /** Resolves when the process is gone. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.signal(signal);
    await this.#ended;
  }

  pause(): void {
    this.signal('SIGSTOP');
  }

  resume(): void {
    this.signal('SIGCONT');
  }

  async stop(): Promise<void> {
    this.resume();
    this.signal('SIGTERM');
    const timer = setTimeout(() => this.signal('SIGKILL'), stopMillisecondsMax);
    await this.#ended;
    clearTimeout(timer);
  }

  isHealthy(): Promise<boolean> {
    return askHealth(this.http);
  }

  view(): Promise<ClusterView> {
    return askView(this.http);
  }

  output(lines = 25): string {
    if (!existsSync(this.#outputFile)) return '';
    return readFileSync(this.#outputFile, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  }
}

/** Our own settings are no business of the nodes: an unknown WARREN_ variable is an error there. */
function environmentOf(settings: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  const environment = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('WARREN_') && !name.startsWith('VITEST')),
  );
  for (const [key, value] of Object.entries(settings)) {
    environment[`WARREN_${key.toUpperCase().replaceAll('.', '_')}`] = value;
  }
  return environment;
}

const programPath = (): string => join(packageFolder(), 'dist', 'node', 'main.js');

/** Where this package is, wherever this file itself was compiled to. */
export function packageFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) {
    if (folder === dirname(folder)) throw new Error('not inside a package');
    folder = dirname(folder);
  }
  return folder;
}

/** Ports in a row that nobody uses now. */
export async function freePorts(count: number): Promise<number[]> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const first = randomInt(firstPort, lastPort - count);
    const ports = Array.from({ length: count }, (_, i) => first + i);
    const free = await Promise.all(ports.map(isFree));
    if (free.every(Boolean)) return ports;
  }
  throw new Error(`no ${count} free ports in a row between ${firstPort} and ${lastPort}`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', () => resolve(false));
    server.listen(port, () => server.close(() => resolve(true)));
  });
}
