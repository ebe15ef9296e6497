// Any broker that speaks AMQP 0-9-1, by the addresses of its nodes: a RabbitMQ cluster as well as ours. Of its processes nothing is known, so only the
// links between clients and nodes are harmed, by a proxy in front of each node, `client-K`. TLS names the node that it expects, so a proxy
// in front of a TLS port would be refused: a list with such an address has no proxies and no abilities.
//
// State owned: the proxies.

import { Links } from '../toxiproxy/links.ts';
import { openToxiproxy, type ToxiproxyHandle } from '../toxiproxy/open.ts';
import type { Ability, LinkFault, Target, TargetNode } from '../types.ts';
import { firstBroker, untilAnswered } from './broker.ts';
import { missing, type TargetOptions, thisMachine } from './options.ts';

const host = '127.0.0.1';
const ports: Readonly<Record<string, number>> = { 'amqp:': 5672, 'amqps:': 5671 };

export async function openUrlsTarget(urls: readonly string[], options: TargetOptions = {}): Promise<Target> {
  if (urls.length === 0) throw new Error('no AMQP URL is given');
  const parsed = urls.map(parseUrl);
  if (parsed.some(({ protocol }) => protocol === 'amqps:')) return new UrlsTarget(parsed, parsed, null, null);
  const toxiproxy = await openToxiproxy({ use: options.toxiproxy ?? null });
  const links = new Links(toxiproxy.api);
  try {
    const led: URL[] = [];
    for (const [i, url] of parsed.entries()) {
      const proxy = await links.add(clientName(i + 1), host, 0, addressOf(url));
      const through = new URL(url);
      through.host = `${host}:${proxy.port}`;
      led.push(through);
    }
    return new UrlsTarget(parsed, led, toxiproxy, links);
  } catch (error) {
    await links.close();
    await toxiproxy.close();
    throw error;
  }
}

class UrlsTarget implements Target {
  readonly kind = 'urls';
  readonly abilities: ReadonlySet<Ability>;
  readonly nodes: readonly TargetNode[];
  readonly pids = [];
  readonly #toxiproxy: ToxiproxyHandle | null;
  readonly #links: Links | null;

  /** `led`: the same, through proxies. */
  constructor(urls: readonly URL[], led: readonly URL[], toxiproxy: ToxiproxyHandle | null, links: Links | null) {
    this.nodes = urls.map((url, i) => ({ number: i + 1, name: addressOf(url), url: led[i]!.href }));
    this.abilities = new Set<Ability>(links === null ? [] : ['clientLinks']);
    this.#toxiproxy = toxiproxy;
    this.#links = links;
  }

  async describe(): Promise<Readonly<Record<string, string>>> {
    return {
      broker: await firstBroker(this.nodes.map(({ url }) => url)),
      nodes: this.nodes.map(({ name }) => name).join(', '),
      ...thisMachine(),
      toxiproxy:
        this.#toxiproxy === null
          ? 'none: no proxy stands in front of TLS, so no link can be harmed'
          : `${this.#toxiproxy.version} (${this.#toxiproxy.kind})`,
    };
  }

  async leader(except = 0): Promise<number> {
    return this.nodes.find(({ number }) => number !== except)?.number ?? 1;
  }

  async followers(): Promise<readonly number[]> {
    return this.nodes.slice(1).map(({ number }) => number);
  }

  async waitReady(milliseconds: number): Promise<void> {
    const deadline = performance.now() + milliseconds;
    const answers = await Promise.all(this.nodes.map(({ url }) => untilAnswered(url, deadline)));
    const reasons = this.nodes.flatMap(({ name }, i) => (answers[i] === null ? [] : [`${name}: ${answers[i]}`]));
    if (reasons.length > 0) throw new Error(`not there after ${milliseconds / 1000} s: ${reasons.join('; ')}`);
  }

  async heal(): Promise<void> {
    await this.#links?.healAll();
  }

  async close(): Promise<void> {
    await this.#links?.close();
    await this.#toxiproxy?.close();
  }

  async clientLink(node: number, toNode: boolean, fault: LinkFault | null): Promise<void> {
    if (this.#links === null) return this.#missing('clientLinks');
    await this.#links.set(clientName(node), fault, toNode ? 'upstream' : 'downstream');
  }

  isRunning(): boolean {
    return true;
  }

  kill = () => this.#missing('processes');
  stop = () => this.#missing('processes');
  start = () => this.#missing('processes');
  pause = () => this.#missing('pause');
  resume = () => this.#missing('pause');
  link = () => this.#missing('links');
  disk = () => this.#missing('disk');
  clock = () => this.#missing('clock');
  join = () => this.#missing('membership');
  leave = () => this.#missing('membership');

  #missing(ability: Ability): Promise<never> {
    return missing('a list of AMQP URLs', ability);
  }
}

const clientName = (node: number): string => `client-${node}`;
const addressOf = (url: URL): string => `${url.hostname}:${url.port || ports[url.protocol]}`;

function parseUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !(url.protocol in ports) || url.hostname === '')
    throw new Error(`"${text}" is no AMQP URL: amqp://user:password@host:port/vhost`);
  return url;
}
