// A target of AMQP URLs: proxies before any broker, and nothing else.

import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { LocalCluster } from '../../chaos/local-cluster.ts';
import { brokerAt } from '../../chaos/targets/broker.ts';
import { openTarget } from '../../chaos/targets/index.ts';
import type { Target } from '../../chaos/types.ts';
import { leastOf } from '../support/timed.ts';

describe('a list of AMQP URLs', { timeout: 60_000 }, () => {
  let broker: LocalCluster;
  let target: Target;

  beforeAll(async () => {
    broker = await LocalCluster.start({ nodes: 1 });
    const [url] = broker.urls;
    target = await openTarget([url!, `${url}/%2f?frameMax=8192`], { toxiproxy: 'embedded' });
  }, 60_000);
  afterEach(() => target.heal());
  afterAll(async () => {
    await target?.close();
    await broker?.stop('SIGKILL');
  });

  const timed = async (url: string): Promise<number> => {
    const before = performance.now();
    await brokerAt(url);
    return performance.now() - before;
  };

  it('is reached through proxies, with all that the URLs say', async () => {
    expect([...target.abilities]).toEqual(['clientLinks']);
    const [own] = broker.urls.map((url) => new URL(url));
    expect(target.nodes.map(({ number, name }) => [number, name])).toEqual([
      [1, own!.host],
      [2, own!.host],
    ]);
    const [first, second] = target.nodes.map(({ url }) => new URL(url));
    expect([first!.username, first!.password, first!.hostname]).toEqual(['guest', 'guest', '127.0.0.1']);
    expect(new Set([own!.port, first!.port, second!.port]).size).toBe(3);
    expect(`${second!.pathname}${second!.search}`).toBe('/%2f?frameMax=8192');
    await target.waitReady(10_000);
    expect((await target.describe()).broker).toMatch(/ \(Warren\)$/);
    expect([await target.leader(), await target.leader(1)]).toEqual([1, 2]);
    expect(await target.followers(0)).toEqual([2]);
  });

  it('harms the links of clients, each alone', async () => {
    await target.clientLink(1, false, { kind: 'latency', milliseconds: 400, jitter: 0 });
    expect(await timed(target.nodes[0]!.url)).toBeGreaterThan(800);
    expect(await leastOf(3, () => timed(target.nodes[1]!.url))).toBeLessThan(800);
    await target.clientLink(2, true, { kind: 'refused' });
    await expect(target.waitReady(0)).rejects.toThrow(/^not there after 0 s: 127\.0\.0\.1:/);
    await target.heal();
    await target.waitReady(10_000);
  });

  it('does nothing else', async () => {
    await expect(target.kill(1)).rejects.toThrow('a list of AMQP URLs has no ability "processes"');
    await expect(target.link(1, 2, { kind: 'cut' })).rejects.toThrow('no ability "links"');
    expect(target.isRunning(1)).toBe(true);
  });
});

it('TLS has no proxies, so nothing can be harmed', async () => {
  const urls = ['amqps://user:secret@127.0.0.1/vhost', 'amqp://127.0.0.1:1'];
  const target = await openTarget(urls);
  expect(target.abilities.size).toBe(0);
  expect(target.nodes.map(({ name }) => name)).toEqual(['127.0.0.1:5671', '127.0.0.1:1']);
  expect(target.nodes.map(({ url }) => url)).toEqual(urls);
  await expect(target.clientLink(1, true, null)).rejects.toThrow('no ability "clientLinks"');
  await target.close();
});

it.each(['127.0.0.1:5672', 'http://127.0.0.1', 'amqp://'])('%s is no AMQP URL', async (text) => {
  await expect(openTarget([text], { toxiproxy: 'embedded' })).rejects.toThrow(`"${text}" is no AMQP URL`);
});
