// What a message says of where it goes and how it is to be treated, in the words of the cluster. A message with several routing keys (CC and
// BCC) goes to each queue once.

import { type MetadataView, PublishFlag, type Route } from '../../cluster/index.ts';
import type { Publication, Traits } from '../amqp/backend.ts';
import { readHeaders } from '../amqp/properties.ts';

const noExpiration = 0xffff_ffff;

export const flagsOf = ({ mandatory }: Publication, traits: Traits | null): number =>
  (mandatory ? PublishFlag.mandatory : 0) | (traits !== null && traits.expiration >= 0 ? PublishFlag.expiration : 0);

export const expirationOf = (traits: Traits | null): number =>
  traits === null || traits.expiration < 0 ? noExpiration : traits.expiration;

const nowhere: Route = { shards: [] };

/** The exchange exists. */
export function routeTo(
  metadata: MetadataView,
  vhost: string,
  { exchange, routingKey }: Publication,
  properties: Buffer,
  moreKeys: readonly string[],
): Route {
  const headers = () => readHeaders(properties);
  const first = metadata.route(vhost, exchange, routingKey, headers) ?? nowhere;
  if (moreKeys.length === 0) return first;
  const routes = [first, ...moreKeys.map((key) => metadata.route(vhost, exchange, key, headers) ?? nowhere)];
  return mergeRoutes(routes);
}

function mergeRoutes(routes: readonly Route[]): Route {
  const queuesOf = new Map<number, Set<number>>();
  for (const { shards } of routes)
    for (const { shard, queues } of shards) {
      const known = queuesOf.get(shard);
      if (known === undefined) queuesOf.set(shard, new Set(queues));
      else for (const queue of queues) known.add(queue);
    }
  return { shards: Array.from(queuesOf, ([shard, queues]) => ({ shard, queues: [...queues] })) };
}
