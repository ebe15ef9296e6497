// Which node should lead which group: even numbers for all nodes that may lead, as near as the replicas allow, and where the cluster began
// with them as long as that is even. A pure function of the placements, so that all nodes agree without a word. PURE.

import { metadataGroup } from '../groups.ts';

/** `groups`: the voters of each, ascending, by ascending number. A group of whose voters none may lead still prefers one. */
export function preferredLeaders(
  groups: ReadonlyMap<number, readonly number[]>,
  original: readonly number[],
  mayLead: (node: number) => boolean,
): Map<number, number> {
  const leaders = new Map<number, number>();
  const led = new Map<number, Set<number>>();
  for (const [group, voters] of groups) {
    const able = voters.filter(mayLead);
    for (const node of able) if (!led.has(node)) led.set(node, new Set());
    const first = original[(group + original.length - 1) % original.length]!;
    const line = able.length > 0 ? able : voters;
    // Nothing is gained by moving the metadata about: they stay with the oldest node when their first leader is gone.
    const other = group === metadataGroup ? line[0]! : line[(group - 1) % line.length]!;
    const leader = line.includes(first) ? first : other;
    leaders.set(group, leader);
    led.get(leader)?.add(group);
  }
  let isMoved = true;
  while (isMoved) isMoved = evenOut(groups, led, leaders);
  return leaders;
}

/** Takes one group off a node that leads two more than another, along a chain of hand-overs that ends there. False: there is no such chain. */
function evenOut(
  groups: ReadonlyMap<number, readonly number[]>,
  led: ReadonlyMap<number, Set<number>>,
  leaders: Map<number, number>,
): boolean {
  const count = (node: number) => led.get(node)!.size;
  const nodes = [...led.keys()].sort((a, b) => count(b) - count(a) || a - b);
  for (const start of nodes) {
    if (count(start) - count(nodes[nodes.length - 1]!) < 2) return false;
    /** By the node that would get it: the group, and from whom. */
    const from = new Map<number, { readonly group: number; readonly node: number }>();
    const reached = [start];
    for (const node of reached) {
      for (const group of led.get(node)!) {
        for (const next of groups.get(group)!) {
          if (next === start || from.has(next) || !led.has(next)) continue;
          from.set(next, { group, node });
          reached.push(next);
        }
        if (reached.length === nodes.length) break;
      }
    }
    const end = reached.find((node) => count(node) <= count(start) - 2);
    if (end === undefined) continue;
    for (let node = end; node !== start; ) {
      const step = from.get(node)!;
      led.get(step.node)!.delete(step.group);
      led.get(node)!.add(step.group);
      leaders.set(step.group, node);
      node = step.node;
    }
    return true;
  }
  return false;
}
