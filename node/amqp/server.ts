// The AMQP listener: accepts connections, gives each a session, and lets them go in order.
//
// State owned: listeners and sessions. Invariant: every accepted socket is in `#sessions` until its `onClose`.

import type { Address, Clock, Net, Random, Connection as Socket } from '../../cluster/index.ts';
import { BrokerError, isMissingAddress } from '../errors.ts';
import type { AmqpBackend } from './backend.ts';
import { Counters } from './counters.ts';
import { type AmqpOptions, checkAmqpOptions, withDefaults } from './options.ts';
import { type AmqpLog, Session, type SessionHost } from './session.ts';

export { type AmqpOptions, defaultAmqpOptions } from './options.ts';
export type { AmqpLog } from './session.ts';

export interface AmqpMeasures {
  readonly connections: number;
  readonly channels: number;
  /** Connections whose publishes have to wait. */
  readonly held: number;
  readonly counters: Counters;
}

export interface AmqpServer {
  /**
   * Listens on all addresses, or on those of them that this machine has; resolves with the ports. A busy port makes the whole fail.
   * May be called again for others, with another net: one that speaks TLS.
   */
  listen(addresses: readonly Address[], net?: Net): Promise<number[]>;
  stopAccepting(): Promise<void>;
  /** Stops accepting, asks every client to go (320), and ends what is left after `closeMilliseconds`. */
  close(): Promise<void>;
  readonly connectionCount: number;
  /** Looks at every session. */
  measures(): AmqpMeasures;
}

export interface AmqpPorts {
  readonly net: Net;
  readonly clock: Clock;
  readonly random: Random;
}

type Listener = Awaited<ReturnType<Net['listen']>>;

class Server implements AmqpServer, SessionHost {
  readonly options: AmqpOptions;
  readonly clock: Clock;
  readonly backend: AmqpBackend;
  readonly log: AmqpLog;
  readonly counters = new Counters();
  readonly #net: Net;
  readonly #random: Random;
  #listeners: Listener[] = [];
  readonly #sessions = new Set<Session>();
  #isClosing = false;
  #onEmpty: (() => void) | null = null;

  constructor(options: AmqpOptions, ports: AmqpPorts, backend: AmqpBackend, log: AmqpLog) {
    this.options = options;
    this.clock = ports.clock;
    this.#net = ports.net;
    this.#random = ports.random;
    this.backend = backend;
    this.log = log;
  }

  get connectionCount(): number {
    return this.#sessions.size;
  }

  measures(): AmqpMeasures {
    let [channels, held] = [0, 0];
    for (const session of this.#sessions) {
      channels += session.channelCount;
      if (session.isHeld) held++;
    }
    return { connections: this.#sessions.size, channels, held, counters: this.counters };
  }

  async listen(addresses: readonly Address[], net = this.#net): Promise<number[]> {
    let missing: unknown = null;
    const listeners: Listener[] = [];
    for (const address of addresses) {
      try {
        const listener = await net.listen(address, (socket) => this.#accept(socket));
        listeners.push(listener);
        this.#listeners.push(listener);
      } catch (error) {
        missing = error;
        if (isMissingAddress(error)) continue;
        await this.stopAccepting();
        throw error;
      }
    }
    if (listeners.length === 0 && missing !== null) throw missing;
    return listeners.map((listener) => listener.port);
  }

  #accept(socket: Socket): void {
    if (this.#isClosing || this.#sessions.size >= this.options.connectionsMax) {
      this.counters.connectionsRefused++;
      socket.close();
      return;
    }
    this.#sessions.add(new Session(socket, this));
  }

  async stopAccepting(): Promise<void> {
    const listeners = this.#listeners;
    this.#listeners = [];
    await Promise.all(listeners.map((listener) => listener.close()));
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    const accepting = this.stopAccepting();
    const reason = "broker forced connection closure with reason 'shutdown'";
    for (const session of [...this.#sessions]) session.close(new BrokerError('connection-forced', reason));
    if (this.#sessions.size > 0) await this.#whenEmpty();
    await accepting;
  }

  /** All sessions have ended. Each has a deadline of its own; a socket that does not even close is not waited for. */
  #whenEmpty(): Promise<void> {
    return new Promise((resolve) => {
      const deadline = this.clock.after(2 * this.options.closeMilliseconds, () => {
        this.#onEmpty = null;
        resolve();
      });
      this.#onEmpty = () => {
        deadline.cancel();
        resolve();
      };
    });
  }

  ended(session: Session): void {
    this.#sessions.delete(session);
    if (this.#sessions.size === 0) this.#onEmpty?.();
  }

  makeName(): string {
    return this.#random.bytes(16).toString('base64url');
  }
}

/** Throws if the options contradict each other. */
export function createAmqpServer(
  options: Partial<AmqpOptions>,
  ports: AmqpPorts,
  backend: AmqpBackend,
  log: AmqpLog,
): AmqpServer {
  const complete = withDefaults(options);
  const problem = checkAmqpOptions(complete);
  if (problem !== null) throw new Error(`AMQP options: ${problem}`);
  return new Server(complete, ports, backend, log);
}
