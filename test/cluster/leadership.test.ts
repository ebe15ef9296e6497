// Who is asked to lead, and who gives a leadership up. The cores are dummies that write down what they are asked for.

import { describe, expect, test } from 'vitest';
import type { Group } from '../../cluster/group/group.ts';
import { defaultLimits } from '../../cluster/index.ts';
import { Leadership } from '../../cluster/leading/leadership.ts';
import { metadataGroup, replicasOf, volatileGroupOf } from '../../cluster/machine/groups.ts';
import { Peers } from '../../cluster/peers/peers.ts';
import { createMemoryClock } from '../support/memory-clock.ts';

const volatileGroup = volatileGroupOf({ node: 1, incarnation: 1 });

/** Node `node` of `nodeCount`, with replicas of all its groups, of which the one that should lead leads. */
function setting(node: number, nodeCount: number, shards: number) {
  const nodes = Array.from({ length: nodeCount }, (_, i) => i + 1);
  const replicas = (group: number) => replicasOf(group, nodes, 3);
  const peers = new Peers(
    nodes.filter((other) => other !== node),
    50,
  );
  const asked: string[] = [];
  const leaving = new Set<number>();
  const groups = new Map<number, ReturnType<typeof dummy>>();
  const dummy = (id: number) => {
    const state = { halted: null as Error | null, leader: replicas(id)[0]!, transferee: 0 };
    const raft = {
      get role() {
        return state.leader === node ? 'leader' : 'follower';
      },
      get leader() {
        return state.leader;
      },
      campaign: () => asked.push(`campaign ${id}`),
      leaderLost: (ticks: number) => asked.push(`lost ${id} ${ticks}`),
      stepDown: () => asked.push(`step down ${id}`),
      transferLeadership: (to: number) => {
        asked.push(`transfer ${id} ${to}`);
        state.transferee = to;
        return true;
      },
      status: () => ({
        transferee: state.transferee,
        lastIndex: 10,
        progress: replicas(id)
          .filter((other) => other !== node)
          .map((other) => ({ id: other, match: 10 - other / 10, active: true, learner: false, state: 'replicate' })),
      }),
    };
    return {
      id,
      raft,
      state,
      get leads() {
        return raft.role === 'leader';
      },
      get isReadable() {
        return state.halted === null;
      },
      get halted() {
        return state.halted;
      },
    };
  };
  for (const id of [metadataGroup, ...Array.from({ length: shards }, (_, i) => i + 1), volatileGroup])
    if (replicas(id).includes(node)) groups.set(id, dummy(id));
  const leadership = new Leadership({
    node,
    limits: defaultLimits,
    clock: createMemoryClock(),
    peers,
    groups: groups as unknown as ReadonlyMap<number, Group>,
    report: () => {},
    replicas,
    stays: (other) => !leaving.has(other),
    isUp: () => true,
    metadataVersion: () => 0,
    dirty: () => {},
  });
  /** All peers are connected for long, and have told of themselves. */
  const meet = (...halted: number[]) => {
    for (const other of nodes) {
      if (other === node) continue;
      peers.up(other, 1);
      peers.applied(other, 0);
      peers.reached(other);
      peers.told(other, {
        sequence: 1,
        clock: 0,
        metadataApplied: 0,
        metadataHalted: halted.includes(other),
        heard: [],
        connected: [],
        led: new Map(),
        followed: new Map(),
        damaged: [],
        members: [],
        processes: new Map(),
        disk: 'ok',
      });
      for (let i = 0; i < 30; i++) peers.tick();
    }
  };
  return { leadership, peers, groups, asked, leaving, meet };
}

describe('at the start', () => {
  test('a node asks for the groups that it prefers once a majority of their replicas answers, not of the nodes', () => {
    const { leadership, groups, peers, asked } = setting(1, 5, 5);
    for (const { state } of groups.values()) state.leader = 0;
    peers.up(5, 1);
    peers.applied(5, 0);
    peers.reached(5);
    leadership.campaignWhereNobodyLeads();
    expect(asked).toEqual([]);
    peers.up(2, 1);
    leadership.campaignWhereNobodyLeads();
    expect(asked).toEqual([]);
    peers.applied(2, 0);
    peers.reached(2);
    leadership.campaignWhereNobodyLeads();
    expect(asked).toEqual(['campaign 1']);
  });

  test('the metadata wait for a majority of all nodes', () => {
    const { leadership, groups, peers, asked } = setting(5, 5, 1);
    groups.get(metadataGroup)!.state.leader = 0;
    for (const other of [1, 2]) {
      leadership.campaignWhereNobodyLeads();
      expect(asked).toEqual([]);
      peers.up(other, 1);
      peers.applied(other, 0);
      peers.reached(other);
    }
    leadership.campaignWhereNobodyLeads();
    expect(asked).toEqual(['campaign 0']);
  });
});

describe('when the connection to a leader breaks', () => {
  test('one of the other replicas campaigns at once, and those of one node are spread evenly', () => {
    for (const nodeCount of [3, 5, 7]) {
      const shards = nodeCount * 8;
      const campaigns = new Map<number, number>();
      for (let node = 2; node <= nodeCount; node++) {
        const { leadership, asked, meet } = setting(node, nodeCount, shards);
        meet();
        leadership.peerDown(1);
        campaigns.set(node, asked.filter((line) => line.startsWith('lost') && line.endsWith(' 0')).length);
      }
      const counts = [2, 3].map((node) => campaigns.get(node));
      expect(counts, `${nodeCount} nodes`).toEqual([4, 4]);
      expect([...campaigns.values()].reduce((sum, count) => sum + count, 0)).toBe(8);
    }
  });

  test('a node that must not lead is passed over, and leaves it to the others itself', () => {
    const { leadership, asked, meet } = setting(3, 3, 6);
    meet(2);
    leadership.peerDown(1);
    expect(asked).toEqual(['lost 1 0', 'lost 4 0']);
    const halted = setting(2, 3, 6);
    halted.meet();
    halted.groups.get(metadataGroup)!.state.halted = new Error('a bug');
    halted.leadership.peerDown(1);
    expect(halted.asked).toEqual(['lost 1 12', 'lost 4 12']);
  });

  test('a replica that stopped and a volatile group are not asked', () => {
    const { leadership, groups, asked, meet } = setting(1, 3, 3);
    meet();
    for (const { state } of groups.values()) state.leader = 2;
    groups.get(3)!.state.halted = new Error('a bug');
    leadership.peerDown(2);
    expect(asked.map((line) => Number(line.split(' ')[1]))).toEqual([0, 1, 2]);
  });
});

describe('balance', () => {
  test('hands a group to the first of its replicas', () => {
    const { leadership, groups, asked, meet } = setting(1, 5, 5);
    groups.get(5)!.state.leader = 1;
    meet();
    leadership.balance();
    expect(asked).toEqual(['transfer 5 5']);
  });

  test('hands nothing to a node that is about to stop, or whose metadata stopped', () => {
    for (const how of ['leaving', 'halted']) {
      const { leadership, groups, peers, asked, meet } = setting(1, 5, 5);
      groups.get(5)!.state.leader = 1;
      meet(...(how === 'halted' ? [5] : []));
      if (how === 'leaving') peers.leaving(5);
      leadership.balance();
      expect(asked).toEqual([]);
    }
  });

  test('a node that leaves the cluster hands over what it leads, keeps what nobody can take, and is given nothing', () => {
    const { leadership, leaving, asked, meet } = setting(1, 3, 6);
    meet();
    leaving.add(1).add(2);
    leadership.balance();
    leadership.balance();
    expect(asked).toEqual(['transfer 1 3', 'transfer 4 3']);
    const other = setting(1, 3, 6);
    other.meet(2, 3);
    other.leaving.add(1);
    other.leadership.balance();
    expect(other.asked).toEqual([]);
    const giver = setting(1, 5, 5);
    giver.groups.get(5)!.state.leader = 1;
    giver.meet();
    giver.leaving.add(5);
    giver.leadership.balance();
    expect(giver.asked).toEqual([]);
  });

  test('a node whose metadata stopped gives up what it leads, once, to somebody who may lead', () => {
    const { leadership, groups, asked, meet } = setting(1, 3, 6);
    meet(2);
    groups.get(metadataGroup)!.state.halted = new Error('a bug');
    leadership.balance();
    leadership.balance();
    expect(asked).toEqual(['transfer 1 3', 'transfer 4 3']);
  });

  test('it steps down if nobody can take over, and goes on if nobody else has the group', () => {
    const { leadership, groups, asked, meet } = setting(1, 3, 3);
    meet(2, 3);
    groups.get(metadataGroup)!.state.halted = new Error('a bug');
    leadership.balance();
    expect(asked).toEqual(['step down 1']);
    const alone = setting(1, 1, 2);
    alone.groups.get(metadataGroup)!.state.halted = new Error('a bug');
    alone.leadership.balance();
    expect(alone.asked).toEqual([]);
  });
});
