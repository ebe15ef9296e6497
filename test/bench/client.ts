// The load generator's AMQP 0-9-1 client: one connection with one channel, as lean as the wire allows. Bodies are counted and
// skipped, never joined; nothing is allocated per delivery or confirm. Heartbeats are off and deliveries hold no properties:
// this measures brokers, it is no client for applications.
//
// State owned: the socket and the one call that waits for its reply.

import net from 'node:net';
import {
  frameEnd,
  frameHeaderBytes,
  frameType,
  longString,
  messageFrames,
  method,
  methodFrame,
  octet,
  settleFrame,
  shortString,
  type Table,
  table,
  uint16,
  uint32,
} from './wire.ts';

/** Bits of queue.declare. */
const queueFlags = { durable: 2, exclusive: 4, transient: 0 } as const;
const channel = 1;
const frameBytesMax = 131_072;
const connectMillisecondsMax = 10_000;

interface Waiter {
  readonly reply: number;
  readonly resolve: (payload: Buffer) => void;
  readonly reject: (error: Error) => void;
}

export class Client {
  /** A whole message has arrived. */
  onDelivery: (deliveryTag: number, redelivered: boolean) => void = () => {};
  onConfirm: (tag: number, multiple: boolean, ok: boolean) => void = () => {};
  /** Every frame of what the socket gave at once has been handled: the moment to write. */
  onTurn: () => void = () => {};
  onDrain: () => void = () => {};
  /** The connection ended without `close`. */
  onLost: (error: Error) => void = (error) => {
    throw error;
  };

  readonly #url: URL;
  readonly #socket: net.Socket;
  #frameMax = frameBytesMax;
  #waiter: Waiter | null = null;
  #closing = false;
  #lost: Error | null = null;
  /** A frame that came in pieces; bodies never do, they are skipped. */
  #carry = Buffer.alloc(4096);
  #carryBytes = 0;
  #skipBytes = 0;
  #bodyBytesLeft = 0;
  #deliveryTag = 0;
  #redelivered = false;

  static async connect(url: string): Promise<Client> {
    const parsed = new URL(url);
    const socket = net.connect({ host: parsed.hostname, port: Number(parsed.port || 5672), noDelay: true });
    const client = new Client(parsed, socket);
    const timer = setTimeout(
      () => socket.destroy(new Error(`no answer from ${parsed.host} within ${connectMillisecondsMax} ms`)),
      connectMillisecondsMax,
    );
    try {
      await client.#open();
    } finally {
      clearTimeout(timer);
    }
    return client;
  }

  private constructor(url: URL, socket: net.Socket) {
    this.#url = url;
    this.#socket = socket;
    socket.on('data', (chunk) => this.#receive(chunk));
    socket.on('drain', () => this.onDrain());
    socket.on('error', (error) => this.#lose(error));
    socket.on('close', () => this.#lose(new Error(`connection closed by ${url.host}`)));
  }

  /** False while the socket has enough to send; then `onDrain` follows. */
  get writable(): boolean {
    return !this.#socket.writableNeedDrain && this.#lost === null;
  }

  write(bytes: Buffer): boolean {
    return this.#socket.write(bytes);
  }

  async declareQueue(name: string, args: Table, kind: keyof typeof queueFlags = 'durable'): Promise<void> {
    const flags = octet(queueFlags[kind]);
    await this.#call(method.queueDeclare, method.queueDeclareOk, uint16(0), shortString(name), flags, table(args));
  }

  /** Messages ready in the queue. */
  async countReady(name: string): Promise<number> {
    const passive = octet(1);
    const fields = [uint16(0), shortString(name), passive, table({})];
    const reply = await this.#call(method.queueDeclare, method.queueDeclareOk, ...fields);
    return reply.readUInt32BE(5 + reply[4]!);
  }

  async purgeQueue(name: string): Promise<void> {
    await this.#call(method.queuePurge, method.queuePurgeOk, uint16(0), shortString(name), octet(0));
  }

  /** Asks for no reply: the yardstick pipeline that stands in for a broker knows no queue.delete. */
  deleteQueue(name: string): void {
    const noWait = octet(4);
    this.write(methodFrame(channel, method.queueDelete, uint16(0), shortString(name), noWait));
  }

  async selectConfirms(): Promise<void> {
    await this.#call(method.confirmSelect, method.confirmSelectOk, octet(0));
  }

  async consume(queue: string, prefetch: number): Promise<void> {
    await this.#call(method.basicQos, method.basicQosOk, uint32(0), uint16(prefetch), octet(0));
    const fields = [uint16(0), shortString(queue), shortString(''), octet(0), table({})];
    await this.#call(method.basicConsume, method.basicConsumeOk, ...fields);
  }

  /** The frames of one message for this connection, to be written as often as wanted. */
  prepare(queue: string, bodyBytes: number, expiration?: string): Buffer {
    return messageFrames(channel, queue, bodyBytes, this.#frameMax, expiration);
  }

  settleUpTo(deliveryTag: number): void {
    this.write(settleFrame(channel, deliveryTag));
  }

  /** Sends connection.close and waits a little for the answer. */
  async close(): Promise<void> {
    if (this.#lost) return;
    this.#closing = true;
    const fields = [uint16(200), shortString('done'), uint16(0), uint16(0)];
    this.write(methodFrame(0, method.connectionClose, ...fields));
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, 300);
      this.#socket.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
    });
    this.#socket.destroy();
  }

  async #open(): Promise<void> {
    const user = decodeURIComponent(this.#url.username || 'guest');
    const password = decodeURIComponent(this.#url.password || 'guest');
    const vhost = decodeURIComponent(this.#url.pathname.slice(1)) || '/';
    const started = this.#expect(method.connectionStart);
    this.write(Buffer.from('AMQP\x00\x00\x09\x01', 'latin1'));
    await started;
    const properties = table({ product: 'warren bench', capabilities: { authentication_failure_close: true } });
    const login = [properties, shortString('PLAIN'), longString(`\0${user}\0${password}`)];
    const tuned = this.#expect(method.connectionTune);
    this.write(methodFrame(0, method.connectionStartOk, ...login, shortString('en_US')));
    const tune = await tuned;
    this.#frameMax = Math.min(tune.readUInt32BE(6) || frameBytesMax, frameBytesMax);
    const channelMax = tune.readUInt16BE(4) || 2047;
    const opened = this.#expect(method.connectionOpenOk);
    this.write(methodFrame(0, method.connectionTuneOk, uint16(channelMax), uint32(this.#frameMax), uint16(0)));
    this.write(methodFrame(0, method.connectionOpen, shortString(vhost), shortString(''), octet(0)));
    await opened;
    await this.#call(method.channelOpen, method.channelOpenOk, shortString(''));
  }

  #call(id: number, reply: number, ...fields: Buffer[]): Promise<Buffer> {
    const answered = this.#expect(reply);
    this.write(methodFrame(channel, id, ...fields));
    return answered;
  }

  #expect(reply: number): Promise<Buffer> {
    if (this.#lost) return Promise.reject(this.#lost);
    if (this.#waiter) throw new Error('a call is already waiting for its reply');
    return new Promise((resolve, reject) => {
      this.#waiter = { reply, resolve, reject };
    });
  }

  #lose(error: Error): void {
    if (this.#lost) return;
    this.#lost = error;
    this.#socket.destroy();
    const waiter = this.#waiter;
    this.#waiter = null;
    if (waiter) waiter.reject(error);
    else if (!this.#closing) this.onLost(error);
  }

  #receive(chunk: Buffer): void {
    const end = chunk.length;
    let at = 0;
    while (at < end) {
      if (this.#skipBytes > 0) {
        const skipped = Math.min(this.#skipBytes, end - at);
        at += skipped;
        this.#skipBytes -= skipped;
        if (this.#skipBytes === 0) this.#bodyEnded();
      } else if (this.#carryBytes > 0) {
        at = this.#completeCarried(chunk, at);
      } else {
        if (end - at < frameHeaderBytes) {
          this.#carryBytes = chunk.copy(this.#carry, 0, at);
          break;
        }
        const length = chunk.readUInt32BE(at + 3);
        const whole = length + frameHeaderBytes + 1;
        if (chunk[at] === frameType.body) {
          this.#bodyBytesLeft -= length;
          if (end - at >= whole) {
            at += whole;
            this.#bodyEnded();
          } else {
            this.#skipBytes = whole - (end - at);
            at = end;
          }
        } else if (end - at >= whole) {
          this.#handle(chunk, at, length);
          at += whole;
        } else {
          if (this.#carry.length < whole) this.#carry = Buffer.alloc(whole);
          this.#carryBytes = chunk.copy(this.#carry, 0, at);
          break;
        }
      }
    }
    this.onTurn();
  }

  /** Adds to the frame that began in an earlier chunk; returns where the chunk goes on. */
  #completeCarried(chunk: Buffer, at: number): number {
    const headerMissing = this.#carryBytes < frameHeaderBytes;
    const wanted = headerMissing ? frameHeaderBytes : this.#carry.readUInt32BE(3) + frameHeaderBytes + 1;
    const taken = chunk.copy(this.#carry, this.#carryBytes, at, at + wanted - this.#carryBytes);
    this.#carryBytes += taken;
    if (this.#carryBytes < wanted) return at + taken;
    const length = this.#carry.readUInt32BE(3);
    if (!headerMissing) {
      this.#carryBytes = 0;
      this.#handle(this.#carry, 0, length);
    } else if (this.#carry[0] === frameType.body) {
      this.#carryBytes = 0;
      this.#bodyBytesLeft -= length;
      this.#skipBytes = length + 1;
    } else if (this.#carry.length < length + frameHeaderBytes + 1) {
      const larger = Buffer.alloc(length + frameHeaderBytes + 1);
      this.#carry.copy(larger, 0, 0, frameHeaderBytes);
      this.#carry = larger;
    }
    return at + taken;
  }

  #bodyEnded(): void {
    if (this.#bodyBytesLeft === 0) this.onDelivery(this.#deliveryTag, this.#redelivered);
  }

  /** A whole frame that is not a body: header at `at`, payload of `length` bytes behind it. */
  #handle(bytes: Buffer, at: number, length: number): void {
    const payload = at + frameHeaderBytes;
    if (bytes[payload + length] !== frameEnd) throw new Error(`frame without end from ${this.#url.host}`);
    if (bytes[at] === frameType.header) {
      this.#bodyBytesLeft = bytes.readUInt32BE(payload + 8);
      if (this.#bodyBytesLeft === 0) this.#bodyEnded();
      return;
    }
    if (bytes[at] !== frameType.method) return;
    const id = bytes.readUInt32BE(payload);
    if (id === method.basicDeliver) {
      const tag = payload + 5 + bytes[payload + 4]!;
      this.#deliveryTag = readTag(bytes, tag);
      this.#redelivered = bytes[tag + 8] === 1;
    } else if (id === method.basicAck || id === method.basicNack) {
      this.onConfirm(readTag(bytes, payload + 4), (bytes[payload + 12]! & 1) === 1, id === method.basicAck);
    } else {
      this.#control(id, Buffer.from(bytes.subarray(payload, payload + length)));
    }
  }

  #control(id: number, payload: Buffer): void {
    if (id === this.#waiter?.reply) {
      const waiter = this.#waiter;
      this.#waiter = null;
      waiter.resolve(payload);
    } else if (id === method.channelClose || id === method.connectionClose) {
      const text = payload.toString('utf8', 7, 7 + payload[6]!);
      this.#lose(new Error(`${this.#url.host} closed with ${payload.readUInt16BE(4)} ${text}`));
    } else if (id === method.connectionCloseOk) {
      this.#socket.destroy();
    } else if (id === method.basicCancel) {
      this.#lose(new Error(`${this.#url.host} cancelled the consumer`));
    }
  }
}

function readTag(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * 0x1_0000_0000 + bytes.readUInt32BE(at + 4);
}
