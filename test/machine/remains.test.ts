// What is left of a batch of which only some messages live: the same messages by the same ordinals, and nothing else.

import { describe, expect, it } from 'vitest';
import {
  BatchBuilder,
  CommandKind,
  checkBatch,
  commandOffset,
  findCommand,
  OriginKind,
  PublishFlag,
  remainsOf,
  viewMessage,
} from '../../cluster/machine/commands.ts';
import { randomFrom } from './shard-random.ts';

const origin = { kind: OriginKind.node, id: 1, incarnation: 7 };

/** Publishes with bodies of these lengths, a consume among them, and something settled. */
function batch(bodies: readonly number[]): Buffer {
  const builder = new BatchBuilder();
  bodies.forEach((bytes, i) => {
    const body = Buffer.alloc(bytes, `${i};`);
    const key = Buffer.from([0, 1, 0x71]);
    builder.addPublish([i + 1, i + 2], PublishFlag.persistent, 3, i, key, Buffer.from([0, i & 255]), [body], bytes);
    if (i === 1) builder.addGet(5, 6, 0);
  });
  builder.addSettle(1, 0, 1, 1, 10);
  return builder.seal(origin, 1, 2, 3);
}

function message(payload: Buffer, ordinal: number): Buffer {
  const at = findCommand(payload, ordinal);
  const { bodyEnd } = viewMessage(payload, ordinal);
  return payload.subarray(at, bodyEnd);
}

describe('what is left of a batch', () => {
  it('has the messages asked for, under their ordinals, as they were', () => {
    const whole = batch([10, 0, 300, 900, 1000]);
    const remains = remainsOf(whole, [0, 3, 5]);
    expect(remains.length).toBeLessThan(whole.length);
    for (const ordinal of [0, 3, 5]) expect(message(remains, ordinal)).toEqual(message(whole, ordinal));
    for (const ordinal of [1, 2, 4, 6, 65_535]) {
      expect(findCommand(remains, ordinal)).toBe(-1);
      expect(commandOffset(remains, ordinal)).toBe(-1);
    }
    expect(findCommand(whole, 6)).toBe(-1);
    expect(whole[findCommand(whole, 2)]).toBe(CommandKind.get);
  });

  it('is no batch: nobody applies it, or sends it on', () => {
    expect(checkBatch(remainsOf(batch([10, 10, 400]), [0]))).toMatch(/version/);
  });

  it('is the payload itself where hardly anything would go', () => {
    const whole = batch([1000, 1000, 20]);
    expect(remainsOf(whole, [0, 1, 3])).toBe(whole);
    expect(remainsOf(whole, [0])).not.toBe(whole);
  });

  it('takes little more than its messages, and nothing where none is left', () => {
    const whole = batch(Array.from({ length: 4000 }, () => 30));
    const one = remainsOf(whole, [3999]);
    expect(one.length).toBe(message(whole, 3999).length + 16);
    expect(remainsOf(whole, []).length).toBe(8);
  });

  it('can be reduced again and again', () => {
    const seed = Date.now() & 0xffff;
    const random = randomFrom(seed);
    for (let round = 0; round < 50; round++) {
      const count = 1 + random(60);
      const whole = batch(Array.from({ length: count }, () => random(200)));
      let left = Array.from({ length: count + (count > 1 ? 1 : 0) }, (_, i) => i).filter((i) => count < 2 || i !== 2);
      let remains = whole;
      while (left.length > 0) {
        left = left.filter(() => random(3) > 0);
        remains = remainsOf(remains, left);
        for (const ordinal of left)
          if (!message(remains, ordinal).equals(message(whole, ordinal))) throw new Error(`seed ${seed}: ${ordinal}`);
      }
    }
  });
});
