// Joins one node's parts: ports → cluster → broker → AMQP.

import { join } from 'node:path';
import { createPorts, openCluster } from '../cluster/index.ts';
import { type AmqpServer, createAmqpServer } from './amqp/server.ts';
import { Broker } from './broker/broker.ts';
import { amqpOptions, clusterLimits } from './config.ts';
import type { CreateParts, NodeContext, NodeParts } from './server.ts';

export const createParts: CreateParts = (context) => new Parts(context);

class Parts implements NodeParts {
  readonly #context: NodeContext;
  #cluster: Awaited<ReturnType<typeof openCluster>> | null = null;
  #amqp: AmqpServer | null = null;

  constructor(context: NodeContext) {
    this.#context = context;
  }

  async open(): Promise<void> {
    const { config, folder, log, fatal } = this.#context;
    const { settings } = config;
    const ports = createPorts(join(folder.path, 'store'));
    const cluster = await openCluster(
      {
        clusterName: settings['cluster.name'],
        clusterId: config.clusterId,
        node: config.node,
        nodeName: config.name,
        nodeUuid: folder.identity.uuid,
        contact: {
          pid: process.pid,
          amqp: `${settings['amqp.host'][0]}:${settings['amqp.port']}`,
          http: `${settings['http.host'][0]}:${settings['http.port']}`,
        },
        nextIncarnation: async () => folder.nextIncarnation(),
        nodes: config.nodes,
        peerListen: config.peerListen,
        secret: settings['cluster.secret'],
        limits: clusterLimits(settings),
      },
      ports,
      { log: (level, event, details) => log[level](details, event), fatal },
    );
    this.#cluster = cluster;
    const broker = new Broker(cluster, ports.random, {
      defaultUser: settings['default.user'],
      defaultPassword: settings['default.password'],
      loopbackUsers: settings['loopback.users'],
      consumerWindow: settings['consumer.window'],
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
    return this.#cluster?.status() ?? { ready: false, groups: [] };
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
  }
}
