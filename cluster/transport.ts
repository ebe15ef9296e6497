// Peers over the network: authenticated connections, frames in order per lane, and the news of who is up.
//
// Every node dials every peer twice (control and bulk), and its frames travel on what it dialled: four connections per pair, so that a
// large frame delays no heartbeat and each direction of a path fails on its own. `transport/handshake.ts` says who is let in,
// `frames.ts` what travels, `lanes.ts` what one connection does, `peer.ts` when a peer is up.
//
// State owned: the listener, the connections that have not yet said who they are, and one `Peer` each for the others of the cluster.
// It knows nothing of Raft, and forgets what it could not deliver. Invariants: no frame is accepted from, and none is sent to, a peer
// that has not proved that it knows the secret; at most `strangersMax` connections wait for that, each for a limited time.

import type { Connection, Ports, Timer } from './ports.ts';
import {
  createAcceptHandshake,
  createDialHandshake,
  type HandshakeParty,
  type Identity,
  isFormation,
  isJoining,
  nonceBytes,
} from './transport/handshake.ts';
import { type OutgoingLane, silentTicksMax } from './transport/lanes.ts';
import { type Negotiation, negotiate } from './transport/negotiate.ts';
import { Peer, type PeerContext } from './transport/peer.ts';
import type {
  CreateTransport,
  Lane,
  PeerAddress,
  Transport,
  TransportEvents,
  TransportOptions,
} from './transport-types.ts';

/** Accepted connections that may be in their handshake at once; one more ends the oldest, which has had its chance. */
const strangersMax = 64;
const silenceMillisecondsDefault = 5_000;
/** The same reason from the same host is reported once in this time. */
const refusalMilliseconds = 10_000;
const refusalsRememberedMax = 100;

export const createTransport: CreateTransport = (ports, options, events) => new PeerTransport(ports, options, events);

class PeerTransport implements Transport {
  readonly #ports: Pick<Ports, 'net' | 'clock' | 'random'>;
  readonly #options: TransportOptions;
  readonly #events: TransportEvents;
  readonly #self: Identity;
  readonly #peers = new Map<number, Peer>();
  readonly #strangers = new Set<Negotiation>();
  readonly #refusals = new Map<string, number>();
  readonly #peerContext: PeerContext;
  #unflushed: OutgoingLane[] = [];
  #listener: { close(): Promise<void> } | null = null;
  #tickTimer: Timer | null = null;
  #started = false;
  #isolated = false;
  #closed = false;

  constructor(ports: Pick<Ports, 'net' | 'clock' | 'random'>, options: TransportOptions, events: TransportEvents) {
    this.#ports = ports;
    this.#options = options;
    this.#events = events;
    const { clusterId, node, nodeName: name, nodeUuid: uuid, incarnation } = options;
    this.#self = { clusterId, node, name, uuid, incarnation };
    this.#peerContext = {
      ports,
      options,
      events,
      dialHandshake: (address: { readonly node: number; readonly name: string }, lane: Lane) =>
        createDialHandshake(this.#party(), lane, address),
      refused: (address: string, reason: string) => this.#refused(address, reason),
      flushSoon: (lane: OutgoingLane) => this.#flushSoon(lane),
      isIsolated: () => this.#isolated,
    };
    this.setPeers(options.peers);
  }

  async start(): Promise<void> {
    const listener = await this.#ports.net.listen(this.#options.listen, (connection) => this.#accept(connection));
    if (this.#closed) return listener.close();
    this.#listener = listener;
    this.#started = true;
    for (const peer of this.#peers.values()) peer.dial();
    this.#planTick();
  }

  setPeers(peers: readonly PeerAddress[]): void {
    const others = peers.filter(({ node }) => node !== this.#options.node);
    // A node alone needs none: whoever calls is no peer, and is sent away.
    if (this.#options.secret === '' && others.length > 0)
      throw new Error('a transport between nodes needs the secret of the cluster');
    for (const [node, peer] of this.#peers) {
      if (others.some((other) => other.node === node)) continue;
      this.#peers.delete(node);
      peer.close();
    }
    for (const address of others) {
      const known = this.#peers.get(address.node);
      if (known !== undefined) {
        known.address = address;
        continue;
      }
      const peer = new Peer(address, this.#peerContext);
      this.#peers.set(address.node, peer);
      if (this.#started && !this.#closed) peer.dial();
    }
  }

  send(node: number, lane: Lane, kind: number, pieces: readonly Uint8Array[]): boolean {
    return this.#peers.get(node)?.outgoing(lane)?.send(kind, pieces) ?? false;
  }

  bufferedBytes(node: number, lane: Lane): number {
    return this.#peers.get(node)?.outgoing(lane)?.bufferedBytes ?? 0;
  }

  isUp(node: number): boolean {
    return this.#peers.get(node)?.isUp ?? false;
  }

  isolate(on: boolean): void {
    if (on === this.#isolated || this.#closed) return;
    this.#isolated = on;
    if (on) this.#dropStrangers();
    for (const peer of this.#peers.values()) {
      if (on) peer.drop();
      else if (this.#started) peer.dial();
    }
  }

  incarnationOf(node: number): number {
    return this.#peers.get(node)?.incarnation ?? 0;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#tickTimer?.cancel();
    this.#dropStrangers();
    for (const peer of this.#peers.values()) peer.close();
    await this.#listener?.close();
  }

  #dropStrangers(): void {
    for (const stranger of this.#strangers) stranger.cancel();
    this.#strangers.clear();
  }

  #accept(connection: Connection): void {
    if (this.#closed || this.#isolated) return connection.close();
    for (const oldest of this.#strangers) {
      if (this.#strangers.size < strangersMax) break;
      this.#strangers.delete(oldest);
      oldest.cancel();
    }
    const { clock } = this.#ports;
    const party = this.#party();
    const check = (peer: Identity) => {
      if (peer.clusterId === this.#self.clusterId && !this.#peers.has(peer.node))
        this.#events.met?.(peer.node, peer.name);
      return party.check(peer);
    };
    const handshake = createAcceptHandshake({ ...party, check });
    const stranger = negotiate(connection, handshake, clock, this.#options.handshakeMilliseconds, (outcome) => {
      this.#strangers.delete(stranger);
      if (outcome.kind === 'open' && isJoining(outcome.peer.clusterId)) {
        if (this.#events.joining === undefined) connection.close();
        else this.#events.joining(connection, outcome.peer);
      } else if (outcome.kind === 'open' && isFormation(outcome.peer.clusterId)) {
        // It knows now that there is a cluster; see `formation.ts`.
        connection.close();
        this.#refused(connection.remoteAddress, `node ${outcome.peer.name} has an empty data folder`);
      } else if (outcome.kind === 'open')
        this.#peers.get(outcome.peer.node)!.addIncoming(connection, outcome.lane, outcome.peer);
      else if (outcome.reason !== null) this.#refused(connection.remoteAddress, outcome.reason);
    });
    this.#strangers.add(stranger);
  }

  #party(): HandshakeParty {
    return {
      self: this.#self,
      secret: this.#options.secret,
      nonce: this.#ports.random.bytes(nonceBytes),
      check: (peer) => (isFormation(peer.clusterId) || isJoining(peer.clusterId) ? null : this.#check(peer)),
      isGone: (peer) => peer.clusterId === this.#self.clusterId && this.#events.isGone(peer.node),
    };
  }

  /** Null, or why this identity must not be talked to. Remembers nothing. */
  #check({ node, name, uuid, incarnation }: Identity): string | null {
    const peer = this.#peers.get(node);
    if (peer === undefined) return `node ${node} is not known here`;
    if (peer.address.name !== name) return `node ${node} is known as ${peer.address.name}, not ${name}`;
    if (incarnation < peer.incarnation)
      return `incarnation ${incarnation} of node ${node} is older than ${peer.incarnation}`;
    return this.#events.checkPeer(node, name, uuid, incarnation);
  }

  #flushSoon(lane: OutgoingLane): void {
    if (this.#unflushed.push(lane) > 1) return;
    this.#ports.clock.soon(() => {
      const lanes = this.#unflushed;
      this.#unflushed = [];
      for (let i = 0; i < lanes.length; i++) lanes[i]!.flush();
    });
  }

  /** After a pause of this process one late tick counts as one, and what the sockets hold is read before it. */
  #planTick(): void {
    const { clock } = this.#ports;
    const milliseconds = (this.#options.silenceMilliseconds ?? silenceMillisecondsDefault) / silentTicksMax;
    this.#tickTimer = clock.after(milliseconds, () => {
      clock.soon(() => {
        if (this.#closed) return;
        for (const peer of this.#peers.values()) peer.tick();
        this.#planTick();
      });
    });
  }

  /** `reason` may hold text from a stranger. */
  #refused(address: string, reason: string): void {
    if (this.#closed) return;
    const now = this.#ports.clock.now();
    for (const [key, time] of this.#refusals) if (now - time >= refusalMilliseconds) this.#refusals.delete(key);
    const host = address.slice(0, address.lastIndexOf(':'));
    const key = `${host} ${reason}`;
    if (this.#refusals.has(key) || this.#refusals.size >= refusalsRememberedMax) return;
    this.#refusals.set(key, now);
    this.#events.refused(address, reason.replace(/\p{C}/gu, '?'));
  }
}
