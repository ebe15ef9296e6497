// Becoming a follower, from whatever it was: the one way in which a term rises and a leadership ends.

import { type Core, drawElectionTimeout, restartElectionClock } from './core.ts';
import { invariant } from './invariant.ts';
import type { ReplicaId, Term } from './types.ts';

/**
 * Follows `leader` (0: unknown) in `term`. The election clock restarts only if a leader is known or this replica led: a term that rose by
 * somebody's campaign is no reason to wait longer (pitfall 34).
 */
export function becomeFollower<D>(core: Core<D>, term: Term, leader: ReplicaId): void {
  invariant(term >= core.term, 'terms never fall');
  if (term > core.term) {
    core.term = term;
    core.vote = 0;
    core.hardStateDirty = true;
    core.refusedPreVote = null;
  }
  if (core.leading !== null) {
    failReads(core);
    core.leading = null;
    core.sendDue = false;
    // Chunks that were asked for on behalf of that leadership are not wanted any more.
    core.snapshotReads = [];
    drawElectionTimeout(core);
    restartElectionClock(core);
  }
  core.role = 'follower';
  core.leader = leader;
  core.votes.clear();
  if (leader !== 0) restartElectionClock(core);
}

/** Reads whose round has not ended cannot be answered any more: somebody else may lead. */
function failReads<D>(core: Core<D>): void {
  const { readRounds, readsWaiting } = core.leading!;
  for (const { contexts } of readRounds) for (const context of contexts) core.reads.push({ context, index: null });
  for (const context of readsWaiting) core.reads.push({ context, index: null });
}
