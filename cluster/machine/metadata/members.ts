// Who belongs to the cluster, and which nodes hold which shard: decided here alone, and changed by commands only.
//
//   joinNode → joining → memberJoined → member → leaveNode → leaving → memberGone → gone (for ever)
//   place → a shard has a target → placed → the target are its voters
//
// State owned: a record for each node that ever was, a placement for each shard, the last number given. Where the preferred leaders are
// follows from these and is kept beside them.
//
// Invariants: a number, a name and a UUID each belong to one node, also after it is gone; at most one shard has a target; a target is odd in
// number (or takes a move back) and none of its nodes is new to the shard but full members; voters and targets are never gone.
//
// PURE.

import { isVolatileGroup, metadataGroup, nodeNumberMax, nodeOfVolatileGroup, replicasOf } from '../groups.ts';
import type { MemberRecord, MetadataCommand, OriginalFormat, Placement } from '../metadata-types.ts';
import { textHash } from './hash.ts';
import { preferredLeaders } from './preferences.ts';
import { MemberRefusal } from './refusals.ts';

type CommandOf<K extends MetadataCommand['kind']> = Extract<MetadataCommand, { readonly kind: K }>;

/** Nodes that are part of the cluster at the same time, those that leave not counted: all of them vote on the metadata. */
export const membersMax = 7;

/** What a command came to: refused, or done with a value (the number of a node that joins). */
export type MemberOutcome = { readonly refusal: MemberRefusal } | { readonly refusal: null; readonly value: number };

/** Of the snapshot. */
export interface MembersState {
  readonly lastNode: number;
  readonly members: readonly MemberRecord[];
  /** Of the shards 1, 2, … */
  readonly placements: readonly Placement[];
}

const done: MemberOutcome = { refusal: null, value: 0 };
const refuse = (refusal: MemberRefusal): MemberOutcome => ({ refusal });

/** The largest odd number of replicas, of `replication` wanted, that so many nodes can hold. */
export function replicasPossible(replication: number, nodes: number): number {
  const count = Math.min(replication, nodes);
  return count % 2 === 1 ? count : Math.max(0, count - 1);
}

export class MemberTable {
  readonly #format: OriginalFormat;
  readonly #members = new Map<number, MemberRecord>();
  readonly #placements: Placement[];
  #lastNode: number;
  #version = 1;
  /** Follow from the state, made when asked for after a change. */
  #hash: number | null = null;
  #replicas: ReadonlyMap<number, readonly number[]> | null = null;

  constructor(format: OriginalFormat, shards: number) {
    this.#format = format;
    const nodes = format.nodes.map(({ node }) => node);
    if (nodes.length === 0 || nodes.some((node, i) => i > 0 && node <= nodes[i - 1]!))
      throw new Error(`the original nodes must be in order, and at least one: ${nodes.join(', ')}`);
    for (const { node, name, uuid } of format.nodes)
      this.#members.set(node, { node, name, uuid, address: { host: '', port: 0 }, state: 'member' });
    this.#lastNode = nodes[nodes.length - 1]!;
    this.#placements = Array.from({ length: shards }, (_, i) => ({
      voters: ascending(replicasOf(i + 1, nodes, format.replication)),
      target: null,
      version: 0,
    }));
  }

  get replication(): number {
    return this.#format.replication;
  }
  /** Of this replica alone. */
  get version(): number {
    return this.#version;
  }

  get(node: number): MemberRecord | undefined {
    return this.#members.get(node);
  }
  values(): Iterable<MemberRecord> {
    return this.#members.values();
  }
  placement(group: number): Placement | undefined {
    return this.#placements[group - 1];
  }
  *placements(): Generator<readonly [number, Placement]> {
    for (let i = 0; i < this.#placements.length; i++) yield [i + 1, this.#placements[i]!];
  }

  replicas(group: number): readonly number[] {
    if (isVolatileGroup(group)) return [nodeOfVolatileGroup(group)];
    this.#replicas ??= this.#replicasByPreference();
    return this.#replicas.get(group) ?? [];
  }

  // Nodes.

  /** Why this node must not open, or null. */
  openProblem({ node, name, uuid }: CommandOf<'openNode'>): MemberRefusal | null {
    const member = this.#members.get(node);
    if (member === undefined) return MemberRefusal.unknownNode;
    if (member.state === 'gone') return MemberRefusal.nodeGone;
    if (member.uuid !== '' && member.uuid !== uuid) return MemberRefusal.otherData;
    for (const other of this.#members.values()) {
      if (other.node === node) continue;
      if (other.uuid === uuid) return MemberRefusal.otherData;
      if (other.name === name) return MemberRefusal.nameTaken;
    }
    return null;
  }

  /** It has opened: its name and address are those it said. */
  opened({ node, name, uuid, address }: CommandOf<'openNode'>): void {
    const member = this.#members.get(node)!;
    this.#put({ ...member, name, uuid, address: address ?? member.address });
  }

  join(command: CommandOf<'joinNode'>, isUp: (node: number) => boolean): MemberOutcome {
    const { name, uuid, address, replaces } = command;
    for (const member of this.#members.values()) {
      if (member.uuid !== uuid) {
        if (member.name === name) return refuse(MemberRefusal.nameTaken);
        continue;
      }
      // It asks again: the answer to its first request was lost.
      if (member.state === 'gone') return refuse(MemberRefusal.nodeGone);
      if (member.name !== name) return refuse(MemberRefusal.otherData);
      this.#put({ ...member, address });
      return { refusal: null, value: member.node };
    }
    if (this.#lastNode >= nodeNumberMax) return refuse(MemberRefusal.numbersUsedUp);
    if (replaces !== null) {
      const leaving = this.#members.get(replaces);
      if (leaving === undefined) return refuse(MemberRefusal.unknownNode);
      if (leaving.state === 'gone') return refuse(MemberRefusal.nodeGone);
      const problem = leaving.state === 'leaving' ? null : this.#leaveProblem(replaces, 1, isUp);
      if (problem !== null) return refuse(problem);
    }
    const present = [...this.#members.values()].filter(({ state, node }) => isStaying(state) && node !== replaces);
    if (present.length >= membersMax) return refuse(MemberRefusal.tooManyNodes);
    if (present.some((other) => other.address.host === address.host && other.address.port === address.port))
      return refuse(MemberRefusal.addressTaken);
    if (replaces !== null) this.#put({ ...this.#members.get(replaces)!, state: 'leaving' });
    const node = ++this.#lastNode;
    this.#put({ node, name, uuid, address, state: 'joining' });
    return { refusal: null, value: node };
  }

  leave(node: number, isUp: (node: number) => boolean): MemberOutcome {
    const member = this.#members.get(node);
    if (member === undefined) return refuse(MemberRefusal.unknownNode);
    if (member.state === 'gone') return refuse(MemberRefusal.nodeGone);
    if (member.state === 'leaving') return done;
    // One that is joining holds nothing yet.
    const problem = member.state === 'joining' ? null : this.#leaveProblem(node, 0, isUp);
    if (problem !== null) return refuse(problem);
    this.#put({ ...member, state: 'leaving' });
    return done;
  }

  joined(node: number): MemberOutcome {
    const member = this.#members.get(node);
    if (member === undefined) return refuse(MemberRefusal.unknownNode);
    if (member.state === 'gone') return refuse(MemberRefusal.nodeGone);
    if (member.state === 'joining') this.#put({ ...member, state: 'member' });
    return done;
  }

  gone(node: number): MemberOutcome {
    const member = this.#members.get(node);
    if (member === undefined) return refuse(MemberRefusal.unknownNode);
    if (member.state === 'gone') return done;
    if (member.state !== 'leaving') return refuse(MemberRefusal.notLeaving);
    if (this.#placements.some(({ voters, target }) => voters.includes(node) || target?.includes(node) === true))
      return refuse(MemberRefusal.hasReplicas);
    this.#put({ ...member, state: 'gone' });
    return done;
  }

  /** Why the others could not go on without it; `joining`: so many more than are known come in its place. */
  #leaveProblem(node: number, joining: number, isUp: (node: number) => boolean): MemberRefusal | null {
    const others = [...this.#members.values()].filter((member) => member.node !== node);
    const staying = others.filter(({ state }) => state === 'member');
    const coming = joining + others.filter(({ state }) => state === 'joining').length;
    if (staying.length + coming === 0) return MemberRefusal.lastNode;
    const up = staying.filter((member) => isUp(member.node)).length;
    if (staying.length > 0 && 2 * up <= staying.length) return MemberRefusal.tooFewUp;
    for (const { voters } of this.#placements)
      if (voters.includes(node) && 2 * voters.filter(isUp).length <= voters.length) return MemberRefusal.shardDown;
    // Fewer replicas than now: node by node, so that whoever asks sees each step.
    const possible = (nodes: number) => replicasPossible(this.replication, nodes);
    const isShrinking = possible(staying.length + coming) < possible(staying.length + 1 + coming - joining);
    return isShrinking && others.some(({ state }) => state === 'leaving') ? MemberRefusal.oneAtATime : null;
  }

  // Placements.

  place({ group, target }: CommandOf<'place'>, version: number): MemberOutcome {
    const placement = this.placement(group);
    if (placement === undefined) return refuse(MemberRefusal.unknownShard);
    const { voters } = placement;
    if (placement.target === null ? isEqual(target, voters) : isEqual(target, placement.target)) return done;
    if (placement.target === null && this.#placements.some((other) => other.target !== null))
      return refuse(MemberRefusal.anotherMoves);
    const isOdd = target.length % 2 === 1 && target.length <= this.replication;
    const isOrdered = target.every((node, i) => i === 0 || node > target[i - 1]!);
    const canHold = (node: number) => voters.includes(node) || this.#members.get(node)?.state === 'member';
    if (!isOrdered || !target.every(canHold) || !(isOdd || isEqual(target, voters)))
      return refuse(MemberRefusal.badTarget);
    this.#putPlacement(group, { voters, target, version });
    return done;
  }

  placed({ group, voters, version: moved }: CommandOf<'placed'>, version: number): MemberOutcome {
    const placement = this.placement(group);
    if (placement === undefined) return refuse(MemberRefusal.unknownShard);
    // Another leader said so already.
    if (placement.target === null && isEqual(placement.voters, voters)) return done;
    if (placement.target === null || placement.version !== moved || !isEqual(placement.target, voters))
      return refuse(MemberRefusal.moveIsOver);
    this.#putPlacement(group, { voters: placement.target, target: null, version });
    return done;
  }

  // State.

  hash(): number {
    this.#hash ??= textHash(JSON.stringify(this.state()));
    return this.#hash;
  }

  state(): MembersState {
    return { lastNode: this.#lastNode, members: [...this.#members.values()], placements: [...this.#placements] };
  }

  restore({ lastNode, members, placements }: MembersState): void {
    if (placements.length !== this.#placements.length)
      throw new Error(`the snapshot has placements of ${placements.length} shards`);
    this.#lastNode = lastNode;
    this.#members.clear();
    for (const member of members) this.#members.set(member.node, member);
    for (const [i, placement] of placements.entries()) this.#placements[i] = placement;
    this.#changed();
  }

  /** This table takes the place of one that had this version. */
  skipVersionsTo(version: number): void {
    this.#version = Math.max(this.#version, version);
  }

  #put(member: MemberRecord): void {
    this.#members.set(member.node, member);
    this.#changed();
  }

  #putPlacement(group: number, placement: Placement): void {
    this.#placements[group - 1] = placement;
    this.#changed();
  }

  #changed(): void {
    this.#version++;
    this.#hash = null;
    this.#replicas = null;
  }

  #replicasByPreference(): Map<number, readonly number[]> {
    const voting = [...this.#members.values()].filter(({ state }) => state === 'member' || state === 'leaving');
    const groups = new Map<number, readonly number[]>([[metadataGroup, voting.map(({ node }) => node)]]);
    for (const [group, { voters }] of this.placements()) groups.set(group, voters);
    const original = this.#format.nodes.map(({ node }) => node);
    const leaders = preferredLeaders(groups, original, (node) => this.#members.get(node)?.state === 'member');
    const replicas = new Map<number, readonly number[]>();
    for (const [group, voters] of groups) {
      const first = voters.indexOf(leaders.get(group)!);
      replicas.set(group, [...voters.slice(first), ...voters.slice(0, first)]);
    }
    return replicas;
  }
}

const isStaying = (state: MemberRecord['state']): boolean => state === 'member' || state === 'joining';

const ascending = (nodes: number[]): number[] => nodes.sort((a, b) => a - b);

const isEqual = (left: readonly number[], right: readonly number[]): boolean =>
  left.length === right.length && left.every((node, i) => node === right[i]);
