// A consumer, as workloads use it: holds what it gets for a moment, settles it one way or another, and now and then loses its channel or its
// connection, by its own doing.

import type { Actor } from './actor.ts';
import type { Received, Session } from './session.ts';
import type { WorkloadContext } from './workload.ts';

export interface ConsumerOptions {
  readonly queue: string;
  /** 0: no limit. */
  readonly prefetch: number;
  readonly noAck?: boolean;
  /** The limit is that of the whole channel. */
  readonly wholeChannel?: boolean;
  /** On each new channel, before it consumes. */
  prepare(session: Session, go: () => void): void;
  /** One of so many deliveries is given up for good; 0: none. */
  readonly discardsOneIn?: number;
  /** Milliseconds that a delivery is held, at most. */
  readonly holdMilliseconds?: number;
  readonly diesOften?: boolean;
  received?(received: Received, session: Session): void;
}

export class Consumer {
  readonly #context: WorkloadContext;
  readonly #options: ConsumerOptions;
  readonly #actor: Actor;
  #session: Session | null = null;
  /** Delivered, and to be settled together: each alone would cost the cluster a whole round. */
  #held: Received[] = [];
  #isPaused = false;

  constructor(context: WorkloadContext, options: ConsumerOptions) {
    this.#context = context;
    this.#options = options;
    this.#actor = context.actor('c', {
      opened: () => this.#begin(),
      lost: () => {
        this.#session = null;
      },
    });
    const every = options.diesOften === true ? 3_000 : 20_000;
    context.repeat(
      () => (this.#isPaused ? null : context.between(500, 2 * every)),
      () => this.#die(),
    );
  }

  pause(): void {
    this.#isPaused = true;
  }

  stop(): void {
    this.#session?.close();
    this.#session = null;
  }

  #begin(): void {
    const { queue, prefetch, noAck = false, wholeChannel = false } = this.#options;
    const session: Session = this.#actor.openSession({
      received: (received) => this.#received(session, received),
      // Its queue is gone: a new channel declares it again.
      cancelled: () => this.#again(session),
      ended: () => this.#again(session),
    });
    this.#session = session;
    this.#held = [];
    this.#options.prepare(session, () => {
      if (this.#session !== session || !session.isOpen) return;
      if (prefetch > 0) session.prefetch(prefetch, wholeChannel);
      session.consume(queue, { noAck, releases: wholeChannel });
    });
  }

  #again(session: Session): void {
    if (this.#session !== session) return;
    session.close();
    this.#session = null;
    this.#actor.after(this.#context.between(20, 300), () => {
      if (this.#session === null && !this.#isPaused) this.#begin();
    });
  }

  #received(session: Session, received: Received): void {
    this.#context.operations++;
    this.#options.received?.(received, session);
    if (this.#options.noAck === true) return;
    if (this.#held.push(received) > 1) return;
    this.#context.world.clock.after(this.#context.between(0, this.#options.holdMilliseconds ?? 100), () => {
      if (this.#session === session) for (const held of this.#held.splice(0)) this.#settle(session, held);
    });
  }

  #settle(session: Session, { deliveryTag, redelivered }: Received): void {
    const context = this.#context;
    const { discardsOneIn = 0 } = this.#options;
    if (discardsOneIn > 0 && context.oneIn(discardsOneIn)) return session.settle(deliveryTag, 'discard');
    // What was given back once is mostly kept, or some messages would go round for ever.
    if (context.oneIn(redelivered ? 60 : 15))
      return session.settle(deliveryTag, context.oneIn(2) ? 'requeue' : 'reject');
    session.settle(deliveryTag, 'ack', context.oneIn(8));
  }

  /** Its channel, or its whole connection, ends with what it holds. */
  #die(): void {
    const session = this.#session;
    if (session === null || this.#isPaused) return;
    if (this.#context.oneIn(2)) this.#again(session);
    else this.#actor.drop();
  }
}
