// A pipe that has a message of many parts to send: everybody else goes between them, and nobody overtakes himself.

import { describe, expect, test } from 'vitest';
import {
  CommandKind,
  checkBatch,
  commandOffset,
  PartFlag,
  PublishFlag,
  partBytesMax,
  readBatchHeader,
  readPart,
  SettleOperation,
  viewMessage,
} from '../../cluster/machine/commands.ts';
import {
  type ConfirmTarget,
  nodeOrigin,
  type Pipe,
  type PipeHost,
  type PipeOptions,
} from '../../cluster/origin/pipe.ts';
import { createMemoryRandom } from '../support/memory-random.ts';
import { createQuietPipe } from '../support/quiet-pipe.ts';

const properties = Buffer.alloc(2);
const noExpiration = 0xffff_ffff;

/** Whose the message is, and its number among his, are its key. */
const keyOf = (name: string, tag: number) => {
  const text = Buffer.from(`${name}${tag}`);
  return Buffer.concat([Buffer.of(0, text.length), text]);
};

class Client implements ConfirmTarget {
  readonly confirmedTags: number[] = [];
  readonly name: string;
  readonly #pipe: Pipe;
  tag = 0;

  constructor(name: string, pipe: Pipe) {
    this.name = name;
    this.#pipe = pipe;
  }

  publish(bytes: number): void {
    const tag = ++this.tag;
    const key = keyOf(this.name, tag);
    this.#pipe.publish(this, [1], 0, 0, noExpiration, key, properties, [Buffer.alloc(bytes, tag)], bytes, this, tag);
  }
  confirmed(first: number, last: number, ok: boolean): void {
    for (let tag = first; tag <= last; tag++) this.confirmedTags.push(ok ? tag : -tag);
  }
  unroutable(): void {}
}

function started(options: Partial<PipeOptions> = {}, host: Partial<PipeHost> = {}) {
  const state = { congestions: 0, applied: 0 };
  const { pipe, payloads } = createQuietPipe(options, { congestion: () => state.congestions++, ...host });
  const [ann, bob] = [new Client('ann', pipe), new Client('bob', pipe)];
  /** One more batch is applied, and what may leave then leaves. */
  const apply = () => {
    pipe.applied(++state.applied);
    pipe.flush();
  };
  const applyAll = () => {
    while (state.applied < payloads.length) apply();
  };
  return { pipe, payloads, state, ann, bob, apply, applyAll };
}

/** In words: what is in a batch. */
function contentOf(payload: Buffer): string[] {
  expect(checkBatch(payload)).toBe(null);
  const { commandCount, settleCount } = readBatchHeader(payload);
  const words = Array.from({ length: commandCount }, (_, ordinal) => {
    const at = commandOffset(payload, ordinal);
    const kind = payload[at];
    if (kind === CommandKind.part) return readPart(payload, at).flags === PartFlag.first ? 'first' : 'part';
    if (kind === CommandKind.purge) return 'purge';
    const { keyStart, propertiesStart, flags } = viewMessage(payload, ordinal);
    const key = payload.toString('latin1', keyStart + 2, propertiesStart);
    return (flags & PublishFlag.parts) === 0 ? key : `${key}, large`;
  });
  return settleCount > 0 ? [...words, `${settleCount} settled`] : words;
}

const largeBytes = 6 * partBytesMax;

describe('beside a message of many parts', () => {
  test('others leave next, on a place that is kept for them', () => {
    const { pipe, payloads, ann, bob, apply, applyAll } = started({ batchesInFlightMax: 3 });
    ann.publish(largeBytes);
    pipe.flush();
    expect(payloads.map(contentOf)).toEqual([['first'], ['part']]);
    bob.publish(10);
    pipe.settle(SettleOperation.accept, 0, 9, 1, 1);
    pipe.flush();
    expect(contentOf(payloads[2]!)).toEqual(['bob1', '1 settled']);
    for (let i = 0; i < 3; i++) apply();
    expect(bob.confirmedTags).toEqual([1]);
    expect(ann.confirmedTags).toEqual([]);
    applyAll();
    expect(payloads.slice(3).map(contentOf)).toEqual([['part'], ['part'], ['part'], ['ann1, large']]);
    expect(ann.confirmedTags).toEqual([1]);
    expect(pipe.unappliedBytes).toBe(0);
  });

  describe('while others are busy', () => {
    const busy = (options: Partial<PipeOptions> = {}) => {
      const host = { now: 0, isBusy: true, rests: [] as number[], wake: () => {} };
      const setting = started(options, {
        now: () => host.now,
        isBusy: () => host.isBusy,
        after: (milliseconds, task) => {
          host.rests.push(milliseconds);
          host.wake = task;
        },
      });
      const wake = () => {
        host.wake();
        setting.pipe.flush();
      };
      return { ...setting, host, wake };
    };

    test('one part at a time leaves, and the next one after as long as that one took; others go meanwhile', () => {
      const { pipe, payloads, ann, bob, apply, host, wake } = busy();
      ann.publish(3 * partBytesMax);
      pipe.flush();
      expect(payloads.map(contentOf)).toEqual([['first']]);
      host.now = 7;
      apply();
      expect(payloads.length).toBe(1);
      bob.publish(10);
      pipe.flush();
      expect(contentOf(payloads[1]!)).toEqual(['bob1']);
      apply();
      expect(payloads.length).toBe(2);
      expect(bob.confirmedTags).toEqual([1]);
      wake();
      expect(contentOf(payloads[2]!)).toEqual(['part']);
      expect(host.rests).toEqual([7]);
    });

    test('acknowledgements that can wait do not wait for the end of the rest', () => {
      const { pipe, ann, apply, host } = busy({ settleDelayMilliseconds: 5 });
      ann.publish(3 * partBytesMax);
      pipe.flush();
      host.now = 40;
      apply();
      pipe.settle(SettleOperation.accept, 0, 9, 1, 1, true);
      expect(host.rests).toEqual([40, 5]);
    });

    test('a part that took very long is followed by a bounded rest, the last one and those beside idle others by none', () => {
      const { pipe, payloads, ann, applyAll, apply, host, wake } = busy({ partRestMillisecondsMax: 50 });
      ann.publish(6 * partBytesMax);
      pipe.flush();
      host.now = 5_000;
      apply();
      wake();
      host.isBusy = false;
      applyAll();
      expect(payloads.map(contentOf)).toEqual([['first'], ['part'], ['part'], ['part'], ['part'], ['ann1, large']]);
      host.isBusy = true;
      ann.publish(10);
      pipe.flush();
      applyAll();
      expect(ann.confirmedTags).toEqual([1, 2]);
      expect(host.rests).toEqual([50]);
    });

    test('nothing rests if it is not to', () => {
      const { pipe, payloads, ann, applyAll, host } = busy({ partRestMillisecondsMax: 0, batchesInFlightMax: 3 });
      ann.publish(3 * partBytesMax);
      pipe.flush();
      expect(payloads.length).toBe(2);
      applyAll();
      expect(host.rests).toEqual([]);
      expect(ann.confirmedTags).toEqual([1]);
    });

    test('an incarnation that begins anew does not take over a rest', () => {
      const { pipe, payloads, ann, apply, host } = busy();
      ann.publish(3 * partBytesMax);
      pipe.flush();
      host.now = 7;
      apply();
      pipe.restart(nodeOrigin(1, 8));
      ann.publish(3 * partBytesMax);
      pipe.flush();
      expect(payloads.map(contentOf)).toEqual([['first'], ['first']]);
    });
  });

  test('others take turns with it, however much they send', () => {
    const { pipe, payloads, ann, bob, applyAll } = started({ batchesInFlightMax: 2 });
    ann.publish(3 * partBytesMax);
    for (let i = 0; i < 5; i++) bob.publish(partBytesMax);
    pipe.flush();
    applyAll();
    expect(payloads.map(contentOf)).toEqual([
      ['bob1'],
      ['first'],
      ['bob2'],
      ['part'],
      ['bob3'],
      ['ann1, large'],
      ['bob4'],
      ['bob5'],
    ]);
  });

  test('its sender stays in order: with what he sent before, and with what he asks for until it has left', () => {
    const { pipe, payloads, ann, applyAll } = started({ batchesInFlightMax: 2 });
    for (let i = 0; i < 3; i++) ann.publish(partBytesMax);
    ann.publish(2 * partBytesMax);
    ann.publish(10);
    const purged: string[] = [];
    pipe.purge(ann, 1, () => purged.push(`${ann.confirmedTags}`));
    pipe.whenApplied(ann, () => purged.push('all'));
    pipe.flush();
    applyAll();
    expect(payloads.map(contentOf)).toEqual([
      ['ann1'],
      ['first'],
      ['ann2'],
      ['ann3'],
      ['ann4, large'],
      ['ann5', 'purge'],
    ]);
    expect(ann.confirmedTags).toEqual([1, 2, 3, 4, 5]);
    expect(purged).toEqual(['1,2,3,4', 'all']);
    ann.publish(10);
    pipe.flush();
    expect(contentOf(payloads.at(-1)!)).toEqual(['ann6']);
  });

  test('it holds up who sent it, and nobody else', () => {
    const { pipe, state, ann, bob, apply, applyAll } = started({ windowBytes: 8 * partBytesMax });
    ann.publish(20 * partBytesMax);
    bob.publish(10);
    pipe.flush();
    expect([ann, bob].map((client) => pipe.isCongestedFor(client))).toEqual([true, false]);
    expect(state.congestions).toBe(1);
    while (pipe.isCongestedFor(ann)) apply();
    expect(state.congestions).toBe(2);
    expect(pipe.unappliedBytes).toBeGreaterThan(3 * partBytesMax);
    expect(pipe.unappliedBytes).toBeLessThan(8 * partBytesMax);
    applyAll();
    for (let i = 0; i < 10; i++) bob.publish(partBytesMax);
    expect([ann, bob].map((client) => pipe.isCongestedFor(client))).toEqual([true, true]);
    expect(state.congestions).toBe(3);
  });

  test('whoever is through goes on, though others keep it full', () => {
    const { pipe, state, ann, bob, apply } = started({ windowBytes: 8 * partBytesMax });
    ann.publish(4 * partBytesMax);
    bob.publish(20 * partBytesMax);
    pipe.flush();
    expect([ann, bob].map((client) => pipe.isCongestedFor(client))).toEqual([true, true]);
    while (ann.confirmedTags.length === 0) apply();
    expect([ann, bob].map((client) => pipe.isCongestedFor(client))).toEqual([false, true]);
    // Once when it was full, and once for Ann.
    expect(state.congestions).toBe(2);
  });

  test('a transaction that has one is answered when all of it was applied', () => {
    const { pipe, payloads, ann, bob, apply, applyAll } = started({ batchesInFlightMax: 2 });
    const answers: string[] = [];
    const add = () => {
      pipe.settle(SettleOperation.accept, 0, 9, 1, 2);
      ann.publish(10);
      ann.publish(2 * partBytesMax);
      ann.publish(10);
    };
    pipe.atomically(ann, add, () => answers.push(`${ann.confirmedTags}`));
    pipe.flush();
    bob.publish(10);
    apply();
    apply();
    expect(answers).toEqual([]);
    applyAll();
    expect(payloads.map(contentOf)).toEqual([['ann1', '1 settled'], ['first'], ['bob1'], ['ann2, large', 'ann3']]);
    expect(answers).toEqual(['1']);
    expect(ann.confirmedTags).toEqual([1, 2, 3]);
  });

  test('whoever waits is told "unknown" when the incarnation ends, and the next one begins with nothing', () => {
    const { pipe, payloads, state, ann } = started({ windowBytes: 8 * partBytesMax });
    ann.publish(20 * partBytesMax);
    pipe.flush();
    pipe.restart(nodeOrigin(1, 8));
    expect(ann.confirmedTags).toEqual([-1]);
    expect(pipe.isCongestedFor(ann)).toBe(false);
    expect([pipe.unappliedBytes, state.congestions]).toEqual([0, 2]);
    payloads.length = 0;
    ann.publish(2 * partBytesMax);
    pipe.flush();
    expect(payloads.map(contentOf)).toEqual([['first'], ['ann2, large']]);
  });

  test('at random, everybody is in his own order, and every message has its parts', () => {
    for (let seed = 1; seed <= 60; seed++) {
      const random = createMemoryRandom(seed);
      const { pipe, payloads, state, apply, applyAll } = started({ batchesInFlightMax: 1 + random.integer(4) });
      const clients = ['a', 'b', 'c', 'd'].map((name) => new Client(name, pipe));
      const told: { readonly key: string; readonly applied: number }[] = [];
      for (let step = 0; step < 60; step++) {
        const client = clients[random.integer(clients.length)]!;
        const choice = random.integer(10);
        if (choice < 5) client.publish(random.integer(2) === 0 ? 10 : random.integer(partBytesMax));
        else if (choice < 7) client.publish(partBytesMax + 1 + random.integer(4 * partBytesMax));
        else if (choice < 8) pipe.settle(SettleOperation.accept, 0, 9, 1, 1);
        else if (client.tag > 0) {
          const key = `${client.name}${client.tag}`;
          pipe.whenApplied(client, () => told.push({ key, applied: state.applied }));
        }
        if (random.integer(3) === 0) pipe.flush();
        if (random.integer(4) === 0 && state.applied < payloads.length) apply();
      }
      pipe.flush();
      applyAll();
      expect(pipe.unappliedBytes, `seed ${seed}`).toBe(0);
      const order: string[] = [];
      const sequenceOf = new Map<string, number>();
      let pieces = 0;
      for (const [i, payload] of payloads.entries())
        for (const word of contentOf(payload)) {
          if (word === 'first') pieces = 1;
          else if (word === 'part') pieces++;
          else if (!word.endsWith('settled')) {
            const [key, large] = word.split(', ') as [string, string?];
            order.push(key);
            sequenceOf.set(key, i + 1);
            if (large === undefined) continue;
            expect(pieces, `seed ${seed}: ${word}`).toBeGreaterThan(0);
            pieces = 0;
          }
        }
      for (const { name, tag, confirmedTags } of clients) {
        const tags = Array.from({ length: tag }, (_, i) => i + 1);
        expect(
          order.filter((key) => key.startsWith(name)),
          `seed ${seed}`,
        ).toEqual(tags.map((n) => `${name}${n}`));
        expect(confirmedTags, `seed ${seed}`).toEqual(tags);
      }
      for (const { key, applied } of told) expect(sequenceOf.get(key), `seed ${seed}`).toBeLessThanOrEqual(applied);
    }
  });
});
