// The broker: what one node does for its clients. Knows vhosts, queues and messages; nothing of AMQP's frames, nothing of Raft.
//
// State owned: open connections, and the consumers of this node by number. Numbers are unique for an incarnation, so that a lease names its
// consumer whatever its shard. Everything else is read from the cluster, whenever it is needed.

import {
  CancelFlag,
  type Clock,
  type Cluster,
  type ConnectionId,
  type Feed,
  type Pipe,
  type Random,
  SettleOperation,
} from '../../cluster/index.ts';
import type {
  AmqpBackend,
  ChannelBackend,
  ChannelEvents,
  ConnectionBackend,
  ConnectionEvents,
  ConnectionInfo,
  Outcome,
  Reply,
} from '../amqp/backend.ts';
import { BrokerError } from '../errors.ts';
import { BrokerChannel } from './channel.ts';
import type { Consumer } from './consumer.ts';
import { Gate, type Held } from './gate.ts';

export interface BrokerOptions {
  readonly defaultUser: string;
  readonly defaultPassword: string;
  /** Users who may connect from this machine only. */
  readonly loopbackUsers: readonly string[];
  /** Messages sent ahead to a consumer without a limit of its own, beyond what its socket has taken. */
  readonly consumerWindow: number;
  /** What a limit of its whole channel leaves no room for goes back to its queue after this long. */
  readonly parkedMilliseconds: number;
  /** Whoever rejected messages and finds nothing waits so long for what may be on its way to where dead letters go. */
  readonly lettersMilliseconds: number;
}

/** What it needs of the system. */
export interface BrokerPorts {
  readonly clock: Clock;
  readonly random: Random;
}

export class Broker implements AmqpBackend, Feed {
  readonly cluster: Cluster;
  readonly options: BrokerOptions;
  readonly clock: Clock;
  readonly random: Random;
  readonly consumers = new Map<number, Consumer>();
  /** Publishes that found no queue, by what this node knew. */
  unroutable = 0;
  readonly #connections = new Set<BrokerConnection>();
  /** Closed, with publishes that still wait for the metadata. */
  readonly #lingering = new Set<BrokerConnection>();
  /** Channels with something to deliver or to tell at the end of this turn. */
  readonly #dirty = new Set<BrokerChannel>();
  #nextConsumer = 1;
  #nextConnection = 1;

  constructor(cluster: Cluster, { clock, random }: BrokerPorts, options: BrokerOptions) {
    this.cluster = cluster;
    this.clock = clock;
    this.random = random;
    this.options = options;
    cluster.setFeed(this);
  }

  // -- AmqpBackend ----------------------------------------------------------------------------------------------------------------

  authenticate(user: string, password: string, remoteAddress: string, reply: Reply<void>): void {
    const refuse = (reason: string) =>
      reply({
        ok: false,
        error: new BrokerError('login-refused', `Login was refused using authentication mechanism PLAIN${reason}`),
      });
    const { defaultUser, defaultPassword } = this.options;
    const known = sameText(user, defaultUser);
    if (!sameText(password, defaultPassword) || !known) return refuse('. For details see the broker logfile.');
    if (this.options.loopbackUsers.includes(user) && !isLoopback(remoteAddress))
      return refuse(`: user '${user}' can only connect via localhost`);
    reply({ ok: true, value: undefined });
  }

  openConnection(info: ConnectionInfo, events: ConnectionEvents): Outcome<ConnectionBackend> {
    if (!this.cluster.isReady)
      return { ok: false, error: new BrokerError('connection-forced', 'this node is not ready to serve clients') };
    if (!this.cluster.metadata.vhostExists(info.vhost))
      return { ok: false, error: new BrokerError('not-allowed', `vhost ${info.vhost} not found`) };
    const id = { node: this.cluster.node, incarnation: this.cluster.incarnation, connection: this.#nextConnection++ };
    const connection = new BrokerConnection(this, id, info.vhost, events);
    this.#connections.add(connection);
    // What it asks for first may have come with the bytes that opened it.
    connection.received();
    return { ok: true, value: connection };
  }

  // -- Feed -----------------------------------------------------------------------------------------------------------------------

  lease(
    shard: number,
    number: number,
    leaseOrdinal: number,
    entryIndex: number,
    ordinal: number,
    redelivered: boolean,
    deliveryCount: number,
  ): void {
    const consumer = this.consumers.get(number);
    if (consumer === undefined) return; // cancelled since: its cancel, later in the same pipe, returns the lease
    consumer.nextLease = leaseOrdinal + 1;
    if (consumer.cancelling) this.cluster.pipe(shard).settle(SettleOperation.release, 0, number, leaseOrdinal, 1);
    else consumer.channel.leased(consumer, leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount);
  }

  consumerCancelled(_shard: number, number: number): void {
    const consumer = this.consumers.get(number);
    if (consumer === undefined) return;
    this.consumers.delete(number);
    consumer.channel.consumerCancelled(consumer);
  }

  nextLease(_shard: number, number: number): number {
    // An unknown consumer is being cancelled: there is nothing to catch up with.
    return this.consumers.get(number)?.nextLease ?? Number.MAX_SAFE_INTEGER;
  }

  *consumersOf(shard: number): Generator<{ readonly consumer: number; readonly nextLease: number }> {
    for (const { number, shard: of, nextLease } of this.consumers.values())
      if (of === shard) yield { consumer: number, nextLease };
  }

  reconciled(shard: number, hasConsumer: (consumer: number) => boolean): void {
    for (const consumer of [...this.consumers.values()])
      if (consumer.shard === shard && consumer.attached && !consumer.cancelling && !hasConsumer(consumer.number))
        this.consumerCancelled(shard, consumer.number);
  }

  turnEnded(): void {
    if (this.#dirty.size === 0) return;
    const channels = [...this.#dirty];
    this.#dirty.clear();
    for (const channel of channels) channel.pump();
  }

  congestionChanged(): void {
    for (const connection of this.#connections) {
      connection.tellAlarm();
      connection.resume();
    }
  }

  metadataFresh(): void {
    for (const connection of [...this.#connections, ...this.#lingering]) connection.freshAgain();
    this.#lingering.clear();
  }

  metadataOverdue(): void {
    for (const connection of [...this.#connections, ...this.#lingering]) connection.overdue();
    this.#lingering.clear();
  }

  fenced(): void {
    this.#lingering.clear();
    const error = new BrokerError('connection-forced', 'this node was away for too long; its sessions were ended');
    this.consumers.clear();
    for (const connection of [...this.#connections]) {
      connection.abandon();
      connection.events.shutdown(error);
    }
  }

  /** Those that clients know of. */
  get consumerCount(): number {
    let count = 0;
    for (const { getter, cancelling } of this.consumers.values()) if (!getter && !cancelling) count++;
    return count;
  }

  // -- for channels ---------------------------------------------------------------------------------------------------------------

  newConsumerNumber(): number {
    return this.#nextConsumer++;
  }
  channelDirty(channel: BrokerChannel): void {
    this.#dirty.add(channel);
  }
  connectionClosed(connection: BrokerConnection, lingers: boolean): void {
    this.#connections.delete(connection);
    if (lingers) this.#lingering.add(connection);
  }
}

export class BrokerConnection implements ConnectionBackend {
  readonly broker: Broker;
  readonly id: ConnectionId;
  readonly vhost: string;
  readonly events: ConnectionEvents;
  /** Set by the first exclusive queue. */
  ownsQueues = false;
  readonly gate = new Gate();
  readonly #channels = new Set<BrokerChannel>();
  /** What it published to that was too far behind. */
  readonly #congested = new Set<Pipe>();
  #paused = false;
  #closed = false;

  constructor(broker: Broker, id: ConnectionId, vhost: string, events: ConnectionEvents) {
    this.broker = broker;
    this.id = id;
    this.vhost = vhost;
    this.events = events;
  }

  openChannel(events: ChannelEvents): ChannelBackend {
    const channel = new BrokerChannel(this.broker, this, events);
    this.#channels.add(channel);
    return channel;
  }

  channelClosed(channel: BrokerChannel): void {
    this.#channels.delete(channel);
  }

  /**
   * It has published something to `pipe`. Only connections that publish are paused, as acknowledgements of the others relieve the broker; and only
   * by where they publish to: a shard that is behind, or has no majority, holds up nobody who has nothing to do with it.
   */
  published(pipe: Pipe): void {
    const isCongested = pipe.isCongestedFor(this);
    if (isCongested) this.#congested.add(pipe);
    if (!this.#paused && (isCongested || this.broker.cluster.alarm !== null)) this.#pause();
  }

  #pause(): void {
    this.#paused = true;
    this.events.pause();
    this.tellAlarm();
  }

  /** A publisher that waits because a disk is low is told so, if it understands that. */
  tellAlarm(): void {
    const { alarm } = this.broker.cluster;
    if (this.#paused && alarm !== null) this.events.blocked(alarm);
  }

  /** Also asks whether anything else holds its publishers up. */
  resume(): void {
    if (!this.#paused || !this.gate.isEmpty || this.broker.cluster.alarm !== null) return;
    for (const pipe of this.#congested) if (pipe.isCongestedFor(this)) return;
    this.#congested.clear();
    this.#paused = false;
    this.events.unblocked();
    this.events.resume();
  }

  get isBusy(): boolean {
    return this.broker.cluster.isBusy;
  }

  received(): void {
    if (!this.broker.cluster.isFresh) this.gate.isShut = true;
    else if (this.gate.isShut) this.freshAgain();
  }

  /** For an operation that needs the metadata, while the gate is shut. */
  hold(operation: Held): void {
    this.gate.hold(operation);
    if (!this.#paused && !this.#closed) this.#pause();
  }

  freshAgain(): void {
    this.gate.open();
    this.resume();
  }

  /** Whoever can be told is told; publishes without confirms wait on, as long as their connection lasts. */
  overdue(): void {
    this.gate.refuse();
    if (this.#closed) this.gate.clear();
    else this.resume();
  }

  /** This incarnation ended: nothing of it may be sent any more. */
  abandon(): void {
    this.#closed = true;
    this.gate.clear();
    for (const channel of this.#channels) channel.abandon();
    this.#channels.clear();
    this.broker.connectionClosed(this, false);
  }

  close(done: () => void = () => {}): void {
    if (this.#closed) return done();
    this.#closed = true;
    let pending = 1;
    const oneIsDone = () => {
      if (--pending === 0) done();
    };
    for (const channel of [...this.#channels]) {
      pending++;
      channel.close(oneIsDone);
    }
    this.broker.connectionClosed(this, !this.gate.isEmpty);
    // Said once: the command stays in its pipe until it was applied. If this incarnation ends before that, its queues end with it.
    const { cluster } = this.broker;
    if (this.ownsQueues && cluster.incarnation === this.id.incarnation) {
      pending++;
      cluster.changeMetadata({ kind: 'deleteExclusive', owner: this.id }, oneIsDone);
    }
    oneIsDone();
  }
}

/** Ends a consumer in the machine: what it holds goes back. */
export function dropConsumer(broker: Broker, consumer: Consumer, then: (() => void) | null = null): void {
  broker.consumers.delete(consumer.number);
  const { shard, number, channel } = consumer;
  broker.cluster.pipe(shard).cancel(channel.connection, number, CancelFlag.returnLeases, then);
}

/** Takes as long for a wrong text as for the right one. */
function sameText(given: string, expected: string): boolean {
  const a = Buffer.from(given, 'utf8');
  const b = Buffer.from(expected, 'utf8');
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) difference |= a[i]! ^ (b[i % Math.max(1, b.length)] ?? 0);
  return difference === 0;
}

function isLoopback(remoteAddress: string): boolean {
  return /^\[?(127\.|::1\b|::ffff:127\.)/.test(remoteAddress);
}
