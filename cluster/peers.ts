// What this node knows of the others: who is connected, who was heard, who is about to stop, how far each one's metadata has come.
//
// State owned: one row per other node. Only `mail.ts` changes it, as frames come and connections break, and the timer, which lets it age;
// whoever decides by it only reads. Nothing here is certain: a node that is up may have died a moment ago.
//
// Invariant: what a process said is forgotten when a newer process of that node is met. Its words may come before `up` and after `down`.

export interface Peer {
  readonly node: number;
  /** Of the process that spoke last. */
  readonly incarnation: number;
  /** Ticks since anything was heard. */
  readonly silentTicks: number;
  /** Ticks since the connection came up; 0 while it is down. */
  readonly upTicks: number;
  /** It said something that it says as soon as it can reach us: from now on what we ask is answered. */
  readonly hears: boolean;
  /** It is about to stop. */
  readonly leaving: boolean;
  readonly metadataApplied: number;
  /** Ticks for which what leaders say is dropped after the connection broke: what was still in its buffers is from a dead leader. */
  readonly mutedTicks: number;
}

type Row = { -readonly [Field in keyof Peer]: Peer[Field] };

/** What a dead leader may have left behind arrives within these. */
const mutedTicksAfterDown = 2;

export class Peers {
  readonly #rows = new Map<number, Row>();

  constructor(nodes: readonly number[]) {
    for (const node of nodes)
      this.#rows.set(node, {
        node,
        incarnation: 0,
        silentTicks: 0,
        upTicks: 0,
        hears: false,
        leaving: false,
        metadataApplied: 0,
        mutedTicks: 0,
      });
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
  /** Connected peers that answer what we ask. */
  hearing(): number {
    let count = 0;
    for (const { upTicks, hears } of this.#rows.values()) if (upTicks > 0 && hears) count++;
    return count;
  }

  /** Something came from this process. Undefined: nobody that we know. */
  heard(node: number, incarnation: number): Peer | undefined {
    const row = this.#rows.get(node);
    if (row === undefined) return undefined;
    row.silentTicks = 0;
    if (incarnation > row.incarnation) {
      row.incarnation = incarnation;
      row.leaving = false;
      row.metadataApplied = 0;
    }
    return row;
  }

  up(node: number, incarnation: number): boolean {
    if (this.heard(node, incarnation) === undefined) return false;
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

  /** It said how far its metadata has come, and so that it reaches us. True: the first time since its connection came up. */
  applied(node: number, version: number): boolean {
    const row = this.#rows.get(node)!;
    const isFirst = !row.hears;
    row.hears = true;
    row.metadataApplied = Math.max(row.metadataApplied, version);
    return isFirst;
  }

  leaving(node: number): void {
    this.#rows.get(node)!.leaving = true;
  }

  tick(): void {
    for (const row of this.#rows.values()) {
      row.silentTicks++;
      if (row.upTicks > 0) row.upTicks++;
      if (row.mutedTicks > 0) row.mutedTicks--;
    }
  }
}
