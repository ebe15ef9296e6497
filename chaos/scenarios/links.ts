// Links between nodes that are cut, one-way, slow, narrow or rude; and those of clients.

import type { LinkFault, Scenario, Stage } from '../types.ts';
import {
  anyNode,
  bothWays,
  clientLink,
  cut,
  goals,
  isolate,
  links,
  linksOf,
  type More,
  minorityOf,
  oneWay,
  others,
  type Strike,
  strike,
  striking,
  toFollower,
} from './strikes.ts';

const partition = (
  name: string,
  says: string,
  next: (stage: Stage, round: number) => Strike | Promise<Strike>,
  more: More = {},
): Scenario => striking(name, says, { needs: ['links'], least: 1500, most: 15_000, next }, more);

/** Two of them, and perhaps one that sees both. */
function halves(stage: Stage, bridge: boolean): { readonly left: number[]; readonly right: number[] } {
  const shuffled = stage.pick(stage.nodes, stage.nodes.length);
  if (bridge) shuffled.pop();
  const left = shuffled.slice(0, bridge ? Math.floor(shuffled.length / 2) : minorityOf(stage));
  return { left, right: shuffled.slice(left.length) };
}

/** Each hears and is heard by some, no two of them by the same: of three, each sends to one only. */
function ring(stage: Stage): Strike {
  const around = stage.pick(stage.nodes, stage.nodes.length);
  const at = (place: number) => around[place % around.length]!;
  const ways =
    around.length === 3
      ? around.flatMap((node, i) => oneWay([node], [at(i + 1)]))
      : around.flatMap((node, i) => oneWay([node], others(stage, [node, at(i + 1), at(i + around.length - 1)])));
  return links(stage, 'ring', around, ways, cut);
}

function deaf(stage: Stage, node: number): Strike {
  const rest = others(stage, [node]);
  const hears = stage.random(2) === 0;
  return links(
    stage,
    hears ? 'is not heard' : 'hears nobody',
    [node],
    hears ? oneWay([node], rest) : oneWay(rest, [node]),
    cut,
  );
}

const partitions: readonly Scenario[] = [
  partition(
    'partition-leader',
    'the node that leads most is cut off from the others',
    async (stage) => isolate(stage, [await stage.target.leader()]),
    { stallMillisecondsMax: goals.leaderSilent },
  ),
  partition(
    'partition-one',
    'a node that leads none of the queues is cut off from the others',
    (stage) => isolate(stage, [stage.follower]),
    toFollower,
  ),
  partition('partition-halves', 'the cluster falls apart into a minority and a majority', (stage) => {
    const { left, right } = halves(stage, false);
    return links(stage, 'halves', left, bothWays(left, right), cut);
  }),
  partition('partition-ring', 'no two nodes see the same others', ring),
  partition('partition-bridge', 'two sides see each other only through one node', (stage) => {
    const { left, right } = halves(stage, true);
    return links(stage, 'bridge', [...left, ...right], bothWays(left, right), cut);
  }),
  partition('one-way', 'a node hears the others and is not heard, or the other way round', async (stage) =>
    deaf(stage, stage.random(2) === 0 ? await stage.target.leader() : stage.pick(stage.nodes, 1)[0]!),
  ),
];

const flapping: Scenario = {
  name: 'flapping',
  says: 'links of a node break and come back every moment',
  needs: ['links'],
  nodesMin: 3,
  stallMillisecondsMax: null,
  async run(stage) {
    while (!stage.isOver) {
      const [node] = stage.pick(stage.nodes, 1);
      for (let flaps = 3 + stage.random(5); flaps > 0 && !stage.isOver; flaps--) {
        const fault: LinkFault = stage.random(2) === 0 ? cut : { kind: 'refused' };
        await strike(stage, linksOf(stage, 'flap', node!, fault), 100 + stage.random(1400));
        await stage.sleep(100 + stage.random(900));
      }
      await stage.calm();
    }
  },
};

const rude = (stage: Stage): LinkFault => {
  const kinds: readonly LinkFault[] = [
    { kind: 'reset', milliseconds: 50 + stage.random(2000) },
    { kind: 'limit', bytes: 10_000 + stage.random(1_000_000) },
    { kind: 'slowClose', milliseconds: 200 + stage.random(2000) },
  ];
  return stage.pick(kinds, 1)[0]!;
};

const qualities: readonly Scenario[] = [
  partition(
    'slow-link',
    'the links of a node that leads none of the queues take their time, more or less of it',
    (stage) => {
      const milliseconds = 20 + stage.random(200);
      return linksOf(stage, `${milliseconds} ms late`, stage.follower, {
        kind: 'latency',
        milliseconds,
        jitter: Math.round(milliseconds / 2),
      });
    },
    toFollower,
  ),
  partition(
    'narrow-link',
    'the links of a node that leads none of the queues let little through',
    (stage) => {
      const kilobytesPerSecond = 20 + stage.random(400);
      return linksOf(stage, `${kilobytesPerSecond} KB/s`, stage.follower, { kind: 'bandwidth', kilobytesPerSecond });
    },
    toFollower,
  ),
  partition('sliced-packets', 'everything between nodes arrives in small slices', (stage) =>
    links(stage, 'sliced', [], oneWay(stage.nodes, stage.nodes), {
      kind: 'slicer',
      bytes: 64 + stage.random(900),
      microseconds: stage.random(200),
    }),
  ),
  partition('broken-connections', 'connections between nodes are reset, or end after so many bytes', (stage) =>
    links(stage, 'broken connections', [], oneWay(stage.nodes, stage.nodes), rude(stage)),
  ),
];

const ofClients = { needs: ['clientLinks'], nodesMin: 1 } as const;

const clients: readonly Scenario[] = [
  partition(
    'client-cut',
    'what the clients of a node send, or are sent, vanishes',
    (stage) => clientLink(stage, 'clients cut off', anyNode(stage), stage.random(2) === 0, cut),
    ofClients,
  ),
  partition(
    'client-broken',
    'connections of clients are reset, end after so many bytes, or are refused',
    (stage) => {
      const fault: LinkFault = stage.random(4) === 0 ? { kind: 'refused' } : rude(stage);
      return clientLink(stage, 'clients broken off', anyNode(stage), stage.random(2) === 0, fault);
    },
    ofClients,
  ),
  partition(
    'client-slow',
    'links of clients are late, narrow or sliced',
    (stage) => {
      const kinds: readonly LinkFault[] = [
        { kind: 'latency', milliseconds: 10 + stage.random(300), jitter: 10 },
        { kind: 'bandwidth', kilobytesPerSecond: 20 + stage.random(400) },
        { kind: 'slicer', bytes: 64 + stage.random(900), microseconds: stage.random(200) },
      ];
      return clientLink(stage, 'clients slowed', anyNode(stage), stage.random(2) === 0, stage.pick(kinds, 1)[0]!);
    },
    ofClients,
  ),
];

const reconnectStorm: Scenario = {
  name: 'reconnect-storm',
  says: 'all clients lose their connections at once and connect anew',
  needs: [],
  nodesMin: 1,
  stallMillisecondsMax: null,
  async run(stage) {
    const nothing = async () => {};
    while (!stage.isOver) {
      await stage.fault('reconnect storm', [], 200, () => stage.reconnectStorm(), nothing);
      await stage.sleep(500 + stage.random(4000));
    }
  },
};

export const linkScenarios: readonly Scenario[] = [...partitions, flapping, ...qualities];
export const clientScenarios: readonly Scenario[] = [...clients, reconnectStorm];
