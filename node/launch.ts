// `warren start`: a whole cluster on this machine, one process per node, for first steps, development and tests.
//
//   check everything → make the folder and the secret → start the nodes → wait for /health of all → "ready" → start again what dies → stop
//
// State owned: the child processes, the secret file, and the temporary folder of --ephemeral.
// Invariants: nothing is made or started before all flags, data folders and ports were found fine. No child outlives `done`; should this
// process be killed, the children see their IPC channel close and stop by themselves.

import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { createInterface } from 'node:readline';
import { askNode, reachableHost } from './ask.ts';
import { checkDataFolder, makeFolder, replaceFile } from './data-folder.ts';
import { ExitCode } from './exit-codes.ts';
import { type KeyInput, type KeyTarget, keysHelp, LaunchKeys } from './launch-keys.ts';
import { type LaunchOptions, type PlannedNode, planNodes } from './launch-options.ts';
import { findBusyAddress } from './listen-check.ts';
import { createPrettifier } from './log.ts';
import type { Order } from './orders.ts';

/**
 * A broker's heap is small and its buffers are many: by default each 64 MiB of them may start a collection. On one thread, as the nodes of a
 * cluster on few cores take each other's; in steps, as marking all at once stands still for 25 to 50 ms; and seldom, as V8 counts young
 * buffers towards the limit at which it begins to mark, and would begin for them alone. Measured on two cores shared by three nodes against
 * marking in one go: pauses of 4 instead of 38 ms, 9 instead of 16 us of processor for a message of 16 bytes, 27 instead of 31 for 1 KiB.
 */
const collectorFlags = ['--single-threaded-gc', '--heap-growing-percent=300'];

export interface LaunchSurroundings {
  /** What a child runs: `node SCRIPT node FLAGS`. */
  readonly script: string;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** One line, without its end, for the user. */
  readonly print: (line: string) => void;
  readonly printError: (line: string) => void;
  /** Pretty log lines for people, instead of the nodes' JSON. */
  readonly isTerminal: boolean;
  readonly colours: boolean;
  /** Where keys come from; left out, or null: none are taken. */
  readonly keys?: KeyInput | null;
  readonly times?: Partial<LaunchTimes>;
}

/** In milliseconds. */
export interface LaunchTimes {
  /** Wait before a dead node is started again; doubles when it dies young, up to `restartMax`. */
  readonly restart: number;
  readonly restartMax: number;
  /** A node that lived longer than this did not die young. */
  readonly young: number;
  readonly healthPoll: number;
  /** When to say what is missing, if the nodes do not become ready. */
  readonly patience: number;
  /** Added to the nodes' own `stop.milliseconds` before they are killed. */
  readonly stopSlack: number;
}

const defaultTimes: LaunchTimes = {
  restart: 1_000,
  restartMax: 10_000,
  young: 10_000,
  healthPoll: 50,
  patience: 10_000,
  stopSlack: 1_000,
};

export interface Launch {
  /** The exit code. */
  readonly done: Promise<number>;
  /** Ends all nodes cleanly. May come at any time, and again. */
  stop(): void;
}

/** One node and the life of its processes. */
interface Member extends PlannedNode {
  readonly name: string;
  child: ChildProcess | null;
  startedAt: number;
  restartMilliseconds: number;
  timer: NodeJS.Timeout | null;
  healthy: boolean;
  everHealthy: boolean;
  /** Its present process was told to cut itself off from the other nodes. */
  isolated: boolean;
  /** Why it is not healthy, as it says itself. */
  reasons: readonly string[];
  /** The last line on stderr of the current process. */
  lastError: string;
}

const logLineBytesMax = 64 * 1024;

export function launch(options: LaunchOptions, surroundings: LaunchSurroundings): Launch {
  const launcher = new Launcher(options, surroundings);
  return { done: launcher.run(), stop: () => launcher.stop() };
}

class Launcher {
  readonly #options: LaunchOptions;
  readonly #surroundings: LaunchSurroundings;
  readonly #times: LaunchTimes;
  readonly #begun = performance.now();
  #members: Member[] = [];
  #environment: LaunchSurroundings['environment'] = {};
  #prettify: ((line: string) => string) | null = null;
  #ready = false;
  #stopping = false;
  #exitCode = 0;
  #keys: LaunchKeys | null = null;
  #patience: NodeJS.Timeout | null = null;
  #killTimer: NodeJS.Timeout | null = null;
  #finish: () => void = () => {};

  constructor(options: LaunchOptions, surroundings: LaunchSurroundings) {
    this.#options = options;
    this.#surroundings = surroundings;
    this.#times = { ...defaultTimes, ...surroundings.times };
  }

  async run(): Promise<number> {
    const temporary = this.#options.dataFolder === null ? mkdtempSync(join(tmpdir(), 'warren-')) : null;
    try {
      const refused = await this.#prepare(temporary ?? this.#options.dataFolder ?? '');
      if (refused !== null) {
        this.#surroundings.printError(`warren: ${refused}`);
        return 1;
      }
      if (this.#surroundings.isTerminal) this.#prettify = await createPrettifier(this.#surroundings.colours);
      if (this.#stopping) return 0;
      const finished = new Promise<void>((resolve) => {
        this.#finish = resolve;
      });
      for (const member of this.#members) this.#start(member);
      for (const member of this.#members) this.#print(describe(member));
      this.#patience = setTimeout(() => this.#sayWhatIsMissing(), this.#times.patience);
      await finished;
      return this.#exitCode;
    } finally {
      this.#keys?.end();
      if (temporary !== null) rmSync(temporary, { recursive: true, force: true });
    }
  }

  stop(): void {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#keys?.end();
    if (this.#patience !== null) clearTimeout(this.#patience);
    let boundMilliseconds = 0;
    for (const member of this.#members) {
      if (member.timer !== null) clearTimeout(member.timer);
      member.child?.kill('SIGTERM');
      boundMilliseconds = Math.max(boundMilliseconds, member.config.settings['stop.milliseconds']);
    }
    this.#killTimer = setTimeout(() => this.#kill(), boundMilliseconds + this.#times.stopSlack);
    this.#finishIfAllEnded();
  }

  /** Checks, then makes what the nodes need. Returns why they cannot run, or null. */
  async #prepare(dataFolder: string): Promise<string | null> {
    const { environment } = this.#surroundings;
    const secret = readSecret(dataFolder);
    if (!secret.ok) return secret.error;
    const plan = planNodes(this.#options, dataFolder, secret.value, environment);
    if (!plan.ok) return plan.error;
    for (const { config } of plan.nodes) {
      const refused = checkDataFolder(config);
      if (refused !== null) return refused;
    }
    for (const { config } of plan.nodes) {
      const busy = await findBusyAddress(config);
      if (busy === null) continue;
      const why = busy.code === 'EADDRINUSE' ? 'is busy' : `cannot be used (${busy.code})`;
      const asked = `--port ${this.#options.port} takes it for ${config.name} (${busy.what})`;
      return `port ${busy.port} on ${busy.host} ${why}: ${asked}; choose another with --port`;
    }
    try {
      makeFolder(dataFolder);
      if (secret.isNew) replaceFile(dataFolder, 'secret', `${secret.value}\n`, 0o600);
    } catch (error) {
      return `--data = "${dataFolder}": ${(error as Error).message}`;
    }
    this.#environment = plan.environment;
    this.#members = plan.nodes.map((node) => ({
      ...node,
      name: node.config.name,
      child: null,
      startedAt: 0,
      restartMilliseconds: this.#times.restart,
      timer: null,
      healthy: false,
      everHealthy: false,
      isolated: false,
      reasons: ['does not answer'],
      lastError: '',
    }));
    return null;
  }

  #start(member: Member): void {
    const child = spawn(process.execPath, [...collectorFlags, this.#surroundings.script, 'node', ...member.flags], {
      env: this.#environment,
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    member.child = child;
    member.startedAt = performance.now();
    member.healthy = false;
    member.isolated = false;
    member.lastError = '';
    // Lines of a child that died are still read; `close` comes when all were.
    if (child.stdout !== null) createInterface({ input: child.stdout }).on('line', (line) => this.#log(member, line));
    if (child.stderr !== null) {
      createInterface({ input: child.stderr }).on('line', (line) => {
        member.lastError = line;
        this.#surroundings.printError(`${member.name}: ${line}`);
      });
    }
    let spawnError = '';
    child.on('error', (error) => {
      spawnError = error.message;
    });
    child.on('close', (code, signal) => {
      const how = signal !== null ? `signal ${signal}` : `exit code ${code}`;
      this.#ended(member, child, spawnError || how, code);
    });
    this.#poll(member, child);
  }

  #log(member: Member, line: string): void {
    const cut = line.length > logLineBytesMax ? `${line.slice(0, logLineBytesMax)}…` : line;
    this.#print(this.#prettify === null ? cut : `${member.name} ${this.#prettify(cut).trimEnd()}`);
  }

  /** Asks for its health until it is well, or gone. */
  #poll(member: Member, child: ChildProcess): void {
    if (this.#stopping || member.child !== child) return;
    void askNode(member.config, '/health').then((answer) => {
      if (this.#stopping || member.child !== child) return;
      if (answer?.statusCode === 200) {
        this.#healthy(member);
        return;
      }
      member.reasons = answer === null ? ['does not answer'] : reasonsIn(answer.value);
      member.timer = setTimeout(() => this.#poll(member, child), this.#times.healthPoll);
    });
  }

  #healthy(member: Member): void {
    member.healthy = true;
    if (this.#ready) {
      this.#print(`${member.name} is back (pid ${member.child?.pid}, after ${seconds(member.startedAt)})`);
    }
    member.everHealthy = true;
    this.#readyIfAllHealthy();
  }

  #readyIfAllHealthy(): void {
    if (this.#ready || !this.#members.every((other) => other.healthy)) return;
    this.#ready = true;
    if (this.#patience !== null) clearTimeout(this.#patience);
    this.#sayReady();
  }

  #ended(member: Member, child: ChildProcess, how: string, code: number | null): void {
    if (member.child !== child) return;
    if (member.timer !== null) clearTimeout(member.timer);
    member.child = null;
    member.healthy = false;
    member.reasons = ['is not running'];
    if (this.#stopping) {
      if (code !== 0) {
        this.#exitCode = 1;
        this.#print(`${member.name} did not stop cleanly (${how})`);
      }
      this.#finishIfAllEnded();
      return;
    }
    if (code === ExitCode.left) {
      this.#print(`${member.name} has left the cluster for good: it is not started again (pid ${child.pid})`);
      this.#members = this.#members.filter((other) => other !== member);
      if (this.#members.length === 0) this.#finish();
      else this.#readyIfAllHealthy();
      return;
    }
    if (code === ExitCode.refused && !member.everHealthy) {
      // What the user has to put right; trying again would not help.
      const why = member.lastError === '' ? `${member.name} ended with exit code 1` : `${member.name} cannot start`;
      this.#surroundings.printError(`warren: ${why}; all nodes are stopped`);
      this.#exitCode = 1;
      this.stop();
      return;
    }
    const lived = performance.now() - member.startedAt;
    const wait = lived > this.#times.young ? this.#times.restart : member.restartMilliseconds;
    member.restartMilliseconds = Math.min(wait * 2, this.#times.restartMax);
    const again = `it starts again in ${wait / 1000} s`;
    this.#print(`${member.name} died (pid ${child.pid}, ${how}, after ${seconds(member.startedAt)}): ${again}`);
    member.timer = setTimeout(() => {
      this.#start(member);
      this.#print(`${member.name} starts again (pid ${member.child?.pid})`);
    }, wait);
  }

  #sayReady(): void {
    const [first] = this.#members;
    if (first === undefined) return;
    const { settings, dataFolder } = first.config;
    const host = shownHost(settings['amqp.host'][0]);
    const password = settings['default.password'] === 'guest' ? 'guest' : 'PASSWORD';
    const http = `http://${shownHost(settings['http.host'][0])}:${settings['http.port']}`;
    const victim = this.#members.at(-1)?.config.dataFolder ?? dataFolder;
    this.#print(
      `ready  amqp://${settings['default.user']}:${password}@${host}:${settings['amqp.port']}  (${seconds(this.#begun)})`,
    );
    this.#print(`  curl ${http}/cluster    who leads what`);
    if (this.#members.length > 1)
      this.#print(`  kill -9 $(cat ${shownPath(victim)}/pid)    nothing confirmed is lost; it comes back`);
    this.#print('  Ctrl-C    stops all nodes');
    const { keys } = this.#surroundings;
    if (keys === undefined || keys === null) return;
    this.#keys = new LaunchKeys(keys, this.#keyTarget());
    this.#print(`  ${keysHelp}`);
  }

  #keyTarget(): KeyTarget {
    const members = this.#members;
    const memberOf = (node: { readonly config: Member['config'] }) =>
      members.find((member) => member.config === node.config)!;
    return {
      nodesCount: members.length,
      running: () => members.filter((member) => member.child !== null),
      kill: (node) => memberOf(node).child?.kill('SIGKILL'),
      isolate: (node, on) => {
        const member = memberOf(node);
        member.isolated = on;
        const order: Order = { isolate: on };
        // A process that has just died needs no telling.
        if (member.child?.connected === true) member.child.send(order, () => {});
      },
      stop: () => this.stop(),
      print: (line) => this.#print(line),
    };
  }

  #sayWhatIsMissing(): void {
    for (const member of this.#members) {
      if (!member.healthy) this.#print(`${member.name} is not ready yet: ${member.reasons.join('; ')}`);
    }
  }

  #kill(): void {
    for (const member of this.#members) {
      if (member.child === null) continue;
      this.#print(`${member.name} takes too long to stop and is killed`);
      member.child.kill('SIGKILL');
    }
  }

  #finishIfAllEnded(): void {
    if (this.#members.some((member) => member.child !== null)) return;
    if (this.#killTimer !== null) clearTimeout(this.#killTimer);
    this.#finish();
  }

  #print(line: string): void {
    this.#surroundings.print(line);
  }
}

type Secret =
  | { readonly ok: true; readonly value: string; readonly isNew: boolean }
  | { readonly ok: false; readonly error: string };

/** The nodes' shared secret from the data folder, or a new one that is not written yet. */
function readSecret(dataFolder: string): Secret {
  const file = join(dataFolder, 'secret');
  try {
    const value = readFileSync(file, 'utf8').trim();
    if (/^\S{16,256}$/.test(value)) return { ok: true, value, isNew: false };
    return {
      ok: false,
      error: `${file}: damaged; the nodes' shared secret must be 16 to 256 characters (delete it for a new one)`,
    };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return { ok: true, value: randomBytes(32).toString('hex'), isNew: true };
    return { ok: false, error: `--data = "${dataFolder}": ${(error as Error).message}` };
  }
}

function reasonsIn(value: unknown): readonly string[] {
  const { reasons } = Object(value) as { reasons?: unknown };
  return Array.isArray(reasons) ? reasons.map(String) : [];
}

function shownHost(host: string | undefined): string {
  const reachable = reachableHost(host);
  return reachable.includes(':') ? `[${reachable}]` : reachable;
}

/** Short if it lies below the current folder. */
function shownPath(path: string): string {
  const short = relative('.', path);
  return short.startsWith('..') ? path : short;
}

const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(1)} s`;

function describe(member: Member): string {
  const { settings, peerListen, dataFolder } = member.config;
  const amqp = `${shownHost(settings['amqp.host'][0])}:${settings['amqp.port']}`;
  const http = `${shownHost(settings['http.host'][0])}:${settings['http.port']}`;
  const peers = `${peerListen.host}:${peerListen.port}`;
  return `${member.name}  pid ${member.child?.pid}  amqp ${amqp}  http ${http}  peers ${peers}  data ${shownPath(dataFolder)}`;
}
