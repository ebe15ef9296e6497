// Elections: pre-vote, vote, and becoming a leader.
//
//   follower -> preCandidate (asks who would vote, changes nothing) -> candidate (next term, votes for itself) -> leader
//
// A vote, also the one for itself and the request for others', leaves only when term and vote are durable (pitfall 1). Who has heard a
// leader within `electionTicks` lets nobody disturb it, unless that leader itself asked for the transfer (pitfalls 17, 22).

import { voteResult, votersOf } from './configuration.ts';
import {
  type Core,
  drawElectionTimeout,
  isPromotable,
  message,
  type Received,
  restartElectionClock,
  sendAfterHardState,
  sendAfterWrites,
} from './core.ts';
import { invariant } from './invariant.ts';
import { syncPeers } from './membership.ts';
import { appendEntry } from './persistence.ts';
import { becomeFollower } from './roles.ts';
import { isInstalling } from './snapshot-receive.ts';
import type { LogIndex, ReplicaId, Term } from './types.ts';

/** Begins with a pre-vote, or, for a transfer, with the vote itself. */
export function campaign<D>(core: Core<D>, transfer: boolean): void {
  if (core.role === 'leader' || !mayCampaign(core)) return;
  drawElectionTimeout(core);
  restartElectionClock(core);
  core.leader = 0;
  core.votes.clear();
  if (transfer) return becomeCandidate(core, true);
  core.role = 'preCandidate';
  const { lastIndex, lastTerm } = core.log;
  for (const id of votersOf(core.configurations.current)) {
    if (id === core.id) continue;
    core.messages.push(message(core, id, core.term + 1, { kind: 'preVote', lastIndex, lastTerm }));
  }
  countVote(core, core.id, true);
}

export function mayCampaign<D>(core: Core<D>): boolean {
  return core.repairTo === 0 && !isInstalling(core) && isPromotable(core);
}

function becomeCandidate<D>(core: Core<D>, transfer: boolean): void {
  core.role = 'candidate';
  core.term++;
  core.vote = core.id;
  core.hardStateDirty = true;
  core.refusedPreVote = null;
  core.campaignIn = -1;
  core.votes.clear();
  const { lastIndex, lastTerm } = core.log;
  for (const id of votersOf(core.configurations.current)) {
    if (id !== core.id) sendAfterWrites(core, id, { kind: 'vote', lastIndex, lastTerm, transfer });
  }
  // Its own vote comes to it like the others', when it is durable.
  sendAfterWrites(core, core.id, { kind: 'voteReply', granted: true });
}

function becomeLeader<D>(core: Core<D>): void {
  invariant(core.role === 'candidate', 'only a candidate becomes a leader');
  core.role = 'leader';
  core.leader = core.id;
  core.votes.clear();
  core.staging = null;
  const noopIndex = core.log.lastIndex + 1;
  core.leading = {
    noopIndex,
    peers: [],
    peerOf: new Map(),
    heartbeatElapsed: 0,
    transferee: 0,
    transferElapsed: 0,
    readsWaiting: [],
    readRounds: [],
  };
  restartElectionClock(core);
  syncPeers(core);
  appendEntry(core, { kind: 'noop', index: noopIndex, term: core.term, bytes: 0 });
  core.sendDue = true;
}

/** Nobody else may lead while this holds: this replica leads, or heard the leader within `electionTicks`. */
export function isSticky<D>(core: Core<D>): boolean {
  return core.role === 'leader' || (core.leader !== 0 && core.electionElapsed < core.options.electionTicks);
}

function isUpToDate<D>(core: Core<D>, lastTerm: Term, lastIndex: LogIndex): boolean {
  const { log } = core;
  return lastTerm > log.lastTerm || (lastTerm === log.lastTerm && lastIndex >= log.lastIndex);
}

/** Could `from` have this replica's vote in `term`? */
function isVoteFree<D>(core: Core<D>, from: ReplicaId, term: Term): boolean {
  if (core.repairTo !== 0) return false;
  return term > core.term || core.vote === from || (core.vote === 0 && core.leader === 0);
}

export function handlePreVote<D>(core: Core<D>, request: Received<D, 'preVote'>): void {
  const { from, term, lastIndex, lastTerm } = request;
  if (isSticky(core)) {
    core.refusedPreVote = request;
    return;
  }
  let granted = isVoteFree(core, from, term) && isUpToDate(core, lastTerm, lastIndex);
  if (granted && core.role === 'preCandidate') {
    // Two that begin together would split the vote. The one with more, or with the higher id, goes on; but not longer than a moment,
    // since it may be unable to win.
    const same = lastTerm === core.log.lastTerm && lastIndex === core.log.lastIndex;
    if (!same || from > core.id) becomeFollower(core, core.term, 0);
    else if (core.electionElapsed < core.options.heartbeatTicks) granted = false;
  }
  if (granted) core.messages.push(message(core, from, term, { kind: 'preVoteReply', granted }));
  else sendAfterHardState(core, from, { kind: 'preVoteReply', granted });
}

export function handleVote<D>(core: Core<D>, request: Received<D, 'vote'>): void {
  const { from, term, lastIndex, lastTerm } = request;
  const granted = isVoteFree(core, from, term) && isUpToDate(core, lastTerm, lastIndex);
  if (!granted) return sendAfterHardState(core, from, { kind: 'voteReply', granted });
  if (core.vote !== from) {
    core.vote = from;
    core.hardStateDirty = true;
  }
  restartElectionClock(core);
  sendAfterWrites(core, from, { kind: 'voteReply', granted });
}

export function handlePreVoteReply<D>(core: Core<D>, reply: Received<D, 'preVoteReply'>): void {
  if (core.role !== 'preCandidate') return;
  if (reply.granted && reply.term !== core.term + 1) return;
  countVote(core, reply.from, reply.granted);
}

export function handleVoteReply<D>(core: Core<D>, reply: Received<D, 'voteReply'>): void {
  if (core.role === 'candidate' && reply.term === core.term) countVote(core, reply.from, reply.granted);
}

function countVote<D>(core: Core<D>, from: ReplicaId, granted: boolean): void {
  if (!core.votes.has(from)) core.votes.set(from, granted);
  const result = voteResult(core.configurations.current, core.votes);
  if (result === 'lost') becomeFollower(core, core.term, 0);
  else if (result === 'won') {
    if (core.role === 'preCandidate') becomeCandidate(core, false);
    else becomeLeader(core);
  }
}

/** Told by the leader to take over. */
export function handleTimeoutNow<D>(core: Core<D>): void {
  campaign(core, true);
}

/** The connection to the leader broke: its voice counts no longer, and whoever asked in vain meanwhile gets an answer. */
export function loseLeader<D>(core: Core<D>, delayTicks: number): void {
  if (core.role === 'leader' || core.role === 'candidate') return;
  core.leader = 0;
  const refused = core.refusedPreVote;
  core.refusedPreVote = null;
  if (delayTicks > 0) core.campaignIn = Math.ceil(delayTicks);
  else campaign(core, false);
  if (refused !== null && refused.term > core.term) handlePreVote(core, refused);
}
