// Queues, exchanges and bindings of all vhosts: what can be declared, what goes with what.
//
// State owned: the vhosts with their queues, exchanges and bindings; the uid counter; how many queues each shard holds; which volatile
// group, and which connection, goes with which queues; the running sum over all of it that the state hash is made of.
//
// Invariants:
// - A binding is known to its source and to its destination, and is in the source's matcher. Whatever ends one of the two ends it.
// - An exchange is there while it has bindings; an auto-delete one goes with the last binding of which it is the source, but not before
//   it had one.
// - A uid is given once. Queues are kept in the order of their uids, exchanges and bindings in the order of their making: a replica that
//   was restored from a snapshot has the same order as one that lived through it all.
// - Records, and what a binding or queue says of itself, never change: a snapshot that is being written reads them while entries are applied.
// - A queue is in a shard, or, if exclusive or not durable, in the volatile group of its home; those do not count for the spread.
// - When a home ends, its queues are gone at once for whoever asks, for routes and for commands. They are still part of the state until they
//   are removed, a bounded number with each entry, in an order that the state alone gives. An exchange may so outlive its last binding a little.
//
// Work per command grows with what the command touches (a queue's bindings, the queues of a connection or home), never with what there is.
//
// PURE.

import { ResultCode } from '../commands.ts';
import { volatileGroupOf } from '../groups.ts';
import type { PipeId } from '../machine.ts';
import type { Arguments, ConnectionId, ExchangeRecord, ExchangeType, QueueRecord } from '../metadata-types.ts';
import { createMatcher, isHeadersBinding } from '../routing.ts';
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
import { addTo, appendTo, removeFrom } from './bucket.ts';
import {
  type Binding,
  type BindingRecord,
  type BindingRow,
  bindingHash,
  bindingIdentity,
  bindingsOf,
  configuredHash,
  type ExchangeNode,
  exchangeHash,
  type Home,
  identityOf,
  isLive,
  isVolatile,
  live,
  type QueueNode,
  queueHash,
  type Vhost,
} from './graph.ts';

export const defaultVhost = '/';
/** How many queues more than the emptiest shard a near one may have and still get the next. Part of the machine's version. */
export const nearQueuesAhead = 4;

/** uids fit 32 bits, and the last value stays free. */
export const uidMax = 0xffff_fffe;

const predeclaredExchanges: readonly (readonly [name: string, type: ExchangeType])[] = [
  ['', 'direct'],
  ['amq.direct', 'direct'],
  ['amq.fanout', 'fanout'],
  ['amq.topic', 'topic'],
  ['amq.headers', 'headers'],
  ['amq.match', 'headers'],
];

/** What a binding leads to: one of the two. */
interface Destination {
  readonly queue: QueueNode | undefined;
  readonly exchange: ExchangeNode | undefined;
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
  /** By the number of the volatile group; only those that have queues. */
  readonly #homes = new Map<number, Home>();
  /** Of these, those that have ended, ascending. */
  #ended: number[] = [];
  /** By uid: what replaced a queue's declared arguments. */
  readonly #configured = new Map<number, Arguments>();
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
    return this.#ended.reduce((count, group) => count - this.#homes.get(group)!.queues.size, this.#queues.size);
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
    return live(this.#queues.get(uid));
  }
  /** By uid: what replaced a queue's declared arguments. */
  get configured(): ReadonlyMap<number, Arguments> {
    return this.#configured;
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
    const known = vhost.queues.get(command.name);
    const existing = live(known)?.record;
    if (known !== undefined && existing === undefined) this.#removeQueue(known);
    if (existing !== undefined) {
      // Also when only one of the two is exclusive at all: RabbitMQ calls that locked, not inequivalent.
      if (!sameOwner(existing.exclusive, command.exclusive)) return { code: ResultCode.locked, uid: 0, created: null };
      if (queueDifference(existing, command) !== null) return { code: ResultCode.inequivalent, uid: 0, created: null };
      return { code: ResultCode.ok, uid: existing.uid, created: null };
    }
    if (this.#lastUid >= uidMax) return { code: ResultCode.refused, uid: 0, created: null };
    const uid = ++this.#lastUid;
    const home = isVolatile(command) ? command.home : null;
    const created = this.#putQueue(vhost, {
      uid,
      vhost: vhost.name,
      name: command.name,
      shard: home === null ? this.#place(uid, command.near ?? []) : volatileGroupOf(home),
      home,
      durable: command.durable,
      autoDelete: command.autoDelete,
      exclusive: command.exclusive,
      arguments: command.arguments,
    });
    return { code: ResultCode.ok, uid, created };
  }

  /** The arguments that a queue's group goes by: the declared ones, or those that replaced them. */
  effectiveArguments(uid: number): Arguments | undefined {
    const queue = this.queueByUid(uid);
    return queue && (this.#configured.get(uid) ?? queue.record.arguments);
  }

  /** Replaces the arguments that a queue's group goes by. Undefined: there is no such queue. Null: it goes by the same ones already. */
  configureQueue(uid: number, table: Arguments): QueueRecord | null | undefined {
    const queue = this.queueByUid(uid);
    if (queue === undefined) return undefined;
    if (canonicalArguments(this.effectiveArguments(uid)!) === canonicalArguments(table)) return null;
    this.#forgetConfigured(uid);
    this.putConfigured(uid, table);
    return queue.record;
  }

  /** Routes do not depend on it: the version stays. */
  putConfigured(uid: number, table: Arguments): void {
    this.#configured.set(uid, table);
    this.#sum = (this.#sum + configuredHash(uid, table)) >>> 0;
  }

  #forgetConfigured(uid: number): void {
    const table = this.#configured.get(uid);
    if (table === undefined) return;
    this.#configured.delete(uid);
    this.#sum = (this.#sum - configuredHash(uid, table)) >>> 0;
  }

  /** Removes a queue with its bindings. Undefined: there is none with this uid. */
  deleteQueue(uid: number): QueueRecord | undefined {
    const queue = this.queueByUid(uid);
    if (queue !== undefined) this.#removeQueue(queue);
    return queue?.record;
  }

  /** Removes all exclusive queues of a connection. */
  deleteExclusive(owner: ConnectionId): QueueRecord[] {
    const home = this.#homes.get(volatileGroupOf(owner));
    if (home === undefined || home.isEnded) return [];
    const owned = [...(home.owned.get(owner.connection) ?? [])];
    for (const queue of owned) this.#removeQueue(queue);
    return owned.map((queue) => queue.record);
  }

  /** All queues of a volatile group are gone. `workOff` removes them. */
  endHome(group: number): void {
    const home = this.#homes.get(group);
    if (home === undefined) return;
    home.isEnded = true;
    this.#ended.push(group);
    this.#ended.sort((left, right) => left - right);
    this.#version++;
  }

  /** Are there queues of ended homes to be removed? */
  get hasDebt(): boolean {
    return this.#ended.length > 0;
  }

  /** Removes about so many queues of ended homes, each binding counting as one more: by the numbers of the groups, then by uid. */
  workOff(itemsMax: number): void {
    let items = 0;
    for (let group = this.#ended[0]; group !== undefined && items < itemsMax; group = this.#ended[0]) {
      for (const queue of this.#homes.get(group)!.queues) {
        if (items >= itemsMax) return;
        const before = this.#bindings;
        this.#removeQueue(queue);
        items += 1 + before - this.#bindings;
      }
    }
  }

  /** The volatile groups that have queues. */
  homes(): Iterable<readonly [group: number, home: Home]> {
    return this.#homes;
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
    if (command.ifUnused)
      for (const binding of exchange.outgoing.values()) if (isLive(binding)) return ResultCode.inUse;
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
    const { queue, exchange } = destination;
    this.#putBinding(source, queue, exchange, command.routingKey, command.arguments, identity);
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
    const known = source?.outgoing.get(bindingIdentity(binding));
    return known !== undefined && isLive(known);
  }

  /** Takes over a queue from a snapshot. Uids must ascend. Homes that have ended are to be ended afterwards. */
  restoreQueue(record: QueueRecord): void {
    const vhost = this.#vhosts.get(record.vhost);
    const { uid, shard, home } = record;
    const inPlace =
      home === null ? shard >= 1 && shard <= this.#queuesPerShard.length : shard === volatileGroupOf(home);
    if (uid <= this.#lastUid || vhost === undefined || !inPlace || isVolatile(record) !== (home !== null))
      throw new Error(`snapshot holds a queue out of place: uid ${uid}`);
    this.#lastUid = uid;
    this.#putQueue(vhost, record);
  }

  /** Takes over a binding from a snapshot. `sources`: what `exchangesInOrder` gives. */
  restoreBinding(row: BindingRow, sources: readonly ExchangeNode[]): void {
    const [from, to, routingKey, table = noArguments] = row;
    const source = sources[from];
    const queue = to > 0 ? this.#queues.get(to) : undefined;
    const exchange = to > 0 ? undefined : sources[-to];
    const target = queue ?? exchange;
    if (source?.matcher === undefined || target === undefined)
      throw new Error(`snapshot holds a binding of nothing: from exchange ${from} to ${to}`);
    const identity = identityOf(queue === undefined ? 'exchange' : 'queue', target.record.name, routingKey, table);
    this.#putBinding(source, queue, exchange, routingKey, table, identity);
  }

  /** All exchanges, each vhost's in the order of their making. */
  exchangesInOrder(): ExchangeNode[] {
    return Array.from(this.#vhosts.values()).flatMap((vhost) => [...vhost.exchanges.values()]);
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
    const hash = exchangeHash(record);
    this.#vhosts.get(record.vhost)!.exchanges.set(record.name, {
      record,
      hash,
      matcher: record.name === '' ? undefined : createMatcher<Binding>(record.type),
      alternate: typeof alternate === 'string' ? alternate : undefined,
      outgoing: new Map(),
      incoming: undefined,
    });
    this.#change(hash);
  }

  /** From `source` to either a queue or an exchange. */
  #putBinding(
    source: ExchangeNode,
    queue: QueueNode | undefined,
    exchange: ExchangeNode | undefined,
    routingKey: string,
    table: Arguments,
    identity: string,
  ): void {
    const hash = bindingHash(identity, source);
    const binding: Binding = { source, queue, exchange, routingKey, arguments: table, identity, hash };
    source.outgoing.set(identity, binding);
    source.matcher!.add(binding);
    const target = queue ?? exchange!;
    target.incoming = addTo(target.incoming, binding);
    this.#bindings++;
    this.#change(hash);
  }

  #putQueue(vhost: Vhost, wanted: QueueRecord): QueueRecord {
    const home = wanted.home === null ? null : this.#homeOf(wanted.shard, wanted.home);
    const record = home === null ? wanted : { ...wanted, home: home.id };
    const queue: QueueNode = { record, hash: queueHash(record), home, incoming: undefined };
    vhost.queues.set(record.name, queue);
    this.#queues.set(record.uid, queue);
    if (home === null) this.#queuesPerShard[record.shard - 1]!++;
    else {
      home.queues.add(queue);
      if (record.exclusive !== null) entryOf(home.owned, record.exclusive.connection, newQueueSet).add(queue);
    }
    this.#change(queue.hash);
    return record;
  }

  #removeQueue(queue: QueueNode): void {
    const { record, hash, incoming } = queue;
    this.#vhosts.get(record.vhost)!.queues.delete(record.name);
    this.#queues.delete(record.uid);
    if (queue.home === null) this.#queuesPerShard[record.shard - 1]!--;
    else this.#leaveHome(queue, queue.home);
    if (this.#configured.size > 0) this.#forgetConfigured(record.uid);
    this.#change(-hash);
    if (incoming !== undefined) this.#endBindings(bindingsOf(incoming));
  }

  #homeOf(group: number, id: PipeId): Home {
    const home = entryOf(this.#homes, group, () => ({ id, isEnded: false, queues: newQueueSet(), owned: new Map() }));
    // The one before it that had this number ended a million incarnations ago.
    if (home.id.node !== id.node || home.id.incarnation !== id.incarnation)
      throw new Error(`volatile group ${group} is of two incarnations`);
    return home;
  }

  #leaveHome(queue: QueueNode, home: Home): void {
    const { shard, exclusive } = queue.record;
    home.queues.delete(queue);
    if (home.queues.size === 0) {
      this.#homes.delete(shard);
      if (home.isEnded) this.#ended = this.#ended.filter((group) => group !== shard);
    }
    if (exclusive === null) return;
    const owned = home.owned.get(exclusive.connection)!;
    owned.delete(queue);
    if (owned.size === 0) home.owned.delete(exclusive.connection);
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

  #source(command: BindingRecord): ExchangeNode | ResultCode {
    if (command.source === '') return ResultCode.refused;
    return this.#vhosts.get(command.vhost)?.exchanges.get(command.source) ?? ResultCode.notFound;
  }

  #destination(command: BindingRecord): Destination | ResultCode {
    const { kind, name } = command.destination;
    if (kind === 'queue') {
      const queue = live(this.#vhosts.get(command.vhost)?.queues.get(name));
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
    this.#change(-exchange.hash);
    this.#endBindings([...exchange.outgoing.values(), ...bindingsOf(exchange.incoming)]);
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
      target.incoming = removeFrom(target.incoming, binding);
      this.#bindings--;
      this.#change(-binding.hash);
      const { exchanges } = this.#vhosts.get(source.record.vhost)!;
      if (!source.record.autoDelete || source.outgoing.size > 0) continue;
      if (exchanges.get(source.record.name) !== source) continue;
      exchanges.delete(source.record.name);
      this.#change(-source.hash);
      appendTo(source.incoming, bindings);
    }
  }

  #change(hash: number): void {
    this.#sum = (this.#sum + hash) >>> 0;
    this.#version++;
  }
}

const newQueueSet = (): Set<QueueNode> => new Set();

function sameOwner(left: ConnectionId | null, right: ConnectionId | null): boolean {
  if (left === null || right === null) return left === right;
  return left.node === right.node && left.incarnation === right.incarnation && left.connection === right.connection;
}

function entryOf<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key);
  if (value === undefined) map.set(key, (value = make()));
  return value;
}
