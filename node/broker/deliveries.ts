// A FIFO of leases that wait for their channel's socket: four numbers each in one ring, no object per message.

import type { Consumer } from './consumer.ts';

const fields = 4;
const flagRedelivered = 1;

export class Deliveries {
  #numbers = new Float64Array(fields * 64);
  #consumers: (Consumer | null)[] = new Array(64).fill(null);
  #capacity = 64;
  #head = 0;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(
    consumer: Consumer,
    leaseOrdinal: number,
    entryIndex: number,
    ordinal: number,
    redelivered: boolean,
    deliveryCount: number,
  ): void {
    if (this.#length === this.#capacity) this.#grow();
    const slot = (this.#head + this.#length++) & (this.#capacity - 1);
    const at = slot * fields;
    this.#consumers[slot] = consumer;
    this.#numbers[at] = leaseOrdinal;
    this.#numbers[at + 1] = entryIndex;
    this.#numbers[at + 2] = ordinal;
    this.#numbers[at + 3] = deliveryCount * 2 + (redelivered ? flagRedelivered : 0);
  }

  /** The first lease's parts. Only while `length` > 0. */
  get consumer(): Consumer {
    return this.#consumers[this.#head]!;
  }
  get leaseOrdinal(): number {
    return this.#numbers[this.#head * fields]!;
  }
  get entryIndex(): number {
    return this.#numbers[this.#head * fields + 1]!;
  }
  get ordinal(): number {
    return this.#numbers[this.#head * fields + 2]!;
  }
  get redelivered(): boolean {
    return this.#numbers[this.#head * fields + 3]! % 2 === 1;
  }
  get deliveryCount(): number {
    return Math.floor(this.#numbers[this.#head * fields + 3]! / 2);
  }

  /** The same of the lease at a place, from 0. Only below `length`. */
  consumerAt(place: number): Consumer {
    return this.#consumers[this.#slot(place)]!;
  }
  entryIndexAt(place: number): number {
    return this.#numbers[this.#slot(place) * fields + 1]!;
  }
  ordinalAt(place: number): number {
    return this.#numbers[this.#slot(place) * fields + 2]!;
  }

  shift(): void {
    this.#consumers[this.#head] = null;
    this.#head = (this.#head + 1) & (this.#capacity - 1);
    this.#length--;
  }

  #slot(place: number): number {
    return (this.#head + place) & (this.#capacity - 1);
  }

  #grow(): void {
    const capacity = this.#capacity * 2;
    const numbers = new Float64Array(capacity * fields);
    const consumers: (Consumer | null)[] = new Array(capacity).fill(null);
    for (let i = 0; i < this.#length; i++) {
      const from = (this.#head + i) & (this.#capacity - 1);
      numbers.set(this.#numbers.subarray(from * fields, (from + 1) * fields), i * fields);
      consumers[i] = this.#consumers[from]!;
    }
    this.#numbers = numbers;
    this.#consumers = consumers;
    this.#capacity = capacity;
    this.#head = 0;
  }
}
