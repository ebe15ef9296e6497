// The nodes of the cluster and their incarnations. The metadata alone decides that an incarnation has ended.
//
// Invariants: a number, a name and a UUID each belong to one node; `incarnation` and `fencedTo` of a node never decrease; at most
// the latest incarnation of a node is open. PURE.

import type { MetadataCommand, NodeRecord } from '../metadata-types.ts';

type OpenNode = Extract<MetadataCommand, { readonly kind: 'openNode' }>;

/** `fenceTo`: the incarnation up to which the node is ended by this; null: nothing new was ended. */
export type NodeChange =
  | {
      readonly ok: true;
      readonly fenceTo: number | null;
      readonly before: NodeRecord | null;
      readonly after: NodeRecord;
    }
  | { readonly ok: false; readonly reason: 'unknown' | 'conflict' | 'ended' };

export class NodeTable {
  readonly #nodes = new Map<number, NodeRecord>();

  get(node: number): NodeRecord | undefined {
    return this.#nodes.get(node);
  }

  values(): Iterable<NodeRecord> {
    return this.#nodes.values();
  }

  put(record: NodeRecord): void {
    this.#nodes.set(record.node, record);
  }

  /** Known, and not ended. */
  isOpen(node: number, incarnation: number): boolean {
    const record = this.#nodes.get(node);
    return record !== undefined && incarnation === record.incarnation && incarnation > record.fencedTo;
  }

  /** A new incarnation of a node, which ends all earlier ones; or the same one again. */
  open(command: OpenNode): NodeChange {
    for (const other of this.#nodes.values()) {
      const same = other.node === command.node;
      // A folder that was wiped, or copied, does not get the name or the number of the one that it was.
      if (same !== (other.uuid === command.uuid)) return { ok: false, reason: 'conflict' };
      if (!same && other.name === command.name) return { ok: false, reason: 'conflict' };
    }
    const before = this.#nodes.get(command.node) ?? null;
    const fencedTo = before?.fencedTo ?? 0;
    if (command.incarnation <= fencedTo || command.incarnation < (before?.incarnation ?? 0))
      return { ok: false, reason: 'ended' };
    const fenceTo = command.incarnation - 1 > fencedTo ? command.incarnation - 1 : null;
    const after: NodeRecord = {
      node: command.node,
      name: command.name,
      uuid: command.uuid,
      incarnation: command.incarnation,
      fencedTo: fenceTo ?? fencedTo,
      contact: command.contact,
      machineVersion: command.machineVersion ?? 1,
    };
    this.put(after);
    return { ok: true, fenceTo, before, after };
  }

  /** Ends the incarnations up to this one; also one that was never opened, which then cannot be any more. */
  fence(node: number, incarnation: number): NodeChange {
    const before = this.#nodes.get(node);
    if (before === undefined) return { ok: false, reason: 'unknown' };
    if (incarnation <= before.fencedTo) return { ok: true, fenceTo: null, before, after: before };
    const after: NodeRecord = { ...before, fencedTo: incarnation };
    this.put(after);
    return { ok: true, fenceTo: incarnation, before, after };
  }
}
