// Messages that were dropped all at once (by a purge, or with their queue) and still count as live: debt, worked off in bounded steps. PURE.
//
// Whatever held them is moved here as a whole, at a cost that does not depend on how much it holds. The order is that of the drops, so that
// the state is the same on every replica, whatever was restored in between: a snapshot holds one list of messages.

import type { ByteReader, Steps } from './bytes.ts';
import { type ChunkPool, Fifo } from './fifo.ts';
import type { Sections } from './images.ts';
import { Leases, writeDropped } from './leases.ts';
import type { LiveCounts } from './live.ts';
import { type Returned, writePurged } from './returned.ts';

/** Who counts the references to messages. */
interface References {
  release(index: number, ordinal: number): void;
}

export class Debt {
  readonly #pool: ChunkPool;
  /** None is empty. */
  readonly #sources: (Fifo | Leases | Returned)[] = [];
  /** Messages. */
  length = 0;

  constructor(pool: ChunkPool) {
    this.#pool = pool;
  }

  /** Takes over the fifo's messages; it is empty then. */
  addFifo(fifo: Fifo): void {
    if (fifo.length === 0) return;
    this.length += fifo.length;
    const last = this.#sources[this.#sources.length - 1];
    const into = last instanceof Fifo ? last : new Fifo(this.#pool);
    into.absorb(fifo);
    if (into !== last) this.#sources.push(into);
  }

  /** Becomes the owner. */
  addReturned(returned: Returned): void {
    if (returned.length === 0) return;
    this.length += returned.length;
    this.#sources.push(returned);
  }

  /** Becomes the owner. */
  addLeases(leases: Leases): void {
    if (leases.unsettled === 0) return;
    this.length += leases.unsettled;
    this.#sources.push(leases);
  }

  /** Works off up to `countMax` messages. Returns how many. */
  workOff(countMax: number, references: References): number {
    const sources = this.#sources;
    let done = 0;
    let emptied = 0;
    while (done < countMax && emptied < sources.length) {
      const source = sources[emptied]!;
      done +=
        source instanceof Leases
          ? dropLeases(source, countMax - done, references)
          : drop(source, countMax - done, references);
      if ((source instanceof Leases ? source.unsettled : source.length) === 0) emptied++;
    }
    sources.splice(0, emptied);
    this.length -= done;
    return done;
  }

  capture(sections: Sections): void {
    sections.bytes.u32(this.length);
    this.captureReferences(sections);
  }

  /** Only the messages. */
  captureReferences(sections: Sections): void {
    for (const source of this.#sources) {
      if (source instanceof Leases) source.captureRows(sections, writeDropped);
      else if (source instanceof Fifo) source.captureRows(sections);
      else source.captureRows(sections, writePurged);
    }
  }

  /** Of an empty object. Counts each message as live. */
  *restore(reader: ByteReader, live: LiveCounts): Steps {
    const fifo = new Fifo(this.#pool);
    yield* fifo.restore(reader, live);
    this.addFifo(fifo);
  }
}

function drop(source: Fifo | Returned, countMax: number, references: References): number {
  const count = Math.min(countMax, source.length);
  for (let left = count; left > 0; left--) {
    references.release(source.index, source.ordinal);
    source.shift();
  }
  return count;
}

function dropLeases(leases: Leases, countMax: number, references: References): number {
  let done = 0;
  for (let more = leases.seek(0); more && done < countMax; more = leases.advance()) {
    references.release(leases.index, leases.ordinal);
    leases.settle();
    done++;
  }
  return done;
}
