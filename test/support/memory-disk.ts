// A disk in memory that knows what is durable and what is not. State owned: files (what a reader sees, and what is on the platter), folders
// likewise, faults to inject.
//
// Model
//   - a write is seen by readers when it completes and is durable when a sync that began later completes;
//   - creating, renaming and removing are durable after `syncFolder` of the parent, and only then (harsher than most file systems);
//   - `crash` keeps any part of what was not synced, in pieces of 512 bytes, also of writes whose completion nobody saw; lost pieces
//     below the new end of a file are zeros or garbage. Handles and pending callbacks of before die: nothing of them is heard again;
//   - `kill` is a process that dies: what was written stays readable, and stays not synced.
// Completions run through `schedule`, in the order in which a test or simulator runs them; the default is the microtask queue.

import type { Disk, DiskFile, Random } from '../../cluster/ports.ts';

const sectorBytes = 512;

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
  /** Runs a completion later. `bytes`: what was moved. Default: queueMicrotask. */
  readonly schedule?: (task: () => void, operation: DiskOperation, path: string, bytes: number) => void;
}

export interface MemoryDisk extends Disk {
  /** Power loss: everything that is not durable is lost in part or whole. Usable again at once, by new handles. */
  crash(random: Random): void;
  /** The process dies, the machine lives on. Writes on their way were done or not, by `random`; without it none was. */
  kill(random?: Random): void;
  /** The disk as one process sees it: dead for good after the next `crash` or `kill`, whatever its code still does. */
  mount(): Disk;
  /** Asked before every operation; an error makes it fail (a failed write leaves a part of it behind). Null: no faults. */
  fault: ((operation: DiskOperation, path: string) => Error | null) | null;
  /** While true, completions of `write` and `sync` are held back; setting it to false lets them go in order. */
  stalled: boolean;
  /** What a reader would see now. */
  contents(path: string): Buffer;
  /** Changes bytes in place, on the platter too: rot. */
  corrupt(path: string, offset: number, mask?: number): void;
  /** Names with sizes, for messages and bounds. */
  paths(): { path: string; bytes: number }[];
  readonly counts: Record<DiskOperation, number>;
}

export function diskError(code: string, path: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${path}`), { code });
}

interface PendingWrite {
  readonly offset: number;
  /** Null: the file was cut to `offset`. */
  readonly bytes: Buffer | null;
  /** Readers see it. */
  seen: boolean;
}

/** Bytes that grow. */
class Image {
  bytes = Buffer.alloc(0);
  size = 0;

  apply({ offset, bytes }: Pick<PendingWrite, 'offset' | 'bytes'>): void {
    if (bytes === null) {
      if (offset < this.size) this.bytes.fill(0, offset, this.size);
      this.#reserve(offset);
      this.size = offset;
      return;
    }
    this.#reserve(offset + bytes.length);
    bytes.copy(this.bytes, offset);
    this.size = Math.max(this.size, offset + bytes.length);
  }

  view(): Buffer {
    return this.bytes.subarray(0, this.size);
  }

  #reserve(size: number): void {
    if (size <= this.bytes.length) return;
    const larger = Buffer.alloc(Math.max(size, this.bytes.length * 2, 4096));
    this.bytes.copy(larger, 0, 0, this.size);
    this.bytes = larger;
  }
}

class Inode {
  readonly seen = new Image();
  readonly durable = new Image();
  /** Not durable yet, in order. */
  pending: PendingWrite[] = [];
}

type Node = Inode | 'folder';

/** One change of a folder, of names to nodes (null: the name is gone). */
type NameChange = readonly (readonly [name: string, node: Node | null])[];

class Folder {
  readonly seen = new Map<string, Node>();
  readonly durable = new Map<string, Node>();
  pending: NameChange[] = [];

  change(change: NameChange): void {
    applyNames(this.seen, change);
    this.pending.push(change);
  }
}

function applyNames(names: Map<string, Node>, change: NameChange): void {
  for (const [name, node] of change) {
    if (node === null) names.delete(name);
    else names.set(name, node);
  }
}

const parentOf = (path: string) => (path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '');
const nameOf = (path: string) => path.slice(path.lastIndexOf('/') + 1);

export function createMemoryDisk(options: MemoryDiskOptions = {}): MemoryDisk {
  return new SimulatedDisk(options);
}

class SimulatedDisk implements MemoryDisk {
  fault: MemoryDisk['fault'] = null;
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
  readonly #schedule: NonNullable<MemoryDiskOptions['schedule']>;
  readonly #folders = new Map<string, Folder>([['', new Folder()]]);
  #stalled = false;
  #held: (() => void)[] = [];

  constructor(options: MemoryDiskOptions) {
    this.#schedule = options.schedule ?? ((task) => queueMicrotask(task));
  }

  get stalled(): boolean {
    return this.#stalled;
  }
  set stalled(value: boolean) {
    this.#stalled = value;
    if (value) return;
    for (const task of this.#held.splice(0)) task();
  }

  // ---- Disk ----

  makeFolder(path: string): Promise<void> {
    return this.#run('makeFolder', path, 0, () => {
      if (path === '' || this.#folders.has(path)) return;
      this.#folder(parentOf(path)).change([[nameOf(path), 'folder']]);
      this.#folders.set(path, new Folder());
    });
  }

  list(path: string): Promise<string[]> {
    return this.#run('list', path, 0, () => [...this.#folder(path).seen.keys()].sort());
  }

  open(path: string, mode: 'read' | 'write' | 'create'): Promise<DiskFile> {
    return this.#run('open', path, 0, () => {
      const folder = this.#folder(parentOf(path));
      let inode = folder.seen.get(nameOf(path));
      if (mode === 'create') {
        if (inode !== undefined) throw diskError('EEXIST', path);
        inode = new Inode();
        folder.change([[nameOf(path), inode]]);
      }
      if (inode === undefined) throw diskError('ENOENT', path);
      if (inode === 'folder') throw diskError('EISDIR', path);
      return new Handle(this, inode, path, mode !== 'read');
    });
  }

  readFile(path: string): Promise<Buffer | null> {
    return this.#run('readFile', path, 0, () => {
      const inode = this.#folders.get(parentOf(path))?.seen.get(nameOf(path));
      return inode instanceof Inode ? Buffer.from(inode.seen.view()) : null;
    });
  }

  rename(from: string, to: string): Promise<void> {
    return this.#run('rename', from, 0, () => {
      if (parentOf(from) !== parentOf(to)) throw diskError('EXDEV', to);
      const folder = this.#folder(parentOf(from));
      const inode = folder.seen.get(nameOf(from));
      if (inode === undefined) throw diskError('ENOENT', from);
      folder.change([
        [nameOf(from), null],
        [nameOf(to), inode],
      ]);
    });
  }

  remove(path: string): Promise<void> {
    return this.#run('remove', path, 0, () => {
      const folder = this.#folder(parentOf(path));
      const node = folder.seen.get(nameOf(path));
      if (node === undefined) throw diskError('ENOENT', path);
      if (node === 'folder' && this.#folder(path).seen.size > 0) throw diskError('ENOTEMPTY', path);
      folder.change([[nameOf(path), null]]);
      if (node === 'folder') this.#folders.delete(path);
    });
  }

  syncFolder(path: string): Promise<void> {
    return this.#run('syncFolder', path, 0, () => {
      const folder = this.#folder(path);
      for (const change of folder.pending) applyNames(folder.durable, change);
      folder.pending = [];
    });
  }

  // ---- faults ----

  mount(): Disk {
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
    };
  }

  crash(random: Random): void {
    this.#end();
    for (const folder of this.#folders.values()) crashFolder(folder, random);
    const inodes = new Set<Inode>();
    for (const folder of this.#folders.values())
      for (const node of folder.seen.values()) if (node instanceof Inode) inodes.add(node);
    for (const inode of inodes) crashInode(inode, random);
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
    for (const folder of this.#folders.values())
      for (const inode of folder.seen.values()) {
        if (!(inode instanceof Inode)) continue;
        inode.pending = inode.pending.filter((change) => {
          if (change.seen || random === undefined || random.integer(2) === 0) return change.seen;
          inode.seen.apply(change);
          change.seen = true;
          return true;
        });
      }
  }

  #end(): void {
    this.life++;
    this.#held = [];
    this.#stalled = false;
  }

  contents(path: string): Buffer {
    return Buffer.from(this.#inode(path).seen.view());
  }

  corrupt(path: string, offset: number, mask = 0xff): void {
    const { seen, durable } = this.#inode(path);
    for (const image of [seen, durable]) if (offset < image.size) image.bytes[offset]! ^= mask;
  }

  paths(): { path: string; bytes: number }[] {
    const found: { path: string; bytes: number }[] = [];
    for (const [path, folder] of this.#folders)
      for (const [name, node] of folder.seen)
        if (node instanceof Inode) found.push({ path: path === '' ? name : `${path}/${name}`, bytes: node.seen.size });
    return found;
  }

  // ---- for handles ----

  /** Counts, asks for a fault, and runs `complete` when the scheduler says so, unless the disk crashed meanwhile. */
  begin(operation: DiskOperation, path: string, bytes: number, complete: (error: Error | null) => void): void {
    this.counts[operation]++;
    const error = this.fault?.(operation, path) ?? null;
    const { life } = this;
    const run = () => {
      if (this.life === life) complete(error);
    };
    const task = () => {
      if (this.#stalled && (operation === 'write' || operation === 'sync')) this.#held.push(run);
      else run();
    };
    this.#schedule(task, operation, path, bytes);
  }

  #run<T>(operation: DiskOperation, path: string, bytes: number, effect: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      this.begin(operation, path, bytes, (error) => {
        if (error !== null) return reject(error);
        try {
          resolve(effect());
        } catch (failure) {
          reject(failure);
        }
      });
    });
  }

  #folder(path: string): Folder {
    const folder = this.#folders.get(path);
    if (folder === undefined) throw diskError('ENOENT', path);
    return folder;
  }

  #inode(path: string): Inode {
    const node = this.#folder(parentOf(path)).seen.get(nameOf(path));
    if (!(node instanceof Inode)) throw diskError('ENOENT', path);
    return node;
  }
}

class Handle implements DiskFile {
  readonly #disk: SimulatedDisk;
  readonly #inode: Inode;
  readonly #path: string;
  readonly #writable: boolean;
  readonly #life: number;
  #closed = false;
  #syncError: Error | null = null;

  constructor(disk: SimulatedDisk, inode: Inode, path: string, writable: boolean) {
    this.#disk = disk;
    this.#inode = inode;
    this.#path = path;
    this.#writable = writable;
    this.#life = disk.life;
  }

  get size(): number {
    return this.#inode.seen.size;
  }

  write(buffers: readonly Uint8Array[], offset: number, done: (error: Error | null) => void): void {
    if (this.#isDead()) return;
    const bytes = Buffer.concat(buffers);
    const change: PendingWrite = { offset, bytes, seen: false };
    // From now on a crash may find any part of it on the platter.
    this.#inode.pending.push(change);
    this.#disk.begin('write', this.#path, bytes.length, (error) => {
      const refused = this.#refusal(true);
      if (error !== null || refused !== null) {
        this.#inode.pending = this.#inode.pending.filter((other) => other !== change);
        const part = { offset, bytes: bytes.subarray(0, bytes.length >> 1), seen: true };
        if (refused === null) {
          this.#inode.pending.push(part);
          this.#inode.seen.apply(part);
        }
        return done(error ?? refused);
      }
      this.#inode.seen.apply(change);
      change.seen = true;
      done(null);
    });
  }

  writeDurably(buffers: readonly Uint8Array[], offset: number, done: (error: Error | null) => void): void {
    this.write(buffers, offset, (error) => (error === null ? this.sync(done) : done(error)));
  }

  sync(done: (error: Error | null) => void): void {
    if (this.#isDead()) return;
    const covered = this.#inode.pending.filter((change) => change.seen);
    this.#disk.begin('sync', this.#path, 0, (error) => {
      const failure = error ?? this.#syncError ?? this.#refusal(false);
      if (failure !== null) {
        this.#syncError = failure;
        return done(failure);
      }
      for (const change of covered) this.#inode.durable.apply(change);
      const durable = new Set(covered);
      this.#inode.pending = this.#inode.pending.filter((change) => !durable.has(change));
      done(null);
    });
  }

  read(offset: number, length: number, done: (error: Error | null, bytes: Buffer) => void): void {
    if (this.#isDead()) return;
    this.#disk.begin('read', this.#path, length, (error) => {
      const failure = error ?? this.#refusal(false);
      if (failure !== null) return done(failure, Buffer.alloc(0));
      done(null, Buffer.from(this.#inode.seen.view().subarray(offset, offset + length)));
    });
  }

  truncate(length: number): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#isDead()) return;
      this.#disk.begin('truncate', this.#path, 0, (error) => {
        const failure = error ?? this.#refusal(true);
        if (failure !== null) return reject(failure);
        const change = { offset: length, bytes: null, seen: true };
        this.#inode.pending.push(change);
        this.#inode.seen.apply(change);
        resolve();
      });
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #refusal(writing: boolean): Error | null {
    if (this.#closed) return diskError('EBADF', this.#path);
    return writing && !this.#writable ? diskError('EBADF', this.#path) : null;
  }

  #isDead(): boolean {
    return this.#disk.life !== this.#life;
  }
}

// ---- what a crash leaves ----

function crashFolder(folder: Folder, random: Random): void {
  // A journal keeps a prefix; without one any change may be there or not.
  const keepPrefix = random.integer(2) === 0;
  const prefix = random.integer(folder.pending.length + 1);
  folder.pending.forEach((change, i) => {
    if (keepPrefix ? i < prefix : random.integer(2) === 0) applyNames(folder.durable, change);
  });
  folder.pending = [];
  folder.seen.clear();
  for (const [name, node] of folder.durable) folder.seen.set(name, node);
}

function crashInode(inode: Inode, random: Random): void {
  const { durable, seen } = inode;
  // 0: nothing survives, 1: all, 2: a prefix, torn in its last write, 3: any sectors.
  const mode = random.integer(4);
  const cut = random.integer(inode.pending.length + 1);
  const garbage = random.integer(2) === 0;
  inode.pending.forEach((change, i) => {
    if (mode === 0 || (mode === 2 && i > cut)) return;
    if (change.bytes === null) {
      if (mode !== 3 || random.integer(2) === 0) durable.apply(change);
    } else if (mode === 1 || (mode === 2 && i < cut)) durable.apply(change);
    else applySectors(durable, change.offset, change.bytes, mode === 2, garbage, random);
  });
  inode.pending = [];
  seen.bytes = Buffer.from(durable.view());
  seen.size = durable.size;
}

/** Keeps some sectors of a write: the first ones (`inOrder`) or any. */
function applySectors(
  image: Image,
  offset: number,
  bytes: Buffer,
  inOrder: boolean,
  garbage: boolean,
  random: Random,
): void {
  const first = Math.floor(offset / sectorBytes);
  const last = Math.floor((offset + bytes.length - 1) / sectorBytes);
  const kept = random.integer(last - first + 2);
  for (let sector = first; sector <= last; sector++) {
    const from = Math.max(offset, sector * sectorBytes);
    const to = Math.min(offset + bytes.length, (sector + 1) * sectorBytes);
    const keep = inOrder ? sector - first < kept : random.integer(2) === 0;
    if (keep) image.apply({ offset: from, bytes: bytes.subarray(from - offset, to - offset) });
    else if (garbage && from >= image.size) image.apply({ offset: from, bytes: random.bytes(to - from) });
  }
}
