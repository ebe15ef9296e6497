// What the load generator learns of a Warren cluster from its HTTP port: which process leads how much.

import { request } from 'undici';

export interface NodeView {
  readonly name: string;
  readonly pid: number;
  /** Shards that it leads. */
  readonly leaderships: number;
}

/** In the order of the addresses given. */
export async function readCluster(http: readonly string[]): Promise<NodeView[]> {
  const views: NodeView[] = [];
  for (const address of http) {
    const health = await request(new URL('/health', address));
    const { name, pid } = (await health.body.json()) as { name: string; pid: number };
    views.push({ name, pid, leaderships: 0 });
  }
  const { body } = await request(new URL('/cluster', http[0]));
  const { shards } = (await body.json()) as { shards: { leader: string | null }[] };
  return views.map((view) => ({ ...view, leaderships: shards.filter((shard) => shard.leader === view.name).length }));
}
