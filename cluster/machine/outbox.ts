// What a group owes to others and what it has taken from them: messages that go from one shard to another (dead letters, so far). PURE.
//
// State owned: per target group its rows, each until it is done; per source group the number of the last row taken.
//
// Invariants:
// - The rows for one target are numbered 1, 2, 3 … without a gap, also when there were none in between, so a row's predecessor is known.
// - A row keeps its message alive until it was worked off. `done` is a matter of one step, whatever it covers: the rows are let go later,
//   in bounded steps (`workOff`), and are debt meanwhile.
// - A source's rows are taken in order, each once. A repeat has no effect; a row whose predecessor is missing is not taken.

import type { ByteReader, ByteWriter, Steps } from './queue/bytes.ts';
import type { Sections } from './queue/images.ts';
import { RowFifo } from './queue/rows.ts';

/** A message for queues of another group. */
export interface OutboxRow {
  readonly row: number;
  readonly index: number;
  readonly ordinal: number;
  /** What letter it was (`Letters.terms`). */
  readonly mark: number;
  /** Queues of the target. */
  readonly uids: readonly number[];
}

/** The outbox as whoever leads the group reads it. */
export interface OutboxView {
  /** Groups that rows wait for, ascending. */
  targets(): number[];
  /** The first `max` rows for a target that are not done and above `after`, ascending. */
  rows(target: number, max: number, after?: number): OutboxRow[];
  /** The number of the last row that is done; 0: none. */
  lastDone(target: number): number;
}

/** Who counts the references to messages. */
interface References {
  release(index: number, ordinal: number): void;
}

interface Target {
  /** Numbers of the last row: worked off, done, given. */
  released: number;
  done: number;
  last: number;
  /** Rows (released, last]. Their values are the mark and the queues' uids. */
  readonly rows: RowFifo;
  /** It is no more, and nothing is to be remembered of it. */
  ended: boolean;
}

export class Outbox implements OutboxView {
  readonly #targets = new Map<number, Target>();
  /** Rows done that wait to be worked off, over all targets. */
  debt = 0;

  /** Returns the row's number. */
  push(target: number, index: number, ordinal: number, mark: number, uids: readonly number[]): number {
    let to = this.#targets.get(target);
    if (to === undefined) {
      to = { released: 0, done: 0, last: 0, rows: new RowFifo(), ended: false };
      this.#targets.set(target, to);
    }
    to.rows.push(index, ordinal, [mark, ...uids]);
    return ++to.last;
  }

  targets(): number[] {
    const waiting: number[] = [];
    for (const [target, { done, last }] of this.#targets) if (done < last) waiting.push(target);
    return waiting.sort((a, b) => a - b);
  }

  /** Groups that anything is remembered of. */
  known(): number[] {
    return [...this.#targets.keys()];
  }

  rows(target: number, max: number, after = 0): OutboxRow[] {
    const to = this.#targets.get(target);
    const rows: OutboxRow[] = [];
    if (to === undefined) return rows;
    let row = Math.max(to.done, after);
    to.rows.read(row - to.released, max, (index, ordinal, values) => {
      rows.push({ row: ++row, index, ordinal, mark: values[0]!, uids: [...values.subarray(1)] });
    });
    return rows;
  }

  lastDone(target: number): number {
    return this.#targets.get(target)?.done ?? 0;
  }

  /** The target has applied the rows up to this one. False: no such row was ever given to it. */
  done(target: number, upTo: number): boolean {
    const to = this.#targets.get(target);
    if (to === undefined || upTo > to.last) return false;
    if (upTo > to.done) {
      this.debt += upTo - to.done;
      to.done = upTo;
    }
    return true;
  }

  /** The target is gone, and with it the queues that its rows were for. */
  end(target: number): void {
    const to = this.#targets.get(target);
    if (to === undefined) return;
    this.done(target, to.last);
    to.ended = true;
    if (to.rows.length === 0) this.#targets.delete(target);
  }

  /** Lets go of up to `max` rows that are done. Returns how many these were. */
  workOff(max: number, references: References, marks: { release(mark: number): void }): number {
    if (this.debt === 0) return 0;
    const before = this.debt;
    for (const [target, to] of this.#sorted()) {
      const { rows } = to;
      for (; to.released < to.done && before - this.debt < max; to.released++) {
        references.release(rows.index, rows.ordinal);
        marks.release(rows.value);
        rows.shift();
        this.debt--;
      }
      if (to.ended && rows.length === 0) this.#targets.delete(target);
    }
    return before - this.debt;
  }

  capture(sections: Sections): void {
    const writer = sections.bytes;
    writer.u32(this.#targets.size);
    for (const [target, { released, done, ended, rows }] of this.#sorted()) {
      writer.u32(target);
      writer.u64(released);
      writer.u64(done);
      writer.u8(ended ? 1 : 0);
      rows.capture(sections);
    }
  }

  /** Only the messages, once per row. */
  captureReferences(sections: Sections): void {
    for (const { rows } of this.#targets.values()) rows.captureReferences(sections);
  }

  /** Of an empty object. Shows each message once per row, and its mark. */
  *restore(reader: ByteReader, visit: (index: number, ordinal: number, mark: number) => void): Steps {
    for (let count = reader.u32(); count > 0; count--) {
      const target = reader.u32();
      const [released, done, ended, rows] = [reader.u64(), reader.u64(), reader.u8() === 1, new RowFifo()];
      yield* rows.restore(reader, (index, ordinal, values) => visit(index, ordinal, values[0]!));
      this.#targets.set(target, { released, done, last: released + rows.length, rows, ended });
      this.debt += done - released;
    }
  }

  #sorted(): [number, Target][] {
    return [...this.#targets].sort(([a], [b]) => a - b);
  }
}

export class Inbox {
  readonly #last = new Map<number, number>();

  /** What is to be done with row `row` of a source, which follows `after`. */
  judge(source: number, after: number, row: number): 'apply' | 'repeat' | 'gap' {
    const last = this.#last.get(source) ?? 0;
    if (row <= last) return 'repeat';
    return after > last ? 'gap' : 'apply';
  }

  /** The row was applied. */
  take(source: number, row: number): void {
    this.#last.set(source, row);
  }

  /** Groups that anything is remembered of. */
  known(): number[] {
    return [...this.#last.keys()];
  }

  /** The source is gone: nothing of it is on its way any more. */
  end(source: number): void {
    this.#last.delete(source);
  }

  serialise(writer: ByteWriter): void {
    writer.u32(this.#last.size);
    for (const [source, row] of [...this.#last].sort(([a], [b]) => a - b)) {
      writer.u32(source);
      writer.u64(row);
    }
  }

  restore(reader: ByteReader): void {
    for (let count = reader.u32(); count > 0; count--) {
      const source = reader.u32();
      this.#last.set(source, reader.u64());
    }
  }
}
