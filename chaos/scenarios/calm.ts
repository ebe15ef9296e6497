// No harm at all: the figures that all others are to be compared with. On a machine with few processors a part of every stall is the machine's.

import type { Scenario } from '../types.ts';

export const calm: Scenario = {
  name: 'calm',
  says: 'nothing is harmed: what the machine alone costs',
  needs: [],
  nodesMin: 1,
  stallMillisecondsMax: null,
  run: (stage) => stage.sleep(stage.milliseconds),
};
