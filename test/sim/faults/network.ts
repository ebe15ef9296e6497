// Faults of links: slow, lossy, narrow, clogged or refusing ones, broken connections, partitions of all shapes.

import type { Begun, FaultContext, FaultKind, Profile } from './target.ts';

const everywhere: readonly Profile[] = ['network', 'disk', 'membership'];

interface Way {
  readonly from: string;
  readonly to: string;
}

/** One direction between two places: mostly of two nodes, now and then of a client. */
function pickWay({ target, oneIn, pick, between }: FaultContext): Way | null {
  const places = target.nodes().map((node) => target.place(node));
  const clients = target.clientPlaces();
  const from = pick(places);
  if (clients.length > 0 && (oneIn(4) || places.length === 1)) {
    const client = pick(clients);
    return oneIn(2) ? { from, to: client } : { from: client, to: from };
  }
  const others = places.filter((place) => place !== from);
  return others.length === 0 ? null : { from, to: others[between(0, others.length - 1)]! };
}

/** The same trouble on one way, or on all ways from one place or to it. */
function troubled(
  context: FaultContext,
  begin: (way: Way) => void,
  end: (way: Way) => void,
  details: Begun['details'],
): Begun | null {
  const way = pickWay(context);
  if (way === null) return null;
  const { target, oneIn } = context;
  const all = [...target.nodes().map((node) => target.place(node)), ...target.clientPlaces()];
  const ways = oneIn(2)
    ? [way]
    : oneIn(2)
      ? all.filter((place) => place !== way.from).map((to) => ({ from: way.from, to }))
      : all.filter((place) => place !== way.to).map((from) => ({ from, to: way.to }));
  for (const each of ways) begin(each);
  return {
    details: { ways: ways.map(({ from, to }) => `${from}>${to}`), ...details },
    milliseconds: context.between(200, 8_000),
    end: () => {
      for (const each of ways) end(each);
    },
  };
}

const delay: FaultKind = {
  kind: 'delay',
  profiles: everywhere,
  everyMilliseconds: 4_000,
  begin(context) {
    const { network } = context.target;
    const least = context.between(0, 50);
    const most = context.between(least, 100);
    const begin = ({ from, to }: Way) => network.setDelay(from, to, least, most);
    return troubled(context, begin, ({ from, to }) => network.setDelay(from, to, 0.1), { least, most });
  },
};

const loss: FaultKind = {
  kind: 'loss',
  profiles: ['network'],
  everyMilliseconds: 5_000,
  begin(context) {
    const { network } = context.target;
    const percent = context.between(1, 30);
    const begin = ({ from, to }: Way) => network.setLoss(from, to, percent / 100);
    return troubled(context, begin, ({ from, to }) => network.setLoss(from, to, 0), { percent });
  },
};

const narrow: FaultKind = {
  kind: 'narrow',
  profiles: ['network'],
  everyMilliseconds: 6_000,
  begin(context) {
    const { network } = context.target;
    const bytesPerMillisecond = context.pick([5, 20, 100, 1_000]);
    const begin = ({ from, to }: Way) => network.setBandwidth(from, to, bytesPerMillisecond);
    const end = ({ from, to }: Way) => network.setBandwidth(from, to, Infinity);
    return troubled(context, begin, end, { bytesPerMillisecond });
  },
};

const clog: FaultKind = {
  kind: 'clog',
  profiles: everywhere,
  everyMilliseconds: 3_000,
  begin(context) {
    const way = pickWay(context);
    if (way === null) return null;
    const milliseconds = context.between(10, context.oneIn(3) ? 5_000 : 500);
    context.target.network.clog(way.from, way.to, milliseconds);
    return { details: { way: `${way.from}>${way.to}`, milliseconds }, milliseconds: 0 };
  },
};

const reset: FaultKind = {
  kind: 'reset',
  profiles: everywhere,
  everyMilliseconds: 2_500,
  begin(context) {
    const way = pickWay(context);
    if (way === null) return null;
    context.target.network.reset(way.from, way.to);
    return { details: { a: way.from, b: way.to }, milliseconds: 0 };
  },
};

const refuse: FaultKind = {
  kind: 'refuse',
  profiles: ['network'],
  everyMilliseconds: 6_000,
  begin({ target, pick, between }) {
    const place = target.place(pick(target.nodes()));
    target.network.refuse(place, true);
    return {
      details: { place },
      milliseconds: between(100, 5_000),
      end: () => target.network.refuse(place, false),
    };
  },
};

// ---- partitions ----

const shapes = ['one', 'leader', 'halves', 'ring', 'bridge', 'one-way', 'deaf', 'mute'] as const;
type Shape = (typeof shapes)[number];

/** Whether `a` may still send to `b`. Nodes are numbered by their place in a circle that was drawn. */
function isOpen(shape: Shape, a: number, b: number, count: number): boolean {
  const half = count >> 1;
  switch (shape) {
    case 'one':
    case 'leader':
      return a !== 0 && b !== 0;
    case 'halves':
      return a < half === b < half;
    case 'ring': {
      // Each sees as many neighbours on either side as make a majority, and no two see the same one.
      const steps = Math.max(1, Math.ceil(half / 2));
      const apart = Math.abs(a - b);
      return Math.min(apart, count - apart) <= steps;
    }
    case 'bridge':
      // The first one sees everybody, and the two halves of the others only it.
      return a === 0 || b === 0 || a <= half === b <= half;
    case 'one-way':
      return !(a === 0 && b === 1);
    case 'deaf':
      return b !== 0;
    case 'mute':
      return a !== 0;
  }
}

const partition: FaultKind = {
  kind: 'partition',
  profiles: everywhere,
  everyMilliseconds: 4_000,
  begin(context) {
    const { target, pick, oneIn, between } = context;
    if (target.nodes().length < 2) return null;
    const shape = pick(shapes);
    const how = oneIn(3) ? 'reset' : 'drop';
    const circle = shuffled(context, target.nodes());
    const first = shape === 'leader' ? target.leaderOf(pick(target.groups())) : null;
    if (first !== null && circle.includes(first)) circle.unshift(...circle.splice(circle.indexOf(first), 1));
    const places = circle.map((node) => target.place(node));
    const cut: Way[] = [];
    for (const [a, from] of places.entries())
      for (const [b, to] of places.entries())
        if (a !== b && !isOpen(shape, a, b, places.length)) cut.push({ from, to });
    // A node that is cut off has mostly its clients on its side, and now and then none.
    const lonely = (shape === 'one' || shape === 'leader') && oneIn(3);
    if (lonely)
      for (const client of target.clientPlaces())
        cut.push({ from: places[0]!, to: client }, { from: client, to: places[0]! });
    if (cut.length === 0) return null;
    for (const { from, to } of cut) target.network.cut(from, to, how);
    return {
      details: { shape, how, lonely, order: places },
      milliseconds: between(100, oneIn(3) ? 15_000 : 4_000),
      end: () => target.network.heal(),
    };
  },
};

function shuffled({ between }: FaultContext, nodes: readonly number[]): number[] {
  const circle = [...nodes];
  for (let i = circle.length - 1; i > 0; i--) {
    const j = between(0, i);
    [circle[i], circle[j]] = [circle[j]!, circle[i]!];
  }
  return circle;
}

export const networkKinds: readonly FaultKind[] = [delay, loss, narrow, clog, reset, refuse, partition];
