// A Toxiproxy server to send links through: the one at TOXIPROXY_URL, else a `toxiproxy-server` on the PATH, else the embedded one.
//
// State owned: the process of a server that was started here; `close` ends it, and it ends with this process. A server that was found
// running is left running: its proxies are for `Links` to delete.

import { type ChildProcess, fork } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, dirname, isAbsolute, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { Toxiproxy } from 'toxiproxy-node-client';

const startMillisecondsMax = 40_000;
const answerMillisecondsMax = 10_000;
const stopMillisecondsMax = 5_000;

export interface ToxiproxyOptions {
  /** `embedded`; `path`: the program on the PATH; a file: that program; a URL. Null: what there is, in the order above. */
  readonly use?: string | null;
  /** Instead of the process's. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
}

export interface ToxiproxyHandle {
  /** `server`: it ran already; `path`: a program that was started; `embedded`: our own. */
  readonly kind: 'server' | 'path' | 'embedded';
  readonly url: string;
  readonly version: string;
  readonly api: Toxiproxy;
  close(): Promise<void>;
}

/** What the process of a server says when it is ready, or cannot be. */
export type ToxiproxyMessage = { readonly url: string } | { readonly error: string };

/** Rejects, with the reason, if what was asked for is not there. */
export async function openToxiproxy(options: ToxiproxyOptions = {}): Promise<ToxiproxyHandle> {
  const environment = options.environment ?? process.env;
  const use = options.use || environment.TOXIPROXY_URL || null;
  if (use === 'embedded') return await openProcess(null);
  if (use === null || use === 'path') {
    const program = findProgram(environment.PATH ?? '');
    if (use === 'path' && program === null) throw new Error('there is no toxiproxy-server on the PATH');
    return await openProcess(program);
  }
  if (isAbsolute(use) || use.startsWith('.')) return await openProcess(use);
  if (use.includes(':')) return await openServer(use);
  throw new Error(`Toxiproxy: ${use} is none of embedded, path, a file, a URL`);
}

async function openServer(address: string): Promise<ToxiproxyHandle> {
  const url = (address.includes('://') ? address : `http://${address}`).replace(/\/+$/, '');
  return { kind: 'server', url, ...(await connectTo(url)), close: async () => {} };
}

/** Null: the embedded server. */
async function openProcess(program: string | null): Promise<ToxiproxyHandle> {
  const child = fork(mainPath(), program === null ? [] : [program], {
    // Nothing of how this process was started is for that one: a debugger's port, a test's loader.
    execArgv: [],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  try {
    const url = await readyUrl(child);
    const { api, version } = await connectTo(url);
    return { kind: program === null ? 'embedded' : 'path', url, version, api, close: () => end(child) };
  } catch (error) {
    await end(child);
    throw error;
  }
}

async function connectTo(url: string): Promise<{ api: Toxiproxy; version: string }> {
  const api = new Toxiproxy(url);
  try {
    const answer = await within(answerMillisecondsMax, 'no answer', api.getVersion());
    return { api, version: versionOf(answer) };
  } catch (error) {
    throw new Error(`no Toxiproxy server at ${url}: ${error instanceof Error ? error.message : error}`);
  }
}

/** Servers before 2.6 answer with the bare version, later ones with an object. */
function versionOf(answer: string): string {
  return /"version":\s*"([^"]*)"/.exec(answer)?.[1] ?? answer.trim();
}

async function readyUrl(child: ChildProcess): Promise<string> {
  const message = new Promise<string>((resolve, reject) => {
    child.once('message', (said: ToxiproxyMessage) => {
      if ('url' in said) resolve(said.url);
      else reject(new Error(said.error));
    });
    child.once('error', reject);
    child.once('exit', (code, signal) => reject(new Error(`the Toxiproxy process ended with ${signal ?? code}`)));
  });
  return await within(startMillisecondsMax, 'the Toxiproxy process does not get ready', message);
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  if (child.connected) child.disconnect();
  const timer = setTimeout(() => child.kill('SIGKILL'), stopMillisecondsMax);
  await ended;
  clearTimeout(timer);
}

/** The first `toxiproxy-server` that can be run. */
function findProgram(path: string): string | null {
  for (const folder of path.split(delimiter)) {
    const file = join(folder, 'toxiproxy-server');
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // Not here.
    }
  }
  return null;
}

/** The compiled program beside this file, wherever this file itself runs from. */
function mainPath(): string {
  const beside = fileURLToPath(new URL('main.js', import.meta.url));
  if (existsSync(beside)) return beside;
  const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
  return join(root, 'dist', 'chaos', 'toxiproxy', 'main.js');
}

async function within<T>(milliseconds: number, otherwise: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${otherwise} within ${milliseconds} ms`)), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
