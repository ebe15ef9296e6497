// Members of the simulated cluster come and go by the production way, and the world follows: machines, replicas, what clients may connect to.

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { planOf } from './plan.ts';
import { Trace } from './trace.ts';
import { World } from './world.ts';

const milliseconds = 120_000;

describe('members of the simulated cluster', () => {
  let world: World;
  const exits: string[] = [];

  beforeEach(async () => {
    exits.length = 0;
    const { limits, versions } = planOf({ seed: 5, profile: 'membership', nodes: 3 });
    const watcher = {
      logged: () => {},
      exited: (node: number, error: Error) => exits.push(`${node}: ${error.message}`),
    };
    world = new World({ seed: 5, nodes: 3, limits, versions, trace: new Trace(), watcher });
    world.startAll();
    await serves(1, 2, 3);
  });

  afterEach(() => {
    world.end();
    expect(exits).toEqual([]);
  });

  async function serves(...nodes: number[]): Promise<void> {
    const isSo = () => {
      world.membership.sync();
      return world.membership.unsettled() === null && nodes.every((node) => world.machine(node).process?.isServing);
    };
    expect(await world.time.runUntil(isSo, milliseconds), world.membership.unsettled() ?? 'serves').toBe(true);
    world.invariants.check();
    expect(world.nodes()).toEqual(nodes);
  }

  it('grow by a machine that asks to be let in', async () => {
    expect(world.membership.join()).toBe(4);
    expect(world.membership.isBusy()).toBe(true);
    expect(world.state(4)).toBe('starting');
    await serves(1, 2, 3, 4);
    expect(world.replicasOf(0)).toEqual([1, 2, 3, 4]);
  });

  it('are replaced once their machine is lost, under a new number', async () => {
    world.membership.replace(1, 2);
    expect(world.state(2)).toBe('down');
    await serves(1, 3, 4);
    expect(world.marks.count('node replaced')).toBe(1);
    for (const group of world.groups()) expect([...world.replicasOf(group)].sort()).toEqual([1, 3, 4]);
  });

  it('leave one by one, alive or dead', async () => {
    world.membership.leave(1, 3);
    await serves(1, 2);
    world.membership.join();
    await serves(1, 2, 4);
    // Moves follow upon each other: the shards have one replica on two nodes, and three on three.
    const haveGrown = () => world.groups().every((group) => world.membership.replicasOf(group).length === 3);
    expect(await world.time.runUntil(haveGrown, milliseconds)).toBe(true);
    await serves(1, 2, 4);
    world.kill(2);
    // Until the others know that it is gone it counts as one that is up.
    await world.time.runUntil(() => false, 2 * world.limits.nodeDeadMilliseconds);
    world.membership.leave(1, 2);
    await serves(1, 4);
    expect(world.marks.count('node left')).toBe(2);
  });

  it('ask again when their process ended before they were let in', async () => {
    const node = world.membership.join();
    world.kill(node);
    expect(world.membership.unsettled()).toBe(`node ${node} has not been let in`);
    world.restart(node);
    await serves(1, 2, 3, node);
  });
});
