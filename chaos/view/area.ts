// The last rows of a terminal, redrawn in place.
//
// State owned: the rows that were drawn, and whether the cursor is hidden. Nothing else may write to the stream between two draws but after `clear`. The cursor
// comes back by `restore`, when the process exits, and at Ctrl-C.
// Invariant: no line is as wide as the terminal, so none wraps by itself; after a resize the old ones may have, and are counted so.

import process from 'node:process';
import type { ViewStream } from '../view.ts';
import { cut, type Line, styled, visibleLength } from './picture.ts';

const columnsDefault = 80;
const columnsMax = 200;
const hideCursor = '\x1b[?25l';
const showCursor = '\x1b[?25h';

export class Area {
  readonly #out: ViewStream;
  readonly #isLeftAtInterrupt: boolean;
  /** Lengths of the lines that stand on the terminal. */
  #drawn: number[] = [];
  #isHidden = false;
  readonly #onExit = () => this.restore();
  readonly #onInterrupt = () => {
    this.restore();
    // What others write about it stands behind the picture: the next one begins below.
    if (this.#isLeftAtInterrupt) this.#drawn = [];
    if (process.listenerCount('SIGINT') > 0) return;
    // Nobody else wants to know: then it means what it always means.
    this.#out.write('\n');
    process.kill(process.pid, 'SIGINT');
  };

  /** `isLeftAtInterrupt`: somebody else writes to the terminal at Ctrl-C. */
  constructor(out: ViewStream, isLeftAtInterrupt: boolean) {
    this.#out = out;
    this.#isLeftAtInterrupt = isLeftAtInterrupt;
    process.once('exit', this.#onExit);
    process.once('SIGINT', this.#onInterrupt);
  }

  /** What a line may have. */
  get columns(): number {
    return this.#width - 1;
  }

  draw(lines: readonly Line[]): void {
    const fitting = lines.map((line) => cut(line, this.columns));
    const text = fitting.map((line) => `${styled(line)}\x1b[K`).join('\n');
    this.#out.write(`${this.#isHidden ? '' : hideCursor}${this.#home()}${text}\x1b[J`);
    this.#isHidden = true;
    this.#drawn = fitting.map(visibleLength);
  }

  /** The cursor stands where the first row was. */
  clear(): void {
    if (this.#drawn.length > 0) this.#out.write(`${this.#home()}\x1b[J`);
    this.#drawn = [];
  }

  restore(): void {
    if (this.#isHidden) this.#out.write(showCursor);
    this.#isHidden = false;
  }

  /** What was drawn last stays or goes as the caller left it. */
  close(): void {
    this.restore();
    process.off('exit', this.#onExit);
    process.off('SIGINT', this.#onInterrupt);
  }

  /** To the first row, which is where the cursor stands if nothing is drawn. */
  #home(): string {
    const rows = this.#drawn.reduce((sum, length) => sum + Math.max(1, Math.ceil(length / this.#width)), 0);
    return rows > 1 ? `\r\x1b[${rows - 1}A` : '\r';
  }

  get #width(): number {
    return Math.min(columnsMax, this.#out.columns || columnsDefault);
  }
}
