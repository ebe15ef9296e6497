// The leader's side of a snapshot: chunks, one on its way at a time, to a follower that lacks what is no longer whole here.
//
//   asked of the host -> snapshotRead -> snapshotChunk -> snapshotReply with the next offset -> ... -> appendReply: installed
//
// A lost chunk or answer is made good after an election timeout, from the follower's offset. Where the follower has no staging file any more,
// or the host no stream, the transfer begins anew. Each one is a session of its own: two streams of one snapshot need not have the same bytes,
// and what the follower holds of another one must not be taken for the beginning of this one.

import { type Core, type Received, send } from './core.ts';
import { invariant } from './invariant.ts';
import { type Peer, snapshotFrom } from './peer.ts';
import type { ReplicaId, SnapshotMeta } from './types.ts';

export function beginTransfer<D>(core: Core<D>, peer: Peer): void {
  peer.session = ++core.lastSession;
  snapshotFrom(peer, core.snapshot.index);
  askForChunk(core, peer);
}

/** Asks the host for the chunk at the transfer's offset. */
function askForChunk<D>(core: Core<D>, peer: Peer): void {
  const transfer = peer.transfer!;
  transfer.waiting = 'read';
  transfer.waitedTicks = 0;
  const isFirst = transfer.meta === null;
  if (isFirst) transfer.index = core.snapshot.index;
  core.snapshotReads.push({
    to: peer.id,
    index: transfer.index,
    match: peer.match,
    offset: transfer.offset,
    isFirst,
    bytesMax: core.options.snapshotChunkBytes,
  });
}

export function takeSnapshotRead<D>(
  core: Core<D>,
  to: ReplicaId,
  snapshot: SnapshotMeta | null,
  offset: number,
  bytes: Uint8Array,
  done: boolean,
): void {
  const peer = core.leading?.peerOf.get(to);
  const transfer = peer?.transfer;
  if (!peer || !transfer || transfer.waiting !== 'read' || transfer.offset !== offset) return;
  const { meta } = transfer;
  if (meta !== null && meta.index !== snapshot?.index) return beginTransfer(core, peer);
  // A stream that could not be begun is asked for again in time.
  if (snapshot === null || (bytes.length === 0 && !done)) return;
  if (meta === null) {
    invariant(offset === 0, 'a stream begins at its beginning');
    invariant(snapshot.index >= core.log.compactedIndex, 'a snapshot reaches to the whole entries');
    transfer.meta = snapshot;
    transfer.index = snapshot.index;
    // Nobody is to begin another one for a request that waited here.
    core.snapshotReads = core.snapshotReads.filter((read) => read.to !== to);
  }
  transfer.waiting = 'reply';
  transfer.waitedTicks = 0;
  send(core, to, { kind: 'snapshotChunk', session: peer.session, snapshot, offset, bytes, done });
}

export function handleSnapshotReply<D>(core: Core<D>, peer: Peer, reply: Received<D, 'snapshotReply'>): void {
  const { transfer } = peer;
  if (transfer === null || transfer.meta?.index !== reply.index) return;
  if (reply.ok && reply.offset > transfer.offset) {
    transfer.offset = reply.offset;
    askForChunk(core, peer);
  } else if (!reply.ok && transfer.offset > 0) beginTransfer(core, peer);
}

/** One tick: asks anew when host or follower took too long. The host may be asked for what it is still reading. */
export function tickTransfer<D>(core: Core<D>, peer: Peer): void {
  const { transfer } = peer;
  if (transfer === null || peer.silentTicks >= core.options.electionTicks) return;
  if (++transfer.waitedTicks >= core.options.electionTicks) askForChunk(core, peer);
}
