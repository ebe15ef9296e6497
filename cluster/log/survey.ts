// What lives in log files: looked at file by file from counts alone, and exactly, message by message, for a few files.
//
// Counts are cheap and say too little: they do not tell a small message from a large one, nor how often one message is counted. So a file's
// live bytes are taken exactly now and then (`Examination`) and followed by counts in between. State owned: that of one examination.
//
// Invariant: of a file that was examined every message is known that will ever live in it, because nothing dead comes to life again.

import { recordHeaderBytes } from './codec.ts';
import { isPartOf } from './collector.ts';
import { assert } from './errors.ts';
import { type FileGroup, type Run, recordBytes } from './file-index.ts';
import type { LogFile } from './files.ts';
import type { GroupLog } from './group.ts';
import type { Liveness } from './types.ts';

/** What remains cost beside the bodies of their messages: per entry record, footer and head; per message its place, keys and properties. */
const entryOverheadBytes = recordHeaderBytes + 24;
const messageOverheadBytes = 128;
const referenceBytes = 12;
const unknownBytes = 0xffff_ffff;
const growBy = 2;
/** Entries looked at in one step; and references to their messages, beyond those of one entry. */
const stepEntries = 1024;
const stepReferences = 65_536;
/** References lie in chunks of 2 ** so many: of millions the garbage collector has few arrays to look at. */
const chunkBits = 15;
const chunkMask = (1 << chunkBits) - 1;

type Groups = ReadonlyMap<number, GroupLog>;

export interface Appraisal {
  readonly file: LogFile;
  /** References to messages in it, as far as anybody knows. */
  readonly references: number;
  /** Bytes of entries that nobody knows anything about, and that stay as they are. */
  readonly unknownBytes: number;
  /** What a rewriting would leave of it; null: it was never examined. */
  readonly liveBytes: number | null;
}

/** From counts, and what an examination said earlier. */
export function appraise(file: LogFile, groups: Groups, live: Liveness): Appraisal {
  let references = 0;
  let unknown = 0;
  eachRun(file, groups, (group, run) => {
    if (run.indices === null) {
      const count = live.count(group.group, run.first, run.last);
      if (count < Number.POSITIVE_INFINITY) {
        references += count;
        return;
      }
    }
    for (let slot = 0; slot < run.count; slot++) {
      const index = run.indexAt(slot);
      const count = live.count(group.group, index, index);
      if (count < Number.POSITIVE_INFINITY) references += count;
      else unknown += recordBytes(run, slot);
    }
  });
  const { live: known } = file;
  const share = known === null || known.references === 0 ? 0 : Math.min(1, references / known.references);
  const liveBytes = known === null ? null : Math.min(file.bytes, known.bytes * share + unknown);
  return { file, references, unknownBytes: unknown, liveBytes };
}

function eachRun(file: LogFile, groups: Groups, visit: (group: GroupLog, run: Run) => void): void {
  for (const part of file.index.groups.values()) {
    const group = groups.get(part.group);
    if (!isPartOf(group, part, file)) continue;
    for (const run of part.runs) if (run.count > 0) visit(group, run);
  }
}

interface Sum {
  references: number;
  bytes: number;
  unknownBytes: number;
}

/** An entry that is to be kept. */
export interface KeptEntry {
  readonly index: number;
  readonly run: Run;
  readonly slot: number;
  /** Of its messages that live, ascending; null: it stays as it is. */
  readonly ordinals: Uint16Array | null;
}

/** What goes on between two steps of bounded work. */
export interface Steps {
  pause(): Promise<void>;
  /** False: what is looked at is not as it was, or nobody wants to go on. Asked after every wait, in the turn in which it ends. */
  isSound(): boolean;
}

/** The live messages of some files, at most 32,768. */
export class Examination {
  readonly #live: Liveness;
  readonly #files: readonly LogFile[];
  readonly #steps: Steps;
  readonly #groups = new Map<number, GroupMessages>();
  /** Of whichever entry is being looked at. */
  readonly #ordinals = new OrdinalSet();
  /** What a rewriting would leave of each file, with what would stay as it is. */
  readonly leaves = new Map<LogFile, number>();

  constructor(files: readonly LogFile[], live: Liveness, steps: Steps) {
    assert(files.length < asItIsBit, 'files have numbers below the bit');
    this.#files = files;
    this.#live = live;
    this.#steps = steps;
  }

  /** Reads what lives, and notes with each file how much that is. False: it cannot be known now. */
  async run(groups: Groups, pieceBytes: number): Promise<boolean> {
    for (let number = 0; number < this.#files.length; number++) {
      await this.#steps.pause();
      if (!this.#steps.isSound()) return false;
      for (const part of this.#files[number]!.index.groups.values()) {
        await this.#addPart(number, part, groups.get(part.group));
        if (!this.#steps.isSound()) return false;
      }
    }
    const sums = this.#files.map((): Sum => ({ references: 0, bytes: 0, unknownBytes: 0 }));
    for (const messages of this.#groups.values()) {
      messages.sort();
      if (messages.isAnyKnown && !(await this.#read(messages, pieceBytes))) return false;
      for (let place = 0; place >= 0; place = messages.sum(sums, place)) {
        if (place > 0) await this.#steps.pause();
        if (!this.#steps.isSound()) return false;
      }
    }
    for (let number = 0; number < sums.length; number++) {
      const [file, { references, bytes, unknownBytes }] = [this.#files[number]!, sums[number]!];
      file.live = { references, bytes };
      this.leaves.set(file, bytes + unknownBytes);
    }
    return true;
  }

  async #addPart(number: number, part: FileGroup, group: GroupLog | undefined): Promise<void> {
    const file = this.#files[number]!;
    if (!isPartOf(group, part, file)) return;
    let looked = 0;
    for (const run of part.runs) {
      for (let slot = 0; slot < run.count; slot++) {
        if (++looked % stepEntries === 0) {
          await this.#steps.pause();
          if (!this.#steps.isSound()) return;
        }
        const index = run.indexAt(slot);
        const count = this.#live.count(part.group, index, index);
        // The same entry may lie in several files: the one that is read from counts.
        if (count === 0 || group.find(index)?.file !== file) continue;
        let messages = this.#groups.get(part.group);
        if (messages === undefined) this.#groups.set(part.group, (messages = new GroupMessages(group, this.#ordinals)));
        messages.want(index, number, count === Number.POSITIVE_INFINITY);
      }
    }
  }

  async #read(messages: GroupMessages, pieceBytes: number): Promise<boolean> {
    const references = this.#live.references(messages.group.group);
    if (references === null) return false;
    try {
      for (let piece = references.next(pieceBytes); piece !== null; piece = references.next(pieceBytes)) {
        messages.take(piece);
        await this.#steps.pause();
        if (!this.#steps.isSound()) return false;
      }
      return !references.isLost;
    } finally {
      references.close();
    }
  }

  /** Groups with entries in the files, ascending. */
  groups(): number[] {
    return [...this.#groups.keys()].sort((a, b) => a - b);
  }

  /** What is to be kept of a group's entries in these files, ascending. */
  *kept(group: number, files: ReadonlySet<LogFile>): Generator<KeptEntry> {
    yield* this.#groups.get(group)!.kept(this.#files, files, this.#live);
  }
}

/** The wanted entries of one group, and the messages found in them: typed arrays, since there may be a million. */
class GroupMessages {
  readonly group: GroupLog;
  #indices = new Float64Array(64);
  /** The place of the entry's file, and its highest bit if the entry stays as it is. */
  #files = new Uint16Array(64);
  #count = 0;
  #ascends = true;
  /** Per entry its last reference, or -1. */
  #last = new Int32Array(0);
  readonly #references = new References();
  readonly #ordinals: OrdinalSet;
  /** Where the last reference belonged: the next one mostly belongs there too, or to the entry behind it. */
  #recent = 0;
  /** The index of the last one that belonged nowhere. */
  #missed = -1;
  isAnyKnown = false;

  constructor(group: GroupLog, ordinals: OrdinalSet) {
    this.group = group;
    this.#ordinals = ordinals;
  }

  want(index: number, file: number, asItIs: boolean): void {
    if (this.#count === this.#indices.length) {
      this.#indices = grown(this.#indices, new Float64Array(this.#count * growBy));
      this.#files = grown(this.#files, new Uint16Array(this.#count * growBy));
    }
    if (this.#count > 0 && index < this.#indices[this.#count - 1]!) this.#ascends = false;
    this.#indices[this.#count] = index;
    this.#files[this.#count++] = file | (asItIs ? asItIsBit : 0);
    if (!asItIs) this.isAnyKnown = true;
  }

  /** To be called once all are known: files come in any order, mostly in that of their entries. */
  sort(): void {
    const count = this.#count;
    const [indices, files] = [this.#indices, this.#files];
    this.#last = new Int32Array(count).fill(-1);
    if (this.#ascends) return;
    // One number for both, which sorts in native code: an index is far below 2^37.
    const keys = new Float64Array(count);
    for (let i = 0; i < count; i++) keys[i] = indices[i]! * 0x1_0000 + files[i]!;
    keys.sort();
    for (let i = 0; i < count; i++) {
      indices[i] = Math.floor(keys[i]! / 0x1_0000);
      files[i] = keys[i]! % 0x1_0000;
    }
  }

  take(piece: Buffer): void {
    const view = new DataView(piece.buffer, piece.byteOffset, piece.length);
    for (let at = 0; at < piece.length; at += referenceBytes) {
      const high = view.getUint32(at + 4, true);
      const place = this.#find(view.getUint32(at, true) + (high >>> 16) * 0x1_0000_0000);
      if (place < 0) continue;
      this.#last[place] = this.#references.add(high & 0xffff, view.getUint32(at + 8, true), this.#last[place]!);
    }
  }

  /** Adds some entries from `from` on to the sums of their files; returns where to go on, or -1. */
  sum(sums: readonly Sum[], from: number): number {
    const end = Math.min(this.#count, from + stepEntries);
    let place = from;
    for (let looked = 0; place < end && looked < stepReferences; place++) {
      const file = this.#files[place]!;
      const { index, run, slot } = this.#locate(place);
      const sum = sums[file & ~asItIsBit]!;
      if ((file & asItIsBit) !== 0) {
        sum.unknownBytes += recordBytes(run, slot);
        continue;
      }
      let bytes = entryOverheadBytes;
      const references = this.#eachMessage(place, (at) => {
        const known = this.#references.bytes(at);
        bytes += known === unknownBytes ? recordBytes(run, slot) : known + messageOverheadBytes;
      });
      looked += references;
      sum.references += references;
      assert(run.indexAt(slot) === index, 'an entry is where it was found');
      if (references > 0) sum.bytes += Math.min(bytes, recordBytes(run, slot));
    }
    return place < this.#count ? place : -1;
  }

  /** Visits one reference, the last, to each message of an entry. Returns how many references there are. */
  #eachMessage(place: number, visit: (at: number) => void): number {
    this.#ordinals.clear();
    let references = 0;
    for (let at = this.#last[place]!; at >= 0; at = this.#references.before(at)) {
      references++;
      if (this.#ordinals.add(this.#references.ordinal(at))) visit(at);
    }
    return references;
  }

  *kept(all: readonly LogFile[], files: ReadonlySet<LogFile>, live: Liveness): Generator<KeptEntry> {
    for (let place = 0; place < this.#count; place++) {
      const file = this.#files[place]!;
      if (!files.has(all[file & ~asItIsBit]!)) continue;
      const entry = this.#locate(place);
      if ((file & asItIsBit) !== 0) {
        yield { ...entry, ordinals: null };
        continue;
      }
      const { index } = entry;
      const count = live.count(this.group.group, index, index);
      if (count === 0) continue;
      if (count === Number.POSITIVE_INFINITY) yield { ...entry, ordinals: null };
      else {
        const found: number[] = [];
        const references = this.#eachMessage(place, (at) => found.push(this.#references.ordinal(at)));
        // Whoever counts more than was found has messages that would be lost.
        assert(count <= references, `entry ${index} of group ${this.group.group} has more live messages than known`);
        yield { ...entry, ordinals: Uint16Array.from(found).sort() };
      }
    }
  }

  #locate(place: number): { readonly index: number; readonly run: Run; readonly slot: number } {
    const index = this.#indices[place]!;
    const run = this.group.find(index);
    assert(run !== null, `entry ${index} of group ${this.group.group} is still there`);
    return { index, run, slot: run.slot(index) };
  }

  #find(index: number): number {
    if (index === this.#missed) return -1;
    const indices = this.#indices;
    const recent = this.#recent;
    if (indices[recent] === index) return recent;
    if (recent + 1 < this.#count && indices[recent + 1] === index) return ++this.#recent;
    let low = 0;
    let high = this.#count - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const found = indices[middle]!;
      if (found === index) {
        this.#recent = middle;
        return middle;
      }
      if (found < index) low = middle + 1;
      else high = middle - 1;
    }
    this.#missed = index;
    return -1;
  }
}

/** Ordinals of one entry, forgotten all at once. */
class OrdinalSet {
  /** Per ordinal the round in which it was added last. */
  readonly #added = new Uint32Array(0x1_0000);
  #round = 1;

  clear(): void {
    this.#round++;
  }

  /** False: it is in the set already. */
  add(ordinal: number): boolean {
    if (this.#added[ordinal] === this.#round) return false;
    this.#added[ordinal] = this.#round;
    return true;
  }
}

/** Per reference: ordinal, bytes, and the one before it of the same entry or -1. In chunks, of which none is ever copied: there may be millions. */
class References {
  readonly #chunks: { readonly ordinals: Uint16Array; readonly bytes: Uint32Array; readonly before: Int32Array }[] = [];
  #count = 0;

  /** Returns its place. */
  add(ordinal: number, bytes: number, before: number): number {
    const at = this.#count++;
    const slot = at & chunkMask;
    if (slot === 0) {
      const size = chunkMask + 1;
      this.#chunks.push({
        ordinals: new Uint16Array(size),
        bytes: new Uint32Array(size),
        before: new Int32Array(size),
      });
    }
    const chunk = this.#chunks[at >>> chunkBits]!;
    chunk.ordinals[slot] = ordinal;
    chunk.bytes[slot] = bytes;
    chunk.before[slot] = before;
    return at;
  }

  ordinal(at: number): number {
    return this.#chunks[at >>> chunkBits]!.ordinals[at & chunkMask]!;
  }
  bytes(at: number): number {
    return this.#chunks[at >>> chunkBits]!.bytes[at & chunkMask]!;
  }
  before(at: number): number {
    return this.#chunks[at >>> chunkBits]!.before[at & chunkMask]!;
  }
}

/** In the number of a file: the entry stays as it is. */
const asItIsBit = 0x8000;

function grown<T extends Float64Array | Uint16Array>(from: T, to: T): T {
  to.set(from);
  return to;
}
