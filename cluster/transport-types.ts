// Peers: what the host asks of the transport. Types only.

import type { Address, Ports } from './ports.ts';

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
}

/** `control`: heartbeats, votes, replies: small, never behind bulk. `bulk`: entries, batches, snapshots. Order is kept within a lane. */
export type Lane = 'control' | 'bulk';

export interface TransportEvents {
  /** A frame from an authenticated peer. `body` may be kept: it is not reused. `incarnation` is the sender's. */
  frame(node: number, incarnation: number, lane: Lane, kind: number, body: Buffer): void;
  /** Both our lanes to this peer are open. */
  up(node: number, incarnation: number): void;
  /** A lane to or from this peer broke (told once until the next `up`). */
  down(node: number): void;
  /** A lane's buffer drained after `send` had answered false. */
  drained(node: number, lane: Lane): void;
  /** A peer that must not be talked to (other cluster, other UUID under a known name, wrong secret, older incarnation). For the log. */
  refused(address: string, reason: string): void;
  /** Is this identity acceptable by what the metadata knows? Null: yes; else the reason to give. */
  checkPeer(node: number, name: string, uuid: string, incarnation: number): string | null;
}

export interface Transport {
  start(): Promise<void>;
  /** Queues one frame; sent with all others of this turn in one write. False: nothing was queued (not connected) or the buffer is full. */
  send(node: number, lane: Lane, kind: number, pieces: readonly Uint8Array[]): boolean;
  bufferedBytes(node: number, lane: Lane): number;
  isUp(node: number): boolean;
  incarnationOf(node: number): number;
  close(): Promise<void>;
}

export type CreateTransport = (
  ports: Pick<Ports, 'net' | 'clock' | 'random'>,
  options: TransportOptions,
  events: TransportEvents,
) => Transport;
