// What must hold across all replicas of a simulated group, whatever happens. Told of every append, commit, role and message; throws at the
// first contradiction.
//
//   election safety      one leader per term
//   log matching         same index and term: same entry, same entry before it
//   durability           what a leader commits is on the disks of a quorum at that moment
//   leader completeness  a new leader has all that was committed in terms before its own
//   machine safety       one entry per index is ever applied
//   configurations       at each committed index everybody is in the same one
//   promises             a replica votes once per term, and its disk knows every term that it answered in, across restarts
//   reads                a read point is not before what was committed when it was asked for
//   counting             a leader commits by counting entries of its own term only
//   leading              nobody ends a leadership by asking for votes; who hears no quorum, or was removed, does not lead on; a transfer ends

import { type Entry, majority, type Raft, type ReplicaId } from 'raft-ts';
import type { NetworkMessage, SimulatedReplica } from './replica.ts';

interface Leading {
  readonly term: number;
  ticks: number;
  readonly heard: Map<ReplicaId, number>;
  transferTicks: number;
}

export class Checker {
  readonly #leaders = new Map<number, ReplicaId>();
  readonly #entries = new Map<string, string>();
  readonly #committed: (string | undefined)[] = [];
  readonly #configurations = new Map<number, string>();
  readonly #votes = new Map<string, ReplicaId>();
  readonly #promisedTerms = new Map<ReplicaId, number>();
  readonly #commits = new Map<ReplicaId, number>();
  readonly #reads = new Map<number, number>();
  /** Per index: a term in which it was committed. A term can win its election after a later one has committed. */
  readonly #committedIn: number[] = [];
  /** Per leader: its term, its ticks, and when in these it last heard whom; since when it hands leadership over. */
  readonly #leading = new Map<ReplicaId, Leading>();
  #commitMax = 0;
  readonly #replicas: ReadonlyMap<ReplicaId, SimulatedReplica>;

  constructor(replicas: ReadonlyMap<ReplicaId, SimulatedReplica>) {
    this.#replicas = replicas;
  }

  get commitMax(): number {
    return this.#commitMax;
  }

  appended(id: ReplicaId, entry: Entry<string>, previousTerm: number): void {
    const key = `${entry.index}/${entry.term}`;
    const value = `${describeEntry(entry)} after ${previousTerm}`;
    const known = this.#entries.get(key);
    if (known === undefined) this.#entries.set(key, value);
    else if (known !== value) fail(`log matching: replica ${id} has ${key} as ${value}, it was ${known}`);
  }

  /** After every `Ready`: role and commit index. */
  observed(id: ReplicaId, raft: Raft<string>): void {
    raft.validate();
    if (raft.role === 'leader') {
      this.#checkRemoved(id, raft);
      const leader = this.#leaders.get(raft.term);
      if (leader === undefined) {
        this.#leaders.set(raft.term, id);
        this.#checkCompleteness(id, raft);
      } else if (leader !== id) fail(`election safety: ${leader} and ${id} lead term ${raft.term}`);
    }
    const before = this.#commits.get(id) ?? 0;
    if (raft.commit > before && raft.role === 'leader' && this.#leading.get(id)?.term === raft.term)
      this.#checkCounted(id, raft);
    if (raft.role !== 'leader') this.#leading.delete(id);
    else if (this.#leading.get(id)?.term !== raft.term)
      this.#leading.set(id, { term: raft.term, ticks: 0, heard: new Map(), transferTicks: 0 });
    if (raft.commit < before) fail(`the commit index of ${id} fell from ${before} to ${raft.commit}`);
    this.#commits.set(id, raft.commit);
    if (raft.commit > before) this.#checkConfiguration(id, raft);
    if (raft.commit > this.#commitMax) {
      if (raft.role === 'leader') this.#checkDurable(id, raft);
      else this.#checkDurableAnywhere(id, raft);
      for (let index = this.#commitMax + 1; index <= raft.commit; index++) this.#committedIn[index] = raft.term;
      this.#commitMax = raft.commit;
    }
  }

  applied(id: ReplicaId, entry: Entry<string>): void {
    const value = `${entry.term} ${describeEntry(entry)}`;
    const known = this.#committed[entry.index];
    if (known === undefined) this.#committed[entry.index] = value;
    else if (known !== value) fail(`machine safety: ${id} applied ${value} at ${entry.index}, before it was ${known}`);
  }

  sent(message: NetworkMessage): void {
    const { kind, from, to, term } = message;
    const promises =
      kind === 'vote' || (kind === 'voteReply' && message.granted) || (kind === 'appendReply' && message.success);
    if (!promises) return;
    this.#promisedTerms.set(from, Math.max(this.#promisedTerms.get(from) ?? 0, term));
    if (kind === 'appendReply') return;
    const candidate = kind === 'vote' ? from : to;
    const key = `${from}/${term}`;
    const known = this.#votes.get(key);
    if (known !== undefined && known !== candidate) fail(`${from} voted for ${known} and ${candidate} in term ${term}`);
    this.#votes.set(key, candidate);
  }

  /** A message reached a replica, which was the leader of `ledTerm` before (0: none). */
  delivered(message: NetworkMessage, ledTerm: number, raft: Raft<string> | null): void {
    const { kind, from, to } = message;
    const leading = this.#leading.get(to);
    leading?.heard.set(from, leading.ticks);
    if (ledTerm === 0 || kind !== 'vote' || message.transfer) return;
    if (raft?.role !== 'leader') fail(`stickiness: ${to} led term ${ledTerm} until ${from} asked for its vote`);
  }

  /** The clock of a replica ticked. */
  ticked(id: ReplicaId, raft: Raft<string> | null, electionTicks: number): void {
    const leading = this.#leading.get(id);
    if (leading === undefined || raft?.role !== 'leader' || raft.term !== leading.term) return;
    leading.ticks++;
    const { configuration, transferee } = raft.status();
    leading.transferTicks = transferee === 0 ? 0 : leading.transferTicks + 1;
    if (leading.transferTicks > electionTicks)
      fail(`transfer: ${id} has waited ${leading.transferTicks} ticks for ${transferee}`);
    const isHeard = (other: ReplicaId) =>
      other === id || leading.ticks - (leading.heard.get(other) ?? 0) <= 2 * electionTicks;
    const isMajority = (half: readonly ReplicaId[]) => half.filter(isHeard).length >= majority(half.length);
    const { voters, outgoing } = configuration;
    if (!isMajority(voters) || (outgoing.length > 0 && !isMajority(outgoing)))
      fail(`quorum: ${id} leads on in term ${raft.term} and has long heard no quorum`);
  }

  restarted(id: ReplicaId, term: number): void {
    this.#commits.delete(id);
    this.#leading.delete(id);
    const promised = this.#promisedTerms.get(id) ?? 0;
    if (term < promised) fail(`${id} restarted in term ${term} and had answered in ${promised}`);
  }

  readAsked(context: number): void {
    this.#reads.set(context, this.#commitMax);
  }

  readAnswered(context: number, index: number | null): void {
    const asked = this.#reads.get(context);
    if (asked === undefined) fail(`read ${context} was answered twice, or never asked`);
    this.#reads.delete(context);
    if (index !== null && index < asked)
      fail(`stale read ${context}: ${index}, but ${asked} was committed when it was asked`);
  }

  /** A replica that was just added knows of none before that. */
  #checkConfiguration(id: ReplicaId, raft: Raft<string>): void {
    const configuration = raft.configurationAt(raft.commit);
    if (configuration.voters.length === 0) return;
    const value = JSON.stringify(configuration);
    const known = this.#configurations.get(raft.commit);
    if (known === undefined) this.#configurations.set(raft.commit, value);
    else if (known !== value) fail(`configurations: ${id} is in ${value} at ${raft.commit}, another was in ${known}`);
  }

  #checkCounted(id: ReplicaId, raft: Raft<string>): void {
    const term = raft.termAt(raft.commit);
    if (term !== raft.term)
      fail(`counting: ${id} leads term ${raft.term} and committed ${raft.commit}/${term} by counting`);
  }

  #checkRemoved(id: ReplicaId, raft: Raft<string>): void {
    const { configuration } = raft.status();
    if (raft.configurationAt(raft.commit) !== configuration) return;
    if (!configuration.voters.includes(id) && !configuration.outgoing.includes(id))
      fail(`removed: ${id} leads term ${raft.term}, and that it does not vote is committed`);
  }

  #checkCompleteness(id: ReplicaId, raft: Raft<string>): void {
    for (let index = 1; index <= this.#commitMax; index++) {
      if (this.#committedIn[index]! >= raft.term) continue;
      if (index > raft.lastIndex)
        fail(`leader completeness: ${id} leads term ${raft.term} with ${raft.lastIndex}, committed was ${index}`);
      const term = raft.termAt(index);
      const known = this.#committed[index];
      if (term !== undefined && known !== undefined && !known.startsWith(`${term} `))
        fail(
          `leader completeness: ${id} leads term ${raft.term} with term ${term} at ${index}, committed was ${known}`,
        );
    }
  }

  /** By the configuration of the entry, or by a later one that was appended before the entry was committed. */
  #checkDurable(id: ReplicaId, raft: Raft<string>): void {
    const term = raft.termAt(raft.commit)!;
    const isDurable = (voter: ReplicaId) => this.#replicas.get(voter)?.isDurable(raft.commit, term) ?? false;
    const isMajority = (half: readonly ReplicaId[]) => half.filter(isDurable).length >= majority(half.length);
    const { configuration } = raft.status();
    const isQuorum = [raft.configurationAt(raft.commit), configuration].some(
      ({ voters, outgoing }) => isMajority(voters) && (outgoing.length === 0 || isMajority(outgoing)),
    );
    if (!isQuorum) fail(`durability: ${id} committed ${raft.commit}/${term}, which is not on the disks of a quorum`);
  }

  /** A follower learns of a commit before the leader's own `Ready` was looked at only if the leader led and crashed; it is durable all the same. */
  #checkDurableAnywhere(id: ReplicaId, raft: Raft<string>): void {
    const term = raft.termAt(raft.commit)!;
    let count = 0;
    for (const replica of this.#replicas.values()) if (replica.isDurable(raft.commit, term)) count++;
    if (count === 0) fail(`durability: ${id} knows ${raft.commit}/${term} as committed, which is on no disk`);
  }
}

export function describeEntry(entry: Entry<string>): string {
  if (entry.kind === 'data') return entry.data;
  if (entry.kind === 'noop') return 'noop';
  const { voters, outgoing, learners, learnersNext } = entry.configuration;
  const lists = [voters.join(',')];
  if (outgoing.length > 0) lists.push(`leaving ${outgoing.join(',')}`);
  if (learners.length > 0) lists.push(`learners ${learners.join(',')}`);
  if (learnersNext.length > 0) lists.push(`then ${learnersNext.join(',')}`);
  return `{${lists.join(' ')}}`;
}

function fail(text: string): never {
  throw new Error(text);
}
