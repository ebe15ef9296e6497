// The clocks of one machine in a simulated world: their rate, jumps, and a process that stands still.

import { describe, expect, it } from 'vitest';
import { createMemoryClock } from '../support/memory-clock.ts';
import { createNodeClock } from '../support/node-clock.ts';

const create = (wallOffset = 0) => {
  const world = createMemoryClock(1_000_000);
  world.advance(10);
  const node = createNodeClock(world, wallOffset);
  return { world, node, clock: node.begin() };
};

describe('the clock of a machine', () => {
  it('runs like the clock of the world, at first', () => {
    const { world, clock } = create(500);
    const ran: number[] = [];
    clock.after(5, () => ran.push(world.now()));
    clock.soon(() => ran.push(world.now()));
    world.advance(100);
    expect(ran).toEqual([10, 15]);
    expect([clock.now(), clock.wall()]).toEqual([110, 1_000_610]);
  });

  it.each([0.5, 2])('runs %d times as fast, and its timers with it', (rate) => {
    const { world, node, clock } = create();
    node.rate = rate;
    const ran: number[] = [];
    clock.after(40, () => ran.push(world.now()));
    world.advance(100);
    expect(ran).toEqual([10 + 40 / rate]);
    expect(clock.now()).toBe(10 + 100 * rate);
    expect(clock.wall()).toBe(1_000_010 + 100 * rate);
    node.rate = 1;
    world.advance(10);
    expect(clock.now()).toBe(20 + 100 * rate);
  });

  it('never runs a timer early when its rate changes meanwhile', () => {
    const { world, node, clock } = create();
    const ran: number[] = [];
    node.rate = 2;
    const due = clock.now() + 100;
    clock.after(100, () => ran.push(clock.now()));
    world.advance(10);
    node.rate = 0.5;
    world.advance(500);
    expect(ran).toEqual([due]);
  });

  it('jumps, and only its wall clock notices', () => {
    const { world, node, clock } = create();
    node.jumpWall(-400);
    world.advance(10);
    expect([clock.now(), clock.wall()]).toEqual([20, 999_620]);
  });
});

describe('a process', () => {
  it('runs what fell due while it stood still, in order, when it goes on', () => {
    const { world, node, clock } = create();
    const ran: string[] = [];
    clock.after(5, () => ran.push('timer'));
    clock.after(50, () => ran.push('later'));
    const cancelled = clock.after(6, () => ran.push('cancelled'));
    clock.soon(() => ran.push('soon'));
    node.pause();
    node.run(() => ran.push('disk'));
    world.advance(20);
    expect([ran, node.isPaused]).toEqual([[], true]);
    cancelled.cancel();
    node.resume();
    expect(ran).toEqual(['disk', 'soon', 'timer']);
    world.advance(40);
    expect(ran.at(-1)).toBe('later');
    expect(clock.now()).toBe(70);
  });

  it('may find that its monotonic clock stood with it, and its wall clock did not', () => {
    const { world, node, clock } = create();
    const ran: number[] = [];
    clock.after(50, () => ran.push(world.now()));
    world.advance(10);
    const before = clock.now();
    node.pause();
    world.advance(1_000);
    node.resume(true);
    expect([clock.now(), clock.wall()]).toEqual([before, 1_001_020]);
    world.advance(100);
    expect(ran).toEqual([1_060]);
  });

  it('is never called again once it ended, and the next one begins anew', () => {
    const { world, node, clock } = create();
    const ran: string[] = [];
    clock.after(5, () => ran.push('timer'));
    clock.soon(() => ran.push('soon'));
    node.pause();
    node.run(() => ran.push('disk'));
    node.end();
    const next = node.begin();
    next.after(7, () => ran.push('next'));
    world.advance(100);
    expect(ran).toEqual(['next']);
  });
});
