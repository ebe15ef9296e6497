// A state restored step by step, from bytes that come in pieces of any size.

import { describe, expect, it } from 'vitest';
import type { Machine, Restoring } from '../../cluster/machine/machine.ts';
import { MetadataMachine } from '../../cluster/machine/metadata.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { Bench, bind, declareQueue, formedOf, openNode } from './metadata-support.ts';
import { randomFrom } from './shard-random.ts';
import { type Command, consume, create, nodeOrigin, Script } from './shard-support.ts';

const bytesOf = (machine: Machine): Buffer => Buffer.concat(drain(machine.snapshot()));

/** Queues of all sizes, one with a great many messages, leases, large messages and dead letters. */
function loaded(): Script {
  const script = new Script();
  script.machine.validate = () => {};
  const dead = { 'x-dead-letter-exchange': 'dead' };
  for (let uid = 1; uid <= 3_000; uid += 1_000)
    script.changes(uid, ...Array.from({ length: 1_000 }, (_, i) => create(uid, uid + i, false, uid === 1 ? dead : {})));
  for (let i = 0; i < 30; i++) script.publish(7, 10_000);
  const publishes = Array.from({ length: 3_000 }, (_, i): Command => ({ kind: 'publish', queues: [1 + i], bytes: 10 }));
  script.send(nodeOrigin(2), publishes);
  script.send(nodeOrigin(1), [consume(1, 7, { grantedTo: 20_000 }), consume(2, 8)]);
  for (let i = 0; i < 3; i++) script.lead();
  return script;
}

/** Gives the bytes in pieces as `size` says, goes on as far as that goes, and counts the steps. */
function feed(restoring: Restoring, bytes: Buffer, size: () => number, between: () => void = () => {}): number {
  let steps = 0;
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + size());
    restoring.add(bytes.subarray(at, end), end === bytes.length);
    at = end;
    for (let more = true; more; steps++) {
      more = restoring.step();
      between();
    }
  }
  return steps;
}

describe('a shard that is restored in steps', () => {
  const source = loaded();
  const bytes = bytesOf(source.machine);

  it('is the same, whatever the pieces, and in many steps', () => {
    const random = randomFrom(11);
    for (const size of [() => bytes.length, () => 1 + random(300_000), () => 512 * 1024, () => 1 + random(5_000)]) {
      const machine = new ShardMachine(3);
      const restoring = machine.restoring();
      expect(feed(restoring, bytes, size)).toBeGreaterThan(bytes.length / 128 / 1024);
      restoring.finish();
      expect(bytesOf(machine).equals(bytes)).toBe(true);
      machine.validate();
      expect([...machine.liveEntries(1, source.index)]).toEqual([...source.machine.liveEntries(1, source.index)]);
    }
  });

  it('is as it was until the end, hears entries meanwhile, and then tells whoever listens by then', () => {
    const script = new Script();
    script.changes(1, create(1, 1));
    const restoring = script.machine.restoring();
    let published = 0;
    feed(
      restoring,
      bytes,
      () => 512 * 1024,
      () => {
        script.publish(1, 1);
        published++;
      },
    );
    expect(script.machine.queueStatus(1)!.ready).toBe(published);
    expect(script.machine.queueStatus(7)).toBeUndefined();
    script.watch({ node: 1, incarnation: 1 });
    restoring.finish();
    expect(script.machine.stateHash()).toBe(source.machine.stateHash());
    expect(script.resume().length).toBe(source.resume().length);
    // What is leased from now on is told too.
    const next = { index: source.index + 1, term: 1, stamp: 0, machineVersion: 1, payload: Buffer.alloc(0) };
    script.machine.apply(next);
    const copy = new ShardMachine(3);
    copy.restore(bytes);
    copy.apply(next);
    expect(bytesOf(script.machine).equals(bytesOf(copy))).toBe(true);
  });

  it('is not replaced by what is cut off, goes on, or is not complete yet', () => {
    const machine = new ShardMachine(3);
    const before = bytesOf(machine);
    const cut = machine.restoring();
    expect(() => feed(cut, bytes.subarray(0, bytes.length - 1), () => 512 * 1024)).toThrow('too early');
    const longer = machine.restoring();
    expect(() => feed(longer, Buffer.concat([bytes, Buffer.alloc(1)]), () => 512 * 1024)).toThrow('longer');
    const half = machine.restoring();
    half.add(bytes.subarray(0, bytes.length >> 1), false);
    while (half.step());
    expect(() => half.finish()).toThrow('not complete');
    expect(bytesOf(machine).equals(before)).toBe(true);
  });
});

describe('live entries', () => {
  it('may be read while some of them die: what lives to the end has come', () => {
    const script = new Script();
    script.changes(1, create(1, 1), create(2, 2));
    for (let i = 0; i < 2_000; i++) script.publish(1 + (i % 2), 1);
    const listed: number[] = [];
    const iterator = script.machine.liveEntries(1, 10_000)[Symbol.iterator]();
    for (let step = iterator.next(); step.done !== true; step = iterator.next()) {
      listed.push(step.value);
      if (listed.length === 500) script.send(nodeOrigin(2), [{ kind: 'purge', queue: 2 }]);
    }
    const left = [...script.machine.liveEntries(1, 10_000)];
    expect(left).toHaveLength(1_000);
    expect(left.filter((index) => !listed.includes(index))).toEqual([]);
    expect(listed).toEqual([...new Set(listed)].sort((a, b) => a - b));
    expect(listed.length).toBeLessThan(1_300);
  });
});

describe('metadata that are restored in steps', () => {
  it('are the same, whatever the pieces, in many steps, and refuse what is damaged', () => {
    const bench = new Bench();
    bench.run(openNode(1), openNode(1, 2));
    for (let i = 0; i < 2_000; i++) {
      const name = `a queue with a long name, number ${i}`;
      bench.run(declareQueue(name), bind('amq.direct', name, name));
    }
    const bytes = bytesOf(bench.machine);
    const random = randomFrom(5);
    const restore = (from: Buffer, size: () => number) => {
      const machine = new MetadataMachine({ shards: 3, initial: formedOf(3) });
      const restoring = machine.restoring();
      const steps = feed(restoring, from, size);
      restoring.finish();
      expect(bytesOf(machine).equals(bytes)).toBe(true);
      return steps;
    };
    for (const size of [() => bytes.length, () => 1 + random(40_000)])
      expect(restore(bytes, size)).toBeGreaterThan(bytes.length / 64 / 1024);
    const damaged = Buffer.from(bytes);
    damaged[bytes.length >> 1]! ^= 1;
    expect(() => restore(damaged, () => 10_000)).toThrow();
  });
});
