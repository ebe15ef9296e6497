// A node that starts gives way to those that run. It compiles for a second of processor time, which costs nobody anything where each node has a
// machine of its own; on few cores the others would wait for it, and the stall would be put down to the fault.

import { readdirSync } from 'node:fs';
import os from 'node:os';

const { PRIORITY_BELOW_NORMAL: low, PRIORITY_NORMAL: normal } = os.constants.priority;

/** Whoever may not lift a process must not lower it. */
const mayLift = (() => {
  if (os.platform() !== 'linux') return false;
  const own = os.getPriority();
  return set(0, own - 1) && set(0, own);
})();

/** Lowers a process that has just begun. What is returned lifts it again, with all its threads, which have priorities of their own. */
export function giveWay(pid: number): () => void {
  if (!mayLift) return () => {};
  set(pid, low);
  return () => {
    for (const thread of threadsOf(pid)) set(thread, normal);
  };
}

function threadsOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number);
  } catch {
    return []; // it has ended
  }
}

/** False: it is not allowed, or there is no such process any more. */
function set(pid: number, priority: number): boolean {
  try {
    os.setPriority(pid, priority);
    return true;
  } catch {
    return false;
  }
}
