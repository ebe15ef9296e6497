// A state being restored step by step: a reader that gets bytes as they come, and a generator that reads them and builds the state. PURE.
//
// It must never be seen half built: the generator works on objects of its own, and returns what puts them into their place.

import type { Machine, Restoring } from './machine.ts';
import type { ByteReader, Steps } from './queue/bytes.ts';

/** `steps` reads from `reader`, and yields when that is tired, or waits for more. It returns what `finish` does. */
export function restoreInSteps(reader: ByteReader, steps: Steps<() => void>): Restoring {
  let finish: (() => void) | null = null;
  return {
    add: (bytes, isLast) => reader.add(bytes, isLast),
    step() {
      if (finish !== null || !reader.isReady) return false;
      reader.rest();
      const { done, value } = steps.next();
      if (done === true) finish = value as () => void;
      return finish === null;
    },
    finish() {
      if (finish === null) throw new Error('the state is not complete');
      finish();
    },
  };
}

/** Replaces a machine's state at once. */
export function restoreAtOnce(machine: Machine, bytes: Buffer): void {
  const restoring = machine.restoring();
  restoring.add(bytes, true);
  while (restoring.step());
  restoring.finish();
}
