// Nodes that hold leases on a log, and nothing else of a broker: real raft cores and real leases over a network, clocks and pauses that
// a test rules. Far quicker than whole nodes, so that many unlucky orders can be tried.
//
// State owned: the nodes, the links between them, and the oracle: the highest entry whose declaration was answered. After every step it is
// checked that no node that may route lacks that entry.

import { createRaft, type Entry, initialConfiguration, type Raft } from 'raft-ts';
import { decodeLeaseGrant, decodeLeaseRequest, decodeVisible } from '../../cluster/lease/lease-wire.ts';
import { MetadataLease } from '../../cluster/lease/metadata-lease.ts';
import type { EntryData } from '../../cluster/log/types.ts';
import { defaultLimits } from '../../cluster/options.ts';
import { Peers } from '../../cluster/peers/peers.ts';
import { FrameKind } from '../../cluster/peers/wire.ts';
import type { Clock, Random } from '../../cluster/ports.ts';
import { createMemoryClock } from '../support/memory-clock.ts';
import { createMemoryRandom } from '../support/memory-random.ts';

const tickMilliseconds = defaultLimits.tickMilliseconds;
const lease = defaultLimits.lease;

/** What a declaration came to. */
export interface Declaration {
  readonly at: number;
  answeredAt: number | null;
  isVisible: boolean | null;
}

export class LeaseNode {
  readonly node: number;
  readonly world: LeaseWorld;
  incarnation = 0;
  raft!: Raft<EntryData>;
  lease!: MetadataLease;
  peers!: Peers;
  appliedIndex = 0;
  halted: Error | null = null;
  isPaused = false;
  pausedAt = 0;
  isDead = false;
  /** Its clocks: how fast they run, how long the monotonic one has stood still, how far the wall clock has jumped. */
  rate = 1;
  stoodStill = 0;
  wallOffset = 0;
  gained = 0;
  lost = 0;
  overdue = 0;
  readonly declarations = new Map<string, Declaration>();
  readonly #log = new Map<number, Entry<EntryData>>();
  #hardState = { term: 0, vote: 0, commit: 0 };
  #waiting: (() => void)[] = [];
  #seen = '';

  constructor(node: number, world: LeaseWorld) {
    this.node = node;
    this.world = world;
    this.start();
  }

  get clock(): Clock {
    const { clock } = this.world;
    return {
      now: () => (clock.now() - this.stoodStill) * this.rate,
      wall: () => 1e12 + clock.now() * this.rate + this.wallOffset,
      after: clock.after,
      soon: clock.soon,
      nextTurn: clock.nextTurn,
    };
  }
  get leads(): boolean {
    return !this.isDead && this.raft.role === 'leader' && this.raft.leaderReady;
  }
  get isFresh(): boolean {
    return this.lease.isFresh;
  }

  start(): void {
    const { nodes, random } = this.world;
    this.incarnation++;
    this.isDead = false;
    this.appliedIndex = 0;
    this.#waiting = [];
    this.peers = new Peers(
      nodes.filter((other) => other !== this.node),
      tickMilliseconds,
    );
    const { electionTicks, heartbeatTicks, appendBytesMax, inflightBytesMax, inflightMessagesMax } = defaultLimits;
    const { uncommittedBytesMax, snapshotChunkBytes } = defaultLimits;
    const bounds = { electionTicks, heartbeatTicks, appendBytesMax, inflightBytesMax, inflightMessagesMax };
    const entries = [...this.#log.values()]
      .sort((a, b) => a.index - b.index)
      .map(({ index, term, bytes }) => ({ index, term, bytes }));
    this.raft = createRaft<EntryData>(
      {
        ...bounds,
        uncommittedBytesMax,
        snapshotChunkBytes,
        id: this.node,
        group: 0,
        groupIncarnation: 1,
        random: (bound) => random.integer(bound),
      },
      {
        hardState: this.#hardState,
        snapshot: { index: 0, term: 0, configuration: initialConfiguration([...nodes]) },
        compacted: { index: 0, term: 0 },
        entries,
      },
    );
    this.lease = new MetadataLease({
      node: this.node,
      incarnation: this.incarnation,
      options: lease,
      deadlineMilliseconds: defaultLimits.pipe.deadlineMilliseconds,
      clock: this.clock,
      peers: this.peers,
      metadata: this.#metadata(),
      group: () => this,
      post: (to, kind, body) => {
        this.world.send(this, to, () => this.world.node(to).frame(this, kind, body), this.world.frameDelay(kind));
        return true;
      },
      dirty: () => {},
      gained: () => this.gained++,
      lost: () => this.lost++,
      overdue: () => this.overdue++,
    });
    this.#scheduleTick(this.incarnation);
  }

  /** Every entry changes the topology here. */
  #metadata() {
    const applied = () => this.appliedIndex;
    return {
      get appliedIndex() {
        return applied();
      },
      get topologyVersion() {
        return applied();
      },
    };
  }

  #scheduleTick(incarnation: number): void {
    this.world.clock.after(tickMilliseconds / this.rate, () => {
      if (this.incarnation !== incarnation || this.isDead) return;
      this.run(() => {
        this.raft.tick();
        this.peers.tick();
        this.lease.tick();
        this.#scheduleTick(incarnation);
      });
    });
  }

  /** Something happens to this process; while it is paused, later. */
  run(task: () => void): void {
    if (this.isDead) return;
    if (this.isPaused) {
      this.#waiting.push(task);
      return;
    }
    task();
    this.#pump();
    this.world.check();
  }

  pause(): void {
    this.isPaused = true;
    this.pausedAt = this.world.clock.now();
  }
  resume(): void {
    this.isPaused = false;
    // What it does first is to look at its clock: it may go on with what it held.
    this.world.check();
    for (const task of this.#waiting.splice(0)) this.run(task);
  }
  kill(): void {
    this.isDead = true;
    this.#waiting = [];
  }

  /** A client asks this node to declare something. */
  declare(name: string): Declaration {
    const declaration: Declaration = { at: this.world.clock.now(), answeredAt: null, isVisible: null };
    this.declarations.set(name, declaration);
    const { leader } = this.raft;
    if (leader !== 0) this.world.send(this, leader, () => this.world.node(leader).propose(`${this.node}/${name}`));
    return declaration;
  }

  propose(name: string): void {
    const payload = Buffer.from(name);
    const data = { stamp: 0, machineVersion: 1, stateHash: 0, payload, checksum: 0 };
    this.raft.propose(data, payload.length);
  }

  frame(from: LeaseNode, kind: number, body: Buffer): void {
    this.peers.heard(from.node, from.incarnation, true);
    if (kind === FrameKind.leaseRequest) this.lease.requested(from.node, decodeLeaseRequest(body)!);
    else if (kind === FrameKind.leaseGrant) this.lease.granted(decodeLeaseGrant(body)!);
    else this.lease.visibility.heard(decodeVisible(body)!);
  }

  #pump(): void {
    while (this.raft.hasReady()) {
      const { write, messages, reads, commit } = this.raft.ready();
      const { role, term, leader } = this.raft;
      const seen = `${role} ${term} ${leader}`;
      if (seen !== this.#seen) {
        this.#seen = seen;
        this.lease.roleChanged();
      }
      if (write !== null) {
        if (write.truncateFrom !== null)
          for (const index of this.#log.keys()) if (index >= write.truncateFrom) this.#log.delete(index);
        for (const entry of write.entries) this.#log.set(entry.index, entry);
        if (write.hardState !== null) this.#hardState = { ...write.hardState };
        this.raft.persisted(write.sequence);
      }
      for (const message of messages) {
        if (message.kind !== 'append') this.#send(message.to, message);
        else {
          const { first, last, lastTerm: _lastTerm, ...rest } = message;
          const entries = Array.from({ length: last - first + 1 }, (_, i) => this.#log.get(first + i)!);
          this.#send(message.to, { ...rest, entries });
        }
      }
      this.lease.reads(reads);
      this.#apply(commit);
    }
  }

  #send(to: number, message: Parameters<Raft<EntryData>['step']>[0]): void {
    this.world.send(this, to, () => this.world.node(to).raft.step(message));
  }

  #apply(commit: number): void {
    if (this.appliedIndex >= commit) return;
    while (this.appliedIndex < commit) {
      const entry = this.#log.get(++this.appliedIndex)!;
      if (entry.kind === 'data') this.#applied(entry.index, entry.data.payload.toString());
    }
    this.raft.applied(this.appliedIndex);
    const applied = this.appliedIndex;
    for (const to of this.world.nodes)
      if (to !== this.node) this.world.send(this, to, () => this.world.node(to).heardApplied(this, applied));
    this.lease.metadataMoved();
  }

  heardApplied(from: LeaseNode, applied: number): void {
    if (this.peers.heard(from.node, from.incarnation, true) === undefined) return;
    this.peers.applied(from.node, applied);
    this.peers.reached(from.node);
    this.lease.peerApplied();
  }

  #applied(index: number, name: string): void {
    const declaration = this.declarations.get(name.slice(name.indexOf('/') + 1));
    if (!name.startsWith(`${this.node}/`) || declaration === undefined || declaration.answeredAt !== null) return;
    this.lease.visibility.when(index, (isVisible) => {
      declaration.answeredAt = this.world.clock.now();
      declaration.isVisible = isVisible;
      if (isVisible) this.world.answered(index);
    });
  }
}

export class LeaseWorld {
  readonly clock = createMemoryClock();
  readonly random: Random;
  readonly nodes: readonly number[];
  readonly rows: LeaseNode[] = [];
  /** Highest entry whose declaration was answered. */
  declared = 0;
  /** How often a node was found fresh while others declared, and not fresh. */
  readonly looks = { fresh: 0, stale: 0 };
  /** Milliseconds from one node to another, one way. */
  delay: (from: number, to: number) => number = () => 1;
  /** What a frame about leases takes more than that. */
  frameDelay: (kind: number) => number = () => 0;
  readonly #cuts = new Map<string, (() => void)[]>();
  readonly #lastDue = new Map<string, number>();

  constructor(count: number, seed: number) {
    this.random = createMemoryRandom(seed);
    this.nodes = Array.from({ length: count }, (_, i) => i + 1);
    for (const node of this.nodes) this.rows.push(new LeaseNode(node, this));
  }

  node(node: number): LeaseNode {
    return this.rows[node - 1]!;
  }
  leader(): LeaseNode | undefined {
    return this.rows.filter(({ leads }) => leads).sort((a, b) => b.raft.term - a.raft.term)[0];
  }

  answered(index: number): void {
    this.declared = Math.max(this.declared, index);
    this.check();
  }

  /** Whoever may route has all that was answered. A process that stands still does nothing. */
  check(): void {
    for (const row of this.rows) {
      if (row.isPaused || row.isDead) continue;
      if (!row.isFresh) this.looks.stale++;
      else if (row.appliedIndex < this.declared)
        throw new Error(
          `node ${row.node} routes at ${row.appliedIndex}, but ${this.declared} was declared (${this.clock.now()} ms)`,
        );
      else this.looks.fresh++;
    }
  }

  /** In the order of sending, as on a connection; what is late has one of its own. What comes for a dead process is lost. */
  send(from: LeaseNode, to: number, arrive: () => void, late = 0): void {
    if (to === from.node) return from.run(arrive);
    const link = `${from.node}>${to}`;
    const lane = late > 0 ? `${link} late` : link;
    const { incarnation } = this.node(to);
    const deliver = () => {
      if (this.node(to).incarnation === incarnation) this.node(to).run(arrive);
    };
    const cut = this.#cuts.get(link);
    if (cut !== undefined) {
      cut.push(deliver);
      return;
    }
    const due = Math.max(this.clock.now() + this.delay(from.node, to) + late, this.#lastDue.get(lane) ?? 0);
    this.#lastDue.set(lane, due);
    this.clock.after(due - this.clock.now(), deliver);
  }

  /** One direction: what is sent waits until the link is healed. */
  cut(from: number, to: number): void {
    if (!this.#cuts.has(`${from}>${to}`)) this.#cuts.set(`${from}>${to}`, []);
  }

  isolate(node: number): void {
    for (const other of this.nodes) {
      if (other === node) continue;
      this.cut(node, other);
      this.cut(other, node);
    }
  }

  /** `loses`: the connections had broken, what was sent is gone. */
  heal(loses = false): void {
    const cuts = [...this.#cuts];
    this.#cuts.clear();
    for (const [link, waiting] of cuts) {
      const due = Math.max(this.clock.now() + 1, this.#lastDue.get(link) ?? 0);
      this.#lastDue.set(link, due);
      if (!loses) for (const deliver of waiting) this.clock.after(due - this.clock.now(), deliver);
    }
    for (const row of this.rows)
      for (const other of this.nodes)
        if (other !== row.node)
          row.run(() => {
            const { appliedIndex } = row;
            this.send(row, other, () => this.node(other).heardApplied(row, appliedIndex));
            row.lease.peerUp(other);
          });
  }

  run(milliseconds: number): void {
    this.clock.advance(milliseconds);
  }

  /** Runs until the condition holds; false if it does not within this time. */
  until(condition: () => boolean, milliseconds: number): boolean {
    const end = this.clock.now() + milliseconds;
    while (!condition()) {
      if (this.clock.now() >= end) return false;
      this.clock.advance(0.25);
    }
    return true;
  }

  /** Everybody may route. */
  settle(): boolean {
    return this.until(() => this.rows.every(({ isDead, isFresh }) => isDead || isFresh), 10_000);
  }
}
