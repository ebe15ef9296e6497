// Questions for messages and states: asked again until answered, of whoever may know; answers leave no faster than their lane takes them.

import { describe, expect, test } from 'vitest';
import { Answers } from '../../cluster/feed/answers.ts';
import type { MessageViews } from '../../cluster/feed/messages.ts';
import { RemoteMessages } from '../../cluster/feed/remote-messages.ts';
import type { MessageView } from '../../cluster/machine/commands.ts';
import { defaultLimits } from '../../cluster/options.ts';

const asker = 9;
const limits = defaultLimits.feed;

function message(body: string, before: readonly Buffer[] = []): MessageView {
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
const textOf = (views: MessageViews | null) =>
  views?.map((view) =>
    view === null
      ? null
      : Buffer.concat([...view.before, view.payload.subarray(view.bodyStart, view.bodyEnd)]).toString(),
  );

class World {
  now = 0;
  sources = [1, 2];
  /** What each node knows of entry 5: null, that it cannot know. */
  readonly known = new Map<number, MessageViews | null>([
    [1, [message('a'), null, message('b')]],
    [2, [message('a'), null, message('b')]],
  ]);
  readonly silent = new Set<number>();
  readonly asked: number[] = [];
  readonly frames: { readonly node: number; readonly bytes: number }[] = [];
  buffered = 0;
  readonly remote: RemoteMessages;
  readonly answers: Map<number, Answers>;

  constructor() {
    this.remote = new RemoteMessages({
      limits,
      now: () => this.now,
      sources: () => this.sources,
      sendQuery: (node, frame) => {
        this.asked.push(node);
        if (!this.silent.has(node)) this.later(() => expect(this.answers.get(node)!.query(asker, frame)).toBe(true));
        return true;
      },
    });
    this.answers = new Map([1, 2].map((node) => [node, this.#answers(node)]));
  }

  readonly #due: (() => void)[] = [];
  later(task: () => void): void {
    this.#due.push(task);
  }
  run(milliseconds: number): void {
    for (const until = this.now + milliseconds; this.now < until; this.now++) {
      for (const task of this.#due.splice(0)) task();
      if (this.now % 50 > 0) continue;
      this.remote.tick();
      for (const answers of this.answers.values()) answers.tick();
    }
  }

  #answers(node: number): Answers {
    return new Answers({
      limits,
      read: (_group, _entry, ordinals, _bytesMax, done) => {
        const known = this.known.get(node)!;
        this.later(() => done(known === null ? null : known.slice(0, ordinals.length)));
      },
      status: (_group, uid) =>
        this.known.get(node) === null
          ? null
          : uid === 7
            ? { uid, ready: 1, unsettled: 2, consumers: 3, bytes: 4 }
            : undefined,
      sendAnswer: (to, pieces) => {
        expect(to).toBe(asker);
        const frame = Buffer.concat(pieces);
        this.buffered += frame.length;
        this.frames.push({ node, bytes: frame.length });
        this.later(() => expect(this.remote.answer(node, frame)).toBe(true));
        return true;
      },
      bufferedBytes: () => this.buffered,
    });
  }
}

describe('messages of another node', () => {
  const ask = (world: World, isWanted = () => true) => {
    const got: (MessageViews | null)[] = [];
    world.remote.read(3, 5, [0, 1, 2], isWanted, (views) => got.push(views));
    return got;
  };

  test('come in the order asked for, with those that are gone', () => {
    const world = new World();
    const got = ask(world);
    world.run(5);
    expect(got.map(textOf)).toEqual([['a', null, 'b']]);
    world.run(10_000);
    expect(world.asked).toEqual([1]);
  });

  test('are asked of another node when the first cannot know, or does not answer in time', () => {
    for (const fail of [(world: World) => world.known.set(1, null), (world: World) => world.silent.add(1)]) {
      const world = new World();
      fail(world);
      const got = ask(world);
      world.run(limits.queryMilliseconds + 200);
      expect(got.map(textOf)).toEqual([['a', null, 'b']]);
      expect(world.asked).toEqual([1, 2]);
    }
  });

  test('are asked for as long as they are wanted, and until the group is gone', () => {
    const world = new World();
    world.sources = [];
    let wanted = true;
    const unwanted = ask(world, () => wanted);
    const gone = ask(world);
    world.run(60_000);
    wanted = false;
    world.run(100);
    world.remote.groupEnded(3);
    expect([unwanted, gone.map(textOf)]).toEqual([[], [[null, null, null]]]);
    world.sources = [1];
    world.run(10_000);
    expect(world.asked).toEqual([]);
  });

  test('large ones come in many frames, no more at a time than may wait', () => {
    const world = new World();
    const piece = Buffer.alloc(256 * 1024, 'x');
    const pieces = Array.from({ length: 40 }, () => piece);
    world.known.set(1, [message('end', pieces)]);
    const got = ask(world);
    world.run(20);
    expect(world.frames.length).toBeLessThan(20);
    for (let i = 0; i < 20; i++) {
      world.buffered = 0;
      world.run(100);
    }
    expect(got[0]![0]!.before).toHaveLength(40);
    expect(textOf(got[0]!)![0]!.length).toBe(40 * piece.length + 3);
    expect(Math.max(...world.frames.map(({ bytes }) => bytes))).toBeLessThan(300 * 1024);
  });
});

describe('the state of a queue', () => {
  test('comes from a node that knows it', () => {
    const world = new World();
    world.known.set(1, null);
    const told: unknown[] = [];
    for (const uid of [7, 8]) world.remote.status(3, uid, (status) => told.push(status));
    world.run(200);
    expect(told).toEqual([{ uid: 7, ready: 1, unsettled: 2, consumers: 3, bytes: 4 }, undefined]);
  });

  test('is given up when nobody tells', () => {
    const world = new World();
    world.sources = [];
    const told: unknown[] = [];
    world.remote.status(3, 7, (status) => told.push(status));
    world.run(limits.statusMilliseconds - 100);
    expect(told).toEqual([]);
    world.run(200);
    expect(told).toEqual([undefined]);
  });
});
