// What the tutorial programs share: the node to talk to, what to say on the command line, and how to run until the end of the input.

import process from 'node:process';
import { type Channel, type ChannelModel, connect } from 'amqplib';

/** Arguments after the URL of a node. */
export const words: readonly string[] = process.argv.slice(3);

export async function open(): Promise<{ connection: ChannelModel; channel: Channel }> {
  const connection = await connect(process.argv[2] ?? 'amqp://localhost');
  return { connection, channel: await connection.createChannel() };
}

export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
