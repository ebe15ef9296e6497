// The versions of the machines: what an entry does follows from its version, for ever, on every replica and at every replay. PURE.
//
// One number counts for all machines. Who changes what a machine does with an entry adds a row to both lists, with what is different in it,
// and leaves the old rows and what follows from them as they are. A version comes into force by a command of the metadata (`raiseVersion`), which is taken when every
// member has said that it knows it; from then on leaders write entries of it. A machine's state is of the highest version that it has applied:
// it is in its snapshot, and a lower one that still comes is applied by it too.

import { type StoreBounds, secondStoreBounds, storeBounds, thirdStoreBounds } from './queue/store.ts';

/** What the metadata machine does differently from version to version. */
export interface MetadataRules {
  /** Queues and bindings of ended incarnations removed with one entry. */
  readonly debtItemsPerEntry: number;
}

/** By version, from 1 on. */
export interface MachineVersions {
  readonly shard: readonly StoreBounds[];
  readonly metadata: readonly MetadataRules[];
}

export const shardVersions: readonly StoreBounds[] = [storeBounds, secondStoreBounds, thirdStoreBounds];
const metadataRules: MetadataRules = { debtItemsPerEntry: 4_096 };
export const metadataVersions: readonly MetadataRules[] = [metadataRules, metadataRules, metadataRules];
export const machineVersions: MachineVersions = { shard: shardVersions, metadata: metadataVersions };

/** A version travels as one byte. */
export const machineVersionMax = 255;

/** The highest version that is known. Throws if the machines disagree. */
export function latestVersion({ shard, metadata }: MachineVersions): number {
  const version = shard.length;
  if (version !== metadata.length || version < 1 || version > machineVersionMax)
    throw new Error(`machine versions make no sense: ${shard.length} of shards, ${metadata.length} of the metadata`);
  return version;
}

/** `what` asks for a version. Throws if it is not known: this replica must not go on. */
export function rulesOf<T>(versions: readonly T[], version: number, what: string): T {
  const rules = versions[version - 1];
  if (rules === undefined)
    throw new Error(`${what} needs machine version ${version}, this node knows versions up to ${versions.length}`);
  return rules;
}
