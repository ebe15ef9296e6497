// Who should lead: the spread of leaders over the nodes, who follows when one is gone, and giving leaderships away.
//
//   a group prefers the first of its replicas; that node asks for it when a cluster starts, and is handed it when it is back and caught up;
//   when its leader's connection breaks, the next in line campaigns at once; a node that stops, or leaves the cluster, hands over what it
//   leads, and one whose replica of the metadata stopped gives it up: it could not tell its shards what the metadata say.
//
// State owned: whether this node is about to stop. Everything else is read from the cores and from `peers`. It only ever asks cores to
// campaign, hand over or step down: that there is one leader per term is theirs to keep, so a wrong guess here costs time and no more.
// Volatile groups are none of its business: they have one replica.

import type { Group } from '../group/group.ts';
import { isVolatileGroup, metadataGroup } from '../machine/groups.ts';
import type { ClusterLimits, ReportEvent } from '../options.ts';
import type { Peers } from '../peers/peers.ts';
import type { Clock } from '../ports.ts';

export interface LeadershipContext {
  readonly node: number;
  readonly limits: ClusterLimits;
  readonly clock: Clock;
  readonly peers: Peers;
  readonly groups: ReadonlyMap<number, Group>;
  readonly report: ReportEvent;
  /** The nodes that hold a group's replicas, the one that should lead it first. */
  replicas(group: number): readonly number[];
  /** Is it, and stays it, a member of the cluster? */
  stays(node: number): boolean;
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

  /** A cluster that starts does not wait for its election timeouts: each node asks for its groups once a majority of a group's answers. */
  campaignWhereNobodyLeads(): void {
    const { node, peers, replicas } = this.#context;
    if (!this.#mayLead) return;
    for (const group of this.#groups()) {
      if (group.raft.leader !== 0 || group.raft.role !== 'follower') continue;
      const holders = replicas(group.id);
      if (holders[0] !== node) continue;
      const answering = holders.filter((holder) => holder === node || peers.answers(holder)).length;
      if (2 * answering <= holders.length) continue;
      group.raft.campaign();
      this.#context.dirty(group);
    }
  }

  /** A dead connection is a hint that the leaders over there died: the next in line campaigns at once, the others a little later. */
  peerDown(peer: number): void {
    const { node, limits } = this.#context;
    for (const group of this.#groups()) {
      if (group.raft.leader !== peer) continue;
      // Who must not lead leaves it to the others for as long as an election takes.
      if (!this.#mayLead) group.raft.leaderLost(limits.electionTicks);
      else group.raft.leaderLost(this.#nextInLine(group.id, peer) === node ? 0 : limits.hintDelayTicks);
      this.#context.dirty(group);
    }
  }

  /** Hands one group at a time to the node that should lead it, once that node has caught up. */
  balance(): void {
    if (this.#leaving) return;
    if (this.#isMetadataHalted) return this.#leaveToOthers('metadata stopped here, leadership given up');
    if (!this.#context.stays(this.#context.node)) return this.#leaveToOthers(null);
    const { peers, replicas, limits } = this.#context;
    for (const group of this.#groups()) {
      if (!group.leads) continue;
      const preferred = replicas(group.id)[0]!;
      const peer = peers.get(preferred);
      if (peer === undefined || !this.#isFit(preferred)) continue;
      if (peer.upTicks * limits.tickMilliseconds < steadyMilliseconds) continue;
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
    for (const group of this.#groups()) {
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
    const { clock, limits } = this.#context;
    const until = clock.now() + limits.handOverMilliseconds;
    this.#leaving = true;
    tell();
    let leading = 0;
    do {
      await new Promise<void>((resolve) => clock.after(handOverPollMilliseconds, resolve));
      leading = 0;
      for (const group of this.#groups()) {
        if (group.raft.role !== 'leader') continue;
        const target = this.#successor(group);
        if (target === 0) continue;
        leading++;
        group.raft.transferLeadership(target);
        this.#context.dirty(group);
      }
    } while (leading > 0 && clock.now() < until);
  }

  /** The groups that have more replicas than one, and whose replica here goes on. */
  *#groups(): Generator<Group> {
    for (const group of this.#context.groups.values())
      if (group.halted === null && !isVolatileGroup(group.id)) yield group;
  }

  get #isMetadataHalted(): boolean {
    return !this.#context.groups.get(metadataGroup)!.isReadable;
  }

  get #mayLead(): boolean {
    return !this.#leaving && !this.#isMetadataHalted;
  }

  /** May a group be given to this peer? */
  #isFit(node: number): boolean {
    return this.#context.peers.mayLead(node) && this.#context.stays(node);
  }

  /**
   * What this node leads goes to whoever has most of it. If nobody can take it: without metadata (`trouble`) it waits for an election; else
   * this node goes on.
   */
  #leaveToOthers(trouble: string | null): void {
    for (const group of this.#groups()) {
      if (group.raft.role !== 'leader' || group.raft.status().transferee !== 0) continue;
      // Nobody else has it: what it still can do is better than nothing.
      if (this.#context.replicas(group.id).length === 1) continue;
      if (trouble !== null) this.#context.report('error', trouble, { group: group.id });
      const target = this.#successor(group);
      const isTaken = target !== 0 && group.raft.transferLeadership(target);
      if (!isTaken && trouble !== null) group.raft.stepDown();
      this.#context.dirty(group);
    }
  }

  /**
   * Who follows when a leader is gone: one of the group's other replicas. The groups that prefer the same node are about as many apart as
   * there are nodes, so counting by that spreads those of one dead node evenly.
   */
  #nextInLine(group: number, except: number): number {
    const { node, peers, replicas } = this.#context;
    const line = replicas(group).filter((other) => other !== except && (other === node || this.#isFit(other)));
    return line[Math.floor(group / (peers.count + 1)) % line.length] ?? 0;
  }

  /** Whom to hand a group to: the connected node that stays and has most of its log; 0: none. */
  #successor(group: Group): number {
    let best = 0;
    let match = -1;
    for (const row of group.raft.status().progress) {
      if (row.learner || !row.active || !this.#context.isUp(row.id) || row.match <= match) continue;
      if (!this.#isFit(row.id)) continue;
      best = row.id;
      match = row.match;
    }
    return best;
  }
}
