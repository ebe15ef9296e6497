// The origin's end of a pipe: the ordered stream of batches from this node's incarnation to one group.
//
//   open batches → sealed (sequence given, bytes final) → sent to the leader → applied by the node's own replica → forgotten
//
// Publishes gather in the last open batch, settlements in the first: at most a few batches are under way, and what frees consumers and
// queues is in the next one to leave, however many publishes wait.
//
// Settlements that nobody waits for start no batch: a write of their own would hold up whatever comes next. They leave with what comes, or after
// `settleDelayMilliseconds`.
//
// State owned: the open batches, and every sealed batch until it was applied here. Whatever becomes of leaders and connections, a sealed
// batch keeps its bytes and its place, and is sent again until it was applied or this incarnation was fenced. So a failover neither
// loses, nor repeats, nor reorders what was published.
//
// A body over `partBytesMax` goes ahead of its publish in parts, a batch each, so that no entry is large and settlements pass between them.
//
// Invariants: sequences of `sent` are consecutive; a confirm or reply is given once; `true` only after the batch was applied.

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
  /** Bytes sealed or open and not applied, beyond which publishers are paused. */
  readonly windowBytes: number;
  /** After this long without being applied, publishes are nacked ("unknown") and new ones refused until the group works again. */
  readonly deadlineMilliseconds: number;
  /** A batch that is not applied after this long is sent again. */
  readonly resendMilliseconds: number;
  /** Settlements that can wait leave by themselves after this long; 0: they never wait. */
  readonly settleDelayMilliseconds: number;
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
  /** Asks for `hurry` after `milliseconds`. */
  dirtyLater(milliseconds: number): void;
  /** The metadata version that routing is done by. */
  metadataVersion(): number;
  /** Hands the batch to the group's leader: true if it left (or is here). */
  send(group: number, payload: Buffer, checksum: number): boolean;
  /** The publishes of a batch are about to be confirmed, so long after its first one came. */
  confirming(milliseconds: number): void;
  /** Congestion of some pipe changed. */
  congestion(): void;
  /** The group's leader finds a batch malformed, which is a bug here: this incarnation cannot go on. */
  refused(group: number, sequence: number): void;
}

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
}
const openBatch = (builder: BatchBuilder): OpenBatch => ({
  builder,
  runs: [],
  publishedAt: 0,
  replies: [],
  large: noLarge,
  part: null,
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

export class Pipe {
  readonly group: number;
  readonly #options: PipeOptions;
  readonly #host: PipeHost;
  #origin: Origin;
  /** Never empty. The first is sealed next and takes settlements; the last takes everything else. */
  #open: OpenBatch[] = [openBatch(new BatchBuilder())];
  #last: OpenBatch = this.#open[0]!;
  #openBytes = 0;
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
  #resendAt = 0;
  /** The leader has no room: until then nothing is sent, or what is answered would go to and fro without end. */
  #fullUntil = 0;
  /** Set while the group does not apply within the deadline. */
  #stalled = false;
  /** Something in the open batches cannot wait. */
  #isUrgent = false;
  /** `hurry` will be called. */
  #isDelayed = false;
  /** Everything goes into the last open batch. */
  #isAtomic = false;

  constructor(group: number, origin: Origin, options: PipeOptions, host: PipeHost) {
    this.group = group;
    this.#origin = origin;
    this.#options = options;
    this.#host = host;
  }

  get isCongested(): boolean {
    return this.#congested;
  }
  /** The group has not applied anything of ours within the deadline; publishes are nacked at once. */
  get isStalled(): boolean {
    return this.#stalled;
  }
  /** The sequence of the batch that settlements enter now. */
  get openSequence(): number {
    return this.#nextSequence;
  }
  get unappliedBytes(): number {
    return this.#sentBytes + this.#openBytes;
  }
  /** For how long the oldest sealed batch has waited to be applied; 0: none waits. */
  get unappliedMilliseconds(): number {
    const oldest = this.#sent[0];
    return oldest === undefined ? 0 : this.#host.now() - oldest.sealedAt;
  }

  /** The body is copied, but for one over `partBytesMax`: its pieces must never change. */
  publish(
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
    if (bodyBytes > partBytesMax) {
      // All but the last go ahead, each in a batch of its own.
      parts = splitBody(body, bodyBytes);
      last = parts.pop()!;
      lastBytes = bytesOf(last);
      this.#addParts(parts);
    }
    const open = this.#tail();
    const { builder } = open;
    const before = builder.bytes;
    const allFlags = parts === null ? flags : flags | PublishFlag.parts;
    const ordinal = builder.addPublish(queues, allFlags, priority, expiration, key, properties, last, lastBytes);
    this.#openBytes += builder.bytes - before;
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
  atomically(add: () => void, done: CommandReply): void {
    if (!this.#last.builder.isEmpty || this.#last.part !== null) this.#extend();
    this.#isAtomic = true;
    add();
    this.#isAtomic = false;
    // It has no ordinal, so there is no result: it is answered when its batch is applied.
    this.#last.replies.push({ ordinal: noOrdinal, reply: done });
    this.#added();
  }

  /** `done` when all that was asked for so far has been applied, at once if nothing waits; null: its fate is unknown. */
  whenApplied(done: CommandReply): void {
    const open = this.#open.findLast(({ builder, part }) => !builder.isEmpty || part !== null);
    const last = open ?? this.#sent.at(-1);
    if (last === undefined) return done(plainOk);
    last.replies.push({ ordinal: noOrdinal, reply: done });
    // What could wait does so no more.
    if (open !== undefined) this.#added();
  }

  #addParts(parts: readonly (readonly Buffer[])[]): void {
    for (let i = 0; i < parts.length; i++) {
      const pieces = parts[i]!;
      const bytes = bytesOf(pieces);
      if (!this.#last.builder.isEmpty || this.#last.part !== null) this.#extend(new BatchBuilder(partBuilderBytes));
      this.#last.part = { flags: i === 0 ? PartFlag.first : 0, pieces, bytes };
      this.#openBytes += bytes + partOverheadBytes;
    }
  }

  consume(command: ConsumeCommand, reply: CommandReply): void {
    this.#command((builder) => builder.addConsume(command), reply);
  }
  cancel(consumer: number, flags: number, reply: CommandReply | null): void {
    this.#command((builder) => builder.addCancel(consumer, flags), reply);
  }
  get(consumer: number, queue: number, flags: number, reply: CommandReply): void {
    this.#command((builder) => builder.addGet(consumer, queue, flags), reply);
  }
  purge(queue: number, reply: CommandReply): void {
    this.#command((builder) => builder.addPurge(queue), reply);
  }
  remove(queue: number, flags: number, reply: CommandReply): void {
    this.#command((builder) => builder.addRemove(queue, flags), reply);
  }
  /** A row of another group's outbox, see `addTransfer`. */
  transfer(row: TransferRow, reply: CommandReply): void {
    const parts = splitBody(row.body, bytesOf(row.body));
    const body = parts.pop()!;
    this.#addParts(parts);
    const flags = parts.length > 0 ? row.flags | PublishFlag.parts : row.flags;
    this.#command((builder) => builder.addTransfer({ ...row, flags, body }), reply);
  }
  metadata(json: string, reply: CommandReply | null): void {
    this.#command((builder) => builder.addMetadata(json), reply);
  }
  /** Like a settlement it does not wait behind publishes: its consumer is known to the machine, or it would not have delivered. */
  credit(consumer: number, unsettledMax: number, grantedTo: number): void {
    const builder = this.#crediting();
    const before = builder.bytes;
    builder.addCredit(consumer, unsettledMax, grantedTo);
    this.#openBytes += builder.bytes - before;
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
    for (let done = 0; done < count; ) {
      const builder = this.#settling();
      const now = Math.min(count - done, settlesPerBatch - builder.settles);
      builder.addSettle(operation, flags, consumer, first + done, now);
      this.#openBytes += settleRecordBytes;
      done += now;
    }
    const { settleDelayMilliseconds: delay } = this.#options;
    if (!canWait || delay === 0 || this.#open[0]!.builder.settles > settlesWaitingMax) this.#added();
    else if (!this.#isUrgent && !this.#isDelayed) {
      this.#isDelayed = true;
      this.#host.dirtyLater(delay);
    }
  }

  /** What could wait has waited. */
  hurry(): void {
    this.#isDelayed = false;
    if (this.#openBytes > 0) this.#added();
  }

  /** The first open batch that has a place left. */
  #crediting(): BatchBuilder {
    for (const { builder, part } of this.#open)
      if (builder.commandCount < (part === null ? commandsPerBatchMax : commandsPerBatchMax - 1)) return builder;
    return this.#extend().builder;
  }

  /** The first open batch that takes more settlements. */
  #settling(): BatchBuilder {
    if (this.#isAtomic && this.#last.builder.settles < settlesPerBatch) return this.#last.builder;
    for (const { builder } of this.#open) if (builder.settles < settlesPerBatch) return builder;
    return this.#extend().builder;
  }

  /** At the end of a turn: seals what may be sealed and sends what a leader has not been handed yet. */
  flush(): void {
    const { batchesInFlightMax } = this.#options;
    while (this.#isUrgent && this.#openBytes > 0 && this.#sent.length < batchesInFlightMax) this.#seal();
    if (this.#openBytes === 0) this.#isUrgent = false;
    this.#sendWaiting();
  }

  /** The node's replica applied batch `sequence` of this pipe (and so all before it). */
  applied(sequence: number): void {
    let done = 0;
    const now = this.#host.now();
    while (done < this.#sent.length && this.#sent[done]!.sequence <= sequence) {
      const batch = this.#sent[done++]!;
      this.#sentBytes -= batch.payload.length;
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
      for (const batch of this.#open) abandon(batch);
    }
  }

  /** The group is gone for good: everybody who waits is told "unknown". The pipe must not be used any more. */
  end(): void {
    this.restart(this.#origin);
  }

  /** This incarnation ended: everybody who waits is told "unknown", and the pipe starts anew under the next one. */
  restart(origin: Origin): void {
    const ended = [...this.#sent, ...this.#open];
    this.#origin = origin;
    this.#last = openBatch(new BatchBuilder());
    this.#open = [this.#last];
    this.#openBytes = 0;
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

  #command(add: (builder: BatchBuilder) => number, reply: CommandReply | null): void {
    const { builder, replies } = this.#tail();
    const before = builder.bytes;
    const ordinal = add(builder);
    this.#openBytes += builder.bytes - before;
    if (reply !== null) replies.push({ ordinal, reply });
    this.#added();
  }

  /** The open batch for the next command; a full one stays as it is. */
  #tail(): OpenBatch {
    const { builder, part } = this.#last;
    const bytesMax = this.#options.batchBytesMax * (this.#isAtomic ? atomicBatches : 1);
    if (part !== null || builder.bytes >= bytesMax || builder.commandCount >= commandsPerBatchMax - creditsReserved)
      return this.#extend();
    return this.#last;
  }

  #extend(builder: BatchBuilder | null = null): OpenBatch {
    this.#last = openBatch(builder ?? this.#spare ?? new BatchBuilder());
    if (builder === null) this.#spare = null;
    this.#open.push(this.#last);
    return this.#last;
  }

  #added(): void {
    this.#isUrgent = true;
    this.#host.dirty();
    if (!this.#congested && this.unappliedBytes > this.#options.windowBytes) this.#measureCongestion();
  }

  #seal(): void {
    const batch = this.#open[0]!;
    const { part } = batch;
    if (part !== null) batch.builder.addPart(part.flags, part.pieces, part.bytes);
    const sequence = this.#nextSequence++;
    // Results are read as they come, by the node's own replica: all before the oldest unapplied batch have been.
    const acknowledged = (this.#sent[0]?.sequence ?? sequence) - 1;
    this.#openBytes -= batch.builder.bytes - batchHeaderBytes;
    const payload = batch.builder.seal(this.#origin, sequence, this.#host.metadataVersion(), acknowledged);
    const now = this.#host.now();
    if (this.#sent.length === 0) this.#resendAt = now + this.#options.resendMilliseconds;
    const { runs, publishedAt, replies, large } = batch;
    const checksum = crc32(payload);
    this.#sent.push({ sequence, payload, checksum, sealedAt: now, publishedAt, runs, replies, large, results: [] });
    this.#sentBytes += payload.length;
    if (this.#open.length > 1) {
      this.#open.shift();
      if (part === null) this.#spare = batch.builder;
    } else {
      batch.runs = [];
      batch.replies = [];
      batch.large = noLarge;
      batch.part = null;
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
    const bytes = this.unappliedBytes;
    const congested = this.#congested ? bytes > this.#options.windowBytes / 2 : bytes > this.#options.windowBytes;
    if (congested === this.#congested) return;
    this.#congested = congested;
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
