// Reads what nobody else reads: every entry in sealed files and every snapshot again and again, slowly, so that rot is found while the other
// replicas are whole, and not when they are needed.
//
// State owned: how far this pass has come, and what may be read until the next `step`. Volatile files are left alone: they end with the process.
// It changes nothing. Its reads go through the same bound as all others, one at a time.

import { isDamage, LogError } from './errors.ts';
import type { Run } from './file-index.ts';
import type { LogFile } from './files.ts';
import type { GroupLog } from './group.ts';
import type { Location, Reads } from './reads.ts';

/** Read at once, unless one entry is larger. */
const pieceBytes = 512 * 1024;

export interface ScrubContext {
  readonly reads: Reads;
  readonly groups: ReadonlyMap<number, GroupLog>;
  /** Sealed files that are synced, and are not about to go, ascending. */
  files(): readonly LogFile[];
  /** Checks the stored snapshot of a group, if it has one; `read` is told of every piece, and waited for. */
  checkSnapshot(group: GroupLog, read: (bytes: number) => Promise<void>): Promise<void>;
  /** Rot in what this group still counts on. */
  damaged(group: number, error: Error): void;
}

export class Scrub {
  readonly #context: ScrubContext;
  #budget = 0;
  #goOn: (() => void) | null = null;
  #running = false;
  #stopped = false;
  /** Whole passes, and bytes read, since the start. */
  passes = 0;
  bytes = 0;

  constructor(context: ScrubContext) {
    this.#context = context;
  }

  /** Reads about so many bytes more. */
  step(bytes: number): void {
    if (bytes <= 0 || this.#stopped) return;
    this.#budget = Math.min(bytes, this.#budget + bytes);
    if (!this.#running) {
      this.#running = true;
      void this.#run();
    }
    if (this.#budget <= 0) return;
    const goOn = this.#goOn;
    this.#goOn = null;
    goOn?.();
  }

  /** What is being read ends with its next piece. */
  stop(): void {
    this.#stopped = true;
    this.#goOn?.();
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      await this.#pass();
      this.passes++;
      // However little there is, a pass is not begun twice in one step.
      this.#budget = 0;
      await this.#spend(0);
    }
  }

  async #pass(): Promise<void> {
    for (let after = 0; !this.#stopped; ) {
      const file = this.#context.files().find(({ sequence }) => sequence > after);
      if (file === undefined) break;
      after = file.sequence;
      for (const part of file.index.groups.values()) {
        const group = this.#context.groups.get(part.group);
        if (group === undefined || group.replica !== part.replica || group.damage.length > 0) continue;
        for (const run of [...part.runs]) await this.#checkRun(group, run);
      }
    }
    for (const group of [...this.#context.groups.values()]) {
      if (this.#stopped || group.isVolatile || group.damage.length > 0) continue;
      await this.#guard(group, () => this.#context.checkSnapshot(group, (bytes) => this.#readOn(bytes)));
    }
  }

  async #checkRun(group: GroupLog, run: Run): Promise<void> {
    for (let slot = 0; slot < run.count && !this.#stopped && !run.file.doomed; ) {
      const locations: Location[] = [];
      let bytes = 0;
      for (; slot < run.count && (bytes === 0 || bytes + run.lengths[slot]! <= pieceBytes); slot++) {
        bytes += run.lengths[slot]!;
        locations.push({ place: 0, index: run.indexAt(slot), run, slot });
      }
      const isWanted = () => locations.some(({ index }) => group.find(index) === run);
      if (isWanted()) await this.#guard(group, () => this.#read(group, locations), isWanted);
      await this.#spend(bytes);
    }
  }

  #read(group: GroupLog, locations: readonly Location[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#context.reads.readAll(group.group, locations, ignore, (error) =>
        error === null ? resolve() : reject(error),
      );
    });
  }

  /** Other errors than of rot are those of a log that ends. */
  async #guard(group: GroupLog, work: () => Promise<void>, isWanted = () => true): Promise<void> {
    try {
      await work();
    } catch (error) {
      const counts = !this.#stopped && !group.hasEnded && isWanted();
      if (counts && isDamage(error)) this.#context.damaged(group.group, error as Error);
    }
  }

  async #readOn(bytes: number): Promise<void> {
    await this.#spend(bytes);
    if (this.#stopped) throw new LogError('closed', 'the log is closed');
  }

  /** Resolves when these bytes may have been read. */
  async #spend(bytes: number): Promise<void> {
    this.bytes += bytes;
    this.#budget -= bytes;
    if (this.#budget > 0 || this.#stopped) return;
    await new Promise<void>((resolve) => {
      this.#goOn = resolve;
    });
  }
}

function ignore(): void {}
