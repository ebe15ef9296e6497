// Machines that know a second version: what was written by the first stays what it was, and what comes after it is of the second.

import { describe, expect, it } from 'vitest';
import { ResultCode } from '../../cluster/machine/commands.ts';
import type { MetadataMachine } from '../../cluster/machine/metadata.ts';
import type { MetadataCommand } from '../../cluster/machine/metadata-types.ts';
import { storeBounds } from '../../cluster/machine/queue/store.ts';
import type { ShardMachine } from '../../cluster/machine/shard.ts';
import { drain } from '../../cluster/machine/snapshot-pieces.ts';
import { latestVersion, machineVersions, metadataVersions } from '../../cluster/machine/versions.ts';
import { Bench, declareQueue, openNode, owner } from './metadata-support.ts';
import { create, nodeOrigin, Script } from './shard-support.ts';

const me = { node: 1, incarnation: 1 };
const first = { ...storeBounds, debtPerEntryMax: 10 };
/** Does less at a time. */
const second = { ...storeBounds, debtPerEntryMax: 3 };

const bytesOf = (machine: ShardMachine | MetadataMachine): Buffer => Buffer.concat(drain(machine.snapshot()));

/** 100 messages of a queue that was purged, of which nothing was worked off but with the entry of the purge. */
function purged(script: Script): Script {
  script.changes(1, create(1, 1));
  script.publish(1, 100);
  script.send(nodeOrigin(2), [{ kind: 'purge', queue: 1 }]);
  return script;
}

describe('a shard', () => {
  it('replays entries of an older version exactly as the machine that knows no other', () => {
    const old = purged(new Script(me, first));
    const young = purged(new Script(me, first, second));
    for (const script of [old, young]) {
      script.lead();
      expect(script.machine.debt).toBe(80);
      expect(script.machine.version).toBe(1);
    }
    expect(bytesOf(young.machine).equals(bytesOf(old.machine))).toBe(true);
  });

  it('goes on from a snapshot of an older version as if it had lived through it', () => {
    const old = purged(new Script(me, first));
    const young = purged(new Script(me, first, second));
    const joined = new Script(me, first, second);
    joined.machine.restore(bytesOf(old.machine));
    joined.index = old.index;
    const later = new Script(me, first, second);
    for (const script of [young, joined]) {
      script.version = 2;
      script.lead();
      expect([script.machine.debt, script.machine.version]).toEqual([87, 2]);
      // A leader that has not heard of the second one yet: the state is of that one already.
      script.version = 1;
      script.lead();
      expect([script.machine.debt, script.machine.version]).toEqual([84, 2]);
    }
    expect(bytesOf(joined.machine).equals(bytesOf(young.machine))).toBe(true);
    later.machine.restore(bytesOf(joined.machine));
    later.index = joined.index;
    later.lead();
    expect([later.machine.debt, later.machine.version]).toEqual([81, 2]);
  });

  it('refuses entries and snapshots of a version that it does not know, and keeps its state', () => {
    const old = purged(new Script(me, first));
    const young = purged(new Script(me, first, second));
    young.version = 2;
    young.lead();
    const before = bytesOf(old.machine);
    expect(() => old.machine.restore(bytesOf(young.machine))).toThrow(
      'the snapshot needs machine version 2, this node knows versions up to 1',
    );
    old.version = 2;
    expect(() => old.lead()).toThrow('an entry needs machine version 2, this node knows versions up to 1');
    expect(bytesOf(old.machine).equals(before)).toBe(true);
  });
});

describe('the metadata', () => {
  const two = [{ debtItemsPerEntry: 10 }, { debtItemsPerEntry: 3 }];
  const knows = (machineVersion: number, node: number, incarnation = 1): MetadataCommand =>
    Object.assign({ machineVersion }, openNode(incarnation, node));
  const raise = (version: number): MetadataCommand => ({ kind: 'raiseVersion', version });

  it('raise the version once every member has said that it knows it, and never lower it', () => {
    const bench = new Bench(3, { versions: two });
    bench.run(knows(2, 1), knows(2, 2));
    // The third one has never opened.
    expect([bench.machine.knownVersion, bench.code(raise(2))]).toEqual([0, ResultCode.refused]);
    bench.runAs(3, 1, [openNode(1, 3)]);
    expect([bench.machine.knownVersion, bench.code(raise(2))]).toEqual([1, ResultCode.refused]);
    bench.runAs(3, 2, [knows(2, 3, 2)]);
    expect([bench.machine.knownVersion, bench.code(raise(2))]).toEqual([2, ResultCode.ok]);
    expect([bench.machine.machineVersion, bench.machine.version]).toEqual([2, 1]);
    expect([bench.code(raise(1)), bench.machine.machineVersion]).toEqual([ResultCode.ok, 2]);
    // Whoever comes back with older code could not follow.
    bench.runAs(2, 2, [openNode(2, 2)]);
    expect(bench.machine.node(2)!.incarnation).toBe(1);
    expect(bench.code('{"kind":"raiseVersion","version":256}')).toBe(ResultCode.refused);
  });

  it('are replayed exactly, go on from an older snapshot, and refuse what they do not know', () => {
    const old = new Bench(3, { versions: two.slice(0, 1) });
    const young = new Bench(3, { versions: two });
    for (const bench of [old, young]) {
      bench.run(knows(2, 1), knows(2, 2), knows(2, 3));
      bench.run(...Array.from({ length: 40 }, (_, i) => declareQueue(`q${i}`, { exclusive: owner(1) })));
      bench.run(raise(2));
    }
    expect(bytesOf(young.machine).equals(bytesOf(old.machine))).toBe(true);
    const joined = new Bench(3, { versions: two });
    joined.machine.restore(bytesOf(old.machine));
    joined.index = old.index;
    expect(joined.machine.machineVersion).toBe(2);
    for (const bench of [young, joined]) {
      bench.version = 2;
      // Its queues go with it, three with each entry.
      bench.runAs(1, 2, [knows(2, 1, 2)]);
      expect([bench.machine.version, bench.machine.due]).toEqual([2, 0]);
    }
    expect(bytesOf(joined.machine).equals(bytesOf(young.machine))).toBe(true);
    expect(() => old.machine.restore(bytesOf(young.machine))).toThrow('needs machine version 2');
    old.version = 2;
    expect(() => old.runAs(1, 2, [knows(2, 1, 2)])).toThrow('needs machine version 2');
  });
});

it('the machines have as many versions each', () => {
  expect(latestVersion(machineVersions)).toBe(metadataVersions.length);
  expect(() => latestVersion({ shard: [first, second], metadata: metadataVersions.slice(0, 1) })).toThrow(
    'make no sense',
  );
});
