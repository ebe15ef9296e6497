// From a publish to its queues: follows bindings from exchange to exchange, and keeps the routes that a routing key alone decides.
//
// State owned: a cache, and nothing of the replicated state. It is dropped whole when the topology changes or when it is full.
//
// An exchange is visited once per publish, however often bindings lead to it, and a queue is in a route once. What no binding of an
// exchange takes goes to its alternate exchange (also in the middle of the way), as in RabbitMQ.
//
// PURE.

import type { HeaderLookup, Route } from '../metadata-types.ts';
import type { Binding, ExchangeNode, QueueNode, Topology, Vhost } from './topology.ts';

const nowhere: Route = { shards: [] };

export class Routes {
  readonly #topology: Topology;
  readonly #routesMax: number;
  /** The version of the topology by which everything below was found out. */
  #version = 0;
  #routes = new Map<ExchangeNode, Map<string, Route>>();
  #routeCount = 0;
  #usesHeaders = new Map<ExchangeNode, boolean>();

  constructor(topology: Topology, routesMax: number) {
    this.#topology = topology;
    this.#routesMax = routesMax;
  }

  /** Routes that are kept now. */
  get cached(): number {
    return this.#routeCount;
  }

  route(vhostName: string, exchangeName: string, routingKey: string, headers: HeaderLookup): Route | undefined {
    const vhost = this.#topology.vhost(vhostName);
    const exchange = vhost?.exchanges.get(exchangeName);
    if (vhost === undefined || exchange === undefined) return undefined;
    if (this.#version !== this.#topology.version) this.#forget();
    let routes = this.#routes.get(exchange);
    const known = routes?.get(routingKey);
    if (known !== undefined) return known;

    const { queues, byKeyAlone } = resolve(vhost, exchange, routingKey, headers);
    const route = group(queues);
    if (!byKeyAlone) return route;
    if (this.#routeCount >= this.#routesMax) {
      this.#forget();
      routes = undefined;
    }
    if (routes === undefined) this.#routes.set(exchange, (routes = new Map()));
    routes.set(routingKey, route);
    this.#routeCount++;
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

  #forget(): void {
    this.#version = this.#topology.version;
    if (this.#routeCount > 0) this.#routes = new Map();
    if (this.#usesHeaders.size > 0) this.#usesHeaders = new Map();
    this.#routeCount = 0;
  }
}

/** `byKeyAlone`: no headers were asked for on the way, so that every message with this key goes the same way. */
function resolve(
  vhost: Vhost,
  start: ExchangeNode,
  routingKey: string,
  headers: HeaderLookup,
): { readonly queues: Set<QueueNode>; readonly byKeyAlone: boolean } {
  const queues = new Set<QueueNode>();
  const seen = new Set([start]);
  let byKeyAlone = true;
  const bindings: Binding[] = [];
  // A Set gives what is added while it is walked.
  for (const exchange of seen) {
    if (exchange.matcher === undefined) {
      const queue = vhost.queues.get(routingKey);
      if (queue !== undefined) queues.add(queue);
      continue;
    }
    if (exchange.record.type === 'headers') byKeyAlone = false;
    bindings.length = 0;
    exchange.matcher.match(routingKey, headers, bindings);
    for (const binding of bindings)
      if (binding.queue !== undefined) queues.add(binding.queue);
      else seen.add(binding.exchange!);
    if (bindings.length > 0 || exchange.alternate === undefined) continue;
    const alternate = vhost.exchanges.get(exchange.alternate);
    if (alternate !== undefined) seen.add(alternate);
  }
  return { queues, byKeyAlone };
}

/** Queues by shard; shards ascend, and so do the uids within each. */
function group(queues: Set<QueueNode>): Route {
  if (queues.size === 0) return nowhere;
  const records = Array.from(queues, (queue) => queue.record);
  records.sort((left, right) => left.shard - right.shard || left.uid - right.uid);
  const shards: { shard: number; queues: number[] }[] = [];
  for (const { shard, uid } of records) {
    const last = shards[shards.length - 1];
    if (last !== undefined && last.shard === shard) last.queues.push(uid);
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
