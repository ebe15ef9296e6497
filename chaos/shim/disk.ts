// A disk that is slow, fails, hangs or is full, inside a process: what Node's file system calls come to below one folder.
//
// A write to a descriptor that was opened with O_DSYNC is a sync too: it returns when its bytes are durable. A call that fails has done nothing, and
// one that hangs has done nothing yet. Calls that block the process are slow and fail like the others, but never hang: a process that
// stands still could not hear that it is over.
//
// State owned: the fault, which open descriptors are below the folder, the calls that hang, and how much room a full disk has left.
// Without a fault every call goes straight to Node's own.

import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import os from 'node:os';
import { resolve, sep } from 'node:path';
import type { DiskFault } from '../types.ts';

/** A full disk takes so much more, unless its fault says otherwise: a broker that looks at it in time never meets ENOSPC. */
const fullBytesLeft = 64 * 1024 * 1024;

type Done = (error: Error | null, ...results: unknown[]) => void;
type Call = (...values: unknown[]) => unknown;

export class DiskShim {
  readonly #folder: string;
  /** Those below the folder: whether their writes are durable when they return. */
  readonly #descriptors = new Map<number, boolean>();
  #fault: DiskFault | null = null;
  #bytesLeft = 0;
  #held: (() => void)[] = [];

  constructor(folder: string) {
    this.#folder = resolve(folder);
    this.#watchDescriptors();
    this.#harmCallbacks();
    this.#harmBlocking();
    this.#harmPromises();
    syncBuiltinESMExports();
  }

  set(fault: DiskFault | null): void {
    if (JSON.stringify(fault) === JSON.stringify(this.#fault)) return;
    this.#fault = fault;
    if (fault?.kind === 'full') this.#bytesLeft = fault.bytesLeft ?? fullBytesLeft;
    if (fault?.kind === 'hanging') return;
    const held = this.#held;
    this.#held = [];
    for (const call of held) call();
  }

  /** Keeps the map of descriptors. */
  #watchDescriptors(): void {
    const { open, openSync, close, closeSync } = fs;
    const opened = (descriptor: number, path: unknown, flags: unknown): void => {
      if (this.#isInside(path)) this.#descriptors.set(descriptor, isDurable(flags));
    };
    replace(fs, 'open', (path, ...rest) => {
      const done = rest.pop() as Done;
      const tell: Done = (error, descriptor) => {
        if (error === null) opened(descriptor as number, path, rest[0]);
        done(error, descriptor);
      };
      return Reflect.apply(open, fs, [path, ...rest, tell]);
    });
    replace(fs, 'openSync', (...given) => {
      const descriptor = Reflect.apply(openSync, fs, given) as number;
      opened(descriptor, given[0], given[1]);
      return descriptor;
    });
    replace(fs, 'close', (descriptor, done) => {
      this.#descriptors.delete(descriptor as number);
      return Reflect.apply(close, fs, [descriptor, done]);
    });
    replace(fs, 'closeSync', (descriptor) => {
      this.#descriptors.delete(descriptor as number);
      return Reflect.apply(closeSync, fs, [descriptor]);
    });
  }

  #harmCallbacks(): void {
    const { writev, write } = fs;
    replace(fs, 'writev', (...given) => {
      const durable = this.#fault === null ? undefined : this.#descriptors.get(given[0] as number);
      const run = () => Reflect.apply(writev, fs, given);
      if (durable === undefined) return run();
      let bytes = 0;
      for (const buffer of given[1] as Uint8Array[]) bytes += buffer.byteLength;
      this.#suffer('write', durable, bytes, run, given.at(-1) as Done);
    });
    replace(fs, 'write', (...given) => {
      const durable = this.#fault === null ? undefined : this.#descriptors.get(given[0] as number);
      const run = () => Reflect.apply(write, fs, given);
      if (durable === undefined) return run();
      this.#suffer('write', durable, bytesOf(given[1]), run, given.at(-1) as Done);
    });
    for (const name of ['fdatasync', 'fsync'] as const) {
      const real = fs[name] as Call;
      replace(fs, name, (...given) => {
        const run = () => Reflect.apply(real, fs, given);
        if (this.#fault === null || !this.#descriptors.has(given[0] as number)) return run();
        this.#suffer(name, true, 0, run, given.at(-1) as Done);
      });
    }
  }

  #harmBlocking(): void {
    for (const name of ['writeSync', 'writeFileSync', 'fdatasyncSync', 'fsyncSync'] as const) {
      const real = fs[name] as Call;
      const isSync = name === 'fdatasyncSync' || name === 'fsyncSync';
      replace(fs, name, (...given) => {
        if (this.#fault !== null && this.#isOurs(given[0]))
          this.#sufferBlocking(name, isSync, isSync ? 0 : bytesOf(given[1]));
        return Reflect.apply(real, fs, given);
      });
    }
  }

  #harmPromises(): void {
    const { open, statfs } = fs.promises;
    replace(fs.promises, 'open', async (...given) => {
      const handle = (await Reflect.apply(open, fs.promises, given)) as fs.promises.FileHandle;
      if (this.#isInside(given[0])) {
        for (const name of ['sync', 'datasync'] as const) {
          const real = handle[name].bind(handle);
          handle[name] = () => (this.#fault === null ? real() : this.#sufferPromise(name, real));
        }
      }
      return handle;
    });
    replace(fs.promises, 'statfs', async (...given) => {
      const found = (await Reflect.apply(statfs, fs.promises, given)) as fs.StatsFs;
      if (this.#fault?.kind === 'full' && this.#isInside(given[0])) Object.assign(found, { bfree: 0, bavail: 0 });
      return found;
    });
  }

  #suffer(name: string, isSync: boolean, bytes: number, run: () => void, fail: Done): void {
    const fault = this.#fault;
    switch (fault?.kind) {
      case undefined:
        return run();
      case 'slow':
        if (isSync) setTimeout(run, fault.milliseconds);
        else run();
        return;
      case 'failing':
        if (isSync) process.nextTick(fail, systemError('EIO', name));
        else run();
        return;
      case 'hanging':
        this.#held.push(run);
        return;
      case 'full':
        if (this.#takeRoom(bytes)) run();
        else process.nextTick(fail, systemError('ENOSPC', name));
        return;
      default:
        return fault satisfies undefined;
    }
  }

  #sufferPromise(name: string, run: () => Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => this.#suffer(name, true, 0, () => run().then(resolve, reject), reject));
  }

  #sufferBlocking(name: string, isSync: boolean, bytes: number): void {
    const fault = this.#fault;
    if (fault?.kind === 'slow' && isSync)
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, fault.milliseconds);
    if (fault?.kind === 'failing' && isSync) throw systemError('EIO', name);
    if (fault?.kind === 'full' && !this.#takeRoom(bytes)) throw systemError('ENOSPC', name);
  }

  #takeRoom(bytes: number): boolean {
    if (bytes > this.#bytesLeft) return false;
    this.#bytesLeft -= bytes;
    return true;
  }

  #isInside(path: unknown): boolean {
    if (typeof path !== 'string') return false;
    const absolute = resolve(path);
    return absolute === this.#folder || absolute.startsWith(this.#folder + sep);
  }

  #isOurs(file: unknown): boolean {
    return typeof file === 'number' ? this.#descriptors.has(file) : this.#isInside(file);
  }
}

function replace(target: object, name: string, call: Call): void {
  Object.assign(target, { [name]: call });
}

function isDurable(flags: unknown): boolean {
  const { O_DSYNC, O_SYNC } = fs.constants;
  return typeof flags === 'number' && ((flags & O_DSYNC) === O_DSYNC || (flags & O_SYNC) === O_SYNC);
}

function bytesOf(data: unknown): number {
  return typeof data === 'string' ? Buffer.byteLength(data) : ((data as Uint8Array | undefined)?.byteLength ?? 0);
}

/** As the system itself would say it. */
function systemError(code: 'EIO' | 'ENOSPC', syscall: string): Error {
  const errno = -os.constants.errno[code];
  const text = code === 'EIO' ? 'i/o error' : 'no space left on device';
  return Object.assign(new Error(`${code}: ${text}, ${syscall}`), { code, errno, syscall });
}
