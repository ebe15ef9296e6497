// What is in the golden data folders, known without asking the code that wrote them: `make.ts` does it, `golden.test.ts` looks for it.

import { Buffer } from 'node:buffer';
import { type ClusterLimits, defaultLimits } from '../../cluster/index.ts';

/** The folder of the version in which the layout of data folders was last changed. Those of earlier versions stay beside it. */
export const goldenVersion = 1;
export const nodes = 3;

/** Small files and frequent snapshots, so that a small folder has all there is. */
export const goldenLimits: Partial<ClusterLimits> = {
  shards: 3,
  replication: 3,
  snapshotEveryEntries: 60,
  log: { ...defaultLimits.log, fileBytesMax: 32 * 1024, keptBytesMax: 2 * 1024 },
};

export const clusterId = 'c'.repeat(32);
export const clusterName = 'memory';
export const format = {
  clusterId,
  nodes: Array.from({ length: nodes }, (_, i) => ({ node: i + 1, name: `n${i + 1}`, uuid: `uuid-${i + 1}` })),
};

/** `letters` is where the messages that `source` refused went. */
export const queueNames = ['plain', 'leased', 'source', 'letters', 'large', 'sparse'] as const;
export const deletedQueue = 'deleted';

export const exchanges = [
  { name: 'events', type: 'topic' },
  { name: 'dead-letters', type: 'fanout' },
] as const;

export const bindings = [
  { source: 'events', queue: 'plain', routingKey: 'plain.*' },
  { source: 'events', queue: 'leased', routingKey: '#' },
  { source: 'dead-letters', queue: 'letters', routingKey: '' },
] as const;

export const deadLettered = { 'x-dead-letter-exchange': 'dead-letters' };

const numbered = (name: string, first: number, last: number): string[] =>
  Array.from({ length: last - first + 1 }, (_, i) => `${name} ${first + i}`);

export const plainCount = 50;
export const leasedCount = 20;
/** Held by a consumer when the nodes stop, the first of those that were not accepted; these go out again with the next one, flagged. */
export const leasedHeld = 10;
export const leasedAccepted = 4;
export const letterCount = 10;
/** Of so many in the sparse queue every fiftieth was left. */
export const sparseCount = 400;
export const sparseLeft = 50;
/** More than fits one piece. */
export const largeBody = Buffer.alloc(300_000, 'a large message, ');

/** The bodies in each queue, in order. */
export const bodies: Readonly<Record<(typeof queueNames)[number], readonly string[]>> = {
  plain: numbered('plain', 1, plainCount),
  leased: numbered('leased', leasedAccepted + 1, leasedCount),
  source: [],
  letters: numbered('source', 1, letterCount),
  large: [largeBody.toString()],
  sparse: numbered('sparse', 1, sparseCount).filter((_, i) => (i + 1) % sparseLeft === 0),
};
