// Who leads which group, also of groups that have no replica here.
//
//   a volatile group: the node that it belongs to
//   a replica here: its core knows; until it does, and for the others: the node that claims the leadership with the highest term
//   nobody claims it: one of its replicas is asked, by sending it the batch; it answers who leads, and that is believed until a later claim
//
// State owned: what such answers said, and for each group that something was to be sent to, where that went. A wrong guess costs a round
// trip and no more: only who leads takes batches.
//
// Invariant: whoever had nowhere to send to, or whose leader is reached another way now, is told (`learned`).

import { isVolatileGroup, nodeNumberMax, nodeOfVolatileGroup } from '../machine/groups.ts';
import type { Peers } from './peers.ts';

export interface LeadersContext {
  readonly node: number;
  readonly peers: Peers;
  /** The nodes that hold a group's replicas. */
  replicas(group: number): readonly number[];
  /** What this node's replica knows; null: there is none, or it stopped. */
  local(group: number): { readonly leader: number; readonly term: number } | null;
  /** The first node on the way to a node; 0: there is no way. */
  via(node: number): number;
  /** Batches for this group should be sent again. False: there are none and will be none. */
  learned(group: number): boolean;
}

/** A replica's answer, until somebody claims the leadership with a term above `term`. 0: whoever did claim it leads no more. */
interface Hint {
  readonly leader: number;
  readonly term: number;
}

const noTerm = -1;

export class Leaders {
  readonly #context: LeadersContext;
  readonly #hints = new Map<number, Hint>();
  /** How many replicas of a group had to be asked. */
  readonly #asked = new Map<number, number>();
  /** Per group the last target and the way to it, as one number. */
  readonly #told = new Map<number, number>();
  /** Groups whose pipe was woken by an answer in this tick: two nodes that name each other must not make it send for ever. */
  readonly #wokenByAnswer = new Set<number>();

  constructor(context: LeadersContext) {
    this.#context = context;
  }

  /** The node that leads, as far as is known here; 0: unknown. */
  leaderOf(group: number): number {
    if (isVolatileGroup(group)) return nodeOfVolatileGroup(group);
    const local = this.#context.local(group);
    if (local !== null && local.leader !== 0) return local.leader;
    const claim = this.#claim(group, local?.term ?? 0);
    const hint = this.#hints.get(group);
    if (local === null && hint !== undefined && claim.term <= hint.term) return hint.leader;
    return claim.leader;
  }

  /** Where to send a batch: to the leader, or to somebody who may know him; 0: nowhere now, `learned` will tell. */
  targetOf(group: number): number {
    const target = this.#target(group);
    this.#told.set(group, this.#keyOf(target));
    return target;
  }

  /** This node's replica has told its pipe of a new leader. */
  noted(group: number): void {
    if (this.#told.has(group)) this.targetOf(group);
  }

  /** A node does not lead a group that it was sent a batch for. `leader`: who does, 0 if it does not know. */
  answered(from: number, group: number, leader: number): void {
    if (isVolatileGroup(group) || this.#context.local(group) !== null) return;
    const believed = this.leaderOf(group);
    if (believed !== 0 && believed !== from) return;
    const isNews = leader !== 0 && leader !== from && leader !== this.#context.node;
    if (isNews || believed === from)
      this.#hints.set(group, { leader: isNews ? leader : 0, term: this.#claim(group, 0).term });
    if (!isNews) this.#asked.set(group, (this.#asked.get(group) ?? 0) + 1);
    if (!isNews || this.#wokenByAnswer.has(group)) return;
    this.#wokenByAnswer.add(group);
    this.#refresh(group);
  }

  /** After anybody told something new, or can be reached another way. */
  refresh(): void {
    for (const group of this.#told.keys()) this.#refresh(group);
  }

  tick(): void {
    this.#wokenByAnswer.clear();
  }

  #refresh(group: number): void {
    const before = this.#told.get(group);
    const target = this.#target(group);
    const key = this.#keyOf(target);
    if (key === before) return;
    this.#told.set(group, key);
    if (target !== 0 && !this.#context.learned(group)) this.#told.delete(group);
  }

  #target(group: number): number {
    const { node, via, local } = this.#context;
    const leader = this.leaderOf(group);
    if (leader === node || (leader !== 0 && via(leader) !== 0)) return leader;
    if (isVolatileGroup(group) || local(group) !== null) return 0;
    const replicas = this.#context.replicas(group);
    const first = this.#asked.get(group) ?? 0;
    for (let i = 0; i < replicas.length; i++) {
      const replica = replicas[(first + i) % replicas.length]!;
      if (replica !== node && via(replica) !== 0) return replica;
    }
    return 0;
  }

  #keyOf(target: number): number {
    return target === 0 ? 0 : target * (nodeNumberMax + 1) + this.#context.via(target);
  }

  /** The highest claim of a node that can be reached, of `termMin` or later. */
  #claim(group: number, termMin: number): { readonly leader: number; readonly term: number } {
    let leader = 0;
    let term = noTerm;
    for (const { node, status } of this.#context.peers.all()) {
      const claimed = status?.led.get(group) ?? noTerm;
      if (claimed <= term || claimed < termMin || this.#context.via(node) === 0) continue;
      leader = node;
      term = claimed;
    }
    return { leader, term };
  }
}
