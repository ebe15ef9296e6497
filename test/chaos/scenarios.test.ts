// Every scenario on a target that only remembers: it does something, ends all that it did, and does the same under the same seed.

import { expect, test } from 'vitest';
import { calm } from '../../chaos/scenarios/calm.ts';
import { scenarios } from '../../chaos/scenarios/index.ts';
import type { Scenario } from '../../chaos/types.ts';
import { QuickStage, RecordingTarget } from './scene.ts';

async function play(scenario: Scenario, seed: number, nodes: number, milliseconds = 30_000) {
  const target = new RecordingTarget(nodes, scenario.needs.length > 0 ? scenario.needs : undefined);
  const follower = scenario.sparesFollower ? nodes : 0;
  const stage = new QuickStage(target, seed, scenario.name, milliseconds, follower);
  await scenario.run(stage);
  return { target, stage };
}

test('names are unique and fit into file names; all explain themselves', () => {
  const names = scenarios.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
  for (const { name, says } of scenarios) {
    expect(name).toMatch(/^[a-z][a-z-]+$/);
    expect(says.length).toBeGreaterThan(10);
  }
});

test.each(scenarios.map((scenario) => [scenario.name, scenario] as const))('%s', async (_, scenario) => {
  for (const nodes of [3, 5]) {
    for (let seed = 0; seed < 5; seed++) {
      const { target, stage } = await play(scenario, seed, nodes);
      expect([...target.wrong], `${nodes} nodes, seed ${seed}`).toEqual([]);
      expect(stage.faults.length > 0).toBe(scenario !== calm);
      const again = await play(scenario, seed, nodes);
      expect(again.target.done).toEqual(target.done);
      expect(again.stage.faults).toEqual(stage.faults);
    }
  }
  // Much too short: one round, and that in order.
  const { target, stage } = await play(scenario, 1, 3, 1);
  expect([...target.wrong]).toEqual([]);
  expect(stage.faults.length > 0).toBe(scenario !== calm);
});

test('what is said of followers is meant: they are the only ones harmed', async () => {
  for (const scenario of scenarios.filter(({ sparesFollower }) => sparesFollower)) {
    const { stage } = await play(scenario, 3, 3);
    for (const fault of stage.faults) expect(fault, scenario.name).toMatch(/ 3$/);
  }
});

test('the monsoon does what it can on a single node, and on a target that offers next to nothing', async () => {
  const monsoon = scenarios.find(({ name }) => name === 'monsoon')!;
  for (const offered of [undefined, ['clientLinks'], []] as const) {
    const target = new RecordingTarget(1, offered);
    const stage = new QuickStage(target, 5, 'monsoon', 60_000, 0);
    await monsoon.run(stage);
    expect([...target.wrong]).toEqual([]);
    expect(stage.faults.length + stage.storms).toBeGreaterThan(0);
  }
});
