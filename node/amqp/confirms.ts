// Publisher confirms of one channel, gathered over a turn: one basic.ack with multiple=true for everything up to the first publish whose fate is
// not known, and single tags past that gap, so that one stuck publish does not hold back the rest.
//
// PURE. State: marks for the tags from `#open` on, and the ranges to be told at the next `flush`. Invariants: every tag below `#open` has been
// settled; every tag is told exactly once, as ack or as nack; a multiple=true ack never covers an open tag, and no nack that has not been told
// before it.

export interface ConfirmSink {
  confirm(channel: number, tag: number, multiple: boolean, negative: boolean): void;
}

const marksMin = 64;
const isOpen = 0;
const isAcked = 1;
const isTold = 2;

export class Confirms {
  /** Highest tag given to a publish. */
  #last = 0;
  /** Lowest tag whose fate is not known. */
  #open = 1;
  /** Everything below has been told. */
  #toldTo = 0;
  /** Acked, not told and below `#open`: how many, and the highest of them. */
  #prefixCount = 0;
  #prefixTag = 0;
  /** Marks of the tags from #open on: index = tag & (capacity - 1). Allocated when the first confirm overtakes another. */
  #marks = new Uint8Array(0);
  /** Highest tag that may carry a mark. */
  #marked = 0;
  /** Pairs of first and last tag. Acks past the gap, and all nacks. */
  #loose: number[] = [];
  #refused: number[] = [];

  /** The tag of the next publish. */
  next(): number {
    return ++this.#last;
  }
  get hasNews(): boolean {
    return this.#prefixCount > 0 || this.#loose.length > 0 || this.#refused.length > 0;
  }

  /** The fate of the tags [first, last] is known. Each tag is settled once. */
  settle(first: number, last: number, ok: boolean): void {
    if (!(first >= this.#open && first <= last && last <= this.#last))
      throw new Error(`confirm [${first}, ${last}] is not within the open tags [${this.#open}, ${this.#last}]`);
    if (!ok) this.#refused.push(first, last);
    if (first > this.#open) {
      this.#mark(first, last, ok ? isAcked : isTold);
      if (ok) this.#loose.push(first, last);
      return;
    }
    if (first <= this.#marked) this.#checkUnmarked(first, Math.min(last, this.#marked));
    if (ok) this.#countPrefix(last, last - first + 1);
    this.#open = last + 1;
    this.#advance();
  }

  /** Moves `#open` over the tags that are settled already, clearing their marks. */
  #advance(): void {
    const mask = this.#marks.length - 1;
    while (this.#open <= this.#marked) {
      const mark = this.#marks[this.#open & mask];
      if (mark === isOpen) return;
      this.#marks[this.#open & mask] = isOpen;
      if (mark === isAcked) this.#countPrefix(this.#open, 1);
      this.#open++;
    }
  }

  #countPrefix(tag: number, count: number): void {
    this.#prefixCount += count;
    this.#prefixTag = tag;
  }

  #mark(first: number, last: number, mark: number): void {
    if (last - this.#open >= this.#marks.length) this.#grow(last - this.#open + 1);
    this.#checkUnmarked(first, last);
    const mask = this.#marks.length - 1;
    for (let tag = first; tag <= last; tag++) this.#marks[tag & mask] = mark;
    if (last > this.#marked) this.#marked = last;
  }

  #checkUnmarked(first: number, last: number): void {
    const mask = this.#marks.length - 1;
    for (let tag = first; tag <= last; tag++)
      if (this.#marks[tag & mask] !== isOpen) throw new Error(`publish ${tag} was confirmed twice`);
  }

  #grow(needed: number): void {
    let capacity = Math.max(marksMin, this.#marks.length);
    while (capacity < needed) capacity *= 2;
    const marks = new Uint8Array(capacity);
    for (let tag = this.#open; tag <= this.#marked; tag++)
      marks[tag & (capacity - 1)] = this.#marks[tag & (this.#marks.length - 1)]!;
    this.#marks = marks;
  }

  /** Tells everything that is known and was not told: nacks first, because the multiple ack after them covers their tags. */
  flush(channel: number, sink: ConfirmSink): void {
    for (let i = 0; i < this.#refused.length; i += 2) this.#tellRefused(channel, sink, i);
    this.#refused = emptied(this.#refused);
    if (this.#prefixCount > 0) sink.confirm(channel, this.#prefixTag, this.#prefixCount > 1, false);
    this.#prefixCount = 0;
    this.#toldTo = this.#open - 1;
    const mask = this.#marks.length - 1;
    for (let i = 0; i < this.#loose.length; i += 2) {
      // What lies below the open tag by now was covered by the prefix.
      for (let tag = Math.max(this.#loose[i]!, this.#open); tag <= this.#loose[i + 1]!; tag++) {
        if (this.#marks[tag & mask] !== isAcked) continue;
        this.#marks[tag & mask] = isTold;
        sink.confirm(channel, tag, false, false);
      }
    }
    this.#loose = emptied(this.#loose);
  }

  #tellRefused(channel: number, sink: ConfirmSink, i: number): void {
    const first = this.#refused[i]!;
    const last = this.#refused[i + 1]!;
    if (first === this.#toldTo + 1 && last > first) {
      sink.confirm(channel, last, true, true);
      this.#toldTo = last;
      return;
    }
    for (let tag = first; tag <= last; tag++) sink.confirm(channel, tag, false, true);
    if (first === this.#toldTo + 1) this.#toldTo = last;
  }
}

/** An empty list; the same one unless it has grown large. */
function emptied(list: number[]): number[] {
  if (list.length > 256) return [];
  list.length = 0;
  return list;
}
