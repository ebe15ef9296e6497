// Mistakes in what surrounds the core: log, host, pipes, leases, queues, AMQP. By the list of pitfalls, and by the rows of the scenarios (A1 to
// C5). All are hunted by the simulation of the whole cluster.

import type { Mutant, NoMutant } from '../museum/mutant.ts';

type Row = Omit<Mutant, 'prey' | 'seedsMax'> & { readonly seedsMax?: number };

const log: readonly Row[] = [
  {
    name: 'live-entries-are-collected',
    pitfall: 'A10',
    mistake: 'files are deleted though messages in them live',
    file: 'cluster/group/liveness.ts',
    find: 'return !knows(group, last) || group.machine.hasLiveEntries(first, last);',
    replace: 'return !knows(group, last);',
  },
  {
    name: 'snapshot-runs-ahead-of-the-disk',
    pitfall: '24',
    mistake: 'a snapshot is taken of entries that are not durable here, and counts before they are',
    file: 'cluster/group/snapshots.ts',
    find: 'if (raft.persistedIndex < index) return;',
    replace: '',
    also: [
      {
        file: 'cluster/log/snapshots.ts',
        find: 'if (group.durableIndex < meta.index) await life.flushed(records.writer);',
        replace: '',
      },
    ],
    seedsMax: 60,
    besides: ['slow-disk'],
    nodes: 3,
  },
  {
    name: 'snapshot-comes-without-live-entries',
    pitfall: 'A10',
    mistake: 'a follower is sent the state, and not the messages that it refers to',
    file: 'cluster/group/snapshots.ts',
    find: 'log.openSnapshotStream(group, live, match)',
    replace: 'log.openSnapshotStream(group, live, this.#host.appliedIndex())',
  },
  {
    name: 'compaction-forgets-what-is-held',
    pitfall: 'A10',
    mistake: 'compaction drops messages that consumers hold',
    file: 'cluster/machine/queue/references.ts',
    find: 'for (const { leases } of queue.attached) leases.captureRows(sections, writeDropped);',
    replace: '',
    seedsMax: 60,
    workloads: ['keeping'],
  },
];

const disks: readonly Row[] = [
  {
    name: 'damaged-replica-takes-part',
    pitfall: '32',
    mistake: 'a replica whose files are damaged goes on without what is missing',
    file: 'cluster/host.ts',
    find: "this.groups.get(group)?.halt(new LogError('corrupt', `it is damaged:",
    replace: "((_) => {})(new LogError('corrupt', `it is damaged:",
    profile: 'disk',
    seedsMax: 60,
    besides: ['damage', 'damage-at-rest'],
    nodes: 3,
  },
];

const consensus: readonly Row[] = [
  {
    name: 'machine-reads-the-clock',
    pitfall: '26',
    mistake: 'each replica applies an entry with its own time',
    file: 'cluster/group/group.ts',
    find: 'machine.apply({ index: entry.index, term: entry.term, stamp,',
    replace: 'machine.apply({ index: entry.index, term: entry.term, stamp: this.#host.stamp(0),',
  },
  {
    name: 'order-of-a-map-decides',
    pitfall: '26',
    mistake: 'consumers leave in the order in which they are remembered',
    file: 'cluster/machine/queue/store.ts',
    find: 'for (const consumer of [...owner.consumers.values()].sort((a, b) => a.number - b.number)) if (!consumer.gone) this.withdraw(consumer);',
    replace:
      'for (const consumer of [...owner.consumers.values()].reverse()) if (!consumer.gone) this.withdraw(consumer);',
    seedsMax: 60,
  },
];

const pipes: readonly Row[] = [
  {
    name: 'batch-is-taken-over-a-gap',
    pitfall: 'B1',
    mistake: 'a leader appends a batch though one before it is missing',
    file: 'cluster/group/group.ts',
    find: "if (header.sequence > expected.next) return this.#refuse(header, from, 'expected', expected.next);",
    replace: '',
    seedsMax: 100,
    besides: ['disk-full'],
    nodes: 3,
  },
  {
    name: 'snapshot-forgets-what-was-applied',
    pitfall: '35',
    mistake: 'a snapshot does not say how far each pipe was applied',
    file: 'cluster/machine/pipes.ts',
    find: 'writer.u64(row.lastSequence); writer.u32(row.results.length);',
    replace: 'writer.u64(0); writer.u32(row.results.length);',
  },
  {
    name: 'results-of-a-snapshot-are-not-told',
    pitfall: 'A1',
    mistake: 'sessions do not hear what an installed snapshot skipped',
    file: 'cluster/host.ts',
    find: 'this.feeds.groupChanged(group.id); this.origin.replicaChanged(group);',
    replace: 'this.feeds.groupChanged(group.id);',
    seedsMax: 300,
    besides: ['narrow', 'pause'],
    nodes: 3,
  },
  {
    name: 'confirmed-when-sent',
    pitfall: 'Q1',
    mistake: 'a publish is confirmed when its batch leaves',
    file: 'cluster/origin/pipe.ts',
    find: 'this.#sentBytes += payload.length;',
    replace:
      'this.#sentBytes += payload.length; for (const run of runs.splice(0)) run.target.confirmed(run.first, run.first + run.count - 1, true);',
  },
  {
    name: 'confirmed-when-nobody-answers',
    pitfall: '29',
    mistake: 'a publish without a majority is confirmed when its deadline has passed',
    file: 'cluster/origin/pipe.ts',
    find: 'for (const run of runs) run.target.confirmed(run.first, run.first + run.count - 1, false);',
    replace: 'for (const run of runs) run.target.confirmed(run.first, run.first + run.count - 1, true);',
    besides: ['partition', 'crash', 'kill'],
    nodes: 3,
  },
  {
    name: 'nothing-is-sent-again',
    pitfall: 'B1',
    mistake: 'what a dead leader took with it is never sent again',
    file: 'cluster/origin/pipe.ts',
    find: 'leaderChanged() {',
    replace: 'leaderChanged() { if (this.#sent.length >= 0) return;',
  },
];

const metadata: readonly Row[] = [
  {
    name: 'publish-overtakes-its-queue',
    pitfall: 'A5',
    mistake: 'a batch is appended before the rows of the metadata that it was routed by',
    file: 'cluster/leading/duties.ts',
    find: "return this.appendRows(group) ? 'ready' : 'wait';",
    replace: "return 'ready';",
    also: [
      {
        file: 'cluster/leading/duties.ts',
        find: 'metadataApplied() { for (const group of this.#ledShards()) { this.appendRows(group);',
        replace: 'metadataApplied() { for (const group of this.#ledShards()) {',
      },
    ],
    seedsMax: 100,
    besides: ['kill', 'delay'],
    workloads: ['declaring', 'redeclaring'],
    nodes: 3,
  },
  {
    name: 'change-is-told-before-all-know-it',
    pitfall: 'A4',
    mistake: 'a declaration is answered though others route without it',
    file: 'cluster/lease/lease-keeper.ts',
    find: 'for (const row of this.#rows) visible = Math.min(visible, this.#appliedBy(row));',
    replace: '',
    seedsMax: 100,
    besides: ['delay', 'clog'],
    workloads: ['declaring'],
    nodes: 3,
  },
  {
    name: 'new-leader-takes-nobody-to-hold-a-lease',
    pitfall: 'A4',
    mistake: 'a new leader of the metadata knows of no lease and takes nobody to hold one',
    file: 'cluster/lease/lease-keeper.ts',
    find: 'this.#assumedUntil = this.#host.now() + this.#countedMilliseconds;',
    replace: 'this.#assumedUntil = 0;',
    seedsMax: 100,
    besides: ['kill', 'partition', 'delay'],
    workloads: ['redeclaring'],
    nodes: 3,
  },
  {
    name: 'lease-never-ends',
    pitfall: 'A4',
    mistake: 'a node routes by its metadata however long ago it was granted that',
    file: 'cluster/lease/lease-holder.ts',
    find: 'if (Math.max(passed, passedWall) >= options.milliseconds) return false;',
    replace: 'if (Math.max(passed, passedWall) >= 0) return true;',
    seedsMax: 100,
    besides: ['partition', 'pause'],
    workloads: ['redeclaring'],
    nodes: 3,
  },
  {
    name: 'ended-node-keeps-its-messages',
    pitfall: 'A3',
    mistake: 'what a node held stays with it though it was declared gone',
    file: 'cluster/machine/queue/store.ts',
    find: 'this.parts.drop(node); this.endOwner(node);',
    replace: 'this.parts.drop(node);',
    faults: ['kill', 'crash', 'pause', 'partition', 'power-loss', 'rolling-restart'],
  },
  {
    name: 'zombie-is-heard',
    pitfall: 'A3',
    mistake: 'a node that was declared gone settles what went to others',
    file: 'cluster/machine/leader-commands.ts',
    find: 'pipes.fence(change.node, change.incarnation);',
    replace: '',
    seedsMax: 60,
    besides: ['pause', 'partition'],
    nodes: 3,
  },
];

const queues: readonly Row[] = [
  {
    name: 'redelivery-is-not-flagged',
    pitfall: 'Q5',
    mistake: 'a message that comes again is not flagged',
    file: 'cluster/machine/queue/store.ts',
    find: 'return redeliveredBit | (failed',
    replace: 'return 0 | (failed',
  },
  {
    name: 'requeued-message-goes-to-the-end',
    pitfall: 'Q6',
    mistake: 'what was given back unseen goes to the end of the queue',
    file: 'cluster/machine/queue/store.ts',
    find: 'queue.giveBack(index, ordinal, leases.bytes, next);',
    replace:
      'if (operation === SettleOperation.release && queue.stamps === null) queue.fifo.push(index, ordinal, leases.bytes); else queue.giveBack(index, ordinal, leases.bytes, next);',
    seedsMax: 60,
  },
  {
    name: 'requeued-message-is-dropped',
    pitfall: 'Q1',
    mistake: 'a message that is given back is dropped',
    file: 'cluster/machine/queue/store.ts',
    find: 'const returns = operation === SettleOperation.requeue || operation === SettleOperation.release; const before',
    replace: 'const returns = operation === SettleOperation.release; const before',
  },
  {
    name: 'ack-settles-one-too-few',
    pitfall: 'Q3',
    mistake: 'of several messages acked together the last stays out',
    file: 'cluster/machine/queue/store.ts',
    find: 'for (let more = leases.seek(first, first + count); more; more = leases.advance()) {',
    replace:
      'for (let more = leases.seek(first, first + (count > 2 && operation === SettleOperation.accept ? count - 1 : count)); more; more = leases.advance()) {',
  },
  {
    name: 'settled-message-is-leased-again',
    pitfall: 'Q4',
    mistake: 'an ack counts as a give-back now and then',
    file: 'cluster/machine/queue/store.ts',
    find: 'const returns = operation === SettleOperation.requeue || operation === SettleOperation.release; const before',
    replace:
      'const returns = operation === SettleOperation.requeue || operation === SettleOperation.release || first % 64 === 63; const before',
  },
  {
    name: 'purge-forgets-what-came-back',
    pitfall: 'Q1',
    mistake: 'a purge leaves what was given back, and tells that it took it',
    file: 'cluster/machine/queue/store.ts',
    find: 'const { fifo, returned } = queue; const count = queue.ready; if (returned !== null) {',
    replace: 'const { fifo, returned } = queue; const count = queue.ready; if (returned !== null && queue.sealed) {',
    seedsMax: 100,
    workloads: ['getting'],
  },
  {
    name: 'dead-letter-goes-before-it-arrived',
    pitfall: 'A6',
    mistake: 'a dead letter is forgotten when it is sent',
    file: 'cluster/machine/leader-commands.ts',
    find: 'store.fold(outbox.push(group, index, ordinal, mark, uids));',
    replace: 'store.fold(outbox.push(group, index, ordinal, mark, uids)); if (index % 8 === 0) outbox.done(group, 1);',
    seedsMax: 60,
    workloads: ['letters'],
  },
  {
    name: 'dead-letter-is-taken-twice',
    pitfall: 'A6',
    mistake: 'a dead letter that is sent again is stored again',
    file: 'cluster/machine/outbox.ts',
    find: "if (row <= last) return 'repeat';",
    replace: "if (row <= last) return 'apply';",
    seedsMax: 120,
    workloads: ['letters'],
    besides: ['reset', 'pause', 'kill'],
  },
  {
    name: 'one-message-in-two-hands',
    pitfall: 'Q5',
    mistake: 'a message that is leased stays in the queue as well, now and then',
    file: 'cluster/machine/queue/store.ts',
    find: 'if (expires) this.#expire(queue, index, ordinal, expiration); this.#lease(queue, consumer, index, ordinal, bytes, 0);',
    replace:
      'this.#lease(queue, consumer, index, ordinal, bytes, 0); if (index % 16 === 5) { this.retain(index, ordinal); queue.bytes += bytes; queue.fifo.push(index, ordinal, bytes); }',
  },
];

const amqp: readonly Row[] = [
  {
    name: 'confirm-covers-a-gap',
    pitfall: 'Q10',
    mistake: 'a multiple confirm covers a publish whose fate is open',
    file: 'node/amqp/confirms.ts',
    find: 'if (ok) this.#loose.push(first, last); return;',
    replace: 'if (ok) this.#countPrefix(last, last - first + 1); return;',
  },
];

export const clusterMutants: readonly Mutant[] = [
  ...log,
  ...disks,
  ...consensus,
  ...pipes,
  ...metadata,
  ...queues,
  ...amqp,
].map((row) => ({ ...row, prey: 'cluster', seedsMax: row.seedsMax ?? 30 }));

export const clusterNoMutants: readonly NoMutant[] = [
  {
    pitfall: '35',
    mistake: 'a batch that was applied before is applied again',
    why: 'a leader takes none before it has applied all that its log has, and then none twice: two guards would have to go',
  },
  {
    pitfall: 'A10',
    mistake: 'compaction drops dead letters that wait until their target has them',
    why: 'they wait for moments, in the newest files, which are not rewritten',
  },
  {
    pitfall: 'A5',
    mistake: 'a leader takes a batch that names later metadata than its own',
    why: 'a declaration waits for everybody with a lease: it takes a leader whose metadata stand still for longer than one while its shard goes on; test/cluster/scenarios-effects.test.ts has it',
  },
  {
    pitfall: 'A10',
    mistake: 'compaction drops what was purged, or went with its queue, before that is worked off',
    why: 'it is only counted from there on, and never read again',
  },
  {
    pitfall: '8',
    mistake: 'an append is sent with entries that replaced those that it was made for',
    why: 'those are of a later leader: a follower in the term of the append refuses entries of later terms, and those of earlier terms are what the later leader has there',
  },
  {
    pitfall: '36',
    mistake: 'publishes are taken until nothing fits on the disk any more',
    why: 'the process ends at the first write that finds no room, and goes on once there is some: what it costs is time; test/cluster/room.test.ts has what is refused before',
  },
  {
    pitfall: '20',
    mistake: 'a leader whose disk hangs stays leader',
    why: 'its followers commit without its disk, so clients see nothing of it; measured in scenarios-disk.test.ts',
  },
  {
    pitfall: '27',
    mistake: 'a replay confirms and delivers again',
    why: 'a node hears only of its present incarnation, which begins behind the replay: there is nobody to tell',
  },
  {
    pitfall: '33',
    mistake: 'damaged metadata lead to deletions',
    why: 'nothing is deleted by what the metadata lack; a queue goes only by a row that says so',
  },
];
