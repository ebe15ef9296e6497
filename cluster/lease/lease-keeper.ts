// Whoever leads the metadata gives leases on them, and says how far every node that may hold one has come.
//
//   request → ReadIndex round → its node has applied the read index → granted: a row that counts until it expires
//   visible = the least that is applied by this node and by every node with a row
//
// State owned: the requests under way, the rows of leases granted in this term, and until when leases of earlier terms may count.
//
// Invariant: once `visible(v)` was said, in whatever term, no node that holds a lease, then or ever after, has applied less than v. Such a
// word is a lasting fact: it needs no term, may come late and from a deposed leader. Why: v is committed, for it was applied here as
// leader of term T. Take a lease given by the leader of term G:
//   G > T  v is in the log of every later leader, below the first entry of his own term, and he reads no index below that one. So the
//          holder, who has applied the read index, has applied v. This needs no clock, and holds though this leader knows nothing of G.
//   G = T  it is a row here, or was granted after the word: then its read index is at least `visible`. A row counts from the arrival of
//          its request, the lease from its sending, which was earlier; and the margin covers clocks that run at different rates.
//   G < T  the round behind it was confirmed by a quorum of which somebody voted for term T later. So its request was sent before this
//          node became leader, and it ends within a lease's time from then. Until then every node is taken to hold one.
// ReadIndex gives G's leader an index at or above all that was committed when the round began; a leader who is deposed gets no quorum.
//
// A node that is behind must not hold up everybody's declarations: it is granted nothing until it has come as far as its round.

import type { Peer } from '../peers/peers.ts';
import { clockRateMargin } from './lease-holder.ts';
import type { LeaseGrant, LeaseRequest } from './lease-wire.ts';

export interface LeaseKeeperHost {
  /** Of this node. */
  readonly node: number;
  readonly leaseMilliseconds: number;
  now(): number;
  /** The other nodes of the cluster, connected or not. */
  peers(): Iterable<Pick<Peer, 'node' | 'incarnation' | 'metadataApplied'>>;
  /** The term in which this node leads the metadata; 0: it does not. */
  leadingTerm(): number;
  /** How far the metadata have come here. */
  applied(): number;
  /** What was said to be visible, by any leader. */
  visible(): number;
  /** Asks the core for a read index: `read` follows, if this node goes on leading. */
  readIndex(context: number): void;
  grant(node: number, grant: LeaseGrant): void;
  /** Says it to all nodes, this one too. */
  tell(visible: number): void;
}

interface Request extends LeaseRequest {
  readonly node: number;
  readonly arrivedAt: number;
  /** Null while its round is under way. */
  readIndex: number | null;
}

interface Row {
  readonly node: number;
  readonly incarnation: number;
  /** Of that process, as it said itself. */
  readonly applied: number;
  readonly until: number;
}

/** Requests under way; a node has a handful at most. */
const requestsMax = 1_024;

export class LeaseKeeper {
  readonly #host: LeaseKeeperHost;
  #term = 0;
  /** Leases of earlier terms may count until then. */
  #assumedUntil = 0;
  #rows: Row[] = [];
  /** By read context. */
  readonly #requests = new Map<number, Request>();
  #nextContext = 1;

  constructor(host: LeaseKeeperHost) {
    this.#host = host;
  }

  requested(node: number, request: LeaseRequest): void {
    if (!this.#leads() || this.#requests.size >= requestsMax) return;
    const context = this.#nextContext++;
    this.#requests.set(context, { ...request, node, arrivedAt: this.#host.now(), readIndex: null });
    this.#host.readIndex(context);
  }

  /** A round ended; null: this node does not lead any more. */
  read(context: number, readIndex: number | null): void {
    const request = this.#requests.get(context);
    if (request === undefined) return;
    if (readIndex === null) this.#requests.delete(context);
    else request.readIndex = readIndex;
    this.moved();
  }

  /** Somebody, or this node, has applied more; some time has passed; or this node has become leader. */
  moved(): void {
    if (!this.#leads()) return;
    this.#grantWhatIsDue();
    const visible = this.#visible();
    if (visible > this.#host.visible()) this.#host.tell(visible);
  }

  #leads(): boolean {
    const term = this.#host.leadingTerm();
    if (term !== this.#term) {
      this.#term = term;
      this.#rows = [];
      this.#requests.clear();
      // Noticed a little late, which only makes it longer.
      this.#assumedUntil = this.#host.now() + this.#countedMilliseconds;
    }
    return term !== 0;
  }

  get #countedMilliseconds(): number {
    return this.#host.leaseMilliseconds * (1 + clockRateMargin);
  }

  #grantWhatIsDue(): void {
    const now = this.#host.now();
    for (const [context, request] of this.#requests) {
      const { node, number, incarnation, arrivedAt, readIndex } = request;
      const isOver = now >= arrivedAt + this.#host.leaseMilliseconds;
      if (!isOver && (readIndex === null || this.#appliedBy(request) < readIndex)) continue;
      this.#requests.delete(context);
      if (isOver || readIndex === null) continue;
      this.#count(request);
      const visible = this.#host.visible();
      // What was said while its round was under way did not count this node.
      this.#host.grant(node, { number, incarnation, readIndex: Math.max(readIndex, visible), visible });
    }
  }

  /** Its own node is never behind itself. An earlier process of a node counts beside the new one until its time is over. */
  #count(request: Request): void {
    const { node, incarnation, arrivedAt } = request;
    if (node === this.#host.node) return;
    const isSame = (row: Row) => row.node === node && row.incarnation === incarnation;
    const until = Math.max(arrivedAt + this.#countedMilliseconds, this.#rows.find(isSame)?.until ?? 0);
    this.#rows = this.#rows.filter((row) => !isSame(row));
    this.#rows.push({ node, incarnation, applied: this.#appliedBy(request), until });
  }

  /** How far that process has come, as far as is known. */
  #appliedBy({ node, incarnation, applied }: Pick<Row, 'node' | 'incarnation' | 'applied'>): number {
    if (node === this.#host.node) return this.#host.applied();
    for (const peer of this.#host.peers())
      if (peer.node === node && peer.incarnation === incarnation) return Math.max(applied, peer.metadataApplied);
    return applied;
  }

  #visible(): number {
    const now = this.#host.now();
    let visible = this.#host.applied();
    if (now < this.#assumedUntil)
      for (const { metadataApplied } of this.#host.peers()) visible = Math.min(visible, metadataApplied);
    this.#rows = this.#rows.filter(({ until }) => now < until);
    for (const row of this.#rows) visible = Math.min(visible, this.#appliedBy(row));
    return visible;
  }
}
