// Tutorial 6, RPC: asks for a Fibonacci number and waits for the answer with its correlation id, in a queue of its own or, as the
// second argument says, in the pseudo-queue of direct reply-to. Arguments: number, `exclusive` or `direct`.

import { randomUUID } from 'node:crypto';
import { open, say, words } from './support.ts';

const [number, way] = words as [string, 'exclusive' | 'direct'];
const { connection, channel } = await open();
const replyTo = way === 'direct' ? 'amq.rabbitmq.reply-to' : (await channel.assertQueue('', { exclusive: true })).queue;
const correlationId = randomUUID();
const answered = new Promise<string>((resolve) => {
  const receive = channel.consume(
    replyTo,
    (message) => message?.properties.correlationId === correlationId && resolve(message.content.toString()),
    { noAck: true },
  );
  void receive.then(() => channel.sendToQueue('rpc', Buffer.from(number), { correlationId, replyTo }));
});
say(`fibonacci(${number}) = ${await answered}`);
await connection.close();
