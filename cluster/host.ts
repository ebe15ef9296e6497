// Drives all groups of one node: one timer, one log, one set of peers.
//
// A turn: sockets and disk completions step raft cores and gather commands; at its end `#flush` seals batches, takes every `Ready`, gives
// all groups' writes to the log as one, sends messages while the disk works, and applies what is committed.
//
// State owned: turns, the timer, writes under way, and the parts that it wires together: `mail` (frames), `origin` (this node's batches and
// sessions), `leaders` (who leads), `leadership` (who should), `duties` (what leaders owe), `lease` (on the metadata), the time. These do
// not know of one another what is not passed to them here. It sees the world through ports, log and transport alone.
// It must never hand a message to the transport before the write that it depends on: the cores hold those back until `persisted`.

import type { Ready } from 'raft-ts';
import { Feeds } from './feed/feeds.ts';
import type { Group, GroupHost, Turn } from './group/group.ts';
import { livenessOf } from './group/liveness.ts';
import { Rebuilds } from './group/rebuild.ts';
import { Duties } from './leading/duties.ts';
import { LeaderBatches } from './leading/leader-batches.ts';
import { Leadership } from './leading/leadership.ts';
import { Members } from './leading/members.ts';
import { OutboxDriver } from './leading/outbox-driver.ts';
import { MetadataLease } from './lease/metadata-lease.ts';
import { LogError } from './log/index.ts';
import type { EntryData, GroupWrite, Log, RecoveredGroup } from './log/types.ts';
import { isVolatileGroup, metadataGroup } from './machine/groups.ts';
import { planPlacement } from './machine/metadata/plan.ts';
import type { MetadataMachine } from './machine/metadata.ts';
import type { ShardMachine } from './machine/shard.ts';
import { type ClusterOptions, type HostEvents, LeftClusterError, type ReportEvent } from './options.ts';
import { LocalOrigin } from './origin/origin.ts';
import { Leaders } from './peers/leaders.ts';
import { Mail, type OwnStatus } from './peers/mail.ts';
import { Neighbours } from './peers/neighbours.ts';
import { Peers } from './peers/peers.ts';
import { Room } from './peers/room.ts';
import { ClusterTime } from './peers/time.ts';
import type { Ports, Timer } from './ports.ts';
import { Replicas } from './replicas.ts';
import { Traffic } from './traffic.ts';
import type { Transport, TransportEvents } from './transport-types.ts';

/** What one step dirties the next may do in the same turn, so often. */
const roundsPerTurn = 4;
const catchUpPollMilliseconds = 10;
const collectMilliseconds = 1_000;
const noHeaders = () => ({});

interface GatheredWrite {
  readonly group: Group;
  readonly write: GroupWrite;
  readonly sequence: number;
}

export class Host {
  readonly metadata: MetadataMachine;
  /** The shards, and all groups, that have a replica here. */
  readonly shards: ReadonlyMap<number, ShardMachine>;
  readonly groups: ReadonlyMap<number, Group>;
  readonly origin: LocalOrigin;
  /** Reading groups, here and elsewhere. */
  readonly feeds: Feeds;
  readonly #options: ClusterOptions;
  readonly #ports: Ports;
  readonly #log: Log;
  readonly #events: HostEvents;
  readonly #damaged: readonly RecoveredGroup[];
  readonly #peers: Peers;
  readonly #time: ClusterTime;
  readonly #leaders: Leaders;
  readonly #mail: Mail;
  readonly #leadership: Leadership;
  readonly #duties: Duties;
  readonly #commands: LeaderBatches;
  readonly #outbox: OutboxDriver;
  readonly #rebuilds: Rebuilds;
  readonly #replicas: Replicas;
  readonly #neighbours: Neighbours;
  readonly #members: Members;
  readonly lease: MetadataLease;
  readonly room: Room;
  readonly traffic = new Traffic();
  /** Of this node, since it started. */
  readonly elections = { begun: 0, won: 0 };
  readonly #dirtyGroups = new Set<Group>();
  /** When each write under way began, oldest first. */
  readonly #writesInFlight: { readonly since: number }[] = [];
  #scheduled = false;
  /** Filled up after a rest only: in one turn of the event loop never more is applied, however many flushes it has. */
  readonly #turn: Turn;
  #timer: Timer | null = null;
  #ticks = 0;
  #collecting = false;
  /** The metadata here have been as new as all that this node ever knew. */
  #isCurrent = false;
  #membersVersion = -1;
  #started = false;
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
    this.#turn = { budget: options.limits.applyBytesPerTurn, usedUpBy: null };
    this.#ports = ports;
    this.#log = log;
    this.#events = events;
    this.#damaged = recovered.filter(({ damage }) => damage.length > 0);
    const { limits, node } = options;
    const { clock } = ports;
    const report: ReportEvent = (level, event, details) => events.log(level, event, details);
    const dirty = (group: Group) => this.#dirty(group);

    this.#commands = new LeaderBatches(clock, limits.workPauseMilliseconds);
    const groupHost = this.#groupHost();
    const replicasContext = {
      options,
      log,
      report,
      fatal: (error: Error) => events.fatal(error),
      isCurrent: () => this.#isCurrent && this.groups.get(metadataGroup)!.isReadable,
      isRebuilding: (group: number) => this.#rebuilds.isRunning(group),
      changed: (group: Group) => this.#replicaCameOrWent(group),
    };
    this.#replicas = new Replicas(replicasContext, groupHost, recovered);
    const { metadata, groups, shards } = this.#replicas;
    this.metadata = metadata;
    this.groups = groups;
    this.shards = shards;

    const peers = new Peers([], limits.tickMilliseconds);
    this.#peers = peers;
    this.#neighbours = new Neighbours({
      options,
      clock,
      metadata,
      peers,
      connect: (addresses) => this.#mail.setPeers(addresses),
      gone: () => this.#gone('the metadata say so'),
    });
    this.lease = new MetadataLease({
      node,
      incarnation,
      options: limits.lease,
      deadlineMilliseconds: limits.pipe.deadlineMilliseconds,
      clock,
      peers,
      metadata,
      group: () => this.groups.get(metadataGroup)!,
      post: (to, kind, body) => this.#mail.post(to, 'control', kind, [body]),
      dirty: () => this.#dirty(this.groups.get(metadataGroup)!),
      gained: () => {
        report('info', 'lease on the metadata held', {});
        this.#isCurrent = true;
        this.#replicas.sync();
        this.origin.metadataFresh();
      },
      lost: () => report('warn', 'lease on the metadata lost, publishers wait', {}),
      overdue: () => this.origin.metadataOverdue(),
    });
    const { lease } = this;
    const send = (group: number, payload: Buffer, checksum: number) => this.#mail.sendBatch(group, payload, checksum);
    const schedule = () => this.#schedule();
    const replicas = (group: number) => metadata.replicas(group);
    this.feeds = new Feeds({
      node,
      limits,
      clock,
      log,
      groups,
      shards,
      replicas,
      // A replica that cannot be read is listened to elsewhere from its very beginning on: before the start nobody is there.
      leaderOf: (group) => (this.#started ? this.leaderOf(group) : 0),
      reaches: (other) => this.#started && this.reaches(other),
      post: (to, lane, kind, pieces) => this.#mail.post(to, lane, kind, pieces),
      bufferedBytes: (to, lane) => this.#mail.bufferedBytes(to, lane),
      incarnation: () => this.origin.incarnation,
      pipe: (group) => this.origin.pipe(group),
      isBusy: () => this.traffic.isBusy,
      sessions: () => this.origin.sessions,
      fenced: () => this.origin.fenced(),
      schedule,
    });
    const { feeds } = this;
    const leaders = new Leaders({
      node,
      peers,
      replicas,
      local: (id) => this.#liveCore(id),
      via: (other) => this.#mail.via(other),
      learned: (group) => this.origin.leaderLearned(group),
    });
    this.#leaders = leaders;
    this.#time = new ClusterTime(clock.now(), clock.wall(), limits.nodeDeadMilliseconds);
    this.#mail = new Mail({ node, log, limits, peers, groups, leaders }, createTransport, {
      report,
      schedule,
      ownStatus: () => this.#ownStatus(),
      peerTold: (peer, status) => this.#time.heard(peer, status.clock, clock.now()),
      stepped: dirty,
      replied: (reply) => this.origin.answered(reply),
      hears: () => this.#leadership.campaignWhereNobodyLeads(),
      peerApplied: () => lease.peerApplied(),
      leaseRequested: (peer, request) => lease.requested(peer, request),
      leaseGranted: (grant) => lease.granted(grant),
      visible: (version) => lease.visibility.heard(version),
      up: (peer) => this.#peerUp(peer),
      down: (peer) => {
        this.#leadership.peerDown(peer);
        feeds.peerDown(peer);
      },
      frame: (from, kind, body) => feeds.frame(from, kind, body),
      drained: () => this.origin.sendAgain(),
      checkPeer: (peer, name, uuid) => this.#neighbours.check(peer, name, uuid),
      isGone: (peer) => metadata.member(peer)?.state === 'gone',
      ownAddress: () => this.#neighbours.ownAddress,
      met: (peer, name) => this.#neighbours.met(peer, name),
      found: (peer, address) => this.#neighbours.found(peer, address),
      gone: (reason) => this.#gone(reason),
    });
    this.#replicas.createVolatileGroup(incarnation);
    const originContext = {
      options,
      clock,
      metadata,
      shards,
      groups,
      feeds,
      incarnationBegins: (next: number, ended: number) => {
        this.#dropVolatileGroup(ended);
        this.#replicas.createVolatileGroup(next).raft.campaign();
      },
      lease,
      events,
      send,
      isBusy: () => this.traffic.isBusy,
      schedule,
    };
    this.origin = new LocalOrigin(incarnation, originContext);
    const pipe = this.origin.pipe(metadataGroup);
    this.#duties = new Duties(groups, {
      limits,
      metadata,
      shards,
      peers,
      pipe,
      commands: this.#commands,
      report,
    });
    this.#outbox = new OutboxDriver({
      limits: limits.outbox,
      metadata,
      shards,
      batches: this.#commands,
      // Where there is no room for messages, dead ones stay where they are.
      isFresh: () => lease.isFresh && this.room.low.length === 0,
      pipe: (group) => this.origin.pipe(group),
      read: (group, entry, ordinals, isWanted, done) => feeds.read(group, entry, ordinals, isWanted, done),
      readHeaders: options.readHeaders ?? noHeaders,
      withDeath: options.withDeath ?? ((properties) => properties),
      wall: () => ports.clock.wall(),
      schedule,
    });
    this.#rebuilds = new Rebuilds({
      node,
      log,
      groups,
      groupHost,
      report,
      fatal: (error) => events.fatal(error),
      leaderOf: (group) => this.leaderOf(group),
      reaches: (other) => this.reaches(other),
      isCurrent: () => lease.isFresh && groups.get(metadataGroup)!.isReadable,
      replicas,
      statusOf: (other) => {
        const status = peers.get(other)?.status ?? null;
        // What was on its way when this process began tells of the time before.
        return status?.processes.get(node) === incarnation ? status : null;
      },
      createMachine: (group) => this.#replicas.createMachine(group),
      beginning: (group) => this.#replicas.beginning(group),
    });
    const isUp = (other: number) => this.#mail.isUp(other);
    const metadataVersion = () => metadata.appliedIndex;
    const leadershipContext = {
      node,
      replicas,
      stays: (other: number) => metadata.member(other)?.state === 'member',
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
    this.#members = new Members({
      node,
      limits,
      metadata,
      groups,
      shards,
      peers,
      pipe,
      plan: planPlacement,
      report,
      recordVersion: (group) => this.#duties.recordVersion(group),
      teach: (group, learners) => this.#mail.pace.set(group, learners),
      dirty,
    });
    this.room = new Room({
      node,
      disk: ports.disk,
      clock,
      limits,
      peers,
      report,
      changed: () => this.#mail.statusChanged(),
      alarmChanged: () => this.origin.sessions?.congestionChanged(),
    });
    log.onDamage = (group, error) => this.groups.get(group)?.halt(error);
    log.onFatal = (error) => events.fatal(error);
    log.onPressure = (group) => {
      this.groups.get(group)?.takeSnapshot();
    };
  }

  /** The connection to this node is open. */
  isUp(node: number): boolean {
    return this.#mail.isUp(node);
  }
  /** What is sent to this node gets there, over its connection or by a relay. */
  reaches(node: number): boolean {
    return this.#mail.reaches(node);
  }
  isolate(on: boolean): void {
    this.#mail.isolate(on);
    this.#events.log('warn', on ? 'cut off from all other nodes, as asked' : 'not cut off any more', {});
  }
  /** Where this node calls that one, host:port; '' if nobody knows. */
  addressOf(node: number): string {
    return this.#neighbours.addressOf(node);
  }
  /** The node that leads a group, which need not have a replica here; 0: unknown. */
  leaderOf(group: number): number {
    return this.#leaders.leaderOf(group);
  }

  /** Loads the machines' snapshots, listens, dials and starts the timer. */
  async start(): Promise<void> {
    this.#started = true;
    for (const { group, damage } of this.#damaged)
      this.groups.get(group)?.halt(new LogError('corrupt', `it is damaged: ${damage.join('; ')}`));
    // A volatile group has no snapshot, and may have begun to apply while others are being loaded.
    for (const group of this.groups.values()) {
      if (group.appliedIndex > 0 && !isVolatileGroup(group.id)) await this.#restore(group);
    }
    this.origin.watch();
    this.#neighbours.sync();
    await this.#mail.start();
    this.#armTimer();
    for (const group of this.groups.values()) {
      const { voters, outgoing } = group.raft.status().configuration;
      const isAlone = outgoing.length === 0 && voters.length === 1 && voters[0] === this.#options.node;
      if (isAlone && group.halted === null) group.raft.campaign();
      this.#dirty(group);
    }
  }

  /**
   * Resolves when every replica here that can has once applied all that it knew to be committed, under a leader, or some time has passed. Never,
   * if the node stops before.
   */
  caughtUp(): Promise<void> {
    const { clock } = this.#ports;
    const until = clock.now() + this.#options.limits.catchUpMilliseconds;
    const behind = new Set([...this.groups.values()].filter((group) => !isVolatileGroup(group.id)));
    return new Promise((resolve) => {
      const look = () => {
        if (this.#stopped) return;
        for (const group of behind)
          if (group.halted !== null || group.isLearning || group.hasCaughtUp) behind.delete(group);
        if (behind.size === 0 || clock.now() >= until) resolve();
        else clock.after(catchUpPollMilliseconds, look);
      };
      look();
    });
  }

  /** A state that is missing, damaged or not understood halts its group: the others go on, and it can be built anew. */
  async #restore(group: Group): Promise<void> {
    try {
      const restoring = group.machine.restoring();
      const meta = await this.#log.loadSnapshot(group.id, restoring);
      if (meta?.index !== group.appliedIndex)
        throw new LogError('corrupt', `the snapshot at ${group.appliedIndex} is missing`);
      restoring.finish();
    } catch (error) {
      group.halt(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Why a damaged replica is not being built anew yet, or null. */
  waitsFor(group: number): string | null {
    return this.#rebuilds.waitsFor(group);
  }
  /** Other nodes whose replica of a group is damaged, as they say. */
  damagedOn(group: number): number[] {
    const damaged = [...this.#peers.all()].filter(({ status }) => status?.damaged.includes(group) === true);
    return damaged.map(({ node }) => node).sort((a, b) => a - b);
  }

  /** Builds this node's replica of a group anew from its peers. Null: it has begun to catch up; else why not. */
  rebuild(group: number): Promise<string | null> {
    return this.#rebuilds.rebuild(group);
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
    return this.origin.isDirty || this.#outbox.isDirty || this.#dirtyGroups.size > 0;
  }

  #flush(): void {
    if (this.#stopped) return;
    for (let round = 0; round < roundsPerTurn && this.#isDirty; round++) {
      if (this.#outbox.isDirty) this.#outbox.flush();
      if (this.origin.isDirty) this.origin.flush();
      const groups = [...this.#dirtyGroups];
      this.#dirtyGroups.clear();
      this.#advance(groups);
    }
    this.feeds.turnEnded();
    this.#mail.flush();
    this.origin.turnEnded();
    if (this.#turn.budget <= 0) return this.#rest();
    this.#scheduled = false;
    if (this.#isDirty) this.#schedule();
  }

  /** Enough was applied: sockets and timers come first again, and then those groups that were left without. */
  #rest(): void {
    this.#ports.clock.nextTurn(() => {
      const { usedUpBy } = this.#turn;
      this.#turn.budget = this.#options.limits.applyBytesPerTurn;
      this.#turn.usedUpBy = null;
      if (usedUpBy !== null && this.#dirtyGroups.delete(usedUpBy)) this.#dirtyGroups.add(usedUpBy);
      this.#flush();
    });
  }

  /** One `Ready` of each group: all writes as one, then messages, then applying. */
  #advance(groups: readonly Group[]): void {
    const readies: {
      readonly group: Group;
      readonly ready: Ready<EntryData>;
    }[] = [];
    const durable: GatheredWrite[] = [];
    const volatile: GatheredWrite[] = [];
    for (const group of groups) {
      if (!group.hasReady()) {
        group.apply();
        continue;
      }
      const { ready, write } = group.takeReady();
      readies.push({ group, ready });
      if (write === null) continue;
      const gathered = isVolatileGroup(group.id) ? volatile : durable;
      gathered.push({ group, write, sequence: ready.write!.sequence });
    }
    // Apart: what nobody waits for the disk with is done at once.
    this.#append(volatile);
    this.#append(durable);
    for (const { ready } of readies) for (const message of ready.messages) this.#mail.send(message);
    for (const { group, ready } of readies) group.finishReady(ready);
  }

  #append(gathered: readonly GatheredWrite[]): void {
    if (gathered.length === 0) return;
    const inFlight = { since: this.#ports.clock.now() };
    this.#writesInFlight.push(inFlight);
    const writes = gathered.map(({ write }) => write);
    this.#log.append(writes, () => {
      this.#writesInFlight.splice(this.#writesInFlight.indexOf(inFlight), 1);
      for (const { group, sequence } of gathered) group.persisted(sequence);
    });
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
    const { clock } = this.#ports;
    this.#ticks++;
    this.#time.tick(clock.now(), clock.wall());
    for (const group of this.groups.values()) {
      group.tick();
      this.#commands.tickIfDue(group);
      this.#outbox.tick(group);
    }
    this.#duties.tick();
    this.traffic.tick();
    this.origin.tick();
    this.feeds.tick();
    this.#mail.tick();
    this.lease.tick();
    this.room.tick();
    this.#checkDisk();
    const every = (milliseconds: number) =>
      this.#ticks % Math.max(1, Math.round(milliseconds / limits.tickMilliseconds)) === 0;
    if (every(limits.balanceMilliseconds)) {
      this.#rebuilds.tick();
      this.#leadership.balance();
      this.#duties.drive();
      this.#replicas.sync();
      this.#members.drive();
      this.#neighbours.tick();
    }
    if (every(collectMilliseconds)) this.#collect();
    if (every(1_000)) this.#log.scrub();
  }

  /** Heartbeats alone must not keep a leadership whose disk does not answer, nor for ever sessions that hear nothing new. */
  #checkDisk(): void {
    const oldest = this.#writesInFlight[0];
    if (oldest === undefined) return this.origin.diskAnswers();
    const { diskStallMilliseconds, nodeDeadMilliseconds } = this.#options.limits;
    const stalled = this.#ports.clock.now() - oldest.since;
    if (stalled >= diskStallMilliseconds) this.#leadership.resign('disk does not answer, leadership given up');
    if (stalled >= nodeDeadMilliseconds) this.origin.diskHangs();
  }

  #collect(): void {
    if (this.#collecting) return;
    this.#collecting = true;
    // An idle group's whole entries, kept for slow followers, must not hold old files for ever.
    for (const group of this.groups.values()) group.compact();
    const live = livenessOf(this.groups);
    this.#log.collect(live).then(
      () => {
        this.#collecting = false;
        // Without room for what it rewrites it tries again later: nothing depends on it.
        this.#log.compact(live).catch((error: NodeJS.ErrnoException) => {
          if (error.code === 'ENOSPC')
            this.#events.log('warn', 'no room to rewrite log files', { error: error.message });
          else this.#events.fatal(error);
        });
      },
      (error: Error) => this.#events.fatal(error),
    );
  }

  // ---- groups ----

  #groupHost(): GroupHost {
    const { node, limits } = this.#options;
    return {
      node,
      turn: this.#turn,
      traffic: this.traffic,
      limits,
      log: this.#log,
      stamp: (last) => this.#time.stamp(this.#ports.clock.now(), last),
      random: (bound) => this.#ports.random.integer(bound),
      machineVersion: () => this.metadata.machineVersion,
      dirty: (group) => this.#dirty(group),
      hasRoom: (group) => !this.room.isFull(isVolatileGroup(group.id) ? [node] : this.metadata.replicas(group.id)),
      prepare: (group, header) => this.#duties.prepare(group, header),
      answer: (to, group, { incarnation }, answer, sequence, leader) =>
        this.#mail.answer(to, { group, answer, incarnation, sequence, leader }),
      applied: (group) => {
        if (group.id === metadataGroup) this.#metadataMoved();
        this.feeds.applied(group.id);
        this.#commands.applied(group);
        this.#outbox.applied(group);
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
        this.#countElection(group);
        this.#toLeader(group);
        if (group.id === metadataGroup) this.lease.roleChanged();
        this.#leaders.noted(group.id);
        this.#mail.statusChanged();
      },
      leaderReady: (group) => {
        this.#duties.appendRows(group);
        this.#toLeader(group);
      },
      halted: (group, error) => {
        this.#events.log('error', 'group', {
          group: group.id,
          error: error.message,
          stack: error.stack,
        });
        this.origin.replicaHalted(group.id);
        this.#mail.statusChanged();
        this.#replicaChanged(group);
      },
      failed: (group, error) => this.#events.log('error', 'group', { group: group.id, error: error.message }),
      snapshotSaved: () => this.#collect(),
      installed: (group) => this.#replicaChanged(group),
      reads: (group, reads) => {
        if (group.id === metadataGroup) this.lease.reads(reads);
      },
      repaired: (group) => this.#rebuilds.repaired(group),
    };
  }

  /** A volatile group has but one replica: it elects itself. */
  #countElection({ id, raft }: Group): void {
    if (isVolatileGroup(id)) return;
    if (raft.role === 'candidate') this.elections.begun++;
    else if (raft.role === 'leader') this.elections.won++;
  }

  /** Its state was replaced, or it stopped, or it can be read again: whoever listens to it reads the state, here or elsewhere. */
  #replicaChanged(group: Group): void {
    this.feeds.groupChanged(group.id);
    this.origin.replicaChanged(group);
  }

  #dropVolatileGroup(incarnation: number): void {
    const group = this.#replicas.dropVolatileGroup(incarnation);
    if (group === null) return;
    this.#dirtyGroups.delete(group);
    this.feeds.groupChanged(group.id);
  }

  /** A replica begins here, or has moved away: whoever listens to the group listens elsewhere, if not here. */
  #replicaCameOrWent(group: Group): void {
    if (this.groups.get(group.id) === group) return this.#mail.rerouted();
    this.#dirtyGroups.delete(group);
    this.#replicaChanged(group);
    this.#mail.rerouted();
  }

  /** Batches of this node that no leader has appended yet go to the one that leads now. */
  #toLeader(group: Group): void {
    this.origin.pipe(group.id).leaderChanged();
  }

  #metadataApplied(): number {
    return this.groups.get(metadataGroup)!.appliedIndex;
  }

  #metadataMoved(): void {
    this.#duties.metadataApplied();
    this.origin.metadataApplied();
    for (const { node } of this.#peers.all()) this.#mail.tellApplied(node, this.#metadataApplied());
    this.lease.metadataMoved();
    this.#membersMoved();
  }

  #membersMoved(): void {
    // Metadata that are being built anew know of nobody yet who came later.
    if (!this.groups.get(metadataGroup)!.isReadable || this.metadata.membersVersion === this.#membersVersion) return;
    this.#membersVersion = this.metadata.membersVersion;
    // On the disk soon: a cluster that starts anew finds itself by what each node knows of the others.
    if (this.#neighbours.sync()) this.groups.get(metadataGroup)!.takeSnapshot();
    this.#replicas.sync();
    this.#mail.rerouted();
  }

  // ---- peers ----

  #ownStatus(): OwnStatus {
    const led = new Map<number, number>();
    const followed = new Map<number, number>();
    const damaged: number[] = [];
    for (const { id, halted, raft, isDamaged, isRepairing } of this.groups.values()) {
      if (isVolatileGroup(id)) continue;
      (halted === null && raft.role === 'leader' ? led : followed).set(id, raft.term);
      if (isDamaged || isRepairing) damaged.push(id);
    }
    const { configuration } = this.groups.get(metadataGroup)!.raft.status();
    const isMetadataHalted = !this.groups.get(metadataGroup)!.isReadable;
    return {
      members: isMetadataHalted ? [] : [...new Set([...configuration.voters, ...configuration.outgoing])],
      followed,
      damaged,
      disk: this.room.own,
      clock: this.#time.own(this.#ports.clock.now()),
      metadataApplied: this.#metadataApplied(),
      metadataHalted: isMetadataHalted,
      led,
    };
  }

  /** The core of a group that has a replica here, and one that goes on. */
  #liveCore(id: number): Group['raft'] | null {
    const group = this.groups.get(id);
    if (group === undefined || group.halted !== null) return null;
    // A replica that is new here knows nothing before its leader has spoken to it.
    return group.isLearning && group.raft.leader === 0 ? null : group.raft;
  }

  #peerUp(node: number): void {
    this.#mail.tellApplied(node, this.#metadataApplied());
    if (this.#leadership.isLeaving) this.#mail.tellLeaving(node);
    this.lease.peerUp(node);
    this.#leadership.campaignWhereNobodyLeads();
  }

  /** This node has left the cluster for good. */
  #gone(reason: string): void {
    const { node, nodeName } = this.#options;
    const sentence = `node ${node} (${nodeName}) has left the cluster for good (${reason}): what its data folder holds is kept elsewhere`;
    this.#events.fatal(new LeftClusterError(sentence));
  }
}
