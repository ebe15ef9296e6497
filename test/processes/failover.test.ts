// What the users of the other nodes feel when a leader is killed.

import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { measureStall } from '../bench/failures.ts';
import { expectWithin, type Timed } from '../support/timed.ts';
import { useCluster } from './support.ts';

/** On a quiet machine it is 300; this leaves room for a busy one. */
const stallMillisecondsMax = 1000;
/** So many that the killed node leads some of them. */
const queues = 24;

const cluster = useCluster();

test('kill -9 of a leader: publishers at another node wait a moment only', async () => {
  await expectWithin(stallMillisecondsMax, () => cluster().pids, killLeader);
});

async function killLeader(): Promise<Timed> {
  const [witness] = cluster().nodes;
  const leader = await cluster().leader(witness);
  expect((await cluster().leaderships(witness))[leader.number - 1]).toBeGreaterThan(0);
  const load = { urls: [witness!.url], bodyBytes: 1024, queues, queueType: 'quorum', seconds: 8, rate: 1000 };
  const result = await measureStall(load, async () => {
    await sleep(3000);
    await leader.kill();
  });
  console.log(
    `longest time without a confirm: ${result.longestGapMilliseconds.toFixed(0)} ms, ` +
      `ended ${result.longestGapAtSeconds.toFixed(2)} s after the start (kill at 3 s)`,
  );
  expect(result).toMatchObject({ refused: 0, unanswered: 0 });
  leader.start();
  await cluster().waitHealthy();
  const to = result.longestGapEndedAt;
  return { from: to - result.longestGapMilliseconds, to };
}
