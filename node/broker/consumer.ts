// One consumer of this node, or one channel's standing reader for `get` on a queue (a getter). Plain state, owned by its channel.

import type { BrokerChannel } from './channel.ts';

export interface Consumer {
  readonly number: number;
  readonly shard: number;
  readonly queue: number;
  /** Its queue goes with its last consumer. */
  readonly autoDelete: boolean;
  readonly channel: BrokerChannel;
  readonly noAck: boolean;
  /** Messages that it may have out unsettled by its own limit; 0: none. */
  readonly prefetch: number;
  /** What the machine was told of that last: less under a limit of the whole channel. */
  unsettledMax: number;
  readonly getter: boolean;
  /** Lowest lease ordinal not heard of yet. */
  nextLease: number;
  /** Lease ordinals up to here were granted. */
  grantedTo: number;
  /** Highest lease ordinal written to the socket, or given back for want of room: none up to it waits. */
  deliveredTo: number;
  /** Without acknowledgements: leases [first, first + count) were written and are to be settled. */
  autoSettleFirst: number;
  autoSettleCount: number;
  /** Delivered to the client and not settled. */
  outstanding: number;
  /** Accepted since the pipe's batch `acceptedIn` was opened, so that the machine may not know of it yet. */
  accepted: number;
  acceptedIn: number;
  /** A getter: a `get` is under way; and the lease that it brought, while its message is being read (0: none). */
  polling: boolean;
  unseen: number;
  /** The machine said that it has it (a getter: never said, made by its first message). */
  attached: boolean;
  /** Its cancel is under way, or done: leases that still come go straight back. */
  cancelling: boolean;
  cancelled: boolean;
}

/** It has accepted `count` messages. True if at least half of its limit is free all the same, so that the machine may hear of it a little later. */
export function hasRoomToSpare(consumer: Consumer, count: number, openNumber: number): boolean {
  consumer.accepted = consumer.acceptedIn === openNumber ? consumer.accepted + count : count;
  consumer.acceptedIn = openNumber;
  const { unsettledMax, outstanding, accepted } = consumer;
  return unsettledMax === 0 || (outstanding + accepted) * 2 <= unsettledMax;
}
