// A limit of a whole channel (`basic.qos`, global), from the client's frames to the machine: the channel holds no more than it may show, others
// get the rest, and what was leased and not shown leaves no trace.

import { describe, expect, test } from 'vitest';
import type { Method } from '../../node/amqp/methods.ts';
import { Broker } from '../../node/broker/broker.ts';
import { type Client, consume, declare, type Harness, publishFrames, serve } from '../amqp/harness.ts';
import { createBroker } from '../support/broker-client.ts';
import { MemoryCluster, statusOf } from '../support/memory-cluster.ts';

const qos = (prefetchCount: number, global: boolean): Method => ({
  kind: 'basic.qos',
  prefetchSize: 0,
  prefetchCount,
  global,
});
const ack = (deliveryTag: number, multiple = true): Method => ({ kind: 'basic.ack', deliveryTag, multiple });
const texts = (prefix: string, count: number) => Array.from({ length: count }, (_, i) => `${prefix}${i}`);

/** One node, and clients who speak AMQP to it, each on channel 1. */
class World {
  readonly cluster: MemoryCluster;
  readonly broker: Broker;
  readonly clients: Listener[] = [];
  /** Leases that the machine has made so far. */
  leases = 0;
  readonly #server: Harness<Broker>;

  private constructor(cluster: MemoryCluster, broker: Broker, server: Harness<Broker>) {
    this.cluster = cluster;
    this.broker = broker;
    this.#server = server;
    const { lease } = Broker.prototype;
    broker.lease = (...told) => {
      this.leases++;
      lease.apply(broker, told);
    };
  }

  static async start(seed: number, consumerWindow?: number): Promise<World> {
    const cluster = new MemoryCluster(1, seed);
    await cluster.start();
    const broker = createBroker(cluster.node(1), cluster, consumerWindow);
    return new World(cluster, broker, await serve(broker));
  }

  connect(): Listener {
    const listener = new Listener(this.#server.connect().handshake().channels(1));
    this.clients.push(listener);
    return listener;
  }

  async run(milliseconds = 50): Promise<void> {
    for (let done = 0; done < milliseconds; done += 5) {
      await this.cluster.clock.run(5);
      this.#server.clock.turn();
      for (const client of this.clients) client.listen();
    }
  }

  /** What is out of these queues, in all. */
  unsettled(...names: string[]): number {
    const { metadata } = this.cluster.node(1).cluster;
    const of = (name: string) => statusOf(this.cluster.node(1), metadata.queue('/', name)!)!.unsettled;
    return names.reduce((sum, name) => sum + of(name), 0);
  }

  async fill(...names: string[]): Promise<void> {
    const publisher = this.connect();
    for (const name of names) {
      await this.send(publisher, declare(name));
      publisher.client.bytes(...texts(name, 10).map((body) => publishFrames(1, '', name, Buffer.from(body))));
    }
    await this.run();
  }

  async send(to: Listener, ...methods: Method[]): Promise<void> {
    to.client.send(1, ...methods);
    await this.run();
  }
}

class Listener {
  readonly client: Client;
  readonly bodies: string[] = [];
  /** Deliveries that said that somebody else had them before. */
  traces = 0;

  constructor(client: Client) {
    this.client = client;
  }

  listen(): void {
    for (const item of this.client.take()) {
      if ('body' in item) this.bodies.push(item.body.toString());
      else if ('header' in item) this.traces += item.header.includes('x-delivery-count') ? 1 : 0;
      else if ('method' in item && item.method.kind === 'basic.deliver') this.traces += item.method.redelivered ? 1 : 0;
    }
  }
}

describe('a limit of the whole channel', () => {
  test('leaves to others what a single consumer may not have', async () => {
    const world = await World.start(80);
    const [limited, other] = [world.connect(), world.connect()];
    await world.fill('q');
    await world.send(limited, qos(2, true), consume('q', 'a'));
    expect([limited.bodies, world.unsettled('q')]).toEqual([['q0', 'q1'], 2]);
    await world.send(other, consume('q', 'b'));
    expect(other.bodies).toEqual(texts('q', 10).slice(2));
    // Nothing was ever leased that was not shown.
    expect([world.leases, limited.traces, other.traces]).toEqual([10, 0, 0]);
  });

  test('goes round: a single consumer that acknowledges gets everything, in order', async () => {
    const world = await World.start(81);
    const limited = world.connect();
    await world.fill('q');
    await world.send(limited, qos(3, true), consume('q', 'a'));
    for (const [tag, seen] of [
      [1, 4],
      [4, 7],
      [5, 8],
      [8, 10],
    ] as const) {
      await world.send(limited, ack(tag));
      expect(limited.bodies).toEqual(texts('q', seen));
    }
    expect([world.leases, limited.traces]).toEqual([10, 0]);
  });

  test('with a consumer of a smaller prefetch: both count', async () => {
    const world = await World.start(82);
    const limited = world.connect();
    await world.fill('q', 'r');
    await world.send(limited, qos(1, false), qos(4, true), consume('q', 'a'), qos(0, false), consume('r', 'b'));
    await world.run(300);
    expect([...limited.bodies].sort()).toEqual(['q0', 'r0', 'r1', 'r2']);
    expect(world.unsettled('q', 'r')).toBe(4);
  });

  test('is shared by its consumers: what finds no room goes back without a trace, once', async () => {
    const world = await World.start(83);
    const [limited, other] = [world.connect(), world.connect()];
    await world.fill('q', 'r');
    await world.send(limited, qos(2, true), consume('q', 'a'), consume('r', 'b'));
    // Each was granted the whole room at most.
    expect(world.leases).toBeLessThanOrEqual(4);
    await world.run(300);
    expect([limited.bodies.length, world.unsettled('q', 'r')]).toEqual([2, 2]);
    const { leases } = world;
    await world.run(1_000);
    expect(world.leases).toBe(leases);
    // Room is used at once, by either of them.
    await world.send(limited, ack(1));
    expect([limited.bodies.length, world.unsettled('q', 'r') <= 3]).toEqual([3, true]);
    await world.run(300);
    expect(world.unsettled('q', 'r')).toBe(2);
    await world.send(other, consume('q', 'c'), consume('r', 'd'));
    await world.run(300);
    expect(other.bodies).toHaveLength(17);
    expect([...limited.bodies, ...other.bodies].sort()).toEqual([...texts('q', 10), ...texts('r', 10)]);
    for (const name of ['q', 'r']) {
      const own = other.bodies.filter((body) => body.startsWith(name));
      expect(own).toEqual([...own].sort());
    }
    expect([limited.traces, other.traces]).toEqual([0, 0]);
  });

  test('is shared by its consumers: slow ones get everything in the end, each message once', async () => {
    const world = await World.start(84);
    const limited = world.connect();
    await world.fill('q', 'r');
    await world.send(limited, qos(2, true), consume('q', 'a'), consume('r', 'b'));
    for (let settled = 0; settled < 20; settled++) {
      await world.run(settled % 3 === 0 ? 200 : 20);
      expect(limited.bodies.length).toBe(Math.min(20, settled + 2));
      await world.send(limited, ack(settled + 1, false));
    }
    expect([...limited.bodies].sort()).toEqual([...texts('q', 10), ...texts('r', 10)]);
    expect([limited.traces, world.unsettled('q', 'r')]).toEqual([0, 0]);
  });

  test('can be set, raised, lowered and lifted while there are consumers', async () => {
    const world = await World.start(85);
    const [limited, other] = [world.connect(), world.connect()];
    await world.send(other, declare('q'));
    await world.send(limited, consume('q', 'a'), qos(2, true));
    await world.fill('q');
    expect([limited.bodies.length, world.unsettled('q')]).toEqual([2, 2]);
    await world.send(limited, qos(4, true));
    expect([limited.bodies.length, world.unsettled('q')]).toEqual([4, 4]);
    // The acknowledgements may overtake the limit: what is leased by that goes back.
    await world.send(limited, qos(1, true), ack(3));
    await world.run(300);
    expect([limited.bodies.length, world.unsettled('q')]).toEqual([4, 1]);
    await world.send(limited, ack(4));
    expect([limited.bodies.length, world.unsettled('q')]).toEqual([5, 1]);
    await world.send(limited, qos(0, true));
    expect(limited.bodies).toEqual(texts('q', 10));
    await world.send(limited, ack(10));
    await world.fill('q');
    expect([limited.bodies.length, limited.traces, world.unsettled('q')]).toEqual([20, 0, 10]);
  });

  test('that comes later holds for what was granted before: others get it, and leasing comes to rest', async () => {
    const world = await World.start(86, 8);
    const [limited, other] = [world.connect(), world.connect()];
    await world.send(other, declare('q'), declare('r'));
    await world.send(limited, consume('q', 'a'), consume('r', 'b'), qos(1, true));
    await world.fill('q', 'r');
    expect(limited.bodies).toHaveLength(1);
    // A grant cannot be withdrawn: the one that holds nothing is leased one at a time, until its first window is used.
    await world.run(1_000);
    expect([limited.bodies.length, world.unsettled('q', 'r')]).toEqual([1, 1]);
    const { leases } = world;
    expect(leases).toBeLessThanOrEqual(1 + 2 * 8);
    await world.run(500);
    expect(world.leases).toBe(leases);
    await world.send(other, consume('q', 'c'), consume('r', 'd'));
    expect([other.bodies.length, other.traces]).toEqual([19, 0]);
    await world.send(limited, qos(0, true), ack(1));
    await world.fill('q', 'r');
    // Everything works as before the limit.
    expect(limited.bodies.length + other.bodies.length).toBe(40);
    expect(limited.bodies.length).toBeGreaterThan(5);
  });

  test('holds consumers without acknowledgements back as long as there is no room, though they take none', async () => {
    const world = await World.start(87);
    const limited = world.connect();
    await world.fill('q', 'r');
    await world.send(limited, qos(1, true), consume('q', 'a'));
    expect(limited.bodies).toEqual(['q0']);
    await world.send(limited, consume('r', 'b', true));
    await world.run(300);
    expect(limited.bodies).toEqual(['q0']);
    await world.send(limited, ack(1));
    await world.run(300);
    expect([...limited.bodies].sort()).toEqual(['q0', 'q1', ...texts('r', 10)]);
    expect(world.unsettled('q')).toBe(1);
  });

  test('ends with its channel: nothing stays out, nothing more is leased', async () => {
    const world = await World.start(88);
    const [limited, other] = [world.connect(), world.connect()];
    await world.fill('q', 'r');
    await world.send(limited, qos(2, true), consume('q', 'a'), consume('r', 'b'));
    limited.client.socket.close();
    await world.run(300);
    expect(world.unsettled('q', 'r')).toBe(0);
    await world.send(other, consume('q', 'c'), consume('r', 'd'));
    // Only what was shown says so.
    expect([other.bodies.length, other.traces > 0]).toEqual([20, true]);
    expect(other.traces).toBeLessThanOrEqual(4);
  });
});
