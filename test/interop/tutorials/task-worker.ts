// Tutorial 2, work queues: one task at a time, acknowledged when it is done, so that a worker's death loses none.

import { setTimeout as sleep } from 'node:timers/promises';
import { open, say } from './support.ts';

const { channel } = await open();
await channel.assertQueue('tasks', { durable: true });
await channel.prefetch(1);
await channel.consume('tasks', async (message) => {
  if (!message) return;
  const task = message.content.toString();
  say(`began ${task}`);
  await sleep(50 * (task.split('.').length - 1));
  channel.ack(message);
  say(`did ${task}`);
});
say('waiting');
