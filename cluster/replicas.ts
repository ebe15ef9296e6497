// The replicas of this node: which groups it holds, from its start on and as the metadata change.
//
//   start     what the log has, and what the cluster began with
//   later     the metadata place a shard here → an empty replica, which its leader fills → vouched for: read like any other
//             the metadata place it elsewhere → its sessions hear from elsewhere, the log forgets it but for term and vote
//
// State owned: the groups and machines that are here, the volatile group of this incarnation too; and what is left of former replicas.
//
// Invariants: a replica is dropped only by metadata that are as new as all that this node ever knew, and that say that the shard's move is
// over; so its leader counts on it no more (`leading/members.ts`). What it may have acknowledged outlives it as `repairTo`, beside term and
// vote: one that comes back here does not vote before it has all of that again. A replica that leads is never dropped.

import { initialConfiguration, type SnapshotMeta } from 'raft-ts';
import { emptyReplica, forgetReplica, Group, type GroupHost } from './group/group.ts';
import { LogError } from './log/index.ts';
import type { Log, RecoveredGroup } from './log/types.ts';
import { isVolatileGroup, metadataGroup, replicasOf, volatileGroupOf } from './machine/groups.ts';
import type { Machine } from './machine/machine.ts';
import { MetadataMachine } from './machine/metadata.ts';
import { ShardMachine } from './machine/shard.ts';
import { type MachineVersions, machineVersions } from './machine/versions.ts';
import type { ClusterOptions, ReportEvent } from './options.ts';

export interface ReplicasContext {
  readonly options: ClusterOptions;
  readonly log: Log;
  readonly report: ReportEvent;
  readonly fatal: (error: Error) => void;
  /** The metadata here are readable, and as new as all that earlier processes of this node ever knew. */
  isCurrent(): boolean;
  /** This group is being built anew. */
  isRebuilding(group: number): boolean;
  /** It came or went: whoever listens to it listens here, or elsewhere. */
  changed(group: Group): void;
}

/** What is left of a replica that was here. */
interface Former {
  readonly term: number;
  readonly vote: number;
  readonly repairTo: number;
}

export class Replicas {
  readonly metadata: MetadataMachine;
  readonly groups = new Map<number, Group>();
  readonly shards = new Map<number, ShardMachine>();
  readonly #context: ReplicasContext;
  readonly #groupHost: GroupHost;
  readonly #former = new Map<number, Former>();
  /** Being forgotten by the log. */
  readonly #dropping = new Set<number>();

  constructor(context: ReplicasContext, groupHost: GroupHost, recovered: readonly RecoveredGroup[]) {
    this.#context = context;
    this.#groupHost = groupHost;
    this.metadata = this.#createMetadata();
    const found = new Map(recovered.map((group) => [group.group, group]));
    this.#start(metadataGroup, this.metadata, found.get(metadataGroup));
    const { node, limits } = context.options;
    for (let id = 1; id <= limits.shards; id++) {
      const known = found.get(id);
      const isOriginal = this.#original(id).includes(node);
      if (isOriginal || (known !== undefined && !isEmpty(known))) this.#startShard(id, known, isOriginal);
      else if (known !== undefined) this.#former.set(id, { ...known.hardState, repairTo: known.repairTo });
    }
  }

  /** An empty one. */
  createMachine(id: number): Machine {
    return id === metadataGroup ? this.#createMetadata() : this.#createShard(id);
  }

  /** What a replica begins with that has nothing yet: the same on all nodes, also on those that came later, which do not vote by it. */
  beginning(id: number): SnapshotMeta {
    const voters = this.#original(id).sort((a, b) => a - b);
    return { index: 0, term: 0, configuration: initialConfiguration(voters) };
  }

  /** The metadata have come further, or are current now, or some time has passed: replicas come, go, and are vouched for. */
  sync(): void {
    if (!this.#context.isCurrent()) return;
    const { node } = this.#context.options;
    for (const [id, { voters, target }] of this.metadata.placements()) {
      const group = this.groups.get(id);
      if (voters.includes(node) || target?.includes(node)) {
        if (group === undefined) this.#come(id);
        else if (group.isLearning && (voters.includes(node) || group.leads)) group.vouch();
      } else if (group !== undefined && target === null) this.#drop(group);
    }
  }

  /** The group of this incarnation's exclusive and non-durable queues: it begins empty, and this node alone decides in it. */
  createVolatileGroup(incarnation: number): Group {
    const { node } = this.#context.options;
    const id = volatileGroupOf({ node, incarnation });
    this.#context.log.createVolatileGroup(id, node);
    const machine = this.#createShard(id);
    const group = new Group(id, machine, emptyReplica(this.beginning(id)), this.#groupHost);
    this.shards.set(id, machine);
    this.groups.set(id, group);
    this.#groupHost.dirty(group);
    return group;
  }

  /** Null: there is none. */
  dropVolatileGroup(incarnation: number): Group | null {
    const id = volatileGroupOf({ node: this.#context.options.node, incarnation });
    const group = this.groups.get(id);
    if (group === undefined) return null;
    this.groups.delete(id);
    this.shards.delete(id);
    void group.close();
    this.#context.log.dropVolatileGroup(id);
    return group;
  }

  #createMetadata(): MetadataMachine {
    const { nodes, limits } = this.#context.options;
    const original = nodes.map(({ node, name, uuid = '' }) => ({ node, name, uuid }));
    const { shards, replication } = limits;
    return new MetadataMachine({
      shards,
      initial: { nodes: original, replication },
      versions: this.#versions.metadata,
    });
  }

  #createShard(id: number): ShardMachine {
    return new ShardMachine(id, this.#versions.shard);
  }

  get #versions(): MachineVersions {
    return this.#context.options.machineVersions ?? machineVersions;
  }

  /** The nodes that a group began on, whoever holds it now. */
  #original(id: number): number[] {
    const { nodes, limits } = this.#context.options;
    return replicasOf(
      id,
      nodes.map(({ node }) => node),
      limits.replication,
    );
  }

  // ---- coming

  #startShard(id: number, found: RecoveredGroup | undefined, isOriginal: boolean): void {
    const machine = this.#createShard(id);
    this.shards.set(id, machine);
    // Of one that came later nobody knows yet whether it had caught up.
    this.#start(id, machine, found, isOriginal ? (found?.repairTo ?? 0) : Number.POSITIVE_INFINITY);
  }

  #start(id: number, machine: Machine, found: RecoveredGroup | undefined, readableFrom = 0): void {
    const { log, options } = this.#context;
    const snapshot = this.beginning(id);
    if (found === undefined) log.createGroup(id, options.node, snapshot);
    const restored = found ?? emptyReplica(snapshot);
    this.groups.set(id, new Group(id, machine, restored, this.#groupHost, readableFrom));
  }

  #come(id: number): void {
    if (this.#dropping.has(id)) return;
    const { log, options, report, changed } = this.#context;
    const snapshot = this.beginning(id);
    const former = this.#former.get(id);
    this.#former.delete(id);
    if (former === undefined) log.createGroup(id, options.node, snapshot);
    const { term, vote, repairTo } = former ?? { term: 0, vote: 0, repairTo: 0 };
    const restored = { ...emptyReplica(snapshot), hardState: { term, vote, commit: 0 }, repairTo };
    const machine = this.#createShard(id);
    const group = new Group(id, machine, restored, this.#groupHost, Number.POSITIVE_INFINITY);
    report('info', 'a replica begins here', { group: id });
    this.shards.set(id, machine);
    this.groups.set(id, group);
    changed(group);
    this.#groupHost.dirty(group);
  }

  // ---- going

  #drop(group: Group): void {
    const { id, raft } = group;
    const { isRebuilding, report, changed, fatal } = this.#context;
    if (raft.role === 'leader' || isRebuilding(id) || isVolatileGroup(id)) return;
    report('info', 'a replica has moved away, what is here of it is dropped', { group: id });
    this.groups.delete(id);
    this.shards.delete(id);
    this.#dropping.add(id);
    const closed = group.close();
    changed(group);
    this.#forget(group, closed).catch((error: Error) => {
      // This process ends: the next one drops it anew.
      if (!(error instanceof LogError && error.code === 'closed')) fatal(error);
    });
  }

  async #forget({ id, raft, acknowledgedTo }: Group, closed: Promise<void>): Promise<void> {
    const { log } = this.#context;
    const { term, vote } = raft.status();
    await closed;
    await forgetReplica(log, id, { term, vote }, acknowledgedTo, this.beginning(id));
    this.#former.set(id, { term, vote, repairTo: acknowledgedTo });
    this.#dropping.delete(id);
    this.sync();
  }
}

const isEmpty = ({ snapshot, entries, damage }: RecoveredGroup): boolean =>
  snapshot.index === 0 && entries.length === 0 && damage.length === 0;
