// Where the tests with real clients find their brokers: a cluster of our own, or the one that WARREN_TEST_URLS names (AMQP URLs,
// comma separated, one per node). Every expectation also holds for RabbitMQ, which is what the second way is for.

import { useCluster } from '../processes/support.ts';

const given = process.env.WARREN_TEST_URLS?.split(',') ?? [];
let names = 0;

/** The brokers are not ours: what belongs to Warren alone is left out. */
export const isForeign = given.length > 0;

/** One URL per node. Call the result when they are up. */
export function useBrokers(settings: Readonly<Record<string, string>> = {}): () => readonly string[] {
  if (isForeign) return () => given;
  const cluster = useCluster({ settings });
  return () => cluster().urls;
}

/** A name that nothing on the brokers has yet. */
export function uniqueName(kind: string): string {
  return `test-${kind}-${Date.now().toString(36)}-${process.pid}-${names++}`;
}

/** Looks again and again until `condition` holds; fails after five seconds, or as long as asked. */
export async function until(condition: () => boolean | Promise<boolean>, milliseconds = 5000): Promise<void> {
  const deadline = performance.now() + milliseconds;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`still not so after ${milliseconds} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
