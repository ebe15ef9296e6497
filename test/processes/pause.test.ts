// Nodes that are silent instead of dead, nodes that are too few, and sessions whose node died.

import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ChannelModel, type ConsumeMessage, connect } from 'amqplib';
import { expect, test } from 'vitest';
import { Workload } from '../../chaos/workload.ts';
import { measureStall } from '../bench/failures.ts';
import { checkHistory, History } from '../history.ts';
import { expectWithin, type Timed } from '../support/timed.ts';
import { expectClean, useCluster } from './support.ts';

const stallMillisecondsMax = 2500;
const pausedMilliseconds = 8000;
const giveBackMillisecondsMax = 10_000;
const quorumQueue = { durable: true, arguments: { 'x-queue-type': 'quorum' } };

const cluster = useCluster({ settings: { 'publish.deadline.milliseconds': '3000' } });

async function open(url: string) {
  const connection = await connect(url, { timeout: 5000 });
  connection.on('error', () => {});
  const channel = await connection.createConfirmChannel();
  channel.on('error', () => {});
  return { connection, channel };
}

test('a paused leader: others wait briefly, and it comes back harmless', { timeout: 300_000 }, async () => {
  await expectWithin(stallMillisecondsMax, () => cluster().pids, pauseLeader);
});

async function pauseLeader(attempt: number): Promise<Timed> {
  const [witness] = cluster().nodes;
  const leader = await cluster().leader(witness);
  const history = new History(() => performance.now());
  const load = { publishers: 4, consumers: 3, rate: 100, retry: true, requeueEvery: 50 };
  const run = `pause-${attempt}`;
  const queues = [1, 2, 3].map((queue) => `${run}-${queue}`);
  const workload = await Workload.start({ urls: cluster().urls, queues, run, ...load }, history);
  const stream = { urls: [witness!.url], bodyBytes: 256, queues: 24, queueType: 'quorum', seconds: 13, rate: 500 };
  const result = await measureStall(stream, async () => {
    await sleep(2000);
    leader.pause();
    await sleep(pausedMilliseconds);
    expect((await cluster().leaderships(witness))[leader.number - 1]).toBe(0);
    leader.resume();
  });
  console.log(`longest time without a confirm: ${result.longestGapMilliseconds.toFixed(0)} ms`);
  await cluster().waitHealthy();
  expectClean({ ...(await workload.finish()), verdict: checkHistory(history.events) }, 1000);
  expect(result.unanswered).toBe(0);
  const to = result.longestGapEndedAt;
  return { from: to - result.longestGapMilliseconds, to };
}

test('a node that wakes after a pause starts no election where others lead', async () => {
  const [witness, other] = cluster().nodes;
  const ledByOthers = async () => (await witness!.view()).groups.filter(({ leader }) => leader !== other!.number);
  const before = await ledByOthers();
  other!.pause();
  await sleep(3000);
  other!.resume();
  await sleep(1500);
  const { groups } = await witness!.view();
  for (const { name, term } of before) expect(groups.find((group) => group.name === name)?.term).toBe(term);
});

test('a node without a majority never confirms and never serves', async () => {
  const [alone, ...others] = cluster().nodes;
  const queues = Array.from({ length: 12 }, (_, i) => `minority-${i}`);
  const { connection, channel } = await open(alone!.url);
  const seen: string[] = [];
  for (const queue of queues) {
    await channel.assertQueue(queue, quorumQueue);
    channel.publish('', queue, Buffer.from('before'));
  }
  await channel.waitForConfirms();
  for (const node of others) node.pause();
  let confirmed = 0;
  for (const queue of queues) {
    channel.publish('', queue, Buffer.from('meanwhile'), {}, (error: Error | null) => {
      if (error === null) confirmed++;
    });
  }
  // Sent on connections of their own: a refused get may end one.
  const readers = await Promise.allSettled(queues.slice(0, 6).map(() => open(alone!.url)));
  for (const [i, reader] of readers.entries()) {
    if (reader.status !== 'fulfilled') continue;
    const queue = queues[i]!;
    const note = (message: { content: Buffer } | null | false) => {
      if (message) seen.push(`${queue}: ${message.content}`);
    };
    if (i % 2 === 0) void reader.value.channel.get(queue).then(note, () => {});
    else void reader.value.channel.consume(queue, note).catch(() => {});
  }
  await sleep(6000);
  expect({ confirmed, seen }).toEqual({ confirmed: 0, seen: [] });
  for (const reader of readers) if (reader.status === 'fulfilled') hangUp(reader.value.connection);
  hangUp(connection);
  for (const node of others) node.resume();
  await cluster().waitHealthy();
  await expectBefore(others[0]!.url, queues);
});

/** Ends a connection that would not answer a polite close. */
function hangUp({ connection }: ChannelModel): void {
  (connection as unknown as { readonly stream: Socket }).stream.destroy();
}

/** What had been confirmed is in every queue. */
async function expectBefore(url: string, queues: readonly string[]): Promise<void> {
  const { connection, channel } = await open(url);
  const found = new Set<string>();
  for (const queue of queues) {
    await channel.consume(queue, (message) => {
      if (!message) return;
      if (message.content.toString() === 'before') found.add(queue);
      channel.ack(message);
    });
  }
  const deadline = performance.now() + giveBackMillisecondsMax;
  while (found.size < queues.length && performance.now() < deadline) await sleep(50);
  await connection.close();
  expect([...found].sort()).toEqual([...queues].sort());
}

test('sessions of a dead node give their messages back', async () => {
  const [survivor, doomed] = cluster().nodes;
  const names = Array.from({ length: 20 }, (_, i) => `m${i}`);
  const first = await open(survivor!.url);
  await first.channel.assertQueue('give-back', quorumQueue);
  for (const name of names) first.channel.publish('', 'give-back', Buffer.from(name));
  await first.channel.waitForConfirms();
  const second = await open(doomed!.url);
  const held: ConsumeMessage[] = [];
  await second.channel.consume('give-back', (message) => message && held.push(message));
  for (let waited = 0; held.length < names.length && waited < 5000; waited += 20) await sleep(20);
  expect(held.length).toBe(names.length);
  await doomed!.kill();
  const killed = performance.now();
  const back: { name: string; redelivered: boolean }[] = [];
  await first.channel.consume('give-back', (message) => {
    if (message) back.push({ name: message.content.toString(), redelivered: message.fields.redelivered });
  });
  while (back.length < names.length && performance.now() - killed < giveBackMillisecondsMax) await sleep(20);
  console.log(`back after ${(performance.now() - killed).toFixed(0)} ms`);
  expect(back).toEqual(names.map((name) => ({ name, redelivered: true })));
  await first.connection.close();
  doomed!.start();
  await cluster().waitHealthy();
});
