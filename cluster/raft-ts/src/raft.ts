// The door to one replica: every call of the host, the dispatch of messages by term and kind, the ticks, and `ready`.
//
// It holds no state but the core's; what the calls do is in the parts that this file imports.

import { hasQuorum } from './configuration.ts';
import { type Core, createCore, hasUnwritten, isLeaderReady, isPromotable } from './core.ts';
import {
  campaign,
  handlePreVote,
  handlePreVoteReply,
  handleTimeoutNow,
  handleVote,
  handleVoteReply,
  isSticky,
  loseLeader,
  mayCampaign,
} from './election.ts';
import { answerStale, handleAppend, handleHeartbeat, hearLeader } from './follower.ts';
import { invariant } from './invariant.ts';
import { configurationChange } from './membership.ts';
import { probeFrom } from './peer.ts';
import { appendEntry, completeWrites, takeWrite } from './persistence.ts';
import { acknowledgeReads, beginReadRound, isReadRoundDue, pendingReadRound, requestRead } from './reads.ts';
import {
  advanceCommit,
  handleAppendReply,
  handleHeartbeatReply,
  isActive,
  peerOfReply,
  proposalProblem,
  resign,
  sendAppends,
  sendHeartbeat,
} from './replication.ts';
import { becomeFollower } from './roles.ts';
import { chunkWritten, handLastChunk, handleSnapshotChunk, installed, isLastChunkDue } from './snapshot-receive.ts';
import { handleSnapshotReply, takeSnapshotRead, tickTransfer } from './snapshot-send.ts';
import { beginTransfer, transferIfCaughtUp } from './transfer.ts';
import type {
  Configuration,
  IncomingMessage,
  LogIndex,
  ProposeResult,
  Raft,
  RaftOptions,
  RaftStatus,
  Ready,
  ReplicaId,
  Restored,
  Role,
  SnapshotMeta,
  Term,
} from './types.ts';
import { validateCore } from './validate.ts';

/**
 * One replica of one group, as it was found on disk. A new group begins with `snapshot` at index 0 and the initial configuration; a new
 * replica of an existing one with an empty configuration. Throws a RaftInvariantError on options or a restored state that cannot be.
 */
export function createRaft<D>(options: RaftOptions, restored: Restored): Raft<D> {
  return new Replica<D>(createCore<D>(options, restored));
}

const nothing: readonly never[] = Object.freeze([]);

class Replica<D> implements Raft<D> {
  readonly #core: Core<D>;

  constructor(core: Core<D>) {
    this.#core = core;
  }

  get role(): Role {
    const { role } = this.#core;
    return role === 'follower' && !isPromotable(this.#core) ? 'learner' : role;
  }
  get term(): Term {
    return this.#core.term;
  }
  get leader(): ReplicaId {
    return this.#core.leader;
  }
  get commit(): LogIndex {
    return this.#core.commit;
  }
  get lastIndex(): LogIndex {
    return this.#core.log.lastIndex;
  }
  get persistedIndex(): LogIndex {
    return this.#core.persisted;
  }
  get leaderReady(): boolean {
    return isLeaderReady(this.#core);
  }

  tick(): void {
    if (this.#core.leading === null) tickFollower(this.#core);
    else tickLeader(this.#core);
  }

  step(message: IncomingMessage<D>): void {
    const { options, id, term } = this.#core;
    if (message.group !== options.group || message.groupIncarnation !== options.groupIncarnation) return;
    if (message.to !== id || message.from === id || message.from <= 0) return;
    if (message.term > term && !adoptTerm(this.#core, message)) return;
    if (message.term < term) answerStale(this.#core, message);
    else dispatch(this.#core, message);
  }

  propose(data: D, bytes: number): ProposeResult {
    const core = this.#core;
    const reason = proposalProblem(core, bytes);
    if (reason !== null) return { ok: false, reason };
    const index = core.log.lastIndex + 1;
    const { term } = core;
    appendEntry(core, { kind: 'data', index, term, bytes, data });
    core.sendDue = true;
    return { ok: true, index, term };
  }

  proposeConfiguration(voters: readonly ReplicaId[], learners: readonly ReplicaId[]): ProposeResult {
    const entry = configurationChange(this.#core, voters, learners);
    if ('ok' in entry) return entry;
    appendEntry(this.#core, entry);
    return { ok: true, index: entry.index, term: entry.term };
  }

  campaign(): void {
    campaign(this.#core, false);
  }

  leaderLost(delayTicks: number): void {
    loseLeader(this.#core, delayTicks);
  }

  transferLeadership(to: ReplicaId): boolean {
    return beginTransfer(this.#core, to);
  }

  stepDown(): void {
    resign(this.#core);
  }

  readIndex(context: number): void {
    invariant(Number.isSafeInteger(context) && context > 0, 'a read context is a positive integer');
    requestRead(this.#core, context);
  }

  persisted(sequence: number): void {
    const own = completeWrites(this.#core, sequence);
    for (const message of own) if (message.kind === 'voteReply') handleVoteReply(this.#core, message);
    advanceCommit(this.#core);
  }

  applied(index: LogIndex): void {
    const core = this.#core;
    invariant(index <= core.commit, 'only what is committed is applied');
    core.applied = Math.max(core.applied, index);
  }

  snapshotRead(to: ReplicaId, snapshot: SnapshotMeta | null, offset: number, bytes: Uint8Array, done: boolean): void {
    takeSnapshotRead(this.#core, to, snapshot, offset, bytes, done);
  }

  snapshotWritten(snapshot: SnapshotMeta, offset: number, ok: boolean): void {
    chunkWritten(this.#core, snapshot, offset, ok);
  }

  snapshotInstalled(snapshot: SnapshotMeta): void {
    installed(this.#core, snapshot);
  }

  snapshotTaken(snapshot: SnapshotMeta): void {
    const core = this.#core;
    if (snapshot.index <= core.snapshot.index) return;
    invariant(snapshot.index <= core.applied, 'a snapshot holds only what was applied');
    invariant(snapshot.index <= core.persisted, 'a snapshot holds only what is durable in the log');
    invariant(core.log.termAt(snapshot.index) === snapshot.term, 'a snapshot has the term of its last entry');
    core.snapshot = snapshot;
    core.configurations.compactTo(snapshot.index);
  }

  compacted(index: LogIndex): void {
    const core = this.#core;
    if (index <= core.log.compactedIndex) return;
    invariant(index <= core.snapshot.index, 'the log is compacted only behind a snapshot');
    core.log.compactTo(index);
  }

  hasReady(): boolean {
    const core = this.#core;
    return (
      core.messages.length > 0 ||
      core.sendDue ||
      core.commit !== core.reportedCommit ||
      hasUnwritten(core) ||
      core.reads.length > 0 ||
      core.snapshotReads.length > 0 ||
      core.snapshotWrites.length > 0 ||
      isReadRoundDue(core) ||
      isLastChunkDue(core)
    );
  }

  ready(): Ready<D> {
    const core = this.#core;
    if (core.sendDue) sendAppends(core);
    if (isReadRoundDue(core)) beginReadRound(core);
    if (isLastChunkDue(core)) handLastChunk(core);
    const { messages, reads, snapshotReads, snapshotWrites, commit } = core;
    if (messages.length > 0) core.messages = [];
    if (reads.length > 0) core.reads = [];
    if (snapshotReads.length > 0) core.snapshotReads = [];
    if (snapshotWrites.length > 0) core.snapshotWrites = [];
    core.reportedCommit = commit;
    return {
      write: takeWrite(core),
      messages: messages.length > 0 ? messages : nothing,
      commit,
      reads: reads.length > 0 ? reads : nothing,
      snapshotReads: snapshotReads.length > 0 ? snapshotReads : nothing,
      snapshotWrites: snapshotWrites.length > 0 ? snapshotWrites : nothing,
    };
  }

  status(): RaftStatus {
    const core = this.#core;
    const { current } = core.configurations;
    const progress = (core.leading?.peers ?? []).map((peer) => ({
      id: peer.id,
      match: peer.match,
      next: peer.next,
      state: peer.state,
      active: isActive(core, peer),
      learner: current.learners.includes(peer.id),
    }));
    return {
      id: core.id,
      role: this.role,
      term: core.term,
      vote: core.vote,
      leader: core.leader,
      commit: core.commit,
      applied: core.applied,
      lastIndex: core.log.lastIndex,
      persistedIndex: core.persisted,
      configuration: current,
      transferee: core.leading?.transferee ?? 0,
      repairing: core.repairTo !== 0,
      progress,
    };
  }

  termAt(index: LogIndex): Term | undefined {
    return this.#core.log.termAt(index);
  }

  configurationAt(index: LogIndex): Configuration {
    return this.#core.configurations.at(index);
  }

  validate(): void {
    validateCore(this.#core);
  }
}

/** A message of a later term: follow it into that term, unless it must not disturb (false) or only asks (pre-votes). */
function adoptTerm<D>(core: Core<D>, message: IncomingMessage<D>): boolean {
  switch (message.kind) {
    case 'preVote':
      return true;
    case 'preVoteReply':
      if (!message.granted) becomeFollower(core, message.term, 0);
      return true;
    case 'vote':
      if (!message.transfer && isSticky(core)) return false;
      becomeFollower(core, message.term, 0);
      return true;
    case 'append':
    case 'heartbeat':
    case 'snapshotChunk':
      becomeFollower(core, message.term, message.from);
      return true;
    default:
      becomeFollower(core, message.term, 0);
      return true;
  }
}

/** A message of this term (or a pre-vote for a later one). */
function dispatch<D>(core: Core<D>, message: IncomingMessage<D>): void {
  switch (message.kind) {
    case 'preVote':
      return handlePreVote(core, message);
    case 'preVoteReply':
      return handlePreVoteReply(core, message);
    case 'vote':
      return handleVote(core, message);
    case 'voteReply':
      return handleVoteReply(core, message);
    case 'append':
      hearLeader(core, message.from);
      return handleAppend(core, message);
    case 'appendReply':
      return handleAppendReply(core, message);
    case 'heartbeat':
      hearLeader(core, message.from);
      return handleHeartbeat(core, message);
    case 'heartbeatReply':
      return handleHeartbeatReply(core, message);
    case 'timeoutNow':
      return handleTimeoutNow(core);
    case 'snapshotChunk':
      hearLeader(core, message.from);
      return handleSnapshotChunk(core, message);
    case 'snapshotReply': {
      const peer = peerOfReply(core, message.from, message.session);
      if (peer !== null) handleSnapshotReply(core, peer, message);
      return;
    }
    default:
      message satisfies never;
  }
}

function tickFollower<D>(core: Core<D>): void {
  core.electionElapsed++;
  if (core.campaignIn > 0 && --core.campaignIn === 0) {
    core.campaignIn = -1;
    campaign(core, false);
  } else if (core.electionElapsed >= core.electionTimeout && mayCampaign(core)) campaign(core, false);
}

function tickLeader<D>(core: Core<D>): void {
  const leading = core.leading!;
  const { electionTicks, heartbeatTicks } = core.options;
  for (const peer of leading.peers) {
    peer.silentTicks++;
    // What was on its way to a dead follower is forgotten; it is probed when it answers again.
    if (peer.silentTicks === electionTicks && peer.state === 'replicate') probeFrom(peer, peer.match + 1);
    tickTransfer(core, peer);
  }
  const isHeard = (id: ReplicaId) => id === core.id || leading.peerOf.get(id)!.silentTicks < electionTicks;
  if (!hasQuorum(core.configurations.current, isHeard)) return becomeFollower(core, core.term, 0);
  if (leading.transferee !== 0 && ++leading.transferElapsed >= electionTicks) leading.transferee = 0;
  if (++leading.heartbeatElapsed < heartbeatTicks) return;
  leading.heartbeatElapsed = 0;
  acknowledgeReads(core);
  const round = pendingReadRound(core);
  for (const peer of leading.peers) {
    sendHeartbeat(core, peer, round);
    transferIfCaughtUp(core, peer);
  }
}
