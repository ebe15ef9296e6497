// What the tests of the proxies share: where the real server is, a client that remembers what it saw, and waiting.

import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { cacheFolder, isMissing } from '../interop/programs.ts';

const folders = [...(process.env.PATH ?? '').split(delimiter), cacheFolder];
const candidates = [...folders.map((folder) => join(folder, 'toxiproxy-server')), join(homedir(), 'go/bin/server')];
/** The real server, or where it should be. */
export const realPath = candidates.find(existsSync) ?? join(cacheFolder, 'toxiproxy-server');

/** Whether what needs it is skipped, which is said; in CI nothing is. */
export const isRealMissing = (): boolean => isMissing('toxiproxy-server', { command: realPath, args: ['--version'] });

const waitMillisecondsMax = 20_000;

export class Client {
  readonly socket: Socket;
  bytes = 0;
  /** The code of the error that ended it. */
  error: string | null = null;
  isClosed = false;
  readonly #chunks: Buffer[] = [];

  static async connect(port: number): Promise<Client> {
    const socket = connect({ host: '127.0.0.1', port, noDelay: true });
    await once(socket, 'connect');
    return new Client(socket);
  }

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk) => {
      this.bytes += chunk.length;
      if (this.bytes < 100_000) this.#chunks.push(chunk);
    });
    socket.on('error', (error: NodeJS.ErrnoException) => (this.error = error.code ?? error.message));
    socket.on('close', () => (this.isClosed = true));
  }

  /** The first bytes that it was sent. */
  get text(): string {
    return Buffer.concat(this.#chunks).toString();
  }

  async received(bytes: number): Promise<void> {
    await until(() => this.bytes >= bytes);
  }

  async closed(): Promise<void> {
    await until(() => this.isClosed);
  }
}

export async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + waitMillisecondsMax;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`still not so after ${waitMillisecondsMax} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export async function listening(server: Server): Promise<AddressInfo> {
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return server.address() as AddressInfo;
}

/** A port that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer();
  const { port } = await listening(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}
