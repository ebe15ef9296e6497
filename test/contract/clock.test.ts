// What every Clock must do, and then what only the simulated one does. The real one is given generous bounds: the machine may be busy.

import { describe, expect, it } from 'vitest';
import { createClock } from '../../cluster/os.ts';
import type { Clock } from '../../cluster/ports.ts';
import { createMemoryClock } from '../support/memory-clock.ts';

interface Subject {
  readonly clock: Clock;
  /** Lets this much time pass. */
  pass(milliseconds: number): Promise<void>;
}

const subjects: Record<string, () => Subject> = {
  real: () => ({
    clock: createClock(),
    pass: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds + 20)),
  }),
  memory: () => {
    const clock = createMemoryClock();
    return { clock, pass: (milliseconds) => clock.run(milliseconds) };
  },
};

for (const [name, create] of Object.entries(subjects)) {
  describe(`clock: ${name}`, () => {
    it('moves on, and never back', async () => {
      const { clock, pass } = create();
      const now = clock.now();
      const wall = clock.wall();
      await pass(20);
      expect(clock.now()).toBeGreaterThanOrEqual(now + 20);
      expect(clock.wall()).toBeGreaterThanOrEqual(wall + 19);
      expect(Number.isInteger(clock.wall())).toBe(true);
    });

    it('runs a timer once and never early', async () => {
      const { clock, pass } = create();
      const start = clock.now();
      const waits: number[] = [];
      for (const wait of [0, 0.3, 1, 2.5, 7, 15])
        clock.after(wait, () => waits.push(Math.min(0, clock.now() - start - wait)));
      await pass(40);
      expect(waits).toEqual([0, 0, 0, 0, 0, 0]);
    });

    it('does not run a cancelled timer, and lets a late cancel be', async () => {
      const { clock, pass } = create();
      const ran: string[] = [];
      const cancelled = clock.after(5, () => ran.push('cancelled'));
      const kept = clock.after(5, () => ran.push('kept'));
      cancelled.cancel();
      cancelled.cancel();
      await pass(10);
      kept.cancel();
      expect(ran).toEqual(['kept']);
    });

    it.each(['soon', 'nextTurn'] as const)(
      'runs tasks once, in order, after what is running now: %s',
      async (asked) => {
        const { clock, pass } = create();
        const ran: string[] = [];
        clock[asked](() => {
          ran.push('first');
          clock[asked](() => ran.push('third'));
        });
        clock[asked](() => ran.push('second'));
        ran.push('now');
        await pass(1);
        expect(ran).toEqual(['now', 'first', 'second', 'third']);
      },
    );

    it('takes waits longer than a 32-bit number of milliseconds', async () => {
      const { clock, pass } = create();
      let ran = false;
      const timer = clock.after(2 ** 32, () => {
        ran = true;
      });
      await pass(20);
      timer.cancel();
      expect(ran).toBe(false);
    });
  });
}

describe('memory clock', () => {
  it('runs tasks before timers and timers by due time, then by age', () => {
    const clock = createMemoryClock();
    const ran: string[] = [];
    clock.after(5, () => ran.push(`b ${clock.now()}`));
    clock.after(3, () => {
      ran.push(`a ${clock.now()}`);
      clock.soon(() => ran.push(`soon ${clock.now()}`));
    });
    clock.after(5, () => ran.push(`c ${clock.now()}`));
    clock.after(3, () => ran.push(`d ${clock.now()}`));
    clock.advance(4);
    expect(ran).toEqual(['a 3', 'soon 3', 'd 3']);
    expect(clock.now()).toBe(4);
    clock.advance(10);
    expect(ran.slice(3)).toEqual(['b 5', 'c 5']);
  });

  it('keeps many timers in order', () => {
    const clock = createMemoryClock();
    const ran: number[] = [];
    for (let i = 0; i < 500; i++) {
      const due = (i * 7919) % 503;
      const timer = clock.after(due, () => ran.push(due));
      if (i % 5 === 0) timer.cancel();
    }
    clock.advance(1000);
    expect(ran.length).toBe(400);
    expect(ran).toEqual([...ran].sort((a, b) => a - b));
  });

  it('lets promises settle between steps', async () => {
    const clock = createMemoryClock();
    const ran: string[] = [];
    clock.after(1, () => void Promise.resolve().then(() => clock.after(1, () => ran.push(`inner ${clock.now()}`))));
    clock.after(3, () => ran.push(`outer ${clock.now()}`));
    expect(await clock.runUntil(() => ran.length === 2, 10)).toBe(true);
    expect(ran).toEqual(['inner 2', 'outer 3']);
    expect(await clock.runUntil(() => false, 10)).toBe(false);
    expect(clock.now()).toBe(13);
  });

  it('finds an endless loop', () => {
    const clock = createMemoryClock();
    const again = () => clock.soon(again);
    again();
    expect(() => clock.advance(1)).toThrow('endless loop');
  });

  it('lets the wall clock jump', () => {
    const clock = createMemoryClock(1_000);
    clock.advance(10);
    expect(clock.wall()).toBe(1_010);
    clock.setWall(500);
    clock.advance(1);
    expect([clock.now(), clock.wall()]).toEqual([11, 501]);
  });
});
