// Tutorials 3, 4 and 5, publish/subscribe, routing and topics: a queue of its own, bound by these keys. Arguments: exchange, its type, keys.

import { open, say, words } from './support.ts';

const [exchange, type, ...keys] = words as [string, string, ...string[]];
const { channel } = await open();
await channel.assertExchange(exchange, type, { durable: false });
const { queue } = await channel.assertQueue('', { exclusive: true });
for (const key of keys) await channel.bindQueue(queue, exchange, key);
await channel.consume(queue, (message) => say(`received ${message?.fields.routingKey} ${message?.content}`), {
  noAck: true,
});
say('waiting');
