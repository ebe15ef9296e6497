// Whole rounds over a connection in memory: what a well-behaved client sees.

import { beforeEach, describe, expect, it } from 'vitest';
import { protocolHeader } from '../../node/amqp/frames.ts';
import type { Method } from '../../node/amqp/methods.ts';
import { BrokerError } from '../../node/errors.ts';
import { type Client, consume, declare, type Harness, harness, methodFrame, publishFrames } from './harness.ts';

let broker: Harness;
let client: Client;
const ack = (deliveryTag: number, multiple = false): Method => ({ kind: 'basic.ack', deliveryTag, multiple });
const qos = (prefetchCount: number, global = false): Method => ({
  kind: 'basic.qos',
  prefetchSize: 0,
  prefetchCount,
  global,
});
const kinds = (methods: Method[]) => methods.map((method) => method.kind);
const settles = () => broker.backend.calls.filter((call) => call.startsWith('settle'));
/** Queue `q` has so many messages of 1000 bytes, and the client, whose socket is full with 5000 bytes, reads nothing from now on. */
const stickWith = async (messages: number) => {
  broker = await harness({ socketBufferBytesMax: 5000 });
  client = broker.connect().handshake().channels(1);
  client.send(1, declare('q'));
  for (let i = 0; i < messages; i++) client.publish(1, '', 'q', Buffer.alloc(1000));
  client.take();
  client.socket.isStuck = true;
};

beforeEach(async () => {
  broker = await harness();
  client = broker.connect().handshake();
});

describe('handshake', () => {
  it('tells who we are and what we can do, tunes and opens', () => {
    const [start, tune, open] = client.methods();
    expect(start).toMatchObject({
      kind: 'connection.start',
      versionMajor: 0,
      versionMinor: 9,
      mechanisms: Buffer.from('PLAIN AMQPLAIN'),
      serverProperties: {
        product: 'RabbitMQ',
        version: '4.2.0',
        capabilities: { table: { publisher_confirms: true } },
      },
    });
    expect(tune).toEqual({ kind: 'connection.tune', channelMax: 2047, frameMax: 131_072, heartbeat: 60 });
    expect(open).toEqual({ kind: 'connection.open-ok', reserved1: '' });
    expect(broker.server.connectionCount).toBe(1);
  });

  it('takes AMQPLAIN', () => {
    const other = broker.connect().bytes(protocolHeader);
    const response = Buffer.from('\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest', 'latin1');
    other.send(0, { kind: 'connection.start-ok', clientProperties: {}, mechanism: 'AMQPLAIN', response, locale: '' });
    expect(kinds(other.methods())).toEqual(['connection.start', 'connection.tune']);
  });

  it('answers connection.close and ends the socket', () => {
    client.take();
    client.send(0, { kind: 'connection.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 });
    expect(kinds(client.methods())).toEqual(['connection.close-ok']);
    expect(client.socket.isClosed).toBe(true);
    expect(broker.server.connectionCount).toBe(0);
    expect(broker.backend.connections[0]!.closed).toBe(1);
  });

  it('asks every client to go when the server closes', async () => {
    client.take();
    const closing = broker.server.close();
    broker.clock.turn();
    expect(client.methods()).toMatchObject([{ kind: 'connection.close', replyCode: 320 }]);
    client.send(0, { kind: 'connection.close-ok' });
    await closing;
    expect(client.socket.isClosed).toBe(true);
    expect(broker.clock.timerCount).toBe(0);
  });

  it('ends a client that does not answer the close', async () => {
    const closing = broker.server.close();
    broker.clock.advance(3000);
    await closing;
    expect(client.socket.isClosed).toBe(true);
  });
});

describe('publish and deliver', () => {
  beforeEach(() => void client.channels(1));

  it('goes the whole way: declare, publish, consume, ack', () => {
    client.send(1, declare('q')).publish(1, '', 'q', 'hello').send(1, consume('q', 'me'));
    const [declared, consumed, delivered, header, body] = client.take();
    expect(declared).toMatchObject({ method: { kind: 'queue.declare-ok', queue: 'q', messageCount: 0 } });
    expect(consumed).toMatchObject({ method: { kind: 'basic.consume-ok', consumerTag: 'me' } });
    expect(delivered).toMatchObject({
      method: { consumerTag: 'me', deliveryTag: 1, redelivered: false, exchange: '', routingKey: 'q' },
    });
    expect(header).toEqual({ channel: 1, header: Buffer.from('003c00000000000000000005100002', 'hex') });
    expect(body).toEqual({ channel: 1, body: Buffer.from('hello') });
    client.send(1, ack(1));
    expect(settles()).toEqual(['settle accept 1 1 1']);
  });

  it('carries empty bodies and splits large ones at the frame size of each side', async () => {
    const small = broker.connect().handshake({ frameMax: 4096 }).channels(1);
    small.send(1, declare('q'), consume('q', '')).take();
    client.bytes(publishFrames(1, '', 'q', Buffer.alloc(10_000, 7), { bodyMax: 131_064 }));
    client.publish(1, '', 'q', '');
    broker.clock.turn();
    const frames = small.take();
    const bodies = frames.flatMap((item) => ('body' in item ? [item.body.length] : []));
    expect(bodies).toEqual([4088, 4088, 1824]);
    expect(frames.filter((item) => 'header' in item)).toHaveLength(2);
  });

  it('makes consumer tags up, all different', () => {
    client.send(1, declare('q'), consume('q', ''), consume('q', '')).methods();
    client.send(1, consume('q', ''), consume('q', ''));
    const tags = client.methods().map((method) => (method as { consumerTag: string }).consumerTag);
    expect(tags[0]).toMatch(/^amq\.ctag-[\w-]{22}$/);
    expect(new Set(tags).size).toBe(2);
  });

  it('passes the same publication while it repeats, also in turn with others', () => {
    const seen = new Set<unknown>();
    client.send(1, declare('a'), declare('b'));
    const channel = broker.backend.connections[0]!.channels[0]!;
    const original = channel.publish.bind(channel);
    channel.publish = (publication, ...rest) => {
      seen.add(publication);
      return original(publication, ...rest);
    };
    for (let i = 0; i < 5; i++) client.publish(1, '', 'a', 'x').publish(1, '', 'b', 'x').publish(1, '', 'b', 'x');
    expect(seen.size).toBeLessThanOrEqual(3);
  });

  it('gets, and says when there is nothing to get', () => {
    client.send(1, declare('q')).publish(1, '', 'q', 'one').publish(1, '', 'q', 'two').take();
    client.send(1, { kind: 'basic.get', ticket: 0, queue: '', noAck: false });
    const [got, , body] = client.take();
    expect(got).toMatchObject({ method: { kind: 'basic.get-ok', deliveryTag: 1, routingKey: 'q', messageCount: 1 } });
    expect(body).toMatchObject({ body: Buffer.from('one') });
    client.send(1, ack(1), { kind: 'basic.get', ticket: 0, queue: 'q', noAck: true }).take();
    client.send(1, { kind: 'basic.get', ticket: 0, queue: 'q', noAck: true });
    expect(client.methods()).toEqual([{ kind: 'basic.get-empty', reserved1: '' }]);
  });

  it('returns what finds no queue, before its confirm', () => {
    client.send(1, { kind: 'confirm.select', nowait: false }).take();
    client.publish(1, '', 'nowhere', 'lost', true);
    const [returned, header, body, confirm] = client.take();
    expect(returned).toMatchObject({
      method: { kind: 'basic.return', replyCode: 312, replyText: 'NO_ROUTE', exchange: '', routingKey: 'nowhere' },
    });
    expect(header).toHaveProperty('header');
    expect(body).toMatchObject({ body: Buffer.from('lost') });
    expect(confirm).toMatchObject({ method: { kind: 'basic.ack', deliveryTag: 1, multiple: false } });
    client.publish(1, '', 'nowhere', 'lost');
    expect(client.methods()).toEqual([ack(2)]);
  });

  it('tells how often a message failed', () => {
    client.send(1, declare('q')).publish(1, '', 'q', 'x').send(1, consume('q', 'c')).take();
    client.send(1, { kind: 'basic.reject', deliveryTag: 1, requeue: true });
    const [delivered, header] = client.take();
    expect(delivered).toMatchObject({ method: { deliveryTag: 2, redelivered: true } });
    const expected = `003c000000000000000000013000${'0000001a'}10${Buffer.from('x-delivery-count').toString('hex')}6c000000000000000102`;
    expect((header as { header: Buffer }).header.toString('hex')).toBe(expected);
  });
});

describe('confirms', () => {
  beforeEach(() => {
    client.channels(1).send(1, declare('q'), { kind: 'confirm.select', nowait: true });
    expect(kinds(client.methods())).toEqual(['queue.declare-ok']);
  });
  const events = () => broker.backend.connections[0]!.channels[0]!.events;

  it('are one ack for all publishes of a turn', () => {
    client.bytes(...Array.from({ length: 5 }, () => publishFrames(1, '', 'q', Buffer.from('x'))));
    expect(client.methods()).toEqual([ack(5, true)]);
  });

  it('go past a gap one by one, nacks before the acks that would cover them', () => {
    broker.backend.holdConfirms = true;
    client.bytes(...Array.from({ length: 9 }, () => publishFrames(1, '', 'q', Buffer.from('x'))));
    events().confirmed(1, 2, true);
    events().confirmed(5, 6, true);
    broker.clock.turn();
    expect(client.methods()).toEqual([ack(2, true), ack(5), ack(6)]);
    events().confirmed(4, 4, false);
    events().confirmed(3, 3, true);
    events().confirmed(7, 7, true);
    broker.clock.turn();
    const nack: Method = { kind: 'basic.nack', deliveryTag: 4, multiple: false, requeue: false };
    expect(client.methods()).toEqual([nack, ack(7, true)]);
    events().confirmed(8, 9, false);
    broker.clock.turn();
    expect(client.methods()).toEqual([{ ...nack, deliveryTag: 9, multiple: true }]);
  });
});

describe('settling', () => {
  beforeEach(() => {
    client.channels(1).send(1, declare('q'), consume('q', 'c'));
    for (let i = 0; i < 6; i++) client.publish(1, '', 'q', `${i}`);
    client.take();
  });

  it('joins neighbours, whether acked one by one or together', () => {
    client.send(1, ack(1), ack(2), ack(3));
    client.send(1, ack(5, true));
    client.send(1, ack(0, true));
    expect(settles()).toEqual(['settle accept 1 1 3', 'settle accept 1 4 2', 'settle accept 1 6 1']);
    client.send(1, ack(0, true));
    expect(client.methods()).toEqual([]);
  });

  it('knows requeue, reject and discard apart', () => {
    client.send(1, { kind: 'basic.nack', deliveryTag: 2, multiple: true, requeue: false });
    client.send(1, { kind: 'basic.reject', deliveryTag: 3, requeue: false });
    client.send(1, { kind: 'basic.reject', deliveryTag: 4, requeue: true });
    client.send(1, { kind: 'basic.nack', deliveryTag: 5, multiple: false, requeue: true });
    expect(settles()).toEqual([
      'settle discard 1 1 2',
      'settle discard 1 3 1',
      'settle reject 1 4 1',
      'settle requeue 1 5 1',
    ]);
  });

  it('closes the channel on a tag that is not out', () => {
    client.send(1, ack(1), ack(1));
    expect(client.methods()).toEqual([
      {
        kind: 'channel.close',
        replyCode: 406,
        replyText: 'PRECONDITION_FAILED - unknown delivery tag 1',
        classId: 60,
        methodId: 80,
      },
    ]);
    // What was acked before the error counts.
    expect(settles()).toEqual(['settle accept 1 1 1']);
  });

  it('gives everything back on recover', () => {
    client.send(1, ack(2), { kind: 'basic.recover', requeue: true });
    expect(settles()).toEqual(['settle accept 1 2 1', 'settle requeue 1 1 1', 'settle requeue 1 3 4']);
    const methods = client.methods();
    expect(kinds(methods).filter((kind) => kind === 'basic.recover-ok')).toHaveLength(1);
    expect(methods.filter((method) => method.kind === 'basic.deliver')).toHaveLength(5);
  });

  it('gives what is left back when the channel closes, after what was acked', () => {
    client.send(1, ack(1), { kind: 'channel.close', replyCode: 0, replyText: '', classId: 0, methodId: 0 });
    expect(kinds(client.methods())).toEqual(['channel.close-ok']);
    expect(broker.backend.calls.slice(-2)).toEqual(['settle accept 1 1 1', 'close']);
    expect(broker.backend.queue('q').ready).toHaveLength(5);
  });
});

describe('prefetch', () => {
  beforeEach(() => {
    client.channels(1).send(1, declare('q'));
    for (let i = 0; i < 10; i++) client.publish(1, '', 'q', `${i}`);
  });

  it('is for consumers to come, one each', () => {
    client.send(1, qos(2), consume('q', 'a'), qos(3), consume('q', 'b'));
    const tags = client.methods().flatMap((method) => (method.kind === 'basic.deliver' ? [method.consumerTag] : []));
    expect(tags).toEqual(['a', 'a', 'b', 'b', 'b']);
  });

  it('can limit the channel as a whole', () => {
    client.send(1, qos(3, true), consume('q', 'a'), consume('q', 'b')).take();
    expect(broker.backend.queue('q').ready).toHaveLength(7);
    client.send(1, ack(2, true));
    expect(kinds(client.methods())).toEqual(['basic.deliver', 'basic.deliver']);
    client.send(1, qos(5, true));
    expect(kinds(client.methods()).filter((kind) => kind === 'basic.deliver')).toHaveLength(2);
    // A get is not a delivery to a consumer.
    client.send(1, { kind: 'basic.get', ticket: 0, queue: 'q', noAck: false });
    expect(kinds(client.methods())).toEqual(['basic.get-ok']);
    client.send(1, qos(0, true));
    expect(broker.backend.queue('q').ready).toHaveLength(0);
    expect(broker.backend.calls.filter((call) => call.startsWith('limit'))).toEqual(['limit 3', 'limit 5', 'limit 0']);
  });

  it('stops while the socket is full', async () => {
    broker = await harness({ socketBufferBytesMax: 2000 });
    client = broker.connect().handshake().channels(1);
    client.send(1, declare('q'), consume('q', 'a'));
    client.socket.isStuck = true;
    for (let i = 0; i < 10; i++) client.publish(1, '', 'q', Buffer.alloc(500));
    expect(broker.backend.queue('q').ready.length).toBeGreaterThanOrEqual(6);
    // Acks are read all the same.
    expect(client.socket.isPaused).toBe(false);
    client.socket.drain();
    broker.clock.turn();
    expect(broker.backend.queue('q').ready).toHaveLength(0);
    expect(client.methods().filter((method) => method.kind === 'basic.deliver')).toHaveLength(10);
  });
});

describe('order', () => {
  beforeEach(() => void client.channels(1));

  it('keeps what follows a pending reply waiting, and does it then', () => {
    broker.backend.later = [];
    client.bytes(
      methodFrame(1, declare('q')),
      publishFrames(1, '', 'q', Buffer.from('x')),
      methodFrame(1, consume('q', 'c')),
    );
    expect(broker.backend.calls).toEqual(['declareQueue q {}']);
    broker.backend.answerAll();
    broker.clock.turn();
    expect(kinds(client.methods())).toEqual(['queue.declare-ok', 'basic.consume-ok', 'basic.deliver']);
  });

  it('lets other channels go on meanwhile', () => {
    client.channels(2).send(2, declare('other'), consume('other', 'c')).take();
    broker.backend.later = [];
    client.send(1, declare('q')).publish(2, '', 'other', 'x');
    expect(kinds(client.methods())).toEqual(['basic.deliver']);
  });

  it('stops reading when too much waits', async () => {
    broker = await harness({ channelBacklogBytesMax: 1000 });
    client = broker.connect().handshake().channels(1);
    broker.backend.later = [];
    client.send(1, declare('q'));
    for (let i = 0; i < 5; i++) client.publish(1, '', 'q', 'x');
    expect(client.socket.isPaused).toBe(true);
    broker.backend.answerAll();
    broker.clock.turn();
    expect(client.socket.isPaused).toBe(false);
    expect(broker.backend.queue('q').ready).toHaveLength(5);
  });

  it('stops reading and answering when the client does not read its answers', async () => {
    await stickWith(100);
    client.bytes(
      ...Array.from({ length: 100 }, () => methodFrame(1, { kind: 'basic.get', ticket: 0, queue: 'q', noAck: true })),
    );
    expect(client.socket.isPaused).toBe(true);
    expect(client.socket.bufferedBytes).toBeLessThan(10_000);
    while (client.socket.isStuck) {
      client.socket.drain();
      client.socket.isStuck = client.methods().length > 0;
      broker.clock.turn();
    }
    expect(broker.backend.queue('q').ready).toHaveLength(0);
    expect(client.socket.isPaused).toBe(false);
  });

  it('goes on when the client has read its answers, though the socket was never full with them at once', async () => {
    await stickWith(10);
    // Each answer waits for a while, but the client takes them one after the other.
    for (let i = 0; i < 10 && !client.socket.isPaused; i++) {
      client.send(1, { kind: 'basic.get', ticket: 0, queue: 'q', noAck: true });
      client.socket.bufferedBytes = 1000;
    }
    expect(client.socket.isPaused).toBe(true);
    const left = broker.backend.queue('q').ready.length;
    expect(left).toBeGreaterThan(2);
    // Two that came with the last bytes that were read.
    client.send(
      1,
      ...Array.from({ length: 2 }, () => ({ kind: 'basic.get', ticket: 0, queue: 'q', noAck: true }) as const),
    );
    expect(broker.backend.queue('q').ready).toHaveLength(left);
    client.take();
    client.socket.drain();
    broker.clock.turn();
    expect(client.socket.isPaused).toBe(false);
    expect(client.methods().map(({ kind }) => kind)).toEqual(['basic.get-ok', 'basic.get-ok']);
  });

  it('reads on when a channel fails with much that waits behind a reply', async () => {
    broker = await harness({ channelBacklogBytesMax: 1000 });
    client = broker.connect().handshake().channels(1, 2);
    broker.backend.later = [];
    client.send(1, declare('q'));
    for (let i = 0; i < 5; i++) client.publish(1, '', 'q', 'x');
    expect(client.socket.isPaused).toBe(true);
    // An earlier publish, which the broker had held, turns out to be impossible. The reply never comes.
    broker.backend.connections[0]!.channels[0]!.events.publishFailed(new BrokerError('not-found', 'no exchange'));
    broker.clock.turn();
    expect(client.socket.isPaused).toBe(false);
    expect(client.methods()).toMatchObject([{ kind: 'channel.close', replyCode: 404 }]);
    client.send(1, { kind: 'channel.close-ok' }, { kind: 'channel.open', reserved1: '' });
    expect(client.methods()).toMatchObject([{ kind: 'channel.open-ok' }]);
  });

  it('answers a channel.close that waited behind a reply when its channel failed', async () => {
    broker.backend.later = [];
    client.send(1, declare('q'), { kind: 'channel.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 });
    broker.backend.connections[0]!.channels[0]!.events.publishFailed(new BrokerError('not-found', 'no exchange'));
    broker.clock.turn();
    expect(client.methods()).toMatchObject([{ kind: 'channel.close' }, { kind: 'channel.close-ok' }]);
  });

  it('tells the broker of bytes before it looks at them, once for all that came together', () => {
    const [connection] = broker.backend.connections;
    const before = connection!.chunks;
    broker.backend.calls.length = 0;
    let callsBefore = -1;
    const { received } = connection!;
    connection!.received = () => {
      callsBefore = broker.backend.calls.length;
      received.call(connection);
    };
    client.send(1, declare('a'), declare('b'));
    expect([connection!.chunks - before, callsBefore, broker.backend.calls.length]).toEqual([1, 0, 2]);
  });

  it('closes the channel for a publish that turned out to be impossible later', () => {
    const [channel] = broker.backend.connections[0]!.channels;
    const error = new BrokerError('not-found', "no exchange 'e' in vhost '/'");
    client.publish(1, 'amq.fanout', '', 'x');
    channel!.events.publishFailed(error);
    channel!.events.publishFailed(error);
    broker.clock.turn();
    expect(client.methods()).toMatchObject([{ kind: 'channel.close', replyCode: 404, classId: 60, methodId: 40 }]);
    expect(channel!.isClosed).toBe(true);
  });

  it('pauses for the broker', () => {
    const { events } = broker.backend.connections[0]!;
    events.pause();
    expect(client.socket.isPaused).toBe(true);
    events.resume();
    expect(client.socket.isPaused).toBe(false);
    events.blocked('low on disk');
    events.unblocked();
    broker.clock.turn();
    expect(client.methods()).toEqual([
      { kind: 'connection.blocked', reason: 'low on disk' },
      { kind: 'connection.unblocked' },
    ]);
  });
});

describe('names and forms', () => {
  beforeEach(() => void client.channels(1));
  const bind = (queue: string, exchange: string, routingKey: string, nowait = false): Method => ({
    kind: 'queue.bind',
    ticket: 0,
    queue,
    exchange,
    routingKey,
    nowait,
    arguments: {},
  });

  it('takes the last declared queue for an empty name, and for an empty key with it', () => {
    client.send(1, declare(''), bind('', 'amq.direct', ''), bind('', 'amq.direct', 'k', true));
    expect(kinds(client.methods())).toEqual(['queue.declare-ok', 'queue.bind-ok']);
    expect(broker.backend.calls.slice(1)).toEqual([
      'bind amq.direct queue amq.gen-1 amq.gen-1',
      'bind amq.direct queue amq.gen-1 k',
    ]);
  });

  it('answers no nowait method', () => {
    client.send(1, declare('q', true), { ...consume('q', 'c'), nowait: true } as Method);
    client.send(1, { kind: 'queue.purge', ticket: 0, queue: 'q', nowait: true });
    client.send(1, { kind: 'basic.cancel', consumerTag: 'c', nowait: true });
    client.send(1, { kind: 'queue.delete', ticket: 0, queue: 'q', ifUnused: false, ifEmpty: false, nowait: true });
    expect(client.methods()).toEqual([]);
    expect(broker.backend.calls.at(-1)).toBe('deleteQueue q false false');
  });

  it('tells of a queue that was deleted under its consumer', () => {
    client.channels(2).send(1, declare('q'), consume('q', 'c')).take();
    client.send(2, { kind: 'queue.delete', ticket: 0, queue: 'q', ifUnused: false, ifEmpty: false, nowait: false });
    expect(client.methods()).toEqual([
      { kind: 'basic.cancel', consumerTag: 'c', nowait: true },
      { kind: 'queue.delete-ok', messageCount: 0 },
    ]);
    client.send(1, { kind: 'basic.cancel', consumerTag: 'c', nowait: false });
    expect(client.methods()).toEqual([{ kind: 'basic.cancel-ok', consumerTag: 'c' }]);
  });

  it('answers a queue.delete before it tells the same channel what that cancelled', () => {
    client.send(1, declare('q'), consume('q', 'c'), consume('q', 'd')).take();
    client.send(1, { kind: 'queue.delete', ticket: 0, queue: 'q', ifUnused: false, ifEmpty: false, nowait: false });
    expect(client.methods()).toEqual([
      { kind: 'queue.delete-ok', messageCount: 0 },
      { kind: 'basic.cancel', consumerTag: 'c', nowait: true },
      { kind: 'basic.cancel', consumerTag: 'd', nowait: true },
    ]);
  });

  it('opens, closes and opens a channel number again and again', () => {
    for (let i = 0; i < 500; i++) {
      client.bytes(
        methodFrame(7, { kind: 'channel.open', reserved1: '' }),
        methodFrame(7, declare(`q${i}`)),
        methodFrame(7, { kind: 'channel.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 }),
      );
    }
    expect(client.methods()).toHaveLength(1500);
  });

  it('ignores publishes to a channel that it closed, until close-ok, and then takes the number again', () => {
    client.publish(1, 'nowhere', 'k', 'x').publish(1, '', 'k', 'x').send(1, declare('ignored'));
    const methods = client.methods();
    expect(methods).toMatchObject([
      {
        kind: 'channel.close',
        replyCode: 404,
        replyText: "NOT_FOUND - no exchange 'nowhere' in vhost '/'",
        methodId: 40,
      },
    ]);
    expect(broker.backend.queues.has('ignored')).toBe(false);
    client.send(1, { kind: 'channel.close-ok' }, { kind: 'channel.open', reserved1: '' }, declare('q'));
    expect(kinds(client.methods())).toEqual(['channel.open-ok', 'queue.declare-ok']);
  });

  it('answers a channel.close that crossed its own', () => {
    client.bytes(
      publishFrames(1, 'nowhere', 'k', Buffer.from('x')),
      methodFrame(1, { kind: 'channel.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 }),
    );
    expect(kinds(client.methods())).toEqual(['channel.close', 'channel.close-ok']);
    client.send(1, { kind: 'channel.close-ok' }, { kind: 'channel.open', reserved1: '' });
    expect(kinds(client.methods())).toEqual(['channel.open-ok']);
  });
});

describe('heartbeats', () => {
  it('are sent at half the interval and expected within two', async () => {
    const other = broker.connect().handshake({ heartbeat: 10 });
    other.take();
    broker.clock.advance(4999);
    expect(other.take()).toEqual([]);
    // Also when something else was sent meanwhile: counted from that on, the next tick could be a whole interval away.
    broker.clock.advance(1);
    expect(other.take()).toEqual([{ heartbeat: true }]);
    broker.clock.advance(5000);
    expect(other.take()).toEqual([{ heartbeat: true }]);
    other.bytes(Buffer.from('080000000000 00ce'.replace(' ', ''), 'hex'));
    broker.clock.advance(15_000);
    expect(other.socket.isClosed).toBe(false);
    broker.clock.advance(15_000);
    expect(other.socket.isClosed).toBe(true);
  });

  it('are not missed while we do not read', () => {
    const other = broker.connect().handshake({ heartbeat: 1 });
    broker.backend.connections[1]!.events.pause();
    broker.clock.advance(60_000);
    expect(other.socket.isClosed).toBe(false);
    broker.backend.connections[1]!.events.resume();
    broker.clock.advance(3_000);
    expect(other.socket.isClosed).toBe(true);
  });
});
