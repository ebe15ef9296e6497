// The shim in a process of its own, under the production disk: each fault has its effect, below the folder only, and ends.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { giveOrders, shimEnvironment, shimFlags } from '../../chaos/shim/give.ts';
import type { Orders } from '../../chaos/shim/orders.ts';
import type { DiskFault } from '../../chaos/types.ts';
import { leastOf } from '../support/timed.ts';

const portsModule = new URL('../../dist/cluster/os.js', import.meta.url).href;
/** Does on the disk and elsewhere what it is asked to, as a node does it, and says how that went. */
const program = `
  import { closeSync, fsyncSync, openSync, writeFileSync } from 'node:fs';
  import { createConnection } from 'node:net';
  import { createDisk } from ${JSON.stringify(portsModule)};
  const bytes = (n) => [Buffer.alloc(n, 7)];
  const told = (run) => new Promise((resolve, reject) => run((error) => (error ? reject(error) : resolve('done'))));
  const disks = { ours: createDisk(process.argv[2]), others: createDisk(process.argv[3]) };
  const files = {};
  const jobs = {
    // A file whose sync failed once fails for ever, so each test has its own.
    fresh: async (name) => {
      for (const where of Object.keys(disks)) files[where] = await disks[where].open(name, 'create');
    },
    durable: (where, length = 10) => told((done) => files[where].writeDurably(bytes(length), 0, done)),
    write: (where, length = 10) => told((done) => files[where].write(bytes(length), 0, done)),
    sync: (where) => told((done) => files[where].sync(done)),
    folder: (where) => disks[where].syncFolder('').then(() => 'done'),
    space: async (where) => String((await disks[where].space()).free > 0),
    blocking: async () => {
      const file = openSync(process.argv[2] + '/identity', 'w');
      try {
        writeFileSync(file, 'x');
        fsyncSync(file);
        return 'done';
      } finally {
        closeSync(file);
      }
    },
    now: async () => String(Date.now()),
    dates: async () => [new Date().getTime(), Date.parse(Date()), new Date(5).getTime(), new Date() instanceof Date].join(),
    dial: (port) => new Promise((resolve, reject) => {
      const socket = createConnection({ host: '127.0.0.1', port });
      socket.on('error', reject);
      socket.on('data', (data) => { resolve(String(data)); socket.destroy(); });
    }),
  };
  process.on('message', ({ kind, id, job, given }) => {
    if (kind !== 'job') return;
    const began = performance.now();
    jobs[job](...given).catch((error) => error.code ?? error.message).then((result) =>
      process.send({ kind: 'result', id, result, milliseconds: performance.now() - began }));
  });
  process.send({ kind: 'ready' });
`;

interface Result {
  readonly result: string;
  readonly milliseconds: number;
}

describe('the shim', { timeout: 30_000 }, () => {
  let root: string;
  let child: ChildProcess;
  let ended: Promise<unknown>;
  let orders: Orders;
  let lastJob = 0;
  let lastFile = 0;

  const order = async (change: Partial<Orders>): Promise<void> => {
    orders = { ...orders, ...change };
    await giveOrders(child, orders, 10_000);
  };
  const disk = (fault: DiskFault | null) => order({ disk: fault });
  const ask = (job: string, ...given: (string | number)[]): Promise<Result> => {
    lastJob += 1;
    const id = lastJob;
    return new Promise((resolve) => {
      const hear = (answer: unknown) => {
        const { kind, id: of, ...result } = Object(answer);
        if (kind !== 'result' || of !== id) return;
        child.off('message', hear);
        resolve(result);
      };
      child.on('message', hear);
      child.send({ kind: 'job', id, job, given });
    });
  };
  const outcome = async (job: string, ...given: (string | number)[]) => (await ask(job, ...given)).result;

  beforeAll(async () => {
    root = mkdtempSync(join(tmpdir(), 'warren-test-'));
    for (const name of ['ours', 'others']) mkdirSync(join(root, name));
    writeFileSync(join(root, 'program.mjs'), program);
    orders = { folder: join(root, 'ours'), disk: null, clockMilliseconds: 0, redirects: {} };
    child = spawn(
      process.execPath,
      [...shimFlags(), join(root, 'program.mjs'), join(root, 'ours'), join(root, 'others')],
      { env: { ...process.env, ...shimEnvironment(orders) }, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
    );
    ended = once(child, 'exit');
    await once(child, 'message');
  });
  afterAll(async () => {
    child.kill('SIGKILL');
    await ended;
    rmSync(root, { recursive: true, force: true });
  });

  beforeEach(() => outcome('fresh', `log-${++lastFile}`));

  it('does nothing until it is told to', async () => {
    for (const job of ['durable', 'write', 'sync', 'folder', 'blocking'])
      expect(await outcome(job, 'ours'), job).toBe('done');
    expect(await outcome('space', 'ours')).toBe('true');
    expect(Math.abs(Number(await outcome('now')) - Date.now())).toBeLessThan(1000);
    expect(readFileSync(join(root, 'ours', 'identity'), 'utf8')).toBe('x');
  });

  it('makes syncs fail', async () => {
    await disk({ kind: 'failing' });
    expect(await outcome('write', 'ours')).toBe('done');
    for (const job of ['durable', 'sync', 'folder', 'blocking']) expect(await outcome(job, 'ours'), job).toBe('EIO');
    for (const job of ['durable', 'sync', 'folder']) expect(await outcome(job, 'others'), job).toBe('done');
    await disk(null);
    expect(await outcome('folder', 'ours')).toBe('done');
    expect(await outcome('blocking')).toBe('done');
  });

  it('makes syncs slow', async () => {
    await disk({ kind: 'slow', milliseconds: 300 });
    for (const job of ['durable', 'sync', 'folder', 'blocking']) {
      const { result, milliseconds } = await ask(job, 'ours');
      expect(result, job).toBe('done');
      expect(milliseconds, job).toBeGreaterThan(280);
    }
    const durable = (place: 'ours' | 'others') => leastOf(3, async () => (await ask('durable', place)).milliseconds);
    expect(await durable('others')).toBeLessThan(250);
    await disk(null);
    expect(await durable('ours')).toBeLessThan(250);
  });

  it('makes writes and syncs hang, and go on', async () => {
    await disk({ kind: 'hanging' });
    const answers: string[] = [];
    const hanging = ['write', 'durable', 'sync', 'folder'].map((job) =>
      outcome(job, 'ours').then((result) => answers.push(result)),
    );
    expect(await outcome('durable', 'others')).toBe('done');
    expect(await outcome('blocking')).toBe('done');
    expect(answers).toEqual([]);
    expect(readFileSync(join(root, 'ours', `log-${lastFile}`)).length).toBe(0);
    await disk(null);
    await Promise.all(hanging);
    expect(answers).toEqual(['done', 'done', 'done', 'done']);
    expect(readFileSync(join(root, 'ours', `log-${lastFile}`)).length).toBe(10);
  });

  it('says that the disk is full, and refuses what has no room', async () => {
    await disk({ kind: 'full', bytesLeft: 1000 });
    expect(await outcome('space', 'ours')).toBe('false');
    expect(await outcome('space', 'others')).toBe('true');
    expect(await outcome('durable', 'ours', 900)).toBe('done');
    expect(await outcome('write', 'ours', 101)).toBe('ENOSPC');
    expect(await outcome('write', 'ours', 100)).toBe('done');
    expect(await outcome('blocking')).toBe('ENOSPC');
    expect(await outcome('durable', 'others', 2000)).toBe('done');
    await disk(null);
    expect(await outcome('space', 'ours')).toBe('true');
    expect(await outcome('write', 'ours', 2000)).toBe('done');
  });

  it('shifts the wall clock', async () => {
    for (const ahead of [3_600_000, -86_400_000, 0]) {
      await order({ clockMilliseconds: ahead });
      expect(Math.abs(Number(await outcome('now')) - Date.now() - ahead)).toBeLessThan(1500);
      const [made, text, given, isDate] = (await outcome('dates')).split(',');
      expect(Math.abs(Number(made) - Date.now() - ahead)).toBeLessThan(1500);
      expect(Math.abs(Number(text) - Date.now() - ahead)).toBeLessThan(2500);
      expect([given, isDate]).toEqual(['5', 'true']);
    }
  });

  it('leads connections elsewhere', async () => {
    const ports: number[] = [];
    const servers = ['first', 'second'].map((name) => net.createServer((socket) => socket.end(name)));
    for (const server of servers) {
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      ports.push((server.address() as net.AddressInfo).port);
    }
    const [first, second] = [ports[0]!, ports[1]!];
    expect(await outcome('dial', first)).toBe('first');
    await order({ redirects: { [first]: second } });
    expect(await outcome('dial', first)).toBe('second');
    expect(await outcome('dial', second)).toBe('second');
    await order({ redirects: {} });
    expect(await outcome('dial', first)).toBe('first');
    for (const server of servers) server.close();
  });

  it('is not waited for when the process is gone', async () => {
    child.kill('SIGKILL');
    await giveOrders(child, orders, 10_000);
    await ended;
    await giveOrders(child, orders, 10_000);
  });
});
