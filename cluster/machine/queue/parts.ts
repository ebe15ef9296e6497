// The bodies that came in pieces: which `part` commands of a pipe wait for their message, and of which parts a message is made. PURE.
//
// Invariants:
// - Pieces of at most one message wait per pipe; they begin with a first one, and go with the end of their pipe.
// - A message made of parts is known here as long as somebody refers to it: each queue that it is in, each dead letter, each outbox row.
// - The entry of every part is counted as live once while it waits, and once while its message is known.

import type { ByteReader, ByteWriter, Steps } from './bytes.ts';
import { unknownBytes } from './images.ts';
import type { LiveCounts } from './live.ts';

/** A body of 1 GiB. */
export const partsPerMessageMax = 4096;

/** Where a part lies. */
export interface PartPlace {
  readonly index: number;
  readonly ordinal: number;
}

interface Pieces {
  readonly places: PartPlace[];
  bytes: number;
}

interface Whole {
  readonly ordinal: number;
  readonly places: readonly PartPlace[];
  references: number;
}

const none: readonly PartPlace[] = [];

export class Parts {
  readonly #live: LiveCounts;
  /** By node: those that wait. */
  readonly #waiting = new Map<number, Pieces>();
  /** By entry, since hardly any entry has such a message. */
  readonly #wholes = new Map<number, Whole[]>();

  constructor(live: LiveCounts) {
    this.#live = live;
  }

  /** There are none, so that nothing that is done with a message concerns its parts. A plain field: it is read for every message. */
  isEmpty = true;

  /** A piece came in the pipe of `node`. One whose beginning is missing, or that is one too many, is left to be refused with its message. */
  add(node: number, first: boolean, index: number, ordinal: number, bytes: number): void {
    if (first) this.drop(node);
    let pieces = this.#waiting.get(node);
    if (pieces === undefined) {
      if (!first) return;
      this.#waiting.set(node, (pieces = { places: [], bytes: 0 }));
    }
    if (pieces.places.length === partsPerMessageMax) {
      this.drop(node);
      return;
    }
    pieces.places.push({ index, ordinal });
    pieces.bytes += bytes;
    this.#live.add(index);
  }

  /** Drops what waits in the pipe of `node`. */
  drop(node: number): void {
    const pieces = this.#waiting.get(node);
    if (pieces === undefined) return;
    this.#waiting.delete(node);
    this.#free(pieces.places);
  }

  /**
   * What waits in the pipe of `node` belongs to the message (index, ordinal), to which the caller refers from now on. Returns the bytes;
   * -1: nothing waits.
   */
  join(node: number, index: number, ordinal: number): number {
    const pieces = this.#waiting.get(node);
    if (pieces === undefined) return -1;
    this.#waiting.delete(node);
    this.#put(index, { ordinal, places: pieces.places, references: 1 });
    return pieces.bytes;
  }

  /** Somebody more refers to the message. */
  retain(index: number, ordinal: number): void {
    const whole = this.#find(index, ordinal);
    if (whole !== undefined) whole.references++;
  }

  /** Somebody less refers to the message. */
  release(index: number, ordinal: number): void {
    const whole = this.#find(index, ordinal);
    if (whole === undefined || --whole.references > 0) return;
    this.#free(whole.places);
    const wholes = this.#wholes.get(index)!;
    if (wholes.length === 1) this.#wholes.delete(index);
    else wholes.splice(wholes.indexOf(whole), 1);
    this.isEmpty = this.#wholes.size === 0;
  }

  /** The parts of a message before its own piece, in order; empty for one that came whole. */
  of(index: number, ordinal: number): readonly PartPlace[] {
    return this.#find(index, ordinal)?.places ?? none;
  }

  /** How many refer to a message that has parts; 0 if it has none. */
  references(index: number, ordinal: number): number {
    return this.#find(index, ordinal)?.references ?? 0;
  }

  /** Messages that have parts. */
  *messages(): Generator<PartPlace> {
    for (const [index, wholes] of this.#wholes) for (const { ordinal } of wholes) yield { index, ordinal };
  }

  serialise(writer: ByteWriter): void {
    writer.u32(this.#waiting.size);
    for (const [node, { places, bytes }] of [...this.#waiting].sort(([a], [b]) => a - b)) {
      writer.u32(node);
      writer.u64(bytes);
      serialisePlaces(writer, places);
    }
    writer.u32(this.#wholes.size);
    for (const [index, wholes] of [...this.#wholes].sort(([a], [b]) => a - b)) {
      writer.u64(index);
      writer.u32(wholes.length);
      for (const { ordinal, references, places } of [...wholes].sort((a, b) => a.ordinal - b.ordinal)) {
        writer.u32(ordinal);
        writer.u32(references);
        serialisePlaces(writer, places);
      }
    }
  }

  /** Where parts lie, each as often as it counts as live. */
  writeReferences(writer: ByteWriter): void {
    for (const { places } of this.#waiting.values())
      for (const { index, ordinal } of places) writer.reference(index, ordinal, unknownBytes);
    for (const wholes of this.#wholes.values())
      for (const { places } of wholes)
        for (const { index, ordinal } of places) writer.reference(index, ordinal, unknownBytes);
  }

  /** Of an empty object. Counts the parts as live. */
  *restore(reader: ByteReader): Steps {
    for (let count = reader.u32(); count > 0; count--) {
      const [node, bytes] = [reader.u32(), reader.u64()];
      this.#waiting.set(node, { bytes, places: this.#restorePlaces(reader) });
    }
    for (let count = reader.u32(); count > 0; count--) {
      if (reader.isTired) yield;
      const index = reader.u64();
      for (let wholes = reader.u32(); wholes > 0; wholes--) {
        const [ordinal, references] = [reader.u32(), reader.u32()];
        this.#put(index, { ordinal, references, places: this.#restorePlaces(reader) });
      }
    }
  }

  #restorePlaces(reader: ByteReader): PartPlace[] {
    const places: PartPlace[] = [];
    for (let count = reader.u32(); count > 0; count--) {
      const index = reader.u64();
      places.push({ index, ordinal: reader.u32() });
      this.#live.add(index);
    }
    return places;
  }

  #find(index: number, ordinal: number): Whole | undefined {
    return this.#wholes.get(index)?.find((whole) => whole.ordinal === ordinal);
  }

  #put(index: number, whole: Whole): void {
    const wholes = this.#wholes.get(index);
    if (wholes === undefined) this.#wholes.set(index, [whole]);
    else wholes.push(whole);
    this.isEmpty = false;
  }

  #free(places: readonly PartPlace[]): void {
    for (const { index } of places) this.#live.remove(index);
  }
}

function serialisePlaces(writer: ByteWriter, places: readonly PartPlace[]): void {
  writer.u32(places.length);
  for (const { index, ordinal } of places) {
    writer.u64(index);
    writer.u32(ordinal);
  }
}
