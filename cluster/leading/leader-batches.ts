// What the leader of a group says to its own group: rows of the metadata, suspicions, routes of dead letters, outbox rows that are done,
// ends of nodes; and ticks, which say nothing and only carry a stamp.
//
// State owned: per group the number of the next such batch in this term. Each batch stands in the log where the leader put it, and each
// command is harmless when it comes again, so nothing has to be remembered beyond the term.
//
// Invariant: a batch is proposed only while its group is led here, and commits only if that leadership was real.

import { crc32 } from 'node:zlib';
import type { Group } from '../group/group.ts';
import { BatchBuilder, OriginKind } from '../machine/commands.ts';

const bytesUsual = 4096;

export class LeaderBatches {
  readonly #next = new Map<number, { readonly term: number; sequence: number }>();
  /** Empty between any two calls. */
  readonly #builder = new BatchBuilder(bytesUsual);

  /** Appends one batch with what `add` puts into it. False: not now. `metadataVersion`: what it was made by. */
  append(group: Group, add: (builder: BatchBuilder) => void, metadataVersion = 0): boolean {
    if (!group.leads) return false;
    const { term } = group.raft;
    let next = this.#next.get(group.id);
    if (next === undefined || next.term !== term) {
      next = { term, sequence: 1 };
      this.#next.set(group.id, next);
    }
    add(this.#builder);
    const origin = { kind: OriginKind.group, id: group.id, incarnation: term };
    // Nobody reads the results of these.
    const payload = this.#builder.seal(origin, next.sequence, metadataVersion, next.sequence - 1);
    if (!group.propose(payload, crc32(payload))) return false;
    next.sequence++;
    return true;
  }

  /** Something is due in the group, and nothing else is being written that would bring the time along: a tick. */
  tickIfDue(group: Group): void {
    if (!group.leads || group.raft.lastIndex > group.appliedIndex) return;
    if (group.machine.due <= group.stamp()) this.append(group, nothing);
  }
}

function nothing(): void {}
