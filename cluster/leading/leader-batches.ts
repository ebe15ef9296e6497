// What the leader of a group says to its own group: rows of the metadata, suspicions, routes of dead letters, outbox rows that are done,
// ends of nodes; and ticks, which say nothing and only carry a stamp.
//
// Ticks are also how a machine goes on with what one entry must not do at once (millions of messages that return, expire or are dropped). All
// replicas work on each of them at the same time, so there is a pause in between: others' messages pass through the same processors.
//
// State owned: per group the number of the next such batch in this term; which groups pause. Each batch stands in the log where the leader
// put it, and each command is harmless when it comes again, so nothing has to be remembered beyond the term.
//
// Invariant: a batch is proposed only while its group is led here, and commits only if that leadership was real.

import { crc32 } from 'node:zlib';
import type { Group } from '../group/group.ts';
import { BatchBuilder, OriginKind } from '../machine/commands.ts';
import type { Clock } from '../ports.ts';

const bytesUsual = 4096;
/** An entry that did less of such work was cheap: the next one follows at once. */
const pauseFromWork = 512;

export class LeaderBatches {
  readonly #clock: Clock;
  readonly #pauseMilliseconds: number;
  readonly #pausing = new Set<Group>();
  readonly #next = new Map<number, { readonly term: number; sequence: number }>();
  /** Empty between any two calls. */
  readonly #builder = new BatchBuilder(bytesUsual);

  constructor(clock: Clock, pauseMilliseconds: number) {
    this.#clock = clock;
    this.#pauseMilliseconds = pauseMilliseconds;
  }

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

  /** An entry was applied. What it left over goes on at once or after a pause; what falls due by the time waits for the timer. */
  applied(group: Group): void {
    if (group.machine.due > 0 || this.#pausing.has(group)) return;
    if (group.machine.work < pauseFromWork) return this.tickIfDue(group);
    this.#pausing.add(group);
    this.#clock.after(this.#pauseMilliseconds, () => {
      this.#pausing.delete(group);
      this.tickIfDue(group);
    });
  }

  /** Something is due in the group, and nothing else is being written that would bring the time along: a tick. */
  tickIfDue(group: Group): void {
    if (!group.leads || group.raft.lastIndex > group.appliedIndex) return;
    if (group.machine.due <= group.stamp()) this.append(group, nothing);
  }
}

function nothing(): void {}
