// A node without a lease on the metadata, as its clients see it: what they ask for waits, in order, and is done or refused; nothing is
// called unroutable that was declared elsewhere.

import { describe, expect, test } from 'vitest';
import { defaultLimits } from '../../cluster/index.ts';
import type {
  ChannelBackend,
  ChannelEvents,
  ConnectionBackend,
  Outcome,
  Publication,
  QueueDeclaration,
} from '../../node/amqp/backend.ts';
import { Broker } from '../../node/broker/broker.ts';
import { Gate } from '../../node/broker/gate.ts';
import type { BrokerError } from '../../node/errors.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';

const overdueMilliseconds = defaultLimits.lease.milliseconds + defaultLimits.pipe.deadlineMilliseconds;
const properties = Buffer.alloc(2);
const options = {
  defaultUser: 'guest',
  defaultPassword: 'guest',
  loopbackUsers: [],
  consumerWindow: 100,
  parkedMilliseconds: 100,
  lettersMilliseconds: 100,
};

const publication = (exchange: string, routingKey: string, mandatory = false): Publication => ({
  exchange,
  routingKey,
  key: Buffer.from(
    `${String.fromCharCode(exchange.length)}${exchange}${String.fromCharCode(routingKey.length)}${routingKey}`,
  ),
  mandatory,
  route: null,
});
const queue = (name: string): QueueDeclaration => ({
  name,
  durable: true,
  exclusive: false,
  autoDelete: false,
  arguments: {},
});

/** One client: a connection with channels, and all that it hears, in order. */
class Client {
  readonly heard: string[] = [];
  paused = false;
  readonly connection: ConnectionBackend;
  #nextTag = 1;

  constructor(broker: Broker) {
    const opened = broker.openConnection(
      { user: 'guest', vhost: '/', remoteAddress: '', clientProperties: {} },
      {
        pause: () => {
          this.paused = true;
        },
        resume: () => {
          this.paused = false;
        },
        blocked: () => {},
        unblocked: () => {},
        shutdown: () => this.heard.push('shutdown'),
      },
    );
    if (!opened.ok) throw opened.error;
    this.connection = opened.value;
  }

  channel(name = ''): ChannelBackend {
    const events: ChannelEvents = {
      confirmed: (first, last, ok) => {
        for (let tag = first; tag <= last; tag++) this.heard.push(`${name}${ok ? 'ack' : 'nack'} ${tag}`);
      },
      returned: ({ payload, bodyStart, bodyEnd }) =>
        this.heard.push(`${name}returned ${payload.toString('utf8', bodyStart, bodyEnd)}`),
      publishFailed: (error: BrokerError) => this.heard.push(`${name}failed ${error.code}`),
      deliver: () => {},
      canDeliver: true,
      room: Number.POSITIVE_INFINITY,
      cancelled: () => {},
    };
    return this.connection.openChannel(events);
  }

  publish(channel: ChannelBackend, to: Publication, body: string, confirm = true): string {
    const bytes = Buffer.from(body);
    const outcome = channel.publish(to, properties, [bytes], bytes.length, confirm ? this.#nextTag++ : 0);
    // They belong to the caller, who uses them again.
    bytes.fill(0);
    return typeof outcome === 'string' ? outcome : outcome.code;
  }

  told(what: string) {
    return <T>(outcome: Outcome<T>) => {
      this.heard.push(`${what} ${outcome.ok ? 'ok' : outcome.error.code}`);
    };
  }
}

/** Three nodes, one of them cut off until it has no lease. */
async function cutOff(seed: number) {
  const cluster = new MemoryCluster(3, seed);
  await cluster.start();
  const row = cluster.nodes.find((other) => other !== cluster.leaderOf(0))!;
  const broker = new Broker(row.cluster, cluster, options);
  const client = new Client(broker);
  for (const { node } of cluster.nodes)
    if (node !== row.node) cluster.network.partition(`n${node}`, `n${row.node}`, 'drop');
  expect(await cluster.until(() => !row.cluster.isFresh, 10_000)).toBe(true);
  const heal = async () => {
    cluster.network.heal();
    expect(await cluster.until(() => row.cluster.isFresh, 10_000)).toBe(true);
    await cluster.clock.run(500);
  };
  const other = cluster.nodes.find(({ node }) => node !== row.node)!;
  return { cluster, row, other, broker, client, heal };
}

describe('without a lease', () => {
  test('publishes and operations wait, in order, and find what was declared elsewhere meanwhile', async () => {
    const { cluster, other, client, heal } = await cutOff(70);
    const code = cluster.askForQueue(other.node, 'q');
    expect(await cluster.until(() => code() !== undefined, 5_000)).toBe(true);
    const [a, b] = [client.channel('a '), client.channel('b ')];
    client.connection.received();
    expect(client.paused).toBe(false);
    expect(client.publish(a, publication('', 'q'), 'first')).toBe('routed');
    expect(client.paused).toBe(true);
    client.publish(a, publication('', 'q'), 'second');
    client.publish(b, publication('', 'nowhere', true), 'lost');
    b.checkQueue('q', client.told('b check'));
    a.declareQueue(queue('q'), client.told('a declare'));
    await cluster.clock.run(1_000);
    expect(client.heard).toEqual([]);
    await heal();
    expect(client.paused).toBe(false);
    expect([...client.heard].sort()).toEqual(
      ['a ack 1', 'a ack 2', 'a declare ok', 'b ack 3', 'b check ok', 'b returned lost'].sort(),
    );
    expect(client.heard.indexOf('b returned lost')).toBeLessThan(client.heard.indexOf('b ack 3'));
    let messages = 0;
    b.checkQueue('q', (outcome) => {
      if (outcome.ok) messages = outcome.value.messages;
    });
    expect(await cluster.until(() => messages > 0, 100)).toBe(true);
    expect(messages).toBe(2);
    client.connection.received();
    expect(client.publish(a, publication('', 'nowhere'), 'x')).toBe('unroutable');
  });

  test('an impossible publish ends its channel when its turn comes, and drops what came behind it there', async () => {
    const { client, heal } = await cutOff(71);
    const [a, b] = [client.channel('a '), client.channel('b ')];
    client.connection.received();
    client.publish(a, publication('', 'nowhere', true), 'one');
    client.publish(a, publication('no exchange', 'k'), 'two');
    client.publish(a, publication('', 'nowhere', true), 'three');
    client.publish(b, publication('', 'nowhere', true), 'four');
    await heal();
    expect(client.heard).toEqual(['a returned one', 'a ack 1', 'a failed not-found', 'b returned four', 'b ack 4']);
  });

  test('for longer than a publish may take: nacked in order, operations refused, also those that come later', async () => {
    const { cluster, client, heal } = await cutOff(72);
    const channel = client.channel();
    client.connection.received();
    client.publish(channel, publication('', 'q'), 'one');
    client.publish(channel, publication('', 'q'), 'two');
    channel.bind(
      { source: 'amq.direct', destination: { kind: 'queue', name: 'q' }, routingKey: '', arguments: {} },
      client.told('bind'),
    );
    await cluster.clock.run(overdueMilliseconds - 4_000);
    expect(client.heard).toEqual([]);
    await cluster.clock.run(4_000);
    expect(client.heard.splice(0)).toEqual(['nack 1', 'nack 2', 'bind unavailable']);
    expect(client.paused).toBe(false);
    client.connection.received();
    client.publish(channel, publication('', 'q'), 'three');
    client.publish(channel, publication('', 'q'), 'without a confirm', false);
    await cluster.clock.run(200);
    expect(client.heard.splice(0)).toEqual(['nack 3']);
    // Nobody waits to be told of that one: it waits itself.
    expect(client.paused).toBe(true);
    await heal();
    // It was away for too long: its sessions have ended.
    expect(client.heard).toEqual(['shutdown']);
  });

  test('publishes without confirms outlive the connection that sent them', async () => {
    const { cluster, other, client, heal } = await cutOff(73);
    const code = cluster.askForQueue(other.node, 'q');
    expect(await cluster.until(() => code() !== undefined, 5_000)).toBe(true);
    const channel = client.channel();
    client.connection.received();
    client.publish(channel, publication('', 'q'), 'one', false);
    channel.checkQueue('q', client.told('check'));
    channel.close();
    client.connection.close();
    await heal();
    expect(client.heard).toEqual([]);
    const { uid, shard } = other.cluster.metadata.queue('/', 'q')!;
    let ready = 0;
    const look = () => {
      other.cluster.queueStatus(shard, uid, (status) => {
        ready = status?.ready ?? 0;
      });
      return ready === 1;
    };
    expect(await cluster.until(look, 1_000)).toBe(true);
  });

  test('a new connection is taken; what came in one chunk with its opening waits', async () => {
    const { row, broker } = await cutOff(74);
    expect(row.cluster.isReady).toBe(true);
    const client = new Client(broker);
    expect(client.publish(client.channel(), publication('', 'q'), 'x', false)).toBe('routed');
    expect(client.paused).toBe(true);
  });

  test('acknowledgements and cancels do not wait', async () => {
    const { client } = await cutOff(75);
    const channel = client.channel();
    client.connection.received();
    channel.settle('accept', 1, 1, 1);
    let cancelled = false;
    channel.cancel(77, () => {
      cancelled = true;
    });
    expect([cancelled, client.paused]).toEqual([true, false]);
  });
});

describe('the gate', () => {
  test('does what waited once, in order, and keeps what cannot be refused', () => {
    const gate = new Gate();
    const done: string[] = [];
    gate.isShut = true;
    const hold = (name: string) =>
      gate.hold({ run: () => done.push(`${name} ${gate.isShut}`), refuse: () => name !== 'kept' });
    hold('refused');
    hold('kept');
    gate.refuse();
    expect(gate.isEmpty).toBe(false);
    hold('later');
    gate.open();
    gate.open();
    expect(done).toEqual(['kept false', 'later false']);
    expect(gate.isEmpty).toBe(true);
  });
});
