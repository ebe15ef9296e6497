// From leases to the socket: order is kept whatever reads take, no more than two are under way, and nothing is delivered that must not be.

import { describe, expect, test } from 'vitest';
import type { MessageViews } from '../../cluster/feed/messages.ts';
import {
  BatchBuilder,
  CommandKind,
  type MessageView,
  OriginKind,
  PublishFlag,
} from '../../cluster/machine/commands.ts';
import type { ChannelEvents } from '../../node/amqp/backend.ts';
import type { Broker } from '../../node/broker/broker.ts';
import type { Consumer } from '../../node/broker/consumer.ts';
import { Delivering } from '../../node/broker/delivering.ts';

const shard = 3;
const origin = { kind: OriginKind.node, id: 1, incarnation: 1 } as const;

/** An entry with these bodies, by ordinal. */
function entry(bodies: readonly string[], flags = 0): Buffer {
  const builder = new BatchBuilder();
  for (const body of bodies)
    builder.addPublish(
      [1],
      flags,
      0,
      0xffff_ffff,
      Buffer.from([0, 0]),
      Buffer.alloc(2),
      [Buffer.from(body)],
      body.length,
    );
  return builder.seal(origin, 1, 1, 0);
}

function view(body: string, before: readonly Buffer[] = []): MessageView {
  return {
    payload: Buffer.from(body),
    flags: 0,
    keyStart: 0,
    propertiesStart: 0,
    bodyStart: 0,
    bodyEnd: body.length,
    before,
  };
}

class World {
  readonly inMemory = new Map<number, Buffer>();
  readonly reads: {
    readonly entry: number;
    readonly ordinals: readonly number[];
    readonly isWanted: () => boolean;
    readonly done: (views: MessageViews) => void;
  }[] = [];
  readonly delivered: string[] = [];
  readonly settled: unknown[][] = [];
  readonly nextTurn: (() => void)[] = [];
  canDeliver = true;
  readonly delivering: Delivering;
  readonly #consumers = new Map<number, Consumer>();
  #lease = 0;

  constructor() {
    const world = this;
    const cluster = {
      payload: (_shard: number, index: number) => this.inMemory.get(index) ?? null,
      readMessages: (
        _shard: number,
        index: number,
        ordinals: readonly number[],
        isWanted: () => boolean,
        done: (views: MessageViews) => void,
      ) => this.reads.push({ entry: index, ordinals, isWanted, done }),
      pipe: () => ({ settle: (...values: unknown[]) => this.settled.push(values) }),
    };
    const events: Partial<ChannelEvents> = {
      get canDeliver() {
        return world.canDeliver;
      },
      deliver: (_consumer, _lease, { payload, bodyStart, bodyEnd, before }) =>
        this.delivered.push(Buffer.concat([...before, payload.subarray(bodyStart, bodyEnd)]).toString()),
    };
    const clock = { nextTurn: (task: () => void) => this.nextTurn.push(task) };
    const broker = { cluster, clock, consumers: this.#consumers } as unknown as Broker;
    this.delivering = new Delivering(broker, events as ChannelEvents, () => this.delivering.pump());
  }

  consumer(number: number): Consumer {
    const consumer = { number, shard, noAck: false, outstanding: 0, attached: true, cancelling: false } as Consumer;
    this.#consumers.set(number, consumer);
    return consumer;
  }
  /** Leases so many messages, all of them in memory. Returns their bodies. */
  leaseFromMemory(consumer: Consumer, count: number): string[] {
    const bodies = Array.from({ length: count }, (_, i) => `${i}`);
    this.inMemory.set(5, entry(bodies));
    for (const ordinal of bodies.keys()) this.lease(consumer, 5, ordinal);
    return bodies;
  }
  lease(consumer: Consumer, index: number, ordinal: number): void {
    this.delivering.leased(consumer, ++this.#lease, index, ordinal, false, 0);
  }
}

describe('deliveries', () => {
  test('from memory, as far as the socket takes them', () => {
    const world = new World();
    const consumer = world.consumer(1);
    world.inMemory.set(5, entry(['a', 'b']));
    for (const ordinal of [0, 1]) world.lease(consumer, 5, ordinal);
    world.canDeliver = false;
    world.delivering.pump();
    expect(world.delivered).toEqual([]);
    world.canDeliver = true;
    world.delivering.pump();
    expect([world.delivered, consumer.deliveredTo, consumer.outstanding]).toEqual([['a', 'b'], 2, 2]);
  });

  test('are some thousand in one turn, however often it is asked for more, and the rest in the next ones', () => {
    const world = new World();
    const consumer = world.consumer(1);
    const bodies = world.leaseFromMemory(consumer, 5_000);
    const turns: number[] = [];
    for (let tasks: readonly (() => void)[] = [() => {}]; tasks.length > 0; tasks = world.nextTurn.splice(0)) {
      const before = world.delivered.length;
      for (const task of tasks) task();
      for (let i = 0; i < 3; i++) world.delivering.pump();
      turns.push(world.delivered.length - before);
    }
    expect(turns).toEqual([2_048, 2_048, 904]);
    expect(world.delivered).toEqual(bodies);
  });

  test('end with the channel, also when a turn was to follow', () => {
    const world = new World();
    const consumer = world.consumer(1);
    world.leaseFromMemory(consumer, 3_000);
    world.delivering.pump();
    expect(world.delivering.close().get(consumer)).toEqual([{ first: 2_049, count: 952 }]);
    for (const task of world.nextTurn) task();
    expect(world.delivered.length).toBe(2_048);
  });

  test('keep their order when some have to be read, two entries at a time', () => {
    const world = new World();
    const consumer = world.consumer(1);
    world.inMemory.set(8, entry(['h']));
    for (const [index, ordinal] of [
      [5, 0],
      [5, 2],
      [6, 0],
      [7, 1],
      [8, 0],
    ] as const)
      world.lease(consumer, index, ordinal);
    world.delivering.pump();
    world.delivering.pump();
    expect(world.reads.map(({ entry: of, ordinals }) => [of, ordinals])).toEqual([
      [5, [0, 2]],
      [6, [0]],
    ]);
    world.reads[1]!.done([view('c')]);
    expect(world.delivered).toEqual([]);
    world.reads[0]!.done([view('a'), view('b')]);
    expect(world.delivered).toEqual(['a', 'b', 'c']);
    expect(world.reads.slice(2).map(({ entry: of }) => of)).toEqual([7]);
    world.reads[2]!.done([null]);
    expect(world.delivered).toEqual(['a', 'b', 'c', 'h']);
  });

  test('are read further when fewer came than were asked for', () => {
    const world = new World();
    const consumer = world.consumer(1);
    for (const ordinal of [0, 1, 2]) world.lease(consumer, 5, ordinal);
    world.delivering.pump();
    world.reads[0]!.done([view('a')]);
    expect(world.reads.map(({ ordinals }) => ordinals)).toEqual([
      [0, 1, 2],
      [1, 2],
    ]);
    world.reads[1]!.done([view('b'), view('c')]);
    expect(world.delivered).toEqual(['a', 'b', 'c']);
  });

  test('of large messages are put together, though their last piece is in memory', () => {
    const world = new World();
    const consumer = world.consumer(1);
    const payload = entry(['end'], PublishFlag.parts);
    expect(payload[56]).toBe(CommandKind.publish);
    world.inMemory.set(5, payload);
    world.lease(consumer, 5, 0);
    world.delivering.pump();
    world.reads[0]!.done([view('end', [Buffer.from('begin ')])]);
    expect(world.delivered).toEqual(['begin end']);
  });

  test('for a consumer that is cancelled while they are read go back', () => {
    const world = new World();
    const [first, second] = [world.consumer(1), world.consumer(2)];
    world.lease(first, 5, 0);
    world.lease(second, 6, 0);
    world.delivering.pump();
    first.cancelling = true;
    world.delivering.pump();
    expect(world.settled.map((values) => values.slice(2))).toEqual([[1, 1, 1]]);
    world.reads[0]!.done([view('a')]);
    world.reads[1]!.done([view('b')]);
    expect(world.delivered).toEqual(['b']);
  });

  test('that were never written are told by ranges when the channel closes, and their reads are not wanted any more', () => {
    const world = new World();
    const [first, second] = [world.consumer(1), world.consumer(2)];
    for (const consumer of [first, first, second, first, second]) world.lease(consumer, 5, 0);
    world.delivering.pump();
    expect(world.reads[0]!.isWanted()).toBe(true);
    const ranges = world.delivering.close();
    expect(ranges.get(first)).toEqual([
      { first: 1, count: 2 },
      { first: 4, count: 1 },
    ]);
    expect(ranges.get(second)).toEqual([
      { first: 3, count: 1 },
      { first: 5, count: 1 },
    ]);
    expect(world.reads[0]!.isWanted()).toBe(false);
    world.reads[0]!.done([view('a')]);
    expect(world.delivered).toEqual([]);
  });
});
