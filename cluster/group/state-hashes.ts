// Hashes of earlier states of one replica's machine, to compare with those that the leader's entries carry.
//
// Every entry whose index is a multiple of 64 may carry the leader's hash of the state at an index 1,024 before it. Whoever applies such an
// entry and remembers another hash for that index has diverged from the leader, and must halt rather than go on.
//
// State owned: the hashes at the last multiples of 64, in a ring. It is empty after a start and after a snapshot was restored: what is not
// remembered is not compared.

const stride = 64;
/** How far back the state lies whose hash an entry carries: by then every replica has applied it, or is not remembered to. */
export const stateHashLag = 1024;
/** Twice the lag, because a leader proposes ahead of what it has applied. */
const slots = (2 * stateHashLag) / stride;

export class StateHashes {
  readonly #indices = new Float64Array(slots);
  readonly #hashes = new Uint32Array(slots);

  /** The entry at `index` was applied. */
  applied(index: number, machine: { stateHash(): number }): void {
    if (index % stride !== 0) return;
    const slot = (index / stride) % slots;
    this.#indices[slot] = index;
    // 0 would mean none.
    this.#hashes[slot] = machine.stateHash() >>> 0 || 1;
  }

  /** What the entry at `index` is to carry; 0: nothing. */
  carriedBy(index: number): number {
    return index % stride === 0 && index > stateHashLag ? this.#at(index - stateHashLag) : 0;
  }

  /** Does this replica remember another state than the one that the entry at `index` was made with? Null: no, or it does not remember. */
  contradiction(index: number, carried: number): string | null {
    if (carried === 0) return null;
    const known = this.carriedBy(index);
    if (known === 0 || known === carried) return null;
    return `the state at entry ${index - stateHashLag} differs from the leader's (hash ${known}, not ${carried})`;
  }

  clear(): void {
    this.#indices.fill(0);
  }

  #at(index: number): number {
    const slot = (index / stride) % slots;
    return this.#indices[slot] === index ? this.#hashes[slot]! : 0;
  }
}
