// What this node knows of the others: who is connected, who was heard, who is about to stop, and what each one told of itself.
//
// State owned: one row per other node. Only `mail.ts` changes it, as frames come and connections break, and the timer, which lets it age;
// whoever decides by it only reads. Nothing here is certain: a node that is up may have died a moment ago.
//
// Invariants: what a process said is forgotten when a newer process of that node is met, and an older one is not listened to any more; of
// two statuses the later one counts, in whatever order they come. A process may be heard before `up` and after `down`.

import type { NodeStatus } from './wire.ts';

export interface Peer {
  readonly node: number;
  /** Of the process that spoke last. */
  readonly incarnation: number;
  /** Ticks since anything was heard, directly or by a relay. */
  readonly silentTicks: number;
  /** Ticks since anything was heard over its own connection. */
  readonly directSilentTicks: number;
  /** Ticks since the connection came up; 0 while it is down. */
  readonly upTicks: number;
  /** It spoke of itself over its own connection, as it does as soon as it can reach us: from now on what we ask is answered. */
  readonly hears: boolean;
  /** It is about to stop. */
  readonly leaving: boolean;
  readonly metadataApplied: number;
  /** What it last told of itself; null: nothing yet. */
  readonly status: NodeStatus | null;
  /** Ticks for which what leaders say is dropped after the connection broke: what was still in its buffers is from a dead leader. */
  readonly mutedTicks: number;
}

type Row = { -readonly [Field in keyof Peer]: Peer[Field] };

/** What a dead leader may have left behind arrives within these. */
const mutedTicksAfterDown = 2;

export class Peers {
  readonly #rows = new Map<number, Row>();
  readonly #tickMilliseconds: number;

  constructor(nodes: readonly number[], tickMilliseconds: number) {
    this.#tickMilliseconds = tickMilliseconds;
    for (const node of nodes) this.add(node);
  }

  /** One more node, of which nothing is known yet; nothing happens if it is one already. */
  add(node: number): void {
    if (this.#rows.has(node)) return;
    this.#rows.set(node, {
      node,
      incarnation: 0,
      silentTicks: 0,
      directSilentTicks: 0,
      upTicks: 0,
      hears: false,
      leaving: false,
      metadataApplied: 0,
      status: null,
      mutedTicks: 0,
    });
  }

  /** It is no part of the cluster any more. */
  remove(node: number): void {
    this.#rows.delete(node);
  }

  get count(): number {
    return this.#rows.size;
  }
  get(node: number): Peer | undefined {
    return this.#rows.get(node);
  }
  all(): Iterable<Peer> {
    return this.#rows.values();
  }
  /** A connected peer that answers what we ask. */
  answers(node: number): boolean {
    const row = this.#rows.get(node);
    return row !== undefined && row.upTicks > 0 && row.hears;
  }
  /** It may be given a leadership: it stays, and its metadata go on. */
  mayLead(node: number): boolean {
    const row = this.#rows.get(node);
    return row !== undefined && !row.leaving && row.status?.metadataHalted !== true;
  }
  /** For how long nothing was heard of a node, neither directly nor by a relay. A pause of this process counts as one tick. */
  silentMilliseconds(node: number): number {
    return (this.#rows.get(node)?.silentTicks ?? 0) * this.#tickMilliseconds;
  }

  /** Something came from this process. Undefined: nobody that we know, or a process that a newer one has replaced. */
  heard(node: number, incarnation: number, isDirect: boolean): Peer | undefined {
    const row = this.#rows.get(node);
    if (row === undefined || incarnation < row.incarnation) return undefined;
    row.silentTicks = 0;
    if (isDirect) row.directSilentTicks = 0;
    if (incarnation > row.incarnation) {
      row.incarnation = incarnation;
      row.leaving = false;
      row.metadataApplied = 0;
      row.status = null;
    }
    return row;
  }

  up(node: number, incarnation: number): boolean {
    if (this.heard(node, incarnation, true) === undefined) return false;
    const row = this.#rows.get(node)!;
    row.upTicks = 1;
    row.mutedTicks = 0;
    return true;
  }

  down(node: number): boolean {
    const row = this.#rows.get(node);
    if (row === undefined) return false;
    row.upTicks = 0;
    row.hears = false;
    row.mutedTicks = mutedTicksAfterDown;
    return true;
  }

  /** It spoke of itself over its own connection, so it reaches us; true: the first time since the connection came up. */
  reached(node: number): boolean {
    const row = this.#rows.get(node)!;
    const isFirst = !row.hears;
    row.hears = true;
    return isFirst;
  }

  /** It said how far its metadata has come. */
  applied(node: number, version: number): void {
    const row = this.#rows.get(node)!;
    row.metadataApplied = Math.max(row.metadataApplied, version);
  }

  /** It told of itself. `stale`: it has told something newer; `changed`: whom it hears, what it leads, or whether it can lead. */
  told(node: number, status: NodeStatus): 'stale' | 'same' | 'changed' {
    const row = this.#rows.get(node)!;
    const before = row.status;
    if (before !== null && status.sequence <= before.sequence) return 'stale';
    row.status = status;
    row.metadataApplied = Math.max(row.metadataApplied, status.metadataApplied);
    return before !== null && saysTheSame(before, status) ? 'same' : 'changed';
  }

  leaving(node: number): void {
    this.#rows.get(node)!.leaving = true;
  }

  tick(): void {
    for (const row of this.#rows.values()) {
      row.silentTicks++;
      row.directSilentTicks++;
      if (row.upTicks > 0) row.upTicks++;
      if (row.mutedTicks > 0) row.mutedTicks--;
    }
  }
}

function saysTheSame(a: NodeStatus, b: NodeStatus): boolean {
  if (a.metadataHalted !== b.metadataHalted || a.led.size !== b.led.size) return false;
  for (const [group, term] of a.led) if (b.led.get(group) !== term) return false;
  return isSameList(a.heard, b.heard) && isSameList(a.connected, b.connected);
}

export const isSameList = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((node, i) => node === b[i]);
