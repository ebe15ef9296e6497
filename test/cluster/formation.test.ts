// How a cluster begins, over a simulated network: with nodes that are late, that die in the middle, and that lost their data.

import { describe, expect, it } from 'vitest';
import { type Format, type Formation, FormationError, formCluster } from '../../cluster/formation.ts';
import { createTransport } from '../../cluster/transport.ts';
import type { Transport } from '../../cluster/transport-types.ts';
import { createMemoryClock } from '../support/memory-clock.ts';
import { createMemoryNetwork } from '../support/memory-net.ts';
import { createMemoryRandom } from '../support/memory-random.ts';

const addressOf = (node: number) => ({ node, name: `n${node}`, address: { host: `n${node}`, port: 7000 } });

interface Row {
  prepared: Format | null;
  committed: Format | null;
  formation: Formation | null;
  outcome: Format | Error | null;
}

/** Nodes with folders that survive them. */
class Founders {
  readonly clock = createMemoryClock();
  readonly random;
  readonly network;
  readonly rows: Row[];
  readonly transports: Transport[] = [];
  readonly #count: number;
  /** Called before a node's folder is written; throws to model a crash. */
  onWrite: (node: number, what: 'prepare' | 'commit') => void = () => {};

  constructor(count: number, seed = 1) {
    this.#count = count;
    this.random = createMemoryRandom(seed);
    this.network = createMemoryNetwork(this.clock, this.random);
    this.rows = Array.from({ length: count }, () => ({
      prepared: null,
      committed: null,
      formation: null,
      outcome: null,
    }));
  }

  row(node: number): Row {
    return this.rows[node - 1]!;
  }

  start(node: number, settingsId = 'same'): void {
    const row = this.row(node);
    const ports = { clock: this.clock, random: this.random, net: this.network.endpoint(`n${node}`) };
    row.outcome = null;
    if (row.committed !== null) return void this.#serve(node, ports);
    row.formation = formCluster(
      {
        settingsId,
        node,
        nodeName: `n${node}`,
        nodes: Array.from({ length: this.#count }, (_, i) => addressOf(i + 1)),
        peerListen: addressOf(node).address,
        secret: 'a secret of the test',
        prepared: row.prepared,
        prepare: (format) => {
          this.onWrite(node, 'prepare');
          row.prepared = format;
        },
        commit: (format) => {
          this.onWrite(node, 'commit');
          row.committed = format;
        },
        handshakeMilliseconds: 1_000,
        redialMilliseconds: 50,
        report: () => {},
      },
      ports,
    );
    row.formation.done.then(
      (format) => {
        row.outcome = format;
        void this.#serve(node, ports);
      },
      (error: Error) => {
        row.outcome = error;
      },
    );
  }

  /** As a formatted node does: the transport listens where the formation did. */
  async #serve(node: number, ports: Parameters<typeof createTransport>[0]): Promise<void> {
    const format = this.row(node).committed!;
    const transport = createTransport(
      ports,
      {
        clusterId: format.clusterId,
        node,
        nodeName: `n${node}`,
        nodeUuid: format.nodes[node - 1]!.uuid,
        incarnation: 1,
        listen: addressOf(node).address,
        peers: Array.from({ length: this.#count }, (_, i) => addressOf(i + 1)),
        secret: 'a secret of the test',
        frameBytesMax: 1024,
        handshakeMilliseconds: 1_000,
        redialMilliseconds: 50,
        redialMillisecondsMax: 500,
      },
      {
        frame() {},
        up() {},
        down() {},
        drained() {},
        refused() {},
        checkPeer: () => null,
        isGone: () => false,
        gone() {},
      },
    );
    this.transports.push(transport);
    await transport.start();
  }

  crash(node: number): void {
    this.row(node).formation?.cancel();
    this.network.crash(`n${node}`);
  }

  async run(milliseconds: number): Promise<void> {
    await this.clock.runUntil(() => false, milliseconds);
  }

  formed(...nodes: number[]): Promise<boolean> {
    return this.clock.runUntil(() => nodes.every((node) => this.row(node).committed !== null), 20_000);
  }

  ids(): (string | undefined)[] {
    return this.rows.map(({ committed }) => committed?.clusterId);
  }
}

describe('a new cluster', () => {
  it('is formed once all nodes are there, with one id and a UUID each', async () => {
    const founders = new Founders(3);
    founders.start(2);
    founders.start(3);
    await founders.run(3_000);
    expect(founders.ids()).toEqual([undefined, undefined, undefined]);
    expect(founders.row(3).formation!.missing()).toEqual(['n1']);
    founders.start(1);
    expect(await founders.formed(1, 2, 3)).toBe(true);
    const { clusterId, nodes } = founders.row(1).committed!;
    expect(new Set(founders.ids())).toEqual(new Set([clusterId]));
    expect(nodes.map(({ name }) => name)).toEqual(['n1', 'n2', 'n3']);
    expect(new Set(nodes.map(({ uuid }) => uuid)).size).toBe(3);
  });

  it('of one node is formed at once', async () => {
    const founders = new Founders(1);
    founders.start(1);
    expect(await founders.formed(1)).toBe(true);
  });

  it('is not formed by nodes whose settings differ', async () => {
    const founders = new Founders(2);
    founders.start(1);
    founders.start(2, 'other');
    await founders.run(5_000);
    expect(founders.ids()).toEqual([undefined, undefined]);
  });

  it.each([1, 2, 3])('comes to one format when node %i dies at any write and starts again', async (victim) => {
    for (const what of ['prepare', 'commit'] as const)
      for (const durable of [false, true]) {
        const founders = new Founders(3, victim);
        let died = false;
        founders.onWrite = (node, write) => {
          if (died || node !== victim || write !== what) return;
          died = true;
          if (durable) founders.clock.soon(() => founders.crash(victim));
          else {
            founders.crash(victim);
            throw new Error('the process died here');
          }
        };
        for (const node of [1, 2, 3]) founders.start(node);
        await founders.run(3_000).catch(() => {});
        await founders.run(500);
        founders.start(victim);
        expect(await founders.formed(1, 2, 3), `${what}, ${durable ? 'written' : 'lost'}`).toBe(true);
        expect(new Set(founders.ids()).size).toBe(1);
        expect(founders.rows.some(({ outcome }) => outcome instanceof FormationError)).toBe(false);
      }
  });

  it('is joined late by a node that prepared and missed the commit', async () => {
    const founders = new Founders(3);
    founders.onWrite = (node, what) => {
      if (node === 1 && what === 'commit') founders.crash(3);
    };
    for (const node of [1, 2, 3]) founders.start(node);
    expect(await founders.formed(1, 2)).toBe(true);
    expect(founders.row(3).committed).toBeNull();
    await founders.run(2_000);
    founders.start(3);
    expect(await founders.formed(3)).toBe(true);
    expect(new Set(founders.ids()).size).toBe(1);
  });
});

describe('a node without its data', () => {
  it('is told so by any node of the cluster that it was part of, and forms no other', async () => {
    const founders = new Founders(3);
    for (const node of [1, 2, 3]) founders.start(node);
    expect(await founders.formed(1, 2, 3)).toBe(true);
    await founders.run(1_000);
    // Wiped: also while one of the others is away, which must not look like a new cluster.
    founders.crash(2);
    founders.crash(1);
    const row = founders.row(1);
    row.prepared = row.committed = null;
    founders.start(1);
    expect(await founders.clock.runUntil(() => row.outcome !== null, 5_000)).toBe(true);
    expect(row.outcome).toBeInstanceOf(FormationError);
    expect((row.outcome as Error).message).toMatch(
      /node n1: its data folder is empty, but node n3 belongs to a cluster/,
    );
    expect(row.prepared).toBeNull();
  });
});
