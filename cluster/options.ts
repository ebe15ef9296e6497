// Every bound and time of the cluster, with its default, and what it tells the process that it runs in. Sizes in bytes, times in
// milliseconds unless the name says ticks.

import type { Raft } from 'raft-ts';
import type { Death } from './leading/deaths.ts';
import type { LeaseOptions } from './lease/lease-holder.ts';
import type { EntryData, Log, LogOptions } from './log/types.ts';
import type { Machine } from './machine/machine.ts';
import type { Arguments, NodeContact } from './machine/metadata-types.ts';
import type { MachineVersions } from './machine/versions.ts';
import type { PipeOptions } from './origin/pipe.ts';
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
  /**
   * The nodes that the cluster was formed with, ascending by number: the same list on every node for ever, also on one that joined later. The
   * addresses are this node's own matter, and go before what the metadata say of those nodes; port 0: it has none of its own. `uuid`: by the
   * format; left out: known from the node's first opening.
   */
  readonly nodes: readonly (PeerAddress & { readonly uuid?: string })[];
  /** Further nodes to dial until the metadata are here, and say who belongs to the cluster: for one that joined. Default: none. */
  readonly contacts?: readonly PeerAddress[];
  /** Where the other nodes find this one, for the metadata. Default: its address in `nodes`. */
  readonly address?: Address;
  /** Where this node listens for the others. */
  readonly peerListen: Address;
  readonly secret: string;
  /** The headers of a message, out of its properties as they came: dead letters may go through a headers exchange. Default: none. */
  readonly readHeaders?: (properties: Buffer) => Arguments;
  /** The properties of a message that died, for its next queues. Default: as they were. */
  readonly withDeath?: (properties: Buffer, death: Death) => Buffer;
  readonly limits: ClusterLimits;
  /** The versions of the machines that this code knows. Others than the default are for tests. */
  readonly machineVersions?: MachineVersions;
}

export type ReportEvent = (
  level: 'debug' | 'info' | 'warn' | 'error',
  event: string,
  details: Record<string, unknown>,
) => void;

/** This node is no part of the cluster any more, for good: given to `fatal`. */
export class LeftClusterError extends Error {
  readonly code = 'left';
}

export interface HostEvents {
  /** For people. */
  log: ReportEvent;
  /** The process has to end: the disk failed, or this node must not be part of the cluster. */
  fatal(error: Error): void;
  /** For who watches a node from within, and only watches: its replicas, once they are recovered. The map follows what replicas there are. */
  opened?(replicas: ReadonlyMap<number, WatchedReplica>, log: Pick<Log, 'cached'>): void;
}

export interface WatchedReplica {
  readonly id: number;
  readonly raft: Raft<EntryData>;
  readonly machine: Machine;
  readonly appliedIndex: number;
  /** Nothing beyond this index was ever acknowledged, by what it had before it was damaged either. */
  readonly acknowledgedTo: number;
  readonly halted: Error | null;
}

/** Hearing of a group from another node, and asking it for messages. */
export interface FeedOptions {
  /** A feed without events says so often that it lives. */
  readonly heartbeatMilliseconds: number;
  /** After so long without a sign another node is asked. */
  readonly silenceMilliseconds: number;
  /** A batch that waits so long while the feed's node makes no headway: another node is asked. */
  readonly lagMilliseconds: number;
  /** How long the serving replica waits until it has come as far as the origin has seen. */
  readonly waitMilliseconds: number;
  /** Before a node is looked for again, after one refused or there was none. */
  readonly retryMilliseconds: number;
  /** For so long a node that failed is only asked when there is no other. */
  readonly avoidMilliseconds: number;
  /** Size at which a frame of events, or of messages, leaves. */
  readonly frameBytes: number;
  /** A question for messages or for a queue's state is asked again after this. */
  readonly queryMilliseconds: number;
  /** A question for a queue's state is given up after this. */
  readonly statusMilliseconds: number;
  /** Messages in one answer, beyond its first one; also what may wait on the way to the node that asked. */
  readonly answerBytesMax: number;
  /** Questions of one node that wait here. */
  readonly questionsMax: number;
}

/** Messages that go from one group to another: dead letters. */
export interface OutboxOptions {
  /** Rows of one group on their way to another, and their bytes; one row goes however large. */
  readonly rowsInFlightMax: number;
  readonly bytesInFlightMax: number;
  /** Dead letters that are routed with one entry; and the queues that they go to, beyond those of the last one. */
  readonly lettersPerRouteMax: number;
  readonly queuesPerRouteMax: number;
}

/** Room on the disk. */
export interface DiskOptions {
  /** With less than this free, or a tenth of the disk if that is less, publishers of the whole cluster wait. */
  readonly freeBytesMin: number;
  /** With less than this free, or a fiftieth of the disk if that is less, no group with a replica there takes messages. */
  readonly reserveBytes: number;
  readonly checkMilliseconds: number;
}

/** How large messages give way while others are busy. */
export interface LargeOptions {
  /** So much of one is read for a consumer at a time. */
  readonly bytesAtOnce: number;
  /** Then follows a rest of so long; 0: none. */
  readonly restMilliseconds: number;
}

export interface ClusterLimits {
  /** Raft groups that hold queues. Fixed when the cluster is formatted. */
  readonly shards: number;
  /** Nodes that hold a replica of each shard: 1, 3, 5 or 7; all nodes if there are fewer. */
  readonly replication: number;
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
  /**
   * What a replica that is new on its node is sent in a second, beyond what its group writes meanwhile. More is sooner whole, and leaves less
   * of disks and network to publishers.
   */
  readonly catchUpBytesPerSecond: number;
  /** Bytes of entries applied in one turn of the event loop, by all groups together; a message counts for 1 KiB more. */
  readonly applyBytesPerTurn: number;
  /**
   * Between two entries that go on with what a larger one left (messages that return, expire or are dropped, some thousands with each): so long
   * a group's replicas leave the processors to others.
   */
  readonly workPauseMilliseconds: number;
  /** A group takes a snapshot after this many bytes or entries of log. */
  readonly snapshotEveryBytes: number;
  readonly snapshotEveryEntries: number;
  /** Batches that wait at a leader for its metadata to catch up. */
  readonly parkedBatchesMax: number;
  readonly disk: DiskOptions;
  /** A write that takes longer than this: the node gives up its leaderships. */
  readonly diskStallMilliseconds: number;
  /** A node that is silent for this long gets no new messages until it is heard again. */
  readonly suspectMilliseconds: number;
  /** A node without a connection for this long is ended by the metadata's leader: its messages go back. */
  readonly nodeDeadMilliseconds: number;
  readonly balanceMilliseconds: number;
  readonly handOverMilliseconds: number;
  /** A node that starts serves nobody until its replicas have applied what was committed without it, at most for so long. */
  readonly catchUpMilliseconds: number;
  /** Leases on the metadata. */
  readonly lease: LeaseOptions;
  readonly pipe: PipeOptions;
  readonly large: LargeOptions;
  readonly feed: FeedOptions;
  readonly outbox: OutboxOptions;
  readonly log: Pick<
    LogOptions,
    | 'fileBytesMax'
    | 'cacheBytesMax'
    | 'keptBytesMax'
    | 'pressureBytes'
    | 'volatileWaitingBytesMax'
    | 'compactionBytesPerSecond'
    | 'compactionSlackBytes'
    | 'scrubBytesPerSecond'
  >;
  readonly transport: Pick<
    TransportOptions,
    'frameBytesMax' | 'handshakeMilliseconds' | 'redialMilliseconds' | 'redialMillisecondsMax'
  >;
}

const kib = 1024;
const mib = 1024 * kib;

export const defaultLimits: ClusterLimits = {
  shards: 12,
  replication: 3,
  tickMilliseconds: 50,
  electionTicks: 12,
  heartbeatTicks: 2,
  hintDelayTicks: 3,
  appendBytesMax: mib,
  inflightBytesMax: 16 * mib,
  inflightMessagesMax: 256,
  uncommittedBytesMax: 64 * mib,
  snapshotChunkBytes: 256 * kib,
  catchUpBytesPerSecond: 32 * mib,
  applyBytesPerTurn: 4 * mib,
  workPauseMilliseconds: 5,
  snapshotEveryBytes: 64 * mib,
  snapshotEveryEntries: 50_000,
  parkedBatchesMax: 1_000,
  disk: { freeBytesMin: 2048 * mib, reserveBytes: 256 * mib, checkMilliseconds: 1_000 },
  diskStallMilliseconds: 2_000,
  suspectMilliseconds: 1_000,
  nodeDeadMilliseconds: 5_000,
  balanceMilliseconds: 250,
  handOverMilliseconds: 2_000,
  catchUpMilliseconds: 5_000,
  lease: {
    milliseconds: 2_500,
    renewMilliseconds: 1_500,
    requestMilliseconds: 500,
    clockStepMilliseconds: 500,
  },
  pipe: {
    batchBytesMax: 256 * kib,
    batchesInFlightMax: 3,
    windowBytes: 16 * mib,
    deadlineMilliseconds: 15_000,
    resendMilliseconds: 1_000,
    settleDelayMilliseconds: 5,
    partRestMillisecondsMax: 50,
  },
  large: { bytesAtOnce: 512 * kib, restMilliseconds: 3 },
  feed: {
    heartbeatMilliseconds: 500,
    silenceMilliseconds: 1_500,
    lagMilliseconds: 1_000,
    waitMilliseconds: 1_000,
    retryMilliseconds: 100,
    avoidMilliseconds: 2_000,
    frameBytes: 256 * kib,
    queryMilliseconds: 2_000,
    statusMilliseconds: 10_000,
    answerBytesMax: 4 * mib,
    questionsMax: 1_024,
  },
  outbox: { rowsInFlightMax: 256, bytesInFlightMax: 256 * kib, lettersPerRouteMax: 256, queuesPerRouteMax: 16_384 },
  log: {
    fileBytesMax: 32 * mib,
    cacheBytesMax: 64 * mib,
    keptBytesMax: 16 * mib,
    pressureBytes: 256 * mib,
    volatileWaitingBytesMax: 16 * mib,
    compactionBytesPerSecond: 32 * mib,
    compactionSlackBytes: 64 * mib,
    scrubBytesPerSecond: 4 * mib,
  },
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
  demand([1, 3, 5, 7].includes(limits.replication), 'replication must be 1, 3, 5 or 7');
  demand(limits.electionTicks >= 4 * limits.heartbeatTicks, 'electionTicks must be at least four times heartbeatTicks');
  demand(limits.inflightBytesMax >= limits.appendBytesMax, 'inflightBytesMax must be at least appendBytesMax');
  demand(
    limits.transport.frameBytesMax >= 2 * limits.appendBytesMax,
    'frameBytesMax must be at least twice appendBytesMax',
  );
  demand(
    limits.nodeDeadMilliseconds > limits.suspectMilliseconds,
    'nodeDeadMilliseconds must be more than suspectMilliseconds',
  );
  demand(
    limits.feed.silenceMilliseconds >= 2 * limits.feed.heartbeatMilliseconds,
    'silenceMilliseconds must be at least twice heartbeatMilliseconds',
  );
  demand(
    limits.disk.reserveBytes <= limits.disk.freeBytesMin,
    'the reserve of the disk must be at most what is to be free of it',
  );
  const { lease } = limits;
  demand(lease.milliseconds > lease.renewMilliseconds, 'a lease must be longer than the part of it that is renewed');
  demand(
    lease.renewMilliseconds >= 2 * lease.requestMilliseconds,
    'a lease must be asked for at least twice before it ends',
  );
  demand(limits.pipe.windowBytes >= 2 * limits.pipe.batchBytesMax, 'windowBytes must be at least twice batchBytesMax');
}
