// Tutorials 3, 4 and 5, publish/subscribe, routing and topics: one log line into an exchange. Arguments: exchange, its type, key, text.

import { open, say, words } from './support.ts';

const [exchange, type, key, text] = words as [string, string, string, string];
const { connection, channel } = await open();
await channel.assertExchange(exchange, type, { durable: false });
channel.publish(exchange, key, Buffer.from(text));
say(`sent ${key} ${text}`);
await channel.close();
await connection.close();
