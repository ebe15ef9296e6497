// Who uses the replicas of a node: busy is who has many small things to do, beside large ones too.

import { describe, expect, test } from 'vitest';
import { Traffic } from '../../cluster/traffic.ts';

const small = 2_000;
const large = 256 * 1024;

/** Is it busy after each of some ticks with so many small and large entries? */
function run(ticks: readonly (readonly [small: number, large: number])[]): boolean[] {
  const traffic = new Traffic();
  return ticks.map(([smalls, larges]) => {
    for (let i = 0; i < smalls; i++) traffic.applied(small);
    for (let i = 0; i < larges; i++) traffic.applied(large);
    traffic.tick();
    return traffic.isBusy;
  });
}

describe('the traffic of a node', () => {
  test('with nothing to apply is not busy', () => {
    expect(run([[0, 0]])).toEqual([false]);
  });
  test('of large messages alone is not busy, with what each of them brings', () => {
    expect(
      run([
        [6, 2],
        [12, 10],
        [0, 3],
      ]),
    ).toEqual([false, false, false]);
  });
  test('of small ones beside a large one is busy, and for a while after they rest', () => {
    expect(
      run([
        [40, 7],
        [0, 5],
        [0, 5],
        [0, 5],
        [0, 5],
      ]),
    ).toEqual([true, true, true, true, false]);
  });
});
