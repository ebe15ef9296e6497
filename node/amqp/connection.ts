// One connection: handshake, frames to their channels, and every way to end.
//
// PURE. State owned: where the connection stands in its life, what was negotiated, its channels. Life:
//
//   header → start → authenticating → tune → open → running → closing → closed
//
// (each named after what it waits for; `closing`: for the client's close-ok, or, when the client closes, until the broker is done with what it
// held). Invariants: frames other than on channel 0 are looked at only while
// running; after our connection.close only its answer counts; the broker's connection is closed exactly once, when the connection stops running;
// nothing is written once closed.

import type { Arguments } from '../../cluster/index.ts';
import { BrokerError } from '../errors.ts';
import type { AmqpBackend, ConnectionBackend, ConnectionEvents } from './backend.ts';
import { readU32 } from './bytes.ts';
import { Channel, type ChannelHost } from './channel.ts';
import type { Counters } from './counters.ts';
import { isMechanism, mechanisms, readCredentials } from './credentials.ts';
import {
  describePayload,
  FrameReader,
  type FrameSink,
  FrameType,
  frameBytesMin,
  frameOverheadBytes,
  protocolHeader,
  undecodable,
} from './frames.ts';
import { idOf, type Method, type MethodArguments, type MethodId, methodId, readMethod } from './methods.ts';
import type { AmqpOptions } from './options.ts';
import { FrameWriter } from './writer.ts';

export type ConnectionLife = 'header' | 'start' | 'authenticating' | 'tune' | 'open' | 'running' | 'closing' | 'closed';

/** Why a socket is not read. */
export type PauseReason = 'broker' | 'backlog' | 'replies' | 'rest';

/** What a connection needs of its session. */
export interface ConnectionHost {
  readonly remoteAddress: string;
  readonly counters: Counters;
  readonly isStuffed: boolean;
  /** Something is to be written at the end of the turn. */
  wake(): void;
  setPaused(reason: PauseReason, paused: boolean): void;
  /** The socket is not read for a while. */
  rest(milliseconds: number): void;
  /** Unpredictable, for names: letters, digits, - and _. */
  makeName(): string;
  /** 0: none. */
  startHeartbeats(seconds: number): void;
  lifeChanged(life: ConnectionLife, error: BrokerError | null): void;
}

const copyright = 'Apache License 2.0';
const serverCapabilities: Arguments = {
  publisher_confirms: true,
  exchange_exchange_bindings: true,
  'basic.nack': true,
  consumer_cancel_notify: true,
  'connection.blocked': true,
  consumer_priorities: true,
  authentication_failure_close: true,
  per_consumer_qos: true,
  direct_reply_to: true,
};

export class AmqpConnection implements FrameSink, ChannelHost, ConnectionEvents {
  readonly writer: FrameWriter;
  user = '';
  vhost = '';
  readonly #options: AmqpOptions;
  readonly #backend: AmqpBackend;
  readonly #host: ConnectionHost;
  readonly #reader: FrameReader;
  #life: ConnectionLife = 'header';
  #bytesBeforeLogin = 0;
  #clientProperties: Arguments = {};
  #capabilities: Arguments = {};
  #channelMax = 0;
  #connection: ConnectionBackend | null = null;
  #isBlocked = false;
  /** The client closes, and waits for our answer. */
  #owesCloseOk = false;

  /** By number: any of 16 bits, for channel-max bounds how many are open, not their numbers. */
  readonly #channels = new Map<number, Channel>();
  /** The channel of the last frame, and those that had frames in this chunk. */
  #current: Channel | undefined;
  #touched: Channel[] = [];
  #withConfirms: Channel[] = [];
  #backlogBytes = 0;
  #heldBytes = 0;
  /** Read since the last rest, with more held than needs none. */
  #bytesSinceRest = 0;

  constructor(options: AmqpOptions, backend: AmqpBackend, host: ConnectionHost) {
    this.#options = options;
    this.#backend = backend;
    this.#host = host;
    this.writer = new FrameWriter(() => host.wake());
    this.#reader = new FrameReader(options.handshakeFrameMax - frameOverheadBytes, this);
  }

  get life(): ConnectionLife {
    return this.#life;
  }
  get isStuffed(): boolean {
    return this.#host.isStuffed;
  }
  get counters(): Counters {
    return this.#host.counters;
  }
  get channelCount(): number {
    return this.#channels.size;
  }
  get messageBytesMax(): number {
    return this.#options.messageBytesMax;
  }
  get consumersPerChannelMax(): number {
    return this.#options.consumersPerChannelMax;
  }
  get cancelNotify(): boolean {
    return this.#capabilities.consumer_cancel_notify === true;
  }
  makeConsumerTag(): string {
    return `amq.ctag-${this.#host.makeName()}`;
  }

  // ---- from the socket

  push(chunk: Buffer): void {
    if (this.#life === 'closing' && this.#reader.isStopped) {
      // The stream could not be followed any more; the client's answer is still recognisable.
      if (chunk.includes(closeOkFrame)) this.#setLife('closed');
      return;
    }
    if (this.#life === 'header' || this.#life === 'start' || this.#life === 'authenticating') {
      this.#bytesBeforeLogin += chunk.length;
      if (this.#bytesBeforeLogin > this.#options.preAuthBytesMax) return this.#setLife('closed');
    }
    this.#connection?.received();
    this.#reader.push(chunk);
    this.#restIfDue(chunk.length);
  }

  /** A large body comes as fast as it can be read, and others wait. */
  #restIfDue(bytes: number): void {
    const { largeBytesAtOnce, largeRestMilliseconds: milliseconds } = this.#options;
    if (this.#heldBytes <= largeBytesAtOnce) {
      this.#bytesSinceRest = 0;
      return;
    }
    this.#bytesSinceRest += bytes;
    if (this.#bytesSinceRest < largeBytesAtOnce) return;
    this.#bytesSinceRest = 0;
    if (milliseconds > 0 && this.#connection?.isBusy === true) this.#host.rest(milliseconds);
  }

  protocolHeader(matches: boolean): void {
    if (!matches) {
      this.writer.raw(protocolHeader);
      return this.#setLife('closed');
    }
    this.#send({
      kind: 'connection.start',
      versionMajor: 0,
      versionMinor: 9,
      serverProperties: {
        capabilities: { table: serverCapabilities },
        cluster_name: this.#options.clusterName,
        copyright,
        information: `${this.#options.platform}, compatible with ${this.#options.product} ${this.#options.version}`,
        platform: this.#options.platform,
        product: this.#options.product,
        version: this.#options.version,
      },
      mechanisms: Buffer.from(mechanisms.join(' ')),
      locales: Buffer.from('en_US'),
    });
    this.#setLife('start');
  }

  frame(type: number, number: number, bytes: Buffer, start: number, end: number): void {
    if (number !== 0 && this.#life === 'running' && type !== FrameType.heartbeat) {
      let channel = this.#current;
      if (channel === undefined || channel.number !== number) {
        channel = this.#channels.get(number);
        if (channel === undefined) return this.#frameWithoutChannel(type, number, bytes, start, end);
        this.#current = channel;
        this.#touched.push(channel);
      }
      channel.frame(type, bytes, start, end);
      return;
    }
    if (this.#life === 'closing') this.#takeClosing(type, number, bytes, start, end);
    else if (number !== 0 || type === FrameType.header || type === FrameType.body)
      this.#unexpected(type, number, bytes, start, end);
    else if (type === FrameType.method) this.#takeMethod(bytes, start, end);
  }

  chunkDone(): void {
    // A channel may be listed more than once: a second call finds nothing to do.
    for (let i = 0; i < this.#touched.length; i++) this.#touched[i]!.chunkDone();
    this.#touched.length = 0;
    this.#current = undefined;
    if (this.#heldBytes > this.#options.assemblyBytesMax)
      this.fail(new BrokerError('resource-error', 'too many bytes of unfinished messages', 'connection'), 0);
  }

  broken(error: BrokerError): void {
    if (this.#life === 'closing') this.#setLife('closed');
    else this.fail(error, 0);
  }

  // ---- channel 0

  #send(method: Method): void {
    this.writer.method(0, method);
  }

  #takeMethod(bytes: Buffer, start: number, end: number): void {
    const method = readMethod(bytes, start, end);
    const id = end - start < 4 ? 0 : readU32(bytes, start);
    if (method === 'unknown') return this.fail(new BrokerError('command-invalid', 'unknown method'), id);
    if (method === 'malformed') return this.fail(undecodable(bytes, start + 4, end), id);
    if (method.kind === 'connection.close') return this.#closedByClient();
    if (this.#life === 'start' && method.kind === 'connection.start-ok') this.#startOk(method);
    else if (this.#life === 'tune' && method.kind === 'connection.tune-ok') this.#tuneOk(method);
    else if (this.#life === 'open' && method.kind === 'connection.open') this.#open(method);
    else if (this.#life === 'running' && method.kind === 'connection.update-secret')
      this.#send({ kind: 'connection.update-secret-ok' });
    else if (method.kind !== 'connection.close-ok' || this.#life !== 'running') {
      const text = `unexpected method in connection state ${this.#life}`;
      this.fail(new BrokerError('channel-error', text), id);
    }
  }

  #startOk(method: MethodArguments<'connection.start-ok'>): void {
    this.#clientProperties = method.clientProperties;
    this.#capabilities = tableOf(method.clientProperties.capabilities);
    const { mechanism } = method;
    const id = idOf('connection.start-ok');
    if (!isMechanism(mechanism))
      return this.fail(new BrokerError('command-invalid', `unknown authentication mechanism '${mechanism}'`), id);
    const credentials = readCredentials(mechanism, method.response);
    if (credentials === null)
      return this.fail(new BrokerError('syntax-error', `response for mechanism ${mechanism} is not well formed`), id);
    this.#setLife('authenticating');
    this.#backend.authenticate(credentials.user, credentials.password, this.#host.remoteAddress, (outcome) => {
      if (this.#life !== 'authenticating') return;
      if (!outcome.ok) return this.#loginRefused(outcome.error, mechanism);
      this.user = credentials.user;
      const { channelMax, frameMax, heartbeatSeconds: heartbeat } = this.#options;
      this.#send({ kind: 'connection.tune', channelMax, frameMax, heartbeat });
      this.#setLife('tune');
    });
  }

  /** Why is for the log only; a client that could not read a connection.close here gets none. */
  #loginRefused(error: BrokerError, mechanism: string): void {
    if (error.code !== 'login-refused' && error.code !== 'access-refused') return this.fail(error, 0);
    if (this.#capabilities.authentication_failure_close !== true) return this.#setLife('closed', error);
    const text = `Login was refused using authentication mechanism ${mechanism}. For details see the broker logfile.`;
    this.fail(new BrokerError('login-refused', text), 0, error);
  }

  #tuneOk(method: MethodArguments<'connection.tune-ok'>): void {
    const { frameMax, channelMax } = this.#options;
    const refusal =
      outside('frame_max', method.frameMax, frameBytesMin, frameMax) ??
      outside('channel_max', method.channelMax, 1, channelMax);
    if (refusal !== null) return this.fail(new BrokerError('not-allowed', refusal), idOf('connection.tune-ok'));
    // 0 means: no limit on the client's side.
    this.writer.frameBytesMax = method.frameMax === 0 ? frameMax : method.frameMax;
    this.#reader.payloadBytesMax = this.writer.frameBytesMax - frameOverheadBytes;
    this.#channelMax = method.channelMax === 0 ? channelMax : method.channelMax;
    this.#host.startHeartbeats(method.heartbeat);
    this.#setLife('open');
  }

  #open(method: MethodArguments<'connection.open'>): void {
    const info = {
      user: this.user,
      vhost: method.virtualHost,
      remoteAddress: this.#host.remoteAddress,
      clientProperties: this.#clientProperties,
    };
    const outcome = this.#backend.openConnection(info, this);
    if (!outcome.ok) return this.fail(asConnectionError(outcome.error), idOf('connection.open'));
    this.vhost = method.virtualHost;
    this.#connection = outcome.value;
    this.#send({ kind: 'connection.open-ok', reserved1: '' });
    this.#setLife('running');
  }

  // ---- channels

  #frameWithoutChannel(type: number, number: number, bytes: Buffer, start: number, end: number): void {
    const id = end - start < 4 ? 0 : readU32(bytes, start);
    if (type !== FrameType.method || id !== methodId.channelOpen) {
      const error = new BrokerError('channel-error', "expected 'channel.open'");
      return this.fail(error, type === FrameType.method ? id : 0);
    }
    const open = this.#channels.size;
    if (open >= this.#channelMax) {
      const text = `number of channels opened (${open}) has reached the negotiated channel_max (${this.#channelMax})`;
      return this.fail(new BrokerError('not-allowed', text), id);
    }
    const connection = this.#connection!;
    const channel = new Channel(number, this, (events) => connection.openChannel(events));
    this.#channels.set(number, channel);
    channel.send({ kind: 'channel.open-ok', reserved1: Buffer.alloc(0) });
  }

  ended(channel: Channel): void {
    if (this.#channels.get(channel.number) === channel) this.#channels.delete(channel.number);
    if (this.#current === channel) this.#current = undefined;
  }

  confirmsPending(channel: Channel): void {
    this.#withConfirms.push(channel);
    this.#host.wake();
  }

  /** End of the turn: tells the confirms that have gathered. */
  flushConfirms(): void {
    for (let i = 0; i < this.#withConfirms.length; i++) this.#withConfirms[i]!.flushConfirms();
    this.#withConfirms.length = 0;
  }

  backlogChanged(bytes: number): void {
    const limit = this.#options.channelBacklogBytesMax;
    this.#backlogBytes += bytes;
    if (bytes > 0 && this.#backlogBytes > limit) this.#host.setPaused('backlog', true);
    else if (bytes < 0 && this.#backlogBytes <= limit / 2) this.#host.setPaused('backlog', false);
  }

  heldChanged(bytes: number): void {
    this.#heldBytes += bytes;
  }

  /** The socket drained: deliveries may go on, and methods that waited because too many replies did. */
  drained(): void {
    if (this.#life !== 'running') return;
    for (const channel of this.#channels.values()) {
      channel.proceed();
      channel.deliveriesResumed();
    }
  }

  // ---- from the broker

  pause(): void {
    this.#host.setPaused('broker', true);
  }
  resume(): void {
    this.#host.setPaused('broker', false);
  }
  shutdown(error: BrokerError): void {
    this.fail(error, 0);
  }
  blocked(reason: string): void {
    if (this.#life !== 'running' || this.#isBlocked || this.#capabilities['connection.blocked'] !== true) return;
    this.#isBlocked = true;
    this.#send({ kind: 'connection.blocked', reason });
  }
  unblocked(): void {
    if (this.#life === 'running' && this.#isBlocked) this.#send({ kind: 'connection.unblocked' });
    this.#isBlocked = false;
  }

  // ---- the end

  /** Closes the connection with an error, if it is not closing already. `method`: what failed, 0 for none. `cause`: what is logged. */
  fail(error: BrokerError, method: MethodId, cause: BrokerError = error): void {
    if (this.#life === 'closing' || this.#life === 'closed') return;
    if (this.#life === 'header') return this.#setLife('closed', cause);
    this.#leave();
    this.#send({
      kind: 'connection.close',
      replyCode: error.replyCode,
      replyText: error.message,
      classId: method >>> 16,
      methodId: method & 0xffff,
    });
    this.#setLife('closing', cause);
  }

  /** Whoever reads the answer may look for what this connection held: messages are back in their queues, its exclusive queues are gone. */
  #closedByClient(): void {
    this.#owesCloseOk = true;
    this.#setLife('closing');
    this.#leave(() => this.answerClose());
  }

  /** Also if the broker takes too long. */
  answerClose(): void {
    if (!this.#owesCloseOk || this.#life === 'closed') return;
    this.#owesCloseOk = false;
    this.#send({ kind: 'connection.close-ok' });
    this.#setLife('closed');
  }

  /** After our connection.close only its answer counts, and a connection.close that crossed it. */
  #takeClosing(type: number, number: number, bytes: Buffer, start: number, end: number): void {
    if (type !== FrameType.method || number !== 0 || end - start < 4) return;
    const id = readU32(bytes, start);
    if (id === methodId.connectionClose) this.#send({ kind: 'connection.close-ok' });
    else if (id === methodId.connectionCloseOk) this.#setLife('closed');
  }

  /** The socket is gone, or is to be given up. */
  lost(error: BrokerError | null): void {
    if (this.#life === 'closed') return;
    this.#leave();
    this.#setLife('closed', error);
  }

  /** The channels end, then the broker hears of it. */
  #leave(done: () => void = () => {}): void {
    for (const channel of this.#channels.values()) channel.end();
    this.#channels.clear();
    this.#current = undefined;
    this.#withConfirms.length = 0;
    const connection = this.#connection;
    this.#connection = null;
    if (connection === null) done();
    else connection.close(done);
  }

  #setLife(life: ConnectionLife, error: BrokerError | null = null): void {
    if (this.#life === 'closed') return;
    this.#life = life;
    if (life === 'closed') this.#reader.stop();
    this.#host.lifeChanged(life, error);
  }

  #unexpected(type: number, number: number, bytes: Buffer, start: number, end: number): void {
    const text = `type ${type}, channel ${number}, ${describePayload(bytes, start, end)}`;
    this.fail(new BrokerError('unexpected-frame', text), 0);
  }
}

/** connection.close-ok on channel 0, the whole frame. */
const closeOkFrame = Buffer.from([FrameType.method, 0, 0, 0, 0, 0, 4, 0, 10, 0, 51, 0xce]);

/** Whatever refuses a connection.open closes the connection. */
const asConnectionError = (error: BrokerError): BrokerError =>
  error.scope === 'connection'
    ? error
    : new BrokerError(error.code, error.message.slice(error.message.indexOf(' - ') + 3), 'connection');

/** Why a client's answer to connection.tune is refused, or null. */
function outside(field: string, value: number, least: number, most: number): string | null {
  if (value === 0 || (value >= least && value <= most)) return null;
  return value < least
    ? `negotiated ${field} = ${value} is lower than the minimum allowed value (${least})`
    : `negotiated ${field} = ${value} is higher than the maximum allowed value (${most})`;
}

const tableOf = (value: Arguments[string] | undefined): Arguments =>
  typeof value === 'object' && value !== null && 'table' in value ? value.table : {};
