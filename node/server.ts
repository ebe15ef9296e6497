// One node, from an open data folder to a clean stop: which part starts and stops when.
//
//   start: HTTP port → formed → cluster → AMQP port          stop: AMQP accepts no more → leaderships go → clients go (320) → HTTP → cluster → folder
//
// State owned: the phase, and the parts. It knows no signals and ends no process; `run.ts` does.
// Invariants: AMQP clients are accepted only while the cluster part runs. The folder is released last, and only if everything before has ended
// by itself. `stop` may come at any time, also during the start, and only once has an effect.

import type { NodeConfig } from './config.ts';
import type { DataFolder } from './data-folder.ts';
import { type HttpServer, startHttpServer } from './http/server.ts';
import type { Log } from './log.ts';
import type { Measures } from './measures.ts';
import type { Phase, StatusView } from './status.ts';

/** What a node is made of, as far as starting and stopping goes. Each is called at most once, in this order, but for what asks or tells. */
export interface NodeParts {
  /** Resolves once the data folder belongs to a cluster; a new one is formed when all its nodes are there, else never. */
  form(): Promise<void>;
  /** What `form` waits for, or null. */
  formingWith(): string | null;
  /** Ends `form`, which then never resolves. */
  stopForming(): void;
  /** Opens the log and recovers; local work only, so it always ends. */
  open(): Promise<void>;
  /** Joins the peers. Resolves once clients can be served: without a majority, never. */
  join(): Promise<void>;
  /** Opens the AMQP port. */
  listen(): Promise<void>;
  /** From the end of `open` on. */
  status(): StatusView;
  /** At any time. */
  measures(): Measures;
  /** On: without any connection to the other nodes. From the end of `open` on. */
  isolate(on: boolean): void;
  /** Builds this node's replica of a group anew. Null: it has begun; else why not. From the end of `open` on. */
  rebuild(group: number): Promise<string | null>;
  /** A node of the cluster is to leave it. Null: that has begun; else why not. From the end of `open` on. */
  leave(node: number): Promise<string | null>;
  /** No new AMQP connections. */
  stopAccepting(): Promise<void> | void;
  /** Gives leaderships to other nodes, as far as there are any; bounded in time by itself. */
  handOver(): Promise<void>;
  /** Ends every client connection with 320. */
  disconnectClients(): Promise<void>;
  /** Writes out and closes the log, ends the peer connections. */
  close(): Promise<void>;
}

export interface NodeContext {
  readonly config: NodeConfig;
  readonly folder: DataFolder;
  readonly log: Log;
  /** The process has to end: its disk failed, say. Does not return to useful work. */
  readonly fatal: (error: Error) => void;
}

export type CreateParts = (context: NodeContext) => NodeParts;

export interface NodeServer {
  readonly phase: Phase;
  /** On: the node cuts itself off from the other nodes, until it is off again; clients stay. Before it has opened it does nothing. */
  isolate(on: boolean): void;
  /** Rejects if a part cannot start; then `stop` cleans up. */
  start(): Promise<void>;
  /** True: everything ended cleanly. False: some part failed on the way, which is logged. */
  stop(): Promise<boolean>;
}

export function createNodeServer(context: NodeContext, createParts: CreateParts): NodeServer {
  return new Server(context, createParts);
}

const notOpen = 'the node is starting, or stopping';

class Server implements NodeServer {
  readonly #context: NodeContext;
  readonly #createParts: CreateParts;
  #phase: Phase = 'starting';
  #http: HttpServer | null = null;
  #parts: NodeParts | null = null;
  // How far the start came. What was begun is waited for before it is stopped; joining is not, as it may take for ever.
  #opening: Promise<void> | null = null;
  #opened = false;
  #listening: Promise<void> | null = null;
  #stopped: Promise<boolean> | null = null;

  constructor(context: NodeContext, createParts: CreateParts) {
    this.#context = context;
    this.#createParts = createParts;
  }

  get phase(): Phase {
    return this.#phase;
  }

  async start(): Promise<void> {
    this.#opening = this.#listenForHttp();
    await this.#opening;
    if (this.#isStopping()) return;
    const parts = this.#createParts(this.#context);
    this.#parts = parts;
    await parts.form();
    if (this.#isStopping()) return;
    this.#opening = parts.open();
    await this.#opening;
    this.#opened = true;
    if (this.#isStopping()) return;
    await parts.join();
    if (this.#isStopping()) return;
    this.#listening = parts.listen();
    await this.#listening;
    if (!this.#isStopping()) this.#phase = 'running';
  }

  isolate(on: boolean): void {
    if (this.#opened) this.#parts?.isolate(on);
  }

  stop(): Promise<boolean> {
    this.#phase = 'stopping';
    this.#stopped ??= this.#end();
    return this.#stopped;
  }

  /** As a call, because the phase changes while others are awaited, which the compiler does not know. */
  #isStopping(): boolean {
    return this.#phase === 'stopping';
  }

  async #listenForHttp(): Promise<void> {
    const { config, log } = this.#context;
    const { settings } = config;
    this.#http = await startHttpServer(
      { hosts: settings['http.host'], port: settings['http.port'], connectionsMax: settings['http.connections.max'] },
      {
        phase: () => this.#phase,
        status: () => (this.#opened ? (this.#parts?.status() ?? null) : null),
        rebuild: async (group) => (this.#opened ? this.#parts!.rebuild(group) : notOpen),
        leave: async (node) => (this.#opened ? this.#parts!.leave(node) : notOpen),
        measures: () => this.#parts?.measures() ?? null,
        formingWith: () => this.#parts?.formingWith() ?? null,
        failed: (path, error) => log.error({ path, err: error }, 'an HTTP request failed'),
      },
    );
    const { unavailable } = this.#http;
    if (unavailable.length > 0) log.warn({ hosts: unavailable }, 'HTTP addresses that this machine lacks');
  }

  async #end(): Promise<boolean> {
    const { log, folder } = this.#context;
    let clean = true;
    const step = async (name: string, run: () => Promise<unknown> | unknown): Promise<void> => {
      try {
        await run();
      } catch (error) {
        clean = false;
        log.error({ err: error, step: name }, 'a step of the stop failed');
      }
    };
    this.#parts?.stopForming();
    await step('open', () => this.#opening);
    if (this.#listening !== null) await step('listen', () => this.#listening);
    const parts = this.#parts;
    if (parts !== null && this.#listening !== null) await step('stop accepting', () => parts.stopAccepting());
    if (parts !== null && this.#opened) await step('hand over', () => parts.handOver());
    if (parts !== null && this.#listening !== null) await step('disconnect clients', () => parts.disconnectClients());
    await step('close http', () => this.#http?.close());
    if (parts !== null && this.#opened) await step('close cluster', () => parts.close());
    if (clean) await step('release folder', () => folder.release());
    this.#opened = false;
    return clean;
  }
}
