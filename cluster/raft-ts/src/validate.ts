// The stated invariants of one replica, checked all at once: for tests after every step, and for a host that suspects something.

import { isVoter, membersOf } from './configuration.ts';
import type { Core } from './core.ts';
import { invariant } from './invariant.ts';
import type { Peer } from './peer.ts';

export function validateCore<D>(core: Core<D>): void {
  validateLog(core);
  validateWrites(core);
  validateRole(core);
}

function validateLog<D>(core: Core<D>): void {
  const { log, snapshot, configurations } = core;
  log.validate();
  configurations.validate(log.lastIndex);
  invariant(log.compactedIndex <= snapshot.index, 'compacted <= snapshot');
  invariant(snapshot.index <= core.applied, 'snapshot <= applied');
  invariant(core.applied <= core.commit, 'applied <= commit');
  invariant(core.commit <= log.lastIndex, 'commit <= last');
  invariant(core.persisted <= core.handed && core.handed <= log.lastIndex, 'persisted <= handed <= last');
  invariant(log.lastTerm <= core.term, 'the log is not of a later term');
  invariant(log.termAt(snapshot.index) === snapshot.term, 'the snapshot is of this log');
}

function validateWrites<D>(core: Core<D>): void {
  const { log, entries, handed, outstanding } = core;
  invariant(handed + entries.length === log.lastIndex, 'entries that are not handed out end the log');
  for (let i = 0; i < entries.length; i++) {
    const { index, term } = entries[i]!;
    invariant(index === handed + 1 + i && log.termAt(index) === term, 'entries to write are those of the log');
  }
  invariant(core.truncateFrom === null || core.truncateFrom <= handed + 1, 'a write truncates before it appends');
  let sequence = core.persistedSequence;
  for (const write of outstanding) {
    invariant(write.sequence > sequence && write.lastIndex <= log.lastIndex, 'writes are in order');
    sequence = write.sequence;
  }
  invariant(sequence <= core.lastSequence, 'no write is numbered ahead');
  invariant(core.hardStateSequence <= core.lastSequence, 'the hard state was handed out');
  for (const { sequence: needed, message } of core.held) {
    invariant(needed > core.persistedSequence && needed <= core.lastSequence + 1, 'held messages wait for a write');
    invariant(message.term <= core.term, 'held messages are not of a later term');
  }
}

function validateRole<D>(core: Core<D>): void {
  const { role, leading } = core;
  invariant((role === 'leader') === (leading !== null), 'a leader, and only a leader, leads');
  invariant(
    core.campaignIn === -1 || role === 'follower' || role === 'preCandidate',
    'only a follower plans a campaign',
  );
  if (role === 'candidate' || role === 'leader') invariant(core.vote === core.id, 'a candidate votes for itself');
  if (role === 'preCandidate' || role === 'candidate') invariant(core.leader === 0, 'a candidate follows nobody');
  if (core.repairTo !== 0) invariant(role === 'follower', 'a damaged replica only follows');
  if (leading === null) return;
  invariant(core.leader === core.id, 'a leader follows itself');
  invariant(core.staging === null, 'a leader installs nothing');
  invariant(leading.noopIndex <= core.log.lastIndex, 'a leader has its no-op');
  const noopTerm = core.log.termAt(leading.noopIndex);
  invariant(noopTerm === undefined || noopTerm === core.term, 'the no-op is of its term');
  const members = membersOf(core.configurations.current).filter((id) => id !== core.id);
  invariant(members.length === leading.peers.length, 'a leader has one peer per other member');
  for (const id of members) invariant(leading.peerOf.has(id), 'a leader has one peer per other member');
  if (leading.transferee !== 0)
    invariant(isVoter(core.configurations.current, leading.transferee), 'only a voter takes over');
  for (const peer of leading.peers) validatePeer(core, peer);
}

function validatePeer<D>(core: Core<D>, peer: Peer): void {
  invariant(peer.match < peer.next, 'match < next');
  invariant(peer.match <= core.log.lastIndex && peer.next <= core.log.lastIndex + 1, 'peers are within the log');
  invariant(peer.commitTold <= core.commit, 'nobody was told more than is committed');
  invariant((peer.state === 'snapshot') === (peer.transfer !== null), 'a transfer belongs to the snapshot state');
  invariant(peer.state === 'replicate' || peer.window.count === 0, 'only replication has a window');
  invariant(peer.window.count <= core.options.inflightMessagesMax, 'the window is bounded');
  invariant(peer.window.count > 0 || peer.window.bytes === 0, 'an empty window holds no bytes');
  invariant(peer.session > 0 && peer.session <= core.lastSession, 'sessions are numbered');
}
