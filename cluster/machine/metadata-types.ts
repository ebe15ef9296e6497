// The words of the metadata group: its commands, its rows for the shards, and how others read it. Types only.
// Commands travel as JSON in a `metadata` command; unknown kinds are refused, unknown fields ignored.

import type { PipeId } from './machine.ts';

/**
 * An AMQP table value that JSON can carry: 64-bit integers beyond 2^53 as { int64: "…" }, byte strings as { bytes: base64 }. A whole number that its
 * client sent as a double is { double: … }, for the node that it came to only: commands have the plain number.
 */
export type ArgumentValue =
  | null
  | boolean
  | number
  | string
  | { readonly int64: string }
  | { readonly double: number }
  | { readonly bytes: string }
  | { readonly timestamp: number }
  | { readonly decimal: readonly [scale: number, value: number] }
  | readonly ArgumentValue[]
  | { readonly table: Arguments };
export type Arguments = { readonly [name: string]: ArgumentValue };

export type ExchangeType = 'direct' | 'fanout' | 'topic' | 'headers';

/** A connection, cluster-wide: what exclusive queues belong to. */
export interface ConnectionId {
  readonly node: number;
  readonly incarnation: number;
  readonly connection: number;
}

export type MetadataCommand =
  /** The first command of every incarnation: ends all earlier incarnations of the node. */
  | {
      readonly kind: 'openNode';
      readonly node: number;
      readonly name: string;
      readonly uuid: string;
      readonly incarnation: number;
      readonly contact: NodeContact;
      /** The highest machine version that its code knows; left out: 1. One below that in force is refused. */
      readonly machineVersion?: number;
      /** Where the others find it now; left out: where they did before. */
      readonly address?: NodeAddress;
    }
  /** Ends (node, incarnation and earlier): its volatile queues go, every shard and every living volatile group gets a fence row. */
  | { readonly kind: 'fenceNode'; readonly node: number; readonly incarnation: number }
  | {
      readonly kind: 'declareQueue';
      readonly vhost: string;
      readonly name: string;
      readonly durable: boolean;
      readonly autoDelete: boolean;
      readonly exclusive: ConnectionId | null;
      readonly arguments: Arguments;
      /** The declaring node's incarnation, of which an exclusive queue's owner is a connection. Exclusive and non-durable queues live and end with it. */
      readonly home: PipeId;
      /** Shards that the declaring node leads: preferred as long as the queues stay evenly spread. */
      readonly near?: readonly number[];
    }
  /** Removes exactly this queue (not a later one of the same name) and its bindings. */
  | { readonly kind: 'deleteQueue'; readonly uid: number }
  /** What holds for a queue besides its declaration: the arguments that its group is to go by from now on. */
  | { readonly kind: 'configureQueue'; readonly uid: number; readonly arguments: Arguments }
  /** All exclusive queues of a connection. */
  | { readonly kind: 'deleteExclusive'; readonly owner: ConnectionId }
  | {
      readonly kind: 'declareExchange';
      readonly vhost: string;
      readonly name: string;
      readonly type: ExchangeType;
      readonly durable: boolean;
      readonly autoDelete: boolean;
      readonly internal: boolean;
      readonly arguments: Arguments;
    }
  | { readonly kind: 'deleteExchange'; readonly vhost: string; readonly name: string; readonly ifUnused: boolean }
  | {
      readonly kind: 'bind' | 'unbind';
      readonly vhost: string;
      readonly source: string;
      readonly destination: { readonly kind: 'queue' | 'exchange'; readonly name: string };
      readonly routingKey: string;
      readonly arguments: Arguments;
    }
  /** A shard, or volatile group, has applied all changes up to this version: its rows can go. */
  | { readonly kind: 'shardApplied'; readonly shard: number; readonly version: number }
  /** From now on leaders write entries of this machine version. Refused unless every node knows it. From the metadata's leader. */
  | { readonly kind: 'raiseVersion'; readonly version: number }
  /** A new node, to which the result gives a number that no node ever had; the same one again for the same UUID. `replaces` leaves with it. */
  | {
      readonly kind: 'joinNode';
      readonly name: string;
      readonly uuid: string;
      readonly address: NodeAddress;
      readonly replaces: number | null;
    }
  /** A member is to leave: its replicas first. Refused, with a reason, where the others could not go on without it. */
  | { readonly kind: 'leaveNode'; readonly node: number }
  /** It votes in the metadata group: it is a member. From the metadata's leader. */
  | { readonly kind: 'memberJoined'; readonly node: number }
  /** It votes nowhere any more: its incarnations end, and it is no part of the cluster. From the metadata's leader. */
  | { readonly kind: 'memberGone'; readonly node: number }
  /**
   * Where a shard's replicas are to be: at most one shard moves at a time. From the metadata's leader. Again for the shard that moves, when
   * that cannot go on: another target, or its voters, which takes the move back.
   */
  | { readonly kind: 'place'; readonly group: number; readonly target: readonly number[] }
  /** The shard's configuration is the placement's target, and committed. `version`: the placement's, that a late word ends no later move. From the shard's leader. */
  | {
      readonly kind: 'placed';
      readonly group: number;
      readonly voters: readonly number[];
      readonly version: number;
    };

/** What a shard, or volatile group, must do because of the metadata. `version` is the metadata index of the entry that made the row. */
export type ShardChange =
  | {
      readonly kind: 'create';
      readonly version: number;
      readonly uid: number;
      readonly vhost: string;
      readonly name: string;
      readonly autoDelete: boolean;
      readonly arguments: Arguments;
    }
  /** The resolved arguments that the queue goes by from now on; they replace all earlier ones. */
  | { readonly kind: 'configure'; readonly version: number; readonly uid: number; readonly arguments: Arguments }
  | { readonly kind: 'delete'; readonly version: number; readonly uid: number }
  | { readonly kind: 'fence'; readonly version: number; readonly node: number; readonly incarnation: number };

export interface QueueRecord {
  /** Unique for ever, fits 32 bits. */
  readonly uid: number;
  readonly vhost: string;
  readonly name: string;
  /** The number of the group that holds it: a shard, or the volatile group of its home. */
  readonly shard: number;
  /** The incarnation that an exclusive or non-durable queue lives and ends with; null for the others, which are in a shard. */
  readonly home: PipeId | null;
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly exclusive: ConnectionId | null;
  /** As declared. */
  readonly arguments: Arguments;
}

export interface ExchangeRecord {
  readonly vhost: string;
  readonly name: string;
  readonly type: ExchangeType;
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly internal: boolean;
  readonly arguments: Arguments;
  /** Predeclared: cannot be deleted or redeclared differently. */
  readonly predeclared: boolean;
}

/** Where people and tools find a running node. */
export interface NodeContact {
  readonly pid: number;
  readonly amqp: string;
  readonly http: string;
}

export interface NodeRecord {
  readonly node: number;
  readonly name: string;
  readonly uuid: string;
  /** The latest incarnation that was opened, and the latest that was ended. */
  readonly incarnation: number;
  readonly fencedTo: number;
  readonly contact: NodeContact;
  /** The highest machine version that it knows, as its latest incarnation said. */
  readonly machineVersion: number;
}

/** Where the other nodes find a node. */
export interface NodeAddress {
  readonly host: string;
  readonly port: number;
}

/** `joining`: learns the metadata. `leaving`: gives its replicas away. `gone`: kept for ever, so that its number and name are not given again. */
export type MemberState = 'joining' | 'member' | 'leaving' | 'gone';

export interface MemberRecord {
  readonly node: number;
  readonly name: string;
  /** '': a node of the original format that has not opened yet. */
  readonly uuid: string;
  /** As the node last said; port 0: it has not yet. An address in a node's own settings goes before it. */
  readonly address: NodeAddress;
  readonly state: MemberState;
}

/** A node of the format that the cluster was formed with. Without its address, which each node may have another of in its settings. */
export interface OriginalNode {
  readonly node: number;
  readonly name: string;
  /** '' if it is only known from the node's first opening. */
  readonly uuid: string;
}

/** What the cluster began with: the same for every node for ever, also for one that joined later. */
export interface OriginalFormat {
  /** Ascending. */
  readonly nodes: readonly OriginalNode[];
  /** Nodes that are to hold a replica of each shard, as far as there are so many. */
  readonly replication: number;
}

/**
 * The nodes that hold a shard's replicas. `target`: those that are to; null: nothing is under way. Both ascending. The shard's leader works
 * towards `target ?? voters`, whatever configuration it finds (a move that is taken back may have been done all the same), and says `placed`.
 */
export interface Placement {
  readonly voters: readonly number[];
  readonly target: readonly number[] | null;
  /** The metadata version that set the target or ended the last move; 0: the original placement. */
  readonly version: number;
}

/** Where one publish goes: queues per shard. Immutable; valid while `metadata.topologyVersion` is unchanged. */
export interface Route {
  readonly shards: readonly { readonly shard: number; readonly queues: readonly number[] }[];
}

/** Header values of a message for a headers exchange, decoded only when one is involved. */
export type HeaderLookup = () => Arguments;

/** Read-only view of a metadata machine's state, on the node's own replica. */
export interface MetadataView {
  readonly appliedIndex: number;
  /** The machine version that leaders write entries of. */
  readonly machineVersion: number;
  /** Changes whenever routing may have changed. */
  readonly topologyVersion: number;
  vhostExists(vhost: string): boolean;
  queue(vhost: string, name: string): QueueRecord | undefined;
  queueByUid(uid: number): QueueRecord | undefined;
  /** The arguments that the queue's group goes by: the declared ones, or those that replaced them. */
  effectiveArguments(uid: number): Arguments | undefined;
  exchange(vhost: string, name: string): ExchangeRecord | undefined;
  queues(): Iterable<QueueRecord>;
  exchanges(): Iterable<ExchangeRecord>;
  nodes(): Iterable<NodeRecord>;
  /** Is this incarnation known, and not ended? */
  isOpen(node: number, incarnation: number): boolean;
  /**
   * Undefined: no such exchange. An empty route: unroutable. Each queue at most once. `exchange` '' is the default one. `moreKeys`: each exchange
   * on the way takes what any of the keys would make it take.
   */
  route(
    vhost: string,
    exchange: string,
    routingKey: string,
    headers: HeaderLookup,
    moreKeys?: readonly string[],
  ): Route | undefined;
  /** Does routing through this exchange depend on headers (so that a route must not be cached by key)? */
  usesHeaders(vhost: string, exchange: string): boolean;
  /** How many nodes are to hold a replica of each shard, as far as there are so many. */
  readonly replication: number;
  /** What the cluster was formed with. */
  readonly original: OriginalFormat;
  /** Changes whenever members or placements may have changed. */
  readonly membersVersion: number;
  /** All that ever were, by number. */
  members(): Iterable<MemberRecord>;
  member(node: number): MemberRecord | undefined;
  /** Undefined: not a shard. */
  placement(group: number): Placement | undefined;
  /** Of all shards, by number. */
  placements(): Iterable<readonly [group: number, placement: Placement]>;
  /**
   * The nodes that vote in a group, the one that should lead it first: of a shard those of its placement, of the metadata all members that have
   * joined, of a volatile group its node. Kept until `membersVersion` changes.
   */
  replicas(group: number): readonly number[];
  /** Rows for a shard or volatile group with a version in (after, upTo], ascending. */
  changes(group: number, after: number, upTo: number): ShardChange[];
}
