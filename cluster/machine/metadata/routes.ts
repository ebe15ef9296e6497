// From a publish to its queues: follows bindings from exchange to exchange, and keeps the routes that need no headers.
//
// State owned: a cache, and nothing of the replicated state. It is dropped whole when the topology changes or when it would get too large;
// its size is measured in queues, because a route may name ten thousand of them.
//
// An exchange is visited once per publish, however often bindings lead to it, and a queue is in a route once. What no binding of an
// exchange takes goes to its alternate exchange (also in the middle of the way), as in RabbitMQ.
//
// PURE.

import type { HeaderLookup, Route } from '../metadata-types.ts';
import { type Binding, type ExchangeNode, isLive, live, type QueueNode, type Vhost } from './graph.ts';
import type { Topology } from './topology.ts';

const nowhere: Route = { shards: [] };

/** What a route takes in the cache, measured in queues, besides its queues. */
const routeOverhead = 4;

interface ExchangeRoutes {
  /** The route of every message, if neither key nor headers matter. */
  always: Route | undefined;
  readonly byKey: Map<string, Route>;
}

export class Routes {
  readonly #topology: Topology;
  readonly #queuesMax: number;
  /** The version of the topology by which everything below was found out. */
  #version = 0;
  #routes = new Map<ExchangeNode, ExchangeRoutes>();
  #queuesKept = 0;
  #usesHeaders = new Map<ExchangeNode, boolean>();

  /** `queuesMax`: queues in all routes kept, each route counting for four more. */
  constructor(topology: Topology, queuesMax: number) {
    this.#topology = topology;
    this.#queuesMax = queuesMax;
  }

  get queuesKept(): number {
    return this.#queuesKept;
  }

  route(
    vhostName: string,
    exchangeName: string,
    routingKey: string,
    headers: HeaderLookup,
    moreKeys: readonly string[],
  ): Route | undefined {
    const vhost = this.#topology.vhost(vhostName);
    const exchange = vhost?.exchanges.get(exchangeName);
    if (vhost === undefined || exchange === undefined) return undefined;
    // Rare, and of no use to other messages.
    if (moreKeys.length > 0) return routeTo(resolve(vhost, exchange, [routingKey, ...moreKeys], headers).queues);
    if (this.#version !== this.#topology.version) this.#forget();
    const routes = this.#routes.get(exchange);
    const known = routes?.always ?? routes?.byKey.get(routingKey);
    if (known !== undefined) return known;

    const { queues, dependsOn } = resolve(vhost, exchange, [routingKey], headers);
    const route = routeTo(queues);
    if (dependsOn !== 'headers') this.#keep(exchange, dependsOn === 'key' ? routingKey : null, route, queues.size);
    return route;
  }

  usesHeaders(vhostName: string, exchangeName: string): boolean {
    const vhost = this.#topology.vhost(vhostName);
    const exchange = vhost?.exchanges.get(exchangeName);
    if (vhost === undefined || exchange === undefined) return false;
    if (this.#version !== this.#topology.version) this.#forget();
    let uses = this.#usesHeaders.get(exchange);
    if (uses === undefined) this.#usesHeaders.set(exchange, (uses = reachesHeaders(vhost, exchange)));
    return uses;
  }

  #keep(exchange: ExchangeNode, routingKey: string | null, route: Route, queues: number): void {
    const cost = queues + routeOverhead;
    if (this.#queuesKept + cost > this.#queuesMax) this.#forget();
    this.#queuesKept += cost;
    let routes = this.#routes.get(exchange);
    if (routes === undefined) this.#routes.set(exchange, (routes = { always: undefined, byKey: new Map() }));
    if (routingKey === null) routes.always = route;
    else routes.byKey.set(routingKey, route);
  }

  #forget(): void {
    this.#version = this.#topology.version;
    if (this.#routes.size > 0) this.#routes = new Map();
    if (this.#usesHeaders.size > 0) this.#usesHeaders = new Map();
    this.#queuesKept = 0;
  }
}

/** The way of a message with these keys, any of which may open a binding. `dependsOn`: what a message had to be asked on the way; all messages that agree in it go the same way. */
function resolve(
  vhost: Vhost,
  start: ExchangeNode,
  routingKeys: readonly string[],
  headers: HeaderLookup,
): { readonly queues: Set<QueueNode>; readonly dependsOn: 'nothing' | 'key' | 'headers' } {
  const queues = new Set<QueueNode>();
  const seen = new Set([start]);
  let dependsOn: 'nothing' | 'key' | 'headers' = 'nothing';
  const bindings: Binding[] = [];
  // A Set also gives what is added while it is walked.
  for (const exchange of seen) {
    if (exchange.record.type === 'headers') dependsOn = 'headers';
    else if (exchange.record.type !== 'fanout' && dependsOn === 'nothing') dependsOn = 'key';
    if (exchange.matcher === undefined) {
      for (const routingKey of routingKeys) {
        const queue = live(vhost.queues.get(routingKey));
        if (queue !== undefined) queues.add(queue);
      }
      continue;
    }
    bindings.length = 0;
    for (const routingKey of routingKeys) exchange.matcher.match(routingKey, headers, bindings);
    let isTaken = false;
    for (const binding of bindings) {
      if (!isLive(binding)) continue;
      isTaken = true;
      if (binding.queue !== undefined) queues.add(binding.queue);
      else seen.add(binding.exchange!);
    }
    if (isTaken || exchange.alternate === undefined) continue;
    const alternate = vhost.exchanges.get(exchange.alternate);
    if (alternate !== undefined) seen.add(alternate);
  }
  return { queues, dependsOn };
}

/** A publish has room for so many. */
const queuesPerPublishMax = 0xffff;

/** Queues by shard; shards ascend, and so do the uids within each. A shard with more than one publish can name comes again. */
export function routeTo(queues: ReadonlySet<Pick<QueueNode, 'record'>>): Route {
  if (queues.size === 0) return nowhere;
  const records = Array.from(queues, (queue) => queue.record);
  records.sort((left, right) => left.shard - right.shard || left.uid - right.uid);
  const shards: { shard: number; queues: number[] }[] = [];
  for (const { shard, uid } of records) {
    const last = shards[shards.length - 1];
    if (last !== undefined && last.shard === shard && last.queues.length < queuesPerPublishMax) last.queues.push(uid);
    else shards.push({ shard, queues: [uid] });
  }
  return { shards };
}

/** May a message come to a headers exchange from here, over whatever bindings and alternates? */
function reachesHeaders(vhost: Vhost, start: ExchangeNode): boolean {
  const seen = new Set([start]);
  for (const exchange of seen) {
    if (exchange.record.type === 'headers') return true;
    const alternate = exchange.alternate === undefined ? undefined : vhost.exchanges.get(exchange.alternate);
    if (alternate !== undefined) seen.add(alternate);
    for (const binding of exchange.outgoing.values()) if (binding.exchange !== undefined) seen.add(binding.exchange);
  }
  return false;
}
