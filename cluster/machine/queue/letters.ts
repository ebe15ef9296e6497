// Dead letters of a shard: messages that left their queue and wait to be sent on by its dead-letter exchange, in the order in which they
// left. They stay alive until whoever leads has said where they go (`route`). PURE.
//
// State owned: the letters, how many have been routed so far, and the policies by which they go. A letter outlives its queue and later
// changes of the queue's policy, so it names the policy of the moment at which it left; a policy is shared by all letters that it made.
//
// Invariant: a policy is known here while it has letters, or rows of the outbox that were letters, or once had some and is still its
// queue's own. By its policy whoever sends a letter on knows the exchange and the key that it goes with.

import type { ByteReader, Steps } from './bytes.ts';
import type { Sections } from './images.ts';
import { RowFifo } from './rows.ts';

/** Why a message left its queue, in the words of AMQP's `x-death` header. */
const reasons = ['rejected', 'expired', 'maxlen'] as const;
export type LetterReason = (typeof reasons)[number];
/** A letter's policy and reason share one number: room for so many reasons. */
const reasonsMax = 8;

/** How the letters of one queue go on. */
export interface LetterPolicy {
  readonly uid: number;
  readonly vhost: string;
  readonly queueName: string;
  readonly exchange: string;
  /** Null: each keeps its own. */
  readonly routingKey: string | null;
}

export interface Letter extends LetterPolicy {
  readonly index: number;
  readonly ordinal: number;
  readonly reason: LetterReason;
}

/** A policy in use. */
export class Policy {
  readonly terms: LetterPolicy;
  /** 0: it never had a letter. */
  id = 0;
  /** Letters, and rows of the outbox that were letters. */
  letters = 0;
  /** It is still its queue's own. */
  current = true;

  constructor(terms: LetterPolicy) {
    this.terms = terms;
  }
}

export class Letters {
  /** Letters routed so far: the number of the oldest one that is left, counted from 0. */
  routed = 0;
  /** The highest version of the metadata that any was routed by: a group that has not come so far may miss queues that rows are for. */
  routedBy = 0;
  readonly #rows = new RowFifo();
  readonly #policies = new Map<number, Policy>();
  #nextPolicy = 1;

  get length(): number {
    return this.#rows.length;
  }

  push(policy: Policy, index: number, ordinal: number, reason: LetterReason): void {
    if (policy.id === 0) {
      policy.id = this.#nextPolicy++;
      this.#policies.set(policy.id, policy);
    }
    policy.letters++;
    this.#rows.push(index, ordinal, [policy.id * reasonsMax + reasons.indexOf(reason)]);
  }

  /** The oldest letters. */
  list(max: number): Letter[] {
    const letters: Letter[] = [];
    this.#rows.read(0, max, (index, ordinal, values) => {
      const { terms } = this.#policyOf(values[0]!);
      letters.push({ ...terms, index, ordinal, reason: this.reason(values[0]!) });
    });
    return letters;
  }

  /** How a letter with this mark goes on, and why it left. */
  terms(mark: number): LetterPolicy {
    return this.#policyOf(mark).terms;
  }
  reason(mark: number): LetterReason {
    return reasons[mark % reasonsMax]!;
  }

  /** The outbox has one more row, or one less, that was a letter with this mark. */
  retain(mark: number): void {
    this.#policyOf(mark).letters++;
  }
  release(mark: number): void {
    const policy = this.#policyOf(mark);
    policy.letters--;
    this.#forgetUnused(policy);
  }

  /** The oldest letter. There must be one. */
  get index(): number {
    return this.#rows.index;
  }
  get ordinal(): number {
    return this.#rows.ordinal;
  }
  /** Its policy and reason, as one number. */
  get mark(): number {
    return this.#rows.value;
  }

  /** Drops the oldest letter: it is routed. */
  shift(): void {
    const { mark } = this;
    this.#rows.shift();
    this.routed++;
    this.release(mark);
  }

  /** The queue has another policy now, or none, or is gone. */
  retire(policy: Policy): void {
    policy.current = false;
    this.#forgetUnused(policy);
  }

  capture(sections: Sections): void {
    const writer = sections.bytes;
    writer.u64(this.routed);
    writer.u64(this.routedBy);
    writer.u32(this.#nextPolicy);
    const policies = [...this.#policies.values()].sort((a, b) => a.id - b.id);
    writer.u32(policies.length);
    for (const { id, current, terms } of policies) {
      writer.u32(id);
      writer.u8((current ? 1 : 0) | (terms.routingKey === null ? 0 : 2));
      writer.u32(terms.uid);
      writer.text(terms.vhost);
      writer.text(terms.queueName);
      writer.text(terms.exchange);
      writer.text(terms.routingKey ?? '');
    }
    this.#rows.capture(sections);
  }

  /** Only the messages. */
  captureReferences(sections: Sections): void {
    this.#rows.captureReferences(sections);
  }

  /** Of an empty object. Shows each message, and each policy that is its queue's own. */
  *restore(
    reader: ByteReader,
    visit: (index: number, ordinal: number) => void,
    visitCurrent: (policy: Policy) => void,
  ): Steps {
    this.routed = reader.u64();
    this.routedBy = reader.u64();
    this.#nextPolicy = reader.u32();
    for (let count = reader.u32(); count > 0; count--) {
      if (reader.isTired) yield;
      const [id, flags, uid] = [reader.u32(), reader.u8(), reader.u32()];
      const [vhost, queueName, exchange, key] = [reader.text(), reader.text(), reader.text(), reader.text()];
      const routingKey = (flags & 2) === 0 ? null : key;
      const policy = new Policy({ uid, vhost, queueName, exchange, routingKey });
      policy.id = id;
      policy.current = (flags & 1) !== 0;
      this.#policies.set(id, policy);
      if (policy.current) visitCurrent(policy);
    }
    yield* this.#rows.restore(reader, (index, ordinal, values) => {
      this.retain(values[0]!);
      visit(index, ordinal);
    });
  }

  #policyOf(mark: number): Policy {
    return this.#policies.get(Math.floor(mark / reasonsMax))!;
  }

  #forgetUnused(policy: Policy): void {
    if (!policy.current && policy.letters === 0) this.#policies.delete(policy.id);
  }
}
