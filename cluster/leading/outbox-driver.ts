// Drives what the shards led here owe to others: dead letters are routed, and sent to the groups that hold their queues.
//
//   letters → read, routed by the metadata here → `route` in the own log → outbox rows → `transfer` through this node's pipe to the target
//   → applied there → `done` in the own log → the rows are gone
//
// Each step is read from replicated state and may be taken again by another leader: a route is recorded before anything is sent, a target
// takes a row once, and rows are forgotten only when the target has applied them.
//
// State owned, for each shard led and only in one term: the entry with the last route, and per target the rows that are on their way. What
// became of a transfer may be unknown (this node's incarnation ended, say): then everything from the oldest row on is sent again.
//
// Invariants: one route at a time per shard; rows for one target leave in their order, so many rows and bytes at once at most.

import type { MessageViews } from '../feed/messages.ts';
import type { Group } from '../group/group.ts';
import {
  commandOffset,
  type MessageView,
  PublishFlag,
  publishLayout,
  publishOffset,
  ResultCode,
} from '../machine/commands.ts';
import type { Destination, LetterRoutes } from '../machine/leader-commands.ts';
import type { Arguments, MetadataView } from '../machine/metadata-types.ts';
import type { OutboxRow } from '../machine/outbox.ts';
import type { Letter } from '../machine/queue/letters.ts';
import type { ShardMachine } from '../machine/shard.ts';
import type { OutboxOptions } from '../options.ts';
import type { Pipe } from '../origin/pipe.ts';
import { type Death, forbiddenQueues, furtherKeys } from './deaths.ts';
import type { LeaderBatches } from './leader-batches.ts';

export interface OutboxContext {
  readonly limits: OutboxOptions;
  readonly metadata: MetadataView;
  /** The shards that have a replica here. */
  readonly shards: ReadonlyMap<number, ShardMachine>;
  readonly batches: LeaderBatches;
  /** May messages be routed by the metadata here? Else they might miss a queue that was declared elsewhere. */
  isFresh(): boolean;
  pipe(group: number): Pipe;
  /** Reads a message. Never answered once `isWanted` says no. */
  read(
    group: number,
    entry: number,
    ordinals: readonly number[],
    isWanted: () => boolean,
    done: (views: MessageViews) => void,
  ): void;
  /** The headers of a message with these properties. */
  readHeaders(properties: Buffer): Arguments;
  /** The properties that it goes on with when it has died. */
  withDeath(properties: Buffer, death: Death): Buffer;
  /** Milliseconds since 1970. */
  wall(): number;
  /** Asks for `flush` at the end of this turn. */
  schedule(): void;
}

/** Rows on their way to one target. */
interface Flow {
  /** Changes when everything is sent anew: replies to what was sent before count for nothing. */
  attempt: number;
  /** The last row that was sent, and what is on its way. */
  sentTo: number;
  rows: number;
  bytes: number;
  isReading: boolean;
  /** Nothing is sent before the next tick. */
  hasFailed: boolean;
  /** The last row that the target has applied; the last one that the own log was told of, and with which entry. */
  appliedTo: number;
  toldTo: number;
  toldWith: number;
}

interface Driven {
  readonly term: number;
  isRouting: boolean;
  /** The entry with the last route. */
  routedWith: number;
  readonly flows: Map<number, Flow>;
}

/** A dead letter does not expire again by what its publisher said. */
const noExpiration = 0xffff_ffff;

export class OutboxDriver {
  readonly #context: OutboxContext;
  readonly #driven = new Map<number, Driven>();
  readonly #dirty = new Set<Group>();

  constructor(context: OutboxContext) {
    this.#context = context;
  }

  /** Groups wait for `flush`. */
  get isDirty(): boolean {
    return this.#dirty.size > 0;
  }

  /** Something was applied in a group, or became known of what it owes. */
  applied(group: Group): void {
    const shard = this.#context.shards.get(group.id);
    if (shard === undefined || !group.leads || !owesSomething(shard)) return;
    this.#dirty.add(group);
    this.#context.schedule();
  }

  /** Every tick: what failed is tried again. */
  tick(group: Group): void {
    const driven = this.#driven.get(group.id);
    if (driven !== undefined) for (const flow of driven.flows.values()) flow.hasFailed = false;
    this.applied(group);
  }

  flush(): void {
    const groups = [...this.#dirty];
    this.#dirty.clear();
    for (const group of groups) if (group.leads) this.#drive(group, this.#context.shards.get(group.id)!);
  }

  #drive(group: Group, shard: ShardMachine): void {
    const driven = this.#drivenAs(group);
    this.#route(group, shard, driven);
    for (const target of shard.outbox.targets()) {
      const flow = this.#flowTo(shard, driven, target);
      this.#tellDone(group, target, flow);
      this.#send(group, shard, driven, target, flow);
    }
  }

  #drivenAs(group: Group): Driven {
    const { term } = group.raft;
    const known = this.#driven.get(group.id);
    if (known !== undefined && known.term === term) return known;
    const driven: Driven = { term, isRouting: false, routedWith: 0, flows: new Map() };
    this.#driven.set(group.id, driven);
    return driven;
  }

  /** Still leading in that term? */
  #isCurrent(group: Group, driven: Driven): boolean {
    return group.leads && group.raft.term === driven.term && this.#driven.get(group.id) === driven;
  }

  /** `done` with the message, as long as the group is led in this term; with null if it was not owed any more when it was to be read. */
  #read(
    group: Group,
    driven: Driven,
    { index, ordinal }: { readonly index: number; readonly ordinal: number },
    isOwed: () => boolean,
    done: (view: MessageView | null) => void,
  ): void {
    const isWanted = () => this.#isCurrent(group, driven);
    this.#context.read(group.id, index, [ordinal], isWanted, (views) => {
      if (!isWanted()) return;
      const view = views[0] ?? null;
      // What is owed is alive. Where it is not, this replica must not decide what becomes of it.
      if (view === null && isOwed())
        group.halt(new Error(`message ${ordinal} of entry ${index} is owed to others and cannot be read`));
      else done(view);
    });
  }

  // ---- routes ----

  #route(group: Group, shard: ShardMachine, driven: Driven): void {
    if (driven.isRouting || group.appliedIndex < driven.routedWith) return;
    const letters = shard.letters(this.#context.limits.lettersPerRouteMax);
    if (letters.length === 0 || !this.#context.isFresh()) return;
    const first = shard.lettersRouted;
    const routes: Destination[][] = [];
    let queues = 0;
    driven.isRouting = true;
    const propose = () => {
      driven.isRouting = false;
      const { appliedIndex: version } = this.#context.metadata;
      const json = JSON.stringify({ first, version, letters: routes } satisfies LetterRoutes);
      if (this.#context.batches.append(group, (batch) => void batch.addRoute(json)))
        driven.routedWith = group.raft.lastIndex;
    };
    const isOwed = () => true;
    inOrder(letters, propose, (letter, next) =>
      this.#read(group, driven, letter, isOwed, (view) => {
        const destinations = this.#destinations(letter, view!);
        routes.push(destinations);
        for (const [, uids] of destinations) queues += uids.length;
        if (queues < this.#context.limits.queuesPerRouteMax) next();
        else propose();
      }),
    );
  }

  #destinations(letter: Letter, view: MessageView): Destination[] {
    const { metadata } = this.#context;
    const { vhost, exchange, uid, queueName, reason } = letter;
    const headers = this.#headersOf(view);
    const uids = new Map<number, Set<number>>();
    for (const key of letter.routingKey === null ? keysOf(view, headers) : [letter.routingKey])
      for (const { shard, queues } of metadata.route(vhost, exchange, key, () => headers)?.shards ?? [])
        uids.set(shard, new Set([...(uids.get(shard) ?? []), ...queues]));
    const forbidden = forbiddenQueues(queueName, reason, headers);
    const isOpen = (to: number) => {
      if (forbidden.size === 0) return true;
      if (to === uid || forbidden.size === 1) return to !== uid;
      return !forbidden.has(metadata.queueByUid(to)?.name ?? '');
    };
    const destinations = Array.from(uids, ([shard, queues]): Destination => [shard, [...queues].filter(isOpen)]);
    return destinations.filter(([, queues]) => queues.length > 0);
  }

  #headersOf(view: MessageView): Arguments {
    return this.#context.readHeaders(view.payload.subarray(view.propertiesStart, view.bodyStart));
  }

  // ---- rows ----

  #flowTo(shard: ShardMachine, driven: Driven, target: number): Flow {
    let flow = driven.flows.get(target);
    if (flow !== undefined) return flow;
    const done = shard.outbox.lastDone(target);
    const none = { attempt: 0, rows: 0, bytes: 0, isReading: false, hasFailed: false };
    flow = { ...none, sentTo: done, appliedTo: done, toldTo: done, toldWith: 0 };
    driven.flows.set(target, flow);
    return flow;
  }

  /** What the target has applied is done: said to the own log once for all that was learned meanwhile. */
  #tellDone(group: Group, target: number, flow: Flow): void {
    const { appliedTo } = flow;
    if (appliedTo <= flow.toldTo || group.appliedIndex < flow.toldWith) return;
    if (!this.#context.batches.append(group, (batch) => void batch.addDone(target, appliedTo))) return;
    flow.toldTo = appliedTo;
    flow.toldWith = group.raft.lastIndex;
  }

  #send(group: Group, shard: ShardMachine, driven: Driven, target: number, flow: Flow): void {
    const { rowsInFlightMax, bytesInFlightMax } = this.#context.limits;
    if (flow.isReading || flow.hasFailed || flow.rows >= rowsInFlightMax || flow.bytes >= bytesInFlightMax) return;
    // A batch names the metadata here. By an older version than they were routed by, rows might come to the target before their queues.
    if (this.#context.metadata.appliedIndex < shard.lettersRoutedBy) return;
    const pipe = this.#context.pipe(target);
    if (pipe.isStalled || pipe.isCongestedFor()) return;
    const rows = shard.outbox.rows(target, rowsInFlightMax - flow.rows, flow.sentTo);
    if (rows.length === 0) return;
    const { attempt } = flow;
    flow.isReading = true;
    const stop = () => {
      if (flow.attempt === attempt) flow.isReading = false;
    };
    inOrder(rows, stop, (row, next) => {
      const isOwed = () => shard.outbox.rows(target, 1, row.row - 1)[0]?.row === row.row;
      this.#read(group, driven, row, isOwed, (view) => {
        if (flow.attempt !== attempt) return;
        if (view === null) flow.sentTo = row.row;
        else this.#transfer(group, shard, target, flow, row, view);
        if (flow.bytes >= bytesInFlightMax) stop();
        else next();
      });
    });
  }

  #transfer(group: Group, shard: ShardMachine, target: number, flow: Flow, row: OutboxRow, view: MessageView): void {
    const { payload, keyStart, propertiesStart, bodyStart, bodyEnd, before } = view;
    const { exchange, routingKey, queueName } = shard.letterTerms(row.mark);
    const death: Death = {
      queue: queueName,
      reason: shard.letterReason(row.mark),
      exchange: exchangeOf(view),
      routingKeys: keysOf(view, this.#headersOf(view)),
      time: Math.floor(this.#context.wall() / 1000),
      isRekeyed: routingKey !== null,
    };
    const properties = this.#context.withDeath(payload.subarray(propertiesStart, bodyStart), death);
    const at = publishOffset(payload, commandOffset(payload, row.ordinal));
    const { attempt } = flow;
    let bytes = bodyEnd - keyStart;
    for (const piece of before) bytes += piece.length;
    flow.sentTo = row.row;
    flow.rows++;
    flow.bytes += bytes;
    const transfer = {
      source: group.id,
      after: row.row - 1,
      number: row.row,
      queues: row.uids,
      flags: view.flags & PublishFlag.persistent,
      priority: payload[at + publishLayout.priority]!,
      expiration: noExpiration,
      key: keyOf(exchange, routingKey ?? routingKeyOf(view)),
      properties,
      body: [...before, payload.subarray(bodyStart, bodyEnd)],
    };
    this.#context.pipe(target).transfer(transfer, (result) => {
      if (flow.attempt !== attempt) return;
      flow.rows--;
      flow.bytes -= bytes;
      // Refused: the target misses a row before it. Anything else is an answer: a target whose queues are gone has it, too.
      if (result !== null && result.code !== ResultCode.refused) flow.appliedTo = Math.max(flow.appliedTo, row.row);
      else this.#startAnew(shard, target, flow);
      this.applied(group);
    });
  }

  #startAnew(shard: ShardMachine, target: number, flow: Flow): void {
    flow.attempt++;
    flow.sentTo = shard.outbox.lastDone(target);
    flow.rows = 0;
    flow.bytes = 0;
    flow.isReading = false;
    flow.hasFailed = true;
  }
}

export const owesSomething = (shard: ShardMachine): boolean =>
  shard.letters(1).length > 0 || shard.outbox.targets().length > 0;

/** Two short strings. What an AMQP name cannot be is cut, rather than that the letter goes nowhere. */
function keyOf(exchange: string, routingKey: string): Buffer {
  const [first, second] = [Buffer.from(exchange), Buffer.from(routingKey)].map((text) => text.subarray(0, 255));
  return Buffer.concat([Buffer.of(first!.length), first!, Buffer.of(second!.length), second!]);
}

/** The second of the two short strings of its key. */
function routingKeyOf({ payload, keyStart, propertiesStart }: MessageView): string {
  const at = keyStart + 1 + payload[keyStart]!;
  return payload.toString('utf8', at + 1, propertiesStart);
}

function exchangeOf({ payload, keyStart }: MessageView): string {
  return payload.toString('utf8', keyStart + 1, keyStart + 1 + payload[keyStart]!);
}

const keysOf = (view: MessageView, headers: Arguments): string[] => [routingKeyOf(view), ...furtherKeys(headers)];

/** Does each in its turn, now or later, and then `done`. Not by recursion: most are done at once. */
function inOrder<T>(items: readonly T[], done: () => void, act: (item: T, next: () => void) => void): void {
  let at = 0;
  let isActing = false;
  let isDone = false;
  const next = () => {
    isDone = true;
    if (isActing) return;
    while (isDone && at < items.length) {
      isDone = false;
      isActing = true;
      act(items[at++]!, next);
      isActing = false;
    }
    if (isDone) done();
  };
  next();
}
