// A server over sockets and time in memory, and a client that says exactly what a test wants.

import type { Clock, Connection, Net, Random, Timer } from '../../cluster/index.ts';
import type { AmqpBackend, Arguments } from '../../node/amqp/backend.ts';
import { encodeFrame, FrameReader, FrameType, protocolHeader } from '../../node/amqp/frames.ts';
import { encodeMethod, type Method, readMethod } from '../../node/amqp/methods.ts';
import { type AmqpLog, type AmqpOptions, type AmqpServer, createAmqpServer } from '../../node/amqp/server.ts';
import { FakeBackend } from './fake-backend.ts';

export class FakeClock implements Clock {
  #now = 0;
  #timers: { due: number; task: () => void }[] = [];
  #soon: (() => void)[] = [];

  now(): number {
    return this.#now;
  }
  wall(): number {
    return this.#now;
  }
  after(milliseconds: number, task: () => void): Timer {
    const timer = { due: this.#now + milliseconds, task };
    this.#timers.push(timer);
    return { cancel: () => (this.#timers = this.#timers.filter((other) => other !== timer)) };
  }
  soon(task: () => void): void {
    this.#soon.push(task);
  }
  nextTurn(task: () => void): void {
    this.#soon.push(task);
  }
  /** Runs what was to be done at the end of the turn, and of the turns that follow from it. */
  turn(): void {
    while (this.#soon.length > 0) for (const task of this.#soon.splice(0)) task();
  }
  advance(milliseconds: number): void {
    const end = this.#now + milliseconds;
    for (;;) {
      this.turn();
      const due = this.#timers.filter((timer) => timer.due <= end).sort((a, b) => a.due - b.due)[0];
      if (due === undefined) break;
      this.#timers = this.#timers.filter((timer) => timer !== due);
      this.#now = due.due;
      due.task();
    }
    this.#now = end;
  }
  get timerCount(): number {
    return this.#timers.length;
  }
}

/** Deterministic, and good enough for names. */
export function fakeRandom(): Random {
  let state = 1;
  const next = () => (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0);
  return {
    integer: (bound) => next() % bound,
    bytes: (length) => Buffer.from(Array.from({ length }, () => next() >>> 24)),
  };
}

export class MemorySocket implements Connection {
  readonly remoteAddress = '127.0.0.1:50000';
  readonly localAddress = '127.0.0.1:5672';
  onData: (chunk: Buffer) => void = () => {};
  onDrain: () => void = () => {};
  onClose: (error: Error | null) => void = () => {};
  /** What the server wrote, by write. */
  readonly writes: Buffer[] = [];
  isPaused = false;
  isClosed = false;
  /** While true the socket takes everything and says that it is full. */
  isStuck = false;
  bufferedBytes = 0;
  /** Of what waits, some is taken whenever a test says so. */
  progress = 0;
  onWrite: (bytes: Buffer) => void = () => {};

  write(buffers: readonly Uint8Array[]): boolean {
    if (this.isClosed) throw new Error('write after close');
    const bytes = Buffer.concat(buffers);
    this.writes.push(bytes);
    this.onWrite(bytes);
    if (this.isStuck) this.bufferedBytes += bytes.length;
    return !this.isStuck;
  }
  drain(): void {
    this.isStuck = false;
    this.bufferedBytes = 0;
    this.onDrain();
  }
  pause(): void {
    this.isPaused = true;
  }
  resume(): void {
    this.isPaused = false;
  }
  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.onClose(null);
  }
}

export type Received =
  | { readonly channel: number; readonly method: Method }
  | { readonly channel: number; readonly header: Buffer }
  | { readonly channel: number; readonly body: Buffer }
  | { readonly heartbeat: true }
  | { readonly protocolHeader: boolean };

export const methodFrame = (channel: number, method: Method): Buffer =>
  encodeFrame(FrameType.method, channel, encodeMethod(method));

/** The three frames of a publish; `bodyMax` splits the body. */
export function publishFrames(
  channel: number,
  exchange: string,
  routingKey: string,
  body: Buffer,
  options: { mandatory?: boolean; properties?: Buffer; bodyMax?: number } = {},
): Buffer {
  const properties = options.properties ?? Buffer.from([0x10, 0, 2]);
  const header = Buffer.alloc(12);
  header.writeUInt16BE(60, 0);
  header.writeBigUInt64BE(BigInt(body.length), 4);
  const frames = [
    methodFrame(channel, {
      kind: 'basic.publish',
      ticket: 0,
      exchange,
      routingKey,
      mandatory: options.mandatory ?? false,
      immediate: false,
    }),
    encodeFrame(FrameType.header, channel, Buffer.concat([header, properties])),
  ];
  const bodyMax = options.bodyMax ?? 100_000;
  for (let at = 0; at < body.length; at += bodyMax)
    frames.push(encodeFrame(FrameType.body, channel, body.subarray(at, at + bodyMax)));
  return Buffer.concat(frames);
}

export const fullCapabilities: Arguments = {
  capabilities: {
    table: { authentication_failure_close: true, consumer_cancel_notify: true, 'connection.blocked': true },
  },
};

export class Client {
  readonly socket = new MemorySocket();
  readonly received: Received[] = [];
  readonly #clock: FakeClock;

  constructor(clock: FakeClock) {
    this.#clock = clock;
    const { received } = this;
    let reader = this.#reader();
    let first = true;
    this.socket.onWrite = (bytes) => {
      // A server speaks frames at once; only a refusal is a protocol header.
      if (first && bytes.subarray(0, 4).toString() === 'AMQP') {
        received.push({ protocolHeader: bytes.equals(protocolHeader) });
        return;
      }
      if (first) {
        first = false;
        reader = this.#reader();
        reader.push(protocolHeader);
      }
      reader.push(bytes);
    };
  }

  #reader(): FrameReader {
    const { received } = this;
    return new FrameReader(1 << 20, {
      protocolHeader: () => {},
      chunkDone: () => {},
      broken: (error) => {
        throw error;
      },
      frame: (type, channel, bytes, start, end) => {
        const payload = Buffer.from(bytes.subarray(start, end));
        if (type === FrameType.heartbeat) received.push({ heartbeat: true });
        else if (type === FrameType.header) received.push({ channel, header: payload });
        else if (type === FrameType.body) received.push({ channel, body: payload });
        else received.push({ channel, method: readMethod(payload, 0, payload.length) as Method });
      },
    });
  }

  /** The server sees these bytes as one chunk; then its turn ends. */
  bytes(...pieces: Buffer[]): this {
    if (this.socket.isClosed) throw new Error('the server closed the socket');
    this.socket.onData(Buffer.concat(pieces));
    this.#clock.turn();
    return this;
  }
  send(channel: number, ...methods: Method[]): this {
    return this.bytes(...methods.map((method) => methodFrame(channel, method)));
  }
  publish(channel: number, exchange: string, routingKey: string, body: string | Buffer, mandatory = false): this {
    return this.bytes(publishFrames(channel, exchange, routingKey, Buffer.from(body), { mandatory }));
  }
  /** What came since the last call. */
  take(): Received[] {
    return this.received.splice(0);
  }
  /** The methods that came since the last call, on any channel. */
  methods(): Method[] {
    return this.take().flatMap((item) => ('method' in item ? [item.method] : []));
  }

  handshake(
    options: {
      frameMax?: number;
      channelMax?: number;
      heartbeat?: number;
      properties?: Arguments;
      vhost?: string;
    } = {},
  ): this {
    this.bytes(protocolHeader);
    this.send(0, startOk('guest', 'guest', options.properties ?? fullCapabilities));
    const { channelMax = 0, frameMax = 0, heartbeat = 0 } = options;
    this.send(0, { kind: 'connection.tune-ok', channelMax, frameMax, heartbeat });
    this.send(0, { kind: 'connection.open', virtualHost: options.vhost ?? '/', reserved1: '', reserved2: true });
    return this;
  }
  /** Opens channels and forgets what came so far. */
  channels(...numbers: number[]): this {
    for (const number of numbers) this.send(number, { kind: 'channel.open', reserved1: '' });
    this.take();
    return this;
  }
}

export const startOk = (user: string, password: string, clientProperties: Arguments): Method => ({
  kind: 'connection.start-ok',
  clientProperties,
  mechanism: 'PLAIN',
  response: Buffer.from(`\0${user}\0${password}`),
  locale: 'en_US',
});

export const declare = (queue: string, nowait = false): Method => ({
  kind: 'queue.declare',
  ticket: 0,
  queue,
  passive: false,
  durable: true,
  exclusive: false,
  autoDelete: false,
  nowait,
  arguments: {},
});

export const consume = (queue: string, consumerTag: string, noAck = false): Method => ({
  kind: 'basic.consume',
  ticket: 0,
  queue,
  consumerTag,
  noLocal: false,
  noAck,
  exclusive: false,
  nowait: false,
  arguments: {},
});

export const quietLog = { debug() {}, info() {}, warn() {} };

export interface Harness<Backend = FakeBackend> {
  readonly backend: Backend;
  readonly clock: FakeClock;
  readonly server: AmqpServer;
  /** A client whose socket the server has accepted. */
  connect(): Client;
}

export const harness = (options: Partial<AmqpOptions> = {}, log: AmqpLog = quietLog): Promise<Harness> =>
  serve(new FakeBackend(), options, log);

export async function serve<Backend extends AmqpBackend>(
  backend: Backend,
  options: Partial<AmqpOptions> = {},
  log: AmqpLog = quietLog,
): Promise<Harness<Backend>> {
  const clock = new FakeClock();
  let accept: (socket: Connection) => void = () => {};
  const net: Net = {
    listen: async (_address, onConnection) => {
      accept = onConnection;
      return { port: 5672, close: async () => {} };
    },
    connect: () => {
      throw new Error('the front-end connects to nobody');
    },
  };
  const server = createAmqpServer(options, { net, clock, random: fakeRandom() }, backend, log);
  await server.listen([{ host: '127.0.0.1', port: 5672 }]);
  return {
    backend,
    clock,
    server,
    connect() {
      const client = new Client(clock);
      accept(client.socket);
      return client;
    },
  };
}
