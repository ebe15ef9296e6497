// Asks whether addresses are free before anything is started or touched. Binds each for a moment; keeps nothing.

import { createServer } from 'node:net';
import type { NodeConfig } from './config.ts';
import { isMissingAddress } from './errors.ts';

export interface BusyAddress {
  readonly what: 'amqp' | 'amqp.tls' | 'http' | 'peer';
  readonly host: string;
  readonly port: number;
  /** EADDRINUSE, EACCES and the like. */
  readonly code: string;
}

/** The first address of this node that cannot be listened on, or null. A host that the machine lacks counts only if no other is left. */
export async function findBusyAddress(config: NodeConfig): Promise<BusyAddress | null> {
  const { settings, peerListen } = config;
  return (
    (await findBusy('amqp', settings['amqp.host'], settings['amqp.port'])) ??
    (settings['amqp.tls.port'] === 0
      ? null
      : await findBusy('amqp.tls', settings['amqp.host'], settings['amqp.tls.port'])) ??
    (await findBusy('http', settings['http.host'], settings['http.port'])) ??
    (await findBusy('peer', [peerListen.host], peerListen.port))
  );
}

async function findBusy(
  what: BusyAddress['what'],
  hosts: readonly string[],
  port: number,
): Promise<BusyAddress | null> {
  let missing: BusyAddress | null = null;
  let free = 0;
  for (const host of hosts) {
    const error = await tryListen(host, port);
    if (error === null) {
      free += 1;
      continue;
    }
    const busy = { what, host, port, code: (error as NodeJS.ErrnoException).code ?? error.message };
    if (!isMissingAddress(error)) return busy;
    missing = busy;
  }
  return free > 0 ? null : missing;
}

function tryListen(host: string, port: number): Promise<Error | null> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error) => resolve(error));
    // A peer that dials in this very moment is turned away and dials again.
    server.on('connection', (socket) => socket.destroy());
    server.listen({ host, port, ipv6Only: host.includes(':') }, () => server.close(() => resolve(null)));
  });
}
