// Leases on the metadata, put together for one node: as a holder, as the keeper while it leads the metadata, and for whoever waits until
// something is visible.
//
// State owned: who waits for a lease, and the version of the last change of the topology. How leases work is told in `lease-holder.ts`, why
// what is said to be visible can be relied on in `lease-keeper.ts`. Nothing here touches the metadata: it only tells when they may be
// relied on.

import type { Group } from '../group/group.ts';
import type { MetadataView } from '../machine/metadata-types.ts';
import type { Peers } from '../peers/peers.ts';
import { FrameKind } from '../peers/wire.ts';
import type { Clock } from '../ports.ts';
import { LeaseHolder, type LeaseOptions } from './lease-holder.ts';
import { LeaseKeeper } from './lease-keeper.ts';
import {
  encodeLeaseGrant,
  encodeLeaseRequest,
  encodeVisible,
  type LeaseGrant,
  type LeaseRequest,
} from './lease-wire.ts';
import { Visibility } from './visibility.ts';

export type MetadataReplica = Pick<Group, 'raft' | 'appliedIndex' | 'halted'>;

export interface MetadataLeaseContext {
  readonly node: number;
  /** Of this process. */
  readonly incarnation: number;
  readonly options: LeaseOptions;
  /** What is not possible for so long is given up: its fate is unknown. */
  readonly deadlineMilliseconds: number;
  readonly clock: Clock;
  readonly peers: Peers;
  readonly metadata: Pick<MetadataView, 'topologyVersion' | 'appliedIndex'>;
  /** This node's replica of the metadata. */
  group(): MetadataReplica;
  /** Sends a small frame; false: there is no way to that node now. */
  post(node: number, kind: number, body: Buffer): boolean;
  /** The metadata's core was asked for something. */
  dirty(): void;
  /** This node has a lease again. */
  gained(): void;
  /** Noticed when somebody looks, or by the timer. */
  lost(): void;
  /** It has had none for longer than the deadline; told again and again. */
  overdue(): void;
}

export class MetadataLease {
  readonly visibility: Visibility;
  readonly #context: MetadataLeaseContext;
  readonly #holder: LeaseHolder;
  readonly #keeper: LeaseKeeper;
  #waiting: (() => void)[] = [];
  #leader = 0;
  #topologyVersion = -1;
  /** The version of the metadata that made the topology what it is, or a later one. */
  #topologyAt = 0;

  constructor(context: MetadataLeaseContext) {
    this.#context = context;
    const { node, incarnation, options, deadlineMilliseconds, clock, peers } = context;
    const applied = () => context.group().appliedIndex;
    this.visibility = new Visibility(clock, peers, deadlineMilliseconds, applied);
    this.#holder = new LeaseHolder({
      clock,
      options,
      incarnation,
      overdueMilliseconds: deadlineMilliseconds,
      applied: () => (context.group().halted === null ? applied() : null),
      ask: (request) => this.#ask(request),
      gained: () => this.#gained(),
      lost: () => context.lost(),
      overdue: () => context.overdue(),
    });
    this.#keeper = new LeaseKeeper({
      node,
      leaseMilliseconds: options.milliseconds,
      now: () => clock.now(),
      peers: () => peers.all(),
      leadingTerm: () => (context.group().raft.role === 'leader' ? context.group().raft.term : 0),
      applied,
      visible: () => this.visibility.said,
      readIndex: (read) => {
        context.group().raft.readIndex(read);
        context.dirty();
      },
      grant: (to, grant) => {
        if (to === node) this.granted(grant);
        else context.post(to, FrameKind.leaseGrant, encodeLeaseGrant(grant));
      },
      tell: (visible) => {
        this.visibility.heard(visible);
        for (const peer of peers.all()) context.post(peer.node, FrameKind.visible, encodeVisible(visible));
      },
    });
  }

  /** May this node route by its metadata, now? Reads two clocks. */
  get isFresh(): boolean {
    return this.#holder.isFresh;
  }

  whenFresh(done: () => void): void {
    if (this.isFresh) done();
    else this.#waiting.push(done);
  }

  /** What the topology is here, now, is so for everybody who may route. False: that is not known within the deadline. */
  whenVisible(done: (isVisible: boolean) => void): void {
    this.#noteTopology();
    this.visibility.when(this.#topologyAt, done);
  }

  // ---- what happens

  tick(): void {
    this.#holder.tick();
    this.#keeper.moved();
    this.visibility.check();
  }

  /** This node's metadata have come further. */
  metadataMoved(): void {
    this.#noteTopology();
    this.#holder.moved();
    this.#keeper.moved();
    this.visibility.check();
  }

  peerApplied(): void {
    this.#keeper.moved();
    this.visibility.check();
  }

  /** The metadata's replica here has another role, leader or term. */
  roleChanged(): void {
    this.#keeper.moved();
    const { leader } = this.#context.group().raft;
    if (leader === this.#leader) return;
    this.#leader = leader;
    if (leader !== 0) this.#holder.leaderChanged();
  }

  /** What was sent to it before may be lost. */
  peerUp(node: number): void {
    if (node === this.#leader) this.#holder.leaderChanged();
    const { said } = this.visibility;
    if (said > 0 && this.#leader === this.#context.node)
      this.#context.post(node, FrameKind.visible, encodeVisible(said));
  }

  /** This node's incarnation ended, or the metadata's replica stopped here. */
  ended(): void {
    this.#holder.drop();
  }

  /** Reads of the metadata's core became safe, or failed. */
  reads(reads: readonly { readonly context: number; readonly index: number | null }[]): void {
    for (const { context, index } of reads) this.#keeper.read(context, index);
  }

  // ---- frames

  requested(node: number, request: LeaseRequest): void {
    this.#keeper.requested(node, request);
  }

  granted(grant: LeaseGrant): void {
    this.visibility.heard(grant.visible);
    this.#holder.granted(grant);
  }

  #ask(request: LeaseRequest): boolean {
    const { node, post } = this.#context;
    const { leader } = this.#context.group().raft;
    if (leader === 0) return false;
    if (leader !== node) return post(leader, FrameKind.leaseRequest, encodeLeaseRequest(request));
    this.#keeper.requested(node, request);
    return true;
  }

  #gained(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const done of waiting) done();
    this.#context.gained();
  }

  #noteTopology(): void {
    const { metadata } = this.#context;
    if (metadata.topologyVersion === this.#topologyVersion) return;
    this.#topologyVersion = metadata.topologyVersion;
    this.#topologyAt = metadata.appliedIndex;
  }
}
