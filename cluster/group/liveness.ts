// What the log may know of the messages in a node's entries: asked of the machines of its replicas. State owned: none.
//
// What a machine that stopped says of its state counts for nothing, and one that is about to be given a snapshot, which the log has already,
// does not know yet what lives of the entries that it did not apply: of those nobody knows, and they stay.

import type { Liveness } from '../log/types.ts';
import { remainsOf } from '../machine/commands.ts';
import type { Group } from './group.ts';

export function livenessOf(groups: ReadonlyMap<number, Group>): Liveness {
  const knows = (group: Group | undefined, index: number): group is Group =>
    group !== undefined && group.halted === null && index <= group.appliedIndex;
  return {
    isLive: (id, first, last) => {
      const group = groups.get(id);
      return !knows(group, last) || group.machine.hasLiveEntries(first, last);
    },
    applied: (id) => groups.get(id)?.appliedIndex ?? 0,
    count: (id, first, last) => {
      const group = groups.get(id);
      return knows(group, last) ? group.machine.countLive(first, last) : Number.POSITIVE_INFINITY;
    },
    references: (id) => {
      const group = groups.get(id);
      return group === undefined || group.halted !== null ? null : group.machine.references();
    },
    remains: remainsOf,
  };
}
