// Queues, exchanges and bindings of all vhosts: what can be declared, what goes with what.
//
// State owned: the vhosts with their queues, exchanges and bindings; the uid counter; how many queues each shard holds; which connection
// owns which exclusive queues; the running sum over all of it that the state hash is made of.
//
// Invariants:
// - A binding is known to its source and to its destination, and is in the source's matcher. Whatever ends one of the two ends it.
// - An exchange is there while it has bindings; an auto-delete one goes with the last binding of which it is the source, but not before
//   it had one.
// - A uid is given once. Queues are kept in the order of their uids, exchanges and bindings in the order of their making: a replica that
//   was restored from a snapshot has the same order as one that lived through it all.
//
// Work per command grows with what the command touches (a queue's bindings, a connection's queues), never with what there is.
//
// PURE.

import { ResultCode } from '../commands.ts';
import type { Arguments, ConnectionId, ExchangeRecord, ExchangeType, QueueRecord } from '../metadata-types.ts';
import { createMatcher, isHeadersBinding, type Matcher } from '../routing.ts';
import {
  argumentOf,
  type BindCommand,
  canonicalArguments,
  type DeclareExchange,
  type DeclareQueue,
  type DeleteExchange,
  exchangeDifference,
  noArguments,
  queueDifference,
} from './arguments.ts';
import { textHash } from './hash.ts';

export const defaultVhost = '/';
/** uids fit 32 bits, and the last value stays free. */
/** How many queues more than the emptiest shard a near one may have and still get the next. Part of the machine's version. */
export const nearQueuesAhead = 4;

export const uidMax = 0xffff_fffe;

const predeclaredExchanges: readonly (readonly [name: string, type: ExchangeType])[] = [
  ['', 'direct'],
  ['amq.direct', 'direct'],
  ['amq.fanout', 'fanout'],
  ['amq.topic', 'topic'],
  ['amq.headers', 'headers'],
  ['amq.match', 'headers'],
];

/** A binding as others read it. */
export interface BindingRecord {
  readonly vhost: string;
  readonly source: string;
  readonly destination: { readonly kind: 'queue' | 'exchange'; readonly name: string };
  readonly routingKey: string;
  readonly arguments: Arguments;
}

export interface QueueNode {
  readonly record: QueueRecord;
  /** Bindings to this queue; undefined for none. */
  incoming: Set<Binding> | undefined;
}

export interface ExchangeNode {
  readonly record: ExchangeRecord;
  /** Undefined: the default exchange, which binds every queue by its name and has no bindings of its own. */
  readonly matcher: Matcher<Binding> | undefined;
  /** The exchange that gets what no binding of this one takes. */
  readonly alternate: string | undefined;
  /** Bindings from this exchange, by what identifies them. */
  readonly outgoing: Map<string, Binding>;
  /** Bindings to this exchange; undefined for none. */
  incoming: Set<Binding> | undefined;
}

/** From an exchange to a queue, or to another exchange: exactly one of the two is there. */
export interface Binding {
  readonly source: ExchangeNode;
  readonly queue: QueueNode | undefined;
  readonly exchange: ExchangeNode | undefined;
  readonly routingKey: string;
  readonly arguments: Arguments;
  /** Destination, key and arguments as one text: unique within the source. */
  readonly identity: string;
}

export interface Vhost {
  readonly name: string;
  readonly queues: Map<string, QueueNode>;
  readonly exchanges: Map<string, ExchangeNode>;
}

export interface DeclareQueueOutcome {
  readonly code: ResultCode;
  readonly uid: number;
  /** The queue if this call made it. */
  readonly created: QueueRecord | null;
}

export class Topology {
  readonly #vhosts = new Map<string, Vhost>();
  readonly #queues = new Map<number, QueueNode>();
  readonly #queuesPerShard: number[];
  /** Exclusive queues: node → incarnation → connection → uids. */
  readonly #owned = new Map<number, Map<number, Map<number, Set<number>>>>();
  #lastUid = 0;
  #bindings = 0;
  #version = 1;
  #sum = 0;

  constructor(shards: number) {
    this.#queuesPerShard = new Array<number>(shards).fill(0);
    this.addVhost(defaultVhost);
  }

  /** Changes whenever routing may have changed. Of this replica only: no part of the state. */
  get version(): number {
    return this.#version;
  }
  /** Adds up all queues, exchanges and bindings, whatever their order. */
  get sum(): number {
    return this.#sum;
  }
  get lastUid(): number {
    return this.#lastUid;
  }
  get queueCount(): number {
    return this.#queues.size;
  }
  get bindingCount(): number {
    return this.#bindings;
  }
  get queuesPerShard(): readonly number[] {
    return this.#queuesPerShard;
  }

  vhost(name: string): Vhost | undefined {
    return this.#vhosts.get(name);
  }
  vhosts(): Iterable<Vhost> {
    return this.#vhosts.values();
  }
  queueByUid(uid: number): QueueNode | undefined {
    return this.#queues.get(uid);
  }
  queues(): Iterable<QueueNode> {
    return this.#queues.values();
  }

  addVhost(name: string): void {
    const vhost: Vhost = { name, queues: new Map(), exchanges: new Map() };
    this.#vhosts.set(name, vhost);
    for (const [exchange, type] of predeclaredExchanges)
      this.putExchange({
        vhost: name,
        name: exchange,
        type,
        durable: true,
        autoDelete: false,
        internal: false,
        arguments: noArguments,
        predeclared: true,
      });
  }

  declareQueue(command: DeclareQueue): DeclareQueueOutcome {
    const vhost = this.#vhosts.get(command.vhost);
    if (vhost === undefined) return { code: ResultCode.notFound, uid: 0, created: null };
    const existing = vhost.queues.get(command.name)?.record;
    if (existing !== undefined) {
      // Also when only one of the two is exclusive at all: RabbitMQ calls that locked, not inequivalent.
      if (!sameOwner(existing.exclusive, command.exclusive)) return { code: ResultCode.locked, uid: 0, created: null };
      if (queueDifference(existing, command) !== null) return { code: ResultCode.inequivalent, uid: 0, created: null };
      return { code: ResultCode.ok, uid: existing.uid, created: null };
    }
    if (this.#lastUid >= uidMax) return { code: ResultCode.refused, uid: 0, created: null };
    const uid = ++this.#lastUid;
    const created: QueueRecord = {
      uid,
      vhost: command.vhost,
      name: command.name,
      shard: this.#place(uid, command.near ?? []),
      durable: command.durable,
      autoDelete: command.autoDelete,
      exclusive: command.exclusive,
      arguments: command.arguments,
    };
    this.#putQueue(created);
    return { code: ResultCode.ok, uid, created };
  }

  /** Removes a queue with its bindings. Undefined: there is none with this uid. */
  deleteQueue(uid: number): QueueRecord | undefined {
    const queue = this.#queues.get(uid);
    if (queue === undefined) return undefined;
    const { record } = queue;
    this.#vhosts.get(record.vhost)!.queues.delete(record.name);
    this.#queues.delete(uid);
    this.#queuesPerShard[record.shard - 1]!--;
    if (record.exclusive !== null) this.#disown(record.exclusive, uid);
    this.#change(-textHash(queueText(record)));
    this.#endBindings([...(queue.incoming ?? [])]);
    return record;
  }

  /** Removes all exclusive queues of a connection. */
  deleteExclusive(owner: ConnectionId): QueueRecord[] {
    return this.#deleteAll([...(this.#owned.get(owner.node)?.get(owner.incarnation)?.get(owner.connection) ?? [])]);
  }

  /** Removes all exclusive queues of a node's connections, of its incarnations up to this one. */
  deleteExclusiveOfNode(node: number, incarnation: number): QueueRecord[] {
    const uids: number[] = [];
    for (const [owning, connections] of this.#owned.get(node) ?? [])
      if (owning <= incarnation) for (const owned of connections.values()) for (const uid of owned) uids.push(uid);
    return this.#deleteAll(uids);
  }

  declareExchange(command: DeclareExchange): ResultCode {
    const vhost = this.#vhosts.get(command.vhost);
    if (vhost === undefined) return ResultCode.notFound;
    if (command.name === '') return ResultCode.refused;
    const existing = vhost.exchanges.get(command.name);
    if (existing !== undefined)
      return exchangeDifference(existing.record, command) === null ? ResultCode.ok : ResultCode.inequivalent;
    this.putExchange({
      vhost: command.vhost,
      name: command.name,
      type: command.type,
      durable: command.durable,
      autoDelete: command.autoDelete,
      internal: command.internal,
      arguments: command.arguments,
      predeclared: false,
    });
    return ResultCode.ok;
  }

  deleteExchange(command: DeleteExchange): ResultCode {
    const vhost = this.#vhosts.get(command.vhost);
    if (vhost === undefined) return ResultCode.notFound;
    const exchange = vhost.exchanges.get(command.name);
    if (exchange === undefined) return ResultCode.ok;
    if (exchange.record.predeclared) return ResultCode.refused;
    if (command.ifUnused && exchange.outgoing.size > 0) return ResultCode.inUse;
    this.#removeExchange(exchange);
    return ResultCode.ok;
  }

  bind(command: BindCommand): ResultCode {
    const source = this.#source(command);
    const destination = this.#destination(command);
    if (typeof source === 'number') return source;
    if (typeof destination === 'number') return destination;
    if (source.record.type === 'headers' && !isHeadersBinding(command.arguments)) return ResultCode.refused;
    const identity = bindingIdentity(command);
    if (source.outgoing.has(identity)) return ResultCode.ok;
    this.putBinding(command, identity, source, destination);
    return ResultCode.ok;
  }

  unbind(command: BindCommand): ResultCode {
    const source = this.#source(command);
    const destination = this.#destination(command);
    // What is not there is not bound either.
    if (source === ResultCode.notFound || destination === ResultCode.notFound) return ResultCode.ok;
    if (typeof source === 'number') return source;
    if (typeof destination === 'number') return destination;
    const binding = source.outgoing.get(bindingIdentity(command));
    if (binding !== undefined) this.#endBindings([binding]);
    return ResultCode.ok;
  }

  isBound(binding: BindingRecord): boolean {
    const source = this.#vhosts.get(binding.vhost)?.exchanges.get(binding.source);
    return source?.outgoing.has(bindingIdentity(binding)) ?? false;
  }

  /** Takes over a queue from a snapshot. Uids must ascend. */
  restoreQueue(record: QueueRecord): void {
    if (
      record.uid <= this.#lastUid ||
      !this.#vhosts.has(record.vhost) ||
      record.shard < 1 ||
      record.shard > this.#queuesPerShard.length
    )
      throw new Error(`snapshot holds a queue out of place: uid ${record.uid}`);
    this.#lastUid = record.uid;
    this.#putQueue({ ...record, arguments: shareEmpty(record.arguments) });
  }

  restoreBinding(record: BindingRecord): void {
    const command: BindCommand = { kind: 'bind', ...record, arguments: shareEmpty(record.arguments) };
    const source = this.#source(command);
    const destination = this.#destination(command);
    if (typeof source === 'number' || typeof destination === 'number')
      throw new Error(`snapshot holds a binding of nothing: from ${record.source}`);
    this.putBinding(command, bindingIdentity(command), source, destination);
  }

  /** Uids up to here were given, also those whose queues are gone. */
  restoreLastUid(uid: number): void {
    if (uid < this.#lastUid) throw new Error('snapshot holds a queue above its last uid');
    this.#lastUid = uid;
  }

  /** Makes `version` one that was never seen before: for what replaces this topology, or was replaced by it. */
  skipVersionsTo(version: number): void {
    this.#version = Math.max(this.#version, version);
  }

  putExchange(record: ExchangeRecord): void {
    const alternate = argumentOf(record.arguments, 'alternate-exchange');
    this.#vhosts.get(record.vhost)!.exchanges.set(record.name, {
      record,
      matcher: record.name === '' ? undefined : createMatcher<Binding>(record.type),
      alternate: typeof alternate === 'string' ? alternate : undefined,
      outgoing: new Map(),
      incoming: undefined,
    });
    this.#change(textHash(exchangeText(record)));
  }

  putBinding(
    command: BindCommand,
    identity: string,
    source: ExchangeNode,
    destination: { readonly queue: QueueNode | undefined; readonly exchange: ExchangeNode | undefined },
  ): void {
    const { routingKey, arguments: table } = command;
    const { queue, exchange } = destination;
    const binding: Binding = { source, queue, exchange, routingKey, arguments: table, identity };
    source.outgoing.set(identity, binding);
    source.matcher!.add(binding);
    const target = queue ?? exchange!;
    target.incoming ??= new Set();
    target.incoming.add(binding);
    this.#bindings++;
    this.#change(textHash(bindingText(binding)));
  }

  #putQueue(record: QueueRecord): void {
    const queue: QueueNode = { record, incoming: undefined };
    this.#vhosts.get(record.vhost)!.queues.set(record.name, queue);
    this.#queues.set(record.uid, queue);
    this.#queuesPerShard[record.shard - 1]!++;
    if (record.exclusive !== null) this.#own(record.exclusive, record.uid);
    this.#change(textHash(queueText(record)));
  }

  #deleteAll(uids: readonly number[]): QueueRecord[] {
    return uids.map((uid) => {
      const record = this.deleteQueue(uid);
      if (record === undefined) throw new Error(`exclusive queue ${uid} is owned, but not there`);
      return record;
    });
  }

  /**
   * The shard with the fewest queues; the first one of those from a place that moves on with every queue. A near shard is taken while it has
   * hardly more than that: most queues are used where they are declared, and one hop less is felt.
   */
  #place(uid: number, near: readonly number[]): number {
    const best = this.#emptiest(uid, () => true)!;
    const nearest = near.length === 0 ? null : this.#emptiest(uid, (shard) => near.includes(shard));
    if (nearest === null || this.#queuesPerShard[nearest - 1]! > this.#queuesPerShard[best - 1]! + nearQueuesAhead)
      return best;
    return nearest;
  }

  #emptiest(uid: number, among: (shard: number) => boolean): number | null {
    const shards = this.#queuesPerShard.length;
    let best: number | null = null;
    for (let i = 0; i < shards; i++) {
      const shard = ((uid + i) % shards) + 1;
      if (among(shard) && (best === null || this.#queuesPerShard[shard - 1]! < this.#queuesPerShard[best - 1]!))
        best = shard;
    }
    return best;
  }

  #source(command: BindCommand): ExchangeNode | ResultCode {
    if (command.source === '') return ResultCode.refused;
    return this.#vhosts.get(command.vhost)?.exchanges.get(command.source) ?? ResultCode.notFound;
  }

  #destination(
    command: BindCommand,
  ): { readonly queue: QueueNode | undefined; readonly exchange: ExchangeNode | undefined } | ResultCode {
    const { kind, name } = command.destination;
    if (kind === 'queue') {
      const queue = this.#vhosts.get(command.vhost)?.queues.get(name);
      return queue === undefined ? ResultCode.notFound : { queue, exchange: undefined };
    }
    if (name === '') return ResultCode.refused;
    const exchange = this.#vhosts.get(command.vhost)?.exchanges.get(name);
    return exchange === undefined ? ResultCode.notFound : { queue: undefined, exchange };
  }

  /** Removes an exchange and all bindings from it and to it. */
  #removeExchange(exchange: ExchangeNode): void {
    // Out of the vhost first: so its own last binding does not make it go a second time.
    this.#vhosts.get(exchange.record.vhost)!.exchanges.delete(exchange.record.name);
    this.#change(-textHash(exchangeText(exchange.record)));
    this.#endBindings([...exchange.outgoing.values(), ...(exchange.incoming ?? [])]);
  }

  /** Ends bindings, and with them, one after the other, the auto-delete exchanges that have none left. */
  #endBindings(bindings: Binding[]): void {
    while (bindings.length > 0) {
      const binding = bindings.pop()!;
      const { source } = binding;
      // An exchange bound to itself, or two that go at once, are met from both ends.
      if (source.outgoing.get(binding.identity) !== binding) continue;
      source.outgoing.delete(binding.identity);
      source.matcher!.remove(binding);
      const target = binding.queue ?? binding.exchange!;
      target.incoming!.delete(binding);
      if (target.incoming!.size === 0) target.incoming = undefined;
      this.#bindings--;
      this.#change(-textHash(bindingText(binding)));
      const { exchanges } = this.#vhosts.get(source.record.vhost)!;
      if (!source.record.autoDelete || source.outgoing.size > 0) continue;
      if (exchanges.get(source.record.name) !== source) continue;
      exchanges.delete(source.record.name);
      this.#change(-textHash(exchangeText(source.record)));
      for (const incoming of source.incoming ?? []) bindings.push(incoming);
    }
  }

  #own(owner: ConnectionId, uid: number): void {
    const incarnations = entryOf(this.#owned, owner.node, () => new Map<number, Map<number, Set<number>>>());
    const connections = entryOf(incarnations, owner.incarnation, () => new Map<number, Set<number>>());
    entryOf(connections, owner.connection, () => new Set<number>()).add(uid);
  }

  #disown(owner: ConnectionId, uid: number): void {
    const incarnations = this.#owned.get(owner.node)!;
    const connections = incarnations.get(owner.incarnation)!;
    const uids = connections.get(owner.connection)!;
    uids.delete(uid);
    if (uids.size > 0) return;
    connections.delete(owner.connection);
    if (connections.size > 0) return;
    incarnations.delete(owner.incarnation);
    if (incarnations.size === 0) this.#owned.delete(owner.node);
  }

  #change(hash: number): void {
    this.#sum = (this.#sum + hash) >>> 0;
    this.#version++;
  }
}

/** The binding as others may see it. */
export function bindingRecord(binding: Binding): BindingRecord {
  const { record } = binding.source;
  return {
    vhost: record.vhost,
    source: record.name,
    destination:
      binding.queue === undefined
        ? { kind: 'exchange', name: binding.exchange!.record.name }
        : { kind: 'queue', name: binding.queue.record.name },
    routingKey: binding.routingKey,
    arguments: binding.arguments,
  };
}

/** Names are preceded by their lengths: whatever is in them, two bindings never get the same text. */
function bindingIdentity(binding: BindingRecord): string {
  const { kind, name } = binding.destination;
  const { routingKey } = binding;
  return `${kind}${name.length}:${name}${routingKey.length}:${routingKey}${canonicalArguments(binding.arguments)}`;
}

function bindingText({ source, identity }: Binding): string {
  return `b${source.record.vhost.length}:${source.record.vhost}${source.record.name.length}:${source.record.name}${identity}`;
}

const queueText = (record: QueueRecord): string => `q${JSON.stringify(record)}`;
const exchangeText = (record: ExchangeRecord): string => `x${JSON.stringify(record)}`;

const shareEmpty = (table: Arguments): Arguments => (Object.keys(table).length === 0 ? noArguments : table);

function sameOwner(left: ConnectionId | null, right: ConnectionId | null): boolean {
  if (left === null || right === null) return left === right;
  return left.node === right.node && left.incarnation === right.incarnation && left.connection === right.connection;
}

function entryOf<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key);
  if (value === undefined) map.set(key, (value = make()));
  return value;
}
