// Feeds between one origin and several replicas, over wires that lose and delay: the origin hears everything, each lease once and in order,
// and never of a state before one it has seen.

import { describe, expect, test } from 'vitest';
import { FeedServer } from '../../cluster/feed/feed-server.ts';
import { decodeFeedClose, decodeFeedOpen, encodeFeedClose } from '../../cluster/feed/feed-wire.ts';
import { RemoteFeeds } from '../../cluster/feed/remote-feed.ts';
import type { PipeId, PipeSink } from '../../cluster/machine/machine.ts';
import { defaultLimits } from '../../cluster/options.ts';
import type { Feed } from '../../cluster/origin/origin.ts';
import type { Pipe } from '../../cluster/origin/pipe.ts';
import { createMemoryRandom } from '../support/memory-random.ts';

const group = 3;
const origin = 9;
const limits = defaultLimits.feed;

/** What a group's log says of one pipe: each entry leases one message to consumer 1, or applies one batch. */
type Entry = { readonly lease: number } | { readonly batch: number };

/** One replica's machine: as far along the shared log as it was taken. */
class Replica {
  readonly #log: readonly Entry[];
  appliedIndex = 0;
  sink: PipeSink | null = null;
  fenced = false;
  /** Leases that were settled: the state does not have them any more. */
  settledTo = 0;

  constructor(log: readonly Entry[]) {
    this.#log = log;
  }

  watch(_pipe: PipeId, sink: PipeSink | null): void {
    this.sink = sink;
  }
  applyTo(index: number): void {
    while (this.appliedIndex < index) {
      const entry = this.#log[this.appliedIndex++]!;
      if ('lease' in entry) this.sink?.lease(1, entry.lease, this.appliedIndex, 0, false, 0);
      else this.sink?.batchApplied(entry.batch);
    }
  }
  resume(_pipe: PipeId, nextLease: (consumer: number) => number): void {
    const from = Math.max(this.settledTo + 1, nextLease(1));
    for (const [i, entry] of this.#log.slice(0, this.appliedIndex).entries())
      if ('lease' in entry && entry.lease >= from) this.sink?.lease(1, entry.lease, i + 1, 0, false, 0);
  }
  lastSequence(): number {
    let last = 0;
    for (const entry of this.#log.slice(0, this.appliedIndex)) if ('batch' in entry) last = entry.batch;
    return last;
  }
  isFenced(): boolean {
    return this.fenced;
  }
  consumersOf(_pipe: PipeId): number[] {
    return [1];
  }
}

class World {
  now = 0;
  readonly log: Entry[] = [];
  readonly replicas = new Map([1, 2, 3].map((node) => [node, new Replica(this.log)]));
  /** In the order in which they are to be asked; the others cannot be reached. */
  reachable = [1, 2, 3];
  halted = new Set<number>();
  /** Servers whose lanes are full, or whose frames are lost. */
  full = new Set<number>();
  lossy = new Set<number>();
  unappliedMilliseconds = 0;
  readonly leases: number[] = [];
  readonly opens: number[] = [];
  readonly reconciled: boolean[][] = [];
  applied = 0;
  fencedCount = 0;
  readonly servers: Map<number, FeedServer>;
  readonly remote: RemoteFeeds;
  #wire: (() => void)[] = [];

  constructor() {
    this.servers = new Map([1, 2, 3].map((node) => [node, this.#server(node)]));
    this.remote = this.#remote();
  }

  /** Lets `milliseconds` pass: frames arrive in the next one. */
  run(milliseconds: number): void {
    for (let i = 0; i < milliseconds; i++) {
      this.now++;
      for (let arriving = this.#wire; arriving.length > 0; arriving = this.#wire) {
        this.#wire = [];
        for (const arrive of arriving) arrive();
        for (const server of this.servers.values()) server.turnEnded();
      }
      if (this.now % 50 > 0) continue;
      for (const server of this.servers.values()) server.tick();
      this.remote.tick();
    }
  }

  /** Appends to the log, and takes these replicas to its end. */
  append(entry: Entry, ...nodes: number[]): void {
    this.log.push(entry);
    for (const node of nodes) this.take(node, this.log.length);
  }
  take(node: number, index: number): void {
    this.replicas.get(node)!.applyTo(index);
    this.servers.get(node)!.applied(group);
    this.servers.get(node)!.turnEnded();
  }

  #send(arrive: () => void): void {
    this.#wire.push(arrive);
  }

  #server(node: number): FeedServer {
    return new FeedServer({
      limits,
      now: () => this.now,
      readable: () => (this.halted.has(node) ? undefined : { machine: this.replicas.get(node)! as never }),
      sendEvents: (to, frame) => {
        expect(to).toBe(origin);
        if (this.full.has(node) || !this.reachable.includes(node)) return false;
        if (!this.lossy.has(node)) this.#send(() => expect(this.remote.events(node, frame)).toBe(true));
        return true;
      },
      sendClosed: (_to, feed, of) => {
        if (!this.reachable.includes(node)) return;
        const close = decodeFeedClose(encodeFeedClose({ feed, group: of, byServer: true }))!;
        this.#send(() => this.remote.closed(node, close));
      },
      schedule: () => {},
    });
  }

  #remote(): RemoteFeeds {
    const sessions: Partial<Feed> = {
      lease: (_group, _consumer, ordinal) => this.leases.push(ordinal),
      nextLease: () => (this.leases.at(-1) ?? 0) + 1,
      consumersOf: () => [
        { consumer: 1, nextLease: (this.leases.at(-1) ?? 0) + 1 },
        { consumer: 2, nextLease: 0 },
      ],
      reconciled: (_group, hasConsumer) => this.reconciled.push([1, 2, 3].map(hasConsumer)),
      consumerCancelled: () => {},
    };
    const world = this;
    const pipe: Partial<Pipe> = {
      applied: (sequence) => {
        this.applied = Math.max(this.applied, sequence);
      },
      result: () => {},
      get unappliedMilliseconds() {
        return world.unappliedMilliseconds;
      },
    };
    return new RemoteFeeds({
      limits,
      now: () => this.now,
      incarnation: () => 1,
      sources: () => this.reachable,
      pipe: () => pipe as Pipe,
      sessions: () => sessions as Feed,
      fenced: () => this.fencedCount++,
      sendOpen: (node, frame) => {
        this.opens.push(node);
        this.#send(() => this.servers.get(node)!.open(origin, decodeFeedOpen(frame)!));
        return true;
      },
      sendClose: (node, frame) => {
        const { feed, group: of } = decodeFeedClose(frame)!;
        this.#send(() => this.servers.get(node)!.close(origin, of, feed));
      },
      heard: () => {},
    });
  }
}

const upTo = (count: number) => Array.from({ length: count }, (_, i) => i + 1);

describe('a feed', () => {
  test('tells the state, then what happens, from the replica that is asked first', () => {
    const world = new World();
    world.append({ lease: 1 }, 1, 2, 3);
    world.append({ batch: 1 }, 1, 2, 3);
    world.remote.want(group, 0);
    world.run(5);
    expect([world.leases, world.applied, world.opens]).toEqual([[1], 1, [1]]);
    // Also one that was made since the feed was asked for: whether its consumer is under way its session knows.
    expect(world.reconciled).toEqual([[true, false, false]]);
    world.append({ lease: 2 }, 1);
    world.append({ batch: 2 }, 1);
    world.run(5);
    expect([world.leases, world.applied, world.remote.seen(group)]).toEqual([[1, 2], 2, 4]);
    world.run(5_000);
    expect(world.opens).toEqual([1]);
  });

  test('goes to another replica when its server falls silent, but not before that one has come as far', () => {
    const world = new World();
    world.append({ lease: 1 }, 1);
    world.remote.want(group, 0);
    world.run(5);
    world.reachable = [2, 3];
    world.run(200);
    expect(world.opens[1]).toBe(2);
    expect(world.reconciled).toHaveLength(1);
    world.append({ lease: 2 }, 2);
    world.run(5);
    expect(world.leases).toEqual([1, 2]);
    expect(world.reconciled).toHaveLength(2);
  });

  test('is refused by a replica that does not come as far in time, and tried elsewhere', () => {
    const world = new World();
    world.append({ lease: 1 }, 1, 3);
    world.remote.want(group, 0);
    world.run(5);
    world.reachable = [2, 3];
    world.run(limits.waitMilliseconds + 500);
    expect(world.opens).toEqual([1, 2, 3]);
    expect(world.reconciled).toHaveLength(2);
  });

  test('is opened anew after frames were lost, and repeats nothing', () => {
    const world = new World();
    world.remote.want(group, 0);
    world.run(5);
    world.append({ lease: 1 }, 1);
    world.lossy.add(1);
    world.append({ lease: 2 }, 1, 2);
    world.lossy.clear();
    world.append({ lease: 3 }, 1, 2);
    world.run(5);
    expect(world.opens).toEqual([1, 2]);
    expect(world.leases).toEqual([1, 2, 3]);
  });

  test('is dropped by a server whose lane is full, told so, and read again', () => {
    const world = new World();
    world.reachable = [1];
    world.remote.want(group, 0);
    world.run(5);
    world.full.add(1);
    for (let i = 1; i <= 20; i++) world.append({ lease: i }, 1);
    expect(world.replicas.get(1)!.sink).toBeNull();
    world.full.clear();
    world.run(500);
    expect(world.leases).toEqual(upTo(20));
  });

  test('leaves a replica that makes no headway while a batch waits', () => {
    const world = new World();
    world.remote.want(group, 0);
    world.run(5);
    world.append({ batch: 1 }, 2, 3);
    world.unappliedMilliseconds = limits.lagMilliseconds + 1;
    world.run(limits.lagMilliseconds + 200);
    expect(world.applied).toBe(1);
    expect(world.opens).toEqual([1, 2]);
  });

  test('is read again when the server replaced its state, and closed at a server that halted', () => {
    const world = new World();
    world.remote.want(group, 0);
    world.run(5);
    world.replicas.get(1)!.settledTo = 2;
    for (const lease of [1, 2, 3]) world.log.push({ lease });
    world.replicas.get(1)!.sink = null;
    world.take(1, 3);
    world.take(2, 3);
    world.servers.get(1)!.groupChanged(group);
    world.run(5);
    expect(world.leases.at(-1)).toBe(3);
    const before = world.opens.length;
    world.halted = new Set([1, 2]);
    for (const node of [1, 2]) world.servers.get(node)!.groupChanged(group);
    world.take(3, 3);
    world.run(5_000);
    expect(world.opens.slice(before)).toContain(3);
    world.append({ lease: 4 }, 3);
    world.run(5_000);
    expect(world.leases.at(-1)).toBe(4);
  });

  test('follows the leader, and its earlier server forgets it', () => {
    const world = new World();
    world.remote.want(group, 0);
    world.run(5);
    world.reachable = [3, 1, 2];
    world.run(60);
    expect(world.opens).toEqual([1, 3]);
    expect([1, 2, 3].map((node) => world.replicas.get(node)!.sink !== null)).toEqual([false, false, true]);
    world.remote.leave(group);
    world.run(5);
    expect(world.replicas.get(3)!.sink).toBeNull();
  });

  test('tells that the pipe was ended, also when that was long ago', () => {
    const world = new World();
    world.replicas.get(1)!.fenced = true;
    world.remote.want(group, 0);
    world.run(5);
    expect(world.fencedCount).toBe(1);
    expect(world.reconciled).toEqual([]);
  });

  test('an earlier process of the origin is closed by the later one, which knows nothing of its feed', () => {
    const world = new World();
    world.servers.get(2)!.open(origin, { feed: 77, group, incarnation: 0, minApplied: 0, consumers: [] });
    world.servers.get(2)!.turnEnded();
    expect(world.replicas.get(2)!.sink).not.toBeNull();
    world.run(5);
    expect(world.replicas.get(2)!.sink).toBeNull();
  });
});

describe('feeds in a storm', () => {
  test('every lease is heard once, in order, whatever servers and wires do', () => {
    for (let seed = 1; seed <= 12; seed++) {
      const random = createMemoryRandom(seed);
      const world = new World();
      world.remote.want(group, 0);
      let lease = 0;
      let batch = 0;
      const some = (from: number[]) => from.filter(() => random.integer(3) > 0);
      for (let step = 0; step < 400; step++) {
        if (random.integer(2) === 0) world.append(random.integer(2) === 0 ? { lease: ++lease } : { batch: ++batch });
        for (const node of some([1, 2, 3])) {
          const behind = world.log.length - world.replicas.get(node)!.appliedIndex;
          world.take(node, world.log.length - random.integer(behind + 1));
        }
        if (random.integer(20) === 0) world.reachable = some([1, 2, 3]).reverse();
        if (random.integer(20) === 0) world.full = new Set(some([1, 2]));
        if (random.integer(20) === 0) world.lossy = new Set(some([2, 3]));
        if (random.integer(20) === 0) world.halted = new Set([1 + random.integer(3)]);
        for (const node of world.halted) world.servers.get(node)!.groupChanged(group);
        world.run(1 + random.integer(100));
      }
      world.reachable = [1, 2, 3];
      world.full.clear();
      world.lossy.clear();
      world.halted.clear();
      for (const node of [1, 2, 3]) world.take(node, world.log.length);
      world.run(6_000);
      expect(world.leases, `seed ${seed}`).toEqual(upTo(lease));
      expect(world.applied, `seed ${seed}`).toBe(batch);
    }
  });
});
