// A cluster in memory whose nodes speak AMQP, and clients who say exactly what a test wants, each on channel 1.

import type { Arguments } from '../../node/amqp/backend.ts';
import { withDeath } from '../../node/amqp/deaths.ts';
import type { Method } from '../../node/amqp/methods.ts';
import { readHeaders } from '../../node/amqp/properties.ts';
import type { Broker } from '../../node/broker/broker.ts';
import { type Client, type Harness, publishFrames, serve } from '../amqp/harness.ts';
import { createBroker } from './broker-client.ts';
import { MemoryCluster } from './memory-cluster.ts';

export interface Heard {
  readonly method: Method;
  readonly properties: Buffer;
  readonly body: string;
}

export class AmqpWorld {
  readonly cluster: MemoryCluster;
  readonly speakers: Speaker[] = [];
  readonly #servers: Harness<Broker>[];

  private constructor(cluster: MemoryCluster, servers: Harness<Broker>[]) {
    this.cluster = cluster;
    this.#servers = servers;
  }

  static async start(nodes: number, seed: number): Promise<AmqpWorld> {
    const cluster = new MemoryCluster(nodes, seed);
    cluster.properties = { readHeaders, withDeath };
    await cluster.start();
    const servers: Harness<Broker>[] = [];
    for (let node = 1; node <= nodes; node++) servers.push(await serve(createBroker(cluster.node(node), cluster)));
    return new AmqpWorld(cluster, servers);
  }

  connect(node = 1): Speaker {
    const speaker = new Speaker(this, this.#servers[node - 1]!.connect().handshake().channels(1));
    this.speakers.push(speaker);
    return speaker;
  }

  /** What speaks AMQP at a node. */
  server(node: number): Harness<Broker> {
    return this.#servers[node - 1]!;
  }

  async run(milliseconds = 40): Promise<void> {
    for (let done = 0; done < milliseconds; done += 5) {
      await this.cluster.clock.run(5);
      for (const server of this.#servers) server.clock.turn();
      for (const speaker of this.speakers) speaker.listen();
    }
  }
}

export class Speaker {
  readonly client: Client;
  readonly #world: AmqpWorld;
  #methods: Method[] = [];
  #heard: Heard[] = [];

  constructor(world: AmqpWorld, client: Client) {
    this.#world = world;
    this.client = client;
  }

  /** What came meanwhile: methods without content, and messages. */
  listen(): void {
    for (const item of this.client.take()) {
      const last = this.#heard.at(-1);
      if ('method' in item) {
        const { kind } = item.method;
        const hasContent = kind === 'basic.deliver' || kind === 'basic.get-ok' || kind === 'basic.return';
        if (hasContent) this.#heard.push({ method: item.method, properties: Buffer.alloc(0), body: '' });
        else this.#methods.push(item.method);
      } else if (last !== undefined && 'header' in item)
        this.#heard[this.#heard.length - 1] = { ...last, properties: item.header.subarray(12) };
      else if (last !== undefined && 'body' in item)
        this.#heard[this.#heard.length - 1] = { ...last, body: last.body + item.body.toString() };
    }
  }

  /** Sends, lets the world go on, and gives the methods that came. */
  async send(...methods: Method[]): Promise<Method[]> {
    this.client.send(1, ...methods);
    await this.#world.run();
    return this.methods();
  }

  /** Properties in hexadecimal, flags first. */
  async publish(exchange: string, key: string, body: string, properties = '0000', mandatory = false): Promise<void> {
    const options = { properties: Buffer.from(properties.replaceAll(' ', ''), 'hex'), mandatory };
    this.client.bytes(publishFrames(1, exchange, key, Buffer.from(body), options));
    await this.#world.run();
  }

  methods(): Method[] {
    return this.#methods.splice(0);
  }
  messages(): Heard[] {
    return this.#heard.splice(0);
  }
  bodies(): string[] {
    return this.messages().map(({ body }) => body);
  }
}

export const headersOf = ({ properties }: Heard): Arguments => readHeaders(properties);

export const declareQueue = (queue: string, args: Arguments = {}, more: Partial<Method> = {}): Method =>
  ({
    kind: 'queue.declare',
    ticket: 0,
    queue,
    passive: false,
    durable: true,
    exclusive: false,
    autoDelete: false,
    nowait: false,
    arguments: args,
    ...more,
  }) as Method;

export const get = (queue: string, noAck = true): Method => ({ kind: 'basic.get', ticket: 0, queue, noAck });
