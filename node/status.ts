// What counts as health of a node, out of what its cluster part knows. Pure.

/** The part of the cluster's status that health depends on. */
export interface StatusView {
  /** The cluster's part of this node is up to date enough to serve. */
  readonly ready: boolean;
  /** This node's replicas. */
  readonly groups: readonly {
    /** `meta`, or `shard-1` and so on. */
    readonly name: string;
    /** Number of the leader's node; 0: none known. */
    readonly leader: number;
    /** Why this replica stopped applying; null: it did not. */
    readonly halted?: string | null;
  }[];
}

/** Where this process is in its life. */
export type Phase = 'starting' | 'running' | 'stopping';

export interface Health {
  readonly status: 'ok' | 'unavailable';
  /** Why not; empty when ok. At most `reasonsMax`. */
  readonly reasons: readonly string[];
}

export const reasonsMax = 32;

/** What builds this node's replica of a group anew. `http`: where the node can be asked. */
export const rebuildCommand = (group: string, http: string): string => `warren rebuild ${group} --http ${http}`;

/** Ok: this node accepts clients, every group that it has a replica of has a leader, and none is halted. `http`: this node's address, for advice. */
export function healthOf(
  phase: Phase,
  status: StatusView | null,
  formingWith: string | null = null,
  http: string | null = null,
): Health {
  const reasons: string[] = [];
  if (formingWith !== null) reasons.push(formingWith);
  else if (phase !== 'running') reasons.push(`node is ${phase}`);
  else if (status === null || !status.ready) reasons.push('cluster is not ready');
  for (const group of status?.groups ?? []) {
    if (typeof group.halted === 'string') {
      const remedy = http === null ? '' : `; to build it anew: ${rebuildCommand(group.name, http)}`;
      reasons.push(`${group.name} is halted: ${group.halted}${remedy}`);
    } else if (group.leader === 0) reasons.push(`${group.name} has no leader`);
  }
  return { status: reasons.length === 0 ? 'ok' : 'unavailable', reasons: reasons.slice(0, reasonsMax) };
}
