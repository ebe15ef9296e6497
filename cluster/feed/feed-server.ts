// Feeds that this node serves: it tells nodes that have no replica of a group what concerns their pipe, from the replica here.
//
//   feedOpen → (wait until applied) → watch the machine, tell its state (`resume`), `opened` → events, a frame a turn → closed
//
// State owned: one feed per (node, group), with the events of this turn. A feed ends when the origin closes it or opens a newer one, when it
// cannot be reached, when its lane is full, or when the replica here is no longer one to hear from; the origin opens another then, and
// reads the state again. So nothing is kept for an origin that is away or slow.
//
// Invariants: frames of a feed are numbered without a gap; after a frame that could not be sent nothing more of that feed is; the machine
// has a sink for a pipe of another node exactly as long as its feed is open here.

import type { Machine, PipeId, PipeSink } from '../machine/machine.ts';
import type { FeedOptions } from '../options.ts';
import { type FeedHead, type FeedOpen, FeedWriter } from './feed-wire.ts';

/** A replica that is here and not halted. */
export interface ReadableGroup {
  readonly machine: Machine & { consumersOf?(pipe: PipeId): readonly number[] };
}

export interface FeedServerContext {
  readonly limits: FeedOptions;
  now(): number;
  /** Undefined: no replica here that others may hear from. */
  readable(group: number): ReadableGroup | undefined;
  /** False: it does not leave. */
  sendEvents(node: number, frame: Buffer): boolean;
  sendClosed(node: number, feed: number, group: number): void;
  /** Asks for `turnEnded` at the end of this turn. */
  schedule(): void;
}

interface Served {
  readonly node: number;
  readonly open: FeedOpen;
  readonly writer: FeedWriter;
  readonly group: ReadableGroup;
  /** The machine has come as far as the origin has seen, and is being told. */
  begun: boolean;
  /** Until when to wait for that. */
  readonly waitUntil: number;
  lastNumber: number;
  sentAt: number;
  /** Something was told in this turn. */
  isDirty: boolean;
  /** Something of it was lost, or it was replaced: nothing more may be told. */
  ended: boolean;
}

export class FeedServer {
  readonly #context: FeedServerContext;
  readonly #byNode = new Map<number, Map<number, Served>>();
  /** Those that were told something in this turn, and those whose replica has not come far enough yet. */
  #dirty: Served[] = [];
  readonly #waiting = new Set<Served>();

  constructor(context: FeedServerContext) {
    this.#context = context;
  }

  open(node: number, open: FeedOpen): void {
    const { limits } = this.#context;
    const known = this.#byNode.get(node)?.get(open.group);
    // It went another way and was overtaken.
    if (known !== undefined && !isNewer(open, known.open)) return;
    if (known !== undefined) this.#end(known);
    const group = this.#context.readable(open.group);
    if (group === undefined) return this.#context.sendClosed(node, open.feed, open.group);
    const now = this.#context.now();
    const served: Served = {
      node,
      open,
      group,
      writer: new FeedWriter(),
      begun: false,
      waitUntil: now + limits.waitMilliseconds,
      lastNumber: 0,
      sentAt: now,
      isDirty: false,
      ended: false,
    };
    const feeds = this.#byNode.get(node);
    if (feeds === undefined) this.#byNode.set(node, new Map([[open.group, served]]));
    else feeds.set(open.group, served);
    this.#waiting.add(served);
    this.#beginIfReady(served);
  }

  /** The origin wants no more of it. */
  close(node: number, group: number, feed: number): void {
    const served = this.#byNode.get(node)?.get(group);
    if (served !== undefined && served.open.feed === feed) this.#end(served);
  }

  /** Entries of this group were applied. */
  applied(group: number): void {
    if (this.#waiting.size === 0) return;
    for (const served of [...this.#waiting]) if (served.open.group === group) this.#beginIfReady(served);
  }

  /** The state was replaced, or nobody may hear from this replica any more. */
  groupChanged(group: number): void {
    for (const served of [...this.#ofGroup(group)]) this.#refuse(served);
  }

  /** What was told in this turn leaves. */
  turnEnded(): void {
    if (this.#dirty.length === 0) return;
    const dirty = this.#dirty;
    this.#dirty = [];
    for (const served of dirty) {
      served.isDirty = false;
      if (this.#byNode.get(served.node)?.get(served.open.group) !== served) continue;
      if (!served.ended && served.writer.bytes > 0) this.#flush(served);
      if (served.ended) this.#refuse(served);
    }
  }

  /** An idle feed says now and then that it lives, and how far this replica is. */
  tick(): void {
    const { limits } = this.#context;
    const now = this.#context.now();
    for (const feeds of this.#byNode.values())
      for (const served of [...feeds.values()]) {
        if (!served.begun && now >= served.waitUntil) this.#refuse(served);
        else if (now - served.sentAt >= limits.heartbeatMilliseconds) {
          this.#flush(served);
          if (served.ended) this.#refuse(served);
        }
      }
  }

  *#ofGroup(group: number): Generator<Served> {
    for (const feeds of this.#byNode.values()) {
      const served = feeds.get(group);
      if (served !== undefined) yield served;
    }
  }

  #beginIfReady(served: Served): void {
    const { node, open, group, writer } = served;
    const { machine } = group;
    if (machine.appliedIndex < open.minApplied) return;
    const pipe = { node, incarnation: open.incarnation };
    served.begun = true;
    this.#waiting.delete(served);
    machine.watch(pipe, this.#sink(served));
    const nextLeases = new Map(open.consumers.map(({ consumer, nextLease }) => [consumer, nextLease]));
    // A consumer that the origin did not name is younger than its question: it has heard of none of its leases.
    machine.resume(pipe, (consumer) => nextLeases.get(consumer) ?? 0);
    writer.opened(machine.lastSequence(pipe), machine.isFenced(pipe), machine.consumersOf?.(pipe) ?? []);
    this.#wrote(served);
  }

  #sink(served: Served): PipeSink {
    const { writer } = served;
    return {
      batchApplied: (sequence) => {
        if (served.ended) return;
        writer.batchApplied(sequence);
        this.#wrote(served);
      },
      result: (sequence, ordinal, code, value, extra) => {
        if (served.ended) return;
        writer.result(sequence, ordinal, code, value, extra);
        this.#wrote(served);
      },
      lease: (consumer, leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount) => {
        if (served.ended) return;
        writer.lease(consumer, leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount);
        this.#wrote(served);
      },
      consumerCancelled: (consumer) => {
        if (served.ended) return;
        writer.consumerCancelled(consumer);
        this.#wrote(served);
      },
      fenced: () => {
        if (served.ended) return;
        writer.fenced();
        this.#wrote(served);
      },
    };
  }

  #wrote(served: Served): void {
    if (!served.isDirty) {
      served.isDirty = true;
      this.#dirty.push(served);
      this.#context.schedule();
    }
    if (served.writer.bytes >= this.#context.limits.frameBytes) this.#flush(served);
  }

  #flush(served: Served): void {
    const { node, open, group, writer } = served;
    const number = ++served.lastNumber;
    const head: FeedHead = { feed: open.feed, group: open.group, number, applied: group.machine.appliedIndex };
    served.sentAt = this.#context.now();
    // The machine may be telling just now: what it still says is dropped, and the feed is taken away at the end of the turn.
    if (!this.#context.sendEvents(node, writer.take(head))) served.ended = true;
  }

  #refuse(served: Served): void {
    const { node, open } = served;
    this.#end(served);
    this.#context.sendClosed(node, open.feed, open.group);
  }

  #end(served: Served): void {
    const { node, open, group } = served;
    served.ended = true;
    this.#waiting.delete(served);
    const feeds = this.#byNode.get(node);
    if (feeds?.get(open.group) !== served) return;
    feeds.delete(open.group);
    if (feeds.size === 0) this.#byNode.delete(node);
    if (served.begun) group.machine.watch({ node, incarnation: open.incarnation }, null);
  }
}

const isNewer = (open: FeedOpen, known: FeedOpen): boolean =>
  open.incarnation > known.incarnation || (open.incarnation === known.incarnation && open.feed > known.feed);
