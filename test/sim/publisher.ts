// A publisher with confirms, as workloads use it: sends in bursts while few answers are missing, and after a failure either sends again what got
// no answer, under the same id, or leaves it alone.

import type { Target } from '../history.ts';
import type { Actor } from './actor.ts';
import { messageId } from './bodies.ts';
import type { Session } from './session.ts';
import type { WorkloadContext } from './workload.ts';

export interface Letter {
  readonly exchange: string;
  readonly routingKey: string;
  readonly targets: readonly Target[];
  readonly mandatory?: boolean;
  readonly expiration?: number | null;
}

export const toQueue = (queue: string): Letter => ({
  exchange: '',
  routingKey: queue,
  targets: [{ queue, binding: null }],
});

export interface PublisherOptions {
  /** On each new channel, before anything is sent; `go` begins the sending. */
  prepare(session: Session, go: () => void): void;
  /** Where the next message goes; null: nowhere now. */
  next(): Letter | null;
  /** Mean milliseconds between two bursts. */
  readonly everyMilliseconds?: number;
  readonly burstMax?: number;
  /** Body bytes of the next message. Default: mostly some hundred. */
  bytes?(): number;
  readonly confirms?: boolean;
}

const windowMax = 40;

export class Publisher {
  readonly #context: WorkloadContext;
  readonly #options: PublisherOptions;
  readonly #actor: Actor;
  readonly #retries: boolean;
  /** Without an answer, to be sent again. */
  readonly #again = new Map<string, Letter>();
  readonly #underway = new Map<string, Letter>();
  #session: Session | null = null;
  #sequence = 0;
  #isPaused = false;

  constructor(context: WorkloadContext, options: PublisherOptions) {
    this.#context = context;
    this.#options = options;
    this.#retries = context.oneIn(2);
    this.#actor = context.actor('p', { opened: () => this.#begin(), lost: () => this.#lost() });
  }

  get isIdle(): boolean {
    return this.#session === null || this.#session.unconfirmed === 0;
  }

  pause(): void {
    this.#isPaused = true;
  }

  stop(): void {
    this.#session?.close();
    this.#session = null;
  }

  #lost(): void {
    this.#session = null;
  }

  #begin(): void {
    const session: Session = this.#actor.openSession({
      settled: (id, ok) => this.#settled(id, ok),
      ended: () => {
        if (this.#session !== session) return;
        this.#session = null;
        // The channel failed, its connection may live on.
        this.#actor.after(this.#context.between(20, 200), () => {
          if (!this.#isPaused && this.#session === null) this.#begin();
        });
      },
    });
    this.#session = session;
    if (this.#options.confirms ?? true) session.select();
    this.#options.prepare(session, () => {
      const { everyMilliseconds = 1_000 } = this.#options;
      const wait = () => {
        if (this.#session !== session || this.#isPaused) return null;
        // Now and then a burst follows upon a burst, and now and then nothing comes for long.
        if (this.#context.oneIn(12)) return this.#context.between(0, 2);
        return this.#context.between(1, (this.#context.oneIn(12) ? 20 : 1) * everyMilliseconds);
      };
      this.#context.repeat(wait, () => this.#burst(session));
    });
  }

  #burst(session: Session): void {
    if (this.#session !== session || this.#isPaused) return;
    for (let left = this.#context.between(1, this.#options.burstMax ?? 10); left > 0; left--) {
      if (session.unconfirmed >= windowMax || this.#actor.isBlocked || !session.isOpen) return;
      const [again] = this.#again;
      if (again !== undefined) {
        this.#again.delete(again[0]);
        this.#send(session, ...again);
        continue;
      }
      const letter = this.#options.next();
      if (letter === null) continue;
      this.#send(session, messageId(this.#actor.name, ++this.#sequence, this.#bytes()), letter);
    }
  }

  #send(session: Session, id: string, letter: Letter): void {
    this.#context.operations++;
    this.#underway.set(id, letter);
    session.publish(id, letter.exchange, letter.routingKey, letter.targets, letter);
  }

  #settled(id: string, ok: boolean | null): void {
    const letter = this.#underway.get(id)!;
    this.#underway.delete(id);
    if (ok !== true && this.#retries && !this.#isPaused) this.#again.set(id, letter);
  }

  #bytes(): number {
    if (this.#options.bytes !== undefined) return this.#options.bytes();
    if (this.#context.oneIn(60)) return 20_000;
    return this.#context.between(40, 400);
  }
}
