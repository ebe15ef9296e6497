// What a leader knows of one other member, and what is on its way there.
//
//   probe      the follower's log is unknown: one append at a time, until one is accepted
//   replicate  appends are sent without waiting, as far as the window allows
//   snapshot   it lacks entries that are no longer whole here: chunks of a snapshot, one at a time
//
// State owned: match and next index, the window of unacknowledged appends, the snapshot transfer. A new leadership, a follower that lost
// what it had acknowledged, and each transfer, begin a new session: replies of an old one are dropped.
//
// Invariants: match < next; the window is empty but in `replicate`; `transfer` is there only in `snapshot`.

import type { LogIndex, ReplicaId, SnapshotMeta } from './types.ts';

export interface SnapshotTransfer {
  /** The snapshot that is asked of the host; from the first chunk on the one that it chose, and then `meta`. */
  index: LogIndex;
  meta: SnapshotMeta | null;
  /** Where the next chunk begins. */
  offset: number;
  /** For the host to read a chunk, or for the follower to answer one. */
  waiting: 'read' | 'reply';
  waitedTicks: number;
}

export interface Peer {
  readonly id: ReplicaId;
  session: number;
  state: 'probe' | 'replicate' | 'snapshot';
  /** The follower has, durably, all entries up to here. */
  match: LogIndex;
  /** The first entry to send. */
  next: LogIndex;
  /** Probe: one is on its way. Lifted by any answer, also to a heartbeat. */
  paused: boolean;
  /** Replicate: an empty append is due, to find out whether something was lost. */
  checkDue: boolean;
  /** The highest commit index that went out with an append: no further one is due for it. */
  commitTold: LogIndex;
  /** Ticks since its last answer. */
  silentTicks: number;
  /** The highest read round it answered. */
  readRound: number;
  readonly window: Window;
  transfer: SnapshotTransfer | null;
}

export function createPeer(id: ReplicaId, session: number, next: LogIndex): Peer {
  return {
    id,
    session,
    state: 'probe',
    match: 0,
    next,
    paused: false,
    checkDue: false,
    commitTold: 0,
    silentTicks: 0,
    readRound: 0,
    window: new Window(),
    transfer: null,
  };
}

export function probeFrom(peer: Peer, next: LogIndex): void {
  peer.state = 'probe';
  peer.next = next;
  peer.paused = false;
  peer.checkDue = false;
  peer.transfer = null;
  peer.window.clear();
}

export function replicateFrom(peer: Peer, next: LogIndex): void {
  peer.state = 'replicate';
  peer.next = next;
  peer.paused = false;
  peer.checkDue = false;
  peer.commitTold = Math.min(peer.commitTold, peer.match);
  peer.transfer = null;
  peer.window.clear();
}

export function snapshotFrom(peer: Peer, index: LogIndex): void {
  peer.state = 'snapshot';
  peer.paused = false;
  peer.checkDue = false;
  peer.window.clear();
  peer.transfer = { index, meta: null, offset: 0, waiting: 'read', waitedTicks: 0 };
}

const windowCapacityMin = 8;

/** Appends sent and not yet acknowledged: last index and bytes of each, in order, in a ring that grows. */
export class Window {
  #lasts = new Float64Array(windowCapacityMin);
  #sizes = new Float64Array(windowCapacityMin);
  #head = 0;
  #count = 0;
  #bytes = 0;

  get count(): number {
    return this.#count;
  }
  get bytes(): number {
    return this.#bytes;
  }

  push(last: LogIndex, bytes: number): void {
    if (this.#count === this.#lasts.length) this.#grow();
    const at = (this.#head + this.#count) & (this.#lasts.length - 1);
    this.#lasts[at] = last;
    this.#sizes[at] = bytes;
    this.#count++;
    this.#bytes += bytes;
  }

  /** Everything up to `index` was acknowledged. True if that made room. */
  acknowledge(index: LogIndex): boolean {
    const before = this.#count;
    while (this.#count > 0 && this.#lasts[this.#head]! <= index) {
      this.#bytes -= this.#sizes[this.#head]!;
      this.#head = (this.#head + 1) & (this.#lasts.length - 1);
      this.#count--;
    }
    return this.#count < before;
  }

  clear(): void {
    this.#count = 0;
    this.#bytes = 0;
  }

  #grow(): void {
    const capacity = this.#lasts.length;
    const lasts = new Float64Array(capacity * 2);
    const sizes = new Float64Array(capacity * 2);
    for (let i = 0; i < this.#count; i++) {
      lasts[i] = this.#lasts[(this.#head + i) & (capacity - 1)]!;
      sizes[i] = this.#sizes[(this.#head + i) & (capacity - 1)]!;
    }
    this.#lasts = lasts;
    this.#sizes = sizes;
    this.#head = 0;
  }
}
