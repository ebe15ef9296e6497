// What a leader owes to other groups: rows of the metadata to the shards that it leads, and to the metadata the deletions that its shards
// decided, how far its shards have come, and the ends of nodes that are gone.
//
// Each duty is read from replicated state again and again until it is done, so a leader that dies leaves nothing undone, and repeats are
// harmless: the target drops them.
//
// State owned: for each shard led, how far its rows were appended in this term; and which requests to the metadata are under way, each
// until its reply, so that it is not asked twice. All of it may be forgotten at any time.
//
// Invariant: before a batch that names a version of the metadata, all rows up to there are in the shard's log, each once per term.

import { crc32 } from 'node:zlib';
import { type Group, metadataGroup } from './group.ts';
import { BatchBuilder, type BatchHeader, OriginKind } from './machine/commands.ts';
import type { MetadataMachine } from './machine/metadata.ts';
import type { MetadataCommand } from './machine/metadata-types.ts';
import type { ShardMachine } from './machine/shard.ts';
import type { ClusterLimits, ReportEvent } from './options.ts';
import type { Peers } from './peers.ts';
import type { Pipe } from './pipe.ts';

export interface DutiesContext {
  readonly limits: ClusterLimits;
  readonly metadata: MetadataMachine;
  readonly shards: readonly ShardMachine[];
  readonly peers: Peers;
  /** This node's pipe to the metadata. */
  readonly pipe: Pipe;
  readonly report: ReportEvent;
}

/** Rows appended up to `version` by the leader of `term`; the next batch of them is number `sequence`. */
interface Appended {
  readonly term: number;
  version: number;
  sequence: number;
}

const rowsBytesUsual = 1024;

export class Duties {
  readonly #context: DutiesContext;
  readonly #groups: readonly Group[];
  readonly #appended = new Map<number, Appended>();
  /** Per shard: the version that the metadata were told to be applied. */
  readonly #reported = new Map<number, number>();
  /** Queues whose deletion was asked for. */
  readonly #removing = new Set<number>();
  /** Nodes whose end was asked for. */
  readonly #fencing = new Set<number>();

  constructor(groups: readonly Group[], context: DutiesContext) {
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
    if (group.id === metadataGroup) return true;
    const { metadata } = this.#context;
    const appended = this.#appendedTo(group);
    const upTo = metadata.appliedIndex;
    if (upTo <= appended.version) return true;
    const changes = metadata.changes(group.id, appended.version, upTo);
    if (changes.length > 0) {
      const builder = new BatchBuilder(rowsBytesUsual);
      builder.addChanges(upTo, JSON.stringify({ changes }));
      // The term serves as the incarnation: a new leader is a new origin, and starts its count anew.
      const origin = {
        kind: OriginKind.group,
        id: metadataGroup,
        incarnation: appended.term,
      } as const;
      const payload = builder.seal(origin, appended.sequence, upTo, 0);
      if (!group.propose(payload, crc32(payload))) return false;
      appended.sequence++;
    }
    appended.version = upTo;
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
      const shard = this.#context.shards[id - 1]!;
      this.#driveRemovals(shard);
      this.#reportApplied(shard);
    }
    if (this.#groups[metadataGroup]!.leads) this.#endDeadNodes();
  }

  *#ledShards(): Generator<Group> {
    for (const group of this.#groups) if (group.id !== metadataGroup && group.leads) yield group;
  }

  #appendedTo(group: Group): Appended {
    const { term } = group.raft;
    const known = this.#appended.get(group.id);
    if (known !== undefined && known.term === term) return known;
    // This leader's first entry is applied, and so is all that earlier ones appended.
    const appended = {
      term,
      version: this.#context.shards[group.id - 1]!.metadataVersion,
      sequence: 1,
    };
    this.#appended.set(group.id, appended);
    return appended;
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
  #endDeadNodes(): void {
    const { metadata, peers, limits, report } = this.#context;
    const deadTicks = limits.nodeDeadMilliseconds / limits.tickMilliseconds;
    for (const { node, incarnation, fencedTo } of metadata.nodes()) {
      const peer = peers.get(node);
      if (peer === undefined || fencedTo >= incarnation || this.#fencing.has(node)) continue;
      if (peer.silentTicks < deadTicks) continue;
      this.#fencing.add(node);
      report('warn', 'node is gone, its sessions end', {
        peer: node,
        incarnation,
      });
      this.#ask({ kind: 'fenceNode', node, incarnation }, () => this.#fencing.delete(node));
    }
  }

  /** `replied(false)`: its fate is unknown. */
  #ask(command: MetadataCommand, replied: (isKnown: boolean) => void): void {
    this.#context.pipe.metadata(JSON.stringify(command), (result) => replied(result !== null));
  }
}
