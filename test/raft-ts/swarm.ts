// One random life of a group: a seed picks which faults occur and how often, then thousands of steps, then everything heals and the group must
// come to agree. The checker watches every step.

import type { ReplicaId } from 'raft-ts';
import { type Draw, seededDraw } from './random.ts';
import type { SimulatedReplica } from './replica.ts';
import { Simulation } from './simulation.ts';

export interface SwarmResult {
  readonly committed: number;
  readonly terms: number;
  /** Rare things that happened: a run that never meets them proves little. */
  readonly marks: ReadonlyMap<string, number>;
}

/** How often what happens, in a run: weights, 0 for never. */
interface Weights {
  deliver: number;
  tick: number;
  disk: number;
  propose: number;
  lose: number;
  duplicate: number;
  crash: number;
  restart: number;
  cut: number;
  heal: number;
  change: number;
  transfer: number;
  stepDown: number;
  leaderLost: number;
  read: number;
  snapshot: number;
  loseStreams: number;
  damage: number;
  pause: number;
  resume: number;
}

class Swarm {
  readonly #draw: Draw;
  readonly #world: Simulation;
  readonly #weights: Weights;
  readonly #reorders: boolean;
  readonly #marks = new Map<string, number>();
  /** They stand still: nothing reaches them, and no time passes for them. */
  readonly #paused = new Set<ReplicaId>();
  #proposals = 0;
  #reads = 0;
  #nextId: ReplicaId;

  constructor(seed: number) {
    const draw = seededDraw(seed);
    this.#draw = draw;
    const small = draw(2) === 0;
    this.#world = new Simulation(draw, {
      electionTicks: 5 + draw(6),
      heartbeatTicks: 1 + draw(2),
      appendBytesMax: small ? 20 : 1000,
      inflightBytesMax: small ? 60 : 4000,
      inflightMessagesMax: small ? 1 + draw(4) : 8,
      uncommittedBytesMax: small ? 200 : 10_000,
      snapshotChunkBytes: 10 + draw(200),
    });
    const some = (weight: number) => (draw(2) === 0 ? weight : 0);
    const calm = draw(5) === 0;
    const fault = (weight: number) => (calm ? 0 : some(weight));
    const crash = fault(6);
    const cut = fault(8);
    const pause = fault(4);
    this.#weights = {
      deliver: 600,
      tick: 120 + draw(200),
      disk: 100 + draw(300),
      propose: 100,
      lose: fault(60),
      duplicate: fault(40),
      crash,
      restart: crash * 3,
      cut,
      heal: cut * 0.5,
      change: some(draw(3) === 0 ? 80 : 15),
      transfer: some(6),
      stepDown: some(3),
      leaderLost: some(5),
      read: 20,
      snapshot: some(20),
      loseStreams: fault(6),
      damage: 0,
      pause,
      resume: pause * 0.7,
    };
    this.#reorders = !calm && draw(2) === 0;
    const count = [1, 2, 3, 3, 3, 5][draw(6)]!;
    // One damaged disk at a time is survived by a group of three or more whose members stay.
    if (this.#weights.change === 0 && count >= 3) this.#weights.damage = fault(3);
    this.#nextId = count + 1;
    this.#world.startVoters(count);
    for (const replica of this.#world.replicas.values()) replica.diskMode = draw(4) === 0 ? 'auto' : 'manual';
    this.#watch();
  }

  run(steps: number): SwarmResult {
    for (let i = 0; i < steps; i++) this.#step();
    this.#healAndAgree();
    const terms = Math.max(...[...this.#world.replicas.values()].map(({ raft }) => raft!.term));
    return { committed: this.#world.checker.commitMax, terms, marks: this.#marks };
  }

  #step(): void {
    const entries = Object.entries(this.#weights) as [keyof Weights, number][];
    let point = this.#draw(1 << 20) / (1 << 20);
    point *= entries.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [action, weight] of entries) {
      point -= weight;
      if (point < 0) return this.#act(action);
    }
  }

  #act(action: keyof Weights): void {
    const world = this.#world;
    const { network } = world;
    switch (action) {
      case 'deliver':
        if (network.length > 0) this.#deliver(this.#reorders ? this.#draw(network.length) : this.#firstOfALink());
        return;
      case 'lose':
        if (network.length > 0) network.splice(this.#draw(network.length), 1);
        return;
      case 'duplicate':
        if (network.length > 0 && network.length < 500) network.push(network[this.#draw(network.length)]!);
        return;
      case 'tick':
        return this.#tick(this.#any().id);
      case 'disk': {
        const replica = this.#any();
        if (replica.raft === null || this.#paused.has(replica.id)) return;
        if (!replica.persist(1 + this.#draw(3)) || this.#draw(2) === 0) replica.runTask();
        return replica.pump();
      }
      case 'propose':
        this.#proposals++;
        world.propose(this.#leaderOrAny().id, `p${this.#proposals}`, this.#draw(30));
        return;
      case 'crash': {
        const replica = this.#any();
        if (replica.raft !== null)
          replica.crash(this.#draw(replica.writes.length + 1), this.#draw(2) === 0 ? this.#draw(4) : null);
        return;
      }
      case 'restart': {
        const replica = this.#any();
        if (replica.raft === null) replica.start();
        return;
      }
      default:
        return this.#actRarely(action);
    }
  }

  #actRarely(action: keyof Weights): void {
    const world = this.#world;
    const replica = this.#leaderOrAny();
    switch (action) {
      case 'cut':
        return this.#cut();
      case 'heal':
        return world.heal();
      case 'change':
        return this.#change(replica);
      case 'transfer':
        return replica.run((raft) => raft.transferLeadership(this.#any().id));
      case 'stepDown':
        return replica.run((raft) => raft.stepDown());
      case 'leaderLost':
        return this.#any().run((raft) => raft.leaderLost(this.#draw(4)));
      case 'read':
        if (this.#reader(replica).raft === null) return;
        world.checker.readAsked(++this.#reads);
        return this.#reader(replica).run((raft) => raft.readIndex(this.#reads));
      case 'damage':
        return this.#damage();
      case 'pause':
        this.#paused.add(replica.id);
        if (this.#draw(2) === 0) this.#oversleep(replica);
        return;
      case 'resume':
        return this.#wake();
      case 'snapshot': {
        const one = this.#any();
        one.takeSnapshot(this.#draw(3) * 5);
        return;
      }
      case 'loseStreams':
        return replica.loseStreams();
      default:
        throw new Error(`unknown action ${action}`);
    }
  }

  /** Timers come before what the network has for them: a leader may be asked, and speak, before it learns that it was deposed. */
  #wake(): void {
    const woken = [...this.#paused];
    this.#paused.clear();
    for (const id of woken) {
      const replica = this.#world.get(id);
      if (replica.raft?.role !== 'leader') continue;
      this.#world.checker.readAsked(++this.#reads);
      replica.run((raft) => raft.readIndex(this.#reads));
      this.#world.tick(id, this.#world.bounds.heartbeatTicks);
    }
  }

  /** A leader that hears nothing until another has taken over and committed something. What it asked last is answered meanwhile. */
  #oversleep({ id, raft }: SimulatedReplica): void {
    const world = this.#world;
    if (raft?.role !== 'leader' || !raft.leaderReady) return;
    world.tick(id, world.bounds.heartbeatTicks);
    let proposedIn = 0;
    for (let tick = 0; tick < 10 * world.bounds.electionTicks; tick++) {
      for (const other of world.replicas.keys()) this.#tick(other);
      for (let work = 0; work < 100 && this.#work(); work++);
      const next = world.leaders().at(-1)?.raft;
      if (next == null || next.term === raft.term) continue;
      if (next.commit > raft.commit && next.leaderReady) {
        this.#mark('leader overslept');
        return this.#wake();
      }
      if (proposedIn !== next.term) world.propose(world.leaders().at(-1)!.id, `p${++this.#proposals}`);
      proposedIn = next.term;
    }
  }

  /** All that is under way between those who do not stand still. False: nothing is. */
  #work(): boolean {
    let any = false;
    for (const replica of this.#world.replicas.values()) {
      if (replica.raft === null || this.#paused.has(replica.id)) continue;
      if (replica.persist(Number.POSITIVE_INFINITY) || replica.runTask()) any = true;
      replica.pump();
    }
    const { network } = this.#world;
    for (let at = 0; at < network.length; ) {
      if (this.#paused.has(network[at]!.to)) at++;
      else {
        this.#world.deliver(at);
        any = true;
      }
      if (network.length > 1000) return false;
    }
    return any;
  }

  #deliver(at: number): void {
    if (!this.#paused.has(this.#world.network[at]!.to)) this.#world.deliver(at);
  }

  #tick(id: ReplicaId): void {
    if (!this.#paused.has(id)) this.#world.tick(id);
  }

  #damage(): void {
    const all = [...this.#world.replicas.values()];
    const victim = this.#any();
    if (victim.raft !== null || all.some(({ disk }) => disk.repairTo > 0) || victim.disk.log.size === 0) return;
    const indices = [...victim.disk.log.keys()];
    victim.damage(indices[this.#draw(indices.length)]!);
    this.#mark('disk damaged');
  }

  #any(): SimulatedReplica {
    const all = [...this.#world.replicas.values()];
    return all[this.#draw(all.length)]!;
  }

  /** Of several leaders the oldest: it may not know yet that it was deposed. */
  #reader(replica: SimulatedReplica): SimulatedReplica {
    const leaders = this.#world.leaders();
    return leaders.length > 1 ? leaders[0]! : replica;
  }

  #leaderOrAny(): SimulatedReplica {
    // One that stands still is not asked for anything, and so says nothing.
    const leaders = this.#world.leaders().filter(({ id }) => !this.#paused.has(id));
    return leaders.length === 0 || this.#draw(10) === 0 ? this.#any() : leaders[this.#draw(leaders.length)]!;
  }

  /** Links keep their order: the oldest message of the link that a random one belongs to. */
  #firstOfALink(): number {
    const { network } = this.#world;
    const { from, to } = network[this.#draw(network.length)]!;
    return network.findIndex((message) => message.from === from && message.to === to);
  }

  #cut(): void {
    const ids = [...this.#world.replicas.keys()];
    const shape = this.#draw(4);
    if (shape === 0) this.#world.isolate(this.#any().id);
    else if (shape === 1) this.#world.cut(this.#any().id, this.#any().id);
    else if (shape === 2) {
      // One direction: it still speaks, or still hears.
      const id = this.#any().id;
      const deaf = this.#draw(2) === 0;
      for (const other of ids) this.#world.cut(deaf ? other : id, deaf ? id : other);
    } else {
      const left = new Set(ids.filter(() => this.#draw(2) === 0));
      for (const a of ids) for (const b of ids) if (left.has(a) !== left.has(b)) this.#world.cut(a, b);
    }
  }

  /** Some next step of some change: a new learner, a promotion, a demotion, a removal. */
  #change(replica: SimulatedReplica): void {
    const status = replica.raft?.status();
    if (status === undefined || status.role !== 'leader') return;
    const { voters, learners } = status.configuration;
    const pick = (ids: readonly ReplicaId[]) => ids[this.#draw(ids.length)]!;
    const kind = this.#draw(4);
    if (kind === 0 && learners.length < 2 && this.#world.replicas.size < 8) {
      const known = [...this.#world.replicas.keys()].filter((id) => !voters.includes(id) && !learners.includes(id));
      const returning = known.length > 0 && this.#draw(2) === 0;
      const id = returning ? pick(known) : this.#nextId++;
      if (!returning) {
        this.#world.add(id).diskMode = 'manual';
      }
      replica.run((raft) => raft.proposeConfiguration(voters, [...learners, id]));
    } else if (kind === 1 && learners.length > 0) {
      const id = pick(learners);
      const without = this.#draw(2) === 0 && voters.length > 1 ? pick(voters) : 0;
      const rest = voters.filter((voter) => voter !== without);
      replica.run((raft) =>
        raft.proposeConfiguration(
          [...rest, id],
          learners.filter((other) => other !== id),
        ),
      );
    } else if (kind === 2 && voters.length > 1) {
      const id = pick(voters);
      replica.run((raft) =>
        raft.proposeConfiguration(
          voters.filter((voter) => voter !== id),
          [...learners, id],
        ),
      );
    } else if (kind === 3 && voters.length > 1) {
      const id = pick(voters);
      replica.run((raft) =>
        raft.proposeConfiguration(
          voters.filter((voter) => voter !== id),
          learners,
        ),
      );
    }
  }

  #watch(): void {
    this.#world.tell = (_id, text) => {
      if (text.startsWith('installs')) this.#mark('snapshot installed');
      if (text.includes('truncates')) this.#mark('log truncated');
      if (text.includes('leaving')) this.#mark('joint phase');
      if (text.startsWith('read') && !text.endsWith('failed')) this.#mark('read answered');
      if (text.includes('writes') && text.includes('learners')) this.#mark('learner');
    };
    this.#world.onSend = (message) => {
      if (message.kind === 'timeoutNow') this.#mark('transfer');
      if (message.kind === 'appendReply' && !message.success) this.#mark('append refused');
      if (message.kind === 'snapshotReply' && !message.ok) this.#mark('snapshot begun anew');
    };
  }

  #mark(name: string): void {
    this.#marks.set(name, (this.#marks.get(name) ?? 0) + 1);
  }

  /** No more faults: one leader, which commits and brings every member of its configuration up to date. */
  #healAndAgree(): void {
    const world = this.#world;
    world.heal();
    this.#paused.clear();
    for (const replica of world.replicas.values()) {
      if (replica.raft === null) replica.start();
      replica.diskMode = 'auto';
      replica.pump();
    }
    world.finishDisks();
    world.settle();
    const ticks = world.bounds.electionTicks * 40;
    const data = 'after all';
    let proposedIn = 0;
    for (let tick = 0; tick < ticks; tick++) {
      world.tickAll();
      const leader = world.leaders().at(-1);
      if (leader === undefined || !leader.raft!.leaderReady) continue;
      // A leader that ended may not have committed it.
      const { term } = leader.raft!;
      if (proposedIn !== term && world.propose(leader.id, data).ok) proposedIn = term;
      world.settle();
      if (proposedIn === term && this.#agreed(leader)) return;
    }
    const states = [...world.replicas.values()].map(({ raft }) => JSON.stringify(raft?.status())).join('\n');
    throw new Error(`the group does not come to agree after ${ticks} ticks without faults:\n${states}`);
  }

  #agreed(leader: SimulatedReplica): boolean {
    const { voters, outgoing, learners } = leader.raft!.status().configuration;
    if (leader.machine.at(-1) !== 'after all' || outgoing.length > 0) return false;
    const wanted = JSON.stringify(leader.machine);
    return [...voters, ...learners].every((id) => JSON.stringify(this.#world.get(id).machine) === wanted);
  }
}

export function runSwarm(seed: number, steps: number): SwarmResult {
  return new Swarm(seed).run(steps);
}
