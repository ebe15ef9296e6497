// Whether the log is open, is closed, or has failed. State owned: the first failure, the work that closing waits for, the promises that wait
// for the disk.
//
// Invariants: after the first failure nothing succeeds, and whoever waits for the disk hears of it; `failed` is called once.

import { LogError } from './errors.ts';
import type { Writer } from './writer.ts';

export class Life {
  readonly #failed: (error: Error) => void;
  #failure: Error | null = null;
  #isClosed = false;
  /** Under way: snapshots, resets, removals, rewriting. */
  readonly #work = new Set<Promise<void>>();
  /** Told of a failure: promises that wait for a write. */
  readonly #waiting = new Set<(error: Error) => void>();

  constructor(failed: (error: Error) => void) {
    this.#failed = failed;
  }

  get hasFailed(): boolean {
    return this.#failure !== null;
  }
  get isClosed(): boolean {
    return this.#isClosed;
  }
  /** Neither closed nor failed. */
  get isOpen(): boolean {
    return !this.#isClosed && this.#failure === null;
  }

  checkAlive(): void {
    if (this.#failure !== null) throw new LogError('failed', `the log failed: ${this.#failure.message}`);
  }

  checkOpen(): void {
    this.checkAlive();
    if (this.#isClosed) throw new LogError('closed', 'the log is closed');
  }

  fail(error: Error): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    for (const reject of this.#waiting) reject(error);
    this.#waiting.clear();
    this.#failed(error);
  }

  /** An error of writing what must not be lost ends everything. */
  async guard(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      this.fail(error as Error);
      throw error;
    }
  }

  /** Closing waits for it. */
  async track(work: Promise<void>): Promise<void> {
    this.#work.add(work);
    try {
      await work;
    } finally {
      this.#work.delete(work);
    }
  }

  /** Resolves when everything that was gathered by this writer so far is durable. */
  flushed(writer: Writer): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      this.#waiting.add(reject);
      writer.notify(() => {
        this.#waiting.delete(reject);
        resolve();
      });
      writer.kick();
    });
  }

  /** From now on nothing may begin. */
  close(): void {
    this.#isClosed = true;
  }

  /** All that was under way has come to an end, whichever. */
  async ended(): Promise<void> {
    for (const work of [...this.#work]) await work.catch(() => {});
  }
}
