// The origin's end of a pipe: the ordered stream of batches from this node's incarnation to one group.
//
//   open batches of two lanes → sealed (sequence given, bytes final) → sent to the leader → applied by the node's own replica → forgotten
//
// Publishes gather in the last open batch, settlements in the first: at most a few batches are under way, and what frees consumers and
// queues is in the next one to leave, however many publishes wait.
//
// A body over `partBytesMax` goes ahead of its publish in parts, a batch each, so that no entry is large: in a lane of its own, which takes turns
// with the other one, so that nobody waits for a message of somebody else that takes seconds. Whoever sent it stays in that lane, behind it, until
// it has left: all that one source asks for is done in order.
//
// Settlements that nobody waits for start no batch: a write of their own would hold up whatever comes next. They leave with what comes, or after
// `settleDelayMilliseconds`.
//
// State owned: the open batches, and every sealed batch until it was applied here. Whatever becomes of leaders and connections, a sealed
// batch keeps its bytes and its place, and is sent again until it was applied or this incarnation was fenced. So a failover neither
// loses, nor repeats, nor reorders what was published.
//
// Invariants: sequences of `sent` are consecutive; a confirm or reply is given once; `true` only after the batch was applied; what a source asked
// for gets its sequences in the order of asking, settlements and credits aside.

import { crc32 } from 'node:zlib';
import type { MessageView } from '../machine/commands.ts';
import {
  BatchBuilder,
  batchHeaderBytes,
  bytesOf,
  type ConsumeCommand,
  commandsPerBatchMax,
  type Origin,
  OriginKind,
  PartFlag,
  PublishFlag,
  partBytesMax,
  ResultCode,
  type SettleOperation,
  settleRecordBytes,
  settlesPerBatchMax,
  type TransferRow,
  viewMessage,
} from '../machine/commands.ts';
import type { BatchReply } from '../peers/wire.ts';

export interface PipeOptions {
  /** An open batch takes no further publish beyond this. */
  readonly batchBytesMax: number;
  /** Sealed batches under way at once; what comes meanwhile gathers. Few: settlements wait for those under way, and larger batches cost less. */
  readonly batchesInFlightMax: number;
  /** Bytes sealed or open and not applied, beyond which publishers are paused; likewise open ones behind large bodies, for who put them there. */
  readonly windowBytes: number;
  /** After this long without being applied, publishes are nacked ("unknown") and new ones refused until the group works again. */
  readonly deadlineMilliseconds: number;
  /** A batch that is not applied after this long is sent again. */
  readonly resendMilliseconds: number;
  /** Settlements that can wait leave by themselves after this long; 0: they never wait. */
  readonly settleDelayMilliseconds: number;
  /** While others are busy, what leaves the lane of large bodies is followed by a rest of that lane as long as it took, at most so long; 0: none. */
  readonly partRestMillisecondsMax: number;
}

/** Hears what became of publishes. */
export interface ConfirmTarget {
  /** Publishes [first, last]: `ok` = on a majority's disks. Not ok: refused, or unknown. */
  confirmed(first: number, last: number, ok: boolean): void;
  /** No queue was left to take the message when it was applied. Its `confirmed` (ok) follows. */
  unroutable(tag: number, message: MessageView): void;
}

/** Answer to a command: its result, or null when its fate is unknown (deadline, or this incarnation ended). */
export type CommandReply = (result: { code: ResultCode; value: number; extra: number } | null) => void;

export interface PipeHost {
  now(): number;
  /** Asks for `flush` at the end of this turn. */
  dirty(): void;
  /** Others wait for what this pipe asks for. */
  isBusy(): boolean;
  after(milliseconds: number, task: () => void): void;
  /** The metadata version that routing is done by. */
  metadataVersion(): number;
  /** Hands the batch to the group's leader: true if it left (or is here). */
  send(group: number, payload: Buffer, checksum: number): boolean;
  /** The publishes of a batch are about to be confirmed, so long after its first one came. */
  confirming(milliseconds: number): void;
  /** It is congested, or is so no more, for somebody. */
  congestion(): void;
  /** The group's leader finds a batch malformed, which is a bug here: this incarnation cannot go on. */
  refused(group: number, sequence: number): void;
}

/** Whoever asks for something, such as a connection. */
export type Source = object;

/** Publishes of one target with consecutive tags and ordinals. */
interface Run {
  readonly target: ConfirmTarget;
  readonly first: number;
  readonly ordinal: number;
  count: number;
}

/** A mandatory message that went in parts: the earlier pieces of its body, should it have to be returned. */
interface Large {
  readonly ordinal: number;
  readonly before: readonly Buffer[];
}

interface SentBatch {
  readonly sequence: number;
  readonly isLarge: boolean;
  readonly payload: Buffer;
  readonly checksum: number;
  readonly sealedAt: number;
  readonly publishedAt: number;
  runs: Run[];
  replies: { readonly ordinal: number; readonly reply: CommandReply }[];
  readonly large: readonly Large[];
  /** In the order of their ordinals. */
  results: { readonly ordinal: number; readonly code: ResultCode; readonly value: number; readonly extra: number }[];
}

/** More than any command of a batch has. */
const noOrdinal = 0xffff_ffff;
/** What has to stay together may be so many times as large as other batches: an entry has room for it. */
const atomicBatches = 3;
/** Places in a full open batch for the credits that may still join it. */
const creditsReserved = 4096;

/** Gathering: no sequence yet. */
interface OpenBatch {
  readonly builder: BatchBuilder;
  runs: Run[];
  /** When the first of `runs` came. */
  publishedAt: number;
  replies: SentBatch['replies'];
  large: Large[];
  /** A part of a large body: put into the builder when the batch is sealed, so that a turn copies no more than a few of them. */
  part: { readonly flags: number; readonly pieces: readonly Buffer[]; readonly bytes: number } | null;
  /** In the lane of large bodies: sealed only once so many batches of the other lane were. */
  after: number;
  /** In the lane of large bodies: who has asked for something in it. Null: nobody. */
  sources: Set<Source> | null;
}
const openBatch = (builder: BatchBuilder): OpenBatch => ({
  builder,
  runs: [],
  publishedAt: 0,
  replies: [],
  large: noLarge,
  part: null,
  after: 0,
  sources: null,
});
/** A batch that holds a part begins with little room: there may be hundreds. */
const partBuilderBytes = 512;
/** What a part adds to its batch beside its bytes: its head, and its place in the ordinal table. */
const partOverheadBytes = 12;
/** Shared, and never added to: hardly any batch has large messages. */
const noLarge: Large[] = [];
/** A batch is sealed with fewer settlements than it may have, because applying them takes time. */
const settlesPerBatch = settlesPerBatchMax / 2;
/** More settlements than that have waited long enough: applying them is work that should not heap up. */
const settlesWaitingMax = 256;
/** Before a batch that a leader could not take is sent again; sooner if something was applied, or another leads. */
const refusedMilliseconds = 20;

/** Open batches in their order. */
class Lane {
  /** Never empty. The first is sealed next; the last takes what comes. */
  readonly open: OpenBatch[] = [openBatch(new BatchBuilder())];
  last = this.open[0]!;
  bytes = 0;
  /** How many batches have left it. */
  sealed = 0;

  /** Nothing came since the batch before the last was full. */
  get endsEmpty(): boolean {
    return this.last.builder.isEmpty && this.last.part === null;
  }
  /** Sealed and open; an open one without content does not count. */
  get batches(): number {
    return this.sealed + this.open.length - (this.endsEmpty ? 1 : 0);
  }
}

export class Pipe {
  readonly group: number;
  readonly #options: PipeOptions;
  readonly #host: PipeHost;
  #origin: Origin;
  /** The first batch takes settlements; the last takes everything else. */
  #lane = new Lane();
  /** Large bodies, and what their sources have asked for since. */
  #largeLane = new Lane();
  /** Who has something in the lane of large bodies: in which of its batches last, counted from its first ever. */
  readonly #largeSources = new Map<Source, number>();
  /** The lane whose turn it is, should both have something. */
  #isLargeNext = false;
  /** Sealed batches from the lane of large bodies that were not applied. */
  #largeSent = 0;
  /** Nothing leaves the lane of large bodies for a while. */
  #isResting = false;
  #spare: BatchBuilder | null = null;
  /** Sealed and not applied, by sequence. `#sent[0]` has `#firstSequence`. */
  #sent: SentBatch[] = [];
  #sentBytes = 0;
  #nextSequence = 1;
  /** Batches before this sequence were handed to a leader; later ones wait for one. */
  #handedTo = 1;
  #rewoundTo = 0;
  #rewoundUntil = 0;
  #congested = false;
  #largeCongested = false;
  #resendAt = 0;
  /** The leader has no room: until then nothing is sent, or what is answered would go to and fro without end. */
  #fullUntil = 0;
  /** Set while the group does not apply within the deadline. */
  #stalled = false;
  /** Something in the open batches cannot wait. */
  #isUrgent = false;
  /** `#hurry` will be called. */
  #isDelayed = false;
  /** Everything goes into the last open batch of this lane. */
  #atomic: Lane | null = null;

  constructor(group: number, origin: Origin, options: PipeOptions, host: PipeHost) {
    this.group = group;
    this.#origin = origin;
    this.#options = options;
    this.#host = host;
  }

  /** Whether `source` had better wait; left out: this node itself. */
  isCongestedFor(source: Source = this): boolean {
    return this.#congested || (this.#largeCongested && this.#largeSources.has(source));
  }
  /** The group has not applied anything of ours within the deadline; publishes are nacked at once. */
  get isStalled(): boolean {
    return this.#stalled;
  }
  /** The batch that settlements enter now: each has a higher number than the one before. */
  get openNumber(): number {
    return this.#lane.sealed;
  }
  get unappliedBytes(): number {
    return this.#sentBytes + this.#lane.bytes + this.#largeLane.bytes;
  }
  /** For how long the oldest sealed batch has waited to be applied; 0: none waits. */
  get unappliedMilliseconds(): number {
    const oldest = this.#sent[0];
    return oldest === undefined ? 0 : this.#host.now() - oldest.sealedAt;
  }

  /** The body is copied, but for one over `partBytesMax`: its pieces must never change. */
  publish(
    source: Source,
    queues: readonly number[],
    flags: number,
    priority: number,
    expiration: number,
    key: Buffer,
    properties: Buffer,
    body: readonly Buffer[],
    bodyBytes: number,
    target: ConfirmTarget | null,
    tag: number,
  ): void {
    let last = body;
    let lastBytes = bodyBytes;
    let parts: Buffer[][] | null = null;
    const lane = this.#laneOf(source, bodyBytes > partBytesMax);
    if (bodyBytes > partBytesMax) {
      // All but the last go ahead, each in a batch of its own.
      parts = splitBody(body, bodyBytes);
      last = parts.pop()!;
      lastBytes = bytesOf(last);
      this.#addParts(parts);
    }
    const open = this.#tail(lane);
    const { builder } = open;
    const before = builder.bytes;
    const allFlags = parts === null ? flags : flags | PublishFlag.parts;
    const ordinal = builder.addPublish(queues, allFlags, priority, expiration, key, properties, last, lastBytes);
    lane.bytes += builder.bytes - before;
    if (lane === this.#largeLane) this.#entered(source);
    if (target !== null) {
      if (open.runs.length === 0) open.publishedAt = this.#host.now();
      addToRuns(open.runs, target, tag, ordinal);
      if (parts !== null && (flags & PublishFlag.mandatory) !== 0)
        open.large = [...open.large, { ordinal, before: parts.flat() }];
    }
    this.#added();
  }

  /**
   * What is asked for by `add` enters one batch, settlements too, and is applied as one: up to `commandsPerBatchMax`, `settlesPerBatchMax` and
   * three times `batchBytesMax`. Beyond that, and around a body over `partBytesMax`, it takes several batches, in order. `done`: all of it was
   * applied, or its fate is unknown (null).
   */
  atomically(source: Source, add: () => void, done: CommandReply): void {
    const lane = this.#laneOf(source);
    if (!lane.endsEmpty) this.#extend(lane);
    this.#atomic = lane;
    add();
    this.#atomic = null;
    // A large body has taken what follows it to its lane.
    const end = this.#laneOf(source);
    if (end === this.#largeLane) this.#entered(source);
    // It has no ordinal, so there is no result: it is answered when its batch is applied.
    end.last.replies.push({ ordinal: noOrdinal, reply: done });
    this.#added();
  }

  /** `done` when all that `source` has asked for so far, and all settlements, have been applied, at once if nothing waits; null: unknown. */
  whenApplied(source: Source, done: CommandReply): void {
    if (this.#laneOf(source) === this.#largeLane) {
      // Its batch is behind everything that is open now.
      const { last } = this.#largeLane;
      last.after = this.#lane.batches;
      last.replies.push({ ordinal: noOrdinal, reply: done });
      return this.#added();
    }
    const open = this.#lane.open.findLast(({ builder }) => !builder.isEmpty);
    const last = open ?? this.#sent.at(-1);
    if (last === undefined) return done(plainOk);
    last.replies.push({ ordinal: noOrdinal, reply: done });
    // What could wait does so no more.
    if (open !== undefined) this.#added();
  }

  /** Where something that `source` asks for has its place. */
  #laneOf(source: Source, isLarge = false): Lane {
    const isBehind = isLarge || (this.#largeSources.size > 0 && this.#largeSources.has(source));
    return isBehind ? this.#largeLane : this.#lane;
  }

  /** The last batch of the lane of large bodies has something of `source`: nothing that it asked for before may be sealed later. */
  #entered(source: Source): void {
    const lane = this.#largeLane;
    if (!this.#largeSources.has(source)) lane.last.after = this.#lane.batches;
    lane.last.sources ??= new Set();
    lane.last.sources.add(source);
    this.#largeSources.set(source, lane.sealed + lane.open.length - 1);
  }

  #addParts(parts: readonly (readonly Buffer[])[]): void {
    const lane = this.#largeLane;
    for (let i = 0; i < parts.length; i++) {
      const pieces = parts[i]!;
      const bytes = bytesOf(pieces);
      if (!lane.endsEmpty) this.#extend(lane, new BatchBuilder(partBuilderBytes));
      lane.last.part = { flags: i === 0 ? PartFlag.first : 0, pieces, bytes };
      lane.bytes += bytes + partOverheadBytes;
    }
  }

  consume(source: Source, command: ConsumeCommand, reply: CommandReply): void {
    this.#command(this.#laneOf(source), source, (builder) => builder.addConsume(command), reply);
  }
  /** `source`: whose consumer it is. */
  cancel(source: Source, consumer: number, flags: number, reply: CommandReply | null): void {
    this.#command(this.#laneOf(source), source, (builder) => builder.addCancel(consumer, flags), reply);
  }
  get(source: Source, consumer: number, queue: number, flags: number, reply: CommandReply): void {
    this.#command(this.#laneOf(source), source, (builder) => builder.addGet(consumer, queue, flags), reply);
  }
  purge(source: Source, queue: number, reply: CommandReply): void {
    this.#command(this.#laneOf(source), source, (builder) => builder.addPurge(queue), reply);
  }
  remove(source: Source, queue: number, flags: number, reply: CommandReply): void {
    this.#command(this.#laneOf(source), source, (builder) => builder.addRemove(queue, flags), reply);
  }
  /** A row of another group's outbox, see `addTransfer`. All of them stay in order. */
  transfer(row: TransferRow, reply: CommandReply): void {
    const parts = splitBody(row.body, bytesOf(row.body));
    const body = parts.pop()!;
    const lane = this.#laneOf(this, parts.length > 0);
    this.#addParts(parts);
    const flags = parts.length > 0 ? row.flags | PublishFlag.parts : row.flags;
    this.#command(lane, this, (builder) => builder.addTransfer({ ...row, flags, body }), reply);
  }
  metadata(json: string, reply: CommandReply | null): void {
    this.#command(this.#laneOf(this), this, (builder) => builder.addMetadata(json), reply);
  }
  /** Like a settlement it does not wait behind publishes: its consumer is known to the machine, or it would not have delivered. */
  credit(consumer: number, unsettledMax: number, grantedTo: number): void {
    const builder = this.#crediting();
    const before = builder.bytes;
    builder.addCredit(consumer, unsettledMax, grantedTo);
    this.#lane.bytes += builder.bytes - before;
    this.#added();
  }
  /** `canWait`: nobody gets anything by it that is wanted soon. */
  settle(
    operation: SettleOperation,
    flags: number,
    consumer: number,
    first: number,
    count: number,
    canWait = false,
  ): void {
    const lane = this.#atomic ?? this.#lane;
    for (let done = 0; done < count; ) {
      const builder = this.#settling(lane);
      const now = Math.min(count - done, settlesPerBatch - builder.settles);
      builder.addSettle(operation, flags, consumer, first + done, now);
      lane.bytes += settleRecordBytes;
      done += now;
    }
    const { settleDelayMilliseconds: delay } = this.#options;
    if (!canWait || delay === 0 || lane.open[0]!.builder.settles > settlesWaitingMax) this.#added();
    else if (!this.#isDelayed && (!this.#isUrgent || this.#isResting)) {
      this.#isDelayed = true;
      this.#host.after(delay, () => this.#hurry());
    }
  }

  /** What could wait has waited. */
  #hurry(): void {
    this.#isDelayed = false;
    if (this.#lane.bytes > 0) this.#added();
  }

  /** The first open batch that has a place left. */
  #crediting(): BatchBuilder {
    for (const { builder } of this.#lane.open) if (builder.commandCount < commandsPerBatchMax) return builder;
    return this.#extend(this.#lane).builder;
  }

  /** The first open batch that takes more settlements. */
  #settling(lane: Lane): BatchBuilder {
    const { builder } = lane.last;
    if (this.#atomic !== null) return builder.settles < settlesPerBatch ? builder : this.#extend(lane).builder;
    for (const open of lane.open) if (open.builder.settles < settlesPerBatch) return open.builder;
    return this.#extend(lane).builder;
  }

  /** At the end of a turn: seals what may be sealed and sends what a leader has not been handed yet. */
  flush(): void {
    while (this.#isUrgent) {
      const lane = this.#nextLane();
      if (lane === null) break;
      this.#seal(lane);
    }
    this.#sendWaiting();
  }

  /**
   * The lane that a batch is to be sealed of; null: none now. One place is kept free of large bodies, for what is small and comes next; while others
   * are busy they have one place, and it is empty half of the time.
   */
  #nextLane(): Lane | null {
    const { batchesInFlightMax } = this.#options;
    const [lane, largeLane] = [this.#lane, this.#largeLane];
    if (lane.bytes + largeLane.bytes === 0) this.#isUrgent = false;
    if (!this.#isUrgent || this.#sent.length >= batchesInFlightMax) return null;
    const hasLarge = largeLane.bytes > 0 && largeLane.open[0]!.after <= lane.sealed;
    const largeMax = this.#givesWay ? 1 : Math.max(1, batchesInFlightMax - 1);
    const mayBeLarge = hasLarge && this.#largeSent < largeMax && !this.#isResting;
    if (lane.bytes === 0) return mayBeLarge ? largeLane : null;
    return mayBeLarge && this.#isLargeNext ? largeLane : lane;
  }

  /** The lane of large bodies rests between its batches. */
  get #givesWay(): boolean {
    return this.#options.partRestMillisecondsMax > 0 && this.#host.isBusy();
  }

  /** A batch of the lane of large bodies was applied, so long after it had been sealed. */
  #largeApplied(milliseconds: number): void {
    this.#largeSent--;
    if (this.#isResting || this.#largeLane.bytes === 0 || !this.#givesWay) return;
    this.#isResting = true;
    this.#host.after(Math.min(milliseconds, this.#options.partRestMillisecondsMax), () => {
      this.#isResting = false;
      if (this.#largeLane.bytes > 0) this.#added();
    });
  }

  /** The node's replica applied batch `sequence` of this pipe (and so all before it). */
  applied(sequence: number): void {
    let done = 0;
    const now = this.#host.now();
    while (done < this.#sent.length && this.#sent[done]!.sequence <= sequence) {
      const batch = this.#sent[done++]!;
      this.#sentBytes -= batch.payload.length;
      if (batch.isLarge) this.#largeApplied(now - batch.sealedAt);
      if (batch.runs.length > 0) this.#host.confirming(now - batch.publishedAt);
      finish(batch);
    }
    if (done === 0) return;
    this.#sent.splice(0, done);
    if (this.#handedTo <= sequence) this.#handedTo = sequence + 1;
    this.#resendAt = now + this.#options.resendMilliseconds;
    this.#fullUntil = 0;
    this.#stalled = false;
    this.#measureCongestion();
    if (this.#isUrgent) this.#host.dirty();
  }

  /** A result that is not plainly ok; comes before `applied` of its batch. */
  result(sequence: number, ordinal: number, code: ResultCode, value: number, extra: number): void {
    const first = this.#sent[0];
    if (first === undefined) return;
    const batch = this.#sent[sequence - first.sequence];
    if (batch === undefined) return;
    // They come in the order of the ordinals, and when they are told again from the first: those are known.
    const known = batch.results[batch.results.length - 1];
    if (known === undefined || known.ordinal < ordinal) batch.results.push({ ordinal, code, value, extra });
  }

  /** A leader did not append a batch. Answers about another incarnation are stale. */
  answered(reply: BatchReply): void {
    if (reply.incarnation !== this.#origin.incarnation) return;
    switch (reply.answer) {
      case 'expected':
        this.#rewind(reply.sequence);
        break;
      case 'full':
      case 'notLeader':
        if (reply.answer === 'full') this.#fullUntil = this.#host.now() + refusedMilliseconds;
        this.#handedTo = Math.min(
          this.#handedTo,
          Math.max(reply.sequence, this.#sent[0]?.sequence ?? this.#nextSequence),
        );
        // Sent again when a leader is known (`leaderChanged`), or by the clock.
        this.#resendAt = Math.min(this.#resendAt, this.#host.now() + refusedMilliseconds);
        return;
      case 'refused':
        return this.#host.refused(this.group, reply.sequence);
      case 'fenced':
        return;
    }
    this.#host.dirty();
  }

  /** Sends again from `sequence`. Every batch behind a lost one is answered alike, so only the first answer counts. */
  #rewind(sequence: number): void {
    const now = this.#host.now();
    if (sequence >= this.#handedTo || (sequence === this.#rewoundTo && now < this.#rewoundUntil)) return;
    this.#rewoundTo = sequence;
    this.#rewoundUntil = now + this.#options.resendMilliseconds / 10;
    // What was applied here needs no sending, and a leader cannot expect what was never sealed.
    this.#handedTo = Math.max(sequence, this.#sent[0]?.sequence ?? this.#nextSequence);
  }

  /** Another node leads now, or the connection to the leader is new: everything that was not applied goes there, from the first. */
  leaderChanged(): void {
    this.#handedTo = this.#sent[0]?.sequence ?? this.#nextSequence;
    this.#fullUntil = 0;
    if (this.#sent.length > 0) this.#host.dirty();
  }

  /** Now and then: deadlines, and batches that seem lost on the way. */
  tick(): void {
    const oldest = this.#sent[0];
    const now = this.#host.now();
    if (oldest !== undefined && now >= this.#resendAt) {
      this.#resendAt = now + this.#options.resendMilliseconds;
      this.leaderChanged();
    }
    const since = oldest?.sealedAt ?? now;
    if (now - since > this.#options.deadlineMilliseconds) {
      this.#stalled = true;
      for (const batch of this.#sent) abandon(batch);
      for (const batch of [...this.#lane.open, ...this.#largeLane.open]) abandon(batch);
    }
  }

  /** The group is gone for good: everybody who waits is told "unknown". The pipe must not be used any more. */
  end(): void {
    this.restart(this.#origin);
  }

  /** This incarnation ended: everybody who waits is told "unknown", and the pipe starts anew under the next one. */
  restart(origin: Origin): void {
    const ended = [...this.#sent, ...this.#lane.open, ...this.#largeLane.open];
    this.#origin = origin;
    this.#lane = new Lane();
    this.#largeLane = new Lane();
    this.#largeSources.clear();
    this.#isLargeNext = false;
    this.#largeSent = 0;
    this.#isResting = false;
    this.#isUrgent = false;
    this.#sent = [];
    this.#sentBytes = 0;
    this.#nextSequence = 1;
    this.#handedTo = 1;
    this.#rewoundTo = 0;
    this.#fullUntil = 0;
    this.#stalled = false;
    this.#measureCongestion();
    // Last: whoever tries again at once does so under the new incarnation.
    for (const batch of ended) abandon(batch);
  }

  #command(lane: Lane, source: Source, add: (builder: BatchBuilder) => number, reply: CommandReply | null): void {
    const { builder, replies } = this.#tail(lane);
    const before = builder.bytes;
    const ordinal = add(builder);
    lane.bytes += builder.bytes - before;
    if (lane === this.#largeLane) this.#entered(source);
    if (reply !== null) replies.push({ ordinal, reply });
    this.#added();
  }

  /** The open batch for the next command; a full one stays as it is. */
  #tail(lane: Lane): OpenBatch {
    const { builder, part } = lane.last;
    const bytesMax = this.#options.batchBytesMax * (this.#atomic !== null ? atomicBatches : 1);
    if (part !== null || builder.bytes >= bytesMax || builder.commandCount >= commandsPerBatchMax - creditsReserved)
      return this.#extend(lane);
    return lane.last;
  }

  #extend(lane: Lane, builder: BatchBuilder | null = null): OpenBatch {
    lane.last = openBatch(builder ?? this.#spare ?? new BatchBuilder());
    if (builder === null) this.#spare = null;
    lane.open.push(lane.last);
    return lane.last;
  }

  #added(): void {
    this.#isUrgent = true;
    this.#host.dirty();
    const { windowBytes } = this.#options;
    const isOver = !this.#congested && this.#sentBytes + this.#lane.bytes > windowBytes;
    if (isOver || (!this.#largeCongested && this.#largeLane.bytes > windowBytes)) this.#measureCongestion();
  }

  #seal(lane: Lane): void {
    const batch = lane.open[0]!;
    const { part } = batch;
    const isLarge = lane === this.#largeLane;
    if (part !== null) batch.builder.addPart(part.flags, part.pieces, part.bytes);
    const sequence = this.#nextSequence++;
    // Results are read as they come, by the node's own replica: all before the oldest unapplied batch have been.
    const acknowledged = (this.#sent[0]?.sequence ?? sequence) - 1;
    lane.bytes -= batch.builder.bytes - batchHeaderBytes;
    const payload = batch.builder.seal(this.#origin, sequence, this.#host.metadataVersion(), acknowledged);
    const now = this.#host.now();
    if (this.#sent.length === 0) this.#resendAt = now + this.#options.resendMilliseconds;
    const { runs, publishedAt, replies, large } = batch;
    const checksum = crc32(payload);
    const results: SentBatch['results'] = [];
    this.#sent.push({
      sequence,
      isLarge,
      payload,
      checksum,
      sealedAt: now,
      publishedAt,
      runs,
      replies,
      large,
      results,
    });
    this.#sentBytes += payload.length;
    this.#isLargeNext = !isLarge;
    if (lane.open.length > 1) {
      lane.open.shift();
      if (part === null) this.#spare = batch.builder;
    } else lane.open[0] = lane.last = openBatch(batch.builder);
    lane.sealed++;
    // Last: who is told that he may go on may do so at once.
    if (isLarge) this.#left(batch);
  }

  /** The first batch of the lane of large bodies is sealed: whoever has nothing behind it is free of that lane. */
  #left({ sources }: OpenBatch): void {
    this.#largeSent++;
    for (const source of sources ?? []) {
      if (this.#largeSources.get(source) !== this.#largeLane.sealed - 1) continue;
      this.#largeSources.delete(source);
      // Others may keep that lane full for long.
      if (this.#largeCongested) this.#host.congestion();
    }
  }

  #sendWaiting(): void {
    const first = this.#sent[0];
    if (first === undefined || this.#host.now() < this.#fullUntil) return;
    for (let at = this.#handedTo - first.sequence; at < this.#sent.length; at++) {
      const batch = this.#sent[at]!;
      this.#handedTo = batch.sequence + 1;
      if (!this.#host.send(this.group, batch.payload, batch.checksum)) {
        this.#handedTo = batch.sequence;
        return;
      }
      // The leader is this node and has answered already: from there, when it is time.
      if (this.#handedTo <= batch.sequence) return;
    }
  }

  #measureCongestion(): void {
    const { windowBytes } = this.#options;
    const isOver = (bytes: number, wasOver: boolean) => bytes > (wasOver ? windowBytes / 2 : windowBytes);
    const congested = isOver(this.#sentBytes + this.#lane.bytes, this.#congested);
    const largeCongested = isOver(this.#largeLane.bytes, this.#largeCongested);
    if (congested === this.#congested && largeCongested === this.#largeCongested) return;
    this.#congested = congested;
    this.#largeCongested = largeCongested;
    this.#host.congestion();
  }
}

export const nodeOrigin = (node: number, incarnation: number): Origin => ({
  kind: OriginKind.node,
  id: node,
  incarnation,
});

/** Tells publishers and callers what an applied batch came to. */
function finish(batch: SentBatch): void {
  const { results } = batch;
  for (const { ordinal, reply } of batch.replies) {
    const result = results[firstResult(results, ordinal)];
    reply(result?.ordinal === ordinal ? result : plainOk);
  }
  for (const run of batch.runs) {
    if (results.length === 0) run.target.confirmed(run.first, run.first + run.count - 1, true);
    else finishRun(batch, run);
  }
}
const plainOk = { code: ResultCode.ok, value: 0, extra: 0 } as const;

function finishRun(batch: SentBatch, run: Run): void {
  const { results } = batch;
  const end = run.ordinal + run.count;
  let from = run.first;
  for (let at = firstResult(results, run.ordinal); at < results.length && results[at]!.ordinal < end; at++) {
    const result = results[at]!;
    const tag = run.first + (result.ordinal - run.ordinal);
    if (result.code === ResultCode.noQueue) run.target.unroutable(tag, messageOf(batch, result.ordinal));
    else {
      if (tag > from) run.target.confirmed(from, tag - 1, true);
      run.target.confirmed(tag, tag, false);
      from = tag + 1;
    }
  }
  const last = run.first + run.count - 1;
  if (last >= from) run.target.confirmed(from, last, true);
}

/** The place of the first result at or behind an ordinal. They ascend. */
function firstResult(results: SentBatch['results'], ordinal: number): number {
  let low = 0;
  let high = results.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (results[middle]!.ordinal < ordinal) low = middle + 1;
    else high = middle;
  }
  return low;
}

function messageOf({ payload, large }: SentBatch, ordinal: number): MessageView {
  const view = viewMessage(payload, ordinal);
  const { before } = large.find((known) => known.ordinal === ordinal) ?? view;
  return before === view.before ? view : { ...view, before };
}

/** Tags and ordinals mostly follow each other: then the last run just grows. */
function addToRuns(runs: Run[], target: ConfirmTarget, tag: number, ordinal: number): void {
  const last = runs.length > 0 ? runs[runs.length - 1]! : null;
  const isNext =
    last !== null && last.target === target && last.first + last.count === tag && last.ordinal + last.count === ordinal;
  if (isNext) last.count++;
  else runs.push({ target, first: tag, ordinal, count: 1 });
}

/** A body's pieces, cut anew: lists of pieces of `partBytesMax` bytes together, the last of what is left. */
function splitBody(body: readonly Buffer[], bodyBytes: number): Buffer[][] {
  const parts: Buffer[][] = [];
  let part: Buffer[] = [];
  let room = Math.min(partBytesMax, bodyBytes);
  for (const piece of body)
    for (let at = 0; at < piece.length; ) {
      if (room === 0) {
        parts.push(part);
        part = [];
        room = partBytesMax;
      }
      const taken = piece.subarray(at, at + room);
      part.push(taken);
      at += taken.length;
      room -= taken.length;
    }
  parts.push(part);
  return parts;
}

/** The fate of these is unknown; they are told so once and no more. The batch itself goes on. */
function abandon(batch: { runs: Run[]; replies: SentBatch['replies'] }): void {
  const { runs, replies } = batch;
  batch.runs = [];
  batch.replies = [];
  for (const run of runs) run.target.confirmed(run.first, run.first + run.count - 1, false);
  for (const { reply } of replies) reply(null);
}
