// What the log tells of expected failures. Codes are stable; nobody matches on the text.

export type LogErrorCode =
  /** The folder belongs to another cluster or node. */
  | 'foreign'
  /** Bytes that were durable are damaged or gone. Nothing was deleted or changed. */
  | 'corrupt'
  /** Written by a version that is not known here. */
  | 'version'
  /** The entry or snapshot asked for is not here. */
  | 'missing'
  /** Older than what the group already has. */
  | 'stale'
  /** Not what was announced: pieces out of order, another snapshot. */
  | 'invalid'
  | 'aborted'
  | 'closed'
  /** A write or sync failed earlier: nothing succeeds any more. */
  | 'failed';

export class LogError extends Error {
  readonly code: LogErrorCode;
  /** The message without the place. */
  readonly detail: string;
  /** Path within the disk, and offset in bytes; -1 where there is none. */
  readonly file: string;
  readonly offset: number;

  constructor(code: LogErrorCode, detail: string, file = '', offset = -1) {
    const place = file === '' ? '' : offset < 0 ? ` (${file})` : ` (${file} at ${offset})`;
    super(`${detail}${place}`);
    this.name = 'LogError';
    this.code = code;
    this.detail = detail;
    this.file = file;
    this.offset = offset;
  }
}

/** Does this error say that bytes of the log are rotten, or cannot be read any more? Their replica is to be built anew. */
export function isDamage(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return code === ('corrupt' satisfies LogErrorCode) || code === 'EIO';
}

/** Internal invariants: a failure is a bug in the log or its caller. */
export function assert(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(`log invariant broken: ${what}`);
}
