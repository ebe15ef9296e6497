// The follower's side of the log: appends and heartbeats of the one leader of this term.
//
// Nothing is acknowledged before it is durable: the reply waits for the write that carries the entries. The commit index rises only to what
// this very append has verified (pitfall 6), or to what the leader says this replica has acknowledged (pitfall 7). The log is truncated only
// where a term contradicts, never because an append is short or late (pitfall 8).

import {
  type Core,
  type Received,
  raiseCommit,
  restartElectionClock,
  sendAfterHardState,
  sendAfterWrites,
} from './core.ts';
import { invariant } from './invariant.ts';
import { appendEntry, truncateLog } from './persistence.ts';
import { becomeFollower } from './roles.ts';
import { isInstalling } from './snapshot-receive.ts';
import type { Entry, LogIndex, ReplicaId } from './types.ts';

/** The leader of this term spoke. */
export function hearLeader<D>(core: Core<D>, from: ReplicaId): void {
  invariant(core.role !== 'leader', 'a term has one leader');
  invariant(core.leader === 0 || core.leader === from, 'a term has one leader');
  if (core.role === 'follower' && core.leader === from) restartElectionClock(core);
  else becomeFollower(core, core.term, from);
}

export function handleAppend<D>(core: Core<D>, append: Received<D, 'append'>): void {
  if (isInstalling(core) || !isWellFormed(core, append)) return;
  const { previousIndex, previousTerm, entries, session, from } = append;
  const known = core.log.termAt(previousIndex);
  if (previousIndex > core.commit && known !== previousTerm)
    return refuse(core, from, session, previousIndex, previousTerm);
  if (previousIndex <= core.commit)
    invariant(known === undefined || known === previousTerm, 'what is committed is the same everywhere');
  appendNew(core, entries);
  const verified = Math.max(core.commit, previousIndex + entries.length);
  raiseCommit(core, Math.min(append.commit, verified));
  // What it has was acknowledged when it came. Should that have been lost, the leader asks with an append that is no notice.
  if (append.notice) return;
  sendAfterWrites(core, from, {
    kind: 'appendReply',
    session,
    success: true,
    index: verified,
    hintIndex: 0,
    hintTerm: 0,
  });
}

/** Skips what the log has already; the first contradiction, or the end, is where new entries begin. */
function appendNew<D>(core: Core<D>, entries: readonly Entry<D>[]): void {
  const { log } = core;
  let i = 0;
  for (; i < entries.length; i++) {
    const { index, term } = entries[i]!;
    if (index > log.lastIndex) break;
    const known = log.termAt(index);
    if (known === term || index < log.compactedIndex) continue;
    truncateLog(core, index);
    break;
  }
  for (; i < entries.length; i++) appendEntry(core, entries[i]!);
}

/** Entries follow each other and the previous one, with terms that never fall and are not of a later leader. */
function isWellFormed<D>(core: Core<D>, append: Received<D, 'append'>): boolean {
  let term = append.previousTerm;
  for (let i = 0; i < append.entries.length; i++) {
    const entry = append.entries[i]!;
    if (entry.index !== append.previousIndex + 1 + i || entry.term < term) return false;
    term = entry.term;
  }
  return term <= core.term;
}

/** With a hint, so that the leader skips whole terms: our highest entry that may be in a log which has `term` at `index`. */
function refuse<D>(core: Core<D>, to: ReplicaId, session: number, index: LogIndex, term: number): void {
  const { log, commit } = core;
  const hintIndex = Math.max(commit, log.lastAtMost(Math.min(index, log.lastIndex), term));
  const hintTerm = log.termAt(hintIndex)!;
  sendAfterHardState(core, to, { kind: 'appendReply', session, success: false, index, hintIndex, hintTerm });
}

export function handleHeartbeat<D>(core: Core<D>, heartbeat: Received<D, 'heartbeat'>): void {
  const { from, session, commit, readContext } = heartbeat;
  const { lastIndex } = core.log;
  if (!isInstalling(core)) {
    raiseCommit(core, Math.min(commit, lastIndex));
    // It acknowledged more than it has: its log was damaged. The leader must know, or it would never send that again.
    if (commit > lastIndex) refuse(core, from, session, commit, core.term);
  }
  sendAfterHardState(core, from, { kind: 'heartbeatReply', session, readContext });
}

/**
 * A message of an earlier term. Its sender must learn that its term is over, also a leader that nobody would answer otherwise: else a replica
 * with a later term could never be reached again (pitfall 18).
 */
export function answerStale<D>(core: Core<D>, stale: { kind: string; from: ReplicaId }): void {
  switch (stale.kind) {
    case 'append':
    case 'heartbeat':
    case 'snapshotChunk':
      return sendAfterHardState(core, stale.from, {
        kind: 'appendReply',
        session: 0,
        success: false,
        index: 0,
        hintIndex: 0,
        hintTerm: 0,
      });
    case 'preVote':
      return sendAfterHardState(core, stale.from, { kind: 'preVoteReply', granted: false });
    case 'vote':
      return sendAfterHardState(core, stale.from, { kind: 'voteReply', granted: false });
    default:
      return;
  }
}
