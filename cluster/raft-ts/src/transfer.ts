// Handing leadership over: proposals are frozen, the target catches up, and is told to campaign past everybody's stickiness (pitfall 22).
// Limited to one election timeout; the tick ends it.

import { type Core, send } from './core.ts';
import type { Peer } from './peer.ts';
import type { ReplicaId } from './types.ts';

export function beginTransfer<D>(core: Core<D>, to: ReplicaId): boolean {
  const { leading } = core;
  if (leading === null || to === core.id) return false;
  if (leading.transferee !== 0) return leading.transferee === to;
  const peer = leading.peerOf.get(to);
  if (peer === undefined || !core.configurations.current.voters.includes(to)) return false;
  if (peer.silentTicks >= core.options.electionTicks || peer.state === 'snapshot') return false;
  leading.transferee = to;
  leading.transferElapsed = 0;
  // What was lost on the way to it is found now, not with the next heartbeat.
  peer.checkDue = peer.state === 'replicate' && peer.match < peer.next - 1;
  core.sendDue = true;
  transferIfCaughtUp(core, peer);
  return true;
}

/** Called whenever the peer may have caught up, and with each heartbeat, in case the message was lost. */
export function transferIfCaughtUp<D>(core: Core<D>, peer: Peer): void {
  if (core.leading?.transferee === peer.id && peer.match === core.log.lastIndex)
    send(core, peer.id, { kind: 'timeoutNow' });
}

/** Asks the voter that has the most to campaign at once, so that nobody waits for an election timeout. */
export function inviteSuccessor<D>(core: Core<D>): void {
  let best: Peer | null = null;
  for (const peer of core.leading!.peers) {
    const fits = core.configurations.current.voters.includes(peer.id) && peer.silentTicks < core.options.electionTicks;
    if (fits && peer.match >= core.commit && (best === null || peer.match > best.match)) best = peer;
  }
  if (best !== null) send(core, best.id, { kind: 'timeoutNow' });
}
