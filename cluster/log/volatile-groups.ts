// Volatile groups: their entries go to files of their own, which are never synced and are gone with this process.
//
// State owned: the writer of those files, begun with the first group; their order in the cache; how many writes wait for the disk.
// Invariants: nothing durable ever waits for them, or they for it; what is not written yet lies in memory, so beyond a bound whoever writes
// waits for the disk, and those after it, in order.

import type { CacheOrder } from './cache.ts';
import { FileKind } from './codec.ts';
import { noConfiguration } from './configuration.ts';
import { assert } from './errors.ts';
import type { LogFolder } from './folder.ts';
import { GroupLog } from './group.ts';
import type { Life } from './life.ts';
import { Recorder } from './records.ts';
import type { GroupWrite } from './types.ts';

export interface VolatileContext {
  readonly life: Life;
  readonly folder: LogFolder;
  readonly groups: Map<number, GroupLog>;
  readonly cache: CacheOrder;
  /** Bytes that may wait in memory for the disk. */
  readonly waitingBytesMax: number;
  /** More entries may leave memory. */
  written(): void;
}

export class VolatileGroups {
  readonly #context: VolatileContext;
  #records: Recorder | null = null;
  /** Writes whose `done` waits for the disk. */
  #waits = 0;

  constructor(context: VolatileContext) {
    this.#context = context;
  }

  get appendedBytes(): number {
    return this.#records?.writer.appendedBytes ?? 0;
  }

  create(id: number, replica: number): void {
    const { groups, life } = this.#context;
    assert(!groups.has(id), `volatile group ${id} is new`);
    if (life.isOpen) this.#records ??= this.#begin();
    const group = new GroupLog(id, replica, { index: 0, term: 0, configuration: noConfiguration }, true);
    group.isDurable = true;
    groups.set(id, group);
  }

  #begin(): Recorder {
    const { cache, folder, written } = this.#context;
    const writer = folder.newWriter(FileKind.volatile, written);
    writer.startVolatile();
    return new Recorder(writer, cache);
  }

  append(writes: readonly GroupWrite[], done: () => void): void {
    const records = this.#records!;
    const { writer } = records;
    for (let i = 0; i < writes.length; i++) {
      const { group: id, truncateFrom, entries } = writes[i]!;
      const group = this.#group(id);
      assert(truncateFrom === null || truncateFrom > group.lastIndex, 'a volatile group is never truncated');
      for (let n = 0; n < entries.length; n++) records.entry(group, entries[n]!);
      writer.mark(group);
    }
    const waits = this.#waits > 0 || writer.waitingBytes > this.#context.waitingBytesMax;
    if (waits) {
      this.#waits++;
      writer.notify(() => {
        this.#waits--;
        done();
      });
    }
    writer.kick();
    if (!waits) done();
  }

  applied(id: number, index: number): void {
    this.#group(id).volatileApplied(index);
  }

  /** Its entries are garbage from now on. */
  drop(id: number): void {
    const { cache, folder, groups } = this.#context;
    const group = this.#group(id);
    cache.bytes -= group.cachedBytes;
    group.end();
    groups.delete(id);
    folder.forgetVolatile(id);
  }

  #group(id: number): GroupLog {
    const group = this.#context.groups.get(id);
    assert(group?.isVolatile === true, `group ${id} is volatile`);
    return group;
  }

  /** Stops at once. */
  halt(): void {
    this.#records?.writer.halt();
  }

  async close(): Promise<void> {
    if (this.#records === null) return;
    await this.#records.writer.close();
    await this.#context.folder.removeVolatile();
  }
}
