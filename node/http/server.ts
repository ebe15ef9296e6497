// The HTTP port of a node, in JSON: GET /health, GET /cluster, POST /groups/<number>/rebuild, POST /cluster/nodes/<number>/leave. And GET
// /metrics, in the text format of Prometheus.
// State: its listeners, one per address.
// Reads the status when asked and keeps nothing. Takes no bodies; a request that brings one is answered and its connection closed. What
// changes something is refused to web pages: a browser says where its page is from, and a page of elsewhere may send to this port too.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { isMissingAddress } from '../errors.ts';
import type { Measures } from '../measures.ts';
import { type Health, healthOf, type Phase, rebuildCommand, type StatusView } from '../status.ts';
import { metricsType, renderMetrics } from './metrics.ts';

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
  /** Null while the process has not come so far. */
  measures(): Measures | null;
  /** What the forming of the cluster waits for, or null. */
  formingWith(): string | null;
  /** Builds this node's replica of a group anew. Null: it has begun; else why not. */
  rebuild(group: number): Promise<string | null>;
  /** A node of the cluster is to leave it. Null: that has begun; else why not. */
  leave(node: number): Promise<string | null>;
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
    const rebuild = rebuildPath.exec(path);
    const leave = leavePath.exec(path);
    if (rebuild !== null) {
      const group = Number(rebuild[1]);
      change(request, response, sources, () => sources.rebuild(group), { group, status: 'rebuilding' });
    } else if (leave !== null) {
      const node = Number(leave[1]);
      change(request, response, sources, () => sources.leave(node), { node, status: 'leaving' });
    } else if (!readPaths.includes(path)) {
      reply(response, 404, { error: 'not-found', paths: readPaths });
    } else if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.setHeader('allow', 'GET, HEAD');
      reply(response, 405, { error: 'method-not-allowed' });
    } else if (path === '/metrics') {
      const measures = sources.measures();
      const { status } = healthOf(sources.phase(), sources.status(), sources.formingWith());
      if (measures === null) reply(response, 503, { error: 'starting' });
      else replyWith(response, 200, metricsType, renderMetrics(measures, status === 'ok'));
    } else if (path === '/health') {
      const health: Health = healthOf(sources.phase(), sources.status(), sources.formingWith(), addressOf(request));
      reply(response, health.status === 'ok' ? 200 : 503, health);
    } else {
      const status = sources.status();
      if (status === null) reply(response, 503, healthOf(sources.phase(), null, sources.formingWith()));
      else reply(response, 200, withCommands(status, addressOf(request)));
    }
  } catch (error) {
    fail(response, path, error, sources);
  }
}

const readPaths = ['/health', '/cluster', '/metrics'];
const rebuildPath = /^\/groups\/([0-9]{1,10})\/rebuild$/;
const leavePath = /^\/cluster\/nodes\/([0-9]{1,10})\/leave$/;

/** `begun`: the answer if `run` has no objection. */
function change(
  request: IncomingMessage,
  response: ServerResponse,
  sources: HttpSources,
  run: () => Promise<string | null>,
  begun: object,
): void {
  if (request.method !== 'POST') {
    response.setHeader('allow', 'POST');
    return reply(response, 405, { error: 'method-not-allowed' });
  }
  if (request.headers.origin !== undefined) return reply(response, 403, { error: 'not-for-web-pages' });
  run().then(
    (problem) => {
      if (problem === null) reply(response, 202, begun);
      else reply(response, 409, { error: 'refused', reason: problem });
    },
    (error) => fail(response, request.url ?? '', error, sources),
  );
}

function fail(response: ServerResponse, path: string, error: unknown, sources: HttpSources): void {
  sources.failed(path, error);
  if (!response.headersSent) reply(response, 500, { error: 'internal-error' });
}

/** Where this request came in, for people to copy. */
function addressOf({ socket: { localAddress = '', localPort } }: IncomingMessage): string {
  return `${localAddress.includes(':') ? `[${localAddress}]` : localAddress}:${localPort}`;
}

/** A halted replica tells what to do about it. */
function withCommands(status: StatusView, http: string): StatusView {
  const groups = status.groups.map((group) =>
    typeof group.halted === 'string' ? { ...group, command: rebuildCommand(group.name, http) } : group,
  );
  return { ...status, groups };
}

function reply(response: ServerResponse, code: number, value: unknown): void {
  replyWith(response, code, 'application/json', `${JSON.stringify(value)}\n`);
}

function replyWith(response: ServerResponse, code: number, type: string, text: string): void {
  const bytes = Buffer.from(text);
  response.writeHead(code, { 'content-type': type, 'content-length': bytes.length, 'cache-control': 'no-store' });
  // For HEAD Node leaves the body out.
  response.end(bytes);
}
