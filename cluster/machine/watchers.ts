// Who hears what concerns which pipe, on this replica: its own node's sessions, and nodes that have no replica. No part of the state. PURE.

import type { PipeId, PipeSink } from './machine.ts';

interface Watcher {
  readonly incarnation: number;
  readonly sink: PipeSink;
  /** It knows that its pipe was ended. */
  fencedTold: boolean;
}

export class Watchers {
  readonly #byNode = new Map<number, Watcher>();

  set({ node, incarnation }: PipeId, sink: PipeSink | null): void {
    if (sink !== null) this.#byNode.set(node, { incarnation, sink, fencedTold: false });
    else if (this.#byNode.get(node)?.incarnation === incarnation) this.#byNode.delete(node);
  }

  sinkOf(node: number, incarnation: number): PipeSink | null {
    const watcher = this.#byNode.get(node);
    return watcher !== undefined && watcher.incarnation === incarnation ? watcher.sink : null;
  }

  /** Tells those whose pipe has ended, each once. */
  tellFenced(isFenced: (pipe: PipeId) => boolean): void {
    for (const [node, watcher] of this.#byNode) {
      if (watcher.fencedTold || !isFenced({ node, incarnation: watcher.incarnation })) continue;
      watcher.fencedTold = true;
      watcher.sink.fenced();
    }
  }
}
