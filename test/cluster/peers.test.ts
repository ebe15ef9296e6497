// What is known of the other nodes: newer processes replace older ones, later words earlier ones.

import { describe, expect, test } from 'vitest';
import { Peers } from '../../cluster/peers/peers.ts';
import { Routes } from '../../cluster/peers/routes.ts';
import type { NodeStatus } from '../../cluster/peers/wire.ts';

const status = (sequence: number, more: Partial<NodeStatus> = {}): NodeStatus => ({
  sequence,
  clock: 0,
  metadataApplied: 0,
  metadataHalted: false,
  heard: [],
  connected: [],
  led: new Map(),
  followed: new Map(),
  damaged: [],
  members: [],
  processes: new Map(),
  disk: 'ok',
  ...more,
});

describe('peers', () => {
  test('a newer process is a new one: nothing that the older one said counts, and nothing that still comes from it', () => {
    const peers = new Peers([2], 50);
    peers.heard(2, 5, true);
    peers.told(2, status(9, { metadataApplied: 70, metadataHalted: true }));
    peers.leaving(2);
    expect(peers.mayLead(2)).toBe(false);
    expect(peers.heard(2, 6, false)).toMatchObject({ status: null, metadataApplied: 0, leaving: false });
    expect(peers.mayLead(2)).toBe(true);
    expect(peers.heard(2, 5, false)).toBeUndefined();
    expect(peers.told(2, status(1))).toBe('changed');
  });

  test('a status that was overtaken is not listened to', () => {
    const peers = new Peers([2], 50);
    peers.heard(2, 1, true);
    expect(peers.told(2, status(1))).toBe('changed');
    expect(peers.told(2, status(3, { led: new Map([[4, 7]]) }))).toBe('changed');
    expect(peers.told(2, status(2, { led: new Map([[4, 9]]) }))).toBe('stale');
    expect(peers.told(2, status(3))).toBe('stale');
    expect(peers.get(2)!.status!.led.get(4)).toBe(7);
  });

  test('only what others decide by is news', () => {
    const peers = new Peers([2], 50);
    peers.heard(2, 1, true);
    const first = { heard: [1, 3], connected: [1], led: new Map([[4, 7]]) };
    peers.told(2, status(1, first));
    expect(peers.told(2, status(2, { ...first, clock: 5, metadataApplied: 8 }))).toBe('same');
    expect(peers.get(2)!.metadataApplied).toBe(8);
    for (const [i, news] of [
      { ...first, heard: [1] },
      { ...first, connected: [1, 3] },
      { ...first, led: new Map([[4, 8]]) },
      { ...first, led: new Map([[5, 7]]) },
      { ...first, metadataHalted: true },
    ].entries()) {
      expect(peers.told(2, status(10 + 2 * i, news))).toBe('changed');
      expect(peers.told(2, status(11 + 2 * i, first))).toBe('changed');
    }
  });

  test('silence ends with anything that is heard, its own connection is silent on its own', () => {
    const peers = new Peers([2], 50);
    peers.up(2, 1);
    for (let i = 0; i < 7; i++) peers.tick();
    expect(peers.silentMilliseconds(2)).toBe(350);
    peers.heard(2, 1, false);
    expect(peers.silentMilliseconds(2)).toBe(0);
    expect(peers.get(2)!.directSilentTicks).toBe(7);
    peers.heard(2, 1, true);
    expect(peers.get(2)!.directSilentTicks).toBe(0);
    expect(peers.silentMilliseconds(9)).toBe(0);
  });

  test('an answer by a relay does not show that the connection works', () => {
    const peers = new Peers([2], 50);
    peers.up(2, 1);
    peers.applied(2, 5);
    expect(peers.answers(2)).toBe(false);
    expect(peers.reached(2)).toBe(true);
    expect(peers.reached(2)).toBe(false);
    expect(peers.answers(2)).toBe(true);
    peers.down(2);
    expect(peers.answers(2)).toBe(false);
  });
});

describe('ways', () => {
  /** Node 1 among five; `up` holds whom it is connected with. */
  function one(up: Set<number>) {
    const peers = new Peers([2, 3, 4, 5], 50);
    const routes = new Routes({ node: 1, peers, silentTicksMax: 6, isUp: (node) => up.has(node) });
    let sequence = 0;
    const told = (node: number, heard: number[], connected = heard) => {
      peers.heard(node, 1, up.has(node));
      peers.told(node, status(++sequence, { heard, connected }));
    };
    for (const node of up) peers.up(node, 1);
    const ways = () => {
      routes.update();
      return [2, 3, 4, 5].map((node) => routes.via(node));
    };
    return { peers, routes, told, ways };
  }

  test('lead straight to whoever is connected, as soon as it is', () => {
    const { ways, routes } = one(new Set([2, 3]));
    expect(ways()).toEqual([2, 3, 0, 0]);
    expect(routes.heard).toEqual([2, 3]);
    expect(routes.connected).toEqual([]);
  });

  test('lead by the peer with the lowest number that is connected both to us and to the node', () => {
    const { ways, told, routes } = one(new Set([2, 3, 4]));
    told(4, [1, 3, 5]);
    expect(ways()).toEqual([2, 3, 4, 4]);
    told(3, [1, 4, 5]);
    expect(ways()).toEqual([2, 3, 4, 3]);
    told(2, [1, 5], [1]);
    expect(ways()).toEqual([2, 3, 4, 3]);
    told(2, [5], [5]);
    expect(ways()).toEqual([2, 3, 4, 3]);
    expect(routes.connected).toEqual([3, 4]);
  });

  test('never lead by somebody who needs a relay himself', () => {
    const { ways, told } = one(new Set([2]));
    told(2, [1, 3]);
    told(3, [2, 4]);
    expect(ways()).toEqual([2, 2, 0, 0]);
  });

  test('leave a connection on which nothing comes, if there is another way, and come back', () => {
    const { ways, told, peers, routes } = one(new Set([2, 3]));
    told(2, [1, 3]);
    told(3, [1, 2]);
    expect(ways()).toEqual([2, 3, 0, 0]);
    for (let i = 0; i < 6; i++) {
      peers.tick();
      peers.heard(3, 1, true);
    }
    expect(ways()).toEqual([3, 3, 0, 0]);
    expect(routes.heard).toEqual([3]);
    peers.heard(2, 1, true);
    expect(ways()).toEqual([2, 3, 0, 0]);
  });

  test('leave a connection when its other end does not hear us', () => {
    const { ways, told, routes } = one(new Set([2, 3]));
    told(3, [1, 2]);
    told(2, [3]);
    expect(ways()).toEqual([3, 3, 0, 0]);
    expect([routes.heard, routes.connected]).toEqual([[2, 3], [3]]);
  });

  test('stay on a silent connection when nobody else is better off: a node that is paused', () => {
    const { ways, told, peers } = one(new Set([2, 3]));
    told(2, [1]);
    told(3, [1, 2]);
    for (let i = 0; i < 10; i++) peers.tick();
    expect(ways()).toEqual([2, 3, 0, 0]);
  });
});
