// Who votes: quorum mathematics of plain and joint configurations, their checks, their encoding, and the history of a log.
//
// Invariants of a configuration: ids are positive integers and appear once per list; learners vote in neither half; `learnersNext` are
// outgoing voters; without `outgoing` there is no `learnersNext`. A decision in the joint phase needs a majority of both halves.

import { invariant } from './invariant.ts';
import type { Configuration, LogIndex, ReplicaId } from './types.ts';

/** How many of `count` voters decide. */
export function majority(count: number): number {
  return Math.floor(count / 2) + 1;
}

/** A configuration of these voters alone, for a group that is created with them. */
export function initialConfiguration(voters: readonly ReplicaId[]): Configuration {
  return { voters: sorted(voters), outgoing: [], learners: [], learnersNext: [], autoLeave: false };
}

export function isJoint(configuration: Configuration): boolean {
  return configuration.outgoing.length > 0;
}

/** Voter of either half. */
export function isVoter(configuration: Configuration, id: ReplicaId): boolean {
  return configuration.voters.includes(id) || configuration.outgoing.includes(id);
}

/** Voters of both halves, each once. */
export function votersOf(configuration: Configuration): ReplicaId[] {
  return [...new Set([...configuration.voters, ...configuration.outgoing])];
}

/** Everybody who receives the log. */
export function membersOf(configuration: Configuration): ReplicaId[] {
  const { voters, outgoing, learners, learnersNext } = configuration;
  return [...new Set([...voters, ...outgoing, ...learners, ...learnersNext])];
}

/** True if those for whom `agrees` holds are a majority of the voters (of both halves in the joint phase). */
export function hasQuorum(configuration: Configuration, agrees: (id: ReplicaId) => boolean): boolean {
  return (
    hasMajority(configuration.voters, agrees) &&
    (configuration.outgoing.length === 0 || hasMajority(configuration.outgoing, agrees))
  );
}

/** The highest value that a quorum has reached: each voter's is `valueAt(id)`. 0 without voters. */
export function quorumValue(configuration: Configuration, valueAt: (id: ReplicaId) => number): number {
  const value = majorityValue(configuration.voters, valueAt);
  return configuration.outgoing.length === 0 ? value : Math.min(value, majorityValue(configuration.outgoing, valueAt));
}

/** What an election has come to. */
export function voteResult(
  configuration: Configuration,
  votes: ReadonlyMap<ReplicaId, boolean>,
): 'won' | 'lost' | 'pending' {
  if (hasQuorum(configuration, (id) => votes.get(id) === true)) return 'won';
  return hasQuorum(configuration, (id) => votes.get(id) !== false) ? 'pending' : 'lost';
}

function hasMajority(ids: readonly ReplicaId[], agrees: (id: ReplicaId) => boolean): boolean {
  let count = 0;
  for (const id of ids) if (agrees(id)) count++;
  return count >= majority(ids.length);
}

const scratch: number[] = [];
function majorityValue(ids: readonly ReplicaId[], valueAt: (id: ReplicaId) => number): number {
  const count = ids.length;
  if (count === 0) return 0;
  // Insertion sort, descending: there are few voters, and this runs for every acknowledgement.
  for (let i = 0; i < count; i++) {
    const value = valueAt(ids[i]!);
    let at = i;
    while (at > 0 && scratch[at - 1]! < value) {
      scratch[at] = scratch[at - 1]!;
      at--;
    }
    scratch[at] = value;
  }
  return scratch[majority(count) - 1]!;
}

/** Null if well formed, else what is wrong. */
export function configurationProblem(configuration: Configuration): string | null {
  const { voters, outgoing, learners, learnersNext } = configuration;
  for (const list of [voters, outgoing, learners, learnersNext]) {
    if (!list.every((id) => Number.isSafeInteger(id) && id > 0)) return 'an id is not a positive integer';
    if (new Set(list).size !== list.length) return 'an id is listed twice';
  }
  if (learners.some((id) => isVoter(configuration, id))) return 'a learner votes';
  if (learnersNext.some((id) => !outgoing.includes(id) || voters.includes(id)))
    return 'a voter to be demoted is not an outgoing one';
  if (voters.length === 0 && (outgoing.length > 0 || learners.length > 0)) return 'there is no voter';
  return null;
}

export function sameMembers(
  configuration: Configuration,
  voters: readonly ReplicaId[],
  learners: readonly ReplicaId[],
) {
  return sameIds(configuration.voters, voters) && sameIds(configuration.learners, learners);
}

export function sameIds(left: readonly ReplicaId[], right: readonly ReplicaId[]): boolean {
  return left.length === right.length && left.every((id) => right.includes(id));
}

/**
 * The configuration to append in order to get from a plain one to these voters and learners: itself if the voters stay (every quorum does,
 * too), else the joint one.
 */
export function enterConfiguration(
  current: Configuration,
  voters: readonly ReplicaId[],
  learners: readonly ReplicaId[],
): Configuration {
  if (sameIds(current.voters, voters)) {
    return { voters: sorted(voters), outgoing: [], learners: sorted(learners), learnersNext: [], autoLeave: false };
  }
  return {
    voters: sorted(voters),
    outgoing: current.voters,
    learners: sorted(learners.filter((id) => !current.voters.includes(id))),
    learnersNext: sorted(learners.filter((id) => current.voters.includes(id))),
    autoLeave: true,
  };
}

/** The configuration that ends a joint one. */
export function leaveConfiguration(joint: Configuration): Configuration {
  const learners = sorted([...joint.learners, ...joint.learnersNext]);
  return { voters: joint.voters, outgoing: [], learners, learnersNext: [], autoLeave: false };
}

function sorted(ids: readonly ReplicaId[]): ReplicaId[] {
  return [...ids].sort((left, right) => left - right);
}

const encodingVersion = 1;

/**
 * Bytes for disk and wire: a version byte, a flag byte (1: leaves by itself), then the four lists (voters, outgoing, learners, learnersNext),
 * each a count and its ids as variable-length integers, low seven bits first.
 */
export function encodeConfiguration(configuration: Configuration): Uint8Array {
  const bytes: number[] = [encodingVersion, configuration.autoLeave ? 1 : 0];
  const put = (value: number) => {
    while (value >= 0x80) {
      bytes.push((value % 0x80) | 0x80);
      value = Math.floor(value / 0x80);
    }
    bytes.push(value);
  };
  const { voters, outgoing, learners, learnersNext } = configuration;
  for (const ids of [voters, outgoing, learners, learnersNext]) {
    put(ids.length);
    for (const id of ids) put(id);
  }
  return Uint8Array.from(bytes);
}

/** Throws a RangeError on bytes that `encodeConfiguration` did not make: check them (with their checksum) before. */
export function decodeConfiguration(bytes: Uint8Array): Configuration {
  if (bytes[0] !== encodingVersion || (bytes[1] !== 0 && bytes[1] !== 1)) throw malformed('unknown version or flags');
  let at = 2;
  const take = (): number => {
    let value = 0;
    for (let factor = 1; factor < 2 ** 53; factor *= 0x80) {
      const byte = bytes[at++];
      if (byte === undefined) throw malformed('it ends early');
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
    }
    throw malformed('a number is too large');
  };
  const list = (): ReplicaId[] => {
    const count = take();
    if (count > bytes.length - at) throw malformed('it ends early');
    return Array.from({ length: count }, take);
  };
  const configuration: Configuration = {
    voters: list(),
    outgoing: list(),
    learners: list(),
    learnersNext: list(),
    autoLeave: bytes[1] === 1,
  };
  if (at !== bytes.length) throw malformed('bytes follow it');
  const problem = configurationProblem(configuration);
  if (problem !== null) throw malformed(problem);
  return configuration;
}

function malformed(problem: string): RangeError {
  return new RangeError(`raft-ts: not an encoded configuration: ${problem}`);
}

/**
 * Every configuration that may still matter: the one in force at the snapshot, and those appended after it. The last one is in force as soon
 * as it is in the log, committed or not; truncation brings the one before back.
 */
export class ConfigurationHistory {
  #rows: { readonly index: LogIndex; readonly configuration: Configuration }[];

  constructor(index: LogIndex, configuration: Configuration) {
    this.#rows = [{ index, configuration }];
  }

  get current(): Configuration {
    return this.#rows[this.#rows.length - 1]!.configuration;
  }
  /** Where the current one was appended. */
  get currentIndex(): LogIndex {
    return this.#rows[this.#rows.length - 1]!.index;
  }

  append(index: LogIndex, configuration: Configuration): void {
    invariant(index > this.currentIndex, 'configurations are appended in order');
    this.#rows.push({ index, configuration });
  }

  /** True if something was rolled back. */
  truncateFrom(first: LogIndex): boolean {
    const before = this.#rows.length;
    while (this.#rows.length > 1 && this.currentIndex >= first) this.#rows.pop();
    return this.#rows.length < before;
  }

  /** Forgets what was in force only before `index`. */
  compactTo(index: LogIndex): void {
    let first = 0;
    while (first + 1 < this.#rows.length && this.#rows[first + 1]!.index <= index) first++;
    if (first > 0) this.#rows = this.#rows.slice(first);
  }

  reset(index: LogIndex, configuration: Configuration): void {
    this.#rows = [{ index, configuration }];
  }

  /** The one in force at `index`; the oldest known for indices before it. */
  at(index: LogIndex): Configuration {
    let row = this.#rows.length - 1;
    while (row > 0 && this.#rows[row]!.index > index) row--;
    return this.#rows[row]!.configuration;
  }

  /** True if `holds` for the one in force at `commit` or for any appended after it. */
  someSince(commit: LogIndex, holds: (configuration: Configuration) => boolean): boolean {
    for (let row = this.#rows.length - 1; row >= 0; row--) {
      if (holds(this.#rows[row]!.configuration)) return true;
      if (this.#rows[row]!.index <= commit) return false;
    }
    return false;
  }

  validate(lastIndex: LogIndex): void {
    for (let row = 0; row < this.#rows.length; row++) {
      invariant(configurationProblem(this.#rows[row]!.configuration) === null, 'every configuration is well formed');
      invariant(row === 0 || this.#rows[row]!.index > this.#rows[row - 1]!.index, 'configurations rise in index');
    }
    invariant(this.currentIndex <= lastIndex, 'the configuration in force is in the log');
  }
}
