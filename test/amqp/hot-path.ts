// Measures the front-end alone: publishes parsed and handed over, deliveries encoded, acks parsed. Sockets and broker do nothing.
// Run: npm run build && node dist/test/amqp/hot-path.js. Prints nanoseconds per message, best of several rounds.

import type { Connection, Net, Random } from '../../cluster/index.ts';
import type { AmqpBackend, ChannelBackend, ChannelEvents } from '../../node/amqp/backend.ts';
import { createAmqpServer } from '../../node/amqp/server.ts';
import { encodeShortString } from '../../node/amqp/table.ts';
import { storedMessage } from './fake-backend.ts';
import { Client, consume, FakeClock, fakeRandom, methodFrame, publishFrames, quietLog } from './harness.ts';

let channelEvents: ChannelEvents;
let published = 0;
let settled = 0;
let bodyBytesSeen = 0;
const no = () => {
  throw new Error('not part of this measurement');
};
const channelBackend: ChannelBackend = {
  declareExchange: no,
  checkExchange: no,
  deleteExchange: no,
  declareQueue: no,
  checkQueue: no,
  deleteQueue: no,
  purgeQueue: no,
  bind: no,
  unbind: no,
  checkPublication: no,
  commit: no,
  cancel: no,
  get: no,
  publish(_publication, properties, body, bodyBytes, confirmTag) {
    published++;
    bodyBytesSeen += body[0]!.length + properties.length - bodyBytes;
    if (confirmTag > 0) channelEvents.confirmed(confirmTag, confirmTag, true);
    return 'routed';
  },
  consume: (_request, reply) => reply({ ok: true, value: { consumer: 1 } }),
  settle(_settlement, _consumer, _first, count) {
    settled += count;
  },
  limit: no,
  deliveriesResumed() {},
  close() {},
};
const backend: AmqpBackend = {
  authenticate: (_user, _password, _address, reply) => reply({ ok: true, value: undefined }),
  openConnection: () => ({
    ok: true,
    value: {
      openChannel(events) {
        channelEvents = events;
        return channelBackend;
      },
      received() {},
      isBusy: false,
      close() {},
    },
  }),
};

const clock = new FakeClock();
let accept: (socket: Connection) => void = () => {};
const net: Net = {
  listen: async (_address, onConnection) => {
    accept = onConnection;
    return { port: 0, close: async () => {} };
  },
  connect: no,
};
const random: Random = fakeRandom();
await createAmqpServer({}, { net, clock, random }, backend, quietLog).listen([{ host: '', port: 0 }]);

function connect(): Client {
  const client = new Client(clock);
  accept(client.socket);
  client.handshake().channels(1);
  // From here on what is written goes nowhere.
  client.socket.write = () => true;
  return client;
}

/** Nanoseconds of processor time: other programs do not count, garbage collection does. */
const processorTime = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) * 1000;
};

/** Runs `work(count)` until it is warm, then prints the best and the median round. */
function measure(name: string, count: number, work: () => void): void {
  const rounds: number[] = [];
  for (let round = 0; round < 40; round++) {
    const start = processorTime();
    work();
    rounds.push((processorTime() - start) / count);
  }
  rounds.sort((a, b) => a - b);
  console.log(
    `${name.padEnd(48)} best ${rounds[0]!.toFixed(0).padStart(5)} ns   median ${rounds[20]!.toFixed(0).padStart(5)} ns`,
  );
}

/** Chunks of about 64 KiB, as a socket gives them: cut anywhere. */
function chunksOf(bytes: Buffer): Buffer[] {
  const chunks: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += 65_536) chunks.push(bytes.subarray(at, at + 65_536));
  return chunks;
}

const count = 20_000;
for (const bodyBytes of [16, 100, 1024]) {
  for (const confirms of [false, true]) {
    const client = connect();
    if (confirms) client.send(1, { kind: 'confirm.select', nowait: true });
    const frames = publishFrames(1, 'exchange', 'some.routing.key', Buffer.alloc(bodyBytes, 1));
    const chunks = chunksOf(Buffer.concat(Array.from({ length: count }, () => frames)));
    measure(`publish ${bodyBytes} B${confirms ? ', confirms' : ''}`, count, () => {
      for (const chunk of chunks) {
        client.socket.onData(chunk);
        clock.turn();
      }
    });
  }
}
{
  const client = connect();
  const all = Array.from({ length: 20 }, (_, index) =>
    publishFrames(1, 'exchange', `key.${index}`, Buffer.alloc(16, 1)),
  );
  const chunks = chunksOf(Buffer.concat(Array.from({ length: count }, (_, index) => all[index % 20]!)));
  measure('publish 16 B, 20 routing keys in turn', count, () => {
    for (const chunk of chunks) client.socket.onData(chunk);
  });
}
{
  const client = connect();
  const properties = (index: number) =>
    Buffer.concat([
      Buffer.from([0x90, 0x80]),
      encodeShortString('text/plain'),
      Buffer.from([2]),
      encodeShortString(`message-${1000 + (index % 9000)}`),
    ]);
  const frames = Array.from({ length: count }, (_, index) =>
    publishFrames(1, 'exchange', 'key', Buffer.alloc(16, 1), { properties: properties(index) }),
  );
  const chunks = chunksOf(Buffer.concat(frames));
  measure('publish 16 B, a message id each', count, () => {
    for (const chunk of chunks) client.socket.onData(chunk);
  });
}
for (const bodyBytes of [16, 100, 1024]) {
  const client = connect();
  client.send(1, consume('q', 'amq.ctag-0123456789abcdefghijkl'));
  const events = channelEvents!;
  const key = Buffer.concat([encodeShortString('exchange'), encodeShortString('some.routing.key')]);
  const publication = { exchange: 'exchange', routingKey: 'some.routing.key', key, mandatory: false, route: null };
  const message = storedMessage(publication, Buffer.from([0x10, 0, 2]), [Buffer.alloc(bodyBytes, 1)]);
  let ordinal = 1;
  let tag = 1;
  const ackBytes = Buffer.concat(
    Array.from({ length: count }, () => methodFrame(1, { kind: 'basic.ack', deliveryTag: 0, multiple: false })),
  );
  const rounds: number[] = [];
  measure(`deliver ${bodyBytes} B and ack one by one, together`, count, () => {
    for (let i = 0; i < count; i++) {
      if (!events.canDeliver) clock.turn();
      events.deliver(1, ordinal++, message, false, 0);
      if ((i & 511) === 511) clock.turn();
    }
    clock.turn();
    for (let i = 0; i < count; i++) ackBytes.writeUIntBE(tag++, i * 21 + 13, 6);
    const start = processorTime();
    for (let at = 0; at < ackBytes.length; at += 65_520) client.socket.onData(ackBytes.subarray(at, at + 65_520));
    rounds.push((processorTime() - start) / count);
  });
  rounds.sort((a, b) => a - b);
  console.log(
    `${'  of which acks'.padEnd(48)} best ${rounds[0]!.toFixed(0).padStart(5)} ns   median ${rounds[20]!.toFixed(0).padStart(5)} ns`,
  );
}
if (published === 0 || settled === 0 || bodyBytesSeen === 0) throw new Error('nothing was measured');
