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
  return metadata.route(vhost, exchange, routingKey, headers, moreKeys) ?? nowhere;
}
