// Tutorial 1, "Hello World!": one message into a queue that a receiver may not have declared yet.

import { open, say } from './support.ts';

const { connection, channel } = await open();
await channel.assertQueue('hello', { durable: false });
channel.sendToQueue('hello', Buffer.from('Hello World!'));
say('sent Hello World!');
await channel.close();
await connection.close();
