// Every bound and time of the cluster, with its default, and what it tells the process that it runs in. Sizes in bytes, times in
// milliseconds unless the name says ticks.

import type { LogOptions } from './log/types.ts';
import type { NodeContact } from './machine/metadata-types.ts';
import type { PipeOptions } from './pipe.ts';
import type { Address } from './ports.ts';
import type { PeerAddress, TransportOptions } from './transport-types.ts';

export interface ClusterOptions {
  readonly clusterName: string;
  /** Same on all nodes of a cluster and on no other. */
  readonly clusterId: string;
  readonly node: number;
  readonly nodeName: string;
  readonly nodeUuid: string;
  readonly contact: NodeContact;
  /** Grows at every start, and whenever this node was fenced: durable before it is returned. */
  readonly nextIncarnation: () => Promise<number>;
  /** All nodes of the cluster, this one too, ascending by number. */
  readonly nodes: readonly PeerAddress[];
  /** Where this node listens for the others. */
  readonly peerListen: Address;
  readonly secret: string;
  readonly limits: ClusterLimits;
}

export type ReportEvent = (
  level: 'debug' | 'info' | 'warn' | 'error',
  event: string,
  details: Record<string, unknown>,
) => void;

export interface HostEvents {
  /** For people. */
  log: ReportEvent;
  /** The process has to end: the disk failed, or this node must not be part of the cluster. */
  fatal(error: Error): void;
}

export interface ClusterLimits {
  /** Raft groups that hold queues. Fixed when the cluster is formatted. */
  readonly shards: number;
  readonly tickMilliseconds: number;
  readonly electionTicks: number;
  readonly heartbeatTicks: number;
  /** Ticks that the second in line waits after a leader's connection broke; the first campaigns at once. */
  readonly hintDelayTicks: number;
  readonly appendBytesMax: number;
  readonly inflightBytesMax: number;
  readonly inflightMessagesMax: number;
  readonly uncommittedBytesMax: number;
  readonly snapshotChunkBytes: number;
  /** Bytes of entries applied in one turn of the event loop. */
  readonly applyBytesPerTurn: number;
  /** A group takes a snapshot after this many bytes or entries of log. */
  readonly snapshotEveryBytes: number;
  readonly snapshotEveryEntries: number;
  /** Batches that wait at a leader for its metadata to catch up. */
  readonly parkedBatchesMax: number;
  /** A write that takes longer than this: the node gives up its leaderships. */
  readonly diskStallMilliseconds: number;
  /** A node without a connection for this long is ended by the metadata's leader: its messages go back. */
  readonly nodeDeadMilliseconds: number;
  /** How long a metadata change waits for the other connected nodes to have applied it. */
  readonly visibilityMilliseconds: number;
  readonly balanceMilliseconds: number;
  readonly handOverMilliseconds: number;
  readonly pipe: PipeOptions;
  readonly log: Pick<LogOptions, 'fileBytesMax' | 'cacheBytesMax' | 'keptBytesMax' | 'pressureBytes'>;
  readonly transport: Pick<
    TransportOptions,
    'frameBytesMax' | 'handshakeMilliseconds' | 'redialMilliseconds' | 'redialMillisecondsMax'
  >;
}

const kib = 1024;
const mib = 1024 * kib;

export const defaultLimits: ClusterLimits = {
  shards: 12,
  tickMilliseconds: 50,
  electionTicks: 12,
  heartbeatTicks: 2,
  hintDelayTicks: 3,
  appendBytesMax: mib,
  inflightBytesMax: 16 * mib,
  inflightMessagesMax: 256,
  uncommittedBytesMax: 64 * mib,
  snapshotChunkBytes: 256 * kib,
  applyBytesPerTurn: 4 * mib,
  snapshotEveryBytes: 64 * mib,
  snapshotEveryEntries: 50_000,
  parkedBatchesMax: 1_000,
  diskStallMilliseconds: 2_000,
  nodeDeadMilliseconds: 5_000,
  visibilityMilliseconds: 1_000,
  balanceMilliseconds: 250,
  handOverMilliseconds: 2_000,
  pipe: {
    batchBytesMax: 256 * kib,
    batchesInFlightMax: 3,
    windowBytes: 16 * mib,
    deadlineMilliseconds: 15_000,
    resendMilliseconds: 1_000,
  },
  log: { fileBytesMax: 32 * mib, cacheBytesMax: 64 * mib, keptBytesMax: 16 * mib, pressureBytes: 256 * mib },
  transport: {
    frameBytesMax: 64 * mib,
    handshakeMilliseconds: 5_000,
    redialMilliseconds: 20,
    redialMillisecondsMax: 1_000,
  },
};

/** Throws a sentence if limits contradict each other. */
export function checkLimits(limits: ClusterLimits): void {
  const demand = (condition: boolean, sentence: string) => {
    if (!condition) throw new RangeError(sentence);
  };
  demand(limits.shards >= 1 && limits.shards <= 1024, 'shards must be between 1 and 1024');
  demand(limits.electionTicks >= 4 * limits.heartbeatTicks, 'electionTicks must be at least four times heartbeatTicks');
  demand(limits.inflightBytesMax >= limits.appendBytesMax, 'inflightBytesMax must be at least appendBytesMax');
  demand(
    limits.transport.frameBytesMax >= 2 * limits.appendBytesMax,
    'frameBytesMax must be at least twice appendBytesMax',
  );
  demand(limits.pipe.windowBytes >= 2 * limits.pipe.batchBytesMax, 'windowBytes must be at least twice batchBytesMax');
}
