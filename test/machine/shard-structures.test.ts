// The typed-array structures of the shard machine, each against plain arrays, and at the sizes at which they grow and shrink.

import { describe, expect, it } from 'vitest';
import { ByteReader, ByteWriter } from '../../cluster/machine/queue/bytes.ts';
import { ChunkPool, Fifo } from '../../cluster/machine/queue/fifo.ts';
import { Leases } from '../../cluster/machine/queue/leases.ts';
import { LiveCounts } from '../../cluster/machine/queue/live.ts';
import { Returned } from '../../cluster/machine/queue/returned.ts';

const large = 2 ** 40;

function written(write: (writer: ByteWriter) => void): ByteReader {
  const writer = new ByteWriter(16);
  write(writer);
  return new ByteReader(Buffer.concat(writer.pieces()));
}

/** For loops: `expect` alone would take most of their time. */
function same(actual: unknown, expected: unknown): void {
  if (actual !== expected) expect(actual).toBe(expected);
}

describe('bytes', () => {
  it('come back as they were written, over the seams of the pieces', () => {
    const reader = written((writer) => {
      for (let i = 0; i < 20_000; i++) {
        writer.u8(i & 0xff);
        writer.u32(0xffff_ffff - i);
        writer.i32(-i);
        writer.u64(Number.MAX_SAFE_INTEGER - i);
        writer.reference(large + i, i & 0xffff, i);
      }
      writer.text('größer');
    });
    for (let i = 0; i < 20_000; i++) {
      same(reader.u8(), i & 0xff);
      same(reader.u32(), 0xffff_ffff - i);
      same(reader.i32(), 0 - i);
      same(reader.u64(), Number.MAX_SAFE_INTEGER - i);
      reader.reference();
      same(`${reader.index} ${reader.ordinal} ${reader.bytes}`, `${large + i} ${i & 0xffff} ${i}`);
    }
    expect(reader.text()).toBe('größer');
    expect(reader.atEnd).toBe(true);
    expect(() => reader.u8()).toThrow('too early');
  });
});

describe('fifo', () => {
  it('gives messages back in order, over chunks of all sizes and far jumps of the index', () => {
    const fifo = new Fifo(new ChunkPool());
    const expected: number[] = [];
    let [pushed, read] = [0, 0];
    for (let round = 0; round < 6; round++) {
      for (let i = 0; i < 3000; i++, pushed++) {
        // Every thousandth message is more than 32 bits of index away.
        const index = 1 + pushed + Math.floor(pushed / 1000) * 2 ** 33;
        fifo.push(index, pushed & 0xffff, pushed);
        expected.push(index, pushed & 0xffff, pushed);
      }
      for (let i = 0; i < 2900 + 40 * round; i++) {
        for (const value of [fifo.index, fifo.ordinal, fifo.bytes]) same(value, expected[read++]);
        fifo.shift();
      }
      const left = expected.slice(read);
      expect(fifo.length).toBe(left.length / 3);
      expect(fifo.totalBytes).toBe(left.reduce((sum, value, i) => sum + (i % 3 === 2 ? value : 0), 0));
    }
  });

  it('is absorbed whole, and both go on', () => {
    const pool = new ChunkPool();
    const [one, two] = [new Fifo(pool), new Fifo(pool)];
    for (let i = 1; i <= 40; i++) one.push(100 + i, 0, 1);
    for (let i = 1; i <= 40; i++) two.push(i, 0, 1);
    one.absorb(two);
    two.push(7, 7, 7);
    expect([one.length, one.totalBytes, two.length, two.index, two.totalBytes]).toEqual([80, 80, 1, 7, 7]);
    const indices: number[] = [];
    for (; one.length > 0; one.shift()) indices.push(one.index);
    expect(indices.slice(38, 42)).toEqual([139, 140, 1, 2]);
    one.absorb(new Fifo(pool));
    one.push(3, 0, 1);
    expect([one.length, one.index]).toEqual([1, 3]);
  });
});

describe('leases', () => {
  it('stay small when one old lease is never settled', () => {
    const leases = new Leases();
    leases.push(large + 1, 5, 6, 7);
    for (let i = 2; i <= 100_000; i++) {
      same(leases.push(i, 0, 0, 0), i);
      const slot = leases.lowerBound(i);
      same(leases.leaseOrdinal(slot), i);
      leases.settle(slot);
      leases.trim();
      same(leases.tail <= 8, true);
    }
    const slot = leases.lowerBound(0);
    expect([leases.leaseOrdinal(slot), leases.index(slot), leases.ordinal(slot), leases.bytes(slot)]).toEqual([
      1,
      large + 1,
      5,
      6,
    ]);
    expect([leases.history(slot), leases.unsettled]).toEqual([7, 1]);
  });

  it('finds the first lease at or above any ordinal, with gaps anywhere', () => {
    const leases = new Leases();
    let held: number[] = [];
    for (let i = 1; i <= 3000; i++) {
      held.push(leases.push(i, 0, 0, 0));
      // Settles seven of eight at some distance, so that gaps are squeezed out now and then.
      const old = i - 20;
      if (old > 0 && old % 8 !== 0) {
        leases.settle(leases.lowerBound(old));
        leases.trim();
        held = held.filter((ordinal) => ordinal !== old);
      }
      for (const wanted of [0, Math.floor(i / 2), Math.floor(i / 3) * 2, i - 20, i, i + 1, i + 100]) {
        let slot = leases.lowerBound(wanted);
        while (slot < leases.tail && leases.isSettled(slot)) slot++;
        const found = slot < leases.tail ? leases.leaseOrdinal(slot) : undefined;
        same(
          found,
          held.find((ordinal) => ordinal >= wanted),
        );
      }
    }
    expect(leases.unsettled).toBe(held.length);
    const copy = new Leases();
    copy.restore(
      written((writer) => leases.serialise(writer)),
      new LiveCounts(),
    );
    expect([copy.next, copy.unsettled]).toEqual([leases.next, leases.unsettled]);
    for (const ordinal of held) expect(copy.index(copy.lowerBound(ordinal))).toBe(ordinal);
  });
});

describe('returned messages', () => {
  it('come out by (index, ordinal), whatever the order in which they went in', () => {
    const heap = new Returned();
    const expected: [number, number][] = [];
    for (let i = 0; i < 2000; i++) {
      const scattered = (i * 7919) % 2000;
      const index = Math.floor(scattered / 10) * 2 ** 31 + 1;
      heap.push(index, scattered % 10, i, i);
      expected.push([index, scattered % 10]);
      if (i % 3 === 0) {
        expected.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
        same(`${heap.index} ${heap.ordinal}`, expected.shift()!.join(' '));
        heap.shift();
      }
    }
    const copy = new Returned();
    copy.restore(
      written((writer) => heap.serialise(writer)),
      new LiveCounts(),
    );
    expected.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    for (const message of expected) {
      for (const from of [heap, copy]) {
        same(`${from.index} ${from.ordinal}`, message.join(' '));
        from.shift();
      }
      expect(copy.length).toBe(heap.length);
    }
  });
});

describe('live counts', () => {
  it('cost a page where something lives, however far apart', () => {
    const live = new LiveCounts();
    for (let i = 0; i < 50; i++) live.add(1 + i * 1_000_000_007);
    live.add(1);
    expect(live.count(1)).toBe(2);
    expect(live.list(0, Number.MAX_SAFE_INTEGER)).toEqual(Array.from({ length: 50 }, (_, i) => 1 + i * 1_000_000_007));
    expect(live.has(2, 1_000_000_007)).toBe(false);
    expect(live.has(2, 1_000_000_008)).toBe(true);
    live.remove(1);
    expect(live.has(0, 1)).toBe(true);
    live.remove(1);
    expect(live.has(0, 1)).toBe(false);
    for (let i = 1; i < 50; i++) live.remove(1 + i * 1_000_000_007);
    expect(live.list(0, Number.MAX_SAFE_INTEGER)).toEqual([]);
    expect(() => live.remove(1)).toThrow('no live message');
  });

  it('answer for any range', () => {
    const live = new LiveCounts();
    const entries = [1, 255, 256, 257, 511, 512, 1000, 5000];
    for (const index of entries) live.add(index);
    for (const first of [0, 1, 2, 256, 300, 1001])
      for (const last of [0, 1, 255, 512, 999, 1000, 4999, 6000]) {
        const within = entries.filter((index) => index >= first && index <= last);
        expect(live.list(first, last)).toEqual(within);
        expect(live.has(first, last)).toBe(within.length > 0);
      }
  });
});
