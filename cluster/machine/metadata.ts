// The state machine of the metadata group: queues, exchanges, bindings, nodes and their incarnations, who is a member and which nodes hold
// which shard, and what all that asks of the shards.
//
// State owned: the topology (`metadata/topology.ts`), the nodes (`nodes.ts`), members and placements (`members.ts`), the rows for each shard
// and volatile group (`rows.ts`), the pipe table. Route cache and the versions of the topology belong to this replica alone.
//
// An entry is one batch of `metadata` commands. Each command is taken whole or refused whole, and its result is kept for its origin unless
// it is plainly ok.
//
// Invariants:
// - Never throws on input: what is malformed, unknown or impossible is refused. What throws is a bug, and halts the replica.
// - Every queue made, configured or removed is one row of its group, every incarnation ended one of every group, with the entry's index as
//   version. A volatile group has rows from its first queue on until its incarnation ends: then it is gone, rows and all.
// - No volatile queue of an incarnation that is not open exists, or can be made.
// - Equal entries make equal states: equal `stateHash`, equal snapshot bytes.
//
// PURE.

import {
  type BatchHeader,
  CommandKind,
  checkBatch,
  commandOffset,
  OriginKind,
  ResultCode,
  readBatchHeader,
  readJson,
} from './commands.ts';
import { volatileGroupOf } from './groups.ts';
import type { AppliedEntry, Machine, PipeId, PipeSink, References, Restoring, SnapshotPieces } from './machine.ts';
import { shareEmpty } from './metadata/arguments.ts';
import {
  type BindingRecord,
  bindingRecord,
  bindingsOf,
  type ExchangeNode,
  isLive,
  isVolatile,
  live,
} from './metadata/graph.ts';
import { textHash } from './metadata/hash.ts';
import { type MemberOutcome, MemberTable } from './metadata/members.ts';
import { NodeTable } from './metadata/nodes.ts';
import { parseMetadataCommand } from './metadata/parse.ts';
import { MemberRefusal } from './metadata/refusals.ts';
import { Routes } from './metadata/routes.ts';
import { ShardRows } from './metadata/rows.ts';
import { type MetadataHead, readSnapshot, type SnapshotBlock, writeSnapshot } from './metadata/snapshot.ts';
import { Topology } from './metadata/topology.ts';
import type {
  Arguments,
  ExchangeRecord,
  HeaderLookup,
  MemberRecord,
  MetadataCommand,
  MetadataView,
  NodeRecord,
  OriginalFormat,
  Placement,
  QueueRecord,
  Route,
  ShardChange,
} from './metadata-types.ts';
import { PipeTable } from './pipes.ts';
import { ByteReader, foldHash, type Steps } from './queue/bytes.ts';
import { restoreAtOnce, restoreInSteps } from './restoring.ts';
import { type MetadataRules, machineVersionMax, metadataVersions, rulesOf } from './versions.ts';
import { Watchers } from './watchers.ts';

export { type Difference, exchangeDifference, queueDifference } from './metadata/arguments.ts';
export type { BindingRecord } from './metadata/graph.ts';

export interface MetadataOptions {
  /** How many shards there are; the same on all replicas. */
  readonly shards: number;
  /** What the cluster was formed with; the same on all replicas, for ever. */
  readonly initial: OriginalFormat;
  /** Queues in all routes kept for the next message, each route counting for four more; beyond it all are forgotten. */
  readonly routeQueuesMax?: number;
  /** By version, from 1 on: what it does; the same on all replicas. Others than the default are for tests. */
  readonly versions?: readonly MetadataRules[];
}

const routeQueuesMaxDefault = 262_144;
/** Of a state that is restored in steps: a few milliseconds. */
const restoreStepBytes = 16 * 1024;

const noReferences: References = { next: () => null, isLost: false, close() {} };

/** What a command came to: the code, and for a declared queue its uid. */
interface Outcome {
  readonly code: ResultCode;
  readonly value: number;
}
const done: Outcome = { code: ResultCode.ok, value: 0 };
const refused: Outcome = { code: ResultCode.refused, value: 0 };
const notFound: Outcome = { code: ResultCode.notFound, value: 0 };
/** For a change of nodes: says why (`metadata/refusals.ts`). */
const refusedFor = (refusal: MemberRefusal): Outcome => ({ code: ResultCode.refused, value: refusal });

export class MetadataMachine implements Machine, MetadataView {
  readonly #options: Required<MetadataOptions>;
  #topology: Topology;
  #routes: Routes;
  #nodes = new NodeTable();
  #members: MemberTable;
  /** By group: every shard, and the volatile groups that have or had queues and whose incarnation is open. */
  #rows: Map<number, ShardRows>;
  #pipes = new PipeTable();
  /** Adds up the nodes; the topology and the rows have sums of their own. */
  #nodeSum = 0;
  #appliedIndex = 0;
  /** The highest version that was applied, and the one that leaders may write. */
  #version = 1;
  #machineVersion = 1;
  /** Batches that were not well formed. For people: no part of the state. */
  #malformed = 0;
  readonly #watchers = new Watchers();

  constructor(options: MetadataOptions) {
    const { shards, initial, routeQueuesMax = routeQueuesMaxDefault, versions = metadataVersions } = options;
    if (!Number.isInteger(shards) || shards < 1) throw new Error(`there must be at least one shard, not ${shards}`);
    this.#options = { shards, initial, routeQueuesMax, versions };
    this.#members = new MemberTable(initial, shards);
    this.#topology = new Topology(shards);
    this.#routes = new Routes(this.#topology, routeQueuesMax);
    this.#rows = new Map(Array.from({ length: shards }, (_, i) => [i + 1, new ShardRows()]));
  }

  // The machine.

  get appliedIndex(): number {
    return this.#appliedIndex;
  }

  /** Removals of queues are the only ones, and are few. */
  get work(): number {
    return 0;
  }
  get version(): number {
    return this.#version;
  }

  watch(pipe: PipeId, sink: PipeSink | null): void {
    this.#watchers.set(pipe, sink);
  }

  apply(entry: AppliedEntry): void {
    if (entry.index <= this.#appliedIndex)
      throw new Error(`entry ${entry.index} comes after ${this.#appliedIndex} was applied`);
    const rules = rulesOf(this.#options.versions, Math.max(entry.machineVersion, this.#version), 'an entry');
    if (entry.machineVersion > this.#version) this.#version = entry.machineVersion;
    this.#appliedIndex = entry.index;
    this.#applyPayload(entry.payload);
    this.#topology.workOff(rules.debtItemsPerEntry);
    this.#tellFenced();
  }

  #applyPayload(payload: Buffer): void {
    // Leaders check before they append. What got in nevertheless does nothing, here as on every replica.
    if (checkBatch(payload) !== null) {
      this.#malformed++;
      return;
    }
    const header = readBatchHeader(payload);
    // What leaders append by themselves has nothing for this machine but its place in the log.
    if (header.kind !== OriginKind.node) return;
    if (this.#pipes.admit(header) === 'apply') this.#applyBatch(header, payload);
  }

  #applyBatch(header: BatchHeader, payload: Buffer): void {
    const sink = this.#watchers.sinkOf(header.id, header.incarnation);
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
        if ((command.machineVersion ?? 1) < this.#machineVersion) return refusedFor(MemberRefusal.oldVersion);
        const problem = this.#members.openProblem(command);
        if (problem !== null) return refusedFor(problem);
        const change = this.#nodes.open(command);
        if (!change.ok)
          return refusedFor(change.reason === 'ended' ? MemberRefusal.newerProcess : MemberRefusal.otherData);
        this.#members.opened(command);
        this.#nodeChanged(change.before, change.after, change.fenceTo);
        return done;
      }
      case 'fenceNode': {
        const change = this.#nodes.fence(command.node, command.incarnation);
        if (!change.ok) return notFound;
        this.#nodeChanged(change.before, change.after, change.fenceTo);
        return done;
      }
      case 'declareQueue': {
        const { node, incarnation } = command.home;
        if (isVolatile(command) && !this.#nodes.isOpen(node, incarnation)) return refused;
        const { code, uid, created } = this.#topology.declareQueue(command);
        if (created !== null) this.#queueCreated(created);
        return { code, value: uid };
      }
      case 'configureQueue': {
        const record = this.#topology.configureQueue(command.uid, command.arguments);
        if (record === undefined) return notFound;
        if (record !== null) this.#queueConfigured(record, command.arguments);
        return done;
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
      case 'raiseVersion':
        return this.#raiseVersion(command.version);
      case 'joinNode':
        return outcomeOf(this.#members.join(command, this.#isUp));
      case 'leaveNode':
        return outcomeOf(this.#members.leave(command.node, this.#isUp));
      case 'memberJoined':
        return outcomeOf(this.#members.joined(command.node));
      case 'memberGone':
        return this.#memberGone(command.node);
      case 'place':
        return outcomeOf(this.#members.place(command, this.#appliedIndex));
      case 'placed':
        return outcomeOf(this.#members.placed(command, this.#appliedIndex));
      default:
        throw new Error(`metadata command has no branch: ${JSON.stringify(command satisfies never)}`);
    }
  }

  /** Not before every node knows it: whoever does not could not go on. */
  #raiseVersion(version: number): Outcome {
    if (version > this.knownVersion) return refused;
    this.#machineVersion = Math.max(this.#machineVersion, version);
    return done;
  }

  /** `fenceTo`: its incarnations up to this one have just ended, for all groups, for this machine's own pipes and for volatile queues. */
  #nodeChanged(before: NodeRecord | null, after: NodeRecord, fenceTo: number | null): void {
    if (before !== null) this.#nodeSum = (this.#nodeSum - textHash(nodeText(before))) >>> 0;
    this.#nodeSum = (this.#nodeSum + textHash(nodeText(after))) >>> 0;
    if (fenceTo === null) return;
    const { node } = after;
    this.#pipes.fence(node, fenceTo);
    if (before !== null) {
      // Only the latest one can have been open: earlier ones took their queues with them.
      if (fenceTo < before.incarnation)
        throw new Error(`node ${node} ends up to ${fenceTo}, but not its latest incarnation`);
      const group = volatileGroupOf(before);
      this.#topology.endHome(group);
      this.#rows.delete(group);
    }
    const row: ShardChange = { kind: 'fence', version: this.#appliedIndex, node, incarnation: fenceTo };
    for (const rows of this.#rows.values()) rows.push(row);
  }

  /** Its incarnations end with it; that no later one opens is the member's state. */
  #memberGone(node: number): Outcome {
    const outcome = this.#members.gone(node);
    const record = this.#nodes.get(node);
    if (outcome.refusal === null && record !== undefined) {
      const change = this.#nodes.fence(node, record.incarnation);
      if (change.ok) this.#nodeChanged(change.before, change.after, change.fenceTo);
    }
    return outcomeOf(outcome);
  }

  /** As far as the metadata know: it has opened, and was not ended since. */
  readonly #isUp = (node: number): boolean => {
    const record = this.#nodes.get(node);
    return record !== undefined && record.incarnation > record.fencedTo;
  };

  #queueCreated({ shard, uid, vhost, name, autoDelete, arguments: table }: QueueRecord): void {
    const version = this.#appliedIndex;
    this.#push(shard, { kind: 'create', version, uid, vhost, name, autoDelete, arguments: table });
  }

  #queueConfigured({ shard, uid }: QueueRecord, table: Arguments): void {
    this.#push(shard, { kind: 'configure', version: this.#appliedIndex, uid, arguments: table });
  }

  #queueDeleted({ shard, uid }: QueueRecord): void {
    this.#push(shard, { kind: 'delete', version: this.#appliedIndex, uid });
  }

  #push(group: number, row: ShardChange): void {
    this.#rowsOf(group).push(row);
  }

  #rowsOf(group: number): ShardRows {
    let rows = this.#rows.get(group);
    if (rows === undefined) this.#rows.set(group, (rows = new ShardRows()));
    return rows;
  }

  #shardApplied(group: number, version: number): Outcome {
    const rows = this.#rows.get(group);
    // Nobody can have applied what is not committed before this entry.
    if (rows === undefined || version >= this.#appliedIndex) return refused;
    rows.prune(version);
    return done;
  }

  resume(pipe: PipeId, _nextLease: (consumer: number) => number): void {
    const sink = this.#watchers.sinkOf(pipe.node, pipe.incarnation);
    if (sink === null) return;
    this.#tellFenced();
    for (const { sequence, ordinal, code, value, extra } of this.#pipes.results(pipe))
      sink.result(sequence, ordinal, code, value, extra);
  }

  lastSequence(pipe: PipeId): number {
    return this.#pipes.lastSequence(pipe);
  }

  isFenced(pipe: PipeId): boolean {
    return this.#pipes.isFenced(pipe);
  }

  /** Takes references only: at 100,000 queues and as many bindings that is a few milliseconds. */
  snapshot(): SnapshotPieces {
    const groups = Array.from(this.#rows).sort(([left], [right]) => left - right);
    const head: MetadataHead = {
      appliedIndex: this.#appliedIndex,
      version: this.#version,
      machineVersion: this.#machineVersion,
      shards: this.#options.shards,
      lastUid: this.#topology.lastUid,
      vhosts: Array.from(this.vhosts()),
      nodes: Array.from(this.#nodes.values()),
      members: this.#members.state(),
      groups: groups.map(([group, { appliedTo }]) => ({ group, appliedTo })),
      pipes: this.#pipes.serialise().toString('base64'),
      stateHash: this.stateHash(),
    };
    // A Map's values are spread five times as fast as they are walked.
    const exchanges = this.#topology.exchangesInOrder();
    return writeSnapshot({
      head,
      exchanges,
      queues: [...this.#topology.queues()],
      configured: [...this.#topology.configured].sort(([left], [right]) => left - right),
      bindings: exchanges.filter(({ outgoing }) => outgoing.size > 0).map(({ outgoing }) => [...outgoing.values()]),
      rows: groups.map(([group, rows]) => ({ group, rows: rows.all() })),
    });
  }

  restoring(): Restoring {
    const reader = new ByteReader(null, restoreStepBytes);
    return restoreInSteps(reader, this.#restore(reader));
  }

  restore(bytes: Buffer): void {
    restoreAtOnce(this, bytes);
  }

  *#restore(reader: ByteReader): Steps<() => void> {
    const restored = new MetadataMachine(this.#options);
    let exchanges: ExchangeNode[] | null = null;
    let lastUid = 0;
    let stateHash: number | null = null;
    yield* readSnapshot(reader, (block) => {
      if (block.kind === 'head') ({ lastUid, stateHash } = block.head);
      // They follow the exchanges, and name them by their places.
      if (block.kind === 'bindings') exchanges ??= restored.#topology.exchangesInOrder();
      restored.#load(block, exchanges ?? []);
    });
    restored.#topology.restoreLastUid(lastUid);
    for (const [group, { id }] of restored.#topology.homes())
      if (!restored.#nodes.isOpen(id.node, id.incarnation)) restored.#topology.endHome(group);
    if (restored.stateHash() !== stateHash) throw new Error('the restored metadata have another state hash');
    // Only a state that is complete and right replaces the one that is there.
    return () => this.#become(restored);
  }

  #become(restored: MetadataMachine): void {
    restored.#topology.skipVersionsTo(this.#topology.version + 1);
    this.#topology = restored.#topology;
    this.#routes = restored.#routes;
    this.#nodes = restored.#nodes;
    restored.#members.skipVersionsTo(this.#members.version + 1);
    this.#members = restored.#members;
    this.#rows = restored.#rows;
    this.#pipes = restored.#pipes;
    this.#nodeSum = restored.#nodeSum;
    this.#appliedIndex = restored.#appliedIndex;
    this.#version = restored.#version;
    this.#machineVersion = restored.#machineVersion;
  }

  #load(block: SnapshotBlock, exchanges: readonly ExchangeNode[]): void {
    switch (block.kind) {
      case 'head':
        return this.#loadHead(block.head);
      case 'exchanges':
        for (const exchange of block.exchanges) this.#topology.putExchange(exchange);
        return;
      case 'queues':
        for (const queue of block.queues) this.#topology.restoreQueue(queue);
        return;
      case 'configured':
        for (const [uid, table] of block.configured) this.#topology.putConfigured(uid, shareEmpty(table));
        return;
      case 'bindings':
        for (const binding of block.bindings) this.#topology.restoreBinding(binding, exchanges);
        return;
      case 'rows': {
        const rows = this.#rowsOf(block.group);
        for (const row of block.rows) rows.push(row);
        return;
      }
      default:
        block satisfies never;
    }
  }

  #loadHead(head: MetadataHead): void {
    const { shards } = this.#options;
    if (head.shards !== shards)
      throw new Error(`the snapshot has ${head.shards} shards, this node is set to ${shards}`);
    rulesOf(this.#options.versions, Math.max(head.version, head.machineVersion), 'the snapshot');
    this.#version = head.version;
    this.#machineVersion = head.machineVersion;
    this.#appliedIndex = head.appliedIndex;
    for (const name of head.vhosts) if (this.#topology.vhost(name) === undefined) this.#topology.addVhost(name);
    for (const node of head.nodes) {
      this.#nodes.put(node);
      this.#nodeSum = (this.#nodeSum + textHash(nodeText(node))) >>> 0;
    }
    this.#members.restore(head.members);
    for (const { group, appliedTo } of head.groups) this.#rowsOf(group).prune(appliedTo);
    this.#pipes.restore(Buffer.from(head.pipes, 'base64'));
  }

  /** Nobody reads entries of this group again: what they asked for is all in the state. */
  hasLiveEntries(_first: number, _last: number): boolean {
    return false;
  }

  liveEntries(_first: number, _last: number): Iterable<number> {
    return [];
  }

  countLive(_first: number, _last: number): number {
    return 0;
  }

  references(): References {
    return noReferences;
  }

  /** Every node routes by it. */
  concerns(_node: number): boolean {
    return true;
  }

  get due(): number {
    return this.#topology.hasDebt ? 0 : Number.POSITIVE_INFINITY;
  }

  stateHash(): number {
    let hash = foldHash(foldHash(0, this.#appliedIndex), this.#topology.lastUid);
    hash = foldHash(foldHash(hash, this.#version), this.#machineVersion);
    hash = foldHash(foldHash(foldHash(hash, this.#topology.sum), this.#nodeSum), this.#members.hash());
    // Added up, because the order in which volatile groups came is no part of the state.
    let rowsSum = 0;
    for (const [group, { appliedTo, sum }] of this.#rows)
      rowsSum = (rowsSum + foldHash(foldHash(group, appliedTo), sum)) >>> 0;
    return foldHash(foldHash(hash, rowsSum), this.#pipes.hash());
  }

  // The view.

  get topologyVersion(): number {
    return this.#topology.version;
  }

  get machineVersion(): number {
    return this.#machineVersion;
  }

  /** The highest version that every node knows, as each said when it opened its latest incarnation; 0: one has not opened yet. */
  get knownVersion(): number {
    let known = machineVersionMax;
    for (const { node, state } of this.#members.values())
      if (state !== 'gone') known = Math.min(known, this.#nodes.get(node)?.machineVersion ?? 0);
    return known;
  }

  vhostExists(vhost: string): boolean {
    return this.#topology.vhost(vhost) !== undefined;
  }

  queue(vhost: string, name: string): QueueRecord | undefined {
    return live(this.#topology.vhost(vhost)?.queues.get(name))?.record;
  }

  queueByUid(uid: number): QueueRecord | undefined {
    return this.#topology.queueByUid(uid)?.record;
  }

  effectiveArguments(uid: number): Arguments | undefined {
    return this.#topology.effectiveArguments(uid);
  }

  exchange(vhost: string, name: string): ExchangeRecord | undefined {
    return this.#topology.vhost(vhost)?.exchanges.get(name)?.record;
  }

  *vhosts(): Generator<string> {
    for (const vhost of this.#topology.vhosts()) yield vhost.name;
  }

  *queues(): Generator<QueueRecord> {
    for (const queue of this.#topology.queues()) if (live(queue) !== undefined) yield queue.record;
  }

  *exchanges(): Generator<ExchangeRecord> {
    for (const vhost of this.#topology.vhosts()) for (const exchange of vhost.exchanges.values()) yield exchange.record;
  }

  /** All bindings, by source; without those of the default exchange, which are implied. */
  *bindings(): Generator<BindingRecord> {
    for (const vhost of this.#topology.vhosts())
      for (const exchange of vhost.exchanges.values())
        for (const binding of exchange.outgoing.values()) if (isLive(binding)) yield bindingRecord(binding);
  }

  *bindingsFrom(vhost: string, exchange: string): Generator<BindingRecord> {
    const source = this.#topology.vhost(vhost)?.exchanges.get(exchange);
    for (const binding of source?.outgoing.values() ?? []) if (isLive(binding)) yield bindingRecord(binding);
  }

  *bindingsTo(vhost: string, kind: 'queue' | 'exchange', name: string): Generator<BindingRecord> {
    const found = this.#topology.vhost(vhost);
    const target = kind === 'queue' ? live(found?.queues.get(name)) : found?.exchanges.get(name);
    for (const binding of bindingsOf(target?.incoming)) yield bindingRecord(binding);
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

  isOpen(node: number, incarnation: number): boolean {
    return this.#nodes.isOpen(node, incarnation);
  }

  get replication(): number {
    return this.#members.replication;
  }

  get original(): OriginalFormat {
    return this.#options.initial;
  }

  get membersVersion(): number {
    return this.#members.version;
  }

  members(): Iterable<MemberRecord> {
    return this.#members.values();
  }

  member(node: number): MemberRecord | undefined {
    return this.#members.get(node);
  }

  placement(group: number): Placement | undefined {
    return this.#members.placement(group);
  }

  placements(): Iterable<readonly [group: number, placement: Placement]> {
    return this.#members.placements();
  }

  replicas(group: number): readonly number[] {
    return this.#members.replicas(group);
  }

  route(
    vhost: string,
    exchange: string,
    routingKey: string,
    headers: HeaderLookup,
    moreKeys: readonly string[] = [],
  ): Route | undefined {
    return this.#routes.route(vhost, exchange, routingKey, headers, moreKeys);
  }

  usesHeaders(vhost: string, exchange: string): boolean {
    return this.#routes.usesHeaders(vhost, exchange);
  }

  changes(group: number, after: number, upTo: number): ShardChange[] {
    return this.#rows.get(group)?.between(after, upTo) ?? [];
  }

  /** The version up to which a shard or volatile group has said that it applied its rows; 0 if it has none. */
  shardAppliedTo(group: number): number {
    return this.#rows.get(group)?.appliedTo ?? 0;
  }

  status(): {
    readonly queues: number;
    readonly bindings: number;
    readonly queuesPerShard: readonly number[];
    /** By group: the shards, and volatile groups that have or had queues. */
    readonly rowsPerGroup: ReadonlyMap<number, number>;
    readonly routeQueuesKept: number;
    readonly pipeGaps: number;
    readonly malformed: number;
  } {
    return {
      queues: this.#topology.queueCount,
      bindings: this.#topology.bindingCount,
      queuesPerShard: [...this.#topology.queuesPerShard],
      rowsPerGroup: new Map(Array.from(this.#rows, ([group, rows]) => [group, rows.length])),
      routeQueuesKept: this.#routes.queuesKept,
      pipeGaps: this.#pipes.gaps,
      malformed: this.#malformed,
    };
  }

  #tellFenced(): void {
    this.#watchers.tellFenced((pipe) => this.#pipes.isFenced(pipe));
  }
}

const outcomeOf = (outcome: MemberOutcome): Outcome =>
  outcome.refusal === null ? { code: ResultCode.ok, value: outcome.value } : refusedFor(outcome.refusal);

const nodeText = (record: NodeRecord): string =>
  `n${JSON.stringify([record.node, record.name, record.uuid, record.incarnation, record.fencedTo, record.machineVersion])}`;
