// Who should lead: the spread of leaders over the nodes, who follows when one is gone, and giving leaderships away.
//
//   a group prefers one node, by number; that node asks for it when a cluster starts, and is handed it when it is back and caught up;
//   when its leader's connection breaks, the next in line campaigns at once; a node that stops hands over what it leads.
//
// State owned: whether this node is about to stop. Everything else is read from the cores and from `peers`. It only ever asks cores to
// campaign, hand over or step down: that there is one leader per term is theirs to keep, so a wrong guess here costs time and no more.

import type { Group } from './group.ts';
import type { ClusterLimits, ReportEvent } from './options.ts';
import type { Peers } from './peers.ts';
import type { Clock } from './ports.ts';

export interface LeadershipContext {
  readonly node: number;
  /** All nodes of the cluster, this one too, ascending. */
  readonly nodes: readonly number[];
  readonly limits: ClusterLimits;
  readonly clock: Clock;
  readonly peers: Peers;
  readonly groups: readonly Group[];
  readonly report: ReportEvent;
  isUp(node: number): boolean;
  metadataVersion(): number;
  /** A core was asked for something. */
  dirty(group: Group): void;
}

/** A node is handed a group only if it lacks no more than this of its log, or of the metadata. */
const lagEntriesMax = 64;
/** So long a connection must have held before something is handed over it. */
const steadyMilliseconds = 1_000;
const handOverPollMilliseconds = 10;

export class Leadership {
  readonly #context: LeadershipContext;
  #leaving = false;

  constructor(context: LeadershipContext) {
    this.#context = context;
  }

  /** This node is about to stop: it takes no leadership any more. */
  get isLeaving(): boolean {
    return this.#leaving;
  }

  /** A cluster that starts does not wait for its election timeouts: each node asks for its groups once a majority hears and answers. */
  campaignWhereNobodyLeads(): void {
    const { node, nodes, peers, groups } = this.#context;
    if (this.#leaving || (1 + peers.hearing()) * 2 <= nodes.length) return;
    for (const group of groups) {
      if (group.raft.leader !== 0 || group.raft.role !== 'follower' || group.halted !== null) continue;
      if (this.#preferred(group.id) !== node) continue;
      group.raft.campaign();
      this.#context.dirty(group);
    }
  }

  /** A dead connection is a hint that the leaders over there died: the next in line campaigns at once, the others a little later. */
  peerDown(peer: number): void {
    const { node, groups, limits } = this.#context;
    for (const group of groups) {
      if (group.raft.leader !== peer) continue;
      const isNext = !this.#leaving && this.#preferred(group.id, peer) === node;
      group.raft.leaderLost(isNext ? 0 : limits.hintDelayTicks);
      this.#context.dirty(group);
    }
  }

  /** Hands one group at a time to the node that should lead it, once that node has caught up. */
  balance(): void {
    if (this.#leaving) return;
    const { peers, groups, limits } = this.#context;
    for (const group of groups) {
      if (!group.leads) continue;
      const preferred = this.#preferred(group.id);
      const peer = peers.get(preferred);
      if (peer === undefined || peer.leaving || peer.upTicks * limits.tickMilliseconds < steadyMilliseconds) continue;
      if (peer.metadataApplied + lagEntriesMax < this.#context.metadataVersion()) continue;
      const status = group.raft.status();
      const row = status.progress.find(({ id }) => id === preferred);
      if (status.transferee !== 0 || row === undefined || !row.active || row.state !== 'replicate') continue;
      if (row.match + lagEntriesMax < status.lastIndex || !group.raft.transferLeadership(preferred)) continue;
      this.#context.report('info', 'leadership handed over', {
        group: group.id,
        to: preferred,
      });
      this.#context.dirty(group);
      return;
    }
  }

  /** Gives up all leaderships at once: followers, who can do what this node cannot, elect one of theirs. */
  resign(reason: string): void {
    for (const group of this.#context.groups) {
      if (group.raft.role !== 'leader') continue;
      this.#context.report('error', reason, { group: group.id });
      group.raft.stepDown();
      this.#context.dirty(group);
    }
  }

  /**
   * Hands all leaderships over, as far as others that stay take them in time. `tell` says so to the others first: when all nodes stop at
   * once they hear it of each other before anything was handed over, and nobody balances a group back to a node that is about to go.
   */
  async handOver(tell: () => void): Promise<void> {
    const { clock, groups, limits } = this.#context;
    const until = clock.now() + limits.handOverMilliseconds;
    this.#leaving = true;
    tell();
    let leading = 0;
    do {
      await new Promise<void>((resolve) => clock.after(handOverPollMilliseconds, resolve));
      leading = 0;
      for (const group of groups) {
        if (group.raft.role !== 'leader') continue;
        const target = this.#successor(group);
        if (target === 0) continue;
        leading++;
        group.raft.transferLeadership(target);
        this.#context.dirty(group);
      }
    } while (leading > 0 && clock.now() < until);
  }

  /** The node that leads a group when all is well; `except`: who follows when that one is gone. */
  #preferred(group: number, except = 0): number {
    const all = this.#context.nodes;
    const nodes = all.filter((node) => node !== except);
    return nodes[(group + all.length - 1) % nodes.length]!;
  }

  /** Whom to hand a group to: the connected node that stays and has most of its log; 0: none. */
  #successor(group: Group): number {
    let best = 0;
    let match = -1;
    for (const row of group.raft.status().progress) {
      if (row.learner || !row.active || !this.#context.isUp(row.id) || row.match <= match) continue;
      if (this.#context.peers.get(row.id)?.leaving === true) continue;
      best = row.id;
      match = row.match;
    }
    return best;
  }
}
