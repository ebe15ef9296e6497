// Messages through the in-memory cluster: publishing with numbers as bodies, declaring queues, and reading leases back.

import { type ConfirmTarget, type MessageView, ResultCode } from '../../cluster/index.ts';
import type { Arguments, QueueRecord } from '../../cluster/machine/metadata-types.ts';
import type { Lease, MemoryCluster, MemoryNode } from './memory-cluster.ts';

/** Exchange '' and routing key 'q', as AMQP short strings. */
export const key = Buffer.from([0, 1, 0x71]);
export const properties = Buffer.alloc(2);
const noExpiration = 0xffff_ffff;

export class Publisher implements ConfirmTarget {
  readonly confirmedTags = new Set<number>();
  readonly nackedTags = new Set<number>();
  #next = 1;
  confirmed(first: number, last: number, ok: boolean) {
    for (let tag = first; tag <= last; tag++) (ok ? this.confirmedTags : this.nackedTags).add(tag);
  }
  unroutable() {}
  /** Publishes one message through a node; its body is its tag. */
  publish(row: MemoryNode, { shard, uid }: { readonly shard: number; readonly uid: number }, text?: string): number {
    const tag = this.#next++;
    const body = Buffer.from(text ?? String(tag));
    row.cluster.pipe(shard).publish(row, [uid], 0, 0, noExpiration, key, properties, [body], body.length, this, tag);
    return tag;
  }
}

/** Declares a durable queue through a node; `near`: the shards that it should go to. */
export async function declareQueue(
  cluster: MemoryCluster,
  node: number,
  name: string,
  table: Arguments = {},
  options: { readonly near?: readonly number[] } = {},
): Promise<QueueRecord> {
  const { cluster: through } = cluster.node(node);
  let code: number | null | undefined;
  const home = { node, incarnation: through.incarnation };
  const command = {
    vhost: '/',
    name,
    durable: true,
    autoDelete: false,
    exclusive: null,
    arguments: table,
    home,
  } as const;
  through.changeMetadata({ kind: 'declareQueue', ...command, ...options }, (result) => {
    code = result?.code ?? null;
  });
  await cluster.until(() => code !== undefined, 5_000);
  if (code !== ResultCode.ok) throw new Error(`queue ${name} was not declared: ${code}`);
  return through.metadata.queue('/', name)!;
}

/** Consumes from a queue through a node: what it is given is in the node's feed. */
export function consume(row: MemoryNode, { shard, uid }: QueueRecord, consumer: number): () => Lease[] {
  const command = { consumer, queue: uid, unsettledMax: 0, grantedTo: 1e9, priority: 0, flags: 0, tag: 'c' };
  row.cluster.pipe(shard).consume(row, command, () => {});
  return () => row.feed.leases.filter((lease) => lease.shard === shard && lease.consumer === consumer);
}

export interface ReadMessage {
  readonly exchange: string;
  readonly routingKey: string;
  readonly body: string;
}

/** The message of a lease, as this node reads it. */
export async function readMessage(cluster: MemoryCluster, { cluster: node }: MemoryNode, lease: Lease) {
  let read: ReadMessage | 'gone' | null = null;
  const take = (view: MessageView | null | undefined) => {
    if (view == null) return 'gone';
    const { payload, keyStart, propertiesStart, bodyStart, bodyEnd } = view;
    const keyAt = keyStart + 1 + payload[keyStart]!;
    return {
      exchange: payload.toString('utf8', keyStart + 1, keyAt),
      routingKey: payload.toString('utf8', keyAt + 1, propertiesStart),
      body: payload.toString('utf8', bodyStart, bodyEnd),
    };
  };
  const isWanted = () => read === null;
  node.readMessages(lease.shard, lease.entryIndex, [lease.ordinal], isWanted, ([view]) => {
    read = take(view);
  });
  await cluster.until(() => read !== null, 2_000);
  if (read === null || read === 'gone') throw new Error('the message of a lease cannot be read');
  return read as ReadMessage;
}
