// A disk in memory that knows what is durable and what is not. State owned: files and folders (what a reader sees, and what is on the
// platter; `disk/inode.ts`, `disk/folder.ts`), operations that are held up, faults to inject.
//
// Model
//   - a write is seen by readers when it completes and is durable when a sync that began later completes; a durable write is both at once;
//   - creating, renaming and removing are durable after `syncFolder` of the parent, and only then (harsher than most file systems);
//   - `crash` keeps any part of what was not synced, in sectors of 512 or 4,096 bytes, also of writes whose completion nobody saw; lost
//     sectors below the new end of a file are zeros or garbage. Handles and pending callbacks of before die: nothing of them is heard again;
//   - `kill` is a process that dies: what was written stays readable, and stays not synced;
//   - a sync that fails loses what it was to make durable, or parts of it, and no later sync brings it back; nor does its file ever again
//     report a successful one to whoever had it open;
//   - what exceeds `capacity` fails with ENOSPC; a write then leaves a part of it behind, as every failed write does.
// All faults are off by default. Damage to what is durable is in `disk/damage.ts`.
//
// Completions run through `schedule`, in the order in which a test or simulator runs them; the default is the microtask queue.

import type { Disk, DiskFile, Random } from '../../cluster/ports.ts';
import { Folder } from './disk/folder.ts';
import { type Flight, Inode } from './disk/inode.ts';

export type DiskOperation =
  | 'write'
  | 'sync'
  | 'read'
  | 'truncate'
  | 'open'
  | 'rename'
  | 'remove'
  | 'syncFolder'
  | 'makeFolder'
  | 'list'
  | 'readFile';

export interface MemoryDiskOptions {
  /**
   * Runs a completion later, never at once. `bytes`: what was moved; `milliseconds`: how long that takes by `latency`. A durable write is one operation:
   * `write`. Default: queueMicrotask.
   */
  readonly schedule?: (
    task: () => void,
    operation: DiskOperation,
    path: string,
    bytes: number,
    milliseconds: number,
  ) => void;
  /** For latencies in a range, and for what a failed sync leaves. Without it: the least, nothing. */
  readonly random?: Random;
  /** From the start, and after `calm`. Default: 0 ms and any number of bytes. */
  readonly latency?: DiskLatency;
}

/** How long an operation takes: from `least` to `most`, and the time for its bytes. */
export interface DiskLatency {
  readonly leastMilliseconds: number;
  readonly mostMilliseconds: number;
  readonly bytesPerMillisecond: number;
}

/** `before`: it has not begun. `after`: it took effect, and nobody was told. */
export type OperationPhase = 'before' | 'after';

export interface MemoryDisk extends Disk {
  /** Power loss: everything that is not durable is lost in part or whole. Usable again at once, by new handles. */
  crash(random: Random): void;
  /** The process dies, the machine lives on. Writes on their way were done or not, by `random`; without it none was. */
  kill(random?: Random): void;
  /** The machine gets a new disk. Like a crash for whoever used the old one. */
  wipe(): void;
  /** The disk as one process sees it: dead for good after the next `crash`, `kill` or `wipe`, whatever its code still does. */
  mount(): Disk & Pick<MemoryDisk, 'space'>;
  /** Free bytes and all bytes; 1 TiB in all where no capacity is set. */
  space(): Promise<{ readonly free: number; readonly total: number }>;

  /** Asked before every operation; an error makes it fail (a failed write leaves a part of it behind). Null: no faults. */
  fault: ((operation: DiskOperation, path: string) => Error | null) | null;
  /** The next operations of this kind fail with this code. A durable write is asked for both of its kinds. */
  failNext(operation: DiskOperation, code: string, times?: number): void;
  /** Sees every operation before and after; a crash from in here hits it at this boundary. Null: nobody. */
  watch: ((operation: DiskOperation, path: string, phase: OperationPhase) => void) | null;
  /** While true, completions of `write` and `sync` are held back; setting it to false lets them go in order. */
  stalled: boolean;
  /** While true, nothing at all completes. */
  hung: boolean;
  /** From now on nothing takes effect and nobody hears of anything, until the next `crash`, `kill` or `wipe`. */
  halt(): void;
  latency: DiskLatency;
  /** Bytes that all files together may have. Default: Infinity. */
  capacity: number;
  /** Ends all of these faults but `halt`; what is damaged or lost stays so. */
  calm(): void;

  /** What a reader would see now. */
  contents(path: string): Buffer;
  /** Bytes from the start of the file that no crash takes away. */
  syncedBytes(path: string): number;
  /** Changes bytes in place, on the platter too: rot. */
  corrupt(path: string, offset: number, mask?: number): void;
  /** Other bytes in this place, on the platter too, as if somebody else's write went there. They must be in the file, and synced. */
  patch(path: string, offset: number, bytes: Buffer): void;
  /** Reading any of these bytes fails with EIO, until they are written again. */
  makeUnreadable(path: string, offset: number, bytes: number): void;
  /** Gives a file these bytes, durably; null: takes the file away. */
  put(path: string, bytes: Buffer | null): void;
  /** Names with sizes, for messages and bounds. */
  paths(): { path: string; bytes: number }[];
  usedBytes(): number;
  readonly counts: Record<DiskOperation, number>;
}

const bytesWithoutCapacity = 2 ** 40;
const fastest: DiskLatency = { leastMilliseconds: 0, mostMilliseconds: 0, bytesPerMillisecond: Infinity };

export function diskError(code: string, path: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${path}`), { code });
}

const parentOf = (path: string) => (path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '');
const nameOf = (path: string) => path.slice(path.lastIndexOf('/') + 1);
const noBytes = Buffer.alloc(0);

export function createMemoryDisk(options: MemoryDiskOptions = {}): MemoryDisk {
  return new SimulatedDisk(options);
}

class SimulatedDisk implements MemoryDisk {
  fault: MemoryDisk['fault'] = null;
  watch: MemoryDisk['watch'] = null;
  capacity = Infinity;
  latency: DiskLatency;
  readonly counts: Record<DiskOperation, number> = {
    write: 0,
    sync: 0,
    read: 0,
    truncate: 0,
    open: 0,
    rename: 0,
    remove: 0,
    syncFolder: 0,
    makeFolder: 0,
    list: 0,
    readFile: 0,
  };
  /** Handles and completions of an earlier life are ignored. */
  life = 0;
  readonly random: Random | null;
  readonly #options: MemoryDiskOptions;
  #folders = new Map<string, Folder>([['', new Folder()]]);
  readonly #failing = new Map<DiskOperation, { code: string; times: number }>();
  #stalled = false;
  #hung = false;
  #halted = false;
  #held: { readonly task: () => void; readonly isWriting: boolean }[] = [];

  constructor(options: MemoryDiskOptions) {
    this.#options = options;
    this.random = options.random ?? null;
    this.latency = options.latency ?? fastest;
  }

  // ---- Disk ----

  makeFolder(path: string): Promise<void> {
    return this.#run('makeFolder', path, () => {
      if (path === '' || this.#folders.has(path)) return;
      this.#checkRoom(path);
      this.#folder(parentOf(path)).change([nameOf(path), 'folder']);
      this.#folders.set(path, new Folder());
    });
  }

  list(path: string): Promise<string[]> {
    return this.#run('list', path, () => [...this.#folder(path).seen.keys()].sort());
  }

  open(path: string, mode: 'read' | 'write' | 'create'): Promise<DiskFile> {
    return this.#run('open', path, () => {
      const folder = this.#folder(parentOf(path));
      let inode = folder.seen.get(nameOf(path));
      if (mode === 'create') {
        if (inode !== undefined) throw diskError('EEXIST', path);
        this.#checkRoom(path);
        inode = new Inode();
        folder.change([nameOf(path), inode]);
      }
      if (inode === undefined) throw diskError('ENOENT', path);
      if (inode === 'folder') throw diskError('EISDIR', path);
      return new Handle(this, inode, path, mode !== 'read');
    });
  }

  readFile(path: string): Promise<Buffer | null> {
    return this.#run('readFile', path, () => {
      const inode = this.#folders.get(parentOf(path))?.seen.get(nameOf(path));
      if (!(inode instanceof Inode)) return null;
      if (!inode.canRead(0, inode.size)) throw diskError('EIO', path);
      return Buffer.from(inode.view());
    });
  }

  rename(from: string, to: string): Promise<void> {
    return this.#run('rename', from, () => {
      const folder = this.#folder(parentOf(from));
      const inode = folder.seen.get(nameOf(from));
      if (inode === undefined) throw diskError('ENOENT', from);
      if (inode === 'folder') throw diskError('EISDIR', from);
      Folder.move(folder, nameOf(from), this.#folder(parentOf(to)), nameOf(to), inode);
    });
  }

  remove(path: string): Promise<void> {
    return this.#run('remove', path, () => {
      const folder = this.#folder(parentOf(path));
      const node = folder.seen.get(nameOf(path));
      if (node === undefined) throw diskError('ENOENT', path);
      if (node === 'folder' && this.#folder(path).seen.size > 0) throw diskError('ENOTEMPTY', path);
      folder.change([nameOf(path), null]);
      if (node === 'folder') this.#folders.delete(path);
    });
  }

  syncFolder(path: string): Promise<void> {
    return this.#run('syncFolder', path, () => this.#folder(path).sync());
  }

  async space(): Promise<{ free: number; total: number }> {
    const total = this.capacity === Infinity ? bytesWithoutCapacity : this.capacity;
    return { free: Math.max(0, total - this.usedBytes()), total };
  }

  // ---- a process, and how it ends ----

  mount(): Disk & Pick<MemoryDisk, 'space'> {
    const { life } = this;
    const never = new Promise<never>(() => {});
    const alive = <A extends unknown[], R>(operation: (...args: A) => Promise<R>) => {
      const bound = operation.bind(this);
      return (...args: A): Promise<R> => (this.life === life ? bound(...args) : never);
    };
    return {
      makeFolder: alive(this.makeFolder),
      list: alive(this.list),
      open: alive(this.open),
      readFile: alive(this.readFile),
      rename: alive(this.rename),
      remove: alive(this.remove),
      syncFolder: alive(this.syncFolder),
      space: alive(this.space),
    };
  }

  crash(random: Random): void {
    this.#end();
    for (const folder of this.#folders.values()) folder.crash(random);
    for (const inode of this.#inodes()) inode.crash(random);
    // A folder whose own name was lost is gone with what was in it.
    for (const path of [...this.#folders.keys()]) {
      if (path === '') continue;
      const parent = this.#folders.get(parentOf(path));
      if (parent?.seen.get(nameOf(path)) !== 'folder') this.#folders.delete(path);
    }
    for (const [path, folder] of this.#folders)
      for (const [name, node] of folder.seen) {
        const child = path === '' ? name : `${path}/${name}`;
        if (node === 'folder' && !this.#folders.has(child)) this.#folders.set(child, new Folder());
      }
  }

  kill(random?: Random): void {
    this.#end();
    for (const inode of this.#inodes()) inode.endFlights(random ?? null);
  }

  wipe(): void {
    this.#end();
    this.#folders = new Map([['', new Folder()]]);
  }

  #end(): void {
    this.life++;
    this.#held = [];
    this.#stalled = false;
    this.#hung = false;
    this.#halted = false;
  }

  // ---- faults ----

  get stalled(): boolean {
    return this.#stalled;
  }
  set stalled(value: boolean) {
    this.#stalled = value;
    this.#letGo();
  }
  get hung(): boolean {
    return this.#hung;
  }
  set hung(value: boolean) {
    this.#hung = value;
    this.#letGo();
  }

  halt(): void {
    this.#halted = true;
  }

  failNext(operation: DiskOperation, code: string, times = 1): void {
    this.#failing.set(operation, { code, times });
  }

  calm(): void {
    this.fault = null;
    this.watch = null;
    this.#failing.clear();
    this.latency = this.#options.latency ?? fastest;
    this.capacity = Infinity;
    this.#stalled = false;
    this.hung = false;
  }

  /** Completions that nothing holds any more run, in order. */
  #letGo(): void {
    if (this.#hung) return;
    const held = this.#held;
    this.#held = [];
    for (const item of held) {
      if (this.#hung || (this.#stalled && item.isWriting)) this.#held.push(item);
      else item.task();
    }
  }

  // ---- what is there ----

  contents(path: string): Buffer {
    return Buffer.from(this.#inode(path).view());
  }

  syncedBytes(path: string): number {
    return this.#inode(path).syncedBytes;
  }

  corrupt(path: string, offset: number, mask = 0xff): void {
    this.#inode(path).flip(offset, mask);
  }

  patch(path: string, offset: number, bytes: Buffer): void {
    this.#inode(path).patch(offset, bytes);
  }

  makeUnreadable(path: string, offset: number, bytes: number): void {
    this.#inode(path).makeUnreadable(offset, offset + bytes);
  }

  put(path: string, bytes: Buffer | null): void {
    const folder = this.#forcedFolder(parentOf(path));
    if (bytes === null) return folder.force(nameOf(path), null);
    const known = folder.seen.get(nameOf(path));
    const inode = known instanceof Inode ? known : new Inode();
    inode.put(bytes);
    folder.force(nameOf(path), inode);
  }

  paths(): { path: string; bytes: number }[] {
    const found: { path: string; bytes: number }[] = [];
    for (const [path, folder] of this.#folders)
      for (const [name, node] of folder.seen)
        if (node instanceof Inode) found.push({ path: path === '' ? name : `${path}/${name}`, bytes: node.size });
    return found;
  }

  usedBytes(): number {
    let used = 0;
    for (const inode of this.#inodes()) used += inode.size;
    return used;
  }

  // ---- operations ----

  /**
   * Counts, asks for a fault, and runs `effect` and then `done` when the scheduler says so, unless the process ended meanwhile. A fault of
   * `also`, the second half of a durable write, comes to the effect as its second argument. False: it never began.
   */
  begin(
    operation: DiskOperation,
    also: 'sync' | null,
    path: string,
    bytes: number,
    effect: (error: Error | null, second: Error | null) => Error | null,
    done: (error: Error | null) => void,
  ): boolean {
    const { life } = this;
    this.counts[operation]++;
    if (also !== null) this.counts[also]++;
    if (this.#halted) return false;
    this.watch?.(operation, path, 'before');
    if (this.life !== life || this.#halted) return false;
    const error = this.#injected(operation, path);
    const second = also === null ? null : this.#injected(also, path);
    const run = () => {
      if (this.life !== life || this.#halted) return;
      const failure = effect(error, second);
      this.watch?.(operation, path, 'after');
      if (this.life === life && !this.#halted) done(failure);
    };
    const isWriting = operation === 'write' || operation === 'sync';
    const task = () => {
      if (this.life !== life) return;
      if (this.#hung || (this.#stalled && isWriting)) this.#held.push({ task: run, isWriting });
      else run();
    };
    const { schedule } = this.#options;
    if (schedule === undefined) queueMicrotask(task);
    else schedule(task, operation, path, bytes, this.#duration(bytes));
    return true;
  }

  #injected(operation: DiskOperation, path: string): Error | null {
    const failing = this.#failing.get(operation);
    if (failing === undefined) return this.fault === null ? null : this.fault(operation, path);
    if (--failing.times === 0) this.#failing.delete(operation);
    return diskError(failing.code, path);
  }

  #duration(bytes: number): number {
    const { leastMilliseconds, mostMilliseconds, bytesPerMillisecond } = this.latency;
    const spread = mostMilliseconds - leastMilliseconds;
    const extra = spread > 0 && this.random !== null ? (this.random.integer(1024) / 1024) * spread : 0;
    return leastMilliseconds + extra + bytes / bytesPerMillisecond;
  }

  #run<T>(operation: DiskOperation, path: string, effect: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      let result: T;
      const take = (error: Error | null) => {
        if (error !== null) return error;
        try {
          result = effect();
          return null;
        } catch (failure) {
          return failure as Error;
        }
      };
      this.begin(operation, null, path, 0, take, (error) => (error === null ? resolve(result) : reject(error)));
    });
  }

  /** How many more bytes fit. */
  room(): number {
    return this.capacity === Infinity ? Infinity : Math.max(0, this.capacity - this.usedBytes());
  }

  #checkRoom(path: string): void {
    if (this.room() === 0) throw diskError('ENOSPC', path);
  }

  #folder(path: string): Folder {
    const folder = this.#folders.get(path);
    if (folder === undefined) throw diskError('ENOENT', path);
    return folder;
  }

  #forcedFolder(path: string): Folder {
    const known = this.#folders.get(path);
    if (known !== undefined) return known;
    const folder = new Folder();
    this.#forcedFolder(parentOf(path)).force(nameOf(path), 'folder');
    this.#folders.set(path, folder);
    return folder;
  }

  #inode(path: string): Inode {
    const node = this.#folder(parentOf(path)).seen.get(nameOf(path));
    if (!(node instanceof Inode)) throw diskError('ENOENT', path);
    return node;
  }

  #inodes(): Set<Inode> {
    const inodes = new Set<Inode>();
    for (const folder of this.#folders.values())
      for (const node of folder.seen.values()) if (node instanceof Inode) inodes.add(node);
    return inodes;
  }
}

class Handle implements DiskFile {
  readonly #disk: SimulatedDisk;
  readonly #inode: Inode;
  readonly #path: string;
  readonly #writable: boolean;
  readonly #life: number;
  #pending = 0;
  #closed = false;
  #whenIdle: (() => void) | null = null;
  #syncError: Error | null = null;

  constructor(disk: SimulatedDisk, inode: Inode, path: string, writable: boolean) {
    this.#disk = disk;
    this.#inode = inode;
    this.#path = path;
    this.#writable = writable;
    this.#life = disk.life;
  }

  get size(): number {
    return this.#inode.size;
  }

  write(buffers: readonly Uint8Array[], offset: number, done: (error: Error | null) => void): void {
    this.#write(buffers, offset, null, done);
  }

  writeDurably(buffers: readonly Uint8Array[], offset: number, done: (error: Error | null) => void): void {
    this.#write(buffers, offset, 'sync', done);
  }

  #write(
    buffers: readonly Uint8Array[],
    offset: number,
    also: 'sync' | null,
    done: (error: Error | null) => void,
  ): void {
    const refused = this.#refusal(true);
    const flight = { offset, buffers };
    let bytes = 0;
    for (const buffer of buffers) bytes += buffer.length;
    const effect = (error: Error | null, syncError: Error | null) =>
      refused ?? this.#landed(flight, bytes, error, also === null ? null : { error: syncError });
    const hasBegun = this.#begin('write', also, bytes, effect, done);
    // From now on a crash may find any part of it on the platter.
    if (hasBegun && refused === null) this.#inode.begin(flight);
  }

  /** The write is over. `durable`: it was to be durable, and what came in between. */
  #landed(flight: Flight, bytes: number, error: Error | null, durable: { error: Error | null } | null): Error | null {
    const inode = this.#inode;
    const growth = Math.max(0, flight.offset + bytes - inode.size);
    const room = growth === 0 ? Infinity : this.#disk.room();
    if (error !== null || growth > room) {
      // Of one that begins behind the end there may not even be room for what lies before it.
      inode.land(flight, error === null ? Math.max(0, bytes - growth + room) : bytes >> 1);
      return error ?? diskError('ENOSPC', this.#path);
    }
    const number = inode.land(flight);
    if (durable === null) return null;
    const failure = durable.error ?? this.#syncError;
    if (failure === null) inode.syncOne(number);
    else this.#syncFailed(failure, number);
    return failure;
  }

  sync(done: (error: Error | null) => void): void {
    const refused = this.#refusal(false);
    const covered = this.#inode.lastNumber;
    const effect = (error: Error | null) => {
      const failure = refused ?? error ?? this.#syncError;
      if (failure === null) this.#inode.sync(covered);
      else if (refused === null) this.#syncFailed(failure, covered);
      return failure;
    };
    this.#begin('sync', null, 0, effect, done);
  }

  #syncFailed(error: Error, upTo: number): void {
    if (this.#syncError === null) this.#inode.lose(upTo, this.#disk.random);
    this.#syncError ??= error;
  }

  read(offset: number, length: number, done: (error: Error | null, bytes: Buffer) => void): void {
    const refused = this.#refusal(false);
    let bytes = noBytes;
    const effect = (error: Error | null) => {
      const failure = refused ?? error;
      if (failure !== null) return failure;
      if (!this.#inode.canRead(offset, offset + length)) return diskError('EIO', this.#path);
      bytes = Buffer.from(this.#inode.view().subarray(offset, offset + length));
      return null;
    };
    this.#begin('read', null, length, effect, (error) => done(error, bytes));
  }

  truncate(length: number): Promise<void> {
    const refused = this.#refusal(true);
    return new Promise((resolve, reject) => {
      const effect = (error: Error | null) => {
        const failure = refused ?? error;
        if (failure === null) this.#inode.cut(length);
        return failure;
      };
      this.#begin('truncate', null, 0, effect, (error) => (error === null ? resolve() : reject(error)));
    });
  }

  /** Waits for what is under way, as the real one does. */
  close(): Promise<void> {
    this.#closed = true;
    if (this.#pending === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const before = this.#whenIdle;
      this.#whenIdle = () => {
        before?.();
        resolve();
      };
    });
  }

  #begin(
    operation: DiskOperation,
    also: 'sync' | null,
    bytes: number,
    effect: (error: Error | null, second: Error | null) => Error | null,
    done: (error: Error | null) => void,
  ): boolean {
    if (this.#isDead()) return false;
    this.#pending++;
    return this.#disk.begin(operation, also, this.#path, bytes, effect, (error) => {
      this.#pending--;
      done(error);
      if (this.#pending === 0) this.#whenIdle?.();
    });
  }

  #refusal(writing: boolean): Error | null {
    if (this.#closed) return diskError('EBADF', this.#path);
    return writing && !this.#writable ? diskError('EBADF', this.#path) : null;
  }

  #isDead(): boolean {
    return this.#disk.life !== this.#life;
  }
}
