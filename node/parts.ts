// Joins one node's parts: ports → cluster → broker → AMQP.

import { join } from 'node:path';
import {
  type ClusterOptions,
  createNet,
  createPorts,
  type Format,
  type Formation,
  formCluster,
  type Joining,
  joinCluster,
  openCluster,
} from '../cluster/index.ts';
import { withDeath } from './amqp/deaths.ts';
import { readHeaders } from './amqp/properties.ts';
import { type AmqpServer, createAmqpServer } from './amqp/server.ts';
import { Broker } from './broker/broker.ts';
import { amqpOptions, clusterLimits, type JoinConfig, type NodeConfig } from './config.ts';
import { type Identity, storeFolder } from './data-folder.ts';
import { type Measures, ProcessWatch } from './measures.ts';
import type { CreateParts, NodeContext, NodeParts } from './server.ts';
import { readTls } from './tls.ts';

export const createParts: CreateParts = (context) => new Parts(context);

class Parts implements NodeParts {
  readonly #context: NodeContext;
  #cluster: Awaited<ReturnType<typeof openCluster>> | null = null;
  #amqp: AmqpServer | null = null;
  #broker: Broker | null = null;
  readonly #ports;
  #formation: Formation | null = null;
  #joining: Joining | null = null;
  readonly #process = new ProcessWatch();

  constructor(context: NodeContext) {
    this.#context = context;
    this.#ports = createPorts(join(context.folder.path, storeFolder));
  }

  async form(): Promise<void> {
    const { config, folder, log } = this.#context;
    const { settings } = config;
    const { identity } = folder;
    if (identity?.committed === true) return;
    if (config.join !== null) return this.#joinCluster(config.join);
    const options = {
      settingsId: config.formationId,
      node: config.node,
      nodeName: config.name,
      nodes: config.nodes,
      peerListen: config.peerListen,
      secret: settings['cluster.secret'],
      prepared: identity?.cluster ?? null,
      prepare: (format: Format) => folder.prepare(format),
      commit: (format: Format) => folder.commit(format),
      handshakeMilliseconds: settings['peer.handshake.milliseconds'],
      redialMilliseconds: settings['peer.redial.milliseconds'],
      report: (level: 'debug' | 'info' | 'warn' | 'error', event: string, details: object) =>
        log[level](details, event),
    };
    this.#formation = formCluster(options, this.#ports);
    const { clusterId } = await this.#formation.done;
    this.#formation = null;
    log.info({ clusterId }, 'the cluster is formed');
  }

  /** The folder knows its UUID before anybody is asked, and the number before it is used. */
  async #joinCluster({ contacts, replaces }: JoinConfig): Promise<void> {
    const { config, folder, log } = this.#context;
    const { settings } = config;
    this.#joining = joinCluster(
      {
        clusterName: settings['cluster.name'],
        nodeName: config.name,
        uuid: folder.joiningUuid(),
        address: config.address,
        replaces,
        contacts,
        secret: settings['cluster.secret'],
        handshakeMilliseconds: settings['peer.handshake.milliseconds'],
        redialMilliseconds: settings['peer.redial.milliseconds'],
        redialMillisecondsMax: settings['peer.redial.milliseconds.max'],
        report: (level, event, details) => log[level](details, event),
      },
      this.#ports,
    );
    const membership = await this.#joining.done;
    folder.joined(membership);
    this.#joining = null;
    log.info({ clusterId: membership.format.clusterId, node: membership.node }, 'the node was let into the cluster');
  }

  formingWith(): string | null {
    if (this.#joining !== null) return `the node waits to be let into the cluster: ${this.#joining.waitingFor()}`;
    if (this.#formation === null) return null;
    const missing = this.#formation.missing();
    return missing.length === 0
      ? 'the cluster is being formed'
      : `the cluster is formed once all its nodes can be reached; missing: ${missing.join(', ')}`;
  }

  stopForming(): void {
    this.#formation?.cancel();
    this.#joining?.cancel();
  }

  async open(): Promise<void> {
    const { config, folder, log, fatal } = this.#context;
    const { settings } = config;
    const ports = this.#ports;
    const cluster = await openCluster(
      {
        clusterName: settings['cluster.name'],
        ...membersOf(config, folder.identity!),
        nodeName: config.name,
        contact: {
          pid: process.pid,
          amqp: `${settings['amqp.host'][0]}:${settings['amqp.port']}`,
          http: `${settings['http.host'][0]}:${settings['http.port']}`,
        },
        nextIncarnation: async () => folder.nextIncarnation(),
        peerListen: config.peerListen,
        address: config.address,
        secret: settings['cluster.secret'],
        readHeaders,
        withDeath,
      },
      ports,
      { log: (level, event, details) => log[level](details, event), fatal },
    );
    folder.begin();
    this.#cluster = cluster;
    const broker = new Broker(cluster, ports, {
      defaultUser: settings['default.user'],
      defaultPassword: settings['default.password'],
      loopbackUsers: settings['loopback.users'],
      consumerWindow: settings['consumer.window'],
      parkedMilliseconds: settings['consumer.parked.milliseconds'],
      lettersMilliseconds: settings['get.letters.milliseconds'],
    });
    this.#broker = broker;
    this.#amqp = createAmqpServer(amqpOptions(settings), ports, broker, log);
  }

  async join(): Promise<void> {
    await this.#cluster?.start();
  }

  async listen(): Promise<void> {
    const { settings } = this.#context.config;
    const addresses = (port: number) => settings['amqp.host'].map((host) => ({ host, port }));
    await this.#amqp?.listen(addresses(settings['amqp.port']));
    const tls = readTls(settings);
    if (!tls.ok) throw new Error(tls.error);
    if (tls.identity !== null)
      await this.#amqp?.listen(addresses(settings['amqp.tls.port']), createNet({ tls: tls.identity }));
  }

  status() {
    const status = this.#cluster?.status() ?? { ready: false, groups: [] };
    const { milliseconds, ownMilliseconds } = this.#process.longestDelay;
    const rounded = (value: number) => Math.round(value * 10) / 10;
    return {
      ...status,
      eventLoopMilliseconds: rounded(milliseconds),
      eventLoopOwnMilliseconds: ownMilliseconds === null ? null : rounded(ownMilliseconds),
    };
  }

  measures(): Measures {
    const [cluster, amqp, broker] = [this.#cluster, this.#amqp, this.#broker];
    const clients =
      amqp === null || broker === null
        ? null
        : { ...amqp.measures(), consumers: broker.consumerCount, unroutable: broker.unroutable };
    return {
      process: this.#process.read(),
      cluster: cluster === null ? null : { ...cluster.measures(), status: cluster.status() },
      clients,
    };
  }

  isolate(on: boolean): void {
    this.#cluster?.isolate(on);
  }

  async rebuild(group: number): Promise<string | null> {
    return this.#cluster === null ? 'there is no cluster yet' : this.#cluster.rebuild(group);
  }

  async leave(node: number): Promise<string | null> {
    return this.#cluster === null ? 'there is no cluster yet' : this.#cluster.leave(node);
  }

  async stopAccepting(): Promise<void> {
    await this.#amqp?.stopAccepting();
  }

  async handOver(): Promise<void> {
    await this.#cluster?.handOver();
  }

  async disconnectClients(): Promise<void> {
    await this.#amqp?.close();
  }

  async close(): Promise<void> {
    await this.#cluster?.stop();
    this.#process.stop();
  }
}

/** Who this node is, and what the cluster was formed of. One that joined has that from its folder: its settings say nothing of it. */
function membersOf(
  config: NodeConfig,
  { cluster, node, membership }: Identity,
): Pick<ClusterOptions, 'clusterId' | 'node' | 'nodeUuid' | 'nodes' | 'contacts' | 'limits'> {
  const { clusterId } = cluster;
  const limits = clusterLimits(config.settings);
  if (membership !== null) {
    const { uuid, contacts, shards, replication } = membership;
    const nodes = cluster.nodes.map((known) => ({ ...known, address: { host: '', port: 0 } }));
    return { clusterId, node, nodeUuid: uuid, nodes, contacts, limits: { ...limits, shards, replication } };
  }
  const uuidOf = (number: number) => cluster.nodes.find((known) => known.node === number)!.uuid;
  const nodes = config.nodes.map((known) => ({ ...known, uuid: uuidOf(known.node) }));
  return { clusterId, node, nodeUuid: uuidOf(node), nodes, limits };
}
