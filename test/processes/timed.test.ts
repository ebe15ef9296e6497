// A goal in time that was missed is measured again when the machine is to blame, and only then.

import { describe, expect, test } from 'vitest';
import { attempts, expectWithin, leastOf, type Timed } from '../support/timed.ts';

/** Figures, one per attempt, and what the machine took of each. */
function measuring(figures: readonly (readonly [took: number, waited: number])[]) {
  const made: number[] = [];
  const measure = async (attempt: number): Promise<Timed> => {
    made.push(attempt);
    return { from: 1000 * attempt, to: 1000 * attempt + figures[attempt - 1]![0] };
  };
  return { made, result: attempts(300, measure, ({ from }) => figures[from / 1000 - 1]![1]) };
}

describe('a goal in time', () => {
  test('is met at once, whatever the machine did', async () => {
    const { made, result } = measuring([[300, 250]]);
    await result;
    expect(made).toEqual([1]);
  });

  test('is missed at once when nobody waited for a processor', async () => {
    const { made, result } = measuring([[301, 99], [1, 0]]); // biome-ignore format: one line
    await expect(result).rejects.toThrow(/attempt 1, 99 ms of it without a processor/);
    expect(made).toEqual([1]);
  });

  test('is measured again when somebody did, twice at most', async () => {
    const met = measuring([[900, 500], [700, 100], [200, 0]]); // biome-ignore format: one line
    await met.result;
    expect(met.made).toEqual([1, 2, 3]);
    const missed = measuring([[900, 500], [900, 500], [900, 500], [1, 0]]); // biome-ignore format: one line
    await expect(missed.result).rejects.toThrow(/attempt 3/);
    expect(missed.made).toEqual([1, 2, 3]);
  });

  test('is not met by an attempt that finds something else', async () => {
    const lost = () => Promise.reject(new Error('lost'));
    await expect(attempts(300, lost, () => 1000)).rejects.toThrow('lost');
  });

  test('counts a process that stood still', async () => {
    let made = 0;
    await expectWithin(
      200,
      () => [],
      async (attempt) => {
        made = attempt;
        const from = performance.now();
        // The event loop's own: a blocked process is late, whoever blocks it.
        if (attempt === 1) while (performance.now() < from + 250);
        return { from, to: attempt === 1 ? performance.now() : from + 1 };
      },
    );
    expect(made).toBe(2);
  });

  test('that is the least of several is what nothing stood in the way of', async () => {
    const figures = [40, 7, 90];
    expect(await leastOf(3, async () => figures.pop()!)).toBe(7);
  });
});
