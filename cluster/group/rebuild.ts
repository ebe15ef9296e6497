// Building a replica of this node anew from its peers: for one that halted, or whose state is not trusted any more.
//
//   end what is there → forget its log, but for its vote and for how far it may have acknowledged → an empty replica → its leader sends all
//
// State owned: which groups are being forgotten now. Until the new replica has again all that the old one may have acknowledged it neither
// votes nor leads (`repairTo`), across restarts; until it has come as far as sessions here had seen, they do not read it.
//
// It must never touch a replica that leads, or one whose group nobody else leads: its log may be the last one. The machine stays the same
// object, emptied, because others hold it.

import type { SnapshotMeta } from 'raft-ts';
import { LogError } from '../log/index.ts';
import type { Log } from '../log/types.ts';
import { isVolatileGroup } from '../machine/groups.ts';
import type { Machine } from '../machine/machine.ts';
import { drain } from '../machine/snapshot-pieces.ts';
import type { ReportEvent } from '../options.ts';
import { emptyReplica, Group, type GroupHost } from './group.ts';

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
  /** The nodes that have a replica of a group. */
  replicas(group: number): readonly number[];
  /** An empty machine for this group. */
  createMachine(group: number): Machine;
  /** What a new replica of this group begins with. */
  beginning(group: number): SnapshotMeta;
}

export class Rebuilds {
  readonly #context: RebuildsContext;
  readonly #running = new Set<number>();

  constructor(context: RebuildsContext) {
    this.#context = context;
  }

  /** Resolves with null when the new replica has begun to catch up, else with the reason why not. */
  async rebuild(id: number): Promise<string | null> {
    const problem = this.#problem(id);
    if (problem !== null) return problem;
    const group = this.#context.groups.get(id)!;
    this.#running.add(id);
    try {
      await this.#replace(group);
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
    const { node, groups, leaderOf, reaches, replicas } = this.#context;
    const group = groups.get(id);
    if (group === undefined) return `this node has no replica of group ${id}`;
    if (isVolatileGroup(id)) return `group ${id} has no other replica`;
    if (this.#running.has(id)) return `group ${id} is being built anew already`;
    if (group.halted === null && group.raft.role === 'leader') return `this node leads group ${id}`;
    const leader = leaderOf(id);
    if (leader === 0 || leader === node) return `no other node is known to lead group ${id}`;
    if (!reaches(leader)) return `node ${leader}, which leads group ${id}, cannot be reached`;
    // What only the leader and this replica have would be on one disk until it was sent anew.
    const away = replicas(id).find((other) => other !== node && !reaches(other));
    return away === undefined ? null : `node ${away}, which has a replica of group ${id} too, cannot be reached`;
  }

  async #replace(old: Group): Promise<void> {
    const { id, machine } = old;
    const { log, groups, groupHost, report } = this.#context;
    report('warn', 'a replica is built anew', { group: id, applied: old.appliedIndex });
    // From here on the old one says nothing, and sessions hear of the group from elsewhere.
    old.halt(new Error('is being built anew'));
    const { term, vote } = old.raft.status();
    const repairTo = old.acknowledgedTo;
    await old.close();
    // The core may have known of a term that it had not written yet.
    log.append([{ group: id, truncateFrom: null, entries: [], hardState: { term, vote, commit: 0 } }], written);
    await log.resetGroup(id, repairTo);
    machine.restore(Buffer.concat(drain(this.#context.createMachine(id).snapshot())));
    const snapshot = this.#context.beginning(id);
    const restored = { ...emptyReplica(snapshot), hardState: { term, vote, commit: 0 }, repairTo };
    const rebuilt = new Group(id, machine, restored, groupHost, old.seenTo);
    groups.set(id, rebuilt);
    groupHost.dirty(rebuilt);
  }
}

/** What follows waits for the log, which keeps the order. */
function written(): void {}
