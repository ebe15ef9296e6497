// What a node knows of its cluster and tells others over HTTP, and what of it counts as health. Pure.

export interface NodeStatus {
  readonly node: number;
  readonly name: string;
  readonly up: boolean;
  readonly incarnation: number;
  readonly uuid: string | null;
  readonly peer: string;
  readonly pid?: number;
  readonly amqp?: string;
  readonly http?: string;
}

/** This node's replica of one Raft group. */
export interface GroupStatus {
  readonly group: number;
  /** `meta`, or `shard-1` and so on. */
  readonly name: string;
  readonly role: string;
  /** Number of the leader's node; 0: none known. */
  readonly leader: number;
  readonly term: number;
  readonly commit: number;
  readonly applied: number;
  readonly lastIndex: number;
  /** Told by the leader: how far each follower's log matches, and how many entries it is behind. */
  readonly lag: readonly { readonly node: number; readonly match: number; readonly behind: number }[];
  /** Why this replica stopped applying; null: it did not. */
  readonly halted: string | null;
}

export interface ClusterStatus {
  readonly clusterName: string;
  readonly clusterId: string;
  readonly node: number;
  readonly name: string;
  readonly incarnation: number;
  /** The cluster's part of this node is up to date enough to serve. */
  readonly ready: boolean;
  readonly nodes: readonly NodeStatus[];
  readonly groups: readonly GroupStatus[];
  readonly log: { readonly files: number; readonly bytes: number };
}

/** Where this process is in its life. */
export type Phase = 'starting' | 'running' | 'stopping';

export interface Health {
  readonly status: 'ok' | 'unavailable';
  /** Why not; empty when ok. At most `reasonsMax`. */
  readonly reasons: readonly string[];
}

const reasonsMax = 32;

/** Ok: this node accepts clients, every group that it has a replica of has a leader, and none is halted. */
export function healthOf(phase: Phase, status: ClusterStatus | null): Health {
  const reasons: string[] = [];
  if (phase !== 'running') reasons.push(`node is ${phase}`);
  if (status !== null) {
    if (!status.ready && phase === 'running') reasons.push('cluster is not ready');
    for (const group of status.groups) {
      if (group.halted !== null) reasons.push(`${group.name} is halted: ${group.halted}`);
      else if (group.leader === 0) reasons.push(`${group.name} has no leader`);
    }
  }
  return { status: reasons.length === 0 ? 'ok' : 'unavailable', reasons: reasons.slice(0, reasonsMax) };
}
