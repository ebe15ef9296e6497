// How a node is let into a cluster, over a simulated network: by any of its nodes, once, whatever is lost on the way; or told why not.

import { describe, expect, it } from 'vitest';
import { FormationError } from '../../cluster/formation.ts';
import {
  Door,
  type Joining,
  type JoinOptions,
  joinCluster,
  type Membership,
  parseMembership,
} from '../../cluster/joining.ts';
import type { MetadataCommand } from '../../cluster/machine/metadata-types.ts';
import type { CommandReply } from '../../cluster/origin/pipe.ts';
import { createTransport } from '../../cluster/transport.ts';
import { Bench, formedOf, openNode } from '../machine/metadata-support.ts';
import { createMemoryClock } from '../support/memory-clock.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';
import { createMemoryNetwork } from '../support/memory-net.ts';
import { createMemoryRandom } from '../support/memory-random.ts';

const secret = 'a secret of the test';
const at = (host: string) => ({ host, port: 7000 });

/** Members n1 … n3 that share one replica of the metadata, and nodes that ask them. */
class Cluster {
  readonly clock = createMemoryClock();
  readonly random = createMemoryRandom(1);
  readonly network = createMemoryNetwork(this.clock, this.random);
  readonly bench = new Bench(3, { initial: formedOf(3) });
  readonly reports: string[] = [];
  /** What becomes of a change: its reply may be kept from the asker. */
  onChange: (reply: CommandReply, run: () => void) => void = (_reply, run) => run();
  isReady = true;

  constructor() {
    this.bench.run(openNode(1, 1), openNode(1, 2), openNode(1, 3));
  }

  async open(node: number, its = secret): Promise<void> {
    const ports = this.#ports(`n${node}`);
    const { machine } = this.bench;
    const door = new Door({
      clusterName: 'warren',
      clusterId: 'c1',
      original: formedOf(3).nodes.map((known) => ({ ...known, uuid: `uuid-${known.node}` })),
      shards: 3,
      replication: 3,
      metadata: machine,
      clock: this.clock,
      report: () => {},
      isReady: () => this.isReady,
      change: (command, reply) => this.onChange(reply, () => this.#change(command, reply)),
      addressOf: (other) => at(`n${other}`),
    });
    const transport = createTransport(
      ports,
      {
        clusterId: 'c1',
        node,
        nodeName: `n${node}`,
        nodeUuid: `uuid-${node}`,
        incarnation: 1,
        listen: at(`n${node}`),
        peers: [],
        secret: its,
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
        refused: (_address, reason) => void this.reports.push(reason),
        checkPeer: () => null,
        isGone: () => false,
        gone() {},
        joining: (connection, guest) => door.accept(connection, guest),
      },
    );
    await transport.start();
  }

  ask(name: string, options: Partial<JoinOptions> = {}): { joining: Joining; outcome: Membership | Error | null } {
    const asked = {
      joining: joinCluster(
        {
          clusterName: 'warren',
          nodeName: name,
          uuid: `uuid-of-${name}`,
          address: at(name),
          replaces: null,
          contacts: [at('n1'), at('n2')],
          secret,
          handshakeMilliseconds: 1_000,
          redialMilliseconds: 50,
          redialMillisecondsMax: 500,
          report: (_level, _event, { reason }) => void this.reports.push(String(reason)),
          ...options,
        },
        this.#ports(name),
      ),
      outcome: null as Membership | Error | null,
    };
    const settle = (outcome: Membership | Error) => {
      asked.outcome = outcome;
    };
    asked.joining.done.then(settle, settle);
    return asked;
  }

  run(milliseconds: number, done: () => boolean = () => false): Promise<boolean> {
    return this.clock.runUntil(done, milliseconds);
  }

  async refusal(name: string, options: Partial<JoinOptions> = {}): Promise<string> {
    const asked = this.ask(name, options);
    await this.run(5_000, () => asked.outcome !== null);
    expect(asked.outcome).toBeInstanceOf(FormationError);
    return (asked.outcome as Error).message;
  }

  #change(command: MetadataCommand, reply: CommandReply): void {
    const [code, value] = this.bench.run(command)[0]!;
    reply({ code, value, extra: 0 });
  }

  #ports(host: string) {
    return { clock: this.clock, random: this.random, net: this.network.endpoint(host) };
  }
}

describe('A node that joins', () => {
  it('is given its number, what the cluster was formed with, and where the others are', async () => {
    const cluster = new Cluster();
    await cluster.open(1);
    const asked = cluster.ask('n4');
    await cluster.run(2_000, () => asked.outcome !== null);
    expect(asked.outcome).toEqual({
      node: 4,
      uuid: 'uuid-of-n4',
      format: { clusterId: 'c1', nodes: formedOf(3).nodes.map((known) => ({ ...known, uuid: `uuid-${known.node}` })) },
      shards: 3,
      replication: 3,
      contacts: [1, 2, 3].map((node) => ({ node, name: `n${node}`, address: at(`n${node}`) })),
    });
    expect(parseMembership(JSON.parse(JSON.stringify(asked.outcome)))).toEqual(asked.outcome);
    expect(cluster.bench.machine.member(4)).toEqual({
      node: 4,
      name: 'n4',
      uuid: 'uuid-of-n4',
      address: at('n4'),
      state: 'joining',
    });
  });

  it('asks one address after the other until somebody can answer', async () => {
    const cluster = new Cluster();
    const asked = cluster.ask('n4');
    await cluster.run(1_000);
    expect(asked.joining.waitingFor()).toContain('cannot be reached');
    cluster.isReady = false;
    await cluster.open(2);
    await cluster.run(2_000);
    expect(cluster.reports.some((reason) => reason.includes('not ready itself'))).toBe(true);
    expect(asked.outcome).toBeNull();
    cluster.isReady = true;
    await cluster.run(2_000, () => asked.outcome !== null);
    expect(asked.outcome).toMatchObject({ node: 4 });
  });

  it('gets the same number again when the answer was lost, or its node died before it was written down', async () => {
    const cluster = new Cluster();
    await cluster.open(1);
    await cluster.open(2);
    let lost = 0;
    cluster.onChange = (reply, run) => {
      run();
      if (lost++ === 0) cluster.network.crash('n4');
      else void reply;
    };
    const first = cluster.ask('n4');
    await cluster.run(300);
    first.joining.cancel();
    expect(lost).toBeGreaterThan(0);
    const second = cluster.ask('n4');
    await cluster.run(2_000, () => second.outcome !== null);
    expect(second.outcome).toMatchObject({ node: 4 });
    expect([...cluster.bench.machine.members()].length).toBe(4);
  });

  it('asks again when nobody knows what became of its request', async () => {
    const cluster = new Cluster();
    await cluster.open(1);
    await cluster.open(2);
    let times = 0;
    cluster.onChange = (reply, run) => {
      if (times++ > 2) run();
      else reply(null);
    };
    const asked = cluster.ask('n4');
    await cluster.run(5_000, () => asked.outcome !== null);
    expect(asked.outcome).toMatchObject({ node: 4 });
    expect(cluster.reports.join()).toContain('no majority');
  });

  it('takes the place of another, which leaves with it', async () => {
    const cluster = new Cluster();
    await cluster.open(1);
    const asked = cluster.ask('new', { replaces: 'n2' });
    await cluster.run(2_000, () => asked.outcome !== null);
    expect(asked.outcome).toMatchObject({ node: 4 });
    expect(cluster.bench.machine.member(2)!.state).toBe('leaving');
  });

  it('is told why it cannot', async () => {
    const cluster = new Cluster();
    await cluster.open(1);
    await cluster.open(2);
    expect(await cluster.refusal('n3')).toContain('a new node needs a new name');
    expect(await cluster.refusal('n4', { clusterName: 'burrow' })).toContain('this is cluster "warren", not "burrow"');
    expect(await cluster.refusal('n4', { replaces: 'n9' })).toContain('there is no node n9 to replace');
    expect(await cluster.refusal('x1', { uuid: 'uuid-2' })).toContain('another data folder');
    expect([...cluster.bench.machine.members()].length).toBe(3);
  });

  it('is not let in without the secret, nor by a node that has none, and goes on asking', async () => {
    const cluster = new Cluster();
    await cluster.open(1);
    await cluster.open(2, '');
    const asked = cluster.ask('n4', { secret: 'another secret of the test' });
    await cluster.run(2_000);
    expect(asked.outcome).toBeNull();
    const told = cluster.reports.join('; ');
    expect(told).toContain('wrong cluster secret');
    expect(told).toContain('has no cluster.secret');
    expect([...cluster.bench.machine.members()].length).toBe(3);
    asked.joining.cancel();
  });
});

describe('A node that is to leave', () => {
  it('stays while too few of the others can be reached, also before the metadata know of it', async () => {
    const cluster = new MemoryCluster(3, 1);
    await cluster.start();
    cluster.crash(2);
    await cluster.clock.run(200);
    expect(
      [...cluster.node(3).cluster.metadata.nodes()].every(({ node, incarnation }) =>
        cluster.node(3).cluster.metadata.isOpen(node, incarnation),
      ),
    ).toBe(true);
    expect(await cluster.leave(3, 1)).toContain('too few of the nodes that would stay are up');
    expect(await cluster.leave(3, 2)).toBeNull();
  });
});
