// A connection's operations wait here while this node may not rely on its metadata.
//
//   open → shut, by a chunk of bytes that came while there was no lease → opened again: what waited is done, in order
//
// Whether there is a lease is asked when bytes arrive, before they are looked at, and not when their messages are routed: those bytes were sent
// before that moment, so no declaration that was answered later, however long this process is then suspended, can precede them.
//
// State owned: what waits. It is bounded because the socket is not read meanwhile: the rest of one chunk, and what channels had waiting
// behind replies. Publishes without confirms outlive their connection here, as they would have, had they been routed at once.

/** One operation, with copies of all that it needs. */
export interface Held {
  run(): void;
  /** It has waited for too long. True: it was answered, and is done with. */
  refuse(): boolean;
}

export class Gate {
  /** Read for every publish. */
  isShut = false;
  #held: Held[] = [];

  get isEmpty(): boolean {
    return this.#held.length === 0;
  }

  hold(operation: Held): void {
    this.#held.push(operation);
  }

  /** What is asked for from now on is done at once: whoever asks has nothing left here by then. */
  open(): void {
    this.isShut = false;
    const held = this.#held;
    this.#held = [];
    for (const operation of held) operation.run();
  }

  refuse(): void {
    const held = this.#held;
    this.#held = [];
    const kept = held.filter((operation) => !operation.refuse());
    // An answer may have closed the connection, and nothing comes behind what stays.
    this.#held = [...kept, ...this.#held];
  }

  clear(): void {
    this.#held = [];
  }
}
