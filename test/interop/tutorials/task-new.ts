// Tutorial 2, work queues: tasks that survive a restart. A dot is a moment of work.

import { open, say, words } from './support.ts';

const { connection, channel } = await open();
await channel.assertQueue('tasks', { durable: true });
for (const task of words) {
  channel.sendToQueue('tasks', Buffer.from(task), { persistent: true });
  say(`sent ${task}`);
}
await channel.close();
await connection.close();
