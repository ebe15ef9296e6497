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
    /** It is damaged, and is built anew by itself once this is over; null: it is not, or it is being built anew. */
    readonly waitsFor?: string | null;
    /** It does not have again yet what it lost. */
    readonly repairing?: boolean;
    /** Numbers of other nodes whose replicas are damaged. */
    readonly damagedOn?: readonly number[];
  }[];
  /** Publishers have to wait: why, or null. */
  readonly alarm?: string | null;
}

/** Where this process is in its life. */
export type Phase = 'starting' | 'running' | 'stopping';

export interface Health {
  readonly status: 'ok' | 'unavailable';
  /** Why not; empty when ok. At most `reasonsMax`. */
  readonly reasons: readonly string[];
  /** What somebody should look after although clients are served; left out if there is nothing. At most `reasonsMax`. */
  readonly warnings?: readonly string[];
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
  const warnings: string[] = [];
  if (typeof status?.alarm === 'string') warnings.push(`publishers wait: ${status.alarm}`);
  for (const group of status?.groups ?? []) {
    const { name, halted, waitsFor, damagedOn = [] } = group;
    const elsewhere = damagedOn.length === 0 ? '' : `; damaged on node ${damagedOn.join(', ')} too`;
    if (typeof halted === 'string' && typeof waitsFor === 'string')
      reasons.push(`${name} is halted: ${halted}; it is built anew by itself, but ${waitsFor}${elsewhere}`);
    else if (typeof halted === 'string') {
      const remedy = http === null ? '' : `; to build it anew: ${rebuildCommand(name, http)}`;
      reasons.push(`${name} is halted: ${halted}${remedy}`);
    } else if (group.leader === 0) {
      const damaged = damagedOn.length === 0 ? '' : `: its replicas on node ${damagedOn.join(', ')} are damaged`;
      reasons.push(`${name} has no leader${damaged}`);
    } else if (group.repairing === true) warnings.push(`${name} is being built anew here`);
    else if (damagedOn.length > 0) warnings.push(`${name} is damaged on node ${damagedOn.join(', ')}`);
  }
  return {
    status: reasons.length === 0 ? 'ok' : 'unavailable',
    reasons: reasons.slice(0, reasonsMax),
    ...(warnings.length === 0 ? {} : { warnings: warnings.slice(0, reasonsMax) }),
  };
}
