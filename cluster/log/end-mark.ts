// How far the log was durable, written down beside it every few seconds. The end of a log cannot vouch for itself: one that was cut there, or
// put back as it was some time ago, looks like one that a crash tore. What was durable at the last mark is missed when it is gone.
//
//   file `end`: two slots, 512 bytes apart, written in turn; of each 0 u32 magic 'WREM' | 4 u32 crc32 of bytes 8..24 | 8 u64 sequence of the
//   log file | 16 u64 its durable bytes
//
// State owned: the open file, and what was marked last. A mark is never ahead of what is durable; one that cannot be read says nothing.

import { crc32 } from 'node:zlib';
import type { Disk, DiskFile } from '../ports.ts';
import { readU64, viewOf, writeU64 } from './codec.ts';

export const endMarkPath = 'end';
const magic = 0x4d455257;
const slotBytes = 24;
const slotDistance = 512;

export interface LogEnd {
  readonly sequence: number;
  readonly bytes: number;
}

const nothing: LogEnd = { sequence: 0, bytes: 0 };

export const laterEnd = (a: LogEnd, b: LogEnd): LogEnd =>
  a.sequence > b.sequence || (a.sequence === b.sequence && a.bytes > b.bytes) ? a : b;

/** The latest mark that can be read. */
export async function readEndMark(disk: Disk): Promise<LogEnd> {
  const bytes = await disk.readFile(endMarkPath).catch(() => null);
  if (bytes === null) return nothing;
  return laterEnd(...slotsOf(bytes));
}

function slotsOf(bytes: Buffer): [LogEnd, LogEnd] {
  const slot = (at: number) => readSlot(bytes.subarray(at, at + slotBytes));
  return [slot(0), slot(slotDistance)];
}

function readSlot(slot: Buffer): LogEnd {
  const isWhole =
    slot.length === slotBytes && slot.readUInt32LE(0) === magic && slot.readUInt32LE(4) === crc32(slot.subarray(8));
  return isWhole ? { sequence: readU64(viewOf(slot), 8), bytes: readU64(viewOf(slot), 16) } : nothing;
}

export class EndMark {
  readonly #disk: Disk;
  readonly #failed: (error: Error) => void;
  #file: DiskFile | null = null;
  #marked = nothing;
  #slot = 0;
  #writing = false;

  constructor(disk: Disk, failed: (error: Error) => void) {
    this.#disk = disk;
    this.#failed = failed;
  }

  /** Opens the file, or makes it. */
  async start(): Promise<void> {
    try {
      this.#file = await this.#disk.open(endMarkPath, 'write');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      this.#file = await this.#disk.open(endMarkPath, 'create');
      await this.#disk.syncFolder('');
    }
    // The other slot stays as it is: it may be the only one that is whole.
    const bytes = await this.#disk.readFile(endMarkPath).catch(() => null);
    const [first, second] = slotsOf(bytes ?? Buffer.alloc(0));
    this.#slot = laterEnd(first, second) === first ? 1 : 0;
  }

  /** All up to here is durable. Without room for it the mark stays where it is. */
  write({ sequence, bytes }: LogEnd): void {
    if (this.#writing || this.#file === null || laterEnd(this.#marked, { sequence, bytes }) === this.#marked) return;
    this.#writing = true;
    this.#marked = { sequence, bytes };
    const slot = Buffer.alloc(slotBytes);
    const view = viewOf(slot);
    view.setUint32(0, magic, true);
    writeU64(view, 8, sequence);
    writeU64(view, 16, bytes);
    view.setUint32(4, crc32(slot.subarray(8)), true);
    this.#file.writeDurably([slot], this.#slot * slotDistance, (error) => {
      this.#writing = false;
      this.#slot = 1 - this.#slot;
      if (error !== null && (error as NodeJS.ErrnoException).code !== 'ENOSPC') this.#failed(error);
    });
  }

  async close(): Promise<void> {
    const file = this.#file;
    this.#file = null;
    await file?.close();
  }
}
