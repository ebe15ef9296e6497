// What somebody sees while a run goes on: on a terminal a picture that is redrawn in place, elsewhere plain lines.
//
// Whoever writes to the same stream while a view is open does it through `say`.

import process from 'node:process';
import type { Observer } from './types.ts';
import { LiveView } from './view/live.ts';
import { PlainView } from './view/plain.ts';

export interface ViewStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

export interface ViewOptions {
  /** Plain lines also on a terminal. */
  readonly plain: boolean;
  /** How long the faults of one scenario go on; then a live view tells how much is left. */
  readonly seconds?: number;
  /** NO_COLOR and a dumb terminal mean plain lines. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
}

export interface View extends Observer {
  /** A line of its own, that stays. */
  say(line: string): void;
  /** Leaves the terminal as it was found. */
  close(): void;
}

export function createView(out: ViewStream, options: ViewOptions): View {
  const { plain, seconds = null, environment = process.env } = options;
  return isLive(out, plain, environment) ? new LiveView(out, seconds) : new PlainView(out);
}

/** May something be redrawn in place there? */
export function isLive(out: ViewStream, plain: boolean, environment: NonNullable<ViewOptions['environment']>): boolean {
  const isDumb = environment.TERM === 'dumb' || (environment.NO_COLOR ?? '') !== '';
  return out.isTTY === true && !plain && !isDumb;
}
