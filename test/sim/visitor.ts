// A client that does one thing after another on a channel, now and then, and opens the next channel when one has ended.
// State owned: the open channel; whether anything new is begun.

import type { Actor } from './actor.ts';
import type { Session } from './session.ts';
import type { WorkloadContext } from './workload.ts';

export interface VisitorOptions {
  /** Of its name. */
  readonly role: string;
  /** The node that it waits for; default: as for any client. */
  readonly home?: number;
  /** Milliseconds from the end of a channel to the next one. */
  again(): number;
  /** Milliseconds until it acts next. */
  wait(): number;
  /** On each new channel, first of all. */
  prepare?(session: Session): void;
  act(session: Session): void;
}

export class Visitor {
  readonly #context: WorkloadContext;
  readonly #options: VisitorOptions;
  #session: Session | null = null;
  #isPaused = false;

  constructor(context: WorkloadContext, options: VisitorOptions) {
    this.#context = context;
    this.#options = options;
    context.actor(options.role, {
      home: options.home ?? null,
      opened: (actor) => {
        if (!this.#isPaused) this.#begin(actor);
      },
    });
  }

  pause(): void {
    this.#isPaused = true;
  }

  stop(): void {
    this.#session?.close();
  }

  #begin(actor: Actor): void {
    const { again, wait, prepare, act } = this.#options;
    const session = actor.openSession({
      ended: () => {
        if (this.#session === session) this.#session = null;
        actor.after(again(), () => this.#begin(actor));
      },
    });
    this.#session = session;
    prepare?.(session);
    const mayAct = () => session.isOpen && !this.#isPaused;
    this.#context.repeat(
      () => (mayAct() ? wait() : null),
      () => {
        if (!mayAct()) return;
        this.#context.operations++;
        act(session);
      },
    );
  }
}
