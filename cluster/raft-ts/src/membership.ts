// Changes of who votes and who learns: joint consensus, entered by a proposal and left by the leader on its own.
//
// A configuration is in force as soon as it is in the log (and no longer once truncated). One change at a time, and none before this
// leader's no-op is applied (pitfalls 5, 13). A replica gets a vote only if it is a learner that has caught up (pitfall 16).

import {
  configurationProblem,
  encodeConfiguration,
  enterConfiguration,
  isJoint,
  isVoter,
  leaveConfiguration,
  membersOf,
  sameMembers,
} from './configuration.ts';
import { type Core, isLeaderReady } from './core.ts';
import { createPeer, type Peer } from './peer.ts';
import type { Configuration, Entry, ProposeResult, ReplicaId } from './types.ts';

/** Leader: one peer for each other member of the configuration in force. A new one begins a new session. */
export function syncPeers<D>(core: Core<D>): void {
  const { leading } = core;
  if (leading === null) return;
  const members = membersOf(core.configurations.current).filter((id) => id !== core.id);
  for (const id of [...leading.peerOf.keys()]) if (!members.includes(id)) leading.peerOf.delete(id);
  for (const id of members) {
    if (!leading.peerOf.has(id)) leading.peerOf.set(id, createPeer(id, ++core.lastSession, core.log.lastIndex + 1));
  }
  leading.peers = [...leading.peerOf.values()];
  if (leading.transferee !== 0 && !core.configurations.current.voters.includes(leading.transferee))
    leading.transferee = 0;
  core.sendDue = true;
}

/** The entry that starts the change, or why there is none. */
export function configurationChange<D>(
  core: Core<D>,
  voters: readonly ReplicaId[],
  learners: readonly ReplicaId[],
): Extract<Entry<D>, { kind: 'configuration' }> | Extract<ProposeResult, { ok: false }> {
  const { leading } = core;
  const current = core.configurations.current;
  if (leading === null) return { ok: false, reason: 'notLeader' };
  if (leading.transferee !== 0) return { ok: false, reason: 'transferring' };
  if (!isLeaderReady(core)) return { ok: false, reason: 'notReady' };
  if (isJoint(current) || core.configurations.currentIndex > core.commit)
    return { ok: false, reason: 'changeInProgress' };
  const target: Configuration = { voters, outgoing: [], learners, learnersNext: [], autoLeave: false };
  if (voters.length === 0 || configurationProblem(target) !== null || sameMembers(current, voters, learners))
    return { ok: false, reason: 'invalid' };
  for (const id of voters) {
    if (isVoter(current, id)) continue;
    const peer = leading.peerOf.get(id);
    if (peer === undefined) return { ok: false, reason: 'invalid' };
    if (!hasCaughtUp(core, peer)) return { ok: false, reason: 'notReady' };
  }
  return configurationEntry(core, enterConfiguration(current, voters, learners));
}

/** The entry that ends the joint phase, once the joint configuration and this leader's no-op are committed; else null. */
export function configurationLeave<D>(core: Core<D>): Extract<Entry<D>, { kind: 'configuration' }> | null {
  const { current, currentIndex } = core.configurations;
  if (core.leading === null || !isJoint(current) || !current.autoLeave) return null;
  if (core.commit < currentIndex || core.commit < core.leading.noopIndex) return null;
  return configurationEntry(core, leaveConfiguration(current));
}

/** This leader is no voter any more, and that is committed: its work is done (pitfall 21). */
export function isLeaderRemoved<D>(core: Core<D>): boolean {
  const { current, currentIndex } = core.configurations;
  return core.leading !== null && core.commit >= currentIndex && !isVoter(current, core.id);
}

function configurationEntry<D>(core: Core<D>, configuration: Configuration) {
  const bytes = encodeConfiguration(configuration).length;
  return {
    kind: 'configuration',
    index: core.log.lastIndex + 1,
    term: core.term,
    bytes,
    configuration,
  } satisfies Entry<D>;
}

/** What the learner lacks fits in its window: it is on its way, or about to be. */
function hasCaughtUp<D>(core: Core<D>, peer: Peer): boolean {
  const { electionTicks, inflightBytesMax } = core.options;
  if (peer.state !== 'replicate' || peer.silentTicks >= electionTicks) return false;
  if (peer.match < core.log.compactedIndex) return false;
  return core.log.bytesBetween(peer.match, core.log.lastIndex) <= inflightBytesMax;
}
