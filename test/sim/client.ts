// A small AMQP 0-9-1 client over a simulated connection: what a real client does on the wire, told by callbacks in the order of the frames.
//
// State owned: one connection, its channels, calls that wait for their answers, and messages whose frames are still coming.
// Invariants: a call is answered exactly once: by its reply, by the channel.close that names it, or by null when its
// channel ended for another reason; after `closed` nothing else is told.
// It shares the codecs with the broker and nothing else: what is to be sent and what an answer means is decided here anew.

import type { Address, Clock, Connection, Net, Timer } from '../../cluster/ports.ts';
import {
  encodeFrame,
  FrameReader,
  type FrameSink,
  FrameType,
  frameOverheadBytes,
  heartbeatFrame,
  protocolHeader,
} from '../../node/amqp/frames.ts';
import { encodeMethod, idOf, type Method, type MethodArguments, readMethod } from '../../node/amqp/methods.ts';

const frameBytesMax = 131_072;
const contentClass = 60;

export interface Content {
  /** Flags and list, as in a content header. */
  readonly properties: Buffer;
  readonly body: Buffer;
}
export type Delivery = MethodArguments<'basic.deliver'> & Content;

export interface ConnectionHandlers {
  opened(): void;
  /** Once, whatever the reason; channels were told before. */
  closed(reason: string): void;
}

export interface ChannelHandlers {
  delivered?(delivery: Delivery): void;
  confirmed?(tag: number, multiple: boolean, ok: boolean): void;
  returned?(returned: MethodArguments<'basic.return'> & Content): void;
  /** The broker ended a consumer. */
  cancelled?(consumerTag: string): void;
  /** Once: by the broker (its code and text), by this side, or with its connection. `code` 0: not by the broker. */
  closed?(code: number, text: string): void;
}

export interface ClientOptions {
  /** As the broker is told. */
  readonly heartbeatSeconds: number;
  /** The same by this client's clock; 0: none. A peer that is silent for two intervals is given up. */
  readonly heartbeatMilliseconds: number;
  readonly connectMilliseconds: number;
}

export type Reply = Method | (Method & Content);
type Answer = (reply: Reply | null) => void;

interface Call {
  readonly id: number;
  readonly answer: Answer;
}

export class ClientConnection implements FrameSink {
  readonly node: number;
  readonly #handlers: ConnectionHandlers;
  readonly #options: ClientOptions;
  readonly #clock: Clock;
  readonly #reader = new FrameReader(frameBytesMax - frameOverheadBytes, this);
  readonly #channels = new Map<number, ClientChannel>();
  #socket: Connection | null = null;
  #isOpen = false;
  #isClosed = false;
  #isBlocked = false;
  #unwritten: Buffer[] = [];
  #deadline: Timer | null;
  #heartbeat: Timer | null = null;
  #heardSince = true;
  #silentTicks = 0;
  #nextChannel = 1;

  constructor(
    net: Net,
    clock: Clock,
    address: Address & { readonly node: number },
    options: ClientOptions,
    handlers: ConnectionHandlers,
  ) {
    this.node = address.node;
    this.#clock = clock;
    this.#options = options;
    this.#handlers = handlers;
    this.#deadline = clock.after(options.connectMilliseconds, () => this.#end('not open in time'));
    net.connect(address, (error, socket) => {
      if (this.#isClosed) return socket?.close();
      if (socket === null) return this.#end(error?.message ?? 'no connection');
      this.#socket = socket;
      socket.onData = (chunk) => {
        this.#heardSince = true;
        this.#reader.push(chunk);
      };
      socket.onClose = (closed) => this.#end(closed === null ? 'the broker closed the socket' : closed.message);
      // A broker sends no protocol header, but for one that says that it does not understand ours.
      this.#reader.push(protocolHeader);
      socket.write([protocolHeader]);
    });
  }

  get isOpen(): boolean {
    return this.#isOpen && !this.#isClosed;
  }
  /** connection.blocked: the broker asks its publishers to wait. */
  get isBlocked(): boolean {
    return this.#isBlocked;
  }

  openChannel(handlers: ChannelHandlers): ClientChannel {
    const channel = new ClientChannel(this.#nextChannel++, this, handlers);
    this.#channels.set(channel.number, channel);
    channel.call({ kind: 'channel.open', reserved1: '' }, () => {});
    return channel;
  }

  /** As a client that ends in order. */
  close(): void {
    if (!this.#isOpen) return this.drop();
    this.send(0, { kind: 'connection.close', replyCode: 200, replyText: 'bye', classId: 0, methodId: 0 });
    this.#isOpen = false;
    this.#endChannels('closed by the client');
    this.#deadline = this.#clock.after(this.#options.connectMilliseconds, () => this.#end('no answer to close'));
  }

  /** As a client that dies: without a word. */
  drop(): void {
    this.#end('dropped by the client');
  }

  // ---- for channels

  send(channel: number, method: Method): void {
    this.write(encodeFrame(FrameType.method, channel, encodeMethod(method)));
  }

  /** Frames of one turn leave together, as with a socket that is corked. */
  write(frame: Buffer): void {
    if (this.#isClosed || this.#socket === null) return;
    this.#unwritten.push(frame);
    if (this.#unwritten.length > 1) return;
    this.#clock.soon(() => {
      const frames = this.#unwritten;
      this.#unwritten = [];
      if (!this.#isClosed) this.#socket!.write(frames);
    });
  }

  forget(channel: number): void {
    this.#channels.delete(channel);
  }

  // ---- FrameSink

  protocolHeader(): void {}
  chunkDone(): void {}
  broken(): void {
    this.#end('the broker sent no frames');
  }

  frame(type: number, channel: number, bytes: Buffer, start: number, end: number): void {
    if (type === FrameType.heartbeat || this.#isClosed) return;
    if (channel !== 0) return this.#channels.get(channel)?.frame(type, bytes, start, end);
    const method = readMethod(bytes, start, end);
    if (typeof method === 'string') return this.#end(`the broker sent a method that is ${method}`);
    this.#handshake(method);
  }

  #handshake(method: Method): void {
    switch (method.kind) {
      case 'connection.start': {
        const capabilities = {
          table: {
            'basic.nack': true,
            consumer_cancel_notify: true,
            'connection.blocked': true,
            publisher_confirms: true,
          },
        };
        return this.send(0, {
          kind: 'connection.start-ok',
          clientProperties: { product: 'simulated client', capabilities },
          mechanism: 'PLAIN',
          response: Buffer.from('\0guest\0guest'),
          locale: 'en_US',
        });
      }
      case 'connection.tune': {
        const { heartbeatSeconds } = this.#options;
        const { channelMax } = method;
        this.send(0, { kind: 'connection.tune-ok', channelMax, frameMax: frameBytesMax, heartbeat: heartbeatSeconds });
        return this.send(0, { kind: 'connection.open', virtualHost: '/', reserved1: '', reserved2: false });
      }
      case 'connection.open-ok':
        this.#isOpen = true;
        this.#deadline?.cancel();
        this.#deadline = null;
        this.#scheduleHeartbeat();
        return this.#handlers.opened();
      case 'connection.close':
        this.send(0, { kind: 'connection.close-ok' });
        return this.#end(`${method.replyCode} ${method.replyText}`, method.replyCode);
      case 'connection.close-ok':
        return this.#end('closed by the client');
      case 'connection.blocked':
        this.#isBlocked = true;
        return;
      case 'connection.unblocked':
        this.#isBlocked = false;
        return;
      default:
        return this.#end(`the broker sent ${method.kind}`);
    }
  }

  #scheduleHeartbeat(): void {
    const { heartbeatMilliseconds } = this.#options;
    if (heartbeatMilliseconds === 0) return;
    this.#heartbeat = this.#clock.after(heartbeatMilliseconds / 2, () => {
      this.#silentTicks = this.#heardSince ? 0 : this.#silentTicks + 1;
      this.#heardSince = false;
      if (this.#silentTicks >= 4) return this.#end('the broker is silent');
      this.write(heartbeatFrame);
      this.#scheduleHeartbeat();
    });
  }

  #endChannels(reason: string, code = 0): void {
    const channels = [...this.#channels.values()];
    this.#channels.clear();
    for (const channel of channels) channel.end(code, reason);
  }

  #end(reason: string, code = 0): void {
    if (this.#isClosed) return;
    // Last words, such as a close-ok, still leave.
    if (this.#unwritten.length > 0) this.#socket?.write(this.#unwritten.splice(0));
    this.#isClosed = true;
    this.#isOpen = false;
    this.#deadline?.cancel();
    this.#heartbeat?.cancel();
    this.#reader.stop();
    this.#socket?.close();
    this.#endChannels(reason, code);
    this.#handlers.closed(reason);
  }
}

export class ClientChannel {
  readonly number: number;
  readonly #connection: ClientConnection;
  readonly #handlers: ChannelHandlers;
  readonly #waiting: Call[] = [];
  #isClosed = false;
  #publishes = 0;
  /** A method whose header and body frames follow. */
  #content: { readonly method: Method; properties: Buffer | null; missing: number; readonly pieces: Buffer[] } | null =
    null;

  constructor(number: number, connection: ClientConnection, handlers: ChannelHandlers) {
    this.number = number;
    this.#connection = connection;
    this.#handlers = handlers;
  }

  get isOpen(): boolean {
    return !this.#isClosed;
  }

  /** A method that has an answer. Answers come in the order of the calls. */
  call(method: Method, answer: Answer): void {
    if (this.#isClosed) return answer(null);
    this.#waiting.push({ id: idOf(method.kind), answer });
    this.#connection.send(this.number, method);
  }

  /** Returns its sequence number, which its confirm names once `confirm.select` was asked for. */
  publish(exchange: string, routingKey: string, properties: Buffer, body: Buffer, mandatory = false): number {
    const method = { kind: 'basic.publish', ticket: 0, exchange, routingKey, mandatory, immediate: false } as const;
    this.#connection.send(this.number, method);
    const head = Buffer.alloc(12);
    head.writeUInt16BE(contentClass, 0);
    head.writeUInt32BE(body.length, 8);
    this.#connection.write(encodeFrame(FrameType.header, this.number, Buffer.concat([head, properties])));
    const pieceBytes = frameBytesMax - frameOverheadBytes;
    for (let at = 0; at < body.length; at += pieceBytes)
      this.#connection.write(encodeFrame(FrameType.body, this.number, body.subarray(at, at + pieceBytes)));
    return ++this.#publishes;
  }

  ack(deliveryTag: number, multiple = false): void {
    this.#send({ kind: 'basic.ack', deliveryTag, multiple });
  }
  nack(deliveryTag: number, requeue: boolean, multiple = false): void {
    this.#send({ kind: 'basic.nack', deliveryTag, multiple, requeue });
  }
  reject(deliveryTag: number, requeue: boolean): void {
    this.#send({ kind: 'basic.reject', deliveryTag, requeue });
  }

  close(): void {
    if (this.#isClosed) return;
    this.#send({ kind: 'channel.close', replyCode: 200, replyText: 'bye', classId: 0, methodId: 0 });
    this.end(0, 'closed by the client');
  }

  /** Ends without a word: its connection has ended, or closes. */
  end(code: number, text: string): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const { answer } of this.#waiting.splice(0)) answer(null);
    this.#handlers.closed?.(code, text);
  }

  frame(type: number, bytes: Buffer, start: number, end: number): void {
    if (this.#isClosed) {
      // Only the answer to our close still counts.
      if (type === FrameType.method) this.#connection.forget(this.number);
      return;
    }
    if (type === FrameType.method) return this.#method(readMethod(bytes, start, end));
    const content = this.#content;
    if (content === null) throw new Error('the broker sent content without a method');
    if (type === FrameType.header) {
      content.missing = bytes.readUInt32BE(start + 4) * 2 ** 32 + bytes.readUInt32BE(start + 8);
      content.properties = Buffer.from(bytes.subarray(start + 12, end));
    } else {
      content.missing -= end - start;
      content.pieces.push(Buffer.from(bytes.subarray(start, end)));
    }
    if (content.missing < 0) throw new Error('the broker sent a longer body than it said');
    if (content.missing > 0 || content.properties === null) return;
    this.#content = null;
    const [piece] = content.pieces;
    const body = content.pieces.length === 1 ? piece! : Buffer.concat(content.pieces);
    this.#whole({ ...content.method, properties: content.properties, body });
  }

  #method(method: Method | string): void {
    if (typeof method === 'string') throw new Error(`the broker sent a method that is ${method}`);
    switch (method.kind) {
      case 'basic.deliver':
      case 'basic.return':
      case 'basic.get-ok':
        this.#content = { method, properties: null, missing: 0, pieces: [] };
        return;
      case 'basic.ack':
        return this.#handlers.confirmed?.(method.deliveryTag, method.multiple, true);
      case 'basic.nack':
        return this.#handlers.confirmed?.(method.deliveryTag, method.multiple, false);
      case 'basic.cancel':
        return this.#handlers.cancelled?.(method.consumerTag);
      case 'channel.close':
        this.#send({ kind: 'channel.close-ok' });
        this.#connection.forget(this.number);
        // Methods are done in order, so only the oldest call can have failed; or a publish did, which waits for nothing.
        if (this.#waiting[0]?.id === method.classId * 0x1_0000 + method.methodId) this.#waiting.shift()!.answer(method);
        return this.end(method.replyCode, method.replyText);
      default: {
        const call = this.#waiting.shift();
        if (call === undefined) throw new Error(`the broker sent ${method.kind}, which nobody asked for`);
        call.answer(method);
      }
    }
  }

  #whole(message: Method & Content): void {
    if (message.kind === 'basic.deliver') this.#handlers.delivered?.(message);
    else if (message.kind === 'basic.return') this.#handlers.returned?.(message);
    else this.#waiting.shift()!.answer(message);
  }

  #send(method: Method): void {
    if (!this.#isClosed) this.#connection.send(this.number, method);
  }
}
