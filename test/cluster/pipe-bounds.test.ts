// What a pipe gathers while nothing leaves: each batch stays one that a leader takes, and what comes of it is worked off in one go.

import { describe, expect, test } from 'vitest';
import { checkBatch, commandsPerBatchMax, ResultCode, readBatchHeader } from '../../cluster/machine/commands.ts';
import { createQuietPipe } from '../support/quiet-pipe.ts';

describe('a pipe', () => {
  test('makes no batch of more commands than one may have, however many consumers are given credit', () => {
    const { pipe, payloads } = createQuietPipe();
    for (let consumer = 1; consumer <= commandsPerBatchMax + 10; consumer++) pipe.credit(consumer, 0, 100);
    pipe.flush();
    expect(payloads.map(checkBatch)).toEqual([null, null]);
    expect(payloads.map((payload) => readBatchHeader(payload).commandCount)).toEqual([commandsPerBatchMax, 10]);
  });

  test('matches results to publishes and commands in one pass, though they are told twice', () => {
    const { pipe } = createQuietPipe();
    const told: string[] = [];
    const target = {
      confirmed: (first: number, last: number, ok: boolean) => void told.push(`${ok ? 'ok' : 'no'} ${first}-${last}`),
      unroutable: () => {},
    };
    const [key, properties] = [Buffer.from([0, 0]), Buffer.alloc(2)];
    const count = 5_000;
    // Alternating targets: a run each.
    const targets = [target, { ...target }];
    for (let tag = 1; tag <= count; tag++)
      pipe.publish(pipe, [1], 0, 0, 0xffff_ffff, key, properties, [Buffer.of(1)], 1, targets[tag % 2]!, tag);
    const replies: (number | null)[] = [];
    for (let i = 0; i < 3; i++) pipe.purge(pipe, 1, (result) => replies.push(result?.value ?? null));
    pipe.flush();
    for (let again = 0; again < 2; again++) {
      for (let ordinal = 1; ordinal < count; ordinal += 2) pipe.result(1, ordinal, ResultCode.rejected, 0, 0);
      pipe.result(1, count, ResultCode.ok, 10, 0);
      pipe.result(1, count + 2, ResultCode.ok, 12, 0);
    }
    pipe.applied(1);
    expect(replies).toEqual([10, 0, 12]);
    const expected = Array.from({ length: count }, (_, i) => `${i % 2 === 1 ? 'no' : 'ok'} ${i + 1}-${i + 1}`);
    expect(told).toEqual(expected);
  });
});
