// Everything at once: faults of all kinds that the target offers, two at a time, on nodes that are not harmed already; and now and then all die.

import type { Ability, Scenario, Stage } from '../types.ts';
import {
  between,
  bothWays,
  clientLink,
  clock,
  cut,
  disk,
  isolate,
  kill,
  links,
  linksOf,
  oneWay,
  others,
  pause,
  type Strike,
  stop,
  strike,
} from './strikes.ts';

interface Kind {
  readonly needs: Ability;
  strike(stage: Stage, node: number): Strike;
}

const kinds: readonly Kind[] = [
  { needs: 'processes', strike: (stage, node) => kill(stage, [node]) },
  { needs: 'processes', strike: (stage, node) => kill(stage, [node]) },
  { needs: 'processes', strike: (stage, node) => stop(stage, [node]) },
  { needs: 'pause', strike: (stage, node) => pause(stage, [node]) },
  { needs: 'links', strike: (stage, node) => isolate(stage, [node]) },
  {
    needs: 'links',
    strike: (stage, node) => links(stage, 'is not heard', [node], oneWay([node], others(stage, [node])), cut),
  },
  {
    needs: 'links',
    strike: (stage, node) => links(stage, 'hears nobody', [node], oneWay(others(stage, [node]), [node]), cut),
  },
  {
    needs: 'links',
    strike: (stage, node) => {
      const [other] = stage.pick(others(stage, [node]), 1);
      return links(stage, 'link cut', [node], bothWays([node], [other!]), cut);
    },
  },
  {
    needs: 'links',
    strike: (stage, node) =>
      linksOf(stage, 'late links', node, { kind: 'latency', milliseconds: 10 + stage.random(150), jitter: 10 }),
  },
  {
    needs: 'links',
    strike: (stage, node) => linksOf(stage, 'resets', node, { kind: 'reset', milliseconds: 100 + stage.random(900) }),
  },
  { needs: 'clientLinks', strike: (stage, node) => clientLink(stage, 'clients cut off', node, true, cut) },
  {
    needs: 'clientLinks',
    strike: (stage, node) => clientLink(stage, 'clients refused', node, true, { kind: 'refused' }),
  },
  { needs: 'disk', strike: (stage, node) => disk(stage, node, { kind: 'slow', milliseconds: 10 + stage.random(190) }) },
  { needs: 'disk', strike: (stage, node) => disk(stage, node, { kind: 'failing' }) },
  { needs: 'disk', strike: (stage, node) => disk(stage, node, { kind: 'hanging' }) },
  {
    needs: 'clock',
    strike: (stage, node) => clock(stage, node, (stage.random(2) === 0 ? 1 : -1) * (1000 + stage.random(100_000))),
  },
];

/** One of so many rounds ends in the death of all. */
const deathEvery = 4;

export const monsoon: Scenario = {
  name: 'monsoon',
  says: 'everything at once: kills, pauses, cuts, bad links, bad disks, wrong clocks, storms of clients',
  needs: [],
  nodesMin: 1,
  stallMillisecondsMax: null,
  async run(stage) {
    for (let round = 0; round === 0 || !stage.isOver; round++) {
      const harmed = new Set<number>();
      await Promise.all([gust(stage, harmed), gust(stage, harmed)]);
      if (stage.target.abilities.has('processes') && stage.random(deathEvery) === 0)
        await strike(stage, kill(stage, stage.nodes), between(stage, 200, 1500));
      await stage.calm();
    }
  },
};

/** A few faults after one another. `harmed`: the nodes that somebody harms now. */
async function gust(stage: Stage, harmed: Set<number>): Promise<void> {
  const { abilities } = stage.target;
  const possible = kinds.filter(({ needs }) => abilities.has(needs) && (needs !== 'links' || stage.nodes.length > 1));
  for (let faults = 2 + stage.random(3); faults > 0 && !stage.isOver; faults--) {
    const [node] = stage.pick(
      stage.nodes.filter((one) => !harmed.has(one)),
      1,
    );
    const [kind] = stage.pick(possible, 1);
    if (stage.random(6) === 0) await stage.reconnectStorm();
    if (node !== undefined && kind !== undefined) {
      harmed.add(node);
      try {
        await strike(stage, kind.strike(stage, node), between(stage, 300, 6000));
      } finally {
        harmed.delete(node);
      }
    }
    await stage.sleep(100 + stage.random(1200));
  }
}
