// How long the main thread of this process has run, and could have run and was given no processor, as Linux counts it.
// State owned: an open file.

import { closeSync, openSync, readSync } from 'node:fs';

/** Nanoseconds run, nanoseconds waited, turns. */
const schedulePath = '/proc/self/schedstat';

/** Sums since the process began, in milliseconds. */
export interface Scheduled {
  readonly ran: number;
  readonly waited: number;
}

export interface Schedule {
  /** Null: this system does not tell. */
  read(): Scheduled | null;
  close(): void;
}

export function openSchedule(): Schedule {
  const text = Buffer.alloc(64);
  let file: number | null = null;
  try {
    file = openSync(schedulePath, 'r');
  } catch {
    // Not Linux, or a kernel without these sums.
  }
  const read = () => {
    if (file === null) return null;
    const length = readSync(file, text, 0, text.length, 0);
    const [ran = Number.NaN, waited = Number.NaN] = text.toString('latin1', 0, length).split(' ').map(Number);
    return Number.isFinite(ran + waited) ? { ran: ran / 1e6, waited: waited / 1e6 } : null;
  };
  const close = () => {
    if (file !== null) closeSync(file);
    file = null;
  };
  return { read, close };
}
