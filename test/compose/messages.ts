// Messages for test/compose.sh, which starts this program again and again and keeps count:
//
//   messages.js publish URL QUEUE NAME:COUNT [MILLISECONDS]   declares the queue, publishes, waits for all confirms; so long between two
//   messages.js drain URL QUEUE NAME:COUNT...                 takes all there is, which must be exactly these, each batch in order
//
// Exit code 0 only if it is all as it should be. State owned: its connection.

import { setTimeout as sleep } from 'node:timers/promises';
import { type ChannelModel, connect } from 'amqplib';

interface Batch {
  readonly name: string;
  readonly count: number;
}

const drainMillisecondsMax = 30_000;
/** So long nothing more may come. */
const quietMilliseconds = 1500;
const queueOptions = { durable: true, arguments: { 'x-queue-type': 'quorum' } };
const padding = Buffer.alloc(1000, '.');

const bodyOf = (name: string, at: number): Buffer => Buffer.concat([Buffer.from(`${name}/${at}\n`), padding]);

function parseBatch(text: string): Batch {
  const colon = text.lastIndexOf(':');
  const count = Number(text.slice(colon + 1));
  if (colon < 1 || !Number.isSafeInteger(count)) throw new Error(`"${text}": must be NAME:COUNT`);
  return { name: text.slice(0, colon), count };
}

async function publish(connection: ChannelModel, queue: string, batch: Batch, gap: number): Promise<void> {
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(queue, queueOptions);
  const answers: Promise<void>[] = [];
  for (let at = 0; at < batch.count; at++) {
    const answered = new Promise<void>((resolve, reject) => {
      channel.publish('', queue, bodyOf(batch.name, at), { persistent: true }, (error) =>
        error === null ? resolve() : reject(new Error(`${batch.name}/${at} was not confirmed`)),
      );
    });
    answers.push(answered);
    if (gap > 0) await sleep(gap);
  }
  await Promise.all(answers);
}

async function drain(connection: ChannelModel, queue: string, batches: readonly Batch[]): Promise<void> {
  const channel = await connection.createChannel();
  await channel.assertQueue(queue, queueOptions);
  await channel.prefetch(200);
  const next = new Map(batches.map(({ name }) => [name, 0]));
  const wrong: string[] = [];
  let lastAt = performance.now();
  await channel.consume(queue, (message) => {
    if (message === null) return;
    lastAt = performance.now();
    channel.ack(message);
    const body = message.content.toString();
    const id = body.slice(0, body.indexOf('\n'));
    const [name = '', number = ''] = id.split('/');
    const at = Number(number);
    const expected = next.get(name);
    if (expected === undefined) wrong.push(`${id} should not be here`);
    else if (!message.content.equals(bodyOf(name, at))) wrong.push(`${id} is not whole`);
    else if (at === expected) next.set(name, at + 1);
    // Only what comes a second time and says so may come out of order.
    else if (at > expected || !message.fields.redelivered) wrong.push(`${id} came where ${name}/${expected} was due`);
  });
  const isWhole = (): boolean => batches.every(({ name, count }) => next.get(name) === count);
  const deadline = performance.now() + drainMillisecondsMax;
  while (performance.now() < deadline && !(isWhole() && performance.now() - lastAt > quietMilliseconds))
    await sleep(50);
  for (const { name, count } of batches) {
    if (next.get(name) !== count) wrong.push(`of ${name} came ${next.get(name)}, not ${count}`);
  }
  if (wrong.length > 0) throw new Error(`${wrong.length} messages are wrong: ${wrong.slice(0, 5).join('; ')}`);
  // Whoever drains next must find these acknowledgements done.
  await channel.close();
}

const [command, url = '', queue = '', ...rest] = process.argv.slice(2);
const connection = await connect(url, { timeout: 10_000 });
try {
  if (command === 'publish') await publish(connection, queue, parseBatch(rest[0] ?? ''), Number(rest[1] ?? 0));
  else await drain(connection, queue, rest.map(parseBatch));
} catch (error) {
  console.error(`messages: ${(error as Error).message}`);
  process.exitCode = 1;
}
await connection.close().catch(() => {});
