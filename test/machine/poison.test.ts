// What must not happen whatever stands in an entry: that a machine throws (A7). An entry that halts one replica halts all of them, again
// after every restart.

import { describe, expect, it } from 'vitest';
import { BatchBuilder, batchHeaderBytes, type Origin, OriginKind } from '../../cluster/machine/commands.ts';
import { MetadataMachine } from '../../cluster/machine/metadata.ts';
import type { MetadataCommand } from '../../cluster/machine/metadata-types.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { binding, declareExchange, declareQueue, formedOf, openNode } from './metadata-support.ts';
import { randomFrom } from './shard-random.ts';
import {
  type Command,
  consume,
  create,
  encode,
  type FurtherCommand,
  metadataOrigin,
  nodeOrigin,
  settle,
} from './shard-support.ts';

const seed = Date.now() & 0xfff_ffff;
const rounds = 2_000;
/** At first headers stay whole: an incarnation that is too high ends its pipe for good. */
const firstSpoiled = (round: number) => (round < 0.8 * rounds ? batchHeaderBytes : 0);

/** A batch of every kind of command. Sequences are as they come: most copies are in their place. */
function shardBatch(origin: Origin, sequence: number): Buffer {
  const commands: (Command | FurtherCommand)[] =
    origin.kind === OriginKind.node
      ? [
          { kind: 'publish', queues: [1, 2], bytes: 20 },
          consume(sequence, 1, { unsettledMax: 3 }),
          { kind: 'credit', consumer: sequence, unsettledMax: 2, grantedTo: 50 },
          { kind: 'get', consumer: 1_000_000 + sequence, queue: 2, noAck: false },
          { kind: 'part', first: true, bytes: 30 },
          { kind: 'last', queues: [1], bytes: 5 },
          { kind: 'transfer', source: 9, after: sequence - 1, row: sequence, queues: [2], bytes: 4, parts: false },
          { kind: 'cancel', consumer: Math.max(0, sequence - 3), returnLeases: true },
          { kind: 'purge', queue: 2 },
          { kind: 'remove', queue: 3, ifEmpty: true, ifUnused: true },
        ]
      : [
          { kind: 'changes', version: 5 + sequence, changes: [create(5 + sequence, 5 + sequence)] },
          { kind: 'suspect', node: 1, incarnation: 1, suspected: sequence % 2 === 0 },
          { kind: 'route', json: '{"first":0,"letters":[[[2,[7]]]]}' },
          { kind: 'done', target: 2, row: 1 },
        ];
  const settles =
    origin.kind === OriginKind.node
      ? [settle('discard', Math.max(0, sequence - 1), 1, 2), settle('requeue', 1, 1, 9)]
      : [];
  return encode({ origin, sequence, acknowledged: Math.max(0, sequence - 2), settles, commands });
}

/** Up to three bytes from `first` on are others, or the end is missing, or all is as it was. */
function spoil(payload: Buffer, first: number, random: (bound: number) => number): Buffer {
  const bytes = Buffer.from(payload);
  for (let count = random(4); count > 0; count--) {
    const at = first + random(bytes.length - first);
    bytes[at] = random(3) === 0 ? random(256) : bytes[at]! ^ (1 << random(8));
  }
  return random(20) === 0 ? bytes.subarray(0, random(bytes.length + 1)) : bytes;
}

describe('spoiled entries', () => {
  it('do nothing to a shard but what replicas agree on', () => {
    const random = randomFrom(seed);
    const replicas = [new ShardMachine(3), new ShardMachine(3)];
    const origins = [nodeOrigin(1), nodeOrigin(2), metadataOrigin];
    let index = 0;
    const apply = (payload: Buffer) => {
      index++;
      const stamp = random(4) === 0 ? random(1_000_000) : index;
      for (const machine of replicas) machine.apply({ index, term: 1, stamp, machineVersion: 1, payload });
    };
    const further = { 'x-dead-letter-exchange': 'dlx', 'x-message-ttl': 50 };
    const changes = [create(1, 1), create(2, 2, false, further), create(3, 3, true)];
    apply(
      encode({
        origin: metadataOrigin,
        sequence: 1,
        acknowledged: 0,
        settles: [],
        commands: [{ kind: 'changes', version: 3, changes }],
      }),
    );
    for (let round = 0; round < rounds; round++) {
      const origin = origins[random(origins.length)]!;
      // As the machine has it: what was spoiled beyond recognition is sent again, and some come too early.
      const last =
        origin.kind === OriginKind.node ? replicas[0]!.lastSequence({ node: origin.id, incarnation: 1 }) : round;
      const sequence = random(30) === 0 ? last + 2 : last + 1;
      apply(spoil(shardBatch(origin, sequence), firstSpoiled(round), random));
      if (round % 500 === 0) for (const machine of replicas) machine.validate();
    }
    for (const machine of replicas) machine.validate();
    expect(replicas[0]!.refusals.malformed, `seed ${seed}`).toBeGreaterThan(rounds / 20);
    expect(replicas[0]!.stateHash(), `seed ${seed}`).toBe(replicas[1]!.stateHash());
  });

  it('do nothing to the metadata but what replicas agree on', () => {
    const random = randomFrom(seed);
    const options = { shards: 4, initial: formedOf(3) };
    const replicas = [new MetadataMachine(options), new MetadataMachine(options)];
    const builder = new BatchBuilder(1024);
    let [index, incarnation, admitted] = [0, 1, 0];
    const commands = (round: number): MetadataCommand[] => [
      openNode(incarnation, 1 + random(3)),
      declareQueue(`q${round % 50}`, { autoDelete: round % 2 === 0, arguments: { 'x-expires': round } }),
      declareExchange(`x${round % 20}`, round % 2 === 0 ? 'topic' : 'headers'),
      { kind: 'bind', ...binding(`x${random(20)}`, `q${random(50)}`, 'a.#.b', { 'x-match': 'any', k: round }) },
      { kind: 'bind', ...binding(`x${random(20)}`, `>x${random(20)}`) },
      { kind: 'unbind', ...binding(`x${random(20)}`, `q${random(50)}`, 'a.#.b') },
      { kind: 'deleteQueue', uid: random(200) },
      { kind: 'deleteExchange', vhost: '/', name: `x${random(20)}`, ifUnused: round % 3 === 0 },
      { kind: 'shardApplied', shard: 1 + random(4), version: index },
    ];
    for (let round = 0; round < rounds; round++) {
      for (const command of commands(round)) if (random(3) === 0) builder.addMetadata(JSON.stringify(command));
      const pipe = { node: 1, incarnation };
      const last = replicas[0]!.lastSequence(pipe);
      const payload = spoil(builder.seal(nodeOrigin(1, incarnation), last + 1, 0, last), firstSpoiled(round), random);
      index++;
      for (const machine of replicas) machine.apply({ index, term: 1, stamp: index, machineVersion: 1, payload });
      if (replicas[0]!.lastSequence(pipe) > last) admitted++;
      // A digit of its own opening may have become another one.
      if (replicas[0]!.isFenced(pipe)) incarnation++;
    }
    expect(admitted, `seed ${seed}`).toBeGreaterThan(rounds / 4);
    expect(replicas[0]!.stateHash(), `seed ${seed}`).toBe(replicas[1]!.stateHash());
  });
});
