// Changes of members while everything else goes wrong: nodes that join, leave, and are replaced after losing their disk.

import type { FaultKind } from './target.ts';

const nodesMax = 5;

const join: FaultKind = {
  kind: 'join',
  profiles: ['membership'],
  everyMilliseconds: 6_000,
  begin({ target }) {
    const { membership } = target;
    if (membership === null || target.nodes().length >= nodesMax || membership.isBusy()) return null;
    return { details: { node: membership.join() }, milliseconds: 0 };
  },
};

const leave: FaultKind = {
  kind: 'leave',
  profiles: ['membership'],
  everyMilliseconds: 8_000,
  begin({ target, pick, pickNode, oneIn, hasDamage }) {
    const { membership } = target;
    const through = pickNode('up');
    if (membership === null || through === null || membership.isBusy()) return null;
    const left = target.nodes().length - 1;
    // A group of one has no second copy to repair it from.
    if (left < 1 || (left < 3 && (hasDamage || !oneIn(3)))) return null;
    const node = pick(target.nodes());
    membership.leave(through, node);
    return { details: { through, node, state: target.state(node) }, milliseconds: 0 };
  },
};

const replace: FaultKind = {
  kind: 'replace',
  profiles: ['membership', 'disk'],
  everyMilliseconds: 12_000,
  begin({ target, pick, pickNode, hasDamage }) {
    const { membership } = target;
    if (membership === null || membership.isBusy() || hasDamage || target.nodes().length < 3) return null;
    if (target.groups().some((group) => target.replicasOf(group).length < 3)) return null;
    const through = pickNode('up');
    if (through === null) return null;
    const node = pick(target.nodes().filter((other) => other !== through));
    membership.replace(through, node);
    return { details: { through, node }, milliseconds: 0 };
  },
};

export const membershipKinds: readonly FaultKind[] = [join, leave, replace];
