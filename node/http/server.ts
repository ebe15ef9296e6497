// The HTTP port of a node: GET /health and GET /cluster, as JSON. State: its listeners, one per address.
// Reads the status when asked and keeps nothing. Takes no bodies; a request that brings one is answered and its connection closed.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { isMissingAddress } from '../errors.ts';
import { type Health, healthOf, type Phase, type StatusView } from '../status.ts';

export interface HttpOptions {
  readonly hosts: readonly string[];
  readonly port: number;
  /** Per address. */
  readonly connectionsMax: number;
}

export interface HttpSources {
  phase(): Phase;
  /** Null while there is no cluster yet. */
  status(): StatusView | null;
  /** A request failed inside. */
  failed(path: string, error: unknown): void;
}

export interface HttpServer {
  /** The addresses that could not be had although another could: a machine without IPv6 has no ::1. */
  readonly unavailable: readonly string[];
  close(): Promise<void>;
}

const requestMilliseconds = 10_000;
const keepAliveMilliseconds = 5_000;

/** Listens on all hosts. Fails if a port is busy, or if no address can be had. */
export async function startHttpServer(options: HttpOptions, sources: HttpSources): Promise<HttpServer> {
  const servers: Server[] = [];
  const unavailable: string[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(servers.map((server) => closeServer(server)));
  };
  for (const host of options.hosts) {
    const server = createServer(
      { requestTimeout: requestMilliseconds, headersTimeout: requestMilliseconds },
      (request, response) => answer(request, response, sources),
    );
    server.keepAliveTimeout = keepAliveMilliseconds;
    server.maxConnections = options.connectionsMax;
    try {
      await listen(server, host, options.port);
      servers.push(server);
    } catch (error) {
      if (!isMissingAddress(error) || unavailable.length === options.hosts.length - 1) {
        await close();
        throw error;
      }
      unavailable.push(host);
    }
  }
  return { unavailable, close };
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port, ipv6Only: host.includes(':') }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

function answer(request: IncomingMessage, response: ServerResponse, sources: HttpSources): void {
  const path = (request.url ?? '/').split('?', 1)[0] ?? '/';
  const hasBody =
    request.headers['transfer-encoding'] !== undefined || Number(request.headers['content-length'] ?? 0) > 0;
  if (hasBody) response.setHeader('connection', 'close');
  try {
    if (path !== '/health' && path !== '/cluster') {
      reply(response, 404, { error: 'not-found', paths: ['/health', '/cluster'] });
    } else if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.setHeader('allow', 'GET, HEAD');
      reply(response, 405, { error: 'method-not-allowed' });
    } else if (path === '/health') {
      const health: Health = healthOf(sources.phase(), sources.status());
      reply(response, health.status === 'ok' ? 200 : 503, health);
    } else {
      const status = sources.status();
      if (status === null) reply(response, 503, healthOf(sources.phase(), null));
      else reply(response, 200, status);
    }
  } catch (error) {
    sources.failed(path, error);
    if (!response.headersSent) reply(response, 500, { error: 'internal-error' });
  }
}

function reply(response: ServerResponse, code: number, value: unknown): void {
  const text = Buffer.from(`${JSON.stringify(value)}\n`);
  response.writeHead(code, {
    'content-type': 'application/json',
    'content-length': text.length,
    'cache-control': 'no-store',
  });
  // For HEAD Node leaves the body out.
  response.end(text);
}
