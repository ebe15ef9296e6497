// The real ports: the only file in cluster/ that touches the operating system.
//
// State owned: descriptors and sockets. It decides nothing: no error is retried, hidden or translated.
// Invariants:
//   - no path leaves the disk's root;
//   - a descriptor is closed only when none of its operations is under way, so that a late write can never reach a file
//     that got the same number;
//   - after a failed fdatasync a file never again reports a successful one: the kernel forgets the dirty pages with the first error;
//   - `onClose` is called exactly once per connection, and no other handler after it.

import { randomBytes, randomFillSync } from 'node:crypto';
import fs from 'node:fs';
import { createServer, createConnection as dial, type Socket } from 'node:net';
import path from 'node:path';
import { createServer as createTlsServer } from 'node:tls';
import type { Address, Clock, Connection, Disk, DiskFile, Net, Ports, Random, Timer } from './ports.ts';

export interface NetOptions {
  /** A connection attempt that takes longer fails with ETIMEDOUT. The kernel's own patience is over two minutes. */
  readonly connectMilliseconds: number;
  /** `Connection.write` answers false above this many buffered bytes; a paused connection reads at most this far ahead. */
  readonly highWaterBytes: number;
  /** After `close` the other side has this long to take what is still buffered. */
  readonly lingerMilliseconds: number;
  /** What is listened to speaks TLS; null: plain TCP. What is dialled is always plain. */
  readonly tls: TlsIdentity | null;
}

/** Who a TLS server is, and whom it trusts; all in PEM. */
export interface TlsIdentity {
  readonly certificate: Buffer;
  readonly key: Buffer;
  /** What certificates of clients have to be signed by; null: clients are not asked for any. */
  readonly authority: Buffer | null;
  /** With an authority: clients without a certificate are turned away. */
  readonly demandsCertificate: boolean;
  /** A handshake that takes longer ends the connection. */
  readonly handshakeMilliseconds: number;
}

const netDefaults: NetOptions = {
  connectMilliseconds: 3_000,
  highWaterBytes: 256 * 1024,
  lingerMilliseconds: 1_000,
  tls: null,
};

export function createPorts(dataFolder: string): Ports {
  return { disk: createDisk(dataFolder), net: createNet(), clock: createClock(), random: createRandom() };
}

// ---- Disk ----

/** Buffers that one writev takes (IOV_MAX of Linux and macOS). */
const writevBuffersMax = 1024;

/** A disk below `root`. The root itself is the path `''`; it need not exist before `makeFolder('')`. */
export function createDisk(root: string): Disk {
  const base = path.resolve(root);
  const resolve = (relative: string) => resolveInside(base, relative);
  const remains = new Remains();
  return {
    async makeFolder(folder) {
      await fs.promises.mkdir(resolve(folder), { recursive: true, mode: 0o750 });
    },
    async list(folder) {
      return (await fs.promises.readdir(resolve(folder))).sort();
    },
    async open(file, mode) {
      const flags = mode === 'read' ? 'r' : mode === 'write' ? 'r+' : 'wx+';
      const descriptor = await openDescriptor(resolve(file), flags);
      // A second descriptor for writes that are durable when they return: one trip through the thread pool instead of two.
      const { O_WRONLY, O_DSYNC } = fs.constants;
      const durable = mode === 'create' ? await openDescriptor(resolve(file), O_WRONLY | O_DSYNC) : null;
      const { size, ino } = fs.fstatSync(descriptor);
      remains.opened(ino);
      return new OsFile(descriptor, durable, size, () => remains.closed(ino));
    },
    async readFile(file) {
      try {
        return await fs.promises.readFile(resolve(file));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
        throw error;
      }
    },
    async rename(from, to) {
      await fs.promises.rename(resolve(from), resolve(to));
    },
    async remove(file) {
      const target = resolve(file);
      if (target === base) throw new Error('the root of the disk cannot be removed');
      // A folder is removed only when it is empty: nothing here deletes a tree.
      const stats = await fs.promises.lstat(target);
      if (stats.isDirectory()) await fs.promises.rmdir(target);
      else await remains.unlink(target, stats);
    },
    async space() {
      const { bsize, bavail, blocks } = await fs.promises.statfs(base);
      return { free: bavail * bsize, total: blocks * bsize };
    },
    async syncFolder(folder) {
      const handle = await fs.promises.open(resolve(folder), 'r');
      try {
        await handle.sync();
      } finally {
        await handle.close();
      }
    },
  };
}

/** The absolute path of a relative one, which must be plain: no `.`, `..`, empty segment, backslash or NUL. */
function resolveInside(base: string, relative: string): string {
  if (relative === '' || relative === '.') return base;
  for (const segment of relative.split('/')) {
    const plain = segment !== '' && segment !== '.' && segment !== '..' && !/[\\\0]/.test(segment);
    if (!plain) throw new Error(`path ${JSON.stringify(relative)} is not a plain relative path`);
  }
  return path.join(base, relative);
}

const freedBytesMin = 2 * 1024 * 1024;
const freedShare = 64;
const freedMilliseconds = 10;

/**
 * What was removed and is freed bit by bit. A file that goes at once makes every sync on its file system wait meanwhile: 8 to 15 ms for 32 MiB
 * where what is freed is discarded (mount option `discard`), 6 ms in such steps. Its name goes at once all the same, and all of it with the process.
 */
class Remains {
  /** How often each file is open here, by inode: what is read on must stay whole. */
  readonly #open = new Map<number, number>();
  readonly #waiting: { readonly file: fs.promises.FileHandle; size: number }[] = [];
  #bytes = 0;
  #isFreeing = false;

  opened(inode: number): void {
    this.#open.set(inode, (this.#open.get(inode) ?? 0) + 1);
  }
  closed(inode: number): void {
    const left = this.#open.get(inode)! - 1;
    if (left > 0) this.#open.set(inode, left);
    else this.#open.delete(inode);
  }

  async unlink(target: string, stats: fs.Stats): Promise<void> {
    const { size, nlink, ino } = stats;
    const isSlow = stats.isFile() && size > freedBytesMin && nlink === 1 && !this.#open.has(ino);
    // Who may remove a file need not be allowed to write it.
    const file = isSlow ? await fs.promises.open(target, 'r+').catch(() => null) : null;
    await fs.promises.unlink(target).catch(async (error) => {
      await file?.close();
      throw error;
    });
    if (file === null) return;
    this.#waiting.push({ file, size });
    this.#bytes += size;
    if (!this.#isFreeing) void this.#free();
  }

  /** One file after the other, and the faster the more there is. What fails here is freed with its descriptor. */
  async #free(): Promise<void> {
    this.#isFreeing = true;
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      const left = Math.max(0, first.size - Math.max(freedBytesMin, Math.ceil(this.#bytes / freedShare)));
      const isFreed =
        left > 0 &&
        (await first.file.truncate(left).then(
          () => true,
          () => false,
        ));
      this.#bytes -= first.size - (isFreed ? left : 0);
      first.size = left;
      if (!isFreed)
        await this.#waiting
          .shift()!
          .file.close()
          .catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, freedMilliseconds).unref());
    }
    this.#isFreeing = false;
  }
}

function openDescriptor(file: string, flags: string | number): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.open(file, flags, 0o640, (error, descriptor) => (error ? reject(error) : resolve(descriptor)));
  });
}

class OsFile implements DiskFile {
  readonly #descriptor: number;
  readonly #durable: number | null;
  #size: number;
  /** Operations under way; `close` waits for them. */
  #pending = 0;
  #closed = false;
  #whenIdle: (() => void) | null = null;
  readonly #onClosed: () => void;
  #syncError: Error | null = null;

  constructor(descriptor: number, durable: number | null, size: number, onClosed: () => void) {
    this.#descriptor = descriptor;
    this.#durable = durable;
    this.#size = size;
    this.#onClosed = onClosed;
  }

  /** Bytes, counting completed writes only. */
  get size(): number {
    return this.#size;
  }

  write(buffers: readonly Uint8Array[], offset: number, done: (error: Error | null) => void): void {
    if (this.#closed) return void process.nextTick(done, closedError());
    this.#pending++;
    this.#writeFrom(this.#descriptor, buffers, 0, offset, done);
  }

  writeDurably(buffers: readonly Uint8Array[], offset: number, done: (error: Error | null) => void): void {
    if (this.#durable === null || this.#syncError !== null)
      return this.write(buffers, offset, (error) => (error === null ? this.sync(done) : done(error)));
    if (this.#closed) return void process.nextTick(done, closedError());
    this.#pending++;
    this.#writeFrom(this.#durable, buffers, 0, offset, (error) => {
      // A failed one may have lost what it wrote: no later sync of this file can be believed.
      if (error) this.#syncError ??= error;
      done(error);
    });
  }

  /** Writes buffers[first..] in as few calls as the kernel takes. */
  #writeFrom(
    descriptor: number,
    buffers: readonly Uint8Array[],
    first: number,
    offset: number,
    done: (error: Error | null) => void,
  ): void {
    if (first === buffers.length) return void process.nextTick(() => this.#finish(done, null));
    const whole = first === 0 && buffers.length <= writevBuffersMax;
    const round = whole ? buffers : buffers.slice(first, first + writevBuffersMax);
    let bytes = 0;
    for (let i = 0; i < round.length; i++) bytes += round[i]!.byteLength;
    fs.writev(descriptor, round, offset, (error, written) => {
      if (error) return this.#finish(done, error);
      this.#size = Math.max(this.#size, offset + written);
      const next = first + round.length;
      if (written === bytes && next === buffers.length) return this.#finish(done, null);
      if (written === bytes) return this.#writeFrom(descriptor, buffers, next, offset + written, done);
      if (written === 0) return this.#finish(done, new Error('the operating system wrote nothing and gave no error'));
      // A short write: a full disk, a signal or more than 2 GiB. The next call goes on, or brings the reason.
      this.#writeFrom(descriptor, remainder(buffers, first, written), 0, offset + written, done);
    });
  }

  sync(done: (error: Error | null) => void): void {
    if (this.#closed) return void process.nextTick(done, closedError());
    if (this.#syncError !== null) return void process.nextTick(done, this.#syncError);
    this.#pending++;
    fs.fdatasync(this.#descriptor, (error) => {
      if (error) this.#syncError ??= error;
      this.#finish(done, this.#syncError);
    });
  }

  read(offset: number, length: number, done: (error: Error | null, bytes: Buffer) => void): void {
    if (this.#closed) return void process.nextTick(done, closedError(), noBytes);
    this.#pending++;
    this.#readFrom(Buffer.allocUnsafeSlow(length), 0, offset, done);
  }

  #readFrom(target: Buffer, filled: number, offset: number, done: (error: Error | null, bytes: Buffer) => void): void {
    fs.read(this.#descriptor, target, filled, target.length - filled, offset + filled, (error, count) => {
      if (error) return this.#finish((failure) => done(failure, noBytes), error);
      filled += count;
      if (count > 0 && filled < target.length) return this.#readFrom(target, filled, offset, done);
      this.#finish(() => done(null, filled === target.length ? target : target.subarray(0, filled)), null);
    });
  }

  truncate(length: number): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(closedError());
      this.#pending++;
      fs.ftruncate(this.#descriptor, length, (error) => {
        if (!error) this.#size = length;
        this.#finish((failure) => (failure ? reject(failure) : resolve()), error);
      });
    });
  }

  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#closed = true;
    return new Promise((resolve, reject) => {
      const close = () => {
        if (this.#durable !== null) fs.closeSync(this.#durable);
        fs.close(this.#descriptor, (error) => {
          this.#onClosed();
          if (error) reject(error);
          else resolve();
        });
      };
      if (this.#pending === 0) close();
      else this.#whenIdle = close;
    });
  }

  #finish(done: (error: Error | null) => void, error: Error | null): void {
    this.#pending--;
    if (this.#pending === 0 && this.#whenIdle !== null) this.#whenIdle();
    done(error);
  }
}

const noBytes = Buffer.alloc(0);

function closedError(): Error {
  return Object.assign(new Error('file is closed'), { code: 'EBADF' });
}

/** What is left of buffers[first..] after its first `written` bytes. */
function remainder(buffers: readonly Uint8Array[], first: number, written: number): Uint8Array[] {
  while (written >= buffers[first]!.byteLength) written -= buffers[first++]!.byteLength;
  const rest = buffers.slice(first);
  rest[0] = rest[0]!.subarray(written);
  return rest;
}

// ---- Net ----

export function createNet(options: Partial<NetOptions> = {}): Net {
  const settings: NetOptions = { ...netDefaults, ...options };
  return {
    listen: (address, onConnection) => listen(address, onConnection, settings),
    connect: (address, done) => connect(address, done, settings),
  };
}

function listen(
  address: Address,
  onConnection: (connection: Connection) => void,
  settings: NetOptions,
): Promise<{ readonly port: number; close(): Promise<void> }> {
  return new Promise((resolve, reject) => {
    const tcp = {
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: 30_000,
      highWaterMark: settings.highWaterBytes,
    };
    const accept = (socket: Socket) => onConnection(new OsConnection(socket, settings));
    const server = settings.tls === null ? createServer(tcp, accept) : listenForTls(tcp, settings.tls, accept);
    server.once('error', reject);
    server.listen(address.port, address.host, () => {
      server.off('error', reject);
      // Accepting failed (no descriptors left): the one who dialled sees its connection fail, and what is open goes on.
      server.on('error', () => {});
      const bound = server.address();
      if (bound === null || typeof bound === 'string') throw new Error('a TCP server without a port');
      resolve({
        port: bound.port,
        // The port is free at once. The server's own callback would wait for every connection to end.
        async close() {
          server.close();
        },
      });
    });
  });
}

/** Hands a connection out once its handshake is done, and its certificate is found to be good if it has one. */
function listenForTls(tcp: object, tls: TlsIdentity, accept: (socket: Socket) => void) {
  const server = createTlsServer({
    ...tcp,
    cert: tls.certificate,
    key: tls.key,
    ...(tls.authority === null ? {} : { ca: tls.authority, requestCert: true }),
    // Looked at below, because a missing one may be as good as a valid one.
    rejectUnauthorized: false,
    handshakeTimeout: tls.handshakeMilliseconds,
  });
  server.on('secureConnection', (socket) => {
    const hasNone =
      tls.authority === null || (!tls.demandsCertificate && socket.getPeerX509Certificate() === undefined);
    if (socket.authorized || hasNone) accept(socket);
    else socket.destroy();
  });
  // A handshake that failed, or took too long: its socket stays open otherwise.
  server.on('tlsClientError', (_error, socket) => socket.destroy());
  return server;
}

function connect(
  address: Address,
  done: (error: Error | null, connection: Connection | null) => void,
  settings: NetOptions,
): void {
  const socket = dial({
    host: address.host,
    port: address.port,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: 30_000,
    // Sockets hand these on to their streams; the type of the options does not say so.
    ...{ readableHighWaterMark: settings.highWaterBytes, writableHighWaterMark: settings.highWaterBytes },
  });
  const failed = (error: Error) => {
    clearTimeout(timer);
    done(error, null);
  };
  const timer = setTimeout(() => {
    const target = `${address.host}:${address.port}`;
    socket.destroy(Object.assign(new Error(`connect ETIMEDOUT ${target}`), { code: 'ETIMEDOUT' }));
  }, settings.connectMilliseconds);
  socket.once('error', failed);
  socket.once('connect', () => {
    clearTimeout(timer);
    socket.off('error', failed);
    done(null, new OsConnection(socket, settings));
  });
}

/** What is not public of Node's sockets, and may be missing in some version: then whole writes count. */
interface Handle {
  readonly writeQueueSize?: number;
}

class OsConnection implements Connection {
  readonly remoteAddress: string;
  readonly localAddress: string;
  onData: (chunk: Buffer) => void = () => {};
  onDrain: () => void = () => {};
  onClose: (error: Error | null) => void = () => {};
  readonly #socket: Socket;
  readonly #highWaterBytes: number;
  readonly #lingerMilliseconds: number;
  /** `write` answered false. */
  #wantsDrain = false;
  /** `close` was called, or the other side ended: nothing more is read or written. */
  #closing = false;
  #told = false;
  #error: Error | null = null;
  #linger: NodeJS.Timeout | null = null;

  constructor(socket: Socket, settings: NetOptions) {
    this.#socket = socket;
    this.#highWaterBytes = settings.highWaterBytes;
    this.#lingerMilliseconds = settings.lingerMilliseconds;
    this.remoteAddress = formatAddress(socket.remoteAddress, socket.remotePort);
    this.localAddress = formatAddress(socket.localAddress, socket.localPort);
    socket.on('data', (chunk: Buffer) => {
      if (!this.#closing) this.onData(chunk);
    });
    socket.on('drain', () => {
      if (this.#closing || !this.#wantsDrain) return;
      this.#wantsDrain = false;
      this.onDrain();
    });
    socket.on('error', (error) => {
      this.#error ??= error;
    });
    // The other side will send nothing more: told at once, though what is buffered still gets its chance to leave.
    socket.on('end', () => {
      this.#shut();
      this.#tellClosed();
    });
    socket.on('close', () => {
      this.#closing = true;
      if (this.#linger !== null) clearTimeout(this.#linger);
      this.#tellClosed();
    });
  }

  get bufferedBytes(): number {
    return this.#socket.writableLength;
  }

  get progress(): number {
    // The stream counts whole writes, of which one may be 128 MiB; how far that has come only its handle knows (as `Socket.setTimeout` asks it).
    const socket = this.#socket;
    const { _handle: handle } = socket as unknown as { readonly _handle?: Handle & { readonly _parent?: Handle } };
    // Under TLS it is the handle below that has something to wait for.
    const { writeQueueSize = 0 } = handle?._parent ?? handle ?? {};
    return (socket.bytesWritten ?? 0) - socket.writableLength - writeQueueSize;
  }

  write(buffers: readonly Uint8Array[]): boolean {
    if (this.#closing) return false;
    const socket = this.#socket;
    if (buffers.length === 1) socket.write(buffers[0]!);
    else {
      socket.cork();
      for (let i = 0; i < buffers.length; i++) socket.write(buffers[i]!);
      socket.uncork();
    }
    // The stream's own answer comes from before its write, and would report as buffered what the kernel has taken by now.
    if (socket.writableLength <= this.#highWaterBytes) return true;
    this.#wantsDrain = true;
    return false;
  }

  pause(): void {
    if (!this.#closing) this.#socket.pause();
  }

  resume(): void {
    if (!this.#closing) this.#socket.resume();
  }

  close(): void {
    this.#shut();
  }

  /** Sends what is buffered and a FIN, and reads on without looking: closing over unread bytes would reset the connection. */
  #shut(): void {
    if (this.#closing) return;
    this.#closing = true;
    this.#linger = setTimeout(() => this.#socket.destroy(), this.#lingerMilliseconds);
    this.#socket.end();
    this.#socket.resume();
  }

  #tellClosed(): void {
    if (this.#told) return;
    this.#told = true;
    this.onClose(this.#error);
  }
}

/** `127.0.0.1:5672` or `[::1]:5672`; an IPv4 address in IPv6 dress is shown as what it is. */
function formatAddress(host: string | undefined, port: number | undefined): string {
  if (host === undefined || port === undefined) return 'unknown:0';
  if (host.startsWith('::ffff:') && host.includes('.')) return `${host.slice(7)}:${port}`;
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

// ---- Clock and randomness ----

export function createClock(): Clock {
  return {
    now: () => performance.now(),
    wall: () => Date.now(),
    after: (milliseconds, task) => new OsTimer(milliseconds, task),
    ...createTurnEnd(),
  };
}

/** Tasks may ask for tasks: so often within one turn, then the sockets come first again. */
const roundsPerTurn = 4;

/**
 * Runs tasks in the check phase: everything that this turn's poll found readable has been read by then. What a task asks for soon runs in the
 * same turn: what a host's flush gives to transport and sessions leaves with it, not a turn later.
 */
function createTurnEnd(): Pick<Clock, 'soon' | 'nextTurn'> {
  let tasks: (() => void)[] = [];
  let later: (() => void)[] = [];
  let planned = false;
  const plan = () => {
    if (planned) return;
    planned = true;
    setImmediate(run);
  };
  const run = () => {
    for (const task of later) tasks.push(task);
    later = [];
    try {
      for (let round = 0; round < roundsPerTurn && tasks.length > 0; round++) {
        const now = tasks;
        tasks = [];
        for (let i = 0; i < now.length; i++) now[i]!();
      }
    } finally {
      planned = false;
      if (tasks.length > 0 || later.length > 0) plan();
    }
  };
  return {
    soon(task) {
      tasks.push(task);
      plan();
    },
    nextTurn(task) {
      later.push(task);
      plan();
    },
  };
}

/** The longest wait that setTimeout takes; it fires at once on more. */
const timeoutMillisecondsMax = 2 ** 31 - 1;

class OsTimer implements Timer {
  readonly #due: number;
  readonly #task: () => void;
  #timeout: NodeJS.Timeout;

  constructor(milliseconds: number, task: () => void) {
    this.#due = performance.now() + milliseconds;
    this.#task = task;
    this.#timeout = this.#arm(milliseconds);
  }

  cancel(): void {
    clearTimeout(this.#timeout);
  }

  #arm(milliseconds: number): NodeJS.Timeout {
    return setTimeout(this.#fire, Math.min(Math.ceil(milliseconds), timeoutMillisecondsMax));
  }

  /** The event loop counts whole milliseconds and may be a fraction early. */
  #fire = (): void => {
    const rest = this.#due - performance.now();
    if (rest > 0) this.#timeout = this.#arm(rest);
    else this.#task();
  };
}

export function createRandom(): Random {
  const pool = new Uint32Array(1024);
  let used = pool.length;
  return {
    integer(bound) {
      if (!Number.isInteger(bound) || bound < 1 || bound > 2 ** 32) throw new Error(`bound ${bound} is out of range`);
      if (used === pool.length) {
        randomFillSync(pool);
        used = 0;
      }
      return Math.floor((pool[used++]! / 2 ** 32) * bound);
    },
    bytes: (length) => randomBytes(length),
  };
}
