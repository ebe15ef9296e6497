// The language of the scripts in scripts/*.txt: a command a line, what comes of it below.
//
//   nodes 3 electionTicks=5   three voters, with options of raft-ts            learner 4       a replica that knows nobody yet
//   campaign 1                starts a campaign                                propose 1 x 10  proposes `x` as 10 bytes
//   deliver [1 2]             delivers what is under way (from 1 to 2), once   settle          delivers until nothing is under way
//   drop [1 2]                loses what is under way (from 1 to 2)            cut 1 2         loses all from 1 to 2 until `heal`
//   isolate 1                 cuts 1 off, both ways                            tick 1 [10]     lets time pass at replica 1
//   tickAll [10]              lets time pass everywhere and settles            disk 1 manual   writes of 1 wait for `persist 1 [count]`
//   work 1                    one piece of snapshot work of 1 (manual disk)    crash 1 [kept]  with so many unfinished writes kept
//   restart 1                 from its disk                                    damage 1 5      its disk loses entries from 5 on, down
//   configure 1 1,2,3 [4]     proposes voters [learners]                       transfer 1 2    hands leadership to 2
//   lost 1 [ticks]            1 learns that its leader is gone                 stepdown 1      gives up leadership
//   read 1 7                  asks for a read point                            snapshot 1 [keep]
//   log 1                     terms and entries                                status [1]      one line a replica
//   repeat 1 2                delivers a copy of all from 1 to 2, keeping it   quiet | loud    hides or shows what happens
//
// Output: `1 > 2 kind ...` is a message sent, `1 does ...` something that replica 1 did.

import type { ReplicaId } from 'raft-ts';
import { describeEntry } from './checker.ts';
import type { NetworkMessage, ReplicaBounds, SimulatedReplica } from './replica.ts';
import { Simulation } from './simulation.ts';

/** One script: runs each command and puts its output below it. */
export function runScript(text: string): string {
  const out: string[] = [];
  const interpreter = new Interpreter();
  for (const block of parse(text)) {
    out.push(...block.comments, ...block.commands);
    if (block.commands.length === 0) {
      out.push('');
      continue;
    }
    const lines = block.commands.flatMap((command) => interpreter.run(command));
    out.push('----', ...(lines.length > 0 ? lines : ['ok']), '');
  }
  while (out.at(-1) === '') out.pop();
  return `${out.join('\n')}\n`;
}

interface Block {
  readonly comments: string[];
  readonly commands: string[];
}

function parse(text: string): Block[] {
  const blocks: Block[] = [];
  for (const paragraph of text.split(/\n\n+/)) {
    const lines = paragraph.split('\n').filter((line) => line !== '');
    const end = lines.indexOf('----');
    const input = end === -1 ? lines : lines.slice(0, end);
    if (input.length === 0) continue;
    blocks.push({
      comments: input.filter((line) => line.startsWith('#')),
      commands: input.filter((line) => !line.startsWith('#')),
    });
  }
  return blocks;
}

class Interpreter {
  #world = new Simulation();
  #lines: string[] = [];
  #loud = true;
  readonly #roles = new Map<ReplicaId, string>();

  run(command: string): string[] {
    this.#lines = [];
    const [name = '', ...words] = command.trim().split(/\s+/);
    try {
      this.#command(name, words);
    } catch (error) {
      throw new Error(`\`${command}\`: ${error instanceof Error ? error.message : String(error)}`);
    }
    return this.#lines;
  }

  #say(text: string): void {
    this.#lines.push(text);
  }

  #command(name: string, words: string[]): void {
    const world = this.#world;
    const number = (at: number, otherwise?: number): number => {
      const value = words[at] === undefined ? otherwise : Number(words[at]);
      if (value === undefined || Number.isNaN(value)) throw new Error(`word ${at + 1} is not a number`);
      return value;
    };
    const replica = () => world.get(number(0));
    switch (name) {
      case 'nodes':
        return this.#nodes(number(0), words.slice(1));
      case 'learner':
        world.add(number(0));
        break;
      case 'campaign':
        replica().run((raft) => raft.campaign());
        break;
      case 'propose':
        this.#result(world.propose(number(0), words[1] ?? '', number(2, (words[1] ?? '').length)));
        break;
      case 'deliver':
        this.#deliver(this.#matching(words), 'deliver');
        break;
      case 'drop':
        this.#deliver(this.#matching(words), 'drop');
        break;
      case 'repeat':
        this.#deliver(this.#matching(words), 'repeat');
        break;
      case 'settle':
        world.settle();
        break;
      case 'tick':
        world.tick(number(0), number(1, 1));
        break;
      case 'tickAll':
        world.tickAll(number(0, 1));
        break;
      case 'cut':
        world.cut(number(0), number(1));
        break;
      case 'isolate':
        world.isolate(number(0));
        break;
      case 'heal':
        world.heal();
        break;
      case 'quiet':
      case 'loud':
        this.#loud = name === 'loud';
        break;
      case 'log':
        this.#log(replica());
        break;
      case 'status':
        for (const one of words.length > 0 ? [replica()] : world.replicas.values()) this.#status(one);
        break;
      default:
        this.#replicaCommand(name, words, number, replica());
    }
    this.#tellRoles();
  }

  #replicaCommand(
    name: string,
    words: string[],
    number: (at: number, otherwise?: number) => number,
    replica: SimulatedReplica,
  ): void {
    const ids = (at: number) => (words[at] ?? '').split(',').filter(Boolean).map(Number);
    switch (name) {
      case 'disk':
        replica.diskMode = words[1] === 'manual' ? 'manual' : 'auto';
        break;
      case 'persist':
        if (!replica.persist(number(1, Number.POSITIVE_INFINITY))) this.#say('nothing to persist');
        replica.pump();
        break;
      case 'work':
        if (!replica.runTask()) this.#say('no work');
        break;
      case 'crash':
        replica.crash(number(1, 0));
        this.#roles.delete(replica.id);
        break;
      case 'restart':
        replica.start();
        break;
      case 'damage':
        replica.damage(number(1));
        break;
      case 'configure':
        replica.run((raft) => this.#result(raft.proposeConfiguration(ids(1), ids(2))));
        break;
      case 'transfer':
        replica.run((raft) => this.#say(raft.transferLeadership(number(1)) ? 'accepted' : 'refused'));
        break;
      case 'lost':
        replica.run((raft) => raft.leaderLost(number(1, 0)));
        break;
      case 'stepdown':
        replica.run((raft) => raft.stepDown());
        break;
      case 'read':
        this.#world.checker.readAsked(number(1));
        replica.run((raft) => raft.readIndex(number(1)));
        break;
      case 'snapshot':
        if (!replica.takeSnapshot(number(1, 0))) this.#say('nothing new');
        break;
      default:
        throw new Error('there is no such command');
    }
  }

  #nodes(count: number, settings: string[]): void {
    const bounds = Object.fromEntries(
      settings.map((word) => word.split('=')).map(([key, value]) => [key, Number(value)]),
    );
    this.#world = new Simulation(() => 0, bounds as Partial<ReplicaBounds>);
    this.#world.tell = (id, text) => {
      if (!this.#loud) return;
      this.#tellRoles();
      this.#say(`${id} ${text}`);
    };
    this.#world.onSend = (message) => {
      if (!this.#loud) return;
      this.#tellRoles();
      this.#say(describeMessage(message));
    };
    this.#world.startVoters(count);
  }

  #matching(words: string[]): (message: NetworkMessage) => boolean {
    if (words.length === 0) return () => true;
    return ({ from, to }) => from === Number(words[0]) && (words[1] === undefined || to === Number(words[1]));
  }

  /** Only what is under way now, not what comes of it. */
  #deliver(matches: (message: NetworkMessage) => boolean, how: 'deliver' | 'drop' | 'repeat'): void {
    const world = this.#world;
    const chosen = world.network.filter(matches);
    if (how !== 'repeat') world.network = world.network.filter((message) => !matches(message));
    for (const message of chosen) {
      if (how === 'drop') {
        if (this.#loud) this.#say(`lost: ${describeMessage(message)}`);
      } else if (!world.cuts.has(`${message.from}>${message.to}`)) world.replicas.get(message.to)?.step(message);
    }
  }

  #result(result: ReturnType<Simulation['propose']>): void {
    this.#say(result.ok ? `accepted as ${result.index}/${result.term}` : `refused: ${result.reason}`);
  }

  #tellRoles(): void {
    for (const { id, raft } of this.#world.replicas.values()) {
      if (raft === null) continue;
      const role = `${raft.role} in term ${raft.term}`;
      if (this.#roles.get(id) === role) continue;
      const before = this.#roles.get(id);
      this.#roles.set(id, role);
      if (this.#loud && before !== undefined) this.#say(`${id} is ${role}`);
    }
  }

  #log(replica: SimulatedReplica): void {
    const { raft } = replica;
    if (raft === null) return this.#say(`${replica.id} is down`);
    const parts: string[] = [];
    for (let index = 1; index <= raft.lastIndex; index++) {
      const entry = replica.entryAt(index);
      if (entry !== undefined) parts.push(`${index}/${entry.term} ${describeEntry(entry)}`);
    }
    this.#say(`${replica.id}: ${parts.join(', ')}`);
  }

  #status(replica: SimulatedReplica): void {
    const { raft } = replica;
    if (raft === null) return this.#say(`${replica.id} is down`);
    const s = raft.status();
    const members = describeEntry({
      kind: 'configuration',
      index: 1,
      term: 1,
      bytes: 0,
      configuration: s.configuration,
    });
    const extra = `${s.transferee > 0 ? ` transfer to ${s.transferee}` : ''}${s.repairing ? ' repairing' : ''}`;
    this.#say(
      `${s.id} ${s.role} term ${s.term} vote ${s.vote} leader ${s.leader} applied ${s.applied} commit ${s.commit}` +
        ` persisted ${s.persistedIndex} last ${s.lastIndex} ${members}${extra}`,
    );
    for (const p of s.progress) {
      const flags = `${p.learner ? ' learner' : ''}${p.active ? '' : ' silent'}`;
      this.#say(`  ${p.id} ${p.state} match ${p.match} next ${p.next}${flags}`);
    }
  }
}

export function describeMessage(message: NetworkMessage): string {
  const { from, to, term, kind } = message;
  return `${from} > ${to} ${kind} ${term}${describeBody(message)}`;
}

function describeBody(m: NetworkMessage): string {
  switch (m.kind) {
    case 'preVote':
      return ` log ${m.lastIndex}/${m.lastTerm}`;
    case 'vote':
      return ` log ${m.lastIndex}/${m.lastTerm}${m.transfer ? ' transfer' : ''}`;
    case 'preVoteReply':
    case 'voteReply':
      return m.granted ? ' granted' : ' refused';
    case 'append': {
      const entries = m.entries.map((entry) => `${entry.index}/${entry.term} ${describeEntry(entry)}`);
      const what = m.notice ? 'notice' : `[${entries.join(', ')}]`;
      return ` s${m.session} after ${m.previousIndex}/${m.previousTerm} ${what} commit ${m.commit}`;
    }
    case 'appendReply':
      return m.success
        ? ` s${m.session} up to ${m.index}`
        : ` s${m.session} no ${m.index}, hint ${m.hintIndex}/${m.hintTerm}`;
    case 'heartbeat':
      return ` s${m.session} commit ${m.commit}${m.readContext > 0 ? ` read ${m.readContext}` : ''}`;
    case 'heartbeatReply':
      return ` s${m.session}${m.readContext > 0 ? ` read ${m.readContext}` : ''}`;
    case 'timeoutNow':
      return '';
    case 'snapshotChunk':
      return ` s${m.session} of ${m.snapshot.index}/${m.snapshot.term} at ${m.offset} ${m.bytes.length} bytes${m.done ? ', the last' : ''}`;
    case 'snapshotReply':
      return ` s${m.session} of ${m.index} ${m.ok ? `continue at ${m.offset}` : 'begin anew'}`;
  }
}
