// How fast learners are sent what they lack, so that whoever publishes meanwhile keeps most of the disk and of the network.
//
// A learner may be sent as many bytes as its group writes anew, and so many per second on top: it always comes nearer, however much is
// written. Whoever sends asks `run`; what has to wait runs in a later tick, in order. Debt is paid off before the next one runs, so one large
// piece delays others and is never refused.
//
// State owned: per group and learner the bytes that it may be sent now, and what waits. Others are never held back.

export interface PaceContext {
  /** Beyond what the group itself writes. */
  readonly bytesPerSecond: number;
  readonly tickMilliseconds: number;
  /** All bytes that this node ever wrote of a group; only grows. */
  writtenBytes(group: number): number;
}

interface Learner {
  readonly group: number;
  allowance: number;
  written: number;
  /** One is being sent: what that sets off waits behind it. */
  isSending: boolean;
  /** Each sends something, and says how many bytes. */
  readonly waiting: (() => number)[];
}

export class Pace {
  readonly #context: PaceContext;
  readonly #learners = new Map<string, Learner>();

  constructor(context: PaceContext) {
    this.#context = context;
  }

  /** The nodes that learn from this group's leader here: all of them. */
  set(group: number, nodes: readonly number[]): void {
    for (const [key, learner] of this.#learners) {
      if (learner.group !== group || nodes.some((node) => keyOf(group, node) === key)) continue;
      this.#learners.delete(key);
      for (const send of learner.waiting) send();
    }
    for (const node of nodes) {
      const key = keyOf(group, node);
      if (this.#learners.has(key)) continue;
      const written = this.#context.writtenBytes(group);
      this.#learners.set(key, { group, allowance: this.#perTick, written, isSending: false, waiting: [] });
    }
  }

  isPaced(group: number, node: number): boolean {
    return this.#learners.size > 0 && this.#learners.has(keyOf(group, node));
  }

  /** Runs `send` now, or when that learner may have more. It answers how many bytes it sent. */
  run(group: number, node: number, send: () => number): void {
    const learner = this.#learners.get(keyOf(group, node));
    if (learner === undefined) {
      send();
      return;
    }
    learner.waiting.push(send);
    sendWaiting(learner);
  }

  /** More was sent than `run` was told of. */
  spent(group: number, node: number, bytes: number): void {
    const learner = this.#learners.get(keyOf(group, node));
    if (learner !== undefined) learner.allowance -= bytes;
  }

  tick(): void {
    for (const learner of this.#learners.values()) {
      const written = this.#context.writtenBytes(learner.group);
      const more = this.#perTick + Math.max(0, written - learner.written);
      learner.written = written;
      // What was not used is not saved up: an idle moment makes no burst.
      learner.allowance = Math.min(learner.allowance + more, more);
      sendWaiting(learner);
    }
  }

  get #perTick(): number {
    const { bytesPerSecond, tickMilliseconds } = this.#context;
    return (bytesPerSecond * tickMilliseconds) / 1000;
  }
}

/** As much as is allowed now, in order. */
function sendWaiting(learner: Learner): void {
  if (learner.isSending) return;
  learner.isSending = true;
  while (learner.allowance > 0) {
    const send = learner.waiting.shift();
    if (send === undefined) break;
    const bytes = send();
    learner.allowance -= bytes;
  }
  learner.isSending = false;
}

const keyOf = (group: number, node: number): string => `${group}/${node}`;
