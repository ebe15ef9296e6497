// A commit: what a transaction held goes to its shards, to each of them as one.
//
// Nothing is sent before everything was routed; a shard without a majority refuses the whole beforehand. The answer waits for all shards:
// then everything is on a majority's disks. Is the fate of a part unknown, or was it refused (a full queue), the client hears that.

import { type ConfirmTarget, PublishFlag, type Route } from '../../cluster/index.ts';
import type { ChannelEvents, HeldPublish, HeldSettlement, Reply } from '../amqp/backend.ts';
import { BrokerError } from '../errors.ts';
import type { BrokerChannel } from './channel.ts';
import { expirationOf, flagsOf } from './publishing.ts';
import { metadataUnavailable } from './topology.ts';

/** What one shard gets. */
interface Share {
  readonly publishes: { readonly held: HeldPublish; readonly queues: readonly number[] }[];
  readonly settlements: HeldSettlement[];
}

export function commit(
  channel: BrokerChannel,
  events: ChannelEvents,
  publishes: readonly HeldPublish[],
  settlements: readonly HeldSettlement[],
  reply: Reply<void>,
): void {
  const { cluster } = channel.broker;
  const shares = new Map<number, Share>();
  const unroutable: HeldPublish[] = [];
  for (const held of publishes) {
    const route = channel.route(held.publication, held.properties, held.traits);
    if (route instanceof BrokerError) return reply({ ok: false, error: route });
    if (route.shards.length === 0) unroutable.push(held);
    addPublish(shares, held, route);
  }
  for (const settlement of settlements) {
    const shard = channel.shardOf(settlement.consumer);
    if (shard !== undefined) shareOf(shares, shard).settlements.push(settlement);
  }
  for (const shard of shares.keys())
    if (cluster.pipe(shard).isStalled) return reply({ ok: false, error: metadataUnavailable() });
  channel.broker.unroutable += unroutable.length;
  for (const { publication, properties, body } of unroutable)
    if (publication.mandatory) channel.returnUnroutable(publication, properties, body);
  send(channel, events, shares, reply);
}

function send(
  channel: BrokerChannel,
  events: ChannelEvents,
  shares: ReadonlyMap<number, Share>,
  reply: Reply<void>,
): void {
  let isWhole = true;
  // Each shard, each publish in each shard, and this function itself.
  let waiting = 1;
  const answered = (count: number, ok: boolean) => {
    isWhole &&= ok;
    waiting -= count;
    if (waiting > 0) return;
    const error = () => new BrokerError('precondition-failed', 'partial tx completion');
    reply(isWhole ? { ok: true, value: undefined } : { ok: false, error: error() });
  };
  const target: ConfirmTarget = {
    confirmed: (first, last, ok) => answered(last - first + 1, ok),
    unroutable: (_tag, message) => {
      if ((message.flags & PublishFlag.mandatory) !== 0) events.returned(message);
    },
  };
  let tag = 0;
  for (const [shard, { publishes, settlements }] of shares) {
    const pipe = channel.broker.cluster.pipe(shard);
    waiting += 1 + publishes.length;
    pipe.atomically(
      channel.connection,
      () => {
        for (const { settlement, consumer, first, count } of settlements)
          channel.settle(settlement, consumer, first, count);
        for (const { held, queues } of publishes) {
          const { publication, properties, body, bodyBytes, traits } = held;
          const [flags, priority, expiration] = [
            flagsOf(publication, traits),
            traits?.priority ?? 0,
            expirationOf(traits),
          ];
          const { key } = publication;
          pipe.publish(
            channel.connection,
            queues,
            flags,
            priority,
            expiration,
            key,
            properties,
            body,
            bodyBytes,
            target,
            ++tag,
          );
        }
      },
      (result) => answered(1, result !== null),
    );
    channel.connection.published(pipe);
  }
  answered(1, true);
}

function addPublish(shares: Map<number, Share>, held: HeldPublish, { shards }: Route): void {
  for (const { shard, queues } of shards) shareOf(shares, shard).publishes.push({ held, queues });
}

function shareOf(shares: Map<number, Share>, shard: number): Share {
  let share = shares.get(shard);
  if (share === undefined) shares.set(shard, (share = { publishes: [], settlements: [] }));
  return share;
}
