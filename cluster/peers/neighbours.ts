// Which nodes this one is connected to: all that belong to the cluster, as the metadata here know it, and at first those of its settings.
// Who calls and is not known here came while this node was away; perhaps nobody is left of those that are known, so it is spoken with too.
//
// An address in the node's own settings goes before what a node says of itself. State owned: the rows of `peers` that there are, and which of
// them are parting; whom the transport dials follows from these.
//
// Invariant: a node that is gone is spoken with no more, but its row stays for as long as a lease of it may: nothing counts as visible
// everywhere before that is over.

import { clockRateMargin } from '../lease/lease-holder.ts';
import type { MemberRecord, MetadataView } from '../machine/metadata-types.ts';
import type { ClusterOptions } from '../options.ts';
import type { Address, Clock } from '../ports.ts';
import type { PeerAddress } from '../transport-types.ts';
import type { Peers } from './peers.ts';

/** More callers than that are no cluster. */
const metMax = 100;

export interface NeighboursContext {
  readonly options: Pick<ClusterOptions, 'node' | 'nodes' | 'contacts' | 'address'> & {
    readonly limits: { readonly lease: { readonly milliseconds: number } };
  };
  readonly clock: Pick<Clock, 'now'>;
  readonly metadata: Pick<MetadataView, 'members' | 'member' | 'membersVersion'>;
  readonly peers: Peers;
  /** The transport speaks with these from now on, and with nobody else. */
  connect(addresses: readonly PeerAddress[]): void;
  /** This node itself is gone. */
  gone(): void;
}

/** Where a node is found by its own settings; undefined: they do not say. */
export function addressInSettings(options: Pick<ClusterOptions, 'node' | 'nodes' | 'address'>): Address | undefined {
  return options.address ?? options.nodes.find(({ node }) => node === options.node)?.address;
}

export class Neighbours {
  readonly #context: NeighboursContext;
  /** Gone, and until when their rows stay. */
  readonly #parting = new Map<number, number>();
  /** They called before the metadata here knew of them. Port 0: they have not said yet where they are. */
  readonly #met = new Map<number, PeerAddress>();
  #version = -1;
  #connected = '';

  constructor(context: NeighboursContext) {
    this.#context = context;
    for (const { node } of this.#addresses()) context.peers.add(node);
  }

  /** The metadata have come further. True: other nodes belong to the cluster than before, or they are found elsewhere. */
  sync(): boolean {
    const { metadata, options, peers, clock, gone } = this.#context;
    if (metadata.membersVersion === this.#version) return false;
    this.#version = metadata.membersVersion;
    if (metadata.member(options.node)?.state === 'gone') {
      gone();
      return false;
    }
    const isFirst = this.#connected === '';
    const isChanged = this.#connect();
    const leaseMilliseconds = options.limits.lease.milliseconds * (1 + clockRateMargin);
    for (const { node } of [...peers.all()]) {
      if (metadata.member(node)?.state === 'gone' && !this.#parting.has(node))
        this.#parting.set(node, clock.now() + leaseMilliseconds);
    }
    return isChanged && !isFirst;
  }

  /** A node proved that it belongs to the cluster, and is no peer. */
  met(node: number, name: string): void {
    if (this.#met.has(node) || this.#met.size >= metMax) return;
    this.#met.set(node, { node, name, address: { host: '', port: 0 } });
    this.#connect();
  }

  /** A peer says where it is. The metadata know better, if they know it at all. */
  found(node: number, address: Address): void {
    const known = this.#met.get(node);
    if (known === undefined) return;
    this.#met.set(node, { ...known, address });
    this.#connect();
  }

  /** False: these are the peers already. */
  #connect(): boolean {
    const addresses = this.#addresses();
    for (const { node } of addresses) this.#context.peers.add(node);
    const list = addresses.map(({ node, name, address }) => `${node} ${name} ${address.host}:${address.port}`).join();
    if (list === this.#connected) return false;
    this.#connected = list;
    this.#context.connect(addresses);
    return true;
  }

  tick(): void {
    if (this.#parting.size === 0) return;
    const now = this.#context.clock.now();
    for (const [node, until] of this.#parting) {
      if (now < until) continue;
      this.#parting.delete(node);
      this.#context.peers.remove(node);
    }
  }

  /** Where others find this node; undefined: nobody has said. */
  get ownAddress(): Address | undefined {
    const { options, metadata } = this.#context;
    const known = [addressInSettings(options), metadata.member(options.node)?.address];
    return known.find((address) => (address?.port ?? 0) !== 0);
  }

  /** host:port; '': not known, or it is gone. */
  addressOf(node: number): string {
    const member = this.#context.metadata.member(node);
    if (member === undefined || member.state === 'gone') return '';
    const { address } = this.#addressOf(member, undefined);
    return address.port === 0 ? '' : `${address.host}:${address.port}`;
  }

  /** Null, or why this node must not be talked to: one that lost its disk must not speak with the old one's voice. */
  check(node: number, name: string, uuid: string): string | null {
    const member = this.#context.metadata.member(node);
    if (member === undefined || member.uuid === '' || member.uuid === uuid) return null;
    return `node ${name} is known with another UUID: its data folder was replaced`;
  }

  /** Of all other nodes that belong to the cluster, ascending. */
  #addresses(): PeerAddress[] {
    const { metadata, options } = this.#context;
    const byNode = new Map<number, PeerAddress>();
    for (const contact of [...(options.contacts ?? []), ...this.#met.values()]) byNode.set(contact.node, contact);
    for (const member of metadata.members()) {
      if (member.state === 'gone') byNode.delete(member.node);
      else byNode.set(member.node, this.#addressOf(member, byNode.get(member.node)));
    }
    byNode.delete(options.node);
    return [...byNode.values()].sort((a, b) => a.node - b.node);
  }

  #addressOf({ node, name, address }: MemberRecord, contact: PeerAddress | undefined): PeerAddress {
    const own = this.#context.options.nodes.find((original) => original.node === node);
    if (own !== undefined && own.address.port !== 0) return { node, name, address: own.address };
    // Of one that has not said yet where it is, nobody knows: it calls.
    return { node, name, address: address.port === 0 && contact !== undefined ? contact.address : address };
  }
}
