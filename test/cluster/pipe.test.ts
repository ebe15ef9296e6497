// The origin's end of a pipe, against a leader that loses, refuses and repeats.

import { describe, expect, test } from 'vitest';
import {
  CommandKind,
  checkBatch,
  commandOffset,
  PartFlag,
  PublishFlag,
  partBytesMax,
  ResultCode,
  readBatchHeader,
  readPart,
  SettleOperation,
  settlesPerBatchMax,
  viewMessage,
} from '../../cluster/machine/commands.ts';
import { defaultLimits } from '../../cluster/options.ts';
import { type ConfirmTarget, nodeOrigin, Pipe, type PipeOptions, type Source } from '../../cluster/origin/pipe.ts';
import type { BatchAnswer } from '../../cluster/peers/wire.ts';

const key = Buffer.from([0, 1, 0x71]);
const properties = Buffer.alloc(2);
const body = [Buffer.from('body')];
const client = {};

function harness(options: Partial<PipeOptions> = {}) {
  const state = {
    now: 0,
    accepts: true,
    congestions: 0,
    confirmTimes: [] as number[],
    refusals: 0,
    isBusy: false,
    later: [] as { readonly milliseconds: number; readonly task: () => void }[],
    sent: [] as number[],
    payloads: [] as Buffer[],
    onSend: () => {},
  };
  const told: string[] = [];
  const target: ConfirmTarget = {
    confirmed: (first, last, ok) => told.push(`${ok ? 'ok' : 'no'} ${first}-${last}`),
    unroutable: (tag, { before, bodyStart, bodyEnd }) =>
      told.push(`returned ${tag}`, `${Buffer.concat([...before]).length + bodyEnd - bodyStart} bytes`),
  };
  const pipe = new Pipe(
    3,
    nodeOrigin(1, 7),
    { ...defaultLimits.pipe, batchesInFlightMax: 8, ...options },
    {
      now: () => state.now,
      dirty: () => {},
      isBusy: () => state.isBusy,
      after: (milliseconds, task) => void state.later.push({ milliseconds, task }),
      metadataVersion: () => 5,
      send: (_group, payload) => {
        if (state.accepts) state.sent.push(readBatchHeader(payload).sequence);
        if (state.accepts) state.payloads.push(payload);
        if (state.accepts) state.onSend();
        return state.accepts;
      },
      confirming: (milliseconds) => void state.confirmTimes.push(milliseconds),
      congestion: () => state.congestions++,
      refused: () => state.refusals++,
    },
  );
  const publish = (tag: number, to: ConfirmTarget | null = target, source: Source = client) =>
    pipe.publish(source, [1], 0, 0, 0xffff_ffff, key, properties, body, 4, to, tag);
  const answer = (what: BatchAnswer, sequence: number, incarnation = 7) =>
    pipe.answered({ group: 3, answer: what, incarnation, sequence, leader: 0 });
  return { pipe, state, told, target, publish, answer };
}

describe('pipe', () => {
  test('publishes of a turn leave as one batch and are confirmed as one run when it was applied', () => {
    const { pipe, state, told, publish } = harness();
    for (let tag = 1; tag <= 5; tag++) publish(tag);
    pipe.flush();
    expect(state.sent).toEqual([1]);
    expect(told).toEqual([]);
    pipe.applied(1);
    expect(told).toEqual(['ok 1-5']);
    expect(pipe.unappliedBytes).toBe(0);
  });

  test('what is confirmed was waited for since the first publish of its batch; nobody waits for what nobody is told of', () => {
    const { pipe, state, publish } = harness();
    for (const tag of [1, 2]) {
      publish(tag);
      state.now += 10;
    }
    pipe.flush();
    publish(3, null);
    pipe.settle(SettleOperation.accept, 0, 1, 1, 1);
    pipe.flush();
    state.now = 50;
    pipe.applied(2);
    expect(state.confirmTimes).toEqual([50]);
    publish(4);
    pipe.flush();
    state.now = 100;
    pipe.applied(3);
    expect(state.confirmTimes).toEqual([50, 50]);
  });

  test('whoever is told "unknown" because the incarnation ended and asks again at once is heard under the next one', () => {
    const { pipe, state } = harness();
    const answers: (ResultCode | null)[] = [];
    const ask = () =>
      pipe.metadata('{}', (result) => {
        answers.push(result?.code ?? null);
        if (result === null) ask();
      });
    ask();
    pipe.flush();
    ask();
    pipe.restart(nodeOrigin(1, 8));
    expect(answers).toEqual([null, null]);
    pipe.flush();
    expect(state.sent).toEqual([1, 1]);
    pipe.applied(1);
    expect(answers).toEqual([null, null, ResultCode.ok, ResultCode.ok]);
  });

  test('says when all that was asked for has been applied: open, sealed, or nothing at all', () => {
    const { pipe, state, publish } = harness({ batchesInFlightMax: 1 });
    const told: string[] = [];
    const ask = (name: string) =>
      pipe.whenApplied(client, (result) => told.push(`${name} ${result?.code ?? 'unknown'}`));
    ask('nothing');
    expect(told.splice(0)).toEqual(['nothing 0']);
    publish(1, null);
    ask('open');
    pipe.flush();
    ask('sealed');
    // Waits until the first batch was applied, and would wait for company.
    pipe.settle(SettleOperation.accept, 0, 1, 1, 1, true);
    ask('behind it');
    pipe.flush();
    expect([told, state.sent]).toEqual([[], [1]]);
    pipe.applied(1);
    expect(told.splice(0)).toEqual(['open 0', 'sealed 0']);
    pipe.flush();
    expect(state.sent).toEqual([1, 2]);
    pipe.applied(2);
    expect(told.splice(0)).toEqual(['behind it 0']);
    publish(2, null);
    ask('ended');
    pipe.restart(nodeOrigin(1, 8));
    expect(told).toEqual(['ended unknown']);
  });

  test('a batch that no leader took waits, and goes to the next leader first', () => {
    const { pipe, state, publish } = harness();
    state.accepts = false;
    publish(1);
    pipe.flush();
    publish(2);
    pipe.flush();
    expect(state.sent).toEqual([]);
    state.accepts = true;
    pipe.leaderChanged();
    pipe.flush();
    expect(state.sent).toEqual([1, 2]);
  });

  test('after a change of leader everything not applied is sent again, in order, and nothing else', () => {
    const { pipe, state, publish } = harness();
    for (let tag = 1; tag <= 4; tag++) {
      publish(tag);
      pipe.flush();
    }
    pipe.applied(2);
    pipe.leaderChanged();
    pipe.flush();
    expect(state.sent).toEqual([1, 2, 3, 4, 3, 4]);
  });

  test('a leader here that answers at once is not handed the rest', () => {
    const { pipe, state, publish, answer } = harness();
    state.accepts = false;
    for (let tag = 1; tag <= 3; tag++) {
      publish(tag);
      pipe.flush();
    }
    state.accepts = true;
    let refusals = 1;
    state.onSend = () => {
      if (refusals-- > 0) answer('full', 1);
    };
    pipe.flush();
    expect(state.sent).toEqual([1]);
    state.now += 20;
    pipe.flush();
    expect(state.sent).toEqual([1, 1, 2, 3]);
  });

  test('a leader without room is left alone for a moment, also when it asks for what it refused', () => {
    const { pipe, state, publish, answer } = harness();
    for (let tag = 1; tag <= 3; tag++) {
      publish(tag);
      pipe.flush();
    }
    for (let i = 0; i < 3; i++) {
      answer('full', 1);
      answer('expected', 1);
      answer('expected', 1);
      pipe.flush();
    }
    expect(state.sent).toEqual([1, 2, 3]);
    state.now += 20;
    pipe.flush();
    expect(state.sent).toEqual([1, 2, 3, 1, 2, 3]);
  });

  test('a leader without room is tried again at once when it has applied something', () => {
    const { pipe, state, publish, answer } = harness();
    for (let tag = 1; tag <= 3; tag++) {
      publish(tag);
      pipe.flush();
    }
    answer('full', 2);
    pipe.applied(1);
    pipe.flush();
    expect(state.sent).toEqual([1, 2, 3, 2, 3]);
  });

  test('`expected` rewinds once, however many batches behind the gap are answered', () => {
    const { pipe, state, publish, answer } = harness();
    for (let tag = 1; tag <= 4; tag++) {
      publish(tag);
      pipe.flush();
    }
    for (let i = 0; i < 3; i++) {
      answer('expected', 2);
      pipe.flush();
    }
    expect(state.sent).toEqual([1, 2, 3, 4, 2, 3, 4]);
    // Lost again: an answer after a while counts anew.
    state.now += 500;
    answer('expected', 2);
    pipe.flush();
    expect(state.sent).toEqual([1, 2, 3, 4, 2, 3, 4, 2, 3, 4]);
  });

  test('an answer about an earlier incarnation changes nothing', () => {
    const { pipe, state, publish, answer } = harness();
    publish(1);
    pipe.flush();
    answer('expected', 1, 6);
    pipe.flush();
    expect(state.sent).toEqual([1]);
  });

  test('a batch without any answer is sent again after a while', () => {
    const { pipe, state, publish } = harness();
    publish(1);
    pipe.flush();
    state.now = defaultLimits.pipe.resendMilliseconds + 1;
    pipe.tick();
    pipe.flush();
    expect(state.sent).toEqual([1, 1]);
  });

  test('results split a run: no queue is returned and confirmed, a refusal is nacked alone', () => {
    const { pipe, told, publish } = harness();
    for (let tag = 11; tag <= 16; tag++) publish(tag);
    pipe.flush();
    pipe.result(1, 1, ResultCode.noQueue, 0, 0);
    pipe.result(1, 4, ResultCode.rejected, 0, 0);
    pipe.applied(1);
    expect(told).toEqual(['returned 12', '4 bytes', 'ok 11-14', 'no 15-15', 'ok 16-16']);
  });

  test('a result told twice, after a snapshot was installed, counts once', () => {
    const { pipe, told, publish } = harness();
    publish(1);
    pipe.flush();
    for (let i = 0; i < 2; i++) pipe.result(1, 0, ResultCode.rejected, 0, 0);
    pipe.applied(1);
    expect(told).toEqual(['no 1-1']);
  });

  test('replies get their result, or a plain ok', () => {
    const { pipe } = harness();
    const replies: unknown[] = [];
    pipe.purge(client, 4, (result) => replies.push(result));
    pipe.cancel(client, 9, 0, (result) => replies.push(result));
    pipe.flush();
    pipe.result(1, 0, ResultCode.ok, 17, 0);
    pipe.applied(1);
    expect(replies).toEqual([
      { ordinal: 0, code: ResultCode.ok, value: 17, extra: 0 },
      { code: ResultCode.ok, value: 0, extra: 0 },
    ]);
  });

  test('past the deadline publishes are nacked once, the batch goes on, and the group may recover', () => {
    const { pipe, state, told, publish } = harness();
    publish(1);
    pipe.flush();
    publish(2);
    state.now = defaultLimits.pipe.deadlineMilliseconds + 1;
    pipe.tick();
    expect(told).toEqual(['no 1-1', 'no 2-2']);
    expect(pipe.isStalled).toBe(true);
    pipe.flush();
    pipe.applied(2);
    expect(told).toHaveLength(2);
    expect(pipe.isStalled).toBe(false);
  });

  test('a full window congests, and half of it applied relieves', () => {
    const { pipe, state, target } = harness({ windowBytes: 512 * 1024 });
    const large = [Buffer.alloc(100 * 1024)];
    for (let tag = 1; tag <= 6; tag++) {
      pipe.publish(client, [1], 0, 0, 0xffff_ffff, key, properties, large, large[0]!.length, target, tag);
      pipe.flush();
    }
    expect(pipe.isCongestedFor()).toBe(true);
    expect(state.congestions).toBe(1);
    pipe.applied(2);
    expect(pipe.isCongestedFor()).toBe(true);
    pipe.applied(4);
    expect(pipe.isCongestedFor()).toBe(false);
    expect(state.congestions).toBe(2);
  });

  test('while enough batches are under way the next one gathers', () => {
    const { pipe, state, publish } = harness({ batchesInFlightMax: 2 });
    for (let tag = 1; tag <= 10; tag++) {
      publish(tag);
      pipe.flush();
    }
    expect(state.sent).toEqual([1, 2]);
    pipe.applied(1);
    pipe.flush();
    expect(state.sent).toEqual([1, 2, 3]);
  });

  test('the end of an incarnation tells everybody "unknown" and starts a new count', () => {
    const { pipe, state, told, publish } = harness();
    publish(1);
    pipe.flush();
    publish(2);
    pipe.restart(nodeOrigin(1, 8));
    expect(told).toEqual(['no 1-1', 'no 2-2']);
    publish(3);
    pipe.flush();
    expect(state.sent).toEqual([1, 1]);
  });

  test('a large body goes ahead of its publish in parts, a batch each, and settlements pass between them', () => {
    const { pipe, state, told, target } = harness({ batchesInFlightMax: 1 });
    const pieces = Array.from({ length: 7 }, (_, i) => Buffer.alloc(100_000, i + 1));
    pipe.publish(client, [1], 0, 0, 0xffff_ffff, key, properties, pieces, 700_000, target, 1);
    for (let sequence = 1; sequence <= 4; sequence++) {
      pipe.flush();
      if (sequence === 1) pipe.settle(SettleOperation.accept, 0, 9, 1, 1);
      expect(state.sent).toHaveLength(sequence);
      expect(told).toEqual([]);
      pipe.applied(sequence);
    }
    expect(told).toEqual(['ok 1-1']);
    expect(state.payloads.map(checkBatch)).toEqual([null, null, null, null]);
    expect(state.payloads.map((payload) => readBatchHeader(payload).settleCount)).toEqual([0, 1, 0, 0]);
    const [first, , second] = state.payloads;
    const parts = [first!, second!].map((payload) => readPart(payload, commandOffset(payload, 0)));
    expect(parts.map(({ flags, bytes }) => [flags, bytes.length])).toEqual([
      [PartFlag.first, partBytesMax],
      [0, partBytesMax],
    ]);
    const last = viewMessage(state.payloads[3]!, 0);
    expect(last.flags).toBe(PublishFlag.parts);
    const rest = last.payload.subarray(last.bodyStart, last.bodyEnd);
    expect(Buffer.concat([...parts.map(({ bytes }) => bytes), rest]).equals(Buffer.concat(pieces))).toBe(true);
  });

  test('a large mandatory message that found no queue comes back whole', () => {
    const { pipe, state, told, target } = harness();
    const large = Buffer.alloc(partBytesMax + 1, 7);
    pipe.publish(client, [1], PublishFlag.mandatory, 0, 0xffff_ffff, key, properties, [large], large.length, target, 1);
    pipe.flush();
    expect(state.sent).toEqual([1, 2]);
    pipe.result(2, 0, ResultCode.noQueue, 0, 0);
    pipe.applied(2);
    expect(told).toEqual(['returned 1', `${large.length} bytes`, 'ok 1-1']);
  });

  test('what one batch settles is bounded', () => {
    const { pipe, state } = harness();
    pipe.settle(SettleOperation.accept, 0, 9, 1, 3 * settlesPerBatchMax);
    pipe.flush();
    expect(state.payloads.map(checkBatch)).toEqual(Array(6).fill(null));
    const records = state.payloads.map((payload) => {
      const { settleOffset } = readBatchHeader(payload);
      return [payload.readUInt32LE(settleOffset + 8), payload.readUInt32LE(settleOffset + 16)];
    });
    const half = settlesPerBatchMax / 2;
    expect(records).toEqual(Array.from({ length: 6 }, (_, i) => [1 + i * half, half]));
  });

  describe('settlements that can wait', () => {
    const accept = (pipe: Pipe, first: number, canWait = true) =>
      pipe.settle(SettleOperation.accept, 0, 9, first, 1, canWait);
    const delay = 5;
    const waiting = (options: Partial<PipeOptions> = {}) => harness({ settleDelayMilliseconds: delay, ...options });
    const settles = (payloads: readonly Buffer[]) => payloads.map((payload) => readBatchHeader(payload).settleCount);

    test('start no batch, and leave with what comes next', () => {
      const { pipe, state, publish } = waiting();
      accept(pipe, 1);
      pipe.flush();
      expect(state.sent).toEqual([]);
      publish(1);
      accept(pipe, 2);
      pipe.flush();
      expect(settles(state.payloads)).toEqual([2]);
      expect(pipe.unappliedBytes).toBe(state.payloads[0]!.length);
    });

    test('leave by themselves when they have waited long enough, asked for once', () => {
      const { pipe, state } = waiting();
      for (let first = 1; first <= 3; first += 2) accept(pipe, first);
      pipe.flush();
      expect(state.later).toMatchObject([{ milliseconds: delay }]);
      state.later[0]!.task();
      pipe.flush();
      expect(settles(state.payloads)).toEqual([2]);
      accept(pipe, 5);
      expect(state.later.length).toBe(2);
    });

    test('go with one that cannot wait', () => {
      const { pipe, state } = waiting();
      accept(pipe, 1);
      accept(pipe, 3, false);
      pipe.flush();
      expect(settles(state.payloads)).toEqual([2]);
    });

    test('do not wait when they are many, or when there is no delay', () => {
      const { pipe, state } = waiting();
      for (let first = 1; first <= 601; first += 2) accept(pipe, first);
      pipe.flush();
      expect(settles(state.payloads)).toEqual([301]);
      const hasty = harness({ settleDelayMilliseconds: 0 });
      accept(hasty.pipe, 1);
      hasty.pipe.flush();
      expect(settles(hasty.state.payloads)).toEqual([1]);
    });

    test('that come while others are under way are not left behind by them', () => {
      const { pipe, state, publish } = waiting({ batchesInFlightMax: 1 });
      publish(1);
      pipe.flush();
      accept(pipe, 1);
      state.later[0]!.task();
      pipe.flush();
      expect(state.sent).toEqual([1]);
      pipe.applied(1);
      pipe.flush();
      expect(settles(state.payloads)).toEqual([0, 1]);
    });
  });

  test('a row of another outbox is a command with a reply', () => {
    const { pipe, state } = harness();
    const answers: (number | null)[] = [];
    const row = { source: 2, after: 4, number: 9, queues: [5], flags: 0, priority: 0, expiration: 0xffff_ffff };
    pipe.transfer({ ...row, key, properties, body }, (result) => answers.push(result?.code ?? null));
    pipe.flush();
    const payload = state.payloads[0]!;
    expect(checkBatch(payload)).toBeNull();
    expect(payload[commandOffset(payload, 0)]).toBe(CommandKind.transfer);
    const view = viewMessage(payload, 0);
    expect(payload.toString('latin1', view.bodyStart, view.bodyEnd)).toBe('body');
    pipe.applied(1);
    expect(answers).toEqual([ResultCode.ok]);
  });

  test('a batch that the leader finds malformed is told to the origin', () => {
    const { pipe, state, publish, answer } = harness();
    publish(1);
    pipe.flush();
    answer('refused', 1);
    expect(state.refusals).toBe(1);
  });
});
