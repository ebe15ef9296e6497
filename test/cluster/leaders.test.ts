// Who leads a group that has no replica here: claims, answers, and whom to ask when there are none.

import { describe, expect, test } from 'vitest';
import { volatileGroupOf } from '../../cluster/machine/groups.ts';
import { Leaders } from '../../cluster/peers/leaders.ts';
import { Peers } from '../../cluster/peers/peers.ts';

/** Node 1 among five; the group's replicas are on 3, 4 and 5. */
function setting(local: { leader: number; term: number } | null = null) {
  const peers = new Peers([2, 3, 4, 5], 50);
  const unreachable = new Set<number>();
  const learned: number[] = [];
  let sequence = 0;
  const state = { local, hasPipe: true };
  const leaders = new Leaders({
    node: 1,
    peers,
    replicas: () => [3, 4, 5],
    local: () => state.local,
    via: (node) => (unreachable.has(node) ? 0 : node),
    learned: (group) => {
      learned.push(group);
      return state.hasPipe;
    },
  });
  /** A node claims group 7 in a term; 0: it leads nothing. */
  const claims = (node: number, term: number) => {
    peers.heard(node, 1, true);
    peers.told(node, {
      sequence: ++sequence,
      clock: 0,
      metadataApplied: 0,
      metadataHalted: false,
      heard: [],
      connected: [],
      led: new Map(term === 0 ? [] : [[7, term]]),
      followed: new Map(),
      damaged: [],
      members: [],
      processes: new Map(),
      disk: 'ok',
    });
    leaders.refresh();
  };
  return { leaders, unreachable, learned, claims, state };
}

describe('the leader of a group', () => {
  test('with a replica here is the one that its core follows', () => {
    const { leaders, claims } = setting({ leader: 4, term: 6 });
    claims(5, 9);
    expect([leaders.leaderOf(7), leaders.targetOf(7)]).toEqual([4, 4]);
  });

  test('with a replica here that knows none is claimed by somebody of that term or a later one', () => {
    const { leaders, claims } = setting({ leader: 0, term: 6 });
    claims(5, 5);
    expect([leaders.leaderOf(7), leaders.targetOf(7)]).toEqual([0, 0]);
    claims(4, 6);
    expect(leaders.targetOf(7)).toBe(4);
  });

  test('is the one who claims it with the highest term, of those that can be reached', () => {
    const { leaders, claims, unreachable } = setting();
    claims(3, 5);
    claims(4, 6);
    expect(leaders.leaderOf(7)).toBe(4);
    unreachable.add(4);
    expect(leaders.leaderOf(7)).toBe(3);
    claims(3, 0);
    expect(leaders.leaderOf(7)).toBe(0);
  });

  test('of a volatile group is its node, whatever anybody says', () => {
    const { leaders, learned, unreachable } = setting();
    const group = volatileGroupOf({ node: 5, incarnation: 77 });
    leaders.answered(5, group, 3);
    expect([leaders.leaderOf(group), leaders.targetOf(group)]).toEqual([5, 5]);
    unreachable.add(5);
    leaders.refresh();
    expect(leaders.targetOf(group)).toBe(0);
    unreachable.clear();
    leaders.refresh();
    expect(learned).toEqual([group]);
  });
});

describe('when nobody claims it', () => {
  test('a replica is asked, then the next one', () => {
    const { leaders, unreachable } = setting();
    expect(leaders.targetOf(7)).toBe(3);
    leaders.answered(3, 7, 0);
    expect(leaders.targetOf(7)).toBe(4);
    leaders.answered(4, 7, 0);
    leaders.answered(5, 7, 0);
    expect(leaders.targetOf(7)).toBe(3);
    unreachable.add(3);
    expect(leaders.targetOf(7)).toBe(4);
    for (const node of [4, 5]) unreachable.add(node);
    expect(leaders.targetOf(7)).toBe(0);
  });

  test('what it answers is believed, until a later claim', () => {
    const { leaders, claims, learned } = setting();
    expect(leaders.targetOf(7)).toBe(3);
    leaders.answered(3, 7, 5);
    expect(learned).toEqual([7]);
    expect([leaders.leaderOf(7), leaders.targetOf(7)]).toEqual([5, 5]);
    claims(4, 2);
    expect(leaders.leaderOf(7)).toBe(4);
    expect(learned).toEqual([7, 7]);
  });

  test('a claim that its own node denies counts no more, a later one does', () => {
    const { leaders, claims } = setting();
    claims(4, 6);
    leaders.answered(4, 7, 0);
    expect(leaders.leaderOf(7)).toBe(0);
    expect(leaders.targetOf(7)).not.toBe(0);
    claims(4, 8);
    expect(leaders.leaderOf(7)).toBe(4);
  });

  test('an answer of somebody who is not believed to lead changes nothing', () => {
    const { leaders, claims } = setting();
    claims(4, 6);
    leaders.answered(3, 7, 0);
    leaders.answered(3, 7, 5);
    expect(leaders.leaderOf(7)).toBe(4);
  });

  test('nodes that name each other make it send once in a tick', () => {
    const { leaders, learned } = setting();
    leaders.targetOf(7);
    for (let i = 0; i < 10; i++) {
      leaders.answered(3, 7, 4);
      leaders.answered(4, 7, 3);
    }
    expect(learned).toEqual([7]);
    leaders.tick();
    leaders.targetOf(7);
    leaders.answered(leaders.leaderOf(7), 7, 5);
    expect(learned).toEqual([7, 7]);
  });

  test('a node is never sent to itself', () => {
    const { leaders } = setting();
    leaders.answered(3, 7, 1);
    expect(leaders.targetOf(7)).not.toBe(1);
  });
});

describe('who waits is told', () => {
  test('once, when there is a leader, and again when it is another or reached another way', () => {
    const { leaders, claims, learned, unreachable } = setting();
    for (const node of [2, 3, 4, 5]) unreachable.add(node);
    expect(leaders.targetOf(7)).toBe(0);
    leaders.refresh();
    expect(learned).toEqual([]);
    unreachable.clear();
    leaders.refresh();
    leaders.refresh();
    expect(learned).toEqual([7]);
    claims(5, 3);
    expect(learned).toEqual([7, 7]);
    claims(5, 4);
    expect(learned).toEqual([7, 7]);
  });

  test('not of groups that nothing was sent to, nor when its pipe is gone', () => {
    const { leaders, claims, learned, state } = setting();
    claims(5, 3);
    expect(learned).toEqual([]);
    leaders.targetOf(7);
    state.hasPipe = false;
    claims(4, 4);
    claims(3, 5);
    expect(learned).toEqual([7]);
  });
});
