// Disks that are full, slow, failing or hanging; clocks that jump; nodes that come and go while others are cut off.

import type { DiskFault, Scenario, Stage } from '../types.ts';
import { anyNode, between, clock, disk, isolate, type More, strike, striking, toFollower } from './strikes.ts';

/** Of the leader and of any node in turn, unless it is a follower's disk only. */
const diskScenario = (name: string, says: string, fault: (stage: Stage) => DiskFault, more: More = {}): Scenario => {
  const next = async (stage: Stage, round: number) => {
    const node = round % 2 === 0 ? await stage.target.leader() : anyNode(stage);
    return disk(stage, stage.follower === 0 ? node : stage.follower, fault(stage));
  };
  return striking(name, says, { needs: ['disk'], least: 1500, most: 15_000, next }, more);
};

const disks: readonly Scenario[] = [
  diskScenario(
    'disk-full',
    'a disk fills up: publishers wait, or its node ends; nothing that was confirmed goes',
    () => ({
      kind: 'full',
    }),
  ),
  diskScenario(
    'slow-disk',
    'every sync of a node that leads none of the queues takes up to half a second longer',
    (stage) => ({ kind: 'slow', milliseconds: 20 + stage.random(480) }),
    toFollower,
  ),
  diskScenario('failing-disk', 'a sync fails: the node must end, confirm nothing by it, and come back', () => ({
    kind: 'failing',
  })),
  diskScenario('hanging-disk', 'no write of a node is answered: others must take over', () => ({ kind: 'hanging' })),
];

const clockJumps = striking('clock-jumps', 'the wall clock of a node jumps ahead or back by seconds to hours', {
  needs: ['clock'],
  least: 1000,
  most: 10_000,
  next: (stage) => {
    const most = [5000, 60_000, 3_600_000][stage.random(3)]!;
    const milliseconds = 500 + stage.random(most);
    return clock(stage, anyNode(stage), stage.random(2) === 0 ? milliseconds : -milliseconds);
  },
});

const membership: Scenario = {
  name: 'membership-under-partition',
  says: 'a node joins, and leaves again, while another is cut off from the others',
  needs: ['links', 'membership'],
  nodesMin: 3,
  stallMillisecondsMax: null,
  async run(stage) {
    for (let round = 0; round === 0 || !stage.isOver; round++) {
      let joined = 0;
      const join = async () => {
        await stage.sleep(stage.random(1500));
        joined = await stage.join();
      };
      const cutOff = () => strike(stage, isolate(stage, [anyNode(stage)]), between(stage, 2000, 10_000));
      await Promise.all([cutOff(), join()]);
      await stage.calm();
      const leave = async () => {
        await stage.sleep(stage.random(1500));
        await stage.leave(joined);
      };
      await Promise.all([cutOff(), leave()]);
      await stage.calm();
    }
  },
};

export const machineScenarios: readonly Scenario[] = [...disks, clockJumps, membership];
