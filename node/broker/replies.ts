// Direct reply-to: a client consumes from a name that stands for a queue of its channel, and names it as reply-to; whoever gets the message
// sees the queue's real name there and answers by the default exchange, through any node.
//
// The queue is an ordinary exclusive one, in memory on this node, that goes with its only consumer. So replies are routed, held back and
// delivered like any other message, and one that finds nobody any more is unroutable.

import { ResultCode } from '../../cluster/index.ts';
import type { QueueState, Reply } from '../amqp/backend.ts';
import { directReplyTo, directReplyToPrefix } from '../amqp/properties.ts';
import { BrokerError } from '../errors.ts';
import type { BrokerConnection } from './broker.ts';
import { metadataUnavailable } from './topology.ts';

export const isReplyName = (name: string): boolean => name === directReplyTo || name.startsWith(directReplyToPrefix);

/** Replies with the queue's name. */
export function declareReplyQueue(connection: BrokerConnection, reply: Reply<string>): void {
  const { cluster, random } = connection.broker;
  const name = directReplyToPrefix + random.bytes(16).toString('base64url');
  connection.ownsQueues = true;
  const declaration = { durable: false, autoDelete: true, exclusive: connection.id, arguments: {}, near: [] };
  const home = { node: cluster.node, incarnation: cluster.incarnation };
  cluster.changeMetadata({ kind: 'declareQueue', vhost: connection.vhost, name, home, ...declaration }, (result) => {
    if (result?.code === ResultCode.ok) reply({ ok: true, value: name });
    else reply({ ok: false, error: metadataUnavailable() });
  });
}

/** A declaration, passive or not, of such a name asks whether somebody still waits for replies. */
export function checkReplyName({ broker, vhost }: BrokerConnection, name: string, reply: Reply<QueueState>): void {
  if (name === directReplyTo || broker.cluster.metadata.queue(vhost, name) !== undefined)
    reply({ ok: true, value: { name, messages: 0, consumers: 1 } });
  else reply({ ok: false, error: new BrokerError('not-found', `no queue '${name}' in vhost '${vhost}'`) });
}
