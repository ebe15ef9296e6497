// What the demo knows of its messages, by their numbers: which are sent, confirmed, received; how long anybody waited. Pure; times are given in.
//
// A message counts once in each sum, however often it is sent or comes. Memory: only what is not confirmed or not received, plus numbers that came before a
// smaller one did.
// Invariant: lost is what was confirmed and has not come; while things go on only what is overdue is called so.

/** Waits shorter than this are no stalls. */
const stallMillisecondsMin = 100;
/** Stalls of several queues that end so close to each other are one, with the longest wait. */
const sameStallMilliseconds = 1000;
const overdueMilliseconds = 30_000;

export interface Stall {
  readonly milliseconds: number;
  readonly endedAt: number;
}

export class Tally {
  readonly queues: number;
  sent = 0;
  confirmed = 0;
  received = 0;
  /** Deliveries of what had come already. */
  repeated = 0;
  lastStall: Stall | null = null;
  longestStallMilliseconds = 0;
  /** Of each queue: when each message without an answer was first sent, oldest first. */
  readonly #waiting: readonly Map<number, number>[];
  /** Of each queue: when the last confirm came. */
  readonly #confirmedAt: number[];
  /** Confirmed and not received, and since when; oldest first. */
  readonly #awaited = new Map<number, number>();
  /** All below have come. */
  #receivedBelow = 0;
  readonly #receivedAbove = new Set<number>();

  constructor(queues: number) {
    this.queues = queues;
    this.#waiting = Array.from({ length: queues }, () => new Map());
    this.#confirmedAt = new Array<number>(queues).fill(0);
  }

  queueOf(message: number): number {
    return message % this.queues;
  }

  /** Returns the number of the new message. */
  send(now: number): number {
    const message = this.sent++;
    this.#waiting[this.queueOf(message)]!.set(message, now);
    return message;
  }

  confirm(message: number, now: number): void {
    const queue = this.queueOf(message);
    const waited = this.#waitOf(queue, now);
    if (!this.#waiting[queue]!.delete(message)) throw new Error(`message ${message} was confirmed before`);
    this.#confirmedAt[queue] = now;
    this.confirmed++;
    if (!this.#hasCome(message)) this.#awaited.set(message, now);
    if (waited >= stallMillisecondsMin) this.#endStall(waited, now);
  }

  receive(message: number): void {
    if (this.#hasCome(message)) {
      this.repeated++;
      return;
    }
    this.received++;
    this.#awaited.delete(message);
    this.#receivedAbove.add(message);
    while (this.#receivedAbove.delete(this.#receivedBelow)) this.#receivedBelow++;
  }

  /** Those without an answer, oldest first in each queue. */
  unconfirmed(): number[] {
    return this.#waiting.flatMap((waiting) => [...waiting.keys()]);
  }

  get unconfirmedCount(): number {
    return this.#waiting.reduce((sum, { size }) => sum + size, 0);
  }

  get awaitedCount(): number {
    return this.#awaited.size;
  }

  /** How long somebody has waited for a confirm now, and for a message that was confirmed. */
  confirmWait(now: number): number {
    return Math.max(...this.#waiting.map((_, queue) => this.#waitOf(queue, now)));
  }
  receiveWait(now: number): number {
    const [oldest] = this.#awaited.values();
    return oldest === undefined ? 0 : now - oldest;
  }

  overdue(now: number): number {
    let count = 0;
    for (const confirmedAt of this.#awaited.values()) {
      if (now - confirmedAt < overdueMilliseconds) break;
      count++;
    }
    return count;
  }

  #waitOf(queue: number, now: number): number {
    const [oldest] = this.#waiting[queue]!.values();
    return oldest === undefined ? 0 : now - Math.max(oldest, this.#confirmedAt[queue]!);
  }

  #endStall(milliseconds: number, now: number): void {
    const last = this.lastStall;
    const isSame = last !== null && now - last.endedAt < sameStallMilliseconds;
    this.lastStall = { milliseconds: isSame ? Math.max(milliseconds, last.milliseconds) : milliseconds, endedAt: now };
    this.longestStallMilliseconds = Math.max(this.longestStallMilliseconds, milliseconds);
  }

  #hasCome(message: number): boolean {
    return message < this.#receivedBelow || this.#receivedAbove.has(message);
  }
}
