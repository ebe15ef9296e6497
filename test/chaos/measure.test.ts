// What a run costs, out of made-up events: latencies, stalls of streams and of the whole load, and who is excused.

import { describe, expect, test } from 'vitest';
import { Tape } from './scene.ts';

const spanOf = (tape: Tape, name: string) => tape.meter.spans.find((span) => span.name === name)!;

describe('latencies', () => {
  test('are of confirms, and of first deliveries', () => {
    const tape = new Tape();
    expect(tape.meter.confirms).toBeNull();
    tape.open('publisher-0.0', 1);
    for (let i = 0; i < 100; i++) {
      const place = tape.publish('publisher-0.0', 'q', i, `id/${i}`);
      tape.deliver(`id/${i}`, i + 7);
      tape.answer(place, i + (i === 99 ? 50 : 5));
      tape.deliver(`id/${i}`, i + 1000);
    }
    const { confirms, deliveries } = tape.meter;
    expect(confirms!.count).toBe(100);
    expect(confirms!.p50).toBeCloseTo(5, 1);
    expect(confirms!.max).toBeCloseTo(50, 0);
    expect(deliveries).toMatchObject({ count: 100 });
    expect(deliveries!.max).toBeCloseTo(7, 1);
  });

  test('refusals and silence have none', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    tape.answer(tape.publish('publisher-0.0', 'q', 0), 10, 'refused');
    tape.answer(tape.publish('publisher-0.0', 'q', 0), 10, 'unknown');
    expect(tape.meter.confirms).toBeNull();
    expect(tape.meter).toMatchObject({ sent: 2, confirmed: 0 });
  });
});

test('warming up counts for nothing but the sums', () => {
  const tape = new Tape();
  tape.open('publisher-0.0', 1);
  tape.answer(tape.publish('publisher-0.0', 'q', 0), 900);
  const waiting = tape.publish('publisher-0.0', 'q', 950);
  tape.meter.begin(1000);
  expect(tape.meter).toMatchObject({ longestStall: 0, stalls: [], confirms: null, sent: 2 });
  tape.answer(waiting, 1200);
  expect(tape.meter.stalls).toEqual([{ from: 1000, to: 1200 }]);
  expect(tape.meter.longest).toEqual({ from: 1000, to: 1200 });
});

test('samples are what happened since the last one', () => {
  const tape = new Tape();
  tape.open('publisher-0.0', 1);
  tape.serve('publisher-0.0', 'q', 0, 100);
  expect(tape.meter.sample(250, 3)).toEqual({ at: 250, sent: 10, confirmed: 10, delivered: 0, awaited: 3 });
  tape.serve('publisher-0.0', 'q', 250, 280);
  tape.deliver('id', 300);
  expect(tape.meter.sample(500, 0)).toEqual({ at: 500, sent: 3, confirmed: 3, delivered: 1, awaited: 0 });
});

describe('stalls', () => {
  test('are of one queue while others go on, and put down to the fault that they overlap', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    tape.serve('publisher-0.0', 'a', 0, 1000);
    const span = tape.meter.span('kill -9', [3], 200);
    const waiting = tape.publish('publisher-0.0', 'b', 210);
    tape.serve('publisher-0.0', 'a', 220, 500);
    tape.answer(waiting, 600);
    span.to = 400;
    tape.meter.sample(10_000, 0);
    expect(tape.meter.longestStall).toBe(390);
    expect(tape.meter.stalls).toEqual([{ from: 210, to: 600 }]);
    expect(spanOf(tape, 'kill -9').stallMilliseconds).toBe(390);
  });

  test('begin with what is unconfirmed: who has nothing to send does not wait', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    tape.serve('publisher-0.0', 'a', 0, 10);
    tape.serve('publisher-0.0', 'a', 5000, 5010);
    expect(tape.meter.longestStall).toBe(1);
  });

  test('do not end with a refusal, an unknown outcome, or a new connection', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    tape.open('publisher-1.0', 2);
    const first = tape.publish('publisher-0.0', 'a', 100);
    tape.answer(first, 200, 'refused');
    const second = tape.publish('publisher-0.0', 'a', 250);
    tape.end('publisher-0.0', 300);
    tape.answer(second, 300, 'unknown');
    tape.open('publisher-0.1', 1, 400);
    tape.answer(tape.publish('publisher-0.1', 'a', 450), 500);
    expect(tape.meter.longestStall).toBe(400);
  });

  test('end when the publisher wants no more', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    tape.open('publisher-1.0', 2);
    tape.publish('publisher-0.0', 'a', 100);
    tape.end('publisher-0.0', 200, true);
    tape.serve('publisher-1.0', 'a', 100, 900);
    tape.meter.finish(1000);
    expect(tape.meter.longestStall).toBeLessThan(120);
  });

  test('without an end last until the load is over', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    tape.publish('publisher-0.0', 'a', 100);
    tape.meter.finish(1600);
    expect(tape.meter.longestStall).toBe(1500);
  });

  test('of the whole load count also when all its connections are gone', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    tape.serve('publisher-0.0', 'a', 0, 100);
    tape.meter.unwell([1]);
    tape.end('publisher-0.0', 100);
    tape.open('publisher-0.1', 1, 700);
    tape.answer(tape.publish('publisher-0.1', 'a', 710), 720);
    expect(tape.meter.longestStall).toBe(620);
  });

  test('through a node that is not well do not count, from its harm to the next confirm when it is well again', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    tape.open('publisher-1.0', 2);
    const span = tape.meter.span('pause', [1], 100);
    const waiting = tape.publish('publisher-0.0', 'a', 90);
    tape.meter.unwell([1]);
    tape.serve('publisher-1.0', 'a', 90, 2000, 5);
    span.to = 1000;
    tape.meter.well([1]);
    tape.answer(waiting, 2001);
    expect(tape.meter.longestStall).toBeLessThanOrEqual(10);
    const late = tape.publish('publisher-0.0', 'a', 2001);
    tape.serve('publisher-1.0', 'a', 2001, 2200, 5);
    tape.answer(late, 2201);
    expect(tape.meter.longestStall).toBe(200);
    tape.meter.sample(3000, 0);
    expect(spanOf(tape, 'pause').stallMilliseconds).toBe(200);
  });

  test('of harms that overlap: a node is well when all have ended', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    tape.open('publisher-1.0', 2);
    tape.meter.unwell([1]);
    tape.meter.unwell([1, 3]);
    tape.meter.well([1]);
    const waiting = tape.publish('publisher-0.0', 'a', 0);
    tape.serve('publisher-1.0', 'a', 0, 500, 5);
    tape.answer(waiting, 500);
    expect(tape.meter.longestStall).toBeLessThanOrEqual(10);
  });

  test('do not last longer because this process did not run when the confirm came', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    const first = tape.publish('publisher-0.0', 'a', 1000);
    for (let at = 1000; at <= 1200; at += 10) tape.meter.awake(at);
    // Nothing from 1200 on; the confirm is seen before the next sign of life.
    tape.answer(first, 1500);
    expect(tape.meter.longestStall).toBe(200);
    tape.meter.awake(1501);
    const second = tape.publish('publisher-0.0', 'a', 1501);
    for (let at = 1501; at <= 1801; at += 10) tape.meter.awake(at);
    // Nothing from 1801 on; the confirm is seen right after the next sign of life.
    tape.meter.awake(2200);
    tape.answer(second, 2205);
    expect(tape.meter.longestStall).toBe(300);
    expect(tape.meter.stalls.at(-1)).toEqual({ from: 1501, to: 1801 });
    // Awake for a while, and still nothing had come: all of it was waiting.
    const third = tape.publish('publisher-0.0', 'a', 2300);
    tape.meter.awake(2300);
    tape.meter.awake(2600);
    for (let at = 2600; at <= 2700; at += 10) tape.meter.awake(at);
    tape.answer(third, 2705);
    expect(tape.meter.longestStall).toBe(405);
  });

  test('that overlap are listed once, by the longest', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    const a = tape.publish('publisher-0.0', 'a', 100);
    const b = tape.publish('publisher-0.0', 'b', 150);
    tape.answer(a, 500);
    tape.answer(b, 700);
    expect(tape.meter.stalls).toEqual([{ from: 150, to: 700 }]);
  });

  test('long after a fault are not put down to it', () => {
    const tape = new Tape();
    tape.open('publisher-0.0', 1);
    const span = tape.meter.span('cut', [2], 0);
    span.to = 1000;
    tape.answer(tape.publish('publisher-0.0', 'a', 6100), 7000);
    tape.meter.sample(8000, 0);
    expect(spanOf(tape, 'cut').stallMilliseconds).toBe(0);
    expect(tape.meter.longestStall).toBe(900);
  });
});

test('it is known who was served since when', () => {
  const tape = new Tape();
  tape.open('publisher-0.0', 1);
  tape.open('publisher-1.0', 2);
  tape.serve('publisher-0.0', 'a', 0, 100);
  tape.publish('publisher-1.0', 'a', 50);
  expect(tape.meter.publishers).toBe(2);
  expect(tape.meter.unservedSince(0)).toEqual([{ name: 'publisher-1', node: 2 }]);
  expect(tape.meter.unservedSince(200).length).toBe(2);
});
