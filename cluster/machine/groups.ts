// The numbers of the groups, and which nodes have a replica of which. PURE.
//
//   0            the metadata, on every node
//   1 … shards   the shards, each on `replication` nodes
//   2^30 …       volatile groups: one per incarnation of a node, on that node alone, gone with it

import type { PipeId } from './machine.ts';

export const metadataGroup = 0;
const volatileGroups = 0x4000_0000;
const nodeShift = 0x10_0000;
/** Node numbers go up to here: a volatile group's number holds one. */
export const nodeNumberMax = 1023;

export const isVolatileGroup = (group: number): boolean => group >= volatileGroups;

/**
 * The group that holds the exclusive and non-durable queues of this incarnation. Incarnations of one node that matter at the same time must
 * differ by less than 2^19: then which one is later can be seen in the groups' numbers.
 */
export function volatileGroupOf({ node, incarnation }: PipeId): number {
  return volatileGroups + node * nodeShift + (incarnation % nodeShift);
}

export const nodeOfVolatileGroup = (group: number): number => Math.floor((group - volatileGroups) / nodeShift);

/** Is it the volatile group of an incarnation of `node` up to `fencedTo`, so that it is gone? */
export function isEndedVolatileGroup(group: number, node: number, fencedTo: number): boolean {
  if (!isVolatileGroup(group) || nodeOfVolatileGroup(group) !== node || fencedTo < 0) return false;
  // The group's number has the lower bits of its incarnation: it is the one that is nearest.
  const distance = (fencedTo - ((group - volatileGroups) % nodeShift)) % nodeShift;
  return (distance + nodeShift) % nodeShift < nodeShift / 2;
}

/** The nodes that hold a group's replicas, the one that should lead it first. `nodes` ascending. */
export function replicasOf(group: number, nodes: readonly number[], replication: number): number[] {
  if (isVolatileGroup(group)) return [nodeOfVolatileGroup(group)];
  const first = (group + nodes.length - 1) % nodes.length;
  const count = group === metadataGroup ? nodes.length : Math.min(replication, nodes.length);
  return Array.from({ length: count }, (_, i) => nodes[(first + i) % nodes.length]!);
}
