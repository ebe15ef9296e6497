// The clocks of one machine, and the turns of the process on it, over the one clock of the world: it may run fast or slow, its wall clock may
// jump, and its process may stand still. State owned: the difference to the world's clock, and what a process that stands still has not run yet.
//
//   - timers never run early by the clock that they were asked of, also when its rate changes while they wait;
//   - what fell due while the process stood still runs in order when it goes on;
//   - of a process that ended nothing runs any more.

import type { Clock, Timer } from '../../cluster/ports.ts';

export interface NodeClock {
  /** The clock of a process that starts now. Nothing of the one before it runs any more. */
  begin(): Clock;
  /** The process ended. */
  end(): void;
  /** Runs a task of the present process, now or when it goes on: completions of its disk. */
  run(task: () => void): void;
  /** The process stands still (SIGSTOP). */
  pause(): void;
  /** `clockStood`: the monotonic clock did not run meanwhile, as in a virtual machine that was suspended. */
  resume(clockStood?: boolean): void;
  readonly isPaused: boolean;
  /** How fast both clocks run from now on; 1 is right. */
  rate: number;
  /** Moves the wall clock; `now` does not notice. */
  jumpWall(milliseconds: number): void;
}

export function createNodeClock(world: Clock, wallOffset = 0): NodeClock {
  let life = 0;
  let held: (() => void)[] | null = null;
  let pausedAt = 0;
  let rate = 1;
  /** `local` is what the clock showed at `since` of the world. */
  let since = world.now();
  let local = since;
  let offset = wallOffset;
  const wallStart = world.wall() - since;

  const now = () => local + (world.now() - since) * rate;
  const setLocal = (milliseconds: number) => {
    since = world.now();
    local = milliseconds;
  };
  const run = (task: () => void) => {
    if (held === null) task();
    else held.push(task);
  };

  /** Of a process that ended nothing runs any more. */
  const runIn = (mine: number, task: () => void) =>
    run(() => {
      if (life === mine) task();
    });

  function after(mine: number, milliseconds: number, task: () => void): Timer {
    const due = now() + Math.max(0, milliseconds);
    let timer: Timer;
    let isCancelled = false;
    const fire = () => {
      if (life !== mine || isCancelled) return;
      const left = due - now();
      // Rounding may leave a little, and a rate that fell leaves more.
      if (left > 1e-6) timer = world.after(left / rate, elapsed);
      else task();
    };
    const elapsed = () => run(fire);
    timer = world.after(milliseconds / rate, elapsed);
    return {
      cancel() {
        isCancelled = true;
        timer.cancel();
      },
    };
  }

  return {
    begin() {
      const mine = ++life;
      held = null;
      return {
        now,
        wall: () => Math.floor(wallStart + offset + now()),
        after: (milliseconds, task) => after(mine, milliseconds, task),
        soon: (task) => world.soon(() => runIn(mine, task)),
        nextTurn: (task) => world.nextTurn(() => runIn(mine, task)),
      };
    },
    end() {
      life++;
      held = null;
    },
    run: (task) => runIn(life, task),
    pause() {
      if (held !== null) return;
      held = [];
      pausedAt = now();
    },
    resume(clockStood = false) {
      if (held === null) return;
      const tasks = held;
      held = null;
      if (clockStood) {
        // The wall clock is set right again when the machine wakes.
        offset += now() - pausedAt;
        setLocal(pausedAt);
      }
      for (const task of tasks) task();
    },
    get isPaused() {
      return held !== null;
    },
    get rate() {
      return rate;
    },
    set rate(value) {
      setLocal(now());
      rate = value;
    },
    jumpWall(milliseconds) {
      offset += milliseconds;
    },
  };
}
