// The driver of faults on a world that only writes down what is done to it: what a seed chooses, that it repeats, that one good majority stays,
// and that all of it ends.

import { describe, expect, it } from 'vitest';
import { createMemoryClock } from '../support/memory-clock.ts';
import { createMemoryDisk, type MemoryDisk } from '../support/memory-disk.ts';
import { createMemoryNetwork } from '../support/memory-net.ts';
import { createMemoryRandom } from '../support/memory-random.ts';
import { createNodeClock, type NodeClock } from '../support/node-clock.ts';
import { changeKinds } from './faults/membership.ts';
import { createFaults, type FaultTarget, faultKinds, type NodeState, type Profile, profiles } from './faults.ts';

const electionMilliseconds = 1_200;

/** Machines without processes: their disks are written to now and then. */
class FakeWorld implements FaultTarget {
  readonly clock = createMemoryClock();
  readonly network = createMemoryNetwork(this.clock, createMemoryRandom(1));
  readonly electionMilliseconds = electionMilliseconds;
  readonly clocksAgree = false;
  readonly log: string[] = [];
  readonly states = new Map<number, NodeState>();
  readonly membership;
  readonly #disks = new Map<number, MemoryDisk>();
  readonly #clocks = new Map<number, NodeClock>();
  readonly #random = createMemoryRandom(2);

  constructor(count: number, withMembers = false) {
    for (let node = 1; node <= count; node++) this.add(node);
    this.membership = withMembers
      ? {
          isBusy: () => false,
          join: () => this.add(Math.max(...this.nodes()) + 1),
          leave: (_through: number, node: number) => void this.states.delete(node),
          replace: (_through: number, node: number) => {
            this.states.delete(node);
            this.add(node + 100);
          },
        }
      : null;
  }

  add(node: number): number {
    this.states.set(node, 'up');
    const clock = createNodeClock(this.clock);
    const schedule = (task: () => void) => void this.clock.after(0.2, task);
    this.#clocks.set(node, clock);
    this.#disks.set(node, createMemoryDisk({ schedule, random: createMemoryRandom(node) }));
    return node;
  }

  /** Something durable in each of a few files. */
  async fill(): Promise<void> {
    for (const node of this.nodes())
      for (const path of ['manifest', 'manifest.copy', ...[1, 2, 3, 4, 5].map((i) => `log/000000000${i}.log`)])
        this.disk(node).put(path, Buffer.alloc(5_000, node));
  }

  nodes = () => [...this.states.keys()];
  place = (node: number) => `n${node}`;
  clientPlaces = () => ['c1', 'c2'];
  disk = (node: number) => this.#disks.get(node)!;
  nodeClock = (node: number) => this.#clocks.get(node)!;
  state = (node: number) => this.states.get(node)!;
  groups = () => [0, 1, 2];
  leaderOf = (group: number) => this.nodes()[group % this.nodes().length]!;
  replicasOf = () => this.nodes().slice(0, 3);
  kill(node: number) {
    this.#to(node, 'down', 'kill');
    this.disk(node).kill();
  }
  crash(node: number) {
    this.#to(node, 'down', 'crash');
    this.disk(node).crash(this.#random);
  }
  restart(node: number) {
    expect(this.state(node)).toBe('down');
    this.#to(node, 'up', 'restart');
  }
  pause(node: number) {
    this.#to(node, 'paused', 'pause');
  }
  resume(node: number) {
    expect(this.state(node)).toBe('paused');
    this.#to(node, 'up', 'resume');
  }
  #to(node: number, state: NodeState, what: string) {
    this.states.set(node, state);
    this.log.push(`${this.clock.now()} ${what} ${node}`);
  }
}

interface Outcome {
  readonly world: FakeWorld;
  readonly kinds: readonly string[];
  readonly counts: Readonly<Record<string, number>>;
  readonly log: readonly string[];
  readonly damaged: ReadonlySet<number>;
}

async function run(seed: number, profile: Profile, nodes: number, withMembers = false): Promise<Outcome> {
  const world = new FakeWorld(nodes, withMembers);
  await world.fill();
  const damaged = new Set<number>();
  const report = (kind: string, details: object) => {
    world.log.push(`${world.clock.now()} ${kind} ${JSON.stringify(details)}`);
    if (/^(damage|damage-at-rest|put-back)$/.test(kind)) damaged.add((details as { node: number }).node);
  };
  const faults = createFaults({ seed, profile, target: world, report });
  faults.start();
  for (let second = 0; second < 60; second++) {
    world.clock.advance(1_000);
    for (const node of world.nodes()) if (world.state(node) === 'up') void world.disk(node).list('');
  }
  faults.heal();
  world.clock.advance(5_000);
  return { world, kinds: faults.kinds, counts: faults.counts, log: world.log, damaged };
}

describe('faults by seed', () => {
  it('repeat, and differ from seed to seed', async () => {
    const first = await run(5, 'all', 3);
    expect((await run(5, 'all', 3)).log).toEqual(first.log);
    expect((await run(6, 'all', 3)).log).not.toEqual(first.log);
  });

  it('are none in one seed of four, and any part of the kinds in the others', async () => {
    const sizes: number[] = [];
    const known = new Set<string>();
    for (let seed = 1; seed <= 400; seed++) {
      const world = new FakeWorld(3);
      const { kinds } = createFaults({ seed, profile: 'all', target: world, report: () => {} });
      sizes.push(kinds.length);
      for (const kind of kinds) known.add(kind);
    }
    const calm = sizes.filter((size) => size === 0).length;
    expect(calm).toBeGreaterThan(70);
    expect(calm).toBeLessThan(130);
    expect(known.size).toBe(faultKinds.length);
    expect(new Set(sizes).size).toBeGreaterThan(6);
  });

  it.each(profiles)('of profile %s end: everybody runs, and links, disks and clocks are well', async (profile) => {
    for (let seed = 1; seed <= 20; seed++)
      for (const nodes of [1, 3, 5]) {
        const { world } = await run(seed, profile, nodes);
        for (const node of world.nodes()) {
          expect(world.state(node)).toBe('up');
          expect(world.nodeClock(node).rate).toBe(1);
          const { stalled, hung, capacity, watch, fault } = world.disk(node);
          expect({ stalled, hung, capacity, watch, fault }).toEqual({
            stalled: false,
            hung: false,
            capacity: Infinity,
            watch: null,
            fault: null,
          });
        }
        const { length } = world.log;
        world.clock.advance(60_000);
        expect(world.log.length).toBe(length);
      }
  });

  it('damage one node of three or more, and none of fewer', async () => {
    let damagedRuns = 0;
    for (let seed = 1; seed <= 60; seed++) {
      const { damaged } = await run(seed, 'disk', 3);
      expect(damaged.size).toBeLessThanOrEqual(1);
      damagedRuns += damaged.size;
      expect((await run(seed, 'disk', 1)).damaged.size).toBe(0);
    }
    expect(damagedRuns).toBeGreaterThan(5);
  });

  it('spare one copy of the manifest, and the newest log files', async () => {
    const hit = new Set<string>();
    for (let seed = 1; seed <= 60; seed++) {
      const { world, damaged } = await run(seed, 'disk', 3);
      for (const node of damaged) {
        const disk = world.disk(node);
        const there = new Map(disk.paths().map(({ path, bytes }) => [path, bytes]));
        const isWhole = (path: string) =>
          there.get(path) === 5_000 && disk.contents(path).every((byte) => byte === node);
        expect(isWhole('manifest') || isWhole('manifest.copy')).toBe(true);
        for (const i of [3, 4, 5]) expect(isWhole(`log/000000000${i}.log`)).toBe(true);
        for (const path of ['manifest', 'manifest.copy', 'log/0000000001.log']) if (!isWhole(path)) hit.add(path);
      }
    }
    expect(hit.size).toBe(3);
  });

  it('change members only as far as one good majority stays', async () => {
    const done: Record<string, number> = {};
    for (let seed = 1; seed <= 60; seed++) {
      const { world, counts, damaged } = await run(seed, 'all', 3, true);
      for (const kind of ['join', 'leave', 'replace']) done[kind] = (done[kind] ?? 0) + (counts[kind] ?? 0);
      expect(world.nodes().length).toBeLessThanOrEqual(5);
      if (damaged.size > 0) expect(world.nodes().length).toBeGreaterThanOrEqual(3);
    }
    for (const kind of ['join', 'leave', 'replace']) expect(done[kind]).toBeGreaterThan(5);
  });

  it('are what is asked for in any case, and a change of members where members change', () => {
    const target = new FakeWorld(3);
    const report = () => {};
    for (let seed = 1; seed <= 30; seed++) {
      const drawn = createFaults({ seed, profile: 'membership', target, report }).kinds;
      if (drawn.length > 0) expect(drawn.some((kind) => changeKinds.includes(kind))).toBe(true);
      const besides = createFaults({ seed, profile: 'membership', target, report, besides: ['crash', 'damage'] }).kinds;
      expect(new Set(besides)).toEqual(new Set([...drawn, 'crash', 'damage']));
    }
  });

  it('that are drawn apart are in some seeds, and change nothing of what those and others draw besides', () => {
    const target = new FakeWorld(3);
    const report = () => {};
    const apart = faultKinds.filter(({ apartSeeds }) => apartSeeds !== undefined).map(({ kind }) => kind);
    let having = 0;
    for (let seed = 1; seed <= 100; seed++) {
      const { kinds } = createFaults({ seed, profile: 'membership', target, report });
      const others = createFaults({ seed, profile: 'membership', target, report, without: apart }).kinds;
      expect(kinds.filter((kind) => !apart.includes(kind))).toEqual(others);
      if (kinds.length > others.length) having++;
    }
    expect(having).toBeGreaterThan(5);
    expect(having).toBeLessThan(40);
  });

  it('leave kinds out, or are exactly those that are asked for', () => {
    const target = new FakeWorld(3);
    const report = () => {};
    for (let seed = 1; seed <= 30; seed++) {
      expect(createFaults({ seed, profile: 'all', target, report, without: ['crash'] }).kinds).not.toContain('crash');
      expect(createFaults({ seed, profile: 'disk', target, report, only: ['kill', 'join'] }).kinds).toEqual([
        'kill',
        'join',
      ]);
    }
  });
});
