// The docker compose project of this repository, while it runs with its profile `chaos`: containers are killed, stopped, started and paused by the compose
// command line, links are harmed through the project's Toxiproxy service. Its proxies are those of `chaos/compose-proxies.json`: `link-I-J`
// (what node I sends to node J, on connections that I opened) and `client-K`. Where ports are published is asked of compose.
//
// State owned: which containers this target stopped or paused. The project was started by others, and is left as it was found: all of it running, links well.

import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { askHealth, askViews, busiestLeader, type ClusterView, followersAtRest } from '../ask.ts';
import { packageFolder } from '../local-cluster.ts';
import { Links } from '../toxiproxy/links.ts';
import { openToxiproxy, type ToxiproxyHandle } from '../toxiproxy/open.ts';
import type { Ability, LinkFault, Target, TargetNode } from '../types.ts';
import { firstBroker } from './broker.ts';
import { missing, thisMachine } from './options.ts';

const httpPortInside = 15672;
const toxiproxyPortInside = 8474;
const commandMillisecondsMax = 60_000;
const pollMilliseconds = 200;
const nodesMax = 9;
const toStart = 'start it with "docker compose --env-file chaos/compose.env up --detach --wait"';

export async function openComposeTarget(): Promise<Target> {
  const compose = await findCompose();
  // Tells of an engine that does not run, too.
  await compose.run('ps');
  const https: string[] = [];
  for (let node = 1; node <= nodesMax; node++) {
    const published = await publishedAt(compose, serviceOf(node), httpPortInside);
    if (published === null) break;
    https.push(`http://${published}`);
  }
  if (https.length === 0) throw new Error(`the docker compose project does not run: ${toStart}`);
  const api = await publishedAt(compose, 'toxiproxy', toxiproxyPortInside);
  if (api === null)
    throw new Error(`the docker compose project runs without its profile "chaos", so without Toxiproxy: ${toStart}`);
  const toxiproxy = await openToxiproxy({ use: `http://${api}` });
  const target = new ComposeTarget(compose, https, toxiproxy);
  try {
    await target.begin();
  } catch (error) {
    await target.close();
    throw error;
  }
  return target;
}

class ComposeTarget implements Target {
  readonly kind = 'compose';
  readonly abilities = new Set<Ability>(['processes', 'pause', 'clientLinks']);
  nodes: readonly TargetNode[] = [];
  readonly pids = [];
  readonly #compose: Compose;
  /** Of node 1, 2, … */
  readonly #https: readonly string[];
  readonly #toxiproxy: ToxiproxyHandle;
  readonly #links: Links;
  readonly #stopped = new Set<number>();
  readonly #paused = new Set<number>();

  constructor(compose: Compose, https: readonly string[], toxiproxy: ToxiproxyHandle) {
    this.#compose = compose;
    this.#https = https;
    this.#toxiproxy = toxiproxy;
    this.#links = new Links(toxiproxy.api);
  }

  async begin(): Promise<void> {
    const numbers = this.#https.map((_, i) => i + 1);
    const nodes: TargetNode[] = [];
    for (const number of numbers) {
      const { port } = await this.#links.adopt(clientName(number));
      const published = await publishedAt(this.#compose, 'toxiproxy', port);
      if (published === null)
        throw new Error(
          `port ${port} of service toxiproxy, for clients of node ${number}, is not published: ${toStart}`,
        );
      nodes.push({ number, name: serviceOf(number), url: `amqp://${account()}@${published}` });
    }
    this.nodes = nodes;
    const views = await askViews(this.#https);
    let areLed = views.length > 0;
    for (const from of numbers) {
      for (const to of numbers) {
        if (from === to) continue;
        const { port } = await this.#links.adopt(linkName(from, to));
        areLed &&= dials(views, from, to, port);
      }
    }
    if (areLed) this.abilities.add('links');
  }

  async describe(): Promise<Readonly<Record<string, string>>> {
    return {
      broker: await firstBroker(this.nodes.map(({ url }) => url)),
      nodes: `${this.nodes.length} containers (${this.#compose.version})`,
      ...thisMachine(),
      toxiproxy: `${this.#toxiproxy.version}, a service${
        this.abilities.has('links')
          ? ''
          : `; the nodes do not dial one another through it, so links are not harmed: ${toStart}`
      }`,
    };
  }

  async leader(except = 0): Promise<number> {
    const https = this.#https.filter((_, i) => this.#serves(i + 1) && i + 1 !== except);
    const leader = busiestLeader(await askViews(https), except);
    if (leader === 0) throw new Error('no node knows of a leader');
    return leader;
  }

  async followers(milliseconds: number): Promise<readonly number[]> {
    const numbers = this.nodes.map(({ number }) => number);
    return followersAtRest(numbers, () => askViews(this.#https), milliseconds);
  }

  async waitReady(milliseconds: number): Promise<void> {
    const deadline = performance.now() + milliseconds;
    for (;;) {
      const expected = this.nodes.filter(({ number }) => !this.#stopped.has(number));
      const healthy = await Promise.all(expected.map(({ number }) => askHealth(this.#https[number - 1]!)));
      const unhealthy = expected.filter((_, i) => !healthy[i]).map(({ name }) => name);
      if (unhealthy.length === 0) return;
      if (performance.now() > deadline)
        throw new Error(`not healthy after ${milliseconds / 1000} s: ${unhealthy.join(', ')}`);
      await sleep(pollMilliseconds);
    }
  }

  /** Paused nodes go on first: Toxiproxy may wait for those who receive. */
  async heal(): Promise<void> {
    for (const node of [...this.#paused]) await this.resume(node);
    await this.#links.healAll();
    for (const node of [...this.#stopped]) await this.start(node);
  }

  async close(): Promise<void> {
    try {
      await this.heal();
    } finally {
      await this.#links.close();
      await this.#toxiproxy.close();
    }
  }

  /** By what was done here; a container that ends by itself is started again by the engine. */
  isRunning(node: number): boolean {
    return !this.#stopped.has(node);
  }

  async kill(node: number): Promise<void> {
    await this.#end(node, ['kill', '-s', 'SIGKILL']);
  }

  async stop(node: number): Promise<void> {
    await this.resume(node);
    await this.#end(node, ['stop']);
  }

  async start(node: number): Promise<void> {
    await this.#compose.run('start', serviceOf(node));
    this.#stopped.delete(node);
  }

  async pause(node: number): Promise<void> {
    if (this.#stopped.has(node) || this.#paused.has(node)) return;
    this.#paused.add(node);
    await this.#compose.run('pause', serviceOf(node));
  }

  async resume(node: number): Promise<void> {
    if (!this.#paused.has(node)) return;
    await this.#compose.run('unpause', serviceOf(node));
    this.#paused.delete(node);
  }

  async link(from: number, to: number, fault: LinkFault | null): Promise<void> {
    if (!this.abilities.has('links')) return this.#missing('links');
    await this.#links.set(linkName(from, to), fault, 'upstream');
  }

  async clientLink(node: number, toNode: boolean, fault: LinkFault | null): Promise<void> {
    await this.#links.set(clientName(node), fault, toNode ? 'upstream' : 'downstream');
  }

  disk = () => this.#missing('disk');
  clock = () => this.#missing('clock');
  join = () => this.#missing('membership');
  leave = () => this.#missing('membership');

  #missing(ability: Ability): Promise<never> {
    return missing('a docker compose project', ability);
  }

  #serves(node: number): boolean {
    return !this.#stopped.has(node) && !this.#paused.has(node);
  }

  /** The engine kills paused containers too, and they are paused no more. */
  async #end(node: number, command: readonly string[]): Promise<void> {
    if (this.#stopped.has(node)) return;
    this.#stopped.add(node);
    await this.#compose.run(...command, serviceOf(node));
    this.#paused.delete(node);
  }
}

const serviceOf = (node: number): string => `node${node}`;
const linkName = (from: number, to: number): string => `link-${from}-${to}`;
const clientName = (node: number): string => `client-${node}`;

/** As the compose file has it. */
function account(): string {
  const { WARREN_DEFAULT_USER: user, WARREN_DEFAULT_PASSWORD: password } = process.env;
  return `${encodeURIComponent(user || 'guest')}:${encodeURIComponent(password || 'guest')}`;
}

/** Whether a node reaches another by this port, so by the proxy of that link. */
function dials(views: readonly ClusterView[], from: number, to: number, port: number): boolean {
  const own = views.find(({ node }) => node === from);
  return own?.nodes.find(({ node }) => node === to)?.peer.endsWith(`:${port}`) ?? false;
}

// ---- the command line ----

interface Compose {
  readonly version: string;
  /** Resolves with what it prints; rejects with what it complains of. */
  run(...words: string[]): Promise<string>;
}

const execute = promisify(execFile);

/** The plugin of docker, or the program that was there before it. */
async function findCompose(): Promise<Compose> {
  const reasons: string[] = [];
  for (const [program, ...first] of [['docker', 'compose'], ['docker-compose']] as const) {
    const run = async (...words: string[]): Promise<string> => {
      // A service of a profile is known only while that is on.
      const given = [...first, '--profile', 'chaos', ...words];
      try {
        const options = { cwd: packageFolder(), timeout: commandMillisecondsMax };
        return (await execute(program, given, options)).stdout.trim();
      } catch (error) {
        const { stderr, message } = error as Error & { readonly stderr?: string };
        throw new Error(`${[program, ...first, ...words].join(' ')}: ${stderr?.trim() || message}`, { cause: error });
      }
    };
    try {
      const { stdout } = await execute(program, [...first, 'version', '--short'], { timeout: commandMillisecondsMax });
      return { version: `${[program, ...first].join(' ')} ${stdout.trim()}`, run };
    } catch (error) {
      reasons.push((error as Error).message.trim());
    }
  }
  throw new Error(`neither "docker compose" nor "docker-compose" can be used here: ${reasons.join('; ')}`);
}

/** HOST:PORT on this machine; null: there is no such container, or it does not run, or publishes no such port. */
async function publishedAt(compose: Compose, service: string, port: number): Promise<string | null> {
  const text = await compose.run('port', service, String(port)).catch(() => '');
  return /^\S+:[1-9]\d*$/.exec(text)?.[0].replace(/^0\.0\.0\.0:/, '127.0.0.1:') ?? null;
}
