// Feeds that this node hears: for each group in which it has batches or consumers and no replica that it can read, another node's replica
// tells what concerns its pipe.
//
//   wanted → opening (feedOpen is under way; results and leases may come already) → open → lost: opened anew, elsewhere if possible
//
// The leader is asked first, because it applies first. A feed is lost by a gap in its frames, by silence, when its server closes it, and when
// a batch of ours waits while the server makes no headway; it is moved when another node leads.
//
// State owned: the wanted groups, the feed of each, and how far each group was seen to be. What is heard goes to pipes and sessions at once.
//
// Invariants: only frames of the newest feed of a group count, in their order; a state older than one seen before is never taken (the
// server waits until it has come that far); a lease reaches the sessions once, because what is below the next expected one is dropped.

import type { FeedOptions } from '../options.ts';
import type { Feed } from '../origin/origin.ts';
import type { Pipe } from '../origin/pipe.ts';
import {
  decodeFeedHead,
  encodeFeedClose,
  encodeFeedOpen,
  type FeedClose,
  type FeedConsumer,
  type FeedVisitor,
  readFeedEvents,
} from './feed-wire.ts';

export interface RemoteFeedsContext {
  readonly limits: FeedOptions;
  now(): number;
  incarnation(): number;
  /** Nodes with a replica of the group that can be reached, the one to prefer first; never this one. */
  sources(group: number): readonly number[];
  pipe(group: number): Pipe;
  sessions(): Feed | null;
  /** This incarnation has ended. */
  fenced(): void;
  sendOpen(node: number, frame: Buffer): boolean;
  sendClose(node: number, frame: Buffer): void;
  /** Something was heard: sessions are told of the end of the turn. */
  heard(): void;
}

interface RemoteFeed {
  readonly group: number;
  /** 0: none is under way. */
  feed: number;
  source: number;
  isOpen: boolean;
  nextNumber: number;
  heardAt: number;
  /** The source's applied index as it last said, and when that changed. */
  sourceApplied: number;
  movedAt: number;
  /** The highest applied index whose events were heard here, from whomever. */
  seen: number;
  /** Sources that failed: until then others are tried before them. */
  readonly avoidedUntil: Map<number, number>;
  /** When to look for a source again. */
  retryAt: number;
}

export class RemoteFeeds {
  readonly #context: RemoteFeedsContext;
  readonly #feeds = new Map<number, RemoteFeed>();
  #lastFeed = 0;

  constructor(context: RemoteFeedsContext) {
    this.#context = context;
  }

  has(group: number): boolean {
    return this.#feeds.has(group);
  }

  /** How far the group was seen to be; 0: not at all. */
  seen(group: number): number {
    return this.#feeds.get(group)?.seen ?? 0;
  }

  /** From now on this group is heard of from elsewhere. `seen`: how far it was seen to be already. */
  want(group: number, seen: number): void {
    if (this.#feeds.has(group)) return;
    const feed: RemoteFeed = {
      group,
      feed: 0,
      source: 0,
      isOpen: false,
      nextNumber: 1,
      heardAt: 0,
      sourceApplied: 0,
      movedAt: 0,
      seen,
      avoidedUntil: new Map(),
      retryAt: 0,
    };
    this.#feeds.set(group, feed);
    this.#open(feed);
  }

  /** No more: there is a replica here to hear from, or the group is gone. */
  leave(group: number): void {
    const feed = this.#feeds.get(group);
    if (feed === undefined) return;
    this.#feeds.delete(group);
    this.#close(feed);
  }

  /** A new incarnation: everything is asked for anew. */
  restart(): void {
    for (const feed of this.#feeds.values()) {
      this.#close(feed);
      this.#open(feed);
    }
  }

  /** Leaders or ways to nodes may have changed. */
  routesChanged(): void {
    for (const feed of this.#feeds.values()) {
      const best = this.#bestSource(feed);
      if (feed.feed === 0 || best === 0 || best === feed.source) continue;
      this.#close(feed);
      this.#open(feed);
    }
  }

  /** False: the frame was not understood. */
  events(from: number, frame: Buffer): boolean {
    const head = decodeFeedHead(frame);
    if (head === null) return false;
    const feed = this.#feeds.get(head.group);
    if (feed === undefined || head.feed !== feed.feed || from !== feed.source) {
      // Of an earlier feed, or an earlier process here: its server need not go on.
      this.#context.sendClose(from, encodeFeedClose({ feed: head.feed, group: head.group, byServer: false }));
      return true;
    }
    if (head.number !== feed.nextNumber) {
      this.#lost(feed);
      return true;
    }
    const now = this.#context.now();
    feed.nextNumber++;
    feed.heardAt = now;
    if (head.applied !== feed.sourceApplied) {
      feed.sourceApplied = head.applied;
      feed.movedAt = now;
    }
    this.#context.heard();
    if (!readFeedEvents(frame, this.#visitor(feed))) {
      this.#lost(feed);
      return false;
    }
    feed.seen = Math.max(feed.seen, head.applied);
    return true;
  }

  /** A server closed a feed. */
  closed(from: number, close: FeedClose): void {
    const feed = this.#feeds.get(close.group);
    if (feed !== undefined && feed.feed === close.feed && feed.source === from) this.#lost(feed);
  }

  tick(): void {
    const now = this.#context.now();
    const { silenceMilliseconds, lagMilliseconds } = this.#context.limits;
    for (const feed of this.#feeds.values()) {
      if (feed.feed === 0) {
        if (now >= feed.retryAt) this.#open(feed);
        continue;
      }
      if (now - feed.heardAt > silenceMilliseconds) this.#lost(feed);
      else if (
        now - feed.movedAt > lagMilliseconds &&
        this.#context.pipe(feed.group).unappliedMilliseconds > lagMilliseconds &&
        this.#context.sources(feed.group).some((source) => source !== feed.source)
      )
        this.#lost(feed);
    }
    this.routesChanged();
  }

  #open(feed: RemoteFeed): void {
    const context = this.#context;
    const now = context.now();
    const source = this.#bestSource(feed);
    feed.feed = 0;
    feed.isOpen = false;
    feed.retryAt = now + context.limits.retryMilliseconds;
    if (source === 0) return;
    const consumers: FeedConsumer[] = [...(context.sessions()?.consumersOf(feed.group) ?? [])];
    const number = ++this.#lastFeed;
    const { group, seen: minApplied } = feed;
    const open = { feed: number, group, incarnation: context.incarnation(), minApplied, consumers };
    feed.source = source;
    if (!context.sendOpen(source, encodeFeedOpen(open))) return this.#avoid(feed);
    feed.feed = number;
    feed.nextNumber = 1;
    feed.heardAt = now;
    feed.movedAt = now;
    feed.sourceApplied = 0;
  }

  #close(feed: RemoteFeed): void {
    if (feed.feed === 0) return;
    this.#context.sendClose(feed.source, encodeFeedClose({ feed: feed.feed, group: feed.group, byServer: false }));
    feed.feed = 0;
  }

  /** Another source is tried, at once if this one had served; one that refused is given time. */
  #lost(feed: RemoteFeed): void {
    const served = feed.isOpen;
    this.#close(feed);
    this.#avoid(feed);
    feed.isOpen = false;
    if (served) this.#open(feed);
    else feed.retryAt = this.#context.now() + this.#context.limits.retryMilliseconds;
  }

  #avoid(feed: RemoteFeed): void {
    feed.avoidedUntil.set(feed.source, this.#context.now() + this.#context.limits.avoidMilliseconds);
  }

  /** The first that did not fail lately, else the one that failed first. 0: there is none. */
  #bestSource({ group, avoidedUntil }: RemoteFeed): number {
    const now = this.#context.now();
    let best = 0;
    let bestUntil = Number.POSITIVE_INFINITY;
    for (const source of this.#context.sources(group)) {
      const until = avoidedUntil.get(source) ?? 0;
      if (until <= now) return source;
      if (until >= bestUntil) continue;
      best = source;
      bestUntil = until;
    }
    return best;
  }

  #visitor(feed: RemoteFeed): FeedVisitor {
    const { group } = feed;
    const { feed: number } = feed;
    const pipe = this.#context.pipe(group);
    const sessions = this.#context.sessions();
    // What is told may end the feed: an incarnation that ends, a group that goes.
    const counts = () => feed.feed === number && this.#feeds.get(group) === feed;
    return {
      batchApplied: (sequence) => {
        if (counts()) pipe.applied(sequence);
      },
      result: (sequence, ordinal, code, value, extra) => {
        if (counts()) pipe.result(sequence, ordinal, code, value, extra);
      },
      lease: (consumer, leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount) => {
        if (!counts() || sessions === null || leaseOrdinal < sessions.nextLease(group, consumer)) return;
        sessions.lease(group, consumer, leaseOrdinal, entryIndex, ordinal, redelivered, deliveryCount);
      },
      consumerCancelled: (consumer) => {
        if (counts()) sessions?.consumerCancelled(group, consumer);
      },
      fenced: () => {
        if (counts()) this.#context.fenced();
      },
      opened: (lastSequence, fenced, existing) => {
        if (!counts()) return;
        feed.isOpen = true;
        if (fenced) return this.#context.fenced();
        pipe.applied(lastSequence);
        sessions?.reconciled(group, (consumer) => existing.has(consumer));
      },
    };
  }
}
