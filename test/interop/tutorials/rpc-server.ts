// Tutorial 6, RPC: answers with Fibonacci numbers to wherever a request says.

import { open, say } from './support.ts';

const fibonacci = (n: number): number => (n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2));

const { channel } = await open();
await channel.assertQueue('rpc', { durable: false });
await channel.prefetch(1);
await channel.consume('rpc', (message) => {
  if (!message) return;
  const { replyTo, correlationId } = message.properties;
  const answer = fibonacci(Number(message.content));
  channel.sendToQueue(replyTo, Buffer.from(`${answer}`), { correlationId });
  channel.ack(message);
});
say('waiting');
