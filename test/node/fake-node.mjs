// Stands in for `warren node` in the launcher's tests: the same flags, /health, signals and IPC rules, and nothing behind them.
// FAKE_REFUSE=n2: that node prints an error and ends with code 1. FAKE_LEFT=n2: that node has left the cluster for good. FAKE_STUBBORN=n1: that node ignores SIGTERM.
// FAKE_LEADS=n2:1,3;n1:2: who says, by /cluster, that it leads which groups, each in the term of its own number; of two that say so the higher counts.

import { createServer } from 'node:http';

const flags = Object.fromEntries(process.argv.slice(3).map((flag) => flag.slice(2).split(/=(.*)/s, 2)));
const name = flags['node.name'];

if (process.env.FAKE_REFUSE === name) {
  process.stderr.write(`warren: something that ${name} cannot start with\n`);
  process.exit(1);
}

if (process.env.FAKE_LEFT === name) process.exit(69);

function ledGroups() {
  const [, led = ''] = (process.env.FAKE_LEADS ?? '').split(';').map((row) => row.split(':')).find(([who]) => who === name) ?? [];
  return [1, 2, 3, 4].map((group) => {
    const leads = led.split(',').includes(String(group));
    return { group, role: leads ? 'leader' : 'follower', term: Number(name.slice(1)), halted: null };
  });
}

const server = createServer((request, response) => {
  if (request.url === '/die') process.exit(7);
  if (request.url === '/cluster') return response.end(JSON.stringify({ groups: ledGroups() }));
  response.end(JSON.stringify({ status: 'ok', reasons: [], secret: process.env.WARREN_CLUSTER_SECRET?.length }));
});
server.listen({ host: '127.0.0.1', port: Number(flags['http.port']) });

const log = (msg) =>
  process.stdout.write(`${JSON.stringify({ level: 30, time: Date.now(), pid: process.pid, node: name, msg })}\n`);
log('the fake runs');
process.on('message', (message) => log(`told ${JSON.stringify(message)}`));
process.on('SIGTERM', () => {
  if (process.env.FAKE_STUBBORN !== name) process.exit(0);
});
process.on('SIGINT', () => {});
process.on('disconnect', () => process.exit(0));
