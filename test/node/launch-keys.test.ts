// Keys of the launcher: a stream in place of the terminal, scripts in place of nodes.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type Launch, launch } from '../../node/launch.ts';
import { freeBasePort } from './ports.ts';

const script = fileURLToPath(new URL('fake-node.mjs', import.meta.url));

let root: string;
let running: Launch | null;
let lines: string[];
let looks: (() => void)[];

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'warren-test-'));
  lines = [];
  looks = [];
  running = null;
});
afterEach(async () => {
  running?.stop();
  await running?.done;
  rmSync(root, { recursive: true, force: true });
});

/** A launcher that is ready, and its terminal. `leads`: see `fake-node.mjs`. */
async function ready(nodesCount: number, leads: string) {
  const modes: boolean[] = [];
  const terminal = Object.assign(new PassThrough(), { setRawMode: (on: boolean) => modes.push(on) });
  const print = (line: string) => {
    lines.push(line);
    for (const look of looks) look();
  };
  running = launch(
    { nodesCount, dataFolder: root, port: await freeBasePort(nodesCount) },
    {
      script,
      environment: { FAKE_LEADS: leads },
      print,
      printError: print,
      isTerminal: false,
      colours: false,
      keys: terminal,
      times: { restart: 50, healthPoll: 20, patience: 60_000 },
    },
  );
  await line(/^ {2}keys:/);
  return { terminal, modes, launched: running };
}

/** The first line that matches, now or later; it is not looked at again. */
function line(pattern: RegExp): Promise<string> {
  return new Promise((resolve) => {
    const look = () => {
      const at = lines.findIndex((text) => pattern.test(text));
      if (at < 0) return;
      looks = looks.filter((other) => other !== look);
      resolve(lines.splice(at, 1)[0]!);
    };
    looks.push(look);
    look();
  });
}

/** What a node logged: which node, and what. */
async function told(order: string): Promise<string> {
  const { node } = JSON.parse(await line(new RegExp(`told .*${order}`)));
  return node;
}

it('k kills the node that leads most, and it comes back', async () => {
  const { terminal } = await ready(3, 'n2:1,3;n1:2');
  terminal.write('k');
  expect(await line(/^k:/)).toBe('k: kill -9 n2, which leads 2 of 4');
  expect(await line(/^n2 died/)).toContain('signal SIGKILL');
  await line(/^n2 is back/);
});

it('p cuts it off, the next one too, and r heals them', async () => {
  // Node 2 was deposed in groups 1 and 4, and has not heard of it.
  const { terminal } = await ready(3, 'n2:1,4;n3:1,4;n1:3');
  terminal.write('p');
  expect(await line(/^p:/)).toBe(
    'p: n3, which leads 2 of 4, is cut off from the other nodes, and keeps its clients. r heals',
  );
  expect(await told('true')).toBe('n3');
  terminal.write('p');
  expect(await line(/^p:/)).toBe(
    'p: n2, which leads 2 of 4, is cut off from the other nodes, and keeps its clients. 1 of 3 are no majority: nothing is confirmed. r heals',
  );
  expect(await told('true')).toBe('n2');
  terminal.write('rr');
  expect(await line(/^r:/)).toBe('r: n2, n3 can reach the others again');
  expect([await told('false'), await told('false')].sort()).toEqual(['n2', 'n3']);
  expect(await line(/^r:/)).toBe('r: no node is cut off');
});

it('a node that was cut off, and died, is not cut off any more', async () => {
  const { terminal } = await ready(3, 'n1:1,2');
  terminal.write('pk');
  await line(/^k: kill -9 n1/);
  await line(/^n1 is back/);
  terminal.write('r');
  expect(await line(/^r:/)).toBe('r: no node is cut off');
});

it('says so where there is nothing to harm', async () => {
  const { terminal } = await ready(1, '');
  terminal.write('kpx');
  expect(await line(/^k:/)).toBe('k: no node leads now');
  expect(await line(/^p:/)).toBe('p: there is but one node');
  terminal.write('?');
  expect(await line(/^keys:/)).toBe('keys: k kill the leader  p partition it  r heal  q quit');
});

it.each([
  ['q', 'q'],
  ['Ctrl-C', '\u0003'],
])('%s stops all nodes and gives the terminal back', async (_name, key) => {
  const { terminal, modes, launched } = await ready(3, '');
  expect(modes).toEqual([true]);
  terminal.write(key);
  expect(await launched.done).toBe(0);
  expect(modes).toEqual([true, false]);
  expect([terminal.isPaused(), terminal.listenerCount('data')]).toEqual([true, 0]);
});

it('gives the terminal back however the launcher is stopped', async () => {
  const { modes, launched } = await ready(1, '');
  launched.stop();
  expect(await launched.done).toBe(0);
  expect(modes).toEqual([true, false]);
});
