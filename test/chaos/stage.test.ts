// The stage: time that is up, faults that are ended whatever happens, choices by the seed.

import { expect, test } from 'vitest';
import { Meter } from '../../chaos/measure.ts';
import { createRandom, pickFrom, RunningStage } from '../../chaos/stage.ts';
import type { FaultSpan } from '../../chaos/types.ts';
import { quietObserver, RecordingTarget, Tape } from './scene.ts';

function stageOf(milliseconds: number) {
  const target = new RecordingTarget(3);
  const meter = new Meter();
  const ended: FaultSpan[] = [];
  const interrupted = new AbortController();
  const begun = performance.now();
  const stage = new RunningStage({
    target,
    seed: 1,
    name: 'test',
    milliseconds,
    follower: 0,
    meter,
    observer: { ...quietObserver, faultEnds: (span) => ended.push(span) },
    now: () => performance.now() - begun,
    storm: () => {},
    signal: interrupted.signal,
  });
  return { stage, meter, ended, interrupted };
}

test('the same words make the same choices, other words others', () => {
  const draw = (...words: (string | number)[]) => {
    const random = createRandom(...words);
    return Array.from({ length: 50 }, () => random(1000));
  };
  expect(draw(7, 'a')).toEqual(draw(7, 'a'));
  expect(draw(7, 'a')).not.toEqual(draw(8, 'a'));
  expect(draw(7, 'a')).not.toEqual(draw(7, 'b'));
  expect(new Set(draw(1, 'x')).size).toBeGreaterThan(30);
  expect(pickFrom(createRandom(1), [1, 2, 3, 4], 9).sort()).toEqual([1, 2, 3, 4]);
});

test('sleep ends with the time of the scenario, and when the run is interrupted', async () => {
  // A timer counts in whole milliseconds, and may be early by a part of one.
  for (let i = 0; i < 40; i++) {
    const { stage } = stageOf(2 + i / 20);
    await stage.sleep(60_000);
    expect(stage.isOver).toBe(true);
  }
  const { stage: long, interrupted } = stageOf(60_000);
  const slept = long.sleep(60_000);
  interrupted.abort();
  await slept;
  expect(long.isOver).toBe(true);
});

test('a fault is ended, and on the timeline, whatever happens', async () => {
  const { stage, ended } = stageOf(10_000);
  const calls: string[] = [];
  const fails = stage.fault(
    'breaks',
    [2],
    10,
    () => Promise.reject(new Error('cannot begin')),
    async () => void calls.push('end'),
  );
  await expect(fails).rejects.toThrow('cannot begin');
  await stage.fault(
    'works',
    [1],
    20,
    async () => void calls.push('begin'),
    async () => void calls.push('end'),
  );
  expect(calls).toEqual(['end', 'begin', 'end']);
  expect(ended.map(({ name, nodes }) => [name, nodes])).toEqual([
    ['breaks', [2]],
    ['works', [1]],
  ]);
  expect(ended[1]!.to - ended[1]!.from).toBeGreaterThanOrEqual(15);
});

test('a harmed node counts as well again only when the cluster is calm', async () => {
  const { stage, meter } = stageOf(10_000);
  const tape = new Tape(meter);
  tape.open('publisher-0.0', 1);
  tape.open('publisher-1.0', 2);
  const wait = (from: number, to: number) => {
    const waiting = tape.publish('publisher-1.0', 'q', from);
    tape.serve('publisher-0.0', 'q', from, to, 5);
    tape.answer(waiting, to);
  };
  const nothing = async () => {};
  await stage.fault('pause', [2], 1, nothing, nothing);
  wait(0, 500);
  expect(meter.longestStall).toBeLessThan(10);
  await stage.calm();
  wait(1000, 1400);
  expect(meter.longestStall).toBe(400);
});

test('who joins is one of the nodes until it leaves', async () => {
  const { stage } = stageOf(1000);
  const joined = await stage.join();
  expect(stage.nodes).toEqual([1, 2, 3, joined]);
  await stage.leave(joined);
  expect(stage.nodes).toEqual([1, 2, 3]);
});
