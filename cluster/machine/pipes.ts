// The pipe table of a state machine: which batches of which origin were applied, which results their origins have not read yet, and which
// incarnations were ended. Part of the replicated state of every group; shared by the shard machine and the metadata machine. PURE.
//
// Invariants:
// - An origin (kind, id) has at most one open incarnation. The first batch of a higher one ends all lower ones, for good.
// - Of an open incarnation batches 1, 2, 3 … are applied, each once and in this order.
// - Results are ordered by (sequence, ordinal), and are kept until a later batch of the same pipe says that they were read.

import type { BatchHeader, Origin, Result, ResultCode } from './commands.ts';
import { OriginKind } from './commands.ts';
import type { PipeId } from './machine.ts';
import { ByteReader, ByteWriter, foldHash } from './queue/bytes.ts';

/**
 * `duplicate`: was applied before. `gap`: an earlier batch is missing (leaders check, so this is a bug upstream; nothing is applied).
 * `fenced`: its incarnation was ended.
 */
export type Admission = 'apply' | 'duplicate' | 'gap' | 'fenced';

interface Row {
  readonly kind: OriginKind;
  readonly id: number;
  /** Incarnations up to here were ended; -1: none. */
  fencedTo: number;
  /** The open incarnation, `fencedTo` + 1; -1: none. */
  incarnation: number;
  lastSequence: number;
  results: Result[];
}

const none: readonly Result[] = [];

export class PipeTable {
  readonly #rows = new Map<number, Row>();
  readonly #onEnded: (origin: Origin) => void;
  #gaps = 0;

  /** `onEnded` is called for every open incarnation that ends, while `admit` or `fence` runs, after its row was closed. */
  constructor(onEnded: (origin: Origin) => void = () => {}) {
    this.#onEnded = onEnded;
  }

  /** Batches refused because an earlier one was missing. */
  get gaps(): number {
    return this.#gaps;
  }

  /** Decides whether a batch is to be applied; if so it counts as applied, and the results it acknowledges are forgotten. */
  admit(header: BatchHeader): Admission {
    const { kind, id, incarnation, sequence } = header;
    let row = this.#row(kind, id);
    if (row !== undefined && incarnation <= row.fencedTo) return 'fenced';
    const last = row !== undefined && row.incarnation === incarnation ? row.lastSequence : 0;
    if (sequence <= last) return 'duplicate';
    if (sequence !== last + 1) {
      this.#gaps++;
      return 'gap';
    }
    row ??= this.#addRow(kind, id);
    if (row.incarnation !== incarnation) this.#open(row, incarnation);
    row.lastSequence = sequence;
    forgetResults(row, header.resultsAcknowledged);
    return 'apply';
  }

  /** Ends a node's incarnations up to `incarnation`. Their later batches are refused. */
  fence(node: number, incarnation: number): void {
    const row = this.#row(OriginKind.node, node) ?? this.#addRow(OriginKind.node, node);
    if (incarnation > row.fencedTo) this.#end(row, incarnation);
  }

  /** Keeps a result of the origin's newest batch, to be called in the order of the ordinals. The pipe must be open. */
  keep(origin: Origin, ordinal: number, code: ResultCode, value: number, extra: number): void {
    const row = this.#row(origin.kind, origin.id);
    if (row === undefined || row.incarnation !== origin.incarnation)
      throw new Error('result for a pipe that is not open');
    row.results.push({ sequence: row.lastSequence, ordinal, code, value, extra });
  }

  /** Results not yet acknowledged, in order. Valid until the next change. */
  results(pipe: PipeId): readonly Result[] {
    const row = this.#row(OriginKind.node, pipe.node);
    return row !== undefined && row.incarnation === pipe.incarnation ? row.results : none;
  }

  lastSequence(pipe: PipeId): number {
    return this.lastSequenceOf({ kind: OriginKind.node, id: pipe.node, incarnation: pipe.incarnation });
  }

  /** Sequence of the last batch applied; 0 when the origin is not known, or ended. */
  lastSequenceOf(origin: Origin): number {
    const row = this.#row(origin.kind, origin.id);
    return row !== undefined && row.incarnation === origin.incarnation ? row.lastSequence : 0;
  }

  /** The node's incarnations up to here were ended; -1: none. */
  fencedTo(node: number): number {
    return this.#row(OriginKind.node, node)?.fencedTo ?? -1;
  }

  isFenced(pipe: PipeId): boolean {
    return this.isEnded({ kind: OriginKind.node, id: pipe.node, incarnation: pipe.incarnation });
  }

  isEnded(origin: Origin): boolean {
    const row = this.#row(origin.kind, origin.id);
    return row !== undefined && origin.incarnation <= row.fencedTo;
  }

  /** Open pipes, ordered by (kind, id). */
  *open(): Generator<{ readonly origin: Origin; readonly lastSequence: number; readonly results: number }> {
    for (const row of this.#sorted()) {
      if (row.incarnation < 0) continue;
      const origin = { kind: row.kind, id: row.id, incarnation: row.incarnation };
      yield { origin, lastSequence: row.lastSequence, results: row.results.length };
    }
  }

  /** Equal for equal tables, whatever their history. Linear in the rows and kept results. */
  hash(): number {
    let hash = foldHash(0, this.#gaps);
    for (const row of this.#sorted()) {
      hash = foldHash(foldHash(foldHash(hash, row.kind), row.id), row.fencedTo);
      hash = foldHash(foldHash(foldHash(hash, row.incarnation), row.lastSequence), row.results.length);
      for (const { sequence, ordinal, code, value, extra } of row.results)
        hash = foldHash(foldHash(foldHash(foldHash(foldHash(hash, sequence), ordinal), code), value), extra);
    }
    return hash;
  }

  /** The whole table. Equal for equal tables, whatever their history. */
  serialise(): Buffer {
    const rows = this.#sorted();
    const writer = new ByteWriter();
    writer.u64(this.#gaps);
    writer.u32(rows.length);
    for (const row of rows) {
      writer.u8(row.kind);
      writer.u32(row.id);
      // Shifted by one, because -1 means none.
      writer.u64(row.fencedTo + 1);
      writer.u64(row.incarnation + 1);
      writer.u64(row.lastSequence);
      writer.u32(row.results.length);
      for (const result of row.results) {
        writer.u64(result.sequence);
        writer.u32(result.ordinal);
        writer.u8(result.code);
        writer.u64(result.value);
        writer.u64(result.extra);
      }
    }
    return Buffer.concat(writer.pieces());
  }

  /** Replaces the table by one that `serialise` wrote. Throws on anything else. Ends nothing. */
  restore(bytes: Buffer): void {
    const reader = new ByteReader(bytes);
    this.#rows.clear();
    this.#gaps = reader.u64();
    const rows = reader.u32();
    for (let i = 0; i < rows; i++) {
      const row = this.#addRow(reader.u8() as OriginKind, reader.u32());
      row.fencedTo = reader.u64() - 1;
      row.incarnation = reader.u64() - 1;
      row.lastSequence = reader.u64();
      const results = reader.u32();
      for (let r = 0; r < results; r++)
        row.results.push({
          sequence: reader.u64(),
          ordinal: reader.u32(),
          code: reader.u8() as ResultCode,
          value: reader.u64(),
          extra: reader.u64(),
        });
    }
    if (!reader.atEnd) throw new Error('pipe table is longer than its rows');
  }

  #row(kind: OriginKind, id: number): Row | undefined {
    return this.#rows.get(rowKey(kind, id));
  }

  #addRow(kind: OriginKind, id: number): Row {
    const row: Row = { kind, id, fencedTo: -1, incarnation: -1, lastSequence: 0, results: [] };
    this.#rows.set(rowKey(kind, id), row);
    return row;
  }

  #open(row: Row, incarnation: number): void {
    this.#end(row, incarnation - 1);
    row.incarnation = incarnation;
  }

  #end(row: Row, upTo: number): void {
    row.fencedTo = upTo;
    const incarnation = row.incarnation;
    if (incarnation < 0 || incarnation > upTo) return;
    row.incarnation = -1;
    row.lastSequence = 0;
    row.results = [];
    this.#onEnded({ kind: row.kind, id: row.id, incarnation });
  }

  #sorted(): Row[] {
    return [...this.#rows.values()].sort((a, b) => a.kind - b.kind || a.id - b.id);
  }
}

const rowKey = (kind: OriginKind, id: number): number => kind * 0x1_0000_0000 + id;

function forgetResults(row: Row, upTo: number): void {
  const results = row.results;
  if (results.length === 0 || results[0]!.sequence > upTo) return;
  let count = 1;
  while (count < results.length && results[count]!.sequence <= upTo) count++;
  results.splice(0, count);
}
