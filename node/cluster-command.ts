// `warren cluster`: who belongs to the cluster, how it grows and shrinks. Asks a running node over its HTTP port.

import { parseArgs } from 'node:util';

export const clusterHelp = `usage: warren cluster status             the nodes, what they hold and lead, what moves
       warren cluster join [NAME]        how to start a node that joins the cluster
       warren cluster leave NODE         a node leaves: what it holds goes to others first, then its process ends
       warren cluster replace NODE [NAME]
                                         how to start a node that takes the place of another, also of a dead one

  NODE               a node's name or number
  NAME               the new node's name; one that no node of the cluster ever had
  --http HOST:PORT   the HTTP port of any node of the cluster; default: 127.0.0.1:15672`;

/** What is read of GET /cluster. */
export interface ClusterView {
  readonly clusterName: string;
  readonly clusterId: string;
  readonly nodes: readonly {
    readonly node: number;
    readonly name: string;
    readonly state: string;
    readonly up: boolean;
    readonly peer: string;
    readonly amqp: string;
    readonly http: string;
  }[];
  readonly placements: readonly {
    readonly group: number;
    readonly voters: readonly number[];
    readonly target: readonly number[] | null;
    readonly leader: number;
  }[];
}

export type ClusterFlags =
  | {
      readonly ok: true;
      readonly action: 'status' | 'join' | 'leave' | 'replace';
      /** Of leave and replace. */
      readonly node: string;
      /** Of join and replace; '': to be chosen. */
      readonly name: string;
      readonly http: string;
    }
  | { readonly ok: false; readonly error: string };

/** How many words follow each action: at least, at most. */
const words = { status: [0, 0], join: [0, 1], leave: [1, 1], replace: [1, 2] } as const;
const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const listed = '"warren cluster --help" lists what there is';

export function parseClusterFlags(flags: readonly string[]): ClusterFlags {
  const fail = (error: string): ClusterFlags => ({ ok: false, error });
  let parsed: { values: { http?: string }; positionals: string[] };
  try {
    parsed = parseArgs({ args: [...flags], options: { http: { type: 'string' } }, allowPositionals: true });
  } catch (error) {
    return fail(`${(error as Error).message.split('. ', 1)[0]}: ${listed}`);
  }
  const [action = 'status', ...given] = parsed.positionals;
  const http = parsed.values.http ?? '127.0.0.1:15672';
  if (!isAction(action)) return fail(`unknown action "${action}": ${listed}`);
  const [min, max] = words[action];
  if (given.length < min) return fail(`${action}: a node must follow, by its name or number`);
  if (given.length > max) return fail(`${action}: unexpected "${given[max]}"`);
  const strange = given.find((word) => !namePattern.test(word));
  if (strange !== undefined) return fail(`"${strange}": must be the name or number of a node`);
  if (!/^.+:[0-9]{1,5}$/.test(http)) return fail('--http: must be HOST:PORT');
  const [node, name] = action === 'join' ? ['', given[0]] : given;
  return { ok: true, action, node: node ?? '', name: name ?? '', http };
}

function isAction(text: string): text is keyof typeof words {
  return Object.hasOwn(words, text);
}

/** Prints what came of it. Returns the exit code. */
export async function runClusterCommand(flags: readonly string[]): Promise<number> {
  const parsed = parseClusterFlags(flags);
  if (!parsed.ok) return complain(parsed.error);
  const { action, http, name } = parsed;
  try {
    const response = await fetch(`http://${http}/cluster`);
    if (response.status !== 200) return complain(`${http}: ${await reasonOf(response)}`);
    const view = (await response.json()) as ClusterView;
    if (action === 'status') {
      console.log(statusText(view));
      return 0;
    }
    if (action === 'join') {
      console.log(joinText(view, name, null));
      return 0;
    }
    const node = view.nodes.find((known) => known.name === parsed.node || String(known.node) === parsed.node);
    if (node === undefined) return complain(`the cluster has no node "${parsed.node}": ${namesOf(view)}`);
    if (action === 'leave') return await leave(http, node);
    console.log(joinText(view, name, node.name));
    return 0;
  } catch (error) {
    const { cause, message } = error as Error;
    return complain(`no answer from ${http}: ${cause instanceof Error ? cause.message : message}`);
  }
}

async function leave(http: string, { node, name, up }: ClusterView['nodes'][number]): Promise<number> {
  const response = await fetch(`http://${http}/cluster/nodes/${node}/leave`, { method: 'POST' });
  if (response.status !== 202) return complain(`${name} cannot leave: ${await reasonOf(response)}`);
  const end = up
    ? 'then its process ends by itself.\nDo not stop it before.'
    : 'then it is forgotten.\nDo not start it again.';
  console.log(
    `${name} leaves: what it holds goes to other nodes, one shard at a time, ${end} "warren cluster status" shows how far that is.`,
  );
  return 0;
}

async function reasonOf(response: Response): Promise<string> {
  const { reason, reasons, error } = Object(await response.json()) as {
    reason?: string;
    reasons?: readonly string[];
    error?: string;
  };
  return reason ?? reasons?.join('; ') ?? error ?? `status ${response.status}`;
}

function complain(error: string): number {
  console.error(`warren: ${error}`);
  return 1;
}

const namesOf = (view: ClusterView): string => view.nodes.map(({ name }) => name).join(', ');

/** The nodes as a table, and what is under way. */
export function statusText(view: ClusterView): string {
  const { clusterName, clusterId, nodes, placements } = view;
  const nameOf = (node: number) => nodes.find((known) => known.node === node)?.name ?? `node ${node}`;
  const rows = nodes.map(({ node, name, state, up, peer, amqp, http }) => [
    String(node),
    name,
    state,
    up ? 'yes' : 'NO',
    String(placements.filter(({ leader }) => leader === node).length),
    String(placements.filter(({ voters }) => voters.includes(node)).length),
    peer,
    amqp,
    http,
  ]);
  const lines = [`cluster ${clusterName} (${clusterId})`, ''];
  lines.push(...tableLines([['node', 'name', 'state', 'up', 'leads', 'holds', 'peers', 'amqp', 'http'], ...rows]), '');
  const sizes = [...new Set(placements.map(({ voters }) => voters.length))].sort((a, b) => a - b);
  lines.push(`${placements.length} shards, on ${sizes.join(' or ')} ${sizes.at(-1) === 1 ? 'node' : 'nodes'} each`);
  for (const { group, voters, target } of placements)
    if (target !== null)
      lines.push(`shard-${group} moves from ${voters.map(nameOf).join(', ')} to ${target.map(nameOf).join(', ')}`);
  for (const { group, leader } of placements) if (leader === 0) lines.push(`shard-${group} has no leader`);
  for (const { name, state } of nodes) if (state !== 'member') lines.push(`${name} is ${state}`);
  return lines.join('\n');
}

function tableLines(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  );
}

/** The command that starts a node which joins, `replaces` leaving with it. */
export function joinText(view: ClusterView, given: string, replaces: string | null): string {
  const { clusterName, nodes } = view;
  const present = nodes.filter(({ peer }) => peer !== '');
  const name = given === '' ? `n${Math.max(...nodes.map(({ node }) => node)) + 1}` : given;
  const contacts = present.filter((node) => node.name !== replaces).map(({ peer }) => peer);
  const settings = [`--node.name ${name}`, `--cluster.name ${clusterName}`, `--cluster.join ${contacts.join(',')}`];
  if (replaces !== null) settings.push(`--cluster.replaces ${replaces}`);
  // All on one machine: then the new one needs ports of its own, too.
  const isLocal = present.every(({ peer }) => /^(127\.|localhost:|\[?::1)/.test(peer));
  if (isLocal) {
    const next = (addresses: readonly string[]) =>
      Math.max(...addresses.map((text) => Number(/[0-9]*$/.exec(text)![0]))) + 1;
    settings.push(`--amqp.port ${next(nodes.map(({ amqp }) => amqp))}`);
    settings.push(`--http.port ${next(nodes.map(({ http }) => http))}`);
    settings.push(`--peer.port ${next(present.map(({ peer }) => peer))}`);
  } else settings.push('--peer.host ITS-ADDRESS');
  const what = replaces === null ? `${name} joins` : `${name} joins, and ${replaces} leaves with it`;
  return [
    `${what} when this is started${isLocal ? '' : ' on its machine'}, with an empty data folder:`,
    '',
    `  WARREN_CLUSTER_SECRET=… warren node ${settings.join(' ')}`,
    '',
    'The secret is the one of the other nodes (cluster.secret); that of "warren start" is in the file "secret" of its data folder.',
    '"warren cluster status" shows how far it is.',
  ].join('\n');
}
