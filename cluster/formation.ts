// How a cluster begins: nodes with empty data folders agree on who they are, once.
//
//   every node     listens, and dials all others until it meets one that is formatted, or is told what to do
//   coordinator    the lowest number; when all others are connected and none is formatted:
//                  prepare (cluster id, a UUID for each node) → all have it durably → commit itself → commit → done
//
// A node commits only what it prepared, and the coordinator commits only when everybody has prepared. So a formatted node proves that every
// node once had the format on its disk: an empty folder that meets one was wiped, and must not vote again under its old name. A node that
// prepared and missed the commit learns of it from any formatted node. While nobody has committed a later format may replace a prepared one.
//
// State owned: the listener and the connections, until the format is known. Connections are those of `transport/handshake.ts`, with the
// formation's id in place of the cluster's; behind it `transport/conversation.ts`. A formatted node answers the handshake with its cluster id and closes.

import type { ReportEvent } from './options.ts';
import type { Connection, Ports, Timer } from './ports.ts';
import { listenTo, say } from './transport/conversation.ts';
import {
  createAcceptHandshake,
  createDialHandshake,
  formationPrefix,
  type HandshakeParty,
  type Identity,
  isFormation,
  nonceBytes,
} from './transport/handshake.ts';
import { type Negotiation, negotiate } from './transport/negotiate.ts';
import type { PeerAddress } from './transport-types.ts';

/** What was agreed on. */
export interface Format {
  readonly clusterId: string;
  readonly nodes: readonly { readonly node: number; readonly name: string; readonly uuid: string }[];
}

export interface FormationOptions {
  /** Equal on all nodes that are to form one cluster: what their settings have in common. */
  readonly settingsId: string;
  readonly node: number;
  readonly nodeName: string;
  /** All nodes, this one too. */
  readonly nodes: readonly PeerAddress[];
  readonly peerListen: { readonly host: string; readonly port: number };
  readonly secret: string;
  /** What this node prepared in an earlier life and never heard to be committed. */
  readonly prepared: Format | null;
  /** Durable when it returns. */
  prepare(format: Format): void;
  commit(format: Format): void;
  readonly handshakeMilliseconds: number;
  readonly redialMilliseconds: number;
  readonly report: ReportEvent;
}

export interface Formation {
  /** Rejects with a `FormationError` if this node must not be part of the cluster, or with the error of a port or disk. */
  readonly done: Promise<Format>;
  /** Names of nodes that were not met yet. */
  missing(): string[];
  cancel(): void;
}

/** This node cannot form or join the cluster; the message is for people and says what to do. */
export class FormationError extends Error {}

type Message =
  | { readonly kind: 'prepare'; readonly format: Format }
  | { readonly kind: 'prepared' | 'commit' | 'committed'; readonly clusterId: string };

export function formCluster(options: FormationOptions, ports: Pick<Ports, 'net' | 'clock' | 'random'>): Formation {
  const forming = new Forming(options, ports);
  return { done: forming.run(), missing: () => forming.missing(), cancel: () => forming.end() };
}

/** The connection that the coordinator dialled to another node. */
interface Link {
  readonly connection: Connection;
  /** The format that the node at the other end has prepared, or committed. */
  prepared: string;
  committed: string;
}

class Forming {
  readonly #options: FormationOptions;
  readonly #ports: Pick<Ports, 'net' | 'clock' | 'random'>;
  readonly #others: readonly PeerAddress[];
  readonly #isCoordinator: boolean;
  readonly #met = new Set<number>();
  readonly #links = new Map<number, Link>();
  readonly #negotiations = new Set<Negotiation>();
  readonly #connections = new Set<Connection>();
  readonly #timers = new Map<number, Timer>();
  #listener: { close(): Promise<void> } | null = null;
  #prepared: Format | null;
  /** Coordinator: decided, and told to all that are linked. */
  #format: Format | null = null;
  #ended = false;
  #finish: (format: Format) => void = () => {};
  #fail: (error: Error) => void = () => {};

  constructor(options: FormationOptions, ports: Pick<Ports, 'net' | 'clock' | 'random'>) {
    this.#options = options;
    this.#ports = ports;
    this.#others = options.nodes.filter(({ node }) => node !== options.node);
    this.#isCoordinator = this.#others.every(({ node }) => node > options.node);
    this.#prepared = options.prepared;
  }

  missing(): string[] {
    return this.#others.filter(({ node }) => !this.#met.has(node)).map(({ name }) => name);
  }

  async run(): Promise<Format> {
    if (this.#others.length === 0) return this.#formAlone();
    const done = new Promise<Format>((resolve, reject) => {
      this.#finish = resolve;
      this.#fail = reject;
    });
    // It may fail before anybody waits for it.
    done.catch(() => {});
    const listener = await this.#ports.net.listen(this.#options.peerListen, (connection) => this.#accept(connection));
    if (this.#ended) await listener.close();
    else this.#listener = listener;
    for (const other of this.#others) this.#dial(other);
    try {
      return await done;
    } finally {
      await this.#listener?.close();
    }
  }

  /** Closes everything. `done` never settles unless it has. */
  end(): void {
    this.#ended = true;
    for (const timer of this.#timers.values()) timer.cancel();
    for (const negotiation of this.#negotiations) negotiation.cancel();
    for (const connection of this.#connections) connection.close();
    this.#connections.clear();
    this.#links.clear();
    void this.#listener?.close();
  }

  #formAlone(): Format {
    const format = this.#prepared ?? this.#newFormat();
    this.#options.prepare(format);
    this.#options.commit(format);
    return format;
  }

  #newFormat(): Format {
    const id = () => this.#ports.random.bytes(16).toString('hex');
    const nodes = this.#options.nodes.map(({ node, name }) => ({ node, name, uuid: id() }));
    return { clusterId: id(), nodes };
  }

  // ---- connections ----

  #party(): HandshakeParty {
    const { settingsId, node, nodeName, nodes, secret } = this.#options;
    return {
      self: { clusterId: `${formationPrefix}${settingsId}`, node, name: nodeName, uuid: '', incarnation: 1 },
      secret,
      nonce: this.#ports.random.bytes(nonceBytes),
      check: (peer) =>
        nodes.some((known) => known.node === peer.node && known.name === peer.name)
          ? null
          : `node ${peer.node} (${peer.name}) is not one of the cluster that is being formed`,
    };
  }

  #dial(other: PeerAddress): void {
    if (this.#ended) return;
    this.#ports.net.connect(other.address, (error, connection) => {
      if (connection === null || error !== null) return this.#dialLater(other);
      if (this.#ended) return connection.close();
      const handshake = createDialHandshake(this.#party(), 'control', other);
      this.#negotiate(connection, handshake, (peer) => {
        if (peer === null) this.#dialLater(other);
        else this.#reached(other, peer, connection);
      });
    });
  }

  #dialLater(other: PeerAddress): void {
    if (this.#ended) return;
    const { redialMilliseconds } = this.#options;
    this.#timers.get(other.node)?.cancel();
    this.#timers.set(
      other.node,
      this.#ports.clock.after(redialMilliseconds, () => this.#dial(other)),
    );
  }

  #accept(connection: Connection): void {
    if (this.#ended) return connection.close();
    this.#negotiate(connection, createAcceptHandshake(this.#party()), (peer) => {
      if (peer !== null) this.#listenTo(connection, (message) => this.#obey(connection, peer, message));
    });
  }

  #negotiate(
    connection: Connection,
    handshake: Parameters<typeof negotiate>[1],
    done: (peer: Identity | null) => void,
  ): void {
    const { handshakeMilliseconds, report } = this.#options;
    const negotiation = negotiate(connection, handshake, this.#ports.clock, handshakeMilliseconds, (outcome) => {
      this.#negotiations.delete(negotiation);
      if (outcome.kind === 'failed') {
        if (outcome.reason !== null)
          report('warn', 'peer refused', { address: connection.remoteAddress, reason: outcome.reason });
        return done(null);
      }
      this.#connections.add(connection);
      connection.onClose = () => this.#connections.delete(connection);
      done(outcome.peer);
    });
    this.#negotiations.add(negotiation);
  }

  #listenTo(connection: Connection, hear: (message: Message) => void): void {
    listenTo(connection, parseMessage, () => this.#ended, hear);
  }

  // ---- the conversation ----

  #reached(other: PeerAddress, peer: Identity, connection: Connection): void {
    if (!isFormation(peer.clusterId)) {
      connection.close();
      return this.#metFormatted(peer);
    }
    this.#met.add(other.node);
    if (!this.#isCoordinator) {
      // It was only to see whether that node is formatted: the coordinator dials us.
      connection.close();
      return this.#dialLater(other);
    }
    const link: Link = { connection, prepared: '', committed: '' };
    this.#links.set(other.node, link);
    connection.onClose = () => {
      this.#connections.delete(connection);
      this.#links.delete(other.node);
      this.#met.delete(other.node);
      this.#dialLater(other);
    };
    this.#listenTo(connection, (message) => this.#answered(link, message));
    this.#coordinate();
  }

  /** The other node is part of a cluster that exists. */
  #metFormatted(peer: Identity): void {
    const { clusterId } = peer;
    if (this.#prepared?.clusterId === clusterId) return this.#commit(this.#prepared);
    const { nodeName } = this.#options;
    const what = this.#prepared === null ? 'is empty' : 'was prepared for another cluster';
    this.#refuse(
      `node ${nodeName}: its data folder ${what}, but node ${peer.name} belongs to a cluster that exists already (${clusterId}) and ` +
        `that ${nodeName} was part of. A node that lost its data must not come back under its old name: it could vote against what it has ` +
        'confirmed. Put the data folder back, or start a node with a new name in its place (warren cluster replace)',
    );
  }

  #refuse(reason: string): void {
    this.end();
    this.#fail(new FormationError(reason));
  }

  #coordinate(): void {
    if (this.#links.size < this.#others.length) return;
    let format = this.#format;
    if (format === null) {
      format = this.#prepared ?? this.#newFormat();
      this.#prepare(format);
      this.#format = format;
    }
    for (const link of this.#links.values()) send(link.connection, { kind: 'prepare', format });
  }

  #answered(link: Link, message: Message): void {
    const format = this.#format;
    if (format === null || !('clusterId' in message) || message.clusterId !== format.clusterId) return;
    const { clusterId } = format;
    if (message.kind === 'committed') link.committed = clusterId;
    if (message.kind === 'prepared') link.prepared = clusterId;
    const links = [...this.#links.values()];
    if (links.length < this.#others.length || links.some(({ prepared }) => prepared !== clusterId)) return;
    if (message.kind === 'prepared') {
      this.#options.commit(format);
      for (const { connection } of links) send(connection, { kind: 'commit', clusterId });
      // Who misses this hears it from us, or from any other, once we are a formatted node.
      this.#timers.set(
        0,
        this.#ports.clock.after(this.#options.handshakeMilliseconds, () => this.#conclude(format)),
      );
    } else if (links.every(({ committed }) => committed === clusterId)) this.#conclude(format);
  }

  /** What the coordinator says. */
  #obey(connection: Connection, peer: Identity, message: Message): void {
    const { nodes } = this.#options;
    if (nodes.some(({ node }) => node < peer.node)) return connection.close();
    if (message.kind === 'prepare') {
      const { format } = message;
      const isOurs =
        format.nodes.length === nodes.length &&
        nodes.every(({ node, name }) => format.nodes.some((known) => known.node === node && known.name === name));
      if (!isOurs) return connection.close();
      this.#prepare(format);
      send(connection, { kind: 'prepared', clusterId: format.clusterId });
    } else if (message.kind === 'commit' && this.#prepared?.clusterId === message.clusterId) {
      send(connection, { kind: 'committed', clusterId: message.clusterId });
      this.#commit(this.#prepared);
    }
  }

  #prepare(format: Format): void {
    if (this.#prepared?.clusterId !== format.clusterId) this.#options.prepare(format);
    this.#prepared = format;
  }

  #commit(format: Format): void {
    this.#options.commit(format);
    this.#conclude(format);
  }

  #conclude(format: Format): void {
    if (this.#ended) return;
    this.end();
    this.#finish(format);
  }
}

const send = (connection: Connection, message: Message): void => say(connection, message);

function parseMessage(value: unknown): Message | null {
  const message = Object(value) as Partial<Record<string, unknown>>;
  switch (message.kind) {
    case 'prepare': {
      const format = parseFormat(message.format);
      return format === null ? null : { kind: 'prepare', format };
    }
    case 'prepared':
    case 'commit':
    case 'committed':
      return typeof message.clusterId === 'string' ? { kind: message.kind, clusterId: message.clusterId } : null;
    default:
      return null;
  }
}

/** A format that was written down or sent, or null. */
export function parseFormat(value: unknown): Format | null {
  const { clusterId, nodes } = Object(value) as Partial<Record<string, unknown>>;
  if (typeof clusterId !== 'string' || clusterId === '' || isFormation(clusterId) || !Array.isArray(nodes)) return null;
  const isFine = nodes.every((entry: unknown) => {
    const { node, name, uuid } = Object(entry) as Partial<Record<string, unknown>>;
    return Number.isInteger(node) && typeof name === 'string' && typeof uuid === 'string' && uuid !== '';
  });
  return isFine ? { clusterId, nodes: nodes as Format['nodes'] } : null;
}
