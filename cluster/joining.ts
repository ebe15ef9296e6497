// How a node joins a cluster that exists: it asks any of its nodes, and is told its number and what the cluster was formed with.
//
//   joiner   has chosen a UUID, durably; dials the addresses it was given in turn, proves that it knows the secret, and asks
//   member   asks the metadata for a number (`joinNode`), and answers with format, number and where the others are
//   joiner   writes that down, durably, and opens as any node does; from there on the metadata's leader takes it in
//
// Whoever asks twice with the same UUID gets the same number, so a crash anywhere in between wastes and doubles nothing. A node that lost its
// disk has lost its UUID, and with it number and vote: it joins as another.
//
// State owned: the connection of the moment and, at the member, those on which an answer is awaited. Connections are those of
// `transport/handshake.ts` with `joiningId` in place of a cluster's id; behind it `transport/conversation.ts`.

import { type Format, FormationError, parseFormat } from './formation.ts';
import { ResultCode } from './machine/commands.ts';
import { MemberRefusal, memberRefusalText } from './machine/metadata/refusals.ts';
import type { MetadataCommand, MetadataView, NodeAddress, OriginalNode } from './machine/metadata-types.ts';
import { latestVersion, machineVersions } from './machine/versions.ts';
import type { ReportEvent } from './options.ts';
import type { CommandReply } from './origin/pipe.ts';
import type { Address, Clock, Connection, Ports, Timer } from './ports.ts';
import { listenTo, say } from './transport/conversation.ts';
import { createDialHandshake, joiningId, nonceBytes } from './transport/handshake.ts';
import { type Negotiation, negotiate } from './transport/negotiate.ts';
import type { PeerAddress } from './transport-types.ts';

/** What a node that joined must know for ever. */
export interface Membership {
  /** Its own number and UUID. */
  readonly node: number;
  readonly uuid: string;
  /** What the cluster was formed with. */
  readonly format: Format;
  readonly shards: number;
  readonly replication: number;
  /** Where nodes of the cluster were found when it joined, by number. */
  readonly contacts: readonly PeerAddress[];
}

export interface JoinOptions {
  readonly clusterName: string;
  readonly nodeName: string;
  /** Chosen once for this data folder, durably. */
  readonly uuid: string;
  /** Where the others will find this node. */
  readonly address: Address;
  /** Name or number of the member whose place it takes; null: of none. */
  readonly replaces: string | null;
  /** Peer ports of nodes of the cluster; any one that answers will do. */
  readonly contacts: readonly Address[];
  readonly secret: string;
  readonly handshakeMilliseconds: number;
  readonly redialMilliseconds: number;
  readonly redialMillisecondsMax: number;
  readonly report: ReportEvent;
}

export interface Joining {
  /** Rejects with a `FormationError` when the cluster refuses this node. */
  readonly done: Promise<Membership>;
  /** What it came to last, for people. */
  waitingFor(): string;
  cancel(): void;
}

interface Request {
  readonly kind: 'join';
  readonly clusterName: string;
  readonly address: NodeAddress;
  readonly replaces: string | null;
  readonly machineVersion: number;
}

type Answer =
  /** `isFinal`: asking again is of no use. */
  | { readonly kind: 'refused'; readonly reason: string; readonly isFinal: boolean }
  | ({ readonly kind: 'joined' } & Omit<Membership, 'uuid'>);

/** The metadata may have to find a leader first. */
const answerMilliseconds = 30_000;

export function joinCluster(options: JoinOptions, ports: Pick<Ports, 'net' | 'clock' | 'random'>): Joining {
  const asking = new Asking(options, ports);
  return { done: asking.done, waitingFor: () => asking.waitingFor, cancel: () => asking.end() };
}

// The node that joins.

class Asking {
  readonly done: Promise<Membership>;
  waitingFor = 'no node of the cluster has answered yet';
  readonly #options: JoinOptions;
  readonly #ports: Pick<Ports, 'net' | 'clock' | 'random'>;
  #finish: (membership: Membership) => void = () => {};
  #fail: (error: Error) => void = () => {};
  #next = 0;
  #wait: number;
  #timer: Timer | null = null;
  #negotiation: Negotiation | null = null;
  #connection: Connection | null = null;
  #ended = false;

  constructor(options: JoinOptions, ports: Pick<Ports, 'net' | 'clock' | 'random'>) {
    this.#options = options;
    this.#ports = ports;
    this.#wait = options.redialMilliseconds;
    this.done = new Promise((resolve, reject) => {
      this.#finish = resolve;
      this.#fail = reject;
    });
    // It may fail before anybody waits for it.
    this.done.catch(() => {});
    this.#ask();
  }

  /** Closes everything. `done` never settles unless it has. */
  end(): void {
    this.#ended = true;
    this.#timer?.cancel();
    this.#negotiation?.cancel();
    this.#connection?.close();
  }

  #ask(): void {
    const { contacts } = this.#options;
    const contact = contacts[this.#next++ % contacts.length]!;
    const where = `${contact.host}:${contact.port}`;
    this.#ports.net.connect(contact, (error, connection) => {
      if (this.#ended) return connection?.close();
      if (connection === null || error !== null) return this.#later(`${where} cannot be reached`);
      this.#negotiate(connection, where);
    });
  }

  #negotiate(connection: Connection, where: string): void {
    const { nodeName, uuid, secret, handshakeMilliseconds } = this.#options;
    const party = {
      self: { clusterId: joiningId, node: 0, name: nodeName, uuid, incarnation: 1 },
      secret,
      nonce: this.#ports.random.bytes(nonceBytes),
      check: () => null,
    };
    const handshake = createDialHandshake(party, 'control', null);
    this.#negotiation = negotiate(connection, handshake, this.#ports.clock, handshakeMilliseconds, (outcome) => {
      this.#negotiation = null;
      if (outcome.kind === 'open') this.#converse(connection, where, outcome.peer.clusterId);
      else this.#later(`${where}: ${outcome.reason ?? 'the connection broke'}`);
    });
  }

  #converse(connection: Connection, where: string, clusterId: string): void {
    const { clusterName, address, replaces } = this.#options;
    this.#connection = connection;
    const over = (reason: string) => {
      if (this.#connection !== connection) return;
      this.#connection = null;
      connection.close();
      this.#later(`${where}: ${reason}`);
    };
    this.#timer = this.#ports.clock.after(answerMilliseconds, () => over('no answer'));
    connection.onClose = () => over('the connection broke');
    listenTo(
      connection,
      parseAnswer,
      () => this.#connection !== connection,
      (answer) => {
        if (answer.kind === 'refused' && !answer.isFinal) return over(answer.reason);
        if (answer.kind === 'joined' && answer.format.clusterId !== clusterId)
          return over('answered for another cluster');
        this.end();
        if (answer.kind === 'refused')
          return this.#fail(new FormationError(`the cluster refuses this node: ${answer.reason}`));
        const { kind: _, ...membership } = answer;
        this.#finish({ ...membership, uuid: this.#options.uuid });
      },
    );
    const machineVersion = latestVersion(machineVersions);
    say(connection, { kind: 'join', clusterName, address, replaces, machineVersion } satisfies Request);
  }

  /** The next one is asked, after a while once all were. */
  #later(reason: string): void {
    this.#timer?.cancel();
    if (this.#ended) return;
    if (reason !== this.waitingFor) this.#options.report('warn', 'not let in yet', { reason });
    this.waitingFor = reason;
    const { contacts, redialMillisecondsMax } = this.#options;
    this.#timer = this.#ports.clock.after(this.#wait, () => this.#ask());
    if (this.#next % contacts.length === 0) this.#wait = Math.min(2 * this.#wait, redialMillisecondsMax);
  }
}

// The member that is asked.

export interface DoorContext {
  readonly clusterName: string;
  readonly clusterId: string;
  readonly original: readonly OriginalNode[];
  readonly shards: number;
  readonly replication: number;
  readonly metadata: MetadataView;
  readonly clock: Clock;
  readonly report: ReportEvent;
  /** May the metadata be asked for something? */
  isReady(): boolean;
  change(command: MetadataCommand, reply: CommandReply): void;
  /** Where a node is found, by what this one knows; undefined: it does not. */
  addressOf(node: number): Address | undefined;
}

/** Lets nodes in: answers those that the transport hands over (`TransportEvents.joining`). */
export class Door {
  readonly #context: DoorContext;
  readonly #guests = new Set<Connection>();
  #closed = false;

  constructor(context: DoorContext) {
    this.#context = context;
  }

  accept(connection: Connection, guest: { readonly name: string; readonly uuid: string }): void {
    if (this.#closed) return connection.close();
    this.#guests.add(connection);
    const timer = this.#context.clock.after(answerMilliseconds, () => connection.close());
    const isOver = () => !this.#guests.has(connection);
    connection.onClose = () => {
      timer.cancel();
      this.#guests.delete(connection);
    };
    listenTo(connection, parseRequest, isOver, (request) => {
      this.#decide(guest, request, (answer) => {
        if (isOver()) return;
        this.#guests.delete(connection);
        timer.cancel();
        say(connection, answer);
        connection.close();
      });
    });
  }

  close(): void {
    this.#closed = true;
    for (const connection of [...this.#guests]) connection.close();
    this.#guests.clear();
  }

  #decide(
    { name, uuid }: { readonly name: string; readonly uuid: string },
    request: Request,
    answer: (answer: Answer) => void,
  ): void {
    const { clusterName, metadata, report } = this.#context;
    const refuse = (reason: string, isFinal: boolean) => answer({ kind: 'refused', reason, isFinal });
    if (request.clusterName !== clusterName)
      return refuse(`this is cluster "${clusterName}", not "${request.clusterName}"`, true);
    if (request.machineVersion < metadata.machineVersion)
      return refuse(memberRefusalText(MemberRefusal.oldVersion), true);
    if (!this.#context.isReady()) return refuse('the node that was asked is not ready itself', false);
    const replaced = request.replaces === null ? null : memberNamed(metadata, request.replaces);
    if (replaced === undefined) return refuse(`there is no node ${request.replaces} to replace`, true);
    const command: MetadataCommand = { kind: 'joinNode', name, uuid, address: request.address, replaces: replaced };
    this.#context.change(command, (result) => {
      if (result === null) return refuse('the cluster has no majority that could let it in', false);
      if (result.code !== ResultCode.ok) return refuse(memberRefusalText(result.value), true);
      report('info', 'node joins', { node: result.value, name, replaces: replaced });
      answer(this.#welcome(result.value));
    });
  }

  #welcome(node: number): Answer {
    // The original nodes exactly as they are known here: the new replica of the metadata must begin as all others did.
    const { clusterId, original: nodes, shards, replication, metadata, addressOf } = this.#context;
    const contacts: PeerAddress[] = [];
    for (const member of metadata.members()) {
      const address = member.state === 'gone' || member.node === node ? undefined : addressOf(member.node);
      if (address !== undefined) contacts.push({ node: member.node, name: member.name, address });
    }
    return { kind: 'joined', node, format: { clusterId, nodes }, shards, replication, contacts };
  }
}

/** The number of the member with this name, or number; undefined: there is none. */
export function memberNamed(metadata: Pick<MetadataView, 'members'>, text: string): number | undefined {
  for (const { node, name } of metadata.members()) if (name === text) return node;
  for (const { node } of metadata.members()) if (String(node) === text) return node;
  return undefined;
}

// Messages.

type Fields = Partial<Record<string, unknown>>;

function parseRequest(value: unknown): Request | null {
  const { kind, clusterName, address, replaces, machineVersion } = Object(value) as Fields;
  const where = parseAddress(address);
  if (kind !== 'join' || typeof clusterName !== 'string' || where === null) return null;
  if ((replaces !== null && typeof replaces !== 'string') || !Number.isSafeInteger(machineVersion)) return null;
  return { kind, clusterName, address: where, replaces, machineVersion: machineVersion as number };
}

function parseAnswer(value: unknown): Answer | null {
  const fields = Object(value) as Fields;
  if (fields.kind === 'refused')
    return typeof fields.reason === 'string' && typeof fields.isFinal === 'boolean'
      ? { kind: 'refused', reason: fields.reason, isFinal: fields.isFinal }
      : null;
  const membership = fields.kind === 'joined' ? parseMembership({ ...fields, uuid: '-' }) : null;
  if (membership === null) return null;
  const { uuid: _, ...rest } = membership;
  return { kind: 'joined', ...rest };
}

/** A membership that was written down or sent, or null. */
export function parseMembership(value: unknown): Membership | null {
  const { node, uuid, format, shards, replication, contacts } = Object(value) as Fields;
  const parsed = parseFormat(format);
  const isCount = (count: unknown): count is number => Number.isSafeInteger(count) && (count as number) >= 1;
  if (!isCount(node) || typeof uuid !== 'string' || uuid === '' || parsed === null) return null;
  if (!isCount(shards) || !isCount(replication) || !Array.isArray(contacts)) return null;
  const found: PeerAddress[] = [];
  for (const contact of contacts) {
    const { node: number, name, address } = Object(contact) as Fields;
    const where = parseAddress(address);
    if (!isCount(number) || typeof name !== 'string' || where === null) return null;
    found.push({ node: number, name, address: where });
  }
  return { node, uuid, format: parsed, shards, replication, contacts: found };
}

function parseAddress(value: unknown): Address | null {
  const { host, port } = Object(value) as Fields;
  return typeof host === 'string' &&
    host !== '' &&
    Number.isInteger(port) &&
    Number(port) >= 1 &&
    Number(port) <= 65_535
    ? { host, port: Number(port) }
    : null;
}
