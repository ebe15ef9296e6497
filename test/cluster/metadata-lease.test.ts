// Leases on the metadata: whoever may route has all that was declared and answered, whatever the network, the clocks and the leaders do.
// The world checks that after every step; each test here brings about one way in which it could fail, and the last one many at random.

import { describe, expect, test } from 'vitest';
import { LeaseHolder } from '../../cluster/lease/lease-holder.ts';
import { LeaseKeeper } from '../../cluster/lease/lease-keeper.ts';
import {
  decodeLeaseGrant,
  decodeLeaseRequest,
  decodeVisible,
  encodeLeaseGrant,
  encodeLeaseRequest,
  encodeVisible,
} from '../../cluster/lease/lease-wire.ts';
import { defaultLimits } from '../../cluster/options.ts';
import { FrameKind } from '../../cluster/peers/wire.ts';
import { type Declaration, LeaseWorld } from './lease-world.ts';

const { milliseconds: leaseMilliseconds } = defaultLimits.lease;

function started(count: number, seed: number): LeaseWorld {
  const world = new LeaseWorld(count, seed);
  expect(world.settle()).toBe(true);
  // A new leader assumes that everybody holds a lease.
  world.run(leaseMilliseconds + 100);
  return world;
}

const others = (world: LeaseWorld, ...nodes: number[]) => world.rows.filter(({ node }) => !nodes.includes(node));
const isAnswered = (declaration: Declaration) => () => declaration.answeredAt !== null;

describe('a healthy cluster', () => {
  test('every node holds a lease without a gap, by one request a second', () => {
    const world = started(3, 1);
    const before = world.looks.stale;
    world.run(60_000);
    expect(world.looks.stale).toBe(before);
    expect(world.rows.map(({ gained }) => gained)).toEqual([1, 1, 1]);
  });

  test('a declaration is answered within a few round trips, whoever is asked', () => {
    const world = started(5, 2);
    for (const { node } of world.rows) {
      const declaration = world.node(node).declare(`q${node}`);
      expect(world.until(isAnswered(declaration), 1_000)).toBe(true);
      // To the leader, to the followers and back, the commit to everybody, and word of it.
      expect(declaration.answeredAt! - declaration.at, `through node ${node}`).toBeLessThanOrEqual(6);
    }
  });

  test('a single node is its own keeper, and answers at once', () => {
    const world = new LeaseWorld(1, 3);
    expect(world.until(() => world.node(1).isFresh, 3_000)).toBe(true);
    const declaration = world.node(1).declare('q');
    expect(declaration).toMatchObject({ isVisible: true, answeredAt: declaration.at });
  });
});

describe('a node that is cut off', () => {
  test('holds a declaration up until its lease is over, and no longer', () => {
    const world = started(3, 4);
    const cut = others(world, world.leader()!.node)[0]!;
    const asked = others(world, world.leader()!.node, cut.node)[0]!;
    world.isolate(cut.node);
    const declaration = asked.declare('q');
    world.run(500);
    expect(declaration.answeredAt).toBeNull();
    expect(cut.isFresh).toBe(true);
    expect(world.until(isAnswered(declaration), leaseMilliseconds + 200)).toBe(true);
    expect(cut.isFresh).toBe(false);
    const next = asked.declare('q2');
    expect(world.until(isAnswered(next), 10)).toBe(true);
    world.heal();
    expect(world.settle()).toBe(true);
  });

  test('holds a lease from the sending of its request, however late the grant came', () => {
    const world = started(3, 5);
    world.frameDelay = (kind) => (kind === FrameKind.leaseGrant ? 2_000 : 0);
    world.run(5_000);
    const leader = world.leader()!;
    const slow = others(world, leader.node)[0]!;
    const before = slow.gained;
    expect(world.until(() => slow.gained > before, 5_000)).toBe(true);
    world.isolate(slow.node);
    const declaration = leader.declare('q');
    expect(world.until(isAnswered(declaration), 2 * leaseMilliseconds)).toBe(true);
    expect(slow.isFresh).toBe(false);
  });

  test('that is slow, and keeps up, holds declarations up by no more than that', () => {
    const world = started(3, 25);
    const leader = world.leader()!;
    const slow = others(world, leader.node)[0]!;
    world.delay = (from, to) => (from === slow.node || to === slow.node ? 50 : 1);
    world.run(5_000);
    for (let i = 0; i < 40; i++) {
      const declaration = leader.declare(`q${i}`);
      expect(world.until(isAnswered(declaration), 102)).toBe(true);
    }
    expect(world.rows.every(({ isFresh }) => isFresh)).toBe(true);
  });

  test('tells of its loss, and of its gain; overdue again and again while it lasts', () => {
    const world = started(3, 6);
    const cut = others(world, world.leader()!.node)[0]!;
    world.isolate(cut.node);
    world.run(10_000);
    expect([cut.gained, cut.overdue]).toEqual([1, 0]);
    world.run(10_000);
    expect(cut.overdue).toBeGreaterThan(10);
    world.heal();
    expect(world.settle()).toBe(true);
    expect([cut.gained, cut.lost]).toEqual([2, 1]);
  });

  test('who waits for longer than a publish may take is told that nobody knows', () => {
    const world = started(3, 7);
    const [asked, cut] = others(world, world.leader()!.node);
    world.isolate(cut!.node);
    const { appliedIndex } = asked!;
    const declaration = asked!.declare('q');
    expect(world.until(() => asked!.appliedIndex > appliedIndex, 100)).toBe(true);
    world.isolate(asked!.node);
    world.run(defaultLimits.pipe.deadlineMilliseconds - 500);
    expect(declaration.answeredAt).toBeNull();
    world.run(600);
    expect(declaration.isVisible).toBe(false);
  });
});

describe('leaders of the metadata', () => {
  test('a new one takes everybody to hold a lease: one that it knows nothing of is still good', () => {
    const world = started(5, 8);
    const old = world.leader()!;
    const [holder, ...rest] = others(world, old.node);
    world.isolate(holder!.node);
    old.kill();
    for (const row of rest) row.run(() => row.raft.leaderLost(row === rest[0] ? 0 : 10));
    expect(world.until(() => rest[0]!.leads, 100)).toBe(true);
    const declaration = rest[1]!.declare('q');
    world.run(500);
    expect(declaration.answeredAt).toBeNull();
    expect(holder!.isFresh).toBe(true);
    expect(world.until(isAnswered(declaration), leaseMilliseconds)).toBe(true);
    expect(holder!.isFresh).toBe(false);
  });

  test('a deposed one grants nothing, and what it said stays true', () => {
    const world = started(5, 9);
    const old = world.leader()!;
    const behind = others(world, old.node)[0]!;
    // The old leader keeps one follower, who asks it for leases; the other three go on without them.
    for (const { node } of others(world, old.node, behind.node))
      for (const cut of [old.node, behind.node]) {
        world.cut(node, cut);
        world.cut(cut, node);
      }
    const isElected = () => world.leader() !== old && world.leader() !== undefined;
    expect(world.until(isElected, 5_000)).toBe(true);
    const asked = others(world, old.node, behind.node).find(({ leads }) => !leads)!;
    const declaration = asked.declare('q');
    expect(world.until(isAnswered(declaration), 2 * leaseMilliseconds)).toBe(true);
    expect([old.isFresh, behind.isFresh]).toEqual([false, false]);
    world.heal();
    expect(world.settle()).toBe(true);
  });

  test('a grant does not count a declaration out that was answered while its round was under way', () => {
    const world = started(5, 10);
    const leader = world.leader()!;
    const [far, ...near] = others(world, leader.node);
    world.isolate(far!.node);
    world.run(2 * leaseMilliseconds);
    expect(far!.isFresh).toBe(false);
    // Its request comes through; the round is slow, and a declaration quick.
    world.heal(true);
    world.delay = (from, to) => (from === far!.node || to === far!.node ? 40 : 1);
    for (let i = 0; i < 30; i++) {
      near[i % near.length]!.declare(`q${i}`);
      world.run(7);
    }
    expect(world.settle()).toBe(true);
  });
});

describe('clocks and processes', () => {
  test('a process that stood still has no lease when it goes on, however short it was seen to be', () => {
    const world = started(3, 11);
    const paused = others(world, world.leader()!.node)[0]!;
    paused.pause();
    const declaration = others(world, paused.node)[0]!.declare('q');
    expect(world.until(isAnswered(declaration), leaseMilliseconds + 200)).toBe(true);
    paused.resume();
    expect(world.settle()).toBe(true);
  });

  test('a machine whose monotonic clock stood still with it finds out by its wall clock', () => {
    const world = started(3, 12);
    const paused = others(world, world.leader()!.node)[0]!;
    paused.pause();
    const declaration = others(world, paused.node)[0]!.declare('q');
    expect(world.until(isAnswered(declaration), leaseMilliseconds + 200)).toBe(true);
    paused.stoodStill += 2_000;
    paused.resume();
    expect(paused.gained).toBe(1);
    expect(world.settle()).toBe(true);
    expect(paused.gained).toBe(2);
  });

  test('a short sleep is no step of the clock, and yet the lease ends in time', () => {
    const world = started(3, 26);
    const paused = others(world, world.leader()!.node)[0]!;
    world.isolate(paused.node);
    const declaration = others(world, paused.node)[0]!.declare('q');
    for (let i = 0; i < 2; i++) {
      paused.pause();
      world.run(200);
      paused.stoodStill += 200;
      paused.resume();
    }
    expect(paused.isFresh).toBe(true);
    expect(world.until(isAnswered(declaration), leaseMilliseconds + 200)).toBe(true);
    world.run(500);
  });

  test('a wall clock that jumps costs one request, whichever way', () => {
    const world = started(3, 13);
    const node = others(world, world.leader()!.node)[0]!;
    for (const jump of [3_600_000, -7_200_000]) {
      node.wallOffset += jump;
      expect(node.isFresh).toBe(false);
      expect(world.until(() => node.isFresh, defaultLimits.tickMilliseconds + 20)).toBe(true);
    }
  });

  test('an incarnation that ends, and a replica that stops, end the lease; later it is asked for anew', () => {
    const world = started(3, 14);
    const node = others(world, world.leader()!.node)[0]!;
    node.lease.ended();
    expect(node.isFresh).toBe(false);
    expect(world.until(() => node.isFresh, 200)).toBe(true);
    node.halted = new Error('a bug');
    node.lease.ended();
    world.run(3_000);
    expect(node.isFresh).toBe(false);
    const declaration = others(world, node.node)[0]!.declare('q');
    expect(world.until(isAnswered(declaration), 20)).toBe(true);
    node.halted = null;
    expect(world.settle()).toBe(true);
  });

  test('a node that starts is given nothing before it has come as far as the others, and holds nobody up', () => {
    const world = started(3, 15);
    for (let i = 0; i < 50; i++) {
      world.node((i % 3) + 1).declare(`q${i}`);
      world.run(2);
    }
    const leader = world.leader()!;
    const born = others(world, leader.node)[0]!;
    born.kill();
    world.run(leaseMilliseconds + 200);
    // It can ask, but what it needs does not reach it for long.
    born.start();
    world.cut(leader.node, born.node);
    const declaration = others(world, born.node)[0]!.declare('q');
    expect(world.until(isAnswered(declaration), 30)).toBe(true);
    world.run(2_000);
    expect(born.isFresh).toBe(false);
    world.heal();
    expect(world.settle()).toBe(true);
  });

  test('an answer to an earlier process is no answer', () => {
    const world = started(3, 16);
    const node = others(world, world.leader()!.node)[0]!;
    node.kill();
    world.run(10);
    world.frameDelay = (kind) => (kind === FrameKind.leaseGrant ? 10_000 : 0);
    node.start();
    world.run(1_000);
    for (let number = 1; number < 20; number++)
      node.lease.granted({ number, incarnation: node.incarnation - 1, readIndex: 0, visible: 0 });
    expect(node.isFresh).toBe(false);
  });
});

describe('by hand', () => {
  test('a holder counts a lease once it has applied the read index, the newest that was granted, and never an older one', () => {
    const asked: number[] = [];
    let now = 0;
    let applied: number | null = 10;
    const holder = new LeaseHolder({
      clock: { now: () => now, wall: () => now },
      options: defaultLimits.lease,
      incarnation: 1,
      overdueMilliseconds: 1e9,
      applied: () => applied,
      ask: ({ number }) => asked.push(number) > 0,
      gained: () => {},
      lost: () => {},
      overdue: () => {},
    });
    const grant = (number: number, readIndex: number) =>
      holder.granted({ number, incarnation: 1, readIndex, visible: 0 });
    holder.tick();
    now = 600;
    holder.tick();
    now = 1_200;
    holder.tick();
    expect(asked).toEqual([1, 2, 3]);
    grant(3, 12);
    grant(1, 10);
    expect(holder.isFresh).toBe(true);
    now = 2_499;
    expect(holder.isFresh).toBe(true);
    now = 2_500;
    expect(holder.isFresh).toBe(false);
    grant(2, 13);
    applied = 12;
    holder.moved();
    expect(holder.isFresh).toBe(true);
    applied = 13;
    holder.moved();
    now = 3_699;
    expect(holder.isFresh).toBe(true);
    applied = null;
    holder.tick();
    expect(holder.isFresh).toBe(false);
  });

  test('a keeper grants what was said to be visible, also if the round began before that', () => {
    const peers = [
      { node: 2, incarnation: 1, metadataApplied: 10 },
      { node: 3, incarnation: 1, metadataApplied: 10 },
    ];
    const grants: number[] = [];
    let [now, applied, visible] = [0, 10, 0];
    const keeper = new LeaseKeeper({
      node: 1,
      leaseMilliseconds,
      now: () => now,
      peers: () => peers,
      leadingTerm: () => 4,
      applied: () => applied,
      visible: () => visible,
      readIndex: () => {},
      grant: (_node, { readIndex }) => grants.push(readIndex),
      tell: (said) => {
        visible = said;
      },
    });
    keeper.moved();
    now = 3_000;
    keeper.requested(3, { number: 1, incarnation: 1, applied: 10 });
    applied = 12;
    peers[0]!.metadataApplied = 12;
    // Node 3 holds nothing yet, and what is under way does not count.
    keeper.moved();
    expect(visible).toBe(12);
    keeper.read(1, 10);
    expect(grants).toEqual([12]);
    applied = 13;
    peers[0]!.metadataApplied = 13;
    keeper.moved();
    expect(visible).toBe(12);
    // A newer process of that node does not speak for the one that was granted a lease.
    peers[1] = { node: 3, incarnation: 2, metadataApplied: 13 };
    keeper.moved();
    expect(visible).toBe(12);
    now = 3_000 + leaseMilliseconds * 1.01;
    keeper.moved();
    expect(visible).toBe(13);
  });

  test('a keeper grants nothing to a node that is behind, nor after the time of the request is over', () => {
    const peer = { node: 2, incarnation: 1, metadataApplied: 5 };
    const grants: number[] = [];
    let now = 0;
    const keeper = new LeaseKeeper({
      node: 1,
      leaseMilliseconds,
      now: () => now,
      peers: () => [peer],
      leadingTerm: () => 4,
      applied: () => 10,
      visible: () => 0,
      readIndex: () => {},
      grant: (node) => grants.push(node),
      tell: () => {},
    });
    keeper.requested(2, { number: 1, incarnation: 1, applied: 5 });
    keeper.requested(2, { number: 2, incarnation: 1, applied: 5 });
    keeper.read(1, 10);
    keeper.read(2, null);
    expect(grants).toEqual([]);
    now = leaseMilliseconds;
    peer.metadataApplied = 10;
    keeper.moved();
    expect(grants).toEqual([]);
    keeper.requested(2, { number: 3, incarnation: 1, applied: 5 });
    keeper.read(3, 10);
    expect(grants).toEqual([2]);
  });
});

describe('frames', () => {
  test('come back as they were; others are not understood', () => {
    const request = { number: 7, incarnation: 2 ** 40, applied: 2 ** 33 + 1 };
    const grant = { number: 7, incarnation: 3, readIndex: 2 ** 33, visible: 9 };
    expect(decodeLeaseRequest(encodeLeaseRequest(request))).toEqual(request);
    expect(decodeLeaseGrant(encodeLeaseGrant(grant))).toEqual(grant);
    expect(decodeVisible(encodeVisible(2 ** 50))).toBe(2 ** 50);
    expect(encodeVisible(258).toString('hex')).toBe('0201000000000000');
    for (const bytes of [0, 7, 9, 16, 23, 31]) {
      const frame = Buffer.alloc(bytes);
      expect(decodeLeaseRequest(frame)).toBeNull();
      expect(decodeLeaseGrant(frame)).toBeNull();
      expect(decodeVisible(frame)).toBeNull();
    }
    expect(decodeVisible(Buffer.alloc(8, 0xff))).toBeNull();
  });
});

/** Cuts, pauses, crashes, slow links and jumping clocks, while everybody declares; then all is well again. */
function randomRun(seed: number): LeaseWorld {
  const count = 3 + 2 * (seed % 2);
  const world = new LeaseWorld(count, seed);
  const draw = (bound: number) => world.random.integer(bound);
  const slow = new Map<string, number>();
  world.delay = (from, to) => (slow.get(`${from}>${to}`) ?? 0.5) * (1 + draw(100) / 50);
  for (const row of world.rows) row.rate = 0.996 + draw(9) / 1_000;
  const any = () => world.node(1 + draw(count));
  for (let step = 0; step < 150; step++) {
    const dice = draw(20);
    if (dice === 0) world.isolate(any().node);
    else if (dice === 1) world.cut(any().node, any().node);
    else if (dice <= 4) world.heal(draw(2) === 0);
    else if (dice === 5) any().pause();
    else if (dice === 6) slow.set(`${1 + draw(count)}>${1 + draw(count)}`, draw(3_000));
    else if (dice === 7) slow.clear();
    else if (dice === 8) world.leader()?.kill();
    else if (dice === 9) world.leader()?.pause();
    else if (dice === 10) {
      const row = any();
      row.run(() => row.raft.campaign());
    } else if (dice === 11) any().wallOffset += draw(2) * draw(5_000);
    for (const row of world.rows) {
      if (row.isDead && draw(3) === 0) row.start();
      else if (row.isPaused && draw(3) === 0) {
        if (draw(2) === 0) row.stoodStill += draw(world.clock.now() - row.pausedAt);
        row.resume();
      }
      if (!row.isDead && !row.isPaused && draw(2) === 0) row.declare(`${step}`);
    }
    world.run(draw(400));
  }
  world.heal();
  slow.clear();
  for (const row of world.rows) if (row.isDead) row.start();
  for (const row of world.rows) if (row.isPaused) row.resume();
  return world;
}

describe('at random', () => {
  test('nobody routes without what was declared, and in the end everybody routes and declares', () => {
    const base = Math.floor(Math.random() * 1e9);
    const end = performance.now() + 3_000;
    let runs = 0;
    let declared = 0;
    for (; runs < 200 && performance.now() < end; runs++) {
      const seed = base + runs;
      try {
        const world = randomRun(seed);
        declared += world.declared;
        // Whoever is about to be deposed loses what it is asked, and nobody here asks twice: elections under way end first.
        world.run(2 * leaseMilliseconds);
        expect(world.settle()).toBe(true);
        expect(world.until(() => world.leader() !== undefined, 10_000)).toBe(true);
        const declaration = world.leader()!.declare('last');
        expect(world.until(isAnswered(declaration), 10_000)).toBe(true);
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
      }
    }
    console.log(`seeds from ${base}: ${runs} runs, ${declared} entries declared`);
    expect(declared).toBeGreaterThan(0);
  });
});
