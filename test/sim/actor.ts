// A client that goes on whatever happens to the brokers: connects, opens sessions, and connects anew when it is lost, to its own node or to the
// next one, as real clients do.
//
// State owned: its connection, and the plan to connect again. It must never reuse a session's name: the history tells them apart by it.

import type { Clock, Net, Random, Timer } from '../../cluster/ports.ts';
import type { History } from '../history.ts';
import { ClientConnection } from './client.ts';
import { stretch } from './pace.ts';
import { Session, type SessionHandlers } from './session.ts';
import type { Trace } from './trace.ts';

export const amqpPort = 5672;
export const hostOf = (node: number): string => `n${node}`;

/** What clients need of the world. */
export interface ClientWorld {
  readonly clock: Clock;
  readonly history: History;
  readonly trace: Trace;
  /** Its own stream of numbers: what clients draw does not depend on what nodes draw. */
  readonly random: Random;
  /** How many nodes there are to connect to. */
  nodesToTry(): readonly number[];
  clientNet(name: string): Net;
}

export interface ActorOptions {
  /** It waits for this node alone, as long as that is there; null: it goes to another one after every failure. */
  readonly home: number | null;
  /** A new connection: sessions are opened, work goes on. */
  opened(actor: Actor): void;
  /** Its sessions were told before. */
  lost?(actor: Actor): void;
}

const reconnectMilliseconds = 100;
const heartbeatMilliseconds = 2_000;
const connectMilliseconds = 4_000;

export class Actor {
  readonly name: string;
  readonly #world: ClientWorld;
  readonly #options: ActorOptions;
  readonly #net: Net;
  #connection: ClientConnection | null = null;
  #node: number;
  #timer: Timer | null = null;
  #stopped = false;
  #sessions = 0;

  constructor(name: string, world: ClientWorld, options: ActorOptions) {
    this.name = name;
    this.#world = world;
    this.#options = options;
    this.#net = world.clientNet(name);
    const nodes = world.nodesToTry();
    this.#node = options.home ?? nodes[world.random.integer(nodes.length)]!;
    this.#connect();
  }

  get isOpen(): boolean {
    return this.#connection?.isOpen ?? false;
  }
  get isBlocked(): boolean {
    return this.#connection?.isBlocked ?? false;
  }
  get isStopped(): boolean {
    return this.#stopped;
  }
  get node(): number {
    return this.#node;
  }

  openSession(handlers: SessionHandlers = {}): Session {
    if (this.#connection === null || !this.#connection.isOpen) throw new Error(`${this.name} is not connected`);
    const { history, trace } = this.#world;
    const name = `${this.name}#${++this.#sessions}`;
    return new Session(name, this.#connection, history, {
      ...handlers,
      ended: (code, text) => {
        trace.line(name, `ended: ${text}`);
        handlers.ended?.(code, text);
      },
    });
  }

  /** Runs `task` unless the connection of now has ended by then. */
  after(milliseconds: number, task: () => void): void {
    const connection = this.#connection;
    this.#world.clock.after(milliseconds, () => {
      if (this.#connection === connection && this.isOpen) task();
    });
  }

  /** Loses its connection without a word, as when its process is killed; then it connects again. */
  drop(): void {
    this.#connection?.drop();
  }

  /** Closes in order, for good. Sessions are to be closed before. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#connection?.close();
  }

  #connect(): void {
    const { clock, trace } = this.#world;
    trace.line(this.name, `connects to n${this.#node}`);
    this.#connection = new ClientConnection(
      this.#net,
      clock,
      { host: hostOf(this.#node), port: amqpPort, node: this.#node },
      { heartbeatSeconds: (heartbeatMilliseconds / 1_000) * stretch, heartbeatMilliseconds, connectMilliseconds },
      {
        opened: () => {
          trace.line(this.name, 'connected');
          this.#options.opened(this);
        },
        closed: (reason) => this.#lost(reason),
      },
    );
  }

  #lost(reason: string): void {
    this.#world.trace.line(this.name, `connection ended: ${reason}`);
    this.#connection = null;
    this.#options.lost?.(this);
    if (this.#stopped) return;
    const { random, clock } = this.#world;
    const nodes = this.#world.nodesToTry();
    // One whose node is gone for good goes elsewhere as well.
    if (this.#options.home === null || !nodes.includes(this.#node)) this.#node = nodes[random.integer(nodes.length)]!;
    this.#timer = clock.after(reconnectMilliseconds + random.integer(400), () => this.#connect());
  }
}
