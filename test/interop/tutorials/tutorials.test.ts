// The scenarios of RabbitMQ's six tutorials, each program a process of its own, at different nodes.

import process from 'node:process';
import { describe, expect, test } from 'vitest';
import { until } from '../brokers.ts';
import { type Program, source, useHarness } from '../programs.ts';

const harness = useHarness();

/** The compiled program, at the node of this index. */
function start(name: string, node: number, ...words: string[]): Program {
  const program = source(`../../dist/test/interop/tutorials/${name}.js`);
  return harness().start({ command: process.execPath, args: [program, harness().urls[node]!, ...words] });
}

async function started(name: string, node: number, ...words: string[]): Promise<Program> {
  const program = start(name, node, ...words);
  await program.wrote('waiting');
  return program;
}

test('1, hello world: the message waits for its receiver', async () => {
  await start('hello-send', 0).finished();
  const receiver = await started('hello-receive', 1);
  await receiver.wrote('received Hello World!');
});

test('2, work queues: workers share the tasks, and a dead one loses none', async () => {
  const first = await started('task-worker', 0);
  const second = await started('task-worker', 1);
  const tasks = Array.from({ length: 12 }, (_, i) => `task-${i}.`);
  await start('task-new', 2, ...tasks, 'forever'.padEnd(400, '.')).finished();
  const done = (...programs: Program[]) =>
    programs.flatMap(({ lines }) => lines.filter((line) => line.startsWith('did ')).map((line) => line.slice(4)));
  await until(() => done(first, second).length === tasks.length, 20_000);
  expect(done(first, second).sort()).toEqual([...tasks].sort());
  for (const each of [first, second]) expect(done(each).length).toBeGreaterThan(0);
  // Whoever has the long task dies in the middle of it; the other one gets it.
  const holds = (program: Program) => program.lines.some((line) => line.startsWith('began forever'));
  await until(() => holds(first) || holds(second), 20_000);
  const [holder, other] = holds(first) ? [first, second] : [second, first];
  await holder.kill();
  await other.wrote('began forever');
});

test('3, publish/subscribe: everybody who listens gets everything', async () => {
  const listeners = await Promise.all([0, 1, 2].map((node) => started('logs-receive', node, 'logs', 'fanout', '')));
  await start('logs-emit', 1, 'logs', 'fanout', '', 'to all').finished();
  for (const listener of listeners) await listener.wrote('received  to all');
});

describe.each([
  ['4, routing', 'direct_logs', 'direct', ['error'], ['info', 'warning', 'error']],
  ['5, topics', 'topic_logs', 'topic', ['kern.*', '*.error'], ['#']],
])('%s', (_, exchange, type, few, all) => {
  test('everybody gets what was asked for, once', async () => {
    const [picky, greedy] = await Promise.all([
      started('logs-receive', 0, exchange, type, ...few),
      started('logs-receive', 1, exchange, type, ...all),
    ]);
    const keys =
      type === 'direct' ? ['info', 'error', 'warning'] : ['kern.info', 'cron.info', 'kern.error', 'cron.error'];
    for (const key of keys) await start('logs-emit', 2, exchange, type, key, 'a line').finished();
    const got = (program: Program) => program.lines.filter((line) => line.startsWith('received '));
    await until(() => got(greedy!).length === keys.length, 20_000);
    expect(got(greedy!)).toEqual(keys.map((key) => `received ${key} a line`));
    const picked = keys.filter((key) => (type === 'direct' ? key === 'error' : key !== 'cron.info'));
    await until(() => got(picky!).length === picked.length, 20_000);
    expect(got(picky!)).toEqual(picked.map((key) => `received ${key} a line`));
  });
});

test('6, RPC: each client gets its own answer', async () => {
  await started('rpc-server', 0);
  const clients = [
    start('rpc-client', 1, '20', 'exclusive'),
    start('rpc-client', 2, '21', 'exclusive'),
    start('rpc-client', 1, '22', 'direct'),
  ];
  const answers = await Promise.all(clients.map((client) => client.finished()));
  expect(answers).toEqual([['fibonacci(20) = 6765'], ['fibonacci(21) = 10946'], ['fibonacci(22) = 17711']]);
});
