// Snapshots that are taken while entries are applied: the bytes must be those of a replica that took its snapshot at once, whatever
// happens to queues with very many messages in between. And what a snapshot does to a machine that does not wait for it.

import { describe, expect, it } from 'vitest';
import type { SnapshotPieces } from '../../cluster/machine/machine.ts';
import { type StoreBounds, storeBounds } from '../../cluster/machine/queue/store.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { randomFrom } from './shard-random.ts';
import { type Command, consume, create, nodeOrigin, Script, type Settle, settle } from './shard-support.ts';

const me = nodeOrigin(1);
const other = nodeOrigin(2);
const publish = (queue: number): Command => ({ kind: 'publish', queues: [queue], bytes: 7 });
const whole = (machine: ShardMachine): Buffer => Buffer.concat(drain(machine.snapshot()));
const operations: Settle['operation'][] = ['accept', 'requeue', 'release'];

/** Two replicas that get the same entries: one that takes its snapshots piece by piece, and one that takes them at once. */
class Pair {
  readonly slow: Script;
  readonly quick: Script;
  readonly #random: (bound: number) => number;
  readonly #bounds: StoreBounds;
  #version = 4;
  /** Consumers (number, queue, owner) that were made, and queues. */
  readonly #consumers: { readonly number: number; readonly owner: typeof me }[] = [];
  #queues = [1, 2, 3, 4];

  constructor(random: (bound: number) => number, bounds: StoreBounds) {
    this.#random = random;
    this.#bounds = bounds;
    this.slow = new Script(undefined, bounds);
    this.quick = new Script(undefined, bounds);
    for (const script of [this.slow, this.quick]) {
      script.changes(4, ...this.#queues.map((uid) => create(uid, uid)));
      for (let i = 0; i < 25; i++) script.publish(1, 3000);
      for (let i = 0; i < 10; i++) script.publish(2, 3000);
    }
    this.#consume(1);
    this.#consume(2);
    for (let i = 0; i < 40_000; i += bounds.assignmentsPerEntryMax) this.#send([]);
  }

  step(): void {
    const random = this.#random;
    const queue = this.#queues[random(this.#queues.length)]!;
    const { number, owner } = this.#consumers[random(this.#consumers.length)]!;
    const dice = random(20);
    if (dice < 5) this.#send(Array(random(2000)).fill(publish(queue)));
    else if (dice < 9) {
      const first = random(3) === 0 ? 0 : random(40_000);
      this.#send([], [settle(operations[random(3)]!, number, first, random(4000), random(2) === 0)], owner);
    } else if (dice < 12) {
      // One by one, backwards, with gaps.
      const last = random(40_000);
      const settles = Array.from({ length: 500 }, (_, i) => settle(operations[random(3)]!, number, last - 3 * i));
      this.#send(
        [],
        settles.filter(({ first }) => first > 0),
        owner,
      );
    } else if (dice < 14) this.#consume(queue);
    else if (dice === 14) this.#send([{ kind: 'purge', queue }]);
    else if (dice === 15) this.#send([{ kind: 'cancel', consumer: number, returnLeases: random(3) > 0 }], [], owner);
    else if (dice === 16) {
      const version = ++this.#version;
      this.#queues.push(version);
      for (const script of [this.slow, this.quick]) script.changes(version, create(version, version));
    } else if (dice === 17 && this.#queues.length > 3) {
      this.#queues = this.#queues.filter((uid) => uid !== queue);
      const version = ++this.#version;
      for (const script of [this.slow, this.quick]) script.changes(version, { kind: 'delete', version, uid: queue });
    } else for (const script of [this.slow, this.quick]) script.lead();
  }

  /** A replica with the bounds of these, out of a snapshot. */
  restored(bytes: Buffer): ShardMachine {
    const machine = new ShardMachine(3, [this.#bounds]);
    machine.restore(bytes);
    machine.validate();
    return machine;
  }

  #consume(queue: number): void {
    const number = this.#consumers.length + 1;
    const owner = this.#random(2) === 0 ? me : other;
    this.#consumers.push({ number, owner });
    this.#send([consume(number, queue, { grantedTo: 1 + this.#random(40_000) })], [], owner);
  }

  #send(commands: readonly Command[], settles: readonly Settle[] = [], owner = me): void {
    for (const script of [this.slow, this.quick]) script.send(owner, commands, settles);
  }
}

function run(seed: number, bounds: StoreBounds, steps: number): number {
  const random = randomFrom(seed);
  const pair = new Pair(random, bounds);
  let snapshot: SnapshotPieces | null = null;
  let expected: Buffer = Buffer.alloc(0);
  let pieces: Buffer[] = [];
  let taken = 0;
  for (let step = 0; step < steps; step++) {
    if (snapshot === null) {
      expected = whole(pair.quick.machine);
      snapshot = pair.slow.machine.snapshot();
      pieces = [];
    }
    pair.step();
    const bytesMax = 1 + random(random(2) === 0 ? 200_000 : 2000);
    const piece = snapshot.next(bytesMax);
    if (piece !== null) {
      if (piece.length > bytesMax + 64 * 1024) expect(piece.length).toBeLessThanOrEqual(bytesMax + 64 * 1024);
      pieces.push(piece);
      continue;
    }
    snapshot.close();
    snapshot = null;
    taken++;
    expect(Buffer.concat(pieces).equals(expected), `seed ${seed}, step ${step}`).toBe(true);
    expect(whole(pair.restored(expected)).equals(expected), `seed ${seed}, step ${step}`).toBe(true);
  }
  return taken;
}

describe('a snapshot piece by piece', () => {
  it('is the one that was begun, whatever is applied meanwhile', () => {
    expect(run(1, storeBounds, 80)).toBeGreaterThan(2);
    const small = { ...storeBounds, debtPerEntryMax: 700, returnsPerEntryMax: 500, assignmentsPerEntryMax: 2000 };
    expect(run(2, small, 80)).toBeGreaterThan(2);
  });

  it('is the one that was begun, with a seed that nobody has tried yet', () => {
    expect(run(Date.now() & 0xfff_ffff, storeBounds, 120)).toBeGreaterThan(0);
  });

  it('has the queues that were there when it began, also deleted ones, and none that came later', () => {
    const script = new Script();
    script.changes(3, create(1, 1), create(2, 2), create(3, 3));
    script.publish(3, 500);
    const expected = whole(script.machine);
    const snapshot = script.machine.snapshot();
    script.changes(4, { kind: 'delete', version: 4, uid: 3 });
    script.changes(5, create(5, 5), { kind: 'delete', version: 5, uid: 2 });
    script.publish(1, 500);
    expect(Buffer.concat(drain(snapshot)).equals(expected)).toBe(true);
    expect([...script.machine.queues()].map(({ uid }) => uid)).toEqual([1, 5]);
  });

  it('may be given up, and gives way to the next one', () => {
    const script = new Script();
    script.changes(1, create(1, 1));
    script.publish(1, 5000);
    const first = script.machine.snapshot();
    expect(first.next(100)).not.toBeNull();
    script.publish(1, 1);
    const expected = whole(script.machine);
    expect(() => first.next(100)).toThrow('given up');
    // Closing it again does not close the one that is under way.
    const second = script.machine.snapshot();
    first.close();
    script.send(me, [{ kind: 'purge', queue: 1 }]);
    script.publish(1, 5000);
    expect(Buffer.concat(drain(second)).equals(expected)).toBe(true);
  });

  it('goes on when the machine is given another state', () => {
    const script = new Script();
    script.changes(1, create(1, 1));
    script.publish(1, 5000);
    const expected = whole(script.machine);
    const snapshot = script.machine.snapshot();
    script.machine.restore(expected);
    script.publish(1, 10);
    expect(Buffer.concat(drain(snapshot)).equals(expected)).toBe(true);
  });
});
