// Delivery tags and confirms against models that are simple and slow.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Confirms } from '../../node/amqp/confirms.ts';
import { DeliveryTags } from '../../node/amqp/delivery-tags.ts';
import { createMemoryRandom } from '../support/memory-random.ts';

describe('delivery tags', () => {
  it('are found, settled once and forgotten, in any order', () => {
    const step = fc.oneof(
      { weight: 5, arbitrary: fc.record({ kind: fc.constant('add' as const), gap: fc.nat(3), got: fc.boolean() }) },
      { weight: 4, arbitrary: fc.record({ kind: fc.constant('take' as const), tag: fc.nat(400) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('through' as const), tag: fc.nat(400) }) },
    );
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 300 }), (steps) => {
        const tags = new DeliveryTags();
        const model = new Map<number, { ordinal: number; got: boolean }>();
        let last = 0;
        for (const now of steps) {
          if (now.kind === 'add') {
            last += 1 + now.gap;
            tags.add(last, last % 3, last * 2, now.got);
            model.set(last, { ordinal: last * 2, got: now.got });
          } else if (now.kind === 'take') {
            const expected = model.get(now.tag);
            expect(tags.has(now.tag)).toBe(expected !== undefined);
            expect(tags.take(now.tag)).toBe(expected !== undefined);
            if (expected !== undefined) expect(tags.takenOrdinal).toBe(expected.ordinal);
            model.delete(now.tag);
          } else {
            while (tags.oldest <= now.tag) {
              const [tag] = model.keys();
              expect(tags.oldest).toBe(tag);
              tags.takeOldest();
              expect(tags.takenConsumer).toBe(tag! % 3);
              model.delete(tag!);
            }
          }
          expect(tags.outstanding).toBe(model.size);
          expect(tags.windowed).toBe([...model.values()].filter((entry) => !entry.got).length);
        }
        expect(tags.oldest).toBe(model.size === 0 ? Number.POSITIVE_INFINITY : [...model.keys()][0]);
      }),
      { numRuns: 200 },
    );
  });

  it('stay few thousand to a piece, and are found in all of them, whatever was settled before', () => {
    for (const kept of [2, 5, 1000]) {
      const random = createMemoryRandom(kept);
      const tags = new DeliveryTags();
      const model = new Set<number>();
      for (let tag = 1; tag <= 30_000; tag++) {
        tags.add(tag, 1, tag + 7, false);
        model.add(tag);
      }
      const take = (tag: number) => {
        if (!tags.take(tag) || !model.delete(tag) || tags.takenOrdinal !== tag + 7)
          throw new Error(`tag ${tag} is lost`);
      };
      // Most of them go in any order, others come.
      const going = [...model].filter((tag) => tag % kept !== 0);
      while (going.length > 0) {
        const at = random.integer(going.length);
        take(going[at]!);
        going[at] = going[going.length - 1]!;
        going.pop();
        if (going.length % 20 !== 0) continue;
        const tag = 40_000 - going.length / 20;
        tags.add(tag, 2, tag + 7, true);
        model.add(tag);
      }
      expect([tags.outstanding, tags.windowed]).toEqual([model.size, 30_000 / kept]);
      expect(tags.upTo(Number.POSITIVE_INFINITY)).toEqual([...model].sort((a, b) => a - b));
      for (const tag of [...model]) {
        if (!tags.has(tag)) throw new Error(`tag ${tag} is lost`);
        if (tag % 2 === 0) take(tag);
      }
      for (const tag of [...model].sort((a, b) => a - b)) {
        if (tags.oldest !== tag) throw new Error(`${tags.oldest} is the oldest, not ${tag}`);
        tags.takeOldest();
      }
      expect(tags.outstanding).toBe(0);
    }
  });

  it('are found again after one is held for ever', () => {
    const tags = new DeliveryTags();
    tags.add(1, 1, 1, false);
    for (let tag = 2; tag < 100_000; tag++) {
      tags.add(tag, 1, tag, false);
      if (!tags.take(tag)) throw new Error(`tag ${tag} is lost`);
    }
    expect(tags.take(1)).toBe(true);
    expect(tags.outstanding).toBe(0);
  });
});

describe('confirms', () => {
  it('tell every publish its fate once, whatever the order and the flushes', () => {
    const scenario = fc.record({
      count: fc.integer({ min: 1, max: 200 }),
      cuts: fc.array(fc.nat(199), { maxLength: 30 }),
      order: fc.infiniteStream(fc.nat(1_000_000)),
      fates: fc.infiniteStream(fc.record({ ok: fc.integer({ min: 0, max: 9 }), flush: fc.nat(2) })),
    });
    fc.assert(
      fc.property(scenario, ({ count, cuts, order, fates }) => {
        const confirms = new Confirms();
        for (let tag = 1; tag <= count; tag++) expect(confirms.next()).toBe(tag);
        const edges = [...new Set([0, ...cuts.filter((cut) => cut < count), count])].sort((a, b) => a - b);
        const ranges = edges
          .slice(1)
          .map((edge, index) => ({ first: edges[index]! + 1, last: edge, at: order.next().value }));
        ranges.sort((a, b) => a.at - b.at);
        const fate = new Map<number, boolean>();
        const client = new Map<number, boolean>();
        const sink = {
          confirm(_channel: number, tag: number, multiple: boolean, negative: boolean) {
            // As clients understand it: multiple is for all that are still open up to the tag.
            for (let open = multiple ? 1 : tag; open <= tag; open++) {
              if (multiple && client.has(open)) continue;
              if (client.has(open)) throw new Error(`${open} was told twice`);
              if (fate.get(open) !== !negative) throw new Error(`${open} was told what it is not`);
              client.set(open, !negative);
            }
          },
        };
        for (const { first, last } of ranges) {
          const { ok, flush } = fates.next().value;
          for (let tag = first; tag <= last; tag++) fate.set(tag, ok > 2);
          confirms.settle(first, last, ok > 2);
          expect(confirms.hasNews).toBe(true);
          if (flush > 0) continue;
          confirms.flush(7, sink);
          expect(confirms.hasNews).toBe(false);
          expect(client.size).toBe(fate.size);
        }
        confirms.flush(7, sink);
        expect(client.size).toBe(count);
      }),
      { numRuns: 200 },
    );
  });

  it('refuse to confirm twice, or what was not published', () => {
    const confirms = new Confirms();
    for (let i = 0; i < 5; i++) confirms.next();
    confirms.settle(3, 4, true);
    expect(() => confirms.settle(4, 4, false)).toThrow('confirmed twice');
    expect(() => confirms.settle(1, 3, true)).toThrow('confirmed twice');
    expect(() => confirms.settle(5, 6, true)).toThrow('not within');
    confirms.settle(1, 2, true);
    expect(() => confirms.settle(2, 2, true)).toThrow('not within');
  });
});
