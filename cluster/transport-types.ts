// Peers: what the host asks of the transport. Types only.

import type { Address, Connection, Ports } from './ports.ts';

export interface PeerAddress {
  readonly node: number;
  readonly name: string;
  readonly address: Address;
}

export interface TransportOptions {
  readonly clusterId: string;
  readonly node: number;
  readonly nodeName: string;
  readonly nodeUuid: string;
  readonly incarnation: number;
  readonly listen: Address;
  readonly peers: readonly PeerAddress[];
  /** Shared secret of the cluster. Both sides prove that they know it (HMAC-SHA-256 over both nonces and both identities). */
  readonly secret: string;
  readonly frameBytesMax: number;
  readonly handshakeMilliseconds: number;
  /** First wait before dialling again; doubles up to `redialMillisecondsMax`. */
  readonly redialMilliseconds: number;
  readonly redialMillisecondsMax: number;
  /**
   * A lane on which nothing arrived for about this long is broken and dialled again (every lane is kept busy from both ends five times as
   * often). It finds paths that lose packets in silence, and is no failure detector for leaders. Default 5,000.
   */
  readonly silenceMilliseconds?: number;
}

/** `control`: heartbeats, votes, replies: small, never behind bulk. `bulk`: entries, batches, snapshots. Order is kept within a lane. */
export type Lane = 'control' | 'bulk';

export interface TransportEvents {
  /**
   * A frame from an authenticated peer. `body` may be kept: it is not reused. `incarnation` is the sender's. Frames may come before `up`
   * and after `down`: those tell about the lanes to the peer, a frame travels on a lane from it.
   */
  frame(node: number, incarnation: number, lane: Lane, kind: number, body: Buffer): void;
  /** Both our lanes to this peer are open. What was sent between an earlier `up` and its `down` and did not arrive is lost. */
  up(node: number, incarnation: number): void;
  /** A lane to or from this peer broke, or a newer incarnation of it came (told once until the next `up`). Both lanes are dialled anew. */
  down(node: number): void;
  /** A lane's buffer drained after `send` had answered false. */
  drained(node: number, lane: Lane): void;
  /**
   * A peer that must not be talked to (other cluster, other UUID under a known name, wrong secret, older incarnation), that refused us,
   * that broke the rules, or whose lane fell silent.
   * For the log; the same reason from the same host is told once in ten seconds.
   */
  refused(address: string, reason: string): void;
  /** Is this identity acceptable by what the metadata knows? Null: yes; else the reason to give. */
  checkPeer(node: number, name: string, uuid: string, incarnation: number): string | null;
  /** Has this node left the cluster for good, by what the metadata knows? It is told so when it calls. */
  isGone(node: number): boolean;
  /**
   * A node that is no peer, and has not left, proved that it belongs to the cluster: it came while this one was away. It becomes a peer if
   * `setPeers` is called within the call. Left out: it does not.
   */
  met?(node: number, name: string): void;
  /** A node of the cluster says that this one has left it for good. */
  gone(reason: string): void;
  /** A node that proved to know the secret asks to be let in; the connection is the callee's from here on. Left out: it is closed. */
  joining?(connection: Connection, peer: { readonly name: string; readonly uuid: string }): void;
}

export interface Transport {
  start(): Promise<void>;
  /**
   * Queues one frame; it leaves with all others of this turn in one write. `kind` is 1 to 255. Pieces over 2 KiB are not copied: they must
   * never change. True: queued whole. False: dropped whole, because the peer is not up, or because the lane would then hold more than
   * max(2 × frameBytesMax, 1 MiB); only in the latter case `drained` follows. Throws on a frame over `frameBytesMax`.
   */
  send(node: number, lane: Lane, kind: number, pieces: readonly Uint8Array[]): boolean;
  /** Bytes queued or waiting for the socket; `send` takes frames until the bound above. */
  bufferedBytes(node: number, lane: Lane): number;
  isUp(node: number): boolean;
  /** From now on these are the peers, whoever else there was: new ones are dialled, others are let go, without `down`. */
  setPeers(peers: readonly PeerAddress[]): void;
  /**
   * On: every connection to a peer ends (`down`), none is accepted or dialled, until it is off again. What was sent before still leaves. For
   * trying out what a cluster does about it: nothing asks for it but the process that started this one.
   */
  isolate(on: boolean): void;
  /** The newest incarnation that proved itself, 0 if none did. */
  incarnationOf(node: number): number;
  /** Sends what is queued, then ends all. No event follows the call. */
  close(): Promise<void>;
}

export type CreateTransport = (
  ports: Pick<Ports, 'net' | 'clock' | 'random'>,
  options: TransportOptions,
  events: TransportEvents,
) => Transport;
