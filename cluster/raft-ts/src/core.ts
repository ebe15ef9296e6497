// The state of one replica, and the few steps that all parts share: sending, holding messages back, raising the commit index.
//
// The parts (election, replication, follower, ...) are functions over this state; `raft.ts` is the only door from outside. Work for the
// host gathers in the output fields and is taken out by `ready()`.
//
// Invariants (all checked by validate.ts):
//   compacted <= snapshot <= applied <= commit <= last;  persisted <= handed <= last;  a message in `held` leaves only when the write it
//   needs is durable;  `leading` is there exactly while the role is leader.

import { ConfigurationHistory, isVoter } from './configuration.ts';
import { invariant } from './invariant.ts';
import { LogShape } from './log-shape.ts';
import type { Peer } from './peer.ts';
import type {
  Entry,
  IncomingMessage,
  LogIndex,
  MessageBody,
  OutgoingMessage,
  RaftOptions,
  Ready,
  ReplicaId,
  Restored,
  SnapshotMeta,
  Term,
} from './types.ts';

export type Received<D, K extends IncomingMessage<D>['kind']> = Extract<IncomingMessage<D>, { kind: K }>;

/** A write that was handed to the host and is not durable yet. */
export interface OutstandingWrite {
  readonly sequence: number;
  /** The log up to here is durable once this write is. Lowered when those entries are truncated, so a late completion claims nothing. */
  lastIndex: LogIndex;
}

/** A follower's side of a snapshot transfer. */
export interface Staging {
  readonly from: ReplicaId;
  readonly session: number;
  readonly term: Term;
  readonly snapshot: SnapshotMeta;
  /** Where the next chunk begins, or where the one begins that is being written. */
  offset: number;
  writing: boolean;
  length: number;
  /** The last chunk is here: the log stands still until the host has installed it. */
  last: { readonly bytes: Uint8Array; handed: boolean } | null;
}

export interface ReadRound {
  readonly round: number;
  readonly index: LogIndex;
  readonly contexts: readonly number[];
}

/** What only a leader has. */
export interface Leading {
  /** The entry that it appended when elected. Once applied, this leader knows all that was ever committed. */
  readonly noopIndex: LogIndex;
  peers: Peer[];
  readonly peerOf: Map<ReplicaId, Peer>;
  heartbeatElapsed: number;
  transferee: ReplicaId;
  transferElapsed: number;
  /** Read requests that no round covers yet. */
  readsWaiting: number[];
  readRounds: ReadRound[];
}

export interface Core<D> {
  readonly options: RaftOptions;
  readonly id: ReplicaId;

  term: Term;
  vote: ReplicaId;
  readonly log: LogShape;
  readonly configurations: ConfigurationHistory;
  snapshot: SnapshotMeta;
  commit: LogIndex;
  applied: LogIndex;
  persisted: LogIndex;
  /** Up to where acknowledged entries were lost (0: none), and the last term that any of them was acknowledged in. */
  repairTo: LogIndex;
  readonly repairTerm: Term;

  role: 'follower' | 'preCandidate' | 'candidate' | 'leader';
  leader: ReplicaId;
  leading: Leading | null;
  readonly votes: Map<ReplicaId, boolean>;
  /** Ticks since a leader was heard, a vote was granted, or a campaign began. */
  electionElapsed: number;
  /** What `electionElapsed` must reach for a campaign: drawn anew for each. */
  electionTimeout: number;
  /** Ticks until the campaign that `leaderLost` asked for; -1: none. */
  campaignIn: number;
  /** The last pre-vote that was not granted only because a leader seemed alive. */
  refusedPreVote: Received<D, 'preVote'> | null;
  staging: Staging | null;
  lastSession: number;
  lastReadRound: number;

  /** Not handed to a write yet. */
  entries: Entry<D>[];
  truncateFrom: LogIndex | null;
  hardStateDirty: boolean;
  /** The commit index in the last hard state that was handed out. */
  writtenCommit: LogIndex;
  /** Last index of the log as the writes handed out so far make it. */
  handed: LogIndex;
  lastSequence: number;
  persistedSequence: number;
  /** The write that carries the current term and vote. */
  hardStateSequence: number;
  outstanding: OutstandingWrite[];
  held: { readonly sequence: number; message: OutgoingMessage }[];

  messages: OutgoingMessage[];
  reads: Ready<D>['reads'][number][];
  snapshotReads: Ready<D>['snapshotReads'][number][];
  snapshotWrites: Ready<D>['snapshotWrites'][number][];
  reportedCommit: LogIndex;
  /** A leader may have appends to send. */
  sendDue: boolean;
}

export function createCore<D>(options: RaftOptions, restored: Restored): Core<D> {
  checkOptions(options);
  const { hardState, snapshot, compacted } = restored;
  const log = restoreLog(restored);
  const configurations = new ConfigurationHistory(snapshot.index, snapshot.configuration);
  for (const { index, configuration } of restored.entries) {
    if (configuration !== undefined && index > snapshot.index && index <= log.lastIndex)
      configurations.append(index, configuration);
  }
  invariant(compacted.index <= snapshot.index, 'whole entries follow the snapshot without a gap');
  const commit = Math.min(Math.max(hardState.commit, snapshot.index), log.lastIndex);
  // Entries whose write was torn before its hard state: nothing was said in their term yet, so it is free to be entered without a vote.
  const isTorn = hardState.term < log.lastTerm;
  const core: Core<D> = {
    options,
    id: options.id,
    term: isTorn ? log.lastTerm : hardState.term,
    vote: isTorn ? 0 : hardState.vote,
    log,
    configurations,
    snapshot,
    commit,
    applied: snapshot.index,
    persisted: log.lastIndex,
    repairTo: restored.repairTo ?? 0,
    repairTerm: restored.repairTerm ?? Math.max(hardState.term, log.lastTerm),
    role: 'follower',
    leader: 0,
    leading: null,
    votes: new Map(),
    electionElapsed: 0,
    electionTimeout: 0,
    campaignIn: -1,
    refusedPreVote: null,
    staging: null,
    lastSession: 0,
    lastReadRound: 0,
    entries: [],
    truncateFrom: null,
    hardStateDirty: isTorn,
    writtenCommit: hardState.commit,
    handed: log.lastIndex,
    lastSequence: 0,
    persistedSequence: 0,
    hardStateSequence: 0,
    outstanding: [],
    held: [],
    messages: [],
    reads: [],
    snapshotReads: [],
    snapshotWrites: [],
    reportedCommit: snapshot.index,
    sendDue: false,
  };
  checkRepaired(core);
  drawElectionTimeout(core);
  return core;
}

function restoreLog(restored: Restored): LogShape {
  const { snapshot, compacted, entries } = restored;
  const last = entries.length === 0 ? compacted.index : entries[entries.length - 1]!.index;
  if (last < snapshot.index) return new LogShape(snapshot.index, snapshot.term);
  const log = new LogShape(compacted.index, compacted.term);
  for (const entry of entries) {
    invariant(entry.index === log.lastIndex + 1, 'restored entries have no gap');
    log.append(entry.term, entry.bytes);
  }
  invariant(log.termAt(snapshot.index) === snapshot.term, 'the restored log and its snapshot agree');
  return log;
}

function checkOptions(options: RaftOptions): void {
  const { id, group, groupIncarnation, random: _random, ...bounds } = options;
  invariant(Number.isSafeInteger(id) && id > 0, 'the id of a replica is a positive integer');
  invariant(Number.isSafeInteger(group) && Number.isSafeInteger(groupIncarnation), 'a group has a number');
  for (const bound of Object.values(bounds)) invariant(Number.isSafeInteger(bound) && bound > 0, 'bounds are positive');
  invariant(options.heartbeatTicks < options.electionTicks, 'heartbeats are more frequent than elections');
}

/** The actual wait for the next campaign. */
export function drawElectionTimeout<D>(core: Core<D>): void {
  const { electionTicks, random } = core.options;
  core.electionTimeout = electionTicks + Math.floor(random(electionTicks));
}

/** A valid leader was heard, a vote was granted, or a campaign begins: nothing else may delay an election (pitfall 34). */
export function restartElectionClock<D>(core: Core<D>): void {
  core.electionElapsed = 0;
  core.campaignIn = -1;
}

/**
 * May campaign: a voter of the configuration in force, or, while that one is not known to be committed, of the one before. A leader on its
 * way out may be the only one with the last configuration in its log.
 */
export function isPromotable<D>(core: Core<D>): boolean {
  return core.configurations.someSince(core.commit, (configuration) => isVoter(configuration, core.id));
}

export function isLeaderReady<D>(core: Core<D>): boolean {
  return core.leading !== null && core.applied >= core.leading.noopIndex;
}

export function message<D>(core: Core<D>, to: ReplicaId, term: Term, body: MessageBody): OutgoingMessage {
  const { group, groupIncarnation } = core.options;
  const from = core.id;
  // That of every entry is written out: what a spread makes of numbers outlives its turn, and is left to full collections (measured).
  if (body.kind === 'appendReply') {
    const { kind, session, success, index, hintIndex, hintTerm } = body;
    return { group, groupIncarnation, from, to, term, kind, session, success, index, hintIndex, hintTerm };
  }
  return { group, groupIncarnation, from, to, term, ...body };
}

/** Sends at once: for what depends on nothing that is not durable yet. */
export function send<D>(core: Core<D>, to: ReplicaId, body: MessageBody): void {
  core.messages.push(message(core, to, core.term, body));
}

/** Sends once the current term and vote are durable. */
export function sendAfterHardState<D>(core: Core<D>, to: ReplicaId, body: MessageBody): void {
  hold(core, core.hardStateDirty ? core.lastSequence + 1 : core.hardStateSequence, message(core, to, core.term, body));
}

/** Sends once everything up to now is durable: the log, the term, the vote. A message to itself is a vote for itself. */
export function sendAfterWrites<D>(core: Core<D>, to: ReplicaId, body: MessageBody): void {
  hold(core, hasUnwritten(core) ? core.lastSequence + 1 : core.lastSequence, message(core, to, core.term, body));
}

function hold<D>(core: Core<D>, sequence: number, out: OutgoingMessage): void {
  if (sequence <= core.persistedSequence && out.to !== core.id) {
    core.messages.push(out);
    return;
  }
  // Acknowledgements of one write to one leader are one: the highest.
  const last = core.held[core.held.length - 1];
  if (last !== undefined && last.sequence === sequence && supersedes(out, last.message)) last.message = out;
  else core.held.push({ sequence, message: out });
}

function supersedes(later: OutgoingMessage, earlier: OutgoingMessage): boolean {
  return (
    later.kind === 'appendReply' &&
    earlier.kind === 'appendReply' &&
    later.success &&
    earlier.success &&
    later.to === earlier.to &&
    later.term === earlier.term &&
    later.session === earlier.session &&
    later.index >= earlier.index
  );
}

export function hasUnwritten<D>(core: Core<D>): boolean {
  return core.hardStateDirty || core.entries.length > 0 || core.truncateFrom !== null;
}

export function raiseCommit<D>(core: Core<D>, index: LogIndex): boolean {
  if (index <= core.commit) return false;
  invariant(index <= core.log.lastIndex, 'only what is in the log is committed');
  core.commit = index;
  checkRepaired(core);
  return true;
}

/**
 * All that a damaged replica may have acknowledged is known to it, and durable, again: everything up to the lost index, or anything of a later
 * term (whose leader had all that was ever committed before).
 */
export function checkRepaired<D>(core: Core<D>): void {
  if (core.repairTo === 0) return;
  const index = Math.min(core.commit, core.persisted);
  if (index >= core.repairTo || (core.log.termAt(index) ?? 0) > core.repairTerm) core.repairTo = 0;
}
