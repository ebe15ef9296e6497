// Who still reads a snapshot file, and when one that was replaced goes. State owned: pins, and removals under way.
//
// Invariants: a file that is read is not removed; a removal never takes a newer file of the same name (a group that was reset can come to
// the same index again).

import type { Disk } from '../ports.ts';
import { removeIfPresent } from './whole-files.ts';

export class SnapshotPins {
  readonly #disk: Disk;
  readonly #pins = new Map<string, number>();
  /** To be removed when the last pin goes. */
  readonly #unwanted = new Set<string>();
  /** Found damaged: moved aside instead. */
  readonly #damaged = new Set<string>();
  readonly #moveAside: (path: string) => Promise<void>;
  readonly #removing = new Map<string, Promise<void>>();
  #closed = false;

  constructor(disk: Disk, moveAside: (path: string) => Promise<void>) {
    this.#disk = disk;
    this.#moveAside = moveAside;
  }

  async use<T>(path: string, work: () => Promise<T>): Promise<T> {
    this.pin(path);
    try {
      return await work();
    } finally {
      this.unpin(path);
    }
  }

  pin(path: string): void {
    this.#pins.set(path, (this.#pins.get(path) ?? 0) + 1);
  }

  unpin(path: string): void {
    const left = this.#pins.get(path)! - 1;
    if (left > 0) return void this.#pins.set(path, left);
    this.#pins.delete(path);
    if (this.#unwanted.delete(path)) this.letGo(path);
  }

  /** Bytes of it are rotten: it is not to be deleted. */
  damaged(path: string): void {
    this.#damaged.add(path);
  }

  /** Nobody needs the file any more, but for those who read it. What fails to go now is removed at the next start. */
  letGo(path: string): void {
    if (this.#closed) return;
    if (this.#pins.has(path)) return void this.#unwanted.add(path);
    const removal = (this.#damaged.delete(path) ? this.#moveAside(path) : removeIfPresent(this.#disk, path))
      .catch(() => {})
      .finally(() => this.#removing.delete(path));
    this.#removing.set(path, removal);
  }

  /** A new file is about to get this name. Those who read the old one have it open. */
  async claim(path: string): Promise<void> {
    this.#unwanted.delete(path);
    await this.#removing.get(path);
    if (this.#damaged.delete(path)) await this.#moveAside(path);
  }

  close(): void {
    this.#closed = true;
  }
}
