// What a transactional channel holds back: publishes and settlements since the last commit or rollback.
//
// PURE. State owned: copies of the publishes, and the delivery tags that are to be settled, with how. Invariant: a tag is in here at most once,
// and outstanding in its channel as long as it is: a rollback has nothing to put back, and the channel's prefetch counts it until the commit.

import type { HeldPublish, Publication, Settlement, Traits } from './backend.ts';
import type { DeliveryTags } from './delivery-tags.ts';

/** What a held publish costs beside its bytes, about. */
const publishBytes = 256;
/** A held settlement, about. */
const settlementBytes = 64;

export class Transaction {
  #publishes: HeldPublish[] = [];
  readonly #settled = new Map<number, Settlement>();
  heldBytes = 0;

  publish(
    publication: Publication,
    properties: Buffer,
    body: readonly Buffer[],
    bodyBytes: number,
    traits: Traits | null,
  ): void {
    const kept = { publication, properties: Buffer.from(properties), body: [Buffer.concat(body)], bodyBytes, traits };
    this.#publishes.push(kept);
    this.heldBytes += publishBytes + properties.length + bodyBytes;
  }

  /** False: no such tag is outstanding, or it is settled already. */
  settle(tags: DeliveryTags, tag: number, multiple: boolean, settlement: Settlement): boolean {
    if (tag !== 0 || !multiple) {
      if (!tags.has(tag) || this.#settled.has(tag)) return false;
      if (!multiple) this.#add(tag, settlement);
    }
    if (!multiple) return true;
    const last = tag === 0 ? Number.POSITIVE_INFINITY : tag;
    for (const each of tags.upTo(last)) if (!this.#settled.has(each)) this.#add(each, settlement);
    return true;
  }

  isSettled(tag: number): boolean {
    return this.#settled.has(tag);
  }

  #add(tag: number, settlement: Settlement): void {
    this.#settled.set(tag, settlement);
    this.heldBytes += settlementBytes;
  }

  /** Hands out what is held, and holds nothing any more. */
  take(): { readonly publishes: readonly HeldPublish[]; readonly settled: ReadonlyMap<number, Settlement> } {
    const taken = { publishes: this.#publishes, settled: new Map(this.#settled) };
    this.#publishes = [];
    this.#settled.clear();
    this.heldBytes = 0;
    return taken;
  }
}
