// The log's shape against a slow twin: a plain list of terms and sizes.

import { expect, test } from 'vitest';
import { logShapePart } from './inner.ts';
import { seededDraw } from './random.ts';

const { LogShape } = logShapePart;

interface Row {
  readonly term: number;
  readonly bytes: number;
}

class Twin {
  compactedIndex = 0;
  /** Row i is the entry at `compactedIndex + i`; the first is the compaction point. */
  rows: Row[] = [{ term: 0, bytes: 0 }];

  get lastIndex(): number {
    return this.compactedIndex + this.rows.length - 1;
  }
  termAt(index: number): number | undefined {
    return this.rows[index - this.compactedIndex]?.term;
  }
  bytesBetween(after: number, last: number): number {
    const rows = this.rows.slice(after - this.compactedIndex + 1, last - this.compactedIndex + 1);
    return rows.reduce((sum, { bytes }) => sum + bytes, 0);
  }
  lastAtMost(index: number, term: number): number {
    while (index >= this.compactedIndex && this.termAt(index)! > term) index--;
    return index;
  }
  lastWithin(first: number, bytesMax: number): number {
    let last = first;
    while (last < this.lastIndex && this.bytesBetween(first - 1, last + 1) <= bytesMax) last++;
    return last;
  }
}

test('behaves like a list of terms and sizes', () => {
  const seed = Number(process.env.RAFT_SEED ?? Math.floor(Math.random() * 2 ** 30));
  const draw = seededDraw(seed);
  const shape = new LogShape(0, 0);
  const twin = new Twin();
  for (let step = 0; step < 2500; step++) {
    const action = draw(100);
    if (action < 80) {
      const term = twin.rows.at(-1)!.term + (draw(10) === 0 ? 1 + draw(3) : 0);
      const bytes = draw(3) === 0 ? 0 : draw(1000);
      shape.append(term, bytes);
      twin.rows.push({ term, bytes });
    } else if (action < 84 && twin.rows.length > 1) {
      const first = twin.lastIndex - draw(Math.min(30, twin.rows.length - 1));
      shape.truncateFrom(first);
      twin.rows.length = first - twin.compactedIndex;
    } else if (action < 86) {
      const index = twin.compactedIndex + draw(twin.rows.length);
      if (draw(4) === 0 || twin.rows.length > 300) {
        shape.compactTo(index);
        twin.rows.splice(0, index - twin.compactedIndex);
        twin.compactedIndex = index;
      }
    } else if (draw(200) === 0) {
      const index = twin.lastIndex + draw(10);
      const term = twin.rows.at(-1)!.term + 1;
      shape.reset(index, term);
      twin.compactedIndex = index;
      twin.rows = [{ term, bytes: 0 }];
    }
    shape.validate();
    const at = twin.compactedIndex + draw(twin.rows.length);
    const message = `seed ${seed} step ${step}`;
    expect([shape.compactedIndex, shape.lastIndex, shape.lastTerm], message).toEqual([
      twin.compactedIndex,
      twin.lastIndex,
      twin.rows.at(-1)!.term,
    ]);
    const outside = [twin.compactedIndex - 1, twin.lastIndex + 1];
    for (const index of [at, ...outside]) expect(shape.termAt(index), message).toBe(twin.termAt(index));
    expect(shape.bytesBetween(at, twin.lastIndex), message).toBe(twin.bytesBetween(at, twin.lastIndex));
    const term = draw(twin.rows.at(-1)!.term + 2);
    expect(shape.lastAtMost(at, term), message).toBe(twin.lastAtMost(at, term));
    if (at > twin.compactedIndex) {
      const bytesMax = draw(5000);
      expect(shape.lastWithin(at, bytesMax), message).toBe(twin.lastWithin(at, bytesMax));
    }
  }
});

test('forgotten entries give their memory back', () => {
  const shape = new LogShape(0, 0);
  for (let i = 0; i < 10_000; i++) shape.append(1 + (i >> 4), 10);
  shape.compactTo(9_990);
  shape.validate();
  for (let i = 0; i < 100; i++) shape.append(1000, 10);
  expect(shape.bytesBetween(9_990, shape.lastIndex)).toBe(1100);
});
