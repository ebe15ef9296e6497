// All references to messages that a shard's queues hold, as they are now, read piece by piece while entries go on being applied. PURE.
//
// What the log wants to know before it lets go of messages: which of them live. Whatever counts in `live.ts` comes once per count, dropped
// messages that are not worked off among it; what comes is all that will ever live of the entries applied so far. A message: 12 bytes, as
// `ByteWriter.reference` writes it, in no particular order; of those that are in no queue the bytes are not known (`unknownBytes`).
//
// It hears of queues before they change, in the way of a snapshot (`snapshot.ts`), and in place of one: a snapshot that is begun meanwhile
// ends it.

import type { References } from '../machine.ts';
import { ByteWriter } from './bytes.ts';
import { type QueueImage, Sections } from './images.ts';
import { writeDropped } from './leases.ts';
import type { Queue } from './queue.ts';
import { writePurged } from './returned.ts';
import type { QueueCapture, QueueStore } from './store.ts';

const arenaBytes = 8 * 1024;

export class StoreReferences implements References, QueueCapture {
  isLost = false;
  readonly #store: QueueStore;
  readonly #arena = new ByteWriter(arenaBytes);
  readonly #queues: readonly Queue[];
  #read = 0;
  /** What is being read; what is in no queue comes first. */
  #current: Sections | null;
  #closed = false;

  /** No snapshot may be under way. */
  constructor(store: QueueStore) {
    if (store.isCaptured) throw new Error('a snapshot is under way');
    this.#store = store;
    this.#queues = [...store.queues.values()];
    store.beginSnapshot(this);
    const sections = new Sections(this.#arena);
    store.debt.captureReferences(sections);
    store.letters.captureReferences(sections);
    store.outbox.captureReferences(sections);
    store.parts.writeReferences(sections.bytes);
    sections.close();
    this.#current = sections;
  }

  next(bytesMax: number): Buffer | null {
    if (this.#closed) return null;
    const writer = new ByteWriter(bytesMax + arenaBytes);
    while (writer.length < bytesMax) {
      const current = this.#current ?? this.#turn();
      if (current === null) break;
      this.#current = current.write(writer, bytesMax) ? null : current;
    }
    const pieces = writer.pieces();
    if (pieces.length === 0) this.#end();
    return pieces.length === 0 ? null : Buffer.concat(pieces);
  }

  close(): void {
    if (this.#closed) return;
    this.isLost = true;
    this.#end();
  }

  capture(queue: Queue): QueueImage {
    const sections = new Sections(this.#arena);
    queue.fifo.captureRows(sections);
    queue.returned?.captureRows(sections, writePurged);
    for (const leases of queue.leaving ?? []) leases.captureRows(sections, writeDropped);
    for (const { leases } of queue.attached) leases.captureRows(sections, writeDropped);
    sections.close();
    return { arguments: '', sections };
  }

  #turn(): Sections | null {
    const queue = this.#queues[this.#read];
    if (queue === undefined) return null;
    this.#read++;
    this.#store.touch(queue);
    const image = queue.image!;
    queue.image = null;
    return image.sections;
  }

  #end(): void {
    this.#closed = true;
    this.#store.endSnapshot(this);
  }
}
