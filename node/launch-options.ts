// The command line of `warren start`, and what it means for each node. Reads the environment that it is given; touches nothing.

import { parseArgs } from 'node:util';
import type { NodeConfig } from './config.ts';
import { readConfig } from './config-sources.ts';

export interface LaunchOptions {
  readonly nodesCount: number;
  /** Null: a temporary one, removed at the end. */
  readonly dataFolder: string | null;
  /** AMQP port of the first node; everything else follows from it. */
  readonly port: number;
}

export type LaunchOptionsResult =
  | { readonly ok: true; readonly options: LaunchOptions }
  | { readonly ok: false; readonly error: string };

const nodesAllowed: readonly string[] = ['1', '3', '5'];
const nodesMax = 5;
export const httpPortOffset = 10_000;
export const peerPortOffset = 20_000;
const portMax = 65535 - peerPortOffset - (nodesMax - 1);

export const launchHelp = `usage: warren start [--nodes 1|3|5] [--data DIR | --ephemeral] [--port PORT]
       npm start -- [the same]

Runs a whole cluster on this machine until Ctrl-C, and starts a node again when it dies.

  --nodes 1|3|5  how many nodes; default 3
  --data DIR     where they keep their data; default ./data
  --ephemeral    keep it in a temporary folder, removed at the end
  --port PORT    AMQP port of the first node; default 5672. Node i takes PORT+i-1 for AMQP, PORT+${httpPortOffset}+i-1 for HTTP
                 and PORT+${peerPortOffset}+i-1 for its peers.

On a terminal it takes keys: k kills the node that leads most (kill -9; it starts again), p cuts it off from the other nodes, r heals that, q
quits.

Other settings of the nodes can be given as WARREN_* environment variables: see "warren node --help". Of the nodes' logs only warnings
and errors are shown; WARREN_LOG_LEVEL=info shows more.`;

export function parseLaunchFlags(flags: readonly string[]): LaunchOptionsResult {
  const fail = (error: string): LaunchOptionsResult => ({ ok: false, error });
  let values: { nodes?: string; data?: string; port?: string; ephemeral?: boolean };
  try {
    values = parseArgs({
      args: [...flags],
      options: {
        nodes: { type: 'string' },
        data: { type: 'string' },
        port: { type: 'string' },
        ephemeral: { type: 'boolean' },
      },
    }).values;
  } catch (error) {
    return fail(`${(error as Error).message.split('. ', 1)[0]}: "warren start --help" lists the flags`);
  }
  const { nodes = '3', port = '5672', data, ephemeral = false } = values;
  if (!nodesAllowed.includes(nodes)) return fail(`--nodes = "${nodes}": must be one of ${nodesAllowed.join(', ')}`);
  if (!/^[0-9]{1,5}$/.test(port) || Number(port) < 1 || Number(port) > portMax) {
    return fail(`--port = "${port}": must be an integer from 1 to ${portMax}`);
  }
  if (data === '') return fail('--data = "": must be a path');
  if (ephemeral && data !== undefined) return fail('--ephemeral and --data: must not be given together');
  return {
    ok: true,
    options: { nodesCount: Number(nodes), port: Number(port), dataFolder: ephemeral ? null : (data ?? './data') },
  };
}

/** One node to run: its settings, and the flags that give it just these. */
export interface PlannedNode {
  readonly config: NodeConfig;
  readonly flags: readonly string[];
}

/** The settings of every node; what the user's environment says holds too, except for what a launcher has to decide. */
export function planNodes(
  options: LaunchOptions,
  dataFolder: string,
  secret: string,
  environment: Readonly<Record<string, string | undefined>>,
):
  | { readonly ok: true; readonly nodes: readonly PlannedNode[]; readonly environment: typeof environment }
  | { readonly ok: false; readonly error: string } {
  const numbers = Array.from({ length: options.nodesCount }, (_, at) => at + 1);
  const members = numbers.map((node) => `${node}=n${node}@127.0.0.1:${options.port + peerPortOffset + node - 1}`);
  // The secret is in the environment and not among the flags: those can be read by every user of the machine. Of what the nodes log only
  // trouble is shown, unless asked for: the launcher itself tells who lives and who died.
  const given = { WARREN_CLUSTER_SECRET: secret, WARREN_LOG_LEVEL: 'warn', ...environment };
  // The nodes share this machine, and so its ports: counted down, because 5671 stands before the first 5672.
  const tlsPort = Number(environment.WARREN_AMQP_TLS_PORT ?? 0);
  const nodes: PlannedNode[] = [];
  for (const node of numbers) {
    const values = {
      'node.name': `n${node}`,
      'node.number': node,
      'cluster.nodes': members.join(','),
      'data.folder': dataFolder,
      'amqp.port': options.port + node - 1,
      ...(tlsPort > 0 ? { 'amqp.tls.port': tlsPort - node + 1 } : {}),
      'http.port': options.port + httpPortOffset + node - 1,
      'peer.host': '127.0.0.1',
      'peer.port': options.port + peerPortOffset + node - 1,
      'log.format': 'json',
    };
    const flags = Object.entries(values).map(([key, value]) => `--${key}=${value}`);
    const read = readConfig({ flags, environment: given });
    if (!read.ok) return read;
    nodes.push({ config: read.config, flags });
  }
  return { ok: true, nodes, environment: given };
}
