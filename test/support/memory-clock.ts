// A clock that moves only when a test says so. State owned: the time, the timers and the tasks of this turn.
// Order: tasks given to `soon` first, in order; then timers by due time, equal ones in the order in which they were set. A cancelled
// timer never runs. Nothing here looks at the real time, so that a run repeats exactly.

import type { Clock, Timer } from '../../cluster/ports.ts';

export interface MemoryClock extends Clock {
  /** Moves the time on and runs all that falls due. Continuations of promises do not run in between; see `run`. */
  advance(milliseconds: number): void;
  /** Like `advance`, and lets promises settle between any two steps. */
  run(milliseconds: number): Promise<void>;
  /** Runs until the condition holds; false if it does not within this time. */
  runUntil(condition: () => boolean, milliseconds: number): Promise<boolean>;
  /** Makes the wall clock jump; `now` does not notice. */
  setWall(milliseconds: number): void;
}

/** Tasks and timers that may run at one instant before it counts as an endless loop. */
const stepsPerInstantMax = 1_000_000;

/** After so many steps the event loop gets its turn: signals, output, whatever real thing somebody waits for. */
const stepsPerRealTurn = 64;

class Entry implements Timer {
  due: number;
  readonly order: number;
  task: (() => void) | null;

  constructor(due: number, order: number, task: () => void) {
    this.due = due;
    this.order = order;
    this.task = task;
  }

  cancel(): void {
    this.task = null;
  }
}

const before = (a: Entry, b: Entry) => a.due < b.due || (a.due === b.due && a.order < b.order);

export function createMemoryClock(wallStart = Date.UTC(2030, 0, 1)): MemoryClock {
  /** A binary heap, earliest first. Cancelled entries stay until they come up. */
  const heap: Entry[] = [];
  let soon: (() => void)[] = [];
  let now = 0;
  let wallOffset = wallStart;
  let order = 0;
  let steps = 0;
  let settled = 0;

  function push(entry: Entry): void {
    let at = heap.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (before(heap[parent]!, entry)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = entry;
  }

  function pop(): void {
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
      if (before(last, heap[child]!)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
  }

  /** Runs this turn's tasks, or else the next timer up to `limit`. False: nothing is left to do until then. */
  function step(limit: number): boolean {
    if (++steps > stepsPerInstantMax) throw new Error(`endless loop at ${now} ms`);
    if (soon.length > 0) {
      const tasks = soon;
      soon = [];
      for (const task of tasks) task();
      return true;
    }
    while (heap.length > 0 && heap[0]!.task === null) pop();
    const entry = heap[0];
    if (entry === undefined || entry.due > limit) return false;
    pop();
    if (entry.due > now) {
      now = entry.due;
      steps = 0;
    }
    const task = entry.task!;
    entry.task = null;
    task();
    return true;
  }

  /** Ends when all promises that can settle have settled. */
  const settle = () =>
    new Promise<void>((resolve) => {
      if (settled++ % stepsPerRealTurn === 0) setImmediate(resolve);
      else process.nextTick(resolve);
    });

  async function runUntil(condition: () => boolean, milliseconds: number): Promise<boolean> {
    const limit = now + milliseconds;
    for (;;) {
      await settle();
      if (condition()) return true;
      if (step(limit)) continue;
      now = limit;
      steps = 0;
      return false;
    }
  }

  return {
    now: () => now,
    wall: () => Math.floor(wallOffset + now),
    setWall(milliseconds) {
      wallOffset = milliseconds - now;
    },
    soon(task) {
      soon.push(task);
    },
    nextTurn(task) {
      soon.push(task);
    },
    after(milliseconds, task) {
      const entry = new Entry(now + Math.max(0, milliseconds), order++, task);
      push(entry);
      return entry;
    },
    advance(milliseconds) {
      const limit = now + milliseconds;
      while (step(limit));
      now = limit;
      steps = 0;
    },
    async run(milliseconds) {
      await runUntil(() => false, milliseconds);
    },
    runUntil,
  };
}
