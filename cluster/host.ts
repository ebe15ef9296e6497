// Drives all groups of one node: one timer, one log, one set of peers.
//
// A turn: sockets and disk completions step raft cores and gather commands; at its end `#flush` seals batches, takes every `Ready`, gives
// all groups' writes to the log as one, sends messages while the disk works, and applies what is committed.
//
// State owned: turns, the timer, writes under way, and the parts that it wires together: `mail` (frames), `origin` (this node's batches and
// sessions), `leadership` (who should lead), `duties` (what leaders owe), `visibility`. These do not know of one another what is not
// passed to them here. It sees the world through ports, log and transport alone.
// It must never hand a message to the transport before the write that it depends on: the cores hold those back until `persisted`.

import { initialConfiguration, type Ready } from 'raft-ts';
import { Duties } from './duties.ts';
import { Group, type GroupHost, metadataGroup } from './group.ts';
import { Leadership } from './leadership.ts';
import type { EntryData, GroupWrite, Log, RecoveredGroup } from './log/types.ts';
import type { Machine } from './machine/machine.ts';
import { MetadataMachine } from './machine/metadata.ts';
import { ShardMachine } from './machine/shard.ts';
import { Mail } from './mail.ts';
import type { ClusterOptions, HostEvents, ReportEvent } from './options.ts';
import { LocalOrigin } from './origin.ts';
import { Peers } from './peers.ts';
import type { Ports, Timer } from './ports.ts';
import type { Transport, TransportEvents } from './transport-types.ts';
import { Visibility } from './visibility.ts';

/** What one step dirties the next may do in the same turn, so often. */
const roundsPerTurn = 4;
const collectMilliseconds = 2_000;

export class Host {
  readonly metadata: MetadataMachine;
  readonly shards: readonly ShardMachine[];
  readonly groups: readonly Group[];
  readonly origin: LocalOrigin;
  readonly #options: ClusterOptions;
  readonly #ports: Ports;
  readonly #log: Log;
  readonly #events: HostEvents;
  readonly #peers: Peers;
  readonly #mail: Mail;
  readonly #leadership: Leadership;
  readonly #duties: Duties;
  readonly #visibility: Visibility;
  readonly #dirtyGroups = new Set<Group>();
  /** When each write under way began, oldest first. */
  readonly #writesInFlight: { readonly since: number }[] = [];
  #scheduled = false;
  #timer: Timer | null = null;
  #ticks = 0;
  #collecting = false;
  #stopped = false;

  constructor(
    options: ClusterOptions,
    ports: Ports,
    log: Log,
    recovered: readonly RecoveredGroup[],
    createTransport: (events: TransportEvents) => Transport,
    incarnation: number,
    events: HostEvents,
  ) {
    this.#options = options;
    this.#ports = ports;
    this.#log = log;
    this.#events = events;
    const { limits, node } = options;
    const { clock } = ports;
    const nodes = options.nodes.map((peer) => peer.node);
    const report: ReportEvent = (level, event, details) => events.log(level, event, details);
    const dirty = (group: Group) => this.#dirty(group);

    this.metadata = new MetadataMachine({ shards: limits.shards });
    this.shards = Array.from({ length: limits.shards }, (_, i) => new ShardMachine(i + 1));
    const { metadata, shards } = this;
    const groupHost = this.#groupHost();
    this.groups = [metadata, ...shards].map((machine, id) => this.#createGroup(id, machine, recovered, groupHost));
    const { groups } = this;

    const peers = new Peers(nodes.filter((other) => other !== node));
    this.#peers = peers;
    const visibility = new Visibility(clock, peers, limits.visibilityMilliseconds, () => this.#metadataApplied());
    this.#visibility = visibility;
    const send = (group: number, payload: Buffer, checksum: number) => this.#mail.sendBatch(group, payload, checksum);
    const schedule = () => this.#schedule();
    const originContext = {
      options,
      clock,
      metadata,
      shards,
      visibility,
      events,
      send,
      schedule,
    };
    this.origin = new LocalOrigin(incarnation, originContext);
    const pipe = this.origin.pipes[metadataGroup]!;
    this.#duties = new Duties(groups, {
      limits,
      metadata,
      shards,
      peers,
      pipe,
      report,
    });
    const isUp = (other: number) => this.#mail.isUp(other);
    const metadataVersion = () => metadata.appliedIndex;
    const leadershipContext = {
      node,
      nodes,
      limits,
      clock,
      peers,
      groups,
      report,
      isUp,
      metadataVersion,
      dirty,
    };
    this.#leadership = new Leadership(leadershipContext);
    this.#mail = new Mail(node, log, peers, groups, createTransport, {
      report,
      stepped: dirty,
      replied: (reply) => this.origin.answered(reply),
      hears: () => this.#leadership.campaignWhereNobodyLeads(),
      peerApplied: () => this.#visibility.check(),
      up: (peer) => this.#peerUp(peer),
      down: (peer) => {
        this.#leadership.peerDown(peer);
        this.#visibility.check();
      },
      drained: () => this.origin.sendAgain(),
      checkPeer: (peer, name, uuid) => this.#checkPeer(peer, name, uuid),
    });
    log.onFatal = (error) => events.fatal(error);
    log.onPressure = (group) => {
      this.groups[group]?.takeSnapshot();
    };
  }

  isUp(node: number): boolean {
    return this.#mail.isUp(node);
  }

  /** Loads the machines' snapshots, listens, dials and starts the timer. */
  async start(): Promise<void> {
    for (const group of this.groups) {
      if (group.appliedIndex === 0) continue;
      const loaded = await this.#log.loadSnapshot(group.id);
      if (loaded === null || loaded.meta.index !== group.appliedIndex)
        throw new Error(`snapshot of group ${group.id} at ${group.appliedIndex} is missing`);
      group.machine.restore(loaded.state);
    }
    this.origin.watch();
    await this.#mail.start();
    this.#armTimer();
    if (this.#peers.count === 0) for (const group of this.groups) group.raft.campaign();
    for (const group of this.groups) this.#dirty(group);
  }

  /** Says to the others that this node stops, and hands all leaderships over, as far as others that stay take them in time. */
  handOver(): Promise<void> {
    return this.#leadership.handOver(() => {
      for (const { node } of this.#peers.all()) this.#mail.tellLeaving(node);
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#mail.close();
    await this.#log.close();
  }

  // ---- turns ----

  #dirty(group: Group): void {
    this.#dirtyGroups.add(group);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#stopped) return;
    this.#scheduled = true;
    this.#ports.clock.soon(() => this.#flush());
  }

  get #isDirty(): boolean {
    return this.origin.isDirty || this.#dirtyGroups.size > 0;
  }

  #flush(): void {
    if (this.#stopped) return;
    for (let round = 0; round < roundsPerTurn && this.#isDirty; round++) {
      if (this.origin.isDirty) this.origin.flush();
      const groups = [...this.#dirtyGroups];
      this.#dirtyGroups.clear();
      this.#advance(groups);
    }
    this.#mail.flush();
    this.origin.turnEnded();
    this.#scheduled = false;
    if (this.#isDirty) this.#schedule();
  }

  /** One `Ready` of each group: all writes as one, then messages, then applying. */
  #advance(groups: readonly Group[]): void {
    const readies: {
      readonly group: Group;
      readonly ready: Ready<EntryData>;
    }[] = [];
    const writes: GroupWrite[] = [];
    const written: { readonly group: Group; readonly sequence: number }[] = [];
    for (const group of groups) {
      if (!group.raft.hasReady()) {
        group.apply();
        continue;
      }
      const { ready, write } = group.takeReady();
      readies.push({ group, ready });
      if (write === null) continue;
      writes.push(write);
      written.push({ group, sequence: ready.write!.sequence });
    }
    if (writes.length > 0) {
      const inFlight = { since: this.#ports.clock.now() };
      this.#writesInFlight.push(inFlight);
      this.#log.append(writes, () => {
        this.#writesInFlight.splice(this.#writesInFlight.indexOf(inFlight), 1);
        for (const { group, sequence } of written) group.persisted(sequence);
      });
    }
    for (const { ready } of readies) for (const message of ready.messages) this.#mail.send(message);
    for (const { group, ready } of readies) group.finishReady(ready);
  }

  // ---- the timer ----

  /** A late tick counts as one, and runs after the sockets were read: a pause alone never starts an election. */
  #armTimer(): void {
    const { clock } = this.#ports;
    this.#timer = clock.after(this.#options.limits.tickMilliseconds, () => {
      clock.soon(() => {
        if (this.#stopped) return;
        this.#tick();
        this.#armTimer();
      });
    });
  }

  #tick(): void {
    const { limits } = this.#options;
    this.#ticks++;
    for (const group of this.groups) {
      if (group.halted !== null) continue;
      group.raft.tick();
      this.#dirty(group);
    }
    this.origin.tick();
    this.#mail.tick();
    this.#visibility.check();
    this.#checkDisk();
    const every = (milliseconds: number) =>
      this.#ticks % Math.max(1, Math.round(milliseconds / limits.tickMilliseconds)) === 0;
    if (every(limits.balanceMilliseconds)) {
      this.#leadership.balance();
      this.#duties.drive();
    }
    if (every(collectMilliseconds)) this.#collect();
  }

  /** Heartbeats alone must not keep a leadership whose disk does not answer. */
  #checkDisk(): void {
    const oldest = this.#writesInFlight[0];
    if (oldest === undefined) return;
    if (this.#ports.clock.now() - oldest.since >= this.#options.limits.diskStallMilliseconds)
      this.#leadership.resign('disk does not answer, leadership given up');
  }

  #collect(): void {
    if (this.#collecting) return;
    this.#collecting = true;
    // An idle group's whole entries, kept for slow followers, must not hold old files for ever.
    for (const group of this.groups) group.compact();
    const isLive = (group: number, first: number, last: number) =>
      this.groups[group]?.machine.hasLiveEntries(first, last) ?? true;
    this.#log.collect(isLive).then(
      () => {
        this.#collecting = false;
      },
      (error: Error) => this.#events.fatal(error),
    );
  }

  // ---- groups ----

  #createGroup(id: number, machine: Machine, recovered: readonly RecoveredGroup[], host: GroupHost): Group {
    const found = recovered.find(({ group }) => group === id);
    if (found !== undefined) return new Group(id, machine, found, host);
    const { node, nodes } = this.#options;
    const snapshot = {
      index: 0,
      term: 0,
      configuration: initialConfiguration(nodes.map((peer) => peer.node)),
    };
    this.#log.createGroup(id, node, snapshot);
    const hardState = { term: 0, vote: 0, commit: 0 };
    return new Group(id, machine, { hardState, snapshot, compacted: { index: 0, term: 0 }, entries: [] }, host);
  }

  #groupHost(): GroupHost {
    const { node, limits } = this.#options;
    return {
      node,
      limits,
      log: this.#log,
      wall: () => this.#ports.clock.wall(),
      random: (bound) => this.#ports.random.integer(bound),
      dirty: (group) => this.#dirty(group),
      prepare: (group, header) => this.#duties.prepare(group, header),
      answer: (to, group, { incarnation }, answer, sequence, leader) =>
        this.#mail.answer(to, { group, answer, incarnation, sequence, leader }),
      applied: (group) => {
        if (group.id === metadataGroup) this.#metadataMoved();
      },
      roleChanged: (group) => {
        const { role, term, leader } = group.raft;
        // For people the leaders are enough: three nodes would tell of one election a dozen times.
        this.#events.log(role === 'leader' ? 'info' : 'debug', 'role', {
          group: group.id,
          role,
          term,
          leader,
        });
        this.#toLeader(group);
      },
      leaderReady: (group) => {
        this.#duties.appendRows(group);
        this.#toLeader(group);
      },
      halted: (group, error) =>
        this.#events.log('error', 'group', {
          group: group.id,
          error: error.message,
          stack: error.stack,
        }),
      snapshotSaved: () => this.#collect(),
      installed: (group) => this.origin.reconcile(group),
    };
  }

  /** Batches of this node that no leader has appended yet go to the one that leads now. */
  #toLeader(group: Group): void {
    this.origin.pipes[group.id]!.leaderChanged();
  }

  #metadataApplied(): number {
    return this.groups[metadataGroup]!.appliedIndex;
  }

  #metadataMoved(): void {
    this.#duties.metadataApplied();
    for (const { node } of this.#peers.all()) this.#mail.tellApplied(node, this.#metadataApplied());
    this.#visibility.check();
  }

  // ---- peers ----

  #peerUp(node: number): void {
    this.#mail.tellApplied(node, this.#metadataApplied());
    if (this.#leadership.isLeaving) this.#mail.tellLeaving(node);
    for (const group of this.groups) if (group.raft.leader === node) this.#toLeader(group);
    this.#leadership.campaignWhereNobodyLeads();
  }

  /** A node that the metadata knows under another UUID lost its disk: it must not speak with the old one's voice. */
  #checkPeer(node: number, name: string, uuid: string): string | null {
    const record = this.metadata.node(node);
    if (record === undefined || record.uuid === uuid) return null;
    return `node ${name} is known with another UUID: its data folder was replaced`;
  }
}
