// The leader's side of the log: appends out, acknowledgements in, the commit index up.
//
//   propose -> appendEntry -> sendAppends (at `ready`) -> acknowledgements, and `persisted` for itself -> advanceCommit -> sendAppends
//
// Entries go to the followers and to the own disk at the same time; the leader counts itself only up to what is durable. Lost messages are
// found by the follower's refusal of what follows them, or by the empty append that an answered heartbeat leads to.

import { quorumValue } from './configuration.ts';
import { type Core, isLeaderReady, type Received, raiseCommit, send } from './core.ts';
import { invariant } from './invariant.ts';
import { configurationLeave, isLeaderRemoved } from './membership.ts';
import { type Peer, probeFrom, replicateFrom } from './peer.ts';
import { appendEntry } from './persistence.ts';
import { acknowledgeReads } from './reads.ts';
import { becomeFollower } from './roles.ts';
import { beginTransfer } from './snapshot-send.ts';
import { inviteSuccessor, transferIfCaughtUp } from './transfer.ts';
import type { LogIndex, ReplicaId } from './types.ts';

/** Sends whatever each peer may get now, the commit index included. */
export function sendAppends<D>(core: Core<D>): void {
  core.sendDue = false;
  for (const peer of core.leading!.peers) sendTo(core, peer);
}

function sendTo<D>(core: Core<D>, peer: Peer): void {
  if (peer.state === 'snapshot') return;
  if (peer.next <= core.log.compactedIndex) {
    // A silent follower gets no snapshot: it is asked for once it answers a heartbeat.
    if (!isActive(core, peer)) return;
    return beginTransfer(core, peer);
  }
  if (peer.state === 'probe') {
    if (peer.paused) return;
    peer.paused = true;
    sendAppend(core, peer, core.options.appendBytesMax);
    return;
  }
  const { inflightBytesMax, inflightMessagesMax, appendBytesMax } = core.options;
  const { window } = peer;
  const { lastIndex } = core.log;
  let sent = false;
  while (peer.next <= lastIndex && window.count < inflightMessagesMax && window.bytes < inflightBytesMax) {
    const first = peer.next;
    const room = window.count === 0 ? appendBytesMax : Math.min(appendBytesMax, inflightBytesMax - window.bytes);
    const last = sendAppend(core, peer, room);
    window.push(last, core.log.bytesBetween(first - 1, last));
    peer.next = last + 1;
    sent = true;
  }
  if (!sent && (peer.checkDue || peer.commitTold < core.commit)) sendAppend(core, peer, -1, !peer.checkDue);
}

/** One append from `peer.next` on, with entries up to `bytesMax` (-1: none). Returns its last index. */
function sendAppend<D>(core: Core<D>, peer: Peer, bytesMax: number, notice = false): LogIndex {
  const { log, commit } = core;
  const first = peer.next;
  const previousTerm = log.termAt(first - 1);
  invariant(previousTerm !== undefined, 'the entry before an append is known');
  const last = bytesMax < 0 || first > log.lastIndex ? first - 1 : log.lastWithin(first, bytesMax);
  core.messages.push({
    group: core.options.group,
    groupIncarnation: core.options.groupIncarnation,
    from: core.id,
    to: peer.id,
    term: core.term,
    kind: 'append',
    session: peer.session,
    previousIndex: first - 1,
    previousTerm,
    first,
    last,
    lastTerm: log.termAt(last)!,
    commit,
    notice,
  });
  peer.commitTold = commit;
  peer.checkDue = false;
  return last;
}

export function isActive<D>(core: Core<D>, peer: Peer): boolean {
  return peer.silentTicks < core.options.electionTicks;
}

/** The peer that a reply belongs to: of this leadership and of the session it is in. Hearing from it counts (pitfalls 19, 28). */
export function peerOfReply<D>(core: Core<D>, from: ReplicaId, session: number): Peer | null {
  const peer = core.leading?.peerOf.get(from);
  if (peer === undefined || peer.session !== session) return null;
  peer.silentTicks = 0;
  return peer;
}

export function handleAppendReply<D>(core: Core<D>, reply: Received<D, 'appendReply'>): void {
  const peer = peerOfReply(core, reply.from, reply.session);
  if (peer === null) return;
  if (reply.success) acknowledged(core, peer, reply.index);
  else refused(core, peer, reply);
}

function acknowledged<D>(core: Core<D>, peer: Peer, index: LogIndex): void {
  invariant(index <= core.log.lastIndex, 'a follower acknowledges only what its leader has');
  const advanced = index > peer.match;
  if (advanced) {
    peer.match = index;
    if (peer.next <= index) peer.next = index + 1;
  }
  if (peer.state === 'replicate') {
    if (peer.window.acknowledge(index)) core.sendDue = true;
  } else if (peer.state === 'probe' || peer.match >= core.log.compactedIndex) {
    replicateFrom(peer, peer.match + 1);
    core.sendDue = true;
  } else if (peer.match >= peer.transfer!.index) {
    // It has this snapshot, and meanwhile the log was compacted further: the next one follows.
    probeFrom(peer, peer.match + 1);
    core.sendDue = true;
  }
  if (!advanced) return;
  if (index > core.commit) advanceCommit(core);
  if (core.leading !== null) transferIfCaughtUp(core, peer);
}

function refused<D>(core: Core<D>, peer: Peer, reply: Received<D, 'appendReply'>): void {
  const { log } = core;
  if (reply.index <= peer.match) {
    // It denies what it has acknowledged: it lost its tail, and its word is void. (Or this is an old reply; a new session costs little.)
    peer.session = ++core.lastSession;
    peer.match = 0;
    probeFrom(peer, Math.min(reply.hintIndex, reply.index - 1, log.lastIndex) + 1);
    core.sendDue = true;
    return;
  }
  if (peer.state === 'snapshot') return;
  if (peer.state === 'probe' && reply.index !== peer.next - 1) return;
  // The highest entry of ours that may be in a log which has `hintTerm` at `hintIndex`.
  const hint = Math.min(reply.hintIndex, log.lastIndex);
  const common = log.lastAtMost(hint, reply.hintTerm);
  probeFrom(peer, Math.max(peer.match + 1, Math.min(reply.index, common + 1)));
  core.sendDue = true;
}

export function handleHeartbeatReply<D>(core: Core<D>, reply: Received<D, 'heartbeatReply'>): void {
  const peer = peerOfReply(core, reply.from, reply.session);
  if (peer === null) return;
  if (peer.state === 'probe') {
    peer.paused = false;
    core.sendDue = true;
  } else if (peer.state === 'replicate' && peer.match < peer.next - 1) {
    peer.checkDue = true;
    core.sendDue = true;
  }
  if (reply.readContext > peer.readRound) {
    peer.readRound = reply.readContext;
    acknowledgeReads(core);
  }
}

/** Raises the commit index to what a quorum has durably, if that is of this term (pitfall 4), and does what follows from it. */
export function advanceCommit<D>(core: Core<D>): void {
  const { leading } = core;
  if (leading === null) return;
  const index = quorumValue(core.configurations.current, (id) =>
    id === core.id ? core.persisted : (leading.peerOf.get(id)?.match ?? 0),
  );
  if (index <= core.commit || core.log.termAt(index) !== core.term) return;
  raiseCommit(core, index);
  core.sendDue = true;
  const leave = configurationLeave(core);
  if (leave !== null) {
    appendEntry(core, leave);
    advanceCommit(core);
  } else if (isLeaderRemoved(core)) resign(core);
}

/** Gives up leadership in this term, after telling everybody how far things are and asking the best voter to take over. */
export function resign<D>(core: Core<D>): void {
  if (core.leading === null) return;
  sendAppends(core);
  inviteSuccessor(core);
  becomeFollower(core, core.term, 0);
}

/** The commit index is clipped to what this follower is known to have (pitfall 7). */
export function sendHeartbeat<D>(core: Core<D>, peer: Peer, readContext: number): void {
  const commit = Math.min(core.commit, peer.match);
  send(core, peer.id, { kind: 'heartbeat', session: peer.session, commit, readContext });
}

/** True while this leader may append proposals; with the reason if not. */
export function proposalProblem<D>(
  core: Core<D>,
  bytes: number,
): 'notLeader' | 'transferring' | 'notReady' | 'full' | 'invalid' | null {
  if (core.leading === null) return 'notLeader';
  if (core.leading.transferee !== 0) return 'transferring';
  if (!isLeaderReady(core)) return 'notReady';
  if (!Number.isSafeInteger(bytes) || bytes < 0) return 'invalid';
  const { commit, log } = core;
  if (commit === log.lastIndex) return null;
  return log.bytesBetween(commit, log.lastIndex) + bytes > core.options.uncommittedBytesMax ? 'full' : null;
}
