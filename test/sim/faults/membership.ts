// Changes of members while everything else goes wrong: nodes that join, leave, and are replaced after losing their disk; and leaders that are
// cut off, or whose disks are slow, in the middle of such a change.

import { metadataGroup } from '../../../cluster/machine/groups.ts';
import type { FaultKind } from './target.ts';

/** Without one of these nothing of this file happens. */
export const changeKinds = ['join', 'leave', 'replace'];

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

/** It hears what is to be changed, and nobody hears what it does about it; or nobody hears it, nor it them. */
const cutOff: FaultKind = {
  kind: 'cut-in-change',
  profiles: ['membership'],
  everyMilliseconds: 2_000,
  begin({ target, pick, oneIn, between }) {
    const { membership, network } = target;
    if (membership?.isBusy() !== true) return null;
    const group = pick(target.groups());
    const leader = target.leaderOf(group);
    if (leader === null) return null;
    const isDeaf = oneIn(3);
    const place = target.place(leader);
    for (const node of target.nodes()) {
      if (node === leader) continue;
      network.cut(place, target.place(node), 'drop');
      if (isDeaf) network.cut(target.place(node), place, 'drop');
    }
    return {
      details: { group, leader, isDeaf },
      milliseconds: between(100, 4 * target.electionMilliseconds),
      end: () => network.heal(),
    };
  },
};

/** The disks of a leader and of half of its group are slow, and those of the others are not: what the group decides comes late to all else. */
const slowDisks: FaultKind = {
  kind: 'slow-in-change',
  profiles: ['membership'],
  apartSeeds: 6,
  everyMilliseconds: 1_500,
  begin({ target, between }) {
    const shards = target.groups().filter((group) => group !== metadataGroup);
    if (target.membership?.isBusy() !== true || shards.length === 0) return null;
    // The one that is between two places has the most.
    const count = (group: number) => target.replicasOf(group).length;
    const group = shards.reduce((most, other) => (count(other) > count(most) ? other : most));
    const leader = target.leaderOf(group);
    if (leader === null) return null;
    const others = target.replicasOf(group).filter((node) => node !== leader);
    const nodes = [leader];
    while (2 * nodes.length < count(group)) nodes.push(...others.splice(between(0, others.length - 1), 1));
    const leastMilliseconds = between(20, 200);
    const latency = { leastMilliseconds, mostMilliseconds: 2 * leastMilliseconds, bytesPerMillisecond: 100_000 };
    const before = nodes.map((node) => ({ disk: target.disk(node), normal: target.disk(node).latency }));
    for (const { disk } of before) disk.latency = latency;
    return {
      details: { group, nodes, leastMilliseconds },
      milliseconds: between(500, 6_000),
      end: () => {
        for (const { disk, normal } of before) if (disk.latency === latency) disk.latency = normal;
      },
    };
  },
};

export const membershipKinds: readonly FaultKind[] = [join, leave, replace, cutOff, slowDisks];
