// Clients that hear what one of them was answered, and act on it at once: through every node it is to be true by then.
// State owned: the channels that listen, and the number of the last message that they were told to publish.

import { messageId } from './bodies.ts';
import { toQueue } from './publisher.ts';
import type { Session } from './session.ts';
import type { WorkloadContext } from './workload.ts';

export class Listeners {
  readonly #context: WorkloadContext;
  readonly #publisherOf: (session: Session) => string;
  readonly #sessions = new Set<Session>();
  #published = 0;

  /** `publisherOf`: whose name the messages of a session bear. */
  constructor(context: WorkloadContext, publisherOf: (session: Session) => string) {
    this.#context = context;
    this.#publisherOf = publisherOf;
  }

  add(session: Session): void {
    this.#sessions.add(session);
  }

  /** The queue is there: the others look at it, or publish to it. */
  declared(from: Session, queue: string): void {
    this.#tell(from, (session) => this.#use(session, queue));
  }

  /** The queue is gone: the others look for it. */
  deleted(from: Session, queue: string): void {
    this.#tell(from, (session) => session.check(queue));
  }

  /** All but the one who knows already. */
  #tell(from: Session, act: (session: Session) => void): void {
    for (const session of this.#sessions) {
      if (!session.isOpen) this.#sessions.delete(session);
      else if (session !== from)
        this.#context.world.clock.after(this.#context.between(0, 2), () => {
          if (session.isOpen) act(session);
        });
    }
  }

  #use(session: Session, queue: string): void {
    if (this.#context.oneIn(4)) return session.check(queue);
    const id = messageId(this.#publisherOf(session), ++this.#published, this.#context.between(40, 100));
    session.publish(id, '', queue, toQueue(queue).targets, { mandatory: true });
  }
}
