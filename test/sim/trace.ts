// What happened in a run, as a hash and as lines for people.
//
// State owned: a rolling hash over everything that is noted, a ring of the last lines, and all of them when they are to be printed.
// Two runs of one seed have the same hash, or something in them is not decided by the seed. It must never look at the real time.

/** Folds numbers and texts into 64 bits: two lanes with different multipliers, so that lanes do not collide together. */
class RollingHash {
  #a = 0x811c9dc5;
  #b = 0x9e3779b9;

  number(value: number): void {
    // A fraction counts as well: times have some.
    const whole = Math.floor(value);
    this.#mix(whole | 0);
    this.#mix(((value - whole) * 0x1_0000_0000) | 0);
  }

  text(value: string): void {
    for (let i = 0; i < value.length; i++) this.#mix(value.charCodeAt(i));
    this.#mix(-1 - value.length);
  }

  #mix(value: number): void {
    this.#a = Math.imul(this.#a ^ value, 0x0100_0193);
    this.#a ^= this.#a >>> 15;
    this.#b = Math.imul(this.#b ^ value, 0x85eb_ca6b);
    this.#b ^= this.#b >>> 13;
  }

  toString(): string {
    const hex = (lane: number) => (lane >>> 0).toString(16).padStart(8, '0');
    return hex(this.#a) + hex(this.#b);
  }
}

interface Line {
  readonly at: number;
  readonly who: string;
  readonly text: string | (() => string);
}

const written = ({ at, who, text }: Line) =>
  `${(at / 1000).toFixed(6).padStart(11)}  ${who.padEnd(8)} ${typeof text === 'string' ? text : text()}`;

const ringLines = 400;

export interface TraceOptions {
  /** Keeps every line, not only the last ones. */
  readonly keepAll?: boolean;
  /** Lines also for what passes between nodes. It counts in the hash either way. */
  readonly frames?: boolean;
  /** What passes between nodes counts byte for byte, and not only how much it is. Hashes compare with such ones only. */
  readonly bytes?: boolean;
}

export class Trace {
  /** The simulated time; set by the world once it has a clock. */
  now: () => number = () => 0;
  readonly withFrames: boolean;
  readonly withBytes: boolean;
  readonly #hash = new RollingHash();
  readonly #keepAll: boolean;
  /** Written out when they are asked for. */
  #lines: Line[] = [];
  /** Lines that came before those in `#lines`. */
  #dropped = 0;

  constructor({ keepAll = false, frames = false, bytes = false }: TraceOptions = {}) {
    this.#keepAll = keepAll;
    this.withFrames = frames;
    this.withBytes = bytes;
  }

  /** Counts in the hash without a line: for what happens too often to be read. */
  number(value: number): void {
    this.#hash.number(value);
  }

  /** `who`: a node, a client, `net`, `faults`, `sim`. */
  line(who: string, text: string): void {
    this.#hash.number(this.now());
    this.#hash.text(who);
    this.#hash.text(text);
    this.#keep({ at: this.now(), who, text });
  }

  /** A line whose text is made when it is asked for; `key` counts in the hash. */
  event(who: string, key: string, text: () => string): void {
    this.#hash.number(this.now());
    this.#hash.text(key);
    this.#keep({ at: this.now(), who, text });
  }

  /** A line that leaves the hash as it is: what only one of two runs of a seed shows. */
  comment(who: string, text: string): void {
    this.#keep({ at: this.now(), who, text });
  }

  get hash(): string {
    return this.#hash.toString();
  }

  /** The last lines, or all of them. */
  lines(count = Number.POSITIVE_INFINITY): string[] {
    const kept = this.#lines.slice(Math.max(0, this.#lines.length - count)).map(written);
    const dropped = this.#dropped + this.#lines.length - kept.length;
    return dropped === 0 ? kept : [`… ${dropped} lines before`, ...kept];
  }

  #keep(line: Line): void {
    this.#lines.push(line);
    if (this.#keepAll || this.#lines.length < 2 * ringLines) return;
    this.#dropped += ringLines;
    this.#lines = this.#lines.slice(ringLines);
  }
}
