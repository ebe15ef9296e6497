// What is done to one queue while others are measured, by a process of its own: the load generator has other clients, whose times are taken, and
// a thread that starts there, or ends and gives gigabytes back, would stand in them. It gives way to all others: who takes 200,000 messages a
// second has processors of its own, and not those of three nodes.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { constants, setPriority } from 'node:os';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Client } from './client.ts';
import { count } from './report.ts';

export type DisturbanceKind = 'purge' | 'consume' | 'large' | 'expire' | 'remove';

export interface Disturbance {
  readonly kind: DisturbanceKind;
  readonly queue: string;
  readonly urls: readonly string[];
  /** In the queue. */
  readonly messages: number;
  /** How long it may take them to expire. */
  readonly milliseconds: number;
}

const self = fileURLToPath(import.meta.url);
const largeBytes = 128 * 1024 * 1024;

/** Whoever will do it is there, and waits. What is returned does it, and resolves with a remark when it is over. */
export async function prepare(disturbance: Disturbance): Promise<() => Promise<string>> {
  const child = fork(self, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const failed = once(child, 'exit').then(([code]) => {
    throw new Error(`${disturbance.kind} came to nothing: exit ${code}`);
  });
  // In the end it exits, and nobody asks any more.
  failed.catch(() => {});
  const next = async () => ((await Promise.race([once(child, 'message'), failed])) as [string])[0];
  await next();
  return () => {
    child.send(disturbance);
    return next();
  };
}

async function purge({ queue, urls }: Disturbance): Promise<string> {
  const client = await Client.connect(urls[0]!);
  await client.purgeQueue(queue);
  await client.close();
  return '';
}

async function remove({ queue, urls }: Disturbance): Promise<string> {
  const client = await Client.connect(urls[0]!);
  client.deleteQueue(queue);
  // Answered once the deletion is done.
  await client.selectConfirms();
  await client.close();
  return '';
}

/** Takes as much as comes in a bounded time, acknowledges nothing, and goes: everything returns, and that is waited for. */
async function consumeAll(context: Disturbance): Promise<string> {
  const client = await Client.connect(context.urls[0]!);
  let received = 0;
  client.onDelivery = () => received++;
  await client.consume(context.queue, 0);
  for (let waited = 0; received < context.messages && waited < 60_000; waited += 100) await sleep(100);
  await client.close();
  const again = await Client.connect(context.urls[0]!);
  for (let waited = 0; waited < 60_000 && (await again.countReady(context.queue)) < context.messages; waited += 100)
    await sleep(100);
  await again.close();
  return `${count(received)} delivered`;
}

async function sendLarge({ queue, urls }: Disturbance): Promise<string> {
  const publisher = await Client.connect(urls[0]!);
  const consumer = await Client.connect(urls[1 % urls.length]!);
  const arrived = new Promise<void>((resolve) => {
    consumer.onDelivery = (tag) => {
      consumer.settleUpTo(tag);
      resolve();
    };
  });
  await consumer.consume(queue, 1);
  await publisher.selectConfirms();
  const confirmed = new Promise<void>((resolve, reject) => {
    publisher.onConfirm = (_tag, _multiple, ok) =>
      ok ? resolve() : reject(new Error('the large message was refused'));
    publisher.onLost = reject;
  });
  publisher.write(publisher.prepare(queue, largeBytes));
  await Promise.all([confirmed, arrived]);
  await Promise.all([publisher.close(), consumer.close()]);
  return '';
}

/** Waits until the last message has expired. */
async function expire({ queue, urls, milliseconds }: Disturbance): Promise<string> {
  const client = await Client.connect(urls[0]!);
  const ready = await client.countReady(queue);
  const until = performance.now() + milliseconds;
  let left = ready;
  while (left > 0 && performance.now() < until) {
    await sleep(500);
    left = await client.countReady(queue);
  }
  await client.close();
  return `${count(ready)} expired${left > 0 ? `, ${count(left)} left` : ''}`;
}

const kinds: Readonly<Record<DisturbanceKind, (disturbance: Disturbance) => Promise<string>>> = {
  purge,
  consume: consumeAll,
  large: sendLarge,
  expire,
  remove,
};

if (process.send !== undefined && process.argv[1] === self) {
  setPriority(0, constants.priority.PRIORITY_LOW);
  process.once('message', async (disturbance: Disturbance) => {
    process.send!(await kinds[disturbance.kind](disturbance));
    process.disconnect();
  });
  process.send('ready');
}
