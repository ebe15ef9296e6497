// Messages read from the replica here: only of entries that it has applied, since what its log holds beyond may never be.

import { describe, expect, test } from 'vitest';
import { Messages } from '../../cluster/feed/messages.ts';
import type { Log } from '../../cluster/log/types.ts';
import { BatchBuilder, OriginKind } from '../../cluster/machine/commands.ts';
import type { Machine } from '../../cluster/machine/machine.ts';

function payloadOf(): Buffer {
  const builder = new BatchBuilder();
  builder.addPublish([7], 0, 0, 0xffff_ffff, Buffer.from([0, 0]), Buffer.alloc(2), [Buffer.from('x')], 1);
  return builder.seal({ kind: OriginKind.node, id: 1, incarnation: 1 }, 1, 1, 0);
}

describe('messages here', () => {
  test('are not read from an entry that may yet be replaced by another', () => {
    const log = { cachedPayload: () => payloadOf() } as unknown as Log;
    const machine = { appliedIndex: 4 } as Machine;
    const messages = new Messages({ log, machine: () => machine, damaged: () => {} });
    expect(messages.cached(1, 4)).not.toBeNull();
    expect(messages.cached(1, 5)).toBeNull();
  });
});
