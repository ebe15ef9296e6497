// An append stream of many groups: gathers records, writes them, syncs, tells who waits; seals full files and has the next one ready.
//
//   gather ──► write (one gathered write) ──► sync ──► done callbacks ──► [file full: footer, sync, sealed] ──► next gathered batch
//
// A node has one for what must last, and one for its volatile groups: that one syncs nothing and writes no footers, so "durable" means
// written there. They share no file: a plain write in front of a durable one would have to be synced with it, and a torn one in the middle
// of a file would look like damage.
//
// State owned: the batches not yet durable, the file being written and the prepared one after it.
// Invariants:
//   - one batch is on its way at a time, and it is written only when everything before it is durable; so each record can state its
//     batch's offset as "synced before";
//   - a file is written to only when its name and header are durable and the file before it is sealed;
//   - payloads are never copied; headers of a batch lie in its own slab, which is used again once the batch is durable;
//   - after the first error nothing more is written, and no callback runs.

import { crc32 } from 'node:zlib';
import type { Clock, Disk, DiskFile } from '../ports.ts';
import {
  type EntryKind,
  encodeFileHeader,
  FileKind,
  fileHeaderBytes,
  type RecordKind,
  recordHeaderBytes,
  viewOf,
  writeRecordHeader,
} from './codec.ts';
import { LogFile, logFolder } from './files.ts';
import type { GroupLog } from './group.ts';
import { TimeHistogram } from './time-histogram.ts';
import { syncFile, writeAll } from './whole-files.ts';

const slabBytes = 64 * 1024;
const slabsKeptMax = 8;

export interface Identity {
  readonly clusterId: string;
  readonly nodeUuid: string;
}

/** Who makes files. */
export interface FileOwner extends Identity {
  /** Of the manifest, as far as all its copies are durable. */
  generation(): number;
}

export interface WriterEvents {
  /** A file is full; nothing of the next one was gathered yet. What it returns comes back with `sealed`. */
  rotating(file: LogFile): unknown;
  /** A file's footer is durable. */
  sealed(file: LogFile, captured: unknown): void;
  opened(file: LogFile): void;
  /** More became durable; its callbacks are about to run. */
  durable(): void;
  failed(error: Error): void;
}

interface Slab {
  readonly bytes: Buffer;
  readonly view: DataView;
}

class Batch {
  readonly file: LogFile;
  readonly offset: number;
  readonly buffers: Uint8Array[] = [];
  readonly callbacks: (() => void)[] = [];
  readonly marks = new Map<GroupLog, { readonly index: number; readonly epoch: number }>();
  readonly slabs: Slab[] = [];
  slab: Slab | null = null;
  /** Headers in [sliceStart, slabEnd) of the slab are not in `buffers` yet. */
  sliceStart = 0;
  slabEnd = 0;
  bytes = 0;
  /** The file ends here; with this footer, if it is not volatile. */
  isLast = false;
  footer: Buffer | null = null;
  captured: unknown = null;

  constructor(file: LogFile, offset: number) {
    this.file = file;
    this.offset = offset;
  }

  closeSlice(): void {
    if (this.slabEnd > this.sliceStart) this.buffers.push(this.slab!.bytes.subarray(this.sliceStart, this.slabEnd));
    this.sliceStart = this.slabEnd;
  }
}

export class Writer {
  readonly #disk: Disk;
  readonly #clock: Clock;
  readonly #identity: FileOwner;
  readonly #kind: FileKind;
  readonly #fileBytesMax: number;
  readonly #nextSequence: () => number;
  readonly #events: WriterEvents;
  readonly #spareSlabs: Slab[] = [];
  #active!: LogFile;
  #next!: LogFile;
  /** Batches in order; the last one gathers. */
  #queue: Batch[] = [];
  #busy = false;
  #writing = false;
  #failed = false;
  #stopped = false;
  #whenIdle: (() => void)[] = [];
  /** Files are prepared one after the other, so that only the last can be unfinished after a crash. */
  #preparing: Promise<void> = Promise.resolve();
  /** Gathered, and not written yet. */
  waitingBytes = 0;
  /** Gathered since the start. */
  appendedBytes = 0;
  /** The end of what is durable of the file that is being written. */
  readonly durable = { sequence: 0, bytes: 0 };
  syncs = 0;
  lastSyncMilliseconds = 0;
  /** How long batches took from their write until they were durable. */
  readonly writeTimes = new TimeHistogram();

  constructor(
    disk: Disk,
    clock: Clock,
    identity: FileOwner,
    kind: FileKind,
    fileBytesMax: number,
    nextSequence: () => number,
    events: WriterEvents,
  ) {
    this.#disk = disk;
    this.#clock = clock;
    this.#identity = identity;
    this.#kind = kind;
    this.#fileBytesMax = fileBytesMax;
    this.#nextSequence = nextSequence;
    this.#events = events;
  }

  /** Creates the first file. `previous`: sequence of the last log file before it, 0 for none. */
  async start(previous: number): Promise<void> {
    const file = this.#newFile();
    await this.#create(file, previous);
    this.#begin(file);
  }

  /** Records can be gathered at once; they are written when the first file is there. */
  startVolatile(): void {
    this.#begin(this.#prepare(0));
  }

  #begin(file: LogFile): void {
    this.#active = file;
    this.#events.opened(file);
    this.#queue.push(new Batch(file, file.bytes));
    this.#next = this.#prepare(file.sequence);
  }

  get active(): LogFile {
    return this.#active;
  }
  get writeInFlight(): boolean {
    return this.#writing;
  }

  // ---- gathering ----

  /** Makes room for a record; begins the next file when this one is full. After it `active` is where the record goes. */
  reserve(payloadBytes: number): void {
    const { bytes, isEmpty } = this.#active;
    if (!isEmpty && bytes + recordHeaderBytes + payloadBytes > this.#fileBytesMax) this.rotate();
  }

  /** Gathers one record into `active`; `reserve` was called for it. Returns its offset. */
  record(
    kind: RecordKind,
    entryKind: EntryKind,
    group: number,
    replica: number,
    index: number,
    term: number,
    previous: number,
    stamp: number,
    stateHash: number,
    machineVersion: number,
    payload: Buffer | null,
    checksum: number,
  ): number {
    const batch = this.#queue[this.#queue.length - 1]!;
    if (batch.slab === null || batch.slabEnd + recordHeaderBytes > slabBytes) this.#newSlab(batch);
    const { bytes, view } = batch.slab!;
    const file = this.#active;
    const offset = file.bytes;
    const length = payload === null ? 0 : payload.length;
    writeRecordHeader(
      bytes,
      view,
      batch.slabEnd,
      file.salt,
      kind,
      entryKind,
      group,
      replica,
      index,
      term,
      previous,
      stamp,
      stateHash,
      machineVersion,
      length,
      checksum,
      batch.offset,
    );
    batch.slabEnd += recordHeaderBytes;
    if (length > 0) {
      batch.closeSlice();
      batch.buffers.push(payload!);
    }
    batch.bytes += recordHeaderBytes + length;
    this.waitingBytes += recordHeaderBytes + length;
    this.appendedBytes += recordHeaderBytes + length;
    file.bytes = offset + recordHeaderBytes + length;
    return offset;
  }

  /** When what is gathered now is durable, so is the group's log up to its present end. */
  mark(group: GroupLog): void {
    const batch = this.#queue[this.#queue.length - 1]!;
    batch.marks.set(group, { index: group.lastIndex, epoch: group.epoch });
  }

  /** `done` runs when everything gathered so far is durable. */
  notify(done: () => void): void {
    this.#queue[this.#queue.length - 1]!.callbacks.push(done);
  }

  /** Ends the active file here if its records hold as much on the disk as a whole file has: a node that is only sent snapshots writes no such file. */
  release(): void {
    if (this.#failed || this.#active.committedBytes < this.#fileBytesMax) return;
    this.rotate();
    this.kick();
  }

  /** Ends the active file here. It must not be empty. */
  rotate(): void {
    const file = this.#active;
    const batch = this.#queue[this.#queue.length - 1]!;
    batch.isLast = true;
    if (this.#kind === FileKind.volatile) file.index.finish();
    else batch.footer = file.encodeFooter();
    batch.captured = this.#events.rotating(file);
    this.#begin(this.#next);
  }

  // ---- writing ----

  /** Starts a write if none is on its way and there is something to do. */
  kick(): void {
    if (this.#busy || this.#failed) return;
    const batch = this.#queue[0]!;
    if (batch.bytes === 0 && batch.callbacks.length === 0 && !batch.isLast) {
      for (const waiter of this.#whenIdle.splice(0)) waiter();
      return;
    }
    if (batch.file.handle === null) return; // being prepared; kicks again when it is there
    this.#busy = true;
    this.#queue.shift();
    if (this.#queue.length === 0) this.#queue.push(new Batch(batch.file, batch.file.bytes));
    if (batch.bytes === 0) this.#clock.soon(() => this.#durable(batch));
    else this.#write(batch);
  }

  #write(batch: Batch): void {
    const handle = batch.file.handle!;
    const started = this.#clock.now();
    batch.closeSlice();
    this.#writing = true;
    const written = (error: Error | null) => {
      if (error !== null) return this.#fail(error);
      this.#writing = false;
      this.syncs++;
      this.lastSyncMilliseconds = this.#clock.now() - started;
      this.writeTimes.add(this.lastSyncMilliseconds);
      this.#durable(batch);
    };
    if (this.#kind === FileKind.volatile) handle.write(batch.buffers, batch.offset, written);
    else handle.writeDurably(batch.buffers, batch.offset, written);
  }

  #durable(batch: Batch): void {
    if (this.#failed) return;
    this.waitingBytes -= batch.bytes;
    // One that only tells says nothing of a file that holds no record yet: nobody would miss that one.
    if (batch.bytes > 0) {
      this.durable.sequence = batch.file.sequence;
      this.durable.bytes = batch.offset + batch.bytes;
    }
    for (const [group, mark] of batch.marks) {
      group.isDurable = true;
      group.replaced = null;
      if (group.epoch !== mark.epoch) continue;
      group.durableIndex = mark.index;
      group.durableEpoch = mark.epoch;
    }
    this.#events.durable();
    for (const slab of batch.slabs) if (this.#spareSlabs.length < slabsKeptMax) this.#spareSlabs.push(slab);
    for (let i = 0; i < batch.callbacks.length; i++) batch.callbacks[i]!();
    if (!batch.isLast) return this.#goOn();
    const { file, footer } = batch;
    const sealed = () => {
      file.sealed = true;
      this.#events.sealed(file, batch.captured);
      this.#goOn();
    };
    if (footer === null) return sealed();
    const handle = file.handle!;
    const at = batch.offset + batch.bytes;
    this.#writing = true;
    handle.write([footer], at, (error) => {
      if (error !== null) return this.#fail(error);
      handle.sync((failure) => {
        if (failure !== null) return this.#fail(failure);
        this.#writing = false;
        this.syncs++;
        file.bytes = at + footer.length;
        sealed();
      });
    });
  }

  #goOn(): void {
    this.#busy = false;
    this.kick();
  }

  #fail(error: Error): void {
    if (this.#failed) return;
    this.halt();
    this.#events.failed(error);
  }

  /** Stops at once, as after an error of its own. */
  halt(): void {
    this.#failed = true;
    for (const waiter of this.#whenIdle.splice(0)) waiter();
  }

  // ---- files ----

  #newFile(): LogFile {
    const sequence = this.#nextSequence();
    return newLogFile(this.#identity, sequence, this.#kind, this.#clock.wall());
  }

  #prepare(previous: number): LogFile {
    const file = this.#newFile();
    this.#preparing = this.#preparing
      .then(() => (this.#stopped || this.#failed ? undefined : this.#create(file, previous)))
      .then(
        () => this.kick(),
        (error: Error) => this.#fail(error),
      );
    return file;
  }

  async #create(file: LogFile, previous: number): Promise<void> {
    const handle = await createLogFile(this.#disk, this.#identity, file, previous);
    if (this.#kind !== FileKind.volatile) await this.#disk.syncFolder(logFolder);
    file.handle = handle;
  }

  #newSlab(batch: Batch): void {
    batch.closeSlice();
    let slab = this.#spareSlabs.pop();
    if (slab === undefined) {
      const bytes = Buffer.allocUnsafeSlow(slabBytes);
      slab = { bytes, view: viewOf(bytes) };
    }
    batch.slabs.push(slab);
    batch.slab = slab;
    batch.sliceStart = 0;
    batch.slabEnd = 0;
  }

  /** Writes all that is gathered and the open file's footer; closes and removes the files that hold nothing. */
  async close(): Promise<void> {
    if (this.#failed) return;
    if (!this.#active.isEmpty) this.rotate();
    await new Promise<void>((resolve) => {
      this.#whenIdle.push(resolve);
      this.kick();
    });
    this.#stopped = true;
    await this.#preparing;
    if (this.#failed) return;
    for (const file of [this.#next, this.#active]) {
      if (file.handle === null) continue;
      await file.handle.close();
      file.handle = null;
      await this.#disk.remove(file.path);
    }
  }
}

/** The salt differs for every file that ever was, also for one whose creation was lost in a crash and that is made again. */
export function newLogFile(identity: Identity, sequence: number, kind: FileKind, wall: number): LogFile {
  const salt = crc32(`${identity.clusterId}/${identity.nodeUuid}/${sequence}/${wall}`);
  return new LogFile(sequence, kind, salt, fileHeaderBytes(identity));
}

/** Creates the file on disk and syncs its header, but for a volatile one; its name is durable only after the folder was synced. */
export async function createLogFile(disk: Disk, owner: FileOwner, file: LogFile, previous: number): Promise<DiskFile> {
  const { clusterId, nodeUuid } = owner;
  const { kind, sequence, salt } = file;
  const header = encodeFileHeader({
    clusterId,
    nodeUuid,
    kind,
    sequence,
    previous,
    salt,
    generation: owner.generation(),
  });
  const handle = await disk.open(file.path, 'create');
  try {
    await writeAll(handle, [header], 0);
    if (file.kind !== FileKind.volatile) await syncFile(handle);
    return handle;
  } catch (error) {
    await handle.close().catch(() => {});
    throw error;
  }
}
