// Reaching into a node of the in-memory cluster: the machine of one of its replicas, to spoil it or to look at it.

import { ShardMachine } from '../../cluster/machine/shard.ts';
import type { MemoryCluster, MemoryNode } from './memory-cluster.ts';

/** The machine of a shard that has a replica on this node which can be read. */
export function machineOf(row: MemoryNode, shard: number): ShardMachine {
  const found: ShardMachine[] = [];
  const { queueStatus } = ShardMachine.prototype;
  ShardMachine.prototype.queueStatus = function (this: ShardMachine, uid: number) {
    found.push(this);
    return queueStatus.call(this, uid);
  };
  try {
    row.cluster.queueStatus(shard, 1, () => {});
  } finally {
    ShardMachine.prototype.queueStatus = queueStatus;
  }
  if (found.length !== 1) throw new Error(`node ${row.node} does not read shard ${shard} from a machine of its own`);
  return found[0]!;
}

export const groupOf = (row: MemoryNode, group: number) =>
  row.cluster.status().groups.find((status) => status.group === group)!;

/** Nodes that hold a replica of a shard and do not lead it. */
export const followersOf = (cluster: MemoryCluster, shard: number): MemoryNode[] =>
  cluster.nodes.filter((row) => row.alive && ['follower', 'preCandidate'].includes(groupOf(row, shard)?.role));
