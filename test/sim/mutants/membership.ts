// Mistakes in changes of members, and in what replaces replicas: who drops what, who votes when, what is remembered of before. Hunted by the
// simulation of the whole cluster.

import type { Mutant, NoMutant } from '../museum/mutant.ts';

type Row = Omit<Mutant, 'prey' | 'seedsMax' | 'profile'> &
  Partial<Pick<Mutant, 'seedsMax' | 'profile' | 'faults' | 'besides' | 'nodes'>>;

/** What every run has, so that the place of a mistake is reached at all. */
const changes = ['join', 'leave', 'cut-in-change'];
const damages = ['damage', 'damage-at-rest'];

const rows: readonly Row[] = [
  {
    name: 'replica-is-dropped-by-old-metadata',
    pitfall: '33',
    mistake: 'a node that has just started drops replicas by metadata older than what it knew before',
    file: 'cluster/replicas.ts',
    find: 'if (!this.#context.isCurrent()) return; const { node }',
    replace: 'const { node }',
    seedsMax: 150,
    besides: [...changes, 'power-loss'],
  },
  {
    name: 'dropped-replica-forgets-what-it-acknowledged',
    pitfall: '11',
    mistake: 'a replica that comes back to a node votes though it lacks what the former one had acknowledged',
    file: 'cluster/replicas.ts',
    find: 'this.#former.set(id, { term, vote, repairTo: acknowledgedTo });',
    replace: 'this.#former.set(id, { term, vote, repairTo: 0 });',
    seedsMax: 150,
  },
  {
    name: 'dropped-replica-forgets-its-vote',
    pitfall: '12',
    mistake: 'a replica that comes back to a node knows no term and no vote',
    file: 'cluster/replicas.ts',
    find: 'hardState: { term, vote, commit: 0 }, repairTo };',
    replace: 'hardState: { term: term * 0, vote: vote * 0, commit: 0 }, repairTo };',
    seedsMax: 150,
  },
  {
    name: 'change-without-the-version-in-the-log',
    pitfall: '14',
    mistake: 'a leader changes a configuration without a record of the metadata that it acts by',
    file: 'cluster/leading/members.ts',
    find: 'if (shard.metadataVersion < placement.version) return this.#context.recordVersion(group);',
    replace: '',
    seedsMax: 150,
  },
  {
    name: 'placed-by-any-configuration',
    pitfall: '15',
    mistake: 'a move is said to be over before its configuration is committed',
    file: 'cluster/leading/members.ts',
    find: 'const isSettled = settledConfiguration(group, configuration) !== null;',
    replace: 'const isSettled = true;',
    seedsMax: 150,
    besides: ['join', 'leave', 'slow-in-change'],
    nodes: 5,
  },
  {
    name: 'newcomer-is-read-at-once',
    pitfall: '16',
    mistake: 'what a new node has is read before it has caught up',
    file: 'cluster/origin/origin.ts',
    find: 'const machine = replica?.isReadable === true ? replica.machine : undefined;',
    replace: 'const machine = replica?.halted === null ? replica.machine : undefined;',
    also: [
      {
        file: 'cluster/origin/origin.ts',
        find: 'if (machine === undefined || machine.appliedIndex < seen)',
        replace: 'if (machine === undefined)',
      },
    ],
    besides: ['join', 'leave', 'reset'],
    nodes: 5,
  },
  {
    name: 'number-is-given-again',
    pitfall: '12',
    mistake: 'a node that joins gets the number of one that is gone',
    file: 'cluster/machine/metadata/members.ts',
    find: 'const node = ++this.#lastNode;',
    replace:
      "const free = [...this.#members.values()].find(({ state }) => state === 'gone'); const node = free === undefined ? ++this.#lastNode : free.node;",
  },
  {
    name: 'leaver-goes-while-it-votes',
    pitfall: '21',
    mistake: 'a node that leaves is let go while it still votes on the metadata',
    file: 'cluster/leading/members.ts',
    find: "if (state === 'leaving' && !settled.voters.includes(node) && !this.#holdsReplicas(node))",
    replace: "if (state === 'leaving')",
  },
  {
    name: 'term-that-was-seen-before',
    pitfall: '31',
    mistake: 'a replica that no longer knows its vote votes again in a term that it may have voted in',
    file: 'cluster/group/rebuild.ts',
    find: 'return 1 + Math.max(known, ...others.map((other) => this.#termOf(other, id) ?? 0));',
    replace: 'return known;',
    profile: 'disk',
    seedsMax: 150,
    nodes: 3,
  },
  {
    name: 'rebuilt-replica-votes-at-once',
    pitfall: '11',
    mistake: 'a replica that is built anew forgets that it had acknowledged what it does not have yet',
    file: 'cluster/group/rebuild.ts',
    find: 'const repairTo = old.acknowledgedTo;',
    replace: 'const repairTo = 0;',
    profile: 'disk',
    seedsMax: 150,
    nodes: 3,
  },
  {
    name: 'snapshot-is-in-force-before-it-is-whole',
    pitfall: '24',
    mistake: 'the core goes on behind a snapshot whose state the machine did not take',
    file: 'cluster/group/snapshots.ts',
    find: 'restoring.finish(); this.#host.restored(meta.index);',
    replace: 'this.#host.restored(meta.index);',
    profile: 'network',
    faults: ['kill', 'crash', 'power-loss', 'partition', 'pause'],
  },
];

export const membershipMutants: readonly Mutant[] = rows.map((row) => ({
  ...row,
  prey: 'cluster',
  profile: row.profile ?? 'membership',
  ...(row.faults === undefined && row.besides === undefined && { besides: row.profile === 'disk' ? damages : changes }),
  seedsMax: row.seedsMax ?? 60,
}));

export const membershipNoMutants: readonly NoMutant[] = [
  {
    pitfall: '16',
    mistake: 'a node is sent a replica before it knows that it is to hold it',
    why: 'a node without one takes nothing that is sent to it, and one that still drops an older one remembers what that had acknowledged: the move waits, and nothing is lost',
  },
  {
    pitfall: '13',
    mistake: 'a late word that a move is over ends another move to the same nodes',
    why: 'it has to be under way for two whole moves while its node is not declared gone; test/machine/metadata-members.test.ts has it',
  },
  {
    pitfall: '25',
    mistake: 'an installed snapshot replaces a machine that has applied more',
    why: 'the core hands out the last piece only of a snapshot beyond its commit index, and commits nothing until it is installed: no machine has applied more',
  },
  {
    pitfall: '13',
    mistake: 'a node drops its replica as soon as a target is named that it is not in',
    why: 'what it had acknowledged outlives it, so it votes for nobody who lacks that: the move waits for others, and nothing is lost',
  },
  {
    pitfall: 'C5',
    mistake: 'a machine version is raised before all nodes know it',
    why: 'all nodes of a simulated cluster are of one version; test/cluster/versions.test.ts has two',
  },
];
