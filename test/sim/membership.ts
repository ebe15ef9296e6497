// Members of the simulated cluster that come and go: new machines that ask to be let in, nodes that leave, machines that are lost for good. What
// is asked for goes the production way: `joinCluster` on the new machine, `leave` on a member.
//
// State owned: the newest metadata that any process here ever had, the last number given, which requests are under way. Whether a node is a
// member the metadata alone say; this only looks them up.
// It must never decide anything for the cluster: a node is taken away when the metadata say that it is gone, or when its machine was lost.

import type { MetadataView } from '../../cluster/index.ts';
import { metadataGroup } from '../../cluster/machine/groups.ts';
import type { MemberState } from '../../cluster/machine/metadata-types.ts';
import { hostOf } from './actor.ts';
import type { MembershipTarget } from './faults/target.ts';
import type { Marks } from './marks.ts';
import type { Trace } from './trace.ts';
import type { Machine, NodeProcess } from './world.ts';

export interface MembershipContext {
  readonly trace: Trace;
  readonly marks: Marks;
  /** All that there are, also those of nodes that are gone and have not noticed. */
  machines(): Iterable<Machine>;
  /** A new one, switched on. */
  add(node: number, replaces: number | null): void;
  /** It is no more, nor its disk. A process on it ends without a word. */
  remove(node: number): void;
}

export class Membership implements MembershipTarget {
  readonly #context: MembershipContext;
  #view: MetadataView | null = null;
  #lastNode: number;
  /** The process that was asked to let a node go, until it answers. */
  #asked: NodeProcess | null = null;

  constructor(context: MembershipContext, lastNode: number) {
    this.#context = context;
    this.#lastNode = lastNode;
  }

  // ---- what is

  /** Null: nobody was ever open. Of a process that ended the view stays as it was, and so true. */
  get view(): MetadataView | null {
    for (const { process } of this.#context.machines()) {
      const metadata = process?.cluster?.metadata;
      if (metadata !== undefined && metadata.appliedIndex >= (this.#view?.appliedIndex ?? 0)) this.#view = metadata;
    }
    return this.#view;
  }

  /** Undefined: the metadata have not heard of it yet. */
  stateOf(node: number): MemberState | undefined {
    return this.view?.member(node)?.state;
  }

  isGone(node: number): boolean {
    return this.stateOf(node) === 'gone';
  }

  /** Nodes that have, or get, a replica of a group. */
  replicasOf(group: number): number[] {
    const view = this.view;
    if (view === null) return [];
    if (group === metadataGroup)
      return Array.from(view.members()).flatMap(({ node, state }) => (state === 'gone' ? [] : [node]));
    const placement = view.placement(group);
    return placement === undefined ? [] : [...new Set([...placement.voters, ...(placement.target ?? [])])];
  }

  isBusy(): boolean {
    return this.unsettled() !== null;
  }

  /** What is still to be done, for people; null: nothing. */
  unsettled(): string | null {
    const { view } = this;
    for (const { node, process } of this.#context.machines())
      if (process !== null && process === this.#asked) return `node ${node} was asked to let another go`;
    for (const { node, isMember } of this.#context.machines()) {
      if (!isMember) return `node ${node} has not been let in`;
      if (this.isGone(node)) return `node ${node} is gone and has not ended`;
    }
    if (view === null) return null;
    for (const { node, state } of view.members())
      if (state === 'joining' || state === 'leaving') return `node ${node} is ${state}`;
    for (const [group, { target }] of view.placements())
      if (target !== null) return `group ${group} moves to ${target}`;
    return null;
  }

  /** Takes machines away that the cluster has let go, and that nothing runs on any more. */
  sync(): void {
    for (const { node, process } of [...this.#context.machines()]) {
      if (process !== null || !this.isGone(node)) continue;
      this.#context.trace.line(hostOf(node), 'is gone');
      this.#context.marks.hit('node left');
      this.#context.remove(node);
    }
  }

  // ---- MembershipTarget

  join(): number {
    const node = ++this.#lastNode;
    this.#context.add(node, null);
    return node;
  }

  leave(through: number, node: number): void {
    for (const machine of this.#context.machines()) if (machine.node === through) this.#leave(machine, node);
  }

  replace(_through: number, node: number): void {
    this.#context.trace.line(hostOf(node), 'is lost for good');
    this.#context.marks.hit('node replaced');
    this.#context.remove(node);
    this.#context.add(++this.#lastNode, node);
  }

  #leave({ node: through, process }: Machine, node: number): void {
    const { trace } = this.#context;
    if (!process?.cluster) return;
    this.#asked = process;
    void process.cluster.leave(node).then((refusal) => {
      if (this.#asked === process) this.#asked = null;
      trace.line(hostOf(through), `${hostOf(node)} is to leave: ${refusal ?? 'that has begun'}`);
    });
  }
}
