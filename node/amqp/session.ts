// A connection's socket and time: bytes in, frames out once per turn, deadlines, heartbeats, backpressure both ways.
//
// State owned: the socket, timers, why it is not read, what the socket still has to send, and whether it takes any of that. Invariants: at
// most one flush is scheduled; buffers given to the socket are never touched again; deliveries wait while `socketBufferBytesMax` is reached, and reading stops only when as many replies wait
// beyond that (a slow consumer's acks are always read, or it could never go on); a peer that is not read is not held silent.

import type { Clock, Connection as Socket, Timer } from '../../cluster/index.ts';
import type { BrokerError } from '../errors.ts';
import type { AmqpBackend } from './backend.ts';
import { AmqpConnection, type ConnectionHost, type ConnectionLife, type PauseReason } from './connection.ts';
import type { Counters } from './counters.ts';
import type { AmqpOptions } from './options.ts';

export interface AmqpLog {
  debug(details: object, message: string): void;
  info(details: object, message: string): void;
  warn(details: object, message: string): void;
}

/** What a session needs of its server. */
export interface SessionHost {
  readonly options: AmqpOptions;
  readonly clock: Clock;
  readonly backend: AmqpBackend;
  readonly log: AmqpLog;
  readonly counters: Counters;
  makeName(): string;
  ended(session: Session): void;
}

/** Ticks per heartbeat interval: we send at every one, for a client may give up after a single interval of silence. */
const ticksPerInterval = 2;
const missedIntervalsMax = 2;
/** How often a socket with bytes that wait is looked at, in the time after which it is given up. */
const looksPerTimeout = 4;

export class Session implements ConnectionHost {
  readonly #host: SessionHost;
  readonly #socket: Socket;
  readonly #connection: AmqpConnection;
  /** Until running: for the handshake. From closing on: for the client's answer. */
  #deadline: Timer | null;
  #heartbeat: Timer | null = null;
  #tickMilliseconds = 0;
  #silentTicks = 0;
  #hasReceived = false;
  #hasSent = false;
  #tickProgress = 0;

  /** Runs while bytes wait for the socket. */
  #sending: Timer | null = null;
  #progress = 0;
  /** Looks, one after the other, that found that none of them had been taken. */
  #idleLooks = 0;

  readonly #paused = new Set<PauseReason>();
  #flushScheduled = false;
  /** Deliveries or methods had to wait, or may have had to, since the last `drained`. */
  #wasFull = false;
  /** Reply bytes given to the socket since it last drained. */
  #replyBytes = 0;
  #socketOpen = true;

  constructor(socket: Socket, host: SessionHost) {
    this.#host = host;
    this.#socket = socket;
    this.#connection = new AmqpConnection(host.options, host.backend, this);
    this.#connection.writer.room = host.options.socketBufferBytesMax;
    this.#deadline = host.clock.after(host.options.handshakeMilliseconds, () => this.#handshakeTooSlow());
    socket.onData = (chunk) => this.#received(chunk);
    socket.onDrain = () => this.#drained();
    socket.onClose = (error) => this.#closed(error);
  }

  get remoteAddress(): string {
    return this.#socket.remoteAddress;
  }
  get life(): ConnectionLife {
    return this.#connection.life;
  }
  get counters(): Counters {
    return this.#host.counters;
  }
  get channelCount(): number {
    return this.#connection.channelCount;
  }
  /** What it publishes has to wait. */
  get isHeld(): boolean {
    return this.#paused.has('broker');
  }

  /** Asks the client to go: connection.close, then the end within `closeMilliseconds`. */
  close(error: BrokerError): void {
    const { life } = this.#connection;
    if (life === 'header' || life === 'start' || life === 'authenticating') this.#connection.lost(error);
    else this.#connection.shutdown(error);
  }

  /** Ends without a word. */
  destroy(): void {
    this.#connection.lost(null);
    this.#endSocket();
  }

  // ---- in

  #received(chunk: Buffer): void {
    this.#hasReceived = true;
    this.#host.counters.receivedBytes += chunk.length;
    this.#connection.push(chunk);
  }

  setPaused(reason: PauseReason, paused: boolean): void {
    const before = this.#paused.size;
    if (paused) this.#paused.add(reason);
    else this.#paused.delete(reason);
    // While closing the client's answer has to be read, whatever else waits.
    const { life } = this.#connection;
    if (!this.#socketOpen || life === 'closing' || life === 'closed') return;
    if (before === 0 && this.#paused.size > 0) this.#socket.pause();
    else if (before > 0 && this.#paused.size === 0) this.#socket.resume();
  }

  rest(milliseconds: number): void {
    this.setPaused('rest', true);
    this.#host.clock.after(milliseconds, () => this.setPaused('rest', false));
  }

  makeName(): string {
    return this.#host.makeName();
  }

  // ---- out

  get isStuffed(): boolean {
    const { writer } = this.#connection;
    return this.#replyBytes + writer.bytes - writer.deliveryBytes > this.#host.options.socketBufferBytesMax;
  }

  wake(): void {
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    this.#host.clock.soon(() => this.#flush());
  }

  #flush(): void {
    this.#flushScheduled = false;
    if (!this.#socketOpen) return;
    const { writer } = this.#connection;
    this.#connection.flushConfirms();
    if (writer.bytes > 0) {
      if (!writer.hasRoom || this.isStuffed) this.#wasFull = true;
      const replyBytes = writer.bytes - writer.deliveryBytes;
      this.#hasSent = true;
      this.#host.counters.sentBytes += writer.bytes;
      const drained = this.#socket.write(writer.take());
      this.#replyBytes = drained ? 0 : this.#replyBytes + replyBytes;
      // Only after a false answer the socket tells when it has drained.
      this.#measureRoom(drained ? 0 : this.#socket.bufferedBytes);
      if (this.#sending === null && this.#socket.bufferedBytes > 0) this.#watchSending();
    }
    if (this.#connection.life === 'closed') this.#endSocket();
  }

  #drained(): void {
    this.#replyBytes = 0;
    this.#measureRoom(this.#socket.bufferedBytes);
  }

  #measureRoom(bufferedBytes: number): void {
    const { writer } = this.#connection;
    writer.room = this.#host.options.socketBufferBytesMax - bufferedBytes;
    if (writer.room <= 0) this.#wasFull = true;
    const stuffed = this.isStuffed;
    this.setPaused('replies', stuffed);
    if (stuffed || !this.#wasFull || writer.room <= 0) return;
    this.#wasFull = false;
    this.#connection.drained();
  }

  // ---- time

  #handshakeTooSlow(): void {
    this.#host.log.warn({ remoteAddress: this.remoteAddress, life: this.life }, 'handshake took too long');
    this.destroy();
  }

  #closeTooSlow(): void {
    this.#connection.answerClose();
    if (this.life !== 'closed') this.destroy();
  }

  startHeartbeats(seconds: number): void {
    if (seconds === 0) return;
    this.#tickMilliseconds = (seconds * 1000) / ticksPerInterval;
    this.#scheduleTick();
  }

  #scheduleTick(): void {
    this.#heartbeat = this.#host.clock.after(this.#tickMilliseconds, () => this.#tick());
  }

  #tick(): void {
    this.#silentTicks = this.#hasReceived || this.#isUnread() ? 0 : this.#silentTicks + 1;
    this.#hasReceived = false;
    if (this.#silentTicks >= ticksPerInterval * missedIntervalsMax) {
      this.#host.log.warn({ remoteAddress: this.remoteAddress }, 'missed heartbeats from client');
      this.destroy();
      return;
    }
    if (!this.#hasSent) this.#connection.writer.release();
    this.#connection.writer.heartbeat();
    this.#hasSent = false;
    this.#scheduleTick();
  }

  /** Nobody reads what it sends. As long as that is because it has to take answers first, it has to take some from tick to tick. */
  #isUnread(): boolean {
    if (!this.#paused.has('replies')) return this.#paused.size > 0;
    const before = this.#tickProgress;
    this.#tickProgress = this.#socket.progress;
    return this.#tickProgress !== before;
  }

  /** A client that takes nothing would keep what waits for it, and what it holds, for ever, if it has no heartbeats or goes on sending. */
  #watchSending(): void {
    const { sendTimeoutMilliseconds: timeout } = this.#host.options;
    if (timeout === 0) return;
    this.#progress = this.#socket.progress;
    this.#sending = this.#host.clock.after(timeout / looksPerTimeout, () => this.#lookAtSending());
  }

  /** Looks are counted, and not time: a node that stood still itself has not looked meanwhile. */
  #lookAtSending(): void {
    this.#sending = null;
    const { bufferedBytes, progress } = this.#socket;
    this.#idleLooks = bufferedBytes > 0 && progress === this.#progress ? this.#idleLooks + 1 : 0;
    if (bufferedBytes === 0) return;
    if (this.#idleLooks < looksPerTimeout) return this.#watchSending();
    const { sendTimeoutMilliseconds: milliseconds } = this.#host.options;
    this.#host.log.warn({ remoteAddress: this.remoteAddress, milliseconds, bufferedBytes }, 'client takes nothing');
    this.destroy();
  }

  // ---- the end

  lifeChanged(life: ConnectionLife, error: BrokerError | null): void {
    const { log, counters } = this.#host;
    if (life === 'running') counters.connectionsOpened++;
    if (error?.code === 'login-refused') counters.loginsRefused++;
    if (error !== null)
      log.info({ remoteAddress: this.remoteAddress, code: error.code, error: error.message }, 'connection closes');
    switch (life) {
      case 'running':
        this.#cancelDeadline();
        log.debug({ remoteAddress: this.remoteAddress, user: this.#connection.user }, 'connection opened');
        return;
      case 'closing':
        this.#cancelDeadline();
        this.#deadline = this.#host.clock.after(this.#host.options.closeMilliseconds, () => this.#closeTooSlow());
        if (this.#paused.size > 0) this.#socket.resume();
        return;
      case 'closed':
        // The last words are written first.
        this.wake();
        return;
      default:
    }
  }

  #cancelDeadline(): void {
    this.#deadline?.cancel();
    this.#deadline = null;
  }

  #closed(error: Error | null): void {
    if (error !== null)
      this.#host.log.debug({ remoteAddress: this.remoteAddress, error: error.message }, 'socket failed');
    this.#socketOpen = false;
    this.#cancelDeadline();
    this.#heartbeat?.cancel();
    this.#sending?.cancel();
    this.#connection.lost(null);
    this.#host.ended(this);
  }

  #endSocket(): void {
    if (!this.#socketOpen) return;
    this.#socketOpen = false;
    this.#cancelDeadline();
    this.#heartbeat?.cancel();
    this.#sending?.cancel();
    this.#socket.close();
  }
}
