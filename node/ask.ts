// Asks a node of this machine over its HTTP port, for who started it. Keeps nothing. Invariant: answers exactly once, whatever comes or does not.

import { request } from 'node:http';
import type { NodeConfig } from './config.ts';

const timeoutMilliseconds = 1_000;
/** Beyond this an answer counts as none. */
const bodyBytesMax = 16 * 1024 * 1024;

export interface NodeAnswer {
  readonly statusCode: number;
  /** What the JSON says; null: it is none. */
  readonly value: unknown;
}

/** Null: the node does not answer. */
export function askNode(config: NodeConfig, path: string): Promise<NodeAnswer | null> {
  const { settings } = config;
  return new Promise((resolve) => {
    const asking = request(
      {
        host: reachableHost(settings['http.host'][0]),
        port: settings['http.port'],
        path,
        agent: false,
        timeout: timeoutMilliseconds,
      },
      (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          if (body.length + chunk.length > bodyBytesMax) asking.destroy();
          else body += chunk;
        });
        response.on('end', () => resolve({ statusCode: response.statusCode ?? 0, value: parse(body) }));
        response.on('error', () => resolve(null));
      },
    );
    asking.on('timeout', () => asking.destroy());
    asking.on('close', () => resolve(null));
    asking.on('error', () => resolve(null));
    asking.end();
  });
}

/** An address to dial for one to listen on. */
export function reachableHost(host = '127.0.0.1'): string {
  if (host === '0.0.0.0') return '127.0.0.1';
  return host === '::' ? '::1' : host;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
