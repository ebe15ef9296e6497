// The words of the metadata group: its commands, its rows for the shards, and how others read it. Types only.
// Commands travel as JSON in a `metadata` command; unknown kinds are refused, unknown fields ignored.

/** An AMQP table value that JSON can carry: 64-bit integers beyond 2^53 as { int64: "…" }, byte strings as { bytes: base64 }. */
export type ArgumentValue =
  | null
  | boolean
  | number
  | string
  | { readonly int64: string }
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
    }
  /** Ends (node, incarnation and earlier): its exclusive queues go, every shard gets a fence row. */
  | { readonly kind: 'fenceNode'; readonly node: number; readonly incarnation: number }
  | {
      readonly kind: 'declareQueue';
      readonly vhost: string;
      readonly name: string;
      readonly durable: boolean;
      readonly autoDelete: boolean;
      readonly exclusive: ConnectionId | null;
      readonly arguments: Arguments;
      /** Shards that the declaring node leads: preferred as long as the queues stay evenly spread. */
      readonly near?: readonly number[];
    }
  /** Removes exactly this queue (not a later one of the same name) and its bindings. */
  | { readonly kind: 'deleteQueue'; readonly uid: number }
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
  /** A shard has applied all changes up to this version: its rows can go. */
  | { readonly kind: 'shardApplied'; readonly shard: number; readonly version: number };

/** What a shard must do because of the metadata. `version` is the metadata index of the entry that made the row. */
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
  | { readonly kind: 'delete'; readonly version: number; readonly uid: number }
  | { readonly kind: 'fence'; readonly version: number; readonly node: number; readonly incarnation: number };

export interface QueueRecord {
  /** Unique for ever, fits 32 bits. */
  readonly uid: number;
  readonly vhost: string;
  readonly name: string;
  /** From 1: the number of the group that holds it. */
  readonly shard: number;
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly exclusive: ConnectionId | null;
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
  /** Changes whenever routing may have changed. */
  readonly topologyVersion: number;
  vhostExists(vhost: string): boolean;
  queue(vhost: string, name: string): QueueRecord | undefined;
  queueByUid(uid: number): QueueRecord | undefined;
  exchange(vhost: string, name: string): ExchangeRecord | undefined;
  queues(): Iterable<QueueRecord>;
  exchanges(): Iterable<ExchangeRecord>;
  nodes(): Iterable<NodeRecord>;
  /** Undefined: no such exchange. An empty route: unroutable. Each queue at most once. `name` '' is the default exchange. */
  route(vhost: string, exchange: string, routingKey: string, headers: HeaderLookup): Route | undefined;
  /** Does routing through this exchange depend on headers (so that a route must not be cached by key)? */
  usesHeaders(vhost: string, exchange: string): boolean;
  /** Rows for a shard with a version in (after, upTo], ascending. */
  changes(shard: number, after: number, upTo: number): ShardChange[];
}
