// The state machine of the metadata group: queues, exchanges, bindings, nodes and their incarnations, and what all that asks of the shards.
//
// State owned: the topology (`metadata/topology.ts`), the nodes (`nodes.ts`), the rows for each shard (`rows.ts`), the pipe table. Route cache
// and the versions of the topology belong to this replica alone.
//
// An entry is one batch of `metadata` commands. Each command is taken whole or refused whole, and its result is kept for its origin unless
// it is plainly ok.
//
// Invariants:
// - Never throws on input: what is malformed, unknown or impossible is refused. What throws is a bug, and halts the replica.
// - Every queue made or removed, and every incarnation ended, is one row of its shard (of every shard), with the entry's index as version.
// - No exclusive queue of an ended incarnation exists, or can be made.
// - Equal entries make equal states: equal `stateHash`, equal snapshot bytes.
//
// PURE.

import {
  type BatchHeader,
  CommandKind,
  checkBatch,
  commandOffset,
  type Origin,
  OriginKind,
  ResultCode,
  readBatchHeader,
  readJson,
} from './commands.ts';
import type { AppliedEntry, Machine, PipeId, PipeSink } from './machine.ts';
import { textHash } from './metadata/hash.ts';
import { NodeTable } from './metadata/nodes.ts';
import { parseMetadataCommand } from './metadata/parse.ts';
import { Routes } from './metadata/routes.ts';
import { ShardRows } from './metadata/rows.ts';
import { type MetadataSnapshot, readSnapshot, writeSnapshot } from './metadata/snapshot.ts';
import { type BindingRecord, bindingRecord, Topology } from './metadata/topology.ts';
import type {
  ExchangeRecord,
  HeaderLookup,
  MetadataCommand,
  MetadataView,
  NodeRecord,
  QueueRecord,
  Route,
  ShardChange,
} from './metadata-types.ts';
import { PipeTable } from './pipes.ts';
import { foldHash } from './queue/bytes.ts';

export { type Difference, exchangeDifference, queueDifference } from './metadata/arguments.ts';
export type { BindingRecord } from './metadata/topology.ts';

export interface MetadataOptions {
  /** How many shards there are; the same on all replicas. */
  readonly shards: number;
  /** Queues in all routes kept for the next message, each route counting for four more; beyond it all are forgotten. */
  readonly routeQueuesMax?: number;
}

/** Entries of a later version must not be applied by this code: it would do something else than the replicas that know them. */
export const metadataMachineVersion = 1;

const routeQueuesMaxDefault = 262_144;

/** What a command came to: the code, and for a declared queue its uid. */
interface Outcome {
  readonly code: ResultCode;
  readonly value: number;
}
const done: Outcome = { code: ResultCode.ok, value: 0 };
const refused: Outcome = { code: ResultCode.refused, value: 0 };

export class MetadataMachine implements Machine, MetadataView {
  readonly #options: { readonly shards: number; readonly routeQueuesMax: number };
  #topology: Topology;
  #routes: Routes;
  #nodes = new NodeTable();
  #rows: ShardRows[];
  #pipes = new PipeTable();
  /** Adds up the nodes; the topology and the rows have sums of their own. */
  #nodeSum = 0;
  #appliedIndex = 0;
  /** Batches that were not well formed. For people: no part of the state. */
  #malformed = 0;
  #watched: PipeId | null = null;
  #sink: PipeSink | null = null;
  #fencedTold = false;

  constructor(options: MetadataOptions) {
    const { shards, routeQueuesMax = routeQueuesMaxDefault } = options;
    if (!Number.isInteger(shards) || shards < 1) throw new Error(`there must be at least one shard, not ${shards}`);
    this.#options = { shards, routeQueuesMax };
    this.#topology = new Topology(shards);
    this.#routes = new Routes(this.#topology, routeQueuesMax);
    this.#rows = Array.from({ length: shards }, () => new ShardRows());
  }

  // The machine.

  get appliedIndex(): number {
    return this.#appliedIndex;
  }

  watch(pipe: PipeId | null, sink: PipeSink | null): void {
    this.#watched = pipe;
    this.#sink = sink;
    this.#fencedTold = false;
  }

  apply(entry: AppliedEntry): void {
    if (entry.index <= this.#appliedIndex)
      throw new Error(`entry ${entry.index} comes after ${this.#appliedIndex} was applied`);
    if (entry.machineVersion > metadataMachineVersion)
      throw new Error(`entry ${entry.index} needs machine version ${entry.machineVersion}`);
    this.#appliedIndex = entry.index;
    // Leaders check before they append. What got in nevertheless does nothing, here as on every replica.
    if (checkBatch(entry.payload) !== null) {
      this.#malformed++;
      return;
    }
    const header = readBatchHeader(entry.payload);
    if (this.#pipes.admit(header) === 'apply') this.#applyBatch(header, entry.payload);
    this.#tellFenced();
  }

  #applyBatch(header: BatchHeader, payload: Buffer): void {
    const sink = this.#isWatched(header) ? this.#sink : null;
    for (let ordinal = 0; ordinal < header.commandCount; ordinal++) {
      const { code, value } = this.#applyCommand(payload, commandOffset(payload, ordinal));
      // It may have ended itself: then nobody is left to read results, and the rest of the batch comes from a zombie.
      if (this.#pipes.isEnded(header)) return;
      if (code === ResultCode.ok && value === 0) continue;
      this.#pipes.keep(header, ordinal, code, value, 0);
      sink?.result(header.sequence, ordinal, code, value, 0);
    }
    sink?.batchApplied(header.sequence);
  }

  #applyCommand(payload: Buffer, at: number): Outcome {
    if (payload[at] !== CommandKind.metadata) return refused;
    const command = parseMetadataCommand(readJson(payload, at));
    return command === null ? refused : this.#execute(command);
  }

  #execute(command: MetadataCommand): Outcome {
    switch (command.kind) {
      case 'openNode': {
        const change = this.#nodes.open(command);
        if (!change.ok) return refused;
        this.#nodeChanged(change.before, change.after, change.fenceTo);
        return done;
      }
      case 'fenceNode': {
        const change = this.#nodes.fence(command.node, command.incarnation);
        if (!change.ok) return { code: ResultCode.notFound, value: 0 };
        this.#nodeChanged(change.before, change.after, change.fenceTo);
        return done;
      }
      case 'declareQueue': {
        const owner = command.exclusive;
        if (owner !== null && this.#nodes.isFenced(owner.node, owner.incarnation)) return refused;
        const { code, uid, created } = this.#topology.declareQueue(command);
        if (created !== null) this.#queueCreated(created);
        return { code, value: uid };
      }
      case 'deleteQueue': {
        const record = this.#topology.deleteQueue(command.uid);
        if (record !== undefined) this.#queueDeleted(record);
        return done;
      }
      case 'deleteExclusive':
        for (const record of this.#topology.deleteExclusive(command.owner)) this.#queueDeleted(record);
        return done;
      case 'declareExchange':
        return { code: this.#topology.declareExchange(command), value: 0 };
      case 'deleteExchange':
        return { code: this.#topology.deleteExchange(command), value: 0 };
      case 'bind':
        return { code: this.#topology.bind(command), value: 0 };
      case 'unbind':
        return { code: this.#topology.unbind(command), value: 0 };
      case 'shardApplied':
        return this.#shardApplied(command.shard, command.version);
      default:
        throw new Error(`metadata command has no branch: ${JSON.stringify(command satisfies never)}`);
    }
  }

  /** `fenceTo`: its incarnations up to this one have just ended, for the shards, for this machine's own pipes and for exclusive queues. */
  #nodeChanged(before: NodeRecord | null, after: NodeRecord, fenceTo: number | null): void {
    if (before !== null) this.#nodeSum = (this.#nodeSum - textHash(nodeText(before))) >>> 0;
    this.#nodeSum = (this.#nodeSum + textHash(nodeText(after))) >>> 0;
    if (fenceTo === null) return;
    const { node } = after;
    const version = this.#appliedIndex;
    this.#pipes.fence(node, fenceTo);
    for (const record of this.#topology.deleteExclusiveOfNode(node, fenceTo)) this.#queueDeleted(record);
    for (let shard = 1; shard <= this.#rows.length; shard++)
      this.#push(shard, { kind: 'fence', version, node, incarnation: fenceTo });
  }

  #queueCreated({ shard, uid, vhost, name, autoDelete, arguments: table }: QueueRecord): void {
    const version = this.#appliedIndex;
    this.#push(shard, { kind: 'create', version, uid, vhost, name, autoDelete, arguments: table });
  }

  #queueDeleted({ shard, uid }: QueueRecord): void {
    this.#push(shard, { kind: 'delete', version: this.#appliedIndex, uid });
  }

  #push(shard: number, row: ShardChange): void {
    this.#rows[shard - 1]!.push(row);
  }

  #shardApplied(shard: number, version: number): Outcome {
    const rows = this.#rows[shard - 1];
    // Nobody can have applied what is not committed before this entry.
    if (rows === undefined || version >= this.#appliedIndex) return refused;
    rows.prune(version);
    return done;
  }

  resume(_nextLease: (consumer: number) => number): void {
    if (this.#watched === null || this.#sink === null) return;
    this.#tellFenced();
    for (const { sequence, ordinal, code, value, extra } of this.#pipes.results(this.#watched))
      this.#sink.result(sequence, ordinal, code, value, extra);
  }

  lastSequence(pipe: PipeId): number {
    return this.#pipes.lastSequence(pipe);
  }

  isFenced(pipe: PipeId): boolean {
    return this.#pipes.isFenced(pipe);
  }

  snapshot(): Buffer[] {
    const state: MetadataSnapshot = {
      appliedIndex: this.#appliedIndex,
      shards: this.#rows.map((rows) => ({ appliedTo: rows.appliedTo, rows: rows.all() })),
      lastUid: this.#topology.lastUid,
      vhosts: Array.from(this.#topology.vhosts(), (vhost) => vhost.name),
      exchanges: Array.from(this.exchanges()).filter((exchange) => !exchange.predeclared),
      queues: Array.from(this.queues()),
      bindings: Array.from(this.bindings()),
      nodes: Array.from(this.#nodes.values()),
      stateHash: this.stateHash(),
    };
    return writeSnapshot(state, this.#pipes.serialise());
  }

  restore(bytes: Buffer): void {
    const { state, pipes } = readSnapshot(bytes);
    const { shards, routeQueuesMax } = this.#options;
    if (state.shards.length !== shards)
      throw new Error(`the snapshot has ${state.shards.length} shards, this node is set to ${shards}`);
    const restored = new MetadataMachine({ shards, routeQueuesMax });
    restored.#load(state, pipes);
    if (restored.stateHash() !== state.stateHash) throw new Error('the restored metadata have another state hash');
    // Only a state that is complete and right replaces the one that is there.
    restored.#topology.skipVersionsTo(this.#topology.version + 1);
    this.#topology = restored.#topology;
    this.#routes = restored.#routes;
    this.#nodes = restored.#nodes;
    this.#rows = restored.#rows;
    this.#pipes = restored.#pipes;
    this.#nodeSum = restored.#nodeSum;
    this.#appliedIndex = restored.#appliedIndex;
  }

  #load(state: MetadataSnapshot, pipes: Buffer): void {
    for (const name of state.vhosts) if (this.#topology.vhost(name) === undefined) this.#topology.addVhost(name);
    for (const exchange of state.exchanges) this.#topology.putExchange(exchange);
    for (const queue of state.queues) this.#topology.restoreQueue(queue);
    for (const binding of state.bindings) this.#topology.restoreBinding(binding);
    this.#topology.restoreLastUid(state.lastUid);
    for (const node of state.nodes) {
      this.#nodes.put(node);
      this.#nodeSum = (this.#nodeSum + textHash(nodeText(node))) >>> 0;
    }
    for (const [shard, { appliedTo, rows }] of state.shards.entries()) {
      this.#rows[shard]!.prune(appliedTo);
      for (const row of rows) this.#push(shard + 1, row);
    }
    this.#pipes.restore(pipes);
    this.#appliedIndex = state.appliedIndex;
  }

  /** Nobody reads entries of this group again: what they asked for is all in the state. */
  hasLiveEntries(_first: number, _last: number): boolean {
    return false;
  }

  liveEntries(_first: number, _last: number): number[] {
    return [];
  }

  /** Every node routes by it. */
  concerns(_node: number): boolean {
    return true;
  }

  stateHash(): number {
    let hash = foldHash(foldHash(0, this.#appliedIndex), this.#topology.lastUid);
    hash = foldHash(foldHash(hash, this.#topology.sum), this.#nodeSum);
    for (const rows of this.#rows) hash = foldHash(foldHash(hash, rows.appliedTo), rows.sum);
    return foldHash(hash, this.#pipes.hash());
  }

  // The view.

  get topologyVersion(): number {
    return this.#topology.version;
  }

  vhostExists(vhost: string): boolean {
    return this.#topology.vhost(vhost) !== undefined;
  }

  queue(vhost: string, name: string): QueueRecord | undefined {
    return this.#topology.vhost(vhost)?.queues.get(name)?.record;
  }

  queueByUid(uid: number): QueueRecord | undefined {
    return this.#topology.queueByUid(uid)?.record;
  }

  exchange(vhost: string, name: string): ExchangeRecord | undefined {
    return this.#topology.vhost(vhost)?.exchanges.get(name)?.record;
  }

  *vhosts(): Generator<string> {
    for (const vhost of this.#topology.vhosts()) yield vhost.name;
  }

  *queues(): Generator<QueueRecord> {
    for (const queue of this.#topology.queues()) yield queue.record;
  }

  *exchanges(): Generator<ExchangeRecord> {
    for (const vhost of this.#topology.vhosts()) for (const exchange of vhost.exchanges.values()) yield exchange.record;
  }

  /** All bindings, by source; without those of the default exchange, which are implied. */
  *bindings(): Generator<BindingRecord> {
    for (const vhost of this.#topology.vhosts())
      for (const exchange of vhost.exchanges.values())
        for (const binding of exchange.outgoing.values()) yield bindingRecord(binding);
  }

  *bindingsFrom(vhost: string, exchange: string): Generator<BindingRecord> {
    const source = this.#topology.vhost(vhost)?.exchanges.get(exchange);
    for (const binding of source?.outgoing.values() ?? []) yield bindingRecord(binding);
  }

  *bindingsTo(vhost: string, kind: 'queue' | 'exchange', name: string): Generator<BindingRecord> {
    const found = this.#topology.vhost(vhost);
    const target = kind === 'queue' ? found?.queues.get(name) : found?.exchanges.get(name);
    for (const binding of target?.incoming ?? []) yield bindingRecord(binding);
  }

  /** Is there exactly this binding? Arguments compare by value. */
  isBound(binding: BindingRecord): boolean {
    return this.#topology.isBound(binding);
  }

  nodes(): Iterable<NodeRecord> {
    return this.#nodes.values();
  }

  node(node: number): NodeRecord | undefined {
    return this.#nodes.get(node);
  }

  route(vhost: string, exchange: string, routingKey: string, headers: HeaderLookup): Route | undefined {
    return this.#routes.route(vhost, exchange, routingKey, headers);
  }

  usesHeaders(vhost: string, exchange: string): boolean {
    return this.#routes.usesHeaders(vhost, exchange);
  }

  changes(shard: number, after: number, upTo: number): ShardChange[] {
    return this.#rows[shard - 1]?.between(after, upTo) ?? [];
  }

  /** The version up to which a shard has said that it applied its rows. */
  shardAppliedTo(shard: number): number {
    return this.#rows[shard - 1]?.appliedTo ?? 0;
  }

  status(): {
    readonly queues: number;
    readonly bindings: number;
    readonly queuesPerShard: readonly number[];
    readonly rowsPerShard: readonly number[];
    readonly routeQueuesKept: number;
    readonly pipeGaps: number;
    readonly malformed: number;
  } {
    return {
      queues: this.#topology.queueCount,
      bindings: this.#topology.bindingCount,
      queuesPerShard: [...this.#topology.queuesPerShard],
      rowsPerShard: this.#rows.map((rows) => rows.length),
      routeQueuesKept: this.#routes.queuesKept,
      pipeGaps: this.#pipes.gaps,
      malformed: this.#malformed,
    };
  }

  #isWatched(origin: Origin): boolean {
    const pipe = this.#watched;
    return (
      pipe !== null &&
      origin.kind === OriginKind.node &&
      origin.id === pipe.node &&
      origin.incarnation === pipe.incarnation
    );
  }

  #tellFenced(): void {
    if (this.#fencedTold || this.#watched === null || !this.#pipes.isFenced(this.#watched)) return;
    this.#fencedTold = true;
    this.#sink?.fenced();
  }
}

const nodeText = (record: NodeRecord): string =>
  `n${JSON.stringify([record.node, record.name, record.uuid, record.incarnation, record.fencedTo])}`;
