// Free ports for tests that listen, below the range from which the system draws its own.

import { httpPortOffset, planNodes } from '../../node/launch-options.ts';
import { findBusyAddress } from '../../node/listen-check.ts';

/** Test files that run at the same time draw from different ranges. */
const range = (Number(process.env.VITEST_POOL_ID ?? 0) % 8) * 1000;

const bases = 100;
/** Not twice in one process, if possible: an HTTP client may still hold a connection to whoever had it before. */
const given = new Set<number>();

/** A base port of which a launcher with `nodesCount` nodes can have all. */
export async function freeBasePort(nodesCount = 3): Promise<number> {
  for (;;) {
    const port = 2200 + range + Math.floor(Math.random() * bases) * 10;
    if (given.size < bases / 2 && given.has(port)) continue;
    const plan = planNodes({ nodesCount, dataFolder: '.', port }, '.', 'x'.repeat(16), {});
    if (!plan.ok) throw new Error(plan.error);
    const busy = await Promise.all(plan.nodes.map((node) => findBusyAddress(node.config)));
    if (!busy.every((address) => address === null)) continue;
    given.add(port);
    return port;
  }
}

/** A free port for HTTP: as a node’s own lie above its AMQP port, all above those that `fetch` refuses to speak to (6000, 10080, …). */
export async function freeHttpPort(): Promise<number> {
  return (await freeBasePort(1)) + httpPortOffset + 1;
}
