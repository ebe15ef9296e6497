// Faults of processes, machines and their clocks: killed, without power, standing still, with a clock that is wrong.

import type { FaultKind, Profile } from './target.ts';

const everywhere: readonly Profile[] = ['network', 'disk', 'membership'];

const kill: FaultKind = {
  kind: 'kill',
  profiles: everywhere,
  everyMilliseconds: 5_000,
  begin({ target, pickNode, mayStop, between, oneIn, keepDown }) {
    const node = pickNode('up');
    if (node === null || !mayStop()) return null;
    const down = between(0, oneIn(4) ? 10_000 : 1_000);
    target.kill(node);
    keepDown(node, down);
    return { details: { node, down }, milliseconds: 0 };
  },
};

const crash: FaultKind = {
  kind: 'crash',
  profiles: everywhere,
  everyMilliseconds: 5_000,
  begin({ target, pickNode, mayStop, between, oneIn, keepDown }) {
    const node = pickNode(oneIn(5) ? 'paused' : 'up');
    if (node === null || !mayStop()) return null;
    const down = between(0, oneIn(4) ? 10_000 : 1_000);
    target.crash(node);
    keepDown(node, down);
    return { details: { node, down }, milliseconds: 0 };
  },
};

/** All at once, or nearly; they come back one by one. */
const powerLoss: FaultKind = {
  kind: 'power-loss',
  profiles: ['disk', 'network'],
  everyMilliseconds: 12_000,
  begin({ target, between, oneIn, keepDown }) {
    const spared = oneIn(3) ? between(0, target.nodes().length - 1) : -1;
    const nodes = target.nodes().filter((_, place) => place !== spared);
    if (nodes.every((node) => target.state(node) === 'down')) return null;
    for (const node of nodes) {
      target.crash(node);
      keepDown(node, between(0, 2_000));
    }
    return { details: { nodes }, milliseconds: 0 };
  },
};

const pause: FaultKind = {
  kind: 'pause',
  profiles: everywhere,
  everyMilliseconds: 4_000,
  begin({ target, pickNode, mayStop, between, oneIn }) {
    const node = pickNode('up');
    if (node === null || !mayStop()) return null;
    const clockStands = oneIn(4);
    const longest = target.electionMilliseconds * (oneIn(4) ? 10 : 2);
    target.pause(node);
    return {
      details: { node, clockStands },
      milliseconds: between(10, longest),
      end: () => {
        if (target.state(node) === 'paused') target.resume(node, clockStands);
      },
    };
  },
};

/** One after the other, as for an upgrade. */
const rolling: FaultKind = {
  kind: 'rolling-restart',
  profiles: ['network', 'membership'],
  everyMilliseconds: 15_000,
  begin({ target, keepDown, between, mayStop }) {
    const nodes = [...target.nodes()];
    const apart = between(500, 3_000);
    let isOver = false;
    const next = () => {
      const node = nodes.shift();
      if (node === undefined || isOver) return;
      if (target.state(node) === 'up' && mayStop()) {
        target.kill(node);
        keepDown(node, between(0, apart));
      }
      target.clock.after(apart, next);
    };
    const details = { nodes: [...nodes], apart };
    const milliseconds = nodes.length * apart;
    next();
    return {
      details,
      milliseconds,
      end: () => {
        isOver = true;
      },
    };
  },
};

const rate: FaultKind = {
  kind: 'clock-rate',
  profiles: everywhere,
  everyMilliseconds: 7_000,
  begin({ target, pick, between }) {
    const node = pick(target.nodes());
    const drawn = between(50, 200);
    const percent = target.clocksAgree ? 100 + (drawn - 100) / 200 : drawn;
    target.nodeClock(node).rate = percent / 100;
    return {
      details: { node, percent },
      milliseconds: between(500, 15_000),
      end: () => {
        target.nodeClock(node).rate = 1;
      },
    };
  },
};

const wallJump: FaultKind = {
  kind: 'wall-jump',
  profiles: everywhere,
  everyMilliseconds: 6_000,
  begin({ target, pick, between, oneIn }) {
    const node = pick(target.nodes());
    const longest = pick([10, 5_000, 60_000, 86_400_000]);
    const milliseconds = oneIn(2) ? between(1, longest) : -between(1, longest);
    target.nodeClock(node).jumpWall(milliseconds);
    return { details: { node, milliseconds }, milliseconds: 0 };
  },
};

export const processKinds: readonly FaultKind[] = [kill, crash, powerLoss, pause, rolling, rate, wallJump];
