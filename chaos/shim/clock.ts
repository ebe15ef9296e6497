// A wall clock that is wrong, inside a process: `Date.now()`, `new Date()` and `Date()`. The monotonic clock and timers are as they were.
//
// State owned: how far the clock is ahead. Nothing is replaced before the first shift.

let aheadMilliseconds = 0;
let isInstalled = false;

/** The wall clock is so far ahead of the machine's from now on; negative: behind. */
export function shiftClock(milliseconds: number): void {
  aheadMilliseconds = milliseconds;
  if (milliseconds === 0 || isInstalled) return;
  isInstalled = true;
  const RealDate = Date;
  const realNow = Date.now.bind(Date);
  const now = (): number => realNow() + aheadMilliseconds;
  const ShiftedDate = function (this: unknown, ...given: unknown[]): unknown {
    if (new.target === undefined) return new RealDate(now()).toString();
    const values = given.length === 0 ? [now()] : given;
    return Reflect.construct(RealDate, values, new.target);
  };
  Object.defineProperties(ShiftedDate, Object.getOwnPropertyDescriptors(RealDate));
  // Who kept the real one asks the shifted clock too, but for `new`.
  for (const date of [RealDate, ShiftedDate])
    Object.defineProperty(date, 'now', { value: now, writable: true, configurable: true });
  RealDate.prototype.constructor = ShiftedDate as unknown as DateConstructor;
  globalThis.Date = ShiftedDate as unknown as DateConstructor;
}
