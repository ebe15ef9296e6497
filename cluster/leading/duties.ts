// What a leader owes: to the shards that it leads the rows of the metadata, and which nodes are silent; to the metadata the deletions that
// its shards decided, how far its shards have come, and the ends of nodes that are gone.
//
// Each duty is read from replicated state again and again until it is done, so a leader that dies leaves nothing undone, and repeats are
// harmless: the target drops them.
//
// Silence: a node that is not heard for a moment is suspected, and gets no new messages; after a longer one the metadata's leader ends its
// incarnation. A leader counts silence from its election on, because before that it may not have had a connection to hear by. An end that
// was asked for may be late, when the one who asked is cut off meanwhile: then it ends sessions without need, and does no other harm.
//
// State owned: for each group led, for how long, how far its rows were appended and whom it was told to suspect in this term; and which
// requests to the metadata are under way, each until its reply, so that it is not asked twice. All of it may be forgotten at any time.
//
// Invariant: before a batch that names a version of the metadata, all rows up to there are in the shard's log, each once per term.

import type { Group } from '../group/group.ts';
import type { BatchHeader } from '../machine/commands.ts';
import { metadataGroup } from '../machine/groups.ts';
import type { MetadataMachine } from '../machine/metadata.ts';
import type { MetadataCommand } from '../machine/metadata-types.ts';
import type { ShardMachine } from '../machine/shard.ts';
import type { ClusterLimits, ReportEvent } from '../options.ts';
import type { Pipe } from '../origin/pipe.ts';
import type { Peers } from '../peers/peers.ts';
import type { LeaderBatches } from './leader-batches.ts';

export interface DutiesContext {
  readonly limits: ClusterLimits;
  readonly metadata: MetadataMachine;
  /** The shards that have a replica here. */
  readonly shards: ReadonlyMap<number, ShardMachine>;
  readonly peers: Peers;
  /** This node's pipe to the metadata. */
  readonly pipe: Pipe;
  readonly commands: LeaderBatches;
  readonly report: ReportEvent;
}

/** What this node has done as the leader of `term`. */
interface Led {
  readonly term: number;
  ticks: number;
  /** Rows of the metadata are appended up to here. */
  version: number;
  /** What the shard was told of nodes; it may not have been applied yet. */
  readonly told: Map<number, { readonly incarnation: number; readonly isSuspected: boolean }>;
}

export class Duties {
  readonly #context: DutiesContext;
  readonly #groups: ReadonlyMap<number, Group>;
  readonly #led = new Map<number, Led>();
  /** Per shard: the version that the metadata were told to be applied. */
  readonly #reported = new Map<number, number>();
  /** Queues whose deletion was asked for. */
  readonly #removing = new Set<number>();
  /** Nodes whose end was asked for. */
  readonly #fencing = new Set<number>();
  /** A higher machine version was asked for. */
  #isRaising = false;

  constructor(groups: ReadonlyMap<number, Group>, context: DutiesContext) {
    this.#groups = groups;
    this.#context = context;
  }

  /** A batch may name a metadata version: what the metadata says up to there must precede it in the shard's log. */
  prepare(group: Group, header: BatchHeader): 'ready' | 'wait' {
    if (group.id === metadataGroup) return 'ready';
    if (header.metadataVersion > this.#context.metadata.appliedIndex) return 'wait';
    return this.appendRows(group) ? 'ready' : 'wait';
  }

  /** The metadata have come further: shards led here get their rows, and batches that waited for them their turn. */
  metadataApplied(): void {
    for (const group of this.#ledShards()) {
      this.appendRows(group);
      group.retryWaiting();
    }
  }

  /** Appends the metadata's rows for a shard that this node leads. False if the shard could not take them now. */
  appendRows(group: Group): boolean {
    return this.#appendRows(group, false);
  }

  /** The same, and the shard knows the version that it has come to, also if there is nothing to do for it. */
  recordVersion(group: Group): void {
    this.#appendRows(group, true);
  }

  #appendRows(group: Group, isRecorded: boolean): boolean {
    if (group.id === metadataGroup) return true;
    const { metadata } = this.#context;
    const led = this.#ledAs(group);
    const upTo = metadata.appliedIndex;
    const shard = this.#context.shards.get(group.id);
    const isKnown = !isRecorded || upTo <= (shard?.metadataVersion ?? 0);
    if (upTo <= led.version && isKnown) return true;
    const changes = metadata.changes(group.id, led.version, upTo);
    const json = JSON.stringify({ changes });
    if (changes.length > 0 || !isKnown) {
      const isAppended = this.#context.commands.append(group, (batch) => void batch.addChanges(upTo, json), upTo);
      if (!isAppended) return false;
    }
    led.version = upTo;
    return true;
  }

  /** Now and then: whatever is owed and was not possible, or was lost, before. */
  drive(): void {
    for (const group of this.#ledShards()) {
      this.appendRows(group);
      group.retryWaiting();
    }
    // Nothing is asked of metadata that do not answer: nobody would hear the reply, and the requests would pile up.
    if (this.#context.pipe.isStalled) return;
    for (const { id } of this.#ledShards()) {
      const shard = this.#context.shards.get(id)!;
      this.#driveRemovals(shard);
      this.#reportApplied(shard);
    }
    const metadata = this.#groups.get(metadataGroup)!;
    if (!metadata.leads) return;
    this.#endDeadNodes(this.#ledAs(metadata));
    this.#raiseVersion();
  }

  /** Every tick: how long groups are led, and who is silent. */
  tick(): void {
    for (const group of this.#groups.values()) if (group.leads) this.#ledAs(group).ticks++;
    for (const group of this.#ledShards()) this.#tellSuspicion(group);
  }

  *#ledShards(): Generator<Group> {
    for (const group of this.#groups.values()) if (group.id !== metadataGroup && group.leads) yield group;
  }

  #ledAs(group: Group): Led {
    const { term } = group.raft;
    const known = this.#led.get(group.id);
    if (known !== undefined && known.term === term) return known;
    // This leader's first entry is applied, and so is all that earlier ones appended.
    const version = this.#context.shards.get(group.id)?.metadataVersion ?? 0;
    const led = { term, ticks: 0, version, told: new Map() };
    this.#led.set(group.id, led);
    return led;
  }

  /** Tells a shard whom not to give messages for now, and whom again: once per change. */
  #tellSuspicion(group: Group): void {
    const { metadata, limits, peers, commands } = this.#context;
    const shard = this.#context.shards.get(group.id)!;
    const led = this.#ledAs(group);
    const changes: { readonly node: number; readonly incarnation: number; readonly isSuspected: boolean }[] = [];
    for (const { node, incarnation, fencedTo } of metadata.nodes()) {
      if (peers.get(node) === undefined || fencedTo >= incarnation) continue;
      const told = led.told.get(node);
      const before = told?.incarnation === incarnation ? told.isSuspected : shard.isSuspected({ node, incarnation });
      const isSuspected = this.#silence(node, led) >= limits.suspectMilliseconds;
      if (isSuspected !== before) changes.push({ node, incarnation, isSuspected });
    }
    if (changes.length === 0) return;
    const isAppended = commands.append(group, (batch) => {
      for (const { node, incarnation, isSuspected } of changes) batch.addSuspect(node, incarnation, isSuspected);
    });
    if (isAppended) for (const change of changes) led.told.set(change.node, change);
  }

  /** For how many milliseconds a node has been silent towards this leader. */
  #silence(node: number, { ticks }: Led): number {
    const { peers, limits } = this.#context;
    return Math.min(peers.silentMilliseconds(node), ticks * limits.tickMilliseconds);
  }

  #driveRemovals(shard: ShardMachine): void {
    for (const uid of shard.pendingRemovals()) {
      if (this.#removing.has(uid) || this.#context.metadata.queueByUid(uid) === undefined) continue;
      this.#removing.add(uid);
      this.#ask({ kind: 'deleteQueue', uid }, () => this.#removing.delete(uid));
    }
  }

  /** The metadata may forget the rows that a shard has applied. */
  #reportApplied(shard: ShardMachine): void {
    const { metadata } = this.#context;
    const version = shard.metadataVersion;
    const known = this.#reported.get(shard.shard) ?? 0;
    if (version <= known || metadata.changes(shard.shard, 0, version).length === 0) return;
    this.#reported.set(shard.shard, version);
    this.#ask({ kind: 'shardApplied', shard: shard.shard, version }, (isKnown) => {
      if (!isKnown) this.#reported.delete(shard.shard);
    });
  }

  /** Whoever was silent for too long is ended: its leases return, its later batches are refused. */
  #endDeadNodes(led: Led): void {
    const { metadata, peers, limits, report } = this.#context;
    for (const { node, incarnation, fencedTo } of metadata.nodes()) {
      if (peers.get(node) === undefined || fencedTo >= incarnation || this.#fencing.has(node)) continue;
      if (this.#silence(node, led) < limits.nodeDeadMilliseconds) continue;
      this.#fencing.add(node);
      report('warn', 'node is gone, its sessions end', { peer: node, incarnation });
      this.#ask({ kind: 'fenceNode', node, incarnation }, () => this.#fencing.delete(node));
    }
  }

  /** When every node knows a higher machine version, as after the last one of a rolling upgrade, that comes into force. */
  #raiseVersion(): void {
    const { metadata, report } = this.#context;
    const version = metadata.knownVersion;
    if (version <= metadata.machineVersion || this.#isRaising) return;
    this.#isRaising = true;
    report('info', 'all nodes know a later machine version, it comes into force', { version });
    this.#ask({ kind: 'raiseVersion', version }, () => {
      this.#isRaising = false;
    });
  }

  /** `replied(false)`: its fate is unknown. */
  #ask(command: MetadataCommand, replied: (isKnown: boolean) => void): void {
    this.#context.pipe.metadata(JSON.stringify(command), (result) => replied(result !== null));
  }
}
