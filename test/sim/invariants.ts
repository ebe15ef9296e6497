// What must hold across all replicas of all groups of a cluster, whatever happens to its nodes. Watches the production cores, machines and log of
// every living node, and remembers what dead ones owe. Throws an `InvariantError` at the first contradiction.
//
//   R1 one leader per term            R2 same index and term: same entry, same entry before it
//   R3 a new leader has all that was committed before            R4 one entry per index is ever applied
//   R5 terms never fall, commits neither, also over restarts     R6 what is committed is on a quorum's disks; what was durable is there
//   R7 replicas that have applied as much have the same state    R8 quorums of neighbouring configurations meet
//   A3 an incarnation that the metadata ended is ended in every shard that knows as much of them
//   B1 the log has the batches of a pipe in order, without a gap
//   placement: a node drops no replica that the newest metadata say it has, nor one that votes or learns; before a shard's voters are a
//   target of the metadata, its log says of which version that is; who has left for good does not vote on the metadata
//
// State owned: per group what was ever seen of it; per replica how far it was looked at. Every call looks only at what changed since the last
// one. Call `check` often, and `ended` in the very moment in which a process dies: what was durable then must be there again.
// It must never change what it watches.

import { type Configuration, majority, type Raft } from 'raft-ts';
import type { Log } from '../../cluster/log/types.ts';
import { isVolatileGroup, metadataGroup } from '../../cluster/machine/groups.ts';
import type { MetadataMachine } from '../../cluster/machine/metadata.ts';
import type { ShardMachine } from '../../cluster/machine/shard.ts';
import type { WatchedReplica } from '../../cluster/options.ts';
import type { Marks } from './marks.ts';

export class InvariantError extends Error {
  readonly invariant: string;
  constructor(invariant: string, text: string) {
    super(text);
    this.invariant = invariant;
  }
}

function fail(invariant: string, text: string): never {
  throw new InvariantError(invariant, text);
}

/** How far one replica was looked at. */
interface Watched {
  readonly node: number;
  readonly replica: WatchedReplica;
  /** What the process before had durably, and this one is to have. */
  readonly owed: number;
  term: number;
  role: string;
  commit: number;
  applied: number;
  /** The log was looked at up to here, where it has this term. */
  seen: number;
  seenTerm: number;
  /** The last entry with a configuration in its log, if it was not committed when the log was looked at. */
  configuration: { readonly index: number; readonly term: number } | null;
  /** Its node has it no more. */
  isDropped: boolean;
}

/** What a replica of a dead process had on its disk. */
interface Owed {
  readonly term: number;
  readonly index: number;
  readonly indexTerm: number;
  /** It had more than it had to have. */
  readonly hadMore: boolean;
  readonly raft: Raft<unknown>;
}

interface EntrySeen {
  /** Of the content; -1: not seen. */
  content: number;
  previousTerm: number;
}

/** What was ever seen of one group. */
interface GroupSeen {
  readonly id: number;
  readonly leaders: Map<number, number>;
  /** By index and term. */
  readonly entries: Map<number, EntrySeen>;
  /** By index: term and content of what was applied. */
  readonly applied: Map<number, number>;
  readonly hashes: Map<number, number>;
  commit: number;
  commitTerm: number;
  /** The term in which `commit` was known first, or a later one. */
  commitSeenIn: number;
  /** That at `commit`. */
  configuration: Configuration | null;
  /** The furthest commit that was found on a quorum's disks, and whose quorum that was. */
  furthest: { readonly commit: number; readonly configuration: Configuration } | null;
}

/** How a replica came back, and what it owes. A damaged one is halted a moment after it was recovered. */
interface Restart {
  readonly owed: Owed;
  readonly term: number;
  readonly lastIndex: number;
  /** What it has where its durable end was. */
  readonly found: number | undefined;
}

interface NodeSeen {
  readonly node: number;
  /** To be judged with the next look. */
  readonly restarts: Map<WatchedReplica, Restart>;
  readonly replicas: ReadonlyMap<number, WatchedReplica>;
  readonly log: Pick<Log, 'cached'>;
  readonly watched: Map<number, Watched>;
}

const termsMax = 2 ** 20;
/** Behind a snapshot there is nothing to look at; further back than this nobody looks again. */
const lookBackMax = 10_000;
const manyEntries = 100;

export class Invariants {
  readonly #marks: Marks;
  readonly #groups = new Map<number, GroupSeen>();
  readonly #nodes = new Map<number, NodeSeen>();
  /** Per node and group: of processes that ended. Of a machine that was lost too: others may still hear what it had acknowledged. */
  readonly #owed = new Map<number, Map<number, Owed>>();
  /** Of processes that ended, the replicas that had halted or were being repaired: they owe nothing, and stood by what they had acknowledged. */
  readonly #aside = new Map<number, Map<number, WatchedReplica>>();
  /** By node: incarnations that the metadata ended, and a version in which they had. */
  readonly #fences = new Map<number, { readonly incarnation: number; readonly version: number }>();
  /** By shard: the newest target that is not where it was, and whether the metadata say that it is there. */
  readonly #moves = new Map<
    number,
    { readonly target: readonly number[]; readonly version: number; isOver: boolean }
  >();

  constructor(marks: Marks) {
    this.#marks = marks;
  }

  /** A process has recovered its replicas. */
  opened(node: number, replicas: ReadonlyMap<number, WatchedReplica>, log: Pick<Log, 'cached'>): void {
    const seen: NodeSeen = { node, replicas, log, watched: new Map(), restarts: new Map() };
    this.#nodes.set(node, seen);
    const owed = this.#owed.get(node);
    this.#owed.delete(node);
    this.#aside.delete(node);
    for (const replica of replicas.values()) {
      if (isVolatileGroup(replica.id)) continue;
      const debt = owed?.get(replica.id);
      const { term, lastIndex } = replica.raft;
      if (debt !== undefined)
        seen.restarts.set(replica, { owed: debt, term, lastIndex, found: replica.raft.termAt(debt.index) });
      this.#watch(seen, replica);
    }
  }

  /** A process dies now; its disk stays. */
  ended(node: number): void {
    const seen = this.#nodes.get(node);
    if (seen === undefined) return;
    this.#checkNode(seen);
    this.#nodes.delete(node);
    const owed = new Map<number, Owed>();
    const aside = new Map<number, WatchedReplica>();
    for (const [group, { replica }] of seen.watched) {
      const { raft } = replica;
      if (raft.status().configuration.outgoing.length > 0) this.#marks.hit('ended in a joint phase');
      // It has moved away, and owes its term and vote only, which `#watch` looks at should it come back.
      if (seen.replicas.get(group) !== replica) continue;
      // What halted, or is being repaired, vouches for nothing.
      if (replica.halted !== null || raft.status().repairing) {
        aside.set(group, replica);
        continue;
      }
      const index = raft.persistedIndex;
      const indexTerm = raft.termAt(index) ?? -1;
      owed.set(group, { term: durableTerm(raft, index), index, indexTerm, hadMore: raft.lastIndex > index, raft });
    }
    this.#owed.set(node, owed);
    this.#aside.set(node, aside);
  }

  /** Looks at all that changed since the last call. */
  check(): void {
    for (const node of this.#nodes.values()) this.#checkNode(node);
    // After all have been looked at: what somebody dropped may have been committed by another.
    for (const { node, replicas, watched } of this.#nodes.values()) {
      for (const [group, one] of watched) {
        if (one.isDropped || replicas.has(group) || isVolatileGroup(group)) continue;
        one.isDropped = true;
        this.#checkDropped(node, group);
      }
    }
  }

  /** A group that does not have these voters, by one that leads it, and nobody else; null: there is none. */
  unsettled(votersOf: (group: number) => readonly number[]): string | null {
    for (const { node, replicas } of this.#nodes.values()) {
      for (const { id, raft } of replicas.values()) {
        if (isVolatileGroup(id) || raft.role !== 'leader') continue;
        const { voters, outgoing, learners } = raft.status().configuration;
        const wanted = votersOf(id);
        const isThere = voters.length === wanted.length && wanted.every((voter) => voters.includes(voter));
        if (!isThere || outgoing.length > 0 || learners.length > 0)
          return `group ${id} has voters ${voters} and learners ${learners} by node ${node}, and is to have ${wanted}`;
      }
    }
    return null;
  }

  // ---- one replica ----

  #checkNode(node: NodeSeen): void {
    for (const [replica, restart] of node.restarts) this.#checkRestarted(node.node, replica, restart);
    node.restarts.clear();
    for (const replica of node.replicas.values()) {
      if (isVolatileGroup(replica.id)) continue;
      let watched = node.watched.get(replica.id);
      // A replica that was built anew, or is new here.
      if (watched?.replica !== replica) watched = this.#watch(node, replica, watched);
      if (replica.halted === null) this.#checkReplica(node, watched);
    }
  }

  /** Who is to have it again has to get it first, as a learner: so it was not dropped by what was settled before. */
  #checkDropped(node: number, group: number): void {
    const newest = Array.from(this.#nodes.values(), ({ replicas }) => replicas.get(metadataGroup)?.machine)
      .filter((machine) => machine !== undefined)
      .reduce((one, other) => (one.appliedIndex >= other.appliedIndex ? one : other));
    const placement = (newest as MetadataMachine).placement(group);
    if (placement?.target === null && placement.voters.includes(node))
      fail('placement', `node ${node} drops its replica of group ${group}, which is on ${placement.voters}`);
    const { configuration = null } = this.#groups.get(group) ?? {};
    if (configuration === null) return;
    const { voters, outgoing, learners, learnersNext } = configuration;
    if ([...voters, ...outgoing, ...learners, ...learnersNext].includes(node))
      fail(
        'placement',
        `node ${node} drops its replica of group ${group}, of ${describe(configuration)} and ${learners}`,
      );
  }

  #watch(node: NodeSeen, replica: WatchedReplica, before?: Watched): Watched {
    const { raft } = replica;
    if (before !== undefined) this.#checkBuiltAnew(node.node, replica, before);
    const start = Math.max(raft.commit, raft.lastIndex - lookBackMax, 0);
    const watched: Watched = {
      node: node.node,
      replica,
      owed: node.restarts.get(replica)?.owed.index ?? 0,
      term: raft.term,
      role: '',
      commit: raft.commit,
      applied: replica.appliedIndex,
      seen: start,
      seenTerm: raft.termAt(start) ?? -1,
      configuration: null,
      isDropped: false,
    };
    node.watched.set(replica.id, watched);
    return watched;
  }

  /** In the place of one that was damaged, or moved away. */
  #checkBuiltAnew(node: number, { id, raft }: WatchedReplica, before: Watched): void {
    const name = nameOf(node, id);
    if (raft.term < before.term)
      fail('R5', `${name} was built anew in term ${raft.term} and had been in ${before.term}`);
    const had = Math.max(before.owed, before.replica.raft.persistedIndex);
    // What it had need not be there any more if a later leader did not have it.
    const isReplaced = (raft.termAt(raft.lastIndex) ?? 0) > before.replica.raft.term;
    if (!raft.status().repairing && raft.lastIndex < had && !isReplaced)
      fail('R6', `${name} was built anew and votes with ${raft.lastIndex}, and had ${had} durably`);
  }

  #checkReplica(node: NodeSeen, watched: Watched): void {
    const { replica } = watched;
    const { raft, appliedIndex } = replica;
    const isSame =
      raft.term === watched.term &&
      raft.role === watched.role &&
      raft.commit === watched.commit &&
      appliedIndex === watched.applied &&
      raft.lastIndex === watched.seen &&
      // A log that was cut, and grew to the same length, has another term there.
      raft.termAt(watched.seen) === watched.seenTerm;
    if (isSame) return;
    const group = this.#group(replica.id);
    const name = () => nameOf(watched.node, replica.id);
    if (raft.term < watched.term) fail('R5', `the term of ${name()} fell from ${watched.term} to ${raft.term}`);
    if (raft.commit < watched.commit)
      fail('R5', `the commit of ${name()} fell from ${watched.commit} to ${raft.commit}`);
    this.#checkLog(node, watched, group);
    if (raft.role === 'leader') this.#checkLeader(watched, group);
    if (raft.commit > group.commit) this.#checkCommit(watched, group);
    if (appliedIndex !== watched.applied) this.#checkApplied(node, watched, group);
    watched.term = raft.term;
    watched.role = raft.role;
    watched.commit = raft.commit;
    if (watched.configuration !== null && watched.configuration.index <= raft.commit) watched.configuration = null;
  }

  /** R2, and R8 on the way. */
  #checkLog(node: NodeSeen, watched: Watched, group: GroupSeen): void {
    const { raft } = watched.replica;
    let from = watched.seen;
    if (from > raft.lastIndex || raft.termAt(from) !== watched.seenTerm) {
      if (from > raft.lastIndex || raft.termAt(from) !== undefined) {
        this.#marks.hit('log truncated');
        if (watched.configuration !== null && !isAt(raft, watched.configuration.index, watched.configuration.term))
          this.#marks.hit('configuration cut off');
      }
      from = Math.min(raft.commit, raft.lastIndex);
    }
    from = Math.max(from, raft.lastIndex - lookBackMax);
    for (let index = from + 1; index <= raft.lastIndex; index++) {
      const term = raft.termAt(index);
      if (term === undefined) continue;
      const previousTerm = raft.termAt(index - 1) ?? -1;
      const entry = node.log.cached(group.id, index);
      const content = entry === undefined || entry.term !== term ? -1 : contentOf(entry);
      this.#checkEntry(watched, group, index, term, previousTerm, content);
      if (entry?.kind !== 'configuration' || entry.term !== term) continue;
      watched.configuration = { index, term };
      // Of what was in force before a snapshot the core knows nothing any more.
      if (describe(raft.configurationAt(index)) === describe(entry.configuration))
        this.#checkConfiguration(group, index, raft.configurationAt(index - 1), entry.configuration);
    }
    watched.seen = raft.lastIndex;
    watched.seenTerm = raft.termAt(raft.lastIndex) ?? -1;
  }

  #checkEntry(
    { node }: Watched,
    group: GroupSeen,
    index: number,
    term: number,
    previousTerm: number,
    content: number,
  ): void {
    const key = index * termsMax + term;
    const known = group.entries.get(key);
    if (known === undefined) {
      group.entries.set(key, { content, previousTerm });
      return;
    }
    if (previousTerm >= 0 && known.previousTerm >= 0 && known.previousTerm !== previousTerm)
      fail(
        'R2',
        `before ${index}/${term} ${nameOf(node, group.id)} has term ${previousTerm}, others ${known.previousTerm}`,
      );
    if (content >= 0 && known.content >= 0 && known.content !== content)
      fail('R2', `${nameOf(node, group.id)} has another entry ${index}/${term} than others`);
    if (known.content < 0) known.content = content;
    if (known.previousTerm < 0) known.previousTerm = previousTerm;
  }

  #checkConfiguration(group: GroupSeen, index: number, before: Configuration, after: Configuration): void {
    this.#marks.hit(after.outgoing.length > 0 ? 'joint phase begun' : 'configuration changed');
    if (!quorumsMeet(before, after))
      fail(
        'R8',
        `group ${group.id}: quorums of ${describe(before)} and ${describe(after)} (entry ${index}) need not meet`,
      );
  }

  /** R1 and R3. */
  #checkLeader(watched: Watched, group: GroupSeen): void {
    const { node, replica } = watched;
    const { raft } = replica;
    const { term } = raft;
    const leader = group.leaders.get(term);
    if (leader === node) return;
    if (leader !== undefined) fail('R1', `nodes ${leader} and ${node} lead term ${term} of group ${group.id}`);
    group.leaders.set(term, node);
    this.#marks.hit('leader elected');
    for (const other of this.#nodes.values()) {
      if (other.node !== node && other.replicas.get(group.id)?.raft.role === 'leader')
        this.#marks.hit('two leaders at once');
    }
    // One that was elected before that commit need not have it.
    if (group.commit === 0 || term <= group.commitSeenIn) return;
    const has = raft.termAt(group.commit);
    const isCovered = has === undefined && raft.lastIndex >= group.commit;
    if (has !== group.commitTerm && !isCovered)
      fail(
        'R3',
        `node ${node} leads term ${term} of group ${group.id} without the committed ${group.commit}/${group.commitTerm}`,
      );
  }

  /** R6: on the disks of a quorum of the configuration in force there, or of one that is in force now, or where it was found committed. */
  #checkCommit(watched: Watched, group: GroupSeen): void {
    const { raft } = watched.replica;
    const { commit } = raft;
    const term = raft.termAt(commit);
    if (term === undefined) return;
    group.commit = commit;
    group.commitTerm = term;
    group.configuration = raft.configurationAt(commit);
    group.commitSeenIn = Math.max(group.commitSeenIn, raft.term);
    const durable = (node: number) => this.#isDurable(node, group.id, commit, term);
    const configurations = [raft.configurationAt(commit), raft.status().configuration];
    const found = (candidate: Configuration) => isQuorum(candidate, durable);
    const configuration = configurations.find(found) ?? this.#committedBy(group, commit).find(found);
    if (configuration === undefined)
      fail(
        'R6',
        `${nameOf(watched.node, group.id)} takes ${commit}/${term} for committed, durable on ` +
          `[${configurations[0]!.voters.filter(durable)}] of ${describe(configurations[0]!)}`,
      );
    if (commit > (group.furthest?.commit ?? 0)) group.furthest = { commit, configuration };
    if (!configurations[0]!.voters.every(durable)) this.#marks.hit('commit without one replica');
  }

  /** What lies before an entry is committed with it: also by a configuration that is in force there, and is not known everywhere yet. */
  #committedBy({ id, furthest }: GroupSeen, commit: number): Configuration[] {
    const configurations = furthest !== null && commit <= furthest.commit ? [furthest.configuration] : [];
    for (const { replicas } of this.#nodes.values()) {
      const raft = replicas.get(id)?.raft;
      if (raft !== undefined && raft.commit >= commit) configurations.push(raft.status().configuration);
    }
    return configurations;
  }

  #isDurable(node: number, group: number, index: number, term: number): boolean {
    const replica = (this.#nodes.get(node)?.replicas ?? this.#aside.get(node))?.get(group);
    if (replica !== undefined) {
      const { raft, acknowledgedTo } = replica;
      // It may have acknowledged it, lost it, and stand aside until it has it again: nobody is elected with its help who has it not.
      if (raft.status().repairing && index <= acknowledgedTo) return true;
      return raft.persistedIndex >= index && isAt(raft, index, term);
    }
    const owed = this.#owed.get(node)?.get(group);
    return owed !== undefined && owed.index >= index && isAt(owed.raft, index, term);
  }

  /** R4 and R7. */
  #checkApplied(node: NodeSeen, watched: Watched, group: GroupSeen): void {
    const { replica } = watched;
    const { appliedIndex, raft, machine } = replica;
    const name = nameOf(watched.node, group.id);
    if (appliedIndex < watched.applied) fail('R5', `${name} applied ${watched.applied}, and is at ${appliedIndex} now`);
    if (appliedIndex > raft.commit) fail('R6', `${name} applied ${appliedIndex}, and only ${raft.commit} is committed`);
    if (appliedIndex - watched.applied > manyEntries) this.#marks.hit('follower behind by many entries');
    if ((raft.termAt(watched.applied + 1) ?? -1) < 0 && appliedIndex > watched.applied + 1) {
      this.#marks.hit('snapshot installed');
      if ([...group.leaders.keys()].some((term) => term > watched.term))
        this.#marks.hit('snapshot installed while another leads');
    }
    for (let index = Math.max(watched.applied, appliedIndex - lookBackMax) + 1; index <= appliedIndex; index++) {
      const entry = node.log.cached(group.id, index);
      if (entry === undefined) continue;
      const value = contentOf(entry) * termsMax + entry.term;
      const known = group.applied.get(index);
      if (known === undefined) group.applied.set(index, value);
      else if (known !== value) fail('R4', `${name} applied another entry ${index} (term ${entry.term}) than others`);
    }
    watched.applied = appliedIndex;
    if (group.id === metadataGroup) this.#readMetadata(name, machine as MetadataMachine, group);
    else this.#checkShard(name, machine as ShardMachine, group);
    if (machine.due === 0) this.#marks.hit('work left for later entries');
    const hash = machine.stateHash();
    const known = group.hashes.get(appliedIndex);
    if (known === undefined) group.hashes.set(appliedIndex, hash);
    else if (known !== hash) fail('R7', `${name} has another state at ${appliedIndex} than others`);
  }

  #readMetadata(name: string, metadata: MetadataMachine, { configuration }: GroupSeen): void {
    const voters = configuration === null ? [] : [...configuration.voters, ...configuration.outgoing];
    for (const { node, state } of metadata.members())
      if (state === 'gone' && voters.includes(node))
        fail('placement', `${name} says that node ${node} is gone, and it votes in ${describe(configuration!)}`);
    for (const { node, fencedTo } of metadata.nodes())
      if (fencedTo > (this.#fences.get(node)?.incarnation ?? 0))
        this.#fences.set(node, { incarnation: fencedTo, version: metadata.appliedIndex });
    for (const [group, { voters, target, version }] of metadata.placements()) {
      const move = this.#moves.get(group);
      if (target !== null && !isSame(target, voters) && version > (move?.version ?? 0))
        this.#moves.set(group, { target, version, isOver: false });
      if (target === null && move !== undefined && version > move.version) move.isOver ||= isSame(voters, move.target);
    }
  }

  /** A3, B1, and that configurations follow the versions of the metadata. */
  #checkShard(name: string, shard: ShardMachine, { id, commit, configuration }: GroupSeen): void {
    const { metadataVersion, refusals } = shard;
    if (refusals.gaps > 0) fail('B1', `${name} was given a batch, and not the one before it`);
    for (const [node, { incarnation, version }] of this.#fences)
      if (version <= metadataVersion && !shard.isFenced({ node, incarnation }))
        fail(
          'A3',
          `${name} knows the metadata up to ${metadataVersion}, and hears incarnation ${incarnation} of node ${node}`,
        );
    const move = this.#moves.get(id);
    // Until then an earlier move to the same nodes may have brought it there.
    if (move === undefined || !move.isOver || configuration === null || shard.appliedIndex < commit) return;
    const isMoved = configuration.outgoing.length === 0 && isSame(configuration.voters, move.target);
    if (isMoved && metadataVersion < move.version)
      fail('placement', `${name} is on ${move.target}, and its log knows nothing of version ${move.version}`);
  }

  // ---- restarts ----

  #checkRestarted(node: number, replica: WatchedReplica, { owed, term: begun, lastIndex, found }: Restart): void {
    const { term, index, indexTerm, hadMore } = owed;
    // It says itself that it lost something, and will not vote before it has that again.
    if (replica.halted !== null || replica.raft.status().repairing) {
      this.#marks.hit('restart with damage');
      return;
    }
    const name = nameOf(node, replica.id);
    if (begun < term) fail('R5', `${name} restarted in term ${begun}, and had been in ${term}`);
    if (index > 0) this.#marks.hit('restart with a log');
    if (lastIndex < index) fail('R6', `${name} had ${index}/${indexTerm} durably, and restarted with ${lastIndex}`);
    if (found !== undefined && indexTerm >= 0 && found !== indexTerm)
      fail('R6', `${name} had ${index}/${indexTerm} durably, and restarted with ${index}/${found}`);
    if (hadMore && lastIndex === index) this.#marks.hit('restart lost unsynced entries');
  }

  #group(id: number): GroupSeen {
    let group = this.#groups.get(id);
    if (group === undefined) {
      const fresh = { leaders: new Map(), entries: new Map(), applied: new Map(), hashes: new Map() };
      group = { id, ...fresh, commit: 0, commitTerm: 0, commitSeenIn: 0, configuration: null, furthest: null };
      this.#groups.set(id, group);
    }
    return group;
  }
}

const nameOf = (node: number, group: number): string => `node ${node}'s replica of group ${group}`;

/** A term that it must know after a restart: it led it, or has durable entries of it. */
function durableTerm(raft: Raft<unknown>, persisted: number): number {
  const ofLog = raft.termAt(persisted) ?? 0;
  return raft.role === 'leader' ? Math.max(raft.term, ofLog) : ofLog;
}

const isSame = (left: readonly number[], right: readonly number[]): boolean =>
  left.length === right.length && left.every((node) => right.includes(node));

/** The entry is in the log, or behind what is still whole. */
function isAt(raft: Raft<unknown>, index: number, term: number): boolean {
  const found = raft.termAt(index);
  return found === term || (found === undefined && raft.lastIndex >= index);
}

/** 32 bits of an entry's content; kinds never meet. */
function contentOf(entry: NonNullable<ReturnType<Log['cached']>>): number {
  if (entry.kind === 'data') return entry.data.checksum;
  if (entry.kind === 'noop') return 1;
  const { voters, outgoing, learners, learnersNext } = entry.configuration;
  let hash = 7;
  for (const list of [voters, outgoing, learners, learnersNext]) {
    for (const id of list) hash = (Math.imul(hash, 31) + id) >>> 0;
    hash = (Math.imul(hash, 31) + 1013) >>> 0;
  }
  return hash;
}

function describe({ voters, outgoing }: Configuration): string {
  return outgoing.length === 0 ? `[${voters}]` : `[${voters} and ${outgoing}]`;
}

function isQuorum({ voters, outgoing }: Configuration, agrees: (id: number) => boolean): boolean {
  const isMajority = (half: readonly number[]) => half.filter(agrees).length >= majority(half.length);
  return isMajority(voters) && (outgoing.length === 0 || isMajority(outgoing));
}

/** Does every quorum of one share a voter with every quorum of the other? Tries all subsets: there are few voters. */
export function quorumsMeet(left: Configuration, right: Configuration): boolean {
  const all = [...new Set([...left.voters, ...left.outgoing, ...right.voters, ...right.outgoing])];
  for (let subset = 0; subset < 1 << all.length; subset++) {
    const isIn = (id: number) => (subset & (1 << all.indexOf(id))) !== 0;
    if (isQuorum(left, isIn) && isQuorum(right, (id) => !isIn(id))) return false;
  }
  return true;
}
