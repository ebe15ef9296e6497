// What a broker says of itself when a client comes in: whether it serves, and what it is. State: none.

import { setTimeout as sleep } from 'node:timers/promises';
import { leaveConnection, openConnection } from '../client.ts';

const heartbeatSeconds = 5;
const pollMilliseconds = 200;

/** Product and version, and on what it runs, which is where Warren says its own name. Rejects if no connection comes about. */
export async function brokerAt(url: string): Promise<string> {
  const connection = await openConnection(url, heartbeatSeconds);
  const { product, version, platform } = connection.connection.serverProperties;
  await leaveConnection(connection);
  return `${product} ${version} (${platform})`;
}

/** Of the first of them that answers. */
export async function firstBroker(urls: readonly string[]): Promise<string> {
  const brokers = await Promise.all(urls.map((url) => brokerAt(url).catch(() => null)));
  return brokers.find((broker) => broker !== null) ?? 'did not answer';
}

/** Null, or what the last attempt before the deadline (by `performance.now`) came to. */
export async function untilAnswered(url: string, deadline: number): Promise<string | null> {
  for (;;) {
    const reason = await brokerAt(url).then(
      () => null,
      (error: Error) => error.message || String(error),
    );
    if (reason === null || performance.now() > deadline) return reason;
    await sleep(pollMilliseconds);
  }
}
