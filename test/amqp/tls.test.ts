// Clients that speak TLS: the same protocol behind a handshake; certificates of clients; and files that are not what they are said to be.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as dial } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as dialTls, type TLSSocket } from 'node:tls';
import amqplib from 'amqplib';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Connection } from '../../cluster/index.ts';
import { createClock, createNet, createRandom } from '../../cluster/os.ts';
import { type AmqpServer, createAmqpServer } from '../../node/amqp/server.ts';
import { readConfig } from '../../node/config-sources.ts';
import { readTls } from '../../node/tls.ts';
import { FakeBackend } from './fake-backend.ts';
import { quietLog } from './harness.ts';

let folder: string;
const path = (name: string) => join(folder, name);
const read = (name: string) => readFileSync(path(name));

/** `name.pem` and `name.key`: signed by `authority`, or by itself. */
function certify(name: string, authority?: string): void {
  const [key, request, certificate] = [path(`${name}.key`), path(`${name}.csr`), path(`${name}.pem`)];
  const openssl = (...more: string[]) => execFileSync('openssl', more, { stdio: 'pipe' });
  const make = ['req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key, '-subj'];
  if (authority === undefined) {
    openssl(...make, `/CN=${name}`, '-x509', '-days', '2', '-out', certificate);
    return;
  }
  openssl(...make, `/CN=${name}`, '-out', request);
  writeFileSync(path('names'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n');
  const signing = ['-CA', path(`${authority}.pem`), '-CAkey', path(`${authority}.key`), '-CAcreateserial'];
  openssl('x509', '-req', '-in', request, ...signing, '-days', '2', '-extfile', path('names'), '-out', certificate);
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'warren-tls-'));
  certify('authority');
  certify('server', 'authority');
  certify('client', 'authority');
  certify('stranger');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let server: AmqpServer | null = null;
let port = 0;
afterEach(() => server?.close());

async function listen(asksClients: boolean, demandsCertificate = false): Promise<void> {
  const backend = new FakeBackend();
  backend.recordPublishes = false;
  const tls = {
    certificate: read('server.pem'),
    key: read('server.key'),
    authority: asksClients ? read('authority.pem') : null,
    demandsCertificate,
    handshakeMilliseconds: 300,
  };
  const ports = { net: createNet(), clock: createClock(), random: createRandom() };
  server = createAmqpServer({ closeMilliseconds: 200 }, ports, backend, quietLog);
  [port] = (await server.listen([{ host: '127.0.0.1', port: 0 }], createNet({ tls }))) as [number];
}

/** True: the protocol's answer came. */
function isWelcome(identity: string | null): Promise<boolean> {
  const own = identity === null ? {} : { cert: read(`${identity}.pem`), key: read(`${identity}.key`) };
  const socket: TLSSocket = dialTls({ host: '127.0.0.1', port, ca: read('authority.pem'), ...own });
  socket.write('AMQP\0\0\x09\x01');
  return new Promise((resolve) => {
    socket.on('data', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
    socket.on('close', () => resolve(false));
  });
}

describe('a client over TLS', () => {
  it('declares, publishes and consumes, small and large', async () => {
    await listen(false);
    const options = { ca: [read('authority.pem')], servername: 'localhost' };
    const connection = await amqplib.connect(`amqps://guest:guest@127.0.0.1:${port}`, options);
    const channel = await connection.createConfirmChannel();
    await channel.assertQueue('q');
    const sent = [Buffer.from('small'), Buffer.alloc(3_000_000, 'large')];
    for (const body of sent) channel.sendToQueue('q', body);
    await channel.waitForConfirms();
    for (const body of sent) {
      const got = await channel.get('q', { noAck: true });
      expect(got !== false && got.content.equals(body)).toBe(true);
    }
    await connection.close();
  });

  it('is seen to take a large write little by little', async () => {
    const tls = { certificate: read('server.pem'), key: read('server.key'), authority: null };
    const net = createNet({ tls: { ...tls, demandsCertificate: false, handshakeMilliseconds: 1000 } });
    let near: Connection | null = null;
    const listener = await net.listen({ host: '127.0.0.1', port: 0 }, (connection) => void (near = connection));
    const far = dialTls({ host: '127.0.0.1', port: listener.port, ca: read('authority.pem') });
    await expect.poll(() => near, { timeout: 5000 }).not.toBe(null);
    // The system takes some megabytes at a time.
    const bytes = 32 * 1024 * 1024;
    near!.write([Buffer.alloc(bytes)]);
    const seen = new Set<number>();
    let received = 0;
    far.on('data', (chunk: Buffer) => {
      received += chunk.length;
      far.pause();
      setTimeout(() => far.resume(), 1);
      if (near!.bufferedBytes > 0) seen.add(near!.progress);
    });
    await expect.poll(() => received, { timeout: 20_000 }).toBe(bytes);
    expect(seen.size).toBeGreaterThan(8);
    expect(near!.bufferedBytes).toBe(0);
    far.destroy();
    near!.close();
    await listener.close();
  });

  it('needs no certificate; one that it shows has to be signed by the authority', async () => {
    await listen(true);
    expect(await Promise.all([isWelcome(null), isWelcome('client'), isWelcome('stranger')])).toEqual([
      true,
      true,
      false,
    ]);
  });

  it('needs one where they are required', async () => {
    await listen(true, true);
    expect(await Promise.all([isWelcome(null), isWelcome('client'), isWelcome('stranger')])).toEqual([
      false,
      true,
      false,
    ]);
  });

  it('is not asked for one, and shows it in vain, where there is no authority', async () => {
    await listen(false);
    expect(await isWelcome('stranger')).toBe(true);
  });

  it('that speaks in the clear, or not at all, is let go, and others go on', async () => {
    await listen(false);
    const ends = ['AMQP\0\0\x09\x01', ''].map((words) => {
      const socket = dial(port, '127.0.0.1', () => void socket.write(words));
      socket.on('error', () => {});
      return new Promise<void>((resolve) => void socket.on('close', () => resolve()).resume());
    });
    await Promise.all(ends);
    expect(server!.connectionCount).toBe(0);
    expect(await isWelcome(null)).toBe(true);
  });
});

describe('the settings', () => {
  const tls = (flags: Record<string, string>) => {
    const files = { 'amqp.tls.certificate.file': path('server.pem'), 'amqp.tls.key.file': path('server.key') };
    const all = Object.entries({ 'amqp.tls.port': '5671', ...files, ...flags });
    const config = readConfig({ flags: all.map(([key, value]) => `--${key}=${value}`), environment: {} });
    if (!config.ok) return config.error;
    const result = readTls(config.config.settings);
    return result.ok ? result.identity : result.error;
  };

  it('make an identity of the files, or none', () => {
    expect(tls({})).toMatchObject({ authority: null, demandsCertificate: false });
    const asking = { 'amqp.tls.ca.file': path('authority.pem'), 'amqp.tls.clients': 'required' };
    expect(tls(asking)).toMatchObject({ authority: read('authority.pem'), demandsCertificate: true });
    expect(tls({ 'amqp.tls.port': '0', 'amqp.tls.key.file': '' })).toBeNull();
  });

  it.each<[string, () => Record<string, string>, RegExp]>([
    [
      'a file that is not there',
      () => ({ 'amqp.tls.key.file': path('none') }),
      /^amqp\.tls\.key\.file = ".*none": cannot be read \(ENOENT\)$/,
    ],
    ['a folder', () => ({ 'amqp.tls.ca.file': folder }), /^amqp\.tls\.ca\.file = .*: cannot be read \(EISDIR\)$/],
    [
      'no certificate',
      () => ({ 'amqp.tls.certificate.file': path('names') }),
      /^amqp\.tls\.certificate\.file = .*: is no certificate in PEM/,
    ],
    [
      'another key',
      () => ({ 'amqp.tls.key.file': path('client.key') }),
      /^amqp\.tls\.key\.file = .*: is not the key of that certificate/,
    ],
    [
      'no authority',
      () => ({ 'amqp.tls.ca.file': path('names') }),
      /^amqp\.tls\.ca\.file = .*: is no certificate in PEM/,
    ],
    [
      'a port and no file',
      () => ({ 'amqp.tls.key.file': '' }),
      /^amqp\.tls\.key\.file = "" .*must be a path, as amqp\.tls\.port is given/,
    ],
    ['a port that is taken', () => ({ 'amqp.tls.port': '5672' }), /^amqp\.tls\.port = "5672" .*must be another port/],
    [
      'clients that must, and nobody to trust',
      () => ({ 'amqp.tls.clients': 'required' }),
      /^amqp\.tls\.ca\.file = "" .*must be a path/,
    ],
  ])('name what is wrong: %s', (_, flags, error) => {
    expect(tls(flags())).toMatch(error);
  });
});
