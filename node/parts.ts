// Joins one node's parts: ports → cluster → broker → AMQP.

import { join } from 'node:path';
import { createPorts, type Format, type Formation, formCluster, openCluster } from '../cluster/index.ts';
import { readHeaders } from './amqp/properties.ts';
import { type AmqpServer, createAmqpServer } from './amqp/server.ts';
import { Broker } from './broker/broker.ts';
import { amqpOptions, clusterLimits } from './config.ts';
import { storeFolder } from './data-folder.ts';
import { EventLoopDelay } from './event-loop.ts';
import type { CreateParts, NodeContext, NodeParts } from './server.ts';

export const createParts: CreateParts = (context) => new Parts(context);

class Parts implements NodeParts {
  readonly #context: NodeContext;
  #cluster: Awaited<ReturnType<typeof openCluster>> | null = null;
  #amqp: AmqpServer | null = null;
  readonly #ports;
  #formation: Formation | null = null;
  readonly #eventLoop = new EventLoopDelay();

  constructor(context: NodeContext) {
    this.#context = context;
    this.#ports = createPorts(join(context.folder.path, storeFolder));
  }

  async form(): Promise<void> {
    const { config, folder, log } = this.#context;
    const { settings } = config;
    const { identity } = folder;
    if (identity?.committed === true) return;
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

  formingWith(): string | null {
    if (this.#formation === null) return null;
    const missing = this.#formation.missing();
    return missing.length === 0
      ? 'the cluster is being formed'
      : `the cluster is formed once all its nodes can be reached; missing: ${missing.join(', ')}`;
  }

  stopForming(): void {
    this.#formation?.cancel();
  }

  async open(): Promise<void> {
    const { config, folder, log, fatal } = this.#context;
    const { settings } = config;
    const { cluster: format, node } = folder.identity!;
    const ports = this.#ports;
    const cluster = await openCluster(
      {
        clusterName: settings['cluster.name'],
        clusterId: format.clusterId,
        node: config.node,
        nodeName: config.name,
        nodeUuid: format.nodes.find((known) => known.node === node)!.uuid,
        contact: {
          pid: process.pid,
          amqp: `${settings['amqp.host'][0]}:${settings['amqp.port']}`,
          http: `${settings['http.host'][0]}:${settings['http.port']}`,
        },
        nextIncarnation: async () => folder.nextIncarnation(),
        nodes: config.nodes,
        peerListen: config.peerListen,
        secret: settings['cluster.secret'],
        readHeaders,
        limits: clusterLimits(settings),
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
    });
    this.#amqp = createAmqpServer(amqpOptions(settings), ports, broker, log);
  }

  async join(): Promise<void> {
    await this.#cluster?.start();
  }

  async listen(): Promise<void> {
    const { settings } = this.#context.config;
    const port = settings['amqp.port'];
    await this.#amqp?.listen(settings['amqp.host'].map((host) => ({ host, port })));
  }

  status() {
    const status = this.#cluster?.status() ?? { ready: false, groups: [] };
    return { ...status, eventLoopMilliseconds: Math.round(this.#eventLoop.longest * 10) / 10 };
  }

  async rebuild(group: number): Promise<string | null> {
    return this.#cluster === null ? 'there is no cluster yet' : this.#cluster.rebuild(group);
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
    this.#eventLoop.stop();
  }
}
