// A snapshot of very many queues while entries are applied (B14): what it takes at once is little, and grows with what is touched, not with
// what there is. Counted, not timed, so that a busy machine makes no difference.

import { describe, expect, it } from 'vitest';
import { StoreSnapshot } from '../../cluster/machine/queue/snapshot.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { type Command, create, nodeOrigin, Script } from './shard-support.ts';

const queues = 20_000;
const large = 7;
const pieceBytes = 64 * 1024;

/** Very many small queues, and one with so many messages that it takes many pieces by itself. */
function loaded(): Script {
  const script = new Script();
  // Checking all of it after each entry would take longer than all the rest.
  script.machine.validate = () => {};
  for (let uid = 1; uid <= queues; uid += 1_000)
    script.changes(uid, ...Array.from({ length: 1_000 }, (_, i) => create(uid, uid + i)));
  for (let first = 1; first <= queues; first += 10_000)
    script.send(
      nodeOrigin(2),
      Array.from(
        { length: Math.min(10_000, queues - first + 1) },
        (_, i): Command => ({ kind: 'publish', queues: [first + i], bytes: 10 }),
      ),
    );
  for (let i = 0; i < 8; i++) script.publish(large, 10_000);
  return script;
}

describe('a snapshot under load', () => {
  it('keeps a queue as it was only when that is touched, once; and comes in bounded pieces', () => {
    const script = loaded();
    const { capture } = StoreSnapshot.prototype;
    const captured: number[] = [];
    StoreSnapshot.prototype.capture = function (this: StoreSnapshot, queue) {
      captured.push(queue.uid);
      return capture.call(this, queue);
    };
    try {
      const expected = Buffer.concat(drain(script.machine.snapshot()));
      captured.length = 0;
      const snapshot = script.machine.snapshot();
      // Nothing is written down at the beginning, however much there is.
      expect(captured).toEqual([]);
      const pieces: Buffer[] = [];
      const touched = new Set<number>();
      for (let round = 0; ; round++) {
        const piece = snapshot.next(pieceBytes);
        if (piece === null) break;
        pieces.push(piece);
        expect(piece.length).toBeLessThanOrEqual(2 * pieceBytes);
        // From both ends, and the large one again and again.
        for (const uid of [queues - (round % queues), 1 + (round % queues), large]) {
          const before = captured.length;
          script.publish(uid, 1);
          touched.add(uid);
          expect(captured.length - before).toBeLessThanOrEqual(1);
        }
      }
      snapshot.close();
      expect(Buffer.concat(pieces).equals(expected)).toBe(true);
      expect(pieces.length).toBeGreaterThan(expected.length / pieceBytes / 2);
      // Never twice, and but for the large one only because somebody touched it first.
      expect(new Set(captured).size).toBe(captured.length);
      expect(captured.filter((uid) => !touched.has(uid))).toEqual([]);
      expect(captured).toContain(large);
      captured.length = 0;
      script.publish(1, 1);
      expect(captured).toEqual([]);
    } finally {
      StoreSnapshot.prototype.capture = capture;
    }
  });
});
