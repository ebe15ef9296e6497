// This node as an origin of batches: its incarnation, its pipes, and what its sessions hear.
//
//   new → `open`: known to the metadata → serving → fenced (declared gone by the others) → next incarnation, `open` again
//
// State owned: the incarnation, the pipes, who waits to be open, the feed. The machines are only listened to.
//
// Invariants: all pipes are of the same incarnation; sessions end before the pipes begin anew, so that nobody goes on under an
// incarnation that he did not begin with; nobody who waits is forgotten when an incarnation ends.

import { type Group, metadataGroup } from './group.ts';
import { ResultCode } from './machine/commands.ts';
import type { Machine, PipeSink } from './machine/machine.ts';
import type { MetadataMachine } from './machine/metadata.ts';
import type { MetadataCommand } from './machine/metadata-types.ts';
import type { ShardMachine } from './machine/shard.ts';
import type { ClusterOptions, HostEvents } from './options.ts';
import { type CommandReply, nodeOrigin, Pipe } from './pipe.ts';
import type { Clock } from './ports.ts';
import type { Visibility } from './visibility.ts';
import type { BatchReply } from './wire.ts';

/** What a node's sessions hear. Everything can be read again from the machines (`resume`). */
export interface Feed {
  lease(
    shard: number,
    consumer: number,
    leaseOrdinal: number,
    entryIndex: number,
    ordinal: number,
    redelivered: boolean,
    deliveryCount: number,
  ): void;
  consumerCancelled(shard: number, consumer: number): void;
  /** The lowest lease ordinal of a consumer that the feed has not heard of. */
  nextLease(shard: number, consumer: number): number;
  /** After a snapshot was installed: which consumers of this shard still exist, those under way not counted. */
  reconciled(shard: number, hasConsumer: (consumer: number) => boolean): void;
  /** All that was applied in this turn has been told. */
  turnEnded(): void;
  /** Publishers must pause, or may go on. */
  congestion(congested: boolean): void;
  /** This incarnation ended: its leases are gone, its batches are refused. Sessions have to end. */
  fenced(): void;
}

export interface OriginContext {
  readonly options: ClusterOptions;
  readonly clock: Clock;
  readonly metadata: MetadataMachine;
  readonly shards: readonly ShardMachine[];
  readonly visibility: Visibility;
  readonly events: HostEvents;
  /** Hands a batch to its group's leader; false: not now. */
  send(group: number, payload: Buffer, checksum: number): boolean;
  /** Asks for `flush` at the end of this turn. */
  schedule(): void;
}

export class LocalOrigin {
  /** One per group, by its number. */
  readonly pipes: readonly Pipe[];
  readonly #context: OriginContext;
  readonly #machines: readonly Machine[];
  readonly #dirty = new Set<Pipe>();
  #incarnation: number;
  #feed: Feed | null = null;
  #congestedPipes = 0;
  /** This incarnation was fenced, and the next one is not there yet. */
  #ended = false;
  /** From the end of an incarnation until a later one is open. */
  #rejoining = false;
  /** Waiting for `open`, which is asked for again once the metadata answer: the fate of the last request is unknown. */
  #unopened: (() => void)[] = [];

  constructor(incarnation: number, context: OriginContext) {
    this.#incarnation = incarnation;
    this.#context = context;
    this.#machines = [context.metadata, ...context.shards];
    this.pipes = this.#machines.map((_, group) => this.#createPipe(group));
    this.watch();
  }

  get incarnation(): number {
    return this.#incarnation;
  }
  /** Between two incarnations. */
  get isRejoining(): boolean {
    return this.#rejoining;
  }
  get isCongested(): boolean {
    return this.#congestedPipes > 0;
  }
  /** Batches wait for `flush`. */
  get isDirty(): boolean {
    return this.#dirty.size > 0;
  }

  setFeed(feed: Feed): void {
    this.#feed = feed;
  }

  /** Listens to the machines, also after their state was replaced. */
  watch(): void {
    const id = this.#id();
    for (const [group, machine] of this.#machines.entries()) machine.watch(id, this.#sink(group));
  }

  // ---- incarnations ----

  /** Makes this incarnation known. `done` once it, or the one that followed it, may serve sessions. */
  open(done: () => void): void {
    const { options, events } = this.#context;
    const { node, nodeName: name, nodeUuid: uuid, contact } = options;
    const incarnation = this.#incarnation;
    this.change({ kind: 'openNode', node, name, uuid, incarnation, contact }, (result) => {
      const isOver = this.#ended || this.#incarnation !== incarnation;
      if (result === null || isOver) this.#unopened.push(done);
      else if (result.code === ResultCode.ok) done();
      else
        events.fatal(
          new Error(`node ${node} (${name}) is known to the cluster with another data folder, or has a newer process`),
        );
    });
  }

  /** One metadata change, answered when every connected node has applied it. */
  change(command: MetadataCommand, reply: CommandReply): void {
    const { metadata, visibility } = this.#context;
    this.pipes[metadataGroup]!.metadata(JSON.stringify(command), (result) => {
      if (result === null || result.code !== ResultCode.ok) return reply(result);
      // Its entry is being applied, or a snapshot that contains it was.
      visibility.when(metadata.appliedIndex, () => reply(result));
    });
  }

  /** Once for an incarnation: sessions end, and this node goes on under the next one. */
  #fenced(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#rejoining = true;
    const { options, clock, events } = this.#context;
    events.log('error', 'this node was declared gone, its sessions end', { incarnation: this.#incarnation });
    clock.soon(() => {
      this.#feed?.fenced();
      options.nextIncarnation().then(
        (incarnation) => this.#rejoin(incarnation),
        (error: Error) => events.fatal(error),
      );
    });
  }

  #rejoin(incarnation: number): void {
    this.#incarnation = incarnation;
    this.#ended = false;
    for (const pipe of this.pipes) pipe.restart(nodeOrigin(this.#context.options.node, incarnation));
    this.watch();
    this.open(() => {
      this.#rejoining = false;
    });
  }

  // ---- pipes ----

  /** Seals and sends what was gathered. */
  flush(): void {
    const pipes = [...this.#dirty];
    this.#dirty.clear();
    for (const pipe of pipes) pipe.flush();
  }

  /** Lanes take frames again. */
  sendAgain(): void {
    for (const pipe of this.pipes) this.#dirty.add(pipe);
    this.#context.schedule();
  }

  /** A leader did not append a batch of ours. */
  answered(reply: BatchReply): void {
    if (reply.answer !== 'fenced') this.pipes[reply.group]?.answered(reply);
    else if (reply.incarnation === this.#incarnation) this.#fenced();
  }

  tick(): void {
    for (const pipe of this.pipes) pipe.tick();
    if (this.#unopened.length === 0 || this.#ended || this.pipes[metadataGroup]!.isStalled) return;
    const waiting = this.#unopened;
    this.#unopened = [];
    for (const done of waiting) this.open(done);
  }

  turnEnded(): void {
    this.#feed?.turnEnded();
  }

  #createPipe(group: number): Pipe {
    const { options, clock, metadata, send, schedule } = this.#context;
    const pipe: Pipe = new Pipe(group, nodeOrigin(options.node, this.#incarnation), options.limits.pipe, {
      now: () => clock.now(),
      metadataVersion: () => metadata.appliedIndex,
      send,
      congestion: () => this.#congestionChanged(),
      dirty: () => {
        this.#dirty.add(pipe);
        schedule();
      },
    });
    return pipe;
  }

  #congestionChanged(): void {
    const before = this.#congestedPipes;
    this.#congestedPipes = this.pipes.filter((pipe) => pipe.isCongested).length;
    if (before > 0 !== this.#congestedPipes > 0) this.#feed?.congestion(this.#congestedPipes > 0);
  }

  // ---- what the machines say ----

  /** A snapshot skipped entries: what sessions would have heard is read from the state. */
  reconcile(group: Group): void {
    const id = this.#id();
    const { machine } = group;
    if (machine.isFenced(id)) return this.#fenced();
    machine.resume((consumer) => this.#feed?.nextLease(group.id, consumer) ?? 0);
    this.pipes[group.id]!.applied(machine.lastSequence(id));
    const shard = this.#context.shards[group.id - 1];
    if (shard !== undefined) this.#feed?.reconciled(group.id, (consumer) => shard.hasConsumer(id, consumer));
  }

  #id() {
    return { node: this.#context.options.node, incarnation: this.#incarnation };
  }

  #sink(group: number): PipeSink {
    const pipe = this.pipes[group]!;
    return {
      batchApplied: (sequence) => pipe.applied(sequence),
      result: (sequence, ordinal, code, value, extra) => pipe.result(sequence, ordinal, code, value, extra),
      lease: (consumer, leaseOrdinal, entryIndex, ordinal, redelivered, count) =>
        this.#feed?.lease(group, consumer, leaseOrdinal, entryIndex, ordinal, redelivered, count),
      consumerCancelled: (consumer) => this.#feed?.consumerCancelled(group, consumer),
      fenced: () => this.#fenced(),
    };
  }
}
