// The demo beside a cluster of real processes: its counters meet whatever is killed, and it says so when there is nothing to talk to.

import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { Tally } from '../../chaos/demo/tally.ts';
import { parseDemoFlags, runDemo } from '../../chaos/demo.ts';
import { useCluster } from '../processes/support.ts';

interface Listener {
  readonly out: { write(text: string): void };
  readonly text: () => string;
  /** Resolves with the match, once the demo has said something like this. */
  says(pattern: RegExp): Promise<RegExpExecArray>;
}

function listen(): Listener {
  let text = '';
  const out = {
    write: (more: string) => {
      text += more;
    },
  };
  const says = async (pattern: RegExp) => {
    const deadline = performance.now() + 60_000;
    for (;;) {
      const match = pattern.exec(text);
      if (match !== null) return match;
      if (performance.now() > deadline) throw new Error(`never said ${pattern}:\n${text}`);
      await sleep(50);
    }
  };
  return { out, text: () => text, says };
}

describe('beside a cluster', () => {
  const cluster = useCluster();

  test('ends by itself', async () => {
    const { out, text } = listen();
    const options = { urls: cluster().urls, rate: 50, seconds: 5, plain: false };
    expect(await runDemo(options, { out, signal: new AbortController().signal }), text()).toBe(0);
    expect(text()).toMatch(/\nsent ([\d,]+), confirmed \1, received \1, lost 0\n.*\nNothing was lost\.\n$/);
  }, 60_000);

  test('the node of the producer is killed: all that was sent is confirmed and received', async () => {
    const { nodes, urls } = cluster();
    const { out, text, says } = listen();
    const interrupted = new AbortController();
    const options = { urls, rate: 300, seconds: null, plain: true };
    const running = runDemo(options, { out, signal: interrupted.signal });
    const [, producer] = await says(/received [1-9].*producer at node (\d) .*consumer at node \d /);
    const victim = nodes[Number(producer) - 1]!;
    // A take-over alone may be over sooner than a stall is long.
    victim.pause();
    await sleep(200);
    await victim.kill();
    const [, at] = await says(new RegExp(`producer at node (?!${producer})(\\d) `));
    expect(at).not.toBe(producer);
    const before = /confirmed ([\d,]+)(?!.*confirmed)/s.exec(text())![1]!;
    victim.start();
    await says(new RegExp(`confirmed ${before}[^]*confirmed (?!${before})[\\d,]+`));
    interrupted.abort();
    expect(await running, text()).toBe(0);
    expect(text()).toMatch(/\nsent ([\d,]+), confirmed \1, received \1, lost 0\n/);
    expect(text()).toMatch(/longest stall .*, [1-9]\d* reconnects/);
    expect(text()).toMatch(/\nNothing was lost\.\n$/);
  }, 120_000);
});

test('no broker: says how to start one', async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  const { out, text } = listen();
  const options = { urls: [`amqp://127.0.0.1:${port}`], rate: 1, seconds: 1, plain: true };
  expect(await runDemo(options, { out, signal: new AbortController().signal })).toBe(2);
  expect(text()).toMatch(
    new RegExp(`^No broker answers:\n {2}127.0.0.1:${port}: .*ECONNREFUSED.*\nStart a cluster .*npm start\n$`),
  );
});

test('flags', () => {
  expect(parseDemoFlags([])).toMatchObject({ rate: 500, seconds: null, plain: false, urls: { length: 3 } });
  const flags = ['--url', 'amqp://a', '--url', 'amqps://b:1', '--rate', '20', '--seconds', '5', '--plain'];
  expect(parseDemoFlags(flags)).toEqual({ urls: ['amqp://a', 'amqps://b:1'], rate: 20, seconds: 5, plain: true });
  expect(parseDemoFlags(['-h'])).toBeNull();
  expect(() => parseDemoFlags(['--url', 'http://a'])).toThrow('--url = "http://a": must be like amqp://');
  expect(() => parseDemoFlags(['--rate', '0'])).toThrow('--rate = "0": must be an integer from 1 to');
  expect(() => parseDemoFlags(['--fast'])).toThrow("Unknown option '--fast'");
});

describe('tally', () => {
  test('each message counts once, in whatever order it comes', () => {
    const tally = new Tally(2);
    expect([tally.send(0), tally.send(0), tally.send(0)]).toEqual([0, 1, 2]);
    tally.receive(2);
    tally.receive(0);
    tally.receive(0);
    tally.receive(2);
    expect([tally.received, tally.repeated]).toEqual([2, 2]);
    tally.confirm(0, 1);
    tally.confirm(1, 1);
    expect(tally.unconfirmed()).toEqual([2]);
    expect([tally.sent, tally.confirmed, tally.awaitedCount, tally.unconfirmedCount]).toEqual([3, 2, 1, 1]);
    tally.receive(1);
    expect([tally.received, tally.awaitedCount]).toEqual([3, 0]);
    expect(() => tally.confirm(0, 2)).toThrow('confirmed before');
  });

  test('what was confirmed and does not come is overdue after a while', () => {
    const tally = new Tally(1);
    for (let i = 0; i < 3; i++) tally.send(0);
    tally.confirm(0, 0);
    tally.confirm(1, 10_000);
    tally.receive(0);
    expect([tally.overdue(39_999), tally.overdue(40_000)]).toEqual([0, 1]);
    expect([tally.receiveWait(12_000), tally.confirmWait(12_000)]).toEqual([2000, 2000]);
  });

  test('a stall is a wait in one queue while others go on; stalls close to each other are one', () => {
    const tally = new Tally(2);
    const [a, b] = [tally.send(0), tally.send(0)];
    tally.confirm(a, 50);
    expect(tally.lastStall).toBeNull();
    tally.confirm(tally.send(100), 150);
    expect(tally.confirmWait(400)).toBe(400);
    tally.confirm(b, 400);
    expect(tally.lastStall).toEqual({ milliseconds: 400, endedAt: 400 });
    const [c, d] = [tally.send(2000), tally.send(2000)];
    tally.confirm(c, 2300);
    tally.confirm(d, 2450);
    expect(tally.lastStall).toEqual({ milliseconds: 450, endedAt: 2450 });
    tally.confirm(tally.send(5000), 5200);
    expect(tally.lastStall).toEqual({ milliseconds: 200, endedAt: 5200 });
    expect(tally.longestStallMilliseconds).toBe(450);
  });
});
