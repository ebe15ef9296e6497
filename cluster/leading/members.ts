// Carries changes of membership out: who votes on the metadata, and where the shards' replicas are.
//
//   the metadata's leader   joining: learner → voter → `memberJoined`;  leaving: emptied by plan → learner → `memberGone`;  gone: nothing
//                           every now and then: what to move next (`plan`), one shard at a time → `place`
//   a shard's leader        target: learners → caught up → voters (joint) → committed → `placed`
//
// Like all duties these are read from replicated state again and again until they are done: whoever leads next goes on where the last one
// stopped, and repeats are harmless. State owned: which requests to the metadata are under way, when nodes were first seen to join, and which
// groups teach somebody. All of it may be forgotten.
//
// Invariants, on which it rests that a node may drop the replica that the metadata do not name any more:
//   - a shard's configurations follow the versions of the metadata: before a leader changes one, the version that it acts by is in the
//     shard's log, and a leader acts by no earlier version than the one it finds there. So nobody goes back to a target that was given up;
//     the same before it says that a shard is where it should be;
//   - a node becomes a learner only when its metadata have reached the target: from then on it drops nothing;
//   - `placed` is said only of a committed configuration, and names the version of the target.

import type { Configuration, RaftStatus } from 'raft-ts';
import type { Group } from '../group/group.ts';
import { isVolatileGroup, metadataGroup } from '../machine/groups.ts';
import type { MemberRecord, MetadataCommand, MetadataView, Placement } from '../machine/metadata-types.ts';
import type { ShardMachine } from '../machine/shard.ts';
import type { ClusterLimits, ReportEvent } from '../options.ts';
import type { Pipe } from '../origin/pipe.ts';
import type { Peers } from '../peers/peers.ts';

/** What to move next; null: nothing. */
export type Plan = (
  view: MetadataView,
  alive: ReadonlySet<number>,
) => { readonly group: number; readonly target: readonly number[] } | null;

export interface MembersContext {
  readonly node: number;
  readonly limits: Pick<ClusterLimits, 'nodeDeadMilliseconds'>;
  readonly metadata: MetadataView;
  readonly groups: ReadonlyMap<number, Group>;
  readonly shards: ReadonlyMap<number, Pick<ShardMachine, 'metadataVersion'>>;
  readonly peers: Peers;
  /** This node's pipe to the metadata. */
  readonly pipe: Pipe;
  readonly plan: Plan;
  readonly report: ReportEvent;
  /** Appends to a shard led here that the metadata have come so far as they are now, after all their rows up to there. */
  recordVersion(group: Group): void;
  /** These nodes learn from the replica here, which leads. */
  teach(group: number, learners: readonly number[]): void;
  /** A core was asked for something. */
  dirty(group: Group): void;
}

export class Members {
  readonly #context: MembersContext;
  /** Requests to the metadata, until their reply. */
  readonly #asked = new Set<string>();
  /** Per node that joins: how far the metadata had come when that was noticed here. */
  readonly #noticed = new Map<number, number>();
  /** Groups whose learners are taught at a pace. */
  readonly #teaching = new Set<number>();

  constructor(context: MembersContext) {
    this.#context = context;
  }

  /** Now and then. */
  drive(): void {
    for (const group of this.#context.groups.values()) {
      if (isVolatileGroup(group.id)) continue;
      const status = group.leads ? group.raft.status() : null;
      this.#teach(group, status?.configuration.learners ?? []);
      // Handing over, or in the middle of a change: the core finishes that first.
      if (status === null || status.transferee !== 0 || status.configuration.outgoing.length > 0) continue;
      if (group.id === metadataGroup) this.#driveMetadata(group, status);
      else this.#driveShard(group, status);
    }
  }

  // ---- the metadata

  #driveMetadata(group: Group, status: RaftStatus): void {
    const { metadata } = this.#context;
    const { configuration } = status;
    const settled = settledConfiguration(group, configuration);
    const voters: number[] = [];
    const learners: number[] = [];
    for (const member of metadata.members()) {
      const { node, state } = member;
      if (state === 'gone') continue;
      if (this.#shouldVote(member, configuration)) voters.push(node);
      else learners.push(node);
      if (settled === null) continue;
      if (state === 'joining' && settled.voters.includes(node)) this.#ask({ kind: 'memberJoined', node });
      if (state === 'leaving' && !settled.voters.includes(node) && !this.#holdsReplicas(node))
        this.#ask({ kind: 'memberGone', node });
    }
    // It votes as soon as the core finds that it has caught up, and not without its answer.
    const newcomer = learners.find((node) => this.#mayBeginToVote(node, configuration));
    if (newcomer !== undefined) {
      const others = learners.filter((node) => node !== newcomer);
      if (this.#change(group, status, [...voters, newcomer], others)) return;
    }
    if (voters.length > 0 && this.#change(group, status, voters, learners)) return;
    if (settled !== null) this.#placeNext();
  }

  #shouldVote({ node, state }: MemberRecord, { voters }: Configuration): boolean {
    switch (state) {
      case 'member':
        return true;
      case 'joining':
        return voters.includes(node);
      case 'leaving':
        // A leader hands over before it goes, and whoever holds a shard's replica is no guest yet.
        return voters.includes(node) && (node === this.#context.node || this.#holdsReplicas(node));
      default:
        return false;
    }
  }

  /** A node that joins, that learns already, and of which all voters know that it is to be spoken with. */
  #mayBeginToVote(node: number, { voters, learners }: Configuration): boolean {
    const { metadata, peers } = this.#context;
    if (metadata.member(node)?.state !== 'joining' || !learners.includes(node)) return false;
    const version = this.#noticed.get(node) ?? metadata.appliedIndex;
    this.#noticed.set(node, version);
    const knows = (other: number) => peers.answers(other) && peers.get(other)!.metadataApplied >= version;
    return knows(node) && voters.every((voter) => knows(voter) || !peers.answers(voter));
  }

  #holdsReplicas(node: number): boolean {
    for (const [, { voters, target }] of this.#context.metadata.placements())
      if (voters.includes(node) || target?.includes(node)) return true;
    return false;
  }

  #placeNext(): void {
    const next = this.#context.plan(this.#context.metadata, this.#alive());
    if (next === null) return;
    const { group, target } = next;
    if (this.#ask({ kind: 'place', group, target }))
      this.#context.report('info', 'a shard moves', { group, target: target.join(' ') });
  }

  /** Whoever was heard lately, and this node. */
  #alive(): Set<number> {
    const { node, peers, limits } = this.#context;
    const alive = new Set([node]);
    for (const peer of peers.all())
      if (peer.incarnation > 0 && peers.silentMilliseconds(peer.node) < limits.nodeDeadMilliseconds)
        alive.add(peer.node);
    return alive;
  }

  // ---- shards

  #driveShard(group: Group, status: RaftStatus): void {
    const { metadata, shards } = this.#context;
    const { configuration } = status;
    const placement = metadata.placement(group.id);
    const shard = shards.get(group.id);
    if (placement === undefined || shard === undefined) return;
    // An earlier leader has acted by later metadata: what these say may be over.
    if (metadata.appliedIndex < shard.metadataVersion) return;
    const wanted = placement.target ?? placement.voters;
    const isThere = isSame(configuration.voters, wanted) && configuration.learners.length === 0;
    if (isThere && placement.target === null) return;
    // Also if an earlier move has brought it there: whoever leads next may know of one in between that was given up, and of nothing later.
    if (shard.metadataVersion < placement.version) return this.#context.recordVersion(group);
    if (isThere) {
      const isSettled = settledConfiguration(group, configuration) !== null;
      if (isSettled) this.#ask({ kind: 'placed', group: group.id, voters: wanted, version: placement.version });
      return;
    }
    const newcomers = wanted.filter((node) => !configuration.voters.includes(node));
    const learners = newcomers.filter(
      (node) => configuration.learners.includes(node) || this.#hasHeardOf(node, placement),
    );
    const areLearning = newcomers.every((node) => configuration.learners.includes(node));
    if (areLearning && this.#change(group, status, wanted, [])) return;
    this.#change(group, status, configuration.voters, learners);
  }

  /** It knows that it is to hold this replica, and keeps what it is sent. */
  #hasHeardOf(node: number, { version }: Placement): boolean {
    const { peers, metadata } = this.#context;
    if (node === this.#context.node) return metadata.appliedIndex >= version;
    return (peers.get(node)?.metadataApplied ?? 0) >= version;
  }

  // ----

  /** Asks the core for a configuration. False: it is the one there is, or would stand still, or the core does not take it now. */
  #change(group: Group, status: RaftStatus, voters: readonly number[], learners: readonly number[]): boolean {
    const { configuration, progress } = status;
    const isSameVoters = isSame(configuration.voters, voters);
    if (isSameVoters && isSame(configuration.learners, learners)) return false;
    const answers = (node: number) =>
      node === this.#context.node || progress.some(({ id, active }) => id === node && active);
    if (!isSameVoters && 2 * voters.filter(answers).length <= voters.length) return false;
    const result = group.raft.proposeConfiguration(voters, learners);
    if (!result.ok) return false;
    this.#context.report('info', 'configuration changes', {
      group: group.id,
      voters: voters.join(' '),
      learners: learners.join(' '),
    });
    this.#teach(group, learners);
    this.#context.dirty(group);
    return true;
  }

  #teach({ id }: Group, learners: readonly number[]): void {
    if (learners.length === 0 && !this.#teaching.delete(id)) return;
    if (learners.length > 0) this.#teaching.add(id);
    this.#context.teach(id, learners);
  }

  /** False: it was asked already, or the metadata do not answer. */
  #ask(command: MetadataCommand): boolean {
    const { pipe } = this.#context;
    const json = JSON.stringify(command);
    if (pipe.isStalled || this.#asked.has(json)) return false;
    this.#asked.add(json);
    pipe.metadata(json, () => this.#asked.delete(json));
    return true;
  }
}

/** The configuration in force, if it is committed and no change is under way. */
function settledConfiguration(group: Group, configuration: Configuration): Configuration | null {
  const committed = group.raft.configurationAt(group.raft.commit);
  const isCommitted = committed.outgoing.length === 0 && isSame(committed.voters, configuration.voters);
  return isCommitted && isSame(committed.learners, configuration.learners) ? configuration : null;
}

const isSame = (left: readonly number[], right: readonly number[]): boolean =>
  left.length === right.length && left.every((node) => right.includes(node));
