// One file of the disk in memory: what readers see, and what it takes to go back to what is durable. State owned: the bytes, and the changes
// that are not durable yet.
//
// Bytes are copied once, when a write completes; until then they are its owner's. A change remembers only what it covered up, which of a
// file that is appended to is nothing. A crash takes all changes back, last one first, and then puts in what survives of them.

import type { Random } from '../../../cluster/ports.ts';

/** A change that readers see. */
interface Change {
  readonly number: number;
  readonly offset: number;
  /** Bytes written; -1: the file was cut to `offset`. */
  readonly length: number;
  readonly sizeBefore: number;
  /** What was there: from `offset`, as far as the file went. */
  readonly before: Buffer | null;
  isDurable: boolean;
}

/** A write that has begun: a crash may find any part of it. */
export interface Flight {
  readonly offset: number;
  readonly buffers: readonly Uint8Array[];
}

/** A change, and its bytes (null: a cut). */
interface Taken {
  readonly offset: number;
  readonly bytes: Buffer | null;
  readonly isDurable: boolean;
  readonly number: number;
}

/** What survives of changes that were not durable. */
export interface Survival {
  readonly mode: 'nothing' | 'all' | 'prefix' | 'sectors';
  readonly sectorBytes: number;
  /** Lost sectors at the new end of a file hold garbage instead of zeros. */
  readonly garbage: boolean;
}

export function drawSurvival(random: Random): Survival {
  const mode = (['nothing', 'all', 'prefix', 'sectors'] as const)[random.integer(4)]!;
  return { mode, sectorBytes: random.integer(3) === 0 ? 4096 : 512, garbage: random.integer(2) === 0 };
}

export class Inode {
  #bytes = Buffer.alloc(0);
  size = 0;
  /** In the order in which readers saw them. The first is not durable, those behind it may be. */
  #changes: Change[] = [];
  readonly #flights = new Set<Flight>();
  #lastNumber = 0;
  /** Parts that cannot be read, [from, to). */
  #unreadable: { from: number; to: number }[] = [];

  view(): Buffer {
    return this.#bytes.subarray(0, this.size);
  }

  /** The number of the last change that readers see. */
  get lastNumber(): number {
    return this.#lastNumber;
  }

  /** Bytes from the start of the file that no crash takes away. */
  get syncedBytes(): number {
    let synced = this.size;
    for (const { offset, isDurable } of this.#changes) if (!isDurable) synced = Math.min(synced, offset);
    return synced;
  }

  begin(flight: Flight): void {
    this.#flights.add(flight);
  }

  /** The write is over, and readers see this many bytes of it. Returns its number. */
  land(flight: Flight, bytesMax = Number.MAX_SAFE_INTEGER): number {
    this.#flights.delete(flight);
    const { offset, buffers } = flight;
    let length = 0;
    for (const buffer of buffers) length += buffer.length;
    length = Math.min(length, bytesMax);
    if (length === 0) return 0;
    this.#cover(offset, length);
    let at = offset;
    for (const buffer of buffers) {
      const left = offset + length - at;
      if (left <= 0) break;
      this.#bytes.set(buffer.length <= left ? buffer : buffer.subarray(0, left), at);
      at += buffer.length;
    }
    this.#unreadable = this.#unreadable.filter(({ from, to }) => to <= offset || from >= offset + length);
    return this.#lastNumber;
  }

  cut(length: number): void {
    const before = length < this.size ? Buffer.from(this.#bytes.subarray(length, this.size)) : null;
    this.#add({ offset: length, length: -1, before });
    if (before !== null) this.#bytes.fill(0, length, this.size);
    this.#reserve(length);
    this.size = length;
  }

  /** Makes the changes up to this one durable. */
  sync(upTo: number): void {
    for (const change of this.#changes) if (change.number <= upTo) change.isDurable = true;
    this.#prune();
  }

  /** Makes one change durable, and none before it. */
  syncOne(number: number): void {
    for (const change of this.#changes) if (change.number === number) change.isDurable = true;
    this.#prune();
  }

  /** A sync failed: the changes up to this one are lost, or parts of them, and no later sync brings them back. */
  lose(upTo: number, random: Random | null): void {
    const taken = this.#takeBack();
    const survival: Survival =
      random === null ? { mode: 'nothing', sectorBytes: 512, garbage: false } : drawSurvival(random);
    for (const change of taken) {
      if (!change.isDurable && change.number <= upTo) this.#survive(change, survival, random);
      else {
        const number = this.#apply(change);
        if (change.isDurable) this.syncOne(number);
      }
    }
  }

  /** The process died: each write under way was done or not; without `random` none was. */
  endFlights(random: Random | null): void {
    for (const flight of [...this.#flights]) {
      if (random !== null && random.integer(2) === 0) this.land(flight);
      else this.#flights.delete(flight);
    }
  }

  /** Power loss. What is left is durable. */
  crash(random: Random): void {
    if (this.#changes.length === 0 && this.#flights.size === 0) return;
    const taken = this.#takeBack();
    for (const { offset, buffers } of this.#flights)
      taken.push({ offset, bytes: Buffer.concat(buffers), isDurable: false, number: 0 });
    this.#flights.clear();
    const survival = drawSurvival(random);
    const cut = random.integer(taken.length + 1);
    taken.forEach((change, i) => {
      if (change.isDurable) this.#apply(change);
      else if (survival.mode !== 'prefix' || i === cut) this.#survive(change, survival, random);
      else if (i < cut) this.#apply(change);
    });
    this.#changes = [];
  }

  /** Other bytes, in the eyes of readers and on the platter. */
  put(bytes: Buffer): void {
    this.#bytes = Buffer.from(bytes);
    this.size = bytes.length;
    this.#changes = [];
    this.#unreadable = [];
  }

  flip(offset: number, mask: number): void {
    if (offset < this.size) this.#bytes[offset]! ^= mask;
  }

  patch(offset: number, bytes: Buffer): void {
    bytes.copy(this.#bytes, offset, 0, Math.min(bytes.length, this.size - offset));
  }

  makeUnreadable(from: number, to: number): void {
    this.#unreadable.push({ from, to });
  }

  canRead(from: number, to: number): boolean {
    return this.#unreadable.every((part) => part.to <= from || part.from >= to);
  }

  #cover(offset: number, length: number): void {
    const end = Math.min(this.size, offset + length);
    const before = end > offset ? Buffer.from(this.#bytes.subarray(offset, end)) : null;
    this.#add({ offset, length, before });
    this.#reserve(offset + length);
    this.size = Math.max(this.size, offset + length);
  }

  #add({ offset, length, before }: Pick<Change, 'offset' | 'length' | 'before'>): void {
    const { size: sizeBefore } = this;
    this.#changes.push({ number: ++this.#lastNumber, offset, length, sizeBefore, before, isDurable: false });
  }

  #prune(): void {
    let count = 0;
    while (count < this.#changes.length && this.#changes[count]!.isDurable) count++;
    if (count === this.#changes.length) this.#changes = [];
    else if (count > 0) this.#changes.splice(0, count);
  }

  /** All changes, and the file as it was before them. */
  #takeBack(): Taken[] {
    const taken: Taken[] = [];
    for (let i = this.#changes.length - 1; i >= 0; i--) {
      const { number, offset, length, sizeBefore, before, isDurable } = this.#changes[i]!;
      const end = offset + Math.max(0, length);
      taken.push({
        offset,
        bytes: length < 0 ? null : Buffer.from(this.#bytes.subarray(offset, end)),
        isDurable,
        number,
      });
      if (end > sizeBefore) this.#bytes.fill(0, Math.max(offset, sizeBefore), end);
      if (before !== null) this.#bytes.set(before, offset);
      this.size = sizeBefore;
    }
    this.#changes = [];
    return taken.reverse();
  }

  #apply({ offset, bytes }: Pick<Taken, 'offset' | 'bytes'>): number {
    if (bytes === null) this.cut(offset);
    else this.land({ offset, buffers: [bytes] });
    return this.#lastNumber;
  }

  /** Puts in what is left of one change. It is durable. */
  #survive(change: Taken, { mode, sectorBytes, garbage }: Survival, random: Random | null): void {
    if (mode === 'nothing') return;
    const { offset, bytes } = change;
    if (mode === 'all' || bytes === null || random === null) {
      if (mode === 'all' || random === null || random.integer(2) === 0) this.syncOne(this.#apply(change));
      return;
    }
    const first = Math.floor(offset / sectorBytes);
    const last = Math.floor((offset + bytes.length - 1) / sectorBytes);
    const kept = random.integer(last - first + 2);
    for (let sector = first; sector <= last; sector++) {
      const from = Math.max(offset, sector * sectorBytes);
      const to = Math.min(offset + bytes.length, (sector + 1) * sectorBytes);
      const keep = mode === 'prefix' ? sector - first < kept : random.integer(2) === 0;
      const survivor = keep
        ? bytes.subarray(from - offset, to - offset)
        : garbage && from >= this.size
          ? random.bytes(to - from)
          : null;
      if (survivor !== null) this.syncOne(this.#apply({ offset: from, bytes: survivor }));
    }
  }

  #reserve(size: number): void {
    if (size <= this.#bytes.length) return;
    const larger = Buffer.alloc(Math.max(size, this.#bytes.length * 2, 4096));
    this.#bytes.copy(larger, 0, 0, this.size);
    this.#bytes = larger;
  }
}
