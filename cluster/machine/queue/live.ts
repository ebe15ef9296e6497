// How many references to messages each log entry still holds, over all queues of a shard. An entry without any is garbage for the log. PURE.
//
// A message in n queues counts n times, so an entry is live until the last queue has let go of its last message. Counters lie in pages of
// 256 entries; a page without live entries is dropped, so that one old message costs one page, however long ago it was. All of it follows
// from the queues: it is not part of a snapshot.

const pageEntries = 256;

interface Page {
  readonly number: number;
  readonly counts: Uint32Array;
  /** Entries with a count above 0. */
  live: number;
}

export class LiveCounts {
  readonly #pages = new Map<number, Page>();
  /** The page last added to (kept also when nothing in it is live, since more is about to come), and the one last removed from. */
  #newest: Page | null = null;
  #recent: Page | null = null;

  add(index: number): void {
    const number = Math.floor(index / pageEntries);
    let page = this.#newest;
    if (page === null || page.number !== number) page = this.#turn(number);
    const slot = index & (pageEntries - 1);
    if (page.counts[slot]!++ === 0) page.live++;
  }

  remove(index: number): void {
    const number = Math.floor(index / pageEntries);
    let page = this.#recent;
    if (page === null || page.number !== number) {
      page = this.#pages.get(number) ?? null;
      this.#recent = page;
    }
    const slot = index & (pageEntries - 1);
    if (page === null || page.counts[slot] === 0) throw new Error(`entry ${index} holds no live message`);
    if (--page.counts[slot]! === 0 && --page.live === 0 && page !== this.#newest) this.#drop(page);
  }

  /** Live references of one entry. */
  count(index: number): number {
    return this.#pages.get(Math.floor(index / pageEntries))?.counts[index & (pageEntries - 1)] ?? 0;
  }

  /** Live references of entries [first, last]. */
  sum(first: number, last: number): number {
    if (first === last) return this.count(first);
    let sum = 0;
    for (const page of this.#within(first, last))
      for (let index = start(page, first), end = stop(page, last); index <= end; index++)
        sum += page.counts[index & (pageEntries - 1)]!;
    return sum;
  }

  /** Is an entry of [first, last] live? */
  has(first: number, last: number): boolean {
    if (first === last) return this.count(first) > 0;
    for (const page of this.#within(first, last))
      for (let index = start(page, first), end = stop(page, last); index <= end; index++)
        if (page.counts[index & (pageEntries - 1)]! > 0) return true;
    return false;
  }

  /** Live entries of [first, last], ascending. Counts may change while it is read: what dies meanwhile may or may not come. */
  *list(first: number, last: number): Generator<number> {
    // Numbers, not pages: one that goes meanwhile is let go.
    const numbers = Float64Array.from(this.#within(first, last), (page) => page.number).sort();
    for (const number of numbers) {
      const page = this.#pages.get(number);
      if (page === undefined) continue;
      for (let index = start(page, first), end = stop(page, last); index <= end; index++)
        if (page.counts[index & (pageEntries - 1)]! > 0) yield index;
    }
  }

  clear(): void {
    this.#pages.clear();
    this.#newest = null;
    this.#recent = null;
  }

  *#within(first: number, last: number): Generator<Page> {
    const from = Math.floor(first / pageEntries);
    const to = Math.floor(last / pageEntries);
    if (to - from < this.#pages.size) {
      for (let number = from; number <= to; number++) {
        const page = this.#pages.get(number);
        if (page !== undefined && page.live > 0) yield page;
      }
    } else {
      for (const page of this.#pages.values())
        if (page.live > 0 && page.number >= from && page.number <= to) yield page;
    }
  }

  #turn(number: number): Page {
    const old = this.#newest;
    let page = this.#pages.get(number);
    if (page === undefined) {
      page = { number, counts: new Uint32Array(pageEntries), live: 0 };
      this.#pages.set(number, page);
    }
    this.#newest = page;
    if (old !== null && old.live === 0) this.#drop(old);
    return page;
  }

  #drop(page: Page): void {
    this.#pages.delete(page.number);
    if (this.#recent === page) this.#recent = null;
  }
}

const start = (page: Page, first: number): number => Math.max(first, page.number * pageEntries);
const stop = (page: Page, last: number): number => Math.min(last, page.number * pageEntries + pageEntries - 1);
