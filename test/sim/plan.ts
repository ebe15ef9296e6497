// What a seed decides before anything runs: how many nodes, with which bounds, under which load, for how long.
//
// Bounds are small, so that a short run sees many log files, snapshots, truncations and replicas that are far behind.

import { type ClusterLimits, defaultLimits } from '../../cluster/index.ts';
import type { StoreBounds } from '../../cluster/machine/queue/store.ts';
import { type MachineVersions, machineVersions } from '../../cluster/machine/versions.ts';
import { createMemoryRandom } from '../support/memory-random.ts';
import type { Profile } from './faults/target.ts';
import { stretch, stretched } from './pace.ts';
import type { Workload } from './workload.ts';
import { workloads } from './workloads/all.ts';
import { declaring } from './workloads/declaring.ts';

export interface SeedOptions {
  readonly seed: number;
  readonly profile: Profile;
  /** Null: by the seed. */
  readonly nodes: number | null;
  /** Kinds of faults that the run must not have. */
  readonly without?: readonly string[];
  /** Kinds of faults that the run must have, besides those that the seed draws. */
  readonly besides?: readonly string[];
}

export interface Plan {
  readonly seed: number;
  readonly profile: Profile;
  readonly without: readonly string[];
  readonly besides: readonly string[];
  readonly nodes: number;
  /** Not by the seed. */
  readonly fixedNodes: boolean;
  readonly limits: ClusterLimits;
  /** What an entry may do at most; the same on all nodes. */
  readonly versions: MachineVersions;
  readonly workloads: readonly Workload[];
  /** How long faults are injected, by the nodes' clocks. */
  readonly busyMilliseconds: number;
}

const kib = 1024;
/** One seed in so many declares queues besides what it drew. */
const declaringSeeds = 6;

export function planOf(options: SeedOptions): Plan {
  const random = createMemoryRandom(options.seed);
  const pick = <T>(...from: readonly T[]): T => from[random.integer(from.length)]!;
  const nodes = options.nodes ?? pick(3, 3, 3, 3, 3, 3, 5, 1);
  const shards = pick(1, 2, 3);
  const limits = stretched(limitsOf(pick, shards));
  const mix = [...workloads].sort((a, b) => (a.name < b.name ? -1 : 1));
  const chosen: Workload[] = [];
  for (let left = 2 + random.integer(2); left > 0; left--) chosen.push(mix.splice(random.integer(mix.length), 1)[0]!);
  const busyMilliseconds = (20_000 + random.integer(30_000)) * stretch;
  // Apart from all that was drawn before there was any: so the other seeds are what they were. Neighbours begin far from each other.
  if (createMemoryRandom(Math.imul(options.seed, 0x9e37_79b1)).integer(declaringSeeds) === 0) chosen.push(declaring);
  return {
    seed: options.seed,
    profile: options.profile,
    without: options.without ?? [],
    besides: options.besides ?? [],
    nodes,
    fixedNodes: options.nodes !== null,
    limits,
    versions: versionsOf(pick),
    workloads: chosen,
    busyMilliseconds,
  };
}

/** With bounds so small that work is left for later entries, in some runs. */
function versionsOf(pick: <T>(...from: readonly T[]) => T): MachineVersions {
  if (pick(true, false)) return machineVersions;
  const bounds = {
    debtPerEntryMax: pick(1, 5, 16_384),
    returnsPerEntryMax: pick(1, 5, 8_192),
    assignmentsPerEntryMax: pick(3, 16_384),
    duePerEntryMax: pick(2, 16_384),
  };
  const rules = { debtItemsPerEntry: pick(1, 4_096) };
  const shared = (version: StoreBounds) => Math.min(version.workPerMillisecond, 1);
  return {
    shard: machineVersions.shard.map((version) => ({ ...version, ...bounds, workPerMillisecond: shared(version) })),
    metadata: machineVersions.metadata.map((version) => ({ ...version, ...rules })),
  };
}

function limitsOf(pick: <T>(...from: readonly T[]) => T, shards: number): ClusterLimits {
  return {
    ...defaultLimits,
    shards,
    ...pick(
      { tickMilliseconds: 50, electionTicks: 12, heartbeatTicks: 2, hintDelayTicks: 3 },
      { tickMilliseconds: 100, electionTicks: 8, heartbeatTicks: 2, hintDelayTicks: 3 },
      { tickMilliseconds: 100, electionTicks: 6, heartbeatTicks: 1, hintDelayTicks: 2 },
      { tickMilliseconds: 200, electionTicks: 5, heartbeatTicks: 1, hintDelayTicks: 1 },
    ),
    appendBytesMax: pick(64 * kib, 1024 * kib),
    inflightMessagesMax: pick(4, 256),
    snapshotChunkBytes: pick(2 * kib, 256 * kib),
    catchUpBytesPerSecond: pick(64 * kib, defaultLimits.catchUpBytesPerSecond),
    snapshotEveryBytes: pick(32 * kib, 128 * kib, 1024 * kib),
    snapshotEveryEntries: pick(50, 300, 5_000),
    parkedBatchesMax: pick(3, 1_000),
    pipe: { ...defaultLimits.pipe, batchesInFlightMax: pick(1, 3), deadlineMilliseconds: pick(5_000, 15_000) },
    log: {
      ...defaultLimits.log,
      fileBytesMax: pick(32 * kib, 128 * kib, 1024 * kib),
      cacheBytesMax: pick(8 * kib, 256 * kib, 4096 * kib),
      keptBytesMax: pick(8 * kib, 64 * kib, 1024 * kib),
      pressureBytes: pick(512 * kib, 8192 * kib),
      compactionSlackBytes: pick(4 * kib, 64 * kib, defaultLimits.log.compactionSlackBytes),
      // Some times what there is, in a run.
      scrubBytesPerSecond: pick(32 * kib, 256 * kib),
    },
  };
}

/** For people: what a seed runs with. */
export function describePlan({ nodes, limits, workloads: chosen, busyMilliseconds, profile }: Plan): string {
  const { shards, log, snapshotEveryEntries, snapshotEveryBytes } = limits;
  const names = chosen.map(({ name }) => name).join(' ');
  return (
    `${nodes} nodes, ${shards} shards, profile ${profile}, ${(busyMilliseconds / 1000).toFixed(1)} s, workloads: ${names}; ` +
    `files of ${log.fileBytesMax / kib} KiB, snapshots every ${snapshotEveryEntries} entries or ${snapshotEveryBytes / kib} KiB`
  );
}
