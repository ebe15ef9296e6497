// One node, from an open data folder to a clean stop: which part starts and stops when.
//
//   start: HTTP port → cluster → AMQP port          stop: AMQP accepts no more → leaderships go → clients go (320) → HTTP → cluster → folder
//
// State owned: the phase, and the parts. It knows no signals and ends no process; `run.ts` does.
// Invariants: AMQP clients are accepted only while the cluster part runs. The folder is released last, and only if everything before has ended
// by itself. `stop` may come at any time, also during the start, and only once has an effect.

import type { NodeConfig } from './config.ts';
import type { DataFolder } from './data-folder.ts';
import { type HttpServer, startHttpServer } from './http/server.ts';
import type { Log } from './log.ts';
import type { Phase, StatusView } from './status.ts';

/** What a node is made of, as far as starting and stopping goes. Each is called at most once, in this order, but for `status`. */
export interface NodeParts {
  /** Opens the log, recovers, and joins the peers. Resolves once clients can be served, or could be if there were a majority. */
  start(): Promise<void>;
  /** Opens the AMQP port. */
  listen(): Promise<void>;
  status(): StatusView;
  /** No new connections. */
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
  /** Rejects if a part cannot start; then `stop` cleans up. */
  start(): Promise<void>;
  /** True: everything ended cleanly. False: some part failed on the way, which is logged. */
  stop(): Promise<boolean>;
}

export function createNodeServer(context: NodeContext, createParts: CreateParts): NodeServer {
  const { config, log, folder } = context;
  const { settings } = config;
  let phase: Phase = 'starting';
  let parts: NodeParts | null = null;
  let http: HttpServer | null = null;
  let started: Promise<void> = Promise.resolve();
  let stopped: Promise<boolean> | null = null;
  /** How far the start came: what has to be stopped. */
  let clusterBegun = false;
  let listening = false;

  const stopping = (): boolean => phase === 'stopping';

  async function begin(): Promise<void> {
    http = await startHttpServer(
      {
        hosts: settings['http.host'],
        port: settings['http.port'],
        connectionsMax: settings['http.connections.max'],
      },
      {
        phase: () => phase,
        status: () => (clusterBegun ? (parts?.status() ?? null) : null),
        failed: (path, error) => log.error({ path, err: error }, 'an HTTP request failed'),
      },
    );
    if (http.unavailable.length > 0) log.warn({ hosts: http.unavailable }, 'HTTP addresses that this machine lacks');
    if (stopping()) return;
    parts = createParts(context);
    const starting = parts.start();
    clusterBegun = true;
    await starting;
    if (stopping()) return;
    listening = true;
    await parts.listen();
    if (!stopping()) phase = 'running';
  }

  async function end(): Promise<boolean> {
    // A start under way is waited for, so that no part is stopped half-started.
    let clean = await started.then(
      () => true,
      () => false,
    );
    const step = async (name: string, run: (() => Promise<void> | void) | null): Promise<void> => {
      try {
        await run?.();
      } catch (error) {
        clean = false;
        log.error({ err: error, step: name }, 'a step of the stop failed');
      }
    };
    // The compiler does not see that `begin` has assigned it.
    const current = parts as NodeParts | null;
    if (current !== null && listening) await step('stop accepting', () => current.stopAccepting());
    if (current !== null && clusterBegun) await step('hand over', () => current.handOver());
    if (current !== null && listening) await step('disconnect clients', () => current.disconnectClients());
    await step('close http', http === null ? null : () => http?.close());
    if (current !== null && clusterBegun) await step('close cluster', () => current.close());
    if (clean) await step('release folder', () => folder.release());
    return clean;
  }

  return {
    get phase() {
      return phase;
    },
    start() {
      started = begin();
      return started;
    },
    stop() {
      if (stopped === null) {
        phase = 'stopping';
        stopped = end();
      }
      return stopped;
    },
  };
}
