// Building a replica of this node anew from its peers: for one that halted, or whose state is not trusted any more.
//
// A replica whose files were found damaged when its node started, or are when they are read, is built anew without being asked to.
//
//   end what is there → forget its log, but for its vote and for how far it may have acknowledged → an empty replica → its leader sends all
//
// State owned: which groups are being forgotten now, and what damaged ones wait for. Until the new replica has again all that the old one may
// have acknowledged it neither votes nor leads (`repairTo`), across restarts; until it has come as far as sessions here had seen, they do not
// read it.
//
// It must never touch a replica that leads, or one whose group nobody else leads: its log may be the last one. The machine stays the same
// object, emptied, because others hold it.

import type { SnapshotMeta } from 'raft-ts';
import { LogError, unknownIndex } from '../log/index.ts';
import type { Log } from '../log/types.ts';
import { isVolatileGroup, metadataGroup } from '../machine/groups.ts';
import type { Machine } from '../machine/machine.ts';
import { drain } from '../machine/snapshot-pieces.ts';
import type { ReportEvent } from '../options.ts';
import type { NodeStatus } from '../peers/wire.ts';
import { emptyReplica, forgetReplica, Group, type GroupHost } from './group.ts';

export interface RebuildsContext {
  readonly node: number;
  readonly log: Log;
  /** The new replica takes the old one's place. */
  readonly groups: Map<number, Group>;
  readonly groupHost: GroupHost;
  readonly report: ReportEvent;
  readonly fatal: (error: Error) => void;
  /** The node that leads a group, 0: unknown; and is there a way to it? */
  leaderOf(group: number): number;
  reaches(node: number): boolean;
  /** The metadata here are as new as any: where replicas are can be told by them. */
  isCurrent(): boolean;
  /** The nodes that have a replica of a group. */
  replicas(group: number): readonly number[];
  /** What a node told of itself, and can only have told since this process began; null: nothing. */
  statusOf(node: number): Pick<NodeStatus, 'led' | 'followed' | 'members'> | null;
  /** An empty machine for this group. */
  createMachine(group: number): Machine;
  /** What a new replica of this group begins with. */
  beginning(group: number): SnapshotMeta;
}

export class Rebuilds {
  readonly #context: RebuildsContext;
  readonly #running = new Set<number>();
  /** Damaged replicas, and what they wait for. */
  readonly #waiting = new Map<number, string>();

  constructor(context: RebuildsContext) {
    this.#context = context;
  }

  /** Damaged replicas are built anew by themselves, as soon as the others can give them everything. Called now and then. */
  tick(): void {
    for (const { id, isDamaged } of this.#context.groups.values()) {
      if (!isDamaged || this.#running.has(id)) continue;
      // It never rejects.
      void this.rebuild(id).then((problem) => this.#tried(id, problem));
    }
  }

  /** Why a damaged replica is not being built anew yet; null: it is, or it is not damaged. */
  waitsFor(group: number): string | null {
    return this.#waiting.get(group) ?? null;
  }

  #tried(group: number, problem: string | null): void {
    if (problem === null) return void this.#waiting.delete(group);
    if (this.#waiting.get(group) === problem) return;
    this.#waiting.set(group, problem);
    this.#context.report('warn', 'a damaged replica waits to be built anew', { group, reason: problem });
  }

  /** It is being emptied. */
  isRunning(group: number): boolean {
    return this.#running.has(group);
  }

  /** Resolves with null when the new replica has begun to catch up, else with the reason why not. */
  async rebuild(id: number): Promise<string | null> {
    const others = this.#problem(id) ?? this.#others(id);
    if (typeof others === 'string') return others;
    const problem = this.#problemWith(id, others);
    if (problem !== null) return problem;
    const group = this.#context.groups.get(id)!;
    this.#running.add(id);
    try {
      await this.#replace(group, others);
      return null;
    } catch (error) {
      return `group ${id} could not be emptied: ${error instanceof Error ? error.message : String(error)}`;
    } finally {
      this.#running.delete(id);
    }
  }

  /** The new replica has all again that the old one may have acknowledged: it votes from now on. */
  repaired({ id }: Group): void {
    const { log, report, fatal } = this.#context;
    log.repaired(id).then(
      () => report('info', 'a replica was built anew', { group: id }),
      (error: Error) => {
        // This process ends: the next one finds out anew.
        if (!(error instanceof LogError && error.code === 'closed')) fatal(error);
      },
    );
  }

  #problem(id: number): string | null {
    const { node, groups, leaderOf, reaches } = this.#context;
    const group = groups.get(id);
    if (group === undefined) return `this node has no replica of group ${id}`;
    if (isVolatileGroup(id)) return `group ${id} has no other replica`;
    if (this.#running.has(id)) return `group ${id} is being built anew already`;
    if (group.halted === null && group.raft.role === 'leader') return `this node leads group ${id}`;
    const leader = leaderOf(id);
    if (leader === 0 || leader === node) return `no other node is known to lead group ${id}`;
    return reaches(leader) ? null : `node ${leader}, which leads group ${id}, cannot be reached`;
  }

  /**
   * The other nodes that have a replica of this group; or why nobody knows. Where those of the metadata are now, metadata that stopped cannot
   * tell: the leader says it, and each of those that it names, because of a change that it has not heard of one of them has.
   */
  #others(id: number): readonly number[] | string {
    const { node, isCurrent, replicas, leaderOf, statusOf } = this.#context;
    if (id !== metadataGroup) {
      if (!isCurrent()) return `the metadata here are behind: where the replicas of group ${id} are is not known`;
      return replicas(id).filter((other) => other !== node);
    }
    const leader = leaderOf(id);
    const others = new Set([leader]);
    for (const other of others)
      for (const member of statusOf(other)?.members ?? []) if (member !== node) others.add(member);
    const isTold = (statusOf(leader)?.members.length ?? 0) > 0;
    return isTold ? [...others] : `node ${leader} has not said yet who has the metadata`;
  }

  #problemWith(id: number, others: readonly number[]): string | null {
    const { groups, reaches } = this.#context;
    // What only the leader and this replica have would be on one disk until it was sent anew.
    const away = others.find((other) => !reaches(other));
    if (away !== undefined) return `node ${away}, which has a replica of group ${id} too, cannot be reached`;
    const isUnknown = groups.get(id)!.acknowledgedTo === unknownIndex;
    const silent = isUnknown ? others.find((other) => this.#termOf(other, id) === null) : undefined;
    return silent === undefined ? null : `node ${silent} has not said yet which term group ${id} is in`;
  }

  #termOf(node: number, id: number): number | null {
    const status = this.#context.statusOf(node);
    return status?.led.get(id) ?? status?.followed.get(id) ?? null;
  }

  /**
   * A term that this replica cannot have seen, if nobody knows any more which ones it had seen. It heard of each from another replica, which
   * had made it durable before: so it is beyond all of theirs. In it this replica has not voted, and hears no leader of a term that it forgot;
   * and as all that it may have acknowledged is with whoever is elected in it or later, it is whole again once it has an entry of such a term.
   */
  #unseenTerm(id: number, known: number, others: readonly number[]): number {
    return 1 + Math.max(known, ...others.map((other) => this.#termOf(other, id) ?? 0));
  }

  async #replace(old: Group, others: readonly number[]): Promise<void> {
    const { id, machine } = old;
    const { log, groups, groupHost, report } = this.#context;
    report('warn', 'a replica is built anew', { group: id, applied: old.appliedIndex });
    // From here on the old one says nothing, and sessions hear of the group from elsewhere.
    old.halt(new Error('is being built anew'));
    const repairTo = old.acknowledgedTo;
    const known = old.raft.status();
    const isUnknown = repairTo === unknownIndex;
    const { term, vote } = isUnknown ? { term: this.#unseenTerm(id, known.term, others), vote: 0 } : known;
    await old.close();
    const snapshot = this.#context.beginning(id);
    await forgetReplica(log, id, { term, vote }, repairTo, snapshot);
    machine.restore(Buffer.concat(drain(this.#context.createMachine(id).snapshot())));
    // A leader of the unseen term itself was elected without this replica, and has all that it may have acknowledged before.
    const repairTerm = isUnknown ? term - 1 : term;
    const restored = { ...emptyReplica(snapshot), hardState: { term, vote, commit: 0 }, repairTo, repairTerm };
    const rebuilt = new Group(id, machine, restored, groupHost, isUnknown ? unknownIndex : old.seenTo);
    groups.set(id, rebuilt);
    groupHost.dirty(rebuilt);
  }
}
