// Mistakes in the core of consensus, by the list of pitfalls. Most are hunted in the simulation of one group, which meets a thousand elections
// while the whole cluster meets ten.

import type { Mutant, NoMutant } from '../museum/mutant.ts';

const src = (file: string) => `cluster/raft-ts/src/${file}.ts`;

interface Row {
  readonly name: string;
  readonly pitfall: string;
  readonly mistake: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  readonly seedsMax?: number;
}

const rows: readonly Row[] = [
  {
    name: 'vote-leaves-before-it-is-durable',
    pitfall: '1',
    mistake: 'a granted vote is sent before it is on the disk',
    file: 'election',
    find: "restartElectionClock(core); sendAfterWrites(core, from, { kind: 'voteReply', granted });",
    replace:
      "restartElectionClock(core); core.messages.push(message(core, from, core.term, { kind: 'voteReply', granted }));",
  },
  {
    name: 'own-vote-counts-before-it-is-durable',
    pitfall: '1',
    mistake: 'a candidate asks for votes before its own term and vote are on the disk',
    file: 'election',
    find: "if (id !== core.id) sendAfterWrites(core, id, { kind: 'vote', lastIndex, lastTerm, transfer });",
    replace:
      "if (id !== core.id) core.messages.push(message(core, id, core.term, { kind: 'vote', lastIndex, lastTerm, transfer }));",
  },
  {
    name: 'vote-is-forgotten-in-the-write',
    pitfall: '1',
    mistake: 'the hard state is written without the vote',
    file: 'persistence',
    find: '{ term: core.term, vote: core.vote, commit: core.commit }',
    replace: '{ term: core.term, vote: 0, commit: core.commit }',
  },
  {
    name: 'follower-acks-before-its-write',
    pitfall: '2',
    mistake: 'a follower acknowledges entries before they are durable',
    file: 'follower',
    find: "sendAfterWrites(core, from, { kind: 'appendReply'",
    replace: "sendAfterHardState(core, from, { kind: 'appendReply'",
  },
  {
    name: 'leader-counts-itself-at-once',
    pitfall: '2',
    mistake: 'a leader counts its own copy before it is durable',
    file: 'replication',
    find: 'id === core.id ? core.persisted :',
    replace: 'id === core.id ? core.log.lastIndex :',
  },
  {
    name: 'late-write-claims-replaced-entries',
    pitfall: '3',
    mistake: 'the completion of an old write vouches for entries that replaced its own',
    file: 'persistence',
    find: 'write.lastIndex = Math.min(write.lastIndex, first - 1);',
    replace: ';',
  },
  {
    name: 'truncation-keeps-persisted',
    pitfall: '3',
    mistake: 'after a truncation the old entries still count as durable',
    file: 'persistence',
    find: 'core.persisted = Math.min(core.persisted, first - 1);',
    replace: ';',
  },
  {
    name: 'commits-entries-of-earlier-terms',
    pitfall: '4',
    mistake: 'an entry of an earlier term is committed by counting',
    file: 'replication',
    find: 'index <= core.commit || core.log.termAt(index) !== core.term',
    replace: 'index <= core.commit',
    seedsMax: 3000,
  },
  {
    name: 'reads-before-the-no-op',
    pitfall: '5',
    mistake: 'a new leader answers reads before its first entry is committed',
    file: 'reads',
    find: 'core.leading.readsWaiting.length > 0 && isLeaderReady(core)',
    replace: 'core.leading.readsWaiting.length > 0',
  },
  {
    name: 'heartbeat-commit-is-not-clipped',
    pitfall: '7',
    mistake: 'a heartbeat carries the commit index unclipped, and a follower believes it',
    file: 'replication',
    find: "const commit = Math.min(core.commit, peer.match); send(core, peer.id, { kind: 'heartbeat'",
    replace: "const commit = core.commit; send(core, peer.id, { kind: 'heartbeat'",
  },
  {
    name: 'short-append-truncates',
    pitfall: '8',
    mistake: 'a late, short append cuts off what follows it',
    file: 'follower',
    find: 'for (; i < entries.length; i++) appendEntry(core, entries[i]);',
    replace:
      'if (i === entries.length && entries.length > 0 && entries[i - 1].index < log.lastIndex && entries[i - 1].index >= core.commit) truncateLog(core, entries[i - 1].index + 1); for (; i < entries.length; i++) appendEntry(core, entries[i]);',
  },
  {
    name: 'append-without-a-look-at-the-entry-before',
    pitfall: '8',
    mistake: 'an append is taken though the entry before it is of another term',
    file: 'follower',
    find: 'previousIndex > core.commit && known !== previousTerm',
    replace: 'previousIndex > core.commit && known === undefined',
  },
  {
    name: 'truncation-is-not-written',
    pitfall: '9',
    mistake: 'a truncation is done in memory and not on the disk',
    file: 'persistence',
    find: 'return { sequence, truncateFrom, entries, hardState };',
    replace: 'return { sequence, truncateFrom: null, entries, hardState };',
  },
  {
    name: 'vote-compares-the-length-first',
    pitfall: '10',
    mistake: 'a vote goes to the longer log, whatever its last term',
    file: 'election',
    find: 'lastTerm > log.lastTerm || (lastTerm === log.lastTerm && lastIndex >= log.lastIndex)',
    replace: 'lastIndex >= log.lastIndex',
  },
  {
    name: 'vote-without-a-look-at-the-log',
    pitfall: '10',
    mistake: 'a vote goes to anybody who asks first',
    file: 'election',
    find: 'return lastTerm > log.lastTerm || (lastTerm === log.lastTerm && lastIndex >= log.lastIndex);',
    replace: 'return lastTerm > 0 || lastIndex > 0 || log.lastIndex === 0;',
  },
  {
    name: 'votes-twice-in-a-term',
    pitfall: '1',
    mistake: 'a second candidate gets the vote of the same term',
    file: 'election',
    find: 'term > core.term || core.vote === from || (core.vote === 0 && core.leader === 0)',
    replace: 'core.leader === 0 || core.vote === from',
  },
  {
    name: 'damaged-replica-votes',
    pitfall: '11',
    mistake: 'a replica that lost what it acknowledged votes and campaigns',
    file: 'core',
    find: 'repairTo: restored.repairTo ?? 0,',
    replace: 'repairTo: 0,',
    seedsMax: 1500,
  },
  {
    name: 'replies-of-other-sessions-count',
    pitfall: '28',
    mistake: 'a reply to an earlier leadership, or from before damage, is believed',
    file: 'replication',
    find: 'if (peer === undefined || peer.session !== session) return null;',
    replace: 'if (peer === undefined) return null;',
  },
  {
    name: 'change-before-the-no-op',
    pitfall: '13',
    mistake: 'a leader changes the configuration before its first entry is committed, and while one is under way',
    file: 'membership',
    find: "if (isJoint(current) || core.configurations.currentIndex > core.commit) return { ok: false, reason: 'changeInProgress' };",
    replace: '',
  },
  {
    name: 'configuration-survives-its-truncation',
    pitfall: '14',
    mistake: 'a configuration stays in force after its entry was cut off',
    file: 'persistence',
    find: 'core.configurations.truncateFrom(first);',
    replace: '',
  },
  {
    name: 'snapshot-brings-no-configuration',
    pitfall: '14',
    mistake: 'the configuration of an installed snapshot is ignored',
    file: 'snapshot-receive',
    find: 'core.configurations.reset(index, configuration);',
    replace: '',
  },
  {
    name: 'joint-phase-needs-only-the-new-half',
    pitfall: '15',
    mistake: 'in the joint phase the new voters decide alone',
    file: 'configuration',
    find: 'return configuration.outgoing.length === 0 ? value : Math.min(value, majorityValue(configuration.outgoing, valueAt));',
    replace: 'return value;',
  },
  {
    name: 'joint-elections-need-only-the-new-half',
    pitfall: '15',
    mistake: 'in the joint phase the new voters elect alone',
    file: 'configuration',
    find: 'hasMajority(configuration.voters, agrees) && (configuration.outgoing.length === 0 || hasMajority(configuration.outgoing, agrees))',
    replace: 'hasMajority(configuration.voters, agrees)',
  },
  {
    name: 'joint-phase-is-never-left',
    pitfall: '15',
    mistake: 'only the leader that began a joint phase could leave it, and forgets',
    file: 'replication',
    find: 'if (leave !== null) {',
    replace: 'if (leave !== null && leading.noopIndex > core.configurations.currentIndex) {',
  },
  {
    name: 'learner-counts-in-elections',
    pitfall: '16',
    mistake: 'a voter that is not in its own configuration yet refuses to vote',
    file: 'election',
    find: 'if (core.repairTo !== 0) return false; return term',
    replace: 'if (core.repairTo !== 0 || !isPromotable(core)) return false; return term',
    seedsMax: 1000,
  },
  {
    name: 'anybody-disturbs-a-leader',
    pitfall: '17',
    mistake: 'a request for votes of a later term ends a leadership that works',
    file: 'raft',
    find: 'if (!message.transfer && isSticky(core)) return false;',
    replace: '',
  },
  {
    name: 'stale-replica-is-locked-out',
    pitfall: '18',
    mistake: 'a message of an earlier term is dropped without a word',
    file: 'raft',
    find: 'if (message.term < term) answerStale(this.#core, message); else',
    replace: 'if (message.term >= term)',
    seedsMax: 1500,
  },
  {
    name: 'leader-without-a-quorum-goes-on',
    pitfall: '19',
    mistake: 'a leader that hears nobody stays leader for ever',
    file: 'raft',
    find: 'if (!hasQuorum(core.configurations.current, isHeard)) return becomeFollower(core, core.term, 0);',
    replace: '',
  },
  {
    name: 'removed-leader-goes-on',
    pitfall: '21',
    mistake: 'a leader that was removed stays leader',
    file: 'replication',
    find: 'else if (isLeaderRemoved(core)) resign(core);',
    replace: '',
  },
  {
    name: 'transfer-never-ends',
    pitfall: '22',
    mistake: 'a transfer that comes to nothing freezes proposals for ever',
    file: 'raft',
    find: 'if (leading.transferee !== 0 && ++leading.transferElapsed >= electionTicks) leading.transferee = 0;',
    replace: '',
  },
  {
    name: 'read-without-a-round',
    pitfall: '23',
    mistake: 'a leader answers reads without asking whether it still leads',
    file: 'reads',
    find: 'if (hasQuorum(current, (id) => id === core.id)) return acknowledgeReads(core);',
    replace:
      'for (const r of leading.readRounds.splice(0)) for (const context of r.contexts) core.reads.push({ context, index: r.index }); return;',
  },
  {
    name: 'read-answered-by-an-older-round',
    pitfall: '23',
    mistake: 'an answer to an earlier heartbeat confirms a read asked later',
    file: 'reads',
    find: 'peerOf.get(id)?.readRound ?? 0',
    replace: 'peerOf.get(id) === undefined ? 0 : Number.MAX_SAFE_INTEGER',
  },
  {
    name: 'log-grows-during-an-installation',
    pitfall: '24',
    mistake: 'appends are taken while a snapshot is being installed',
    file: 'follower',
    find: 'if (isInstalling(core) || !isWellFormed(core, append)) return;',
    replace: 'if (!isWellFormed(core, append)) return;',
    seedsMax: 1500,
  },
  {
    name: 'old-snapshot-is-applied',
    pitfall: '25',
    mistake: 'a snapshot of what is known already is installed again',
    file: 'snapshot-receive',
    find: 'const known = snapshot.index <= core.commit || core.log.termAt(snapshot.index) === snapshot.term;',
    replace: 'const known = false;',
    seedsMax: 1500,
  },
  {
    name: 'old-snapshot-is-not-acknowledged',
    pitfall: '25',
    mistake: 'a snapshot of what is known already is dropped without a word',
    file: 'snapshot-receive',
    find: 'acknowledge(core, from, session, core.commit); return;',
    replace: 'return;',
    seedsMax: 1000,
  },
  {
    name: 'transfer-keeps-its-session',
    pitfall: '24',
    mistake:
      'the transfer of a snapshot that begins anew is one with the last, and so is what a follower has staged of that',
    file: 'snapshot-send',
    find: 'peer.session = ++core.lastSession;',
    replace: '',
  },
  {
    name: 'window-is-never-freed',
    pitfall: '29',
    mistake: 'what was acknowledged stays in the window of what is under way',
    file: 'peer',
    find: 'while (this.#count > 0 && this.#lasts[this.#head] <= index) {',
    replace: 'while (this.#count > 4 && this.#lasts[this.#head] <= index) {',
  },
];

export const raftMutants: readonly Mutant[] = rows.map((row) => ({
  ...row,
  file: src(row.file),
  prey: 'raft',
  seedsMax: row.seedsMax ?? 400,
}));

export const raftNoMutants: readonly NoMutant[] = [
  {
    pitfall: '6',
    mistake: "a follower takes the leader's commit index for all that it has",
    why: 'the search for the common point comes from above, so the first append that is taken begins there and carries an entry that contradicts',
  },
  {
    pitfall: '12',
    mistake: 'a message for another replica is taken for an own one',
    why: 'frames are dispatched by group and node before they reach a core, so that two guards would have to go',
  },
  {
    pitfall: '21',
    mistake: 'a leader that is removed leaves before its removal is committed',
    why: 'somebody else is elected and commits it: slower by one election, and correct',
  },
  {
    pitfall: '24',
    mistake: 'the last chunk of a snapshot is handed out while older writes are on their way to the disk',
    why: 'a follower is sent one only after it has answered in this term, and that answer waited for all writes before it; what it wrote since is of the same leader and lies below the snapshot. What a log makes of it is a mutant there',
  },
  {
    pitfall: '26',
    mistake: 'applying depends on a clock, on chance, on the order of a map',
    why: 'the machines cannot reach any (style test); what is left is one mutant of the queues',
  },
  {
    pitfall: '34',
    mistake: 'any message of a later term delays the own campaign',
    why: 'with pre-votes who cannot win raises no term',
  },
  {
    pitfall: '37',
    mistake: 'a replica without data founds a group of its own',
    why: 'an empty configuration elects nobody and lets nobody campaign: two guards would have to go',
  },
];
