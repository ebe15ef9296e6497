// The keys of `warren start`, on real nodes: what p and r do to publishers, and a real terminal.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type ChannelModel, type ConfirmChannel, connect } from 'amqplib';
import { describe, expect, test } from 'vitest';
import type { ClusterStatus } from '../../cluster/index.ts';
import { launch } from '../../node/launch.ts';
import { httpPortOffset } from '../../node/launch-options.ts';
import { isMissing } from '../interop/programs.ts';
import { freeBasePort } from '../node/ports.ts';

const main = fileURLToPath(new URL('../../dist/node/main.js', import.meta.url));
/** Far beyond what a busy machine takes: nothing here is to run out of time. */
const patienceMilliseconds = 100_000;
const environment = {
  WARREN_NODE_DEAD_MILLISECONDS: '120000',
  WARREN_PUBLISH_DEADLINE_MILLISECONDS: '120000',
};

async function until<T>(look: () => Promise<T | null> | T | null): Promise<T> {
  const end = performance.now() + patienceMilliseconds;
  for (;;) {
    const found = await look();
    if (found !== null) return found;
    if (performance.now() > end) throw new Error('it does not happen');
    await sleep(50);
  }
}

/** Three nodes and their terminal. */
async function start() {
  const port = await freeBasePort(3);
  const terminal = Object.assign(new PassThrough(), { setRawMode: () => {} });
  const lines: string[] = [];
  const print = (line: string) => void lines.push(line);
  const launched = launch(
    { nodesCount: 3, dataFolder: null, port },
    {
      script: main,
      environment,
      print,
      printError: print,
      isTerminal: false,
      colours: false,
      keys: terminal,
      times: { patience: patienceMilliseconds },
    },
  );
  const line = (pattern: RegExp) => until(() => lines.find((text) => pattern.test(text)) ?? null);
  const url = (node: number) => `amqp://guest:guest@127.0.0.1:${port + node - 1}`;
  const view = async (node: number) =>
    (await (await fetch(`http://127.0.0.1:${port + httpPortOffset + node - 1}/cluster`)).json()) as ClusterStatus;
  await line(/^ {2}keys:/);
  return { terminal, lines, line, launched, url, view };
}

async function open(url: string, clients: ChannelModel[]): Promise<ConfirmChannel> {
  const client = await connect(url);
  client.on('error', () => {});
  clients.push(client);
  return client.createConfirmChannel();
}

/** Publishes bodies; their fates so far: whether each was confirmed. */
function publish(channel: ConfirmChannel, queue: string, bodies: readonly string[]): boolean[] {
  const fates: boolean[] = [];
  for (const body of bodies)
    channel.sendToQueue(queue, Buffer.from(body), { persistent: true }, (error) => fates.push(error === null));
  return fates;
}

const names = (prefix: string) => Array.from({ length: 10 }, (_, at) => `${prefix}-${at}`);

describe('the keys of warren start', () => {
  test('a leader that is cut off confirms nothing and loses nothing, and others lead meanwhile', async () => {
    const { terminal, line, lines, launched, url, view } = await start();
    const clients: ChannelModel[] = [];
    try {
      const channels = await Promise.all([1, 2, 3].map((node) => open(url(node), clients)));
      for (const queue of ['a', 'b']) await channels[0]!.assertQueue(queue, { durable: true });
      terminal.write('p');
      const alone = Number(/^p: n(\d)/.exec(await line(/^p:/))![1]);
      const other = (alone % 3) + 1;
      const third = (other % 3) + 1;
      await until(async () => ((await view(alone)).nodes.filter(({ up }) => up).length === 1 ? true : null));

      const held = publish(channels[alone - 1]!, 'a', names('held'));
      await until(async () => {
        const { groups } = await view(other);
        return groups.every(({ leader }) => leader !== 0 && leader !== alone) ? true : null;
      });
      const confirmed = publish(channels[other - 1]!, 'b', names('there'));
      await until(() => (confirmed.length === 10 ? true : null));
      expect(confirmed).toEqual(Array(10).fill(true));
      await sleep(500);
      expect(held).toEqual([]);

      terminal.write('r');
      expect(await line(/^r:/)).toBe(`r: n${alone} can reach the others again`);
      await until(() => (held.length === 10 ? true : null));
      expect(held).toEqual(Array(10).fill(true));
      const received: string[] = [];
      for (const queue of ['a', 'b'])
        await channels[third - 1]!.consume(queue, (message) => received.push(message!.content.toString()), {
          noAck: true,
        });
      await until(() => (received.length >= 20 ? true : null));
      await sleep(300);
      expect(received.sort()).toEqual([...names('held'), ...names('there')].sort());
    } catch (error) {
      console.error(lines.join('\n'));
      throw error;
    } finally {
      await Promise.all(clients.map((client) => client.close().catch(() => {})));
      terminal.write('q');
      expect(await launched.done).toBe(0);
    }
  });
});

/** Runs a program at a terminal of its own, presses keys when it has written what is waited for, and tells how the terminal and the program ended. */
const atTerminal = `
import os, pty, select, sys, termios, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
seen = ''
def wait(text):
    global seen
    end = time.time() + 100
    while text not in seen:
        if time.time() > end: sys.exit('no ' + text + ' in ' + seen)
        if select.select([terminal], [], [], 1)[0]:
            try: seen += os.read(terminal, 65536).decode(errors='replace')
            except OSError: sys.exit('it ended: ' + seen)
    seen = seen[seen.index(text) + len(text):]
def canonical():
    return 'cooked' if termios.tcgetattr(terminal)[3] & termios.ICANON else 'raw'
wait('keys: k kill the leader')
print('at keys', canonical())
os.write(terminal, b'k')
wait('n1 died')
wait('n1 is back')
os.write(terminal, sys.stdin.buffer.read())
end = time.time() + 100
modes = set()
while time.time() < end:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done: break
    if canonical() == 'cooked': modes.add('cooked before the end')
    if select.select([terminal], [], [], 0.02)[0]:
        try: os.read(terminal, 65536)
        except OSError: pass
print(*sorted(modes))
print('exit code', os.waitstatus_to_exitcode(status))
`;

describe.skipIf(
  isMissing('a terminal', { command: 'python3', args: ['-c', 'import os, pty; os.waitstatus_to_exitcode'] }),
)('at a terminal', () => {
  test.each([
    ['q', 'q'],
    ['Ctrl-C', '\u0003'],
  ])('k kills, %s stops, and the terminal is as it was', async (_name, key) => {
    const port = await freeBasePort(1);
    const flags = ['start', '--ephemeral', '--nodes', '1', '--port', String(port)];
    const child = spawn('python3', ['-c', atTerminal, process.execPath, main, ...flags], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    child.stdin.end(key);
    let written = '';
    child.stdout.on('data', (chunk: Buffer) => {
      written += chunk.toString();
    });
    await once(child, 'close');
    expect(written).toBe('at keys raw\ncooked before the end\nexit code 0\n');
  });
});
