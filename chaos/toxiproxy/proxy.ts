// One proxy: a listener on the loopback interface, its connections to the upstream, and the toxics between them.
//
// State owned: the listener, both sockets of every connection, and the toxics with their stages. A connection is two streams, one for each
// direction; a stream reads no faster than its destination takes.
//
// Without toxics a chunk goes from socket to socket in one call: a broker's whole load may pass here. The end of one side closes the other
// altogether once it has taken what was sent before, as Toxiproxy does: there are no half-closed connections. Methods that return promises
// are not to be called while another is under way.

import { type AddressInfo, connect, createServer, isIPv4, isIPv6, type Server, type Socket } from 'node:net';
import { createStage, type Direction, type Sink, type Stage, type StageHost, type Toxic } from './toxics.ts';

const socketOptions = {
  /** We close the other side ourselves, and only when the toxics let the end through. */
  allowHalfOpen: true,
  noDelay: true,
  /** Bytes that a socket takes before its source has to wait; larger than a read of Node, or every chunk would stop the source. */
  highWaterMark: 256 * 1024,
};

export interface Address {
  readonly host: string;
  readonly port: number;
}

export class ToxicProxy {
  readonly name: string;
  /** The address as it was asked for; while it is enabled the real one. */
  listen: string;
  upstream: string;
  readonly toxics: Toxic[] = [];
  #server: Server | null = null;
  readonly #connections = new Set<Connection>();

  constructor(name: string, listen: string, upstream: string) {
    this.name = name;
    this.listen = listen;
    this.upstream = upstream;
  }

  get isEnabled(): boolean {
    return this.#server !== null;
  }

  /** What is wrong, if it cannot listen. */
  async start(): Promise<string | null> {
    if (this.#server) return null;
    const address = loopbackAddress(this.listen);
    if (typeof address === 'string') return address;
    const server = createServer({ pauseOnConnect: true, ...socketOptions }, (client) => this.#accept(client));
    const error = await new Promise<Error | null>((resolve) => {
      server.once('error', resolve);
      server.listen({ ...address }, () => resolve(null));
    });
    if (error) return `listen tcp ${this.listen}: ${error.message}`;
    // What fails later, fails one connection.
    server.on('error', () => {});
    this.#server = server;
    const { address: host, port } = server.address() as AddressInfo;
    this.listen = addressText(host, port);
    return null;
  }

  /** Ends all connections; resolves when the port is free. */
  async stop(): Promise<void> {
    const server = this.#server;
    if (!server) return;
    this.#server = null;
    const closed = new Promise((resolve) => server.close(resolve));
    for (const connection of this.#connections) connection.destroy();
    await closed;
  }

  /** Whether it would have to listen, or connect, elsewhere. */
  differs(listen: string, upstream: string): boolean {
    const address = loopbackAddress(listen);
    const same = typeof address !== 'string' && addressText(address.host, address.port) === this.listen;
    return !same || upstream !== this.upstream;
  }

  addToxic(toxic: Toxic): void {
    this.toxics.push(toxic);
    for (const connection of this.#connections) connection.streamOf(toxic)?.add(toxic);
  }

  /** After its attributes or its toxicity were changed. */
  refreshToxic(toxic: Toxic): void {
    for (const connection of this.#connections) connection.streamOf(toxic)?.refresh(toxic, this.toxics);
  }

  removeToxic(toxic: Toxic): void {
    this.toxics.splice(this.toxics.indexOf(toxic), 1);
    for (const connection of this.#connections) connection.streamOf(toxic)?.remove(toxic);
  }

  #accept(client: Socket): void {
    const address = splitAddress(this.upstream);
    if (typeof address === 'string') return void client.destroy();
    const options = { ...address, ...socketOptions };
    const upstream = connect(options);
    const connection = new Connection(client, upstream);
    this.#connections.add(connection);
    // Errors are followed by a close, which says all that matters.
    for (const socket of [client, upstream]) {
      socket.on('error', () => {});
      socket.on('close', () => {
        if (client.destroyed && upstream.destroyed) this.#connections.delete(connection);
      });
    }
    const refuse = () => client.destroy();
    upstream.once('close', refuse);
    upstream.once('connect', () => {
      upstream.off('close', refuse);
      connection.open(this.toxics);
    });
  }
}

class Connection {
  readonly #client: Socket;
  readonly #upstream: Socket;
  #streams: Readonly<Record<Direction, Stream>> | null = null;

  constructor(client: Socket, upstream: Socket) {
    this.#client = client;
    this.#upstream = upstream;
  }

  /** The upstream is there: bytes flow from now on. */
  open(toxics: readonly Toxic[]): void {
    this.#streams = {
      upstream: new Stream(this.#client, this.#upstream),
      downstream: new Stream(this.#upstream, this.#client),
    };
    for (const toxic of toxics) this.streamOf(toxic)?.add(toxic);
    this.#client.resume();
    this.#upstream.resume();
  }

  streamOf(toxic: Toxic): Stream | undefined {
    return this.#streams?.[toxic.stream.toLowerCase() as Direction];
  }

  destroy(): void {
    this.#client.destroy();
    this.#upstream.destroy();
  }
}

/** One direction of a connection: source, stages in the order of their toxics, destination. */
class Stream implements StageHost {
  readonly #source: Socket;
  readonly #destination: Socket;
  readonly #exit: Sink;
  /** The first stage, or the destination. */
  #entry: Sink;
  #stages: { readonly toxic: Toxic; readonly stage: Stage }[] = [];
  #isOver = false;

  constructor(source: Socket, destination: Socket) {
    this.#source = source;
    this.#destination = destination;
    this.#exit = {
      write: (chunk) => {
        if (!this.#isOver) destination.write(chunk);
      },
      end: () => {
        this.#isOver = true;
        destination.destroySoon();
      },
    };
    this.#entry = this.#exit;
    source.on('data', (chunk: Buffer) => {
      this.#entry.write(chunk);
      if (this.#isCongested()) source.pause();
    });
    const end = () => this.#entry.end();
    source.once('end', end).once('close', end);
    destination.on('drain', () => this.eased());
    destination.once('close', () => this.#drop());
  }

  add(toxic: Toxic): void {
    if (this.#isOver || !(Math.random() < toxic.toxicity)) return;
    const stage = createStage(toxic, this.#exit, this);
    if (!stage) return;
    this.#stages.push({ toxic, stage });
    this.#relink();
  }

  /** Whether this connection is one of those affected is decided anew, too. */
  refresh(toxic: Toxic, all: readonly Toxic[]): void {
    const isAffected = Math.random() < toxic.toxicity;
    const present = this.#stages.find((entry) => entry.toxic === toxic);
    if (present && isAffected) present.stage.refresh();
    else if (present) this.remove(toxic);
    else if (isAffected) {
      this.add(toxic);
      this.#stages.sort((a, b) => all.indexOf(a.toxic) - all.indexOf(b.toxic));
      this.#relink();
    }
  }

  remove(toxic: Toxic): void {
    const present = this.#stages.find((entry) => entry.toxic === toxic);
    if (!present) return;
    // First what it holds, to the stage behind it; then what comes from the stage before it.
    present.stage.release();
    this.#stages = this.#stages.filter((entry) => entry !== present);
    this.#relink();
    this.eased();
  }

  reset(): void {
    this.#source.resetAndDestroy();
    this.#destination.resetAndDestroy();
  }

  eased(): void {
    if (!this.#isCongested()) this.#source.resume();
  }

  #isCongested(): boolean {
    if (this.#destination.writableNeedDrain) return true;
    for (const { stage } of this.#stages) if (stage.isFull) return true;
    return false;
  }

  #relink(): void {
    let next = this.#exit;
    for (const { stage } of this.#stages.toReversed()) {
      stage.next = next;
      next = stage;
    }
    this.#entry = next;
  }

  /** The destination is gone. What its source still sends is nobody's. */
  #drop(): void {
    this.#isOver = true;
    for (const { stage } of this.#stages) stage.drop();
    this.#stages = [];
    this.#entry = this.#exit;
    this.#source.resume();
  }
}

/** `host:port`, `[host]:port` or `:port`; a text is what is wrong with it. */
export function splitAddress(text: string): Address | string {
  const match = /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(text);
  if (!match) return `address ${text}: not of the form host:port`;
  const port = Number(match[3]);
  if (port > 65_535) return `address ${text}: invalid port`;
  return { host: match[1] ?? match[2] ?? '', port };
}

/** Where to listen. Faults are nothing to offer to the network, so no other interface is taken. */
export function loopbackAddress(text: string): Address | string {
  const address = splitAddress(text === '' ? ':0' : text);
  if (typeof address === 'string') return address;
  const host = address.host === '' || address.host === 'localhost' ? '127.0.0.1' : address.host;
  if (host !== '::1' && !(isIPv4(host) && host.startsWith('127.')))
    return `listen tcp ${text}: the embedded server listens on the loopback interface only`;
  return { host, port: address.port };
}

export function addressText(host: string, port: number): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}
