// Which shard should move next, and where to: what the metadata's leader asks itself after every change of members, placements or who is up.
//
//   a move that cannot go on is taken back → replicas leave the nodes that leave → shards grow to as many replicas as there may be →
//   replicas are spread evenly
//
// One move at a time, one replica exchanged with it. Each move comes nearer to a state in which there is nothing to do: fewer replicas on nodes
// that leave; or as few, and more in all; or as many, and more evenly spread. Who should lead what follows (`preferences.ts`).
//
// PURE: everybody who asks with the same metadata and the same nodes up gets the same answer.

import type { MetadataView, Placement } from '../metadata-types.ts';
import { replicasPossible } from './members.ts';

export interface Move {
  readonly group: number;
  /** Ascending. The shard's voters themselves: the move under way is taken back. */
  readonly target: readonly number[];
}

export type PlanView = Pick<MetadataView, 'original' | 'members' | 'placements' | 'replicas'>;

interface Shard {
  readonly group: number;
  readonly voters: readonly number[];
  /** The one that should lead it. */
  readonly leader: number;
}

interface Survey {
  /** Those that a move can be asked of: a majority of their voters is up. */
  readonly shards: readonly Shard[];
  readonly alive: ReadonlySet<number>;
  readonly members: ReadonlySet<number>;
  /** Members that are up: whom a replica can be given to. */
  readonly receivers: readonly number[];
  /** Replicas on each node, those of all shards. */
  readonly load: ReadonlyMap<number, number>;
  /** Replicas that a shard can have now; and once those who join are members, for which nothing is given up meanwhile. */
  readonly sizeNow: number;
  readonly sizeSoon: number;
  /** Nobody ever came, went or moved: where the shards began is even enough. */
  readonly isAsFormed: boolean;
}

/** `alive`: the nodes that are up, this one too. Null: there is nothing to do, or nothing can be done now. */
export function planPlacement(view: PlanView, alive: ReadonlySet<number>): Move | null {
  const survey = surveyOf(view, alive);
  for (const [group, placement] of view.placements())
    if (placement.target !== null) return underWay(survey, group, placement);
  return emptied(survey) ?? grown(survey) ?? balanced(survey);
}

function surveyOf(view: PlanView, alive: ReadonlySet<number>): Survey {
  const { nodes, replication } = view.original;
  const members = new Set<number>();
  let [known, joining] = [0, 0];
  for (const { node, state } of view.members()) {
    known++;
    if (state === 'member') members.add(node);
    if (state === 'joining') joining++;
  }
  let isAsFormed = known === nodes.length && members.size === known;
  const load = new Map<number, number>();
  const shards: Shard[] = [];
  for (const [group, { voters, version }] of view.placements()) {
    if (version > 0) isAsFormed = false;
    for (const node of voters) load.set(node, (load.get(node) ?? 0) + 1);
    if (isMajority(voters, alive)) shards.push({ group, voters, leader: view.replicas(group)[0]! });
  }
  return {
    shards,
    alive,
    members,
    receivers: [...members].filter((node) => alive.has(node)),
    load,
    sizeNow: replicasPossible(replication, members.size),
    sizeSoon: replicasPossible(replication, members.size + joining),
    isAsFormed,
  };
}

/** What becomes of a move: null, it goes on. */
function underWay(survey: Survey, group: number, { voters, target }: Placement): Move | null {
  if (!isEqual(target!, voters)) return canGoOn(survey, voters, target!) ? null : { group, target: voters };
  // It may have come to its end in the shard before it was taken back: then one that is about to go would have to come back first.
  const shard = survey.shards.find((other) => other.group === group);
  return shard === undefined ? null : emptiedOne(survey, shard);
}

/** It waits for nobody who is away, or about to go. */
function canGoOn({ alive, members }: Survey, voters: readonly number[], target: readonly number[]): boolean {
  const added = target.filter((node) => !voters.includes(node));
  return added.every((node) => alive.has(node) && members.has(node)) && isMajority(target, alive);
}

/** A replica less on a node that leaves. */
function emptied(survey: Survey): Move | null {
  for (const shard of survey.shards) {
    const move = emptiedOne(survey, shard);
    if (move !== null) return move;
  }
  return null;
}

function emptiedOne(survey: Survey, shard: Shard): Move | null {
  const { alive, members } = survey;
  const { voters, group } = shard;
  // First those that are away: as long as they count, less may fail.
  const leaving = voters
    .filter((node) => !members.has(node))
    .sort((a, b) => Number(alive.has(a)) - Number(alive.has(b)));
  if (leaving.length === 0) return null;
  const target = withoutOne(survey, shard, leaving);
  return target !== null && isMajority(target, alive) ? { group, target } : null;
}

function withoutOne(survey: Survey, shard: Shard, leaving: readonly number[]): number[] | null {
  const { members, sizeSoon } = survey;
  const { voters } = shard;
  const spare = receiversFor(survey, voters);
  if (voters.length % 2 === 1 && voters.length <= sizeSoon) {
    // Without anybody to take it, it waits for a member that is away, or one that joins.
    if (spare.length === 0) return null;
    return ascending([...voters.filter((node) => node !== leaving[0]), spare[0]!]);
  }
  // There will not be enough nodes for so many replicas; or their number is even, as it can be from the start only.
  const size =
    voters.length % 2 === 0 && voters.length < sizeSoon ? voters.length + 1 : Math.min(sizeSoon, voters.length - 1);
  const kept = byPreference(
    survey,
    voters.filter((node) => members.has(node)),
  );
  const target = [...kept, ...spare].slice(0, size);
  return target.length === size && size > 0 ? ascending(target) : null;
}

/** Two replicas more, or one where their number is even. */
function grown(survey: Survey): Move | null {
  for (const { group, voters } of survey.shards) {
    const size = voters.length + (voters.length % 2 === 0 ? 1 : 2);
    if (size > survey.sizeNow) continue;
    const target = [...voters, ...receiversFor(survey, voters)].slice(0, size);
    if (target.length === size && isMajority(target, survey.alive)) return { group, target: ascending(target) };
  }
  return null;
}

/** A replica goes from a node that has two more than another, or still more, to that one; from the busiest first. */
function balanced(survey: Survey): Move | null {
  const { receivers, shards, alive, isAsFormed } = survey;
  if (isAsFormed) return null;
  const loadOf = (node: number) => survey.load.get(node) ?? 0;
  const line = [...receivers].sort((a, b) => loadOf(b) - loadOf(a) || a - b);
  for (const from of line) {
    for (const to of [...line].reverse()) {
      if (loadOf(from) - loadOf(to) < 2) break;
      const movable = shards.filter(({ voters }) => voters.includes(from) && !voters.includes(to));
      // The leader stays where it is if another can go.
      const shard = movable.find(({ leader }) => leader !== from) ?? movable[0];
      if (shard === undefined) continue;
      const target = ascending([...shard.voters.filter((node) => node !== from), to]);
      if (isMajority(target, alive)) return { group: shard.group, target };
    }
  }
  return null;
}

/** Who may get a replica, those with the fewest first. */
function receiversFor({ receivers, load }: Survey, voters: readonly number[]): number[] {
  const free = receivers.filter((node) => !voters.includes(node));
  return free.sort((a, b) => (load.get(a) ?? 0) - (load.get(b) ?? 0) || a - b);
}

/** Whose replicas are kept: of those who are up, and have the fewest. */
function byPreference({ alive, load }: Survey, nodes: number[]): number[] {
  return nodes.sort(
    (a, b) => Number(alive.has(b)) - Number(alive.has(a)) || (load.get(a) ?? 0) - (load.get(b) ?? 0) || a - b,
  );
}

const isMajority = (voters: readonly number[], alive: ReadonlySet<number>): boolean =>
  2 * voters.filter((node) => alive.has(node)).length > voters.length;

const isEqual = (left: readonly number[], right: readonly number[]): boolean =>
  left.length === right.length && left.every((node, i) => node === right[i]);

const ascending = (nodes: number[]): number[] => nodes.sort((a, b) => a - b);
