// The pitfalls of consensus that concern the core, one test each, by their number in the project's list. Those of the host and its disk
// (30 to 33, 35, 36) are tested there.

import {
  type Configuration,
  createRaft,
  type Entry,
  type IncomingMessage,
  initialConfiguration,
  type Raft,
  type RaftOptions,
  type Ready,
  type Restored,
} from 'raft-ts';
import { describe, expect, test } from 'vitest';
import { defaultBounds, Simulation } from './simulation.ts';

const options = (id: number): RaftOptions => ({ ...defaultBounds, id, random: () => 0 });

function restored(changes: Partial<Restored> = {}, voters: number[] = [1, 2, 3]): Restored {
  return {
    hardState: { term: 0, vote: 0, commit: 0 },
    snapshot: { index: 0, term: 0, configuration: initialConfiguration(voters) },
    compacted: { index: 0, term: 0 },
    entries: [],
    ...changes,
  };
}

function replica(changes: Partial<Restored> = {}, id = 1, voters?: number[]): Raft<string> {
  return createRaft<string>(options(id), restored(changes, voters));
}

type Body<M> = M extends unknown ? Omit<M, 'group' | 'groupIncarnation' | 'to'> : never;
function to(raft: Raft<string>, message: Body<IncomingMessage<string>>, id = 1): Ready<string> {
  raft.step({ group: 1, groupIncarnation: 1, to: id, ...message } as IncomingMessage<string>);
  raft.validate();
  return raft.ready();
}

const data = (index: number, term: number): Entry<string> => ({
  kind: 'data',
  index,
  term,
  bytes: 1,
  data: `d${index}`,
});
const rows = (...terms: number[]) => terms.map((term, i) => ({ index: i + 1, term, bytes: 1 }));

function append(
  from: number,
  term: number,
  previous: [number, number],
  entries: Entry<string>[],
  commit = 0,
): Body<Extract<IncomingMessage<string>, { kind: 'append' }>> {
  const [previousIndex, previousTerm] = previous;
  return { kind: 'append', from, term, session: 1, previousIndex, previousTerm, entries, commit, notice: false };
}

/** A leader of three in term 1 with its no-op applied, followers settled. */
function group(voters = 3, bounds: Partial<typeof defaultBounds> = {}): Simulation {
  return new Simulation(() => 0, bounds).startVoters(voters).elect(1);
}

describe('elections and votes', () => {
  test('1 term and vote are durable, in one write, before the vote or the request for votes leaves', () => {
    const voter = replica();
    const first = to(voter, { kind: 'vote', from: 2, term: 4, lastIndex: 0, lastTerm: 0, transfer: false });
    expect(first.write?.hardState).toEqual({ term: 4, vote: 2, commit: 0 });
    expect(first.messages).toEqual([]);
    voter.persisted(first.write!.sequence);
    expect(voter.ready().messages).toMatchObject([{ kind: 'voteReply', granted: true, to: 2, term: 4 }]);

    const candidate = replica();
    candidate.campaign();
    to(candidate, { kind: 'preVoteReply', from: 2, term: 1, granted: true });
    const asked = candidate.ready();
    expect([asked.write, ...asked.messages]).toEqual([null]); // taken out by `to`: nothing leaves before the write is durable
    candidate.persisted(1);
    expect(candidate.ready().messages).toMatchObject([{ kind: 'vote' }, { kind: 'vote' }]);
  });

  test('1 the vote for itself counts only when it is durable', () => {
    const alone = replica({}, 1, [1]);
    alone.campaign();
    const { write } = alone.ready();
    expect(write?.hardState).toMatchObject({ term: 1, vote: 1 });
    expect(alone.role).toBe('candidate');
    alone.persisted(write!.sequence);
    expect(alone.role).toBe('leader');
  });

  test('1 a vote survives a crash: nobody else gets it in that term', () => {
    const again = replica({ hardState: { term: 4, vote: 2, commit: 0 } });
    const ready = to(again, { kind: 'vote', from: 3, term: 4, lastIndex: 9, lastTerm: 3, transfer: false });
    expect(ready.messages).toMatchObject([{ kind: 'voteReply', granted: false }]);
  });

  test('1 entries whose hard state was torn off are kept, and their term is entered without a vote', () => {
    const torn = replica({ hardState: { term: 3, vote: 2, commit: 0 }, entries: rows(1, 4) });
    expect(torn.status()).toMatchObject({ term: 4, vote: 0, lastIndex: 2 });
    expect(torn.ready().write?.hardState).toMatchObject({ term: 4, vote: 0 });
  });

  test('10 a vote compares the last term first, then the length', () => {
    const hardState = { term: 3, vote: 0, commit: 0 };
    const ask = (lastIndex: number, lastTerm: number) => {
      const voter = replica({ hardState, entries: rows(1, 1, 3) });
      to(voter, { kind: 'vote', from: 2, term: 4, lastIndex, lastTerm, transfer: false });
      voter.persisted(1);
      const [answer] = voter.ready().messages;
      return answer?.kind === 'voteReply' && answer.granted;
    };
    expect(ask(9, 2)).toBe(false);
    expect(ask(2, 3)).toBe(false);
    expect(ask(3, 3)).toBe(true);
    expect(ask(1, 4)).toBe(true);
  });

  test('11 a replica that lost acknowledged entries neither votes nor campaigns until it has them again', () => {
    const world = group();
    world.propose(1, 'x');
    world.settle();
    world.get(2).crash();
    world.get(2).damage(2);
    world.get(2).start();
    world.get(1).crash();
    // Together with 3 alone it must elect nobody, although 3 has all.
    world.get(2).run((raft) => raft.campaign());
    world.get(3).run((raft) => raft.leaderLost(0));
    world.settle();
    world.tickAll(50);
    expect(world.leaders()).toEqual([]);
    expect(world.get(2).raft!.status().repairing).toBe(true);
    world.get(1).start();
    world.tickAll(50);
    expect(world.get(2).machine).toEqual(['x']);
    expect(world.get(2).raft!.status().repairing).toBe(false);
  });

  test('11 a leader sends anew what a follower acknowledged and lost, in the same term', () => {
    const world = group();
    for (const value of ['x', 'y', 'z']) world.propose(1, value);
    world.settle();
    const two = world.get(2);
    two.crash();
    two.damage(3);
    two.start();
    world.tickAll(4);
    expect(two.machine).toEqual(['x', 'y', 'z']);
    expect(two.raft!.status().repairing).toBe(false);
  });

  test('11 who forgot how far it had come is whole again with an entry of the first term in which it acknowledged nothing', () => {
    for (const [repairTerm, isWhole] of [
      [4, true],
      [5, false],
    ] as const) {
      const raft = replica({ hardState: { term: 5, vote: 0, commit: 0 }, repairTo: 1_000, repairTerm });
      const { write } = to(raft, append(2, 5, [0, 0], [{ kind: 'noop', index: 1, term: 5, bytes: 0 }], 1));
      expect(raft.status().repairing).toBe(true);
      raft.persisted(write!.sequence);
      expect(raft.status().repairing).toBe(!isWhole);
    }
  });

  test('12 messages for another id, group or incarnation are dropped', () => {
    const base = { kind: 'vote', from: 2, to: 1, term: 4, lastIndex: 9, lastTerm: 3, transfer: true } as const;
    for (const wrong of [{ to: 7 }, { group: 2 }, { groupIncarnation: 2 }, { from: 1 }, { from: 0 }]) {
      const raft = replica();
      raft.step({ group: 1, groupIncarnation: 1, ...base, ...wrong });
      expect(raft.hasReady()).toBe(false);
      expect(raft.term).toBe(0);
    }
  });

  test('17 who hears its leader grants neither pre-vote nor vote, and keeps its term', () => {
    const raft = replica({ hardState: { term: 2, vote: 0, commit: 0 } });
    to(raft, append(2, 2, [0, 0], []));
    expect(to(raft, { kind: 'preVote', from: 3, term: 3, lastIndex: 9, lastTerm: 2 }).messages).toEqual([]);
    expect(to(raft, { kind: 'vote', from: 3, term: 9, lastIndex: 9, lastTerm: 2, transfer: false }).messages).toEqual(
      [],
    );
    expect(raft.term).toBe(2);
    for (let i = 0; i < 10; i++) raft.tick();
    raft.ready(); // its own clock ran out too: it asks, and still keeps its term
    expect([raft.role, raft.term]).toEqual(['preCandidate', 2]);
    const late = to(raft, { kind: 'preVote', from: 3, term: 3, lastIndex: 9, lastTerm: 2 });
    expect(late.messages).toMatchObject([{ kind: 'preVoteReply', granted: true, term: 3 }]);
  });

  test('17 a removed replica that comes back does not disturb the group', () => {
    const world = group();
    world.isolate(3);
    world.get(1).run((raft) => raft.proposeConfiguration([1, 2], []));
    world.settle();
    world.tickAll(50);
    world.heal();
    world.tickAll(100);
    expect(world.leaders().map(({ id, raft }) => [id, raft!.term])).toEqual([[1, 1]]);
  });

  test('18 a stale replica of a later term is not locked out: it ends the leadership once, then follows', () => {
    const world = group();
    world.get(3).crash();
    world.get(3).disk.hardState = { term: 7, vote: 3, commit: 0 };
    world.get(3).start();
    world.propose(1, 'x');
    world.settle();
    world.tickAll(60);
    const leader = world.leaders().at(-1)!;
    expect(leader.raft!.term).toBeGreaterThan(7);
    expect(world.get(3).machine).toEqual(['x']);
  });

  test('18 pre-votes reach a later term too, and its refusal teaches the term', () => {
    const voter = replica({ hardState: { term: 9, vote: 0, commit: 0 }, entries: rows(1) });
    const ready = to(voter, { kind: 'preVote', from: 2, term: 3, lastIndex: 5, lastTerm: 2 });
    expect(ready.messages).toMatchObject([{ kind: 'preVoteReply', granted: false, term: 9 }]);
    const asker = replica({ hardState: { term: 2, vote: 0, commit: 0 } });
    asker.campaign();
    to(asker, { kind: 'preVoteReply', from: 2, term: 9, granted: false });
    expect(asker.term).toBe(9);
  });

  test('19 a leader that sends and hears nothing steps down within an election timeout', () => {
    const world = group();
    for (const other of [2, 3]) world.cut(other, 1);
    for (let i = 0; i < defaultBounds.electionTicks; i++) world.tick(1);
    expect(world.get(1).raft!.role).toBe('follower');
    world.tickAll(40);
    expect(world.leaders().map(({ id }) => id)).not.toContain(1);
    expect(world.leaders()).toHaveLength(1);
  });

  test('20 a leader that is told that its disk hangs gives up, and somebody else takes over at once', () => {
    const world = group();
    world.get(1).diskMode = 'manual';
    world.get(1).run((raft) => raft.stepDown());
    world.settle();
    expect(world.leaders().map(({ id }) => id)).toEqual([2]);
    // With its hanging disk it can neither vote nor win.
    world.get(1).run((raft) => raft.campaign());
    world.settle();
    expect(world.leaders().map(({ id }) => id)).toEqual([2]);
  });

  test('34 a candidate that is refused does not delay the campaign of others', () => {
    const draws = [3, 7, 1];
    const raft = createRaft<string>(
      { ...options(1), random: () => draws.shift() ?? 0 },
      restored({ hardState: { term: 5, vote: 0, commit: 0 }, entries: rows(5) }),
    );
    for (let tick = 1; tick < 13; tick++) {
      raft.tick();
      to(raft, { kind: 'vote', from: 3, term: 5 + tick, lastIndex: 0, lastTerm: 0, transfer: false });
      expect(raft.role).toBe('follower');
    }
    raft.tick(); // 10 + 3 ticks, drawn at the start
    expect(raft.role).toBe('preCandidate');
  });

  test('34 a granted vote and a leader do restart the clock', () => {
    const raft = replica();
    for (let i = 0; i < 9; i++) raft.tick();
    to(raft, { kind: 'vote', from: 2, term: 1, lastIndex: 0, lastTerm: 0, transfer: false });
    for (let i = 0; i < 9; i++) raft.tick();
    to(raft, append(2, 1, [0, 0], []));
    for (let i = 0; i < 9; i++) raft.tick();
    expect(raft.role).toBe('follower');
    raft.tick();
    expect(raft.role).toBe('preCandidate');
  });

  test('37 a replica that finds nothing on its disk waits: it founds no group of its own', () => {
    const nobody: Configuration = { voters: [], outgoing: [], learners: [], learnersNext: [], autoLeave: false };
    const raft = createRaft<string>(options(1), restored({ snapshot: { index: 0, term: 0, configuration: nobody } }));
    for (let i = 0; i < 100; i++) raft.tick();
    raft.campaign();
    expect(raft.hasReady()).toBe(false);
    expect(raft.role).toBe('learner');
  });
});

describe('the log and its durability', () => {
  test('2 a follower acknowledges when its write is durable, not before', () => {
    const raft = replica();
    const ready = to(raft, append(2, 1, [0, 0], [data(1, 1)]));
    expect(ready.messages).toEqual([]);
    raft.persisted(ready.write!.sequence);
    expect(raft.ready().messages).toMatchObject([{ kind: 'appendReply', success: true, index: 1 }]);
  });

  test('2 a leader counts itself when its own write is durable, not before', () => {
    const world = group();
    const leader = world.get(1);
    leader.diskMode = 'manual';
    world.isolate(3);
    world.get(2).diskMode = 'manual';
    world.propose(1, 'x');
    world.settle();
    world.get(2).persist(1);
    world.get(2).pump();
    world.settle();
    expect(leader.raft!.commit).toBe(1);
    leader.persist(1);
    leader.pump();
    expect(leader.raft!.commit).toBe(2);
  });

  test('3 a late completion of a write whose entries were replaced acknowledges nothing', () => {
    const raft = replica();
    const first = to(raft, append(2, 1, [0, 0], [data(1, 1), data(2, 1)]));
    const second = to(raft, append(3, 2, [0, 0], [data(1, 2)]));
    expect(second.write).toMatchObject({ truncateFrom: 1 });
    raft.persisted(first.write!.sequence);
    expect(raft.persistedIndex).toBe(0);
    raft.persisted(second.write!.sequence);
    expect(raft.persistedIndex).toBe(1);
  });

  test('3 not even if the same entry came back meanwhile', () => {
    const raft = replica();
    const first = to(raft, append(2, 1, [0, 0], [data(1, 1)]));
    const second = to(raft, append(3, 2, [0, 0], [data(1, 2)]));
    const third = to(raft, append(2, 3, [0, 0], [data(1, 1), data(2, 3)]));
    expect(third.write).toMatchObject({ truncateFrom: 1 });
    raft.persisted(first.write!.sequence);
    expect(raft.persistedIndex).toBe(0);
    raft.persisted(second.write!.sequence);
    expect(raft.persistedIndex).toBe(0);
    expect(raft.ready().messages.filter(({ term }) => term === 3)).toEqual([]);
    raft.persisted(third.write!.sequence);
    expect(raft.ready().messages).toMatchObject([{ kind: 'appendReply', term: 3, success: true, index: 2 }]);
  });

  test('4 an entry of an earlier term is not committed by counting, only by one of this term', () => {
    const raft = replica({ hardState: { term: 2, vote: 1, commit: 0 }, entries: rows(1, 2) });
    raft.campaign();
    to(raft, { kind: 'preVoteReply', from: 2, term: 3, granted: true });
    raft.persisted(1);
    to(raft, { kind: 'voteReply', from: 2, term: 3, granted: true });
    expect(raft.role).toBe('leader');
    const session = 1;
    const reply = { kind: 'appendReply', from: 2, term: 3, session, success: true, hintIndex: 0, hintTerm: 0 } as const;
    to(raft, { ...reply, index: 2 });
    expect(raft.commit).toBe(0);
    to(raft, { ...reply, index: 3 });
    expect(raft.commit).toBe(0); // its own write of the no-op is under way
    raft.persisted(2);
    expect(raft.commit).toBe(3);
  });

  test('5 a new leader begins with a no-op; before it is applied: no proposals, no changes, no reads', () => {
    const world = new Simulation().startVoters(3);
    for (const id of [2, 3]) world.get(id).diskMode = 'manual';
    world.get(1).run((raft) => raft.campaign());
    world.settle();
    for (let i = 0; i < 10 && world.get(1).raft!.role !== 'leader'; i++) {
      world.finishDisks();
      world.settle();
    }
    const leader = world.get(1).raft!;
    expect(leader.role).toBe('leader');
    expect(world.get(1).entryAt(1)).toMatchObject({ kind: 'noop', term: 1 });
    expect(leader.leaderReady).toBe(false);
    expect(world.propose(1, 'x')).toEqual({ ok: false, reason: 'notReady' });
    expect(leader.proposeConfiguration([1, 2], [])).toEqual({ ok: false, reason: 'notReady' });
    const answered: unknown[] = [];
    world.tell = (_id, text) => text.startsWith('read') && answered.push(text);
    world.checker.readAsked(1);
    world.get(1).run((raft) => raft.readIndex(1));
    world.settle();
    expect(answered).toEqual([]);
    world.settle(true);
    expect(leader.leaderReady).toBe(true);
    expect(answered).toEqual(['read 1 at 1']);
  });

  test('6 a follower commits at most what the append itself has verified', () => {
    const raft = replica({ hardState: { term: 1, vote: 0, commit: 0 }, entries: rows(1, 1, 1) });
    to(raft, append(2, 2, [1, 1], [], 3));
    expect(raft.commit).toBe(1);
  });

  test('7 the commit index in a heartbeat is clipped to what the follower has acknowledged', () => {
    const world = group();
    const told: number[] = [];
    world.cut(1, 3);
    for (const value of ['x', 'y']) world.propose(1, value);
    world.settle();
    world.onSend = (message) => message.kind === 'heartbeat' && message.to === 3 && told.push(message.commit);
    world.tick(1, 2);
    expect(world.get(1).raft!.commit).toBe(3);
    expect(told).toEqual([1]);
  });

  test('8 a delayed, shorter append truncates nothing', () => {
    const raft = replica();
    to(raft, append(2, 1, [0, 0], [data(1, 1), data(2, 1), data(3, 1)]));
    const late = to(raft, append(2, 1, [0, 0], [data(1, 1)]));
    expect(late.write).toBeNull();
    expect(raft.lastIndex).toBe(3);
    const empty = to(raft, append(2, 1, [1, 1], []));
    expect(empty.write).toBeNull();
    expect(raft.lastIndex).toBe(3);
  });

  test('8 a contradiction below the commit index is an alarm, not a truncation', () => {
    const raft = replica({ hardState: { term: 1, vote: 0, commit: 2 }, entries: rows(1, 1, 1) });
    expect(() => to(raft, append(2, 2, [0, 0], [data(1, 1), data(2, 2)]))).toThrow(
      'what is committed is never truncated',
    );
  });

  test('8 a committed prefix that was compacted is skipped', () => {
    const configuration = initialConfiguration([1, 2, 3]);
    const raft = replica({
      hardState: { term: 1, vote: 0, commit: 3 },
      snapshot: { index: 3, term: 1, configuration },
      compacted: { index: 3, term: 1 },
    });
    const ready = to(raft, append(2, 1, [1, 1], [data(2, 1), data(3, 1), data(4, 1)], 4));
    expect(ready.write?.entries.map(({ index }) => index)).toEqual([4]);
    expect(ready.commit).toBe(4);
  });

  test('9 truncation and new entries are one write, and nothing is acknowledged before it', () => {
    const raft = replica({ hardState: { term: 1, vote: 0, commit: 1 }, entries: rows(1, 1, 1) });
    const ready = to(raft, append(2, 2, [1, 1], [data(2, 2)]));
    expect(ready.write).toMatchObject({ truncateFrom: 2, entries: [{ index: 2, term: 2 }], hardState: { term: 2 } });
    expect(ready.messages).toEqual([]);
    // What a crash before that write leaves on the disk is the old log.
    expect(raft.persistedIndex).toBe(1);
    raft.persisted(ready.write!.sequence);
    expect(raft.ready().messages).toMatchObject([{ kind: 'appendReply', index: 2, success: true }]);
  });

  test('8 a long contradiction is found in a few steps, a term at a time', () => {
    const world = new Simulation(() => 0, { appendBytesMax: 10 });
    world.startVoters(3);
    const [old, fresh] = [world.get(1), world.get(2)];
    for (const one of [old, fresh, world.get(3)]) one.crash();
    const entry = (index: number, term: number) =>
      ({ kind: 'data', index, term, bytes: 1, data: `${index}/${term}` }) as const;
    for (let index = 1; index <= 60; index++) {
      const term = index <= 10 ? 1 : index <= 30 ? 2 : 3;
      old.disk.log.set(index, entry(index, term));
    }
    for (let index = 1; index <= 70; index++) {
      const term = index <= 10 ? 1 : 4;
      for (const one of [fresh, world.get(3)]) one.disk.log.set(index, entry(index, term));
    }
    for (const one of [old, fresh, world.get(3)]) {
      one.disk.hardState = { term: 4, vote: 0, commit: 0 };
      one.start();
    }
    let refusals = 0;
    world.onSend = (message) => {
      if (message.kind === 'appendReply' && message.from === 1 && !message.success) refusals++;
    };
    world.elect(2);
    expect(old.machine).toEqual(fresh.machine);
    expect(old.machine).toHaveLength(70);
    expect(refusals).toBeLessThanOrEqual(3);
  });

  test('26 the same calls give the same answers', () => {
    const run = () => {
      const lines: string[] = [];
      const world = new Simulation((bound) => bound >> 1);
      world.onSend = (message) => lines.push(JSON.stringify(message));
      world.startVoters(3).tickAll(40);
      world.propose(world.leaders()[0]!.id, 'x');
      world.tickAll(10);
      return lines;
    };
    expect(run()).toEqual(run());
    expect(run().length).toBeGreaterThan(20);
  });

  test('27 after a restart replay begins at the snapshot and sends nothing', () => {
    const configuration = initialConfiguration([1, 2, 3]);
    const raft = replica({
      hardState: { term: 2, vote: 2, commit: 5 },
      snapshot: { index: 3, term: 1, configuration },
      compacted: { index: 2, term: 1 },
      entries: [3, 4, 5, 6].map((index) => ({ index, term: index < 5 ? 1 : 2, bytes: 1 })),
    });
    expect(raft.status()).toMatchObject({ applied: 3, commit: 5, lastIndex: 6, persistedIndex: 6 });
    expect(raft.ready()).toEqual({
      write: null,
      messages: [],
      commit: 5,
      reads: [],
      snapshotReads: [],
      snapshotWrites: [],
    });
    expect(raft.hasReady()).toBe(false);
  });

  test('28 a reply of an old session is dropped', () => {
    const world = group();
    world.propose(1, 'x');
    world.settle();
    const old = world
      .get(1)
      .raft!.status()
      .progress.find(({ id }) => id === 3)!;
    expect(old.match).toBe(2);
    world.get(1).run((raft) => raft.proposeConfiguration([1, 2], []));
    world.settle();
    world.get(1).run((raft) => raft.proposeConfiguration([1, 2], [3]));
    world.network = []; // 3 hears nothing of its return
    const late = { kind: 'appendReply', session: 2, success: true, index: 4, hintIndex: 0, hintTerm: 0 } as const;
    world.get(1).step({ group: 1, groupIncarnation: 1, from: 3, to: 1, term: 1, ...late });
    expect(
      world
        .get(1)
        .raft!.status()
        .progress.find(({ id }) => id === 3),
    ).toMatchObject({ match: 0, state: 'probe' });
  });

  test('29 uncommitted proposals are bounded', () => {
    const world = group(3, { uncommittedBytesMax: 100 });
    world.isolate(1);
    const results = [60, 40, 1].map((bytes) => world.propose(1, 'x', bytes).ok);
    expect(results).toEqual([true, true, false]);
    expect(world.propose(1, 'x', 1)).toEqual({ ok: false, reason: 'full' });
    for (let i = 0; i < 10; i++) world.tick(1);
    expect(world.propose(1, 'x', 1)).toEqual({ ok: false, reason: 'notLeader' });
  });

  test('29 one proposal is taken however large, if nothing else is under way', () => {
    const world = group(3, { uncommittedBytesMax: 100 });
    expect(world.propose(1, 'x', 1000).ok).toBe(true);
    expect(world.propose(1, 'y', 1)).toEqual({ ok: false, reason: 'full' });
    world.settle();
    expect(world.propose(1, 'y', 1).ok).toBe(true);
  });

  test('29 what is under way to one follower is bounded in messages and bytes', () => {
    const world = group(3, { inflightMessagesMax: 3, inflightBytesMax: 50, appendBytesMax: 20 });
    let sent = 0;
    let bytes = 0;
    world.onSend = (message) => {
      if (message.kind !== 'append' || message.to !== 2) return;
      sent++;
      for (const entry of message.entries) bytes += entry.bytes;
    };
    for (let i = 0; i < 20; i++) world.propose(1, `${i}`, 10);
    expect(sent).toBe(3);
    expect(bytes).toBeLessThanOrEqual(50);
    world.settle();
    expect(world.get(2).machine).toHaveLength(20);
  });

  test('29 replies that wait for a hanging disk are merged', () => {
    const raft = replica();
    to(raft, append(2, 1, [0, 0], [data(1, 1)]));
    for (let i = 0; i < 50; i++) to(raft, append(2, 1, [1, 1], []));
    raft.persisted(1);
    expect(raft.ready().messages).toHaveLength(1);
  });
});

describe('members', () => {
  test('13 one change at a time, and none before the last is committed and left', () => {
    const world = group(5);
    const leader = world.get(1).raft!;
    world.isolate(1);
    world.get(1).run(() => expect(leader.proposeConfiguration([1, 2, 3, 4, 5], [9]).ok).toBe(true));
    expect(leader.proposeConfiguration([1, 2, 3, 4], [])).toEqual({ ok: false, reason: 'changeInProgress' });
    world.heal();
    world.tickAll(4);
    world.isolate(1);
    world.get(1).run(() => expect(leader.proposeConfiguration([1, 2, 3, 4], []).ok).toBe(true));
    expect(leader.proposeConfiguration([1, 2, 3, 5], [])).toEqual({ ok: false, reason: 'changeInProgress' });
    world.heal();
    world.tickAll(4);
    expect(leader.status().configuration).toMatchObject({ voters: [1, 2, 3, 4], outgoing: [] });
    expect(leader.proposeConfiguration([1, 2, 3], []).ok).toBe(true);
  });

  test('14 a configuration is in force when appended, rolled back when truncated, and stored in snapshots', () => {
    const raft = replica();
    const learners = [4];
    const configuration: Configuration = { ...initialConfiguration([1, 2, 3]), learners };
    to(raft, append(2, 1, [0, 0], [{ kind: 'configuration', index: 1, term: 1, bytes: 9, configuration }]));
    expect(raft.status().configuration.learners).toEqual([4]);
    expect(raft.configurationAt(0).learners).toEqual([]);
    to(raft, append(3, 2, [0, 0], [data(1, 2)]));
    expect(raft.status().configuration.learners).toEqual([]);

    const world = group();
    world.get(1).run((leader) => leader.proposeConfiguration([1, 2, 3], [4]));
    world.settle();
    world.get(1).takeSnapshot(0);
    world.add(4);
    world.tickAll(4);
    expect(world.get(4).raft!.status().configuration).toMatchObject({ voters: [1, 2, 3], learners: [4] });
    expect(world.get(4).disk.snapshot.meta.configuration.learners).toEqual([4]);
  });

  test.each([
    ['new', [2, 3]],
    ['old', [3, 4, 5]],
  ])('15 in the joint phase the majority of the %s half is needed too', (_half, silent) => {
    // From {1, 2, 3, 4, 5} to {1, 2, 3}: without 2 and 3 there is only the old majority, without 3, 4 and 5 only the new one.
    const world = group(5);
    for (const id of silent) world.cut(id, 1);
    world.get(1).run((raft) => raft.proposeConfiguration([1, 2, 3], []));
    world.settle();
    expect(world.get(1).raft!.commit).toBe(1);
    world.heal();
    world.tickAll(4);
    expect(world.get(1).raft!.commit).toBe(3);
    expect(world.get(1).raft!.status().configuration).toMatchObject({ voters: [1, 2, 3], outgoing: [] });
  });

  test('15 a leader elected in the joint phase leaves it', () => {
    const world = group(5);
    world.get(1).run((raft) => raft.proposeConfiguration([1, 2, 3], []));
    for (const { from, to: receiver } of [...world.network])
      if (from === 1) world.get(receiver).step(world.network.shift()!);
    world.get(1).crash();
    world.network = [];
    for (const id of [3, 4, 5]) world.get(id).run((raft) => raft.leaderLost(30));
    world.get(2).run((raft) => raft.leaderLost(0));
    world.settle();
    expect(world.get(2).raft!.role).toBe('leader');
    expect(world.get(2).raft!.status().configuration).toMatchObject({ voters: [2, 3, 1].sort(), outgoing: [] });
  });

  test('15 a leader on its way out that alone has the last configuration can still be elected', () => {
    const world = group(2);
    world.get(1).run((raft) => raft.proposeConfiguration([1, 2], [3]));
    world.add(3);
    world.settle();
    world.get(1).run((raft) => raft.proposeConfiguration([2, 3], []));
    // The joint configuration is committed; the one that ends it reaches only the disk of 1.
    for (let i = 0; i < 20 && world.get(1).raft!.lastIndex < 4; i++) world.deliver(0);
    world.network = [];
    world.get(1).crash();
    world.get(1).start();
    expect(world.get(1).raft!.status().configuration.voters).toEqual([2, 3]);
    world.tickAll(60);
    const leader = world.leaders().at(-1)!;
    expect([2, 3]).toContain(leader.id);
    expect(leader.raft!.status().configuration).toMatchObject({ voters: [2, 3], outgoing: [] });
  });

  test('16 only a learner that has caught up gets a vote', () => {
    const world = group(3, { inflightBytesMax: 100 });
    for (let i = 0; i < 20; i++) {
      world.propose(1, `${i}`, 50);
      world.settle();
    }
    const leader = world.get(1).raft!;
    expect(leader.proposeConfiguration([1, 2, 3, 4], [])).toEqual({ ok: false, reason: 'invalid' });
    world.get(1).run((raft) => raft.proposeConfiguration([1, 2, 3], [4]));
    world.settle();
    expect(leader.proposeConfiguration([1, 2, 3, 4], [])).toEqual({ ok: false, reason: 'notReady' });
    world.add(4);
    world.tickAll(4);
    expect(leader.proposeConfiguration([1, 2, 3, 4], []).ok).toBe(true);
  });

  test('16 who does not know yet that it votes, votes when asked', () => {
    const learner = replica({ snapshot: { index: 0, term: 0, configuration: initialConfiguration([2, 3]) } });
    expect(learner.role).toBe('learner');
    to(learner, { kind: 'vote', from: 2, term: 1, lastIndex: 0, lastTerm: 0, transfer: false });
    learner.persisted(1);
    expect(learner.ready().messages).toMatchObject([{ kind: 'voteReply', granted: true }]);
  });

  test('21 a removed leader commits its removal, then steps down, and the others go on at once', () => {
    const world = group();
    world.get(1).run((raft) => raft.proposeConfiguration([2, 3], []));
    world.settle();
    expect(world.get(1).raft!.role).toBe('learner');
    expect(world.get(1).raft!.commit).toBe(3);
    expect(world.leaders()).toHaveLength(1);
    expect(world.leaders()[0]!.raft!.status().configuration.voters).toEqual([2, 3]);
  });

  test('22 a transfer freezes proposals, passes by stickiness, and ends after an election timeout', () => {
    const world = group();
    const leader = world.get(1).raft!;
    world.cut(1, 2);
    expect(leader.transferLeadership(2)).toBe(true);
    expect(leader.transferLeadership(3)).toBe(false);
    expect(world.propose(1, 'x')).toEqual({ ok: false, reason: 'transferring' });
    world.tickAll(defaultBounds.electionTicks);
    expect(world.propose(1, 'x').ok).toBe(true);
    world.settle();
    world.heal();
    world.tickAll(4);
    world.get(1).run(() => expect(leader.transferLeadership(2)).toBe(true));
    world.settle();
    expect(world.leaders().map(({ id }) => id)).toEqual([2]);
    expect(world.get(2).machine).toEqual(['x']);
  });

  test('22 nobody but a voter that answers is handed the leadership', () => {
    const world = group();
    world.get(1).run((raft) => raft.proposeConfiguration([1, 2], [3]));
    world.settle();
    const leader = world.get(1).raft!;
    expect([1, 3, 9].map((id) => leader.transferLeadership(id))).toEqual([false, false, false]);
  });
});

describe('reads and snapshots', () => {
  test('23 a read needs a round of answers that began after it; older answers count for nothing', () => {
    const world = group();
    const answered: string[] = [];
    world.tell = (_id, text) => text.startsWith('read') && answered.push(text);
    world.tick(1, 2); // heartbeats without a round are under way
    const before = world.network;
    world.network = [];
    world.checker.readAsked(1);
    world.get(1).run((raft) => raft.readIndex(1));
    const round = world.network;
    world.network = before;
    world.settle();
    expect(answered).toEqual([]);
    world.network = round;
    world.settle();
    expect(answered).toEqual(['read 1 at 1']);
  });

  test('23 a deposed leader that does not know it yet answers no read', () => {
    const world = group();
    const answered: string[] = [];
    world.tell = (id, text) => text.startsWith('read') && answered.push(`${id} ${text}`);
    world.isolate(1);
    world.get(3).run((raft) => raft.leaderLost(9));
    world.get(2).run((raft) => raft.leaderLost(0));
    world.settle();
    expect(world.leaders().map(({ id }) => id)).toEqual([1, 2]);
    world.propose(2, 'new');
    world.settle();
    world.checker.readAsked(1);
    world.get(1).run((raft) => raft.readIndex(1));
    world.settle();
    expect(answered).toEqual([]);
    world.heal();
    world.tickAll(4);
    expect(answered).toEqual(['1 read 1 failed']);
  });

  test('23 a lost round is asked again, under the same number and after the request', () => {
    const world = group();
    const answered: string[] = [];
    world.tell = (_id, text) => text.startsWith('read') && answered.push(text);
    world.checker.readAsked(1);
    world.get(1).run((raft) => raft.readIndex(1));
    world.network = [];
    world.tickAll(2);
    expect(answered).toEqual(['read 1 at 1']);
  });

  test('24 a snapshot covers only what is applied and durable; the log is compacted only behind it', () => {
    const world = group();
    const leader = world.get(1);
    leader.diskMode = 'manual';
    world.propose(1, 'x');
    world.settle();
    const { raft } = leader;
    expect([raft!.commit, raft!.persistedIndex]).toEqual([2, 1]);
    const configuration = raft!.configurationAt(2);
    expect(() => raft!.snapshotTaken({ index: 2, term: 1, configuration })).toThrow('durable in the log');
    expect(() => raft!.compacted(1)).toThrow('behind a snapshot');
    leader.persist(1);
    expect(leader.takeSnapshot(0)).toBe(true);
  });

  test('24 the last chunk waits for earlier writes, and the log stands still until the installation', () => {
    const raft = replica();
    const snapshot = { index: 9, term: 1, configuration: initialConfiguration([1, 2, 3]) };
    const writing = to(raft, append(2, 1, [0, 0], [data(1, 1)]));
    const chunk = { kind: 'snapshotChunk', from: 2, term: 1, session: 2, snapshot, offset: 0 } as const;
    expect(to(raft, { ...chunk, bytes: new Uint8Array(3), done: true }).snapshotWrites).toEqual([]);
    raft.persisted(writing.write!.sequence);
    expect(raft.ready().snapshotWrites).toMatchObject([{ offset: 0, done: true }]);
    expect(to(raft, append(2, 1, [1, 1], [data(2, 1)], 2)).write).toBeNull();
    raft.campaign();
    expect(raft.role).toBe('follower');
    raft.snapshotWritten(snapshot, 0, true);
    raft.snapshotInstalled(snapshot);
    raft.validate();
    expect(raft.status()).toMatchObject({ commit: 9, applied: 9, lastIndex: 9, persistedIndex: 9 });
    expect(raft.ready().messages).toMatchObject([{ kind: 'appendReply', success: true, index: 9 }]);
  });

  test('24 a failed installation begins the transfer anew', () => {
    const raft = replica();
    const snapshot = { index: 9, term: 1, configuration: initialConfiguration([1, 2, 3]) };
    const chunk = { kind: 'snapshotChunk', from: 2, term: 1, session: 2, snapshot } as const;
    const first = to(raft, { ...chunk, offset: 0, bytes: new Uint8Array(3), done: false });
    raft.persisted(first.write!.sequence);
    raft.snapshotWritten(snapshot, 0, true);
    expect(raft.ready().messages).toMatchObject([{ kind: 'snapshotReply', ok: true, offset: 3 }]);
    to(raft, { ...chunk, offset: 3, bytes: new Uint8Array(3), done: true });
    raft.snapshotWritten(snapshot, 3, false);
    expect(raft.ready().messages).toMatchObject([{ kind: 'snapshotReply', ok: false, offset: 0 }]);
    expect(to(raft, append(2, 1, [0, 0], [data(1, 1)])).write?.entries).toHaveLength(1);
  });

  test('24 a stream that its host lost begins anew, and the follower takes nothing of the old one for a part of it', () => {
    let padding = 30;
    const world = new Simulation((bound) => Math.min(padding, bound - 1), { snapshotChunkBytes: 8 });
    world.startVoters(3).elect(1);
    const three = world.get(3);
    three.crash();
    for (const value of ['x', 'y']) world.propose(1, value);
    world.settle();
    world.get(1).takeSnapshot(0);
    three.start();
    world.tick(1, 2);
    const isHalf = () => world.network.some((message) => message.kind === 'snapshotReply' && message.offset === 24);
    for (let steps = 0; !isHalf() && steps < 100; steps++) world.deliver(0);
    expect(isHalf()).toBe(true);
    // The answer is lost, and meanwhile the stream; the next one is shorter than what the follower has of this one.
    world.network = [];
    world.get(1).loseStreams();
    padding = 0;
    world.tickAll(3 * world.bounds.electionTicks);
    expect(three.machine).toEqual(['x', 'y']);
  });

  test('25 an old or known snapshot is acknowledged, not applied, and replication goes on', () => {
    const raft = replica({ hardState: { term: 1, vote: 0, commit: 2 }, entries: rows(1, 1, 1) });
    const configuration = initialConfiguration([1, 2, 3]);
    const chunk = { kind: 'snapshotChunk', from: 2, term: 1, session: 2, offset: 0, done: true } as const;
    const bytes = new Uint8Array(3);
    const old = to(raft, { ...chunk, snapshot: { index: 1, term: 1, configuration }, bytes });
    expect(old.snapshotWrites).toEqual([]);
    expect(old.messages).toMatchObject([{ kind: 'appendReply', success: true, index: 2 }]);
    // In the log already, though not known as committed: nothing to install either.
    const known = to(raft, { ...chunk, snapshot: { index: 3, term: 1, configuration }, bytes });
    expect(known.snapshotWrites).toEqual([]);
    expect(known).toMatchObject({ commit: 3, messages: [{ kind: 'appendReply', success: true, index: 3 }] });
  });

  test('25 a leader whose log was compacted past the snapshot under way sends the next one', () => {
    const world = group();
    const three = world.get(3);
    three.crash();
    for (const value of ['x', 'y']) world.propose(1, value);
    world.settle();
    world.get(1).takeSnapshot(0);
    three.diskMode = 'manual';
    three.start();
    world.tick(1, 2);
    world.settle();
    expect(three.tasks).toHaveLength(1);
    world.propose(1, 'z');
    world.settle();
    world.get(1).takeSnapshot(0);
    three.diskMode = 'auto';
    while (three.runTask()) {}
    three.pump();
    world.settle();
    expect(three.machine).toEqual(['x', 'y', 'z']);
  });
});
