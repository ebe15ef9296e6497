// The process in which a Toxiproxy server lives for another process: the embedded server, or the program that the first argument names.
// Apart from its parent, whose event loop the load of a run keeps busy.
//
// State owned: that server, on a free port of the loopback interface. It says one `ToxiproxyMessage` on its IPC channel, and ends, with
// the program, when the channel closes: no proxy outlives the process that asked for it, however that one ends.

import { type ChildProcess, spawn } from 'node:child_process';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ToxiproxyMessage } from './open.ts';
import { ToxiproxyServer } from './server.ts';

const startMillisecondsMax = 10_000;
/** Its port may be taken by somebody else between the search and its start. */
const attemptsMax = 3;

if (!process.send) throw new Error('this program is started by others, with an IPC channel');
let child: ChildProcess | null = null;
const end = (code: number) => {
  child?.kill('SIGKILL');
  process.exit(code);
};
// A Ctrl-C is for the parent, which still needs the proxies to heal what it broke.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => end(0));
process.on('disconnect', () => end(0));

const program = process.argv[2];
try {
  say({ url: program === undefined ? (await ToxiproxyServer.listen()).url : await startProgram(program) });
} catch (error) {
  say({ error: error instanceof Error ? error.message : String(error) });
}

function say(message: ToxiproxyMessage): void {
  process.send?.(message);
}

async function startProgram(path: string): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    let output = '';
    const started = spawn(path, ['-host', '127.0.0.1', '-port', String(port)], {
      env: { ...process.env, LOG_LEVEL: 'error' },
      stdio: ['ignore', 'pipe', 'pipe'],
      // Its own group: see SIGINT above.
      detached: true,
    });
    child = started;
    for (const stream of [started.stdout, started.stderr]) {
      stream.on('data', (chunk: Buffer) => (output = (output + chunk).slice(-2000)));
    }
    let ending: string | null = null;
    started.once('error', (error) => (ending = error.message));
    started.once('exit', (code, signal) => (ending ??= `ended with ${signal ?? code}`));
    const deadline = performance.now() + startMillisecondsMax;
    while (ending === null && performance.now() < deadline) {
      if (await answers(url)) {
        started.once('exit', () => end(1));
        return url;
      }
      await sleep(20);
    }
    started.kill('SIGKILL');
    if (attempt === attemptsMax) throw new Error(`${path}: ${ending ?? 'does not answer'}\n${output}`);
  }
}

async function answers(url: string): Promise<boolean> {
  return await fetch(`${url}/version`).then(
    (response) => response.ok,
    () => false,
  );
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
