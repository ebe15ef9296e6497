// How simulated time is spent: everything takes several times as long as with the defaults. Ticks, timeouts, leases and deadlines of the nodes do
// by their limits; clients, faults, network and disks do because they live by a clock that runs slower than that of the nodes. So as much
// happens as without it, in the same order of sizes to each other, over more simulated time.

import type { Clock } from '../../cluster/ports.ts';

/** So many milliseconds of the nodes are one of everybody else. */
export const stretch = 5;

export function slowed(time: Clock): Clock {
  return {
    now: () => time.now() / stretch,
    wall: () => time.wall(),
    after: (milliseconds, task) => time.after(milliseconds * stretch, task),
    soon: (task) => time.soon(task),
    nextTurn: (task) => time.nextTurn(task),
  };
}

/** Every member whose name tells of milliseconds, so many times. */
export function stretched<T extends object>(limits: T): T {
  const entries = Object.entries(limits).map(([name, value]: [string, unknown]) => {
    if (typeof value === 'object' && value !== null) return [name, stretched(value)];
    return [name, typeof value === 'number' && /milliseconds/i.test(name) ? value * stretch : value];
  });
  return Object.fromEntries(entries) as T;
}
