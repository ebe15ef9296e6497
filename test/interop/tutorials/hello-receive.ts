// Tutorial 1, "Hello World!": prints what arrives.

import { open, say } from './support.ts';

const { channel } = await open();
await channel.assertQueue('hello', { durable: false });
await channel.consume('hello', (message) => say(`received ${message?.content}`), { noAck: true });
say('waiting');
