// What drives dead letters on, against a shard whose leader it only plays: what it must not send, and what it must not take for damage.

import { describe, expect, test } from 'vitest';
import type { MessageViews } from '../../cluster/feed/messages.ts';
import type { Group } from '../../cluster/group/group.ts';
import type { LeaderBatches } from '../../cluster/leading/leader-batches.ts';
import { OutboxDriver } from '../../cluster/leading/outbox-driver.ts';
import type { TransferRow } from '../../cluster/machine/commands.ts';
import { BatchBuilder, type MessageView, OriginKind } from '../../cluster/machine/commands.ts';
import { volatileGroupOf } from '../../cluster/machine/groups.ts';
import type { MetadataView } from '../../cluster/machine/metadata-types.ts';
import { defaultLimits } from '../../cluster/options.ts';
import type { CommandReply, Pipe } from '../../cluster/origin/pipe.ts';
import { consume, create, nodeOrigin, Script, settle } from '../machine/shard-support.ts';

const letter: MessageView = (() => {
  const payload = new BatchBuilder();
  payload.addPublish([7], 0, 0, 0xffff_ffff, Buffer.from([0, 1, 0x71]), Buffer.alloc(2), [Buffer.from('x')], 1);
  const bytes = payload.seal({ kind: OriginKind.node, id: 1, incarnation: 1 }, 1, 1, 0);
  const keyStart = 56 + 20 + 4;
  return {
    payload: bytes,
    flags: 0,
    keyStart,
    propertiesStart: keyStart + 3,
    bodyStart: keyStart + 5,
    bodyEnd: keyStart + 6,
    before: [],
  };
})();

/** A shard with queue 7, whose dead letters go to the queues that `route` says, and its leader. */
class World {
  readonly script = new Script();
  readonly metadata = { appliedIndex: 100, shards: [{ shard: 4, queues: [40] }] };
  readonly sent: TransferRow[] = [];
  readonly replies: CommandReply[] = [];
  /** Reads that wait for `answer`; null: they are answered at once. */
  held: ((views: MessageViews) => void)[] | null = null;
  halted: Error | null = null;
  readonly group: Group;
  driver: OutboxDriver;

  constructor() {
    const { script } = this;
    script.changes(7, create(7, 7, false, { 'x-dead-letter-exchange': 'dlx' }));
    script.send(nodeOrigin(1), [consume(1, 7)]);
    this.group = {
      id: 3,
      leads: true,
      raft: {
        term: 1,
        get lastIndex() {
          return script.index;
        },
      },
      get appliedIndex() {
        return script.index;
      },
      halt: (error: Error) => {
        this.halted = error;
      },
    } as unknown as Group;
    this.driver = this.lead();
  }

  /** Another node leads from now on. */
  lead(): OutboxDriver {
    const { script, metadata } = this;
    const sequences = { next: 1 };
    const append = (_group: Group, add: (builder: BatchBuilder) => void) => {
      const builder = new BatchBuilder();
      add(builder);
      script.applyPayload(builder.seal({ kind: OriginKind.group, id: 3, incarnation: 1 }, sequences.next++, 0, 0));
      return true;
    };
    this.driver = new OutboxDriver({
      limits: { ...defaultLimits.outbox, queuesPerRouteMax: 5 },
      metadata: {
        get appliedIndex() {
          return metadata.appliedIndex;
        },
        route: () => ({ shards: metadata.shards }),
      } as unknown as MetadataView,
      shards: new Map([[3, script.machine]]),
      batches: { append } as unknown as LeaderBatches,
      isFresh: () => true,
      pipe: () =>
        ({
          isStalled: false,
          isCongestedFor: () => false,
          transfer: (row: TransferRow, reply: CommandReply) => {
            this.sent.push(row);
            this.replies.push(reply);
          },
        }) as unknown as Pipe,
      read: (_group, _entry, _ordinals, _isWanted, done) => {
        if (this.held === null) done([letter]);
        else this.held.push(done);
      },
      readHeaders: () => ({}),
      withDeath: (properties) => properties,
      wall: () => 0,
      schedule: () => {},
    });
    return this.driver;
  }

  /** `count` messages are refused for good. */
  refuse(count: number): void {
    const first = this.script.machine.lettersRouted + this.script.machine.letters(1000).length + 1;
    this.script.publish(7, count);
    this.script.send(nodeOrigin(1), [], [settle('discard', 1, first, count)]);
  }

  drive(): void {
    for (let round = 0; round < 3; round++) {
      this.driver.tick(this.group);
      this.driver.flush();
    }
  }
}

describe('the driver of dead letters', () => {
  test('sends nothing by older metadata than a letter was routed by: its queue might not be there yet', () => {
    const world = new World();
    world.held = [];
    world.refuse(1);
    world.drive();
    // It is routed, and then another node leads, whose metadata have not come as far.
    world.held.pop()!([letter]);
    expect(world.script.machine.outbox.targets()).toEqual([4]);
    world.held = null;
    world.metadata.appliedIndex = 99;
    world.lead();
    world.script.roundTrip();
    world.drive();
    expect(world.sent).toEqual([]);
    world.metadata.appliedIndex = 100;
    world.drive();
    expect(world.sent).toMatchObject([{ number: 1, queues: [40] }]);
  });

  test('does not take for damage that a message is gone which is not owed any more', () => {
    const world = new World();
    const target = volatileGroupOf({ node: 3, incarnation: 5 });
    world.metadata.shards = [{ shard: target, queues: [40] }];
    world.held = [];
    world.refuse(1);
    world.drive();
    world.held.pop()!([letter]);
    world.drive();
    expect([world.held.length, world.script.machine.outbox.targets()]).toEqual([1, [target]]);
    // While it is read the group that it is for ends, and with it the row.
    world.script.changes(9, { kind: 'fence', version: 9, node: 3, incarnation: 5 });
    expect(world.script.machine.hasLiveEntries(1, 99)).toBe(false);
    world.held.pop()!([null]);
    expect(world.halted).toBeNull();
    // One that is owed must be there.
    world.metadata.shards = [{ shard: 4, queues: [40] }];
    world.refuse(1);
    world.drive();
    world.held.pop()!([letter]);
    world.drive();
    world.held.pop()!([null]);
    expect(world.halted?.message).toMatch(/is owed to others and cannot be read/);
  });

  test('lets what expired not expire again where it came from, in a circle that nobody stops', () => {
    for (const isExpired of [true, false]) {
      const world = new World();
      world.metadata.shards = [
        { shard: 3, queues: [7] },
        { shard: 4, queues: [7, 40] },
      ];
      const configure = { 'x-dead-letter-exchange': 'dlx', 'x-message-ttl': 10 };
      world.script.changes(8, { kind: 'configure', version: 8, uid: 7, arguments: configure });
      if (isExpired) {
        world.script.send(nodeOrigin(1), [{ kind: 'cancel', consumer: 1, returnLeases: true }]);
        world.script.publish(7, 1);
        world.script.tick(10);
      } else world.refuse(1);
      world.drive();
      const rows = world.sent.map(({ queues }) => queues);
      expect(rows).toEqual(isExpired ? [[40]] : [[7], [7, 40]]);
    }
  });

  test('routes with one entry only so many letters as go to so many queues', () => {
    const world = new World();
    world.metadata.shards = [{ shard: 4, queues: [40, 41, 42] }];
    world.held = [];
    world.refuse(5);
    const routed: number[] = [];
    for (let round = 0; round < 20; round++) {
      world.driver.tick(world.group);
      world.driver.flush();
      world.held.shift()?.([letter]);
      routed.push(world.script.machine.lettersRouted);
    }
    expect([...new Set(routed)]).toEqual([0, 2, 4, 5]);
  });
});
