// Where shards should be: every plan ends, at a state in which nobody who leaves holds anything and everybody else holds as much as the others.

import { describe, expect, it } from 'vitest';
import { replicasOf } from '../../cluster/machine/groups.ts';
import { MemberTable, replicasPossible } from '../../cluster/machine/metadata/members.ts';
import { type Move, type PlanView, planPlacement } from '../../cluster/machine/metadata/plan.ts';
import { preferredLeaders } from '../../cluster/machine/metadata/preferences.ts';
import { formedOf } from './metadata-support.ts';
import { randomFrom } from './shard-random.ts';

/** A table with short ways to change it. All nodes are up unless told otherwise. */
class World {
  readonly table: MemberTable;
  readonly down = new Set<number>();
  readonly #format;
  #version = 0;

  constructor(nodes: number, shards: number, replication = 3) {
    this.#format = formedOf(nodes, replication);
    this.table = new MemberTable(this.#format, shards);
  }

  get view(): PlanView {
    const { table } = this;
    return {
      original: this.#format,
      members: () => table.values(),
      placements: () => table.placements(),
      replicas: (group) => table.replicas(group),
    };
  }
  get alive(): Set<number> {
    return new Set([...this.table.values()].map(({ node }) => node).filter((node) => !this.down.has(node)));
  }
  join(name: string, replaces: number | null = null): number {
    const address = { host: name, port: 1 };
    const outcome = this.table.join({ kind: 'joinNode', name, uuid: name, address, replaces }, () => true);
    expect(outcome.refusal).toBeNull();
    return outcome.refusal === null ? outcome.value : 0;
  }
  add(name: string, replaces: number | null = null): number {
    const node = this.join(name, replaces);
    this.table.joined(node);
    return node;
  }
  leave(node: number): void {
    expect(this.table.leave(node, () => true).refusal, `node ${node} leaves`).toBeNull();
  }
  plan(): Move | null {
    return planPlacement(this.view, this.alive);
  }
  begin({ group, target }: Move): void {
    expect(this.table.place({ kind: 'place', group, target }, ++this.#version).refusal).toBeNull();
  }
  end(group: number): void {
    const { target, version } = this.table.placement(group)!;
    const outcome = this.table.placed({ kind: 'placed', group, voters: target!, version }, ++this.#version);
    expect(outcome.refusal).toBeNull();
  }
  /** Makes all moves. Returns how many there were. */
  settle(): number {
    for (let moves = 0; moves < 10_000; moves++) {
      const move = this.plan();
      if (move === null) return moves;
      this.begin(move);
      this.end(move.group);
    }
    return expect.unreachable('the plan does not end');
  }
  voters(): (readonly number[])[] {
    return [...this.table.placements()].map(([, { voters }]) => voters);
  }
  members(): number[] {
    return [...this.table.values()].filter(({ state }) => state === 'member').map(({ node }) => node);
  }
  leaders(): number[] {
    return [...this.table.placements()].map(([group]) => this.table.replicas(group)[0]!);
  }
}

const spread = (nodes: readonly number[], of: readonly number[]): number => {
  const counts = nodes.map((node) => of.filter((other) => other === node).length);
  return Math.max(...counts) - Math.min(...counts);
};

function expectSettled(world: World, context: string): void {
  const members = world.members();
  const size = replicasPossible(world.table.replication, members.length);
  const voters = world.voters();
  for (const line of voters) {
    expect(
      line.every((node) => members.includes(node)),
      `${context}: replicas on members only`,
    ).toBe(true);
    // An even number is one that the cluster was formed with, and that cannot become odd without a replica less.
    if (line.length % 2 === 1) expect(line.length, context).toBe(size);
    else expect(line.length, context).toBe(size + 1);
  }
  expect(spread(members, voters.flat()), `${context}: replicas ${JSON.stringify(voters)}`).toBeLessThanOrEqual(1);
  expect(spread(members, [...world.leaders(), world.table.replicas(0)[0]!]), `${context}: leaders`).toBeLessThanOrEqual(
    1,
  );
}

describe('The plan', () => {
  it('leaves a cluster that was just formed as it is, whatever its size', () => {
    for (let nodes = 1; nodes <= 7; nodes++)
      for (const replication of [1, 3, 5, 7]) {
        const world = new World(nodes, 12, replication);
        expect(world.plan(), `${nodes} nodes, ${replication} replicas`).toBeNull();
        const line = Array.from({ length: nodes }, (_, i) => i + 1);
        for (let group = 0; group <= 12; group++)
          expect([...world.table.replicas(group)]).toEqual(replicasOf(group, line, replication));
      }
  });

  it('grows from one node to three, and from three to five, with as few moves as it takes', () => {
    const world = new World(1, 12);
    world.add('n2');
    expect(world.plan(), 'two nodes hold no more than one').toMatchObject({ target: [2] });
    expect(world.settle()).toBe(6);
    world.add('n3');
    expect(world.settle()).toBe(12);
    expectSettled(world, 'three nodes');
    world.add('n4');
    world.add('n5');
    expect(world.settle()).toBe(14);
    expectSettled(world, 'five nodes');
  });

  it('empties a node that leaves, one replica at a time, and shrinks only when there are too few', () => {
    const world = new World(5, 12);
    world.leave(5);
    const held = world.voters().filter((voters) => voters.includes(5)).length;
    const first = world.plan()!;
    const before = world.table.placement(first.group)!.voters;
    expect(first.target.filter((node) => !before.includes(node)).length).toBe(1);
    expect(world.settle()).toBeLessThanOrEqual(held + 2);
    expectSettled(world, 'four nodes');
    expect(world.table.gone(5).refusal).toBeNull();
    for (const node of [4, 3, 2]) {
      world.leave(node);
      world.settle();
      expectSettled(world, `without ${node}`);
      expect(world.table.gone(node).refusal).toBeNull();
    }
    expect(world.voters().every((voters) => voters.length === 1 && voters[0] === 1)).toBe(true);
  });

  it('takes replicas off nodes that are away before those that are up, and gives none to either', () => {
    const world = new World(5, 12);
    world.down.add(3);
    world.leave(3);
    world.leave(1);
    for (let move = world.plan(); move !== null; move = world.plan()) {
      const { voters } = world.table.placement(move.group)!;
      if (voters.includes(3)) expect(move.target).not.toContain(3);
      expect(move.target.filter((node) => !voters.includes(node) && (node === 3 || node === 1))).toEqual([]);
      world.begin(move);
      world.end(move.group);
    }
    expectSettled(world, 'two nodes less');
  });

  it('does not give replicas up while the node that replaces another is still joining', () => {
    const world = new World(3, 6);
    world.down.add(2);
    const node = world.join('n4', 2);
    expect(world.plan()).toBeNull();
    world.table.joined(node);
    expect(world.plan()).toMatchObject({ target: [1, 3, 4] });
    world.settle();
    expectSettled(world, 'replaced');
    expect(world.members()).toEqual([1, 3, 4]);
  });

  it('waits for a member that is away rather than to hold fewer replicas', () => {
    const world = new World(4, 1);
    expect(world.voters()).toEqual([[1, 2, 3]]);
    world.down.add(4);
    world.leave(3);
    expect(world.plan()).toBeNull();
    world.down.clear();
    expect(world.plan()).toEqual({ group: 1, target: [1, 2, 4] });
  });

  it('moves one shard at a time, and takes a move back whose new node is gone', () => {
    const world = new World(3, 6);
    const node = world.add('n4');
    const move = world.plan()!;
    expect(move.target).toContain(node);
    world.begin(move);
    expect(world.plan(), 'it is under way').toBeNull();
    world.down.add(node);
    const back = world.plan()!;
    expect(back).toEqual({ group: move.group, target: [1, 2, 3] });
    world.begin(back);
    expect(world.plan(), 'the way back is never given up').toBeNull();
    world.end(back.group);
    expect(world.plan(), 'nobody to give anything to').toBeNull();
    world.down.clear();
    expect(world.plan()).toEqual(move);
  });

  it('waits for nobody who leaves when a move is taken back: the shard may have done without him already', () => {
    const world = new World(5, 1);
    const [gone, ...others] = world.table.placement(1)!.voters as [number, ...number[]];
    world.down.add(gone);
    world.leave(gone);
    const move = world.plan()!;
    const added = move.target.find((node) => !others.includes(node))!;
    world.begin(move);
    world.down.add(added);
    const back = world.plan()!;
    expect(back.target).toEqual([gone, ...others]);
    world.begin(back);
    const next = world.plan()!;
    for (const node of [gone, added]) expect(next.target).not.toContain(node);
    expect(next.target).toEqual(expect.arrayContaining(others));
    world.begin(next);
    expect(world.plan(), 'that one goes on').toBeNull();
  });

  it('leaves alone a shard whose majority is away', () => {
    const world = new World(5, 5);
    world.down.add(1);
    world.down.add(2);
    world.leave(1);
    const stuck = [...world.table.placements()].filter(
      ([, { voters }]) => voters.filter((node) => node > 2).length * 2 <= voters.length,
    );
    expect(stuck.length).toBeGreaterThan(0);
    world.settle();
    for (const [group, { voters }] of stuck) expect(world.table.placement(group)!.voters).toEqual(voters);
  });

  it('ends, balanced within one, from any state', () => {
    const seed = Number(process.env.SEED ?? Date.now() % 1e9);
    const random = randomFrom(seed);
    for (let round = 0; round < 150; round++) {
      const world = new World(1 + random(6), 1 + random(24), [1, 3, 5, 7][random(4)]!);
      world.add('first');
      for (let change = 0; change < 6; change++) {
        const line = world.members();
        const kind = line.length === 0 ? 3 : random(4);
        if (kind === 0 && line.length < 7) world.add(`round${round}-${change}`);
        else if (kind === 1) world.table.leave(line[random(line.length)]!, () => true);
        else if (kind === 2) world.down.add(line[random(line.length)]!);
        else {
          // Interrupted anywhere.
          for (let moves = random(8); moves > 0; moves--) {
            const move = world.plan();
            if (move === null) break;
            world.begin(move);
            if (moves > 1 || random(2) === 0) world.end(move.group);
          }
        }
        if (random(2) === 0) world.down.clear();
      }
      world.down.clear();
      for (const [group, { target }] of world.table.placements()) if (target !== null) world.end(group);
      world.settle();
      expectSettled(world, `seed ${seed} round ${round}`);
    }
  });
});

describe('Preferred leaders', () => {
  it('are spread evenly over those who may lead, by chains of hand-overs where it takes them', () => {
    const groups = new Map([
      [0, [1, 2]],
      [1, [1, 2]],
      [2, [2, 3]],
      [3, [1, 2]],
      [4, [1, 2]],
      [5, [2, 3]],
    ]);
    const leaders = preferredLeaders(groups, [1], () => true);
    expect(spread([1, 2, 3], [...leaders.values()])).toBe(0);
    for (const [group, leader] of leaders) expect(groups.get(group)).toContain(leader);
  });

  it('are none that leave, unless nobody else has it', () => {
    const leaders = preferredLeaders(
      new Map([
        [0, [1, 2]],
        [1, [2]],
        [2, [1, 2]],
      ]),
      [1, 2],
      (node) => node !== 2,
    );
    expect([...leaders.values()]).toEqual([1, 2, 1]);
  });
});
