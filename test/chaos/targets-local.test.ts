// The local target does to a cluster of real processes what it says, and heals it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChannelModel, ConfirmChannel } from 'amqplib';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { leaveConnection, openConnection } from '../../chaos/client.ts';
import { openTarget } from '../../chaos/targets/index.ts';
import { abilities, type Target } from '../../chaos/types.ts';
import { leastOf } from '../support/timed.ts';

/** For machines with much else to do. */
const readyMilliseconds = 60_000;

describe('a local target', { timeout: 180_000 }, () => {
  let target: Target;
  let connections: ChannelModel[];

  beforeAll(async () => {
    connections = [];
    const settings = { 'disk.check.milliseconds': '200' };
    target = await openTarget('local', { settings, toxiproxy: 'embedded' });
  }, 120_000);
  afterEach(async () => {
    await Promise.all(connections.splice(0).map(leaveConnection));
    await target.heal();
    await target.waitReady(readyMilliseconds);
  }, 120_000);
  afterAll(() => target?.close(), 60_000);

  async function channelAt(node: number): Promise<{ connection: ChannelModel; channel: ConfirmChannel }> {
    const connection = await openConnection(target.nodes[node - 1]!.url, 20);
    connections.push(connection);
    const channel = await connection.createConfirmChannel();
    channel.on('error', () => {});
    return { connection, channel };
  }
  async function until(what: string, check: () => Promise<boolean> | boolean, milliseconds = 30_000): Promise<void> {
    for (const deadline = performance.now() + milliseconds; performance.now() < deadline; await sleep(50))
      if (await check()) return;
    expect.unreachable(`${what} within ${milliseconds} ms`);
  }
  const isReady = (milliseconds: number) =>
    target.waitReady(milliseconds).then(
      () => true,
      () => false,
    );

  it('has all abilities, says what it is, and who leads', async () => {
    expect([...target.abilities].sort()).toEqual([...abilities].sort());
    const described = await target.describe();
    expect(described.toxiproxy).toContain('embedded');
    expect(described.warren).toMatch(/^\d+\.\d+\.\d+/);
    const leader = await target.leader();
    expect([1, 2, 3]).toContain(leader);
    expect(await target.followers(20_000)).toHaveLength(2);
    expect(target.pids).toHaveLength(3);
    expect([1, 2, 3].filter((node) => node !== leader)).toContain(await target.leader(leader));
  });

  it('starts what was killed, stopped, paused and cut off', async () => {
    await target.kill(1);
    expect(target.isRunning(1)).toBe(false);
    await target.waitReady(readyMilliseconds);
    await target.start(1);
    await target.waitReady(readyMilliseconds);
    await target.stop(1);
    await target.pause(2);
    for (const [from, to] of [
      [3, 1],
      [1, 3],
      [3, 2],
      [2, 3],
    ] as const)
      await target.link(from, to, { kind: 'refused' });
    expect(await isReady(500)).toBe(false);
    await target.heal();
    await target.waitReady(readyMilliseconds);
    expect([1, 2, 3].map((node) => target.isRunning(node))).toEqual([true, true, true]);
  });

  it('cuts a node off by its links alone, and one direction alone', async () => {
    for (const to of [1, 2]) await target.link(3, to, { kind: 'cut' });
    // Nobody hears node 3: what it leads goes to others, and a queue that it is asked for stays unanswered.
    await until('others lead', async () => (await target.leader()) !== 3);
    const { channel } = await channelAt(1);
    await channel.assertQueue('heard', { durable: true });
    for (const to of [1, 2]) await target.link(3, to, null);
    await target.waitReady(readyMilliseconds);
    const there = await channelAt(3);
    expect((await there.channel.checkQueue('heard')).queue).toBe('heard');
  });

  it('holds back what clients send, or are sent', async () => {
    const { channel } = await channelAt(2);
    await channel.assertQueue('slow', { durable: true });
    const timed = async () => {
      const before = performance.now();
      await channel.checkQueue('slow');
      return performance.now() - before;
    };
    for (const toNode of [true, false]) {
      await target.clientLink(2, toNode, { kind: 'latency', milliseconds: 700, jitter: 0 });
      expect(await timed()).toBeGreaterThan(650);
      await target.clientLink(2, toNode, null);
    }
    expect(await leastOf(3, timed)).toBeLessThan(600);
    await target.clientLink(2, true, { kind: 'refused' });
    await expect(channelAt(2)).rejects.toThrow();
  });

  it('makes disks slow, and hang', async () => {
    const { channel } = await channelAt(1);
    await channel.assertQueue('disks', { durable: true });
    const publish = async () => {
      const before = performance.now();
      channel.sendToQueue('disks', Buffer.from('x'), { persistent: true });
      await channel.waitForConfirms();
      return performance.now() - before;
    };
    for (const node of [1, 2, 3]) await target.disk(node, { kind: 'slow', milliseconds: 500 });
    expect(await publish()).toBeGreaterThan(480);
    for (const node of [1, 2, 3]) await target.disk(node, { kind: 'hanging' });
    let isConfirmed = false;
    const hanging = publish().then(() => (isConfirmed = true));
    await sleep(1000);
    expect(isConfirmed).toBe(false);
    for (const node of [1, 2, 3]) await target.disk(node, null);
    await hanging;
    expect([1, 2, 3].map((node) => target.isRunning(node))).toEqual([true, true, true]);
  });

  it('makes a disk fail: the node ends, and comes back when it is well', async () => {
    await target.disk(3, { kind: 'failing' });
    await until('it ends', () => !target.isRunning(3));
    const { folder } = await target.describe();
    expect(readFileSync(join(folder!, 'n3.log'), 'utf8').trimEnd().split('\n').at(-1)).toContain('EIO: i/o error');
    await target.disk(3, null);
    await target.waitReady(readyMilliseconds);
    expect(target.isRunning(3)).toBe(true);
  });

  it('fills a disk: publishers are held, acknowledgements go on', async () => {
    const { connection, channel } = await channelAt(1);
    await channel.assertQueue('room', { durable: true });
    for (let i = 0; i < 3; i++) channel.sendToQueue('room', Buffer.from(String(i)), { persistent: true });
    await channel.waitForConfirms();
    let isBlocked = false;
    connection.on('blocked', () => (isBlocked = true));
    connection.on('unblocked', () => (isBlocked = false));
    await target.disk(2, { kind: 'full' });
    await until('the publisher hears of it', () => {
      channel.sendToQueue('room', Buffer.from('more'), { persistent: true });
      return isBlocked;
    });
    const consumer = await channelAt(3);
    for (let i = 0; i < 3; i++) {
      const message = await consumer.channel.get('room');
      if (message === false) return expect.unreachable('a message is there');
      consumer.channel.ack(message);
    }
    // Not with its connection: the client library may send its close before the acknowledgement.
    await consumer.channel.close();
    const again = await channelAt(3);
    const next = await again.channel.get('room');
    expect(next === false ? 'more' : next.content.toString()).toBe('more');
    expect(target.isRunning(2)).toBe(true);
    await target.disk(2, null);
    await until('the publisher may go on', () => !isBlocked);
    await channel.waitForConfirms();
  });

  it('puts a clock forward, also that of a process started later', async () => {
    const { folder } = await target.describe();
    const lastLine = () => JSON.parse(readFileSync(join(folder!, 'n3.log'), 'utf8').trimEnd().split('\n').at(-1)!);
    await target.clock(3, 600_000);
    await target.stop(3);
    // It said so after its clock was put forward.
    expect(lastLine()).toMatchObject({ node: 'n3', msg: 'the node has stopped' });
    expect(Math.abs(lastLine().time - Date.now() - 600_000)).toBeLessThan(30_000);
    await target.start(3);
    await target.waitReady(readyMilliseconds);
    expect(Math.abs(lastLine().time - Date.now() - 600_000)).toBeLessThan(60_000);
  });

  it('tells of a node that ended by itself, once', async () => {
    const { folder } = await target.describe();
    process.kill(Number(readFileSync(join(folder!, 'n2', 'pid'), 'utf8')), 'SIGKILL');
    await until('it has ended', () => !target.isRunning(2));
    await expect(target.waitReady(1000)).rejects.toThrow('n2 ended by itself (SIGKILL)');
    await target.heal();
    await target.waitReady(readyMilliseconds);
  });

  it('lets a node in, whose links are cut like any, and lets it go', async () => {
    const joined = await target.join();
    expect(joined).toBe(4);
    await target.waitReady(readyMilliseconds);
    for (const other of [1, 2, 3]) {
      await target.link(4, other, { kind: 'refused' });
      await target.link(other, 4, { kind: 'refused' });
    }
    await until('it is cut off', async () => !(await isReady(0)));
    await target.kill(4);
    await target.heal();
    await target.waitReady(readyMilliseconds);
    await target.leave(4);
    expect(target.isRunning(4)).toBe(false);
    await expect(target.start(4)).rejects.toThrow('has left');
  });
});
