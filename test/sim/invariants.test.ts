// Each invariant against replicas that were made up: what breaks it is found, what does not is let pass.

import { type Configuration, initialConfiguration } from 'raft-ts';
import { describe, expect, test } from 'vitest';
import type { LogEntry } from '../../cluster/log/types.ts';
import type { WatchedReplica } from '../../cluster/options.ts';
import { InvariantError, Invariants, quorumsMeet } from './invariants.ts';
import { Marks } from './marks.ts';

const configuration = initialConfiguration([1, 2, 3]);

/** One replica of group 1, as its cores and machine would show themselves. */
class Fake {
  readonly id = 1;
  /** Terms of the entries from index 1 on, and their contents. */
  terms: number[] = [];
  contents: number[] = [];
  term = 1;
  role = 'follower';
  commit = 0;
  persistedIndex = 0;
  appliedIndex = 0;
  hash = 0;
  repairing = false;
  acknowledgedTo = 0;
  configuration: Configuration = configuration;
  isFenced = false;
  halted: Error | null = null;

  append(term: number, content: number, durable = true): this {
    this.terms.push(term);
    this.contents.push(content);
    if (durable) this.persistedIndex = this.terms.length;
    return this;
  }

  /** Its present state, under another identity: a process that was started again. */
  again(): Fake {
    const copy = Object.assign(new Fake(), this);
    copy.terms = this.terms.slice(0, this.persistedIndex);
    copy.contents = this.contents.slice(0, this.persistedIndex);
    copy.role = 'follower';
    return copy;
  }

  get replica(): WatchedReplica {
    const fake = this;
    const raft = {
      get term() {
        return fake.term;
      },
      get role() {
        return fake.role;
      },
      get commit() {
        return fake.commit;
      },
      get lastIndex() {
        return fake.terms.length;
      },
      get persistedIndex() {
        return fake.persistedIndex;
      },
      termAt: (index: number) => (index === 0 ? 0 : fake.terms[index - 1]),
      configurationAt: () => fake.configuration,
      status: () => ({ configuration: fake.configuration, repairing: fake.repairing }),
    };
    const machine = {
      stateHash: () => fake.hash,
      metadataVersion: 5,
      refusals: { gaps: 0 },
      isFenced: () => fake.isFenced,
    };
    return Object.defineProperties({ id: 1, raft, machine } as unknown as WatchedReplica, {
      appliedIndex: { get: () => fake.appliedIndex },
      acknowledgedTo: { get: () => fake.acknowledgedTo },
      halted: { get: () => fake.halted },
    });
  }

  cached(index: number): LogEntry | undefined {
    const term = this.terms[index - 1];
    if (term === undefined) return undefined;
    const checksum = this.contents[index - 1]!;
    return { kind: 'data', index, term, bytes: 1, data: { checksum } } as unknown as LogEntry;
  }
}

class Stage {
  readonly marks = new Marks();
  readonly invariants = new Invariants(this.marks);
  readonly fakes = new Map<number, Fake>();
  readonly replicas = new Map<number, Map<number, WatchedReplica>>();

  constructor(nodes = 3) {
    for (let node = 1; node <= nodes; node++) this.open(node, new Fake());
  }
  open(node: number, fake: Fake): void {
    this.fakes.set(node, fake);
    const log = { cached: (_group: number, index: number) => fake.cached(index) };
    this.replicas.set(node, new Map([[1, fake.replica]]));
    this.invariants.opened(node, this.replicas.get(node)!, log);
  }
  /** Its process goes on with another replica in place of the one that it had. */
  replace(node: number, fake: Fake): void {
    this.fakes.set(node, fake);
    this.replicas.get(node)!.set(1, fake.replica);
  }
  /** Metadata on two nodes, which say that node 1 was ended, and where group 1 is. */
  applyMetadata(
    appliedIndex: number,
    voters: readonly number[],
    members: readonly object[] = [],
    move: object = {},
  ): void {
    const nodes = () => [{ node: 1, fencedTo: 3 }];
    const placement = { voters, target: null, version: 0 };
    const placements = () => [[1, { ...placement, ...move }]];
    const machine = {
      appliedIndex,
      nodes,
      members: () => members,
      placements,
      stateHash: () => 0,
      placement: () => placement,
    };
    const fakes = [2, 3].map((node) => {
      const fake = new Fake().append(1, 7);
      this.replicas.get(node)!.set(0, Object.assign(fake.replica, { id: 0, machine }));
      return fake;
    });
    expect(this.broken()).toBeNull();
    for (const fake of fakes) Object.assign(fake, { commit: 1, appliedIndex: 1 });
    expect(this.broken()).toBeNull();
  }
  at(node: number): Fake {
    return this.fakes.get(node)!;
  }
  /** The name of what is broken, or null. */
  broken(): string | null {
    try {
      this.invariants.check();
      return null;
    } catch (error) {
      if (error instanceof InvariantError) return error.invariant;
      throw error;
    }
  }
}

describe('the invariants', () => {
  test('R1 one leader per term', () => {
    const stage = new Stage();
    stage.at(1).role = 'leader';
    expect(stage.broken()).toBeNull();
    Object.assign(stage.at(2), { role: 'leader', term: 2 });
    expect(stage.broken()).toBeNull();
    expect(stage.marks.count('two leaders at once')).toBe(1);
    stage.at(3).role = 'leader';
    expect(stage.broken()).toBe('R1');
  });

  test('R2 equal entries, equal pasts', () => {
    const stage = new Stage();
    stage.at(1).append(1, 7);
    stage.at(2).append(2, 8);
    expect(stage.broken()).toBeNull();
    stage.at(3).append(1, 9);
    expect(stage.broken()).toBe('R2');
    const past = new Stage();
    past.at(1).append(1, 7).append(3, 1);
    past.at(2).append(2, 8).append(3, 1);
    expect(past.broken()).toBe('R2');
  });

  test('R2 also of what replaced something, to the same length', () => {
    const stage = new Stage();
    stage.at(1).append(1, 7);
    stage.at(2).append(2, 8);
    expect(stage.broken()).toBeNull();
    stage.at(1).terms = [2];
    stage.at(1).contents = [9];
    expect(stage.broken()).toBe('R2');
    expect(stage.marks.count('log truncated')).toBe(1);
  });

  test('R3 a new leader has all that was committed, an old one need not', () => {
    for (const [term, broken] of [
      [3, 'R3'],
      [1, null],
    ] as const) {
      const stage = new Stage();
      for (const node of [1, 2]) Object.assign(stage.at(node).append(2, 7), { term: 2 });
      stage.at(1).commit = 1;
      expect(stage.broken()).toBeNull();
      Object.assign(stage.at(3), { role: 'leader', term });
      expect(stage.broken()).toBe(broken);
    }
  });

  test('R4 one entry per index is applied, R7 and makes the same state', () => {
    for (const [content, hash, broken] of [
      [7, 5, null],
      [7, 6, 'R7'],
      [8, 5, 'R4'],
    ] as const) {
      const stage = new Stage();
      stage.at(1).append(1, 7);
      stage.at(2).append(1, 7);
      stage.at(3).append(2, content);
      if (content === 7) stage.at(3).terms = [1];
      Object.assign(stage.at(1), { commit: 1, appliedIndex: 1, hash: 5 });
      expect(stage.broken()).toBeNull();
      Object.assign(stage.at(3), { term: 2, commit: 1, appliedIndex: 1, hash });
      expect(stage.broken()).toBe(broken);
    }
  });

  test('R5 neither term nor commit falls', () => {
    for (const change of [{ term: 0 }, { commit: 0 }]) {
      const stage = new Stage();
      for (const node of [1, 2]) stage.at(node).append(1, 7);
      stage.at(1).commit = 1;
      expect(stage.broken()).toBeNull();
      Object.assign(stage.at(1), change);
      expect(stage.broken()).toBe('R5');
    }
  });

  test('R6 what is committed is on a quorum of disks, those of the dead included', () => {
    const stage = new Stage();
    stage.at(1).append(1, 7).commit = 1;
    stage.at(2).append(1, 7, false);
    expect(stage.broken()).toBe('R6');
    const dead = new Stage();
    dead.at(2).append(1, 7);
    dead.invariants.ended(2);
    dead.at(1).append(1, 7).commit = 1;
    expect(dead.broken()).toBeNull();
    const behind = new Stage();
    behind.at(2).append(1, 6);
    behind.invariants.ended(2);
    behind.at(1).append(1, 6).append(1, 7).commit = 2;
    expect(behind.broken()).toBe('R6');
  });

  test('R6 what lies before a commit is committed with it, by a configuration that is not known everywhere yet', () => {
    const commits = (last: number) => {
      const stage = new Stage(5);
      const after = initialConfiguration([1, 2, 3, 4, 5]);
      const joint = { ...after, outgoing: [1, 3, 4] };
      for (const node of [1, 2, 5])
        Object.assign(stage.at(node).append(1, 7).append(1, 8), {
          configuration: after,
          commit: node === 1 ? last : 0,
        });
      for (const node of [3, 4]) stage.at(node).configuration = joint;
      expect(stage.broken()).toBeNull();
      stage.at(3).append(1, 7, false).commit = 1;
      return stage.broken();
    };
    expect(commits(2)).toBeNull();
    expect(commits(0)).toBe('R6');
  });

  test('R6 what a replica acknowledged and lost counts as long as it stands aside until it has it again', () => {
    const commits = (change: Partial<Fake>) => {
      const stage = new Stage();
      Object.assign(stage.at(2), change);
      stage.at(1).append(1, 7).commit = 1;
      return stage.broken();
    };
    expect(commits({ repairing: true, acknowledgedTo: 1 })).toBeNull();
    expect(commits({ repairing: true, acknowledgedTo: 0 })).toBe('R6');
    expect(commits({ acknowledgedTo: 1 })).toBe('R6');
  });

  test('R6 what a replica acknowledged before it halted, or while it was repaired, counts after its process has ended too', () => {
    const commits = (change: Partial<Fake>) => {
      const stage = new Stage();
      Object.assign(stage.at(2), change);
      stage.invariants.ended(2);
      stage.at(1).append(1, 7).commit = 1;
      return stage.broken();
    };
    const halted = new Error('damaged');
    expect(commits({ halted, terms: [1], contents: [7], persistedIndex: 1 })).toBeNull();
    expect(commits({ halted, terms: [1], contents: [7], persistedIndex: 0 })).toBe('R6');
    expect(commits({ repairing: true, acknowledgedTo: 1 })).toBeNull();
    expect(commits({ repairing: true, acknowledgedTo: 0 })).toBe('R6');
  });

  test('R6 what was durable is there again, unless the replica says itself that it is not', () => {
    const restarted = (change: Partial<Fake>) => {
      const stage = new Stage();
      stage.at(1).append(1, 7).append(1, 8).append(1, 9, false);
      stage.invariants.ended(1);
      const fake = Object.assign(stage.at(1).again(), change);
      stage.open(1, fake);
      return stage.broken();
    };
    expect(restarted({})).toBeNull();
    expect(restarted({ terms: [1] })).toBe('R6');
    expect(restarted({ terms: [1, 2] })).toBe('R6');
    expect(restarted({ terms: [1], repairing: true })).toBeNull();
    expect(restarted({ terms: [1], halted: new Error('damaged') })).toBeNull();
  });

  test('R6 what was built anew stands aside until it has what the one before had durably', () => {
    const rebuilt = (change: Partial<Fake>) => {
      const stage = new Stage();
      stage.at(1).append(1, 7).append(1, 8);
      expect(stage.broken()).toBeNull();
      stage.replace(1, Object.assign(new Fake(), change));
      return stage.broken();
    };
    expect(rebuilt({})).toBe('R6');
    expect(rebuilt({ repairing: true })).toBeNull();
    expect(rebuilt({ terms: [1, 1] })).toBeNull();
    expect(rebuilt({ terms: [2], term: 2 })).toBeNull();
  });

  test('A3 who was ended is not heard by those who know it', () => {
    for (const [version, isFenced, broken] of [
      [5, true, null],
      [5, false, 'A3'],
      [6, false, null],
    ] as const) {
      const stage = new Stage();
      stage.applyMetadata(version, [1]);
      stage.at(2).append(1, 7);
      stage.at(1).isFenced = isFenced;
      Object.assign(stage.at(1).append(1, 7), { commit: 1, appliedIndex: 1 });
      expect([version, isFenced, stage.broken()]).toEqual([version, isFenced, broken]);
    }
  });

  test('placement: what is said to be here is not dropped', () => {
    for (const [voters, commit, broken] of [
      [[1, 2, 3], 0, 'placement'],
      [[2, 3, 4], 0, null],
      // By what is committed it votes.
      [[2, 3, 4], 1, 'placement'],
    ] as const) {
      const stage = new Stage();
      stage.applyMetadata(3, voters);
      for (const node of [2, 3]) stage.at(node).append(1, 7).commit = commit;
      stage.replicas.get(1)!.delete(1);
      expect(stage.broken()).toBe(broken);
    }
  });

  test('placement: voters follow the versions of the metadata', () => {
    const moved = (version: number, isOver = true) => {
      const stage = new Stage();
      stage.applyMetadata(3, [2, 3, 4], [], { target: [1, 2, 3], version });
      if (isOver) stage.applyMetadata(4, [1, 2, 3], [], { version: version + 1 });
      for (const node of [2, 3])
        Object.assign(stage.at(node).append(1, 7), { commit: 1, appliedIndex: 1, isFenced: true });
      return stage.broken();
    };
    // The shard's log knows version 5.
    expect(moved(5)).toBeNull();
    expect(moved(6)).toBe('placement');
    // An earlier move has brought it there: who leads it has time to write down the present one.
    expect(moved(6, false)).toBeNull();
  });

  test('placement: who is gone does not vote on the metadata', () => {
    const gone = (node: number) => new Stage().applyMetadata(3, [1, 2, 3], [{ node, state: 'gone' }]);
    expect(() => gone(4)).not.toThrow();
    expect(() => gone(3)).toThrow('placement');
  });

  test('R5 the term of a leader, and of what is durable, is known after a restart', () => {
    const stage = new Stage();
    Object.assign(stage.at(1), { term: 4, role: 'leader' });
    stage.invariants.ended(1);
    stage.open(1, Object.assign(new Fake(), { term: 3 }));
    expect(stage.broken()).toBe('R5');
  });
});

test('R8 quorums of neighbouring configurations meet', () => {
  const of = (...voters: number[]) => initialConfiguration(voters);
  const joint = (outgoing: number[], voters: number[]): Configuration => ({
    ...of(...voters),
    outgoing,
    autoLeave: true,
  });
  expect(quorumsMeet(of(1, 2, 3), joint([1, 2, 3], [3, 4, 5]))).toBe(true);
  expect(quorumsMeet(joint([1, 2, 3], [3, 4, 5]), of(3, 4, 5))).toBe(true);
  expect(quorumsMeet(of(1, 2, 3), of(1, 2, 3, 4))).toBe(true);
  expect(quorumsMeet(of(1, 2, 3), of(3, 4, 5))).toBe(false);
  expect(quorumsMeet(of(1, 2), of(2, 3))).toBe(true);
  expect(quorumsMeet(of(1), of(1, 2))).toBe(true);
  expect(quorumsMeet(of(1), of(2))).toBe(false);
});
