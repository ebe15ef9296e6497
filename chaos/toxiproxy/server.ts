// An HTTP server with the API of Shopify's Toxiproxy 2.x, for machines that have no `toxiproxy-server`: proxies, their toxics, and
// the same answers to what is wrong.
//
// State owned: the proxies by name. It listens on the loopback interface only, and refuses browsers as Toxiproxy does. Requests are
// handled one after the other, and none waits for a connection whose receiver takes nothing (Toxiproxy's do). What is wrong with a request
// is a reply, never a throw.
//
//   GET, POST           /proxies                        GET, POST           /proxies/P/toxics
//   GET, POST, DELETE   /proxies/P     (PATCH = POST)   GET, POST, DELETE   /proxies/P/toxics/T    (PATCH = POST)
//   POST                /populate, /reset               GET                 /version

import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { loopbackAddress, ToxicProxy } from './proxy.ts';
import { directions, type Toxic, type ToxicType, toxicAttributes } from './toxics.ts';

/** The version whose API this is. */
export const embeddedVersion = '2.12.0+embedded';

const requestBytesMax = 1024 * 1024;

interface Reply {
  readonly status: number;
  readonly body?: unknown;
}

type Json = Readonly<Record<string, unknown>>;

interface ProxyInput {
  readonly name: string;
  readonly listen: string;
  readonly upstream: string;
  readonly enabled: boolean;
}

export class ToxiproxyServer {
  readonly #proxies = new Map<string, ToxicProxy>();
  readonly #server: Server;
  #turn: Promise<unknown> = Promise.resolve();

  /** Resolves when it listens there; port 0: on a free one. */
  static async listen(port = 0): Promise<ToxiproxyServer> {
    const server = new ToxiproxyServer();
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', reject);
      server.#server.listen(port, '127.0.0.1', resolve);
    });
    return server;
  }

  private constructor() {
    // Longer than clients keep idle connections: a request must not meet a connection that is being closed.
    this.#server = createServer({ keepAliveTimeout: 60_000 }, async (request, response) => {
      const reply = await this.#reply(request).catch(() => null);
      // The client went away amid its request.
      if (!reply) return void response.destroy();
      const text = typeof reply.body === 'string' ? reply.body : JSON.stringify(reply.body);
      response.writeHead(reply.status, { 'Content-Type': 'application/json' });
      response.end(reply.body === undefined ? undefined : `${text}\n`);
    });
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Ends all connections and listeners. */
  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await this.#inTurn(async () => {
      for (const proxy of this.#proxies.values()) await proxy.stop();
    });
    await closed;
  }

  async #reply(request: IncomingMessage): Promise<Reply> {
    if (request.headers['user-agent']?.startsWith('Mozilla/')) return { status: 403, body: 'User agent not allowed' };
    const text = await readBody(request);
    if (text === null) return fail(413, 'request body too large');
    const path = (request.url ?? '').split('?', 1)[0]!.split('/').slice(1);
    const method = request.method === 'PATCH' && path.length % 2 === 0 ? 'POST' : (request.method ?? '');
    return await this.#inTurn(() => this.#route(method, path.map(decoded), text));
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(act);
    this.#turn = result.catch(() => {});
    return result;
  }

  async #route(method: string, path: readonly string[], text: string): Promise<Reply> {
    const [room, name, toxics, toxicName] = path;
    const known = (replies: Record<string, () => Reply | Promise<Reply>>) => replies[method]?.() ?? { status: 405 };
    if (path.length === 1) {
      if (room === 'version') return known({ GET: () => ({ status: 200, body: { version: embeddedVersion } }) });
      if (room === 'reset') return known({ POST: () => this.#reset() });
      if (room === 'populate') return known({ POST: () => this.#populate(text) });
      if (room === 'proxies') return known({ GET: () => this.#list(), POST: () => this.#create(text) });
    }
    const isToxics = toxics === 'toxics' && (path.length === 3 || path.length === 4);
    if (room !== 'proxies' || !(path.length === 2 || isToxics)) return { status: 404, body: '404 page not found' };
    const proxy = this.#proxies.get(name!);
    if (!proxy) return fail(404, 'proxy not found');
    if (path.length === 2) {
      return known({
        GET: () => ({ status: 200, body: told(proxy) }),
        POST: () => updateProxy(proxy, text),
        DELETE: () => this.#remove(proxy),
      });
    }
    if (path.length === 3) {
      return known({ GET: () => ({ status: 200, body: toxicsOf(proxy) }), POST: () => createToxic(proxy, text) });
    }
    const toxic = proxy.toxics.find((each) => each.name === toxicName);
    if (!toxic) return fail(404, 'toxic not found');
    return known({
      GET: () => ({ status: 200, body: toxic }),
      POST: () => updateToxic(proxy, toxic, text),
      DELETE: () => {
        proxy.removeToxic(toxic);
        return { status: 204 };
      },
    });
  }

  #list(): Reply {
    return { status: 200, body: Object.fromEntries([...this.#proxies].map(([name, proxy]) => [name, told(proxy)])) };
  }

  async #create(text: string): Promise<Reply> {
    const input = readProxy(parse(text), { name: '', listen: '', upstream: '', enabled: true });
    if (typeof input === 'string') return badBody(input);
    for (const field of ['name', 'upstream'] as const) {
      if (input[field] === '') return fail(400, `missing required field: ${field}`);
    }
    if (this.#proxies.has(input.name)) return fail(409, 'proxy already exists');
    const proxy = new ToxicProxy(input.name, input.listen, input.upstream);
    const error = input.enabled ? await proxy.start() : null;
    if (error !== null) return fail(500, error);
    this.#proxies.set(proxy.name, proxy);
    return { status: 201, body: told(proxy) };
  }

  async #remove(proxy: ToxicProxy): Promise<Reply> {
    await proxy.stop();
    this.#proxies.delete(proxy.name);
    return { status: 204 };
  }

  async #reset(): Promise<Reply> {
    for (const proxy of this.#proxies.values()) {
      const error = await proxy.start();
      if (error !== null) return fail(500, error);
      for (const toxic of [...proxy.toxics]) proxy.removeToxic(toxic);
    }
    return { status: 204 };
  }

  /** What is there and goes the same way stays as it is; everything else is made anew. */
  async #populate(text: string): Promise<Reply> {
    const failed = ({ status, body }: Reply, proxies: ToxicProxy[] | null) => ({
      status,
      body: { ...(body as object), proxies: proxies?.map(told) ?? null },
    });
    const list = parse(text);
    if (!Array.isArray(list)) return failed(badBody('an array is expected'), null);
    const inputs: ProxyInput[] = [];
    for (const [index, entry] of list.entries()) {
      const input = readProxy(entry, { name: '', listen: '', upstream: '', enabled: true });
      if (typeof input === 'string') return failed(badBody(input), null);
      for (const field of ['name', 'upstream'] as const) {
        if (input[field] === '')
          return failed(fail(400, `missing required field: ${field} at proxy ${index + 1}`), null);
      }
      inputs.push(input);
    }
    const done: ToxicProxy[] = [];
    for (const { name, listen, upstream, enabled } of inputs) {
      let proxy = this.#proxies.get(name);
      if (!proxy || proxy.differs(listen, upstream)) {
        await proxy?.stop();
        proxy = new ToxicProxy(name, listen, upstream);
        const error = enabled ? await proxy.start() : null;
        if (error !== null) return failed(fail(500, error), done);
        this.#proxies.set(name, proxy);
      }
      done.push(proxy);
    }
    return { status: 201, body: { proxies: done.map(told) } };
  }
}

async function updateProxy(proxy: ToxicProxy, text: string): Promise<Reply> {
  const { name, listen, upstream, isEnabled: enabled } = proxy;
  const input = readProxy(parse(text), { name, listen, upstream, enabled });
  if (typeof input === 'string') return badBody(input);
  const address = loopbackAddress(input.listen);
  if (typeof address === 'string') return fail(500, address);
  if (proxy.differs(input.listen, input.upstream)) {
    await proxy.stop();
    proxy.listen = input.listen;
    proxy.upstream = input.upstream;
  }
  if (!input.enabled) await proxy.stop();
  const error = input.enabled ? await proxy.start() : null;
  return error === null ? { status: 200, body: told(proxy) } : fail(500, error);
}

function createToxic(proxy: ToxicProxy, text: string): Reply {
  const input = parse(text);
  if (!isObject(input)) return badBody('an object is expected');
  const { type = '', stream = 'downstream', toxicity = 1 } = input;
  if (typeof type !== 'string' || typeof stream !== 'string' || typeof toxicity !== 'number')
    return badBody('type and stream must be texts, toxicity a number');
  if (!directions.some((direction) => direction === stream.toLowerCase()))
    return fail(400, 'stream was invalid, can be either upstream or downstream');
  const name = input.name || `${type}_${stream}`;
  if (typeof name !== 'string') return badBody('name must be a text');
  if (!Object.hasOwn(toxicAttributes, type)) return fail(400, 'invalid toxic type');
  if (proxy.toxics.some((toxic) => toxic.name === name)) return fail(409, 'toxic already exists');
  const names: readonly string[] = toxicAttributes[type as ToxicType];
  const attributes = readAttributes(input.attributes, Object.fromEntries(names.map((each) => [each, 0])));
  if (typeof attributes === 'string') return badBody(attributes);
  const toxic: Toxic = { attributes, name, type: type as ToxicType, stream, toxicity };
  proxy.addToxic(toxic);
  return { status: 200, body: toxic };
}

function updateToxic(proxy: ToxicProxy, toxic: Toxic, text: string): Reply {
  const input = parse(text);
  if (!isObject(input)) return badBody('an object is expected');
  const { toxicity = toxic.toxicity } = input;
  if (typeof toxicity !== 'number') return badBody('toxicity must be a number');
  const attributes = readAttributes(input.attributes, toxic.attributes);
  if (typeof attributes === 'string') return badBody(attributes);
  Object.assign(toxic.attributes, attributes);
  toxic.toxicity = toxicity;
  proxy.refreshToxic(toxic);
  return { status: 200, body: toxic };
}

const fail = (status: number, error: string): Reply => ({ status, body: { error, status } });
const badBody = (what: string): Reply => fail(400, `bad request body: ${what}`);

const told = (proxy: ToxicProxy) => ({
  name: proxy.name,
  listen: proxy.listen,
  upstream: proxy.upstream,
  enabled: proxy.isEnabled,
  toxics: toxicsOf(proxy),
});

/** Those of the upstream direction come first, as in Toxiproxy. */
const toxicsOf = ({ toxics }: ToxicProxy): Toxic[] =>
  directions.flatMap((direction) => toxics.filter((toxic) => toxic.stream.toLowerCase() === direction));

/** Null if the text is no JSON, which is no valid body anywhere. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A text is what is wrong with it. */
function readProxy(value: unknown, defaults: ProxyInput): ProxyInput | string {
  if (!isObject(value)) return 'an object is expected';
  const { name, listen, upstream, enabled } = { ...defaults, ...value };
  if (typeof name !== 'string' || typeof listen !== 'string' || typeof upstream !== 'string')
    return 'name, listen and upstream must be texts';
  if (typeof enabled !== 'boolean') return 'enabled must be true or false';
  return { name, listen, upstream, enabled };
}

/** Those that have a default, as given; others are ignored, as Toxiproxy does. */
function readAttributes(value: unknown, defaults: Readonly<Record<string, number>>): Record<string, number> | string {
  const attributes = { ...defaults };
  if (value === undefined || value === null) return attributes;
  if (!isObject(value)) return 'attributes must be an object';
  for (const name of Object.keys(defaults)) {
    const given = value[name] ?? defaults[name];
    if (!Number.isSafeInteger(given)) return `attribute ${name} must be a whole number`;
    attributes[name] = given as number;
  }
  return attributes;
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** Null if there is more than a request may have. */
async function readBody(request: IncomingMessage): Promise<string | null> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes <= requestBytesMax) chunks.push(chunk);
  }
  return bytes <= requestBytesMax ? Buffer.concat(chunks).toString() : null;
}
