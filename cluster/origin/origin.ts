// This node as an origin of batches: its incarnation, its pipes, and what its sessions hear.
//
//   new → `open`: known to the metadata → serving → fenced (declared gone by the others) → next incarnation, `open` again
//
// State owned: the incarnation, the pipes, who waits to be open, the feed. The machines are only listened to.
//
// Invariants: all pipes are of the same incarnation; sessions end before the pipes begin anew, so that nobody goes on under an
// incarnation that he did not begin with; nobody who waits is forgotten when an incarnation ends.

import type { FeedConsumer } from '../feed/feed-wire.ts';
import type { Feeds } from '../feed/feeds.ts';
import type { Group } from '../group/group.ts';
import type { MetadataLease } from '../lease/metadata-lease.ts';
import { TimeHistogram } from '../log/time-histogram.ts';
import { ResultCode } from '../machine/commands.ts';
import { isVolatileGroup, metadataGroup, nodeOfVolatileGroup, volatileGroupOf } from '../machine/groups.ts';
import type { Machine, PipeSink } from '../machine/machine.ts';
import { memberRefusalText } from '../machine/metadata/refusals.ts';
import type { MetadataMachine } from '../machine/metadata.ts';
import type { MetadataCommand } from '../machine/metadata-types.ts';
import type { ShardMachine } from '../machine/shard.ts';
import { latestVersion, machineVersions } from '../machine/versions.ts';
import type { ClusterOptions, HostEvents } from '../options.ts';
import { addressInSettings } from '../peers/neighbours.ts';
import type { BatchReply } from '../peers/wire.ts';
import type { Clock } from '../ports.ts';
import { type CommandReply, nodeOrigin, Pipe } from './pipe.ts';

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
  /** This node's consumers of a group, for a feed that has to be opened anew. */
  consumersOf(shard: number): Iterable<FeedConsumer>;
  /** After a snapshot was installed, or another node began to tell: which consumers of this shard still exist, those under way not counted. */
  reconciled(shard: number, hasConsumer: (consumer: number) => boolean): void;
  /** All that was applied in this turn has been told. */
  turnEnded(): void;
  /** For some publishers it may be over that they had to wait (`Pipe.isCongestedFor`, `alarm`), or others have to be told of an alarm. */
  congestionChanged(): void;
  /** This node has a lease on the metadata again: it may route. */
  metadataFresh(): void;
  /** It has had none for longer than a publish may take; told again and again. */
  metadataOverdue(): void;
  /** This incarnation ended: its leases are gone, its batches are refused. Sessions have to end. */
  fenced(): void;
}

export interface OriginContext {
  readonly options: ClusterOptions;
  readonly clock: Clock;
  readonly metadata: MetadataMachine;
  /** The shards that have a replica here. */
  readonly shards: ReadonlyMap<number, ShardMachine>;
  readonly lease: Pick<MetadataLease, 'visibility' | 'whenVisible' | 'ended'>;
  readonly events: HostEvents;
  /** All groups that have a replica here. */
  readonly groups: ReadonlyMap<number, Group>;
  readonly feeds: Pick<Feeds, 'remote' | 'questions'>;
  /** Hands a batch to its group's leader; false: not now. */
  send(group: number, payload: Buffer, checksum: number): boolean;
  /** An incarnation has ended, and this one begins: its volatile group takes the place of the other's. */
  incarnationBegins(incarnation: number, ended: number): void;
  /** Others wait for what is asked for here. */
  isBusy(): boolean;
  /** Asks for `flush` at the end of this turn. */
  schedule(): void;
}

export class LocalOrigin {
  /** How long the batches of publishes took until they were confirmed, each from its first one on. */
  readonly confirmTimes = new TimeHistogram();
  readonly #context: OriginContext;
  /** Made when first asked for. */
  readonly #pipes = new Map<number, Pipe>();
  /** The machines here that are listened to, by group; of all other groups other nodes tell. */
  readonly #heard = new Map<number, Machine>();
  /** Stands for all groups that are gone: whoever asks something of one is told "unknown" at the end of the turn. */
  readonly #gone: Pipe;
  #goneAsked = false;
  readonly #dirty = new Set<Pipe>();
  #incarnation: number;
  #feed: Feed | null = null;
  /** This incarnation was fenced, and the next one is not there yet. */
  #ended = false;
  /** From the end of an incarnation until a later one is open. */
  #rejoining = false;
  #diskHangs = false;
  /** Takes the next incarnation, which is written to the disk first: to be called when that answers. */
  #nextIncarnation: (() => void) | null = null;
  /** Waiting for `open`, which is asked for again once the metadata answer: the fate of the last request is unknown. */
  #unopened: (() => void)[] = [];

  constructor(incarnation: number, context: OriginContext) {
    this.#incarnation = incarnation;
    this.#context = context;
    this.#gone = this.#createGonePipe();
    this.watch();
  }

  get incarnation(): number {
    return this.#incarnation;
  }
  /** Between two incarnations. */
  get isRejoining(): boolean {
    return this.#rejoining;
  }
  /** Batches wait for `flush`. */
  get isDirty(): boolean {
    return this.#dirty.size > 0 || this.#goneAsked;
  }
  get sessions(): Feed | null {
    return this.#feed;
  }
  /** What was asked for here and is not applied yet, and for how long the oldest of it has waited. */
  get unapplied(): { readonly bytes: number; readonly milliseconds: number } {
    let [bytes, milliseconds] = [0, 0];
    for (const pipe of this.#pipes.values()) {
      bytes += pipe.unappliedBytes;
      milliseconds = Math.max(milliseconds, pipe.unappliedMilliseconds);
    }
    return { bytes, milliseconds };
  }

  /** The pipe to a group, which need not have a replica here. */
  pipe(group: number): Pipe {
    return this.#pipes.get(group) ?? this.#newPipe(group);
  }

  #newPipe(group: number): Pipe {
    if (this.#isGone(group)) return this.#gone;
    const pipe = this.#createPipe(group);
    this.#pipes.set(group, pipe);
    this.#listen(group);
    return pipe;
  }

  setFeed(feed: Feed): void {
    this.#feed = feed;
  }

  /** Listens to the machines here, also after their state was replaced, under this incarnation. */
  watch(): void {
    this.#heard.clear();
    for (const group of this.#context.groups.keys()) this.#listen(group);
  }

  // ---- incarnations ----

  /** Makes this incarnation known. `done` once it, or the one that followed it, may serve sessions. */
  open(done: () => void): void {
    const { options, events } = this.#context;
    const { node, nodeName: name, nodeUuid: uuid, contact } = options;
    const address = addressInSettings(options);
    const incarnation = this.#incarnation;
    // Nobody routes by it, so it need not be visible.
    const command: MetadataCommand = {
      kind: 'openNode',
      node,
      name,
      uuid,
      incarnation,
      contact,
      machineVersion: latestVersion(options.machineVersions ?? machineVersions),
      ...(address === undefined ? {} : { address }),
    };
    this.pipe(metadataGroup).metadata(JSON.stringify(command), (result) => {
      const isOver = this.#ended || this.#incarnation !== incarnation;
      if (result === null || isOver) this.#unopened.push(done);
      else if (result.code === ResultCode.ok) done();
      else events.fatal(new Error(`node ${node} (${name}): ${memberRefusalText(result.value)}`));
    });
  }

  /** One metadata change, answered when no node routes without it any more. */
  change(command: MetadataCommand, reply: CommandReply): void {
    const { metadata, lease } = this.#context;
    this.pipe(metadataGroup).metadata(JSON.stringify(command), (result) => {
      if (result === null) return reply(null);
      const answer = (isVisible: boolean) => reply(isVisible ? result : null);
      // Its entry is being applied, or a snapshot that contains it was. A refusal tells of what others have changed.
      if (result.code === ResultCode.ok) lease.visibility.when(metadata.appliedIndex, answer);
      else lease.whenVisible(answer);
    });
  }

  metadataFresh(): void {
    this.#feed?.metadataFresh();
  }
  metadataOverdue(): void {
    this.#feed?.metadataOverdue();
  }

  fenced(): void {
    this.#end('this node was declared gone, its sessions end');
  }

  /** A replica here stopped that sessions cannot do without: the metadata, by which they route, or the volatile group, which lives only here. */
  replicaHalted(group: number): void {
    // Also while this incarnation is ending: nobody may route by what is about to be emptied.
    if (group === metadataGroup) this.#context.lease.ended();
    if (group === metadataGroup) this.#end('metadata stopped here, the sessions of this node end');
    if (group === volatileGroupOf(this.#id())) this.#end('the volatile group stopped, the sessions of this node end');
  }

  /**
   * The disk has not answered for so long that clients are better off elsewhere: sessions end, and the next incarnation waits until it
   * answers again.
   */
  diskHangs(): void {
    this.#diskHangs = true;
    this.#end('disk does not answer, the sessions of this node end');
  }

  diskAnswers(): void {
    this.#diskHangs = false;
    const next = this.#nextIncarnation;
    this.#nextIncarnation = null;
    next?.();
  }

  /** Once for an incarnation: sessions end, and this node goes on under the next one. */
  #end(event: string): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#rejoining = true;
    const { options, clock, events, lease } = this.#context;
    lease.ended();
    events.log('error', event, { incarnation: this.#incarnation });
    clock.soon(() => {
      this.#feed?.fenced();
      const next = () => {
        options.nextIncarnation().then(
          (incarnation) => this.#rejoin(incarnation),
          (error: Error) => events.fatal(error),
        );
      };
      if (this.#diskHangs) this.#nextIncarnation = next;
      else next();
    });
  }

  #rejoin(incarnation: number): void {
    const ended = this.#incarnation;
    this.#incarnation = incarnation;
    this.#ended = false;
    this.#context.incarnationBegins(incarnation, ended);
    this.metadataApplied();
    for (const pipe of this.#pipes.values()) pipe.restart(nodeOrigin(this.#context.options.node, incarnation));
    this.watch();
    this.#context.feeds.remote.restart();
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
    if (!this.#goneAsked) return;
    this.#goneAsked = false;
    this.#gone.end();
  }

  /** Lanes take frames again. */
  sendAgain(): void {
    for (const pipe of this.#pipes.values()) this.#dirty.add(pipe);
    this.#context.schedule();
  }

  /** A group's leader is known now, or reached another way: what was not applied goes there. False: there is no pipe to that group. */
  leaderLearned(group: number): boolean {
    const pipe = this.#pipes.get(group);
    pipe?.leaderChanged();
    return pipe !== undefined;
  }

  /** A leader did not append a batch of ours. */
  answered(reply: BatchReply): void {
    if (reply.answer !== 'fenced') this.#pipes.get(reply.group)?.answered(reply);
    else if (reply.incarnation === this.#incarnation) this.fenced();
  }

  tick(): void {
    for (const [group, pipe] of this.#pipes) {
      this.#listen(group);
      pipe.tick();
    }
    if (this.#unopened.length === 0 || this.#ended || this.pipe(metadataGroup).isStalled) return;
    const waiting = this.#unopened;
    this.#unopened = [];
    for (const done of waiting) this.open(done);
  }

  turnEnded(): void {
    this.#feed?.turnEnded();
  }

  #createPipe(group: number): Pipe {
    const { options, clock, metadata, events, send, isBusy, schedule } = this.#context;
    const pipe: Pipe = new Pipe(group, nodeOrigin(options.node, this.#incarnation), options.limits.pipe, {
      now: () => clock.now(),
      metadataVersion: () => metadata.appliedIndex,
      send,
      confirming: (milliseconds) => this.confirmTimes.add(milliseconds),
      congestion: () => this.#feed?.congestionChanged(),
      refused: (refusing, sequence) => {
        events.log('error', 'a batch was refused as malformed', { group: refusing, sequence });
        this.fenced();
      },
      dirty: () => {
        this.#dirty.add(pipe);
        schedule();
      },
      isBusy,
      after: (milliseconds, task) => clock.after(milliseconds, task),
    });
    return pipe;
  }

  #createGonePipe(): Pipe {
    const { options, clock, schedule } = this.#context;
    const limits = { ...options.limits.pipe, settleDelayMilliseconds: 0 };
    return new Pipe(goneGroup, nodeOrigin(options.node, 0), limits, {
      now: () => clock.now(),
      metadataVersion: () => 0,
      send: () => false,
      confirming: () => {},
      congestion: () => this.#feed?.congestionChanged(),
      refused: () => {},
      dirty: () => {
        this.#goneAsked = true;
        schedule();
      },
      isBusy: () => false,
      after: () => {},
    });
  }

  // ---- what the machines say ----

  /** A replica here has changed: its state was replaced, or it stopped, or it can be read (again). */
  replicaChanged(group: Group): void {
    const isHeard = group.isReadable && this.#heard.get(group.id) === group.machine;
    if (isHeard) this.#reconcile(group.id, group.machine);
    else this.#listen(group.id);
  }

  /** Sees to it that the replica here tells of a group, if it can be read and has come as far as was seen; else another node's. */
  #listen(group: number): void {
    const { groups, feeds } = this.#context;
    const { remote } = feeds;
    const replica = groups.get(group);
    const machine = replica?.isReadable === true ? replica.machine : undefined;
    const heard = this.#heard.get(group);
    if (machine === heard && (heard !== undefined || remote.has(group))) return;
    const id = this.#id();
    if (heard !== undefined) {
      this.#heard.delete(group);
      heard.watch(id, null);
    }
    const seen = Math.max(remote.seen(group), heard?.appliedIndex ?? 0);
    if (machine === undefined || machine.appliedIndex < seen) return remote.want(group, seen);
    remote.leave(group);
    this.#heard.set(group, machine);
    machine.watch(id, this.#sink(group));
    this.#reconcile(group, machine);
  }

  /** What sessions would have heard is read from the state. */
  #reconcile(group: number, machine: Machine): void {
    const id = this.#id();
    if (machine.isFenced(id)) return this.fenced();
    machine.resume(id, (consumer) => this.#feed?.nextLease(group, consumer) ?? 0);
    this.pipe(group).applied(machine.lastSequence(id));
    const shard = this.#context.shards.get(group);
    if (shard !== undefined) this.#feed?.reconciled(group, (consumer) => shard.hasConsumer(id, consumer));
  }

  // ---- volatile groups

  /** The metadata have come further: the volatile groups of incarnations that ended are gone. */
  metadataApplied(): void {
    for (const group of this.#pipes.keys()) if (this.#isGone(group)) this.#endGroup(group);
  }

  #isGone(group: number): boolean {
    if (!isVolatileGroup(group)) return false;
    const node = nodeOfVolatileGroup(group);
    if (node === this.#context.options.node) return group !== volatileGroupOf(this.#id());
    const { metadata } = this.#context;
    const incarnation = metadata.node(node)?.incarnation ?? 0;
    return group !== volatileGroupOf({ node, incarnation }) || !metadata.isOpen(node, incarnation);
  }

  /** Everybody who waits is told "unknown", and its consumers are gone. */
  #endGroup(group: number): void {
    const { feeds, schedule } = this.#context;
    const pipe = this.#pipes.get(group)!;
    this.#pipes.delete(group);
    this.#dirty.delete(pipe);
    this.#heard.delete(group);
    feeds.remote.leave(group);
    pipe.end();
    feeds.questions.groupEnded(group);
    this.#feed?.reconciled(group, () => false);
    schedule();
  }

  #id() {
    return { node: this.#context.options.node, incarnation: this.#incarnation };
  }

  #sink(group: number): PipeSink {
    const pipe = this.pipe(group);
    return {
      batchApplied: (sequence) => pipe.applied(sequence),
      result: (sequence, ordinal, code, value, extra) => pipe.result(sequence, ordinal, code, value, extra),
      lease: (consumer, leaseOrdinal, entryIndex, ordinal, redelivered, count) =>
        this.#feed?.lease(group, consumer, leaseOrdinal, entryIndex, ordinal, redelivered, count),
      consumerCancelled: (consumer) => this.#feed?.consumerCancelled(group, consumer),
      fenced: () => this.fenced(),
    };
  }
}

/** No group has this number. */
const goneGroup = 0xffff_ffff;
