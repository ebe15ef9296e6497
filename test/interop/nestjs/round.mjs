// A NestJS microservice over RabbitMQ's transport, and its client: requests, events, errors, messages given back, and the death of their
// node. Arguments: the folder with NestJS's packages, the nodes' URLs (comma separated), a name. Decorators are called by hand: this is
// plain JavaScript.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';

const [folder, nodes, name] = process.argv.slice(2);
const require = createRequire(join(folder, 'package.json'));
require('reflect-metadata');
const { Controller, Module } = require('@nestjs/common');
const { NestFactory } = require('@nestjs/core');
const { ClientProxyFactory, Ctx, EventPattern, MessagePattern, Payload, RpcException, Transport } =
  require('@nestjs/microservices');
const { firstValueFrom, timeout } = require('rxjs');

const say = (line) => process.stdout.write(`${line}\n`);
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const seen = new Set();
let redelivered = false;

/** Settles what it gets by hand, as one does who must not lose anything. */
class Orders {
  total(numbers, context) {
    ack(context);
    return numbers.reduce((sum, number) => sum + number, 0);
  }
  fails(_, context) {
    ack(context);
    throw new RpcException('as it should');
  }
  placed({ number }, context) {
    seen.add(number);
    ack(context);
  }
  refused(_, context) {
    const message = context.getMessage();
    redelivered = message.fields.redelivered;
    if (redelivered) ack(context);
    else context.getChannelRef().nack(message, false, true);
  }
}

function ack(context) {
  context.getChannelRef().ack(context.getMessage());
}

const patterns = {
  total: MessagePattern('total'),
  fails: MessagePattern('fails'),
  placed: EventPattern('order.placed'),
  refused: EventPattern('order.refused'),
};
for (const [method, pattern] of Object.entries(patterns)) {
  Payload()(Orders.prototype, method, 0);
  Ctx()(Orders.prototype, method, 1);
  pattern(Orders.prototype, method, Object.getOwnPropertyDescriptor(Orders.prototype, method));
}
Controller()(Orders);
class Application {}
Module({ controllers: [Orders] })(Application);

async function until(condition) {
  const deadline = Date.now() + 20_000;
  while (!condition()) {
    assert(Date.now() < deadline, `still not so: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const urls = nodes.split(',');
const queueOptions = { durable: true, arguments: { 'x-queue-type': 'quorum' } };
const options = { urls, queue: name, queueOptions, persistent: true, socketOptions: { reconnectTimeInSeconds: 1 } };
const service = await NestFactory.createMicroservice(Application, {
  transport: Transport.RMQ,
  options: { ...options, noAck: false, prefetchCount: 5 },
  logger: false,
});
await service.listen();
const client = ClientProxyFactory.create({ transport: Transport.RMQ, options });
const request = (pattern, data) => firstValueFrom(client.send(pattern, data).pipe(timeout(5000)));

say(`answered ${await request('total', [1, 2, 3])}`);
const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => request('total', [i, i])));
assert.deepEqual(answers, answers.map((_, i) => 2 * i));
say('answered 100 at once');
say(`failed ${await request('fails', {}).catch((error) => error.message ?? error)}`);
for (let number = 0; number < 20; number++) await firstValueFrom(client.emit('order.placed', { number }));
await until(() => seen.size === 20);
say('20 events');
await firstValueFrom(client.emit('order.refused', {}));
await until(() => redelivered);
say('redelivered');

say('kill 1');
assert.equal((await input.next()).value, 'done');
// What is asked while the connection is lost may be lost with it; the client is asked until it has found another node.
let answer = null;
for (const deadline = Date.now() + 30_000; answer === null && Date.now() < deadline; ) {
  await new Promise((resolve) => setTimeout(resolve, 200));
  answer = await request('total', [20, 22]).catch(() => null);
}
say(`answered ${answer}`);

client.close();
await service.close();
process.exit(0);
