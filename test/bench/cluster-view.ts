// What the load generator learns of a Warren cluster from the HTTP port of any of its nodes: which process leads how much.

import { request } from 'undici';

export interface NodeView {
  readonly name: string;
  readonly pid: number;
  /** Host and port for AMQP clients. */
  readonly amqp: string;
  /** Groups that it leads. */
  readonly leaderships: number;
}

interface ClusterAnswer {
  readonly nodes: readonly {
    readonly node: number;
    readonly name: string;
    readonly pid: number;
    readonly amqp: string;
  }[];
  readonly groups: readonly { readonly leader: number }[];
}

/** The longest time in the last ten seconds in which a node's event loop did one thing. */
export interface LoopDelay {
  readonly eventLoopMilliseconds: number;
  /** What of it that process ran; null: that node does not know. */
  readonly eventLoopOwnMilliseconds: number | null;
}

export async function readEventLoop(http: string): Promise<LoopDelay> {
  const { body } = await request(new URL('/cluster', http), { reset: true });
  return (await body.json()) as LoopDelay;
}

/** The HTTP addresses of all nodes, as one of them knows them. */
export async function readHttpAddresses(http: string): Promise<string[]> {
  const { body } = await request(new URL('/cluster', http), { reset: true });
  const { nodes } = (await body.json()) as { nodes: readonly { readonly http: string }[] };
  return nodes.map((node) => `http://${node.http}`);
}

export async function readCluster(http: string): Promise<NodeView[]> {
  const { body } = await request(new URL('/cluster', http), { reset: true });
  const { nodes, groups } = (await body.json()) as ClusterAnswer;
  return nodes.map(({ node, name, pid, amqp }) => {
    const leaderships = groups.filter((group) => group.leader === node).length;
    return { name, pid, amqp, leaderships };
  });
}
