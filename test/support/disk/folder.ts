// One folder of the disk in memory: names that readers see, and names that are durable. State owned: both, and the changes in between.
//
// A rename from one folder to another is one change of both: the sync of either makes it durable, and a crash keeps it whole or not at all.

import type { Random } from '../../../cluster/ports.ts';
import type { Inode } from './inode.ts';

export type Node = Inode | 'folder';

/** Changes of names to nodes (null: the name is gone). */
interface NameChange {
  readonly names: readonly (readonly [name: string, node: Node | null])[];
  /** The other half of a rename between folders. */
  other: { readonly folder: Folder; readonly change: NameChange } | null;
  /** Decided by a crash, for both halves. */
  isKept: boolean | null;
}

export class Folder {
  readonly seen = new Map<string, Node>();
  readonly #durable = new Map<string, Node>();
  #pending: NameChange[] = [];

  change(...names: NameChange['names']): NameChange {
    const change: NameChange = { names, other: null, isKept: null };
    apply(this.seen, change);
    this.#pending.push(change);
    return change;
  }

  static move(from: Folder, name: string, to: Folder, newName: string, node: Node): void {
    if (from === to) return void from.change([name, null], [newName, node]);
    const left = from.change([name, null]);
    const right = to.change([newName, node]);
    left.other = { folder: to, change: right };
    right.other = { folder: from, change: left };
  }

  sync(): void {
    const pending = this.#pending;
    this.#pending = [];
    for (const change of pending) {
      apply(this.#durable, change);
      const { other } = change;
      if (other !== null) other.folder.#syncOne(other.change);
    }
  }

  #syncOne(change: NameChange): void {
    const place = this.#pending.indexOf(change);
    if (place < 0) return;
    this.#pending.splice(place, 1);
    apply(this.#durable, change);
  }

  /** A journal keeps a prefix of the changes; without one any may be there or not. */
  crash(random: Random): void {
    const keepPrefix = random.integer(2) === 0;
    const prefix = random.integer(this.#pending.length + 1);
    this.#pending.forEach((change, i) => {
      change.isKept ??= keepPrefix ? i < prefix : random.integer(2) === 0;
      if (change.other !== null) change.other.change.isKept = change.isKept;
      if (change.isKept) apply(this.#durable, change);
    });
    this.#pending = [];
    this.seen.clear();
    for (const [name, node] of this.#durable) this.seen.set(name, node);
  }

  /** A change of what is on the platter, by nobody. */
  force(name: string, node: Node | null): void {
    for (const names of [this.seen, this.#durable]) {
      if (node === null) names.delete(name);
      else names.set(name, node);
    }
  }
}

function apply(names: Map<string, Node>, change: NameChange): void {
  for (const [name, node] of change.names) {
    if (node === null) names.delete(name);
    else names.set(name, node);
  }
}
