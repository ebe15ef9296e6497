// While the leases of a consumer that went go back step by step: they are in the queue for everybody who asks.

import { describe, expect, it } from 'vitest';
import { ResultCode } from '../../cluster/machine/commands.ts';
import { storeBounds } from '../../cluster/machine/queue/store.ts';
import { consume, create, nodeOrigin, Script } from './shard-support.ts';

const me = nodeOrigin(1);

describe('leases that go back in steps', () => {
  it('keep their queue from being removed as an empty one', () => {
    const script = new Script(undefined, { ...storeBounds, returnsPerEntryMax: 2 });
    script.changes(7, create(7, 7));
    script.send(me, [consume(1, 7)]);
    script.publish(7, 9);
    script.sink.take();
    const remove = { kind: 'remove', queue: 7, ifUnused: false, ifEmpty: true } as const;
    const refused = (sequence: number, ordinal: number) => `result ${sequence}/${ordinal}: ${ResultCode.notEmpty} 0 0`;
    // At once, before the first of them is back.
    expect(script.send(me, [{ kind: 'cancel', consumer: 1, returnLeases: true }, remove])).toEqual([
      refused(2, 1),
      'applied 2',
    ]);
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 2, unsettled: 7 });
    script.roundTrip();
    // And when those that are back were purged.
    expect(script.send(me, [{ kind: 'purge', queue: 7 }, remove]).slice(1)).toEqual([refused(3, 1), 'applied 3']);
    while (script.machine.due === 0) script.lead();
    expect(script.machine.queueStatus(7)).toMatchObject({ ready: 7, unsettled: 0 });
  });
});
