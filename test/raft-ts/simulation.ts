// A group of simulated replicas and the network between them. Nothing moves by itself: scripts, tests and the random run pull the strings.

import { type Configuration, initialConfiguration, type ReplicaId } from 'raft-ts';
import { Checker } from './checker.ts';
import type { Draw } from './random.ts';
import { type NetworkMessage, type ReplicaBounds, SimulatedReplica, type World } from './replica.ts';

export const defaultBounds: ReplicaBounds = {
  group: 1,
  groupIncarnation: 1,
  electionTicks: 10,
  heartbeatTicks: 2,
  appendBytesMax: 1000,
  inflightBytesMax: 4000,
  inflightMessagesMax: 8,
  uncommittedBytesMax: 10_000,
  snapshotChunkBytes: 1000,
};

const nobody: Configuration = { voters: [], outgoing: [], learners: [], learnersNext: [], autoLeave: false };

export class Simulation implements World {
  readonly bounds: ReplicaBounds;
  readonly replicas = new Map<ReplicaId, SimulatedReplica>();
  readonly checker = new Checker(this.replicas);
  /** Messages under way, oldest first. */
  network: NetworkMessage[] = [];
  readonly cuts = new Set<string>();
  /** Called with everything worth a line. */
  tell: (id: ReplicaId, text: string) => void = () => {};
  /** Called with every message that enters the network. */
  onSend: (message: NetworkMessage) => void = () => {};
  readonly #draw: Draw;

  constructor(draw: Draw = () => 0, bounds: Partial<ReplicaBounds> = {}) {
    this.bounds = { ...defaultBounds, ...bounds };
    this.#draw = draw;
  }

  random(bound: number): number {
    return this.#draw(bound);
  }

  /** Replicas 1 to `count`, all voters, started. */
  startVoters(count: number): this {
    const voters = Array.from({ length: count }, (_, i) => i + 1);
    for (const id of voters) this.add(id, initialConfiguration(voters));
    return this;
  }

  /** A replica that was just created; without a configuration it knows nobody. */
  add(id: ReplicaId, configuration: Configuration = nobody): SimulatedReplica {
    const replica = new SimulatedReplica(id, configuration, this);
    this.replicas.set(id, replica);
    replica.start();
    return replica;
  }

  get(id: ReplicaId): SimulatedReplica {
    const replica = this.replicas.get(id);
    if (replica === undefined) throw new Error(`there is no replica ${id}`);
    return replica;
  }

  send(message: NetworkMessage): void {
    this.onSend(message);
    this.network.push(message);
  }

  cut(from: ReplicaId, to: ReplicaId): void {
    this.cuts.add(`${from}>${to}`);
  }

  /** Cuts both ways between `id` and everybody else. */
  isolate(id: ReplicaId): void {
    for (const other of this.replicas.keys()) {
      if (other === id) continue;
      this.cut(id, other);
      this.cut(other, id);
    }
  }

  heal(): void {
    this.cuts.clear();
  }

  /** Delivers one message; it is lost if the link is cut or the receiver is down. */
  deliver(at: number): void {
    const message = this.network.splice(at, 1)[0]!;
    if (this.cuts.has(`${message.from}>${message.to}`)) return;
    const replica = this.replicas.get(message.to);
    if (replica === undefined) return;
    const ledTerm = replica.raft?.role === 'leader' ? replica.raft.term : 0;
    replica.step(message);
    this.checker.delivered(message, ledTerm, replica.raft);
  }

  /** Delivers in order until nothing is under way; finishes disk work of replicas in manual mode if `disks`. */
  settle(disks = false): void {
    for (let steps = 0; steps < 100_000; steps++) {
      if (this.network.length > 0) this.deliver(0);
      else if (!disks || !this.finishDisks()) return;
    }
    throw new Error('the group never comes to rest');
  }

  /** Completes all disk work; false if there was none. */
  finishDisks(): boolean {
    let any = false;
    for (const replica of this.replicas.values()) {
      if (replica.raft === null) continue;
      if (replica.persist(Number.POSITIVE_INFINITY) || replica.runTask()) any = true;
      replica.pump();
    }
    return any;
  }

  tick(id: ReplicaId, count = 1): void {
    for (let i = 0; i < count; i++) {
      const replica = this.get(id);
      replica.run((raft) => raft.tick());
      this.checker.ticked(id, replica.raft, this.bounds.electionTicks);
    }
  }

  /** One tick everywhere, then everything is delivered. */
  tickAll(count = 1): void {
    for (let i = 0; i < count; i++) {
      for (const id of this.replicas.keys()) this.tick(id);
      this.settle();
    }
  }

  /** Makes `id` the leader by a campaign and settles. */
  elect(id: ReplicaId): this {
    this.get(id).run((raft) => raft.campaign());
    this.settle();
    return this;
  }

  propose(
    id: ReplicaId,
    data: string,
    bytes = data.length,
  ): ReturnType<NonNullable<SimulatedReplica['raft']>['propose']> {
    let result: ReturnType<NonNullable<SimulatedReplica['raft']>['propose']> = { ok: false, reason: 'notLeader' };
    this.get(id).run((raft) => {
      result = raft.propose(data, bytes);
    });
    return result;
  }

  /** Those who lead, with the highest term last. */
  leaders(): SimulatedReplica[] {
    return [...this.replicas.values()]
      .filter(({ raft }) => raft?.role === 'leader')
      .sort((left, right) => left.raft!.term - right.raft!.term);
  }
}
