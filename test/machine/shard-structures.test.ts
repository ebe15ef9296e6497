// The typed-array structures of the shard machine, each against plain arrays, and at the sizes at which they grow and shrink.

import { describe, expect, it } from 'vitest';
import { ByteReader, ByteWriter, type Steps } from '../../cluster/machine/queue/bytes.ts';
import { Expirations } from '../../cluster/machine/queue/expirations.ts';
import { ChunkPool, Fifo } from '../../cluster/machine/queue/fifo.ts';
import { type Image, Sections } from '../../cluster/machine/queue/images.ts';
import { Leases } from '../../cluster/machine/queue/leases.ts';
import { LiveCounts } from '../../cluster/machine/queue/live.ts';
import { Returned } from '../../cluster/machine/queue/returned.ts';
import { randomFrom } from './shard-random.ts';

const large = 2 ** 40;

function writtenBytes(write: (writer: ByteWriter) => void): ByteReader {
  const writer = new ByteWriter(16);
  write(writer);
  return new ByteReader(Buffer.concat(writer.pieces()));
}

/** The rest of an image, in small pieces. */
function finish(image: Image): Buffer {
  const writer = new ByteWriter(16);
  const pieces: Buffer[] = [];
  for (let more = true; more; pieces.push(...writer.pieces())) more = !image.write(writer, 1000);
  return Buffer.concat(pieces);
}

function taken(capture: (sections: Sections) => void): Sections {
  const sections = new Sections(new ByteWriter(16));
  capture(sections);
  sections.close();
  return sections;
}

const bytesOf = (capture: (sections: Sections) => void): Buffer => finish(taken(capture));

/** Without a rest. */
function atOnce(steps: Steps<unknown>): void {
  while (steps.next().done !== true);
}

const written = (capture: (sections: Sections) => void): ByteReader => new ByteReader(bytesOf(capture));

/** An image to be written later, and what it is to give. */
function image(of: { capture(sections: Sections): void }): { readonly image: Sections; readonly expected: Buffer } {
  return { expected: bytesOf((sections) => of.capture(sections)), image: taken((sections) => of.capture(sections)) };
}

/** For loops: `expect` alone would take most of their time. */
function same(actual: unknown, expected: unknown): void {
  if (actual !== expected) expect(actual).toBe(expected);
}

describe('bytes', () => {
  it('come back as they were written, over the seams of the pieces', () => {
    const reader = writtenBytes((writer) => {
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
      for (let i = 0; i < 20_000; i++, pushed++) {
        // Every thousandth message is more than 32 bits of index away.
        const index = 1 + pushed + Math.floor(pushed / 1000) * 2 ** 33;
        fifo.push(index, pushed & 0xffff, pushed);
        expected.push(index, pushed & 0xffff, pushed);
      }
      for (let i = 0; i < 19_900 + 40 * round; i++) {
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

  it('images stay as they were, while all is taken, absorbed and added, and are read meanwhile', () => {
    const random = randomFrom(11);
    const pool = new ChunkPool();
    pool.imaged = true;
    const fifos = [0, 1, 2].map(() => ({ fifo: new Fifo(pool), held: [] as number[] }));
    const images: {
      readonly image: Sections;
      readonly expected: Buffer;
      readonly pieces: Buffer[];
      isRead: boolean;
    }[] = [];
    const goOn = (one: (typeof images)[number], bytesMax: number) => {
      const writer = new ByteWriter(16);
      one.isRead = one.image.write(writer, bytesMax);
      one.pieces.push(...writer.pieces());
    };
    for (let round = 0, next = 1; round < 800; round++) {
      const one = fifos[random(3)]!;
      const { fifo, held } = one;
      for (let count = random(random(4) === 0 ? 16_000 : 40); count > 0; count--) {
        fifo.push(next, 0, 1);
        held.push(next++);
      }
      for (let count = random(Math.min(held.length + 1, 8000)); count > 0; count--) {
        same(fifo.index, held.shift());
        fifo.shift();
      }
      const other = fifos[random(3)]!;
      if (random(8) === 0 && other !== one) {
        fifo.absorb(other.fifo);
        held.push(...other.held.splice(0));
      }
      if (random(4) === 0) images.push({ ...image(fifo), pieces: [], isRead: false });
      for (const unread of images) if (!unread.isRead && random(6) === 0) goOn(unread, 1 + random(20_000));
      if (random(20) === 0) {
        const copy = new Fifo(pool);
        atOnce(
          copy.restore(
            written((sections) => fifo.capture(sections)),
            new LiveCounts(),
          ),
        );
        for (const index of held) {
          same(copy.index, index);
          copy.shift();
        }
        same(copy.length, 0);
      }
    }
    expect(images.length).toBeGreaterThan(150);
    for (const one of images) {
      while (!one.isRead) goOn(one, 1000);
      expect(Buffer.concat(one.pieces).equals(one.expected)).toBe(true);
    }
  });
});

/** All that is unsettled, as [lease ordinal, index]. */
function unsettled(leases: Leases): [number, number][] {
  const all: [number, number][] = [];
  for (let more = leases.seek(0); more; more = leases.advance()) all.push([leases.leaseOrdinal, leases.index]);
  return all;
}

describe('leases', () => {
  it('stay small when one old lease is never settled', () => {
    const leases = new Leases();
    leases.push(large + 1, 5, 6, 7);
    for (let i = 2; i <= 100_000; i++) {
      same(leases.push(i, 0, 0, 0), i);
      same(leases.seek(i), true);
      same(leases.leaseOrdinal, i);
      leases.settle();
      same(leases.advance(), false);
      same(leases.slots <= 8, true);
    }
    expect(leases.seek(0)).toBe(true);
    expect([leases.leaseOrdinal, leases.index, leases.ordinal, leases.bytes]).toEqual([1, large + 1, 5, 6]);
    expect([leases.history, leases.unsettled]).toEqual([7, 1]);
  });

  it('stay small when one of a hundred is never settled, and shrink when all are', () => {
    const leases = new Leases();
    for (let i = 1; i <= 100_000; i++) {
      leases.push(i, 0, 0, 0);
      if (i <= 3000 || i % 100 === 0) continue;
      leases.seek(i - 2000);
      if (leases.leaseOrdinal === i - 2000) leases.settle();
    }
    expect(leases.slots).toBeLessThanOrEqual(4 * leases.unsettled + 1024);
    for (let more = leases.seek(0); more; more = leases.advance()) leases.settle();
    expect([leases.unsettled, leases.slots, leases.seek(0)]).toEqual([0, 0, false]);
    same(leases.push(7, 0, 0, 0), 100_001);
    expect(unsettled(leases)).toEqual([[100_001, 7]]);
  });

  it('finds the first lease at or above any ordinal, with gaps anywhere', () => {
    const leases = new Leases();
    let held: number[] = [];
    for (let i = 1; i <= 3000; i++) {
      held.push(leases.push(i, 0, 0, 0));
      // Settles seven of eight at some distance, so that gaps are squeezed out now and then.
      const old = i - 20;
      if (old > 0 && old % 8 !== 0) {
        leases.seek(old);
        leases.settle();
        held = held.filter((ordinal) => ordinal !== old);
      }
      for (const wanted of [0, Math.floor(i / 2), Math.floor(i / 3) * 2, i - 20, i, i + 1, i + 100]) {
        const found = leases.seek(wanted) ? leases.leaseOrdinal : undefined;
        same(
          found,
          held.find((ordinal) => ordinal >= wanted),
        );
      }
    }
    expect(leases.unsettled).toBe(held.length);
    const copy = new Leases();
    atOnce(
      copy.restore(
        written((sections) => leases.capture(sections)),
        new LiveCounts(),
      ),
    );
    expect([copy.next, copy.unsettled]).toEqual([leases.next, leases.unsettled]);
    expect(unsettled(copy)).toEqual(held.map((ordinal) => [ordinal, ordinal]));
  });

  it('do what a map does, with ranges settled anywhere, far ordinals, and images that stay as they were', () => {
    const random = randomFrom(7);
    let leases = new Leases();
    let held = new Map<number, number>();
    const images: { readonly image: Sections; readonly expected: Buffer }[] = [];
    for (let round = 0; round < 300; round++) {
      for (let count = random(4) === 0 ? random(12_000) : random(50); count > 0; count--)
        held.set(leases.push(large + round, 1, 2, 3), large + round);
      if (random(100) === 0) leases.next += 2 ** 33;
      const first = random(3) === 0 ? 0 : leases.next - random(20_000);
      const [end, step] = [first + random(random(5) === 0 ? 20_000 : 300), 1 + random(3)];
      for (let more = leases.seek(first, end), i = 0; more; more = leases.advance(), i++) {
        if (i % step > 0) continue;
        same(held.delete(leases.leaseOrdinal), true);
        leases.settle();
      }
      same(leases.unsettled, held.size);
      if (round % 10 > 0) continue;
      same(JSON.stringify(unsettled(leases)), JSON.stringify([...held]));
      if (random(2) === 0) images.push(image(leases));
      if (random(8) === 0) {
        const copy = new Leases();
        atOnce(copy.restore(new ByteReader(bytesOf((sections) => leases.capture(sections))), new LiveCounts()));
        leases = copy;
        held = new Map(held);
      }
    }
    expect(images.length).toBeGreaterThan(5);
    for (const { image: taken, expected } of images) expect(finish(taken).equals(expected)).toBe(true);
  });
});

describe('returned messages', () => {
  it('come out by (index, ordinal), whatever the order in which they went in', () => {
    const returned = new Returned();
    const expected: [number, number][] = [];
    for (let i = 0; i < 2000; i++) {
      const scattered = (i * 7919) % 2000;
      const index = Math.floor(scattered / 10) * 2 ** 31 + 1;
      returned.push(index, scattered % 10, i, i);
      expected.push([index, scattered % 10]);
      if (i % 3 === 0) {
        expected.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
        same(`${returned.index} ${returned.ordinal}`, expected.shift()!.join(' '));
        returned.shift();
      }
    }
    const copy = new Returned();
    atOnce(
      copy.restore(
        written((sections) => returned.capture(sections)),
        new LiveCounts(),
      ),
    );
    expected.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    for (const message of expected) {
      for (const from of [returned, copy]) {
        same(`${from.index} ${from.ordinal}`, message.join(' '));
        from.shift();
      }
      expect(copy.length).toBe(returned.length);
    }
  });

  it('do what a sorted list does, ascending, descending and scattered, and images stay as they were', () => {
    const random = randomFrom(11);
    const returned = new Returned();
    let expected: number[] = [];
    const images: { readonly image: Sections; readonly expected: Buffer }[] = [];
    const free = Array.from({ length: 400_000 }, (_, i) => i);
    for (let round = 0; round < 120; round++) {
      const kind = random(4);
      const at = random(Math.max(1, free.length - 12_000));
      let chosen = free.splice(at, kind === 3 ? random(40) : random(12_000));
      if (kind === 1) chosen.reverse();
      else if (kind === 2)
        chosen = chosen
          .map((key) => ({ key, place: random(1e9) }))
          .sort((a, b) => a.place - b.place)
          .map(({ key }) => key);
      for (const key of chosen) returned.push(large + (key >> 4), key & 15, 3, key);
      expected.push(...chosen);
      expected.sort((a, b) => a - b);
      for (let count = random(14_000); count > 0 && expected.length > 0; count--) {
        same(returned.history, expected.shift());
        returned.shift();
      }
      same(returned.length, expected.length);
      same(returned.totalBytes, 3 * expected.length);
      if (round % 5 === 0) images.push(image(returned));
    }
    for (const key of expected) {
      same(returned.index * 16 + returned.ordinal, large * 16 + key);
      returned.shift();
    }
    expected = [];
    for (const { image: taken, expected: bytes } of images) expect(finish(taken).equals(bytes)).toBe(true);
  });
});

describe('live counts', () => {
  it('cost a page where something lives, however far apart', () => {
    const live = new LiveCounts();
    for (let i = 0; i < 50; i++) live.add(1 + i * 1_000_000_007);
    live.add(1);
    expect(live.count(1)).toBe(2);
    expect([...live.list(0, Number.MAX_SAFE_INTEGER)]).toEqual(
      Array.from({ length: 50 }, (_, i) => 1 + i * 1_000_000_007),
    );
    expect(live.has(2, 1_000_000_007)).toBe(false);
    expect(live.has(2, 1_000_000_008)).toBe(true);
    live.remove(1);
    expect(live.has(0, 1)).toBe(true);
    live.remove(1);
    expect(live.has(0, 1)).toBe(false);
    for (let i = 1; i < 50; i++) live.remove(1 + i * 1_000_000_007);
    expect([...live.list(0, Number.MAX_SAFE_INTEGER)]).toEqual([]);
    expect(() => live.remove(1)).toThrow('no live message');
  });

  it('answer for any range', () => {
    const live = new LiveCounts();
    const entries = [1, 255, 256, 257, 511, 512, 1000, 5000];
    for (const index of entries) live.add(index);
    for (const first of [0, 1, 2, 256, 300, 1001])
      for (const last of [0, 1, 255, 512, 999, 1000, 4999, 6000]) {
        const within = entries.filter((index) => index >= first && index <= last);
        expect([...live.list(first, last)]).toEqual(within);
        expect(live.has(first, last)).toBe(within.length > 0);
      }
  });
});

describe('expirations', () => {
  it('do what a map does, with removals at the front, behind a row that stays, and anywhere, and images that stay as they were', () => {
    const random = randomFrom(11);
    const expirations = new Expirations();
    const known = new Map<string, number>();
    const held: (readonly [index: number, ordinal: number])[] = [];
    const images: { readonly image: Sections; readonly expected: Buffer }[] = [];
    let [index, ordinal] = [2 ** 32 - 20, 0];
    const add = () => {
      if (random(3) === 0) [index, ordinal] = [index + 1 + random(3), 0];
      else ordinal++;
      const due = 2 ** 41 + random(1e9);
      expirations.add(index, ordinal, due);
      known.set(`${index}.${ordinal}`, due);
      held.push([index, ordinal]);
    };
    for (let round = 0; round < 200; round++) {
      for (let count = random(4) === 0 ? random(9_000) : random(100); count > 0; count--) add();
      const from = random(3) === 0 ? Math.min(1 + random(3), held.length) : 0;
      const gone = random(10) === 0 ? held.length : random(Math.min(held.length + 1, 6_000));
      const isSparse = random(4) === 0;
      if (round % 5 === 0) images.push(image(expirations));
      const leaving = isSparse ? held.filter(() => random(3) > 0) : held.slice(from, from + gone);
      for (const [i, o] of leaving) {
        if (!isSparse) same(expirations.due(i, o), known.get(`${i}.${o}`));
        expirations.remove(i, o);
        known.delete(`${i}.${o}`);
      }
      const left = held.filter(([i, o]) => known.has(`${i}.${o}`));
      held.splice(0, held.length, ...left);
      same(expirations.length, known.size);
      for (let probes = 20; probes > 0 && held.length > 0; probes--) {
        const [i, o] = held[random(held.length)]!;
        same(expirations.due(i, o), known.get(`${i}.${o}`));
        same(expirations.due(i, o + 1), known.get(`${i}.${o + 1}`) ?? Number.POSITIVE_INFINITY);
        expirations.remove(i - 1, 0xffff);
      }
      for (const [i, o] of leaving.slice(0, 20)) same(expirations.due(i, o), Number.POSITIVE_INFINITY);
    }
    const bytes = bytesOf((sections) => expirations.capture(sections));
    const copy = new Expirations();
    atOnce(copy.restore(new ByteReader(bytes)));
    expect(bytesOf((sections) => copy.capture(sections)).equals(bytes)).toBe(true);
    expect([copy.length, held.length]).toEqual([known.size, known.size]);
    for (const [i, o] of held) same(copy.due(i, o), known.get(`${i}.${o}`));
    for (const { image, expected } of images) expect(finish(image).equals(expected)).toBe(true);
  });
});
