// Messages read from the replica here: only of entries that it has applied, since what its log holds beyond may never be; large ones by pieces.

import { describe, expect, test } from 'vitest';
import { Messages } from '../../cluster/feed/messages.ts';
import type { Log } from '../../cluster/log/types.ts';
import { BatchBuilder, OriginKind, PartFlag, PublishFlag } from '../../cluster/machine/commands.ts';
import type { Machine } from '../../cluster/machine/machine.ts';

const origin = { kind: OriginKind.node, id: 1, incarnation: 1 } as const;
const limits = { bytesAtOnce: 200, restMilliseconds: 3 };
const clock = { after: () => ({ cancel: () => {} }) };
const isBusy = () => false;

function payloadOf(flags = 0): Buffer {
  const builder = new BatchBuilder();
  builder.addPublish([7], flags, 0, 0xffff_ffff, Buffer.from([0, 0]), Buffer.alloc(2), [Buffer.from('x')], 1);
  return builder.seal(origin, 1, 1, 0);
}

function partOf(bytes: Buffer): Buffer {
  const builder = new BatchBuilder();
  builder.addPart(PartFlag.first, [bytes], bytes.length);
  return builder.seal(origin, 1, 1, 0);
}

describe('messages here', () => {
  test('are not read from an entry that may yet be replaced by another', () => {
    const log = { cachedPayload: () => payloadOf() } as unknown as Log;
    const machine = { appliedIndex: 4 } as Machine;
    const messages = new Messages({ log, clock, limits, isBusy, machine: () => machine, damaged: () => {} });
    expect(messages.cached(1, 4)).not.toBeNull();
    expect(messages.cached(1, 5)).toBeNull();
  });

  describe('that are large', () => {
    /** A message of six parts of 100 bytes in the entries 1 to 6, and of one byte in entry 7. */
    const setting = () => {
      const state = { isBusy: true, reads: [] as number[], rests: [] as number[], wake: () => {} };
      const log = {
        has: () => true,
        readLive: (_group: number, index: number, done: (error: null, entry: object) => void) => {
          state.reads.push(index);
          const payload = index === 7 ? payloadOf(PublishFlag.parts) : partOf(Buffer.alloc(100, index));
          done(null, { kind: 'data', data: { payload } });
        },
      } as unknown as Log;
      const places = Array.from({ length: 6 }, (_, i) => ({ index: i + 1, ordinal: 0 }));
      const machine = { appliedIndex: 7, partsOf: () => places } as unknown as Machine;
      const messages = new Messages({
        log,
        limits,
        clock: {
          after: (milliseconds, task) => {
            state.rests.push(milliseconds);
            state.wake = task;
            return { cancel: () => {} };
          },
        },
        isBusy: () => state.isBusy,
        machine: () => machine,
        damaged: () => {},
      });
      const bodies: string[] = [];
      const read = (givesWay: boolean) =>
        messages.read(1, 7, [0], 1_000, givesWay, (views) => {
          const { before, payload, bodyStart, bodyEnd } = views![0]!;
          bodies.push(
            [...before.map((piece) => `${piece[0]}`), payload.toString('utf8', bodyStart, bodyEnd)].join(' '),
          );
        });
      return { state, read, bodies };
    };

    test('are read a little at a time while others are busy', () => {
      const { state, read, bodies } = setting();
      read(true);
      expect([state.reads, state.rests]).toEqual([[7, 1, 2], [3]]);
      state.wake();
      expect(state.reads).toEqual([7, 1, 2, 3, 4]);
      state.isBusy = false;
      state.wake();
      expect(state.rests).toEqual([3, 3]);
      expect(bodies).toEqual(['1 2 3 4 5 6 x']);
    });

    test('are read at once for another node, which has a deadline, and while nobody else is busy', () => {
      const { state, read, bodies } = setting();
      read(false);
      state.isBusy = false;
      read(true);
      expect(state.rests).toEqual([]);
      expect(bodies).toEqual(['1 2 3 4 5 6 x', '1 2 3 4 5 6 x']);
    });
  });
});
