// Every setting of one node: its key, default, bounds and meaning, in one flat table; and what follows from them together.
// State: none. The table is the only place where a bound of the broker gets its number; parts receive theirs as named options.
//
// Invariants: a `NodeConfig` that exists is valid as a whole (each value in its bounds, `checkTogether` passed); reading one touches nothing.
// Where values come from (flags, environment, file) is `config-sources.ts`.

import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import type { Address, ClusterLimits } from '../cluster/index.ts';
import type { AmqpOptions } from './amqp/options.ts';

interface Documented {
  readonly doc: string;
}
export type KeySpec = Documented &
  (
    | {
        readonly kind: 'text';
        readonly default: string;
        readonly pattern: RegExp;
        readonly allowed: string;
        /** Never printed. */
        readonly secret: boolean;
      }
    | { readonly kind: 'integer'; readonly default: number; readonly min: number; readonly max: number }
    /** An integer with an optional suffix KiB, MiB or GiB. */
    | { readonly kind: 'bytes'; readonly default: number; readonly min: number; readonly max: number }
    | { readonly kind: 'choice'; readonly default: string; readonly choices: readonly string[] }
    /** Texts separated by commas. */
    | {
        readonly kind: 'list';
        readonly default: readonly string[];
        readonly pattern: RegExp;
        readonly allowed: string;
        readonly itemsMax: number;
      }
  );

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const nameAllowed = 'up to 63 letters, digits, dots, dashes and underscores, the first a letter or digit';
const hostPattern = /^[A-Za-z0-9][A-Za-z0-9.:_-]*$|^::[0-9A-Fa-f:.]*$/;
const hostAllowed = 'a host name or an IP address';
const memberPattern =
  /^([1-9][0-9]?)=([A-Za-z0-9][A-Za-z0-9._-]{0,62})@(?:\[([0-9A-Fa-f:.]+)\]|([^[\]:@\s]+)):([0-9]{1,5})$/;

const addressPattern = /^(?:\[([0-9A-Fa-f:.]+)\]|([^[\]:@\s]+)):([0-9]{1,5})$/;

const text = (value: string, pattern: RegExp, allowed: string, doc: string) =>
  ({ kind: 'text', default: value, pattern, allowed, doc, secret: false }) as const;
const secret = (value: string, pattern: RegExp, allowed: string, doc: string) =>
  ({ kind: 'text', default: value, pattern, allowed, doc, secret: true }) as const;
const integer = (value: number, min: number, max: number, doc: string) =>
  ({ kind: 'integer', default: value, min, max, doc }) as const;
const bytes = (value: number, min: number, max: number, doc: string) =>
  ({ kind: 'bytes', default: value, min, max, doc }) as const;
const choice = <const C extends string>(value: NoInfer<C>, choices: readonly C[], doc: string) =>
  ({ kind: 'choice', default: value, choices, doc }) as const;
const list = (value: readonly string[], itemsMax: number, pattern: RegExp, allowed: string, doc: string) =>
  ({ kind: 'list', default: value, pattern, allowed, itemsMax, doc }) as const;

/** All keys, in the order in which `warren node --help` prints them. */
export const keys = {
  'node.name': text(
    '',
    new RegExp(`^$|${namePattern.source}`),
    nameAllowed,
    'name of this node; default: its name in cluster.nodes, or n<number>',
  ),
  'node.number': integer(0, 0, 99, 'number of this node; default (0): the number of its name in cluster.nodes, or 1'),
  'cluster.name': text('warren', namePattern, nameAllowed, 'name of the cluster, the same on all its nodes'),
  'cluster.nodes': list(
    [],
    7,
    memberPattern,
    'NUMBER=NAME@HOST:PEERPORT, separated by commas',
    'all nodes that the cluster is formed of as 1=n1@host:25672,2=…; empty: this node alone',
  ),
  'cluster.join': list(
    [],
    16,
    addressPattern,
    'HOST:PEERPORT, separated by commas',
    'joins a cluster that exists, by any of these nodes of it; in place of cluster.nodes, for a node with an empty data folder',
  ),
  'cluster.replaces': text(
    '',
    /^$|^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/,
    'name or number of a node of the cluster',
    'with cluster.join: the node whose place this one takes, and which leaves',
  ),
  'cluster.secret': secret(
    '',
    /^$|^\S{16,256}$/,
    '16 to 256 characters without spaces',
    'shared secret of the nodes; needed as soon as there are two',
  ),
  'data.folder': text('./data', /^[^\0]+$/, 'a path', 'the node keeps its data in a folder of its name below this one'),
  'default.user': text(
    'guest',
    /^[^\0:]{1,255}$/,
    '1 to 255 characters, no colon',
    'user made when the cluster is new',
  ),
  'default.password': secret('guest', /^[^\0]{1,255}$/, '1 to 255 characters', 'password of that user'),
  'loopback.users': list(
    ['guest'],
    16,
    /^[^\0,]{1,255}$/,
    'user names, separated by commas',
    'users who may connect from this machine only',
  ),

  'amqp.host': list(
    ['127.0.0.1', '::1'],
    16,
    hostPattern,
    `${hostAllowed}, or several, separated by commas`,
    'addresses to listen on for AMQP; one that this machine lacks is left out if another works',
  ),
  'amqp.port': integer(5672, 1, 65535, 'port for AMQP clients'),
  'amqp.tls.port': integer(0, 0, 65535, 'port for AMQP clients that speak TLS (amqps); 0: none'),
  'amqp.tls.certificate.file': text(
    '',
    /^[^\0]*$/,
    'a path',
    "with amqp.tls.port: the node's certificate, and those between it and its authority, in PEM",
  ),
  'amqp.tls.key.file': text('', /^[^\0]*$/, 'a path', 'with amqp.tls.port: the key of that certificate, in PEM'),
  'amqp.tls.ca.file': text(
    '',
    /^[^\0]*$/,
    'a path',
    'with amqp.tls.port: clients may show certificates, and have to be signed by one of these authorities, in PEM',
  ),
  'amqp.tls.clients': choice(
    'optional',
    ['optional', 'required'],
    'with amqp.tls.ca.file: whether clients have to show a certificate',
  ),
  'amqp.connections.max': integer(20_000, 1, 1_000_000, 'client connections of this node'),
  'amqp.frame.bytes.max': bytes(128 * KiB, 4096, 16 * MiB, 'largest frame offered to clients (frame-max)'),
  'amqp.channels.max': integer(2047, 1, 65535, 'channels of one connection offered to clients (channel-max)'),
  'amqp.consumers.max': integer(65_535, 1, 1_000_000, 'consumers of one channel'),
  'amqp.heartbeat.seconds': integer(60, 0, 3600, 'heartbeat offered to clients; 0: none'),
  'amqp.handshake.milliseconds': integer(10_000, 100, 600_000, 'time for a client to reach connection.open'),
  'amqp.close.milliseconds': integer(3000, 100, 600_000, 'time for a client to answer connection.close'),
  'amqp.send.timeout.milliseconds': integer(
    30_000,
    0,
    600_000,
    'a client that takes nothing of what waits for it for so long is disconnected; 0: never',
  ),
  'amqp.message.bytes.max': bytes(128 * MiB, 1 * KiB, 512 * MiB, 'largest message body'),
  'amqp.assembly.bytes.max': bytes(
    256 * MiB,
    1 * KiB,
    4 * GiB,
    'unfinished messages of one connection; if not given at least twice amqp.message.bytes.max',
  ),
  'amqp.write.buffer.bytes': bytes(
    1 * MiB,
    64 * KiB,
    256 * MiB,
    'bytes buffered towards one client before deliveries to it wait',
  ),
  'amqp.backlog.bytes.max': bytes(
    1 * MiB,
    64 * KiB,
    256 * MiB,
    'methods of one connection that wait behind a reply before it is no longer read',
  ),
  'consumer.window': integer(2000, 1, 1_000_000, 'messages sent ahead to a consumer that sets no limit itself'),
  'consumer.parked.milliseconds': integer(
    100,
    1,
    60_000,
    'how long a message waits for room under a limit of its whole channel before it goes back to its queue',
  ),
  'get.letters.milliseconds': integer(
    100,
    0,
    60_000,
    'who rejected messages and then finds none waits so long for what may be on its way to where dead letters go',
  ),

  'http.host': list(
    ['127.0.0.1', '::1'],
    16,
    hostPattern,
    `${hostAllowed}, or several, separated by commas`,
    'addresses to listen on for HTTP',
  ),
  'http.port': integer(15672, 1, 65535, 'port for HTTP'),
  'http.connections.max': integer(256, 1, 100_000, 'HTTP connections of this node and address'),

  'peer.host': text('127.0.0.1', hostPattern, hostAllowed, 'address to listen on for the other nodes'),
  'peer.port': integer(0, 0, 65535, 'port for the other nodes; default (0): the one in cluster.nodes, or 25672'),
  'peer.address': text(
    '',
    new RegExp(`^$|${addressPattern.source}`),
    'HOST:PORT',
    'where other nodes reach this one; default: its address in cluster.nodes, or peer.host and peer.port',
  ),
  'peer.frame.bytes.max': bytes(64 * MiB, 4 * MiB, 512 * MiB, 'largest frame between nodes'),
  'peer.handshake.milliseconds': integer(5000, 50, 60_000, 'time for a peer to prove who it is'),
  'peer.redial.milliseconds': integer(20, 1, 60_000, 'first wait before dialling a peer again; it doubles'),
  'peer.redial.milliseconds.max': integer(1000, 1, 600_000, 'longest wait before dialling a peer again'),

  shards: integer(12, 1, 1024, 'Raft groups that hold the queues; fixed once the cluster is formed'),
  replication: integer(
    3,
    1,
    7,
    'Nodes that hold a replica of each queue: 1, 3, 5 or 7; fixed once the cluster is formed',
  ),
  'tick.milliseconds': integer(50, 5, 1000, 'unit of election and heartbeat times'),
  'election.ticks': integer(12, 4, 1000, 'ticks without a leader before an election (up to twice as many)'),
  'heartbeat.ticks': integer(2, 1, 100, 'ticks between heartbeats'),
  'hint.delay.ticks': integer(
    3,
    1,
    100,
    "ticks that the second in line waits after a leader's connection broke; the first does not wait",
  ),
  'raft.append.bytes.max': bytes(1 * MiB, 64 * KiB, 16 * MiB, 'entries in one message to a follower'),
  'raft.inflight.bytes.max': bytes(
    16 * MiB,
    64 * KiB,
    1 * GiB,
    'entries sent to one follower and not yet acknowledged, per group',
  ),
  'raft.inflight.messages.max': integer(
    256,
    1,
    65536,
    'messages of entries sent and not yet acknowledged, per follower and group',
  ),
  'raft.uncommitted.bytes.max': bytes(
    64 * MiB,
    1 * MiB,
    1 * GiB,
    'entries appended by a leader and not yet committed, per group',
  ),
  'apply.turn.bytes': bytes(4 * MiB, 64 * KiB, 256 * MiB, 'entries applied in one turn of the event loop'),
  'work.pause.milliseconds': integer(
    5,
    0,
    1000,
    'between two pieces of work on many messages (their return, expiry or removal), for everybody else',
  ),
  'snapshot.chunk.bytes': bytes(256 * KiB, 4 * KiB, 1 * MiB, 'one piece of a snapshot sent to a follower'),
  'catchup.bytes.per.second': bytes(
    32 * MiB,
    64 * KiB,
    16 * GiB,
    'what a replica that is new on its node is sent in a second, beyond what is written meanwhile',
  ),
  'snapshot.every.bytes': bytes(64 * MiB, 64 * KiB, 16 * GiB, 'log of a group after which it takes a snapshot'),
  'snapshot.every.entries': integer(50_000, 100, 100_000_000, 'entries of a group after which it takes a snapshot'),
  'parked.batches.max': integer(1000, 1, 1_000_000, 'batches that wait at a leader for its metadata to catch up'),
  'disk.free.bytes.min': bytes(
    2 * GiB,
    1 * MiB,
    1024 * GiB,
    'with less free disk on any node (or a tenth of it, if that is less) publishers wait; everything else goes on',
  ),
  'disk.reserve.bytes': bytes(
    256 * MiB,
    1 * MiB,
    1024 * GiB,
    'with less free disk (or a fiftieth of it, if that is less) no message is taken at all',
  ),
  'disk.check.milliseconds': integer(1000, 50, 60_000, 'how often the free disk is looked at'),
  'disk.stall.milliseconds': integer(
    2000,
    100,
    600_000,
    'a write that takes longer makes the node give up its leaderships',
  ),
  'node.suspect.milliseconds': integer(
    1000,
    100,
    600_000,
    'a node silent for so long is given no messages until it is heard again',
  ),
  'node.dead.milliseconds': integer(
    5000,
    500,
    600_000,
    'a node away for so long is ended: its consumers give their messages back',
  ),
  'lease.milliseconds': integer(
    2500,
    100,
    60_000,
    'a node cut off for so long stops routing; about the longest wait of a declare for a node that hangs',
  ),
  'lease.renew.milliseconds': integer(1500, 50, 60_000, 'a lease on the metadata with less than this left is renewed'),
  'lease.request.milliseconds': integer(500, 10, 10_000, 'time between two requests for a lease'),
  'lease.clock.step.milliseconds': integer(
    500,
    10,
    60_000,
    'clocks that disagree by more say that the machine was suspended',
  ),
  'balance.milliseconds': integer(250, 10, 600_000, 'time between two looks at how leaders are spread'),
  'hand.over.milliseconds': integer(2000, 0, 60_000, 'longest time to hand leaderships over at a clean stop'),
  'start.catchup.milliseconds': integer(
    5_000,
    0,
    600_000,
    'longest time that a node which starts applies what it missed before it serves clients',
  ),

  'publish.batch.bytes.max': bytes(
    256 * KiB,
    4 * KiB,
    1 * MiB,
    'size at which a batch of commands to a shard is sealed',
  ),
  'publish.batches.inflight.max': integer(3, 1, 1024, 'batches on their way to one shard'),
  'publish.window.bytes': bytes(16 * MiB, 1 * MiB, 1 * GiB, 'bytes waiting for one shard before publishers pause'),
  'publish.deadline.milliseconds': integer(
    15_000,
    500,
    600_000,
    'a publish without a majority for so long is nacked: its fate is unknown',
  ),
  'publish.resend.milliseconds': integer(1000, 50, 60_000, 'a batch without an answer for so long is sent again'),
  'settle.delay.milliseconds': integer(
    5,
    0,
    1000,
    'acknowledgements of a consumer that has room to spare wait so long for company; 0: not at all',
  ),
  'large.bytes.at.once': bytes(
    512 * KiB,
    64 * KiB,
    1 * GiB,
    'while others are busy, so much of a larger message is taken in, or read for a consumer, at a time',
  ),
  'large.rest.milliseconds': integer(3, 0, 1000, 'and then follows a rest of so long; 0: none'),
  'large.part.rest.milliseconds.max': integer(
    50,
    0,
    1000,
    'while others are busy, each part (256 KiB) is followed by a rest as long as it took, at most so long; 0: none',
  ),

  'feed.heartbeat.milliseconds': integer(
    500,
    10,
    60_000,
    'how often a node that tells another of a queue says it lives',
  ),
  'feed.silence.milliseconds': integer(1500, 20, 600_000, 'silence after which another replica is listened to'),
  'feed.lag.milliseconds': integer(
    1000,
    10,
    600_000,
    'wait for a replica that makes no headway, before another is asked',
  ),
  'feed.wait.milliseconds': integer(1000, 10, 60_000, 'how long a replica may take to catch up with who listens to it'),
  'feed.retry.milliseconds': integer(100, 10, 60_000, 'time before a replica to listen to is looked for again'),
  'feed.avoid.milliseconds': integer(2000, 10, 600_000, 'time for which a replica that failed is the last to be asked'),
  'feed.frame.bytes': bytes(256 * KiB, 4 * KiB, 1 * MiB, 'size at which news for another node, or messages, leave'),
  'feed.query.milliseconds': integer(2000, 50, 60_000, 'a message that another node does not send is asked for again'),
  'feed.status.milliseconds': integer(10_000, 50, 600_000, "longest wait for another node's word on a queue"),
  'feed.answer.bytes.max': bytes(4 * MiB, 64 * KiB, 64 * MiB, 'messages on their way to a node that asked for them'),
  'feed.questions.max': integer(1024, 16, 1_000_000, 'questions of one node that wait here'),
  'outbox.rows.max': integer(256, 1, 65_536, 'dead letters of one shard on their way to another'),
  'outbox.bytes.max': bytes(256 * KiB, 4 * KiB, 64 * MiB, 'their bytes; one goes however large'),
  'outbox.route.letters.max': integer(256, 1, 16_384, 'dead letters that are routed with one log entry'),
  'outbox.route.queues.max': integer(16_384, 1, 65_536, 'the queues that they go to, beyond those of the last one'),

  'log.file.bytes': bytes(32 * MiB, 1 * MiB, 1 * GiB, 'size at which a log file is sealed'),
  'log.cache.bytes': bytes(64 * MiB, 0, 64 * GiB, 'recent entries held in memory'),
  'log.kept.bytes': bytes(16 * MiB, 0, 64 * GiB, 'whole entries kept behind a snapshot for slow followers, per group'),
  'log.pressure.bytes': bytes(
    256 * MiB,
    4 * MiB,
    1024 * GiB,
    'size of all log files beyond which groups that hold the oldest are asked for a snapshot',
  ),
  'log.volatile.waiting.bytes': bytes(
    16 * MiB,
    64 * KiB,
    1 * GiB,
    'transient messages that wait in memory for the disk',
  ),
  'log.compaction.rate': bytes(
    32 * MiB,
    256 * KiB,
    16 * GiB,
    'what rewriting sparse log files may read and write a second',
  ),
  'log.scrub.rate': bytes(
    4 * MiB,
    0,
    16 * GiB,
    'what is read again a second to find rot before it is needed; 0: nothing',
  ),
  'log.compaction.slack.bytes': bytes(64 * MiB, 1 * MiB, 1024 * GiB, 'dead entries that are left alone in log files'),

  'log.level': choice(
    'info',
    ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    'least severe log line that is written',
  ),
  'log.format': choice('json', ['json', 'pretty'], 'json: one object a line; pretty: for people'),
  'stop.milliseconds': integer(
    10_000,
    100,
    600_000,
    'longest time for a clean stop, after which the process ends anyway',
  ),
} as const satisfies Record<string, KeySpec>;

export type Key = keyof typeof keys;
type ValueOf<S> = S extends { kind: 'integer' | 'bytes' }
  ? number
  : S extends { kind: 'list' }
    ? readonly string[]
    : S extends { kind: 'choice'; choices: readonly (infer C)[] }
      ? C
      : string;
/** One value per key, each within its own bounds. */
export type Settings = { readonly [K in Key]: ValueOf<(typeof keys)[K]> };

export interface ClusterNode {
  readonly node: number;
  readonly name: string;
  /** Where its peers reach it. */
  readonly address: Address;
}

export interface JoinConfig {
  /** Peer ports of nodes of the cluster. */
  readonly contacts: readonly Address[];
  /** Name or number of the node whose place this one takes; null: of none. */
  readonly replaces: string | null;
}

/** A valid whole: the settings, and what follows from several of them. */
export interface NodeConfig {
  readonly settings: Settings;
  /** 0: the cluster that it joins gives it one, and the data folder knows it. */
  readonly node: number;
  readonly name: string;
  /** All nodes with this one, by number, that the cluster is formed of; none if it joins one. */
  readonly nodes: readonly ClusterNode[];
  readonly join: JoinConfig | null;
  /** Where the other nodes reach this one. */
  readonly address: Address;
  readonly peerListen: Address;
  /** What nodes must have in common to form a cluster: a hash of its name, its nodes' numbers and names, and what cannot change later. */
  readonly formationId: string;
  /** Absolute; this node's own. */
  readonly dataFolder: string;
}

/** What is wrong with which key; the reader adds where the value came from. */
export interface ConfigProblem {
  readonly key: Key;
  readonly allowed: string;
}

const suffixes: Readonly<Record<string, number>> = { '': 1, KiB, MiB, GiB };

/** Parses one value. The problem text says what is allowed. */
export function parseValue(
  key: Key,
  value: string,
): { readonly ok: true; readonly value: Settings[Key] } | { readonly ok: false; readonly allowed: string } {
  const spec: KeySpec = keys[key];
  const allowed = allowedText(spec);
  switch (spec.kind) {
    case 'text':
      return spec.pattern.test(value) ? { ok: true, value } : { ok: false, allowed };
    case 'choice':
      // The table's type says which choices a key has; this is where text becomes one of them.
      return spec.choices.includes(value) ? { ok: true, value: value as Settings[Key] } : { ok: false, allowed };
    case 'list': {
      const items = value === '' ? [] : value.split(',').map((item) => item.trim());
      const fine = items.length <= spec.itemsMax && items.every((item) => spec.pattern.test(item));
      return fine ? { ok: true, value: items } : { ok: false, allowed };
    }
    case 'integer':
    case 'bytes': {
      const match = (spec.kind === 'bytes' ? /^([0-9]{1,15}) ?(KiB|MiB|GiB|)$/ : /^([0-9]{1,15})()$/).exec(value);
      const number = match === null ? Number.NaN : Number(match[1]) * (suffixes[match[2] ?? ''] ?? Number.NaN);
      return number >= spec.min && number <= spec.max ? { ok: true, value: number } : { ok: false, allowed };
    }
    default:
      return spec satisfies never;
  }
}

/** What a key takes, as words. */
export function allowedText(spec: KeySpec): string {
  switch (spec.kind) {
    case 'text':
      return spec.allowed;
    case 'list':
      return `${spec.allowed}; at most ${spec.itemsMax}`;
    case 'choice':
      return `one of ${spec.choices.join(', ')}`;
    case 'integer':
      return `an integer from ${spec.min} to ${spec.max}`;
    case 'bytes':
      return `bytes from ${bytesText(spec.min)} to ${bytesText(spec.max)} (suffixes KiB, MiB, GiB)`;
    default:
      return spec satisfies never;
  }
}

/** A value as it would be written in a config file. */
export function valueText(key: Key, value: Settings[Key]): string {
  const spec: KeySpec = keys[key];
  if (spec.kind === 'text' && spec.secret && value !== spec.default) return '(hidden)';
  if (spec.kind === 'bytes') return bytesText(Number(value));
  return Array.isArray(value) ? value.join(',') : String(value);
}

function bytesText(value: number): string {
  for (const [suffix, unit] of [
    ['GiB', GiB],
    ['MiB', MiB],
    ['KiB', KiB],
  ] as const) {
    if (value >= unit && value % unit === 0) return `${value / unit}${suffix}`;
  }
  return String(value);
}

export function defaultSettings(): Settings {
  return Object.fromEntries(Object.entries(keys).map(([key, spec]) => [key, spec.default])) as unknown as Settings;
}

function parseNodes(settings: Settings): ClusterNode[] | ConfigProblem {
  const nodes: ClusterNode[] = [];
  for (const item of settings['cluster.nodes']) {
    const match = memberPattern.exec(item);
    const [node, name, host, port] = [
      Number(match?.[1]),
      match?.[2] ?? '',
      match?.[3] ?? match?.[4] ?? '',
      Number(match?.[5]),
    ];
    if (port < 1 || port > 65535) return { key: 'cluster.nodes', allowed: `ports from 1 to 65535 (not ${port})` };
    if (nodes.some((other) => other.node === node || other.name === name)) {
      return { key: 'cluster.nodes', allowed: `each number and each name only once (not "${item}" again)` };
    }
    if (nodes.some((other) => other.address.host === host && other.address.port === port)) {
      return { key: 'cluster.nodes', allowed: `an address only once (not ${host}:${port} again)` };
    }
    nodes.push({ node, name, address: { host, port } });
  }
  return nodes.sort((a, b) => a.node - b.node);
}

function parseAddress(text: string): Address | null {
  const match = addressPattern.exec(text);
  const port = Number(match?.[3]);
  return match !== null && port >= 1 && port <= 65_535 ? { host: match[1] ?? match[2] ?? '', port } : null;
}

/** Null: this node joins no cluster. */
function parseJoin(settings: Settings): JoinConfig | ConfigProblem | null {
  const contacts: Address[] = [];
  for (const item of settings['cluster.join']) {
    const address = parseAddress(item);
    if (address === null) return { key: 'cluster.join', allowed: `ports from 1 to 65535 (not ${item})` };
    contacts.push(address);
  }
  const replaces = settings['cluster.replaces'];
  if (contacts.length === 0)
    return replaces === '' ? null : { key: 'cluster.replaces', allowed: 'left out without cluster.join' };
  if (settings['cluster.nodes'].length > 0)
    return {
      key: 'cluster.join',
      allowed: 'left out where cluster.nodes is given: a node forms a cluster or joins one',
    };
  if (settings['node.name'] === '') return { key: 'node.name', allowed: 'a name that no node of the cluster ever had' };
  if (settings['node.number'] !== 0)
    return { key: 'node.number', allowed: 'left out: the cluster gives a node that joins its number' };
  return { contacts, replaces: replaces === '' ? null : replaces };
}

/** Which of the nodes is this one? */
function findSelf(settings: Settings, nodes: readonly ClusterNode[], joins: boolean): ClusterNode | ConfigProblem {
  const { 'node.name': name, 'node.number': node } = settings;
  if (nodes.length === 0) {
    const number = joins ? 0 : node || 1;
    const address = { host: settings['peer.host'], port: settings['peer.port'] || 25672 };
    return { node: number, name: name || `n${number}`, address };
  }
  const names = nodes.map((other) => `${other.node}=${other.name}`).join(', ');
  if (name === '' && node === 0) {
    return { key: 'node.name', allowed: `one of the names in cluster.nodes: ${names} (or give node.number)` };
  }
  const self = nodes.find((other) => (name === '' ? other.node === node : other.name === name));
  if (self === undefined) {
    return { key: name === '' ? 'node.number' : 'node.name', allowed: `one of the nodes in cluster.nodes: ${names}` };
  }
  if (node !== 0 && self.node !== node) {
    return { key: 'node.number', allowed: `${self.node}, which is the number of ${self.name} in cluster.nodes` };
  }
  return self;
}

/** Defaults that follow from other settings: `isGiven` says which values somebody chose, and those stay. */
export function withDerivedDefaults(settings: Settings, isGiven: (key: Key) => boolean): Settings {
  if (isGiven('amqp.assembly.bytes.max')) return settings;
  const { 'amqp.message.bytes.max': message, 'amqp.assembly.bytes.max': assembly } = settings;
  return { ...settings, 'amqp.assembly.bytes.max': Math.max(assembly, 2 * message) };
}

/** Values that are each fine alone, and not together. */
function checkTogether(settings: Settings, nodesCount: number, peerPort: number): ConfigProblem | null {
  const problem = (key: Key, allowed: string): ConfigProblem => ({ key, allowed });
  /** `low` times `factor` must fit into `high`. */
  const fits = (low: Key, factor: number, high: Key): ConfigProblem | null =>
    Number(settings[low]) * factor <= Number(settings[high])
      ? null
      : problem(
          low,
          `at most ${factor === 1 ? '' : `1/${factor} of `}${high}, which is ${valueText(high, settings[high])}`,
        );
  if (nodesCount > 1 && settings['cluster.secret'] === '') {
    return problem('cluster.secret', 'the same 16 or more characters on every node, as the cluster has several nodes');
  }
  if (settings['amqp.host'].length === 0) return problem('amqp.host', 'at least one address');
  if (settings['http.host'].length === 0) return problem('http.host', 'at least one address');
  if (settings['http.port'] === settings['amqp.port']) return problem('http.port', 'another port than amqp.port');
  if (peerPort === settings['amqp.port']) return problem('peer.port', 'another port than amqp.port');
  if (peerPort === settings['http.port']) return problem('peer.port', 'another port than http.port');
  const tlsPort = settings['amqp.tls.port'];
  if (tlsPort !== 0) {
    if ([settings['amqp.port'], settings['http.port'], peerPort].includes(tlsPort))
      return problem('amqp.tls.port', 'another port than those of AMQP, HTTP and peers');
    for (const key of ['amqp.tls.certificate.file', 'amqp.tls.key.file'] as const)
      if (settings[key] === '') return problem(key, 'a path, as amqp.tls.port is given');
    if (settings['amqp.tls.clients'] === 'required' && settings['amqp.tls.ca.file'] === '')
      return problem('amqp.tls.ca.file', 'a path, as amqp.tls.clients is required');
  }
  return (
    fits('heartbeat.ticks', 4, 'election.ticks') ??
    fits('raft.append.bytes.max', 2, 'peer.frame.bytes.max') ??
    fits('raft.append.bytes.max', 1, 'raft.inflight.bytes.max') ??
    fits('snapshot.chunk.bytes', 2, 'peer.frame.bytes.max') ??
    fits('amqp.message.bytes.max', 1, 'amqp.assembly.bytes.max') ??
    fits('publish.batch.bytes.max', 2, 'publish.window.bytes') ??
    fits('peer.redial.milliseconds', 1, 'peer.redial.milliseconds.max') ??
    fits('log.file.bytes', 2, 'log.pressure.bytes') ??
    fits('disk.reserve.bytes', 1, 'disk.free.bytes.min') ??
    fits('hand.over.milliseconds', 2, 'stop.milliseconds') ??
    fits('node.suspect.milliseconds', 2, 'node.dead.milliseconds')
  );
}

/** Makes the whole out of the settings, or says which key is in the way. */
export function resolveConfig(settings: Settings): NodeConfig | ConfigProblem {
  const listed = parseNodes(settings);
  if ('key' in listed) return listed;
  const join = parseJoin(settings);
  if (join !== null && 'key' in join) return join;
  const self = findSelf(settings, listed, join !== null);
  if ('key' in self) return self;
  const nodes = listed.length > 0 ? listed : join === null ? [self] : [];
  const peerPort = settings['peer.port'] || self.address.port;
  const problem = checkTogether(settings, join === null ? nodes.length : 2, peerPort);
  if (problem !== null) return problem;
  const address = settings['peer.address'] === '' ? self.address : parseAddress(settings['peer.address']);
  if (address === null) return { key: 'peer.address', allowed: 'HOST:PORT with a port from 1 to 65535' };
  if (join !== null && wildcards.includes(address.host))
    return { key: 'peer.address', allowed: `given as HOST:PORT, because nobody can call ${address.host}` };
  return {
    settings,
    node: self.node,
    name: self.name,
    nodes,
    join,
    address,
    peerListen: { host: settings['peer.host'], port: peerPort },
    formationId: formationIdOf(settings, nodes),
    dataFolder: resolve(settings['data.folder'], self.name),
  };
}

/** What a node can listen on, and no other can call. */
const wildcards: readonly string[] = ['0.0.0.0', '::'];

/** Addresses are left out on purpose: a node may move to another one. */
export function formationIdOf(settings: Settings, nodes: readonly ClusterNode[]): string {
  const members = nodes.map((node) => `${node.node}=${node.name}`).join(',');
  const fixed = `${settings['cluster.name']}\n${members}\n${settings.shards}\n${settings.replication}\n`;
  return createHash('sha256').update(`warren formation 1\n${fixed}`).digest('hex').slice(0, 32);
}

/** The part of the settings that is the cluster's. */
export function clusterLimits(settings: Settings): ClusterLimits {
  return {
    shards: settings.shards,
    replication: settings.replication,
    tickMilliseconds: settings['tick.milliseconds'],
    electionTicks: settings['election.ticks'],
    heartbeatTicks: settings['heartbeat.ticks'],
    hintDelayTicks: settings['hint.delay.ticks'],
    appendBytesMax: settings['raft.append.bytes.max'],
    inflightBytesMax: settings['raft.inflight.bytes.max'],
    inflightMessagesMax: settings['raft.inflight.messages.max'],
    uncommittedBytesMax: settings['raft.uncommitted.bytes.max'],
    snapshotChunkBytes: settings['snapshot.chunk.bytes'],
    catchUpBytesPerSecond: settings['catchup.bytes.per.second'],
    applyBytesPerTurn: settings['apply.turn.bytes'],
    workPauseMilliseconds: settings['work.pause.milliseconds'],
    snapshotEveryBytes: settings['snapshot.every.bytes'],
    snapshotEveryEntries: settings['snapshot.every.entries'],
    parkedBatchesMax: settings['parked.batches.max'],
    disk: {
      freeBytesMin: settings['disk.free.bytes.min'],
      reserveBytes: settings['disk.reserve.bytes'],
      checkMilliseconds: settings['disk.check.milliseconds'],
    },
    diskStallMilliseconds: settings['disk.stall.milliseconds'],
    suspectMilliseconds: settings['node.suspect.milliseconds'],
    nodeDeadMilliseconds: settings['node.dead.milliseconds'],
    balanceMilliseconds: settings['balance.milliseconds'],
    handOverMilliseconds: settings['hand.over.milliseconds'],
    catchUpMilliseconds: settings['start.catchup.milliseconds'],
    lease: {
      milliseconds: settings['lease.milliseconds'],
      renewMilliseconds: settings['lease.renew.milliseconds'],
      requestMilliseconds: settings['lease.request.milliseconds'],
      clockStepMilliseconds: settings['lease.clock.step.milliseconds'],
    },
    pipe: {
      batchBytesMax: settings['publish.batch.bytes.max'],
      batchesInFlightMax: settings['publish.batches.inflight.max'],
      windowBytes: settings['publish.window.bytes'],
      deadlineMilliseconds: settings['publish.deadline.milliseconds'],
      resendMilliseconds: settings['publish.resend.milliseconds'],
      settleDelayMilliseconds: settings['settle.delay.milliseconds'],
      partRestMillisecondsMax: settings['large.part.rest.milliseconds.max'],
    },
    large: {
      bytesAtOnce: settings['large.bytes.at.once'],
      restMilliseconds: settings['large.rest.milliseconds'],
    },
    feed: {
      heartbeatMilliseconds: settings['feed.heartbeat.milliseconds'],
      silenceMilliseconds: settings['feed.silence.milliseconds'],
      lagMilliseconds: settings['feed.lag.milliseconds'],
      waitMilliseconds: settings['feed.wait.milliseconds'],
      retryMilliseconds: settings['feed.retry.milliseconds'],
      avoidMilliseconds: settings['feed.avoid.milliseconds'],
      frameBytes: settings['feed.frame.bytes'],
      queryMilliseconds: settings['feed.query.milliseconds'],
      statusMilliseconds: settings['feed.status.milliseconds'],
      answerBytesMax: settings['feed.answer.bytes.max'],
      questionsMax: settings['feed.questions.max'],
    },
    outbox: {
      rowsInFlightMax: settings['outbox.rows.max'],
      bytesInFlightMax: settings['outbox.bytes.max'],
      lettersPerRouteMax: settings['outbox.route.letters.max'],
      queuesPerRouteMax: settings['outbox.route.queues.max'],
    },
    log: {
      fileBytesMax: settings['log.file.bytes'],
      cacheBytesMax: settings['log.cache.bytes'],
      keptBytesMax: settings['log.kept.bytes'],
      pressureBytes: settings['log.pressure.bytes'],
      volatileWaitingBytesMax: settings['log.volatile.waiting.bytes'],
      compactionBytesPerSecond: settings['log.compaction.rate'],
      compactionSlackBytes: settings['log.compaction.slack.bytes'],
      scrubBytesPerSecond: settings['log.scrub.rate'],
    },
    transport: {
      frameBytesMax: settings['peer.frame.bytes.max'],
      handshakeMilliseconds: settings['peer.handshake.milliseconds'],
      redialMilliseconds: settings['peer.redial.milliseconds'],
      redialMillisecondsMax: settings['peer.redial.milliseconds.max'],
    },
  };
}

/** The part of the settings that is the AMQP front-end's. */
export function amqpOptions(settings: Settings) {
  return {
    frameMax: settings['amqp.frame.bytes.max'],
    channelMax: settings['amqp.channels.max'],
    heartbeatSeconds: settings['amqp.heartbeat.seconds'],
    handshakeMilliseconds: settings['amqp.handshake.milliseconds'],
    closeMilliseconds: settings['amqp.close.milliseconds'],
    sendTimeoutMilliseconds: settings['amqp.send.timeout.milliseconds'],
    messageBytesMax: settings['amqp.message.bytes.max'],
    assemblyBytesMax: settings['amqp.assembly.bytes.max'],
    largeBytesAtOnce: settings['large.bytes.at.once'],
    largeRestMilliseconds: settings['large.rest.milliseconds'],
    socketBufferBytesMax: settings['amqp.write.buffer.bytes'],
    channelBacklogBytesMax: settings['amqp.backlog.bytes.max'],
    consumersPerChannelMax: settings['amqp.consumers.max'],
    connectionsMax: settings['amqp.connections.max'],
    clusterName: settings['cluster.name'],
  } satisfies Partial<AmqpOptions>;
}
