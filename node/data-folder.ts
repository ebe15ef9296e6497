// The folder of one node, and the rules about who may use it.
//
//   identity         whose folder this is: prepared, then committed, when the cluster is formed (cluster/formation.ts) or joined
//                    (cluster/joining.ts); whole or not at all
//   joining          the UUID under which this node asks to be let in, until it was
//   incarnation-<n>  one start of the node. Created exclusively, so a number is never given twice; only the newest stays. Names its process.
//   pid              the process id, for people and scripts; removed at a clean stop
//
// Invariants: a folder of another node or cluster, a damaged one, or one in use is not touched at all. An incarnation number is durable
// before anyone sees it. Of two processes that start at once at most one goes on (see `takeIncarnation`). Two machines, or two containers with
// process ids of their own, on one folder are not seen here: peers then refuse the older incarnation.

import { randomBytes, randomInt } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { type Format, type Membership, parseFormat, parseMembership } from '../cluster/index.ts';
import type { NodeConfig } from './config.ts';

export interface Identity {
  readonly format: 1;
  readonly clusterName: string;
  readonly node: number;
  readonly name: string;
  /** False: prepared, and not known to be what the cluster agreed on. */
  readonly committed: boolean;
  /** This node has taken part with what is in `store`: without it, it must not speak under this identity again. */
  readonly begun: boolean;
  /** Cluster id, and the UUIDs of all nodes at the time. */
  readonly cluster: Format;
  /** Fixed when the cluster was formed. */
  readonly shards: number;
  readonly replication: number;
  /** Of a node that joined a cluster which others had formed. */
  readonly membership: Membership | null;
}

export interface DataFolder {
  readonly path: string;
  /** Null: the folder is empty. */
  readonly identity: Identity | null;
  /** Writes the identity, durably. */
  prepare(format: Format): void;
  commit(format: Format): void;
  /** The UUID under which this node asks to be let in: chosen once, durable before anyone sees it. */
  joiningUuid(): string;
  /** It was let in: writes the identity, durably. */
  joined(membership: Membership): void;
  /** The store is open: from now on the folder is refused without it. */
  begin(): void;
  /** The first call gives the number of this start, every later one a new number; each is durable and was never given before. */
  nextIncarnation(): number;
  /** At a clean stop, once nothing writes here any more. */
  release(): void;
}

/** A process, so that a later one with the same number is told apart. `start` is null where the system does not say. */
export interface ProcessName {
  readonly pid: number;
  readonly start: string | null;
}

export type DataFolderResult =
  | { readonly ok: true; readonly folder: DataFolder }
  | { readonly ok: false; readonly error: string };

/** What its log cannot be without: a copy is enough. */
const manifestNames = ['manifest', 'manifest.copy'];
/** What the cluster part keeps, within the folder. */
export const storeFolder = 'store';

const incarnationPattern = /^incarnation-([1-9][0-9]{0,15})$/;
/**
 * The low part of an incarnation is random: a folder that was copied gives other numbers than the original, and the lower are refused. It is
 * small, because volatile groups are named by the lowest 20 bits, and of two of one node the later one must be seen in them.
 */
const incarnationRandom = 2 ** 12;
/** What a first start that was interrupted may leave behind. */
const harmlessPattern = /^(incarnation-[1-9][0-9]{0,15}|(identity|joining|pid)\.temporary|joining|pid)$/;

/** Why this node must not use its folder, or null. Reads only. */
export function checkDataFolder(config: NodeConfig): string | null {
  const found = inspect(config.dataFolder);
  return typeof found === 'string' ? found : refusal(config, found);
}

/** Takes the folder for this process: checks, takes a new incarnation, writes the pid file. */
export function openDataFolder(config: NodeConfig, self: ProcessName = processName(process.pid)): DataFolderResult {
  const path = config.dataFolder;
  try {
    const found = inspect(path);
    if (typeof found === 'string') return { ok: false, error: found };
    const refused = refusal(config, found);
    if (refused !== null) return { ok: false, error: refused };
    makeFolder(path);
    const incarnation = takeIncarnation(path, self);
    if (incarnation === null) return { ok: false, error: `data folder ${path}: another process is starting in it` };
    replaceFile(path, 'pid', `${self.pid}\n`);
    return { ok: true, folder: openedFolder(config, found.identity, incarnation, self) };
  } catch (error) {
    return { ok: false, error: `data folder ${path}: ${(error as Error).message}` };
  }
}

function openedFolder(config: NodeConfig, found: Identity | null, first: number, self: ProcessName): DataFolder {
  const path = config.dataFolder;
  let identity = found;
  let incarnation = first;
  let given = false;
  return {
    path,
    get identity() {
      return identity;
    },
    prepare(format) {
      identity = writeIdentity(path, formedIdentity(config, format, false));
    },
    commit(format) {
      identity = writeIdentity(path, formedIdentity(config, format, true));
    },
    joiningUuid: () => joiningUuid(path),
    joined(membership) {
      const { node, format, shards, replication } = membership;
      const formed = formedIdentity(config, format, true);
      identity = writeIdentity(path, { ...formed, node, shards, replication, membership });
      rmSync(join(path, 'joining'), { force: true });
    },
    begin() {
      if (identity === null) throw new Error('a folder without an identity has no store');
      if (!identity.begun) identity = writeIdentity(path, { ...identity, begun: true });
    },
    nextIncarnation() {
      if (given) {
        const before = incarnation;
        incarnation = incarnationAfter(before);
        writeDurably(incarnationFile(path, incarnation), JSON.stringify(self), 'wx');
        syncFolder(path);
        unlinkSync(incarnationFile(path, before));
      }
      given = true;
      return incarnation;
    },
    release: () => release(path, incarnation, self),
  };
}

/** Is this process alive? Not a zombie, and not a later one with the same number. */
export function isAlive(owner: ProcessName): boolean {
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    // EPERM: it lives and belongs to another user.
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  const now = startOf(owner.pid);
  if (now === 'ended') return false;
  if (owner.start === null || now === null) return owner.pid !== process.pid;
  return now === owner.start;
}

export function processName(pid: number): ProcessName {
  return { pid, start: startOf(pid) };
}

/** Boot and start time of a process; 'ended' for a zombie; null where there is no /proc, or none for it. */
function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The program's name stands in parentheses and may hold anything, also parentheses.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' || fields[0] === 'X') return 'ended';
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
    return `${boot}/${fields[19]}`;
  } catch {
    return null;
  }
}

interface Found {
  readonly identity: Identity | null;
  /** The living process that uses the folder. */
  readonly owner: ProcessName | null;
}

/** What is there; as text, why that cannot be a data folder. */
function inspect(path: string): Found | string {
  let names: string[];
  try {
    names = readdirSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === 'ENOENT' ? { identity: null, owner: null } : `data folder ${path}: cannot be read (${code})`;
  }
  if (!names.includes('identity')) {
    const foreign = names.find((name) => !harmlessPattern.test(name));
    if (foreign !== undefined) {
      return `data folder ${path}: has no identity file and is not empty ("${foreign}"): not a data folder, or a damaged one`;
    }
    return { identity: null, owner: livingOwner(path) };
  }
  // The first incarnation is durable before the identity, and none goes before its successor is; without one, numbers would repeat.
  if (incarnations(path).length === 0) return `data folder ${path}: damaged, its incarnation file is missing`;
  const identity = readIdentity(path);
  if (
    typeof identity === 'object' &&
    identity.begun &&
    !manifestNames.some((name) => existsSync(join(path, storeFolder, name)))
  )
    return (
      `data folder ${path}: its store is gone, and with it what this node has confirmed: it must not come back under its old ` +
      'identity. Put the store back, or start a node with a new name in its place (warren cluster replace)'
    );
  return typeof identity === 'string' ? identity : { identity, owner: livingOwner(path) };
}

function readIdentity(path: string): Identity | string {
  const file = join(path, 'identity');
  let found: Partial<Record<keyof Identity, unknown>>;
  try {
    found = Object(JSON.parse(readFileSync(file, 'utf8')));
  } catch (error) {
    return `data folder ${path}: its identity file cannot be read (${(error as Error).message})`;
  }
  if (found.format !== 1)
    return `data folder ${path}: written by another version of Warren (format ${String(found.format)})`;
  const { clusterName, node, name, committed, begun, shards, replication } = found;
  const cluster = parseFormat(found.cluster);
  const membership = found.membership === null ? null : parseMembership(found.membership);
  if (
    cluster === null ||
    typeof clusterName !== 'string' ||
    typeof name !== 'string' ||
    typeof committed !== 'boolean' ||
    typeof begun !== 'boolean' ||
    !Number.isInteger(shards) ||
    !Number.isInteger(replication) ||
    (found.membership !== null && membership?.node !== node) ||
    (membership === null && !cluster.nodes.some((known) => known.node === node))
  )
    return `data folder ${path}: its identity file is damaged`;
  return {
    format: 1,
    clusterName,
    node: Number(node),
    name,
    committed,
    begun,
    cluster,
    shards: Number(shards),
    replication: Number(replication),
    membership,
  };
}

function refusal(config: NodeConfig, found: Found): string | null {
  const { identity, owner } = found;
  const at = `data folder ${config.dataFolder}:`;
  const clusterName = config.settings['cluster.name'];
  if (identity !== null) {
    if (identity.clusterName !== clusterName) {
      return `${at} belongs to cluster "${identity.clusterName}", not to "${clusterName}"`;
    }
    const refused =
      identity.membership === null ? refusalOfFounder(config, identity) : refusalOfJoined(config, identity);
    if (refused !== null) return `${at} ${refused}`;
  }
  return owner === null ? null : `${at} in use by process ${owner.pid}`;
}

function refusalOfFounder({ node, name, nodes, join, settings }: NodeConfig, identity: Identity): string | null {
  if (join !== null)
    return `belongs to node ${identity.node} "${identity.name}", one of those that its cluster was formed of: start it without cluster.join`;
  if (identity.node !== node || identity.name !== name)
    return `belongs to node ${identity.node} "${identity.name}", not to node ${node} "${name}"`;
  const members = membersText(identity.cluster.nodes);
  if (members !== membersText(nodes))
    return `belongs to a cluster of the nodes ${members}, not of ${membersText(nodes)}`;
  for (const key of ['shards', 'replication'] as const)
    if (identity[key] !== settings[key])
      return `belongs to a cluster that was formed with ${key} = ${identity[key]}, not ${settings[key]}: that cannot be changed later`;
  return null;
}

/** Once in, such a node needs no address to join by, and says the same with it. */
function refusalOfJoined({ name, settings }: NodeConfig, identity: Identity): string | null {
  const { 'node.number': number, 'cluster.nodes': nodes } = settings;
  if (identity.name !== name || (number !== 0 && number !== identity.node))
    return `belongs to node ${identity.node} "${identity.name}", not to node ${number || '?'} "${name}"`;
  return nodes.length === 0
    ? null
    : `belongs to node ${identity.node} "${identity.name}", which joined its cluster: start it without cluster.nodes`;
}

const membersText = (nodes: readonly { readonly node: number; readonly name: string }[]): string =>
  nodes.map(({ node, name }) => `${node}=${name}`).join(',');

/**
 * The next incarnation, or null if another process is about to take the folder too. Each of two such processes first writes its own file and
 * then looks for the other's: whichever looks last sees both, so they never both go on (both may give up, which is safe).
 */
function takeIncarnation(path: string, self: ProcessName): number | null {
  const incarnation = incarnationAfter(incarnations(path).at(-1) ?? 0);
  const mine = incarnationFile(path, incarnation);
  try {
    writeDurably(mine, JSON.stringify(self), 'wx');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return null;
    throw error;
  }
  syncFolder(path);
  const others = incarnations(path).filter((other) => other !== incarnation);
  if (others.some((other) => other > incarnation || ownerOf(path, other) !== null)) {
    unlinkSync(mine);
    return null;
  }
  // One that gives up right now removes its own.
  for (const other of others) rmSync(incarnationFile(path, other), { force: true });
  return incarnation;
}

const incarnationAfter = (incarnation: number): number =>
  (Math.floor(incarnation / incarnationRandom) + 1) * incarnationRandom + randomInt(incarnationRandom);

const incarnationFile = (path: string, incarnation: number): string => join(path, `incarnation-${incarnation}`);

/** The numbers found, ascending. */
function incarnations(path: string): number[] {
  const numbers = readdirSync(path).map((name) => Number(incarnationPattern.exec(name)?.[1] ?? 0));
  return numbers.filter((number) => number > 0).sort((a, b) => a - b);
}

function livingOwner(path: string): ProcessName | null {
  for (const incarnation of incarnations(path).reverse()) {
    const owner = ownerOf(path, incarnation);
    if (owner !== null) return owner;
  }
  return null;
}

/** The living process of an incarnation. A file without one (released, or cut off by a crash) has none. */
function ownerOf(path: string, incarnation: number): ProcessName | null {
  try {
    const { pid, start } = Object(JSON.parse(readFileSync(incarnationFile(path, incarnation), 'utf8')));
    if (!Number.isInteger(pid) || pid <= 0) return null;
    const owner: ProcessName = { pid, start: typeof start === 'string' ? start : null };
    return isAlive(owner) ? owner : null;
  } catch {
    return null;
  }
}

function formedIdentity({ settings, node, name }: NodeConfig, cluster: Format, committed: boolean): Identity {
  const { 'cluster.name': clusterName, shards, replication } = settings;
  return {
    format: 1,
    clusterName,
    node,
    name,
    committed,
    begun: false,
    cluster,
    shards,
    replication,
    membership: null,
  };
}

function writeIdentity(path: string, identity: Identity): Identity {
  replaceFile(path, 'identity', `${JSON.stringify(identity, null, 2)}\n`);
  return identity;
}

function joiningUuid(path: string): string {
  if (existsSync(join(path, 'joining'))) {
    const { uuid } = Object(JSON.parse(readFileSync(join(path, 'joining'), 'utf8')));
    if (typeof uuid === 'string' && uuid !== '') return uuid;
  }
  const uuid = randomBytes(16).toString('hex');
  replaceFile(path, 'joining', `${JSON.stringify({ uuid })}\n`);
  return uuid;
}

function release(path: string, incarnation: number, self: ProcessName): void {
  // The file stays, for its number; its process lets go of it.
  writeDurably(incarnationFile(path, incarnation), '{}', 'w');
  try {
    if (readFileSync(join(path, 'pid'), 'utf8').trim() === String(self.pid)) unlinkSync(join(path, 'pid'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** Makes a folder and those above it, durably. */
export function makeFolder(path: string): void {
  const missing: string[] = [];
  for (let at = path; !existsSync(at); at = dirname(at)) missing.push(at);
  mkdirSync(path, { recursive: true });
  for (const made of missing) syncFolder(dirname(made));
}

/** Writes a small file that after a crash is there whole, or as it was before. */
export function replaceFile(folder: string, name: string, content: string, mode = 0o644): void {
  const temporary = join(folder, `${name}.temporary`);
  writeDurably(temporary, content, 'w', mode);
  renameSync(temporary, join(folder, name));
  syncFolder(folder);
}

function writeDurably(path: string, content: string, flag: 'w' | 'wx', mode = 0o644): void {
  const file = openSync(path, flag, mode);
  try {
    writeFileSync(file, content);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

function syncFolder(path: string): void {
  const folder = openSync(path, 'r');
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}
