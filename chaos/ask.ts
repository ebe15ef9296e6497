// What a node of Warren says of itself and its cluster over HTTP, as far as the chaos suite listens.
//
// State: none. Every request has a connection of its own: nodes that are harmed leave no broken one behind.

import { setTimeout as sleep } from 'node:timers/promises';
import { request } from 'undici';

/** What GET /cluster says, as far as it is used here. */
export interface ClusterView {
  readonly node: number;
  readonly ready: boolean;
  readonly nodes: readonly {
    readonly node: number;
    readonly name: string;
    /** joining, member, leaving */
    readonly state: string;
    readonly up: boolean;
    /** host:port at which the node that answers reaches it. */
    readonly peer: string;
  }[];
  readonly groups: readonly {
    readonly name: string;
    readonly leader: number;
    readonly term: number;
  }[];
}

/** As the group of the metadata is called. */
const metadataName = 'meta';
/** Longer than a leader waits for a node that has just connected, before it hands it a group. */
const restMilliseconds = 2000;
const lookMilliseconds = 200;
const healthMillisecondsMax = 1000;
const viewMillisecondsMax = 2000;

/** `http`: as `http://127.0.0.1:15672`. */
export async function askHealth(http: string): Promise<boolean> {
  try {
    const { statusCode, body } = await request(`${http}/health`, {
      reset: true,
      headersTimeout: healthMillisecondsMax,
      bodyTimeout: healthMillisecondsMax,
    });
    await body.dump();
    return statusCode === 200;
  } catch {
    return false;
  }
}

export async function askView(http: string): Promise<ClusterView> {
  const { statusCode, body } = await request(`${http}/cluster`, {
    reset: true,
    headersTimeout: viewMillisecondsMax,
    bodyTimeout: viewMillisecondsMax,
  });
  const view = await body.json();
  if (statusCode !== 200) throw new Error(`GET ${http}/cluster: status ${statusCode}`);
  return view as ClusterView;
}

/** Tells a node that another is to leave. Null: that has begun; else why not. */
export async function askLeave(http: string, node: number): Promise<string | null> {
  const { statusCode, body } = await request(`${http}/cluster/nodes/${node}/leave`, { method: 'POST', reset: true });
  const { reason, error } = Object(await body.json()) as { readonly reason?: string; readonly error?: string };
  return statusCode === 202 ? null : (reason ?? error ?? `status ${statusCode}`);
}

/** All views that are to be had. */
export async function askViews(https: readonly string[]): Promise<ClusterView[]> {
  const views = await Promise.all(https.map((http) => askView(http).catch(() => null)));
  return views.filter((view) => view !== null);
}

interface Leader {
  readonly leader: number;
  readonly term: number;
}

/** Of each group the leader of the latest term that anybody knows. */
function leadersOf(views: readonly ClusterView[]): Map<string, Leader> {
  const latest = new Map<string, Leader>();
  for (const { groups } of views) {
    for (const { name, leader, term } of groups) {
      const known = latest.get(name);
      if (leader !== 0 && (known === undefined || term > known.term)) latest.set(name, { leader, term });
    }
  }
  return latest;
}

/**
 * Those of these nodes that do not lead the metadata, which all queues need, once all groups have been led by the same nodes for a while, or
 * after so long. A cluster that starts hands groups from node to node until each is led where it should be: who declares a queue before
 * that may find it led by another node soon after.
 */
export async function followersAtRest(
  nodes: readonly number[],
  ask: () => Promise<readonly ClusterView[]>,
  milliseconds: number,
): Promise<number[]> {
  const deadline = performance.now() + milliseconds;
  let seen = '';
  let since = performance.now();
  for (;;) {
    const views = await ask();
    const leaders = leadersOf(views);
    const groups = new Set(views.flatMap((view) => view.groups.map(({ name }) => name)));
    const now = performance.now();
    const is = JSON.stringify([...leaders].sort(([a], [b]) => (a < b ? -1 : 1)));
    const isLed = groups.size > 0 && groups.size === leaders.size;
    if (is !== seen || !isLed) since = now;
    seen = is;
    if (now - since >= restMilliseconds || now >= deadline) {
      const leader = leaders.get(metadataName)?.leader ?? busiestLeader(views, 0);
      return nodes.filter((node) => node !== leader);
    }
    await sleep(lookMilliseconds);
  }
}

/** The node that leads most groups; 0: nobody leads. */
export function busiestLeader(views: readonly ClusterView[], except: number): number {
  const counts = new Map<number, number>();
  for (const { leader } of leadersOf(views).values())
    if (leader !== except) counts.set(leader, (counts.get(leader) ?? 0) + 1);
  let busiest = 0;
  for (const [node, count] of counts) {
    const most = counts.get(busiest) ?? 0;
    if (count > most || (count === most && node < busiest)) busiest = node;
  }
  return busiest;
}
