// The ledger: everything that the clients of a run saw, in a file that is only appended to, and the judging of such a file by anybody.
//
// A file of JSON lines. The first says what it is, `{"ledger":"warren 1",…}`, and what the run says about itself. Then follows a line for each event of
// the history, as `HistoryEvent` in `test/history.ts` describes it, in its order: the event at place p, counted from 0, stands in line p + 2, and later
// lines name earlier events by their places. The last line, `{"kind":"closed","events":…}`, is written when the run has ended; a run that
// was broken off has none, and perhaps a torn line.
//
// State owned by a `Ledger`: the file, and what was appended and is not written yet. Appending is synchronous, never waits for the disk and never
// fails: `close` tells of a disk that refused or lagged too far, and then the file is not whole.
// Invariants: one write in flight; lines are written in their order; `close` resolves after the sync of the last of them.

import { closeSync, openSync, readSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { checkHistory, explain, type HistoryEvent } from '../test/history.ts';

const format = 'warren 1';
const syncMilliseconds = 200;
/** Written at once when so much waits; also what is read at a time. */
const batchBytes = 1 << 20;
const pendingLengthMax = 256 << 20;

export interface LedgerSummary {
  readonly events: number;
  readonly bytes: number;
  /** Why the file is not whole; null: it is. */
  readonly failure: string | null;
}

/** What a run says about itself in the first line: scenario, seed, time. */
export type About = Readonly<Record<string, string | number>>;

/** An older file of that name is replaced. Rejects when it cannot be made. */
export async function openLedger(path: string, about: About = {}): Promise<Ledger> {
  return new Ledger(await open(path, 'w'), about);
}

export class Ledger {
  readonly #file: FileHandle;
  readonly #timer: NodeJS.Timeout;
  /** Lines that nobody writes yet. */
  #pending: string;
  #writing: Promise<void> | null = null;
  #events = 0;
  #bytes = 0;
  #failure: string | null = null;

  constructor(file: FileHandle, about: About) {
    this.#file = file;
    this.#pending = lineOf({ ...about, ledger: format });
    this.#timer = setInterval(() => this.#flush(), syncMilliseconds).unref();
  }

  /** To be given to a `History` as its observer. */
  readonly append = (event: HistoryEvent): void => {
    this.#events++;
    if (this.#failure !== null) return;
    this.#pending += lineOf(event);
    if (this.#pending.length < batchBytes) return;
    this.#flush();
    if (this.#pending.length > pendingLengthMax) this.#fail(`the disk is ${this.#pending.length} bytes behind`);
  };

  /** Resolves when everything is on the disk, or cannot be. Nothing may be appended any more. */
  async close(): Promise<LedgerSummary> {
    clearInterval(this.#timer);
    if (this.#failure === null) this.#pending += lineOf({ kind: 'closed', events: this.#events });
    while (this.#writing !== null || this.#pending !== '') {
      this.#flush();
      await this.#writing;
    }
    await this.#file.close().catch((error: Error) => this.#fail(error.message));
    return { events: this.#events, bytes: this.#bytes, failure: this.#failure };
  }

  #flush(): void {
    if (this.#writing !== null || this.#pending === '') return;
    const batch = Buffer.from(this.#pending);
    this.#pending = '';
    this.#writing = this.#write(batch)
      .catch((error: Error) => this.#fail(error.message))
      .finally(() => {
        this.#writing = null;
      });
  }

  async #write(batch: Buffer): Promise<void> {
    await this.#file.appendFile(batch);
    await this.#file.datasync();
    this.#bytes += batch.length;
  }

  #fail(why: string): void {
    this.#failure ??= why;
    this.#pending = '';
  }
}

function lineOf(value: object): string {
  return `${JSON.stringify(value)}\n`;
}

// ---- reading and judging

export interface LedgerContent {
  readonly about: About;
  readonly events: HistoryEvent[];
  /** The run ended, and all that it saw is here. */
  readonly isClosed: boolean;
  /** The last line is not whole, as after a crash; it is left out. */
  readonly isTorn: boolean;
}

/** Throws a sentence when the file is no ledger, or one that names the line which is damaged. A torn last line is left out. */
export function readLedger(path: string): HistoryEvent[] {
  return readContent(path).events;
}

/** As `readLedger`, with what else the file says. */
export function readContent(path: string): LedgerContent {
  const events: HistoryEvent[] = [];
  let about: About | null = null;
  let isClosed = false;
  let number = 0;
  const isTorn = readLines(path, (line) => {
    number++;
    const value = parse(line);
    if (about === null) {
      if (value?.ledger !== format) throw new Error(`${path} is no ledger that this version can read`);
      about = value as About;
      return;
    }
    const damage = isClosed ? 'stands behind the end' : damageOf(value, events);
    if (damage !== null) throw new Error(`${path} is damaged: line ${number} ${damage}`);
    if (value!.kind === 'closed') isClosed = true;
    else events.push(value as HistoryEvent);
  });
  if (about === null) throw new Error(`${path} is empty, or torn in its first line`);
  return { about, events, isClosed, isTorn };
}

/** Judges a file and says so. Returns the exit code: 0 clean, 1 a violation, 2 nothing certain can be said. */
export function judgeLedger(path: string, say: (text: string) => void = console.log): 0 | 1 | 2 {
  let content: LedgerContent;
  try {
    content = readContent(path);
  } catch (error) {
    say(`not judged: ${(error as Error).message}`);
    return 2;
  }
  const { about, events, isClosed, isTorn } = content;
  // Only when the queues were emptied is what did not come lost.
  const drained = isClosed && events.some(({ kind }) => kind === 'left');
  const verdict = checkHistory(events, { drained });
  const words = Object.entries(about).flatMap(([key, value]) => (key === 'ledger' ? [] : [`${key} ${value}`]));
  say([path, ...words, `${events.length} events`].join(', '));
  if (isTorn) say('the last line is torn and was left out');
  say(explain(verdict));
  if (!verdict.ok) return 1;
  if (drained) return 0;
  say('inconclusive: the run ended before its queues were drained, so what did not come cannot be judged');
  return 2;
}

/** Hands over the whole lines. Returns whether something stands behind the last of them. */
function readLines(path: string, onLine: (line: string) => void): boolean {
  const file = openSync(path, 'r');
  try {
    const chunk = Buffer.allocUnsafe(batchBytes);
    let rest = Buffer.alloc(0);
    for (let length = readSync(file, chunk); length > 0; length = readSync(file, chunk)) {
      const bytes = Buffer.concat([rest, chunk.subarray(0, length)]);
      let from = 0;
      for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, from)) {
        onLine(bytes.toString('utf8', from, end));
        from = end + 1;
      }
      rest = bytes.subarray(from);
    }
    return rest.length > 0;
  } finally {
    closeSync(file);
  }
}

type Line = Readonly<Record<string, unknown>>;

function parse(line: string): Line | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Line) : null;
  } catch {
    return null;
  }
}

/** What a line of each kind must have, by name and type; `publish`, `invoke` and `deliver` as numbers are places. */
const fields: Readonly<Record<HistoryEvent['kind'], Readonly<Record<string, string>>>> = {
  open: { channel: 'string', node: 'number' },
  end: { channel: 'string', graceful: 'boolean' },
  invoke: { channel: 'string', operation: 'object' },
  answer: { invoke: 'number', answer: 'string' },
  publish: { id: 'string', channel: 'string', targets: 'object', mandatory: 'boolean', confirms: 'boolean' },
  returned: { publish: 'number' },
  outcome: { publish: 'number', outcome: 'string' },
  deliver: { id: 'string', queue: 'string', channel: 'string', consumer: 'string', redelivered: 'boolean' },
  settle: { deliver: 'number', settlement: 'string' },
  cancelled: { consumer: 'string' },
  nonsense: { channel: 'string', what: 'string' },
  calm: {},
  left: { queue: 'string', node: 'number' },
};
const places = ['publish', 'invoke', 'deliver'] as const;

function damageOf(line: Line | null, events: readonly HistoryEvent[]): string | null {
  if (line === null) return 'is no JSON object';
  const { kind } = line;
  if (kind === 'closed')
    return line.events === events.length ? null : `counts ${line.events} events, and ${events.length} are here`;
  if (typeof kind !== 'string' || !Object.hasOwn(fields, kind)) return 'is of no kind that is known';
  if (typeof line.at !== 'number') return `(${kind}) has no time`;
  for (const [name, type] of Object.entries(fields[kind as HistoryEvent['kind']])) {
    if (typeof line[name] !== type || line[name] === null) return `(${kind}) has no ${name}`;
  }
  for (const name of places) {
    const place = line[name];
    if (typeof place === 'number' && events[place]?.kind !== name) return `(${kind}) belongs to no ${name}`;
  }
  return null;
}
