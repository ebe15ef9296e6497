// Who belongs to the cluster and where the shards are, as the metadata have it: what is refused, and what holds whatever is asked for.

import { describe, expect, it } from 'vitest';
import { ResultCode } from '../../cluster/machine/commands.ts';
import { membersMax } from '../../cluster/machine/metadata/members.ts';
import { type Move, planPlacement } from '../../cluster/machine/metadata/plan.ts';
import { MemberRefusal, memberRefusalText } from '../../cluster/machine/metadata/refusals.ts';
import { MetadataMachine } from '../../cluster/machine/metadata.ts';
import type { MetadataCommand } from '../../cluster/machine/metadata-types.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { Bench, type CommandOf, declareQueue, formedOf, openNode } from './metadata-support.ts';
import { randomFrom } from './shard-random.ts';

const join = (name: string, rest: Partial<CommandOf<'joinNode'>> = {}): CommandOf<'joinNode'> => ({
  kind: 'joinNode',
  name,
  uuid: `uuid-of-${name}`,
  address: { host: name, port: 1 },
  replaces: null,
  ...rest,
});
const leave = (node: number): MetadataCommand => ({ kind: 'leaveNode', node });
const joined = (node: number): MetadataCommand => ({ kind: 'memberJoined', node });
const gone = (node: number): MetadataCommand => ({ kind: 'memberGone', node });
const place = (group: number, ...target: number[]): MetadataCommand => ({ kind: 'place', group, target });
const fence = (node: number, incarnation = 1): MetadataCommand => ({ kind: 'fenceNode', node, incarnation });

/** A cluster that was formed of so many nodes, all of them up. */
function formed(count: number, shards = 3, replication = 3): Bench {
  const bench = new Bench(shards, { initial: formedOf(count, replication) });
  for (let node = 1; node <= count; node++) bench.run(openNode(1, node));
  return bench;
}

/** Why the command is refused; null: it is not. */
function refusal(bench: Bench, command: MetadataCommand): MemberRefusal | null {
  const [code, value] = bench.run(command)[0]!;
  if (code === ResultCode.ok) return null;
  expect(code).toBe(ResultCode.refused);
  return value as MemberRefusal;
}

/** Lets a node in, and opens it. */
function add(bench: Bench, name: string, replaces: number | null = null): number {
  const [code, node] = bench.run(join(name, { replaces }))[0]!;
  expect(code).toBe(ResultCode.ok);
  bench.run(openNode(1, node, `uuid-of-${name}`, name), joined(node));
  return node;
}

const placed = (bench: Bench, group: number): MetadataCommand => {
  const { target, version } = bench.machine.placement(group)!;
  return { kind: 'placed', group, voters: target!, version };
};

const stateOf = (bench: Bench, node: number) => bench.machine.member(node)?.state;

describe('A node', () => {
  it('that joins gets a number that no other had, and the same one for the same UUID', () => {
    const bench = formed(3);
    expect(bench.run(join('n4'))).toEqual([[ResultCode.ok, 4]]);
    expect(bench.run(join('n5'))).toEqual([[ResultCode.ok, 5]]);
    expect(bench.run(join('n4', { address: { host: 'elsewhere', port: 2 } }))).toEqual([[ResultCode.ok, 4]]);
    expect(bench.machine.member(4)).toMatchObject({ state: 'joining', address: { host: 'elsewhere', port: 2 } });
    bench.run(leave(5), gone(5));
    expect(stateOf(bench, 5)).toBe('gone');
    expect(bench.run(join('n6'))).toEqual([[ResultCode.ok, 6]]);
    expect(refusal(bench, join('n5'))).toBe(MemberRefusal.nodeGone);
    expect(refusal(bench, join('n5', { uuid: 'other' }))).toBe(MemberRefusal.nameTaken);
  });

  it('is a member when it votes, and not before', () => {
    const bench = formed(1);
    bench.run(join('n2'));
    expect(bench.machine.replicas(0)).toEqual([1]);
    expect(refusal(bench, place(1, 2))).toBe(MemberRefusal.badTarget);
    expect(refusal(bench, joined(2))).toBeNull();
    expect(refusal(bench, joined(2))).toBeNull();
    expect([...bench.machine.replicas(0)].sort()).toEqual([1, 2]);
    expect(refusal(bench, place(1, 2))).toBeNull();
    expect(refusal(bench, joined(9))).toBe(MemberRefusal.unknownNode);
  });

  it('opens only as what it is known as', () => {
    const bench = formed(2);
    bench.run(join('n3'));
    expect(refusal(bench, openNode(1, 3, 'another', 'n3'))).toBe(MemberRefusal.otherData);
    expect(refusal(bench, openNode(1, 4))).toBe(MemberRefusal.unknownNode);
    expect(refusal(bench, openNode(1, 3, 'uuid-of-n3', 'n1'))).toBe(MemberRefusal.nameTaken);
    expect(refusal(bench, openNode(1, 3, 'uuid-of-n3', 'n3'))).toBeNull();
    expect(
      refusal(bench, { ...openNode(2, 3, 'uuid-of-n3', 'n3'), address: { host: 'h', port: 9 } } as MetadataCommand),
    ).toBeNull();
    expect(bench.machine.member(3)!.address).toEqual({ host: 'h', port: 9 });
    expect(refusal(bench, openNode(1, 3, 'uuid-of-n3', 'n3'))).toBe(MemberRefusal.newerProcess);
  });

  it('that is gone has ended for ever, with its queues', () => {
    const bench = formed(3);
    const node = add(bench, 'n4');
    bench.run(declareQueue('q', { durable: false, home: { node, incarnation: 1 } }));
    bench.run(leave(node));
    expect(bench.machine.isOpen(node, 1)).toBe(true);
    expect(refusal(bench, gone(node))).toBeNull();
    expect(bench.machine.isOpen(node, 1)).toBe(false);
    expect(bench.machine.queue('/', 'q')).toBeUndefined();
    for (let shard = 1; shard <= 3; shard++)
      expect(bench.machine.changes(shard, bench.index - 1, bench.index)).toMatchObject([
        { kind: 'fence', node: 4, incarnation: 1 },
      ]);
    expect(refusal(bench, openNode(2, node, 'uuid-of-n4', 'n4'))).toBe(MemberRefusal.nodeGone);
    expect(refusal(bench, leave(node))).toBe(MemberRefusal.nodeGone);
    expect(refusal(bench, gone(node))).toBeNull();
  });

  it('is gone only when it was asked to leave and holds nothing', () => {
    const bench = formed(3);
    add(bench, 'n4');
    expect(refusal(bench, gone(3))).toBe(MemberRefusal.notLeaving);
    expect(refusal(bench, leave(3))).toBeNull();
    expect(refusal(bench, leave(3))).toBeNull();
    expect(refusal(bench, gone(3))).toBe(MemberRefusal.hasReplicas);
    for (let group = 1; group <= 3; group++) bench.run(place(group, 1, 2, 4), placed(bench, group));
    expect(refusal(bench, gone(3))).toBe(MemberRefusal.hasReplicas);
    for (let group = 1; group <= 3; group++) {
      bench.run(place(group, 1, 2, 4));
      bench.run(placed(bench, group));
    }
    expect(refusal(bench, gone(3))).toBeNull();
  });

  it('does not leave when the others could not go on', () => {
    const one = formed(1);
    expect(refusal(one, leave(1))).toBe(MemberRefusal.lastNode);
    expect(refusal(one, leave(2))).toBe(MemberRefusal.unknownNode);

    const three = formed(3);
    three.run(fence(3));
    expect(refusal(three, leave(1))).toBe(MemberRefusal.tooFewUp);
    expect(refusal(three, leave(3)), 'the dead one may').toBeNull();

    const five = formed(5, 5);
    five.run(fence(4), fence(5));
    // Shards on 3, 4, 5 and on 1, 4, 5 cannot be moved away from anybody.
    expect(refusal(five, leave(5))).toBe(MemberRefusal.shardDown);
    expect(refusal(five, leave(2))).toBe(MemberRefusal.tooFewUp);
  });

  it('leaves on its own where that costs a replica', () => {
    const bench = formed(4);
    expect(refusal(bench, leave(4))).toBeNull();
    expect(refusal(bench, leave(3))).toBe(MemberRefusal.oneAtATime);
    for (let move = planAll(bench); move !== null; move = planAll(bench)) {
      bench.run(place(move.group, ...move.target));
      bench.run(placed(bench, move.group));
    }
    expect(refusal(bench, gone(4))).toBeNull();
    expect(refusal(bench, leave(3))).toBeNull();
    const six = formed(6);
    expect(refusal(six, leave(6))).toBeNull();
    expect(refusal(six, leave(5)), 'still enough for three').toBeNull();
  });

  it('takes the place of another in one step', () => {
    const bench = formed(3);
    bench.run(fence(2));
    expect(refusal(bench, join('n4', { replaces: 9 }))).toBe(MemberRefusal.unknownNode);
    expect(bench.run(join('n4', { replaces: 2 }))).toEqual([[ResultCode.ok, 4]]);
    expect(stateOf(bench, 2)).toBe('leaving');
    expect(bench.run(join('n4', { replaces: 2 })), 'asked again').toEqual([[ResultCode.ok, 4]]);
    expect(refusal(bench, leave(4)), 'and may be given up').toBeNull();
    expect(refusal(formed(1), join('n2', { replaces: 1 })), 'even the only one').toBeNull();
  });

  it('is refused where there is no room for it', () => {
    const bench = formed(membersMax);
    expect(refusal(bench, join('more'))).toBe(MemberRefusal.tooManyNodes);
    expect(refusal(bench, join('more', { replaces: 1 }))).toBeNull();
    const other = formed(1);
    other.run(join('n2'));
    expect(refusal(other, join('n3', { address: { host: 'n2', port: 1 } }))).toBe(MemberRefusal.addressTaken);
    for (let i = 2; i < 1023; i++) other.run(leave(i), gone(i), join(`x${i}`));
    expect(other.machine.member(1023)).toBeDefined();
    other.run(leave(1023));
    expect(refusal(other, join('last'))).toBe(MemberRefusal.numbersUsedUp);
  });
});

const planAll = (bench: Bench) =>
  planPlacement(bench.machine, new Set([...bench.machine.members()].map(({ node }) => node)));

describe('A placement', () => {
  it('has a target while its shard moves, one shard at a time', () => {
    const bench = formed(5, 3);
    expect(bench.machine.placement(1)).toEqual({ voters: [1, 2, 3], target: null, version: 0 });
    expect(refusal(bench, place(1, 1, 2, 4))).toBeNull();
    const { version } = bench.machine.placement(1)!;
    expect(version).toBe(bench.index);
    expect(refusal(bench, place(1, 1, 2, 4)), 'said twice').toBeNull();
    expect(bench.machine.placement(1)!.version).toBe(version);
    expect(refusal(bench, place(2, 1, 2, 3))).toBe(MemberRefusal.anotherMoves);
    expect(refusal(bench, place(2, 2, 3, 4)), 'where it is anyway').toBeNull();
    bench.run(placed(bench, 1));
    expect(bench.machine.placement(1)).toEqual({ voters: [1, 2, 4], target: null, version: bench.index });
    expect(bench.machine.placement(4)).toBeUndefined();
  });

  it('can be taken back, and no late word ends another move than its own', () => {
    const bench = formed(5, 3);
    bench.run(place(1, 1, 2, 4));
    const first = placed(bench, 1);
    expect(refusal(bench, place(1, 1, 2, 3)), 'taken back').toBeNull();
    expect(refusal(bench, first)).toBe(MemberRefusal.moveIsOver);
    expect(bench.machine.placement(1)).toMatchObject({ voters: [1, 2, 3], target: [1, 2, 3] });
    bench.run(placed(bench, 1));
    bench.run(place(1, 1, 2, 4));
    expect(refusal(bench, first), 'of the first attempt').toBe(MemberRefusal.moveIsOver);
    const second = placed(bench, 1);
    expect(refusal(bench, second)).toBeNull();
    expect(refusal(bench, second), 'by another leader').toBeNull();
  });

  it.each<[string, number, number[], MemberRefusal]>([
    ['an even number', 1, [1, 2], MemberRefusal.badTarget],
    ['out of order', 1, [2, 1, 4], MemberRefusal.badTarget],
    ['the same twice', 1, [1, 1, 2], MemberRefusal.badTarget],
    ['more than are wanted', 1, [1, 2, 3, 4, 5], MemberRefusal.badTarget],
    ['no member', 1, [1, 2, 9], MemberRefusal.badTarget],
    ['a shard that is none', 9, [1, 2, 4], MemberRefusal.unknownShard],
    ['the metadata', 0, [1, 2, 4], MemberRefusal.unknownShard],
  ])('is not %s', (_, group, target, why) => {
    const bench = formed(5);
    const hash = bench.machine.membersVersion;
    expect(refusal(bench, place(group, ...target))).toBe(why);
    expect(bench.machine.membersVersion).toBe(hash);
  });

  it('gives nothing to a node that leaves', () => {
    const bench = formed(5);
    bench.run(leave(5));
    expect(refusal(bench, place(1, 1, 2, 5))).toBe(MemberRefusal.badTarget);
  });
});

describe('Members', () => {
  it('have a sentence for every refusal', () => {
    const sentences = Object.values(MemberRefusal).map(memberRefusalText);
    expect(new Set(sentences).size).toBe(sentences.length);
    expect(sentences.every((sentence) => sentence.length > 10)).toBe(true);
    expect(memberRefusalText(999)).toBe('refused');
  });

  it('keep to the rules whatever is asked for, and are the same on a replica that starts from a snapshot', () => {
    const seed = Number(process.env.SEED ?? Date.now() % 1e9);
    const random = randomFrom(seed);
    for (let round = 0; round < 12; round++) {
      const bench = formed(1 + random(5), 1 + random(6), [1, 3, 5][random(3)]!);
      const { machine } = bench;
      const numbers = new Map([...machine.members()].map(({ node, name }) => [node, name]));
      for (let step = 0; step < 60; step++) {
        // Not 1, which speaks: with its end nothing more would be heard.
        const node = 2 + random(8);
        const group = 1 + random(7);
        const kinds: (() => MetadataCommand | Move)[] = [
          () => join(`m${random(8)}`, { replaces: random(3) === 0 ? node : null }),
          () => leave(node),
          () => joined(node),
          () => gone(node),
          () => place(group, ...[...new Set([1 + random(8), 1 + random(8), 1 + random(8)])].sort((a, b) => a - b)),
          () => planAll(bench) ?? { group, target: [node] },
          () => ({
            kind: 'placed',
            group,
            voters: machine.placement(group)?.target ?? [1],
            version: machine.placement(group)?.version ?? 0,
          }),
          () =>
            openNode(
              1 + random(3),
              node,
              machine.member(node)?.uuid || `uuid-${node}`,
              machine.member(node)?.name ?? 'x',
            ),
          () => fence(node, 1 + random(2)),
        ];
        const made = kinds[random(kinds.length)]!();
        bench.run('kind' in made ? made : place(made.group, ...made.target));
        check(bench, numbers, `seed ${seed} round ${round} step ${step}`);
      }
      const copy = new MetadataMachine({ shards: machine.status().queuesPerShard.length, initial: machine.original });
      const before = copy.membersVersion;
      const bytes = Buffer.concat(drain(machine.snapshot()));
      copy.restore(bytes);
      expect(copy.membersVersion).toBeGreaterThan(before);
      expect(copy.stateHash(), `seed ${seed} round ${round}`).toBe(machine.stateHash());
      expect(Buffer.concat(drain(copy.snapshot())).equals(bytes)).toBe(true);
      for (const [group] of machine.placements()) expect(copy.replicas(group)).toEqual(machine.replicas(group));
    }
  });
});

function check({ machine }: Bench, numbers: Map<number, string>, context: string): void {
  const members = [...machine.members()];
  expect(members.length, context).toBe(new Set(members.map(({ name }) => name)).size);
  for (const { node, name } of members) {
    expect(numbers.get(node) ?? name, `${context}: numbers are never given again`).toBe(name);
    numbers.set(node, name);
  }
  let moving = 0;
  for (const [group, { voters, target, version }] of machine.placements()) {
    if (target !== null) moving++;
    for (const line of [voters, target ?? voters]) {
      if (version > 0 && line !== voters)
        expect(line.length % 2 === 1 || line.join() === voters.join(), context).toBe(true);
      for (const node of line) expect(machine.member(node)!.state, context).not.toMatch(/gone|joining/);
    }
    expect([...machine.replicas(group)].sort((a, b) => a - b)).toEqual(voters);
  }
  expect(moving, context).toBeLessThanOrEqual(1);
  for (const { node, state } of members)
    if (state === 'gone') expect(machine.isOpen(node, machine.node(node)?.incarnation ?? 0)).toBe(false);
}
