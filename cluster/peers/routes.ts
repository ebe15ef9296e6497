// How a frame reaches another node: over its own connection, or in one hop by a relay, a connected peer that says it is connected to it.
//
//   each node tells whom it hears directly, and with whom it is connected: both directions work. So a way that loses everything in one
//   direction, or in silence, is found within a few ticks, long before its connection breaks
//
// State owned: the way to each node as of the last `update`. It only reads `peers`. A relay never relays by a third node.
//
// Invariant: the way changes only in `update`, and among several relays the one with the lowest number is taken, so that frames mostly stay
// in order. Whoever receives frames must bear the rest: cores and pipes do.

import { isSameList, type Peer, type Peers } from './peers.ts';

export interface RoutesContext {
  readonly node: number;
  readonly peers: Peers;
  /** A peer over whose connection nothing came for this many ticks is not counted on: each tells something of itself far more often. */
  readonly silentTicksMax: number;
  /** The connection to this node is open. */
  isUp(node: number): boolean;
}

export class Routes {
  readonly #context: RoutesContext;
  readonly #via = new Map<number, number>();
  #heard: number[] = [];
  #connected: number[] = [];

  constructor(context: RoutesContext) {
    this.#context = context;
  }

  /** The nodes whose frames arrive here over their own connections, ascending. */
  get heard(): readonly number[] {
    return this.#heard;
  }
  /** Of these, the ones that hear us too. */
  get connected(): readonly number[] {
    return this.#connected;
  }
  /** Whom to give a frame for `node`: itself, a relay, or 0: there is no way. */
  via(node: number): number {
    return this.#via.get(node) ?? 0;
  }

  /** After connections came or broke, a peer told something new, or time passed. */
  update(): { readonly ways: boolean; readonly neighbours: boolean } {
    const { peers } = this.#context;
    const heard: number[] = [];
    const connected: number[] = [];
    for (const peer of peers.all()) {
      if (!this.#isHeard(peer)) continue;
      heard.push(peer.node);
      if (peer.status !== null && this.#isUsable(peer)) connected.push(peer.node);
    }
    const ascending = (a: number, b: number) => a - b;
    heard.sort(ascending);
    connected.sort(ascending);
    for (const node of this.#via.keys()) if (peers.get(node) === undefined) this.#via.delete(node);
    const neighbours = !isSameList(heard, this.#heard) || !isSameList(connected, this.#connected);
    this.#heard = heard;
    this.#connected = connected;
    let ways = false;
    for (const peer of peers.all()) {
      const via = this.#find(peer);
      if (via === this.via(peer.node)) continue;
      this.#via.set(peer.node, via);
      ways = true;
    }
    return { ways, neighbours };
  }

  #isHeard(peer: Peer): boolean {
    return this.#context.isUp(peer.node) && peer.directSilentTicks < this.#context.silentTicksMax;
  }

  /** A peer that has not told yet whom it hears is given the benefit of the doubt. */
  #isUsable(peer: Peer): boolean {
    return this.#isHeard(peer) && (peer.status === null || peer.status.heard.includes(this.#context.node));
  }

  #find(peer: Peer): number {
    const { node } = peer;
    if (this.#isUsable(peer)) return node;
    for (const relay of this.#connected)
      if (this.#context.peers.get(relay)!.status!.connected.includes(node)) return relay;
    // Nobody else reaches it either: if anything, it is slow.
    return this.#context.isUp(node) ? node : 0;
  }
}
