// Which nodes' incarnations are suspected to be gone: said by whoever leads the shard, for consumers that are known and that may yet come.
// A suspicion of an incarnation covers all earlier ones, since those have ended. PURE.

import type { ByteReader, ByteWriter } from './bytes.ts';

export class Suspicions {
  /** By node, the latest incarnation that is suspected. */
  readonly #incarnations = new Map<number, number>();

  has(node: number, incarnation: number): boolean {
    return (this.#incarnations.get(node) ?? -1) >= incarnation;
  }

  /** False: nothing has changed. */
  set(node: number, incarnation: number, suspected: boolean): boolean {
    if (suspected === this.has(node, incarnation)) return false;
    // A later incarnation stays suspected, whatever is said of an earlier one.
    if (!suspected && this.#incarnations.get(node) !== incarnation) return false;
    if (suspected) this.#incarnations.set(node, incarnation);
    else this.#incarnations.delete(node);
    return true;
  }

  /** Incarnations up to this one have ended. */
  end(node: number, incarnation: number): void {
    if ((this.#incarnations.get(node) ?? Number.POSITIVE_INFINITY) <= incarnation) this.#incarnations.delete(node);
  }

  serialise(writer: ByteWriter): void {
    writer.u32(this.#incarnations.size);
    for (const [node, incarnation] of [...this.#incarnations].sort(([a], [b]) => a - b)) {
      writer.u32(node);
      writer.u64(incarnation);
    }
  }

  restore(reader: ByteReader): void {
    for (let count = reader.u32(); count > 0; count--) {
      const node = reader.u32();
      this.#incarnations.set(node, reader.u64());
    }
  }
}
