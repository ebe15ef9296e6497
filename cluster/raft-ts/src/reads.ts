// ReadIndex: a read is safe at the commit index of now, once a quorum answers a heartbeat sent from now on.
//
// Requests gather until `ready`; each batch is a round with a number of its own, never reused, which heartbeats carry and their answers
// return. An answer to round n speaks for all rounds before n too. Nothing rests on clocks (pitfall 23).

import { hasQuorum, isVoter, quorumValue } from './configuration.ts';
import { type Core, isLeaderReady, send } from './core.ts';

export function requestRead<D>(core: Core<D>, context: number): void {
  if (core.leading === null) core.reads.push({ context, index: null });
  else core.leading.readsWaiting.push(context);
}

export function isReadRoundDue<D>(core: Core<D>): boolean {
  return core.leading !== null && core.leading.readsWaiting.length > 0 && isLeaderReady(core);
}

/** One round for all requests that wait. */
export function beginReadRound<D>(core: Core<D>): void {
  const leading = core.leading!;
  const contexts = leading.readsWaiting;
  leading.readsWaiting = [];
  const round = ++core.lastReadRound;
  leading.readRounds.push({ round, index: core.commit, contexts });
  const { current } = core.configurations;
  if (hasQuorum(current, (id) => id === core.id)) return acknowledgeReads(core);
  for (const peer of leading.peers) {
    if (!isVoter(current, peer.id)) continue;
    const commit = Math.min(core.commit, peer.match);
    send(core, peer.id, { kind: 'heartbeat', session: peer.session, commit, readContext: round });
  }
}

/** The newest round that still waits, for a heartbeat to carry; 0: none. */
export function pendingReadRound<D>(core: Core<D>): number {
  const rounds = core.leading!.readRounds;
  return rounds.length === 0 ? 0 : rounds[rounds.length - 1]!.round;
}

/** Answers the rounds that a quorum has confirmed. */
export function acknowledgeReads<D>(core: Core<D>): void {
  const { readRounds, peerOf } = core.leading!;
  if (readRounds.length === 0) return;
  const confirmed = quorumValue(core.configurations.current, (id) =>
    id === core.id ? Number.POSITIVE_INFINITY : (peerOf.get(id)?.readRound ?? 0),
  );
  let done = 0;
  for (; done < readRounds.length && readRounds[done]!.round <= confirmed; done++) {
    const { contexts, index } = readRounds[done]!;
    for (const context of contexts) core.reads.push({ context, index });
  }
  readRounds.splice(0, done);
}
