// Processes that die, are stopped, or stand still.

import type { Scenario, Stage } from '../types.ts';
import {
  between,
  goals,
  kill,
  type More,
  minorityOf,
  pause,
  rounds,
  type Strike,
  stop,
  strike,
  striking,
  toFollower,
} from './strikes.ts';

const killOne = striking(
  'kill-one',
  'kill -9 of a node that leads none of the queues, again and again',
  { needs: ['processes'], least: 500, most: 4000, next: (stage) => kill(stage, [stage.follower]) },
  toFollower,
);

const killLeader: Scenario = {
  name: 'kill-leader',
  says: 'kill -9 of the node that leads most, each time another one when the first comes back',
  needs: ['processes'],
  nodesMin: 3,
  stallMillisecondsMax: goals.leaderKilled,
  run: (stage) => {
    let last = 0;
    return rounds(
      stage,
      () => between(stage, 500, 4000),
      async () => {
        last = await stage.target.leader(last);
        return kill(stage, [last]);
      },
    );
  },
};

const killSeveral = (name: string, says: string, count: (stage: Stage) => number, more: More = {}): Scenario => {
  const next = (stage: Stage) => kill(stage, stage.pick(stage.nodes, count(stage)));
  return striking(name, says, { needs: ['processes'], least: 500, most: 6000, next }, more);
};

const killMinority = killSeveral('kill-minority', 'kill -9 of as many nodes as the others can do without', minorityOf);
const killMajority = killSeveral(
  'kill-majority',
  'kill -9 of one more than that: nothing may be confirmed until they are back',
  (stage) => minorityOf(stage) + 1,
);

const killAll = killSeveral('kill-all', 'kill -9 of all nodes at once', (stage) => stage.nodes.length, { nodesMin: 1 });

const pauses = { needs: ['pause'], least: 1000, most: 60_000 } as const;
const pauseOne = striking(
  'pause',
  'SIGSTOP for 1 to 60 s of a node that leads none of the queues',
  { ...pauses, next: (stage) => pause(stage, [stage.follower]) },
  toFollower,
);
const pauseLeader = striking(
  'pause-leader',
  'SIGSTOP for 1 to 60 s of the node that leads most; it must come back harmless',
  { ...pauses, next: async (stage) => pause(stage, [await stage.target.leader()]) },
  { stallMillisecondsMax: goals.leaderSilent },
);

const rollingRestart: Scenario = {
  name: 'rolling-restart',
  says: 'a clean stop and start of one node after another, as an upgrade does',
  needs: ['processes'],
  nodesMin: 3,
  stallMillisecondsMax: null,
  run: (stage) =>
    rounds(
      stage,
      () => 300,
      (round) => stop(stage, [stage.nodes[round % stage.nodes.length]!]),
    ),
};

/** The leader stands still, another dies; they come back in either order, while a third may die. */
const killAndPause: Scenario = {
  name: 'kill-and-pause',
  says: 'a node is paused, another killed, and they come back in any order',
  needs: ['processes', 'pause'],
  nodesMin: 3,
  stallMillisecondsMax: null,
  async run(stage) {
    while (!stage.isOver) {
      const paused = stage.random(2) === 0 ? await stage.target.leader() : stage.pick(stage.nodes, 1)[0]!;
      const [killed] = stage.pick(
        stage.nodes.filter((node) => node !== paused),
        1,
      );
      const later = (strikes: Strike, milliseconds: number) =>
        stage.sleep(milliseconds).then(() => strike(stage, strikes, between(stage, 800, 8000)));
      await Promise.all([
        later(pause(stage, [paused]), stage.random(600)),
        later(kill(stage, [killed!]), stage.random(1500)),
      ]);
      await stage.calm();
    }
  },
};

export const processScenarios: readonly Scenario[] = [
  killOne,
  killLeader,
  killMinority,
  killMajority,
  killAll,
  pauseOne,
  pauseLeader,
  rollingRestart,
  killAndPause,
];
